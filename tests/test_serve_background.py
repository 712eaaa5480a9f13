"""Responses in the background: begun, polled, followed, resumed, cancelled, and what becomes of them in a crash.

Each test runs over SQLite and over PostgreSQL. Two gateways share a database, as two processes would: what the one
works on is asked of the other as well. Processes that are killed are in `test_serve_maintenance.py`.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

import test_responses_contract as contract
from gateway.http import sse
from gateway.pipeline import background, event_replay
from gateway.settings.schema import Timeouts
from gateway.state import conversation_state
from gateway.store.errors import StoreUnavailable
from gateway.store.store import Store
from support.app import (
    CALLER_KEY,
    CLOSED,
    A,
    Gateway,
    Harness,
    Response,
    answered,
    end,
    gateway_over,
    opened,
    piece,
    run_harness,
    start,
    streamed,
)  # fmt: skip
from support.scripted_upstream import Chunk, Cut, End, Head, Pause, Script, Signal, json_answer, transcript
from support.waiting import WAIT_SECONDS
from test_serve_stored import NOWHERE, database

PATH = "/v1/responses"
WORDS = [f"word{number} " for number in range(12)]
TEXT = "".join(WORDS)
ENDED = ("completed", "incomplete", "failed", "cancelled")

__all__ = ["database"]


@pytest.fixture(scope="module")
def harness(database: str) -> Iterator[Harness]:
    with run_harness(database_url=database, timeouts=Timeouts(shutdown=1)) as harness:
        yield harness


@pytest.fixture(scope="module")
def elsewhere(harness: Harness, database: str) -> Iterator[Gateway]:
    """Another gateway over the same database."""
    with gateway_over(harness.upstream.url, database_url=database) as gateway:
        yield gateway


# --- what the tests are told with ---------------------------------------------------------------------------


def halting(*halts: Signal) -> Script:
    """A stream that stops after its first words, then for each signal until it is set, one piece each time."""
    steps: list[Any] = [Head(200, (("content-type", "text/event-stream"),))]
    steps.append(Chunk(transcript(start(), opened(), *map(piece, WORDS[:4]), done=False)))
    rest = [transcript(piece(word), done=False) for word in WORDS[4:]]
    for number, halt in enumerate(halts):
        steps += [Pause(halt), Chunk(rest[number])]
    steps += [Chunk(b"".join(rest[len(halts) :]) + transcript(CLOSED, end())), End()]
    return tuple(steps)


def late(go_on: Signal) -> Script:
    return (Pause(go_on), *answered(TEXT))


@contextmanager
def halted(harness: Harness, count: int = 1) -> Iterator[list[Signal]]:
    """A stream that waits for the test; in the end nothing waits any more."""
    signals = [Signal() for _ in range(count)]
    harness.respond_with(halting(*signals))
    try:
        yield signals
    finally:
        for one in signals:
            one.set()


def begin(gateway: Gateway, **fields: Any) -> Response:
    return gateway.ask("POST", PATH, {"model": A, "input": "Say words", "background": True, **fields})


def poll(gateway: Gateway, id: str, *wanted: str, within: float = WAIT_SECONDS) -> Any:
    """The response once its status is one of these (by default: once it has ended)."""
    until = time.monotonic() + within
    while (response := gateway.ask("GET", f"{PATH}/{id}").body)["status"] not in (wanted or ENDED):
        assert time.monotonic() < until, f"still {response['status']}"
        time.sleep(0.02)
    return response


def awaited(there: Callable[[], bool], within: float = WAIT_SECONDS) -> None:
    until = time.monotonic() + within
    while not there():
        assert time.monotonic() < until
        time.sleep(0.02)


def frames(data: bytes) -> list[bytes]:
    """The events of a complete stream."""
    assert data.endswith(b"data: [DONE]\n\n") and data.count(b"[DONE]") == 1
    return [frame + b"\n\n" for frame in data.split(b"\n\n")[:-2]]


def event(frame: bytes) -> Any:
    name, data = frame.decode().rstrip("\n").split("\n")
    document = json.loads(data.removeprefix("data: "))
    assert name == f"event: {document['type']}"
    return document


def checked(data: bytes, first: int = 0) -> list[Any]:
    """The events of a complete stream, each as OpenAI and Open Responses want it, without gaps."""
    results = [event(frame) for frame in frames(data)]
    assert [one["sequence_number"] for one in results] == list(range(first, first + len(results)))
    for one in results:
        contract._check(one)
    return results


def resumed(gateway: Gateway, id: str, after: int | None = None) -> Response:
    position = "" if after is None else f"&starting_after={after}"
    return gateway.ask("GET", f"{PATH}/{id}?stream=true{position}", timeout=WAIT_SECONDS)


class Reading:
    """A stream read as it comes, over a connection of its own."""

    def __init__(self, gateway: Gateway, method: str, path: str, body: Any = None) -> None:
        self._connection = http.client.HTTPConnection(*gateway.address, timeout=WAIT_SECONDS)
        headers = {"authorization": f"Bearer {gateway.key}", "content-type": "application/json"}
        self._connection.request(method, path, json.dumps(body) if body else None, headers)
        self.answer = self._connection.getresponse()
        assert self.answer.status == 200
        self.data = b""

    def until(self, wanted: bytes) -> bytes:
        while wanted not in self.data:
            some = self.answer.read1()
            assert some, f"the end came before {wanted!r}: {self.data!r}"
            self.data += some
        return self.data

    def rest(self) -> bytes:
        self.data += self.answer.read()
        return self.data

    def close(self) -> None:
        self._connection.close()


@contextmanager
def reading(gateway: Gateway, method: str, path: str, body: Any = None) -> Iterator[Reading]:
    result = Reading(gateway, method, path, body)
    try:
        yield result
    finally:
        result.close()


STREAMED = {"model": A, "input": "Say words", "background": True, "stream": True}


def id_of(data: bytes) -> str:
    return str(event(data.split(b"\n\n")[0] + b"\n\n")["response"]["id"])


# --- whole --------------------------------------------------------------------------------------------------


def test_it_is_answered_at_once_and_goes_on(harness: Harness, elsewhere: Gateway) -> None:
    go_on = Signal()
    harness.respond_with(late(go_on))
    http_response = begin(harness.gateway, metadata={"topic": "words"})
    assert (http_response.status, http_response.body["status"], http_response.body["background"]) == (
        200,
        "queued",
        True,
    )
    assert (http_response.body["output"], http_response.body["usage"], http_response.body["completed_at"]) == (
        [],
        None,
        None,
    )
    id = http_response.body["id"]
    for gateway in (harness.gateway, elsewhere):
        assert poll(gateway, id, "in_progress") == {**http_response.body, "status": "in_progress"}
    go_on.set()
    result = poll(harness.gateway, id)
    assert (result["status"], result["output"][0]["content"][0]["text"]) == ("completed", TEXT)
    assert result["usage"]["output_tokens"] == 3 and result["metadata"] == {"topic": "words"}
    assert elsewhere.ask("GET", f"{PATH}/{id}").body == result
    for response in (http_response.body, result):
        contract._check_whole(response)


def test_the_sdk_polls(harness: Harness) -> None:
    harness.respond_with(answered(TEXT))
    with harness.gateway.client() as sdk:
        response = sdk.responses.create(model=A, input="Say words", background=True)
        assert response.status == "queued"
        until = time.monotonic() + WAIT_SECONDS
        while response.status in ("queued", "in_progress") and time.monotonic() < until:
            response = sdk.responses.retrieve(response.id)
        assert (response.status, response.output_text) == ("completed", TEXT)
        again = sdk.responses.create(model=A, input="And?", previous_response_id=response.id)
        assert again.output_text == TEXT
    request = harness.upstream.requests[-1].json()["messages"]
    assert [message["role"] for message in request] == ["user", "assistant", "user"]


def test_notes_are_reported_at_once(harness: Harness) -> None:
    harness.respond_with(answered())
    response = begin(harness.gateway, temperature=1.4)
    assert response.headers["x-gateway-notes"] == "temperature adjusted 1.4 -> 1.0"
    poll(harness.gateway, response.body["id"])


def test_one_without_events_cannot_be_streamed(harness: Harness) -> None:
    harness.respond_with(answered())
    id = begin(harness.gateway).body["id"]
    response = resumed(harness.gateway, id)
    assert (response.status, response.error["param"]) == (400, "stream")
    poll(harness.gateway, id)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (json_answer(500, {"message": "out of order"}), "out of order"),
        (json_answer(429, {"message": "slow down"}), "slow down"),
        (json_answer(200, b""), "Cohere"),
    ],
    ids=["500", "429", "nothing"],
)
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
def test_what_fails_has_failed(harness: Harness, script: Script, expected: str, streams: bool) -> None:
    harness.respond_with(script)
    http_response = begin(harness.gateway, stream=streams)
    events = checked(http_response.data) if streams else [{"response": http_response.body}]
    response = poll(harness.gateway, events[0]["response"]["id"])
    assert response["status"] == "failed" and response["error"]["code"] in ("server_error", "rate_limit_exceeded")
    assert expected in response["error"]["message"]
    if streams:
        assert [one["type"] for one in events] == ["response.created", "response.queued", "response.failed"]
        assert events[-1]["response"] == response


# --- streamed -----------------------------------------------------------------------------------------------


def test_the_events(harness: Harness) -> None:
    harness.respond_with(streamed(*WORDS))
    response = begin(harness.gateway, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = checked(response.data)
    names = [one["type"] for one in events]
    assert names[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert [one["response"]["status"] for one in events[:3]] == ["queued", "queued", "in_progress"]
    assert names.count("response.output_text.delta") == len(WORDS)
    assert names[-1] == "response.completed"


def test_the_last_event_holds_what_is_polled(harness: Harness) -> None:
    harness.respond_with(streamed(*WORDS))
    events = checked(begin(harness.gateway, stream=True).data)
    assert poll(harness.gateway, events[0]["response"]["id"]) == events[-1]["response"]


def test_a_resumed_stream_is_the_tail_of_the_first(harness: Harness, elsewhere: Gateway) -> None:
    harness.respond_with(streamed(*WORDS))
    data = begin(harness.gateway, stream=True).data
    id, whole = id_of(data), frames(data)
    assert resumed(harness.gateway, id).data == data
    for after in range(len(whole) + 2):
        gateway = (harness.gateway, elsewhere)[after % 2]
        assert frames(resumed(gateway, id, after).data) == whole[after + 1 :], after


def test_streaming_waits_for_what_comes_and_leaving_stops_nothing(harness: Harness, elsewhere: Gateway) -> None:
    with halted(harness, 2) as (first, second):
        with reading(harness.gateway, "POST", PATH, STREAMED) as left:
            id = id_of(left.until(b'"delta":"word3 "'))
        after = event(frames(left.data[: left.data.rfind(b"\n\n") + 2] + b"data: [DONE]\n\n")[-1])["sequence_number"]
        with (
            reading(harness.gateway, "GET", f"{PATH}/{id}?stream=true&starting_after={after}") as here,
            reading(elsewhere, "GET", f"{PATH}/{id}?stream=true&starting_after={after - 2}") as there,
        ):
            first.set()
            for one in (here, there):
                assert b'"delta":"word3 "' not in one.until(b'"delta":"word4 "') or one is there
            second.set()
            tails = here.rest(), there.rest()
    assert poll(harness.gateway, id)["status"] == "completed"
    data = resumed(harness.gateway, id).data
    checked(data)
    assert data.startswith(left.data[: left.data.rfind(b"\n\n") + 2])
    assert frames(tails[0]) == frames(data)[after + 1 :]
    assert frames(tails[1]) == frames(data)[after - 1 :]


def test_the_sdk_streams_leaves_and_resumes(harness: Harness, elsewhere: Gateway) -> None:
    with halted(harness) as (go_on,):
        with harness.gateway.client() as sdk:
            results = []
            with sdk.responses.create(model=A, input="Say words", background=True, stream=True) as stream:
                for one in stream:
                    results.append(one)
                    if len(results) == 6:
                        break
        assert results[0].type == "response.created"
        id = results[0].response.id
        with elsewhere.client(timeout=WAIT_SECONDS) as sdk:
            with sdk.responses.retrieve(id, stream=True, starting_after=results[-1].sequence_number) as stream:
                go_on.set()
                results += list(stream)
    assert [one.sequence_number for one in results] == list(range(len(results)))
    assert "".join(one.delta for one in results if one.type == "response.output_text.delta") == TEXT
    assert results[-1].type == "response.completed" and results[-1].response.output_text == TEXT


def test_the_sdks_stream_helper_takes_it(harness: Harness) -> None:
    harness.respond_with(streamed(*WORDS))
    with harness.gateway.client() as sdk:
        with sdk.responses.stream(model=A, input="Say words", background=True) as stream:
            final = stream.get_final_response()
        assert final.output_text == TEXT
        with sdk.responses.stream(response_id=final.id, starting_after=5) as stream:
            assert [one.sequence_number for one in stream][0] == 6
            assert stream.get_final_response().output_text == TEXT


def test_a_stream_that_breaks_off_has_failed(harness: Harness) -> None:
    script = halting()[:2]
    harness.respond_with((*script, Cut()))
    events = checked(begin(harness.gateway, stream=True).data)
    assert events[-1]["type"] == "response.failed"
    response = poll(harness.gateway, events[0]["response"]["id"])
    assert response == events[-1]["response"] and response["status"] == "failed"
    (message,) = response["output"]
    assert (message["status"], message["content"][0]["text"]) == ("incomplete", "".join(WORDS[:4]))


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_silent_stream_stays_open(harness: Harness, database: str, where: str) -> None:
    another = partial(gateway_over, harness.upstream.url, database_url=database, stream_keep_alive=0.1)
    with (
        another() as here,
        another() as there,
        halted(harness) as (go_on,),
        reading(here, "POST", PATH, STREAMED) as one,
    ):
        id = id_of(one.until(b'"delta":"word3 "'))
        gateway = here if where == "here" else there
        with reading(gateway, "GET", f"{PATH}/{id}?stream=true&starting_after=0") as quiet:
            quiet.until(sse.COMMENT * 2)
            go_on.set()
            result = quiet.rest().replace(sse.COMMENT, b"")
    checked(result, 1)


@pytest.mark.parametrize("number", ["-1", "a", "1e3", "9" * 30])
def test_a_number_that_is_none(harness: Harness, number: str) -> None:
    harness.respond_with(streamed(*WORDS))
    id = id_of(begin(harness.gateway, stream=True).data)
    response = harness.gateway.ask("GET", f"{PATH}/{id}?stream=true&starting_after={number}")
    assert (response.status, response.error["param"]) == (400, "starting_after")


def test_a_fast_long_stream_is_stored_in_batches(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """More events than are kept in memory: a slow follower reads the rest from the storage."""
    monkeypatch.setattr(background, "MAX_MEMORY_EVENTS", 20)
    monkeypatch.setattr(background, "MAX_PENDING_EVENTS", 50)
    monkeypatch.setattr(event_replay, "PAGE_SIZE", 7)
    words = [f"{number} " for number in range(500)]
    harness.respond_with(streamed(*words))
    events = checked(begin(harness.gateway, stream=True).data)
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "".join(words)
    assert checked(resumed(harness.gateway, events[0]["response"]["id"]).data) == events


# --- cancelled ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["here", "elsewhere"])
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
def test_a_cancelled_response_is_cancelled(harness: Harness, elsewhere: Gateway, where: str, streams: bool) -> None:
    gateway = harness.gateway if where == "here" else elsewhere
    go_on = Signal()
    harness.respond_with(halting(go_on) if streams else late(go_on))
    if streams:
        with reading(harness.gateway, "POST", PATH, STREAMED) as one:
            id = id_of(one.until(b'"delta":"word3 "'))
    else:
        id = begin(harness.gateway).body["id"]
        awaited(lambda: [one.method for one in harness.upstream.requests].count("POST") == 1)
    response = gateway.ask("POST", f"{PATH}/{id}/cancel")
    assert (response.status, response.body["status"], response.body["error"]) == (200, "cancelled", None)
    harness.upstream.closed[-1].wait_in_thread()
    go_on.set()
    assert gateway.ask("POST", f"{PATH}/{id}/cancel").data == response.data, "cancelling twice is no error"
    assert poll(harness.gateway, id) == response.body
    contract._check_whole(response.body)
    if streams:
        events = checked(resumed(gateway, id).data)
        assert events[-1]["type"] == "response.incomplete" and events[-1]["response"] == response.body
        assert response.body["output"][0]["content"][0]["text"] == "".join(WORDS[:4])


def test_the_sdk_cancels(harness: Harness) -> None:
    go_on = Signal()
    harness.respond_with(late(go_on))
    with harness.gateway.client() as sdk:
        response = sdk.responses.create(model=A, input="Say words", background=True)
        assert sdk.responses.cancel(response.id).status == "cancelled"
    go_on.set()


def test_followers_see_the_cancellation(harness: Harness, elsewhere: Gateway) -> None:
    with halted(harness), reading(harness.gateway, "POST", PATH, STREAMED) as here:
        id = id_of(here.until(b'"delta":"word3 "'))
        with reading(elsewhere, "GET", f"{PATH}/{id}?stream=true") as there:
            harness.gateway.ask("POST", f"{PATH}/{id}/cancel")
            events = checked(here.rest())
            assert checked(there.rest()) == events
    assert events[-1]["response"]["status"] == "cancelled"


def test_nothing_in_this_process_waits_for_the_timer(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "CHECK_SECONDS", 600)
    with run_harness(database_url=database, timeouts=Timeouts(shutdown=1)) as harness:
        for method, path in (("POST", "/cancel"), ("DELETE", "")):
            with halted(harness), reading(harness.gateway, "POST", PATH, STREAMED) as one:
                id = id_of(one.until(b'"delta":"word3 "'))
                assert harness.gateway.ask(method, f"{PATH}/{id}{path}").status == 200
                harness.upstream.closed[-1].wait_in_thread()
                one.rest()


def test_what_has_ended_cannot_be_cancelled(harness: Harness) -> None:
    harness.respond_with(answered(TEXT))
    id = begin(harness.gateway).body["id"]
    response = poll(harness.gateway, id)
    assert harness.gateway.ask("POST", f"{PATH}/{id}/cancel").body == response


def test_a_deleted_response_is_worked_on_no_more(harness: Harness, elsewhere: Gateway) -> None:
    for gateway in (harness.gateway, elsewhere):
        with halted(harness), reading(harness.gateway, "POST", PATH, STREAMED) as one:
            id = id_of(one.until(b'"delta":"word3 "'))
            assert gateway.ask("DELETE", f"{PATH}/{id}").status == 200
            harness.upstream.closed[-1].wait_in_thread()
            events = checked(one.rest())
            assert (events[-1]["type"], events[-1]["code"]) == ("error", "response_not_found")
        assert harness.gateway.ask("GET", f"{PATH}/{id}").status == 404


# --- bounds -------------------------------------------------------------------------------------------------


def test_what_is_too_much_is_queued_then_refused(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "MAX_QUEUED", 2)
    go_on = Signal()
    with run_harness(database_url=database, max_background_responses=1, timeouts=Timeouts(shutdown=1)) as harness:
        harness.respond_with(late(go_on))
        ids = [begin(harness.gateway).body["id"] for _ in range(3)]
        poll(harness.gateway, ids[0], "in_progress")
        response = begin(harness.gateway)
        assert (response.status, response.error["code"]) == (503, "too_many_in_background")
        assert [harness.gateway.ask("GET", f"{PATH}/{id}").body["status"] for id in ids[1:]] == ["queued"] * 2
        assert harness.gateway.ask("POST", f"{PATH}/{ids[1]}/cancel").body["status"] == "cancelled"
        assert [one.method for one in harness.upstream.requests].count("POST") == 1
        assert harness.gateway.metrics()["gateway_background_responses_in_flight"] == 2
        go_on.set()
        for id in (ids[0], ids[2]):
            assert poll(harness.gateway, id)["status"] == "completed"
        awaited(lambda: harness.gateway.metrics()["gateway_background_responses_in_flight"] == 0)


def test_reading_pauses_while_the_storage_is_slow(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cohere's events wait at Cohere, not in memory, and all of them are stored in the end."""
    go_on, append = Signal(), Store.append_events

    async def held(store: Store, batches: Any) -> set[str]:
        await asyncio.to_thread(go_on.wait_in_thread)
        return await append(store, batches)

    monkeypatch.setattr(Store, "append_events", held)
    # Twelve megabytes take a busy machine longer than a call of the storage may.
    monkeypatch.setattr(conversation_state, "Store", partial(Store, timeout=WAIT_SECONDS))
    monkeypatch.setattr(background, "MAX_PENDING_EVENTS", 20)
    large = [transcript(piece("x" * 100_000), done=False) for _ in range(120)]
    script: Script = (
        Head(200, (("content-type", "text/event-stream"),)),
        Chunk(transcript(start(), opened(), done=False)),
        *(Chunk(one) for one in large),
        Chunk(transcript(CLOSED, end())),
        End(),
    )
    with run_harness(database_url=database, timeouts=Timeouts(shutdown=1)) as harness:
        harness.respond_with(script)
        with reading(harness.gateway, "POST", PATH, STREAMED) as one:
            id = id_of(one.until(b"\n\n"))
            awaited(lambda: any(exchange.request.method == "POST" for exchange in harness.upstream.exchanges))
            (chat,) = [exchange for exchange in harness.upstream.exchanges if exchange.request.method == "POST"]
            with pytest.raises(TimeoutError):
                chat.finished.wait_in_thread(0.7)
            go_on.set()
            one.rest()
        response = poll(harness.gateway, id)
        assert response["status"] == "completed"
        assert len(response["output"][0]["content"][0]["text"]) == 120 * 100_000


