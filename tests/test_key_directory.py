"""The directory of keys that a process decides by: what reaches it, when, and what can never come back.

Whole processes over one database are in `test_serve_key_changes.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.auth import directory as module
from gateway.auth.directory import MAX_LOOKS, REFUSED_DIGESTS, KeyDirectory
from gateway.errors import CallerError
from gateway.store import keys
from gateway.store.errors import StoreUnavailable
from gateway.store.key_announcements import announcements
from gateway.store.keys import ChangedBy
from gateway.store.store import Store
from gateway.virtual_keys import EndUser, Team, VirtualKey, digest_of
from support import redis_server
from support.databases import throwaway
from support.waiting import WAIT_SECONDS
from test_store_database import running

BY = ChangedBy("test")


class Counting:
    """A store that counts what is asked of it, and may be away."""

    def __init__(self, store: Store) -> None:
        self._store, self.reads, self.away = store, 0, False

    async def open(self) -> Any:
        return self

    async def read(self, work: Any) -> Any:
        self.reads += 1
        if self.away:
            raise StoreUnavailable("nobody answers")
        return await self._store.read(work)


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with throwaway("sqlite", tmp_path) as url, running(url) as store:
        yield store


async def insert(store: Store, *records: Any) -> None:
    await store.write(lambda c: keys.insert(c, list(records), BY, 1.0))


async def update(store: Store, id: str, **fields: Any) -> None:
    await store.write(lambda c: keys.update(c, VirtualKey, id, fields, BY, 2.0))


def key_of(name: str, **fields: Any) -> VirtualKey:
    return VirtualKey(key_id=name, digest=digest_of(name), **fields)


async def awaited(condition: Callable[[], object], seconds: float = WAIT_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.asyncio
async def test_what_is_known_costs_no_look_at_the_database(store: Store) -> None:
    await insert(store, key_of("a"), key_of("old", expires=50.0), key_of("new", expires=150.0))
    counting = Counting(store)
    directory = KeyDirectory(counting.open, print, clock=lambda: 100.0)
    await directory.start()
    try:
        reads = counting.reads
        for name, expected in (("a", True), ("new", True), ("old", False), ("unknown", False)):
            assert (directory.find(digest_of(name)) is not None) is expected
        assert counting.reads == reads
    finally:
        await directory.stop()


@pytest.mark.asyncio
async def test_unknown_digests_are_looked_for_in_bounds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("gateway.auth.directory.time.monotonic", lambda: now)
    counting = Counting(store)
    directory = KeyDirectory(counting.open, print)
    await directory._try_to_load()
    before = counting.reads
    for _ in range(5):
        assert await directory.look_up("x") is None
    assert counting.reads == before + 1, "the same digest: one look a second"
    for number in range(3 * MAX_LOOKS):
        await directory.look_up(f"digest {number}")
    assert counting.reads == before + MAX_LOOKS
    now += 1.0
    await insert(store, key_of("x"))
    assert await directory.look_up(digest_of("x")) is not None
    for second in range(2, 2 + REFUSED_DIGESTS // MAX_LOOKS + 2):
        now = 1000.0 + second
        for number in range(MAX_LOOKS):
            directory._may_look(f"{second} {number}")
    assert len(directory._refused) == REFUSED_DIGESTS


@pytest.mark.asyncio
async def test_a_flood_of_unknown_keys_shares_its_looks(store: Store) -> None:
    counting = Counting(store)
    directory = KeyDirectory(counting.open, print)
    await directory._try_to_load()
    before = counting.reads
    await insert(store, key_of("a"))
    digests = [digest_of("a"), *(f"digest {number}" for number in range(40))]
    results = await asyncio.gather(*map(directory.look_up, digests))
    assert results[0] is not None and not any(results[1:])
    assert counting.reads - before <= 2


@pytest.mark.asyncio
async def test_calls_that_come_at_once_with_a_new_key_are_all_let_in(store: Store) -> None:
    """As after a rotation, at a process that has not heard of it: one look serves all of them."""
    counting = Counting(store)
    directory = KeyDirectory(counting.open, print)
    await directory._try_to_load()
    before = counting.reads
    await insert(store, key_of("a"))
    results = await asyncio.gather(*(directory.look_up(digest_of("a")) for _ in range(5)))
    assert all(results) and counting.reads == before + 1 and not directory._looking


@pytest.mark.asyncio
async def test_changes_arrive_and_nothing_comes_back(store: Store) -> None:
    await insert(store, Team(team_id="t"))
    await insert(store, key_of("a", team_id="t"))
    await insert(store, EndUser(user_id="u", blocked=True))
    directory = KeyDirectory(Counting(store).open, print)
    await directory.refresh()
    held = directory.find(digest_of("a"))
    assert held is not None and directory.teams["t"] and directory.end_users["u"].blocked
    await update(store, "a", blocked=True)
    await store.write(lambda c: keys.delete(c, Team, "t", BY, 3.0))
    await store.write(lambda c: keys.delete(c, EndUser, "u", BY, 3.0))
    await directory.refresh()
    now = directory.find(digest_of("a"))
    assert now is not None and now.blocked and not held.blocked
    assert not directory.teams and not directory.end_users
    await store.write(lambda c: keys.delete(c, VirtualKey, "a", BY, 4.0))
    await directory.refresh()
    assert directory.find(digest_of("a")) is None and await directory.look_up(digest_of("a")) is None
    assert len(directory) == 0


@pytest.mark.asyncio
async def test_the_old_secret_lapses_by_the_clock(store: Store) -> None:
    clock = [100.0]
    await insert(store, key_of("a"))
    await store.write(lambda c: keys.rotate(c, "a", digest_of("b"), "", BY, 100.0, valid_until=160.0))
    directory = KeyDirectory(Counting(store).open, print, clock=lambda: clock[0])
    await directory.refresh()
    assert directory.find(digest_of("a")) is directory.find(digest_of("b")) is not None
    clock[0] = 160.0
    assert directory.find(digest_of("a")) is None and directory.find(digest_of("b")) is not None


@pytest.mark.asyncio
async def test_a_change_that_is_made_during_a_load_is_not_missed(store: Store) -> None:
    """Who asks for a refresh while a load runs gets one that began after they asked."""
    began, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Counting):
        async def read(self, work: Any) -> Any:
            result = await super().read(work)
            began.set()
            await go_on.wait()
            return result

    directory = KeyDirectory(Slow(store).open, print)
    first = asyncio.create_task(directory.refresh())
    await began.wait()
    await insert(store, key_of("a"))
    others = [asyncio.create_task(directory.refresh()) for _ in range(3)]
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(first, *others)
    assert directory.find(digest_of("a")) is not None


@pytest.mark.asyncio
async def test_without_the_database_what_was_loaded_goes_on_serving(store: Store) -> None:
    counting = Counting(store)
    messages: list[str] = []
    directory = KeyDirectory(counting.open, messages.append)
    counting.away = True
    await directory.start()
    try:
        with pytest.raises(CallerError) as refused:
            await directory.look_up("anything")
        assert refused.value.failure.status == 503 and directory.degraded
        await insert(store, key_of("a"))
        counting.away = False
        await awaited(lambda: directory.find(digest_of("a")))
        await awaited(lambda: not directory.degraded)
        counting.away = True
        await awaited(lambda: directory.degraded)
        assert directory.find(digest_of("a")) is not None and await directory.look_up("unknown") is None
        assert len(messages) == 2, "one line for each time that it goes away"
    finally:
        await directory.stop()


@pytest.mark.asyncio
async def test_postgresql_announces_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 3600.0)
    async with throwaway("postgresql", tmp_path) as url, running(url) as store:
        directory = KeyDirectory(Counting(store).open, print, announcements(url, ""))
        await directory.start()
        try:
            await insert(store, key_of("a"))
            await awaited(lambda: directory.find(digest_of("a")))
            await update(store, "a", blocked=True)
            await awaited(lambda: (key := directory.current("a")) is not None and key.blocked)
        finally:
            await directory.stop()


@redis_server.needs_redis
@pytest.mark.asyncio
async def test_redis_announces_changes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 3600.0)
    both_announcements = [announcements("sqlite:///any.db", redis_server.URL) for _ in range(2)]
    here, there = (KeyDirectory(Counting(store).open, print, announcement) for announcement in both_announcements)
    await here.start()
    await there.start()
    try:
        await insert(store, key_of("a"))
        await here.refresh()
        assert here.find(digest_of("a")) is not None
        await awaited(lambda: there.find(digest_of("a")))
    finally:
        await here.stop()
        await there.stop()
