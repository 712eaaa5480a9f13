"""What the store keeps of responses: stored, continued, in the background, expired. On both databases."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from sqlalchemy import update

from gateway.store import sql_counters
from gateway.store.conversations import Conversation
from gateway.store.errors import ChainBroken, ChainTooLong, ConversationMissing
from gateway.store.ledger_sums import DAY
from gateway.store.responses import InterruptedRun, StoredResponse
from gateway.store.store import Store
from gateway.store.tables import LEDGER_OUTBOX, RUNS
from support.databases import KINDS, throwaway
from test_store_database import OWNER, python, running, stored
from translators.operations.stored_responses import INTERRUPTED, end_interrupted

NOW = 1_800_000_000


class Clock:
    """The time is what a test says it is."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


LEASE = 1000.0
"""Seconds by the database's own clock, which goes on while a busy machine works on a test."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture(params=KINDS)
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    async with throwaway(request.param, tmp_path) as url:
        yield url


@pytest_asyncio.fixture
async def store(url: str, clock: Clock) -> AsyncIterator[Store]:
    async with running(url, clock=clock, lease=LEASE) as store:
        yield store


async def pass_lease(store: Store, seconds: float = 1.1 * LEASE) -> None:
    """As if so much time had passed since the leases were written."""
    runs = update(RUNS).values(lease_until=RUNS.c.lease_until - seconds)
    rows = update(LEDGER_OUTBOX).values(due=LEDGER_OUTBOX.c.due - seconds)
    await store._database.write(lambda connection: connection.execute(runs) and connection.execute(rows) and None)


def changed(response: StoredResponse, **changes: Any) -> StoredResponse:
    return msgspec.structs.replace(response, **changes)


def live(id: str = "resp_1", **changes: Any) -> StoredResponse:
    """One that somebody works on."""
    return stored(id, **{"status": "in_progress", "background": True, **changes})


async def append(store: Store, id: str, first: int, events: list[bytes]) -> bool:
    """Whether events were added to this one response."""
    return id not in await store.append_events({id: (first, events)})


# --- stored -------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_what_comes_back_is_what_was_stored(store: Store) -> None:
    responses = [
        stored(),
        stored("resp_2", expires_at=NOW + 1, previous_id="resp_1", conversation_id="conv_1", background=True),
        stored("resp_3", body=bytes(range(256)), items=b"", output=b"x" * 3_000_000, model="grün"),
    ]
    for response in responses:
        assert await store.save(response)
    for response in responses:
        assert await store.get(OWNER, response.id) == response


@pytest.mark.asyncio
async def test_a_finished_response_does_not_change(store: Store) -> None:
    assert await store.save(stored())
    assert not await store.save(stored(body=b"{}"))
    assert not await store.save(stored(owner="somebody else"))
    assert await store.get(OWNER, "resp_1") == stored()


@pytest.mark.asyncio
async def test_only_its_owner_sees_a_response(store: Store) -> None:
    await store.save(stored())
    await store.begin(live("resp_2"))
    await append(store, "resp_2", 0, [b"{}"])
    for id in ("resp_1", "resp_2"):
        assert await store.get("else", id) is None
        assert not await store.delete("else", id)
        assert not await store.request_cancel("else", id)
        assert await store.events("else", id) == []
        with pytest.raises(ChainBroken):
            await store.chain("else", id)
        assert await store.get(OWNER, id)
    assert not await store.update(live("resp_2", owner="else", status="completed"), (), 1, [b"{}"])
    assert await store.inactive(["resp_2"]) == set()
    assert await store.events(OWNER, "resp_2") == [(0, b"{}")]


@pytest.mark.asyncio
async def test_a_deleted_response_is_gone(store: Store) -> None:
    await store.save(stored())
    assert await store.delete(OWNER, "resp_1")
    assert await store.get(OWNER, "resp_1") is None
    assert not await store.delete(OWNER, "resp_1")


@pytest.mark.asyncio
async def test_an_expired_response_is_gone(store: Store, clock: Clock) -> None:
    await store.save(stored(expires_at=NOW + 10))
    clock.now = NOW + 9.9
    assert await store.get(OWNER, "resp_1")
    clock.now = NOW + 10
    assert await store.get(OWNER, "resp_1") is None
    assert not await store.delete(OWNER, "resp_1")
    with pytest.raises(ChainBroken):
        await store.chain(OWNER, "resp_1")


@pytest.mark.asyncio
async def test_events_of_several_are_added_together(store: Store) -> None:
    for id in ("resp_1", "resp_2", "resp_3"):
        await store.begin(live(id))
    assert await store.update(live("resp_3", status="completed"))
    batches = {"resp_1": (0, [b"a", b"b"]), "resp_2": (5, [b"c"]), "resp_3": (0, [b"d"]), "resp_4": (0, [b"e"])}
    assert await store.append_events(batches) == {"resp_3", "resp_4"}
    assert await store.events(OWNER, "resp_1") == [(0, b"a"), (1, b"b")]
    assert await store.events(OWNER, "resp_2") == [(5, b"c")]
    assert await store.events(OWNER, "resp_3") == []
    assert await store.append_events({}) == set()


@pytest.mark.asyncio
async def test_events_and_heartbeats_do_not_wait_for_each_other(store: Store) -> None:
    ids = [f"resp_{number}" for number in range(20)]
    for id in ids:
        await store.begin(live(id))
    for number in range(10):
        order = ids[::-1] if number % 2 else ids
        added, *_ = await asyncio.gather(
            store.append_events({id: (number, [b"x"]) for id in order}), store.renew(order), store.inactive(ids)
        )
        assert added == set()
    assert all([len(await store.events(OWNER, id)) == 10 for id in ids])


@pytest.mark.asyncio
async def test_the_first_events_come_with_the_beginning_and_the_last_one_is_found(store: Store) -> None:
    await store.begin(live("resp_1"), [b"zero", b"one"])
    await store.begin(live("resp_2"))
    assert await store.events(OWNER, "resp_1") == [(0, b"zero"), (1, b"one")]
    assert await store.last_event(OWNER, "resp_1") == (1, b"one")
    assert await append(store, "resp_1", 2, [b"two"])
    assert await store.last_event(OWNER, "resp_1") == (2, b"two")
    assert await store.last_event("else", "resp_1") is None
    assert await store.last_event(OWNER, "resp_2") is None


LONG = "".join(hashlib.sha256(b"%d" % number).hexdigest() for number in range(200))  # and not to be compressed
NASTY = ["", "\0", "a\0b", "\ud800", "é" * 10_000, LONG, "'; DROP TABLE responses; --", "%", "_" * 6]


@pytest.mark.parametrize("id", NASTY, ids=range(len(NASTY)))
@pytest.mark.asyncio
async def test_no_name_breaks_anything(store: Store, id: str) -> None:
    """Whatever stands in a path is looked up; what a client calls its items is stored."""
    await store.save(stored())
    await store.create_conversation(Conversation("conv_1", OWNER, NOW, None, b"{}"))
    assert await store.get(OWNER, id) is None
    assert await store.get(id, "resp_1") is None
    assert not await store.delete(OWNER, id)
    assert not await store.request_cancel(OWNER, id)
    assert await store.events(OWNER, id, 10**30) == []
    assert await store.conversation(OWNER, id) is None
    assert await store.item(OWNER, id, id) is None
    with pytest.raises(ChainBroken):
        await store.chain(OWNER, id)
    await store.add_items(OWNER, "conv_1", [(id, b"1"), ("other", b"2")])
    assert await store.item(OWNER, "conv_1", id) == b"1"
    assert [item.body for item in (await store.items(OWNER, "conv_1", id, order="asc")).items] == [b"2"]
    assert await store.save(stored("resp_2", previous_id=id, model=id))


def test_a_live_response_is_begun_and_a_finished_one_saved(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/store.db", end_interrupted, timeout=30.0)
    for mistaken in (store.save(live()), store.begin(stored())):
        with pytest.raises(ValueError):
            asyncio.run(mistaken)


@pytest.mark.asyncio
async def test_many_at_once(store: Store) -> None:
    await store.create_conversation(Conversation("conv_1", OWNER, NOW, None, b"{}"))

    async def one(number: int) -> None:
        response = stored(f"resp_{number}", conversation_id="conv_1")
        assert await store.save(response, [(f"a{number}", b"a"), (f"b{number}", b"b")])
        assert await store.get(OWNER, response.id) == response

    await asyncio.gather(*(one(number) for number in range(20)))
    page = await store.items(OWNER, "conv_1", limit=100, order="asc")
    ids = [item.id for item in page.items]
    assert len(ids) == 40
    for first, second in zip(ids[::2], ids[1::2], strict=True):
        assert (first[0], second[0], first[1:]) == ("a", "b", second[1:])


@pytest.mark.asyncio
async def test_the_same_response_twice_at_once(store: Store) -> None:
    assert sorted(await asyncio.gather(*(store.save(stored()) for _ in range(5)))) == [False] * 4 + [True]


@pytest.mark.asyncio
async def test_several_processes_share_a_database(url: str) -> None:
    async with running(url) as one, running(url) as other:
        await asyncio.gather(*(store.save(stored(f"resp_{n}")) for n, store in enumerate([one, other] * 10)))
        for number in range(20):
            assert await one.get(OWNER, f"resp_{number}") == await other.get(OWNER, f"resp_{number}") is not None


KILLED = """
import asyncio, os, signal, sys
from gateway.store.store import Store
from translators.operations.stored_responses import end_interrupted
from test_store_database import stored

