"""The emulator's whole native surface, judged by Cohere's own SDK and by Cohere's own specification.

`support/cohere_sdk_calls.py` is the table of calls. What each kind of thing does on its own (stages, forms, files,
faults on the older streams) follows below.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import io
import json
import re
import time
import wave
import zlib
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import cohere
import fastavro
import httpx
import pytest
from starlette.applications import Starlette

from gateway.emulator import (
    avro,
    classify,
    dataset_rows,
    datasets,
    faults,
    generate,
    multipart,
    pdf_text,
    repository,
    validation,
)
from gateway.emulator.app import create_emulator
from gateway.emulator.errors import APIError
from gateway.emulator.model_catalog import MODELS, Model
from gateway.emulator.repository import JobProgress, Repository
from gateway.emulator.routes import ROUTES
from support import cohere_sdk_calls, oracle
from support.cohere_sdk_calls import CALLS, LEFT_OUT, Clients, outcome
from test_emulator import KEY, PIXEL, REASONING, A, EmulatorClient, Response, running

PIXEL_BYTES = base64.b64decode(PIXEL.partition(",")[2])

# Calls that must come to a refusal: what the table's names say of them.
REFUSED = re.compile(r", (?:refused|unknown|newer model)$")
# A path with a name in it comes last, so that /v1/datasets/usage is not taken for a dataset.
DOCUMENTED = sorted(oracle.cohere_operations(), key=lambda row: "{" in row[1])
OPERATIONS = [(method, path, re.compile(re.sub(r"\{[^}]*\}", "[^/:]+", path))) for method, path in DOCUMENTED]


class Judged:
    """Holds every answer that the SDK gets against the specification."""

    def __init__(self) -> None:
        self.answered: set[tuple[str, str]] = set()

    def __call__(self, response: httpx.Response) -> None:
        if not response.headers["content-type"] == "application/json":
            return
        response.read()
        for method, path, pattern in OPERATIONS:
            if method != response.request.method or not pattern.fullmatch(response.request.url.path):
                continue
            if response.status_code != 200:
                oracle.cohere_error_validator().check(response.json())
            elif response.content:
                oracle.cohere_response_validator(path, method.lower()).check(response.json())
            self.answered |= {(method, path)} if response.status_code == 200 else set()
            return


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatorClient]:
    with running() as caller:
        yield caller


@pytest.fixture(scope="module")
def judged() -> Judged:
    return Judged()


@pytest.fixture(scope="module")
def on(emulator: EmulatorClient, judged: Judged) -> Iterator[Clients]:
    with cohere_sdk_calls.clients(emulator.url, hook=judged) as created:
        yield created


@pytest.mark.parametrize("name", CALLS)
def test_the_sdk_is_answered(on: Clients, name: str) -> None:
    """Parsed without an error, right by the specification, and the same when asked again."""
    result = outcome(CALLS[name], on)
    assert (isinstance(result, dict) and "refused" in result) is bool(REFUSED.search(name)), result
    assert outcome(CALLS[name], on) == result


def test_every_method_of_the_sdk_is_called(monkeypatch: pytest.MonkeyPatch, on: Clients) -> None:
    called: set[tuple[type, str]] = set()
    wanted: set[tuple[type, str]] = set()
    parts = (on.v1.datasets, on.v1.embed_jobs, on.v1.batches, on.v1.connectors, on.v1.models, on.v1.finetuning,
             on.v2.audio.transcriptions)  # fmt: skip
    classes = [cohere.base_client.BaseCohere, cohere.v2.client.V2Client, *map(type, parts)]
    for owner in classes:
        for name, method in list(vars(owner).items()):
            if name.startswith("_") or name in LEFT_OUT or not inspect.isfunction(method):
                continue

            def watched(self: Any, *args: Any, _of: Any = (owner, name, method), **more: Any) -> Any:
                called.add(_of[:2])
                return _of[2](self, *args, **more)

            wanted.add((owner, name))
            monkeypatch.setattr(owner, name, watched)
    with cohere_sdk_calls.clients(on.url) as fresh:  # clients made now meet the watched methods
        for call in CALLS.values():
            outcome(call, fresh)
    assert wanted - called == set()
    # The methods that the SDK writes by hand; those that only raise are the ones it has given up.
    by_hand = {name for name, value in vars(cohere.Client).items() if inspect.isfunction(value) and name[0] != "_"}
    given_up = {name for name in by_hand if vars(cohere.Client)[name].__qualname__.endswith("_function.<locals>.fn")}
    assert by_hand - given_up <= {"embed", "embed_stream", "tokenize", "detokenize", *LEFT_OUT}


def test_every_operation_of_the_specification_is_served(on: Clients, judged: Judged) -> None:
    for call in CALLS.values():
        outcome(call, on)
    named = {(method, re.sub(r"\{[^}]*\}", "{}", path)) for method, path, _ in ROUTES}
    documented = {(method, re.sub(r"\{[^}]*\}", "{}", path)) for method, path in oracle.cohere_operations()}
    assert documented <= named
    assert set(oracle.cohere_operations()) <= judged.answered


# --- the older streams --------------------------------------------------------------------------------------

WEATHER = cohere_sdk_calls.WEATHER_V1
TURNS: dict[str, dict[str, Any]] = {
    "words": {"message": "Say hello"},
    "documents": {"message": "What is blue?", "documents": cohere_sdk_calls.DOCUMENTS},
    "fast citations": {"message": "What is blue?", "documents": cohere_sdk_calls.DOCUMENTS, "citation_quality": "fast"},
    "a call": {"message": "What is the weather in Oslo?", "tools": WEATHER},
    "results": {"message": "Weather in Oslo?", "tools": WEATHER, "tool_results": cohere_sdk_calls.RESULTS},
    "connectors": {"message": "Where is the sea?", "connectors": [{"id": "web-search"}]},
    "queries": {"message": "Where is the sea?", "search_queries_only": True},
}


def events_of(response: Response) -> list[dict[str, Any]]:
    """The events of an older stream, lines or events."""
    assert response.status == 200
    lines = [line.removeprefix("data: ") for line in response.data.decode().split("\n")]
    return [json.loads(line) for line in lines if line.startswith("{")]


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
@pytest.mark.parametrize("name", TURNS)
def test_a_stream_says_what_the_whole_answer_says(emulator: EmulatorClient, name: str, accept: str) -> None:
    body = TURNS[name] | {"seed": 1}
    http_response = emulator.post("/v1/chat", body | {"stream": True}, accept=accept)
    events = events_of(http_response)
    expected = "text/event-stream" if accept != "*/*" else "application/stream+json"
    assert http_response.headers["content-type"] == expected and "num_tokens" not in http_response.headers
    assert [event["is_finished"] for event in events] == [False] * (len(events) - 1) + [True]
    assert events[0]["event_type"] == "stream-start" and events[-1]["event_type"] == "stream-end"
    response = events[-1]["response"]
    whole = emulator.post("/v1/chat", body).body
    same = cohere_sdk_calls.normalised
    assert same(response) == same(whole) and list(response) == list(whole)
    assert response["generation_id"] == events[0]["generation_id"]
    texts = [event["text"] for event in events if event["event_type"] == "text-generation"]
    chunks = [event.get("text", "") for event in events if event["event_type"] == "tool-calls-chunk"]
    assert "".join(texts or chunks) == response["text"]
    cited = [cite for event in events if event["event_type"] == "citation-generation" for cite in event["citations"]]
    assert cited == response.get("citations", [])
    for event in events:
        oracle.cohere_event_validator("StreamedChatResponse").check(event)


def test_calls_are_streamed_in_pieces_of_json(emulator: EmulatorClient) -> None:
    events = events_of(emulator.post("/v1/chat", TURNS["a call"] | {"stream": True}))
    deltas = [event["tool_call_delta"] for event in events if "tool_call_delta" in event]
    assert deltas[0] == {"index": 0, "name": "get_weather"}
    assert json.loads("".join(delta.get("parameters", "") for delta in deltas)) == {"city": "Oslo"}
    kinds = [event["event_type"] for event in events]
    assert kinds[-2:] == ["tool-calls-generation", "stream-end"] and "text-generation" not in kinds


def test_citations_come_while_the_text_runs_only_when_that_is_requested(emulator: EmulatorClient) -> None:
    body = {"message": "What is blue?", "documents": [{"text": "The sea is blue, and so is the sky."}], "stream": True}
    late = [event["event_type"] for event in events_of(emulator.post("/v1/chat", body))]
    early = [event["event_type"] for event in events_of(emulator.post("/v1/chat", body | {"citation_quality": "FAST"}))]
    assert late.index("citation-generation") > len(late) - 1 - late[::-1].index("text-generation")
    assert early.index("citation-generation") < len(early) - 1 - early[::-1].index("text-generation")


def test_a_stream_of_generate(emulator: EmulatorClient) -> None:
    events = events_of(emulator.post("/v1/generate", {"prompt": "Count to 4", "stream": True, "num_generations": 2}))
    assert "".join(event["text"] for event in events[:-1] if event["index"] == 1) == "1, 2, 3, 4"
    assert [created["text"] for created in events[-1]["response"]["generations"]] == ["1, 2, 3, 4"] * 2
    for event in events:
        oracle.cohere_event_validator("GenerateStreamedResponse").check(event)


# --- v1 chat: what it takes and what it refuses -------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({"message": ""}, 400, "message must be at least 1 token long or tool results"),
        ({"message": "a", "model": REASONING}, 400, "this model is not supported with '/v1/chat', please use"),
        ({"message": "a", "model": "command-r-plus"}, 404, "was removed on"),
        ({"message": 1}, 400, "parameter 'message' is of type number but should be of type string"),
        ({"message": "a", "chat_history": [{"role": "USER", "message": ""}]}, 400, "elements in history must have"),
        ({"message": "a", "chat_history": [{"role": "Me", "message": "a"}]}, 400, "Invalid role in chat_history at in"),
        ({"message": "a", "documents": [{}]}, 400, "document at index 0 cannot be empty"),
        ({"message": "a", "documents": [{"id": "x", "a": "b"}] * 2}, 400, "duplicate document ID x at index 1 and 0"),
        ({"message": "a", "raw_prompting": True, "tools": WEATHER}, 400, "raw prompting is not supported with"),
        ({"message": "a", "tools": [{"name": "1", "description": "d"}]}, 400, "tool names can only contain"),
        ({"message": "a", "tools": [{"name": "f"}]}, 400, "the 'f' tool must have at least a description, input"),
        ({"message": "a", "temperature": 2}, 400, "temperature must be between 0 and 1.0 inclusive."),
        ({"message": "a", "max_tokens": 10**6}, 400, "max tokens must be less than or equal to 8192"),
        ({"message": "a " * 300_000}, 400, "too many tokens"),
        ({"message": "a", "connectors": [{"id": "nobody"}]}, 404, "connector 'nobody' not found."),
    ],
)
def test_chat_refuses(emulator: EmulatorClient, body: dict[str, Any], status: int, sentence: str) -> None:
    for stream in (False, True):
        response = emulator.post("/v1/chat", body | {"stream": stream})
        assert response.status == status and sentence in response.body["message"], response


def test_chat_cuts_a_history_that_is_too_long_when_it_may(emulator: EmulatorClient) -> None:
    long = [{"role": "USER", "message": "word " * 300_000}, {"role": "CHATBOT", "message": "I see."}]
    history = [*long, {"role": "user", "message": "My name is Ada."}, {"role": "CHATBOT", "message": "Hello Ada."}]
    body = {"message": "What is my name?", "chat_history": history}
    assert emulator.post("/v1/chat", body).status == 400
    response = emulator.post("/v1/chat", body | {"prompt_truncation": "AUTO"})
    assert response.status == 200 and response.body["text"] == "Your name is Ada."


def test_chat_in_several_steps(emulator: EmulatorClient) -> None:
    """The caller sends the history back with the results, and nothing new to say."""
    first = emulator.post("/v1/chat", TURNS["a call"]).body
    results = [{"call": first["tool_calls"][0], "outputs": [{"weather": "7 degrees"}]}]
    body = {"message": "", "chat_history": first["chat_history"], "tools": WEATHER, "tool_results": results}
    second = emulator.post("/v1/chat", body).body
    assert second["text"] == "The tool returned: 7 degrees"
    assert [turn["role"] for turn in second["chat_history"]] == ["USER", "CHATBOT", "TOOL", "CHATBOT"]
    # Next time the results are history, too.
    body = {"message": "Say thanks", "chat_history": second["chat_history"], "tools": WEATHER}
    assert emulator.post("/v1/chat", body).body["text"] == "thanks"


def test_chat_forgets_what_is_too_long_to_remember(emulator: EmulatorClient) -> None:
    for message in ("My name is Ada.", "a" * 300_000, "What is my name?"):
        response = emulator.post("/v1/chat", {"message": message, "conversation_id": "long"})
    assert response.status == 200 and "Ada" not in response.body["text"]


def test_chat_does_not_show_the_model_what_is_excluded(emulator: EmulatorClient) -> None:
    document = {"id": "a", "text": "The sea is blue.", "secret": "Zanzibar", "_excludes": ["text"]}
    response = emulator.post("/v1/chat", {"message": "What?", "documents": [document]}).body
    assert "Zanzibar" in response["text"] and "blue" not in response["text"]
    assert response["documents"] == [document]


def test_chat_goes_on_without_a_connector_that_may_fail(emulator: EmulatorClient) -> None:
    body = {"message": "Say hello", "connectors": [{"id": "nobody", "continue_on_failure": True}]}
    response = emulator.post("/v1/chat", body).body
    assert response["search_results"][0]["error_message"] == "connector 'nobody' not found." and response["text"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat", {"message": "Say hello"}),
        ("/v1/embed", {"texts": ["a"]}),
        ("/v1/rerank", {"query": "a", "documents": ["a"]}),
        ("/v1/classify", {"inputs": ["a"], "examples": cohere_sdk_calls.EXAMPLES}),
        ("/v1/generate", {"prompt": "a"}),
        ("/v1/summarize", {"text": cohere_sdk_calls.STORY}),
        ("/v1/connectors", {"name": "a", "url": "https://example.com"}),
    ],
)
def test_an_unknown_field_is_only_warned_about(emulator: EmulatorClient, path: str, body: dict[str, Any]) -> None:
    response = emulator.post(path, body | {"colour": "blue"})
    assert response.status == 200
    assert path == "/v1/connectors" or response.body["meta"]["api_version"] == {"version": "1"}
    assert response.headers["x-api-warning"] == "unknown field: parameter colour is not a valid field"
    assert "x-api-warning" not in emulator.post(path, body).headers


def test_the_newer_models_are_not_for_the_older_chat(emulator: EmulatorClient) -> None:
    old = {model.name for model in MODELS if "chat" in model.endpoints and model.v1}
    assert A in old and not any(model.reasoning for model in MODELS if model.name in old)


# --- faults on the new routes -------------------------------------------------------------------------------

STREAMED = [("*/*", "lines"), ("text/event-stream", "events")]
POSTED: dict[str, Any] = {
    "/v1/chat": {"message": "Say hello"}, "/v1/embed": {"texts": ["a"]}, "/v2/batches": {},
    "/v1/finetuning/finetuned-models": {}, "/v1/connectors": {}, "/v1/datasets": None, "/v1/embed-jobs": {},
}  # fmt: skip


@pytest.mark.parametrize("path", POSTED)
def test_an_ordered_error(emulator: EmulatorClient, path: str) -> None:
    for method in ("POST",) if path in ("/v1/chat", "/v1/embed") else ("GET", "POST"):
        response = emulator.ask(method, path, POSTED[path], KEY | {faults.HEADER: "status=503"})
        plain = path.startswith(("/v2/batches", "/v1/finetuning"))
        assert (response.status, "id" in response.body) == (503, not plain), (method, response)
    assert emulator.ask("GET", f"{path}/x", None, KEY | {faults.HEADER: "rate_month"}).status in (404, 405, 429)


@pytest.mark.parametrize(("accept", "how"), STREAMED, ids=[how for _, how in STREAMED])
def test_faults_in_the_older_streams(emulator: EmulatorClient, accept: str, how: str) -> None:
    def ordered(fault: str) -> Response:
        body = {"message": "Count to 9", "model": f"{A}@{fault}", "stream": True}
        return emulator.post("/v1/chat", body, accept=accept)

    assert events_of(ordered("finish_error"))[-1]["finish_reason"] == "ERROR"
    timed_out = events_of(ordered("finish_timeout"))[-1]
    assert timed_out["finish_reason"] == timed_out["response"]["finish_reason"] == "TIMEOUT"
    assert events_of(ordered("no_usage"))[-1]["response"]["meta"] == {"api_version": {"version": "1"}}
    assert "telemetry" in [event["event_type"] for event in events_of(ordered("unknown_event"))]
    assert events_of(ordered("eof"))[-1]["is_finished"] is False
    assert events_of(ordered("slow=0"))[-1]["is_finished"] is True
    with pytest.raises(json.JSONDecodeError):
        events_of(ordered("broken_json"))


def test_faults_of_a_whole_answer(emulator: EmulatorClient) -> None:
    def ordered(fault: str) -> dict[str, Any]:
        return dict(emulator.post("/v1/chat", {"message": "Hi", "model": f"{A}@{fault}"}).body)

    assert ordered("finish_timeout")["finish_reason"] == "TIMEOUT"
    assert ordered("finish_error")["finish_reason"] == "ERROR" and "usage" not in ordered("finish_error")
    assert ordered("no_usage")["meta"] == {"api_version": {"version": "1"}, "cached_tokens": 480}


def test_flaky_tells_requests_apart_that_have_no_body(emulator: EmulatorClient) -> None:
    flaky = KEY | {faults.HEADER: "flaky=1"}
    request = ["/v1/datasets", "/v1/datasets?limit=1", "/v1/datasets", "/v1/datasets?limit=1"]
    assert [emulator.ask("GET", path, None, flaky).status for path in request] == [503, 503, 200, 200]


def test_a_trial_key_is_counted_by_endpoint_and_not_by_thing() -> None:
    with running(lambda: create_emulator(trial=True, clock=lambda: 0.0)) as emulator:
        left = [emulator.ask("GET", f"/v1/datasets/{name}").headers["x-trial-endpoint-call-remaining"] for name in "ab"]
        assert left == ["499", "498"]
        assert emulator.post("/v1/chat", {"message": "Hi"}).headers["x-trial-endpoint-call-limit"] == "20"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_a_method_that_a_path_does_not_have(emulator: EmulatorClient, method: str) -> None:
    assert emulator.ask(method, "/v1/chat").status == 405


# --- forms --------------------------------------------------------------------------------------------------


def form(data: bytes, boundary: str = "b1", filename: str = "rows.jsonl") -> tuple[bytes, dict[str, str]]:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="data"; filename="{filename}"\r\n\r\n'.encode()
    headers = KEY | {"content-type": f"multipart/form-data; boundary={boundary}"}
    return head + data + f"\r\n--{boundary}--\r\n".encode(), headers


async def pieces(data: bytes, *cuts: int) -> AsyncIterator[bytes]:
    positions = [0, *cuts, len(data)]
    for start, end in zip(positions, positions[1:], strict=False):
        yield data[start:end]


def read(data: bytes, *cuts: int) -> multipart.Form:
    return asyncio.run(multipart.read_form(pieces(data, *cuts), 'multipart/form-data; charset=utf-8; boundary="b1"'))


TWO_PARTS = (
    b'before\r\n--b1\r\ncontent-disposition: form-data; name="data"; filename="a b.csv"\r\ncontent-type: text/csv\r\n'
    b'\r\none\r\n--b\r\ntwo\n\r\n--b1\r\nContent-Disposition: form-data; name=empty; name="empty"\r\n\r\n'
    b"\r\n--b1--\r\nafter"
)


def test_a_form_is_the_same_however_it_is_cut() -> None:
    whole = read(TWO_PARTS)
    data, empty = whole.parts
    assert (data.name, data.filename, data.content_type) == ("data", "a b.csv", "text/csv")
    assert (data.data, data.size, data.lines, data.complete) == (b"one\r\n--b\r\ntwo\n", 14, 3, True)
    assert (empty.name, empty.filename, empty.data) == ("empty", None, b"")
    for cut in range(len(TWO_PARTS)):
        assert read(TWO_PARTS, cut) == whole, cut
    assert read(TWO_PARTS, *range(1, len(TWO_PARTS))) == whole


def test_of_a_part_no_more_is_preserved_than_should_be() -> None:
    data = form(b"a\n" * multipart.MAX_PART_BYTES)[0]
    part = read(data, *range(100_000, len(data), 100_000)).parts[0]
    assert (len(part.data), part.size, part.lines) == (
        multipart.MAX_PART_BYTES,
        2 * multipart.MAX_PART_BYTES,
        multipart.MAX_PART_BYTES,
    )
    assert not part.complete


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"--b2\r\n",
        form(b"a")[0][:-6],
        b"--b1xx\r\n",
        b"--b1\r\nContent-Disposition: form-data\r\n\r\na\r\n--b1--",
        b'--b1\r\nContent-Disposition: attachment; name="a"\r\n\r\na\r\n--b1--',
        b"--b1\r\nA: " + b"a" * 20_000,
        b'--b1\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 40,
    ],
)
def test_a_broken_form_is_refused(data: bytes) -> None:
    with pytest.raises(APIError) as refused:
        read(data)
    assert refused.value.status == 400 and "invalid multipart form" in str(refused.value.message)


def test_a_form_without_a_boundary_is_refused(emulator: EmulatorClient) -> None:
    body, headers = form(b"a")
    response = emulator.ask(
        "POST", "/v1/datasets?name=a&type=embed-input", body, headers | {"content-type": "multipart/form-data"}
    )
    assert (response.status, response.body["message"]) == (400, "invalid multipart form: no boundary")


def test_of_a_large_upload_only_the_beginning_is_preserved(emulator: EmulatorClient) -> None:
    line = b'{"text": "' + b"a" * 1_000 + b'"}\n'
    body, headers = form(line * 20_000)
    created = emulator.ask("POST", "/v1/datasets?name=large&type=embed-input", body, headers).body
    assert emulator.app.state.log[-1].received == len(body) > 20_000_000
    emulator.ask("GET", f"/v1/datasets/{created['id']}")
    dataset = emulator.ask("GET", f"/v1/datasets/{created['id']}").body["dataset"]
    assert dataset["validation_status"] == "validated"
    assert dataset["dataset_parts"][0] | {"url": "", "samples": []} == {
        "id": f"{created['id']}-0", "name": "rows.jsonl", "url": "", "index": 0, "size_bytes": len(line) * 20_000,
        "num_rows": 20_000, "samples": [],
    }  # fmt: skip
    assert dataset["validation_warnings"] == [f"the emulator keeps the first {dataset_rows.MAX_ROWS} rows only"]
    assert all(len(part) <= dataset_rows.MAX_SAMPLE_CHARACTERS for part in dataset["dataset_parts"][0]["samples"])


@pytest.mark.parametrize(
    ("query", "data", "sentence"),
    [
        ("type=embed-input", b"a", "name is required"),
        (f"name={'a' * 50}&type=embed-input", b"a", "name must be shorter"),
        ("name=a&type=nonsense", b"a", "type must be one of"),
        ("name=a&type=embed-input&csv_delimiter=ab", b"a", "csv_delimiter must be a single character"),
        ("name=a&type=embed-input", None, "data is required"),
    ],
)
def test_an_upload_is_refused(emulator: EmulatorClient, query: str, data: bytes | None, sentence: str) -> None:
    body, headers = form(data) if data is not None else (b"{}", KEY)
    response = emulator.ask("POST", f"/v1/datasets?{query}", body, headers)
    assert response.status == 400 and sentence in response.body["message"]


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filename", "data", "rows", "errors"),
    [
        ("a.jsonl", b'{"text": "a"}\n\n{"text": "b"}', [{"text": "a"}, {"text": "b"}], 0),
        ("a.jsonl", b'\xef\xbb\xbf{"text": "a"}\n{"text": 1}\nx\n[]\n{}\n', [{"text": "a"}], 4),
        ("a.csv", b"text|n\na|1\n", [{"text": "a", "n": "1"}], 0),
        ("a.txt", b"a\n\nb\n", [{"text": "a"}, {"text": "b"}], 0),
    ],
)
def test_rows(filename: str, data: bytes, rows: list[dict[str, Any]], errors: int) -> None:
    part = multipart.Part(name="data", filename=filename, data=data, size=len(data), lines=data.count(b"\n"))
    content = dataset_rows.read_rows(part, "embed-input", "", "|")
    assert content.rows == rows and len(content.errors) == errors


def test_requests_of_a_batch_have_ids_of_their_own() -> None:
    data = cohere_sdk_calls.lines(
        {"custom_id": "1", "body": {}}, {"custom_id": "1", "body": {}}, {"custom_id": 2, "body": {}}
    )
    part = multipart.Part(name="data", filename="a.jsonl", data=data, size=len(data))
    content = dataset_rows.read_rows(part, "batch-chat-v2-input", "", "")
    assert content.errors == ["custom_id must be a string and body an object", "custom_id '1' occurs twice"]


def test_files_are_read_by_another_reader() -> None:
    inner = avro.record("inner", {"floats": avro.array("double"), "ints": avro.array("long")})
    schema = avro.record("row", {"text": "string", "maybe": ["null", "string"], "inner": inner})
    written = [
        {"text": "é😀", "maybe": None, "inner": {"floats": [0.5, -1.25], "ints": [0, -1, 63, 64, -65, 2**40]}},
        {"text": "", "maybe": "x" * 300, "inner": {"floats": [], "ints": []}},
    ]
    assert list(fastavro.reader(io.BytesIO(avro.encode_container(schema, written)))) == written
    assert list(fastavro.reader(io.BytesIO(avro.encode_container(schema, [])))) == []
    with pytest.raises(TypeError):
        avro.encode("bytes", b"")


def test_a_dataset_is_downloaded_without_a_key(emulator: EmulatorClient, on: Clients) -> None:
    identity = cohere_sdk_calls.uploaded(on, "embed-input", cohere_sdk_calls.TEXTS)
    response = emulator.ask("GET", f"/emulator/datasets/{identity}/0", None, {})
    assert (response.status, response.headers["content-type"]) == (200, "application/octet-stream")
    results: list[Any] = list(fastavro.reader(io.BytesIO(response.data)))
    assert [row["text"] for row in results] == ["The sea is blue.", "The sand is yellow."]
    assert emulator.ask("GET", "/emulator/datasets/nobody/0", None, {}).status == 404


# --- things that go through stages --------------------------------------------------------------------------


def test_a_job_goes_on_with_each_look(on: Clients) -> None:
    dataset = on.v1.datasets.create(name="staged", type="embed-input", data=("a.jsonl", cohere_sdk_calls.TEXTS))
    request = {"model": cohere_sdk_calls.SMALL, "dataset_id": str(dataset.id), "input_type": "search_document"}
    with pytest.raises(cohere.BadRequestError, match="must be validated but is queued"):
        on.v1.embed_jobs.create(**request)
    stages = [on.v1.datasets.get(str(dataset.id)).dataset.validation_status for _ in range(3)]
    assert stages == ["processing", "validated", "validated"]
    job = on.v1.embed_jobs.create(**request)
    assert [on.v1.embed_jobs.get(job.job_id).status for _ in range(3)] == ["processing", "complete", "complete"]
    batch = on.v2.batches.create
    with pytest.raises(cohere.BadRequestError, match="is of type embed-input but must be of type"):
        batch(request=cohere.Batch(name="a", input_dataset_id=str(dataset.id), model=A))


def test_a_list_is_a_look_too(on: Clients) -> None:
    created = on.v1.datasets.create(name="listed", type="embed-input", data=("a.jsonl", cohere_sdk_calls.TEXTS))
    results = [cohere_sdk_calls.own(on.v1.datasets.list(limit=500).datasets, created.id)[0] for _ in range(2)]
    assert [dataset.validation_status for dataset in results] == ["processing", "validated"]
    assert cohere_sdk_calls.own(on.v1.datasets.list(validation_status="queued", limit=500).datasets, created.id) == []
    later = results[0].created_at + timedelta(seconds=1)  # the SDK sends whole milliseconds
    assert cohere_sdk_calls.own(on.v1.datasets.list(after=later, limit=500).datasets, created.id) == []
    assert cohere_sdk_calls.own(on.v1.datasets.list(before=later, limit=500).datasets, created.id) != []


def test_the_progress_of_a_job() -> None:
    progress = JobProgress(["a", "b"])
    assert (progress.stage, progress.finished, progress.advance()) == ("a", False, True)
    assert (progress.stage, progress.finished, progress.advance()) == ("b", True, False)


def test_a_finetuned_model_is_in_the_catalogue_while_it_lives(on: Clients) -> None:
    _, _, identity, _ = cohere_sdk_calls.tuned(on, "chat-finetune-input", "BASE_TYPE_CHAT", cohere_sdk_calls.TALKS)
    name = f"{identity}-ft"
    assert on.v1.models.get(name).finetuned is True
    assert on.v2.chat(model=name, messages=cohere_sdk_calls.MESSAGES).finish_reason == "COMPLETE"
    on.v1.finetuning.delete_finetuned_model(identity)
    with pytest.raises(cohere.NotFoundError):
        on.v1.models.get(name)


def test_a_foreign_key_is_not_stored(emulator: EmulatorClient, on: Clients) -> None:
    source = cohere_sdk_calls.uploaded(on, "chat-finetune-input", cohere_sdk_calls.TALKS)
    settings = {"base_model": {"base_type": "BASE_TYPE_CHAT"}, "dataset_id": source,
                "wandb": {"project": "p", "api_key": "hush"}}  # fmt: skip
    model = emulator.post("/v1/finetuning/finetuned-models", {"name": "a", "settings": settings})
    assert model.status == 200 and b"hush" not in model.data
    connector = {"name": "a", "url": "https://example.com", "oauth": {"client_secret": "hush"},
                 "service_auth": {"type": "bearer", "token": "hush"}}  # fmt: skip
    model = emulator.post("/v1/connectors", connector)
    assert model.status == 200 and b"hush" not in model.data


def test_no_more_than_so_many_things_are_preserved() -> None:
    items: Repository[int] = Repository(3)
    evicted = [items.add(str(number), number) for number in range(5)]
    assert evicted == [None, None, None, 0, 1] and list(items.newest_first()) == [4, 3, 2]
    with running() as emulator:
        for _ in range(repository.MAX_ITEMS + 5):
            assert emulator.post("/v1/connectors", {"name": "a", "url": "https://example.com"}).status == 200
        body = emulator.ask("GET", "/v1/connectors?limit=1000").body
        assert body["total_count"] == len(body["connectors"]) == repository.MAX_ITEMS


def test_no_more_than_so_many_bytes_of_datasets_are_preserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "MAX_STORED_BYTES", 100)
    with running() as emulator:
        body, headers = form(b'{"text": "' + b"a" * 28 + b'"}')  # 40 bytes
        requests = [
            emulator.ask("POST", "/v1/datasets?name=a&type=embed-input", body, headers).body["id"] for _ in range(3)
        ]
        assert [emulator.ask("GET", f"/v1/datasets/{identity}").status for identity in requests] == [404, 200, 200]


@pytest.mark.parametrize(
    "path",
    ["/v2/batches?page_size=x", "/v2/batches?page_token=x", "/v2/batches?order_by=x", "/v1/connectors?limit=-1",
     "/v1/connectors?offset=nan", "/v1/connectors?limit=1.5", "/v1/datasets?before=x",
     "/v1/datasets?validationStatus=x", "/v1/finetuning/finetuned-models?order_by=x"],
)  # fmt: skip
def test_a_bad_query_is_refused(emulator: EmulatorClient, path: str) -> None:
    assert emulator.ask("GET", path).status == 400


def test_pages_and_windows(emulator: EmulatorClient) -> None:
    names = [emulator.post("/v1/connectors", {"name": f"n{n}", "url": "https://example.com"}).body for n in range(3)]
    window = emulator.ask("GET", "/v1/connectors?limit=2.0&offset=1").body["connectors"]
    assert [one["name"] for one in window] == ["n1", "n0"]
    assert {one["connector"]["id"][:2] for one in names} == {"n0", "n1", "n2"}


@pytest.mark.parametrize(
    "path", ["/v2/batches/x:cancel", "/v1/embed-jobs/x/cancel", "/v1/connectors/x/oauth/authorize"]
)
def test_an_action_needs_no_body(emulator: EmulatorClient, path: str) -> None:
    assert emulator.ask("POST", path).status == 404  # not 400: nothing is called x


def test_a_classifier_needs_examples(emulator: EmulatorClient) -> None:
    two = cohere_sdk_calls.EXAMPLES[:2]
    for inputs in ([], ["a", ""], ["a"] * 97):
        assert emulator.post("/v1/classify", {"inputs": inputs, "examples": cohere_sdk_calls.EXAMPLES}).status == 400
    for body in (
        {},
        {"examples": two},
        {"examples": ["a"]},
        {"examples": cohere_sdk_calls.EXAMPLES * 1_000},
        {"examples": [*two, {"text": "a", "label": "b"}]},
        {"model": A},
    ):
        assert emulator.post("/v1/classify", {"inputs": ["a"], **body}).status == 400
    several = emulator.post("/v1/classify", {"inputs": ["sunny", "rainy"], "examples": cohere_sdk_calls.EXAMPLES}).body
    assert [one["prediction"] for one in several["classifications"]] == ["good", "bad"]
    for one in several["classifications"]:
        assert sum(label["confidence"] for label in one["labels"].values()) == pytest.approx(1, abs=1e-5)


# --- transcription ------------------------------------------------------------------------------------------

SOUND = {"model": "cohere-transcribe-03-2026", "language": "en"}


def wav(seconds: float) -> bytes:
    """A recording of silence."""
    file = io.BytesIO()
    with wave.open(file, "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(2)
        recording.setframerate(8_000)
        recording.writeframes(bytes(round(seconds * 8_000) * 2))
    return file.getvalue()


def transcribe(
    emulator: EmulatorClient, fields: dict[str, str], name: str | None = "a.wav", data: bytes = b"sound"
) -> Response:
    parts = [f'--b\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n' for key, value in fields.items()]
    body = "".join(parts).encode()
    if name is not None:
        head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        body += head.encode() + data + b"\r\n"
    headers = KEY | {"content-type": "multipart/form-data; boundary=b"}
    return emulator.ask("POST", "/v2/audio/transcriptions", body + b"--b--\r\n", headers)


@pytest.mark.parametrize(
    ("name", "data", "length"),
    [
        ("a.wav", wav(1.5), "1.5 seconds of sound"),
        ("a.wav", b"no wave", "7 bytes of sound"),
        ("a.wav", wav(1)[:20], "20 bytes of sound"),
        ("a.MP3", b"12345", "5 bytes of sound"),
    ],
)
def test_a_transcription_says_how_long_the_recording_is(
    emulator: EmulatorClient, name: str, data: bytes, length: str
) -> None:
    response = transcribe(emulator, SOUND | {"temperature": "0.5"}, name, data)
    assert response.body == {"text": f"This is the Cohere emulator. It heard {length} (en)."}


@pytest.mark.parametrize(
    ("fields", "name", "data", "sentence"),
    [
        ({}, None, b"", "file is required"),
        ({"language": ""}, "a.wav", b"a", "language is required"),
        ({"language": "xx"}, "a.wav", b"a", "language must be one of ar, de, el, en"),
        ({"prompt": "Hm"}, "a.wav", b"a", "unknown field prompt."),
        ({"temperature": "warm"}, "a.wav", b"a", "temperature must be a number."),
        ({"temperature": "1.1"}, "a.wav", b"a", "temperature must be between 0 and 1 inclusive."),
        ({"temperature": "nan"}, "a.wav", b"a", "temperature must be between 0 and 1 inclusive."),
        ({}, "a.m4a", b"a", "file must be one of flac, mp3"),
        ({}, "wav", b"a", "file must be one of flac, mp3"),
        ({}, "a.wav", b"", "file must not be empty."),
        ({}, "a.wav", b"a" * (25 * 1024 * 1024 + 1), "file must be at most 25 MB."),
        ({"model": A}, "a.wav", b"a", "is not supported by the transcribe API"),
        ({"model": ""}, "a.wav", b"a", "a model parameter is required"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_a_wrong_transcription_is_refused(
    emulator: EmulatorClient, fields: dict[str, str], name: str | None, data: bytes, sentence: str
) -> None:
    response = transcribe(emulator, SOUND | fields, name, data)
    assert response.status == 400 and sentence in response.body["message"]


def test_what_follows_the_file_is_not_read(emulator: EmulatorClient) -> None:
    """As Cohere's compatibility API wants the file last."""
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\na\r\n'
    body += b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ncohere-transcribe-03-2026\r\n'
    body += b'--b\r\nContent-Disposition: form-data; name="language"\r\n\r\nen\r\n--b--\r\n'
    response = emulator.ask(
        "POST", "/v2/audio/transcriptions", body, KEY | {"content-type": "multipart/form-data; boundary=b"}
    )
    assert (response.status, response.body["message"]) == (400, "language is required")


