"""`POST /v1/chat/completions`: the field table, and the translation of a request.

A new field is a row in FIELDS (or in `parameters.py`, if Responses has it, too) and a case in `tests/golden/chat`.
Sources: OpenAI's specification, `CreateChatCompletionRequest`; docs/cohere-api.md#chat-requests; docs/decisions.md.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct
from msgspec.structs import replace

from schemas.openai import chat as openai
from translators.answer.logprobs import CHOSEN_TOKEN
from translators.answer.transforms import UnwrapCustomInput
from translators.core.contracts import Context, Stream, TranslatedResponse, Workload
from translators.core.errors import InvalidField
from translators.core.field_table import Field, FieldTable, Reading, ignore, read, refuse, required, with_nested
from translators.core.notes import Notes
from translators.operations.chat_answer import ChatStream, ChatView, completion
from translators.request import other_shapes, tools
from translators.request.builder import ChatOptions, build
from translators.request.client_tools import ClientTool, ClientTools, custom_arguments
from translators.request.parameters import (
    COHERES_OWN,
    GUIDED_JSON,
    PROMPT_CACHE_OPTIONS,
    REASONING,
    SAMPLING,
    SERVICE_TIER,
    SYNONYMS,
    WITHOUT_EFFECT,
    Positive,
    apply_service_tier,
)
from translators.request.reasoning import apply_context
from translators.request.response_format import guided_json

MOST_CHOICES = 128
"""OpenAI's own limit on `n`."""

FIELDS: tuple[Field, ...] = (
    # The conversation
    read("model", str, "prefix, aliases and successors are resolved; the answer repeats the caller's name"),
    read(
        "messages",
        list[openai.Message],
        "roles, parts, calls and results as Cohere takes them",
        other_shapes.messages,
    ),
    read("stream", bool),
    read("stream_options", openai.StreamOptions, "`include_usage` works; `include_obfuscation` has no effect"),
    # Tools
    read(
        "tools",
        list[openai.Tool],
        "functions and custom tools; names that Cohere refuses are replaced and restored",
        other_shapes.tools,
    ),
    read(
        "tool_choice",
        str | openai.ToolChoice,
        "a named tool is the only one sent; refused choices are emulated",
        other_shapes.choice,
    ),
    read("functions", list[openai.Function], "the old form of `tools`"),
    read("function_call", str | openai.ChosenName, "the old form of `tool_choice`"),
    read("parallel_tool_calls", bool, "false: one call is passed on"),
    # The shape of the answer
    read("response_format", openai.ResponseFormat, "text, json_object, json_schema"),
    GUIDED_JSON,
    read("max_completion_tokens", Positive, "sent as `max_tokens`; includes reasoning"),
    read("max_tokens", Positive, "`max_completion_tokens` has precedence"),
    read("n", Annotated[int, Meta(ge=1, le=MOST_CHOICES)], "parallel calls to Cohere"),
    read("top_logprobs", Annotated[int, Meta(ge=0, le=20)], "the chosen token alone: Cohere has no alternatives"),
    read("modalities", list[str], "text only"),
    *SAMPLING,
    SERVICE_TIER,
    # Reasoning
    read("reasoning_effort", str, "a budget of reasoning tokens, on models that reason"),
    REASONING,
    *COHERES_OWN,
    # No effect
    PROMPT_CACHE_OPTIONS,
    *WITHOUT_EFFECT,
    ignore("metadata", "nothing is stored", b"{}"),
    ignore("store", "chat completions are not stored", b"false"),
    ignore("logit_bias", "Cohere has none", b"{}"),
    ignore("prediction", "Cohere has no predicted outputs"),
    ignore("verbosity", "Cohere has none", b'"medium"'),
    ignore("web_search_options", "Cohere has no hosted web search"),
    # Refused: it would change the kind of the answer
    refuse("audio", "Cohere answers with text only"),
    refuse("system", "send the instructions as a message whose role is 'system'"),
)

TABLE = FieldTable(FIELDS, SYNONYMS)


