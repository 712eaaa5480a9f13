"""Whole responses and streams as ASGI messages."""

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

NOTES = b"x-gateway-notes"


STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx holds back what it proxies unless told otherwise.
    (b"x-accel-buffering", b"no"),
)


async def send_json(send: Send, body: bytes, notes: Notes, watcher: DisconnectWatcher | None = None) -> None:
    """Sends a whole response of JSON, with the notes on the request as a header.

    watcher: watches for the caller's leaving until the last byte. A large body needs one, as it is sent in blocks.
    """
    headers = [JSON_TYPE, (b"content-length", b"%d" % len(body)), *note_headers(notes)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    offset = 0
    if watcher is not None:
        while len(body) - offset > LARGEST_SEND:
            block = body[offset : offset + LARGEST_SEND]
            await send({"type": "http.response.body", "body": block, "more_body": True})
            await asyncio.sleep(0)  # a connection that is lost never waits: let the watcher notice
            offset += LARGEST_SEND
        watcher.over()
    await send({"type": "http.response.body", "body": body[offset:] if offset else body})


def add_note(headers: Sequence[tuple[bytes, bytes]], note: str) -> list[tuple[bytes, bytes]]:
    """Returns headers of an answer with one more note."""
    before = [value for name, value in headers if name == NOTES]
    others = [header for header in headers if header[0] != NOTES]
    return [*others, (NOTES, b"; ".join([note.encode("ascii"), *before]))]


async def send_events(
    record: RequestRecord,
    receive: Receive,
    send: Send,
    batches: AsyncGenerator[Sequence[bytes], None],
    notes: Notes,
) -> None:
    """Sends a stream of named events that somebody else makes. The caller may leave, and the making goes on."""
    record.streamed = True
    async with DisconnectWatcher(receive) as watcher, contextlib.aclosing(batches):
        headers = [*STREAM_HEADERS, *note_headers(notes)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for documents in batches:
            record.first_byte = record.first_byte or time.monotonic()
            # An empty batch says that nothing has come for a while (`event_replay.py`).
            body = sse.encode_named(documents) or sse.COMMENT
            await send({"type": "http.response.body", "body": body, "more_body": True})
        watcher.over()
        await send({"type": "http.response.body", "body": sse.DONE, "more_body": False})


def note_headers(notes: Notes) -> list[tuple[bytes, bytes]]:
    """Returns the header `x-gateway-notes`, if there are any."""
    return [(NOTES, notes.header().encode("ascii"))] if len(notes) else []
