"""Where every request begins and ends: nobody else opens a record, closes it, counts it or logs it.

HTTP requests, WebSockets, the messages on a WebSocket and background responses all pass here. Finished records go to a
`RecordSink`, the ledger.
"""

import asyncio
import copy
import os
import re
import time
from collections.abc import Awaitable, Mapping
from random import Random, SystemRandom
from typing import Protocol

from msgspec.structs import replace

from gateway.auth.principal import KeyRefused
from gateway.errors import CallerLeft, failure_of
from gateway.memory_budget import MemoryBudget
from gateway.observability.access_log import Log
from gateway.observability.bodies import BodyCollector
from gateway.observability.call_controls import CallControls
from gateway.observability.metrics import Metrics
from gateway.observability.record import RequestRecord
from gateway.observability.telemetry import Telemetry
from gateway.settings.schema import LedgerSettings
from translators.core.errors import Failure
from translators.core.faults import Fault

CLIENT_CLOSED = 499
"""The status that nginx logs for a caller who left. Nobody receives it."""

_LONGEST_PATH = 200
"""Characters of a path that are logged."""

_SECRET = re.compile(r"sk-[^/]+|(?<=/key/)[^/]+(?=/regenerate)")
"""The part of a path that is the secret of a key, or may be one."""

# Seeded once by the system in each process, so no two count alike.
_random = Random(SystemRandom().getrandbits(256))
# A fork has its parent's state, and would give the same ids.
os.register_at_fork(after_in_child=lambda: _random.seed(SystemRandom().getrandbits(256)))


def new_id() -> str:
    """Returns 24 hex digits that no two requests share. Not a secret: asking the system each time would cost more."""
    return f"{_random.getrandbits(96):024x}"


def new_row_id() -> str:
    """Returns 24 hex digits that no two rows share: milliseconds since 1970 and chance, so that rows sort by time."""
    # `began_of` in `store/ledger.py` reads the time out of it.
    return f"{time.time_ns() // 1_000_000:012x}{_random.getrandbits(48):012x}"


class RecordSink(Protocol):
    """Takes the records of finished requests. Returns at once and raises nothing.

    sync: an answer's last byte waits for its record to be stored.
    """

    @property
    def sync(self) -> bool: ...

    def record(self, record: RequestRecord, now: float) -> Awaitable[bool] | None:
        """Takes a record, which nobody changes any more. Returns what the answer's last byte waits for, if anything.

        For a response in the background it tells when the row is stored, and whether it is. now: when the request
        ended, in monotonic seconds.
        """
        ...

    def row_in_advance(self, record: RequestRecord) -> bytes:
        """Returns the row of a call, for the case that this process does not live to write it."""
        ...


def _loggable(path: str) -> str:
    """Returns a path as it is logged: not too long, and with the secret of a key cut out."""
    if "sk-" in path or path.startswith("/key/"):
        # LiteLLM's API has secrets in paths (`/key/{key}/regenerate`), and paths are logged.
        path = _SECRET.sub("sk-...", path)
    return path[:_LONGEST_PATH]


