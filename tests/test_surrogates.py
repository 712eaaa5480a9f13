"""Halves of surrogate pairs in JSON texts, against the parser of the standard library, which accepts them."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http import body
from translators.core import surrogates

# Pieces of a JSON text that meet in every order: pairs, their halves, what only looks like one, and other escapes.
PARTS = (
    *(r"\ud83d", r"\ude00", r"\uD83D", r"\uDE00", r"\udbff\udfff"),
    *(r"\ud7ff", r"\ue000", r"\\", r"\"", r"\n", "ud83d", "x", "twelve bytes"),
)
TEXTS = st.lists(st.sampled_from(PARTS), max_size=40).map(lambda parts: f'"{"".join(parts)}"'.encode())


def _without_halves(text: bytes) -> str:
    """What a JSON text says, with each half of a pair replaced."""
    return re.sub("[\ud800-\udfff]", "\ufffd", json.loads(text))


@given(TEXTS)
def test_each_half_is_replaced_and_nothing_else(text: bytes) -> None:
    assert json.loads(surrogates.replace_halves(text)) == _without_halves(text)


@pytest.fixture(scope="module")
def small_steps() -> object:
    """Steps that end inside of escapes, pairs, and rows of backslashes."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (surrogates, body):
            patch.setattr(module, "STEP_BYTES", 13)
        yield


@pytest.mark.usefixtures("small_steps")
@given(TEXTS)
def test_wherever_a_step_ends(text: bytes) -> None:
    assert json.loads(surrogates.replace_halves(text)) == _without_halves(text)
    assert json.loads(asyncio.run(body.replace_halves(text))) == _without_halves(text)


@pytest.mark.parametrize("text", [b'"\\ud83d\\ude00"', b'"\\\\ud83d"', b'"text"', b'"\\ud83d\\ude00' + b"x" * 100_000])
def test_a_text_without_halves_is_the_same_object(text: bytes) -> None:
    assert surrogates.replace_halves(text) == text
    assert asyncio.run(body.replace_halves(text)) is text


@pytest.mark.parametrize("data", [b'"\xff\\ud83d"', b'"\xff\xff\\ud83d\\\\"'])
def test_what_is_no_json_does_not_become_json(data: bytes) -> None:
    assert surrogates.replace_halves(data) == data


@pytest.mark.parametrize("text", [b"\\ud83d" * 20_000, b"\\ud83d\\ude00" * 10_000, b"\\\\" * 50_000 + b"\\ud83d"])
def test_steps_are_bounded(text: bytes) -> None:
    pieces = list(surrogates.pieces(text))
    assert b"".join(pieces) == text and max(map(len, pieces)) <= surrogates.STEP_BYTES
