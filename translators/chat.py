"""`POST /v1/chat/completions`: THE FIELD TABLE, the rules that need more than one field, the call they make.

Sources: OpenAI's specification, `CreateChatCompletionRequest`; cohere_api.md §5 and §19; the decisions of
product.md. A new field is a row here and a case in `tests/golden/chat`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct

from schemas.cohere import chat as cohere
from schemas.openai import chat as openai
from translators import json_schema, reasoning, tools
from translators.capabilities import Capabilities, capabilities
from translators.chat_answer import ChatStream, ChatView, completion
from translators.context import Answer, Context, Stream
from translators.errors import InvalidField
from translators.fields import Field, FieldTable, Reading, clamped, ignore, read, refuse, send
from translators.messages import Conversation, names_in_history
from translators.model_names import bare, resolve
from translators.notes import Notes
from translators.rewrites import LimitCalls, RestoreNames
from translators.tool_names import ToolNames

MOST_STOPS = 5
"""Stop sequences that Cohere takes (cohere_api.md §5); OpenAI itself takes 4."""

_UINT64 = 1 << 64


def _seed(value: int, name: str, notes: Notes) -> int:
    """Cohere's seed is unsigned; OpenAI's may be negative: the same bits, so still the same seed every time."""
    unsigned = value % _UINT64
    if unsigned != value:
        notes.adjusted(name, value, unsigned)
    return unsigned


def _top_p(value: float, name: str, notes: Notes) -> float:
    """Cohere takes 0.01 to 0.99; 1, OpenAI's default, means no nucleus and is not worth a note."""
    return 0.99 if value == 1 else clamped(0.01, 0.99)(value, name, notes)


def _penalty(value: float, name: str, notes: Notes) -> Any:
    """Zero is Cohere's default, and on some models a second penalty is refused even when it is zero."""
    return clamped(0.0, 1.0)(value, name, notes) or UNSET


def _stops(value: str | list[str], name: str, notes: Notes) -> Any:
    stops = [value] if isinstance(value, str) else value
    for index, stop in enumerate(stops):
        if not stop:
            raise InvalidField(f"{name}[{index}]", f"'{name}[{index}]' must not be empty", "empty_string")
    if len(stops) > MOST_STOPS:
        notes.adjusted(name, f"{len(stops)} sequences", f"the first {MOST_STOPS}")
    return stops[:MOST_STOPS] or UNSET


def _citation_options(value: cohere.CitationOptions, name: str, notes: Notes) -> cohere.CitationOptions:
    """Cohere's guides write the modes in lower case, its specification in upper case."""
    return cohere.CitationOptions(value.mode.upper())


def _true_only(value: bool, name: str, notes: Notes) -> Any:
    return True if value else UNSET


Positive = Annotated[int, Meta(ge=1)]

