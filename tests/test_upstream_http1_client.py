"""The HTTP/1.1 client by itself: connections, addresses, and what a server may send around a response.

What callers see when it fails is the fault matrix (test_faults.py), what it sends is in test_serve_connector.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import socket
import zlib
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream import http1_client
from gateway.upstream.http1_client import Broken, Http1Client, Response, Unreachable, encode_head
from support.scripted_upstream import (
    Chunk,
    Cut,
    End,
    Head,
    Pause,
    Reset,
    Script,
    ScriptedUpstream,
    Write,
    json_answer,
)
from support.waiting import WAIT_SECONDS

OK = json_answer(200, {"fine": True})
LIMIT = 1_000


async def ask(client: Http1Client, body: bytes = b"", decoded: bool = True, streamed: bool = True) -> Response:
    head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body)
    return await client.request(head, body, client.loop.time() + 10, LIMIT, decoded, streamed=streamed)


async def whole(client: Http1Client, **options: Any) -> bytes:
    response = await ask(client, **options)
    try:
        return await response.content.read()
    finally:
        response.release()


def over(script: Script, check: Callable[[Http1Client, ScriptedUpstream], Awaitable[None]]) -> None:
    """Runs `check` with a client of a server that answers each request so."""

    async def main() -> None:
        async with ScriptedUpstream(script) as upstream:
            client = Http1Client("127.0.0.1", int(upstream.url.rpartition(":")[2]), None, 5)
            await check(client, upstream)
            await client.close()

    asyncio.run(main())


def test_one_connection_serves_calls_in_sequence() -> None:
    async def check(client: Http1Client, upstream: ScriptedUpstream) -> None:
        for _ in range(3):
            assert await whole(client) == b'{"fine":true}'
        assert upstream.open_connections == 1

    over(OK, check)


def test_informational_responses_come_before_the_response() -> None:
    hints = Write(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")

    async def check(client: Http1Client, upstream: ScriptedUpstream) -> None:
        response = await ask(client)
        assert (response.status, response.headers.get("link", "")) == (200, "")
        assert (b"content-type", b"application/json") in response.raw_headers
        assert await response.content.read() == b'{"fine":true}'

    over((hints, *OK), check)


@pytest.mark.parametrize("later", [False, True], ids=["at once", "while idle"])
def test_a_response_behind_the_response_is_nobodys(later: bool) -> None:
    second = Write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
    body = b'{"fine":true}'
    script: Script = (
        Head(200, (), "length", len(body)),
        Write(body),
        *([Pause(0.02)] if later else []),
        second,
        Pause(5.0),
    )

    async def check(client: Http1Client, upstream: ScriptedUpstream) -> None:
        for number in range(2):
            assert await whole(client) == b'{"fine":true}'
            while not upstream.closed or not upstream.closed[number].is_set():
                await asyncio.sleep(0.005)

    over(script, check)


def test_a_body_beside_its_head_leaves_room_for_trailers() -> None:
    """A body in the same read as its head counted as bytes of the head, and then one trailer was too many."""

    async def check(client: Http1Client, upstream: ScriptedUpstream) -> None:
        assert len(await whole(client, streamed=False)) == 200_000

    answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n30d40\r\n" + b"x" * 200_000
    over((Write(answer + b"\r\n0\r\nx-later: y\r\n\r\n"),), check)


def test_trailers_are_no_headers_and_are_bounded() -> None:
    trailers = b"x-later: " + b"y" * 1_000 + b"\r\n"

    async def check(client: Http1Client, upstream: ScriptedUpstream) -> None:
        with pytest.raises(Broken):
            await whole(client)

    over((Head(200), Chunk(b"x"), Write(b"0\r\n" + trailers * 100 + b"\r\n")), check)


def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1_client, "IDLE_SECONDS", 0.02)

    async def check(client: Http1Client, upstream: ScriptedUpstream) -> None:
        await asyncio.gather(*(whole(client) for _ in range(3)))
        while upstream.open_connections:
            await asyncio.sleep(0.005)
        assert await whole(client) == b'{"fine":true}'

    over(OK, check)


def test_new_connections_go_where_the_name_points_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1_client, "DNS_SECONDS", 0.0)

    async def main() -> None:
        async with ScriptedUpstream(OK) as before, ScriptedUpstream(OK) as after:
            client = Http1Client("cohere.invalid", 1, None, 5)
            pointing = before
            resolve = client.loop.getaddrinfo

            async def moved(host: str, port: int, **options: Any) -> Any:
                assert host == "cohere.invalid"
                return await resolve("127.0.0.1", int(pointing.url.rpartition(":")[2]), **options)

            monkeypatch.setattr(client.loop, "getaddrinfo", moved)
            await whole(client)
            pointing = after
            await whole(client)
            assert (len(before.requests), len(after.requests)) == (2, 0), "an open connection is used on"
            first, _ = await asyncio.gather(ask(client), whole(client))
            first.close()
            assert len(after.requests) == 1
            await client.close()

    asyncio.run(main())


def test_the_name_is_looked_up_once_for_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(client: Http1Client, upstream: ScriptedUpstream) -> None:
        count, resolve = 0, client.loop.getaddrinfo

        async def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            return await resolve(*arguments, **options)

        monkeypatch.setattr(client.loop, "getaddrinfo", counted)
        await asyncio.gather(*(whole(client) for _ in range(20)))
        assert count == 1

    over(OK, check)


def test_a_large_body_is_not_sent_on_once_it_is_refused() -> None:
    body, refused = bytes(50_000_000), asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\n{}")
        await refused.wait()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        client = Http1Client("127.0.0.1", server.sockets[0].getsockname()[1], None, 5)
        response = await ask(client, body)
        assert (response.status, await response.content.read()) == (413, b"{}")
        response.release()
        assert not response._connection.usable, "the rest of the body is missing on it"
        refused.set()
        await client.close()
        server.close()

    asyncio.run(main())


@pytest.mark.parametrize("packed", [gzip.compress, zlib.compress], ids=["gzip", "deflate"])
def test_no_more_is_unpacked_than_is_read(packed: Callable[[bytes], bytes]) -> None:
    data = bytes(5_000_000)
    encoding = "gzip" if packed is gzip.compress else "deflate"

    async def check(client: Http1Client, upstream: ScriptedUpstream) -> None:
        response = await ask(client)
        pieces = []
        while piece := await response.content.read(8_192):
            assert len(piece) <= 8_192
            pieces.append(piece)
        assert b"".join(pieces) == data
        response.release()
        raw = await whole(client, decoded=False)
        assert len(raw) < 10_000

    over(json_answer(200, packed(data), {"content-encoding": encoding}), check)


def test_a_packed_body_is_read_whole() -> None:
    data = bytes(range(256)) * 40

    async def check(client: Http1Client, upstream: ScriptedUpstream) -> None:
        assert len(data) > LIMIT and await whole(client) == data

    over(json_answer(200, gzip.compress(data), {"content-encoding": "gzip"}), check)


def test_pieces_come_as_they_are_asked_for() -> None:
    async def check(client: Http1Client, upstream: ScriptedUpstream) -> None:
        content = (await ask(client)).content
        while not content.complete:
            await asyncio.sleep(0.001)
        assert [content.read_nowait(2), content.read_nowait(3), content.read_nowait(100)] == [b"ab", b"cde", b"fgh"]
        assert content.at_eof() and content.read_nowait(1) == b"" == await content.read(5)

    over((Head(200), Chunk(b"ab"), Chunk(b"cdefg"), Chunk(b"h"), End()), check)


@given(st.lists(st.binary(min_size=1, max_size=9), max_size=9), st.lists(st.integers(1, 12), min_size=1, max_size=9))
def test_a_body_is_read_in_any_pieces(pieces: list[bytes], counts: list[int]) -> None:
    body = http1_client.Body(None, 1 << 20, None)  # type: ignore[arg-type] # too little to pause a connection
    for piece in pieces:
        body.feed([piece])
    received = []
    for count in itertools.cycle(counts):
        received.append(body.read_nowait(count))
        if not received[-1]:
            break
        assert len(received[-1]) <= count
    assert b"".join(received) == b"".join(pieces)


class Reading:
    """What a body tells its connection."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")


