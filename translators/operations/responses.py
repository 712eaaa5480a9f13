"""`POST /v1/responses`: the field table, and the translation of a request.

What the fields have in common with chat's is in `parameters.py` and `builder.py`. Sources: OpenAI's specification,
`CreateResponse`; Open Responses, https://www.openresponses.org; docs/decisions.md.
"""

import re
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct
from msgspec.structs import replace

from schemas.openai import chat
from schemas.openai import responses as openai
from translators.answer.decoder import AnswerTransform
from translators.answer.logprobs import CHOSEN_TOKEN
from translators.answer.transforms import UnwrapCustomInput
from translators.answer.usage import Counts, counts
from translators.core.contracts import (
    Context,
    FinishedResponse,
    PreparedResponse,
    QueuedResponse,
    Reference,
    StateOptions,
    Stream,
    TranslatedResponse,
    UsageBase,
    Workload,
)
from translators.core.errors import InvalidField
from translators.core.field_table import Field, FieldTable, Reading, ignore, read, refuse, required
from translators.core.model_names import resolve_and_note
from translators.core.notes import Notes
from translators.operations.responses_answer import (
    FIRST_IN_BACKGROUND,
    CompactionStream,
    PreparedStream,
    ResponsesStream,
    ResponsesView,
    answer_id,
    whole,
)
from translators.operations.responses_input import SUMMARY_INTRODUCTION, InputReader
from translators.operations.responses_summary import read_summary, summary_request
from translators.operations.responses_template import initial_response
from translators.operations.responses_tools import ResponsesTools, tool_choice
from translators.request import other_shapes
from translators.request.builder import ChatOptions, build
from translators.request.parameters import (
    COHERES_OWN,
    GUIDED_JSON,
    REASONING,
    SAMPLING,
    SERVICE_TIER,
    SYNONYMS,
    WITHOUT_EFFECT,
    Positive,
    apply_service_tier,
)
from translators.request.reasoning import Reasoning, apply_context
from translators.request.response_format import guided_json
from translators.request.tools import without_hosted_tools
from translators.request.truncation import MOST_HALVINGS, next_halving, shortened

ENCRYPTED_REASONING = "reasoning.encrypted_content"
LOGPROBS = "message.output_text.logprobs"

FIELDS: tuple[Field, ...] = (
    # The conversation
    read("model", str, "prefix, aliases and successors are resolved; the answer repeats the caller's name"),
    read("input", str | list[Raw], "text, or items: messages, calls, outputs, reasoning"),
    read("instructions", str, "the first part of the system turn"),
    read("truncation", Literal["auto", "disabled"], "auto: the oldest turns are left out of what is too long"),
    read("context_management", list[openai.ContextManagement], "compaction: the model summarises what is too long"),
    read("stream", bool),
    read("stream_options", openai.StreamOptions, "there is no obfuscation"),
    # Tools
    read(
        "tools",
        list[dict[str, Any]],
        "functions, custom tools, shells, apply_patch, namespaces; hosted tools are ignored",
    ),
    read("tool_choice", str | dict[str, Any], "a named tool is the only one sent; refused choices are emulated"),
    read("parallel_tool_calls", bool, "false: one call is passed on"),
    read("max_tool_calls", Positive, "more calls are not passed on"),
    # The shape of the answer
    read("text", openai.TextOptions, "`format` as in chat; `verbosity` has no effect"),
    GUIDED_JSON,
    read("max_output_tokens", Positive, "sent as `max_tokens`; includes reasoning"),
    read("include", list[str], f"`{ENCRYPTED_REASONING}` and `{LOGPROBS}` work"),
    read("top_logprobs", Annotated[int, Meta(ge=0, le=20)], "the chosen token alone: Cohere has no alternatives"),
    *SAMPLING,
    SERVICE_TIER,
    REASONING,
    *COHERES_OWN,
    # State
    read("store", bool),
    read("previous_response_id", str),
    read("conversation", str | openai.ConversationReference),
    read("background", bool, "answered at once, generated afterwards; needs `store`"),
    read("metadata", openai.Metadata, "stored with the response, not sent", other_shapes.texts),
    read("background_options", openai.BackgroundOptions, "every background response begins as soon as it can"),
    read(
        "prompt_cache_options", openai.PromptCacheOptions, "`prewarm` is answered at once; Cohere caches prompts itself"
    ),
    # No effect
    *WITHOUT_EFFECT,
    ignore("access_programs", "Cohere has none"),
    read("image", openai.ImageOptions, "Cohere compresses no images"),
    # Refused: it would change the input's meaning
    refuse("prompt", "prompt templates are stored at OpenAI"),
)

