"""OpenAI's messages as Cohere's, both ways of spelling a history included.

What Cohere insists on (docs/cohere-api.md#messages): the system turn first; no empty
turn; no text beside tool calls (it becomes the plan, or the thought of a reasoning model); every tool result
answers a call; no key that it does not know.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from schemas.cohere import chat as cohere
from schemas.openai import chat as openai
from translators.core.capabilities import Capabilities
from translators.core.errors import InvalidField
from translators.core.notes import Notes
from translators.core.tool_names import ToolNames

BLANK_LINE = "\n\n"
EMPTY_RESULT = "{}"
"""Sent for an empty tool result, which Cohere would refuse as an empty turn."""


def names_in_history(messages: list[openai.Message]) -> list[str]:
    """Every tool name that a history mentions, in order."""
    names: list[str] = []
    for message in messages:
        if isinstance(message, openai.AssistantMessage):
            names.extend(call.function.name for call in message.tool_calls or () if call.function)
            if message.function_call:
                names.append(message.function_call.name)
    return names


class MessageTranslator:
    """One history being translated: what was called and not yet answered is remembered from turn to turn."""

    def __init__(self, capabilities: Capabilities, names: ToolNames, notes: Notes) -> None:
        self.image_bytes = 0  # of the images' URLs sent
        self._capabilities, self._names, self._notes = capabilities, names, notes
        self._calls: dict[str, str] = {}  # call id -> the id sent for its newest call
        self._sent_ids: set[str] = set()
        self._unanswered: list[tuple[str, str]] = []  # (name, id) of legacy function calls

    def translate(self, messages: list[openai.Message], instructions: list[str]) -> list[cohere.Message]:
        """The whole conversation for Cohere. `instructions` are added to the system turn.

        Raises InvalidField with the exact path of what cannot be said to Cohere.
        """
        if not messages:
            raise InvalidField("messages", "'messages' must not be empty", "empty_array")
        system: list[tuple[int, str]] = []
        turns: list[cohere.Message] = []
        for index, message in enumerate(messages):
            if isinstance(message, openai.SystemMessage | openai.DeveloperMessage):
                system.append((index, self._system_text(message, index)))
                if turns:
                    self._notes.adjusted(f"messages[{index}]", "late system message", "first message")
                continue
            turn = _TRANSLATE[type(message)](self, message, f"messages[{index}]", index)
            if turn is not None:
                turns.append(turn)
        prompt = BLANK_LINE.join([*(text for _, text in system), *instructions])
        if not turns:
            if not prompt:
                raise InvalidField("messages", "'messages' holds nothing to answer", "empty_array")
            self._notes.adjusted("messages", "system messages only", "a user turn")
            return [cohere.UserMessage(prompt)]
        return [cohere.SystemMessage(prompt), *turns] if prompt else turns

    # --- one method a role ---------------------------------------------------------------------------------

    def _system_text(self, message: openai.SystemMessage | openai.DeveloperMessage, index: int) -> str:
        content = message.content
        text = content if isinstance(content, str) else BLANK_LINE.join(part.text for part in content)
        if not text:
            raise _empty(f"messages[{index}].content")
        return text

    def _user(self, message: openai.UserMessage, path: str, index: int) -> cohere.Message:
        if isinstance(message.content, str):
            if not message.content:
                raise _empty(f"{path}.content")
            return cohere.UserMessage(message.content)
        parts: list[cohere.TextContent | cohere.ImageContent] = []
        for number, part in enumerate(message.content):
            where = f"{path}.content[{number}]"
            if isinstance(part, openai.TextPart):
                if part.text:
                    parts.append(cohere.TextContent(part.text))
            elif isinstance(part, openai.ImagePart):
                parts.append(self._image(part, where))
            else:
                kind = "input_audio" if isinstance(part, openai.AudioPart) else "file"
                raise InvalidField(
                    where,
                    f"Content of type '{kind}' cannot be sent to Cohere: text and images can",
                    "unsupported_value",
                )
        if not parts:
            raise _empty(f"{path}.content")
        return cohere.UserMessage(parts)

    def _image(self, part: openai.ImagePart, where: str) -> cohere.ImageContent:
        if not self._capabilities.images:
            raise InvalidField(where, "This model of Cohere's does not take images", "unsupported_value")
        url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
        self.image_bytes += len(url)
        if isinstance(part.image_url, str):
            return cohere.ImageContent(cohere.ImageUrl(url))
        # Cohere's finest is `high`.
        detail = "high" if part.image_url.detail == "original" else part.image_url.detail
        return cohere.ImageContent(cohere.ImageUrl(url, detail if detail else msgspec.UNSET))

    def _assistant(self, message: openai.AssistantMessage, path: str, index: int) -> cohere.Message | None:
        text, thought = _spoken_text(message), message.reasoning_content or message.reasoning or _thought(message)
        calls = self._tool_calls(message, path, index)
        if message.audio is not None:
            self._notes.ignored("messages[].audio", "Cohere hears nothing", f"{path}.audio")
        if calls:
            plan = BLANK_LINE.join(piece for piece in (thought, text) if piece)
            if not plan:
                return cohere.AssistantMessage(tool_calls=calls)
            if self._capabilities.reasoning:
                return cohere.AssistantMessage(content=[cohere.ThinkingContent(plan)], tool_calls=calls)
            return cohere.AssistantMessage(tool_plan=plan, tool_calls=calls)
        if thought and not self._capabilities.reasoning:
            self._notes.ignored(
                "messages[].reasoning_content", "this model does not reason", f"{path}.reasoning_content"
            )
            thought = ""
        if thought:
            content: list[cohere.TextContent | cohere.ThinkingContent] = [cohere.ThinkingContent(thought)]
            if text:
                content.append(cohere.TextContent(text))
            return cohere.AssistantMessage(content=content)
        return cohere.AssistantMessage(content=text) if text else None

    def _tool_calls(self, message: openai.AssistantMessage, path: str, index: int) -> list[cohere.ToolCall]:
        calls: list[cohere.ToolCall] = []
        turn_ids: set[str] = set()
        for number, call in enumerate(message.tool_calls or ()):
            where = f"{path}.tool_calls[{number}]"
            if call.function is None or call.type not in (None, "function"):
                raise InvalidField(where, "Only calls of type 'function' can be sent to Cohere", "unsupported_value")
            call_id = call.id or f"call_{index}_{number}"
            if call_id in turn_ids:
                raise InvalidField(f"{where}.id", f"Duplicate tool call id '{call_id}'", "duplicate_id")
            turn_ids.add(call_id)
            calls.append(self._call(call_id, call.function, f"{where}.function.arguments"))
        if message.function_call:
            call_id = f"call_{index}"
            calls.append(self._call(call_id, message.function_call, f"{path}.function_call.arguments"))
            self._unanswered.append((message.function_call.name, call_id))
        return calls

    def _call(self, call_id: str, function: openai.FunctionCall, where: str) -> cohere.ToolCall:
        """Cohere wants ids that are unique over all turns; some clients count anew in each: theirs are told apart."""
        upstream_id, count = call_id, 1
        while upstream_id in self._sent_ids:
            count += 1
            upstream_id = f"{call_id}_{count}"
        self._sent_ids.add(upstream_id)
        self._calls[call_id] = upstream_id
        return cohere.ToolCall(
            upstream_id,
            cohere.Function(self._names.upstream_name(function.name), _arguments(function.arguments, where)),
        )

    def _tool(self, message: openai.ToolMessage, path: str, index: int) -> cohere.Message:
        if message.tool_call_id not in self._calls:
            raise InvalidField(
                f"{path}.tool_call_id",
                f"No earlier assistant message made the tool call '{message.tool_call_id}'",
            )
        return self._result(self._calls[message.tool_call_id], message.content, f"{path}.content")

    def _function(self, message: openai.FunctionMessage, path: str, index: int) -> cohere.Message:
        for position, (name, call_id) in enumerate(self._unanswered):
            if name == message.name:
                del self._unanswered[position]
                return self._result(self._calls[call_id], message.content, f"{path}.content")
        raise InvalidField(f"{path}.name", f"No earlier assistant message called the function '{message.name}'")

    def _result(
        self, call_id: str, content: str | list[openai.TextPart | openai.DocumentPart] | None, where: str
    ) -> cohere.ToolMessage:
        if isinstance(content, list):
            parts: list[cohere.TextContent | cohere.DocumentContent] = [
                cohere.TextContent(part.text)
                if isinstance(part, openai.TextPart)
                else cohere.DocumentContent(part.document)
                for part in content
                if not isinstance(part, openai.TextPart) or part.text
            ]
            if parts:
                return cohere.ToolMessage(call_id, parts)
        elif content:
            return cohere.ToolMessage(call_id, content)
        self._notes.inform(where, f"{where} is empty, sent as {EMPTY_RESULT}")
        return cohere.ToolMessage(call_id, EMPTY_RESULT)


_TRANSLATE: dict[type, Callable[[MessageTranslator, Any, str, int], cohere.Message | None]] = {
    openai.UserMessage: MessageTranslator._user,
    openai.AssistantMessage: MessageTranslator._assistant,
    openai.ToolMessage: MessageTranslator._tool,
    openai.FunctionMessage: MessageTranslator._function,
}


def _spoken_text(message: openai.AssistantMessage) -> str:
    """The words of an assistant turn; a refusal is words, too."""
    content = message.content
    if content is None or isinstance(content, str):
        return BLANK_LINE.join(piece for piece in (content, message.refusal) if piece)
    return "".join(
        part.text if isinstance(part, openai.TextPart) else part.refusal
        for part in content
        if not isinstance(part, openai.ThinkingPart)
    )


def _thought(message: openai.AssistantMessage) -> str:
    if not isinstance(message.content, list):
        return ""
    return "".join(part.thinking for part in message.content if isinstance(part, openai.ThinkingPart))


def _arguments(arguments: str | dict[str, Any] | None, where: str) -> str:
    """JSON text: nothing and null mean no arguments; an object, which sloppy clients keep, is written out."""
    if isinstance(arguments, dict):
        return msgspec.json.encode(arguments).decode()
    if not arguments or arguments.strip() in ("", "null"):
        return "{}"
    try:
        msgspec.json.decode(arguments)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise InvalidField(where, f"'{where}' must be JSON text: {error}", "invalid_json") from error
    return arguments


def _empty(where: str) -> InvalidField:
    return InvalidField(where, f"'{where}' must not be empty", "empty_string")
