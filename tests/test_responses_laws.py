"""The laws of the Responses projection, each over all transcripts: golden, recorded, and made by rule.

Order (numbers without gaps, items dense, each item's events in their grammar), fold (what was streamed is what the
last event holds), sameness (streamed and whole are one Response), clean end, determinism, totality.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import example, given
from msgspec.structs import replace

from schemas.cohere import events
from support import golden, malformed, transcripts
from support.transcripts import Event, Transcript, property_of
from translators.core.errors import TranslationError, UpstreamProtocolError
from translators.operations import responses
from translators.operations.responses import ResponsesTranslation
from translators.operations.responses_answer import ResponsesStream

CUT = transcripts.CUT
REQUEST: dict[str, Any] = {"model": transcripts.MODEL, "input": "Hello", "stream": True}
SHAPES: dict[str, dict[str, Any]] = {
    "plain": REQUEST,
    "summaries": {**REQUEST, "reasoning": {"summary": "auto"}},
    "sealed": {**REQUEST, "include": ["reasoning.encrypted_content"]},
    "log probabilities": {**REQUEST, "include": ["message.output_text.logprobs"]},
    "one call": {
        **REQUEST,
        "parallel_tool_calls": False,
        "tools": [{"type": "function", "name": "get_weather"}, {"type": "function", "name": "f"}],
    },
    "namespaces": {
        **REQUEST,
        "tools": [
            {"type": "namespace", "name": "ns", "tools": [{"type": "function", "name": "get_weather"}]},
            {"type": "function", "name": "f"},
        ],
    },
    "hidden thoughts": {**REQUEST, "reasoning": {"exclude": True}},
    "raw thoughts": {**REQUEST, "settings": {"raw_thoughts": True}},
}
"""Requests, and under `settings` the operator's."""

TERMINAL = {"response.completed": "completed", "response.incomplete": "incomplete", "response.failed": "failed"}
PREFIXES = {"message": "msg_", "reasoning": "rs_", "function_call": "fc_"}

each_transcript = pytest.mark.parametrize("transcript", transcripts.transcripts(), ids=lambda one: one.name)
shapes = st.sampled_from(sorted(SHAPES)).map(lambda name: SHAPES[name])


def _call(shape: dict[str, Any]) -> ResponsesTranslation:
    request = dict(shape)
    return golden.responses_call(request, **request.pop("settings", {}))


def _stream(shape: dict[str, Any] = REQUEST) -> ResponsesStream:
    stream = _call(shape).stream()
    assert isinstance(stream, ResponsesStream)
    return stream


def _encoded(created: Iterable[Event]) -> list[bytes]:
    return [json.dumps(event).encode() for event in created]


def _data(transcript: Transcript) -> list[bytes]:
    from gateway.http import sse

    decoder = sse.Decoder()
    return [*decoder.feed(transcript.raw), *decoder.end()]


# --- the grammar: one reader for everything below -----------------------------------------------------------


def read(document: Sequence[Any]) -> dict[str, Any]:
    """The Response that the last event holds. AssertionError unless the events before it are its making."""
    assert [event["sequence_number"] for event in document] == list(range(len(document)))
    *before, last = document
    final: dict[str, Any] = last["response"]
    assert final["status"] == TERMINAL[last["type"]]
    assert not [event for event in before if event["type"] in TERMINAL or event["type"] == "error"]
    if not before:
        assert last["type"] == "response.failed", "only a failure may come without a beginning"
        return final
    assert [event["type"] for event in before[:2]] == ["response.created", "response.in_progress"]
    for event in before[:2]:
        begun = event["response"]
        assert (begun["status"], begun["output"], begun["usage"], begun["error"]) == ("in_progress", [], None, None)
        assert begun["completed_at"] is None
        different = {key for key in begun if begun[key] != final[key]}
        assert different <= {"status", "output", "usage", "error", "completed_at", "incomplete_details"}
    output = _items(before[2:])
    _take_late_citations(output, final["output"])
    assert output == final["output"], "what was streamed is what the response holds"
    ids = [item["id"] for item in output] + [item["call_id"] for item in output if "call_id" in item]
    assert len(ids) == len(set(ids))
    return final


