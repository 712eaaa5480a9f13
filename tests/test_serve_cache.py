"""The cache through the real server: what is answered from it, what goes past it, and whose it is."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.settings import CacheSettings
from support.app import Gateway, Seen, Stage, answered, emulator, gateway_over, stage, streamed
from support.redis import URL, needs_redis
from support.scripted import json_answer

ZERO: dict[str, Any] = {"temperature": 0}


@pytest.fixture(params=["memory", pytest.param("redis", marks=needs_redis)])
def kept(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Over a script, with a key of its own, so that no two tests share what is in Redis."""
    with stage(key=secrets.token_hex(8), cache=CacheSettings(store=request.param), redis_url=URL) as staged:
        yield staged


def asked(staged: Stage) -> int:
    """How often Cohere was asked."""
    return len(staged.upstream.requests)


def test_the_second_answer_costs_nothing(kept: Stage) -> None:
    kept.plays(answered("One."), answered("Two."))
    first, second = kept.gateway.chat(**ZERO), kept.gateway.chat(**ZERO)
    assert [seen.headers["x-gateway-cache"] for seen in (first, second)] == ["miss", "hit"]
    assert first.text == second.text == "One." and asked(kept) == 1
    assert first.body["usage"] == second.body["usage"]
    line = kept.gateway.log.line_of(second.headers["x-request-id"])
    assert line["cache"] == "hit" and "upstream_ms" not in line


def test_streams_are_replayed_as_streams(kept: Stage) -> None:
    kept.plays(streamed("On", "e."), streamed("Two."))
    ask: dict[str, Any] = {**ZERO, "stream": True, "stream_options": {"include_usage": True}}
    first, second = kept.gateway.chat(**ask), kept.gateway.chat(**ask)
    assert [seen.headers["x-gateway-cache"] for seen in (first, second)] == ["miss", "hit"]
    assert first.text == second.text == "One." and asked(kept) == 1
    assert second.frames[-1] == "[DONE]"
    stamp = {"id", "created"}
    assert [{k: v for k, v in chunk.items() if k not in stamp} for chunk in first.chunks] == [
        {k: v for k, v in chunk.items() if k not in stamp} for chunk in second.chunks
    ]


def test_several_choices_are_kept_apart(kept: Stage) -> None:
    kept.plays(answered("One."), answered("Two."), answered("Three."))
    first, second = kept.gateway.chat(n=2, **ZERO), kept.gateway.chat(n=2, **ZERO)
    texts = [[choice["message"]["content"] for choice in seen.body["choices"]] for seen in (first, second)]
    assert texts[0] == texts[1] and sorted(texts[0]) == ["One.", "Two."]


def test_chance_is_not_kept_unless_it_is_asked_for(kept: Stage) -> None:
    kept.plays(answered("One."), answered("Two."), answered("Three."))
    assert "x-gateway-cache" not in kept.gateway.chat().headers
    ttl = {"x-gateway-cache-ttl": "60"}
    first, second = kept.gateway.chat(headers=ttl), kept.gateway.chat(headers=ttl)
    assert [seen.headers["x-gateway-cache"] for seen in (first, second)] == ["miss", "hit"]
    assert first.text == second.text == "Two."


