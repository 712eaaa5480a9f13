"""How much of the code one request passes through: files, functions, and frames on the stack down to the HTTP client.

Each file is one more to read for whoever follows a request, and each frame on the stack is paid for by every chunk that
it waits for. The limits are what there is: who lowers one writes the smaller number here.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from support.app import A, Gateway, Harness, answered, end, opened, piece, run_harness, start
from support.process import reads_until, request_bytes
from support.scripted_upstream import Chunk, End, Pause, Signal, json_answer, transcript
from support.waiting import WAIT_SECONDS
from test_serve_disconnect import STREAM_HEAD

ROOT = Path(__file__).resolve().parents[1]
OURS = tuple(f"{ROOT}/{package}/" for package in ("gateway", "translators", "schemas"))
ENTRANCES = tuple(f"{ROOT}/gateway/{name}" for name in ("http/middleware.py", "endpoints/", "pipeline/fan_out.py"))
"""Where a request begins, and the tasks that it starts."""
CLIENT = f"{ROOT}/gateway/upstream/client.py"


@dataclass
class Trip:
    """What ran in the server's thread. stacks: our frames above each call of the client, the innermost first."""

    functions: set[CodeType] = field(default_factory=set)
    stacks: list[list[CodeType]] = field(default_factory=list)

    @property
    def files(self) -> set[str]:
        return {code.co_filename.removeprefix(f"{ROOT}/") for code in self.functions}

    @property
    def depth(self) -> int:
        """Frames of ours down to the client, from the endpoint on, or from the task that an endpoint has started."""
        return max((_below_the_endpoint(stack) for stack in self.stacks), default=0)


def _below_the_endpoint(stack: list[CodeType]) -> int:
    endpoints = [number for number, code in enumerate(stack, 1) if "/gateway/endpoints/" in code.co_filename]
    return endpoints[-1] if endpoints else len(stack)


class Watch:
    """The profiler of the threads that are started while it is installed."""

    def __init__(self) -> None:
        self.trip: Trip | None = None

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        trip = self.trip
        if trip is None or event != "call":
            return
        code = frame.f_code
        if code.co_filename.startswith(OURS):
            stack = list(our_frames(frame))
            if stack[-1].co_filename.startswith(ENTRANCES):  # else it is what the server does beside requests
                trip.functions.add(code)
                if code.co_filename == CLIENT:
                    trip.stacks.append([one for one in stack if one.co_filename != CLIENT])

    @contextmanager
    def over(self) -> Iterator[Trip]:
        self.trip = trip = Trip()
        try:
            yield trip
        finally:
            self.trip = None


def our_frames(frame: FrameType | None) -> Iterator[CodeType]:
    while frame is not None:
        if frame.f_code.co_filename.startswith(OURS):
            yield frame.f_code
        frame = frame.f_back


@pytest.fixture(scope="module")
def watched() -> Iterator[tuple[Harness, Watch]]:
    watch = Watch()
    threading.setprofile(watch)
    try:
        with run_harness(cohere_api_key=["server-key"]) as harness:
            threading.setprofile(None)
            yield harness, watch
    finally:
        threading.setprofile(None)


def chat_whole(harness: Harness, watch: Watch) -> Trip:
    return measured(harness, watch, lambda gateway: gateway.chat().status, answered())


def responses_with_memory(harness: Harness, watch: Watch) -> Trip:
    harness.respond_with(answered())
    body = {"model": A, "input": "My name is Ada."}
    first = harness.gateway.ask("POST", "/v1/responses", body).body["id"]
    follow_up = {**body, "previous_response_id": first}
    return measured(harness, watch, lambda gateway: gateway.ask("POST", "/v1/responses", follow_up).status, answered())


def three_hundred_embeddings(harness: Harness, watch: Watch) -> Trip:
    def embeddings(count: int) -> Any:
        return json_answer(200, {"id": "1", "embeddings": {"float": [[0.5]] * count}, "texts": []})

    body = {"model": "embed-v4.0", "input": [f"text {number}" for number in range(300)]}
    return measured(
        harness,
        watch,
        lambda gateway: gateway.ask("POST", "/v1/embeddings", body).status,
        *[embeddings(96)] * 3,
        embeddings(12),
    )


def native_chat(harness: Harness, watch: Watch) -> Trip:
    body = {"model": A, "messages": [{"role": "user", "content": "Hi"}]}
    return measured(harness, watch, lambda gateway: gateway.ask("POST", "/cohere/v2/chat", body).status, answered())


def upstream_error(harness: Harness, watch: Watch) -> Trip:
    refusal = json_answer(400, {"message": "no"})
    return measured(harness, watch, lambda gateway: gateway.chat().status, refusal, status=400)


def event_of_a_stream(harness: Harness, watch: Watch) -> Trip:
    """One delta, from Cohere's chunk to the caller's."""
    go_on, finish = Signal(), Signal()
    harness.respond_with(
        (
            STREAM_HEAD,
            Chunk(transcript(start(), opened(), piece("first"), done=False)),
            Pause(go_on),
            Chunk(transcript(piece("second"), done=False)),
            Pause(finish),
            Chunk(transcript({"type": "content-end", "index": 0}, end())),
            End(),
        )
    )
    with caller(harness.gateway) as connection:
        connection.sendall(request_bytes(stream=True))
        reads_until(connection, b"first")
        with watch.over() as trip:
            go_on.set()
            reads_until(connection, b"second")
        finish.set()
        reads_until(connection, b"[DONE]")
    return trip


def caller(gateway: Gateway) -> Any:
    return socket.create_connection(gateway.address, WAIT_SECONDS)


def measured(
    harness: Harness, watch: Watch, request: Callable[[Gateway], int], *scripts: Any, status: int = 200
) -> Trip:
    harness.respond_with(*scripts)
    harness.gateway.settle()
    with watch.over() as trip:
        assert request(harness.gateway) == status
        harness.gateway.settle()
    return trip


TRIES = 5
"""A busy machine adds functions: for an answer that comes in two reads, for what is due each second."""

# At most so many files and functions of ours, and frames from the endpoint to the HTTP client.
TRIPS: dict[Callable[[Harness, Watch], Trip], tuple[int, int, int]] = {
    chat_whole: (64, 291, 6),
    event_of_a_stream: (16, 39, 0),
    responses_with_memory: (79, 382, 6),
    three_hundred_embeddings: (62, 274, 2),
    native_chat: (60, 247, 1),
    upstream_error: (61, 274, 6),
}


@pytest.mark.parametrize("trip", TRIPS, ids=lambda trip: trip.__name__)
def test_a_request_passes_through_few_files_and_frames(
    trip: Callable[[Harness, Watch], Trip], watched: tuple[Harness, Watch]
) -> None:
    trip(*watched)  # what is imported, opened or built at first is not what a request costs
    for _ in range(TRIES):
        passed = trip(*watched)
        figures = len(passed.files), len(passed.functions), passed.depth
        print(trip.__name__, *figures)
        if all(map(int.__le__, figures, TRIPS[trip])):
            return
    pytest.fail(f"{figures} {sorted(passed.files)}")
