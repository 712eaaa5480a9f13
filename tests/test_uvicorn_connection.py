"""A connection under uvicorn as any application sees it: responses that break the protocol, callers who stall or leave.

What bytes from a caller mean is tested on both servers at once, in test_http.py. Here the applications are small, and
do what ours does not: they fail, write another body than they announced, or write without end.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
import time
from asyncio import selector_events
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

pytest.importorskip("uvicorn")

from gateway.descriptors import AcceptLimit
from gateway.server import pieces, uvicorn_connection
from gateway.server.idle_connections import close_idle
from gateway.server.uvicorn_connection import MAX_BEGUN, MAX_BODY_BYTES, MAX_COALESCED_BYTES, MAX_PIPELINED_BYTES
from gateway.server.worker import configure, serve_application
from gateway.settings.schema import Settings, Timeouts
from support.asgi_server import ASGIApp, Message, Receive, Send, raw_request, serve
from support.process import awaited
from support.waiting import WAIT_SECONDS

Handler = Callable[[Receive, Send], Awaitable[None]]

MUCH = 8 * 1024 * 1024
"""Bytes that no socket's buffers hold."""


def head(length: int | None = None, status: int = 200) -> Message:
    headers = [] if length is None else [(b"content-length", b"%d" % length)]
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data: bytes = b"", more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


def get(path: str = "/", method: str = "GET", version: str = "1.1") -> bytes:
    return f"{method} {path} HTTP/{version}\r\nhost: a\r\n\r\n".encode()


def post(path: str, length: int) -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n".encode()


class Application:
    """Answers /echo with the request's body, everything else by the handler of that path.

    seen: what the handlers have noticed. go_on: what some of them wait for.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.loop: asyncio.AbstractEventLoop
        self.go_on: asyncio.Event
        self.handlers: dict[str, Handler] = {"/echo": self.echo, "/wait": self.wait, "/endless": self.endless}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            self.loop, self.go_on = asyncio.get_running_loop(), asyncio.Event()
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            return await send({"type": "lifespan.shutdown.complete"})
        await self.handlers[scope["path"]](receive, send)

    def release(self) -> None:
        self.loop.call_soon_threadsafe(self.go_on.set)

    async def echo(self, receive: Receive, send: Send) -> None:
        data, more = b"", True
        while more:
            message = await receive()
            data, more = data + message["body"], message["more_body"]
        await send(head(len(data)))
        await send(body(data))

    async def wait(self, receive: Receive, send: Send) -> None:
        """Reads the body only when it may go on."""
        self.seen.append("begun")
        await self.go_on.wait()
        await self.echo(receive, send)

    async def endless(self, receive: Receive, send: Send) -> None:
        """Writes until the caller has left."""
        await receive()
        await send(head())
        waiting = asyncio.ensure_future(receive())
        while not waiting.done():
            await send(body(b"x" * 65_536, more=True))
            await asyncio.sleep(0)
        self.seen.append(waiting.result()["type"])
        await send(body())


@contextmanager
def served(
    application: ASGIApp, graceful_timeout: float = WAIT_SECONDS, **timeouts: float
) -> Iterator[tuple[str, int]]:
    """The application under uvicorn, on asyncio's loop; yields host and port."""
    settings = Settings(server="uvicorn", timeouts=Timeouts(**timeouts))

    async def run(
        app: ASGIApp, listener: socket.socket, config: object, stopped: Callable[[], Awaitable[None]]
    ) -> None:
        listener.setblocking(False)
        limit = AcceptLimit(asyncio.get_running_loop(), lambda _: None, close_idle)
        await serve_application(app, listener, settings, config, stopped, limit)  # type: ignore[arg-type]

    with serve(
        lambda: application,
        configure=lambda config: configure(config, settings),
        run=run,
        graceful_timeout=graceful_timeout,
    ) as url:
        yield "127.0.0.1", int(url.rpartition(":")[2])


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
def address(application: Application) -> Iterator[tuple[str, int]]:
    with served(application) as address:
        yield address


def connected(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, WAIT_SECONDS)