def _items(document: Sequence[Any]) -> list[Any]:
    """The items of a stream in their order, each checked by its own grammar."""
    output: list[Any] = []
    group: list[Any] = []
    for event in document:
        if event["type"].endswith("annotation.added") and event["output_index"] < len(output):
            # A citation that came when its item was done.
            late = output[event["output_index"]]
            assert event["item_id"] == late["id"] and event["annotation_index"] == len(
                late["content"][0]["annotations"]
            )
            late["content"][0]["annotations"].append(event["annotation"])
            continue
        assert event["output_index"] == len(output), "dense, and one item after another"
        assert event.get("content_index", 0) == 0 == event.get("summary_index", 0)
        group.append(event)
        if event["type"] == "response.output_item.done":
            output.append(_item(group))
            group = []
    assert not group, "every item is done"
    return output


def _item(group: Sequence[Any]) -> Any:
    """One item, made of its own events alone, is its done event's item."""
    first, *middle, last = group
    assert first["type"] == "response.output_item.added"
    added, done = first["item"], last["item"]
    assert added["status"] == "in_progress" and done["status"] in ("completed", "incomplete")
    assert added["id"] == done["id"] and done["id"].startswith(PREFIXES[done["type"]])
    assert done["id"].endswith(f"_item_{first['output_index']}")
    assert all(event["item_id"] == done["id"] for event in middle)
    names = [event["type"].removeprefix("response.") for event in middle]
    created = dict(added, status=done["status"])
    if done["type"] == "function_call":
        assert added["arguments"] == ""
        assert names == ["function_call_arguments.delta"] * (len(names) - 1) + ["function_call_arguments.done"]
        *deltas, finished = middle
        assert finished["name"] == done["name"]
        created["arguments"] = "".join(event["delta"] for event in deltas)
        assert finished["arguments"] == created["arguments"]
        if done["status"] == "completed":
            assert done["call_id"] and done["arguments"]
        assert created == done
        return done
    family = _family(names)
    spoken = {"text": "output_text", "reasoning": "reasoning_text", "summary": "reasoning_summary_text"}[family]
    opening = "reasoning_summary_part" if family == "summary" else "content_part"
    position = "summary" if family == "summary" else "content"
    assert names[0] == f"{opening}.added" and names[-2:] == [f"{spoken}.done", f"{opening}.done"]
    assert set(names[1:-2]) <= {f"{spoken}.delta", "output_text.annotation.added"}
    deltas = [event for event in middle if event["type"].endswith(".delta")]
    notes = [event for event in middle if event["type"].endswith("annotation.added")]
    part = dict(middle[0]["part"])
    assert part["text"] == "" and not part.get("annotations")
    part["text"] = "".join(event["delta"] for event in deltas)
    assert middle[-2]["text"] == part["text"]
    if family == "text":
        assert [event["annotation_index"] for event in notes] == list(range(len(notes)))
        part["annotations"] = [event["annotation"] for event in notes]
        part["logprobs"] = [entry for event in deltas for entry in event["logprobs"]]
        assert middle[-2]["logprobs"] == part["logprobs"]
    if "citations" in middle[-1]["part"]:
        part["citations"] = middle[-1]["part"]["citations"]
    assert middle[-1]["part"] == part
    created[position] = [part]
    if "encrypted_content" in done:
        created["encrypted_content"] = done["encrypted_content"]
    assert created == done
    return done


def _parts(item: dict[str, Any]) -> list[Any]:
    return [*(item.get("content") or ()), *(item.get("summary") or ())]


def _take_late_citations(output: Sequence[Any], final: Sequence[Any]) -> None:
    """The extension `citations` has no events of its own: the response may have more than the done items had."""
    for item, last in zip(output, final, strict=True):
        for part, whole in zip(_parts(item), _parts(last), strict=True):
            had, has = part.get("citations", []), whole.get("citations", [])
            assert has[: len(had)] == had
            if has:
                part["citations"] = has


