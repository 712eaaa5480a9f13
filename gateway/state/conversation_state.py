"""Stored responses and conversations as a request needs them: loaded before the call, saved after it, per owner.

Before a request is sent its history is loaded, and the storage is asked whether it could take the response: a caller
who wants it stored hears of a broken storage before Cohere is paid. A complete response is stored before its last
byte leaves.
"""

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from gateway.auth.principal import Principal
from gateway.errors import CallerError, failure
from gateway.observability.access_log import Log
from gateway.store.conversations import Conversation
from gateway.store.errors import ChainBroken, ChainTooLong, ConversationMissing, StoreError, StoreUnavailable
from gateway.store.responses import LIVE, RowOfInterrupted, StoredResponse
from gateway.store.store import MAX_CHAIN_BYTES, MAX_CHAIN_LINKS, MAX_ITEMS, Store
from translators.core.contracts import FinishedResponse, StateOptions
from translators.core.json_size import MAX_ESCAPES
from translators.operations.stored_responses import (
    end_interrupted,
    items_by_id,
    items_to_add,
    join_items,
    resolve_references,
)

DAY = 86_400
SAVE_RETRY_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Pauses between the attempts to store a response that was sent while the storage was down."""

MAX_DEFERRED_BYTES = 64 * 1024 * 1024
"""Of all responses that wait for the storage; more are given up at once."""

RECOVERY_SECONDS = 1.0
"""How long a request waits for the responses before it to be stored, once the storage works again."""

UNAVAILABLE = failure("no_storage", "The database does not answer; with 'store': false the request works without it")
"""503, before Cohere is paid."""

_ADVICE = "delete responses or conversations; with 'store': false the request works without it"

# Both have a status that the SDKs retry, and no retry makes room.
CALLER_FULL = replace(
    failure("storage_full", f"As much is stored for this caller as max_stored_bytes_per_caller allows: {_ADVICE}"),
    should_retry=False,
)
STORAGE_FULL = replace(
    failure("storage_full", f"As much is stored in all as max_stored_bytes allows: {_ADVICE}"), should_retry=False
)
"""507. Both are refused before Cohere is paid."""

TOO_LONG = failure(
    "bad_request",
    f"The responses that this one continues or refers to are more than {MAX_CHAIN_LINKS}, or too large together: "
    "compact them, or start a new conversation",
)


CONVERSATION_TOO_LONG = failure(
    "bad_request",
    f"The conversation has more than {MAX_ITEMS} items, or {MAX_CHAIN_BYTES} bytes: compact it, and begin a new one",
).at("conversation")

TOO_MANY_ESCAPES = failure(
    "bad_request",
    f"What this request continues or refers to has more than {MAX_ESCAPES} escaped characters: "
    "start a new conversation",
)

COUNTED_AT_ONCE = 1024 * 1024
"""Bytes in which escapes are counted in one turn of the event loop: a millisecond at most."""

READ_AT_ONCE = 128 * 1024
"""Bytes of stored items in which references are looked up on the event loop; more are read in a thread."""

JOINED_BYTES = 4 * 1024 * 1024
"""Bytes of items that are one array of a conversation's history: a parser reads an array without a pause."""


class LoadedState(Struct, frozen=True):
    """What is loaded for one request.

    response_id: the id that the response will have. options: what the request asks of the state, its references
    resolved. history: what was said before, as JSON arrays of items. save: whether the response is to be stored.
    items: the stored items that the request refers to, by id.
    """

    response_id: str
    options: StateOptions
    history: tuple[bytes, ...] = ()
    save: bool = False
    items: Mapping[str, bytes] = {}

    @property
    def size(self) -> int:
        """The bytes that were loaded."""
        return sum(map(len, self.history)) + sum(map(len, self.items.values()))


