"""The Responses API: input items, the response object, and the events of its stream.

Source: OpenAI's specification, `CreateResponse`, `Response` and `ResponseStreamEvent`; fields that only Open Responses
(https://www.openresponses.org) requires are here as well. Requests forbid unknown keys for the sake of the field table
(see `schemas/openai/chat.py`).
"""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

# OpenAI's bounds.
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=16),
]
"""Data of the caller's that is stored with a response or a conversation."""

# --- request: content parts -------------------------------------------------------------------------------


class InputText(Struct, tag_field="type", tag="input_text", forbid_unknown_fields=True):
    text: str


class PlainText(Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    """Chat's part for a text, which clients ported from chat send."""

    text: str


class OutputText(Struct, tag_field="type", tag="output_text", forbid_unknown_fields=True):
    """A part of our responses, sent back. Only its text is read."""

    text: str
    annotations: Any = None
    logprobs: Any = None
    citations: Any = None


class Refusal(Struct, tag_field="type", tag="refusal", forbid_unknown_fields=True):
    refusal: str


class ImageUrl(Struct, forbid_unknown_fields=True):
    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class InputImage(Struct, tag_field="type", tag="input_image", forbid_unknown_fields=True):
    image_url: ImageUrl | str | None = None
    detail: Literal["auto", "low", "high", "original"] | None = None
    file_id: str | None = None


class ChatImage(Struct, tag_field="type", tag="image_url", forbid_unknown_fields=True):
    """Chat's part for an image, which clients ported from chat send."""

    image_url: ImageUrl | str


class InputFile(Struct, tag_field="type", tag="input_file", forbid_unknown_fields=True):
    """file_data: a data URI or base64."""

    file_data: str | None = None
    filename: str | None = None
    file_id: str | None = None
    file_url: str | None = None
    detail: str | None = None


class InputAudio(Struct, tag_field="type", tag="input_audio"):
    """Declared only to be refused by name."""


Part = InputText | PlainText | OutputText | Refusal | InputImage | ChatImage | InputFile | InputAudio

# --- request: items ---------------------------------------------------------------------------------------


class MessageItem(Struct, forbid_unknown_fields=True):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Part] | None
    type: str | None = None
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class FunctionCallItem(Struct, forbid_unknown_fields=True):
    """arguments: a JSON text; some clients keep what they decoded."""

    call_id: str
    name: str
    arguments: str | dict[str, Any] | list[Any] | None
    type: str | None = None
    id: str | None = None
    status: str | None = None
    namespace: str | None = None
    caller: Any = None
    created_by: Any = None
    # `async` is a word of Python's.
    is_async: bool | None = field(default=None, name="async")


class FunctionCallOutputItem(Struct, forbid_unknown_fields=True):
    call_id: str
    output: str | list[Part] | None
    type: str | None = None
    id: str | None = None
    status: str | None = None
    name: str | None = None
    namespace: str | None = None
    caller: Any = None
    created_by: Any = None


class CustomCallItem(Struct, forbid_unknown_fields=True):
    call_id: str
    name: str
    input: str
    type: str | None = None
    id: str | None = None
    status: str | None = None
    namespace: str | None = None
    caller: Any = None
    created_by: Any = None


# Encoded again as the arguments of a call, which then has what the caller had set and no more.
class ShellAction(Struct, forbid_unknown_fields=True, omit_defaults=True):
    commands: list[str]
    timeout_ms: int | None = None
    max_output_length: int | None = None


class ShellCallItem(Struct, forbid_unknown_fields=True):
    call_id: str
    action: ShellAction
    type: str | None = None
    id: str | None = None
    status: str | None = None
    environment: Any = None
    caller: Any = None
    created_by: Any = None


class ShellOutputItem(Struct, forbid_unknown_fields=True):
    """output: of each command; some clients send a text."""

    call_id: str
    output: list[Any] | str
    type: str | None = None
    id: str | None = None
    status: str | None = None
    max_output_length: int | None = None
    caller: Any = None
    created_by: Any = None


class LocalShellCallItem(Struct, forbid_unknown_fields=True):
    call_id: str
    action: dict[str, Any]
    type: str | None = None
    id: str | None = None
    status: str | None = None


