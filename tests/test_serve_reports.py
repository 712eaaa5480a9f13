"""Reports over HTTP: who sees what, in which shape, and that rows, sums and LiteLLM's shapes say the same.

One gateway with virtual keys over the emulator, and some calls of two keys, of a stranger and of the master.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import http.client
import io
import json
import re
import shlex
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.cli.main import main
from gateway.ledger import exports, reports
from gateway.ledger.reports import Report, as_csv
from gateway.ledger.writer import Ledger
from gateway.settings.schema import LedgerSettings
from gateway.store.errors import StoreUnavailable
from support.app import MASTER_KEY, Gateway, Response, demonstration
from support.ledger import wait_for_rows
from support.waiting import WAIT_SECONDS

CHAT = {"model": "command-a-03-2025", "messages": [{"role": "user", "content": "A secret prompt"}], "user": "ada"}
CALLS = 9


class Reported:
    """A gateway after some calls."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.search = self._manage("/team/new", team_alias="search")["team_id"]
        self.agent = self._manage("/key/generate", key_alias="research-agent", team_id=self.search)
        self.other = self._manage("/key/generate", key_alias="other")
        self.viewer = self._manage("/key/generate", key_alias="watcher", role="viewer", permissions="none")
        self._manage("/key/update", key=self.other["key"], rpm_limit=500)
        for fields in ({}, {"stream": True, "temperature": 1.4}, {"model": "no-such-model"}):
            self.ask("POST", "/v1/chat/completions", self.agent["key"], {**CHAT, **fields})
        self.ask("POST", "/v1/embeddings", self.agent["key"], {"model": "embed-v4.0", "input": "x", "user": "grace"})
        self.ask("DELETE", "/cohere/v1/datasets/d-1", self.agent["key"])
        self.ask("POST", "/v1/rerank", self.other["key"], {"model": "rerank-v3.5", "query": "q", "documents": ["d"]})
        self.ask("GET", "/v1/models", MASTER_KEY)
        self.ask("GET", "/v1/models", "sk-unknown")
        self.ask("POST", "/v1/chat/completions", MASTER_KEY, CHAT)
        wait_for_rows(gateway.database_url, lambda row: True, CALLS)

    def _manage(self, path: str, **fields: Any) -> dict[str, Any]:
        return dict(self.ask("POST", path, MASTER_KEY, fields).body)

    def ask(self, verb: str, path: str, key: str, body: Any = None, **headers: str) -> Response:
        usual = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        return self.gateway.ask(verb, path, body, {**usual, **headers})

    def get(self, path: str, key: str = MASTER_KEY) -> Any:
        answer = self.ask("GET", path, key)
        assert answer.status == 200, answer
        return answer.body

    def sentences(self, query: str, key: str = MASTER_KEY) -> list[str]:
        return [row["sentence"] for row in self.get(f"/audit?{query}", key)["data"]]


@pytest.fixture(scope="module")
def reported() -> Iterator[Reported]:
    with demonstration(master_key=MASTER_KEY, ledger=LedgerSettings(flush_seconds=0.05)) as gateway:
        yield Reported(gateway)


def test_one_row_a_call_and_a_row_for_each_change(reported: Reported) -> None:
    rows = reported.get("/audit")["data"]
    assert [row["kind"] for row in rows].count("call") == CALLS
    assert [row["kind"] for row in rows].count("change") == 5
    assert [row["time"] for row in rows] == sorted((row["time"] for row in rows), reverse=True)
    assert "A secret prompt" not in json.dumps(rows) and MASTER_KEY not in json.dumps(rows)


def test_a_row_has_every_name(reported: Reported) -> None:
    row = reported.get("/audit?key=research-agent&model=command-a-03-2025")["data"][-1]
    names = (
        "id time kind sentence request_id key_id key_alias team_id user_id end_user tags address door method"
        " model_asked model streamed status outcome fault error units tokens estimated cost_nanodollars price_version"
        " attempts cache saved_nanodollars notes ttft_ms total_ms upstream_ms overhead_ms bytes decision"
    )
    assert set(row) >= set(names.split())
    assert row["key_id"] == reported.agent["key_id"] and row["team_id"] == reported.search
    assert row["attempts"][0]["key"] == 1 and row["attempts"][0]["status"] == 200
    assert row["bytes"]["received"] > 0 < row["bytes"]["sent"]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("key=research-agent", 5),
        ("team=search", 5),
        ("key=other", 1),
        ("notes=any", 5),
        ("notes=none&kind=call", CALLS - 5),
        ("key=master", 2),
        ("status=401", 1),
        ("status=4xx", 3),
        ("status=5xx", 0),
        ("fault=policy_permission", 1),
        ("fault=any", 3),
        ("id=no-id", 0),
        ("method=v2.chat", 4),
        ("method=v2.chat&key=research-agent", 3),
        ("model=rerank-v3.5", 1),
        ("text=RERANKED", 1),
        ("text=100%25", 0),
        ("slower_than=100000", 0),
        ("since=1h&kind=call", CALLS),
        ("until=1h", 0),
        ("kind=change", 5),
    ],
)
def test_filters(reported: Reported, query: str, count: int) -> None:
    assert len(reported.get(f"/audit?{query}")["data"]) == count


