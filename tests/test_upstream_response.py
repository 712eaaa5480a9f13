"""A response of Cohere's by itself: its deadlines in a time that the test sets, its bounds, and its end."""

from __future__ import annotations

import asyncio
import errno
import gzip
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from gateway.errors import UpstreamError
from gateway.memory_budget import MemoryBudget
from gateway.settings.schema import MemorySettings
from gateway.upstream import response as upstream_response
from gateway.upstream.http1_client import Body, Broken, ConnectTimeout, Headers, Unreachable
from gateway.upstream.response import MAX_CHUNK_BYTES, ProxyRequest, UpstreamResponse

START = 1_000.0
REQUEST = ProxyRequest("GET", "/v1/datasets", (), None)


class Raw:
    """A response as the HTTP client has it. `ending`: what became of its connection."""

    def __init__(self, status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = (), body: bytes = b"") -> None:
        self.status, self.headers, self.raw_headers, self.ending = status, Headers(headers), headers, ""
        self.content = Body(None, 1 << 30, None)  # type: ignore[arg-type] # too little comes to pause a connection
        if body:
            self.content.feed([body])
            self.content.feed_eof()

    def release(self) -> None:
        self.ending += "kept"

    def close(self) -> None:
        self.ending += "cut"

    def send(self, data: bytes) -> None:
        self.content.feed([data])
        self.content.wake()


async def turns() -> None:
    """Lets happen what is due."""
    for _ in range(6):
        await asyncio.sleep(0)


class Clock:
    """The loop's time, which passes when a test says so."""

    def __init__(self) -> None:
        self.now = START

    async def pass_until(self, when: float) -> None:
        """Lets half a second pass at a time, and whatever is due then happen."""
        while self.now < when:
            self.now += 0.5
            await turns()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[Clock], Any]], None]]:
    """Runs a coroutine function in a loop with a clock."""

    def run(check: Callable[[Clock], Any]) -> None:
        async def main() -> None:
            clock = Clock()
            monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock.now)
            await check(clock)

        asyncio.run(main())

    yield run


async def fails_at(clock: Clock, response: UpstreamResponse) -> float:
    """Reads on, and returns when that fails because nothing comes."""
    reading = asyncio.create_task(response.read_chunk())
    await asyncio.sleep(0)
    while not reading.done():
        assert clock.now < START + 1_000, "it waits for ever"
        await clock.pass_until(clock.now + 0.5)
    with pytest.raises(UpstreamError) as caught:
        await reading
    assert caught.value.failure.code == "upstream_timeout"
    return clock.now


async def read_at(clock: Clock, raw: Raw, response: UpstreamResponse, when: float) -> None:
    """Waits for a chunk that comes at this time."""
    reading = asyncio.create_task(response.read_chunk())
    await asyncio.sleep(0)
    await clock.pass_until(when)
    assert not reading.done()
    raw.send(b"more")
    assert await reading == b"more"


Run = Callable[[Callable[[Clock], Any]], None]


@pytest.mark.parametrize(("first", "last", "expected"), [(10, 100, 10), (10, 4, 4), (10, math.inf, 10)])
def test_the_first_chunk_has_its_own_time_and_no_more_than_all(
    run: Run, first: float, last: float, expected: float
) -> None:
    async def check(clock: Clock) -> None:
        response = UpstreamResponse(Raw(), START + first, 5, START + last)
        assert await fails_at(clock, response) == START + expected
        response.close()

    run(check)


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize(("last", "expected"), [(100, 5), (math.inf, 5), (8, 4)])
def test_each_further_chunk_has_a_time_that_begins_with_its_read(
    run: Run, waits: bool, last: float, expected: float
) -> None:
    """Whether the first was waited for or was here already: its own time does not matter any more."""

    async def check(clock: Clock) -> None:
        raw = Raw()
        response = UpstreamResponse(raw, START + 50, 5, START + last)
        if waits:
            await read_at(clock, raw, response, START + 4)
        else:
            raw.send(b"first")
            assert await response.read_chunk() == b"first"
            await clock.pass_until(START + 4)
        assert await fails_at(clock, response) == START + 4 + expected
        response.close()

    run(check)


