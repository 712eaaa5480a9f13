"""Definitions of tools and the choice among them, model by model."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support import transcripts
from translators.core.capabilities import CAPABILITIES
from translators.core.errors import InvalidField
from translators.request.client_tools import ClientTool, ClientTools

A, AR, APLUS, R7B, VISION = (
    "command-a-03-2025",
    "command-a-reasoning-08-2025",
    "command-a-plus-05-2026",
    "command-r7b-12-2024",
    "command-a-vision-07-2025",
)
USER = {"role": "user", "content": "Weather?"}
CITY: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
NOTHING = {"type": "object", "properties": {}}


def with_city(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {**CITY["properties"], **properties}, "required": ["city", *properties]}


def tool(name: str = "f", parameters: Any = ..., **more: Any) -> dict[str, Any]:
    function = {"name": name, **({} if parameters is ... else {"parameters": parameters}), **more}
    return {"type": "function", "function": function}


def body(*tools: Any, model: str = A, **fields: Any) -> dict[str, Any]:
    request = {"model": model, "messages": [USER], "tools": list(tools), **fields}
    result: dict[str, Any] = transcripts.cohere_request(transcripts.call(request))
    return result


def notes(*tools: Any, model: str = A, **fields: Any) -> list[str]:
    request = {"model": model, "messages": [USER], "tools": list(tools), **fields}
    return [note.text for note in transcripts.call(request).notes]


def refused(*tools: Any, model: str = A, **fields: Any) -> str | None:
    with pytest.raises(InvalidField) as caught:
        body(*tools, model=model, **fields)
    return caught.value.failure.param


def names(document: dict[str, Any]) -> list[str]:
    return [one["function"]["name"] for one in document.get("tools", [])]


# --- definitions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        (..., NOTHING),
        (None, NOTHING),
        ({}, NOTHING),
        (NOTHING, NOTHING),
        (CITY, CITY),
        ({"type": "object"}, {"type": "object", "properties": {}}),
        ({"properties": {"a": {"type": "string"}}}, {"type": "object", "properties": {"a": {"type": "string"}}}),
        ({"city": {"type": "string"}}, {"type": "object", "properties": {"city": {"type": "string"}}}),
        ({**CITY, "additionalProperties": False}, {**CITY, "additionalProperties": False}),
        (
            {"$schema": "https://json-schema.org/draft/2020-12/schema", **CITY},
            {"$schema": "https://json-schema.org/draft/2020-12/schema", **CITY},
        ),
    ],
    ids=lambda value: "absent" if value is ... else json.dumps(value)[:40],
)
def test_c45_b18_parameters(original: Any, expected: Any) -> None:
    assert body(tool(parameters=original))["tools"][0]["function"]["parameters"] == expected


@pytest.mark.parametrize(
    "value",
    [
        {"type": "string"},
        {"type": "array", "items": {}},
        {"type": "object", "properties": 5},
        {"type": "object", "required": "a"},
        {"city": "Oslo"},
    ],
    ids=json.dumps,
)
def test_parameters_that_are_no_object_schema_are_refused(value: Any) -> None:
    assert refused(tool("a"), tool("b", value)) == "tools[1].function.parameters"


def test_a_flag_of_long_ago_that_requires_nothing_goes() -> None:
    for flag, required in ((False, {}), (True, {"required": ["a"]})):
        parameters = {"type": "object", "properties": {"a": {"type": "string", "required": flag}}}
        (request,) = body(tool("f", parameters))["tools"]
        expected = {"type": "object", "properties": {"a": {"type": "string"}}, **required}
        assert request["function"]["parameters"] == expected


def test_tools_of_one_name_are_distinguished() -> None:
    names = ClientTools()
    tools = [
        ClientTool("function", "patch"),
        ClientTool("custom", "patch"),
        ClientTool("function", "custom.patch"),
        ClientTool("function", "function.custom.patch"),
        ClientTool("function", "patch", "custom"),
    ]
    internal = [names.internal_name(one) for one in tools]
    assert internal[:2] == ["patch", "custom.patch"] and len(set(internal)) == len(tools)
    assert (
        [names.by_name[name] for name in internal]
        == tools
        == [names.by_name[names.internal_name(one)] for one in tools]
    )


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"type": "text"}, ""),
        ({"type": "grammar", "grammar": {"syntax": "regex", "definition": "a+"}}, "this regular expression:\na+"),
        ({"type": "grammar", "syntax": "lark", "definition": "start: A"}, "this lark grammar:\nstart: A"),
        ({"type": "grammar", "definition": "start: A"}, "this lark grammar:\nstart: A"),
        ({"type": "grammar", "grammar": {"syntax": "regex", "definition": 5}}, ""),
        ({"type": "grammar"}, ""),
    ],
    ids=json.dumps,
)
def test_the_grammar_of_a_custom_tool_is_in_its_description(form: dict[str, Any], words: str) -> None:
    (request,) = body({"type": "custom", "custom": {"name": "p", "description": "D", "format": form}})["tools"]
    description = request["function"]["description"]
    assert description.startswith("D") and words in description
    assert ("The whole input must match" in description) is bool(words)


def test_a_definition_has_three_fields_and_no_other() -> None:
    request = body(tool(parameters=CITY, description="d", strict=True))["tools"]
    assert request == [{"type": "function", "function": {"name": "f", "description": "d", "parameters": CITY}}]
    request = body(tool(parameters=CITY, description=None))["tools"]
    assert request == [{"type": "function", "function": {"name": "f", "parameters": CITY}}]
    assert body(tool(parameters=CITY, description=""))["tools"][0]["function"]["description"] == ""


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ({"type": "custom"}, "tools[1].custom"),
        ({"type": "custom", "custom": {"name": ""}}, "tools[1].custom.name"),
        ({"type": "function"}, "tools[1].function"),
        ({"type": "function", "function": {}}, "tools[1].function.name"),
        ({"description": "no name"}, "tools[1].type"),
    ],
    ids=json.dumps,
)
def test_c44_a_malformed_tool_is_refused(value: Any, param: str) -> None:
    assert refused(tool("a"), value) == param


def test_a_hosted_tool_is_left_out_and_told() -> None:
    tools = [{"type": "web_search"}, tool("f"), {"type": "code_interpreter", "name": "f"}]
    assert names(body(*tools)) == ["f"]
    assert notes(*tools) == [
        f"tools[].type {kind} ignored (Cohere has no such tool)" for kind in ("web_search", "code_interpreter")
    ]


def test_c44_no_tools_are_no_field() -> None:
    assert "tools" not in body() and "tool_choice" not in body(tool_choice="auto")


def test_b21_a_model_without_tools() -> None:
    assert refused(tool(), model=VISION) == "tools"
    assert not CAPABILITIES[VISION].tools
    assert "tools" not in body(tool(), model=VISION, tool_choice="none")
    assert notes(tool(), model=VISION, tool_choice="none") == ["tool_choice emulated (none: the tools are left out)"]


ANY = {"anyOf": [{"type": kind} for kind in ("string", "number", "boolean", "object", "array", "null")]}


@pytest.mark.parametrize(
    ("value", "output"),
    [
        ({"description": "D"}, {"description": "D", **ANY}),
        (True, ANY),
        ({"oneOf": [{"type": "string"}, {"type": "null"}]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"type": "array", "items": {"properties": {"b": {}}}}, {"type": "array", "items": {"properties": {"b": ANY}}}),
        ({"enum": ["x"]}, {"enum": ["x"]}),
    ],
    ids=json.dumps,
)
def test_parameters_without_a_type_are_given_one_where_the_model_wants_it(value: Any, output: Any) -> None:
    """`z.any()`, pydantic's `Any`: command-r and command-r-plus answer "property a must have a type"."""
    parameters = {"type": "object", "properties": {"a": value}}
    for model, expected in ((A, value), ("command-r-plus", output)):
        (request,) = body(tool("f", parameters), model=model)["tools"]
        assert request["function"]["parameters"]["properties"] == {"a": expected}


