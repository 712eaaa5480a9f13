"""Who checks the checkers: oracles accept the right, refuse the wrong, agree with recorded traffic."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from support import oracle, oracle_generator
from support.recordings import Recording, each_recording

# --- good examples; each bad one below is a good one with a single fault ------------------------------------

COMPLETION: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "cohere/command-a-03-2025",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "logprobs": None,
            "message": {"role": "assistant", "content": "Hi.", "refusal": None},
        }
    ],
}
CHUNK: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "cohere/command-a-03-2025",
    "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}],
}
TEXT_DELTA: dict[str, Any] = {
    "type": "response.output_text.delta",
    "item_id": "msg_1_item_0",
    "output_index": 0,
    "content_index": 0,
    "delta": "Hi",
    "logprobs": [],
    "sequence_number": 4,
}
MESSAGE_ITEM: dict[str, Any] = {
    "type": "message",
    "id": "msg_1_item_0",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "Hi.", "annotations": [], "logprobs": []}],
}
RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "metadata": {},
    "model": "cohere/command-a-03-2025",
    "output": [MESSAGE_ITEM],
    "parallel_tool_calls": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
}
EMBEDDINGS: dict[str, Any] = {
    "object": "list",
    "model": "cohere/embed-v4.0",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}],
    "usage": {"prompt_tokens": 2, "total_tokens": 2},
}
MODELS: dict[str, Any] = {
    "object": "list",
    "data": [{"id": "cohere/embed-v4.0", "object": "model", "created": 1, "owned_by": "cohere"}],
}
ERROR: dict[str, Any] = {
    "error": {"message": "no", "type": "invalid_request_error", "param": None, "code": None},
}
CALL: dict[str, Any] = {"id": "f_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
COHERE_CHAT: dict[str, Any] = {
    "model": "command-a-03-2025",
    "safety_mode": "OFF",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}}]},
        {
            "role": "assistant",
            "tool_plan": "I will call f.",
            "tool_calls": [CALL],
            "citations": [
                {
                    "start": 0,
                    "end": 1,
                    "text": "I",
                    "sources": [{"type": "tool", "id": "f_1:0", "tool_output": {}}],
                }
            ],
        },
        {
            "role": "tool",
            "tool_call_id": "f_1",
            "content": [{"type": "document", "document": {"data": {"anything": [1]}}}],
        },
    ],
    "tools": [
        {
            "type": "function",
            "function": {"name": "f", "description": "", "parameters": {"type": "object", "x-own": {}}},
        }
    ],
    "response_format": {"type": "json_object", "json_schema": {"type": "object", "anything": 1}},
    "thinking": {"type": "enabled", "token_budget": 5},
}
COHERE_EMBED: dict[str, Any] = {
    "model": "embed-v4.0",
    "input_type": "search_query",
    "inputs": [{"content": [{"type": "text", "text": "Hi"}]}],
    "embedding_types": ["base64"],
}
COHERE_RERANK: dict[str, Any] = {"model": "rerank-v3.5", "query": "q", "documents": ["d"], "top_n": 1}
COHERE_ANSWER: dict[str, Any] = {
    "id": "1",
    "finish_reason": "COMPLETE",
    "message": {"role": "assistant", "content": [{"type": "text", "text": "Hi."}]},
    "usage": {"tokens": {"input_tokens": 1, "output_tokens": 1}},
    "logprobs": [{"text": "Hi.", "token_ids": [1, 2], "logprobs": [-0.5, -0.25]}],
}
COHERE_VECTORS: dict[str, Any] = {
    "id": "1",
    "embeddings": {"float": [[0.5]]},
    "texts": ["Hi"],
    "meta": {"api_version": {"version": "2"}},
    "response_type": "embeddings_by_type",
}
COHERE_RANKING: dict[str, Any] = {"id": "1", "results": [{"index": 0, "relevance_score": 0.5}]}
COHERE_EVENTS: tuple[dict[str, Any], ...] = (
    {"id": "1", "type": "message-start", "delta": {"message": {"role": "assistant", "content": []}}},
    {"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}},
    {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"thinking": "Okay"}}}},
    {"type": "content-end", "index": 0},
    {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "I"}}},
    {"type": "tool-call-start", "index": 0, "delta": {"message": {"tool_calls": CALL}}},
    {
        "type": "tool-call-delta",
        "index": 0,
        "delta": {"message": {"tool_calls": {"function": {"arguments": "{"}}}},
    },
    {"type": "tool-call-end", "index": 0},
    {
        "type": "citation-start",
        "index": 0,
        "delta": {"message": {"citations": {"start": 0, "end": 2, "text": "Hi"}}},
    },
    {"type": "citation-end", "index": 0},
    {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": {"tokens": {"input_tokens": 1}}}},
    {"type": "debug", "prompt": "..."},
)

ABSENT = object()  # as a new value: take the member away

# schema, good example, and single faults as (path to a member, its wrong value)
OPENAI: tuple[tuple[str, dict[str, Any], tuple[tuple[str, Any], ...]], ...] = (
    (
        "CreateChatCompletionResponse",
        COMPLETION,
        (
            ("object", "chat.completion.chunk"),
            ("created", "now"),
            ("choices.0.message.refusal", ABSENT),
            ("choices.0.finish_reason", "COMPLETE"),
            ("choices.0.finish_reason", None),
        ),
    ),
    (
        "CreateChatCompletionStreamResponse",
        CHUNK,
        (("choices.0.delta", ABSENT), ("choices.0.finish_reason", "done"), ("choices.0.index", 0.5)),
    ),
    (
        "ResponseStreamEvent",
        TEXT_DELTA,
        (("logprobs", ABSENT), ("type", "response.unheard_of"), ("type", ABSENT), ("sequence_number", "4")),
    ),
    (
        "Response",
        RESPONSE,
        (
            ("output.0.content.0.annotations", ABSENT),
            ("output.0.type", "note"),
            ("status", "done"),
            ("tools", ABSENT),
            ("error", "no"),
        ),
    ),
    ("OutputItem", MESSAGE_ITEM, (("status", ABSENT), ("type", ABSENT), ("content.0.text", 1))),
    ("CreateEmbeddingResponse", EMBEDDINGS, (("data.0.index", ABSENT), ("usage.total_tokens", "2"))),
    ("ListModelsResponse", MODELS, (("data.0.owned_by", ABSENT), ("object", "models"))),
    ("Model", MODELS["data"][0], (("id", 5),)),
    ("ErrorResponse", ERROR, (("error.param", ABSENT), ("error", "no"))),
)

COHERE_REQUESTS: tuple[tuple[str, dict[str, Any], tuple[tuple[str, Any], ...]], ...] = (
    (
        "/v2/chat",
        COHERE_CHAT,
        (
            ("top_p", 0.5),
            ("messages", ABSENT),
            ("messages.0.name", "eve"),
            ("messages.0.role", "developer"),
            ("messages.0.content", None),
            ("messages.1.content.0.image_url", "data:,"),
            ("messages.1.content.0.cache_control", {"type": "ephemeral"}),
            ("messages.2.tool_calls.0.index", 0),
            ("messages.2.tool_calls.0.function.arguments", {}),
            ("messages.3.tool_call_id", ABSENT),
            ("tools.0.function.strict", True),
            ("tools.0.type", "custom"),
            ("response_format.type", "json_schema"),
            ("response_format.schema", {}),
            ("safety_mode", False),
            ("tool_choice", "auto"),
            ("temperature", 1.4),
            ("p", 1),
            ("thinking.type", ABSENT),
        ),
    ),
    (
        "/v2/embed",
        COHERE_EMBED,
        (
            ("encoding_format", "float"),
            ("input_type", ABSENT),
            ("embedding_types", ["double"]),
            ("texts", []),
            ("texts", ["x"] * 97),
            ("inputs.0.content.0.type", "input_text"),
            ("truncate", "AUTO"),
        ),
    ),
    ("/v2/rerank", COHERE_RERANK, (("return_documents", True), ("documents", [{"text": "d"}]), ("top_n", 0))),
)

COHERE_RESPONSES: tuple[tuple[str, dict[str, Any], tuple[tuple[str, Any], ...]], ...] = (
    (
        "/v2/chat",
        COHERE_ANSWER,
        (
            ("message.content", "Hi."),
            ("message.content.0.type", "markdown"),
            ("finish_reason", "complete"),
            ("usage.tokens.input_tokens", "1"),
            ("logprobs.0.token_ids", ABSENT),
            ("id", ABSENT),
        ),
    ),
    ("/v2/embed", COHERE_VECTORS, (("embeddings", [[0.5]]), ("embeddings.float", [0.5]), ("id", ABSENT))),
    ("/v2/rerank", COHERE_RANKING, (("results.0.index", ABSENT), ("results.0.relevance_score", "high"))),
)


def changed(good: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of the good example with one member changed, added or taken away."""
    result = copy.deepcopy(good)
    *parents, last = path.split(".")
    position: Any = result
    for key in parents:
        position = position[int(key) if isinstance(position, list) else key]
    if value is ABSENT:
        del position[last]
    else:
        position[last] = value
    return result


