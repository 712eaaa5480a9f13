"""THE INTERFACE of this package: everything that outlives a request goes through one `Store`.

An owner is whoever may see a row again; it is opaque here, and nobody else finds the row. Every method may raise
StoreUnavailable, within the time that the store was given, and recovers by itself when the database does. When a
method has returned, its changes survive the process and the machine.
"""

import asyncio
import itertools
import math
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from gateway.store import conversations, ledger_outbox, responses, retention, usage
from gateway.store.conversations import Conversation, Order, Page
from gateway.store.database import Database, Result, Work
from gateway.store.errors import ItemExists, StoreUnavailable
from gateway.store.responses import LIVE, Batches, EndInterrupted, RowOfInterrupted, StoredResponse
from gateway.store.usage import Usage

MAX_CHAIN_LINKS = 200
"""Responses that one request may continue, one after the other."""

MAX_ITEMS = 10_000
"""Items of a conversation that one request may load."""

MAX_CHAIN_BYTES = 64 * 1024 * 1024
"""Of the history that one request may load."""

PROBE_INTERVAL = 0.25
"""Seconds for which a successful probe is believed: it costs a write to the disk."""

INTERRUPTED_BATCH = 100
"""Interrupted responses that one transaction ends, and rows of such that are taken to be written at one time."""

Items = Sequence[tuple[str, bytes]]
"""Ids and items, as JSON."""


