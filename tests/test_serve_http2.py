"""HTTP/2 over TLS: what callers get, and what hostile ones do not get; with every guard of HTTP/1.1."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import httpx
import openai
import pytest

from gateway.server.sockets import ListenError, listen
from gateway.server.tls import context_of
from gateway.settings.schema import SettingError, Timeouts, TlsSettings
from support.app import CHAT, A, Gateway, Harness, answered, gateway_over, streamed
from support.certificates import Certificates, issued_in
from support.process import awaited, process
from support.scripted_upstream import Chunk, Cut, Pause, ScriptedUpstream, Signal
from support.waiting import WAIT_SECONDS
from test_serve_disconnect import BEGUN, STREAM_HEAD

NEVER = Signal()
CALM = h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
Headers = list[tuple[str, str]]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return issued_in(tmp_path_factory.mktemp("certificates"))


@contextmanager
def secured(certificates: Certificates, server: str = "hypercorn", **settings: Any) -> Iterator[Harness]:
    """A gateway with TLS over a scripted upstream."""
    scripts: list[Any] = [answered("Hi")]
    tls = TlsSettings(certificate=str(certificates.server))
    with (
        ScriptedUpstream(lambda request: scripts[0]).run_in_thread() as upstream,
        gateway_over(upstream.url, tls=tls, server=server, **settings) as gateway,
    ):
        yield Harness(gateway, upstream, scripts)


@pytest.fixture(scope="module", params=["hypercorn", "uvicorn"])
def served(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Harness]:
    with secured(certificates, request.param) as harness:
        yield harness


class Caller:
    """An HTTP/2 connection, frame by frame. events: what has come and was not taken yet."""

    def __init__(self, gateway: Gateway, **config: Any) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        self.socket = context.wrap_socket(socket.create_connection(gateway.address, timeout=WAIT_SECONDS))
        assert self.socket.selected_alpn_protocol() == "h2"
        values = {"header_encoding": "utf-8", "validate_outbound_headers": False, "normalize_outbound_headers": False}
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(**{**values, **config}))
        self.h2.initiate_connection()
        self.events: list[h2.events.Event] = []
        self.over = False
        self.flush()

    def flush(self) -> None:
        """Sends what is to be sent. Whoever is cut off meanwhile notices when they read."""
        try:
            self.socket.sendall(self.h2.data_to_send())
        except OSError:
            self.over = True

    def raw(self, data: bytes) -> None:
        """Sends frames that h2 would not make."""
        self.flush()
        try:
            self.socket.sendall(data)
        except OSError:
            pass

    def request(self, headers: Headers, body: bytes | None = None, ended: bool = True) -> int:
        stream: int = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, headers, end_stream=ended and body is None)
        if body is not None:
            self.h2.send_data(stream, body, end_stream=ended)
        self.flush()
        return stream

    def chat(self, **fields: Any) -> int:
        body = {"model": A, "messages": [{"role": "user", "content": "Hi"}], **fields}
        return self.request(head("POST", CHAT, ("content-type", "application/json")), json.dumps(body).encode())

    def read(self) -> bool:
        """Takes what has come. Returns False at the end of the connection."""
        try:
            data = self.socket.recv(65_536)
        except (ConnectionError, ssl.SSLError):
            data = b""
        if not data:
            self.over = True
            return False
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id or 0)
            self.events.append(event)
        self.flush()
        return True

    def wait(self, wanted: Callable[[h2.events.Event], bool]) -> h2.events.Event | None:
        """The first event that is wanted; None if the connection ends before."""
        while True:
            event = next(filter(wanted, self.events), None)
            if event is not None:
                return event
            if not self.read():
                return None

    def response(self, stream: int) -> tuple[int, bytes]:
        """Status and body of the response on a stream."""
        ends = (h2.events.StreamEnded, h2.events.StreamReset)
        end = self.wait(lambda event: isinstance(event, ends) and event.stream_id == stream)
        assert end is not None, self.events
        mine = [event for event in self.events if getattr(event, "stream_id", None) == stream]
        head = next(event for event in mine if isinstance(event, h2.events.ResponseReceived))
        data = b"".join(event.data or b"" for event in mine if isinstance(event, h2.events.DataReceived))
        return status_of(head), data

    def reset_code(self, stream: int) -> Any:
        """The code with which the gateway resets a stream."""
        event = self.wait(lambda event: isinstance(event, h2.events.StreamReset) and event.stream_id == stream)
        assert isinstance(event, h2.events.StreamReset), self.events
        return event.error_code

    def goaway(self) -> Any:
        """The code with which the gateway ends the connection; None if it ends without one."""
        event = self.wait(lambda event: isinstance(event, h2.events.ConnectionTerminated))
        return event.error_code if isinstance(event, h2.events.ConnectionTerminated) else None

    def close(self) -> None:
        self.socket.close()


def status_of(event: h2.events.ResponseReceived) -> int:
    """The status of a response."""
    return int(next(value for name, value in event.headers or [] if name in (":status", b":status")))


@contextmanager
def connected(gateway: Gateway, **config: Any) -> Iterator[Caller]:
    caller = Caller(gateway, **config)
    try:
        yield caller
    finally:
        caller.close()


def head(method: str, path: str, *more: tuple[str, str], authority: str = "127.0.0.1") -> Headers:
    pseudo = [(":method", method), (":scheme", "https"), (":authority", authority), (":path", path)]
    return [*pseudo, ("authorization", "Bearer caller-key"), *more]


# --- clients --------------------------------------------------------------------------------------------------


def test_the_openai_sdk(served: Harness) -> None:
    served.respond_with(streamed("Hello", " there"))
    host, port = served.gateway.address
    with (
        openai.DefaultHttpxClient(http2=True, verify=False, trust_env=False) as http_client,
        openai.OpenAI(base_url=f"https://{host}:{port}/v1", api_key="k", http_client=http_client) as client,
    ):
        messages: Any = [{"role": "user", "content": "Hi"}]
        stream = client.chat.completions.create(model=A, messages=messages, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == "Hello there"
        assert stream.response.http_version == "HTTP/2"
        served.respond_with(answered("Hi"))
        raw = client.chat.completions.with_raw_response.create(model=A, messages=messages)
        assert raw.parse().choices[0].message.content == "Hi"
        assert raw.http_response.http_version == "HTTP/2"
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model=A, messages=[])


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("version", ["--http2", "--http1.1"])
def test_curl(served: Harness, certificates: Certificates, version: str) -> None:
    served.respond_with(answered("Hi"))
    host, port = served.gateway.address
    body = json.dumps({"model": A, "messages": [{"role": "user", "content": "x" * 200_000}]})
    command = ["curl", "-sS", version, "--cacert", str(certificates.ca), f"https://{host}:{port}{CHAT}", "-d", "@-"]
    command += ["-H", "content-type: application/json", "-H", "authorization: Bearer k", "-w", "\n%{http_version}"]
    written = subprocess.run(
        command, input=body, capture_output=True, text=True, check=True, timeout=WAIT_SECONDS
    ).stdout
    answer, _, spoken = written.rpartition("\n")
    assert json.loads(answer)["choices"][0]["message"]["content"] == "Hi"
    assert spoken == version.removeprefix("--http").removesuffix(".0")


def test_a_large_upload_and_a_large_answer_go_through_windows(served: Harness) -> None:
    text = "y" * 1_500_000
    served.respond_with(answered(text))
    with httpx.Client(http2=True, verify=False, trust_env=False, timeout=WAIT_SECONDS) as client:
        host, port = served.gateway.address
        body = {"model": A, "messages": [{"role": "user", "content": "x" * 1_500_000}]}
        answer = client.post(f"https://{host}:{port}{CHAT}", json=body, headers={"authorization": "Bearer k"})
    assert answer.json()["choices"][0]["message"]["content"] == text
    served.respond_with(answered("Hi"))


# --- requests that are refused --------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Headers, int]] = {
    "a method in small letters": (head("get", "/v1/models"), 400),
    "a proxy's request": ([(":method", "CONNECT"), (":authority", "127.0.0.1:1")], 400),
    "a host that is none": (head("GET", "/v1/models", authority="a b"), 400),
    "a path that is none": (head("GET", "v1/models"), 400),
    "too many headers": (head("GET", "/v1/models", *((f"x-{number}", "1") for number in range(100))), 431),
    "large headers": (head("GET", "/v1/models", *((f"x-{number}", "1" * 4_000) for number in range(9))), 431),
    "a long URL": (head("GET", "/v1/models?" + "a" * 9_000), 414),
    "a type that is not JSON": (head("POST", CHAT, ("content-type", "text/plain")), 415),
}


@pytest.mark.parametrize("name", REFUSED)
def test_edges(served: Harness, name: str) -> None:
    headers, status = REFUSED[name]
    with connected(served.gateway, validate_inbound_headers=False) as caller:
        code, body = caller.response(caller.request(headers))
        assert code == status, body
        assert json.loads(body)["error"]["message"]
        assert caller.response(caller.chat())[0] == 200, "the connection goes on"


def test_a_priority_before_a_refused_request_ends_nothing(served: Harness) -> None:
    headers, status = REFUSED["a method in small letters"]
    with connected(served.gateway, validate_inbound_headers=False) as caller:
        caller.raw(frame(PRIORITY, 0, 1, bytes([0, 0, 0, 0, 15])))
        assert caller.response(caller.request(headers))[0] == status
        assert caller.response(caller.chat())[0] == 200, "the connection goes on"


def test_two_hosts_end_the_connection(served: Harness) -> None:
    with connected(served.gateway) as caller:
        caller.request(head("GET", "/v1/models", ("host", "example.com")))
        assert caller.goaway() == h2.errors.ErrorCodes.PROTOCOL_ERROR


def test_who_breaks_tls_off_is_no_news(served: Harness) -> None:
    """The server's thread raises in the end what nobody has handled."""
    served.respond_with(streamed(*["word "] * 300))
    for _ in range(3):
        with connected(served.gateway) as caller:
            caller.chat(stream=True)
            caller.raw(frame(DATA, 0, 0, b"x"))
    served.respond_with(answered("Hi"))


