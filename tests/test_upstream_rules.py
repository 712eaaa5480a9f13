"""The rules of the upstream room without sockets: what is asked again, which key serves, when a breaker opens.

Clocks are numbers that the test moves; chance has a seed, or is turned off.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.errors import UpstreamError
from gateway.settings.schema import BreakerSettings, ConcurrencySettings, PoolSettings, Retries
from gateway.upstream import retry
from gateway.upstream.circuit_breaker import CONNECTION, Breakers
from gateway.upstream.concurrency import ConcurrencyLimiter
from gateway.upstream.key_pool import (
    BUDGETS,
    COOLING,
    LONGEST_REST,
    MINUTE,
    OTHERS,
    PARKED,
    PROBES,
    Lease,
    Pool,
    PoolKey,
    endpoint,
)
from gateway.upstream.response import stopping
from gateway.upstream.retry import Key, RetryBudget, Rule
from translators.core.errors import Failure
from translators.core.upstream_errors import refusal

A, PLUS = "command-a-03-2025", "command-a-plus-05-2026"


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


class Middling(random.Random):
    """No chance at all: pauses are three quarters of what they may be."""

    def random(self) -> float:
        return 0.5


# --- what is asked again ------------------------------------------------------------------------------------

MONTH = b'{"message":"You are past the per-month request limit for this model, please wait and try again later."}'
MINUTE_PAST = b'{"message":"You are past the per minute request limit, please wait and try again later."}'

DECISIONS: tuple[tuple[str, int, bytes, bool, Key, bool], ...] = (
    ("400", 400, b'{"message":"invalid request"}', False, Key.KEPT, False),
    ("401", 401, b'{"message":"invalid api token"}', False, Key.PARKED, False),
    ("402", 402, b'{"message":"Please add your payment method"}', False, Key.PARKED, False),
    ("403", 403, b'{"message":"no"}', False, Key.KEPT, False),
    ("404", 404, b'{"message":"model \'xyz\' not found"}', False, Key.KEPT, False),
    ("422", 422, b'{"message":"no"}', False, Key.KEPT, False),
    ("422 of a generation", 422, b'{"error_type":"NO_VALID_RESPONSE_GENERATED","message":"x"}', True, Key.KEPT, False),
    ("422 of tools", 422, b'{"error_type":"INVALID_TOOL_GENERATION","message":"x"}', True, Key.KEPT, False),
    ("429 of a minute", 429, MINUTE_PAST, True, Key.COOLS, False),
    ("429 of a month", 429, MONTH, False, Key.PARKED, False),
    ("498", 498, b'{"message":"blocked"}', False, Key.KEPT, False),
    ("499", 499, b'{"message":"request cancelled"}', False, Key.KEPT, False),
    ("500", 500, b'{"message":"oops"}', True, Key.KEPT, True),
    ("501", 501, b'{"message":"no"}', False, Key.KEPT, False),
    ("502, a page", 502, b"<html>Bad Gateway</html>", True, Key.KEPT, True),
    ("503", 503, b"", True, Key.KEPT, True),
    ("504", 504, b"", True, Key.KEPT, True),
    ("301", 301, b"", False, Key.KEPT, False),
)


@pytest.mark.parametrize("own", [True, False], ids=["own", "server"])
@pytest.mark.parametrize(
    ("status", "body", "again", "key", "breaks"), [row[1:] for row in DECISIONS], ids=[row[0] for row in DECISIONS]
)
def test_a_refusal(status: int, body: bytes, again: bool, key: Key, breaks: bool, own: bool) -> None:
    found = retry.rule(retry.trouble(status, refusal(status, body, own).code))
    assert (found.again, found.key, found.breaks) == (again, key, breaks)
    assert found.once is (status == 422 and again)


@pytest.mark.parametrize(
    ("cause", "again", "breaks"),
    [("unreachable", True, True), ("cut", True, True), ("silent", False, True), ("", False, False)],
)
def test_a_connection(cause: str, again: bool, breaks: bool) -> None:
    assert (retry.rule(cause).again, retry.rule(cause).breaks) == (again, breaks)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("soon", None),
        ("nan", None),
        ("1e99", retry.LONGEST_RETRY_AFTER),
        ("Thu, 01 Jan 1970 00:01:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
        ("Thu, 99 Jan 1970 00:00:01 GMT", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry.retry_after(value, 40.0) == seconds


AGAIN = Rule(again=True)


def patience(clock: Callable[[], float], chance: random.Random | None = None, **settings: float) -> RetryBudget:
    return RetryBudget(Retries(**settings), clock(), clock, chance or Middling())  # type: ignore[arg-type]


def test_pauses_double_up_to_the_longest() -> None:
    left = patience(Clock(), count=6, initial_backoff=1.0, max_backoff=8.0, budget=100.0)
    assert [left.pause(AGAIN) for _ in range(7)] == [0.75, 1.5, 3.0, 6.0, 6.0, 6.0, None]


def test_what_is_final_is_not_asked_again() -> None:
    assert patience(Clock()).pause(Rule()) is None
    assert patience(Clock(), count=0).pause(AGAIN) is None


def test_a_retry_after_is_obeyed_if_the_budget_allows() -> None:
    left = patience(Clock(), budget=30.0)
    assert left.pause(AGAIN, 31.0) is None
    assert left.pause(AGAIN, float("inf")) is None
    pause = left.pause(AGAIN, 20.0)
    assert pause is not None and 20.0 <= pause < 21.0


def test_the_budget_counts_from_the_first_call() -> None:
    clock = Clock()
    left = patience(clock, budget=10.0, count=5)
    clock.passes(9)
    assert left.pause(AGAIN) is not None
    clock.passes(1)
    assert left.pause(AGAIN) is None


def test_a_generation_is_asked_for_once_more_if_the_setting_says_so() -> None:
    assert patience(Clock()).pause(retry.RULES["generation"]) is None
    left = patience(Clock(), invalid_generation=True, count=5)
    assert left.pause(retry.RULES["generation"]) == 0.0
    assert left.pause(retry.RULES["generation"]) is None


@given(st.integers(), st.integers(0, 8), st.floats(0, 100), st.one_of(st.none(), st.floats(0, 100)))
def test_no_pause_leaves_its_bounds(seed: int, count: int, budget: float, told: float | None) -> None:
    clock = Clock()
    left = patience(clock, random.Random(seed), count=count, budget=budget)
    pauses: list[float] = []
    while (pause := left.pause(AGAIN, told)) is not None:
        assert pause >= (told or 0.0)
        assert 0.25 <= pause <= max(8.0, (told or 0.0) + 1.0)
        clock.passes(pause)
        pauses.append(pause)
    assert len(pauses) <= count and sum(pauses) <= budget + 1e-6


# --- which key serves ---------------------------------------------------------------------------------------


def taken(found: Lease | float | None) -> Lease:
    assert isinstance(found, Lease), found
    return found


def secret(found: Lease | float | None) -> str:
    return taken(found).key.secret


def pool(*secrets: str, clock: Clock | None = None, kind: str = "learned") -> Pool:
    return Pool(secrets, PoolSettings(kind=kind), clock or Clock())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v2/chat", "chat"),
        ("/v1/chat", "chat"),
        ("/v2/embed", "embed"),
        ("/v1/embed-jobs/x/cancel", "embed-jobs"),
        ("/v2/audio/transcriptions", "audio"),
        ("/v1/models?page_size=1000", "models"),
        ("/v1", ""),
        ("/", ""),
        ("", ""),
    ],
)
def test_the_endpoint_of_a_path(path: str, name: str) -> None:
    assert endpoint(path) == name


def test_calls_are_shared_evenly() -> None:
    three = pool("a", "b", "c")
    used = [secret(three.take("/v2/chat", A)) for _ in range(30)]
    assert {one: used.count(one) for one in "abc"} == {"a": 10, "b": 10, "c": 10}


def test_a_trial_key_serves_less_than_a_production_key() -> None:
    clock = Clock()
    two = pool("trial", "production", clock=clock)
    two.succeeded(taken(two.take("/v2/chat", A)), "20", "19")
    used = [secret(two.take("/v2/chat", A)) for _ in range(100)]
    assert 1 <= used.count("trial") <= 8


def test_budgets_are_by_endpoint_and_for_chat_by_model() -> None:
    one = pool("a", kind="trial")
    for _ in range(BUDGETS["chat"].trial):
        taken(one.take("/v2/chat", A))
    wait = one.take("/v2/chat", A)
    assert wait == MINUTE
    taken(one.take("/v2/chat", PLUS))
    taken(one.take("/v2/rerank", A))


@pytest.mark.parametrize("kind", ["trial", "production"])
@pytest.mark.parametrize("path", ["/v2/chat", "/v2/embed", "/v1/embed-jobs", "/v2/rerank", "/v1/tokenize", "/v1/x"])
def test_a_declared_kind_is_held_to_its_budget(path: str, kind: str) -> None:
    clock = Clock()
    one = pool("a", clock=clock, kind=kind)
    limit = getattr(BUDGETS.get(endpoint(path), OTHERS), kind)
    for _ in range(limit):
        taken(one.take(path, A))
    clock.passes(20)
    assert one.take(path, A) == MINUTE - 20
    clock.passes(40)
    taken(one.take(path, A))


def test_models_that_sales_must_open_have_a_trials_budget() -> None:
    one = pool("a", kind="production")
    for _ in range(20):
        taken(one.take("/v2/chat", PLUS))
    assert isinstance(one.take("/v2/chat", PLUS), float)


def test_inputs_weigh() -> None:
    one = pool("a", kind="production")
    for _ in range(20):
        taken(one.take("/v2/embed", "embed-v4.0", 96))
    assert one.take("/v2/embed", "embed-v4.0", 96) == MINUTE
    taken(one.take("/v2/embed", "embed-v4.0", 80))


def test_nothing_is_held_back_before_cohere_has_said_so() -> None:
    """A private deployment has other budgets, and the table must not slow it down."""
    one = pool("a")
    for _ in range(2_000):
        taken(one.take("/v2/chat", A))


def test_trial_headers_are_believed() -> None:
    clock = Clock()
    one = pool("a", clock=clock)
    lease = taken(one.take("/v2/chat", A))
    one.succeeded(lease, "20", "1")
    taken(one.take("/v2/chat", A))
    clock.passes(15)
    assert one.take("/v2/chat", A) == MINUTE - 15
    clock.passes(45)
    taken(one.take("/v2/chat", A))


@pytest.mark.parametrize(("limit", "remaining"), [("", ""), ("x", "3"), ("0", "0"), ("-5", "1"), ("20", "x")])
def test_strange_trial_headers_do_no_harm(limit: str, remaining: str) -> None:
    one = pool("a")
    one.succeeded(taken(one.take("/v2/chat", A)), limit, remaining)
    taken(one.take("/v2/chat", A))


def test_a_key_that_gets_429_rests_longer_each_time() -> None:
    clock = Clock()
    one = pool("a", clock=clock)
    for rest in (*COOLING, COOLING[-1]):
        lease = taken(one.take("/v2/chat", A))
        one.cools(lease, None)
        assert one.take("/v2/chat", A, passed=[lease.key]) == pytest.approx(rest)
        taken(one.take("/v2/rerank"))  # another endpoint has another budget
        clock.passes(rest)
    one.succeeded(taken(one.take("/v2/chat", A)), "", "")
    one.cools(taken(one.take("/v2/chat", A)), None)
    assert one.take("/v2/chat", A) == pytest.approx(COOLING[0])


def test_calls_that_were_refused_together_are_one_strike() -> None:
    one = pool("a", clock=Clock())
    leases = [taken(one.take("/v2/chat", A)) for _ in range(5)]
    for lease in leases:
        one.cools(lease, None)
    assert one.take("/v2/chat", A) == pytest.approx(COOLING[0])


def test_a_key_rests_for_as_long_as_cohere_says() -> None:
    one = pool("a", clock=Clock())
    one.cools(taken(one.take("/v2/chat", A)), 42.0)
    assert one.take("/v2/chat", A) == pytest.approx(42.0)


def test_whatever_somebody_says_a_key_rests_for_minutes_at_most() -> None:
    one = pool("a", clock=Clock())
    one.cools(taken(one.take("/v2/chat", A)), 86_400.0)
    assert one.take("/v2/chat", A) == pytest.approx(LONGEST_REST)


def test_a_rest_of_our_own_guess_keeps_nobody_for_long() -> None:
    """Cohere names no time with a 429. Where nothing else is left, a key that rests is tried once a second."""
    clock = Clock()
    one = pool("a", clock=clock)
    lease = taken(one.take("/v2/rerank"))
    for rest in COOLING[:4]:
        clock.passes(rest)
        one.cools(lease, None)
    assert one.take("/v2/rerank") == PROBES
    clock.passes(PROBES)
    assert one.take("/v2/rerank", passed=[lease.key]) == COOLING[3] - PROBES, "this request has tried it"
    assert one.take("/v2/rerank", passed=[lease.key], longest=8.0) == 8.0 - PROBES
    probe = taken(one.take("/v2/rerank"))
    assert one.take("/v2/rerank") == PROBES, "one is under way"
    one.cools(probe, None)
    assert one.take("/v2/rerank", passed=[lease.key]) == COOLING[3] - PROBES, "a refused probe makes nothing worse"
    clock.passes(PROBES)
    one.succeeded(taken(one.take("/v2/rerank")), "", "")
    taken(one.take("/v2/rerank"))  # Cohere serves again: nobody waits any more
    one.cools(lease, 30.0)
    assert one.take("/v2/rerank") == 30.0, "what Cohere has said is no guess"


def test_a_key_that_is_free_is_no_reason_to_try_one_that_rests() -> None:
    clock = Clock()
    two = pool("a", "b", clock=clock)
    resting = taken(two.take("/v2/chat", A))
    for rest in COOLING[:5]:
        clock.passes(rest)
        two.cools(resting, None)
    clock.passes(PROBES)
    assert len({secret(two.take("/v2/chat", A)) for _ in range(50)}) == 1


def test_a_budget_that_is_spent_is_no_guess() -> None:
    clock = Clock()
    one = pool("a", clock=clock, kind="trial")
    for _ in range(20):
        lease = taken(one.take("/v2/chat", A))
    one.cools(lease, None)
    clock.passes(COOLING[0])
    assert one.take("/v2/chat", A) == MINUTE - COOLING[0]


def test_a_late_success_does_not_end_a_rest() -> None:
    clock = Clock()
    one = pool("a", clock=clock)
    slow, refused = (taken(one.take("/v2/chat", A)) for _ in range(2))
    clock.passes(1)
    one.cools(refused, None)
    one.succeeded(slow, "", "")
    assert one.take("/v2/chat", A) == COOLING[0]


WHY = Failure(502, "x", code="upstream_auth")


def test_a_parked_key_is_passed_over_and_tried_again() -> None:
    clock = Clock()
    two = pool("a", "b", clock=clock)
    lease = taken(two.take("/v2/chat", A))
    assert two.park(lease, WHY) and not two.park(lease, WHY)
    assert two.parked == 1
    assert {secret(two.take("/v2/chat", A)) for _ in range(10)} == {"b"}
    clock.passes(PARKED)
    again = next(
        found for found in (taken(two.take("/v2/chat", A)) for _ in range(10)) if found.key.secret == lease.key.secret
    )
    assert two.succeeded(again, "", "") and two.parked == 0
    assert not two.succeeded(again, "", "")


def test_of_parked_keys_alone_the_one_parked_for_longest_is_tried() -> None:
    clock = Clock()
    two = pool("a", "b", clock=clock)
    first = taken(two.take("/v2/chat", A))
    two.park(first, WHY)
    clock.passes(1)
    second = taken(two.take("/v2/chat", A))
    two.park(second, WHY)
    assert secret(two.take("/v2/chat", A)) == first.key.secret
    assert secret(two.take("/v2/chat", A, 1, [first.key])) == second.key.secret
    assert two.take("/v2/chat", A, 1, [first.key, second.key]) is None


def test_what_a_request_tried_in_vain_is_not_lent_to_it_at_once() -> None:
    two = pool("a", "b", clock=Clock())
    first = taken(two.take("/v2/chat", A))
    two.cools(first, 0.0)
    other = taken(two.take("/v2/chat", A, 1, [first.key]))
    assert other.key is not first.key
    assert two.take("/v2/chat", A, 1, [first.key, other.key]) == 0.0


def test_other_keys_keep_what_is_known_of_those_that_stay() -> None:
    clock = Clock()
    found = pool("a", "b", clock=clock)
    leases = [taken(found.take("/v2/chat", A)) for _ in range(2)]
    found.cools(next(one for one in leases if one.key.secret == "a"), 30.0)
    found.park(next(one for one in leases if one.key.secret == "b"), WHY)
    found.configure(["c", "a", "b", "a"], PoolSettings())
    assert (len(found), found.parked) == (3, 0)
    assert {secret(found.take("/v2/chat", A)) for _ in range(20)} == {"b", "c"}


def test_no_key_is_shown() -> None:
    key = PoolKey("a-secret-key", 2, 3, "learned")
    assert key.name.startswith("key 2 of 3 (sha256 ") and "secret" not in key.name


def test_models_that_callers_make_up_do_not_fill_the_memory() -> None:
    one = pool("a")
    for number in range(3_000):
        taken(one.take("/v2/chat", f"model {number}"))
    assert len(one._keys[0].buckets) <= 500


# --- breakers -----------------------------------------------------------------------------------------------


def breakers(clock: Clock, **settings: float) -> tuple[Breakers, list[tuple[str | None, bool]]]:
    changes: list[tuple[str | None, bool]] = []
    given = BreakerSettings(**{"failures": 3, "window": 10.0, "open_seconds": 5.0, **settings})  # type: ignore[arg-type]
    return Breakers(given, clock, lambda name, is_open: changes.append((name, is_open))), changes


def test_a_breaker_opens_is_probed_and_closes() -> None:
    clock = Clock()
    found, changes = breakers(clock)
    for _ in range(3):
        assert found.refused(A) == 0
        found.failed(A, way=False)
    assert changes == [(A, True)]
    assert found.refused(A) == 5.0
    assert found.refused("another") == 0
    clock.passes(5)
    assert found.refused(A) == 0  # the probe
    assert found.refused(A) > 0  # one is enough
    found.failed(A, way=False)
    assert found.refused(A) == 5.0
    clock.passes(5)
    assert found.refused(A) == 0
    found.succeeded(A)
    assert changes == [(A, True), (A, False)]
    assert [found.refused(A) for _ in range(3)] == [0, 0, 0]


def test_a_probe_that_says_nothing_gives_way_to_the_next() -> None:
    clock = Clock()
    found, _ = breakers(clock)
    for _ in range(3):
        found.failed(A, way=False)
    clock.passes(5)
    assert found.refused(A) == 0
    found.undecided(A)
    assert found.refused(A) == 0


def test_the_way_is_for_all_models() -> None:
    found, changes = breakers(Clock())
    for model in ("a", "b", "c"):
        found.failed(model, way=True)
    assert changes == [(CONNECTION, True)]
    assert found.refused("d") > 0


def test_an_answer_of_any_kind_says_that_the_way_is_open() -> None:
    found, changes = breakers(Clock())
    for _ in range(4):
        found.failed("a", way=True)
        found.failed("b", way=False)
        found.succeeded("c")
    assert [name for name, _ in changes] == ["b"]


def test_few_failures_among_many_calls_do_not_open_it() -> None:
    found, changes = breakers(Clock())
    for _ in range(50):
        found.failed(A, way=False)
        for _ in range(2):
            found.succeeded(A)
    assert not changes


def test_old_failures_do_not_count() -> None:
    clock = Clock()
    found, changes = breakers(clock)
    for _ in range(20):
        found.failed(A, way=False)
        clock.passes(6)
    assert not changes


def test_late_news_of_calls_from_before_change_nothing() -> None:
    clock = Clock()
    found, changes = breakers(clock)
    for _ in range(3):
        found.failed(A, way=False)
    found.succeeded(A)
    found.failed(A, way=False)
    assert found.refused(A) == 5.0 and len(changes) == 1


def test_none_opens_when_they_are_off() -> None:
    found, changes = breakers(Clock(), failures=0)
    for _ in range(100):
        found.failed(A, way=True)
    assert not changes and found.refused(A) == 0


def test_breakers_that_are_switched_off_close() -> None:
    """Else one that waits for its probe would wait for ever: nothing counts any more."""
    clock = Clock()
    found, changes = breakers(clock)
    for _ in range(3):
        found.failed(A, way=False)
    clock.passes(5)
    assert found.refused(A) == 0  # the probe
    found.configure(BreakerSettings(failures=0))
    found.failed(A, way=False)
    assert [found.refused(A) for _ in range(3)] == [0, 0, 0]
    assert changes == [(A, True), (A, False)]


def test_breakers_are_bounded_and_forget_what_works() -> None:
    found, _ = breakers(Clock(), failures=1)
    found.failed("bad", way=False)
    found.settings = BreakerSettings(failures=5)
    for number in range(3_000):
        found.failed(f"model {number}", way=False)
    assert len(found._of) <= 1_001
    assert found.refused("bad") > 0


# --- places -------------------------------------------------------------------------------------------------


def places(**settings: float) -> ConcurrencyLimiter:
    return ConcurrencyLimiter(ConcurrencySettings(**settings))  # type: ignore[arg-type]


async def queued(found: ConcurrencyLimiter, *owners: str) -> list[str]:
    """These callers wait, one after the other; who got a place, in order, as one place is handed on and on."""
    served: list[str] = []

    async def one(owner: str) -> None:
        await found.acquire(owner)
        served.append(owner)

    tasks = [asyncio.create_task(one(owner)) for owner in owners]
    await asyncio.sleep(0)
    for _ in owners:
        found.release()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    return served


def test_turns_rotate_among_callers() -> None:
    async def main() -> None:
        found = places(max_in_flight=1)
        assert found.try_acquire()
        assert await queued(found, "a", "a", "a", "b", "c", "a", "b") == ["a", "b", "c", "a", "b", "a", "a"]
        found.release()
        assert (found.taken, found.waiting) == (0, 0)

    asyncio.run(main())


def test_nobody_overtakes_those_who_wait() -> None:
    async def main() -> None:
        found = places(max_in_flight=1)
        assert found.try_acquire()
        waiting = asyncio.create_task(found.acquire("a"))
        await asyncio.sleep(0)
        assert not found.try_acquire()
        found.release()
        assert not found.try_acquire()
        await waiting
        found.release()
        assert found.try_acquire()

    asyncio.run(main())


def test_the_queue_is_bounded() -> None:
    async def main() -> None:
        found = places(max_in_flight=1, queue_size=1)
        assert found.try_acquire()
        waiting = asyncio.create_task(found.acquire("a"))
        await asyncio.sleep(0)
        with pytest.raises(UpstreamError) as caught:
            await found.acquire("b")
        assert (caught.value.failure.status, caught.value.retry_after) == (503, "1")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert (found.taken, found.waiting) == (1, 0)

    asyncio.run(main())


def test_waiting_is_bounded() -> None:
    async def main() -> None:
        found = places(max_in_flight=1, queue_timeout=0.0)
        assert found.try_acquire()
        with pytest.raises(UpstreamError):
            await found.acquire("a")
        assert (found.taken, found.waiting) == (1, 0)
        found.release()
        assert found.try_acquire()

    asyncio.run(main())


def test_more_places_are_for_those_who_wait_already() -> None:
    async def main() -> None:
        places = ConcurrencyLimiter(ConcurrencySettings(max_in_flight=1, queue_size=5, queue_timeout=5))
        await places.acquire("first")
        waiting = [asyncio.create_task(places.acquire("x")) for _ in range(3)]
        await asyncio.sleep(0)
        places.configure(ConcurrencySettings(max_in_flight=3, queue_size=5, queue_timeout=5))
        await asyncio.wait_for(asyncio.gather(*waiting[:2]), 1)
        assert not waiting[2].done()
        places.release()
        await asyncio.wait_for(waiting[2], 1)

    asyncio.run(main())


@pytest.mark.parametrize("first", ["leave", "cancel"])
def test_a_place_is_not_lost_when_its_caller_leaves_in_that_moment(first: str) -> None:
    async def main() -> None:
        found = places(max_in_flight=1)
        assert found.try_acquire()
        waiting = asyncio.create_task(found.acquire("a"))
        await asyncio.sleep(0)
        if first == "leave":
            found.release()
            waiting.cancel()
        else:
            waiting.cancel()
            found.release()
        await asyncio.gather(waiting, return_exceptions=True)
        assert (found.taken, found.waiting) == (0, 0)
        assert found.try_acquire()

    asyncio.run(main())


def test_all_who_wait_can_be_sent_away() -> None:
    async def main() -> None:
        found = places(max_in_flight=1)
        assert found.try_acquire()
        waiting = [asyncio.create_task(found.acquire(owner)) for owner in "aab"]
        await asyncio.sleep(0)
        found.reject_waiters(stopping())
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(answer, UpstreamError) for answer in answers)
        assert (found.taken, found.waiting) == (1, 0)

    asyncio.run(main())