PAUSES: list[tuple[tuple[int, ...], list[str]]] = [
    ((20,), []),
    ((21,), ["pause"]),
    ((21, 5), ["pause"]),
    ((21, -11), ["pause"]),
    ((21, -12), ["pause", "resume"]),
    ((21, -12, -9), ["pause", "resume"]),
    ((21, -12, 11), ["pause", "resume"]),
    ((21, -12, 12), ["pause", "resume", "pause"]),
]
"""Bytes that come, or with a minus are taken, with a limit of ten; and what the connection is told."""


@pytest.mark.parametrize(("steps", "calls"), PAUSES)
def test_reading_pauses_while_much_waits(steps: tuple[int, ...], calls: list[str]) -> None:
    connection = Reading()
    body = http1_client.Body(connection, 10, None)  # type: ignore[arg-type]
    for count in steps:
        if count > 0:
            body.feed([bytes(count)])
        else:
            assert len(body.read_nowait(-count)) == -count
    assert connection.calls == calls


def body_of(*pieces: bytes) -> http1_client.Body:
    body = http1_client.Body(None, 1 << 20, None)  # type: ignore[arg-type] # too little to pause a connection
    for piece in pieces:
        body.feed([piece])
    return body


@pytest.mark.parametrize(
    ("happens", "outcome"),
    [
        (lambda body: body.feed_eof(), b""),
        (lambda body: body.fail(Broken("broken")), Broken),
        (lambda body: body.set_exception(TimeoutError()), TimeoutError),
        (lambda body: (body.feed([b"more"]), body.wake()), b"more"),
    ],
    ids=["its end", "a break", "a deadline", "more"],
)
@pytest.mark.asyncio
async def test_who_reads_is_woken(happens: Callable[[http1_client.Body], object], outcome: Any) -> None:
    body = body_of()
    reading = asyncio.create_task(body.read(10))
    await asyncio.sleep(0)
    assert not reading.done()
    happens(body)
    if isinstance(outcome, bytes):
        assert await reading == outcome
    else:
        with pytest.raises(outcome):
            await reading