class ConversationState:
    """The store, opened once. A store that cannot be opened is usable all the same: each call tries again."""

    def __init__(
        self,
        url: str,
        days: float,
        log: Log,
        max_bytes: int = 0,
        max_bytes_per_owner: int = 0,
        observe: Callable[[int], None] = lambda total: None,
        row_of_interrupted: RowOfInterrupted = lambda run: None,
    ) -> None:
        """url: of the database. days: until what is stored expires; 0 is never. max_bytes: that may be stored, in all
        and for one owner; 0 sets no limit. observe: gets the bytes that are stored. row_of_interrupted: as `Store` has
        it. Raises ValueError for a bad URL.
        """
        self.store = Store(url, end_interrupted, row_of_interrupted=row_of_interrupted)
        self.degraded = ""
        self._days, self._log = days, log
        self._max_bytes, self._max_bytes_per_owner, self._observe = max_bytes, max_bytes_per_owner, observe
        self._opening: asyncio.Task[None] | None = None
        self._deferred: dict[asyncio.Task[None], int] = {}  # responses that wait for the storage, and their bytes
        self._stopping = False
        self._retry_now = asyncio.Event()

    async def _open(self) -> None:
        try:
            await self.store.start()
        except StoreError as error:
            self.log_failure(error)

    async def stop(self) -> None:
        """Closes the store, if anybody has opened it, after a last attempt to save what waits for it."""
        if self._opening is not None:
            # First, as a store that is still being opened cannot be closed.
            await asyncio.gather(self._opening, return_exceptions=True)
            self._stopping = True
            self._retry_now.set()
            await asyncio.gather(*self._deferred, return_exceptions=True)
            await self.store.stop()

    async def open(self) -> Store:
        """Waits until the store was opened or failed to open, and returns it."""
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open())
        # Opened once for all; whoever leaves while it opens must not end that.
        await asyncio.shield(self._opening)
        return self.store

    def log_failure(self, error: Exception) -> None:
        """Writes what the storage said to the log, for the operator alone: it may name hosts and files."""
        self.degraded = "the storage of responses fails"
        self._log.message(f"storage: {error}")

    def expiry(self, now: float) -> int | None:
        """Returns when what is stored now expires, in Unix seconds; None for never."""
        return int(now + self._days * DAY) if self._days else None

    async def ensure_capacity(self, owner: str, size: int = 0) -> None:
        """Makes sure that an owner may store so many more bytes.

        Raises CallerError: 503 while nothing can be stored, 507 once the limits are reached. While a response that was
        sent is not stored yet, no other is taken: a storage that is full would lose that one, too.
        """
        store = await self.open()
        try:
            usage = await store.check(owner)
        except StoreUnavailable as error:
            self.log_failure(error)
            raise CallerError(UNAVAILABLE) from error
        # The look itself has shown that the storage works.
        self.degraded = ""
        self._observe(usage.total)
        if self._deferred:
            self._retry_now.set()
            await asyncio.wait(set(self._deferred), timeout=RECOVERY_SECONDS)
            if self._deferred:
                raise CallerError(UNAVAILABLE)
        if self._max_bytes_per_owner and usage.owner + size > self._max_bytes_per_owner:
            raise CallerError(CALLER_FULL)
        if self._max_bytes and usage.total + size > self._max_bytes:
            raise CallerError(STORAGE_FULL)

    async def measure(self) -> None:
        """Finds out how many bytes are stored. Raises StoreError."""
        self._observe(await self.store.total_bytes())
        self.degraded = ""

    # --- before the call ------------------------------------------------------------------------------------

    async def load(self, options: StateOptions, response_id: str, caller: Principal) -> LoadedState:
        """Loads what a request continues and refers to. Raises CallerError as `fetch`."""
        history, items = await self.fetch(options, caller)
        resolved = await resolve(options, history, items)
        return LoadedState(response_id, resolved, history, options.store, items)

    async def fetch(self, options: StateOptions, caller: Principal) -> tuple[tuple[bytes, ...], Mapping[str, bytes]]:
        """Returns the history that a request continues (JSON arrays), and the stored items that it refers to, by id.

        A request that needs nothing of the storage does not touch it. Raises CallerError: 404 for a response or a
        conversation that is not there, 400 for too long a history or conversation; 503 and 507 as `ensure_capacity`.
        """
        if not (options.store or options.previous_response_id or options.conversation or options.references):
            return (), {}
        if options.store:
            await self.ensure_capacity(caller.owner, sum(len(item) for _, item in options.items))
        store = await self.open()
        try:
            history, items = await self._history(store, options, caller), await self._items(store, options, caller)
        except StoreUnavailable as error:
            self.log_failure(error)
            raise CallerError(UNAVAILABLE) from error
        except ChainTooLong as error:
            if options.conversation:
                raise CallerError(CONVERSATION_TOO_LONG) from error
            field = "previous_response_id" if options.previous_response_id else "input"
            raise CallerError(TOO_LONG.at(field)) from error
        except ChainBroken as error:
            refusal = failure("no_previous", f"Previous response with id '{error.id}' not found.")
            raise CallerError(refusal.at("previous_response_id")) from error
        except ConversationMissing as error:
            refusal = failure("no_conversation", f"Conversation with id '{options.conversation}' not found.")
            raise CallerError(refusal.at("conversation")) from error
        await _refuse_escapes((*history, *items.values()))
        return history, items

    async def _history(self, store: Store, options: StateOptions, caller: Principal) -> tuple[bytes, ...]:
        previous_id = options.previous_response_id
        if previous_id:
            chain = await store.chain(caller.owner, previous_id)
            # A chain begins with its oldest response, so the last link is the one that was named.
            if chain[-1].status in LIVE:
                refusal = failure("bad_request", f"Previous response '{previous_id}' is not finished yet")
                raise CallerError(refusal.at("previous_response_id"))
            return tuple(array for link in chain for array in (link.items, link.output))
        if options.conversation:
            return tuple(_joined(await store.history(caller.owner, options.conversation)))
        return ()

    async def _items(self, store: Store, options: StateOptions, caller: Principal) -> Mapping[str, bytes]:
        """Returns the items that a request refers to, by id. A missing one is left out: the translation refuses it."""
        if not options.references:
            return {}
        answer_ids = {reference.answer_id for reference in options.references} - {""}
        response_ids = {reference.response_id for reference in options.references} - {""}
        ids = {reference.id for reference in options.references}
        arrays: list[bytes] = []
        if answer_ids or response_ids:
            arrays = await store.item_arrays(caller.owner, answer_ids, response_ids)
        items = await find_items(arrays, ids)
        # What is left may have an id of the caller's own, by which only items of conversations are found.
        if missing := ids - items.keys():
            bodies = await store.conversation_items(caller.owner, missing)
            items |= items_by_id((join_items([body]) for body in bodies), missing)
        return items

    # --- after the call -------------------------------------------------------------------------------------

    async def save(self, loaded: LoadedState, caller: Principal, response: FinishedResponse, body: bytes) -> None:
        """Stores a finished response. body: the response object.

        Raises nothing: the response is paid for and goes out. The log says what went wrong, and while the storage is
        down the response waits in memory to be stored later.
        """
        if not loaded.save:
            return
        row, items = self.to_row(loaded, caller, response, body)
        try:
            await self.store.save(row, items)
        except StoreUnavailable as error:
            size = len(body) + len(row.items) + len(row.output)
            # Those that wait are in memory, which an outage of the storage must not fill.
            if size + sum(self._deferred.values()) > MAX_DEFERRED_BYTES:
                self._log.message(f"storage: response {response.id} was not stored: {error}")
                return
            self._log.message(f"storage: response {response.id} is not stored yet: {error}")
            task = asyncio.get_running_loop().create_task(self._save_later(row, items))
            self._deferred[task] = size
            task.add_done_callback(self._deferred.pop)
        except StoreError as error:
            self._log.message(f"storage: response {response.id} was not stored: {error}")

    async def _save_later(self, row: StoredResponse, items: list[tuple[str, bytes]]) -> None:
        """Tries again, at growing pauses, and at once when a request finds the storage working. When the process ends
        there is one last attempt.

        A first attempt that came through after all is found, and nothing is stored twice.
        """
        pauses = itertools.chain(SAVE_RETRY_SECONDS, itertools.repeat(SAVE_RETRY_SECONDS[-1]))
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._retry_now.wait(), next(pauses))
            # At the end of the process it stays set, so that nobody waits out a pause any more.
            if not self._stopping:
                self._retry_now.clear()
            try:
                await self.store.save(row, items)
                return
            except StoreError as error:
                if not isinstance(error, StoreUnavailable) or self._stopping:
                    self._log.message(f"storage: response {row.id} was not stored: {error}")
                    return

    def to_row(
        self, loaded: LoadedState, caller: Principal, response: FinishedResponse, body: bytes
    ) -> tuple[StoredResponse, list[tuple[str, bytes]]]:
        """Returns a response as a row of the storage, and the items that it adds to its conversation."""
        options = loaded.options
        row = StoredResponse(
            id=response.id,
            owner=caller.owner,
            status=response.status,
            created_at=response.created_at,
            expires_at=self.expiry(time.time()),
            model=response.model,
            previous_id=options.previous_response_id or None,
            conversation_id=options.conversation or None,
            background=options.background,
            body=body,
            items=join_items(item for _, item in options.items),
            output=response.output,
            answer_id=response.answer_id or None,
        )
        return row, items_to_add(options, response)


