"""The cache through the real server: what is answered from it, what goes past it, and whose it is."""

from __future__ import annotations

import json
import re
import secrets
import socketserver
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from gateway.pipeline.response_cache import MAC_BYTES
from gateway.settings.schema import CacheSettings
from gateway.store import redis_cache
from gateway.store.memory_cache import MemoryCache
from support.app import (
    CHAT,
    A,
    Gateway,
    Harness,
    Response,
    answered,
    demonstration,
    emulator,
    end,
    gateway_over,
    run_harness,
    story,
    streamed,
    whole,
)
from support.ports import free_port
from support.redis_server import URL, needs_redis
from support.scripted_upstream import event_stream, json_answer, transcript

ZERO: dict[str, Any] = {"temperature": 0}


class Patient(Gateway):
    """Waits until the server is done with a request: it puts into the cache what its caller already has."""

    def ask(self, *request: Any, **more: Any) -> Response:
        response = super().ask(*request, **more)
        self.log.line_of(response.headers["x-request-id"])
        return response


@pytest.fixture(params=["memory", pytest.param("redis", marks=needs_redis)])
def caching(request: pytest.FixtureRequest) -> Iterator[Harness]:
    """Over a script, with a key of its own, so that no two tests share what is in Redis."""
    with run_harness(key=secrets.token_hex(8), cache=CacheSettings(store=request.param), redis_url=URL) as harness:
        harness.gateway = Patient(**vars(harness.gateway))
        yield harness


def upstream_calls(harness: Harness) -> int:
    """How often Cohere was asked."""
    return len(harness.upstream.requests)


def test_the_second_answer_costs_nothing(caching: Harness) -> None:
    caching.respond_with(answered("One."), answered("Two."))
    first, second = caching.gateway.chat(**ZERO), caching.gateway.chat(**ZERO)
    assert [response.headers["x-gateway-cache"] for response in (first, second)] == ["miss", "hit"]
    assert first.text == second.text == "One." and upstream_calls(caching) == 1
    paid, free = first.body["usage"], second.body["usage"]
    assert (paid.pop("cost"), free.pop("cost")) == (3e-05, 0)
    assert paid == free
    line = caching.gateway.log.line_of(second.headers["x-request-id"])
    assert line["cache"] == "hit" and "upstream_ms" not in line


def test_streams_are_replayed_as_streams(caching: Harness) -> None:
    caching.respond_with(streamed("On", "e."), streamed("Two."))
    ask: dict[str, Any] = {**ZERO, "stream": True, "stream_options": {"include_usage": True}}
    first, second = caching.gateway.chat(**ask), caching.gateway.chat(**ask)
    assert [response.headers["x-gateway-cache"] for response in (first, second)] == ["miss", "hit"]
    assert first.text == second.text == "One." and upstream_calls(caching) == 1
    assert second.frames[-1] == "[DONE]"
    stamp = {"id", "created"}
    paid, free = (
        [{k: v for k, v in chunk.items() if k not in stamp} for chunk in response.chunks]
        for response in (first, second)
    )
    assert (paid[-1]["usage"].pop("cost"), free[-1]["usage"].pop("cost")) == (3e-05, 0)
    assert paid == free