def test_a_row_by_its_id(reported: Reported) -> None:
    for row in reported.get("/audit?kind=call&limit=3")["data"]:
        assert reported.get(f"/audit?id={row['id']}")["data"] == [row]


def test_sentences(reported: Reported) -> None:
    assert reported.sentences("fault=policy_permission")[0].startswith(
        "research-agent (team search) tried to delete dataset d-1: refused, "
    )
    changed = reported.sentences("kind=change&text=rpm_limit")
    assert changed == ["master updated key other: rpm_limit nothing -> 500."]
    assert reported.sentences("status=401") == [
        "An unknown caller (127.0.0.1) tried to make a call: refused, the API key is not valid for this gateway."
    ]


def test_cursors_go_through_everything_once(reported: Reported) -> None:
    whole = [row["id"] for row in reported.get("/audit")["data"]]
    for limit in (1, 4):
        ids: list[str] = []
        cursor = ""
        while cursor is not None:
            page = reported.get(f"/audit?limit={limit}&cursor={cursor}")
            ids += [row["id"] for row in page["data"]]
            cursor = page["next_cursor"]
        assert ids == whole


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/audit?cursor=nonsense!", "cursor"),
        ("/audit?since=yesterday", "since"),
        ("/audit?limit=0", "limit"),
        ("/audit?colour=red", "colour"),
        ("/audit?min_cost=free", "min_cost"),
        ("/usage?by=colour", "by"),
        ("/usage?by=end_user,model", "by"),
        ("/usage?since=2026-01-02&until=2026-01-01", "until"),
        ("/audit?format=xml", "format"),
        ("/spend/logs/v2?page=9999&page_size=1000", "page"),
        ("/global/spend/report?group_by=moon", "group_by"),
        ("/audit?limit=1&limit=2", None),
        ("/audit?model=%FF", None),
        ("/audit?model=a%00", "model"),
    ],
)
def test_a_question_that_cannot_be_meant(reported: Reported, path: str, param: str | None) -> None:
    answer = reported.ask("GET", path, MASTER_KEY)
    assert answer.status == 400 and answer.error["param"] == param


def test_a_ledger_that_does_not_answer_is_said(reported: Reported, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any) -> Any:
        raise StoreUnavailable("the disk is gone")

    for name in ("read", "find_body", "delete_body"):
        monkeypatch.setattr(Ledger, name, away)
    body = f"/audit/{'0' * 24}/body"
    for verb, path in (("GET", "/audit"), ("GET", "/usage?by=model"), ("GET", body), ("DELETE", body)):
        answer = reported.ask(verb, path, MASTER_KEY)
        assert (answer.status, answer.error["code"]) == (503, "storage_unavailable"), path
    info = reported.get(f"/key/info?key={reported.agent['key_id']}")["info"]
    assert (info["spend"], info["model_spend"]) == (None, None), "nothing spent would be a lie"


def test_usage_agrees_with_the_rows(reported: Reported) -> None:
    rows = [row for row in reported.get("/audit")["data"] if row["kind"] == "call"]
    for by, name in (("key", "key_id"), ("team", "team_id"), ("model", "model"), ("method", "method")):
        groups = {group[by]: group for group in reported.get(f"/usage?by={by}")["data"]}
        assert sum(group["calls"] for group in groups.values()) == CALLS
        for value, group in groups.items():
            mine = [row for row in rows if row[name] == value]
            assert group["calls"] == len(mine), (by, value)
            assert group["failures"] == sum(row["outcome"] != "ok" for row in mine)
            assert group["tokens"]["input"] == sum(row["tokens"]["input"] for row in mine)
            assert group["cost_nanodollars"] == sum(row["cost_nanodollars"] or 0 for row in mine)
    by_user = {group["end_user"]: group["calls"] for group in reported.get("/usage?by=end_user")["data"]}
    assert {name: by_user[name] for name in ("ada", "grace")} == {"ada": 4, "grace": 1}


