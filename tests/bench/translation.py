"""What translation alone costs, without sockets and servers: this project's translators and the bare relay's.

A whole request is both ways: the caller's request into Cohere's, and Cohere's answer into the caller's. A
stream is measured with one event per read (a model that is writing) and with all its events in one read (a
burst).
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import process_time_ns
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests/, as pytest and mypy have it

from bench import relay, samples

DELTAS = 100
REQUEST = samples.openai_request(stream=False)
STREAM_REQUEST = samples.openai_request(stream=True, deltas=DELTAS)
ANSWER = samples.cohere_answer()
EVENTS = samples.cohere_events(DELTAS)
ONE_READ = [b"".join(EVENTS)]

Work = Callable[[], object]


# The bare relay's translation -------------------------------------------------------------------------------
def relay_whole() -> Work:
    """Request and answer."""

    def work() -> object:
        request = relay.decode_request(REQUEST)
        return relay.cohere_request(request), relay.completion(request, ANSWER)

    return work


def relay_stream(reads: list[bytes]) -> Work:
    """Request and stream."""

    def work() -> object:
        requested = relay.decode_request(STREAM_REQUEST)
        request = relay.cohere_request(requested)
        chunks = relay.ChunkStream(requested)
        return request, [chunks.feed(data) for data in reads]

    return work


# This project's translation ---------------------------------------------------------------------------------
# Imported late: the benchmarks against a running server must work without it. These three know the API.
def project(module: str) -> Any:
    """A module of this checkout."""
    root = str(Path(__file__).resolve().parents[2])
    if root not in sys.path:
        sys.path.insert(0, root)
    return importlib.import_module(module)


def project_request(body: bytes) -> Callable[[], Any]:
    """What translates this request."""
    chat = project("translators.operations.chat")
    contracts = project("translators.core.contracts")
    context = contracts.Context(contracts.ResponseIdentity(1_700_000_000, "0" * 32))
    return lambda: chat.request(body, context)


def project_whole() -> Work:
    """Request and answer."""
    request = project_request(REQUEST)

    def work() -> object:
        call = request()
        return call.bodies, call.translate_response([ANSWER]).body

    expect(work(), samples.ANSWER_TEXT[:20])
    return work


def project_stream(reads: list[bytes]) -> Work:
    """Request and stream, with the framing that the gateway does around the translator."""
    request = project_request(STREAM_REQUEST)
    sse = project("gateway.http.sse")

    def work() -> object:
        call = request()
        decoder = sse.Decoder()
        stream = call.stream()
        sent_body = []
        for block in reads:
            documents: list[bytes] = []
            for data in decoder.feed(block):
                documents += stream.feed(data)
            sent_body.append(sse.encode(documents))
        return call.bodies, sent_body

    expect(work(), '"finish_reason":"stop"')
    return work


def expect(done: object, sign: str) -> None:
    """Work that does not translate is not worth timing."""
    if sign not in str(done):
        raise ValueError(f"the translation came out wrong: {str(done)[-300:]}")


@dataclass(frozen=True)
class Case:
    """One line of the table: the same work done by both, and what it is counted in."""

    title: str
    unit: str
    units: int
    relay: Callable[[], Work]
    project: Callable[[], Work]


CASES = (
    Case("whole request and answer", "request", 1, relay_whole, project_whole),
    Case(
        f"stream of {DELTAS} deltas, an event per read", "event", DELTAS,
        lambda: relay_stream(EVENTS), lambda: project_stream(EVENTS),
    ),
    Case(
        f"stream of {DELTAS} deltas in one read", "event", DELTAS,
        lambda: relay_stream(ONE_READ), lambda: project_stream(ONE_READ),
    ),
)  # fmt: skip


def measure(sides: list[Work], rounds: int) -> list[list[float]]:
    """CPU microseconds per call, for each side in each round; the sides take turns, in alternating order."""
    loops = [_calibrate(work) for work in sides]
    results: list[list[float]] = [[] for _ in sides]
    for number in range(rounds):
        order = range(len(sides)) if number % 2 == 0 else reversed(range(len(sides)))
        for side in order:
            results[side].append(_time(sides[side], loops[side]))
    return results


def _calibrate(work: Work) -> int:
    """So many calls that they take about 30 ms."""
    work()
    return max(1, round(30_000 / max(_time(work, 20), 0.1)))


def _time(work: Work, loops: int) -> float:
    started = process_time_ns()
    for _ in range(loops):
        work()
    return (process_time_ns() - started) / loops / 1000


def spread(values: list[float], digits: int) -> str:
    """median [min-max]"""
    return f"{median(values):.{digits}f} [{min(values):.{digits}f}-{max(values):.{digits}f}]"


def report(rounds: int = 9) -> str:
    """The table."""
    lines = [f"{'translation alone, CPU us per ...':<52}{'bare relay':<20}{'project':<20}paired ratio"]
    missing: Exception | None = None
    for case in CASES:
        sides = [case.relay()]
        try:
            sides.append(case.project())
        except Exception as error:  # whatever it is, it must not stop the other benchmarks
            missing = error
        results = [[value / case.units for value in values] for values in measure(sides, rounds)]
        line = f"{case.unit + ' | ' + case.title:<52}{spread(results[0], 2):<20}"
        if len(results) == 2:
            ratios = [mine / bare for bare, mine in zip(*results, strict=True)]
            line += f"{spread(results[1], 2):<20}{spread(ratios, 2)}"
        lines.append(line.rstrip())
    if missing is not None:
        lines.append(f"this project's translators were skipped: {type(missing).__name__}: {missing}")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="The cost of translation, without a server.")
    parser.add_argument("--rounds", type=int, default=9)
    print(report(parser.parse_args().rounds))


if __name__ == "__main__":
    main()