# --- strict -------------------------------------------------------------------------------------------------

STRICT: tuple[tuple[str, list[Any], dict[str, Any], bool, bool], ...] = (
    # name, tools, fields, is strict_tools sent, is there a note
    ("all", [tool("a", CITY, strict=True), tool("b", CITY, strict=True)], {}, True, False),
    ("none", [tool("a", CITY)], {}, False, False),
    ("false", [tool("a", CITY, strict=False), tool("b", CITY, strict=None)], {}, False, False),
    ("some", [tool("a", CITY, strict=True), tool("b", CITY)], {}, False, True),
    ("without a required parameter", [tool("a", CITY, strict=True), tool("b", strict=True)], {}, False, True),
    ("strict_tools", [tool("a", CITY), tool("b", CITY)], {"strict_tools": True}, True, False),
    ("strict_tools without a required parameter", [tool("a", NOTHING)], {"strict_tools": True}, False, True),
    ("strict_tools false", [tool("a", CITY)], {"strict_tools": False}, False, False),
    ("an object of any keys", [tool("a", with_city(b={"type": "object"}), strict=True)], {}, False, True),
    ("a value of any kind", [tool("a", with_city(b={"title": "B"}), strict=True)], {}, False, True),
    ("the same below", [tool("a", with_city(b={"type": "array", "items": NOTHING}), strict=True)], {}, False, True),
    ("the top is a reference", [tool("a", {"$ref": "#/$defs/C", "$defs": {"C": CITY}}, strict=True)], {}, True, False),
    ("Bifrost's spelling", [tool("a", CITY)], {"strict_tool_choice": True}, True, False),
    (
        "too many fields",
        [
            tool(
                "a",
                {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(201)}, "required": ["p1"]},
                strict=True,
            )
        ],
        {},
        False,
        True,
    ),
    (
        "as many as there may be",
        [
            tool(
                "a",
                {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(200)}, "required": ["p1"]},
                strict=True,
            )
        ],
        {},
        True,
        False,
    ),
)


