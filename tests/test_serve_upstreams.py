"""Several upstreams: which of them is asked for a model, which after it, and where that can be seen.

The default upstream and a vault are scripted, so that each can fail in every way; two emulators show the whole of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.app import controlled_app
from gateway.cohere_methods import METHODS
from gateway.observability.access_log import Log
from gateway.settings.loading import load
from gateway.settings.schema import BreakerSettings, CacheSettings, NamedUpstream, Retries, SettingError, Settings
from gateway.upstream import router
from support.app import (
    CHAT,
    SERVER_KEY,
    A,
    Gateway,
    Response,
    answered,
    emulator,
    gateway_over,
    piece,
    start,
    streamed,
    whole,
)
from support.app import opened as begun
from support.ledger import wait_for_rows
from support.scripted_upstream import (
    Cut,
    Request,
    Reset,
    Script,
    ScriptedUpstream,
    event_stream,
    json_answer,
    transcript,
)

R = "command-r7b-12-2024"
VAULT_KEY = "key-of-the-vault-0001"
BODY: Mapping[str, Any] = {"model": A, "messages": [{"role": "user", "content": "Hello"}]}
EMBED = {"model": "embed-v4.0", "input": "Hi"}


@dataclass
class Two:
    """A gateway over a default upstream and a vault."""

    gateway: Gateway
    default: ScriptedUpstream
    vault: ScriptedUpstream
    scripts: dict[str, Script]

    def respond_with(self, default: Script | None = None, vault: Script | None = None) -> None:
        """What both answer from now on."""
        self.scripts.update(default=default or answered(), vault=vault or answered())
        self.default.exchanges.clear()
        self.vault.exchanges.clear()

    def request_counts(self) -> tuple[int, int]:
        """How many requests each has had, but for those of the list of models: the default upstream, the vault."""
        default, vault = (
            sum(not request.path.startswith("/v1/models") for request in upstream.requests)
            for upstream in (self.default, self.vault)
        )
        return default, vault

    def ask(self, path: str = CHAT, body: Any = BODY, verb: str = "POST", **headers: str) -> Response:
        usual = {"authorization": "Bearer any", "content-type": "application/json"}
        return self.gateway.ask(verb, path, body, {**usual, **headers})


@contextmanager
def two(vault: Mapping[str, Any] | None = None, **settings: Any) -> Iterator[Two]:
    """vault: what its table says beside address and key."""
    scripts: dict[str, Script] = {}

    def respond_as(name: str) -> Any:
        return lambda request: scripts[name]

    with (
        ScriptedUpstream(respond_as("default")).run_in_thread() as default,
        ScriptedUpstream(respond_as("vault")).run_in_thread() as second,
    ):
        table = {"models": ["command-a-*", "embed-v4.0"], "fall_back_to_default": True, **(vault or {})}
        named = NamedUpstream(base_url=second.url, api_key=[VAULT_KEY], **table)
        values = {"cohere_api_key": [SERVER_KEY], "upstreams": {"vault": named}, **settings}
        with gateway_over(default.url, **values) as gateway:
            harness = Two(gateway, default, second, scripts)
            harness.respond_with()
            yield harness


@pytest.fixture(scope="module")
def served() -> Iterator[Two]:
    with two({"names": {A: "our-deployment-7"}, "headers": {"x-tenant": "t-1"}}) as harness:
        yield harness


def last_request(upstream: ScriptedUpstream) -> Request:
    return upstream.requests[-1]


# --- which one is asked ---------------------------------------------------------------------------------------

CALLS: tuple[tuple[str, Any], ...] = (
    (CHAT, BODY),
    (CHAT, {**BODY, "model": f"cohere/{A}"}),
    ("/v1/responses", {"model": A, "input": "Hi"}),
    ("/cohere/v2/chat", BODY),
    ("/cohere/v1/chat", {"model": A, "message": "Hi"}),
    ("/litellm/cohere/v2/chat", {**BODY, "model": f"cohere/{A}"}),
)


@pytest.mark.parametrize(("path", "body"), CALLS)
def test_a_model_goes_where_it_is_served(served: Two, path: str, body: Any) -> None:
    served.respond_with()
    response = served.ask(path, body)
    assert response.status == 200 and served.request_counts() == (0, 1), response
    assert response.headers["x-gateway-upstream"] == "vault"
    request = last_request(served.vault)
    assert request.json()["model"] == "our-deployment-7", "the vault's own name of it"
    assert request.headers["authorization"] == [f"Bearer {VAULT_KEY}"] and request.headers["x-tenant"] == ["t-1"]
    assert served.gateway.log.line_of(response.headers["x-request-id"])["upstream"] == "vault"
    if not path.startswith("/cohere"):
        assert "our-deployment" not in json.dumps(response.body), "callers know the model by its own name"


@pytest.mark.parametrize(("path", "body"), CALLS)
def test_other_models_go_to_the_default(served: Two, path: str, body: Any) -> None:
    served.respond_with()
    response = served.ask(path, {**body, "model": R})
    assert response.status == 200 and served.request_counts() == (1, 0), response
    assert response.headers["x-gateway-upstream"] == "default"
    request = last_request(served.default)
    assert request.json()["model"] == R and request.headers["authorization"] == [f"Bearer {SERVER_KEY}"]
    assert "x-tenant" not in request.headers


def test_streams_and_embeddings_are_routed(served: Two) -> None:
    served.respond_with(vault=streamed("Hi", " from the vault."))
    response = served.ask(body={**BODY, "stream": True})
    assert response.text == "Hi from the vault." and response.headers["x-gateway-upstream"] == "vault"
    served.respond_with(vault=json_answer(200, {"id": "e", "embeddings": {"float": [[0.5]]}, "texts": ["Hi"]}))
    assert served.ask("/v1/embeddings", EMBED).status == 200
    assert served.request_counts() == (0, 1) and last_request(served.vault).json()["model"] == "embed-v4.0"


RECORDED = (
    b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\n%b\r\n'
    b'--x\r\ncontent-disposition: form-data; name="language"\r\n\r\nen\r\n'
    b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    b'RIFF; name="model"\r\n\r\n\r\n--x--\r\n'
)
TRANSCRIBE = "cohere-transcribe-03-2026"


def test_recordings_are_routed_at_both_doors() -> None:
    transcribed = json_answer(200, {"text": "Hi"})
    with two({"models": ["cohere-transcribe-*"], "names": {TRANSCRIBE: "our-ears"}}) as harness:
        for path in ("/cohere/v2/audio/transcriptions", "/v1/audio/transcriptions"):
            for model, counts in ((TRANSCRIBE, (0, 1)), ("another", (1, 0))):
                harness.respond_with(transcribed, transcribed)
                kind = {"content-type": "multipart/form-data; boundary=x"}
                response = harness.ask(path, RECORDED % model.encode(), **kind)
                assert response.status == 200 and harness.request_counts() == counts, (path, model, response)
                body = last_request(harness.vault if counts[1] else harness.default).body
                named, rest = (b"our-ears" if counts[1] else b"another"), RECORDED.split(b"%b")
                if path.startswith("/cohere"):
                    assert body == named.join(rest), "nothing else is changed"
                else:
                    assert b'name="model"\r\n\r\n%b\r\n' % named in body and b"RIFF" in body


def native_bodies() -> Iterator[tuple[str, Any]]:
    """What a caller may send to each of Cohere's methods whose body is JSON and names a model."""
    for method in METHODS:
        if method.takes == "json" and method.names_model and method.acts_on == "model":
            yield f"/cohere{method.path}", {"model": A, "texts": ["Hi"], "future": 1.50}
            yield f"/litellm/cohere{method.path}", {"model": f"cohere/{A}", "texts": ["Hi"]}
    yield "/v1/rerank", {"model": A, "query": "q", "documents": ["d"]}
    yield "/v1/embeddings", {"model": A, "input": ["Hi"]}
    yield "/v1/responses/compact", {"model": A, "input": [{"role": "user", "content": "Hi"}]}


