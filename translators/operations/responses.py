"""`POST /v1/responses`: THE FIELD TABLE, what its fields mean together, and the call they make.

Sources: OpenAI's specification, `CreateResponse`; Open Responses, https://www.openresponses.org;
docs/decisions.md#reasoning-is-never-the-answers-text and docs/decisions.md#items-are-named-after-coheres-message. What
the fields have in common with chat's stands in `parameters.py` and `builder.py`.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct
from msgspec.structs import replace

from schemas.openai import chat
from schemas.openai import responses as openai
from translators.core.contracts import (
    Context,
    FinishedResponse,
    PreparedResponse,
    QueuedResponse,
    Reference,
    StateOptions,
    Stream,
    TranslatedResponse,
    Workload,
)
from translators.core.errors import InvalidField
from translators.core.field_table import Field, FieldTable, ignore, read, refuse, required
from translators.core.notes import Notes
from translators.operations.responses_answer import (
    FIRST_IN_BACKGROUND,
    ResponsesStream,
    ResponsesView,
    answer_id,
    whole,
)
from translators.operations.responses_input import InputReader
from translators.operations.responses_template import before_the_answer
from translators.operations.responses_tools import ResponsesTools, chosen
from translators.request.builder import ChatOptions, build
from translators.request.parameters import COHERES_OWN, REASONING, SAMPLING, SYNONYMS, WITHOUT_EFFECT, Positive
from translators.request.truncation import further, shortened

SEALED = "reasoning.encrypted_content"
LOGPROBS = "message.output_text.logprobs"

FIELDS: tuple[Field, ...] = (
    # What is said
    read("model", str, "prefix, aliases and successors resolved; the answer echoes what was asked"),
    read("input", str | list[Raw], "text, or items: messages, calls, outputs, reasoning"),
    read("instructions", str, "the first part of the system turn"),
    read("truncation", Literal["auto", "disabled"], "auto: the oldest turns are left out of what is too long"),
    read("stream", bool),
    read("stream_options", openai.StreamOptions, "there is no obfuscation"),
    # Tools
    read("tools", list[dict[str, Any]], "functions and namespaces of them; hosted tools are ignored"),
    read("tool_choice", str | dict[str, Any], "a named tool is the only one sent; refused choices are emulated"),
    read("parallel_tool_calls", bool, "false: one call is passed on"),
    read("max_tool_calls", Positive, "more calls are not passed on"),
    # The shape of the answer
    read("text", openai.TextOptions, "`format` as in chat; `verbosity` has no effect"),
    read("max_output_tokens", Positive, "sent as `max_tokens`; thinking counts within it"),
    read("include", list[str], f"`{SEALED}` and `{LOGPROBS}` work"),
    read("top_logprobs", Annotated[int, Meta(ge=0, le=20)], "log probabilities without alternatives"),
    *SAMPLING,
    REASONING,
    *COHERES_OWN,
    # Memory
    read("store", bool),
    read("previous_response_id", str),
    read("conversation", str | openai.ConversationReference),
    read("background", bool, "answered at once, worked on afterwards; needs `store`"),
    read("metadata", openai.Metadata, "kept with the response, not sent"),
    # No effect
    *WITHOUT_EFFECT,
    ignore("context_management", "nothing is compacted by itself"),
    # What would change the input's meaning
    refuse("prompt", "prompt templates are stored at OpenAI"),
)

TABLE = FieldTable(FIELDS, SYNONYMS)

_encode = msgspec.json.Encoder().encode


class ResponsesTranslation(Struct, frozen=True):
    """A translated Responses request: `context.Translation`."""

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

    def second_attempt(self) -> "ResponsesTranslation | None":
        return self.second() if self.second is not None else None

    def shortened(self) -> "ResponsesTranslation | None":
        return self.shorter() if self.shorter is not None else None

    def translate_response(self, bodies: Sequence[bytes]) -> TranslatedResponse:
        """Cohere's whole answer as a Response. Raises UpstreamProtocolError or AnswerFailed."""
        response, outcome = whole(bodies[0], self.view)
        return TranslatedResponse(_encode(response), outcome)

    def stream(self) -> Stream:
        return ResponsesStream(self.view)


