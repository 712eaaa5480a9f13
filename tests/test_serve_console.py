"""The console's page and its sessions over real HTTP: how it is served, who may sign in, and what a session may do.

What a session is worth is tried here, what the page does with it in a browser.
"""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.routing import Route

from gateway.app import create_app
from gateway.auth import sessions
from gateway.auth.modes import is_for_one_caller
from gateway.auth.sessions import COOKIE, SECURE_COOKIE, Sessions
from gateway.console.attempts import IN_ALL, PER_ADDRESS, WINDOW_SECONDS, SignInAttempts
from gateway.endpoints import inspection
from gateway.errors import CallerError
from gateway.settings.schema import (
    AlertSettings,
    ConsoleSettings,
    MetricsSettings,
    NamedUpstream,
    Settings,
    UpstreamSettings,
)
from gateway.store import keys
from gateway.store.errors import StoreUnavailable
from gateway.upstream import model_catalog
from gateway.virtual_keys import Team
from support.app import MASTER_KEY, SERVER_KEY, Gateway, Harness, Response, answered, demonstration, run_harness
from support.scripted_upstream import json_answer
from support.virtual_keys import key_of, run_keyed_harness, secret_of
from support.waiting import WAIT_SECONDS

SESSION = "/console/session"
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def served() -> Iterator[Harness]:
    keys = (
        key_of("caller"),
        key_of("viewer", role="viewer"),
        key_of("admin", role="admin"),
        key_of("blocked", blocked=True),
        key_of("expired", expires=1.0),
        key_of("here", allowed_ips=["127.0.0.0/8"]),
        key_of("elsewhere", allowed_ips=["10.0.0.0/8"]),
        key_of("member", team_id="away"),
    )
    with run_keyed_harness(*keys, Team(team_id="away", blocked=True)) as (harness, _):
        yield harness


class Browser:
    """Sends requests as the console's page does: with its cookie and, where something changes, the CSRF token."""

    def __init__(self, gateway: Gateway, key: str = "", **headers: str) -> None:
        self.gateway, self.cookie, self.token, self.headers = gateway, "", "", headers
        if key:
            response = self.sign_in(key)
            assert response.status == 200, response
            self.token = response.body["csrf_token"]

    def sign_in(self, key: str, **headers: str) -> Response:
        response = self.ask("POST", SESSION, {"key": key}, **headers)
        if "set-cookie" in response.headers:
            self.cookie = response.headers["set-cookie"].partition(";")[0]
        return response

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Response:
        all_headers = {
            "cookie": self.cookie,
            "x-gateway-csrf": self.token,
            "sec-fetch-site": "same-origin",
            **self.headers,
        }
        all_headers |= JSON if body is not None else {}
        all_headers |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = json.dumps(body).encode() if body is not None else None
        return self.gateway.ask(method, path, content, {name: value for name, value in all_headers.items() if value})


# --- the page -----------------------------------------------------------------------------------------------


def test_the_page_and_its_modules(served: Harness) -> None:
    ask = served.gateway.ask
    root = ask("GET", "/", None, {"x-forwarded-host": "evil.example"})
    assert (root.status, root.headers["location"]) == (307, "/console")
    page = ask("GET", "/console")
    assert page.status == 200 and page.headers["cache-control"] == "no-cache"
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert page.headers["x-frame-options"] == "DENY" and page.headers["x-content-type-options"] == "nosniff"
    assert not re.search(rb"<script(?![^>]*src=)|<style|\bon\w+=|javascript:", page.data), "no code in the page"
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.data.decode())
    assert len(addresses) > 5 and all(address.startswith("/console/static/") for address in addresses)
    for address in addresses:
        module = ask("GET", address, None, {"accept-encoding": "gzip"})
        assert module.status == 200 and "immutable" in module.headers["cache-control"]
        assert module.headers["content-encoding"] == "gzip" and gzip.decompress(module.data)
        assert module.headers["content-security-policy"] == policy
    tag = page.headers["etag"]
    assert ask("GET", "/console", None, {"if-none-match": tag}).status == 304
    assert ask("GET", "/console/keys/anything?x=1").data == page.data, "any address of a screen"
    for missing in ("static/x/scripts/main.mjs", "static/../../pages.py", f"{addresses[0].split('/')[3]}/pages.py"):
        assert ask("GET", f"/console/static/{missing}").status == 404
    log = served.gateway.log.line_of(page.headers["x-request-id"])
    assert log["operation"] == "console"


