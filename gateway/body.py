"""A request's body, read within bounds before anything is parsed."""

import asyncio

from starlette.types import Receive, Scope

from gateway.errors import CallerError, CallerLeft, failure

JSON_TYPES = (b"application/json", b"text/json")


def header(scope: Scope, name: bytes) -> bytes:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return b""


def require_json(scope: Scope) -> None:
    """Raises CallerError (415) for a body that says it is something else; a body that says nothing is JSON."""
    kind = header(scope, b"content-type").partition(b";")[0].strip().lower()
    if kind and kind not in JSON_TYPES and not kind.endswith(b"+json"):
        shown = kind[:80].decode("latin-1")
        raise CallerError(failure("wrong_content_type", f"The content type must be application/json, not '{shown}'"))
    encoding = header(scope, b"content-encoding").strip().lower()
    if encoding not in (b"", b"identity"):
        raise CallerError(failure("wrong_content_type", "Compressed request bodies are not supported"))


async def read(scope: Scope, receive: Receive, limit: int, patience: float) -> bytes:
    """The whole body. Raises CallerError (413, 408) and CallerLeft. `patience`: seconds between two pieces."""
    declared = header(scope, b"content-length")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    # Almost every body comes as one message: no timer is started for it.
    message = await _message(receive, patience)
    if not message.get("more_body"):
        whole: bytes = message.get("body", b"")
        if len(whole) > limit:
            raise _too_large(limit)
        return whole
    pieces, size = [message.get("body", b"")], len(message.get("body", b""))
    while message.get("more_body"):
        message = await _message(receive, patience)
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > limit:
            raise _too_large(limit)
    return b"".join(pieces)


async def _message(receive: Receive, patience: float) -> dict:  # type: ignore[type-arg]
    try:
        async with asyncio.timeout(patience):
            message = await receive()
    except TimeoutError as error:
        raise CallerError(failure("slow_body", "The request's body came too slowly")) from error
    if message["type"] == "http.disconnect":
        raise CallerLeft
    return dict(message)


def _too_large(limit: int) -> CallerError:
    return CallerError(failure("body_too_large", f"The request's body is larger than {limit} bytes"))
