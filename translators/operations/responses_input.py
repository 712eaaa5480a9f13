"""Reads input items of the Responses API as chat's messages.

An assistant turn arrives as several items (reasoning, message, calls). They become one message, because Cohere would
read several messages as several turns. Errors have the path of the item, such as `input[3].content[0]`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from schemas.openai import chat
from schemas.openai import responses as openai
from translators.core.contracts import Context
from translators.core.errors import InvalidField, NotStored
from translators.core.field_table import decode_field, invalid
from translators.core.notes import Notes
from translators.operations.responses_answer import answer_id
from translators.operations.responses_summary import REPLACES_ALL
from translators.operations.responses_tools import ResponsesTools
from translators.request import other_shapes
from translators.request.client_tools import ClientTool, custom_arguments

_kind = msgspec.json.Decoder(openai.ItemKind).decode
_DECODERS: dict[str, "msgspec.json.Decoder[Any]"] = {
    "message": msgspec.json.Decoder(openai.MessageItem),
    "function_call": msgspec.json.Decoder(openai.FunctionCallItem),
    "function_call_output": msgspec.json.Decoder(openai.FunctionCallOutputItem),
    "custom_tool_call": msgspec.json.Decoder(openai.CustomCallItem),
    "custom_tool_call_output": msgspec.json.Decoder(openai.FunctionCallOutputItem),
    "shell_call": msgspec.json.Decoder(openai.ShellCallItem),
    "shell_call_output": msgspec.json.Decoder(openai.ShellOutputItem),
    "local_shell_call": msgspec.json.Decoder(openai.LocalShellCallItem),
    "local_shell_call_output": msgspec.json.Decoder(openai.LocalShellOutputItem),
    "apply_patch_call": msgspec.json.Decoder(openai.ApplyPatchCallItem),
    "apply_patch_call_output": msgspec.json.Decoder(openai.ApplyPatchOutputItem),
    "additional_tools": msgspec.json.Decoder(openai.ToolsItem),
    "tool_search_output": msgspec.json.Decoder(openai.ToolsItem),
    "configuration_update": msgspec.json.Decoder(openai.ConfigurationItem),
    "reasoning": msgspec.json.Decoder(openai.ReasoningInput),
    "item_reference": msgspec.json.Decoder(openai.ItemReference),
    "compaction": msgspec.json.Decoder(openai.CompactionInput),
    "compaction_summary": msgspec.json.Decoder(openai.CompactionInput),  # Codex's older name
}

BLANK_LINE = "\n\n"
SUMMARY_INTRODUCTION = "The earlier part of this conversation was replaced by this summary:\n\n"
"""The text before a summary in the system message."""

MAX_TYPE_LENGTH = 64
"""Characters of an unknown item's type that are shown in a note."""