def test_websockets_are_not_offered(served: Harness) -> None:
    with connected(served.gateway) as caller:
        assert caller.response(caller.chat())[0] == 200
        assert not caller.h2.remote_settings.enable_connect_protocol
        headers = [*head("CONNECT", "/v1/responses"), (":protocol", "websocket")]
        stream = caller.request(headers[:4] + headers[-1:] + headers[4:-1], ended=False)
        ends = (h2.events.StreamReset, h2.events.ResponseReceived, h2.events.ConnectionTerminated)
        event = caller.wait(lambda event: isinstance(event, ends) and getattr(event, "stream_id", stream) == stream)
        assert not isinstance(event, h2.events.ResponseReceived) or status_of(event) == 400


def test_a_body_that_is_too_large_is_answered_and_discarded(certificates: Certificates) -> None:
    with secured(certificates, body_limit=30_000) as harness, connected(harness.gateway) as caller:
        headers = head("POST", CHAT, ("content-type", "application/json"), ("content-length", "90000"))
        stream = caller.request(headers, b"x" * 10_000, ended=False)
        assert caller.response(stream)[0] == 413
        assert caller.reset_code(stream) == h2.errors.ErrorCodes.NO_ERROR
        undeclared = caller.request(headers[:-1], b"x" * 8_000, ended=False)
        for _ in range(3):
            caller.h2.send_data(undeclared, b"x" * 8_000)
        caller.flush()
        assert caller.response(undeclared)[0] == 413
        assert caller.response(caller.chat())[0] == 200, "the connection goes on"


