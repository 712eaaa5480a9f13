"""`POST /v1/chat/completions`: THE FIELD TABLE, the rules that need more than one field, the call they make.

Sources: OpenAI's specification, `CreateChatCompletionRequest`; cohere_api.md §5 and §19; the decisions of
product.md. A new field is a row here and a case in `tests/golden/chat`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct
from msgspec.structs import replace

from schemas.cohere import chat as cohere
from schemas.openai import chat as openai
from translators import reasoning, structured, tools
from translators.capabilities import Capabilities, capabilities
from translators.chat_answer import ChatStream, ChatView, completion
from translators.context import Answer, Context, Stream
from translators.errors import InvalidField
from translators.fields import Field, FieldTable, Reading, clamped, ignore, read, refuse, send
from translators.messages import Conversation, names_in_history
from translators.model_names import bare, resolve
from translators.notes import Notes
from translators.rewrites import HideReasoning, LimitCalls, OnlyTools, RestoreNames
from translators.tool_names import ToolNames

MOST_STOPS = 5
"""Stop sequences that Cohere takes (cohere_api.md §5); OpenAI itself takes 4."""

MOST_CHOICES = 128
"""OpenAI's own limit on `n`."""

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


def _documents(value: list[str | dict[str, Any]], name: str, notes: Notes) -> Any:
    """Cohere wants `{data, id}`; a bare map, which v1 and several frameworks use, is put under `data`."""
    shaped: list[Any] = []
    for document in value:
        if isinstance(document, dict) and "data" not in document:
            rest = {key: item for key, item in document.items() if key != "id"}
            document = {"data": rest, "id": document["id"]} if "id" in document else {"data": rest}
        shaped.append(document)
    return shaped or UNSET


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
    read("n", Annotated[int, Meta(ge=1, le=MOST_CHOICES)], "parallel calls to Cohere"),
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
    send(
        "documents", list[str | dict[str, Any]], why="Cohere's own: sources for the answer, cited", convert=_documents
    ),
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

    bodies: tuple[bytes, ...]
    model: str
    streamed: bool
    notes: Notes
    view: ChatView
    buffered: bool = False
    second: "Callable[[], ChatCall] | None" = None

    def again(self) -> "ChatCall | None":
        return self.second() if self.second is not None else None

    def answer(self, bodies: Sequence[bytes]) -> Answer:
        """Cohere's whole answers, one a choice, as a ChatCompletion. Raises UpstreamProtocolError, AnswerFailed."""
        tellings = [self.view.telling().whole(body) for body in bodies]
        refuse = self.second is None and self.view.context.policy.refuse_missed_schema
        told, outcome = completion(tellings, self.view, refuse)
        return Answer(_encode(told), outcome)

    def stream(self) -> Stream:
        return ChatStream(self.view)


_encode = msgspec.json.Encoder().encode


def request(body: bytes, context: Context, attempt: int = 1) -> ChatCall:
    """An OpenAI chat request as a call to Cohere. Raises InvalidField.

    attempt: 2 for the call to make after the first one's answer failed its check.
    """
    notes = Notes(context.strict)
    reading = TABLE.read(body, notes, context.policy)
    asked = _required(reading, "model")
    messages: list[openai.Message] = _required(reading, "messages")
    model = resolve(asked, context.policy)
    if not model:
        raise InvalidField("model", "'model' must not be empty", "empty_string")
    if model != bare(asked):
        notes.told("model", f"model {bare(asked)} -> {model}")
    able = capabilities(model, context.features, context.lessons)

    rules = _Rules(reading, able, notes)
    choice, plan, names = rules.tool_plan(messages)
    format_plan, plan = rules.format_plan(choice, plan, attempt)
    streamed = reading.read.get("stream", False)
    buffered = bool(plan.only) or format_plan.instructed
    max_tokens = rules.max_tokens()
    rules.one_penalty()
    rules.answer_kind()
    sent = cohere.ChatRequest(
        model=model,
        messages=Conversation(able, names, notes).translate(messages, [*plan.instructions, *format_plan.instructions]),
        stream=streamed and not buffered,
        tools=plan.tools,
        tool_choice=plan.tool_choice,
        strict_tools=plan.strict_tools,
        response_format=format_plan.response_format,
        max_tokens=max_tokens,
        thinking=rules.thinking(max_tokens),
        **reading.sent,
    )
    choices = rules.choices()
    view = ChatView(
        asked,
        context,
        rules.include_usage(streamed),
        rules.legacy,
        choices,
        (*format_plan.rewrites, *rules.rewrites(plan, names)),
    )
    second = partial(request, body, context, 2) if attempt == 1 and (buffered or format_plan.checked) else None
    return ChatCall(_bodies(sent, choices, reading.extra), model, streamed, notes, view, buffered, second)


