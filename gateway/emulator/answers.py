"""What the emulator says when it answers in words or in JSON: a list of rules, the first that fits wins.

It never pretends to be a model: an answer that no rule makes says where it comes from. Tool calls are
`tools.py`, citations `citations.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from gateway.emulator.conversation import Conversation, Source
from gateway.emulator.extraction import DATE, Drawing, glance, salient
from gateway.emulator.images import Image
from gateway.emulator.schema_instances import Maker
from gateway.emulator.tools import Call, words

INTRODUCTION = "This is the Cohere emulator (rule-based, not a model)."
LONGEST_ECHO = 600
LONGEST_RESULT = 4_000
LONGEST_COUNT = 1_000
MOST_BRACES = 200

VERB = r"\b(?:reply|respond|answer|output|repeat|say|print|echo|write|return)\b"
FILLER = (
    r"(?:(?:with|exactly|only|just|this|these|the|following|one|single|word|words|text|sentence|sequence|string|phrase"
    r"|and|nothing|else|after|me|back|verbatim|precisely|to|a|message|literally|letters?)\b,?\s*)*"
)
DICTATIONS = (
    re.compile(rf"{VERB}\s*{FILLER}:\s*(?P<said>.+)", re.IGNORECASE | re.DOTALL),
    re.compile(rf"{VERB}\s+{FILLER}[\"“`](?P<said>[^\"”`]+)[\"”`]", re.IGNORECASE),
    re.compile(rf"{VERB}\s+{FILLER}'(?P<said>[^']+)'", re.IGNORECASE),
    re.compile(
        rf"\b(?:reply|respond|answer)\s+with\s+(?:exactly|only|just|(?:the|a|one)\s+(?:single\s+)?word)\s+{FILLER}"
        r"(?P<said>[^\n]+)",
        re.IGNORECASE,
    ),
    re.compile(
        rf"(?:^|[.!?,:]\s+|\bplease\s+|\bjust\s+|\byou\s+)(?:say|repeat|echo)\s+{FILLER}"
        r"(?!something|anything|what|how|why|that|if|more|it\b)(?P<said>[^\n]+)",
        re.IGNORECASE,
    ),
)
AFTERTHOUGHT = re.compile(
    r"(?:,?\s+(?:in (?:one|a single|two|three) words?|and nothing else|and stop|please|exactly|only|once)\b.*"
    r"|[.!]+)$",
    re.IGNORECASE | re.DOTALL,
)
SYSTEM_ORDER = re.compile(
    r"\b(?:always|only) (?:answer|reply|respond|say)(?: with)?:? [\"'“`]([^\"'”`]+)[\"'”`]", re.IGNORECASE
)

OPERATORS: dict[str, Callable[[float, float], float]] = {
    "*": lambda left, right: left * right,
    "/": lambda left, right: left / right,
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
}
SPOKEN_OPERATORS = {
    "plus": "+", "minus": "-", "times": "*", "multiplied by": "*", "divided by": "/", "x": "*", "×": "*",
    "÷": "/",
}  # fmt: skip
OPERATOR = r"(?:[-+*/x×÷]|plus|minus|times|multiplied by|divided by)"
SUM = re.compile(rf"(?<![\w.-])-?\d+(?:\.\d+)?(?:\s*{OPERATOR}\s*-?\d+(?:\.\d+)?)+(?![\w-])", re.IGNORECASE)
ASKS_SUM = re.compile(
    r"\b(?:what|what's|whats|calculate|compute|how much|solve|evaluate|result|sum)\b|=|\?", re.IGNORECASE
)
COUNT = re.compile(r"\bcount\b(?:\s+from\s+(\d+))?\s+(?:up\s+)?to\s+(\d+)", re.IGNORECASE)
CAPITAL_OF = re.compile(r"\bcapital (?:city )?of (?:the )?([A-Za-z ]+?)(?=[?.!,]|$)", re.IGNORECASE)
CAPITALS = {
    "france": "Paris", "germany": "Berlin", "italy": "Rome", "spain": "Madrid", "norway": "Oslo",
    "canada": "Ottawa",
    "japan": "Tokyo", "england": "London", "united kingdom": "London", "uk": "London", "austria": "Vienna",
    "united states": "Washington, D.C.", "usa": "Washington, D.C.", "india": "New Delhi", "china": "Beijing",
}  # fmt: skip
GREETING = re.compile(r"^\W*(?:hello|hi|hey|good (?:morning|evening|day))\b[^?]{0,20}$", re.IGNORECASE)
RECALL = re.compile(r"\bwhat(?:'s| is| was)? (?:my|the) ([\w ]+?)(?: (?:did|i|again|that)\b.*)?[?.]?$", re.IGNORECASE)

COUNTED = (
    "age",
    "count",
    "year",
    "number",
    "quantity",
    "amount",
    "total",
    "price",
    "score",
    "rating",
    "population",
)
KEY = re.compile(r"[\"'`“](\w+)[\"'`”]")
# A system prompt that asks for JSON is obeyed like a response_format: models do, mostly.
JSON_ONLY = re.compile(r"\b(?:answer|reply|respond) with (?:one )?JSON(?: object)? only\b", re.IGNORECASE)
# A user's request counts where the system prompt holds the schema: instructor's MD_JSON.
JSON_ASKED = re.compile(r"\breturn\b[^.\n]{0,40}\bJSON\b", re.IGNORECASE)
KEY_LIST = re.compile(
    r"\b(?:keys?|fields?|propert(?:y|ies))\b\s*(?:named|called|are|of)?:?\s*"
    r"((?:\w+(?:,\s*(?:and\s+)?|\s+and\s+))*\w+)",
    re.IGNORECASE,
)
LIST_JOINT = re.compile(r",\s*(?:and\s+)?|\s+and\s+")


def answer(conversation: Conversation) -> str:
    """The text of the answer; never empty."""
    if conversation.wants_json or JSON_ONLY.search(glance(conversation.system)) or _json_asked(conversation):
        return _json(conversation)
    if conversation.results:
        return _results(conversation.results)
    if conversation.documents:
        return _document(conversation)
    return _plain(conversation)


def thinking(conversation: Conversation, calls: Sequence[Call]) -> str:
    """What a reasoning model writes before it answers."""
    topic = salient(glance(conversation.user), 12) or "nothing"
    if calls:
        outcome = f"The tool {calls[0].name} fits, so I will call it."
    elif conversation.results:
        outcome = "A tool has answered, so I will report what it returned."
    else:
        outcome = "I am a rule-based emulator, so I look for the rule that fits and answer with it."
    return f"The user asks about: {topic}. {outcome}"


def _plain(conversation: Conversation) -> str:
    ordered = SYSTEM_ORDER.search(glance(conversation.system))
    if ordered:
        return ordered.group(1)
    if conversation.images:
        return f"{INTRODUCTION} {_pictures(conversation.images)} {_echo(conversation.user)}"
    text = conversation.user if DICTATIONS[0].match(conversation.user) else glance(conversation.user)
    for rule in RULES:
        said = rule(text, conversation.earlier)
        if said:
            return said
    return f"{INTRODUCTION} {_echo(conversation.user)}"


def _echo(text: str) -> str:
    text = text.strip()
    if not text:
        return "You said nothing."
    return f"You said: {text if len(text) <= LONGEST_ECHO else text[:LONGEST_ECHO] + '…'}"


def _dictated(text: str, earlier: Sequence[str]) -> str | None:
    for dictation in DICTATIONS:
        found = dictation.search(text)
        if found:
            said = found["said"].strip()
            if dictation is not DICTATIONS[0]:
                said = AFTERTHOUGHT.sub("", said)
            return said.strip('"“”`') or None
    return None


def _sum(text: str, earlier: Sequence[str]) -> str | None:
    found = SUM.search(text)
    if not found or DATE.search(found.group()):
        return None
    if found.group() != text.strip() and not ASKS_SUM.search(text):
        return None
    parts = re.split(rf"(?<=[\d])\s*({OPERATOR})\s*", found.group().lower())
    numbers = [float(part) for part in parts[::2]]
    operators = [SPOKEN_OPERATORS.get(part, part) for part in parts[1::2]]
    try:
        value = _calculate(numbers, operators)
    except (ZeroDivisionError, OverflowError):
        return None
    return str(int(value)) if value == int(value) else f"{value:.10g}"


def _calculate(numbers: list[float], operators: list[str]) -> float:
    """Products before sums, left to right."""
    for level in ("*/", "+-"):
        place = 0
        while place < len(operators):
            if operators[place] in level:
                value = OPERATORS[operators.pop(place)](numbers[place], numbers.pop(place + 1))
                numbers[place] = value
            else:
                place += 1
    return numbers[0]


def _count(text: str, earlier: Sequence[str]) -> str | None:
    found = COUNT.search(text)
    if not found:
        return None
    first, last = int(found[1] or 1), int(found[2])
    return ", ".join(str(value) for value in range(first, min(last, first + LONGEST_COUNT) + 1)) or None


def _capital(text: str, earlier: Sequence[str]) -> str | None:
    found = CAPITAL_OF.search(text)
    city = CAPITALS.get(found[1].strip().lower()) if found else None
    return f"The capital of {found[1].strip()} is {city}." if found and city else None


def _recalled(text: str, earlier: Sequence[str]) -> str | None:
    """Something told some turns ago: "What is my name?" after "My name is Ada."."""
    asked = RECALL.search(text)
    if not asked:
        return None
    for said in reversed(earlier):
        told = re.search(rf"\b(?:my|the) {re.escape(asked[1])} (?:is )?([\w-]+)", glance(said), re.IGNORECASE)
        if told:
            return f"Your {asked[1]} is {told[1]}."
    return None


def _greeting(text: str, earlier: Sequence[str]) -> str | None:
    return f"Hello! {INTRODUCTION} How can I help?" if GREETING.match(text) else None


# The first that has something to say wins; each is given the last user turn and those before it.
RULES: tuple[Callable[[str, Sequence[str]], str | None], ...] = (
    _dictated, _sum, _count, _capital, _recalled, _greeting,
)  # fmt: skip


def _pictures(images: Sequence[Image]) -> str:
    described = []
    for image in images:
        if not image.format:
            described.append(f"an address ({image.data.decode()})")
        else:
            size = f", {image.width}x{image.height} pixels" if image.width else ""
            described.append(f"{image.format}{size}, {image.size} bytes")
    return f"I received {len(images)} image{'s' if len(images) > 1 else ''}: {'; '.join(described)}."


def _results(results: Sequence[Source]) -> str:
    lines = [source.text.strip()[:LONGEST_RESULT] or "nothing" for source in results]
    if len(lines) == 1:
        return f"The tool returned: {lines[0]}"
    return "The tools returned:\n" + "\n".join(lines)


def _document(conversation: Conversation) -> str:
    """The sentence of the documents that shares most words with the question."""
    asked = words(glance(conversation.user))
    best, score = conversation.documents[0].text, -1.0
    for source in conversation.documents:
        title = words(str(source.told["document"].get("title", "")))
        for sentence in re.split(r"(?<=[.!?])\s+", source.text.strip()):
            found = len(asked & words(sentence)) + 0.5 * len(asked & title)
            if sentence and found > score:
                best, score = sentence, found
    return f"According to the documents: {best}"


def _json_asked(conversation: Conversation) -> bool:
    return bool(JSON_ASKED.search(glance(conversation.user)) and _schema_in(conversation.system)[0])


def _json(conversation: Conversation) -> str:
    schema, user = conversation.schema, conversation.user
    if schema is None:
        # Client libraries write the schema into the prompt; its words are not the caller's.
        schema, user = _schema_in(user)
        schema = schema or _schema_in(conversation.system)[0]
    drawing = Drawing(user)
    if schema is None:
        names = _keys(conversation)
        if not names:
            return _dumps({"answer": _plain(conversation)})
        properties = {name: {"type": "integer" if name.lower() in COUNTED else "string"} for name in names}
        schema = {"type": "object", "properties": properties, "required": names}
        drawing.quotes = [quote for quote in drawing.quotes if quote not in names]
    made = Maker(schema, drawing, sparing=False).make(schema)
    return _dumps(made if isinstance(made, dict) else {"answer": made})


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _keys(conversation: Conversation) -> list[str]:
    """The keys that a prompt asks for, quoted or listed."""
    for text in (glance(conversation.user), glance(conversation.system)):
        quoted = KEY.findall(text)
        if quoted:
            return list(dict.fromkeys(quoted))
        listed = KEY_LIST.search(text)
        if listed:
            return list(dict.fromkeys(LIST_JOINT.split(listed[1])))
    return []


def _schema_in(text: str) -> tuple[dict[str, Any] | None, str]:
    """A JSON Schema that somebody wrote into a text, and the text without it."""
    decoder = json.JSONDecoder()
    for match in islice(re.finditer(r"\{", text), MOST_BRACES):
        try:
            value, end = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and isinstance(value.get("properties"), dict):
            return value, text[: match.start()] + text[end:]
    return None, text
