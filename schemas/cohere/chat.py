"""`POST /v2/chat`: the request that is sent, and the whole answer.

The Structs of the request have every field that Cohere defines and no other, so nothing else can be sent. The Structs
of the answer have only the fields that are read. Each has a default, because Cohere adds fields and leaves out empty
ones (docs/cohere-api.md#chat-requests, docs/cohere-api.md#chat-answers).
"""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType
from msgspec.json import Decoder, Encoder

# --- request: messages ------------------------------------------------------------------------------------


class TextContent(Struct, frozen=True, tag_field="type", tag="text"):
    text: str


class ThinkingContent(Struct, frozen=True, tag_field="type", tag="thinking"):
    thinking: str


class ImageUrl(Struct, frozen=True):
    url: str
    detail: str | UnsetType = UNSET


class ImageContent(Struct, frozen=True, tag_field="type", tag="image_url"):
    image_url: ImageUrl


class DocumentContent(Struct, frozen=True, tag_field="type", tag="document"):
    document: dict[str, Any]


class Function(Struct, frozen=True):
    name: str
    arguments: str


class ToolCall(Struct, frozen=True):
    id: str
    function: Function
    type: Literal["function"] = "function"


class SystemMessage(Struct, frozen=True, tag_field="role", tag="system"):
    content: str | list[TextContent]


class UserMessage(Struct, frozen=True, tag_field="role", tag="user"):
    content: str | list[TextContent | ImageContent]


class AssistantMessage(Struct, frozen=True, tag_field="role", tag="assistant"):
    content: str | list[TextContent | ThinkingContent] | UnsetType = UNSET
    tool_plan: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ToolMessage(Struct, frozen=True, tag_field="role", tag="tool"):
    tool_call_id: str
    content: str | list[TextContent | DocumentContent]


Message = SystemMessage | UserMessage | AssistantMessage | ToolMessage

# --- request: the rest ------------------------------------------------------------------------------------


class ToolFunction(Struct, frozen=True):
    name: str
    parameters: dict[str, Any]
    description: str | UnsetType = UNSET


class Tool(Struct, frozen=True):
    function: ToolFunction
    type: Literal["function"] = "function"


class ResponseFormat(Struct, frozen=True):
    type: Literal["text", "json_object"]
    json_schema: dict[str, Any] | UnsetType = UNSET


class Thinking(Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["enabled", "disabled"] = "enabled"
    token_budget: int | UnsetType = UNSET


class CitationOptions(Struct, frozen=True, forbid_unknown_fields=True):
    mode: str


class ChatRequest(Struct, frozen=True):
    model: str
    messages: list[Message]
    stream: bool = False
    tools: list[Tool] | UnsetType = UNSET
    strict_tools: bool | UnsetType = UNSET
    tool_choice: Literal["REQUIRED", "NONE"] | UnsetType = UNSET
    documents: list[Any] | UnsetType = UNSET
    citation_options: CitationOptions | UnsetType = UNSET
    response_format: ResponseFormat | UnsetType = UNSET
    safety_mode: str | UnsetType = UNSET
    max_tokens: int | UnsetType = UNSET
    stop_sequences: list[str] | UnsetType = UNSET
    temperature: float | UnsetType = UNSET
    seed: int | UnsetType = UNSET
    frequency_penalty: float | UnsetType = UNSET
    presence_penalty: float | UnsetType = UNSET
    k: int | UnsetType = UNSET
    p: float | UnsetType = UNSET
    logprobs: bool | UnsetType = UNSET
    thinking: Thinking | UnsetType = UNSET
    priority: int | UnsetType = UNSET


# --- answer -----------------------------------------------------------------------------------------------


class Tokens(Struct, frozen=True):
    """`image_tokens` and `reasoning_tokens` are undocumented, but recorded (docs/cohere-api.md#usage)."""

    input_tokens: int | float | None = None
    output_tokens: int | float | None = None
    image_tokens: int | float | None = None
    reasoning_tokens: int | float | None = None


class Usage(Struct, frozen=True):
    tokens: Tokens | None = None
    billed_units: dict[str, int | float | None] | None = None
    cached_tokens: int | float | None = None


class LogprobItem(Struct, frozen=True):
    """One piece of text, with a number in `logprobs` for each of its tokens."""

    text: str | None = None
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None


class Citation(Struct, frozen=True):
    """A citation. start, end: character offsets into one content block, the end exclusive."""

    start: int | None = None
    end: int | None = None
    text: str | None = None
    sources: list[dict[str, Any]] | None = None
    type: str | None = None
    content_index: int | None = None


class ContentBlock(Struct, frozen=True):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None


class AnsweredFunction(Struct, frozen=True):
    name: str | None = None
    arguments: str | None = None


class AnsweredToolCall(Struct, frozen=True):
    id: str | None = None
    function: AnsweredFunction | None = None


class AnsweredMessage(Struct, frozen=True):
    content: list[ContentBlock] | None = None
    tool_plan: str | None = None
    tool_calls: list[AnsweredToolCall] | None = None
    citations: list[Citation] | None = None


class ChatAnswer(Struct, frozen=True):
    """A whole answer. `message` and `finish_reason` distinguish it from an error body."""

    message: AnsweredMessage
    finish_reason: str
    id: str | None = None
    usage: Usage | None = None
    logprobs: list[LogprobItem] | None = None
    error: str | None = None
    error_type: str | None = None


encode_request = Encoder().encode
decode_answer = Decoder(ChatAnswer).decode
