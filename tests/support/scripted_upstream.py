"""An upstream that does what a test tells it to, byte for byte: a loopback server that runs a script per
request.

It is written on bare asyncio because the bytes are the point: half a header, a chunk that never comes, a
connection reset inside an event. It knows just enough HTTP/1.1 to read requests and to frame answers. What
Cohere would answer is not known here; scripts say it.

    async with ScriptedUpstream(event_stream(transcript(*events))) as upstream:
        ...  # talk to upstream.url, then look at upstream.requests

In a synchronous test: `with ScriptedUpstream(script).run_in_thread() as upstream:`.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any, Literal, Self

from support.waiting import WAIT_SECONDS

# --- scripts ------------------------------------------------------------------------------------------------

Framing = Literal["chunked", "length", "close", "none"]
HeaderItems = Mapping[str, str] | Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Head:
    """The status line and the headers, with the header that announces the framing of the body.

    With "length" and no `length`, the length is that of the script's Writes, one byte more when the script
    ends in a Cut or a Reset, so that the body really is incomplete. "none" adds nothing: for 1xx, 204, and
    headers that lie.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    framing: Framing = "chunked"
    length: int | None = None


@dataclass(frozen=True)
class Write:
    """Bytes as they are, whatever the framing. Before any Head they are the answer's first bytes."""

    data: bytes


@dataclass(frozen=True)
class Chunk:
    """Bytes as one chunk of the chunked coding. An empty one is left out: it would mean the end."""

    data: bytes


@dataclass(frozen=True)
class Pause:
    """Wait for seconds or for an event, which also keeps the bytes on both sides in separate segments."""

    until: float | asyncio.Event | Signal


@dataclass(frozen=True)
class End:
    """The proper end of the body: the last chunk, or for framing "close" the end of the connection."""


@dataclass(frozen=True)
class Cut:
    """The end of the connection (FIN) wherever the body happens to be."""


@dataclass(frozen=True)
class Reset:
    """A connection reset (RST). What the peer has not read by then may be lost to it: Pause before it."""


Step = Head | Write | Chunk | Pause | End | Cut | Reset
Script = tuple[Step, ...]


def json_answer(status: int, body: Any, headers: HeaderItems = ()) -> Script:
    """A whole JSON answer with its length; the body is an object to encode, or bytes to send as they are."""
    data = body if isinstance(body, bytes) else compact_json(body)
    return Head(status, _headers("application/json", headers), "length"), Write(data), End()


def event_stream(
    body: bytes | Iterable[bytes],
    *,
    status: int = 200,
    headers: HeaderItems = (),
    per_event: bool = False,
    between: Step | None = None,
    ending: Step | None = End(),
) -> Script:
    """A streamed answer: a raw transcript as one HTTP chunk, or as one per event, or the given pieces as they
    are cut.

    `between` is run between two chunks; `ending` is the last step, None to leave the answer open.
    """
    if isinstance(body, bytes):
        pieces = [event + b"\n\n" for event in body.split(b"\n\n") if event] if per_event else [body]
    else:
        pieces = list(body)
    steps: list[Step] = [Head(status, _headers("text/event-stream", headers), "chunked")]
    for number, piece in enumerate(pieces):
        if number and between is not None:
            steps.append(between)
        steps.append(Chunk(piece))
    if ending is not None:
        steps.append(ending)
    return tuple(steps)


def transcript(*events: Mapping[str, Any], done: bool = True) -> bytes:
    """The events in Cohere's framing: `event:` line, `data:` line, blank line; last the unnamed [DONE]."""
    parts = [b"event: %s\ndata: %s\n\n" % (event["type"].encode(), compact_json(event)) for event in events]
    return b"".join(parts) + (b"data: [DONE]\n\n" if done else b"")


