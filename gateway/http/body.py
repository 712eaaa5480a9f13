"""A request's body, within bounds: read whole before anything is parsed, or passed on piece by piece."""

import asyncio
from collections.abc import Awaitable, Coroutine, Generator, Mapping, Sequence
from typing import Any, TypeVar

from starlette.types import Receive

from gateway.errors import CallerError, CallerLeft, failure
from gateway.http import json_bounds
from gateway.http.disconnect import DisconnectWatcher
from gateway.memory_budget import Gathering
from gateway.observability.record import RequestRecord
from gateway.settings.schema import Settings, Timeouts
from translators.core import surrogates
from translators.core.model_names import with_deployment
from translators.core.notes import Notes
from translators.core.surrogates import ESCAPE_BYTES, STEP_BYTES

SLOWEST = 500
"""Bytes a second below which a body is too slow as a whole, however regularly its pieces come: else 32 MiB might
take years. A telephone line of the last century is faster.
"""

JSON_TYPES = (b"application/json", b"text/json")


def require_json(headers: Mapping[bytes, bytes]) -> None:
    """Raises CallerError (415) for a body that says it is something else. A body that says nothing is JSON."""
    kind = headers.get(b"content-type", b"")
    # As nearly everybody writes it, before it is taken apart.
    if kind not in JSON_TYPES:
        kind = kind.partition(b";")[0].strip().lower()
    if kind and kind not in JSON_TYPES and not kind.endswith(b"+json"):
        declared = kind[:80].decode("latin-1")
        raise CallerError(failure("wrong_content_type", f"The content type must be application/json, not '{declared}'"))
    # A small compressed body may be a very large one, and limits are by the bytes that arrive.
    if b"content-encoding" in headers and headers[b"content-encoding"].strip().lower() not in (b"", b"identity"):
        raise CallerError(failure("wrong_content_type", "Compressed request bodies are not supported"))


async def read_json(record: RequestRecord, receive: Receive, settings: Settings) -> bytes:
    """Returns a whole body of JSON, with the model of the URL where the URL names one, and without halves of surrogate
    pairs. `note_changes` tells the caller of both.

    Raises CallerError (415, 413, 408) and CallerLeft.
    """
    require_json(record.headers)
    pieces = await _read_pieces(record, receive, settings.body_limit, settings.timeouts)
    record.json_values = await json_bounds.refuse_large(pieces, settings)
    body = _joined(pieces)
    # Most bodies are short and have no escape of this kind. They pay for a search and for no coroutine.
    if len(body) > STEP_BYTES or surrogates.may_have_halves(body):
        whole = await replace_halves(body)
        record.replaced_halves, body = whole is not body, whole
    if record.deployment:
        body, record.replaced_model = with_deployment(body, record.deployment)
    return body


async def replace_halves(text: bytes) -> bytes:
    """Returns a JSON text with each half of a surrogate pair replaced; the same object where there is none.

    It is read in steps, between which the event loop turns.
    """
    if len(text) <= STEP_BYTES:
        return surrogates.replace_halves(text)
    for start in range(0, len(text), STEP_BYTES):
        # An escape may begin at the end of one step and end in the next one.
        if surrogates.may_have_halves(text[start : start + STEP_BYTES + ESCAPE_BYTES]):
            break
        await asyncio.sleep(0)
    else:
        return text
    replaced: list[bytes] = []
    changed = False
    for piece in surrogates.pieces(text):
        replaced.append(surrogates.replace_halves_in_piece(piece))
        changed = changed or replaced[-1] is not piece
        await asyncio.sleep(0)
    return b"".join(replaced) if changed else text


def note_changes(record: RequestRecord, notes: Notes) -> None:
    """Notes what of a body was replaced when it was read. Raises InvalidField in strict mode."""
    if record.replaced_halves:
        notes.adjusted("body", "half of a surrogate pair", surrogates.REPLACEMENT)
    # The model that the body of a request to an Azure path named, if it named another one.
    if record.replaced_model:
        notes.inform("deployment", f"model {record.replaced_model} -> {record.deployment} (the deployment in the URL)")


async def read_native_json(record: RequestRecord, receive: Receive, settings: Settings) -> bytes:
    """Returns a whole body for Cohere's native API, which is JSON unless it is compressed; its type is Cohere's affair.

    Raises CallerError (400, 413, 408) and CallerLeft.
    """
    pieces = await _read_pieces(record, receive, settings.body_limit, settings.timeouts)
    # A compressed body cannot be counted without unpacking it. It goes to Cohere as it is, and its limit is that of any
    # body.
    if b"content-encoding" not in record.headers:
        await json_bounds.refuse_large(pieces, settings)
    return _joined(pieces)


async def read(record: RequestRecord, receive: Receive, limit: int, timeouts: Timeouts) -> bytes:
    """Returns the whole body, of at most `limit` bytes. Raises CallerError (413, 408, 429, 503) and CallerLeft.

    It is counted in the memory of the request, for as long as that lasts.

    `timeouts.request_body` is the longest pause between two pieces, and how far the whole may fall behind SLOWEST;
    `timeouts.request_body_total` bounds it all, since what has come waits in memory.
    """
    return _joined(await _read_pieces(record, receive, limit, timeouts))


