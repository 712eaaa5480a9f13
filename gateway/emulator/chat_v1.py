"""POST /v1/chat: validated here, then translated into a body of /v2/chat and answered by the same rules.

The translated body passes the validation of /v2/chat as well. `chat_v1_encoding.py` writes the response.
Source: docs/cohere-api.md#version-1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count, pairwise
from typing import Any

import msgspec

from gateway.emulator import chat, validation
from gateway.emulator.chat import ChatResponse
from gateway.emulator.connectors import Connector, SearchResult, search
from gateway.emulator.errors import APIError, bad_request, invalid_request, require_object
from gateway.emulator.keywords import excerpt, keywords
from gateway.emulator.model_catalog import Model
from gateway.emulator.request import EmulatorState
from gateway.emulator.tool_validation import check_tool_name
from gateway.emulator.validation import Check

# The model of the specification's samples. A request may leave it out: deprecated, but served.
DEFAULT_MODEL = "command-a-03-2025"
UNSUPPORTED_MODEL = (
    "this model is not supported with '/v1/chat', please use '/v2/chat' instead. More details in the migration"
    " guide: https://docs.cohere.com/docs/migrating-v1-to-v2"
)
ROLES = {"USER": "user", "CHATBOT": "assistant", "SYSTEM": "system", "TOOL": "tool"}
MAX_SAVED_TURNS, MAX_SAVED_BYTES = 100, 200_000  # of one conversation_id, the bytes as JSON

# A parameter's type in Python's spelling or JSON Schema's -> in JSON Schema's
TYPES = {
    "str": "string", "string": "string", "int": "integer", "integer": "integer", "float": "number",
    "number": "number", "bool": "boolean", "boolean": "boolean", "list": "array", "array": "array",
    "dict": "object", "object": "object",
}  # fmt: skip

# Fields that mean the same in /v2/chat
SHARED_FIELDS = (
    "stream", "temperature", "max_tokens", "k", "p", "seed", "stop_sequences", "frequency_penalty",
    "presence_penalty", "response_format",
)  # fmt: skip
FIELDS: dict[str, Check] = {
    "message": validation.string,
    "model": validation.string,
    "preamble": validation.string,
    "chat_history": validation.object_list,
    "conversation_id": validation.string,
    "prompt_truncation": validation.one_of("OFF", "AUTO", "AUTO_PRESERVE_ORDER"),
    "connectors": validation.object_list,
    "search_queries_only": validation.boolean,
    "documents": validation.object_list,
    "citation_quality": validation.one_of("ENABLED", "DISABLED", "FAST", "ACCURATE", "OFF", any_case=True),
    "max_input_tokens": validation.integer(1, None, "max_input_tokens must be greater than 0."),
    "raw_prompting": validation.boolean,
    "tools": validation.object_list,
    "tool_results": validation.object_list,
    "force_single_step": validation.boolean,
    "safety_mode": validation.one_of("CONTEXTUAL", "STRICT", "NONE"),
    **{name: validation.CHAT[name] for name in SHARED_FIELDS},
}
# Recorded in a 400. A raw prompt is all that the model reads.
FORBIDDEN_WITH_RAW_PROMPTING = ("connectors", "documents", "search_queries_only", "tools")


class SavedConversation(msgspec.Struct):
    """The turns of one conversation_id."""

    turns: list[dict[str, Any]]


class ChatV1Response(msgspec.Struct, frozen=True, kw_only=True):
    """A finished turn, with what only the v1 format shows."""

    response: ChatResponse
    history: list[dict[str, Any]]  # the turns before the response, the new message included
    documents: dict[str, dict[str, Any]]  # everything that could be cited, by id
    search: SearchResult | None
    search_only: bool


def respond(body: Mapping[str, Any], emulator: EmulatorState) -> ChatV1Response:
    """Validates a request and returns the response to it."""
    name = body.get("model")
    model = emulator.model_catalog.find_for("chat", DEFAULT_MODEL if name in (None, "") else name)
    if not model.v1:
        raise invalid_request(UNSUPPORTED_MODEL)
    check(body)
    query = keywords(excerpt(body.get("message") or ""), 8)
    search_result = search(body, query, emulator.repository(Connector))
    history = _history(body, emulator)
    documents = _documents(body, search_result)
    response = _respond_within_context(body, model, history, documents)
    turns = [*history, *_new_turns(body)]
    _save(body, emulator, turns, response)
    return ChatV1Response(
        response=response,
        history=turns,
        documents=documents | _results_by_id(body),
        search=search_result,
        search_only=bool(body.get("search_queries_only")),
    )


def check(body: Mapping[str, Any]) -> None:
    """Applies the rules that /v2/chat does not have."""
    # An unknown field is no error here. `routes.py` warns of it in a header.
    validation.fields({name: body[name] for name in body if name in FIELDS}, FIELDS, "chat")
    if not body.get("message") and not body.get("tool_results"):
        raise invalid_request("message must be at least 1 token long or tool results must be specified.")
    if body.get("raw_prompting") and any(body.get(name) for name in FORBIDDEN_WITH_RAW_PROMPTING):
        names = ", ".join(FORBIDDEN_WITH_RAW_PROMPTING)
        raise invalid_request(f"raw prompting is not supported with the following parameter(s): {names}.")
    for index, turn in enumerate(body.get("chat_history") or ()):
        _check_turn(turn, index)
    for tool in body.get("tools") or ():
        _check_tool(tool)
    if body.get("tool_results"):
        if not body.get("tools"):
            raise invalid_request("tool_results requires tools to be provided.")  # guessed
        _check_results(body["tool_results"])


def _check_turn(turn: Any, index: int) -> None:
    require_object("chat_history", turn)
    role = turn.get("role")
    if not isinstance(role, str) or role.upper() not in ROLES:
        raise invalid_request(
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
        raise invalid_request("all elements in history must have a message.")
    validation.object_list("tool_calls", calls, "chat")
    for call in calls:
        _check_call(call)


def _check_tool(tool: Any) -> None:
    require_object("tools", tool)
    check_tool_name(tool.get("name"))
    definitions = require_object("parameter_definitions", tool.get("parameter_definitions") or {})
    if not tool.get("description") and not definitions:
        raise invalid_request(f"the '{tool['name']}' tool must have at least a description, input, or output.")
    for name, definition in definitions.items():
        if not isinstance(definition, dict) or not isinstance(definition.get("type"), str):
            raise invalid_request(f"parameter '{name}' of tool '{tool['name']}' must have a type.")  # guessed


def _check_results(results: Any) -> None:
    validation.object_list("tool_results", results, "chat")
    for result in results:
        require_object("tool_results", result)
        _check_call(result.get("call"))
        validation.object_list("outputs", result.get("outputs"), "chat")
        for output in result["outputs"]:
            require_object("outputs", output)


def _check_call(call: Any) -> None:
    require_object("call", call)
    check_tool_name(call.get("name"))
    require_object("parameters", call.get("parameters"))


def _history(body: Mapping[str, Any], emulator: EmulatorState) -> list[dict[str, Any]]:
    """Returns the turns before this request, from the body or saved under its conversation_id."""
    if body.get("chat_history") is not None or not body.get("conversation_id"):
        return [turn | {"role": turn["role"].upper()} for turn in body.get("chat_history") or ()]
    saved = emulator.repository(SavedConversation).items.get(body["conversation_id"])
    return list(saved.turns) if saved else []


def _new_turns(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the turns that this request adds."""
    turns: list[dict[str, Any]] = []
    if body.get("message"):
        turns.append({"role": "USER", "message": body["message"]})
    if body.get("tool_results"):
        turns.append({"role": "TOOL", "tool_results": body["tool_results"]})
    return turns


