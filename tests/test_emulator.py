"""The emulator's HTTP: headers, keys, JSON spelling, paging, and Cohere's own SDK talking to it.

The other test_emulator_*.py files borrow from here `running` (an emulator behind a real server) and `EmulatorClient` (a
caller that sees bytes).
"""

from __future__ import annotations

import gzip
import http.client
import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import cohere
import httpx
import pytest
from hypercorn.config import Config
from starlette.applications import Starlette

from gateway.emulator import trial_limits
from gateway.emulator.app import create_emulator
from gateway.emulator.model_catalog import MODELS, REMOVED
from support.asgi_server import serve
from support.waiting import WAIT_SECONDS

KEY = {"authorization": "Bearer test"}
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
A, R7B, R, REASONING, PLUS, VISION = (
    "command-a-03-2025",
    "command-r7b-12-2024",
    "command-r-08-2024",
    "command-a-reasoning-08-2025",
    "command-a-plus-05-2026",
    "command-a-vision-07-2025",
)
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAIAAAACAQMAAABIeJ9nAAAAA1BMVEX/AAAZ4gk3AAAADElEQVQI12NgYGAAAAAE"
    "AAEnNCcKAAAAAElFTkSuQmCC"
)


@dataclass(frozen=True)
class Response:
    """An answer as bytes."""

    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.data)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of a stream, `[DONE]` left out."""
        frames = self.data.decode().split("\n\n")
        results = [frame.split("data: ", 1)[1] for frame in frames if "data: " in frame]
        return [json.loads(data) for data in results if data != "[DONE]"]


class EmulatorClient:
    """Sends one request after the other, each over a connection of its own."""

    def __init__(self, url: str, app: Starlette) -> None:
        self.url = url
        self.app = app

    def connect(self, timeout: float = WAIT_SECONDS) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=timeout)

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Response:
        connection = self.connect()
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, KEY if headers is None else headers)
            response = connection.getresponse()
            result = {name.lower(): value for name, value in response.getheaders()}
            return Response(response.status, result, response.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, **headers: str) -> Response:
        return self.ask("POST", path, body, KEY | {name.replace("_", "-"): value for name, value in headers.items()})

    def chat(self, content: Any = "Hello", **fields: Any) -> Response:
        """One chat turn; `content` is the user's unless `messages` are given."""
        body = {"model": A, "messages": [{"role": "user", "content": content}], **fields}
        return self.post("/v2/chat", body)


@contextmanager
def running(make: Callable[[], Starlette] = create_emulator) -> Iterator[EmulatorClient]:
    """An emulator behind a real server, and a caller."""
    results: list[Starlette] = []

    def factory() -> Any:
        results.append(make())
        return results[0]

    def quiet(config: Config) -> None:
        config.include_server_header = False  # the emulator sends Cohere's

    with serve(factory, configure=quiet) as url:
        yield EmulatorClient(url, results[0])


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatorClient]:
    with running() as caller:
        yield caller


@pytest.fixture(scope="module")
def sdk(emulator: EmulatorClient) -> Iterator[cohere.ClientV2]:
    with httpx.Client() as client:  # the SDK never closes one of its own
        yield cohere.ClientV2(api_key="test", base_url=emulator.url, httpx_client=client)


# --- headers, keys, JSON ------------------------------------------------------------------------------------

EVERYWHERE = {
    "access-control-expose-headers": "X-Debug-Trace-ID",
    "cache-control": "no-cache, no-store, no-transform, must-revalidate, private, max-age=0",
    "expires": "Thu, 01 Jan 1970 00:00:00 GMT",
    "pragma": "no-cache",
    "server": "envoy",
    "vary": "Origin,Accept-Encoding",
    "via": "1.1 google",
    "x-accel-expires": "0",
}


