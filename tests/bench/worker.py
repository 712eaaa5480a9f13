"""What one worker does, and what a call costs PostgreSQL and Redis: the figures of docs/scaling.md (Linux).

    python tests/bench/worker.py [--seconds 2]

One worker stands between callers of this process and a stand-in for Cohere, which is here as well. Calls a second are
those of a core of its own: one second divided by the CPU time of a call, since on a small machine the callers take a
part of every core. Limits are four of the whole gateway: requests, tokens, parallel requests, dollars.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import asyncpg  # type: ignore[import-untyped]

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests/, as pytest and mypy have it

from bench import load, peers, scale
from bench.fleet import cpu_seconds
from bench.processes import Server, cpu_by_process
from support.databases import throwaway
from support.redis_server import RedisProcess, redis_process

CASES: Mapping[str, load.Case] = {
    "whole chat": load.Case("whole", "whole chat", 32),
    "stream of 100 deltas": load.Case("stream", "stream", 32, deltas=100),
    "one embedding of 1,024 floats": load.Case("embedding", "embedding", 32, inputs=1),
    "96 embeddings of 1,024 floats": load.Case("embeddings", "embeddings", 4, inputs=96),
}
LIMITS = {
    "GATEWAY_GLOBAL_RPM_LIMIT": "1000000000",
    "GATEWAY_GLOBAL_TPM_LIMIT": "1000000000000",
    "GATEWAY_GLOBAL_MAX_PARALLEL_REQUESTS": "1000000",
    "GATEWAY_GLOBAL_MAX_BUDGET": "1000000",
    "GATEWAY_LIMITS_TIMEOUT": "5",
}
CONNECTIONS = 2_000
"""Connections that do nothing."""
STREAMS = scale.Crowd(1_000, 500, 10.0)
ROUNDS = 3


@dataclass
class Services:
    """The PostgreSQL and the Redis of a measurement, where there are any."""

    postgresql: asyncpg.Connection | None = None
    redis: RedisProcess | None = None

    async def backends(self) -> Sequence[int]:
        """Returns the numbers of PostgreSQL's processes that serve the gateway."""
        if self.postgresql is None:
            return []
        rows = await self.postgresql.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return [row["pid"] for row in rows]

    async def cpu(self) -> tuple[float, float]:
        """Returns the CPU seconds that PostgreSQL's processes and Redis have used."""
        used = [cpu_by_process(pid)[pid] for pid in await self.backends()]
        return sum(used), cpu_seconds(self.redis) if self.redis is not None else 0.0


@dataclass
class Cost:
    """CPU seconds of one call: of the worker, of PostgreSQL, of Redis."""

    worker: float
    postgresql: float = 0.0
    redis: float = 0.0


async def cost(gateway: Server, case: load.Case, seconds: float, services: Services) -> Cost:
    await load.burst(gateway.port, case, seconds / 4, lambda: None)
    costs = []
    for _ in range(ROUNDS):
        before, theirs = gateway.cpu(), await services.cpu()
        result = await load.burst(gateway.port, case, seconds, lambda: None)
        after = await services.cpu()
        used = (gateway.cpu() - before, after[0] - theirs[0], after[1] - theirs[1])
        costs.append([one / result.requests for one in used])
    return Cost(*(median(one) for one in zip(*costs, strict=True)))


async def operations(seconds: float) -> list[str]:
    """What a worker does a second."""
    lines = [peers.row(["a second, of one core", *scale.SERVERS]), peers.row(["---"] * 3)]
    async with scale.stand_in() as cohere:
        gateways = [await asyncio.to_thread(scale.start_gateway, cohere, server) for server in scale.SERVERS]
        try:
            for name, case in CASES.items():
                costs = [await cost(gateway, case, seconds, Services()) for gateway in gateways]
                lines.append(
                    peers.row([name, *(f"{1 / one.worker:,.0f} ({one.worker * 1e6:.0f} us)" for one in costs)])
                )
        finally:
            for gateway in gateways:
                await asyncio.to_thread(gateway.stop)
    return lines


