"""Server-sent events read and written: the standard's examples, damage, limits, and any bytes at all."""

from __future__ import annotations

import json
import time

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from gateway.http import sse
from support.transcripts import property_of


def decoded(*pieces: bytes) -> list[bytes]:
    decoder = sse.Decoder()
    return [data for piece in pieces for data in decoder.feed(piece)] + decoder.end()


# name, stream, events. The first are the examples of the WHATWG text (9.2.6).
READ: tuple[tuple[str, bytes, list[bytes]], ...] = (
    ("stock", b"data: YHOO\ndata: +2\ndata: 10\n\n", [b"YHOO\n+2\n10"]),
    (
        "four",
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
        [b"first event", b"second event", b" third event"],
    ),
    ("space", b"data:test\n\ndata: test\n\n", [b"test", b"test"]),
    ("named", b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\n", [b"73857293", b"2153"]),
    ("one space is taken", b"data:  two\n\n", [b" two"]),
    ("empty data is no event", b"data:\n\n", []),
    ("empty data among data", b"data: a\ndata:\ndata: b\n\n", [b"a\n\nb"]),
    ("comments", b":\n: keep-alive\ndata: a\n:in between\ndata: b\n\n:\n\n", [b"a\nb"]),
    ("other fields", b"id: 1\nretry: 10\nevent: x\nfoo: bar\ndata: a\n\n", [b"a"]),
    ("an event without data", b"event: ping\n\ndata: a\n\n", [b"a"]),
    ("many blank lines", b"\n\n\ndata: a\n\n\n\ndata: b\n\n", [b"a", b"b"]),
    ("byte order mark", b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
    ("a mark is one only at the start", b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [b"a"]),
    ("CRLF", b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    ("CR", b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
    ("CRLF inside an event", b"data: a\r\ndata: b\r\n\r\n", [b"a\nb"]),
    ("CR inside an event", b"data: a\rdata: b\r\r", [b"a\nb"]),
    ("other white space is data", b"data:\ta \n\ndata: b \t\n\n", [b"\ta ", b"b \t"]),
    ("mixed", b"data: a\r\n\ndata: b\n\r\ndata: c\r\r\ndata: d\r\n\r", [b"a", b"b", b"c", b"d"]),
    ("CR LF LF is a blank line", b"data: a\r\n\ndata: b\n\n", [b"a", b"b"]),
    ("colon in data", b"data: a:b: c\n\n", [b"a:b: c"]),
    ("case counts", b"Data: a\nDATA: b\n\n", []),
    ("a field with a space before it", b" data: a\n\n", []),
    ("the end without a blank line", b"data: a\n\ndata: b", [b"a", b"b"]),
    ("the end without anything", b"", []),
    ("the end in a comment", b"data: a\n\n: by", [b"a"]),
    ("done", b"data: [DONE]\n\n", [b"[DONE]"]),
    ("NUL and other bytes", b"data: \x00\xff\xfe\n\n", [b"\x00\xff\xfe"]),
    ("lines of JSON", b'{"type":"a"}\n{"type":"b"}\n', [b'{"type":"a"}', b'{"type":"b"}']),
    ("lines of JSON with CRLF and blanks", b'{"a":1}\r\n\r\n{"b":2}', [b'{"a":1}', b'{"b":2}']),
    ("a brace inside an event is no event", b'data: {\n{"a":1}\ndata: }\n\n', [b"{\n}"]),
)


@pytest.mark.parametrize(("raw", "events"), [row[1:] for row in READ], ids=[row[0] for row in READ])
def test_read(raw: bytes, events: list[bytes]) -> None:
    assert decoded(raw) == events
    assert decoded(*(raw[position : position + 1] for position in range(len(raw)))) == events
    for position in range(len(raw)):
        assert decoded(raw[:position], raw[position:]) == events
        assert decoded(raw[:position], b"", raw[position:], b"") == events, "an empty read says nothing"


def test_data_without_a_colon_is_an_empty_line_of_data() -> None:
    assert decoded(b"data: a\ndata\ndata: b\n\n") == [b"a\n\nb"]


def test_events_come_as_soon_as_they_are_complete() -> None:
    decoder = sse.Decoder()
    assert decoder.feed(b"data: a\n") == []
    assert decoder.feed(b"\nda") == [b"a"]
    assert decoder.feed(b"ta: b\r") == []
    assert decoder.feed(b"\r") == [b"b"], "a lone CR ends the line at once"
    assert decoder.feed(b"\ndata: c") == [], "the LF belongs to that CR"
    assert decoder.end() == [b"c"]
    assert decoder.end() == [], "to end twice is to end once"


# --- the limit ----------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sse, "LARGEST_EVENT", 64)
    return 64


def test_the_limit_is_generous() -> None:
    assert sse.LARGEST_EVENT >= 1024 * 1024


@pytest.mark.parametrize(
    "raw",
    [
        b"data: " + b"a" * 80 + b"\n\n",
        b"data: " + b"a" * 80,
        b"data: aaaaaaaaaa\n" * 10 + b"\n",
        b"data:" + b"a" * 80 + b"\n\n",
    ],
    ids=["one line", "an unfinished line", "many lines", "without a space"],
)
@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_an_event_that_is_too_large(small: int, raw: bytes, size: int) -> None:
    with pytest.raises(sse.EventTooLarge):
        decoded(*(raw[position : position + size] for position in range(0, len(raw), size)))


def test_many_small_events_are_no_large_one(small: int) -> None:
    assert decoded(b"data: aaaaaaaaaa\n\n" * 100) == [b"aaaaaaaaaa"] * 100
    assert decoded(b"data: aaaaaaaaaa\n\n" * 50 + b": comment\n" * 50 + b"data: b\n\n") == [b"aaaaaaaaaa"] * 50 + [b"b"]


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_a_line_of_json_that_is_too_large(small: int, size: int) -> None:
    raw = b'{"a":"' + b"a" * 80 + b'"}\n'
    with pytest.raises(sse.EventTooLarge):
        decoded(*(raw[position : position + size] for position in range(0, len(raw), size)))


# --- any bytes ----------------------------------------------------------------------------------------------

_ALPHABET = st.sampled_from(
    [b"data", b"data:", b"data: ", b"\n", b"\r", b"\r\n", b"\n\n", b":", b" ", b"{", b"}", b"\xef\xbb\xbf", b"\xef"]
    + [b"a", b"[DONE]", b"event: x", b"\x00", b"\xff", "é".encode(), "😀".encode()]
)
_STREAMS = st.lists(st.one_of(_ALPHABET, st.binary(max_size=3)), max_size=25).map(b"".join)


@property_of(1_000)
@given(_STREAMS, st.lists(st.integers(0, 60), max_size=5))
@example(b"\xef\xbb", [1])
@example(b"\xef\xbb\xbf", [1, 2])
@example(b"data: a\r\n\r\ndata: b\r\n\r\n", [8, 9, 10])
@example(b"\r\r\n\n\r", [1, 2, 3])
def test_any_bytes_in_any_pieces(raw: bytes, positions: list[int]) -> None:
    cuts = sorted({0, *(min(position, len(raw)) for position in positions), len(raw)})
    pieces = [raw[start:end] for start, end in zip(cuts, cuts[1:], strict=False)]
    result = decoded(raw)
    assert decoded(*pieces) == result
    assert all(data for data in result), "no event is empty"
    assert sum(map(len, result)) <= len(raw), "nothing is made up"


@property_of(300)
@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=5), max_size=2), max_size=5))
def test_what_is_written_is_read_again(documents: list[dict[str, str]]) -> None:
    encoded = [json.dumps(document, ensure_ascii=False).encode() for document in documents]
    assert decoded(sse.encode(encoded)) == encoded


def test_the_form_of_what_is_written() -> None:
    assert sse.encode([]) == b""
    assert sse.encode([b"{}"]) == b"data: {}\n\n"
    assert sse.encode([b"{}", b"[]"]) == b"data: {}\n\ndata: []\n\n"
    assert sse.DONE == b"data: [DONE]\n\n"


def test_a_long_line_in_small_pieces_takes_linear_time() -> None:
    decoder, piece = sse.Decoder(), b"x" * 512
    began = time.thread_time()
    decoder.feed(b"data: ")
    for _ in range(16_000):
        assert not decoder.feed(piece)
    (event,) = decoder.feed(b"\n\n")
    # It takes 30 ms. To copy the line with each piece takes more than ten seconds.
    assert len(event) == 16_000 * 512 and time.thread_time() - began < 2
