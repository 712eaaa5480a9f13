"""What retries, pool, breakers and places cost when nothing is wrong: CPU per call, without sockets.

The same calls go through the bare session and through what the routes use; the session answers at once, from memory,
so that the difference is the layer's own. The target is stated in the report.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from time import process_time_ns
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests/, as pytest and mypy have it
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from multidict import CIMultiDict

from bench.translation import spread
from gateway.auth import credentials
from gateway.auth.principal import Principal
from gateway.observability.access_log import Log
from gateway.observability.alerts import Alerts
from gateway.observability.metrics import Metrics
from gateway.observability.upstream_events import UpstreamEvents
from gateway.settings.schema import Settings, UpstreamSettings
from gateway.upstream.attempts import CallOptions
from gateway.upstream.client import UpstreamClient
from gateway.upstream.response import UpstreamResponse
from gateway.upstream.session import UpstreamSession

TARGET = 15.0
LOOPS = 3_000
MODEL = "command-a-03-2025"
BODY = b'{"model":"command-a-03-2025"}'
SERVER = Principal("anonymous", "open", False, credentials.store(["key"]))
OWN = Principal("own key", "key:1", True, credentials.store(["key"]))

Work = Callable[[], Awaitable[object]]


class Content:
    """A body that is all there."""

    def is_eof(self) -> bool:
        return True

    at_eof = is_eof

    def read_nowait(self) -> bytes:
        return BODY

    async def read(self) -> bytes:
        return BODY


class Response:
    """As much of aiohttp's as a Reply looks at."""

    status = 200
    headers = CIMultiDict({"content-type": "application/json", "x-debug-trace-id": "0a252d83437b08065c3a12e52de770c4"})
    content = Content()

    def release(self) -> None:
        return


class Session(UpstreamSession):
    """The bare session with an answer at hand."""

    async def open(self, *requested: Any) -> UpstreamResponse:
        return UpstreamResponse(Response(), 1e9, 120.0)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Case:
    title: str
    keys: int
    caller: Principal
    streamed: bool


CASES = (
    Case("whole, one key", 1, SERVER, False),
    Case("whole, a pool of eight keys", 8, SERVER, False),
    Case("whole, the caller's own key", 0, OWN, False),
    Case("streamed, one key", 1, SERVER, True),
)


def bare(case: Case) -> Work:
    """A call as it was before there was anything around the session."""
    settings = Settings()
    session = Session(settings.cohere_base_url, settings.timeouts, UpstreamSettings())

    async def work() -> object:
        reply = await session.open("POST", "/v2/chat", BODY, case.streamed, "key")
        try:
            return await (reply.read_chunk() if case.streamed else reply.read_body())
        finally:
            reply.close()

    return work


def resilient(case: Case) -> Work:
    """The same call as the routes make it."""
    settings = Settings()
    keys = [f"key-{number}" for number in range(case.keys)]
    upstream = UpstreamClient(
        settings, keys, UpstreamEvents(Metrics(lambda model: True, ()), Log(False), Alerts("", "", print))
    )
    upstream._session = Session(settings.cohere_base_url, settings.timeouts, settings.upstream)

    async def work() -> object:
        async with upstream.post("/v2/chat", case.caller, BODY, case.streamed, CallOptions(MODEL)) as reply:
            return await (reply.read_chunk() if case.streamed else reply.read_body())

    return work


async def timed(work: Work) -> float:
    """CPU microseconds per call."""
    started = process_time_ns()
    for _ in range(LOOPS):
        await work()
    return (process_time_ns() - started) / LOOPS / 1000


async def measured(case: Case, rounds: int) -> tuple[list[float], list[float]]:
    """Both sides, which take turns."""
    sides = bare(case), resilient(case)
    result: tuple[list[float], list[float]] = [], []
    for work in sides:
        await timed(work)
    for number in range(rounds):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            result[side].append(await timed(sides[side]))
    return result


def report(rounds: int = 9) -> str:
    """The table."""
    head = f"{'retries, pool, breakers and places, CPU us per call':<52}{'bare session':<20}{'with them':<20}"
    lines = [f"{head}{'added':<22}target: at most {TARGET:.0f}"]
    for case in CASES:
        without, with_them = asyncio.run(measured(case, rounds))
        added = [more - less for less, more in zip(without, with_them, strict=True)]
        verdict = "within the target" if max(added) <= TARGET else "OVER the target" if min(added) > TARGET else "both"
        lines.append(
            f"{case.title:<52}{spread(without, 2):<20}{spread(with_them, 2):<20}{spread(added, 2):<22}{verdict}"
        )
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="The cost of the layer around the session to Cohere.")
    parser.add_argument("--rounds", type=int, default=9)
    print(report(parser.parse_args().rounds))


if __name__ == "__main__":
    main()