class LocalShellOutputItem(Struct, forbid_unknown_fields=True):
    """An output of a local shell. call_id: of its call; in the older form `id` is the id of the call."""

    output: str
    call_id: str | None = None
    type: str | None = None
    id: str | None = None
    status: str | None = None


class ApplyPatchCallItem(Struct, forbid_unknown_fields=True):
    call_id: str
    operation: dict[str, Any]
    type: str | None = None
    id: str | None = None
    status: str | None = None
    caller: Any = None
    created_by: Any = None


class ApplyPatchOutputItem(Struct, forbid_unknown_fields=True):
    call_id: str
    status: str | None = None
    output: str | None = None
    type: str | None = None
    id: str | None = None
    caller: Any = None
    created_by: Any = None


class ToolsItem(Struct, forbid_unknown_fields=True):
    """`additional_tools` and `tool_search_output`: tools that are defined in the course of a conversation."""

    tools: list[dict[str, Any]]
    type: str | None = None
    id: str | None = None
    role: str | None = None
    call_id: str | None = None
    execution: str | None = None
    status: str | None = None
    created_by: Any = None


class ReasoningPart(Struct):
    text: str = ""
    type: str | None = None


class ReasoningInput(Struct, forbid_unknown_fields=True):
    type: str | None = None
    id: str | None = None
    summary: list[ReasoningPart] | None = None
    content: list[ReasoningPart] | None = None
    encrypted_content: str | None = None
    status: str | None = None


class ItemReference(Struct, forbid_unknown_fields=True):
    id: str
    type: str | None = None


class CompactionInput(Struct, forbid_unknown_fields=True):
    encrypted_content: str
    type: str | None = None
    id: str | None = None
    created_by: Any = None


class ConfiguredReasoning(Struct, forbid_unknown_fields=True):
    effort: str | None = None


class ConfigurationItem(Struct, forbid_unknown_fields=True):
    """`configuration_update`: fields of the request that change at this point of a conversation."""

    type: str | None = None
    id: str | None = None
    reasoning: ConfiguredReasoning | None = None
    text: "TextOptions | None" = None


class ItemKind(Struct):
    """The fields that tell the kind of an item. Messages and references may have no type."""

    type: str | None = None
    role: str | None = None


# --- request: the rest ------------------------------------------------------------------------------------


class Tool(Struct, forbid_unknown_fields=True):
    """A flat function or custom tool, a namespace of them, or a tool that is named by its type."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    tools: list[dict[str, Any]] | None = None
    format: Any = None
    environment: Any = None


class ChosenName(Struct):
    name: str


class NamedTool(Struct):
    """A tool of the caller's. function, custom: its name as chat has it, in a wrapper."""

    type: str | None = None
    name: str | None = None
    namespace: str | None = None
    function: ChosenName | None = None
    custom: ChosenName | None = None


class ToolChoice(Struct):
    """A choice. type: a mode, too, as some clients write it. function, custom: as in `NamedTool`."""

    type: str
    function: ChosenName | None = None
    custom: ChosenName | None = None
    name: str | None = None
    namespace: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: list[NamedTool] | None = None


class ConversationReference(Struct, forbid_unknown_fields=True):
    id: str


class TextFormat(Struct, forbid_unknown_fields=True):
    type: str
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None
    json_schema: dict[str, Any] | None = None
    value: dict[str, Any] | None = None


class TextOptions(Struct, forbid_unknown_fields=True):
    format: TextFormat | None = None
    verbosity: str | None = None


class BackgroundOptions(Struct, forbid_unknown_fields=True):
    completion_window: str | None = None
    continuation_id: str | None = None


class ImageOptions(Struct, forbid_unknown_fields=True):
    context_compression: str | None = None


class PromptCacheOptions(Struct, forbid_unknown_fields=True):
    """Options of the prompt cache. prewarm: cache the prompt and generate nothing."""

    mode: str | None = None
    ttl: str | None = None
    comparison_response_id: str | None = None
    prewarm: bool | None = None


class ContextManagement(Struct, forbid_unknown_fields=True):
    """An entry of `context_management`. compact_threshold: tokens of the prompt from which to compact it."""

    type: str
    compact_threshold: Annotated[int, Meta(ge=1)] | None = None