async def main():
    store = Store(sys.argv[1], end_interrupted, timeout=30.0)
    await store.start()
    for number in range(1000):
        await store.save(stored(f"resp_{number}"))
        os.write(1, b"%d\\n" % number)

sys.path.insert(0, "tests")
asyncio.run(main())
"""


@pytest.mark.asyncio
async def test_what_was_stored_survives_the_process(url: str) -> None:
    process = python("import sys; sys.path.insert(0, 'tests')\n" + KILLED, url)
    assert process.stdout is not None
    for _ in range(20):
        await asyncio.to_thread(process.stdout.readline)
    process.kill()
    rest, error = await asyncio.to_thread(process.communicate)
    assert (process.returncode, error) == (-9, "")
    last = 19 + len(rest.splitlines())
    async with running(url) as store:
        for number in range(last + 1):
            assert await store.get(OWNER, f"resp_{number}") == stored(f"resp_{number}")
        await store.save(stored("resp_after"))


# --- continued ----------------------------------------------------------------------------------------------


async def _chain(store: Store, length: int, **changes: Any) -> list[StoredResponse]:
    responses = [
        stored(f"resp_{number}", previous_id=f"resp_{number - 1}" if number else None, **changes)
        for number in range(length)
    ]
    for response in responses:
        await store.save(response)
    return responses


@pytest.mark.asyncio
async def test_a_chain_begins_with_the_oldest(store: Store) -> None:
    responses = await _chain(store, 5)
    assert await store.chain(OWNER, "resp_4") == responses
    assert await store.chain(OWNER, "resp_2") == responses[:3]
    assert await store.chain(OWNER, "resp_0") == responses[:1]


@pytest.mark.asyncio
async def test_a_chain_may_fork(store: Store) -> None:
    responses = await _chain(store, 3)
    other = stored("resp_other", previous_id="resp_1")
    await store.save(other)
    assert await store.chain(OWNER, "resp_other") == [*responses[:2], other]


@pytest.mark.asyncio
async def test_a_chain_is_bounded(store: Store) -> None:
    responses = await _chain(store, 5, body=b"b" * 10, items=b"i" * 20, output=b"o" * 30)
    assert await store.chain(OWNER, "resp_4", max_links=5, max_bytes=300) == responses
    with pytest.raises(ChainTooLong):
        await store.chain(OWNER, "resp_4", max_links=4)
    with pytest.raises(ChainTooLong):
        await store.chain(OWNER, "resp_4", max_bytes=299)


@pytest.mark.asyncio
async def test_a_chain_with_a_link_missing(store: Store, clock: Clock) -> None:
    with pytest.raises(ChainBroken) as broken:
        await store.chain(OWNER, "resp_never")
    assert broken.value.id == "resp_never"

    await _chain(store, 4)
    await store.delete(OWNER, "resp_1")
    with pytest.raises(ChainBroken) as broken:
        await store.chain(OWNER, "resp_3")
    assert broken.value.id == "resp_1"

    await store.save(stored("resp_1", owner="else"))  # there again, and somebody else's
    with pytest.raises(ChainBroken):
        await store.chain(OWNER, "resp_3")

    await store.save(stored("resp_old", expires_at=NOW + 10))
    await store.save(stored("resp_new", expires_at=NOW + 20, previous_id="resp_old"))
    assert len(await store.chain(OWNER, "resp_new")) == 2
    clock.now = NOW + 15
    with pytest.raises(ChainBroken) as broken:
        await store.chain(OWNER, "resp_new")
    assert broken.value.id == "resp_old"


@pytest.mark.asyncio
async def test_a_circle_is_no_chain(store: Store) -> None:
    await store.save(stored("resp_1", previous_id="resp_2"))
    await store.save(stored("resp_2", previous_id="resp_1"))
    await store.save(stored("resp_self", previous_id="resp_self"))
    for id in ("resp_1", "resp_2", "resp_self"):
        with pytest.raises(ChainBroken):
            await store.chain(OWNER, id, max_links=200)


# --- with a conversation ------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_response_and_its_items_are_stored_together(store: Store) -> None:
    await store.create_conversation(Conversation("conv_1", OWNER, NOW, None, b"{}"), [("msg_0", b"0")])
    await store.save(stored(conversation_id="conv_1"), [("msg_1", b"1"), ("msg_2", b"2")])
    assert not await store.save(stored(conversation_id="conv_1"), [("msg_3", b"3")])  # tried once more
    # An item that is there already, since a client sent it again, is no reason to lose the answer.
    await store.save(stored("resp_2", conversation_id="conv_1"), [("msg_2", b"x"), ("msg_4", b"4"), ("msg_4", b"x")])
    page = await store.items(OWNER, "conv_1", order="asc")
    assert [(item.id, item.body) for item in page.items] == [
        ("msg_0", b"0"),
        ("msg_1", b"1"),
        ("msg_2", b"2"),
        ("msg_4", b"4"),
    ]


@pytest.mark.parametrize("owner", [OWNER, "else"])
@pytest.mark.asyncio
async def test_no_response_without_its_conversation(store: Store, owner: str) -> None:
    if owner != OWNER:
        await store.create_conversation(Conversation("conv_1", owner, NOW, None, b"{}"))
    with pytest.raises(ConversationMissing):
        await store.save(stored(conversation_id="conv_1"), [("msg_1", b"1")])
    assert await store.get(OWNER, "resp_1") is None
    await store.begin(live(conversation_id="conv_1"))
    with pytest.raises(ConversationMissing):
        await store.update(stored(conversation_id="conv_1"), [("msg_1", b"1")], 0, [b"{}"])
    result = await store.get(OWNER, "resp_1")
    assert result is not None and result.status == "in_progress"
    assert await store.events(OWNER, "resp_1") == []


@pytest.mark.asyncio
async def test_a_conversation_lives_as_long_as_its_items(store: Store, clock: Clock) -> None:
    for id, expires_at in (("conv_1", NOW + 10), ("conv_2", None)):
        await store.create_conversation(Conversation(id, OWNER, NOW, expires_at, b"{}"))
        for number, until in ((1, NOW + 20), (2, NOW + 5)):
            response = stored(f"resp_{id}{number}", conversation_id=id, expires_at=until)
            await store.save(response, [(f"msg_{number}", b"{}")])
    clock.now = NOW + 19
    assert (await store.conversation(OWNER, "conv_1")) == Conversation("conv_1", OWNER, NOW, NOW + 20, b"{}")
    clock.now = NOW + 20
    assert (await store.conversation(OWNER, "conv_1")) is None
    assert await store.conversation(OWNER, "conv_2")


# --- in the background --------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_from_the_queue_to_the_end(store: Store) -> None:
    queued = live(status="queued")
    await store.begin(queued)
    assert await store.get(OWNER, "resp_1") == queued
    assert await store.update(live(), first_sequence=0, events=[b"created", b"in_progress"])
    assert await append(store, "resp_1", 2, [b"delta"])
    done = changed(queued, status="completed", body=b'{"status":"completed"}', output=b"[1]")
    assert await store.update(done, first_sequence=3, events=[b"completed"])
    assert await store.get(OWNER, "resp_1") == done
    assert await store.events(OWNER, "resp_1") == [
        (0, b"created"),
        (1, b"in_progress"),
        (2, b"delta"),
        (3, b"completed"),
    ]
    assert await store.inactive(["resp_1"]) == {"resp_1"}  # there is no more to do
    await pass_lease(store)
    assert await store.fail_interrupted() == []


@pytest.mark.asyncio
async def test_events_after_a_number(store: Store) -> None:
    await store.begin(live())
    assert await append(store, "resp_1", 0, [b"%d" % number for number in range(10)])
    assert await append(store, "resp_1", 8, [b"x", b"x", b"10"])  # once more, with one that is new
    assert await append(store, "resp_1", 11, [])
    assert await store.events(OWNER, "resp_1") == [(number, b"%d" % number) for number in range(11)]
    assert await store.events(OWNER, "resp_1", after=8) == [(9, b"9"), (10, b"10")]
    assert await store.events(OWNER, "resp_1", after=3, limit=2) == [(4, b"4"), (5, b"5")]
    assert await store.events(OWNER, "resp_1", after=10) == []
    assert not await append(store, "resp_never", 0, [b"x"])


@pytest.mark.asyncio
async def test_the_end_is_final(store: Store) -> None:
    await store.begin(live())
    assert await store.update(live(status="cancelled"))
    assert not await store.update(live(status="completed"), first_sequence=0, events=[b"completed"])
    assert not await append(store, "resp_1", 0, [b"delta"])
    assert not await store.save(stored())
    result = await store.get(OWNER, "resp_1")
    assert result is not None and result.status == "cancelled"
    assert await store.events(OWNER, "resp_1") == []


@pytest.mark.asyncio
async def test_a_deleted_response_does_not_come_back(store: Store) -> None:
    await store.begin(live())
    await append(store, "resp_1", 0, [b"delta"])
    assert await store.delete(OWNER, "resp_1")
    assert await store.inactive(["resp_1", "resp_never"]) == {"resp_1", "resp_never"}
    assert not await append(store, "resp_1", 1, [b"delta"])
    assert not await store.update(live(status="completed"))
    assert await store.get(OWNER, "resp_1") is None
    assert await store.events(OWNER, "resp_1") == []


@pytest.mark.asyncio
async def test_cancelled_from_another_process(url: str) -> None:
    async with running(url) as worker, running(url) as other:
        await worker.begin(live())
        await worker.begin(live("resp_2"))
        assert await worker.inactive(["resp_1", "resp_2"]) == set()
        assert await other.request_cancel(OWNER, "resp_1")
        assert await other.request_cancel(OWNER, "resp_1")
        assert await worker.inactive(["resp_1", "resp_2"]) == {"resp_1"}
        assert await worker.inactive([]) == set()
        await worker.update(live(status="cancelled"))
        assert not await other.request_cancel(OWNER, "resp_1")


@pytest.mark.asyncio
async def test_interrupted_responses_fail(store: Store) -> None:
    body = b'{"id":"resp_1","status":"in_progress","error":null,"usage":{"x":1.50},"text":"\xc3\xbc"}'
    interrupted: list[InterruptedRun] = []

    def row_of_interrupted(run: InterruptedRun) -> bytes | None:
        interrupted.append(run)
        return run.ledger_row

    vars(store)["_row_of_interrupted"] = row_of_interrupted
    await store.begin(live("resp_lost", body=body), (), b"row 1")
    await store.begin(live("resp_queued", body=body, status="queued"), (), b"row 2")
    await store.begin(live("resp_unwanted", body=body), (), b"row 3")
    await store.begin(live("resp_unread", body=b"no JSON"))
    await store.begin(live("resp_held"))
    assert await store.request_cancel(OWNER, "resp_unwanted")
    await pass_lease(store, 0.9 * LEASE)
    await store.renew(["resp_held"])
    await store.renew([])
    assert await store.fail_interrupted() == []
    await pass_lease(store, 0.2 * LEASE)
    assert sorted(await store.fail_interrupted()) == ["resp_lost", "resp_queued", "resp_unread", "resp_unwanted"]
    assert await store.fail_interrupted() == []
    assert sorted(interrupted, key=lambda run: run.id) == [
        InterruptedRun("resp_lost", "failed", True, b"row 1"),
        InterruptedRun("resp_queued", "failed", False, b"row 2"),
        InterruptedRun("resp_unread", "failed", True, None),
        InterruptedRun("resp_unwanted", "cancelled", True, b"row 3"),
    ]
    assert await store.take_due_ledger_rows() == {
        "resp_lost": b"row 1",
        "resp_queued": b"row 2",
        "resp_unwanted": b"row 3",
    }

    for id, status, error in (
        ("resp_lost", "failed", INTERRUPTED),
        ("resp_queued", "failed", INTERRUPTED),
        ("resp_unwanted", "cancelled", None),
    ):
        result = await store.get(OWNER, id)
        assert result is not None and result.status == status
        assert json.loads(result.body) == {**json.loads(body), "status": status, "error": error}
        assert b'"usage":{"x":1.50}' in result.body  # the rest is as it was, to the byte
        assert not await store.update(live(id, status="completed"))
    unread = await store.get(OWNER, "resp_unread")
    assert unread is not None and (unread.status, unread.body) == ("failed", b"no JSON")
    held = await store.get(OWNER, "resp_held")
    assert held is not None and held.status == "in_progress"


@pytest.mark.asyncio
async def test_the_row_of_an_ended_response_is_kept_until_it_is_removed(store: Store) -> None:
    """Its process has the time of a lease to write it; then others get it, one of them at a time."""
    for number in range(3):
        await store.begin(live(f"resp_{number}"), (), b"in advance")
        assert await store.update(live(f"resp_{number}", status="completed"), ledger_row=b"row %d" % number)
    assert await store.take_due_ledger_rows() == {}
    await store.remove_ledger_rows(["resp_0"])
    await pass_lease(store)
    await store.begin(live("resp_3"))
    assert await store.update(live("resp_3", status="completed"), ledger_row=b"row 3")
    assert await store.take_due_ledger_rows() == {"resp_1": b"row 1", "resp_2": b"row 2"}
    assert await store.take_due_ledger_rows() == {}
    await store.remove_ledger_rows(["resp_1"])
    await pass_lease(store, 0.9 * LEASE)  # who has taken it has not written it
    assert await store.take_due_ledger_rows() == {}
    await pass_lease(store, 0.2 * LEASE)
    assert await store.take_due_ledger_rows() == {"resp_2": b"row 2", "resp_3": b"row 3"}


@pytest.mark.asyncio
async def test_the_row_of_a_deleted_response_is_that_of_its_worker_while_it_lives(store: Store) -> None:
    vars(store)["_row_of_interrupted"] = lambda run: run.ledger_row and run.ledger_row + run.status.encode()
    for number in range(2):
        await store.begin(live(f"resp_{number}"), (), b"row %d " % number)
        assert await store.delete(OWNER, f"resp_{number}")
        assert not await store.update(live(f"resp_{number}", status="completed"), ledger_row=b"never")
    await store.save(stored("resp_saved"))
    assert await store.delete(OWNER, "resp_saved")
    assert await store.take_due_ledger_rows() == {}
    assert await store.replace_ledger_row("resp_0", b"known")
    await pass_lease(store)
    assert await store.take_due_ledger_rows() == {"resp_0": b"known", "resp_1": b"row 1 cancelled"}
    assert not await store.replace_ledger_row("resp_1", b"too late")
    assert not await store.replace_ledger_row("resp_never", b"nothing")


@pytest.mark.asyncio
async def test_more_are_interrupted_than_fit_in_one_transaction(store: Store) -> None:
    for number in range(205):
        await store.begin(live(f"resp_{number}"))
    await pass_lease(store)
    assert len(await store.fail_interrupted()) == 205


@pytest.mark.asyncio
async def test_what_a_crash_interrupted_fails_at_the_next_start(url: str) -> None:
    async with running(url) as store:
        await store.begin(live())
        await pass_lease(store, 16)
    async with running(url) as store:
        result = await store.get(OWNER, "resp_1")
        assert result is not None and result.status == "failed"


@pytest.mark.asyncio
@pytest.mark.parametrize("skew", [-100_000.0, 100_000.0], ids=["behind", "ahead"])
async def test_a_neighbour_with_a_wrong_clock_ends_nothing(url: str, skew: float) -> None:
    """Leases are measured by the database's clock, whoever writes them and whoever looks."""
    async with running(url) as worker, running(url, clock=lambda: time.time() + skew) as neighbour:
        await worker.begin(live("resp_of_worker"))
        await neighbour.begin(live("resp_of_neighbour"))
        await neighbour.save(stored("resp_saved", expires_at=int(time.time()) + 1000))
        for store in (worker, neighbour):
            assert await store.fail_interrupted() == []
            await store.renew(["resp_of_worker", "resp_of_neighbour"])
            assert await store.purge() == 0
        await pass_lease(worker, 16)
        await worker.renew(["resp_of_neighbour"])
        assert await neighbour.fail_interrupted() == ["resp_of_worker"]


