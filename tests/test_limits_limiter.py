"""What a request is charged when it has ended, and what it has in its own way: the arithmetic, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast
from unittest.mock import Mock

import pytest

from gateway.auth.credentials import Credential
from gateway.auth.principal import Principal
from gateway.cohere_methods import named
from gateway.errors import CallerError
from gateway.ledger.prices import Prices
from gateway.limits.limiter import NO_LIMITS, FurtherCall, LimitedRequest, Limiter, headers
from gateway.limits.plan import Limit, Limits
from gateway.limits.process_counters import LimiterCounters
from gateway.observability.alerts import Alerts
from gateway.observability.metrics import Metrics
from gateway.observability.record import CACHE_HIT, RequestRecord
from gateway.settings.schema import BudgetSettings, GlobalLimits, ModelPrice, SettingError, Settings
from gateway.store.counters import (
    Counter,
    CounterState,
    CountersUnavailable,
    Decision,
    Reservation,
    Settlement,
    Unit,
)
from gateway.virtual_keys import ModelBudget
from support.keys import key_of
from translators.core.contracts import Workload

A, B = "command-a-03-2025", "command-r7b-12-2024"


def counter_of(unit: Unit, limit: int = 1_000_000, id: str = "") -> Counter:
    return Counter(id or f"key:k:{unit}", unit, limit)


COUNTERS = [counter_of("requests"), counter_of("tokens"), counter_of("parallel"), counter_of("money")]


class Settled:
    """Counters that admit everything unless they refuse it, and note what is reserved and settled."""

    def __init__(self) -> None:
        self.reservations: list[Reservation] = []
        self.settlements: list[Settlement] = []
        self.refusing: CounterState | None = None
        """The state of all counters, where they refuse."""
        self.are_shares = False
        """What decides is a share of this process's own, and not the counters that it was asked for."""
        self.unavailable = False

    async def reserve(
        self, counters: Sequence[Counter], tokens: int, money: int
    ) -> tuple[Sequence[Counter], Decision, Reservation | None]:
        if self.unavailable:
            raise CountersUnavailable("away")
        if self.are_shares:
            counters = list(counters)
        if self.refusing is not None:
            return counters, Decision(False, [self.refusing for _ in counters]), None
        self.reservations.append(Reservation(counters, tokens, money))
        return counters, Decision(True, [CounterState(0, 0) for _ in counters]), self.reservations[-1]

    def settle(self, settlement: Settlement) -> None:
        self.settlements.append(settlement)


def settings_of(limits: GlobalLimits, unknown_price: Literal["refuse", "allow"] = "refuse") -> Settings:
    return Settings(global_limits=limits, budgets=BudgetSettings(unknown_price))


def limiter(counters: object, limits: GlobalLimits | None = None) -> Limiter:
    metrics, alerts = Metrics(lambda model: True, ()), Alerts("", "", print)
    settings = settings_of(limits or GlobalLimits())
    return Limiter(settings, cast(LimiterCounters, counters), Prices(), lambda id: None, metrics, alerts)


def record_of(**fields: Any) -> RequestRecord:
    values: dict[str, Any] = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "cost_nanodollars": 700,
        "price_version": "p",
    }
    values |= fields
    values.setdefault("known_nanodollars", values["cost_nanodollars"] or 0)
    return RequestRecord("r", "POST", "/", 0.0, **values)


def limited_by(*further: FurtherCall, tokens: int = 0, cost: int = 0) -> LimitedRequest:
    return LimitedRequest(A, NO_LIMITS, (), Reservation(COUNTERS, 100, 1_000), tokens, cost, further)


def further_call(model: str, tokens: int = 0, cost: int = 0) -> FurtherCall:
    return FurtherCall(model, NO_LIMITS, (), Reservation(COUNTERS, 50, 400), tokens, cost)


