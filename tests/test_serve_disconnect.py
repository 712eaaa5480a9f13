"""Who leaves and when: callers in the middle of an answer, connections, and the server itself.

The first part asks whether the upstream learns at once that its caller has gone; the second what happens when
a caller reads slowly or connections could be used again; the third starts `cohere-gateway serve` as a
process and stops it with signals.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.http.responses import LARGEST_SEND
from gateway.pipeline.http_sink import HttpSink
from gateway.settings.schema import Timeouts
from support.app import (
    CALLER_KEY,
    CLOSED,
    A,
    Gateway,
    answered,
    end,
    gateway_over,
    opened,
    piece,
    run_harness,
    start,
    story,
    streamed,
    whole,
)
from support.process import Process, awaited, process, reads_until, request_bytes
from support.scripted_upstream import (
    Chunk,
    Cut,
    End,
    Head,
    Pause,
    Script,
    ScriptedUpstream,
    Signal,
    Write,
    event_stream,
    json_answer,
    transcript,
)
from support.waiting import WAIT_SECONDS

ROOT = Path(__file__).resolve().parents[1]
NEVER = Signal()
SOON = 30.0
"""Seconds within which an upstream must learn that its caller has gone. It learns at once or never."""

BODY = json.dumps(whole()).encode()
STREAM_HEAD = Head(200, (("content-type", "text/event-stream"),))
BEGUN = transcript(start(), opened(), piece("Hi"), done=False)


@dataclass
class Waiting:
    """A gateway over an upstream that answers with one script and says when it was asked."""

    gateway: Gateway
    upstream: ScriptedUpstream
    request_arrived: Signal


@contextmanager
def waiting(script: Script, **settings: Any) -> Iterator[Waiting]:
    received = Signal()

    def respond(request: object) -> Script:
        received.set()
        return script

    with ScriptedUpstream(respond).run_in_thread() as upstream, gateway_over(upstream.url, **settings) as gateway:
        yield Waiting(gateway, upstream, received)


# --- callers who leave --------------------------------------------------------------------------------------

PHASES: tuple[tuple[str, bool, Script, bytes], ...] = (
    ("whole, before the head", False, (Pause(NEVER),), b""),
    ("whole, inside the body", False, (Head(200, (), "length", length=len(BODY)), Write(BODY[:50]), Pause(NEVER)), b""),
    ("streamed, before the head", True, (Pause(NEVER),), b""),
    ("streamed, before the first event", True, (STREAM_HEAD, Pause(NEVER)), b""),
    ("streamed, after some text", True, (STREAM_HEAD, Chunk(BEGUN), Pause(NEVER)), b'"Hi"'),
    (
        "streamed, while text comes",
        True,
        event_stream([BEGUN, *[transcript(piece("x"), done=False)] * 2_000], between=Pause(0.005)),
        b'"x"',
    ),
)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize(("name", "stream", "script", "sees"), PHASES, ids=[row[0] for row in PHASES])
def test_a_caller_leaves(name: str, stream: bool, script: Script, sees: bytes, reset: bool) -> None:
    with waiting(script) as harness:
        with socket.create_connection(harness.gateway.address, WAIT_SECONDS) as connection:
            connection.sendall(request_bytes(stream=stream))
            harness.request_arrived.wait_in_thread()
            if sees:
                reads_until(connection, sees)
            assert not harness.upstream.closed[0].is_set()
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        left = time.monotonic()
        harness.upstream.closed[0].wait_in_thread(SOON)
        closed_at = harness.upstream.closed[0].at
        assert closed_at is not None and closed_at - left < SOON
        line = harness.gateway.log.line_of("leaver")
        assert (line["status"], line["outcome"], line["fault"]) == (499, "client_closed", "caller_left")
        assert not [one for one in harness.gateway.log.lines if "message" in one]


def test_nothing_is_left_of_a_stream_whose_caller_left() -> None:
    with waiting((STREAM_HEAD, Chunk(BEGUN), Pause(NEVER))) as harness:
        with socket.create_connection(harness.gateway.address, WAIT_SECONDS) as connection:
            connection.sendall(request_bytes(stream=True))
            reads_until(connection, b'"Hi"')
        harness.gateway.log.line_of("leaver")
        harness.gateway.settle()
        gc.collect()
        # A timer that was not stopped would go on for ever, and keep it.
        assert not [one for one in gc.get_objects() if isinstance(one, HttpSink)]


async def _leave_by_cancelling(gateway: Gateway, requested: Signal, stream: bool) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{gateway.url}/v1",
        api_key=CALLER_KEY,
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False, verify=False),
    ) as client:

        async def ask() -> None:
            response: Any = await client.chat.completions.create(
                model=A, messages=[{"role": "user", "content": "Hi"}], stream=stream
            )
            if stream:
                async for _ in response:
                    pass

        task = asyncio.create_task(ask())
        await asyncio.wait_for(requested.wait(), WAIT_SECONDS)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.asyncio
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_the_sdk_is_cancelled(stream: bool) -> None:
    with waiting((Pause(NEVER),)) as harness:
        await _leave_by_cancelling(harness.gateway, harness.request_arrived, stream)
        await asyncio.wait_for(harness.upstream.closed[0].wait(), SOON)


def test_the_sdk_closes_a_stream() -> None:
    with waiting((STREAM_HEAD, Chunk(BEGUN), Pause(NEVER))) as harness:
        with harness.gateway.client() as client:
            stream = client.chat.completions.create(model=A, messages=[{"role": "user", "content": "Hi"}], stream=True)
            assert next(iter(stream)).choices[0].delta.role == "assistant"
            stream.close()
            harness.upstream.closed[0].wait_in_thread(SOON)


@pytest.mark.parametrize("order", ["late=30", "stall", "stall_stream", "slow=0.05"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_the_emulator_sees_its_caller_leave(demo: Gateway, order: str, stream: bool) -> None:
    if (order, stream) == ("slow=0.05", False):
        pytest.skip("over before anybody could leave")
    emulator = Gateway(demo.upstream, "", demo.log)
    mark = len(emulator.ask("GET", "/emulator/log").body)

    def record(when: Callable[[dict[str, Any]], bool], seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while True:
            requests = [one for one in emulator.ask("GET", "/emulator/log").body[mark:] if when(one)]
            if requests:
                return dict(requests[0])
            assert time.monotonic() < deadline, "no such record"

    fault = order.partition("=")[0]
    with socket.create_connection(demo.address, WAIT_SECONDS) as connection:
        connection.sendall(request_bytes(model=f"{A}@{order}", stream=stream))
        record(lambda one: one["fault"] == fault and one["closed_at"] is None, WAIT_SECONDS)
        if stream and order.startswith(("slow", "stall_stream")):
            reads_until(connection, b'"role":"assistant"')
    left = time.monotonic()
    gone = record(lambda one: one["fault"] == fault and one["closed_at"] is not None, SOON)
    assert gone["closed_by_caller"] and not gone["finished"]
    assert gone["closed_at"] - left < SOON


@pytest.mark.parametrize("length", [LARGEST_SEND * 3 - 500, LARGEST_SEND * 3, LARGEST_SEND - 500])
def test_a_large_answer_comes_whole(length: int) -> None:
    """It is handed to the connection piece by piece."""
    with run_harness() as harness:
        assert harness.chat_over(answered("x" * length)).text == "x" * length


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_leaving_in_the_middle_of_a_large_answer(reset: bool, capfd: pytest.CaptureFixture[str]) -> None:
    with run_harness() as harness:
        harness.respond_with(answered("x" * 40 * LARGEST_SEND))
        with socket.create_connection(harness.gateway.address, WAIT_SECONDS) as connection:
            connection.sendall(request_bytes("gone"))
            assert connection.recv(1_000)
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        line = harness.gateway.log.line_of("gone")
        assert (line["status"], line["outcome"], line["fault"]) == (499, "client_closed", "caller_left")
        assert "socket.send" not in capfd.readouterr().err, "asyncio complains of writing where nobody is"


def test_leaving_after_the_last_byte_is_not_leaving() -> None:
    with waiting(streamed()) as harness:
        with socket.create_connection(harness.gateway.address, WAIT_SECONDS) as connection:
            connection.sendall(request_bytes("reader", stream=True))
            reads_until(connection, b"[DONE]")
        assert harness.gateway.log.line_of("reader")["outcome"] == "ok"
        harness.upstream.exchanges[0].finished.wait_in_thread()


def test_many_callers_leave() -> None:
    """None of them keeps its upstream, and the gateway serves the next one."""
    with waiting((STREAM_HEAD, Chunk(BEGUN), Pause(NEVER))) as harness:
        callers = [socket.create_connection(harness.gateway.address, WAIT_SECONDS) for _ in range(30)]
        for connection in callers:
            connection.sendall(request_bytes(stream=True))
        for connection in callers:
            reads_until(connection, b'"Hi"')
        assert len(harness.upstream.exchanges) == 30
        for connection in callers:
            connection.close()
        for closed in harness.upstream.closed:
            closed.wait_in_thread(SOON)
        assert harness.gateway.ask("GET", "/health/live", headers={}).status == 200


# --- a slow reader --------------------------------------------------------------------------------------------

EVENT = b"event: content-delta\ndata: %s\n\n" % json.dumps(piece("lorem ipsum " * 2_000)).encode()
EVENTS = 2_700
SENT_AT_MOST = 24 << 20


class Firehose:
    """An upstream that writes as fast as it may, and counts."""

    def __init__(self, events: int) -> None:
        self.bytes_sent, self._events = 0, events
        self.cut = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            connection.settimeout(WAIT_SECONDS)
            reads_until(connection, b"\r\n\r\n")
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
            try:
                for block in (
                    transcript(start(), opened(), done=False),
                    *[EVENT] * self._events,
                    transcript(CLOSED, end()),
                ):
                    connection.sendall(block)
                    self.bytes_sent += len(block)
            except OSError:
                self.cut.set()

    def standstill(self) -> int:
        """What was sent when for half a second nothing more could be."""
        before, since = self.bytes_sent, time.monotonic()
        while time.monotonic() - since < 0.5:
            time.sleep(0.02)
            if self.bytes_sent != before:
                before, since = self.bytes_sent, time.monotonic()
        return before

    def close(self) -> None:
        self._socket.close()
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()


@contextmanager
def firehose(events: int = EVENTS) -> Iterator[Firehose]:
    result = Firehose(events)
    try:
        yield result
    finally:
        result.close()


def test_a_slow_reader_slows_cohere_down() -> None:
    with firehose() as hose, gateway_over(hose.url) as gateway:
        with socket.create_connection(gateway.address, WAIT_SECONDS) as connection:
            connection.sendall(request_bytes("slow", stream=True))
            reads_until(connection, b"lorem")
            stopped = hose.standstill()
            assert 0 < stopped < SENT_AT_MOST < len(EVENT) * EVENTS, "it all waits in the gateway's memory"
            # And nothing is lost when the caller reads on.
            size, tail = 0, b""
            while not tail.endswith(b"0\r\n\r\n"):
                some = connection.recv(1 << 20)
                assert some
                size += len(some)
                tail = (tail + some)[-64:]
        assert size > len("lorem ipsum ") * 2_000 * (EVENTS - 200)
        assert b"[DONE]" in tail
        assert gateway.log.line_of("slow")["outcome"] == "ok"


def test_a_slow_reader_who_leaves() -> None:
    with firehose() as hose, gateway_over(hose.url) as gateway:
        with socket.create_connection(gateway.address, WAIT_SECONDS) as connection:
            connection.sendall(request_bytes("slow-leaver", stream=True))
            reads_until(connection, b"lorem")
            hose.standstill()
        assert gateway.log.line_of("slow-leaver")["outcome"] == "client_closed"


@pytest.mark.parametrize("whole_answer", [False, True], ids=["streamed", "whole"])
def test_a_caller_who_reads_nothing_is_cut(whole_answer: bool) -> None:
    """What waits for them is thrown away, and Cohere's answer is read no further."""
    hurried = Timeouts(response_write=0.5)
    text = "lorem ipsum " * 1_500_000
    script = answered(text) if whole_answer else event_stream([BEGUN, *[EVENT] * EVENTS])
    with (
        waiting(script, timeouts=hurried) as harness,
        socket.create_connection(harness.gateway.address, WAIT_SECONDS) as connection,
    ):
        connection.sendall(request_bytes("stalled", stream=not whole_answer))
        reads_until(connection, b"lorem")
        assert harness.gateway.log.line_of("stalled")["outcome"] == "client_closed"
        with pytest.raises(ConnectionError):
            while connection.recv(1 << 20):
                pass


