"""The front side: what the gateway makes of every kind of bytes that a network can bring.

EDGES is the table: bytes over a raw socket to the real server, the statuses of the answers, and whether the connection
may be used again afterwards. Every refusal has OpenAI's shape, an id and a line in the log, and nothing goes to Cohere.
Then what a table cannot say: slowness, pipelining callers who leave, refused bodies, many connections; and that no
route goes past the guard. FAILURE_MODES says where the project's list of failure modes is tested.
"""

from __future__ import annotations

import ast
import asyncio
import importlib.metadata
import json
import re
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from hypercorn.asyncio.tcp_server import TCPServer
from starlette.routing import Route
from starlette.types import Message

from gateway.app import create_app
from gateway.endpoints.health import LIVE_PATHS, READY_PATHS
from gateway.errors import CallerError
from gateway.http import drain
from gateway.http.body import Pieces
from gateway.http.disconnect import DisconnectWatcher
from gateway.server import hypercorn_patches
from gateway.server.sockets import TCP_OPTIONS, listen
from gateway.server.uvicorn_connection import Connection
from gateway.settings.schema import Settings, Timeouts
from support.app import CHAT, SERVERS, A, Gateway, Harness, Response, answered, gateway_over, run_harness, streamed
from support.asgi_server import raw_request
from support.process import awaited
from support.scripted_upstream import Pause, Script, ScriptedUpstream, Signal
from support.waiting import WAIT_SECONDS

TESTS = Path(__file__).parent
KEY = "authorization: Bearer front-key-41"
BODY = json.dumps({"model": A, "messages": [{"role": "user", "content": "Hi"}]}).encode()
LENGTH = f"content-length: {len(BODY)}"
HOST = "host: gateway"
CHUNKED = "transfer-encoding: chunked"
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
LIVE = b"GET /health/live HTTP/1.1\r\nhost: gateway\r\n\r\n"
NEVER = Signal()
LIMIT = 200_000


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    with run_harness(body_limit=LIMIT) as harness:
        harness.respond_with(answered())
        yield harness


@pytest.fixture(scope="module", params=SERVERS)
def each_harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    """The same on each server."""
    with run_harness(body_limit=LIMIT, server=request.param) as harness:
        yield harness


@pytest.fixture(autouse=True)
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many callers here never end the body that they announced: none of them is waited for long."""
    monkeypatch.setattr(drain, "LINGER_SECONDS", 0.4)


@pytest.fixture(scope="module")
def hasty() -> Iterator[Harness]:
    """A gateway with little patience for callers."""
    with run_harness(body_limit=LIMIT, timeouts=Timeouts(request_body=1.0, keep_alive=1.0)) as harness:
        harness.respond_with(answered())
        yield harness


# --- the wire -----------------------------------------------------------------------------------------------


class Wire:
    """A connection on which answers are read one by one."""

    def __init__(self, gateway: Gateway, timeout: float = WAIT_SECONDS) -> None:
        self.socket = socket.create_connection(gateway.address, timeout)
        self._received = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before it was all sent: what was answered counts

    def answer(self) -> Response | None:
        """The next answer; None when the connection ends instead."""
        while b"\r\n\r\n" not in self._received:
            if not self._more():
                return None
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        first, *rows = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (row.partition(": ") for row in rows)}
        length = int(headers.get("content-length", 0))
        while len(self._received) < length:
            if not self._more():
                raise AssertionError(f"a body of {length} bytes ends after {len(self._received)}")
        data, self._received = self._received[:length], self._received[length:]
        return Response(int(first.split(" ")[1]), headers, data)

    def ends(self) -> bool:
        """Waits for the end of the connection; False if something else comes."""
        return not self._received and not self._more()

    def _more(self) -> bool:
        try:
            some = self.socket.recv(65536)
        except ConnectionResetError:
            return False
        self._received += some
        return bool(some)


def post(*lines: str, body: bytes = b"", target: str = CHAT, host: str = HOST) -> bytes:
    """A chat request with these header lines."""
    rows = [f"POST {target} HTTP/1.1", *([host] if host else []), KEY, *lines, "", ""]
    return "\r\n".join(rows).encode("latin-1") + body


def get(
    *lines: str, target: str = "/health/live", method: str = "GET", version: str = "1.1", host: str = HOST
) -> bytes:
    rows = [f"{method} {target} HTTP/{version}", *([host] if host else []), *lines, "", ""]
    return "\r\n".join(rows).encode("latin-1")


def named(host: str) -> bytes:
    """A good request to this host."""
    return post(LENGTH, body=BODY, host=f"host: {host}")


@dataclass(frozen=True)
class Edge:
    """What is sent, and what must come back: the answers' statuses, and whether the connection still serves."""

    name: str
    data: bytes
    statuses: tuple[int, ...]
    closed: bool = True


def bad(name: str, request: bytes, status: int = 400) -> Edge:
    """Refused, and the connection is closed: nobody knows what the rest of it means."""
    return Edge(name, request, (status,))


def good(name: str, request: bytes, *statuses: int) -> Edge:
    """Answered as asked, and the connection goes on."""
    return Edge(name, request, statuses or (200,), closed=False)