TABLE = FieldTable(FIELDS, SYNONYMS)

_encode = msgspec.json.Encoder().encode


class ResponsesTranslation(Struct, frozen=True):
    """A translated Responses request (`contracts.Translation`).

    second: makes the second attempt, None where the answer is not checked. shorter: makes the same request with less of
    its history, None where nothing may be left out.
    """

    bodies: tuple[bytes, ...]
    model: str
    streamed: bool
    notes: Notes
    view: ResponsesView
    workload: Workload
    repeatable: bool
    buffered: bool = False
    second: "Callable[[], ResponsesTranslation] | None" = None
    shorter: "Callable[[], ResponsesTranslation] | None" = None
    preliminary: "Preliminary | None" = None
    stream_type: type[ResponsesStream] = ResponsesStream
    unparsed_files: tuple[str, ...] = ()

    @property
    def validated(self) -> bool:
        return self.second is not None

    def second_attempt(self) -> "ResponsesTranslation | None":
        return self.second() if self.second is not None else None

    def shortened(self) -> "ResponsesTranslation | None":
        return self.shorter() if self.shorter is not None else None

    def translate_response(self, bodies: Sequence[bytes]) -> TranslatedResponse:
        """Converts Cohere's whole answer. Raises UpstreamProtocolError or AnswerFailed."""
        response, usage = whole(bodies[0] if bodies else b"", self.view, self.stream_type)
        return TranslatedResponse(_encode(response), usage)

    def stream(self) -> Stream:
        return self.stream_type(self.view)


class Compacted(Struct, frozen=True):
    """The compaction of a conversation that is still to be answered. tokens: what the summary consumed."""

    summary: str
    tokens: Counts


class Preliminary(Struct, frozen=True):
    """The call that summarises a conversation before it is answered (`contracts.Preliminary`).

    transforms: of the summary. answer: translates the request again, with the summary in the place of its history.
    """

    bodies: tuple[bytes, ...]
    model: str
    notes: Notes
    workload: Workload
    transforms: Sequence[Callable[[], AnswerTransform]]
    usage_base: UsageBase
    answer: "Callable[[Compacted], ResponsesTranslation]"

    def continue_with(self, bodies: Sequence[bytes]) -> ResponsesTranslation:
        summary = read_summary(bodies[0], self.transforms)
        return self.answer(Compacted(summary.text, counts(summary.usage, self.usage_base)))


