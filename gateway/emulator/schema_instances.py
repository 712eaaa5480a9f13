"""Builds a value that fits a JSON Schema, with the words of a text in it where they fit.

It handles nested objects, $ref, alternatives, enum, const, arrays, formats, patterns and bounds, and never fails: what
it does not understand becomes a harmless value of the right type. `schema_validation.py` says which schemas are valid.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from gateway.emulator.errors import invalid_request
from gateway.emulator.extraction import MISSING, ValueExtractor, in_range
from gateway.emulator.keywords import keywords
from gateway.emulator.patterns import matching_text, search

Schema = Mapping[str, Any]

FORMAT_EXAMPLES = {
    "date-time": "2025-01-01T12:00:00Z", "date": "2025-01-01", "time": "12:00:00Z", "duration": "PT1H",
    "uuid": "3f2504e0-4f89-41d3-9a0c-0305e82c3301", "email": "someone@example.com", "hostname": "example.com",
    "uri": "https://example.com/", "url": "https://example.com/", "ipv4": "192.0.2.1", "ipv6": "2001:db8::1",
}  # fmt: skip
MAX_DEPTH = 12
MAX_STEPS = 20_000  # of resolving: references can double at each level
MAX_OPTIONAL_DEPTH = 4  # below it, optional fields are left out and nullable ones are null
MAX_ITEMS, MAX_TEXT = 100, 10_000  # even if the schema demands more
LIMITS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")


class InstanceBuilder:
    """Builds instances of one schema document, whose root is needed to follow $ref."""

    def __init__(self, root: Schema, extractor: ValueExtractor, *, omit_optional: bool) -> None:
        self.root = root
        self.extractor = extractor
        self.omit_optional = omit_optional  # unless the text clearly mentions the field
        self._steps = 0

    def build(self, schema: Any, name: str = "", depth: int = 0) -> Any:
        """Returns a value for the field of that name."""
        resolved = self.resolve(schema)
        if "const" in resolved:
            return resolved["const"]
        # What the text says goes before an enum's first value and before a default.
        value = self._extract(name, resolved)
        if value is not MISSING:
            return value
        if "enum" in resolved:
            return next(iter(resolved["enum"]), None)
        if resolved.get("default") is not None:
            return resolved["default"]
        kind = resolved.get("type")
        if kind == "object" or "properties" in resolved:
            return self._object(resolved, depth)
        if kind == "array":
            return self._array(resolved, name, depth)
        if kind in ("integer", "int", "number", "float"):
            return _number(resolved, whole=kind in ("integer", "int"))
        if kind in ("boolean", "bool"):
            return True
        return None if kind == "null" else self._string(resolved, name)

    def _extract(self, name: str, schema: Schema) -> Any:
        """Returns a value from the text that obeys the schema, or MISSING."""
        value = fit_length(self.extractor.extract(name, schema), schema)
        return value if value is not MISSING and self._obeys_limits(value, schema) else MISSING

    def _obeys_limits(self, value: Any, schema: Schema) -> bool:
        """Returns whether a value of the right type obeys the other limits of a resolved schema."""
        if isinstance(value, str):
            long_enough = (schema.get("minLength") or 0) <= len(value) <= (schema.get("maxLength") or len(value))
            return long_enough and ("pattern" not in schema or search(schema["pattern"], value) is not None)
        if isinstance(value, list):
            items = self.resolve(schema.get("items") or {})
            # By their texts, as lists and objects cannot be in a set.
            unique = not schema.get("uniqueItems") or len(set(map(repr, value))) == len(value)
            # What stands where in the list is not to be found in a text.
            special = "prefixItems" in schema or "contains" in schema
            long_enough = len(value) >= (schema.get("minItems") or 0)
            return unique and long_enough and not special and all(self._obeys_limits(item, items) for item in value)
        # To Python a bool is an int, but no limit is meant for it.
        return isinstance(value, bool) or not isinstance(value, int | float) or in_range(value, schema)

    def resolve(self, schema: Any) -> Schema:
        """Returns the schema behind references and alternatives, with a single type."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise invalid_request("the schema is too complex for the emulator")
        # References may go in a circle, so that there is no end to wait for.
        for _ in range(MAX_DEPTH):
            if not isinstance(schema, Mapping):
                return {"type": "string"}
            if "$ref" in schema:
                schema = self._follow(schema["$ref"])
                continue
            options = schema.get("anyOf") or schema.get("oneOf")
            if options:
                rest = {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf")}
                schema = {**rest, **_first_non_null(options)}
                continue
            if schema.get("allOf"):
                schema = self._merge_all_of(schema)
                continue
            kind = schema.get("type")
            if isinstance(kind, list):
                return {**schema, "type": next((each for each in kind if each != "null"), "null")}
            return schema
        return {"type": "null"}

    def _merge_all_of(self, schema: Schema) -> Schema:
        merged: dict[str, Any] = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            part = self.resolve(part)
            properties = {**merged.get("properties", {}), **part.get("properties", {})}
            required = [*merged.get("required", []), *part.get("required", [])]
            merged |= part
            # `|=` has put the last part's properties in the place of all others.
            if properties:
                merged |= {"properties": properties, "required": required}
        return merged

    def _follow(self, reference: Any) -> Any:
        """Returns the schema at a JSON pointer, or that of any string."""
        schema: Any = self.root
        for step in str(reference).removeprefix("#").strip("/").split("/"):
            if step:
                # In this order, or `~01`, which is `~1`, would become a slash (RFC 6901 §4).
                step = step.replace("~1", "/").replace("~0", "~")
                schema = schema.get(step) if isinstance(schema, Mapping) else None
        return schema if schema is not None else {"type": "string"}

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        required = list(schema.get("required") or ())
        for name, others in _mapping(schema.get("dependentRequired")).items():
            required += others if name in required or not self.omit_optional else []
        instance: dict[str, Any] = {}
        for name, item in (schema.get("properties") or {}).items():
            if name in required:
                instance[name] = self._property(item, name, depth)
            elif self.omit_optional:
                value = self._mentioned(item, name)
                if value is not MISSING:
                    instance[name] = value
            elif depth < MAX_OPTIONAL_DEPTH:
                instance[name] = self._property(item, name, depth)
        for name in required:
            # Required, but described nowhere: anything will do.
            instance.setdefault(name, keywords(self.extractor.text))
        return self._fit_size(instance, schema, required, depth)

    def _fit_size(self, instance: dict[str, Any], schema: Schema, required: list[str], depth: int) -> dict[str, Any]:
        """Returns an object with as many properties as `minProperties` and `maxProperties` allow."""
        optional = [name for name in instance if name not in required]
        excess = len(instance) - (schema.get("maxProperties") or len(instance))
        # From the end, so that the properties that are named first stay.
        for name in optional[::-1][: max(0, excess)]:
            del instance[name]
        missing = min(schema.get("minProperties") or 0, MAX_ITEMS) - len(instance)
        for name, item in _mapping(schema.get("properties")).items():
            if missing > 0 and name not in instance:
                instance[name] = self._property(item, name, depth)
                missing -= 1
        extra = schema.get("additionalProperties", {})
        for number in range(missing if extra is not False else 0):
            instance[f"key{number + 1}"] = self._property(extra, "", depth)
        return instance

    def _property(self, item: Any, name: str, depth: int) -> Any:
        """Returns a property's value, or null where a schema that contains itself is deep enough."""
        if depth >= MAX_OPTIONAL_DEPTH and _nullable(item):
            return None
        if depth >= MAX_DEPTH and "$ref" in json.dumps(item):
            return None
        return self.build(item, name, depth + 1)

    def _mentioned(self, item: Any, name: str) -> Any:
        """Returns the value of an optional property that the text clearly mentions, or MISSING."""
        resolved = self.resolve(item)
        # Almost any text would do for it, so that nothing is clearly meant.
        if resolved.get("type") in ("string", "str", "array", "object") and "enum" not in resolved:
            return MISSING
        if resolved.get("default") is not None and not _mentions(self.extractor.text, name, resolved):
            return MISSING
        return self._extract(name, resolved)

    def _array(self, schema: Schema, name: str, depth: int) -> list[Any]:
        length = min(schema.get("minItems") or 0, MAX_ITEMS)
        if schema.get("maxItems") == 0 or (depth >= MAX_OPTIONAL_DEPTH and not length):
            return []
        # A list has its name in the plural; what one item is, is looked for by the singular.
        singular = name[:-1] if name.endswith("s") else name
        first = [self.build(item, singular, depth + 1) for item in schema.get("prefixItems") or ()]
        if "contains" in schema:
            count = min(schema.get("minContains", 1), MAX_ITEMS)
            first += [self.build(schema["contains"], singular, depth + 1) for _ in range(count)]
        items = schema.get("items")
        # One item where none is demanded: an empty list would show nothing of its items.
        rest = 0 if items is False else max(0, max(1, length) - len(first))
        array = first + [self.build(items or {}, singular, depth + 1) for _ in range(rest)]
        return _distinct(array, self.resolve(items or {})) if schema.get("uniqueItems") else array

    def _string(self, schema: Schema, name: str) -> str:
        if "pattern" in schema:
            return matching_text(schema["pattern"], schema.get("minLength") or 0) or "a"
        if schema.get("format") in FORMAT_EXAMPLES:
            return FORMAT_EXAMPLES[schema["format"]]
        last = name.lower().split("_")[-1]
        return str(fit_length(FORMAT_EXAMPLES.get(last) or keywords(self.extractor.text) or "text", schema))


def break_instance(instance: Any, schema: Schema) -> Any:
    """Returns an instance that misses its schema: without a required property, or with a list instead of the first."""
    if not isinstance(instance, dict):
        return {"unexpected": instance}
    required = [name for name in schema.get("required") or () if name in instance]
    if required:
        return {name: value for name, value in instance.items() if name != required[0]}
    return {name: [[value]] if index == 0 else value for index, (name, value) in enumerate(instance.items())}


def _distinct(array: list[Any], schema: Schema) -> list[Any]:
    """Returns the array with other values for those that occur twice, as far as there are others."""
    choices = iter(schema.get("enum") or ())
    distinct: list[Any] = []
    for value in array:
        number = 1
        while value in distinct and number <= MAX_ITEMS:
            value = next(choices, value) if "enum" in schema else _vary(value, number, schema)
            number += 1
        distinct.append(value)
    return distinct


def _vary(value: Any, number: int, schema: Schema) -> Any:
    """Returns another value of the same type."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        step = schema.get("multipleOf") or 1
        # The last one is for a range that is narrower than a step.
        options = (value + number * step, value - number * step, value + number / MAX_ITEMS)
        whole = schema.get("type") in ("integer", "int")
        fitting = [option for option in options if in_range(option, schema) and (not whole or option == int(option))]
        return next(iter(fitting), value)
    if isinstance(value, str):
        suffix = f" {number + 1}"
        return f"{value[: (schema.get('maxLength') or MAX_TEXT) - len(suffix)]}{suffix}"
    if isinstance(value, list):
        return [*value, number]
    properties = _mapping(schema.get("properties"))
    return {
        name: _vary(item, number, _mapping(properties.get(name))) if index == 0 else item
        for index, (name, item) in enumerate(value.items())
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def fit_length(value: Any, schema: Schema) -> Any:
    """Returns a list or a text cut to the schema's maximum, a text padded to its minimum too."""
    if isinstance(value, list):
        return value[: schema.get("maxItems")]
    if not isinstance(value, str) or "pattern" in schema or "enum" in schema:
        return value
    return value[: schema.get("maxLength")].ljust(min(schema.get("minLength") or 0, MAX_TEXT), "x")


def _first_non_null(options: list[Any]) -> Schema:
    schemas = [option for option in options if isinstance(option, Mapping) and option.get("type") != "null"]
    return next(iter(schemas), {"type": "null"})


def _number(schema: Schema, *, whole: bool) -> int | float:
    """Returns the simplest number within the limits, or 1 if there is none."""
    step = schema.get("multipleOf") or 1
    limits = [schema[name] for name in LIMITS if name in schema]
    candidates: list[float] = [1, 0]
    for limit in limits:
        # The multiples of the step around each limit: one of them is within it.
        near = math.floor(limit / step) * step
        candidates += [limit, near, near + step, near - step]
    # For a range that neither a limit nor a multiple is in.
    candidates += [(left + right) / 2 for left in limits for right in limits if left < right]
    for value in candidates:
        if whole and value != int(value):
            continue
        if in_range(value, schema):
            return int(value) if value == int(value) else value
    return 1


def _nullable(item: Any) -> bool:
    if not isinstance(item, Mapping):
        return False
    kinds = item.get("type")
    options = item.get("anyOf") or ()
    return (isinstance(kinds, list) and "null" in kinds) or any(
        isinstance(option, Mapping) and option.get("type") == "null" for option in options
    )


def _mentions(text: str, name: str, schema: Schema) -> bool:
    lowered = text.lower()
    choices = [str(choice).lower() for choice in schema.get("enum") or ()]
    return name.lower().replace("_", " ") in lowered or any(choice in lowered for choice in choices)
