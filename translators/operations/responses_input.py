"""Reads input items of the Responses API as chat's messages.

One assistant turn arrives as several items (reasoning, message, calls) and leaves as one message, or Cohere would see
several turns. Errors name the item's path, `input[3].content[0]`, wherever they are found.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from schemas.openai import chat
from schemas.openai import responses as openai
from translators.core.contracts import Context
from translators.core.errors import InvalidField, NotStored
from translators.core.field_table import decode_field
from translators.core.notes import Notes
from translators.operations.responses_tools import internal_name

_kind = msgspec.json.Decoder(openai.ItemKind).decode
_DECODERS: dict[str, "msgspec.json.Decoder[Any]"] = {
    "message": msgspec.json.Decoder(openai.MessageItem),
    "function_call": msgspec.json.Decoder(openai.FunctionCallItem),
    "function_call_output": msgspec.json.Decoder(openai.FunctionCallOutputItem),
    "reasoning": msgspec.json.Decoder(openai.ReasoningInput),
    "item_reference": msgspec.json.Decoder(openai.ItemReference),
    "compaction": msgspec.json.Decoder(openai.CompactionInput),
    "compaction_summary": msgspec.json.Decoder(openai.CompactionInput),  # Codex's older name
}

BLANK_LINE = "\n\n"
SUMMARY_INTRODUCTION = "The earlier part of this conversation was replaced by this summary:\n\n"
"""Stands before the summary in the system message that brings it to the model."""

HOSTED_ITEMS = frozenset(
    {
        *("web_search_call", "file_search_call", "computer_call", "computer_call_output", "code_interpreter_call"),
        *("image_generation_call", "local_shell_call", "local_shell_call_output", "mcp_call", "mcp_list_tools"),
        *("mcp_approval_request", "mcp_approval_response", "shell_call", "shell_call_output", "compaction_trigger"),
        *("custom_tool_call", "custom_tool_call_output", "apply_patch_call", "apply_patch_call_output"),
    }
)
"""Items of tools that OpenAI runs itself: left out and noted, as their tools are."""


class _Turn(Struct):
    """An assistant's turn, collected from its items."""

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
    """Reads items one after another. The context decrypts, and has the items that are referred to.

    paths: of each message, by its `id()`: the path of its first item.
    """

    def __init__(self, notes: Notes, context: Context) -> None:
        self.messages: list[chat.Message] = []
        self.paths: dict[int, str] = {}
        self._notes, self._context = notes, context
        self._turn: _Turn | None = None
        self._called: set[str] = set()
        self._seen: set[str] = set()

    def read(self, items: Sequence[Raw], name: str) -> None:
        """Reads these items. `name` is the field they are in, for paths. Raises InvalidField."""
        for index, raw in enumerate(items):
            self._item(raw, f"{name}[{index}]")

    def finish(self) -> None:
        """Ends the last turn."""
        self._end_turn()

    def add(self, message: chat.Message, where: str) -> None:
        """Adds a message, made of the item at this path."""
        self.messages.append(message)
        self.paths[id(message)] = where

    def _item(self, raw: Raw, where: str) -> None:
        try:
            kind = _kind(raw)
        except msgspec.ValidationError as error:
            raise InvalidField(where, f"Invalid '{where}': an item must be an object", "invalid_type") from error
        name = kind.type or ("message" if kind.role else "item_reference")
        if name in HOSTED_ITEMS:
            self._notes.ignored(f"input[].type {name}", "Cohere has no such tool", f"{where}.type")
            return
        decoder = _DECODERS.get(name)
        if decoder is None:
            raise InvalidField(f"{where}.type", f"Invalid '{where}.type': '{name}' is not known", "invalid_value")
        item = decode_field(where, decoder, raw, self._notes)
        if item.id and name != "item_reference":
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

    # --- one method a kind of item -------------------------------------------------------------------------

    def _message(self, item: openai.MessageItem, where: str) -> None:
        if item.role == "assistant":
            turn = self._assistant(where)
            if turn.texts and not turn.calls:
                # A second message without a call between them is another turn.
                self._end_turn()
                turn = self._assistant(where)
            turn.texts.append(_text(item.content, f"{where}.content"))
            return
        self._end_turn()
        if item.role == "user":
            content = _user_content(item.content, f"{where}.content")
            self.add(chat.UserMessage(content), where)
        else:
            text = _text(item.content, f"{where}.content")
            self.add(chat.SystemMessage(text), where)

    def _reasoning(self, item: openai.ReasoningInput, where: str) -> None:
        parts = item.content or item.summary or []
        thought = BLANK_LINE.join(part.text for part in parts if part.text)
        if not thought and item.encrypted_content:
            opened = self._context.conversation.decrypt_reasoning(item.encrypted_content)
            if opened is None:
                self._notes.ignored("input[].encrypted_content", "it was not made here", f"{where}.encrypted_content")
            thought = opened or ""
        if thought:
            self._assistant(where).thoughts.append(thought)

    def _function_call(self, item: openai.FunctionCallItem, where: str) -> None:
        self._called.add(item.call_id)
        function = chat.FunctionCall(internal_name(item.namespace, item.name), item.arguments)
        self._assistant(where).calls.append(chat.ToolCall(function, item.call_id))

    def _output(self, item: openai.FunctionCallOutputItem, where: str) -> None:
        self._end_turn()
        if item.call_id not in self._called:
            raise InvalidField(f"{where}.call_id", f"No earlier function_call has the call_id '{item.call_id}'")
        content = item.output if isinstance(item.output, str) else _output_content(item.output, f"{where}.output")
        self.add(chat.ToolMessage(item.call_id, content), where)

    def _compaction(self, item: openai.CompactionInput, where: str) -> None:
        self._end_turn()
        summary = self._context.conversation.decrypt_summary(item.encrypted_content)
        if summary is None:
            self._notes.ignored("input[].encrypted_content", "it was not made here", f"{where}.encrypted_content")
            return
        # Cohere takes system messages at the beginning only, and the summary is of what came before the other messages.
        others = (index for index, one in enumerate(self.messages) if not isinstance(one, chat.SystemMessage))
        message = chat.SystemMessage(SUMMARY_INTRODUCTION + summary)
        self.messages.insert(next(others, len(self.messages)), message)
        self.paths[id(message)] = where

    def _reference(self, item: openai.ItemReference, where: str) -> None:
        """Reads the item that is referred to, unless it was read already: a conversation has each item once."""
        if item.id in self._seen:
            return
        stored = self._context.conversation.items.get(item.id)
        if stored is None:
            message = f"Item with id '{item.id}' not found: only items that were stored can be referred to"
            raise NotStored(f"{where}.id", message, "item_not_found")
        self._seen.add(item.id)
        self._item(Raw(stored), where)


