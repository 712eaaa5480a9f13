"""Which tools the last user turn asks for, and the arguments of their calls.

A tool is called if the text names it or clearly means it: by the words of its name, or by most of what a short
description says. A few words that a long description happens to share are not enough. Several tools are called only if
several are meant, or if the text lists several values for one. The rules are the emulator's own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.emulator.conversation import Conversation, Tool
from gateway.emulator.extraction import ValueExtractor, find_locations
from gateway.emulator.keywords import content_words, excerpt, stem
from gateway.emulator.memory import find_facts
from gateway.emulator.schema_instances import InstanceBuilder, break_instance

ID_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 12  # recorded: get_weather_9gpb31r7h7mj

# Recorded on R7B and Command A whenever the request demands a call.
REQUIRED_PLAN = "I will use one or more of the available tools to find the answer"

DECLINED = re.compile(
    r"\b(?:without (?:calling|using) (?:a |any |the )?tools?"
    r"|(?:do not|don't|never) (?:call|use) (?:a |any |the )?tools?)\b",
    re.IGNORECASE,
)
# Verbs that begin the names of tools for anything: they alone do not mean a tool, unless they are the order itself.
COMMON_VERBS = frozenset(
    stem(verb)
    for verb in "call check create delete do edit execute fetch find get give handle list look lookup make open post"
    " process put query read remove report request retrieve run search send set show start stop submit update use view"
    " write".split()
)
ORDER = r"(?:^|[.!?:;,]\s*|\n[^\S\n]*|\b(?:please|can you|could you|would you|and|then|to)\s+)"
# What joins two orders, wherever it stands
JOINTS = re.compile(r"(?:,|;|\band\b|\bthen\b|\s)++")
FEW_TOOLS = 5  # among which a verb is enough to tell which one is meant
MAX_SHORT_DESCRIPTION = 200  # characters
MAX_SUMMARY = 300  # characters
UNDERSCORES = re.compile("_+")
# Says that the turn ends with this tool, because its arguments are the answer: agents' structured output.
ANSWER_TOOL = re.compile(
    r"\bfinal (?:answer|result|response|output)\b"
    r"|\b(?:ends?|finish(?:es)?|completes?) (?:the|this) (?:conversation|task)"
    r"|\bstructured (?:answer|output|response)\b|\bthe answer itself\b",
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
    """Returns the calls of this turn; none if it is to be answered in text."""
    if not conversation.tools or conversation.tool_choice == "NONE" or conversation.disobedience == "no_tool_call":
        return []
    text = excerpt(conversation.user)
    memory = find_facts(conversation.statements)
    if conversation.tool_choice == "REQUIRED":
        tool = _required_tool(conversation)
        facts = conversation.results[-1].text if conversation.results else ""
        selected, extractors = [(tool, text)], [ValueExtractor(text, facts, memory)]
    else:
        if conversation.follows_tool_results or conversation.prefill or _declines(conversation):
            return []
        selected = _select(conversation.tools, text)
        extractors = [ValueExtractor(part, memory=memory) for _, part in selected]
    if conversation.disobedience == "wrong_tool" and selected:
        tool = _wrong_tool(conversation, [tool for tool, _ in selected])
        return [_call(conversation, tool, extractors[0], 0)]
    calls: list[ToolCall] = []
    for (tool, part), extractor in zip(selected, extractors, strict=True):
        locations: list[str | None] = [None]
        if conversation.tool_choice != "REQUIRED" and len(selected) == 1:
            locations = _listed_locations(tool, part)
        for location in locations:
            if location is not None:
                extractor = ValueExtractor(part, memory=memory)
                extractor.limit_locations(location)
            calls.append(_call(conversation, tool, extractor, len(calls)))
    return calls


def _declines(conversation: Conversation) -> bool:
    """Returns whether the user, or the system prompt, says that no tool is to be called."""
    return any(DECLINED.search(excerpt(text)) for text in (conversation.user, conversation.system))


def _wrong_tool(conversation: Conversation, right: Sequence[Tool]) -> Tool:
    """Returns a tool that must not be called or does not fit, or the right one if there is no other."""
    others = [*conversation.forbidden_tools, *(tool for tool in conversation.tools if tool not in right)]
    return others[0] if others else right[0]


def write_plan(conversation: Conversation, calls: Sequence[ToolCall]) -> str:
    """Returns the sentence that models without reasoning write before their calls."""
    if conversation.tool_choice == "REQUIRED":
        return REQUIRED_PLAN
    names = list(dict.fromkeys(call.name for call in calls))
    quoted = " and ".join(f"'{name}'" for name in names)
    return f"I will use the {quoted} tool{'s' if len(names) > 1 else ''} to answer the request."


def _text_words(text: str) -> set[str]:
    """Returns the content words of a text, and the names of the operations in it."""
    words = content_words(text)
    for operation, names in OPERATIONS:
        if operation.search(text):
            words.update(stem(name) for name in names)
    return words


def _is_named(tool: Tool, text: str) -> bool:
    """Returns whether the text names a tool. A name that is an ordinary word has to be called a tool, or be quoted."""
    # One repetition for a row of underscores: as many optional characters would take exponential time.
    name = UNDERSCORES.sub(lambda row: f"[_ -]{{0,{len(row[0])}}}", re.escape(tool.name))
    if not _is_single_word(tool.name):
        return re.search(rf"(?<!\w){name}(?!\w)", text, re.IGNORECASE) is not None
    return (
        re.search(
            rf"[`'\"“]{name}[`'\"”]|(?<!\w){name}(?:\(| (?:tool|function)\b)"
            rf"|\b(?:use|using|call|calling|invoke|run) (?:the )?{name}(?!\w)",
            text,
            re.IGNORECASE,
        )
        is not None
    )


def _is_single_word(name: str) -> bool:
    return re.fullmatch(r"[A-Z]?[a-z]+|[A-Z]+", name) is not None


def _specific_words(tool: Tool) -> set[str]:
    """Returns the words of a tool's name without common verbs, or all if there are no others."""
    words = content_words(tool.name)
    return words - COMMON_VERBS or words