def request(
    body: bytes,
    context: Context,
    attempt: int = 1,
    halvings: int = 0,
    compacted: Compacted | None = None,
    prewarms: bool = True,
) -> ResponsesTranslation:
    """Translates an OpenAI Responses request. Raises InvalidField.

    attempt: 2 for the request to send after the first answer failed its check. halvings: how often the history was
    halved because Cohere found it too long. compacted: the compaction that replaces the history, None before there is
    one. prewarms: False to treat `prompt_cache_options.prewarm` as no special case, as counting tokens has to.
    """
    notes = Notes(context.strict)
    reading = TABLE.read(body, notes, context.policy)
    fields = reading.fields
    tools = _tools(fields, notes)
    cache: openai.PromptCacheOptions | None = fields.get("prompt_cache_options")
    # Before the input is read: a request that only warms a cache may have none.
    if prewarms and cache is not None and cache.prewarm:
        return _prewarmed(reading, context, notes)
    included: Sequence[str] = fields.get("include") or ()
    if fields.get("top_logprobs"):
        notes.adjusted("top_logprobs", fields["top_logprobs"], CHOSEN_TOKEN)
    if fields.get("top_logprobs") or LOGPROBS in included:
        reading.upstream_fields["logprobs"] = True
    model = required(reading, "model")
    # Before the fields below are used: items of the input may change them (`configuration_update`).
    reader = _reader(required(reading, "input"), fields.get("instructions"), context, notes, tools)
    _configure(fields, reader.configurations)
    reasoning: Reasoning | None = fields.get("reasoning")
    text: openai.TextOptions = fields.get("text") or openai.TextOptions()
    _note_ignored_parts(fields, text, included, notes)
    apply_service_tier(reading, notes)
    messages = reader.with_paths(apply_context(reader.messages, reasoning, notes))
    # Such a request has no answer of its own, so tools, formats and everything below are not looked at.
    if reader.compaction:
        return _compaction(body, reading, messages, context, notes, halvings)
    threshold = _compaction_threshold(fields, notes)
    if compacted is not None:
        messages = _compacted_messages(messages, reader.summaries, compacted.summary)
        notes.emulated("context_management", "the model summarised the conversation")
    # A conversation that was just summarised is short. If it is too long still, halving it would throw away the
    # summary.
    truncates = fields.get("truncation") == "auto" and compacted is None
    next_halvings = next_halving(messages, halvings) if truncates else None
    if halvings:
        messages, total = shortened(messages, halvings), len(messages)
        notes.inform("truncation", f"truncation auto: the oldest {total - len(messages)} messages left out")
    functions, choice = tools.complete(), tool_choice(fields.get("tool_choice"), tools.names, notes)
    if choice.mode == "required" and not functions:
        choice = without_hosted_tools(choice, fields.get("tools") or (), notes)
    options = ChatOptions(
        model=model,
        messages=messages,
        functions=functions,
        function_paths=tools.paths,
        choice=choice,
        upstream_fields=reading.upstream_fields,
        streamed=fields.get("stream", False),
        response_format=guided_json(_chat_format(text.format), fields.get("guided_json"), notes),
        strict_tools=fields.get("strict_tools"),
        parallel_tool_calls=fields.get("parallel_tool_calls"),
        max_tool_calls=fields.get("max_tool_calls"),
        max_tokens=("max_output_tokens", fields["max_output_tokens"]) if "max_output_tokens" in fields else None,
        thinking=fields.get("thinking"),
        reasoning=reasoning,
        extra=reading.extra,
        message_paths=[reader.paths.get(id(message), "input") for message in messages],
    )
    try:
        upstream_chat = build(options, context, notes, attempt)
    # The code that is shared with chat speaks of `messages`, which the caller never sent.
    except InvalidField as error:
        raise _with_path(error, messages, options.message_paths) from error
    second = partial(request, body, context, 2, halvings, compacted) if attempt == 1 and upstream_chat.checked else None
    custom = tools.names.custom
    transforms = upstream_chat.transforms
    view = ResponsesView(
        initial_response(reading, context),
        context,
        # Callers who ask for a summary get one, whatever the setting says
        # (docs/decisions.md#thinking-is-a-summary-in-the-responses-api).
        summaries=not context.policy.raw_thoughts
        or reasoning is not None
        and bool(reasoning.summary or reasoning.generate_summary),
        encrypted=ENCRYPTED_REASONING in included,
        tools=tools.names.by_name,
        transforms=(*transforms, partial(UnwrapCustomInput, custom)) if custom else transforms,
        # While there is a second attempt, a missed schema is a reason to make it, not yet to refuse.
        refuse_missed_schema=second is None and context.policy.refuse_missed_schema,
        summary=compacted.summary if compacted is not None else "",
        summary_tokens=compacted.tokens if compacted is not None else Counts(),
    )
    workload = upstream_chat.workload(reading)
    preliminary = None
    # By the estimate of what would really be sent, instructions and tools included.
    if threshold and compacted is None and workload.prompt_bytes // BYTES_PER_TOKEN >= threshold:
        preliminary = _preliminary(body, reading, messages, context, halvings)
    shorter = partial(request, body, context, 1, next_halvings) if next_halvings is not None else None
    return ResponsesTranslation(
        upstream_chat.bodies,
        upstream_chat.model,
        options.streamed,
        notes,
        view,
        workload,
        upstream_chat.repeatable,
        upstream_chat.buffered,
        second,
        shorter,
        preliminary,
        unparsed_files=upstream_chat.unparsed_files,
    )