def faults(table: Any) -> list[Any]:
    """The rows of a table as parameters, one per fault, named by where the fault is."""
    return [
        pytest.param(name, changed(good, path, value), id=f"{name}-{path}-{_described(value):.30}")
        for name, good, wrong in table
        for path, value in wrong
    ]


def _described(value: Any) -> str:
    return "absent" if value is ABSENT else repr(value)


# --- accept and refuse --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "good"), [(name, good) for name, good, _ in OPENAI])
def test_openai_accepts(name: str, good: dict[str, Any]) -> None:
    oracle.openai_validator(name).check(good)


@pytest.mark.parametrize(("name", "bad"), faults(OPENAI))
def test_openai_refuses(name: str, bad: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match=name):
        oracle.openai_validator(name).check(bad)


@pytest.mark.parametrize(("path", "good"), [(path, good) for path, good, _ in COHERE_REQUESTS])
def test_cohere_request_accepts(path: str, good: dict[str, Any]) -> None:
    oracle.cohere_request_validator(path).check(good)


@pytest.mark.parametrize(("path", "bad"), faults(COHERE_REQUESTS))
def test_cohere_request_refuses(path: str, bad: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match="request: at "):
        oracle.cohere_request_validator(path).check(bad)


@pytest.mark.parametrize(("path", "good"), [(path, good) for path, good, _ in COHERE_RESPONSES])
def test_cohere_response_accepts(path: str, good: dict[str, Any]) -> None:
    oracle.cohere_response_validator(path).check(good)


