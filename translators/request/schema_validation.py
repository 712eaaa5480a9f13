"""Checks schemas, and answers against schemas, at a bounded cost, whatever a caller wrote.

Every keyword that is evaluated takes steps from a budget (`check_budget.py`), and patterns run in RE2 (`patterns.py`).
Compiled schemas are cached within bounds.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import jsonschema
import jsonschema.exceptions
import jsonschema.validators
import jsonschema_specifications
import msgspec
import referencing
import referencing.exceptions

from translators.request.check_budget import TooExpensive, begin, is_generous, spend
from translators.request.patterns import MAX_PATTERN_BYTES, is_checked, may_match

MAX_SUBSCHEMAS = 50_000
MAX_DEPTH = 200
# Just below the largest number that a double holds.
_LARGEST_NUMBER = 1.7e308
LARGEST_CACHED_SCHEMA = 64 * 1024

_META_STEPS = 25
"""Steps for a keyword of the meta-schema: its references are dynamic, which makes them slow."""


# --- schemas ----------------------------------------------------------------------------------------------


def schema_violation(encoded: bytes) -> str:
    """Returns what is wrong with a schema, empty if it is valid. encoded: JSON. Raises TooExpensive, RecursionError."""
    if len(encoded) <= LARGEST_CACHED_SCHEMA:
        return _cached_schema_violation(encoded)
    return _schema_violation(encoded)


@lru_cache(maxsize=512)
def _cached_schema_violation(encoded: bytes) -> str:
    return _schema_violation(encoded)


def _schema_violation(encoded: bytes) -> str:
    begin()
    schema = msgspec.json.decode(encoded)
    limits = _Limits()
    limits.look_at(schema, (), 0)
    if limits.exceeded:
        return limits.exceeded
    # Our own checks are fast and only say that something is wrong, not what.
    for odd, path in limits.odd:
        # The meta-schema names the error. It takes many times as long as our own checks, so it only sees this level.
        error = jsonschema.exceptions.best_match(_META_VALIDATOR.iter_errors(_without_subschemas(odd)))
        if error is not None:
            where = "/".join(str(part) for part in (*path, *error.absolute_path))
            return f"{error.message}" + (f" (at {where})" if where else "")
    return ""


_TYPES = frozenset("array boolean integer null number object string".split())


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_type(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, str) and one in _TYPES for one in value) and _unique(value)
    return isinstance(value, str) and value in _TYPES


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value) and _unique(value)


def _is_anchor(value: Any) -> bool:
    return isinstance(value, str) and _ANCHOR.fullmatch(value) is not None


_ANCHOR = re.compile(r"[A-Za-z_][-A-Za-z0-9._]*")


def _unique(values: list[str]) -> bool:
    return len(set(values)) == len(values)


_VALUES: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("$schema", "$ref", "$comment", "$dynamicRef"), _is_string),
    **dict.fromkeys(("title", "description", "format", "contentEncoding", "contentMediaType"), _is_string),
    **dict.fromkeys(("deprecated", "readOnly", "writeOnly", "uniqueItems"), _is_flag),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _is_number),
    "multipleOf": lambda value: _is_number(value) and value > 0,
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _is_count),
    **dict.fromkeys(("minContains", "maxContains"), _is_count),
    "pattern": lambda value: isinstance(value, str) and len(value) <= MAX_PATTERN_BYTES,
    "type": _is_type,
    "required": _is_strings,
    "enum": lambda value: isinstance(value, list),
    "examples": lambda value: isinstance(value, list),
    "$anchor": _is_anchor,
    "$dynamicAnchor": _is_anchor,
    "$id": lambda value: isinstance(value, str) and "#" not in value.removesuffix("#"),
    "$recursiveRef": _is_string,
    "$recursiveAnchor": _is_flag,
    "const": lambda value: True,
    "default": lambda value: True,
    "dependentRequired": lambda value: isinstance(value, dict) and all(map(_is_strings, value.values())),
}
"""Keywords whose value is no schema -> a check of the value (JSON Schema 2020-12, its meta-schemas)."""

_ONE_SCHEMA = frozenset(
    "additionalProperties contains contentSchema else if items not propertyNames then unevaluatedItems"
    " unevaluatedProperties".split()
)
_MANY_SCHEMAS = frozenset("allOf anyOf oneOf prefixItems".split())
_NAMED_SCHEMAS = frozenset("$defs definitions dependentSchemas patternProperties properties".split())
_RARE = frozenset(("$vocabulary", "dependencies"))
"""Keywords with rules of their own: a schema with one of them is left to the meta-schema."""


class _Limits:
    """Tells well-formed schemas from all others in one pass, and keeps count of what is bounded.

    odd: the schemas in which a keyword is not well-formed, or has rules of its own, with their paths. exceeded: which
    bound is.
    """

    def __init__(self) -> None:
        self.subschemas = 0
        self.exceeded = ""
        self.odd: list[tuple[Any, tuple[str | int, ...]]] = []

    def look_at(self, schema: Any, path: tuple[str | int, ...], depth: int) -> None:
        if isinstance(schema, bool) or self.exceeded:
            return
        if not isinstance(schema, dict):
            self.odd.append((schema, path))
            return
        self.subschemas += 1
        spend(1)
        if self.subschemas > MAX_SUBSCHEMAS:
            self.exceeded = f"it has more than {MAX_SUBSCHEMAS} subschemas"
        elif depth > MAX_DEPTH:
            self.exceeded = f"it is nested more than {MAX_DEPTH} levels deep"
        # A list, so that each keyword is looked at, and one that exceeds a bound is found behind one that is wrong.
        elif not all([self._keyword_holds(keyword, value) for keyword, value in schema.items()]):
            self.odd.append((schema, path))
        for keys, subschema in _subschemas(schema):
            self.look_at(subschema, (*path, *keys), depth + 1)

    def _keyword_holds(self, keyword: str, value: Any) -> bool:
        check = _VALUES.get(keyword)
        if check is not None:
            if isinstance(value, int | float) and not -_LARGEST_NUMBER <= value <= _LARGEST_NUMBER:
                self.exceeded = f"{keyword} is a number that no double can hold"
                return False
            return check(value)
        if keyword in _MANY_SCHEMAS:
            return isinstance(value, list) and bool(value)
        if keyword in _NAMED_SCHEMAS:
            return isinstance(value, dict)
        return keyword not in _RARE


def _subschemas(schema: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yields the schemas directly inside this one, with their paths from here."""
    for keyword, value in schema.items():
        if keyword in _ONE_SCHEMA:
            yield (keyword,), value
        elif keyword in _MANY_SCHEMAS and isinstance(value, list):
            yield from (((keyword, index), one) for index, one in enumerate(value))
        elif keyword in _NAMED_SCHEMAS and isinstance(value, dict):
            yield from (((keyword, name), one) for name, one in value.items())


