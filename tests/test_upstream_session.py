"""What a session sends to Cohere, and when it gives up: the same whichever of its two clients makes the call.

The HTTP/1.1 client by itself is in test_upstream_http1_client.py, what callers see in test_serve_connector.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any, Literal

import aiohttp
import pytest

from gateway.errors import UpstreamError
from gateway.settings.schema import Timeouts, UpstreamSettings
from gateway.upstream import http1_client, session
from gateway.upstream.response import STREAM_BUFFER, WHOLE_BUFFER, ProxyRequest, UpstreamResponse
from gateway.upstream.session import USER_AGENT, UpstreamSession
from support.scripted_upstream import Cut, Head, Pause, Script, ScriptedUpstream, ScriptSource, json_answer
from support.waiting import WAIT_SECONDS

OK = json_answer(200, {"fine": True})
SILENT: Script = (Pause(WAIT_SECONDS),)
KEY = "key-of-ours-0001"
OURS = {"user-agent": USER_AGENT}

Client = Literal["its own", "aiohttp"]
clients = pytest.mark.parametrize("client", ["its own", "aiohttp"])


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@contextlib.asynccontextmanager
async def opened(
    client: Client,
    script: ScriptSource = OK,
    timeouts: Timeouts | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[UpstreamSession, ScriptedUpstream]]:
    """A session whose calls are made by this client: behind a proxy they are aiohttp's."""
    with pytest.MonkeyPatch.context() as patch:
        async with ScriptedUpstream(script) as upstream:
            url = upstream.url
            if client == "aiohttp":
                patch.setenv("http_proxy", upstream.url)
                url = "http://cohere.invalid"
            one = UpstreamSession(f"{url}/home", timeouts or Timeouts(), UpstreamSettings(**settings))
            await one.start()
            try:
                yield one, upstream
            finally:
                await one.stop()


async def read(call: Awaitable[UpstreamResponse]) -> bytes:
    """The response's body. The connection is free again."""
    response = await call
    try:
        return await response.read_body()
    finally:
        response.close()


WHOLE = {"accept": "application/json", "accept-encoding": "gzip"}
STREAM = {"accept": "text/event-stream", "accept-encoding": "identity"}
JSON = {"content-type": "application/json", "content-length": "2"}
KEYED = {"authorization": f"Bearer {KEY}"}
EXTRA = (("x-request-id", "r-1"),)


@clients
@pytest.mark.parametrize(
    ("arguments", "headers"),
    [
        (("POST", "/v2/chat", b"{}", False, KEY), OURS | WHOLE | JSON | KEYED),
        (("POST", "/v2/chat", b"{}", True, KEY), OURS | STREAM | JSON | KEYED),
        (("GET", "/v1/models?page_size=1", None, False, KEY), OURS | WHOLE | KEYED),
        (("POST", "/v2/chat", b"{}", False, ""), OURS | WHOLE | JSON),
    ],
    ids=["whole", "streamed", "without a body", "without a key"],
)
@pytest.mark.asyncio
async def test_what_a_call_sends(client: Client, arguments: Any, headers: Mapping[str, str]) -> None:
    method, path, body, streamed, key = arguments
    async with opened(client, headers={"X-Tenant": "ours"}) as (one, upstream):
        for _ in range(2):
            assert await read(one.open(method, path, body, streamed, key, extra_headers=EXTRA)) == b'{"fine":true}'
        for request in upstream.requests:
            values = {name: texts for name, texts in request.headers.items() if name not in ("host", "connection")}
            expected = {**headers, "x-tenant": "ours", **dict(EXTRA)}
            assert values == {name: [value] for name, value in expected.items()}
            assert (request.method, request.body) == (method, body or b"")
            assert request.path.removeprefix("http://cohere.invalid") == f"/home{path}"
            assert request.headers["host"] in (["cohere.invalid"], [upstream.url.removeprefix("http://")])


