"""Streams whose model is silent: comments keep the caller's connection open, and nothing else changes.

Also what bounds silence: the timeouts between two events and of the whole answer.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway.settings.schema import Timeouts
from support.app import CALLER_KEY, CHAT, CLOSED, A, Stage, end, opened, piece, stage, start, streamed
from support.scripted_upstream import Chunk, End, Head, Pause, Script, Signal, transcript

EVENTS = Head(200, (("content-type", "text/event-stream"),))
BEGUN = transcript(start(), opened(), piece("Hi"), done=False)
REST = transcript(piece(" there."), CLOSED, end())
COMMENT = b": keep-alive\n\n"
NEVER = Signal()


def late(go_on: Signal) -> Script:
    return (EVENTS, Chunk(BEGUN), Pause(go_on), Chunk(REST), End())


@contextmanager
def reading(staged: Stage, path: str = CHAT) -> Iterator[socket.socket]:
    """A caller's socket on which a stream has been asked for."""
    question = {"input": "Hi"} if path != CHAT else {"messages": [{"role": "user", "content": "Hi"}]}
    body = json.dumps({"model": A, "stream": True, **question}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {CALLER_KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(staged.gateway.address, 30) as connection:
        connection.sendall(head.encode() + body)
        yield connection


def until(connection: socket.socket, wanted: bytes, count: int = 1) -> bytes:
    received = b""
    while received.count(wanted) < count:
        some = connection.recv(65536)
        assert some, f"the connection was closed after {received!r}"
        received += some
    return received


@pytest.mark.parametrize("path", [CHAT, "/v1/responses"])
def test_a_silent_stream_is_kept_alive(path: str) -> None:
    go_on = Signal()
    with stage(stream_keep_alive=0.05) as staged:
        staged.plays(late(go_on))
        with reading(staged, path) as connection:
            received = until(connection, COMMENT, 3)
            assert b"Hi" in received.partition(COMMENT)[0], "a comment came before the first event"
            go_on.set()
            received += until(connection, b"[DONE]")
        assert b" there." in received


def test_the_sdk_does_not_see_comments() -> None:
    go_on = Signal()
    with stage(stream_keep_alive=0.02) as staged, staged.gateway.client() as client:
        staged.plays(late(go_on))
        stream = client.chat.completions.create(model=A, messages=[{"role": "user", "content": "Hi"}], stream=True)
        text = ""
        for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            if text == "Hi" and not go_on.is_set():
                time.sleep(0.1)  # some comments come
                go_on.set()
        assert text == "Hi there."


def test_no_comment_before_the_first_event() -> None:
    go_on = Signal()
    with stage(stream_keep_alive=0.02) as staged:
        staged.plays((EVENTS, Pause(0.3), Pause(go_on), Chunk(BEGUN + REST), End()))
        with reading(staged) as connection:
            connection.settimeout(0.2)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            go_on.set()
            connection.settimeout(10)
            assert COMMENT not in until(connection, b"[DONE]")


def test_no_comments_if_the_setting_says_so() -> None:
    go_on = Signal()
    with stage(stream_keep_alive=0) as staged:
        staged.plays(late(go_on))
        with reading(staged) as connection:
            received = until(connection, b'"Hi"')
            connection.settimeout(0.3)
            with pytest.raises(TimeoutError):
                received += connection.recv(65536)
            go_on.set()
            connection.settimeout(10)
            assert COMMENT not in received + until(connection, b"[DONE]")


def test_a_stream_that_flows_gets_no_comments() -> None:
    with stage(stream_keep_alive=0.5) as staged:
        staged.plays(streamed(*["x"] * 200))
        assert COMMENT not in staged.gateway.chat(stream=True).data


def test_comments_do_not_hide_that_the_model_is_gone() -> None:
    with stage(stream_keep_alive=0.05, timeouts=Timeouts(between_events=0.3)) as staged:
        staged.plays((EVENTS, Chunk(BEGUN), Pause(NEVER)))
        seen = staged.gateway.chat(stream=True)
        assert seen.chunks[-1]["error"]["code"] == "upstream_timeout"
        assert COMMENT in seen.data
        staged.upstream.closed[0].wait_in_thread()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_answer_that_never_ends_is_ended(stream: bool) -> None:
    """Each read is in time, but the whole is not."""
    with stage(timeouts=Timeouts(total=0.5)) as staged:
        trickle: list[Chunk | Pause] = [Pause(0.02), Chunk(transcript(piece("x"), done=False))] * 1_000
        staged.plays((EVENTS, Chunk(BEGUN), *trickle) if stream else (Head(200, ()), *trickle))
        began = time.monotonic()
        seen = staged.gateway.chat(stream=stream)
        assert time.monotonic() - began < 5
        told = seen.chunks[-1]["error"] if stream else seen.error
        assert told["code"] == "upstream_timeout"
        staged.upstream.closed[0].wait_in_thread()


def test_a_flood_that_never_ends_is_ended() -> None:
    """No read ever waits."""
    with stage(timeouts=Timeouts(total=0.5)) as staged:
        flood: list[Chunk | Pause] = [Chunk(transcript(*[piece("x" * 100)] * 20, done=False)), Pause(0)] * 100_000
        staged.plays((EVENTS, Chunk(BEGUN), Pause(0.01), *flood))
        seen = staged.gateway.chat(stream=True)
        assert seen.chunks[-1]["error"]["code"] == "upstream_timeout"
        staged.upstream.closed[0].wait_in_thread()
