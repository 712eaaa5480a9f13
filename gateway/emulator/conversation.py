"""A validated chat request, read once: the turns, the tool results, and the sources that may be cited.

It applies no rules (`message_validation.py` does) and writes no answers (`response_text.py`, `tool_selection.py`).
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.emulator import images
from gateway.emulator.model_catalog import Model
from gateway.emulator.schema_validation import schema_of

ENCODER = msgspec.json.Encoder()


class Source(msgspec.Struct, frozen=True):
    """Something that a response may cite: the entry of a citation's `sources`, and the text to find there."""

    reference: dict[str, Any]
    text: str


class Tool(msgspec.Struct, frozen=True):
    """A function that the model may call."""

    name: str
    description: str
    parameters: dict[str, Any]


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the rules of a response look at."""

    model: Model
    system: str
    user: str  # the text of the last user turn
    earlier: tuple[str, ...]  # the texts of the user turns before it
    statements: tuple[str, ...]  # the texts of all turns before it, the system prompt and assistant turns included
    images: tuple[images.Image, ...]  # of all user turns
    tools: tuple[Tool, ...]
    forbidden_tools: tuple[Tool, ...]  # that the system prompt says not to call now
    tool_choice: str | None
    called: tuple[str, ...]  # names of the tools called since the last user turn
    results: tuple[Source, ...]  # the tool results at the very end of the list
    documents: tuple[Source, ...]
    prefill: str  # the text of an assistant turn at the end
    thinks: bool
    thinking_budget: int | None
    wants_json: bool
    schema: dict[str, Any] | None
    disobedience: str  # what the model does instead of what it was told: `faults.DISOBEDIENCE`, or empty
    fingerprint: bytes  # of everything that decides what the response says

    @property
    def follows_tool_results(self) -> bool:
        """Whether tool results are the last thing in the list."""
        return bool(self.results)


def read_conversation(body: Mapping[str, Any], model: Model, disobedience: str = "") -> Conversation:
    """Returns the conversation of a body that has passed validation."""
    messages: list[dict[str, Any]] = body["messages"]
    users = [text_of(message.get("content")) for message in messages if message["role"] == "user"]
    last = messages[-1]
    response_format = body.get("response_format") or {}
    thinking = body.get("thinking") or {}
    system = "\n\n".join(text_of(message["content"]) for message in messages if message["role"] == "system")
    required = _required_tools(system)
    tools = tuple(map(_tool, body.get("tools") or ()))
    return Conversation(
        model=model,
        system=system,
        user=_without_context(users[-1]) if users else "",
        earlier=tuple(users[:-1]),
        statements=_earlier_texts(messages),
        images=tuple(_images(messages)),
        tools=tuple(tool for tool in tools if not required or tool.name in required),
        forbidden_tools=tuple(tool for tool in tools if required and tool.name not in required),
        tool_choice=body.get("tool_choice") or ("REQUIRED" if required else None),
        called=_called_tools(messages),
        results=_trailing_results(messages),
        documents=tuple(_document(item, index) for index, item in enumerate(body.get("documents") or ())),
        prefill=text_of(last.get("content")) if last["role"] == "assistant" else "",
        thinks=model.reasoning and thinking.get("type") != "disabled",
        thinking_budget=thinking.get("token_budget"),
        wants_json=response_format.get("type") == "json_object",
        schema=schema_of(response_format),
        disobedience=disobedience,
        fingerprint=_fingerprint(body, model),
    )


# Blocks in which agents put what the user did not write, such as Copilot's `<reminder>` and Cline's
# `<environment_details>`
CONTEXT_NAME = re.compile(
    r"(?<![^_-])(?:reminder|context|datetime|environment|details|instructions|attachments?|workspace|metadata"
    r"|tables|info)s?(?![^_-])",
    re.IGNORECASE,
)
BLOCK_BEGIN = re.compile(r"^<([\w-]+)(?: [^>\n]*)?>", re.MULTILINE)
BLOCK_END = re.compile(r"</([\w-]+)>[ \t]*$", re.MULTILINE)


def _without_context(text: str) -> str:
    """Returns a user's text without the blocks that an agent has added, unless nothing else is in it."""
    if "</" not in text:
        return text
    # Begins and ends are found apart, because one pattern would search the whole rest of the text for each begin.
    ends: dict[str, deque[re.Match[str]]] = {}
    for end in BLOCK_END.finditer(text):
        ends.setdefault(end[1].lower(), deque()).append(end)
    parts, position = [], 0
    for begin in BLOCK_BEGIN.finditer(text):
        if begin.start() < position or not CONTEXT_NAME.search(begin[1]):
            continue
        candidates = ends.get(begin[1].lower(), deque())
        while candidates and candidates[0].start() < begin.end():
            candidates.popleft()
        if candidates:
            parts.append(text[position : begin.start()])
            position = candidates[0].end()
    return "".join((*parts, text[position:])).strip() or text