@clients
@pytest.mark.parametrize(
    ("operators", "callers", "headers"),
    [
        ({}, [], {"user-agent": [USER_AGENT]}),
        ({}, [("user-agent", "cohere/7")], {"user-agent": ["cohere/7"]}),
        ({"User-Agent": "us"}, [("user-agent", "cohere/7")], {"user-agent": ["us"]}),
        ({"X-A": "1"}, [("x-a", "2"), ("x-b", "3"), ("x-b", "4")], {"x-a": ["1"], "x-b": ["3", "4"]}),
    ],
)
@pytest.mark.asyncio
async def test_the_headers_of_a_forwarded_request(
    client: Client, operators: Mapping[str, str], callers: list[tuple[str, str]], headers: Mapping[str, list[str]]
) -> None:
    """The caller's, unless the operator has others in their place."""
    async with opened(client, headers=operators) as (one, upstream):
        forwarded = ProxyRequest("POST", "/v1/tokenize?a=%2F", [*callers, ("accept", "*/*")], b"{}")
        await read(one.forward(forwarded, KEY, extra_headers=EXTRA))
        (request,) = upstream.requests
        expected = {
            "user-agent": [USER_AGENT],
            "accept": ["*/*"],
            "authorization": [f"Bearer {KEY}"],
            "content-length": ["2"],
            "x-request-id": ["r-1"],
            **headers,
        }
        assert {
            name: values for name, values in request.headers.items() if name not in ("host", "connection")
        } == expected
        assert request.path.removeprefix("http://cohere.invalid") == "/home/v1/tokenize?a=%2F"


@clients
@pytest.mark.parametrize("forwarded", [False, True])
@pytest.mark.parametrize(("first_event", "last"), [(0.05, WAIT_SECONDS), (WAIT_SECONDS, 0.05)])
@pytest.mark.asyncio
async def test_the_earlier_of_two_deadlines_ends_the_wait(
    client: Client, forwarded: bool, first_event: float, last: float
) -> None:
    async with opened(client, SILENT, Timeouts(first_event=first_event)) as (one, _):
        deadline = asyncio.get_running_loop().time() + last
        async with asyncio.timeout(WAIT_SECONDS / 2):
            with pytest.raises(UpstreamError) as caught:
                if forwarded:
                    await one.forward(ProxyRequest("GET", "/v1/models", [], None), KEY, deadline)
                else:
                    await one.open("GET", "/v1/models", None, False, KEY, deadline)
        assert caught.value.cause == "silent"