def _summary(tool: Tool) -> str:
    """Returns the first sentence of a description."""
    return re.split(r"(?<=[.!?])\s|\n", tool.description.strip(), maxsplit=1)[0][:MAX_SUMMARY]


def _score(tool: Tool, text: str, text_words: set[str]) -> float:
    """Returns how well a tool fits a text; how much of it is clear is decided by `_is_meant`."""
    named = 10.0 if _is_named(tool, text) else 0.0
    in_name = len(content_words(tool.name) & text_words)
    in_description = len(content_words(tool.description) & text_words)
    return named + 2.0 * in_name + (0.5 if in_description > 1 or in_name else 0.25) * in_description


def _is_meant(tool: Tool, tools: Sequence[Tool], text: str, text_words: set[str]) -> bool:
    """Returns whether a text that does not name the tool clearly asks for it."""
    name_words = content_words(tool.name)
    summary_words = content_words(_summary(tool))
    described = summary_words & text_words
    short = len(tool.description) <= MAX_SHORT_DESCRIPTION
    specific = _specific_words(tool)
    shared = specific & text_words
    # Half of a long name is enough, and so is a word that the description repeats: names often begin with a server's.
    enough = shared and (2 * len(shared) >= len(specific) or shared & summary_words)
    if enough and not name_words <= COMMON_VERBS:
        # Among many tools a single word, such as `task`, is not enough.
        return not _is_single_word(tool.name) or len(tools) <= FEW_TOOLS or 2 * len(described) >= len(summary_words)
    if short and len(described - name_words) >= 2 and 2 * len(described) > len(summary_words):
        return True
    verbs = [verb for verb in name_words & COMMON_VERBS if re.search(rf"{ORDER}{verb}(?:s|es)?\b", text, re.IGNORECASE)]
    return bool(verbs) and (len(tools) <= FEW_TOOLS or len(described) >= 2)


def _select(tools: Sequence[Tool], text: str) -> list[tuple[Tool, str]]:
    """Returns the tools that the text asks for, each with the part of the text that is about it."""
    text_words = _text_words(text)
    selected = [tool for tool in tools if _is_named(tool, text)]
    if not selected:
        scores = {tool.name: _score(tool, text, text_words) for tool in tools}
        candidates = [tool for tool in tools if _is_meant(tool, tools, text, text_words)]
        explained: set[str] = set()
        for tool in sorted(candidates, key=lambda tool: -scores[tool.name]):
            shared = content_words(tool.name) & text_words
            if not selected or shared - explained:
                selected.append(tool)
                explained |= shared
    return _split_by_tool(selected, text)


