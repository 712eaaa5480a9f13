"""A validated chat request, read once: who said what, which results came back, which sources may be cited.

No judging (that is `messages.py`), no answering (`answers.py`, `tools.py`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.emulator import images
from gateway.emulator.catalogue import Model
from gateway.emulator.json_schema import schema_of

ENCODER = msgspec.json.Encoder()


class Source(msgspec.Struct, frozen=True):
    """Something that an answer may quote: `told` is the `sources[]` entry of a citation, `text` its words."""

    told: dict[str, Any]
    text: str


class Tool(msgspec.Struct, frozen=True):
    """A function that the model may call."""

    name: str
    description: str
    parameters: dict[str, Any]


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the rules look at."""

    model: Model
    system: str
    user: str  # the last user turn's text
    earlier: tuple[str, ...]  # the user turns before it
    images: tuple[images.Image, ...]  # of all user turns
    tools: tuple[Tool, ...]
    tool_choice: str | None
    called: tuple[str, ...]  # names of the tools called since the last user turn
    results: tuple[Source, ...]  # tool results at the very end of the list
    documents: tuple[Source, ...]
    prefill: str  # text of a trailing assistant turn
    thinks: bool
    thinking_budget: int | None
    wants_json: bool
    schema: dict[str, Any] | None
    fingerprint: bytes  # of everything that decides what is said

    @property
    def answers_a_tool(self) -> bool:
        """Whether the last thing said is what a tool returned."""
        return bool(self.results)


def read(body: Mapping[str, Any], model: Model) -> Conversation:
    """The conversation in a body that has passed validation."""
    messages: list[dict[str, Any]] = body["messages"]
    users = [text_of(message.get("content")) for message in messages if message["role"] == "user"]
    last = messages[-1]
    form = body.get("response_format") or {}
    budget = (body.get("thinking") or {}).get("token_budget")
    disabled = (body.get("thinking") or {}).get("type") == "disabled"
    system = "\n\n".join(text_of(message["content"]) for message in messages if message["role"] == "system")
    told = _told_to_call(system)
    return Conversation(
        model=model,
        system=system,
        user=users[-1] if users else "",
        earlier=tuple(users[:-1]),
        images=tuple(_images(messages)),
        tools=tuple(tool for tool in map(_tool, body.get("tools") or ()) if not told or tool.name in told),
        tool_choice=body.get("tool_choice") or ("REQUIRED" if told else None),
        called=_called(messages),
        results=_results(messages),
        documents=tuple(_document(item, index) for index, item in enumerate(body.get("documents") or ())),
        prefill=text_of(last.get("content")) if last["role"] == "assistant" else "",
        thinks=model.reasoning and not disabled,
        thinking_budget=budget,
        wants_json=form.get("type") == "json_object",
        schema=schema_of(form),
        fingerprint=_fingerprint(body, model),
    )


# A system prompt that demands a call of certain tools is obeyed like tool_choice: models do, mostly.
MUST_CALL = re.compile(r"\bmust call (?:the tool|one of these tools:) ([A-Za-z0-9_, ]+?) now\b")


def _told_to_call(system: str) -> frozenset[str]:
    """The tools of which the system prompt says that one must be called now."""
    found = MUST_CALL.search(system)
    return frozenset(found[1].split(", ")) if found else frozenset()


def text_of(content: Any) -> str:
    """The words of a content, parts joined; thinking and pictures are not words."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content or () if part["type"] == "text")


def all_text(message: Mapping[str, Any]) -> str:
    """Everything in a message that costs tokens, pictures apart."""
    content = message.get("content")
    told = [content] if isinstance(content, str) else []
    for part in content if isinstance(content, list) else ():
        if part["type"] == "document":
            told.append(words_of(part["document"]["data"]))
        elif part["type"] != "image_url":
            told.append(part[part["type"]])
    told.append(message.get("tool_plan") or "")
    for call in message.get("tool_calls") or ():
        told += [call["function"]["name"], call["function"].get("arguments") or ""]
    return " ".join(text for text in told if text)


def words_of(data: Any) -> str:
    """A document's values as text."""
    if isinstance(data, str):
        return data
    if isinstance(data, dict):
        return "; ".join(words_of(value) for value in data.values())
    if isinstance(data, list):
        return ", ".join(words_of(value) for value in data)
    return ENCODER.encode(data).decode()


def _images(messages: list[dict[str, Any]]) -> list[images.Image]:
    return [
        images.look(part["image_url"]["url"])
        for message in messages
        if message["role"] == "user" and isinstance(message["content"], list)
        for part in message["content"]
        if part["type"] == "image_url"
    ]


def _tool(tool: Mapping[str, Any]) -> Tool:
    function = tool["function"]
    return Tool(function["name"], function.get("description") or "", function["parameters"])


def _called(messages: list[dict[str, Any]]) -> tuple[str, ...]:
    names: list[str] = []
    for message in messages:
        if message["role"] == "user":
            names = []
        names += [call["function"]["name"] for call in message.get("tool_calls") or ()]
    return tuple(names)


def _results(messages: list[dict[str, Any]]) -> tuple[Source, ...]:
    found: list[Source] = []
    for message in reversed(messages):
        if message["role"] != "tool":
            break
        found[:0] = _sources(message["tool_call_id"], message["content"])
    return tuple(found)


def _sources(identity: str, content: Any) -> list[Source]:
    """The citable pieces of one tool message; ids are `<call id>:<n>` unless the document has its own."""
    if isinstance(content, str):
        return [_tool_source(f"{identity}:0", {"content": content}, content)]
    found: list[Source] = []
    for index, part in enumerate(content):
        name = f"{identity}:{index}"
        if part["type"] == "document":
            document = part["document"]
            data = document["data"]
            output = data if isinstance(data, dict) else {"content": data}
            found.append(_tool_source(document.get("id") or name, output, words_of(data)))
        else:
            found.append(_tool_source(name, {"content": part["text"]}, part["text"]))
    return found


def _tool_source(identity: str, output: dict[str, Any], text: str) -> Source:
    return Source({"type": "tool", "id": identity, "tool_output": output}, text)


def _document(item: Any, index: int) -> Source:
    """A document of the request; a bare string counts as its `text` (docs/cohere-api.md#documents-and-citations,
    unknown)."""
    identity, data = f"doc:{index}", item
    if isinstance(item, dict):
        identity, data = item.get("id") or identity, item["data"]
    if isinstance(data, str):
        data = {"text": data}
    text = next((data[key] for key in ("text", "snippet", "content") if isinstance(data.get(key), str)), None)
    told = {"type": "document", "id": identity, "document": {"id": identity, **data}}
    return Source(told, text if text is not None else words_of(data))


def _fingerprint(body: Mapping[str, Any], model: Model) -> bytes:
    """Streaming or not, the same request says the same: `stream` does not count."""
    told = {key: value for key, value in body.items() if key != "stream" and value is not None}
    told["model"] = model.name
    return hashlib.blake2b(ENCODER.encode(told), digest_size=16).digest()
