"""A value that fits a JSON Schema, with the words of a text in it where they fit.

Nested objects, $ref, anyOf with null, enum, const, arrays, formats, patterns and ranges. It never fails:
what it does not understand becomes a harmless value of the right type. Which schemas are legal is
`json_schema.py`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from gateway.emulator.extraction import MISSING, Drawing, salient, within
from gateway.emulator.patterns import example

Schema = Mapping[str, Any]

FORMATS = {
    "date-time": "2025-01-01T12:00:00Z", "date": "2025-01-01", "time": "12:00:00Z", "duration": "PT1H",
    "uuid": "3f2504e0-4f89-41d3-9a0c-0305e82c3301", "email": "someone@example.com", "hostname": "example.com",
    "uri": "https://example.com/", "url": "https://example.com/", "ipv4": "192.0.2.1", "ipv6": "2001:db8::1",
}  # fmt: skip
DEEPEST = 12
MOST_ITEMS, LONGEST_TEXT = 100, 10_000  # a schema may ask for more; it does not get it
LIMITS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")


class Maker:
    """Makes the instances of one schema document (the root is needed to follow $ref)."""

    def __init__(self, root: Schema, drawing: Drawing, *, sparing: bool) -> None:
        self.root = root
        self.drawing = drawing
        self.sparing = sparing  # leave out optional fields for which the text offers nothing

    def make(self, schema: Any, name: str = "", depth: int = 0) -> Any:
        """One value."""
        resolved = self.resolve(schema)
        if "const" in resolved:
            return resolved["const"]
        drawn = fitted(self.drawing.draw(name, resolved), resolved)
        if drawn is not MISSING and self.fits(drawn, resolved):
            return drawn
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

    def fits(self, value: Any, schema: Schema) -> bool:
        """Whether a drawn value keeps to the limits of a resolved schema; its type is right already."""
        if isinstance(value, str):
            return len(value) >= (schema.get("minLength") or 0) and _matches(schema.get("pattern"), value)
        if isinstance(value, list):
            items = self.resolve(schema.get("items") or {})
            return len(value) >= (schema.get("minItems") or 0) and all(self.fits(item, items) for item in value)
        return isinstance(value, bool) or not isinstance(value, int | float) or within(value, schema)

    def resolve(self, schema: Any) -> Schema:
        """The schema behind references and alternatives, with a single type."""
        for _ in range(DEEPEST):
            if not isinstance(schema, Mapping):
                return {"type": "string"}
            if "$ref" in schema:
                schema = self._follow(schema["$ref"])
                continue
            options = schema.get("anyOf") or schema.get("oneOf")
            if options:
                rest = {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf")}
                schema = {**rest, **self._plainest(options)}
                continue
            if schema.get("allOf"):
                schema = self._merged(schema)
                continue
            kind = schema.get("type")
            if isinstance(kind, list):
                return {**schema, "type": next((each for each in kind if each != "null"), "null")}
            return schema
        return {"type": "null"}

    def _merged(self, schema: Schema) -> Schema:
        merged: dict[str, Any] = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            part = self.resolve(part)
            properties = {**merged.get("properties", {}), **part.get("properties", {})}
            required = [*merged.get("required", []), *part.get("required", [])]
            merged |= part
            if properties:
                merged |= {"properties": properties, "required": required}
        return merged

    def _plainest(self, options: list[Any]) -> Schema:
        resolved = [option for option in options if isinstance(option, Mapping) and option.get("type") != "null"]
        return next(iter(resolved), {"type": "null"})

    def _follow(self, reference: Any) -> Any:
        found: Any = self.root
        for step in str(reference).removeprefix("#").strip("/").split("/"):
            if step:
                step = step.replace("~1", "/").replace("~0", "~")
                found = found.get(step) if isinstance(found, Mapping) else None
        return found if found is not None else {"type": "string"}

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        required = schema.get("required") or ()
        made: dict[str, Any] = {}
        for name, item in (schema.get("properties") or {}).items():
            if name in required:
                made[name] = self._tied(item, name, depth)
            elif self.sparing:
                drawn = self._optional(item, name)
                if drawn is not MISSING:
                    made[name] = drawn
            elif depth < DEEPEST // 3:
                made[name] = self._tied(item, name, depth)
        for name in required:
            made.setdefault(name, salient(self.drawing.text))
        return made

    def _tied(self, item: Any, name: str, depth: int) -> Any:
        """A field's value, unless a schema that contains itself has gone deep enough."""
        if depth >= DEEPEST // 3 and _nullable(item):
            return None
        if depth >= DEEPEST and "$ref" in json.dumps(item):
            return None
        return self.make(item, name, depth + 1)

    def _optional(self, item: Any, name: str) -> Any:
        """An optional field only when the text clearly speaks of it."""
        resolved = self.resolve(item)
        if resolved.get("type") in ("string", "str", "array", "object") and "enum" not in resolved:
            return MISSING
        if resolved.get("default") is not None and not _mentions(self.drawing.text, name, resolved):
            return MISSING
        drawn = fitted(self.drawing.draw(name, resolved), resolved)
        return drawn if drawn is not MISSING and self.fits(drawn, resolved) else MISSING

    def _array(self, schema: Schema, name: str, depth: int) -> list[Any]:
        least = min(schema.get("minItems") or 0, MOST_ITEMS)
        if schema.get("maxItems") == 0 or (depth >= DEEPEST // 3 and not least):
            return []
        singular = name[:-1] if name.endswith("s") else name
        return [self.make(schema.get("items") or {}, singular, depth + 1) for _ in range(max(1, least))]

    def _string(self, schema: Schema, name: str) -> str:
        if "pattern" in schema:
            return example(schema["pattern"]) or "a"
        if schema.get("format") in FORMATS:
            return FORMATS[schema["format"]]
        lowered = name.lower().split("_")[-1]
        if lowered in FORMATS:
            return str(fitted(FORMATS[lowered], schema))
        return str(fitted(salient(self.drawing.text) or "text", schema))


def fitted(value: Any, schema: Schema) -> Any:
    """A text or a list brought within the schema's upper limit, a short text within the lower one."""
    if isinstance(value, list):
        return value[: schema.get("maxItems")]
    if not isinstance(value, str) or "pattern" in schema or "enum" in schema:
        return value
    return value[: schema.get("maxLength")].ljust(min(schema.get("minLength") or 0, LONGEST_TEXT), "x")


def _number(schema: Schema, *, whole: bool) -> int | float:
    """The plainest number within the limits; 1 when there is none."""
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
        if within(value, schema):
            return int(value) if value == int(value) else value
    return 1


def _matches(pattern: str | None, value: str) -> bool:
    try:
        return pattern is None or re.search(pattern, value) is not None
    except re.error:
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
    said = [str(choice).lower() for choice in schema.get("enum") or ()]
    return name.lower().replace("_", " ") in lowered or any(choice in lowered for choice in said)
