"""A web page that the user of this machine has open, and what it may do to a gateway without keys: nothing.

Requests are written as a browser writes them, where scripts have no say: `Origin`, `Sec-Fetch-*` and `Host`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.app import create_app
from gateway.settings.schema import Settings
from support.app import CHAT, SERVER_KEY, A, Harness, answered, run_harness
from support.asgi_server import raw_request

PAGE, EVIL = "https://app.example", "https://evil.example"
JSON = "application/json"
FORM = "multipart/form-data; boundary=x"
PLAIN = "text/plain;charset=UTF-8"

CHAT_BODY = json.dumps({"model": A, "messages": [{"role": "user", "content": "Hi"}]}).encode()
AUDIO_BODY = (
    b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\ncohere-transcribe-03-2026\r\n'
    b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--x--\r\n'
)
ROUTES: tuple[tuple[str, str, str, bytes], ...] = (
    ("POST", CHAT, JSON, CHAT_BODY),
    ("POST", "/v1/responses", JSON, json.dumps({"model": A, "input": "Hi"}).encode()),
    ("POST", "/v1/embeddings", JSON, b'{"model":"embed-v4.0","input":["a"]}'),
    ("POST", "/v1/audio/transcriptions", FORM, AUDIO_BODY),
    ("POST", "/cohere/v2/chat", JSON, CHAT_BODY),
    ("POST", "/litellm/cohere/v1/datasets?name=x&type=embed-input", FORM, AUDIO_BODY),
    ("DELETE", "/cohere/v1/connectors/c-1", "", b""),
    ("DELETE", "/v1/responses/resp_1", "", b""),
    ("GET", "/cohere/v1/models", "", b""),
    ("GET", "/v1/models", "", b""),
    ("GET", "/metrics", "", b""),
    ("GET", "/health/ready", "", b""),
    ("GET", "/openapi.json", "", b""),
)


@pytest.fixture(scope="module", params=["open", "demo"])
def keyless(request: pytest.FixtureRequest) -> Iterator[Harness]:
    settings: dict[str, Any] = {"cohere_api_key": [SERVER_KEY]} if request.param == "open" else {"demo": True}
    with run_harness(cors_origins=[PAGE], allowed_hosts=["gateway.internal"], **settings) as harness:
        yield harness


@pytest.fixture(scope="module")
def keyed() -> Iterator[Harness]:
    with run_harness() as harness:
        yield harness


def ask(
    harness: Harness, method: str, path: str, *headers: str, content_type: str = "", body: bytes = b"", host: str = ""
) -> tuple[int, Any]:
    """Status and body of a request with these header lines."""
    harness.respond_with(answered())
    address, port = harness.gateway.address
    lines = [f"{method} {path} HTTP/1.1", f"host: {host or f'localhost:{port}'}", "connection: close", *headers]
    if content_type:
        lines.append(f"content-type: {content_type}")
    if body:
        lines.append(f"content-length: {len(body)}")
    response = raw_request(address, port, "\r\n".join([*lines, "", ""]).encode() + body)
    head, _, rest = response.partition(b"\r\n\r\n")
    return int(head[9:12]), rest


def refused(harness: Harness, status: int, sentence: str, answer: tuple[int, Any]) -> None:
    assert answer[0] == status, answer
    assert sentence.encode() in answer[1]
    assert not harness.upstream.exchanges, "Cohere was called"


FOREIGN: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("a page of another origin", (f"origin: {EVIL}", "sec-fetch-site: cross-site")),
    ("a page of another origin, in an old browser", (f"origin: {EVIL}",)),
    ("a sandboxed page", ("origin: null", "sec-fetch-site: cross-site")),
    ("a page on another port of this machine", ("origin: http://localhost:3000", "sec-fetch-site: same-site")),
    ("a form, an image or a link on another site", ("sec-fetch-site: cross-site", "sec-fetch-mode: no-cors")),
    ("an origin that is like ours", ("origin: http://localhost",)),
    ("an origin that begins like an allowed one", (f"origin: {PAGE}.evil.example",)),
)


@pytest.mark.parametrize(("method", "path", "content_type", "body"), ROUTES, ids=[row[1] for row in ROUTES])
@pytest.mark.parametrize("headers", [row[1] for row in FOREIGN], ids=[row[0] for row in FOREIGN])
def test_a_foreign_page(
    keyless: Harness, headers: tuple[str, ...], method: str, path: str, content_type: str, body: bytes
) -> None:
    answer = ask(keyless, method, path, *headers, content_type=content_type, body=body)
    refused(keyless, 403, "Pages of this origin may not call", answer)


@pytest.mark.parametrize(("method", "path", "content_type", "body"), ROUTES, ids=[row[1] for row in ROUTES])
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example"]
)
def test_a_name_that_points_to_this_machine(
    keyless: Harness, host: str, method: str, path: str, content_type: str, body: bytes
) -> None:
    """DNS rebinding: to the browser the page and the gateway are of one origin."""
    origin = (f"origin: http://{host}", "sec-fetch-site: same-origin") if method != "GET" else ()
    answer = ask(keyless, method, path, *origin, content_type=content_type, body=body, host=host)
    refused(keyless, 403, "not known by the name in 'host'", answer)


@pytest.mark.parametrize("content_type", ["", PLAIN, "application/x-www-form-urlencoded", "image/png", "text/json-not"])
@pytest.mark.parametrize("path", [CHAT, "/v1/responses", "/cohere/v2/chat", "/cohere/v2/unheard-of", "/metrics"])
def test_a_body_that_needs_no_preflight(keyless: Harness, path: str, content_type: str) -> None:
    answer = ask(keyless, "POST", path, content_type=content_type, body=CHAT_BODY)
    refused(keyless, 415, "needs the content type", answer)


WELCOME: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("a program", (), ""),
    ("a program that calls an address", (), "127.0.0.1:8080"),
    ("a program that calls an IPv6 address", (), "[::1]:8080"),
    ("a program that calls a name below localhost", (), "gateway.localhost:8080"),
    ("a program that calls a configured name", (), "Gateway.Internal:80"),
    ("an allowed page", (f"origin: {PAGE}", "sec-fetch-site: cross-site"), ""),
    ("a page of our own", ("origin: http://localhost:8080", "sec-fetch-site: same-origin"), "localhost:8080"),
    ("somebody who types the address", ("sec-fetch-site: none", "sec-fetch-mode: navigate"), ""),
)


@pytest.mark.parametrize("path", [CHAT, "/cohere/v2/chat"])
@pytest.mark.parametrize(("headers", "host"), [row[1:] for row in WELCOME], ids=[row[0] for row in WELCOME])
def test_who_may_call(keyless: Harness, headers: tuple[str, ...], host: str, path: str) -> None:
    status, _ = ask(keyless, "POST", path, *headers, content_type=JSON, body=CHAT_BODY, host=host)
    assert status == 200


@pytest.mark.parametrize("headers", [row[1] for row in FOREIGN], ids=[row[0] for row in FOREIGN])
def test_where_a_key_is_needed_it_is_enough(keyed: Harness, headers: tuple[str, ...]) -> None:
    """Unless a page is one of `cors_origins` it cannot read the answer; and it would need the key."""
    key = "authorization: Bearer caller-key"
    status, _ = ask(keyed, "POST", CHAT, *headers, key, content_type=JSON, body=CHAT_BODY, host="any.example")
    assert status == 200


def test_a_preflight_is_answered_without_permission(keyless: Harness) -> None:
    asks = ("access-control-request-method: POST", "access-control-request-headers: content-type")
    for origin in (EVIL, "http://localhost:3000"):
        assert ask(keyless, "OPTIONS", CHAT, f"origin: {origin}", *asks)[0] == 204


@pytest.mark.parametrize("hosts", [["*"], ["any.example"]])
def test_hosts_can_be_allowed(hosts: list[str]) -> None:
    with run_harness(cohere_api_key=[SERVER_KEY], allowed_hosts=hosts) as harness:
        assert ask(harness, "POST", CHAT, content_type=JSON, body=CHAT_BODY, host="any.example:80")[0] == 200


def test_the_rule_is_one_for_all_routes(keyless: Harness) -> None:
    """The middleware asks it before the routes; what it has not is a WebSocket, which asks it too."""
    app = create_app(Settings(demo=True))
    assert app._web_pages.keyless
    assert app._websockets._web_pages.keyless  # type: ignore[attr-defined]