def test_every_method_says_the_vaults_name_of_a_model() -> None:
    with two({"names": {A: "our-deployment-7"}, "stored_resources": True}) as harness:
        for path, body in native_bodies():
            harness.respond_with()
            harness.ask(path, body)
            assert harness.request_counts() == (0, 1), path
            request = last_request(harness.vault).json()
            assert request["model"] == "our-deployment-7" and request.get("future") == body.get("future"), path


def test_answers_in_the_cache_are_told_apart_by_upstream() -> None:
    cache = CacheSettings("memory")
    body_of_chat = {**BODY, "temperature": 0}
    with two(cache=cache) as harness:
        for path, body in ((CHAT, body_of_chat), (CHAT, {**body_of_chat, "stream": True}), ("/v1/embeddings", EMBED)):
            answer = streamed() if body.get("stream") else answered()
            if path != CHAT:
                answer = json_answer(200, {"id": "e", "embeddings": {"float": [[0.5]]}, "texts": ["Hi"]})
            harness.respond_with(answer, json_answer(503, {"message": "down"}))
            assert harness.ask(path, body).headers["x-gateway-upstream"] == "default"
            harness.respond_with(answer, answer)
            again = harness.ask(path, body)
            assert (again.headers["x-gateway-cache"], harness.request_counts()) == ("miss", (0, 1)), (
                "the vault's is another"
            )
            assert harness.ask(path, body).headers["x-gateway-cache"] == "hit"
            assert harness.request_counts() == (0, 1)


