"""The limits and budgets of requests: what is reserved when one is admitted, what it took in the end, what it is told.

`reserve` and `settle` are called by `gateway/pipeline/admission.py` and by nobody else.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from gateway.budget_windows import check_duration
from gateway.cohere_methods import METHODS, Method
from gateway.errors import CallerError, failure
from gateway.ledger.prices import BILLED_GROUPS, Prices
from gateway.limits import budgets
from gateway.limits.plan import Limit, Limits, Plan, Plans
from gateway.limits.process_counters import LimiterCounters
from gateway.observability.alerts import Alerts, Event
from gateway.observability.metrics import Metrics
from gateway.observability.record import CACHE_HIT, RequestRecord
from gateway.settings.schema import SettingError, Settings
from gateway.store.counters import (
    NO_LIMIT,
    WINDOW,
    Counter,
    CounterState,
    CountersUnavailable,
    Decision,
    Reservation,
    Settlement,
)
from gateway.virtual_keys import EndUser
from translators.core.contracts import Workload

JOB_GROUPS = frozenset({"embed_jobs", "batches", "finetuning"})
"""Groups of methods that start what Cohere bills later. What is no method of the table may do so, too."""

FREE = frozenset(
    method.name
    for method in METHODS
    if method.group not in BILLED_GROUPS and not (method.group in JOB_GROUPS and "create" in method.name)
)
"""Methods that cost nothing, neither now nor when what they start has run."""

REQUEST_HEADERS = (b"x-ratelimit-limit-requests", b"x-ratelimit-remaining-requests", b"x-ratelimit-reset-requests")
TOKEN_HEADERS = (b"x-ratelimit-limit-tokens", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens")

JOB_ESTIMATE = 1
"""Nano-dollars for what starts a job. It costs something when it has run: not to be had when a budget is spent."""

SOON = 1
"""Seconds until a request may come again that only found others under way."""


class BudgetSpent(CallerError):
    """A budget has nothing left. limit: the budget's row."""

    def __init__(self, limit: Limit, state: CounterState) -> None:
        super().__init__(replace(failure("budget_spent", _budget_sentence(limit, state)), should_retry=False))
        self.limit = limit


class FurtherCall(Struct):
    """What a request has reserved beside its first call.

    model: the one that the call is to beside that of the request, whose limits pay for it; empty for a call whose place
    another one has taken. tokens, cost: what it took so far, in nano-dollars.
    """

    model: str
    applied: Limits
    states: Sequence[CounterState]
    reservation: Reservation
    tokens: int = 0
    cost: int = 0

    @property
    def expected(self) -> int:
        """What it costs as far as that is known: its estimate, or what it is known to have cost if that is more."""
        return max(self.reservation.money, self.cost)


class LimitedRequest(Struct):
    """An admitted request with what it has reserved. tokens, cost: what its record had before, in
    nano-dollars.

    model: the one that it was let in for. states: of the counters of its limits, when it was admitted.
    further: what it has reserved for other calls of the same request.
    """

    model: str
    applied: Limits
    states: Sequence[CounterState]
    reservation: Reservation
    tokens: int
    cost: int
    further: tuple[FurtherCall, ...] = ()

    @property
    def reservations(self) -> list[Reservation]:
        """All that is to be settled, the first call's at the beginning."""
        return [self.reservation, *(call.reservation for call in self.further)]

    def add(self, model: str, tokens: int, cost: int) -> None:
        """Takes note of what a call to this model took, if it is not the one that the request was let in for."""
        for call in self.further:
            if call.model == model:
                call.tokens += tokens
                call.cost += cost
                return

    def alone(self, counter: Counter, state: CounterState, record: RequestRecord) -> CounterState:
        """Returns a counter's state as it would be if what the request has taken so far were settled."""
        reserved = sum(
            counter.amount(reservation.tokens, reservation.money)
            for reservation in self.reservations
            if any(own.id == counter.id and own.unit != "requests" for own in reservation.counters)
        )
        spent = 0
        if counter.unit == "tokens":
            spent = record.prompt_tokens + record.completion_tokens - self.tokens
        elif counter.unit == "money":
            spent = record.known_nanodollars - self.cost
            if record.cost_nanodollars is None:
                # While a cost is not known, what was expected stands in for it.
                spent = max(spent, reserved)
        return CounterState(state.spent + spent, max(state.reserved - reserved, 0))


