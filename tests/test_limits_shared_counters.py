"""`gateway/limits/shared_counters.py` and `start.py`: late answers, failures in a row, and which counters there are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from gateway.auth.directory import KeyDirectory
from gateway.limits.outages import MAX_FAILURES
from gateway.limits.process_counters import ProcessCounters
from gateway.limits.shared_counters import PATIENT_SECONDS, RENEW_SECONDS, SharedCounters
from gateway.limits.start import COUNTING_SECONDS, create_limiter
from gateway.observability.access_log import Log
from gateway.observability.alerts import Alerts
from gateway.observability.metrics import Metrics
from gateway.settings.schema import LimitSettings, SettingError, Settings
from gateway.store.counters import (
    Counter,
    CounterState,
    CountersUnavailable,
    Decision,
    Past,
    Reservation,
    Server,
    Settlement,
)
from gateway.store.errors import StoreUnavailable
from gateway.store.redis_cluster_counters import RedisClusterCounters
from gateway.store.redis_counters import RedisCounters
from gateway.store.sql_counters import SqlCounters
from test_limits_shared import until

BUDGET = Counter("key:k:budget:total", "money", 100)
REQUESTS = Counter("key:k:requests", "requests", 9)
TOKENS, TEAM_TOKENS = Counter("key:k:tokens", "tokens", 99), Counter("team:t:tokens", "tokens", 99)
ADMITTED = Decision(True, (CounterState(7, 5),), lease=3, leases={"key:k": 4})
REFUSED = Decision(False, (CounterState(100, 0),))


class Shared:
    """Shared counters that answer what a test says, when it says so."""

    def __init__(self) -> None:
        self.answer: Decision | Exception = ADMITTED
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.reservations, self.preparations = 0, 0
        self.lacking: Exception | None = None
        self.is_lacking = False
        self.settlements: list[Settlement] = []
        self.doubted: list[Counter] = []
        self.settling_fails = False
        self.renewals: list[list[Reservation]] = []
        self.renewing_fails = False
        # What calls raise after they have done what they were asked for, of those whom the error does not concern.
        self.failures: list[CountersUnavailable] = []
        self.past: list[Sequence[Past]] = []
        self.adopted: Callable[[], Any] = lambda: None

    def lacks(self, counters: Sequence[Counter]) -> bool:
        return self.is_lacking

    async def prepare(self, counters: Sequence[Counter]) -> Mapping[str, int]:
        self.preparations += 1
        if self.lacking is not None:
            raise self.lacking
        self.is_lacking = False
        return {}

    async def reserve(self, counters: Sequence[Counter], tokens: int, money: int, seconds: float = 0.0) -> Decision:
        self.reservations += 1
        await self.may_answer.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        if self.settling_fails:
            raise CountersUnavailable("away")
        self.settlements += settlements
        self.fail()

    def fail(self) -> None:
        if self.failures:
            raise self.failures.pop()

    def doubt(self, counters: Sequence[Counter]) -> None:
        self.doubted += counters

    def server_of(self, subject: str) -> Server:
        return None

    def silent(self, subjects: Collection[str], seconds: float) -> Collection[str]:
        return subjects

    async def beat(self, process: str, seconds: int, subject: str = "") -> int:
        return 1

    async def adopt(self, reservations: Sequence[tuple[Reservation, int]], past: Sequence[Past]) -> None:
        if past:
            self.past.append(past)
            self.fail()
        for reservation, _ in reservations:
            reservation.local = False
        self.adopted()

    def watch(
        self,
        live: Callable[[], Iterable[Reservation]],
        processes: Callable[[], int],
        is_away: Callable[[Counter], bool],
    ) -> None:
        self.live = live

    def miss(self, counters: Sequence[Counter], money: int) -> None:
        pass

    async def tell(self) -> None:
        pass

    async def confirm(self) -> bool:
        return False

    async def renew(self, reservations: Sequence[Reservation], seconds: int) -> None:
        self.renewals.append([*reservations])
        await self.may_answer.wait()
        if self.renewing_fails:
            raise CountersUnavailable("away")

    def compare_again(self, subject: str) -> None:
        pass

    async def reconnect(self, subject: str) -> None:
        raise CountersUnavailable("away")

    async def stop(self) -> None:
        pass


class Stored:
    """A database that keeps what was spent."""

    def __init__(self) -> None:
        self.spent: list[int] = []
        self.order = asyncio.Lock()

    async def load(self, counters: Sequence[Counter] = ()) -> dict[tuple[str, int], int]:
        return {}

    def add(self, counters: Sequence[Counter], amount: int) -> None:
        self.spent.append(amount)

    async def flush(self) -> None:
        pass

    async def put_processes(self, count: int) -> None:
        pass

    async def processes(self) -> int:
        return 0

    async def stop(self) -> None:
        pass


class Parts:
    """Shared counters over a shared part and a database of a test's. A late answer is one after a millisecond."""

    def __init__(self, refuses: bool = False, stores_all: bool = False) -> None:
        self.shared, self.stored = Shared(), Stored()
        self.reasons: list[str] = []
        self.counters = SharedCounters(
            self.shared, cast(Any, self.stored), 30.0, refuses, self.reasons.append, stores_all=stores_all
        )

    async def reserve(self, counter: Counter = BUDGET) -> Reservation | None:
        return (await self.counters.reserve([counter], 2, 5))[2]

    def end_timer(self) -> None:
        """Leaves it to the test what is renewed and when."""
        assert self.counters._timer is not None
        self.counters._timer.cancel()

    async def is_settled(self) -> None:
        while self.counters._settling is not None:
            await asyncio.sleep(0)

    def be_late(self) -> None:
        self.shared.may_answer.clear()
        self.counters._timeout = 0.001


