"""What the gateway remembers between requests: responses and conversations, each owner's for themselves.

Before a request is sent its history is loaded, and the storage asked whether it could keep the answer: a caller
who wants to be remembered hears of a broken storage before Cohere is paid. After the answer is complete it is
stored before its last byte leaves.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Collection, Iterable, Mapping

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from gateway.auth.principal import Principal
from gateway.errors import CallerError, failure
from gateway.observability.access_log import Log
from gateway.store.conversations import Conversation
from gateway.store.errors import ChainBroken, ChainTooLong, ConversationMissing, StoreError, StoreUnavailable
from gateway.store.responses import LIVE, StoredResponse
from gateway.store.store import MOST_LINKS, Store
from translators.core.contracts import FinishedResponse, StateOptions

DAY = 86_400
MOST_ITEMS = 10_000
"""Items of a conversation that one request may load."""

AGAIN = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds between the tries to keep a response whose answer has left while the storage was down."""

MOST_LATE_BYTES = 64 * 1024 * 1024
"""Of all responses that wait for the storage; more are given up at once."""

SAID = ("completed", "incomplete")
"""Responses that become part of their conversation."""

UNAVAILABLE = failure(
    "no_storage", "The storage of responses does not answer; with 'store': false this works without it"
)
"""503, before Cohere is paid."""


TOO_LONG = f"The responses that this one continues or refers to are more than {MOST_LINKS}, or too large together"


class LoadedState(Struct, frozen=True):
    """What the memory has for one request.

    response_id: the id that the answer will have. asked: what the request asked of the memory, with the items that it
    only named in their places. history: what was said before, as JSON arrays of items. keep: whether to store the
    answer. items: the stored items that the request names, by id.
    """

    response_id: str
    asked: StateOptions
    history: tuple[bytes, ...] = ()
    keep: bool = False
    items: Mapping[str, bytes] = {}


class ConversationState:
    """The store, opened once. One that cannot be opened is tried again by whoever needs it."""

    def __init__(self, url: str, days: float, log: Log) -> None:
        self.store = Store(url)
        self._days, self._log = days, log
        self._opening: asyncio.Task[None] | None = None
        self._late: dict[asyncio.Task[None], int] = {}  # responses that wait for the storage, and their bytes
        self._stopping = asyncio.Event()

    async def _open(self) -> None:
        try:
            await self.store.start()
        except StoreError as error:
            self.trouble(error)

    async def stop(self) -> None:
        """Closes the store, if anybody has opened it."""
        if self._opening is not None:
            await asyncio.gather(self._opening, return_exceptions=True)
            self._stopping.set()
            await asyncio.gather(*self._late, return_exceptions=True)
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
        """When what is stored now expires, in Unix seconds; None for never."""
        return int(now + self._days * DAY) if self._days else None

    async def recall(self, asked: StateOptions, response_id: str, caller: Principal) -> LoadedState:
        """What a request continues and refers to. Raises CallerError: 404 for what is not there, 503."""
        history, items = await self.load(asked, caller)
        return LoadedState(response_id, shown(asked, history, items), history, asked.store, items)

    async def load(self, asked: StateOptions, caller: Principal) -> tuple[tuple[bytes, ...], Mapping[str, bytes]]:
        """The history that a request continues, and the stored items that it names (those that are there).

        The storage is not touched for a request that asks nothing of the memory. Raises CallerError: 404 for a response
        or a conversation that is not there, 503 while the storage does not answer.
        """
        if not (asked.store or asked.previous_response_id or asked.conversation or asked.references):
            return (), {}
        store = await self.open()
        try:
            if asked.store and not await store.ping():
                raise CallerError(UNAVAILABLE)
            return await self._history(store, asked, caller), await self._referred(store, asked, caller)
        except StoreUnavailable as error:
            self._log.trouble(f"storage: {error}")
            raise CallerError(UNAVAILABLE) from error
        except ChainTooLong as error:
            told = failure("bad_request", f"{TOO_LONG}: compact them, or begin anew")
            raise CallerError(told.at("previous_response_id" if asked.previous_response_id else "input")) from error
        except ChainBroken as error:
            told = failure("no_previous", f"Previous response with id '{error.id}' not found.")
            raise CallerError(told.at("previous_response_id")) from error
        except ConversationMissing as error:
            told = failure("no_conversation", f"Conversation with id '{asked.conversation}' not found.")
            raise CallerError(told.at("conversation")) from error

    async def _history(self, store: Store, asked: StateOptions, caller: Principal) -> tuple[bytes, ...]:
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

    async def _referred(self, store: Store, asked: StateOptions, caller: Principal) -> Mapping[str, bytes]:
        """The items that a request names, by id. One that is missing is left out: the translation refuses it."""
        if not asked.references:
            return {}
        answers = {reference.answer_id for reference in asked.references} - {""}
        requests = {reference.response_id for reference in asked.references} - {""}
        ids = {reference.id for reference in asked.references}
        arrays = await store.said(caller.owner, answers, requests) if answers or requests else []
        found = named(arrays, ids)
        if missing := ids - found.keys():
            items = await store.said_in_conversations(caller.owner, missing)
            found |= named((b"[" + item + b"]" for item in items), missing)
        return found

    async def keep(self, recalled: LoadedState, caller: Principal, kept: FinishedResponse, body: bytes) -> None:
        """Stores a finished response. A failure now is the operator's to hear: the answer is paid and goes out. While
        the storage is down it is tried again.
        """
        if not recalled.keep:
            return
        response, added = self.as_stored(recalled, caller, kept, body)
        try:
            await self.store.save(response, added)
        except StoreUnavailable as error:
            size = len(body) + len(response.items) + len(response.output)
            if size + sum(self._late.values()) > MOST_LATE_BYTES:
                self._log.trouble(f"storage: response {kept.id} was not kept: {error}")
                return
            self._log.trouble(f"storage: response {kept.id} is not kept yet: {error}")
            task = asyncio.get_running_loop().create_task(self._keep_late(response, added))
            self._late[task] = size
            task.add_done_callback(self._late.pop)
        except StoreError as error:
            self._log.trouble(f"storage: response {kept.id} was not kept: {error}")

    async def _keep_late(self, response: StoredResponse, added: list[tuple[str, bytes]]) -> None:
        """What was stored meanwhile is found, and not stored twice. At the end of the process there is one last try."""
        last: StoreError | None = None
        for pause in AGAIN:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            try:
                await self.store.save(response, added)
                return
            except StoreUnavailable as error:
                last = error
                if self._stopping.is_set():
                    break
            except StoreError as error:
                last = error
                break
        self._log.trouble(f"storage: response {response.id} was not kept: {last}")

    def as_stored(
        self, recalled: LoadedState, caller: Principal, kept: FinishedResponse, body: bytes
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
            answer_id=kept.answer_id or None,
        )
        said = asked.conversation and kept.status in SAID
        return response, [*asked.items, *_named(kept)] if said else []


