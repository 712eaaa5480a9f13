"""Which JSON Schemas Cohere accepts, in `response_format` and in strict tools.

Building a value that fits a schema is `schema_instances.py`.
Source: docs/cohere-api.md#json-schemas.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from gateway.emulator.errors import bad_request, invalid_request, reject_unknown_fields, require_object

UNSUPPORTED_KEYWORDS = (
    "allOf", "oneOf", "not", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    "minItems", "maxItems", "minLength", "maxLength", "uniqueItems", "minProperties", "maxProperties",
    "patternProperties", "if", "then", "else", "contains", "prefixItems",
)  # fmt: skip
FORMATS = ("date-time", "uuid", "date", "time")
TYPES = ("string", "integer", "number", "boolean", "null", "array", "object", "str", "int", "float", "bool")
ANCHORS = re.compile(r"^\^|(?<!\\)\$$|\(\?[=!<]")
# One of these makes the `type` of a property unnecessary.
TYPE_SUBSTITUTES = ("anyOf", "$ref", "enum", "const")
MAX_DEPTH = 40


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_schemas(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict | bool) for item in value)


def _is_schemas_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, dict | bool) for item in value.values())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


# keyword -> whether a value makes a schema at all. Other rules have better sentences for `type` and `properties`.
KEYWORD_CHECKS: dict[str, Callable[[Any], bool]] = {
    "type": lambda value: isinstance(value, str) or _is_texts(value),
    "required": _is_texts,
    "enum": lambda value: isinstance(value, list),
    "items": lambda value: isinstance(value, dict | bool),
    **dict.fromkeys(("pattern", "format", "$ref", "description"), lambda value: isinstance(value, str)),
    **dict.fromkeys(("properties", "$defs", "$def", "definitions"), _is_schemas_by_name),
    **dict.fromkeys(("anyOf", "oneOf", "allOf"), _is_schemas),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _is_number),
    "multipleOf": lambda value: _is_number(value) and value > 0,
    **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength"), _is_size),
}


def response_format(name: str, value: Any, page: str) -> None:
    """Checks `{type, json_schema}`. The schema may stand under `schema` too (recorded)."""
    require_object(name, value, page)
    reject_unknown_fields(value, ("type", "json_schema", "schema"), page)
    kind = value.get("type")
    if kind not in ("text", "json_object"):
        raise invalid_request("response_format.type must be one of text, json_object.")  # guessed
    schema = schema_of(value)
    if schema is None:
        return
    if kind == "text":
        raise invalid_request("json_schema requires response_format.type to be json_object.")  # guessed
    check(schema)


def schema_of(value: Mapping[str, Any]) -> Any:
    """Returns the schema of a response_format, under either name, or None."""
    schema = value.get("json_schema")
    return value.get("schema") if schema is None else schema


def check_keywords(schema: Any) -> None:
    """Checks that keywords have values of the right type, so that no code after this has to."""
    for node, _ in walk(schema):
        for keyword, is_valid in KEYWORD_CHECKS.items():
            if node.get(keyword) is not None and not is_valid(node[keyword]):
                raise invalid_request(f"invalid value for keyword '{keyword}' in json_schema")  # guessed


def check(schema: Any, allow: Collection[str] = ()) -> None:
    """Checks a whole schema. `allow` are unsupported keywords that are accepted here."""
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise bad_request("schema must be an object")
    for node, _ in walk(schema):
        for keyword in UNSUPPORTED_KEYWORDS:
            if keyword in node and keyword not in allow:
                raise invalid_request(f"unsupported keyword '{keyword}' in json_schema")
    check_keywords(schema)
    for node, _ in walk(schema):
        _check_node(node)


def check_property_types(schema: Mapping[str, Any]) -> None:
    """Checks that every property, at every depth, names its type."""
    for node, _ in walk(schema):
        _check_properties(node)


def count_properties(schema: Mapping[str, Any]) -> int:
    """Returns the number of properties at all depths."""
    return sum(len(node.get("properties") or ()) for node, _ in walk(schema))


def walk(schema: Any, depth: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Yields every schema inside a schema with its depth, itself first."""
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return
    yield schema, depth
    for holder in ("properties", "$defs", "$def", "definitions"):
        inner = schema.get(holder)
        if isinstance(inner, dict):
            for item in inner.values():
                yield from walk(item, depth + 1)
    for holder in ("items", "additionalProperties"):
        yield from walk(schema.get(holder), depth + 1)
    for holder in ("anyOf", "oneOf", "allOf"):
        options = schema.get(holder)
        for item in options if isinstance(options, list) else ():
            yield from walk(item, depth + 1)


def _check_node(node: Mapping[str, Any]) -> None:
    kind = node.get("type")
    for name in kind if isinstance(kind, list) else [kind]:
        if name is not None and name not in TYPES:
            raise invalid_request(f"unsupported type '{name}' in json_schema")  # guessed
    if "format" in node and node["format"] not in FORMATS:
        raise invalid_request(f"unsupported format '{node['format']}' in json_schema")  # guessed
    pattern = node.get("pattern")
    if isinstance(pattern, str) and ANCHORS.search(pattern):
        raise invalid_request("unsupported anchor or lookaround in pattern in json_schema")  # guessed
    _check_properties(node)
    if kind != "object":
        return
    properties = node.get("properties") or {}
    required = node.get("required") or []
    if not required:
        raise invalid_request(
            "at least one required field must be specified for every object in json_schema"
        )  # guessed
    for name in required:
        if name not in properties:
            raise bad_request(f"required field {name} not found in properties")


def _check_properties(node: Mapping[str, Any]) -> None:
    properties = node.get("properties")
    if properties is None:
        return
    require_object("properties", properties)
    for name, item in properties.items():
        require_object(name, item)
        if item.get("type") is None and not any(substitute in item for substitute in TYPE_SUBSTITUTES):
            raise bad_request(f"property {name} must have a type")