def test_the_timer_of_an_earlier_read_fails_no_later_one(run: Run) -> None:
    async def check(clock: Clock) -> None:
        raw = Raw()
        response = UpstreamResponse(raw, START + 10, 5)
        for when in (9, 12, 16.5, 21, 25):
            await read_at(clock, raw, response, START + when)
        assert await fails_at(clock, response) == START + 30
        response.close()

    run(check)


def test_a_slow_caller_is_bounded_by_the_time_for_all_and_by_nothing_else(run: Run) -> None:
    async def check(clock: Clock) -> None:
        raw = Raw()
        response = UpstreamResponse(raw, START + 10, 5, START + 60)
        await read_at(clock, raw, response, START + 1)
        await clock.pass_until(START + 55)
        raw.send(b"late")
        assert await response.read_chunk() == b"late"
        raw.send(b"lost")
        await clock.pass_until(START + 70)
        raw.send(b"too late")  # it would follow a gap
        raw.content.feed_eof()
        for _ in range(2):
            with pytest.raises(UpstreamError):
                await response.read_chunk()
        assert not response.at_eof
        response.close()
        assert raw.ending == "cut"

    run(check)


def test_nothing_is_due_any_more_once_it_is_closed(run: Run) -> None:
    async def check(clock: Clock) -> None:
        raw = Raw()
        closed: list[UpstreamResponse] = []
        response = UpstreamResponse(raw, START + 10, 5)
        response.on_close = closed.append
        await read_at(clock, raw, response, START + 1)
        response.close()
        response.close()
        assert (closed, raw.ending) == ([response], "cutcut"), "told once"
        await clock.pass_until(START + 100)
        raw.send(b"whole")
        assert raw.content.read_nowait() == b"whole", "no timer has failed it"

    run(check)


class Upload:
    """A body that is sent while it arrives."""

    failure = None

    def __init__(self, complete: bool) -> None:
        self.complete = complete

    def __aiter__(self) -> Any:
        raise AssertionError


@pytest.mark.parametrize(
    ("body", "read", "ending"),
    [
        (None, True, "kept"),
        (b"all", True, "kept"),
        (Upload(True), True, "kept"),
        (Upload(False), True, "cut"),  # the rest of it would be the next request
        (None, False, "cut"),
        (Upload(True), False, "cut"),
    ],
)
@pytest.mark.asyncio
async def test_a_connection_is_kept_where_both_bodies_are_at_their_end(body: Any, read: bool, ending: str) -> None:
    raw = Raw(body=b"data")
    response = UpstreamResponse(raw, math.inf, 5, math.inf, ProxyRequest("POST", "/v1/datasets", (), body))
    if read:
        assert await response.read_chunk() == b"data"
    response.close()
    assert raw.ending == ending


@pytest.mark.asyncio
async def test_an_answer_that_ends_before_it_begins_is_an_error_unless_it_may_be_empty() -> None:
    for forwarded in (None, REQUEST):
        raw = Raw()
        raw.content.feed_eof()
        response = UpstreamResponse(raw, math.inf, 5, math.inf, forwarded)
        if forwarded is None:
            with pytest.raises(UpstreamError, match="ended before it began") as caught:
                await response.read_first_chunk()
            assert caught.value.cause == "cut", "it is tried again"
        else:
            await response.read_first_chunk()
            assert await response.read_chunk() == b""
        response.close()