async def find_items(arrays: Sequence[bytes], ids: Collection[str]) -> dict[str, bytes]:
    """Returns what `items_by_id` does: from a thread, where it reads much."""
    if sum(map(len, arrays)) <= READ_AT_ONCE:
        return items_by_id(arrays, ids)
    return await asyncio.to_thread(items_by_id, arrays, ids)


async def resolve(options: StateOptions, history: Sequence[bytes], items: Mapping[str, bytes]) -> StateOptions:
    """Returns what `resolve_references` does: from a thread, where it reads much."""
    if not options.references or sum(map(len, history)) <= READ_AT_ONCE:
        return resolve_references(options, history, items)
    return await asyncio.to_thread(resolve_references, options, history, items)


async def _refuse_escapes(texts: Collection[bytes]) -> None:
    """Raises CallerError (400) for more escaped characters than may be parsed. So few bytes cost nothing."""
    if sum(map(len, texts)) <= MAX_ESCAPES:
        return
    escapes = 0
    for text in texts:
        for start in range(0, len(text), COUNTED_AT_ONCE):
            # `count` runs in C without a pause, hence a piece at a time
            # (docs/decisions.md#what-json-costs-is-bounded-by-its-values-before-it-is-parsed).
            escapes += text.count(b"\\", start, start + COUNTED_AT_ONCE)
            if escapes > MAX_ESCAPES:
                raise CallerError(TOO_MANY_ESCAPES)
            await asyncio.sleep(0)


def _joined(items: Iterable[bytes]) -> Iterator[bytes]:
    """Yields a conversation's items as JSON arrays, each of JOINED_BYTES or one item."""
    group: list[bytes] = []
    size = 0
    for item in items:
        if group and size + len(item) > JOINED_BYTES:
            yield join_items(group)
            group, size = [], 0
        group.append(item)
        size += len(item)
    yield join_items(group)


def new_response_id() -> str:
    """Returns an id that cannot be guessed: where callers share an owner (open mode), it keeps them apart."""
    return f"resp_{secrets.token_hex(24)}"


def new_item_id() -> str:
    """Returns what follows the prefix of an item's id."""
    return secrets.token_hex(24)


def new_conversation(caller: Principal, metadata: bytes, expires_at: int | None) -> Conversation:
    """Returns an empty conversation of this caller's, with an id that cannot be guessed. metadata: a JSON object."""
    return Conversation(f"conv_{secrets.token_hex(24)}", caller.owner, int(time.time()), expires_at, metadata)