@pytest.mark.asyncio
async def test_what_was_spent_before_is_read_once_and_again_a_while_after_a_failure() -> None:
    for failure in (CountersUnavailable("away"), StoreUnavailable("away")):
        parts = Parts()
        parts.shared.is_lacking, parts.shared.lacking = True, failure
        loop = asyncio.get_running_loop()
        assert await parts.reserve() and await parts.reserve(), "whoever cannot be read is asked all the same"
        assert parts.shared.preparations == 1
        assert 0 < parts.counters._prepare_at - loop.time() <= PATIENT_SECONDS
        parts.counters._prepare_at, parts.shared.lacking = 0.0, None
        assert await parts.reserve() and await parts.reserve()
        assert parts.shared.preparations == 2
        await parts.counters.stop()


LATE: tuple[tuple[Decision | Exception, bool], ...] = (
    (ADMITTED, True),
    (REFUSED, False),
    (CountersUnavailable("away"), False),
)


@pytest.mark.asyncio
@pytest.mark.parametrize(("answer", "is_freed"), LATE, ids=["admitted", "refused", "failed"])
async def test_what_a_late_answer_has_reserved_is_freed(answer: Decision | Exception, is_freed: bool) -> None:
    parts = Parts()
    parts.be_late()
    parts.shared.answer = answer
    reservation = await parts.reserve()
    assert reservation is not None and reservation.local
    parts.shared.may_answer.set()
    while not parts.counters._settlements and not parts.shared.settlements and is_freed:
        await asyncio.sleep(0)
    await parts.is_settled()
    freed = [
        (one.reservation.lease, one.reservation.leases, one.reservation.tokens, one.tokens, one.money)
        for one in parts.shared.settlements
    ]
    assert freed == ([(3, {"key:k": 4}, 2, 0, 0)] if is_freed else [])
    await parts.counters.stop()


@pytest.mark.asyncio
async def test_failures_in_a_row_and_no_others_leave_the_counters_alone() -> None:
    parts = Parts()
    failure = CountersUnavailable("away")
    for answers in ([failure] * (MAX_FAILURES - 1), [ADMITTED], [failure] * (MAX_FAILURES - 1)):
        for answer in answers:
            parts.shared.answer = answer
            assert await parts.reserve() is not None
        assert not parts.reasons and not parts.counters.degraded
    calls = parts.shared.reservations
    for _ in range(3):
        assert await parts.reserve() is not None
    assert parts.reasons == ["limits: away"] == [parts.counters.degraded]
    assert parts.shared.reservations == calls + 1, "they are left alone from then on"
    await parts.counters.stop()


@pytest.mark.asyncio
async def test_where_the_settings_refuse_not_even_one_late_answer_admits() -> None:
    parts = Parts(refuses=True)
    parts.be_late()
    with pytest.raises(CountersUnavailable, match="did not answer"):
        await parts.reserve()
    parts.shared.may_answer.set()
    parts.counters._timeout = 30.0
    assert await parts.reserve() is not None
    parts.shared.answer = CountersUnavailable("away")
    for _ in range(MAX_FAILURES):
        with pytest.raises(CountersUnavailable):
            await parts.reserve()
    with pytest.raises(CountersUnavailable, match="limits: away"):
        await parts.reserve()
    await parts.counters.stop()