# A system prompt that demands a call of certain tools counts as tool_choice, because models mostly obey it.
# The second alternative takes names without a "now" after them, so that no other match reads them again.
MUST_CALL = re.compile(
    r"\bmust call (?:the tool|one of these tools:) "
    r"(?:([A-Za-z0-9_, ]+?) now\b|(?:(?!must call one of these tools:)[A-Za-z0-9_, ])*+)"
)


def _required_tools(system: str) -> frozenset[str]:
    """Returns the tools of which the system prompt says that one must be called now."""
    names = next((match[1] for match in MUST_CALL.finditer(system) if match[1]), "")
    return frozenset(names.split(", ")) if names else frozenset()


def _earlier_texts(messages: list[dict[str, Any]]) -> tuple[str, ...]:
    """Returns the texts of the turns before the last user turn, in their order."""
    last_user = max((index for index, message in enumerate(messages) if message["role"] == "user"), default=0)
    texts = (text_of(message.get("content")) for message in messages[:last_user] if message["role"] != "tool")
    return tuple(text for text in texts if text)


def text_of(content: Any) -> str:
    """Returns the text parts of a message's content, joined."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content or () if part["type"] == "text")


def all_text(message: Mapping[str, Any]) -> str:
    """Returns everything in a message that costs text tokens."""
    content = message.get("content")
    texts = [content] if isinstance(content, str) else []
    for part in content if isinstance(content, list) else ():
        if part["type"] == "document":
            texts.append(document_text(part["document"]["data"]))
        elif part["type"] != "image_url":
            texts.append(part[part["type"]])
    texts.append(message.get("tool_plan") or "")
    for call in message.get("tool_calls") or ():
        texts += [call["function"]["name"], call["function"].get("arguments") or ""]
    return " ".join(text for text in texts if text)


def document_text(data: Any) -> str:
    """Returns a document's values as text."""
    if isinstance(data, str):
        return data
    if isinstance(data, dict):
        return "; ".join(document_text(value) for value in data.values())
    if isinstance(data, list):
        return ", ".join(document_text(value) for value in data)
    return ENCODER.encode(data).decode()


def _images(messages: list[dict[str, Any]]) -> list[images.Image]:
    return [
        images.read_image(part["image_url"]["url"])
        for message in messages
        if message["role"] == "user" and isinstance(message["content"], list)
        for part in message["content"]
        if part["type"] == "image_url"
    ]


def _tool(tool: Mapping[str, Any]) -> Tool:
    function = tool["function"]
    return Tool(function["name"], function.get("description") or "", function["parameters"])


def _called_tools(messages: list[dict[str, Any]]) -> tuple[str, ...]:
    names: list[str] = []
    for message in messages:
        if message["role"] == "user":
            names = []
        names += [call["function"]["name"] for call in message.get("tool_calls") or ()]
    return tuple(names)


def _trailing_results(messages: list[dict[str, Any]]) -> tuple[Source, ...]:
    results: list[Source] = []
    for message in reversed(messages):
        if message["role"] != "tool":
            break
        # In front of those that are there, as the list is read from its end.
        results[:0] = _result_sources(message["tool_call_id"], message["content"])
    return tuple(results)


def _result_sources(call_id: str, content: Any) -> list[Source]:
    """Returns the sources in one tool message. Their ids are `<call id>:<n>` unless a document has its own."""
    if isinstance(content, str):
        return [_result_source(f"{call_id}:0", {"content": content}, content)]
    sources: list[Source] = []
    for index, part in enumerate(content):
        identity = f"{call_id}:{index}"
        if part["type"] == "document":
            document = part["document"]
            data = document["data"]
            output = data if isinstance(data, dict) else {"content": data}
            sources.append(_result_source(document.get("id") or identity, output, document_text(data)))
        else:
            sources.append(_result_source(identity, {"content": part["text"]}, part["text"]))
    return sources


def _result_source(identity: str, output: dict[str, Any], text: str) -> Source:
    return Source({"type": "tool", "id": identity, "tool_output": output}, text)


def _document(item: Any, index: int) -> Source:
    """Returns a document of the request. A bare string is taken for its `text`, which was never recorded."""
    identity, data = f"doc:{index}", item
    if isinstance(item, dict):
        identity, data = item.get("id") or identity, item["data"]
    if isinstance(data, str):
        data = {"text": data}
    text = next((data[key] for key in ("text", "snippet", "content") if isinstance(data.get(key), str)), None)
    reference = {"type": "document", "id": identity, "document": {"id": identity, **data}}
    return Source(reference, text if text is not None else document_text(data))


def _fingerprint(body: Mapping[str, Any], model: Model) -> bytes:
    """Returns a hash of the request without `stream`, because the streamed response says the same."""
    relevant = {key: value for key, value in body.items() if key != "stream" and value is not None}
    relevant["model"] = model.name
    return hashlib.blake2b(ENCODER.encode(relevant), digest_size=16).digest()
