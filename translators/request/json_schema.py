"""Checks JSON Schemas of callers, and reduces them to the dialect that Cohere compiles.

Cohere compiles a schema into a grammar and refuses what it cannot compile (docs/cohere-api.md#json-schemas). There is
no `allOf`, `oneOf` or `not`, no bounds, no anchors or lookaheads in a pattern, and few formats. Each object needs at
least one required property, and each property a type. Keywords that are removed are returned, so that they can be noted
and, for `strict`, checked in the answer.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec
import referencing
import referencing.exceptions
from referencing.jsonschema import DRAFT202012

from translators.core.errors import InvalidField
from translators.core.notes import Notes
from translators.request import satisfiability, schema_validation
from translators.request.check_budget import TooExpensive, is_generous
from translators.request.patterns import unchecked_patterns

UNSUPPORTED_KEYWORDS = frozenset(
    {
        *("allOf", "oneOf", "not", "if", "then", "else"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minItems", "maxItems", "uniqueItems", "contains", "minContains", "maxContains", "prefixItems"),
        *("minLength", "maxLength", "minProperties", "maxProperties"),
        *("patternProperties", "propertyNames", "dependencies", "dependentRequired", "dependentSchemas"),
        *("unevaluatedProperties", "unevaluatedItems", "additionalItems"),
    }
)

SILENT_KEYWORDS = frozenset({"title", "default", "examples", "example", "$schema", "$id", "$comment", "deprecated"})
"""Keywords that constrain nothing: removed without a note."""

FORMATS = frozenset({"date-time", "uuid", "date", "time"})

_UNSUPPORTED_IN_PATTERNS = ("^", "$", "(?=", "(?!", "(?<")

_NO_SCHEMAS = frozenset({"enum", "const", "default", "examples", "example"})
"""Keywords whose values are instances, so that nothing in them is a schema, whatever it looks like."""

_SUBSCHEMAS = ("properties", "$defs", "definitions", "$def")
_TYPE_OF = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    type(None): "null",
    list: "array",
}


def check(schema: Mapping[str, Any], param: str) -> None:
    """Raises InvalidField for an invalid JSON Schema, and for one that is too large to check.

    Raises TooExpensive on the event loop where the check takes long: the caller then repeats it in a thread
    (docs/decisions.md#translations-are-made-again-in-a-thread).
    """
    try:
        violation = schema_validation.schema_violation(msgspec.json.encode(schema))
    except RecursionError as error:
        raise InvalidField(param, f"Invalid schema for '{param}': nested too deeply") from error
    except TooExpensive as error:
        if not is_generous():
            raise
        raise InvalidField(param, f"Invalid schema for '{param}': checking it takes too long") from error
    if violation:
        raise InvalidField(param, f"Invalid schema for '{param}': {violation}", "invalid_schema")


def note_oddities(schema: Mapping[str, Any], where: str, notes: Notes) -> None:
    """Notes what is wrong with a schema that is sent anyway. Raises InvalidField where it is nested too deeply.

    Raises TooExpensive on the event loop where the check takes long.
    """
    try:
        violation = schema_validation.schema_violation(msgspec.json.encode(schema))
        patterns = unchecked_patterns(schema)
    except RecursionError as error:
        raise InvalidField(where, f"Invalid schema for '{where}': nested too deeply") from error
    except TooExpensive:
        if not is_generous():
            raise
        return
    if violation:
        notes.inform(where, f"{where} is no JSON Schema, Cohere may refuse it: {violation}")
    elif patterns:
        notes.inform(where, f"{where}: the pattern {patterns[0]} is left to Cohere")


def note_unchecked_patterns(schema: Mapping[str, Any], where: str, notes: Notes) -> None:
    """Notes that an answer will not be checked for some pattern. Raises InvalidField where there are too many.

    Raises TooExpensive on the event loop where that takes long.
    """
    try:
        patterns = unchecked_patterns(schema)
    except TooExpensive as error:
        if not is_generous():
            raise
        raise InvalidField(where, f"Invalid schema for '{where}': checking its patterns takes too long") from error
    if patterns:
        notes.ignored("response_format", f"the answer is not checked for the pattern {patterns[0]}")


def check_satisfiable(schema: Mapping[str, Any], param: str) -> None:
    """Raises InvalidField on a schema that no value can satisfy, with the keyword that makes it so.

    Raises TooExpensive on the event loop where the search takes long.
    """
    encoded = msgspec.json.encode(schema)
    # Schemas come again with every turn of a conversation; large ones would fill the cache.
    small = len(encoded) <= schema_validation.LARGEST_CACHED_SCHEMA
    # By its bytes: equal schemas of different requests share one search.
    reason = _cached_contradiction(encoded) if small else satisfiability.contradiction(schema)
    if reason:
        message = f"Invalid schema for '{param}': no value can satisfy it: {reason}"
        raise InvalidField(param, message, "invalid_schema")


@lru_cache(maxsize=256)
def _cached_contradiction(encoded: bytes) -> str:
    return satisfiability.contradiction(msgspec.json.decode(encoded))


def check_references(schema: Mapping[str, Any], param: str) -> None:
    """Raises InvalidField for a `$ref` that leads nowhere. References to other documents do: nothing is fetched."""
    broken = _broken_reference(msgspec.json.encode(schema))
    if broken:
        raise InvalidField(
            param, f"Invalid schema for '{param}': its reference '{broken}' leads nowhere", "invalid_schema"
        )


@lru_cache(maxsize=64)
def _broken_reference(encoded: bytes) -> str:
    schema = msgspec.json.decode(encoded)
    references = list(_references(schema))
    dynamic: list[str] = []
    if b'"$dynamicRef"' in encoded:
        dynamic = [one for one in _dynamic_references(schema) if one[:1] == "#" and one[1:2] not in ("", "/")]
    anchors = set(_anchors(schema)) if dynamic else set()
    if broken := next((one for one in dynamic if one[1:] not in anchors), ""):
        return broken
    if not references:
        return ""
    # The registry is empty and has no retriever, so that no reference can make the gateway fetch a URL.
    resolver = referencing.Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
    for reference in references:
        try:
            resolver.lookup(reference)
        except (referencing.exceptions.Unresolvable, ValueError):
            return reference
    return ""


def _references(schema: Any) -> Iterator[str]:
    """Yields every `$ref` of a schema. Subschemas with an `$id` are skipped: their references have another base."""
    if isinstance(schema, dict):
        reference = schema.get("$ref")
        if isinstance(reference, str):
            yield reference
        for key, value in schema.items():
            if key not in _NO_SCHEMAS and not (isinstance(value, dict) and isinstance(value.get("$id"), str)):
                yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _dynamic_references(schema: Any) -> Iterator[str]:
    """Yields every `$dynamicRef` of a schema."""
    for one in _objects(schema):
        if isinstance(one.get("$dynamicRef"), str):
            yield one["$dynamicRef"]


def _anchors(schema: Any) -> Iterator[str]:
    """Yields the names that references may have, wherever they are."""
    for one in _objects(schema):
        yield from (one[key] for key in ("$anchor", "$dynamicAnchor") if isinstance(one.get(key), str))


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yields every object in a schema, values of examples and the like apart."""
    if isinstance(value, dict):
        yield value
        for key, one in value.items():
            if key not in _NO_SCHEMAS:
                yield from _objects(one)
    elif isinstance(value, list):
        for one in value:
            yield from _objects(one)


def compilable_subset(schema: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns the schema in Cohere's dialect, and the sorted keywords that were removed or weakened."""
    removed: set[str] = set()
    return _clean(dict(schema), removed), sorted(removed)


def _clean(schema: dict[str, Any], removed: set[str]) -> dict[str, Any]:
    clean: dict[str, Any] = {}
    for key, value in schema.items():
        # Silent ones are annotations, such as a title. That they go changes nothing that could be checked.
        if key in UNSUPPORTED_KEYWORDS or key in SILENT_KEYWORDS:
            if key in UNSUPPORTED_KEYWORDS:
                removed.add(key)
        elif key in _SUBSCHEMAS and isinstance(value, dict):
            clean[key] = {name: _clean_any(sub, removed) for name, sub in value.items()}
        elif key == "items" or (key == "additionalProperties" and isinstance(value, dict)):
            clean[key] = _clean_any(value, removed)
        elif key == "anyOf" and isinstance(value, list):
            clean[key] = [_clean_any(sub, removed) for sub in value]
        # Cohere would refuse the whole schema over one format. Without it the text is merely unchecked.
        elif key == "format" and value not in FORMATS:
            removed.add("format")
        elif key == "pattern" and any(token in str(value) for token in _UNSUPPORTED_IN_PATTERNS):
            removed.add("pattern")
        else:
            clean[key] = value
    _merge_composites(schema, clean, removed)
    _require_something(clean, removed)
    _name_the_type(clean)
    return clean


def _clean_any(schema: Any, removed: set[str]) -> Any:
    return _clean(schema, removed) if isinstance(schema, dict) else schema


def _merge_composites(schema: dict[str, Any], clean: dict[str, Any], removed: set[str]) -> None:
    """Turns `oneOf` into `anyOf`, and merges an `allOf` of one schema into its parent."""
    # `anyOf` admits values that match two branches, so `oneOf` stays among the removed keywords.
    one_of = schema.get("oneOf")
    if isinstance(one_of, list) and "anyOf" not in clean:
        clean["anyOf"] = [_clean_any(sub, removed) for sub in one_of]
    all_of = schema.get("allOf")
    if isinstance(all_of, list) and len(all_of) == 1 and isinstance(all_of[0], dict):
        # It was not lost after all, but merged.
        removed.discard("allOf")
        clean.update(_clean(all_of[0], removed))


def _require_something(clean: dict[str, Any], removed: set[str]) -> None:
    """Requires the first property of an object that requires none, because Cohere demands at least one."""
    properties = clean.get("properties")
    if isinstance(properties, dict) and properties:
        schema_required = clean.get("required") or []
        # Cohere refuses a schema that requires a name which is no property.
        required = [name for name in schema_required if name in properties]
        # Any of them would do for Cohere. The first, so that equal schemas stay equal.
        clean["required"] = required or [next(iter(properties))]
        if not required or len(required) != len(schema_required):
            removed.add("required")
        clean.setdefault("type", "object")


def _name_the_type(clean: dict[str, Any]) -> None:
    """Turns a list of types into `anyOf`, and gives a bare enum or const the type of its values."""
    kind = clean.get("type")
    if isinstance(kind, list):
        # The description is one of the property, whichever type its value has.
        rest = {key: clean.pop(key) for key in list(clean) if key not in ("description",)}
        clean["anyOf"] = [{**_rest_for(one, rest), "type": one} for one in kind]
    elif kind is None and ("enum" in clean or "const" in clean):
        values = clean.get("enum") or [clean.get("const")]
        kinds = {_TYPE_OF.get(type(value)) for value in values}
        if len(kinds) == 1 and None not in kinds:
            clean["type"] = kinds.pop()


def _rest_for(kind: str, rest: dict[str, Any]) -> dict[str, Any]:
    """Returns the keywords for one of several types: none for null, an enum without null for the others."""
    if kind == "null":
        return {}
    keywords = {key: value for key, value in rest.items() if key != "type"}
    if "enum" in keywords:
        keywords["enum"] = [value for value in keywords["enum"] if value is not None]
    return keywords


_TYPE_KEYWORDS = ("type", "anyOf", "$ref", "enum", "const")
_ANY_TYPE = [{"type": kind} for kind in ("string", "number", "boolean", "object", "array", "null")]


def with_types(schema: Any) -> Any:
    """Returns the schema with a type for each property: one without a type gets `anyOf` of all types.

    Older models refuse a parameter without a type (docs/cohere-api.md#tools).
    """
    if not isinstance(schema, dict):
        return schema
    schema_copy = dict(schema)
    for table in _SUBSCHEMAS:
        if isinstance(schema.get(table), dict):
            schema_copy[table] = {name: with_types(below) for name, below in schema[table].items()}
    for key in ("items", "additionalProperties"):
        if key in schema:
            schema_copy[key] = with_types(schema[key])
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(key), list):
            schema_copy[key] = [with_types(below) for below in schema[key]]
    if isinstance(schema_copy.get("properties"), dict):
        schema_copy["properties"] = {name: _with_type(below) for name, below in schema_copy["properties"].items()}
    return schema_copy


def _with_type(schema: Any) -> Any:
    if schema is True:
        return {"anyOf": _ANY_TYPE}
    if not isinstance(schema, dict) or any(word in schema for word in _TYPE_KEYWORDS):
        return schema
    rest = {key: value for key, value in schema.items() if key != "oneOf"}
    return {**rest, "anyOf": schema.get("oneOf", _ANY_TYPE)}


def compilable(clean: Any) -> bool:
    """Returns whether Cohere can compile a schema that `compilable_subset` returned.

    Its grammar has no object of any keys and no value of any type: each object must require a property, and each
    property must have a type (docs/cohere-api.md#json-schemas).
    """
    if not isinstance(clean, dict):
        return True
    properties = clean.get("properties") or {}
    # Such an object would be refused, and in the prompt or as a tool it works.
    if clean.get("type") == "object" and not properties:
        return False
    if not all(isinstance(one, dict) and any(word in one for word in _TYPE_KEYWORDS) for one in properties.values()):
        return False
    below = [one for table in _SUBSCHEMAS if isinstance(clean.get(table), dict) for one in clean[table].values()]
    below += [clean.get("items"), clean.get("additionalProperties"), *(clean.get("anyOf") or ())]
    return all(map(compilable, below))


# --- odd schemas ---------------------------------------------------------------------------------------------

TYPE_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("int", "long", "int32", "int64"), "integer"),
    **dict.fromkeys(("float", "double", "decimal", "numeric"), "number"),
    **dict.fromkeys(("str", "text", "date", "datetime", "uuid"), "string"),
    **dict.fromkeys(("dict", "map", "mapping", "struct", "record"), "object"),
    **dict.fromkeys(("list", "tuple", "set", "sequence"), "array"),
    **dict.fromkeys(("bool",), "boolean"),
    **dict.fromkeys(("none", "nonetype", "nil"), "null"),
}
"""Names of types in the schemas of tools that programs generate -> JSON's names."""

