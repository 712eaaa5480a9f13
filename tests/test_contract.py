"""L6, the contract: whatever goes out is what the other side's specification says. L7: no field is silent.

The two specifications are oracles (`support/oracle.py`); where they are absent the tests of L6 are skipped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from schemas.cohere import events
from support import golden, oracle, transcripts
from support.transcripts import Event, Transcript, property_of
from translators.answer.turn import FAILED_REASONS, TRANSITIONS
from translators.answer.usage import FINISH_REASONS
from translators.core.capabilities import CAPABILITIES
from translators.core.errors import InvalidField, TranslationError, UpstreamProtocolError
from translators.core.field_table import Verdict
from translators.core.notes import Notes
from translators.core.upstream_errors import UPSTREAM_ERRORS
from translators.operations import chat, models

CHUNK, COMPLETION = "CreateChatCompletionStreamResponse", "CreateChatCompletionResponse"


def _check_document(document: Mapping[str, Any], schema: str = CHUNK) -> None:
    oracle.openai_validator("ErrorResponse" if "error" in document else schema).check(document)


# --- L6: towards the caller ---------------------------------------------------------------------------------


@pytest.mark.parametrize("transcript", transcripts.transcripts(), ids=lambda one: one.name)
def test_l6_chunks(transcript: Transcript) -> None:
    translation = transcripts.call(transcript.request).stream()
    documents: list[bytes] = []
    for data in transcript.data:
        try:
            documents += translation.feed(data)
        except UpstreamProtocolError as error:
            documents += translation.end(error.failure)
    documents += translation.end(transcripts.CUT)
    assert documents
    for document in documents:
        _check_document(json.loads(document))


@pytest.mark.parametrize("schema", [CHUNK, COMPLETION])
def test_l6_the_fingerprint(schema: str) -> None:
    translation = transcripts.call({**transcripts.REQUEST, "stream": schema is CHUNK, "stream_options": None})
    if schema is CHUNK:
        (document,) = map(json.loads, translation.stream().feed(json.dumps(transcripts.message_start()).encode()))
    else:
        document = transcripts.answered(translation, {"message": {}, "finish_reason": "COMPLETE"})
    oracle.openai_validator(schema).check(document)


@property_of(150)
@given(transcripts.walks())
def test_l6_chunks_of_any_walk(created: list[Event]) -> None:
    stream = transcripts.call(transcripts.REQUEST).stream()
    for event in created:
        try:
            documents = stream.feed(json.dumps(event).encode())
        except UpstreamProtocolError as error:
            documents = stream.end(error.failure)
        for document in documents:
            _check_document(json.loads(document))


@property_of(150)
@given(transcripts.answers())
def test_l6_completions_of_any_answer(created: list[Event]) -> None:
    translation = transcripts.call({**transcripts.REQUEST, "stream": False, "stream_options": None})
    _check_document(transcripts.answered(translation, transcripts.whole(created)), COMPLETION)


@pytest.mark.parametrize(
    "path", sorted((golden.ROOT / "chat").glob("*/response.openai.json")), ids=lambda path: path.parent.name
)
def test_l6_golden_completions(path: Any) -> None:
    _check_document(json.loads(path.read_text(encoding="utf-8")), COMPLETION)


@pytest.mark.parametrize(
    "path", sorted((golden.ROOT / "chat").glob("*/response.cohere.json")), ids=lambda path: path.parent.name
)
def test_l6_golden_answers_are_what_cohere_might_say(path: Any) -> None:
    """Those that are wrong on purpose excepted, each with what is wrong with it."""
    wrong = {
        "a-success-that-holds-an-error-body-is-an-error": "an error body",
        "an-unknown-finish-reason-is-stop-with-the-raw-one-beside": "a finish reason to come",
        "a-call-without-arguments-has-an-empty-object": "arguments null",
        "usage-shows-cached-reasoning-and-image-tokens": "tokens that the specification does not know",
    }
    accepted = oracle.cohere_response_validator("/v2/chat").accepts(json.loads(path.read_text(encoding="utf-8")))
    assert accepted or path.parent.name in wrong


# --- L6: towards Cohere -------------------------------------------------------------------------------------

_PARAMETERS = st.sampled_from(
    [
        None,
        {},
        {"type": "object", "properties": {}},
        {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "additionalProperties": False},
        {"city": {"type": "string"}},
    ]
)
_NAMES = st.sampled_from(["get_weather", "mcp.search-docs", "9lives", "a/b:c", "naïve tool"])
_TOOLS = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.just("function"),
            "function": st.fixed_dictionaries(
                {"name": _NAMES},
                optional={
                    "parameters": _PARAMETERS,
                    "description": st.sampled_from(["", "d", None]),
                    "strict": st.sampled_from([True, False, None]),
                },
            ),
        }
    ),
    max_size=3,
)
_CHOICES = st.one_of(
    st.sampled_from(["auto", "none", "required", "any"]),
    st.builds(lambda name: {"type": "function", "function": {"name": name}}, _NAMES),
)
_WORDS = st.sampled_from(["Hello", "", " ", "né 😀", "\u0000", "{}"])
_PARTS = st.lists(
    st.one_of(
        st.builds(lambda text: {"type": "text", "text": text}, _WORDS),
        st.just({"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "high"}}),
        st.just({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": None}}),
    ),
    max_size=3,
)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A history as clients keep them: every role, calls and their results, and keys that are only noise."""
    results: list[dict[str, Any]] = []
    noise: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
        [{}, {"name": "ada"}, {"cache_control": {"type": "ephemeral"}}, {"annotations": []}]
    )
    for turn in range(draw(st.integers(1, 5))):
        role = draw(st.sampled_from(["system", "developer", "user", "assistant", "calls"]))
        extra = draw(noise)
        if role == "user":
            results.append({"role": role, "content": draw(st.one_of(_WORDS, _PARTS)), **extra})
        elif role in ("system", "developer"):
            results.append({"role": role, "content": draw(_WORDS), **extra})
        elif role == "assistant":
            reasoning = draw(st.sampled_from([None, "Hm.", ""]))
            results.append(
                {"role": role, "content": draw(st.one_of(_WORDS, st.none())), "reasoning_content": reasoning, **extra}
            )
        else:
            count = draw(st.integers(1, 2))
            arguments = st.sampled_from(["{}", "", "null", None, '{"city":"Paris"}', {"a": 1}])
            calls = [
                {
                    "id": f"c{turn}_{number}",
                    "type": "function",
                    "index": number,
                    "function": {"name": draw(_NAMES), "arguments": draw(arguments)},
                }
                for number in range(count)
            ]
            plan = draw(st.sampled_from([{}, {"content": "I look."}, {"reasoning_content": "Hm."}, {"content": ""}]))
            results.append({"role": "assistant", "content": None, "tool_calls": calls, **plan})
            results += [
                {
                    "role": "tool",
                    "tool_call_id": call["id"],
                    "content": draw(st.one_of(_WORDS, st.just([{"type": "text", "text": "Sunny"}]))),
                }
                for call in calls
            ]
    return results


_SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.one_of(st.none(), st.floats(0, 2)),
    "top_p": st.floats(0, 1),
    "max_tokens": st.one_of(st.none(), st.integers(1, 200_000)),
    "max_completion_tokens": st.integers(1, 200_000),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "frequency_penalty": st.floats(-2, 2),
    "presence_penalty": st.floats(-2, 2),
    "stop": st.one_of(
        st.none(), st.just("END"), st.lists(st.text("ab", min_size=1, max_size=3), max_size=6), st.just([])
    ),
    "logprobs": st.booleans(),
    "n": st.sampled_from([None, 1]),
    "stream": st.booleans(),
    "user": st.text(max_size=3),
    "metadata": st.just({"a": "b"}),
    "store": st.booleans(),
    "logit_bias": st.just({"5": 1}),
    "parallel_tool_calls": st.booleans(),
    "reasoning_effort": st.sampled_from(["none", "minimal", "low", "medium", "high", "xhigh", "max", None]),
    "reasoning": st.sampled_from([{}, {"effort": "low"}, {"max_tokens": 700}, {"max_tokens": 0}, {"enabled": False}]),
    "response_format": st.just({"type": "text"}),
    "service_tier": st.sampled_from(["auto", "flex"]),
    "safety_mode": st.sampled_from(["CONTEXTUAL", "STRICT", None]),
    "citation_options": st.sampled_from([{"mode": "fast"}, {"mode": "ACCURATE"}, {"mode": "OFF"}]),
    "documents": st.lists(st.sampled_from(["text", {"data": {"text": "x"}}, {"id": "d", "data": {}}]), max_size=2),
    "thinking": st.sampled_from([{"type": "disabled"}, {"type": "enabled", "token_budget": 600}]),
    "k": st.integers(-1, 900),
    "top_k": st.integers(-1, 900),
    "priority": st.integers(-5, 5_000),
    "strict_tools": st.booleans(),
    "tools": _TOOLS,
    "tool_choice": _CHOICES,
    "frobnicate": st.just(1),
    "web_search_options": st.just({}),
}

