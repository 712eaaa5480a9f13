"""How many calls a second a fleet can make on one Redis, and on a Redis Cluster: a simulation with measured costs.

    python tests/bench/fleet.py [--replicas 100] [--seconds 3]

First the scripts run in a real Redis of this program's own, which counts the CPU time that each of them takes. Then
replicas make calls at random moments; Redis serves scripts one after the other, each for as long as was measured. An
admission waits for its scripts, settlements go in groups that nobody waits for, as in `shared_counters.py`. What comes
out: how busy the busiest node is, how long admissions wait, and how many calls a second make a node as busy as it may
be. The network is a constant; nothing fails here.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import itertools
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests/, as pytest and mypy have it

from gateway.store.counters import Counter, Reservation, Settlement, Unit
from gateway.store.redis_counters import RedisCounters
from support.redis_server import RedisProcess
from support.spent_budgets import NothingSpent

ROUND_TRIP = 0.0005
"""Seconds between a gateway and Redis, there and back, in one data centre."""

CALL_SECONDS = 0.5
"""How long a call to Cohere takes on average."""

WARM_UP = 1.0
"""Seconds that are not counted: settlements begin when the first calls have ended."""

BUSY = 0.7
"""How busy a node may be: beyond that, queues grow faster than calls."""

SUBJECTS: Mapping[str, Sequence[Unit]] = {
    "key": ("requests", "tokens", "parallel", "money"),
    "team": ("requests", "tokens", "money"),
    "gateway": ("requests", "tokens", "parallel", "money"),
}
"""What is limited, as in `tests/bench/limits.py`."""


class Costs(Struct):
    """CPU seconds of Redis. admission, settlement: of a script, by the number of its counters, and of one more."""

    admission: tuple[float, float]
    settlement: tuple[float, float]

    def of(self, kind: tuple[float, float], counters: int) -> float:
        return kind[0] + kind[1] * counters


class Setup(Struct):
    """A way to spread the work. nodes: of the cluster, 1 for one Redis. subjects: that have limits."""

    nodes: int
    subjects: tuple[str, ...]

    def scripts(self, key: int) -> list[tuple[int, int]]:
        """Returns the node and the number of counters of each script that a call of this key needs."""
        sizes = {subject: len(SUBJECTS[subject]) for subject in self.subjects}
        if self.nodes == 1:
            return [(0, sum(sizes.values()))]
        names = {"key": f"key:{key}", "team": f"team:{key // 10}", "gateway": "gateway"}
        return [(node_of(names[subject], self.nodes), size) for subject, size in sizes.items()]

    def settlements(self, keys: Sequence[int]) -> list[tuple[int, int]]:
        """Returns the same of the scripts that settle a group of calls.

        On one Redis a group is one script; in a cluster each subject of the group has one.
        """
        rows: dict[tuple[int, str], int] = {}
        for key in keys:
            for number, (node, size) in enumerate(self.scripts(key)):
                name = "" if self.nodes == 1 else f"{number}:{key}" if number == 0 else f"{number}"
                rows[node, name] = rows.get((node, name), 0) + size
        return [(node, size) for (node, _), size in rows.items()]


class Result(Struct):
    """What a simulation saw. busy: of the busiest node, as a share. waits: seconds of all admissions, sorted."""

    busy: float
    waits: list[float]

    def percentile(self, share: float) -> float:
        return self.waits[min(int(len(self.waits) * share), len(self.waits) - 1)]


def node_of(subject: str, nodes: int) -> int:
    """Returns where a subject's counters are: any hash spreads them as a cluster's does."""
    return random.Random(subject).randrange(nodes)


def simulate(setup: Setup, costs: Costs, calls_a_second: float, replicas: int, seconds: float) -> Result:
    """Returns what happens when so many replicas together make so many calls a second."""
    chance = random.Random(1)
    free_at, worked = [0.0] * setup.nodes, [0.0] * setup.nodes
    waits: list[float] = []
    pending: list[list[int]] = [[] for _ in range(replicas)]
    sending = [False] * replicas
    order = itertools.count()
    events: list[tuple[float, int, str, int, int]] = []
    at = 0.0
    while (at := at + chance.expovariate(calls_a_second)) < seconds:
        events.append((at, next(order), "call", chance.randrange(replicas), chance.randrange(10_000)))
    heapq.heapify(events)

    def serve(now: float, node: int, work: float) -> float:
        """Returns when the answer is back."""
        began = max(now + ROUND_TRIP / 2, free_at[node])
        free_at[node] = began + work
        if WARM_UP <= began < seconds:
            worked[node] += work
        return began + work + ROUND_TRIP / 2

    def send(now: float, replica: int) -> None:
        group, pending[replica] = pending[replica], []
        sending[replica] = True
        back = [serve(now, node, costs.of(costs.settlement, size)) for node, size in setup.settlements(group)]
        heapq.heappush(events, (max(back), next(order), "settled", replica, 0))

    while events:
        now, _, kind, replica, key = heapq.heappop(events)
        if kind == "call":
            done = max(serve(now, node, costs.of(costs.admission, size)) for node, size in setup.scripts(key))
            if now >= WARM_UP:
                waits.append(done - now)
            heapq.heappush(events, (done + chance.expovariate(1 / CALL_SECONDS), next(order), "ended", replica, key))
        elif kind == "ended":
            pending[replica].append(key)
            if not sending[replica]:
                send(now, replica)
        else:
            sending[replica] = False
            if pending[replica]:
                send(now, replica)
    return Result(max(worked) / (seconds - WARM_UP), sorted(waits))


def capacity(setup: Setup, costs: Costs) -> float:
    """Returns the calls a second at which the busiest node is as busy as it may be, each call settled by itself."""
    sample = 10_000
    work = [0.0] * setup.nodes
    for key in range(sample):
        for node, size in setup.scripts(key):
            work[node] += costs.of(costs.admission, size) + costs.of(costs.settlement, size)
    return BUSY * sample / max(work)


# --- what a script costs ------------------------------------------------------------------------------------


async def measure(server: RedisProcess, rounds: int = 1_500) -> Costs:
    """Returns what the scripts cost this Redis: CPU time of the whole server, by the number of counters."""
    redis = RedisCounters(server.url, NothingSpent(), None, 20.0)
    points: dict[str, list[tuple[int, float]]] = {"admission": [], "settlement": []}
    for subjects in (("key",), ("key", "team"), ("key", "team", "gateway")):
        counters = [
            [
                Counter(f"{subject}:{number if subject != 'gateway' else ''}:{unit}", unit, 10**9)
                for subject in subjects
                for unit in SUBJECTS[subject]
            ]
            for number in range(50)
        ]
        await redis.reserve(counters[0], 1, 1)
        before = cpu_seconds(server)
        reservations = []
        for number in range(rounds):
            own = counters[number % len(counters)]
            decision = await redis.reserve(own, 10, 10)
            reservations.append(Reservation(own, 10, 10, decision.lease))
        between = cpu_seconds(server)
        for reservation in reservations:
            await redis.settle([Settlement(reservation, 5, 5)])
        after = cpu_seconds(server)
        points["admission"].append((len(counters[0]), (between - before) / rounds))
        # Requests are not settled.
        rows = sum(counter.unit != "requests" for counter in counters[0])
        points["settlement"].append((rows, (after - between) / rounds))
    await redis.stop()
    return Costs(line_through(points["admission"]), line_through(points["settlement"]))


def cpu_seconds(server: RedisProcess) -> float:
    rows = dict(row.split(":", 1) for row in server.command("INFO", "cpu").decode().splitlines() if ":" in row)
    return float(rows["used_cpu_user"]) + float(rows["used_cpu_sys"])


def line_through(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Returns the base and the slope of the line that is nearest to these points; neither is below 0."""
    count = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    slope = max(slope, 0.0)
    return max(mean_y - slope * mean_x, 0.0), slope


