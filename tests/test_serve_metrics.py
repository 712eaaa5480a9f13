"""What is counted and what is written down: `/metrics` by series, the log line by line.

Each test starts a gateway of its own, so that counts begin at nothing. A request is counted and logged after
its answer's last byte: a test waits for the line and reads the counts after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import random
import re
import socket
import string
import urllib.parse
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from gateway.observability import metrics
from gateway.observability.access_log import Log
from gateway.observability.metrics import Metrics, _read_all_workers
from gateway.observability.record import RequestRecord
from gateway.server import worker
from gateway.server.worker_link import SettingsSource, WorkerStart
from gateway.settings.schema import Settings
from support.app import (
    CHAT,
    SERVER_KEY,
    A,
    Gateway,
    Harness,
    Response,
    answered,
    demonstration,
    gateway_over,
    opened,
    piece,
    run_harness,
    start,
    streamed,
    whole,
)
from support.process import reads_until, request_bytes
from support.scripted_upstream import (
    Chunk,
    Cut,
    Head,
    Pause,
    ScriptedUpstream,
    Signal,
    event_stream,
    json_answer,
    transcript,
)
from support.waiting import WAIT_SECONDS
from test_serve_disconnect import waiting

NEVER = Signal()
PAGE = json_answer(200, {"models": [{"name": A, "endpoints": ["chat"]}]})


@pytest.fixture
def harness() -> Iterator[Harness]:
    with run_harness() as harness:
        yield harness


def counted(gateway: Gateway, response: Response) -> dict[str, float]:
    """The counts, this request's included."""
    gateway.log.line_of(response.headers["x-request-id"])  # its caller may have left, which nobody else waits for
    return gateway.metrics()


def series(name: str, **labels: str) -> str:
    """As prometheus_client writes it: labels in alphabetical order."""
    result = ",".join(f'{label}="{labels[label]}"' for label in sorted(labels))
    return f"{name}{{{result}}}" if result else name


def requests(**labels: str) -> str:
    usual = {"operation": "chat", "model": A, "status": "200", "outcome": "ok"}
    return series("gateway_requests_total", **(usual | labels))


# --- counts ---------------------------------------------------------------------------------------------------

FAMILIES = {
    "gateway_requests_total": "counter",
    "gateway_request_duration_seconds": "histogram",
    "gateway_time_to_first_token_seconds": "histogram",
    "gateway_upstream_duration_seconds": "histogram",
    "gateway_tokens_total": "counter",
    "gateway_requests_in_flight": "gauge",
    "gateway_client_disconnects_total": "counter",
    "gateway_upstream_errors_total": "counter",
    "gateway_request_notes_total": "counter",
}


def test_the_families(harness: Harness) -> None:
    response = harness.gateway.ask("GET", "/metrics", headers={})
    assert response.headers["content-type"].startswith("text/plain; version=")
    kinds = dict(re.findall(r"(?m)^# TYPE (\S+) (\S+)$", response.data.decode()))
    assert kinds.items() >= FAMILIES.items()
    described = set(re.findall(r"(?m)^# HELP (\S+) \S", response.data.decode()))
    assert described >= set(FAMILIES)
    assert "_created" not in response.data.decode()


ENDINGS = {"counter": r"_total", "histogram": r"_(seconds|bytes)", "gauge": r"(?<!_total)(?<!_count)"}
"""Prometheus's conventions: a counter is a total, what is measured comes in a base unit."""


def test_names_follow_the_conventions(harness: Harness) -> None:
    text = harness.gateway.ask("GET", "/metrics", headers={}).data.decode()
    families = re.findall(r"(?m)^# TYPE (\S+) (\S+)$", text)
    odd = [name for name, kind in families if not re.fullmatch(rf"(gateway|process)_[a-z_]+{ENDINGS[kind]}", name)]
    assert len(families) > len(FAMILIES) and not odd


def test_a_whole_answer(harness: Harness) -> None:
    result = counted(harness.gateway, harness.chat_over(answered()))
    assert result[requests()] == 1
    assert result[series("gateway_request_duration_seconds_count", operation="chat")] == 1
    assert result[series("gateway_upstream_duration_seconds_count", operation="chat")] == 1
    assert result.get(series("gateway_time_to_first_token_seconds_count", operation="chat"), 0) == 0
    assert result[series("gateway_tokens_total", operation="chat", model=A, direction="input")] == 70
    assert result[series("gateway_tokens_total", operation="chat", model=A, direction="output")] == 3