def test_one_caller_cannot_take_all_places(database: str) -> None:
    go_on = Signal()
    limits: dict[str, Any] = {"max_background_responses": 1, "max_background_responses_per_caller": 3}
    with run_harness(database_url=database, **limits, timeouts=Timeouts(shutdown=1)) as harness:
        harness.respond_with(late(go_on))
        first = [begin(harness.gateway).body["id"] for _ in range(3)]
        poll(harness.gateway, first[0], "in_progress")
        response = begin(harness.gateway)
        assert (response.status, response.error["code"]) == (429, "too_many_in_background")
        assert "your background responses" in response.error["message"]
        harness.gateway.key = "another-caller"
        other = begin(harness.gateway)
        assert other.status == 200
        go_on.set()
        assert poll(harness.gateway, other.body["id"])["status"] == "completed"
        harness.gateway.key = CALLER_KEY
        for id in first:
            assert poll(harness.gateway, id)["status"] == "completed"
        assert begin(harness.gateway).status == 200
        calls = [one.headers["authorization"][0] for one in harness.upstream.requests if one.method == "POST"]
        assert calls.index("Bearer another-caller") == 2, "callers take turns"


def test_nor_by_asking_for_all_at_once(database: str) -> None:
    go_on = Signal()
    limits: dict[str, Any] = {"max_background_responses_per_caller": 3}
    with run_harness(database_url=database, **limits, timeouts=Timeouts(shutdown=1)) as harness:
        harness.respond_with(late(go_on))
        with ThreadPoolExecutor(8) as callers:
            statuses = [one.result().status for one in [callers.submit(begin, harness.gateway) for _ in range(8)]]
        go_on.set()
        assert sorted(statuses) == [200] * 3 + [429] * 5


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
def test_it_needs_the_storage(harness: Harness, streams: bool) -> None:
    response = begin(harness.gateway, stream=streams, store=False)
    assert (response.status, response.error["param"]) == (400, "background")
    with gateway_over(harness.upstream.url, database_url=NOWHERE) as broken:
        before = len(harness.upstream.exchanges)
        response = begin(broken, stream=streams)
        assert (response.status, response.error["code"]) == (503, "storage_unavailable")
        assert len(harness.upstream.exchanges) == before, "Cohere was not paid"


