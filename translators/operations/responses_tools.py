"""The tools of a Responses request, which are flat and may stand in namespaces, as the functions that chat has.

Sources: OpenAI's specification, `Tool` and `ToolChoiceParam`; namespaces as Codex sends them
(https://github.com/openai/codex).
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from schemas.openai import chat
from schemas.openai import responses as openai
from translators.core.errors import InvalidField
from translators.core.field_table import NOTED_ONCE, invalid
from translators.core.notes import Notes
from translators.request import other_shapes
from translators.request.client_tools import (
    BUILT_IN,
    ClientTool,
    ClientTools,
    built_in_function,
    custom_function,
)
from translators.request.tools import MODES, Choice, mode_choice, mode_or_name

WITHOUT_EFFECT = {
    "async": "calls are answered in turn",
    "defer_loading": "all tools are sent",
    "allowed_callers": "there are no programs that call tools",
    "output_schema": "Cohere has none",
}
"""Keys of tools that Cohere has nothing for, and why."""

T = TypeVar("T")


class ResponsesTools:
    """The tools of a request, those in namespaces, too, and those that come in its items.

    functions: what chat's rules handle. paths: of each function, for errors. names: the tools' names inside.
    """

    def __init__(self, notes: Notes) -> None:
        self.functions: list[chat.Function] = []
        self.paths: list[str] = []
        self.names = ClientTools()
        self._notes = notes

    def add(self, definition: dict[str, Any], where: str, namespace: str = "") -> None:
        """Adds a tool; one that OpenAI hosts is ignored and noted. Raises InvalidField if it is malformed."""
        definition = other_shapes.tool(definition)
        kind = _converted(definition, openai.NamedTool, where).type
        if kind is None:
            raise _missing(f"{where}.type")
        # OpenAI has no namespaces within namespaces.
        if kind not in ("function", "custom", *BUILT_IN) and (kind != "namespace" or namespace):
            self._notes.ignored(f"tools[].type {kind}", "Cohere has no such tool", f"{where}.type")
            return
        tool = self._read(unwrapped(definition, kind), where)
        # A container is a machine of OpenAI's. As a plain shell tool its commands would run on the caller's machine.
        if _in_container(tool):
            self._notes.ignored("tools[].type shell", "Cohere has no containers", f"{where}.environment")
            return
        if kind in BUILT_IN:
            name = self.names.internal_name(ClientTool(kind, kind))
            self._append(built_in_function(kind, name, self._notes), where)
            return
        if not tool.name:
            raise _missing(f"{where}.name")
        if kind == "namespace":
            for index, nested in enumerate(tool.tools or ()):
                self.add(nested, f"{where}.tools[{index}]", tool.name)
            return
        name = self.names.internal_name(ClientTool(kind, tool.name, namespace))
        if kind == "custom":
            self._append(custom_function(name, tool.description, tool.format, self._notes), where)
        else:
            self._append(chat.Function(name, tool.description, tool.parameters, tool.strict), where)

    def add_later(self, definitions: Sequence[dict[str, Any]], where: str) -> None:
        """Adds the tools of an item. A tool that is defined already, say with `defer_loading`, is defined anew."""
        before = len(self.functions)
        for index, definition in enumerate(definitions):
            self.add(definition, f"{where}.tools[{index}]")
        defined = {function.name for function in self.functions[before:]}
        # The newest definition counts, as it does for a reader of the conversation.
        keep = [
            index for index, function in enumerate(self.functions) if index >= before or function.name not in defined
        ]
        self.functions = [self.functions[index] for index in keep]
        self.paths = [self.paths[index] for index in keep]

    def complete(self) -> list[chat.Function]:
        """Returns all functions. Those of client tools are strict where all others are: Cohere wants all or none."""
        own = [one.strict for one in self.functions if self.names.by_name[one.name].kind == "function"]
        if not own or not all(own):
            return self.functions
        return [replace(function, strict=True) for function in self.functions]

    def _append(self, function: chat.Function, where: str) -> None:
        self.functions.append(function)
        self.paths.append(where)

    def _read(self, definition: dict[str, Any], where: str) -> openai.Tool:
        fields: dict[str, Any] = {}
        for key, value in definition.items():
            if key in openai.Tool.__struct_fields__:
                fields[key] = value
            # These values are OpenAI's defaults, by which nothing is asked for.
            elif value is not None and not (key in WITHOUT_EFFECT and value in (False, ["direct"])):
                why = WITHOUT_EFFECT.get(key, "not known to Cohere")
                self._notes.ignored(key if key in NOTED_ONCE else f"tools[].{key}", why, f"{where}.{key}")
        return _converted(fields, openai.Tool, where)


def unwrapped(definition: dict[str, Any], kind: str) -> dict[str, Any]:
    """Returns a tool without the wrapper that chat has around a definition, `{"type": "function", "function": ...}`."""
    wrapped = definition.get(kind)
    if kind not in ("function", "custom") or not isinstance(wrapped, dict) or "name" in definition:
        return definition
    return {key: value for key, value in definition.items() if key != kind} | wrapped


def _in_container(tool: openai.Tool) -> bool:
    environment = tool.environment
    return isinstance(environment, dict) and str(environment.get("type")).startswith("container")


def _converted(value: Any, kind: type[T], where: str) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise invalid(where, error) from error


def _missing(where: str) -> InvalidField:
    return InvalidField(where, f"Missing required parameter: '{where}'", "missing_required_parameter")


def tool_choice(value: str | dict[str, Any] | None, names: ClientTools, notes: Notes) -> Choice:
    """Reads the caller's `tool_choice`. Raises InvalidField if it is malformed."""
    if value is None or value == "auto":
        return Choice()
    if isinstance(value, str):
        return mode_or_name(value, names)
    choice = _converted(value, openai.ToolChoice, "tool_choice")
    if choice.type in MODES:
        return mode_choice(choice.type, "tool_choice")
    if choice.type == "allowed_tools":
        return _allowed(choice, names, notes)
    if choice.type in ("function", "custom") and not _name(choice):
        raise _missing("tool_choice.name")
    name = _chosen_name(choice, names)
    if name is not None:
        return Choice("required", (name,))
    notes.ignored("tool_choice", f"Cohere has no tool of type {choice.type}")
    return Choice()


