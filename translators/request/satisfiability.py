"""JSON Schemas that no value can satisfy: what contradicts what.

Cohere would be paid twice for an answer that cannot pass its check. Only certain contradictions are reported: a keyword
that is not looked at here never makes a schema impossible. The work is bounded.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from msgspec import Struct

from translators.request.check_budget import TooExpensive, begin, is_generous, spend
from translators.request.patterns import may_match

MOST_STEPS = 2_000
"""Schemas, and pairs of them, that are looked at: some 20 ms. A schema that needs more is taken to be possible."""

MOST_VALUES = 1_000
"""Values of an `enum` that are looked at."""

MOST_PATTERNS = 4
"""Regular expressions that one value or one name is held against."""

DEEPEST = 100
"""Levels of values inside values."""

_TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})


class _Part(Struct, frozen=True):
    """A schema that must hold, and its path in the whole (`#/properties/a`)."""

    schema: Mapping[str, Any]
    path: str


class _Contradiction(Exception):
    """A keyword that cannot hold. The sentence goes to the caller."""


class _TooLarge(Exception):
    """The bound on the work is reached."""


def contradiction(schema: Mapping[str, Any]) -> str:
    """Return which keyword makes the schema impossible; empty if a value may satisfy it.

    Raises TooExpensive on the event loop where the search takes long.
    """
    begin()
    try:
        _Search(schema).check([(schema, "#")], frozenset(), 0)
    except _Contradiction as found:
        return str(found)
    except (_TooLarge, RecursionError):
        return ""
    except TooExpensive:
        if not is_generous():
            raise
    return ""


class _Search:
    """One schema being searched. Schemas that must hold together are looked at together."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._steps = 0

    def check(self, schemas: Sequence[tuple[Any, str]], references: frozenset[str], depth: int) -> None:
        """Raises _Contradiction if no value satisfies all of these. references: those that this value is part of."""
        parts: list[_Part] = []
        for schema, path in schemas:
            references |= self._expand(schema, path, references, parts)
        if depth > DEEPEST:
            raise _TooLarge
        self._spend(len(parts) - 1)
        types = _types(parts)
        _check_values(parts, types)
        if any("enum" in part.schema or "const" in part.schema for part in parts):
            return
        if types:
            self._check_types(parts, types, references, depth)
        for part in parts:
            self._check_branches(part, parts, references, depth)

    def _expand(self, schema: Any, path: str, references: frozenset[str], parts: list[_Part]) -> frozenset[str]:
        """Adds a schema, what it refers to and its `allOf`. Returns the references that were followed."""
        self._spend(1)
        if schema is False:
            raise _Contradiction(f"{path} is false")
        if not isinstance(schema, dict):
            return frozenset()
        parts.append(_Part(schema, path))
        if schema.get("not") in (True, {}) and schema.get("not") is not None:
            raise _Contradiction(f"'not' at {path} excludes every value")
        followed: frozenset[str] = frozenset()
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.startswith("#"):
            if reference in references:
                raise _Contradiction(f"'$ref' at {path} requires {reference} inside itself without end")
            references |= {reference}
            followed = frozenset({reference})
            followed |= self._expand(self._resolve(reference), reference, references, parts)
        for index, one in enumerate(_list(schema, "allOf")):
            # What a sibling refers to is no circle.
            followed |= self._expand(one, f"{path}/allOf/{index}", references, parts)
        return followed

    def _spend(self, steps: int) -> None:
        spend(2 * steps)
        self._steps += steps
        if self._steps > MOST_STEPS:
            raise _TooLarge

    def _resolve(self, reference: str) -> Any:
        value: Any = self._root
        for key in reference.removeprefix("#").strip("/").split("/") if reference not in ("#", "#/") else ():
            key = key.replace("~1", "/").replace("~0", "~")
            value = value.get(key, True) if isinstance(value, dict) else True
        return value

    def _check_types(
        self, parts: Sequence[_Part], types: frozenset[str], references: frozenset[str], depth: int
    ) -> None:
        """Raises _Contradiction if no type has a value; of several that of the first."""
        first: _Contradiction | None = None
        for name in sorted(types):
            try:
                if name == "object":
                    self._check_object(parts, references, depth)
                elif name == "array":
                    self._check_array(parts, references, depth)
                elif name in ("integer", "number"):
                    _check_range(parts, whole=name == "integer")
                elif name == "string":
                    _check_bounds(parts, "minLength", "maxLength")
                return
            except _Contradiction as found:
                first = first or found
        assert first is not None, "there is a type"
        raise first

    def _check_object(self, parts: Sequence[_Part], references: frozenset[str], depth: int) -> None:
        _check_bounds(parts, "minProperties", "maxProperties")
        self._spend(sum(len(_list(part.schema, "required")) for part in parts))
        required = dict(_required(parts))
        self._spend(len(required) * (len(parts) - 1))
        for name, path in required.items():
            for part in parts:
                if not _permits(part.schema, name):
                    raise _Contradiction(
                        f"'required' at {path} names '{name}', which 'additionalProperties' at {part.path} forbids"
                    )
            inner = [
                (part.schema["properties"][name], f"{part.path}/properties/{name}")
                for part in parts
                if isinstance(part.schema.get("properties"), dict) and name in part.schema["properties"]
            ]
            if inner:
                self.check(inner, references, depth + 1)
        for part in parts:
            most, least = part.schema.get("maxProperties"), part.schema.get("minProperties")
            if _is_number(most) and most < len(required):
                raise _Contradiction(f"'maxProperties' at {part.path} is less than 'required' names")
            names = _only_names(part.schema)
            if names is not None and _is_number(least) and least > len(names):
                raise _Contradiction(f"'minProperties' at {part.path} is more than 'properties' has")

    def _check_array(self, parts: Sequence[_Part], references: frozenset[str], depth: int) -> None:
        _check_bounds(parts, "minItems", "maxItems")
        least = int(max((one for _, one in _numbers(parts, "minItems")), default=0))
        for part in parts:
            first = _list(part.schema, "prefixItems")
            inner = [(one, f"{part.path}/prefixItems/{index}") for index, one in enumerate(first[:least])]
            if least > len(first) and "items" in part.schema:
                inner.append((part.schema["items"], f"{part.path}/items"))
            together = [[one] for one in inner]
            if "contains" in part.schema and part.schema.get("minContains", 1) != 0:
                contained = [(part.schema["contains"], f"{part.path}/contains")]
                if "items" in part.schema and not first:
                    contained.append((part.schema["items"], f"{part.path}/items"))
                together.append(contained)
            for schemas in together:
                self.check(schemas, references, depth + 1)
            items = part.schema.get("items")
            choice = items.get("enum") if isinstance(items, dict) and not first else None
            if part.schema.get("uniqueItems") is True and isinstance(choice, list) and least > len(choice):
                raise _Contradiction(f"'minItems' at {part.path} is more than 'uniqueItems' allows of 'enum'")

    def _check_branches(self, part: _Part, parts: Sequence[_Part], references: frozenset[str], depth: int) -> None:
        """Raises _Contradiction if no branch of an `anyOf` or `oneOf` can hold beside the rest."""
        rest = [(_without_branches(other.schema), other.path) for other in parts]
        for keyword in ("anyOf", "oneOf"):
            branches = _list(part.schema, keyword)
            self._spend(len(branches) if keyword == "oneOf" else 0)
            repeated = _repeated(branches) if keyword == "oneOf" else frozenset()
            first: _Contradiction | None = None
            for index, branch in enumerate(branches):
                try:
                    if index in repeated:
                        raise _Contradiction(f"#{index} is there twice, so that two hold or none")
                    self.check([(branch, f"{part.path}/{keyword}/{index}"), *rest], references, depth + 1)
                    break
                except _Contradiction as found:
                    first = first or found
            else:
                if first is not None:
                    raise _Contradiction(f"'{keyword}' at {part.path} has no branch that can hold: {first}")