# --- the older methods --------------------------------------------------------------------------------------


def test_examples_are_compared_by_a_model_of_embeddings(emulator: EmulatorClient) -> None:
    examples = [{"text": text, "label": label} for text, label in (("a", "x"), ("b", "x"), ("c", "y"), ("d", "y"))]
    body = {"inputs": ["a"], "examples": examples, "model": "embed-english-v3.0"}
    (answer,) = emulator.post("/v1/classify", body).body["classifications"]
    assert (answer["classification_type"], answer["prediction"]) == ("single-label", "x")


def test_a_text_with_several_labels() -> None:
    """By a model that was tuned on such texts."""
    classifier = classify._Classifier([("a sunny walk", "out"), ("a sunny walk", "warm"), ("tax forms", "office")])
    answer = classifier.classify("a sunny walk", multi_label=True)
    assert answer["classification_type"] == "multi-label" and "prediction" not in answer and "confidence" not in answer
    assert set(answer["predictions"]) <= {"out", "warm"} and len(answer["labels"]) == 3
    assert answer["confidences"] == [answer["labels"][label]["confidence"] for label in answer["predictions"]]


def test_parameters_of_older_tools_may_be_lists(emulator: EmulatorClient) -> None:
    definition = {"description": "d", "type": "List[str]", "required": True}
    tool = {"name": "set_tags", "description": "Sets tags", "parameter_definitions": {"tags": definition}}
    body = {"message": "Use the set_tags tool.", "tools": [tool], "force_single_step": True}
    (call,) = emulator.post("/v1/chat", body).body["tool_calls"]
    assert isinstance(call["parameters"]["tags"], list)


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("/v1/summarize", {"text": "x" * (generate.MAX_TEXT + 1)}, "text must be shorter than"),
        ("/v1/detokenize", {"model": A, "tokens": [1] * (validation.MAX_TOKENIZE + 1)}, "tokens must be at most"),
    ],
)
def test_what_is_too_long(emulator: EmulatorClient, path: str, body: dict[str, Any], sentence: str) -> None:
    response = emulator.post(path, body)
    assert response.status == 400 and sentence in response.body["message"]