@pytest.mark.parametrize(
    ("path", "body", "status", "content_type", "numbers"),
    [
        (
            "/v2/chat",
            {"model": A, "messages": [{"role": "user", "content": "Hi"}]},
            200,
            "application/json",
            True,
        ),
        (
            "/v2/chat",
            {"model": A, "messages": [{"role": "user", "content": "Hi"}], "stream": True},
            200,
            "text/event-stream",
            False,
        ),
        ("/v2/chat", {"model": "nobody", "messages": []}, 404, "application/json", False),
        (
            "/v2/embed",
            {"model": "embed-v4.0", "texts": ["a"], "input_type": "search_query"},
            200,
            "application/json",
            True,
        ),
        (
            "/v2/rerank",
            {"model": "rerank-v3.5", "query": "a", "documents": ["a"]},
            200,
            "application/json",
            False,
        ),
        ("/nowhere", {}, 404, "application/json", False),
    ],
    ids=["chat", "stream", "refused", "embed", "rerank", "unknown path"],
)
def test_headers(emulator: EmulatorClient, path: str, body: Any, status: int, content_type: str, numbers: bool) -> None:
    response = emulator.post(path, body)
    assert response.status == status
    assert response.headers["content-type"] == content_type
    assert EVERYWHERE.items() <= response.headers.items()
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-debug-trace-id"])
    assert response.headers["x-envoy-upstream-service-time"].isdecimal()
    assert ("num_tokens" in response.headers) is ("num_chars" in response.headers) is numbers
    assert not [name for name in response.headers if "trial" in name]


def test_the_number_headers_agree_with_the_body(emulator: EmulatorClient) -> None:
    response = emulator.chat("What is in it?")
    billed = response.body["usage"]["billed_units"]
    assert int(response.headers["num_tokens"]) == billed["input_tokens"] + billed["output_tokens"] > 0
    assert int(response.headers["num_chars"]) > 2_000  # the hidden prompt counts


@pytest.mark.parametrize(
    ("headers", "sentence"),
    [
        ({}, "no api key supplied"),
        ({"authorization": "Bearer "}, "no api key supplied"),
        ({"authorization": "Bearer invalid"}, "invalid api token"),
        ({"authorization": "Basic abc"}, "invalid api token"),
    ],
)
def test_a_bad_key_is_refused(emulator: EmulatorClient, headers: dict[str, str], sentence: str) -> None:
    response = emulator.ask("GET", "/v1/models", None, headers)
    assert (response.status, response.body["message"]) == (401, sentence)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_read_in_any_case(emulator: EmulatorClient, scheme: str) -> None:
    assert emulator.ask("POST", "/v1/check-api-key", None, {"authorization": f"{scheme} k"}).body["valid"] is True


def test_json_is_compact_ordered_and_escaped_as_go_does(emulator: EmulatorClient) -> None:
    data = emulator.chat('Repeat after me: <a> & "é" \u2028 😀').data
    body = json.loads(data)
    assert body["message"]["content"][0]["text"].startswith('<a> & "é"')
    assert b"\\u003ca\\u003e \\u0026" in data and "é".encode() in data and "😀".encode() in data
    assert b"\\u2028" in data and b"<" not in data and b"&" not in data
    assert list(body) == ["id", "message", "finish_reason", "usage"]
    assert list(body["message"]) == ["role", "content"]
    assert list(body["usage"]) == ["billed_units", "tokens", "cached_tokens"]
    assert data.startswith(b'{"id":"') and b'","message":{"role":"assistant","content":[{"type":"text","text":' in data
    assert UUID.fullmatch(body["id"])


def test_large_json_is_compressed_on_request_and_streams_are_not(emulator: EmulatorClient) -> None:
    body = {"model": "embed-v4.0", "texts": ["a"], "input_type": "search_query"}
    response = emulator.post("/v2/embed", body, accept_encoding="gzip, deflate")
    assert response.headers["content-encoding"] == "gzip"
    assert len(json.loads(gzip.decompress(response.data))["embeddings"]["float"][0]) == 1536
    assert "content-encoding" not in emulator.post("/v2/embed", body).headers
    chat = {"model": A, "messages": [{"role": "user", "content": "count to 200"}], "stream": True}
    assert "content-encoding" not in emulator.post("/v2/chat", chat, accept_encoding="gzip").headers


@pytest.mark.parametrize("path", ["/", "/v2/chat/", "/v2/nothing", "/v1/model"])
def test_an_unknown_path_is_not_found(emulator: EmulatorClient, path: str) -> None:
    response = emulator.ask("POST", path, {}, {})
    assert (response.status, response.body["message"]) == (404, "404 page not found")


def test_a_wrong_method_is_refused(emulator: EmulatorClient) -> None:
    assert emulator.ask("GET", "/v2/chat").status == 405