@pytest.mark.asyncio
async def test_each_is_ended_once(url: str) -> None:
    """A worker's last word, a delete and several replicas' look for the lost, all at once: one comes first."""
    async with running(url) as one, running(url) as other:
        for number in range(30):
            await one.begin(live(f"resp_{number}"))
        await pass_lease(one, 16)
        looks = asyncio.gather(one.fail_interrupted(), other.fail_interrupted())
        last_words = asyncio.gather(*(other.update(live(f"resp_{n}", status="completed")) for n in range(0, 30, 2)))
        deletes = asyncio.gather(*(one.delete(OWNER, f"resp_{number}") for number in range(0, 30, 3)))
        failed = [id for ids in await looks for id in ids]
        completed = [f"resp_{2 * number}" for number, done in enumerate(await last_words) if done]
        assert all(await deletes)
        assert len({*failed, *completed}) == len(failed) + len(completed)
        for number in range(30):
            result = await one.get(OWNER, id := f"resp_{number}")
            if number % 3 == 0:
                assert result is None
            else:
                assert result is not None
                assert result.status == ("failed" if id in failed else "completed")


# --- expired ------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_purging(store: Store, clock: Clock) -> None:
    for number in range(7):
        await store.save(stored(f"resp_{number}", expires_at=NOW + 10))
    await store.save(stored("resp_kept"))
    await store.save(stored("resp_later", expires_at=NOW + 11))
    await store.begin(live("resp_live", expires_at=NOW + 10))
    await store.begin(live("resp_events", expires_at=NOW + 10))
    await append(store, "resp_events", 0, [b"{}"] * 9)
    await append(store, "resp_live", 0, [b"{}"] * 9)
    await store.update(live("resp_events", expires_at=NOW + 10, status="completed"))
    for id, expires_at in (("conv_old", NOW + 10), ("conv_kept", None)):
        conversation = Conversation(id, OWNER, NOW, expires_at, b"{}")
        await store.create_conversation(conversation, [(f"msg_{number}", b"{}") for number in range(5)])

    assert await store.purge(NOW + 9) == 0
    old = NOW + 10 - 400 * DAY - 1
    windows = [(f"key:{number}:budget:1d", old - DAY * number) for number in range(4)]
    recent = [*((id, old + 1) for id, _ in windows), ("key:0:budget:24mo", old), ("key:0:budget:total", 0)]
    amounts = dict.fromkeys([*windows, *recent, ("key:gone:budget:1d", old - 3_660 * DAY)], 7)
    await store.write(lambda connection: sql_counters.spend(connection, amounts))
    for window in (old, NOW):
        assert await store.write(partial(sql_counters.claim, words="an alert", window=window))

    # 7 responses and the one with events, 9 events, 1 conversation, 5 items, and windows of 5 budgets and an alert
    assert await store.purge(NOW + 10, batch=3) == 8 + 9 + 1 + 5 + 6
    # A budget of two years still holds, also where nothing was spent for one. Nobody need count in the database.
    assert await store.read(sql_counters.budgets) == dict.fromkeys(recent, 7)
    assert not await store.write(partial(sql_counters.claim, words="an alert", window=NOW))
    assert await store.purge(NOW + 10) == 0
    clock.now = NOW - 1.0  # nothing is hidden by having expired
    gone = ["resp_0", "resp_6", "resp_events"]
    assert [await store.get(OWNER, id) for id in gone] == [None] * 3
    assert all([await store.get(OWNER, id) for id in ("resp_kept", "resp_later", "resp_live")])
    assert len(await store.events(OWNER, "resp_live")) == 9
    assert await store.conversation(OWNER, "conv_old") is None
    assert len((await store.items(OWNER, "conv_kept")).items) == 5


