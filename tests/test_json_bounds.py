"""The bounds of a request's JSON: what is counted, and where exactly each bound lies."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import CallerError
from gateway.http import json_bounds
from gateway.settings.schema import Settings


def refused(body: bytes, keys: int, values: int, *, pieces: int = 1) -> str:
    """What the refusal says, empty where there is none. pieces: in which the body comes."""
    settings = Settings(max_json_keys=keys, max_json_values=values)
    cut = -(-len(body) // pieces)
    blocks = [body[start : start + cut] for start in range(0, len(body), cut)]
    try:
        asyncio.run(json_bounds.refuse_large(blocks, settings))
    except CallerError as error:
        return error.failure.message
    return ""


def an_object(keys: int) -> bytes:
    return b"{" + b",".join(b'"k%d":0' % number for number in range(keys)) + b"}"


def an_array(values: int) -> bytes:
    return b"[" + b",".join([b"0"] * values) + b"]"


@pytest.mark.parametrize("pieces", [1, 3])
def test_keys_are_bounded(pieces: int) -> None:
    assert not refused(an_object(20), 20, 1000, pieces=pieces)
    assert "more than 20 keys (the setting max_json_keys)" in refused(an_object(21), 20, 1000, pieces=pieces)


@pytest.mark.parametrize("pieces", [1, 3])
def test_values_are_bounded(pieces: int) -> None:
    assert not refused(an_array(20), 1000, 20, pieces=pieces)
    assert "more than 20 values (the setting max_json_values)" in refused(an_array(21), 1000, 20, pieces=pieces)


@pytest.mark.parametrize(("keys", "values"), [(1000, 10), (10, 1000)])
def test_one_bound_alone_is_enough(keys: int, values: int) -> None:
    body = an_object(20)
    assert len(body) < 1000
    assert refused(body, keys, values)


def test_escaped_characters_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_bounds, "MAX_ESCAPES", 10)
    assert not refused(b'"' + b"\\n" * 10 + b'"', 5, 5)
    assert "more than 10 escaped characters" in refused(b'"' + b"\\n" * 11 + b'"', 5, 5)


def test_marks_inside_texts_do_not_count() -> None:
    assert not refused(b"[" + b"0," * 19 + b'",,,[[[{{{\\",,,"]', 1000, 20)
    assert not refused(b'{"text":",,,[[[{{{",' + an_object(19)[1:], 20, 1000)


def test_keys_of_quoted_json_do_not_count() -> None:
    assert not refused(b'["' + b'{\\"k\\":0}' * 30 + b'"]', 20, 1000)
