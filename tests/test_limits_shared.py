"""Shared counters that fail in every way: a Redis of the test's own is frozen, killed, emptied, slowed and replaced.

The laws: a request waits no longer than it may, processes hold their shares meanwhile, and when Redis is well again
everything is as before without a restart, spent budgets included.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.auth.directory import KeyDirectory
from gateway.limits import shared_counters as module
from gateway.limits import stored_budgets
from gateway.limits.shared_counters import SharedCounters
from gateway.limits.start import create_limiter
from gateway.limits.stored_budgets import StoredBudgets
from gateway.observability.access_log import Log
from gateway.observability.alerts import Alerts
from gateway.observability.metrics import Metrics
from gateway.settings.schema import LimitSettings, Settings
from gateway.store.counters import Counter, CountersUnavailable, Reservation, Settlement
from gateway.store.database import Database
from gateway.store.errors import StoreUnavailable
from gateway.store.redis_counters import PREFIX, RedisCounters
from gateway.store.sql_counters import SqlCounters
from support.keys import key_of
from support.process import Process, awaited
from support.redis_server import RedisProcess, needs_program, redis_process
from support.spent_budgets import NothingSpent
from support.waiting import WAIT_SECONDS
from test_ledger_durability import PostgresLedger
from test_serve_key_changes import database
from test_serve_limits import limited

TIMEOUT = 0.75
"""Seconds that a reservation may take here: the machine that runs the tests may be busier than one that serves."""

REQUESTS = Counter("key:k:requests", "requests", 9)
BUDGET = Counter("key:k:budget:total", "money", 1_000)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisProcess]:
    with redis_process() as server:
        yield server


@pytest.fixture(autouse=True)
def empty(redis: RedisProcess) -> None:
    redis.command("FLUSHALL")


class Gateway:
    """The counters of one process, and what they reported."""

    def __init__(
        self,
        url: str,
        folder: Path,
        refuses: bool = False,
        timeout: float = TIMEOUT,
        workers: int = 1,
        kind: type[RedisCounters] = RedisCounters,
    ) -> None:
        self.reasons: list[str] = []
        stored = StoredBudgets(Database(f"sqlite:///{folder}/budgets.db", 20.0, 2), lambda error: None, remembers=True)
        redis = kind(url, stored)
        self.stored = stored
        self.counters = SharedCounters(
            redis, stored, timeout, refuses, self.reasons.append, stores_all=True, workers=workers
        )

    async def reserve(self, *counters: Counter, money: int = 0) -> Reservation | None:
        _, _, reservation = await self.counters.reserve(counters, 0, money)
        return reservation

    async def spend(self, money: int) -> bool:
        """Reserves and settles an amount of BUDGET. Returns whether it was admitted."""
        reservation = await self.reserve(BUDGET, money=money)
        if reservation is not None:
            self.counters.settle(Settlement(reservation, 0, money))
            await self.settled()
        return reservation is not None

    async def settled(self) -> None:
        await until(lambda: self.counters._settling is None)

    async def lose(self) -> int:
        """Asks for REQUESTS until the counters are left alone. Returns how many were admitted."""
        admitted = 0

        async def lost() -> bool:
            nonlocal admitted
            admitted += await self.reserve(REQUESTS) is not None
            return bool(self.counters.degraded)

        await until(lost)
        return admitted


async def until(condition: Callable[[], Any], seconds: float = WAIT_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if (await result) if isinstance(result, Awaitable) else result:
            return
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def gateways(url: str, folder: Path, count: int = 1, **options: Any) -> AsyncIterator[list[Gateway]]:
    running = [Gateway(url, folder, **options) for _ in range(count)]
    try:
        yield running
    finally:
        for gateway in running:
            await gateway.counters.stop()


def test_a_redis_that_freezes(redis: RedisProcess, tmp_path: Path) -> None:
    async def main() -> None:
        async with gateways(redis.url, tmp_path, 3) as running:
            for gateway in running:
                await gateway.reserve(Counter("key:first:requests", "requests", 9))
            await until(lambda: all(gateway.counters.processes == 3 for gateway in running))
            for gateway in running:
                assert await gateway.reserve(REQUESTS) is not None
            redis.signal(signal.SIGSTOP)
            try:
                began = time.monotonic()
                admitted = await running[0].lose()
                assert time.monotonic() - began < WAIT_SECONDS
                # The third failure is that of a call, or that of telling Redis what was admitted after the first.
                late = ("did not answer within 750 ms", "Redis failed: TimeoutError")
                assert running[0].reasons and any(text in running[0].reasons[0] for text in late)
                began = time.monotonic()
                admitted += sum([await running[0].reserve(REQUESTS) is not None for _ in range(9)])
                assert admitted == 2, "three of nine have taken one each, so two are left for each"
                assert time.monotonic() - began < TIMEOUT, "nobody waits for a Redis that is known to be away"
            finally:
                redis.signal(signal.SIGCONT)
            await until(lambda: not running[0].counters.degraded)
            assert running[0].reasons[-1] == ""

    asyncio.run(main())


def test_a_redis_that_is_killed_takes_no_budget_with_it(redis: RedisProcess, tmp_path: Path) -> None:
    async def main() -> None:
        async with gateways(redis.url, tmp_path) as (gateway,):
            assert await gateway.spend(600)
            redis.kill()
            await gateway.lose()
            assert await gateway.spend(300), "what is left may be spent meanwhile"
            redis.start()
            await until(lambda: not gateway.counters.degraded)
            assert await gateway.spend(100)
            assert not await gateway.spend(1), "1000 are spent, two thirds of them before and while it was away"

    asyncio.run(main())


def test_a_redis_that_is_emptied(redis: RedisProcess, tmp_path: Path) -> None:
    async def main() -> None:
        async with gateways(redis.url, tmp_path) as (gateway,):
            assert await gateway.spend(1_000)
            redis.command("FLUSHALL")
            redis.command("SCRIPT", "FLUSH")
            assert not await gateway.spend(1) and not gateway.reasons

    asyncio.run(main())


def test_processes_that_begin_together_soon_know_of_each_other(
    redis: RedisProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 3_600.0)

    async def main() -> None:
        async with gateways(redis.url, tmp_path, count=2) as (first, second):
            for one in (first, second):
                assert await one.reserve(REQUESTS) is not None
            await until(lambda: first.counters.processes == second.counters.processes == 2)

    asyncio.run(main())


def test_a_key_of_another_type_is_replaced(redis: RedisProcess, tmp_path: Path) -> None:
    async def main() -> None:
        async with gateways(redis.url, tmp_path) as (gateway,):
            assert await gateway.spend(1_000)
            redis.command("SET", PREFIX + BUDGET.id, "nonsense")
            redis.command("SET", PREFIX + REQUESTS.id, "nonsense")
            assert await gateway.reserve(REQUESTS) is not None
            assert not await gateway.spend(1) and not gateway.reasons

    asyncio.run(main())


def test_a_redis_that_is_slow(redis: RedisProcess, tmp_path: Path) -> None:
    async def main() -> None:
        async with gateways(redis.url, tmp_path) as (gateway,):
            assert await gateway.reserve(REQUESTS) is not None
            redis.command("CLIENT", "PAUSE", "60000", "WRITE")
            began = time.monotonic()
            assert await gateway.reserve(REQUESTS) is not None, "one slow answer is decided here"
            assert time.monotonic() - began < 30
            redis.command("CLIENT", "UNPAUSE")
            await until(lambda: not gateway.counters.degraded)
            assert await gateway.reserve(REQUESTS) is not None

    asyncio.run(main())


def test_a_redis_that_fails_over(redis: RedisProcess, tmp_path: Path) -> None:
    async def main() -> None:
        with redis_process() as other:
            async with gateways(redis.url, tmp_path) as (gateway,):
                assert await gateway.spend(500)
                redis.command("REPLICAOF", "127.0.0.1", str(other.port))
                try:
                    # A replica refuses to write, and has nothing yet of what its master has.
                    await gateway.lose()
                    assert await gateway.spend(100)
                finally:
                    redis.command("REPLICAOF", "NO", "ONE")
                await until(lambda: not gateway.counters.degraded)
                assert await gateway.spend(400) and not await gateway.spend(1)

    asyncio.run(main())


async def admitted_at_last(gateway: Any) -> None:
    """Reserves once. On a busy machine a single answer may be too late."""
    for _ in range(20):
        with contextlib.suppress(CountersUnavailable):
            assert await gateway.reserve(REQUESTS) is not None
            return
    pytest.fail("Redis answers, and nothing is admitted")


def test_where_the_settings_refuse_nothing_is_admitted_without_it(redis: RedisProcess, tmp_path: Path) -> None:
    async def main() -> None:
        async with gateways(redis.url, tmp_path, refuses=True) as (gateway,):
            await admitted_at_last(gateway)
            redis.signal(signal.SIGSTOP)
            try:
                for _ in range(4):
                    with pytest.raises(CountersUnavailable):
                        await gateway.reserve(REQUESTS)
            finally:
                redis.signal(signal.SIGCONT)
            await until(lambda: not gateway.counters.degraded)
            await admitted_at_last(gateway)

    asyncio.run(main())


def test_an_admission_is_one_command_and_its_settlement_another(redis: RedisProcess, tmp_path: Path) -> None:
    async def main() -> None:
        async with gateways(redis.url, tmp_path, timeout=20.0) as (gateway,):
            assert await gateway.spend(1)
            await until(lambda: gateway.counters.processes == 1)
            before, began = redis.scripts(), time.monotonic()
            for _ in range(20):
                assert await gateway.spend(1)
            signs_of_life = 3 + (time.monotonic() - began) / module.BEAT_SECONDS
            assert 40 <= redis.scripts() - before <= 40 + signs_of_life

    asyncio.run(main())


def test_what_is_spent_while_the_process_stops_is_settled(redis: RedisProcess, tmp_path: Path) -> None:
    async def main() -> None:
        async with gateways(redis.url, tmp_path, timeout=20.0) as (gateway,):
            reservation = await gateway.reserve(BUDGET, money=700)
            assert reservation is not None
            gateway.counters.settle(Settlement(reservation, 0, 700))
        async with gateways(redis.url, tmp_path, timeout=20.0) as (gateway,):
            assert await gateway.spend(300) and not await gateway.spend(1)

    asyncio.run(main())


def test_the_replica_is_promoted_and_takes_over_the_address(redis: RedisProcess, tmp_path: Path) -> None:
    """The master dies; what it had told its replica is not lost, and the rest the database has."""

    async def main() -> None:
        with redis_process() as master:
            port = master.port
            replica = stack.enter_context(redis_process("--replicaof", f"127.0.0.1 {port}"))
            async with gateways(master.url, tmp_path) as (gateway,):
                await until(lambda: b"master_link_status:up" in replica.command("INFO", "replication"))
                assert await gateway.spend(600)
                master.kill()
                await gateway.lose()
                assert await gateway.spend(100), "meanwhile its share"
                replica.command("REPLICAOF", "NO", "ONE")
                replica.move_to(port)
                await until(lambda: not gateway.counters.degraded)
                assert await gateway.spend(300) and not await gateway.spend(1)

    with ExitStack() as stack:
        asyncio.run(main())


@pytest.mark.parametrize("program", ["redis-server", "valkey-server"])
def test_three_lives_of_a_server(program: str, tmp_path: Path) -> None:
    """Frozen, killed and emptied, one after the other: the same for Valkey, where it is installed."""
    needs_program(program, required=program == "redis-server")

    async def main(server: RedisProcess) -> None:
        async with gateways(server.url, tmp_path) as (gateway,):
            assert await gateway.spend(500)
            server.signal(signal.SIGSTOP)
            await gateway.lose()
            server.signal(signal.SIGCONT)
            await until(lambda: not gateway.counters.degraded)
            server.kill()
            await gateway.lose()
            server.start()
            await until(lambda: not gateway.counters.degraded)
            assert await gateway.spend(300)
            server.command("FLUSHALL")
            assert await gateway.spend(200) and not await gateway.spend(1)

    with redis_process(program=program) as server:
        asyncio.run(main(server))


def test_a_database_that_dies_while_it_counts(tmp_path: Path) -> None:
    """PostgreSQL alone: each process holds its share until it is back, and what was spent meanwhile counts."""

    async def main(url: str) -> None:
        reasons: list[str] = []
        stored = StoredBudgets(Database(url, 30.0, 2, durable=False), lambda error: None)
        shared = SqlCounters(Database(url, 30.0, 4, durable=False))
        counters = SharedCounters(shared, stored, 20.0, False, reasons.append, stores_all=False)

        async def reserve(counter: Counter, money: int) -> Reservation | None:
            return (await counters.reserve([counter], 0, money))[2]

        async def lost() -> bool:
            await reserve(REQUESTS, 0)
            return bool(counters.degraded)

        first, under_way = await reserve(BUDGET, 500), await reserve(BUDGET, 100)
        assert first is not None and under_way is not None
        counters.settle(Settlement(first, 0, 500))
        await until(lambda: counters._settling is None)
        outage = PostgresLedger(url, tmp_path).away(cast(Process, None))
        await asyncio.to_thread(outage.__enter__)
        await until(lost)
        assert reasons and "limits" in reasons[0]
        counters.settle(Settlement(under_way, 0, 150))
        meanwhile = await reserve(BUDGET, 50)
        assert meanwhile is not None and meanwhile.local
        counters.settle(Settlement(meanwhile, 0, 50))
        await asyncio.to_thread(outage.__exit__, None, None, None)
        await until(lambda: not counters.degraded, 60)
        await until(lambda: not stored._pending, 60)
        assert await reserve(BUDGET, 200) is not None
        assert await reserve(BUDGET, 101) is None, "500, 150 and 50 count once"
        assert await reserve(BUDGET, 100) is not None, "what was under way is not reserved any more"
        await counters.stop()

    with database("postgresql", tmp_path) as shared:
        asyncio.run(main(shared.url))


def test_a_burst_of_admissions_shares_the_connections(redis: RedisProcess, tmp_path: Path) -> None:
    many = Counter("key:k:requests", "requests", 350)

    async def main() -> None:
        redis_counters = RedisCounters(redis.url, NothingSpent(), None, 20.0)
        decisions = await asyncio.gather(*(redis_counters.reserve([many], 0, 0) for _ in range(400)))
        assert sum(decision.admitted for decision in decisions) == 350
        assert int(redis.command("INFO", "clients").split(b"connected_clients:")[1].split()[0]) <= 70
        await redis_counters.stop()

    asyncio.run(main())


@pytest.mark.parametrize(("timeout", "seconds"), [(0.05, 1.0), (30.0, 30.0)])
def test_a_connection_waits_as_long_as_a_request_may(timeout: float, seconds: float, tmp_path: Path) -> None:
    settings = Settings(
        redis_url="redis://127.0.0.1:1/0",
        database_url=f"sqlite:///{tmp_path}/g.db",
        limits=LimitSettings(timeout=timeout),
    )
    metrics, alerts = Metrics(lambda model: True, ()), Alerts("", "", print)
    limiter = create_limiter(settings, cast(KeyDirectory, None), metrics, cast(Log, None), alerts)
    redis = cast(Any, limiter.counters)._shared._redis
    assert redis.connection_pool.connection_kwargs["socket_timeout"] == redis.connection_pool.timeout == seconds


def test_a_settlement_that_did_not_arrive_counts_when_the_budget_is_used_again(
    redis: RedisProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENT_SECONDS", 0.2)

    async def main() -> None:
        async with gateways(redis.url, tmp_path, timeout=20.0) as (gateway,):
            reservation = await gateway.reserve(BUDGET, money=600)
            assert reservation is not None
            redis.signal(signal.SIGSTOP)
            try:
                gateway.counters.settle(Settlement(reservation, 0, 900))
                await gateway.settled()
            finally:
                redis.signal(signal.SIGCONT)
            # Whether the script ran after all or not, it counts once, and the reservation is free or lapses.
            redis.command("FLUSHALL")
            assert not gateway.reasons, "one failure is none yet"
            assert await gateway.spend(100) and not await gateway.spend(1)

    asyncio.run(main())


def test_a_caller_who_leaves_while_redis_thinks_leaves_nothing_reserved(redis: RedisProcess, tmp_path: Path) -> None:
    one = Counter("key:k:parallel", "parallel", 1)

    async def main() -> None:
        async with gateways(redis.url, tmp_path) as (gateway,):
            assert await gateway.reserve(REQUESTS) is not None
            redis.signal(signal.SIGSTOP)
            request = asyncio.create_task(gateway.reserve(one))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            request.cancel()
            redis.signal(signal.SIGCONT)
            await asyncio.gather(request, return_exceptions=True)

            async def admitted() -> bool:
                return await gateway.reserve(one) is not None

            await until(admitted)

    asyncio.run(main())


def test_a_long_request_keeps_its_reservation(tmp_path: Path) -> None:
    """Renewed, it outlives the time after which that of a dead process lapses."""
    one = Counter("key:k:parallel", "parallel", 1)

    async def main() -> None:
        now = 1_000.0
        counters = SqlCounters(Database(f"sqlite:///{tmp_path}/c.db", 20.0, 2, durable=False), lambda: now)
        decision = await counters.reserve([one], 0, 0)
        reservation = Reservation([one], 0, 0, decision.lease)
        now += 50
        await counters.renew([reservation], 50)
        now += 50
        assert not (await counters.reserve([one], 0, 0)).admitted
        await counters.settle([Settlement(reservation, 0, 0)])
        assert (await counters.reserve([one], 0, 0)).admitted
        now += 61
        assert (await counters.reserve([one], 0, 0)).admitted, "that process has died"
        assert await counters.beat("a", 15) == 1 and await counters.beat("b", 15) == 2
        await counters.stop()

    asyncio.run(main())


def test_a_renewal_that_is_not_written_leaves_the_lease_as_it_is(tmp_path: Path) -> None:
    """A settlement releases what is reserved under the lease that the database has."""
    one = Counter("key:k:parallel", "parallel", 1)
    path = tmp_path / "c.db"

    async def main() -> None:
        counters = SqlCounters(Database(f"sqlite:///{path}", 20.0, 2, durable=False), lambda: 1_000.0)
        decision = await counters.reserve([one], 0, 0)
        reservation = Reservation([one], 0, 0, decision.lease)
        path.rename(tmp_path / "away.db")
        with pytest.raises(CountersUnavailable):
            await counters.renew([reservation], 50)
        (tmp_path / "away.db").rename(path)
        await counters.settle([Settlement(reservation, 0, 0)])
        assert (await counters.reserve([one], 0, 0)).admitted
        await counters.stop()

    asyncio.run(main())


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of SQLite's writers."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_a_stop_during_a_group_writes_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_budgets, "FLUSH_SECONDS", 0.0)
    budget = Counter("key:k:budget:total", "money", 100)
    path = tmp_path / "c.db"
    url = f"sqlite:///{path}"

    async def main() -> None:
        errors: list[Exception] = []
        stored = StoredBudgets(Database(url, 20.0, 2, durable=False), errors.append)
        await stored.load()
        with locked(path):
            stored.add([budget], 7)
            await until(lambda: stored._database._calls)
            stopping = asyncio.get_running_loop().create_task(stored.stop())
            for _ in range(20):
                await asyncio.sleep(0)
        await stopping
        again = StoredBudgets(Database(url, 20.0, 2, durable=False), errors.append)
        assert dict(await again.load()) == {(budget.id, budget.window): 7} and not errors
        await again.stop()

    asyncio.run(main())


def test_budgets_without_their_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trouble is told, everybody may send an alert, and how many processes there are is not known."""
    monkeypatch.setattr(stored_budgets, "FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(stored_budgets, "RETRY_SECONDS", 0.0)
    (tmp_path / "c.db").write_bytes(b"no database" * 100)

    async def main() -> None:
        errors: list[Exception] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
        stored = StoredBudgets(Database(f"sqlite:///{tmp_path}/c.db", 20.0, 2), errors.append)
        assert await stored.claim("half", 1) and len(errors) == 1
        await stored.put_processes(4)
        assert len(errors) == 2
        assert await stored.processes() == 0 and len(errors) == 3
        stored.add([Counter("key:k:budget:total", "money", 100)], 7)
        await until(lambda: len(errors) >= 5)
        await until(lambda: stored._writes)  # it is stopped in the middle of one
        before = len(errors)
        await stored.stop()
        assert len(errors) > before and all(isinstance(error, StoreUnavailable) for error in errors)

    unheard: list[dict[str, Any]] = []
    asyncio.run(main())
    gc.collect()
    assert not unheard, "a failed write is told once, and by us"


def test_who_gave_up_before_its_turn_is_not_counted(tmp_path: Path) -> None:
    """What it has spent is stored in another way then."""
    tokens = Counter("key:k:tokens", "tokens", 100)
    path = tmp_path / "c.db"

    async def main() -> None:
        counters = SqlCounters(Database(f"sqlite:///{path}", 20.0, 2, durable=False), lambda: 1_000.0)
        reservation = Reservation([tokens], 5, 0, (await counters.reserve([tokens], 5, 0)).lease)
        loop = asyncio.get_running_loop()
        with locked(path):
            first = loop.create_task(counters.settle([Settlement(reservation, 5, 0)]))
            # The transaction has begun with the first when the second comes.
            await until(lambda: not counters._waiting and counters._database._calls)
            second = loop.create_task(counters.settle([Settlement(reservation, 5, 0)]))
            await until(lambda: counters._waiting)
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)
        await first
        assert (await counters.reserve([tokens], 0, 0)).states[0].spent == 5
        await counters.stop()

    asyncio.run(main())