@pytest.mark.asyncio
async def test_the_first_chunk_is_read_once_more_and_the_end_is_behind_it() -> None:
    raw = Raw(body=b"x" * (MAX_CHUNK_BYTES + 3))
    response = UpstreamResponse(raw, math.inf, 5)
    await response.read_first_chunk()
    assert not response.at_eof
    assert [len(await response.read_chunk()) for _ in range(3)] == [MAX_CHUNK_BYTES, 3, 0]
    assert response.at_eof
    response.close()


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("arrived", [False, True])
@pytest.mark.asyncio
async def test_a_body_is_read_as_often_as_wanted(first: bool, arrived: bool) -> None:
    raw = Raw()
    raw.send(b"be")
    response = UpstreamResponse(raw, math.inf, 5)
    if first:
        await response.read_first_chunk()
    asyncio.get_running_loop().call_soon(raw.send, b"hind")
    asyncio.get_running_loop().call_soon(raw.content.feed_eof)
    if arrived:
        await turns()
    assert [await response.read_body(), await response.read_body()] == [b"behind", b"behind"]
    assert not response.at_eof
    assert [await response.read_chunk(), await response.read_chunk()] == [b"behind", b""]
    assert response.at_eof
    response.close()


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("ending", ["whole", "broken", "too large"])
@pytest.mark.asyncio
async def test_a_body_that_is_gathered_takes_memory_unless_it_is_given_up(status: int, ending: str) -> None:
    budget = MemoryBudget(MemorySettings(max_bytes=1_000_000 if ending != "too large" else 100_000, caller_share=1.0))
    raw = Raw(status)
    raw.send(b"x" * 150_000)
    end = raw.content.feed_eof if ending == "whole" else partial(raw.content.fail, Broken("it broke"))
    asyncio.get_running_loop().call_soon(end)
    response = UpstreamResponse(raw, math.inf, 5)
    response.memory = budget.request()
    read = response.read_body if status == 200 else response.error_body
    if ending == "whole":
        assert len(await read()) == budget.held == 150_000
    elif status == 200:
        with pytest.raises(UpstreamError, match="broke before" if ending == "broken" else "more than the 100000 bytes"):
            await read()
        assert budget.held == 0
    else:
        assert (await read(), budget.held) == (b"", 0), "the status has said enough"
    response.close()


@pytest.mark.parametrize("error", [Broken("it broke"), ConnectionResetError(), upstream_response.Interrupted()])
@pytest.mark.asyncio
async def test_what_breaks_behind_the_last_event_does_not_matter(error: Exception) -> None:
    raw = Raw()
    asyncio.get_running_loop().call_soon(raw.content.set_exception, error)
    response = UpstreamResponse(raw, math.inf, 5)
    await response.drain()
    response.close()
    assert raw.ending == "cut"


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("arrived", [False, True])
@pytest.mark.asyncio
async def test_an_empty_body_is_at_its_end_when_it_was_read(status: int, arrived: bool) -> None:
    raw = Raw(status)
    if arrived:
        raw.content.feed_eof()
    else:
        asyncio.get_running_loop().call_soon(raw.content.feed_eof)
    response = UpstreamResponse(raw, math.inf, 5, math.inf, REQUEST)
    assert await (response.read_body() if status == 200 else response.error_body()) == b""
    assert response.at_eof and await response.read_chunk() == b""
    response.close()