def test_what_came_before_a_break_is_read() -> None:
    body = body_of(b"ab")
    body.fail(Broken("first"))
    body.fail(OSError("second"))
    assert (body.read_nowait(1), body.read_nowait(9), body.at_eof(), body.complete) == (b"a", b"b", False, False)
    with pytest.raises(Broken, match="first"):
        body.read_nowait(1)


def test_a_break_behind_the_end_does_not_matter() -> None:
    body = body_of(b"ab")
    body.feed_eof()
    body.fail(Broken("late"))
    assert (body.is_eof(), body.at_eof(), body.read_nowait(), body.at_eof()) == (True, False, b"ab", True)
    assert body.read_nowait() == b""


def test_a_deadline_discards_what_waits() -> None:
    body = body_of(b"ab")
    body.feed_eof()
    body.set_exception(TimeoutError())
    assert not body.complete and not body.at_eof()
    with pytest.raises(TimeoutError):
        body.read_nowait()


@pytest.mark.asyncio
async def test_a_body_that_has_failed_does_not_go_on() -> None:
    """What comes later would follow a gap, and its end would look like that of a whole body."""
    body = body_of(b"ab")
    body.set_exception(TimeoutError())
    body.feed([b"cd"])
    with pytest.raises(TimeoutError):
        body.read_nowait(9)
    body.feed_eof()
    assert not (body.complete or body.is_eof() or body.at_eof())
    for read in (body.read(9), body.read(), body.readany()):
        with pytest.raises(TimeoutError):
            await read


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize(
    ("headers", "line"),
    [
        ([("x-a", "1{end}x-b: 2")], "GET / HTTP/1.1"),
        ([("x-a{end}x-b", "1")], "GET / HTTP/1.1"),
        ([], "GET /{end}x HTTP/1.1"),
        ([("x-a", "1{end}")], ""),
    ],
)
def test_a_line_of_a_head_has_no_line_end(headers: list[tuple[str, str]], line: str, end: str) -> None:
    pairs = [(name.format(end=end), value.format(end=end)) for name, value in headers]
    with pytest.raises(ValueError):
        encode_head(pairs, line.format(end=end))


def test_a_head_is_made_of_its_lines() -> None:
    assert (
        encode_head([("host", "a"), ("x", "ü")], "GET / HTTP/1.1")
        == "GET / HTTP/1.1\r\nhost: a\r\nx: ü\r\n\r\n".encode()
    )
    assert encode_head([("x", "1")]) == b"x: 1\r\n\r\n" and encode_head([]) == b"\r\n"


