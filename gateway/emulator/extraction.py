"""Values that a text offers for the fields of a schema: numbers in order, places, quoted words, dates, names.

`Drawing` is asked field by field and hands each number or quotation out once. When it has nothing that fits
it says MISSING, and `schema_instances.py` makes something up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

MISSING: Final = object()

GLANCE = 3_000

NUMBER = re.compile(r"(?<![\w.])-?\d{1,18}(?:\.\d{1,18})?(?![\w]|\.\d)")
SPELLED = {word: value for value, word in enumerate(
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
     "twelve")
)}  # fmt: skip
QUOTED = re.compile(r'"([^"\n]+)"|“([^”\n]+)”|\'([^\'\n]+)\'(?!\w)|`([^`\n]+)`')
CAPITAL = r"[^\W\d_a-zß-ÿ][\w’'.-]*\w|[A-ZÀ-Þ]\b"
PLACE_NAME = rf"(?:{CAPITAL})(?: (?:(?:of|de|do|da|del|la|el|am|der|upon) )?(?:{CAPITAL}))*"
PLACES = re.compile(
    rf"\b(?:in|for|of|at|to|from|near|between)\s+(?:the\s+)?"
    rf"({PLACE_NAME}(?:(?:,? and |, ?(?:and )?){PLACE_NAME})*)"
)
PROPER = re.compile(rf"(?<![.!?] )(?<!^)\b({PLACE_NAME})")
DATE = re.compile(r"\b\d{4}-\d{2}-\d{2}\b")
EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]+\.[\w.-]*\w")
LINK = re.compile(r"https?://[^\s\"'<>]+[^\s\"'<>.,;!?)]")
REGION = re.compile(r"[A-Z]{2}")

PLACE_HINTS = ("city", "location", "place", "country", "town", "destination", "origin", "state", "region",
               "address",               "capital", "where")  # fmt: skip
NAME_HINTS = ("name", "person", "user", "author", "recipient", "customer", "who", "contact")
TEXT_HINTS = ("query", "question", "prompt", "text", "input", "search", "topic", "message", "summary",
              "description", "content", "body", "q", "request", "answer", "task", "statement",
              "sentence", "response")  # fmt: skip
NAMED = re.compile(
    r"\b(?:named|called|name is|i am|i'm|is named|mr\.?|mrs\.?|ms\.?|dr\.?)\s+"
    r"([A-ZÀ-Þ][\w'-]+(?: [A-ZÀ-Þ][\w'-]+)?)",
    re.IGNORECASE,
)
NO_NAMES = ("I", "JSON", "XML", "HTML", "CSV", "YAML", "SQL", "URL", "API")
STOPWORDS = frozenset(
    "a an and any are as at be by can could do does for from get give has have how i in into is it"
    " its me my of on or please set show so some tell that the their them then there these this those"
    " to use using was we what whats when where which who will with would you your s t d ll re about"
    " should use tool tools function call need want find out let us make just also not no yes".split()
)


class Drawing:
    """The values of one text, handed out in order."""

    def __init__(self, text: str, facts: str = "") -> None:
        text = glance(text)
        self.text = text
        self.facts = facts  # what tools returned: fills the free-text fields of a final answer
        self.numbers = _numbers(text)
        self.quotes = [next(group for group in match.groups() if group) for match in QUOTED.finditer(text)]
        self.places = places(text)
        self.spare = dict.fromkeys(self.places, True)

    def draw(self, name: str, schema: Mapping[str, Any]) -> Any:
        """A value for one field, or MISSING."""
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
            return self._array(name, schema.get("items"))
        return MISSING

    def _enum(self, choices: list[Any]) -> Any:
        lowered = self.text.lower()
        for choice in choices:
            if isinstance(choice, str) and re.search(rf"(?<!\w){re.escape(choice.lower())}(?!\w)", lowered):
                return choice
        return next((choice for choice in choices if choice in self.numbers), MISSING)

    def _number(self, name: str, whole: bool, schema: Mapping[str, Any]) -> Any:
        said = self._said(name, r"(-?\d{1,18}(?:\.\d{1,18})?)\b")
        values = [float(said) if "." in said else int(said)] if said else self.numbers
        for value in list(values):
            if (whole and isinstance(value, float)) or not within(value, schema):
                continue
            if value in self.numbers:
                self.numbers.remove(value)
            return value
        return MISSING

    def _boolean(self, name: str) -> Any:
        said = self._said(name, r"(true|false|yes|no|on|off)")
        return said.lower() in ("true", "yes", "on") if said else MISSING

    def _string(self, name: str, schema: Mapping[str, Any]) -> Any:
        if "pattern" in schema:
            found = re.search(schema["pattern"], self.text) if _compiles(schema["pattern"]) else None
            return found.group() if found and found.group() else MISSING
        shaped = {"date": DATE, "email": EMAIL, "uri": LINK, "url": LINK}.get(schema.get("format") or _shape(name))
        if shaped is not None:
            found = shaped.search(self.text)
            return found.group() if found else MISSING
        if schema.get("format"):
            return MISSING
        said = self._said(name, r"[\"'“]?([\w][\w.@/-]*)[\"'”]?", strict=True)
        return said if said else self._words(_hint(name))

    def _words(self, hint: str) -> Any:
        if hint == "place":
            return self._next_place()
        if self.quotes:
            return self.quotes.pop(0)
        if hint == "name":
            named = NAMED.search(self.text)
            if named:
                return named.group(1)
            return next(iter(proper(self.text)), MISSING)
        if hint == "text":
            return (self.facts or self.text).strip() or MISSING
        return self._next_place()

    def _next_place(self) -> Any:
        for place, unused in self.spare.items():
            if unused:
                self.spare[place] = False
                return place
        return MISSING

    def _array(self, name: str, items: Any) -> Any:
        kind = items.get("type") if isinstance(items, dict) else None
        if isinstance(items, dict) and "enum" in items:
            value = self._enum(items["enum"])
            return MISSING if value is MISSING else [value]
        if kind in ("integer", "number"):
            taken = [value for value in self.numbers if kind == "number" or isinstance(value, int)]
            self.numbers = []
            return taken or MISSING
        if kind == "string":
            taken_words = self.quotes or self.places
            self.quotes = []
            return list(taken_words) or MISSING
        return MISSING

    def _said(self, name: str, value: str, strict: bool = False) -> str:
        """`name=value`, `name: value`, and for numbers `name of 3` or `name 3`."""
        spoken = re.escape(name).replace("_", "[ _]")
        joint = r"\s*[=:]\s*" if strict else r"\s*(?:[=:]|is|of)?\s*"
        found = re.search(rf"\b{spoken}{joint}{value}", self.text, re.IGNORECASE)
        return found.group(1) if found else ""


def glance(text: str) -> str:
    """As much of a text as the rules look at: its beginning and its end. Some patterns are quadratic."""
    return text if len(text) <= 2 * GLANCE else f"{text[:GLANCE]}\n{text[-GLANCE:]}"


def places(text: str) -> list[str]:
    """Capitalised names after in, for, of ...; several only when they are joined by "and"."""
    found: list[str] = []
    for match in PLACES.finditer(text):
        named = match.group(1)
        if not re.search(r"\band\b", named):
            found.append(named)
            continue
        parts = [part for part in re.split(r",\s*(?:and\s+)?|\s+and\s+", named) if part]
        for part in parts:
            if found and REGION.fullmatch(part):
                found[-1] += f", {part}"  # "San Francisco, CA and Oslo" are two places
            else:
                found.append(part)
    if not found:
        found = proper(text)
    return list(dict.fromkeys(found))


def proper(text: str) -> list[str]:
    """Capitalised names in the middle of sentences."""
    return [name for name in PROPER.findall(text) if name not in NO_NAMES and not name.startswith(("I'", "I’"))]


def salient(text: str, most: int = 6) -> str:
    """The words that carry a text."""
    words = [word for word in re.findall(r"[\w'-]+", text) if word.lower() not in STOPWORDS]
    return " ".join(words[:most]) or text.strip()[:60]


def _numbers(text: str) -> list[int | float]:
    found: list[int | float] = []
    for match in NUMBER.finditer(DATE.sub(" ", text)):
        said = match.group()
        if said.startswith("-") and re.search(r"[\d)]\s*$", text[: match.start()]):
            said = said[1:]  # "5 -3" is a subtraction
        found.append(float(said) if "." in said else int(said))
    return found or [SPELLED[word] for word in re.findall(r"[a-z]+", text.lower()) if word in SPELLED]


def _hint(name: str) -> str:
    words = re.findall(r"[a-z]+", re.sub(r"([A-Z])", r"_\1", name).lower())
    for hint, known in (("place", PLACE_HINTS), ("name", NAME_HINTS), ("text", TEXT_HINTS)):
        if any(word in known for word in words):
            return hint
    return ""


def _shape(name: str) -> str:
    lowered = name.lower()
    return next((shape for shape in ("email", "date", "url", "uri") if lowered.split("_")[-1] == shape), "")


def within(value: float, schema: Mapping[str, Any]) -> bool:
    """Whether a number keeps to all four limits and the step."""
    step = schema.get("multipleOf")
    return bool(
        schema.get("minimum", value) <= value <= schema.get("maximum", value)
        and schema.get("exclusiveMinimum", -math.inf) < value < schema.get("exclusiveMaximum", math.inf)
        and (not step or math.isclose(value / step, round(value / step), abs_tol=1e-9))
    )


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True
