"""The budget of memory for what callers send and Cohere answers: one for all requests of a process.

Bodies are counted while they are read and until their request has ended: JSON bodies, messages on WebSockets, Cohere's
whole answers, what encrypted reasoning unpacks to, the conversations that a request continues. What is made of them
takes about as much again. Bodies of at most UNCOUNTED_BYTES are free: a connection alone costs as much. Streams are
not counted either, since little of them waits here (`MAX_CHUNK_BYTES` in `upstream/response.py`).

Requests may fill REQUEST_PART of the budget, so that the answers which they wait for find room; and one caller a share
of it, so that there is room for others.
"""

import threading
from collections import Counter
from collections.abc import Callable

from gateway.auth.principal import NOBODY, Principal
from gateway.errors import CallerError, UpstreamError, failure
from gateway.settings.schema import MemorySettings

UNCOUNTED_BYTES = 64 * 1024
"""Of one body."""

REQUEST_PART = 0.75

HELD = "gateway.held_bytes"
"""The key of a WebSocket's message with the bytes that are reserved for it, if any."""


class MemoryBudget:
    """Bytes that are held, by whom. Thread-safe: encrypted reasoning is unpacked in threads.

    owner: names the share that a caller's bytes are counted in. observe: gets each change of the bytes held.
    """

    def __init__(
        self,
        settings: MemorySettings,
        owner: Callable[[Principal], str] = lambda principal: principal.owner,
        observe: Callable[[int], None] = lambda change: None,
    ) -> None:
        self.configure(settings)
        self._owner, self._observe = owner, observe
        self._lock = threading.Lock()
        self._by_owner: Counter[str] = Counter()
        self.held = 0

    def configure(self, settings: MemorySettings) -> None:
        """Takes over other bounds, for the requests that follow."""
        total, share = settings.max_bytes, int(settings.max_bytes * settings.caller_share)
        self._answer_bounds = total, share
        self._request_bounds = int(total * REQUEST_PART), int(share * REQUEST_PART)

    def request(self) -> "RequestMemory":
        """Returns the account of a new request, with nothing in it."""
        return RequestMemory(self)

    def owner(self, principal: Principal) -> str:
        """Returns the name of the share that is this caller's."""
        return self._owner(principal)

    def reserve(self, owner: str, size: int, own: int, answer: bool) -> None:
        """Counts `size` more bytes. own: those that the same request has already. answer: they are Cohere's.

        Raises CallerError: 413 for a request that no caller may make, 429 for a caller who has too much, 503 where all
        callers together have; and UpstreamError for an answer that no caller may have.
        """
        total, share = self._answer_bounds if answer else self._request_bounds
        with self._lock:
            # The share first: who has too much of it is told so, also where all together have.
            if self._by_owner[owner] + size > share:
                # It alone would be too much, so that to wait would not help.
                if own + size > share and answer:
                    message = f"Cohere's answer takes more than the {share} bytes of memory that one caller may take"
                    raise UpstreamError(failure("cut", f"{message} (memory.caller_share)"))
                if own + size > share:
                    message = f"This request takes more than the {share} bytes of memory that one caller may take"
                    raise CallerError(failure("body_too_large", f"{message} (memory.caller_share)"))
                message = "Your requests take as much memory as one caller may take: wait for some of the answers"
                raise CallerError(failure("memory_share", f"{message} (memory.caller_share)"), "1")
            if self.held + size > total:
                message = "The requests being served take as much memory as they may (memory.max_bytes): try again"
                raise CallerError(failure("memory_full", message), "1")
            self._change(owner, size)

    def release(self, owner: str, size: int) -> None:
        """Counts `size` bytes less."""
        with self._lock:
            self._change(owner, -size)

    def _change(self, owner: str, size: int) -> None:
        self.held += size
        self._by_owner[owner] += size
        # Owners come and go, and a mapping of all that ever came would grow.
        if not self._by_owner[owner]:
            del self._by_owner[owner]
        self._observe(size)


class RequestMemory:
    """What one request, or one WebSocket, has of the budget. `close` gives all of it back.

    principal: the caller, once it is known.
    """

    __slots__ = ("_budget", "_closed", "_owner", "_size", "principal")

    def __init__(self, budget: MemoryBudget | None) -> None:
        """budget: None counts nothing, for what no caller pays for."""
        self._budget, self._owner, self._size = budget, "", 0
        self.principal = NOBODY
        self._closed = False

    def reserve(self, size: int, answer: bool = False) -> int:
        """Counts so many bytes more, and returns their number; 0 for so few that they are not counted.

        answer: they are Cohere's. Raises GatewayError as `MemoryBudget.reserve`.
        """
        if self._budget is None or self._closed or size <= UNCOUNTED_BYTES:
            return 0
        # By the principal of the first body that counts: what is reserved goes back to the same share.
        if not self._size:
            self._owner = self._budget.owner(self.principal)
        self._budget.reserve(self._owner, size, self._size, answer)
        self._size += size
        return size

    def release(self, size: int) -> None:
        """Counts so many of these bytes less."""
        size = min(size, self._size)  # of a request that was closed meanwhile nothing is left
        if size and self._budget is not None:
            self._size -= size
            self._budget.release(self._owner, size)

    def close(self) -> None:
        """Counts none of it any more, and nothing that comes late."""
        self._closed = True
        if self._size:
            self.release(self._size)


UNLIMITED = RequestMemory(None)
"""For what the gateway does on its own account."""


class Gathering:
    """Counts a body while it comes, in steps, so that a small one costs nothing. answer: it is Cohere's."""

    __slots__ = ("_answer", "_counted", "_memory", "_size")

    def __init__(self, memory: RequestMemory, answer: bool = False) -> None:
        self._memory, self._answer = memory, answer
        self._size = self._counted = 0

    def add(self, size: int) -> None:
        """Counts a piece of so many bytes. Raises GatewayError as `MemoryBudget.reserve`."""
        self._size += size
        if self._size - self._counted > UNCOUNTED_BYTES:
            self._counted += self._memory.reserve(self._size - self._counted, self._answer)

    def take(self) -> int:
        """Returns the bytes that are reserved for what has come, and begins anew."""
        counted, self._size, self._counted = self._counted, 0, 0
        return counted

    def discard(self) -> None:
        """Gives back what has come: nobody keeps it."""
        self._memory.release(self.take())
