"""The tools of a Responses request, which are flat and may stand in namespaces, as the functions that chat has.

Source: OpenAI's specification, `Tool` and `ToolChoiceParam`; namespaces as Codex sends them
(https://github.com/openai/codex).
"""

from typing import Any, TypeVar

import msgspec

from schemas.openai import chat
from schemas.openai import responses as openai
from translators.core.errors import InvalidField
from translators.core.field_table import NOTED_ONCE, invalid
from translators.core.notes import Notes
from translators.request.tools import Choice

NAMESPACE_SEPARATOR = "."
"""Between a namespace and its function in the internal name of both, which no caller ever sees."""

T = TypeVar("T")


def internal_name(namespace: str | None, name: str) -> str:
    """Returns the name under which chat's rules handle a function of a namespace."""
    return f"{namespace}{NAMESPACE_SEPARATOR}{name}" if namespace else name


class ResponsesTools:
    """The function tools of a request, those in namespaces, too.

    paths: of each function, for errors. namespaces: internal name -> namespace and own name.
    """

    def __init__(self, notes: Notes) -> None:
        self.functions: list[chat.Function] = []
        self.paths: list[str] = []
        self.namespaces: dict[str, tuple[str, str]] = {}
        self._notes = notes

    def add(self, definition: dict[str, Any], where: str, namespace: str = "") -> None:
        """Adds a tool; one that OpenAI hosts is ignored and noted. Raises InvalidField if it is malformed."""
        kind = _converted(definition, openai.NamedTool, where).type
        if kind is None:
            raise _missing(f"{where}.type")
        if kind != "function" and (kind != "namespace" or namespace):
            self._notes.ignored(f"tools[].type {kind}", "Cohere has no such tool", f"{where}.type")
            return
        fields: dict[str, Any] = {}
        for key, value in definition.items():
            if key in openai.Tool.__struct_fields__:
                fields[key] = value
            elif value is not None:
                self._notes.ignored(
                    key if key in NOTED_ONCE else f"tools[].{key}", "not known to Cohere", f"{where}.{key}"
                )
        tool = _converted(fields, openai.Tool, where)
        if not tool.name:
            raise _missing(f"{where}.name")
        if kind == "namespace":
            for index, nested in enumerate(tool.tools or ()):
                self.add(nested, f"{where}.tools[{index}]", tool.name)
            return
        name = internal_name(namespace, tool.name)
        if namespace:
            self.namespaces[name] = (namespace, tool.name)
        self.functions.append(chat.Function(name, tool.description, tool.parameters, tool.strict))
        self.paths.append(where)


def _converted(value: Any, kind: type[T], where: str) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise invalid(where, error) from error


def _missing(where: str) -> InvalidField:
    return InvalidField(where, f"Missing required parameter: '{where}'", "missing_required_parameter")


def tool_choice(value: str | dict[str, Any] | None, notes: Notes) -> Choice:
    """Reads the caller's `tool_choice`. Raises InvalidField if it is malformed."""
    if value is None or value == "auto":
        return Choice()
    choice = value if isinstance(value, str) else _converted(value, openai.ToolChoice, "tool_choice")
    if isinstance(choice, str):
        if choice not in ("none", "required"):
            raise InvalidField("tool_choice", f"Invalid 'tool_choice': '{choice}' is none of auto, none, required")
        return Choice(choice)
    if choice.type == "function":
        if not choice.name:
            raise _missing("tool_choice.name")
        return Choice("required", (choice.name,))
    if choice.type == "allowed_tools":
        names = tuple(tool.name for tool in choice.tools or () if tool.name and tool.type in (None, "function"))
        return Choice(choice.mode or "auto", names)
    notes.ignored("tool_choice", f"Cohere has no tool of type {choice.type}")
    return Choice()
