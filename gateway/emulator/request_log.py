"""A log of the requests that clients made, for tests that must prove what reached the upstream.

`RequestLog.records` keeps the last thousand; `GET /emulator/log` shows them. Times are `time.monotonic()`, which the
processes of one machine share.
"""

from __future__ import annotations

import time
from collections import deque

import msgspec

MAX_RECORDS = 1_000


class LoggedRequest(msgspec.Struct, kw_only=True):
    """One request, filled in while it runs. `closed_at` is None until it ends."""

    method: str
    path: str
    model: str | None = None
    stream: bool = False
    fault: str | None = None
    received: int = 0  # bytes of the request body that have arrived so far
    status: int | None = None
    finished: bool = False  # the last byte of the response was sent
    closed_by_caller: bool = False
    opened_at: float = 0.0
    closed_at: float | None = None


class RequestLog:
    """The logged requests, oldest first."""

    def __init__(self) -> None:
        self.records: deque[LoggedRequest] = deque(maxlen=MAX_RECORDS)

    def open(self, method: str, path: str) -> LoggedRequest:
        """Adds a record for a request that begins."""
        record = LoggedRequest(method=method, path=path, opened_at=time.monotonic())
        self.records.append(record)
        return record

    def close(self, record: LoggedRequest) -> None:
        """Notes that the request has ended, one way or the other."""
        record.closed_at = time.monotonic()
