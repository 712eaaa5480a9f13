"""One structured line a request on standard error, among the operator's few sentences (`operator_log.py`).

The line is an allow-list: a field that is not in `Line` cannot be logged. No body, no key, no prompt.
"""

import asyncio
import traceback
from typing import BinaryIO

from msgspec import UNSET, Struct, UnsetType, to_builtins

from gateway.errors import INTERNAL
from gateway.observability import clock
from gateway.observability.operator_log import OperatorLog, colored, printable
from gateway.observability.record import Door, RequestRecord
from gateway.observability.telemetry import Telemetry
from translators.core.errors import Failure


class Line(Struct, frozen=True, omit_defaults=True):
    """Durations are milliseconds."""

    time: str
    request: str
    method: str
    path: str
    operation: str
    status: int
    outcome: str
    duration_ms: float
    first_byte_ms: float | UnsetType = UNSET
    upstream_ms: float | UnsetType = UNSET
    door: Door = "openai"
    model: str = ""
    caller: str = ""
    team: str = ""
    streamed: bool = False
    error: str = ""
    fault: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    cost_nanodollars: int | None = 0
    notes: int = 0
    retries: int = 0
    upstream: str = ""
    cache: str = ""
    cohere_trace: str = ""
    trace: str = ""


LONGEST_NAME = 100
"""Characters of a model's name that are logged: a caller may write anything there."""

FLUSH_SECONDS = 0.05
"""Lines are written together this often: a write for each would cost as much as making the line."""


class Log(OperatorLog):
    """Adds the lines of requests, unless `requests` is False."""

    def __init__(self, requests: bool = True, out: BinaryIO | None = None, console: bool = False) -> None:
        super().__init__(out, console)
        self._requests = requests
        self.telemetry: Telemetry | None = None

    def request(self, record: RequestRecord, now: float) -> None:
        """Logs a finished request. Its line is written a moment later, with those that come meanwhile."""
        if not self._requests and self.telemetry is None:
            return
        line = Line(
            clock.timestamp(),
            record.request_id,
            record.method,
            # Of what the caller wrote nothing reaches a terminal unchecked: escape sequences there can do more than
            # print.
            printable(record.path),
            record.operation,
            record.status,
            record.outcome,
            clock.milliseconds(now - record.started),
            clock.milliseconds(record.first_byte - record.started) if record.first_byte else UNSET,
            clock.milliseconds(record.upstream_ended - record.upstream_began) if record.upstream_ended else UNSET,
            record.door,
            printable(record.model[:LONGEST_NAME]),
            record.principal.name,
            record.principal.team.team_alias or record.principal.team.team_id if record.principal.team else "",
            record.streamed,
            record.error,
            record.fault or "",
            record.prompt_tokens,
            record.completion_tokens,
            record.estimated,
            record.cost_nanodollars,
            len(record.notes),
            record.retries,
            record.attempts[-1].upstream or "" if record.attempts else "",
            record.cache,
            printable(record.trace_id),
            record.trace,
        )
        # Also where the log is off: the exporter has a switch of its own.
        if self.telemetry is not None:
            self.telemetry.line(record, to_builtins(line))
        if self._requests:
            # The first line of a group sets the timer, so an idle gateway has none.
            if not self._lines:
                asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
            self._lines.append(console_line(line, self.colored) if self.console else self._encode(line))

    def message(self, text: str) -> None:
        super().message(text)
        if self.telemetry is not None:
            self.telemetry.message(text)

    def failure(self, request_id: str, error: Exception, reported: Failure) -> None:
        """Logs a failure that the operator must mend: a bug of ours, or a Cohere key that is refused.

        Nothing of the caller's words is in it: a traceback has the code's lines only.
        """
        if reported is INTERNAL:
            # Not `format_exception`: an exception's message may quote the caller's words.
            where = "".join(traceback.format_tb(error.__traceback__))
            self.message(f"request {request_id} failed: {type(error).__name__}\n{where}")
        elif reported.alert_operator:
            self.message(f"request {request_id}: Cohere refused the gateway's own key ({reported.code})")


NANO = 1_000_000_000


def console_line(line: Line, colors: bool) -> bytes:
    """Returns a request's line for people. colors: for a terminal, the status by its hundred."""
    status = str(line.status) if not colors else colored(str(line.status), "green" if line.outcome == "ok" else "red")
    # The time of day alone: whoever watches a terminal knows the date.
    parts = [line.time[11:23], status, f"{line.method} {line.path}", f"{line.duration_ms:.0f} ms"]
    if line.model:
        parts.append(line.model)
    if line.prompt_tokens or line.completion_tokens:
        parts.append(f"{line.prompt_tokens} in, {line.completion_tokens} out")
    if line.cost_nanodollars:
        parts.append(f"${line.cost_nanodollars / NANO:.6f}")
    if line.caller:
        parts.append(line.caller)
    if line.cache:
        parts.append(f"cache {line.cache}")
    if line.retries:
        parts.append(f"{line.retries} retries")
    if line.notes:
        parts.append(f"{line.notes} notes")
    if line.outcome != "ok":
        parts.append(" ".join(filter(None, (line.outcome if not line.error else "", line.error, line.fault))))
    parts.append(line.request)
    return "  ".join(parts).encode()