@pytest.mark.parametrize(
    "body", [b'{"model": "command-r7b-12-2024", "Model": "command-a-03-2025", "messages": []}', b"[]", b"\xff"]
)
def test_a_native_body_whose_model_may_be_another_is_refused(served: Two, body: bytes) -> None:
    served.respond_with()
    response = served.ask("/cohere/v2/chat", body)
    assert response.status == 400 and "it is routed by that" in response.body["message"]
    assert served.ask("/cohere/v2/chat", BODY, **{"content-encoding": "gzip"}).status == 400
    assert served.request_counts() == (0, 0)


STORED: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/cohere/v1/datasets", None),
    ("POST", "/cohere/v1/datasets?name=n&type=embed-input", b"rows"),
    ("GET", "/cohere/v1/embed-jobs/j1", None),
    ("POST", "/cohere/v1/embed-jobs", {"model": "embed-v4.0", "dataset_id": "d"}),
    ("POST", "/cohere/v2/batches", {"model": A, "name": "n", "input_dataset_id": "d"}),
    ("GET", "/cohere/v1/finetuning/finetuned-models", None),
    ("GET", "/cohere/v1/connectors", None),
)


@pytest.mark.parametrize("holds", [False, True])
def test_what_is_stored_is_all_at_one_of_them(holds: bool) -> None:
    """Whatever the model: a job cannot be apart from its dataset."""
    with two({"stored_resources": holds}) as harness:
        for verb, path, body in STORED:
            for status in (200, 503):
                script = json_answer(status, {"message": "x"})
                harness.respond_with(script, script)
                content_type = {"content-type": "multipart/form-data; boundary=x"} if isinstance(body, bytes) else {}
                assert harness.ask(path, body, verb, **content_type).status == status
                assert harness.request_counts() == ((0, 1) if holds else (1, 0)), (verb, path)


# --- which one after it ---------------------------------------------------------------------------------------

