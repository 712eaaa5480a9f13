"""How much a model shall think: three fields, one wish, room for the answer."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from support import transcripts
from support.transcripts import property_of
from translators.core.errors import InvalidField
from translators.request.reasoning import ANSWER_RESERVE, BUDGETS

A, AR, APLUS, NORTH = (
    "command-a-03-2025",
    "command-a-reasoning-08-2025",
    "command-a-plus-05-2026",
    "north-mini-code-1-0",
)
USER = {"role": "user", "content": "Hi"}
ENABLED, DISABLED = {"type": "enabled"}, {"type": "disabled"}


def thinking(model: str = AR, **fields: Any) -> tuple[Any, list[str]]:
    """What is sent as `thinking`, and the notes."""
    call = transcripts.call({"model": model, "messages": [USER], **fields})
    return transcripts.cohere_request(call).get("thinking"), [note.text for note in call.notes]


def budget(tokens: int) -> dict[str, Any]:
    return {"type": "enabled", "token_budget": tokens}


ROWS: tuple[tuple[dict[str, Any], Any, list[str]], ...] = (
    ({}, None, []),
    # C37: every word of OpenAI's
    ({"reasoning_effort": "none"}, DISABLED, []),
    ({"reasoning_effort": "minimal"}, budget(512), []),
    ({"reasoning_effort": "low"}, budget(2_048), []),
    ({"reasoning_effort": "medium"}, budget(8_192), []),
    ({"reasoning_effort": "high"}, ENABLED, []),
    ({"reasoning_effort": "xhigh"}, ENABLED, []),
    ({"reasoning_effort": "max"}, ENABLED, []),
    ({"reasoning_effort": None}, None, []),
    # the same as an object
    ({"reasoning": {"effort": "low"}}, budget(2_048), []),
    ({"reasoning": {"effort": "none"}}, DISABLED, []),
    ({"reasoning": {"enabled": False}}, DISABLED, []),
    ({"reasoning": {"enabled": True}}, None, []),
    ({"reasoning": {"max_tokens": 900}}, budget(900), []),
    ({"reasoning": {"max_tokens": 0}}, DISABLED, []),
    ({"reasoning": {}}, None, []),
    ({"reasoning": {"effort": None, "max_tokens": None}, "reasoning_effort": "low"}, budget(2_048), []),
    # decision 3: thinking, then reasoning, then reasoning_effort; max_tokens is the budget
    ({"reasoning": {"effort": "high", "max_tokens": 900}}, budget(900), []),
    (
        {"reasoning": {"effort": "none"}, "reasoning_effort": "low"},
        DISABLED,
        ["reasoning_effort ignored (reasoning.effort is given, too)"],
    ),
    ({"reasoning": {"effort": "low"}, "reasoning_effort": "low"}, budget(2_048), []),
    (
        {"thinking": DISABLED, "reasoning": {"effort": "high"}, "reasoning_effort": "low"},
        DISABLED,
        [
            "reasoning_effort ignored (reasoning.effort is given, too)",
            "reasoning.effort ignored (thinking is given, too)",
        ],
    ),
    (
        {"thinking": budget(7), "reasoning_effort": "none"},
        budget(7),
        ["reasoning_effort ignored (thinking is given, too)"],
    ),
    ({"thinking": {"token_budget": 7}}, budget(7), []),
    # C38: room for the answer
    ({"reasoning_effort": "high", "max_tokens": 3_000}, budget(3_000 - ANSWER_RESERVE), []),
    ({"reasoning_effort": "low", "max_tokens": 3_000}, budget(3_000 - ANSWER_RESERVE), []),
    ({"reasoning_effort": "low", "max_tokens": 20_000}, budget(2_048), []),
    ({"reasoning_effort": "high", "max_tokens": 100}, budget(50), []),
    ({"reasoning_effort": "high", "max_tokens": 1}, budget(1), []),
    (
        {"reasoning": {"max_tokens": 900}, "max_tokens": 1_000},
        budget(500),
        ["reasoning.max_tokens adjusted 900 -> 500"],
    ),
)


@pytest.mark.parametrize(("requested", "expected", "notes"), ROWS, ids=[json.dumps(row[0])[:70] for row in ROWS])
@pytest.mark.parametrize("model", [AR, APLUS, NORTH])
def test_rows(model: str, requested: dict[str, Any], expected: Any, notes: list[str]) -> None:
    assert thinking(model, **requested) == (expected, notes)


@pytest.mark.parametrize("effort", sorted(BUDGETS))
def test_c37_on_a_model_that_does_not_reason_it_is_left_out(effort: str) -> None:
    request, notes = thinking(A, reasoning_effort=effort)
    assert request is None
    assert notes == ([] if effort == "none" else ["reasoning_effort ignored (this model does not reason)"])


def test_native_thinking_is_the_callers_business() -> None:
    assert thinking(A, thinking=ENABLED) == (ENABLED, [])


@pytest.mark.parametrize(
    ("requested", "param"),
    [
        ({"reasoning_effort": "lots"}, "reasoning_effort"),
        ({"reasoning_effort": 5}, "reasoning_effort"),
        ({"reasoning": {"effort": "lots"}}, "reasoning.effort"),
        ({"reasoning": {"max_tokens": -1}}, "reasoning.max_tokens"),
        ({"reasoning": "high"}, "reasoning"),
        ({"thinking": {"type": "maybe"}}, "thinking.type"),
        ({"thinking": True}, "thinking"),
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("model", [A, AR])
def test_what_means_nothing_is_refused(model: str, requested: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidField) as caught:
        thinking(model, **requested)
    assert caught.value.failure.param == param


@property_of(200)
@given(
    st.sampled_from([*BUDGETS, None]),
    st.one_of(st.none(), st.integers(0, 100_000)),
    st.one_of(st.none(), st.integers(1, 100_000)),
)
def test_the_budget_is_at_least_one_and_never_all(effort: str | None, tokens: int | None, limit: int | None) -> None:
    request, _ = thinking(reasoning={"effort": effort, "max_tokens": tokens}, max_tokens=limit)
    if request is not None and "token_budget" in request:
        assert request["token_budget"] >= 1 and request["type"] == "enabled"
        assert limit is None or request["token_budget"] < limit or limit == 1
    if request is not None and request["type"] == "disabled":
        assert tokens == 0 or effort == "none"


# --- what is shown of it ------------------------------------------------------------------------------------

THOUGHT = {
    "message": {"content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Hi."}]},
    "finish_reason": "COMPLETE",
}


def test_thoughts_can_be_hidden() -> None:
    for request, visible in (
        ({}, True),
        ({"reasoning": {"exclude": False}}, True),
        ({"reasoning": {"exclude": True}}, False),
    ):
        call = transcripts.call({"model": AR, "messages": [USER], **request})
        (choice,) = transcripts.answered(call, THOUGHT)["choices"]
        assert choice["message"]["content"] == "Hi."
        assert ("reasoning_content" in choice["message"]) is visible


def test_thoughts_of_earlier_turns_can_be_left_out() -> None:
    def thought(words: str) -> dict[str, Any]:
        return {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": words}, {"type": "text", "text": "A"}],
        }

    messages = [USER, thought("old"), {"role": "assistant", "content": "B", "reasoning": "older"}, USER, thought("new")]
    for context, expected in (
        (None, "old"),
        ("auto", "old"),
        ("all_turns", "old"),
        ("lately", "old"),
        ("current_turn", ""),
    ):
        call = transcripts.call({"model": AR, "messages": messages, "reasoning": {"context": context}})
        request = json.dumps(transcripts.cohere_request(call)["messages"])
        assert ('"old"' in request and "older" in request) is bool(expected) and '"new"' in request and '"A"' in request
        assert ["reasoning.context ignored (not known to Cohere)"] * (context == "lately") == [
            note.text for note in call.notes
        ]


def test_a_mode_that_cohere_does_not_have_is_noted() -> None:
    for mode, noted in ((None, False), ("standard", False), ("pro", True)):
        assert bool(thinking(reasoning={"mode": mode})[1]) is noted


def test_a_summary_that_nobody_writes_is_noted() -> None:
    assert thinking(reasoning={"effort": "low", "summary": "auto"})[1]
