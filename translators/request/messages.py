"""Translates OpenAI's messages into Cohere's, including the legacy `function_call` and `function` messages.

Cohere's rules for a history (docs/cohere-api.md#messages): the system turn comes first; no turn is empty; there is no
text beside tool calls, so it becomes the plan, or the thought of a reasoning model; each tool result directly follows
the turn of its call; a result has no image; no key is unknown. `tool_results.py` finds the call that a result answers.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from schemas.cohere import chat as cohere
from schemas.openai import chat as openai
from translators.core.capabilities import Capabilities
from translators.core.errors import InvalidField
from translators.core.json_size import has_more_values
from translators.core.notes import Notes
from translators.core.tool_names import ToolNames
from translators.request.files import FileTexts
from translators.request.tool_results import MAX_ARGUMENT_VALUES, NO_CALLS, Call, pair

BLANK_LINE = "\n\n"
EMPTY_RESULT = "{}"
"""Sent for an empty tool result, which Cohere would refuse as an empty turn."""

LATE_SYSTEM = "This is an instruction of the system, not a message of the user:"
"""The first line of the user turn that replaces a system message behind other messages."""

BROKEN_ARGUMENTS = "arguments"
"""The key under which arguments are sent that are not a JSON object: Cohere accepts objects only."""

IMAGE_FOLLOWS = "The image follows in the next message."
IMAGE_UNSEEN = "There is an image here, which this model cannot see."
"""The text that replaces an image in a tool result."""


def names_in_history(messages: list[openai.Message]) -> list[str]:
    """Returns the names of all tool calls in a history, in order, repeats included."""
    names: list[str] = []
    for message in messages:
        if isinstance(message, openai.AssistantMessage):
            names.extend(call.function.name for call in message.tool_calls or () if call.function)
            if message.function_call:
                names.append(message.function_call.name)
    return names


_WITHOUT_CALLS = (openai.UserMessage, openai.SystemMessage, openai.DeveloperMessage)


class MessageTranslator:
    """Translates one history.

    paths: of each message, its path in the caller's request, for notes; empty where that is `messages[index]`. images:
    how many are sent. image_bytes: of their URLs. call_ids: ids of calls that had to change, Cohere's -> the caller's.
    """

    def __init__(
        self,
        capabilities: Capabilities,
        names: ToolNames,
        notes: Notes,
        files: FileTexts,
        paths: Sequence[str] = (),
    ) -> None:
        self.images = self.image_bytes = 0
        self.call_ids: dict[str, str] = {}
        self._capabilities, self._names, self._notes, self._files = capabilities, names, notes, files
        self._paths = paths
        self._speakers: frozenset[type] = frozenset()
        self._empty_turn = ""  # the path of an empty user turn

    def translate(self, messages: list[openai.Message], instructions: list[str]) -> list[cohere.Message]:
        """Returns the whole conversation for Cohere. Raises InvalidField with the path of what cannot be sent.

        instructions: of the gateway, added to the system turn.
        """
        if not messages:
            raise InvalidField("messages", "'messages' must not be empty", "empty_array")
        # Calls and results are paired over the whole conversation before any message is translated: a result may stand
        # far behind its call, and an id may come again.
        pairs = NO_CALLS
        # Most conversations have no calls, and need not be looked through for pairs.
        if not all(isinstance(message, _WITHOUT_CALLS) for message in messages):
            pairs = pair(messages)
            self.call_ids = pairs.renamed()
        self._speakers = _several_speakers(messages)
        system: list[str] = []
        turns: list[cohere.Message] = []
        for index, message in enumerate(messages):
            path = f"messages[{index}]"
            if isinstance(message, openai.SystemMessage | openai.DeveloperMessage):
                text = self._system_text(message, index)
                # In its place, not in front: an instruction in the middle is about what follows it
                # (docs/decisions.md#late-instructions-stay-in-their-place).
                if text and turns:
                    self._notes.adjusted(self._note_path(index), "late system message", "a user turn")
                    turns.append(cohere.UserMessage(f"{LATE_SYSTEM}\n{text}"))
                elif text:
                    system.append(text)
            elif isinstance(message, openai.UserMessage):
                # An empty turn stays pending until something follows it. Clients send one to make the model go on; as
                # the last turn there would be nothing to answer, so that is refused.
                if user := self._user(message, path, index):
                    self._leave_out_empty_turn()
                    turns += user
            # A tool message is not handled where it stands: results are placed right behind the turn that made their
            # calls.
            elif isinstance(message, openai.AssistantMessage):
                turns += self._assistant(message, path, index, pairs.calls.get(index, ()))
                if results := self._results(messages, pairs.results_of(index)):
                    self._leave_out_empty_turn()
                    turns += results
        return self._with_system(turns, system, instructions)

    def _with_system(
        self, turns: list[cohere.Message], system: list[str], instructions: list[str]
    ) -> list[cohere.Message]:
        """Puts the system turn in front. System messages alone become a user turn. Raises InvalidField for nothing."""
        # An empty user turn is only left out where something else is there to answer.
        if self._empty_turn and not system:
            raise InvalidField(self._empty_turn, f"'{self._empty_turn}' must not be empty", "empty_string")
        prompt = BLANK_LINE.join([*system, *instructions])
        if turns:
            return [cohere.SystemMessage(prompt), *turns] if prompt else turns
        if not prompt:
            raise InvalidField("messages", "'messages' holds nothing to answer", "empty_array")
        # Cohere wants something to answer. The text is the same, so nothing that the caller wrote is lost.
        self._notes.adjusted("input" if self._paths else "messages", "system messages only", "a user turn")
        return [cohere.UserMessage(prompt)]

    def _leave_out_empty_turn(self) -> None:
        """Notes an empty user turn that is history: what follows it is to be answered."""
        if self._empty_turn:
            self._notes.ignored(self._note_field("content"), "an empty turn of the user", self._empty_turn)
            self._empty_turn = ""

    def _note_field(self, name: str) -> str:
        """Returns the general path of a message's field in the caller's API."""
        return f"input[].{name}" if self._paths else f"messages[].{name}"

    def _note_path(self, index: int) -> str:
        return self._paths[index] if self._paths else f"messages[{index}]"

    # --- who speaks ----------------------------------------------------------------------------------------

    def _speaker(self, message: Any, index: int) -> str:
        """Returns the prefix of a text: the speaker's name if there are several in this role, else nothing."""
        # Cohere has no `name`. Without it a conversation of several users would read like one.
        if not message.name:
            return ""
        if type(message) not in self._speakers:
            self._notes.ignored(
                self._note_field("name"), "it tells no speakers apart", f"{self._note_path(index)}.name"
            )
            return ""
        self._notes.emulated(self._note_field("name"), "written before the text")
        return f"{message.name}: "

    # --- one method a role ---------------------------------------------------------------------------------

    def _system_text(self, message: openai.SystemMessage | openai.DeveloperMessage, index: int) -> str:
        content = message.content or ""
        text = content if isinstance(content, str) else _joined(part.text for part in content)
        return self._speaker(message, index) + text if text else ""

    def _user(self, message: openai.UserMessage, path: str, index: int) -> list[cohere.Message]:
        if not message.content:
            self._empty_turn = self._empty_turn or f"{path}.content"
            return []
        speaker = self._speaker(message, index)
        if isinstance(message.content, str):
            return [cohere.UserMessage(speaker + message.content)]
        parts: list[cohere.TextContent | cohere.ImageContent] = []
        for number, part in enumerate(message.content):
            where = f"{path}.content[{number}]"
            if isinstance(part, openai.TextPart):
                if part.text:
                    parts.append(cohere.TextContent(part.text))
            elif isinstance(part, openai.ImagePart):
                parts.append(self._image(part, where))
            elif isinstance(part, openai.FilePart):
                parts.append(cohere.TextContent(self._file(part, where)))
            else:
                raise InvalidField(
                    where,
                    "Content of type 'input_audio' cannot be sent to Cohere: text, images and files can",
                    "unsupported_value",
                )
        if not parts:
            self._empty_turn = self._empty_turn or f"{path}.content"
            return []
        if speaker:
            first = parts[0].text if isinstance(parts[0], cohere.TextContent) else ""
            # The prefix joins the first text; before an image it is a text of its own.
            parts[: bool(first)] = [cohere.TextContent((speaker + first).rstrip())]
        return [cohere.UserMessage(parts)]

    def _image(self, part: openai.ImagePart, where: str) -> cohere.ImageContent:
        if not self._capabilities.images:
            raise InvalidField(where, "This model of Cohere's does not take images", "unsupported_value")
        url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
        self.images += 1
        self.image_bytes += len(url)
        beside = part.detail if isinstance(part, openai.InputImagePart) else None
        detail = beside if isinstance(part.image_url, str) else part.image_url.detail or beside
        # Cohere's finest is `high`.
        detail = "high" if detail == "original" else detail
        return cohere.ImageContent(cohere.ImageUrl(url, detail if detail else msgspec.UNSET))

    def _file(self, part: openai.FilePart, where: str) -> str:
        text = self._files.text(part.file, where)
        self._notes.emulated("files", "their text is in the prompt")
        if self._files.uses_parsed:
            self._notes.emulated("pages", f"read by Cohere's {self._files.parse_model}")
        return text

    def _assistant(
        self, message: openai.AssistantMessage, path: str, index: int, pairs: Sequence[Call]
    ) -> list[cohere.Message]:
        # Three spellings of one thing: vLLM's and DeepSeek's field, OpenRouter's field, and a thinking part as Cohere
        # and Anthropic have it. A client that switches servers sends any of them.
        text, thought = _text(message), message.reasoning_content or message.reasoning or _thought(message)
        text = self._speaker(message, index) + text if text else ""
        calls = self._tool_calls(pairs, index)
        if message.audio is not None:
            self._notes.ignored(self._note_field("audio"), "Cohere hears nothing", f"{path}.audio")
        if calls:
            # What the assistant said beside its calls goes in with its thoughts: Cohere has no other place for it, and
            # without it the model would not know what it told the user.
            plan = _joined((thought, text))
            if not plan:
                return [cohere.AssistantMessage(tool_calls=calls)]
            # A turn with calls takes no text: 400 (docs/cohere-api.md#messages).
            if self._capabilities.reasoning:
                return [cohere.AssistantMessage(content=[cohere.ThinkingContent(plan)], tool_calls=calls)]
            return [cohere.AssistantMessage(tool_plan=plan, tool_calls=calls)]
        if thought and not self._capabilities.reasoning:
            self._notes.ignored(
                self._note_field("reasoning_content"), "this model does not reason", f"{path}.reasoning_content"
            )
            thought = ""
        if thought:
            content: list[cohere.TextContent | cohere.ThinkingContent] = [cohere.ThinkingContent(thought)]
            if text:
                content.append(cohere.TextContent(text))
            return [cohere.AssistantMessage(content=content)]
        return [cohere.AssistantMessage(content=text)] if text else []

    def _tool_calls(self, pairs: Sequence[Call], index: int) -> list[cohere.ToolCall]:
        calls: list[cohere.ToolCall] = []
        for call in pairs:
            arguments = _arguments(call.function.arguments)
            if not call.function.arguments and not call.results:
                arguments = None  # the stream broke off before the first of them
            if arguments is None:
                if not call.results:
                    # Cohere refuses a call without a result, so it would refuse every later request.
                    self._notes.ignored("tool_calls", "a call that was cut, without a result", self._note_path(index))
                    continue
                self._notes.adjusted(
                    f"{self._note_path(index)} arguments", "no JSON object", f'{{"{BROKEN_ARGUMENTS}": ...}}'
                )
                arguments = _encode({BROKEN_ARGUMENTS: call.function.arguments}).decode()
            function = cohere.Function(self._names.upstream_name(call.function.name), arguments)
            calls.append(cohere.ToolCall(call.upstream_id, function))
        return calls

    def _results(self, messages: Sequence[openai.Message], results: Sequence[tuple[int, Call]]) -> list[cohere.Message]:
        """Returns the results of a turn's calls, and a user turn with their images.

        Cohere takes one result for each call, so several are joined, and none of them may have an image.
        """
        # By Cohere's id, not the caller's: an id that the caller used twice is two calls at Cohere.
        turns: dict[str, cohere.ToolMessage] = {}
        images: list[cohere.TextContent | cohere.ImageContent] = []
        for index, call in results:
            content: Any = getattr(messages[index], "content", None)
            result, earlier = self._result(call, content, index, images), turns.get(call.upstream_id)
            if earlier is not None:
                self._notes.emulated("results of one call", "they are joined")
                result = _joined_results(earlier, result)
            turns[call.upstream_id] = result
        return [*turns.values(), cohere.UserMessage(images)] if images else [*turns.values()]

    def _result(
        self,
        call: Call,
        content: str | list[openai.TextPart | openai.DocumentPart | openai.ImagePart | openai.FilePart] | None,
        index: int,
        images: list[cohere.TextContent | cohere.ImageContent],
    ) -> cohere.ToolMessage:
        """Translates a tool's result. Its images are added to `images`."""
        if isinstance(content, list):
            parts: list[cohere.TextContent | cohere.DocumentContent] = []
            for number, part in enumerate(content):
                where = f"messages[{index}].content[{number}]"
                if isinstance(part, openai.DocumentPart):
                    parts.append(cohere.DocumentContent(part.document))
                elif isinstance(part, openai.TextPart):
                    parts += [cohere.TextContent(part.text)] if part.text else []
                elif isinstance(part, openai.FilePart):
                    parts.append(cohere.TextContent(self._file(part, where)))
                else:
                    parts.append(self._result_image(part, where, index, call, images))
            if parts:
                return cohere.ToolMessage(call.upstream_id, parts)
        elif content:
            return cohere.ToolMessage(call.upstream_id, content)
        where = f"{self._note_path(index)}.{'output' if self._paths else 'content'}"
        # Cohere refuses an empty message, and many tools return nothing. A session would never get past such a call.
        self._notes.inform(where, f"{where} is empty, sent as {EMPTY_RESULT}")
        return cohere.ToolMessage(call.upstream_id, EMPTY_RESULT)

    def _result_image(
        self,
        part: openai.ImagePart,
        where: str,
        index: int,
        call: Call,
        images: list[cohere.TextContent | cohere.ImageContent],
    ) -> cohere.TextContent:
        """Returns the text that replaces an image. On a model with vision the image is added to `images`."""
        if not self._capabilities.images:
            self._notes.adjusted(f"{self._note_path(index)} image", "an image", "a placeholder")
            return cohere.TextContent(IMAGE_UNSEEN)
        self._notes.emulated("images of tool results", "they follow in a user turn")
        name = self._names.upstream_name(call.function.name)
        images += [cohere.TextContent(f"An image in the result of {name} ({call.upstream_id}):")]
        images += [self._image(part, where)]
        return cohere.TextContent(IMAGE_FOLLOWS)