@clients
@pytest.mark.asyncio
async def test_no_connection_is_left_behind(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(client) as (one, upstream):
        await read(one.open("GET", "/v1/models", None, False, KEY))
        await read(one.open("GET", "/v1/models", None, False, KEY))
        assert (upstream.connections, upstream.open_connections) == (1, 1), "it was kept"
        await one.stop()
        async with asyncio.timeout(http1_client.IDLE_SECONDS / 2):
            while upstream.open_connections:
                await asyncio.sleep(0.005)


@pytest.mark.asyncio
async def test_few_calls_need_the_other_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """To import aiohttp and to have a session of its takes thirteen megabytes."""
    sessions: list[aiohttp.ClientSession] = []
    session_of = aiohttp.ClientSession

    def make(**options: Any) -> aiohttp.ClientSession:
        sessions.append(session_of(**options))
        return sessions[-1]

    monkeypatch.setattr(aiohttp, "ClientSession", make)
    async with opened("its own", [OK, OK, OK, (Head(200, framing="none"),)]) as (one, _):
        await read(one.open("GET", "/v1/models", None, False, KEY))
        for body in (b"{}", None):
            await read(one.forward(ProxyRequest("POST", "/v1/check-api-key", [], body), KEY))
        assert not sessions
        (await one.forward(ProxyRequest("HEAD", "/v1/models", [], None), KEY)).close()
        assert len(sessions) == 1


@pytest.mark.parametrize(
    ("streamed", "bounds"), [(False, (WHOLE_BUFFER, True, False)), (True, (STREAM_BUFFER, True, True))]
)
@pytest.mark.asyncio
async def test_how_much_waits_in_memory(streamed: bool, bounds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound of what was read and not taken; whether it is unpacked; whether little is read at once."""
    seen: list[Any] = []
    request = http1_client.Http1Client.request

    async def watched(self: Any, head: bytes, body: bytes, deadline: float, *rest: Any) -> Any:
        seen.append(rest[:3])
        return await request(self, head, body, deadline, *rest)

    monkeypatch.setattr(http1_client.Http1Client, "request", watched)
    async with opened("its own") as (one, _):
        await read(one.open("POST", "/v2/chat", b"{}", streamed, KEY))
        await read(one.forward(ProxyRequest("POST", "/v2/chat", [], b"{}"), KEY))
    assert seen == [bounds, (STREAM_BUFFER, False, True)]


@pytest.mark.asyncio
async def test_the_beginnings_of_heads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_HEADS", 2)
    async with opened("its own") as (one, upstream):
        for number, size in ((0, 1), (1, 2), (0, 2), (2, 1), (3, 2), (0, 1), (1, 2)):
            await read(one.open("GET", f"/v1/datasets/{number}", None, False, KEY))
            assert len(one._heads) == size
        assert [request.path[-1] for request in upstream.requests] == list("0102301")


def call_of(forwarded: bool, one: UpstreamSession, key: str = KEY) -> Awaitable[UpstreamResponse]:
    if forwarded:
        return one.forward(ProxyRequest("GET", "/v1/models", [], None), key)
    return one.open("GET", "/v1/models", None, False, key)


@pytest.mark.parametrize("forwarded", [False, True])
@pytest.mark.asyncio
async def test_who_does_not_shake_hands_is_not_reached_in_time(forwarded: bool) -> None:
    """The time to connect includes that of TLS. A retry may find another machine, which it would not of one that is
    silent."""
    async with ScriptedUpstream(OK) as upstream:
        url = upstream.url.replace("http:", "https:")
        one = UpstreamSession(url, Timeouts(connect=0.05), UpstreamSettings())
        await one.start()
        try:
            with pytest.raises(UpstreamError, match="could not be reached in time") as caught:
                await call_of(forwarded, one)
            assert caught.value.cause == "unreachable"
        finally:
            await one.stop()


@clients
@pytest.mark.parametrize("forwarded", [False, True])
@pytest.mark.asyncio
async def test_what_cannot_be_sent_is_not_tried_again(client: Client, forwarded: bool) -> None:
    async with opened(client) as (one, upstream):
        with pytest.raises(UpstreamError) as caught:
            await call_of(forwarded, one, f"{KEY}\r\nx-forged: 1")
        assert caught.value.cause == "" and KEY not in str(caught.value)
        assert not upstream.requests


@clients
@pytest.mark.parametrize("forwarded", [False, True])
@pytest.mark.asyncio
async def test_a_connection_that_ends_before_the_head_is_cut(client: Client, forwarded: bool) -> None:
    async with opened(client, (Cut(),)) as (one, _):
        with pytest.raises(UpstreamError) as caught:
            await call_of(forwarded, one)
        assert caught.value.cause == "cut"


@pytest.mark.parametrize(
    ("method", "body", "length"),
    [
        ("GET", None, []),
        ("DELETE", None, []),
        ("GET", b"{}", ["2"]),
        ("DELETE", b"{}", ["2"]),
        ("POST", None, ["0"]),
        ("PUT", None, ["0"]),
        ("PATCH", None, ["0"]),
        ("POST", b"", ["0"]),
    ],
)
@pytest.mark.asyncio
async def test_the_length_of_a_forwarded_body(method: str, body: bytes | None, length: list[str]) -> None:
    """Servers wait, or answer 411, where a verb that has one says nothing of it (RFC 9110, 8.6)."""
    async with opened("its own") as (one, upstream):
        await read(one.forward(ProxyRequest(method, "/v1/datasets", [], body), KEY))
        (request,) = upstream.requests
        assert (request.headers.get("content-length", []), request.body) == (length, body or b"")