async def _read_pieces(record: RequestRecord, receive: Receive, limit: int, timeouts: Timeouts) -> list[bytes]:
    """Reads as `read` does, and returns the body as it came, in pieces."""
    # Before a byte is read: who declares too much need not send it.
    refuse_declared(record.headers, limit)
    gathering = Gathering(record.memory)
    message, rest = _begin(receive())
    if message is not None and message["type"] == "http.request" and not message.get("more_body"):
        # Nearly all bodies are here with their heads: they need no clock, which costs more than reading them.
        piece = message.get("body", b"")
        if len(piece) > limit:
            raise _too_large(limit)
        gathering.add(len(piece))
        return [piece]
    pieces: list[bytes] = []
    size = 0
    loop = asyncio.get_running_loop()
    seconds = timeouts.request_body
    latest = loop.time() + seconds
    deadline = loop.time() + timeouts.request_body_total
    try:
        async with asyncio.timeout_at(min(latest, deadline)) as clock:
            while True:
                if message is None:
                    message = await (rest if rest is not None else receive())
                    rest = None
                if message["type"] == "http.disconnect":
                    raise CallerLeft
                piece = message.get("body", b"")
                if piece:
                    # Not for the first piece: its time began with the request.
                    if pieces:
                        clock.reschedule(min(loop.time() + seconds, latest + size / SLOWEST, deadline))
                    pieces.append(piece)
                    size += len(piece)
                    if size > limit:
                        raise _too_large(limit)
                    gathering.add(len(piece))
                if not message.get("more_body"):
                    break
                message = None
    except TimeoutError as error:
        raise _slow() from error
    return pieces


def _joined(pieces: Sequence[bytes]) -> bytes:
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Pieces:
    """Iterates over a body that is passed on: at most one piece of it is in memory here.

    timeouts: as in `read`, but only waiting for the caller counts, since Cohere may take its time with each piece; and
    it all is bounded by `timeouts.total`, since nothing of it waits in memory.
    failure: what the caller did wrong on the way, since it may be a library's task that iterates. A caller who leaves
    is reported to the watcher, which ends the request.
    """

    def __init__(self, receive: Receive, limit: int, timeouts: Timeouts, watcher: DisconnectWatcher) -> None:
        self._receive, self._limit, self._timeouts, self._watcher = receive, limit, timeouts, watcher
        self._size = 0
        self._waited = 0.0
        self.complete = False
        self.failure: CallerError | None = None

    def __aiter__(self) -> "Pieces":
        return self

    async def __anext__(self) -> bytes:
        """Returns the next piece, never an empty one. Raises CallerError (413, 408)."""
        loop = asyncio.get_running_loop()
        while not self.complete:
            began = loop.time()
            # How far the caller is behind the slowest pace; a fast beginning may be followed by a pause.
            behind = self._waited - self._size / SLOWEST
            left = min(self._timeouts.request_body - max(behind, 0.0), self._timeouts.total - self._waited)
            try:
                async with asyncio.timeout_at(began + left):
                    message = await self._receive()
            except TimeoutError:
                raise self._failed(_slow()) from None
            except CallerError as error:  # broken framing
                raise self._failed(error) from None
            self._waited += loop.time() - began
            if message["type"] == "http.disconnect":
                self._watcher.left()
                # What was sent so far is no whole request: whoever waits here is cancelled and sees no end of it.
                # For ever, as the watcher cancels this task. To return would tell Cohere that the body is complete.
                await asyncio.Event().wait()
            if not message.get("more_body"):
                self.complete = True
                self._watcher.listen()
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


def refuse_declared(headers: Mapping[bytes, bytes], limit: int) -> None:
    """Raises CallerError (413) for a body whose declared length is above the limit in bytes."""
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)


def _slow() -> CallerError:
    return CallerError(failure("slow_body", "The body of the request arrived too slowly"))


def _too_large(limit: int) -> CallerError:
    return CallerError(failure("body_too_large", f"The request's body is larger than {limit} bytes"))


# --- a coroutine that may not have to wait -------------------------------------------------------------------

T = TypeVar("T")


class _Begun(Awaitable[T]):
    """The rest of a coroutine that has begun and waits. waits_for: what it gave to the event loop when it did."""

    __slots__ = ("_coroutine", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, T], waits_for: Any) -> None:
        self._coroutine, self._waits_for = coroutine, waits_for

    def __await__(self) -> Generator[Any, Any, T]:
        # What `yield from` does, for a coroutine whose first wait has been taken from it already.
        waits_for = self._waits_for
        while True:
            try:
                try:
                    value = yield waits_for
                except BaseException as error:
                    waits_for = self._coroutine.throw(error)
                else:
                    waits_for = self._coroutine.send(value)
            except StopIteration as end:
                result: T = end.value
                return result


def _begin(awaitable: Awaitable[T]) -> tuple[T | None, Awaitable[T] | None]:
    """Runs a coroutine to its first wait. Returns its result, or else what is to be awaited for it, at once.

    So a time limit is set only for what waits. Raises what the coroutine raises.
    """
    # Only a coroutine can be begun by hand. A future is awaited like anything else.
    if not isinstance(awaitable, Coroutine):
        return None, awaitable
    try:
        return None, _Begun(awaitable, awaitable.send(None))
    except StopIteration as end:
        return end.value, None
