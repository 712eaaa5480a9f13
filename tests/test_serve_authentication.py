"""Who may call, and whose key goes to Cohere: the table in docs/authentication.md, mode by mode.

The scripted upstream sees what arrives there. Keys issued by the gateway itself are not here: in the mode
"virtual keys" the callers of this file have the master key or none.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.app import create_app
from gateway.settings.schema import MetricsSettings, SettingError, Settings
from support.app import (
    CALLER_KEY,
    CHAT,
    MASTER_KEY,
    SERVER_KEY,
    A,
    Gateway,
    Harness,
    Response,
    answered,
    run_harness,
    streamed,
)
from support.asgi_server import raw_request
from support.process import awaited, process
from support.scripted_upstream import json_answer
from support.waiting import WAIT_SECONDS

ROOT = Path(__file__).resolve().parents[1]
BODY = {"model": A, "messages": [{"role": "user", "content": "Hi"}]}
JSON = {"content-type": "application/json"}
PAGE = json_answer(200, {"models": [{"name": A, "endpoints": ["chat"]}]})
PAGES_OF = "https://app.example"


@pytest.fixture(scope="module")
def own() -> Iterator[Harness]:
    with run_harness() as harness:
        yield harness


@pytest.fixture(scope="module")
def opened() -> Iterator[Harness]:
    with run_harness(cohere_api_key=[SERVER_KEY]) as harness:
        yield harness


@pytest.fixture(scope="module")
def virtual() -> Iterator[Harness]:
    with run_harness(cohere_api_key=[SERVER_KEY], master_key=MASTER_KEY) as harness:
        yield harness


def call(harness: Harness, *headers: tuple[str, str], path: str = CHAT, stream: bool = False) -> Response:
    """A request with these headers and no others."""
    harness.respond_with(PAGE if path.startswith("/v1/models") else streamed() if stream else answered())
    method = "GET" if path.startswith("/v1/models") else "POST"
    body = None if method == "GET" else BODY | {"stream": stream}
    return harness.gateway.ask(method, path, body, [*headers, *JSON.items()])


def key_at_cohere(harness: Harness) -> str | None:
    (request,) = harness.upstream.requests
    values = request.headers.get("authorization", [])
    assert len(values) <= 1
    return values[0] if values else None


KEY_PLACEMENTS = [(CHAT, False), (CHAT, True), ("/v1/models", False), (f"/v1/models/{A}", False)]

# --- the credential -------------------------------------------------------------------------------------------

ONE_KEY: tuple[tuple[tuple[str, str], ...], ...] = (
    (("authorization", "Bearer {}"),),
    (("authorization", "bearer {}"),),
    (("authorization", "BEARER {}"),),
    (("authorization", "Token {}"),),
    (("authorization", "token {}"),),
    (("authorization", "Bearer   {}  "),),
    (("Authorization", "{}"),),
    (("x-api-key", "{}"),),
    (("X-API-Key", "{}"),),
    (("api-key", "{}"),),
    (("authorization", "Bearer {}"), ("x-api-key", "{}")),
    (("authorization", "Bearer {}"), ("x-api-key", "{}"), ("api-key", "{}")),
    (("authorization", "Bearer "), ("x-api-key", "{}")),
    (("authorization", "Basic dXNlcjpwYXNz"), ("x-api-key", "{}")),
    (("authorization", ""), ("api-key", "{}")),
)


@pytest.mark.parametrize("headers", ONE_KEY, ids=str)
def test_one_key_wherever_it_stands(own: Harness, virtual: Harness, headers: tuple[tuple[str, str], ...]) -> None:
    for harness, key, request in ((own, CALLER_KEY, CALLER_KEY), (virtual, MASTER_KEY, SERVER_KEY)):
        assert call(harness, *((name, value.format(key)) for name, value in headers)).status == 200
        assert key_at_cohere(harness) == f"Bearer {request}"


NO_KEY: tuple[tuple[tuple[str, str], ...], ...] = (
    (),
    (("authorization", ""),),
    (("authorization", "Bearer"),),
    (("authorization", "Bearer   "),),
    (("authorization", "Basic dXNlcjpwYXNz"),),
    (("authorization", "token"),),
    (("x-api-key", ""),),
    (("api-key", "  "),),
    (("cookie", f"key={CALLER_KEY}"),),
    (("x-goog-api-key", CALLER_KEY),),
)


@pytest.mark.parametrize("headers", NO_KEY, ids=str)
@pytest.mark.parametrize("mode", ["own", "virtual"])
@pytest.mark.parametrize(("path", "stream"), KEY_PLACEMENTS)
def test_no_key(
    mode: str, headers: tuple[tuple[str, str], ...], path: str, stream: bool, request: pytest.FixtureRequest
) -> None:
    harness: Harness = request.getfixturevalue(mode)
    response = call(harness, *headers, path=path, stream=stream)
    assert (response.status, response.error["type"]) == (401, "authentication_error")
    assert not harness.upstream.exchanges


def test_a_key_in_the_address_is_none(own: Harness) -> None:
    own.respond_with(answered())
    assert own.gateway.ask("POST", f"{CHAT}?api_key={CALLER_KEY}&key={CALLER_KEY}", BODY, JSON).status == 401


TWO_KEYS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("authorization", "Bearer {}"), ("x-api-key", "another")),
    (("x-api-key", "{}"), ("api-key", "another")),
    (("authorization", "Bearer another"), ("api-key", "{}")),
    (("authorization", "Token {}"), ("x-api-key", "{}x")),
)


@pytest.mark.parametrize("headers", TWO_KEYS, ids=str)
@pytest.mark.parametrize(("mode", "key"), [("own", CALLER_KEY), ("virtual", MASTER_KEY), ("opened", CALLER_KEY)])
def test_two_different_keys(
    mode: str, key: str, headers: tuple[tuple[str, str], ...], request: pytest.FixtureRequest
) -> None:
    harness: Harness = request.getfixturevalue(mode)
    response = call(harness, *((name, value.format(key)) for name, value in headers))
    assert (response.status, response.error["code"]) == (400, "two_credentials")
    assert key not in str(response.error) and "another" not in str(response.error)
    assert not harness.upstream.exchanges


def test_one_header_twice(own: Harness) -> None:
    body = json.dumps(BODY).encode()
    for keys, status in ((("a", "a"), b"200"), (("a", "b"), b"400")):
        own.respond_with(answered())
        lines = [f"POST {CHAT} HTTP/1.1", "host: localhost", "connection: close", f"content-length: {len(body)}"]
        lines += [f"authorization: Bearer {key}" for key in keys]
        answer = raw_request(*own.gateway.address, "\r\n".join([*lines, "", ""]).encode() + body)
        assert answer.split(b" ")[1] == status


@pytest.mark.parametrize(
    "key", ["k\u00e9y", "a" * 8_000, "' OR 1=1 --", "a b c", "{}", "Bearer x", "%00", "\U0001f511"]
)
def test_odd_keys(own: Harness, virtual: Harness, key: str) -> None:
    """Cohere's own-key callers may have any; here none is known. Neither is a failure, and none is shown."""
    value = f"Bearer {key}".encode().decode("latin-1")
    assert call(own, ("authorization", value)).status == 200
    response = call(virtual, ("authorization", value))
    assert (response.status, response.error["code"]) == (401, "invalid_api_key")
    assert key not in response.error["message"]