def test_an_older_document_is_ranked_by_its_text(emulator: EmulatorClient) -> None:
    body = {"query": "cats", "documents": [{"text": "dogs", "title": "cats"}, {"snippet": "cats"}]}
    assert emulator.post("/v1/rerank", body).body["results"][0]["index"] == 1


def test_a_page_before_the_first(emulator: EmulatorClient) -> None:
    token = base64.urlsafe_b64encode(b"-1").decode()
    assert emulator.ask("GET", f"/v1/models?page_token={token}").status == 400


def test_a_connector_without_oauth_authorizes_nobody(emulator: EmulatorClient) -> None:
    created = emulator.post("/v1/connectors", {"name": "mine", "url": "https://example.com/"}).body["connector"]
    response = emulator.post(f"/v1/connectors/{created['id']}/oauth/authorize", None)
    assert response.status == 400 and "not configured for oauth" in response.body["message"]


def test_columns_that_cannot_be_read_are_an_error_of_their_file() -> None:
    data = b"text\na\rb\n"
    part = multipart.Part(name="data", filename="a.csv", data=data, size=len(data))
    assert dataset_rows.read_rows(part, "embed-input", "", "").errors[0].startswith("csv: new-line character")


# --- parse --------------------------------------------------------------------------------------------------


def pdf(*contents: bytes, compressed: bool = True) -> bytes:
    """A PDF file, reduced to its streams."""
    file = b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\n"
    for number, content in enumerate(contents, 2):
        data = zlib.compress(content) if compressed else content
        head = b"<< /Length %d%s >>" % (len(data), b" /Filter /FlateDecode" if compressed else b"")
        file += b"%d 0 obj\n%s\nstream\n%s\nendstream\nendobj\n" % (number, head, data)
    return file + b"%%EOF"


