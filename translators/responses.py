"""`POST /v1/responses`: THE FIELD TABLE, what its fields mean together, and the call they make.

Sources: OpenAI's specification, `CreateResponse`; the Open Responses specification (clients.md); product.md,
decisions 3 and 11. What the fields have in common with chat's stands in `parameters.py` and `question.py`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct

from schemas.openai import chat
from schemas.openai import responses as openai
from translators.context import Answer, Context, Kept, Remembering, Stream
from translators.errors import InvalidField
from translators.fields import Field, FieldTable, Reading, ignore, read, refuse, required
from translators.notes import Notes
from translators.parameters import COHERES_OWN, REASONING, SAMPLING, SYNONYMS, WITHOUT_EFFECT, Positive
from translators.question import Question, compose
from translators.responses_answer import ResponsesStream, ResponsesView, whole
from translators.responses_input import InputReader, internal_name
from translators.tools import Choice

SEALED = "reasoning.encrypted_content"

FIELDS: tuple[Field, ...] = (
    # What is said
    read("model", str, "prefix, aliases and successors resolved; the answer echoes what was asked"),
    read("input", str | list[Raw], "text, or items: messages, calls, outputs, reasoning"),
    read("instructions", str, "the first part of the system turn"),
    read("stream", bool),
    ignore("stream_options", "there is no obfuscation", b"{}", b'{"include_obfuscation":false}'),
    # Tools
    read("tools", list[openai.Tool], "functions and namespaces of them; hosted tools are ignored"),
    read("tool_choice", str | openai.ToolChoice, "a named tool is the only one sent; refused choices are emulated"),
    read("parallel_tool_calls", bool, "false: one call is passed on"),
    read("max_tool_calls", Positive, "more calls are not passed on"),
    # The shape of the answer
    read("text", openai.TextOptions, "`format` as in chat; `verbosity` has no effect"),
    read("max_output_tokens", Positive, "sent as `max_tokens`; thinking counts within it"),
    read("include", list[str], f"`{SEALED}` works"),
    read("top_logprobs", Annotated[int, Meta(ge=0, le=20)], "log probabilities without alternatives"),
    *SAMPLING,
    REASONING,
    *COHERES_OWN,
    # Memory
    read("store", bool),
    read("previous_response_id", str),
    read("conversation", str | dict[str, Any]),
    read("background", bool),
    read("metadata", dict[str, Any], "kept with the response, not sent"),
    # No effect
    *WITHOUT_EFFECT,
    ignore("truncation", "Cohere refuses what is too long", b'"disabled"'),
    ignore("context_management", "nothing is compacted by itself"),
    # What would change the input's meaning
    refuse("prompt", "prompt templates are stored at OpenAI"),
)

TABLE = FieldTable(FIELDS, SYNONYMS)

_encode = msgspec.json.Encoder().encode


class ResponsesCall(Struct, frozen=True):
    """A translated Responses request: `context.Call`."""

    bodies: tuple[bytes, ...]
    model: str
    streamed: bool
    notes: Notes
    view: ResponsesView
    buffered: bool = False
    second: "Callable[[], ResponsesCall] | None" = None

    def again(self) -> "ResponsesCall | None":
        return self.second() if self.second is not None else None

    def answer(self, bodies: Sequence[bytes]) -> Answer:
        """Cohere's whole answer as a Response. Raises UpstreamProtocolError or AnswerFailed."""
        response, outcome = whole(bodies[0], self.view)
        return Answer(_encode(response), outcome)

    def stream(self) -> Stream:
        return ResponsesStream(self.view)


