"""OpenTelemetry against a receiver of OTLP: spans, metrics and logs of real requests, and nothing where it is off."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from gateway.observability import telemetry
from gateway.settings.schema import NamedUpstream, Retries, TracingSettings
from support import databases
from support.app import CHAT, SERVER_KEY, A, Harness, Response, answered, run_harness, streamed
from support.otlp_receiver import OtlpReceiver, attributes, otlp_receiver
from support.ports import free_port
from support.scripted_upstream import json_answer
from support.waiting import WAIT_SECONDS

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
SECRET_WORDS = "the unusual words of this prompt"
VARIABLES = {
    "OTEL_BSP_SCHEDULE_DELAY": "50",
    "OTEL_BLRP_SCHEDULE_DELAY": "50",
    "OTEL_METRIC_EXPORT_INTERVAL": "100",
    "OTEL_SERVICE_NAME": "gateway-under-test",
    "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
    "OTEL_EXPORTER_OTLP_HEADERS": "x-receiver-token=abc",
}
QUICK = Retries(count=1, initial_backoff=0.001, max_backoff=0.001)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    with otlp_receiver() as one:
        for name, value in {**VARIABLES, telemetry.ENDPOINT: one.url}.items():
            monkeypatch.setenv(name, value)
        yield one


@pytest.fixture
def harness(receiver: OtlpReceiver) -> Iterator[Harness]:
    with run_harness(cohere_api_key=[SERVER_KEY], retries=QUICK) as one:
        yield one


def span_of(receiver: OtlpReceiver, response: Response) -> Any:
    """The span of this answer."""
    wanted = response.headers["x-request-id"]

    def find() -> Any:
        return next((s for s in receiver.spans if attributes(s).get("cohere_gateway.request.id") == wanted), None)

    return receiver.wait_for(find)


def test_a_chat(harness: Harness, receiver: OtlpReceiver) -> None:
    response = harness.chat_over(answered("words of the answer"), SECRET_WORDS)
    span = span_of(receiver, response)
    assert (span.name, span.kind) == (f"chat {A}", 2)  # SPAN_KIND_SERVER
    assert (
        attributes(span).items()
        >= {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "cohere",
            "gen_ai.request.model": A,
            "gen_ai.response.model": A,
            "gen_ai.usage.input_tokens": 70,
            "gen_ai.usage.output_tokens": 3,
            "gen_ai.usage.cache_read.input_tokens": 16,
            "http.request.method": "POST",
            "http.response.status_code": 200,
            "url.path": CHAT,
            "cohere_gateway.outcome": "ok",
        }.items()
    )
    assert span.status.code == 0
    assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 60e9
    (event,) = span.events
    assert span.start_time_unix_nano <= event.time_unix_nano <= span.end_time_unix_nano
    assert attributes(event)["http.response.status_code"] == 200
    assert receiver.resource["service.name"] == "gateway-under-test"
    assert receiver.resource["deployment.environment.name"] == "test"
    assert receiver.headers["x-receiver-token"] == "abc"


@pytest.mark.parametrize(
    ("name", "resource", "expected"),
    [
        ("by-name", "service.name=by-attribute", "by-name"),
        ("", "service.name=by-attribute", "by-attribute"),
        ("", "service.name=", "cohere-gateway"),
        ("", "", "cohere-gateway"),
    ],
)
def test_the_environment_names_the_service(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, name: str, resource: str, expected: str
) -> None:
    """The order is OpenTelemetry's; the id of an instance is always the gateway's, as workers must not share one."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", name)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"service.version=7,service.instance.id=mine,{resource}")
    with run_harness(cohere_api_key=[SERVER_KEY]) as harness:
        span_of(receiver, harness.chat_over(answered()))
    assert (receiver.resource["service.name"], receiver.resource["service.version"]) == (expected, "7")
    assert receiver.resource["service.instance.id"] != "mine"


def test_a_stream(harness: Harness, receiver: OtlpReceiver) -> None:
    span = attributes(span_of(receiver, harness.chat_over(streamed(), stream=True)))
    assert span["gen_ai.request.stream"] is True
    assert 0 < span["gen_ai.response.time_to_first_chunk"] < 60


def test_attempts_are_events(harness: Harness, receiver: OtlpReceiver) -> None:
    harness.respond_with(json_answer(503, {"message": "x"}), answered())
    span = span_of(receiver, harness.gateway.chat())
    statuses = [attributes(event)["http.response.status_code"] for event in span.events]
    assert statuses == [503, 200]
    assert span.events[0].time_unix_nano <= span.events[1].time_unix_nano
    assert attributes(span)["cohere_gateway.retries"] == 1


