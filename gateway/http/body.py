"""A request's body, within bounds: read whole before anything is parsed, or passed on piece by piece."""

import asyncio

from starlette.types import Receive, Scope

from gateway.errors import CallerError, CallerLeft, failure
from gateway.http.disconnect import DisconnectWatcher
from gateway.http.path_aliases import DEPLOYMENT, SAID
from gateway.settings.schema import Settings
from translators.core.model_names import addressed

SLOWEST = 500
"""Bytes a second below which a body is too slow as a whole, however regularly its pieces come: else 32 MiB might
take years. A telephone line of the last century is faster.
"""

JSON_TYPES = (b"application/json", b"text/json")


def require_json(scope: Scope) -> None:
    """Raises CallerError (415) for a body that says it is something else; a body that says nothing is JSON."""
    headers: dict[bytes, bytes] = scope["gateway.headers"]
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind and kind not in JSON_TYPES and not kind.endswith(b"+json"):
        shown = kind[:80].decode("latin-1")
        raise CallerError(failure("wrong_content_type", f"The content type must be application/json, not '{shown}'"))
    encoding = headers.get(b"content-encoding", b"").strip().lower()
    if encoding not in (b"", b"identity"):
        raise CallerError(failure("wrong_content_type", "Compressed request bodies are not supported"))


async def read_json(scope: Scope, receive: Receive, settings: Settings) -> bytes:
    """A whole body of JSON, within the settings' bounds. Raises what `require_json` and `read` raise."""
    require_json(scope)
    return await read(scope, receive, settings.body_limit, settings.timeouts.request_body)


async def read(scope: Scope, receive: Receive, limit: int, patience: float) -> bytes:
    """The whole body. Raises CallerError (413, 408) and CallerLeft.

    patience: seconds between two pieces, and how far the whole may fall behind SLOWEST.
    """
    refuse_declared(scope, limit)
    pieces: list[bytes] = []
    size = 0
    loop = asyncio.get_running_loop()
    latest = loop.time() + patience
    try:
        async with asyncio.timeout(patience) as clock:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise CallerLeft
                piece = message.get("body", b"")
                if piece:
                    if pieces:
                        clock.reschedule(min(loop.time() + patience, latest + size / SLOWEST))
                    pieces.append(piece)
                    size += len(piece)
                    if size > limit:
                        raise _too_large(limit)
                if not message.get("more_body"):
                    break
    except TimeoutError as error:
        raise _slow() from error
    whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if DEPLOYMENT in scope:
        whole, scope[SAID] = addressed(whole, scope[DEPLOYMENT])
    return whole


class Pieces:
    """The body piece by piece, for whoever passes it on: no more than one of them is in memory here.

    patience: as in `read`, but only what the caller is waited for counts: Cohere may take its time with each piece.
    What the caller does wrong on the way is kept in `failure`, since who iterates may be a task of a library's. A
    caller who leaves is told to `departure`, which ends the request.
    """

    def __init__(self, receive: Receive, limit: int, patience: float, departure: DisconnectWatcher) -> None:
        self._receive, self._limit, self._patience, self._departure = receive, limit, patience, departure
        self._size = 0
        self._waited = 0.0
        self.over = False
        self.failure: CallerError | None = None

    def __aiter__(self) -> "Pieces":
        return self

    async def __anext__(self) -> bytes:
        """The next piece, never an empty one. Raises CallerError (413, 408)."""
        loop = asyncio.get_running_loop()
        while not self.over:
            began = loop.time()
            behind = self._waited - self._size / SLOWEST
            try:
                async with asyncio.timeout_at(began + self._patience - max(behind, 0.0)):
                    message = await self._receive()
            except TimeoutError:
                raise self._failed(_slow()) from None
            except CallerError as error:  # broken framing
                raise self._failed(error) from None
            self._waited += loop.time() - began
            if message["type"] == "http.disconnect":
                self._departure.left()
                # What was sent so far is no whole request: whoever waits here is cancelled, not told of an end.
                await asyncio.Event().wait()
            if not message.get("more_body"):
                self.over = True
                self._departure.listen()
            piece: bytes = message.get("body", b"")
            self._size += len(piece)
            if self._size > self._limit:
                raise self._failed(_too_large(self._limit))
            if piece:
                return piece
        raise StopAsyncIteration

    def _failed(self, failure: CallerError) -> CallerError:
        self.failure = failure
        return failure


def refuse_declared(scope: Scope, limit: int) -> None:
    """Raises CallerError (413) for a body that says itself that it is too large."""
    declared: bytes = scope["gateway.headers"].get(b"content-length", b"")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)


def _slow() -> CallerError:
    return CallerError(failure("slow_body", "The request's body came too slowly"))


def _too_large(limit: int) -> CallerError:
    return CallerError(failure("body_too_large", f"The request's body is larger than {limit} bytes"))