class ChatTranslation(Struct, frozen=True):
    """A translated chat request (`contracts.Translation`).

    second: makes the second attempt, None where the answer is not checked or this is the second one.
    """

    bodies: tuple[bytes, ...]
    model: str
    streamed: bool
    notes: Notes
    view: ChatView
    workload: Workload
    repeatable: bool
    buffered: bool = False
    second: "Callable[[], ChatTranslation] | None" = None
    preliminary: None = None
    unparsed_files: tuple[str, ...] = ()

    @property
    def validated(self) -> bool:
        return self.second is not None

    def second_attempt(self) -> "ChatTranslation | None":
        return self.second() if self.second is not None else None

    # Only Responses has `truncation`, by which a history may be shortened.
    def shortened(self) -> None:
        return None

    def translate_response(self, bodies: Sequence[bytes]) -> TranslatedResponse:
        """Converts Cohere's whole answers, one for each choice. Raises UpstreamProtocolError, AnswerFailed."""
        answers = [self.view.decoder().whole(body) for body in bodies]
        # As long as there is a second attempt, a missed schema leads to it. Only the last attempt may become a refusal.
        refuse = self.second is None and self.view.context.policy.refuse_missed_schema
        result, usage = completion(answers, self.view, refuse)
        return TranslatedResponse(_encode(result), usage)

    def stream(self) -> Stream:
        return ChatStream(self.view)


_encode = msgspec.json.Encoder().encode
_split = msgspec.json.Decoder(dict[str, Raw]).decode

_TOOL_FIELDS = frozenset({"tools", "functions"})
_CHOICE_FIELDS = frozenset({"tool_choice", "function_call"})


def request(body: bytes, context: Context, attempt: int = 1) -> ChatTranslation:
    """Translates an OpenAI chat request. Raises InvalidField.

    attempt: 2 for the request to send after the first one's answer failed its check.
    """
    try:
        translation = _request(body, context, attempt)
    except InvalidField as error:
        failure = error.failure
        if failure.param is None or not failure.param.startswith("messages[") or not other_shapes.may_move(body):
            raise
        origins = _origins(body)
        raise InvalidField(
            origins.restate(failure.param), origins.restate(failure.message), failure.code or "invalid_value"
        ) from error
    if any("messages[" in note.text for note in translation.notes) and other_shapes.may_move(body):
        translation.notes.restate(_origins(body).restate)
    return translation


def _origins(body: bytes) -> other_shapes.Origins:
    return other_shapes.Origins(msgspec.json.decode(with_nested(_split(body))["messages"]), "messages")