# --- bring your own key ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "stream"), KEY_PLACEMENTS)
def test_the_callers_key_goes_to_cohere(own: Harness, path: str, stream: bool) -> None:
    assert call(own, ("authorization", f"Bearer {CALLER_KEY}"), path=path, stream=stream).status == 200
    assert key_at_cohere(own) == f"Bearer {CALLER_KEY}"


def test_each_caller_has_their_own(own: Harness) -> None:
    """Over one connection to Cohere."""
    for key in ("first", "second", "first"):
        call(own, ("authorization", f"Bearer {key}"))
        assert key_at_cohere(own) == f"Bearer {key}"


def test_the_sdk_without_a_right_key(own: Harness) -> None:
    own.respond_with(json_answer(401, {"message": "invalid api token"}))
    with own.gateway.client(key="wrong") as client, pytest.raises(openai.AuthenticationError) as raised:
        client.chat.completions.create(model=A, messages=[{"role": "user", "content": "Hi"}])
    assert raised.value.code == "invalid_api_key"
    assert "wrong" not in raised.value.message


# --- the server's key -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [(), (("authorization", f"Bearer {CALLER_KEY}"),), (("x-api-key", "x"),)], ids=str)
@pytest.mark.parametrize(("path", "stream"), KEY_PLACEMENTS)
def test_open(opened: Harness, value: tuple[tuple[str, str], ...], path: str, stream: bool) -> None:
    assert call(opened, *value, path=path, stream=stream).status == 200
    assert key_at_cohere(opened) == f"Bearer {SERVER_KEY}"
    assert CALLER_KEY not in str(opened.upstream.requests[0].headers.items_as_sent)