def _family(names: Sequence[str]) -> str:
    if any("summary" in name for name in names):
        return "summary"
    return "reasoning" if any("reasoning" in name for name in names) else "text"


# --- order and fold -----------------------------------------------------------------------------------------


@each_transcript
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_the_events_are_the_making_of_their_response(transcript: Transcript, shape: str) -> None:
    read(golden.stream_documents(_stream(SHAPES[shape]), _data(transcript)))


@property_of(400)
@given(transcripts.answers(log_thinkers=True), shapes)
def test_the_events_of_any_answer(created: list[Event], shape: dict[str, Any]) -> None:
    stream = _stream(shape)
    final = read(golden.stream_documents(stream, _encoded(created)))
    reason = created[-1]["delta"]["finish_reason"]
    assert final["status"] == ("incomplete" if reason == "MAX_TOKENS" else "completed")
    calls = [item for item in final["output"] if item["type"] == "function_call"]
    assert (stream.usage.finish_reason == "tool_calls") is (bool(calls) and reason != "MAX_TOKENS")


@property_of(400)
@given(transcripts.walks(), shapes)
def test_the_events_of_any_walk(created: list[Event], shape: dict[str, Any]) -> None:
    read(golden.stream_documents(_stream(shape), _encoded(created)))


@each_transcript
def test_thoughts_are_reported_in_one_family(transcript: Transcript) -> None:
    for name, absent in (("plain", "reasoning_text"), ("summaries", "reasoning_text"), ("raw thoughts", "summary")):
        result = golden.stream_documents(_stream(SHAPES[name]), _data(transcript))
        assert not [event["type"] for event in result if absent in event["type"]]


def test_the_order_is_thoughts_words_calls() -> None:
    results = [
        transcripts.message_start(),
        transcripts.plan_delta("I look."),
        transcripts.call_start(0, "f"),
        transcripts.call_end(0),
        transcripts.call_start(1, "f"),
        transcripts.call_delta(1, '{"a":1}'),
        transcripts.call_end(1),
        transcripts.message_end("TOOL_CALL"),
    ]
    final = read(golden.stream_documents(_stream(), _encoded(results)))
    assert [item["type"] for item in final["output"]] == ["reasoning", "function_call", "function_call"]
    assert [item.get("arguments") for item in final["output"]] == [None, "{}", '{"a":1}']
    assert [item.get("call_id") for item in final["output"]] == [None, "f_0", "f_1"]


# --- sameness: streamed and whole are one response ----------------------------------------------------------


def _same(data: Sequence[bytes], equal: Any, request: dict[str, Any]) -> None:
    final = read(golden.stream_documents(_stream(request), data))
    try:
        answer = golden.responses_answer(_call({**request, "stream": False}), equal)
    except TranslationError as error:
        assert final["status"] == "failed" and final["error"]["message"] == error.failure.message
        return
    for response in (final, answer):
        # A citation that came before its words is told when they are there: the order is not part of the law.
        for item in response["output"]:
            for part in _parts(item):
                for key in ("annotations", "citations"):
                    if key in part:
                        part[key].sort(key=lambda one: json.dumps(one, sort_keys=True))
    assert final == answer


BROKEN = {"cut-inside-a-call", "cut-inside-an-event", "cut-inside-the-text", "an-event-that-may-not-come-now"}
UNBROKEN = [one for one in transcripts.transcripts() if one.name not in BROKEN]


@pytest.mark.parametrize("transcript", UNBROKEN, ids=lambda one: one.name)
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_a_stream_ends_in_the_whole_answer(transcript: Transcript, shape: str) -> None:
    data = _data(transcript)
    results = [json.loads(one) for one in data if one != b"[DONE]"]
    settings = [event for event in results if event["type"] in events.TAGS]
    _same(data, transcripts.whole(settings), SHAPES[shape])