NO_TOKENS: dict[str, Any] = {"prompt_tokens": 0, "completion_tokens": 0}
UNKNOWN: dict[str, Any] = {"cost_nanodollars": None, "price_version": ""}
CHARGES: dict[str, tuple[RequestRecord, bool, LimitedRequest, list[tuple[int, int]]]] = {
    "what it took": (record_of(), False, limited_by(), [(15, 700)]),
    "admitted twice": (record_of(), False, limited_by(tokens=4, cost=200), [(11, 500)]),
    "a hit": (record_of(cache=CACHE_HIT, cost_nanodollars=0, price_version=""), False, limited_by(), [(0, 0)]),
    "failed, and billed": (record_of(), True, limited_by(), [(15, 700)]),
    "failed for nothing": (record_of(**NO_TOKENS, cost_nanodollars=0, price_version=""), True, limited_by(), [(0, 0)]),
    "without a count": (record_of(**NO_TOKENS, **UNKNOWN), False, limited_by(), [(100, 1_000)]),
    "failed without a count": (record_of(**NO_TOKENS, **UNKNOWN), True, limited_by(), [(100, 1_000)]),
    "without a price": (record_of(cost_nanodollars=0, price_version=""), False, limited_by(), [(15, 1_000)]),
    "known to cost more": (record_of(**UNKNOWN, known_nanodollars=3_000), False, limited_by(cost=500), [(15, 2_500)]),
    "known to cost less": (record_of(**UNKNOWN, known_nanodollars=1_400), False, limited_by(cost=500), [(15, 1_000)]),
    "another model as well": (record_of(), False, limited_by(further_call(B, 5, 200)), [(5, 200), (10, 500)]),
    "another model alone": (record_of(), False, limited_by(further_call(B, 20, 900)), [(20, 900), (0, 0)]),
    "a call that was replaced": (record_of(), False, limited_by(further_call("")), [(0, 0), (15, 700)]),
    "both without a count": (
        record_of(**NO_TOKENS, **UNKNOWN),
        False,
        limited_by(further_call(B)),
        [(0, 400), (150, 1_000)],
    ),
    "without a count, but that of the other": (
        record_of(**UNKNOWN),
        False,
        limited_by(further_call(B, 5, 600)),
        [(5, 600), (10, 1_000)],
    ),
    "replaced, and without a count": (
        record_of(**NO_TOKENS, **UNKNOWN),
        False,
        limited_by(further_call("")),
        [(0, 0), (150, 1_400)],
    ),
}
"""The record of a request, whether it failed, what it had reserved; and the tokens and nano-dollars that are settled
for its further calls and for the first one."""


@pytest.mark.parametrize("case", CHARGES)
def test_what_is_settled(case: str) -> None:
    record, failed, limited, expected = CHARGES[case]
    counters = Settled()
    limiter(counters).settle(limited, record, failed)
    assert [(one.tokens, one.money) for one in counters.settlements] == expected
    reservations = [*(call.reservation for call in limited.further), limited.reservation]
    assert [one.reservation for one in counters.settlements] == reservations


def test_what_made_no_call_is_given_back() -> None:
    counters = Settled()
    limiter(counters).give_back(limited_by(further_call(B, 5, 200)))
    assert [(one.tokens, one.money) for one in counters.settlements] == [(0, 0), (0, 0)]


def test_what_reserved_nothing_settles_nothing() -> None:
    counters = Settled()
    limiter(counters).settle(LimitedRequest(A, NO_LIMITS, (), Reservation((), 0, 0), 0, 0), record_of(), False)
    assert counters.settlements == []


STATE = CounterState(200, 1_900)
ALONE: dict[str, tuple[Counter, LimitedRequest, RequestRecord, tuple[int, int]]] = {
    "tokens": (counter_of("tokens"), limited_by(), record_of(), (215, 1_800)),
    "tokens beyond the limit": (counter_of("tokens", 60), limited_by(), record_of(), (215, 1_840)),
    "tokens since it was admitted": (counter_of("tokens"), limited_by(tokens=4), record_of(), (211, 1_800)),
    "tokens of others": (counter_of("tokens", id="key:other:tokens"), limited_by(), record_of(), (215, 1_900)),
    "requests": (counter_of("requests"), limited_by(), record_of(), (200, 1_900)),
    "at the same time": (counter_of("parallel"), limited_by(), record_of(), (200, 1_899)),
    "money": (counter_of("money"), limited_by(cost=300), record_of(), (600, 900)),
    "money, of two calls": (counter_of("money"), limited_by(further_call(B)), record_of(), (900, 500)),
    "money without a count": (counter_of("money"), limited_by(), record_of(**UNKNOWN), (1_200, 900)),
    "money known to be more": (
        counter_of("money"),
        limited_by(),
        record_of(**UNKNOWN, known_nanodollars=3_000),
        (3_200, 900),
    ),
}
"""A counter of which 200 are spent and 1,900 reserved; a request; and what that would be if it alone had ended."""


@pytest.mark.parametrize("case", ALONE)
def test_what_is_left_of_a_counter_without_the_request_itself(case: str) -> None:
    counter, limited, record, expected = ALONE[case]
    state = limited.alone(counter, STATE, record)
    assert (state.spent, state.reserved) == expected


def test_less_than_nothing_is_not_reserved() -> None:
    assert limited_by().alone(counter_of("tokens"), CounterState(0, 99), record_of()).reserved == 0


def test_what_a_call_took_belongs_to_the_first_call_to_its_model() -> None:
    limited = limited_by(further_call(""), further_call(B), further_call(B))
    for _ in range(2):
        limited.add(B, 3, 40)
    limited.add(A, 5, 60)
    assert [(call.tokens, call.cost, call.expected) for call in limited.further] == [
        (0, 0, 400),
        (6, 80, 400),
        (0, 0, 400),
    ]
    limited.add(B, 0, 1_000)
    assert limited.further[1].expected == 1_080


