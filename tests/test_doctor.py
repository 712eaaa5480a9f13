"""`cohere-gateway check`: each trouble is a finding with a remedy, over real databases, Redis and an upstream."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import doctor
from gateway.cli.doctor import Finding
from gateway.cli.main import main
from gateway.observability import telemetry
from gateway.settings.schema import (
    BudgetSettings,
    CacheSettings,
    GlobalLimits,
    LedgerSettings,
    MetricsSettings,
    Models,
    NamedUpstream,
    Settings,
    Timeouts,
    UpstreamSettings,
)
from support import databases
from support.redis_server import URL as REDIS
from support.redis_server import needs_redis
from support.scripted_upstream import Pause, ScriptedUpstream, json_answer
from support.waiting import WAIT_SECONDS

KEY = "a-cohere-key-of-this-test"
LISTED = {"models": [{"name": "command-a-03-2025"}, {"name": "command-r7b-12-2024"}]}


def examined(settings: Settings, offline: bool = False) -> list[Finding]:
    return asyncio.run(doctor.examine(settings, offline))


def troubles(settings: Settings, offline: bool = False) -> dict[str, list[str]]:
    """What is wrong, by status; every trouble has a remedy."""
    result: dict[str, list[str]] = {"warn": [], "fail": []}
    for one in examined(settings, offline):
        if one.status != "ok":
            assert one.remedy, one
            result[one.status].append(f"{one.check}: {one.message}")
    return result


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Callable[..., Settings]]:
    """Settings with which all is well, and what a test changes of them."""
    answers: dict[str, Any] = {"status": 200, "date": formatdate(usegmt=True)}

    def answer(request: Any) -> Any:
        return json_answer(answers["status"], LISTED, {"date": answers["date"]})

    with ScriptedUpstream(answer).run_in_thread() as upstream:

        def make(status: int = 200, date: str = "", **values: Any) -> Settings:
            answers.update(status=status, date=date or formatdate(usegmt=True))
            usual = {
                "cohere_api_key": [KEY],
                "cohere_base_url": upstream.url,
                "master_key": "a-master-key-of-this-test",
                "database_url": databases.sqlite(tmp_path),
            }
            return Settings(**{**usual, **values})

        yield make


def test_all_is_well(settings: Callable[..., Settings]) -> None:
    findings = examined(settings(models=Models(aliases={"gpt-4o": "command-a-03-2025"})))
    assert [one for one in findings if one.status != "ok"] == []
    assert {one.check for one in findings} == {
        *("settings", "machine", "ledger", "database", "cohere", "clock", "models")
    }
    assert "may use 2 models" in str(findings)


# --- Cohere ---------------------------------------------------------------------------------------------------


def test_a_key_that_cohere_refuses(settings: Callable[..., Settings]) -> None:
    assert troubles(settings(status=401))["fail"] == ["cohere: Cohere refuses key 1 of 1 (401)"]


def test_cohere_that_cannot_be_reached(settings: Callable[..., Settings]) -> None:
    (sentence,) = troubles(settings(cohere_base_url="http://127.0.0.1:9"))["fail"]
    assert sentence.startswith("cohere: key 1 of 1: Cohere could not be reached")
    own = settings(cohere_base_url="http://127.0.0.1:9", cohere_api_key=[], master_key="")
    assert troubles(own)["fail"] == ["cohere: 127.0.0.1 cannot be reached: Cohere could not be reached"]


def test_cohere_that_is_silent(settings: Callable[..., Settings]) -> None:
    with ScriptedUpstream((Pause(WAIT_SECONDS),)).run_in_thread() as upstream:
        values: dict[str, Any] = {"cohere_base_url": upstream.url, "timeouts": Timeouts(first_event=0.05)}
        own = settings(cohere_api_key=[], master_key="", **values)
        assert troubles(own)["fail"] == ["cohere: 127.0.0.1 cannot be reached: Cohere did not answer in time"]
        assert troubles(settings(**values))["fail"] == ["cohere: key 1 of 1: Cohere did not answer in time"]


@pytest.mark.parametrize("keys", [[KEY], []], ids=["a key", "callers' keys"])
def test_cohere_behind_a_proxy(
    settings: Callable[..., Settings], keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked as the gateway asks it."""
    for name in ("HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ScriptedUpstream(json_answer(200, LISTED)).run_in_thread() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        values = settings(cohere_base_url="http://cohere.invalid", cohere_api_key=keys, master_key="")
        assert [one.status for one in examined(values) if one.check == "cohere"] == ["ok"]
        (request,) = proxy.requests
        assert request.path.startswith("http://cohere.invalid/v1/models")
        assert ("authorization" in request.headers) is bool(keys)


def test_a_model_that_the_key_may_not_use(settings: Callable[..., Settings]) -> None:
    fallbacks = {"command-a-03-2025": ["command-y", "command-r7b-12-2024"]}
    models = Models(aliases={"gpt-4o": "command-x"}, fallbacks=fallbacks)
    sentences = troubles(settings(models=models))["fail"]
    assert [sentence.partition(" leads to ")[2].partition(",")[0] for sentence in sentences] == [
        "'command-x'",
        "'command-y'",
    ]


def test_a_clock_that_is_wrong(settings: Callable[..., Settings]) -> None:
    (sentence,) = troubles(settings(date=formatdate(time.time() + 600, usegmt=True)))["warn"]
    assert "s behind Cohere's" in sentence


@pytest.mark.parametrize("date", ["yesterday", "Thu, 01 Jan 99999999999999999999 00:00:01 GMT"])
def test_a_date_that_is_none_is_no_clock(settings: Callable[..., Settings], date: str) -> None:
    findings = examined(settings(date=date))
    assert [one for one in findings if one.status != "ok"] == []
    assert "clock" not in {one.check for one in findings}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"cohere_api_key": []}, "master_key: virtual keys need the server's own COHERE_API_KEY as well"),
        (
            {"upstream": UpstreamSettings(ca_file="nowhere.pem")},
            "upstream.ca_file: nowhere.pem: No such file or directory",
        ),
        (
            {"upstreams": {"eu": NamedUpstream(base_url="http://127.0.0.1:9", api_key=["k"], ca_file="nowhere.pem")}},
            "upstreams.eu.ca_file: nowhere.pem: No such file or directory",
        ),
    ],
    ids=["contradictory", "no certificate", "no certificate of a named upstream"],
)
def test_settings_that_cannot_be_used_are_a_finding(
    settings: Callable[..., Settings], values: dict[str, Any], sentence: str
) -> None:
    """One, beside all the others."""
    own = settings(**values)
    assert troubles(own)["fail"] == [f"settings: {sentence}"]
    assert {"machine", "ledger", "database"} <= {one.check for one in examined(own) if one.status == "ok"}


