"""Tools and the choice among them.

Cohere has no way to name one tool, no `auto` (absence means it), and reasoning models refuse `tool_choice`
altogether (docs/cohere-api.md#chat-requests). What it lacks is emulated and noted
(docs/decisions.md#a-named-tool_choice-is-honoured).
"""

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from schemas.cohere import chat as cohere
from schemas.openai import chat as openai
from translators.core.capabilities import Capabilities
from translators.core.errors import InvalidField
from translators.core.notes import Notes
from translators.core.tool_names import ToolNames
from translators.request import json_schema
from translators.request.client_tools import ClientTool, ClientTools, custom_function

NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
"""Cohere requires `parameters`; OpenAI lets a tool without any leave them out."""

STRICT_FIELDS_LIMIT = 200
"""Fields over all tools that `strict_tools` allows (docs/cohere-api.md#chat-requests)."""


class Choice(Struct, frozen=True):
    """What the caller wants of the tools. only: the names to choose among, None for all."""

    mode: str = "auto"  # auto, none, required
    only: tuple[str, ...] | None = None


ANY_CHOICE = Choice()
"""The model may call tools or not."""


class ToolPlan(Struct, frozen=True):
    """What is sent. instructions: sentences for the system turn; stray_calls: calls are to be removed.

    only: the (sent) names that may be called, where tools are defined that may not. must_call: a call is wanted, and an
    instruction is all that asks for it.
    """

    tools: list[cohere.Tool] | UnsetType = UNSET
    tool_choice: Any = UNSET
    strict_tools: bool | UnsetType = UNSET
    instructions: tuple[str, ...] = ()
    stray_calls: bool = False
    only: frozenset[str] = frozenset()
    must_call: bool = False


def collect_functions(
    tools: list[openai.Tool], functions: list[openai.Function], names: ClientTools, notes: Notes
) -> tuple[list[openai.Function], tuple[str, ...]]:
    """Returns all functions, those of custom tools and the legacy ones included, and their paths.

    A tool of another type is ignored and noted. Raises InvalidField on one without a definition or a name.
    """
    definitions: list[openai.Function] = []
    paths: list[str] = []
    for index, tool in enumerate(tools):
        where = f"tools[{index}].{tool.type}"
        definition = tool.function if tool.type == "function" else tool.custom
        if tool.type not in ("function", "custom"):
            notes.ignored(f"tools[].type {tool.type}", "Cohere has no such tool", f"tools[{index}].type")
            continue
        if definition is None:
            raise InvalidField(where, f"Missing required parameter: '{where}'", "missing_required_parameter")
        _check_name(definition.name, where)
        name = names.internal_name(ClientTool(tool.type, definition.name))
        if isinstance(definition, openai.CustomTool):
            definition = custom_function(name, definition.description, definition.format, notes)
        definitions.append(definition)
        paths.append(where)
    if definitions and all(one.strict for one in definitions if names.by_name[one.name].kind == "function"):
        # Cohere enforces all tools or none.
        strict = any(names.by_name[one.name].kind == "function" for one in definitions)
        definitions = [replace(one, strict=True) if strict else one for one in definitions]
    for index, function in enumerate(functions):
        _check_name(function.name, f"functions[{index}]")
        definitions.append(function)
        paths.append(f"functions[{index}]")
    return definitions, tuple(paths)


def _check_name(name: str, where: str) -> None:
    if not name:
        raise InvalidField(f"{where}.name", f"'{where}.name' must not be empty", "empty_string")


def read_choice(
    wish: str | openai.ToolChoice | None, legacy: str | openai.ChosenName | None, names: ClientTools
) -> Choice:
    """Returns the caller's choice in one form. Raises InvalidField on a choice that Cohere cannot know."""
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
    chosen = wish.function if wish.type == "function" else wish.custom
    if wish.type in ("function", "custom") and chosen:
        return Choice("required", (names.chosen_name(wish.type, chosen.name),))
    if wish.type == "allowed_tools" and wish.allowed_tools:
        return _allowed(wish.allowed_tools, names)
    if wish.type in ("function", "custom", "allowed_tools"):
        param = f"tool_choice.{wish.type}"
        raise InvalidField(param, f"Missing required parameter: '{param}'", "missing_required_parameter")
    raise InvalidField(
        "tool_choice.type",
        f"A tool_choice of type '{wish.type}' cannot be sent to Cohere",
        "unsupported_value",
    )


def _allowed(allowed: openai.AllowedTools, names: ClientTools) -> Choice:
    """Reads a list of allowed tools. An empty one allows no call."""
    chosen = [
        names.chosen_name(tool.type, definition.name)
        for tool in allowed.tools
        if (definition := tool.function if tool.type == "function" else tool.custom)
    ]
    if not chosen and allowed.mode == "required":
        raise InvalidField("tool_choice", "'tool_choice' requires a call and allows no tool", "invalid_value")
    return Choice(allowed.mode, tuple(chosen)) if chosen else Choice("none")