HOSTED_ITEMS = frozenset(
    {
        *("web_search_call", "file_search_call", "computer_call", "computer_call_output", "code_interpreter_call"),
        *("image_generation_call", "mcp_call", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response"),
        *("tool_search_call", "program", "program_output"),
    }
)
"""Items of tools that OpenAI runs itself. They are left out and noted, as the tools are."""


_CUT = frozenset({"incomplete", "in_progress"})
"""Statuses of a call that was cut short: `apply_patch_call` has no `incomplete`."""


class _Turn(Struct):
    """An assistant turn that is being collected. where: the path of its first item."""

    thoughts: list[str] = []
    texts: list[str] = []
    calls: list[chat.ToolCall] = []
    where: str = ""

    def message(self) -> chat.AssistantMessage:
        return chat.AssistantMessage(
            content=BLANK_LINE.join(text for text in self.texts if text) or None,
            reasoning_content=BLANK_LINE.join(self.thoughts) or None,
            tool_calls=self.calls or None,
        )


class InputReader:
    """Reads items one after another into chat messages.

    paths: the `id()` of each message -> the path of its first item. summaries: the `id()` of each summary among them.
    tools: of the request, which items may add to. configurations: the `configuration_update` items in order, each with
    its path. compaction: the path of a `compaction_trigger` at the end, empty without one. context: decrypts, and has
    the items that are referred to.
    """

    def __init__(self, notes: Notes, context: Context, tools: ResponsesTools | None = None) -> None:
        self.messages: list[chat.Message] = []
        self.paths: dict[int, str] = {}
        self.summaries: set[int] = set()
        self.configurations: list[tuple[str, openai.ConfigurationItem]] = []
        self.compaction = ""
        self._notes, self._context, self._tools = notes, context, tools or ResponsesTools(notes)
        self._turn: _Turn | None = None
        self._called: set[str] = set()
        self._cut: dict[str, tuple[list[chat.ToolCall], chat.ToolCall, str]] = {}  # by call id: not answered yet
        self._call_ids: dict[str, str] = {}  # id of a local_shell_call -> its call id
        self._seen: set[str] = set()

    def read(self, items: Sequence[Raw], name: str) -> None:
        """Reads these items. name: of the field that holds them, for paths. Raises InvalidField."""
        for index, raw in enumerate(items):
            self._item(raw, f"{name}[{index}]")

    def finish(self) -> None:
        """Ends the last turn, and leaves out calls that were cut short and never answered."""
        self._end_turn()
        for call_id in list(self._cut):
            self._leave_out(call_id)

    def add(self, message: chat.Message, where: str) -> None:
        """Adds a message, made of the item at this path."""
        self.messages.append(message)
        self.paths[id(message)] = where

    def with_paths(self, messages: list[chat.Message]) -> list[chat.Message]:
        """Returns messages that were made of its own, one of each, and gives them the paths of these."""
        self.paths |= {id(new): self.paths[id(one)] for one, new in zip(self.messages, messages, strict=True)}
        return messages

    def _item(self, raw: Raw, where: str) -> None:
        try:
            kind = _kind(raw)
        except msgspec.ValidationError as error:
            raise invalid(where, error) from error
        name = kind.type or ("message" if kind.role else "item_reference")
        if self.compaction:
            self._notes.ignored("input[].type compaction_trigger", "it is not the last item", f"{self.compaction}.type")
            self.compaction = ""
        if name == "compaction_trigger":
            self.compaction = where
            return
        decoder = _DECODERS.get(name)
        if decoder is None:
            why = "Cohere has no such tool" if name in HOSTED_ITEMS else "not known to Cohere"
            self._notes.ignored(f"input[].type {name[:MAX_TYPE_LENGTH]}", why, f"{where}.type")
            return
        item = decode_field(where, decoder, raw, self._notes, other_shapes.input_item)
        if item.id and name != "item_reference":
            # Only ids that were made here are unique. The output of a local shell has the id of its call.
            own = answer_id(item.id) and name != "local_shell_call_output"
            if item.id in self._seen and own and where.startswith("input"):
                return  # a client that sends the history and `previous_response_id` has this item twice
            self._seen.add(item.id)
        _READ[type(item)](self, item, where)

    def _assistant(self, where: str) -> _Turn:
        if self._turn is None:
            self._turn = _Turn(where=where)
        return self._turn

    def _end_turn(self) -> None:
        if self._turn is not None:
            self.add(self._turn.message(), self._turn.where)
            self._turn = None

    # --- one method for each kind of item -------------------------------------------------------------------------

    def _message(self, item: openai.MessageItem, where: str) -> None:
        content = item.content or ""
        if item.role == "assistant":
            turn = self._assistant(where)
            if turn.texts and not turn.calls:
                # Two messages in a row without a call between them are two turns.
                self._end_turn()
                turn = self._assistant(where)
            turn.texts.append(_text(content, f"{where}.content"))
            return
        self._end_turn()
        if item.role == "user":
            self.add(chat.UserMessage(_user_content(content, f"{where}.content")), where)
        elif text := _text(content, f"{where}.content"):
            self.add(chat.SystemMessage(text), where)

    def _reasoning(self, item: openai.ReasoningInput, where: str) -> None:
        parts = item.content or item.summary or []
        thought = BLANK_LINE.join(part.text for part in parts if part.text)
        if not thought and item.encrypted_content:
            # Another gateway, another key, or OpenAI itself may have encrypted it: the conversation goes on without.
            decrypted = self._context.conversation.decrypt_reasoning(item.encrypted_content)
            if decrypted is None:
                self._notes.ignored("input[].encrypted_content", "it was not made here", f"{where}.encrypted_content")
            thought = decrypted or ""
        if thought:
            self._assistant(where).thoughts.append(thought)

    def _function_call(self, item: openai.FunctionCallItem, where: str) -> None:
        tool = ClientTool("function", item.name, item.namespace or "")
        if item.is_async:
            self._notes.ignored("input[].async", "calls are answered in turn", f"{where}.async")
        self._add_call(item.call_id, tool, item.arguments, item.status, where)

    def _custom_call(self, item: openai.CustomCallItem, where: str) -> None:
        tool = ClientTool("custom", item.name, item.namespace or "")
        self._add_call(item.call_id, tool, custom_arguments(item.input), item.status, where)

    def _shell_call(self, item: openai.ShellCallItem, where: str) -> None:
        self._add_call(item.call_id, ClientTool("shell", "shell"), _json(item.action), item.status, where)

    def _local_shell_call(self, item: openai.LocalShellCallItem, where: str) -> None:
        action = {key: value for key, value in item.action.items() if key != "type" and value is not None}
        if item.id:
            self._call_ids[item.id] = item.call_id
        self._add_call(item.call_id, ClientTool("local_shell", "local_shell"), _json(action), item.status, where)

    def _apply_patch_call(self, item: openai.ApplyPatchCallItem, where: str) -> None:
        self._add_call(
            item.call_id, ClientTool("apply_patch", "apply_patch"), _json(item.operation), item.status, where
        )

    def _add_call(self, call_id: str, tool: ClientTool, arguments: Any, status: str | None, where: str) -> None:
        """Adds a call to the assistant's turn. `tool_results.py` finds calls that are repeated."""
        function = chat.FunctionCall(self._tools.names.internal_name(tool), arguments)
        self._called.add(call_id)
        self._leave_out(call_id, function)
        calls = self._assistant(where).calls
        calls.append(chat.ToolCall(function, call_id))
        if status in _CUT:
            self._cut[call_id] = calls, calls[-1], where

    def _leave_out(self, call_id: str, again: chat.FunctionCall | None = None) -> None:
        """Leaves out a call that was cut short and has no result, because Cohere refuses a call without one.

        again: a later call with the same id. If it begins like the one that was cut, it replaces it without a note.
        """
        if call_id in self._cut:
            calls, cut, where = self._cut.pop(call_id)
            # In place, as the message of the turn may have this very list already.
            calls[:] = [call for call in calls if call is not cut]
            if again is not None and _continues(again, cut.function):
                return
            self._notes.ignored("tool_calls", "a call that was cut, without a result", where)

    def _output(self, item: openai.FunctionCallOutputItem, where: str) -> None:
        content = item.output or ""
        if isinstance(content, list):
            content = _output_content(content, f"{where}.output")
        self._add_output(item.call_id, content, where)

    def _shell_output(self, item: openai.ShellOutputItem, where: str) -> None:
        self._add_output(item.call_id, item.output if isinstance(item.output, str) else _json(item.output), where)

    def _local_shell_output(self, item: openai.LocalShellOutputItem, where: str) -> None:
        call_id = item.call_id or item.id or ""
        call_id = self._call_ids.get(call_id, call_id)
        self._add_output(call_id, item.output, where)

    def _apply_patch_output(self, item: openai.ApplyPatchOutputItem, where: str) -> None:
        failed = item.status == "failed"
        # A patch that was applied may say nothing. Cohere refuses an empty result (docs/cohere-api.md#messages).
        content = item.output or item.status or "completed"
        self._add_output(item.call_id, f"failed: {content}" if failed and item.output else content, where)

    def _add_output(self, call_id: str, content: Any, where: str) -> None:
        self._end_turn()
        if call_id not in self._called:
            raise InvalidField(f"{where}.call_id", f"No earlier tool call has the call_id '{call_id}'")
        self._cut.pop(call_id, None)
        self.add(chat.ToolMessage(call_id, content), where)

    def _add_tools(self, item: openai.ToolsItem, where: str) -> None:
        self._tools.add_later(item.tools, where)

    def _configuration(self, item: openai.ConfigurationItem, where: str) -> None:
        self.configurations.append((where, item))

    def _compaction(self, item: openai.CompactionInput, where: str) -> None:
        self._end_turn()
        summary = self._context.conversation.decrypt_summary(item.encrypted_content)
        if summary is None:
            self._notes.ignored("input[].encrypted_content", "it was not made here", f"{where}.encrypted_content")
            return
        if summary.startswith(REPLACES_ALL):
            summary = summary.removeprefix(REPLACES_ALL)
            # Instructions are no part of the conversation that was summarised. An earlier summary is.
            self.messages = [
                one for one in self.messages if isinstance(one, chat.SystemMessage) and id(one) not in self.summaries
            ]
            self.summaries.clear()
        # Behind the instructions and before everything else, because it summarises what came before that.
        others = (index for index, one in enumerate(self.messages) if not isinstance(one, chat.SystemMessage))
        message = chat.SystemMessage(SUMMARY_INTRODUCTION + summary)
        self.messages.insert(next(others, len(self.messages)), message)
        self.paths[id(message)] = where
        self.summaries.add(id(message))

    def _reference(self, item: openai.ItemReference, where: str) -> None:
        """Reads the item that is referred to, unless it was read already. Raises NotStored."""
        if item.id in self._seen:
            return
        stored = self._context.conversation.items.get(item.id)
        if stored is None:
            message = f"Item with id '{item.id}' not found: only items that were stored can be referred to"
            raise NotStored(f"{where}.id", message, "item_not_found")
        self._item(Raw(stored), where)
        self._seen.add(item.id)


_READ: dict[type, Callable[[InputReader, Any, str], None]] = {
    openai.MessageItem: InputReader._message,
    openai.ReasoningInput: InputReader._reasoning,
    openai.FunctionCallItem: InputReader._function_call,
    openai.FunctionCallOutputItem: InputReader._output,
    openai.CustomCallItem: InputReader._custom_call,
    openai.ShellCallItem: InputReader._shell_call,
    openai.ShellOutputItem: InputReader._shell_output,
    openai.LocalShellCallItem: InputReader._local_shell_call,
    openai.LocalShellOutputItem: InputReader._local_shell_output,
    openai.ApplyPatchCallItem: InputReader._apply_patch_call,
    openai.ApplyPatchOutputItem: InputReader._apply_patch_output,
    openai.ToolsItem: InputReader._add_tools,
    openai.ConfigurationItem: InputReader._configuration,
    openai.ItemReference: InputReader._reference,
    openai.CompactionInput: InputReader._compaction,
}


def _text(content: str | list[openai.Part], where: str) -> str:
    """Joins the texts of a content. Raises InvalidField for a part that is no text."""
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for index, part in enumerate(content):
        if isinstance(part, openai.InputText | openai.OutputText | openai.PlainText):
            texts.append(part.text)
        elif isinstance(part, openai.Refusal):
            texts.append(part.refusal)
        else:
            raise _unsupported(part, f"{where}[{index}]", "text")
    return BLANK_LINE.join(text for text in texts if text)


def _output_content(content: list[openai.Part], where: str) -> Any:
    """Returns a tool's output, as one text where it consists of text."""
    if any(isinstance(part, openai.InputImage | openai.ChatImage | openai.InputFile) for part in content):
        return _user_content(content, where)
    return _text(content, where)


def _continues(later: chat.FunctionCall, cut: chat.FunctionCall | None) -> bool:
    """Returns whether a call repeats one that was cut short, with as many of its arguments or more."""
    return cut is not None and later.name == cut.name and str(later.arguments).startswith(str(cut.arguments))


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _user_content(content: str | list[openai.Part], where: str) -> Any:
    if isinstance(content, str):
        return content
    parts: list[chat.TextPart | chat.ImagePart | chat.FilePart] = []
    for index, part in enumerate(content):
        if isinstance(part, openai.InputText | openai.OutputText | openai.PlainText):
            parts.append(chat.TextPart(part.text))
        elif isinstance(part, openai.InputImage | openai.ChatImage) and part.image_url:
            parts.append(_image(part, part.image_url))
        elif isinstance(part, openai.InputFile):
            parts.append(chat.FilePart(chat.FileData(part.file_data, part.filename, part.file_id, part.file_url)))
        else:
            raise _unsupported(part, f"{where}[{index}]", "text, files and images by URL")
    return parts


def _image(part: openai.InputImage | openai.ChatImage, url: openai.ImageUrl | str) -> chat.ImagePart:
    """Reads an image in the form of either API."""
    detail = part.detail if isinstance(part, openai.InputImage) else None
    if isinstance(url, openai.ImageUrl):
        detail, url = url.detail or detail, url.url
    return chat.ImagePart(chat.ImageUrl(url, detail if detail != "original" else "high"))


def _unsupported(part: openai.Part, where: str, supported: str) -> InvalidField:
    kind = str(type(part).__struct_config__.tag)
    return InvalidField(
        where, f"Content of type '{kind}' cannot be sent to Cohere here: {supported} can", "unsupported_value"
    )