def _request(body: bytes, context: Context, attempt: int) -> ChatTranslation:
    """Translates a request. Errors and notes have the places that messages have after they were rewritten."""
    notes = Notes(context.strict)
    reading = TABLE.read(body, notes, context.policy)
    fields = reading.fields
    # The answer has the form of the request: old programs look for `function_call`, and would miss a list of calls.
    legacy = bool(fields.get("functions")) and not fields.get("tools")
    model = required(reading, "model")
    if "service_tier" in fields:
        apply_service_tier(reading, notes)
    names = ClientTools()
    # These tests by a set of names keep the usual request, which has none of the fields, off four calls.
    functions: list[openai.Function] = []
    paths: tuple[str, ...] = ()
    if not fields.keys().isdisjoint(_TOOL_FIELDS):
        functions, paths = tools.collect_functions(
            fields.get("tools") or [], fields.get("functions") or [], names, notes
        )
    choice = tools.ANY_CHOICE
    if not fields.keys().isdisjoint(_CHOICE_FIELDS):
        choice = tools.read_choice(fields.get("tool_choice"), fields.get("function_call"), names)
        if choice.mode == "required" and not functions:
            choice = tools.without_hosted_tools(choice, fields.get("tools") or (), notes)
    messages = _with_functions(required(reading, "messages"), names)
    response_format = fields.get("response_format")
    if "guided_json" in fields:
        response_format = guided_json(response_format, fields["guided_json"], notes)
    options = ChatOptions(
        model=model,
        messages=apply_context(messages, fields["reasoning"], notes) if "reasoning" in fields else messages,
        functions=functions,
        function_paths=paths,
        choice=choice,
        upstream_fields=reading.upstream_fields,
        streamed=fields.get("stream", False),
        response_format=response_format,
        strict_tools=fields.get("strict_tools"),
        parallel_tool_calls=fields.get("parallel_tool_calls"),
        # The old form of an answer holds one call.
        max_tool_calls=1 if legacy else None,
        choices=fields.get("n", 1),
        max_tokens=_max_tokens(fields, notes),
        thinking=fields.get("thinking"),
        reasoning=fields.get("reasoning"),
        reasoning_effort=fields.get("reasoning_effort"),
        extra=reading.extra,
    )
    if options.reasoning is not None and options.reasoning.summary:
        notes.ignored("reasoning.summary", "chat has no summaries")
    _check_kind(reading, notes)
    include_usage = _include_usage(fields, options.streamed)
    top_logprobs = bool(fields.get("top_logprobs"))
    upstream_chat = build(options, context, notes, attempt)
    transforms, custom = upstream_chat.transforms, names.custom if names.by_name else {}
    if custom:
        transforms = (*transforms, partial(UnwrapCustomInput, custom))
    view = ChatView(options.model, context, include_usage, legacy, options.choices, transforms, top_logprobs, custom)
    second = partial(request, body, context, 2) if attempt == 1 and upstream_chat.checked else None
    return ChatTranslation(
        upstream_chat.bodies,
        upstream_chat.model,
        options.streamed,
        notes,
        view,
        upstream_chat.workload(reading),
        upstream_chat.repeatable,
        upstream_chat.buffered,
        second,
        unparsed_files=upstream_chat.unparsed_files,
    )


def _with_functions(messages: list[openai.Message], names: ClientTools) -> list[openai.Message]:
    """Replaces calls of custom tools in the history by calls of their functions."""
    return [
        replace(message, tool_calls=[_as_function_call(call, names) for call in message.tool_calls])
        if isinstance(message, openai.AssistantMessage)
        and message.tool_calls
        and any(call.custom is not None for call in message.tool_calls)
        else message
        for message in messages
    ]


def _as_function_call(call: openai.ToolCall, names: ClientTools) -> openai.ToolCall:
    if call.custom is None:
        return call
    name = names.internal_name(ClientTool("custom", call.custom.name))
    return openai.ToolCall(openai.FunctionCall(name, custom_arguments(call.custom.input)), call.id, "function")


def _max_tokens(fields: dict[str, Any], notes: Notes) -> tuple[str, int] | None:
    """Returns the field that limits the tokens and its value: `max_completion_tokens`, else its old name."""
    old, new = fields.get("max_tokens"), fields.get("max_completion_tokens")
    if None not in (old, new) and old != new:
        notes.ignored("max_tokens", "max_completion_tokens is given, too")
    for name in ("max_completion_tokens", "max_tokens"):
        if name in fields:
            return name, fields[name]
    return None


def _check_kind(reading: Reading, notes: Notes) -> None:
    """Checks that the answer can have the kind that the request asks for: text, with or without log probabilities."""
    fields = reading.fields
    # A refusal and not a note: who asks for audio would get a text where a sound is expected.
    for index, modality in enumerate(fields.get("modalities") or ()):
        if modality != "text":
            where = f"modalities[{index}]"
            raise InvalidField(where, f"Cohere answers with text, not with '{modality}'", "unsupported_value")
    if fields.get("top_logprobs"):
        if reading.upstream_fields.get("logprobs") is not True:
            raise InvalidField("top_logprobs", "'top_logprobs' needs 'logprobs' to be true", "invalid_value")
        notes.adjusted("top_logprobs", fields["top_logprobs"], CHOSEN_TOKEN)


def _include_usage(fields: dict[str, Any], streamed: bool) -> bool:
    options: openai.StreamOptions | None = fields.get("stream_options")
    if options is None:
        return False
    # As OpenAI answers, so that a program meets the mistake here as well.
    if not streamed:
        raise InvalidField("stream_options", "'stream_options' needs 'stream' to be true", "invalid_value")
    return bool(options.include_usage)