class Store:
    """Responses and conversations in SQLite or PostgreSQL."""

    def __init__(
        self,
        url: str,
        end_interrupted: EndInterrupted,
        timeout: float = 5.0,
        pool_size: int = 5,
        lease: float = 15.0,
        clock: Callable[[], float] = time.time,
        row_of_interrupted: RowOfInterrupted = lambda run: None,
    ) -> None:
        """url: SQLAlchemy's; ValueError for a bad one. end_interrupted: makes the body of an interrupted response.

        row_of_interrupted: makes the ledger's row of its call.

        timeout: seconds for each call. lease: seconds without `renew` after which a response's worker counts as gone;
        renew three times as often; the database's clock measures it. clock: Unix seconds, for what has expired.
        """
        self._database = Database(url, timeout, pool_size)
        self._end_interrupted, self._row_of_interrupted = end_interrupted, row_of_interrupted
        # No other process has ids like these, so each removes the probes of its own alone.
        self._probe_prefix, self._probe_numbers, self._probe_id = secrets.token_hex(8), itertools.count(), ""
        self._probing: asyncio.Task[None] | None = None
        self._probed_at, self._total_bytes = -math.inf, 0
        self.lease, self._now = lease, clock

    async def start(self) -> None:
        """Brings the tables to this version, and ends interrupted responses.

        Raises StoreUnavailable, after which the store is usable all the same: each call tries again.
        """
        await self._database.open()
        await self.fail_interrupted()

    async def stop(self) -> None:
        """Closes the connections when the calls under way have ended."""
        await self._database.close()

    async def ping(self) -> bool:
        """Returns whether a response could be stored now: writes as many bytes as a response may have."""
        try:
            await self._probe()
        except StoreUnavailable:
            return False
        return True

    async def check(self, owner: str) -> Usage:
        """Returns the bytes that are stored. Raises StoreUnavailable if no response could be stored now.

        A probe answers for all who ask within PROBE_INTERVAL seconds after it; the first failed write ends that.
        """
        if time.monotonic() - self._probed_at > PROBE_INTERVAL:
            if self._probing is None:
                self._probing = asyncio.get_running_loop().create_task(self._probe())
                self._probing.add_done_callback(self._end_probing)
            # Others wait for it as well, whatever becomes of this caller.
            await asyncio.shield(self._probing)
        owner_bytes = await self._read(lambda c: usage.owner_bytes(c, owner))
        # The sum is as old as the probe, and one owner may have stored more since.
        return Usage(owner_bytes, max(owner_bytes, self._total_bytes))

    async def total_bytes(self) -> int:
        """Returns the bytes that all owners store. Raises StoreUnavailable."""
        return await self._read(usage.total_bytes)

    async def _probe(self) -> None:
        id = f"{self._probe_prefix}{next(self._probe_numbers)}"
        # Of before the write, so that a slow probe is not believed for longer.
        began = time.monotonic()
        total = await self._write(lambda c: usage.write_probe(c, id, self._probe_id))
        self._probe_id, self._total_bytes, self._probed_at = id, total, began

    def _end_probing(self, task: asyncio.Task[None]) -> None:
        self._probing = None
        if not task.cancelled():
            task.exception()  # retrieved, also where nobody waits any longer

    async def read(self, work: Work[Result]) -> Result:
        """Returns the result of work that changes nothing: a function of one connection, such as those of `keys.py`."""
        return await self._database.read(work)

    async def write(self, work: Work[Result]) -> Result:
        """Returns the result of work that is done as a whole or not at all."""
        return await self._write(work)

    async def _read(self, work: Work[Result]) -> Result:
        return await self._database.read(work)

    async def _write(self, work: Work[Result]) -> Result:
        try:
            return await self._database.write(work)
        except StoreUnavailable:
            # The next `check` looks at the disk itself and does not go by a probe of before.
            self._probed_at = -math.inf
            raise

    # --- responses ------------------------------------------------------------------------------------------

    async def save(self, response: StoredResponse, conversation_items: Items = ()) -> bool:
        """Stores a finished response, and what it adds to its conversation: both or neither.

        Items whose id the conversation has are not added again. False, and nothing changes, if a finished response of
        this id is there: this is the second attempt, and the first came through. Raises ConversationMissing.
        """
        if response.status in LIVE:
            raise ValueError("a live response is begun, not saved")
        return await self._write(lambda c: responses.save(c, response, conversation_items, self._now()))

    async def get(self, owner: str, id: str) -> StoredResponse | None:
        """Returns None for a response that is missing, somebody else's, or expired."""
        return await self._read(lambda c: responses.get(c, owner, id, self._now()))

    async def chain(
        self, owner: str, id: str, max_links: int = MAX_CHAIN_LINKS, max_bytes: int = MAX_CHAIN_BYTES
    ) -> list[StoredResponse]:
        """Returns the response and all that it continues, oldest first. Raises ChainBroken, ChainTooLong."""
        return await self._read(lambda c: responses.chain(c, owner, id, self._now(), max_links, max_bytes))

    async def item_arrays(
        self, owner: str, answer_ids: Collection[str], ids: Collection[str], max_bytes: int = MAX_CHAIN_BYTES
    ) -> list[bytes]:
        """Returns the output of the answers, and the input items of the responses, of these ids: JSON arrays.

        Missing ones are left out. Raises ChainTooLong.
        """
        return await self._read(lambda c: responses.item_arrays(c, owner, answer_ids, ids, self._now(), max_bytes))

    async def conversation_items(
        self, owner: str, ids: Collection[str], max_bytes: int = MAX_CHAIN_BYTES
    ) -> list[bytes]:
        """Returns the items of these ids, of all conversations of this owner. Raises ChainTooLong."""
        return await self._read(lambda c: conversations.items_by_id(c, owner, ids, self._now(), max_bytes))

    async def delete(self, owner: str, id: str) -> bool:
        """Deletes a response and its events; its worker finds it in `inactive`. False if there is none."""
        return await self._write(
            lambda c: responses.remove(c, owner, id, self._now(), self.lease, self._row_of_interrupted)
        )

    # --- responses in the background ------------------------------------------------------------------------

    async def begin(
        self, response: StoredResponse, events: Sequence[bytes] = (), ledger_row: bytes | None = None
    ) -> None:
        """Stores a response that is queued or in progress, with a lease for its worker, and its first events.

        ledger_row: of the call, as `row_of_interrupted` gets it if this process does not live to end it.
        """
        if response.status not in LIVE:
            raise ValueError("a finished response is saved, not begun")
        await self._write(lambda c: responses.begin(c, response, events, self.lease, ledger_row))

    async def update(
        self,
        response: StoredResponse,
        conversation_items: Items = (),
        first_sequence: int = 0,
        events: Sequence[bytes] = (),
        discard_events: bool = False,
        ledger_row: bytes | None = None,
    ) -> bool:
        """Stores the next state of a begun response, with new events and items of its conversation: all or nothing.

        discard_events: deletes the earlier events. ledger_row: of a call that has ended, which whoever ended it writes
        and removes from here. False, and nothing changes, if it is not live any more: deleted, cancelled, or
        interrupted. Raises ConversationMissing.
        """
        return await self._write(
            lambda c: responses.update_live(
                c,
                response,
                conversation_items,
                first_sequence,
                events,
                self._now(),
                discard_events,
                ledger_row,
                self.lease,
            )
        )

    async def renew(self, ids: Collection[str]) -> None:
        """Extends the leases of these responses: the heartbeat of their worker."""
        await self._write(lambda c: responses.renew(c, ids, self.lease))

    async def append_events(self, batches: Batches) -> set[str]:
        """Adds events to several responses. May be repeated: an event that is there already stays.

        Returns the ids of responses that are not live any more, to which nothing was added.
        """
        return await self._write(lambda c: responses.append_events(c, batches))

    async def events(self, owner: str, id: str, after: int = -1, limit: int = 1000) -> list[tuple[int, bytes]]:
        """Returns the first `limit` events numbered above `after`, in order, with their numbers."""
        return await self._read(lambda c: responses.events(c, owner, id, after, self._now(), limit))

    async def last_event(self, owner: str, id: str) -> tuple[int, bytes] | None:
        """Returns the event with the highest number; None if there are none."""
        return await self._read(lambda c: responses.last_event(c, owner, id, self._now()))

    async def request_cancel(self, owner: str, id: str) -> bool:
        """Asks the process that works on it, which finds it in `inactive`. False if none does."""
        return await self._write(lambda c: responses.request_cancel(c, owner, id))

    async def inactive(self, ids: Collection[str]) -> set[str]:
        """Returns those of these ids that need no more work: finished, asked to stop, deleted, or interrupted."""
        # What is left over, since of a response that was deleted there is no row to find.
        return set(ids) - await self._read(lambda c: responses.active(c, ids))

    async def fail_interrupted(self) -> list[str]:
        """Ends the responses whose worker has not renewed its lease: cancelled where asked for, else failed.

        Returns their ids.
        """
        ended: list[str] = []
        while True:
            batch = await self._write(
                lambda c: responses.fail_interrupted(
                    c, INTERRUPTED_BATCH, self._end_interrupted, self._row_of_interrupted
                )
            )
            ended += batch
            if len(batch) < INTERRUPTED_BATCH:
                return ended

    # --- the ledger's rows of responses that have ended -----------------------------------------------------

    async def replace_ledger_row(self, response_id: str, row: bytes) -> bool:
        """Replaces the row of a response that somebody else has ended. False if another process writes that one."""
        return await self._write(lambda c: ledger_outbox.replace(c, response_id, row, self.lease))

    async def take_due_ledger_rows(self) -> Mapping[str, bytes]:
        """Returns rows that their process has not written in time, by the ids of their responses.

        They are to be written and removed within the time of a lease.
        """
        return await self._write(lambda c: ledger_outbox.take_due(c, INTERRUPTED_BATCH, self.lease))

    async def remove_ledger_rows(self, response_ids: Collection[str]) -> None:
        """Forgets rows that the ledger has."""
        await self._write(lambda c: ledger_outbox.remove(c, response_ids))

    # --- conversations --------------------------------------------------------------------------------------

    async def create_conversation(self, conversation: Conversation, items: Items = ()) -> None:
        """Stores a conversation with its first items. Raises ItemExists for an id that comes twice."""
        await self._insert(lambda c: conversations.create(c, conversation, items))

    async def conversation(self, owner: str, id: str) -> Conversation | None:
        """Returns None for a conversation that is missing, somebody else's, or expired."""
        return await self._read(lambda c: conversations.get(c, owner, id, self._now()))

    async def update_conversation(self, owner: str, id: str, metadata: bytes) -> Conversation | None:
        """Replaces the metadata. Returns the new conversation; None if there is none."""
        return await self._write(lambda c: conversations.set_metadata(c, owner, id, metadata, self._now()))

    async def delete_conversation(self, owner: str, id: str) -> bool:
        """Deletes a conversation with its items; its responses stay. False if there is none."""
        return await self._write(lambda c: conversations.remove(c, owner, id, self._now()))

    async def add_items(self, owner: str, conversation_id: str, items: Items, expires_at: int | None = None) -> None:
        """Adds items at the end, all or none. expires_at: the conversation lives until then at least.

        Raises ConversationMissing, ItemExists.
        """
        await self._insert(lambda c: conversations.append(c, owner, conversation_id, items, self._now(), expires_at))

    async def items(
        self, owner: str, conversation_id: str, after: str | None = None, limit: int = 20, order: Order = "desc"
    ) -> Page:
        """Returns a page of items. after: the id of the last item of the page before.

        Raises ConversationMissing, ItemMissing.
        """
        return await self._read(
            lambda c: conversations.page(c, owner, conversation_id, after, limit, order, self._now())
        )

    async def history(
        self, owner: str, conversation_id: str, max_items: int = MAX_ITEMS, max_bytes: int = MAX_CHAIN_BYTES
    ) -> list[bytes]:
        """Returns all items of a conversation, oldest first. Raises ConversationMissing, ChainTooLong."""
        return await self._read(
            lambda c: conversations.history(c, owner, conversation_id, self._now(), max_items, max_bytes)
        )

    async def item(self, owner: str, conversation_id: str, id: str) -> bytes | None:
        """Returns an item of a conversation as JSON; None if either is missing."""
        return await self._read(lambda c: conversations.item(c, owner, conversation_id, id, self._now()))

    async def delete_item(self, owner: str, conversation_id: str, id: str) -> bool:
        """Deletes an item of a conversation. False if there is none."""
        return await self._write(lambda c: conversations.remove_item(c, owner, conversation_id, id, self._now()))

    async def _insert(self, work: Callable[[Connection], None]) -> None:
        try:
            await self._write(work)
        except IntegrityError as error:
            raise ItemExists("an item of this id is there already") from error

    # --- expired rows -----------------------------------------------------------------------------------

    async def purge(self, now: float | None = None, batch: int = 500) -> int:
        """Deletes expired rows, in transactions of at most `batch` rows. Returns their number.

        now: Unix seconds; else the database's clock decides, and a wrong clock of this process deletes nothing early.
        """
        deleted = 0
        for purge in retention.purges(now, batch):
            while True:
                rows = await self._write(purge)
                deleted += rows
                if rows < batch:
                    break
        await self._write(usage.delete_old_probes)
        return deleted
