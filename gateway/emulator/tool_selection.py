"""Which tools the last user turn asks for, and the arguments of their calls.

A tool is called if the text names it or shares words with its name or description. Several are called only if several
are meant, or if the text lists several values for one. The rules are the emulator's own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.emulator.conversation import Conversation, Tool
from gateway.emulator.extraction import ValueExtractor, find_locations
from gateway.emulator.keywords import content_words, excerpt, stem
from gateway.emulator.schema_instances import InstanceBuilder

ID_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 12  # recorded: get_weather_9gpb31r7h7mj

# Recorded on R7B and Command A whenever the request demands a call.
REQUIRED_PLAN = "I will use one or more of the available tools to find the answer"

DECLINED = re.compile(
    r"\b(?:without (?:calling|using) (?:a |any |the )?tools?"
    r"|(?:do not|don't|never) (?:call|use) (?:a |any |the )?tools?)\b",
    re.IGNORECASE,
)
# an expression in the text -> the words that a tool for it may have in its name
OPERATIONS = (
    (re.compile(r"\d\s*-\s*\d"), ("subtract", "minus", "difference")),
    (re.compile(r"\d\s*\+\s*\d"), ("add", "sum", "plus", "addition")),
    (re.compile(r"\d\s*[*x×]\s*\d"), ("multiply", "times", "product", "multiplication")),
    (re.compile(r"\d\s*[/÷]\s*\d"), ("divide", "quotient", "division")),
)


class ToolCall(msgspec.Struct, frozen=True):
    """A tool call. `raw_arguments` is what the model writes, `arguments` the compact JSON of a whole response."""

    id: str
    name: str
    arguments: str
    raw_arguments: str


def choose_calls(conversation: Conversation) -> list[ToolCall]:
    """Return the calls of this turn; none if it is to be answered in text."""
    if not conversation.tools or conversation.tool_choice == "NONE":
        return []
    text = excerpt(conversation.user)
    if conversation.tool_choice == "REQUIRED":
        tool = _required_tool(conversation)
        facts = conversation.results[-1].text if conversation.results else ""
        return [_call(conversation, tool, ValueExtractor(text, facts), 0)]
    if conversation.follows_tool_results or conversation.prefill or DECLINED.search(text):
        return []
    selected = _select(conversation.tools, text)
    calls: list[ToolCall] = []
    for tool, part in selected:
        for location in _listed_locations(tool, part) if len(selected) == 1 else [None]:
            extractor = ValueExtractor(part)
            if location is not None:
                extractor.limit_locations(location)
            calls.append(_call(conversation, tool, extractor, len(calls)))
    return calls


def write_plan(conversation: Conversation, calls: Sequence[ToolCall]) -> str:
    """Return the sentence that models without reasoning write before their calls."""
    if conversation.tool_choice == "REQUIRED":
        return REQUIRED_PLAN
    names = list(dict.fromkeys(call.name for call in calls))
    quoted = " and ".join(f"'{name}'" for name in names)
    return f"I will use the {quoted} tool{'s' if len(names) > 1 else ''} to answer the request."


def _text_words(text: str) -> set[str]:
    """Return the content words of a text, and the names of the operations in it."""
    words = content_words(text)
    for operation, names in OPERATIONS:
        if operation.search(text):
            words.update(stem(name) for name in names)
    return words


def _is_named(tool: Tool, text: str) -> bool:
    name = re.escape(tool.name).replace("_", "[_ -]?")
    return re.search(rf"(?<!\w){name}(?!\w)", text, re.IGNORECASE) is not None


def _score(tool: Tool, text: str, text_words: set[str]) -> float:
    """Return how well a tool fits a text."""
    named = 10.0 if _is_named(tool, text) else 0.0
    in_name = len(content_words(tool.name) & text_words)
    in_description = len(content_words(tool.description) & text_words)
    return named + 2.0 * in_name + (0.5 if in_description > 1 or in_name else 0.25) * in_description


def _select(tools: Sequence[Tool], text: str) -> list[tuple[Tool, str]]:
    """Return the tools that the text asks for, each with the part of the text that is about it."""
    text_words = _text_words(text)
    selected = [tool for tool in tools if _is_named(tool, text)]
    if not selected:
        scores = {tool.name: _score(tool, text, text_words) for tool in tools}
        candidates = sorted((tool for tool in tools if scores[tool.name] >= 1.0), key=lambda tool: -scores[tool.name])
        explained: set[str] = set()
        for tool in candidates:
            shared = content_words(tool.name) & text_words
            if not selected or shared - explained:
                selected.append(tool)
                explained |= shared
    return _split_by_tool(selected, text)


def _split_by_tool(tools: list[Tool], text: str) -> list[tuple[Tool, str]]:
    """Cut the text where it begins to be about the next tool."""
    if len(tools) < 2:
        return [(tool, text) for tool in tools]
    starts = sorted((_first_mention(tool, text), index) for index, tool in enumerate(tools))
    parts: list[tuple[Tool, str]] = []
    for position, (start, index) in enumerate(starts):
        begin = 0 if position == 0 else start
        end = starts[position + 1][0] if position + 1 < len(starts) else len(text)
        parts.append((tools[index], re.sub(r"(?:,|;|\band\b|\bthen\b|\s)+$", "", text[begin:end])))
    return parts


def _first_mention(tool: Tool, text: str) -> int:
    """Return the position of the first word or expression that is about the tool."""
    lowered = text.lower()
    words = content_words(tool.name)
    positions = [lowered.find(word) for word in (tool.name.lower(), *sorted(words))]
    for operation, names in OPERATIONS:
        match = operation.search(text)
        if match and words & {stem(name) for name in names}:
            positions.append(match.start())
    return min((position for position in positions if position >= 0), default=0)


def _listed_locations(tool: Tool, text: str) -> list[str | None]:
    """Return the places that need a call each, because the tool takes one, or a None for a single call."""
    properties = tool.parameters.get("properties") or {}
    required = tool.parameters.get("required") or list(properties)
    kinds = {name: item.get("type") for name, item in properties.items() if isinstance(item, dict)}
    texts = [name for name in required if kinds.get(name) in ("string", "str")]
    listed = find_locations(text)
    if len(texts) == 1 and len(listed) > 1 and re.search(r"\band\b", text):
        return list(listed)
    return [None]


def _required_tool(conversation: Conversation) -> Tool:
    """Return the tool that fits best, if possible one that was not called since the last user turn."""
    candidates = [tool for tool in conversation.tools if tool.name not in conversation.called]
    text = excerpt(conversation.user)
    text_words = _text_words(text)
    return max(candidates or conversation.tools, key=lambda tool: _score(tool, text, text_words))


def _call(conversation: Conversation, tool: Tool, extractor: ValueExtractor, index: int) -> ToolCall:
    values = InstanceBuilder(tool.parameters, extractor, omit_optional=True).build(tool.parameters)
    values = values if isinstance(values, dict) else {}
    digest = hashlib.blake2b(f"{index}:{tool.name}".encode(), key=conversation.fingerprint, digest_size=16).digest()
    suffix = "".join(ID_ALPHABET[byte % len(ID_ALPHABET)] for byte in digest[:ID_LENGTH])
    indent = 4 if conversation.model.indented_arguments else None
    return ToolCall(
        id=f"{tool.name}_{suffix}",
        name=tool.name,
        arguments=_dump_compact(values),
        raw_arguments=json.dumps(values, ensure_ascii=False, indent=indent) if values else "",
    )


def _dump_compact(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))