FIELDS: tuple[Field, ...] = (
    # What is said
    read("model", str, "prefix, aliases and successors resolved; the answer echoes what was asked"),
    read("messages", list[openai.Message], "roles, parts, calls and results as Cohere takes them"),
    read("stream", bool),
    read("stream_options", openai.StreamOptions, "`include_usage` works; `include_obfuscation` has no effect"),
    # Tools
    read("tools", list[openai.Tool], "functions; names that Cohere refuses are renamed there and back"),
    read(
        "tool_choice",
        str | openai.ToolChoice,
        "a named tool is the only one sent; refused choices are emulated",
    ),
    read("functions", list[openai.Function], "the old form of `tools`"),
    read("function_call", str | openai.ChosenName, "the old form of `tool_choice`"),
    read("parallel_tool_calls", bool, "false: one call is passed on"),
    # The shape of the answer
    read("response_format", openai.ResponseFormat, "text, json_object, json_schema"),
    read("max_completion_tokens", Positive, "sent as `max_tokens`; thinking counts within it"),
    read("max_tokens", Positive, "`max_completion_tokens` wins"),
    read("n", Positive, "1 only"),
    send("stop", str | list[str], "stop_sequences", f"at most {MOST_STOPS}", _stops),
    send("logprobs", bool, convert=_true_only),
    read("top_logprobs", Annotated[int, Meta(ge=0, le=20)], "Cohere has no alternatives: `[]` is answered"),
    read("modalities", list[str], "text only"),
    # Sampling
    send("temperature", float, why="Cohere's range is 0 to 1", convert=clamped(0.0, 1.0)),
    send("top_p", float, "p", "Cohere's range is 0.01 to 0.99", _top_p),
    send("seed", int, why="negative seeds as unsigned 64-bit numbers", convert=_seed),
    send("frequency_penalty", float, why="Cohere's range is 0 to 1", convert=_penalty),
    send("presence_penalty", float, why="Cohere's range is 0 to 1", convert=_penalty),
    # Reasoning
    read("reasoning_effort", str, "as a budget of thinking tokens, on models that reason"),
    read(
        "reasoning",
        reasoning.Reasoning,
        "`effort`, or `max_tokens` as the budget; goes before reasoning_effort",
    ),
    # Cohere's own
    send("documents", list[str | dict[str, Any]], why="Cohere's own: sources for the answer, cited"),
    send("citation_options", cohere.CitationOptions, why="Cohere's own", convert=_citation_options),
    send("safety_mode", Literal["CONTEXTUAL", "STRICT", "OFF"], why="Cohere's own"),
    read("thinking", cohere.Thinking, "Cohere's own; goes before `reasoning`"),
    send("k", int, why="Cohere's own", convert=clamped(0, 500)),
    send("top_k", int, "k", "0 to 500", clamped(0, 500)),
    send("p", float, why="Cohere's own", convert=clamped(0.01, 0.99)),
    send("priority", int, why="Cohere's own", convert=clamped(0, 999)),
    read("strict_tools", bool, "Cohere's own; sent where Cohere's rules for it hold"),
    send("stop_sequences", list[str], why="Cohere's own", convert=_stops),
    # No effect
    ignore("user", "Cohere keeps no end-user ids"),
    ignore("metadata", "nothing is stored", b"{}"),
    ignore("store", "chat completions are not stored", b"false"),
    ignore("service_tier", "Cohere has no tiers; `priority` is its own", b'"auto"', b'"default"'),
    ignore("logit_bias", "Cohere has none", b"{}"),
    ignore("prediction", "Cohere has no predicted outputs"),
    ignore("verbosity", "Cohere has none", b'"medium"'),
    ignore("safety_identifier", "Cohere keeps no end-user ids"),
    ignore("prompt_cache_key", "Cohere caches prompts by itself"),
    ignore("prompt_cache_retention", "Cohere caches prompts by itself"),
    ignore("prompt_cache_options", "Cohere caches prompts by itself"),
    ignore("web_search_options", "Cohere has no hosted web search"),
    ignore("moderation", "Cohere's `safety_mode` is its own"),
    # What would change the kind of the answer
    refuse("audio", "Cohere answers with text only"),
)

SYNONYMS = {"log_probs": "logprobs", "strict_tool_choice": "strict_tools"}
"""Bifrost's spellings of Cohere's fields (product.md, decision 1)."""

TABLE = FieldTable(FIELDS, SYNONYMS)


class ChatCall(Struct, frozen=True):
    """A translated chat request: `context.Call`."""

    body: bytes
    model: str
    streamed: bool
    notes: Notes
    view: ChatView

    def answer(self, body: bytes) -> Answer:
        """Cohere's whole answer as a ChatCompletion. Raises UpstreamProtocolError or AnswerFailed."""
        told, outcome = completion(self.view.telling().whole(body), self.view)
        return Answer(_encode(told), outcome)

    def stream(self) -> Stream:
        return ChatStream(self.view)


_encode = msgspec.json.Encoder().encode