requests = st.builds(
    lambda model, messages, rest: {"model": model, "messages": messages, **rest},
    st.sampled_from([*CAPABILITIES, "cohere/command-r-plus", "brand-new-model"]),
    conversations(),
    st.fixed_dictionaries({}, optional=_SCALARS),
)


@pytest.mark.parametrize(
    "path", sorted((golden.ROOT / "chat").glob("*/request.cohere.json")), ids=lambda path: path.parent.name
)
def test_l6_golden_requests(path: Any) -> None:
    body = json.loads(path.read_text(encoding="utf-8"))
    if path.parent.name == "the-operators-extra-fields-are-sent-as-they-are":
        del body["raw_prompting"], body["nested"]
    oracle.cohere_request_validator("/v2/chat").check(body)


@property_of(400)
@given(requests)
def test_l6_requests(request: dict[str, Any]) -> None:
    """What any request comes to is a request of Cohere's, or a 400 that names its field."""
    try:
        translation = transcripts.call(request)
    except InvalidField as error:
        assert error.failure.status == 400
        assert error.failure.param and error.failure.param.split(".")[0].split("[")[0] in request
        return
    for body in translation.bodies:
        sent_body = json.loads(body)
        oracle.cohere_request_validator("/v2/chat").check(sent_body)
        assert "null" not in [json.dumps(value) for value in sent_body.values()], "null is absence"


@property_of(300)
@given(requests)
def test_l6_translation_is_repeatable_and_leaves_its_input_alone(request: dict[str, Any]) -> None:
    body = json.dumps(request).encode()

    def result() -> Any:
        try:
            call = transcripts.call(body)
        except InvalidField as error:
            return error.failure
        return call.bodies, [note.text for note in call.notes]

    assert result() == result()


@property_of(300)
@given(requests)
def test_l6_strict_mode_only_refuses(request: dict[str, Any]) -> None:
    """Strict mode changes nothing that it lets pass, and refuses exactly what would be ignored or adjusted."""
    try:
        call = transcripts.call(request)
    except InvalidField:
        with pytest.raises(InvalidField):
            transcripts.call(request, strict=True)
        return
    kinds = {note.kind.value for note in call.notes}
    if kinds & {"ignored", "adjusted"}:
        with pytest.raises(InvalidField) as caught:
            transcripts.call(request, strict=True)
        assert caught.value.failure.code == "unsupported_value"
    else:
        assert transcripts.call(request, strict=True).bodies == call.bodies


_ANY_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "function", "name", "tool_calls", "id", "x"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=8,
)


@property_of(600)
@given(requests, st.sampled_from(sorted(row.name for row in chat.TABLE.rows)), _ANY_JSON)
def test_l6_nonsense_in_a_field_is_a_400_at_worst(request: dict[str, Any], name: str, value: Any) -> None:
    try:
        transcripts.call({**request, name: value})
    except InvalidField as error:
        assert error.failure.status == 400 and error.failure.message


@property_of(600)
@given(st.one_of(st.binary(max_size=40), _ANY_JSON.map(lambda value: json.dumps(value).encode())))
def test_l6_nonsense_for_a_body_is_a_400(body: bytes) -> None:
    with pytest.raises(InvalidField):
        transcripts.call(body)


