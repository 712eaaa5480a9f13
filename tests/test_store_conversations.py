"""What the store keeps of conversations: metadata, items in their order, pages of them. On both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Literal

import hypothesis.strategies as st
import pytest
import pytest_asyncio
from hypothesis import given

from gateway.store.conversations import Conversation, Item, Page
from gateway.store.errors import ConversationMissing, ItemExists, ItemMissing
from gateway.store.store import Store
from support.databases import KINDS, throwaway
from support.transcripts import property_of
from test_store_database import OWNER, running
from translators.operations.stored_responses import end_interrupted

CONVERSATION = Conversation("conv_1", OWNER, 1_700_000_000, None, b'{"topic": "demo"}')


@pytest_asyncio.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with throwaway(request.param, tmp_path) as url, running(url) as store:
        yield store


def some(count: int, begin: int = 0) -> list[tuple[str, bytes]]:
    return [(f"msg_{number}", b'{"n": %d}' % number) for number in range(begin, begin + count)]


def page(items: list[tuple[str, bytes]], more: bool) -> Page:
    return Page([Item(*item) for item in items], more)


@pytest.mark.asyncio
async def test_a_conversation(store: Store) -> None:
    await store.create_conversation(CONVERSATION)
    assert await store.conversation(OWNER, "conv_1") == CONVERSATION
    updated = await store.update_conversation(OWNER, "conv_1", b"{ }")
    assert updated == await store.conversation(OWNER, "conv_1")
    assert updated is not None and updated.metadata == b"{ }"
    assert await store.items(OWNER, "conv_1") == Page([], False)
    assert await store.delete_conversation(OWNER, "conv_1")
    assert not await store.delete_conversation(OWNER, "conv_1")
    assert await store.conversation(OWNER, "conv_1") is None


@pytest.mark.asyncio
async def test_only_its_owner_sees_a_conversation(store: Store) -> None:
    await store.create_conversation(CONVERSATION, some(2))
    assert await store.conversation("else", "conv_1") is None
    assert await store.update_conversation("else", "conv_1", b"{}") is None
    assert not await store.delete_conversation("else", "conv_1")
    assert await store.item("else", "conv_1", "msg_0") is None
    assert not await store.delete_item("else", "conv_1", "msg_0")
    with pytest.raises(ConversationMissing):
        await store.items("else", "conv_1")
    with pytest.raises(ConversationMissing):
        await store.add_items("else", "conv_1", some(1, 2))
    assert await store.conversation(OWNER, "conv_1") == CONVERSATION
    assert await store.items(OWNER, "conv_1", order="asc") == page(some(2), False)


@pytest.mark.asyncio
async def test_items(store: Store) -> None:
    await store.create_conversation(CONVERSATION, some(2))
    await store.add_items(OWNER, "conv_1", some(2, 2))
    await store.add_items(OWNER, "conv_1", [])
    assert await store.items(OWNER, "conv_1", order="asc") == page(some(4), False)
    assert await store.item(OWNER, "conv_1", "msg_3") == b'{"n": 3}'
    assert await store.item(OWNER, "conv_1", "msg_4") is None
    assert await store.delete_item(OWNER, "conv_1", "msg_3")
    assert not await store.delete_item(OWNER, "conv_1", "msg_3")
    await store.add_items(OWNER, "conv_1", some(1, 3))
    assert await store.items(OWNER, "conv_1", order="asc") == page(some(4), False)


@pytest.mark.asyncio
async def test_an_item_is_there_once(store: Store) -> None:
    await store.create_conversation(CONVERSATION, some(2))
    for twice in (some(2, 1), [("msg_9", b"1"), ("msg_9", b"2")]):
        with pytest.raises(ItemExists):
            await store.add_items(OWNER, "conv_1", twice)
    with pytest.raises(ItemExists):
        await store.create_conversation(Conversation("conv_2", OWNER, 0, None, b"{}"), [("a", b""), ("a", b"")])
    assert await store.conversation(OWNER, "conv_2") is None
    assert await store.items(OWNER, "conv_1", order="asc") == page(some(2), False)
    await store.create_conversation(Conversation("conv_2", OWNER, 0, None, b"{}"), some(2))  # another's are its own


@pytest.mark.asyncio
async def test_pages(store: Store) -> None:
    await store.create_conversation(CONVERSATION, some(5))
    assert await store.items(OWNER, "conv_1", limit=2, order="asc") == page(some(2), True)
    assert await store.items(OWNER, "conv_1", "msg_1", 2, "asc") == page(some(2, 2), True)
    assert await store.items(OWNER, "conv_1", "msg_3", 2, "asc") == page(some(1, 4), False)
    assert await store.items(OWNER, "conv_1", "msg_4", 2, "asc") == page([], False)
    assert await store.items(OWNER, "conv_1", limit=2) == page([*reversed(some(2, 3))], True)
    assert await store.items(OWNER, "conv_1", "msg_3", 3) == page([*reversed(some(3))], False)
    with pytest.raises(ItemMissing):
        await store.items(OWNER, "conv_1", "msg_9")
    with pytest.raises(ConversationMissing):
        await store.items(OWNER, "conv_9", "msg_1")


@pytest.mark.asyncio
async def test_many_add_at_once(store: Store) -> None:
    await store.create_conversation(CONVERSATION)
    await asyncio.gather(*(store.add_items(OWNER, "conv_1", some(3, 3 * number)) for number in range(20)))
    result = await store.items(OWNER, "conv_1", limit=100, order="asc")
    ids = [int(item.id.removeprefix("msg_")) for item in result.items]
    assert sorted(ids) == list(range(60))
    assert all(ids[at : at + 3] == [ids[at], ids[at] + 1, ids[at] + 2] for at in range(0, 60, 3))


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module", params=KINDS)
def shared(
    request: pytest.FixtureRequest, runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    """One for all examples: each has a conversation of its own."""
    database = throwaway(request.param, tmp_path_factory.mktemp("shared"))
    store = Store(runner.run(database.__aenter__()), end_interrupted, timeout=30.0)
    runner.run(store.start())
    yield store
    runner.run(store.stop())
    runner.run(database.__aexit__(None, None, None))


_numbers = iter(range(10**9))


@property_of(100)
@given(
    batches=st.lists(st.integers(0, 4), max_size=5),
    deleted=st.sets(st.integers(0, 19)),
    limit=st.integers(1, 7),
    order=st.sampled_from(["asc", "desc"]),
)
def test_pages_together_are_the_whole(
    shared: Store,
    runner: asyncio.Runner,
    batches: list[int],
    deleted: set[int],
    limit: int,
    order: Literal["asc", "desc"],
) -> None:
    """However items came and went: following the pages gives each that is left, once, in order, and then ends."""

    async def example() -> None:
        conversation = f"conv_{next(_numbers)}"
        await shared.create_conversation(Conversation(conversation, OWNER, 0, None, b"{}"))
        left: list[tuple[str, bytes]] = []
        for batch in batches:
            left += (new := some(batch, len(left)))
            await shared.add_items(OWNER, conversation, new)
        for number in deleted:
            there = await shared.delete_item(OWNER, conversation, f"msg_{number}")
            assert there is (number < len(left))
        expected = [item for number, item in enumerate(left) if number not in deleted]
        if order == "desc":
            expected.reverse()

        results: list[Item] = []
        more = True
        while more:
            after = results[-1].id if results else None
            one = await shared.items(OWNER, conversation, after, limit, order)
            assert len(one.items) == limit or not one.more
            assert one.items or not one.more
            results += one.items
            more = one.more
        assert results == [Item(*item) for item in expected]

    runner.run(example())