def until(connection: socket.socket, wanted: bytes) -> bytes:
    received = b""
    while wanted not in received:
        some = connection.recv(65_536)
        assert some, f"the connection ended without {wanted!r}: {received!r}"
        received += some
    return received


def rest(connection: socket.socket) -> bytes:
    received = b""
    while some := connection.recv(1 << 20):
        received += some
    return received


# --- responses ----------------------------------------------------------------------------------------------

FAILED = b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 21\r\n"
FAILED += b"connection: close\r\n\r\nInternal Server Error"
BEGUN = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
LARGE = b"x" * (MAX_COALESCED_BYTES + 1)


class Bug(Exception):
    pass


RESPONSES: dict[str, tuple[list[Message | Bug], bytes]] = {
    "it fails at once": ([Bug()], FAILED),
    "it fails after the head": ([head(), Bug()], BEGUN),
    "it fails after a head with a length": ([head(5), Bug()], b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
    "it fails in the body": ([head(), body(b"ab", True), Bug()], BEGUN + b"2\r\nab\r\n"),
    "it ends in the body": ([head(), body(b"ab", True)], BEGUN + b"2\r\nab\r\n"),
    "it ends without a word": ([], b""),
    "a second head": ([head(), head()], BEGUN),
    "a body without a head": ([body(b"ab")], FAILED),
    "too much": ([head(1), body(b"ab")], b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n"),
    "too little": ([head(3), body(b"ab")], b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_a_response_that_breaks_off_ends_the_connection(
    application: Application, address: tuple[str, int], name: str
) -> None:
    """The caller must see that it is incomplete, and never take the next response for its end."""
    messages, expected = RESPONSES[name]

    async def respond(receive: Receive, send: Send) -> None:
        for message in messages:
            if isinstance(message, Bug):
                raise message
            await send(message)

    application.handlers["/"] = respond
    assert raw_request(*address, get() + get("/echo")) == expected


COMPLETE: dict[str, tuple[bytes, list[Message], bytes]] = {
    "nothing": (get(), [head(), body()], BEGUN + b"0\r\n\r\n"),
    "pieces": (
        get(),
        [head(), body(b"ab", True), body(more=True), body(b"c")],
        BEGUN + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
    ),
    "an end of its own": (get(), [head(), body(b"ab", True), body()], BEGUN + b"2\r\nab\r\n0\r\n\r\n"),
    "a large body": (get(), [head(len(LARGE)), body(LARGE)], b"content-length: %d\r\n\r\n%b" % (len(LARGE), LARGE)),
    "HEAD": (get(method="HEAD"), [head(2), body(b"ab")], b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"),
    "a status without a phrase": (get(), [head(0, 299), body()], b"HTTP/1.1 299 \r\ncontent-length: 0\r\n\r\n"),
}


@pytest.mark.parametrize("name", COMPLETE)
def test_a_complete_response_is_followed_by_the_next(
    application: Application, address: tuple[str, int], name: str
) -> None:
    request, messages, expected = COMPLETE[name]

    async def respond(receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    application.handlers["/"] = respond
    with connected(address) as connection:
        connection.sendall(request + post("/echo", 9) + b"the next.")
        assert (
            until(connection, b"the next.").partition(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n")[0].endswith(expected)
        )


def test_a_body_without_a_length_ends_with_the_connection_in_http_1_0(
    application: Application, address: tuple[str, int]
) -> None:
    async def respond(receive: Receive, send: Send) -> None:
        await send(head())
        await send(body(b"ab", more=True))
        await send(body(b"c"))

    application.handlers["/"] = respond
    assert raw_request(*address, get(version="1.0")) == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc"


# --- requests -----------------------------------------------------------------------------------------------


def test_a_body_in_pieces_and_the_next_request_in_the_last_of_them(address: tuple[str, int]) -> None:
    with connected(address) as connection, connected(address) as other:
        for data in (post("/echo", 8) + b"ab", b"cd", b"ef", b"gh" + post("/echo", 1) + b"i"):
            connection.sendall(data)
            other.sendall(post("/echo", 1) + b"!")
            until(other, b"!")  # by then this piece has been read
        received = until(connection, b"\r\n\r\ni")
    assert b"\r\n\r\nabcdefgh" in received


def test_pieces_wait_for_the_application(application: Application, address: tuple[str, int]) -> None:
    with connected(address) as connection, connected(address) as other:
        connection.sendall(post("/wait", 6))
        for data in (b"ab", b"cd", b"ef"):
            connection.sendall(data)
            other.sendall(post("/echo", 1) + b"!")
            until(other, b"!")
        application.release()
        until(connection, b"\r\n\r\nabcdef")


@pytest.mark.parametrize("length", [1, 40 * MAX_BODY_BYTES], ids=["small", "large"])
def test_who_waits_is_not_read_on_and_is_read_later(
    application: Application, address: tuple[str, int], length: int
) -> None:
    """Bodies and requests behind them wait at the caller's, and all are answered."""
    size, count = MAX_PIPELINED_BYTES, MUCH // MAX_PIPELINED_BYTES
    further = post("/echo", size) + b"." * size
    with connected(address) as connection:
        connection.sendall(post("/wait", length))
        awaited(lambda: application.seen == ["begun"])
        ends: list[None] = []

        def send() -> None:
            connection.sendall(b"x" * length + further * count)
            ends.append(None)

        thread = threading.Thread(target=send)
        thread.start()
        thread.join(0.2)
        assert not ends, f"more than {MAX_PIPELINED_BYTES} bytes are read while nobody needs them"
        application.release()
        received = b""
        while received.count(b"HTTP/1.1 200 OK") < 1 + count or not received.endswith(b"." * size):
            received += connection.recv(1 << 20)
        assert received.count(b"x") == length and received.count(b".") >= count * size
        thread.join(WAIT_SECONDS)
        assert ends


def test_a_burst_waits_for_its_turns(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_connection, "BEGUN_SECONDS", WAIT_SECONDS)
    count = 2 * MAX_BEGUN + 1
    with connected(address) as connection:
        connection.sendall((post("/echo", 1) + b"i") * count + post("/echo", 4) + b"last")
        assert until(connection, b"last").count(b"\r\n\r\ni") == count


def test_small_pieces_behind_a_request_end_the_connection_after_it(
    application: Application, address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "MAX_PIECES", 3.0)
    monkeypatch.setattr(pieces, "PIECES_PER_SECOND", 0.0)
    with connected(address) as connection, connected(address) as other:
        connection.sendall(post("/wait", 1) + b"i")
        for _ in range(5):
            connection.sendall(b"G")
            other.sendall(post("/echo", 1) + b"!")
            until(other, b"!")
        application.release()
        assert rest(connection).endswith(b"\r\n\r\ni")


# --- callers who leave, or do not read ----------------------------------------------------------------------


def test_who_leaves_is_noticed(application: Application, address: tuple[str, int]) -> None:
    async def respond(receive: Receive, send: Send) -> None:
        application.seen.append((await receive())["type"])
        application.seen.append((await receive())["type"])
        await send(head(2))
        await send(body(b"ab"))
        application.seen.append("over")

    application.handlers["/"] = respond
    with connected(address) as connection:
        connection.sendall(get())
        awaited(lambda: application.seen == ["http.request"])
    awaited(lambda: application.seen == ["http.request", "http.disconnect", "over"])


def test_who_does_not_read_is_waited_for(application: Application, address: tuple[str, int]) -> None:
    """A write waits for the caller. Who ends the connection in the middle ends the writing."""
    with connected(address) as connection:
        connection.sendall(get("/endless"))
        until(connection, b"xxx")
        size = 0
        while size < MUCH:
            size += len(connection.recv(1 << 20))
        assert application.seen == []
    awaited(lambda: application.seen == ["http.disconnect"])


@pytest.mark.parametrize("reads", [False, True], ids=["never", "for a while"])
def test_who_stops_reading_is_cut(application: Application, reads: bool) -> None:
    timeout = 0.3
    with served(application, response_write=timeout) as address, connected(address) as connection:
        connection.sendall(get("/endless"))
        until(connection, b"xxx")
        end = time.monotonic() + 3 * timeout
        while reads and time.monotonic() < end:
            assert connection.recv(1 << 20)
            assert application.seen == []
        awaited(lambda: application.seen == ["http.disconnect"])


def test_who_reads_slowly_is_not_cut(application: Application) -> None:
    """One write takes longer than the time limit, and some of it is read."""

    async def respond(receive: Receive, send: Send) -> None:
        await send(head(3 * MUCH))
        await send(body(b"x" * 3 * MUCH))

    application.handlers["/"] = respond
    with served(application, response_write=0.5) as address, connected(address) as connection:
        connection.sendall(get())
        size = 0
        while size < 3 * MUCH:
            some = connection.recv(256 * 1024)
            assert some, "it was cut"
            size += len(some)
            time.sleep(0.015)


# --- the end of a connection --------------------------------------------------------------------------------


def test_idle_time_is_counted_from_the_last_response(application: Application) -> None:
    keep_alive = 0.4
    with served(application, keep_alive=keep_alive) as address, connected(address) as connection:
        connection.sendall(post("/wait", 1) + b"i")
        time.sleep(2 * keep_alive)  # a request is no idle time, however long it takes
        application.release()
        until(connection, b"\r\n\r\ni")
        began = time.monotonic()
        time.sleep(keep_alive / 2)
        connection.sendall(post("/echo", 1) + b"j")
        assert rest(connection).endswith(b"\r\n\r\nj")
        assert time.monotonic() - began >= 1.5 * keep_alive


async def refuse(receive: Receive, send: Send) -> None:
    """Answers before the body has come."""
    await send(head(2, 413))
    await send(body(b"no"))


def is_reset(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"x" * 65_536)
    except ConnectionError:
        return True
    return False


def test_who_sends_on_after_the_answer_is_read_for_a_while(
    application: Application, address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uvicorn_connection, "LINGER_SECONDS", 10 * WAIT_SECONDS)
    monkeypatch.setattr(uvicorn_connection, "LINGER_BYTES", 1_000_000)
    application.handlers["/"] = refuse
    with connected(address) as connection:
        connection.sendall(post("/", 99_999_999))
        assert until(connection, b"no").startswith(b"HTTP/1.1 413 ")
        for _ in range(14):
            assert not is_reset(connection)
        awaited(lambda: is_reset(connection))


def test_who_has_torn_the_connection_is_not_waited_for(
    application: Application, address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that knows of it, in a loop that does not yet."""

    def write_eof(transport: object) -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    monkeypatch.setattr(uvicorn_connection, "LINGER_SECONDS", 10 * WAIT_SECONDS)
    monkeypatch.setattr(selector_events._SelectorSocketTransport, "write_eof", write_eof)  # type: ignore[attr-defined]
    application.handlers["/"] = refuse
    with connected(address) as connection:
        connection.sendall(post("/", 99_999_999))
        awaited(lambda: is_reset(connection))


@pytest.mark.parametrize("reset", [False, True], ids=["in time", "too late"])
def test_a_stop_lets_a_response_end(application: Application, reset: bool) -> None:
    """In the graceful time; then it is cut."""
    server = served(application, graceful_timeout=0.1 if reset else WAIT_SECONDS)
    address = server.__enter__()
    with connected(address) as connection:
        connection.sendall(post("/wait", 1) + b"i")
        awaited(lambda: application.seen == ["begun"])
        stopping = threading.Thread(target=server.__exit__, args=(None, None, None))
        stopping.start()
        if not reset:
            awaited(lambda: is_refused(address))
            application.release()
        received = rest(connection)
        assert received == b"" if reset else b"connection: close\r\n" in received and received.endswith(b"\r\n\r\ni")
        stopping.join(WAIT_SECONDS)
    assert not stopping.is_alive()


def is_refused(address: tuple[str, int]) -> bool:
    try:
        connected(address).close()
    except ConnectionError:
        return True
    return False
