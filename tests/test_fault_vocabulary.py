"""Whose fault a failure is: every error has one word for it, and every way to fail writes it down.

The same failure is asked for at both doors, whole and streamed; the log line has the fault, and so has the metric.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import ERRORS
from support.app import CHAT, SERVER_KEY, A, Harness, Response, end, run_harness, start, whole
from support.scripted_upstream import Reset, Script, event_stream, json_answer, transcript
from translators.answer.turn import FAILED_REASONS
from translators.core.faults import MEANINGS, Fault
from translators.core.upstream_errors import MODEL_NOT_FOUND, QUOTA, UPSTREAM_ERRORS

ROOT = Path(__file__).resolve().parents[1]
OWNERS = ("caller", "policy", "provider", "gateway")

# --- the tables ---------------------------------------------------------------------------------------------


def test_the_vocabulary_is_closed_and_explained() -> None:
    assert set(MEANINGS) == set(Fault)
    assert {fault.value.partition("_")[0] for fault in Fault} == set(OWNERS)


def test_every_error_has_a_fault() -> None:
    upstream = [meaning for row in UPSTREAM_ERRORS.values() for meaning in (row.own, row.server)]
    faults = [row.fault for row in ERRORS.values()] + [row.fault for row in (*upstream, QUOTA, MODEL_NOT_FOUND)]
    assert all(isinstance(fault, Fault) for fault in (*faults, *(row.fault for row in FAILED_REASONS.values())))


def test_a_request_that_cannot_be_served_is_not_coheres_fault() -> None:
    for name, row in ERRORS.items():
        owner = row.fault.value.partition("_")[0]
        if row.status in (400, 401, 404, 405, 408, 413, 414, 415, 431):
            assert owner == "caller", name


def test_a_share_that_is_used_up_is_no_rate() -> None:
    shares = [name for name in ERRORS if name.endswith("_share")]
    assert {"socket_share", "background_share", "memory_share"} <= set(shares)
    assert {ERRORS[name].fault for name in shares} == {Fault.POLICY_CAPACITY}


def test_every_failure_in_the_code_names_its_fault() -> None:
    """Failure has a default, for tests. The code itself must not lean on it."""
    for package in ("gateway", "translators"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Failure":
                    assert any(word.arg == "fault" for word in node.keywords), f"{path}:{node.lineno}"


# --- both doors ---------------------------------------------------------------------------------------------

# Cohere's status, its message -> the fault with the caller's own key, with the server's
REFUSALS: tuple[tuple[int, str, Fault, Fault], ...] = (
    (400, "no", Fault.CALLER_REQUEST, Fault.CALLER_REQUEST),
    (401, "no", Fault.CALLER_CREDENTIALS, Fault.GATEWAY_CREDENTIALS),
    (402, "no", Fault.PROVIDER_QUOTA, Fault.PROVIDER_QUOTA),
    (403, "no", Fault.CALLER_CREDENTIALS, Fault.GATEWAY_CREDENTIALS),
    (404, "no", Fault.CALLER_REQUEST, Fault.CALLER_REQUEST),
    (422, "no", Fault.CALLER_REQUEST, Fault.CALLER_REQUEST),
    (429, "slow down", Fault.PROVIDER_RATE_LIMIT, Fault.PROVIDER_RATE_LIMIT),
    (429, "1000 calls a month", Fault.PROVIDER_QUOTA, Fault.PROVIDER_QUOTA),
    (498, "no", Fault.PROVIDER_ANSWER, Fault.PROVIDER_ANSWER),
    (499, "no", Fault.PROVIDER_UNAVAILABLE, Fault.PROVIDER_UNAVAILABLE),
    (500, "no", Fault.PROVIDER_UNAVAILABLE, Fault.PROVIDER_UNAVAILABLE),
    (503, "no", Fault.PROVIDER_UNAVAILABLE, Fault.PROVIDER_UNAVAILABLE),
    (504, "no", Fault.PROVIDER_TIMEOUT, Fault.PROVIDER_TIMEOUT),
)
NATIVE = "/cohere/v2/chat"
BODY = {"model": A, "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def own() -> Iterator[Harness]:
    with run_harness() as harness:
        yield harness


@pytest.fixture(scope="module")
def server() -> Iterator[Harness]:
    # An own key of its own each time: one that Cohere refused is not used again for a while.
    with run_harness(cohere_api_key=[f"{SERVER_KEY}-{number}" for number in range(200)]) as harness:
        yield harness


def line_of(harness: Harness, answer: Response) -> dict[str, Any]:
    return harness.gateway.log.line_of(answer.headers["x-request-id"])


@pytest.mark.parametrize(("status", "message", "own_fault", "_"), REFUSALS)
@pytest.mark.parametrize("path", [CHAT, NATIVE])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_what_cohere_refuses(
    own: Harness, path: str, status: int, message: str, own_fault: Fault, _: Fault, streamed: bool
) -> None:
    own.respond_with(json_answer(status, {"message": message}))
    line = line_of(own, own.gateway.ask("POST", path, {**BODY, "stream": streamed}))
    assert (line["fault"], line["outcome"]) == (own_fault, "error")
    assert line["error"]


@pytest.mark.parametrize(("status", "message", "_", "server_fault"), REFUSALS)
@pytest.mark.parametrize("path", [CHAT, NATIVE])
def test_what_cohere_refuses_the_server(
    server: Harness, path: str, status: int, message: str, _: Fault, server_fault: Fault
) -> None:
    server.respond_with(json_answer(status, {"message": message}))
    assert line_of(server, server.gateway.ask("POST", path, BODY))["fault"] == server_fault


STRANGE_EVENT = {"type": "content-start", "index": "first"}

# what Cohere does after 200, whole or streamed -> the fault
ANSWERS: tuple[tuple[str, Script, bool, Fault], ...] = (
    ("not its protocol", json_answer(200, {"id": 1}), False, Fault.PROVIDER_ANSWER),
    ("a failed ending", json_answer(200, whole(finish="ERROR")), False, Fault.PROVIDER_UNAVAILABLE),
    ("a failed ending in a stream", event_stream(transcript(start(), end("ERROR"))), True, Fault.PROVIDER_UNAVAILABLE),
    ("a late ending in a stream", event_stream(transcript(start(), end("TIMEOUT"))), True, Fault.PROVIDER_TIMEOUT),
    ("a stream that is cut", event_stream(transcript(start())), True, Fault.PROVIDER_UNAVAILABLE),
    ("an event of another shape", event_stream(transcript(start(), STRANGE_EVENT)), True, Fault.PROVIDER_ANSWER),
    ("a connection that breaks", (Reset(),), False, Fault.PROVIDER_UNAVAILABLE),
)


@pytest.mark.parametrize(("script", "streamed", "fault"), [row[1:] for row in ANSWERS], ids=[row[0] for row in ANSWERS])
def test_what_cohere_does_instead_of_an_answer(own: Harness, script: Script, streamed: bool, fault: Fault) -> None:
    own.respond_with(script)
    assert line_of(own, own.gateway.ask("POST", CHAT, {**BODY, "stream": streamed}))["fault"] == fault


# path, body, headers -> the fault of a request that never reaches Cohere
REQUESTS: tuple[tuple[str, bytes, dict[str, str], Fault], ...] = (
    (CHAT, b"{", {}, Fault.CALLER_REQUEST),
    (CHAT, b"{}", {}, Fault.CALLER_REQUEST),
    (CHAT, b"{}", {"content-type": "text/plain"}, Fault.CALLER_REQUEST),
    (CHAT, b"{}", {"authorization": ""}, Fault.CALLER_CREDENTIALS),
    (CHAT, b"{}", {"x-api-key": "another"}, Fault.CALLER_CREDENTIALS),
    ("/v1/nowhere", b"{}", {}, Fault.CALLER_REQUEST),
    ("/v1/images/generations", b"{}", {}, Fault.CALLER_REQUEST),
    ("/v1/models", b"{}", {}, Fault.CALLER_REQUEST),
    (CHAT, b"{}", {"x-gateway-cache-ttl": "soon"}, Fault.CALLER_REQUEST),
)


@pytest.mark.parametrize(("path", "body", "headers", "fault"), REQUESTS)
def test_what_the_caller_did(own: Harness, path: str, body: bytes, headers: dict[str, str], fault: Fault) -> None:
    usual = {"authorization": f"Bearer {own.gateway.key}", "content-type": "application/json"}
    answer = own.gateway.ask("POST", path, body, usual | headers)
    assert answer.status >= 400
    assert line_of(own, answer)["fault"] == fault


def test_a_success_has_no_fault(own: Harness) -> None:
    assert "fault" not in line_of(own, own.chat_over(json_answer(200, whole())))


def test_the_metric_has_the_same_words(own: Harness) -> None:
    own.chat_over(json_answer(404, {"message": "no"}))
    series = [name for name in own.gateway.metrics() if name.startswith("gateway_failures_total")]
    lines = [line for line in own.gateway.log.lines if line.get("fault")]
    labels = {tuple(sorted(re.findall(r'(\w+)="(\w+(?:\.\w+)*)"', name))) for name in series}
    assert {(("fault", line["fault"]), ("operation", line["operation"])) for line in lines} <= labels
