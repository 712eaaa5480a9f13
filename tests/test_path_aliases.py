"""Base URLs: every spelling of a path leads to the route that is meant, and nothing else is touched."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from starlette.routing import Route

from gateway.app import create_app
from gateway.http.path_aliases import SPELLINGS, PathAliases
from gateway.observability.record import RequestRecord
from gateway.settings.schema import Settings
from support.app import CALLER_KEY, CHAT, A, Gateway, Harness, Response, answered, run_harness, streamed
from support.waiting import WAIT_SECONDS

SERVED = PathAliases(
    ["/v1/chat/completions", "/v1/models", "/v1/models/{name:path}", "/v1/rerank", "/v1/files", "/health/live"]
)


def mended(path: str) -> tuple[str, str]:
    """The path that is meant, and the model that it names."""
    scope: dict[str, Any] = {"path": path}
    record = RequestRecord("", "POST", path, 0.0)
    SERVED.rewrite(scope, record)
    return scope["path"], record.deployment


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/chat/completions/", "/v1/chat/completions//", "//v1/chat/completions", "/v1//chat///completions"),
        *("/chat/completions", "/chat/completions/", "//chat/completions"),
        *("/v1/v1/chat/completions", "/v1/v1/v1/chat/completions", "/v1//v1/chat/completions/"),
        *("/openai/v1/chat/completions", "/openai/chat/completions", "/v1/openai/v1/chat/completions"),
        *("/openai/v1/v1/chat/completions/", "/openai//v1/chat/completions", "/openai/openai/chat/completions"),
    ],
)
def test_all_of_them_mean_chat(path: str) -> None:
    assert mended(path) == (CHAT, "")


@pytest.mark.parametrize(
    ("path", "served", "deployment"),
    [
        ("/openai/deployments/x/chat/completions", CHAT, "x"),
        ("/openai/deployments/x/chat/completions/", CHAT, "x"),
        ("/openai/deployments/cohere/command-r/chat/completions", CHAT, "cohere/command-r"),
        ("/v1/openai/deployments/x/chat/completions", CHAT, "x"),
        ("/deployments/x/chat/completions", CHAT, "x"),
        ("/v1/deployments/x/chat/completions", CHAT, "x"),
        ("/openai/deployments/x/embeddings", "/v1/embeddings", "x"),
        ("/openai/deployments/x/audio/transcriptions", "/v1/audio/transcriptions", "x"),
        ("/openai/deployments/x/images/generations", "/v1/images/generations", "x"),
        ("/openai/deployments/chat/completions/chat/completions", CHAT, "chat/completions"),
        ("/v1/0f3c/my-gateway/compat/chat/completions", CHAT, ""),
        ("/v1/0f3c/my-gateway/compat/models", "/v1/models", ""),
        ("/v1/models/my-gateway/compat/chat/completions", "/v1/models/my-gateway/compat/chat/completions", ""),
        ("/v2/rerank", "/v1/rerank", ""),
        ("/v2/rerank/", "/v1/rerank", ""),
        ("/v1/v2/rerank", "/v1/rerank", ""),
        ("/rerank", "/v1/rerank", ""),
        ("/v1/models/cohere/x/", "/v1/models/cohere/x", ""),
        ("/models/cohere/x", "/v1/models/cohere/x", ""),
        ("/v1/models/", "/v1/models", ""),
        ("/openai/models", "/v1/models", ""),
        ("/files/f/content", "/v1/files/f/content", ""),
    ],
)
def test_others(path: str, served: str, deployment: str) -> None:
    assert mended(path) == (served, deployment)


UNTOUCHED = (
    *("/cohere/v1/v1/chat", "/cohere/v2/chat/", "/cohere//v2/chat", "/litellm/cohere/v1/models/", "/cohere/chat"),
    *("/health/live", "/health/live/", "/metrics/", "/openapi.json", "/key/generate/", "/audit", "/usage/", "/"),
    *("/v2/chat", "/v2/embed", "/v10/chat/completions", "/x/v1/chat/completions", "/V1/chat/completions"),
    *("/v1/models/x", CHAT, "/v1/models/v1/x", "", "*"),
)


@pytest.mark.parametrize("path", UNTOUCHED)
def test_what_is_not_openais_is_left_alone(path: str) -> None:
    assert mended(path) == (path, "")


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda spelling: spelling.label)
def test_each_row_has_an_example_that_it_is_about(spelling: Any) -> None:
    path = spelling.example.partition("?")[0]
    assert spelling.pattern.search(path)
    assert mended(path)[0] in (CHAT, "/v1/rerank")


def test_no_row_leads_out_of_openais_api() -> None:
    words = ["v1", "openai", "deployments", "chat", "completions", "x", "..", "cohere", "metrics", "", "v2"]
    paths = [f"/{a}/{b}/{c}/{d}" for a in words for b in words for c in words for d in words]
    for path in paths:
        after, _ = mended(path)
        assert after == path or after.startswith("/v1"), path


# --- served -------------------------------------------------------------------------------------------------


@contextmanager
def sdk(gateway: Gateway, base: str, kind: Any = openai.OpenAI, **options: Any) -> Iterator[Any]:
    with openai.DefaultHttpxClient(trust_env=False, verify=False) as http_client:
        values = {"base_url": gateway.url + base} if kind is openai.OpenAI else {"azure_endpoint": gateway.url + base}
        yield kind(api_key="any", max_retries=0, timeout=WAIT_SECONDS, http_client=http_client, **values, **options)


QUESTION: Any = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize("base", ["/v1", "/v1/", "", "/", "/openai/v1", "/openai/v1/", "/v1/v1", "/openai"])
def test_the_sdk_with_any_base_url(demo: Gateway, base: str) -> None:
    with sdk(demo, base) as client:
        completion = client.chat.completions.create(model=f"cohere/{A}", messages=QUESTION)
        assert "emulator" in completion.choices[0].message.content
        assert f"cohere/{A}" in [model.id for model in client.models.list()]
        assert client.models.retrieve(f"cohere/{A}").id == f"cohere/{A}"


def _routes() -> list[tuple[str, str]]:
    """Every method and path of OpenAI's API that is served, parameters filled in."""
    guard = create_app(Settings(demo=True))
    routes = [route for route in guard.routes if isinstance(route, Route) and route.path.startswith("/v1/")]
    return [(method, re.sub(r"{.*?}", "x1", route.path)) for route in routes for method in sorted(route.methods or ())]


