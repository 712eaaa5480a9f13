"""Makes the items and events of tool calls in a response: each kind of tool has an item type of its own.

The model's output arrives here as text: the arguments of a function, the unwrapped input of a custom tool. Calls of the
built-in kinds become whole items, because OpenAI's API has no deltas for their arguments.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from schemas.openai import responses as openai
from translators.request.client_tools import BUILT_IN, ClientTool

PREFIXES: Mapping[str, str] = {
    "function": "fc",
    "custom": "ctc",
    "shell": "sh",
    "local_shell": "lsh",
    "apply_patch": "apc",
}
"""Prefixes of calls' ids, by the tool's kind."""


def comes_whole(tool: ClientTool) -> bool:
    """Returns whether a tool's calls are only shown when they are complete."""
    return tool.kind in BUILT_IN


def call_item(tool: ClientTool, id: str, status: str, call_id: str, text: str) -> openai.AnsweredToolCall:
    """Makes the item of a call."""
    return _ITEMS[tool.kind](tool, id, status, call_id, text)


def call_delta(tool: ClientTool, id: str, index: int, text: str, number: int) -> Struct:
    """Makes the event of one more piece of a call's text."""
    event = openai.CustomInputDelta if tool.kind == "custom" else openai.ArgumentsDelta
    return event(id, index, text, number)


def call_done(tool: ClientTool, id: str, index: int, text: str, number: int) -> Struct:
    """Makes the event of a call's complete text."""
    if tool.kind == "custom":
        return openai.CustomInputDone(id, index, text, number)
    return openai.ArgumentsDone(id, index, tool.name, text, number)


def _function(tool: ClientTool, id: str, status: str, call_id: str, text: str) -> openai.AnsweredCall:
    return openai.AnsweredCall(id, status, call_id, tool.name, text, namespace=tool.namespace or UNSET)


def _custom(tool: ClientTool, id: str, status: str, call_id: str, text: str) -> openai.AnsweredCustomCall:
    return openai.AnsweredCustomCall(id, status, call_id, tool.name, text, namespace=tool.namespace or UNSET)


def _shell(tool: ClientTool, id: str, status: str, call_id: str, text: str) -> openai.AnsweredShellCall:
    arguments = _object(text)
    # A model may take the name that the other shell's parameter has.
    commands = _first(arguments, "commands", "command")
    action = openai.AnsweredShellAction(
        # What names no command is taken for one itself.
        _strings(commands if commands is not None else text or []),
        _integer(arguments.get("timeout_ms")),
        _integer(arguments.get("max_output_length")),
    )
    return openai.AnsweredShellCall(id, status, call_id, action, {"type": "local"})


def _local_shell(tool: ClientTool, id: str, status: str, call_id: str, text: str) -> openai.AnsweredLocalShellCall:
    arguments = _object(text)
    command, environment = _first(arguments, "command", "commands"), arguments.get("env")
    action: dict[str, Any] = {
        "type": "exec",
        "command": _strings(command if command is not None else text or []),
        "env": _present_texts(environment) if isinstance(environment, dict) else {},
    }
    for name, read in (("timeout_ms", _integer), ("working_directory", _string), ("user", _string)):
        if (value := read(arguments.get(name))) is not None:
            action[name] = value
    return openai.AnsweredLocalShellCall(id, status, call_id, action)


def _apply_patch(tool: ClientTool, id: str, status: str, call_id: str, text: str) -> openai.AnsweredApplyPatchCall:
    arguments = _object(text)
    kind = arguments.get("type")
    operation = {"type": kind if kind in _OPERATIONS else "update_file", "path": _string(arguments.get("path")) or ""}
    if operation["type"] != "delete_file":
        operation["diff"] = _string(arguments.get("diff")) or ""
    # This type of item has no status for a call that was cut short.
    status = "in_progress" if status == "incomplete" else status
    return openai.AnsweredApplyPatchCall(id, status, call_id, operation)


_OPERATIONS = ("create_file", "update_file", "delete_file")

_ITEMS: Mapping[str, Callable[[ClientTool, str, str, str, str], openai.AnsweredToolCall]] = {
    "function": _function,
    "custom": _custom,
    "shell": _shell,
    "local_shell": _local_shell,
    "apply_patch": _apply_patch,
}


# --- arguments of a model that may not have followed the schema --------------------------------------------------


def _object(text: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _first(arguments: Mapping[str, Any], *names: str) -> Any:
    """Returns the value of the first of these names that has one."""
    return next((arguments[name] for name in names if arguments.get(name) is not None), None)


def _strings(value: Any) -> list[str]:
    return [_text(one) for one in value if one is not None] if isinstance(value, list) else [_text(value)]


def _present_texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: _text(value) for key, value in values.items() if value is not None}


def _text(value: Any) -> str:
    """Returns a text as it is, and anything else as the JSON that the model wrote, not as Python would print it."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None