def _bodies(sent: cohere.ChatRequest, choices: int, extra: dict[str, Raw]) -> tuple[bytes, ...]:
    """One body a choice. With a seed each choice gets its own, or all would be the same."""
    body = _with_extra(cohere.encode_request(sent), extra)
    if choices == 1:
        return (body,)
    if sent.seed is UNSET:
        return (body,) * choices
    seeds = [(sent.seed + index) % _UINT64 for index in range(choices)]
    return tuple(_with_extra(cohere.encode_request(replace(sent, seed=seed)), extra) for seed in seeds)


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

    def tool_plan(self, messages: list[openai.Message]) -> tuple[tools.Choice, tools.ToolPlan, ToolNames]:
        read = self._read
        functions = tools.gathered(read.get("tools") or [], read.get("functions") or [])
        history = names_in_history(messages)
        choice = tools.chosen(read.get("tool_choice"), read.get("function_call"))
        if not functions and not history and choice.mode == "auto":
            return choice, tools.ToolPlan(), ToolNames()
        names = ToolNames([*(function.name for function in functions), *history])
        for name, sent in names.renamed():
            self._notes.told("tools", f"tool {name} is called {sent} at Cohere")
        strict = read.get("strict_tools")
        return choice, tools.planned(functions, choice, strict, self._able, history, names, self._notes), names

    def format_plan(
        self, choice: tools.Choice, plan: tools.ToolPlan, attempt: int
    ) -> tuple[structured.FormatPlan, tools.ToolPlan]:
        """How a response_format is fulfilled, and the tools with it."""
        asked: openai.ResponseFormat | None = self._read.get("response_format")
        if asked is None:
            return structured.NOTHING, plan
        with_tools = bool(plan.tools)
        silent = with_tools and (choice.mode == "none" or plan.tool_choice == "NONE")
        found = structured.planned(
            asked,
            self._able,
            self._notes,
            beside_tools=with_tools and not silent,
            must_call=with_tools and choice.mode == "required",
            refused=silent or bool(self._sent.get("documents")),
        )
        if found.tool is not None:
            # The tool that stands for the answer joins the others, and one of them must be called.
            given = plan.tools if isinstance(plan.tools, list) else []
            plan = replace(plan, tools=[*given, found.tool], tool_choice="REQUIRED", strict_tools=UNSET)
        if found.instructed and attempt == 2 and self._able.json_schema:
            return self._enforced(asked), tools.ToolPlan()
        return found, plan

    def _enforced(self, asked: openai.ResponseFormat) -> structured.FormatPlan:
        """The model did not listen: now Cohere compiles the schema, and what it refuses beside it goes."""
        found = structured.planned(asked, self._able, self._notes, beside_tools=False, must_call=False, refused=False)
        documents = self._sent.pop("documents", UNSET)
        self._sent.pop("citation_options", None)
        if not documents or documents is UNSET:
            return found
        written = _encode(documents).decode()
        return replace(found, instructions=(f"Base your answer on these documents: {written}",))

    def rewrites(self, plan: tools.ToolPlan, names: ToolNames) -> list[Any]:
        """What the answer's calls and thoughts go through, in this order."""
        found: list[Any] = []
        if plan.only:
            found.append(partial(OnlyTools, plan.only))
        if plan.stray_calls:
            found.append(partial(LimitCalls, 0))
        elif plan.tools and self._read.get("parallel_tool_calls") is False:
            self._notes.emulated("parallel_tool_calls", "one call is passed on")
            found.append(partial(LimitCalls, 1))
        elif self.legacy:
            found.append(partial(LimitCalls, 1))
        if names.renamed():
            found.append(partial(RestoreNames, names))
        wish: reasoning.Reasoning | None = self._read.get("reasoning")
        if wish is not None and wish.exclude:
            found.append(HideReasoning)
        return found

    def choices(self) -> int:
        wanted: int = self._read.get("n", 1)
        if wanted > 1:
            self._notes.emulated("n", f"{wanted} parallel calls to Cohere")
        return wanted

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

    def include_usage(self, streamed: bool) -> bool:
        options: openai.StreamOptions | None = self._read.get("stream_options")
        if options is None:
            return False
        if not streamed:
            raise InvalidField("stream_options", "'stream_options' needs 'stream' to be true", "invalid_value")
        return bool(options.include_usage)