RESPELLED: dict[str, Callable[[str], str]] = {
    "trailing slash": lambda path: path + "/",
    "doubled slash": lambda path: path.replace("/v1/", "/v1//", 1),
    "OpenAI's prefix": lambda path: "/openai" + path,
    "doubled version": lambda path: "/v1" + path,
    "no version": lambda path: path.removeprefix("/v1"),
}


@pytest.mark.parametrize("respelled", RESPELLED.values(), ids=RESPELLED.keys())
def test_every_route_is_reached_by_every_spelling(demo: Gateway, respelled: Callable[[str], str]) -> None:
    """Told by what an empty request is answered, which no two routes need have in common but each has with itself."""
    for method, path in _routes():
        body = None if method in ("GET", "HEAD") else b"{}"
        plain, other = (demo.ask(method, spelt, body) for spelt in (path, respelled(path)))
        assert (other.status, _code(other)) == (plain.status, _code(plain)), f"{method} {respelled(path)}"


def _code(response: Response) -> Any:
    return response.error["code"] if response.status >= 400 and response.data else None


@pytest.mark.parametrize("path", [f"{CHAT}/", f"{CHAT}//", "/v1/models/", "/models//"])
def test_a_slash_at_the_end_on_the_real_server(demo: Gateway, path: str) -> None:
    """Its rows about what lies below these paths are not about them."""
    method, body = ("GET", None) if "models" in path else ("POST", {"model": A, "messages": QUESTION})
    assert demo.ask(method, path, body).status == 200


AZURES: tuple[dict[str, str], ...] = ({"azure_deployment": A}, {})


@pytest.mark.parametrize("options", AZURES, ids=["a deployment", "the model's name"])
@pytest.mark.parametrize("base", ["", "/", "/v1"])
def test_azures_client_whole_and_streamed(demo: Gateway, base: str, options: dict[str, str]) -> None:
    with sdk(demo, base, openai.AzureOpenAI, api_version="2024-10-21", **options) as client:
        completion = client.chat.completions.create(model=A, messages=QUESTION)
        assert completion.model == A
        assert "emulator" in completion.choices[0].message.content
        stream = client.chat.completions.create(model=f"cohere/{A}", messages=QUESTION, stream=True)
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
        assert "".join(pieces) == completion.choices[0].message.content


def test_azures_client_asks_for_vectors(demo: Gateway) -> None:
    with sdk(demo, "", openai.AzureOpenAI, api_version="2024-10-21", azure_deployment="embed-v4.0") as client:
        response = client.embeddings.with_raw_response.create(model="ada", input=["a", "b"], dimensions=256)
        assert [len(one.embedding) for one in response.parse().data] == [256, 256]
        assert response.headers["x-gateway-notes"] == "model ada -> embed-v4.0 (the deployment in the URL)"


def test_azures_client_of_today(demo: Gateway) -> None:
    """Its new API is OpenAI's, with the key in a header of its own."""
    with sdk(demo, "/openai/v1/") as client:
        response = client.with_options(default_headers={"api-key": "any"}).responses.create(model=A, input="Say cobalt")
        assert response.output_text == "cobalt"