@pytest.mark.parametrize(("path", "stream"), KEY_PLACEMENTS)
def test_the_master_key(virtual: Harness, path: str, stream: bool) -> None:
    response = call(virtual, ("authorization", f"Bearer {MASTER_KEY}"), path=path, stream=stream)
    assert response.status == 200
    assert key_at_cohere(virtual) == f"Bearer {SERVER_KEY}"
    assert MASTER_KEY not in str(virtual.upstream.requests[0])
    assert virtual.gateway.log.line_of(response.headers["x-request-id"])["caller"] == "master"


@pytest.mark.parametrize(
    "key", [CALLER_KEY, SERVER_KEY, MASTER_KEY + "x", MASTER_KEY[:-1], MASTER_KEY.upper(), "*", "null", "None"]
)
@pytest.mark.parametrize(("path", "stream"), KEY_PLACEMENTS)
def test_any_other_key(virtual: Harness, key: str, path: str, stream: bool) -> None:
    response = call(virtual, ("authorization", f"Bearer {key}"), path=path, stream=stream)
    assert (response.status, response.error["code"]) == (401, "invalid_api_key")
    assert key not in str(response.error) or len(key) < 5
    assert not virtual.upstream.exchanges


def test_the_master_key_may_be_for_managing_only() -> None:
    with run_harness(cohere_api_key=[SERVER_KEY], master_key=MASTER_KEY, master_may_call=False) as harness:
        assert call(harness, ("authorization", f"Bearer {MASTER_KEY}")).status == 403