class Limiter:
    """Holds requests to their limits. end_user: returns the record of an end user, if there is one."""

    def __init__(
        self,
        settings: Settings,
        counters: LimiterCounters,
        prices: Prices,
        end_user: Callable[[str], EndUser | None],
        metrics: Metrics,
        alerts: Alerts,
        now: Callable[[], float] = time.time,
    ) -> None:
        """now: Unix seconds."""
        self.counters, self._prices, self._end_user, self._metrics = counters, prices, end_user, metrics
        self._alerts = alerts
        self._allow_unknown = False
        self._plans = Plans(settings.global_limits, settings.policy, now)
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Takes over other settings. Raises SettingError for a duration that is none."""
        if settings.global_limits.budget_duration:
            try:
                check_duration(settings.global_limits.budget_duration)
            except ValueError as error:
                raise SettingError(f"global.budget_duration: {error}") from error
        self._allow_unknown = settings.budgets.unknown_price == "allow"
        self._plans.configure(settings.global_limits, settings.policy)

    def set_prices(self, prices: Prices) -> None:
        """Takes over other prices, for the estimates that follow."""
        self._prices = prices

    def depends_on_body(self, record: RequestRecord) -> bool:
        """Tells whether a limit of the caller's depends on what is in a request: its model, or its size."""
        return self._plan(record, "").by_body

    async def reserve(self, record: RequestRecord, method: Method, workload: Workload) -> LimitedRequest | None:
        """Reserves what a request may take, and puts the headers about it into its record. None without any limit.

        Raises CallerError: 429 past a limit, BudgetSpent past a budget, 403 where a budget meets an unknown price.
        """
        plan = self._plan(record, workload.model)
        # What costs nothing is open when a budget is spent.
        applied = plan.free if method.name in FREE else plan.all
        if not applied.counters:
            return None
        tokens, money = self._estimates(applied, record, method, workload)
        counters, decision, reservation = await self._reserve(applied.counters, tokens, money)
        # Also for a refusal, whose caller needs them most.
        record.rate_limit_headers = headers(applied, counters, decision.states)
        if reservation is None:
            raise self._refusal(applied.limits, counters, decision.states, tokens, money)
        before = record.prompt_tokens + record.completion_tokens
        # What the record has so far is remembered: a request may be admitted a second time, and must not be charged for
        # the first.
        return LimitedRequest(workload.model, applied, decision.states, reservation, before, record.known_nanodollars)

    async def extend(
        self,
        limited: LimitedRequest | None,
        record: RequestRecord,
        method: Method,
        workload: Workload,
        replaces: bool = False,
    ) -> LimitedRequest | None:
        """Reserves what a further call for an admitted request may take; all of them are settled together.

        What the request itself has reserved does not stand in its way. replaces: the answer is that of this call, and
        the budgets of its model pay. Raises CallerError as `reserve`.
        """
        another_model = limited is None or workload.model != limited.model
        applied = self._plan(record, workload.model).further(another_model)
        if not applied.counters and (limited is None or not another_model):
            return limited
        if limited is None:
            # Of what the request itself has no limits are known, but of this call.
            before = record.prompt_tokens + record.completion_tokens, record.known_nanodollars
            limited = LimitedRequest(record.model, NO_LIMITS, (), Reservation((), 0, 0), *before)
        states, reservation = await self._reserve_further(limited, applied, record, method, workload)
        # Both calls belong to the answer, and each is paid for by the limits that it was admitted with.
        if not replaces:
            model = workload.model if another_model else ""
            limited.further = (*limited.further, FurtherCall(model, applied, states, reservation))
            return limited
        replaced = FurtherCall("", limited.applied, limited.states, limited.reservation)
        further = (*limited.further, replaced)
        return LimitedRequest(workload.model, applied, states, reservation, limited.tokens, limited.cost, further)

    async def _reserve_further(
        self, limited: LimitedRequest, applied: Limits, record: RequestRecord, method: Method, workload: Workload
    ) -> tuple[Sequence[CounterState], Reservation]:
        """Returns what is reserved for a further call of a request, and the states of its counters."""
        if not applied.counters:
            return (), Reservation((), 0, 0)
        tokens, money = self._estimates(applied, record, method, workload)
        wanted = list(applied.counters)
        counters, decision, reservation = await self._reserve(wanted, tokens, money)
        if reservation is None:
            pairs = list(zip(counters, decision.states, strict=True))
            after = [limited.alone(counter, state, record) for counter, state in pairs]
            # Its own reservation may be all that is in the way: a caller with a budget for one call could never make a
            # second attempt.
            if not all(
                counter.admits(state.spent, state.reserved, counter.amount(tokens, money))
                for counter, state in zip(counters, after, strict=True)
            ):
                raise self._refusal(applied.limits, counters, decision.states, tokens, money)
            # It is the request alone that stands in its way. Nothing is reserved beside what it has reserved.
            reservation = Reservation(counters, 0, 0, local=counters is not wanted)
        return decision.states, reservation

    def _plan(self, record: RequestRecord, model: str) -> Plan:
        end_user = self._end_user(record.end_user) if record.end_user else None
        return self._plans.plan(record.principal, end_user, model)

    async def _reserve(
        self, counters: Sequence[Counter], tokens: int, money: int
    ) -> tuple[Sequence[Counter], Decision, Reservation | None]:
        try:
            return await self.counters.reserve(counters, tokens, money)
        except CountersUnavailable as error:
            raise CallerError(failure("limits_unavailable", "The limits cannot be checked at present")) from error

    def give_back(self, limited: LimitedRequest) -> None:
        """Frees what a request had reserved that made no call."""
        for reservation in limited.reservations:
            self._settle(reservation, 0, 0)

    def settle(self, limited: LimitedRequest, record: RequestRecord, failed: bool) -> None:
        """Replaces what a request had reserved by what it took."""
        # A hit's tokens were counted when the answer was first made.
        tokens = record.prompt_tokens + record.completion_tokens - limited.tokens if record.cache != CACHE_HIT else 0
        money, cost = 0, record.cost_nanodollars
        unknown = cost is None or not (record.price_version or failed or record.cache == CACHE_HIT)
        if unknown:
            # Cohere did its work and its count was not seen: what was expected is the best that is known, if it is
            # not less than what other calls of the request are known to cost.
            tokens = tokens or sum([one.tokens for one in limited.reservations])
            reserved = limited.reservation.money + sum([call.expected for call in limited.further])
            money = max(reserved, record.known_nanodollars - limited.cost)
        elif cost is not None and record.price_version:
            # Only what came since: the record may have had a cost before.
            money = cost - limited.cost
        own_tokens, own_money = tokens, money
        for call in limited.further:
            part = call.expected if unknown and call.model else call.cost
            # What another model took is no matter of this one's limits. A call that was replaced leaves all to its
            # successor.
            self._settle(call.reservation, call.tokens, part)
            self._report_spending(call.applied, call.states, 0, part)
            own_tokens, own_money = max(own_tokens - call.tokens, 0), max(own_money - part, 0)
        self._settle(limited.reservation, own_tokens, own_money)
        self._report_spending(limited.applied, limited.states, money, own_money)

    def _settle(self, reservation: Reservation, tokens: int, money: int) -> None:
        if reservation.counters:
            self.counters.settle(Settlement(reservation, tokens, money))

    def _report_spending(self, applied: Limits, states: Sequence[CounterState], money: int, own: int) -> None:
        """Shows the budgets that a request was paid from, and tells the operator of those that it has brought to their
        end, or to their soft limit.

        money: of the whole request. own: of the calls to the model whose limits these are.
        """
        for position, labels, due in applied.budgets:
            if not (amount := own if labels[2] else money):
                continue
            counter, spent = applied.counters[position], states[position].spent + amount
            self._metrics.count_budget(labels, spent, counter.limit)
            # Nearly always. What follows makes texts.
            if spent < due:
                continue
            limit = applied.limits[position]
            kind, id = limit.subject
            is_spent = spent >= counter.limit
            bound = counter.limit if is_spent else limit.soft
            event: Event = "budget" if is_spent else "soft_budget"
            self._alerts.raise_once(
                (counter.id, str(counter.window), str(bound)),
                event,
                f"{kind} {id}".strip(),
                f"The {'' if is_spent else 'soft '}budget of {limit.owner} is spent: {budgets.dollars(spent)} of "
                f"{budgets.dollars(bound)}",
                claim=partial(self.counters.claim, f"{counter.id}:{event}:{bound}", counter.window),
                budget=counter.id,
                spent_nanodollars=spent,
                limit_nanodollars=bound,
                until=counter.until or None,
            )

    def _estimates(self, applied: Limits, record: RequestRecord, method: Method, workload: Workload) -> tuple[int, int]:
        if record.cache == CACHE_HIT:
            return 0, 0
        tokens = budgets.estimated_tokens(method, workload)
        if not applied.has_budget:
            return tokens, 0
        if method.group not in BILLED_GROUPS:
            return tokens, JOB_ESTIMATE
        money = self._prices.estimate(workload.model, method, workload)
        # A call whose price nobody knows would pass any budget.
        if money is None and not self._allow_unknown:
            model = f"'{workload.model}'" if workload.model else "the model"
            message = f"There is a budget, and the price of {model} is not known: set it in the setting 'prices'"
            raise CallerError(failure("price_unknown", message))
        return tokens, min(money or 0, budgets.MAX_MONEY)

    def _refusal(
        self,
        limits: Sequence[Limit],
        counters: Sequence[Counter],
        states: Sequence[CounterState],
        tokens: int,
        money: int,
    ) -> CallerError:
        """Returns why a request is refused: by the limit that holds longest."""
        refusing = [
            (limit, counter, state)
            for limit, counter, state in zip(limits, counters, states, strict=True)
            if not counter.admits(state.spent, state.reserved, counter.amount(tokens, money))
        ]
        # Each limit that refused is counted, though the caller is told of one: an operator raises all of them or none.
        for limit, counter, _ in refusing:
            self._metrics.limit_refusals.labels(limit.subject[0], counter.unit).inc()
        for limit, counter, state in refusing:
            if counter.unit == "money" and state.spent >= counter.limit:
                # Before limits by the minute: to wait does not help, but another model may.
                return BudgetSpent(limit, state)
        limit, counter, state = max(refusing, key=lambda one: _seconds_to_wait(one[1], one[2]))
        message = _limit_sentence(limit, counter, state)
        return CallerError(failure("limit_reached", message), str(_seconds_to_wait(counter, state)))