@pytest.mark.parametrize("by", ["day", "hour", "key,day"])
def test_usage_over_time(reported: Reported, by: str) -> None:
    assert sum(group["calls"] for group in reported.get(f"/usage?by={by}&since=2d")["data"]) == CALLS


def test_a_caller_sees_its_own(reported: Reported) -> None:
    key = reported.agent["key"]
    rows = reported.get("/audit", key)["data"]
    assert {row["key_id"] for row in rows} == {reported.agent["key_id"]} and len(rows) == 5
    assert {group["key"] for group in reported.get("/usage?by=key", key)["data"]} == {reported.agent["key_id"]}
    assert {row["api_key"] for row in reported.get("/spend/logs", key)} == {reported.agent["token"]}
    assert reported.get("/user/daily/activity", key)["metadata"]["total_api_requests"] == 5
    for path in ("/audit?key=other", "/usage?key=other", "/spend/logs?api_key=other"):
        assert reported.ask("GET", path, key).status == 400
    for path in ("/global/spend", "/global/spend/keys", "/global/spend/report"):
        assert reported.ask("GET", path, key).status == 403
    (others,) = reported.get("/audit?key=other")["data"]
    for query in (f"id={others['id']}", f"request_id={others['request_id']}", "method=v2.rerank", "kind=change"):
        assert reported.get(f"/audit?{query}", key)["data"] == []
        assert reported.get(f"/audit/newer?cursor=MC4&{query}", key)["count"] == 0
    for path in ("/audit/export", "/usage?by=total", "/usage?by=user,team,model", "/spend/logs/v2", "/spend/logs"):
        text = reported.ask("GET", path, key).data.decode()
        assert not [secret for secret in ("rerank", reported.other["key_id"], others["id"]) if secret in text], path
    assert reported.ask("GET", f"/audit/{others['id']}/body", key).status == 403
    assert reported.ask("GET", "/usage?by=end_user", key).status == 400, "end users are counted by nothing else"


def test_a_viewer_sees_everything(reported: Reported) -> None:
    assert len(reported.get("/audit", reported.viewer["key"])["data"]) == CALLS + 5


def test_a_table_has_no_formulas() -> None:
    """What callers wrote is opened in spreadsheets by those who run the gateway."""
    rows = [{"end_user": text, "cost": -5} for text in ("=HYPERLINK(1)", "+1", "-1", "@x", "\t=1", "plain", "a=b")]
    read = list(csv.DictReader(io.StringIO(as_csv(rows).decode())))
    assert [row["end_user"] for row in read] == ["'=HYPERLINK(1)", "'+1", "'-1", "'@x", "'\t=1", "plain", "a=b"]
    assert {row["cost"] for row in read} == {"-5"}


def test_csv(reported: Reported) -> None:
    answer = reported.ask("GET", "/usage?by=key", MASTER_KEY, accept="text/csv")
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.data.decode())))
    assert {"key", "key_alias", "calls", "tokens.input"} <= set(rows[0])
    pages = reported.ask("GET", "/audit?format=csv&limit=3", MASTER_KEY)
    assert len(list(csv.DictReader(io.StringIO(pages.data.decode())))) == 3 and pages.headers["x-next-cursor"]


def test_how_long_calls_took(reported: Reported) -> None:
    """By models in any time, by keys in whole days; of end users nothing is counted."""
    yesterday = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 86_400))
    models = {row["model"]: row["latency"] for row in reported.get("/usage?by=model&since=2h&latency=true")["data"]}
    assert 0 < models["command-a-03-2025"]["p50_ms"] <= models["command-a-03-2025"]["p95_ms"] < 60_000
    assert models["command-a-03-2025"]["ttft_p50_ms"] > 0 and models["rerank-v3.5"]["ttft_p50_ms"] is None
    (everything,) = reported.get("/usage?by=total&since=2h&latency=true")["data"]
    assert everything["calls"] == CALLS and everything["latency"]["p95_ms"]
    by_key = reported.get(f"/usage?by=key&since={yesterday}&latency=true")["data"]
    keys = {row["key"]: row["latency"] for row in by_key}
    assert all(keys[key]["p50_ms"] for key in (reported.agent["key_id"], reported.other["key_id"], "master"))
    assert "latency" not in reported.get("/usage")["data"][0]
    for query in ("by=key&since=2h", "by=hour&key=other", "by=end_user", "by=day&team=search&since=90m"):
        answer = reported.ask("GET", f"/usage?latency=true&{query}", MASTER_KEY)
        assert (answer.status, answer.body["error"]["param"]) == (400, "latency"), query
    assert reported.ask("GET", "/usage?latency=yes", MASTER_KEY).status == 400
    table = reported.ask("GET", "/usage?by=model&latency=true&format=csv", MASTER_KEY).data.decode()
    assert "latency.p95_ms" in table.splitlines()[0]