BUSY = json_answer(429, {"message": "too many"})
FAILURES: Mapping[str, tuple[Script, bool]] = {
    "500": (json_answer(500, {"message": "internal"}), True),
    "503": (json_answer(503, {"message": "later"}), True),
    "no HTTP": (json_answer(502, b"<html>"), True),
    "429": (BUSY, True),
    "key refused": (json_answer(401, {"message": "invalid api token"}), True),
    "no such model": (json_answer(404, {"message": "model not found"}), True),
    "moved": (json_answer(302, {}, {"location": "https://elsewhere.example/"}), True),
    "cut": ((Cut(),), True),
    "reset": ((Reset(),), True),
    "bad request": (json_answer(400, {"message": "messages must not be empty"}), False),
    "unprocessable": (json_answer(422, {"message": "bad schema"}), False),
    "blocked": (json_answer(498, {"message": "blocked"}), False),
}
"""What the vault answers, and whether the default upstream is asked then."""


LASTING = ("429", "key refused")
"""What a key remembers."""


@pytest.mark.parametrize("name", FAILURES)
def test_another_upstream_answers_for_one_that_fails(served: Two, name: str) -> None:
    script, moves = FAILURES[name]
    names = {"names": {A: "our-deployment-7"}}
    for path, stream in ((CHAT, False), (CHAT, True), ("/cohere/v2/chat", False), ("/cohere/v2/chat", True)):
        with ExitStack() as stack:
            harness = stack.enter_context(two(names)) if name in LASTING else served
            before = harness.gateway.metrics()
            harness.respond_with(streamed() if stream else answered(), script)
            response = harness.ask(path, {**BODY, "stream": stream})
            assert harness.request_counts() == (int(moves), 1), (path, stream)
            assert (response.status == 200) is moves, response
            assert response.headers["x-gateway-upstream"] == ("default" if moves else "vault")
            assert response.headers["x-gateway-attempts"] == ("2" if moves else "1")
            after = harness.gateway.metrics()
            grown = {name for name, value in after.items() if value > before.get(name, 0)}
            assert ('gateway_upstream_fallbacks_total{upstream="vault"}' in grown) is moves
            assert ('gateway_upstream_attempts_total{result="ok",upstream="default"}' in grown) is moves
            if moves:
                assert last_request(harness.default).json()["model"] == A, "its own name there"
    ours = response.headers["x-gateway-log-id"]
    (row,) = wait_for_rows(served.gateway.database_url, lambda row: row["id"] == ours) if harness is served else [None]
    if row is not None:
        assert [attempt["upstream"] for attempt in row["attempts"]] == ["vault", "default"][: 1 + moves]


def test_nobody_listens_there() -> None:
    nowhere = NamedUpstream(base_url="http://127.0.0.1:9", api_key=["k"], models=["*"], fall_back_to_default=True)
    with (
        ScriptedUpstream(answered()).run_in_thread() as default,
        gateway_over(default.url, cohere_api_key=[SERVER_KEY], upstreams={"nowhere": nowhere}) as gateway,
    ):
        assert gateway.chat().headers["x-gateway-upstream"] == "default"


def test_without_leave_nothing_goes_to_the_default() -> None:
    """Whoever routes a model to a place of their own may have to: its requests leave it only where they say so."""
    with two({"fall_back_to_default": False}) as harness:
        harness.respond_with(vault=json_answer(503, {"message": "later"}))
        response = harness.ask()
        assert (response.status, harness.request_counts()) == (503, (0, 1))


def test_named_upstreams_are_asked_in_their_order() -> None:
    with ExitStack() as stack:
        down = json_answer(503, {"message": "later"})
        upstreams = [stack.enter_context(ScriptedUpstream(down).run_in_thread()) for _ in range(3)]
        last = stack.enter_context(ScriptedUpstream(answered()).run_in_thread())
        named = {
            f"region-{number}": NamedUpstream(base_url=one.url, api_key=[f"key-{number}"], models=["command-*"])
            for number, one in enumerate([*upstreams, last])
        }
        with gateway_over("http://127.0.0.1:9", cohere_api_key=[SERVER_KEY], upstreams=named) as gateway:
            response = gateway.chat()
            assert (response.status, response.headers["x-gateway-upstream"]) == (200, "region-3")
            assert [len(one.requests) for one in upstreams] == [1, 1, 1]
            down_too = gateway.chat(model="embed-v4.0")
            assert down_too.status == 502, "no model of theirs"