def test_a_slow_body_is_refused(certificates: Certificates) -> None:
    with secured(certificates, timeouts=Timeouts(request_body=1.0)) as harness, connected(harness.gateway) as caller:
        stream = caller.request(head("POST", CHAT, ("content-type", "application/json")), b"{", ended=False)
        assert caller.response(stream)[0] == 408
        assert caller.response(caller.chat())[0] == 200


# --- what ends in the middle ----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _responds(request: pytest.FixtureRequest) -> None:
    if "served" in request.fixturenames:
        request.getfixturevalue("served").respond_with(answered("Hi"))


def test_a_cut_answer_does_not_look_complete(served: Harness) -> None:
    served.respond_with((STREAM_HEAD, Chunk(BEGUN), Cut()))
    with connected(served.gateway) as caller:
        body = {"model": A, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        stream = caller.request(head("POST", "/cohere/v2/chat"), json.dumps(body).encode())
        assert caller.response(stream)[0] == 200
        assert caller.reset_code(stream) == h2.errors.ErrorCodes.INTERNAL_ERROR
        served.respond_with(answered("Hi"))
        assert caller.response(caller.chat())[0] == 200


def test_a_caller_who_resets_a_stream_has_left(served: Harness) -> None:
    served.respond_with((STREAM_HEAD, Chunk(BEGUN), Pause(NEVER)))
    with connected(served.gateway) as caller:
        stream = caller.chat(stream=True)
        assert caller.wait(lambda event: isinstance(event, h2.events.DataReceived)) is not None
        exchange = served.upstream.exchanges[-1]
        caller.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        caller.flush()
        exchange.closed.wait_in_thread()
        served.respond_with(answered("Hi"))
        assert caller.response(caller.chat())[0] == 200, "the connection goes on"


def test_who_reads_nothing_of_a_stream_loses_it_alone(certificates: Certificates) -> None:
    with secured(certificates, timeouts=Timeouts(response_write=1.5)) as harness, connected(harness.gateway) as caller:
        assert caller.response(caller.chat())[0] == 200
        caller.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        caller.flush()
        harness.respond_with((STREAM_HEAD, Chunk(BEGUN), Pause(NEVER)))
        stalled = caller.chat(stream=True)
        assert caller.reset_code(stalled) == h2.errors.ErrorCodes.CANCEL
        harness.upstream.exchanges[-1].closed.wait_in_thread()
        caller.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 65_535})
        harness.respond_with(answered("Hi"))
        assert caller.response(caller.chat())[0] == 200


