"""`cohere-gateway keys`, `teams` and `end-users`: on the database, and with `--url` through a running gateway."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.main import main
from gateway.cli.management import operator
from gateway.management import end_users, litellm_import
from gateway.store import keys
from gateway.virtual_keys import digest_of
from support.databases import KINDS
from support.scripted_upstream import ScriptedUpstream, json_answer
from test_serve_management import MASTER, Management, management
from translators.core.errors import InvalidField

LISTED = ("key_alias", "key_id", "key_name", "status", "models", "permissions", "rpm_limit")


@pytest.fixture(scope="module", params=KINDS)
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Management]:
    with management(request.param, tmp_path_factory.mktemp("command")) as running:
        yield running


@pytest.fixture(autouse=True)
def environment(api: Management, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of the gateway, and no gateway.toml."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("GATEWAY_", "COHERE_", "CO_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GATEWAY_DATABASE_URL", api.url)
    monkeypatch.setenv("GATEWAY_MASTER_KEY", MASTER)


Run = Callable[..., Any]


@pytest.fixture(params=["database", "url"])
def run(request: pytest.FixtureRequest, api: Management, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command with `--json` and returns what it prints; with a status, its sentence on standard error."""
    where = ["--url", api.gateway.url] if request.param == "url" else []

    def run(*words: str, status: int = 0) -> Any:
        assert main([*words, *where, "--json"]) == status, capsys.readouterr()
        output = capsys.readouterr()
        if status:
            assert output.out == "" and len(output.err.splitlines()) == 1, output
            return output.err
        assert output.err == "" or "--url" not in words
        return json.loads(output.out)

    return run


def test_the_life_of_a_key(api: Management, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    new_key = run("keys", "create", "--key-alias", "life", "--models", "command-*,embed-*", "--models", "rerank-*")
    assert new_key["models"] == ["command-*", "embed-*", "rerank-*"] and new_key["token"] == digest_of(new_key["key"])
    info = run("keys", "show", "life")
    assert info["key_id"] == new_key["key_id"] and new_key["key"] not in json.dumps(info)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{new_key['key']}\n"))
    assert run("keys", "show", "-") == info
    changed = run("keys", "update", new_key["key_id"], "--permissions", '{"chat": "full"}', "--rpm-limit", "3")
    assert (changed["permissions"], changed["rpm_limit"]) == ({"chat": "full"}, 3)
    changed = run("keys", "update", "life", "--models", "null", "--rpm-limit", "null", "--permissions", "none")
    assert (changed["models"], changed["rpm_limit"], changed["permissions"]) == ([], None, "none")
    changed = run("keys", "update", "life", "--models", "command-a", "--blocked", "no", "--permissions", "inference")
    assert (changed["models"], changed["blocked"], changed["permissions"]) == (["command-a"], False, "inference")
    second = run("keys", "rotate", new_key["token"], "--grace-period", "1h")
    assert second["key_id"] == new_key["key_id"] and second["previous_until"]
    assert run("keys", "block", new_key["key"])["status"] == "revoked"
    assert run("keys", "list", "--search", "life", "--status", "revoked")["keys"][0]["key_id"] == new_key["key_id"]
    assert run("keys", "unblock", second["key"])["status"] == "active"
    assert "add --yes" in run("keys", "delete", "life", status=2)
    assert run("keys", "delete", "life", "--yes") == {"deleted_keys": ["life"]}
    assert "Key not found" in run("keys", "show", "life", status=1)
    assert run("keys", "list", "--search", "life")["total_count"] == 0


def test_teams_and_end_users(run: Run) -> None:
    team = run(
        "teams", "create", "--team-alias", "search", "--max-budget", "5", "--aliases", '{"small": "command-r7b"}'
    )
    assert run("teams", "update", "search", "--max-budget", "null")["max_budget"] is None
    key = run("keys", "create", "--team-id", team["team_id"])
    assert [one["key_id"] for one in run("teams", "show", "search")["keys"]] == [key["key_id"]]
    assert run("teams", "block", "search")["blocked"] is True and run("teams", "unblock", "search")["blocked"] is False
    assert [one["team_id"] for one in run("teams", "list", "--team-alias", "search")] == [team["team_id"]]
    assert run("teams", "delete", "search", "--yes") == {"deleted_teams": ["search"]}
    user = f"ada-{key['key_id']}"
    run("end-users", "create", "--user-id", user, "--rpm-limit", "3")
    assert run("end-users", "update", user, "--rpm-limit", "null", "--alias", "Ada")["alias"] == "Ada"
    assert run("end-users", "block", user)["blocked"] is True and run("end-users", "unblock", user)["blocked"] is False
    assert user in [one["user_id"] for one in run("end-users", "list")]
    assert run("end-users", "show", user)["rpm_limit"] is None
    run("end-users", "delete", user, "--yes")
    assert "End user not found" in run("end-users", "show", user, status=1)


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        ("keys create --rpm-limit many", 2, "'many' is not a whole number"),
        ("keys create --rpm-limit -1", 2, "rpm_limit"),
        ("keys create --max-budget much", 2, "'much' is not a number"),
        ("keys create --max-budget nan", 2, "'nan' is not a number"),
        ("keys create --max-budget inf", 2, "'inf' is not a number"),
        ("keys create --metadata {", 2, "is not JSON"),
        ("keys create --blocked perhaps", 2, "--blocked"),
        ("keys create --permissions everything", 2, "none, inference, read-only, all"),
        ("keys create --key-alais a", 2, "--key-alias"),
        ("keys create --team-id nobody", 1, "Team not found"),
        ("keys list --status gone", 2, "one of active"),
        ("keys delete nobody --yes", 1, "Key not found"),
        ("keys delete --yes", 2, "KEY"),
        ("teams delete a b", 2, "to delete a, b, add --yes"),
    ],
)
def test_wrong_use_is_one_line(run: Run, words: str, status: int, text: str) -> None:
    assert text in run(*words.split(), status=status)