class Lifecycle:
    """Opens and closes request records."""

    def __init__(
        self,
        metrics: Metrics,
        log: Log,
        memory: MemoryBudget,
        sink: RecordSink | None = None,
        telemetry: Telemetry | None = None,
        bodies: BodyCollector | None = None,
    ) -> None:
        self._metrics, self._log, self._memory, self._sink = metrics, log, memory, sink
        self._telemetry, self.bodies = telemetry, bodies or BodyCollector(LedgerSettings())

    def take_bodies(self, record: RequestRecord) -> None:
        """Begins to take the bodies of a call for the ledger, where policy says so. Its caller is known."""
        if self.bodies.enabled and record.has_row and record.door != "management":
            record.bodies = self.bodies.begin(record.principal, record.headers)

    def begin(self, request_id: str, method: str, path: str, headers: Mapping[bytes, bytes]) -> RequestRecord:
        """Opens the record of a request, which counts as being served from now on."""
        # Paired with `finish`, and with nothing else; a begin without a finish would count for ever.
        self._metrics.in_flight.added += 1
        # Monotonic, since the wall clock may be set back while a request runs.
        began, memory = time.monotonic(), self._memory.request()
        record = RequestRecord(request_id, method, _loggable(path), began, headers, memory=memory, id=new_row_id())
        if self._telemetry is not None:
            self._telemetry.begin(record)
        return record

    def begin_connection(
        self, request_id: str, method: str, path: str, headers: Mapping[bytes, bytes]
    ) -> RequestRecord:
        """Opens the record of a WebSocket. One that is opened has no row in the ledger: its messages have theirs."""
        # It does not count as being served: its messages do.
        record = RequestRecord(
            request_id,
            method,
            _loggable(path),
            time.monotonic(),
            headers,
            memory=self._memory.request(),
            connection=True,
            id=new_row_id(),
            door="websocket",
        )
        if self._telemetry is not None:
            self._telemetry.begin(record)
        return record

    def begin_message(self, connection: RequestRecord, number: int, operation: str) -> RequestRecord:
        """Opens the record of a message on a WebSocket; `number` counts them from 1."""
        record = self.begin(f"{connection.request_id}.{number}", connection.method, connection.path, connection.headers)
        record.operation = operation
        record.identify(connection.principal)
        record.door, record.address = "websocket", connection.address
        record.end_user, record.tags, record.metadata = connection.end_user, connection.tags, connection.metadata
        record.controls = self._controls(record, connection)
        record.bodies = self.bodies.begin(record.principal, record.headers)
        return record

    def begin_background(self, request: RequestRecord, operation: str) -> RequestRecord:
        """Opens the record of a background response beside that of the request which asked for it.

        The ledger has one row for both: that of the response.
        """
        # Apart from `in_flight`: no caller waits for it.
        self._metrics.runs.inc()
        request.has_row = False
        record = RequestRecord(
            request.request_id,
            request.method,
            request.path,
            time.monotonic(),
            request.headers,
            memory=self._memory.request(),
            operation=operation,
            background=True,
            # The same id, as there is one row for both.
            id=request.id,
            address=request.address,
            cohere_method=request.cohere_method,
            requested_model=request.requested_model,
            bytes_received=request.bytes_received,
            end_user=request.end_user,
            tags=request.tags,
            metadata=request.metadata,
            bodies=request.bodies,
        )
        request.bodies = None  # what follows is not the response that the row is about
        record.identify(request.principal)
        if self._telemetry is not None:
            self._telemetry.begin(record)
        # After the span was begun, whose headers they have.
        record.controls = self._controls(record, request)
        return record

    def row_in_advance(self, request: RequestRecord, operation: str, failure: Failure) -> bytes | None:
        """Returns the row of a background response that ends as this failure, because its process is gone.

        None without a ledger. request: which asked for it. What it costs is not known.
        """
        if self._sink is None:
            return None
        # A copy that nobody finishes: the request itself goes on.
        record = copy.copy(request)
        record.operation, record.background = operation, True
        record.status, record.outcome, record.cost_nanodollars = failure.status, "error", None
        record.fail(failure)
        return self._sink.row_in_advance(record)

    def row_of_end(self, record: RequestRecord, failure: Failure | None) -> bytes | None:
        """Returns the row of a background response that ends now; None without a ledger.

        failure: in which its stream ended. What such a stream costs is not known yet.
        """
        record.ended = time.time()
        if self._sink is None:
            return None
        # A copy: the record is closed when the response is stored.
        ended = copy.copy(record)
        if failure is not None:
            ended.fail(failure)
            ended.cost_nanodollars = None
        ended.end_background()
        return self._sink.row_in_advance(ended)

    @staticmethod
    def _controls(record: RequestRecord, origin: RequestRecord) -> CallControls:
        """Returns the controls of the request that a record comes from, with the record's own trace."""
        if record.trace_headers == origin.controls.headers:
            return origin.controls
        return replace(origin.controls, headers=record.trace_headers)

    def fail(self, record: RequestRecord, error: BaseException) -> Failure | None:
        """Records how a request failed. Returns what its caller is told, or None where nobody is left to be told."""
        if isinstance(error, CallerLeft):
            # Not an error: the outcome tells it apart from what failed.
            record.status, record.outcome, record.fault = CLIENT_CLOSED, "client_closed", Fault.CALLER_LEFT
            return None
        record.outcome = "error"
        if not isinstance(error, Exception):
            assert isinstance(error, asyncio.CancelledError), "only a shutdown ends a request from outside"
            record.error, record.fault = "shutdown", Fault.GATEWAY_SHUTDOWN
            # A status that was sent stays.
            record.status = record.status or 503
            return None
        failure = failure_of(error)
        if isinstance(error, KeyRefused):
            record.refused_key, record.reason = error.refused, record.reason or error.refused.why
        record.fail(failure)
        self._log.failure(record.request_id, error, failure)
        return failure

    @property
    def holds_last_byte(self) -> bool:
        """The last byte of an answer is sent when its record is finished, and what `finish` returned was awaited."""
        return self._sink is not None and self._sink.sync

    def finish(self, record: RequestRecord) -> Awaitable[bool] | None:
        """Closes a record: counts the request, writes its line, and gives it to the ledger."""
        # First, so that the memory is free even if one of what follows should raise.
        record.memory.close()
        if not record.outcome:
            record.outcome = "error" if record.error or record.status >= 400 else "ok"
        if record.outcome == "error" and record.fault is None:
            record.fault = Fault.GATEWAY_INTERNAL  # who failed without a word is taken for a bug of ours
        if record.background:
            self._metrics.runs.dec()
        elif not record.connection:
            self._metrics.in_flight.added -= 1
        now = time.monotonic()
        self._metrics.served(record, now)
        # One moment for all three: the durations in the line, the metrics and the row are equal.
        self._log.request(record, now)
        if self._telemetry is not None:
            self._telemetry.finish(record, now)
        if self._sink is not None and record.has_row:
            return self._sink.record(record, now)
        if record.bodies is not None:
            # They were taken while it was open whether there would be a row.
            record.bodies.discard()
        return None