# --- databases and Redis --------------------------------------------------------------------------------------


def test_a_database_that_is_away(settings: Callable[..., Settings]) -> None:
    (sentence,) = troubles(settings(database_url="postgresql://postgres@127.0.0.1:9/x"))["fail"]
    assert sentence.startswith("database: 127.0.0.1/x: the database failed")
    (sentence,) = troubles(settings(database_url="mysql://x"))["fail"]
    assert sentence.startswith("database: database_url: ")


def test_an_empty_database_is_no_trouble_and_stays_empty(settings: Callable[..., Settings], tmp_path: Path) -> None:
    file = tmp_path / "new.sqlite3"
    assert troubles(settings(database_url=f"sqlite:///{file}")) == {"warn": [], "fail": []}
    assert not file.exists()


@pytest.mark.parametrize(
    ("version", "status", "sentence"), [("0001", "warn", "this gateway makes it"), ("9999", "fail", "knows")]
)
def test_a_database_of_another_version(
    settings: Callable[..., Settings], tmp_path: Path, version: str, status: str, sentence: str
) -> None:
    import sqlite3

    values = settings()
    with sqlite3.connect(values.database_url.removeprefix("sqlite:///")) as connection:
        connection.execute("update alembic_version set version_num = ?", (version,))
    connection.close()
    (trouble,) = troubles(values)[status]
    assert sentence in trouble and version in trouble


def test_redis_that_is_away(settings: Callable[..., Settings]) -> None:
    (sentence,) = troubles(settings(redis_url="redis://127.0.0.1:9/0"))["fail"]
    assert sentence.startswith("redis: Redis does not answer")


@needs_redis
def test_redis_that_answers(settings: Callable[..., Settings]) -> None:
    (finding,) = [one for one in examined(settings(redis_url=REDIS)) if one.check == "redis"]
    assert finding.status == "ok" and "answers" in finding.message


def test_rows_that_wait_and_a_spool_that_cannot_be_written(settings: Callable[..., Settings], tmp_path: Path) -> None:
    spool = tmp_path / "waiting"
    spool.mkdir()
    (spool / "1.rows").write_bytes(b"x")
    (sentence,) = troubles(settings(ledger=LedgerSettings(spool=str(spool))), offline=True)["warn"]
    assert "files with rows wait" in sentence
    (tmp_path / "file").write_bytes(b"")
    (sentence,) = troubles(settings(ledger=LedgerSettings(spool=str(tmp_path / "file/spool"))), offline=True)["fail"]
    assert "cannot be written" in sentence


# --- settings that surprise -----------------------------------------------------------------------------------

