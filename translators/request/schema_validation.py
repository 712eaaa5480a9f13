"""Checks schemas, and answers against schemas, at a bounded cost, whatever a caller wrote.

Regular expressions run in RE2, whose time is linear in the text. Every keyword that is evaluated takes steps from a
budget: a small one on the event loop, where `TooExpensive` asks the caller to try again elsewhere, and a large one
inside `generous_budget`, where it is final. Compiled schemas are cached within bounds.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import jsonschema
import jsonschema.exceptions
import jsonschema.validators
import jsonschema_specifications
import msgspec
import re2
import referencing
import referencing.exceptions

LOOP_STEPS = 2_000
"""Steps of one check on the event loop: some 10 ms."""

GENEROUS_STEPS = 250_000
"""Steps of one check elsewhere: a second or two."""

MAX_PATTERN_BYTES = 16 * 1024
MAX_SUBSCHEMAS = 50_000
MAX_DEPTH = 200
_LARGEST_NUMBER = 1.7e308
_LARGEST_CACHED_SCHEMA = 64 * 1024


class TooExpensive(Exception):
    """A check would take more steps than the budget has."""


class _Budget(threading.local):
    limit = LOOP_STEPS
    remaining = LOOP_STEPS


_budget = _Budget()


@contextmanager
def generous_budget() -> Iterator[None]:
    """Lets checks in this thread take GENEROUS_STEPS each. The thread must not be the event loop's."""
    _budget.limit = GENEROUS_STEPS
    try:
        yield
    finally:
        _budget.limit = LOOP_STEPS


def is_generous() -> bool:
    """Tells whether the checks of this thread have the generous budget."""
    return _budget.limit == GENEROUS_STEPS


def _spend(steps: int) -> None:
    """Takes steps from the budget of the check that runs in this thread. Raises TooExpensive."""
    _budget.remaining -= steps
    if _budget.remaining < 0:
        raise TooExpensive


# --- schemas ----------------------------------------------------------------------------------------------


def schema_violation(encoded: bytes) -> str:
    """Returns why a schema, as JSON, is none; empty if it is one. Raises TooExpensive, RecursionError."""
    if len(encoded) <= _LARGEST_CACHED_SCHEMA:
        return _cached_schema_violation(encoded)
    return _schema_violation(encoded)


@lru_cache(maxsize=512)
def _cached_schema_violation(encoded: bytes) -> str:
    return _schema_violation(encoded)


def _schema_violation(encoded: bytes) -> str:
    _budget.remaining = _budget.limit
    schema = msgspec.json.decode(encoded)
    limits = _Limits()
    if limits.holds(schema, 0):
        return ""
    if limits.exceeded:
        return limits.exceeded
    # Something is odd: the meta-schema says what. It takes many times as long.
    error = jsonschema.exceptions.best_match(_META_VALIDATOR.iter_errors(schema))
    if error is None:
        return ""
    where = "/".join(str(part) for part in error.absolute_path)
    return f"{error.message}" + (f" (at {where})" if where else "")


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
    "const": lambda value: True,
    "default": lambda value: True,
    "dependentRequired": lambda value: isinstance(value, dict) and all(map(_is_strings, value.values())),
}
"""Keywords whose value is no schema, and what it must be (JSON Schema 2020-12, its meta-schemas)."""

_ONE_SCHEMA = frozenset(
    "additionalProperties contains contentSchema else if items not propertyNames then unevaluatedItems"
    " unevaluatedProperties".split()
)
_MANY_SCHEMAS = frozenset("allOf anyOf oneOf prefixItems".split())
_NAMED_SCHEMAS = frozenset("$defs definitions dependentSchemas patternProperties properties".split())
_RARE = frozenset("$id $anchor $dynamicAnchor $vocabulary $recursiveRef $recursiveAnchor dependencies".split())
"""Keywords with rules of their own: a schema with one of them is left to the meta-schema."""


