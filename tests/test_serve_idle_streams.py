"""What a stream keeps that waits for its model, which may take minutes."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from gateway.server.connection import MessageQueue
from support.app import SERVER_KEY, SERVERS, opened, piece, start
from support.process import awaited, process, reads_until, request_bytes
from support.scripted_upstream import Pause, ScriptedUpstream, Signal, event_stream, transcript
from support.waiting import WAIT_SECONDS

STREAM_BYTES = 45_000
"""Of a stream itself, more than it takes."""


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize(("streams", "text"), [(24, 500_000), (120, 60_000)])
def test_of_a_request_one_copy_is_kept(server: str, streams: int, text: int) -> None:
    """Cohere's, and neither the caller's nor what the server read last, which is all of a shorter one."""
    over = Signal()
    script = event_stream(transcript(start(), opened(), piece("Hi"), done=False), ending=Pause(over))
    with ScriptedUpstream(script).run_in_thread() as upstream, contextlib.ExitStack() as stack:
        stack.callback(over.set)
        environment = {"COHERE_API_KEY": SERVER_KEY, "COHERE_BASE_URL": upstream.url, "GATEWAY_SERVER": server}
        gateway = stack.enter_context(process(**environment))
        request = request_bytes(stream=True, messages=[{"role": "user", "content": "x" * text}])

        def begin() -> None:
            connection = socket.create_connection(("127.0.0.1", gateway.port), WAIT_SECONDS)
            stack.enter_context(contextlib.closing(connection)).sendall(request)
            reads_until(connection, b"Hi")

        for _ in range(4):  # what the first ones need stays
            begin()
        before = gateway.memory()
        for _ in range(streams):
            begin()
        awaited(lambda: gateway.memory() - before < streams * (1.5 * text + STREAM_BYTES))


@pytest.mark.asyncio
async def test_messages_come_in_their_order_and_wait_for_room() -> None:
    queue = MessageQueue(2)
    await queue.put(1)
    await queue.put(2)
    third, fourth = asyncio.create_task(queue.put(3)), asyncio.create_task(queue.put(4))
    await asyncio.sleep(0)
    assert not third.done() and not fourth.done()
    assert await queue.get() == 1
    await third
    assert not fourth.done()
    assert [await queue.get() for _ in range(3)] == [2, 3, 4]
    await fourth


@pytest.mark.asyncio
async def test_a_message_reaches_whoever_still_waits() -> None:
    queue = MessageQueue(1)
    leaver, stayer = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    await queue.put(1)
    leaver.cancel()  # in the turn in which it was woken
    assert await stayer == 1
    assert leaver.cancelled()


@pytest.mark.asyncio
async def test_who_waits_for_room_goes_on_when_all_is_dropped() -> None:
    queue = MessageQueue(1)
    await queue.put(1)
    waiting = [asyncio.create_task(queue.put(number)) for number in (2, 3)]
    await asyncio.sleep(0)
    queue.clear()
    assert await queue.get() == 2
    assert await queue.get() == 3
    await asyncio.gather(*waiting)
