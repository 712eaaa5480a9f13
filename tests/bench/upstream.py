"""A stand-in for Cohere that costs next to nothing: a raw asyncio protocol that sends prepared bytes.

It knows as much HTTP/1.1 as aiohttp's client speaks (keep-alive, content-length) and nothing of Cohere's
rules; the project's emulator is the one to test against. Answers: POST /v2/chat whole or streamed, as the
prompt asks (see samples.py), POST /v2/embed with a vector of 1024 for each text, GET /v1/models.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import random
import re
import signal
import sys
from collections.abc import Callable
from functools import cache, partial
from itertools import count
from pathlib import Path
from struct import pack
from typing import cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests/, as pytest and mypy have it

from bench import samples

# The headers that Cohere was seen to send, so that parsing them costs what it costs in real life.
_HEADERS = (
    b"HTTP/1.1 200 OK\r\naccess-control-expose-headers: X-Debug-Trace-ID\r\n"
    b"cache-control: no-cache, no-store, no-transform, must-revalidate, private, max-age=0\r\n"
    b"expires: Thu, 01 Jan 1970 00:00:00 GMT\r\npragma: no-cache\r\nserver: envoy\r\n"
    b"vary: Origin,Accept-Encoding\r\nvia: 1.1 google\r\n"
    b"x-debug-trace-id: 0a252d83437b08065c3a12e52de770c4\r\nx-envoy-upstream-service-time: 312\r\n"
)
_EVENT_STREAM = _HEADERS + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STREAMED = re.compile(rb'"stream": ?true')
_SCRIPT = re.compile(rb"bench deltas=(\d+) pace=(\d+)")
_WANTS_LINES = re.compile(rb"\r\naccept: *application/json", re.IGNORECASE)
_FIRST_ID = (samples.COHERE_ID % 0).encode()


def whole(body: bytes, status: bytes = b"200 OK") -> bytes:
    """A complete JSON answer."""
    head = _HEADERS.replace(b"200 OK", status, 1)
    return head + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def chunked(event: bytes) -> bytes:
    """One HTTP chunk: Cohere sends each event in a chunk of its own."""
    return b"%x\r\n%s\r\n" % (len(event), event)


# An answer is kept in two halves, so that each can have an id of its own at the price of joining them.
_CHAT = whole(samples.cohere_answer()).split(_FIRST_ID)
_MISSING = whole(b'{"message":"no such path in the stand-in"}', b"404 Not Found")
_MODELS = whole(
    b'{"models":[{"name":"command-a-03-2025","endpoints":["chat"],"finetuned":false,"context_length":288000,'
    b'"default_endpoints":["chat"],"features":["json_mode","json_schema","strict_tools","safety_modes","tools"]},'
    b'{"name":"embed-v4.0","endpoints":["embed"],"finetuned":false,"context_length":128000,"default_endpoints":'
    b'["embed"],"features":[]}],"next_page_token":""}'
)


@cache
def stream(deltas: int) -> list[bytes]:
    """The chunks of a stream: what is sent at once, one per delta, what ends it."""
    chunks = [chunked(event) for event in samples.cohere_events(deltas)]
    return [b"".join(chunks[:2]), *chunks[2:-3], b"".join(chunks[-3:]) + _LAST_CHUNK]


@cache
def burst(deltas: int) -> list[bytes]:
    """A whole stream as one run of bytes, in two halves around the id."""
    return (_EVENT_STREAM + b"".join(stream(deltas))).split(_FIRST_ID)


@cache
def embeddings(as_base64: bool, texts: int) -> bytes:
    """Vectors of 1024, printed as Cohere prints them; made on first use because that takes a moment."""
    dice = random.Random(1)
    vectors = [[dice.gauss(0, 0.03) for _ in range(samples.DIMENSIONS)] for _ in range(texts)]
    if as_base64:
        rows = ['"' + base64.b64encode(pack("<1024f", *vector)).decode() + '"' for vector in vectors]
    else:
        rows = ["[" + ",".join(f"{value:.8g}" for value in vector) + "]" for vector in vectors]
    kind = "base64" if as_base64 else "float"
    return whole(
        f'{{"id":"{samples.COHERE_ID % 0}","texts":[],"embeddings":{{"{kind}":[{",".join(rows)}]}},'
        '"meta":{"api_version":{"version":"2"},"billed_units":{"input_tokens":960}},'
        '"response_type":"embeddings_by_type"}'.encode()
    )


@cache
def reranked(documents: int) -> bytes:
    """The relevance of so many documents."""
    return whole(samples.rerank_answer(documents))


@cache
def lines(deltas: int) -> list[bytes]:
    """A whole stream as one JSON document a line, in two halves around the id."""
    events = [event.partition(b"data: ")[2].strip() for event in samples.cohere_events(deltas)[:-1]]
    body = b"".join(chunked(event + b"\n") for event in events) + _LAST_CHUNK
    return (_HEADERS + b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n" + body).split(_FIRST_ID)


@cache
def embeddings_v1(texts: int) -> bytes:
    """The same vectors in the shape of Cohere's first version, which some gateways still ask for."""
    body = embeddings(False, texts).partition(b"\r\n\r\n")[2]
    return whole(body.replace(b'"embeddings":{"float":', b'"embeddings":').replace(b']]},"meta"', b']],"meta"'))