def test_it_can_be_switched_off() -> None:
    with run_harness(key="", console=ConsoleSettings(enabled=False)) as off:
        for path in ("/", "/console", SESSION):
            assert off.gateway.ask("GET", path).error["code"] == "unknown_url"


def test_where_no_key_is_needed() -> None:
    with demonstration() as gateway:
        info = gateway.ask("GET", SESSION).body
        assert info["demo"] and not info["sign_in"] and info["reports"]
        assert info["who"]["name"] == "demo" and info["csrf_token"] is None
        assert Browser(gateway).sign_in("anything").error["code"] == "bad_request"
        # A link on another site may open the page; what that site sends is refused as ever.
        foreign = {"sec-fetch-site": "cross-site"}
        assert gateway.ask("GET", "/console", None, {**foreign, "sec-fetch-mode": "navigate"}).status == 200
        assert gateway.ask("GET", SESSION, None, foreign).status == 403
        assert gateway.ask("GET", "/audit", None, {**foreign, "sec-fetch-mode": "navigate"}).status == 403


def test_where_callers_bring_their_own_keys() -> None:
    with run_harness() as own:
        info = own.gateway.ask("GET", SESSION, None, {}).body
        assert (info["mode"], info["who"], info["sign_in"]) == ("bring your own key", None, False)
        assert not info["reports"] and own.gateway.ask("GET", "/audit").status == 403


def test_where_anybody_may_call_from_anywhere_nobody_is_shown_the_calls() -> None:
    for host, own_machine in (("127.0.0.1", True), ("0.0.0.0", False)):
        settings = Settings(cohere_api_key=["co"], host=host, allow_open=True)
        assert is_for_one_caller(settings) is own_machine
    assert not is_for_one_caller(Settings(cohere_api_key=["co"], master_key=MASTER_KEY))
    assert is_for_one_caller(Settings(demo=True, host="0.0.0.0"))


# --- signing in ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "role"),
    [(MASTER_KEY, "master"), (secret_of("admin"), "admin"), (secret_of("viewer"), "viewer"), (secret_of("here"), "")],
)
def test_who_signs_in(served: Harness, key: str, role: str) -> None:
    browser = Browser(served.gateway)
    before = browser.ask("GET", SESSION).body
    assert before["sign_in"] and before["who"] is None and before["csrf_token"] is None
    response = browser.sign_in(key)
    assert response.body["who"]["role"] == role and response.headers["cache-control"] == "no-store"
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/" in cookie and "Secure" not in cookie
    assert key not in cookie and key not in response.data.decode()
    assert browser.ask("GET", SESSION).body["who"] == response.body["who"]
    assert key.encode() not in served.gateway.log.getvalue()
    served.gateway.log.line_of(response.headers["x-request-id"])


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [
        ("sk-unknown-000000000000000000000000", 401, "invalid_api_key"),
        (secret_of("expired"), 401, "invalid_api_key"),
        (secret_of("blocked"), 403, "key_blocked"),
        (secret_of("member"), 403, "team_blocked"),
        (secret_of("elsewhere"), 403, "address_not_allowed"),
        ("", 400, "bad_request"),
        ("k\u00e9y", 400, "bad_request"),
        ("a\nb", 400, "bad_request"),
    ],
)
def test_who_does_not(served: Harness, key: str, status: int, code: str) -> None:
    """It is the same authenticator that judges bearer keys."""
    response = Browser(served.gateway).sign_in(key)
    assert (response.status, response.error["code"]) == (status, code)
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize("secure", [{"x-forwarded-proto": "https"}, {"origin": "https://{host}"}])
def test_over_https_the_cookie_is_for_https_alone(served: Harness, secure: dict[str, str]) -> None:
    host = served.gateway.url.partition("://")[2]
    headers = {name: value.format(host=host) for name, value in secure.items()}
    browser = Browser(served.gateway, MASTER_KEY, **headers)
    assert browser.cookie.startswith(f"{SECURE_COOKIE}=")
    set_cookie = browser.sign_in(MASTER_KEY).headers["set-cookie"]
    assert "Secure" in set_cookie and "Domain" not in set_cookie and "Path=/" in set_cookie
    # A neighbouring host could set the other name, for a session of its own choosing.
    planted = browser.cookie.replace(SECURE_COOKIE, COOKIE)
    assert served.gateway.ask("GET", "/audit", None, {**headers, "cookie": planted}).status == 401