def _tools(fields: dict[str, Any], notes: Notes) -> ResponsesTools:
    """Reads the tools. Those of other APIs and their choice are rewritten before, as the response shows them, too."""
    tools = ResponsesTools(notes)
    if fields.get("tools"):
        fields["tools"] = [other_shapes.tool(tool) for tool in fields["tools"]]
        for index, tool in enumerate(fields["tools"]):
            tools.add(tool, f"tools[{index}]")
    if "tool_choice" in fields:
        fields["tool_choice"] = other_shapes.choice(fields["tool_choice"])
    return tools


# --- compaction ---------------------------------------------------------------------------------------------

DEFAULT_THRESHOLD = 100_000
"""Tokens from which a conversation is compacted where `context_management` names no threshold."""

BYTES_PER_TOKEN = 4
"""For an estimate of the threshold: an exact count would take a call to Cohere for every request."""


def _compaction_threshold(fields: dict[str, Any], notes: Notes) -> int:
    """Returns the estimated tokens from which the conversation is to be compacted, 0 for never."""
    threshold = 0
    for index, entry in enumerate(fields.get("context_management") or ()):
        if entry.type == "compaction":
            threshold = entry.compact_threshold or DEFAULT_THRESHOLD
        else:
            notes.ignored(
                f"context_management[].type {entry.type[:64]}", "not known", f"context_management[{index}].type"
            )
    return threshold


def _compacted_messages(messages: list[chat.Message], earlier: Collection[int], summary: str) -> list[chat.Message]:
    """Returns the instructions, the summary, and the newest messages.

    earlier: the `id()` of each earlier summary, which this one replaces as well.
    """
    # The newest ones stay as they are: a summary of a question that is not yet answered would lose its wording.
    newest = shortened(messages, MOST_HALVINGS)
    system = [one for one in newest if isinstance(one, chat.SystemMessage) and id(one) not in earlier]
    others = [one for one in newest if not isinstance(one, chat.SystemMessage)]
    return [*system, chat.SystemMessage(SUMMARY_INTRODUCTION + summary), *others]


def _preliminary(
    body: bytes, reading: Reading, messages: list[chat.Message], context: Context, halvings: int
) -> Preliminary | None:
    """Returns the call that summarises the conversation; None where nothing of it could be left out."""
    # A conversation of one turn is answered as it is, however long: a summary of it would replace nothing.
    if len(shortened(messages, MOST_HALVINGS)) == len(messages):
        return None
    notes = Notes()
    upstream_chat = summary_request(reading.fields["model"], messages, reading, context, notes)
    answer = partial(_answer_compacted, body, context, halvings)
    return Preliminary(
        upstream_chat.bodies,
        upstream_chat.model,
        notes,
        upstream_chat.workload(reading),
        upstream_chat.transforms,
        context.policy.usage_base,
        answer,
    )


def _answer_compacted(body: bytes, context: Context, halvings: int, compacted: Compacted) -> ResponsesTranslation:
    return request(body, context, 1, halvings, compacted)


def _compaction(
    body: bytes, reading: Reading, messages: list[chat.Message], context: Context, notes: Notes, halvings: int
) -> ResponsesTranslation:
    """Translates a request whose input ends in a `compaction_trigger`: the answer is the compaction."""
    next_halvings = next_halving(messages, halvings)
    if halvings:
        messages, total = shortened(messages, halvings), len(messages)
        notes.ignored("input", f"its {total - len(messages)} oldest messages are too long to be summarised")
    if not messages:
        raise InvalidField("input", "There is nothing to compact", "empty_array")
    upstream_chat = summary_request(reading.fields["model"], messages, reading, context, notes)
    return ResponsesTranslation(
        upstream_chat.bodies,
        upstream_chat.model,
        reading.fields.get("stream", False),
        notes,
        ResponsesView(initial_response(reading, context), context, transforms=upstream_chat.transforms),
        upstream_chat.workload(reading),
        upstream_chat.repeatable,
        # The summary is encrypted as a whole, so there is nothing to show before its end.
        buffered=True,
        shorter=partial(request, body, context, 1, next_halvings) if next_halvings is not None else None,
        stream_type=CompactionStream,
        unparsed_files=upstream_chat.unparsed_files,
    )