def test_what_is_not_finished_cannot_be_continued(harness: Harness) -> None:
    go_on = Signal()
    harness.respond_with(late(go_on))
    id = begin(harness.gateway).body["id"]
    response = harness.gateway.ask("POST", PATH, {"model": A, "input": "And?", "previous_response_id": id})
    assert (response.status, response.error["param"]) == (400, "previous_response_id")
    go_on.set()
    poll(harness.gateway, id)


def test_only_its_owner_finds_it(harness: Harness) -> None:
    with halted(harness), reading(harness.gateway, "POST", PATH, STREAMED) as one:
        id = id_of(one.until(b'"delta":"word3 "'))
        other = {"authorization": "Bearer somebody-elses-key", "content-type": "application/json"}
        for method, path in (("GET", ""), ("GET", "?stream=true"), ("POST", "/cancel"), ("DELETE", "")):
            assert harness.gateway.ask(method, f"{PATH}/{id}{path}", headers=other).status == 404


# --- a storage that fails meanwhile -------------------------------------------------------------------------


@pytest.fixture
def shaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Whatever stands in this list fails in the storage, each time taking one away."""
    fails: list[str] = []
    for name in ("append_events", "update", "renew", "inactive"):
        monkeypatch.setattr(Store, name, failing(name, getattr(Store, name), fails))
    monkeypatch.setattr(background, "STORE_RETRY_SECONDS", (0.05,) * 4)
    monkeypatch.setattr(background, "CHECK_SECONDS", 0.05)
    yield fails
    fails.clear()


def failing(name: str, method: Any, fails: list[str]) -> Any:
    async def attempt(self: Store, *arguments: Any, **options: Any) -> Any:
        if name in fails:
            fails.remove(name)
            raise StoreUnavailable("the database failed: it was told to")
        return await method(self, *arguments, **options)

    return attempt


def test_a_short_failure_of_the_storage_is_waited_out(database: str, shaky: list[str]) -> None:
    with run_harness(database_url=database, timeouts=Timeouts(shutdown=1)) as harness:
        with halted(harness) as (go_on,), reading(harness.gateway, "POST", PATH, STREAMED) as one:
            one.until(b'"delta":"word3 "')
            shaky += ["append_events", "append_events", "update", "renew", "inactive"]
            go_on.set()
            events = checked(one.rest())
        assert events[-1]["type"] == "response.completed"
        assert checked(resumed(harness.gateway, events[0]["response"]["id"]).data) == events


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
def test_what_cannot_be_stored_is_left_to_be_ended(
    database: str, shaky: list[str], monkeypatch: pytest.MonkeyPatch, streams: bool
) -> None:
    """Nobody is told of what is not stored; with its lease the response ends as one whose worker is gone."""
    monkeypatch.setattr(conversation_state, "Store", partial(Store, lease=4))
    with run_harness(database_url=database, timeouts=Timeouts(shutdown=1)) as harness:
        go_on = Signal()
        harness.respond_with(halting(go_on) if streams else late(go_on))
        with reading(harness.gateway, "POST", PATH, {**STREAMED, "stream": streams}) as one:
            if streams:
                id = id_of(one.until(b'"delta":"word3 "'))
            else:
                id = json.loads(one.rest())["id"]
                poll(harness.gateway, id, "in_progress")
            shaky += ["update", "append_events", "renew"] * 1000
            go_on.set()
            line = harness.gateway.log.wait(lambda line: line.get("operation") == "responses")
            assert (line["outcome"], line["error"], line["fault"]) == (
                "error",
                "storage_unavailable",
                "gateway_storage",
            )
            response = poll(harness.gateway, id)
            assert response["status"] == "failed"
            if streams:
                events = checked(one.rest())
                assert events[-1]["type"] == "response.failed" and events[-1]["response"] == response
                assert checked(resumed(harness.gateway, id).data) == events


# --- conversations, log and metrics -------------------------------------------------------------------------


def test_its_conversation_goes_on_when_it_is_complete(harness: Harness) -> None:
    with harness.gateway.client() as sdk:
        conversation = sdk.conversations.create().id
        go_on = Signal()
        harness.respond_with(late(go_on))
        response = sdk.responses.create(model=A, input="Say words", background=True, conversation=conversation)
        assert list(sdk.conversations.items.list(conversation)) == []
        go_on.set()
        poll(harness.gateway, response.id)
        items = list(sdk.conversations.items.list(conversation, order="asc"))
        assert [item.type for item in items] == ["message", "message"]
        harness.respond_with(json_answer(500, {"message": "no"}))
        failed = sdk.responses.create(model=A, input="Again", background=True, conversation=conversation)
        assert poll(harness.gateway, failed.id)["status"] == "failed"
        assert list(sdk.conversations.items.list(conversation, order="asc")) == items


def test_its_conversation_may_be_deleted_meanwhile(harness: Harness) -> None:
    with harness.gateway.client() as sdk:
        conversation = sdk.conversations.create().id
        go_on = Signal()
        harness.respond_with(late(go_on))
        response = sdk.responses.create(model=A, input="Say words", background=True, conversation=conversation)
        sdk.conversations.delete(conversation)
        go_on.set()
        assert poll(harness.gateway, response.id)["status"] == "completed"


def test_tokens_are_counted_once_when_they_are_known(database: str) -> None:
    with run_harness(database_url=database, timeouts=Timeouts(shutdown=1)) as harness:
        go_on = Signal()
        harness.respond_with(late(go_on))
        response = begin(harness.gateway)
        first = harness.gateway.log.line_of(response.headers["x-request-id"])
        assert (first["operation"], first["status"], first["outcome"]) == ("response_background", 200, "ok")
        assert "prompt_tokens" not in first and "upstream_ms" not in first
        go_on.set()
        poll(harness.gateway, response.body["id"])
        ran = harness.gateway.log.wait(lambda line: line.get("operation") == "responses")
        assert ran["request"] == response.headers["x-request-id"] and ran["model"] == A
        assert (ran["status"], ran["outcome"], ran["prompt_tokens"], ran["completion_tokens"]) == (200, "ok", 70, 3)
        assert ran["upstream_ms"] > 0
        metrics = harness.gateway.metrics()
        counted = {name: value for name, value in metrics.items() if name.startswith("gateway_requests_total")}
        assert sum(value for name, value in counted.items() if 'operation="responses"' in name) == 1
        tokens = {name: value for name, value in metrics.items() if name.startswith("gateway_tokens_total")}
        assert sorted(value for value in tokens.values() if value) == [3, 70]


def test_a_cancelled_and_a_failed_one_in_the_log(database: str) -> None:
    with run_harness(database_url=database, timeouts=Timeouts(shutdown=1)) as harness:
        go_on = Signal()
        harness.respond_with(late(go_on))
        id = begin(harness.gateway).body["id"]
        harness.gateway.ask("POST", f"{PATH}/{id}/cancel")
        line = harness.gateway.log.wait(lambda line: line.get("operation") == "responses")
        assert (line["status"], line["outcome"]) == (499, "cancelled") and "error" not in line
        harness.respond_with(json_answer(429, {"message": "slow down"}))
        begin(harness.gateway)
        line = harness.gateway.log.wait(lambda line: line.get("outcome") == "error")
        assert (line["operation"], line["status"], line["error"]) == ("responses", 429, "rate_limit_exceeded")
