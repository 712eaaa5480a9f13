"""POST /v1/chat: the older conversation, read as the newer one and answered by the same rules.

Here it is judged and turned into the body of /v2/chat, which is then judged by that endpoint's rules too. How
the answer is told in the older words is `stream_v1.py`.
Source: docs/cohere-api.md#version-1 and docs/cohere-api.md#errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.emulator import chat, validation
from gateway.emulator.catalogue import Model
from gateway.emulator.chat import Answer
from gateway.emulator.connectors import Connector, Search, search
from gateway.emulator.extraction import glance, salient
from gateway.emulator.refusals import Refusal, bare, invalid, wrong_type
from gateway.emulator.request import Emulator
from gateway.emulator.tool_validation import check_tool_name
from gateway.emulator.validation import Check

# In the samples of the specification; a request may leave its model out (deprecated, but served).
DEFAULT_MODEL = "command-a-03-2025"
NOT_FOR_V1 = (
    "this model is not supported with '/v1/chat', please use '/v2/chat' instead. More details in the migration"
    " guide: https://docs.cohere.com/docs/migrating-v1-to-v2"
)
ROLES = {"USER": "user", "CHATBOT": "assistant", "SYSTEM": "system", "TOOL": "tool"}
MOST_REMEMBERED, LONGEST_REMEMBERED = 100, 200_000  # turns of one conversation_id, and bytes of them as JSON

# The names under which a parameter's type is written, and JSON Schema's.
TYPES = {
    "str": "string", "string": "string", "int": "integer", "integer": "integer", "float": "number",
    "number": "number", "bool": "boolean", "boolean": "boolean", "list": "array", "array": "array",
    "dict": "object", "object": "object",
}  # fmt: skip

SAME = (
    "stream", "temperature", "max_tokens", "k", "p", "seed", "stop_sequences", "frequency_penalty",
    "presence_penalty", "response_format",
)  # fmt: skip
CHAT: dict[str, Check] = {
    "message": validation.string,
    "model": validation.string,
    "preamble": validation.string,
    "chat_history": validation.listing,
    "conversation_id": validation.string,
    "prompt_truncation": validation.one_of("OFF", "AUTO", "AUTO_PRESERVE_ORDER"),
    "connectors": validation.listing,
    "search_queries_only": validation.boolean,
    "documents": validation.listing,
    "citation_quality": validation.one_of("ENABLED", "DISABLED", "FAST", "ACCURATE", "OFF", any_case=True),
    "max_input_tokens": validation.integer(1, None, "max_input_tokens must be greater than 0."),
    "raw_prompting": validation.boolean,
    "tools": validation.listing,
    "tool_results": validation.listing,
    "force_single_step": validation.boolean,
    "safety_mode": validation.one_of("CONTEXTUAL", "STRICT", "NONE"),
    **{name: validation.CHAT[name] for name in SAME},
}
# Recorded in a 400: a raw prompt is all there is.
NOT_WITH_RAW = ("connectors", "documents", "search_queries_only", "tools")


class Remembered(msgspec.Struct):
    """What was said under one conversation_id."""

    turns: list[dict[str, Any]]


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """A finished turn, with what the older answer tells beyond the newer one's."""

    answer: Answer
    history: list[dict[str, Any]]  # everything said before this answer, this message included
    documents: dict[str, dict[str, Any]]  # all that could be cited, whole, by id
    search: Search | None
    only_search: bool


def answer(body: Mapping[str, Any], emulator: Emulator) -> Turn:
    """The turn that answers a request."""
    name = body.get("model")
    model = emulator.catalogue.serving(DEFAULT_MODEL if name in (None, "") else name, "chat")
    if not model.v1:
        raise invalid(NOT_FOR_V1)
    check(body)
    found = search(body, salient(glance(body.get("message") or ""), 8), emulator.shelf(Connector))
    history = _history(body, emulator)
    documents = _documents(body, found)
    finished = _say(body, model, history, documents)
    told = [*history, *_asked(body)]
    _remember(body, emulator, told, finished)
    return Turn(
        answer=finished,
        history=told,
        documents=documents | _results_by_id(body),
        search=found,
        only_search=bool(body.get("search_queries_only")),
    )


def check(body: Mapping[str, Any]) -> None:
    """The rules that /v2/chat does not have."""
    validation.fields({name: body[name] for name in body if name in CHAT}, CHAT, "chat")
    if not body.get("message") and not body.get("tool_results"):
        raise invalid("message must be at least 1 token long or tool results must be specified.")
    if body.get("raw_prompting") and any(body.get(name) for name in NOT_WITH_RAW):
        raise invalid(f"raw prompting is not supported with the following parameter(s): {', '.join(NOT_WITH_RAW)}.")
    for index, turn in enumerate(body.get("chat_history") or ()):
        _check_turn(turn, index)
    for tool in body.get("tools") or ():
        _check_tool(tool)
    if body.get("tool_results"):
        if not body.get("tools"):
            raise invalid("tool_results requires tools to be provided.")  # guessed
        _check_results(body["tool_results"])