def test_the_headers_are_those_of_the_tightest_limit() -> None:
    counters = [
        counter_of("tokens", 50),
        counter_of("requests", 10),
        counter_of("requests", 8),
        counter_of("tokens", 90),
    ]
    applied = Limits.of([Limit(counter, "key 'a'", ("key", "a")) for counter in counters])
    states = [CounterState(45, 20, 7.2), CounterState(3, 0, 1.0), CounterState(1, 2, 59.1), CounterState(0, 0)]
    assert headers(applied, counters, states) == [
        (b"x-ratelimit-limit-requests", b"8"),
        (b"x-ratelimit-remaining-requests", b"5"),
        (b"x-ratelimit-reset-requests", b"60s"),
        (b"x-ratelimit-limit-tokens", b"50"),
        (b"x-ratelimit-remaining-tokens", b"0"),
        (b"x-ratelimit-reset-tokens", b"8s"),
    ]
    assert headers(NO_LIMITS, [], []) == []


def test_a_duration_that_is_none_is_refused() -> None:
    with pytest.raises(SettingError, match="global.budget_duration"):
        limiter(Settled(), GlobalLimits(max_budget=1.0, budget_duration="soon"))


CHAT = named("v2.chat")
BUDGET = GlobalLimits(max_budget=1.0)


@pytest.mark.asyncio
async def test_a_budget_needs_a_price_unless_the_settings_allow_unknown_ones() -> None:
    counters = Settled()
    limits = limiter(counters, BUDGET)
    for unknown_price in ("refuse", "allow", "refuse"):
        limits.configure(settings_of(BUDGET, unknown_price))
        if unknown_price == "allow":
            await limits.reserve(record_of(), CHAT, Workload("nobody-knows", 400, 10))
            assert counters.reservations[-1].money == 0
            continue
        with pytest.raises(CallerError, match="the price of 'nobody-knows' is not known"):
            await limits.reserve(record_of(), CHAT, Workload("nobody-knows", 400, 10))


@pytest.mark.asyncio
async def test_other_prices_and_limits_hold_for_the_next_request() -> None:
    counters = Settled()
    limits = limiter(counters, BUDGET)
    await limits.reserve(record_of(), CHAT, Workload(A, 4_000, 10))
    limits.set_prices(Prices({A: ModelPrice(input=1000.0, output=1000.0)}))
    await limits.reserve(record_of(), CHAT, Workload(A, 4_000, 10))
    first, second = counters.reservations
    assert 0 < first.money < second.money
    limits.configure(settings_of(GlobalLimits(tpm_limit=5)))
    await limits.reserve(record_of(), CHAT, Workload(A, 4_000, 10))
    assert [counter.unit for counter in counters.reservations[-1].counters] == ["tokens"]
    limits.configure(settings_of(GlobalLimits()))
    assert await limits.reserve(record_of(), CHAT, Workload(A, 4_000, 10)) is None
    assert not limits.depends_on_body(record_of())


@pytest.mark.asyncio
async def test_what_a_cached_answer_reserves() -> None:
    counters = Settled()
    await limiter(counters, GlobalLimits(tpm_limit=5, max_budget=1.0)).reserve(
        record_of(cache=CACHE_HIT), CHAT, Workload(A, 4_000, 10)
    )
    assert (counters.reservations[-1].tokens, counters.reservations[-1].money) == (0, 0)


WORK, OTHER_WORK = Workload(A, 400, 10), Workload(B, 400, 10)
TOKENS = GlobalLimits(rpm_limit=5, tpm_limit=100)


@pytest.mark.asyncio
async def test_a_further_call_is_reserved_beside_the_first_or_in_its_place() -> None:
    counters = Settled()
    limits = limiter(counters, TOKENS)
    limited = await limits.reserve(record_of(), CHAT, WORK)
    assert limited is not None and (limited.model, limited.tokens, limited.cost) == (A, 15, 700)
    for work, model in ((OTHER_WORK, B), (WORK, "")):
        assert await limits.extend(limited, record_of(), CHAT, work) is limited
        assert limited.further[-1].model == model
        assert limited.further[-1].reservation is counters.reservations[-1]
        assert [counter.unit for counter in counters.reservations[-1].counters] == ["tokens"]
    replacing = await limits.extend(limited, record_of(prompt_tokens=99), CHAT, OTHER_WORK, replaces=True)
    assert replacing is not None and replacing is not limited
    assert (replacing.model, replacing.tokens, replacing.cost) == (B, 15, 700)
    assert replacing.reservation is counters.reservations[-1]
    assert [call.model for call in replacing.further] == [B, "", ""]
    assert replacing.further[-1].reservation is limited.reservation


