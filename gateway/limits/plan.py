"""Which limits a caller has: from the records of the key, its team and the end user, and from the settings.

A plan is made once for a caller and a model, and used until a record changes or a window of a budget ends.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec import Struct

from gateway.auth.permissions import may_use, with_aliases
from gateway.auth.principal import Principal
from gateway.budget_windows import window_at
from gateway.limits.budgets import nano_dollars
from gateway.settings.schema import GlobalLimits
from gateway.store.counters import NO_LIMIT, UNITS, Counter, Unit
from gateway.virtual_keys import EndUser
from gateway.virtual_keys import Limits as LimitFields
from translators.core.capabilities import EMBEDDERS
from translators.core.contracts import Policy
from translators.core.model_names import resolve

MAX_PLANS = 20_000
"""Plans that are kept at once. With more callers than that they are made anew now and then."""

# Such a text stands in a counter's id as it is. A colon would be taken for the end of a part.
_PLAIN = re.compile(r"[A-Za-z0-9._@+-]{1,80}\Z")


class Limit(Struct, frozen=True):
    """One limit that a request is held to.

    owner: whose it is, for a sentence: `key 'research'`. model: the model that it is for alone, empty for all.
    duration: of a budget, such as `1d`, empty for one without an end. soft: the amount from which an alert is due.
    subject: kind and id of the owner, for alerts and metrics.
    """

    counter: Counter
    owner: str
    subject: tuple[str, str]
    model: str = ""
    duration: str = ""
    soft: int = NO_LIMIT


class Limits(Struct, frozen=True):
    """Limits with their counters, in the same order.

    has_budget: there are budgets among them. requests, tokens: where the counters of these are. budgets: where those
    of money are, each with its labels in metrics and the amount from which an alert is due.
    """

    limits: Sequence[Limit]
    counters: Sequence[Counter]
    has_budget: bool
    requests: Sequence[int]
    tokens: Sequence[int]
    budgets: Sequence[tuple[int, tuple[str, str, str, str], int]]

    @staticmethod
    def of(limits: Iterable[Limit]) -> "Limits":
        limits = tuple(limits)
        counters = tuple(limit.counter for limit in limits)
        positions = {unit: [n for n, counter in enumerate(counters) if counter.unit == unit] for unit in UNITS}
        budgets = [
            (n, (*limit.subject, limit.model, limit.duration), min(limit.soft, limit.counter.limit))
            for n, limit in enumerate(limits)
            if limit.counter.unit == "money"
        ]
        return Limits(limits, counters, bool(budgets), positions["requests"], positions["tokens"], budgets)


class Plan(Struct, frozen=True):
    """All limits of a caller for a model. since, until: Unix seconds at which the last window of its budgets
    began and the first one ends: a clock may be set back.

    free: for methods that cost nothing. records: what the plan was made of. by_body: a limit is of tokens or money, or
    for some model: what is in a request decides what it takes of it.
    """

    all: Limits
    free: Limits
    since: float
    until: float
    records: tuple[object, ...] = ()
    by_body: bool = False

    def further(self, another_model: bool) -> Limits:
        """Returns the limits of a further call of a request, which is counted already where requests are counted: but
        not among those of another model.
        """
        return Limits.of(
            limit
            for limit in self.all.limits
            if limit.counter.unit in ("tokens", "money") or (another_model and limit.model)
        )


class Plans:
    """The plans in use. policy: by which names of models are resolved."""

    def __init__(self, settings: GlobalLimits, policy: Policy, now: Callable[[], float]) -> None:
        self._now = now
        self.configure(settings, policy)

    def configure(self, settings: GlobalLimits, policy: Policy) -> None:
        """Takes over other settings."""
        self._settings, self._policy = settings, policy
        self._plans: dict[tuple[str, str, str], Plan] = {}

    def plan(self, principal: Principal, end_user: EndUser | None, model: str) -> Plan:
        """Returns the plan for a request. model: Cohere's id."""
        key, team = principal.key, principal.team
        id = (
            key.key_id if key is not None else "",
            end_user.user_id if end_user is not None else "",
            model,
        )
        plan = self._plans.get(id)
        if plan is not None and plan.since <= self._now() < plan.until:
            records = plan.records
            # By identity: records are replaced as a whole when they change, and to compare them would cost more than
            # the plan.
            if records[0] is key and records[1] is team and records[2] is end_user:
                return plan
        if len(self._plans) >= MAX_PLANS:
            # All at once. To forget the oldest would need an order that every request keeps up to date.
            self._plans.clear()
        plan = self._plans[id] = self._make(principal, end_user, model)
        return plan

    def _make(self, principal: Principal, end_user: EndUser | None, model: str) -> Plan:
        key, team, now = principal.key, principal.team, self._now()
        limits: list[Limit] = []
        if key is not None:
            name, policy = f"key '{key.key_alias or key.key_id}'", with_aliases(self._policy, team, key)
            limits += _record_limits(("key", key.key_id), name, key, model, policy, now)
        if team is not None:
            name, policy = f"team '{team.team_alias or team.team_id}'", with_aliases(self._policy, team)
            limits += _record_limits(("team", team.team_id), name, team, model, policy, now)
        if end_user is not None:
            name = f"end user '{end_user.user_id}'"
            # By the gateway's names for models, as an end user has no aliases.
            limits += _record_limits(("end_user", end_user.user_id), name, end_user, model, self._policy, now)
        settings = self._settings
        limits += _limits(("gateway", ""), "this gateway", settings, now)
        return Plan(
            Limits.of(limits),
            Limits.of(limit for limit in limits if limit.counter.unit != "money"),
            max((limit.counter.window for limit in limits), default=0),
            min((limit.counter.until for limit in limits if limit.counter.until), default=math.inf),
            # `plan` compares them in this order.
            (key, team, end_user),
            any(limit.counter.unit in ("tokens", "money") for limit in limits)
            or any(_limits_models(record) for record in (key, team, end_user) if record is not None),
        )


