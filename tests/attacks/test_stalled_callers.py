"""Callers who ask for a stream and read nothing of it, from a Cohere that sends without end.

Reading from Cohere pauses, and little is kept for each of them. What the process has more of memory is divided by the
number of callers, so what a connection costs by itself is in it, and in the answer's text, which is part of it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import h2.connection
import pytest

from support.app import CHAT, A
from support.certificates import issued_in
from support.process import Process, awaited, process, reads_until
from support.waiting import WAIT_SECONDS

CALLERS = 16
MAX_BUFFERED = 256 * 1024
ALONE = 64 * 1024
"""Bytes that a stream costs of which nothing has come: two connections, their tasks and parsers."""

TLS = 128 * 1024
"""Bytes that TLS adds to a connection."""

TEXT = b'{"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"%s"}}}}'
START = (
    b'event: message-start\ndata: {"type":"message-start","id":"1","delta":{"message":{"role":"assistant"}}}\n\n'
    b'event: content-start\ndata: {"type":"content-start","index":0,'
    b'"delta":{"message":{"content":{"type":"text","text":""}}}}\n\n'
)
MANY = b"".join(b"event: content-delta\ndata: %s\n\n" % (TEXT % b"word ") for _ in range(100))
LARGE = b"event: content-delta\ndata: %s\n\n" % (TEXT % (b"x" * 3_000))


class Endless:
    """A Cohere that sends the same events as long as anybody takes them. written: bytes on each connection."""

    def __init__(self, events: bytes) -> None:
        self.events, self.written = events, list[int]()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    @contextmanager
    def serving(self) -> Iterator[str]:
        self._thread.start()
        self._ready.wait(WAIT_SECONDS)
        try:
            yield f"http://127.0.0.1:{self.port}"
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(WAIT_SECONDS)

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            number = len(self.written)
            self.written.append(0)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + START)
            while True:
                writer.write(self.events)
                await writer.drain()
                self.written[number] += len(self.events)
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    def pauses(self) -> bool:
        """Nothing was taken for a while on any connection."""
        before = list(self.written)
        time.sleep(0.3)
        return before == self.written


def post(path: str, **fields: object) -> bytes:
    body = json.dumps({"model": A, "stream": True, **fields}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer x\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


MESSAGES = [{"role": "user", "content": "Hi"}]
UPGRADE = (
    b"GET /v1/responses HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer x\r\nupgrade: websocket\r\n"
    b"connection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
CREATE = json.dumps({"type": "response.create", "model": A, "input": "Hi", "store": False}).encode()
FRAME = bytes([0x81, 0x80 | len(CREATE)]) + bytes(4) + CREATE


def ask(data: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(data)


def ask_on_websocket(connection: socket.socket) -> None:
    connection.sendall(UPGRADE)
    reads_until(connection, b"\r\n\r\n")
    connection.sendall(FRAME)


def memory(worker: int) -> int:
    fields = Path(f"/proc/{worker}/statm").read_text().split()
    return int(fields[1]) * 4096


@pytest.fixture(scope="module", params=[MANY, LARGE], ids=["small events", "large events"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[Process, Endless]]:
    if not Path("/proc/self/statm").exists():
        pytest.skip("only Linux tells a process's memory so cheaply")
    upstream = Endless(request.param)
    with upstream.serving() as url, process(COHERE_API_KEY="k", COHERE_BASE_URL=url) as server:
        yield server, upstream


@pytest.mark.parametrize(
    "begin",
    [
        ask(post(CHAT, messages=MESSAGES)),
        ask(post("/v1/responses", input="Hi", store=False)),
        ask(post("/cohere/v2/chat", messages=MESSAGES)),
        ask_on_websocket,
    ],
    ids=["chat", "responses", "native", "websocket"],
)
def test_little_is_kept_for_who_does_not_read(
    served: tuple[Process, Endless], begin: Callable[[socket.socket], None]
) -> None:
    server, upstream = served
    (worker,) = server.workers
    with ExitStack() as stack:

        def stalled(count: int) -> None:
            expected = len(upstream.written) + count
            for _ in range(count):
                connection = stack.enter_context(closing(socket.socket()))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.connect(("127.0.0.1", server.port))
                begin(connection)
            awaited(lambda: len(upstream.written) == expected and min(upstream.written[-count:]) > 0)
            awaited(upstream.pauses)

        stalled(CALLERS)  # with them comes what is loaded late, and what the allocator keeps
        before = memory(worker)
        stalled(CALLERS)
        assert (memory(worker) - before) / CALLERS < MAX_BUFFERED + ALONE
    awaited(lambda: b"gateway_requests_in_flight 1.0" in server.get("/metrics"))


# --- over TLS -------------------------------------------------------------------------------------------------


def secured(connection: socket.socket, protocol: str) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    return context.wrap_socket(connection)


def ask_over_http2(connection: ssl.SSLSocket) -> None:
    """Asks on one stream, with the windows that a client has who does not say otherwise."""
    http2 = h2.connection.H2Connection()
    http2.initiate_connection()
    pseudo = [(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", CHAT)]
    http2.send_headers(1, [*pseudo, ("authorization", "Bearer x"), ("content-type", "application/json")])
    http2.send_data(1, json.dumps({"model": A, "stream": True, "messages": MESSAGES}).encode(), end_stream=True)
    connection.sendall(http2.data_to_send())


@pytest.mark.parametrize(
    ("protocol", "begin"),
    [("http/1.1", ask(post(CHAT, messages=MESSAGES))), ("h2", ask_over_http2)],
    ids=["HTTP/1.1", "HTTP/2"],
)
def test_little_more_is_kept_over_tls(tmp_path: Path, protocol: str, begin: Callable[[socket.socket], None]) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("only Linux tells a process's memory so cheaply")
    upstream, certificate = Endless(MANY), str(issued_in(tmp_path).server)
    with (
        upstream.serving() as url,
        process(COHERE_API_KEY="k", COHERE_BASE_URL=url, GATEWAY_TLS_CERTIFICATE=certificate) as server,
        ExitStack() as stack,
    ):
        (worker,) = server.workers

        def stalled(count: int) -> None:
            expected = len(upstream.written) + count
            for _ in range(count):
                plain = socket.socket()
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                plain.connect(("127.0.0.1", server.port))
                begin(stack.enter_context(closing(secured(plain, protocol))))
            awaited(lambda: len(upstream.written) == expected and min(upstream.written[-count:]) > 0)
            awaited(upstream.pauses)

        stalled(CALLERS)
        before = memory(worker)
        stalled(CALLERS)
        assert (memory(worker) - before) / CALLERS < MAX_BUFFERED + ALONE + TLS
