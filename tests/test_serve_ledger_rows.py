"""The row of each way in which a call may come and end, on both databases; and one sum, wherever money is shown.

A request that becomes several calls to Cohere is one row with several attempts; a message on a WebSocket is a row of
its own, and so is a background response, whose request is none. The gateway has virtual keys and a scripted Cohere.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from gateway.ledger import writer
from gateway.ledger.entry import entry_of
from gateway.observability.record import RequestRecord, TimedAttempt
from gateway.settings.schema import CacheSettings, LedgerSettings, ModelPrice
from gateway.store import keys
from gateway.virtual_keys import PreviousDigest, Team, VirtualKey, digest_of
from support import databases
from support.app import (
    CHAT,
    MASTER_KEY,
    R7B,
    SERVER_KEY,
    A,
    Harness,
    Response,
    answered,
    end,
    run_harness,
    story,
    streamed,
)
from support.ledger import wait_for_rows
from support.process import awaited
from support.scripted_upstream import Script, event_stream, json_answer, transcript
from support.virtual_keys import BY, key_of, run_keyed_harness, secret_of, write
from support.waiting import WAIT_SECONDS
from test_serve_cost import CHAT_COST, HELLO, ONE, embedded, meta

THOUGHTS = {
    "billed_units": {"input_tokens": 4, "output_tokens": 2},
    "tokens": {"input_tokens": 70, "output_tokens": 3, "reasoning_tokens": 1},
    "cached_tokens": 16,
}
FORM = (
    b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\ncohere-transcribe-03-2026\r\n'
    b'--b\r\ncontent-disposition: form-data; name="language"\r\n\r\nen\r\n'
    b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--b--\r\n'
)
BUDGET = 10.0


class LedgerHarness:
    """A gateway with one key, which has a budget."""

    def __init__(self, harness: Harness) -> None:
        self.harness, self.gateway = harness, harness.gateway
        self.key_id = self._manage("/key/generate", key_alias="agent", max_budget=BUDGET, permissions="all")

    def _manage(self, path: str, **fields: Any) -> str:
        answer = self.ask("POST", path, fields, key=MASTER_KEY).body
        self.gateway.key = answer["key"]
        return str(answer["key_id"])

    def ask(self, verb: str, path: str, body: Any = None, key: str = "", **headers: str) -> Response:
        usual = {"authorization": f"Bearer {key or self.gateway.key}", "content-type": "application/json"}
        return self.gateway.ask(verb, path, body, {**usual, **headers})

    def report(self, path: str) -> Any:
        answer = self.ask("GET", path, key=MASTER_KEY)
        assert answer.status == 200, answer
        return answer.body

    def rows(self, query: str) -> list[dict[str, Any]]:
        return list(self.report(f"/audit?kind=call&limit=500&{query}")["data"])

    def row(self, query: str) -> dict[str, Any]:
        """The one row that meets the filters, once it is written."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not (rows := self.rows(query)):
            assert time.monotonic() < deadline, query
            time.sleep(0.02)
        assert len(rows) == 1, rows
        return rows[0]

    def row_of(self, response: Response) -> dict[str, Any]:
        return self.row(f"id={response.headers['x-gateway-log-id']}")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def harness(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LedgerHarness]:
    settings: dict[str, Any] = {
        "master_key": MASTER_KEY,
        "cohere_api_key": [SERVER_KEY],
        "cache": CacheSettings(store="memory"),
        "ledger": LedgerSettings(flush_seconds=0.05),
        "prices": {"mine": ModelPrice(input=1, output=2, cached=0.5)},
    }
    with (
        databases.throwaway_url(request.param, tmp_path_factory.mktemp("rows")) as url,
        run_harness(database_url=url, **settings) as harness,
    ):
        yield LedgerHarness(harness)


def chat(**fields: Any) -> tuple[str, dict[str, Any]]:
    return CHAT, {"model": A, "messages": HELLO, **fields}