@pytest.mark.parametrize("where", ["content", "user", "stop"])
def test_l6_a_body_that_is_no_utf8_is_a_400(where: str) -> None:
    bodies = {
        "content": b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}',
        "user": b'{"model":"m\xff","messages":[{"role":"user","content":"a"}]}',
        "stop": b'{"model":"m","stop":"\xc3","messages":[{"role":"user","content":"a"}]}',
    }
    with pytest.raises(InvalidField):
        transcripts.call(bodies[where])


# --- L6: models ---------------------------------------------------------------------------------------------


def test_l6_models() -> None:
    page = json.dumps({"models": [{"name": "command-a-03-2025", "endpoints": ["chat"], "context_length": 288000.0}]})
    context = transcripts.context(aliases={"gpt-4o": "command-a-03-2025"})
    listed = json.loads(models.list_models([page.encode()], "", (), context, Notes()))
    oracle.openai_validator("ListModelsResponse").check(listed)
    retrieved = json.loads(models.retrieve_model([page.encode()], "cohere/command-a-03-2025", (), context, Notes()))
    oracle.openai_validator("Model").check(retrieved)


# --- L7: silence is no verdict ------------------------------------------------------------------------------


def test_l7_every_field_of_openais_has_a_row() -> None:
    assert oracle.openai_schema_properties("CreateChatCompletionRequest") <= {row.name for row in chat.TABLE.rows}


def test_l7_every_field_of_coheres_can_be_sent() -> None:
    request = {row.to for row in chat.TABLE.rows if row.verdict is Verdict.SEND}
    read = {row.name for row in chat.TABLE.rows if row.verdict is Verdict.READ}
    missing = oracle.cohere_request_properties("/v2/chat") - request - read
    assert not missing


def test_l7_every_row_that_does_not_send_says_why() -> None:
    for row in chat.TABLE.rows:
        assert row.verdict in (Verdict.SEND, Verdict.READ) or row.why, row.name


def test_l7_no_field_has_two_rows() -> None:
    names = [row.name for row in chat.TABLE.rows]
    assert len(names) == len(set(names))
    assert not set(chat.TABLE.synonyms) & set(names)
    assert set(chat.TABLE.synonyms.values()) <= set(names)


def test_l7_every_event_has_a_struct() -> None:
    assert oracle.cohere_event_types() - {"debug"} == set(events.TAGS)
    for state in TRANSITIONS.values():
        assert all(kind in events.KINDS for kind in state)


def test_l7_every_finish_reason_has_an_entry() -> None:
    reasons = set(oracle.facts("cohere")["schemas"]["ChatFinishReason"]["enum"])
    assert reasons <= set(FINISH_REASONS) | set(FAILED_REASONS)
    assert not set(FINISH_REASONS) & set(FAILED_REASONS)


def test_l7_every_finish_reason_of_ours_is_openais() -> None:
    choice = oracle.facts("openai")["schemas"]["CreateChatCompletionResponse"]
    allowed = choice["properties"]["choices"]["items"]["properties"]["finish_reason"]["enum"]
    assert set(FINISH_REASONS.values()) | {"function_call"} <= set(allowed)


def test_l7_every_status_has_an_entry() -> None:
    documented = {status for path in ("/v2/chat", "/v2/embed", "/v2/rerank") for status in oracle.cohere_statuses(path)}
    assert documented - {200} <= set(UPSTREAM_ERRORS)
    assert 402 in UPSTREAM_ERRORS, "the specification forgets it, the error page does not (docs/cohere-api.md#errors)"


@pytest.mark.parametrize("reason", sorted(FAILED_REASONS))
def test_l7_a_failed_reason_is_never_a_success(reason: str) -> None:
    translation = transcripts.call({**transcripts.REQUEST, "stream": False, "stream_options": None})
    answer = {"message": {"content": [{"type": "text", "text": "Hi"}]}, "finish_reason": reason}
    with pytest.raises(TranslationError):
        transcripts.answered(translation, answer)