@property_of(400)
@given(transcripts.answers(st.one_of(transcripts.GOOD_REASONS, st.sampled_from(["ERROR", "TIMEOUT"]))), shapes)
def test_a_stream_of_any_answer_ends_in_the_whole_answer(created: list[Event], shape: dict[str, Any]) -> None:
    _same(_encoded(created), transcripts.whole(created), shape)


@property_of(200)
@given(transcripts.answers(log_thinkers=True))
def test_so_does_one_of_log_probabilities_after_thinking(created: list[Event]) -> None:
    _same(_encoded(created), transcripts.whole(created), SHAPES["log probabilities"])


@property_of(200)
@given(transcripts.answers(), shapes)
def test_a_whole_answer_replayed_as_a_stream_is_the_same(created: list[Event], shape: dict[str, Any]) -> None:
    """What a caller who streams gets where the answer must be seen whole first."""
    stream = _stream(shape)
    results = [json.loads(document) for document in stream.whole(json.dumps(transcripts.whole(created)).encode())]
    final = read(results)
    assert json.loads(stream.final()) == final
    assert final == golden.responses_answer(_call({**shape, "stream": False}), transcripts.whole(created))


_SOURCES = [{"type": "document", "id": "d1", "document": {"id": "d1", "url": "https://example.com/1"}}]


def test_a_citation_of_an_earlier_text_is_not_lost() -> None:
    results = [
        transcripts.message_start(),
        transcripts.content_start(0, "text", "One"),
        transcripts.content_end(0),
        transcripts.content_start(1, "text", "Two"),
        transcripts.citation_start(0, 3, "One", content_index=0, sources=_SOURCES),
        transcripts.content_end(1),
        transcripts.message_end(),
    ]
    _same(_encoded(results), transcripts.whole(results), REQUEST)


@pytest.mark.parametrize(("early", "late"), [(1, 0), (0, 1), (1, 1), (0, 2)])
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_a_citation_of_a_thought_is_not_lost(shape: str, early: int, late: int) -> None:
    """early, late: how many citations come in its block, and how many after it."""
    cited = [
        transcripts.citation_start(3, 6, "One", type="THINKING_CONTENT", content_index=0, sources=_SOURCES),
        transcripts.citation_start(0, 2, "Hm", type="THINKING_CONTENT", content_index=0, sources=_SOURCES),
    ]
    created = [
        transcripts.message_start(),
        transcripts.content_start(0, "thinking", "Hm One"),
        *cited[:early],
        transcripts.content_end(0),
        transcripts.content_start(1, "text", "So"),
        *cited[early : early + late],
        transcripts.content_end(1),
        transcripts.message_end(),
    ]
    _same(_encoded(created), transcripts.whole(created), SHAPES[shape])
    thoughts = read(golden.stream_documents(_stream(SHAPES[shape]), _encoded(created)))["output"][:-1]
    results = [one["sources"] for thought in thoughts for part in _parts(thought) for one in part["citations"]]
    assert results == ([] if shape == "hidden thoughts" else [_SOURCES] * (early + late))


def test_a_call_without_an_id_gets_one_of_its_own() -> None:
    """Tools' results are sent back under it."""
    created = [
        transcripts.message_start(),
        *(transcripts.call_start(number, "f", identity="") for number in range(2)),
        transcripts.message_end("TOOL_CALL"),
    ]
    _same(_encoded(created), transcripts.whole(created), REQUEST)
    output = read(golden.stream_documents(_stream(), _encoded(created)))["output"]
    assert [item["call_id"] for item in output] == [f"call_{item['id']}" for item in output]


# --- both projections tell the same -------------------------------------------------------------------------


