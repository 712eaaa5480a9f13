"""The text of a response, plain or JSON: a list of rules, of which the first that fits decides.

A text that no rule makes says that it comes from an emulator, not from a model. Tool calls are `tool_selection.py`,
citations `citations.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from gateway.emulator import memory
from gateway.emulator.conversation import Conversation, Source
from gateway.emulator.extraction import DATE, LIST_SEPARATOR, ValueExtractor
from gateway.emulator.images import Image
from gateway.emulator.keywords import content_words, excerpt, keywords
from gateway.emulator.memory import find_facts
from gateway.emulator.schema_instances import InstanceBuilder, break_instance
from gateway.emulator.tool_selection import ToolCall

INTRODUCTION = "This is the Cohere emulator (rule-based, not a model)."
MAX_ECHO = 600  # characters
MAX_RESULT = 4_000  # characters of one tool result
MAX_COUNT = 1_000
MAX_SCHEMA_CANDIDATES = 200  # opening braces in a prompt

VERB = r"\b(?:reply|respond|answer|output|repeat|say|print|echo|write|return)\b"
FILLER = (
    r"(?:(?:with|exactly|only|just|this|these|the|following|one|single|word|words|text|sentence|sequence|string|phrase"
    r"|and|nothing|else|after|me|back|verbatim|precisely|to|a|message|literally|letters?)\b,?\s*)*"
)
# "Reply with exactly: ...". Only the first takes everything to the end of the prompt.
EXACT_REPLY = re.compile(rf"{VERB}\s*{FILLER}:\s*(?P<reply>.+)", re.IGNORECASE | re.DOTALL)
REQUESTED_REPLIES = (
    EXACT_REPLY,
    re.compile(rf"{VERB}\s+{FILLER}[\"“`](?P<reply>[^\"“”`]+)[\"”`]", re.IGNORECASE),
    re.compile(rf"{VERB}\s+{FILLER}'(?P<reply>[^']+)'", re.IGNORECASE),
    re.compile(
        rf"\b(?:reply|respond|answer)\s+with\s+(?:exactly|only|just|(?:the|a|one)\s+(?:single\s+)?word)\s+{FILLER}"
        r"(?P<reply>[^\n]+)",
        re.IGNORECASE,
    ),
    re.compile(
        rf"(?:^|[.!?,:]\s+|\bplease\s+|\bjust\s+|\byou\s+)(?:say|repeat|echo)\s+{FILLER}"
        r"(?!something|anything|what|how|why|that|if|more|it\b)(?P<reply>[^\n]+)",
        re.IGNORECASE,
    ),
)
TRAILING_QUALIFIER = re.compile(
    r"(?:(?:,|(?<!\s))\s+(?:in (?:one|a single|two|three) words?|and nothing else|and stop|please|exactly|only"
    r"|once)\b.*"
    r"|(?<![.!])[.!]+)$",
    re.IGNORECASE | re.DOTALL,
)
SYSTEM_REPLY = re.compile(
    r"\b(?:always|only) (?:answer|reply|respond|say)(?: with)?:? [\"'“`]([^\"'“”`]+)[\"'”`]", re.IGNORECASE
)

OPERATORS: dict[str, Callable[[float, float], float]] = {
    "*": lambda left, right: left * right,
    "/": lambda left, right: left / right,
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
}
OPERATOR_WORDS = {
    "plus": "+", "minus": "-", "times": "*", "multiplied by": "*", "divided by": "/", "x": "*", "×": "*",
    "÷": "/",
}  # fmt: skip
OPERATOR = r"(?:[-+*/x×÷]|plus|minus|times|multiplied by|divided by)"
ARITHMETIC = re.compile(rf"(?<![\w.-])-?\d+(?:\.\d+)?(?:\s*{OPERATOR}\s*-?\d+(?:\.\d+)?)+(?![\w-])", re.IGNORECASE)
ARITHMETIC_QUESTION = re.compile(
    r"\b(?:what|what's|whats|calculate|compute|how much|solve|evaluate|result|sum)\b|=|\?", re.IGNORECASE
)
COUNT = re.compile(r"\bcount\b(?:\s+from\s+(\d+))?\s+(?:up\s+)?to\s+(\d+)", re.IGNORECASE)
CAPITAL_OF = re.compile(r"\bcapital (?:city )?of (?:the )?([A-Za-z ]{1,60}?)(?=[?.!,]|$)", re.IGNORECASE)
CAPITALS = {
    "france": "Paris", "germany": "Berlin", "italy": "Rome", "spain": "Madrid", "norway": "Oslo",
    "canada": "Ottawa",
    "japan": "Tokyo", "england": "London", "united kingdom": "London", "uk": "London", "austria": "Vienna",
    "united states": "Washington, D.C.", "usa": "Washington, D.C.", "india": "New Delhi", "china": "Beijing",
}  # fmt: skip
GREETING = re.compile(r"^\W*(?:hello|hi|hey|good (?:morning|evening|day))\b[^?]{0,20}$", re.IGNORECASE)

# Keys of JSON whose values are integers
INTEGER_KEYS = (
    "age", "count", "year", "number", "quantity", "amount", "total", "price", "score", "rating", "population",
)  # fmt: skip
QUOTED_KEY = re.compile(r"[\"'`“](\w+)[\"'`”]")
# A system prompt that demands JSON counts as a response_format, because models mostly obey it.
JSON_ONLY = re.compile(r"\b(?:answer|reply|respond) with (?:one )?JSON(?: object)? only\b", re.IGNORECASE)
# The user's demand counts if the system prompt has the schema: instructor's MD_JSON mode.
RETURN_JSON = re.compile(r"\breturn\b[^.\n]{0,40}\bJSON\b", re.IGNORECASE)
KEY_LIST = re.compile(
    r"\b(?:keys?|fields?|propert(?:y|ies))\b\s*+(?:named|called|are|of)?:?\s*"
    r"((?:\w+(?:,\s*(?:and\s+)?|\s+and\s+))*\w+)",
    re.IGNORECASE,
)
# What stands before a schema without properties, and the keywords of which it has one
SCHEMA_LABEL = re.compile(r"\bschema\b\W*$", re.IGNORECASE)
SCHEMA_KEYWORDS = ("type", "anyOf", "oneOf", "allOf", "enum", "const", "$ref", "items")


def write_text(conversation: Conversation) -> str:
    """Returns the text of the response; never an empty one."""
    if conversation.wants_json or JSON_ONLY.search(excerpt(conversation.system)) or _user_wants_json(conversation):
        return _write_json(conversation)
    if conversation.results:
        return _report_results(conversation.results)
    if conversation.documents:
        return _quote_document(conversation)
    return _write_plain(conversation)


def write_thinking(conversation: Conversation, calls: Sequence[ToolCall]) -> str:
    """Returns what a reasoning model writes before its response."""
    topic = keywords(excerpt(conversation.user), 12) or "nothing"
    if calls:
        conclusion = f"The tool {calls[0].name} fits, so I will call it."
    elif conversation.results:
        conclusion = "A tool has answered, so I will report what it returned."
    else:
        conclusion = "I am a rule-based emulator, so I look for the rule that fits and answer with it."
    return f"The user asks about: {topic}. {conclusion}"


def _write_plain(conversation: Conversation) -> str:
    system_reply = SYSTEM_REPLY.search(excerpt(conversation.system))
    if system_reply:
        return system_reply.group(1)
    if conversation.images:
        return f"{INTRODUCTION} {_describe_images(conversation.images)} {_echo(conversation.user)}"
    exact = EXACT_REPLY.match(conversation.user)
    text = conversation.user if exact else excerpt(conversation.user)
    # A question about an earlier turn comes first: "Reply with only the name." is no reply to repeat.
    reply = None if exact else _recall(text, conversation)
    for rule in () if reply else RULES:
        reply = reply or rule(text)
    if reply:
        return reply
    return f"{INTRODUCTION} {_echo(conversation.user)}"


def _echo(text: str) -> str:
    text = text.strip()
    if not text:
        return "You said nothing."
    return f"You said: {text if len(text) <= MAX_ECHO else text[:MAX_ECHO] + '…'}"


def _requested_reply(text: str) -> str | None:
    """Returns the reply of "Reply with exactly: ..." and its variants."""
    for pattern in REQUESTED_REPLIES:
        match = pattern.search(text)
        if match:
            reply = match["reply"].strip()
            if pattern is not EXACT_REPLY:
                reply = TRAILING_QUALIFIER.sub("", reply)
            return reply.strip('"“”`') or None
    return None


def _arithmetic(text: str) -> str | None:
    """Returns the result of the first expression in a text that asks for one."""
    match = ARITHMETIC.search(text)
    if not match or DATE.search(match.group()):
        return None
    if match.group() != text.strip() and not ARITHMETIC_QUESTION.search(text):
        return None
    parts = re.split(rf"(?<=[\d])\s*({OPERATOR})\s*", match.group().lower())
    numbers = [float(part) for part in parts[::2]]
    operators = [OPERATOR_WORDS.get(part, part) for part in parts[1::2]]
    try:
        value = _calculate(numbers, operators)
    except (ZeroDivisionError, OverflowError):
        return None
    return str(int(value)) if value == int(value) else f"{value:.10g}"


def _calculate(numbers: list[float], operators: list[str]) -> float:
    """Returns the value of an expression: products before sums, left to right."""
    for level in ("*/", "+-"):
        index = 0
        while index < len(operators):
            if operators[index] in level:
                value = OPERATORS[operators.pop(index)](numbers[index], numbers.pop(index + 1))
                numbers[index] = value
            else:
                index += 1
    return numbers[0]


def _count(text: str) -> str | None:
    """Returns the numbers that "count to ..." asks for."""
    match = COUNT.search(text)
    if not match:
        return None
    first, last = int(match[1] or 1), int(match[2])
    return ", ".join(str(value) for value in range(first, min(last, first + MAX_COUNT) + 1)) or None


def _capital(text: str) -> str | None:
    """Returns the capital of a country."""
    match = CAPITAL_OF.search(text)
    city = CAPITALS.get(match[1].strip().lower()) if match else None
    return f"The capital of {match[1].strip()} is {city}." if match and city else None


def _recall(text: str, conversation: Conversation) -> str | None:
    """Returns what an earlier turn said: "What is my name?" after "My name is Ada."."""
    if conversation.earlier and memory.LAST_TURN.search(text):
        return f"You said: {conversation.earlier[-1].strip()[:MAX_ECHO]}"
    answer = memory.answer(text, conversation.statements)
    if answer is None:
        return None
    return answer.value if memory.wants_bare_value(text) else answer.sentence


def _greet(text: str) -> str | None:
    return f"Hello! {INTRODUCTION} How can I help?" if GREETING.match(text) else None


# Each takes the last user turn. The first that returns a text decides.
RULES: tuple[Callable[[str], str | None], ...] = (_requested_reply, _arithmetic, _count, _capital, _greet)


def _describe_images(images: Sequence[Image]) -> str:
    descriptions = []
    for image in images:
        if not image.format:
            descriptions.append(f"an address ({image.data.decode()})")
        else:
            size = f", {image.width}x{image.height} pixels" if image.width else ""
            descriptions.append(f"{image.format}{size}, {image.size} bytes")
    return f"I received {len(images)} image{'s' if len(images) > 1 else ''}: {'; '.join(descriptions)}."


def _report_results(results: Sequence[Source]) -> str:
    texts = [source.text.strip()[:MAX_RESULT] or "nothing" for source in results]
    if len(texts) == 1:
        return f"The tool returned: {texts[0]}"
    return "The tools returned:\n" + "\n".join(texts)


def _quote_document(conversation: Conversation) -> str:
    """Returns the sentence of the documents that shares most words with the question."""
    question = content_words(excerpt(conversation.user))
    best, best_score = conversation.documents[0].text, -1.0
    for source in conversation.documents:
        title = content_words(str(source.reference["document"].get("title", "")))
        for sentence in re.split(r"(?<=[.!?])\s+", source.text.strip()):
            score = len(question & content_words(sentence)) + 0.5 * len(question & title)
            if sentence and score > best_score:
                best, best_score = sentence, score
    return f"According to the documents: {best}"


def _user_wants_json(conversation: Conversation) -> bool:
    return bool(RETURN_JSON.search(excerpt(conversation.user)) and _extract_schema(conversation.system)[0])


def _write_json(conversation: Conversation) -> str:
    """Returns an object that fits the schema of the request or of the prompt, or has the keys that it names."""
    if conversation.disobedience == "prose_for_json":
        return f"{INTRODUCTION} {_echo(conversation.user)}"
    # Client libraries write the schema into the prompt, so its words are not the user's.
    prompt_schema, user = _extract_schema(conversation.user)
    prompt_schema = prompt_schema or _extract_schema(conversation.system)[0]
    facts = conversation.results[-1].text if conversation.results else ""
    extractor = ValueExtractor(user, facts, find_facts(conversation.statements))
    schema = conversation.schema
    if schema is None:
        schema = prompt_schema
    elif prompt_schema is not None:
        # The request's schema binds the model, and the prompt's says what the request's cannot: bounds and lengths.
        schema = _refine(schema, prompt_schema)
    if schema is None:
        names = _requested_keys(conversation)
        if not names:
            return _dump({"answer": _write_plain(conversation)})
        properties = {name: {"type": "integer" if name.lower() in INTEGER_KEYS else "string"} for name in names}
        schema = {"type": "object", "properties": properties, "required": names}
        extractor.quotes = [quote for quote in extractor.quotes if quote not in names]
    instance = InstanceBuilder(schema, extractor, omit_optional=False).build(schema)
    if conversation.disobedience == "broken_schema":
        instance = break_instance(instance, schema)
    return _dump(instance if isinstance(instance, dict) else {"answer": instance})


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _requested_keys(conversation: Conversation) -> list[str]:
    """Returns the keys that the user or the system prompt asks for, quoted or listed."""
    for text in (excerpt(conversation.user), excerpt(conversation.system)):
        quoted = QUOTED_KEY.findall(text)
        if quoted:
            return list(dict.fromkeys(quoted))
        key_list = KEY_LIST.search(text)
        if key_list:
            return list(dict.fromkeys(LIST_SEPARATOR.split(key_list[1])))
    return []


def _extract_schema(text: str) -> tuple[dict[str, Any] | None, str]:
    """Returns the first JSON Schema in a text, and the text without it."""
    decoder = json.JSONDecoder()
    for match in islice(re.finditer(r"\{", text), MAX_SCHEMA_CANDIDATES):
        try:
            value, end = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and _is_schema(value, text[: match.start()]):
            return value, text[: match.start()] + text[end:]
    return None, text


def _is_schema(value: dict[str, Any], before: str) -> bool:
    """Returns whether an object in a text is a JSON Schema. Without properties it has to be called one."""
    if isinstance(value.get("properties"), dict):
        return True
    return bool(SCHEMA_LABEL.search(before[-40:])) and any(keyword in value for keyword in SCHEMA_KEYWORDS)


def _refine(schema: dict[str, Any], prompt_schema: dict[str, Any]) -> dict[str, Any]:
    """Returns the prompt's schema, inside an object if the request's has an object around it.

    A schema of the prompt that is about something else is ignored.
    """
    properties = schema.get("properties") or {}
    if set(properties) == set(prompt_schema.get("properties") or {}):
        return prompt_schema
    if len(properties) == 1 and "properties" not in prompt_schema:
        # What is referred to stands at the top of the prompt's schema, so its references are moved along.
        name = next(iter(properties))
        definitions: dict[str, Any] = {
            key: prompt_schema[key] for key in ("$defs", "definitions") if key in prompt_schema
        }
        return {"type": "object", "properties": {name: prompt_schema}, "required": [name], **definitions}
    return schema