SMUGGLED = b"0\r\n\r\n" + LIVE
EDGES: tuple[Edge, ...] = (
    # --- where a body ends (RFC 9112 §6.3; request smuggling, §11.2) ---
    good("a length", post(LENGTH, body=BODY)),
    good("chunks", post(CHUNKED, body=CHUNKS)),
    bad("a length and chunks", post(LENGTH, CHUNKED, body=CHUNKS)),
    bad("chunks and a length", post(CHUNKED, LENGTH, body=CHUNKS)),
    bad("chunks and a length of nothing", post(CHUNKED, "content-length: 0", body=CHUNKS)),
    bad("a length that hides a second request", post("content-length: 6", CHUNKED, body=SMUGGLED)),
    bad("chunks that hide a second request", post(CHUNKED, f"content-length: {len(SMUGGLED)}", body=SMUGGLED)),
    good("the same length twice, which is that length (§6.3)", post(LENGTH, LENGTH, body=BODY)),
    good("the same length in a list", post(f"{LENGTH}, {len(BODY)}", body=BODY)),
    bad("two lengths", post(LENGTH, "content-length: 5", body=BODY)),
    bad("two lengths in a list", post(f"{LENGTH}, 5", body=BODY)),
    *(
        bad(f"a length of '{length}'", post(f"content-length: {length}", body=BODY))
        for length in ("", "x", "-1", "+5", "0_5", "5 5", "5.0", "0x5", "\u00b2", "9" * 30)
    ),
    bad("a length with a space before its colon", post("content-length : 5", body=BODY)),
    *(
        bad(f"the coding '{coding}'", post(f"transfer-encoding: {coding}", body=CHUNKS), 501)
        for coding in ("xchunked", "chunked, identity", "gzip, chunked", "identity", "chunked, chunked", '"chunked"')
    ),
    good("the coding in capitals", post("Transfer-Encoding: CHUNKED", body=CHUNKS)),
    bad("the coding twice", post(CHUNKED, CHUNKED, body=CHUNKS), 501),
    bad("the coding with a space before its colon", post("transfer-encoding : chunked", body=CHUNKS)),
    bad("the coding after a vertical tab", post("transfer-encoding: \x0bchunked", body=CHUNKS)),
    bad("chunks in HTTP/1.0", get(CHUNKED, version="1.0") + SMUGGLED),
    # --- chunks ---
    good("a chunk with an extension", post(CHUNKED, body=CHUNKS.replace(b"\r\n", b";a=b\r\n", 1))),
    good("a size with leading zeros", post(CHUNKED, body=b"000" + CHUNKS)),
    good("trailers", post(CHUNKED, body=CHUNKS[:-2] + b"x-later: yes\r\n\r\n")),
    *(
        bad(f"a chunk of size '{size.decode('latin-1')[:20]}'", post(CHUNKED, body=size + b"\r\nhello\r\n0\r\n\r\n"))
        for size in (b"", b"zz", b"-5", b"+5", b"0x5", b"5 5", b"5_0", b"\xff", b"f" * 21, b" 5")
    ),
    bad("a chunk that goes on", post(CHUNKED, body=b"5\r\nhello, world\r\n0\r\n\r\n")),
    bad("a chunk whose extension never ends", post(CHUNKED, body=b"5;" + b"x" * 70_000)),
    bad("a trailer without a colon", post(CHUNKED, body=CHUNKS[:-2] + b"nonsense\r\n\r\n")),
    bad("trailers that never end", post(CHUNKED, body=CHUNKS[:-2] + b"x: y\r\n" * 20_000)),
    # --- the host: FM-14 ---
    bad("no host", post(LENGTH, body=BODY, host="")),
    bad("two hosts", post(LENGTH, "host: other", body=BODY)),
    bad("the same host twice", post(LENGTH, HOST, body=BODY)),
    *(
        bad(f"the host '{host[:24]}'", named(host))
        for host in (
            *("", "a b", "a@b", "user:pw@a", "x/../admin?", "#", "a#b", "a?b", "a\\b", "a,b c", "http://a", "a/b"),
            *("a:99999", "a:b", "a:-1", "a:1:2", ":80", "[::1", "::1", "[::1]x", "[fe80::1%25eth0]", "[zz]"),
            *("\u00e9.example", "<script>", '"a"', "x" * 8_000),
        )
    ),
    *(
        good(f"the host '{host}'", named(host))
        for host in (
            "localhost",
            "localhost:8080",
            "127.0.0.1",
            "[::1]:8080",
            "EXAMPLE.com.",
            "cohere_gateway:80",
            "a:",
        )
    ),
    Edge("HTTP/1.0, which needs no host", get(version="1.0", host=""), (200,)),
    # --- the target ---
    # RFC 9112 §3.2.2: a server accepts the absolute form. It is no proxy for that.
    good("an absolute address", post(LENGTH, body=BODY, target="http://evil.example/v1/chat/completions")),
    good("an absolute address of ours", get(target="HTTPS://gateway:8080/health/live")),
    good("an absolute address with a query", get(target="http://gateway/health/live?x=/y")),
    good("an absolute address without a path", get(KEY, target="http://gateway"), 307),
    good("an absolute address with a query alone", get(KEY, target="http://gateway?x"), 307),
    bad("an absolute address without a host", get(target="http:///health/live")),
    bad("an absolute address with a port that is none", get(target="http://gateway:99999/health/live")),
    bad("an absolute address, and no host header", get(target="http://gateway/health/live", host="")),
    bad("an absolute address, and two host headers", get("host: other", target="http://gateway/health/live")),
    bad("an absolute address with a user", get(target="http://a@b/health/live")),
    bad("another scheme", get(target="file:///etc/passwd")),
    bad("an authority", get(target="gateway:80")),
    bad("CONNECT", get(target="evil.example:443", method="CONNECT")),
    bad("CONNECT to a path", get(method="CONNECT")),
    bad("OPTIONS *", get(target="*", method="OPTIONS")),
    bad("no slash", get(target="health/live")),
    bad("no target", b"GET  HTTP/1.1\r\nhost: a\r\n\r\n"),
    bad("a space in the target", get(target="/health/live /x")),
    bad("NUL in the path", get(target="/health/live\x00")),
    bad("NUL in the path, escaped", get(target="/health/live%00")),
    bad("a line end in the path", get(target="/v1/%0d%0ax-evil:%20yes")),
    bad("DEL in the path", get(target="/health/%7Flive")),
    bad("a byte that is no ASCII", get(target="/health/l\u00efve")),
    good("it, escaped", get(target="/health/l%C3%AFve"), 404),
    good("an escape that is none", get(KEY, target="/v1/%zz"), 404),
    good("two slashes", get(KEY, target="//evil.example/health/live"), 404),
    good("a fragment", get(KEY, target="/health/live#x"), 404),
    good("a query of control characters", get(target="/health/live?%00%0d%0a")),
    good("a long line", get(target="/health/live?" + "x" * 8_000)),
    bad("a line too long", get(target="/health/live?" + "x" * 8_192), 414),
    bad("a path too long", get(target="/v1/" + "x" * 8_192), 414),
    bad("a line much too long", get(target="/health/live?" + "x" * 200_000), 414),
    bad("a line without end", b"GET /" + b"x" * 200_000, 414),
    # --- methods and versions ---
    good("a method that nobody knows", get(method="BREW"), 405),
    good("TRACE", get(method="TRACE"), 405),
    good("a very long method", get(method="X" * 2_000), 405),
    bad("a method that is none", get(method="G(T")),
    bad("a method in small letters", get(method="get")),
    bad("a method that begins in capitals", get(method="Get")),
    good("an empty line in front, as RFC 9112 §2.2 allows", b"\r\n" + get()),
    bad("two empty lines in front", b"\r\n\r\n" + get()),
    good("an override, which is none", post(LENGTH, "x-http-method-override: DELETE", body=BODY)),
    bad("HTTP/0.9", b"GET /health/live\r\n\r\n"),
    bad("HTTP/9.9", get(version="9.9"), 505),
    bad("HTTP/1.2", get(version="1.2"), 505),
    bad("HTTP/2.0 by its name", get(version="2.0"), 505),
    bad("HTTP/2 with prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), 505),
    bad("a version that is none", get(version="one")),
    good(
        "an upgrade to h2c, which is not taken up",
        get("connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQAAP__"),
    ),
    good("an upgrade to something else", get("connection: upgrade", "upgrade: tls/1.3")),
    bad("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 4 + b"\r\n\r\n"),
    bad("another protocol", b"SSH-2.0-OpenSSH_9.9\r\n\r\n"),
    bad("nothing but line ends", b"\r\n\r\n\r\n"),
    # --- headers ---
    good("100 headers", get(*[f"x-{number}: y" for number in range(99)])),
    bad("101 headers", get(*[f"x-{number}: y" for number in range(100)]), 431),
    good("a large header", get("x: " + "y" * 30_000)),
    bad("a header too large", get("x: " + "y" * 33_000), 431),
    bad("headers too large together", get(*["x: " + "y" * 1_000] * 40), 431),
    bad("a header without end", get("x: " + "y" * 300_000), 431),
    bad("headers without end", get(*["x: y"] * 60_000), 431),
    bad("a header without a colon", get("nonsense")),
    bad("a header without a name", get(": x")),
    bad("a space before the colon", get("x-a : b")),
    bad("a space in a name", get("x a: b")),
    bad("NUL in a name", get("x\x00a: b")),
    bad("NUL in a value", get("x: a\x00b")),
    bad("a bare CR in a value", get("x: a\rb: c")),
    bad("a first header that continues nothing", b"GET /health/live HTTP/1.1\r\n host: a\r\nhost: a\r\n\r\n"),
    good("a value that is no ASCII", get("x: caf\u00e9")),
    good("an empty value", get("x:")),
    bad("two content types", post(LENGTH, "content-type: application/json", "content-type: text/plain", body=BODY)),
    good("bare line feeds, as RFC 9112 §2.2 allows", get().replace(b"\r\n", b"\n")),
    good("a folded header, read as a space (§5.2)", get("x: a", " b")),
    # --- bodies ---
    bad("a body announced as too large", post("content-length: 99999999999"), 413),
    bad("a body announced as larger than 64 bits count", post("content-length: 9999999999999999999"), 413),
    good("a body of 1 byte too many", post(f"content-length: {LIMIT + 1}", body=b" " * (LIMIT + 1)), 413),
    good("a GET with a body", get(LENGTH) + BODY),
    good("a body where there is no route", post(LENGTH, body=BODY, target="/v1/nowhere"), 404),
    # --- one request after another ---
    good("three at once", LIVE * 3, 200, 200, 200),
    good("bad bodies between good ones", post("content-length: 1", body=b"{") + LIVE, 400, 200),
    good("chunks, then another", post(CHUNKED, body=CHUNKS) + LIVE, 200, 200),
    Edge("nonsense after a body", post(LENGTH, body=BODY) + b"nonsense\r\n\r\n", (200, 400)),
    Edge("a bad request after a good one", LIVE + post(LENGTH, CHUNKED, body=CHUNKS) + LIVE, (200, 400)),
    Edge("an ending after the first", get("connection: close") + LIVE, (200,)),
    # --- expectations ---
    good("100-continue with the body at once", post(LENGTH, "expect: 100-continue", body=BODY), 100, 200),
    bad("100-continue for too much", post("content-length: 999999", "expect: 100-continue"), 413),
    bad("100-continue without a key", get(LENGTH, "expect: 100-continue", target=CHAT, method="POST"), 401),
    good("an expectation that nobody has", post(LENGTH, "expect: the-best", body=BODY)),
)


@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: edge.name)
def test_edges(each_harness: Harness, edge: Edge) -> None:
    """FM-30."""
    harness = each_harness
    harness.respond_with(answered())
    with Wire(harness.gateway) as wire:
        wire.send(edge.data)
        responses = [wire.answer() for _ in edge.statuses]
        assert tuple(one.status if one else None for one in responses) == edge.statuses
        for one in responses:
            assert one is not None
            if one.status >= 400:
                refused(harness, one)
        assert len(harness.upstream.exchanges) <= edge.statuses.count(200)
        if edge.closed:
            assert wire.ends(), "the connection can still be used"
        else:
            wire.send(LIVE)
            last = wire.answer()
            assert last is not None and last.status == 200, "the connection cannot be used any more"


def refused(harness: Harness, response: Response) -> None:
    """In OpenAI's shape, with an id, and a line in the log; nothing of the request comes back."""
    error = response.error
    assert error["message"] and error["code"] and isinstance(error["type"], str)
    assert int(response.headers["content-length"]) == len(response.data)
    assert "evil" not in response.data.decode() and "x-evil" not in response.headers
    line = harness.gateway.log.line_of(response.headers["x-request-id"])
    assert (line["status"], line["outcome"], line["error"]) == (response.status, "error", error["code"])


# --- refused before the body has come -----------------------------------------------------------------------

MUCH = b"x" * 8_000_000
EARLY = (
    ("too large", post(f"content-length: {len(MUCH)}"), 413),
    ("too large, in chunks", post(CHUNKED, body=b"7a1200\r\n"), 413),
    ("no key", get(f"content-length: {len(MUCH)}", target=CHAT, method="POST"), 401),
    ("nowhere", post(f"content-length: {len(MUCH)}", target="/v1/nowhere"), 404),
    ("no JSON", post(f"content-length: {len(MUCH)}", "content-type: text/plain"), 415),
    ("nobody reads it", get(f"content-length: {len(MUCH)}"), 200),
)


@pytest.mark.parametrize(("name", "head", "status"), EARLY, ids=[row[0] for row in EARLY])
def test_who_sends_on_can_read_the_answer(
    harness: Harness, name: str, head: bytes, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a reset connection: the rest is read and thrown away, and the connection serves on."""
    monkeypatch.setattr(drain, "LINGER_SECONDS", WAIT_SECONDS)
    harness.respond_with(answered())
    with Wire(harness.gateway) as wire:
        wire.socket.sendall(head + MUCH)  # raises when the connection is reset
        if CHUNKED.encode() in head:
            wire.socket.sendall(b"\r\n0\r\n\r\n")
        response = wire.answer()
        assert response is not None and response.status == status
        wire.send(LIVE)
        last = wire.answer()
        assert last is not None and last.status == 200
    assert not harness.upstream.exchanges


def test_the_sdk_reads_that_its_body_is_too_large(harness: Harness) -> None:
    messages: Any = [{"role": "user", "content": MUCH.decode()}]
    with harness.gateway.client() as client, pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(model=A, messages=messages)
    assert (raised.value.status_code, raised.value.code) == (413, "request_too_large")


def test_who_never_ends_is_not_read_for_ever(harness: Harness) -> None:
    """Refused, and after a moment cut, however much is still said to come."""
    with Wire(harness.gateway) as wire:
        wire.send(post("content-length: 99999999999"))
        response = wire.answer()
        assert response is not None and response.status == 413
        began = time.monotonic()
        try:
            while time.monotonic() - began < WAIT_SECONDS:
                wire.socket.sendall(b"x" * 65_536)
        except OSError:
            return
        pytest.fail("it is read on and on")


# --- slowness -----------------------------------------------------------------------------------------------


def drips(wire: Wire, data: bytes, every: float = 0.05) -> int:
    """Sends byte by byte until the other side answers or ends; how many it bore."""
    wire.socket.settimeout(every)
    for count, byte in enumerate(data, 1):  # noqa: B007
        wire.send(bytes([byte]))
        try:
            wire._more()
            break
        except TimeoutError:
            continue
    wire.socket.settimeout(WAIT_SECONDS)
    return count


@pytest.mark.parametrize("drip", [False, True], ids=["stalled", "dripping"])
def test_a_slow_head_is_cut(hasty: Harness, drip: bool) -> None:
    """Bounded by the setting `timeouts.keep_alive` as a whole, however regularly its bytes come."""
    with Wire(hasty.gateway) as wire:
        head = get(*["x: " + "y" * 50] * 20)
        if drip:
            assert drips(wire, head) < len(head) / 2
        else:
            wire.send(head[:40])
        assert wire.ends()


@pytest.mark.parametrize("drip", [False, True], ids=["stalled", "dripping"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_a_slow_body_is_refused(hasty: Harness, drip: bool, chunked: bool) -> None:
    """Each piece in time is not enough: the whole must keep up with body.SLOWEST, too."""
    hasty.respond_with(answered())
    with Wire(hasty.gateway) as wire:
        wire.send(post(CHUNKED, body=b"1000\r\n") if chunked else post("content-length: 4096"))
        if drip:
            assert drips(wire, b" " * 4096) < 2048
        response = wire.answer()
        assert response is not None
        refused(hasty, response)
        assert (response.status, response.error["code"]) == (408, "request_timeout")
    assert not hasty.upstream.exchanges


FORM = (
    b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\ncohere-transcribe-03-2026\r\n'
    b'--b\r\ncontent-disposition: form-data; name="language"\r\n\r\nen\r\n'
    b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
)


@pytest.mark.parametrize("drip", [False, True], ids=["stalled", "dripping"])
@pytest.mark.parametrize("target", ["/v1/audio/transcriptions", "/cohere/v1/datasets?name=x&type=embed-input"])
def test_a_slow_upload_is_refused(hasty: Harness, target: str, drip: bool) -> None:
    """What is passed on while it comes has to come, too: it holds a connection to Cohere."""
    hasty.respond_with(answered())
    with Wire(hasty.gateway) as wire:
        kind = "content-type: multipart/form-data; boundary=b"
        wire.send(post(kind, "content-length: 100000", body=FORM, target=target))
        if drip:
            assert drips(wire, b" " * 4096) < 2048
        response = wire.answer()
        assert response is not None and response.status == 408


def test_who_waits_for_cohere_is_not_slow() -> None:
    """Pieces are asked for as Cohere takes them; only what the caller is waited for counts."""

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def main() -> int:
        pieces = Pieces(receive, 1_000, Timeouts(request_body=0.2), DisconnectWatcher(receive, listening=False))
        for _ in range(5):
            assert await anext(pieces) == b"x"
            await asyncio.sleep(0.1)
        return 5

    assert asyncio.run(main()) == 5


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_a_body_has_a_deadline_however_regularly_it_comes(chunked: bool) -> None:
    """Faster than body.SLOWEST, and yet not for hours: what has come waits in memory."""
    with run_harness(timeouts=Timeouts(request_body_total=0.6)) as harness, Wire(harness.gateway) as wire:
        wire.send(post(CHUNKED) if chunked else post("content-length: 100000"))
        piece = b" " * 100
        began = time.monotonic()
        wire.socket.settimeout(0.05)
        for _ in range(1_000):
            wire.send(b"64\r\n" + piece + b"\r\n" if chunked else piece)
            try:
                wire._more()
                break
            except TimeoutError:
                continue
        wire.socket.settimeout(WAIT_SECONDS)
        response = wire.answer()
        assert response is not None and (response.status, response.error["code"]) == (408, "request_timeout")
        assert time.monotonic() - began > 0.5


def test_an_upload_has_a_deadline_too() -> None:
    async def receive() -> Message:
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b"x" * 1_000, "more_body": True}

    async def main() -> None:
        timeouts = Timeouts(total=0.3)
        pieces = Pieces(receive, 1_000_000, timeouts, DisconnectWatcher(receive, listening=False))
        with pytest.raises(CallerError) as caught:
            async for _ in pieces:
                pass
        assert caught.value.failure.status == 408

    asyncio.run(asyncio.wait_for(main(), WAIT_SECONDS))


def test_a_body_that_is_slow_but_comes() -> None:
    """Longer in sum than the patience, as a caller far away may be."""
    body = BODY + b" " * 3_000
    with run_harness(timeouts=Timeouts(request_body=2.5)) as harness, Wire(harness.gateway) as wire:
        harness.respond_with(answered())
        wire.send(post(f"content-length: {len(body)}"))
        for at in range(0, len(body), 300):
            wire.send(body[at : at + 300])
            time.sleep(0.3)
        response = wire.answer()
        assert response is not None and response.status == 200


@pytest.mark.parametrize("before", [b"", LIVE, post(LENGTH, body=BODY)], ids=["new", "after one", "after a body"])
def test_an_idle_connection_is_closed(hasty: Harness, before: bytes) -> None:
    hasty.respond_with(answered())
    with Wire(hasty.gateway) as wire:
        if before:
            wire.send(before)
            assert wire.answer() is not None
        assert wire.ends()


def test_a_caller_may_be_silent_while_cohere_thinks(hasty: Harness) -> None:
    """The idle time does not run while an answer is awaited."""
    hasty.respond_with((Pause(1.2), *answered()))
    with Wire(hasty.gateway) as wire:
        wire.send(post(LENGTH, body=BODY))
        response = wire.answer()
        assert response is not None and response.status == 200
        assert wire.ends(), "the next pause is counted again"


def test_each_pause_is_counted_by_itself() -> None:
    with run_harness(timeouts=Timeouts(keep_alive=2.5)) as harness, Wire(harness.gateway) as wire:
        for _ in range(4):
            wire.send(LIVE)
            assert wire.answer() is not None
            time.sleep(0.7)
        assert wire.ends()


# --- how answers leave --------------------------------------------------------------------------------------

STREAMED = json.dumps({"model": A, "messages": [{"role": "user", "content": "Hi"}], "stream": True}).encode()
CLOSE = "connection: close"

WRITES = (
    ("whole", post(LENGTH, CLOSE, body=BODY), answered(), [rb"HTTP/1.1 200 .*Hi there.*\}"]),
    ("no body", post(LENGTH, CLOSE, body=BODY).replace(b"POST", b"HEAD"), answered(), [rb"HTTP/1.1 405 .*\r\n\r\n"]),
    ("an error", get(CLOSE, target="/v1/nowhere"), answered(), [rb"HTTP/1.1 401 .*\}"]),
    (
        "streamed at once",
        post(f"content-length: {len(STREAMED)}", CLOSE, body=STREAMED),
        streamed(),
        [rb"HTTP/1.1 200 .*\r\n\r\n[0-9a-f]+\r\ndata: .*\[DONE\]\n\n\r\n0\r\n\r\n"],
    ),
)


@pytest.mark.parametrize(
    ("request_", "script", "expected"), [row[1:] for row in WRITES], ids=[row[0] for row in WRITES]
)
def test_an_answer_leaves_in_few_writes(
    each_harness: Harness, monkeypatch: pytest.MonkeyPatch, request_: bytes, script: Script, expected: list[bytes]
) -> None:
    """Head and body together where the length is known, and a stream's end with its last piece."""
    harness = each_harness
    written: list[bytes] = []
    original_init, original_connection_made = TCPServer.__init__, Connection.connection_made

    def counting(server: TCPServer, *arguments: Any) -> None:
        original_init(server, *arguments)
        vars(server.writer)["_transport"] = Recording(server.writer.transport, written)

    def recording(connection: Connection, transport: asyncio.BaseTransport) -> None:
        original_connection_made(connection, transport)
        connection.transport = Recording(connection.transport, written)  # type: ignore[assignment]

    monkeypatch.setattr(TCPServer, "__init__", counting)
    monkeypatch.setattr(Connection, "connection_made", recording)
    harness.respond_with(script)
    with Wire(harness.gateway) as wire:
        wire.send(request_)
        while wire.socket.recv(65536):
            pass
    assert len(written) == len(expected)
    for data, pattern in zip(written, expected, strict=True):
        assert re.fullmatch(pattern, data, re.DOTALL), data


class Recording:
    """A transport that takes down what is written."""

    def __init__(self, transport: asyncio.WriteTransport, written: list[bytes]) -> None:
        self._transport, self._written = transport, written

    def write(self, data: bytes) -> None:
        self._written.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


# --- callers who leave --------------------------------------------------------------------------------------

AHEAD = (
    ("nothing more", b""),
    ("a line end too much", b"\r\n"),
    ("a second request", LIVE),
    ("half a request", LIVE[:20]),
    ("sixty requests", post(LENGTH, body=BODY) * 60),
)


@pytest.mark.parametrize("half", [False, True], ids=["closed", "half-closed"])
@pytest.mark.parametrize(("name", "ahead"), AHEAD, ids=[row[0] for row in AHEAD])
def test_a_leaving_is_noticed_whatever_was_sent_ahead(harness: Harness, name: str, ahead: bytes, half: bool) -> None:
    """FM-03: Hypercorn by itself stops reading while a pipelined request waits, and sees nobody leave."""
    harness.respond_with((Pause(NEVER),))
    with Wire(harness.gateway) as wire:
        wire.send(post(LENGTH, body=BODY) + ahead)
        while not harness.upstream.exchanges:
            time.sleep(0.005)
        if half:
            wire.socket.shutdown(socket.SHUT_WR)
            harness.upstream.closed[0].wait_in_thread()
    harness.upstream.closed[0].wait_in_thread()
    assert len(harness.upstream.exchanges) == 1
    harness.respond_with(answered())
    assert harness.gateway.chat().status == 200


def test_pipelined_requests_wait_their_turn(harness: Harness) -> None:
    """One at a time, in order, also when far more comes than is read ahead."""
    harness.respond_with(answered())
    body = BODY + b" " * 20_000
    with Wire(harness.gateway) as wire:
        wire.send(post(f"content-length: {len(body)}", body=body) * 20 + get(target="/v1/nowhere"))
        statuses = [response.status if (response := wire.answer()) else None for _ in range(21)]
    assert statuses == [200] * 20 + [401]


# --- many ---------------------------------------------------------------------------------------------------


def test_many_idle_connections(harness: Harness) -> None:
    harness.respond_with(answered())
    wires = [Wire(harness.gateway) for _ in range(300)]
    try:
        for number, wire in enumerate(wires):
            if number % 3:
                wire.send(LIVE if number % 3 == 1 else LIVE[:30])
        assert harness.gateway.chat().status == 200
        for wire in wires[1::3]:
            response = wire.answer()
            assert response is not None and response.status == 200
    finally:
        for wire in wires:
            wire.socket.close()


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_who_has_left_leaves_nothing_open(harness: Harness, reset: bool) -> None:
    """Hypercorn by itself keeps the socket and the tasks of an idle caller who left until the idle time is over."""
    assert harness.gateway.ask("GET", "/health/live").status == 200
    before, tasks = open_files(), harness.gateway.tasks()
    for request in (b"", LIVE[:30], LIVE, post(LENGTH, CHUNKED, body=CHUNKS), get(LENGTH) + BODY[:9]) * 20:
        with Wire(harness.gateway) as wire:
            wire.send(request)
            if request == LIVE:
                wire.answer()
            if reset:
                wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    deadline = time.monotonic() + WAIT_SECONDS
    while open_files() > before + 5 or harness.gateway.tasks() > tasks:
        assert time.monotonic() < deadline, "of callers who left something is still there"
        time.sleep(0.02)


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_a_dead_peer_is_noticed() -> None:
    """Connections inherit TCP's keep-alive from the listening socket."""
    with listen("127.0.0.1", 0) as listening:
        listening.setblocking(True)
        with socket.create_connection(listening.getsockname()), listening.accept()[0] as accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            for name, value in TCP_OPTIONS:
                if hasattr(socket, name):
                    assert accepted.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value


# --- no route goes past the guard ---------------------------------------------------------------------------

OPEN = {*LIVE_PATHS, *READY_PATHS, "/metrics", "/openapi.json"}
"""What answers without a key on a loopback address (docs/authentication.md). Everything else is denied."""
CONSOLE = {"/", "/console", "/console/cohere/a", "/console/session"}
"""But for the page for people, its files, and who has signed in there: tests/test_serve_console.py."""
ROUTES = [route for route in create_app(Settings()).routes if isinstance(route, Route)]
PATHS = sorted({route.path for route in ROUTES} | {"/", "/v1/nowhere", "/.env", "/docs", "/admin"})
EVERY_METHOD = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")


def test_each_patch_of_hypercorn_has_its_test() -> None:
    assert importlib.metadata.version("hypercorn").startswith("0.18."), "try it without the patches first"
    text = hypercorn_patches.__doc__ or ""
    named = re.findall(r"`?(tests/\w+\.py)`?: (test_\w+)", text)
    assert len(named) == 8
    for file, test in named:
        assert f"def {test}(" in (Path(__file__).parents[1] / file).read_text(encoding="utf-8"), f"{file}: {test}"


def test_every_route_is_known_to_this_test() -> None:
    """A kind of route that is no `Route` must be walked here, too."""
    assert len(ROUTES) == len([route for route in create_app(Settings()).routes if hasattr(route, "path")])


@pytest.mark.parametrize("path", PATHS)
def test_every_route_passes_the_guard(harness: Harness, path: str) -> None:
    """FM-15: any method, no key: an id, an answer in OpenAI's shape, a line in the log, and nothing for Cohere."""
    harness.respond_with(answered())
    target = re.sub(r"{(\w+):path}", "cohere/a", path)
    target = re.sub(r"{\w+}", "a", target)
    for method in EVERY_METHOD:
        response = harness.gateway.ask(method, target, b"{}", {"x-request-id": "walk-1"})
        assert response.headers["x-request-id"] == "walk-1"
        if target in CONSOLE:
            assert response.status in ({200, 307} if method in ("GET", "HEAD") else {400, 405})
        elif path in OPEN:
            assert response.status in ({200} if method in ("GET", "HEAD") else {405})
        else:
            assert response.status == 401
            native = "/cohere" in path  # Cohere's shape, for Cohere's own SDK
            assert method == "HEAD" or (
                response.body["message"] if native else response.error["code"] == "missing_api_key"
            )
        # With a key, or where none is needed, a request of bad form is refused before all else.
        with Wire(harness.gateway) as wire:
            wire.send(get("x-request-id: walk-2", LENGTH, CHUNKED, KEY, target=target, method=method) + CHUNKS)
            answer = wire.socket.recv(65536)
            assert answer.startswith(b"HTTP/1.1 400 ") and b"x-request-id: walk-2" in answer
    assert not harness.upstream.exchanges


# --- the other failure modes of this side -------------------------------------------------------------------

CREDENTIALS = (
    *(
        "' OR 1=1 --",
        '"; DROP TABLE keys; --',
        "x" * 20_000,
        "\u00ff\u00fe",
        "\t x",
        "a b c",
        "../..",
        "%00",
        "{{7*7}}",
    ),
    "${jndi:ldap://a}",
)


@pytest.mark.parametrize("credential", CREDENTIALS, ids=lambda text: ascii(text[:20]))
@pytest.mark.parametrize("header", ["authorization: Bearer ", "authorization: ", "x-api-key: ", "api-key: "])
def test_any_credential(header: str, credential: str, keyed: Gateway) -> None:
    """FM-13: a wrong key is a 401 at once, whatever it is, and is never shown."""
    data = f"POST {CHAT} HTTP/1.1\r\n{HOST}\r\n{header}{credential}\r\n{LENGTH}\r\nconnection: close\r\n\r\n"
    answer = raw_request(*keyed.address, data.encode("latin-1") + BODY)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert credential.encode("latin-1") not in answer and credential not in keyed.log.getvalue().decode()


@pytest.mark.parametrize("expected", [("NUL", "a\x00b", 400), ("a line end", "a\rb", 400)], ids=lambda row: row[0])
def test_a_credential_that_is_no_header(keyed: Gateway, expected: tuple[str, str, int]) -> None:
    data = f"GET /v1/models HTTP/1.1\r\n{HOST}\r\nauthorization: Bearer {expected[1]}\r\n\r\n"
    assert raw_request(*keyed.address, data.encode("latin-1")).startswith(b"HTTP/1.1 %d " % expected[2])


@pytest.fixture(scope="module")
def keyed() -> Iterator[Gateway]:
    """A gateway with a master key, over an upstream that must never be asked."""
    with (
        ScriptedUpstream(answered()).run_in_thread() as upstream,
        gateway_over(upstream.url, cohere_api_key=["server"], master_key="the-master-key") as gateway,
    ):
        yield gateway
        assert not upstream.exchanges


MISLEADING = (
    *("host: metadata.internal", "x-forwarded-host: evil.example", "forwarded: host=evil.example;proto=https"),
    *("x-forwarded-proto: https", "x-original-url: /admin", "x-rewrite-url: /health/live", "x-base-url: http://a"),
    *("x-portkey-custom-host: http://127.0.0.1:1", "openai-organization: evil", "via: 1.1 evil", "x-host: evil"),
)


@pytest.mark.parametrize("header", MISLEADING)
def test_only_the_configured_upstream_is_requested(harness: Harness, header: str) -> None:
    """FM-17: no header chooses where a request goes or what it is, and none of these goes along."""
    harness.respond_with(answered())
    host = header if header.startswith("host:") else HOST
    more = [] if host == header else [header]
    with Wire(harness.gateway) as wire:
        wire.send(post(LENGTH, *more, body=BODY, host=host))
        response = wire.answer()
    assert response is not None and response.status == 200
    (exchange,) = harness.upstream.exchanges
    assert exchange.request.path == "/v2/chat"
    assert exchange.request.headers["host"] == [f"{harness.upstream.host}:{harness.upstream.port}"]
    request = str(exchange.request.headers.items_as_sent)
    assert "evil" not in request and "forwarded" not in request and "portkey" not in request


def test_no_caller_makes_a_series_of_their_own(harness: Harness) -> None:
    """FM-22: names of models, paths, methods and keys do not multiply what is measured."""
    harness.respond_with(answered())

    def asks(number: int) -> None:
        gateway = harness.gateway
        gateway.post({"model": f"no-model-{number}", "messages": [{"role": "user", "content": "Hi"}]})
        gateway.ask("GET", f"/v1/path-{number}", headers={"authorization": f"Bearer key-{number}"})
        gateway.ask(f"BREW{number}", "/health/live")
        raw_request(*gateway.address, f"X{number} nonsense\r\n\r\n".encode())

    asks(0)
    # To ask for them is measured, too, and the ledger writes in its own time.
    awaited(lambda: 'gateway_ledger_rows_total{result="written"}' in harness.gateway.metrics())
    before = set(harness.gateway.metrics())
    for number in range(1, 30):
        asks(number)
    assert set(harness.gateway.metrics()) == before


def test_a_stream_goes_on_while_large_bodies_come(harness: Harness) -> None:
    """FM-21, the front's part: reading and refusing bodies does not hold up the loop."""
    harness.respond_with(answered())
    with Wire(harness.gateway) as wire:
        wire.send(post(f"content-length: {len(MUCH)}", body=MUCH[:1_000_000]))
        began = time.monotonic()
        assert harness.gateway.ask("GET", "/health/live").status == 200
        assert time.monotonic() - began < Timeouts().request_body, "it waited for the end of that body"


FAILURE_MODES = {
    "FM-01": "test_soak.py::test_a_short_soak",
    "FM-03": "test_serve_disconnect.py::test_a_caller_leaves",
    "FM-04": "test_serve_disconnect.py::test_a_slow_reader_slows_cohere_down",
    "FM-05": "test_faults.py::test_faults",
    "FM-12": "test_serve_bad_input.py::test_a_good_request_leaves_no_canary",
    "FM-13": "test_http.py::test_any_credential",
    "FM-14": "test_http.py::test_edges",
    "FM-15": "test_http.py::test_every_route_passes_the_guard",
    "FM-17": "test_http.py::test_only_the_configured_upstream_is_requested",
    "FM-18": "test_serve_bad_input.py::test_nowhere",
    "FM-21": "test_http.py::test_a_stream_goes_on_while_large_bodies_come",
    "FM-22": "test_http.py::test_no_caller_makes_a_series_of_their_own",
    "FM-24": "test_serve_disconnect.py::test_sigterm_lets_what_is_in_flight_finish",
    "FM-26": "test_soak.py::test_a_short_soak",
    "FM-27": "test_serve_stored.py",
    "FM-30": "test_http.py::test_edges",
}
"""Failure modes of a gateway, by their numbers, and the test that holds each off."""


@pytest.mark.parametrize("number", FAILURE_MODES)
def test_each_failure_mode_has_its_test(number: str) -> None:
    file, _, name = FAILURE_MODES[number].partition("::")
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert not name or name in names