@property_of(300)
@given(transcripts.answers())
def test_chat_and_responses_tell_the_same(created: list[Event]) -> None:
    answer = transcripts.whole(created)
    response = golden.responses_answer(golden.responses_call({**REQUEST, "stream": False}), answer)
    completion = transcripts.answered(transcripts.call({**transcripts.REQUEST, "stream_options": None}), answer)
    message = completion["choices"][0]["message"]
    by_kind: dict[str, list[Any]] = {"message": [], "reasoning": [], "function_call": []}
    for item in response["output"]:
        by_kind[item["type"]].append(item)
    assert "".join(item["content"][0]["text"] for item in by_kind["message"]) == (message["content"] or "")
    thoughts = [item["summary"][0]["text"] for item in by_kind["reasoning"]]
    assert "\n\n".join(text for text in thoughts if text) == message.get("reasoning_content", "")
    calls = [(item["call_id"], item["name"], item["arguments"]) for item in by_kind["function_call"]]
    assert calls == [
        (call["id"], call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())
    ]
    used, counted = response["usage"], completion["usage"]
    assert (used["input_tokens"], used["output_tokens"]) == (counted["prompt_tokens"], counted["completion_tokens"])


@pytest.mark.parametrize(("now", "completed"), [(7.9, 7), (0.0, 0), (-60.0, 0)])
@pytest.mark.parametrize("streamed", [True, False])
def test_an_answer_is_completed_when_it_ends(streamed: bool, now: float, completed: int) -> None:
    """And not before it began, should the clock have been set back."""
    plain = transcripts.context()
    context = replace(plain, identity=replace(plain.identity, now=lambda: transcripts.CREATED + now))
    call = responses.request(json.dumps({**REQUEST, "stream": streamed}).encode(), context)
    results = [transcripts.message_start(), transcripts.message_end()]
    if streamed:
        response = golden.stream_documents(call.stream(), _encoded(results))[-1]["response"]
    else:
        response = golden.responses_answer(call, transcripts.whole(results))
    assert response["created_at"] == transcripts.CREATED
    assert response["completed_at"] == transcripts.CREATED + completed


# --- clean end ----------------------------------------------------------------------------------------------


def _ends_cleanly(data: Sequence[bytes], request: dict[str, Any] = REQUEST) -> None:
    for count in range(len(data) + 1):
        stream = _stream(request)
        documents: list[bytes] = []
        failure = CUT
        for one in data[:count]:
            try:
                documents += stream.feed(one)
            except UpstreamProtocolError as error:
                failure = error.failure
                break
        finished = stream.finished
        last = list(stream.end(failure))
        final = read([json.loads(document) for document in [*documents, *last]])
        assert json.loads(stream.final()) == final
        if finished:
            assert last == []
        else:
            assert final["status"] == "failed" and stream.failure == failure
            assert final["error"]["message"] == failure.message
            assert final["completed_at"] is None and final["incomplete_details"] is None
            done = [json.loads(one) for one in documents]
            open_items = [event for event in done if event["type"] == "response.output_item.added"]
            closed = [event for event in done if event["type"] == "response.output_item.done"]
            assert len(open_items) - len(closed) in (0, 1)
        if final["status"] == "failed":
            assert stream.failure is not None and final["error"]["code"]
        assert stream.finished and stream.done(0)
        assert list(stream.end(CUT)) == [], "to end twice is to end once"
        for one in data[count:]:
            try:
                assert list(stream.feed(one)) == [], "after the end there is nothing"
            except UpstreamProtocolError:
                pass
        assert json.loads(stream.final()) == final


@each_transcript
def test_a_stream_that_is_cut_anywhere_fails_properly(transcript: Transcript) -> None:
    data = _data(transcript)
    _ends_cleanly(data if len(data) < 60 else [*data[:25], *data[-25:]])


@property_of(150)
@given(transcripts.walks(), shapes)
def test_any_walk_that_is_cut_fails_properly(created: list[Event], shape: dict[str, Any]) -> None:
    _ends_cleanly(_encoded(created), shape)