def request(body: bytes, context: Context, attempt: int = 1) -> ResponsesCall:
    """An OpenAI Responses request as a call to Cohere. Raises InvalidField.

    attempt: 2 for the call to make after the first one's answer failed its check.
    """
    notes = Notes(context.strict)
    reading = TABLE.read(body, notes, context.policy)
    asked = reading.read
    functions, namespaces = _functions(asked.get("tools") or [], notes)
    wish = asked.get("reasoning")
    text: openai.TextOptions = asked.get("text") or openai.TextOptions()
    if text.verbosity not in (None, "medium"):
        notes.ignored("text.verbosity", "Cohere has none")
    if asked.get("top_logprobs"):
        reading.sent["logprobs"] = True
    question = Question(
        model=required(reading, "model"),
        messages=_messages(required(reading, "input"), asked.get("instructions"), context, notes),
        functions=functions,
        choice=_choice(asked.get("tool_choice"), notes),
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
    found = compose(question, context, notes, attempt)
    second = partial(request, body, context, 2) if attempt == 1 and found.checked else None
    view = ResponsesView(
        _base(reading, context),
        context,
        summaries=wish is not None and bool(wish.summary or wish.generate_summary),
        sealed=SEALED in (asked.get("include") or ()),
        namespaces=namespaces,
        rewrites=found.rewrites,
        refuse=second is None and context.policy.refuse_missed_schema,
    )
    return ResponsesCall(found.bodies, found.model, question.streamed, notes, view, found.buffered, second)


def _messages(given: str | list[Raw], instructions: str | None, context: Context, notes: Notes) -> list[chat.Message]:
    """Instructions, what was said before, and the input: the whole conversation as chat messages."""
    reader = InputReader(notes, context.opened)
    if instructions:
        reader.messages.append(chat.SystemMessage(instructions))
    for items in context.history:
        reader.read(msgspec.json.decode(items, type=list[Raw]), "history")
    if isinstance(given, str):
        if not given:
            raise InvalidField("input", "'input' must not be empty", "empty_string")
        given = [Raw(_encode({"role": "user", "content": given}))]
    if not given and not context.history:
        raise InvalidField("input", "'input' must not be empty", "empty_array")
    reader.read(given, "input")
    return reader.finish()


# --- memory -----------------------------------------------------------------------------------------------


class _Remembering(Struct):
    store: bool | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    background: bool | None = None
    input: str | list[Raw] | None = None


class _Answered(Struct):
    id: str
    status: str
    model: str
    created_at: int
    output: list[Raw]


_remembering = msgspec.json.Decoder(_Remembering).decode
_item = msgspec.json.Decoder(dict[str, Any]).decode
_answered = msgspec.json.Decoder(_Answered).decode


def remembering(body: bytes, response_id: str) -> Remembering:
    """What a request asks to be remembered, read before it is translated. Raises InvalidField."""
    try:
        asked = _remembering(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Remembering(store=False)  # the translation will say what is wrong with it
    conversation = asked.conversation.get("id") if isinstance(asked.conversation, dict) else asked.conversation
    if asked.previous_response_id and conversation:
        raise InvalidField("conversation", "'conversation' and 'previous_response_id' exclude each other")
    return Remembering(
        asked.store is not False,
        asked.previous_response_id or "",
        conversation or "",
        bool(asked.background),
        tuple(_own_items(asked.input, response_id)),
    )


def _own_items(given: str | list[Raw] | None, response_id: str) -> list[tuple[str, bytes]]:
    """The request's items as they are kept: each with an id."""
    if given is None:
        return []
    if isinstance(given, str):
        content = [{"type": "input_text", "text": given}]
        given = [Raw(_encode({"type": "message", "role": "user", "status": "completed", "content": content}))]
    items: list[tuple[str, bytes]] = []
    for index, raw in enumerate(given):
        try:
            item = _item(raw)
        except msgspec.ValidationError:
            return []  # the translation will say so
        item_id = item.get("id") or f"item_{response_id.removeprefix('resp_')}_{index}"
        items.append((str(item_id), _encode({**item, "id": item_id, "type": item.get("type") or "message"})))
    return items


def kept(final: bytes) -> Kept:
    """What is kept of a finished response."""
    told = _answered(final)
    return Kept(told.id, told.status, told.model, told.created_at, _encode(told.output), tuple(told.output))


# --- tools ------------------------------------------------------------------------------------------------


def _functions(tools: list[openai.Tool], notes: Notes) -> tuple[list[chat.Function], dict[str, tuple[str, str]]]:
    """All function tools, those inside namespaces too, and which inner name stands for which of the latter."""
    found: list[chat.Function] = []
    namespaces: dict[str, tuple[str, str]] = {}
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if tool.type == "function":
            found.append(_function(tool, where, ""))
        elif tool.type == "namespace":
            for number, raw in enumerate(tool.tools or ()):
                inside = f"{where}.tools[{number}]"
                nested = msgspec.convert({key: raw[key] for key in _FUNCTION_KEYS if key in raw}, openai.Tool)
                if nested.type != "function":
                    notes.ignored(f"tools[].type {nested.type}", "Cohere has no such tool", f"{inside}.type")
                    continue
                function = _function(nested, inside, tool.name or "")
                namespaces[function.name] = (tool.name or "", nested.name or "")
                found.append(function)
        else:
            notes.ignored(f"tools[].type {tool.type}", "Cohere has no such tool", f"{where}.type")
    return found, namespaces


_FUNCTION_KEYS = ("type", "name", "description", "parameters", "strict")


def _function(tool: openai.Tool, where: str, namespace: str) -> chat.Function:
    if not tool.name:
        raise InvalidField(f"{where}.name", f"Missing required parameter: '{where}.name'", "missing_required_parameter")
    return chat.Function(internal_name(namespace, tool.name), tool.description, tool.parameters, tool.strict)


def _choice(wish: str | openai.ToolChoice | None, notes: Notes) -> Choice:
    if wish is None or wish == "auto":
        return Choice()
    if isinstance(wish, str):
        if wish not in ("none", "required"):
            raise InvalidField("tool_choice", f"Invalid 'tool_choice': '{wish}' is none of auto, none, required")
        return Choice(wish)
    if wish.type == "function" and wish.name:
        return Choice("required", (wish.name,))
    if wish.type == "allowed_tools":
        names = tuple(tool.name for tool in wish.tools or () if tool.name and tool.type in (None, "function"))
        return Choice(wish.mode or "auto", names)
    notes.ignored("tool_choice", f"Cohere has no tool of type {wish.type}")
    return Choice()


def _format(form: openai.TextFormat | None) -> chat.ResponseFormat | None:
    if form is None:
        return None
    if form.type != "json_schema":
        return chat.ResponseFormat(form.type)
    return chat.ResponseFormat("json_schema", {"name": form.name, "schema": form.schema, "strict": form.strict})


# --- what is echoed ---------------------------------------------------------------------------------------


def _base(reading: Reading, context: Context) -> openai.Response:
    """The response before anything came: everything that was asked, and OpenAI's defaults for the rest."""
    asked = reading.read
    wish = asked.get("reasoning")
    conversation = asked.get("conversation")
    return openai.Response(
        id=context.response_id or f"resp_{context.unique}",
        created_at=context.created,
        status="in_progress",
        instructions=asked.get("instructions"),
        model=asked["model"],
        previous_response_id=asked.get("previous_response_id"),
        conversation={"id": conversation} if isinstance(conversation, str) else conversation,
        tools=[_echoed_tool(tool) for tool in asked.get("tools") or ()],
        tool_choice=_echoed(asked.get("tool_choice", "auto")),
        parallel_tool_calls=asked.get("parallel_tool_calls", True),
        text={"format": _echoed_format(asked.get("text")), "verbosity": "medium"},
        reasoning={"effort": wish.effort if wish else None, "summary": wish.summary if wish else None},
        temperature=_number(reading, "temperature", 1.0),
        top_p=_number(reading, "p", 1.0),
        presence_penalty=_number(reading, "presence_penalty", 0.0),
        frequency_penalty=_number(reading, "frequency_penalty", 0.0),
        top_logprobs=asked.get("top_logprobs", 0),
        max_output_tokens=asked.get("max_output_tokens"),
        max_tool_calls=asked.get("max_tool_calls"),
        store=asked.get("store", True),
        background=asked.get("background", False),
        metadata=asked.get("metadata") or {},
    )


def _number(reading: Reading, name: str, default: float) -> float:
    value = reading.sent.get(name, UNSET)
    return default if value is UNSET else float(value)


def _echoed_tool(tool: openai.Tool) -> Any:
    if tool.type != "function":
        return {key: value for key, value in msgspec.to_builtins(tool).items() if value is not None}
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict if tool.strict is not None else True,
    }


def _echoed(choice: Any) -> Any:
    if isinstance(choice, str):
        return choice
    return {key: value for key, value in msgspec.to_builtins(choice).items() if value is not None}


def _echoed_format(text: openai.TextOptions | None) -> Any:
    if text is None or text.format is None:
        return {"type": "text"}
    form = text.format
    if form.type != "json_schema":
        return {"type": form.type}
    return {
        "type": "json_schema",
        "name": form.name or "",
        "schema": form.schema,
        "strict": bool(form.strict),
        "description": form.description,
    }
