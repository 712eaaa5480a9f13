"""A caller may send thousands of small pieces in a request, and no more: each costs as much as a large one."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from collections.abc import Iterator

import pytest

from attacks.harness import close_code, frame, head, status, until, upgrade
from gateway.server import pieces
from gateway.server.pieces import FULL_PIECE, MAX_PIECES, PIECES_PER_SECOND, PieceAllowance
from support.app import CHAT, SERVERS, Gateway, answered, gateway_over
from support.scripted_upstream import ScriptedUpstream
from support.waiting import WAIT_SECONDS

ALLOWED, MANY = int(MAX_PIECES) - 100, int(MAX_PIECES) + 1_000
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]}).encode()
TEXT, CONTINUATION, PING = 1, 0, 9


@pytest.fixture(scope="module", params=SERVERS)
def gateway(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    with ScriptedUpstream(answered("Hi")).run_in_thread() as upstream:
        with gateway_over(upstream.url, server=request.param) as gateway:
            yield gateway


@contextlib.contextmanager
def connected(gateway: Gateway) -> Iterator[socket.socket]:
    with socket.create_connection(gateway.address, WAIT_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def chunks(count: int, data: bytes) -> bytes:
    """A request whose body comes in so many chunks with these bytes, and one with the JSON."""
    start = head(CHAT).replace(b"content-length: 0\r\n", b"transfer-encoding: chunked\r\n")
    return start + b"%x\r\n%b\r\n" % (len(data), data) * count + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


def answer(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return until(connection, b"}}")


@pytest.mark.parametrize(("count", "size"), [(ALLOWED, 1), (MANY, FULL_PIECE)], ids=["thousands", "of some size"])
def test_chunks_that_are_taken(gateway: Gateway, count: int, size: int) -> None:
    with connected(gateway) as connection:
        connection.sendall(chunks(count, b" " * size))
        assert status(connection) == "200"


def test_too_many_small_chunks(gateway: Gateway) -> None:
    with connected(gateway) as connection:
        received = answer(connection, chunks(MANY, b" "))
    assert received.startswith(b"HTTP/1.1 400 ") and b"pieces of a few bytes" in received
    assert b"connection: close" in received.lower()


def test_each_request_may_have_as_many(gateway: Gateway) -> None:
    with connected(gateway) as connection:
        for _ in range(2):
            asks = chunks(ALLOWED, b" ").replace(b"connection: close\r\n", b"")
            connection.sendall(asks)
            assert until(connection, b'"finish_reason":"stop"').startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("beginning", [b"POST " + b"/" * 20, head(CHAT, length=1_000_000) + b"{"], ids=["head", "body"])
def test_too_many_small_reads(gateway: Gateway, beginning: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several bytes may come in one read: so they are sent until there is an answer."""
    monkeypatch.setattr(pieces, "MAX_PIECES", 50.0)
    monkeypatch.setattr(pieces, "PIECES_PER_SECOND", 0.0)
    with connected(gateway) as connection:
        connection.sendall(beginning)
        with contextlib.suppress(OSError):
            for _ in range(900_000):
                if select.select([connection], [], [], 0)[0]:
                    break
                connection.send(b" " if b"{" in beginning else b"/")
        received = b""
        with contextlib.suppress(ConnectionError):
            received = connection.recv(65_536)
    assert received.startswith(b"HTTP/1.1 400 ") if b"{" in beginning else not received, received


@pytest.mark.parametrize(
    "flood",
    [frame(PING, b"x") * MANY, frame(TEXT, b"x", first=0) + frame(CONTINUATION, b"x", first=0) * MANY],
    ids=["pings", "fragments"],
)
def test_too_many_small_frames(gateway: Gateway, flood: bytes) -> None:
    with connected(gateway) as connection:
        connection.sendall(upgrade())
        received = until(connection, b"\r\n\r\n")
        assert received.startswith(b"HTTP/1.1 101")
        connection.sendall(flood)
        received = received.partition(b"\r\n\r\n")[2]
        with contextlib.suppress(ConnectionError):
            while some := connection.recv(65_536):
                received += some
    assert close_code(received) == "1008"


def test_an_allowance_grows_with_time_and_with_large_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    allowance = PieceAllowance()

    def take_all() -> int:
        count = 0
        while allowance.take(0):
            count += 1
        return count

    assert take_all() == MAX_PIECES
    now[0] += 2.0
    assert abs(take_all() - 2 * PIECES_PER_SECOND) <= 2
    assert allowance.take(11 * FULL_PIECE)
    assert abs(take_all() - 10) <= 2
    now[0] += 1e6
    assert abs(take_all() - MAX_PIECES) <= 2