class _Limits:
    """Tells well-formed schemas from all others in one pass, and keeps count of what is bounded."""

    def __init__(self) -> None:
        self.subschemas = 0
        self.exceeded = ""

    def holds(self, schema: Any, depth: int) -> bool:
        if isinstance(schema, bool):
            return True
        if not isinstance(schema, dict):
            return False
        self.subschemas += 1
        _spend(1)
        if self.subschemas > MAX_SUBSCHEMAS:
            self.exceeded = f"it has more than {MAX_SUBSCHEMAS} subschemas"
        elif depth > MAX_DEPTH:
            self.exceeded = f"it is nested more than {MAX_DEPTH} levels deep"
        if self.exceeded:
            return False
        return all([self._keyword_holds(keyword, value, depth) for keyword, value in schema.items()])

    def _keyword_holds(self, keyword: str, value: Any, depth: int) -> bool:
        check = _VALUES.get(keyword)
        if check is not None:
            if isinstance(value, int | float) and not -_LARGEST_NUMBER <= value <= _LARGEST_NUMBER:
                self.exceeded = f"{keyword} is a number that no double can hold"
                return False
            return check(value)
        if keyword in _ONE_SCHEMA:
            return self.holds(value, depth + 1)
        if keyword in _MANY_SCHEMAS:
            return isinstance(value, list) and bool(value) and all([self.holds(one, depth + 1) for one in value])
        if keyword in _NAMED_SCHEMAS:
            return isinstance(value, dict) and all([self.holds(one, depth + 1) for one in value.values()])
        return keyword not in _RARE


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
    _budget.remaining = _budget.limit
    _spend(len(text) // 16)
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


def unchecked_patterns(schema: Any) -> list[str]:
    """Returns the regular expressions of a schema that RE2 cannot express, such as lookaheads: they are not checked."""
    patterns: list[str] = []
    pending = [schema]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pattern = value.get("pattern")
            if isinstance(pattern, str) and _expression(pattern) is None:
                patterns.append(pattern)
            properties = value.get("patternProperties")
            if isinstance(properties, dict):
                patterns += [name for name in properties if _expression(name) is None]
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return patterns


def may_match(pattern: str, text: str) -> bool:
    """Tells whether a text matches; True where RE2 cannot express the pattern."""
    expression = _expression(pattern)
    return expression is None or expression.search(text) is not None


def _validator(encoded: bytes) -> Any:
    return _cached_validator(encoded) if len(encoded) <= _LARGEST_CACHED_SCHEMA else _new_validator(encoded)


def _new_validator(encoded: bytes) -> Any:
    # The registry is empty: a reference to a remote schema fails, nothing is ever fetched.
    return _BoundedValidator(msgspec.json.decode(encoded), registry=referencing.Registry())


_cached_validator = lru_cache(maxsize=256)(_new_validator)


@lru_cache(maxsize=1024)
def _expression(pattern: str) -> Any:
    """Returns a pattern compiled by RE2, None where it cannot be."""
    if len(pattern) > MAX_PATTERN_BYTES:
        return None
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20
    try:
        return re2.compile(_in_re2_syntax(pattern), options)
    except re2.error:
        return None


def _in_re2_syntax(pattern: str) -> str:
    r"""Writes ECMAScript's `\uXXXX` as RE2 reads it."""
    pieces = pattern.split("\\\\")
    return "\\\\".join(_with_code_points(piece) for piece in pieces)


def _with_code_points(piece: str) -> str:
    first, *rest = piece.split("\\u")
    written = [first]
    for part in rest:
        code = part[:4]
        is_code = len(code) == 4 and all(digit in "0123456789abcdefABCDEF" for digit in code)
        written.append(f"\\x{{{code}}}{part[4:]}" if is_code else f"\\u{part}")
    return "".join(written)


# --- keywords ---------------------------------------------------------------------------------------------

Keyword = Callable[[Any, Any, Any, Any], Any]


def _counted(name: str, keyword: Keyword) -> Keyword:
    """Makes a keyword take steps: for itself, for the entries of its value, and for each error."""
    own_steps = 5 if name in ("$ref", "$dynamicRef") else 1

    def evaluate(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        _spend(own_steps + (len(value) // 16 if isinstance(value, dict | list) else 0))
        for error in keyword(validator, value, instance, schema) or ():
            _spend(2)
            yield error

    return evaluate


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    if isinstance(instance, str) and not _matches(pattern, instance):
        yield jsonschema.exceptions.ValidationError("does not match the pattern")


def _pattern_properties(validator: Any, patterns: Mapping[str, Any], instance: Any, schema: Any) -> Iterator[Any]:
    if isinstance(instance, dict):
        for pattern, subschema in patterns.items():
            for name, value in instance.items():
                if _expression(pattern) is not None and _matches(pattern, name):
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


def _matches(pattern: str, text: str) -> bool:
    """Tells whether a text matches; every text does where the pattern cannot be checked."""
    _spend(1 + len(text) // 256)
    return may_match(pattern, text)


def _canonical(value: Any) -> Any:
    """Returns a value that is hashable, and equal for equal JSON: 1 is 1.0, but not true."""
    _spend(1)
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, list):
        return tuple(map(_canonical, value))
    if isinstance(value, dict):
        return frozenset((name, _canonical(one)) for name, one in value.items())
    return value


def _mentions(schema: Any, keyword: str) -> bool:
    _spend(1)
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
}
_BoundedValidator: Any = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator, {name: _counted(name, keyword) for name, keyword in _KEYWORDS.items()}
)
_META_VALIDATOR: Any = _BoundedValidator(
    jsonschema.Draft202012Validator.META_SCHEMA, registry=jsonschema_specifications.REGISTRY
)