def test_a_streamed_answer(harness: Harness) -> None:
    result = counted(harness.gateway, harness.chat_over(streamed(), stream=True))
    assert result[requests()] == 1
    assert result[series("gateway_time_to_first_token_seconds_count", operation="chat")] == 1
    assert result[series("gateway_tokens_total", operation="chat", model=A, direction="input")] == 70
    assert result[series("gateway_tokens_total", operation="chat", model=A, direction="output")] == 3


def test_durations_are_what_they_say(harness: Harness) -> None:
    late = (Pause(0.2), *answered())
    result = counted(harness.gateway, harness.chat_over(late))
    for name in ("gateway_request_duration_seconds", "gateway_upstream_duration_seconds"):
        assert 0.2 <= result[series(f"{name}_sum", operation="chat")] < 2
        assert result[series(f"{name}_bucket", operation="chat", le="0.1")] == 0
    early = event_stream([transcript(start(), opened(), piece("Hi"), done=False)], ending=None)
    harness.chat_over((*early, Pause(0.2), Cut()), stream=True)
    first = series("gateway_time_to_first_token_seconds_sum", operation="chat")
    assert harness.gateway.metrics().get(first, 0) < 0.2


def test_sums(harness: Harness) -> None:
    for _ in range(5):
        harness.chat_over(answered())
    response = harness.chat_over(streamed(), stream=True)
    result = counted(harness.gateway, response)
    assert result[requests()] == 6
    assert result[series("gateway_tokens_total", operation="chat", model=A, direction="input")] == 6 * 70


ERRORS: tuple[tuple[str, dict[str, Any], dict[str, str]], ...] = (
    ("a bad field", {"temperature": "hot"}, {"model": "", "status": "400", "outcome": "error"}),
    ("no such model", {"model": "none"}, {"model": "other", "status": "404", "outcome": "error"}),
)


@pytest.mark.parametrize(("name", "fields", "labels"), ERRORS, ids=[row[0] for row in ERRORS])
def test_errors_of_callers(harness: Harness, name: str, fields: dict[str, Any], labels: dict[str, str]) -> None:
    result = counted(harness.gateway, harness.chat_over(json_answer(404, {"message": "no"}), **fields))
    assert result[requests(**labels)] == 1
    assert not [one for one in result if one.startswith("gateway_upstream_errors_total")]


@pytest.mark.parametrize(
    ("script", "stream", "status", "code"),
    [
        (json_answer(500, {"message": "x"}), False, "502", "upstream_error"),
        (json_answer(503, {"message": "x"}), True, "503", "upstream_unavailable"),
        ((Cut(),), False, "502", "upstream_cut"),
        (event_stream(transcript(start(), opened(), piece("Hi"), done=False)), True, "200", "upstream_cut"),
        (json_answer(200, b"nonsense"), False, "502", "upstream_protocol_error"),
    ],
)
def test_errors_of_coheres(harness: Harness, script: Any, stream: bool, status: str, code: str) -> None:
    result = counted(harness.gateway, harness.chat_over(script, stream=stream))
    assert result[requests(status=status, outcome="error")] == 1
    assert result[series("gateway_upstream_errors_total", operation="chat", code=code)] == 1


def test_the_servers_own_key_refused() -> None:
    with run_harness(cohere_api_key=[SERVER_KEY]) as harness:
        result = counted(harness.gateway, harness.chat_over(json_answer(401, {"message": "invalid api token"})))
        assert result[series("gateway_upstream_errors_total", operation="chat", code="upstream_auth")] == 1