@pytest.mark.parametrize(
    ("tools", "fields", "expected", "noted"), [row[1:] for row in STRICT], ids=[row[0] for row in STRICT]
)
def test_b4_b16_c46_strict_is_all_or_nothing(tools: Any, fields: Any, expected: bool, noted: bool) -> None:
    assert (body(*tools, **fields).get("strict_tools") is True) is expected
    assert any("strict" in note for note in notes(*tools, **fields)) is noted
    assert "strict" not in json.dumps(body(*tools, **fields)["tools"])


def test_strict_tools_are_sent_as_cohere_compiles_them() -> None:
    """Keywords that it refuses are taken away and told; without them, what the caller wrote stays."""
    bounded = with_city(age={"type": ["integer", "null"], "minimum": 0}, mail={"type": "string", "format": "email"})
    request = body(tool("a", bounded, strict=True), tool("b", {**CITY, "title": "T"}, strict=True))
    assert request["strict_tools"] is True
    age, mail = (request["tools"][0]["function"]["parameters"]["properties"][name] for name in ("age", "mail"))
    assert (age, mail) == ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"type": "string"})
    assert notes(tool("a", bounded, strict=True)) == [
        "tools[].function.parameters adjusted the schema -> what Cohere compiles, with other format, minimum"
    ]
    for strict in (None, False):
        (lax,) = body(tool("a", bounded, strict=strict))["tools"]
        assert lax["function"]["parameters"] == bounded


# --- the choice ---------------------------------------------------------------------------------------------


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: str, *chosen: str) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named(name) for name in chosen]}}


CHOICES: tuple[tuple[str, Any, str | None, list[str]], ...] = (
    ("none at all", None, None, ["f", "g", "h"]),
    ("auto", "auto", None, ["f", "g", "h"]),
    ("none", "none", "NONE", ["f", "g", "h"]),
    ("required", "required", "REQUIRED", ["f", "g", "h"]),
    ("any", "any", "REQUIRED", ["f", "g", "h"]),
    ("named", named("g"), "REQUIRED", ["g"]),
    ("allowed, auto", allowed("auto", "h", "f"), None, ["f", "h"]),
    ("allowed, required", allowed("required", "h", "f"), "REQUIRED", ["f", "h"]),
)