class StreamOptions(Struct, forbid_unknown_fields=True):
    include_obfuscation: bool | None = None


# --- answer: items ----------------------------------------------------------------------------------------


class AnsweredText(Struct, frozen=True):
    """A text. citations: an extension, Cohere's citations with all their sources."""

    text: str
    annotations: list[dict[str, Any]]
    logprobs: list[Any]
    type: Literal["output_text"] = "output_text"
    citations: list[Any] | UnsetType = UNSET


class AnsweredRefusal(Struct, frozen=True):
    refusal: str
    type: Literal["refusal"] = "refusal"


class AnsweredMessage(Struct, frozen=True):
    id: str
    status: str
    content: list[AnsweredText | AnsweredRefusal]
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"


class ReasoningText(Struct, frozen=True):
    """`citations` as in AnsweredText."""

    text: str
    type: Literal["reasoning_text"] = "reasoning_text"
    citations: list[Any] | UnsetType = UNSET


class SummaryText(Struct, frozen=True):
    """`citations` as in AnsweredText."""

    text: str
    type: Literal["summary_text"] = "summary_text"
    citations: list[Any] | UnsetType = UNSET


class AnsweredReasoning(Struct, frozen=True):
    id: str
    status: str
    summary: list[SummaryText]
    type: Literal["reasoning"] = "reasoning"
    content: list[ReasoningText] | UnsetType = UNSET
    encrypted_content: str | None | UnsetType = UNSET


class AnsweredCall(Struct, frozen=True):
    id: str
    status: str
    call_id: str
    name: str
    arguments: str
    type: Literal["function_call"] = "function_call"
    namespace: str | UnsetType = UNSET


class AnsweredCustomCall(Struct, frozen=True):
    id: str
    status: str
    call_id: str
    name: str
    input: str
    type: Literal["custom_tool_call"] = "custom_tool_call"
    namespace: str | UnsetType = UNSET


class AnsweredShellAction(Struct, frozen=True):
    commands: list[str]
    timeout_ms: int | None
    max_output_length: int | None


class AnsweredShellCall(Struct, frozen=True):
    id: str
    status: str
    call_id: str
    action: AnsweredShellAction
    environment: Any
    type: Literal["shell_call"] = "shell_call"


class AnsweredLocalShellCall(Struct, frozen=True):
    id: str
    status: str
    call_id: str
    action: dict[str, Any]
    type: Literal["local_shell_call"] = "local_shell_call"


class AnsweredApplyPatchCall(Struct, frozen=True):
    id: str
    status: str
    call_id: str
    operation: dict[str, Any]
    type: Literal["apply_patch_call"] = "apply_patch_call"


AnsweredToolCall = (
    AnsweredCall | AnsweredCustomCall | AnsweredShellCall | AnsweredLocalShellCall | AnsweredApplyPatchCall
)


class Compaction(Struct, frozen=True):
    id: str
    encrypted_content: str
    type: Literal["compaction"] = "compaction"


Item = AnsweredMessage | AnsweredReasoning | AnsweredToolCall | Compaction

# --- answer: the response ---------------------------------------------------------------------------------


class InputTokensDetails(Struct, frozen=True):
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    image_tokens: int | UnsetType = UNSET


class OutputTokensDetails(Struct, frozen=True):
    reasoning_tokens: int = 0


class Usage(Struct, frozen=True):
    """Extensions: `billed_units` is what Cohere's invoice counts, `cost` US dollars for the whole request."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int
    billed_units: dict[str, int | float] | UnsetType = UNSET
    cost: float | UnsetType = UNSET


class Error(Struct, frozen=True):
    code: str
    message: str


class IncompleteDetails(Struct, frozen=True):
    reason: str


class Response(Struct, frozen=True, kw_only=True):
    """A response. It repeats the fields of its request, with null for a field without a value and a default."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    # Only of a response that is complete.
    completed_at: int | None = None
    status: str
    error: Error | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None = None
    model: str
    output: list[Item] = []
    usage: Usage | None = None
    previous_response_id: str | None = None
    conversation: ConversationReference | None = None
    tools: list[Any] = []
    tool_choice: Any = "auto"
    parallel_tool_calls: bool = True
    text: Any = None
    reasoning: Any = None
    temperature: float = 1.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    top_logprobs: int = 0
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    truncation: str = "disabled"
    store: bool = True
    background: bool = False
    # Cohere has no tiers, whatever was asked for.
    service_tier: str = "default"
    metadata: dict[str, Any] = {}
    user: str | UnsetType = UNSET
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_diagnostics: dict[str, Any] | UnsetType = UNSET


