"""Finish reasons and usage: two tables and what stands in when a part is missing."""

from __future__ import annotations

import json
import math
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from schemas.cohere.chat import Usage
from schemas.cohere.events import is_message_end
from support import transcripts
from support.transcripts import property_of
from translators.answer.usage import FINISH_REASONS, Counts, counts, finish_reason
from translators.core.contracts import UsageBase, UsageTotals

TOKENS, BILLED = UsageBase.TOKENS, UsageBase.BILLED


def usage(**parts: Any) -> Usage:
    return msgspec.convert(parts, Usage)


@pytest.mark.parametrize(
    ("reason", "calls", "meant", "native"),
    [
        ("COMPLETE", 0, "stop", None),
        ("STOP_SEQUENCE", 0, "stop", None),
        ("MAX_TOKENS", 0, "length", None),
        ("TOOL_CALL", 2, "tool_calls", None),
        # contradictions
        ("COMPLETE", 1, "tool_calls", None),
        ("STOP_SEQUENCE", 1, "tool_calls", None),
        ("TOOL_CALL", 0, "stop", None),
        ("MAX_TOKENS", 1, "length", None),
        # left over from v1
        ("ERROR_LIMIT", 0, "length", None),
        ("USER_CANCEL", 0, "stop", None),
        # to come
        ("GUARDRAIL", 0, "stop", "GUARDRAIL"),
        ("GUARDRAIL", 1, "tool_calls", "GUARDRAIL"),
        ("complete", 0, "stop", "complete"),
        ("", 0, "stop", None),
    ],
)
def test_c68_c70_finish_reasons(reason: str, calls: int, meant: str, native: str | None) -> None:
    assert finish_reason(reason, calls) == (meant, native)


def test_b32_every_reason_is_one_of_openais() -> None:
    assert set(FINISH_REASONS.values()) <= {"stop", "length", "tool_calls", "content_filter"}


def test_b31_max_tokens_and_tool_call_are_not_stop() -> None:
    translation = transcripts.call({"model": "command-a-03-2025", "messages": [{"role": "user", "content": "Hi"}]})
    for reason, meant in (("MAX_TOKENS", "length"), ("TOOL_CALL", "tool_calls")):
        called = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
        answer = {"message": {"tool_calls": called}, "finish_reason": reason}
        assert transcripts.answered(translation, answer)["choices"][0]["finish_reason"] == meant


def test_c69_error_toxic_is_content_filter() -> None:
    translation = transcripts.call({"model": "command-a-03-2025", "messages": [{"role": "user", "content": "Hi"}]})
    answer = {"message": {"content": [{"type": "text", "text": "So"}]}, "finish_reason": "ERROR_TOXIC"}
    assert transcripts.answered(translation, answer)["choices"][0]["finish_reason"] == "content_filter"


# --- usage --------------------------------------------------------------------------------------------------

BOTH = {
    "tokens": {"input_tokens": 502, "output_tokens": 113, "image_tokens": 259, "reasoning_tokens": 61},
    "billed_units": {"input_tokens": 265, "output_tokens": 110},
    "cached_tokens": 480,
}

COUNTED: tuple[tuple[str, Any, UsageBase, tuple[int, int, int, int, int]], ...] = (
    # name, usage, base, (prompt, completion, cached, reasoning, image)
    ("tokens", BOTH, TOKENS, (761, 113, 480, 61, 259)),
    ("billed", BOTH, BILLED, (265, 110, 265, 61, 259)),
    ("nothing", None, TOKENS, (0, 0, 0, 0, 0)),
    ("empty", {}, TOKENS, (0, 0, 0, 0, 0)),
    ("null parts", {"tokens": None, "billed_units": None, "cached_tokens": None}, TOKENS, (0, 0, 0, 0, 0)),
    ("empty parts", {"tokens": {}, "billed_units": {}}, TOKENS, (0, 0, 0, 0, 0)),
    ("billed stands in", {"billed_units": {"input_tokens": 5, "output_tokens": 7}}, TOKENS, (5, 7, 0, 0, 0)),
    ("tokens stand in", {"tokens": {"input_tokens": 5, "output_tokens": 7}}, BILLED, (5, 7, 0, 0, 0)),
    ("one of two", {"tokens": {"input_tokens": 5}}, TOKENS, (5, 0, 0, 0, 0)),
    ("floats", {"tokens": {"input_tokens": 5.0, "output_tokens": 7.9}}, TOKENS, (5, 7, 0, 0, 0)),
    ("negative", {"tokens": {"input_tokens": -5, "output_tokens": -1.5}}, TOKENS, (0, 0, 0, 0, 0)),
    (
        "zero is a count",
        {"tokens": {"input_tokens": 0, "output_tokens": 0}, "billed_units": {"input_tokens": 9}},
        TOKENS,
        (0, 0, 0, 0, 0),
    ),
    ("images only", {"billed_units": {"images": 1}}, TOKENS, (0, 0, 0, 0, 0)),
    (
        "more cached than asked",
        {"tokens": {"input_tokens": 5, "output_tokens": 1}, "cached_tokens": 9},
        TOKENS,
        (5, 1, 5, 0, 0),
    ),
    (
        "more thought than said",
        {"tokens": {"input_tokens": 5, "output_tokens": 1, "reasoning_tokens": 4}},
        TOKENS,
        (5, 1, 0, 1, 0),
    ),
)


