"""What answers show, what a key is called after it has changed, who may give a role, and both spellings of a model's
budget.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.errors import CallerError
from gateway.management.answers import end_user_info, key_info, status, team_info, updated_key
from gateway.management.authority import require_role_giver
from gateway.management.field_table import FieldTable
from gateway.management.fields import END_USER_UPDATE, KEY_UPDATE, TEAM_UPDATE, options_of
from gateway.management.request import Actor
from gateway.management.values import Count, ModelLimit, Money, model_max_budget
from gateway.virtual_keys import EndUser, ModelBudget, Team, VirtualKey
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


BODIES: dict[str, Any] = {
    "role": "viewer",
    "shared": "team",
    "aliases": {"fast": "command-a-03-2025"},
    "permissions": "inference",
    "safety_mode": "STRICT",
    "allowed_ips": ["192.0.2.1"],
    "ledger_bodies": "errors",
    "models": ["command-a-03-2025"],
    "model_rpm_limit": {"command-a-03-2025": 7},
    "model_tpm_limit": {"command-a-03-2025": 7},
    "budget_duration": "1d",
    "budget_limits": [{"budget_duration": "1d", "max_budget": 7}],
    "model_max_budget": {"command-a-03-2025": {"budget_limit": 7, "time_period": "1d"}},
    "budget_fallbacks": {"command-a-03-2025": ["command-r7b-12-2024"]},
    "blocked": True,
    "metadata": {"seven": 7},
    "tags": ["seven"],
}
"""A value of each field that is neither a number nor any text."""

NOT_STORED = ("key", "duration")
"""Of a key: its name, and what is stored as the moment at which it ends."""


@pytest.mark.parametrize(
    ("table", "kind", "show"),
    [(KEY_UPDATE, VirtualKey, key_info), (TEAM_UPDATE, Team, team_info), (END_USER_UPDATE, EndUser, end_user_info)],
    ids=["key", "team", "end user"],
)
def test_whatever_can_be_set_is_shown(table: FieldTable, kind: Any, show: Any) -> None:
    rows = [row for row in options_of(table) if row.name not in NOT_STORED]
    bodies = {row.name: BODIES.get(row.name, 7 if row.type in (Count, Money) else "seven") for row in rows}
    values = table.read(msgspec.json.encode(bodies), Notes())
    record = kind(**{"key_id": "k", "digest": ""} if kind is VirtualKey else {}, **values)
    info = show(record, NOW)
    missing = [name for name in bodies if not info.get(name)]
    if kind is VirtualKey:
        missing += bodies.keys() - updated_key("k", record, values, NOW).keys()
    assert not missing


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