# name: (path and body, Cohere's answers, what the row has)
ROWS: dict[str, tuple[tuple[str, Any], tuple[Script, ...], dict[str, Any]]] = {
    "a whole answer": (
        chat(user="ada", metadata={"project": "apollo", "tags": ["nightly"]}),
        (answered(usage=THOUGHTS),),
        {
            "door": "openai",
            "method": "v2.chat",
            "model": A,
            "streamed": False,
            "status": 200,
            "outcome": "ok",
            "fault": None,
            "end_user": "ada",
            "tags": ["nightly"],
            "metadata": {"project": "apollo"},
            "units": {"input_tokens": 4, "output_tokens": 2},
            "tokens": {"input": 70, "output": 3, "cached": 16, "thinking": 1},
            "cost_nanodollars": CHAT_COST,
            "estimated": False,
            "decision": "allowed",
        },
    ),
    "a stream": (
        chat(stream=True),
        (streamed(),),
        {"streamed": True, "cost_nanodollars": CHAT_COST, "units": {"input_tokens": 4, "output_tokens": 2}},
    ),
    "several choices": (
        chat(model=R7B, n=3),
        (answered(usage=ONE),),
        {"units": {"input_tokens": 3}, "cost_nanodollars": 3 * 38, "calls": 3},
    ),
    "embeddings that are split": (
        ("/v1/embeddings", {"model": "embed-v4.0", "input": ["split"] * 97, "encoding_format": "float"}),
        (embedded(96, input_tokens=96), embedded(1, input_tokens=1)),
        {"method": "v2.embed", "units": {"input_tokens": 97}, "cost_nanodollars": 97 * 120, "calls": 2},
    ),
    "a failure of Cohere's": (
        chat(),
        (json_answer(500, {"message": "no"}),),
        {"status": 502, "outcome": "error", "fault": "provider_unavailable", "cost_nanodollars": 0, "calls": 1},
    ),
    "a refusal of Cohere's": (
        chat(),
        (json_answer(404, {"message": "model not found"}),),
        {"status": 404, "outcome": "error", "cost_nanodollars": 0, "units": {}, "decision": "allowed"},
    ),
    "a refusal of ours": (
        ("/v1/images/generations", {"prompt": "a cat"}),
        (answered(),),
        {"status": 400, "outcome": "error", "calls": 0},
    ),
    "a price that is unknown, under a budget": (
        chat(model="command-a-plus-05-2026"),
        (answered(),),
        {"status": 403, "error": "price_unknown", "fault": "policy_budget", "calls": 0},
    ),
    "a cached prompt with a discount": (
        chat(model="mine"),
        (answered(),),
        {"cost_nanodollars": 4 * 500 + 2 * 2_000},
    ),
    "rerank": (
        ("/v1/rerank", {"model": "rerank-v3.5", "query": "q", "documents": ["d"] * 100}),
        (json_answer(200, {"id": "r", "results": [{"index": 0, "relevance_score": 0.5}], **meta(search_units=1)}),),
        {"units": {"search_units": 1}, "cost_nanodollars": 2_000_000, "tokens": {"input": 0, "output": 0}},
    ),
    "a native answer that is larger than one read": (
        ("/cohere/v2/embed", {"model": "embed-v4.0", "texts": ["a"]}),
        (embedded(20_000, input_tokens=2),),
        {"door": "native", "units": {"input_tokens": 2}, "cost_nanodollars": 240},
    ),
    "a native stream": (
        ("/cohere/v2/chat", {"model": A, "messages": HELLO, "stream": True}),
        (streamed(),),
        {"door": "native", "streamed": True, "cost_nanodollars": CHAT_COST},
    ),
    "a native stream that Cohere cut": (
        ("/cohere/v2/chat", {"model": A, "messages": HELLO, "stream": True}),
        (event_stream(transcript(*story()[:-1])),),
        {"estimated": True, "units": {}, "outcome": "ok"},
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row(harness: LedgerHarness, name: str) -> None:
    (path, body), scripts, expected = ROWS[name]
    harness.harness.respond_with(*scripts)
    response = harness.ask("POST", path, body)
    row = harness.row_of(response)
    matches(row, {"request_id": response.headers["x-request-id"], "key_id": harness.key_id, **expected})
    assert row["status"] == response.status and row["bytes"] == {
        "received": len(json.dumps(body)),
        "sent": len(response.data),
    }
    assert row["total_ms"] > 0 and (row["ttft_ms"] is not None or not row["streamed"])
    # Where Cohere said what it bills before the head was sent, the header says the row's amount.
    if header := response.headers.get("x-gateway-cost-usd"):
        assert round(float(header) * 10**9) == row["cost_nanodollars"]


def matches(row: Mapping[str, Any], expected: dict[str, Any]) -> None:
    """What is expected is there; of an object, the names that are expected. calls: how many attempts there were."""
    calls = expected.pop("calls", None)
    assert calls is None or len(row["attempts"]) == calls, row["attempts"]
    for name, value in expected.items():
        actual = {one: row[name].get(one) for one in value} if isinstance(value, dict) and value else row[name]
        assert actual == value, (name, row)


def test_an_attempt_says_when_it_began_and_why_it_failed(harness: LedgerHarness) -> None:
    harness.harness.respond_with(json_answer(503, {"message": "busy"}), answered())
    failed, served = (harness.row_of(harness.ask("POST", *chat())) for _ in range(2))
    assert failed["attempts"][0]["error"] == failed["error"] == "upstream_unavailable"
    assert not {"error", "model"} & served["attempts"][0].keys()
    for row in (failed, served):
        (attempt,) = row["attempts"]
        assert 0 < attempt["start_ms"] + attempt["ms"] <= row["total_ms"] and attempt["start_ms"] >= 0


def test_an_attempt_with_another_model_names_it() -> None:
    """One that a fallback took the place of."""
    record = RequestRecord("req", "POST", CHAT, 100.0, model=R7B)
    record.attempts = [
        TimedAttempt(1, 503, "", 5.0, model=A, error="unavailable", began=100.25),
        TimedAttempt(1, 200, "", 5.0, model=R7B, began=101.0),
    ]
    first, second = msgspec.to_builtins(entry_of(record, 102.0, 1_700_000_000.0).attempts)
    assert (first["model"], first["start_ms"], first["error"]) == (A, 250.0, "unavailable")
    assert second == {"key": 1, "status": 200, "trace_id": "", "ms": 5.0, "start_ms": 1000.0}


def test_an_answer_out_of_the_cache(harness: LedgerHarness) -> None:
    harness.harness.respond_with(answered())
    body = {"model": A, "messages": [{"role": "user", "content": "Once more"}], "temperature": 0}
    first, second = (harness.ask("POST", CHAT, body, **{"x-gateway-cache-ttl": "60"}) for _ in range(2))
    matches(harness.row_of(first), {"cache": "miss", "cost_nanodollars": CHAT_COST, "calls": 1})
    row = harness.row_of(second)
    matches(row, {"cache": "hit", "cost_nanodollars": 0, "saved_nanodollars": CHAT_COST, "units": {}, "calls": 0})
    assert "from the cache, which saved $0.00003" in row["sentence"]


def test_an_upload(harness: LedgerHarness) -> None:
    """Its price is unknown, and a budget applies: the master key has none."""
    harness.harness.respond_with(json_answer(200, {"text": "Hi"}))
    response = harness.ask(
        "POST",
        "/v1/audio/transcriptions",
        FORM,
        MASTER_KEY,
        **{"content-type": "multipart/form-data; boundary=b"},
    )
    row = harness.row_of(response)
    assert response.status == 200, response
    matches(
        row, {"method": "audio.transcriptions.create", "key_alias": "master", "cost_nanodollars": None, "units": {}}
    )
    assert row["bytes"]["received"] == len(FORM)
    form = {"content-type": "multipart/form-data; boundary=b"}
    limited = harness.row_of(harness.ask("POST", "/cohere/v2/audio/transcriptions", FORM, **form))
    matches(limited, {"error": "price_unknown", "model_asked": row["model"], "model": row["model"]})


def test_each_message_on_a_websocket_is_a_row_and_the_socket_is_none(harness: LedgerHarness) -> None:
    harness.harness.respond_with(streamed(), json_answer(404, {"message": "model not found"}))
    url = harness.gateway.url.replace("http", "ws", 1) + "/v1/responses"
    headers = {"authorization": f"Bearer {harness.gateway.key}", "x-request-id": "socket-1", "x-litellm-tags": "live"}
    with connect(url, additional_headers=headers, proxy=None) as socket:
        for text, last in (("Hello", "response.completed"), ("Hello again", "error")):
            socket.send(json.dumps({"type": "response.create", "model": A, "input": text}))
            while json.loads(socket.recv(WAIT_SECONDS))["type"] != last:
                pass
    good, bad = harness.row("request_id=socket-1.1"), harness.row("request_id=socket-1.2")
    matches(
        good,
        {
            "door": "websocket",
            "method": "v2.chat",
            "key_id": harness.key_id,
            "status": 200,
            "streamed": True,
            "tags": ["live"],
            "cost_nanodollars": CHAT_COST,
            "calls": 1,
        },
    )
    assert good["ttft_ms"] is not None and good["bytes"]["sent"] > 0 < good["bytes"]["received"]
    matches(bad, {"door": "websocket", "status": 404, "outcome": "error", "cost_nanodollars": 0})
    assert not harness.rows("request_id=socket-1")


def test_a_background_response_is_one_row(harness: LedgerHarness) -> None:
    harness.harness.respond_with(answered())
    response = harness.ask("POST", "/v1/responses", {"model": A, "input": "Hello", "background": True, "user": "ada"})
    row = harness.row_of(response)
    matches(
        row,
        {
            "method": "v2.chat",
            "status": 200,
            "outcome": "ok",
            "end_user": "ada",
            "cost_nanodollars": CHAT_COST,
            "calls": 1,
        },
    )
    assert row["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("tag=nightly", 1),
        ("tag=Nightly", 0),
        ("tag=night", 0),
        ("metadata=project%3Dapollo", 1),
        ("metadata=project%3Dapoll", 0),
        ("tag=nightly&metadata=project%3Dapollo&end_user=ada", 1),
    ],
)
def test_rows_are_found_by_tags_and_metadata(harness: LedgerHarness, query: str, count: int) -> None:
    (path, body), scripts, _ = ROWS["a whole answer"]
    harness.harness.respond_with(*scripts)
    harness.row_of(harness.ask("POST", path, body))
    since = "since=1h"
    rows = harness.rows(f"{since}&{query}")
    assert bool(rows) == bool(count)
    assert all(row["tags"] == ["nightly"] for row in rows)
    assert harness.ask("GET", "/audit?metadata=project", key=MASTER_KEY).error["param"] == "metadata"


def test_rows_that_came_since_are_counted(harness: LedgerHarness) -> None:
    page = harness.report("/audit?key=agent&limit=5")
    cursor = page["newest_cursor"]
    assert harness.report(f"/audit/newer?key=agent&cursor={cursor}") == {"count": 0, "more": False}
    harness.harness.respond_with(answered())
    harness.row_of(harness.ask("POST", *chat()))
    harness.row_of(harness.ask("POST", *chat(user="grace")))
    assert harness.report(f"/audit/newer?key=agent&cursor={cursor}")["count"] == 2
    assert harness.report(f"/audit/newer?end_user=grace&cursor={cursor}")["count"] == 1
    assert harness.report(f"/audit/newer?model={A}&cursor={cursor}")["count"] == 2
    assert harness.report(f"/audit/newer?text=nowhere&cursor={cursor}")["count"] == 0
    # The page stays as it is with its cursor, and a change is counted as well as a call.
    harness.ask("POST", "/key/update", {"key": "agent", "tpm_limit": 10**9}, MASTER_KEY)
    assert harness.report(f"/audit/newer?cursor={cursor}")["count"] == 3
    assert harness.report(f"/audit/newer?kind=change&cursor={cursor}")["count"] == 1
    assert harness.ask("GET", "/audit/newer", key=MASTER_KEY).error["param"] == "cursor"


def test_rows_reports_budgets_and_metrics_say_the_same_sum(harness: LedgerHarness) -> None:
    """Whatever the tests before have done."""
    harness.harness.respond_with(answered())
    harness.row_of(harness.ask("POST", *chat()))
    harness.gateway.settle()
    spent = settled(lambda: sum(row["cost_nanodollars"] or 0 for row in harness.rows("key=agent")))
    assert spent >= CHAT_COST
    (by_key,) = [group for group in harness.report("/usage?by=key")["data"] if group["key"] == harness.key_id]
    assert by_key["cost_nanodollars"] == spent
    for by in ("model", "method", "day", "hour", "key,model", "fault"):
        groups = harness.report(f"/usage?by={by}&key=agent&since=2d")["data"]
        assert sum(group["cost_nanodollars"] for group in groups) == spent, by
    everything = sum(row["cost_nanodollars"] or 0 for row in harness.rows(""))
    for by in ("model", "method", "day", "hour", "model,hour", "fault", "key"):
        groups = harness.report(f"/usage?by={by}&since=2d")["data"]
        assert sum(group["cost_nanodollars"] for group in groups) == everything, by
    dollars = pytest.approx(spent / 10**9, abs=1e-9)
    assert harness.report("/key/info?key=agent")["info"]["spend"] == dollars
    assert sum(one["spend"] for one in harness.report("/spend/logs?api_key=agent")) == dollars
    assert harness.report("/global/spend")["spend"] == pytest.approx(everything / 10**9, abs=1e-9)
    metrics = harness.gateway.metrics()
    counted = {series: value for series, value in metrics.items() if series.startswith("gateway_cost_usd_total")}
    assert sum(value for series, value in counted.items() if 'key="agent"' in series) == dollars
    (budget,) = [value for series, value in metrics.items() if series.startswith("gateway_budget_spent_usd")]
    assert budget == dollars


@pytest.mark.parametrize(
    "report",
    ["/spend/logs?api_key={}", "/spend/logs/v2?api_key={}", "/user/daily/activity?api_key={}", "/audit?key={}"],
)
def test_reports_take_a_key_by_its_secret(harness: LedgerHarness, report: str) -> None:
    """As LiteLLM's programs send it, also a key its own; and that of nobody finds nothing."""
    harness.harness.respond_with(answered())
    harness.row_of(harness.ask("POST", *chat()))
    by_alias = harness.report(report.format("agent"))
    for key in ("", MASTER_KEY):
        answer = harness.ask("GET", report.format(harness.gateway.key), key=key)
        assert answer.status == 200 and answer.body == by_alias
    assert harness.report(report.format("sk-nobodys-000000000000000000")) != by_alias
    assert harness.ask("GET", report.format("sk-nobodys-000000000000000000")).status == 400


def settled(value: Callable[[], int], seconds: float = WAIT_SECONDS) -> int:
    """A value once it stays the same for two flushes of the ledger."""
    deadline, last, since = time.monotonic() + seconds, value(), time.monotonic()
    while time.monotonic() - since < 0.3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        if (now := value()) != last:
            last, since = now, time.monotonic()
    return last


def test_an_ended_stream_without_counts_has_an_unknown_cost(harness: LedgerHarness) -> None:
    harness.harness.respond_with(event_stream(transcript(*story(ending=end(usage=None)))))
    row = harness.row_of(harness.ask("POST", *chat(stream=True)))
    matches(row, {"cost_nanodollars": None, "estimated": True, "outcome": "ok"})
    assert "at an unknown cost" in row["sentence"]


def test_tokens_that_cohere_counted_are_not_estimated_as_well(harness: LedgerHarness) -> None:
    """Where it says what it processed and not what it charges for."""
    usage = {"tokens": {"input_tokens": 70, "output_tokens": 3}}
    harness.harness.respond_with(event_stream(transcript(*story(ending=end(usage=usage)))))
    row = harness.row_of(harness.ask("POST", *chat(stream=True)))
    matches(row, {"cost_nanodollars": None, "estimated": False, "tokens": {"input": 70, "output": 3}})


def test_the_tags_of_a_key_and_its_team_are_on_the_rows_of_its_calls(harness: LedgerHarness) -> None:
    """Before those of a request, which may name more than a row has."""
    harness.harness.respond_with(answered())
    own = {"tags": ["of the key", "of both"]}
    harness.ask("POST", "/team/new", {"team_id": "tagged", "tags": ["of the team", "of both"]}, MASTER_KEY)
    key = harness.ask("POST", "/key/generate", {"team_id": "tagged", **own}, MASTER_KEY).body["key"]
    several = ",".join(f"tag-{number}" for number in range(30))
    row = harness.row_of(harness.ask("POST", *chat(), key, **{"x-litellm-tags": f"of the team,{several}"}))
    assert row["tags"][:5] == ["of the key", "of both", "of the team", "tag-0", "tag-1"] and len(row["tags"]) == 20
    assert [one["id"] for one in harness.rows("tag=of%20the%20key")] == [row["id"]]
    harness.ask("POST", "/key/update", {"key": key, "tags": None}, MASTER_KEY)
    harness.ask("POST", "/team/update", {"team_id": "tagged", "tags": []}, MASTER_KEY)
    row = settled_row(lambda: harness.row_of(harness.ask("POST", *chat(), key)), lambda row: not row["tags"])
    assert row["tags"] == []


def settled_row(ask: Callable[[], dict[str, Any]], expected: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The row of the first call that is as expected, or the last one: changes of keys take a moment."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not expected(row := ask()) and time.monotonic() < deadline:
        pass
    return row


def test_a_row_that_cannot_be_made_fails_no_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made on the path of the call. The row is lost, which the metric and the log say."""

    def broken(*arguments: Any) -> str:
        raise KeyError("no such verb")

    settings: dict[str, Any] = {"master_key": MASTER_KEY, "cohere_api_key": [SERVER_KEY]}
    with run_harness(database_url=f"sqlite:///{tmp_path}/gateway.db", **settings) as served:
        harness = LedgerHarness(served)
        served.respond_with(answered())
        with monkeypatch.context() as patch:
            patch.setattr(writer, "sentence", broken)
            assert harness.ask("POST", *chat()).status == 200
            served.gateway.log.wait(lambda line: "KeyError while making a row" in line.get("message", ""))
        assert served.gateway.metrics()['gateway_ledger_rows_total{result="lost"}'] == 1
        assert harness.row_of(harness.ask("POST", *chat()))["outcome"] == "ok"


# --- keys that are refused --------------------------------------------------------------------------------------

BAD_KEYS: Mapping[str, tuple[VirtualKey, str]] = {
    "blocked": (key_of("k", team_id="t", user_id="ada", blocked=True), "whoever runs the gateway can unblock it"),
    "of a blocked team": (key_of("k", team_id="t", user_id="ada"), "the team of this API key is blocked"),
    "from elsewhere": (key_of("k", user_id="ada", allowed_ips=("203.0.113.0/24",)), "from this address"),
    "expired": (key_of("k", user_id="ada", expires=2.0), "the key has expired"),
    "rotated": (key_of("k", user_id="ada"), "the key has another secret now"),
    "rotated, and the time of both is over": (
        replace(key_of("k", user_id="ada"), previous=(PreviousDigest(digest_of("sk-other"), 1.0),)),
        "the key has another secret now",
    ),
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_the_row_of_a_refused_call_names_the_key(name: str) -> None:
    """At both doors and on a WebSocket. Nothing else that a key means comes with it."""
    key, why = BAD_KEYS[name]
    team = Team(team_id="t", team_alias="search", blocked=name == "of a blocked team")
    secret = secret_of("k") if "time of both" not in name else "sk-other"
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    with run_keyed_harness(team, key) as (harness, url):
        gateway = harness.gateway
        if name == "rotated":
            write(url, lambda c: keys.rotate(c, "k", digest_of("sk-new"), "-new", BY, 2.0))
            awaited(lambda: gateway.ask("GET", "/v1/nothing", None, headers).status == 401)
        answers = [gateway.ask("POST", path, chat()[1], headers) for path in (CHAT, "/cohere/v2/chat")]
        with pytest.raises(InvalidStatus):
            connect(
                f"ws://{gateway.address[0]}:{gateway.address[1]}/v1/responses", additional_headers=headers, proxy=None
            )
        doors = ("openai", "native", "websocket")
        rows = [
            wait_for_rows(url, lambda row, door=door: row.get("door", "openai") == door and row["status"] != 404)[-1]  # type: ignore[misc]
            for door in doors
        ]
        for row in rows:
            names = {field: row.get(field) for field in ("key_id", "key_alias", "team_id", "user_id")}
            assert names == {"key_id": "k", "key_alias": "k", "team_id": key.team_id, "user_id": "ada"}, row
            assert row["decision"] == "refused" and row["status"] in (401, 403)
            who = "k (team search)" if key.team_id else "k"
            assert row["sentence"].startswith(f"{who} tried to ") and why in row["sentence"], row["sentence"]
        for answer in answers:
            assert answer.status in (401, 403) and "x-gateway-key" not in answer.headers
            assert answer.status == 403 or why not in answer.data.decode(), "said of all wrong keys alike"
        assert not harness.upstream.exchanges
        used = gateway.ask("GET", "/usage?by=key,team,user", None, {"authorization": f"Bearer {MASTER_KEY}"}).body[
            "data"
        ]
        (sums,) = [one for one in used if one["key"] == "k"]
        assert (sums["failures"], sums["cost_nanodollars"]) == (sums["calls"], 0)
        assert (sums["team"], sums["user"]) == (key.team_id, "ada")
        metrics = gateway.ask("GET", "/metrics").data.decode()
        assert 'key="k"' not in metrics


def test_a_flood_of_calls_with_a_key_that_is_refused_makes_few_rows() -> None:
    headers = {"authorization": f"Bearer {secret_of('k')}"}
    with run_keyed_harness(key_of("k", blocked=True)) as (harness, url):
        for _ in range(2 * writer.ROWS_PER_ADDRESS + 5):
            assert harness.gateway.ask("GET", "/v1/models", None, headers).status == 403
        written = wait_for_rows(url, lambda row: row["key_id"] == "k", writer.ROWS_PER_ADDRESS)
        assert len(written) <= 2 * writer.ROWS_PER_ADDRESS, "of one minute, or of two"


def test_nobody_is_named_who_sends_a_key_that_is_unknown_or_deleted() -> None:
    with run_keyed_harness(key_of("k"), key_of("other")) as (harness, url):
        write(url, lambda c: keys.delete(c, VirtualKey, "k", BY, 2.0))
        for secret in (secret_of("k"), "sk-nobody", secret_of("other") + "0"):
            headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
            awaited(lambda headers=headers: harness.gateway.ask("POST", CHAT, {}, headers).status == 401)  # type: ignore[misc]
        rows = wait_for_rows(url, lambda row: row["status"] == 401, 3)
        assert {row.get("key_id") for row in rows} == {None}
