"""Finds contradictions between the keywords of one JSON Schema, or of several that must hold together.

A function that finds that no value is left raises `Contradiction`. `satisfiability.py` decides which schemas are looked
at together. Everything here errs on one side: a schema is only called contradictory if that is certain.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from msgspec import Struct

from translators.request.check_budget import spend
from translators.request.patterns import lengths, may_match
from translators.request.schema_validation import may_be_instance

MOST_VALUES = 1_000
"""Values of an `enum` that are checked; a longer one is skipped."""

MOST_PATTERNS = 4
"""Regular expressions that one value or one name is matched against: matching is what costs most here."""

_TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})


class Part(Struct, frozen=True):
    """A schema that must hold, and its path in the whole (`#/properties/a`)."""

    schema: Mapping[str, Any]
    path: str


class Contradiction(Exception):
    """No value satisfies some keyword. The message goes to the caller."""


def common_types(parts: Sequence[Part]) -> frozenset[str]:
    """Returns the types that all parts allow; empty where none is named. Raises Contradiction where none is left."""
    types: frozenset[str] | None = None
    for part in parts:
        kind = part.schema.get("type")
        if not isinstance(kind, str | list):
            continue
        allowed = frozenset([kind] if isinstance(kind, str) else [one for one in kind if isinstance(one, str)])
        # An unknown type is the schema check's to report.
        if not allowed <= _TYPES:
            return frozenset()
        # Every integer is a number, so parts with one type each may still have integers in common.
        if "number" in allowed:
            allowed |= {"integer"}
        types = allowed if types is None else types & allowed
        types -= _excluded_types(part.schema)
        if not types:
            raise Contradiction(f"'type' at {part.path} allows no value that the rest allows")
    return types or frozenset()


def _excluded_types(schema: Mapping[str, Any]) -> frozenset[str]:
    """Returns the types of which `not` excludes every value."""
    excluded = schema.get("not")
    # Types alone: any other keyword may leave some values of a type.
    if not isinstance(excluded, dict) or not excluded.keys() <= {"type", "title", "description"}:
        return frozenset()
    kind = excluded.get("type")
    names = frozenset(
        [kind] if isinstance(kind, str) else [one for one in schema_list(excluded, "type") if isinstance(one, str)]
    )
    return names | {"integer"} if "number" in names else names


def check_values(parts: Sequence[Part], types: frozenset[str], definitions: Mapping[str, Any]) -> None:
    """Raises Contradiction if no value of an `enum` or `const` satisfies the keywords beside it.

    types: of `common_types`. definitions: `$defs` and `definitions` of the whole schema.
    """
    values: list[Any] | None = None
    for part in parts:
        for keyword, listed in (("enum", part.schema.get("enum")), ("const", [part.schema.get("const")])):
            if keyword not in part.schema or not isinstance(listed, list) or len(listed) > MOST_VALUES:
                continue
            keys = {_key(one) for one in listed}
            values = listed if values is None else [one for one in values if _key(one) in keys]
            if not any(_fits(one, types, parts, definitions) for one in values):
                raise Contradiction(f"'{keyword}' at {part.path} has no value that the rest allows")


def _key(value: Any) -> Any:
    """Returns a key that is equal for equal JSON values. In JSON, unlike in Python, true is not 1; 1.0 is 1."""
    return (isinstance(value, bool), repr(float(value)) if is_number(value) else repr(value))


_ELSEWHERE = frozenset("$ref allOf $defs definitions enum const pattern".split())
"""Keywords that are checked elsewhere: as parts of their own, or before the values."""
_IGNORED = frozenset("title description default examples format unevaluatedProperties unevaluatedItems".split())
"""Keywords that allow any value, or depend on other parts."""


def _other_keywords(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keywords that a value of an `enum` still has to satisfy, empty if there is only its type."""
    rest = {key: one for key, one in schema.items() if key not in _ELSEWHERE and key not in _IGNORED}
    return rest if rest.keys() != {"type"} else {}


def may_be(schema: Any, value: Any, definitions: Mapping[str, Any]) -> bool:
    """Returns whether a value satisfies a schema; True where that cannot be decided."""
    if not isinstance(schema, dict) or not schema:
        return schema is not False
    return _has_other_references(schema) or may_be_instance({**schema, **definitions}, value)


def _has_other_references(value: Any) -> bool:
    """Returns whether a schema has a reference to anything but the definitions."""
    spend(1)
    if isinstance(value, dict):
        reference = value.get("$ref")
        if "$dynamicRef" in value or "$id" in value:
            return True
        if isinstance(reference, str) and not reference.startswith(("#/$defs/", "#/definitions/")):
            return True
        return any(map(_has_other_references, value.values()))
    return isinstance(value, list) and any(map(_has_other_references, value))


