"""Tools of a Responses request, which are flat and may stand in namespaces, as the functions that chat knows.

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
"""Between a namespace and its function, in the name that both share inside: no caller ever sees it."""

T = TypeVar("T")


def internal_name(namespace: str | None, name: str) -> str:
    """The name under which chat's rules know a function of a namespace."""
    return f"{namespace}{NAMESPACE_SEPARATOR}{name}" if namespace else name


class ResponsesTools:
    """The function tools of a request, those inside namespaces, too.

    places: the path of each function, for errors. namespaces: the name that a function has inside -> its namespace and
    its own name.
    """

    def __init__(self, notes: Notes) -> None:
        self.functions: list[chat.Function] = []
        self.places: list[str] = []
        self.namespaces: dict[str, tuple[str, str]] = {}
        self._notes = notes

    def add(self, given: dict[str, Any], where: str, namespace: str = "") -> None:
        """Takes a tool; one that OpenAI hosts is ignored and noted. Raises InvalidField on what is no tool."""
        kind = _converted(given, openai.NamedTool, where).type
        if kind is None:
            raise _missing(f"{where}.type")
        if kind != "function" and (kind != "namespace" or namespace):
            self._notes.ignored(f"tools[].type {kind}", "Cohere has no such tool", f"{where}.type")
            return
        known: dict[str, Any] = {}
        for key, value in given.items():
            if key in openai.Tool.__struct_fields__:
                known[key] = value
            elif value is not None:
                self._notes.ignored(
                    key if key in NOTED_ONCE else f"tools[].{key}", "not known to Cohere", f"{where}.{key}"
                )
        tool = _converted(known, openai.Tool, where)
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
        self.places.append(where)


def _converted(value: Any, kind: type[T], where: str) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise invalid(where, error) from error


def _missing(where: str) -> InvalidField:
    return InvalidField(where, f"Missing required parameter: '{where}'", "missing_required_parameter")


def chosen(given: str | dict[str, Any] | None, notes: Notes) -> Choice:
    """The caller's `tool_choice`. Raises InvalidField on one that is none."""
    if given is None or given == "auto":
        return Choice()
    wish = given if isinstance(given, str) else _converted(given, openai.ToolChoice, "tool_choice")
    if isinstance(wish, str):
        if wish not in ("none", "required"):
            raise InvalidField("tool_choice", f"Invalid 'tool_choice': '{wish}' is none of auto, none, required")
        return Choice(wish)
    if wish.type == "function":
        if not wish.name:
            raise _missing("tool_choice.name")
        return Choice("required", (wish.name,))
    if wish.type == "allowed_tools":
        names = tuple(tool.name for tool in wish.tools or () if tool.name and tool.type in (None, "function"))
        return Choice(wish.mode or "auto", names)
    notes.ignored("tool_choice", f"Cohere has no tool of type {wish.type}")
    return Choice()