def test_a_planted_session_is_not_taken_over(served: Harness) -> None:
    """Session fixation: signing in makes a new session, whatever cookie was there."""
    attacker = Browser(served.gateway, secret_of("caller"))
    victim = Browser(served.gateway)
    victim.cookie = attacker.cookie
    victim.sign_in(MASTER_KEY)
    assert victim.cookie != attacker.cookie
    assert attacker.ask("GET", "/key/list").status == 403
    assert victim.ask("GET", "/key/list").status == 200


def test_another_site_signs_nobody_in(served: Harness) -> None:
    for headers in ({"origin": "https://evil.example"}, {"sec_fetch_site": "cross-site"}):
        assert Browser(served.gateway).sign_in(MASTER_KEY, **headers).status == 403
    form = served.gateway.ask("POST", SESSION, b'{"key":"x"}', {"content-type": "text/plain"})
    assert form.status == 415


def test_attempts_are_limited() -> None:
    attempts = SignInAttempts()
    for second in range(PER_ADDRESS):
        attempts.begin("192.0.2.1", float(second))
    with pytest.raises(CallerError) as refused:
        attempts.begin("192.0.2.1", 20.0)
    assert refused.value.failure.status == 429 and refused.value.retry_after == "281"
    attempts.begin("192.0.2.2", 20.0)  # somebody else
    attempts.begin("192.0.2.1", WINDOW_SECONDS + 1)
    for number in range(PER_ADDRESS):  # a host of IPv6 has as many addresses as it likes
        attempts.begin(f"2001:db8::{number:x}", 1000.0)
    with pytest.raises(CallerError):
        attempts.begin("2001:db8::ffff", 1000.0)
    for number in range(IN_ALL - PER_ADDRESS):
        attempts.begin(f"198.51.{number // 250}.{number % 250}", 1000.0)
    with pytest.raises(CallerError):
        attempts.begin("203.0.113.1", 1000.0)
    successes = SignInAttempts()
    for _ in range(3 * PER_ADDRESS):
        successes.begin("192.0.2.1", 1.0)
        successes.succeed("192.0.2.1")


def test_guessing_is_refused_by_the_gateway() -> None:
    with run_keyed_harness(key_of("caller")) as (harness, _):
        statuses = [Browser(harness.gateway).sign_in(f"sk-wrong-{number}").status for number in range(PER_ADDRESS + 1)]
        assert statuses == [401] * PER_ADDRESS + [429]
        refused = Browser(harness.gateway).sign_in(MASTER_KEY)
        assert refused.status == 429 and int(refused.headers["retry-after"]) > 0, "the right key waits as well"


# --- a session ----------------------------------------------------------------------------------------------


def test_a_session_is_the_key_that_signed_in(served: Harness) -> None:
    """The permissions are those of the key, for each request, at every door."""
    served.respond_with(answered("Hi."))
    caller = Browser(served.gateway, secret_of("caller"))
    chat = {"model": "command-a-03-2025", "messages": [{"role": "user", "content": "Hi"}]}
    response = caller.ask("POST", "/v1/chat/completions", chat)
    assert response.status == 200 and response.headers["x-gateway-key"] == "caller"
    (exchange,) = served.upstream.exchanges
    assert not {name.lower() for name, _ in exchange.request.headers.items()} & {"cookie", "x-gateway-csrf"}
    assert caller.ask("GET", "/key/info").body["info"]["key_alias"] == "caller"
    assert {row["key_alias"] for row in caller.ask("GET", "/audit").body["data"]} <= {"caller"}
    # A key in a header counts, and the cookie beside it does not.
    response = caller.ask("GET", "/key/info", authorization=f"Bearer {secret_of('viewer')}")
    assert response.body["info"]["key_alias"] == "viewer"


def test_what_changes_something_needs_the_token(served: Harness) -> None:
    master = Browser(served.gateway, MASTER_KEY)
    other = Browser(served.gateway, MASTER_KEY)
    for token in ("", "x", other.token):
        response = master.ask("POST", "/key/generate", {}, x_gateway_csrf=token)
        assert (response.status, response.error["code"]) == (403, "csrf_token_missing")
    for site in ("cross-site", "same-site"):
        assert master.ask("POST", "/key/generate", {}, sec_fetch_site=site).status == 403
        assert master.ask("GET", "/key/list", sec_fetch_site=site).status == 403
    assert master.ask("POST", "/key/generate", {}).status == 200


