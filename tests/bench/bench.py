"""`make bench`: what a request and a stream event cost here, as a ratio to the bare relay (relay.py).

Machines drift by more than what we want to see, so absolute figures are for orientation and the ratio is
the result: short bursts take turns within one run, each cycle pairs a burst on the relay with the burst on
the gateway next to it (the order alternates), and a case's ratio is the median over the cycles. Cost is CPU
time of the server's process tree, which other programs disturb far less than they disturb latency.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import comb
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests/, as pytest and mypy have it

from bench import load, samples, translation
from bench.processes import Server, ServerFailed, free_port
from bench.translation import spread

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Work that a server puts off (a ledger written in groups, connections closed) is counted if it is done by
# then; what comes later is printed as "between the bursts".
SETTLE_SECONDS = 0.1

CASES = (
    load.Case("chat-c1", "chat, whole, c=1", 1),
    load.Case("chat-c32", "chat, whole, c=32", 32),
    load.Case("history-c32", "chat, whole, 200 KB of history, c=32", 32, history_kb=200),
    load.Case("stream-c32", "chat, 100 deltas at once, c=32", 32, deltas=100),
    load.Case("native-c32", "native chat, whole, c=32", 32, native=True),
    load.Case("native-stream-c32", "native, 100 deltas at once, c=32", 32, deltas=100, native=True, target=1.1),
    load.Case("native-slow-c50", "native, a delta per 20 ms, c=50", 50, deltas=40, pace_ms=20, native=True, target=1.1),
    load.Case("slow-c50", "chat, a delta per 20 ms, c=50", 50, deltas=40, pace_ms=20),
    load.Case("embed-base64", "96 x 1,024 embeddings, base64, c=4", 4, inputs=96, target=1.15),
    load.Case("embed-float", "96 x 1,024 embeddings, float, c=4", 4, inputs=96, encoding="float", target=1.15),
    load.Case("embed-2048", "2,048 x 1,024 embeddings, base64, c=1", 1, inputs=2_048, target=1.15),
)

_CHAT = load.Case("chat", "chat", 32, deltas=100)
_SLOW_CHAT = load.Case("slow-chat", "chat", 50, deltas=40, pace_ms=20)
PAIRS = (
    (
        load.Case("responses-c32", "Responses, 100 deltas at once, c=32", 32, 100, responses=True, target=1.3),
        _CHAT,
    ),
    (
        load.Case("responses-slow-c50", "Responses, a delta per 20 ms, c=50", 50, 40, 20, responses=True, target=1.3),
        _SLOW_CHAT,
    ),
    (
        load.Case("stored-c32", "Responses stored, 100 deltas, c=32", 32, 100, responses=True, store=True),
        load.Case("not-stored", "not stored", 32, 100, responses=True),
    ),
)
"""What the gateway is compared with itself in: a case, and what its cost refers to."""


@dataclass
class Side:
    """One of the two that are compared."""

    server: Server
    bursts: dict[str, list[Burst]] = field(default_factory=dict)
    cpu_seen: float | None = None
    between: float = 0.0


@dataclass
class Burst:
    """What one burst cost and brought."""

    cpu: float
    result: load.Result

    def per(self, units: int) -> float:
        """CPU microseconds per request, or per event of a request."""
        return self.cpu * 1e6 / self.result.requests / units


def start_upstream(log: Path) -> Server:
    """The stand-in for Cohere."""
    port = free_port()
    command = [sys.executable, str(HERE / "upstream.py"), "--port", str(port)]
    return Server("the upstream stand-in", port, command, log, os.environ)


def start_relay(upstream: Server, home: Path) -> Server:
    """The reference."""
    port = free_port()
    url = f"http://127.0.0.1:{upstream.port}"
    command = [sys.executable, str(HERE / "relay.py"), "--port", str(port), "--upstream", url]
    return Server("the bare relay", port, command, home, clean_environment())


def start_gateway(upstream: Server, home: Path, custom: str | None) -> Server:
    """This project, or what --gateway-command names, with nothing but the necessary settings."""
    port = free_port()
    url = f"http://127.0.0.1:{upstream.port}"
    env = clean_environment() | {"COHERE_API_KEY": samples.COHERE_KEY, "COHERE_BASE_URL": url}
    if custom is not None:
        positions = {"{python}": sys.executable, "{port}": str(port), "{upstream}": url}
        command = shlex.split(custom)
        for position, value in positions.items():
            command = [word.replace(position, value) for word in command]
        return Server("the gateway", port, command, Path.cwd(), env)
    # This checkout's code, whatever is installed; run elsewhere, so that no gateway.toml and no ledger of the
    # developer's takes part.
    env |= {"PYTHONPATH": str(ROOT), "HOME": str(home)}
    command = [sys.executable, "-m", "gateway", "serve", "--host", "127.0.0.1", "--port", str(port)]
    return Server("the gateway", port, command, home, env)


def clean_environment() -> dict[str, str]:
    """The environment without the developer's own settings of gateways and of Cohere."""
    ours = ("GATEWAY_", "COHERE_", "CO_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def run_burst(side: Side, case: load.Case, seconds: float) -> Burst:
    """One burst on one server; connecting and warming up are not counted."""
    server = side.server
    before = server.cpu()
    if side.cpu_seen is not None:
        side.between += before - side.cpu_seen

    def ready() -> None:
        nonlocal before
        before = server.cpu()

    result = asyncio.run(load.burst(server.port, case, seconds, ready))
    time.sleep(SETTLE_SECONDS)
    side.cpu_seen = server.cpu()
    return Burst(side.cpu_seen - before, result)


def run_cycles(sides: Sequence[Side], cases: Sequence[load.Case], cycles: int, seconds: float) -> None:
    """A B, B A, A B ... for each case; the first burst of each, shorter, only warms up."""
    for case in cases:
        for side in sides:
            try:
                load.verify(side.server.port, case)
                run_burst(side, case, seconds / 3)
            except load.WrongAnswer as wrong:
                raise load.WrongAnswer(f"{side.server.name}, {case.title}: {wrong}") from wrong
            side.between = 0.0
    for cycle in range(cycles):
        for case in cases:
            for side in sides if cycle % 2 == 0 else list(reversed(sides)):
                side.bursts.setdefault(case.name, []).append(run_burst(side, case, seconds))
        progress(f"cycle {cycle + 1} of {cycles}")


def run_pairs(side: Side, pairs: Sequence[tuple[load.Case, load.Case]], cycles: int, seconds: float) -> None:
    """As `run_cycles`, of two cases on the one server."""
    for pair in pairs:
        for case in pair:
            load.verify(side.server.port, case)
            run_burst(side, case, seconds / 3)
    for cycle in range(cycles):
        for pair in pairs:
            for case in pair if cycle % 2 == 0 else reversed(pair):
                side.bursts.setdefault(f"{pair[0].name} {case.name}", []).append(run_burst(side, case, seconds))
        progress(f"cycle {cycle + 1} of {cycles}, the gateway by itself")


def pair_table(side: Side, pairs: Sequence[tuple[load.Case, load.Case]]) -> list[str]:
    """What one way through the gateway costs beside another."""
    lines = [f"{'CPU per event, gateway against itself':<46}{'us':<26}{'reference, us':<26}{'paired ratio':<20}"]
    for case, reference in pairs:
        mine, other = (
            [burst.per(one.deltas) for burst in side.bursts[f"{case.name} {one.name}"]] for one in (case, reference)
        )
        ratios = [a / b for a, b in zip(mine, other, strict=True)]
        title = f"{case.title} / {reference.title}"
        lines.append(
            f"{title:<46}{spread(mine, 1):<26}{spread(other, 1):<26}{spread(ratios, 2):<20}"
            + (verdict(ratios, case.target) if case.target != 1.25 else "")
        )
    return lines


def progress(text: str) -> None:
    """A line that is overwritten, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r{text:<30}", end="", file=sys.stderr, flush=True)


# The report -------------------------------------------------------------------------------------------------
def cost_table(sides: Sequence[Side], cases: Sequence[load.Case]) -> list[str]:
    """The result: CPU per request and per event, and the paired ratio."""
    heading = f"{'CPU per ...':<46}" + "".join(f"{side.server.name + ', us':<26}" for side in sides)
    if len(sides) == 2:
        heading += f"{'paired ratio':<20}{'likely':<12}target"
    lines = [heading.rstrip()]
    for case in cases:
        units = [("stream", 1, 0), ("event", case.deltas, 1)] if case.stream else [("request", 1, 0)]
        for unit, count, digits in units:
            costs = [[burst.per(count) for burst in side.bursts[case.name]] for side in sides]
            cells = "".join(f"{spread(cost, digits):<26}" for cost in costs)
            line = f"{unit + ' | ' + case.title:<46}{cells}"
            if len(costs) == 2 and count == 1:  # the ratio per event is the same
                ratios = [mine / bare for bare, mine in zip(*costs, strict=True)]
                line += f"{spread(ratios, 2):<20}{verdict(ratios, case.target)}"
            lines.append(line.rstrip())
    return lines


def verdict(ratios: Sequence[float], target: float) -> str:
    """Where the true median lies nine times out of ten (sign test), and what that says about the target."""
    ranked = sorted(ratios)
    count = len(ranked)
    outside = 0  # so many from either end can be left out
    while sum(comb(count, heads) for heads in range(outside + 1)) / 2**count <= 0.05:
        outside += 1
    if outside == 0:
        return "too few cycles"
    low, high = ranked[outside - 1], ranked[-outside]
    finding = "within" if high <= target else "OVER" if low > target else "undecided"
    return f"{f'{low:.2f}-{high:.2f}':<12}{target}: {finding}"


def orientation(sides: Sequence[Side], cases: Sequence[load.Case]) -> list[str]:
    """Throughput and latency; they depend on the machine and on what else runs there."""
    lines = []
    for case in cases:
        for side in sides:
            results = [burst.result for burst in side.bursts[case.name]]
            latencies = sorted(latency * 1000 for result in results for latency in result.latencies)
            rate = median(result.requests / result.seconds for result in results)
            line = f"{case.title + ', ' + side.server.name:<58}"
            if case.stream:
                line += f"{rate:>7.0f} streams/s {rate * case.deltas:>7.0f} events/s"
            else:
                line += f"{rate:>7.0f} requests/s" + " " * 15
            if not case.pace_ms:
                line += f"   p50 {at(latencies, 0.5):.2f} ms, p99 {at(latencies, 0.99):.2f} ms"
            if reconnects := sum(result.reconnects for result in results):
                line += f"   {reconnects} reconnects"
            lines.append(line)
    return lines


def at(values: Sequence[float], share: float) -> float:
    """A percentile of sorted values."""
    return values[min(len(values) - 1, int(len(values) * share))]


def report(sides: Sequence[Side], cases: Sequence[load.Case], idle: Sequence[float], upstream: float) -> None:
    """Everything, on standard output."""
    everything = [burst for side in sides for bursts in side.bursts.values() for burst in bursts]
    per_request = upstream * 1e6 / sum(burst.result.requests for burst in everything)
    print("\n".join(cost_table(sides, cases)))
    print("\nmemory, resident MB (after start -> after the load):")
    for side, before in zip(sides, idle, strict=True):
        print(f"  {side.server.name}: {before:.0f} -> {side.server.rss():.0f}")
    print("CPU while idle between the bursts (work put off, timers), not counted above:")
    for side in sides:
        print(f"  {side.server.name}: {side.between:.2f} s of {side.server.cpu():.1f} s in all")
    print(f"the upstream stand-in used {per_request:.0f} us per request, which is in no figure above")
    print("\nfor orientation only:")
    print("\n".join(orientation(sides, cases)))


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="CPU per request and per stream event of the gateway, as a ratio to the bare relay.",
        epilog="example: bench.py --case chat-c32 --cycles 20",
    )
    names = [case.name for case in CASES] + [case.name for case, _ in PAIRS]
    parser.add_argument("--cycles", type=int, help="bursts per case and server (default 14; 5 with --quick)")
    parser.add_argument("--seconds", type=float, help="length of a burst (default 0.4)")
    parser.add_argument("--case", action="append", choices=names, help="only this case; may be repeated")
    parser.add_argument("--quick", action="store_true", help="a look in half a minute, for large effects only")
    parser.add_argument("--no-translation", action="store_true", help="leave out the part without a server")
    parser.add_argument(
        "--gateway-command",
        metavar="COMMAND",
        help="measure another server as the gateway; {python}, {port} and {upstream} are filled in",
    )
    return parser.parse_args()


def compare(requested: argparse.Namespace, home: Path) -> None:
    """Start the servers, measure, report, stop them."""
    cases = [case for case in CASES if requested.case is None or case.name in requested.case]
    cycles = requested.cycles or (5 if requested.quick else 14)
    seconds = requested.seconds or 0.4
    running: list[Server] = []
    try:
        upstream = start_upstream(home)
        running.append(upstream)
        upstream.wait_ready()
        reference = start_relay(upstream, home)
        running.append(reference)
        reference.wait_ready()
        sides = [Side(reference)]
        try:
            gateway = start_gateway(upstream, home, requested.gateway_command)
            running.append(gateway)
            gateway.wait_ready()
            sides.append(Side(gateway))
        except ServerFailed as failure:
            print(f"no gateway, so only the bare relay is measured: {failure}\n", flush=True)
        idle = [side.server.rss() for side in sides]
        used = upstream.cpu()
        run_cycles(sides, cases, cycles, seconds)
        pairs = [pair for pair in PAIRS if requested.case is None or pair[0].name in requested.case]
        if len(sides) == 2 and pairs:
            run_pairs(sides[1], pairs, cycles, seconds)
        progress("")
        print(f"{cycles} cycles, bursts of {seconds} s; median [min-max] over the cycles")
        if cases:
            report(sides, cases, idle, upstream.cpu() - used)
        if len(sides) == 2 and pairs:
            print("\n" + "\n".join(pair_table(sides[1], pairs)))
    finally:
        for server in reversed(running):
            server.stop()


def main() -> int:
    """The command."""
    request = options()
    python = f"{platform.python_implementation()} {platform.python_version()}"
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    print(f"{python}, {machine}, load {os.getloadavg()[0]:.1f}", flush=True)
    try:
        with tempfile.TemporaryDirectory() as home:
            compare(request, Path(home))
    except (ServerFailed, load.WrongAnswer, OSError) as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 1
    if not request.no_translation:
        print("\n" + translation.report())
        from bench import resilience  # late: what is against a running server works without this project

        print("\n" + resilience.report())
        from bench import keys

        print("\n" + "\n".join(keys.measure().lines()))
        from bench import limits

        print("\n" + limits.report())
    return 0


if __name__ == "__main__":
    sys.exit(main())