def _without_subschemas(schema: Any) -> Any:
    """Returns a schema in which those inside it, which are looked at by themselves, are true."""
    if not isinstance(schema, dict):
        return schema
    bare = dict(schema)
    for keyword, value in schema.items():
        if keyword in _ONE_SCHEMA:
            bare[keyword] = True
        elif keyword in _MANY_SCHEMAS and isinstance(value, list):
            bare[keyword] = [True] * len(value)
        elif keyword in _NAMED_SCHEMAS and isinstance(value, dict):
            bare[keyword] = dict.fromkeys(value, True)
    return bare


# --- instances --------------------------------------------------------------------------------------------


def instance_violation(encoded: bytes, text: str) -> str:
    """Returns why a text is no instance of a schema, which is given as JSON; empty if it is one.

    Raises TooExpensive on the event loop where the check takes long.
    """
    try:
        return _instance_violation(encoded, text)
    except TooExpensive:
        if not is_generous():
            raise
        return "checking it takes too long"


def _instance_violation(encoded: bytes, text: str) -> str:
    begin()
    spend(len(text) // 16)
    try:
        instance = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return "it is not JSON"
    try:
        error = jsonschema.exceptions.best_match(_validator(encoded).iter_errors(instance))
    except RecursionError:
        return "it is nested too deeply"
    except OverflowError:
        return "it has a number that is too large to be checked"
    except referencing.exceptions.Unresolvable:
        # One that `json_schema.check_references` does not follow: below an `$id` of its own.
        return "the schema has a $ref that leads nowhere"
    if error is None:
        return ""
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    return f"{error.validator} at ${where}"


def may_be_instance(schema: Mapping[str, Any], value: Any) -> bool:
    """Returns whether a value satisfies a schema; True where that cannot be decided. Raises TooExpensive."""
    try:
        return bool(_BoundedValidator(schema, registry=referencing.Registry()).is_valid(value))
    except (RecursionError, OverflowError, referencing.exceptions.Unresolvable, jsonschema.exceptions.UnknownType):
        return True


def _validator(encoded: bytes) -> Any:
    return _cached_validator(encoded) if len(encoded) <= LARGEST_CACHED_SCHEMA else _new_validator(encoded)


def _new_validator(encoded: bytes) -> Any:
    # The registry is empty: a reference to a remote schema fails, nothing is ever fetched.
    return _BoundedValidator(msgspec.json.decode(encoded), registry=referencing.Registry())


_cached_validator = lru_cache(maxsize=256)(_new_validator)


# --- keywords ---------------------------------------------------------------------------------------------

Keyword = Callable[[Any, Any, Any, Any], Any]


def _counted(name: str, keyword: Keyword, least: int = 1) -> Keyword:
    """Makes a keyword take steps: for itself, for the entries of its value, and for each error."""
    own_steps = max(least, 5 if name in ("$ref", "$dynamicRef") else 1)

    def evaluate(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        spend(own_steps + (len(value) // 16 if isinstance(value, dict | list) else 0))
        for error in keyword(validator, value, instance, schema) or ():
            spend(2)
            yield error

    return evaluate


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    if isinstance(instance, str) and not _matches(pattern, instance):
        yield jsonschema.exceptions.ValidationError("does not match the pattern")


def _pattern_properties(validator: Any, patterns: Mapping[str, Any], instance: Any, schema: Any) -> Iterator[Any]:
    if isinstance(instance, dict):
        for pattern, subschema in patterns.items():
            for name, value in instance.items():
                if is_checked(pattern) and _matches(pattern, name):
                    yield from validator.descend(value, subschema, path=name, schema_path=pattern)


def _additional_properties(validator: Any, subschema: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if not isinstance(instance, dict):
        return
    properties, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, value in instance.items():
        if name not in properties and not any(_matches(pattern, name) for pattern in patterns):
            if subschema is False:
                yield jsonschema.exceptions.ValidationError("has a property that is not allowed")
                return
            yield from validator.descend(value, subschema, path=name)


def _unevaluated_properties(validator: Any, subschema: Any, instance: Any, schema: Any) -> Iterator[Any]:
    # Beside `patternProperties` the library's own regular expressions would run.
    if not _mentions(schema, "patternProperties"):
        yield from _ORIGINAL["unevaluatedProperties"](validator, subschema, instance, schema) or ()


def _unique_items(validator: Any, unique: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if unique and isinstance(instance, list):
        seen = set()
        for value in instance:
            key = _canonical(value)
            if key in seen:
                yield jsonschema.exceptions.ValidationError("has equal items")
                return
            seen.add(key)


def _multiple_of(validator: Any, divisor: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if not _is_number(instance):
        return
    if isinstance(instance, int) and isinstance(divisor, int):
        is_multiple = instance % divisor == 0
    else:
        # 0.3 is a multiple of 0.1, although the quotient of the two doubles is no whole number.
        quotient = instance / divisor
        is_multiple = math.isclose(quotient, round(quotient), rel_tol=1e-9, abs_tol=1e-9)
    if not is_multiple:
        yield jsonschema.exceptions.ValidationError("is no multiple")


def _dependencies(validator: Any, dependencies: Mapping[str, Any], instance: Any, schema: Any) -> Iterator[Any]:
    """Checks the older name of `dependentRequired` and `dependentSchemas`."""
    if not isinstance(instance, dict):
        return
    for name, dependency in dependencies.items():
        if name in instance and isinstance(dependency, list):
            if any(other not in instance for other in dependency):
                yield jsonschema.exceptions.ValidationError("lacks a property that another one needs")
        elif name in instance:
            yield from validator.descend(instance, dependency, schema_path=name)


def _matches(pattern: str, text: str) -> bool:
    """Returns whether a text matches; every text does where the pattern cannot be checked."""
    spend(1 + len(text) // 256)
    return may_match(pattern, text)


def _canonical(value: Any) -> Any:
    """Returns a value that is hashable, and equal for equal JSON: 1 is 1.0, but not true."""
    spend(1)
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, list):
        return tuple(map(_canonical, value))
    if isinstance(value, dict):
        return frozenset((name, _canonical(one)) for name, one in value.items())
    return value


def _mentions(schema: Any, keyword: str) -> bool:
    spend(1)
    if isinstance(schema, dict):
        return keyword in schema or any(_mentions(one, keyword) for one in schema.values())
    return isinstance(schema, list) and any(_mentions(one, keyword) for one in schema)


_ORIGINAL: Mapping[str, Keyword] = dict(jsonschema.Draft202012Validator.VALIDATORS)
_KEYWORDS: Mapping[str, Keyword] = {
    **_ORIGINAL,
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "unevaluatedProperties": _unevaluated_properties,
    "uniqueItems": _unique_items,
    "multipleOf": _multiple_of,
    "dependencies": _dependencies,
}
_BoundedValidator: Any = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator, {name: _counted(name, keyword) for name, keyword in _KEYWORDS.items()}
)
_META_VALIDATOR: Any = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator,
    {name: _counted(name, keyword, _META_STEPS) for name, keyword in _KEYWORDS.items()},
)(jsonschema.Draft202012Validator.META_SCHEMA, registry=jsonschema_specifications.REGISTRY)
