"""Notes: each sentence once, a header that no name can break, and strict mode."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from support.transcripts import property_of
from translators.core.errors import InvalidField
from translators.core.notes import HEADER_LIMIT, Kind, Note, Notes


def test_the_three_kinds_and_notes_without_one() -> None:
    notes = Notes()
    notes.ignored("logit_bias")
    notes.ignored("user", "nobody reads it")
    notes.adjusted("temperature", 1.4, 1.0)
    notes.emulated("n", "two calls")
    notes.inform("model", "model a -> b")
    assert list(notes) == [
        Note(Kind.IGNORED, "logit_bias", "logit_bias ignored"),
        Note(Kind.IGNORED, "user", "user ignored (nobody reads it)"),
        Note(Kind.ADJUSTED, "temperature", "temperature adjusted 1.4 -> 1.0"),
        Note(Kind.EMULATED, "n", "n emulated (two calls)"),
        Note(Kind.NOTED, "model", "model a -> b"),
    ]
    assert len(notes) == 5
    assert notes.header() == (
        "logit_bias ignored; user ignored (nobody reads it); temperature adjusted 1.4 -> 1.0;"
        " n emulated (two calls); model a -> b"
    )


def test_the_header_of_the_contract() -> None:
    """The example of docs/errors-and-notes.md, word for word."""
    notes = Notes()
    notes.adjusted("temperature", 1.4, 1.0)
    notes.ignored("logit_bias")
    notes.inform("model", "model command-r-plus -> command-r-plus-08-2024")
    assert notes.header() == (
        "temperature adjusted 1.4 -> 1.0; logit_bias ignored; model command-r-plus -> command-r-plus-08-2024"
    )


def test_each_sentence_once() -> None:
    notes = Notes()
    for position in range(3):
        notes.ignored("messages[].name", "not known to Cohere", f"messages[{position}].name")
    assert [note.field for note in notes] == ["messages[0].name"] and len(notes) == 1


def test_nothing_is_an_empty_header() -> None:
    assert Notes().header() == "" and len(Notes()) == 0


def test_strict_mode_refuses_what_is_ignored_or_adjusted_and_nothing_else() -> None:
    notes = Notes(strict=True)
    notes.emulated("n", "two calls")
    notes.inform("model", "model a -> b")
    assert len(notes) == 2
    with pytest.raises(InvalidField, match="x-gateway-strict") as caught:
        notes.ignored("messages[].name", "", "messages[4].name")
    assert caught.value.failure.param == "messages[4].name" and caught.value.failure.code == "unsupported_value"
    with pytest.raises(InvalidField) as caught:
        notes.adjusted("temperature", 2, 1)
    assert caught.value.failure.param == "temperature"


def test_a_long_value_is_cut() -> None:
    notes = Notes()
    notes.adjusted("stop", "x" * 200, "y")
    assert notes.header() == f"stop adjusted {'x' * 57}... -> y"


@pytest.mark.parametrize("count", [1, 5, 30, 60, 999, 2_000])
def test_a_long_header_says_how_many_more(count: int) -> None:
    notes = Notes()
    for number in range(count):
        notes.ignored(f"field_of_somebody_{number:04}")
    line = notes.header()
    assert len(line) <= HEADER_LIMIT
    visible = line.split("; ")
    if count <= 30:
        assert len(visible) == count
    else:
        assert visible[-1] == f"+{count - len(visible) + 1} more"


@pytest.mark.parametrize(
    ("name", "visible"),
    [
        ("naïve", r"na\xefve"),
        ("a\r\nset-cookie: x", r"a\r\nset-cookie: x"),
        ("天", r"\u5929"),
        ("😀", r"\U0001f600"),
        ("\x00", r"\x00"),
        ("\x7f", r"\x7f"),
        ("a b", "a b"),
    ],
)
def test_foreign_names_are_escaped(name: str, visible: str) -> None:
    notes = Notes()
    notes.ignored(name)
    assert notes.header() == f"{visible} ignored"


@property_of(300)
@given(st.lists(st.text(max_size=80), max_size=40))
def test_no_name_breaks_the_header(names: list[str]) -> None:
    notes = Notes()
    for name in names:
        notes.ignored(name)
    line = notes.header()
    assert len(line) <= HEADER_LIMIT and line.isascii()
    assert line.isprintable()
    assert bool(line) is bool(names)