def request(body: bytes, context: Context) -> ChatCall:
    """An OpenAI chat request as a call to Cohere. Raises InvalidField."""
    notes = Notes(context.strict)
    reading = TABLE.read(body, notes, context.policy)
    asked = _required(reading, "model")
    messages: list[openai.Message] = _required(reading, "messages")
    model = resolve(asked, context.policy)
    if not model:
        raise InvalidField("model", "'model' must not be empty", "empty_string")
    if model != bare(asked):
        notes.told("model", f"model {bare(asked)} -> {model}")
    able = capabilities(model, context.features)

    rules = _Rules(reading, able, notes)
    plan, names = rules.tool_plan(messages)
    response_format, format_instructions = rules.response_format(bool(plan.tools))
    limit = rules.limit_of_calls(plan)
    cohere_messages = Conversation(able, names, notes).translate(messages, [*plan.instructions, *format_instructions])
    max_tokens = rules.max_tokens()
    rules.one_penalty()
    rules.answer_kind()
    streamed = reading.read.get("stream", False)
    sent = cohere.ChatRequest(
        model=model,
        messages=cohere_messages,
        stream=streamed,
        tools=plan.tools,
        tool_choice=plan.tool_choice,
        strict_tools=plan.strict_tools,
        response_format=response_format,
        max_tokens=max_tokens,
        thinking=rules.thinking(max_tokens),
        **reading.sent,
    )
    rewrites: list[Any] = [partial(LimitCalls, limit)] if limit is not None else []
    if names.renamed():
        rewrites.append(partial(RestoreNames, names))
    view = ChatView(asked, context, rules.include_usage(streamed), rules.legacy, rewrites=tuple(rewrites))
    return ChatCall(_with_extra(cohere.encode_request(sent), reading.extra), model, streamed, notes, view)


def _required(reading: Reading, name: str) -> Any:
    value = reading.read.get(name)
    if value is None:
        raise InvalidField(name, f"Missing required parameter: '{name}'", "missing_required_parameter")
    return value


def _with_extra(body: bytes, extra: dict[str, Raw]) -> bytes:
    """The operator's `extra_upstream_fields`, as the caller wrote them, at the end of the object."""
    if not extra:
        return body
    added = b"".join(b"," + _encode(name) + b":" + bytes(raw) for name, raw in extra.items())
    return body[:-1] + added + b"}"