@pytest.mark.parametrize("size", [10, 11])
@pytest.mark.asyncio
async def test_the_bound_of_a_body(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(upstream_response, "MAX_RESPONSE_BYTES", 10)
    raw = Raw()
    raw.send(b"x" * size)
    asyncio.get_running_loop().call_soon(raw.content.feed_eof)
    response = UpstreamResponse(raw, math.inf, 5)
    if size > 10:
        with pytest.raises(UpstreamError, match="too large"):
            await response.read_body()
    else:
        assert await response.read_body() == b"x" * size
    response.close()


@pytest.mark.asyncio
async def test_an_error_whose_body_breaks_off_is_told_by_its_status_and_passed_on_as_it_came() -> None:
    raw = Raw(500)
    raw.send(b'{"message": "no')
    asyncio.get_running_loop().call_soon(raw.content.fail, Broken("it broke"))
    response = UpstreamResponse(raw, math.inf, 5, math.inf, REQUEST)
    assert [await response.error_body(), await response.error_body()] == [b"", b""]
    assert (await response.failure(True)).status >= 500
    assert await response.read_chunk() == b'{"message": "no'
    assert not response.at_eof
    with pytest.raises(UpstreamError):
        await response.read_chunk()
    response.close()
    assert raw.ending == "cut"


@pytest.mark.parametrize("coding", [b"gzip", b"GZIP", b"br", b""])
@pytest.mark.asyncio
async def test_a_packed_error_is_read_and_passed_on_packed(coding: bytes) -> None:
    text = b'{"message": "no"}'
    packed = gzip.compress(text) if coding.lower() == b"gzip" else text
    raw = Raw(400, ((b"content-encoding", coding),), packed)
    response = UpstreamResponse(raw, math.inf, 5, math.inf, REQUEST)
    assert [await response.error_body(), await response.read_chunk()] == [text, packed]
    response.close()
    raw = Raw(400, ((b"content-encoding", b"gzip"),), b"not packed")
    response = UpstreamResponse(raw, math.inf, 5, math.inf, REQUEST)
    assert [await response.error_body(), await response.read_chunk()] == [b"", b"not packed"]
    response.close()


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"abc 1", "abc 1"), (b"a\x01b", ""), (b"a\tb", ""), ("\u00e9".encode(), ""), (b"\xff", "")],
)
def test_a_header_that_could_forge_a_line_is_not_shown(value: bytes, expected: str) -> None:
    headers = ((b"x-debug-trace-id", value), (b"x-other", b"1"))
    response = UpstreamResponse(Raw(200, headers), math.inf, 5)
    assert (response.header("X-Debug-Trace-Id"), response.header("x-missing")) == (expected, "")
    assert response.headers == headers


def test_what_follows_the_last_event_is_read_within_bounds(run: Run) -> None:
    async def check(clock: Clock) -> None:
        for count, ends, at_eof in ((3, True, True), (3, False, False), (9, True, False)):
            raw = Raw()
            response = UpstreamResponse(raw, START + 99, 99)
            draining = asyncio.create_task(response.drain())
            for _ in range(count):
                raw.send(b"x" * 8_192)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            assert draining.done() is (count * 8_192 >= upstream_response.DRAIN_BYTES)
            if ends:
                raw.send(b"x")
                raw.content.feed_eof()
            elif not draining.done():
                await clock.pass_until(clock.now + upstream_response.DRAIN_SECONDS)
            await draining
            assert raw.content.at_eof() is at_eof
            response.close()

    run(check)


@pytest.mark.asyncio
async def test_a_read_of_a_gateway_that_stops_says_so() -> None:
    raw = Raw()
    response = UpstreamResponse(raw, math.inf, 5)
    reading = asyncio.create_task(response.read_chunk())
    await asyncio.sleep(0)
    response.interrupt()
    with pytest.raises(UpstreamError, match="stopping"):
        await reading
    raw.send(b"more")
    with pytest.raises(UpstreamError, match="stopping"):
        await response.read_chunk()
    response.close()


@pytest.mark.parametrize(
    ("error", "code", "cause", "retry_after"),
    [
        (ConnectTimeout(), "upstream_timeout", "unreachable", None),
        (TimeoutError(), "upstream_timeout", "silent", None),
        (Unreachable(errno.ECONNREFUSED, "10.0.0.7"), "upstream_unreachable", "unreachable", None),
        (Unreachable(errno.EMFILE, "10.0.0.7"), "out_of_descriptors", "descriptors", "1"),
        (upstream_response.Interrupted(), "gateway_stopping", "", None),
        (Broken("10.0.0.7"), "upstream_cut", "cut", None),
        (ConnectionResetError("10.0.0.7"), "upstream_cut", "cut", None),
        (ValueError("10.0.0.7"), "upstream_cut", "", None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_is_told_of_a_connection(error: Exception, code: str, cause: str, retry_after: str | None) -> None:
    """cause: of a retry, and of what the circuit breaker counts (`retry.RULES`)."""
    result = upstream_response.connection_error(error)
    assert (result.failure.code, result.cause, result.retry_after) == (code, cause, retry_after)
    assert "10.0.0.7" not in result.failure.message