# --- models -------------------------------------------------------------------------------------------------


def test_models_come_in_pages(emulator: EmulatorClient) -> None:
    names: list[str] = []
    token, pages = "", 0
    while True:
        body = emulator.ask("GET", f"/v1/models?page_size=7&page_token={token}").body
        names += [model["name"] for model in body["models"]]
        pages += 1
        token = body.get("next_page_token", "")
        if not token:
            break
    assert names == [model.name for model in MODELS]
    assert pages == math.ceil(len(MODELS) / 7)
    first = emulator.ask("GET", "/v1/models").body
    assert len(first["models"]) == 20 and first["next_page_token"]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("endpoint=rerank&default_only=true", ["rerank-v3.5"]),
        ("endpoint=chat&default_only=true", [A]),
        ("endpoint=embed&page_size=2", ["embed-v5.0-pro", "embed-v5.0-fast"]),
        ("endpoint=classify", []),
    ],
)
def test_models_are_filtered(emulator: EmulatorClient, query: str, names: list[str]) -> None:
    assert [model["name"] for model in emulator.ask("GET", f"/v1/models?{query}").body["models"]] == names


@pytest.mark.parametrize(
    "query",
    [
        "page_size=0",
        "page_size=1001",
        "page_size=x",
        pytest.param(f"page_size={'9' * 5_000}", id="page_size of thousands of digits"),
        "endpoint=x",
        "default_only=true",
        "page_token=%21",
    ],
)
def test_a_bad_query_is_refused(emulator: EmulatorClient, query: str) -> None:
    assert emulator.ask("GET", f"/v1/models?{query}").status == 400


def test_a_model_tells_what_it_can(emulator: EmulatorClient) -> None:
    model = emulator.ask("GET", f"/v1/models/{A}").body
    assert list(model)[:6] == [
        "name",
        "endpoints",
        "finetuned",
        "context_length",
        "tokenizer_url",
        "default_endpoints",
    ]
    assert model["context_length"] == 288_000
    assert model["features"] == ["json_mode", "json_schema", "strict_tools", "safety_modes", "tools"]


@pytest.mark.parametrize("name", sorted(REMOVED))
def test_a_removed_model_says_when(emulator: EmulatorClient, name: str) -> None:
    response = emulator.ask("GET", f"/v1/models/{name}")
    assert response.status == 404
    assert re.match(rf"model '{name}' was removed on \w+ \d+, 20\d\d\. See https://", response.body["message"])


def test_the_models_can_be_replaced() -> None:
    row = {"name": "mine", "tools": True, "features": ["tools"], "context_length": 100}
    with running(lambda: create_emulator([row])) as emulator:
        assert [model["name"] for model in emulator.ask("GET", "/v1/models").body["models"]] == ["mine"]
        assert emulator.chat(model="mine").status == 400  # 495 hidden tokens do not fit into 100
        assert emulator.chat(model=A).status == 404


# --- trial keys ---------------------------------------------------------------------------------------------


def test_a_trial_key_has_calls_for_a_month(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_limits, "PER_MONTH", 1)
    with running(lambda: create_emulator(trial=True, clock=lambda: 0.0)) as emulator:
        assert emulator.chat().status == 200
        refused = emulator.chat()
        assert refused.status == 429 and "1 API calls / month" in refused.body["message"]


def test_a_trial_key_counts_down_and_is_stopped() -> None:
    now = [0.0]
    with running(lambda: create_emulator(trial=True, clock=lambda: now[0])) as emulator:
        first = emulator.chat()
        assert first.headers["x-trial-endpoint-call-limit"] == "20"
        assert first.headers["x-trial-endpoint-call-remaining"] == "19"
        assert first.headers["x-endpoint-monthly-call-limit"] == "1000"
        assert emulator.chat(temperature=9).headers["x-trial-endpoint-call-remaining"] == "18"
        rerank = {"model": "rerank-v3.5", "query": "a", "documents": ["a"]}
        assert "x-trial-endpoint-call-limit" not in emulator.post("/v2/rerank", rerank).headers
        statuses = [emulator.chat().status for _ in range(18)]
        assert set(statuses) == {200}
        stopped = emulator.chat()
        assert stopped.status == 429 and "20 API calls / minute" in stopped.body["message"]
        assert "x-trial-endpoint-call-limit" not in stopped.headers and "retry-after" not in stopped.headers
        now[0] = 60.0
        assert emulator.chat().status == 200