def _prewarmed(reading: Reading, context: Context, notes: Notes) -> ResponsesTranslation:
    """Translates a request that only warms the prompt's cache, which Cohere does itself: nothing is sent."""
    model = resolve_and_note(required(reading, "model"), context.policy, notes)
    return ResponsesTranslation(
        (),
        model,
        reading.fields.get("stream", False),
        notes,
        ResponsesView(initial_response(reading, context), context),
        Workload(
            model,
            end_user=reading.end_user,
            calls=0,
            requested_model=reading.fields["model"],
            metadata=reading.metadata,
        ),
        False,
        buffered=True,
        stream_type=PreparedStream,
    )


def _configure(fields: dict[str, Any], configurations: Sequence[tuple[str, openai.ConfigurationItem]]) -> None:
    """Applies `configuration_update` items to the request's fields.

    Those of the input come after the fields and win; those of the history hold where the fields say nothing.
    """
    reasoning: Reasoning | None = fields.get("reasoning")
    text: openai.TextOptions | None = fields.get("text")
    explicit_effort = reasoning is not None and reasoning.effort is not None
    explicit_format = text is not None and text.format is not None
    for where, item in configurations:
        # An item of the history was said before this request's fields were written, one of its input together with
        # them.
        in_input = where.startswith("input")
        if item.reasoning is not None and item.reasoning.effort and (in_input or not explicit_effort):
            fields["reasoning"] = replace(fields.get("reasoning") or Reasoning(), effort=item.reasoning.effort)
        if item.text is not None and item.text.format is not None and (in_input or not explicit_format):
            fields["text"] = replace(fields.get("text") or openai.TextOptions(), format=item.text.format)


def _note_ignored_parts(
    fields: dict[str, Any], text: openai.TextOptions, included: Sequence[str], notes: Notes
) -> None:
    """Notes the keys of object fields that have no effect, unless they hold OpenAI's default. included: `include`."""
    if text.verbosity not in (None, "medium"):
        notes.ignored("text.verbosity", "Cohere has none")
    background: openai.BackgroundOptions | None = fields.get("background_options")
    if background is not None and background.completion_window not in (None, "soonest"):
        notes.ignored("background_options.completion_window", "it begins as soon as it can")
    if background is not None and background.continuation_id:
        notes.ignored("background_options.continuation_id", "background responses are not ordered")
    image: openai.ImageOptions | None = fields.get("image")
    if image is not None and image.context_compression not in (None, "auto", "disabled"):
        notes.ignored("image.context_compression", "Cohere compresses no images")
    cache: openai.PromptCacheOptions | None = fields.get("prompt_cache_options")
    if cache is not None and (cache.ttl or cache.comparison_response_id or cache.mode not in (None, "implicit")):
        notes.ignored("prompt_cache_options", "Cohere caches prompts itself")
    options: openai.StreamOptions | None = fields.get("stream_options")
    if options is not None and options.include_obfuscation:
        notes.ignored("stream_options.include_obfuscation", "there is no obfuscation")
    for name in included:
        if name not in (ENCRYPTED_REASONING, LOGPROBS):
            notes.ignored(f"include {name}", "Cohere has no such thing", "include")


def prepare(body: bytes, context: Context) -> PreparedResponse:
    """Makes an empty response to be continued (`generate: false`); its input may be empty. Raises InvalidField."""
    notes = Notes(context.strict)
    reading = TABLE.read(body, notes, context.policy)
    required(reading, "model")
    tools = _tools(reading.fields, notes)
    items = reading.fields.get("input")
    # Read only to find mistakes now: the turn that continues the response would meet them, and could not tell whose
    # they are.
    if items or context.conversation.history:
        _reader(items or [], reading.fields.get("instructions"), context, notes, tools)
    stream = PreparedStream(ResponsesView(initial_response(reading, context), context))
    return PreparedResponse(stream.whole(), stream.final(), notes)


