"""What the Responses API says is what OpenAI's and Open Responses' schemas say; and no field of it is silent.

Both documents are oracles (`support/oracle.py`): what one of them leaves open, the other may require.
"""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from support import golden, oracle, transcripts
from support.transcripts import Event, Transcript, property_of
from translators.core.errors import InvalidField, NotStored
from translators.core.field_table import Verdict
from translators.operations import responses

WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
NAMESPACE: dict[str, Any] = {
    "type": "namespace",
    "name": "ns",
    "description": "Some tools",
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": False}],
}
PLAIN: dict[str, Any] = {"model": transcripts.MODEL, "input": "Hello", "stream": True}
FULL: dict[str, Any] = {
    **PLAIN,
    "instructions": "Be brief.",
    "tools": [WEATHER, NAMESPACE, {"type": "web_search", "search_context_size": "low"}],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get_weather"}]},
    "parallel_tool_calls": False,
    "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object", "properties": {}}}},
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
    "top_logprobs": 2,
    "temperature": 0.5,
    "top_p": 0.9,
    "max_output_tokens": 500,
    "max_tool_calls": 3,
    "metadata": {"a": "b"},
    "store": False,
    "truncation": "disabled",
    "conversation": {"id": "conv_1"},
}
SHAPES = {
    "plain": PLAIN,
    "full": FULL,
    "summaries": {**PLAIN, "reasoning": {"summary": "detailed"}},
    "background": {**PLAIN, "background": True},
}

# --- Open Responses -----------------------------------------------------------------------------------------


def _open_responses(response: dict[str, Any]) -> dict[str, Any]:
    """Return a response without hosted tools, which Open Responses leaves to providers."""
    functions = [tool for tool in response["tools"] if tool["type"] == "function"]
    choice = response["tool_choice"]
    if isinstance(choice, dict):
        named = choice["tools"] if choice["type"] == "allowed_tools" else [choice]
        choice = choice if all(tool["type"] == "function" for tool in named) else "auto"
    return {**response, "tools": functions, "tool_choice": choice}


def test_open_responses_schema_can_refuse() -> None:
    """The schema is worth something: each required field, taken away, is missed."""
    validator = oracle.open_responses_validator("ResponseResource")
    answer = golden.responses_answer(golden.responses_call({**PLAIN, "stream": False}), transcripts.whole(_HELLO))
    validator.check(answer)
    required = oracle.facts("open_responses")["schemas"]["ResponseResource"]["required"]
    assert len(required) > 30
    for name in required:
        assert not validator.accepts({key: value for key, value in answer.items() if key != name}), name
    (item,) = answer["output"]
    for name in item:
        assert not validator.accepts({**answer, "output": [{key: item[key] for key in item if key != name}]}), name


_HELLO = [
    transcripts.message_start(),
    transcripts.content_start(0),
    transcripts.content_delta(0, "Hello"),
    transcripts.content_end(0),
    transcripts.message_end(usage={"tokens": {"input_tokens": 3, "output_tokens": 1}}),
]


def _check(event: Any) -> None:
    """Check an event against OpenAI's schema and Open Responses'."""
    response = event.get("response")
    opened, openais = ({"response": form(response)} if response else {} for form in (_open_responses, _openais))
    if event["type"] != "error":  # in Open Responses its fields are under `error`, and both cannot be pleased
        oracle.open_responses_event_validator().check({**event, **opened})
    oracle.openai_validator("ResponseStreamEvent").check({**event, **openais})


