"""What the gateway remembers between requests: responses and conversations, each owner's for themselves.

Before a request is sent its history is loaded, and the storage asked whether it could keep the answer: a caller
who wants to be remembered hears of a broken storage before Cohere is paid. After the answer is complete it is
stored before its last byte leaves.
"""

import asyncio
import secrets
import time

import msgspec
from msgspec import Struct

from gateway.access.caller import Caller
from gateway.errors import CallerError, failure
from gateway.log import Log
from gateway.store.conversations import Conversation
from gateway.store.errors import ChainBroken, ChainTooLong, ConversationMissing, StoreError, StoreUnavailable
from gateway.store.responses import LIVE, StoredResponse
from gateway.store.store import Store
from translators.context import Kept, Remembering

DAY = 86_400
MOST_ITEMS = 10_000
"""Items of a conversation that one request may load."""

SAID = ("completed", "incomplete")
"""Responses that become part of their conversation."""

UNAVAILABLE = failure(
    "no_storage", "The storage of responses does not answer; with 'store': false this works without it"
)
"""503, before Cohere is paid."""


class Recalled(Struct, frozen=True):
    """A request's memory. history: what was said before, as JSON arrays of items; keep: store the answer."""

    response_id: str
    asked: Remembering
    history: tuple[bytes, ...] = ()
    keep: bool = False


class Memory:
    """The store, opened once. One that cannot be opened is tried again by whoever needs it."""

    def __init__(self, url: str, days: float, log: Log) -> None:
        self.store = Store(url)
        self._days, self._log = days, log
        self._opening: asyncio.Task[None] | None = None

    async def _open(self) -> None:
        try:
            await self.store.start()
        except StoreError as error:
            self.trouble(error)

    async def stop(self) -> None:
        if self._opening is not None:
            await asyncio.gather(self._opening, return_exceptions=True)
            await self.store.stop()

    async def open(self) -> Store:
        """The store, once it was opened or could not be: it is usable all the same, each call tries again."""
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open())
        await asyncio.shield(self._opening)
        return self.store

    def trouble(self, error: Exception) -> None:
        """What the storage said, for the operator alone: it may name hosts and files."""
        self._log.trouble(f"storage: {error}")

    def expiry(self, now: float) -> int | None:
        return int(now + self._days * DAY) if self._days else None

    async def recall(self, asked: Remembering, response_id: str, caller: Caller) -> Recalled:
        """The history that a request continues. Raises CallerError: 404 for what is not there, 503."""
        if not asked.store and not asked.previous_response_id and not asked.conversation:
            return Recalled(response_id, asked)
        store = await self.open()
        try:
            if asked.store and not await store.ping():
                raise CallerError(UNAVAILABLE)
            history = await self._history(store, asked, caller)
        except StoreUnavailable as error:
            self._log.trouble(f"storage: {error}")
            raise CallerError(UNAVAILABLE) from error
        except ChainTooLong as error:
            told = failure("bad_request", "The responses that this one continues are too many to be loaded")
            raise CallerError(told) from error
        except ChainBroken as error:
            told = failure("no_previous", f"Previous response with id '{error.id}' not found.")
            raise CallerError(told.at("previous_response_id")) from error
        except ConversationMissing as error:
            told = failure("no_conversation", f"Conversation with id '{asked.conversation}' not found.")
            raise CallerError(told.at("conversation")) from error
        return Recalled(response_id, asked, history, asked.store)

    async def _history(self, store: Store, asked: Remembering, caller: Caller) -> tuple[bytes, ...]:
        if asked.previous_response_id:
            chain = await store.chain(caller.owner, asked.previous_response_id)
            if chain[-1].status in LIVE:
                told = failure("bad_request", f"Previous response '{asked.previous_response_id}' is not finished yet")
                raise CallerError(told.at("previous_response_id"))
            return tuple(array for link in chain for array in (link.items, link.output))
        if asked.conversation:
            page = await store.items(caller.owner, asked.conversation, None, MOST_ITEMS, "asc")
            return (b"[" + b",".join(item.body for item in page.items) + b"]",)
        return ()

    async def keep(self, recalled: Recalled, caller: Caller, kept: Kept, body: bytes) -> None:
        """Stores a finished response. A failure now is the operator's to hear: the answer is paid and goes out."""
        if not recalled.keep:
            return
        response, added = self.as_stored(recalled, caller, kept, body)
        try:
            await self.store.save(response, added)
        except StoreError as error:
            self._log.trouble(f"storage: response {kept.id} was not kept: {error}")

    def as_stored(
        self, recalled: Recalled, caller: Caller, kept: Kept, body: bytes
    ) -> tuple[StoredResponse, list[tuple[str, bytes]]]:
        """A response as it is stored, and the items that it adds to its conversation."""
        asked = recalled.asked
        response = StoredResponse(
            id=kept.id,
            owner=caller.owner,
            status=kept.status,
            created_at=kept.created_at,
            expires_at=self.expiry(time.time()),
            model=kept.model,
            previous_id=asked.previous_response_id or None,
            conversation_id=asked.conversation or None,
            background=asked.background,
            body=body,
            items=b"[" + b",".join(item for _, item in asked.items) + b"]",
            output=kept.output,
        )
        said = asked.conversation and kept.status in SAID
        return response, [*asked.items, *_named(kept)] if said else []


def new_response_id() -> str:
    """Not to be guessed: where callers share an owner (open mode), the id is what keeps them apart."""
    return f"resp_{secrets.token_hex(24)}"


class _Told(Struct):
    id: str = ""


_told = msgspec.json.Decoder(_Told).decode


def _named(kept: Kept) -> list[tuple[str, bytes]]:
    """By the ids that the caller was told: they page by them, and look items up."""
    return [(_told(item).id or f"{kept.id}_{index}", bytes(item)) for index, item in enumerate(kept.items)]


def new_conversation(caller: Caller, metadata: bytes, expires_at: int | None) -> Conversation:
    return Conversation(f"conv_{secrets.token_hex(24)}", caller.owner, int(time.time()), expires_at, metadata)