def test_a_caller_who_reads_slowly_is_not_cut() -> None:
    """One write of a large answer takes longer than the time limit; what counts is that some of it was read."""
    text = "lorem ipsum " * 1_000_000
    with (
        waiting(answered(text), timeouts=Timeouts(response_write=2.0)) as harness,
        socket.create_connection(harness.gateway.address, WAIT_SECONDS) as connection,
    ):
        connection.sendall(request_bytes("slow"))
        body = b""
        while len(body) < len(text):
            body += connection.recv(256 * 1024)
            time.sleep(0.08)
        assert harness.gateway.log.line_of("slow")["outcome"] == "ok"


A_GIGABYTE = 1 << 30
MORE_AT_MOST = 40 << 20
READ_ON = 16 << 20
"""The answer's own text is kept while it is told (citations point into it), so what was read counts, too."""


def test_a_reader_who_stops_while_cohere_sends_a_gigabyte() -> None:
    """Memory is flat while the reader stands still, and while they read on; and Cohere learns when they leave."""
    with firehose(A_GIGABYTE // len(EVENT)) as hose, process(COHERE_API_KEY="key", COHERE_BASE_URL=hose.url) as server:
        server.get("/metrics")
        before = server.memory()
        with socket.create_connection(("127.0.0.1", server.port), WAIT_SECONDS) as connection:
            connection.sendall(request_bytes(stream=True))
            reads_until(connection, b"lorem")
            stopped = hose.standstill()
            assert stopped < SENT_AT_MOST, "it all waits in the gateway's memory"
            assert server.memory() - before < MORE_AT_MOST
            size = 0
            while size < READ_ON:
                size += len(connection.recv(1 << 20))
            hose.standstill()
            assert server.memory() - before < MORE_AT_MOST + READ_ON
        assert hose.cut.wait(WAIT_SECONDS)
        assert hose.bytes_sent < A_GIGABYTE // 2


# --- connections that are used again --------------------------------------------------------------------------


def test_one_connection_to_cohere_serves_all() -> None:
    page = json_answer(200, {"models": []})
    with run_harness() as harness:
        for script, stream in (
            (answered(), False),
            (streamed(), True),
            (answered(), False),
            (streamed(), True),
            (event_stream(transcript(*story()), per_event=True, between=Pause(0.001)), True),
            (json_answer(429, {"message": "later"}), False),
            (json_answer(404, {"message": "no"}), True),
            (answered(), False),
        ):
            response = harness.chat_over(script, stream=stream)
            # It is free again when the stream's [DONE] has come too, a moment after the caller's.
            harness.gateway.log.line_of(response.headers["x-request-id"])
        harness.respond_with(page)
        harness.gateway.ask("GET", "/v1/models")
        assert harness.upstream.connections == 1


def test_a_connection_that_cohere_closed_is_not_used_again() -> None:
    with run_harness() as harness:
        for script in (answered(), (Head(200, (), "close"), Write(BODY), End()), answered()):
            assert harness.chat_over(script).text == "Hi there."
        assert harness.upstream.connections == 2
        harness.chat_over((*event_stream(BEGUN, ending=None), Cut()), stream=True)
        assert harness.chat_over(answered()).text == "Hi there."
        assert harness.upstream.connections == 3


def test_a_caller_keeps_their_connection() -> None:
    """Whole, streamed, refused: one connection of the caller's."""
    with run_harness() as harness:
        harness.respond_with(answered(), streamed(), answered())
        answers = b""
        with socket.create_connection(harness.gateway.address, WAIT_SECONDS) as connection:
            for stream in (False, True, False):
                connection.sendall(request_bytes(stream=stream))
                answers += reads_until(connection, b"0\r\n\r\n" if stream else b'"billed_units":{"input_tokens":4')
            connection.sendall(request_bytes(model=5))
            answers += reads_until(connection, b'"error"')
        assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"200", b"200", b"400"]