def test_a_failure_of_coheres_is_an_error_and_a_callers_is_none(harness: Harness, receiver: OtlpReceiver) -> None:
    theirs = span_of(receiver, harness.chat_over(json_answer(500, {"message": "x"})))
    assert (theirs.status.code, attributes(theirs)["error.type"]) == (2, "upstream_error")
    ours = span_of(receiver, harness.chat_over(answered(), temperature="hot"))
    assert (ours.status.code, attributes(ours)["http.response.status_code"]) == (0, 400)
    assert attributes(ours)["error.type"]


def test_a_callers_trace_goes_on_here_and_not_at_cohere(harness: Harness, receiver: OtlpReceiver) -> None:
    harness.respond_with(answered())
    headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=1"}
    span = span_of(receiver, harness.gateway.chat(headers=headers))
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    native = {**headers, "content-type": "application/json", "authorization": f"Bearer {harness.gateway.key}"}
    body = b'{"model": "%s", "messages": [{"role": "user", "content": "x"}]}' % A.encode()
    harness.gateway.ask("POST", "/cohere/v2/chat", body, native)
    upstream_headers = [exchange.request.headers for exchange in harness.upstream.exchanges]
    assert len(upstream_headers) == 2
    assert not [one for one in upstream_headers if {"traceparent", "tracestate"} & {*one}]


def test_cohere_gets_our_trace_if_that_is_wanted(receiver: OtlpReceiver) -> None:
    with run_harness(cohere_api_key=[SERVER_KEY], tracing=TracingSettings(propagate=True)) as harness:
        harness.respond_with(answered())
        span = span_of(receiver, harness.gateway.chat(headers={"traceparent": TRACEPARENT}))
        headers = harness.upstream.exchanges[0].request.headers
    assert headers["traceparent"] == [f"00-{TRACE}-{span.span_id.hex()}-01"]


def test_a_trace_that_is_not_sampled_is_not_exported(harness: Harness, receiver: OtlpReceiver) -> None:
    harness.respond_with(answered())
    silent = harness.gateway.chat(headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    span_of(receiver, harness.gateway.chat())
    assert TRACE not in [span.trace_id.hex() for span in receiver.spans]
    assert "trace" not in harness.gateway.log.line_of(silent.headers["x-request-id"])


def test_metrics(harness: Harness, receiver: OtlpReceiver) -> None:
    harness.chat_over(streamed(), stream=True)
    expected = {
        *("gen_ai.client.operation.duration", "gen_ai.client.token.usage", "gen_ai.server.request.duration"),
        *("gen_ai.server.time_to_first_token", "gen_ai.server.time_per_output_token", "http.server.request.duration"),
        *("gateway_requests_total", "gateway_cost_usd_total", "process_resident_memory_bytes"),
    }
    receiver.wait_for(lambda: receiver.metrics.keys() >= expected)
    (point,) = receiver.metrics["gen_ai.client.operation.duration"].histogram.data_points
    assert point.count == 1
    assert attributes(point) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "cohere",
        "gen_ai.request.model": A,
    }
    tokens = receiver.metrics["gen_ai.client.token.usage"].histogram.data_points
    assert {attributes(one)["gen_ai.token.type"]: one.sum for one in tokens} == {"input": 4, "output": 2}
    assert receiver.metrics["gateway_requests_total"].sum.is_monotonic


def test_logs_have_the_trace(harness: Harness, receiver: OtlpReceiver) -> None:
    response = harness.chat_over(answered())
    span = span_of(receiver, response)
    wanted = response.headers["x-request-id"]
    record = receiver.wait_for(
        lambda: next((r for r in receiver.logs if attributes(r).get("cohere_gateway.request") == wanted), None)
    )
    assert (record.trace_id, record.span_id) == (span.trace_id, span.span_id)
    assert record.body.string_value == f"POST {CHAT} 200"
    assert harness.gateway.log.line_of(wanted)["trace"] == span.trace_id.hex()


def test_no_words_of_anybody_are_exported(harness: Harness, receiver: OtlpReceiver) -> None:
    response = harness.chat_over(answered("words of the answer"), SECRET_WORDS, user="somebody@example.com")
    span_of(receiver, response)
    receiver.wait_for(lambda: receiver.logs and receiver.metrics)
    for secret in (SECRET_WORDS, "words of the answer", SERVER_KEY, "somebody@example.com", "127.0.0.1"):
        assert secret not in receiver.raw