# --- the report ---------------------------------------------------------------------------------------------

SETUPS: Mapping[str, Setup] = {
    "one Redis, limits of keys": Setup(1, ("key",)),
    "one Redis, keys and teams": Setup(1, ("key", "team")),
    "one Redis, and the gateway": Setup(1, ("key", "team", "gateway")),
    "3 nodes, keys and teams": Setup(3, ("key", "team")),
    "6 nodes, keys and teams": Setup(6, ("key", "team")),
    "3 nodes, and the gateway": Setup(3, ("key", "team", "gateway")),
    "6 nodes, and the gateway": Setup(6, ("key", "team", "gateway")),
}


def report(costs: Costs, replicas: int, seconds: float) -> str:
    """Returns a table: each setup at three quarters of its capacity and beyond it."""
    base, further = (value * 1e6 for value in costs.admission)
    settle_base, settle_further = (value * 1e6 for value in costs.settlement)
    lines = [
        f"a script that admits: {base:.0f} us and {further:.1f} us for each counter; "
        f"one that settles: {settle_base:.0f} us and {settle_further:.1f} us (CPU time of Redis)",
        f"{replicas} replicas, {ROUND_TRIP * 1000:.1f} ms to Redis and back, calls of {CALL_SECONDS:.1f} s",
        f"{'':28}{'calls/s at 70 %':>16}{'busy':>8}{'p50 ms':>9}{'p99 ms':>9}   {'at 1.6 x: p99 ms':>16}",
    ]
    for name, setup in SETUPS.items():
        most = capacity(setup, costs)
        usual = simulate(setup, costs, most, replicas, seconds)
        beyond = simulate(setup, costs, most * 1.6, replicas, seconds)
        lines.append(
            f"{name:28}{most:16,.0f}{usual.busy:8.0%}{usual.percentile(0.5) * 1e3:9.2f}"
            f"{usual.percentile(0.99) * 1e3:9.2f}   {beyond.percentile(0.99) * 1e3:16.1f}"
        )
    return "\n".join(lines)


def main(arguments: Any = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args(arguments)
    server = RedisProcess()
    try:
        costs = asyncio.run(measure(server))
    finally:
        server.close()
    print(report(costs, options.replicas, options.seconds))


if __name__ == "__main__":
    main()