def test_a_stream_that_has_begun_is_not_begun_again() -> None:
    with two() as harness:
        script = event_stream(transcript(start(), begun(), piece("Hi"), done=False), ending=Cut())
        harness.respond_with(streamed(), script)
        response = harness.ask(body={**BODY, "stream": True})
        assert response.status == 200 and harness.request_counts() == (0, 1)
        assert "upstream_cut" in response.data.decode()


def test_no_pause_is_made_where_another_can_answer() -> None:
    """Retries are for the last one: it has nobody behind it."""
    retries = Retries(count=2, initial_backoff=0.01, max_backoff=0.02)
    with two(retries=retries) as harness:
        harness.respond_with(answered(), json_answer(503, {"message": "later"}))
        assert harness.ask().status == 200 and harness.request_counts() == (1, 1)
        harness.respond_with(json_answer(503, {"message": "later"}), json_answer(503, {"message": "later"}))
        assert harness.ask().status == 503 and harness.request_counts() == (3, 1)


def test_other_keys_come_before_other_upstreams() -> None:
    with ScriptedUpstream(answered()).run_in_thread() as default:

        def script(request: Request) -> Script:
            return BUSY if request.headers["authorization"] == ["Bearer first"] else answered()

        with ScriptedUpstream(script).run_in_thread() as vault:
            named = NamedUpstream(
                base_url=vault.url, api_key=["first", "second"], models=["*"], fall_back_to_default=True
            )
            with gateway_over(default.url, cohere_api_key=[SERVER_KEY], upstreams={"vault": named}) as gateway:
                response = gateway.chat()
                assert (response.status, response.headers["x-gateway-upstream"]) == (200, "vault")
                assert response.headers["x-gateway-attempts"] in ("1", "2") and not default.requests


def test_a_breaker_is_one_upstreams_own() -> None:
    with two(breaker=BreakerSettings(failures=3, window=60.0, open_seconds=60.0)) as harness:
        harness.respond_with(answered(), json_answer(503, {"message": "later"}))
        for _ in range(6):
            assert harness.ask().status == 200
        assert harness.request_counts() == (6, 3), "an open breaker is not asked"
        assert harness.gateway.metrics()[f'gateway_circuit_breaker_open{{model="vault/{A}"}}'] == 1.0
        assert any("(upstream vault)" in line.get("message", "") for line in harness.gateway.log.lines)


def test_what_a_caller_allows_holds_for_all_of_them_together() -> None:
    with two() as harness:
        for headers, counts in (({"cf-aig-max-attempts": "1"}, (0, 1)), ({"cf-aig-max-attempts": "2"}, (1, 1))):
            harness.respond_with(answered(), json_answer(503, {"message": "later"}))
            assert harness.ask(**headers).status == (503 if counts == (0, 1) else 200)
            assert harness.request_counts() == counts


# --- the list of models -----------------------------------------------------------------------------------------


def listing(*names: str) -> Script:
    return json_answer(200, {"models": [{"name": name, "endpoints": ["chat"], "context_length": 8} for name in names]})


def ids(response: Response) -> list[str]:
    return [model["id"].removeprefix("cohere/") for model in response.body["data"]]


def test_the_list_has_the_models_of_all() -> None:
    table = {"models": ["command-*", "only-here", "renamed"], "names": {"renamed": "deployment"}}
    with two(table) as harness:
        harness.respond_with(listing(R, A), listing(A, "command-x", "deployment", "not-served"))
        listed = harness.ask("/v1/models", None, "GET")
        assert ids(listed) == [R, A, "command-x", "renamed", "only-here"]
        assert harness.ask("/v1/models/only-here", None, "GET").status == 200
        assert harness.ask("/v1/models/not-served", None, "GET").status == 404


NO_LISTS: dict[str, Script] = {
    "a 404": json_answer(404, {"message": "no such path"}),
    "an empty object": json_answer(200, {}),
    "null": json_answer(200, {"models": None}),
    "OpenAI's": json_answer(200, {"object": "list", "data": [{"id": "command-x"}]}),
    "an array": json_answer(200, [{"name": "command-x"}]),
    "models without names": json_answer(200, {"models": [{"id": "command-x"}]}),
}


