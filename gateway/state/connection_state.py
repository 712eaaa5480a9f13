"""What one WebSocket remembers: the responses on it that are not to be stored, as long as it is open.

In front of `conversation_state.py`, which has everything else. OpenAI's guide to the WebSocket mode: what was made with
`store: false` can be continued on its connection and nowhere else, and a request that fails takes what it continued
out of the connection's memory, so that nobody goes on from a state that may be stale.
"""

from collections.abc import Iterator, Mapping

import msgspec
from msgspec.structs import replace

from gateway.auth.principal import Principal
from gateway.state.conversation_state import ConversationState, LoadedState, named, shown
from translators.core.contracts import FinishedResponse, StateOptions

MOST_RESPONSES = 16
MOST_BYTES = 16 * 1024 * 1024
"""Of all that a socket remembers; the oldest goes first. What two responses share is counted twice."""

_array = msgspec.json.Decoder(list[msgspec.Raw]).decode


class ConnectionState:
    """One socket's memory: the whole conversation up to each response, as JSON arrays of items."""

    def __init__(self, memory: ConversationState) -> None:
        self.memory = memory
        self._conversations: dict[str, tuple[bytes, ...]] = {}

    def turn(self) -> "SocketTurn":
        """The memory for the next request."""
        return SocketTurn(self)

    def get(self, response_id: str) -> tuple[bytes, ...] | None:
        """The conversation up to and including this response; None if it is not remembered here."""
        return self._conversations.get(response_id)

    def arrays(self) -> Iterator[bytes]:
        """The newest conversation's last items first."""
        for arrays in reversed(self._conversations.values()):
            yield from reversed(arrays)

    def add(self, response_id: str, conversation: tuple[bytes, ...]) -> None:
        """Remembers a conversation; the oldest ones go when there are too many, or too many bytes."""
        self._conversations[response_id] = conversation
        sizes = {id: sum(map(len, arrays)) for id, arrays in self._conversations.items()}
        while len(sizes) > MOST_RESPONSES or sum(sizes.values()) > MOST_BYTES:
            oldest = next(iter(sizes))
            del self._conversations[oldest], sizes[oldest]

    def forget(self, response_id: str) -> None:
        """Nothing happens if it is not remembered."""
        self._conversations.pop(response_id, None)


class SocketTurn:
    """The memory for one request on the socket. `recall` and `keep` do what those of
    `ConversationState` do: first in what the socket remembers, then in the storage.
    """

    def __init__(self, recent: ConnectionState) -> None:
        self._recent = recent
        self._continued = ""
        self._here: tuple[bytes, ...] | None = None

    async def recall(self, asked: StateOptions, response_id: str, caller: Principal) -> LoadedState:
        """Raises CallerError as `ConversationState.recall`, for what is not here."""
        self._continued = asked.previous_response_id
        self._here = self._recent.get(self._continued)
        items = self._referred(asked)
        outside = replace(
            asked, references=tuple(reference for reference in asked.references if reference.id not in items)
        )
        if self._here is not None:
            outside = replace(outside, previous_response_id="")
        history, found = await self._recent.memory.load(outside, caller)
        history, items = self._here or history, {**found, **items}
        if self._here is not None:
            asked = replace(asked, previous_response_id="")  # the storage knows of no such response
        return LoadedState(response_id, shown(asked, history, items), history, True, items)

    def _referred(self, asked: StateOptions) -> Mapping[str, bytes]:
        ids = {reference.id for reference in asked.references}
        return named(self._recent.arrays(), ids) if ids else {}

    async def keep(self, recalled: LoadedState, caller: Principal, kept: FinishedResponse, body: bytes) -> None:
        """In the storage where that was asked for, else here."""
        asked = recalled.asked
        if asked.store:
            if self._here is not None:
                # The storage has no link to what is only here: it gets all of it.
                before = tuple(("", bytes(item)) for array in self._here for item in _array(array))
                recalled = replace(recalled, asked=replace(asked, items=(*before, *asked.items)))
            await self._recent.memory.keep(recalled, caller, kept, body)
        elif kept.status != "failed":
            own = b"[" + b",".join(item for _, item in asked.items) + b"]"
            self._recent.add(kept.id, (*recalled.history, own, kept.output))

    def failed(self) -> None:
        """The request failed: what it continued is forgotten here."""
        self._recent.forget(self._continued)