# --- the server as a process ----------------------------------------------------------------------------------


def test_it_says_where_it_is_and_what_to_paste() -> None:
    with process("--demo") as server:
        assert f"{server.url}/v1" in server.announced
        assert "emulator" in server.announced and "NOT Cohere" in server.announced
        (line,) = [line for line in server.announced.splitlines() if "curl" in line]
        command = line[line.index("curl") :]
        curl = shutil.which("curl")
        if curl is not None:
            words = shlex.split(command)
            answer = subprocess.run(
                [curl, "-sS", "--noproxy", "*", *words[1:]], capture_output=True, timeout=WAIT_SECONDS
            )
            assert json.loads(answer.stdout)["object"] == "chat.completion", answer
        assert b"x-gateway-upstream: emulator" in server.chat()
        server.signal(signal.SIGINT, group=True)
        assert server.ends() == 0
        assert all(set(line) >= {"request", "status"} for line in server.errors())


PATIENT = {"GATEWAY_TIMEOUTS_SHUTDOWN": "600", "GATEWAY_TIMEOUTS_KEEP_ALIVE": "600"}
"""For what ends at once: whatever should wait for the time that is left would do so for longer than a test does."""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_idle_server_ends_at_once(stop: signal.Signals, workers: int) -> None:
    with process("--demo", "--workers", str(workers), **PATIENT) as server:
        if workers > 1:
            server.settle(workers)
        # An idle connection, once used, must not hold the server.
        with socket.create_connection(("127.0.0.1", server.port), WAIT_SECONDS) as connection:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
            reads_until(connection, b"live")
            server.signal(stop, group=stop is signal.SIGINT)
            assert server.ends() == 0
        assert [line["path"] for line in server.errors()] == ["/health/live"]