@pytest.mark.parametrize(("path", "bad"), faults(COHERE_RESPONSES))
def test_cohere_response_refuses(path: str, bad: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match="response: at "):
        oracle.cohere_response_validator(path).check(bad)


@pytest.mark.parametrize("event", COHERE_EVENTS, ids=lambda event: str(event["type"]))
def test_every_event_has_a_branch_of_its_own(event: dict[str, Any]) -> None:
    validator = oracle.cohere_event_validator()
    validator.check(event)
    for part in event.keys() - {"type"}:
        assert not validator.accepts(event | {part: ["wrong"]})


def test_the_events_are_all_that_the_document_maps() -> None:
    assert {event["type"] for event in COHERE_EVENTS} == oracle.cohere_event_types()


@pytest.mark.parametrize("event", [{"type": "text-generation"}, {"index": 0}, {"type": None}, [], None])
def test_cohere_event_refuses(event: Any) -> None:
    with pytest.raises(AssertionError):
        oracle.cohere_event_validator().check(event)


def test_cohere_error() -> None:
    oracle.cohere_error_validator().check({"id": "1", "message": "no"})
    with pytest.raises(AssertionError):
        oracle.cohere_error_validator().check(ERROR)


def test_a_refusal_says_where_and_why() -> None:
    bad = changed(RESPONSE, "output.0.content.0.annotations", ABSENT)
    with pytest.raises(AssertionError) as refusal:
        oracle.openai_validator("Response").check(bad)
    assert "$.output[0].content[0]" in str(refusal.value)
    assert "'annotations' is a required property" in str(refusal.value)


