"""How a model is made to answer in a format: by a field of Cohere's, by a tool that stands for the answer, in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from support import transcripts
from translators.core.errors import InvalidField
from translators.core.notes import Notes
from translators.request import check_budget, json_schema
from translators.request.check_budget import TooExpensive, generous_budget, loop_budget
from translators.request.response_format import ANSWER_TOOL
from translators.request.satisfiability import contradiction

A, AR, TRANSLATE, R_PLUS = (
    "command-a-03-2025",
    "command-a-reasoning-08-2025",
    "command-a-translate-08-2025",
    "command-r-plus-08-2024",
)
USER = {"role": "user", "content": "Who?"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
ANYTHING = {"type": "object", "properties": {"a": {}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}


def json_format(schema: Any = SCHEMA, strict: bool = True) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": strict}}


def planned(model: str = A, requested: Any = ..., **fields: Any) -> tuple[dict[str, Any], list[str]]:
    """What is sent, and the notes."""
    requested = json_format() if requested is ... else requested
    translation = transcripts.call({"model": model, "messages": [USER], "response_format": requested, **fields})
    return transcripts.cohere_request(translation), [note.text for note in translation.notes]


def names(request: dict[str, Any]) -> list[str]:
    return [one["function"]["name"] for one in request.get("tools", [])]


def instructions(request: dict[str, Any]) -> str:
    return "\n".join(str(one["content"]) for one in request["messages"] if one["role"] == "system")


def test_cohere_has_a_field_for_it() -> None:
    request, notes = planned()
    assert request["response_format"] == {"type": "json_object", "json_schema": SCHEMA} and not notes
    assert "tools" not in request and not instructions(request)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"tools": [TOOL]}, "beside tools"),
        ({"requested": json_format(ANYTHING)}, "as Cohere cannot compile the schema"),
    ],
    ids=["beside tools", "a schema that cannot be compiled"],
)
def test_a_tool_stands_for_the_answer(fields: dict[str, Any], why: str) -> None:
    request, notes = planned(**fields)
    assert names(request)[-1] == ANSWER_TOOL and request["tool_choice"] == "REQUIRED"
    assert "response_format" not in request
    assert f"response_format emulated (a tool stands for the answer {why})" in notes


def test_a_callers_tool_of_that_name_is_another_one() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in (ANSWER_TOOL, f"{ANSWER_TOOL}_")]
    request, _ = planned(tools=tools)
    assert names(request) == [ANSWER_TOOL, f"{ANSWER_TOOL}_", f"{ANSWER_TOOL}__"]


@pytest.mark.parametrize("schema", [{"properties": {"a": {}}}, {"type": "object"}, SCHEMA], ids=str)
def test_the_answers_tool_takes_an_object(schema: dict[str, Any]) -> None:
    """To Cohere, parameters without a type at their root are a bare map of properties."""
    request, _ = planned(requested=json_format(schema, strict=False), tools=[TOOL])
    parameters = request["tools"][-1]["function"]["parameters"]
    assert parameters == {"type": "object", "properties": {}} | schema


def test_the_answers_tool_has_types_where_the_model_wants_them() -> None:
    for model, typed in ((A, False), (R_PLUS, True)):
        request, _ = planned(model, json_format(ANYTHING), tools=[TOOL])
        parameters = request["tools"][-1]["function"]["parameters"]
        assert ("anyOf" in parameters["properties"]["a"]) is typed


def test_an_answer_that_is_no_object_is_wrapped_in_one() -> None:
    array = json_format({"type": "array", "items": {"type": "string"}})
    in_format = planned(requested=array)[0]["response_format"]["json_schema"]
    in_tool = planned(requested=array, tools=[TOOL])[0]["tools"][-1]["function"]["parameters"]
    for schema in (in_format, in_tool):
        assert schema["required"] == ["value"] and schema["properties"]["value"]["type"] == "array"


def test_an_object_of_no_properties_has_an_empty_list_of_them() -> None:
    request, _ = planned(requested=json_format({"type": "object"}), tools=[TOOL])
    assert request["tools"][-1]["function"]["parameters"] == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (AR, {"tools": [TOOL]}),
        (A, {"tools": [TOOL], "tool_choice": "none"}),
        (A, {"documents": ["Oslo is in Norway."]}),
        (TRANSLATE, {}),
    ],
    ids=["a model without tool_choice", "tools that may not be called", "documents", "a model of text alone"],
)
def test_an_instruction_where_nothing_else_is_left(model: str, fields: dict[str, Any]) -> None:
    request, notes = planned(model, **fields)
    assert "response_format" not in request and ANSWER_TOOL not in names(request)
    assert "The JSON must satisfy this JSON Schema" in instructions(request)
    assert "response_format emulated (an instruction to the model)" in notes


def test_without_a_schema_the_instruction_asks_for_an_object() -> None:
    request, _ = planned(requested={"type": "json_object"}, tools=[TOOL])
    assert "one JSON object only" in instructions(request) and names(request) == ["look"]


def test_a_turn_that_has_to_end_with_a_call_has_no_format() -> None:
    request, notes = planned(tools=[TOOL], tool_choice="required")
    assert "response_format" not in request and names(request) == ["look"]
    assert "response_format emulated (left out: a tool must be called in this turn)" in notes


@pytest.mark.parametrize(
    ("strict", "note"),
    [
        (True, "response_format emulated (minLength: not what Cohere compiles, the answer is checked here)"),
        (False, "response_format adjusted the schema -> what Cohere compiles, with other minLength"),
    ],
)
def test_what_cohere_does_not_compile_is_told(strict: bool, note: str) -> None:
    schema = {**SCHEMA, "properties": {"a": {"type": "string", "minLength": 1}}}
    request, notes = planned(requested=json_format(schema, strict))
    assert request["response_format"]["json_schema"] == SCHEMA and notes == [note]


def test_a_pattern_that_is_not_checked_is_told_where_an_answer_is() -> None:
    schema = {**SCHEMA, "properties": {"a": {"type": "string", "pattern": "(?!x)"}}}
    note = "response_format ignored (the answer is not checked for the pattern (?!x))"
    assert note in planned(requested=json_format(schema))[1]
    assert note not in planned(requested=json_format(schema, False))[1]


@pytest.mark.parametrize("table", ["$defs", "definitions"])
def test_a_reference_at_the_root_is_followed(table: str) -> None:
    request, _ = planned(requested=json_format({"$ref": f"#/{table}/A", table: {"A": SCHEMA}}))
    assert request["response_format"]["json_schema"] == {**SCHEMA, table: {"A": SCHEMA}}


# --- checks that take long ------------------------------------------------------------------------------------


def costly(name: str) -> dict[str, Any]:
    """A schema of a thousand patterns that nobody has compiled before."""
    properties = {f"p{number}": {"pattern": f"{name}{number}x*"} for number in range(1_000)}
    return {"type": "object", "properties": properties, "required": list(properties)}


@pytest.mark.parametrize("check", [json_schema.check, json_schema.check_satisfiable])
def test_a_check_that_takes_long_leaves_the_event_loop_alone(check: Callable[[Any, str], None]) -> None:
    schema = costly(check.__name__)
    with pytest.raises(TooExpensive):
        check(schema, "here")
    with generous_budget():
        check(schema, "here")


@pytest.mark.parametrize("check", [json_schema.note_oddities, json_schema.note_unchecked_patterns])
def test_notes_that_take_long_leave_the_event_loop_alone(check: Callable[[Any, str, Notes], None]) -> None:
    schema = costly(check.__name__)
    with loop_budget(), pytest.raises(TooExpensive):
        check(schema, "here", Notes())
    with generous_budget():
        check(schema, "here", Notes())


def test_what_takes_too_long_elsewhere_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_budget, "GENEROUS_STEPS", 900)
    notes, schema = Notes(), costly("elsewhere")
    with generous_budget():
        with pytest.raises(InvalidField, match="checking it takes too long"):
            json_schema.check(schema, "here")
        with pytest.raises(InvalidField, match="checking its patterns takes too long"):
            json_schema.note_unchecked_patterns(schema, "here", notes)
        # These are sent in any case, so they are not refused for it.
        json_schema.note_oddities(schema, "here", notes)
        assert contradiction(schema) == "" and not list(notes)


def test_a_schema_without_end_is_refused_and_not_noted() -> None:
    endless: dict[str, Any] = {}
    for _ in range(100_000):
        endless = {"items": endless}
    with pytest.raises(InvalidField, match="nested too deeply"):
        json_schema.note_oddities(endless, "here", Notes())


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        ({"type": "string", "minLength": -1}, "is no JSON Schema, Cohere may refuse it: "),
        ({"type": "string", "pattern": "(?!x)"}, ": the pattern (?!x) is left to Cohere"),
        ({"type": "string"}, ""),
    ],
    ids=json.dumps,
)
def test_what_is_odd_in_a_tool_that_is_not_strict_is_told(inner: dict[str, Any], words: str) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": inner}}}}
    notes = [note.text for note in transcripts.call({"model": A, "messages": [USER], "tools": [tool]}).notes]
    assert len(notes) == bool(words) and words in "".join(notes)