def new_response_id() -> str:
    """Not to be guessed: where callers share an owner (open mode), the id is what keeps them apart."""
    return f"resp_{secrets.token_hex(24)}"


def new_item_id() -> str:
    """What follows the prefix of an item's id."""
    return secrets.token_hex(24)


class _Told(Struct):
    id: str = ""


_told = msgspec.json.Decoder(_Told).decode
_array = msgspec.json.Decoder(list[msgspec.Raw]).decode


def named(arrays: Iterable[bytes], ids: Collection[str]) -> dict[str, bytes]:
    """The items that have these ids, by id. Where several arrays have one, the first of them counts."""
    found: dict[str, bytes] = {}
    for array in arrays:
        for item in _array(array):
            id = _told(item).id
            if id in ids:
                found.setdefault(id, bytes(item))
    return found


def shown(asked: StateOptions, history: Iterable[bytes], items: Mapping[str, bytes]) -> StateOptions:
    """A request as it is stored, so that it can be read without looking anything up.

    Each item that it only names is replaced by that item; an item that the history has already is left out.
    """
    if not asked.references:
        return asked
    names = {reference.index: reference.id for reference in asked.references}
    seen = set(named(history, set(names.values())))
    own: list[tuple[str, bytes]] = []
    for place, (id, body) in enumerate(asked.items):
        if place in names and id in seen:
            continue
        seen.add(id)
        own.append((id, items.get(id, body) if place in names else body))
    return replace(asked, items=tuple(own))


def _named(kept: FinishedResponse) -> list[tuple[str, bytes]]:
    """The output's items by the ids that the caller was told, by which they page and look items up."""
    return [(_told(item).id or f"{kept.id}_{index}", bytes(item)) for index, item in enumerate(kept.items)]


def new_conversation(caller: Principal, metadata: bytes, expires_at: int | None) -> Conversation:
    """An empty conversation of this caller's, with an id that nobody can guess."""
    return Conversation(f"conv_{secrets.token_hex(24)}", caller.owner, int(time.time()), expires_at, metadata)
