"""Tools and the choice among them.

Cohere has no way to name one tool, no `auto` (absence means it), and reasoning models refuse `tool_choice`
altogether (cohere_api.md §5). What it lacks is emulated and noted (product.md, decision 6).
"""

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from schemas.cohere import chat as cohere
from schemas.openai import chat as openai
from translators import json_schema
from translators.capabilities import Capabilities
from translators.errors import InvalidField
from translators.notes import Notes
from translators.tool_names import ToolNames

NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
"""Cohere requires `parameters`; OpenAI lets a tool without any leave them out."""

STRICT_FIELDS_LIMIT = 200
"""Fields over all tools that `strict_tools` allows (cohere_api.md §5)."""


class Choice(Struct, frozen=True):
    """What the caller wants of the tools. only: the names to choose among, None for all."""

    mode: str = "auto"  # auto, none, required
    only: tuple[str, ...] | None = None


class ToolPlan(Struct, frozen=True):
    """What is sent. instructions: sentences for the system turn; stray_calls: calls are to be removed."""

    tools: list[cohere.Tool] | UnsetType = UNSET
    tool_choice: Any = UNSET
    strict_tools: bool | UnsetType = UNSET
    instructions: tuple[str, ...] = ()
    stray_calls: bool = False


def gathered(tools: list[openai.Tool], functions: list[openai.Function]) -> list[openai.Function]:
    """All function definitions, the legacy ones included. Raises InvalidField on any other type of tool."""
    found: list[openai.Function] = []
    for index, tool in enumerate(tools):
        if tool.type != "function":
            raise InvalidField(
                f"tools[{index}].type",
                f"Tools of type '{tool.type}' cannot be sent to Cohere: only 'function' tools can",
                "unsupported_value",
            )
        if tool.function is None:
            raise InvalidField(
                f"tools[{index}].function",
                f"Missing required parameter: 'tools[{index}].function'",
                "missing_required_parameter",
            )
        found.append(tool.function)
    return found + functions


def chosen(wish: str | openai.ToolChoice | None, legacy: str | openai.ChosenName | None) -> Choice:
    """The caller's wish in one form. Raises InvalidField on a choice that Cohere cannot know."""
    if wish is None and legacy is not None:
        return (
            Choice("required", (legacy.name,))
            if isinstance(legacy, openai.ChosenName)
            else _word(legacy, "function_call")
        )
    if wish is None:
        return Choice()
    if isinstance(wish, str):
        return _word(wish, "tool_choice")
    if wish.type == "function" and wish.function:
        return Choice("required", (wish.function.name,))
    if wish.type == "allowed_tools" and wish.allowed_tools:
        names = tuple(tool.function.name for tool in wish.allowed_tools.tools if tool.function)
        return Choice(wish.allowed_tools.mode, names)
    raise InvalidField(
        "tool_choice.type",
        f"A tool_choice of type '{wish.type}' cannot be sent to Cohere",
        "unsupported_value",
    )


def _word(wish: str, field: str) -> Choice:
    # `any` is what several frameworks and Mistral call `required`.
    mode = {"any": "required"}.get(wish, wish)
    if mode not in ("auto", "none", "required"):
        raise InvalidField(field, f"Invalid '{field}': '{wish}' is none of auto, none, required", "invalid_value")
    return Choice(mode)


def planned(
    functions: list[openai.Function],
    choice: Choice,
    strict_tools: bool | None,
    able: Capabilities,
    called_before: bool,
    names: ToolNames,
    notes: Notes,
) -> ToolPlan:
    """What to send so that the caller's tools and choice are honoured by this model."""
    if not functions:
        if choice.mode == "required":
            raise InvalidField("tool_choice", "'tool_choice' needs 'tools' to choose from", "invalid_value")
        return ToolPlan()
    if not able.tools:
        raise InvalidField("tools", "This model of Cohere's does not use tools", "unsupported_value")
    if choice.only is not None:
        functions = _filtered(functions, choice.only)
        notes.emulated("tool_choice", "only the chosen tools are sent")
    definitions = [_definition(function, index, names) for index, function in enumerate(functions)]
    strict = _strict(functions, strict_tools, notes)
    if choice.mode == "none" and not able.tool_choice:
        notes.emulated(
            "tool_choice", "none: calls are kept from the answer" if called_before else "none: tools left out"
        )
        return ToolPlan(definitions, UNSET, strict, (), True) if called_before else ToolPlan()
    if choice.mode == "required" and not able.tool_choice:
        notes.emulated("tool_choice", "required: an instruction to the model")
        return ToolPlan(definitions, UNSET, strict, (_must_call(definitions),))
    sent = {"none": "NONE", "required": "REQUIRED"}.get(choice.mode, UNSET)
    return ToolPlan(definitions, sent, strict)


def _must_call(definitions: list[cohere.Tool]) -> str:
    names = ", ".join(tool.function.name for tool in definitions)
    one = f"the tool {names}" if len(definitions) == 1 else f"at least one of these tools: {names}"
    return f"You must call {one}. Do not answer with text alone."


def _filtered(functions: list[openai.Function], only: tuple[str, ...]) -> list[openai.Function]:
    known = {function.name for function in functions}
    for name in only:
        if name not in known:
            raise InvalidField("tool_choice", f"'tool_choice' names the tool '{name}', which 'tools' lacks")
    return [function for function in functions if function.name in only]


def _definition(function: openai.Function, index: int, names: ToolNames) -> cohere.Tool:
    parameters = _parameters(function.parameters, f"tools[{index}].function.parameters")
    description = function.description if function.description is not None else UNSET
    return cohere.Tool(cohere.ToolFunction(names.sent(function.name), parameters, description))


def _parameters(parameters: dict[str, Any] | None, where: str) -> dict[str, Any]:
    """An object schema. A bare map of properties, which Cohere answers with a 422, is wrapped."""
    if not parameters:
        return NO_PARAMETERS
    if "type" not in parameters and "$ref" not in parameters:
        if "properties" in parameters:
            parameters = {"type": "object", **parameters}
        elif all(isinstance(value, dict) for value in parameters.values()):
            parameters = {"type": "object", "properties": parameters}
    if parameters.get("type") != "object":
        raise InvalidField(where, f"Invalid schema for '{where}': its type must be 'object'", "invalid_schema")
    json_schema.check(parameters, where)
    return parameters if "properties" in parameters else {**parameters, "properties": {}}


def _strict(functions: list[openai.Function], strict_tools: bool | None, notes: Notes) -> bool | UnsetType:
    """`strict_tools` is all or nothing, and Cohere refuses it where a tool requires no parameter."""
    asked = [function for function in functions if function.strict]
    if not asked and not strict_tools:
        return UNSET
    field = "strict_tools" if strict_tools else "tools[].function.strict"
    if not strict_tools and len(asked) < len(functions):
        notes.ignored(field, "Cohere enforces all tools or none")
        return UNSET
    total = sum(_count((function.parameters or {}).get("properties")) for function in functions)
    if any(not (function.parameters or {}).get("required") for function in functions):
        notes.ignored(field, "Cohere needs a required parameter in every tool")
        return UNSET
    if total > STRICT_FIELDS_LIMIT:
        notes.ignored(field, f"Cohere allows {STRICT_FIELDS_LIMIT} fields over all tools")
        return UNSET
    return True


def _count(properties: Any) -> int:
    if not isinstance(properties, dict):
        return 0
    return len(properties) + sum(
        _count(value.get("properties")) for value in properties.values() if isinstance(value, dict)
    )