@pytest.mark.parametrize("headers", [{"x-gateway-cache": "bypass"}, {"x-gateway-cache-ttl": "0"}], ids=str)
def test_past_the_cache(kept: Stage, headers: dict[str, str]) -> None:
    kept.plays(answered("One."), answered("Two."), answered("Three."))
    kept.gateway.chat(**ZERO)
    passed = kept.gateway.chat(headers=headers, **ZERO)
    assert (passed.text, passed.headers["x-gateway-cache"]) == ("Two.", "bypass")
    assert kept.gateway.chat(**ZERO).text == "One.", "and nothing of it was kept"


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
def test_what_is_the_same_question(kept: Stage, one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    kept.plays(answered("One."), streamed("Two.") if other.get("stream") else answered("Two."))
    kept.gateway.chat(**ZERO, **one)
    assert kept.gateway.chat(**ZERO, **other).headers["x-gateway-cache"] == ("hit" if same else "miss")


def test_callers_do_not_share(kept: Stage) -> None:
    kept.plays(answered("One."), answered("Two."))
    kept.gateway.chat(**ZERO)
    other = kept.gateway.chat(headers={"authorization": "Bearer another"}, **ZERO)
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
def test_failures_are_not_kept(kept: Stage, script: Any) -> None:
    kept.plays(script, answered("Good."))
    assert kept.gateway.chat(**ZERO).status >= 500
    assert kept.gateway.chat(**ZERO).text == "Good."


@pytest.mark.parametrize(
    "headers",
    [
        {"x-gateway-cache-ttl": "soon"},
        {"x-gateway-cache-ttl": "-1"},
        {"x-gateway-cache-ttl": "99999999"},
        {"x-gateway-cache": "yes"},
    ],
    ids=str,
)
def test_headers_that_mean_nothing_are_refused(kept: Stage, headers: dict[str, str]) -> None:
    seen = kept.gateway.chat(headers=headers)
    assert seen.status == 400 and next(iter(headers)) in seen.error["message"]


def test_hits_and_misses_are_counted() -> None:
    with stage(cache=CacheSettings(store="memory")) as staged:
        staged.plays(answered())
        for _ in range(3):
            staged.gateway.chat(**ZERO)
        counted = staged.gateway.metrics()
    series = 'gateway_cache_lookups_total{operation="chat",result="%s"}'
    assert (counted[series % "miss"], counted[series % "hit"]) == (1, 2)
    (tokens,) = {value for name, value in counted.items() if "tokens_total" in name and 'direction="output"' in name}
    assert tokens == 3, "what came from the cache was not counted by Cohere again"


def test_without_a_cache_the_wish_is_noted() -> None:
    with stage() as staged:
        staged.plays(answered())
        seen = staged.gateway.chat(headers={"x-gateway-cache-ttl": "60"}, **ZERO)
        assert "x-gateway-cache-ttl ignored" in seen.headers["x-gateway-notes"]
        strict = staged.gateway.chat(headers={"x-gateway-cache-ttl": "60", "x-gateway-strict": "true"})
        assert strict.status == 400
        assert "x-gateway-cache" not in staged.gateway.chat(headers={"x-gateway-cache": "bypass"}).headers


def test_a_cache_that_fails_is_a_miss() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with stage(cache=CacheSettings(store="redis"), redis_url=f"redis://127.0.0.1:{port}/0") as staged:
        staged.plays(answered("One."), answered("Two."))
        assert [seen(staged.gateway) for seen in (_chat, _chat)] == [(200, "One.", "miss"), (200, "Two.", "miss")]
        staged.gateway.log.wait(lambda line: line.get("trouble", "").startswith("cache: "))


def _chat(gateway: Gateway) -> tuple[int, str, str]:
    seen = gateway.chat(**ZERO)
    return seen.status, seen.text, seen.headers["x-gateway-cache"]


def test_responses_are_not_kept() -> None:
    """They are remembered under ids of their own."""
    with stage(cache=CacheSettings(store="memory")) as staged:
        staged.plays(answered("One."), answered("Two."))
        body = json.dumps({"model": "command-a-03-2025", "input": "Hello", "store": False, **ZERO}).encode()
        for _ in range(2):
            seen = staged.gateway.ask("POST", "/v1/responses", body)
            assert seen.status == 200 and "x-gateway-cache" not in seen.headers
        assert asked(staged) == 2


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
        yield gateway


@pytest.mark.parametrize("form", ["float", "base64"])
def test_only_new_inputs_are_paid_for(embedding: Gateway, form: str) -> None:
    def ask(*inputs: str) -> Seen:
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

    def vectors(seen: Seen) -> list[Any]:
        assert [one["index"] for one in seen.body["data"]] == list(range(len(seen.body["data"])))
        return [one["embedding"] for one in seen.body["data"]]

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


def test_embeddings_past_the_cache(embedding: Gateway) -> None:
    usual = {"authorization": f"Bearer {embedding.key}", "content-type": "application/json"}
    body = {"model": "embed-v4.0", "input": "one"}
    for _ in range(2):
        seen = embedding.ask("POST", "/v1/embeddings", body, {**usual, "x-gateway-cache": "bypass"})
        assert seen.headers["x-gateway-cache"] == "bypass" and seen.body["usage"]["prompt_tokens"] > 0