def _fits(value: Any, types: frozenset[str], parts: Sequence[Part], definitions: Mapping[str, Any]) -> bool:
    if types and not types & _types_of(value):
        return False
    if isinstance(value, str):
        patterns = [part.schema["pattern"] for part in parts if isinstance(part.schema.get("pattern"), str)]
        if not all(may_match(pattern, value) for pattern in patterns[:MOST_PATTERNS]):
            return False
    return all(may_be(_other_keywords(part.schema), value, definitions) for part in parts)


_NAMES: Mapping[type, str] = {str: "string", list: "array", dict: "object"}


def _types_of(value: Any) -> frozenset[str]:
    if value is None:
        return frozenset({"null"})
    if isinstance(value, bool):
        return frozenset({"boolean"})
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return frozenset({"integer", "number"})
    if isinstance(value, float):
        return frozenset({"number"})
    return frozenset({_NAMES.get(type(value), "")})


class _Limit(Struct, frozen=True):
    """An end of a range, and the keyword that sets it, with its path."""

    value: float
    exclusive: bool
    keyword: str
    path: str


def _range(parts: Sequence[Part]) -> tuple[_Limit, _Limit]:
    lows = [_Limit(-math.inf, False, "", "")]
    highs = [_Limit(math.inf, False, "", "")]
    for keyword, limits in (("minimum", lows), ("maximum", highs)):
        exclusive = f"exclusive{keyword.capitalize()}"
        limits += [_Limit(one, False, keyword, part.path) for part, one in numbers(parts, keyword)]
        limits += [_Limit(one, True, exclusive, part.path) for part, one in numbers(parts, exclusive)]
    # Of two ends with one value the exclusive one is narrower.
    return max(lows, key=lambda one: (one.value, one.exclusive)), min(
        highs, key=lambda one: (one.value, not one.exclusive)
    )


def check_range(parts: Sequence[Part], *, whole: bool) -> None:
    """Raises Contradiction if no number lies between the bounds. whole: only integers count."""
    low, high = _range(parts)
    # Strict ends are compared first; then whether a multiple, or a whole number, lies between them. Floats are compared
    # with a tolerance, so that 0.3 counts as a multiple of 0.1.
    possible = low.value < high.value or (low.value == high.value and not low.exclusive and not high.exclusive)
    steps = [one for _, one in numbers(parts, "multipleOf") if one > 0]
    if possible and math.isfinite(low.value) and math.isfinite(high.value) and not whole and len(steps) == 1:
        first = math.ceil(low.value / steps[0] - 1e-9)
        first += low.exclusive and math.isclose(first * steps[0], low.value)
        possible = first * steps[0] <= high.value * (1 + 1e-9) + 1e-9
    if possible and whole and math.isfinite(low.value) and math.isfinite(high.value):
        least = math.floor(low.value) + 1 if low.exclusive else math.ceil(low.value)
        most = math.ceil(high.value) - 1 if high.exclusive else math.floor(high.value)
        step = int(steps[0]) if len(steps) == 1 and float(steps[0]).is_integer() else 1
        possible = math.ceil(least / step) * step <= most
    if not possible:
        raise Contradiction(f"'{low.keyword}' at {low.path} leaves nothing below '{high.keyword}' at {high.path}")


def check_bounds(parts: Sequence[Part], low: str, high: str) -> None:
    """Raises Contradiction if a keyword for a minimum is above that for a maximum. low, high: their names."""
    least = max(numbers(parts, low), key=lambda one: one[1], default=None)
    most = min(numbers(parts, high), key=lambda one: one[1], default=None)
    if least is not None and most is not None and least[1] > most[1]:
        raise Contradiction(f"'{low}' at {least[0].path} is more than '{high}' at {most[0].path}")


def check_lengths(parts: Sequence[Part]) -> None:
    """Raises Contradiction if no string has a length that bounds and patterns allow."""
    lows: list[tuple[float, str]] = [(one, f"'minLength' at {part.path}") for part, one in numbers(parts, "minLength")]
    highs: list[tuple[float, str]] = [(one, f"'maxLength' at {part.path}") for part, one in numbers(parts, "maxLength")]
    with_pattern = [part for part in parts if isinstance(part.schema.get("pattern"), str)]
    for part in with_pattern[:MOST_PATTERNS]:
        least, most = lengths(part.schema["pattern"])
        lows.append((least, f"'pattern' at {part.path}"))
        highs.append((most, f"'pattern' at {part.path}"))
    low, high = max(lows, default=(0, "")), min(highs, default=(math.inf, ""))
    if low[0] > high[0]:
        raise Contradiction(f"{low[1]} wants more characters than {high[1]} allows")


