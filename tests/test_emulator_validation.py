"""What the emulator refuses, with which status and sentence; one row per rule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from test_emulator import PIXEL, PLUS, R7B, REASONING, VISION, WEATHER, A, EmulatorClient, R, running

AYA, TRANSLATE = "c4ai-aya-expanse-32b", "command-a-translate-08-2025"


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatorClient]:
    with running() as caller:
        yield caller


def user(content: Any = "Hi") -> dict[str, Any]:
    return {"role": "user", "content": content}


def call(identity: str = "c1", name: str = "get_weather", arguments: Any = "{}", **more: Any) -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def assistant(*calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": list(calls), **more}


def result(identity: str = "c1", content: Any = "Sunny") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identity, "content": content}


def image(url: str, **more: Any) -> dict[str, Any]:
    return user([{"type": "image_url", "image_url": {"url": url, **more}}])


def tool(parameters: Any, name: str = "t") -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": name, "description": "d", "parameters": parameters}}]


def form(schema: Any, key: str = "json_schema") -> dict[str, Any]:
    return {"response_format": {"type": "json_object", key: schema}}


def whole(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


STRING = {"type": "string"}

# --- accepted -----------------------------------------------------------------------------------------------

OPTIONAL = (
    "stream tools strict_tools tool_choice documents citation_options response_format safety_mode max_tokens"
    " stop_sequences temperature seed frequency_penalty presence_penalty k p logprobs thinking priority"
).split()

ACCEPTED: dict[str, dict[str, Any]] = {
    "null for every optional field": dict.fromkeys(OPTIONAL),
    "the edges of the ranges": {
        "temperature": 1, "p": 0.01, "k": 500, "seed": 2**64 - 1, "frequency_penalty": 1, "presence_penalty": 1.0,
        "priority": 999, "max_tokens": 8192, "stop_sequences": list("abcde"),
    },
    "empty lists": {"documents": [], "tools": [], "stop_sequences": []},
    "both penalties on newer models": {"frequency_penalty": 0.1, "presence_penalty": 0.1},
    "one penalty and a zero": {"model": R, "frequency_penalty": 0.1, "presence_penalty": 0},
    "safety off on the old models": {"model": R, "safety_mode": "OFF"},
    "NONE without tools (recorded)": {"tool_choice": "NONE"},
    "citation mode in lower case": {"citation_options": {"mode": "accurate"}},
    "a thinking budget without a type": {"model": REASONING, "thinking": {"token_budget": 500}},
    "several system turns at the front": {
        "messages": [{"role": "system", "content": "a"}, {"role": "system", "content": "b"}, user()]
    },
    "only a system turn": {"messages": [{"role": "system", "content": "a"}]},
    "an assistant turn last": {"messages": [user(), {"role": "assistant", "content": "Well,"}]},
    "a tool turn with a plan": {"messages": [user(), assistant(call(), tool_plan="I will."), result()]},
    "a tool turn with thinking": {
        "model": REASONING,
        "messages": [user(), assistant(call(), content=[{"type": "thinking", "thinking": "Hm"}]), result()],
    },
    "a tool turn with empty content": {"messages": [user(), assistant(call(), content=""), result()]},
    "an empty tool result": {"messages": [user(), assistant(call()), result(content="")]},
    "a call without arguments": {"messages": [user(), assistant(call(arguments="")), result()]},
    "results in another order than their calls": {
        "messages": [user(), assistant(call(), call("c2")), result("c2"), result()],
    },
    "tools left out after calls": {"messages": [user(), assistant(call(arguments="null")), result()]},
    "a remote image": {"model": VISION, "messages": [image("https://example.com/a.png", detail="high")]},
    "a tool without properties": {"tools": tool({"type": "object", "properties": {}})},
    "an untyped parameter on newer models": {"tools": tool(whole(a={"description": "x"}))},
    "a string of a document's data": {"documents": [{"data": "text"}, "text"]},
    "anyOf with null": form(whole(a={"anyOf": [STRING, {"type": "null"}]})),
    "schema under its other name": form(whole(a=STRING), "schema"),
    "text as a format": {"response_format": {"type": "text"}},
    "strict tools": {"tools": [WEATHER], "strict_tools": True},
}  # fmt: skip


@pytest.mark.parametrize("fields", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(emulator: EmulatorClient, fields: dict[str, Any]) -> None:
    response = emulator.chat(**fields)
    assert response.status == 200, response.data


# --- refused by /v2/chat ------------------------------------------------------------------------------------

TEXT_WITH_CALLS = (
    "text content is not allowed when tool_calls are provided. If you wish to pass a tool plan, either pass thinking"
    " content (with thinking enabled) or use 'tool_plan'"
)
UNKNOWN = "unknown field: parameter '{}' is not a valid field"
UNANSWERED = (
    "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'"
)
NO_CHOICE = "tool_choice is not supported for this model"
NO_TOOLS = "tool use is not supported for this model"
EMPTY = "message must not be empty in a turn"
NO_RAG = "invalid request: RAG is not supported for this model."
BAD_NAME = "invalid request: tool names can only contain certain characters (A-Za-z0-9_) and can't begin with a digit"

REFUSED: list[tuple[dict[str, Any], int, str]] = [
    # ranges
    ({"temperature": 1.1}, 400, "invalid request: temperature must be between 0 and 1.0 inclusive."),
    ({"temperature": -0.1}, 400, "invalid request: temperature must be between 0 and 1.0 inclusive."),
    ({"p": 1}, 400, "invalid request: p must be"),
    ({"p": 0}, 400, "invalid request: p must be"),
    ({"k": 501}, 400, "invalid request: k must be"),
    ({"frequency_penalty": -1}, 400, "invalid request: frequency_penalty must be between 0 and 1 inclusive."),
    ({"presence_penalty": 1.5}, 400, "invalid request: presence_penalty must be between 0 and 1 inclusive."),
    ({"seed": -1}, 400, "invalid request: seed must be"),
    ({"seed": 2**64}, 400, "invalid "),
    ({"priority": 1000}, 400, "invalid request: priority must be"),
    ({"max_tokens": 0}, 400, "invalid request: max_tokens must be"),
    ({"max_tokens": 8193}, 400, "too many tokens: max tokens must be less than or equal to 8192, the maximum output"
                                " for this model - received 8193."),
    ({"stop_sequences": list("abcdef")}, 400, "invalid request: stop_sequences"),
    ({"model": R, "frequency_penalty": 0.1, "presence_penalty": 0.1}, 400,
     "invalid request: only one of 'presence_penalty' and 'frequency_penalty' can be specified for this model."),
    # types
    ({"max_tokens": "9"}, 400, "invalid type: parameter 'max_tokens' is of type string but should be of type int32."),
    ({"max_tokens": 1.5}, 400, "invalid type: parameter 'max_tokens' is of type number"),
    ({"temperature": "hot"}, 400, "invalid type: parameter 'temperature' is of type string"),
    ({"stream": "true"}, 400, "invalid type: parameter 'stream' is of type string but should be of type bool."),
    ({"stop_sequences": "a"}, 400, "invalid type: parameter 'stop_sequences' is of type string"),
    ({"messages": "Hi"}, 400, "invalid type: parameter 'messages' is of type string but should be of type []Object."),
    ({"tools": {}}, 400, "invalid type: parameter 'tools' is of type object"),
    ({"thinking": "enabled"}, 400, "invalid type: parameter 'thinking'"),
    # enums are case-sensitive
    ({"tool_choice": "required", "tools": [WEATHER]}, 400, "invalid request: tool_choice must be one of"),
    ({"tool_choice": {"type": "function"}, "tools": [WEATHER]}, 400, "invalid type: parameter 'tool_choice'"),
    ({"safety_mode": "strict"}, 400, "invalid request: safety_mode must be one of"),
    ({"safety_mode": "OFF"}, 400, "invalid request: safety_mode OFF"),
    ({"citation_options": {"mode": "some"}}, 400, "invalid request: mode must be one of"),
    ({"thinking": {"type": "ENABLED"}}, 400, "invalid request: type must be one of"),
    ({"thinking": {"type": "enabled", "token_budget": 0}}, 400, "invalid request: token_budget"),
    ({"response_format": {"type": "json_schema"}}, 400, "invalid request: response_format.type"),
    ({"response_format": {"type": "text", "json_schema": whole(a=STRING)}}, 400,
     "invalid request: json_schema requires response_format.type to be json_object."),
    ({"model": REASONING, "thinking": {}}, 400, "invalid request: thinking.type is required."),
    # unknown fields, at every depth
    ({"top_p": 1}, 422, UNKNOWN.format("top_p")),
    ({"n": 1}, 422, UNKNOWN.format("n")),
    ({"messages": [user() | {"name": "Ada"}]}, 422, UNKNOWN.format("name")),
    ({"messages": [user([{"type": "text", "text": "a", "cache_control": {}}])]}, 422, UNKNOWN.format("cache_control")),
    ({"messages": [user(), {"role": "assistant", "content": "a", "reasoning_content": "b"}]}, 422,
     UNKNOWN.format("reasoning_content")),
    ({"messages": [user(), assistant(call(index=0)), result()]}, 422, UNKNOWN.format("index")),
    ({"messages": [user(), assistant(call()), result() | {"tool_content": "a"}]}, 422, UNKNOWN.format("tool_content")),
    ({"tools": [{"type": "function", "function": WEATHER["function"] | {"strict": True}}]}, 422,
     UNKNOWN.format("strict")),
    ({"tools": [WEATHER | {"cache_control": {}}]}, 422, UNKNOWN.format("cache_control")),
    ({"citation_options": {"kind": "FAST"}}, 422, UNKNOWN.format("kind")),
    ({"response_format": {"type": "json_object", "strict": True}}, 422, UNKNOWN.format("strict")),
    ({"documents": [{"data": {"a": "b"}, "title": "c"}]}, 422, UNKNOWN.format("title")),
    ({"model": VISION, "messages": [image(PIXEL, size=1)]}, 422, UNKNOWN.format("size")),
    # models
    ({"model": "nobody"}, 404, "model 'nobody' not found, make sure the correct model ID was used and that you have"
                               " access to the model."),
    ({"model": "command-r-plus"}, 404, "model 'command-r-plus' was removed on September 15, 2025. See"
                                       " https://docs.cohere.com/docs/models#command for a list of models you can use"
                                       " instead."),
    ({"model": None}, 400, "a model parameter is required for this endpoint."),
    ({"model": "embed-v4.0"}, 400, "invalid request: model 'embed-v4.0' is not supported by the chat API"),
    # what a model cannot do
    *(({"model": model, "tools": [WEATHER], "tool_choice": "NONE"}, 400, NO_CHOICE)
      for model in (REASONING, PLUS, "north-mini-code-1-0")),
    ({"tool_choice": "REQUIRED"}, 400, "invalid request: tool_choice REQUIRED requires tools"),
    *(({"model": model, "tools": [WEATHER]}, 400, NO_TOOLS) for model in (VISION, TRANSLATE, AYA)),
    *(({"model": model, "documents": ["a"]}, 400, NO_RAG) for model in (VISION, TRANSLATE, AYA)),
    ({"messages": [image(PIXEL)]}, 400, "invalid request: images are not supported for this model."),
    ({"model": AYA, "response_format": {"type": "json_object"}}, 400, "invalid request: response_format is not"),
    ({"documents": ["a"], "response_format": {"type": "json_object"}}, 400,
     "invalid request: response_format is not supported with RAG."),
    ({"tools": [WEATHER], "response_format": {"type": "json_object"}}, 400,
     "invalid request: response_format is not supported with tools."),
    # messages
    ({"messages": []}, 400, "invalid request: message must be at least 1 token long or tool results must be"),
    ({"messages": None}, 400, "invalid request: message must be at least 1 token long or tool results must be"),
    ({"messages": [user("")]}, 400, EMPTY),
    ({"messages": [user([])]}, 400, EMPTY),
    ({"messages": [{"role": "user"}]}, 400, EMPTY),
    ({"messages": [user(), {"role": "assistant"}]}, 400, EMPTY),
    ({"messages": [{"role": "system", "content": ""}, user()]}, 400, EMPTY),
    ({"messages": [user(), {"role": "system", "content": "a"}]}, 400, "system turn must be the first in the list"),
    ({"messages": [{"role": "developer", "content": "a"}]}, 400, "invalid request: Invalid role in messages"),
    ({"messages": [user([{"type": "input_audio"}])]}, 400, "invalid request: content of type 'input_audio'"),
    ({"messages": [user(), assistant(call(), content="Let me see."), result()]}, 400, TEXT_WITH_CALLS),
    ({"messages": [user(), assistant(call(), content=[{"type": "text", "text": "a"}]), result()]}, 400,
     TEXT_WITH_CALLS),
    ({"messages": [user(), assistant(call(), tool_plan=1), result()]}, 400, "invalid type: parameter 'tool_plan'"),
    # pairing of calls and results
    ({"messages": [user(), assistant(call()), result("c2")]}, 400, "tool call id not found in previous tool calls"),
    ({"messages": [user(), result()]}, 400, "tool call id not found in previous tool calls"),
    ({"messages": [user(), assistant(call()), user()]}, 400, UNANSWERED),
    ({"messages": [user(), assistant(call()), assistant(content="Hi")]}, 400, UNANSWERED),
    ({"messages": [user(), assistant(call())]}, 400, UNANSWERED),
    ({"messages": [user(), assistant(call(), call("c2")), result("c2"), user()]}, 400, UNANSWERED),
    ({"messages": [user(), assistant(call()), result(), user(), result()]}, 400,
     "tool call id not found in previous tool calls"),
    ({"messages": [user(), assistant(call()), result(), assistant(call("c2")), result(), result("c2")]}, 400,
     "tool call id not found in previous tool calls"),
    ({"messages": [user(), assistant(call()), {"role": "tool", "content": "a"}]}, 400,
     "tool call id must be provided with tool message"),
    ({"messages": [user(), assistant(call(), call()), result()]}, 400, "cannot have duplicate tool ids"),
    ({"messages": [user(), assistant(call()), result(), result()]}, 400, "cannot have duplicate tool ids"),
    ({"messages": [user(), assistant(call() | {"type": "tool"}), result()]}, 400,
     "tool call must be of type function"),
    ({"messages": [user(), assistant(call(arguments="{city")), result()]}, 400,
     "invalid request: tool call arguments must be a valid JSON"),
    ({"messages": [user(), assistant(call(arguments={"a": 1})), result()]}, 400, "invalid type: parameter 'arguments'"),
    ({"messages": [user(), assistant(call(name="get-weather")), result()]}, 400, BAD_NAME),
    ({"messages": [user(), assistant(call()), result(content=None)]}, 400, EMPTY),
    ({"messages": [user(), assistant(call()), result(content=[{"type": "document", "document": {"data": {}}}])]}, 400,
     "invalid request: document data must not be empty."),
    # tools
    ({"tools": tool({"type": "object"}, "get-weather")}, 400, BAD_NAME),
    ({"tools": tool({"type": "object"}, "1st")}, 400, BAD_NAME),
    ({"tools": tool(None)}, 400, "invalid request: the 't' tool must have parameters."),
    ({"tools": tool({"type": "string"})}, 400, "schema must be an object"),
    ({"tools": [WEATHER, WEATHER]}, 400, "invalid request: duplicate tool name"),
    ({"tools": [WEATHER | {"type": "web_search"}]}, 400, "invalid request: tool must be of type function"),
    ({"model": R, "tools": tool(whole(query={"description": "x"}))}, 400, "property query must have a type"),
    ({"tools": tool({"type": "object", "properties": {"a": STRING}}), "strict_tools": True}, 400,
     "invalid request: strict_tools requires at least one required parameter"),
    ({"tools": tool(whole(**{f"f{n}": STRING for n in range(201)})), "strict_tools": True}, 400,
     "invalid request: strict_tools allows at most 200 fields"),
    # documents
    ({"documents": [1]}, 400, "invalid type: parameter 'documents' is of type number but should be of type string or"),
    ({"documents": [{"data": 1}]}, 400, "invalid type: parameter 'data' is of type number"),
    ({"documents": [{"id": 1, "data": "a"}]}, 400, "invalid type: parameter 'id' is of type number"),
    ({"documents": ["a", ""]}, 400, "invalid request: document at index 1 cannot be empty"),
    ({"documents": [{"data": {}}]}, 400, "invalid request: document at index 0 cannot be empty"),
    ({"documents": [{"id": "x", "data": {"a": "b"}}, {"id": "x", "data": {"a": "b"}}]}, 400,
     "invalid request: duplicate document ID x at index 1 and 0"),
    # schemas
    (form({"type": "array"}), 400, "schema must be an object"),
    (form({"type": "object", "properties": {"a": STRING}}), 400, "invalid request: at least one required field"),
    (form({"type": "object", "properties": {"a": STRING}, "required": ["b"]}), 400,
     "required field b not found in properties"),
    (form(whole(title={"description": "x"})), 400, "property title must have a type"),
    (form(whole(a=whole(b={}))), 400, "property b must have a type"),
    *((form(whole(a=STRING | {keyword: 1})), 400, f"invalid request: unsupported keyword '{keyword}' in json_schema")
      for keyword in ("minLength", "maxLength", "minimum", "maximum", "minItems", "oneOf", "allOf", "not")),
    (form(whole(a=STRING | {"format": "email"})), 400, "invalid request: unsupported format 'email'"),
    (form(whole(a=STRING | {"pattern": "^a$"})), 400, "invalid request: unsupported anchor"),
    # images
    ({"model": VISION, "messages": [image("ftp://example.com/a.png")]}, 400, "invalid request: image must be a valid"),
    ({"model": VISION, "messages": [image("data:image/bmp;base64,AAAA")]}, 400, "invalid request: image must be a"),
    ({"model": VISION, "messages": [image("data:image/png;base64,!")]}, 400, "invalid request: image must be valid"),
    ({"model": VISION, "messages": [image(PIXEL, detail="medium")]}, 400, "invalid request: detail must be one of"),
    ({"model": VISION, "messages": [user([image(PIXEL)["content"][0]] * 21)]}, 400, "invalid request: at most 20"),
    # size
    ({"model": "tiny-aya-global", "messages": [user("word " * 9_000)]}, 400, "too many tokens: size limit exceeded by"),
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("fields", "status", "sentence"),
    REFUSED,
    ids=[f"{number}-{row[2].split(':')[-1].strip()[:40]}" for number, row in enumerate(REFUSED)],
)
def test_refused(emulator: EmulatorClient, fields: dict[str, Any], status: int, sentence: str, stream: bool) -> None:
    response = emulator.chat(**({"stream": stream} | fields))
    assert response.headers["content-type"] == "application/json"
    assert (response.status, response.body["message"][: len(sentence)]) == (status, sentence)
    assert list(response.body) == ["id", "message"]


@pytest.mark.parametrize("data", [b"", b"{", b"{'a':1}", b'{"a":NaN}', b'{"a":"\x07"}', b"[" * 3_000])
def test_bad_json(emulator: EmulatorClient, data: bytes) -> None:
    response = emulator.post("/v2/chat", data)
    assert response.status == 400 and response.body["message"].startswith("invalid json syntax: ")


@pytest.mark.parametrize("data", [b"[]", b'"a"', b"null", b"1"])
def test_a_body_that_is_no_object(emulator: EmulatorClient, data: bytes) -> None:
    assert emulator.post("/v2/chat", data).body["message"].startswith("invalid type: parameter 'body'")


# --- the other endpoints ------------------------------------------------------------------------------------


def embed(**fields: Any) -> dict[str, Any]:
    return {"model": "embed-v4.0", "input_type": "search_document", **fields}


EMBED: list[tuple[dict[str, Any], int, str]] = [
    (embed(texts=["a"], input_type=None), 400,
     "invalid request: valid input_type must be provided with the provided model"),
    (embed(texts=["a"], input_type="query"), 400,
     "invalid request: valid input_type must be provided with the provided model"),
    (embed(texts=["a"] * 104), 400, "invalid request: total number of texts must be at most 96 - received 104"),
    (embed(texts=["a", ""]), 400,
     "invalid request: inputs contains an element that is the empty string at index 1"),
    (embed(), 400, "invalid request: exactly one of"),
    (embed(texts=["a"], images=[PIXEL]), 400, "invalid request: exactly one of"),
    (embed(texts=[]), 400, "invalid request: texts must not be empty"),
    (embed(texts="a"), 400, "invalid type: parameter 'texts' is of type string but should be of type []string."),
    (embed(texts=[1]), 400, "invalid type: parameter 'texts' is of type number"),
    (embed(images=[PIXEL]), 400, "invalid request: images must be used with input_type=image"),
    (embed(images=["https://example.com/a.png"], input_type="image"), 400, "invalid request: image must be a valid"),
    (embed(images=[PIXEL] * 2, input_type="image", model="embed-english-v3.0"), 400, "invalid request: at most 1"),
    (embed(texts=["a"], output_dimension=300), 400, "invalid request: output_dimension must be one of 256, 512, 1024"),
    (embed(texts=["a"], output_dimension=1024, model="embed-english-v3.0"), 400, "invalid request: output_dimension"),
    (embed(texts=["a"], embedding_types=["float64"]), 400, "invalid request: embedding_types must be one of"),
    (embed(texts=["a"], embedding_types=["int8", "ubinary"], model="embed-v5.0-pro"), 400,
     "invalid request: embedding_types must be one of float, int8, binary, base64 - received ubinary"),
    (embed(texts=["a"], embedding_types=[]), 400, "embedding_types parameter is required"),
    (embed(texts=["a"], embedding_types="float"), 400, "invalid type: parameter 'embedding_types' is of type string"),
    (embed(texts=["a b c d"], max_tokens=2, truncate="NONE"), 400, "too many tokens: size limit exceeded by 2 tokens."),
    (embed(texts=["a"], truncate="none"), 400, "invalid request: truncate must be one of"),
    (embed(texts=["a"], encoding_format="float"), 422, UNKNOWN.format("encoding_format")),
    (embed(inputs=[{"content": [{"type": "text", "text": ""}]}]), 400, "invalid request: inputs contains"),
    (embed(inputs=["a"]), 400, "invalid type: parameter 'inputs' is of type string but should be of type Object."),
    (embed(inputs=[{"content": "a"}]), 400, "invalid type: parameter 'content' is of type string"),
    (embed(inputs=[{"content": ["a"]}]), 400, "invalid type: parameter 'content' is of type string"),
    (embed(inputs=[{"content": [{"type": "audio"}]}]), 400, "invalid request: content of type 'audio' is not"),
    (embed(inputs=[{"content": [{"type": "text", "text": 1}]}]), 400,
     "invalid type: parameter 'text' is of type number"),
    (embed(inputs=[{"content": [{"type": "image_url", "image_url": "a"}]}]), 400,
     "invalid type: parameter 'image_url' is of type string"),
    (embed(inputs=[{"content": []}]), 400, "invalid request: inputs contains"),
    (embed(inputs=[{"content": [{"type": "text", "text": "a"}]}], model="embed-english-v3.0"), 400,
     "invalid request: inputs is not supported"),
    (embed(texts=["a"], model="embed-english-v2.0"), 404, "model 'embed-english-v2.0' was removed on April 4, 2026."),
    (embed(texts=["a"], model=A), 400, f"invalid request: model '{A}' is not supported by the embed API"),
]  # fmt: skip


def rerank(**fields: Any) -> dict[str, Any]:
    return {"model": "rerank-v4.0-pro", "query": "a", "documents": ["a", "b"], **fields}


RERANK: list[tuple[dict[str, Any], int, str]] = [
    (rerank(query=" \n"), 400, "invalid request: query must not be empty or be only whitespace"),
    (rerank(documents=[]), 400, "invalid request: list of documents must not be empty"),
    (rerank(documents=["a", ""]), 400, "invalid request: document at index 1 cannot be empty"),
    (rerank(documents=[{"text": "a"}]), 400, "invalid type: parameter 'documents' is of type object"),
    (rerank(documents=["a"] * 10_001), 400, "invalid request: number of total max chunks"),
    (rerank(top_n=0), 400, "invalid request: top_n must be"),
    (rerank(return_documents=True), 422, UNKNOWN.format("return_documents")),
    (rerank(relevant_spans={"mode": "enabled"}), 400, "invalid request: relevant_spans is not supported"),
    (rerank(model="rerank-v5.0-pro", relevant_spans={}), 400, "invalid request: relevant_spans.mode is required."),
    (rerank(model="rerank-v5.0-pro", relevant_spans={"mode": "on"}), 400, "invalid request: mode must be one of"),
    (rerank(model="nobody"), 404, "model 'nobody' not found"),
]

TOKENS: list[tuple[str, dict[str, Any], int, str]] = [
    ("/v1/tokenize", {"model": A, "text": ""}, 400, "invalid request: required 'text' param is missing or empty."),
    ("/v1/tokenize", {"model": A, "text": "a" * 65_537}, 400, "invalid request: text must be at most 65536"),
    ("/v1/tokenize", {"model": A, "text": 1}, 400, "invalid type: parameter 'text' is of type number"),
    ("/v1/tokenize", {"text": "a"}, 400, "a model parameter is required for this endpoint."),
    ("/v1/tokenize", {"model": "nobody", "text": "a"}, 404, "model 'nobody' not found"),
    ("/v1/detokenize", {"model": A, "tokens": []}, 400, "invalid request: required 'tokens' param"),
    ("/v1/detokenize", {"model": A, "tokens": [7]}, 400, "invalid request: token 7 is not in the vocabulary"),
    ("/v1/detokenize", {"model": A, "tokens": ["a"]}, 400, "invalid type: parameter 'tokens'"),
]

ELSEWHERE = [("/v2/embed", *row) for row in EMBED] + [("/v2/rerank", *row) for row in RERANK] + TOKENS


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"),
    ELSEWHERE,
    ids=[f"{row[0]}-{number}" for number, row in enumerate(ELSEWHERE)],
)
def test_refused_elsewhere(
    emulator: EmulatorClient, path: str, body: dict[str, Any], status: int, sentence: str
) -> None:
    response = emulator.post(path, body)
    assert (response.status, response.body["message"][: len(sentence)]) == (status, sentence)


def test_tokenize_only_warns_about_unknown_fields(emulator: EmulatorClient) -> None:
    response = emulator.post("/v1/tokenize", {"model": R7B, "text": "a", "extra": 1})
    assert response.status == 200
    assert response.headers["x-api-warning"] == "unknown field: parameter extra is not a valid field"