def _reader(
    items: str | list[Raw], instructions: str | None, context: Context, notes: Notes, tools: ResponsesTools
) -> InputReader:
    """Reads the whole conversation as chat messages: instructions, history and input. Raises InvalidField."""
    reader = InputReader(notes, context, tools)
    if instructions:
        reader.add(chat.SystemMessage(instructions), "instructions")
    for items_of_turn in context.conversation.history:
        reader.read(msgspec.json.decode(items_of_turn, type=list[Raw]), "history")
    # OpenAI accepts instructions with an empty input as the beginning of a conversation.
    instructed = bool(instructions) and not context.conversation.history
    if isinstance(items, str):
        if not items and not instructed:
            raise InvalidField("input", "'input' must not be empty", "empty_string")
        # A text becomes the item that it stands for, so that there is one way to read input, and stored input has one
        # form.
        items = [Raw(_encode({"role": "user", "content": items}))]
    if not items and not instructed and not context.conversation.history:
        raise InvalidField("input", "'input' must not be empty", "empty_array")
    reader.read(items, "input")
    reader.finish()
    return reader


_CHAT_MESSAGE = re.compile(r"messages\[(\d+)\](.*)", re.DOTALL)
_CHAT_NAMES = (
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("messages", "input"),
)


def _with_path(error: InvalidField, messages: Sequence[chat.Message], paths: Sequence[str]) -> InvalidField:
    """Restates an error from the code that is shared with chat: its path becomes that of the field in Responses.

    paths: of each chat message, the path of the item it was made of.
    """
    # The message repeats the path in its sentence, so both are replaced, or they would contradict each other.
    failure = error.failure
    chat_path = param = failure.param or ""
    match = _CHAT_MESSAGE.fullmatch(chat_path)
    if match and int(match[1]) < len(paths):
        # Below an item only what it contains is found in both, under another name in the result of a tool.
        below = match[2].removeprefix(".content")
        name = ".output" if isinstance(messages[int(match[1])], chat.ToolMessage) else ".content"
        param = paths[int(match[1])] + (name + below if below != match[2] else "")
    else:
        for chat_name, name in _CHAT_NAMES:
            if chat_path == chat_name or chat_path.startswith(chat_name + "."):
                param = name + chat_path.removeprefix(chat_name)
                break
    message = failure.message.replace(chat_path, param) if chat_path else failure.message
    return InvalidField(param or None, message, failure.code or "invalid_value")


def _chat_format(text_format: openai.TextFormat | None) -> chat.ResponseFormat | None:
    if text_format is None:
        return None
    schema, strict = text_format.schema, text_format.strict
    # Clients that were ported from chat send chat's wrapper, or Cohere's spellings, inside `text.format`.
    if text_format.type != "json_schema" or (schema is None and (text_format.json_schema or text_format.value)):
        return chat.ResponseFormat(text_format.type, text_format.json_schema, schema, text_format.value, strict)
    return chat.ResponseFormat("json_schema", {"name": text_format.name, "schema": schema, "strict": strict})


# --- state ------------------------------------------------------------------------------------------------


class _StateFields(Struct):
    """extra_params: fields that count where the same one is not at the top level (`SYNONYM_OBJECT`)."""

    store: bool | None = None
    previous_response_id: str | None = None
    conversation: str | openai.ConversationReference | None = None
    background: bool | None = None
    input: str | list[Raw] | None = None
    extra_params: Raw = Raw(b"null")


class _StoredFields(Struct):
    id: str
    status: str
    model: str
    created_at: int
    output: list[Raw]


_decode_state_fields = msgspec.json.Decoder(_StateFields).decode
_decode_item = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_stored_fields = msgspec.json.Decoder(_StoredFields).decode
_NULL, _MESSAGE, _REFERENCE = Raw(b"null"), Raw(b'"message"'), Raw(b'"item_reference"')
_SHELL_OUTPUT = Raw(b'"local_shell_call_output"')
_REQUEST_ITEM_ID = re.compile(r"item_(.+)_[0-9]+")
"""Matches the id that `_own_items` gives to an item without one."""


