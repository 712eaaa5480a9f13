"""Turns the client's tools that are not functions at OpenAI into functions, the only tools that Cohere has.

    custom        a function of one text, `input`, with the grammar in its description
    shell         a function with the arguments of a `shell_call`'s action
    local_shell   a function with the arguments of a `local_shell_call`'s action
    apply_patch   a function with the arguments of an `apply_patch_call`'s operation

Functions and these tools share one name space at Cohere. `ClientTools` gives each an internal name there and translates
it back. Sources: OpenAI's specification, `CustomToolParam`, `FunctionShellAction`, `LocalShellExecAction` and
`ApplyPatchOperationParam`; https://platform.openai.com/docs/guides/tools-apply-patch.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from schemas.openai import chat as openai
from translators.core.notes import Notes

# No character of Cohere's names (docs/cohere-api.md#tools), so `ToolNames` replaces it in what is sent.
NAMESPACE_SEPARATOR = "."
"""Separates a namespace and its tool in their internal name, which no caller ever sees."""

CUSTOM_INPUT = "input"
"""The only parameter of a custom tool's function."""

BUILT_IN = ("shell", "local_shell", "apply_patch")
"""Kinds of tools whose name is their kind."""


class ClientTool(Struct, frozen=True):
    """A tool under the caller's name. kind: `function`, `custom` or one of BUILT_IN."""

    kind: str
    name: str
    namespace: str = ""


class ClientTools(Struct):
    """The tools of one request by their internal names: those that are defined, called in the history or chosen."""

    by_name: dict[str, ClientTool] = {}
    _names: dict[ClientTool, str] = {}

    def internal_name(self, tool: ClientTool) -> str:
        """Returns the internal name of a tool: its own, unless another tool has it."""
        name = self._names.get(tool)
        if name is None:
            name = f"{tool.namespace}{NAMESPACE_SEPARATOR}{tool.name}" if tool.namespace else tool.name
            # Two kinds of tools may have one name at OpenAI, but Cohere only has functions.
            if name in self.by_name:
                name = f"{tool.kind}{NAMESPACE_SEPARATOR}{name}"
            while name in self.by_name:
                name += "_"
            self._names[tool], self.by_name[name] = name, tool
        return name

    def chosen_name(self, kind: str, name: str, namespace: str = "") -> str:
        """Returns the internal name of a tool that `tool_choice` names."""
        # Some clients choose every tool as a function, whatever its kind.
        tool = ClientTool(kind, name, namespace)
        if tool not in self._names:
            same_name = (one for one in self._names if (one.name, one.namespace) == (name, namespace))
            tool = next(same_name, tool)
        return self.internal_name(tool)

    @property
    def custom(self) -> Mapping[str, str]:
        """The internal names of the custom tools -> their own."""
        return {name: tool.name for name, tool in self.by_name.items() if tool.kind == "custom"}


def custom_function(name: str, description: str | None, form: Any, notes: Notes) -> openai.Function:
    """Makes the function of a custom tool. form: its `format`, in the spelling of either operation."""
    notes.emulated("tools[].type custom", f"a function of one text, '{CUSTOM_INPUT}'")
    sentences = [description or "", _format_sentence(form)]
    parameter = {"type": "string", "description": "The input of the tool, as plain text."}
    parameters = {"type": "object", "properties": {CUSTOM_INPUT: parameter}, "required": [CUSTOM_INPUT]}
    return openai.Function(name, "\n\n".join(filter(None, sentences)) or None, parameters)


def built_in_function(kind: str, name: str, notes: Notes) -> openai.Function:
    """Makes the function of a tool of BUILT_IN."""
    notes.emulated(f"tools[].type {kind}", "a function")
    return openai.Function(name, _DESCRIPTIONS[kind], _PARAMETERS[kind])


def custom_arguments(text: str) -> str:
    """Writes the input of a custom tool's call as the arguments of its function."""
    return msgspec.json.encode({CUSTOM_INPUT: text}).decode()


def _format_sentence(form: Any) -> str:
    """Describes a grammar in words. Chat has it one level deeper than Responses."""
    if not isinstance(form, dict) or form.get("type") != "grammar":
        return ""
    nested = form.get("grammar")
    grammar: dict[str, Any] = nested if isinstance(nested, dict) else form
    definition, syntax = grammar.get("definition"), grammar.get("syntax")
    if not isinstance(definition, str):
        return ""
    what = "regular expression" if syntax == "regex" else f"{syntax or 'lark'} grammar"
    return f"The whole input must match this {what}:\n{definition}"


# --- the definitions of the tools that have none of their own ---------------------------------------------------

_STRINGS = {"type": "array", "items": {"type": "string"}}
_INTEGER = {"type": "integer"}

_DESCRIPTIONS: Mapping[str, str] = {
    "shell": (
        "Runs commands in the shell of the user's machine and returns what they print. Each command is one line of the "
        "shell; they run one after another."
    ),
    "local_shell": "Runs one command on the user's machine and returns what it prints. `command` is a list of words.",
    "apply_patch": (
        "Creates, updates or deletes one file of the user's. `diff` is needed unless a file is deleted. To create a "
        "file, every line of it begins with '+'. To update one, lines begin with '+' (added), '-' (removed) or a space "
        "(context), in sections that begin with a line '@@'. The diff has no file header and no line numbers."
    ),
}

# Each requires a parameter: Cohere compiles no object that requires none (docs/cohere-api.md#json-schemas).
_PARAMETERS: Mapping[str, dict[str, Any]] = {
    "shell": {
        "type": "object",
        "properties": {
            "commands": {**_STRINGS, "description": "The commands, in order."},
            "timeout_ms": {**_INTEGER, "description": "The most milliseconds that they may take."},
            "max_output_length": {**_INTEGER, "description": "The most characters to return."},
        },
        "required": ["commands"],
    },
    "local_shell": {
        "type": "object",
        "properties": {
            "command": {**_STRINGS, "description": "The program and its arguments."},
            "env": {"type": "object", "additionalProperties": {"type": "string"}},
            "timeout_ms": _INTEGER,
            "working_directory": {"type": "string"},
            "user": {"type": "string"},
        },
        "required": ["command"],
    },
    "apply_patch": {
        "type": "object",
        "properties": {
            "type": {"type": "string", "enum": ["create_file", "update_file", "delete_file"]},
            "path": {"type": "string"},
            "diff": {"type": "string"},
        },
        "required": ["type", "path"],
    },
}