@pytest.mark.asyncio
@pytest.mark.parametrize("stores_all", [False, True])
async def test_what_was_spent_is_stored_where_the_shared_counters_may_lose_it(stores_all: bool) -> None:
    parts = Parts(stores_all=stores_all)
    first, second = await parts.reserve(), await parts.reserve()
    assert first is not None and second is not None
    parts.counters.settle(Settlement(first, 0, 4))
    await parts.is_settled()
    assert (parts.stored.spent, parts.shared.doubted) == ([4] if stores_all else [], [])
    parts.shared.settling_fails = True
    parts.counters.settle(Settlement(second, 0, 6))
    await parts.is_settled()
    assert parts.stored.spent[-1:] == [6] and parts.shared.doubted == [BUDGET]
    await parts.counters.stop()


@pytest.mark.asyncio
async def test_whom_a_settlement_has_reached_hears_nothing_of_it_again() -> None:
    parts = Parts(stores_all=True)
    parts.shared.answer = replace(ADMITTED, states=(CounterState(0, 5), CounterState(0, 5)))
    _, _, reservation = await parts.counters.reserve((TOKENS, TEAM_TOKENS), 5, 0)
    assert reservation is not None
    parts.shared.failures = [CountersUnavailable("away", {TOKENS.subject})]
    parts.counters.settle(Settlement(reservation, 3, 4))
    await until(lambda: len(parts.shared.settlements) == 2)
    whole, rest = parts.shared.settlements
    assert tuple(whole.reservation.counters) == (TOKENS, TEAM_TOKENS) and (whole.tokens, whole.money) == (3, 4)
    assert rest.reservation.counters == [TOKENS] and (rest.tokens, rest.money) == (3, 0), "the database has the money"
    assert parts.shared.doubted == [TOKENS] and parts.stored.spent == [4]
    await parts.counters.stop()


@pytest.mark.asyncio
async def test_what_was_spent_without_them_is_handed_over_to_each_once() -> None:
    parts = Parts()
    parts.shared.answer = CountersUnavailable("away")
    parts.shared.failures = [CountersUnavailable("away", {TOKENS.subject})]
    shares, _, reservation = await parts.counters.reserve((TOKENS, TEAM_TOKENS), 5, 0)
    assert reservation is not None and reservation.local
    # As after an outage: it has ended before anybody could be told.
    cast(Any, parts.counters)._settle_alone(Settlement(reservation, 3, 0))
    await until(lambda: len(parts.shared.past) == 2)
    key, team = (share.id for share in shares)
    assert [[(one.counter.id, one.amount) for one in past] for past in parts.shared.past] == [
        [(key, 3), (team, 3)],
        [(key, 3)],
    ]
    await parts.counters.stop()


@pytest.mark.asyncio
async def test_what_ends_while_it_is_handed_over_is_not_under_way_after_that() -> None:
    parts = Parts()
    parts.shared.answer = CountersUnavailable("away")
    _, _, reservation = await parts.counters.reserve((TOKENS,), 5, 0)
    assert reservation is not None
    loop, settlement = asyncio.get_running_loop(), Settlement(reservation, 3, 0)
    # After the shared counters have answered, and before anybody has read it.
    parts.shared.adopted = lambda: loop.call_soon(parts.counters.settle, settlement)
    await until(lambda: len(parts.shared.settlements) == 1)
    assert not list(parts.shared.live())
    await parts.counters.stop()


@pytest.mark.asyncio
async def test_a_refusal_reserves_nothing() -> None:
    parts = Parts()
    parts.shared.answer = REFUSED
    assert await parts.reserve() is None and not parts.counters._live
    parts.shared.answer = ADMITTED
    reservation = await parts.reserve(REQUESTS)
    assert list(parts.counters._live) == [reservation]
    await parts.counters.stop()


@pytest.mark.asyncio
async def test_what_is_settled_during_a_renewal_is_settled_after_it() -> None:
    parts = Parts()
    settled, other, ended = [await parts.reserve() for _ in range(3)]
    assert settled is not None and other is not None and ended is not None
    parts.end_timer()
    now = asyncio.get_running_loop().time()
    live = parts.counters._live
    live.update({settled: now - RENEW_SECONDS, other: now - RENEW_SECONDS, ended: now - RENEW_SECONDS - 5})
    began = dict(live)
    parts.shared.may_answer.clear()
    renewing = asyncio.get_running_loop().create_task(parts.counters._renew(now))
    while not parts.shared.renewals:
        await asyncio.sleep(0)
    # One of those that are renewed now, and one whose turn has not come.
    parts.counters.settle(Settlement(settled, 0, 4))
    parts.counters.settle(Settlement(ended, 0, 4))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not parts.shared.settlements, "it has to name the lease that the renewal gives"
    parts.shared.may_answer.set()
    await renewing
    assert parts.shared.renewals == [[settled, other]], "what has ended is not reserved anew"
    assert live == {other: began[other] + RENEW_SECONDS}
    await parts.is_settled()
    assert [one.reservation for one in parts.shared.settlements] == [settled, ended]
    await parts.counters.stop()