OPEN: dict[str, Any] = {"master_key": ""}
PUBLIC: dict[str, Any] = {"host": "0.0.0.0", "metrics": MetricsSettings(token="x" * 20)}
SURPRISES: dict[str, tuple[dict[str, Any], str]] = {
    "open mode behind a proxy": ({**OPEN, "trusted_proxies": ["10.0.0.0/8"]}, "open mode behind a proxy"),
    "open mode for others": ({**OPEN, **PUBLIC, "allow_open": True}, "open mode on an address that others reach"),
    "no master key": (OPEN, "no master key"),
    "demo": ({"demo": True}, "the embedded emulator answers, not Cohere"),
    "sqlite for several": ({"redis_url": "redis://127.0.0.1:9/0"}, "each machine has a database of its own"),
    "a key in clear text": ({"cohere_base_url": "http://cohere.example"}, "travels in clear text"),
    "metrics for everybody": ({"host": "0.0.0.0", "metrics": MetricsSettings(public=True)}, "/metrics is open"),
    "metrics for nobody": ({"host": "0.0.0.0"}, "/metrics refuses everybody"),
    "unknown prices": ({"budgets": BudgetSettings(unknown_price="allow")}, "counted as free"),
    "no alerts": (PUBLIC, "nobody hears"),
    "a cache for each": ({"cache": CacheSettings(store="memory"), "workers": 2}, "each has a cache of its own"),
    "a short master key": ({"master_key": "short"}, "fewer than 16 characters"),
    "too many workers": ({"workers": 1000}, "1000 workers on"),
}


@pytest.mark.parametrize("name", SURPRISES)
def test_a_surprise_is_a_warning(settings: Callable[..., Settings], name: str) -> None:
    values, sentence = SURPRISES[name]
    assert [trouble for trouble in troubles(settings(**values), offline=True)["warn"] if sentence in trouble]
    assert not [trouble for trouble in troubles(settings(), offline=True)["warn"] if sentence in trouble]


def test_every_surprise_of_the_table_is_tried() -> None:
    sentences = [sentence for _, sentence in SURPRISES.values()]
    untried = [text for text, *_ in doctor._SURPRISES if not any(sentence in text for sentence in sentences)]
    assert untried == [text for text in untried if "Kubernetes" in text]


def test_sqlite_in_kubernetes(settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert "a pod that is replaced" in str(troubles(settings(), offline=True)["warn"])


def test_opentelemetry(settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(telemetry.ENDPOINT, "http://127.0.0.1:4318")
    assert "are exported by OTLP" in str(examined(settings(), offline=True))


# --- the command ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import os

    for name in [name for name in os.environ if name.startswith(("GATEWAY_", "COHERE_", "CO_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_status_is_for_scripts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--offline"]) == 0
    assert "warn  settings  no master key" in capsys.readouterr().out
    assert main(["check", "--offline", "--strict"]) == 1
    (folder / "gateway.toml").write_text('port = 81\ncohere_api_key = "x"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GATEWAY_PORT", "82")
        assert main(["check", "--offline"]) == 0
    printed = capsys.readouterr().out
    file = folder / "gateway.toml"
    assert f"port is set by GATEWAY_PORT, which wins over file {file}" in printed
    assert f"set in {file}: cohere_api_key" in printed and "set in the environment: port (GATEWAY_PORT)" in printed
    (folder / "gateway.toml").write_text('host = "0.0.0.0"\ncohere_api_key = "x"\n')
    assert main(["check", "--offline"]) == 1
    assert "fail  settings  host: 0.0.0.0 would let anybody" in capsys.readouterr().out


def test_json_is_for_programs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "gateway.toml").write_text("prot = 1\n")
    assert main(["check", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["status"] == "fail"
    (finding,) = report["findings"]
    assert finding["check"] == "settings" and "did you mean 'port'" in finding["message"] and finding["remedy"]


def test_no_secret_is_printed(settings: Callable[..., Settings]) -> None:
    values = settings(database_url="postgresql://me:a-password@127.0.0.1:9/x", global_limits=GlobalLimits(rpm_limit=1))
    text = str(examined(values))
    assert KEY not in text and "a-password" not in text and "a-master-key" not in text


@pytest.mark.parametrize(
    ("status", "finding"),
    [
        (200, []),
        (404, []),
        (401, ["upstreams.eu: key 1 of 1 is refused (401)"]),
        (500, ["upstreams.eu: key 1 of 1: the answer is 500"]),
    ],
)
def test_a_named_upstream(status: int, finding: list[str], settings: Callable[..., Settings]) -> None:
    aliases = Models(aliases={"gpt-4o": "only-there"})
    with ScriptedUpstream(json_answer(status, LISTED)).run_in_thread() as upstream:
        eu = NamedUpstream(base_url=upstream.url, api_key=["k"], models=["only-*"])
        assert troubles(settings(upstreams={"eu": eu}, models=aliases))["fail"] == finding
    (gone,) = troubles(settings(upstreams={"eu": eu}, models=aliases))["fail"]
    assert gone.startswith("upstreams.eu: ")