def test_each_call_has_its_own_time_for_the_head_on_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """One timer serves the calls of a connection: it neither ends a later call early nor lets a shorter one wait."""

    async def check(client: Http1Client, upstream: ScriptedUpstream) -> None:
        request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
        now, started = client.loop.time(), 0
        call_at = client.loop.call_at

        def counting(*arguments: Any, **options: Any) -> asyncio.TimerHandle:
            nonlocal started
            started += 1
            return call_at(*arguments, **options)

        connection = await client._connect(now + 60)
        monkeypatch.setattr(client.loop, "call_at", counting)
        for seconds in (60.0, 70.0, 80.0):
            response = await connection.request(request, b"", now + seconds, LIMIT, True, True)
            assert await response.content.read() == b'{"fine":true}'
            connection._in_use = True
        assert started == 1
        waiting = asyncio.ensure_future(connection.request(request, b"", now + 90.0, LIMIT, True, True))
        await asyncio.sleep(0)
        connection._on_timer()  # that of the first call
        assert not waiting.done()
        assert await (await waiting).content.read() == b'{"fine":true}'
        with pytest.raises(TimeoutError):
            await connection.request(request, b"", client.loop.time(), LIMIT, True, True)

    over(OK, check)


# --- which connections are kept, and which are left -------------------------------------------------------------


async def let_go(client: Http1Client, upstream: ScriptedUpstream) -> None:
    """Waits until no connection is left, on either side."""
    async with asyncio.timeout(WAIT_SECONDS):
        while upstream.open_connections or client._all:
            await asyncio.sleep(0.005)


def test_a_connection_that_is_given_back_twice_serves_one_call_at_a_time() -> None:
    """Else two callers would read from it, and one of them the other's answer."""

    async def check(client: Http1Client, upstream: ScriptedUpstream) -> None:
        response = await ask(client)
        await response.content.read()
        response.release()
        response.release()
        first, second = await ask(client), await ask(client)
        assert first._connection is not second._connection
        for one in (first, second):
            assert await one.content.read() == b'{"fine":true}'
            one.release()

    over(OK, check)


CLOSING: dict[str, Script] = {
    "it says so": (*json_answer(200, {"fine": True}, {"connection": "close"})[:-1], Pause(60.0)),
    "no length": (Head(200, (), "close"), Write(b'{"fine":true}'), End()),
    "garbage behind it": (Head(200, (), "length", 13), Write(b'{"fine":true}garbage'), Pause(60.0)),
}


@pytest.mark.parametrize("script", CLOSING.values(), ids=CLOSING)
def test_a_connection_that_ends_with_its_response_is_not_used_again(script: Script) -> None:
    async def check(client: Http1Client, upstream: ScriptedUpstream) -> None:
        for _ in range(3):
            assert await whole(client) == b'{"fine":true}'
            await let_go(client, upstream)
        assert len(upstream.requests) == 3

    over(script, check)


@pytest.mark.parametrize("status", [204, 304])
def test_a_response_without_a_body_leaves_its_connection_open(status: int) -> None:
    async def check(client: Http1Client, upstream: ScriptedUpstream) -> None:
        for _ in range(3):
            assert await whole(client) == b""
        assert upstream.open_connections == 1

    over((Head(status, (), "none"), End()), check)


@pytest.mark.parametrize("ending", [Cut(), Reset()], ids=["cut", "reset"])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_body_that_breaks_off_is_an_error(framing: Any, ending: Cut | Reset) -> None:
    """But one whose end is that of its connection, where that is closed in order."""

    async def check(client: Http1Client, upstream: ScriptedUpstream) -> None:
        response = await ask(client)
        if framing == "close" and isinstance(ending, Cut):
            assert await response.content.read() == b"some"
        else:
            assert await response.content.read(4) == b"some"
            with pytest.raises((Broken, OSError)):
                await response.content.read()
        response.release()
        await let_go(client, upstream)

    piece = Chunk(b"some") if framing == "chunked" else Write(b"some")
    over((Head(200, (), framing, 9 if framing == "length" else None), piece, Pause(0.05), ending), check)


def test_what_came_before_nonsense_is_read() -> None:
    async def check(client: Http1Client, upstream: ScriptedUpstream) -> None:
        response = await ask(client)
        assert await response.content.read(9) == b"some"
        with pytest.raises(Broken, match="not HTTP"):
            await response.content.read()
        response.release()
        await let_go(client, upstream)

    over((Head(200), Write(b"4\r\nsome\r\nnonsense\r\n"), Pause(60.0)), check)


