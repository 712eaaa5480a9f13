"""`translators/answer/transforms.py`: what is taken off or restored, in whatever pieces the text comes."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.cohere.chat import Citation
from support.transcripts import property_of
from translators.answer.decoder import AnswerTransform
from translators.answer.events import AnswerEvent, Cited, Closed, Delta, Failed, Finished, Kind, Opened
from translators.answer.transforms import (
    AnswerFromToolCall,
    HideReasoning,
    LimitToolCalls,
    OnlyTools,
    RequireToolCall,
    RestoreCallIds,
    RestoreToolNames,
    StripCodeFence,
    UnwrapValue,
    ValidateSchema,
)
from translators.core.tool_names import ToolNames


def texts_of(rewrite: AnswerTransform, steps: Sequence[AnswerEvent]) -> list[AnswerEvent]:
    return [visible for step in steps for visible in rewrite(step)]


def text_item(pieces: Sequence[str], item: int = 0) -> list[AnswerEvent]:
    deltas = [Delta(item, Kind.TEXT, piece) for piece in pieces]
    return [Opened(item, Kind.TEXT), *deltas, Closed(item, Kind.TEXT, "".join(pieces))]


def visible(rewrite: AnswerTransform, pieces: Sequence[str]) -> str:
    """The text that is told, which its deltas and its closing must agree on."""
    steps = texts_of(rewrite, text_item(pieces))
    joined = "".join(step.text for step in steps if isinstance(step, Delta))
    (closed,) = (step.text for step in steps if isinstance(step, Closed))
    assert joined == closed
    return joined


def call(item: int, name: str, arguments: str = "{}") -> list[AnswerEvent]:
    opened = Opened(item, Kind.CALL, f"id_{item}", name)
    return [opened, Delta(item, Kind.CALL, arguments), Closed(item, Kind.CALL, arguments)]


FENCES = [
    ("no fence", '{"a": 1}', '{"a": 1}'),
    ("a fence", '```json\n{"a": 1}\n```', '{"a": 1}'),
    ("a fence without a language", "```\n[1]\n```\n", "[1]"),
    ("white space around it", '  \n```json\n{"a": 1}\n  ```  ', '{"a": 1}'),
    ("ticks inside", '{"a": "```"}', '{"a": "```"}'),
    ("ticks inside a fence", '```json\n{"a": "``` "}\n```', '{"a": "``` "}'),
    ("prose", "Here you are: 5", "Here you are: 5"),
    ("an end that was cut off", '```json\n{"a": ', '{"a":'),
    ("nothing", "", ""),
    ("one tick", "`", "`"),
]

WRAPPERS = [
    ("an array", '{"value": [1, {"a": "}"}]}', '[1, {"a": "}"}]'),
    ("white space", ' { "value" :\n [1] \n } ', "[1]"),
    ("a string that ends in a brace", '{"value":"}"}', '"}"'),
    ("an object", '{"value":{"a":{}}}', '{"a":{}}'),
    ("no wrapper", '{"values": 1}', '{"values": 1}'),
    ("no JSON", "It rains.", "It rains."),
    ("cut off", '{"value": [1, 2', "[1, 2"),
    ("nothing", "", ""),
]


@pytest.mark.parametrize(("value", "wanted"), [row[1:] for row in FENCES], ids=[row[0] for row in FENCES])
def test_a_fence_is_taken_off_however_it_comes(value: str, wanted: str) -> None:
    assert visible(StripCodeFence(), [value]) == wanted
    assert visible(StripCodeFence(), list(value)) == wanted
    for cut in range(len(value) + 1):
        assert visible(StripCodeFence(), [value[:cut], value[cut:]]) == wanted


@pytest.mark.parametrize(("value", "wanted"), [row[1:] for row in WRAPPERS], ids=[row[0] for row in WRAPPERS])
def test_a_wrapper_is_taken_off_however_it_comes(value: str, wanted: str) -> None:
    assert visible(UnwrapValue(), [value]) == wanted
    assert visible(UnwrapValue(), list(value)) == wanted
    for cut in range(len(value) + 1):
        assert visible(UnwrapValue(), [value[:cut], value[cut:]]) == wanted


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@property_of(300)
@given(JSON, st.data(), st.sampled_from([None, 1]))
def test_any_value_comes_out_of_its_wrapper(value: object, data: st.DataObject, indent: int | None) -> None:
    written = json.dumps({"value": value}, indent=indent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(written)), max_size=6)))
    pieces = [written[start:end] for start, end in zip([0, *cuts], [*cuts, len(written)], strict=True)]
    assert json.loads(visible(UnwrapValue(), pieces)) == value
    fenced = f"```json\n{written}\n```"
    assert json.loads(visible(StripCodeFence(), list(fenced))) == {"value": value}


def test_one_call_is_passed_on() -> None:
    steps = texts_of(LimitToolCalls(1), [*call(0, "f"), *call(1, "g"), Finished("TOOL_CALL", None)])
    assert steps == [*call(0, "f"), Finished("TOOL_CALL", None)]
    assert texts_of(LimitToolCalls(0), call(0, "f")) == []


def test_names_come_back() -> None:
    (opened, *_) = texts_of(RestoreToolNames(ToolNames(["a.b"])), call(0, "a_b"))
    assert isinstance(opened, Opened) and opened.name == "a.b"


@pytest.mark.parametrize(
    ("name", "restored"),
    [("call_0_2", "call_0"), ("call_0_2:0", "call_0:0"), ("call_0", "call_0"), ("doc:1", "doc:1"), (None, None)]
    # Ids of calls with a colon of their own, as some models make them.
    + [("f:0_2", "f:0"), ("f:0_2:1", "f:0:1"), ("f:0", "f:0")],
)
def test_citations_name_calls_as_the_caller_did(name: str | None, restored: str | None) -> None:
    citation = Citation(0, 4, "snow", [{"type": "tool", "id": name, "tool_output": {"a": 1}}])
    (event,) = texts_of(RestoreCallIds({"call_0_2": "call_0", "f:0_2": "f:0"}), [Cited(0, Kind.TEXT, 0, 4, citation)])
    assert isinstance(event, Cited) and event.citation.sources == [
        {"type": "tool", "id": restored, "tool_output": {"a": 1}}
    ]


def test_a_tool_that_may_not_be_called_fails_the_answer() -> None:
    (failed, *_) = texts_of(OnlyTools({"f"}), call(0, "g"))
    assert isinstance(failed, Failed) and failed.failure.second_attempt
    assert texts_of(OnlyTools({"f"}), call(0, "f")) == call(0, "f")


@pytest.mark.parametrize(
    ("reason", "items", "misses"),
    [
        ("COMPLETE", text_item(["Hi"]), True),
        ("STOP_SEQUENCE", text_item(["Hi"]), True),
        ("MAX_TOKENS", text_item(["Hi"]), False),
        ("COMPLETE", [*text_item(["Hi"]), *call(1, "f")], False),
        ("TOOL_CALL", call(0, "f"), False),
    ],
)
def test_a_call_can_be_required(reason: str, items: list[AnswerEvent], misses: bool) -> None:
    finished = Finished(reason, None)
    (*before, last) = texts_of(RequireToolCall(None), [*items, finished])
    assert before == items
    assert isinstance(last, Failed) and last.failure.second_attempt if misses else last == finished
    missed: list[bool] = []
    assert texts_of(RequireToolCall(lambda: missed.append(True)), [*items, finished]) == [*items, finished]
    assert missed == [True] * misses


def test_thoughts_can_be_hidden() -> None:
    thought: list[AnswerEvent] = [
        Opened(0, Kind.THINKING),
        Delta(0, Kind.THINKING, "hm"),
        Closed(0, Kind.THINKING, "hm"),
    ]
    assert texts_of(HideReasoning(), [*thought, *text_item(["a"], 1)]) == text_item(["a"], 1)


def test_the_answers_tool_is_the_answer() -> None:
    steps = texts_of(AnswerFromToolCall("give"), [*call(0, "f"), *call(1, "give", '{"a":1}')])
    assert steps == [*call(0, "f"), *text_item(['{"a":1}'], 1)]
    twice = texts_of(AnswerFromToolCall("give"), [*call(0, "give", '{"a":1}'), *call(1, "give", '{"a":2}')])
    assert twice == text_item(['{"a":1}'], 0), "two answers in a row would be none"


@pytest.mark.parametrize(
    ("reason", "items", "fails"),
    [
        ("COMPLETE", text_item(["bad"]), True),
        ("COMPLETE", text_item(["good"]), False),
        ("STOP_SEQUENCE", text_item(["bad"]), True),
        ("MAX_TOKENS", text_item(["bad"]), False),
        ("TOOL_CALL", call(0, "f"), False),
        ("COMPLETE", [], True),
        ("COMPLETE", [Closed(0, Kind.THINKING, "bad"), *text_item(["good"], 1)], False),
        ("COMPLETE", [*call(0, "f"), *text_item(["bad"], 1)], False),
    ],
)
def test_a_finished_text_is_checked(reason: str, items: list[AnswerEvent], fails: bool) -> None:
    def complaint(text: str) -> str:
        return "" if text == "good" else "it is bad"

    last = texts_of(ValidateSchema(complaint), [*items, Finished(reason, None)])[-1]
    assert isinstance(last, Failed) is fails
