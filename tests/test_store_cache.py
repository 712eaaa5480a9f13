"""The caches themselves: in memory with a fixed bound, and in a real Redis, which may fail at any time.

Redis at its standard port; without it its tests are skipped, or fail where GATEWAY_TEST_REQUIRE_SERVICES is set.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.memory_cache import ENTRY_OVERHEAD, Cache, MemoryCache
from gateway.store.redis_cache import RedisCache
from support.ports import free_port
from support.redis_server import URL, needs_redis
from support.waiting import WAIT_SECONDS

T = TypeVar("T")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(work: Awaitable[T]) -> T:
    async def main() -> T:
        return await work

    return asyncio.run(main())


# --- memory -------------------------------------------------------------------------------------------------


def test_what_was_put_is_found_until_its_time_is_over() -> None:
    clock = Clock()
    cache = MemoryCache(10_000, clock)
    run(cache.put([(b"a", b"1"), (b"b", b"2")], 10))
    assert run(cache.get([b"b", b"c", b"a"])) == [b"2", None, b"1"]
    clock.now = 9.9
    assert run(cache.get([b"a"])) == [b"1"]
    clock.now = 10
    assert run(cache.get([b"a", b"b"])) == [None, None]
    assert cache.size == 0


def test_the_least_recently_used_goes_first() -> None:
    cache = MemoryCache(3 * (ENTRY_OVERHEAD + 2))
    run(cache.put([(b"a", b"1"), (b"b", b"2"), (b"c", b"3")], 10))
    run(cache.get([b"a"]))
    run(cache.put([(b"d", b"4")], 10))
    assert run(cache.get([b"a", b"b", b"c", b"d"])) == [b"1", None, b"3", b"4"]


def test_what_is_larger_than_the_cache_is_not_stored() -> None:
    cache = MemoryCache(1_000)
    run(cache.put([(b"a", b"1")], 10))
    run(cache.put([(b"a", b"x" * 1_000)], 10))
    assert run(cache.get([b"a"])) == [None], "the older value would be a lie"
    assert cache.size == 0


puts = st.lists(st.tuples(st.binary(max_size=2), st.binary(max_size=900)), max_size=30)


@given(puts, st.integers(0, 3_000))
def test_the_bound_holds_and_the_newest_is_there(entries: list[tuple[bytes, bytes]], most: int) -> None:
    cache = MemoryCache(most)
    for key, value in entries:
        run(cache.put([(key, value)], 10))
        assert cache.size <= most
        fits = len(key) + len(value) + ENTRY_OVERHEAD <= most
        assert run(cache.get([key])) == [value if fits else None]


# --- Redis --------------------------------------------------------------------------------------------------


def with_redis(work: Callable[[Cache], Awaitable[T]], url: str = URL) -> tuple[T, list[Exception]]:
    troubles: list[Exception] = []

    async def main() -> T:
        cache = RedisCache(url, troubles.append)
        try:
            return await work(cache)
        finally:
            await cache.stop()

    return asyncio.run(main()), troubles


@needs_redis
@pytest.mark.parametrize("url", [URL, f"{URL}?decode_responses=True"])
def test_redis_keeps_bytes_for_their_time(url: str) -> None:
    key = secrets.token_bytes(16)

    async def work(cache: Cache) -> list[Any]:
        before = await cache.get([key])
        await cache.put([(key, b"\0\xff bytes")], 60)
        return [before, await cache.get([b"nothing", key])]

    result, troubles = with_redis(work, url)
    assert result == [[None], [None, b"\0\xff bytes"]] and not troubles


@needs_redis
def test_redis_forgets_by_itself() -> None:
    key = secrets.token_bytes(16)

    async def work(cache: Cache) -> list[bytes | None]:
        await cache.put([(key, b"1")], 0.001)
        for _ in range(100):
            result = await cache.get([key])
            if result == [None]:
                break
            await asyncio.sleep(0.02)
        return result

    assert with_redis(work)[0] == [None]


def test_no_redis_is_no_cache_and_is_reported_once() -> None:
    port = free_port()

    async def work(cache: Cache) -> list[Any]:
        await cache.put([(b"a", b"1")], 60)
        return [await cache.get([b"a", b"b"]), await cache.get([b"a"])]

    result, troubles = with_redis(work, f"redis://127.0.0.1:{port}/0")
    assert result == [[None, None], [None]]
    assert len(troubles) == 1, "after a failure it is left alone for a while"


def test_a_redis_that_hangs_is_no_cache() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:

        async def work(cache: Cache) -> list[bytes | None]:
            return await cache.get([b"a"])

        result, troubles = with_redis(work, f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
    assert result == [None] and len(troubles) == 1


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError):
        RedisCache("nonsense", lambda error: None)


def test_redis_is_there_where_it_must_be() -> None:
    if os.environ.get("GATEWAY_TEST_REQUIRE_SERVICES") != "1":
        pytest.skip("only CI must have Redis")
    with socket.create_connection(("127.0.0.1", 6379), WAIT_SECONDS):
        pass
