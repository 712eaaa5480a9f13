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


# UNSET is left out of the JSON. None would be sent as null.
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


# With tool calls there is no text: a plan is in `tool_plan`, a thought in a thinking block
# (docs/cohere-api.md#messages).
class AssistantMessage(Struct, frozen=True, tag_field="role", tag="assistant"):
    content: str | list[TextContent | ThinkingContent] | UnsetType = UNSET
    tool_plan: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


# A result is never an image (docs/cohere-api.md#tools).
class ToolMessage(Struct, frozen=True, tag_field="role", tag="tool"):
    tool_call_id: str
    content: str | list[TextContent | DocumentContent]


Message = SystemMessage | UserMessage | AssistantMessage | ToolMessage

# --- request: the rest ------------------------------------------------------------------------------------


class ToolFunction(Struct, frozen=True):
    name: str
    # Always sent: a tool without parameters has an empty object schema (docs/cohere-api.md#tools).
    parameters: dict[str, Any]
    description: str | UnsetType = UNSET


class Tool(Struct, frozen=True):
    function: ToolFunction
    type: Literal["function"] = "function"


class ResponseFormat(Struct, frozen=True):
    # `json_schema` is no type of Cohere's, but the key of its schema (docs/cohere-api.md#json-schemas).
    type: Literal["text", "json_object"]
    json_schema: dict[str, Any] | UnsetType = UNSET


class Thinking(Struct, frozen=True):
    type: Literal["enabled", "disabled"] = "enabled"
    token_budget: int | UnsetType = UNSET


# Read from callers as well, so that an unknown key is noted.
class CitationOptions(Struct, frozen=True, forbid_unknown_fields=True):
    mode: str


class ChatRequest(Struct, frozen=True):
    model: str
    messages: list[Message]
    stream: bool = False
    tools: list[Tool] | UnsetType = UNSET
    strict_tools: bool | UnsetType = UNSET
    # Absent means that the model decides, and no value names a tool (docs/cohere-api.md#chat-requests).
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
    # Some models take one of the two penalties only (docs/cohere-api.md#chat-requests).
    presence_penalty: float | UnsetType = UNSET
    k: int | UnsetType = UNSET
    p: float | UnsetType = UNSET
    logprobs: bool | UnsetType = UNSET
    thinking: Thinking | UnsetType = UNSET
    # 0 is served first (docs/cohere-api.md#chat-requests).
    priority: int | UnsetType = UNSET


# --- answer -----------------------------------------------------------------------------------------------


class Tokens(Struct, frozen=True):
    """`image_tokens` and `reasoning_tokens` are undocumented, but recorded (docs/cohere-api.md#usage)."""

    input_tokens: int | float | None = None
    output_tokens: int | float | None = None
    image_tokens: int | float | None = None
    reasoning_tokens: int | float | None = None


# `tokens` has Cohere's own instructions in it, `billed_units` what is charged (docs/cohere-api.md#usage).
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
    # Of the block, and there only behind a thinking block (docs/cohere-api.md#documents-and-citations).
    content_index: int | None = None


class ContentBlock(Struct, frozen=True):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None


# Of a call without arguments `null` was recorded as well (docs/cohere-api.md#chat-answers).
class AnsweredFunction(Struct, frozen=True):
    name: str | None = None
    arguments: str | None = None


class AnsweredToolCall(Struct, frozen=True):
    id: str | None = None
    function: AnsweredFunction | None = None


# A turn with calls has no `content` where the model does not reason (docs/cohere-api.md#chat-answers).
class AnsweredMessage(Struct, frozen=True):
    content: list[ContentBlock] | None = None
    tool_plan: str | None = None
    tool_calls: list[AnsweredToolCall] | None = None
    citations: list[Citation] | None = None


class ChatAnswer(Struct, frozen=True):
    """A whole answer. `message` and `finish_reason` distinguish it from an error body."""

    message: AnsweredMessage
    # Not a closed list: an answer with a reason that nobody knows is an answer
    # (docs/decisions.md#a-failure-never-looks-like-a-success).
    finish_reason: str
    id: str | None = None
    usage: Usage | None = None
    logprobs: list[LogprobItem] | None = None
    error: str | None = None
    error_type: str | None = None


encode_request = Encoder().encode
decode_answer = Decoder(ChatAnswer).decode
