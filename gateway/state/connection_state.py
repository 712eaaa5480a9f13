"""Responses that live as long as one WebSocket: those that are not to be stored.

They stand in front of `conversation_state.py`, which has everything else. OpenAI's guide to the WebSocket mode says
that a response made with `store: false` can be continued on its own connection and nowhere else. A request that fails
removes the response that it continued, so that nobody goes on from a stale state.
"""

from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from gateway.auth.principal import Principal
from gateway.errors import CallerError
from gateway.memory_budget import UNLIMITED, RequestMemory
from gateway.state.conversation_state import ConversationState, LoadedState, find_items, resolve
from translators.core.contracts import FinishedResponse, StateOptions
from translators.operations.stored_responses import join_items, split_items

MAX_RESPONSES = 16
"""Responses that one socket holds; the oldest goes first."""

MAX_BYTES = 16 * 1024 * 1024
"""Bytes that one socket holds. What two responses share is counted twice."""


class ConnectionState:
    """The responses of one socket, each as the whole conversation up to it: a tuple of JSON arrays of items."""

    def __init__(self, state: ConversationState, memory: RequestMemory = UNLIMITED) -> None:
        """memory: the connection's, where all of them are counted."""
        self.state, self._memory = state, memory
        self._conversations: dict[str, tuple[bytes, ...]] = {}
        self._reserved = 0

    def turn(self) -> "SocketTurn":
        """Returns the state for the next request."""
        return SocketTurn(self)

    def get(self, response_id: str) -> tuple[bytes, ...] | None:
        """Returns the conversation up to and including this response; None if it is not held here."""
        return self._conversations.get(response_id)

    def arrays(self) -> Iterator[bytes]:
        """Yields all arrays of items, the newest conversation's last one first."""
        for arrays in reversed(self._conversations.values()):
            yield from reversed(arrays)

    def add(self, response_id: str, conversation: tuple[bytes, ...]) -> None:
        """Holds a conversation; the oldest ones go when there are too many, or too many bytes."""
        self._conversations[response_id] = conversation
        # Added up anew each time, over sixteen responses at most: a running sum would have to follow every change.
        sizes = {id: sum(map(len, arrays)) for id, arrays in self._conversations.items()}
        # The memory is asked last and may refuse even one, which then cannot be continued. That is an error of the next
        # request, not of this one.
        while len(sizes) > MAX_RESPONSES or sum(sizes.values()) > MAX_BYTES or not self._reserve(sum(sizes.values())):
            oldest = next(iter(sizes))
            del self._conversations[oldest], sizes[oldest]

    def _reserve(self, size: int) -> bool:
        """Counts so many bytes in all. Returns False where there is no room for them."""
        # Given back first. What is held already would otherwise count against the room for itself.
        self._memory.release(self._reserved)
        self._reserved = 0
        try:
            self._reserved = self._memory.reserve(size)
        except CallerError:
            return False
        return True

    def remove(self, response_id: str) -> None:
        """Does nothing if the response is not held here."""
        self._conversations.pop(response_id, None)


class SocketTurn:
    """The state for one request on a socket.

    `load` and `save` do what those of `ConversationState` do, first with what the socket holds, then with the storage.
    """

    def __init__(self, connection: ConnectionState) -> None:
        self._connection = connection
        self._previous_id = ""
        self._local_history: tuple[bytes, ...] | None = None

    async def load(self, options: StateOptions, response_id: str, caller: Principal) -> LoadedState:
        """Raises CallerError as `ConversationState.load`, for what is not held here."""
        self._previous_id = options.previous_response_id
        self._local_history = self._connection.get(self._previous_id)
        items = await self._local_items(options)
        # What is held here the storage may not have, and need not be asked for.
        stored = replace(
            options, references=tuple(reference for reference in options.references if reference.id not in items)
        )
        if self._local_history is not None:
            stored = replace(stored, previous_response_id="")
        history, stored_items = await self._connection.state.fetch(stored, caller)
        history, items = self._local_history or history, {**stored_items, **items}
        if self._local_history is not None:
            options = replace(options, previous_response_id="")  # the storage has no such response
        # Every response is to be saved: `save` decides whether in the storage or here.
        return LoadedState(response_id, await resolve(options, history, items), history, True, items)

    async def _local_items(self, options: StateOptions) -> Mapping[str, bytes]:
        ids = {reference.id for reference in options.references}
        return await find_items([*self._connection.arrays()], ids) if ids else {}

    async def save(self, loaded: LoadedState, caller: Principal, response: FinishedResponse, body: bytes) -> None:
        """Keeps a response in the storage where `store` says so, else here. A failed one is not held here."""
        options = loaded.options
        if options.store:
            if self._local_history is not None:
                # The storage cannot link to what is held here alone, so it gets all of the items.
                before = tuple(("", item) for array in self._local_history for item in split_items(array))
                loaded = replace(loaded, options=replace(options, items=(*before, *options.items)))
            await self._connection.state.save(loaded, caller, response, body)
        # Nobody should continue what failed, and the request may be sent again with the same predecessor.
        elif response.status != "failed":
            own = join_items(item for _, item in options.items)
            self._connection.add(response.id, (*loaded.history, own, response.output))

    def fail(self) -> None:
        """Removes what the failed request continued."""
        self._connection.remove(self._previous_id)
