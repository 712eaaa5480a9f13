"""How LiteLLM's table of keys is read: as PostgreSQL writes it, or as JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.management import litellm_import
from gateway.management.litellm_import import Imported, judge, read_rows
from gateway.management.request import Actor
from gateway.store.database import Database
from gateway.virtual_keys import VirtualKey, digest_of

DIGEST = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4


def from_csv(columns: str, cells: str) -> Imported:
    return judge(read_rows(f"token,{columns}\r\n{DIGEST},{cells}\r\n".encode()))


def from_json(*rows: dict[str, Any], drop_restrictions: bool = False) -> Imported:
    lines = "\n".join(json.dumps({"token": DIGEST, **row}) for row in rows)
    return judge(read_rows(lines.encode()), drop_restrictions)


def only_key(result: Imported) -> VirtualKey:
    assert not result.skipped
    (key,) = result.keys
    return key


@pytest.mark.parametrize(
    ("column", "cell", "value"),
    [
        ("models", "{}", ()),
        ("models", r"\N", None),
        ("models", "", None),
        ("models", "{command-a}", ("command-a",)),
        ("models", "{7}", ("7",)),
        ("models", r'"{a b,""c\"",d""}"', ("a b", 'c",d')),
        ("allowed_ips", "{}", ()),
        ("allowed_ips", "{10.0.0.0/8}", ("10.0.0.0/8",)),
        ("metadata", "{}", {}),
        ("metadata", '"{""a"": 1}"', {"a": 1}),
        ("aliases", "{}", {}),
        ("max_budget", "2.5", 2.5),
        ("rpm_limit", "", None),
        ("budget_duration", "30d", "30d"),
        ("blocked", "t", True),
        ("blocked", "TRUE", True),
        ("blocked", "1", True),
        ("blocked", "f", False),
        ("blocked", r"\N", False),
        ("key_alias", "7", "7"),
        ("key_alias", "true", "true"),
        ("user_id", "{a}", "{a}"),
        ("team_id", "null", "null"),
    ],
)
def test_a_cell_as_postgresql_writes_it(column: str, cell: str, value: Any) -> None:
    assert getattr(only_key(from_csv(column, cell)), column) == value


@pytest.mark.parametrize("column", ["allowed_routes", "allowed_cache_controls", "policies", "access_group_ids"])
def test_an_empty_list_restricts_nothing(column: str) -> None:
    only_key(from_csv(column, "{}"))
    (skipped,) = from_csv(column, "{a}").skipped
    assert column in skipped.reason


def test_rows_of_another_length_than_the_head() -> None:
    """Of a file that was cut, or a comma without quotes: the key would have lost a limit, or have another's."""
    for columns, cells in (("key_alias,rpm_limit", "a"), ("key_alias", "a,b,c"), ("models,rpm_limit", "{a,b},5")):
        with pytest.raises(ValueError, match="line 2 has not as many cells as the head"):
            from_csv(columns, cells)


def test_a_byte_order_mark_is_no_part_of_the_first_column() -> None:
    for text in (f"token\n{DIGEST}\n", json.dumps({"token": DIGEST})):
        assert only_key(judge(read_rows(text.encode("utf-8-sig")))).digest == DIGEST


def test_an_empty_line_is_no_row_and_counts_as_a_line() -> None:
    lines = f'\n{{"token": "{DIGEST}"}}\n\n  \n'
    only_key(judge(read_rows(lines.encode())))
    with pytest.raises(ValueError, match="line 5 is not a JSON object"):
        judge(read_rows(f"{lines}[1]\n".encode()))


def test_a_cell_may_be_large_and_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    # More than the standard library takes by itself.
    only_key(from_csv("updated_by", "x" * 200_000))
    monkeypatch.setattr(litellm_import, "MAX_CELL_CHARACTERS", 1_000)
    with pytest.raises(ValueError, match="line 2 is not CSV"):
        from_csv("updated_by", "x" * 1_001)


@pytest.mark.parametrize(
    ("token", "digest"),
    [
        (DIGEST, DIGEST),
        ("sk-a-secret-in-clear-text", digest_of("sk-a-secret-in-clear-text")),
        (DIGEST.upper(), None),
        (f"{DIGEST}\n", None),
        (f"{DIGEST}0", None),
        (f"0{DIGEST}", None),
        ("", None),
        (None, None),
        (7, None),
    ],
)
def test_a_token_is_a_digest_or_a_secret(token: Any, digest: str | None) -> None:
    result = from_json({"token": token})
    assert [key.digest for key in result.keys] == ([digest] if digest else [])
    assert all("token" in skipped.reason for skipped in result.skipped)


