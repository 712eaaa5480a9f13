"""Citations: found in the text whatever their offsets count, and told as annotations."""

from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from schemas.cohere.chat import Citation
from support.transcripts import property_of
from translators.answer.annotations import annotations, citation_note
from translators.answer.citations import clamp, locate
from translators.answer.events import Cited, Kind


def citation(start: int | None, end: int | None, text: str | None, **more: Any) -> Citation:
    return Citation(start, end, text, **more)


LOCATED: tuple[tuple[str, str, Citation, tuple[int, int] | None], ...] = (
    ("as stated", "It is sunny.", citation(6, 11, "sunny"), (6, 11)),
    ("beyond ASCII", "It is 24°C now", citation(6, 10, "24°C"), (6, 10)),
    ("code points beyond the BMP", "😀 sunny", citation(2, 7, "sunny"), (2, 7)),
    ("UTF-16 units beyond the BMP", "😀 sunny", citation(3, 8, "sunny"), (2, 7)),
    ("UTF-16 units around the words", "a 😀 b", citation(2, 4, "😀"), (2, 3)),
    ("offsets that are off", "It is sunny.", citation(8, 13, "sunny"), (6, 11)),
    ("offsets that are far off", "sunny" + " " * 200 + "x", citation(150, 155, "sunny"), None),
    ("words that are not there", "It rains.", citation(0, 5, "sunny"), None),
    ("a text that is too short yet", "It is", citation(6, 11, "sunny"), None),
    ("no words", "It is sunny.", citation(6, 11, None), (6, 11)),
    ("no words and too far", "It", citation(6, 11, ""), None),
    ("no offsets", "It is sunny.", citation(None, None, "sunny"), (6, 11)),
    ("nothing", "It", citation(None, None, None), (0, 0)),
    ("the second of two", "a a", citation(2, 3, "a"), (2, 3)),
    ("an end before its start", "It is sunny.", citation(11, 6, None), None),
)


@pytest.mark.parametrize(("text", "value", "expected"), [row[1:] for row in LOCATED], ids=[row[0] for row in LOCATED])
def test_c81_locate(text: str, value: Citation, expected: tuple[int, int] | None) -> None:
    assert locate(value, text, final=True) == expected


def test_while_the_text_is_being_written_words_are_not_looked_for_elsewhere() -> None:
    assert locate(citation(7, 12, "Sunny"), "Sunny, ", final=False) is None
    assert locate(citation(0, 5, "Sunny"), "Sunny, ", final=False) == (0, 5)
    assert locate(citation(3, 8, "sunny"), "😀 sunny", final=False) == (2, 7)


@property_of(500)
@given(st.text(max_size=12), st.integers(0, 20), st.integers(0, 20), st.one_of(st.none(), st.text(max_size=4)))
def test_what_is_found_is_in_the_text(text: str, start: int, end: int, words: str | None) -> None:
    value = citation(start, end, words)
    result = locate(value, text, final=True)
    if result is not None:
        assert 0 <= result[0] <= result[1] <= len(text)
        assert not words or text[result[0] : result[1]] == words
    low, high = clamp(value, text)
    assert 0 <= low <= high <= len(text)


def test_offsets_below_zero() -> None:
    assert locate(citation(-5, -2, "bcd"), "abcdef", final=True) == (1, 4)


@property_of(300)
@given(st.text(min_size=1, max_size=10), st.data())
def test_both_ways_to_count_are_understood(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    units = [len(text[:position].encode("utf-16-le", "surrogatepass")) // 2 for position in (start, end)]
    words = text[start:end]
    assert locate(citation(start, end, words), text, final=False) == (start, end)
    result = locate(citation(units[0], units[1], words), text, final=False)
    assert result is not None and text[result[0] : result[1]] == words


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(-3, 2, (0, 2)), (3, 99, (3, 5)), (9, 99, (5, 5)), (4, 2, (4, 4)), (None, None, (0, 0))],
)
def test_clamp(start: int | None, end: int | None, expected: tuple[int, int]) -> None:
    assert clamp(citation(start, end, "x"), "12345") == expected


# --- annotations --------------------------------------------------------------------------------------------


def cited(*sources: dict[str, Any], kind: Kind = Kind.TEXT) -> Cited:
    return Cited(0, kind, 6, 11, citation(6, 11, "sunny", sources=list(sources)))


def annotated(*sources: dict[str, Any], base: int = 0) -> list[Any]:
    result: list[Any] = msgspec.to_builtins(annotations(cited(*sources), base))
    return result


def document(**data: Any) -> dict[str, Any]:
    return {"type": "document", "id": "d1", "document": {"id": "d1", **data}}


@pytest.mark.parametrize(
    ("source", "url", "title"),
    [
        (document(url="https://x", title="T"), "https://x", "T"),
        (document(url="https://x"), "https://x", "d1"),
        (document(link="https://x", name="N"), "https://x", "N"),
        (document(uri="https://x", title=5), "https://x", "d1"),
        ({"type": "tool", "id": "f:0", "tool_output": {"url": "https://x"}}, "https://x", "f:0"),
        ({"document": {"url": "https://x"}}, "https://x", "https://x"),
    ],
    ids=str,
)
def test_c80_a_source_with_an_address(source: dict[str, Any], url: str, title: str) -> None:
    (annotation,) = annotated(source)
    assert annotation == {
        "type": "url_citation",
        "url_citation": {"url": url, "title": title, "start_index": 6, "end_index": 11},
    }


@pytest.mark.parametrize(
    "source",
    [
        document(title="T"),
        document(url=5),
        document(url=""),
        {"type": "document", "id": "d1"},
        {"type": "document", "document": None},
        {"type": "document", "document": "text"},
        {"type": "tool", "id": "f:0", "tool_output": {"content": "Sunny"}},
        {"type": "tool", "id": "f:0", "tool_output": "Sunny"},
        {"type": "new"},
        {},
    ],
    ids=str,
)
def test_b34_b35_a_source_without_one_makes_no_annotation_and_is_preserved(source: dict[str, Any]) -> None:
    """No `source:<id>` is ever made up; the extension keeps the source as it is."""
    assert annotated(source) == []
    assert citation_note(cited(source), 0).sources == [source]


def test_one_annotation_a_source_in_order_and_rebased() -> None:
    result = annotated(document(url="https://a"), document(), document(url="https://b"), base=10)
    assert [one["url_citation"]["url"] for one in result] == ["https://a", "https://b"]
    assert {(one["url_citation"]["start_index"], one["url_citation"]["end_index"]) for one in result} == {(16, 21)}


@pytest.mark.parametrize("kind", [Kind.THINKING, Kind.PLAN])
def test_c83_thoughts_are_not_annotated(kind: Kind) -> None:
    source = document(url="https://a")
    assert annotations(cited(source, kind=kind), 0) == []
    assert citation_note(cited(source, kind=kind), 3).start == 9


def test_a_citation_without_anything_is_noted_with_nothing() -> None:
    empty = citation_note(Cited(0, Kind.TEXT, 0, 0, Citation()), 0)
    assert (empty.text, empty.sources, empty.type) == ("", [], "TEXT_CONTENT")
