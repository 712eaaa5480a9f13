"""What callers did, for tests that must prove something about the other side of the wire.

`Journal.records` keeps the last thousand requests; `GET /emulator/log` shows them. Times are
`time.monotonic()`, which processes on one machine share.
"""

from __future__ import annotations

import time
from collections import deque

import msgspec

LONGEST = 1_000


class Record(msgspec.Struct, kw_only=True):
    """One request, filled in while it runs. `closed_at` None: it is still running."""

    method: str
    path: str
    model: str | None = None
    stream: bool = False
    fault: str | None = None
    received: int = 0  # bytes of the request's body that have come so far
    status: int | None = None
    finished: bool = False  # the last byte was sent
    closed_by_caller: bool = False
    opened_at: float = 0.0
    closed_at: float | None = None


class Journal:
    """The records, oldest first."""

    def __init__(self) -> None:
        self.records: deque[Record] = deque(maxlen=LONGEST)

    def open(self, method: str, path: str) -> Record:
        """A new record, listed at once."""
        record = Record(method=method, path=path, opened_at=time.monotonic())
        self.records.append(record)
        return record

    def close(self, record: Record) -> None:
        """The request is over, one way or the other."""
        record.closed_at = time.monotonic()