def _word(wish: str, field: str) -> Choice:
    # `any` is what several frameworks and Mistral call `required`.
    mode = {"any": "required"}.get(wish, wish)
    if mode not in ("auto", "none", "required"):
        raise InvalidField(field, f"Invalid '{field}': '{wish}' is none of auto, none, required", "invalid_value")
    return Choice(mode)


def plan_tools(
    functions: list[openai.Function],
    paths: Sequence[str],
    choice: Choice,
    strict_tools: bool | None,
    capabilities: Capabilities,
    called: list[str],
    names: ToolNames,
    notes: Notes,
) -> ToolPlan:
    """What to send so that the caller's tools and choice are honoured by this model.

    places: the functions' paths. called: the caller's names of the tools that the history calls.
    """
    if not functions:
        if choice.mode == "required":
            raise InvalidField("tool_choice", "'tool_choice' needs 'tools' to choose from", "invalid_value")
        if strict_tools:
            notes.ignored("strict_tools", "there are no tools")
        return _outlined(called, capabilities, names, notes)
    if not capabilities.tools and choice.mode == "none":
        notes.emulated("tool_choice", "none: the tools are left out")
        return ToolPlan()
    if not capabilities.tools:
        raise InvalidField("tools", "This model of Cohere's does not use tools", "unsupported_value")
    wanted = functions if choice.only is None else _filtered(functions, choice.only)
    called_names, wanted_names = frozenset(called), {function.name for function in wanted}
    called_only = [
        function
        for function in functions
        if capabilities.keeps_tools and function.name in called_names and function.name not in wanted_names
    ]
    definition_ids = {id(function) for function in (*wanted, *called_only)}
    definitions = [
        _definition(function, where, bool(strict_tools or function.strict), names, capabilities, notes)
        for function, where in zip(functions, paths, strict=True)
        if id(function) in definition_ids
    ]
    definitions, strict = _strict([*wanted, *called_only], definitions, strict_tools, notes)
    if choice.mode == "none":
        return _without_calls(definitions, strict, capabilities, bool(called), notes)
    choice_names = [names.upstream_name(function.name) for function in wanted]
    if choice.only is not None:
        how = "an instruction names them, the answer is checked" if called_only else "only these tools are sent"
        notes.emulated("tool_choice", how)
    instructions = (_must_call(choice_names, choice.mode),) if called_only else ()
    upstream_choice: Any = UNSET
    must_call = choice.mode == "required" and not capabilities.tool_choice
    if must_call and not instructions:
        notes.emulated("tool_choice", "required: an instruction to the model")
        instructions = (_must_call(choice_names, choice.mode),)
    elif choice.mode == "required" and capabilities.tool_choice:
        upstream_choice = "REQUIRED"
    only = frozenset(choice_names) if called_only else frozenset()
    return ToolPlan(definitions, upstream_choice, strict, instructions, only=only, must_call=must_call)


def _without_calls(
    definitions: list[cohere.Tool], strict: bool | UnsetType, capabilities: Capabilities, called: bool, notes: Notes
) -> ToolPlan:
    """`tool_choice: none`: Cohere's NONE, or what comes nearest on a model that refuses it."""
    if capabilities.tool_choice:
        return ToolPlan(definitions, "NONE", strict)
    if called:
        notes.emulated("tool_choice", "none: calls are kept from the answer")
        return ToolPlan(definitions, UNSET, strict, (_NO_CALLS,), stray_calls=True)
    notes.emulated("tool_choice", "none: the tools are left out")
    return ToolPlan()


def _outlined(called: list[str], capabilities: Capabilities, names: ToolNames, notes: Notes) -> ToolPlan:
    """Tools that the history calls and the request no longer defines, defined in outline and not to be called."""
    if not called or not capabilities.keeps_tools or not capabilities.tools:
        return ToolPlan()
    notes.emulated("tools", "those of the history are defined in outline, as Cohere wants them")
    definitions = [
        cohere.Tool(cohere.ToolFunction(names.upstream_name(name), NO_PARAMETERS)) for name in dict.fromkeys(called)
    ]
    if capabilities.tool_choice:
        return ToolPlan(definitions, "NONE")
    return ToolPlan(definitions, instructions=(_NO_CALLS,), stray_calls=True)


_NO_CALLS = "Do not call any tool now: answer with text."