@pytest.mark.parametrize("name", NO_LISTS)
def test_an_upstream_without_a_list_is_noted_and_hurts_no_other(name: str) -> None:
    with two({"models": ["command-*", "only-here", "renamed"], "names": {"renamed": "deployment"}}) as harness:
        harness.respond_with(listing(R), NO_LISTS[name])
        listed = harness.ask("/v1/models", None, "GET")
        assert ids(listed) == [R, "only-here", "renamed"]
        assert "upstreams without a list of models: vault" in listed.headers["x-gateway-notes"]


def test_a_name_in_a_path_is_decoded_once() -> None:
    with two({"models": ["a/b"]}) as harness:
        harness.respond_with(listing(R), json_answer(404, {}))
        assert harness.ask("/cohere/v1/models/a%2Fb", None, "GET").body == {"name": "a/b"}
        harness.respond_with(json_answer(404, {"message": "model 'a%2Fb' not found"}))
        assert harness.ask("/cohere/v1/models/a%252Fb", None, "GET").status == 404


def test_a_native_list_that_names_no_models_is_passed_on() -> None:
    with two({"models": ["only-here"]}) as harness:
        harness.respond_with(json_answer(200, {"x": 1}), json_answer(404, {}))
        page = harness.ask("/cohere/v1/models", None, "GET").body
        assert page == {"x": 1, "models": [{"name": "only-here"}]}


def names_of(response: Response) -> list[str]:
    return [model["name"] for model in response.body["models"]]


def test_the_native_list_has_the_models_of_all() -> None:
    table = {"models": ["command-*", "only-here", "renamed"], "names": {"renamed": "deployment"}}
    with two(table) as harness:
        harness.respond_with(listing(R, A), listing(A, "command-x", "deployment", "not-served"))
        listed = harness.ask("/cohere/v1/models?page_size=1000", None, "GET")
        assert names_of(listed) == [R, A, "command-x", "renamed", "only-here"]
        assert names_of(harness.ask("/cohere/v1/models?endpoint=chat", None, "GET")) == [R, A, "command-x", "renamed"]
        page = json_answer(200, {"models": [{"name": R}], "next_page_token": "t"})
        harness.respond_with(page, listing(A))
        assert harness.ask("/cohere/v1/models?page_size=1", None, "GET").body == {
            "models": [{"name": R}],
            "next_page_token": "t",
        }
        harness.respond_with(json_answer(404, {"message": "none"}), listing(A))
        for name, status in (("renamed", 200), ("not-served", 404)):
            response = harness.ask(f"/cohere/v1/models/{name}", None, "GET")
            assert response.status == status and (status == 404 or response.body["name"] == name), response


def test_the_compatible_list_has_the_models_of_all() -> None:
    """In OpenAI's shape, as Cohere's compatibility API has it; its own entries are as they came."""
    table = {"models": ["command-*", "only-here"]}
    own = {"id": R, "object": "model", "created": 7, "owned_by": "cohere", "kind": "chat"}

    with two(table) as harness:
        harness.respond_with(
            json_answer(200, {"object": "list", "data": [own], "models": [{"name": R}]}), listing(A, "not-served")
        )
        body = harness.ask("/cohere/compatibility/v1/models", None, "GET").body
        assert [model["id"] for model in body["data"]] == [R, A, "only-here"]
        assert body["object"] == "list" and body["data"][0] == own and body["data"][1]["object"] == "model"
        harness.respond_with(json_answer(200, {"object": "list", "models": []}), listing(A))
        assert harness.ask("/cohere/compatibility/v1/models", None, "GET").status == 502


# --- settings ---------------------------------------------------------------------------------------------------