@pytest.mark.parametrize(
    ("choice", "sent_body", "expected"), [row[1:] for row in CHOICES], ids=[row[0] for row in CHOICES]
)
@pytest.mark.parametrize("model", [A, R7B, "brand-new-model"])
def test_b5_b6_c40_the_choice(choice: Any, sent_body: str | None, expected: list[str], model: str) -> None:
    request = body(tool("f"), tool("g"), tool("h"), tool_choice=choice, model=model)
    assert (request.get("tool_choice"), names(request)) == (sent_body, expected)


@pytest.mark.parametrize(
    ("choice", "sent_body", "stored"), [row[1:] for row in CHOICES], ids=[row[0] for row in CHOICES]
)
@pytest.mark.parametrize("model", [AR, APLUS])
def test_b21_c41_a_model_that_refuses_the_choice(
    choice: Any, sent_body: str | None, stored: list[str], model: str
) -> None:
    """Decision 6: the filter and an instruction; with `none` the tools are left out; all of it noted."""
    request = body(tool("f"), tool("g"), tool("h"), tool_choice=choice, model=model)
    assert "tool_choice" not in request
    assert names(request) == ([] if sent_body == "NONE" else stored)
    instructed = [one["content"] for one in request["messages"] if one["role"] == "system"]
    assert bool(instructed) is (sent_body == "REQUIRED")
    for instruction in instructed:
        assert all(name in instruction for name in stored)
    expected = sent_body is not None or len(stored) < 3
    assert (
        any(
            "tool_choice emulated" in note
            for note in notes(tool("f"), tool("g"), tool("h"), tool_choice=choice, model=model)
        )
        is expected
    )


def test_an_instruction_joins_the_callers_own() -> None:
    request = {
        "model": AR,
        "messages": [{"role": "system", "content": "Be brief."}, USER],
        "tools": [tool()],
        "tool_choice": "required",
    }
    result = transcripts.cohere_request(transcripts.call(request))
    assert result["messages"][0]["content"].startswith("Be brief.\n\n") and len(result["messages"]) == 2


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        (named("nope"), "tool_choice"),
        (allowed("auto", "f", "nope"), "tool_choice"),
        ("sometimes", "tool_choice"),
        ("nope", "tool_choice"),
        ({"type": "custom", "custom": {"name": "nope"}}, "tool_choice"),
        ({"type": "custom"}, "tool_choice.custom"),
        ({"type": "mcp"}, "tool_choice.type"),
        ({"type": "function"}, "tool_choice.function"),
        ({"type": "function", "name": "nope"}, "tool_choice"),
        ({}, "tool_choice.type"),
        (allowed("perhaps", "f"), "tool_choice.allowed_tools.mode"),
        (5, "tool_choice"),
    ],
    ids=lambda value: json.dumps(value)[:50],
)
def test_c40_a_choice_that_cannot_be_meant_is_refused(choice: Any, param: str) -> None:
    assert refused(tool("f"), tool_choice=choice) == param


def test_no_allowed_tool_allows_no_call() -> None:
    hosted = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "web_search"}]}}
    for choice in (allowed("auto"), hosted):
        assert body(tool("f"), tool_choice=choice)["tool_choice"] == "NONE"
    for choice in (allowed("required"), {**hosted, "allowed_tools": {"mode": "required", "tools": []}}):
        assert refused(tool("f"), tool_choice=choice) == "tool_choice"