def cheaper_model(principal: Principal, spent: Sequence[str], policy: Policy) -> str | None:
    """Returns the next model that the key, or else its team, has as a fallback when a budget is spent.

    spent: Cohere's ids of the models that were tried, the request's first. None has the vectors of another embedding
    model, so these have no fallback. A model that the caller may not use is none: the budget is what stands in the way.
    """
    if spent[0] in EMBEDDERS:
        return None
    for record in (principal.key, principal.team):
        names = with_aliases(policy, principal.team, principal.key if record is principal.key else None)
        for name, others in ((record.budget_fallbacks if record is not None else None) or {}).items():
            if resolve(name, names) == spent[0]:
                models = [resolve(other, names) for other in others]
                return next(
                    (model for model in models if model not in spent and may_use(principal.access, model)), None
                )
    return None


def _limits_models(record: LimitFields) -> bool:
    return bool(record.model_rpm_limit or record.model_tpm_limit or record.model_max_budget)


def _record_limits(
    subject: tuple[str, str], owner: str, record: LimitFields, model: str, policy: Policy, now: float
) -> Iterator[Limit]:
    """Yields the limits of one record, those for the model included. policy: resolves the names in the record."""
    yield from _limits(subject, owner, record, now)
    prefix = f"{_prefix(subject)}:model:{_safe(model)}"
    for unit, by_model in (("requests", record.model_rpm_limit), ("tokens", record.model_tpm_limit)):
        for name, rate in (by_model or {}).items():
            # The record has any name that a caller may use, the counter Cohere's: aliases of one model share a limit.
            if resolve(name, policy) == model:
                counter = Counter(f"{prefix}:{unit}", unit, min(rate, NO_LIMIT))  # type: ignore[arg-type]
                yield Limit(counter, owner, subject, model)
    for name, budget in (record.model_max_budget or {}).items():
        if resolve(name, policy) == model:
            limit = nano_dollars(budget.budget_limit)
            yield _budget(prefix, owner, subject, limit, budget.time_period, now, model=model)


def _limits(subject: tuple[str, str], owner: str, record: LimitFields | GlobalLimits, now: float) -> Iterator[Limit]:
    """Yields the limits for all models."""
    prefix = _prefix(subject)
    rates: tuple[tuple[Unit, int | None], ...] = (
        ("requests", record.rpm_limit),
        ("tokens", record.tpm_limit),
        ("parallel", record.max_parallel_requests),
    )
    for unit, rate in rates:
        if rate is not None:
            yield Limit(Counter(f"{prefix}:{unit}", unit, min(rate, NO_LIMIT)), owner, subject)
    soft = getattr(record, "soft_budget", None)
    # A soft budget alone is counted too, or nobody would know when it is reached.
    if record.max_budget is not None or soft is not None:
        limit = nano_dollars(record.max_budget) if record.max_budget is not None else NO_LIMIT
        soft_limit = nano_dollars(soft) if soft is not None else NO_LIMIT
        yield _budget(prefix, owner, subject, limit, record.budget_duration or "", now, soft=soft_limit)
    for window in getattr(record, "budget_limits", None) or ():
        yield _budget(prefix, owner, subject, nano_dollars(window.max_budget), window.budget_duration, now)


def _budget(
    prefix: str,
    owner: str,
    subject: tuple[str, str],
    limit: int,
    duration: str,
    now: float,
    soft: int = NO_LIMIT,
    model: str = "",
) -> Limit:
    # On the calendar, so that all processes and all restarts agree on it without asking each other.
    window = window_at(duration, now)
    # Such ids are stored with what was spent: written otherwise, all budgets would begin anew.
    counter = Counter(f"{prefix}:budget:{duration or 'total'}", "money", limit, window.start, window.end)
    return Limit(counter, owner, subject, model, duration, soft)


def _prefix(subject: tuple[str, str]) -> str:
    kind, id = subject
    return f"{kind}:{_safe(id)}" if id else kind


def _safe(text: str) -> str:
    """Returns a text as a part of a counter's id: a caller may have chosen it, and any database is to take it."""
    return text if _PLAIN.match(text) else "sha256-" + hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