def parse(emulator: EmulatorClient, data: bytes, kind: str = "application/pdf", **fields: Any) -> Response:
    url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return emulator.post(
        "/v2/parse", {"model": "parse-v5.0", "document": {"type": "image_url", "image_url": url}, **fields}
    )


@pytest.mark.parametrize("compressed", [True, False])
def test_the_text_of_a_pdf_file_is_read(emulator: EmulatorClient, compressed: bool) -> None:
    one = b"BT /F1 24 Tf 72 720 Td (Invoice No. 7) Tj 0 -20 Td (Total: \\(42\\) \\200) Tj ET"
    two = b"q BT [(In)-20(voice)-300(two)] TJ T* <48692E> Tj ET Q BT (end) Tj ET"
    body = parse(emulator, pdf(one, b"q /Im0 Do Q", two, compressed=compressed)).body
    pages = [page["markdown"]["content"] for page in body["pages"]]
    assert pages == ["Invoice No. 7\nTotal: (42) €", "Invoice two\nHi.\nend"]
    assert [page["index"] for page in body["pages"]] == [0, 1] and body["meta"]["billed_units"] == {"pages": 2}
    blocks = parse(emulator, pdf(b"BT (a) Tj ET"), output_format="blocks").body["pages"][0]
    assert blocks == {"index": 0, "type": "blocks", "blocks": [{"type": "text", "text": {"content": "a"}}]}


