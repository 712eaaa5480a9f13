"""What a key is called after it has changed, who may give a role, and both spellings of a model's budget."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import CallerError
from gateway.management.answers import key_info, status
from gateway.management.authority import require_role_giver
from gateway.management.request import Actor
from gateway.management.values import ModelLimit, model_max_budget
from gateway.virtual_keys import ModelBudget
from support.virtual_keys import key_of
from translators.core.notes import Notes

NOW = 1_000.0


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({}, "active"),
        ({"expires": NOW + 1}, "active"),
        ({"expires": NOW}, "expired"),
        ({"expires": NOW - 1}, "expired"),
        ({"expires": NOW - 1, "blocked": True}, "revoked"),
        ({"expires": NOW - 1, "blocked": True, "deleted_at": NOW}, "deleted"),
    ],
)
def test_the_word_for_what_has_become_of_a_key(fields: dict[str, Any], word: str) -> None:
    assert status(key_of("a", **fields), NOW) == word


def test_a_key_shows_the_budgets_of_its_models() -> None:
    budgets = {"command-a": ModelBudget(5_000_000_000, "1d")}
    assert key_info(key_of("a", model_max_budget=budgets), NOW)["model_max_budget"]
    assert key_info(key_of("a"), NOW)["model_max_budget"] == {}


@pytest.mark.parametrize(
    ("role", "fields", "refused"),
    [
        ("master", {"role": "admin"}, False),
        ("admin", {"role": "viewer"}, True),
        ("admin", {"role": ""}, False),
        ("admin", {}, False),
    ],
)
def test_only_the_master_key_gives_a_role(role: Any, fields: dict[str, str], refused: bool) -> None:
    actor = Actor("somebody", role)
    if not refused:
        require_role_giver(actor, fields)
        return
    with pytest.raises(CallerError) as caught:
        require_role_giver(actor, fields)
    assert (caught.value.failure.status, caught.value.failure.param) == (403, "role")


@pytest.mark.parametrize(
    "entry",
    [
        ModelLimit(budget_limit=1_000, time_period="1d"),
        ModelLimit(max_budget=1_000, budget_duration="1d"),
        ModelLimit(budget_limit=1_000, max_budget=2_000, time_period="1d", budget_duration="30d"),
    ],
)
def test_both_spellings_of_the_budget_of_a_model(entry: ModelLimit) -> None:
    assert model_max_budget("model_max_budget", {"m": entry}, Notes()) == {"m": ModelBudget(1_000, "1d")}