# --- reading the documents ----------------------------------------------------------------------------------


def test_properties_are_gathered_through_all_of() -> None:
    assert {"messages", "model", "temperature", "metadata", "stream"} <= oracle.openai_schema_properties(
        "CreateChatCompletionRequest"
    )
    assert {"input", "instructions", "model", "temperature"} <= oracle.openai_schema_properties("CreateResponse")
    assert {"documents", "safety_mode", "k", "p"} <= oracle.cohere_request_properties("/v2/chat")


def test_off_is_a_string() -> None:
    options = oracle.facts("cohere")["schemas"]["CitationOptions"]
    modes = options["properties"]["mode"]["enum"]
    assert "OFF" in modes
    assert all(isinstance(mode, str) for mode in modes)


def test_what_an_overlay_adds_is_known() -> None:
    assert "background_options" in oracle.openai_schema_properties("CreateResponse")
    validator = oracle.openai_validator("Response")
    assert validator.accepts(RESPONSE | {"reasoning": {"context": "all_turns"}, "service_tier": "ultrafast"})
    event = {"type": "response.compaction.compacting", "item_id": "cmp_1", "output_index": 0, "sequence_number": 1}
    oracle.openai_validator("ResponseStreamEvent").check(event)


@pytest.mark.skipif(not oracle_generator.available(), reason="shared reference is absent")
def test_the_files_are_fresh() -> None:
    for vendor in oracle_generator.DOCUMENTS:
        text = (oracle.FOLDER / f"{vendor}.json").read_text(encoding="utf-8")
        assert text == oracle_generator.generated(vendor), f"tests/oracle/{vendor}.json is stale: run make oracle"
    for vendor, deviations in oracle_generator.DEVIATIONS.items():
        schemas = oracle_generator.specification(vendor, corrected=False)["components"]["schemas"]
        for deviation in deviations:
            position: Any = schemas
            for key in deviation.path:
                position = position.get(key, {})
            assert position != deviation.truth, f"the document is right by now: drop the deviation at {deviation.path}"


@pytest.mark.parametrize("vendor", oracle_generator.DOCUMENTS)
def test_the_files_hold_facts_and_no_sentences(vendor: str) -> None:
    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list | dict):
            for one in value.values() if isinstance(value, dict) else value:
                yield from texts(one)

    assert [text for text in texts(oracle.facts(vendor)) if " " in text] == []


# --- recorded traffic ---------------------------------------------------------------------------------------

# Requests that Cohere accepted and its document does not: what was sent, and why we do not send it.
NULL = "null stands for any optional field in traffic, but not in the document: the gateway leaves it out"
REQUEST_DEVIATIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "rig-agent-multiturn_history_is_accepted": (("messages.1.tool_plan", NULL),),
    **{
        f"pydantic-ai-TestCohere.{name}": (("output_dimension", NULL), ("max_tokens", NULL))
        for name in (
            "test_documents",
            "test_embed_error",
            "test_query",
            "test_query_with_cohere_truncate",
            "test_query_with_truncate",
        )
    },
}


@each_recording("/v2/chat", "/v2/embed")
def test_recorded_request(recording: Recording) -> None:
    body = recording.request.body
    validator = oracle.cohere_request_validator(recording.request.path)
    for path, _ in REQUEST_DEVIATIONS.get(recording.name, ()):
        assert not validator.accepts(body)  # or the row is out of date
        body = changed(body, path, ABSENT)
    validator.check(body)


@each_recording("/v2/chat", "/v2/embed", status=200, streamed=False)
def test_recorded_answer(recording: Recording) -> None:
    oracle.cohere_response_validator(recording.request.path).check(recording.json())


@each_recording("/v2/chat", "/v2/embed", status=404)
def test_recorded_error(recording: Recording) -> None:
    oracle.cohere_error_validator().check(recording.json())


@each_recording("/v2/chat", streamed=True)
def test_recorded_stream(recording: Recording) -> None:
    events = recording.events()
    assert events[0]["type"] == "message-start"
    assert events[-1]["type"] == "message-end"
    for event in events:
        oracle.cohere_event_validator().check(event)