@pytest.mark.parametrize(
    ("operators", "content"),
    [
        (b"(Caf\\351) Tj", "Café"),
        (b"<FEFF004300E900300030> Tj", "Cé00"),
        (b"<414> Tj", "A@"),
        (b"[(a)1.2.3(b)-300.5(c)] TJ", "ab c"),
    ],
)
def test_strings_of_a_pdf_file(emulator: EmulatorClient, operators: bytes, content: str) -> None:
    (page,) = parse(emulator, pdf(b"BT " + operators + b" ET")).body["pages"]
    assert page["markdown"]["content"] == content


def test_streams_of_a_pdf_file_that_are_no_text(emulator: EmulatorClient) -> None:
    """Pictures, fonts, other filters, and what is not compressed as it says."""
    file = b"%PDF-1.4\n"
    for dictionary in (b"/Subtype /Image", b"/FontFile 1 0 R", b"/Filter /LZWDecode", b"/Filter /FlateDecode"):
        file += b"1 0 obj\n<< %b >>\nstream\nBT (no) Tj ET\nendstream\nendobj\n" % dictionary
    (page,) = parse(emulator, file + pdf(b"BT (yes) Tj ET")).body["pages"]
    assert page["markdown"]["content"] == "yes"


def test_no_more_pages_or_bytes_of_a_pdf_file_are_read(
    emulator: EmulatorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = pdf(*[b"BT (%d) Tj ET" % number for number in range(4)])
    monkeypatch.setattr(pdf_text, "MAX_PAGES", 3)
    assert len(parse(emulator, file).body["pages"]) == 3
    monkeypatch.setattr(pdf_text, "MAX_TOTAL_BYTES", 20)
    assert len(parse(emulator, file).body["pages"]) == 2


def test_a_page_that_was_not_read_says_so(emulator: EmulatorClient) -> None:
    for data, kind, what in ((PIXEL_BYTES, "image/png", "pictures"), (pdf(b"q Q"), "application/pdf", "PDF files")):
        page = parse(emulator, data, kind).body["pages"][0]["markdown"]["content"]
        assert f"does not read {what}" in page and f"{len(data)} bytes" in page


def test_a_document_that_is_no_page_is_refused(emulator: EmulatorClient) -> None:
    assert parse(emulator, b"hello").status == parse(emulator, b"hello", "text/plain").status == 400
    assert parse(emulator, b"%PDF-1.4" + b"a" * 20_000_000).status == 400
    assert parse(emulator, pdf(b"BT (a) Tj ET"), model=A).status == 400
    document = {"type": "image_url", "image_url": {"url": "data:application/pdf;base64,JVBERi0"}}
    for value in (document, document | {"image_url": "data:application/pdf;base64,JVBERi0"}):
        assert emulator.post("/v2/parse", {"model": "parse-v5.0", "document": value}).status == 400


@pytest.mark.parametrize(
    "content",
    [b"BT " * 100_000, b"BT " + b"(" * 300_000 + b" ET", b"BT " + b"[" * 300_000 + b" ET", b"\0" * 50_000_000],
)
def test_a_hostile_pdf_file_is_read_soon(emulator: EmulatorClient, content: bytes) -> None:
    begun = time.process_time()
    assert parse(emulator, pdf(content)).status == 200
    assert parse(emulator, b"%PDF-1.4" + content[:5_000_000].replace(b"BT ", b"<<(")).status == 200
    assert time.process_time() - begun < 10


def test_replaced_models_can_be_tuned_all_the_same() -> None:
    def factory() -> Starlette:
        return create_emulator([Model(name="mine")])

    with running(factory) as emulator, cohere_sdk_calls.clients(emulator.url) as clients:
        cohere_sdk_calls.tuned(clients, "reranker-finetune-input", "BASE_TYPE_RERANK",
                           cohere_sdk_calls.lines({"query": "a", "relevant_passages": ["b"]}))  # fmt: skip
        assert len(clients.v1.models.list(endpoint="rerank").models) == 1
