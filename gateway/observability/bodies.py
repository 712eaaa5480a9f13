"""The bodies of a call, taken while they pass, for the ledger: where policy says so, and within bounds.

What is stored of whom is the first of these that says it: the key's `ledger_bodies`, its team's, the setting
`ledger.bodies`. Callers may only lessen it: with the headers of LOG_HEADERS, or with `"no-log": true` in their body.
Nothing is taken of a caller whom nobody let in, of management, and of what is no text.
"""

import re
import threading
from collections.abc import Mapping
from typing import Literal, TypeAlias

from starlette.types import Message

from gateway.auth.principal import NOBODY, Principal
from gateway.settings.schema import LedgerSettings

BodyPolicy: TypeAlias = Literal["off", "errors", "all"]

MAX_BODY_BYTES = 256 * 1024
"""Of one body; what comes behind them is left out."""

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Of all bodies that were taken and are not stored yet. With more, the bodies of a call are not stored."""

LOG_HEADERS: Mapping[bytes, bytes] = {
    b"cf-aig-collect-log": b"false",
    b"cf-aig-collect-log-payload": b"false",
    b"x-litellm-enable-message-redaction": b"true",
    b"litellm-enable-message-redaction": b"true",
}
"""Headers with which a caller keeps the bodies of a call out of the ledger, and the value that does it."""

# Searched for and not parsed: a body comes in pieces, and may be no JSON.
_NO_LOG = re.compile(rb'"no[-_]log"\s*:\s*true')
_NO_LOG_BYTES = 64
"""Of the piece before, which may have the beginning of it."""

_TEXTUAL = re.compile(rb"(text/|application/([a-z0-9.+-]*\+)?(json|x-ndjson|stream\+json)\b)")


class BodyMemory:
    """Counts the bytes that are taken and not stored yet. Thread-safe."""

    def __init__(self, max_bytes: int = MAX_WAITING_BYTES) -> None:
        self._max_bytes, self._lock = max_bytes, threading.Lock()
        self.held = 0

    def reserve(self, size: int) -> bool:
        """Counts so many bytes more, if there is room for them. Returns whether there was."""
        with self._lock:
            if self.held + size > self._max_bytes:
                return False
            self.held += size
            return True

    def release(self, size: int) -> None:
        """Counts so many bytes less."""
        with self._lock:
            self.held -= size


class Body:
    """One body. type: as its header has it, empty without one. size: all of its bytes; data: the first of them."""

    __slots__ = ("data", "size", "type")

    def __init__(self) -> None:
        self.type, self.size, self.data = "", 0, bytearray()

    @property
    def textual(self) -> bool:
        """It is text, as far as its type says."""
        return not self.type or _TEXTUAL.match(self.type.strip().lower().encode("latin-1", "replace")) is not None


class Bodies:
    """The bodies of one call. policy: whether they are stored if it does not fail.

    withdrawn: the caller does not want them stored. lost: there was no room for them.
    """

    __slots__ = ("_memory", "_reserved", "_tail", "lost", "policy", "request", "response", "withdrawn")

    def __init__(self, policy: BodyPolicy, memory: BodyMemory) -> None:
        self.policy, self._memory = policy, memory
        self.request, self.response = Body(), Body()
        self.withdrawn = self.lost = False
        self._reserved, self._tail = 0, b""

    def add_request(self, piece: bytes) -> None:
        """Takes a piece of the request."""
        if piece and not self.withdrawn:
            seen = self._tail + piece
            if b"no" in seen and _NO_LOG.search(seen):
                self.withdrawn = True
                self.discard()
                return
            self._tail = seen[-_NO_LOG_BYTES:]
            self._add(self.request, piece)

    def add_response(self, piece: bytes) -> None:
        """Takes a piece of the response."""
        if piece and not self.withdrawn:
            self._add(self.response, piece)

    def add_message(self, message: Message) -> None:
        """Takes an ASGI message of the response."""
        for name, value in message.get("headers", ()):
            if name.lower() == b"content-type":
                self.response.type = value.decode("latin-1")
        self.add_response(message.get("body", b""))

    def _add(self, body: Body, piece: bytes) -> None:
        body.size += len(piece)
        piece = piece[: MAX_BODY_BYTES - len(body.data)]
        if not piece or self.lost or not body.textual:
            return
        if self._memory.reserve(len(piece)):
            self._reserved += len(piece)
            body.data += piece
        else:
            self.discard()
            # Both bodies and all of them: a part would be taken for the whole.
            self.lost = True

    def discard(self) -> None:
        """Forgets the bodies: they are stored, or will not be."""
        self._memory.release(self._reserved)
        self._reserved = 0
        self.request.data, self.response.data = bytearray(), bytearray()


class BodyCollector:
    """Decides of whose calls the bodies are taken. enabled: there is a key to seal them with."""

    def __init__(self, settings: LedgerSettings) -> None:
        self._memory = BodyMemory()
        self.enabled, self._policy = bool(settings.body_keys), settings.bodies

    def begin(self, principal: Principal, headers: Mapping[bytes, bytes]) -> Bodies | None:
        """Returns what takes the bodies of a call; None where none are stored."""
        if not self.enabled or principal is NOBODY:
            return None
        policy = self.policy_of(principal)
        if policy == "off" or any(headers.get(name, b"").strip().lower() == off for name, off in LOG_HEADERS.items()):
            return None
        bodies = Bodies(policy, self._memory)
        bodies.request.type = headers.get(b"content-type", b"").decode("latin-1")
        return bodies

    def policy_of(self, principal: Principal) -> BodyPolicy:
        """Returns what is stored of this caller's calls."""
        for record in (principal.key, principal.team):
            if record is not None and record.ledger_bodies is not None:
                return record.ledger_bodies
        return self._policy