@pytest.mark.parametrize("fault", ["stall", "stall_stream"])
def test_an_interrupt_does_not_wait_for_a_stream(fault: str) -> None:
    with process("--demo", **PATIENT) as server:
        with socket.create_connection(("127.0.0.1", server.port), WAIT_SECONDS) as connection:
            connection.sendall(request_bytes(model=f"{A}@{fault}", stream=True))
            if fault == "stall_stream":
                reads_until(connection, b'"role":"assistant"')
            else:
                # The count is of requests begun; this one is counted with its own scrape.
                awaited(lambda: b"gateway_requests_in_flight 2.0" in server.get("/metrics"))
            server.signal(signal.SIGINT)
            assert server.ends() == 0


@pytest.mark.parametrize("expected", [pytest.param("log"), pytest.param("errors")])
def test_what_a_forced_end_leaves_behind(expected: str) -> None:
    with process_over(late_stream) as (server, request, _):
        with socket.create_connection(("127.0.0.1", server.port), WAIT_SECONDS) as connection:
            connection.sendall(request_bytes(stream=True))
            reads_until(connection, b'"Hi"')
            server.signal(signal.SIGINT)
            assert server.ends() == 0
        if expected == "errors":
            server.errors()
        else:
            (line,) = server.lines()
            assert line["outcome"] and line["outcome"] != "ok"