def test_exemplars_lead_from_a_metric_to_its_trace(harness: Harness, receiver: OtlpReceiver) -> None:
    span = span_of(receiver, harness.chat_over(answered()))
    harness.gateway.settle()
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    response = harness.gateway.ask("GET", "/metrics", headers=accept)
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert f'# {{trace_id="{span.trace_id.hex()}"}}' in response.data.decode()
    assert response.data.endswith(b"# EOF\n")
    assert "trace_id" not in harness.gateway.ask("GET", "/metrics", headers={}).data.decode()


def test_a_span_names_the_upstreams(receiver: OtlpReceiver) -> None:
    vault = NamedUpstream(
        base_url=f"http://127.0.0.1:{free_port()}", api_key=["k"], models=["command-a-*"], fall_back_to_default=True
    )
    with run_harness(cohere_api_key=[SERVER_KEY], retries=QUICK, upstreams={"vault": vault}) as one:
        span = span_of(receiver, one.chat_over(answered()))
    names = [attributes(event)["cohere_gateway.attempt.upstream"] for event in span.events]
    assert names[0] == "vault" and names[-1] == "default"
    assert attributes(span)["cohere_gateway.attempt.upstream"] == "default"


def test_a_response_in_the_background_has_a_span_of_its_own(receiver: OtlpReceiver, tmp_path: Path) -> None:
    with run_harness(cohere_api_key=[SERVER_KEY], retries=QUICK, database_url=databases.sqlite(tmp_path)) as one:
        one.respond_with(streamed("words"))
        body = {"model": A, "input": "Hi", "background": True, "stream": True}
        response = one.gateway.ask("POST", "/v1/responses", body)
        request = response.headers["x-request-id"]

        def find() -> Any:
            spans = [s for s in receiver.spans if attributes(s).get("cohere_gateway.request.id") == request]
            return spans if len(spans) == 2 else None

        spans = receiver.wait_for(find)
    by_tokens = {attributes(span).get("gen_ai.usage.output_tokens", 0): attributes(span) for span in spans}
    assert sorted(by_tokens) == [0, 3], "the request that began it, and the response"
    assert all(
        each["gen_ai.request.model"] == A and each["cohere_gateway.outcome"] == "ok" for each in by_tokens.values()
    )


def test_a_message_on_a_websocket_has_a_span(harness: Harness, receiver: OtlpReceiver) -> None:
    harness.respond_with(streamed("words"))
    headers = {"authorization": f"Bearer {harness.gateway.key}", "x-request-id": "socket"}
    url = harness.gateway.url.replace("http://", "ws://")
    with connect(f"{url}/v1/responses", additional_headers=headers, proxy=None) as connection:
        connection.send(json.dumps({"type": "response.create", "model": A, "input": "Hi"}))
        while json.loads(connection.recv(WAIT_SECONDS))["type"] != "response.completed":
            pass

    def find() -> Any:
        spans = (attributes(span) for span in receiver.spans)
        return next((s for s in spans if s.get("cohere_gateway.request.id") == "socket.1"), None)

    span = receiver.wait_for(find)
    assert (span["gen_ai.request.model"], span["gen_ai.usage.output_tokens"]) == (A, 3)


def test_probes_have_no_span(harness: Harness, receiver: OtlpReceiver) -> None:
    harness.gateway.ask("GET", "/health/live", headers={})
    harness.gateway.ask("GET", "/metrics", headers={})
    span_of(receiver, harness.chat_over(answered()))
    assert [span.name for span in receiver.spans] == [f"chat {A}"]


def test_a_receiver_that_is_away_disturbs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        **VARIABLES,
        telemetry.ENDPOINT: "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with run_harness(cohere_api_key=[SERVER_KEY]) as harness:
        assert harness.chat_over(answered()).status == 200
        assert harness.gateway.log.wait(lambda line: "OpenTelemetry" in line.get("message", ""))


# --- off, and not installed -----------------------------------------------------------------------------------

SIGNALS: tuple[tuple[dict[str, str], tuple[str, ...]], ...] = (
    ({}, ()),
    ({telemetry.ENDPOINT: "http://x"}, ("traces", "metrics", "logs")),
    ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, ("traces",)),
    ({telemetry.ENDPOINT: "http://x", "OTEL_LOGS_EXPORTER": "none"}, ("traces", "metrics")),
    ({telemetry.ENDPOINT: "http://x", "OTEL_SDK_DISABLED": "true"}, ()),
)


@pytest.mark.parametrize(("environment", "expected"), SIGNALS)
def test_what_is_exported(environment: dict[str, str], expected: tuple[str, ...]) -> None:
    assert telemetry.signals(environment) == expected


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gateway.observability.otlp", None)
    messages: list[str] = []
    assert telemetry.create({telemetry.ENDPOINT: "http://x"}, messages.append) is None
    assert messages == [telemetry.MISSING]
