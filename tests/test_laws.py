"""The laws of the core, each over all transcripts: the golden ones, the recorded ones, and those made by rule.

L1 split, L2 fold, L3 totality, L4 clean end, L5 determinism. (L6 and L7 are in `test_contract.py`.)
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import example, given, settings

from gateway.http import sse
from schemas.cohere import events
from support import malformed, transcripts
from support.transcripts import LONG, Event, Transcript, property_of
from translators.answer.decoder import AnswerDecoder
from translators.answer.turn import TRANSITIONS, State, Turn
from translators.core.contracts import Workload
from translators.core.errors import TranslationError, UpstreamProtocolError
from translators.core.notes import Notes
from translators.operations.chat import ChatTranslation
from translators.operations.chat_answer import ChatView, completion

each_transcript = pytest.mark.parametrize("transcript", transcripts.transcripts(), ids=lambda one: one.name)

CUT = transcripts.CUT

# --- L1: any cut of the bytes gives the same events ---------------------------------------------------------

ENDS: dict[str, Callable[[bytes], bytes]] = {
    "LF": lambda raw: raw,
    "CRLF": lambda raw: raw.replace(b"\n", b"\r\n"),
    "CR": lambda raw: raw.replace(b"\n", b"\r"),
    "mixed": lambda raw: _mixed(raw),
}


def _mixed(raw: bytes) -> bytes:
    ends = itertools.cycle([b"\n", b"\r\n", b"\r\n", b"\r", b"\n"])
    *lines, last = raw.split(b"\n")
    mixed = b""
    for line in lines:
        end = next(ends)
        # CR, an empty line, LF would be one CRLF and no empty line.
        mixed += line + (b"\r" if not line and mixed.endswith(b"\r") and end == b"\n" else end)
    return mixed + last


def _decoded(pieces: Iterator[bytes] | list[bytes]) -> list[bytes]:
    decoder = sse.Decoder()
    return [data for piece in pieces for data in decoder.feed(piece)] + decoder.end()


@each_transcript
@pytest.mark.parametrize("ends", ENDS)
def test_l1_split(transcript: Transcript, ends: str) -> None:
    plain = transcript.raw.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    raw = ENDS[ends](plain)
    whole = _decoded([raw])
    assert whole == _decoded([plain]), "the line ends say nothing"
    assert _decoded([raw[position : position + 1] for position in range(len(raw))]) == whole
    for position in transcripts.cut_positions(raw):
        decoder = sse.Decoder()
        assert decoder.feed(raw[:position]) + decoder.feed(raw[position:]) + decoder.end() == whole, position


FRAMED_AS_COHERE_DOES = [one for one in transcripts.transcripts() if one.raw.endswith(b"\n\n") and b"\r" not in one.raw]


@pytest.mark.parametrize("transcript", FRAMED_AS_COHERE_DOES, ids=lambda one: one.name)
def test_l1_the_decoder_reads_coheres_framing(transcript: Transcript) -> None:
    """A second opinion: the plainest reading of the framing."""
    assert _decoded([transcript.raw]) == transcript.data


@property_of(150)
@given(transcripts.walks(), st.lists(st.integers(0, 4_000), max_size=6), st.sampled_from(sorted(ENDS)))
def test_l1_split_in_many_pieces(created: list[Event], positions: list[int], ends: str) -> None:
    raw = ENDS[ends](transcripts.frame(created))
    cuts = sorted({0, *(position % len(raw) for position in positions), len(raw)})
    assert _decoded([raw[start:end] for start, end in itertools.pairwise(cuts)]) == _decoded([raw])


# --- L2: a stream folded is the whole answer -----------------------------------------------------------------


def _compare(document: ChatTranslation, data: list[bytes], equal: Any) -> None:
    folded = transcripts.fold(transcripts.chunks(document, data))
    try:
        completed = transcripts.folded_completion(transcripts.answered(document, equal))
    except TranslationError as error:
        failure = error.failure
        assert folded["error"]["message"] == failure.message and folded["error"]["code"] == failure.code
        return
    for key in ("annotations", "citations"):
        # One that came before its words is told when they are there: the order is not part of the law.
        for one in (folded, completed):
            one[key] = sorted(one[key], key=lambda item: json.dumps(item, sort_keys=True))
    assert folded == completed


# These are broken on purpose, so that no whole answer equals them.
BROKEN = {"cut-inside-a-call", "cut-inside-an-event", "cut-inside-the-text", "an-event-that-may-not-come-now"}
UNBROKEN = [one for one in transcripts.transcripts() if one.name not in BROKEN]


@pytest.mark.parametrize("transcript", UNBROKEN, ids=lambda one: one.name)
def test_l2_fold(transcript: Transcript) -> None:
    data = _decoded([transcript.raw])
    results = [json.loads(one) for one in data if one != b"[DONE]"]
    settings = [event for event in results if event["type"] in events.TAGS]
    request = {**transcript.request, "stream_options": {"include_usage": True}}
    _compare(transcripts.call(request), data, transcripts.whole(settings))


def _encoded(created: list[Event]) -> list[bytes]:
    return [json.dumps(event).encode() for event in created]


@property_of(400)
@given(transcripts.answers(st.one_of(transcripts.GOOD_REASONS, st.sampled_from(["ERROR", "TIMEOUT"]))))
def test_l2_fold_of_any_answer(created: list[Event]) -> None:
    _compare(transcripts.call(transcripts.REQUEST), _encoded(created), transcripts.whole(created))


@property_of(200)
@given(transcripts.answers(log_thinkers=True))
def test_l2_fold_of_log_probabilities_after_thinking(created: list[Event]) -> None:
    _compare(transcripts.call(transcripts.REQUEST), _encoded(created), transcripts.whole(created))


@property_of(250)
@given(transcripts.walks(), st.booleans())
def test_l2_the_two_readers_of_a_story_agree(created: list[Event], legacy: bool) -> None:
    """However odd the events: the chunks folded are the completion of the same steps."""
    view = ChatView("m", transcripts.context(), include_usage=True, legacy=legacy)
    result = ChatTranslation((b"",), "m", True, Notes(), view, Workload("m"), False)
    data = _encoded(created)
    decoder, steps = AnswerDecoder(), list[Any]()
    try:
        for one in data:
            steps += decoder.feed(one)
        steps += decoder.end(CUT)
        completed, _ = completion([steps], view)
    except TranslationError:
        return
    whole = transcripts.folded_completion(json.loads(msgspec.json.encode(completed)))
    folded = transcripts.fold(transcripts.chunks(result, data))
    if legacy and "function_call" in whole and len([one for one in created if one["type"] == "tool-call-start"]) > 1:
        return  # the old form holds one call only; the request's own rewrite sees to it
    assert folded == whole


# --- L3: everything is legal, or refused without a trace ----------------------------------------------------

STATES = list(State)
REACHED: dict[State, list[Event]] = {
    State.IDLE: [],
    State.BETWEEN: [transcripts.message_start()],
    State.CONTENT: [transcripts.message_start(), transcripts.content_start(0), transcripts.content_delta(0, "Sun")],
    State.ENDED: [
        transcripts.message_start(),
        transcripts.content_start(0),
        transcripts.content_delta(0, "Sun"),
        transcripts.content_end(0),
    ],
    State.PLAN: [transcripts.message_start(), transcripts.plan_delta("I will")],
    State.CALL: [transcripts.message_start(), transcripts.call_start(0), transcripts.call_delta(0, '{"a"')],
    State.DONE: [transcripts.message_start(), transcripts.message_end()],
}


def _turn(state: State) -> Turn:
    turn = Turn()
    for event in REACHED[state]:
        turn.feed(events.decode_event(json.dumps(event).encode()))
    assert turn.state is state
    return turn


def _memory(turn: Turn) -> dict[str, Any]:
    return copy.deepcopy({name: value for name, value in vars(turn).items() if name != "_handlers"})


@pytest.mark.parametrize("kind", events.KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
@settings(property_of(), max_examples=20 if LONG else 6)
@given(data=st.data())
def test_l3_totality(state: State, kind: type, data: st.DataObject) -> None:
    tag = transcripts.tag_of(kind)
    created = data.draw(st.one_of(st.just({"type": tag}), transcripts.event_of(tag, 7)))
    turn = _turn(state)
    before = _memory(turn)
    following = TRANSITIONS[state].get(kind)
    try:
        turn.feed(events.decode_event(json.dumps(created).encode()))
    except UpstreamProtocolError:
        # What does not fit the table: a call without a name, and a piece of another call than the open one.
        foreign = tag in ("tool-call-delta", "tool-call-end") and created.get("index") not in (None, 0)
        assert following is None or created == {"type": "tool-call-start"} or foreign, "legal by the table"
        assert _memory(turn) == before, "a refused event leaves no trace"
    else:
        assert following is not None, "illegal by the table"
        assert turn.state is following


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_l3_an_unknown_event_says_nothing(state: State) -> None:
    turn = _turn(state)
    before = _memory(turn)
    assert turn.feed(events.Unknown("debug")) == []
    assert _memory(turn) == before


def test_l3_every_state_is_reached_and_every_state_can_end() -> None:
    assert set(REACHED) == set(STATES) == set(TRANSITIONS)
    for rows in TRANSITIONS.values():
        assert set(rows) <= set(events.KINDS)
        assert rows[events.MessageEnd] is State.DONE


@property_of(600)
@given(st.lists(malformed.broken_events(), max_size=5), st.sampled_from(STATES))
@example([b"\xff"], State.BETWEEN)
@example([b'"message-end"'], State.BETWEEN)
@example([b"[" * 100_000], State.BETWEEN)
@example([b'{"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"\\ud800"}}}}'], State.BETWEEN)
@example([b'{"type":"message-end","delta":{"usage":{"tokens":{"input_tokens":1e300}}}}'], State.BETWEEN)
@example([b'{"type":5}'], State.IDLE)
@example([b"{}"], State.IDLE)
def test_l3_broken_data_raises_one_thing_only(data: list[bytes], state: State) -> None:
    stream = transcripts.call(transcripts.REQUEST).stream()
    documents: list[bytes] = []
    for one in [*_encoded(REACHED[state]), *data]:
        try:
            documents += stream.feed(one)
        except UpstreamProtocolError as error:
            documents += stream.end(error.failure)
            break
    documents += stream.end(CUT)
    assert stream.finished
    for document in documents:
        json.loads(document)


@property_of(300)
@given(malformed.JUNK, transcripts.answers(), st.sampled_from(["id", "message", "finish_reason", "usage", "logprobs"]))
def test_l3_broken_answers_raise_one_family_only(junk: Any, created: list[Event], key: str) -> None:
    translation = transcripts.call({**transcripts.REQUEST, "stream": False, "stream_options": None})
    for answer in ({**transcripts.whole(created), key: junk}, junk):
        try:
            assert transcripts.answered(translation, answer)["object"] == "chat.completion"
        except TranslationError as error:
            assert error.failure.status in (502, 504)


# --- L4: a stream that is cut anywhere ends properly --------------------------------------------------------


def _ends_cleanly(data: list[bytes]) -> None:
    for count in range(len(data) + 1):
        stream = transcripts.call(transcripts.REQUEST).stream()
        documents: list[bytes] = []
        failure = CUT
        for one in data[:count]:
            try:
                documents += stream.feed(one)
            except UpstreamProtocolError as error:
                failure = error.failure
                break
        finished, failed = stream.finished, stream.failure
        last = list(stream.end(failure))
        errors = [document for document in documents + last if "error" in json.loads(document)]
        if finished:
            assert last == [] and len(errors) == (1 if failed else 0)
        else:
            assert len(errors) == 1 and errors[0] == last[-1], "exactly one error, and it comes last"
            body = json.loads(last[-1])["error"]
            assert (body["message"], body["code"]) == (failure.message, failure.code)
            assert stream.failure == failure
        assert stream.finished and stream.done(0)
        if not stream.failure:
            assert any(json.loads(one)["choices"] and _finish(one) for one in documents)
        assert list(stream.end(CUT)) == [], "to end twice is to end once"
        for one in data[count:]:
            try:
                assert list(stream.feed(one)) == [], "after the end there is nothing"
            except UpstreamProtocolError:
                pass  # what cannot be read is still said to be so
        assert stream.failure == (failed or (None if finished else failure))


def _finish(document: bytes) -> Any:
    return json.loads(document)["choices"][0]["finish_reason"]


@each_transcript
def test_l4_clean_end(transcript: Transcript) -> None:
    data = _decoded([transcript.raw])
    _ends_cleanly(data if len(data) < 60 else [*data[:25], *data[-25:]])


@property_of(200)
@given(transcripts.walks())
def test_l4_clean_end_of_any_walk(created: list[Event]) -> None:
    _ends_cleanly(_encoded(created))


# --- L5: the same in, the same out --------------------------------------------------------------------------


@each_transcript
def test_l5_determinism(transcript: Transcript) -> None:
    data = _decoded([transcript.raw])

    def result() -> list[bytes]:
        stream = transcripts.call(transcript.request).stream()
        documents: list[bytes] = []
        for one in data:
            try:
                documents += stream.feed(one)
            except UpstreamProtocolError as error:
                documents += stream.end(error.failure)
        return documents + list(stream.end(CUT))

    assert result() == result()


@each_transcript
def test_l5_a_call_can_be_translated_twice(transcript: Transcript) -> None:
    """Nothing of one answer is left in the call that the next would find: Cohere may be asked again."""
    call = transcripts.call(transcript.request)
    data = _decoded([transcript.raw])
    first, second = call.stream(), call.stream()
    for one in data:
        results = []
        for stream in (first, second):
            try:
                results.append(list(stream.feed(one)))
            except UpstreamProtocolError as error:
                results.append(list(stream.end(error.failure)))
        assert results[0] == results[1]
