"""The pass-through on the wire: what Cohere is sent, what comes back, and when, byte for byte.

The SDK on it is in test_cohere_sdk.py, what its parts know in test_passthrough.py.
"""

from __future__ import annotations

import gzip
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from gateway.cohere_methods import VERBS
from gateway.settings.schema import GlobalLimits, Models, Retries, Timeouts, UpstreamSettings
from gateway.upstream import response
from gateway.upstream.session import USER_AGENT
from support.app import (
    CALLER_KEY,
    MASTER_KEY,
    SERVER_KEY,
    A,
    Gateway,
    Harness,
    Response,
    gateway_over,
    run_harness,
    story,
    whole,
)
from support.asgi_server import raw_request
from support.ports import free_port
from support.recordings import ABSENT, FOLDER, recordings
from support.scripted_upstream import (
    Chunk,
    Cut,
    End,
    Head,
    Pause,
    Reset,
    Script,
    ScriptedUpstream,
    Signal,
    Write,
    compact_json,
    event_stream,
    json_answer,
    transcript,
)
from support.waiting import WAIT_SECONDS
from translators.core.model_names import SUCCESSORS

SOON = 30.0
SERVERS: dict[str, Any] = {"cohere_api_key": [SERVER_KEY]}
OK = json_answer(200, {"ok": True})
V2 = "/cohere/v2/chat"
REQUEST_HEADERS = {"model": A, "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture(scope="module")
def own() -> Iterator[Harness]:
    """Callers bring Cohere keys of their own."""
    with run_harness() as harness:
        yield harness


@pytest.fixture(scope="module")
def open_mode() -> Iterator[Harness]:
    """The server's key serves everybody."""
    with run_harness(**SERVERS) as harness:
        yield harness


def message(response: Response) -> str:
    """Cohere's error shape, with the code of an error of ours; AssertionError if it is anything else."""
    assert response.headers["content-type"] == "application/json", response
    assert list(response.body) in (["message"], ["message", "code"]), response
    return str(response.body["message"])


# --- what goes to Cohere ------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "HEAD"])
def test_a_verb_its_query_and_its_body_arrive(own: Harness, verb: str) -> None:
    own.respond_with(OK)
    body = b'{ "a" : 1.00, "b":"\\u00e9" }' if verb not in ("GET", "OPTIONS") else None
    response = own.gateway.ask(verb, "/cohere/v1/connectors/a%2Fb?x=%2F&x=2&y=a+b&z", body)
    (request,) = own.upstream.requests
    assert (response.status, response.body) == (200, {"ok": True})
    assert (request.method, request.path) == (verb, "/v1/connectors/a%2Fb?x=%2F&x=2&y=a+b&z")
    assert request.body == (body or b"")
    assert ("content-length" in request.headers) is (body is not None)


def test_head_has_the_length_and_no_body(own: Harness) -> None:
    own.respond_with((Head(200, (("content-type", "application/json"), ("content-length", "77")), "none"),))
    response = own.gateway.ask("HEAD", "/cohere/v1/models")
    assert (response.status, response.headers["content-length"], response.data) == (200, "77", b"")
    assert own.upstream.requests[0].method == "HEAD"


@pytest.mark.parametrize("verb", ["TRACE", "PROPFIND"])
def test_a_verb_that_is_not_passed_on(own: Harness, verb: str) -> None:
    own.respond_with(OK)
    response = own.gateway.ask(verb, "/cohere/v1/models")
    assert (response.status, message(response)) == (405, "This method is not passed on")
    assert response.headers["allow"] == ", ".join(VERBS) and not own.upstream.requests


def test_a_post_without_a_body_says_so(own: Harness) -> None:
    own.respond_with(OK)
    assert own.gateway.ask("POST", "/cohere/v1/check-api-key", headers={"authorization": "Bearer k"}).status == 200
    (request,) = own.upstream.requests
    assert request.headers["content-length"] == ["0"] and "content-type" not in request.headers


PASSED_ON = {
    "accept": "application/stream+json",
    "accepts": "text/event-stream",
    "content-type": "application/json; charset=utf-8",
    "user-agent": "cohere/7.3.1",
    "x-client-name": "my app, caf\u00e9",
    "x-fern-language": "Python",
    "cohere-version": "2022-12-06",
    "x-anything": "a, b",
    "idempotency-key": "7",
    "if-none-match": '"x"',
}
HELD_BACK = {
    "cookie": "session=1",
    "x-api-key": CALLER_KEY,
    "api-key": CALLER_KEY,
    "proxy-authorization": "Basic x",
    "connection": "x-hop, keep-alive",
    "x-hop": "1",
    "keep-alive": "timeout=5",
    "te": "trailers",
    "upgrade": "foo",
    "x-forwarded-for": "10.0.0.1",
    "x-forwarded-host": "evil.example",
    "forwarded": "for=10.0.0.1",
    "via": "1.1 proxy",
    "x-real-ip": "10.0.0.1",
    "origin": "https://page.example",
    "referer": "https://page.example/secret",
    "sec-fetch-mode": "cors",
    "x-request-id": "mine",
    "x-gateway-strict": "true",
    # credentials of other gateways
    "x-litellm-api-key": "Bearer sk-1234",
    "x-litellm-tags": "a,b",
    "x-bf-vk": "sk-bf-1",
    "x-bf-api-key": "1",
    "x-portkey-api-key": "pk-1",
    "x-portkey-virtual-key": "vk-1",
    "x-goog-api-key": "AIza1",
    "cf-aig-authorization": "Bearer 1",
    "cf-access-client-secret": "1",
    "helicone-auth": "Bearer 1",
    "x-tfy-api-key": "1",
    "apikey": "1",
    "ocp-apim-subscription-key": "1",
    "x-auth-token": "1",
    "x-amz-security-token": "1",
    "x-amzn-oidc-accesstoken": "1",
}


@pytest.mark.parametrize("servers", [False, True], ids=["own key", "the server's key"])
def test_the_headers_that_cohere_gets(own: Harness, open_mode: Harness, servers: bool) -> None:
    on = open_mode if servers else own
    on.respond_with(OK)
    utf8 = {name: value.encode().decode("latin-1") for name, value in PASSED_ON.items()}
    arguments = {"authorization": f"bearer {CALLER_KEY}"} | utf8 | HELD_BACK
    if servers:
        del arguments["origin"]  # where no key is needed, no page may call
    assert on.gateway.ask("POST", V2, REQUEST_HEADERS, arguments).status == 200
    (request,) = on.upstream.requests
    key = SERVER_KEY if servers else CALLER_KEY
    host = on.upstream.url.removeprefix("http://")
    length = str(len(json.dumps(REQUEST_HEADERS)))
    expected = utf8 | {"authorization": f"Bearer {key}", "host": host, "content-length": length}
    assert {name: values for name, values in request.headers.items()} == {
        name: [value] for name, value in expected.items()
    }


@pytest.mark.parametrize("header", ["x-api-key", "api-key", "authorization"])
def test_an_own_key_goes_as_bearer_token(own: Harness, header: str) -> None:
    own.respond_with(OK)
    own.gateway.ask("GET", "/cohere/v1/models", headers={header: "a-key"})
    assert own.upstream.requests[0].headers["authorization"] == ["Bearer a-key"]


@pytest.mark.parametrize(
    ("accepted", "streamed", "expected"),
    [
        (None, False, None),
        ("gzip, deflate, br, zstd", False, "gzip"),
        ("br", False, "identity"),
        ("identity", False, "identity"),
        ("gzip, deflate", True, "identity"),
    ],
)
def test_the_compression_that_is_requested(
    own: Harness, accepted: str | None, streamed: bool, expected: str | None
) -> None:
    own.respond_with(OK)
    headers = {"authorization": "Bearer k"} | ({"accept-encoding": accepted} if accepted else {})
    own.gateway.ask("POST", V2, {**REQUEST_HEADERS, "stream": streamed}, headers)
    assert own.upstream.requests[0].headers.first("accept-encoding") == expected


def test_the_alias_is_put_into_coheres_words_and_nothing_else_is(own: Harness) -> None:
    body = {"model": "command-r-plus", "tool_choice": "AUTO", "safety_mode": "NONE", "log_probs": True, "x": 1}
    own.respond_with(OK)
    response = own.gateway.ask("POST", "/litellm/cohere/v1/v2/chat", body)
    assert own.upstream.requests[0].json() == {
        "model": "command-r-plus-08-2024", "safety_mode": "OFF", "x": 1, "logprobs": True
    }  # fmt: skip
    assert response.headers["x-gateway-notes"] == (
        "log_probs sent as logprobs; tool_choice AUTO left out; safety_mode NONE sent as OFF; "
        "model command-r-plus -> command-r-plus-08-2024"
    )
    body["model"] = A
    for path in ("/cohere/v2/chat", "/litellm/cohere/v1/chat", "/litellm/cohere/v2/embed"):
        own.respond_with(OK)
        response = own.gateway.ask("POST", path, body)
        assert own.upstream.requests[0].body == json.dumps(body).encode(), path
        assert "x-gateway-notes" not in response.headers


@pytest.mark.parametrize(
    ("path", "model", "served", "note"),
    [
        ("/litellm/cohere/v2/embed", "cohere/embed-5-pro", "embed-v5.0-pro", ""),
        ("/litellm/cohere/v1/rerank", "ours", "rerank-v3.5", "model ours -> rerank-v3.5"),
        ("/litellm/cohere/v1/chat", "command-r", "command-r-08-2024", "model command-r -> command-r-08-2024"),
        ("/cohere/v1/chat", "command-r", "command-r-08-2024", "model command-r -> command-r-08-2024"),
        ("/cohere/v2/rerank", "rerank-english-v2.0", "rerank-v3.5", "model rerank-english-v2.0 -> rerank-v3.5"),
        ("/cohere/v2/rerank", "ours", "ours", ""),
        ("/cohere/v2/chat", "cohere/command-r", "cohere/command-r", ""),
        ("/cohere/v2/embed", "embed-english-v2.0", "embed-english-v2.0", ""),
    ],
)
def test_the_models_that_cohere_gets(path: str, model: str, served: str, note: str) -> None:
    with run_harness(models=Models(aliases={"ours": "rerank-v3.5"})) as on:
        on.respond_with(OK)
        headers = {"authorization": "Bearer k", "content-type": "application/json", "x-request-id": "named"}
        response = on.gateway.ask("POST", path, {"model": model, "x": 1}, headers)
        assert on.upstream.requests[0].json() == {"model": served, "x": 1}
        assert response.headers.get("x-gateway-notes", "") == note
        assert on.gateway.log.line_of("named")["model"] == served


def test_removed_models_stay_where_successors_are_switched_off() -> None:
    with run_harness(models=Models(successors=False)) as on:
        on.respond_with(OK)
        on.gateway.ask("POST", "/cohere/v2/chat", {"model": "command-r"})
        assert on.upstream.requests[0].json() == {"model": "command-r"}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_errors_on_the_alias_carry_type_and_code(own: Harness, packed: bool) -> None:
    """Beside Cohere's message and id, which stay as they came; on `/cohere` nothing is added."""
    body = json.dumps({"id": "e1", "message": "model 'x' not found, make sure the correct model ID was used"}).encode()
    headers = {"content-encoding": "gzip"} if packed else {}
    refused = json_answer(404, gzip.compress(body) if packed else body, headers)
    own.respond_with(refused)
    response = own.gateway.ask("POST", "/litellm/cohere/v2/chat", REQUEST_HEADERS)
    assert response.status == 404 and response.headers["content-type"] == "application/json"
    assert response.body == {**json.loads(body), "type": "invalid_request_error", "code": "model_not_found"}
    own.respond_with(refused)
    response = own.gateway.ask("POST", "/cohere/v2/chat", REQUEST_HEADERS)
    assert (gzip.decompress(response.data) if packed else response.data) == body
    own.respond_with(json_answer(503, b"<html>"))
    assert own.gateway.ask("POST", "/litellm/cohere/v2/chat", REQUEST_HEADERS).data == b"<html>"


def test_a_header_of_the_operators_is_not_the_callers() -> None:
    """Say a tenant, or the key of a proxy in between."""
    settings = UpstreamSettings(headers={"X-Tenant": "ours", "User-Agent": "us"})
    with run_harness(upstream=settings) as on:
        on.respond_with(OK)
        headers = {"authorization": "Bearer k", "x-tenant": "theirs", "user-agent": "them", "x-other": "theirs"}
        assert on.gateway.ask("GET", "/cohere/v1/models", headers=headers).status == 200
        request = on.upstream.requests[0].headers
        assert (request["x-tenant"], request["user-agent"], request["x-other"]) == (["ours"], ["us"], ["theirs"])


def test_a_second_connection_header_counts_as_well(own: Harness) -> None:
    own.respond_with(OK)
    lines = (
        b"GET /cohere/v1/models HTTP/1.1",
        b"host: localhost",
        b"authorization: Bearer k",
        b"x-one: 1",
        b"x-two: 2",
        b"x-three: 3",
    )
    raw_request(
        *own.gateway.address,
        b"\r\n".join((*lines, b"connection: x-one, x-three", b"connection: X-Two, close", b"", b"")),
    )
    request = own.upstream.requests[0]
    assert {"x-one", "x-two", "x-three", "connection"}.isdisjoint(request.headers)
    assert request.headers["user-agent"] == [USER_AGENT], "for a caller who has none"


def test_a_base_url_with_a_path_is_never_left() -> None:
    with ScriptedUpstream(OK).run_in_thread() as upstream, gateway_over(f"{upstream.url}/some/prefix") as gateway:
        assert gateway.ask("GET", "/cohere/v1/models/a%2Fb?x").status == 200
        assert gateway.ask("GET", "/cohere/v1/../../x").status == 400
        assert gateway.ask("GET", "/cohere/v1/%2e%2e/%2e%2e/x").status == 400
        assert [request.path for request in upstream.requests] == ["/some/prefix/v1/models/a%2Fb?x"]


# Targets as raw bytes: the status, and what Cohere is asked, if anything.
TARGETS: list[tuple[bytes, int, str]] = [
    (b"/cohere/v1/models", 200, "/v1/models"),
    (b"/cohere//v1/models", 200, "/v1/models"),
    (b"/cohere/v1/models/x%2F..y", 200, "/v1/models/x%2F..y"),
    (b"/cohere/v1/models?next=http://evil.example/../%00", 200, "/v1/models?next=http://evil.example/../%00"),
    (b"/cohere/../v1/models", 400, ""),
    (b"/cohere/%2e%2e/v1/models", 400, ""),
    (b"/cohere/v1/..%2fmodels", 400, ""),
    (b"/cohere/v1/models%2f%2e%2e%2fchat", 400, ""),
    (b"/cohere/v1\\models", 400, ""),
    (b"/cohere/v1/x%5c..%5cy", 400, ""),
    (b"/cohere/v1//models", 400, ""),
    (b"/cohere/http://evil.example/", 400, ""),
    (b"/cohere//evil.example/", 200, "/evil.example/"),
    (b"/cohere/@evil.example/", 200, "/@evil.example/"),
    (b"/cohere/v1/models%00", 400, ""),
    (b"/cohere/v1/models%0d%0ax:1", 400, ""),
    (b"/cohere/v1/models#x", 400, ""),
    (b"/cohere/v1%2fmodels", 400, ""),
    (b"/%63ohere/v1/models", 404, ""),
    (b"//cohere/v1/models", 404, ""),
    (b"/x/../cohere/v1/models", 404, ""),
    (b"/./cohere/v1/models", 404, ""),
    (b"http://evil.example/cohere/v1/models", 200, "/v1/models"),  # RFC 9112, section 3.2.2
    (b"/coherent/v1/models", 404, ""),
    (b"/cohere/v1/models\x00", 400, ""),
    (b"/cohere/v1/mod\xe9ls", 400, ""),
    (b"/cohere/v1/mod els", 400, ""),
]


@pytest.mark.parametrize(("target", "status", "requested"), TARGETS, ids=[repr(row[0]) for row in TARGETS])
def test_a_target_as_raw_bytes(own: Harness, target: bytes, status: int, requested: str) -> None:
    own.respond_with(OK)
    request = b"GET %s HTTP/1.1\r\nhost: evil.example\r\nauthorization: Bearer k\r\nconnection: close\r\n\r\n" % target
    answer = raw_request(*own.gateway.address, request)
    assert int(answer.split(b" ", 2)[1]) == status, answer
    assert [one.path for one in own.upstream.requests] == ([requested] if requested else [])


# --- what comes back ----------------------------------------------------------------------------------------

BODIES: list[tuple[int, str, bytes]] = [
    (200, "application/json", b'{"b": 1,\n"a": "\\u003c"}'),
    (201, "application/json", b"{}"),
    (202, "text/plain", b""),
    (302, "text/html", b"moved"),
    (400, "application/json", b'{"id":"x","message":"invalid request: no"}'),
    (404, "text/plain", b"404 page not found"),
    (409, "application/json", b'{"message":"x"}'),
    (422, "application/json", b'{"error_type":"NO_VALID_RESPONSE_GENERATED","message":"x"}'),
    (429, "application/json", b'{"message":"Trial key"}'),
    (498, "application/json", b'{"message":"blocked"}'),
    (499, "application/json", b'{"message":"request cancelled"}'),
    (500, "text/html", b"<html>\xff\x00</html>"),
    (502, "text/html", b""),
    (599, "application/octet-stream", bytes(range(256)) * 1000),
]


@pytest.mark.parametrize(("status", "kind", "body"), BODIES, ids=[str(row[0]) for row in BODIES])
def test_an_answer_comes_back_as_it_is(own: Harness, status: int, kind: str, body: bytes) -> None:
    own.respond_with(json_answer(status, body, (("content-type", kind), ("retry-after", "7"))))
    response = own.gateway.ask("POST", "/cohere/v2/embed", REQUEST_HEADERS)
    assert (response.status, response.data, response.headers["content-type"]) == (status, body, kind)
    assert (response.headers["content-length"], response.headers["retry-after"]) == (str(len(body)), "7")


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_has_no_body(own: Harness, status: int) -> None:
    own.respond_with((Head(status, (("x-debug-trace-id", "t"),), "none"),))
    response = own.gateway.ask("GET", "/cohere/v1/models")
    assert (response.status, response.data, response.headers["x-cohere-trace-id"]) == (status, b"", "t")


RETURNED = {
    "x-debug-trace-id": "0a25",
    "num_chars": "7",
    "num_tokens": "9",
    "x-api-warning": "unknown field",
    "x-trial-endpoint-call-limit": "20",
    "x-trial-endpoint-call-remaining": "19",
    "x-endpoint-monthly-call-limit": "1000",
    "cache-control": "no-cache",
    "etag": '"x"',
    "location": "https://elsewhere.example/",
    "server": "envoy",
    "via": "1.1 google",
    "vary": "Origin,Accept-Encoding",
}
NOT_RETURNED = {
    "set-cookie": "session=1",
    "connection": "x-hop",
    "x-hop": "1",
    "keep-alive": "timeout=5",
    "alt-svc": 'h3=":443"',
    "strict-transport-security": "max-age=1",
    "access-control-allow-origin": "*",
    "access-control-expose-headers": "X-Debug-Trace-ID",
    "x-gateway-cost-usd": "0",
    "x-request-id": "theirs",
    "date": "Thu, 01 Jan 1970 00:00:00 GMT",
}


def test_the_headers_that_the_caller_gets(own: Harness) -> None:
    own.respond_with(json_answer(200, b"{}", tuple((RETURNED | NOT_RETURNED).items())))
    response = own.gateway.ask(
        "GET", "/cohere/v1/models", headers={"authorization": "Bearer k", "x-request-id": "mine"}
    )
    date = response.headers.pop("date")
    assert not date.startswith("Thu, 01 Jan 1970")
    assert response.headers.pop("x-gateway-attempts") == "1"
    assert response.headers.pop("x-gateway-log-id") and float(response.headers.pop("x-gateway-overhead-ms")) >= 0
    ours = {"content-type": "application/json", "content-length": "2", "x-request-id": "mine"}
    assert response.headers == RETURNED | ours | {"x-cohere-trace-id": "0a25"}


def test_a_header_that_comes_twice_stays_twice(own: Harness) -> None:
    own.respond_with(json_answer(200, b"{}", (("x-api-warning", "one"), ("x-api-warning", "two"))))
    connection = http.client.HTTPConnection(*own.gateway.address, timeout=WAIT_SECONDS)
    connection.request("GET", "/cohere/v1/models", headers={"authorization": "Bearer k"})
    assert connection.getresponse().headers.get_all("x-api-warning") == ["one", "two"]
    connection.close()


def test_a_compressed_answer_is_not_unpacked_but_counted(own: Harness) -> None:
    packed = gzip.compress(compact_json(whole()))
    own.respond_with(json_answer(200, packed, (("content-type", "application/json"), ("content-encoding", "gzip"))))
    headers = {"authorization": "Bearer k", "accept-encoding": "gzip", "x-request-id": "packed"}
    response = own.gateway.ask("POST", V2, REQUEST_HEADERS, headers)
    assert (response.data, response.headers["content-encoding"]) == (packed, "gzip")
    assert response.headers["content-length"] == str(len(packed))
    line = own.gateway.log.line_of("packed")
    assert (line["prompt_tokens"], line["completion_tokens"]) == (70, 3)


def packed(status: int, text: str) -> Script:
    headers = (("content-type", "application/json"), ("content-encoding", "gzip"))
    return json_answer(status, gzip.compress(compact_json({"message": text})), headers)


@pytest.mark.parametrize(
    ("status", "text", "expected", "disabled"),
    [
        (403, "model 'command-x' is not yours", 404, 0),
        (429, "You are past the per-month request limit for this model, please wait and try again later.", 429, 1),
    ],
)
def test_a_compressed_refusal_is_read(status: int, text: str, expected: int, disabled: int) -> None:
    """What becomes of the key, and what the caller hears of it, goes by the text."""
    with run_harness(**SERVERS, retries=Retries(count=1, initial_backoff=0.01)) as on:
        on.respond_with(packed(status, text))
        response = on.gateway.ask(
            "POST", V2, REQUEST_HEADERS, {"accept-encoding": "gzip", "content-type": "application/json"}
        )
        assert (response.status, len(on.upstream.requests)) == (expected, 1)
        assert on.gateway.metrics()["gateway_upstream_keys_disabled"] == disabled


def test_a_refusal_that_claims_to_be_compressed(own: Harness) -> None:
    own.respond_with(json_answer(403, b"no gzip", (("content-type", "text/plain"), ("content-encoding", "gzip"))))
    response = own.gateway.ask("POST", V2, REQUEST_HEADERS)
    assert (response.status, response.data) == (403, b"no gzip")


def test_what_was_retried_is_noted() -> None:
    with run_harness(**SERVERS, retries=Retries(initial_backoff=0.01)) as on:
        on.respond_with(json_answer(503, b"{}"), OK)
        response = on.gateway.ask("POST", V2, REQUEST_HEADERS)
        assert (response.status, response.headers["x-gateway-notes"]) == (200, "asked Cohere again: 503")
        assert on.gateway.log.line_of(response.headers["x-request-id"])["retries"] == 1


@pytest.mark.parametrize("servers", [False, True], ids=["own key", "the server's key"])
@pytest.mark.parametrize(
    ("status", "text", "expected", "visible"),
    [
        (401, "invalid api token", 502, "The gateway's own Cohere key was refused; its operator has been told"),
        (403, "forbidden", 502, "The gateway's own Cohere key was refused; its operator has been told"),
        (403, "model 'x' needs access", 404, "model 'x' needs access"),
        (402, "Please add a payment method", 429, "Please add a payment method"),
    ],
)
def test_a_key_that_cohere_refuses(
    own: Harness, open_mode: Harness, servers: bool, status: int, text: str, expected: int, visible: str
) -> None:
    """Callers are told the truth about a key of theirs, and the operator about the server's."""
    on = open_mode if servers else own
    on.respond_with(json_answer(status, {"message": text}))
    response = on.gateway.ask("POST", V2, REQUEST_HEADERS)
    assert (response.status, message(response)) == ((expected, visible) if servers else (status, text))
    assert SERVER_KEY not in str(response)
    if servers and expected != 404:
        on.gateway.log.wait(lambda line: "own key" in line.get("message", ""))


# --- the gateway's own errors -------------------------------------------------------------------------------


def test_errors_of_the_gateways_own_have_coheres_shape() -> None:
    timeouts = Timeouts(first_event=1.0, request_body=1.0)
    with run_harness(timeouts=timeouts, body_limit=2_000, upload_limit=100_000) as on:
        ask, bearer = on.gateway.ask, {"authorization": "Bearer k"}
        on.respond_with((Pause(30),))
        response = ask("POST", V2, REQUEST_HEADERS)
        assert (response.status, message(response)) == (504, "Cohere did not answer in time")
        on.respond_with((Cut(),))
        response = ask("POST", V2, REQUEST_HEADERS)
        assert (response.status, message(response)) == (
            502,
            "The connection to Cohere broke before the answer was complete",
        )
        assert message(ask("POST", V2, REQUEST_HEADERS, {})).startswith("The API key is missing")
        assert ask("POST", V2, REQUEST_HEADERS, {}).status == 401
        two = {"authorization": "Bearer a", "x-api-key": "b"}
        assert (ask("GET", V2, headers=two).status, message(ask("GET", V2, headers=two))) == (
            400,
            "The request has two different API keys",
        )
        for body, path in ((b"x" * 2_001, V2), (b"x" * 100_001, "/cohere/v1/datasets"), (b"x" * 100_001, "/cohere/x")):
            response = ask("POST", path, body)
            assert response.status == 413 and "larger than" in message(response)
        for path in ("/cohere", "/cohere%2Fx"):
            response = ask("GET", path, headers=bearer)
            assert (response.status, message(response)) == (404, "There is nothing at this URL")
        assert ask("GET", "/litellm/cohere", headers=bearer).body == {
            "message": "There is nothing at this URL", "type": "invalid_request_error", "code": "unknown_url"
        }  # fmt: skip
        assert ask("GET", "/coherent", headers=bearer).error["code"] == "unknown_url"
        for path in (V2, "/cohere/v1/datasets"):
            slow = head_of(path, 100).replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n{")
            answer = raw_request(*on.gateway.address, slow, timeout=WAIT_SECONDS)
            assert b" 408 " in answer.split(b"\r\n")[0] and answer.endswith(
                b'{"message":"The body of the request arrived too slowly","code":"request_timeout"}'
            ), answer


def test_an_upstream_that_is_not_there() -> None:
    port = free_port()
    with gateway_over(f"http://127.0.0.1:{port}") as gateway:
        response = gateway.ask("POST", V2, REQUEST_HEADERS)
        assert (response.status, message(response)) == (502, "Cohere could not be reached")


def test_virtual_keys_hold_on_native_routes(open_mode: Harness) -> None:
    with run_harness(key=MASTER_KEY, master_key=MASTER_KEY, **SERVERS) as on:
        on.respond_with(OK)
        assert on.gateway.ask("GET", "/cohere/v1/models").status == 200
        assert on.upstream.requests[0].headers["authorization"] == [f"Bearer {SERVER_KEY}"]
        response = on.gateway.ask("GET", "/cohere/v1/models", headers={"authorization": "Bearer wrong"})
        assert (response.status, message(response)) == (401, "The API key is not valid for this gateway")
        assert len(on.upstream.requests) == 1


# --- streams ------------------------------------------------------------------------------------------------

EVENTS = [compact_json(event) for event in story("Hi", " there.")]
V1_KIND = (("content-type", "application/stream+json"),)


def test_a_stream_comes_as_it_is_and_is_counted(own: Harness) -> None:
    request = transcript(*story("Hi", " caf\u00e9"))
    own.respond_with(event_stream(request, per_event=True, headers=(("x-debug-trace-id", "t1"),)))
    headers = {"authorization": "Bearer k", "x-request-id": "stream", "content-type": "application/json"}
    response = own.gateway.ask("POST", V2, {**REQUEST_HEADERS, "stream": True}, headers)
    assert (response.data, response.headers["content-type"]) == (request, "text/event-stream")
    line = own.gateway.log.line_of("stream")
    expected = {"operation": "native.v2.chat", "model": A, "streamed": True, "outcome": "ok", "cohere_trace": "t1"}
    assert {name: line[name] for name in expected} == expected
    assert (line["prompt_tokens"], line["completion_tokens"]) == (70, 3)


def test_each_event_is_relayed_when_it_comes(own: Harness) -> None:
    gates = [Signal() for _ in range(4)]
    steps: list[Any] = [Head(200, V1_KIND, "chunked")]
    for number, gate in enumerate(gates):
        steps += [Pause(gate), Chunk(b'{"n":%d}\n' % number)]
    own.respond_with((*steps, End()))
    connection = http.client.HTTPConnection(*own.gateway.address, timeout=WAIT_SECONDS)
    gates[0].set()
    connection.request("POST", "/cohere/v1/chat", json.dumps({"stream": True}), {"authorization": "Bearer k"})
    response = connection.getresponse()
    for number in range(4):
        gates[number].set()
        assert response.readline() == b'{"n":%d}\n' % number
    assert response.read() == b"" and response.isclosed()
    connection.close()


FIRST = b'event: message-start\ndata: {"type":"message-start"}\n\n'
BREAKS: list[tuple[str, Script]] = [
    ("a stream that is cut", (Head(200), Chunk(FIRST), Pause(0.05), Cut())),
    ("a stream that is reset", (Head(200), Chunk(FIRST), Pause(0.05), Reset())),
    ("a chunk that is cut", (Head(200), Write(b"ff\r\n" + FIRST), Pause(0.05), Cut())),
    ("a body that is cut", (Head(200, (), "length", length=1000), Write(FIRST), Pause(0.05), Cut())),
    ("a stream that falls silent", (Head(200), Chunk(FIRST), Pause(30))),
    # The client library by itself does not tell its reader of these two (gateway/upstream/connector.py).
    ("nonsense", (Head(200), Chunk(FIRST), Pause(0.05), Write(b"nonsense\r\n"), Pause(30))),
    ("a chunk that goes on", (Head(200), Chunk(FIRST), Pause(0.05), Write(b"3\r\nabcdef\r\n"), Pause(30))),
]


@pytest.mark.parametrize(("name", "script"), BREAKS, ids=[row[0] for row in BREAKS])
def test_what_breaks_breaks_visibly(name: str, script: Script) -> None:
    with run_harness(timeouts=Timeouts(between_events=0.5 if "silent" in name else 20)) as on:
        on.respond_with(script)
        connection = http.client.HTTPConnection(*on.gateway.address, timeout=WAIT_SECONDS)
        headers = {"authorization": "Bearer k", "x-request-id": "broken"}
        connection.request("POST", V2, json.dumps({**REQUEST_HEADERS, "stream": True}), headers)
        response = connection.getresponse()
        assert response.status == 200
        with pytest.raises(http.client.IncompleteRead) as caught:
            response.read()
        assert caught.value.partial in (FIRST, FIRST + b"abc")
        connection.close()
        line = on.gateway.log.line_of("broken")
        assert (line["outcome"], line["error"]) == (
            "error",
            "upstream_timeout" if "silent" in name else "upstream_cut",
        )


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_a_refusal_that_breaks_off_breaks_off_here(own: Harness, framing: Any) -> None:
    text = Write(b"c\r\n404 page not\r\n") if framing == "chunked" else Write(b"404 page not")
    own.respond_with((Head(404, (), framing), text, Pause(0.05), Cut()))
    with pytest.raises(http.client.IncompleteRead) as caught:
        own.gateway.ask("GET", "/cohere/v1/nowhere")
    assert b"404 page" in caught.value.partial


def test_a_refusal_without_end_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response, "MAX_ERROR_BYTES", 100_000)
    with run_harness() as on:
        on.respond_with((Head(500), *[Chunk(b"x" * 10_000)] * 50, Pause(30)))
        with pytest.raises(http.client.IncompleteRead) as caught:
            on.gateway.ask("GET", "/cohere/v1/nowhere")
        assert 100_000 < len(caught.value.partial) < 500_000
        on.upstream.closed[0].wait_in_thread(SOON)


def test_an_upgrade_that_nobody_requested(own: Harness) -> None:
    upgrade = (("connection", "upgrade"), ("upgrade", "websocket"))
    for path in (V2, "/v1/chat/completions"):
        own.respond_with((Head(101, upgrade, "none"), Write(b"\x81\x05hello"), Pause(30)))
        assert own.gateway.ask("POST", path, REQUEST_HEADERS).status == 502


@pytest.mark.parametrize(
    "script", [(Head(200), Cut()), (Head(200, (), "length", length=9), Cut()), (Write(b"HTTP/1.1 2"), Cut())]
)
def test_what_breaks_before_the_first_byte_is_an_error(own: Harness, script: Script) -> None:
    own.respond_with(script)
    response = own.gateway.ask("POST", V2, {**REQUEST_HEADERS, "stream": True})
    assert response.status == 502 and "broke" in message(response)


def test_a_stream_that_ends_with_an_error_is_logged_as_one(own: Harness) -> None:
    request = transcript(*story("Hi", ending={"type": "message-end", "delta": {"finish_reason": "ERROR", "usage": {}}}))
    own.respond_with(event_stream(request))
    headers = {"authorization": "Bearer k", "x-request-id": "in-band", "content-type": "application/json"}
    response = own.gateway.ask("POST", V2, {**REQUEST_HEADERS, "stream": True}, headers)
    assert (response.status, response.data) == (200, request)
    line = own.gateway.log.line_of("in-band")
    assert (line["status"], line["outcome"], line["error"]) == (200, "error", "upstream_error")


@pytest.mark.skipif(not FOLDER.is_dir(), reason=ABSENT)
def test_recorded_answers_come_back_byte_for_byte(own: Harness) -> None:
    result = recordings()
    assert result
    for one in result:
        kind = (("content-type", one.headers.get("content-type", "application/json")),)
        own.respond_with(
            event_stream(one.body, headers=kind) if one.streamed else json_answer(one.status, one.body, kind)
        )
        if one.streamed and one.status != 200:
            continue
        identity = f"r-{abs(hash(one.name))}"
        headers = {"authorization": "Bearer k", "content-type": "application/json", "x-request-id": identity}
        response = own.gateway.ask(one.request.method, f"/cohere{one.request.path}", one.request.body, headers)
        assert (response.status, response.data) == (one.status, one.body), one.name
        request = own.upstream.requests[-1]
        expected = one.request.body
        if isinstance(expected, dict) and expected.get("model") in SUCCESSORS:
            expected = {**expected, "model": SUCCESSORS[expected["model"]]}
        assert (request.path, request.json()) == (one.request.path, expected)
        line = own.gateway.log.line_of(identity)
        if one.status == 200 and b'"input_tokens"' in one.body:
            assert line.get("prompt_tokens"), (one.name, line)


# --- those who leave ----------------------------------------------------------------------------------------

LEAVINGS: list[tuple[str, Script, bytes]] = [
    ("before the head", (Pause(Signal()),), b""),
    ("before the first byte", (Head(200), Pause(Signal())), b""),
    ("inside a stream", (Head(200), Chunk(FIRST), Pause(Signal())), b"message-start"),
    ("inside a body", (Head(200, (), "length", length=1000), Write(FIRST), Pause(Signal())), b"message-start"),
]


CHUNK_EDGE = re.compile(rb"\r\n[0-9a-f]*(\r\n)?")


def head_of(path: str, length: int | None, identity: str = "leaver", verb: str = "POST") -> bytes:
    framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    return (
        f"{verb} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer k\r\nx-request-id: {identity}\r\n"
        f"{framing}\r\n\r\n"
    ).encode()


@pytest.mark.parametrize(("name", "script", "sees"), LEAVINGS, ids=[row[0] for row in LEAVINGS])
@pytest.mark.parametrize("path", [V2, "/cohere/v1/datasets"], ids=["held", "an upload"])
def test_a_caller_leaves(own: Harness, path: str, name: str, script: Script, sees: bytes) -> None:
    own.respond_with((Pause(0), *script))
    mark = len(own.gateway.log.lines)
    with socket.create_connection(own.gateway.address, WAIT_SECONDS) as connection:
        connection.sendall(head_of(path, 2) + b"{}")
        received = b""
        while sees not in received:
            received += connection.recv(65536)
        deadline = time.monotonic() + WAIT_SECONDS
        while not own.upstream.exchanges and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not own.upstream.closed[0].is_set()
    left = time.monotonic()
    own.upstream.closed[0].wait_in_thread(SOON)
    closed_at = own.upstream.closed[0].at
    assert closed_at is not None and closed_at - left < SOON
    line = own.gateway.log.wait(lambda line: line in own.gateway.log.lines[mark:] and line.get("request") == "leaver")
    assert (line["status"], line["outcome"]) == (499, "client_closed")


@pytest.mark.parametrize("count", [3, 2_000])
def test_what_a_leaving_caller_had_made_is_estimated(own: Harness, count: int) -> None:
    """Cohere tells what it counted at the end only, and that never came."""
    request = transcript(*story(*["piece"] * count), done=False)[:-150]
    own.respond_with(event_stream(request, ending=Pause(30)))
    with socket.create_connection(own.gateway.address, WAIT_SECONDS) as connection:
        connection.sendall(head_of(V2, 2, f"left-after-{count}") + b"{}")
        received = b""
        while not CHUNK_EDGE.sub(b"", received).endswith(request[-60:]):
            received += connection.recv(65536)
    line = own.gateway.log.line_of(f"left-after-{count}")
    assert line["estimated"] is True and line["completion_tokens"] == pytest.approx(count, rel=0.02)


# --- uploads and downloads ----------------------------------------------------------------------------------


class Receiver:
    """An upstream on a bare socket that reads an upload only as far as it is told to."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.go_on = threading.Event()
        self.refuse = threading.Event()
        self.begun = threading.Event()
        self.ended = threading.Event()
        self.head = b""
        self.received = 0
        self.tail = b""
        self.early = b""  # an answer that does not wait for the body
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listening.accept()
        with self._listening, connection:
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.recv(65536)
            self.head, _, rest = data.partition(b"\r\n\r\n")
            self.received, self.tail = len(rest), rest
            self.begun.set()
            if self.early:
                self.refuse.wait()
                connection.sendall(self.early)
            self.go_on.wait()
            length = self._length()
            while (length is None or self.received < length) and not self.tail.endswith(b"0\r\n\r\n"):
                if not (some := connection.recv(65536)):
                    break
                self.received += len(some)
                self.tail = (self.tail + some)[-100:]
            else:
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n" + b'{"id":"data"}')
            self.ended.set()

    def _length(self) -> int | None:
        for line in self.head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return int(line.split(b":")[1])
        return None


@contextmanager
def receiving(early: bytes = b"", **settings: Any) -> Iterator[tuple[Gateway, Receiver]]:
    receiver = Receiver()
    receiver.early = early
    with gateway_over(receiver.url, **settings) as gateway:
        try:
            yield gateway, receiver
        finally:
            receiver.go_on.set()


MEGABYTE = bytes(1024 * 1024)
LARGE = 64 * len(MEGABYTE)


def test_an_upload_waits_for_its_reader() -> None:
    """What Cohere does not take, the caller keeps: nothing but the buffers of four sockets is on the way."""
    with receiving() as (gateway, receiver), socket.create_connection(gateway.address, WAIT_SECONDS) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        connection.sendall(head_of("/cohere/v1/datasets?name=x&type=embed-input", LARGE))
        accepted = 0
        connection.settimeout(1.0)
        try:
            while accepted < LARGE:
                accepted += connection.send(MEGABYTE[: LARGE - accepted])
        except TimeoutError:
            pass
        assert accepted < 32 * len(MEGABYTE), "the gateway takes what Cohere does not"
        receiver.go_on.set()
        connection.settimeout(WAIT_SECONDS)
        while accepted < LARGE:
            accepted += connection.send(MEGABYTE[: LARGE - accepted])
        answer = connection.recv(65536)
        while b'{"id":"data"}' not in answer:
            answer += connection.recv(65536)
        assert receiver.received == LARGE and b" 200 " in answer
        line = gateway.log.line_of("leaver")
        assert (line["operation"], line["outcome"]) == ("native.datasets.create", "ok")
        assert receiver.head.startswith(b"POST /v1/datasets?name=x&type=embed-input HTTP/1.1\r\n")


def test_an_upload_in_chunks_goes_on_in_chunks(own: Harness) -> None:
    own.respond_with(OK)
    pieces = [b"one", b"two" * 1000, b"x" * 200_000]
    sent_body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    with socket.create_connection(own.gateway.address, WAIT_SECONDS) as connection:
        connection.sendall(head_of("/cohere/v1/datasets", None) + sent_body)
        assert b" 200 " in connection.recv(65536)
    (request,) = own.upstream.requests
    assert request.body == b"".join(pieces)
    assert request.headers["transfer-encoding"] == ["chunked"] and "content-length" not in request.headers


@pytest.mark.parametrize("length", [LARGE, None], ids=["with a length", "in chunks"])
def test_a_caller_leaves_an_upload(length: int | None) -> None:
    with receiving() as (gateway, receiver):
        receiver.go_on.set()
        with socket.create_connection(gateway.address, WAIT_SECONDS) as connection:
            piece = MEGABYTE if length else b"%x\r\n%s\r\n" % (len(MEGABYTE), MEGABYTE)
            connection.sendall(head_of("/cohere/v1/datasets", length) + piece)
            assert receiver.begun.wait(WAIT_SECONDS)
        left = time.monotonic()
        assert receiver.ended.wait(SOON), "Cohere still waits for the rest"
        assert time.monotonic() - left < SOON
        assert receiver.received < 2 * len(MEGABYTE) and not receiver.tail.endswith(b"0\r\n\r\n")
        line = gateway.log.line_of("leaver")
        assert (line["status"], line["outcome"]) == (499, "client_closed")


def test_an_answer_before_the_end_of_an_upload() -> None:
    """Cohere refuses what it has not read: the caller hears of it, and nothing is left waiting."""
    early = b'HTTP/1.1 413 Too Large\r\ncontent-type: application/json\r\ncontent-length: 17\r\n\r\n{"message":"big"}'
    with receiving(early) as (gateway, receiver), socket.create_connection(gateway.address, WAIT_SECONDS) as connection:
        connection.sendall(head_of("/cohere/v1/datasets", LARGE, "early"))
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):  # everything on the way is full
            for _ in range(64):
                connection.sendall(MEGABYTE)
        receiver.refuse.set()
        connection.settimeout(WAIT_SECONDS)
        received = b""
        while not received.endswith(b'{"message":"big"}') and (some := connection.recv(65536)):
            received += some
        assert b" 413 " in received.split(b"\r\n")[0]
        assert gateway.log.line_of("early")["status"] == 413


def test_an_upload_that_grows_too_large_is_stopped() -> None:
    with receiving(upload_limit=1_000_000) as (gateway, receiver):
        receiver.go_on.set()
        with socket.create_connection(gateway.address, WAIT_SECONDS) as connection:
            piece = b"%x\r\n%s\r\n" % (400_000, bytes(400_000))
            connection.sendall(head_of("/cohere/v1/datasets", None) + piece * 3)
            answer = b""
            while b'{"message":' not in answer and (some := connection.recv(65536)):
                answer += some
            assert b" 413 " in answer.split(b"\r\n")[0] and b'{"message":' in answer
        assert receiver.ended.wait(WAIT_SECONDS) and not receiver.tail.endswith(b"0\r\n\r\n")


def test_an_upload_that_cohere_stops_taking_is_given_up() -> None:
    with receiving(timeouts=Timeouts(between_events=0.5)) as (gateway, receiver):
        with socket.create_connection(gateway.address, WAIT_SECONDS) as connection:
            connection.sendall(head_of("/cohere/v1/datasets", LARGE))
            threading.Thread(target=_push, args=(connection,), daemon=True).start()
            answer = connection.recv(65536)
            assert b" 504 " in answer.split(b"\r\n")[0], answer


def _push(connection: socket.socket) -> None:
    try:
        while True:
            connection.sendall(MEGABYTE)
    except OSError:
        return


def test_a_reader_who_stops_makes_cohere_wait() -> None:
    """A download of 64 MB that nobody reads: most of it stays with Cohere."""
    steps: list[Any] = [Head(200, (("content-type", "application/octet-stream"),), "length", length=LARGE)]
    steps += [Write(MEGABYTE)] * 64
    with run_harness() as on:
        on.respond_with((*steps, End()))
        with socket.create_connection(on.gateway.address, WAIT_SECONDS) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            connection.sendall(head_of("/cohere/v1/datasets/x", 0, verb="GET"))
            head = connection.recv(1000)
            time.sleep(1.0)
            assert not on.upstream.exchanges[0].finished.is_set()
            left = LARGE - len(head.partition(b"\r\n\r\n")[2])
            while left > 0:
                some = connection.recv(1 << 20)
                assert some
                left -= len(some)
            on.upstream.exchanges[0].finished.wait_in_thread()


# --- what is known of it ------------------------------------------------------------------------------------


def test_a_native_call_is_counted_under_its_method(own: Harness) -> None:
    before: Mapping[str, float] = own.gateway.metrics()
    own.respond_with(json_answer(200, whole()))
    own.gateway.ask("POST", V2, REQUEST_HEADERS)
    own.gateway.ask("POST", V2, {**REQUEST_HEADERS, "model": "no model that anybody knows"})
    own.gateway.ask("GET", "/cohere/v1/what/ever/that/is")
    after = own.gateway.metrics()

    def grew(series: str) -> float:
        return after.get(series, 0) - before.get(series, 0)

    labels = 'operation="native.v2.chat",outcome="ok",status="200"'
    assert grew(f'gateway_requests_total{{model="{A}",{labels}}}') == 1
    assert grew(f'gateway_requests_total{{model="other",{labels}}}') == 1
    assert grew('gateway_requests_total{model="",operation="native.other",outcome="ok",status="200"}') == 1
    assert grew(f'gateway_tokens_total{{direction="input",model="{A}",operation="native.v2.chat"}}') == 70


HALF = b'{"model": "%s", "messages": [{"role": "user", "content": "\\ud83d"}]}' % A.encode()
"""A text that JavaScript cut inside an emoji. Cohere reads it, so its model and its cost are known."""


def test_half_a_character_arrives_and_is_counted(own: Harness) -> None:
    own.respond_with(json_answer(200, whole()))
    headers = {"authorization": "Bearer k", "content-type": "application/json", "x-request-id": "half"}
    assert own.gateway.ask("POST", V2, HALF, headers).status == 200
    assert own.upstream.requests[0].body == HALF
    assert own.gateway.log.line_of("half")["model"] == A


def test_half_a_character_is_no_second_reading() -> None:
    """A body that something depends on is refused where it cannot be read for certain. This one can."""
    with run_harness(**SERVERS, global_limits=GlobalLimits(rpm_limit=100, tpm_limit=1_000_000)) as on:
        on.respond_with(json_answer(200, whole()))
        assert on.gateway.ask("POST", V2, HALF).status == 200
        assert on.upstream.requests[0].body == HALF


def test_the_log_has_no_word_of_anybodys(own: Harness) -> None:
    own.respond_with(json_answer(200, whole("a secret answer")))
    secret = {"model": A, "messages": [{"role": "user", "content": "a secret question"}]}
    headers = {"authorization": "Bearer secret-key", "x-request-id": "quiet"}
    own.gateway.ask("POST", f"{V2}?token=secret", secret, headers)
    assert "secret" not in json.dumps(own.gateway.log.line_of("quiet"))