@pytest.mark.parametrize(("value", "base", "meant"), [row[1:] for row in COUNTED], ids=[row[0] for row in COUNTED])
def test_c72_to_c75_counts(value: Any, base: UsageBase, meant: tuple[int, ...]) -> None:
    result = counts(None if value is None else usage(**value), base)
    assert (result.prompt, result.completion, result.cached, result.reasoning, result.image) == meant


def test_b33_absent_usage_never_crashes() -> None:
    translation = transcripts.call({"model": "command-a-03-2025", "messages": [{"role": "user", "content": "Hi"}]})
    visible = transcripts.answered(translation, {"message": {}, "finish_reason": "COMPLETE"})["usage"]
    assert (visible["prompt_tokens"], visible["completion_tokens"], visible["total_tokens"]) == (0, 0, 0)
    assert "billed_units" not in visible


def test_billed_units_are_reported_untouched() -> None:
    result = counts(usage(billed_units={"input_tokens": 5.5, "output_tokens": 7, "search_units": 1, "x": None}), TOKENS)
    assert result.billed == {"input_tokens": 5.5, "output_tokens": 7, "search_units": 1}
    assert result.outcome("stop") == UsageTotals("stop", 5, 7, result.billed)


@property_of(300)
@given(
    st.dictionaries(
        st.sampled_from(["input_tokens", "output_tokens", "image_tokens", "reasoning_tokens"]),
        st.one_of(st.none(), st.integers(-(2**62), 2**62), st.floats(allow_nan=False)),
    ),
    st.dictionaries(
        st.sampled_from(["input_tokens", "output_tokens"]), st.one_of(st.none(), st.floats(allow_nan=False))
    ),
    st.one_of(st.none(), st.integers(-5, 2**40), st.floats(allow_nan=False)),
    st.sampled_from([TOKENS, BILLED]),
)
def test_counts_are_whole_and_fit_together(tokens: Any, billed: Any, cached: Any, base: UsageBase) -> None:
    result = counts(usage(tokens=tokens, billed_units=billed, cached_tokens=cached), base)
    assert all(type(number) is int and number >= 0 for number in msgspec.structs.astuple(result)[:5])
    assert result.cached <= result.prompt and result.reasoning <= result.completion


def test_numbers_that_are_none_are_zero() -> None:
    assert counts(usage(tokens={"input_tokens": math.inf, "output_tokens": -math.inf}), TOKENS) == Counts()
    assert json.loads(msgspec.json.encode(Counts(billed={"a": 1}))) == {
        **{"prompt": 0, "completion": 0, "cached": 0, "reasoning": 0, "image": 0, "billed": {"a": 1}}
    }


@pytest.mark.parametrize(
    ("data", "ends"),
    [
        (b'{"type":"message-end","delta":{}}', True),
        (b'{"type":"content-delta"}', False),
        (b'{"type":"tool-call-start","name":"message-end"}', False),
        (b'{"type":"message-end"', False),
        (b'{"type":"\xff","x":"message-end"}', False),
        (b'"message-end"', False),
        (b"[DONE]", False),
    ],
)
def test_the_event_that_ends_an_answer(data: bytes, ends: bool) -> None:
    assert is_message_end(data) is ends
