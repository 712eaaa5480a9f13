"""Who may call what: every route and every method of Cohere's, for every kind of caller, on one server.

EXPECTED is written out here, method by method, and is what the documents promise: the product's own table is made in
another way. A refusal must not reach Cohere, and must say what is missing.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.routing import Route

from gateway.app import create_app
from gateway.cohere_methods import METHODS
from gateway.endpoints.health import LIVE_PATHS, READY_PATHS
from gateway.endpoints.inspection import INSPECTIONS
from gateway.endpoints.reports import REPORTS
from gateway.endpoints.stored import STORED
from gateway.management.operations import OPERATIONS
from gateway.pipeline.operations import BATCHES, CALLS, COUNTS, LOOKUPS, UPLOADS
from gateway.settings.schema import JwtClaims, JwtSettings, Settings
from gateway.virtual_keys import EndUser, Team, VirtualKey
from support.app import MASTER_KEY, A, Harness, Response, answered, streamed
from support.scripted_upstream import json_answer
from support.virtual_keys import key_of, run_keyed_harness, secret_of
from support.waiting import WAIT_SECONDS

READS = frozenset(
    "models.list models.get check_api_key datasets.list datasets.get_usage datasets.get embed_jobs.list embed_jobs.get"
    " batches.list batches.retrieve finetuning.list_finetuned_models finetuning.get_finetuned_model"
    " finetuning.list_events finetuning.list_training_step_metrics connectors.list connectors.get"
    " compatibility.models".split()
)
INFERENCE = frozenset(
    "v2.chat v2.embed v2.rerank v2.parse chat embed rerank tokenize detokenize audio.transcriptions.create models.list"
    " models.get check_api_key compatibility.chat compatibility.embeddings compatibility.models"
    " compatibility.transcriptions".split()
)
ALL = frozenset(method.name for method in METHODS)
GROUP_OF = {method.name: method.group for method in METHODS}


def group(*names: str) -> frozenset[str]:
    return frozenset(name for name, group in GROUP_OF.items() if group in names)


SEARCH = Team(team_id="search", permissions="inference")
READERS = Team(team_id="readers", permissions="read-only")
FREE = Team(team_id="free")

EXPECTED: Mapping[str, tuple[Mapping[str, Any], frozenset[str]]] = {
    "by-default": ({}, INFERENCE),
    "empty": ({"permissions": {}}, INFERENCE),
    "none": ({"permissions": "none"}, frozenset()),
    "inference": ({"permissions": "inference"}, INFERENCE),
    "read-only": ({"permissions": "read-only"}, READS),
    "all": ({"permissions": "all"}, ALL | {"other"}),
    "datasets-read": ({"permissions": {"datasets": "read"}}, INFERENCE | (group("datasets") & READS)),
    "datasets-full": ({"permissions": {"datasets": "full"}}, INFERENCE | group("datasets")),
    "jobs": (
        {"permissions": {"embed_jobs": "full", "batches": "read", "chat": "off", "embed": "off"}},
        (INFERENCE | group("embed_jobs") | (group("batches") & READS)) - group("chat", "embed"),
    ),
    "one-method": (
        {"permissions": {"datasets": "read", "datasets.delete": "full", "v2.chat": "off", "generate": "full"}},
        (INFERENCE | (group("datasets") & READS) | {"datasets.delete", "generate"}) - {"v2.chat"},
    ),
    "every-group": (
        {"permissions": dict.fromkeys(GROUP_OF.values(), "full")},
        ALL - {"generate", "summarize"} | group("chat"),
    ),
    "of-a-team": ({"team_id": "search"}, INFERENCE),
    "above-its-team": ({"team_id": "search", "permissions": "all"}, INFERENCE),
    "inherits": ({"team_id": "readers"}, READS),
    "below-its-team": (
        {"team_id": "readers", "permissions": {"datasets": "off"}},
        (INFERENCE & READS) - group("datasets"),
    ),
    "of-a-free-team": ({"team_id": "free", "permissions": "all"}, ALL | {"other"}),
    "viewer": ({"role": "viewer"}, frozenset()),
    "calling-viewer": ({"role": "viewer", "permissions": "read-only"}, READS),
    "admin": ({"role": "admin"}, INFERENCE),
}

SIGNING_KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC_KEY = SIGNING_KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
JWT = JwtSettings(
    public_key=PUBLIC_KEY.decode(), audience="gateway", claims=JwtClaims(role="role", permissions="permissions")
)


def token_of(**claims: Any) -> str:
    values = {"sub": "somebody", "aud": "gateway", "exp": time.time() + 3600, **claims}
    return jwt.encode(values, SIGNING_KEY, "ES256")


TOKENS: Mapping[str, tuple[Mapping[str, Any], frozenset[str]]] = {
    "token": ({}, INFERENCE),
    "token-of-a-team": ({"team": "readers"}, READS),
    "token-above-its-team": ({"team": "search", "permissions": "all"}, INFERENCE),
    "token-with-permissions": ({"permissions": {"datasets": "read"}}, INFERENCE | (group("datasets") & READS)),
    "token-with-all": ({"permissions": "all"}, ALL | {"other"}),
    "token-viewer": ({"role": "viewer"}, frozenset()),
    "token-admin": ({"role": "admin"}, INFERENCE),
}
"""Claims, and what may be called with them."""

SECRETS = {name: secret_of(name) for name in EXPECTED} | {name: token_of(**one) for name, (one, _) in TOKENS.items()}
PERMITTED = {name: methods for name, (_, methods) in (*EXPECTED.items(), *TOKENS.items())}

REFUSED: Mapping[str, tuple[str, int, str]] = {
    "nobody": ("", 401, "missing_api_key"),
    "wrong": ("sk-wrong", 401, "invalid_api_key"),
    "malformed": ("'; DROP TABLE virtual_keys; --", 401, "invalid_api_key"),
    "expired": (secret_of("expired"), 401, "invalid_api_key"),
    "expired-token": (token_of(exp=1.0), 401, "invalid_api_key"),
    "token-for-somebody-else": (token_of(aud="other"), 401, "invalid_api_key"),
    "token-of-a-blocked-team": (token_of(team="shut"), 403, "team_blocked"),
    "blocked": (secret_of("blocked"), 403, "key_blocked"),
    "blocked-team": (secret_of("blocked-team"), 403, "team_blocked"),
    "lost-team": (secret_of("lost-team"), 403, "team_blocked"),
}

RECORDS: tuple[VirtualKey | Team | EndUser, ...] = (
    SEARCH,
    READERS,
    FREE,
    Team(team_id="shut", blocked=True),
    *(key_of(name, **fields) for name, (fields, _) in EXPECTED.items()),
    key_of("expired", expires=1.0),
    key_of("blocked", blocked=True),
    key_of("blocked-team", team_id="shut"),
    key_of("lost-team", team_id="gone"),
    key_of("models", models=("command-a-*", "cohere/embed-v4.0", "my-model")),
    key_of("team-models", team_id="free", models=("*",), aliases={"mine": A}),
    key_of("strict", safety_mode="STRICT", permissions="all"),
    key_of("contextual", safety_mode="CONTEXTUAL"),
    key_of("floor", safety_mode="CONTEXTUAL", permissions="all"),
    EndUser(user_id="bad-user", blocked=True),
)

# Every route: the verb, the path and the method of Cohere's that it needs; an empty one needs a key and no permission,
# None needs no key at all.
OPENAI: tuple[tuple[str, str, str | None], ...] = (
    ("POST", "/v1/chat/completions", "v2.chat"),
    ("POST", "/v1/responses", "v2.chat"),
    ("POST", "/v1/responses/compact", "v2.chat"),
    ("POST", "/v1/rerank", "v2.rerank"),
    ("POST", "/v1/embeddings", "v2.embed"),
    ("POST", "/v1/audio/transcriptions", "audio.transcriptions.create"),
    ("POST", "/v1/responses/input_tokens", "tokenize"),
    ("GET", "/v1/models", "models.list"),
    ("GET", f"/v1/models/{A}", "models.get"),
    *(
        (verb, path.replace("{id}", "x_1").replace("{item}", "i_1"), "v2.chat")
        for path in STORED
        for verb in STORED[path]
    ),
    ("POST", "/openai/deployments/command-a-03-2025/chat/completions", "v2.chat"),
    ("GET", "/v1/chat/completions", ""),
    ("GET", "/v1/nothing", ""),
    ("POST", "/v1/images/generations", ""),
    ("GET", "/console", None),
    ("GET", "/health/live", None),
    ("GET", "/health/ready", None),
    ("GET", "/metrics", None),
    ("GET", "/openapi.json", None),
)
NATIVE: tuple[tuple[str, str, str | None], ...] = tuple(
    (method.verb, prefix + re.sub(r"\{.*?\}", "x1", method.path), method.name)
    for number, method in enumerate(METHODS)
    for prefix in ("/cohere", "/litellm/cohere")[: 1 + (number % 5 == 0)]
) + (
    ("POST", "/cohere/v2/unheard-of", "other"),
    ("PUT", "/cohere/v2/chat", "other"),
    ("OPTIONS", "/cohere/v2/chat", "other"),
    ("HEAD", "/cohere/v1/datasets", "datasets.list"),
    ("TRACE", "/cohere/v2/chat", ""),
)
ROUTES = OPENAI + NATIVE
BY_METHOD = tuple({needed: (verb, path, needed) for verb, path, needed in reversed(ROUTES)}.values()) + NATIVE[-5:]
"""One route for each method, and the odd ones. Few keys walk all routes: each step is a request."""

WALKED_WHOLE = frozenset(("by-default", "none", "one-method", "of-a-team", "viewer", "token-above-its-team"))

ANYTHING = json_answer(200, {"models": [{"name": A, "endpoints": ["chat"]}, {"name": "embed-v4.0"}, {"name": "other"}]})


@pytest.fixture(scope="module")
def served() -> Iterator[Harness]:
    with run_keyed_harness(*RECORDS, jwt=JWT) as (harness, _):
        yield harness


class Caller:
    """One connection to the gateway, which is opened again where an answer closed it."""

    def __init__(self, gateway: Any, secret: str) -> None:
        self._connection = http.client.HTTPConnection(gateway.address[0], gateway.address[1], timeout=WAIT_SECONDS)
        self._headers = {"authorization": f"Bearer {secret}"} if secret else {}

    def ask(self, verb: str, path: str, body: bytes = b"{}", **headers: str) -> Response:
        body_headers = {"content-type": "application/json"} if verb not in ("GET", "HEAD") else {}
        data = body if body_headers else None
        self._connection.request(verb, path, data, {**self._headers, **body_headers, **headers})
        response = self._connection.getresponse()
        return Response(response.status, {n.lower(): v for n, v in response.getheaders()}, response.read())

    def close(self) -> None:
        self._connection.close()


def code_of(response: Response) -> str | None:
    try:
        body = json.loads(response.data)
    except ValueError:
        return None
    error = body.get("error", body) if isinstance(body, dict) else {}
    return error.get("code") if isinstance(error, dict) else None


def test_the_routes_here_are_all_there_are() -> None:
    served = {row.path for table in (CALLS, BATCHES, UPLOADS, COUNTS, LOOKUPS) for row in table} | set(STORED)
    patterns = {re.sub(r"\{.*?\}", "[^/]+", path) for path in served}
    paths = [path for _, path, _ in OPENAI]
    assert not [pattern for pattern in patterns if not any(re.fullmatch(pattern, path) for path in paths)]
    assert {name for _, _, name in NATIVE if name} == ALL | {"other"}


def all_routes() -> list[tuple[str, str]]:
    """Verb and path of whatever the application serves, OPTIONS included."""
    routes = create_app(Settings(demo=True, master_key=MASTER_KEY)).routes
    result = {
        (verb, re.sub(r"\{.*?\}", "x1", route.path))
        for route in routes
        if isinstance(route, Route)
        for verb in (*(route.methods or ("GET", "POST")), "OPTIONS")
    }
    return sorted(result)


OPEN = {*LIVE_PATHS, *READY_PATHS, "/metrics", "/openapi.json", "/console", "/console/x1"}
CONSOLE = {"/": {307, 405}, "/console/session": {200, 401, 400, 405}}
"""Signing in is tried in tests/test_serve_console.py."""


def test_every_route_wants_a_key(served: Harness) -> None:
    """Whatever else is served, the management of keys and the reports included, and whoever adds to it."""
    routes = all_routes()
    assert len(routes) > 60 and {path for _, path in routes} >= OPEN
    for secret in ("", "sk-wrong", secret_of("expired"), secret_of("blocked")):
        caller = Caller(served.gateway, secret)
        try:
            for verb, path in routes:
                status = caller.ask(verb, path).status
                if path in CONSOLE:
                    assert status in CONSOLE[path], (verb, path, secret)
                    continue
                opened = 405 if verb == "OPTIONS" else 200
                assert status == (opened if path in OPEN else 403 if "blocked" in secret else 401), (verb, path, secret)
        finally:
            caller.close()


ROLES: Mapping[str, tuple[str, str]] = {
    "key": (secret_of("by-default"), ""),
    "key with all permissions": (secret_of("all"), ""),
    "viewer": (secret_of("viewer"), "viewer"),
    "admin": (secret_of("admin"), "admin"),
    "token": (SECRETS["token-with-all"], ""),
    "token viewer": (SECRETS["token-viewer"], "viewer"),
    "token admin": (SECRETS["token-admin"], "admin"),
    "master": (MASTER_KEY, "master"),
}
OWN = frozenset(
    (
        "/key/info",
        "/audit",
        "/audit/newer",
        "/usage",
        "/user/daily/activity",
        "/spend/logs",
        "/spend/logs/v2",
        "/spend/logs/ui",
    )
)
"""What every caller reads of itself."""


@pytest.mark.parametrize("name", ROLES)
def test_what_each_role_may_manage(served: Harness, name: str) -> None:
    """All routes of management and reports: readers read, writers write, others see themselves at most."""
    secret, role = ROLES[name]
    operations = [(row.verb, path, row.writes) for row in OPERATIONS for path in row.paths]
    caller = Caller(served.gateway, secret)
    try:
        inspections = [("GET", row.path, False) for row in INSPECTIONS if row.about_all]
        for verb, pattern, writes in (*operations, *(("GET", row.path, False) for row in REPORTS), *inspections):
            path = pattern.replace("{key}", "x1")
            response = caller.ask(verb, path, b'{"nonsense": 1}')
            allowed = role in ("admin", "master") or (role == "viewer" and not writes) or path in OWN
            assert (code_of(response) == "role_not_allowed") is (response.status == 403) is not allowed, (
                verb,
                path,
                response,
            )
            assert response.status in ((200, 400, 404) if allowed else (403,)), (verb, path, response)
    finally:
        caller.close()


@pytest.mark.parametrize("name", PERMITTED)
def test_what_each_key_may_call(served: Harness, name: str) -> None:
    permitted = PERMITTED[name]
    served.respond_with(ANYTHING)
    caller = Caller(served.gateway, SECRETS[name])
    try:
        for verb, path, needed in ROUTES if name in WALKED_WHOLE else BY_METHOD:
            calls = len(served.upstream.exchanges)
            response = caller.ask(verb, path)
            refused = needed not in ("", None) and needed not in permitted
            assert (response.status == 403) is refused, (name, verb, path, response)
            assert response.status not in (401, 500), (name, verb, path, response)
            if refused:
                assert len(served.upstream.exchanges) == calls, "a refusal does not reach Cohere"
                if verb != "HEAD":
                    assert code_of(response) == "method_not_permitted", (path, response)
                    assert (b"needs" in response.data) and (
                        needed == "other" or str(needed).encode() in response.data
                    ), response
    finally:
        caller.close()


@pytest.mark.parametrize("name", REFUSED)
def test_who_may_call_nothing(served: Harness, name: str) -> None:
    secret, status, code = REFUSED[name]
    served.respond_with(ANYTHING)
    caller = Caller(served.gateway, secret)
    try:
        for verb, path, needed in ROUTES:
            response = caller.ask(verb, path)
            if needed is None:
                assert response.status == 200, (path, response)
            else:
                assert response.status == status, (name, verb, path, response)
                if verb != "HEAD":
                    assert code_of(response) == code, (path, response)
        assert not served.upstream.exchanges
    finally:
        caller.close()


def test_the_master_key_may_call_everything(served: Harness) -> None:
    served.respond_with(ANYTHING)
    caller = Caller(served.gateway, MASTER_KEY)
    try:
        for verb, path, _ in ROUTES:
            assert caller.ask(verb, path).status not in (401, 403), (verb, path)
    finally:
        caller.close()


def test_the_master_key_may_be_for_managing_only() -> None:
    with run_keyed_harness(master_may_call=False) as (harness, _):
        harness.respond_with(ANYTHING)
        caller = Caller(harness.gateway, MASTER_KEY)
        try:
            for verb, path, needed in ROUTES:
                assert (caller.ask(verb, path).status == 403) is bool(needed), (verb, path)
        finally:
            caller.close()
        assert not harness.upstream.exchanges


def test_deny_by_default() -> None:
    records = [key_of("a"), key_of("b", permissions={"embed": "full"}), key_of("c", permissions={})]
    with run_keyed_harness(*records, deny_by_default=True) as (harness, _):
        harness.respond_with(ANYTHING)
        for name, permitted in (("a", set()), ("b", {"v2.embed", "embed", "compatibility.embeddings"}), ("c", set())):
            caller = Caller(harness.gateway, secret_of(name))
            try:
                for verb, path, needed in NATIVE:
                    if needed:
                        assert (caller.ask(verb, path).status != 403) is (needed in permitted), (name, path)
            finally:
                caller.close()


# --- the sentences, and when they come ------------------------------------------------------------------------


def ask(served: Harness, name: str, path: str, body: Any = None, verb: str = "POST", **headers: str) -> Response:
    values = {"authorization": f"Bearer {secret_of(name)}", "content-type": "application/json", **headers}
    return served.gateway.ask(verb, path, body, values)


def test_a_refusal_names_the_method_the_level_and_the_grant(served: Harness) -> None:
    served.respond_with(ANYTHING)
    response = ask(served, "jobs", "/v1/embeddings", {})
    assert response.error["message"] == "v2.embed is not permitted: it needs embed: full, this key has off"
    assert (response.error["code"], response.error["type"]) == ("method_not_permitted", "permission_error")
    response = ask(served, "datasets-read", "/cohere/v1/datasets/d1", verb="DELETE")
    assert response.body["message"] == "datasets.delete is not permitted: it needs datasets: full, this key has read"
    assert response.body["code"] == "method_not_permitted"
    response = ask(served, "above-its-team", "/cohere/v1/datasets", verb="GET")
    assert response.body["message"] == "datasets.list is not permitted: it needs datasets: read, its team has off"
    response = ask(served, "every-group", "/cohere/v9/new")
    assert "needs the permissions 'all'" in response.body["message"]


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/embeddings", "/v1/audio/transcriptions", "/cohere/v2/chat"]
)
def test_a_refusal_comes_before_the_body(served: Harness, path: str) -> None:
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {secret_of('none')}\r\n"
        "content-type: application/json\r\ncontent-length: 100000\r\n\r\n"
    )
    with socket.create_connection(served.gateway.address, 60) as connection:
        connection.sendall(head.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize(("name", "status"), [("by-default", 101), ("none", 403), ("expired", 401), ("blocked", 403)])
def test_a_websocket_needs_the_permission_to_chat(served: Harness, name: str, status: int) -> None:
    upgrade = (
        f"GET /v1/responses HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {secret_of(name)}\r\n"
        "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection(served.gateway.address, 60) as connection:
        connection.sendall(upgrade.encode())
        assert connection.recv(65536).startswith(f"HTTP/1.1 {status} ".encode())


# --- models ---------------------------------------------------------------------------------------------------

MODEL_REQUESTS: tuple[tuple[str, Any, bool], ...] = (
    ("/v1/chat/completions", {"model": A, "messages": [{"role": "user", "content": "Hi"}]}, True),
    ("/v1/chat/completions", {"model": f"cohere/{A}", "messages": [{"role": "user", "content": "Hi"}]}, True),
    ("/v1/chat/completions", {"model": "command-r7b-12-2024", "messages": [{"role": "user", "content": "Hi"}]}, False),
    ("/v1/responses", {"model": "command-r7b-12-2024", "input": "Hi"}, False),
    ("/v1/responses", {"model": "command-r7b-12-2024", "input": "Hi", "background": True}, False),
    ("/v1/embeddings", {"model": "embed-english-v3.0", "input": "Hi"}, False),
    ("/v1/rerank", {"model": "rerank-v3.5", "query": "a", "documents": ["b"]}, False),
    ("/v1/responses/input_tokens", {"model": "command-r7b-12-2024", "input": "Hi"}, False),
    ("/cohere/v2/chat", {"model": A, "messages": []}, True),
    ("/cohere/v2/chat", {"model": "command-r7b-12-2024", "messages": []}, False),
    ("/cohere/v2/chat", {"messages": []}, False),
    ("/cohere/v2/chat", {"model": 7, "messages": []}, False),
    ("/cohere/v1/chat", {"message": "Hi"}, False),
    ("/cohere/v2/embed", {"model": "embed-v4.0", "texts": []}, True),
    ("/cohere/v1/classify", {"inputs": ["a"]}, False),
    ("/cohere/v1/tokenize", {"text": "a", "model": "command-r7b-12-2024"}, False),
    ("/cohere/v1/embed-jobs", {"model": "embed-english-v3.0", "dataset_id": "d"}, False),
    ("/cohere/v2/batches", {"model": "command-r7b-12-2024", "input_dataset_id": "d"}, False),
    ("/cohere/v2/batches", {"input_dataset_id": "d"}, False),
    ("/cohere/v1/finetuning/finetuned-models", {"name": "n", "settings": {}}, False),
    ("/cohere/compatibility/v1/chat/completions", {"model": "command-r7b-12-2024", "messages": []}, False),
    ("/litellm/cohere/v2/chat", {"model": "cohere/command-r7b-12-2024", "messages": []}, False),
    ("/litellm/cohere/v2/chat", {"model": f"cohere/{A}", "messages": []}, True),
    ("/cohere/v2/unheard-of", {"model": A}, False),
)


@pytest.fixture(scope="module")
def restricted() -> Iterator[Harness]:
    patterns = ("command-a-*", "cohere/embed-v4.0", "gpt-4o")
    records = (
        Team(team_id="small", models=("command-r7b-*",)),
        key_of("models", models=patterns, permissions="all"),
        key_of("inherits", team_id="small", permissions="all"),
        key_of("both", team_id="small", models=("command-*",), permissions="all"),
        key_of("apart", team_id="small", models=("command-a-*",), permissions="all"),
        key_of("recordings", models=("cohere-transcribe-*",)),
        key_of("anything", permissions="all"),
        key_of("aliased", models=(A,), aliases={"mine": A, "theirs": "command-r7b-12-2024"}),
    )
    with run_keyed_harness(*records) as (harness, _):
        yield harness


@pytest.mark.parametrize(("path", "body", "permitted"), MODEL_REQUESTS, ids=lambda value: json.dumps(value)[:60])
def test_models_are_restricted_at_every_door(restricted: Harness, path: str, body: Any, permitted: bool) -> None:
    restricted.respond_with(answered())
    response = ask(restricted, "models", path, body)
    if permitted:
        assert response.status == 200, response
    else:
        assert (response.status, code_of(response)) == (403, "model_not_permitted"), response
        assert not restricted.upstream.exchanges


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "command-a-03-2025", "Model": "command-r7b-12-2024", "messages": []}',
        b'{"MODEL": "command-r7b-12-2024", "model": "command-a-03-2025", "messages": []}',
        b'{"model": "command-r7b-12-2024", "messages": [], "model": "command-a-03-2025"}',
        b'{"mod\\u0065l": "command-r7b-12-2024", "messages": [], "model": "command-a-03-2025"}',
        b'{"model": "command-a-03-2025", "messages": [NaN]}',
        b"[]",
        b"\xff",
    ],
)
def test_a_body_that_cohere_may_read_otherwise_is_refused(restricted: Harness, body: bytes) -> None:
    restricted.respond_with(answered())
    assert ask(restricted, "models", "/cohere/v2/chat", body).status == 400
    assert not restricted.upstream.exchanges


def test_a_key_may_use_no_model_that_its_team_may_not(restricted: Harness) -> None:
    restricted.respond_with(answered())
    small = "command-r7b-12-2024"
    for name, models in (("inherits", {small}), ("both", {small}), ("apart", set())):
        for model in (A, small):
            body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
            for path in ("/v1/chat/completions", "/cohere/v2/chat"):
                assert (ask(restricted, name, path, body).status == 200) is (model in models), (name, model, path)


def test_a_keys_own_names_for_models(restricted: Harness) -> None:
    restricted.respond_with(answered())
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    for path in ("/v1/chat/completions", "/litellm/cohere/v2/chat"):
        restricted.respond_with(answered())
        assert ask(restricted, "aliased", path, {"model": "mine", **body}).status == 200
        assert restricted.upstream.requests[-1].json()["model"] == A
        assert ask(restricted, "aliased", path, {"model": "theirs", **body}).status == 403


def test_the_list_of_models_has_those_that_may_be_used(restricted: Harness) -> None:
    restricted.respond_with(ANYTHING)
    response = ask(restricted, "models", "/v1/models", verb="GET")
    assert [model["id"] for model in response.body["data"]] == [f"cohere/{A}", "cohere/embed-v4.0"]
    assert ask(restricted, "models", f"/v1/models/{A}", verb="GET").status == 200
    assert ask(restricted, "models", "/v1/models/other", verb="GET").status == 404
    assert ask(restricted, "models", "/cohere/v1/models/other", verb="GET").status == 403
    for path in ("/cohere/v1/models?page_size=5", "/litellm/cohere/v1/models"):
        response = ask(restricted, "models", path, verb="GET", **{"accept-encoding": "gzip"})
        assert [model["name"] for model in response.body["models"]] == [A, "embed-v4.0"]
        assert response.body["models"][0]["endpoints"] == ["chat"], "each as it came"
    listed = {"object": "list", "data": [{"id": A, "object": "model"}, {"id": "command-r7b-12-2024"}]}
    restricted.respond_with(json_answer(200, listed))
    response = ask(restricted, "models", "/cohere/compatibility/v1/models", verb="GET")
    assert response.body == {"object": "list", "data": [{"id": A, "object": "model"}]}


def form_of(*parts: tuple[str, str]) -> bytes:
    """A form of texts, with a file at the end of them and what follows it."""
    texts = [f"--x\r\ncontent-disposition: form-data; {name}\r\n\r\n{text}\r\n" for name, text in parts]
    return "".join([*texts, "--x--\r\n"]).encode()


FILE = ('name="file"; filename="a.wav"', "RIFF")
FORMS: tuple[tuple[bytes, int], ...] = (
    (form_of(('name="model"', "cohere-transcribe-03-2026"), FILE), 200),
    (form_of(FILE, ('name="model"', "cohere-transcribe-03-2026")), 200),
    (form_of(('name="model"', "other"), FILE), 403),
    (form_of(FILE), 403),
    (form_of(('name="model"', "cohere-transcribe-03-2026"), FILE, ('name="model"', "other")), 400),
    (form_of(('name="model"', "cohere-transcribe-03-2026"), ('name="Model"', "other"), FILE), 400),
    (form_of(('name="model[]"', "cohere-transcribe-03-2026"), FILE), 400),
    (form_of(('name="model"; filename="m"', "cohere-transcribe-03-2026"), FILE), 400),
    (b"nonsense", 400),
)


@pytest.mark.parametrize(("form", "status"), FORMS)
def test_the_model_in_a_form_counts(restricted: Harness, form: bytes, status: int) -> None:
    restricted.respond_with(json_answer(200, {"text": "Hi"}))
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert ask(restricted, "recordings", "/cohere/v2/audio/transcriptions", form, **headers).status == status
    bodies = [request.body for request in restricted.upstream.requests]
    assert bodies == ([form] if status == 200 else []), "byte for byte, or not at all"


@pytest.mark.parametrize("form", [form for form, status in FORMS if status != 403])
def test_no_form_is_read_where_its_model_decides_nothing(restricted: Harness, form: bytes) -> None:
    restricted.respond_with(json_answer(200, {"text": "Hi"}))
    headers = {"content-type": "multipart/form-data; boundary=x"}
    seen = ask(restricted, "anything", "/cohere/v2/audio/transcriptions", form, **headers)
    assert (seen.status, [request.body for request in restricted.upstream.requests]) == (200, [form])


@pytest.mark.parametrize("body", [b"nonsense", b'{"model": "a", "Model": "b"}'])
def test_no_body_is_judged_where_nothing_is_restricted(restricted: Harness, body: bytes) -> None:
    restricted.respond_with(json_answer(200, {"text": "Hi"}))
    seen = ask(restricted, "anything", "/cohere/v2/embed", body, **{"content-encoding": "gzip"})
    assert (seen.status, [request.body for request in restricted.upstream.requests]) == (200, [body])


# --- the safety mode ------------------------------------------------------------------------------------------

HELLO = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/cohere/v2/chat", "/litellm/cohere/v2/chat"])
@pytest.mark.parametrize(
    ("name", "requested_mode", "upstream_mode"),
    [
        ("strict", None, "STRICT"),
        ("strict", "OFF", "STRICT"),
        ("strict", "CONTEXTUAL", "STRICT"),
        ("strict", "STRICT", "STRICT"),
        ("contextual", None, None),
        ("contextual", "OFF", "CONTEXTUAL"),
        ("contextual", "STRICT", "STRICT"),
        ("by-default", "OFF", "OFF"),
    ],
)
def test_a_weak_safety_mode_is_raised_and_noted(
    served: Harness, path: str, name: str, requested_mode: str | None, upstream_mode: str | None
) -> None:
    served.respond_with(answered())
    body = {"model": A, "messages": HELLO, **({"safety_mode": requested_mode} if requested_mode else {})}
    response = ask(served, name, path, body)
    assert response.status == 200, response
    assert served.upstream.requests[-1].json().get("safety_mode") == upstream_mode
    assert ("safety_mode raised" in response.headers.get("x-gateway-notes", "")) is (requested_mode != upstream_mode)


def test_where_no_safety_mode_can_be_asked_for(served: Harness) -> None:
    served.respond_with(answered())
    for path in ("/cohere/v1/generate", "/cohere/compatibility/v1/chat/completions"):
        assert ask(served, "strict", path, {"model": A}).status == 403
    # Cohere's default is as strict.
    assert ask(served, "contextual", "/cohere/compatibility/v1/chat/completions", {"model": A}).status == 200
    assert ask(served, "strict", "/cohere/v1/chat", {"message": "Hi", "safety_mode": "NONE"}).status == 200
    assert served.upstream.requests[-1].json()["safety_mode"] == "STRICT"
    assert ask(served, "strict", "/cohere/v2/chat", b'{"Safety_Mode": "OFF", "model": "x"}').status == 400


BATCH = "/cohere/v2/batches"


@pytest.mark.parametrize("name", ["strict", "floor"])
def test_a_batch_whose_safety_modes_nobody_sees_is_refused(served: Harness, name: str) -> None:
    """The file of a batch is at Cohere already. A batch of embeddings has no safety modes."""
    served.respond_with(json_answer(200, {"batch": {"id": "b"}}))
    body = {"name": "n", "input_dataset_id": "d"}
    refused: tuple[Any, ...] = (body, {**body, "model": "batch-command"}, {**body, "model": A}, {**body, "model": 7})
    for one in refused:
        response = ask(served, name, BATCH, one)
        assert (response.status, code_of(response)) == (403, "method_not_permitted"), one
        assert "safety modes" in response.body["message"]
    hidden = b'{"name": "n", "model": "batch-embed-v4", "MODEL": "batch-command"}'
    assert ask(served, name, BATCH, hidden).status == 400
    assert ask(served, name, "/cohere/v2/unheard-of", {}).status == 403
    assert not served.upstream.exchanges
    assert ask(served, name, BATCH, {**body, "model": "batch-embed-v4"}).status == 200
    assert ask(served, "all", BATCH, {**body, "model": "batch-command"}).status == 200


def test_a_background_response_has_the_safety_mode(served: Harness) -> None:
    served.respond_with(streamed())
    body = {"model": A, "input": "Hi", "background": True, "safety_mode": "OFF"}
    assert ask(served, "strict", "/v1/responses", body).status == 200
    deadline = time.monotonic() + WAIT_SECONDS
    while not served.upstream.exchanges and time.monotonic() < deadline:
        time.sleep(0.01)
    assert served.upstream.requests[-1].json()["safety_mode"] == "STRICT"


# --- end users ------------------------------------------------------------------------------------------------


def test_a_blocked_end_user_is_refused(served: Harness) -> None:
    served.respond_with(answered())
    for user, status in (("bad-user", 403), ("good-user", 200)):
        body = {"model": A, "messages": HELLO, "user": user}
        assert ask(served, "by-default", "/v1/chat/completions", body).status == status


def test_a_stream_is_permitted_like_a_whole_answer(served: Harness) -> None:
    served.respond_with(streamed())
    body = {"model": A, "messages": HELLO, "stream": True}
    assert ask(served, "by-default", "/v1/chat/completions", body).text == "Hi there."
    assert ask(served, "none", "/v1/chat/completions", body).status == 403