# --- floods ---------------------------------------------------------------------------------------------------


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame as in RFC 9113 §4.1."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


DATA, HEADERS, PRIORITY, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION, UNKNOWN = 0, 1, 2, 4, 6, 8, 9, 0x4D
MANY = 6_000
FLOODS: dict[str, bytes] = {
    "pings": frame(PING, 0, 0, bytes(8)) * MANY,
    "settings": frame(SETTINGS, 0, 0) * MANY,
    "settings that change": frame(SETTINGS, 0, 0, b"\0\4\0\0\xff\xff" + b"\0\4\0\1\xff\xff") * MANY,
    "priorities": b"".join(frame(PRIORITY, 0, 3 + 2 * n, bytes([0, 0, 0, 0, 15])) for n in range(MANY)),
    "frames that nobody knows": frame(UNKNOWN, 0, 0, b"x") * MANY,
    "windows of a byte": frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1") * MANY,
    "continuations": frame(HEADERS, 0, 1, b"\x82") + frame(CONTINUATION, 0, 1, b"\0\1a\1b") * MANY,
    "a list of headers that unpacks": frame(HEADERS, 5, 1, b"\x40\1a\x7f\xa1\x1e" + b"b" * 4_000 + b"\xbe" * 12_000),
}


@pytest.mark.parametrize("name", FLOODS)
def test_floods_end_the_connection(served: Harness, name: str) -> None:
    with connected(served.gateway) as caller, connected(served.gateway) as other:
        caller.raw(FLOODS[name])
        code = caller.goaway()
        assert caller.over or code not in (None, h2.errors.ErrorCodes.NO_ERROR)
        while not caller.over:
            caller.read()
        assert other.response(other.chat())[0] == 200, "nobody else notices"


@pytest.mark.parametrize("data", [b"", b" "], ids=["empty", "a byte"])
def test_a_flood_of_small_data(served: Harness, data: bytes) -> None:
    with connected(served.gateway) as caller:
        stream = caller.request(head("POST", CHAT, ("content-type", "application/json")), b"{", ended=False)
        # The allowance grows by 500 such bytes a second: a server that has little of the processor must be sent more.
        caller.raw(frame(DATA, 0, stream, data) * MANY * 10)
        assert caller.goaway() in (None, CALM)
        while not caller.over:
            caller.read()


def test_a_flood_of_resets(served: Harness) -> None:
    """Each request is begun and taken back: CVE-2023-44487."""
    served.respond_with((STREAM_HEAD, Chunk(BEGUN), Pause(NEVER)))
    before, calls = served.gateway.tasks(), len(served.upstream.exchanges)
    with connected(served.gateway) as caller:
        for _ in range(2_000):
            stream = caller.h2.get_next_available_stream_id()
            caller.h2.send_headers(stream, head("POST", CHAT, ("content-type", "application/json")))
            caller.h2.reset_stream(stream)
            if not stream % 100:
                caller.flush()
        caller.flush()
        assert caller.goaway() in (None, CALM)
        while not caller.over:
            caller.read()
    served.respond_with(answered("Hi"))
    assert len(served.upstream.exchanges) - calls < 100
    awaited(lambda: served.gateway.tasks() <= before + 5)
    with connected(served.gateway) as caller:
        assert caller.response(caller.chat())[0] == 200


def test_a_long_stream_is_no_flood(served: Harness) -> None:
    """A client that opens its window for each frame is honest."""
    served.respond_with(streamed(*["word "] * 3_000))
    with connected(served.gateway) as caller:
        status, body = caller.response(caller.chat(stream=True))
        assert status == 200
        assert body.rstrip().endswith(b"[DONE]")
    served.respond_with(answered("Hi"))


# --- certificates ---------------------------------------------------------------------------------------------