# --- one keyword or two -------------------------------------------------------------------------------------


def _types(parts: Sequence[_Part]) -> frozenset[str]:
    """The types that all parts allow; empty where none is named. Raises _Contradiction where none is left."""
    types: frozenset[str] | None = None
    for part in parts:
        kind = part.schema.get("type")
        if not isinstance(kind, str | list):
            continue
        allowed = frozenset([kind] if isinstance(kind, str) else [one for one in kind if isinstance(one, str)])
        if not allowed <= _TYPES:
            return frozenset()
        if "number" in allowed:
            allowed |= {"integer"}
        types = allowed if types is None else types & allowed
        if not types:
            raise _Contradiction(f"'type' at {part.path} allows no value that the rest allows")
    return types or frozenset()


def _check_values(parts: Sequence[_Part], types: frozenset[str]) -> None:
    """Raises _Contradiction if no value of an `enum` or `const` satisfies what else is said of it."""
    values: list[Any] | None = None
    for part in parts:
        for keyword, listed in (("enum", part.schema.get("enum")), ("const", [part.schema.get("const")])):
            if keyword not in part.schema or not isinstance(listed, list) or len(listed) > MOST_VALUES:
                continue
            keys = {_key(one) for one in listed}
            values = listed if values is None else [one for one in values if _key(one) in keys]
            if not [one for one in values if _fits(one, types, parts)]:
                raise _Contradiction(f"'{keyword}' at {part.path} has no value that the rest allows")


def _key(value: Any) -> Any:
    """The value, comparable as JSON is: true is not 1, 1.0 is."""
    return (isinstance(value, bool), repr(float(value)) if _is_number(value) else repr(value))