def test_other_operations(harness: Harness) -> None:
    harness.respond_with(PAGE)
    gateway = harness.gateway
    gateway.ask("GET", "/v1/models")
    gateway.ask("GET", f"/v1/models/{A}")
    gateway.ask("GET", "/health/live")
    gateway.ask("GET", "/v1/models/none")
    response = counted(gateway, gateway.ask("GET", "/v1/nowhere"))
    for operation, status, outcome in (
        ("models", "200", "ok"),
        ("model", "200", "ok"),
        ("model", "404", "error"),
        ("health", "200", "ok"),
        ("other", "404", "error"),
    ):
        assert response[requests(operation=operation, model="", status=status, outcome=outcome)] == 1


def test_notes(harness: Harness) -> None:
    response = harness.chat_over(answered(), temperature=1.4, logit_bias={"1": 1}, unheard_of=1, messages=[
        {"role": "user", "content": "x", "name": "a"},
        {"role": "user", "content": "y", "name": "b"},
    ])  # fmt: skip
    result = counted(harness.gateway, response)

    def noted(kind: str, field: str) -> float:
        return result.get(series("gateway_request_notes_total", operation="chat", kind=kind, field=field), 0)

    assert noted("adjusted", "temperature") == 1
    assert noted("ignored", "logit_bias") == 1
    assert noted("emulated", "messages") == 1
    assert noted("ignored", "other") == 1


def test_in_flight() -> None:
    gauge = "gateway_requests_in_flight"
    with waiting((Pause(NEVER),)) as harness:
        assert harness.gateway.metrics()[gauge] == 1  # the scrape itself
        with socket.create_connection(harness.gateway.address, WAIT_SECONDS) as connection:
            connection.sendall(request_bytes())
            harness.request_arrived.wait_in_thread()
            assert harness.gateway.metrics()[gauge] == 2
        harness.gateway.log.line_of("leaver")
        assert harness.gateway.metrics()[gauge] == 1


@pytest.mark.parametrize(
    ("stream", "script", "sees", "phase"),
    [
        (False, (Pause(NEVER),), b"", "waiting"),
        (True, (Pause(NEVER),), b"", "waiting"),
        (
            True,
            (Head(200), Chunk(transcript(start(), opened(), piece("Hi"), done=False)), Pause(NEVER)),
            b'"Hi"',
            "streaming",
        ),
    ],
    ids=["whole", "before the stream", "in the stream"],
)
def test_callers_who_leave(stream: bool, script: Any, sees: bytes, phase: str) -> None:
    with waiting(script) as harness:
        with socket.create_connection(harness.gateway.address, WAIT_SECONDS) as connection:
            connection.sendall(request_bytes(stream=stream))
            harness.request_arrived.wait_in_thread()
            if sees:
                reads_until(connection, sees)
        line = harness.gateway.log.line_of("leaver")
        assert (line["status"], line["outcome"], line["streamed"] if stream else False) == (
            499,
            "client_closed",
            stream,
        )
        metrics = harness.gateway.metrics()
        assert metrics[series("gateway_client_disconnects_total", operation="chat", phase=phase)] == 1
        assert metrics[requests(status="499", outcome="client_closed")] == 1
        assert not [one for one in metrics if one.startswith("gateway_upstream_errors_total")]


STREAM_HEAD = Head(200, (("content-type", "text/event-stream"),))