@pytest.mark.parametrize("start", [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 80_000])
def test_no_head_comes_of_what_is_none(start: bytes) -> None:
    """What is no HTTP, and what has no end."""

    async def check(client: Http1Client, upstream: ScriptedUpstream) -> None:
        with pytest.raises(Broken):
            await ask(client)
        await let_go(client, upstream)

    over((Write(start), Pause(60.0)), check)


def test_the_bound_of_a_head_is_that_of_one_head() -> None:
    """Those of earlier responses on its connection do not count."""

    async def check(client: Http1Client, upstream: ScriptedUpstream) -> None:
        for _ in range(4):
            assert await whole(client) == b'{"fine":true}'
        assert upstream.open_connections == 1

    over(json_answer(200, {"fine": True}, {"x-long": "y" * 30_000}), check)


def test_a_caller_who_leaves_takes_the_connection_along() -> None:
    async def check(client: Http1Client, upstream: ScriptedUpstream) -> None:
        waiting = asyncio.create_task(ask(client))
        while not upstream.requests:
            await asyncio.sleep(0.005)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await let_go(client, upstream)

    over((Pause(60.0), *OK), check)


def test_nothing_is_left_of_a_connection_that_the_server_closes() -> None:
    """Neither in the list of all connections nor as a timer, which would hold it until its last deadline."""

    async def check(client: Http1Client, upstream: ScriptedUpstream) -> None:
        response = await ask(client)
        assert await response.content.read() == b'{"fine":true}'
        response.release()
        connection, timer = response._connection, response._connection._timer
        connection.connection_lost(None)
        assert not client._all and timer is not None and timer.cancelled()
        connection.transport.abort()

    over(OK, check)


def test_a_large_body_waits_for_a_slow_server() -> None:
    """And the request counts as sent when all of it was handed on, no sooner."""
    body, reading, ended = bytes(range(256)) * 80_000, asyncio.Event(), asyncio.Event()
    received: list[bytes] = []

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reading.wait()
        received.append(await reader.readexactly(len(body)))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        ended.set()

    async def main() -> None:
        server = await asyncio.start_server(slow, "127.0.0.1", 0)
        client = Http1Client("127.0.0.1", server.sockets[0].getsockname()[1], None, 5)
        exchange = SimpleNamespace(is_sent=False)
        head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body)
        sending = asyncio.create_task(client.request(head, body, client.loop.time() + 60, LIMIT, True, True, exchange))
        while not any(connection._writable for connection in client._all):
            await asyncio.sleep(0.005)
        assert not exchange.is_sent
        reading.set()
        response = await sending
        assert (exchange.is_sent, await response.content.read(), received == [body]) == (True, b"{}", True)
        response.release()
        await ended.wait()
        await client.close()
        server.close()

    asyncio.run(main())


def test_a_name_that_was_not_found_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that was found is not, for a while."""

    async def check(client: Http1Client, upstream: ScriptedUpstream) -> None:
        outcomes: list[bool] = [False, True]
        resolve = client.loop.getaddrinfo

        async def look_up(*arguments: Any, **options: Any) -> Any:
            if not outcomes.pop(0):
                raise socket.gaierror(socket.EAI_NONAME, "not known")
            return await resolve(*arguments, **options)

        monkeypatch.setattr(client.loop, "getaddrinfo", look_up)
        with pytest.raises(Unreachable):
            await ask(client)
        for _ in range(3):
            (await ask(client)).close()
        assert not outcomes and len(upstream.requests) == 3

    over(OK, check)


def test_who_leaves_while_the_name_is_looked_up_leaves_the_others_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(client: Http1Client, upstream: ScriptedUpstream) -> None:
        begun, resolved, resolve = asyncio.Event(), asyncio.Event(), client.loop.getaddrinfo

        async def look_up(*arguments: Any, **options: Any) -> Any:
            begun.set()
            await resolved.wait()
            return await resolve(*arguments, **options)

        monkeypatch.setattr(client.loop, "getaddrinfo", look_up)
        leaves, stays = asyncio.create_task(ask(client)), asyncio.create_task(whole(client))
        await begun.wait()
        leaves.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaves
        resolved.set()
        assert await stays == b'{"fine":true}'

    over(OK, check)