def test_a_stranger_need_not_be_heard_out(virtual: Harness) -> None:
    """The 401 comes before the body does."""
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer x\r\ncontent-length: 5000000\r\n\r\n"
    with socket.create_connection(virtual.gateway.address, WAIT_SECONDS) as connection:
        connection.sendall(head.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 401")


# --- demo -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [(), (("authorization", "Bearer anything"),), (("x-api-key", "x"),)], ids=str)
def test_demo_takes_anybody(demo: Gateway, headers: tuple[tuple[str, str], ...]) -> None:
    for stream in (False, True):
        response = demo.ask("POST", CHAT, BODY | {"stream": stream}, [*headers, *JSON.items()])
        assert (response.status, response.headers["x-gateway-upstream"]) == (200, "emulator")


def test_only_demo_speaks_of_an_emulator(own: Harness, opened: Harness, virtual: Harness) -> None:
    for harness in (own, opened, virtual):
        response = call(harness, ("authorization", f"Bearer {MASTER_KEY}"))
        assert (response.status, "x-gateway-upstream" in response.headers) == (200, False)


# --- what else reaches Cohere ---------------------------------------------------------------------------------


def test_nothing_of_the_callers_headers_goes_to_cohere(own: Harness) -> None:
    strange = {
        "cookie": "session=1",
        "x-forwarded-for": "10.0.0.1",
        "forwarded": "for=10.0.0.1",
        "x-emulator-fault": "500",
        "x-gateway-strict": "false",
        "openai-organization": "org",
        "x-stainless-lang": "python",
        "user-agent": "caller/1.0",
        "x-client-name": "caller",
        "referer": "http://intranet",
        "x-request-id": "mine",
        "accept-language": "de",
        "te": "trailers",
    }
    for stream in (False, True):
        call(own, ("authorization", f"Bearer {CALLER_KEY}"), *strange.items(), stream=stream)
        (request,) = own.upstream.requests
        assert set(request.headers) <= {
            *("host", "authorization", "content-type", "content-length", "accept", "accept-encoding", "user-agent"),
        }
        assert (request.headers.first("user-agent") or "").startswith("cohere-gateway/")
        assert request.path == "/v2/chat"


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v2", "/v1/", "/v2/"])
def test_the_base_url_in_every_spelling(suffix: str, tmp_path: Path) -> None:
    from gateway.settings.loading import load
    from support.app import gateway_over
    from support.scripted_upstream import ScriptedUpstream

    with ScriptedUpstream(answered()).run_in_thread() as upstream:
        base = load({"COHERE_BASE_URL": upstream.url + suffix, "GATEWAY_CONFIG": str(empty(tmp_path))}).cohere_base_url
        with gateway_over(base) as gateway:
            assert gateway.chat().status == 200
        assert upstream.requests[0].path == "/v2/chat"


def empty(folder: Path) -> Path:
    file = folder / "gateway.toml"
    file.write_text("")
    return file


def test_keys_are_never_written_down(own: Harness, opened: Harness, virtual: Harness) -> None:
    call(own, ("authorization", f"Bearer {CALLER_KEY}"))
    call(virtual, ("authorization", f"Bearer {CALLER_KEY}"))
    call(virtual, ("x-api-key", CALLER_KEY), ("api-key", "other"))
    for harness in (own, opened, virtual):
        harness.respond_with(json_answer(401, {"message": "invalid api token"}))
        harness.gateway.ask("POST", CHAT, BODY, {"authorization": f"Bearer {MASTER_KEY}", **JSON})
        written = harness.gateway.log.getvalue().decode()
        assert written
        for key in (CALLER_KEY, SERVER_KEY, MASTER_KEY):
            assert key not in written


# --- settings that are refused at the start -------------------------------------------------------------------

REFUSED: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("open on all addresses", {"cohere_api_key": ["k"], "host": "0.0.0.0"}, "host"),
    ("open on all v6 addresses", {"cohere_api_key": ["k"], "host": "::"}, "host"),
    ("open on a network", {"cohere_api_key": ["k"], "host": "192.168.1.5"}, "host"),
    ("open on a name", {"cohere_api_key": ["k"], "host": "gateway.example"}, "host"),
    ("a master key alone", {"master_key": "m"}, "master_key"),
    ("a master key alone on loopback", {"master_key": "m", "host": "127.0.0.1"}, "master_key"),
    ("open to all pages", {"cohere_api_key": ["k"], "cors_origins": ["*"]}, "cors_origins"),
    ("open to all pages and more", {"cohere_api_key": ["k"], "cors_origins": [PAGES_OF, "*"]}, "cors_origins"),
    (
        "open to all pages, allowed",
        {"cohere_api_key": ["k"], "cors_origins": ["*"], "allow_open": True, "host": "0.0.0.0"},
        "cors_origins",
    ),
)
STRIPPED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("open on loopback", {"cohere_api_key": ["k"]}),
    ("open on localhost", {"cohere_api_key": ["k"], "host": "localhost"}),
    ("open on another loopback", {"cohere_api_key": ["k"], "host": "127.0.0.2"}),
    ("open on v6 loopback", {"cohere_api_key": ["k"], "host": "::1"}),
    ("open on all addresses, allowed", {"cohere_api_key": ["k"], "host": "0.0.0.0", "allow_open": True}),
    ("virtual keys on all addresses", {"cohere_api_key": ["k"], "master_key": "m", "host": "0.0.0.0"}),
    ("own keys on all addresses", {"host": "0.0.0.0"}),
    ("own keys for all pages", {"cors_origins": ["*"]}),
)


@pytest.mark.parametrize(("name", "settings", "named"), REFUSED, ids=[row[0] for row in REFUSED])
def test_settings_that_are_refused(name: str, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingError, match=named):
        create_app(Settings(**settings))


@pytest.mark.parametrize(("name", "settings"), STRIPPED, ids=[row[0] for row in STRIPPED])
def test_settings_that_are_taken(name: str, settings: dict[str, Any]) -> None:
    create_app(Settings(**settings))


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (["--host", "0.0.0.0"], {"COHERE_API_KEY": "secret-k"}, "allow-open"),
        (["--host", "0.0.0.0"], {"CO_API_KEY": "secret-k"}, "allow-open"),
        ([], {"GATEWAY_MASTER_KEY": "secret-m"}, "COHERE_API_KEY"),
        ([], {"COHERE_API_KEY": "secret-k", "GATEWAY_CORS_ORIGINS": "*"}, "cors_origins"),
        (["--workers", "0"], {}, "workers"),
        ([], {"COHERE_API_KEY": "secret-k", "GATEWAY_MASTER_KEY": ""}, "master_key: it is set but empty"),
        ([], {"COHERE_API_KEY": "secret-key-of-cohere", "GATEWAY_MASTER_KEY": "secret-key-of-cohere"}, "master_key"),
        (["--host", "0.0.0.0"], {"COHERE_API_KEY": "secret-k", "GATEWAY_MASTER_KEY": "secret-m"}, "16 characters"),
        ([], {"COHERE_BASE_URL": "https://me:secret@cohere.example"}, "must not contain credentials"),
        ([], {"COHERE_BASE_URL": "https://cohere.example:port"}, "cohere_base_url"),
        ([], {"GATEWAY_CORS_ORIGINS": "https://a.example/"}, "cors_origins"),
    ],
)
def test_the_command_says_so_in_one_line(arguments: list[str], environment: dict[str, str], named: str) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "COHERE_", "CO_"))}
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "serve", "--port", "0", *arguments],
        cwd=ROOT, env={**clean, **environment}, capture_output=True, text=True, timeout=WAIT_SECONDS,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert named in done.stderr and "secret" not in done.stderr