@pytest.mark.asyncio
async def test_a_renewal_that_failed_is_tried_again() -> None:
    parts = Parts()
    reservation = await parts.reserve()
    assert reservation is not None
    parts.end_timer()
    now = asyncio.get_running_loop().time()
    parts.counters._live[reservation] = now - RENEW_SECONDS
    parts.shared.renewing_fails = True
    with pytest.raises(CountersUnavailable):
        await parts.counters._renew(now)
    parts.shared.renewing_fails = False
    await parts.counters._renew(now)
    await parts.counters._renew(now)
    assert parts.shared.renewals == [[reservation]] * 2
    await parts.counters.stop()


# --- which counters the settings ask for -----------------------------------------------------------------------

REDIS = "redis://127.0.0.1:1/0"


class Reports:
    """What an operator is shown."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.alerts: list[tuple[str, ...]] = []
        self.metrics = Metrics(lambda model: True, ())

    def message(self, text: str) -> None:
        self.messages.append(text)

    def raise_alert(self, *words: str) -> None:
        self.alerts.append(words)


def counters_for(folder: Path, reports: Reports | None = None, **fields: Any) -> Any:
    reports = reports or Reports()
    fields.setdefault("database_url", f"sqlite:///{folder}/g.db")
    limiter = create_limiter(
        Settings(**fields), cast(KeyDirectory, None), reports.metrics, cast(Log, reports), cast(Alerts, reports)
    )
    return limiter.counters


def test_one_process_counts_in_its_memory(tmp_path: Path) -> None:
    assert isinstance(counters_for(tmp_path), ProcessCounters)


@pytest.mark.parametrize(
    "fields",
    [{"workers": 2}, {"database_url": "postgresql://somebody@127.0.0.1:1/none"}],
    ids=["workers", "postgresql"],
)
@pytest.mark.parametrize(("timeout", "seconds"), [(0.05, COUNTING_SECONDS), (9.0, 9.0)])
def test_a_database_counts_for_several(tmp_path: Path, fields: Any, timeout: float, seconds: float) -> None:
    counters = counters_for(tmp_path, limits=LimitSettings(timeout=timeout), **fields)
    assert isinstance(counters, SharedCounters) and isinstance(counters._shared, SqlCounters)
    assert (counters._timeout, counters._stores_all, counters._refuses) == (seconds, False, False)


@pytest.mark.parametrize(("cluster", "kind"), [(False, RedisCounters), (True, RedisClusterCounters)])
def test_redis_counts_where_there_is_one(tmp_path: Path, cluster: bool, kind: type) -> None:
    limits = LimitSettings(timeout=0.05, on_failure="refuse")
    counters = counters_for(tmp_path, redis_url=REDIS, redis_cluster=cluster, limits=limits, workers=2)
    assert isinstance(counters, SharedCounters) and type(counters._shared) is kind
    assert (counters._timeout, counters._stores_all, counters._refuses) == (0.05, True, True)


def test_an_address_of_nothing_is_named_by_its_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="^redis_url: "):
        counters_for(tmp_path, redis_url="http://127.0.0.1")


def test_an_operator_is_shown_that_counters_are_lost_and_found(tmp_path: Path) -> None:
    reports = Reports()
    counters = counters_for(tmp_path, reports, redis_url=REDIS)
    on_change: Callable[[str], None] = counters._on_change

    def degraded() -> Any:
        return reports.metrics.limits_degraded._value.get()

    on_change("limits: away")
    assert (reports.messages, degraded()) == (["limits: away"], 1)
    assert reports.alerts == [("limits_degraded", "limits", "limits: away")]
    on_change("")
    assert (reports.messages[1:], degraded()) == (["limits: the shared counters answer again"], 0)
    assert len(reports.alerts) == 1
    counters._stored._on_error(OSError("the disk is full"))
    assert reports.messages[2:] == ["limits: the spent budgets could not be stored or read: the disk is full"]