_JSON_TYPES = frozenset(("object", "array", "string", "number", "integer", "boolean", "null"))
_SCHEMA_TABLES = (*_SUBSCHEMAS, "patternProperties", "dependentSchemas")
_SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMA_VALUES = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")


def tidy(schema: dict[str, Any], changes: dict[str, str]) -> dict[str, Any]:
    """Returns a schema with JSON's names of types and without keywords that are null.

    changes: is filled with what was changed -> what it became.
    """
    clean: dict[str, Any] = {}
    for key, value in schema.items():
        if value is None and key not in _NO_SCHEMAS:
            changes[f"{key} null"] = "nothing"
        elif key == "type" and isinstance(value, str | list):
            clean[key] = _json_type(value, changes)
            # JSON has no type `any`. A schema without a type allows every value.
            if clean[key] == "any":
                del clean[key]
        elif key in _SCHEMA_TABLES and isinstance(value, dict):
            clean[key] = {name: _tidy_any(below, changes) for name, below in value.items()}
        elif key in _SCHEMA_LISTS and isinstance(value, list):
            clean[key] = [_tidy_any(below, changes) for below in value]
        elif key in _SCHEMA_VALUES:
            clean[key] = _tidy_any(value, changes)
        else:
            clean[key] = value
    _lift_required(clean, changes)
    return clean


