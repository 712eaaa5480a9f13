"""What of an answer is cached, and what of a cache is believed: without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway.pipeline import response_cache
from gateway.pipeline.response_cache import Lookup, Recording, split_recording
from gateway.store.memory_cache import MemoryCache

DONE = b"[DONE]"


@pytest.fixture(autouse=True)
def ten_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry may have ten bytes."""
    monkeypatch.setattr(response_cache, "MAX_ENTRY_BYTES", 10)


@pytest.mark.parametrize(
    ("added", "recorded"),
    [
        ((), []),
        (([b'{"a":1}'], [b"{}", DONE[:1]]), [b'{"a":1}', b"{}"]),
        (([b'{"a":1}', b"{}"], [b"{}"]), None),
        (([b'{"a":1234}', DONE], [b"{}"], []), None),
    ],
    ids=["nothing", "as much as fits", "a byte more", "much more, and then little"],
)
def test_a_stream_is_recorded_while_it_is_small(added: Sequence[list[bytes]], recorded: list[bytes] | None) -> None:
    recording = Recording()
    for events in added:
        recording.add(events)
    array = recording.to_json()
    assert (None if array is None else split_recording(array)) == recorded


@pytest.mark.parametrize(
    ("answers", "loaded"),
    [
        ([b"0123456789", b"b"], [b"0123456789", b"b"]),
        ([b"0123456789a", b"b"], None),
        ([b"a", b"0123456789a"], None),
    ],
    ids=["small", "the first is too large", "the second is too large"],
)
def test_the_answers_of_a_call_are_cached_all_or_none(answers: list[bytes], loaded: list[bytes] | None) -> None:
    async def saved_and_loaded() -> list[bytes] | None:
        lookup = Lookup(MemoryCache(10_000), b"owner", 60.0)
        await lookup.save("/v2/chat", [b"{}", b"{}"], answers)
        return await lookup.load("/v2/chat", [b"{}", b"{}"])

    assert asyncio.run(saved_and_loaded()) == loaded


@pytest.mark.parametrize("changed", ["nothing", "owner", "path", "body", "index", "damaged"])
def test_only_what_was_saved_for_this_very_request_is_loaded(changed: str) -> None:
    async def load() -> list[bytes] | None:
        store = MemoryCache(10_000)
        lookup = Lookup(store, b"owner", 60.0)
        await lookup.save("/v2/chat", [b"{}"], [b"answer"])
        if changed == "damaged":
            key = lookup.key("/v2/chat", 0, b"{}")
            (value,) = await store.get([key])
            assert value is not None
            await store.put([(key, value[:-1] + b"R")], 60.0)
        reader = Lookup(store, b"other" if changed == "owner" else b"owner", 60.0)
        bodies = [b"[]" if changed == "body" else b"{}"] * (2 if changed == "index" else 1)
        return await reader.load("/v1/chat" if changed == "path" else "/v2/chat", bodies)

    assert asyncio.run(load()) == ([b"answer"] if changed == "nothing" else None)