def test_a_working_directory_that_has_gone_is_reported_in_one_line(tmp_path: Path) -> None:
    position = tmp_path / "gone"
    position.mkdir()
    script = f"import os; os.chdir({str(position)!r}); os.rmdir({str(position)!r}); from gateway.cli.main import main; "
    done = subprocess.run(
        [sys.executable, "-c", script + "raise SystemExit(main(['serve', '--demo', '--port', '0']))"],
        cwd=ROOT, capture_output=True, text=True, timeout=WAIT_SECONDS,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "cohere-gateway: the working directory cannot be used: No such file or directory\n"


def test_a_short_master_key_is_warned_of_in_the_log() -> None:
    with process(COHERE_API_KEY="server-key", GATEWAY_MASTER_KEY="sk-1234") as server:
        awaited(lambda: any(b"fewer than 16 characters" in line for line in server.written))
        assert b"sk-1234" not in b"".join(server.written)


# --- health and metrics ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["own", "opened", "virtual"])
@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"x-api-key": "a", "api-key": "b"}])
def test_health_is_open(mode: str, path: str, headers: dict[str, str], request: pytest.FixtureRequest) -> None:
    harness: Harness = request.getfixturevalue(mode)
    harness.respond_with(answered())
    assert harness.gateway.ask("GET", path, headers=headers).status == 200
    assert not harness.upstream.exchanges


BEYOND = {"host": "0.0.0.0", "cohere_api_key": [SERVER_KEY], "master_key": MASTER_KEY}
TOKEN = "metrics-token-0004"
# settings, headers, status
SCRAPES: tuple[tuple[str, dict[str, Any], dict[str, str], int], ...] = (
    ("loopback", {"cohere_api_key": [SERVER_KEY], "master_key": MASTER_KEY}, {}, 200),
    ("loopback, a token set", {"metrics": MetricsSettings(token=TOKEN)}, {}, 200),
    ("beyond, no token set", BEYOND, {}, 401),
    ("beyond, no token set, an empty one given", BEYOND, {"authorization": "Bearer "}, 401),
    ("beyond, no token set, the master key", BEYOND, {"authorization": f"Bearer {MASTER_KEY}"}, 401),
    ("beyond, none given", BEYOND | {"metrics": MetricsSettings(token=TOKEN)}, {}, 401),
    (
        "beyond, a wrong one",
        BEYOND | {"metrics": MetricsSettings(token=TOKEN)},
        {"authorization": f"Bearer {TOKEN}x"},
        401,
    ),
    (
        "beyond, the master key",
        BEYOND | {"metrics": MetricsSettings(token=TOKEN)},
        {"authorization": f"Bearer {MASTER_KEY}"},
        401,
    ),
    (
        "beyond, the right one",
        BEYOND | {"metrics": MetricsSettings(token=TOKEN)},
        {"authorization": f"Bearer {TOKEN}"},
        200,
    ),
    ("beyond, public", BEYOND | {"metrics": MetricsSettings(public=True)}, {}, 200),
)


@pytest.mark.parametrize(("name", "settings", "headers", "status"), SCRAPES, ids=[row[0] for row in SCRAPES])
def test_metrics(name: str, settings: dict[str, Any], headers: dict[str, str], status: int) -> None:
    with run_harness(**settings) as harness:
        response = harness.gateway.ask("GET", "/metrics", headers=headers)
        assert response.status == status
        assert (b"gateway_requests_total" in response.data) is (status == 200)
        if status == 401:
            assert response.error["type"] == "authentication_error"
            assert TOKEN not in str(response.error)
        # The token opens nothing else.
        if settings.get("master_key"):
            assert harness.gateway.ask("POST", CHAT, BODY, JSON | {"authorization": f"Bearer {TOKEN}"}).status == 401