def _must_call(names: list[str], mode: str) -> str:
    which = f"the tool {names[0]}" if len(names) == 1 else f"one of these tools: {', '.join(names)}"
    if mode == "required":
        return f"You must call {which} now. Do not answer with text alone, and call no other tool."
    return f"If you call a tool now, it must be {which}."


def _filtered(functions: list[openai.Function], only: tuple[str, ...]) -> list[openai.Function]:
    defined_names = {function.name for function in functions}
    for name in only:
        if name not in defined_names:
            raise InvalidField("tool_choice", f"'tool_choice' names the tool '{name}', which 'tools' lacks")
    wanted_names = frozenset(only)
    return [function for function in functions if function.name in wanted_names]


def _definition(
    function: openai.Function, where: str, strict: bool, names: ToolNames, capabilities: Capabilities, notes: Notes
) -> cohere.Tool:
    parameters = _parameters(function, f"{where}.parameters", strict, notes)
    if capabilities.typed_tools:
        parameters = json_schema.with_types(parameters)
    description = function.description if function.description is not None else UNSET
    return cohere.Tool(cohere.ToolFunction(names.upstream_name(function.name), parameters, description))


def _parameters(function: openai.Function, where: str, strict: bool, notes: Notes) -> dict[str, Any]:
    """An object schema. A bare map of properties, which Cohere answers with a 422, is wrapped.

    A schema without `strict` is sent even where it is odd.
    """
    parameters = function.parameters
    if not parameters:
        return NO_PARAMETERS
    if not strict:
        changes: dict[str, str] = {}
        parameters = json_schema.tidy(parameters, changes)
        for was, now in changes.items():
            notes.adjusted(where, was, now)
    parameters = json_schema.inline_root_reference(parameters)
    if "type" not in parameters and "$ref" not in parameters:
        if "properties" in parameters:
            parameters = {"type": "object", **parameters}
        elif all(isinstance(value, dict) for value in parameters.values()):
            parameters = {"type": "object", "properties": parameters}
    if parameters.get("type") == ["object", "null"]:
        parameters = {**parameters, "type": "object"}
    if parameters.get("type") != "object":
        raise InvalidField(where, f"Invalid schema for '{where}': its type must be 'object'", "invalid_schema")
    whole = isinstance(parameters.get("properties", {}), dict) and isinstance(parameters.get("required", []), list)
    if strict or not whole:
        json_schema.check(parameters, where)
        json_schema.check_satisfiable(parameters, where)
    else:
        json_schema.note_oddities(parameters, where, notes)
    return parameters if "properties" in parameters else {**parameters, "properties": {}}


def _strict(
    functions: list[openai.Function], definitions: list[cohere.Tool], strict_tools: bool | None, notes: Notes
) -> tuple[list[cohere.Tool], bool | UnsetType]:
    """`strict_tools` is all or nothing, and its schemas are compiled: Cohere refuses it where a tool requires no
    parameter or cannot be compiled. The definitions come back in the dialect that it compiles.
    """
    strict_functions = [function for function in functions if function.strict]
    if not strict_functions and not strict_tools:
        return definitions, UNSET
    field = "strict_tools" if strict_tools else "tools[].function.strict"
    if strict_tools is False:
        notes.ignored(field, "strict_tools is false")
        return definitions, UNSET
    schemas = [definition.function.parameters for definition in definitions]
    cleaned: list[tuple[dict[str, Any], list[str]]] = []
    trouble = ""
    if not strict_tools and len(strict_functions) < len(functions):
        trouble = "Cohere enforces all tools or none"
    elif not all(schema.get("required") for schema in schemas):
        trouble = "Cohere needs a required parameter in every tool"
    elif sum(_count(schema.get("properties")) for schema in schemas) > STRICT_FIELDS_LIMIT:
        trouble = f"Cohere allows {STRICT_FIELDS_LIMIT} fields over all tools"
    else:
        cleaned = [json_schema.compilable_subset(schema) for schema in schemas]
        if not all(json_schema.compilable(clean) for clean, _ in cleaned):
            trouble = "Cohere cannot compile the schema of every tool"
    if trouble:
        notes.ignored(field, trouble)
        return definitions, UNSET
    removed = sorted({word for _, words in cleaned for word in words})
    if not removed:
        return definitions, True
    notes.adjusted(
        "tools[].function.parameters", "the schema", f"what Cohere compiles, with other {', '.join(removed)}"
    )
    return [
        replace(definition, function=replace(definition.function, parameters=clean))
        for definition, (clean, _) in zip(definitions, cleaned, strict=True)
    ], True


def _count(properties: Any) -> int:
    if not isinstance(properties, dict):
        return 0
    return len(properties) + sum(
        _count(value.get("properties")) for value in properties.values() if isinstance(value, dict)
    )