@pytest.fixture
def harness() -> Iterator[Harness]:
    with run_harness() as harness:
        yield harness


AZURE = f"/openai/deployments/{A}/chat/completions?api-version=2024-10-21"
KEY = {"api-key": CALLER_KEY, "content-type": "application/json"}


def test_azures_key_goes_to_cohere(harness: Harness) -> None:
    harness.respond_with(answered())
    response = harness.gateway.ask("POST", AZURE, {"messages": QUESTION}, KEY)
    assert response.status == 200
    assert response.body["model"] == A
    (request,) = harness.upstream.requests
    assert request.headers.first("authorization") == f"Bearer {CALLER_KEY}"
    assert b'"model":"%s"' % A.encode() in request.body


def test_at_azure_the_deployment_is_the_model_whatever_the_body_says(harness: Harness) -> None:
    for script, stream in ((answered(), False), (streamed(), True)):
        harness.respond_with(script)
        response = harness.gateway.ask("POST", AZURE, {"model": "gpt-4o", "messages": QUESTION, "stream": stream}, KEY)
        assert response.status == 200
        assert response.headers["x-gateway-notes"] == f"model gpt-4o -> {A} (the deployment in the URL)"
        (request,) = harness.upstream.requests
        assert b'"model":"%s"' % A.encode() in request.body


@pytest.mark.parametrize(
    ("body", "code"),
    [(b'{"a":', "invalid_json"), (b"[]", "invalid_type"), (b'{"model":5}', "missing_required_parameter")],
)
def test_a_body_that_is_none_at_azure(harness: Harness, body: bytes, code: str) -> None:
    harness.respond_with(answered())
    response = harness.gateway.ask("POST", AZURE, body, KEY)
    assert (response.status, response.error["code"]) == (400, code)
    assert not harness.upstream.requests


CLOUDFLARE = "/client/v4/accounts/0123abcd/ai/v1"


def test_cloudflares_urls_of_openais_api(demo: Gateway) -> None:
    for path, body in (
        ("/chat/completions", {"model": A, "messages": QUESTION}),
        ("/responses", {"model": A, "input": "Hi"}),
        ("/embeddings", {"model": "embed-v4.0", "input": "Hi"}),
    ):
        assert demo.ask("POST", f"{CLOUDFLARE}{path}", body).status == 200
    assert demo.ask("POST", f"{CLOUDFLARE}/nothing", {}).error["code"] == "unknown_url"


@pytest.mark.parametrize(
    "prefix", ["0123abcd/our-gateway", "acct/our-gateway", "cohere/our-gateway", "acct/cohere", "cohere/cohere"]
)
def test_cloudflares_urls_of_coheres_api(harness: Harness, prefix: str) -> None:
    harness.respond_with(answered())
    path = f"/v1/{prefix}/cohere/v2/chat"
    response = harness.gateway.ask("POST", path, {"model": f"cohere/{A}", "messages": QUESTION})
    assert response.status == 200 and "finish_reason" in response.body
    (request,) = harness.upstream.requests
    assert request.path == "/v2/chat"
    assert b'"model":"%s"' % A.encode() in request.body


def test_an_error_at_cloudflares_url_has_coheres_shape(harness: Harness) -> None:
    harness.respond_with(answered())
    response = harness.gateway.ask("POST", "/v1/acct/gw/cohere/v2/../chat", {"model": A})
    assert response.status == 400 and "message" in response.body


@pytest.mark.parametrize("path", ["/v1/models/x/cohere/y", "/v1/models/cohere/command-r-08-2024"])
def test_a_models_name_is_no_url_of_cloudflares(demo: Gateway, path: str) -> None:
    response = demo.ask("GET", path, None)
    assert (
        response.status in (200, 404)
        and response.body.get("object") == "model"
        or response.error["code"] == "model_not_found"
    )


@pytest.mark.parametrize("path", ["/cohere/v1/chat/", "/litellm/cohere/v2/chat", "/deployments/x/nothing", "/v2/chat"])
def test_nothing_is_served_where_nothing_is_meant(harness: Harness, path: str) -> None:
    harness.respond_with(answered())
    harness.gateway.ask("POST", path, {"messages": QUESTION})
    assert not any(b'"model"' in request.body for request in harness.upstream.requests)


def test_the_log_has_the_path_that_was_requested(harness: Harness) -> None:
    harness.respond_with(answered())
    response = harness.gateway.ask("POST", "/chat/completions/", {"model": A, "messages": QUESTION})
    line = harness.gateway.log.line_of(response.headers["x-request-id"])
    assert (line["path"], line["operation"]) == ("/chat/completions/", "chat")