def state_options(body: bytes, response_id: str) -> StateOptions:
    """Reads the fields of a request that concern stored state. Raises InvalidField.

    It runs before the translation, which needs what is loaded by it. response_id: of the response to come, of which the
    ids of the request's items are made.
    """
    try:
        fields = _decode_state_fields(body)
        if bytes(fields.extra_params) != b"null":
            nested = msgspec.structs.asdict(_decode_state_fields(fields.extra_params))
            present = {name: value for name, value in msgspec.structs.asdict(fields).items() if value is not None}
            fields = _StateFields(**{**nested, **present})
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return StateOptions(store=False)  # the translation will report what is wrong
    reference = fields.conversation
    conversation = reference.id if isinstance(reference, openai.ConversationReference) else reference
    if fields.previous_response_id and conversation:
        raise InvalidField("conversation", "'conversation' and 'previous_response_id' exclude each other")
    if fields.background and fields.store is False:
        raise InvalidField("background", "'background' needs 'store': what is not stored cannot be fetched later")
    return StateOptions(
        fields.store is not False,
        fields.previous_response_id or "",
        conversation or "",
        bool(fields.background),
        *_own_items(fields.input, response_id),
    )


_Items = tuple[tuple[str, bytes], ...]


def _own_items(input: str | list[Raw] | None, response_id: str) -> tuple[_Items, tuple[Reference, ...]]:
    """Returns the request's items as they are stored, each with an id, and the references among them."""
    # All is empty for an input that the translation will refuse: nothing of such a request is stored.
    if not input:
        return (), ()
    if isinstance(input, str):
        content = [{"type": "input_text", "text": input}]
        input = [Raw(_encode({"type": "message", "role": "user", "status": "completed", "content": content}))]
    items: list[tuple[str, bytes]] = []
    references: list[Reference] = []
    for index, raw in enumerate(input):
        try:
            item = _decode_item(raw)
            own_id = msgspec.json.decode(item.get("id", _NULL))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return (), ()
        if bytes(item.get("type", _NULL)) == bytes(_SHELL_OUTPUT) and own_id:
            # OpenAI's type has the id of its call as its own id, under which the call may be stored already.
            own_call = item.get("call_id", _NULL)
            item["call_id"] = item["id"] if bytes(own_call) == bytes(_NULL) else own_call
            own_id = None
        item_id = own_id or f"item_{response_id.removeprefix('resp_')}_{index}"
        kind = item.get("type", _NULL)
        if bytes(kind) == bytes(_NULL):
            kind = _MESSAGE if "role" in item else _REFERENCE
        if bytes(kind) == bytes(_REFERENCE) and isinstance(own_id, str):
            references.append(_reference(index, own_id))
        items.append((str(item_id), _encode({**item, "id": item_id, "type": kind})))
    return tuple(items), tuple(references)


def _reference(position: int, id: str) -> Reference:
    match = _REQUEST_ITEM_ID.fullmatch(id)
    return Reference(position, id, answer_id(id), f"resp_{match[1]}" if match else "")


def queued_response(translation: ResponsesTranslation) -> QueuedResponse:
    """Makes the documents of a background response whose generation has not begun."""
    in_progress = translation.view.base
    waiting = replace(in_progress, status="queued")
    events = [openai.ResponseEvent(name, waiting, number) for number, name in enumerate(FIRST_IN_BACKGROUND)]
    return QueuedResponse(_encode(waiting), _encode(in_progress), [_encode(event) for event in events])


def finished_response(final: bytes) -> FinishedResponse:
    """Reads the columns of a finished response from its document. final: JSON."""
    stored = _decode_stored_fields(final)
    first = msgspec.json.decode(_decode_item(stored.output[0]).get("id", _NULL)) if stored.output else None
    shared = answer_id(first) if isinstance(first, str) else ""
    return FinishedResponse(
        stored.id, stored.status, stored.model, stored.created_at, _encode(stored.output), tuple(stored.output), shared
    )
