"""`gateway/management/values.py` and `spending.py`: values at their bounds, and what an answer shows of the spend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.management import values
from gateway.management.spending import fill_in, spenders
from gateway.management.values import BudgetLimit, ModelLimit
from gateway.virtual_keys import BudgetWindow, ModelBudget
from translators.core.errors import InvalidField
from translators.core.notes import Notes

ACCEPTED: tuple[tuple[Callable[..., Any], Any, Any], ...] = (
    (values.printable, "a", "a"),
    (values.printable, ["a", "b"], ("a", "b")),
    (values.printable, {"a": "b"}, {"a": "b"}),
    (values.alias, "a" * 63, "a" * 63),
    (values.alias, "a" * 65, "a" * 65),
    (values.alias, "key", "key"),
    (values.alias, "my sk-key", "my sk-key"),
    (values.secret, "sk-" + "x" * 21, "sk-" + "x" * 21),
    (values.secret, "sk-!-/~" + "x" * 20, "sk-!-/~" + "x" * 20),
    (values.duration, "", ""),
    (values.duration, "-1", ""),
    (values.duration, "30d", "30d"),
    (values.budget_duration, "1mo", "1mo"),
    (values.model_counts, {"command-a": 0}, {"command-a": 0}),
    (values.models, ["a"], ("a",)),
    (values.models, [], ()),
    (values.models, ["a", "all-proxy-models"], ()),
    (values.models, ["all-team-models"], None),
    (values.models, ["all-team-models", "all-proxy-models"], None),
    (values.addresses, ["10.0.0.1/8", "::1"], ("10.0.0.1/8", "::1")),
    (values.metadata, {"a": "x" * (16 * 1024 - 8)}, {"a": "x" * (16 * 1024 - 8)}),
    (values.permissions, "read-only", "read-only"),
    (values.permissions, {"chat": "full"}, {"chat": "full"}),
    (values.budget_fallbacks, {"command-a": ["command-r"]}, {"command-a": ("command-r",)}),
    (values.model_max_budget, {"m": ModelLimit(0.0, "1d", 5.0, "30d")}, {"m": ModelBudget(0.0, "1d")}),
    (values.model_max_budget, {"m": ModelLimit(None, None, 0.0, "30d")}, {"m": ModelBudget(0.0, "30d")}),
    (values.model_max_budget, {"m": ModelLimit(1.0, "", None, "30d")}, {"m": ModelBudget(1.0, "30d")}),
    (
        values.budget_limits,
        [BudgetLimit("1d", 1.0), BudgetLimit("30d", 9.0)],
        (BudgetWindow("1d", 1.0), BudgetWindow("30d", 9.0)),
    ),
)


@pytest.mark.parametrize(
    ("check", "value", "expected"), ACCEPTED, ids=lambda one: getattr(one, "__name__", str(one)[:40])
)
def test_a_value_is_taken(check: Callable[..., Any], value: Any, expected: Any) -> None:
    notes = Notes()
    assert check("f", value, notes) == expected and not list(notes)


REFUSED: tuple[tuple[Callable[..., Any], Any, str, str], ...] = (
    (values.printable, "a\n", "f", "cannot be printed"),
    (values.printable, ["a", "b\x00"], "f", "cannot be printed"),
    (values.printable, {"a": ["b\r"]}, "f", "cannot be printed"),
    (values.printable, {"a\t": "b"}, "f", "cannot be printed"),
    (values.alias, "a\n", "f", "cannot be printed"),
    (values.alias, "sk-a", "f", "looks like"),
    (values.alias, "key_a", "f", "looks like"),
    (values.alias, "0123456789abcdef" * 4, "f", "looks like"),
    (values.secret, "sk-" + "x" * 20, "f", "has 23 characters, and needs 24"),
    (values.secret, "sk-a.b.c" + "x" * 20, "f", "must begin with 'sk-'"),
    (values.secret, "sk-a b" + "x" * 20, "f", "must begin with 'sk-'"),
    (values.secret, "sk-\x7f" + "x" * 20, "f", "must begin with 'sk-'"),
    (values.secret, "sk-" + "x" * 24 + "\n", "f", "must begin with 'sk-'"),
    (values.secret, "xk-" + "x" * 24, "f", "must begin with 'sk-'"),
    (values.duration, "soon", "f", "Invalid 'f'"),
    (values.duration, "0d", "f", "Invalid 'f'"),
    (values.duration, "9999mo", "f", "is longer than"),
    (values.budget_duration, "-1", "f", "Invalid 'f'"),
    (values.budget_duration, "", "f", "Invalid 'f'"),
    (values.models, ["no-default-models"], "f", "is not a model"),
    (values.model_counts, {"a": 1, "command-*": 1}, "f.command-*", "'f' takes names of single models"),
    (values.model_counts, {"a\n": 1}, "f", "cannot be printed"),
    (values.model_max_budget, {"command-?": ModelLimit(1.0, "1d")}, "f.command-?", "is a pattern"),
    (values.budget_fallbacks, {"[ab]": ["c"]}, "f.[ab]", "is a pattern"),
    (values.budget_fallbacks, {"a": ["command-*"]}, "f.command-*", "is a pattern"),
    (values.models, ["a\n"], "f", "cannot be printed"),
    (values.addresses, ["10.0.0.1", "here"], "f[1]", "'here' is neither"),
    (values.metadata, {"a": "x" * (16 * 1024 - 7)}, "f", "has 16385 bytes, more than 16384"),
    (values.permissions, "some", "f", "Invalid 'f'"),
    (values.budget_fallbacks, {"embed-v4.0": ["a"]}, "f.embed-v4.0", "makes embeddings"),
    (values.budget_fallbacks, {"cohere/embed-v4.0": ["a"]}, "f.cohere/embed-v4.0", "makes embeddings"),
    (values.budget_fallbacks, {"a": ["b", "a"]}, "f.a", "its own fallback"),
    (values.budget_fallbacks, {"a": ["b\n"]}, "f", "cannot be printed"),
    (values.model_max_budget, {"m": ModelLimit(None, "1d")}, "f.m.budget_limit", "'budget_limit'"),
    (values.model_max_budget, {"m": ModelLimit(1.0)}, "f.m.time_period", "'time_period'"),
    (values.model_max_budget, {"m": ModelLimit()}, "f.m.budget_limit", "'budget_limit'"),
    (values.model_max_budget, {"m": ModelLimit(1.0, "soon")}, "f.m.time_period", "Invalid"),
    (values.model_max_budget, {"m\n": ModelLimit(1.0, "1d")}, "f", "cannot be printed"),
    (values.budget_limits, [BudgetLimit("1d", 1.0)] * 2, "f[1].budget_duration", "two budgets for 1d"),
    (values.budget_limits, [BudgetLimit("1d", 1.0), BudgetLimit("x", 1.0)], "f[1].budget_duration", "Invalid"),
)


@pytest.mark.parametrize(
    ("check", "value", "param", "words"), REFUSED, ids=lambda one: getattr(one, "__name__", str(one)[:40])
)
def test_a_value_is_refused_by_its_path(check: Callable[..., Any], value: Any, param: str, words: str) -> None:
    with pytest.raises(InvalidField) as caught:
        check("f", value, Notes())
    assert caught.value.failure.param == param and words in caught.value.failure.message


def test_when_a_window_of_litellms_was_reset_says_nothing() -> None:
    notes = Notes()
    values.budget_limits("f", [BudgetLimit("1d", 1.0, "2026-01-01")], notes)
    assert [note.text for note in notes] == ["f.reset_at ignored (windows lie on the UTC calendar)"]


# --- what was spent -------------------------------------------------------------------------------------------


MIDNIGHT = 20_000 * 86_400
NOON = MIDNIGHT + 43_200.5


def an_answer() -> dict[str, Any]:
    return {
        "info": {"key_id": "k1", "team_id": "t1", "spend": 0, "model_spend": {}, "total_spend": 0},
        "keys": [{"key_id": "k2", "spend": 0}, "k3"],
        "team_info": {"team_id": "t1", "spend": 0, "keys": [{"key_id": "k4", "spend": 0, "budget_duration": "1d"}]},
        "blocked_users": [{"user_id": "u1", "spend": 0}],
        "other": [{"key_id": "k9", "spend": 0}],
    }


def test_whose_spend_an_answer_shows() -> None:
    assert spenders(an_answer(), NOON) == {
        ("key_id", 0): {"k1", "k2", "k4"},
        ("key_id", MIDNIGHT): {"k4"},
        ("team_id", 0): {"t1"},
        ("end_user", 0): {"u1"},
    }
    assert spenders({"key_id": "k"}, NOON) == {} == spenders("k", NOON)
    for name in ("teams", "data", "unblocked_users"):
        assert spenders({name: [{"team_id": "t", "spend": 0}]}, NOON) == {("team_id", 0): {"t"}}


def test_the_spend_is_in_dollars_and_by_model() -> None:
    answer = an_answer()
    by_model = {"command-a": 1_500_000_000, "command-r": 0, "": 500_000_000}
    fill_in(
        answer,
        {
            ("key_id", 0): {"k1": by_model, "k4": by_model},
            ("key_id", MIDNIGHT): {"k4": {"command-a": 500_000_000}},
            ("team_id", 0): {"t1": {"command-a": 1}},
            ("end_user", 0): {},
        },
        NOON,
    )
    info, (in_team,) = answer["info"], answer["team_info"]["keys"]
    assert (info["spend"], info["total_spend"], info["model_spend"]) == (2.0, 2.0, {"command-a": 1.5})
    assert (in_team["spend"], in_team["total_spend"]) == (0.5, 2.0), "what its budget of a day is left with is said"
    assert answer["team_info"]["spend"] == answer["team_info"]["total_spend"] == 1e-9
    assert [answer["keys"][0]["spend"], answer["blocked_users"][0]["spend"]] == [0, 0]
    assert answer["other"] == an_answer()["other"]


def test_what_the_ledger_does_not_say_is_unknown_and_not_nothing() -> None:
    answer = an_answer()
    fill_in(answer, None, NOON)
    info = answer["info"]
    assert (info["spend"], info["total_spend"], info["model_spend"]) == (None, None, None)
    fill_in(answer, {one: {} for one in spenders(answer, NOON)}, NOON)
    assert (info["spend"], info["total_spend"], info["model_spend"]) == (0, 0, {})