@pytest.mark.parametrize(
    ("stream", "script", "sees", "status"),
    [
        (False, (Pause(NEVER),), b"", 503),
        (
            True,
            (STREAM_HEAD, Chunk(transcript(start(), opened(), piece("Hi"), done=False)), Pause(NEVER)),
            b'"Hi"',
            200,
        ),
    ],
    ids=["waiting", "streaming"],
)
def test_a_request_cut_by_shutdown(
    stream: bool, script: Any, sees: bytes, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task is cancelled from outside: the server's time is up, and nobody has interrupted the call to Cohere."""
    collectors: list[Metrics] = []

    def recorded(*arguments: Any) -> Metrics:
        collectors.append(Metrics(*arguments))
        return collectors[-1]

    monkeypatch.setattr("gateway.app.Metrics", recorded)
    called = Signal()

    def respond(request: object) -> Any:
        called.set()
        return script

    with ScriptedUpstream(respond).run_in_thread() as upstream, contextlib.ExitStack() as stack:
        with gateway_over(upstream.url, graceful_timeout=0.1) as gateway:
            connection = stack.enter_context(socket.create_connection(gateway.address, WAIT_SECONDS))
            connection.sendall(request_bytes("cut", stream=stream))
            called.wait_in_thread()
            if sees:
                reads_until(connection, sees)
        line = gateway.log.line_of("cut")
    assert (line["status"], line["outcome"], line["error"], line["fault"]) == (
        status,
        "error",
        "shutdown",
        "gateway_shutdown",
    )
    text = collectors[0].exposition()[0].decode()
    assert f"{requests(status=str(status), outcome='error')} 1.0" in text
    assert "gateway_requests_in_flight 0.0" in text
    assert 'code="shutdown"' not in text, "it is no failure of Cohere's"


# --- bounds -----------------------------------------------------------------------------------------------------


def test_labels_are_bounded(harness: Harness) -> None:
    """Models, paths, fields and keys that nobody has heard of make no series of their own."""
    chance = random.Random(7)
    gateway = harness.gateway

    def word() -> str:
        return "".join(chance.choices(string.ascii_lowercase, k=12))

    def one_of_each() -> Response:
        harness.chat_over(answered(), model=word(), **{word(): 1})
        harness.chat_over(
            json_answer(404, {"message": f"model '{word()}' not found"}), model=f"cohere/{word()}/{word()}"
        )
        harness.chat_over(
            json_answer(422, {"message": word(), "error_type": word().upper()}),
            messages=[{"role": "user", "content": "x", word(): 1}],
        )
        harness.respond_with(PAGE)
        gateway.ask("GET", f"/v1/models/{word()}")
        gateway.ask("GET", f"/{word()}/{word()}?{word()}={word()}", headers={"authorization": f"Bearer {word()}"})
        return gateway.ask("DELETE", f"/v1/{word()}", headers={"x-api-key": word(), word(): word()})

    before = counted(gateway, one_of_each()).keys()
    for _ in range(29):
        last = one_of_each()
    after = counted(gateway, last)
    # The ledger writes its rows a moment after the answers.
    later = {one for one in after if one.startswith("gateway_ledger_rows_total")}
    assert after.keys() - before - later <= {one for one in after if "/metrics" in one or 'operation="metrics"' in one}
    assert after[requests(model="other")] == 30


def test_what_an_answer_says_is_no_label(harness: Harness) -> None:
    """Cohere's error types and finish reasons are words of somebody else's, too."""
    for number in range(5):
        harness.chat_over(json_answer(422, {"message": "x", "error_type": f"UPSTREAM_{number}"}))
        response = harness.chat_over(json_answer(422, {"message": "x", "error_type": f"upstream_{number}"}))
    result = counted(harness.gateway, response)
    assert len([one for one in result if one.startswith("gateway_upstream_errors_total")]) <= 1


# --- the log ----------------------------------------------------------------------------------------------------

ALWAYS = {"time", "request", "method", "path", "operation", "status", "outcome", "duration_ms"}
SOMETIMES = {
    *(
        "first_byte_ms",
        "upstream_ms",
        "model",
        "caller",
        "streamed",
        "error",
        "fault",
        "prompt_tokens",
        "completion_tokens",
    ),
    *("door", "notes", "cohere_trace", "estimated", "cost_nanodollars"),
}


def test_the_line_of_a_whole_answer(harness: Harness) -> None:
    answer = whole(usage={"tokens": {"input_tokens": 7, "output_tokens": 2}})
    harness.respond_with(json_answer(200, answer, {"x-debug-trace-id": "abc123"}))
    response = harness.gateway.chat(temperature=1.4)
    line = harness.gateway.log.line_of(response.headers["x-request-id"])
    moment = datetime.fromisoformat(line.pop("time"))
    assert moment.tzinfo is not None and abs((datetime.now(moment.tzinfo) - moment).total_seconds()) < WAIT_SECONDS
    assert 0 < line.pop("upstream_ms") <= line.pop("duration_ms") < 1000 * WAIT_SECONDS
    assert line == {
        "request": response.headers["x-request-id"],
        "method": "POST",
        "path": CHAT,
        "operation": "chat",
        "status": 200,
        "outcome": "ok",
        "model": A,
        "caller": "own key",
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "cost_nanodollars": None,  # Cohere has not said what it bills
        "notes": 1,
        "cohere_trace": "abc123",
    }


def test_the_line_of_a_stream(harness: Harness) -> None:
    response = harness.chat_over(
        (*event_stream(transcript(start(), opened(), piece("Hi"), done=False), ending=None), Cut()), stream=True
    )
    line = harness.gateway.log.line_of(response.headers["x-request-id"])
    assert line["streamed"] is True
    assert 0 < line["first_byte_ms"] <= line["duration_ms"]
    assert (line["status"], line["outcome"], line["error"]) == (200, "error", "upstream_cut")
    assert (line["completion_tokens"], line["estimated"]) == (1, True), "Cohere never said what it counted"


def test_one_line_a_request(harness: Harness) -> None:
    gateway = harness.gateway
    answers = [
        harness.chat_over(answered()),
        harness.chat_over(streamed(), stream=True),
        harness.chat_over(json_answer(429, {"message": "later"})),
        harness.chat_over((Cut(),)),
        harness.chat_over(answered(), temperature="hot"),
        gateway.post(b"{"),
        gateway.ask("GET", "/v1/nowhere"),
        gateway.ask("GET", CHAT),
        gateway.ask("POST", CHAT, b"{}", {}),
        gateway.ask("OPTIONS", CHAT, headers={"origin": "https://a", "access-control-request-method": "POST"}),
        gateway.ask("GET", "/health/live"),
        gateway.ask("GET", "/metrics"),
    ]
    lines = {line["request"]: line for line in gateway.log.lines}
    assert len(lines) == len(gateway.log.lines) == len(answers)
    assert [lines[response.headers["x-request-id"]]["status"] for response in answers] == [
        response.status for response in answers
    ]
    for line in lines.values():
        assert ALWAYS <= set(line) <= ALWAYS | SOMETIMES
        assert line["outcome"] in ("ok", "error")
        assert (line["outcome"] == "error") == ("error" in line)


def test_a_line_is_a_line(harness: Harness) -> None:
    """A caller's words may be in the path and the model: they cannot break out of the line."""
    for path in ("/v1/%0a%7b%22time%22%3a1%7d", "/v1/%e2%80%a8%22%5c", "/v1/" + "x" * 3_000, "/v1/%1b%5b31m"):
        response = harness.gateway.ask("GET", path)
        line = harness.gateway.log.line_of(response.headers["x-request-id"])
        assert len(line["path"]) <= 200
    response = harness.chat_over(answered(), model='x\n{"time": 1}\u2028"')
    harness.gateway.log.line_of(response.headers["x-request-id"])
    raw = harness.gateway.log.getvalue()
    assert b"\x1b" not in raw
    assert len(raw.splitlines()) == 5 and all(
        one.startswith(b'{"time":"') and one.endswith(b"}") for one in raw.splitlines()
    )


CONTROLS = "\x1b[2J\x7f\x9b31m\u202e\u2066\u200f\u2028\ufeff"
"""What clears a terminal, colours it, and turns the direction of its lines."""


def test_nothing_in_the_log_commands_a_terminal(harness: Harness) -> None:
    harness.respond_with(answered())
    response = harness.gateway.post({"model": f"a{CONTROLS}b", "messages": [{"role": "user", "content": "Hi"}]})
    harness.gateway.log.line_of(response.headers["x-request-id"])
    response = harness.gateway.ask("GET", "/v1/models/" + urllib.parse.quote("\x9b31m\u202eevil"))
    harness.gateway.log.line_of(response.headers["x-request-id"])
    text = harness.gateway.log.getvalue().decode()
    assert [one for one in text if not one.isprintable() and one != "\n"] == []
    assert r"\\u202e" in text and "evil" in text and "b" in text


def test_what_the_operator_reads_is_printable_too() -> None:
    out = io.BytesIO()
    Log(out=out).message(f"storage:{CONTROLS}\nsecond line")
    line = json.loads(out.getvalue())["message"]
    assert line.startswith(r"storage:\u001b[2J\u007f\u009b31m\u202e\u2066\u200f\u2028\ufeff") and line.endswith(
        "\nsecond line"
    )


def test_a_very_long_model_is_no_very_long_line(harness: Harness) -> None:
    response = harness.chat_over(answered(), model="x" * 100_000)
    assert response.status == 200
    assert len(str(harness.gateway.log.line_of(response.headers["x-request-id"]))) < 2_000


def test_the_demonstration_counts_as_well() -> None:
    with demonstration() as demo:
        response = counted(demo, demo.chat("Count to 5", stream=True))
        assert response[requests()] == 1
        assert response[series("gateway_tokens_total", operation="chat", model=A, direction="output")] > 0
        assert demo.log.lines[0]["caller"] == "demo"


def test_the_file_of_a_worker_that_begins_is_empty_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """prometheus_client makes the file, and gives it a size afterwards."""
    file = tmp_path / "counter_4711.db"
    file.touch()
    reads = 0

    def read_and_begin(texts: Any) -> bytes:
        nonlocal reads
        reads += 1
        if reads == 2:
            file.write_bytes(b"\0" * 64)
        return _read_all_workers(texts)

    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(metrics, "_read_all_workers", read_and_begin)
    assert (metrics._of_all_workers({}), reads) == (b"", 2)


def test_what_is_counted_until_a_sample_is_what_prometheus_would_have_counted() -> None:
    """Values at, below and above each bound; two samples, of which the second has nothing new."""
    own = Metrics(lambda model: True, ())
    bounds = own.duration.labels("chat")._upper_bounds
    values = [value for bound in bounds[:-1] for value in (bound * 0.999, bound, bound * 1.001)]
    registry = CollectorRegistry()
    plain = Histogram(
        "gateway_request_duration_seconds",
        own.duration._documentation,
        ["operation"],
        buckets=bounds,
        registry=registry,
    )
    requests = [
        RequestRecord("req", "POST", "/", 100.0, operation="chat", status=200, outcome="ok", prompt_tokens=7)
        for _ in values
    ]
    for record, value in zip(requests, values, strict=True):
        own.served(record, 100.0 + value)
        plain.labels("chat").observe(100.0 + value - 100.0)
    own.in_flight.added += 1
    texts = [own.exposition()[0].decode() for _ in range(2)]
    for text in texts:
        ours, theirs = (
            [line for line in one.splitlines() if "duration_seconds_" in line]
            for one in (text, generate_latest(registry).decode())
        )
        assert [line for line in ours if line.startswith("gateway_request_")] == theirs
        assert f'direction="input",model="",operation="chat"}} {7.0 * len(values)}' in text
        assert f'gateway_requests_total{{model="",operation="chat",outcome="ok",status="200"}} {len(values)}.0' in text
        assert "gateway_requests_in_flight 1.0" in text


def test_kinds_of_requests_that_count_in_one_series_count_in_one_number() -> None:
    """What is passed on each second grows with the series, and not with all statuses and outcomes."""
    own = Metrics(lambda model: True, ())
    assert len({id(own.observations(own.duration.labels("chat"))) for _ in range(2)}) == 1
    assert len({id(own.count(own.tokens.labels("chat", "m", "input").inc)) for _ in range(2)}) == 1
    assert own.count(own.tokens.labels("chat", "m", "input").inc) is not own.count(
        own.tokens.labels("chat", "m", "output").inc
    )


def test_a_worker_that_ends_passes_on_its_last_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collectors = []

    async def serve(applications: Any, grace: float, gateway: Any, *arguments: Any) -> None:
        collectors.append(gateway.metrics)
        request = RequestRecord("last", "POST", "/", 1.0, operation="chat", status=200, outcome="ok")
        gateway.metrics.served(request, 2.0)

    monkeypatch.setattr(worker, "serve", serve)
    monkeypatch.setattr(worker, "configure_interpreter", lambda: None)
    settings = Settings(cohere_api_key=["key"], database_url=f"sqlite:///{tmp_path}/gateway.db")
    start = WorkerStart(settings, SettingsSource(settings, lambda: settings))
    arguments: Any = None, start, None, None
    asyncio.run(worker._serve_gateway(*arguments))
    (family,) = (one for one in collectors[0].numbers() if one.name == "gateway_requests_total")
    assert [one.value for one in family.read() if one.labels.get("operation") == "chat"] == [1.0]