def request(body: bytes, context: Context, attempt: int = 1, halvings: int = 0) -> ResponsesTranslation:
    """An OpenAI Responses request as a call to Cohere. Raises InvalidField.

    attempt: 2 for the call to make after the first one's answer failed its check. halvings: how often the history
    was halved, because Cohere found it too long.
    """
    notes = Notes(context.strict)
    reading = TABLE.read(body, notes, context.policy)
    asked = reading.read
    tools = ResponsesTools(notes)
    for index, tool in enumerate(asked.get("tools") or ()):
        tools.add(tool, f"tools[{index}]")
    wish = asked.get("reasoning")
    text: openai.TextOptions = asked.get("text") or openai.TextOptions()
    included: Sequence[str] = asked.get("include") or ()
    _note_what_has_no_effect(text, asked.get("stream_options"), included, notes)
    if asked.get("top_logprobs") or LOGPROBS in included:
        reading.sent["logprobs"] = True
    model = required(reading, "model")
    reader = _reader(required(reading, "input"), asked.get("instructions"), context, notes)
    messages = reader.messages
    more = further(messages, halvings) if asked.get("truncation") == "auto" else None
    if halvings:
        messages, everything = shortened(messages, halvings), len(messages)
        notes.inform("truncation", f"truncation auto: the oldest {everything - len(messages)} messages left out")
    question = ChatOptions(
        model=model,
        messages=messages,
        functions=tools.functions,
        function_places=tools.places,
        choice=chosen(asked.get("tool_choice"), notes),
        sent=reading.sent,
        streamed=asked.get("stream", False),
        response_format=_format(text.format),
        strict_tools=asked.get("strict_tools"),
        parallel_tool_calls=asked.get("parallel_tool_calls"),
        most_calls=asked.get("max_tool_calls"),
        max_tokens=("max_output_tokens", asked["max_output_tokens"]) if "max_output_tokens" in asked else None,
        thinking=asked.get("thinking"),
        reasoning=wish,
        extra=reading.extra,
    )
    try:
        found = build(question, context, notes, attempt)
    except InvalidField as error:
        raise _placed(error, [reader.places.get(id(message), "input") for message in messages]) from error
    second = partial(request, body, context, 2, halvings) if attempt == 1 and found.checked else None
    view = ResponsesView(
        before_the_answer(reading, context),
        context,
        summaries=not context.policy.raw_thoughts or wish is not None and bool(wish.summary or wish.generate_summary),
        sealed=SEALED in included,
        namespaces=tools.namespaces,
        rewrites=found.rewrites,
        refuse=second is None and context.policy.refuse_missed_schema,
    )
    shorter = partial(request, body, context, 1, more) if more is not None else None
    return ResponsesTranslation(
        found.bodies,
        found.model,
        question.streamed,
        notes,
        view,
        found.workload(reading.end_user),
        found.repeatable,
        found.buffered,
        second,
        shorter,
    )


def _note_what_has_no_effect(
    text: openai.TextOptions, options: openai.StreamOptions | None, included: Sequence[str], notes: Notes
) -> None:
    """Notes the parts of fields that Cohere has nothing for, where they ask for more than the usual."""
    if text.verbosity not in (None, "medium"):
        notes.ignored("text.verbosity", "Cohere has none")
    if options is not None and options.include_obfuscation:
        notes.ignored("stream_options.include_obfuscation", "there is no obfuscation")
    for name in included:
        if name not in (SEALED, LOGPROBS):
            notes.ignored(f"include {name}", "Cohere has no such thing", "include")


SILENCE = b'{"id":"","finish_reason":"COMPLETE","message":{"role":"assistant"}}'
"""What Cohere would say, if it said nothing."""


def prepared(body: bytes, context: Context) -> PreparedResponse:
    """A request with `generate: false`: a response to be continued, whose input may be empty. Raises InvalidField."""
    notes = Notes(context.strict)
    reading = TABLE.read(body, notes, context.policy)
    required(reading, "model")
    given = reading.read.get("input")
    if given or context.conversation.history:
        _reader(given or [], reading.read.get("instructions"), context, notes)
    stream = ResponsesStream(ResponsesView(before_the_answer(reading, context), context))
    return PreparedResponse(stream.whole(SILENCE), stream.final(), notes)


def _reader(given: str | list[Raw], instructions: str | None, context: Context, notes: Notes) -> InputReader:
    """Instructions, what was said before, and the input: the whole conversation as chat messages."""
    reader = InputReader(notes, context)
    if instructions:
        reader.add(chat.SystemMessage(instructions), "instructions")
    for items in context.conversation.history:
        reader.read(msgspec.json.decode(items, type=list[Raw]), "history")
    if isinstance(given, str):
        if not given:
            raise InvalidField("input", "'input' must not be empty", "empty_string")
        given = [Raw(_encode({"role": "user", "content": given}))]
    if not given and not context.conversation.history:
        raise InvalidField("input", "'input' must not be empty", "empty_array")
    reader.read(given, "input")
    reader.finish()
    return reader


_CHATS_MESSAGES = re.compile(r"messages\[(\d+)\](.*)", re.DOTALL)
_CHATS_NAMES = (
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("messages", "input"),
)


