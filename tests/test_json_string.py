"""`translators/answer/json_string.py` and the transform that uses it: a custom tool's input, in whatever pieces."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.transcripts import property_of
from translators.answer.events import AnswerEvent, Closed, Delta, Kind, Opened
from translators.answer.json_string import JsonString
from translators.answer.transforms import UnwrapCustomInput

PATCH = '*** Begin Patch\n*** Add File: "a\\b".txt\n+\u00fc \U0001f600\ttab\n*** End Patch'


def unescaped(pieces: list[str]) -> str:
    string = JsonString()
    return "".join(map(string.feed, pieces)) + string.end()


def unwrapped(pieces: list[str], complete: bool = True) -> tuple[str, list[str]]:
    """The closed text, and the deltas, which must agree with it."""
    transform = UnwrapCustomInput({"patch"})
    events: list[AnswerEvent] = [Opened(0, Kind.CALL, "c", "patch")]
    events += [Delta(0, Kind.CALL, piece) for piece in pieces]
    events.append(Closed(0, Kind.CALL, "".join(pieces), complete))
    changed = [one for event in events for one in transform(event)]
    deltas = [event.text for event in changed if isinstance(event, Delta)]
    (closed,) = (event.text for event in changed if isinstance(event, Closed))
    assert "".join(deltas) == closed and "" not in deltas
    return closed, deltas


@property_of(300)
@given(st.text(), st.booleans(), st.lists(st.integers(0, 200), max_size=5))
def test_any_string_in_any_pieces(text: str, ascii_only: bool, cuts: list[int]) -> None:
    raw = json.dumps(text, ensure_ascii=ascii_only)[1:] + ' , "more": "x"}'
    positions = sorted({0, *(cut % (len(raw) + 1) for cut in cuts), len(raw)})
    pieces = [raw[start:end] for start, end in zip(positions, positions[1:], strict=False)]
    assert unescaped(pieces) == unescaped(list(raw)) == text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (r"\x and \' stay\"", "\\x and \\' stay\""),
        ("a\nraw line", "a\nraw line"),
        (r"\ud83d alone", "\ufffd alone"),
        (r"\ude00 alone", "\ufffd alone"),
        (r"\ud83d\u0041", "\ufffdA"),
        (r"cut \ud83d", "cut \ufffd"),
        (r"cut \ud83d\ud", "cut \ufffd"),
        ("cut \\", "cut "),
        (r"cut \u00f", "cut "),
        (r"\u00zz", r"\u00zz"),
    ],
)
def test_strings_that_json_would_refuse(raw: str, text: str) -> None:
    assert unescaped([raw]) == unescaped(list(raw)) == text


@pytest.mark.parametrize("ascii_only", [False, True])
def test_the_input_of_a_custom_tool_comes_as_it_is_written(ascii_only: bool) -> None:
    arguments = json.dumps({"input": PATCH}, ensure_ascii=ascii_only)
    assert unwrapped([arguments]) == (PATCH, [PATCH])
    closed, deltas = unwrapped(list(arguments))
    assert closed == PATCH and len(deltas) > len(PATCH) - 2
    for cut in range(len(arguments)):
        assert unwrapped([arguments[:cut], arguments[cut:]])[0] == PATCH


LOOSE = {
    "another name": ('{"patch": "x"}', "x"),
    "another name first": ('{"why": "y", "input": "x"}', "x"),
    "no text": ('{"input": 5}', '{"input": 5}'),
    "nothing": ("{}", ""),
    "a string": ('"x"', "x"),
    "no JSON": ("*** Begin Patch", "*** Begin Patch"),
    "white space": (' {\n "input" : "x" }', "x"),
    "null": ("null", ""),
}


@pytest.mark.parametrize("name", LOOSE)
def test_arguments_that_are_not_as_they_should_be(name: str) -> None:
    arguments, text = LOOSE[name]
    assert unwrapped([arguments])[0] == unwrapped(list(arguments))[0] == text


def test_arguments_that_were_cut() -> None:
    assert unwrapped(['{"input": "one\\ntw'], False)[0] == "one\ntw"
    assert unwrapped(['{"inp'], False)[0] == '{"inp'


def test_other_calls_are_left_alone() -> None:
    transform = UnwrapCustomInput({"patch"})
    event = Delta(1, Kind.CALL, '{"input": "x"}')
    assert [*transform(Opened(1, Kind.CALL, "c", "look")), *transform(event)] == [
        Opened(1, Kind.CALL, "c", "look"),
        event,
    ]