def _save(
    body: Mapping[str, Any], emulator: EmulatorState, turns: list[dict[str, Any]], response: ChatResponse
) -> None:
    """Saves the conversation under its id, without its beginning where it is too long."""
    if body.get("conversation_id"):
        turns = [*turns, chatbot_turn(response)][-MAX_SAVED_TURNS:]
        while turns and len(msgspec.json.encode(turns)) > MAX_SAVED_BYTES:
            # Half of the turns, rounded up, so that the last one goes as well if it alone is too long.
            turns = turns[(len(turns) + 1) // 2 :]
        emulator.repository(SavedConversation).add(body["conversation_id"], SavedConversation(turns))


def chatbot_turn(response: ChatResponse) -> dict[str, Any]:
    """Returns the response as a turn of the history."""
    turn: dict[str, Any] = {"role": "CHATBOT", "message": response.text or response.plan or ""}
    if response.calls:
        turn["tool_calls"] = v1_calls(response)
    return turn


def v1_calls(response: ChatResponse) -> list[dict[str, Any]]:
    """Returns the tool calls in v1's format: arguments are an object, and there are no ids."""
    calls = []
    for call in response.calls:
        try:
            parameters = msgspec.json.decode(call.arguments or "{}")
        except msgspec.DecodeError:  # cut by max_tokens
            parameters = {}
        calls.append({"name": call.name, "parameters": parameters})
    return calls


def _documents(body: Mapping[str, Any], search_result: SearchResult | None) -> dict[str, dict[str, Any]]:
    """Returns the request's documents and those of its connectors, by id."""
    documents: dict[str, dict[str, Any]] = {}
    for index, document in enumerate(body.get("documents") or ()):
        require_object("documents", document)
        identity = str(document.get("id") or f"doc_{index}")
        if identity in documents:
            first = list(documents).index(identity)
            raise invalid_request(f"duplicate document ID {identity} at index {index} and {first}")
        if not any(value for key, value in document.items() if key not in ("id", "_excludes")):
            raise invalid_request(f"document at index {index} cannot be empty")
        documents[identity] = document | {"id": identity}
    return documents | (search_result.documents if search_result else {})


def _respond_within_context(
    body: Mapping[str, Any], model: Model, history: list[dict[str, Any]], documents: dict[str, dict[str, Any]]
) -> ChatResponse:
    """Returns the response, to a shorter history if the request allows that and its own is too long."""
    truncation = body.get("prompt_truncation") or ("AUTO" if body.get("connectors") else "OFF")
    while True:
        chat_body = _to_v2(body, model, history, documents)
        validation.chat(chat_body, model)
        try:
            return chat.respond(chat_body, model)
        except APIError as error:
            if not history or truncation == "OFF" or not str(error.message).startswith("too many tokens"):
                raise
            history = history[(len(history) + 1) // 2 :]


def _to_v2(
    body: Mapping[str, Any], model: Model, history: list[dict[str, Any]], documents: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Returns the body of /v2/chat that means the same."""
    chat_body = {name: body[name] for name in SHARED_FIELDS if body.get(name) is not None}
    chat_body |= {"model": model.name, "messages": _messages(body, history)}
    chat_body["citation_options"] = {"mode": body.get("citation_quality") or "ACCURATE"}
    if body.get("tools"):
        chat_body["tools"] = [_tool(tool) for tool in body["tools"]]
    if documents and not body.get("search_queries_only"):
        chat_body["documents"] = [
            {"id": identity, "data": _visible_fields(document)} for identity, document in documents.items()
        ]
    return chat_body


def _visible_fields(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a document that the model reads."""
    hidden = ("id", "_excludes", *(document.get("_excludes") or ()))
    # /v2/chat refuses a document without content.
    return {key: value for key, value in document.items() if key not in hidden} or {"text": "(nothing)"}


def _messages(body: Mapping[str, Any], history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    turns = [*history, *_new_turns(body)]
    system = [body.get("preamble"), *(turn.get("message") for turn in turns if turn["role"] == "SYSTEM")]
    system_text = "\n\n".join(text for text in system if text)
    messages: list[dict[str, Any]] = [{"role": "system", "content": system_text}] if system_text else []
    call_numbers = count()  # calls have no ids in v1, so they are numbered
    for previous, turn in pairwise([{}, *turns]):
        role = ROLES[turn["role"]]
        if role == "user":
            messages.append({"role": role, "content": turn["message"]})
        elif role == "assistant":
            # Its calls are taken from the results that follow, because v1 does not insist on results.
            messages.append({"role": role, "content": turn.get("message") or "(calls tools)"})
        elif role == "tool" and turn.get("tool_results"):
            called = previous.get("role") == "CHATBOT" and previous.get("tool_calls")
            plan = messages.pop()["content"] if called else ""
            messages += _tool_messages(turn["tool_results"], plan, call_numbers)
    return messages


def _tool_messages(results: list[dict[str, Any]], plan: str, call_numbers: Iterator[int]) -> list[dict[str, Any]]:
    """Returns the turn that calls the tools, made of the results, and the results as messages."""
    calls = [_call(result["call"], next(call_numbers)) for result in results]
    messages: list[dict[str, Any]] = [{"role": "assistant", "tool_plan": plan, "tool_calls": calls}]
    for index, (call, result) in enumerate(zip(calls, results, strict=True)):
        parts = [
            {"type": "document", "document": {"id": identity, "data": output}}
            for identity, output in _outputs(result, index).items()
        ]
        # A tool may return nothing, which is an empty text and not an empty list.
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": parts or ""})
    return messages


def _outputs(result: Mapping[str, Any], index: int) -> dict[str, dict[str, Any]]:
    """Returns the outputs of one tool result by the ids under which they are cited."""
    name = result["call"]["name"]
    return {f"{name}:{index}:{position}": output for position, output in enumerate(result["outputs"]) if output}


def _results_by_id(body: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    outputs: dict[str, dict[str, Any]] = {}
    for index, result in enumerate(body.get("tool_results") or ()):
        outputs |= {key: output | {"id": key} for key, output in _outputs(result, index).items()}
    return outputs


def _call(call: Mapping[str, Any], number: int) -> dict[str, Any]:
    arguments = msgspec.json.encode(call["parameters"]).decode()
    function = {"name": call["name"], "arguments": arguments}
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
    """Returns a parameter's schema. `List[str]` and `Dict[str, int]` occur too; what is in an array is a text."""
    kind = definition["type"].lower().partition("[")[0].strip()
    schema: dict[str, Any] = {"type": TYPES.get(kind, "string")}
    if schema["type"] == "array":
        schema["items"] = {"type": "string"}
    description = definition.get("description")
    if description is not None:
        if not isinstance(description, str):
            raise bad_request("description must be a string")  # guessed
        schema["description"] = description
    return schema