def test_old_protocols_and_weak_ciphers_are_refused(served: Harness, certificates: Certificates) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-GCM-SHA256")  # without forward secrecy
    with pytest.raises(ssl.SSLError), socket.create_connection(served.gateway.address) as connection:
        context.wrap_socket(connection)
    own = context_of(TlsSettings(certificate=str(certificates.server)))
    assert own.minimum_version is ssl.TLSVersion.TLSv1_2
    names = {cipher["name"] for cipher in own.get_ciphers()}
    assert all(
        name.startswith(("TLS_", "ECDHE-"))
        and name.endswith(("GCM-SHA256", "GCM-SHA384", "POLY1305", "_SHA256", "_SHA384"))
        for name in names
    )


WRONG: dict[str, tuple[Callable[[Certificates], TlsSettings], str]] = {
    "no file": (lambda some: TlsSettings("/nowhere.pem"), "tls.certificate: cannot read /nowhere.pem"),
    "no key": (lambda some: TlsSettings(str(some.client)), "cannot be used"),
    "the key of another": (lambda some: TlsSettings(str(some.server), str(some.client_key)), "cannot be used"),
    "no certificate": (lambda some: TlsSettings(str(some.client_key)), "cannot be used"),
    "no file of a key": (lambda some: TlsSettings(str(some.server), "/nowhere.key"), "tls.key: cannot read"),
}


@pytest.mark.parametrize("name", WRONG)
def test_certificates_that_cannot_be_used(certificates: Certificates, name: str) -> None:
    settings, sentence = WRONG[name]
    with pytest.raises(SettingError, match=sentence):
        context_of(settings(certificates))


def certificate_of(port: int) -> bytes:
    """The certificate that a server shows."""
    return ssl.get_server_certificate(("127.0.0.1", port)).encode()


def test_sighup_brings_another_certificate_and_drops_nobody(certificates: Certificates, tmp_path: Path) -> None:
    file = tmp_path / "server.pem"
    file.write_bytes(certificates.server.read_bytes())
    other = issued_in(tmp_path)  # its server.pem is the file: the new certificate is there
    new = other.server.read_bytes()
    file.write_bytes(certificates.server.read_bytes())
    release = Signal()
    script = (STREAM_HEAD, Chunk(BEGUN), Pause(release), *streamed("x")[1:])
    with (
        ScriptedUpstream(script).run_in_thread() as upstream,
        process(COHERE_BASE_URL=upstream.url, COHERE_API_KEY="k", GATEWAY_TLS_CERTIFICATE=str(file)) as server,
    ):
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=ssl._create_unverified_context())
        body = {"model": A, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        connection.request("POST", CHAT, json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        assert response.readline().startswith(b"data: ")
        old = certificate_of(server.port)
        file.write_bytes(new)
        server.signal(signal.SIGHUP)
        awaited(lambda: certificate_of(server.port) != old)
        file.write_text("rubbish")
        server.signal(signal.SIGHUP)
        awaited(lambda: any(b"the new certificate cannot be used" in line for line in server.written))
        assert certificate_of(server.port) != old, "the one that could be used stays"
        release.set()
        assert b"data: " in response.read(), "the stream went on"
        connection.close()


# --- unix sockets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["hypercorn", "uvicorn"])
def test_a_unix_socket(tmp_path: Path, server: str) -> None:
    path = tmp_path / "gateway.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))  # by a gateway that was killed
    with (
        ScriptedUpstream(answered("Hi")).run_in_thread() as upstream,
        process(
            "--host",
            f"unix:{path}",
            COHERE_BASE_URL=upstream.url,
            COHERE_API_KEY="k",
            GATEWAY_TRUSTED_PROXIES="unix",
            GATEWAY_SERVER=server,
            GATEWAY_WORKERS="2",
        ) as gateway,
    ):
        assert f"curl --unix-socket {path} http://localhost/v1" in gateway.announced
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, base_url="http://localhost", timeout=WAIT_SECONDS) as client:
            body = {"model": A, "messages": [{"role": "user", "content": "Hi"}]}
            answer = client.post(CHAT, json=body, headers={"x-forwarded-for": "203.0.113.7"})
            assert answer.json()["choices"][0]["message"]["content"] == "Hi"
            assert client.get("/metrics").status_code == 200, "only this machine reaches it"
        with pytest.raises(ListenError, match="another process does"):
            listen(f"unix:{path}", 0)
        gateway.signal(signal.SIGTERM)
        assert gateway.ends() == 0
    assert not path.exists()


def test_a_unix_socket_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of somebody")
    for path in (tmp_path / "file", tmp_path / "no" / "folder", tmp_path / ("x" * 200)):
        with pytest.raises(ListenError, match="cannot listen on unix:"):
            listen(f"unix:{path}", 0)
    assert (tmp_path / "file").read_text() == "of somebody"