def _placed(error: InvalidField, messages: Sequence[str]) -> InvalidField:
    """An error of what chat and Responses share, with the path that it has here."""
    failure = error.failure
    was = param = failure.param or ""
    found = _CHATS_MESSAGES.fullmatch(was)
    if found and int(found[1]) < len(messages):
        # Below an item only its content has the same name in both.
        param = messages[int(found[1])] + (found[2] if found[2].startswith(".content") else "")
    else:
        for theirs, ours in _CHATS_NAMES:
            if was == theirs or was.startswith(theirs + "."):
                param = ours + was.removeprefix(theirs)
                break
    message = failure.message.replace(was, param) if was else failure.message
    return InvalidField(param or None, message, failure.code or "invalid_value")


def _format(form: openai.TextFormat | None) -> chat.ResponseFormat | None:
    if form is None:
        return None
    if form.type != "json_schema":
        return chat.ResponseFormat(form.type)
    return chat.ResponseFormat("json_schema", {"name": form.name, "schema": form.schema, "strict": form.strict})


# --- memory -----------------------------------------------------------------------------------------------


class _Remembering(Struct):
    store: bool | None = None
    previous_response_id: str | None = None
    conversation: str | openai.ConversationReference | None = None
    background: bool | None = None
    input: str | list[Raw] | None = None


class _Answered(Struct):
    id: str
    status: str
    model: str
    created_at: int
    output: list[Raw]


_remembering = msgspec.json.Decoder(_Remembering).decode
_item = msgspec.json.Decoder(dict[str, Raw]).decode
_answered = msgspec.json.Decoder(_Answered).decode
_NULL, _MESSAGE, _REFERENCE = Raw(b"null"), Raw(b'"message"'), Raw(b'"item_reference"')
_ASKED_ID = re.compile(r"item_(.+)_[0-9]+")
"""The id that a request's item gets where it has none."""


def remembering(body: bytes, response_id: str) -> StateOptions:
    """What a request asks to be remembered, read before it is translated. Raises InvalidField."""
    try:
        asked = _remembering(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return StateOptions(store=False)  # the translation will say what is wrong with it
    named = asked.conversation
    conversation = named.id if isinstance(named, openai.ConversationReference) else named
    if asked.previous_response_id and conversation:
        raise InvalidField("conversation", "'conversation' and 'previous_response_id' exclude each other")
    if asked.background and asked.store is False:
        raise InvalidField("background", "'background' needs 'store': what is not stored cannot be fetched later")
    return StateOptions(
        asked.store is not False,
        asked.previous_response_id or "",
        conversation or "",
        bool(asked.background),
        *_own_items(asked.input, response_id),
    )


_Items = tuple[tuple[str, bytes], ...]


def _own_items(given: str | list[Raw] | None, response_id: str) -> tuple[_Items, tuple[Reference, ...]]:
    """The request's items as they are kept: each with an id; and those that it only refers to."""
    if not given:
        return (), ()
    if isinstance(given, str):
        content = [{"type": "input_text", "text": given}]
        given = [Raw(_encode({"type": "message", "role": "user", "status": "completed", "content": content}))]
    items: list[tuple[str, bytes]] = []
    references: list[Reference] = []
    for index, raw in enumerate(given):
        try:
            item = _item(raw)
            given_id = msgspec.json.decode(item.get("id", _NULL))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return (), ()  # the translation will say so
        item_id = given_id or f"item_{response_id.removeprefix('resp_')}_{index}"
        kind = item.get("type", _NULL)
        if bytes(kind) == bytes(_NULL):
            kind = _MESSAGE if "role" in item else _REFERENCE
        if bytes(kind) == bytes(_REFERENCE) and isinstance(given_id, str):
            references.append(_reference(index, given_id))
        items.append((str(item_id), _encode({**item, "id": item_id, "type": kind})))
    return tuple(items), tuple(references)


def _reference(place: int, id: str) -> Reference:
    asked = _ASKED_ID.fullmatch(id)
    return Reference(place, id, answer_id(id), f"resp_{asked[1]}" if asked else "")


def queued(call: ResponsesTranslation) -> QueuedResponse:
    """What is told of a call in the background before anybody works on it."""
    begun = call.view.base
    waiting = replace(begun, status="queued")
    events = [openai.ResponseEvent(name, waiting, number) for number, name in enumerate(FIRST_IN_BACKGROUND)]
    return QueuedResponse(_encode(waiting), _encode(begun), [_encode(event) for event in events])


def kept(final: bytes) -> FinishedResponse:
    """What is kept of a finished response."""
    told = _answered(final)
    first = msgspec.json.decode(_item(told.output[0]).get("id", _NULL)) if told.output else None
    shared = answer_id(first) if isinstance(first, str) else ""
    return FinishedResponse(
        told.id, told.status, told.model, told.created_at, _encode(told.output), tuple(told.output), shared
    )
