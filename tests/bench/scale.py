"""`make bench-scale`: many at once, into docs/benchmarks.md: added latency, slow streams, new connections, workers.

    python tests/bench/scale.py                  everything, about five minutes
    python tests/bench/scale.py --part latency   one part; may be repeated
    python tests/bench/scale.py --print          the tables only; the document stays as it is

The stand-in for Cohere and the callers run in this process. For events it notes when it sends each of them, and the
callers when they have it. What is shown as added is the difference to the same callers at the stand-in itself, since
this process takes its time, too. On two processors one is the gateway's and one is everybody else's, so throughput of
two workers says nothing here: what two workers can do is computed from the CPU time of a call, and from how evenly
the calls are spread.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import math
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests/, as pytest and mypy have it

from bench import bench, calls, load, peers, samples, upstream
from bench.processes import Server, cpu_by_process, free_port

BEGIN, END = "<!-- measured: make bench-scale -->", "<!-- end of what was measured at scale -->"
CONCURRENCY = (1, 32, 256)
CONNECTIONS = 5_000
ROUNDS = 5
SERVERS = ("uvicorn", "hypercorn")
MANY = {"GATEWAY_CONCURRENCY_MAX_IN_FLIGHT": "4000", "GATEWAY_CONCURRENCY_QUEUE_SIZE": "8000"}
"""One worker serves a thousand calls at one time by default, and lets a thousand wait."""

_NUMBER = re.compile(rb"number=(\d{12})")


@dataclass(frozen=True)
class Crowd:
    """Slow streams that are open at one time. They begin evenly over so many seconds, and then stay for HELD_SECONDS.

    pace_ms: between two events of each.
    """

    count: int
    pace_ms: int
    begin_seconds: float

    @property
    def events(self) -> int:
        """Returns the events of each stream, so that the first one has not ended when the last one begins."""
        return math.ceil((self.begin_seconds + HELD_SECONDS) * 1_000 / self.pace_ms)


HELD_SECONDS = 3.0
STEADY = (Crowd(500, 200, 5.0), Crowd(2_000, 500, 20.0))
"""A hundred begin in a second, so that with the events of the others a worker has about half of its time left. Streams
that begin one by one wait for nothing but their own way.
"""
SUDDEN = (Crowd(500, 200, 0.5), Crowd(2_000, 500, 2.0))
"""A thousand begin in a second, more than a worker can begin: they wait for each other."""


class TimedUpstream(upstream.UpstreamSession):
    """The stand-in for Cohere that notes when it sends each event of a paced stream."""

    send_times: dict[tuple[bytes, int], float] = {}
    identity = b""

    def answer(self, request: bytes) -> None:
        number = _NUMBER.search(request)
        self.identity = number[1] if number else b""
        super().answer(request)

    def step(self, chunks: list[bytes], position: int, when: float, pace: float) -> None:
        self.send_times[self.identity, position] = perf_counter()
        super().step(chunks, position, when, pace)


@dataclass
class Times:
    """Seconds that were measured. first: to the first byte of an answer; events: from the stand-in to the caller."""

    first: list[float] = field(default_factory=list)
    events: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class StreamCaller(asyncio.Protocol):
    """One connection that asks for one stream."""

    def __init__(self, target: Target, crowd: Crowd, number: bytes, times: Times) -> None:
        self._request, self._mark = target.request(crowd, number), target.mark
        self._number, self._times, self._events = number, times, crowd.events
        self._seen, self._tail, self._request_time = 0, b"", 0.0
        self.done = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def ask(self) -> None:
        self._request_time = perf_counter()
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = perf_counter()
        if self._request_time:
            self._times.first.append(now - self._request_time)
            self._request_time = 0.0
        data = self._tail + data
        for _ in range(data.count(self._mark)):
            self._seen += 1
            send_time = TimedUpstream.send_times.get((self._number, self._seen))
            if send_time is not None:
                self._times.events.append(now - send_time)
        self._tail = data[-len(self._mark) + 1 :]
        if data.endswith(b"\r\n0\r\n\r\n"):
            self._finish("" if self._seen == self._events else f"{self._seen} of {self._events} events")

    def connection_lost(self, error: Exception | None) -> None:
        self._finish("the connection was lost")

    def _finish(self, failure: str) -> None:
        if not self.done.done():
            self.done.set_result(None)
            if failure:
                self._times.failed.append(failure)


@dataclass(frozen=True)
class Target:
    """What callers ask: the gateway, or the stand-in itself."""

    port: int
    native: bool

    def request(self, crowd: Crowd, number: bytes) -> bytes:
        events, pace_ms = crowd.events, crowd.pace_ms
        case = load.Case("stream", "stream", 1, deltas=events, pace_ms=pace_ms)
        if self.native:
            body, path = samples.cohere_request(stream=True, deltas=events, pace_ms=pace_ms), "/v2/chat"
        else:
            body, path = case.body(events, pace_ms), case.path
        head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\ncontent-type: application/json\r\n"
        head += f"authorization: Bearer bench\r\ncontent-length: {len(body)}\r\n\r\n"
        return head.encode() + body.replace(b"%012d" % 0, number)

    @property
    def mark(self) -> bytes:
        """What each event has, and nothing else of a stream."""
        return b'"type":"content-delta"' if self.native else b'{"delta":{"content":"'


def _itself(caller: StreamCaller) -> StreamCaller:
    return caller


async def streams(
    target: Target, crowd: Crowd, numbers: Iterator[int], all_open: Callable[[], None] = lambda: None
) -> Times:
    """Opens the streams of a crowd, and reads them to their end. numbers: that nobody else has. all_open: is called
    while they are all under way.
    """
    times, loop, callers = Times(), asyncio.get_running_loop(), []
    for number in itertools.islice(numbers, crowd.count):
        caller = StreamCaller(target, crowd, b"%012d" % number, times)
        await loop.create_connection(partial(_itself, caller), "127.0.0.1", target.port)
        callers.append(caller)
    for index, caller in enumerate(callers):
        loop.call_later(index * crowd.begin_seconds / crowd.count, caller.ask)
    loop.call_later(crowd.begin_seconds + HELD_SECONDS / 2, all_open)
    await asyncio.gather(*(caller.done for caller in callers))
    for caller in callers:
        caller.transport.close()
    return times


class ConnectionCaller(asyncio.Protocol):
    """One new connection that asks for one whole answer."""

    def __init__(self, request: bytes) -> None:
        self._request, self._answer = request, b""
        self.done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, separator, body = self._answer.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if separator and len(body) >= int(length) and not self.done.done():
            self.done.set_result(head.split(b" ", 2)[1].decode())
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result("lost")


async def new_connections(port: int, count: int) -> dict[str, int]:
    """Opens so many connections at one time, each with one request. Returns what became of how many."""
    case = load.Case("whole", "whole chat", 1)
    loop = asyncio.get_running_loop()

    async def one(number: int) -> str:
        request = (b"%012d" % number).join(load.split_request(port, case, 0, 0))
        try:
            _, caller = await loop.create_connection(lambda: ConnectionCaller(request), "127.0.0.1", port)
        except OSError:
            return "refused"
        return await caller.done

    outcomes = await asyncio.gather(*(one(10**9 + number) for number in range(count)))
    return {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}


# The parts ------------------------------------------------------------------------------------------------------
def start_gateway(cohere: int, server: str, **settings: str) -> Server:
    """Starts this checkout with one worker, unless settings say otherwise."""
    home = Path(tempfile.mkdtemp(prefix="bench-scale-"))
    port = free_port()
    command, env, _ = peers.gateway(server, **MANY, **settings)(home, port, cohere)
    started = Server(server, port, command, home, bench.clean_environment() | env | {"HOME": str(home)})
    started.wait_ready()
    return started


def milliseconds(values: Sequence[float], base: Sequence[float] = ()) -> str:
    """Returns p50 and p99, each less that of the base."""
    cells = []
    for share in (0.5, 0.99):
        value = bench.at(sorted(values), share) - (bench.at(sorted(base), share) if base else 0.0)
        cells.append(f"{value * 1_000:.2f}")
    return " / ".join(cells)


async def latency(seconds: float) -> list[str]:
    """What a whole chat waits for the gateway, beside the stand-in itself."""
    lines = ["Whole chat, added latency in ms, p50 / p99, and calls a second:", ""]
    lines += [peers.row(["", *(f"c={count}" for count in CONCURRENCY)]), peers.row(["---"] * (len(CONCURRENCY) + 1))]
    async with stand_in() as cohere:
        for server in SERVERS:
            gateway = await asyncio.to_thread(start_gateway, cohere, server)
            cells = []
            try:
                for count in CONCURRENCY:
                    native = load.Case("native", "native", count, native=True, at="/v2/chat")
                    direct = await load.burst(cohere, native, seconds / 2, lambda: None)
                    through = await load.burst(gateway.port, load.Case("chat", "chat", count), seconds, lambda: None)
                    rate = through.requests / through.seconds
                    cells.append(f"{milliseconds(through.latencies, direct.latencies)}, {rate:.0f}/s")
            finally:
                await asyncio.to_thread(gateway.stop)
            lines.append(peers.row([server, *cells]))
    return lines


async def slow_streams(seconds: float) -> list[str]:
    """What an event of a slow stream waits, and what a stream keeps; and, apart from that, what a burst waits."""
    titles = [f"{one.count:,} streams, an event each {one.pace_ms} ms" for one in STEADY]
    pace = f"{STEADY[0].count / STEADY[0].begin_seconds:.0f} begin in a second"
    steady = [f"Slow streams of which {pace}, added ms, p50 / p99:", "", peers.row(["", *titles])]
    titles = [f"{one.count:,} that begin within {one.begin_seconds:g} s" for one in SUDDEN]
    sudden = ["", "A burst of the same streams, which wait for each other, added ms, p50 / p99:", ""]
    sudden.append(peers.row(["", *titles]))
    numbers = itertools.count(1)
    async with stand_in() as cohere:
        native = Target(cohere, native=True)
        direct = {crowd: await streams(native, crowd, numbers) for crowd in (*STEADY, *SUDDEN)}
        for lines, crowds in ((steady, STEADY), (sudden, SUDDEN)):
            lines.append(peers.row(["---"] * (len(crowds) + 1)))
            for server in SERVERS:
                cells = [await _stream_cell(cohere, server, crowd, direct[crowd], numbers) for crowd in crowds]
                lines.append(peers.row([server, *cells]))
    return [*steady, *sudden]


async def _stream_cell(cohere: int, server: str, crowd: Crowd, direct: Times, numbers: Iterator[int]) -> str:
    """Returns what the streams of a crowd waited for a gateway that serves nobody else."""
    gateway = await asyncio.to_thread(start_gateway, cohere, server)
    try:
        await load.burst(gateway.port, load.Case("chat", "chat", 32), 1.0, lambda: None)
        before, peak = gateway.rss(), [0.0]
        through = await streams(Target(gateway.port, native=False), crowd, numbers, sample(peak, gateway))
    finally:
        await asyncio.to_thread(gateway.stop)
    cells = [
        f"first byte {milliseconds(through.first, direct.first)}",
        f"event {milliseconds(through.events, direct.events)}",
        f"{(peak[0] - before) * 1_024 / crowd.count:.0f} KiB a stream",
        f"{len(through.failed) or 'none'} failed",
    ]
    return "; ".join(cells if crowd in STEADY else [*cells[:2], cells[3]])


def sample(peak: list[float], gateway: Server) -> Callable[[], None]:
    """Returns what notes the memory of a server at the moment of its call, in megabytes."""

    def look() -> None:
        peak[0] = gateway.rss()

    return look


async def burst_of_connections(seconds: float) -> list[str]:
    """What becomes of thousands of new connections at one time."""
    lines = [f"{CONNECTIONS:,} new connections at one time, one whole chat each:", ""]
    lines += [peers.row(["", "answers by status", "seconds until all had theirs"]), peers.row(["---"] * 3)]
    async with stand_in() as cohere:
        for server in SERVERS:
            gateway = await asyncio.to_thread(start_gateway, cohere, server)
            try:
                began = perf_counter()
                outcomes = await new_connections(gateway.port, CONNECTIONS)
                took = perf_counter() - began
            finally:
                await asyncio.to_thread(gateway.stop)
            answers = ", ".join(f"{outcome}: {number:,}" for outcome, number in outcomes.items())
            lines.append(peers.row([server, answers, f"{took:.1f}"]))
    return lines


async def workers(seconds: float) -> list[str]:
    """What a second worker adds, by the CPU time of calls and by how evenly they are spread."""
    lines = ["Two workers beside one, whole chat, c=64, medians of bursts in turns:", ""]
    head = ["", "CPU of a call with one, µs", "with two, µs", "share of the busier worker", "what two can do"]
    head += ["memory of one worker, MB", "its own part, MB"]
    lines += [peers.row(head), peers.row(["---"] * len(head))]
    async with stand_in() as cohere:
        for server in SERVERS:
            gateways = [await asyncio.to_thread(start_gateway, cohere, server, GATEWAY_WORKERS=str(n)) for n in (1, 2)]
            costs: list[list[float]] = [[], []]
            shares = []
            try:
                for _ in range(ROUNDS + 1):
                    for gateway, spent in zip(gateways, costs, strict=True):
                        cost, share = await worker_burst(gateway, seconds / 2)
                        spent.append(cost)
                        if gateway is gateways[1]:
                            shares.append(share)
                resident, own = worker_memory(gateways[1].worker())
            finally:
                for gateway in gateways:
                    await asyncio.to_thread(gateway.stop)
            one, two, share = median(costs[0][1:]), median(costs[1][1:]), median(shares[1:])
            gain = median(a / b / c for a, b, c in zip(costs[0][1:], costs[1][1:], shares[1:], strict=True))
            cells = [f"{one:.0f}", f"{two:.0f}", f"{share:.0%}", f"{gain:.2f} times one"]
            lines.append(peers.row([server, *cells, f"{resident:.0f}", f"{own:.0f}"]))
    return lines


async def worker_burst(gateway: Server, seconds: float) -> tuple[float, float]:
    """Returns the CPU microseconds of a call, and the share of the worker that did most. Connections are new."""
    before = cpu_by_process(gateway.process.pid)
    result = await load.burst(gateway.port, load.Case("chat", "chat", 64), seconds, lambda: None)
    await asyncio.sleep(1.0)  # until the ledger has its rows
    after = cpu_by_process(gateway.process.pid)
    used = [after[pid] - before.get(pid, 0.0) for pid in after]
    return sum(used) / (result.requests + 64) * 1e6, max(used) / sum(used)


SHARES = (
    ("translation", ("translators/", "schemas/")),
    ("the call to Cohere: keys, retries, breakers, connections", ("gateway/upstream/",)),
    ("headers, bodies, errors, the caller's leaving", ("gateway/http/", "gateway/endpoints/", "gateway/errors.py")),
    ("the server: connections, heads, responses", ("gateway/server/", "gateway/descriptors.py")),
    ("the way through: admission, cache, responses", ("gateway/pipeline/", "gateway/memory_budget.py")),
    ("record, metrics, log", ("gateway/observability/",)),
    ("who is calling, and what they may", ("gateway/auth/", "gateway/virtual_keys/")),
    ("limits, budgets, ledger", ("gateway/limits/", "gateway/ledger/", "gateway/store/")),
)
"""What a whole call does, and where: how the paths begin."""


async def shares(seconds: float) -> list[str]:
    """What a whole call is made of. Counted are the interpreter's instructions in this project's code."""
    names = ("whole chat", calls.WITH_KEY)
    counts = [await asyncio.to_thread(calls.counts_of, name) for name in names]
    lines = ["What a whole call is made of, in the interpreter's instructions of this project's code:", ""]
    lines += [peers.row(["", *names]), peers.row(["---"] * 3)]
    for title, paths in SHARES:
        sums = [sum(n for (path, _), n in one.items() if path.startswith(paths)) for one in counts]
        cells = [f"{n:,} ({n / one.total():.0%})" for n, one in zip(sums, counts, strict=True)]
        lines.append(peers.row([title, *cells]))
    lines.append(peers.row(["all", *(f"{one.total():,}" for one in counts)]))
    return lines


def worker_memory(pid: int) -> tuple[float, float]:
    """Returns the resident megabytes of a process, and those that no other process shares."""
    sizes: dict[str, float] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        sizes[name] = float(value.split()[0]) / 1_024
    return sizes["Rss"], sizes["Private_Clean"] + sizes["Private_Dirty"]


@contextmanager
def many_descriptors() -> Iterator[None]:
    """Lets this process, and those it starts, open as many files as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def stand_in() -> AsyncIterator[int]:
    """Runs the stand-in for Cohere in this process. Gives its port."""
    server = await asyncio.get_running_loop().create_server(TimedUpstream, "127.0.0.1", 0, backlog=4096)
    yield server.sockets[0].getsockname()[1]
    server.close()
    TimedUpstream.send_times.clear()


PARTS = {
    "shares": shares,
    "latency": latency,
    "streams": slow_streams,
    "connections": burst_of_connections,
    "workers": workers,
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Many at once, into docs/benchmarks.md.")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a burst")
    parser.add_argument("--print", action="store_true", help="print the tables, and leave the document as it is")
    wanted = parser.parse_args()
    load_before, began = os.getloadavg()[0], time.monotonic()
    blocks = [f"On {peers.machine()}; load average before {load_before:.1f}."]
    with many_descriptors():
        for name in wanted.part or PARTS:
            blocks.append("\n".join(asyncio.run(PARTS[name](wanted.seconds))))
            print(blocks[-1], flush=True)
    text = "\n\n".join(blocks)
    print(f"\n{blocks[0]} {time.monotonic() - began:.0f} s.")
    if not wanted.print:
        document = peers.DOCUMENT.read_text(encoding="utf-8")
        before, after = document.partition(BEGIN)[0], document.partition(END)[2]
        peers.DOCUMENT.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