# --- Cohere's own SDK ---------------------------------------------------------------------------------------

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def test_sdk_chat(sdk: cohere.ClientV2) -> None:
    answer = sdk.chat(model=A, messages=[cohere.UserChatMessageV2(content="Reply with exactly: it works")])
    assert answer.finish_reason == "COMPLETE"
    assert answer.message.content is not None and answer.message.content[0].text == "it works"  # type: ignore[union-attr]
    assert answer.usage is not None and answer.usage.billed_units is not None


def test_sdk_stream(sdk: cohere.ClientV2) -> None:
    events = list(
        sdk.chat_stream(model=REASONING, messages=[cohere.UserChatMessageV2(content="What is 2+2?")], logprobs=True)
    )
    kinds = [event.type for event in events]
    assert kinds[0] == "message-start" and kinds[-1] == "message-end"
    assert kinds.count("content-start") == kinds.count("content-end") == 2


def test_sdk_tool_loop(sdk: cohere.ClientV2) -> None:
    messages: list[Any] = [{"role": "user", "content": "What's the weather in Paris?"}]
    request = sdk.chat(model=R7B, messages=messages, tools=[WEATHER])  # type: ignore[list-item]
    assert request.finish_reason == "TOOL_CALL" and request.message.tool_calls
    call = request.message.tool_calls[0]
    assert call.function is not None and call.function.arguments == '{"city":"Paris"}'
    messages.append(request.message)
    messages.append({"role": "tool", "tool_call_id": call.id, "content": "Sunny, 22C in Paris"})
    response = sdk.chat(model=R7B, messages=messages, tools=[WEATHER])  # type: ignore[list-item]
    assert response.message.content is not None and "Sunny, 22C in Paris" in response.message.content[0].text  # type: ignore[union-attr]
    assert response.message.citations
    assert response.message.citations[0].sources[0].id == f"{call.id}:0"  # type: ignore[index]


def test_sdk_embed_all_types(sdk: cohere.ClientV2) -> None:
    answer = sdk.embed(
        model="embed-v4.0",
        texts=[f"text {n}" for n in range(96)],
        input_type="search_document",
        embedding_types=["float", "int8", "uint8", "binary", "ubinary", "base64"],
        output_dimension=256,
    )
    embeddings = answer.embeddings
    kinds = (embeddings.float_, embeddings.int8, embeddings.uint8, embeddings.binary, embeddings.ubinary)
    assert [len(kind or ()) for kind in kinds] == [96] * 5
    assert len(embeddings.base64 or ()) == 96


def test_sdk_embed_images_and_inputs(sdk: cohere.ClientV2) -> None:
    images = sdk.embed(model="embed-v4.0", images=[PIXEL], input_type="image", embedding_types=["float"])
    assert images.images and (images.images[0].width, images.images[0].height) == (2, 2)
    content = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    mixed = sdk.embed(model="embed-v4.0", inputs=[{"content": content}], input_type="image")  # type: ignore[list-item]
    assert len((mixed.embeddings.float_ or [[]])[0]) == 1536


def test_sdk_rerank_tokenize_models(sdk: cohere.ClientV2) -> None:
    ranked = sdk.rerank(model="rerank-v3.5", query="capital of France", documents=["Cats.", "Paris is the capital."])
    assert [result.index for result in ranked.results] == [1, 0]
    tokens = sdk.tokenize(text="Hello, world!", model=A, offline=False)
    assert tokens.token_strings == ["Hello", ",", " world", "!"]
    assert sdk.detokenize(tokens=tokens.tokens, model=A, offline=False).text == "Hello, world!"
    assert sdk.models.list(page_size=100).models
    assert sdk.models.get(A).name == A


def test_sdk_errors(sdk: cohere.ClientV2, emulator: EmulatorClient) -> None:
    with pytest.raises(cohere.NotFoundError) as refused:
        sdk.chat(model="nobody", messages=[cohere.UserChatMessageV2(content="Hi")])
    assert "not found" in refused.value.body["message"]
    with httpx.Client() as client, pytest.raises(cohere.UnauthorizedError):
        cohere.ClientV2(api_key="invalid", base_url=emulator.url, httpx_client=client).models.list()