class CompactedResponse(Struct, frozen=True):
    """A compacted conversation. output: unchanged messages, then the compaction of everything else."""

    id: str
    created_at: int
    output: list[Any]
    usage: Usage | None
    object: Literal["response.compaction"] = "response.compaction"


# --- events -----------------------------------------------------------------------------------------------
# `type` is the first key of each, because the code that frames server-sent events only reads the beginning.


class ResponseEvent(Struct, frozen=True):
    """created, in_progress, completed, incomplete, failed, queued."""

    type: str
    response: Response
    sequence_number: int


class ItemEvent(Struct, frozen=True):
    """output_item.added and .done."""

    type: str
    output_index: int
    item: Item
    sequence_number: int


class PartEvent(Struct, frozen=True):
    """content_part.added and .done."""

    type: str
    item_id: str
    output_index: int
    content_index: int
    part: AnsweredText | AnsweredRefusal | ReasoningText
    sequence_number: int


class SummaryPartEvent(Struct, frozen=True):
    """reasoning_summary_part.added and .done."""

    type: str
    item_id: str
    output_index: int
    summary_index: int
    part: SummaryText
    sequence_number: int


# Of several types: texts, and thoughts that are shown raw.
class TextDelta(Struct, frozen=True):
    type: str
    item_id: str
    output_index: int
    content_index: int
    delta: str
    sequence_number: int
    logprobs: list[Any] | UnsetType = UNSET


class TextDone(Struct, frozen=True):
    type: str
    item_id: str
    output_index: int
    content_index: int
    text: str
    sequence_number: int
    logprobs: list[Any] | UnsetType = UNSET


class SummaryDelta(Struct, frozen=True):
    type: str
    item_id: str
    output_index: int
    summary_index: int
    delta: str
    sequence_number: int


class SummaryDone(Struct, frozen=True):
    type: str
    item_id: str
    output_index: int
    summary_index: int
    text: str
    sequence_number: int


class AnnotationAdded(Struct, frozen=True, tag_field="type", tag="response.output_text.annotation.added"):
    item_id: str
    output_index: int
    content_index: int
    annotation_index: int
    annotation: dict[str, Any]
    sequence_number: int


class ArgumentsDelta(Struct, frozen=True, tag_field="type", tag="response.function_call_arguments.delta"):
    item_id: str
    output_index: int
    delta: str
    sequence_number: int


class ArgumentsDone(Struct, frozen=True, tag_field="type", tag="response.function_call_arguments.done"):
    item_id: str
    output_index: int
    name: str
    arguments: str
    sequence_number: int


class Compacting(Struct, frozen=True, tag_field="type", tag="response.compaction.compacting"):
    item_id: str
    output_index: int
    sequence_number: int


class CustomInputDelta(Struct, frozen=True, tag_field="type", tag="response.custom_tool_call_input.delta"):
    item_id: str
    output_index: int
    delta: str
    sequence_number: int


class CustomInputDone(Struct, frozen=True, tag_field="type", tag="response.custom_tool_call_input.done"):
    item_id: str
    output_index: int
    input: str
    sequence_number: int


class ErrorEvent(Struct, frozen=True, tag_field="type", tag="error"):
    code: str | None
    message: str
    param: str | None
    sequence_number: int


# --- messages of the WebSocket ----------------------------------------------------------------------------


class SocketFailure(Struct, frozen=True):
    type: str
    code: str | None
    message: str
    param: str | None
    headers: dict[str, str] | UnsetType = UNSET


class SocketError(Struct, frozen=True):
    status: int
    error: SocketFailure
    stream_id: str | UnsetType = UNSET
    type: Literal["error"] = "error"