_encode = msgspec.json.Encoder().encode

_ROLES: tuple[type, ...] = (
    openai.SystemMessage,
    openai.DeveloperMessage,
    openai.UserMessage,
    openai.AssistantMessage,
)


def _several_speakers(messages: Sequence[openai.Message]) -> frozenset[type]:
    """Returns the roles that have several speakers by `name`; messages without a name count as one speaker."""
    named = {type(message) for message in messages if isinstance(message, _ROLES) and getattr(message, "name", None)}
    return frozenset(
        role
        for role in named
        if len({getattr(message, "name", None) for message in messages if type(message) is role}) > 1
    )


def _joined(texts: Iterable[str | None]) -> str:
    return BLANK_LINE.join(text for text in texts if text)


def _joined_results(first: cohere.ToolMessage, second: cohere.ToolMessage) -> cohere.ToolMessage:
    if isinstance(first.content, str) and isinstance(second.content, str):
        return cohere.ToolMessage(first.tool_call_id, BLANK_LINE.join((first.content, second.content)))
    parts: list[cohere.TextContent | cohere.DocumentContent] = []
    for content in (first.content, second.content):
        parts += [cohere.TextContent(content)] if isinstance(content, str) else content
    return cohere.ToolMessage(first.tool_call_id, parts)


def _text(message: openai.AssistantMessage) -> str:
    """Returns the text of an assistant turn. A refusal counts as text, because Cohere has no such part."""
    content = message.content
    if content is None or isinstance(content, str):
        return _joined((content, message.refusal))
    return _joined(
        part.text if isinstance(part, openai.TextPart) else part.refusal
        for part in content
        if not isinstance(part, openai.ThinkingPart)
    )


def _thought(message: openai.AssistantMessage) -> str:
    if not isinstance(message.content, list):
        return ""
    return _joined(part.thinking for part in message.content if isinstance(part, openai.ThinkingPart))


def _arguments(arguments: str | dict[str, Any] | list[Any] | None) -> str | None:
    """Returns the arguments as the text of a JSON object, None if they are not one.

    Nothing and null become an empty object. Some clients keep an object instead of its text, which is encoded here.
    """
    if isinstance(arguments, dict):
        return _encode(arguments).decode()
    if isinstance(arguments, list):
        return None if arguments else "{}"
    if not arguments or arguments.strip() in ("", "null"):
        return "{}"
    # Counted before it is parsed: a model may have written megabytes of brackets, and they come back with every
    # request.
    if has_more_values(arguments, MAX_ARGUMENT_VALUES):
        return None
    try:
        value = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    # As the model wrote them, not encoded again: the prompt stays the same to the byte, so that Cohere's prompt cache
    # finds it.
    return arguments if isinstance(value, dict) else None