def _allowed(choice: openai.ToolChoice, names: ClientTools, notes: Notes) -> Choice:
    """Reads a list of allowed tools. Where it has no tool of the caller's, none may be called."""
    mode, tools = choice.mode or "auto", choice.tools or []
    allowed = [name for tool in tools if (name := _chosen_name(tool, names)) is not None]
    if allowed:
        return Choice(mode, tuple(allowed))
    if mode == "required" and not tools:
        raise InvalidField("tool_choice", "'tool_choice' requires a call and allows no tool", "invalid_value")
    if tools:
        notes.ignored("tool_choice", "Cohere has none of these tools")
    # Only tools that Cohere lacks were allowed. A required call is impossible then, so the model decides. In `auto`
    # mode it must not call any tool that was not allowed.
    return Choice() if mode == "required" else Choice("none")


def _chosen_name(tool: openai.NamedTool | openai.ToolChoice, names: ClientTools) -> str | None:
    kind = tool.type or "function"
    if kind in BUILT_IN:
        return names.chosen_name(kind, kind)
    if kind in ("function", "custom") and (name := _name(tool)):
        return names.chosen_name(kind, name, tool.namespace or "")
    return None


def _name(tool: openai.NamedTool | openai.ToolChoice) -> str | None:
    """Returns the name of a chosen tool, without a wrapper or, as chat has it, in one."""
    wrapped = tool.custom if tool.type == "custom" else tool.function
    return tool.name or (wrapped.name if wrapped else None)