def called(name: str) -> list[dict[str, Any]]:
    function = {"name": name, "arguments": "{}"}
    turn = {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": function}]}
    return [USER, turn, {"role": "tool", "tool_call_id": "c1", "content": "Sunny"}, USER]


CALLED: tuple[tuple[str, Any, list[str], str, str], ...] = (
    # model, choice, the tools that are sent, words of the instruction, of a note
    (A, "none", ["f", "g"], "", ""),
    (AR, "none", ["f", "g"], "Do not call any tool now", "none: calls are kept from the answer"),
    (A, named("g"), ["f", "g"], "You must call the tool g now", "an instruction names them"),
    (AR, named("g"), ["f", "g"], "You must call the tool g now", "an instruction names them"),
    (
        A,
        allowed("auto", "g"),
        ["f", "g"],
        "If you call a tool now, it must be the tool g.",
        "an instruction names them",
    ),
    (A, allowed("auto", "f", "g"), ["f", "g"], "", "only these tools are sent"),
    ("command-r-08-2024", named("g"), ["g"], "", "only these tools are sent"),
)


@pytest.mark.parametrize(("model", "choice", "expected", "words", "note"), CALLED, ids=str)
def test_a_choice_after_calls(model: str, choice: Any, expected: list[str], words: str, note: str) -> None:
    """Tools that the history calls have to be defined, so they cannot be left out."""
    body_of_call = {"model": model, "messages": called("f"), "tools": [tool("f"), tool("g")], "tool_choice": choice}
    translation = transcripts.call(body_of_call)
    request = transcripts.cohere_request(translation)
    assert names(request) == expected
    instructed = [one["content"] for one in request["messages"] if one["role"] == "system"]
    assert bool(instructed) == bool(words) and words in "".join(instructed)
    assert note in "; ".join(one.text for one in translation.notes)


@pytest.mark.parametrize("choice", ["required", "any", named("f"), allowed("required", "f")], ids=json.dumps)
def test_b7_required_without_tools_is_refused(choice: Any) -> None:
    assert refused(tool_choice=choice) == "tool_choice"


def test_c48_a_renamed_tool_can_be_chosen() -> None:
    request = body(tool("a.b"), tool("c"), tool_choice=named("a.b"))
    assert names(request) == ["a_b"] and request["tool_choice"] == "REQUIRED"


@pytest.mark.parametrize(
    ("choice", "sent_body", "expected"),
    [
        ("auto", None, ["f", "g"]),
        ("none", "NONE", ["f", "g"]),
        ({"name": "g"}, "REQUIRED", ["g"]),
        (None, None, ["f", "g"]),
    ],
    ids=str,
)
def test_c23_the_old_choice(choice: Any, sent_body: str | None, expected: list[str]) -> None:
    functions = [tool("f")["function"], tool("g")["function"]]
    request = {"model": A, "messages": [USER], "functions": functions, "function_call": choice}
    result = transcripts.cohere_request(transcripts.call(request))
    assert (result.get("tool_choice"), names(result)) == (sent_body, expected)


@pytest.mark.parametrize(
    ("functions", "choice"), [([tool("f")["function"]], {"name": "g"}), ([], {"name": "f"}), ([], "required")], ids=str
)
def test_errors_about_the_old_choice_have_its_names(functions: list[Any], choice: Any) -> None:
    request = {"model": A, "messages": [USER], "functions": functions, "function_call": choice}
    with pytest.raises(InvalidField) as caught:
        transcripts.call(request)
    failure = caught.value.failure
    assert failure.param == "function_call"
    assert "'functions'" in failure.message and "tool_choice" not in failure.message


def test_b38_one_choice_holds_all_calls() -> None:
    called = [{"id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for n in range(3)]
    call = transcripts.call({"model": A, "messages": [USER], "tools": [tool()]})
    answer = transcripts.answered(call, {"message": {"tool_calls": called}, "finish_reason": "TOOL_CALL"})
    (choice,) = answer["choices"]
    assert [one["id"] for one in choice["message"]["tool_calls"]] == ["c0", "c1", "c2"]


def test_b44b_an_id_is_made_only_where_none_is_given_and_once_a_call() -> None:
    called = [{"id": identity, "function": {"name": "f", "arguments": "{}"}} for identity in ("given", "", None)]
    call = transcripts.call({"model": A, "messages": [USER], "tools": [tool()]})
    answer = transcripts.answered(call, {"message": {"tool_calls": called}, "finish_reason": "TOOL_CALL"})
    ids = [one["id"] for one in answer["choices"][0]["message"]["tool_calls"]]
    assert ids[0] == "given" and all(ids) and len(set(ids)) == 3


def test_parameters_behind_a_reference() -> None:
    """What pydantic writes for a recursive model; OpenAI takes it."""
    parameters = {"$ref": "#/$defs/City", "$defs": {"City": CITY}}
    assert body(tool(parameters=parameters))["tools"]
