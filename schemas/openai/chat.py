"""Chat Completions: the structured fields of requests, and the responses.

Requests forbid unknown keys. The field table (`translators/core/field_table.py`) catches that error, removes the key
and notes it, so ordinary requests pay nothing for it and no key is lost silently. Responses use UNSET for a key that
may be absent, and None for one that is required and may be null.

Source: OpenAI's specification, `CreateChatCompletionRequest`, `CreateChatCompletionResponse` and
`CreateChatCompletionStreamResponse`. Extensions are marked.
"""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

# --- requests: content parts -----------------------------------------------------------------------------


class TextPart(Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    text: str


class InputTextPart(TextPart, tag="input_text", forbid_unknown_fields=True):
    """The part of Responses for a text, which programs that know both APIs send to this one."""


class OutputTextPart(TextPart, tag="output_text", forbid_unknown_fields=True):
    """The part of a response of the other API, sent back. Only its text is read."""

    annotations: Any = None
    logprobs: Any = None


class RefusalPart(Struct, tag_field="type", tag="refusal", forbid_unknown_fields=True):
    refusal: str


class ThinkingPart(Struct, tag_field="type", tag="thinking", forbid_unknown_fields=True):
    """Cohere's part for a thought, accepted in a history."""

    thinking: str


class ImageUrl(Struct, forbid_unknown_fields=True):
    url: str
    # `original` is finer than anything of Cohere's, whose finest is `high`.
    detail: Literal["auto", "low", "high", "original"] | None = None


# Some clients write the URL alone.
class ImagePart(Struct, tag_field="type", tag="image_url", forbid_unknown_fields=True):
    image_url: ImageUrl | str


class InputImagePart(ImagePart, tag="input_image", forbid_unknown_fields=True):
    """The part of Responses for an image."""

    detail: Literal["auto", "low", "high", "original"] | None = None


# No field, and no key that is forbidden: the refusal is about the type, whatever else is in it.
class AudioPart(Struct, tag_field="type", tag="input_audio"):
    """Declared only to be refused by name."""


class FileData(Struct, forbid_unknown_fields=True):
    """A file. file_data: a data URI or base64. file_url: in Responses only."""

    file_data: str | None = None
    filename: str | None = None
    file_id: str | None = None
    file_url: str | None = None


class FilePart(Struct, tag_field="type", tag="file", forbid_unknown_fields=True):
    file: FileData


class DocumentPart(Struct, tag_field="type", tag="document", forbid_unknown_fields=True):
    """Cohere's part for a tool result that can be cited."""

    document: dict[str, Any]


AnyText = TextPart | InputTextPart | OutputTextPart
AnyImage = ImagePart | InputImagePart

# --- requests: messages -----------------------------------------------------------------------------------


class FunctionCall(Struct, forbid_unknown_fields=True):
    """arguments: a JSON text. Some clients keep what they decoded, which need not be an object."""

    name: str
    arguments: str | dict[str, Any] | list[Any] | None = None


class CustomCall(Struct, forbid_unknown_fields=True):
    name: str
    input: str


class ToolCall(Struct, forbid_unknown_fields=True):
    function: FunctionCall | None = None
    id: str | None = None
    type: str | None = None
    # Of a chunk: programs that collect calls from a stream send it back.
    index: int | None = None
    custom: CustomCall | None = None


class SystemMessage(Struct, tag_field="role", tag="system", forbid_unknown_fields=True):
    content: str | list[AnyText] | None = None
    name: str | None = None


class DeveloperMessage(Struct, tag_field="role", tag="developer", forbid_unknown_fields=True):
    content: str | list[AnyText] | None = None
    name: str | None = None


class UserMessage(Struct, tag_field="role", tag="user", forbid_unknown_fields=True):
    content: str | list[AnyText | AnyImage | AudioPart | FilePart] | None = None
    name: str | None = None


class AssistantMessage(Struct, tag_field="role", tag="assistant", forbid_unknown_fields=True):
    """An assistant turn. The keys from `annotations` on are those of our responses, sent back, and are not read."""

    content: str | list[AnyText | RefusalPart | ThinkingPart] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: FunctionCall | None = None
    name: str | None = None
    annotations: Any = None
    citations: Any = None
    audio: Any = None


class ToolMessage(Struct, tag_field="role", tag="tool", forbid_unknown_fields=True):
    """A tool result. name: added by some clients, and not read because the call has it."""

    tool_call_id: str
    content: str | list[AnyText | DocumentPart | AnyImage | FilePart] | None = None
    name: Any = None


# The results of the old `function_call`, which has no ids: they are found by the name.
class FunctionMessage(Struct, tag_field="role", tag="function", forbid_unknown_fields=True):
    name: str
    content: str | None = None


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage

# --- requests: tools and formats --------------------------------------------------------------------------


class Function(Struct, forbid_unknown_fields=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class CustomTool(Struct, forbid_unknown_fields=True):
    name: str
    description: str | None = None
    format: Any = None


class Tool(Struct, forbid_unknown_fields=True):
    """A tool. The keys from `name` on are those of the flat tools that Responses has."""

    type: str
    function: Function | None = None
    custom: CustomTool | None = None
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    format: Any = None


class ChosenName(Struct, forbid_unknown_fields=True):
    name: str


class AllowedTool(Struct, forbid_unknown_fields=True):
    """A tool that may be called. name: as Responses has it."""

    type: str
    function: ChosenName | None = None
    custom: ChosenName | None = None
    name: str | None = None


class AllowedTools(Struct, forbid_unknown_fields=True):
    mode: Literal["auto", "required"]
    tools: list[AllowedTool]


class ToolChoice(Struct, forbid_unknown_fields=True):
    """A choice. type: a mode, too, as some clients write it. name: as Responses has it."""

    type: str
    function: ChosenName | None = None
    allowed_tools: AllowedTools | None = None
    custom: ChosenName | None = None
    name: str | None = None


class ResponseFormat(Struct, forbid_unknown_fields=True):
    """A response format.

    schema: Cohere's spelling (docs/cohere-api.md#json-schemas). value: Hugging Face's. strict, name, description: as in
    Responses, where no `json_schema` is around them.
    """

    type: str
    json_schema: dict[str, Any] | None = None
    schema: dict[str, Any] | None = None
    value: dict[str, Any] | None = None
    strict: bool | None = None
    name: Any = None
    description: Any = None


class StreamOptions(Struct, forbid_unknown_fields=True):
    # The chunk with the usage alone, behind all others.
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


# --- answers ----------------------------------------------------------------------------------------------


class AnsweredFunction(Struct, frozen=True):
    name: str
    arguments: str


class AnsweredToolCall(Struct, frozen=True, tag_field="type", tag="function"):
    id: str
    function: AnsweredFunction


class AnsweredCustom(Struct, frozen=True):
    name: str
    input: str


class AnsweredCustomToolCall(Struct, frozen=True, tag_field="type", tag="custom"):
    id: str
    custom: AnsweredCustom


class UrlCitation(Struct, frozen=True):
    """`end_index` is exclusive, as Cohere's is: clients slice the text with it."""

    url: str
    title: str
    start_index: int
    end_index: int


class Annotation(Struct, frozen=True):
    url_citation: UrlCitation
    type: Literal["url_citation"] = "url_citation"


class CitationNote(Struct, frozen=True):
    """Extension: a citation of Cohere's with all its sources; offsets count in the answer's whole text."""

    start: int
    end: int
    text: str
    sources: list[dict[str, Any]]
    type: str = "TEXT_CONTENT"


# Cohere names no alternatives, so there is one of these at most (docs/cohere-api.md#log-probabilities).
class TopLogprob(Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogprob] = []


class Logprobs(Struct, frozen=True):
    content: list[TokenLogprob] | None
    # OpenAI's specification requires the key. Cohere has no refusals.
    refusal: None = None


class PromptTokensDetails(Struct, frozen=True):
    """`image_tokens` is an extension."""

    cached_tokens: int = 0
    audio_tokens: int = 0
    image_tokens: int | UnsetType = UNSET


# Cohere counts reasoning alone. The others are 0, as they are at OpenAI where there is nothing to count.
class CompletionTokensDetails(Struct, frozen=True):
    reasoning_tokens: int = 0
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class Usage(Struct, frozen=True):
    """Extensions: `billed_units` is what Cohere's invoice counts, `cost` US dollars for the whole request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails
    billed_units: dict[str, int | float] | UnsetType = UNSET
    cost: float | UnsetType = UNSET


class AnsweredMessage(Struct, frozen=True):
    """`reasoning_content` and `citations` are extensions."""

    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: str | None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[AnsweredToolCall | AnsweredCustomToolCall] | UnsetType = UNSET
    function_call: AnsweredFunction | UnsetType = UNSET
    annotations: list[Annotation] = []
    citations: list[CitationNote] | UnsetType = UNSET


class Choice(Struct, frozen=True):
    index: int
    message: AnsweredMessage
    finish_reason: str
    logprobs: Logprobs | None = None
    # Extension: Cohere's own word, where it has no translation.
    native_finish_reason: str | UnsetType = UNSET


class ChatCompletion(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | UnsetType = UNSET


# --- answers, streamed ------------------------------------------------------------------------------------


class FunctionDelta(Struct, frozen=True):
    arguments: str | UnsetType = UNSET
    name: str | UnsetType = UNSET


class CustomDelta(Struct, frozen=True):
    input: str
    name: str | UnsetType = UNSET


class ToolCallDelta(Struct, frozen=True):
    """One of `function` and `custom` is set."""

    index: int
    function: FunctionDelta | UnsetType = UNSET
    id: str | UnsetType = UNSET
    type: Literal["function", "custom"] | UnsetType = UNSET
    custom: CustomDelta | UnsetType = UNSET


class Delta(Struct, frozen=True):
    """`reasoning_content`, `annotations` and `citations` are extensions."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET
    function_call: FunctionDelta | UnsetType = UNSET
    annotations: list[Annotation] | UnsetType = UNSET
    citations: list[CitationNote] | UnsetType = UNSET


class ChunkChoice(Struct, frozen=True):
    delta: Delta
    index: int = 0
    finish_reason: str | None = None
    logprobs: Logprobs | None = None
    native_finish_reason: str | UnsetType = UNSET


class ChatCompletionChunk(Struct, frozen=True, kw_only=True):
    """A chunk. usage: for `include_usage` null on every chunk but the last, else absent."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None | UnsetType = UNSET