@contextmanager
def process_over(script: Callable[[Signal], Script], **environment: str) -> Iterator[tuple[Process, Signal, Signal]]:
    """A server over a scripted upstream: with the signals "asked" and "go on"."""
    received, go_on = Signal(), Signal()

    def respond(request: object) -> Script:
        received.set()
        return script(go_on)

    with ScriptedUpstream(respond).run_in_thread() as upstream:
        settings = {"COHERE_API_KEY": "server-key", "COHERE_BASE_URL": upstream.url, **environment}
        with process(**settings) as server:
            yield server, received, go_on


def late_stream(go_on: Signal) -> Script:
    rest = transcript(piece(" there."), CLOSED, end())
    return (STREAM_HEAD, Chunk(BEGUN), Pause(go_on), Chunk(rest), End())


def late_answer(go_on: Signal) -> Script:
    return (Pause(go_on), *answered())


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_sigterm_lets_what_is_in_flight_finish(stream: bool) -> None:
    with process_over(late_stream if stream else late_answer, **PATIENT) as (server, request, go_on):
        with socket.create_connection(("127.0.0.1", server.port), WAIT_SECONDS) as connection:
            connection.sendall(request_bytes(stream=stream))
            request.wait_in_thread()
            received = reads_until(connection, b'"Hi"') if stream else b""
            server.signal(signal.SIGTERM)
            awaited(lambda: refuses(server.port))
            assert server.running
            go_on.set()
            received += reads_until(connection, b"[DONE]" if stream else b"Hi there.")
            assert b"HTTP/1.1 200" in received
            assert server.ends() == 0
        (line,) = server.errors()
        assert (line["status"], line["outcome"]) == (200, "ok")