class _Rules:
    """The rules that need two fields or more, one method each, in the order of `request`."""

    def __init__(self, reading: Reading, able: Capabilities, notes: Notes) -> None:
        self._read, self._sent = reading.read, reading.sent
        self._able, self._notes = able, notes
        self.legacy = bool(self._read.get("functions")) and not self._read.get("tools")

    def tool_plan(self, messages: Sequence[openai.Message]) -> tuple[tools.ToolPlan, ToolNames]:
        read = self._read
        functions = tools.gathered(read.get("tools") or [], read.get("functions") or [])
        history = names_in_history(list(messages))
        if not functions and not history and "tool_choice" not in read:
            return tools.ToolPlan(), ToolNames()
        names = ToolNames([*(function.name for function in functions), *history])
        for name, sent in names.renamed():
            self._notes.told("tools", f"tool {name} is called {sent} at Cohere")
        choice = tools.chosen(read.get("tool_choice"), read.get("function_call"))
        plan = tools.planned(functions, choice, read.get("strict_tools"), self._able, bool(history), names, self._notes)
        return plan, names

    def limit_of_calls(self, plan: tools.ToolPlan) -> int | None:
        """How many calls the caller may see, None for all."""
        if plan.stray_calls:
            return 0
        if not plan.tools:
            return None
        if self._read.get("parallel_tool_calls") is False:
            self._notes.emulated("parallel_tool_calls", "one call is passed on")
            return 1
        return 1 if self.legacy else None

    def response_format(self, with_tools: bool) -> tuple[Any, list[str]]:
        """Cohere's response_format, or the instruction that stands in where Cohere refuses one."""
        wished: openai.ResponseFormat | None = self._read.get("response_format")
        if wished is None or wished.type == "text":
            return UNSET, []
        schema = self._schema(wished)
        beside = "tools" if with_tools else "documents" if self._sent.get("documents") else ""
        if beside or not self._able.json_schema:
            self._notes.emulated(
                "response_format", f"an instruction, as Cohere refuses it with {beside or 'this model'}"
            )
            return UNSET, [_json_instruction(schema)]
        if schema is None:
            return cohere.ResponseFormat("json_object"), []
        if schema.get("type", "object") != "object":
            raise InvalidField(
                "response_format.json_schema.schema",
                "Invalid schema: its type must be 'object'",
                "invalid_schema",
            )
        clean, removed = json_schema.sanitised(schema)
        if removed:
            self._notes.adjusted(
                "response_format", "the schema", f"without {', '.join(removed)}, which Cohere does not know"
            )
        return cohere.ResponseFormat("json_object", clean), []

    def _schema(self, wished: openai.ResponseFormat) -> dict[str, Any] | None:
        """The schema asked for, in OpenAI's form or in one of Cohere's two (cohere_api.md §5.5)."""
        if wished.type == "json_object":
            schema, where = wished.json_schema or wished.schema, "response_format.schema"
        elif wished.type == "json_schema":
            wrapper, where = wished.json_schema, "response_format.json_schema.schema"
            if wrapper is None:
                missing = "response_format.json_schema"
                raise InvalidField(missing, f"Missing required parameter: '{missing}'", "missing_required_parameter")
            schema = wrapper.get("schema")
            if not isinstance(schema, dict):
                raise InvalidField(where, f"Missing required parameter: '{where}'", "missing_required_parameter")
        else:
            raise InvalidField(
                "response_format.type",
                f"Invalid 'response_format.type': '{wished.type}' is none of text, json_object, json_schema",
            )
        if schema is not None:
            json_schema.check(schema, where)
        return schema

    def max_tokens(self) -> Any:
        """`max_completion_tokens` wins; more than the model can write is brought down to that."""
        name = "max_completion_tokens" if "max_completion_tokens" in self._read else "max_tokens"
        asked: int | None = self._read.get(name)
        if asked is None:
            return UNSET
        most = self._able.max_output
        if most is not None and asked > most:
            self._notes.adjusted(name, asked, most)
            return most
        return asked

    def thinking(self, max_tokens: Any) -> Any:
        read = self._read
        limit = None if max_tokens is UNSET else max_tokens
        return reasoning.thinking(
            read.get("thinking"),
            read.get("reasoning"),
            read.get("reasoning_effort"),
            limit,
            self._able,
            self._notes,
        )

    def one_penalty(self) -> None:
        """Some models take one penalty only: frequency is kept (product.md, decision 2)."""
        both = all(self._sent.get(name, UNSET) is not UNSET for name in ("frequency_penalty", "presence_penalty"))
        if both and self._able.one_penalty:
            del self._sent["presence_penalty"]
            self._notes.ignored("presence_penalty", "this model takes one penalty, frequency_penalty is kept")

    def answer_kind(self) -> None:
        """What the answer consists of: text, one choice, its log probabilities."""
        read = self._read
        for index, modality in enumerate(read.get("modalities") or ()):
            if modality != "text":
                raise InvalidField(
                    f"modalities[{index}]",
                    f"Cohere answers with text, not with '{modality}'",
                    "unsupported_value",
                )
        if read.get("top_logprobs"):
            if self._sent.get("logprobs") is not True:
                raise InvalidField("top_logprobs", "'top_logprobs' needs 'logprobs' to be true", "invalid_value")
            self._notes.ignored("top_logprobs", "Cohere has no alternatives")
        if read.get("n", 1) > 1:
            raise InvalidField("n", "'n' above 1 is not supported yet", "unsupported_value")

    def include_usage(self, streamed: bool) -> bool:
        options: openai.StreamOptions | None = self._read.get("stream_options")
        if options is None:
            return False
        if not streamed:
            raise InvalidField("stream_options", "'stream_options' needs 'stream' to be true", "invalid_value")
        return bool(options.include_usage)


def _json_instruction(schema: dict[str, Any] | None) -> str:
    if schema is None:
        return "Answer with one JSON object only: no prose around it and no code fence."
    written = msgspec.json.encode(schema).decode()
    return (
        "When you give your final answer, answer with JSON only, no prose around it and no code fence. "
        f"The JSON must satisfy this JSON Schema: {written}"
    )