NO_LIMITS = Limits.of(())

# Up to twice WINDOW: where a clock was set back, slots may lie so far in the future (`counters.py`).
_SECONDS = tuple(b"%ds" % seconds for seconds in range(2 * WINDOW + 2))
"""How a time to wait is written."""


def headers(applied: Limits, counters: Sequence[Counter], states: Sequence[CounterState]) -> list[tuple[bytes, bytes]]:
    """Returns OpenAI's headers about the tightest limits on requests and on tokens."""
    result: list[tuple[bytes, bytes]] = []
    for positions, names in ((applied.requests, REQUEST_HEADERS), (applied.tokens, TOKEN_HEADERS)):
        if positions:
            position, least = 0, NO_LIMIT
            for n in positions:
                state = states[n]
                remaining = counters[n].limit - state.spent - state.reserved
                if remaining < least:
                    position, least = n, remaining
            result += (
                (names[0], b"%d" % counters[position].limit),
                # More than the limit may be taken, since estimates are not what is spent.
                (names[1], b"%d" % (least if least > 0 else 0)),
                (names[2], _SECONDS[math.ceil(states[position].wait)]),
            )
    return result


def _seconds_to_wait(counter: Counter, state: CounterState) -> int:
    """Returns whole seconds after which a request may come again, 1 or more."""
    if counter.unit not in ("requests", "tokens") or state.spent < counter.limit:
        return SOON
    # The SDKs wait for a minute and no longer; after that they would come sooner than if they were told less.
    return min(max(math.ceil(state.wait), SOON), WINDOW) if state.spent else WINDOW


