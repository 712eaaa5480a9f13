"""Which limits hold for a request and for its further calls (fallbacks, second attempts), and for how long they do."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gateway.auth.credentials import Credential
from gateway.auth.permissions import EVERYTHING, Access
from gateway.auth.principal import Principal
from gateway.limits.plan import Plan, Plans, cheaper_model
from gateway.settings.schema import GlobalLimits
from gateway.virtual_keys import EndUser, ModelBudget, Team, VirtualKey
from support.virtual_keys import key_of
from translators.core.contracts import Policy

A = "command-a-03-2025"
DAILY = ModelBudget(7.0, "1d")


def plan() -> Plan:
    """Of a key with a limit of every kind: its own, and those of a model."""
    key = key_of(
        "a",
        rpm_limit=5,
        tpm_limit=100,
        max_parallel_requests=2,
        model_rpm_limit={A: 3},
        model_tpm_limit={A: 50},
    )
    plans = Plans(GlobalLimits(), Policy(), lambda: 1_000.0)
    return plans.plan(Principal("a", "a", False, Credential(), key=key), None, A)


def limits(another_model: bool) -> set[tuple[str, bool]]:
    """The unit of each limit, and whether it is that of a model."""
    return {(limit.counter.unit, bool(limit.model)) for limit in plan().further(another_model).limits}


def test_a_call_to_the_same_model_is_counted_already() -> None:
    assert limits(False) == {("tokens", False), ("tokens", True)}


def test_a_call_to_another_model_counts_among_its_requests() -> None:
    assert limits(True) == {("tokens", False), ("tokens", True), ("requests", True)}


def test_models_are_meant_by_the_aliases_of_the_record_that_limits_them() -> None:
    key = key_of("a", aliases={"fast": A}, model_rpm_limit={"fast": 1}, model_max_budget={"cohere/fast": DAILY})
    team = Team(team_id="t", aliases={"ours": A, "fast": "b"}, model_tpm_limit={"ours": 2, "fast": 3})
    user = EndUser(user_id="u", model_rpm_limit={"everybodys": 4, "fast": 5})
    plans = Plans(GlobalLimits(), Policy(aliases={"everybodys": A}), lambda: 1_000.0)
    plan = plans.plan(Principal("a", "a", False, Credential(), key=key, team=team), user, A)
    limits = sorted((limit.subject[0], limit.counter.unit, limit.counter.limit) for limit in plan.all.limits)
    assert limits == [
        ("end_user", "requests", 4),
        ("key", "money", 7 * 10**9),
        ("key", "requests", 1),
        ("team", "tokens", 2),
    ]


@pytest.mark.parametrize(("of_key", "of_team", "expected"), [(True, False, "b"), (False, True, "c"), (True, True, "b")])
def test_the_cheaper_model_is_that_of_the_record_that_names_it(of_key: bool, of_team: bool, expected: str) -> None:
    own: Any = {"budget_fallbacks": {"mine": ("small",)}} if of_key else {}
    ours: Any = {"budget_fallbacks": {"ours": ("small",)}} if of_team else {}
    key = key_of("a", aliases={"mine": A, "small": "b"}, **own)
    team = Team(team_id="t", aliases={"ours": A, "small": "c"}, **ours)
    principal = Principal("a", "a", False, Credential(), key=key, team=team)
    assert cheaper_model(principal, [A], Policy()) == expected


@pytest.mark.parametrize(
    ("permitted", "expected"), [((), "b"), (("b", "c"), "b"), (("c",), "c"), ((A,), None), (("[bc]",), "b")]
)
def test_a_model_that_may_not_be_used_takes_the_place_of_none(permitted: Any, expected: str | None) -> None:
    """So that who asked for another one hears of their budget."""
    key, access = (
        key_of("a", budget_fallbacks={A: ("b", "c")}),
        Access(EVERYTHING, models=(permitted,) * bool(permitted)),
    )
    assert cheaper_model(Principal("a", "a", False, Credential(), key, access=access), [A], Policy()) == expected


def test_a_plan_is_made_anew_when_a_record_is_replaced() -> None:
    plans = Plans(GlobalLimits(), Policy(), lambda: 1_000.0)
    key, team, user = (
        key_of("a", team_id="t", rpm_limit=5),
        Team(team_id="t", rpm_limit=6),
        EndUser(user_id="u", rpm_limit=7),
    )

    def limits_of(key: VirtualKey, team: Team, user: EndUser) -> tuple[Plan, list[int]]:
        plan = plans.plan(Principal("a", "a", False, Credential(), key=key, team=team), user, A)
        return plan, [limit.counter.limit for limit in plan.all.limits]

    first, limits = limits_of(key, team, user)
    assert sorted(limits) == [5, 6, 7]
    assert limits_of(key, team, user)[0] is first, "a plan is made once"
    for records, expected in (
        ((replace(key, rpm_limit=1), team, user), [1, 6, 7]),
        ((key, replace(team, rpm_limit=2), user), [2, 5, 7]),
        ((key, team, replace(user, rpm_limit=3)), [3, 5, 6]),
    ):
        assert sorted(limits_of(*records)[1]) == expected
        assert sorted(limits_of(key, team, user)[1]) == [5, 6, 7]


def test_a_plan_ends_with_the_first_window_of_its_budgets() -> None:
    now = [1_000.0]
    plans = Plans(GlobalLimits(), Policy(), lambda: now[0])
    caller = Principal("a", "a", False, Credential(), key=key_of("a", max_budget=1_000_000_000, budget_duration="1d"))
    first = plans.plan(caller, None, A)
    now[0] = first.until - 1
    assert plans.plan(caller, None, A) is first
    now[0] = first.until
    assert plans.plan(caller, None, A).until > first.until