def compact_json(value: Any) -> bytes:
    """JSON as Cohere's Go encoder writes it: no spaces, raw UTF-8, five characters escaped for HTML."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":  # outside strings JSON has none of them
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


def _headers(content_type: str, headers: HeaderItems) -> tuple[tuple[str, str], ...]:
    values = tuple(headers.items() if isinstance(headers, Mapping) else headers)
    if any(name.lower() == "content-type" for name, _ in values):
        return values
    return ("content-type", content_type), *values


# --- what a test sees ---------------------------------------------------------------------------------------


class Signal:
    """An event that any thread may set and any thread or loop may wait for; it remembers when it was set."""

    def __init__(self) -> None:
        self.at: float | None = None  # time.monotonic()
        self._lock = threading.Lock()
        self._set = threading.Event()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def set(self) -> None:
        with self._lock:
            if self._set.is_set():
                return
            self.at = time.monotonic()
            self._set.set()
            for loop, event in self._waiting:
                loop.call_soon_threadsafe(event.set)

    def is_set(self) -> bool:
        return self._set.is_set()

    async def wait(self) -> None:
        event = asyncio.Event()
        entry = (asyncio.get_running_loop(), event)
        with self._lock:
            if self._set.is_set():
                return
            self._waiting.append(entry)
        try:
            await event.wait()
        finally:
            with self._lock:
                self._waiting.remove(entry)  # a loop that has been closed since must not be called

    def wait_in_thread(self, timeout: float = WAIT_SECONDS) -> None:
        """Wait in a synchronous test; TimeoutError when it does not come."""
        if not self._set.wait(timeout):
            raise TimeoutError(f"not set within {timeout} s")


class Headers(Mapping[str, list[str]]):
    """Header values by name, whatever the case; a name that came twice has two values."""

    def __init__(self, items: Iterable[tuple[str, str]]) -> None:
        self.items_as_sent = tuple(items)
        self._values: dict[str, list[str]] = {}
        for name, value in self.items_as_sent:
            self._values.setdefault(name.lower(), []).append(value)

    def __getitem__(self, name: str) -> list[str]:
        return self._values[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def first(self, name: str) -> str | None:
        """The first value, or None."""
        return next(iter(self._values.get(name.lower(), ())), None)


@dataclass(frozen=True)
class Request:
    """A request as it arrived: `path` is the target with its query, `body` is free of transfer coding."""

    method: str
    path: str
    headers: Headers
    body: bytes

    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)


@dataclass(frozen=True)
class RequestRecord:
    """A request and what became of its answer: in the end one of the two signals is set.

    `closed`: the peer closed the connection before the script was over. `finished`: it was run to its last
    step, and if that ends the connection, the connection is closed: who waits for it and then makes another request
    cannot get one that is about to close.
    """

    request: Request
    closed: Signal = field(default_factory=Signal)
    finished: Signal = field(default_factory=Signal)


ScriptSource = Script | list[Script] | Callable[[Request], Script]

_NO_SCRIPT_LEFT = json_answer(500, {"message": "no script left for this request"})


class ScriptedUpstream:
    """The server: a script answers every request, a list of scripts one request each, a callable decides."""

    def __init__(self, scripts: ScriptSource, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.exchanges: list[RequestRecord] = []
        self.connections = 0  # accepted so far
        self.errors: list[Exception] = []
        self._scripts = scripts
        self._host = host
        self._tls = tls
        self._port = 0
        self._server: asyncio.Server | None = None
        self._open: set[_Connection] = set()

    @property
    def host(self) -> str:
        return self._host

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self._host}:{self._port}"

    @property
    def requests(self) -> list[Request]:
        return [exchange.request for exchange in self.exchanges]

    @property
    def closed(self) -> list[Signal]:
        """For each exchange the signal that the peer left before the script was over."""
        return [exchange.closed for exchange in self.exchanges]

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._open)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), self._host, self._port, ssl=self._tls)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        tasks = [connection.stop() for connection in tuple(self._open)]
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()
        if self.errors and error is None:
            raise ExceptionGroup("the upstream's script failed", self.errors)

    @contextmanager
    def run_in_thread(self) -> Iterator[Self]:
        """Serve from a loop in a thread of its own, for tests that are not coroutines."""
        stop, ready = Signal(), Signal()
        failures: list[BaseException] = []

        async def main() -> None:
            async with self:
                ready.set()
                await stop.wait()

        def run() -> None:
            try:
                asyncio.run(main())
            except BaseException as failure:  # brought to the test's thread below
                failures.append(failure)
            finally:
                ready.set()

        thread = threading.Thread(target=run, name="scripted upstream")
        thread.start()
        try:
            ready.wait_in_thread()
            if not failures:
                yield self
        finally:
            stop.set()
            thread.join()
        if failures:  # not reached when the test itself failed: its own error matters more
            raise failures[0]

    def script_for(self, request: Request) -> Script:
        """The script that answers this request."""
        if callable(self._scripts):
            return self._scripts(request)
        if isinstance(self._scripts, tuple):
            return self._scripts
        turn = len(self.exchanges) - 1
        if turn >= len(self._scripts):
            raise AssertionError(f"request {turn + 1} ({request.method} {request.path}), but no script left")
        return self._scripts[turn]


# --- the wire -----------------------------------------------------------------------------------------------


class _Connection(asyncio.Protocol):
    """One connection: reads requests, runs their scripts, notices at once when the peer leaves.

    A protocol and not a StreamReader: while a script runs somebody must watch for the end of the
    connection without swallowing the next request, and that is what `eof_received` is for.
    """

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self._upstream = upstream
        self._received = bytearray()
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._exchange: RequestRecord | None = None
        self._ending = False
        """The script is over and has ended the connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._upstream.connections += 1
        self._upstream._open.add(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._arrived.set()

    def eof_received(self) -> bool:
        # HTTP clients do not half-close: who stops sending has left.
        self._peer_left()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._peer_left()
        self._upstream._open.discard(self)
        # asyncio closes the socket only after this method.
        asyncio.get_running_loop().call_soon(self._over)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def stop(self) -> asyncio.Task[None]:
        """The test is over: whatever is going on here ends, and nobody is told that the peer left."""
        self._exchange = None
        self._task.cancel()
        self._transport.abort()
        return self._task

    def _peer_left(self) -> None:
        if self._exchange is not None and not self._ending:
            self._exchange.closed.set()
            self._exchange = None
        self._task.cancel()

    async def _serve(self) -> None:
        try:
            while True:
                request = await self._read_request()
                self._exchange = exchange = RequestRecord(request)
                self._upstream.exchanges.append(exchange)
                try:
                    script = self._upstream.script_for(request)
                except Exception as error:
                    # A fault of the test: answered, so that nobody hangs, and raised when the server ends.
                    self._upstream.errors.append(error)
                    script = _NO_SCRIPT_LEFT
                if not (await self._run(script) and _wants_keep_alive(request, script)):
                    self._ending = True
                    return
                self._over()
        except _BadRequest as error:
            self._upstream.errors.append(error)
        finally:
            self._transport.close()

    def _over(self) -> None:
        if self._exchange is not None:
            self._exchange.finished.set()
            self._exchange = None

    # The reading half

    async def _read_request(self) -> Request:
        head = await self._read_until(b"\r\n\r\n")
        line, *rows = head.decode("latin-1").split("\r\n")
        try:
            method, target, _ = line.split(" ")
        except ValueError:
            raise _BadRequest(f"not a request line: {line!r}") from None
        pairs = (row.partition(":") for row in rows if row)
        headers = Headers((name, value.strip()) for name, _, value in pairs)
        if (headers.first("expect") or "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return Request(method, target, headers, await self._read_body(headers))

    async def _read_body(self, headers: Headers) -> bytes:
        if (headers.first("transfer-encoding") or "").lower() == "chunked":
            body = bytearray()
            while size := int((await self._read_until(b"\r\n")).split(b";")[0], 16):
                body += await self._read_exactly(size)
                await self._read_exactly(2)
            while await self._read_until(b"\r\n") != b"\r\n":
                pass  # trailers
            return bytes(body)
        return await self._read_exactly(int(headers.first("content-length") or 0))

    async def _read_until(self, end: bytes) -> bytes:
        while (result := self._received.find(end)) < 0:
            await self._more()
        return self._take(result + len(end))

    async def _read_exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            await self._more()
        return self._take(size)

    async def _more(self) -> None:
        self._arrived.clear()
        await self._arrived.wait()

    def _take(self, size: int) -> bytes:
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    # The writing half

    async def _run(self, script: Script) -> bool:
        """Run the steps; whether the connection can serve another request."""
        framing: Framing = "none"
        for position, step in enumerate(script):
            match step:
                case Head():
                    framing = step.framing
                    await self._write(_head_bytes(step, script[position + 1 :]))
                case Write(data):
                    await self._write(data)
                case Chunk(data):
                    await self._write(b"%x\r\n%s\r\n" % (len(data), data) if data else b"")
                case Pause(until):
                    await (asyncio.sleep(until) if isinstance(until, int | float) else until.wait())
                case End() if framing == "close":
                    return False
                case End():
                    # Not awaited: the exchange is over, and a peer that leaves from here on missed nothing.
                    self._transport.write(b"0\r\n\r\n" if framing == "chunked" else b"")
                case Cut():
                    return False
                case Reset():
                    self._reset()
                    return False
        return True

    async def _write(self, data: bytes) -> None:
        self._transport.write(data)
        await self._writable.wait()

    def _reset(self) -> None:
        self._ending = True  # before the abort, which looks like a lost connection
        # A linger time of zero turns the close into a reset.
        peer = self._transport.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


class _BadRequest(Exception):
    """The peer sent what this server cannot read."""


def _head_bytes(head: Head, rest: Sequence[Step]) -> bytes:
    try:
        reason = HTTPStatus(head.status).phrase
    except ValueError:  # Cohere's 498 and 499
        reason = ""
    lines = [f"HTTP/1.1 {head.status} {reason}", *(f"{name}: {value}" for name, value in head.headers)]
    if head.framing == "chunked":
        lines.append("transfer-encoding: chunked")
    elif head.framing == "length":
        length = head.length
        if length is None:
            short = bool(rest) and isinstance(rest[-1], Cut | Reset)
            length = sum(len(step.data) for step in rest if isinstance(step, Write)) + short
        lines.append(f"content-length: {length}")
    elif head.framing == "close":
        lines.append("connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _wants_keep_alive(request: Request, script: Script) -> bool:
    text = [value.lower() for value in request.headers.get("connection", [])]
    for step in script:
        if isinstance(step, Head):
            text += [value.lower() for name, value in step.headers if name.lower() == "connection"]
    return "close" not in text
