"""Workers accept from one socket: each has as many connections as the others, and nobody waits for the absent."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.descriptors import MAX_ACCEPTED, AcceptLimit
from gateway.server.accept_turns import ABSENT_SECONDS, BYTES, AcceptSlot, AcceptTurns
from support.app import answered
from support.process import Process, awaited, process, reads_until
from support.scripted_upstream import ScriptedUpstream
from support.waiting import WAIT_SECONDS

ASKS = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"
Begins = Callable[[int], AcceptTurns]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def begins(tmp_path: Path, clock: Clock) -> Begins:
    """Begins the worker of an index, of three."""
    path = tmp_path / "counts"
    path.write_bytes(b"\0" * BYTES * 3)
    return lambda index: AcceptTurns(AcceptSlot(str(path), index, 3), clock)


def test_who_has_accepted_more_lets_others_go_first(begins: Begins) -> None:
    first, second = begins(0), begins(1)
    assert not first.is_others()
    first.accepted()
    assert first.is_others() and not second.is_others()
    second.accepted()
    assert not first.is_others() and not second.is_others(), "the third has never begun"


def test_what_others_do_not_take_counts_as_theirs(begins: Begins) -> None:
    first, second = begins(0), begins(1)
    for _ in range(5):
        first.accepted()
    first.take_over()
    assert not first.is_others()
    first.accepted()
    second.accepted()
    assert not first.is_others() and not second.is_others(), "it does not have to catch up with all five"


def test_nobody_waits_for_an_absent_worker(begins: Begins, clock: Clock) -> None:
    first, second, third = begins(0), begins(1), begins(2)
    first.accepted()
    third.leave()
    third.beat()
    clock.now += ABSENT_SECONDS - 1
    first.beat()
    assert first.is_others(), "the second has just been there"
    clock.now += 1.1
    assert not first.is_others()
    second.beat()
    assert first.is_others()


def test_a_worker_that_begins_later_has_its_share_and_no_more(begins: Begins) -> None:
    first = begins(0)
    for _ in range(100):
        first.accepted()
    second = begins(1)
    assert not first.is_others() and not second.is_others()


class Turns:
    def __init__(self, others: bool) -> None:
        self.others, self.count = others, 0

    def is_others(self) -> bool:
        return self.others

    def take_over(self) -> None:
        self.others = False

    def accepted(self) -> None:
        self.count += 1


@pytest.mark.parametrize("listens", ["itself", "by the loop"])
@pytest.mark.parametrize("others", [False, True])
def test_one_connection_in_a_turn_and_none_before_the_others(listens: str, others: bool) -> None:
    turns, counts = Turns(others), []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        limit = AcceptLimit(loop, lambda _: None, turns=turns)
        limit.install()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        with contextlib.ExitStack() as stack:
            for _ in range(5):
                stack.enter_context(socket.create_connection(listener.getsockname(), WAIT_SECONDS))
            if listens == "itself":
                limit.listen(listener, asyncio.Protocol)
            else:
                server = await loop.create_server(asyncio.Protocol, sock=listener)
            while turns.count < 5:
                await asyncio.sleep(0)
                counts.append((turns.others, turns.count))
            if listens == "itself":
                limit.stop_listening(listener)
            else:
                server.close()

    asyncio.run(main())
    assert all(count == 0 for waiting, count in counts if waiting)
    assert {*range(1, 6)} <= {count for _, count in counts}, "one after the other"


def test_a_single_worker_takes_many_in_a_turn() -> None:
    async def main() -> int:
        loop, protocols = asyncio.get_running_loop(), []

        def protocol() -> asyncio.Protocol:
            protocols.append(1)
            return asyncio.Protocol()

        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.setblocking(False)
            for _ in range(MAX_ACCEPTED):
                stack.enter_context(socket.create_connection(listener.getsockname(), WAIT_SECONDS))
            limit = AcceptLimit(loop, lambda _: None)
            limit._accept_some(listener, protocol, None)
            await asyncio.sleep(0)
            return len(protocols)

    assert asyncio.run(main()) == MAX_ACCEPTED


def present(folder: Path) -> Sequence[float]:
    """When each of two workers was last there. A process has the socket before it serves, and is not there yet."""
    (path,) = folder.glob("accept-counts-*")
    return struct.unpack("=2d", path.read_bytes()[16:32])


@pytest.mark.parametrize("server", ["hypercorn", "uvicorn"])
def test_two_workers_take_turns(server: str, tmp_path: Path) -> None:
    """One after the other, which is when the worker that was quicker once would be so again."""
    settings: dict[str, Any] = {"GATEWAY_WORKERS": "2", "GATEWAY_SERVER": server}
    with ScriptedUpstream(answered()).run_in_thread() as upstream, contextlib.ExitStack() as stack:
        gateway: Process = stack.enter_context(
            process(
                COHERE_BASE_URL=upstream.url,
                COHERE_API_KEY="server-key",
                PROMETHEUS_MULTIPROC_DIR=str(tmp_path),
                **settings,
            )
        )
        # A process has the socket before it serves: who is there says so in the file.
        awaited(lambda: all(present(tmp_path)))
        for _ in range(40):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port), WAIT_SECONDS))
            connection.sendall(ASKS)
            assert b" 200 " in reads_until(connection, b"\r\n\r\n")
        (path,) = tmp_path.glob("accept-counts-*")
        counts = struct.unpack("=2q", path.read_bytes()[:16])
        # On a busy machine the one may not come when it is its turn, which counts as taken; if it comes at that very
        # moment, its connection is not counted.
        assert abs(counts[0] - counts[1]) <= 2 and min(counts) >= 15