@pytest.mark.parametrize(
    ("expires", "seconds"),
    [
        (None, None),
        ("", None),
        (5, 5.0),
        ("2100-01-01T00:00:00", 4_102_444_800.0),
        ("2100-01-01 00:00:00Z", 4_102_444_800.0),
        ("2100-01-01T00:00:00+02:00", 4_102_437_600.0),
    ],
)
def test_when_a_key_expires(expires: Any, seconds: float | None) -> None:
    assert only_key(from_json({"expires": expires})).expires == seconds


def test_a_date_that_cannot_be_read_is_no_key_for_ever() -> None:
    assert [skipped.row for skipped in from_json({}, {"expires": "soon"}).skipped] == [2]


@pytest.mark.asyncio
async def test_rows_are_numbered_as_in_the_file_whatever_was_left_out_before(tmp_path: Path) -> None:
    result = from_json(
        {"token": "none"},
        {"token": OTHER, "key_alias": "a"},
        {"team_id": "nowhere"},
        {"expires": "soon"},
        {"token": digest_of("sk-other"), "key_alias": "a"},
    )
    database = Database(f"sqlite:///{tmp_path}/keys.db", 20.0, 1)
    actor = Actor("master", "master")
    result = await database.write(litellm_import.insert(result, actor, 1.0))
    await database.close()
    assert ([key.digest for key in result.keys], result.rows) == ([OTHER], [2])
    assert [skipped.row for skipped in result.skipped] == [1, 3, 4, 5]


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"key_alias": "alias", "key_name": "sk-...abcd"}, "alias"),
        ({"key_name": "sk-...abcd"}, "sk-...abcd"),
        ({"key_alias": ""}, "row 1"),
        ({"key_alias": "x" * 101}, "x" * 100),
    ],
)
def test_what_a_row_that_is_left_out_is_called(row: dict[str, Any], name: str) -> None:
    (skipped,) = from_json({**row, "token": "none"}).skipped
    assert (skipped.row, skipped.name) == (1, name)


@pytest.mark.parametrize(
    ("key_name", "last_four"), [("sk-...abcd", "abcd"), ("xabcd", "abcd"), ("abcd", ""), (None, ""), (7, "")]
)
def test_the_last_four_characters_of_a_secret(key_name: Any, last_four: str) -> None:
    assert only_key(from_json({"key_name": key_name})).last_four == last_four


def test_what_litellm_keeps_in_the_metadata() -> None:
    metadata = {"model_rpm_limit": {"m": 1}, "model_tpm_limit": {"m": 2}, "tags": ["a"], "mine": 3}
    key = only_key(from_json({"metadata": metadata}))
    assert (key.model_rpm_limit, key.model_tpm_limit, key.tags) == ({"m": 1}, {"m": 2}, ("a",))
    assert key.metadata == {"mine": 3}
    # The column of the table is nearer to the key.
    assert only_key(from_json({"metadata": metadata, "model_rpm_limit": {"m": 9}})).model_rpm_limit == {"m": 9}
    assert only_key(from_json({"metadata": metadata, "model_rpm_limit": {}})).model_rpm_limit == {"m": 1}


@pytest.mark.parametrize("row", [{"guardrails": ["pii"]}, {"metadata": {"guardrails": ["pii"]}}])
def test_a_restriction_is_lost_only_if_that_is_asked_for(row: dict[str, Any]) -> None:
    result = from_json({"key_alias": "a", **row})
    assert not result.keys and not result.notes and "guardrails" in result.skipped[0].reason
    result = from_json({"key_alias": "a", **row}, drop_restrictions=True)
    assert only_key(result).key_alias == "a" and result.notes == ["a: without guardrails"]
    empty = json.loads(json.dumps(row).replace('["pii"]', "[]"))
    assert not from_json(empty, drop_restrictions=True).notes


def test_what_has_no_meaning_here_is_noted() -> None:
    result = from_json({"key_alias": "a", "new": 1, "newer": 2, "empty": 0, "org_id": "x", "spend": 3, "status": "on"})
    assert only_key(result)
    first, second = result.notes
    assert first.startswith("a: without new, newer, which") and second.startswith("a: organization_id ignored")
