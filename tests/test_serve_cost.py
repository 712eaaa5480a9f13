"""What a call is said to cost: in the log line, the header, `usage.cost` and the metrics, on every way that bills.

The rule that is tested throughout: Cohere's billed units of everything that it answered, once, at the price of the
model that answered; unknown where Cohere did not say, and never 0 by mistake.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import openai
import pytest
from msgspec.structs import replace

from gateway import cohere_methods
from gateway.app import controlled_app
from gateway.observability.record import RequestRecord
from gateway.pipeline.admission import Admission
from gateway.settings.schema import CacheSettings, ModelPrice, Models, Retries, Settings
from support.app import (
    CHAT,
    R7B,
    USAGE,
    A,
    Harness,
    Response,
    answered,
    end,
    gateway_over,
    piece,
    run_harness,
    start,
    story,
    streamed,
    whole,
)
from support.scripted_upstream import Chunk, Cut, Head, Pause, Script, Signal, event_stream, json_answer, transcript
from support.waiting import WAIT_SECONDS
from test_faults import full
from translators.core.contracts import Workload
from translators.core.notes import Notes

REASONER = "command-a-plus-05-2026"
HELLO = [{"role": "user", "content": "Hello"}]
CHAT_COST = 4 * 2_500 + 2 * 10_000
"""USAGE on A, in nano-dollars."""

PIXEL = "data:image/png;base64,iVBORw0KGgo="
PDF = "data:application/pdf;base64,JVBERi0xLjQ="
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "city",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    fallbacks = Models(cache_seconds=0, fallbacks={A: [R7B]})
    prices = {"mine": ModelPrice(input=1, output=2, cached=0.5, classification=0.01, audio_second=0.1)}
    with run_harness(
        cache=CacheSettings(store="memory"), models=fallbacks, prices=prices, retries=Retries(count=1)
    ) as one:
        yield one


def line_of(harness: Harness, response: Response) -> dict[str, Any]:
    return harness.gateway.log.line_of(response.headers["x-request-id"])


def cost_of(harness: Harness, response: Response) -> int | None:
    """What the log says; a line without a cost means 0."""
    cost: int | None = line_of(harness, response).get("cost_nanodollars", 0)
    return cost


def dollars(nano: int) -> str:
    whole_dollars, rest = divmod(nano, 10**9)
    return f"{whole_dollars}.{rest:09d}".rstrip("0").rstrip(".")


# --- every method that bills, at both doors -----------------------------------------------------------------


def meta(**billed: float) -> dict[str, Any]:
    return {"meta": {"api_version": {"version": "2"}, "billed_units": billed}}


def embedded(count: int = 1, **billed: float) -> Script:
    vectors = [[0.5, 0.25]] * count
    return json_answer(200, {"id": "e", "embeddings": {"float": vectors}, "texts": [], **meta(**billed)})


RANKED = {"id": "r", "results": [{"index": 0, "relevance_score": 0.5}]}
V1_CHAT = {"text": "Hi", "generation_id": "g", "finish_reason": "COMPLETE"}
V1_END = {
    "is_finished": True,
    "event_type": "stream-end",
    "response": {**V1_CHAT, **meta(input_tokens=4, output_tokens=2)},
}
V1_STREAM = b"\n".join(
    json.dumps(event).encode() for event in ({"event_type": "text-generation", "text": "Hi"}, V1_END)
)
JSON_STREAM = (("content-type", "application/stream+json"),)
OLD = "command-r-08-2024"

# name: (path, body, Cohere's answer, nano-dollars)
CALLS: dict[str, tuple[str, Any, Script, int | None]] = {
    "chat": (CHAT, {"model": A, "messages": HELLO}, answered(), CHAT_COST),
    "responses": ("/v1/responses", {"model": A, "input": "Hello"}, answered(), CHAT_COST),
    "chat of an unpriced model": (CHAT, {"model": REASONER, "messages": HELLO}, answered(), None),
    "chat without counts": (CHAT, {"model": A, "messages": HELLO}, answered(usage=None), None),
    "chat with a discount": (CHAT, {"model": "mine", "messages": HELLO}, answered(), 4 * 500 + 2 * 2_000),
    "chat whose unit is new": (
        CHAT,
        {"model": A, "messages": HELLO},
        answered(usage={"billed_units": {"input_tokens": 1, "thoughts": 2}}),
        None,
    ),
    "embeddings": (
        "/v1/embeddings",
        {"model": "embed-v4.0", "input": "a", "encoding_format": "float"},
        embedded(input_tokens=2, image_tokens=0),
        240,
    ),
    "embeddings of an image by tokens": (
        "/v1/embeddings",
        {"model": "embed-v4.0", "images": [PIXEL], "encoding_format": "float"},
        embedded(image_tokens=259, images=1),
        259 * 470,
    ),
    "embeddings of an image by the piece": (
        "/v1/embeddings",
        {"model": "embed-english-v3.0", "images": [PIXEL], "encoding_format": "float"},
        embedded(images=1),
        100_000,
    ),
    # A hundred documents are one search: rivals charge for each of them, or for tokens that Cohere never bills.
    "rerank": (
        "/v1/rerank",
        {"model": "rerank-v3.5", "query": "q", "documents": ["d"] * 100},
        json_answer(200, {**RANKED, **meta(search_units=1)}),
        2_000_000,
    ),
    "rerank by tokens": (
        "/v1/rerank",
        {"model": "rerank-v5.0-pro", "query": "q", "documents": ["d"]},
        json_answer(200, {**RANKED, **meta(input_tokens=1_000)}),
        50_000,
    ),
    "native chat": ("/cohere/v2/chat", {"model": A, "messages": HELLO}, answered(), CHAT_COST),
    "LiteLLM's native chat": (
        "/litellm/cohere/v2/chat",
        {"model": f"cohere/{A}", "messages": HELLO},
        answered(),
        CHAT_COST,
    ),
    "native chat of version 1": (
        "/cohere/v1/chat",
        {"model": OLD, "message": "Hello"},
        json_answer(200, {**V1_CHAT, **meta(input_tokens=4, output_tokens=2)}),
        4 * 150 + 2 * 600,
    ),
    "native chat without a model": (
        "/cohere/v1/chat",
        {"message": "Hello"},
        json_answer(200, {**V1_CHAT, **meta(input_tokens=4)}),
        None,
    ),
    "native embed": (
        "/cohere/v2/embed",
        {"model": "embed-v4.0", "texts": ["a"]},
        embedded(input_tokens=2),
        240,
    ),
    "native embed, long": (
        "/cohere/v2/embed",
        {"model": "embed-v4.0", "texts": ["a"]},
        embedded(20_000, input_tokens=2),
        240,
    ),
    "native embed of version 1": (
        "/cohere/v1/embed",
        {"model": "embed-english-v3.0", "texts": ["a"]},
        json_answer(200, {"id": "e", "embeddings": [[0.5]], **meta(input_tokens=3)}),
        300,
    ),
    "native rerank": (
        "/cohere/v2/rerank",
        {"model": "rerank-v4.0-pro", "query": "q", "documents": ["d"] * 100},
        json_answer(200, {**RANKED, **meta(search_units=1)}),
        2_500_000,
    ),
    "native rerank of version 1": (
        "/cohere/v1/rerank",
        {"model": "rerank-english-v3.0", "query": "q", "documents": ["d"]},
        json_answer(200, {**RANKED, **meta(search_units=2)}),
        4_000_000,
    ),
    "native parse": (
        "/cohere/v2/parse",
        {"model": "parse-v5.0", "document": {"type": "image_url", "image_url": PIXEL}},
        json_answer(200, {"pages": [], **meta(pages=2)}),
        3_000_000,
    ),
    "native classify": (
        "/cohere/v1/classify",
        {"model": "mine", "inputs": ["a"]},
        json_answer(200, {"classifications": [], **meta(classifications=3)}),
        30_000_000,
    ),
    "native generate": (
        "/cohere/v1/generate",
        {"model": OLD, "prompt": "a"},
        json_answer(200, {"generations": [], **meta(input_tokens=1, output_tokens=1)}),
        750,
    ),
    "compatibility": (
        "/cohere/compatibility/v1/chat/completions",
        {"model": A, "messages": HELLO},
        json_answer(200, {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2}}),
        None,
    ),
    "tokenize": ("/cohere/v1/tokenize", {"model": A, "text": "a"}, json_answer(200, {"tokens": [1]}), 0),
    "a refusal": ("/cohere/v2/chat", {"model": A, "messages": HELLO}, json_answer(400, {"message": "no"}), 0),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_says_what_it_costs(harness: Harness, name: str) -> None:
    path, body, script, expected = CALLS[name]
    harness.respond_with(script)
    response = harness.gateway.ask("POST", path, body)
    assert response.status == (400 if name == "a refusal" else 200), response
    assert cost_of(harness, response) == expected
    header = response.headers.get("x-gateway-cost-usd")
    large = len(response.data) > 64 * 1024  # it comes in several reads, after its head
    assert header == (dollars(expected) if expected and not large else None)
    if response.status == 200 and not path.startswith(("/cohere", "/litellm")):
        cost = response.body["usage"].get("cost")
        assert cost == (None if expected is None else expected / 10**9)


CALL = {
    "type": "tool-call-start",
    "index": 0,
    "delta": {
        "message": {
            "tool_calls": {"id": "c", "type": "function", "function": {"name": "message-end", "arguments": "{}"}}
        }
    },
}
STREAMS: dict[str, tuple[str, Any, Script, int | None]] = {
    "chat": (
        CHAT,
        {"model": A, "messages": HELLO, "stream": True, "stream_options": {"include_usage": True}},
        streamed(),
        CHAT_COST,
    ),
    "responses": ("/v1/responses", {"model": A, "input": "Hello", "stream": True}, streamed(), CHAT_COST),
    "chat without counts": (
        CHAT,
        {"model": A, "messages": HELLO, "stream": True, "stream_options": {"include_usage": True}},
        event_stream(transcript(*story(ending=end(usage=None)))),
        None,
    ),
    # An answer ends once, whatever follows it in the same read.
    "chat with two ends": (
        CHAT,
        {"model": A, "messages": HELLO, "stream": True, "stream_options": {"include_usage": True}},
        event_stream(transcript(*story(), end())),
        CHAT_COST,
    ),
    "chat with a tool that is called like the end": (
        CHAT,
        {
            "model": A,
            "messages": HELLO,
            "tools": [{"type": "function", "function": {"name": "message-end"}}],
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        event_stream(transcript(start(), CALL, {"type": "tool-call-end", "index": 0}, end("TOOL_CALL"))),
        CHAT_COST,
    ),
    "native chat": ("/cohere/v2/chat", {"model": A, "messages": HELLO, "stream": True}, streamed(), CHAT_COST),
    "native chat of version 1": (
        "/cohere/v1/chat",
        {"model": OLD, "message": "Hello", "stream": True},
        (Head(200, JSON_STREAM, "chunked"), Chunk(V1_STREAM + b"\n"), *event_stream(b"")[2:]),
        4 * 150 + 2 * 600,
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_says_at_its_end_what_it_costs(harness: Harness, name: str) -> None:
    path, body, script, expected = STREAMS[name]
    harness.respond_with(script)
    response = harness.gateway.ask("POST", path, body)
    assert cost_of(harness, response) == expected
    assert "x-gateway-cost-usd" not in response.headers
    if path == CHAT:
        assert response.chunks[-1]["usage"].get("cost") == (None if expected is None else expected / 10**9)
    elif path == "/v1/responses":
        completed = [json.loads(line[6:]) for line in response.data.decode().split("\n") if line.startswith("data: {")][
            -1
        ]
        assert completed["response"]["usage"]["cost"] == CHAT_COST / 10**9


def test_a_transcription_is_unpriced(harness: Harness) -> None:
    harness.respond_with(json_answer(200, {"text": "Hi"}))
    form = (
        b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\ncohere-transcribe-03-2026\r\n'
        b'--b\r\ncontent-disposition: form-data; name="language"\r\n\r\nen\r\n'
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--b--\r\n'
    )
    headers = {
        "authorization": f"Bearer {harness.gateway.key}",
        "content-type": "multipart/form-data; boundary=b",
    }
    response = harness.gateway.ask("POST", "/v1/audio/transcriptions", form, headers)
    assert response.status == 200, response
    assert cost_of(harness, response) is None


# --- sums ---------------------------------------------------------------------------------------------------

ONE = {"billed_units": {"input_tokens": 1}}
"""37.5 nano-dollars on R7B: each call is rounded by itself."""


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_several_choices_cost_the_sum_of_their_calls(harness: Harness, streaming: bool) -> None:
    usage = {"include_usage": True} if streaming else None
    script = event_stream(transcript(*story(ending=end(usage=ONE)))) if streaming else answered(usage=ONE)
    harness.respond_with(script)
    response = harness.gateway.chat(model=R7B, n=3, stream=streaming, stream_options=usage)
    assert cost_of(harness, response) == 3 * 38
    usage = (response.chunks[-1] if streaming else response.body)["usage"]
    assert usage["cost"] == 3 * 38 / 10**9
    assert usage["billed_units"] == {"input_tokens": 3}


def test_split_embeddings_cost_the_sum_of_their_parts(harness: Harness) -> None:
    harness.respond_with(embedded(96, input_tokens=96), embedded(1, input_tokens=1))
    response = harness.gateway.ask(
        "POST", "/v1/embeddings", {"model": "embed-v4.0", "input": ["split"] * 97, "encoding_format": "float"}
    )
    line = line_of(harness, response)
    # Which part gets which answer is not fixed, and a part of the wrong size fails the request: it is paid for as well.
    assert line["cost_nanodollars"] == 97 * 120


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_an_answer_that_fails_its_check_is_paid_for(harness: Harness, streaming: bool) -> None:
    harness.respond_with(answered("It is in Oslo."), answered('{"city": "Oslo"}'))
    options = {"include_usage": True} if streaming else None
    response = harness.gateway.chat(
        response_format=SCHEMA, documents=["Oslo"], stream=streaming, stream_options=options
    )
    assert len(harness.upstream.requests) == 2
    assert cost_of(harness, response) == 2 * CHAT_COST
    assert (response.chunks[-1] if streaming else response.body)["usage"]["cost"] == 2 * CHAT_COST / 10**9


def test_two_answers_that_fail_their_check_are_paid_for(harness: Harness) -> None:
    harness.respond_with(answered("It is in Oslo."))
    response = harness.gateway.chat(response_format=SCHEMA, documents=["Oslo"])
    assert (response.status, cost_of(harness, response)) == (502, 2 * CHAT_COST)
    assert response.headers["x-gateway-cost-usd"] == dollars(2 * CHAT_COST)


def test_a_call_that_failed_costs_nothing_and_its_retry_once(harness: Harness) -> None:
    harness.respond_with(json_answer(500, {"message": "no"}), answered())
    response = harness.gateway.chat()
    assert (cost_of(harness, response), response.headers["x-gateway-attempts"]) == (CHAT_COST, "2")


def test_an_answer_that_is_an_error_is_paid_for_and_so_is_its_retry(harness: Harness) -> None:
    harness.respond_with(answered(finish="ERROR"), answered())
    response = harness.gateway.chat()
    assert (response.status, cost_of(harness, response)) == (200, 2 * CHAT_COST)


def test_nonsense_is_paid_for(harness: Harness) -> None:
    harness.respond_with(json_answer(200, {"id": "x", "message": "what?", "usage": USAGE}))
    response = harness.gateway.chat()
    assert (response.status, cost_of(harness, response)) == (502, CHAT_COST)


def test_a_fallback_is_priced_as_the_model_that_answered(harness: Harness) -> None:
    harness.respond_with(json_answer(503, {"message": "no"}), json_answer(503, {"message": "no"}), answered())
    response = harness.gateway.chat()
    assert response.headers["x-gateway-model"] == R7B
    assert cost_of(harness, response) == 150 + 300  # 4 * 37.5 + 2 * 150


def test_the_pages_of_files_are_part_of_the_request(harness: Harness) -> None:
    harness.respond_with(
        json_answer(200, {"pages": [{"index": 0, "markdown": {"content": "x"}}], **meta(pages=1)}), answered()
    )
    content = [{"type": "text", "text": "Read."}, {"type": "file", "file": {"file_data": PDF}}]
    response = harness.gateway.chat(content)
    assert cost_of(harness, response) == 1_500_000 + CHAT_COST
    assert response.body["usage"]["cost"] == (1_500_000 + CHAT_COST) / 10**9


# --- the cache ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_a_cached_answer_costs_nothing_and_saves(harness: Harness, streaming: bool) -> None:
    harness.respond_with(streamed() if streaming else answered())
    options = {"include_usage": True} if streaming else None
    before = saved(harness)
    costs = []
    for _ in range(2):
        response = harness.gateway.chat("Once?", temperature=0, stream=streaming, stream_options=options)
        costs.append(
            (cost_of(harness, response), (response.chunks[-1] if streaming else response.body)["usage"]["cost"])
        )
    assert costs == [(CHAT_COST, CHAT_COST / 10**9), (0, 0)]
    assert response.headers["x-gateway-cache"] == "hit"
    assert response.headers.get("x-gateway-cost-usd") == (None if streaming else "0")
    assert saved(harness) - before == pytest.approx(CHAT_COST / 10**9)


def saved(harness: Harness) -> float:
    return harness.gateway.metrics().get(f'gateway_cost_saved_usd_total{{model="{A}"}}', 0)


def test_cached_inputs_cost_nothing(harness: Harness) -> None:
    body = {"model": "embed-v4.0", "input": ["cached one", "cached two"], "encoding_format": "float"}
    harness.respond_with(embedded(2, input_tokens=4), embedded(1, input_tokens=7))
    costs = [cost_of(harness, harness.gateway.ask("POST", "/v1/embeddings", body)) for _ in range(2)]
    assert costs == [480, 0]
    body["input"] = ["cached one", "a new one"]
    assert cost_of(harness, harness.gateway.ask("POST", "/v1/embeddings", body)) == 840


# --- jobs ---------------------------------------------------------------------------------------------------


def batch(status: str, id: str = "b1", model: str = R7B) -> dict[str, Any]:
    return {"id": id, "status": f"BATCH_STATUS_{status}", "model": model, "input_tokens": "2", "output_tokens": "1"}


def embed_job(status: str, id: str = "j1") -> dict[str, Any]:
    return {"job_id": id, "status": status, "model": "embed-english-v3.0", **meta(input_tokens=30)}


# path, what Cohere says each time it is asked, and what each look costs
JOBS: dict[str, tuple[str, list[Any], list[int | None]]] = {
    "a batch": (
        "/cohere/v2/batches/b1",
        [{"batch": batch(status)} for status in ("IN_PROGRESS", "COMPLETED", "COMPLETED")],
        [0, 225, 0],
    ),
    "a list of batches": (
        "/cohere/v2/batches",
        [{"batches": [batch("COMPLETED", "l1"), batch("CANCELED", "l2"), batch("QUEUED", "l3")]}] * 2,
        [450, 0],
    ),
    "a batch of an unpriced model": (
        "/cohere/v2/batches/b9",
        [{"batch": batch("COMPLETED", "b9", "batch-embed-v4")}] * 2,
        [None, 0],
    ),
    "an embed job": (
        "/cohere/v1/embed-jobs/j1",
        [embed_job("processing"), embed_job("cancelling"), embed_job("cancelled"), embed_job("cancelled")],
        [0, 0, 3_000, 0],
    ),
    "a list of embed jobs": (
        "/cohere/v1/embed-jobs",
        [{"embed_jobs": [embed_job("complete", "l1"), embed_job("complete", "l2")]}] * 2,
        [6_000, 0],
    ),
    "no job": ("/cohere/v2/batches/b1", [{"batch": {"id": 7}}], [0]),
}


@pytest.mark.parametrize("name", JOBS)
def test_a_job_is_paid_for_by_whoever_sees_its_end_first(harness: Harness, name: str) -> None:
    path, answers, costs = JOBS[name]
    for answer, cost in zip(answers, costs, strict=True):
        harness.respond_with(json_answer(200, answer))
        assert cost_of(harness, harness.gateway.ask("GET", path)) == cost


# --- callers who leave --------------------------------------------------------------------------------------


def leave(harness: Harness, request_id: str, script: Script, stream: bool, until: bytes) -> dict[str, Any]:
    harness.respond_with(script)
    body = json.dumps({"model": A, "messages": HELLO, "stream": stream}).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {harness.gateway.key}\r\n"
        f"x-request-id: {request_id}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(harness.gateway.address, WAIT_SECONDS) as connection:
        connection.sendall(head.encode() + body)
        received = b""
        while until and until not in received:
            received += connection.recv(65_536)
        if not until:
            wait_for(lambda: bool(harness.upstream.requests))
    return harness.gateway.log.line_of(request_id)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_stream_whose_caller_left_is_estimated(harness: Harness) -> None:
    never = Signal()
    pieces = transcript(start(), story()[1], *[piece("word ")] * 10, done=False)
    script = (Head(200, (("content-type", "text/event-stream"),), "chunked"), Chunk(pieces), Pause(never))
    line = leave(harness, "left-a-stream", script, True, b"word")
    never.set()
    assert (line["outcome"], line["estimated"]) == ("client_closed", True)
    assert line["completion_tokens"] == 10
    assert line["prompt_tokens"] > 0
    assert line["cost_nanodollars"] == line["prompt_tokens"] * 2_500 + 10 * 10_000


def test_an_answer_whose_caller_left_costs_an_unknown_amount(harness: Harness) -> None:
    never = Signal()
    line = leave(harness, "left-an-answer", (Pause(never), *answered()), False, b"")
    never.set()
    assert line["outcome"] == "client_closed"
    assert line["cost_nanodollars"] is None


def test_a_stream_that_cohere_cut_is_estimated(harness: Harness) -> None:
    pieces = transcript(start(), story()[1], *[piece("word ")] * 10, done=False)
    harness.respond_with((Head(200, (("content-type", "text/event-stream"),), "chunked"), Chunk(pieces), Cut()))
    line = line_of(harness, harness.gateway.chat(stream=True))
    assert line["cost_nanodollars"] == line["prompt_tokens"] * 2_500 + 10 * 10_000


# --- calls of which no count came ---------------------------------------------------------------------------

CUT = (Cut(),)
EMBED_NATIVE = {"model": "embed-v4.0", "texts": ["x"], "input_type": "classification"}
HASTE = {"cf-aig-request-timeout": "250"}

# path, body, headers, what Cohere does
UNCOUNTED: dict[str, tuple[str, dict[str, Any], dict[str, str], tuple[Script, ...]]] = {
    "cut": (CHAT, {"model": R7B, "messages": HELLO}, {}, (CUT,)),
    "cut, streamed": (CHAT, {"model": R7B, "messages": HELLO, "stream": True}, {}, (CUT,)),
    "cut, native": ("/cohere/v2/chat", {"model": R7B, "messages": HELLO}, {}, (CUT,)),
    "cut, native and streamed": ("/cohere/v2/chat", {"model": R7B, "messages": HELLO, "stream": True}, {}, (CUT,)),
    "cut, native embeddings": ("/cohere/v2/embed", EMBED_NATIVE, {}, (CUT,)),
    "silent": (CHAT, {"model": R7B, "messages": HELLO}, HASTE, ((Pause(Signal()),),)),
    "silent, native": ("/cohere/v2/chat", {"model": R7B, "messages": HELLO}, HASTE, ((Pause(Signal()),),)),
    "cut, then answered": (CHAT, {"model": A, "messages": HELLO}, {}, (CUT, answered())),
    "cut, then streamed": (CHAT, {"model": A, "messages": HELLO, "stream": True}, {}, (CUT, streamed())),
    "cut, then answered, native": ("/cohere/v2/chat", {"model": A, "messages": HELLO}, {}, (CUT, answered())),
    "cut, then answered by a fallback": (CHAT, {"model": A, "messages": HELLO}, {}, (CUT, CUT, answered())),
    "cut, then refused": (CHAT, {"model": R7B, "messages": HELLO}, {}, (CUT, json_answer(400, {"message": "no"}))),
    "one of two choices": (CHAT, {"model": R7B, "messages": HELLO, "n": 2}, {}, (answered(), CUT)),
    "one of two parts": ("/v1/embeddings", {"model": "embed-v4.0", "input": ["y"] * 97}, {}, (embedded(96), CUT)),
    "no content": (CHAT, {"model": R7B, "messages": HELLO}, {}, (json_answer(204, b""),)),
    "a stream of nothing, native": (
        *("/cohere/v2/chat", {"model": R7B, "messages": HELLO, "stream": True}, {}),
        (event_stream(b""),),
    ),
}


@pytest.mark.parametrize(("path", "body", "headers", "scripts"), UNCOUNTED.values(), ids=list(UNCOUNTED))
def test_what_cohere_may_charge_for_without_a_count_costs_an_unknown_amount(
    path: str, body: dict[str, Any], headers: dict[str, str], scripts: tuple[Script, ...], harness: Harness
) -> None:
    harness.respond_with(*scripts)
    usual = {"authorization": f"Bearer {harness.gateway.key}", "content-type": "application/json"}
    response = harness.gateway.ask("POST", path, body, usual | headers)
    assert cost_of(harness, response) is None
    assert "x-gateway-cost-usd" not in response.headers
    if response.status == 200 and path == CHAT and not body.get("stream"):
        assert "cost" not in response.body["usage"]


def test_what_was_not_sent_or_was_refused_costs_nothing(harness: Harness) -> None:
    """Nor does a job that may have been started: whoever sees it ended says what it cost."""
    harness.respond_with(json_answer(500, {"message": "no"}))
    assert cost_of(harness, harness.gateway.chat(model=R7B)) == 0
    harness.respond_with(CUT)
    assert cost_of(harness, harness.gateway.ask("POST", "/cohere/v2/batches", {"name": "x"})) == 0
    assert cost_of(harness, harness.gateway.ask("POST", "/cohere/v1/tokenize", {"model": R7B, "text": "x"})) == 0
    with full() as url, gateway_over(url) as gateway:
        response = gateway.chat(headers=HASTE)
        assert gateway.log.line_of(response.headers["x-request-id"]).get("cost_nanodollars", 0) == 0
        assert response.status == 504


# --- clients, metrics, settings -----------------------------------------------------------------------------


def test_the_official_sdk_reads_it(harness: Harness) -> None:
    harness.respond_with(answered(), streamed(), answered())
    with harness.gateway.client() as client:
        completion = client.chat.completions.create(model=A, messages=[{"role": "user", "content": "SDK"}])
        assert cost_in(completion.usage) == CHAT_COST / 10**9
        *_, last = client.chat.completions.create(
            model=A,
            messages=[{"role": "user", "content": "SDK"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        assert cost_in(last.usage) == CHAT_COST / 10**9
        response = client.responses.create(model=A, input="SDK", store=False)
        assert cost_in(response.usage) == CHAT_COST / 10**9


def cost_in(usage: openai.BaseModel | None) -> Any:
    assert usage is not None
    extra: Mapping[str, Any] = usage.model_extra or {}
    return extra["cost"]


def test_metrics_count_money_by_model(harness: Harness) -> None:
    harness.respond_with(answered())
    for model in (A, REASONER):
        cost_of(harness, harness.gateway.chat(model=model))
    series = harness.gateway.metrics()
    assert series[f'gateway_cost_usd_total{{key="",model="{A}"}}'] > 0
    assert series[f'gateway_unpriced_requests_total{{model="{REASONER}"}}'] >= 1


def test_the_cost_in_usage_can_be_switched_off() -> None:
    with run_harness(usage_cost=False) as quiet:
        quiet.respond_with(answered())
        response = quiet.gateway.chat()
        assert "cost" not in response.body["usage"]
        assert response.headers["x-gateway-cost-usd"] == dollars(CHAT_COST)


@pytest.mark.asyncio
async def test_a_request_has_the_prices_that_it_was_admitted_with() -> None:
    """All of its parts, whatever is read again meanwhile: its row names one version of the prices."""
    old = Settings(cohere_api_key=["k"], log="off", prices={A: ModelPrice(input=1, output=1)})
    _, running = controlled_app(old)
    method, answer = cohere_methods.named("v2.chat"), json.dumps(whole()).encode()

    async def admitted() -> Admission:
        record = RequestRecord("r", "POST", CHAT, 0.0)
        return await running._services.admission.admit(record, method, Workload(A), Notes())

    before = await admitted()
    before.bill(A, answer)
    version = before.record.price_version
    assert running.reload(old, replace(old, prices={A: ModelPrice(input=5, output=5)}))
    before.bill(A, answer)
    after = await admitted()
    after.bill(A, answer)
    assert (before.record.cost_nanodollars, before.record.price_version) == (2 * 6_000, version)
    assert after.record.cost_nanodollars == 6 * 5_000 and after.record.price_version != version