# --- pages of other origins -----------------------------------------------------------------------------------

PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization, content-type, x-stainless-lang",
}


@pytest.fixture(scope="module")
def paged() -> Iterator[Harness]:
    """Pages of one origin may call."""
    with run_harness(cors_origins=[PAGES_OF]) as harness:
        harness.respond_with(answered())
        yield harness


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/models/cohere/x"])
def test_a_preflight_needs_no_key(paged: Harness, path: str) -> None:
    response = paged.gateway.ask("OPTIONS", path, headers=PREFLIGHT | {"origin": PAGES_OF})
    assert response.status in (200, 204) and response.data == b""
    assert response.headers["access-control-allow-origin"] == PAGES_OF
    assert "POST" in response.headers["access-control-allow-methods"]
    allowed = response.headers["access-control-allow-headers"].lower()
    assert all(name in allowed for name in ("authorization", "content-type", "x-stainless-lang"))
    assert "origin" in response.headers["vary"].lower()
    assert response.headers["x-request-id"]
    assert not paged.upstream.exchanges


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "", f"{PAGES_OF}.evil.example", "http://app.example", f"{PAGES_OF}/"]
)
def test_other_pages_may_not(paged: Harness, origin: str) -> None:
    for response in (
        paged.gateway.ask("OPTIONS", CHAT, headers=PREFLIGHT | {"origin": origin}),
        call(paged, ("authorization", "Bearer k"), ("origin", origin)),
    ):
        assert "access-control-allow-origin" not in response.headers
        assert "access-control-allow-methods" not in response.headers
    paged.respond_with(answered())


OURS = {
    *("x-request-id", "x-gateway-notes", "x-cohere-trace-id", "x-gateway-upstream", "x-gateway-cache"),
    *("x-gateway-cost-usd", "x-gateway-key", "retry-after"),
    *(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")),
}


def test_every_answer_may_be_read_by_the_page(paged: Harness) -> None:
    """Errors, too: a page that cannot read a 401 sees a network failure."""
    origin, key = ("origin", PAGES_OF), ("authorization", "Bearer k")
    answers = [
        call(paged, origin, key),
        call(paged, origin, key, stream=True),
        call(paged, origin),
        paged.gateway.ask("POST", CHAT, b"{", [origin, key]),
        paged.gateway.ask("GET", "/v1/nowhere", None, [origin, key]),
        paged.gateway.ask("PUT", CHAT, b"{}", [origin, key]),
    ]
    assert [response.status for response in answers] == [200, 200, 401, 400, 404, 405]
    for response in answers:
        assert response.headers["access-control-allow-origin"] == PAGES_OF
        exposed = {name.strip().lower() for name in response.headers["access-control-expose-headers"].split(",")}
        assert exposed >= OURS
        assert "access-control-allow-credentials" not in response.headers


def test_by_default_no_page_may(own: Harness) -> None:
    response = own.gateway.ask("OPTIONS", CHAT, headers=PREFLIGHT | {"origin": PAGES_OF})
    assert not [name for name in response.headers if name.startswith("access-control")]
    response = call(own, ("authorization", "Bearer k"), ("origin", PAGES_OF))
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("settings", [{}, {"cohere_api_key": [SERVER_KEY], "master_key": MASTER_KEY}])
def test_all_pages_where_callers_need_a_key(settings: dict[str, Any]) -> None:
    with run_harness(cors_origins=["*"], **settings) as harness:
        harness.respond_with(answered())
        for origin in (PAGES_OF, "http://localhost:3000"):
            response = call(harness, ("authorization", f"Bearer {MASTER_KEY}"), ("origin", origin))
            assert response.status == 200
            assert response.headers["access-control-allow-origin"] in ("*", origin)


def test_no_page_of_another_origin_in_open_mode(opened: Harness) -> None:
    response = call(opened, ("origin", PAGES_OF))
    assert "access-control-allow-origin" not in response.headers
    with run_harness(cohere_api_key=[SERVER_KEY], cors_origins=[PAGES_OF]) as harness:
        assert call(harness, ("origin", PAGES_OF)).headers["access-control-allow-origin"] == PAGES_OF
        assert "access-control-allow-origin" not in call(harness, ("origin", "https://evil.example")).headers
