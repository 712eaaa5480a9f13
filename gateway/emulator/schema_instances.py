"""Builds a value that fits a JSON Schema, with the words of a text in it where they fit.

It handles nested objects, $ref, alternatives, enum, const, arrays, formats, patterns and limits, and never fails: what
it does not understand becomes a harmless value of the right type. `schema_validation.py` says which schemas are valid.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import re2

from gateway.emulator.errors import invalid_request
from gateway.emulator.extraction import MISSING, ValueExtractor, in_range
from gateway.emulator.keywords import keywords
from gateway.emulator.patterns import matching_text

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
        """Return a value for the field of that name."""
        resolved = self.resolve(schema)
        if "const" in resolved:
            return resolved["const"]
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
        """Return a value from the text that obeys the schema, or MISSING."""
        value = fit_length(self.extractor.extract(name, schema), schema)
        return value if value is not MISSING and self._obeys_limits(value, schema) else MISSING

    def _obeys_limits(self, value: Any, schema: Schema) -> bool:
        """Whether a value of the right type obeys the other limits of a resolved schema."""
        if isinstance(value, str):
            return len(value) >= (schema.get("minLength") or 0) and _matches(schema.get("pattern"), value)
        if isinstance(value, list):
            items = self.resolve(schema.get("items") or {})
            return len(value) >= (schema.get("minItems") or 0) and all(
                self._obeys_limits(item, items) for item in value
            )
        return isinstance(value, bool) or not isinstance(value, int | float) or in_range(value, schema)

    def resolve(self, schema: Any) -> Schema:
        """Return the schema behind references and alternatives, with a single type."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise invalid_request("the schema is too complex for the emulator")
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
            if properties:
                merged |= {"properties": properties, "required": required}
        return merged

    def _follow(self, reference: Any) -> Any:
        """Return the schema at a JSON pointer, or that of any string."""
        schema: Any = self.root
        for step in str(reference).removeprefix("#").strip("/").split("/"):
            if step:
                step = step.replace("~1", "/").replace("~0", "~")
                schema = schema.get(step) if isinstance(schema, Mapping) else None
        return schema if schema is not None else {"type": "string"}

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        required = schema.get("required") or ()
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
            instance.setdefault(name, keywords(self.extractor.text))
        return instance

    def _property(self, item: Any, name: str, depth: int) -> Any:
        """Return a property's value, or null where a schema that contains itself is deep enough."""
        if depth >= MAX_OPTIONAL_DEPTH and _nullable(item):
            return None
        if depth >= MAX_DEPTH and "$ref" in json.dumps(item):
            return None
        return self.build(item, name, depth + 1)

    def _mentioned(self, item: Any, name: str) -> Any:
        """Return the value of an optional property that the text clearly mentions, or MISSING."""
        resolved = self.resolve(item)
        if resolved.get("type") in ("string", "str", "array", "object") and "enum" not in resolved:
            return MISSING
        if resolved.get("default") is not None and not _mentions(self.extractor.text, name, resolved):
            return MISSING
        return self._extract(name, resolved)

    def _array(self, schema: Schema, name: str, depth: int) -> list[Any]:
        length = min(schema.get("minItems") or 0, MAX_ITEMS)
        if schema.get("maxItems") == 0 or (depth >= MAX_OPTIONAL_DEPTH and not length):
            return []
        singular = name[:-1] if name.endswith("s") else name
        return [self.build(schema.get("items") or {}, singular, depth + 1) for _ in range(max(1, length))]

    def _string(self, schema: Schema, name: str) -> str:
        if "pattern" in schema:
            return matching_text(schema["pattern"]) or "a"
        if schema.get("format") in FORMAT_EXAMPLES:
            return FORMAT_EXAMPLES[schema["format"]]
        last = name.lower().split("_")[-1]
        return str(fit_length(FORMAT_EXAMPLES.get(last) or keywords(self.extractor.text) or "text", schema))


def fit_length(value: Any, schema: Schema) -> Any:
    """Return a list or a text cut to the schema's maximum, a text padded to its minimum too."""
    if isinstance(value, list):
        return value[: schema.get("maxItems")]
    if not isinstance(value, str) or "pattern" in schema or "enum" in schema:
        return value
    return value[: schema.get("maxLength")].ljust(min(schema.get("minLength") or 0, MAX_TEXT), "x")


def _first_non_null(options: list[Any]) -> Schema:
    schemas = [option for option in options if isinstance(option, Mapping) and option.get("type") != "null"]
    return next(iter(schemas), {"type": "null"})


def _number(schema: Schema, *, whole: bool) -> int | float:
    """Return the simplest number within the limits, or 1 if there is none."""
    step = schema.get("multipleOf") or 1
    limits = [schema[name] for name in LIMITS if name in schema]
    candidates: list[float] = [1, 0]
    for limit in limits:
        near = math.floor(limit / step) * step
        candidates += [limit, near, near + step, near - step]
    candidates += [(left + right) / 2 for left in limits for right in limits if left < right]
    for value in candidates:
        if whole and value != int(value):
            continue
        if in_range(value, schema):
            return int(value) if value == int(value) else value
    return 1


def _matches(pattern: str | None, value: str) -> bool:
    try:
        return pattern is None or re2.search(pattern, value) is not None
    except re2.error:
        return True


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