class UpstreamSession(asyncio.Protocol):
    """One connection."""

    numbers = count(1)

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport
        self.buffer = b""
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        length = _LENGTH.search(self.buffer, 0, end)
        if length is not None and len(self.buffer) < end + int(length[1]):
            return
        request, self.buffer = self.buffer, b""
        self.answer(request)

    def answer(self, request: bytes) -> None:
        """Look at the request line, and into the body only as far as the script needs it."""
        if request.startswith(b"POST /v2/chat "):
            ident = (samples.COHERE_ID % next(self.numbers)).encode()
            if not _STREAMED.search(request):
                self.transport.write(ident.join(_CHAT))
                return
            script = _SCRIPT.search(request)
            deltas, pace_ms = (int(script[1]), int(script[2])) if script else (100, 0)
            if _WANTS_LINES.search(request):
                # LiteLLM asks for no event stream, and reads a JSON document from each line.
                self.transport.write(ident.join(lines(deltas)))
            elif not pace_ms:
                self.transport.write(ident.join(burst(deltas)))
            else:
                chunks = stream(deltas)
                self.transport.write(_EVENT_STREAM + chunks[0].replace(_FIRST_ID, ident))
                self.later(chunks, 1, self.loop.time() + pace_ms / 1000, pace_ms / 1000)
        elif request.startswith(b"POST /v2/embed "):
            self.transport.write(embeddings(b'"base64"' in request, request.count(samples.EMBED_MARK)))
        elif request.startswith(b"POST /v1/embed "):
            self.transport.write(embeddings_v1(request.count(samples.EMBED_MARK)))
        elif request.startswith(b"POST /v2/rerank "):
            self.transport.write(reranked(request.count(samples.RERANK_MARK)))
        elif request.startswith(b"GET /v1/models"):
            self.transport.write(_MODELS)
        else:
            self.transport.write(_MISSING)

    def later(self, chunks: list[bytes], position: int, when: float, pace: float) -> None:
        """Send one chunk when it is due; due times do not drift when one is late."""
        step: Callable[[], None] = partial(self.step, chunks, position, when, pace)
        self.timer = self.loop.call_at(when, step)

    def step(self, chunks: list[bytes], position: int, when: float, pace: float) -> None:
        """Send the chunk that is due and plan the next."""
        self.transport.write(chunks[position])
        self.timer = None
        if position + 1 < len(chunks):
            self.later(chunks, position + 1, when + pace, pace)


async def run(port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopped.set)
    server = await loop.create_server(UpstreamSession, "127.0.0.1", port, backlog=2048)
    await stopped.wait()
    server.close()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="A scripted stand-in for Cohere, for the benchmarks only.")
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(run(parser.parse_args().port))


if __name__ == "__main__":
    main()
