"""Plans the tools of a request and the choice among them.

Cohere cannot name a tool in `tool_choice`, has no `auto` (absence means it), and its reasoning models refuse
`tool_choice` altogether (docs/cohere-api.md#chat-requests). What is missing is emulated and noted
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
"""Sent for a tool without `parameters`: OpenAI lets them be left out, Cohere requires them."""

STRICT_FIELDS_LIMIT = 200
"""Fields over all tools that `strict_tools` allows (docs/cohere-api.md#chat-requests)."""


class Choice(Struct, frozen=True):
    """The caller's choice. mode: `auto`, `none` or `required`. only: the names that may be called, None for all.

    fields: that the choice and the tools stand in, for errors.
    """

    mode: str = "auto"
    only: tuple[str, ...] | None = None
    fields: tuple[str, str] = ("tool_choice", "tools")


LEGACY_FIELDS = ("function_call", "functions")
"""The old names of `tool_choice` and `tools`."""

ANY_CHOICE = Choice()
"""The model may call tools or not."""


class ToolPlan(Struct, frozen=True):
    """The tools and the choice to send.

    instructions: sentences for the system turn. stray_calls: calls in the answer have to be removed. only: Cohere's
    names of the tools that may be called, empty where all that are sent may. must_call: a call is required, and nothing
    but an instruction says so.
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
    # Functions have their own names inside, whatever else has them, and in whatever order: a caller's history and
    # answers name functions only by these.
    for function in (*(_definition_of(tool) for tool in tools if tool.type == "function"), *functions):
        if function is not None:
            names.internal_name(ClientTool("function", function.name))
    for index, tool in enumerate(tools):
        where = f"tools[{index}].{tool.type}"
        # A refusal would shut out clients that list hosted tools (web search, code) with every request; what is
        # missing, the note says.
        if tool.type not in ("function", "custom"):
            notes.ignored(f"tools[].type {tool.type}", "Cohere has no such tool", f"tools[{index}].type")
            continue
        definition = _definition_of(tool)
        if definition is None:
            raise InvalidField(where, f"Missing required parameter: '{where}'", "missing_required_parameter")
        if definition is tool.function or definition is tool.custom:
            _note_flat_keys(tool, index, notes)
        else:
            where = f"tools[{index}]"
        _check_name(definition.name, where)
        # Cohere has functions only, so two tools of different kinds may not share a name there, which OpenAI allows.
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


_FLAT_KEYS = ("name", "description", "parameters", "strict", "format")


def _definition_of(tool: openai.Tool) -> openai.Function | openai.CustomTool | None:
    """Returns what a function or a custom tool defines, None where it has no definition."""
    definition = tool.function if tool.type == "function" else tool.custom
    return _flat(tool) if definition is None and tool.name is not None else definition


def _flat(tool: openai.Tool) -> openai.Function | openai.CustomTool:
    """Reads a tool in the form of Responses, without a wrapper, which programs that know both APIs send."""
    if tool.type == "custom":
        return openai.CustomTool(tool.name or "", tool.description, tool.format)
    return openai.Function(tool.name or "", tool.description, tool.parameters, tool.strict)


def _note_flat_keys(tool: openai.Tool, index: int, notes: Notes) -> None:
    for key in _FLAT_KEYS:
        if getattr(tool, key) is not None:
            notes.ignored(f"tools[].{key}", f"it stands beside '{tool.type}'", f"tools[{index}].{key}")


def _check_name(name: str, where: str) -> None:
    if not name:
        raise InvalidField(f"{where}.name", f"'{where}.name' must not be empty", "empty_string")


def read_choice(
    tool_choice: str | openai.ToolChoice | None, legacy: str | openai.ChosenName | None, names: ClientTools
) -> Choice:
    """Reads the caller's choice. Raises InvalidField for one that Cohere cannot make.

    legacy: `function_call`, which counts where there is no `tool_choice`. names: of the request's tools.
    """
    # The new field wins: programs set both while they move from one to the other.
    if tool_choice is None and legacy is not None:
        return (
            Choice("required", (legacy.name,), LEGACY_FIELDS)
            if isinstance(legacy, openai.ChosenName)
            else replace(mode_choice(legacy, "function_call"), fields=LEGACY_FIELDS)
        )
    if tool_choice is None:
        return Choice()
    if isinstance(tool_choice, str):
        return mode_or_name(tool_choice, names)
    if tool_choice.type in MODES:
        return mode_choice(tool_choice.type, "tool_choice")
    chosen = _chosen(tool_choice)
    if tool_choice.type in ("function", "custom", ANTHROPICS_TYPE) and chosen:
        return Choice("required", (names.chosen_name(tool_choice.type, chosen),))
    if tool_choice.type == "allowed_tools" and tool_choice.allowed_tools:
        return _allowed(tool_choice.allowed_tools, names)
    if tool_choice.type in ("function", "custom", "allowed_tools"):
        param = f"tool_choice.{tool_choice.type}"
        raise InvalidField(param, f"Missing required parameter: '{param}'", "missing_required_parameter")
    raise InvalidField(
        "tool_choice.type",
        f"A tool_choice of type '{tool_choice.type}' cannot be sent to Cohere",
        "unsupported_value",
    )


def _chosen(tool: openai.ToolChoice | openai.AllowedTool) -> str | None:
    """Returns the name of a chosen tool, in chat's form or, without a wrapper, in that of Responses."""
    definition = tool.function if tool.type == "function" else tool.custom
    return definition.name if definition else tool.name


def _allowed(allowed: openai.AllowedTools, names: ClientTools) -> Choice:
    """Reads a list of allowed tools. An empty one allows no call."""
    chosen = [
        names.chosen_name(tool.type, name)
        for tool in allowed.tools
        if tool.type in ("function", "custom") and (name := _chosen(tool))
    ]
    if not chosen and allowed.mode == "required":
        raise InvalidField("tool_choice", "'tool_choice' requires a call and allows no tool", "invalid_value")
    # Only hosted tools were allowed, of which Cohere has none. To fall back on all tools would call what the caller
    # forbade.
    return Choice(allowed.mode, tuple(chosen)) if chosen else Choice("none")


def without_hosted_tools(choice: Choice, tools: Sequence[Any], notes: Notes) -> Choice:
    """Returns what becomes of a required call in a request without functions.

    tools: of the request, all of which OpenAI hosts. None of them can be called, so no call can be required either: the
    model decides, as it does where a hosted tool is named.
    """
    if choice.only is not None or not tools:
        return choice
    notes.ignored("tool_choice", "Cohere has none of these tools")
    return ANY_CHOICE


MODES = {"auto": "auto", "none": "none", "required": "required", "any": "required"}
"""Modes of a choice. `any` is what several frameworks and Mistral call `required`."""


ANTHROPICS_TYPE = "tool"
"""The type of a choice of Anthropic's that names a tool of any kind."""


def mode_or_name(value: str, names: ClientTools) -> Choice:
    """Reads a `tool_choice` that is a text: a mode, or a tool's name, as Text Generation Inference takes it.

    Raises InvalidField for another text.
    """
    if value not in MODES and any(value == tool.name for tool in names.by_name.values()):
        return Choice("required", (names.chosen_name("function", value),))
    return mode_choice(value or "auto", "tool_choice")


def mode_choice(value: str, field: str) -> Choice:
    """Reads a mode. field: that it stands in. Raises InvalidField for an unknown one."""
    mode = MODES.get(value)
    if mode is None:
        message = f"Invalid '{field}': '{value}' is none of auto, none, required, nor the name of a tool in 'tools'"
        raise InvalidField(field, message, "invalid_value")
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
    """Plans what to send so that this model honours the caller's tools and choice. Raises InvalidField.

    paths: of each function, its path in the request. called: the names of the tools that the history calls, as the
    caller has them. names: of the tools, the caller's and Cohere's.
    """
    # A choice of `required` without tools cannot be met by any model, so no emulation is tried.
    if not functions:
        if choice.mode == "required":
            field, tools = choice.fields
            raise InvalidField(field, f"'{field}' needs '{tools}' to choose from", "invalid_value")
        if strict_tools:
            notes.ignored("strict_tools", "there are no tools")
        return _placeholder_tools(called, capabilities, names, notes)
    # Without calls nothing is lost by leaving the tools out, so this is no reason to refuse the request.
    if not capabilities.tools and choice.mode == "none":
        notes.emulated("tool_choice", "none: the tools are left out")
        return ToolPlan()
    if not capabilities.tools:
        raise InvalidField("tools", "This model of Cohere's does not use tools", "unsupported_value")
    # An unknown name is an error here and not a note: most likely a typing error, and the request would otherwise go
    # out without any tool.
    callable_functions = functions if choice.only is None else _filtered(functions, choice.only, choice.fields)
    called_names, callable_names = frozenset(called), {function.name for function in callable_functions}
    # A named tool is honoured by sending no other. But models that need the tools of the history defined (422 without
    # them, docs/cohere-api.md#messages) get these, too, and an instruction not to call them.
    history_only = [
        function
        for function in functions
        if capabilities.keeps_tools and function.name in called_names and function.name not in callable_names
    ]
    definition_ids = {id(function) for function in (*callable_functions, *history_only)}
    definitions = [
        _definition(function, where, bool(strict_tools or function.strict), names, capabilities, notes)
        for function, where in zip(functions, paths, strict=True)
        # By identity: two tools may be equal, and each has a path of its own for errors.
        if id(function) in definition_ids
    ]
    definitions, strict = _strict([*callable_functions, *history_only], definitions, strict_tools, notes)
    if choice.mode == "none":
        return _without_calls(definitions, strict, capabilities, bool(called), notes)
    choice_names = [names.upstream_name(function.name) for function in callable_functions]
    if choice.only is not None:
        how = "an instruction names them, the answer is checked" if history_only else "only these tools are sent"
        notes.emulated("tool_choice", how)
    instructions = (_must_call(choice_names, choice.mode),) if history_only else ()
    upstream_choice: Any = UNSET
    must_call = choice.mode == "required" and not capabilities.tool_choice
    if must_call and not instructions:
        notes.emulated("tool_choice", "required: an instruction to the model")
        instructions = (_must_call(choice_names, choice.mode),)
    elif choice.mode == "required" and capabilities.tool_choice:
        upstream_choice = "REQUIRED"
    only = frozenset(choice_names) if history_only else frozenset()
    return ToolPlan(definitions, upstream_choice, strict, instructions, only=only, must_call=must_call)


def _without_calls(
    definitions: list[cohere.Tool], strict: bool | UnsetType, capabilities: Capabilities, called: bool, notes: Notes
) -> ToolPlan:
    """Plans `tool_choice: none`: Cohere's NONE, or what comes nearest on a model that refuses it.

    called: the history calls tools, so that they cannot be left out.
    """
    if capabilities.tool_choice:
        return ToolPlan(definitions, "NONE", strict)
    if called:
        notes.emulated("tool_choice", "none: calls are kept from the answer")
        return ToolPlan(definitions, UNSET, strict, (_NO_CALLS,), stray_calls=True)
    notes.emulated("tool_choice", "none: the tools are left out")
    return ToolPlan()


def _placeholder_tools(called: list[str], capabilities: Capabilities, names: ToolNames, notes: Notes) -> ToolPlan:
    """Defines the tools that the history calls and the request does not define, without parameters."""
    # They are there to satisfy Cohere, so the model must not call them: the caller could not run them.
    if not called or not capabilities.keeps_tools or not capabilities.tools:
        return ToolPlan()
    # Some agents drop their tools for the last turn, to make the model sum up. With Cohere that would be a 422 at the
    # very end of a session.
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


def _filtered(
    functions: list[openai.Function], only: tuple[str, ...], fields: tuple[str, str]
) -> list[openai.Function]:
    field, tools = fields
    defined_names = {function.name for function in functions}
    for name in only:
        if name not in defined_names:
            raise InvalidField(field, f"'{field}' names the tool '{name}', which '{tools}' lacks")
    names = frozenset(only)
    return [function for function in functions if function.name in names]


def _definition(
    function: openai.Function, where: str, strict: bool, names: ToolNames, capabilities: Capabilities, notes: Notes
) -> cohere.Tool:
    parameters = _parameters(function, f"{where}.parameters", strict, notes)
    if capabilities.typed_tools:
        parameters = json_schema.with_types(parameters)
    description = function.description if function.description is not None else UNSET
    return cohere.Tool(cohere.ToolFunction(names.upstream_name(function.name), parameters, description))


def _parameters(function: openai.Function, where: str, strict: bool, notes: Notes) -> dict[str, Any]:
    """Returns the object schema of a tool's parameters. Raises InvalidField for a schema that is not an object's.

    A bare map of properties, which leads to failed generations (docs/cohere-api.md#tools), is wrapped. Without `strict`
    a schema is sent even if it is not quite valid.
    """
    parameters = function.parameters
    if not parameters:
        return NO_PARAMETERS
    if not strict:
        changes: dict[str, str] = {}
        parameters = json_schema.tidy(parameters, changes)
        for before, after in changes.items():
            notes.adjusted(where, before, after)
    parameters = json_schema.inline_root_reference(parameters)
    if "type" not in parameters and "$ref" not in parameters:
        if "properties" in parameters:
            parameters = {"type": "object", **parameters}
        elif all(isinstance(value, dict) for value in parameters.values()):
            parameters = {"type": "object", "properties": parameters}
    # Generators make an optional object of a function without required parameters.
    if parameters.get("type") == ["object", "null"]:
        parameters = {**parameters, "type": "object"}
    if parameters.get("type") != "object":
        raise InvalidField(where, f"Invalid schema for '{where}': its type must be 'object'", "invalid_schema")
    # A schema with these of another type cannot be repaired or read by anybody: it is refused even without `strict`.
    readable = isinstance(parameters.get("properties", {}), dict) and isinstance(parameters.get("required", []), list)
    if strict or not readable:
        json_schema.check(parameters, where)
        json_schema.check_satisfiable(parameters, where)
    else:
        json_schema.note_oddities(parameters, where, notes)
    return parameters if "properties" in parameters else {**parameters, "properties": {}}


def _strict(
    functions: list[openai.Function], definitions: list[cohere.Tool], strict_tools: bool | None, notes: Notes
) -> tuple[list[cohere.Tool], bool | UnsetType]:
    """Decides on `strict_tools`, and returns the definitions in the dialect that Cohere then compiles.

    strict_tools: the caller's field of Cohere's. It is all or nothing: Cohere refuses it where one tool has no required
    parameter or a schema that cannot be compiled. In these cases it is left out and noted.
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
    obstacle = ""
    if not strict_tools and len(strict_functions) < len(functions):
        obstacle = "Cohere enforces all tools or none"
    elif not all(schema.get("required") for schema in schemas):
        obstacle = "Cohere needs a required parameter in every tool"
    elif sum(_count(schema.get("properties")) for schema in schemas) > STRICT_FIELDS_LIMIT:
        obstacle = f"Cohere allows {STRICT_FIELDS_LIMIT} fields over all tools"
    else:
        cleaned = [json_schema.compilable_subset(schema) for schema in schemas]
        if not all(json_schema.compilable(clean) for clean, _ in cleaned):
            obstacle = "Cohere cannot compile the schema of every tool"
    if obstacle:
        notes.ignored(field, obstacle)
        return definitions, UNSET
    removed = sorted({keyword for _, keywords in cleaned for keyword in keywords})
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
