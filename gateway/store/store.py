"""THE INTERFACE of this room: everything that is kept between requests goes through one `Store`.

An owner is whoever may see a row again; it is opaque here, and nobody else finds the row. Every method may raise
StoreUnavailable, within the time that the store was given, and recovers by itself when the database does. What a
method has said is stored survives the process, and the machine.
"""

import time
from collections.abc import Callable, Collection, Sequence
from functools import partial

from sqlalchemy import Connection, Delete, Update, false
from sqlalchemy.exc import IntegrityError

from gateway.store import conversations, responses, retention
from gateway.store.conversations import Conversation, Order, Page
from gateway.store.database import Database
from gateway.store.errors import ItemExists, StoreUnavailable
from gateway.store.responses import LIVE, Batches, StoredResponse
from gateway.store.tables import VERSION

MOST_LINKS = 200
"""Responses that one request may continue, one after the other."""

MOST_CHAIN_BYTES = 64 * 1024 * 1024
"""The history that one request may load."""

ENDED_AT_ONCE = 100
"""Interrupted responses that one transaction ends."""

Items = Sequence[tuple[str, bytes]]
"""Items by id, as JSON."""


class Store:
    """url: SQLAlchemy's, of SQLite or PostgreSQL (ValueError for others). timeout: seconds for each call.
    lease: seconds without `renew` after which a response's worker counts as gone; renew three times as often.
    clock: seconds since 1970; replicas should agree on it to within the lease.
    """

    def __init__(
        self,
        url: str,
        timeout: float = 5.0,
        pool_size: int = 5,
        lease: float = 15.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = Database(url, timeout, pool_size)
        self.lease, self._now = lease, clock

    async def start(self) -> None:
        """Tables brought to this version, interrupted responses ended.

        Raises StoreUnavailable, after which the store is usable all the same: each call tries again.
        """
        await self._database.open()
        await self.fail_interrupted()

    async def stop(self) -> None:
        """When the calls under way have ended."""
        await self._database.close()

    async def ping(self) -> bool:
        """Whether a response could be stored now: asks for the right to write, not only for an answer."""
        try:
            await self._database.write(partial(_rows, _TRIAL))
        except StoreUnavailable:
            return False
        return True

    # --- responses ------------------------------------------------------------------------------------------

    async def save(self, response: StoredResponse, conversation_items: Items = ()) -> bool:
        """A finished response, and what it adds to its conversation: both or neither.

        Items whose id the conversation has are not added again. False, and nothing changes, if a finished response of
        this id is there: the second try of a save whose first came through. Raises ConversationMissing.
        """
        if response.status in LIVE:
            raise ValueError("a response that somebody works on is begun, not saved")
        return await self._database.write(lambda c: responses.save(c, response, conversation_items, self._now()))

    async def get(self, owner: str, id: str) -> StoredResponse | None:
        """None for a response that is not there, somebody else's, or expired."""
        return await self._database.read(lambda c: responses.get(c, owner, id, self._now()))

    async def chain(
        self, owner: str, id: str, most: int = MOST_LINKS, most_bytes: int = MOST_CHAIN_BYTES
    ) -> list[StoredResponse]:
        """The response and all that it continues, oldest first. Raises ChainBroken, ChainTooLong."""
        return await self._database.read(lambda c: responses.chain(c, owner, id, self._now(), most, most_bytes))

    async def said(
        self, owner: str, answer_ids: Collection[str], ids: Collection[str], most_bytes: int = MOST_CHAIN_BYTES
    ) -> list[bytes]:
        """The output of the answers, and the input items of the responses, of these ids. Raises ChainTooLong."""
        return await self._database.read(lambda c: responses.said(c, owner, answer_ids, ids, self._now(), most_bytes))

    async def said_in_conversations(
        self, owner: str, ids: Collection[str], most_bytes: int = MOST_CHAIN_BYTES
    ) -> list[bytes]:
        """The items of these ids, of whichever conversation of this owner's. Raises ChainTooLong."""
        return await self._database.read(lambda c: conversations.said(c, owner, ids, self._now(), most_bytes))

    async def delete(self, owner: str, id: str) -> bool:
        """Its events, too; a worker finds it in `cancelled`."""
        return await self._database.write(lambda c: responses.remove(c, owner, id, self._now()))

    # --- responses in the background ------------------------------------------------------------------------

    async def begin(self, response: StoredResponse, events: Sequence[bytes] = ()) -> None:
        """A response that is queued or in progress, with a lease for its worker, and its first events."""
        if response.status not in LIVE:
            raise ValueError("a finished response is saved, not begun")
        await self._database.write(lambda c: responses.begin(c, response, events, self._now() + self.lease))

    async def advance(
        self,
        response: StoredResponse,
        conversation_items: Items = (),
        first_sequence: int = 0,
        events: Sequence[bytes] = (),
    ) -> bool:
        """What became of a begun response, its last events and what it adds to its conversation: all or nothing.

        False, and nothing changes, when it is not live any more: deleted, cancelled, or given up for lost.
        Raises ConversationMissing.
        """
        return await self._database.write(
            lambda c: responses.advance(c, response, conversation_items, first_sequence, events, self._now())
        )

    async def renew(self, ids: Collection[str]) -> None:
        """The heartbeat of these responses' worker."""
        await self._database.write(lambda c: responses.renew(c, ids, self._now() + self.lease))

    async def append_events(self, batches: Batches) -> set[str]:
        """Events of several responses. May be repeated: a number that is taken keeps its event.

        The ids of those that are not live any more, to which nothing was added.
        """
        return await self._database.write(lambda c: responses.append_events(c, batches))

    async def events(self, owner: str, id: str, after: int = -1, most: int = 1000) -> list[tuple[int, bytes]]:
        """The events numbered above `after`, in order, `most` at a time."""
        return await self._database.read(lambda c: responses.events(c, owner, id, after, self._now(), most))

    async def last_event(self, owner: str, id: str) -> tuple[int, bytes] | None:
        """The event with the highest number; None where there are none."""
        return await self._database.read(lambda c: responses.last_event(c, owner, id, self._now()))

    async def request_cancel(self, owner: str, id: str) -> bool:
        """Whichever process works on it finds it in `cancelled`. False if nobody does."""
        return await self._database.write(lambda c: responses.request_cancel(c, owner, id))

    async def cancelled(self, ids: Collection[str]) -> set[str]:
        """Those of these that need no more work: asked to stop, deleted, or given up for lost."""
        return set(ids) - await self._database.read(lambda c: responses.going_on(c, ids))

    async def fail_interrupted(self, now: float | None = None) -> list[str]:
        """Ends the responses whose worker has not renewed its lease: cancelled where asked for, else failed."""
        moment = self._now() if now is None else now
        ended: list[str] = []
        while True:
            some = await self._database.write(lambda c: responses.fail_interrupted(c, moment, ENDED_AT_ONCE))
            ended += some
            if len(some) < ENDED_AT_ONCE:
                return ended

    # --- conversations --------------------------------------------------------------------------------------

    async def create_conversation(self, conversation: Conversation, items: Items = ()) -> None:
        """Raises ItemExists for an id that comes twice."""
        await self._adding(lambda c: conversations.create(c, conversation, items))

    async def conversation(self, owner: str, id: str) -> Conversation | None:
        """None for a conversation that is not there, somebody else's, or expired."""
        return await self._database.read(lambda c: conversations.get(c, owner, id, self._now()))

    async def update_conversation(self, owner: str, id: str, metadata: bytes) -> Conversation | None:
        """The conversation as it is then; None if there is none."""
        return await self._database.write(lambda c: conversations.change(c, owner, id, metadata, self._now()))

    async def delete_conversation(self, owner: str, id: str) -> bool:
        """With its items; the responses in it stay."""
        return await self._database.write(lambda c: conversations.remove(c, owner, id, self._now()))

    async def add_items(self, owner: str, conversation_id: str, items: Items, expires_at: int | None = None) -> None:
        """At the end, all or none. expires_at: the conversation lives until then at least.

        Raises ConversationMissing, ItemExists.
        """
        await self._adding(
            lambda c: conversations.append(c, owner, conversation_id, items, self._now(), expires_at, False)
        )

    async def items(
        self, owner: str, conversation_id: str, after: str | None = None, limit: int = 20, order: Order = "desc"
    ) -> Page:
        """`after`: the id of the last item of the page before. Raises ConversationMissing, ItemMissing."""
        return await self._database.read(
            lambda c: conversations.page(c, owner, conversation_id, after, limit, order, self._now())
        )

    async def item(self, owner: str, conversation_id: str, id: str) -> bytes | None:
        """An item of a conversation as JSON; None if either is not there."""
        return await self._database.read(lambda c: conversations.item(c, owner, conversation_id, id, self._now()))

    async def delete_item(self, owner: str, conversation_id: str, id: str) -> bool:
        """False if there is nothing to delete."""
        return await self._database.write(
            lambda c: conversations.remove_item(c, owner, conversation_id, id, self._now())
        )

    async def _adding(self, work: Callable[[Connection], None]) -> None:
        try:
            await self._database.write(work)
        except IntegrityError as error:
            raise ItemExists("an item of this id is there already") from error

    # --- what has expired -----------------------------------------------------------------------------------

    async def purge(self, now: float | None = None, batch: int = 500) -> int:
        """Deletes what has expired, in transactions of at most `batch` rows; their number."""
        deleted = 0
        for step in retention.steps(self._now() if now is None else now, batch):
            while True:
                rows = await self._database.write(partial(_rows, step))
                deleted += rows
                if rows < batch:
                    break
        return deleted


# Changes nothing, and is refused all the same by a file that may only be read, and by a standby of PostgreSQL.
_TRIAL = VERSION.update().where(false()).values(version_num="")


def _rows(step: Delete | Update, connection: Connection) -> int:
    return connection.execute(step).rowcount