async def idle_connections(gateway: Server) -> int:
    """Opens connections that ask nothing. Returns how many."""
    opened = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(CONNECTIONS)]
    await asyncio.sleep(0.5)
    noted[0] = gateway.rss()
    for _, writer in opened:
        writer.close()
    return CONNECTIONS


async def open_streams(gateway: Server) -> int:
    """Has streams open that get an event now and then. Returns how many."""
    target = scale.Target(gateway.port, native=False)
    await scale.streams(target, STREAMS, itertools.count(1), scale.sample(noted, gateway))
    return STREAMS.count


noted = [0.0]
"""Megabytes of a worker while it keeps something."""


async def memory(seconds: float) -> list[str]:
    """What a worker keeps for each caller's connection and for each open stream."""
    lines = [peers.row(["", *scale.SERVERS]), peers.row(["---"] * 3)]
    starts: dict[str, str] = {}
    async with scale.stand_in() as cohere:
        for title, keep in (("idle connection, KiB", idle_connections), ("open stream, KiB", open_streams)):
            cells = []
            for server in scale.SERVERS:
                # A worker of its own: what another one has freed would be used again.
                gateway = await asyncio.to_thread(scale.start_gateway, cohere, server)
                try:
                    await load.burst(gateway.port, load.Case("chat", "chat", 32), 1.0, lambda: None)
                    start = gateway.rss()
                    starts[server] = f"{start:.0f}"
                    count = await keep(gateway)
                    cells.append(f"{(noted[0] - start) * 1_024 / count:.0f}")
                finally:
                    await asyncio.to_thread(gateway.stop)
            lines.append(peers.row([title, *cells]))
    return [*lines, peers.row(["a worker itself, MB", *starts.values()])]


@asynccontextmanager
async def setups(kind: str) -> AsyncIterator[tuple[dict[str, str], Services]]:
    """Gives the settings of a setup, and its services."""
    with ExitStack() as stack:
        if kind in ("no limits", "limits, one process"):
            yield (LIMITS if kind != "no limits" else {}), Services()
            return
        redis = stack.enter_context(redis_process()) if "Redis" in kind else None
        async with throwaway("postgresql", Path("/")) as url:
            connection = await asyncpg.connect(url)
            try:
                settings = {**LIMITS, "GATEWAY_DATABASE_URL": url}
                yield settings | ({"GATEWAY_REDIS_URL": redis.url} if redis else {}), Services(connection, redis)
            finally:
                await connection.close()


async def services(seconds: float) -> list[str]:
    """What a whole chat costs everybody."""
    head = ["whole chat, CPU us of a call", "worker", "PostgreSQL", "Redis", "connections to PostgreSQL", "to Redis"]
    lines = [peers.row(head), peers.row(["---"] * len(head))]
    async with scale.stand_in() as cohere:
        for kind in ("no limits", "limits, one process", "limits, Redis and PostgreSQL", "limits, PostgreSQL alone"):
            async with setups(kind) as (settings, shared):
                gateway = await asyncio.to_thread(lambda: scale.start_gateway(cohere, "uvicorn", **settings))
                try:
                    one = await cost(gateway, CASES["whole chat"], seconds, shared)
                    clients = "-"
                    if shared.redis is not None:
                        rows = shared.redis.command("INFO", "clients").split(b"connected_clients:")[1]
                        clients = str(int(rows.split()[0]) - 1)
                    backends = str(len(await shared.backends())) if shared.postgresql else "-"
                    cells = (f"{part * 1e6:.0f}" if part else "-" for part in (one.worker, one.postgresql, one.redis))
                    lines.append(peers.row([kind, *cells, backends, clients]))
                finally:
                    await asyncio.to_thread(gateway.stop)
    return lines


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a burst")
    seconds = parser.parse_args().seconds
    gc.disable()
    print(f"{peers.machine()}, load average {os.getloadavg()[0]:.1f}", flush=True)
    with scale.many_descriptors():
        for part in (operations, memory, services):
            print("\n" + "\n".join(asyncio.run(part(seconds))), flush=True)


if __name__ == "__main__":
    main()
