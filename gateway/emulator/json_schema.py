"""Which JSON Schemas Cohere takes: the rules of response_format and of strict tools.

Source: docs/cohere-api.md#json-schemas. Making a value that fits a schema is `schema_instances.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gateway.emulator.refusals import bare, invalid, unknown_field, wrong_type

UNSUPPORTED = (
    "allOf", "oneOf", "not", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    "minItems", "maxItems", "minLength", "maxLength", "uniqueItems", "minProperties", "maxProperties",
    "patternProperties", "if", "then", "else", "contains", "prefixItems",
)  # fmt: skip
FORMATS = ("date-time", "uuid", "date", "time")
TYPES = ("string", "integer", "number", "boolean", "null", "array", "object", "str", "int", "float", "bool")
ANCHORS = re.compile(r"^\^|(?<!\\)\$$|\(\?[=!<]")
# A property without `type` passes when one of these says what it is.
TYPE_SUBSTITUTES = ("anyOf", "$ref", "enum", "const")
DEEPEST = 40


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _schemas(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict | bool) for item in value)


def _named_schemas(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, dict | bool) for item in value.values())


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


# What a keyword's value must be for the text to be a schema at all. `type` and `properties` are named here too,
# although other rules have finer sentences for them.
FORMS: dict[str, Callable[[Any], bool]] = {
    "type": lambda value: isinstance(value, str) or _texts(value),
    "required": _texts,
    "enum": lambda value: isinstance(value, list),
    "items": lambda value: isinstance(value, dict | bool),
    **dict.fromkeys(("pattern", "format", "$ref", "description"), lambda value: isinstance(value, str)),
    **dict.fromkeys(("properties", "$defs", "$def", "definitions"), _named_schemas),
    **dict.fromkeys(("anyOf", "oneOf", "allOf"), _schemas),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _number),
    "multipleOf": lambda value: _number(value) and value > 0,
    **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength"), _size),
}


def response_format(name: str, value: Any, page: str) -> None:
    """`{type, json_schema | schema}`; both names of the schema are in use (recorded: `schema`)."""
    if not isinstance(value, dict):
        raise wrong_type(name, value, "Object", page)
    for field in value:
        if field not in ("type", "json_schema", "schema"):
            raise unknown_field(field, page)
    kind = value.get("type")
    if kind not in ("text", "json_object"):
        raise invalid("response_format.type must be one of text, json_object.")  # guessed
    schema = schema_of(value)
    if schema is None:
        return
    if kind == "text":
        raise invalid("json_schema requires response_format.type to be json_object.")  # guessed
    check(schema)


def schema_of(value: Mapping[str, Any]) -> Any:
    """The schema under either name; None when there is none."""
    given = value.get("json_schema")
    return value.get("schema") if given is None else given


def check_form(schema: Any) -> None:
    """Keywords have values of the right kind, so that nobody further on has to doubt it."""
    for node, _ in walk(schema):
        for keyword, fits in FORMS.items():
            if node.get(keyword) is not None and not fits(node[keyword]):
                raise invalid(f"invalid value for keyword '{keyword}' in json_schema")  # guessed


def check(schema: Any, allow: Sequence[str] = ()) -> None:
    """The whole schema: an object on top, typed properties, something required at each level."""
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise bare("schema must be an object")
    for node, _ in walk(schema):
        for keyword in UNSUPPORTED:
            if keyword in node and keyword not in allow:
                raise invalid(f"unsupported keyword '{keyword}' in json_schema")
    check_form(schema)
    for node, _ in walk(schema):
        _node(node)


def check_typed(schema: Mapping[str, Any]) -> None:
    """Only the rule that every property names its type."""
    for node, _ in walk(schema):
        _typed(node)


def count_properties(schema: Mapping[str, Any]) -> int:
    """Fields at all depths."""
    return sum(len(node.get("properties") or ()) for node, _ in walk(schema))


def walk(schema: Any, depth: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Every schema inside a schema, itself first."""
    if not isinstance(schema, dict) or depth > DEEPEST:
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


def _node(node: Mapping[str, Any]) -> None:
    kind = node.get("type")
    for named in kind if isinstance(kind, list) else [kind]:
        if named is not None and named not in TYPES:
            raise invalid(f"unsupported type '{named}' in json_schema")  # guessed
    if "format" in node and node["format"] not in FORMATS:
        raise invalid(f"unsupported format '{node['format']}' in json_schema")  # guessed
    pattern = node.get("pattern")
    if isinstance(pattern, str) and ANCHORS.search(pattern):
        raise invalid("unsupported anchor or lookaround in pattern in json_schema")  # guessed
    _typed(node)
    if kind != "object":
        return
    properties = node.get("properties") or {}
    required = node.get("required") or []
    if not required:
        raise invalid("at least one required field must be specified for every object in json_schema")  # guessed
    for name in required:
        if name not in properties:
            raise bare(f"required field {name} not found in properties")


def _typed(node: Mapping[str, Any]) -> None:
    properties = node.get("properties")
    if properties is None:
        return
    if not isinstance(properties, dict):
        raise wrong_type("properties", properties, "Object", "chat")
    for name, item in properties.items():
        if not isinstance(item, dict):
            raise wrong_type(name, item, "Object", "chat")
        if item.get("type") is None and not any(substitute in item for substitute in TYPE_SUBSTITUTES):
            raise bare(f"property {name} must have a type")