# --- by the ids of items ------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_earlier_items_are_found_by_their_ids(store: Store, clock: Clock) -> None:
    await store.save(stored("resp_1", answer_id="m1", output=b"[1]", items=b"[10]"))
    await store.save(stored("resp_2", answer_id="m2", output=b"[2]", items=b"[20]", created_at=NOW + 1))
    await store.save(stored("resp_3", answer_id="m2", output=b"[3]", created_at=NOW + 2, expires_at=NOW + 10))
    await store.begin(live("resp_4"))
    await store.update(live("resp_4", status="completed", answer_id="m4", output=b"[4]"))
    assert await store.item_arrays(OWNER, {"m1", "none"}, {"resp_2", "none"}) == [b"[1]", b"[20]"]
    assert await store.item_arrays(OWNER, {"m2"}, set()) == [b"[3]", b"[2]"]
    assert await store.item_arrays(OWNER, {"m4"}, set()) == [b"[4]"]
    assert await store.item_arrays("else", {"m1", "m2"}, {"resp_1"}) == []
    clock.now = NOW + 10
    assert await store.item_arrays(OWNER, {"m2"}, set()) == [b"[2]"]
    await store.delete(OWNER, "resp_1")
    assert await store.item_arrays(OWNER, {"m1"}, {"resp_1"}) == []
    with pytest.raises(ChainTooLong):
        await store.item_arrays(OWNER, {"m2"}, set(), max_bytes=2)