# --- files ------------------------------------------------------------------------------------------------------


def test_a_file_has_all_rows_of_a_filter(reported: Reported, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written a page at a time, it has what the pages of /audit have; the columns of the CSV do not depend on them."""
    monkeypatch.setattr(exports, "MAX_LIMIT", 2)
    for query in ("", "key=research-agent&notes=none", "kind=change"):
        rows = reported.get(f"/audit?{query}")["data"]
        lines = reported.ask("GET", f"/audit/export?format=jsonl&{query}", MASTER_KEY)
        assert lines.headers["content-type"] == "application/x-ndjson" and lines.headers["content-disposition"]
        assert [json.loads(line) for line in lines.data.splitlines()] == rows
        table = list(csv.DictReader(io.StringIO(exported(reported, query).decode())))
        assert [row["id"] for row in table] == [row["id"] for row in rows]
        assert tuple(table[0]) == exports.COLUMNS and None not in table[-1]
        assert [row["sentence"] for row in table] == [row["sentence"] for row in rows]
    first = table[0]
    assert first["kind"] == "change" and json.loads(first["after"])["rpm_limit"] == 500
    row = list(csv.DictReader(io.StringIO(exported(reported, "model=rerank-v3.5").decode())))[0]
    assert float(row["units.search_units"]) == 1 and row["tokens.input"] == "0" and row["units.images"] == ""
    own = exported(reported, "", reported.agent["key"]).decode()
    assert {row["key_id"] for row in csv.DictReader(io.StringIO(own))} == {reported.agent["key_id"]}
    for query in ("format=xml", "limit=3", "notes=some", "key=" + reported.other["key_id"]):
        assert reported.ask("GET", f"/audit/export?{query}", reported.agent["key"]).status == 400, query


def exported(reported: Reported, query: str, key: str = MASTER_KEY) -> bytes:
    answer = reported.ask("GET", f"/audit/export?{query}", key)
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/csv"), answer
    return answer.data


def test_a_file_that_is_full_says_where_the_next_begins(reported: Reported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "MAX_ROWS", 6)
    monkeypatch.setattr(exports, "MAX_LIMIT", 4)
    rows = [row["id"] for row in reported.get("/audit?kind=call")["data"]]
    *rows_written, more = [json.loads(line) for line in exported_lines(reported, "kind=call")]
    assert [row["id"] for row in rows_written] == rows[:6] and more["kind"] == "more"
    rest = [json.loads(line)["id"] for line in exported_lines(reported, f"kind=call&cursor={more['next_cursor']}")]
    assert rest == rows[6:]
    last = list(csv.DictReader(io.StringIO(exported(reported, "kind=call").decode())))[-1]
    assert (last["kind"], last["next_cursor"], last["id"]) == ("more", more["next_cursor"], "")


def exported_lines(reported: Reported, query: str) -> list[bytes]:
    return reported.ask("GET", f"/audit/export?format=jsonl&{query}", MASTER_KEY).data.splitlines()


def test_a_file_that_broke_off_does_not_look_whole(reported: Reported, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything was sent it is an error like any other."""
    pages, audit = 0, reports.audit

    async def lost(report: Report) -> Any:
        nonlocal pages
        pages += 1
        if pages == 2:
            raise StoreUnavailable("the disk is gone")
        return await audit(report)

    monkeypatch.setattr(exports, "MAX_LIMIT", 2)
    monkeypatch.setattr(reports, "audit", lost)
    with pytest.raises(http.client.IncompleteRead) as cut:
        exported(reported, "kind=call")
    assert len(cut.value.partial.splitlines()) == 3
    pages = 1
    answer = reported.ask("GET", "/audit/export?kind=call", MASTER_KEY)
    assert (answer.status, answer.body["error"]["code"]) == (503, "storage_unavailable")
    assert exported(reported, "kind=call").endswith(b"\r\n")


def test_two_files_at_a_time(reported: Reported, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, going_on, audit = threading.Semaphore(0), threading.Event(), reports.audit

    async def slow(report: Report) -> Any:
        begun.release()
        await asyncio.to_thread(going_on.wait, 30)
        return await audit(report)

    monkeypatch.setattr(reports, "audit", slow)
    with ThreadPoolExecutor(2) as threads:
        files = [threads.submit(exported, reported, "kind=call") for _ in range(2)]
        for _ in files:
            assert begun.acquire(timeout=WAIT_SECONDS)
        refused = reported.ask("GET", "/audit/export", MASTER_KEY)
        going_on.set()
        assert all(len(one.result(WAIT_SECONDS).splitlines()) == CALLS + 1 for one in files)
    assert (refused.status, refused.body["error"]["code"]) == (429, "too_many_exports")
    assert refused.headers["retry-after"]
    assert exported(reported, "kind=call")


def test_litellms_shapes(reported: Reported) -> None:
    days = sorted({row["time"][:10] for row in reported.get("/audit?kind=call")["data"]})  # midnight may be among them
    dates = f"start_date={days[0]}&end_date={days[-1]}"
    spend = reported.get("/global/spend")["spend"]
    logs = reported.get(f"/spend/logs?{dates}&summarize=false")
    assert len(logs) >= CALLS and {"request_id", "spend", "startTime", "metadata", "cache_hit"} <= set(logs[0])
    assert sum(row["spend"] for row in logs) == pytest.approx(spend)
    by_day = reported.get(f"/spend/logs?{dates}")
    assert sum(day["spend"] for day in by_day) == pytest.approx(spend)
    assert sorted(day["startTime"] for day in by_day) == days
    page = reported.get(f"/spend/logs/v2?page=2&page_size=4&{dates}")
    assert len(page["data"]) == 4 and page["total"] >= CALLS and page["page"] == 2
    models = reported.get("/global/spend/models")
    assert sum(row["total_spend"] for row in models) == pytest.approx(spend)
    keys = reported.get("/global/spend/keys")
    assert {row["key_alias"] for row in keys} == {"research-agent", "other", "master"}
    teams = reported.get("/global/spend/teams")
    assert teams["teams"] == ["search"] and set(teams["daily_spend"][0]) == {"date", "search"}
    report = reported.get(f"/global/spend/report?{dates}")
    assert [day["group-by-day"] for day in report] == days
    assert all({"team_name", "spend", "keys"} <= set(team) for day in report for team in day["teams"])
    assert [team["team_name"] for day in report for team in day["teams"] if team["team_name"] == "search"]
    customers = reported.get(f"/global/spend/report?{dates}&group_by=customer")
    assert [day["group-by-day"] for day in customers] == days
    assert {one["customer"] for day in customers for one in day["customers"]} == {"ada", "grace"}
    assert all(one["spend"] >= 0 for day in customers for one in day["customers"])
    activity = reported.get(f"/user/daily/activity?{dates}&model=embed-v4.0")
    assert activity["metadata"]["total_api_requests"] == 1
    activity = reported.get(f"/user/daily/activity?{dates}")
    assert activity["metadata"]["total_api_requests"] >= CALLS
    assert sum(day["metrics"]["api_requests"] for day in activity["results"]) >= CALLS
    keys_of_days = [day["breakdown"]["api_keys"] for day in activity["results"]]
    aliases = {key: used["metadata"]["key_alias"] for keys_of_day in keys_of_days for key, used in keys_of_day.items()}
    assert aliases[reported.agent["token"]] == "research-agent"
    calls = reported.get(f"/global/activity?{dates}")
    assert [day["date"] for day in calls["daily_data"]] == [f"{date.fromisoformat(day):%b %d}" for day in days]
    assert calls["sum_api_requests"] == activity["metadata"]["total_api_requests"]
    assert calls["sum_total_tokens"] == activity["metadata"]["total_tokens"] > 0
    by_model = reported.get(f"/global/activity/model?{dates}")
    counts = [row["sum_api_requests"] for row in by_model]
    assert counts == sorted(counts, reverse=True) and len({row["model"] for row in by_model}) == len(by_model) > 1
    assert sum(row["sum_total_tokens"] for row in by_model) == calls["sum_total_tokens"]


@pytest.mark.parametrize("where", ["database", "url"])
def test_the_command_line(
    reported: Reported, where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GATEWAY_MASTER_KEY", MASTER_KEY)
    monkeypatch.setenv("COHERE_API_KEY", "server-key")
    monkeypatch.setenv("GATEWAY_DATABASE_URL", reported.gateway.database_url)
    options = ["--url", reported.gateway.url] if where == "url" else []
    assert main(["usage", "--by", "key", *options]) == 0
    table = capsys.readouterr().out
    assert "research-agent" in table and "\u2588" in table
    assert main(["audit", "--key", "research-agent", "--kind", "call", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and "generated a chat reply" in lines[0] and "d-1" in lines[-1]
    assert main(["audit", "--json", "--limit", "2", *options]) == 0
    assert len(json.loads(capsys.readouterr().out)["data"]) == 2
    assert main(["usage", "--by", "colour", *options]) == 2
    assert "'by' cannot be" in capsys.readouterr().err
    assert main(["usage", "--by", "fault", "--fault", "policy_permission", "--json", *options]) == 0
    assert [row["fault"] for row in json.loads(capsys.readouterr().out)["data"]] == ["policy_permission"]
    assert main(["usage", "--by", "model", "--latency", "true", "--since", "2h", *options]) == 0
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert re.split(r"\s{2,}", head.strip())[-3:] == ["p50", "p95", "Cost"]
    assert any(re.search(r"command-a-03-2025 .* \d+ ms +[\d,]+ ms +\$", line) for line in lines), lines


def test_an_unknown_cost_is_said_in_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A group of which nothing has a price did not cost nothing."""
    tokens = {"input": 1, "output": 1}
    rows = [
        {"model": model, "calls": 2, "failures": 0, "tokens": tokens, "cost_nanodollars": cost, "unpriced_calls": count}
        for model, cost, count in (("priced", 5_000_000, 0), ("mixed", 3_000_000, 1), ("new", 0, 2), ("free", 0, 0))
    ]
    monkeypatch.setattr("gateway.cli.reports._report", lambda *_: {"data": rows, "more": False})
    assert main(["usage"]) == 0
    _, _, *lines, note = capsys.readouterr().out.splitlines()
    costs = [re.split(r"\s{2,}", line.strip())[4] for line in lines]
    assert costs == ["$0.005", "$0.003 and more", "unknown", "$0.00"]
    assert note == "the cost of 3 calls is unknown, and not in the sum"


@pytest.mark.parametrize("where", ["database", "url"])
def test_following(where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What was asked for is printed, then each row that arrives, once, until it is stopped; also more than a page."""
    monkeypatch.setenv("GATEWAY_MASTER_KEY", MASTER_KEY)
    monkeypatch.setattr("gateway.ledger.report_query.MAX_LIMIT", 2)
    monkeypatch.setattr("gateway.cli.reports.PAGE", "2")
    settings = LedgerSettings(flush_seconds=0.05)
    with demonstration(master_key=MASTER_KEY, key=MASTER_KEY, ledger=settings) as gateway:
        monkeypatch.setenv("GATEWAY_DATABASE_URL", gateway.database_url)
        rounds = iter((0, 1, 5, 0))
        expected = 3

        def nap(seconds: float) -> None:
            nonlocal expected
            try:
                calls = next(rounds)
            except StopIteration:
                raise KeyboardInterrupt from None
            for _ in range(calls):
                gateway.ask("GET", "/v1/models/command-a-03-2025")
            expected += calls
            wait_for_rows(gateway.database_url, lambda row: True, expected)

        monkeypatch.setattr("gateway.cli.reports.time", SimpleNamespace(sleep=nap, time=time.time))
        for _ in range(expected):
            gateway.chat()
        wait_for_rows(gateway.database_url, lambda row: True, expected)
        options = ["--url", gateway.url] if where == "url" else []
        with contextlib.suppress(KeyboardInterrupt):
            main(["--json", "audit", "--limit", "2", "--follow", *options])
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["method"] for row in rows] == ["v2.chat"] * 2 + ["models.get"] * 6
        assert len({row["id"] for row in rows}) == expected - 1 == 8
        assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)


def test_the_commands_of_the_document(
    reported: Reported, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GATEWAY_MASTER_KEY", MASTER_KEY)
    text = (Path(__file__).resolve().parents[1] / "docs/ledger.md").read_text(encoding="utf-8")
    commands = re.findall(r"^cohere-gateway (.*)$", text, re.MULTILINE)
    assert len(commands) == 4

    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gateway.cli.reports.time", SimpleNamespace(sleep=stop, time=time.time))
    for command in commands:
        with contextlib.suppress(KeyboardInterrupt):
            assert main([*shlex.split(command), "--url", reported.gateway.url]) == 0
        assert "research-agent" in capsys.readouterr().out, command