def _tidy_any(schema: Any, changes: dict[str, str]) -> Any:
    return tidy(schema, changes) if isinstance(schema, dict) else schema


def _json_type(name: str | list[Any], changes: dict[str, str]) -> Any:
    if isinstance(name, list):
        return [_json_type(one, changes) if isinstance(one, str) else one for one in name]
    if name in _JSON_TYPES:
        return name
    lower = name.lower()
    json_type = lower if lower in _JSON_TYPES else TYPE_NAMES.get(lower, "any" if lower == "any" else name)
    if json_type != name:
        changes[f"type {name}"] = json_type
    elif name == "any":
        changes["type any"] = "no type"
    return json_type


def _lift_required(clean: dict[str, Any], changes: dict[str, str]) -> None:
    """Moves `required: true` of a property, as JSON Schema had it long ago, into the object's list."""
    properties = clean.get("properties")
    if not isinstance(properties, dict):
        return
    flagged = [
        name for name, one in properties.items() if isinstance(one, dict) and isinstance(one.get("required"), bool)
    ]
    if not flagged:
        return
    required = [name for name in clean.get("required") or () if isinstance(name, str)]
    required += [name for name in flagged if properties[name]["required"] and name not in required]
    clean["properties"] = {
        name: {key: value for key, value in one.items() if key != "required"} if name in flagged else one
        for name, one in properties.items()
    }
    if required:
        clean["required"] = required
    changes["required true"] = "a list of names"


# --- the root of a schema ----------------------------------------------------------------------------------


def inline_root_reference(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns a schema whose root is a reference with its target as the root: Cohere requires an object there."""
    reference = schema.get("$ref")
    if isinstance(reference, str):
        for table in ("$defs", "definitions"):
            target = schema.get(table, {}).get(reference.removeprefix(f"#/{table}/"))
            if isinstance(target, dict):
                # The definitions stay: others may be referred to from inside, the target itself included.
                return {**target, table: schema[table]}
    return schema


def is_object(schema: Mapping[str, Any]) -> bool:
    """Returns whether the root of a schema is an object, by its type or by its properties."""
    return schema.get("type") == "object" or ("type" not in schema and "properties" in schema)


def wrap(schema: dict[str, Any], key: str) -> dict[str, Any]:
    """Returns the schema of an object that has an instance of this schema under `key`."""
    # Definitions move to the new root, because references to them begin there (`#/$defs/...`).
    inner = {name: value for name, value in schema.items() if name not in ("$defs", "definitions")}
    moved: dict[str, Any] = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    return {"type": "object", "properties": {key: inner}, "required": [key], **moved}