_READ: dict[type, Callable[[InputReader, Any, str], None]] = {
    openai.MessageItem: InputReader._message,
    openai.ReasoningInput: InputReader._reasoning,
    openai.FunctionCallItem: InputReader._function_call,
    openai.FunctionCallOutputItem: InputReader._output,
    openai.ItemReference: InputReader._reference,
    openai.CompactionInput: InputReader._compaction,
}


def _text(content: str | list[openai.Part], where: str) -> str:
    """Joins the texts of a content that can have no other parts. Raises InvalidField on one."""
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
    """A tool's output: one text where it has nothing else."""
    if any(isinstance(part, openai.InputImage | openai.InputFile) for part in content):
        return _user_content(content, where)
    return _text(content, where)


def _user_content(content: str | list[openai.Part], where: str) -> Any:
    if isinstance(content, str):
        return content
    parts: list[chat.TextPart | chat.ImagePart | chat.FilePart] = []
    for index, part in enumerate(content):
        if isinstance(part, openai.InputText | openai.OutputText | openai.PlainText):
            parts.append(chat.TextPart(part.text))
        elif isinstance(part, openai.InputImage) and part.image_url:
            detail = part.detail if part.detail != "original" else "high"
            parts.append(chat.ImagePart(chat.ImageUrl(part.image_url, detail)))
        elif isinstance(part, openai.InputFile):
            parts.append(chat.FilePart(chat.FileData(part.file_data, part.filename, part.file_id, part.file_url)))
        else:
            raise _unsupported(part, f"{where}[{index}]", "text, files and images by URL")
    return parts


def _unsupported(part: openai.Part, where: str, supported: str) -> InvalidField:
    kind = str(type(part).__struct_config__.tag)
    return InvalidField(
        where, f"Content of type '{kind}' cannot be sent to Cohere here: {supported} can", "unsupported_value"
    )