_UNITS = {"requests": "requests a minute", "tokens": "tokens a minute", "parallel": "requests at the same time"}


def _limit_sentence(limit: Limit, counter: Counter, state: CounterState) -> str:
    owner = limit.owner + (f" and model '{limit.model}'" if limit.model else "")
    if counter.unit == "money":
        return (
            f"The budget of {owner} is reserved by requests under way: {budgets.dollars(state.reserved)} of the "
            f"{budgets.dollars(counter.limit - state.spent)} that are left. Try again when some have ended."
        )
    limit_text = f"The limit of {owner} is {counter.limit} {_UNITS[counter.unit]}"
    if counter.unit == "parallel" or state.spent < counter.limit:
        under_way = f"{state.reserved} are taken by requests under way"
        return f"{limit_text}, and {under_way}. Try again when some have ended."
    return f"{limit_text}, and {state.spent} were taken. Try again in {_seconds_to_wait(counter, state)} s."


def _budget_sentence(limit: Limit, state: CounterState) -> str:
    owner = limit.owner + (f" for model '{limit.model}'" if limit.model else "")
    counter = limit.counter
    reset = f"It begins anew at {budgets.time_of(counter.until)}." if counter.until else "It does not begin anew."
    return (
        f"The budget of {owner} is spent: {budgets.dollars(state.spent)} of {budgets.dollars(counter.limit)}. {reset}"
    )
