"""The turn machine, table by table: what each event makes, and the late things: closing, `null`, citations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.cohere.chat import decode_answer
from schemas.cohere.events import decode_event
from support.transcripts import (
    Event,
    call_delta,
    call_end,
    call_start,
    citation_end,
    citation_start,
    content_delta,
    content_end,
    content_start,
    message_end,
    message_start,
    plan_delta,
    property_of,
    walks,
)
from translators.answer.events import AnswerEvent, Cited, Closed, Delta, Failed, Finished, Kind, Opened, Started
from translators.answer.replay import replay
from translators.answer.turn import FAILED_REASONS, State, Turn
from translators.core.errors import Failure, UpstreamProtocolError

TEXT, THINKING, PLAN, CALL = Kind.TEXT, Kind.THINKING, Kind.PLAN, Kind.CALL
CUT = Failure(502, "cut")


def feed(turn: Turn, *events: Event) -> list[AnswerEvent]:
    return [step for event in events for step in turn.feed(decode_event(json.dumps(event).encode()))]


def answer_events(*events: Event) -> list[AnswerEvent]:
    """The steps after message-start."""
    turn = Turn()
    assert feed(turn, message_start("m")) == [Started("m")]
    return feed(turn, *events)


def content_of(index: int, content: Event | None) -> Event:
    """A delta with this content."""
    return {"type": "content-delta", "index": index, "delta": {"message": {"content": content}}}


def short(steps: Sequence[AnswerEvent]) -> list[Any]:
    """Steps as words, which read better in a table."""
    words: list[Any] = []
    for step in steps:
        match step:
            case Opened(item=item, kind=kind, name=name):
                words.append(f"open {item} {kind.value} {name}".strip())
            case Delta(item=item, text=text):
                words.append(f"+{item} {text}")
            case Closed(item=item, text=text, complete=complete):
                words.append(f"close {item} {text}" + ("" if complete else " (broken)"))
            case Cited(item=item, start=start, end=end):
                words.append(f"cite {item} {start}-{end}")
            case Finished(reason=reason):
                words.append(f"end {reason}")
            case Failed(failure=failure):
                words.append(f"fail {failure.status}")
    return words


STORIES: tuple[tuple[str, list[Event], list[str]], ...] = (
    (
        "a text",
        [content_start(0), content_delta(0, "Hi"), content_delta(0, "!"), content_end(0), message_end()],
        ["open 0 text", "+0 Hi", "+0 !", "close 0 Hi!", "end COMPLETE"],
    ),
    ("an empty text", [content_start(0), content_end(0), message_end()], ["open 0 text", "close 0 ", "end COMPLETE"]),
    (
        "text in the start",
        [content_start(0, "text", "Hi"), message_end()],
        ["open 0 text", "+0 Hi", "close 0 Hi", "end COMPLETE"],
    ),
    (
        "a thought and a text",
        [
            content_start(0, "thinking"),
            content_delta(0, "Hm", "thinking"),
            content_end(0),
            content_start(1),
            content_delta(1, "Hi"),
            content_end(1),
            message_end(),
        ],
        ["open 0 thinking", "+0 Hm", "close 0 Hm", "open 1 text", "+1 Hi", "close 1 Hi", "end COMPLETE"],
    ),
    (
        "a plan and two calls",
        [
            plan_delta("I "),
            plan_delta("go"),
            call_start(0, "f"),
            call_delta(0, '{"a":'),
            call_delta(0, "1}"),
            call_end(0),
            call_start(1, "g"),
            call_end(1),
            message_end("TOOL_CALL"),
        ],
        [
            "open 0 plan",
            "+0 I ",
            "+0 go",
            "close 0 I go",
            "open 1 call f",
            '+1 {"a":',
            "+1 1}",
            'close 1 {"a":1}',
            "open 2 call g",
            "+2 {}",
            "close 2 {}",
            "end TOOL_CALL",
        ],
    ),
    (
        "ends that are missing",
        [content_start(0), content_delta(0, "a"), call_start(0, "f"), call_start(1, "g"), message_end()],
        [
            "open 0 text",
            "+0 a",
            "close 0 a",
            "open 1 call f",
            "+1 {}",
            "close 1 {}",
            "open 2 call g",
            "+2 {}",
            "close 2 {}",
            "end COMPLETE",
        ],
    ),
    (
        "a start that is missing",
        [content_delta(0, "a", "thinking"), content_delta(1, "b"), message_end()],
        ["open 0 thinking", "+0 a", "close 0 a", "open 1 text", "+1 b", "close 1 b", "end COMPLETE"],
    ),
    (
        "a delta after its end",
        [content_start(0), content_delta(0, "a"), content_end(0), content_delta(0, "b"), message_end()],
        ["open 0 text", "+0 a", "+0 b", "close 0 ab", "end COMPLETE"],
    ),
    (
        "a delta of another block",
        [content_delta(0, "a"), content_delta(1, "b"), message_end()],
        ["open 0 text", "+0 a", "close 0 a", "open 1 text", "+1 b", "close 1 b", "end COMPLETE"],
    ),
    (
        "a thought in the block of a text",
        [content_start(0), content_delta(0, "Hm", "thinking"), content_delta(0, "Hi"), message_end()],
        [
            "open 0 text",
            "close 0 ",
            "open 1 thinking",
            "+1 Hm",
            "close 1 Hm",
            "open 2 text",
            "+2 Hi",
            "close 2 Hi",
            "end COMPLETE",
        ],
    ),
    (
        "a delta of no kind in a text",
        [content_start(0), content_delta(0, "a"), content_of(0, {}), content_delta(0, "b"), message_end()],
        ["open 0 text", "+0 a", "+0 b", "close 0 ab", "end COMPLETE"],
    ),
    (
        "a delta of no kind in a thought",
        [content_delta(0, "a", "thinking"), content_of(0, {}), content_delta(0, "b", "thinking"), message_end()],
        ["open 0 thinking", "+0 a", "+0 b", "close 0 ab", "end COMPLETE"],
    ),
    (
        "a text that the tokens did not suffice for",
        [content_start(0), content_delta(0, "a"), message_end("MAX_TOKENS")],
        ["open 0 text", "+0 a", "close 0 a (broken)", "end MAX_TOKENS"],
    ),
    (
        "a call that the tokens did not suffice for",
        [call_start(0, "f"), message_end("MAX_TOKENS")],
        ["open 0 call f", "close 0  (broken)", "end MAX_TOKENS"],
    ),
    ("nothing at all", [message_end()], ["end COMPLETE"]),
    ("an end without anything", [{"type": "message-end"}], ["end "]),
    ("no reason", [message_end(None)], ["end "]),
    ("ends of nothing", [content_end(0), call_end(0), citation_end(), message_end()], ["end COMPLETE"]),
    ("an error", [plan_delta("I"), message_end("ERROR")], ["open 0 plan", "+0 I", "close 0 I (broken)", "fail 502"]),
    ("a timeout", [message_end("TIMEOUT")], ["fail 504"]),
    ("an error beside a good reason", [message_end("COMPLETE", error="x")], ["fail 502"]),
    ("what follows the end", [message_end(), content_delta(0, "late"), message_end("ERROR")], ["end COMPLETE"]),
)


@pytest.mark.parametrize(("events", "steps"), [row[1:] for row in STORIES], ids=[row[0] for row in STORIES])
def test_stories(events: list[Event], steps: list[str]) -> None:
    assert short(answer_events(*events)) == steps


NOTHING: tuple[Event, ...] = (
    {},
    {"delta": None},
    {"delta": {}},
    {"delta": {"message": None}},
    {"delta": {"message": {}}},
)
"""Events without what they are about: all of it may be absent in the specification."""


@pytest.mark.parametrize("nothing", NOTHING, ids=json.dumps)
@pytest.mark.parametrize(
    ("before", "kind", "steps"),
    [
        ((), "content-start", ["open 0 text"]),
        ((content_start(0),), "content-delta", []),
        ((), "tool-plan-delta", ["open 0 plan"]),
        ((call_start(0, "f"),), "tool-call-delta", []),
        ((content_start(0),), "citation-start", []),
    ],
)
def test_an_event_without_content(before: tuple[Event, ...], kind: str, steps: list[str], nothing: Event) -> None:
    turn = Turn()
    feed(turn, message_start(), *before)
    assert short(feed(turn, {"type": kind, **nothing})) == steps


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (None, "text"),
        ({}, "text"),
        ({"type": "new", "text": ""}, "text"),
        ({"type": "thinking"}, "thinking"),
        ({"thinking": ""}, "thinking"),
        ({"type": "text", "thinking": ""}, "thinking"),
    ],
    ids=json.dumps,
)
def test_the_kind_of_a_block(content: Any, kind: str) -> None:
    assert short(answer_events({**content_of(0, content), "type": "content-start"})) == [f"open 0 {kind}"]


@pytest.mark.parametrize("content", [{"text": ""}, {}], ids=json.dumps)
@pytest.mark.parametrize("before", [(content_start(0),), ()], ids=["in a block", "without its start"])
def test_log_probabilities_without_a_text_are_told(before: tuple[Event, ...], content: Event) -> None:
    item = {"text": "a", "logprobs": [-0.5]}
    steps = answer_events(*before, {**content_of(0, content), "logprobs": item}, message_end())
    assert short(steps) == ["open 0 text", "+0 ", "close 0 ", "end COMPLETE"]
    (delta,) = [step for step in steps if isinstance(step, Delta)]
    assert [(one.text, one.logprobs) for one in delta.logprobs] == [("a", [-0.5])]


@pytest.mark.parametrize(
    ("fragments", "deltas"),
    [
        ([], ["{}"]),
        ([""], ["{}"]),
        (["null"], ["{}"]),
        (["n", "u", "l", "l"], ["{}"]),
        (["nu", "", "ll"], ["{}"]),
        (["nul", "ly"], ["nully"]),
        (["null", " "], ["null "]),
        (["{", "}"], ["{", "}"]),
        (["{\n  ", '"a": 1', "\n}"], ["{\n  ", '"a": 1', "\n}"]),
        (["n"], ["n"]),
        (["nu"], ["nu"]),
        (['"null"'], ['"null"']),
    ],
    ids=lambda value: "|".join(value),
)
def test_the_arguments_of_a_call(fragments: list[str], deltas: list[str]) -> None:
    """`null`, in whatever pieces, and nothing are `{}`; everything else is told as it came (C66, C95, C96)."""
    steps = answer_events(call_start(0), *(call_delta(0, one) for one in fragments), call_end(0))
    assert [step.text for step in steps if isinstance(step, Delta)] == deltas
    assert isinstance(steps[-1], Closed) and steps[-1].text == "".join(deltas)


@pytest.mark.parametrize("fragments", [["nu"], ["null"], ["{"], []], ids=lambda value: "|".join(value) or "nothing")
def test_a_call_that_is_cut_is_never_mended(fragments: list[str]) -> None:
    """B47: what a broken stream leaves of a call must not become arguments that parse."""
    turn = Turn()
    feed(turn, message_start(), call_start(0), *(call_delta(0, one) for one in fragments))
    steps = turn.end(CUT)
    assert isinstance(steps[-2], Closed) and not steps[-2].complete
    assert steps[-2].text == "".join(fragments)
    assert "{}" not in [step.text for step in steps if isinstance(step, Delta)]


def test_a_call_keeps_its_id_and_a_missing_one_is_left_to_the_reader() -> None:
    (opened,) = answer_events(call_start(0, "f", identity="f_k5pr4trwbbfd"))
    assert isinstance(opened, Opened) and (opened.call_id, opened.name) == ("f_k5pr4trwbbfd", "f")
    for nothing in ({}, {"id": None}, {"id": ""}):
        call = {"tool_calls": {"function": {"name": "f"}, **nothing}}
        (opened,) = answer_events({"type": "tool-call-start", "index": 0, "delta": {"message": call}})
        assert isinstance(opened, Opened) and opened.call_id == ""


@pytest.mark.parametrize("nothing", [{}, {"id": None}, {"id": ""}], ids=json.dumps)
def test_an_answer_without_an_id(nothing: Event) -> None:
    assert feed(Turn(), {"type": "message-start", **nothing}) == [Started("")]


@pytest.mark.parametrize(
    "calls",
    [None, {}, [], {"id": "a"}, {"id": "a", "function": {}}, {"id": "a", "function": {"name": ""}}],
    ids=json.dumps,
)
def test_a_call_without_a_name_is_refused(calls: Any) -> None:
    turn = Turn()
    feed(turn, message_start(), content_start(0), content_delta(0, "a"))
    with pytest.raises(UpstreamProtocolError):
        feed(turn, {"type": "tool-call-start", "delta": {"message": {"tool_calls": calls}}})
    assert turn.state is State.CONTENT
    assert short(feed(turn, message_end())) == ["close 0 a", "end COMPLETE"]


@pytest.mark.parametrize("calls", [[], {}, {"function": None}, {"function": {}}], ids=json.dumps)
def test_a_piece_of_a_call_without_arguments(calls: Any) -> None:
    assert short(
        answer_events(
            call_start(0, "f"),
            {"type": "tool-call-delta", "index": 0, "delta": {"message": {"tool_calls": calls}}},
            call_delta(0, "{}"),
        )
    ) == ["open 0 call f", "+0 {}"]


def test_calls_as_an_array_are_read_too() -> None:
    """C89: message-start has arrays, deltas have objects; both are accepted."""
    start = {"type": "tool-call-start", "delta": {"message": {"tool_calls": [{"id": "a", "function": {"name": "f"}}]}}}
    delta = {"type": "tool-call-delta", "delta": {"message": {"tool_calls": [{"function": {"arguments": "{}"}}]}}}
    assert short(answer_events(start, delta, call_end(0))) == ["open 0 call f", "+0 {}", "close 0 {}"]


# --- citations ----------------------------------------------------------------------------------------------


def _cited(*events: Event) -> list[tuple[int, Kind, int, int]]:
    steps = answer_events(*events, message_end())
    return [(step.item, step.kind, step.start, step.end) for step in steps if isinstance(step, Cited)]


TWO_BLOCKS = [
    content_start(0, "thinking"),
    content_delta(0, "It is sunny", "thinking"),
    content_end(0),
    content_start(1),
    content_delta(1, "Now sunny"),
]

TWO_TEXTS = [content_start(0), content_delta(0, "Rye"), content_end(0), content_start(1), content_delta(1, "Rye")]

CITED: tuple[tuple[str, list[Event], list[tuple[int, Kind, int, int]]], ...] = (
    ("inline", [content_start(0), content_delta(0, "Sunny"), citation_start(0, 5, "Sunny")], [(0, TEXT, 0, 5)]),
    (
        "after content-end",
        [content_start(0), content_delta(0, "Sunny"), content_end(0), citation_start(0, 5, "Sunny")],
        [(0, TEXT, 0, 5)],
    ),
    (
        "before its words",
        [content_start(0), content_delta(0, "S"), citation_start(0, 5, "Sunny"), content_delta(0, "unny")],
        [(0, TEXT, 0, 5)],
    ),
    (
        "before any block",
        [citation_start(0, 5, "Sunny"), content_start(0), content_delta(0, "Sunny")],
        [(0, TEXT, 0, 5)],
    ),
    ("of a block without an index", [*TWO_BLOCKS, citation_start(4, 9, "sunny")], [(1, TEXT, 4, 9)]),
    ("of a named block", [*TWO_BLOCKS, citation_start(4, 9, "sunny", content_index=1)], [(1, TEXT, 4, 9)]),
    (
        "of a named block, with the words of a later one",
        [*TWO_TEXTS, citation_start(0, 3, "Rye", content_index=0)],
        [(0, TEXT, 0, 3)],
    ),
    (
        "of two blocks with its words, without an index",
        [*TWO_TEXTS, citation_start(0, 3, "Rye")],
        [(1, TEXT, 0, 3)],
    ),
    (
        "of a block that is named and not there",
        [*TWO_TEXTS, citation_start(0, 3, "Rye", content_index=7)],
        [(1, TEXT, 0, 3)],
    ),
    (
        "of a named thought",
        [*TWO_BLOCKS, citation_start(6, 11, "sunny", content_index=0, type="THINKING_CONTENT")],
        [(0, THINKING, 6, 11)],
    ),
    (
        "of a thought, unnamed",
        [*TWO_BLOCKS, citation_start(6, 11, "sunny", type="THINKING_CONTENT")],
        [(0, THINKING, 6, 11)],
    ),
    (
        "whose index names a block of another kind",
        [*TWO_BLOCKS, citation_start(4, 9, "sunny", content_index=0)],
        [(1, TEXT, 4, 9)],
    ),
    (
        "of a plan",
        [plan_delta("I will look"), citation_start(2, 6, "will", type="PLAN"), call_start(0)],
        [(0, PLAN, 2, 6)],
    ),
    (
        "without a type",
        [content_start(0), content_delta(0, "Sunny"), citation_start(0, 5, "Sunny", type=None)],
        [(0, TEXT, 0, 5)],
    ),
    (
        "of words that never come",
        [content_start(0), content_delta(0, "Rain"), citation_start(0, 5, "Sunny")],
        [(0, TEXT, 0, 4)],
    ),
    (
        "whose offsets are off",
        [content_start(0), content_delta(0, "It is sunny"), citation_start(8, 13, "sunny")],
        [(0, TEXT, 6, 11)],
    ),
    ("of nothing", [citation_start(0, 5, "Sunny")], []),
    (
        "of a thought where none is",
        [content_start(0), content_delta(0, "a"), citation_start(0, 1, "a", type="THINKING_CONTENT")],
        [],
    ),
    (
        "of an earlier block",
        [
            content_start(0),
            content_delta(0, "Rye. "),
            content_end(0),
            content_start(1),
            content_delta(1, "Oats"),
            citation_start(0, 3, "Rye"),
        ],
        [(0, TEXT, 0, 3)],
    ),
)


@pytest.mark.parametrize(("events", "expected"), [row[1:] for row in CITED], ids=[row[0] for row in CITED])
def test_citations(events: list[Event], expected: list[tuple[int, Kind, int, int]]) -> None:
    assert _cited(*events) == expected


def test_a_citation_before_its_words_is_not_taken_for_earlier_ones() -> None:
    """The whole answer says 7-12; a stream in which the citation comes a delta early must not say 0-5."""
    events = [content_start(0), content_delta(0, "Sunny, "), citation_start(7, 12, "Sunny"), content_delta(0, "Sunny")]
    assert _cited(*events) == [(0, TEXT, 7, 12)]


# --- failures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", sorted(FAILED_REASONS))
def test_a_failed_reason_with_coheres_words(reason: str) -> None:
    steps = answer_events(
        message_end(reason, error="it broke", error_type="INVALID_TOOL_GENERATION", usage={"tokens": {}})
    )
    (failed,) = steps
    assert isinstance(failed, Failed) and failed.usage is not None
    assert failed.failure.status == FAILED_REASONS[reason].status
    assert failed.failure.code == "INVALID_TOOL_GENERATION" and failed.failure.message.endswith(": it broke")
    (failed,) = answer_events(message_end(reason))
    assert isinstance(failed, Failed) and failed.failure == FAILED_REASONS[reason]


def test_a_refused_event_names_itself_and_the_state() -> None:
    with pytest.raises(UpstreamProtocolError, match=r"tool-call-delta .*\(between\)"):
        answer_events(call_delta(0, "{}"))
    with pytest.raises(UpstreamProtocolError, match="message-start"):
        answer_events(message_start())


@pytest.mark.parametrize("foreign", [call_delta(1, "{}"), call_end(1)], ids=["a delta", "an end"])
def test_a_piece_of_another_call_than_the_open_one_is_refused(foreign: Event) -> None:
    """It must not join the arguments of the open call, which stays as it was."""
    turn = Turn()
    feed(turn, message_start(), call_start(0, "f"), call_delta(0, '{"a":'))
    with pytest.raises(UpstreamProtocolError, match="tool call 1 while 0 is open"):
        feed(turn, foreign)
    assert turn.state is State.CALL
    assert short(feed(turn, call_delta(0, "1}"), call_end(0))) == ["+0 1}", 'close 0 {"a":1}']


def test_the_end_of_a_broken_stream_closes_what_is_open() -> None:
    turn = Turn()
    feed(turn, message_start(), content_start(0), content_delta(0, "Sun"))
    assert turn.end(CUT) == [Closed(0, TEXT, "Sun", False), Failed(CUT, None)]
    assert turn.end(CUT) == []
    assert Turn().end(CUT) == [Failed(CUT, None)]


@property_of(300)
@given(walks())
def test_every_item_is_opened_once_and_closed_once(events: list[Event]) -> None:
    """What `events.py` promises: numbers from 0, deltas joined are the closed text, nothing after the end."""
    turn = Turn()
    steps: list[AnswerEvent] = []
    failure = CUT
    for event in events:
        try:
            steps += feed(turn, event)
        except UpstreamProtocolError as error:
            failure = error.failure
            break
    steps += turn.end(failure)
    opened = [step.item for step in steps if isinstance(step, Opened)]
    assert opened == list(range(len(opened)))
    assert [step.item for step in steps if isinstance(step, Closed)] == opened
    for number in opened:
        kind = next(step.kind for step in steps if isinstance(step, Opened) and step.item == number)
        pieces = [step for step in steps if isinstance(step, Delta) and step.item == number]
        (closed,) = [step for step in steps if isinstance(step, Closed) and step.item == number]
        assert "".join(step.text for step in pieces) == closed.text
        assert {step.kind for step in pieces} <= {kind} == {closed.kind}
        for cited in steps:
            if isinstance(cited, Cited) and cited.item == number:
                assert cited.kind is kind and cited.start <= cited.end <= len(closed.text)
    assert sum(isinstance(step, Finished | Failed) for step in steps) == 1
    assert isinstance(steps[-1], Finished | Failed)


# --- the short way for whole answers ---------------------------------------------------------------------------

_texts = st.sampled_from(["", "a", "Lisbon"])
_blocks = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["text", "thinking", "new"]),
        "text": st.none() | _texts,
        "thinking": st.none() | _texts,
    },
)
_calls = st.just([{"id": "c", "function": {"name": "f", "arguments": "{}"}}])
_citations = st.just([{"start": 0, "end": 1, "text": "a", "sources": []}])
_messages = st.fixed_dictionaries(
    {},
    optional={
        "content": st.none() | st.lists(_blocks, max_size=2),
        "tool_plan": st.none() | _texts,
        "tool_calls": st.none() | st.just([]) | _calls,
        "citations": st.none() | st.just([]) | _citations,
    },
)
_answers = st.fixed_dictionaries(
    {"message": _messages, "finish_reason": st.sampled_from(["", "COMPLETE", "MAX_TOKENS", "NEW", *FAILED_REASONS])},
    optional={
        "id": st.none() | st.just("m"),
        "usage": st.none() | st.just({"tokens": {"input_tokens": 1}}),
        "logprobs": st.none() | st.just([]) | st.just([{"text": "a", "logprobs": [-0.5]}]),
        "error": st.none() | _texts,
        "error_type": st.none() | st.just("t"),
    },
)


@property_of(1_000)
@given(_answers)
def test_the_short_way_of_a_whole_text_is_the_long_one(document: dict[str, Any]) -> None:
    answer = decode_answer(json.dumps(document).encode())
    short_way, long_way = Turn(), Turn()
    events = short_way.whole_text(answer)
    if events is not None:
        assert events == [step for event in replay(answer) for step in long_way.feed(event)]
        assert (short_way.state, short_way.usage) == (long_way.state, long_way.usage)
        assert short_way.end(CUT) == []
    else:
        assert short_way.state is State.IDLE, "what is not taken leaves no trace"


def test_a_usual_answer_goes_the_short_way() -> None:
    message = {"role": "assistant", "content": [{"type": "text", "text": "Lisbon"}]}
    answer = decode_answer(json.dumps({"id": "m", "message": message, "finish_reason": "COMPLETE"}).encode())
    events = Turn().whole_text(answer)
    assert events is not None and short(events[1:3]) == ["open 0 text", "+0 Lisbon"]


_TEXT = {"type": "text", "text": "Lisbon"}


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ({"content": None}, {}),
        ({"content": []}, {}),
        ({"content": [_TEXT, _TEXT]}, {}),
        ({"content": [{**_TEXT, "text": ""}]}, {}),
        ({"content": [{**_TEXT, "thinking": "Hm"}]}, {}),
        ({"content": [{**_TEXT, "type": "thinking"}]}, {}),
        ({"tool_plan": "a"}, {}),
        ({"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]}, {}),
        ({"citations": [{"start": 0, "end": 1, "text": "L", "sources": []}]}, {}),
        ({}, {"logprobs": [{"text": "a", "logprobs": [-0.5]}]}),
        ({}, {"error": "a"}),
        *(({}, {"finish_reason": reason}) for reason in FAILED_REASONS),
    ],
)
def test_an_answer_with_anything_else_goes_the_long_way(message: dict[str, Any], answer: dict[str, Any]) -> None:
    """One by one: among the answers that the law above generates few have a text and nothing else but one of these."""
    document = {"id": "m", "message": {"content": [_TEXT], **message}, "finish_reason": "COMPLETE", **answer}
    turn = Turn()
    assert turn.whole_text(decode_answer(json.dumps(document).encode())) is None
    assert turn.state is State.IDLE