def _fits(value: Any, types: frozenset[str], parts: Sequence[_Part]) -> bool:
    if types and not types & _types_of(value):
        return False
    if _is_number(value):
        low, high = _range(parts)
        return low.holds_below(value) and high.holds_above(value)
    if isinstance(value, str):
        patterns = [part.schema["pattern"] for part in parts if isinstance(part.schema.get("pattern"), str)]
        return (
            all(len(value) >= one for _, one in _numbers(parts, "minLength"))
            and all(len(value) <= one for _, one in _numbers(parts, "maxLength"))
            and all(may_match(pattern, value) for pattern in patterns[:MOST_PATTERNS])
        )
    return True


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
    """An end of a range, and the keyword that sets it."""

    value: float
    exclusive: bool
    keyword: str
    path: str

    def holds_below(self, value: float) -> bool:
        return value > self.value if self.exclusive else value >= self.value

    def holds_above(self, value: float) -> bool:
        return value < self.value if self.exclusive else value <= self.value


def _range(parts: Sequence[_Part]) -> tuple[_Limit, _Limit]:
    lows = [_Limit(-math.inf, False, "", "")]
    highs = [_Limit(math.inf, False, "", "")]
    for keyword, limits in (("minimum", lows), ("maximum", highs)):
        exclusive = f"exclusive{keyword.capitalize()}"
        limits += [_Limit(one, False, keyword, part.path) for part, one in _numbers(parts, keyword)]
        limits += [_Limit(one, True, exclusive, part.path) for part, one in _numbers(parts, exclusive)]
    return max(lows, key=lambda one: (one.value, one.exclusive)), min(
        highs, key=lambda one: (one.value, not one.exclusive)
    )


def _check_range(parts: Sequence[_Part], *, whole: bool) -> None:
    low, high = _range(parts)
    possible = low.value < high.value or (low.value == high.value and not low.exclusive and not high.exclusive)
    if possible and whole and math.isfinite(low.value) and math.isfinite(high.value):
        least = math.floor(low.value) + 1 if low.exclusive else math.ceil(low.value)
        most = math.ceil(high.value) - 1 if high.exclusive else math.floor(high.value)
        steps = [one for _, one in _numbers(parts, "multipleOf") if one > 0 and float(one).is_integer()]
        step = int(steps[0]) if len(steps) == 1 else 1
        possible = math.ceil(least / step) * step <= most
    if not possible:
        raise _Contradiction(f"'{low.keyword}' at {low.path} leaves nothing below '{high.keyword}' at {high.path}")


def _check_bounds(parts: Sequence[_Part], low: str, high: str) -> None:
    least = max(_numbers(parts, low), key=lambda one: one[1], default=None)
    most = min(_numbers(parts, high), key=lambda one: one[1], default=None)
    if least is not None and most is not None and least[1] > most[1]:
        raise _Contradiction(f"'{low}' at {least[0].path} is more than '{high}' at {most[0].path}")


def _numbers(parts: Sequence[_Part], keyword: str) -> Iterator[tuple[_Part, float]]:
    for part in parts:
        value = part.schema.get(keyword)
        if _is_number(value):
            yield part, value


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _required(parts: Sequence[_Part]) -> Iterator[tuple[str, str]]:
    """Yields the names that an object must have, with the path of what requires them."""
    names: dict[str, str] = {}
    for part in parts:
        names |= {name: part.path for name in _list(part.schema, "required") if isinstance(name, str)}
    dependents = [part for part in parts if isinstance(part.schema.get("dependentRequired"), dict)]
    waiting = list(names) if dependents else []
    while waiting:
        name = waiting.pop()
        for part in dependents:
            more = _list(part.schema["dependentRequired"], name)
            fresh = [other for other in more if isinstance(other, str) and other not in names]
            names |= dict.fromkeys(fresh, part.path)
            waiting += fresh
    yield from names.items()


def _permits(schema: Mapping[str, Any], name: str) -> bool:
    """Whether this schema lets an object have a property of this name."""
    if schema.get("additionalProperties") is not False or name in _mapping(schema, "properties"):
        return True
    patterns = _mapping(schema, "patternProperties")
    return len(patterns) > MOST_PATTERNS or any(may_match(pattern, name) for pattern in patterns)


def _only_names(schema: Mapping[str, Any]) -> frozenset[str] | None:
    """The only names that the properties may have; None where others may be."""
    if schema.get("additionalProperties") is not False or schema.get("patternProperties"):
        return None
    properties = schema.get("properties")
    return frozenset(properties) if isinstance(properties, dict) else frozenset()


def _repeated(branches: Sequence[Any]) -> frozenset[int]:
    """The indexes of the branches that are there more than once, as far as they hold no schemas themselves."""
    plain = [_plain(branch) for branch in branches]
    counts = Counter(plain)
    return frozenset(index for index, one in enumerate(plain) if one is not None and counts[one] > 1)


def _plain(schema: Any) -> frozenset[Any] | None:
    if not isinstance(schema, dict) or any(isinstance(value, dict | list) for value in schema.values()):
        return None
    return frozenset((key, type(value), value) for key, value in schema.items())


def _without_branches(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf", "allOf", "$ref")}


def _mapping(schema: Mapping[str, Any], keyword: str) -> Mapping[str, Any]:
    value = schema.get(keyword)
    return value if isinstance(value, dict) else {}


def _list(schema: Mapping[str, Any], keyword: str) -> list[Any]:
    value = schema.get(keyword)
    return value if isinstance(value, list) else []
