"""Permissions as they are given: what is refused with which sentence, and the laws of levels."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth import permissions
from gateway.auth.permissions import FULL, GROUPS, LEVELS, OFF, PRESETS, READ, READABLE, PermissionsError
from gateway.cohere_methods import METHODS, OTHER
from gateway.virtual_keys import Team, VirtualKey
from translators.core.contracts import Policy

REFUSED: tuple[tuple[Any, str], ...] = (
    ("everything", "there is no preset 'everything'; there are none, inference, read-only, all"),
    ({"dataset": "full"}, "there is no group or method 'dataset'; did you mean 'datasets'?"),
    ({"datasets.remove": "full"}, "did you mean 'datasets.create'?"),
    ({"datasets": "write"}, "'write' is no level for datasets: it is one of off, read, full"),
    ({"datasets": None}, "'None' is no level for datasets"),
    ({"datasets": ["full"]}, "is no level for datasets"),
    ({"chat": "read"}, "chat has nothing to read, as its methods compute an answer: use full or off"),
    ({"v2.embed": "read"}, "v2.embed is no method that reads: use full or off"),
    (["chat"], "it must be the name of a preset, or a map of groups and methods to levels"),
    (7, "it must be the name of a preset"),
)


@pytest.mark.parametrize(("value", "sentence"), REFUSED, ids=str)
def test_what_cannot_be_given(value: Any, sentence: str) -> None:
    with pytest.raises(PermissionsError) as refused:
        permissions.check(value)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    "value", [None, {}, *PRESETS, {"datasets": "read", "datasets.delete": "full", "v2.chat": "off"}]
)
def test_what_can_be_given(value: Any) -> None:
    permissions.check(value)


names = st.sampled_from([*GROUPS, *(method.name for method in METHODS)])
maps = st.dictionaries(names, st.sampled_from(LEVELS), max_size=6)
given_permissions = st.one_of(st.none(), st.sampled_from([*PRESETS]), maps)


def key_of(**fields: Any) -> VirtualKey:
    return VirtualKey(key_id="k", digest="d", **fields)


@given(given_permissions, given_permissions, st.sampled_from(["none", "inference"]))
def test_a_key_never_exceeds_its_team(own: Any, of_team: Any, default: str) -> None:
    key, team = key_of(permissions=own), Team(team_id="t", permissions=of_team)
    access = permissions.access_of(key, team, default, Policy())
    alone = permissions.levels_of(of_team, default)
    for method in (*METHODS, OTHER):
        try:
            permissions.require_method(access, method)
        except Exception:
            continue
        needed = READ if method.reads else FULL
        assert of_team is None or alone.of(method) >= needed
        assert own is None or permissions.levels_of(own, default).of(method) >= needed


@pytest.mark.parametrize(
    ("own", "of_team", "expected"),
    [
        (("fast",), None, (("r7b",),)),
        (("cohere/fast",), None, (("r7b",),)),
        (("ours",), None, (("aya",),)),
        (("everybodys",), None, (("r7b",),)),
        (("fast", "command-*"), ("ours", "fast", "everybodys"), (("r7b", "command-*"), ("aya", "fast", "a"))),
    ],
)
def test_the_models_of_a_record_are_meant_by_its_own_aliases(own: Any, of_team: Any, expected: Any) -> None:
    """And by those of the settings and of the team; but no alias of a key changes what its team has."""
    key = key_of(models=own, aliases={"fast": "r7b", "everybodys": "r7b"})
    team = Team(team_id="t", models=of_team, aliases={"ours": "aya"})
    access = permissions.access_of(key, team, "inference", Policy(aliases={"everybodys": "a"}))
    assert access.models == expected


@given(maps, st.sampled_from(["none", "inference"]))
def test_a_method_wins_over_its_group_and_the_rest_keeps_the_default(named: dict[str, str], default: str) -> None:
    levels, base = permissions.levels_of(named, default), permissions.levels_of(None, default)
    for method in METHODS:
        word = named.get(method.name, named.get(method.group))
        if word is not None:
            assert levels.of(method) == LEVELS.index(word)
        else:
            assert levels.of(method) == base.of(method)
    assert levels.of(OTHER) == OFF


def test_read_is_there_where_something_reads() -> None:
    assert {group for group in GROUPS if group not in READABLE} == {
        *("chat", "classify", "embed", "rerank", "parse", "tokens", "transcription")
    }


@pytest.mark.parametrize(
    ("models", "permitted", "refused"),
    [
        ((), ["anything"], []),
        (("*",), ["anything"], []),
        (("all-proxy-models", "x"), ["anything"], []),
        (("command-*",), ["command-a-03-2025"], ["embed-v4.0", "xcommand-", "Command-A"]),
        (("cohere/command-*",), ["command-a-03-2025"], ["embed-v4.0"]),
        (("command-r-plus",), ["command-r-plus-08-2024"], ["command-r-plus"]),
        (("gpt-4o",), ["command-a-03-2025"], ["gpt-4o"]),
        (("command-?7b-*",), ["command-r7b-12-2024"], ["command-r-08-2024"]),
        (("a" * 10,), ["a" * 10], ["a" * 100_000, ""]),
    ],
    ids=str,
)
def test_models(models: tuple[str, ...], permitted: list[str], refused: list[str]) -> None:
    access = permissions.access_of(key_of(models=models), None, "inference", Policy({"gpt-4o": "command-a-03-2025"}))
    assert [model for model in permitted if not permissions.may_use(access, model)] == []
    assert [model for model in refused if permissions.may_use(access, model)] == []


def test_the_stricter_safety_mode_counts() -> None:
    for own, of_team, effective in (("STRICT", "CONTEXTUAL", "STRICT"), (None, "STRICT", "STRICT"), (None, None, "")):
        team = Team(team_id="t", safety_mode=of_team)  # type: ignore[arg-type]
        access = permissions.access_of(key_of(safety_mode=own), team, "inference", Policy())
        assert access.safety_mode == effective