def _check_turn(turn: Any, index: int) -> None:
    if not isinstance(turn, dict):
        raise wrong_type("chat_history", turn, "Object", "chat")
    role = turn.get("role")
    if not isinstance(role, str) or role.upper() not in ROLES:
        raise invalid(
            f"Invalid role in chat_history at index {index}. Role must be one of the following: User, Chatbot,"
            " System, Tool"
        )
    if role.upper() == "TOOL":
        _check_results(turn.get("tool_results") or [])
        return
    message, calls = turn.get("message"), turn.get("tool_calls") or []
    if message is not None:
        validation.string("message", message, "chat")
    if not message and not calls:
        raise invalid("all elements in history must have a message.")
    validation.listing("tool_calls", calls, "chat")
    for call in calls:
        _check_call(call)


def _check_tool(tool: Any) -> None:
    if not isinstance(tool, dict):
        raise wrong_type("tools", tool, "Object", "chat")
    check_tool_name(tool.get("name"))
    definitions = tool.get("parameter_definitions") or {}
    if not isinstance(definitions, dict):
        raise wrong_type("parameter_definitions", definitions, "Object", "chat")
    if not tool.get("description") and not definitions:
        raise invalid(f"the '{tool['name']}' tool must have at least a description, input, or output.")
    for name, definition in definitions.items():
        if not isinstance(definition, dict) or not isinstance(definition.get("type"), str):
            raise invalid(f"parameter '{name}' of tool '{tool['name']}' must have a type.")  # guessed


def _check_results(results: Any) -> None:
    validation.listing("tool_results", results, "chat")
    for result in results:
        if not isinstance(result, dict):
            raise wrong_type("tool_results", result, "Object", "chat")
        _check_call(result.get("call"))
        validation.listing("outputs", result.get("outputs"), "chat")
        for output in result["outputs"]:
            if not isinstance(output, dict):
                raise wrong_type("outputs", output, "Object", "chat")


def _check_call(call: Any) -> None:
    if not isinstance(call, dict):
        raise wrong_type("call", call, "Object", "chat")
    check_tool_name(call.get("name"))
    if not isinstance(call.get("parameters"), dict):
        raise wrong_type("parameters", call.get("parameters"), "Object", "chat")


def _history(body: Mapping[str, Any], emulator: Emulator) -> list[dict[str, Any]]:
    """What was said before: told by the caller, or remembered under the conversation's id."""
    if body.get("chat_history") is not None or not body.get("conversation_id"):
        return [turn | {"role": turn["role"].upper()} for turn in body.get("chat_history") or ()]
    known = emulator.shelf(Remembered).things.get(body["conversation_id"])
    return list(known.turns) if known else []