@pytest.mark.asyncio
async def test_a_request_without_limits_may_get_some_by_a_further_call() -> None:
    counters = Settled()
    limits = limiter(counters)
    assert await limits.reserve(record_of(model=A), CHAT, WORK) is None
    assert await limits.extend(None, record_of(model=A), CHAT, OTHER_WORK) is None
    limits.configure(settings_of(TOKENS))
    limited = await limits.extend(None, record_of(model=A), CHAT, OTHER_WORK)
    assert limited is not None and (limited.model, limited.tokens, limited.cost) == (A, 15, 700)
    assert (limited.reservation.counters, limited.reservation.tokens, limited.reservation.money) == ((), 0, 0)
    limits.settle(limited, record_of(prompt_tokens=30, known_nanodollars=800, cost_nanodollars=800), False)
    assert [one.reservation for one in counters.settlements] == [limited.further[0].reservation]


@pytest.mark.asyncio
async def test_a_request_does_not_stand_in_its_own_way() -> None:
    counters = Settled()
    limits = limiter(counters, GlobalLimits(tpm_limit=100))
    limited = await limits.reserve(record_of(), CHAT, WORK)
    assert limited is not None
    counters.refusing = CounterState(0, 100)  # all that is reserved is its own
    assert await limits.extend(limited, record_of(), CHAT, OTHER_WORK) is limited
    further = limited.further[-1].reservation
    assert (further.tokens, further.money, further.local) == (0, 0, False)
    counters.are_shares = True
    assert await limits.extend(limited, record_of(), CHAT, WORK) is limited
    assert limited.further[-1].reservation.local, "it is settled where it was decided"
    counters.are_shares = False
    counters.refusing = CounterState(50, 160, 30.0)
    with pytest.raises(CallerError) as refused:
        await limits.extend(limited, record_of(), CHAT, OTHER_WORK)
    assert refused.value.failure.status == 429 and len(limited.further) == 2


@pytest.mark.asyncio
async def test_a_further_call_that_nothing_limits() -> None:
    """Requests are counted once. What another model took is no matter of the first one's limits all the same."""
    counters = Settled()
    limits = limiter(counters, GlobalLimits(rpm_limit=5))
    limited = await limits.reserve(record_of(**NO_TOKENS, cost_nanodollars=0), CHAT, WORK)
    assert limited is not None
    assert await limits.extend(limited, record_of(), CHAT, WORK) is limited and not list(limited.further)
    assert await limits.extend(limited, record_of(), CHAT, OTHER_WORK) is limited
    (further,) = limited.further
    reservation = further.reservation
    assert (further.model, reservation.counters, reservation.tokens, reservation.money) == (B, (), 0, 0)
    limited.add(B, 5, 200)
    replacing = await limits.extend(limited, record_of(), CHAT, OTHER_WORK, replaces=True)
    assert replacing is not None and (replacing.model, replacing.reservation.counters) == (B, ())
    assert replacing.further[-1].reservation is limited.reservation
    limits.settle(limited, record_of(), False)
    assert [(one.tokens, one.money) for one in counters.settlements] == [(10, 500)]
    assert len(counters.reservations) == 1


@pytest.mark.asyncio
async def test_each_budget_of_a_model_shows_what_its_own_calls_took() -> None:
    counters = Settled()
    limits = limiter(counters, BUDGET)
    metrics = Mock(spec=Metrics)
    limits._metrics = metrics
    key = key_of("k", model_max_budget={A: ModelBudget(10**12, "1d"), B: ModelBudget(10**12, "1d")})
    fields: dict[str, Any] = {"principal": Principal("k", "k", False, Credential(), key)}
    limited = await limits.reserve(record_of(**NO_TOKENS, cost_nanodollars=0, **fields), CHAT, WORK)
    assert limited is not None
    await limits.extend(limited, record_of(**NO_TOKENS, cost_nanodollars=0, **fields), CHAT, OTHER_WORK)
    limited.add(B, 5, 200)
    limits.settle(limited, record_of(**fields), False)
    spent = {tuple(call.args[0][:3]): call.args[1] for call in metrics.count_budget.call_args_list}
    assert spent == {("key", "k", A): 500, ("key", "k", B): 200, ("gateway", "", ""): 700}


@pytest.mark.asyncio
async def test_nobody_is_let_in_where_the_limits_cannot_be_checked() -> None:
    counters = Settled()
    limits = limiter(counters, TOKENS)
    limited = await limits.reserve(record_of(), CHAT, WORK)
    counters.unavailable = True
    for call in (limits.reserve(record_of(), CHAT, WORK), limits.extend(limited, record_of(), CHAT, WORK)):
        with pytest.raises(CallerError) as refused:
            await call
        assert (refused.value.failure.status, refused.value.failure.code) == (503, "limits_unavailable")
