"""What the store counts for each owner is what it has, after every kind of write. On both databases."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import Connection, func, select, text

from gateway.store import database, usage
from gateway.store import store as store_module
from gateway.store.conversations import Conversation
from gateway.store.errors import StoreUnavailable
from gateway.store.store import Store
from gateway.store.tables import (
    CONVERSATION_ITEMS,
    CONVERSATIONS,
    EVENTS,
    PROBES,
    RESPONSES,
    RUNS,
    STORAGE_USAGE,
)
from support.databases import KINDS, throwaway
from test_store_database import OWNER, running, stored

NOW = 1_800_000_000


@pytest_asyncio.fixture(params=KINDS)
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    async with throwaway(request.param, tmp_path) as url:
        yield url


@pytest_asyncio.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with running(url, clock=lambda: float(NOW)) as store:
        yield store


def _counted(connection: Connection) -> dict[str, int]:
    return {row.owner: row.bytes for row in connection.execute(select(STORAGE_USAGE))}


def _present(connection: Connection) -> dict[str, int]:
    """The same, added up from all rows; of live responses, what they counted when they were written last."""
    total: dict[str, int] = {}
    live = set(connection.scalars(select(RUNS.c.response_id)))
    for row in connection.execute(select(RESPONSES)):
        bodies = connection.scalars(select(EVENTS.c.body).where(EVENTS.c.response_id == row.id)).all()
        size = usage.ROW_OVERHEAD + len(row.body) + len(row.items) + len(row.output)
        size += sum(usage.EVENT_OVERHEAD + len(body) for body in bodies)
        total[row.owner] = total.get(row.owner, 0) + (row.size if row.id in live else size)
    for row in connection.execute(select(CONVERSATIONS)):
        items = select(CONVERSATION_ITEMS.c.body).where(CONVERSATION_ITEMS.c.conversation_id == row.id)
        size = usage.ROW_OVERHEAD + len(row.metadata)
        size += sum(usage.ITEM_OVERHEAD + len(body) for body in connection.scalars(items))
        total[row.owner] = total.get(row.owner, 0) + size
    return total


async def agrees(store: Store) -> dict[str, int]:
    counted = await store._database.read(_counted)
    assert counted == await store._database.read(_present)
    return counted


@pytest.mark.asyncio
async def test_every_write_is_counted(store: Store) -> None:
    conversation = Conversation("conv_1", OWNER, NOW, NOW + 10, b"{}")
    await store.create_conversation(conversation, [("msg_0", b'{"a":1}')])
    await agrees(store)
    in_conversation = stored("resp_1", conversation_id="conv_1", expires_at=NOW + 10)
    assert await store.save(in_conversation, [("msg_1", b"{}"), ("msg_0", b"{}")])
    before = await agrees(store)
    assert not await store.save(in_conversation, [("msg_2", b"{}")])
    assert await agrees(store) == before
    await store.save(stored("resp_other", owner="other", body=b"x" * 5000))
    assert (await agrees(store))["other"] > 5000
    await store.add_items(OWNER, "conv_1", [("msg_3", b'{"b":22}')])
    await agrees(store)
    await store.update_conversation(OWNER, "conv_1", b'{"topic":"weather"}')
    await agrees(store)
    assert await store.delete_item(OWNER, "conv_1", "msg_3")
    assert not await store.delete_item(OWNER, "conv_1", "msg_3")
    await agrees(store)

    await store.begin(stored("resp_2", status="queued"), [b"created"])
    await agrees(store)
    await store.update(stored("resp_2", status="in_progress"), (), 1, [b"in_progress"])
    await store.append_events({"resp_2": (2, [b"delta"] * 100)})
    await agrees(store)
    await store.update(stored("resp_2", conversation_id="conv_1"), [("msg_4", b"{}")], 102, [b"completed"])
    await agrees(store)
    await store.begin(stored("resp_3", status="queued", expires_at=NOW + 10), [b"created"] * 50)
    await store.update(stored("resp_3", status="failed", items=b"[]"), (), 50, [b"failed"], discard_events=True)
    assert await store.events(OWNER, "resp_3") == [(50, b"failed")]
    await agrees(store)
    await store.begin(stored("resp_4", status="queued", owner="other"))
    await store.append_events({"resp_4": (0, [b"delta"] * 10)})
    await store._database.write(lambda connection: connection.execute(RUNS.update().values(lease_until=1.0)) and None)
    assert await store.fail_interrupted() == ["resp_4"]
    await agrees(store)

    assert await store.purge(NOW + 11, batch=2)
    await agrees(store)
    for owner, id in ((OWNER, "resp_2"), (OWNER, "resp_3"), ("other", "resp_4"), ("other", "resp_other")):
        assert await store.delete(owner, id) and not await store.delete(owner, id)
        await agrees(store)
    assert not await store.delete_conversation(OWNER, "conv_1")
    assert await agrees(store) == {}


@pytest.mark.asyncio
async def test_a_deleted_conversation_counts_no_more(store: Store) -> None:
    items = [(f"msg_{number}", b"{}") for number in range(5)]
    await store.create_conversation(Conversation("conv_1", OWNER, NOW, None, b"{}"), items)
    assert await agrees(store)
    assert await store.delete_conversation(OWNER, "conv_1")
    assert await agrees(store) == {}


@pytest.mark.asyncio
async def test_processes_that_write_at_once_are_counted_alike(url: str) -> None:
    async with running(url) as one, running(url) as other:
        await one.create_conversation(Conversation("conv_1", OWNER, NOW, None, b"{}"))
        await asyncio.gather(
            *(store.save(stored(f"resp_{n}", expires_at=1)) for n, store in enumerate([one, other] * 10)),
            *(store.add_items(OWNER, "conv_1", [(f"msg_{n}", b"{}")]) for n, store in enumerate([one, other] * 10)),
        )
        await agrees(one)
        await asyncio.gather(
            one.purge(),
            other.purge(),
            *(store.delete_item(OWNER, "conv_1", f"msg_{n}") for n, store in enumerate([one, other] * 10)),
        )
        await agrees(one)
        await one.delete_conversation(OWNER, "conv_1")
        assert await agrees(one) == {}


# --- whether there is room ----------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_check_writes_bytes_and_leaves_them_free(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "PROBE_INTERVAL", -1.0)
    await store.save(stored("resp_1", body=b"x" * 1000))
    await store.save(stored("resp_2", owner="other", body=b"x" * 2000))
    for _ in range(3):
        sizes = await store.check(OWNER)
        assert 1000 < sizes.owner < 2000 < sizes.total
    size = func.pg_column_size if store._database.is_postgresql else func.length
    length = select(func.sum(size(PROBES.c.body)))
    # As it is stored: PostgreSQL compresses what it can.
    assert await store._database.read(lambda connection: connection.scalar(length)) == usage.PROBE_BYTES


@pytest.mark.asyncio
async def test_one_probe_answers_for_all_who_ask_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "PROBE_INTERVAL", 60.0)
    await asyncio.gather(*(store.check(OWNER) for _ in range(20)))
    assert next(store._probe_numbers) == 1


@pytest.mark.asyncio
async def test_probes_of_processes_that_are_gone_are_deleted(store: Store) -> None:
    await store.check(OWNER)
    count = select(func.count()).select_from(PROBES)
    await store.purge()
    assert await store._database.read(lambda connection: connection.scalar(count)) == 1
    old = PROBES.update().values(written_at=time.time() - 2 * usage.PROBE_SECONDS)
    await store._database.write(lambda connection: connection.execute(old) and None)
    await store.purge()
    assert await store._database.read(lambda connection: connection.scalar(count)) == 0


@pytest.mark.asyncio
async def test_a_full_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that may not grow stands for a full disk."""
    async with running(f"sqlite:///{tmp_path}/store.db", pool_size=1) as store:
        await store.check(OWNER)
        pages = await store._database.read(lambda connection: connection.scalar(text("PRAGMA page_count")))
        full = f"PRAGMA max_page_count={pages}"
        monkeypatch.setattr(database, "_PRAGMAS", (*database._PRAGMAS, full))
        await store._database.read(lambda connection: connection.scalar(text(full)))
        with pytest.raises(StoreUnavailable, match="full"):
            await store.save(stored(body=bytes(100_000)))
        with pytest.raises(StoreUnavailable, match="full"):
            await store.check(OWNER)
        assert not await store.ping()
