"""Streams whose model is silent: comments keep the caller's connection open, and nothing else changes.

Also what bounds silence: the timeouts between two events and of the whole answer.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gateway.settings.schema import OffloadSettings, Timeouts
from support.app import CALLER_KEY, CHAT, CLOSED, A, Harness, end, opened, piece, run_harness, start, streamed, whole
from support.scripted_upstream import Chunk, End, Head, Pause, Script, Signal, json_answer, transcript
from support.waiting import WAIT_SECONDS

EVENTS = Head(200, (("content-type", "text/event-stream"),))
BEGUN = transcript(start(), opened(), piece("Hi"), done=False)
REST = transcript(piece(" there."), CLOSED, end())
COMMENT = b": keep-alive\n\n"
NEVER = Signal()


def late(go_on: Signal) -> Script:
    return (EVENTS, Chunk(BEGUN), Pause(go_on), Chunk(REST), End())


@contextmanager
def reading(harness: Harness, path: str = CHAT, **fields: Any) -> Iterator[socket.socket]:
    """A caller's socket on which a stream has been asked for."""
    question = {"input": "Hi"} if path != CHAT else {"messages": [{"role": "user", "content": "Hi"}]}
    body = json.dumps({"model": A, "stream": True, **question, **fields}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {CALLER_KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(harness.gateway.address, WAIT_SECONDS) as connection:
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
def test_a_silent_stream_stays_open(path: str) -> None:
    go_on = Signal()
    with run_harness(stream_keep_alive=0.05) as harness:
        harness.respond_with(late(go_on))
        with reading(harness, path) as connection:
            received = until(connection, COMMENT, 3)
            assert b"Hi" in received.partition(COMMENT)[0], "a comment came before the first event"
            go_on.set()
            received += until(connection, b"[DONE]")
        assert b" there." in received


def test_the_sdk_does_not_see_comments() -> None:
    go_on = Signal()
    with run_harness(stream_keep_alive=0.02) as harness, harness.gateway.client() as client:
        harness.respond_with(late(go_on))
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
    with run_harness(stream_keep_alive=0.02) as harness:
        harness.respond_with((EVENTS, Pause(0.3), Pause(go_on), Chunk(BEGUN + REST), End()))
        with reading(harness) as connection:
            connection.settimeout(0.2)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            go_on.set()
            connection.settimeout(WAIT_SECONDS)
            assert COMMENT not in until(connection, b"[DONE]")


def test_no_comments_if_the_setting_says_so() -> None:
    go_on = Signal()
    with run_harness(stream_keep_alive=0) as harness:
        harness.respond_with(late(go_on))
        with reading(harness) as connection:
            received = until(connection, b'"Hi"')
            connection.settimeout(0.3)
            with pytest.raises(TimeoutError):
                received += connection.recv(65536)
            go_on.set()
            connection.settimeout(WAIT_SECONDS)
            assert COMMENT not in received + until(connection, b"[DONE]")


def test_a_stream_that_flows_gets_no_comments() -> None:
    with run_harness(stream_keep_alive=30) as harness:
        harness.respond_with(streamed(*["x"] * 200))
        assert COMMENT not in harness.gateway.chat(stream=True).data


def test_comments_do_not_hide_that_the_model_is_gone() -> None:
    with run_harness(stream_keep_alive=0.05, timeouts=Timeouts(between_events=1.5)) as harness:
        harness.respond_with((EVENTS, Chunk(BEGUN), Pause(NEVER)))
        response = harness.gateway.chat(stream=True)
        assert response.chunks[-1]["error"]["code"] == "upstream_timeout"
        assert COMMENT in response.data
        harness.upstream.closed[0].wait_in_thread()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_answer_that_never_ends_is_ended(stream: bool) -> None:
    """Each read is in time, but the whole is not."""
    with run_harness(timeouts=Timeouts(total=2.0)) as harness:
        trickle: list[Chunk | Pause] = [Pause(0.02), Chunk(transcript(piece("x"), done=False))] * 1_000
        harness.respond_with((EVENTS, Chunk(BEGUN), *trickle) if stream else (Head(200, ()), *trickle))
        response = harness.gateway.chat(stream=stream)
        error = response.chunks[-1]["error"] if stream else response.error
        assert error["code"] == "upstream_timeout"
        harness.upstream.closed[0].wait_in_thread()


@pytest.mark.parametrize("server", ["hypercorn", "uvicorn"])
def test_a_flood_that_never_ends_is_ended(server: str) -> None:
    """No read ever waits, or one did before the end: what has arrived by then is still read."""
    with run_harness(timeouts=Timeouts(total=1.0), server=server) as harness:
        flood: list[Chunk | Pause] = [Chunk(transcript(*[piece("x" * 100)] * 20, done=False)), Pause(0)] * 100_000
        for _ in range(3):
            harness.respond_with((EVENTS, Chunk(BEGUN), Pause(0.01), *flood))
            response = harness.gateway.chat(stream=True)
            assert response.chunks[-1]["error"]["code"] == "upstream_timeout"
            harness.upstream.closed[0].wait_in_thread()


# --- streams that are checked before they are shown ----------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
FORMAT = {"name": "answer", "schema": SCHEMA, "strict": True}
CHECKED: dict[str, dict[str, Any]] = {
    CHAT: {"documents": ["Sky."], "response_format": {"type": "json_schema", "json_schema": FORMAT}},
    "/v1/responses": {"documents": ["Sky."], "text": {"format": {"type": "json_schema", **FORMAT}}},
}


def late_answer(go_on: Signal, text: str, status: int = 200) -> Script:
    """A whole answer that waits for the signal."""
    return (Pause(go_on), *json_answer(status, whole(text) if status == 200 else {"message": "broken"}))


@pytest.mark.parametrize("path", CHECKED)
def test_a_stream_that_is_checked_begins_after_a_while(path: str) -> None:
    go_on = Signal()
    with run_harness(stream_commit_after=0.05, stream_keep_alive=0.05) as harness:
        harness.respond_with(late_answer(go_on, '{"a": 1}'))
        with reading(harness, path, **CHECKED[path]) as connection:
            received = until(connection, COMMENT, 2)
            assert received.startswith(b"HTTP/1.1 200") and b"data:" not in received
            go_on.set()
            received += until(connection, b"[DONE]")
        assert received.count(b"HTTP/1.1 200") == 1
        assert b'{\\"a\\": 1}' in received


@pytest.mark.parametrize("path", CHECKED)
@pytest.mark.parametrize("status", [200, 422])
def test_what_fails_after_the_head_is_an_event(path: str, status: int) -> None:
    go_on = Signal()
    with run_harness(stream_commit_after=0.05, stream_keep_alive=0.05) as harness:
        harness.respond_with(late_answer(go_on, "no JSON", status))
        with reading(harness, path, **CHECKED[path]) as connection:
            received = until(connection, COMMENT)
            go_on.set()
            ending = b"[DONE]" if path == "/v1/responses" else b'"error"'
            received += until(connection, ending)
        assert (b"response.failed" if path == "/v1/responses" else b'data: {"error"') in received
        assert harness.gateway.log.wait(lambda line: line.get("outcome") == "error")


def test_a_head_is_not_sent_before_its_time() -> None:
    go_on = Signal()
    with run_harness(stream_commit_after=0, stream_keep_alive=0.02) as harness:
        harness.respond_with(late_answer(go_on, "no JSON", 422))
        with reading(harness, CHAT, **CHECKED[CHAT]) as connection:
            connection.settimeout(0.2)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            go_on.set()
            connection.settimeout(WAIT_SECONDS)
            assert connection.recv(65536).startswith(b"HTTP/1.1 422")


STRICT: dict[str, dict[str, Any]] = {
    CHAT: {"response_format": {"type": "json_schema", "json_schema": FORMAT}},
    "/v1/responses": {"text": {"format": {"type": "json_schema", **FORMAT}}},
}


@pytest.mark.parametrize("path", STRICT)
def test_a_stream_whose_end_cannot_be_checked_ends_with_an_error(path: str) -> None:
    """Its check is made in a thread, and there may be no place left in the queue before the threads."""
    go_on = Signal()
    with run_harness(offload=OffloadSettings(queue_size=0)) as harness:
        harness.respond_with(late(go_on))
        with reading(harness, path, **STRICT[path]) as connection:
            received = until(connection, b"data:")
            go_on.set()
            received += until(connection, b"0\r\n\r\n")
        assert b"too_many_calls" in received if path == CHAT else b"response.failed" in received
        assert b"Too many large requests are being read" in received


def test_the_official_sdk_reads_a_stream_that_fails_after_the_head() -> None:
    """It takes no stream that does not begin with `response.created`."""
    go_on = Signal()
    with run_harness(stream_commit_after=0.05, stream_keep_alive=0.05) as harness:
        harness.respond_with(late_answer(go_on, "", 422))
        with (
            harness.gateway.client() as sdk,
            sdk.responses.stream(model=A, input="Hi", store=False, extra_body=CHECKED["/v1/responses"]) as stream,
        ):
            go_on.set()
            events = list(stream)
    assert [event.type for event in events] == ["response.created", "response.in_progress", "response.failed"]
    assert [event.sequence_number for event in events] == [0, 1, 2]