def _asked(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The turns that this request adds."""
    asked: list[dict[str, Any]] = []
    if body.get("message"):
        asked.append({"role": "USER", "message": body["message"]})
    if body.get("tool_results"):
        asked.append({"role": "TOOL", "tool_results": body["tool_results"]})
    return asked


def _remember(body: Mapping[str, Any], emulator: Emulator, told: list[dict[str, Any]], finished: Answer) -> None:
    if body.get("conversation_id"):
        turns = [*told, chatbot(finished)][-MOST_REMEMBERED:]
        while turns and len(msgspec.json.encode(turns)) > LONGEST_REMEMBERED:
            turns = turns[(len(turns) + 1) // 2 :]
        emulator.shelf(Remembered).put(body["conversation_id"], Remembered(turns))


def chatbot(finished: Answer) -> dict[str, Any]:
    """The answer as a turn of the history."""
    turn: dict[str, Any] = {"role": "CHATBOT", "message": finished.text or finished.plan or ""}
    if finished.calls:
        turn["tool_calls"] = calls(finished)
    return turn


def calls(finished: Answer) -> list[dict[str, Any]]:
    """The calls in the older spelling: arguments are an object, and there are no ids."""
    told = []
    for call in finished.calls:
        try:
            parameters = msgspec.json.decode(call.arguments or "{}")
        except msgspec.DecodeError:  # cut short by max_tokens
            parameters = {}
        told.append({"name": call.name, "parameters": parameters})
    return told


def _documents(body: Mapping[str, Any], found: Search | None) -> dict[str, dict[str, Any]]:
    """The caller's documents and what the connectors found, by id."""
    documents: dict[str, dict[str, Any]] = {}
    for index, document in enumerate(body.get("documents") or ()):
        if not isinstance(document, dict):
            raise wrong_type("documents", document, "Object", "chat")
        identity = str(document.get("id") or f"doc_{index}")
        if identity in documents:
            places = list(documents)
            raise invalid(f"duplicate document ID {identity} at index {index} and {places.index(identity)}")
        if not any(value for key, value in document.items() if key not in ("id", "_excludes")):
            raise invalid(f"document at index {index} cannot be empty")
        documents[identity] = document | {"id": identity}
    return documents | (found.documents if found else {})


def _say(
    body: Mapping[str, Any], model: Model, history: list[dict[str, Any]], documents: dict[str, dict[str, Any]]
) -> Answer:
    """Answer, without the beginning of the conversation where it is too long and may be cut."""
    may_cut = body.get("prompt_truncation") or ("AUTO" if body.get("connectors") else "OFF")
    while True:
        asked = _as_v2(body, model, history, documents)
        validation.chat(asked, model)
        try:
            return chat.answer(asked, model)
        except Refusal as refusal:
            if not history or may_cut == "OFF" or not str(refusal.message).startswith("too many tokens"):
                raise
            history = history[(len(history) + 1) // 2 :]


def _as_v2(
    body: Mapping[str, Any], model: Model, history: list[dict[str, Any]], documents: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The body of /v2/chat that means the same."""
    asked = {name: body[name] for name in SAME if body.get(name) is not None}
    asked |= {"model": model.name, "messages": _messages(body, history)}
    asked["citation_options"] = {"mode": body.get("citation_quality") or "ACCURATE"}
    if body.get("tools"):
        asked["tools"] = [_tool(tool) for tool in body["tools"]]
    if documents and not body.get("search_queries_only"):
        asked["documents"] = [{"id": identity, "data": _shown(document)} for identity, document in documents.items()]
    return asked


def _shown(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the model sees of a document."""
    hidden = ("id", "_excludes", *(document.get("_excludes") or ()))
    return {key: value for key, value in document.items() if key not in hidden} or {"text": "(nothing)"}


def _messages(body: Mapping[str, Any], history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    turns = [*history, *_asked(body)]
    system = [body.get("preamble"), *(turn.get("message") for turn in turns if turn["role"] == "SYSTEM")]
    told = "\n\n".join(text for text in system if text)
    messages: list[dict[str, Any]] = [{"role": "system", "content": told}] if told else []
    numbers = iter(range(1_000_000))  # calls have no ids here, so they get some
    for turn in turns:
        role = ROLES[turn["role"]]
        if role == "user":
            messages.append({"role": role, "content": turn["message"]})
        elif role == "assistant" and turn.get("tool_calls"):
            made = [_call(call, next(numbers)) for call in turn["tool_calls"]]
            messages.append({"role": role, "tool_plan": turn.get("message") or "", "tool_calls": made})
        elif role == "assistant":
            messages.append({"role": role, "content": turn["message"]})
        elif role == "tool":
            messages += _tool_messages(turn.get("tool_results") or [], messages, numbers)
    return messages


def _tool_messages(results: list[dict[str, Any]], before: list[dict[str, Any]], numbers: Any) -> list[dict[str, Any]]:
    """What the tools returned, after the turn that called them; that turn is made up when nobody told it."""
    called = (before[-1].get("tool_calls") or []) if before else []
    added: list[dict[str, Any]] = []
    if [call["function"]["name"] for call in called] != [result["call"]["name"] for result in results]:
        called = [_call(result["call"], next(numbers)) for result in results]
        added.append({"role": "assistant", "tool_plan": "", "tool_calls": called})
    for index, (call, result) in enumerate(zip(called, results, strict=True)):
        parts = [
            {"type": "document", "document": {"id": identity, "data": output}}
            for identity, output in _outputs(result, index).items()
        ]
        added.append({"role": "tool", "tool_call_id": call["id"], "content": parts or ""})
    return added


def _outputs(result: Mapping[str, Any], index: int) -> dict[str, dict[str, Any]]:
    """The outputs of one result by the ids under which they are cited."""
    name = result["call"]["name"]
    return {f"{name}:{index}:{place}": output for place, output in enumerate(result["outputs"]) if output}


def _results_by_id(body: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for index, result in enumerate(body.get("tool_results") or ()):
        found |= {key: output | {"id": key} for key, output in _outputs(result, index).items()}
    return found


def _call(call: Mapping[str, Any], number: int) -> dict[str, Any]:
    written = msgspec.json.encode(call["parameters"]).decode()
    function = {"name": call["name"], "arguments": written}
    return {"id": f"{call['name']}_{number}", "type": "function", "function": function}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    definitions: dict[str, Any] = tool.get("parameter_definitions") or {}
    properties = {name: _property(definition) for name, definition in definitions.items()}
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    parameters["required"] = [name for name, definition in definitions.items() if definition.get("required")]
    description = tool.get("description") or ""
    return {
        "type": "function",
        "function": {"name": tool["name"], "description": description, "parameters": parameters},
    }


def _property(definition: Mapping[str, Any]) -> dict[str, Any]:
    """`List[str]` and `Dict[str, int]` are written too; what is inside stays open."""
    kind = definition["type"].lower().partition("[")[0].strip()
    told: dict[str, Any] = {"type": TYPES.get(kind, "string")}
    if told["type"] == "array":
        told["items"] = {"type": "string"}
    description = definition.get("description")
    if description is not None:
        if not isinstance(description, str):
            raise bare("description must be a string")  # guessed
        told["description"] = description
    return told