def writes() -> list[tuple[str, str]]:
    """Every route that changes something, parameters filled in."""
    application = create_app(Settings(demo=True, master_key=MASTER_KEY))
    return sorted(
        (verb, re.sub(r"\{.*?\}", "x1", route.path))
        for route in application.routes
        if isinstance(route, Route)
        for verb in route.methods or ("POST", "PUT", "PATCH", "DELETE")
        if verb not in ("GET", "HEAD") and route.path != SESSION
    )


@pytest.mark.parametrize("role", ["viewer", "caller", "master"])
def test_no_write_without_token_or_right(served: Harness, role: str) -> None:
    """All of them, found in the routes: nothing is changed by a session's cookie alone, nor by who may only read."""
    browser = Browser(served.gateway, MASTER_KEY if role == "master" else secret_of(role))
    routes = writes()
    assert len(routes) > 30
    for verb, path in routes:
        forged = browser.ask(verb, path, {}, x_gateway_csrf="")
        assert forged.status == 403, (verb, path, forged)
        managed = path.startswith(("/key/", "/team/", "/customer/", "/end_user/"))
        if role != "master" and managed:
            assert browser.ask(verb, path, {}).status == 403, (verb, path)
        elif role == "viewer" and path.startswith(("/v1/", "/cohere/", "/litellm/")):
            served.respond_with(answered("Hi."))
            assert browser.ask(verb, path, {}).status in (400, 403, 404, 405, 415), (verb, path)


def unavailable(*_: object) -> None:
    raise StoreUnavailable("away")


def test_signing_out_ends_it(served: Harness) -> None:
    browser = Browser(served.gateway, MASTER_KEY)
    assert browser.ask("DELETE", SESSION, x_gateway_csrf="").status == 403, "nobody else signs them out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "end_session", unavailable)
        response = browser.ask("DELETE", SESSION)
        assert (response.status, "set-cookie" in response.headers) == (503, False), "it is not ended everywhere"
    assert browser.ask("GET", "/key/list").status == 200
    response = browser.ask("DELETE", SESSION)
    assert response.body["who"] is None and "Max-Age=0" in response.headers["set-cookie"]
    after = browser.ask("GET", "/key/list")
    assert (after.status, after.error["code"]) == (401, "session_over")
    assert browser.ask("GET", SESSION).body["who"] is None


def test_a_key_that_is_blocked_ends_its_sessions(served: Harness) -> None:
    new_key = served.gateway.ask("POST", "/key/generate", b"{}", {**JSON, "authorization": f"Bearer {MASTER_KEY}"}).body
    browser = Browser(served.gateway, new_key["key"])
    assert browser.ask("GET", "/key/info").status == 200
    body = json.dumps({"key": new_key["key_id"]}).encode()
    served.gateway.ask("POST", "/key/block", body, {**JSON, "authorization": f"Bearer {MASTER_KEY}"})
    assert browser.ask("GET", "/key/info").error["code"] == "key_blocked"
    assert browser.ask("GET", SESSION).body["who"] is None


def test_a_session_ends_by_itself() -> None:
    signer = Sessions("root-secret", 60.0)
    session = signer.begin("sk-x", 1_000.0)
    value = signer.seal(session)
    assert signer.open(value, 1_060.0) == session
    assert signer.open(value, 1_061.0) is None, "nobody used it"
    busy = sessions.Session(session.id, session.secret, 1_000.0, 1_000.0 + sessions.LONGEST_SECONDS)
    assert signer.open(signer.seal(busy), 1_000.0 + sessions.LONGEST_SECONDS) == busy
    assert signer.open(signer.seal(busy), 1_001.0 + sessions.LONGEST_SECONDS) is None, "however busy"
    changed = ("B" if value[0] == "A" else "A") + value[1:]
    for forged in ("", "x", value[:-2], changed, "\u00e9", "A" * 10_000):
        assert signer.open(forged, 1_000.0) is None, forged
    assert Sessions("another", 60.0).open(value, 1_000.0) is None
    assert signer.csrf_token(session) != Sessions("another", 60.0).csrf_token(session)
    assert "sk-x" not in value


def test_renewing_is_asked_for(served: Harness) -> None:
    browser = Browser(served.gateway, MASTER_KEY)
    assert "set-cookie" not in browser.ask("GET", "/key/list").headers, "what refreshes itself renews nothing"
    response = browser.ask("PUT", SESSION)
    assert response.status == 200 and response.body["csrf_token"] == browser.token
    assert response.headers["set-cookie"].partition(";")[0] != browser.cookie


# --- what the pages show ------------------------------------------------------------------------------------

INSPECTED = ("/gateway/status", "/gateway/settings", "/gateway/models", "/gateway/permissions")