CUT_INSIDE: dict[str, tuple[list[Event], list[tuple[str, str]]]] = {
    "a text": (
        [transcripts.message_start(), transcripts.content_start(0), transcripts.content_delta(0, "Sun")],
        [("message", "incomplete")],
    ),
    "a call": (
        [
            transcripts.message_start(),
            transcripts.plan_delta("I look."),
            transcripts.call_start(0),
            transcripts.call_delta(0, '{"ci'),
        ],
        [("reasoning", "completed"), ("function_call", "incomplete")],
    ),
    "a thought": (
        [transcripts.message_start(), transcripts.content_start(0, "thinking", "Hm")],
        [("reasoning", "incomplete")],
    ),
    "the second text": (
        [
            transcripts.message_start(),
            transcripts.content_start(0, "text", "One"),
            transcripts.content_end(0),
            transcripts.content_start(1, "text", "Tw"),
        ],
        [("message", "completed"), ("message", "incomplete")],
    ),
}


@pytest.mark.parametrize("ending", ["cut", "ERROR", "TIMEOUT", "MAX_TOKENS"])
@pytest.mark.parametrize("where", sorted(CUT_INSIDE))
def test_what_was_being_written_is_incomplete(where: str, ending: str) -> None:
    created, expected = CUT_INSIDE[where]
    more = [] if ending == "cut" else [transcripts.message_end(ending)]
    final = read(golden.stream_documents(_stream(), _encoded([*created, *more])))
    assert final["status"] == ("incomplete" if ending == "MAX_TOKENS" else "failed")
    assert [(item["type"], item["status"]) for item in final["output"]] == expected
    if ending == "MAX_TOKENS":
        assert final["incomplete_details"] == {"reason": "max_output_tokens"} and final["error"] is None


def test_an_end_without_a_beginning_has_one_all_the_same() -> None:
    result = golden.stream_documents(_stream(), _encoded([transcripts.message_end("COMPLETE")]))
    assert [event["type"] for event in result] == ["response.created", "response.in_progress", "response.completed"]


# --- determinism --------------------------------------------------------------------------------------------


@each_transcript
def test_the_same_in_the_same_out(transcript: Transcript) -> None:
    data = _data(transcript)
    call = golden.responses_call(REQUEST)
    first = golden.stream_documents(call.stream(), data)
    assert first == golden.stream_documents(call.stream(), data), "nothing of one answer is left in the call"
    assert first == golden.stream_documents(_stream(), data)


@each_transcript
def test_two_streams_of_one_call_do_not_mix(transcript: Transcript) -> None:
    call = golden.responses_call(SHAPES["one call"])
    streams = call.stream(), call.stream()
    for one in _data(transcript):
        results = []
        for stream in streams:
            try:
                results.append(list(stream.feed(one)))
            except UpstreamProtocolError as error:
                results.append(list(stream.end(error.failure)))
        assert results[0] == results[1]


# --- totality -----------------------------------------------------------------------------------------------


@property_of(500)
@given(st.lists(malformed.broken_events(), max_size=5), shapes)
@example([b"\xff"], REQUEST)
@example([b'"message-end"'], REQUEST)
@example([b"[" * 100_000], REQUEST)
@example([b'{"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"\\ud800"}}}}'], REQUEST)
@example([b'{"type":"message-end","delta":{"usage":{"tokens":{"input_tokens":1e300}}}}'], REQUEST)
@example([b'{"type":5}'], REQUEST)
def test_broken_data_raises_one_thing_only(data: list[bytes], shape: dict[str, Any]) -> None:
    stream = _stream(shape)
    documents: list[bytes] = []
    for one in [*_encoded([transcripts.message_start()]), *data]:
        try:
            documents += stream.feed(one)
        except UpstreamProtocolError as error:
            documents += stream.end(error.failure)
            break
    documents += stream.end(CUT)
    assert stream.finished
    read([json.loads(document) for document in documents])


@property_of(300)
@given(malformed.JUNK, transcripts.answers(), st.sampled_from(["id", "message", "finish_reason", "usage", "logprobs"]))
def test_broken_answers_raise_one_family_only(junk: Any, created: list[Event], key: str) -> None:
    call = golden.responses_call({**REQUEST, "stream": False})
    for answer in ({**transcripts.whole(created), key: junk}, junk):
        try:
            assert golden.responses_answer(call, answer)["object"] == "response"
        except TranslationError as error:
            assert error.failure.status in (502, 504)