def _split_by_tool(tools: list[Tool], text: str) -> list[tuple[Tool, str]]:
    """Cuts the text where it begins to be about the next tool."""
    if len(tools) < 2:
        return [(tool, text) for tool in tools]
    starts = sorted((_first_mention(tool, text), index) for index, tool in enumerate(tools))
    parts: list[tuple[Tool, str]] = []
    for position, (start, index) in enumerate(starts):
        begin = 0 if position == 0 else start
        end = starts[position + 1][0] if position + 1 < len(starts) else len(text)
        parts.append((tools[index], _without_last_joint(text[begin:end])))
    return parts


def _without_last_joint(text: str) -> str:
    """Returns a text without the "and then" at its end."""
    # A `$` in the pattern would make each joint of a long row try the whole rest of the row.
    joint = deque(JOINTS.finditer(text), maxlen=1)
    return text[: joint[0].start()] if joint and joint[0].end() == len(text) else text


def _first_mention(tool: Tool, text: str) -> int:
    """Returns the position of the first word or expression that is about the tool."""
    lowered = text.lower()
    words = content_words(tool.name)
    positions = [lowered.find(word) for word in (tool.name.lower(), *sorted(words))]
    for operation, names in OPERATIONS:
        match = operation.search(text)
        if match and words & {stem(name) for name in names}:
            positions.append(match.start())
    return min((position for position in positions if position >= 0), default=0)


def _listed_locations(tool: Tool, text: str) -> list[str | None]:
    """Returns the places that need a call each, because the tool takes one, or a None for a single call."""
    properties = tool.parameters.get("properties") or {}
    required = tool.parameters.get("required") or list(properties)
    kinds = {name: item.get("type") for name, item in properties.items() if isinstance(item, dict)}
    texts = [name for name in required if kinds.get(name) in ("string", "str")]
    listed = find_locations(text)
    if len(texts) == 1 and len(listed) > 1 and re.search(r"\band\b", text):
        return list(listed)
    return [None]


def _required_tool(conversation: Conversation) -> Tool:
    """Returns the tool to call where a call is demanded.

    It is the best of the tools that the text asks for and that were not called since the last user turn; if there is
    none, the tool that stands for the answer; if there is none either, the best of all.
    """
    fresh = [tool for tool in conversation.tools if tool.name not in conversation.called] or conversation.tools
    text = excerpt(conversation.user)
    text_words = _text_words(text)
    meant = [tool for tool in fresh if _is_named(tool, text) or _is_meant(tool, fresh, text, text_words)]
    candidates = meant or [tool for tool in conversation.tools if _stands_for_answer(tool)] or fresh
    return max(candidates, key=lambda tool: _score(tool, text, text_words))


def _stands_for_answer(tool: Tool) -> bool:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", tool.name)
    return ANSWER_TOOL.search(spaced) is not None or ANSWER_TOOL.search(tool.description) is not None


def _call(conversation: Conversation, tool: Tool, extractor: ValueExtractor, index: int) -> ToolCall:
    values = InstanceBuilder(tool.parameters, extractor, omit_optional=True).build(tool.parameters)
    values = values if isinstance(values, dict) else {}
    if conversation.disobedience == "broken_schema":
        values = break_instance(values, tool.parameters)
    digest = hashlib.blake2b(f"{index}:{tool.name}".encode(), key=conversation.fingerprint, digest_size=16).digest()
    suffix = "".join(ID_ALPHABET[byte % len(ID_ALPHABET)] for byte in digest[:ID_LENGTH])
    indent = 4 if conversation.model.indented_arguments else None
    return ToolCall(
        id=f"{tool.name}_{suffix}",
        name=tool.name,
        arguments=_dump_compact(values),
        # A stream has no delta of arguments where there are none (docs/cohere-api.md#order-of-events).
        raw_arguments=json.dumps(values, ensure_ascii=False, indent=indent) if values else "",
    )


def _dump_compact(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))
