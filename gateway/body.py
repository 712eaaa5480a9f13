"""A request's body, read within bounds before anything is parsed."""

import asyncio

from starlette.types import Receive, Scope

from gateway.errors import CallerError, CallerLeft, failure

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


async def read(scope: Scope, receive: Receive, limit: int, patience: float) -> bytes:
    """The whole body. Raises CallerError (413, 408) and CallerLeft.

    patience: seconds between two pieces, and how far the whole may fall behind SLOWEST.
    """
    declared: bytes = scope["gateway.headers"].get(b"content-length", b"")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
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
        raise CallerError(failure("slow_body", "The request's body came too slowly")) from error
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large(limit: int) -> CallerError:
    return CallerError(failure("body_too_large", f"The request's body is larger than {limit} bytes"))
