"""Which tools the last user turn asks for, and with which arguments.

A tool is called when the text names it or shares telling words with its name or description; several are
called only when several are meant, or when the text lists several values for one. Rules: product need, not
Cohere's.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.emulator.conversation import Conversation, Tool
from gateway.emulator.extraction import STOPWORDS, Drawing, glance, places
from gateway.emulator.schema_instances import Maker

ID_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 12  # recorded: get_weather_9gpb31r7h7mj

# recorded on R7B and Command A whenever the caller demands a call
FORCED_PLAN = "I will use one or more of the available tools to find the answer"

DECLINED = re.compile(
    r"\b(?:without (?:calling|using) (?:a |any |the )?tools?"
    r"|(?:do not|don't|never) (?:call|use) (?:a |any |the )?tools?)\b",
    re.IGNORECASE,
)
OPERATIONS = (
    (re.compile(r"\d\s*-\s*\d"), ("subtract", "minus", "difference")),
    (re.compile(r"\d\s*\+\s*\d"), ("add", "sum", "plus", "addition")),
    (re.compile(r"\d\s*[*x×]\s*\d"), ("multiply", "times", "product", "multiplication")),
    (re.compile(r"\d\s*[/÷]\s*\d"), ("divide", "quotient", "division")),
)
# Words of a description that describe every description.
PALE = frozenset(
    "returns return given data information value values result results current new list string number input"
    " output user users based perform provides provide specific available response final conversation ends"
    " which".split()
)


class Call(msgspec.Struct, frozen=True):
    """A tool call; `arguments` is the compact text, `written` what the model wrote token by token."""

    id: str
    name: str
    arguments: str
    written: str


def choose(conversation: Conversation) -> list[Call]:
    """The calls of this turn; none when it is to be answered in words."""
    if not conversation.tools or conversation.tool_choice == "NONE":
        return []
    text = glance(conversation.user)
    if conversation.tool_choice == "REQUIRED":
        tool = _forced(conversation)
        facts = conversation.results[-1].text if conversation.results else ""
        return [_call(conversation, tool, Drawing(text, facts), 0)]
    if conversation.answers_a_tool or conversation.prefill or DECLINED.search(text):
        return []
    meant = _meant(conversation.tools, text)
    calls: list[Call] = []
    for tool, part in meant:
        for value in _listed(tool, part) if len(meant) == 1 else [None]:
            drawing = Drawing(part)
            if value is not None:
                drawing.places = [value]
                drawing.spare = {value: True}
            calls.append(_call(conversation, tool, drawing, len(calls)))
    return calls


def plan(conversation: Conversation, calls: Sequence[Call]) -> str:
    """The sentence that non-reasoning models say before they call."""
    if conversation.tool_choice == "REQUIRED":
        return FORCED_PLAN
    names = list(dict.fromkeys(call.name for call in calls))
    named = " and ".join(f"'{name}'" for name in names)
    return f"I will use the {named} tool{'s' if len(names) > 1 else ''} to answer the request."


def words(text: str) -> set[str]:
    """The telling words of a text, endings cut so that plurals meet."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).replace("_", " ").lower()
    found = re.findall(r"[^\W\d_]{2,}", spaced)
    return {_stem(word) for word in found if word not in STOPWORDS and word not in PALE}


def _stem(word: str) -> str:
    for ending in ("ing", "ies", "es", "s", "ed"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def _text_words(text: str) -> set[str]:
    found = words(text)
    for operation, names in OPERATIONS:
        if operation.search(text):
            found.update(_stem(name) for name in names)
    return found


def _named(tool: Tool, text: str) -> bool:
    spoken = re.escape(tool.name).replace("_", "[_ -]?")
    return re.search(rf"(?<!\w){spoken}(?!\w)", text, re.IGNORECASE) is not None


def _score(tool: Tool, text: str, found: set[str]) -> float:
    named = 10.0 if _named(tool, text) else 0.0
    shared = len(words(tool.name) & found)
    described = len(words(tool.description) & found)
    return named + 2.0 * shared + (0.5 * described if described > 1 or shared else 0.25 * described)


def _meant(tools: Sequence[Tool], text: str) -> list[tuple[Tool, str]]:
    """The tools that the text asks for, each with the part of the text that is about it."""
    found = _text_words(text)
    named = [tool for tool in tools if _named(tool, text)]
    if not named:
        scores = {tool.name: _score(tool, text, found) for tool in tools}
        candidates = sorted((tool for tool in tools if scores[tool.name] >= 1.0), key=lambda tool: -scores[tool.name])
        explained: set[str] = set()
        for tool in candidates:
            own = words(tool.name) & found
            if not named or own - explained:
                named.append(tool)
                explained |= own
    return _parts(named, text)


def _parts(tools: list[Tool], text: str) -> list[tuple[Tool, str]]:
    """Cut the text where the next tool begins to be spoken of."""
    if len(tools) < 2:
        return [(tool, text) for tool in tools]
    starts = sorted(((_first(tool, text), index) for index, tool in enumerate(tools)))
    parts: list[tuple[Tool, str]] = []
    for position, (start, index) in enumerate(starts):
        begin = 0 if position == 0 else start
        end = starts[position + 1][0] if position + 1 < len(starts) else len(text)
        parts.append((tools[index], re.sub(r"(?:,|;|\band\b|\bthen\b|\s)+$", "", text[begin:end])))
    return parts


def _first(tool: Tool, text: str) -> int:
    lowered = text.lower()
    own = words(tool.name)
    spots = [lowered.find(word) for word in (tool.name.lower(), *sorted(own))]
    for operation, names in OPERATIONS:
        found = operation.search(text)
        if found and own & {_stem(name) for name in names}:
            spots.append(found.start())
    return min((spot for spot in spots if spot >= 0), default=0)


def _listed(tool: Tool, text: str) -> list[str | None]:
    """Several places for a tool that takes one: one call each."""
    properties = tool.parameters.get("properties") or {}
    required = tool.parameters.get("required") or list(properties)
    kinds = {name: item.get("type") for name, item in properties.items() if isinstance(item, dict)}
    texts = [name for name in required if kinds.get(name) in ("string", "str")]
    listed = places(text)
    if len(texts) == 1 and len(listed) > 1 and re.search(r"\band\b", text):
        return list(listed)
    return [None]


def _forced(conversation: Conversation) -> Tool:
    """The best match; after a tool result, one that was not called yet if there is one."""
    fresh = [tool for tool in conversation.tools if tool.name not in conversation.called]
    candidates = fresh or list(conversation.tools)
    text = glance(conversation.user)
    found = _text_words(text)
    return max(candidates, key=lambda tool: _score(tool, text, found))


def _call(conversation: Conversation, tool: Tool, drawing: Drawing, index: int) -> Call:
    values = Maker(tool.parameters, drawing, sparing=True).make(tool.parameters)
    values = values if isinstance(values, dict) else {}
    digest = hashlib.blake2b(f"{index}:{tool.name}".encode(), key=conversation.fingerprint, digest_size=16).digest()
    suffix = "".join(ID_LETTERS[byte % len(ID_LETTERS)] for byte in digest[:ID_LENGTH])
    indent = 4 if conversation.model.indented_arguments else None
    return Call(
        id=f"{tool.name}_{suffix}",
        name=tool.name,
        arguments=_compact(values),
        written=json.dumps(values, ensure_ascii=False, indent=indent) if values else "",
    )


def _compact(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))
