"""The rules of the upstream room without sockets: what is asked again, which key serves, when a breaker opens.

Clocks are numbers that the test moves; chance has a seed, or is turned off.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable
from unittest.mock import patch

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.errors import UpstreamError
from gateway.settings.schema import BreakerSettings, ConcurrencySettings, PoolSettings, Retries
from gateway.upstream import key_mask, retry
from gateway.upstream.circuit_breaker import CONNECTION, Breakers
from gateway.upstream.concurrency import ConcurrencyLimiter
from gateway.upstream.key_mask import KeyMask
from gateway.upstream.key_pool import (
    BUDGETS,
    COOLDOWNS,
    DEFAULT_BUDGET,
    DISABLED_SECONDS,
    MAX_COOLDOWN,
    PROBE_INTERVAL,
    WINDOW,
    KeyPool,
    Lease,
    PoolKey,
    endpoint,
)
from gateway.upstream.response import shutdown_error
from gateway.upstream.retry import KeyAction, RetryBudget, Rule
from support.waiting import WAIT_SECONDS
from translators.core.upstream_errors import upstream_failure

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

DECISIONS: tuple[tuple[str, int, bytes, bool, KeyAction, bool], ...] = (
    ("400", 400, b'{"message":"invalid request"}', False, KeyAction.KEEP, False),
    ("401", 401, b'{"message":"invalid api token"}', False, KeyAction.DISABLE, False),
    ("402", 402, b'{"message":"Please add your payment method"}', False, KeyAction.DISABLE, False),
    ("403", 403, b'{"message":"no"}', False, KeyAction.KEEP, False),
    ("404", 404, b'{"message":"model \'xyz\' not found"}', False, KeyAction.KEEP, False),
    ("422", 422, b'{"message":"no"}', False, KeyAction.KEEP, False),
    (
        "422 of a generation",
        422,
        b'{"error_type":"NO_VALID_RESPONSE_GENERATED","message":"x"}',
        True,
        KeyAction.KEEP,
        False,
    ),
    ("422 of tools", 422, b'{"error_type":"INVALID_TOOL_GENERATION","message":"x"}', True, KeyAction.KEEP, False),
    ("429 of a minute", 429, MINUTE_PAST, True, KeyAction.COOL_DOWN, False),
    ("429 of a month", 429, MONTH, False, KeyAction.DISABLE, False),
    ("498", 498, b'{"message":"blocked"}', False, KeyAction.KEEP, False),
    ("499", 499, b'{"message":"request cancelled"}', False, KeyAction.KEEP, False),
    ("500", 500, b'{"message":"oops"}', True, KeyAction.KEEP, True),
    ("501", 501, b'{"message":"no"}', False, KeyAction.KEEP, False),
    ("502, a page", 502, b"<html>Bad Gateway</html>", True, KeyAction.KEEP, True),
    ("503", 503, b"", True, KeyAction.KEEP, True),
    ("504", 504, b"", True, KeyAction.KEEP, True),
    ("301", 301, b"", False, KeyAction.KEEP, False),
)


@pytest.mark.parametrize("own", [True, False], ids=["own", "server"])
@pytest.mark.parametrize(
    ("status", "body", "again", "key", "breaks"), [row[1:] for row in DECISIONS], ids=[row[0] for row in DECISIONS]
)
def test_a_refusal(status: int, body: bytes, again: bool, key: KeyAction, breaks: bool, own: bool) -> None:
    result = retry.rule_for(retry.cause_of(status, upstream_failure(status, body, own).code), own)
    if own and status == 429 and again:
        again, key = False, KeyAction.KEEP  # the caller's SDK retries it
    assert (result.retry, result.key, result.breaks) == (again, key, breaks)
    assert result.once is (status == 422 and again)


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "insufficient_quota"), (500, "insufficient_quota"), (429, "rate_limit_exceeded"), (429, None)]
    + [(status, code) for status in (400, 429, 500) for code in sorted(retry.GENERATION_ERRORS)],
)
def test_a_code_is_of_its_status(status: int, code: str | None) -> None:
    assert retry.cause_of(status, code) == status


@pytest.mark.parametrize(
    ("cause", "again", "breaks"),
    [("unreachable", True, True), ("cut", True, True), ("silent", False, True), ("", False, False)],
)
def test_a_connection(cause: str, again: bool, breaks: bool) -> None:
    assert (retry.rule_for(cause).retry, retry.rule_for(cause).breaks) == (again, breaks)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", None),
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("1e99", None),
        ("1_0", None),
        ("7 seconds", None),
        ("999999999", retry.MAX_RETRY_AFTER),
        ("9999999999", None),
        ("Thu, 01 Jan 1970 00:01:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
        ("Thu, 99 Jan 1970 00:00:01 GMT", None),
        ("Thu, 01 Jan 99999999999999999999 00:00:01 GMT", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str, seconds: float | None) -> None:
    assert retry.parse_retry_after(value, 40.0) == seconds
    assert retry.retry_after_header(value) == (None if seconds is None else value)


@pytest.mark.parametrize("value", ["Thu Jan  1 00:01:00 1970", "Thu, 01 Jan 1970 00:01:00 -0000"])
def test_a_date_without_a_zone_is_in_utc(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert retry.parse_retry_after(value, 40.0) == 20.0
    finally:
        monkeypatch.undo()
        time.tzset()


AGAIN = Rule(retry=True)


def retry_budget(clock: Callable[[], float], chance: random.Random | None = None, **settings: float) -> RetryBudget:
    return RetryBudget(Retries(**settings), clock(), clock, chance or Middling())  # type: ignore[arg-type]


def test_pauses_double_up_to_the_longest() -> None:
    left = retry_budget(Clock(), count=6, initial_backoff=1.0, max_backoff=8.0, budget=100.0)
    assert [left.next_delay(AGAIN) for _ in range(7)] == [0.75, 1.5, 3.0, 6.0, 6.0, 6.0, None]


def test_what_is_final_is_not_retried() -> None:
    assert retry_budget(Clock()).next_delay(Rule()) is None
    assert retry_budget(Clock(), count=0).next_delay(AGAIN) is None


def test_a_retry_after_is_obeyed_if_the_budget_allows() -> None:
    left = retry_budget(Clock(), budget=30.0)
    assert left.next_delay(AGAIN, 31.0) is None
    assert left.next_delay(AGAIN, float("inf")) is None
    pause = left.next_delay(AGAIN, 20.0)
    assert pause is not None and 20.0 <= pause < 21.0


def test_the_budget_counts_from_the_first_call() -> None:
    clock = Clock()
    left = retry_budget(clock, budget=10.0, count=5)
    clock.passes(9)
    assert left.next_delay(AGAIN) is not None
    clock.passes(1)
    assert left.next_delay(AGAIN) is None
    left = retry_budget(clock, budget=10.0, invalid_generation=True)
    clock.passes(10)
    assert left.next_delay(retry.RULES["generation"]) == 0.0, "all of it may be used"


def test_a_generation_is_retried_once_if_the_setting_says_so() -> None:
    assert retry_budget(Clock()).next_delay(retry.RULES["generation"]) is None
    left = retry_budget(Clock(), invalid_generation=True, count=5)
    assert left.next_delay(retry.RULES["generation"]) == 0.0
    assert left.next_delay(retry.RULES["generation"]) is None


@given(st.integers(), st.integers(0, 8), st.floats(0, 100), st.one_of(st.none(), st.floats(0, 100)))
def test_no_pause_leaves_its_bounds(seed: int, count: int, budget: float, expected: float | None) -> None:
    clock = Clock()
    left = retry_budget(clock, random.Random(seed), count=count, budget=budget)
    pauses: list[float] = []
    while (pause := left.next_delay(AGAIN, expected)) is not None:
        assert pause >= (expected or 0.0)
        assert 0.25 <= pause <= max(8.0, (expected or 0.0) + 1.0)
        clock.passes(pause)
        pauses.append(pause)
    assert len(pauses) <= count and sum(pauses) <= budget + 1e-6


# --- which key serves ---------------------------------------------------------------------------------------


def granted(result: Lease | float | None) -> Lease:
    assert isinstance(result, Lease), result
    return result


def secret(result: Lease | float | None) -> str:
    return granted(result).key.secret


def pool(*secrets: str, clock: Clock | None = None, kind: str = "learned") -> KeyPool:
    return KeyPool(secrets, PoolSettings(kind=kind), clock or Clock())  # type: ignore[arg-type]


def test_the_report_says_how_long_a_key_is_passed_over() -> None:
    clock = Clock()
    three = pool("a", "b", "c", clock=clock)
    leases = {secret(lease): lease for lease in (granted(three.lease("/v2/chat", A)) for _ in range(3))}
    three.cool_down(leases["a"], 20.0)
    three.disable(leases["b"])
    clock.passes(5.0)
    report = [(one.number, one.state, one.seconds, one.used) for one in three.report()]
    assert report == [(1, "resting", 15.0, 1), (2, "disabled", DISABLED_SECONDS - 5.0, 1), (3, "ready", 0.0, 1)]


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
    used = [secret(three.lease("/v2/chat", A)) for _ in range(30)]
    assert {one: used.count(one) for one in "abc"} == {"a": 10, "b": 10, "c": 10}


def test_a_trial_key_serves_less_than_a_production_key() -> None:
    clock = Clock()
    two = pool("trial", "production", clock=clock)
    two.record_success(granted(two.lease("/v2/chat", A)), "20", "19")
    used = [secret(two.lease("/v2/chat", A)) for _ in range(100)]
    assert 1 <= used.count("trial") <= 8


def test_budgets_are_by_endpoint_and_for_chat_by_model() -> None:
    one = pool("a", kind="trial")
    for _ in range(BUDGETS["chat"].trial):
        granted(one.lease("/v2/chat", A))
    wait = one.lease("/v2/chat", A)
    assert wait == WINDOW
    granted(one.lease("/v2/chat", PLUS))
    granted(one.lease("/v2/rerank", A))


@pytest.mark.parametrize("kind", ["trial", "production"])
@pytest.mark.parametrize("path", ["/v2/chat", "/v2/embed", "/v1/embed-jobs", "/v2/rerank", "/v1/tokenize", "/v1/x"])
def test_a_declared_kind_is_held_to_its_budget(path: str, kind: str) -> None:
    clock = Clock()
    one = pool("a", clock=clock, kind=kind)
    limit = getattr(BUDGETS.get(endpoint(path), DEFAULT_BUDGET), kind)
    for _ in range(limit):
        granted(one.lease(path, A))
    clock.passes(20)
    assert one.lease(path, A) == WINDOW - 20
    clock.passes(40)
    granted(one.lease(path, A))


def test_models_that_sales_must_open_have_a_trials_budget() -> None:
    one = pool("a", kind="production")
    for _ in range(20):
        granted(one.lease("/v2/chat", PLUS))
    assert isinstance(one.lease("/v2/chat", PLUS), float)


def test_inputs_weigh() -> None:
    one = pool("a", kind="production")
    for _ in range(20):
        granted(one.lease("/v2/embed", "embed-v4.0", 96))
    assert one.lease("/v2/embed", "embed-v4.0", 96) == WINDOW
    granted(one.lease("/v2/embed", "embed-v4.0", 80))


def test_nothing_is_held_back_before_cohere_has_answered() -> None:
    """A private deployment has other budgets, and the table must not slow it down."""
    one = pool("a")
    for _ in range(2_000):
        granted(one.lease("/v2/chat", A))


def test_trial_headers_are_believed() -> None:
    clock = Clock()
    one = pool("a", clock=clock)
    lease = granted(one.lease("/v2/chat", A))
    one.record_success(lease, "20", "1")
    granted(one.lease("/v2/chat", A))
    clock.passes(15)
    assert one.lease("/v2/chat", A) == WINDOW - 15
    clock.passes(45)
    granted(one.lease("/v2/chat", A))


@pytest.mark.parametrize(("limit", "remaining"), [("", ""), ("x", "3"), ("0", "0"), ("-5", "1"), ("20", "x")])
def test_strange_trial_headers_do_no_harm(limit: str, remaining: str) -> None:
    one = pool("a")
    one.record_success(granted(one.lease("/v2/chat", A)), limit, remaining)
    granted(one.lease("/v2/chat", A))


def test_a_key_that_gets_429_rests_longer_each_time() -> None:
    clock = Clock()
    one = pool("a", clock=clock)
    for rest in (*COOLDOWNS, COOLDOWNS[-1]):
        lease = granted(one.lease("/v2/chat", A))
        one.cool_down(lease, None)
        assert one.lease("/v2/chat", A, excluded=[lease.key]) == pytest.approx(rest)
        granted(one.lease("/v2/rerank"))  # another endpoint has another budget
        clock.passes(rest)
    one.record_success(granted(one.lease("/v2/chat", A)), "", "")
    one.cool_down(granted(one.lease("/v2/chat", A)), None)
    assert one.lease("/v2/chat", A) == pytest.approx(COOLDOWNS[0])


def test_calls_that_were_refused_together_are_one_strike() -> None:
    one = pool("a", clock=Clock())
    leases = [granted(one.lease("/v2/chat", A)) for _ in range(5)]
    for lease in leases:
        one.cool_down(lease, None)
    assert one.lease("/v2/chat", A) == pytest.approx(COOLDOWNS[0])


def test_a_key_rests_for_as_long_as_cohere_says() -> None:
    one = pool("a", clock=Clock())
    one.cool_down(granted(one.lease("/v2/chat", A)), 42.0)
    assert one.lease("/v2/chat", A) == pytest.approx(42.0)


def test_whatever_somebody_says_a_key_rests_for_minutes_at_most() -> None:
    one = pool("a", clock=Clock())
    one.cool_down(granted(one.lease("/v2/chat", A)), 86_400.0)
    assert one.lease("/v2/chat", A) == pytest.approx(MAX_COOLDOWN)


def test_a_rest_of_our_own_guess_keeps_nobody_for_long() -> None:
    """Cohere names no time with a 429. Where nothing else is left, a key that rests is tried once a second."""
    clock = Clock()
    one = pool("a", clock=clock)
    lease = granted(one.lease("/v2/rerank"))
    for rest in COOLDOWNS[:4]:
        clock.passes(rest)
        one.cool_down(lease, None)
    assert one.lease("/v2/rerank") == PROBE_INTERVAL
    clock.passes(PROBE_INTERVAL)
    assert one.lease("/v2/rerank", excluded=[lease.key]) == COOLDOWNS[3] - PROBE_INTERVAL, "this request has tried it"
    assert one.lease("/v2/rerank", excluded=[lease.key], longest=8.0) == 8.0 - PROBE_INTERVAL
    probe = granted(one.lease("/v2/rerank"))
    assert one.lease("/v2/rerank") == PROBE_INTERVAL, "one is under way"
    one.cool_down(probe, None)
    assert one.lease("/v2/rerank", excluded=[lease.key]) == COOLDOWNS[3] - PROBE_INTERVAL, (
        "a refused probe makes nothing worse"
    )
    clock.passes(PROBE_INTERVAL)
    one.record_success(granted(one.lease("/v2/rerank")), "", "")
    granted(one.lease("/v2/rerank"))  # Cohere serves again: nobody waits any more
    one.cool_down(lease, 30.0)
    assert one.lease("/v2/rerank") == 30.0, "what Cohere has said is no guess"


def test_a_key_that_is_free_is_no_reason_to_try_one_that_rests() -> None:
    clock = Clock()
    two = pool("a", "b", clock=clock)
    resting = granted(two.lease("/v2/chat", A))
    for rest in COOLDOWNS[:5]:
        clock.passes(rest)
        two.cool_down(resting, None)
    clock.passes(PROBE_INTERVAL)
    assert len({secret(two.lease("/v2/chat", A)) for _ in range(50)}) == 1


def test_a_budget_that_is_spent_is_no_guess() -> None:
    clock = Clock()
    one = pool("a", clock=clock, kind="trial")
    for _ in range(20):
        lease = granted(one.lease("/v2/chat", A))
    one.cool_down(lease, None)
    clock.passes(COOLDOWNS[0])
    assert one.lease("/v2/chat", A) == WINDOW - COOLDOWNS[0]


def test_a_late_success_does_not_end_a_rest() -> None:
    clock = Clock()
    one = pool("a", clock=clock)
    slow, refused = (granted(one.lease("/v2/chat", A)) for _ in range(2))
    clock.passes(1)
    one.cool_down(refused, None)
    one.record_success(slow, "", "")
    assert one.lease("/v2/chat", A) == COOLDOWNS[0]


def test_a_disabled_key_is_passed_over_and_tried_again() -> None:
    clock = Clock()
    two = pool("a", "b", clock=clock)
    lease = granted(two.lease("/v2/chat", A))
    assert two.disable(lease) and not two.disable(lease)
    assert two.disabled == 1
    assert {secret(two.lease("/v2/chat", A)) for _ in range(10)} == {"b"}
    clock.passes(DISABLED_SECONDS)
    again = next(
        result
        for result in (granted(two.lease("/v2/chat", A)) for _ in range(10))
        if result.key.secret == lease.key.secret
    )
    assert two.record_success(again, "", "") and two.disabled == 0
    assert not two.record_success(again, "", "")


def test_of_disabled_keys_alone_the_one_disabled_for_longest_is_tried() -> None:
    clock = Clock()
    two = pool("a", "b", clock=clock)
    first = granted(two.lease("/v2/chat", A))
    two.disable(first)
    clock.passes(1)
    second = granted(two.lease("/v2/chat", A))
    two.disable(second)
    assert secret(two.lease("/v2/chat", A)) == first.key.secret
    assert secret(two.lease("/v2/chat", A, 1, [first.key])) == second.key.secret
    assert two.lease("/v2/chat", A, 1, [first.key, second.key]) == math.inf


def test_what_a_request_tried_in_vain_is_not_lent_to_it_at_once() -> None:
    two = pool("a", "b", clock=Clock())
    first = granted(two.lease("/v2/chat", A))
    two.cool_down(first, 0.0)
    other = granted(two.lease("/v2/chat", A, 1, [first.key]))
    assert other.key is not first.key
    assert two.lease("/v2/chat", A, 1, [first.key, other.key]) == 0.0


def test_other_keys_keep_what_is_known_of_those_that_stay() -> None:
    clock = Clock()
    result = pool("a", "b", clock=clock)
    leases = [granted(result.lease("/v2/chat", A)) for _ in range(2)]
    result.cool_down(next(one for one in leases if one.key.secret == "a"), 30.0)
    result.disable(next(one for one in leases if one.key.secret == "b"))
    result.configure(["c", "a", "b", "a"], PoolSettings())
    assert (len(result), result.disabled) == (3, 0)
    assert {secret(result.lease("/v2/chat", A)) for _ in range(20)} == {"b", "c"}


def test_no_key_is_in_the_output() -> None:
    key = PoolKey("a-secret-key", 2, 3, "learned")
    assert key.name.startswith("key 2 of 3 (sha256 ") and "secret" not in key.name


def test_models_that_callers_make_up_do_not_fill_the_memory() -> None:
    one = pool("a")
    for number in range(3_000):
        granted(one.lease("/v2/chat", f"model {number}"))
    assert len(one._keys[0].buckets) <= 500


# --- breakers -----------------------------------------------------------------------------------------------


def breakers(clock: Clock, **settings: float) -> tuple[Breakers, list[tuple[str | None, bool]]]:
    changes: list[tuple[str | None, bool]] = []
    values = BreakerSettings(**{"failures": 3, "window": 10.0, "open_seconds": 5.0, **settings})  # type: ignore[arg-type]
    return Breakers(values, clock, lambda name, is_open: changes.append((name, is_open))), changes


def test_failures_of_another_window_do_not_count() -> None:
    clock = Clock()
    result, changes = breakers(clock)
    for _ in range(2):
        result.record_failure(A, connection=False)
    clock.passes(10.0)
    for _ in range(2):
        result.record_failure(A, connection=False)
    assert not changes and result.admit(A) == 0
    result.record_failure(A, connection=False)
    assert changes == [(A, True)]


def test_a_success_after_the_window_forgets_the_failures() -> None:
    clock = Clock()
    result, changes = breakers(clock)
    for _ in range(2):
        result.record_failure(A, connection=False)
    clock.passes(10.0)
    result.record_success(A)
    assert not result._breakers
    for _ in range(2):
        result.record_failure(A, connection=False)
    assert not changes


def test_a_breaker_opens_is_probed_and_closes() -> None:
    clock = Clock()
    result, changes = breakers(clock)
    for _ in range(3):
        assert result.admit(A) == 0
        result.record_failure(A, connection=False)
    assert changes == [(A, True)]
    assert result.admit(A) == 5.0
    assert result.admit("another") == 0
    clock.passes(5)
    assert result.admit(A) == 0  # the probe
    assert result.admit(A) == 1.0  # one is enough, and who knows how long it takes
    result.record_failure(A, connection=False)
    assert result.admit(A) == 5.0
    clock.passes(5)
    assert result.admit(A) == 0
    result.record_success(A)
    assert changes == [(A, True), (A, False)]
    assert [result.admit(A) for _ in range(3)] == [0, 0, 0]


def test_a_probe_that_says_nothing_gives_way_to_the_next() -> None:
    clock = Clock()
    result, _ = breakers(clock)
    for _ in range(3):
        result.record_failure(A, connection=False)
    clock.passes(5)
    assert result.admit(A) == 0
    result.record_nothing(A)
    assert result.admit(A) == 0


def test_so_does_one_that_does_not_reach_cohere() -> None:
    """It counts for the connection, and says nothing of the model."""
    clock = Clock()
    result, changes = breakers(clock)
    for _ in range(3):
        result.record_failure(A, connection=False)
    clock.passes(5)
    assert result.admit(A) == 0
    result.record_failure(A, connection=True)
    assert result.admit(A) == 0 and changes == [(A, True)]


def test_a_probe_of_the_connection_that_a_model_fails_has_reached_cohere() -> None:
    clock = Clock()
    result, changes = breakers(clock)
    for _ in range(3):
        result.record_failure(A, connection=True)
    clock.passes(5)
    assert result.is_connection_open and result.admit(A) == 0
    result.record_failure(A, connection=False)
    assert changes == [(CONNECTION, True), (CONNECTION, False)] and not result.is_connection_open


def test_half_of_the_calls_are_many() -> None:
    result, changes = breakers(Clock())
    for _ in range(2):
        result.record_failure(A, connection=False)
    for _ in range(3):
        result.record_success(A)
    assert not changes
    result.record_failure(A, connection=False)
    assert changes == [(A, True)]


def test_the_report_has_what_is_open() -> None:
    clock = Clock()
    result, _ = breakers(clock)
    assert not result.is_connection_open
    result.record_failure("another", connection=False)
    result.record_failure(A, connection=True)
    assert result.report() == [] and not result.is_connection_open
    for _ in range(3):
        result.record_failure(A, connection=False)
    clock.passes(4.5)
    assert result.report() == [{"model": A, "seconds": 0.5}] and result.admit(A) == 1.0
    clock.passes(4)
    assert result.report() == [{"model": A, "seconds": 0.0}], "until a call has shown that it works"


def test_the_way_is_for_all_models() -> None:
    result, changes = breakers(Clock())
    for model in ("a", "b", "c"):
        result.record_failure(model, connection=True)
    assert changes == [(CONNECTION, True)]
    assert result.admit("d") > 0


def test_an_answer_of_any_kind_says_that_the_way_is_open() -> None:
    result, changes = breakers(Clock())
    for _ in range(4):
        result.record_failure("a", connection=True)
        result.record_failure("b", connection=False)
        result.record_success("c")
    assert [name for name, _ in changes] == ["b"]


def test_few_failures_among_many_calls_do_not_open_it() -> None:
    result, changes = breakers(Clock())
    for _ in range(50):
        result.record_failure(A, connection=False)
        for _ in range(2):
            result.record_success(A)
    assert not changes


def test_old_failures_do_not_count() -> None:
    clock = Clock()
    result, changes = breakers(clock)
    for _ in range(20):
        result.record_failure(A, connection=False)
        clock.passes(6)
    assert not changes


def test_late_news_of_calls_from_before_change_nothing() -> None:
    clock = Clock()
    result, changes = breakers(clock)
    for _ in range(3):
        result.record_failure(A, connection=False)
    result.record_success(A)
    result.record_failure(A, connection=False)
    assert result.admit(A) == 5.0 and len(changes) == 1


def test_none_opens_when_they_are_off() -> None:
    result, changes = breakers(Clock(), failures=0)
    for _ in range(100):
        result.record_failure(A, connection=True)
    assert not changes and result.admit(A) == 0


def test_breakers_that_are_switched_off_close() -> None:
    """Else one that waits for its probe would wait for ever: nothing counts any more."""
    clock = Clock()
    result, changes = breakers(clock)
    for _ in range(3):
        result.record_failure(A, connection=False)
    clock.passes(5)
    assert result.admit(A) == 0  # the probe
    result.configure(BreakerSettings(failures=0))
    result.record_failure(A, connection=False)
    assert [result.admit(A) for _ in range(3)] == [0, 0, 0]
    assert changes == [(A, True), (A, False)]


def test_breakers_are_bounded_and_forget_what_works() -> None:
    result, _ = breakers(Clock(), failures=1)
    result.record_failure("bad", connection=False)
    result._settings = BreakerSettings(failures=5)
    for number in range(3_000):
        result.record_failure(f"model {number}", connection=False)
        assert len(result._breakers) <= 1_000
    assert result.admit("bad") > 0


# --- places -------------------------------------------------------------------------------------------------


def new_limiter(**settings: float) -> ConcurrencyLimiter:
    return ConcurrencyLimiter(ConcurrencySettings(**settings))  # type: ignore[arg-type]


async def queued(limiter: ConcurrencyLimiter, *owners: str) -> list[str]:
    """These callers wait, one after the other; who got a place, in order, as one place is handed on and on."""
    served: list[str] = []

    async def one(owner: str) -> None:
        await limiter.acquire(owner)
        served.append(owner)

    tasks = [asyncio.create_task(one(owner)) for owner in owners]
    await asyncio.sleep(0)
    for number in range(len(owners)):
        limiter.release(served[number - 1] if number else "first")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    return served


def test_turns_rotate_among_callers() -> None:
    async def main() -> None:
        result = new_limiter(max_in_flight=1)
        assert result.try_acquire("first")
        assert await queued(result, "a", "a", "a", "b", "c", "a", "b") == ["a", "b", "c", "a", "b", "a", "a"]
        result.release("a")
        assert (result.in_use, result.waiting) == (0, 0)

    asyncio.run(main())


def test_nobody_overtakes_those_who_wait() -> None:
    async def main() -> None:
        result = new_limiter(max_in_flight=1)
        assert result.try_acquire("first")
        waiting = asyncio.create_task(result.acquire("a"))
        await asyncio.sleep(0)
        assert not result.try_acquire("first")
        result.release("first")
        assert not result.try_acquire("first")
        await waiting
        result.release("a")
        assert result.try_acquire("first")

    asyncio.run(main())


def test_the_queue_is_bounded() -> None:
    async def main() -> None:
        result = new_limiter(max_in_flight=1, queue_size=1)
        assert result.try_acquire("first")
        waiting = asyncio.create_task(result.acquire("a"))
        await asyncio.sleep(0)
        with pytest.raises(UpstreamError) as caught:
            await result.acquire("b")
        assert (caught.value.failure.status, caught.value.retry_after) == (503, "1")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert (result.in_use, result.waiting) == (1, 0)

    asyncio.run(main())


def test_waiting_is_bounded() -> None:
    async def main() -> None:
        result = new_limiter(max_in_flight=1, queue_timeout=0.0)
        assert result.try_acquire("first")
        with pytest.raises(UpstreamError):
            await result.acquire("a")
        assert (result.in_use, result.waiting) == (1, 0)
        result.release("first")
        assert result.try_acquire("first")

    asyncio.run(main())


def test_more_places_are_for_those_who_wait_already() -> None:
    async def main() -> None:
        limiter = ConcurrencyLimiter(ConcurrencySettings(max_in_flight=1, queue_size=5, queue_timeout=5))
        await limiter.acquire("first")
        waiting = [asyncio.create_task(limiter.acquire("x")) for _ in range(3)]
        await asyncio.sleep(0)
        limiter.configure(ConcurrencySettings(max_in_flight=3, queue_size=5, queue_timeout=5))
        await asyncio.wait_for(asyncio.gather(*waiting[:2]), WAIT_SECONDS)
        assert not waiting[2].done()
        limiter.release("first")
        await asyncio.wait_for(waiting[2], WAIT_SECONDS)

    asyncio.run(main())


@pytest.mark.parametrize("first", ["leave", "cancel"])
def test_a_place_is_not_lost_when_its_caller_leaves_in_that_moment(first: str) -> None:
    async def main() -> None:
        result = new_limiter(max_in_flight=1)
        assert result.try_acquire("first")
        waiting = asyncio.create_task(result.acquire("a"))
        await asyncio.sleep(0)
        if first == "leave":
            result.release("first")
            waiting.cancel()
        else:
            waiting.cancel()
            result.release("first")
        await asyncio.gather(waiting, return_exceptions=True)
        assert (result.in_use, result.waiting) == (0, 0)
        assert result.try_acquire("first")

    asyncio.run(main())


def test_all_who_wait_can_be_sent_away() -> None:
    async def main() -> None:
        result = new_limiter(max_in_flight=1)
        assert result.try_acquire("first")
        waiting = [asyncio.create_task(result.acquire(owner)) for owner in "aab"]
        await asyncio.sleep(0)
        result.reject_waiters(shutdown_error())
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(answer, UpstreamError) for answer in answers)
        assert (result.in_use, result.waiting) == (1, 0)

    asyncio.run(main())


def test_nobody_has_all_slots_and_all_of_the_queue() -> None:
    async def main() -> None:
        limiter = new_limiter(max_in_flight=10, queue_size=4, caller_share=0.5)
        assert [limiter.try_acquire("greedy") for _ in range(6)] == [True] * 5 + [False]
        waiting = [asyncio.create_task(limiter.acquire("greedy")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(UpstreamError):
            await limiter.acquire("greedy")
        assert [limiter.try_acquire("other") for _ in range(6)] == [True] * 5 + [False]
        limiter.release("other")
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting), "a slot beyond its share"
        limiter.release("greedy")
        await asyncio.sleep(0)
        assert [task.done() for task in waiting] == [True, False]
        waiting[1].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert (limiter.in_use, limiter.waiting) == (9, 0)

    asyncio.run(main())


@given(
    st.text("aQ1\u00e9", min_size=1, max_size=6),
    st.lists(st.text("aQ1\u00e9", max_size=8), max_size=30),
)
def test_a_key_is_masked_wherever_it_stands(secret: str, pieces: list[str]) -> None:
    data = secret.join(pieces).encode()
    for short_bytes in (0, key_mask.SHORT_BYTES):
        with patch.object(key_mask, "SHORT_BYTES", short_bytes):
            assert KeyMask(secret).apply(data) == data.replace(secret.encode(), b"*" * len(secret.encode()))