def test_what_a_slow_database_counts_is_not_stored_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes as long as a request may wait, which is longer here than what nobody waits for may take otherwise."""
    monkeypatch.setattr(module, "PATIENT_SECONDS", 0.01)
    path = tmp_path / "c.db"
    database = partial(Database, f"sqlite:///{path}", WAIT_SECONDS, 2, durable=False)

    async def main() -> None:
        stored = StoredBudgets(database(), lambda error: None)
        counters = SharedCounters(SqlCounters(database()), stored, WAIT_SECONDS, False, lambda reason: None, False)
        first, second = [(await counters.reserve([BUDGET], 0, 5))[2] for _ in range(2)]
        assert first is not None and second is not None and counters._timer is not None
        # Its signs of life have no more time than settlements would have otherwise.
        counters._timer.cancel()
        with locked(path):
            counters.settle(Settlement(first, 0, 7))
            await until(lambda: counters._group or stored._pending)
            await asyncio.sleep(0.1)
            counters.settle(Settlement(second, 0, 3))
            stopping = asyncio.get_running_loop().create_task(counters.stop())
            await asyncio.sleep(0.1)
        await stopping
        again = StoredBudgets(database(), lambda error: None)
        assert dict(await again.load()) == {(BUDGET.id, BUDGET.window): 10}
        await again.stop()

    asyncio.run(main())


def test_readiness_and_a_metric_say_that_redis_is_away(redis: RedisProcess) -> None:
    with limited(key_of("k", rpm_limit=1000), redis_url=redis.url) as (scripted, caller):
        gateway = scripted.gateway

        def readiness() -> str:
            return str(gateway.ask("GET", "/health/ready", headers={}).body)

        assert caller("k").chat().status == 200
        awaited(lambda: "'ready'" in readiness())
        redis.kill()
        try:
            awaited(lambda: caller("k").chat().status == 200 and "limits: Redis failed" in readiness())
            assert gateway.metrics()["gateway_limits_degraded"] == 1
        finally:
            redis.start()
        awaited(lambda: "limits: Redis failed" not in readiness(), 60)
        assert gateway.metrics()["gateway_limits_degraded"] == 0
        assert caller("k").chat().status == 200


def test_what_was_spent_is_stored_once_the_shared_counters_have_it(redis: RedisProcess, tmp_path: Path) -> None:
    """A process that compares the database with Redis meanwhile would count it twice."""

    async def main() -> None:
        async with gateways(redis.url, tmp_path) as (one,):
            reservation = await one.reserve(BUDGET, money=300)
            assert reservation is not None
            redis.signal(signal.SIGSTOP)
            try:
                one.counters.settle(Settlement(reservation, 0, 300))
                await asyncio.sleep(0)
                assert not await one.stored.load([BUDGET])
            finally:
                redis.signal(signal.SIGCONT)
            await one.settled()
            assert await one.stored.load([BUDGET]) == {(BUDGET.id, BUDGET.window): 300}

    asyncio.run(main())


def test_what_has_reserved_nothing_settles_beside_what_has(redis: RedisProcess, tmp_path: Path) -> None:
    """Such as an answer out of the cache, or a recording, whose seconds are not known before."""

    async def main() -> None:
        async with gateways(redis.url, tmp_path) as (one,):
            large = await one.reserve(BUDGET, money=100)
            small = await one.reserve(BUDGET, money=0)
            assert large is not None and small is not None
            one.counters.settle(Settlement(small, 0, 7))
            one.counters.settle(Settlement(large, 0, 100))
            await one.settled()
            assert not one.counters._outages._failing and not one.counters.degraded
            decision = await cast(Any, one.counters)._shared.reserve((BUDGET,), 0, 0)
            assert (decision.states[0].spent, decision.states[0].reserved) == (107, 0)

    asyncio.run(main())