def count_values(schema: Any) -> float:
    """Returns the most different values that satisfy a schema; infinity where that cannot be decided."""
    if schema is False:
        return 0
    if not isinstance(schema, dict):
        return math.inf
    if "const" in schema:
        return 1
    if isinstance(schema.get("enum"), list):
        values = schema["enum"]
        return len({_key(one) for one in values}) if len(values) <= MOST_VALUES else math.inf
    kind = schema.get("type")
    kinds = [kind] if isinstance(kind, str) else kind if isinstance(kind, list) else ["any"]
    return sum(_COUNTS.get(one, math.inf) if one != "integer" else _whole_numbers(schema) for one in kinds)


_COUNTS: Mapping[Any, float] = {"null": 1, "boolean": 2}


def _whole_numbers(schema: Mapping[str, Any]) -> float:
    low, high = _range([Part(schema, "")])
    if not math.isfinite(low.value) or not math.isfinite(high.value):
        return math.inf
    least = math.floor(low.value) + 1 if low.exclusive else math.ceil(low.value)
    most = math.ceil(high.value) - 1 if high.exclusive else math.floor(high.value)
    return max(most - least + 1, 0)


def numbers(parts: Sequence[Part], keyword: str) -> Iterator[tuple[Part, float]]:
    for part in parts:
        value = part.schema.get(keyword)
        if is_number(value):
            yield part, value


def is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def required_names(parts: Sequence[Part]) -> Iterator[tuple[str, str]]:
    """Yields the names that an object must have, with the path of what requires them."""
    names: dict[str, str] = {}
    for part in parts:
        names |= {name: part.path for name in schema_list(part.schema, "required") if isinstance(name, str)}
    dependents = [part for part in parts if isinstance(part.schema.get("dependentRequired"), dict)]
    waiting = list(names) if dependents else []
    # A name that another one requires may itself require more.
    while waiting:
        name = waiting.pop()
        for part in dependents:
            more = schema_list(part.schema["dependentRequired"], name)
            fresh = [other for other in more if isinstance(other, str) and other not in names]
            names |= dict.fromkeys(fresh, part.path)
            waiting += fresh
    yield from names.items()


_APPLICATORS = frozenset("$ref $dynamicRef $recursiveRef allOf anyOf oneOf not if dependentSchemas".split())
"""Keywords whose schemas may evaluate further properties."""


def closed_by(schema: Mapping[str, Any]) -> str:
    """Returns the keyword that forbids an object further properties; empty where none does."""
    if schema.get("additionalProperties") is False:
        return "additionalProperties"
    # `additionalProperties` evaluates what it allows, so beside it the other keyword forbids nothing more.
    closed = schema.get("unevaluatedProperties") is False and "additionalProperties" not in schema
    return "unevaluatedProperties" if closed and _APPLICATORS.isdisjoint(schema) else ""


def permits(schema: Mapping[str, Any], name: str) -> bool:
    """Returns whether this schema lets an object have a property of this name."""
    if not closed_by(schema) or name in mapping(schema, "properties"):
        return True
    patterns = mapping(schema, "patternProperties")
    # Too many patterns are not matched; then the name counts as permitted.
    return len(patterns) > MOST_PATTERNS or any(may_match(pattern, name) for pattern in patterns)


def only_names(schema: Mapping[str, Any]) -> frozenset[str] | None:
    """Returns the only names that properties may have, None where others are allowed."""
    if not closed_by(schema) or schema.get("patternProperties"):
        return None
    properties = schema.get("properties")
    return frozenset(properties) if isinstance(properties, dict) else frozenset()


def repeated_branches(branches: Sequence[Any]) -> frozenset[int]:
    """Returns the indexes of branches that occur more than once. Only branches without subschemas are compared."""
    plain = [_plain(branch) for branch in branches]
    counts = Counter(plain)
    return frozenset(index for index, one in enumerate(plain) if one is not None and counts[one] > 1)


def _plain(schema: Any) -> frozenset[Any] | None:
    if not isinstance(schema, dict) or any(isinstance(value, dict | list) for value in schema.values()):
        return None
    # The type is in it because True equals 1 in Python, but not in JSON.
    return frozenset((key, type(value), value) for key, value in schema.items())


def without_branches(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf", "allOf", "$ref")}


def mapping(schema: Mapping[str, Any], keyword: str) -> Mapping[str, Any]:
    value = schema.get(keyword)
    return value if isinstance(value, dict) else {}


def schema_list(schema: Mapping[str, Any], keyword: str) -> list[Any]:
    value = schema.get(keyword)
    return value if isinstance(value, list) else []
