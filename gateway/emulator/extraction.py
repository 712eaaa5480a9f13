"""Values that a text offers for the fields of a schema: numbers, location names, quoted words, dates, names.

A `ValueExtractor` is asked field by field and gives each number or quotation once. Where it returns MISSING,
`schema_instances.py` makes something up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.emulator.keywords import excerpt
from gateway.emulator.memory import Fact, value_of
from gateway.emulator.patterns import search

MISSING: Final = object()

NUMBER = re.compile(r"(?<![\w.])-?\d{1,18}(?:\.\d{1,18})?(?![\w]|\.\d)")
NUMBER_WORDS = {word: value for value, word in enumerate(
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
     "twelve")
)}  # fmt: skip
QUOTED = re.compile(r'"([^"\n]+)"|“([^“”\n]+)”|\'([^\'\n]+)\'(?!\w)|`([^`\n]+)`')
CAPITALIZED = r"[^\W\d_a-zß-ÿ][\w’'.-]*\w|[A-ZÀ-Þ]\b"
LOCATION_NAME = rf"(?:{CAPITALIZED})(?: (?:(?:of|de|do|da|del|la|el|am|der|upon) )?(?:{CAPITALIZED}))*"
LOCATIONS = re.compile(
    rf"\b(?:in|for|of|at|to|from|near|between)\s+(?:the\s+)?"
    rf"({LOCATION_NAME}(?:(?:,? and |, ?(?:and )?){LOCATION_NAME})*)"
)
PROPER_NAME = re.compile(rf"(?<![.!?] )(?<!^)\b({LOCATION_NAME})")
DATE = re.compile(r"\b\d{4}-\d{2}-\d{2}\b")
EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}+@[\w-]++\.[\w.-]*\w")
LINK = re.compile(r"https?://[^\s\"'<>]+[^\s\"'<>.,;!?)]")
REGION = re.compile(r"[A-Z]{2}")
# The lookbehind begins once in a run of spaces, not at each of them.
LIST_SEPARATOR = re.compile(r",\s*(?:and\s+)?|(?<!\s)\s+and\s+")
SHAPES = {"date": DATE, "email": EMAIL, "uri": LINK, "url": LINK}

# Words in the name of a field that say what kind of text it takes
LOCATION_WORDS = ("city", "location", "place", "country", "town", "destination", "origin", "state", "region",
               "address", "capital", "where")  # fmt: skip
PERSON_WORDS = ("name", "person", "user", "author", "recipient", "customer", "who", "contact")
TEXT_WORDS = ("query", "question", "prompt", "text", "input", "search", "topic", "message", "summary",
              "description", "content", "body", "q", "request", "answer", "task", "statement",
              "sentence", "response")  # fmt: skip
PERSON = re.compile(
    r"\b(?:named|called|name is|i am|i'm|is named|mr\.?|mrs\.?|ms\.?|dr\.?)\s+"
    r"([A-ZÀ-Þ][\w'-]+(?: [A-ZÀ-Þ][\w'-]+)?)",
    re.IGNORECASE,
)
NOT_NAMES = ("I", "JSON", "XML", "HTML", "CSV", "YAML", "SQL", "URL", "API")


class ValueExtractor:
    """Gives the values of one text, in their order."""

    def __init__(self, text: str, facts: str = "", memory: Sequence[Fact] = ()) -> None:
        text = excerpt(text)
        self.text = text
        self.facts = facts  # what tools returned, for the free-text fields of a final answer
        self.memory = memory  # what earlier turns have said, for fields of that name
        self.numbers = _find_numbers(text)
        self.quotes = [next(group for group in match.groups() if group) for match in QUOTED.finditer(text)]
        self.locations = find_locations(text)
        self.unused_locations = list(self.locations)

    def limit_locations(self, location: str) -> None:
        """Gives this location and no other."""
        self.locations = [location]
        self.unused_locations = [location]

    def extract(self, name: str, schema: Mapping[str, Any]) -> Any:
        """Returns a value for the field of that name, or MISSING."""
        if "enum" in schema:
            return self._enum(schema["enum"])
        kind = schema.get("type")
        if kind in ("integer", "int", "number", "float"):
            return self._number(name, kind in ("integer", "int"), schema)
        if kind in ("boolean", "bool"):
            return self._boolean(name)
        if kind in ("string", "str"):
            return self._string(name, schema)
        if kind == "array":
            return self._array(schema.get("items"))
        return MISSING

    def _enum(self, choices: list[Any]) -> Any:
        lowered = self.text.lower()
        for choice in choices:
            if isinstance(choice, str) and re.search(rf"(?<!\w){re.escape(choice.lower())}(?!\w)", lowered):
                return choice
        return next((choice for choice in choices if choice in self.numbers), MISSING)

    def _number(self, name: str, whole: bool, schema: Mapping[str, Any]) -> Any:
        labelled = self._labelled(name, r"(-?\d{1,18}(?:\.\d{1,18})?)\b")
        if not labelled and not self.numbers:
            labelled = next(iter(NUMBER.findall(value_of(name, self.memory) or "")), "")
        values = [_to_number(labelled)] if labelled else self.numbers
        for value in list(values):
            if (whole and isinstance(value, float)) or not in_range(value, schema):
                continue
            if value in self.numbers:
                self.numbers.remove(value)
            return value
        return MISSING

    def _boolean(self, name: str) -> Any:
        labelled = self._labelled(name, r"(true|false|yes|no|on|off)")
        return labelled.lower() in ("true", "yes", "on") if labelled else MISSING

    def _string(self, name: str, schema: Mapping[str, Any]) -> Any:
        if "pattern" in schema:
            return search(schema["pattern"], self.text) or MISSING
        shape = SHAPES.get(schema.get("format") or _shape(name))
        if shape is not None:
            match = shape.search(self.text)
            return match.group() if match else MISSING
        if schema.get("format"):
            return MISSING
        labelled = self._labelled(name, r"[\"'“]?([\w][\w.@/-]*)[\"'”]?", strict=True)
        if labelled:
            return labelled
        text = self._free_text(_kind_of_text(name))
        fact = value_of(name, self.memory) if text is MISSING or text == self.text.strip() else None
        return fact or text

    def _free_text(self, kind: str) -> Any:
        if kind == "location":
            return self._next_location()
        if self.quotes:
            return self.quotes.pop(0)
        if kind == "person":
            person = PERSON.search(self.text)
            if person:
                return person.group(1)
            return next(iter(proper_names(self.text)), MISSING)
        if kind == "text":
            return (self.facts or self.text).strip() or MISSING
        return self._next_location()

    def _next_location(self) -> Any:
        return self.unused_locations.pop(0) if self.unused_locations else MISSING

    def _array(self, items: Any) -> Any:
        kind = items.get("type") if isinstance(items, dict) else None
        if isinstance(items, dict) and "enum" in items:
            value = self._enum(items["enum"])
            return MISSING if value is MISSING else [value]
        if kind in ("integer", "number"):
            numbers = [value for value in self.numbers if kind == "number" or isinstance(value, int)]
            self.numbers = []
            return numbers or MISSING
        if kind == "string":
            texts = self.quotes or self.locations
            self.quotes = []
            return list(texts) or MISSING
        return MISSING

    def _labelled(self, name: str, value: str, strict: bool = False) -> str:
        """Returns the value of `name=value` or `name: value`; if not strict, of `name of 3` or `name 3` too."""
        label = re.escape(name).replace("_", "[ _]")
        separator = r"\s*[=:]\s*" if strict else r"\s*+(?:[=:]|is|of)?\s*"
        match = re.search(rf"\b{label}{separator}{value}", self.text, re.IGNORECASE)
        return match.group(1) if match else ""


def find_locations(text: str) -> list[str]:
    """Returns the capitalized names after in, for, of ...; names joined by "and" are several locations."""
    locations: list[str] = []
    for match in LOCATIONS.finditer(text):
        names = match.group(1)
        if not re.search(r"\band\b", names):
            locations.append(names)
            continue
        for part in LIST_SEPARATOR.split(names):
            if locations and REGION.fullmatch(part):
                locations[-1] += f", {part}"  # "San Francisco, CA and Oslo" are two locations
            elif part:
                locations.append(part)
    return list(dict.fromkeys(locations or proper_names(text)))


def proper_names(text: str) -> list[str]:
    """Returns the capitalized names in the middle of sentences."""
    names = PROPER_NAME.findall(text)
    return [name for name in names if name not in NOT_NAMES and not name.startswith(("I'", "I’"))]


def _find_numbers(text: str) -> list[int | float]:
    """Returns the numbers outside dates, or the number words of a text that has none."""
    numbers: list[int | float] = []
    for match in NUMBER.finditer(DATE.sub(" ", text)):
        digits = match.group()
        if digits.startswith("-"):
            before = text[: match.start()].rstrip()[-1:]
            if before == ")" or before.isdecimal():
                digits = digits[1:]  # "5 -3" is a subtraction
        numbers.append(_to_number(digits))
    return numbers or [NUMBER_WORDS[word] for word in re.findall(r"[a-z]+", text.lower()) if word in NUMBER_WORDS]


def _to_number(digits: str) -> int | float:
    return float(digits) if "." in digits else int(digits)


def _kind_of_text(name: str) -> str:
    """Returns `location`, `person`, `text` or an empty string for the name of a field."""
    words = re.findall(r"[a-z]+", re.sub(r"([A-Z])", r"_\1", name).lower())
    for kind, vocabulary in (("location", LOCATION_WORDS), ("person", PERSON_WORDS), ("text", TEXT_WORDS)):
        if any(word in vocabulary for word in words):
            return kind
    return ""


def _shape(name: str) -> str:
    """Returns the key of SHAPES that the name of a field ends with, or an empty string."""
    last = name.lower().split("_")[-1]
    return last if last in SHAPES else ""


def in_range(value: float, schema: Mapping[str, Any]) -> bool:
    """Returns whether a number obeys the schema's limits and its `multipleOf`."""
    step = schema.get("multipleOf")
    return bool(
        schema.get("minimum", value) <= value <= schema.get("maximum", value)
        and schema.get("exclusiveMinimum", -math.inf) < value < schema.get("exclusiveMaximum", math.inf)
        and (not step or math.isclose(value / step, round(value / step), abs_tol=1e-9))
    )
