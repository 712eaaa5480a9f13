"""`POST /v1/chat/completions`: THE FIELD TABLE, what its fields mean together, and the call they make.

Sources: OpenAI's specification, `CreateChatCompletionRequest`; docs/cohere-api.md#chat-requests; docs/decisions.md. A
new field is a row here (or in `parameters.py`, if Responses has it, too) and a case in `tests/golden/chat`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from schemas.openai import chat as openai
from translators.core.contracts import Context, Stream, TranslatedResponse, Workload
from translators.core.errors import InvalidField
from translators.core.field_table import Field, FieldTable, Reading, ignore, read, refuse, required
from translators.core.notes import Notes
from translators.operations.chat_answer import ChatStream, ChatView, completion
from translators.request import tools
from translators.request.builder import ChatOptions, build
from translators.request.parameters import COHERES_OWN, REASONING, SAMPLING, SYNONYMS, WITHOUT_EFFECT, Positive

MOST_CHOICES = 128
"""OpenAI's own limit on `n`."""

FIELDS: tuple[Field, ...] = (
    # What is said
    read("model", str, "prefix, aliases and successors resolved; the answer echoes what was asked"),
    read("messages", list[openai.Message], "roles, parts, calls and results as Cohere takes them"),
    read("stream", bool),
    read("stream_options", openai.StreamOptions, "`include_usage` works; `include_obfuscation` has no effect"),
    # Tools
    read("tools", list[openai.Tool], "functions; names that Cohere refuses are renamed there and back"),
    read("tool_choice", str | openai.ToolChoice, "a named tool is the only one sent; refused choices are emulated"),
    read("functions", list[openai.Function], "the old form of `tools`"),
    read("function_call", str | openai.ChosenName, "the old form of `tool_choice`"),
    read("parallel_tool_calls", bool, "false: one call is passed on"),
    # The shape of the answer
    read("response_format", openai.ResponseFormat, "text, json_object, json_schema"),
    read("max_completion_tokens", Positive, "sent as `max_tokens`; thinking counts within it"),
    read("max_tokens", Positive, "`max_completion_tokens` wins"),
    read("n", Annotated[int, Meta(ge=1, le=MOST_CHOICES)], "parallel calls to Cohere"),
    read("top_logprobs", Annotated[int, Meta(ge=0, le=20)], "Cohere has no alternatives: `[]` is answered"),
    read("modalities", list[str], "text only"),
    *SAMPLING,
    # Reasoning
    read("reasoning_effort", str, "as a budget of thinking tokens, on models that reason"),
    REASONING,
    *COHERES_OWN,
    # No effect
    *WITHOUT_EFFECT,
    ignore("metadata", "nothing is stored", b"{}"),
    ignore("store", "chat completions are not stored", b"false"),
    ignore("logit_bias", "Cohere has none", b"{}"),
    ignore("prediction", "Cohere has no predicted outputs"),
    ignore("verbosity", "Cohere has none", b'"medium"'),
    ignore("web_search_options", "Cohere has no hosted web search"),
    # What would change the kind of the answer
    refuse("audio", "Cohere answers with text only"),
)

TABLE = FieldTable(FIELDS, SYNONYMS)


class ChatTranslation(Struct, frozen=True):
    """A translated chat request: `context.Translation`."""

    bodies: tuple[bytes, ...]
    model: str
    streamed: bool
    notes: Notes
    view: ChatView
    workload: Workload
    repeatable: bool
    buffered: bool = False
    second: "Callable[[], ChatTranslation] | None" = None

    def second_attempt(self) -> "ChatTranslation | None":
        return self.second() if self.second is not None else None

    def shortened(self) -> None:
        return None

    def translate_response(self, bodies: Sequence[bytes]) -> TranslatedResponse:
        """Cohere's whole answers, one a choice, as a ChatCompletion. Raises UpstreamProtocolError, AnswerFailed."""
        tellings = [self.view.telling().whole(body) for body in bodies]
        refuse = self.second is None and self.view.context.policy.refuse_missed_schema
        told, outcome = completion(tellings, self.view, refuse)
        return TranslatedResponse(_encode(told), outcome)

    def stream(self) -> Stream:
        return ChatStream(self.view)


_encode = msgspec.json.Encoder().encode


def request(body: bytes, context: Context, attempt: int = 1) -> ChatTranslation:
    """An OpenAI chat request as a call to Cohere. Raises InvalidField.

    attempt: 2 for the call to make after the first one's answer failed its check.
    """
    notes = Notes(context.strict)
    reading = TABLE.read(body, notes, context.policy)
    asked = reading.read
    legacy = bool(asked.get("functions")) and not asked.get("tools")
    functions, places = tools.gathered(asked.get("tools") or [], asked.get("functions") or [])
    question = ChatOptions(
        model=required(reading, "model"),
        messages=required(reading, "messages"),
        functions=functions,
        function_places=places,
        choice=tools.chosen(asked.get("tool_choice"), asked.get("function_call")),
        sent=reading.sent,
        streamed=asked.get("stream", False),
        response_format=asked.get("response_format"),
        strict_tools=asked.get("strict_tools"),
        parallel_tool_calls=asked.get("parallel_tool_calls"),
        # The old form of an answer holds one call.
        most_calls=1 if legacy else None,
        choices=asked.get("n", 1),
        max_tokens=_max_tokens(asked, notes),
        thinking=asked.get("thinking"),
        reasoning=asked.get("reasoning"),
        reasoning_effort=asked.get("reasoning_effort"),
        extra=reading.extra,
    )
    if question.reasoning is not None and question.reasoning.summary:
        notes.ignored("reasoning.summary", "chat has no summaries")
    _check_kind(reading, notes)
    include_usage = _include_usage(asked, question.streamed)
    found = build(question, context, notes, attempt)
    view = ChatView(question.model, context, include_usage, legacy, question.choices, found.rewrites)
    second = partial(request, body, context, 2) if attempt == 1 and found.checked else None
    return ChatTranslation(
        found.bodies,
        found.model,
        question.streamed,
        notes,
        view,
        found.workload(reading.end_user),
        found.repeatable,
        found.buffered,
        second,
    )


def _max_tokens(asked: dict[str, Any], notes: Notes) -> tuple[str, int] | None:
    """`max_completion_tokens` wins over its old name."""
    old, new = asked.get("max_tokens"), asked.get("max_completion_tokens")
    if None not in (old, new) and old != new:
        notes.ignored("max_tokens", "max_completion_tokens is given, too")
    for name in ("max_completion_tokens", "max_tokens"):
        if name in asked:
            return name, asked[name]
    return None


def _check_kind(reading: Reading, notes: Notes) -> None:
    """What the answer consists of: text, and its log probabilities if asked."""
    asked = reading.read
    for index, modality in enumerate(asked.get("modalities") or ()):
        if modality != "text":
            where = f"modalities[{index}]"
            raise InvalidField(where, f"Cohere answers with text, not with '{modality}'", "unsupported_value")
    if asked.get("top_logprobs"):
        if reading.sent.get("logprobs") is not True:
            raise InvalidField("top_logprobs", "'top_logprobs' needs 'logprobs' to be true", "invalid_value")
        notes.ignored("top_logprobs", "Cohere has no alternatives")


def _include_usage(asked: dict[str, Any], streamed: bool) -> bool:
    options: openai.StreamOptions | None = asked.get("stream_options")
    if options is None:
        return False
    if not streamed:
        raise InvalidField("stream_options", "'stream_options' needs 'stream' to be true", "invalid_value")
    return bool(options.include_usage)