def _openais(response: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's document has no null `usage`; OpenAI sends one until the end, and Open Responses requires it."""
    return {key: value for key, value in response.items() if key != "usage" or value is not None}


def _check_whole(response: dict[str, Any]) -> None:
    shared = [item for item in response["output"] if item["type"] not in OPENAIS_OWN_ITEMS]
    oracle.open_responses_validator("ResponseResource").check(_open_responses({**response, "output": shared}))
    oracle.openai_validator("Response").check(_openais(response))


OPENAIS_OWN_ITEMS = ("custom_tool_call", "shell_call", "local_shell_call", "apply_patch_call")
"""Types of items that Open Responses does not have."""


# --- events and responses -----------------------------------------------------------------------------------


def _stream_events(request: dict[str, Any], data: list[bytes]) -> list[Any]:
    """The whole stream, with what is told in the background before Cohere is asked."""
    call = golden.responses_call(request)
    queued = responses.queued_response(call).events if request.get("background") else ()
    results = [*map(json.loads, queued), *golden.stream_documents(call.stream(), data)]
    assert [event["sequence_number"] for event in results] == list(range(len(results)))
    assert all(next(iter(event)) == "type" for event in results), "the framing finds an event's name at its beginning"
    return results


@pytest.mark.parametrize("transcript", transcripts.transcripts(), ids=lambda one: one.name)
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_events(transcript: Transcript, shape: str) -> None:
    result = _stream_events(SHAPES[shape], transcript.data)
    assert result
    for event in result:
        _check(event)


@property_of(100)
@given(transcripts.walks(), st.sampled_from(sorted(SHAPES)))
def test_events_of_any_walk(events: list[Event], shape: str) -> None:
    for event in _stream_events(SHAPES[shape], [json.dumps(event).encode() for event in events]):
        _check(event)


@property_of(100)
@given(transcripts.answers(log_thinkers=True), st.sampled_from(sorted(SHAPES)))
def test_events_and_the_response_of_any_answer(events: list[Event], shape: str) -> None:
    for event in _stream_events(SHAPES[shape], [json.dumps(event).encode() for event in events]):
        _check(event)
    request = {**SHAPES[shape], "stream": False, "text": {}}
    _check_whole(golden.responses_answer(golden.responses_call(request), transcripts.whole(events)))


@pytest.mark.parametrize(
    "path", sorted((golden.ROOT / "responses").glob("*/response.openai.json")), ids=lambda path: path.parent.name
)
def test_golden_responses(path: Any) -> None:
    _check_whole(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "path", sorted((golden.ROOT / "responses").glob("*/request.cohere.json")), ids=lambda path: path.parent.name
)
def test_golden_requests(path: Any) -> None:
    oracle.cohere_request_validator("/v2/chat").check(json.loads(path.read_text(encoding="utf-8")))


HOSTED: list[dict[str, Any]] = [
    {"type": "web_search", "search_context_size": "low"},
    {"type": "file_search", "vector_store_ids": ["vs_1"]},
    {"type": "mcp", "server_label": "docs", "server_url": "https://example.com"},
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {"type": "image_generation"},
    {"type": "custom", "name": "shell", "format": {"type": "text"}},
    {"type": "local_shell"},
    NAMESPACE,
    WEATHER,
    {"type": "function", "name": "bare"},
]


@pytest.mark.parametrize("tool", HOSTED, ids=lambda tool: tool["type"] + tool.get("name", ""))
def test_tools_are_echoed_in_full(tool: dict[str, Any]) -> None:
    call = golden.responses_call({**PLAIN, "stream": False, "tools": [tool]})
    response = golden.responses_answer(call, transcripts.whole(_HELLO))
    _check_whole(response)
    assert {key: response["tools"][0][key] for key in tool} == tool


@pytest.mark.parametrize(
    "choice",
    [
        "auto",
        "none",
        "required",
        {"type": "function", "name": "get_weather"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_weather"}]},
        {
            "type": "allowed_tools",
            "mode": "auto",
            "tools": [{"type": "function", "name": "get_weather"}, {"type": "mcp", "server_label": "docs"}],
        },
        {"type": "mcp", "server_label": "docs"},
        {"type": "custom", "name": "get_weather"},
        {"type": "web_search_preview"},
    ],
    ids=json.dumps,
)
def test_the_choice_is_echoed_in_full(choice: Any) -> None:
    call = golden.responses_call({**PLAIN, "stream": False, "tools": [WEATHER], "tool_choice": choice})
    response = golden.responses_answer(call, transcripts.whole(_HELLO))
    _check_whole(response)
    assert response["tool_choice"] == choice


ECHOED: dict[str, Any] = {
    "instructions": "Be brief.",
    "temperature": 0.25,
    "top_p": 0.5,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.0,
    "max_output_tokens": 77,
    "max_tool_calls": 2,
    "parallel_tool_calls": False,
    "metadata": {"a": "b"},
    "store": False,
    "top_logprobs": 3,
    "previous_response_id": "resp_1",
}


@pytest.mark.parametrize("name", sorted(ECHOED))
def test_what_was_requested_is_echoed(name: str) -> None:
    call = golden.responses_call({**PLAIN, "stream": False, name: ECHOED[name]})
    response = golden.responses_answer(call, transcripts.whole(_HELLO))
    assert response[name] == ECHOED[name]


@pytest.mark.parametrize(
    "form",
    [
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_schema", "name": "x", "schema": {"type": "object", "properties": {}}},
        {"type": "json_schema", "name": "x", "schema": {"type": "object", "properties": {}}, "strict": True},
    ],
    ids=lambda form: json.dumps(form)[:50],
)
def test_the_format_is_echoed(form: dict[str, Any]) -> None:
    call = golden.responses_call({**PLAIN, "stream": False, "text": {"format": form}})
    results = [*_HELLO[:2], transcripts.content_delta(0, "{}"), *_HELLO[3:]]
    response = golden.responses_answer(call, transcripts.whole(results))
    _check_whole(response)
    assert {key: response["text"]["format"][key] for key in form} == form


# --- silence is no verdict ----------------------------------------------------------------------------------


def test_every_field_of_openais_has_a_row() -> None:
    assert oracle.openai_schema_properties("CreateResponse") <= {row.name for row in responses.TABLE.rows}


def test_every_field_of_coheres_can_be_sent() -> None:
    request = {row.to for row in responses.TABLE.rows if row.verdict is Verdict.SEND}
    read = {row.name for row in responses.TABLE.rows if row.verdict is Verdict.READ}
    elsewhere = {
        "messages": "input",
        "max_tokens": "max_output_tokens",
        "response_format": "text",
    }
    assert set(elsewhere.values()) <= read
    assert oracle.cohere_request_properties("/v2/chat") - request - read == set(elsewhere)


def test_every_row_that_does_not_send_says_why() -> None:
    for row in responses.TABLE.rows:
        assert row.verdict in (Verdict.SEND, Verdict.READ) or row.why, row.name


def test_no_field_has_two_rows() -> None:
    names = [row.name for row in responses.TABLE.rows]
    assert len(names) == len(set(names))
    assert not set(responses.TABLE.synonyms) & set(names)


# --- nonsense -----------------------------------------------------------------------------------------------

_ANY_JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=3)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "name", "tools", "id", "call_id", "format", "x"]),
            st.one_of(inner, st.sampled_from(["function", "namespace", "message", "reasoning", "user", "json_schema"])),
            max_size=4,
        ),
    ),
    max_leaves=8,
)