@pytest.mark.parametrize("path", INSPECTED)
def test_who_may_inspect_the_gateway(served: Harness, path: str) -> None:
    for_all = path in ("/gateway/models", "/gateway/permissions")
    for key, allowed in ((MASTER_KEY, True), (secret_of("viewer"), True), (secret_of("caller"), for_all)):
        response = served.gateway.ask("GET", path, None, {"authorization": f"Bearer {key}"})
        assert response.status == (200 if allowed else 403), (path, key)
        assert MASTER_KEY.encode() not in response.data and SERVER_KEY.encode() not in response.data
    assert served.gateway.ask("GET", path, None, {}).status == 401


def test_what_cohere_deprecates_is_read_when_somebody_looks(served: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the request, once a day, whether or not alerts are sent."""
    monkeypatch.setattr(model_catalog, "LOOK_UP_INTERVAL", 0.0)
    monkeypatch.setattr(inspection, "READ_SECONDS", 0.0)  # other tests may have looked
    served.respond_with(json_answer(200, {"models": [{"name": "command-r7b-12-2024", "is_deprecated": True}]}))

    def models() -> Any:
        headers = {"authorization": f"Bearer {MASTER_KEY}"}
        return served.gateway.ask("GET", "/gateway/models", None, headers).body

    models()
    monkeypatch.undo()  # the list is being read, and is not due again
    deadline = time.monotonic() + WAIT_SECONDS
    while not (answer := models())["deprecated"]:
        assert time.monotonic() < deadline
    assert answer["deprecated"] == ["command-r7b-12-2024"]
    assert [one["id"] for one in answer["data"] if one["deprecated"]] == answer["deprecated"]
    lists = [one for one in served.upstream.exchanges if one.request.path.startswith("/v1/models")]
    assert lists and models()["deprecated"] == answer["deprecated"]
    assert [one for one in served.upstream.exchanges if one.request.path.startswith("/v1/models")] == lists


def test_secrets_are_no_settings_to_be_shown() -> None:
    secrets: dict[str, Any] = {
        "master_key": MASTER_KEY,
        "cohere_api_key": ["server-secret"],
        "redis_url": "redis://:redis-secret@127.0.0.1:1/0",
        "alerts": AlertSettings(url="https://u:url-secret@hooks.example/x?token=query-secret", secret="hook-secret"),
        "metrics": MetricsSettings(token="metrics-secret"),
        "upstream": UpstreamSettings(headers={"x-team": "header-secret"}),
        "upstreams": {
            "eu": NamedUpstream(
                base_url="https://u:p-secret@eu.example/x?k=secret", api_key=["eu-secret"], models=["a"]
            )
        },
    }
    with run_harness(key=MASTER_KEY, **secrets) as harness:
        response = harness.gateway.ask("GET", "/gateway/settings")
        text = response.data.decode()
    assert "secret" not in re.sub(r'"(name|about|environment)":(\[[^]]*\]|"[^"]*")', "", text).replace("ledger", "")
    rows = {row["name"]: row for row in response.body["data"]}
    assert rows["upstreams"]["value"]["eu"]["base_url"] == "https://...@eu.example/x"
    assert rows["master_key"]["value"] == "(set)" and not rows["master_key"]["is_default"]
    assert rows["redis_url"]["value"] == "redis://...@127.0.0.1:1/0"
    assert rows["database_url"]["value"] == harness.gateway.database_url, "all of its slashes: the path is absolute"
    assert rows["workers"]["is_default"] and rows["retries.count"]["value"] == 0


def test_what_cohere_would_get(served: Harness) -> None:
    """The same translation as of a call, for whoever may ask, and nothing is sent."""
    served.respond_with(answered("Hi."))
    caller = Browser(served.gateway, secret_of("caller"))
    body = {"model": "command-r-plus", "temperature": 1.4, "messages": [{"role": "user", "content": "Hi"}]}
    response = caller.ask("POST", "/gateway/translate/chat", body)
    assert [one["text"] for one in response.body["notes"]] == [
        "temperature adjusted 1.4 -> 1.0",
        "model command-r-plus -> command-r-plus-08-2024",
    ]
    assert not served.upstream.exchanges
    caller.ask("POST", "/v1/chat/completions", body)
    (exchange,) = served.upstream.exchanges
    assert response.body["requests"] == [exchange.request.json()]
    assert caller.ask("POST", "/gateway/translate/chat", {"model": "x"}).error["param"] == "messages"
    assert caller.ask("POST", "/gateway/translate/nothing", {}).status == 400
