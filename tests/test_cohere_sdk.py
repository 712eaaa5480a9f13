"""Cohere's own SDK on the pass-through: every method does what it does at the server behind it.

The table of calls is `support/cohere_sdk_calls.py`; here each is put to the emulator and, through `/cohere`, to the
gateway in front of it, and must come to the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import cohere
import httpx
import pytest

from support import cohere_sdk_calls
from support.app import CALLER_KEY, A, Gateway, gateway_over
from support.cohere_sdk_calls import CALLS, MESSAGES, Clients, outcome
from support.waiting import WAIT_SECONDS

BASES = ("/cohere", "/cohere/", "/cohere/v1", "/cohere/v2", "/litellm/cohere")
"""Base URLs that configurations were seen to have."""


@pytest.fixture(scope="module")
def through(demo: Gateway) -> Iterator[Clients]:
    with cohere_sdk_calls.clients(f"{demo.url}/cohere") as created:
        yield created


@pytest.fixture(scope="module")
def direct(demo: Gateway) -> Iterator[Clients]:
    with cohere_sdk_calls.clients(demo.upstream) as created:
        yield created


@pytest.mark.parametrize("name", CALLS)
def test_a_call_comes_to_the_same(through: Clients, direct: Clients, name: str) -> None:
    assert outcome(CALLS[name], through) == outcome(CALLS[name], direct)


@pytest.mark.parametrize("base", BASES)
def test_a_base_url(demo: Gateway, direct: Clients, base: str) -> None:
    with cohere_sdk_calls.clients(demo.url + base) as on:
        for name in ("v2.chat", "chat", "v2.embed", "models.list", "v2.chat_stream"):
            assert outcome(CALLS[name], on) == outcome(CALLS[name], direct), name


@pytest.mark.asyncio
async def test_the_asynchronous_clients(demo: Gateway) -> None:
    values: dict[str, Any] = {"api_key": "any", "base_url": f"{demo.url}/cohere", "max_retries": 0}
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=WAIT_SECONDS) as http:
        v1, v2 = cohere.AsyncClient(**values, httpx_client=http), cohere.AsyncClientV2(**values, httpx_client=http)
        chat, older, embedded, ranked = await asyncio.gather(
            v2.chat(model=A, messages=MESSAGES),
            v1.chat(message="What is the capital of France?", model=A),
            v2.embed(model="embed-v4.0", texts=["sea"], input_type="search_query", embedding_types=["float"]),
            v2.rerank(model="rerank-v3.5", query="sea", documents=["the sand", "the sea"]),
        )
        assert chat.message.content and "Paris" in str(chat.message.content[0])
        assert "Paris" in older.text
        assert embedded.embeddings.float_ and len(embedded.embeddings.float_[0]) == 1536
        assert ranked.results[0].index == 1
        events = [event async for event in v2.chat_stream(model=A, messages=MESSAGES)]
        assert events[0].type == "message-start" and events[-1].type == "message-end"
        lines = [event async for event in v1.chat_stream(message="Say hello", model=A)]
        assert lines[0].event_type == "stream-start" and lines[-1].event_type == "stream-end"


def test_a_refused_key_is_the_sdks_usual_exception() -> None:
    with (
        gateway_over("http://127.0.0.1:9", master_key="m", cohere_api_key=["s"]) as gateway,
        cohere_sdk_calls.clients(f"{gateway.url}/cohere", CALLER_KEY) as on,
        pytest.raises(cohere.UnauthorizedError) as caught,
    ):
        on.v2.chat(model=A, messages=MESSAGES)
    assert caught.value.body == {"message": "The API key is not valid for this gateway", "code": "invalid_api_key"}