def test_people_get_tables(api: Management, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "create", "--key-alias", "[bold]table[/bold]", "--models", "command-a"]) == 0
    output = capsys.readouterr().out
    secret = next(word for word in output.split() if word.startswith("sk-") and "..." not in word)
    assert api.ask("/v1/models", key=secret).status == 200 and "only time" in output
    assert main(["keys", "list"]) == 0
    output = capsys.readouterr().out
    (line,) = [line for line in output.splitlines() if "[bold]table[/bold]" in line]
    assert "active" in line and "command-a" in line and f"...{secret[-4:]}" in line and secret not in output
    assert main(["keys", "delete", "[bold]table[/bold]", "--yes"]) == 0
    assert main(["teams", "list"]) == 0 and main(["keys", "list", "--search", "nobody"]) == 0
    assert "there are no such keys" in capsys.readouterr().out


def test_people_read_what_was_deleted_and_what_a_team_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["teams", "create", "--team-alias", "tables", "--json"]) == 0
    team_id = json.loads(capsys.readouterr().out)["team_id"]
    assert main(["teams", "show", "tables"]) == 0
    assert "the team has no keys" in capsys.readouterr().out
    for number in range(2):
        assert main(["keys", "create", "--team-id", team_id, "--key-alias", f"of-tables-{number}"]) == 0
    capsys.readouterr()
    assert main(["teams", "show", "tables"]) == 0
    table = capsys.readouterr().out
    assert "of-tables-0" in table and "team_alias" in table
    assert main(["keys", "list", "--search", "of-tables", "--size", "1"]) == 0
    assert "page 1 of 2, 2 keys" in capsys.readouterr().out
    assert main(["teams", "delete", "tables", "--yes"]) == 0
    assert "deleted: tables" in capsys.readouterr().out
    assert main(["end-users", "create", "--user-id", "grace"]) == 0
    assert main(["end-users", "delete", "grace", "--yes"]) == 0
    assert "deleted: 1" in capsys.readouterr().out


