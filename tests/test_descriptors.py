"""A gateway without file descriptors: it neither spins nor floods its log, blames Cohere for nothing, and recovers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import descriptors
from gateway.descriptors import AcceptLimit
from gateway.upstream.http1_client import Unreachable
from gateway.upstream.response import connection_error
from support.app import SERVERS, answered
from support.process import Process, awaited, process, reads_until, request_bytes
from support.scripted_upstream import ScriptedUpstream
from support.waiting import WAIT_SECONDS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux changes the limits of another process")

SECONDS = 2.0
MOST_WAIT = 4.0
"""Seconds for one of a few, on a busy machine; some 0.1 on a quiet one."""
ASKS = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"


def open_files(worker: int) -> int:
    return len(os.listdir(f"/proc/{worker}/fd"))


def cpu_seconds(worker: int) -> float:
    fields = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def limit(worker: int, count: int) -> None:
    """Sets the number of descriptors that a running process may have."""
    _, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (count, hard))


@contextlib.contextmanager
def connections(server: Process, count: int, data: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many connections on which these bytes are sent."""
    with contextlib.ExitStack() as stack:
        callers = []
        for _ in range(count):
            callers.append(stack.enter_context(socket.create_connection(("127.0.0.1", server.port), WAIT_SECONDS)))
            callers[-1].sendall(data)
        yield callers


def troubles(server: Process) -> list[str]:
    return [line["message"] for line in map(json.loads, server.written) if "message" in line]


def test_callers_wait_while_few_descriptors_are_left_and_are_served_when_there_are_more() -> None:
    with ScriptedUpstream(answered()).run_in_thread() as upstream:
        with process(COHERE_BASE_URL=upstream.url, COHERE_API_KEY="server-key") as server:
            (worker,) = server.workers
            limit(worker, 80)
            # Their requests have begun: they are not closed for others.
            with connections(server, 200, request_bytes()[:-1]) as callers:
                # The first one is served, its call to Cohere too.
                callers[0].sendall(request_bytes()[-1:])
                assert b" 200 " in reads_until(callers[0], b'"finish_reason":"stop"')
                awaited(lambda: len(troubles(server)) == 1)
                assert "descriptors" in troubles(server)[0]
                used, lines = cpu_seconds(worker), len(server.written)
                time.sleep(SECONDS)
                assert cpu_seconds(worker) - used < SECONDS / 4, "it spins"
                assert len(server.written) - lines <= 2, server.written[-3:]
                assert open_files(worker) <= 70
                callers[-1].settimeout(0.2)
                callers[-1].sendall(request_bytes()[-1:])
                with pytest.raises(TimeoutError):
                    callers[-1].recv(1)
                for caller in callers[:-1]:
                    caller.close()
                callers[-1].settimeout(WAIT_SECONDS)
                assert b" 200 " in reads_until(callers[-1], b'"finish_reason":"stop"')
            assert b" 200 " in server.chat()


@pytest.mark.parametrize("kind", SERVERS)
def test_who_sends_no_whole_request_is_closed_for_others(kind: str) -> None:
    with process("--demo", GATEWAY_SERVER=kind) as server:
        (worker,) = server.workers
        limit(worker, 80)
        with connections(server, 200, b"GET / HTTP/1.1\r\n") as callers:
            lines = len(server.written)
            waits = []
            for _ in range(3):
                began = time.monotonic()
                with connections(server, 1, ASKS) as (newcomer,):
                    newcomer.settimeout(WAIT_SECONDS)
                    assert b" 200 " in reads_until(newcomer, b"}")
                waits.append(time.monotonic() - began)
            assert min(waits) < MOST_WAIT, "who sends nothing is not closed at once"
            callers[0].settimeout(WAIT_SECONDS)
            assert callers[0].recv(1) == b""
            awaited(lambda: len(server.written) - lines >= 3)
            assert len(server.written) - lines <= 5, "half a request is no news"
        limit(worker, 1000)


def test_idle_connections_are_closed_for_new_ones() -> None:
    with process("--demo") as server:
        (worker,) = server.workers
        spoken = 40
        with connections(server, spoken) as callers:
            for caller in callers:
                caller.sendall(ASKS)
                assert b" 200 " in reads_until(caller, b"}")
            limit(worker, open_files(worker) + 10)
            with connections(server, 20) as others:
                for other in others:
                    other.sendall(ASKS)
                    assert b" 200 " in reads_until(other, b"}")
                callers[0].settimeout(WAIT_SECONDS)
                assert callers[0].recv(1) == b"", "the one that was idle longest is closed"
            limit(worker, 1000)


def test_a_call_without_a_descriptor_is_no_failure_of_coheres() -> None:
    settings = {"GATEWAY_BREAKER_FAILURES": "3", "GATEWAY_RETRIES_COUNT": "0"}
    with ScriptedUpstream(answered()).run_in_thread() as upstream:
        with process(COHERE_BASE_URL=upstream.url, COHERE_API_KEY="server-key", **settings) as server:
            (worker,) = server.workers
            with connections(server, 8) as callers:
                for caller in callers:  # they are accepted, and all that is loaded late is loaded
                    caller.sendall(ASKS)
                    reads_until(caller, b"}")
                limit(worker, 3)
                for number, caller in enumerate(callers):
                    caller.sendall(request_bytes(f"call-{number}"))
                    response = reads_until(caller, b"}}")
                    assert response.startswith(b"HTTP/1.1 503") and b"out_of_descriptors" in response
                    assert b"retry-after: 1\r\n" in response
                assert not upstream.requests
                limit(worker, 1000)
                callers[0].sendall(request_bytes("after"))
                assert reads_until(callers[0], b"}").startswith(b"HTTP/1.1 200")
            assert not [line for line in troubles(server) if "circuit breaker" in line]


def test_a_lookup_that_fails_for_want_of_a_descriptor_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver's own error says nothing of it."""
    error = Unreachable(None, "Temporary failure in name resolution")
    assert connection_error(error).cause == "unreachable"
    monkeypatch.setattr(descriptors, "exhausted", lambda: True)
    assert connection_error(error).cause == "descriptors"


def test_the_listener_may_be_closed_while_accepting_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(descriptors, "exhausted", lambda share=0: True)
    reports: list[str] = []
    errors: list[object] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))
        AcceptLimit(loop, reports.append).install()
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        with socket.create_connection(address, WAIT_SECONDS):
            await asyncio.sleep(0.05)
            server.close()
            await asyncio.sleep(0.05)

    asyncio.run(main())
    assert len(reports) == 1 and not errors