def test_buffered_streams_are_cached(caching: Harness) -> None:
    """A stream that is checked before it is shown is made of whole answers."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    caching.respond_with(answered('{"a": 1}'), answered('{"a": 2}'))
    ask: dict[str, Any] = {**ZERO, "stream": True, "response_format": form, "documents": ["A is 1."]}
    first, second = caching.gateway.chat(**ask), caching.gateway.chat(**ask)
    assert not json.loads(caching.upstream.requests[0].body)["stream"], "this is no buffered stream"
    assert [response.headers["x-gateway-cache"] for response in (first, second)] == ["miss", "hit"]
    assert first.text == second.text == '{"a": 1}' and upstream_calls(caching) == 1
    assert second.frames[-1] == "[DONE]"


def test_several_choices_are_separate(caching: Harness) -> None:
    caching.respond_with(answered("One."), answered("Two."), answered("Three."))
    first, second = caching.gateway.chat(n=2, **ZERO), caching.gateway.chat(n=2, **ZERO)
    texts = [[choice["message"]["content"] for choice in response.body["choices"]] for response in (first, second)]
    assert texts[0] == texts[1] and sorted(texts[0]) == ["One.", "Two."]


def test_random_responses_are_not_cached_unless_requested(caching: Harness) -> None:
    caching.respond_with(answered("One."), answered("Two."), answered("Three."))
    assert "x-gateway-cache" not in caching.gateway.chat().headers
    ttl = {"x-gateway-cache-ttl": "60"}
    first, second = caching.gateway.chat(headers=ttl), caching.gateway.chat(headers=ttl)
    assert [response.headers["x-gateway-cache"] for response in (first, second)] == ["miss", "hit"]
    assert first.text == second.text == "Two."


@pytest.mark.parametrize("headers", [{"x-gateway-cache": "bypass"}, {"x-gateway-cache-ttl": "0"}], ids=str)
def test_past_the_cache(caching: Harness, headers: dict[str, str]) -> None:
    caching.respond_with(answered("One."), answered("Two."), answered("Three."))
    caching.gateway.chat(**ZERO)
    passed = caching.gateway.chat(headers=headers, **ZERO)
    assert (passed.text, passed.headers["x-gateway-cache"]) == ("Two.", "bypass")
    assert caching.gateway.chat(**ZERO).text == "One.", "and nothing of it was kept"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({}, {"stream": False}, True),
        ({"stop": "x"}, {"stop": ["x"]}, True),
        ({"user": "ada"}, {"user": "bob"}, True),
        ({}, {"max_tokens": 5}, False),
        ({}, {"seed": 1}, False),
        ({}, {"stream": True}, False),
    ],
    ids=str,
)
def test_what_is_the_same_question(caching: Harness, one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    caching.respond_with(answered("One."), streamed("Two.") if other.get("stream") else answered("Two."))
    caching.gateway.chat(**ZERO, **one)
    assert caching.gateway.chat(**ZERO, **other).headers["x-gateway-cache"] == ("hit" if same else "miss")


def test_callers_do_not_share(caching: Harness) -> None:
    caching.respond_with(answered("One."), answered("Two."))
    caching.gateway.chat(**ZERO)
    other = caching.gateway.chat(headers={"authorization": "Bearer another"}, **ZERO)
    assert (other.text, other.headers["x-gateway-cache"]) == ("Two.", "miss")


@pytest.mark.parametrize(
    "script",
    [
        json_answer(500, {"message": "no"}),
        answered("cut", finish="ERROR"),
        json_answer(200, {"nonsense": True}),
    ],
    ids=["a refusal", "a failed answer", "nonsense"],
)
def test_failures_are_not_cached(caching: Harness, script: Any) -> None:
    caching.respond_with(script, answered("Good."))
    assert caching.gateway.chat(**ZERO).status >= 500
    assert caching.gateway.chat(**ZERO).text == "Good."


@pytest.mark.parametrize(
    "headers",
    [
        {"x-gateway-cache-ttl": "soon"},
        {"x-gateway-cache-ttl": "-1"},
        {"x-gateway-cache-ttl": "99999999"},
        {"x-gateway-cache-ttl": "9" * 5000},
        {"x-gateway-cache": "yes"},
    ],
    ids=str,
)
def test_headers_that_mean_nothing_are_refused(caching: Harness, headers: dict[str, str]) -> None:
    response = caching.gateway.chat(headers=headers)
    assert response.status == 400 and next(iter(headers)) in response.error["message"]


CALLED: dict[str, Any] = {
    "content": None,
    "tool_calls": [{"id": "pay_1", "type": "function", "function": {"name": "pay", "arguments": "{}"}}],
}
TOOL: dict[str, Any] = {"tools": [{"type": "function", "function": {"name": "pay", "parameters": {"type": "object"}}}]}


@pytest.mark.parametrize(
    ("script", "fields"),
    [
        (answered("cut o", finish="MAX_TOKENS"), {}),
        (json_answer(200, whole(finish="TOOL_CALL", **CALLED)), TOOL),
        (event_stream(transcript(*story("cut o", ending=end("MAX_TOKENS")))), {"stream": True}),
        (event_stream(transcript(*story("cut o", ending=end("MAX_TOKENS"))[:-1])), {"stream": True}),
    ],
    ids=["cut off", "a call of a tool", "a stream that is cut off", "a stream without an end"],
)
def test_what_is_cut_off_or_calls_a_tool_is_not_cached(caching: Harness, script: Any, fields: dict[str, Any]) -> None:
    caching.respond_with(script, streamed("Good.") if "stream" in fields else answered("Good."))
    assert caching.gateway.chat(**ZERO, **fields).headers["x-gateway-cache"] == "miss"
    second = caching.gateway.chat(**ZERO, **fields)
    assert (second.text, second.headers["x-gateway-cache"]) == ("Good.", "miss")


@pytest.mark.parametrize("cut", [0, 1], ids=["the first", "the last"])
@pytest.mark.parametrize("stream", [False, True])
def test_one_choice_that_is_cut_off_is_enough(caching: Harness, cut: int, stream: bool) -> None:
    def text(finish: str) -> Any:
        return event_stream(transcript(*story(ending=end(finish)))) if stream else answered(finish=finish)

    # The choices are asked at once, so which of them a script answers is chance; both orders are in the two cases.
    scripts = [text("COMPLETE"), text("COMPLETE")]
    scripts[cut] = text("MAX_TOKENS")
    caching.respond_with(*scripts, text("COMPLETE"))
    for _ in range(2):
        response = caching.gateway.chat(n=2, stream=stream, **ZERO)
        assert response.status == 200 and response.headers["x-gateway-cache"] == "miss"


def test_what_fails_a_stricter_check_is_retried(caching: Harness) -> None:
    """Cohere is told nothing of `strict`, so both ask it for the same, but only one of them checks the answer."""

    def form(strict: bool) -> dict[str, Any]:
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        return {"type": "json_schema", "json_schema": {"name": "x", "strict": strict, "schema": schema}}

    caching.respond_with(answered('{"b": 1}'), answered('{"a": 1}'))
    lax = caching.gateway.chat(response_format=form(False), **ZERO)
    strict = caching.gateway.chat(response_format=form(True), **ZERO)
    assert (lax.text, strict.text) == ('{"b": 1}', '{"a": 1}')
    assert strict.headers["x-gateway-cache"] == "miss" and upstream_calls(caching) == 2
    assert caching.gateway.chat(response_format=form(True), **ZERO).headers["x-gateway-cache"] == "hit"


DAMAGED: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "nonsense": lambda result: [b"nonsense" for _ in result],
    "empty": lambda result: [b"" for _ in result],
    "JSON of another kind": lambda result: [b"[]" for _ in result],
    "cut off": lambda result: [one[: len(one) // 2] for one in result],
    "a bit": lambda result: [one[:-2] + bytes([one[-2] ^ 1]) + one[-1:] for one in result],
    "the seal": lambda result: [bytes([one[0] ^ 1]) + one[1:] for one in result],
    "without its seal": lambda result: [one[MAC_BYTES:] for one in result],
    "another's": lambda result: result[::-1],
}


@pytest.mark.parametrize("fault", DAMAGED.values(), ids=DAMAGED.keys())
def test_what_was_damaged_in_the_store_is_a_miss(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[list[bytes]], list[bytes]]
) -> None:
    get = MemoryCache.get

    async def damaged(cache: MemoryCache, keys: Sequence[bytes]) -> list[bytes | None]:
        results = [one for one in await get(cache, keys) if one is not None]
        return [*fault(results)] if len(results) == len(keys) else [None for _ in keys]

    ways: dict[str, dict[str, Any]] = {
        CHAT: {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "n": 2, "model": A},
        "/v1/embeddings": {"model": "embed-v4.0", "input": ["one", "two"]},
    }
    ways |= {f"{CHAT}/": {**ways[CHAT], "stream": True}}
    with demonstration(cache=CacheSettings(store="memory")) as demo:
        gateway = Patient(**vars(demo))
        good = [gateway.ask("POST", path, body) for path, body in ways.items()]
        assert [response.headers["x-gateway-cache"] for response in good] == ["miss"] * 3
        assert gateway.ask("POST", CHAT, ways[CHAT]).headers["x-gateway-cache"] == "hit"
        monkeypatch.setattr(MemoryCache, "get", damaged)
        for path, body in ways.items():
            response = gateway.ask("POST", path, body)
            assert (response.status, response.headers["x-gateway-cache"]) == (200, "miss"), path
            assert b'"usage"' in response.data or b"[DONE]" in response.data


@needs_redis
def test_gateways_with_other_cohere_keys_share_no_redis() -> None:
    cache: dict[str, Any] = {"cache": CacheSettings(store="redis"), "redis_url": URL}
    ours, theirs = secrets.token_hex(8), secrets.token_hex(8)
    with emulator() as upstream:

        def ask(key: str) -> str:
            with gateway_over(upstream, cohere_api_key=[key], **cache) as gateway:
                return Patient(**vars(gateway)).chat(**ZERO).headers["x-gateway-cache"]

        assert [ask(ours), ask(theirs), ask(ours)] == ["miss", "miss", "hit"]


def test_hits_and_misses_are_counted() -> None:
    with run_harness(cache=CacheSettings(store="memory")) as harness:
        harness.respond_with(answered())
        gateway = Patient(**vars(harness.gateway))
        for _ in range(3):
            gateway.chat(**ZERO)
        counted = gateway.metrics()
    series = 'gateway_cache_lookups_total{operation="chat",result="%s"}'
    assert (counted[series % "miss"], counted[series % "hit"]) == (1, 2)
    (tokens,) = {value for name, value in counted.items() if "tokens_total" in name and 'direction="output"' in name}
    assert tokens == 3, "what came from the cache was not counted by Cohere again"


def test_without_a_cache_the_wish_is_noted() -> None:
    with run_harness() as harness:
        harness.respond_with(answered())
        response = harness.gateway.chat(headers={"x-gateway-cache-ttl": "60"}, **ZERO)
        assert "x-gateway-cache-ttl ignored" in response.headers["x-gateway-notes"]
        strict = harness.gateway.chat(headers={"x-gateway-cache-ttl": "60", "x-gateway-strict": "true"})
        assert strict.status == 400
        assert "x-gateway-cache" not in harness.gateway.chat(headers={"x-gateway-cache": "bypass"}).headers


def test_a_cache_that_fails_is_a_miss() -> None:
    port = free_port()
    with run_harness(cache=CacheSettings(store="redis"), redis_url=f"redis://127.0.0.1:{port}/0") as harness:
        harness.respond_with(answered("One."), answered("Two."))
        assert [response(harness.gateway) for response in (_chat, _chat)] == [
            (200, "One.", "miss"),
            (200, "Two.", "miss"),
        ]
        harness.gateway.log.wait(lambda line: line.get("message", "").startswith("cache: "))


COMMAND = re.compile(rb"\*\d+\r\n\$\d+\r\n([A-Za-z]+)\r\n")

SHAPES: dict[str, bytes] = {
    "a word": b"+OK\r\n",
    "a number": b":5\r\n",
    "a text": b"$5\r\nhello\r\n",
    "nothing": b"*-1\r\n",
    "no values": b"*0\r\n",
    "too many values": b"*9\r\n" + b"$1\r\nx\r\n" * 9,
    "numbers": b"*1\r\n:1\r\n",
    "lists": b"*1\r\n*1\r\n$1\r\nx\r\n",
    "texts of somebody else": b"*1\r\n$40\r\n" + b"x" * 40 + b"\r\n",
    "a text shorter than its seal": b"*1\r\n$1\r\nx\r\n",
    "an error": b"-LOADING Redis is loading the dataset in memory\r\n",
    "no length": b"$x\r\n",
    "a wrong count": b"*x\r\n",
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "the end": b"",
}


class OddRedis(socketserver.BaseRequestHandler):
    """Takes every command, and answers those that read with the same bytes."""

    def handle(self) -> None:
        while data := self.request.recv(65536):
            for command in COMMAND.findall(data):
                shape = self.server.shape if command == b"MGET" else b"+OK\r\n"  # type: ignore[attr-defined]
                if not shape:
                    return
                self.request.sendall(shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_redis_that_answers_oddly_is_a_miss(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_cache, "PAUSE_SECONDS", 0.0)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), OddRedis) as server:
        server.daemon_threads = True
        server.shape = SHAPES[shape]  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"redis://127.0.0.1:{server.server_address[1]}/0"
        cache: dict[str, Any] = {"cache": CacheSettings(store="redis"), "redis_url": url}
        with demonstration(**cache) as gateway:
            embed = {"model": "embed-v4.0", "input": ["one"]}
            for path, body in ((CHAT, {"model": A, "messages": [MESSAGE], **ZERO}), ("/v1/embeddings", embed)):
                response = gateway.ask("POST", path, body)
                assert (response.status, response.headers["x-gateway-cache"]) == (200, "miss")
        server.shutdown()


MESSAGE = {"role": "user", "content": "Hello"}


def _chat(gateway: Gateway) -> tuple[int, str, str]:
    response = gateway.chat(**ZERO)
    return response.status, response.text, response.headers["x-gateway-cache"]


def test_responses_are_not_cached() -> None:
    """They are remembered under ids of their own."""
    with run_harness(cache=CacheSettings(store="memory")) as harness:
        harness.respond_with(answered("One."), answered("Two."))
        body = json.dumps({"model": "command-a-03-2025", "input": "Hello", "store": False, **ZERO}).encode()
        for _ in range(2):
            response = harness.gateway.ask("POST", "/v1/responses", body)
            assert response.status == 200 and "x-gateway-cache" not in response.headers
        assert upstream_calls(harness) == 2


# --- embeddings: kept by the piece --------------------------------------------------------------------------


@pytest.fixture(params=["memory", pytest.param("redis", marks=needs_redis)])
def embedding(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """Over the emulator."""
    with (
        emulator() as upstream,
        gateway_over(
            upstream, key=secrets.token_hex(8), cache=CacheSettings(store=request.param), redis_url=URL
        ) as gateway,
    ):
        yield Patient(**vars(gateway))


@pytest.mark.parametrize("form", ["float", "base64"])
def test_only_new_inputs_are_paid_for(embedding: Gateway, form: str) -> None:
    def ask(*inputs: str) -> Response:
        body = {"model": "embed-v4.0", "input": inputs, "encoding_format": form}
        return embedding.ask("POST", "/v1/embeddings", body)

    first = ask("one", "two")
    assert first.headers["x-gateway-cache"] == "miss" and "x-gateway-notes" not in first.headers
    second = ask("three", "two", "one", "three")
    assert second.headers["x-gateway-cache"] == "miss"
    assert second.headers["x-gateway-notes"] == "2 of 4 inputs from the cache"
    third = ask("one", "three", "two")
    assert third.headers["x-gateway-cache"] == "hit"
    assert third.body["usage"]["prompt_tokens"] == 0, "nothing was asked of Cohere"

    def vectors(response: Response) -> list[Any]:
        assert [one["index"] for one in response.body["data"]] == list(range(len(response.body["data"])))
        return [one["embedding"] for one in response.body["data"]]

    one, two = vectors(first)
    three = vectors(second)[0]
    assert vectors(second) == [three, two, one, three] and vectors(third) == [one, three, two]
    assert 0 < second.body["usage"]["prompt_tokens"]
    alone = embedding.ask("POST", "/v1/embeddings", {"model": "embed-v4.0", "input": "one", "encoding_format": form})
    assert vectors(alone) == [one]


@pytest.mark.parametrize(
    "fields",
    [{"input_type": "search_query"}, {"dimensions": 512}, {"model": "embed-english-v3.0"}, {"truncate": "NONE"}],
    ids=str,
)
def test_what_changes_a_vector_is_part_of_its_key(embedding: Gateway, fields: dict[str, Any]) -> None:
    usual = {"model": "embed-v4.0", "input": "one"}
    assert embedding.ask("POST", "/v1/embeddings", usual).headers["x-gateway-cache"] == "miss"
    assert embedding.ask("POST", "/v1/embeddings", {**usual, **fields}).headers["x-gateway-cache"] == "miss"
    assert embedding.ask("POST", "/v1/embeddings", usual).headers["x-gateway-cache"] == "hit"


@pytest.mark.parametrize("model", ["embed-v4.0", "embed-v5.0-pro"])
def test_the_forms_of_a_vector_do_not_get_in_each_others_way(embedding: Gateway, model: str) -> None:
    """Of the newest models both forms are made of floats, so that one of them is in the cache for both."""
    plain: dict[str, Any] = {"model": model, "input": "one"}
    forms: list[dict[str, Any]] = [
        {"encoding_format": "base64"},
        {"encoding_format": "float"},
        {"embedding_types": ["float", "base64"]},
        {"embedding_types": ["base64", "int8"]},
    ]
    asks = [{**plain, **form} for form in forms]
    first = [embedding.ask("POST", "/v1/embeddings", body) for body in asks]
    assert [response.status for response in first] == [200] * len(asks)
    again = [embedding.ask("POST", "/v1/embeddings", body) for body in reversed(asks)]
    assert [response.headers["x-gateway-cache"] for response in again] == ["hit"] * len(asks)
    assert [response.body["data"] for response in reversed(again)] == [response.body["data"] for response in first]


def test_embeddings_past_the_cache(embedding: Gateway) -> None:
    usual = {"authorization": f"Bearer {embedding.key}", "content-type": "application/json"}
    body = {"model": "embed-v4.0", "input": "one"}
    for _ in range(2):
        response = embedding.ask("POST", "/v1/embeddings", body, {**usual, "x-gateway-cache": "bypass"})
        assert response.headers["x-gateway-cache"] == "bypass" and response.body["usage"]["prompt_tokens"] > 0
