"""What the server says last reaches a caller who is still sending: a close frame, the refusal of what is no HTTP.

Closing a socket on unread bytes resets it, and a reset takes back what was sent before it (RFC 9112 §9.6).
"""

from __future__ import annotations

import errno
import socket
from asyncio import selector_events
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from hypercorn.config import Config

from gateway.memory_budget import MemoryBudget
from gateway.observability.record import REQUEST
from gateway.server import connection as server_connection
from gateway.server import hypercorn_patches
from gateway.server.idle_connections import close_idle
from gateway.settings.schema import MemorySettings
from support.asgi_server import Message, Receive, Send, serve
from support.process import awaited
from support.waiting import WAIT_SECONDS

TIMEOUT = 10 * WAIT_SECONDS
"""For what takes milliseconds where nothing else runs, and for what must not be waited for."""

MESSAGE_LIMIT = 200_000
MEMORY = 150_000


async def application(scope: Message, receive: Receive, send: Send) -> None:
    """Closes a WebSocket with 1012 at the text "close". At /full no message fits into the memory.

    A request over HTTP closes the connections that nobody needs.
    """
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return await send({"type": "lifespan.shutdown.complete"})
    if scope["type"] == "http":
        close_idle()
        await send({"type": "http.response.start", "status": 400, "headers": [(b"content-length", b"2")]})
        return await send({"type": "http.response.body", "body": b"no"})
    if scope["path"] == "/full":
        budget = MemoryBudget(MemorySettings(max_bytes=MEMORY))
        scope[REQUEST] = SimpleNamespace(memory=budget.request())
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] != "websocket.disconnect":
        if message.get("text") == "close":
            return await send({"type": "websocket.close", "code": 1012, "reason": "the server restarts"})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    def configure(config: Config) -> None:
        hypercorn_patches.install(config)
        config.websocket_max_message_size = MESSAGE_LIMIT

    with serve(lambda: application, configure=configure) as url:
        yield int(url.rpartition(":")[2])


@pytest.fixture(autouse=True)
def patient_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine must not make a caller late."""
    monkeypatch.setattr(server_connection, "LINGER_SECONDS", TIMEOUT)


def frame(payload: bytes, first: int = 0x81) -> bytes:
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xff" + size.to_bytes(8, "big")
    return bytes([first]) + length + bytes(4) + payload


def upgrade(path: str) -> bytes:
    lines = (f"GET {path} HTTP/1.1", "host: localhost", "upgrade: websocket", "connection: upgrade")
    key = ("sec-websocket-version: 13", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==")
    return "\r\n".join([*lines, *key, "", ""]).encode()


def read_until(connection: socket.socket, expected: bytes) -> bytes:
    received = b""
    while expected not in received:
        received += (some := connection.recv(65536))
        assert some, f"ended without {expected!r}: {received!r}"
    return received


def close_frame(code: int) -> bytes:
    return code.to_bytes(2, "big")


ENDS: dict[str, tuple[str, bytes, bytes]] = {
    "the application closes": ("/", frame(b"close") + frame(b"{}") * 2_000, close_frame(1012)),
    "no frame of the protocol": ("/", frame(b"", first=0x83), close_frame(1002)),
    "a text that is no UTF-8": ("/", frame(b"\xff\xff"), close_frame(1007)),
    "a message that is too large": ("/", frame(b"x" * (MESSAGE_LIMIT + 1)), close_frame(1009)),
    "a message without memory": ("/full", frame(b"x" * (MEMORY - 1)), close_frame(1013)),
    "frames before the handshake": ("", upgrade("/") + frame(b"{}"), b"400"),
    "no HTTP": ("", b"no HTTP\r\n\r\n", b"\r\n\r\nno"),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_last_words_reach_who_still_sends(port: int, name: str) -> None:
    path, data, last_words = ENDS[name]
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
        if path:
            connection.sendall(upgrade(path))
            read_until(connection, b"\r\n\r\n")
        connection.sendall(data if last_words == close_frame(1012) else data + b"x" * 500_000)
        read_until(connection, last_words)
        for _ in range(50):  # a connection that is reset takes the first of these at most
            connection.sendall(b"x" * 65536)
        assert connection.recv(65536) == b"", "the end, in order"


def is_reset(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"x" * 65536)
    except ConnectionError:
        return True
    return False


def closed_by_the_server(port: int) -> socket.socket:
    """A WebSocket whose close frame the caller has read, and not answered."""
    connection = socket.create_connection(("127.0.0.1", port), TIMEOUT)
    connection.sendall(upgrade("/"))
    read_until(connection, b"\r\n\r\n")
    connection.sendall(frame(b"close"))
    read_until(connection, close_frame(1012))
    return connection


def test_a_caller_who_closes_is_not_waited_for(port: int) -> None:
    with closed_by_the_server(port) as connection:
        connection.sendall(frame(close_frame(1012), first=0x88))
        awaited(lambda: is_reset(connection))


def test_a_caller_who_never_stops_is_reset(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_connection, "LINGER_BYTES", 1_000_000)
    with closed_by_the_server(port) as connection:
        for _ in range(14):
            assert not is_reset(connection)
        awaited(lambda: is_reset(connection))


def test_a_caller_who_never_closes_is_closed(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_connection, "LINGER_SECONDS", 0.05)
    with closed_by_the_server(port) as connection:
        awaited(lambda: is_reset(connection))


def test_a_caller_who_has_torn_the_connection_is_not_waited_for(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that knows of it, in a loop that does not yet."""

    def write_eof(transport: object) -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    monkeypatch.setattr(selector_events._SelectorSocketTransport, "write_eof", write_eof)  # type: ignore[attr-defined]
    with closed_by_the_server(port) as connection:
        awaited(lambda: is_reset(connection))


def test_scarce_descriptors_end_the_wait(port: int) -> None:
    with closed_by_the_server(port) as connection, socket.create_connection(("127.0.0.1", port), TIMEOUT) as other:
        other.sendall(b"GET /close-idle HTTP/1.1\r\nhost: localhost\r\n\r\n")
        read_until(other, b"no")
        awaited(lambda: is_reset(connection))