def test_what_is_worth_a_note_is_on_standard_error(
    api: Management, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(end_users, "MOST_END_USERS", 1)
    for user in ("first", "second"):
        assert main(["end-users", "create", "--user-id", f"{user}-of-two"]) == 0
    for where in ([], ["--url", api.gateway.url]):
        capsys.readouterr()
        assert main(["end-users", "list", "--json", *where]) == 0
        output = capsys.readouterr()
        assert len(json.loads(output.out)) == 1 and "the newest 1 of " in output.err
    monkeypatch.delenv("GATEWAY_MASTER_KEY")
    assert main(["keys", "list", "--json"]) == 0
    assert "keys are asked for where GATEWAY_MASTER_KEY is set" in capsys.readouterr().err


def test_a_user_without_a_name_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", unknown)
    assert operator().name == f"user {os.getuid()} (command line)"


@pytest.mark.parametrize("url", ["nonsense", "mysql://localhost/x"])
def test_a_database_that_is_none(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_DATABASE_URL", url)
    assert main(["keys", "list"]) == 2
    assert "database_url: " in capsys.readouterr().err


def test_a_ledger_that_cannot_be_read_hides_no_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_DATABASE_URL", f"sqlite:///{tmp_path}/own.sqlite3")
    assert main(["keys", "create", "--key-alias", "mine"]) == 0
    (tmp_path / "own-ledger.sqlite3").write_bytes(b"no database" * 100)
    capsys.readouterr()
    assert main(["keys", "list", "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["keys"][0]["spend"] is None
    assert "what was spent is not known: " in output.err


def test_json_may_stand_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--json", "keys", "list"], ["keys", "--json", "list"], ["keys", "list", "--json"]):
        assert main(words) == 0
        assert "total_count" in json.loads(capsys.readouterr().out)


def test_the_audit_names_the_operator(api: Management, run: Run) -> None:
    new_key = run("keys", "create")
    (change,) = api.changes(new_key["key_id"])
    assert change.author == "master" or change.author.endswith(" (command line)")


def test_the_master_key_goes_nowhere_else(
    api: Management, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    assert main(["keys", "list", "--url", "ftp://127.0.0.1"]) == 2
    assert main(["keys", "list", "--url", "http://127.0.0.1:1"]) == 1
    assert main(["keys", "list", "--url", f"{api.gateway.url}/v1/", "--json"]) == 0, "a base URL as OpenAI's SDK has it"
    monkeypatch.delenv("GATEWAY_MASTER_KEY")
    assert main(["keys", "list", "--url", api.gateway.url]) == 2
    output = capsys.readouterr()
    assert MASTER not in output.err and "GATEWAY_MASTER_KEY is not set" in output.err
    assert "unencrypted" not in output.err, "nobody is on the way to this machine"
    monkeypatch.setenv("GATEWAY_MASTER_KEY", "sk-some-other-key-000000")
    assert main(["keys", "list", "--url", api.gateway.url]) == 1
    assert "not valid for this gateway" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url",
    ["ftp://127.0.0.1", "127.0.0.1:8080", "http://", "http://[::1", "http://127.0.0.1:many", "http://127.0.0.1:0"],
)
def test_an_address_that_is_none(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "list", "--url", url]) == 2
    assert f"'{url}' is not an address such as" in capsys.readouterr().err


@pytest.mark.parametrize("status", [200, 302, 404])
def test_an_address_of_something_else(status: int, capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedUpstream(json_answer(status, b"<html>")).run_in_thread() as website:
        assert main(["keys", "list", "--url", website.url]) == 1
    assert f"no gateway's answer, status {status}" in capsys.readouterr().err


def test_this_machine_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "list", "--url", "http://localhost:1"]) == 1
    assert "unencrypted" not in capsys.readouterr().err
    assert main(["keys", "list", "--url", "http://nowhere.invalid:1"]) == 1
    assert "travels to nowhere.invalid unencrypted" in capsys.readouterr().err


@pytest.mark.parametrize(("scheme", "warned"), [("http", True), ("https", False)])
def test_a_master_key_in_clear_text_is_warned_of(
    scheme: str, warned: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_MASTER_KEY", MASTER)
    assert main(["keys", "list", "--url", f"{scheme}://0.0.0.0:1"]) == 1
    errors = capsys.readouterr().err
    assert ("travels to 0.0.0.0 unencrypted" in errors) is warned and MASTER not in errors


# --- import ---------------------------------------------------------------------------------------------------

SECRETS = [f"sk-litellm-secret-number-{number}" for number in range(6)]


def row_of(number: int, **fields: Any) -> dict[str, Any]:
    secret = SECRETS[number]
    return {
        "token": digest_of(secret),
        "key_name": f"sk-...{secret[-4:]}",
        "key_alias": f"imported-{number}",
        "spend": 1.5,
        "models": [],
        "aliases": {},
        "config": {},
        "permissions": {},
        "metadata": {},
        "allowed_routes": [],
        "blocked": None,
        **fields,
    }


def test_litellms_keys_go_on_working(api: Management, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        row_of(0, models=["command-a-03-2025"], rpm_limit=100, expires="2100-01-01T00:00:00", metadata={"tags": ["a"]}),
        row_of(1, allowed_routes=["/chat/completions"]),
        row_of(2, metadata={"guardrails": ["pii"]}),
        row_of(3, team_id="not-here"),
        row_of(4, expires="2020-01-01T00:00:00+00:00"),
        {"key_alias": "broken", "token": "no digest"},
    ]
    file = tmp_path / "keys.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["keys", "import", "--litellm", str(file), "--dry-run", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["imported"] == 2
    assert api.ask("/key/info?key=imported-0").status == 404
    assert main(["keys", "import", "--litellm", str(file), "--json"]) == 1
    output = capsys.readouterr()
    result = json.loads(output.out)
    assert (result["imported"], result["present"]) == (2, 0) and "4 of the keys were left out" in output.err
    reasons = {one["name"]: one["reason"] for one in result["skipped"]}
    assert "allowed_routes" in reasons["imported-1"] and "guardrails" in reasons["imported-2"]
    assert "--team-id 'not-here'" in reasons["imported-3"] and "token" in reasons["broken"]
    info = api.info("imported-0")
    assert (info["rpm_limit"], info["tags"], info["expires"]) == (100, ["a"], "2100-01-01T00:00:00.000Z")
    assert info["key_name"] == f"sk-...{SECRETS[0][-4:]}" and info["models"] == ["command-a-03-2025"]
    assert [api.ask("/v1/models", key=SECRETS[number]).status for number in (0, 1, 4)] == [200, 401, 401]
    api.done("/team/new", {"team_id": "not-here"})
    assert main(["keys", "import", "--litellm", str(file), "--drop-restrictions"]) == 1
    output = capsys.readouterr()
    assert "imported: 3, here already: 2" in output.out and "note: imported-1: without allowed_routes" in output.err
    assert [change.action for change in api.changes(api.info("imported-3")["key_id"])] == ["created"]
    assert SECRETS[0] not in output.out + output.err


def test_a_table_from_postgresql(tmp_path: Path, api: Management, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.csv"
    file.write_text(
        "token,key_name,key_alias,models,aliases,metadata,blocked,rpm_limit,max_budget,budget_duration,expires\r\n"
        f'{digest_of(SECRETS[5])},sk-...er-5,from-csv,"{{command-a-03-2025,""a b""}}","{{""x"": ""command-a""}}",'
        '"{""model_rpm_limit"": {""command-a"": 5}}",f,10,2.5,30d,2100-01-01 00:00:00\r\n'
    )
    assert main(["keys", "import", "--litellm", str(file)]) == 0, capsys.readouterr()
    info = api.info("from-csv")
    assert (info["models"], info["aliases"]) == (["command-a-03-2025", "a b"], {"x": "command-a"})
    assert (info["rpm_limit"], info["max_budget"], info["budget_duration"]) == (10, 2.5, "30d")
    assert (info["model_rpm_limit"], info["metadata"], info["blocked"]) == ({"command-a": 5}, {}, False)
    assert api.ask("/v1/models", key=SECRETS[5]).status == 200


@pytest.mark.parametrize(
    ("content", "status", "text"),
    [
        (b"", 1, "neither JSON lines nor CSV"),
        (b"a,b\n1,2\n", 1, "neither JSON lines nor CSV"),
        (b'{"token": \n', 1, "line 1 is not a JSON object"),
        (b"\xff\xfe", 1, "keys.jsonl"),
    ],
)
def test_a_file_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, status: int, text: str
) -> None:
    file = tmp_path / "keys.jsonl"
    file.write_bytes(content)
    assert main(["keys", "import", "--litellm", str(file)]) == status
    assert text in capsys.readouterr().err
    assert main(["keys", "import", "--litellm", str(file), "--url", "http://127.0.0.1:8080"]) == 2


def test_an_alias_is_imported_once(api: Management) -> None:
    rows = [row_of(number, token=digest_of(f"sk-of-a-pair-{number}"), key_alias="a-pair") for number in range(2)]
    for expected in ((1, 1, 0), (0, 1, 1)):  # again: the first is here, and the second still has its alias
        result = litellm_import.judge(iter(rows))
        result = api.run(litellm_import.insert(result, operator(), 1.0))
        assert (len(result.keys), len(result.skipped), result.present) == expected
        assert (result.skipped[0].row, result.skipped[0].reason) == (2, "another key has its alias")


def test_an_import_is_all_or_nothing(api: Management) -> None:
    row = row_of(1, key_alias=None, token=digest_of("sk-that-comes-twice"))
    twice, actor = litellm_import.judge(iter([row, row])), operator()
    before = api.run(keys.current_revision)
    with pytest.raises(InvalidField, match="nothing was imported"):
        api.run(litellm_import.insert(twice, actor, 1.0))
    assert api.run(keys.current_revision) == before