ENVIRONMENT = {"COHERE_API_KEY": "k", "GATEWAY_MASTER_KEY": "sk-master-of-upstreams-1"}
TABLE: Mapping[str, Any] = {"base_url": "https://vault.example/api/v2/", "api_key": "one, two", "models": ["*"]}


def loaded(table: Mapping[str, Any], name: str = "eu", **environment: str) -> Settings:
    return load({**ENVIRONMENT, "GATEWAY_UPSTREAMS": json.dumps({name: table}), **environment})


def test_an_upstream_is_a_table() -> None:
    upstream = loaded(TABLE).upstreams["eu"]
    assert (upstream.base_url, upstream.api_key) == ("https://vault.example/api", ["one", "two"])
    without = {name: value for name, value in TABLE.items() if name != "api_key"}
    settings = loaded(without, "model-vault", GATEWAY_UPSTREAMS_MODEL_VAULT_API_KEY="three")
    assert settings.upstreams["model-vault"].api_key == ["three"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"base_url": "vault.example"}, r"upstreams.eu.base_url: 'vault.example' is not an http or https address"),
        ({"base_url": "https://k@vault.example"}, r"the key belongs in GATEWAY_UPSTREAMS_EU_API_KEY"),
        ({"api_key": []}, r"upstreams.eu.api_key: it is missing.*GATEWAY_UPSTREAMS_EU_API_KEY"),
        ({"api_key": ENVIRONMENT["GATEWAY_MASTER_KEY"]}, "also the master key"),
        ({"models": []}, "nothing is routed there"),
        ({"models": ["embed-*"], "names": {A: "x"}}, f"'{A}' is not among its models"),
        ({"modles": ["*"]}, "unknown setting"),
        ({"ca_file": "nowhere.pem"}, r"upstreams.eu.ca_file: nowhere.pem"),
        ({"headers": {"host": "x"}}, r"upstreams.eu.headers: 'host' is set by the gateway itself"),
    ],
)
def test_a_table_that_cannot_be_meant(changes: Mapping[str, Any], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        controlled_app(loaded({**TABLE, **changes}), Log(False))


@pytest.mark.parametrize(
    ("name", "environment", "says"),
    [
        ("Default", {}, "a name is of small letters"),
        ("default", {}, "a name is of small letters"),
        ("eu", {"GATEWAY_UPSTREAMS_US_API_KEY": "x"}, "there are GATEWAY_UPSTREAMS_EU_API_KEY"),
        ("eu", {"GATEWAY_DEMO": "true"}, "in demo mode"),
        ("eu", {"COHERE_API_KEY": "", "GATEWAY_MASTER_KEY": "", "GATEWAY_HOST": "127.0.0.1"}, "master_key"),
    ],
)
def test_upstreams_that_cannot_be_meant(name: str, environment: Mapping[str, str], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        loaded(TABLE, name, **environment)


def test_a_callers_own_key_goes_nowhere_else() -> None:
    variables = {"GATEWAY_UPSTREAMS": json.dumps({"eu": TABLE})}
    with pytest.raises(SettingError, match="a caller's own Cohere key is sent to Cohere alone"):
        load(variables)


def test_two_that_hold_what_is_stored() -> None:
    both = {name: {**TABLE, "stored_resources": True} for name in ("a", "b")}
    with pytest.raises(SettingError, match="stored_resources is for one of them"):
        load({**ENVIRONMENT, "GATEWAY_UPSTREAMS": json.dumps(both)})


def test_models_and_keys_are_taken_over_and_addresses_are_not() -> None:
    named = NamedUpstream(base_url="https://vault.example", api_key=["one"], models=["command-*"])
    old = Settings(cohere_api_key=["k"], upstreams={"eu": named}, log="off")
    _, running = controlled_app(old)
    upstream = running._services.upstream
    assert isinstance(upstream, router.UpstreamRouter)
    assert [one.name for one in upstream.route("embed-v4.0")] == ["default"]
    new = replace(old, upstreams={"eu": replace(named, models=["embed-*"], api_key=["two"])})
    assert running.reload(old, new)
    assert [one.name for one in upstream.route("embed-v4.0")] == ["eu"]
    assert [one.name for one in upstream.route(A)] == ["default"]
    moved = replace(old, upstreams={"eu": replace(named, base_url="https://other.example")})
    assert running.reload(new, moved)
    assert [one.name for one in upstream.route("embed-v4.0")] == ["eu"], "it needs a restart, which the log says"


# --- the whole of it --------------------------------------------------------------------------------------------


def test_two_emulators() -> None:
    """Chat, streamed and whole, embeddings, the native API, stored responses, and the rows of the ledger."""
    with emulator() as default, emulator() as second:
        eu = NamedUpstream(base_url=second, api_key=["eu-key"], models=["command-a-*"], fall_back_to_default=True)
        with gateway_over(default, cohere_api_key=[SERVER_KEY], upstreams={"eu": eu}) as gateway:

            def upstreams(*requests: tuple[str, Mapping[str, Any]]) -> Sequence[str]:
                headers = {"authorization": "Bearer any", "content-type": "application/json"}
                answers = [gateway.ask("POST", path, body, headers) for path, body in requests]
                assert [response.status for response in answers] == [200] * len(answers), answers
                return [response.headers["x-gateway-upstream"] for response in answers]

            assert upstreams(
                (CHAT, BODY),
                (CHAT, {**BODY, "stream": True}),
                (CHAT, {**BODY, "n": 2}),
                (CHAT, {**BODY, "model": R}),
                ("/v1/responses", {"model": A, "input": "Hi"}),
                ("/v1/embeddings", EMBED),
                ("/cohere/v2/chat", {**BODY, "stream": True}),
                ("/cohere/v2/rerank", {"model": "rerank-v3.5", "query": "a", "documents": ["a", "b"]}),
            ) == ["eu", "eu", "eu", "default", "eu", "default", "eu", "default"]
            rows = wait_for_rows(gateway.database_url, lambda row: True, 8)
            by_model = {(row["model"], one["upstream"]) for row in rows for one in row["attempts"]}
            assert by_model == {(A, "eu"), (R, "default"), ("embed-v4.0", "default"), ("rerank-v3.5", "default")}
            response = gateway.ask("GET", "/audit?limit=1", None, {"authorization": "Bearer any"})
            assert response.body["data"][0]["attempts"][0]["upstream"] in ("eu", "default")


def test_the_status_has_all_of_them(served: Two) -> None:
    response = served.ask("/gateway/status", None, "GET")
    assert response.status == 200, response
    assert response.body["upstreams"] == {"vault": served.vault.url}
    assert [key["upstream"] for key in response.body["cohere_keys"]] == ["default", "vault"]
    assert VAULT_KEY not in json.dumps(response.body)


def test_the_settings_in_force_have_no_secret() -> None:
    headers = {"x-secret": "canary-in-a-header"}
    with two({"headers": headers}) as harness:
        response = harness.ask("/gateway/settings", None, "GET")
        (settings_row,) = [one["value"]["vault"] for one in response.body["data"] if one["name"] == "upstreams"]
        assert settings_row["models"] == ["command-a-*", "embed-v4.0"]
        assert (settings_row["api_key"], settings_row["headers"]) == ("(set)", "(set)")
        for secret in (VAULT_KEY, SERVER_KEY, "canary-in-a-header"):
            assert secret not in json.dumps(response.body)


def test_one_upstream_shows_nothing_of_it() -> None:
    with (
        ScriptedUpstream(json_answer(200, whole())).run_in_thread() as upstream,
        gateway_over(upstream.url, cohere_api_key=[SERVER_KEY]) as gateway,
    ):
        response = gateway.chat()
        assert "x-gateway-upstream" not in response.headers
        (row,) = wait_for_rows(gateway.database_url, lambda row: True)
        assert "upstream" not in row["attempts"][0]
        assert "upstream" not in gateway.log.line_of(response.headers["x-request-id"])
        assert not any(name.startswith("gateway_upstream_attempts_total{") for name in gateway.metrics())
