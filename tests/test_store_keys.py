"""Keys, teams and end users in the database: versions, names that are taken, the audit. On both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.store import keys
from gateway.store.errors import NameTaken
from gateway.store.keys import ChangedBy
from gateway.store.store import Store
from gateway.store.tables import KEYS
from gateway.virtual_keys import EndUser, Records, Team, VirtualKey, digest_of
from support.databases import KINDS, throwaway
from test_store_database import running

OPERATOR = ChangedBy("operator", "192.0.2.7")


@pytest_asyncio.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with throwaway(request.param, tmp_path) as url, running(url) as store:
        yield store


def key_of(name: str, **fields: Any) -> VirtualKey:
    return VirtualKey(key_id=f"key_{name}", digest=digest_of(f"sk-{name}"), last_four=name[-4:], **fields)


async def added(store: Store, *records: Any) -> list[Any]:
    return await store.write(lambda c: keys.insert(c, list(records), OPERATOR, 100.0))


async def looked_up(store: Store, reference: str) -> VirtualKey | None:
    return await store.read(lambda c: keys.find(c, VirtualKey, reference))


async def changed(store: Store, id: str, now: float = 200.0, **fields: Any) -> VirtualKey | None:
    return await store.write(lambda c: keys.update(c, VirtualKey, id, fields, OPERATOR, now))


@pytest.mark.asyncio
async def test_every_change_is_a_version(store: Store) -> None:
    (first,) = await added(store, key_of("a", key_alias="first", rpm_limit=3, models=("command-*",)))
    assert (first.revision, first.created_at, first.created_by) == (1, 100.0, "operator")
    second = await changed(store, "key_a", rpm_limit=None, blocked=True)
    assert second is not None and (second.revision, second.created_at, second.updated_at) == (2, 100.0, 200.0)
    assert (second.rpm_limit, second.blocked, second.models, first.rpm_limit) == (None, True, ("command-*",), 3)
    assert await changed(store, "key_b", blocked=True) is None
    everything = await store.read(keys.load_all)
    assert [one.unpacked() for one in everything.keys] == [second] and everything.revision >= second.revision
    for reference in ("key_a", "first", digest_of("sk-a")):
        assert await looked_up(store, reference) == second
    assert await looked_up(store, "second") is None


@pytest.mark.asyncio
async def test_what_a_snapshot_lacks(store: Store) -> None:
    await added(store, Team(team_id="t", team_alias="search"))
    await added(store, key_of("a"), key_of("b"))
    revision = (await store.read(keys.load_all)).revision
    assert await store.read(lambda c: keys.changes_since(c, revision)) is None
    await added(store, EndUser(user_id="u", blocked=True))
    deleted = await store.write(lambda c: keys.delete(c, VirtualKey, "key_a", OPERATOR, 300.0))
    missed = await store.read(lambda c: keys.changes_since(c, revision))
    assert missed is not None and [one.user_id for one in missed.end_users] == ["u"]
    assert [one.unpacked() for one in missed.keys] == [deleted] and missed.keys[0].is_deleted
    assert (missed.teams, missed.revision) == ((), revision + 2)
    assert deleted is not None and (deleted.digest, deleted.deleted_at) == ("", 300.0)
    assert [one.key_id for one in (await store.read(keys.load_all)).keys] == ["key_b"]
    assert await store.read(lambda c: keys.find(c, VirtualKey, digest_of("sk-a"))) is None
    assert await store.write(lambda c: keys.delete(c, VirtualKey, "key_a", OPERATOR, 300.0)) is None


@pytest.mark.asyncio
async def test_what_is_taken_is_refused_and_nothing_written(store: Store) -> None:
    await added(store, key_of("a", key_alias="name"))
    for other, field in (
        ([key_of("a")], "key_id"),
        ([key_of("c"), key_of("b", key_alias="name")], "key_alias"),
        ([key_of("c"), VirtualKey(key_id="key_d", digest=digest_of("sk-a"))], "key"),
        ([key_of("c", key_alias="x"), key_of("d", key_alias="x")], "key_alias"),
    ):
        with pytest.raises(NameTaken) as refused:
            await added(store, *other)
        assert refused.value.field == field
    assert len((await store.read(keys.load_all)).keys) == 1
    await added(store, key_of("b"))
    with pytest.raises(NameTaken):
        await changed(store, "key_b", key_alias="name")
    await store.write(lambda c: keys.delete(c, VirtualKey, "key_a", OPERATOR, 300.0))
    assert (await changed(store, "key_b", key_alias="name")) is not None  # free again


@pytest.mark.asyncio
async def test_a_rotation_keeps_the_key_and_for_a_while_the_old_secret(store: Store) -> None:
    await added(store, key_of("a"))
    new = digest_of("sk-new")
    rotated = await store.write(
        lambda c: keys.rotate(c, "key_a", new, "-new", OPERATOR, 200.0, 260.0, {"rpm_limit": 1})
    )
    assert rotated is not None and (rotated.key_id, rotated.digest, rotated.rotation_count) == ("key_a", new, 1)
    assert [(one.digest, one.valid_until) for one in rotated.previous] == [(digest_of("sk-a"), 260.0)]
    for digest in (new, digest_of("sk-a")):
        assert await looked_up(store, digest) == rotated
    with pytest.raises(NameTaken):
        await added(store, VirtualKey(key_id="key_b", digest=digest_of("sk-a")))
    again = await store.write(lambda c: keys.rotate(c, "key_a", digest_of("sk-3"), "sk-3", OPERATOR, 260.0))
    assert again is not None and again.previous == ()  # over at the moment that it was given for
    assert await store.read(lambda c: keys.find(c, VirtualKey, new)) is None


@pytest.mark.asyncio
async def test_two_updates_at_once_are_both_there(store: Store) -> None:
    await added(store, key_of("a"))
    await asyncio.gather(
        *(changed(store, "key_a", **{name: 7}) for name in ("rpm_limit", "tpm_limit", "max_parallel_requests"))
    )
    key = (await store.read(keys.load_all)).keys[0].unpacked()
    assert (key.rpm_limit, key.tpm_limit, key.max_parallel_requests, key.revision) == (7, 7, 7, 4)


@pytest.mark.asyncio
async def test_the_audit_says_who_changed_what_and_has_no_digest(store: Store) -> None:
    await added(store, key_of("a", key_alias="name"))
    await changed(store, "key_a", blocked=True)
    await store.write(lambda c: keys.rotate(c, "key_a", digest_of("sk-b"), "sk-b", OPERATOR, 300.0, 400.0))
    await store.write(lambda c: keys.delete(c, VirtualKey, "key_a", OPERATOR, 500.0))
    page = await store.read(keys.list_changes)
    assert [(one.action, one.kind, one.object_id, one.author, one.address) for one in page] == [
        (action, "key", "key_a", "operator", "192.0.2.7") for action in ("deleted", "rotated", "updated", "created")
    ]
    assert page[-1].before is None and b'"blocked":true' in (page[-2].after or b"")
    texts = b"".join((one.before or b"") + (one.after or b"") for one in page).decode()
    assert "name" in texts and digest_of("sk-a") not in texts and digest_of("sk-b") not in texts
    assert await store.read(lambda c: keys.list_changes(c, page[1].revision, 1)) == page[2:3]


@pytest.mark.asyncio
async def test_the_audit_of_a_team_shows_all_of_it(store: Store) -> None:
    await added(store, Team(team_id="t", team_alias="search"))
    await store.write(lambda c: keys.update(c, Team, "t", {"blocked": True}, OPERATOR, 200.0, "blocked"))
    blocked, created = await store.read(keys.list_changes)
    assert (blocked.action, blocked.kind, blocked.object_id, blocked.time) == ("blocked", "team", "t", 200.0)
    assert blocked.before == created.after and b'"team_alias":"search"' in (created.after or b"")
    assert b'"blocked":true' in (blocked.after or b"")


@pytest.mark.asyncio
async def test_pages(store: Store) -> None:
    await added(store, *(key_of(f"k{number}", team_id="t" if number < 3 else None) for number in range(5)))
    page = await store.read(lambda c: keys.list_records(c, VirtualKey, [KEYS.c.team_id == "t"], 2, 2))
    assert (page.total, [one.key_id for one in page.records]) == (3, ["key_k2"])
    assert await store.read(lambda c: keys.changes_since(c, 5)) is None
    assert isinstance(await store.read(lambda c: keys.changes_since(c, 4)), Records)


@pytest.mark.asyncio
async def test_sessions_that_were_signed_out_are_known_until_they_would_have_ended(store: Store) -> None:
    async def ended_after(id: str, ends_at: float, now: float) -> tuple[tuple[str, float], ...]:
        await store.write(lambda c: keys.end_session(c, id, ends_at, now))
        return (await store.read(keys.load_all)).ended_sessions

    assert await ended_after("a", 200.0, 100.0) == (("a", 200.0),)
    assert sorted(await ended_after("b", 300.0, 150.0)) == [("a", 200.0), ("b", 300.0)]
    assert sorted(await ended_after("a", 200.0, 200.0)) == [("a", 200.0), ("b", 300.0)]
    assert sorted(await ended_after("c", 400.0, 250.0)) == [("b", 300.0), ("c", 400.0)]
    missed = await store.read(lambda c: keys.changes_since(c, 2))
    assert missed is not None and missed.ended_sessions == (("c", 400.0),)


@pytest.mark.asyncio
async def test_nothing_added_is_no_change(store: Store) -> None:
    assert await added(store) == []
    assert await store.read(keys.current_revision) == 0
