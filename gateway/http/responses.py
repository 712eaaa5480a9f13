"""Whole answers and streams as ASGI messages."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence

from starlette.types import Receive, Send

from gateway.http import sse
from gateway.http.disconnect import DisconnectWatcher
from gateway.observability.record import RequestRecord
from translators.core.notes import Notes

LARGEST_SEND = 1024 * 1024
"""Bytes that are handed to the connection at once. What it cannot take at once it copies, twice, and keeps."""


JSON_TYPE = (b"content-type", b"application/json")


STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx holds back what it proxies unless told otherwise.
    (b"x-accel-buffering", b"no"),
)


async def answer_json(
    send: Send, answer: bytes, more: Sequence[tuple[bytes, bytes]] = (), departure: DisconnectWatcher | None = None
) -> None:
    """A whole JSON answer, with these headers too. departure: what watches its caller until the last byte; a large one
    needs it, as it is sent piece by piece.
    """
    headers = [JSON_TYPE, (b"content-length", b"%d" % len(answer)), *more]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    sent = 0
    if departure is not None:
        while len(answer) - sent > LARGEST_SEND:
            block = answer[sent : sent + LARGEST_SEND]
            await send({"type": "http.response.body", "body": block, "more_body": True})
            await asyncio.sleep(0)  # a connection that is lost never waits: let the departure be heard
            sent += LARGEST_SEND
        departure.over()
    await send({"type": "http.response.body", "body": answer[sent:] if sent else answer})


async def answer_events(
    known: RequestRecord,
    receive: Receive,
    send: Send,
    batches: AsyncGenerator[Sequence[bytes], None],
    more: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """A stream of named events that somebody else makes: the caller may leave, and the making goes on."""
    known.streamed = True
    async with DisconnectWatcher(receive) as departure, contextlib.aclosing(batches):
        await send({"type": "http.response.start", "status": 200, "headers": [*STREAM_HEADERS, *more]})
        async for documents in batches:
            known.first_byte = known.first_byte or time.monotonic()
            body = sse.encode_named(documents) or sse.COMMENT
            await send({"type": "http.response.body", "body": body, "more_body": True})
        departure.over()
        await send({"type": "http.response.body", "body": sse.DONE, "more_body": False})


def note_headers(notes: Notes) -> list[tuple[bytes, bytes]]:
    """What the caller is told of their request, if anything."""
    return [(b"x-gateway-notes", notes.header().encode("ascii"))] if len(notes) else []