def refuses(port: int) -> bool:
    """Whether nobody listens there any more."""
    try:
        with socket.create_connection(("127.0.0.1", port), WAIT_SECONDS):
            return False
    except ConnectionRefusedError:
        return True


def test_sigterm_does_not_wait_for_ever() -> None:
    with process_over(late_stream, GATEWAY_TIMEOUTS_SHUTDOWN="0.3") as (server, request, _):
        with socket.create_connection(("127.0.0.1", server.port), WAIT_SECONDS) as connection:
            connection.sendall(request_bytes(stream=True))
            reads_until(connection, b'"Hi"')
            server.signal(signal.SIGTERM)
            assert server.ends() == 0


def test_two_workers_add_up(tmp_path: Path) -> None:
    with process("--demo", "--workers", "2", TMPDIR=str(tmp_path)) as server:
        server.settle(2)  # three processes are starting, which on a busy machine takes longer than a caller waits
        for _ in range(20):
            assert b"HTTP/1.1 200" in server.chat()
        # The last one may be counted after its last byte came; whichever worker is asked, it is the sum.
        series = b'gateway_requests_total{model="command-a-03-2025",operation="chat",outcome="ok",status="200"} 20.0'
        awaited(lambda: series in server.get("/metrics"))
        for _ in range(6):
            assert series in server.get("/metrics")
        server.signal(signal.SIGTERM)
        assert server.ends() == 0
        lines = [line for line in server.lines() if line["operation"] == "chat"]
        assert len(lines) == 20
        assert sum(line["outcome"] == "ok" for line in lines) == 20
    assert not list(tmp_path.iterdir()), "the workers' metrics were left behind"


def test_two_workers_end_with_the_terminal() -> None:
    with process("--demo", "--workers", "2", **PATIENT) as server:
        server.settle(2)
        with socket.create_connection(("127.0.0.1", server.port), WAIT_SECONDS) as connection:
            connection.sendall(request_bytes(model=f"{A}@stall_stream", stream=True))
            reads_until(connection, b'"role":"assistant"')
            server.signal(signal.SIGINT, group=True)
            assert server.ends() == 0


def test_workers_can_be_stopped_while_they_start() -> None:
    with process("--demo", "--workers", "5") as server:
        server.await_processes(3, signal.SIGINT)  # Python is up in them and will take it for a KeyboardInterrupt
        server.signal(signal.SIGINT, group=True)
        assert server.ends() == 0
        server.errors()


def test_a_taken_port_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "serve", "--demo", "--port", str(port)],
            cwd=ROOT, capture_output=True, text=True, timeout=WAIT_SECONDS,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and str(port) in done.stderr