def _request(body: bytes) -> None:
    responses.state_options(body, "resp_1")
    responses.request(body, transcripts.context())


@property_of(800)
@given(st.sampled_from(sorted(row.name for row in responses.TABLE.rows)), _ANY_JSON)
def test_nonsense_in_a_field_is_a_400_at_worst(name: str, value: Any) -> None:
    request = {**PLAIN, name: value}
    try:
        _request(json.dumps(request).encode())
    except InvalidField as error:
        failure = error.failure
        assert failure.status == (404 if isinstance(error, NotStored) else 400) and failure.message and failure.code
        assert failure.param and failure.param.split(".")[0].split("[")[0] in request


@property_of(400)
@given(st.lists(_ANY_JSON, max_size=3))
def test_nonsense_for_items_is_a_400_at_worst(items: list[Any]) -> None:
    try:
        _request(json.dumps({**PLAIN, "input": [{"role": "user", "content": "Hi"}, *items]}).encode())
    except InvalidField as error:
        assert error.failure.status == (404 if isinstance(error, NotStored) else 400)
        assert (error.failure.param or "").startswith("input[")


@property_of(400)
@given(st.one_of(st.binary(max_size=40), _ANY_JSON.map(lambda value: json.dumps(value).encode())))
def test_nonsense_for_a_body_is_a_400(body: bytes) -> None:
    with pytest.raises(InvalidField):
        _request(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","input":"\xff"}',
        b'{"model":"m","input":[{"role":"user","content":"\xff"}]}',
        b'{"model":"m\xff","input":"a"}',
        b'{"model":"m","input":[{"role":"user","content":"\\ud800"}]}',
        b'{"model":"m","input":"a","metadata":{"a":"\xff"}}',
        b'{"model":"m","input":"a","tools":[{"type":"function","name":"\xff"}]}',
        b'{"model":"m","input":"a","conversation":{"id":"\xff"}}',
    ],
)
def test_a_body_that_is_no_utf8_is_a_400(body: bytes) -> None:
    with pytest.raises(InvalidField):
        _request(body)
