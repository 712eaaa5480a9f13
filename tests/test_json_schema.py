"""JSON Schemas: what is no schema is refused, what Cohere does not know is taken away and told."""

from __future__ import annotations

import copy
import json
from typing import Any

import hypothesis.strategies as st
import jsonschema  # type: ignore[import-untyped, unused-ignore]
import msgspec
import pytest
from hypothesis import given

from gateway.emulator import schema_validation as judge
from gateway.emulator.errors import APIError
from support.transcripts import property_of
from translators.core.errors import InvalidField
from translators.request.check_budget import generous_budget
from translators.request.json_schema import (
    FORMATS,
    SILENT_KEYWORDS,
    UNSUPPORTED_KEYWORDS,
    check,
    check_references,
    compilable,
    compilable_subset,
    with_types,
)
from translators.request.schema_validation import instance_violation

TEXT = {"type": "string"}


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


# --- what is no schema --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        {"type": "thing"},
        {"type": 5},
        {"properties": 5},
        {"properties": {"a": 5}},
        {"required": "a"},
        {"required": [1]},
        {"enum": 5},
        {"items": 5},
        {"minimum": "low"},
        {"anyOf": {}},
        {"type": "object", "properties": {"a": {"type": "text"}}},
    ],
    ids=json.dumps,
)
def test_what_is_no_schema_is_refused(value: Any) -> None:
    with pytest.raises(InvalidField) as caught:
        check(value, "here")
    assert (caught.value.failure.param, caught.value.failure.code) == ("here", "invalid_schema")


@pytest.mark.parametrize(
    "value", [{}, {"type": "object"}, schema(a=TEXT), {"x-of-ours": 1}, {"$ref": "#/$defs/a"}], ids=json.dumps
)
def test_what_is_a_schema_is_not(value: Any) -> None:
    check(value, "here")
    check(value, "here")


def test_a_schema_without_end_is_refused() -> None:
    endless: dict[str, Any] = {}
    for _ in range(100_000):
        endless = {"items": endless}
    with pytest.raises(InvalidField, match="nested too deeply"):
        check(endless, "here")


REFERENCES: tuple[tuple[str, Any, bool], ...] = (
    # name, a schema, it leads somewhere
    ("to a definition", {**schema(a={"$ref": "#/$defs/A"}), "$defs": {"A": TEXT}}, True),
    ("to an old one", {**schema(a={"$ref": "#/definitions/A"}), "definitions": {"A": TEXT}}, True),
    ("to the whole", schema(a={"type": "array", "items": {"$ref": "#"}}), True),
    ("to an anchor", {**schema(a={"$ref": "#here"}), "$defs": {"A": {"$anchor": "here", "type": "string"}}}, True),
    ("by the schema's own id", {"$id": "urn:a", "$ref": "#/$defs/A", "$defs": {"A": TEXT}}, True),
    ("inside a part of its own", schema(a={"$id": "urn:b", "$ref": "#/$defs/A", "$defs": {"A": TEXT}}), True),
    ("a property of that name", schema(**{"$ref": TEXT}), True),
    ("in an instance", schema(a={"enum": [{"$ref": "#/nowhere"}]}), True),
    ("nowhere", schema(a={"$ref": "#/$defs/A"}), False),
    ("nowhere, below", schema(a={"anyOf": [{"items": {"$ref": "#/$defs/A"}}]}), False),
    ("to another place", schema(a={"$ref": "https://example.com/a.json"}), False),
    ("to no address", schema(a={"$ref": "http://[x"}), False),
)


@pytest.mark.parametrize(("value", "leads"), [row[1:] for row in REFERENCES], ids=[row[0] for row in REFERENCES])
def test_a_reference_that_leads_nowhere_is_refused(value: Any, leads: bool) -> None:
    if leads:
        check_references(value, "here")
        instance_violation(msgspec.json.encode(value), "{}")
        return
    with pytest.raises(InvalidField) as caught:
        check_references(value, "here")
    assert (caught.value.failure.param, caught.value.failure.code) == ("here", "invalid_schema")


def test_a_reference_to_itself_satisfies_nobody() -> None:
    lost = schema(a={"$id": "urn:a", "$ref": "#/$defs/A"})
    check_references(lost, "here")
    assert instance_violation(msgspec.json.encode(lost), '{"a": 1}') == "the schema has a $ref that leads nowhere"
    circle = {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}
    with generous_budget():
        assert instance_violation(msgspec.json.encode(circle), "{}") == "it is nested too deeply"


# --- what Cohere does not know ------------------------------------------------------------------------------

CUT: tuple[tuple[str, Any, Any, list[str]], ...] = (
    # name, a property's schema, what it becomes, what is told
    ("nothing to take", {"type": "string"}, {"type": "string"}, []),
    (
        "bounds of a number",
        {"type": "number", "minimum": 0, "exclusiveMaximum": 9, "multipleOf": 2},
        {"type": "number"},
        ["exclusiveMaximum", "minimum", "multipleOf"],
    ),
    (
        "lengths of a text",
        {"type": "string", "minLength": 1, "maxLength": 5},
        {"type": "string"},
        ["maxLength", "minLength"],
    ),
    (
        "sizes of an array",
        {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 2, "uniqueItems": True},
        {"type": "array", "items": TEXT},
        ["maxItems", "minItems", "uniqueItems"],
    ),
    ("a pattern", {"type": "string", "pattern": "[a-z]+"}, {"type": "string", "pattern": "[a-z]+"}, []),
    ("a pattern with an anchor", {"type": "string", "pattern": "^a"}, {"type": "string"}, ["pattern"]),
    ("a pattern with the other", {"type": "string", "pattern": "a$"}, {"type": "string"}, ["pattern"]),
    ("a pattern that looks ahead", {"type": "string", "pattern": "a(?=b)"}, {"type": "string"}, ["pattern"]),
    (
        "a pattern that looks ahead for nothing",
        {"type": "string", "pattern": "a(?!b)"},
        {"type": "string"},
        ["pattern"],
    ),
    ("another format", {"type": "string", "format": "email"}, {"type": "string"}, ["format"]),
    *(
        (f"format {name}", {"type": "string", "format": name}, {"type": "string", "format": name}, [])
        for name in sorted(FORMATS)
    ),
    ("enum", {"type": "string", "enum": ["a"]}, {"type": "string", "enum": ["a"]}, []),
    ("const", {"type": "integer", "const": 5}, {"type": "integer", "const": 5}, []),
    ("an enum without a type", {"enum": ["a", "b"]}, {"enum": ["a", "b"], "type": "string"}, []),
    ("a const without a type", {"const": None}, {"const": None, "type": "null"}, []),
    ("an enum of two types", {"enum": ["a", 1]}, {"enum": ["a", 1]}, []),
    ("a list without a type", {"const": [1]}, {"const": [1], "type": "array"}, []),
    ("a truth without a type", {"const": True}, {"const": True, "type": "boolean"}, []),
    (
        "anyOf",
        {"anyOf": [{"type": "string", "minLength": 1}, {"type": "null"}]},
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
        ["minLength"],
    ),
    ("a reference", {"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}, []),
    (
        "words about it",
        {"type": "string", "title": "T", "default": "x", "examples": ["y"], "description": "D"},
        {"type": "string", "description": "D"},
        [],
    ),
    (
        "additionalProperties",
        {"type": "object", "properties": {"a": TEXT}, "required": ["a"], "additionalProperties": False},
        {"type": "object", "properties": {"a": TEXT}, "required": ["a"], "additionalProperties": False},
        [],
    ),
    (
        "items inside",
        {"type": "array", "items": {"type": "integer", "minimum": 1}},
        {"type": "array", "items": {"type": "integer"}},
        ["minimum"],
    ),
)


@pytest.mark.parametrize(("value", "clean", "expected"), [row[1:] for row in CUT], ids=[row[0] for row in CUT])
def test_c53_sanitised(value: Any, clean: Any, expected: list[str]) -> None:
    before = copy.deepcopy(value)
    result, removed = compilable_subset(schema(a=value))
    assert result["properties"]["a"] == clean
    assert removed == expected
    assert value == before, "the caller's schema stays as it is"


def test_definitions_are_cleaned_too() -> None:
    result, removed = compilable_subset(
        {**schema(a={"$ref": "#/$defs/N"}), "$defs": {"N": {"type": "integer", "minimum": 1}}}
    )
    assert result["$defs"] == {"N": {"type": "integer"}}
    assert removed == ["minimum"]


@pytest.mark.parametrize("keyword", sorted(UNSUPPORTED_KEYWORDS - {"oneOf", "allOf"}))
def test_each_keyword_that_cohere_does_not_know_is_removed_with_a_note(keyword: str) -> None:
    result, removed = compilable_subset(schema(a={"type": "string", keyword: {}}))
    assert keyword not in result["properties"]["a"] and removed == [keyword]


@pytest.mark.parametrize("keyword", sorted(SILENT_KEYWORDS))
def test_words_about_a_schema_go_without_a_word(keyword: str) -> None:
    assert compilable_subset(schema(a={"type": "string", keyword: "x"})) == (schema(a=TEXT), [])


@pytest.mark.parametrize("name", ["minimum", "title", "not", "default", "format", "pattern", "allOf", "items", "type"])
def test_a_property_may_be_called_like_a_keyword(name: str) -> None:
    assert compilable_subset(schema(**{name: TEXT})) == (schema(**{name: TEXT}), [])


def test_one_of_is_any_of() -> None:
    result, removed = compilable_subset(schema(a={"oneOf": [TEXT, {"type": "null"}]}))
    assert result["properties"]["a"] == {"anyOf": [TEXT, {"type": "null"}]} and removed == ["oneOf"]


def test_all_of_one_is_that_one() -> None:
    result, removed = compilable_subset(schema(a={"allOf": [{"$ref": "#/$defs/A"}], "description": "D"}))
    assert result["properties"]["a"] == {"$ref": "#/$defs/A", "description": "D"} and removed == []


def test_c54_every_object_requires_something() -> None:
    result, _ = compilable_subset(
        {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": TEXT}}}}
    )
    assert result["required"] == ["a"] and result["properties"]["a"]["required"] == ["b"]
    result, _ = compilable_subset({"type": "object", "properties": {"a": TEXT}, "required": ["b", "a"]})
    assert result["required"] == ["a"]


@pytest.mark.parametrize("required", [{}, {"required": []}, {"required": ["gone"]}], ids=json.dumps)
def test_c54_what_is_made_required_is_reported(required: Any) -> None:
    _, removed = compilable_subset({"type": "object", "properties": {"a": TEXT}, **required})
    assert removed


@pytest.mark.parametrize(
    ("value", "clean"),
    [
        ({"type": ["string", "null"]}, [{"type": "string"}, {"type": "null"}]),
        ({"type": ["string", "null"], "enum": ["a", None]}, [{"type": "string", "enum": ["a"]}, {"type": "null"}]),
        ({"type": ["integer", "string"]}, [{"type": "integer"}, {"type": "string"}]),
    ],
    ids=json.dumps,
)
def test_several_types_are_alternatives(value: Any, clean: Any) -> None:
    result, _ = compilable_subset(schema(a=value))
    assert result["properties"]["a"]["anyOf"] == clean


# --- properties ---------------------------------------------------------------------------------------------

_LEAVES = st.one_of(
    st.just({"type": "string"}),
    st.just({"type": "string", "minLength": 2, "pattern": "^a"}),
    st.just({"type": "integer", "minimum": 1}),
    st.just({"type": ["string", "null"]}),
    st.just({"enum": ["a", "b"], "title": "T"}),
    st.just({"type": "boolean", "default": True}),
    st.just({"type": "string", "format": "email"}),
)
_SCHEMAS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda items: {"type": "array", "items": items, "minItems": 1}, inner),
        st.builds(lambda one, two: {"anyOf": [one, two]}, inner, inner),
        st.builds(lambda one, two: {"oneOf": [one, two]}, inner, inner),
        st.builds(
            lambda properties: {"type": "object", "properties": properties, "additionalProperties": False},
            st.dictionaries(st.sampled_from(["a", "b", "minimum", "type"]), inner, min_size=1, max_size=3),
        ),
    ),
    max_leaves=6,
)


@property_of(200)
@given(_SCHEMAS)
def test_what_is_left_is_a_schema_that_cohere_takes(inner: dict[str, Any]) -> None:
    """The emulator judges by Cohere's rules; what is clean stays as it is."""
    clean, _ = compilable_subset(schema(a=inner))
    jsonschema.Draft202012Validator.check_schema(clean)
    try:
        judge.response_format("response_format", {"type": "json_object", "json_schema": clean}, "chat")
    except APIError as refusal:
        raise AssertionError(f"{refusal} of {json.dumps(clean)}") from refusal
    assert compilable_subset(clean) == (clean, [])


_LOOSE = st.recursive(
    st.one_of(_LEAVES, st.just({}), st.just({"description": "D"}), st.just({"type": "object"}), st.just(True)),
    lambda inner: st.one_of(
        st.builds(lambda items: {"type": "array", "items": items}, inner),
        st.builds(lambda one, two: {"oneOf": [one, two]}, inner, inner),
        st.builds(lambda one, two: {"allOf": [one, two]}, inner, inner),
        st.builds(lambda values: {"type": "object", "additionalProperties": values}, inner),
        st.builds(lambda properties: schema(**properties), st.dictionaries(st.sampled_from("ab"), inner, max_size=2)),
    ),
    max_leaves=6,
)


def _removed(judged: Any) -> bool:
    try:
        judged()
    except APIError:
        return False
    return True


@property_of(300)
@given(_LOOSE)
def test_what_can_be_compiled_is_known_beforehand(inner: Any) -> None:
    """Objects of any keys and values of any kind are no part of Cohere's grammar, at whatever depth."""
    clean, _ = compilable_subset(schema(a=inner))
    assert compilable(clean) is _removed(lambda: judge.check(clean))


@property_of(200)
@given(_LOOSE)
def test_each_property_can_say_its_type(inner: Any) -> None:
    before = copy.deepcopy(inner)
    result = with_types(schema(a=inner))
    assert _removed(lambda: judge.check_property_types(result)) and inner == before
    assert with_types(result) == result


_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 5), st.sampled_from(["", "a", "ab", "b@c"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(st.sampled_from(["a", "b", "minimum", "type"]), inner, max_size=3),
    ),
    max_leaves=5,
)


@property_of(200)
@given(_LOOSE, _VALUES)
def test_saying_the_type_changes_nothing_but_one_of(inner: Any, value: Any) -> None:
    if "oneOf" not in json.dumps(inner):
        before, after = (jsonschema.Draft202012Validator(one) for one in (schema(a=inner), with_types(schema(a=inner))))
        assert before.is_valid({"a": value}) is after.is_valid({"a": value})


@property_of(200)
@given(_SCHEMAS, _VALUES)
def test_what_is_left_is_weaker_or_asks_for_one_property_more(inner: dict[str, Any], value: Any) -> None:
    """An answer that the caller's schema takes is one that the grammar allows, `required` aside."""
    original, clean = schema(a=inner), compilable_subset(schema(a=inner))[0]
    if jsonschema.Draft202012Validator(original).is_valid({"a": value}):
        assert jsonschema.Draft202012Validator(_without_required(clean)).is_valid({"a": value})


def _without_required(result: Any) -> Any:
    if isinstance(result, dict):
        return {
            key: _without_required(value)
            for key, value in result.items()
            if not (key == "required" and isinstance(value, list))
        }
    return [_without_required(value) for value in result] if isinstance(result, list) else result


def test_a_dynamic_reference_that_leads_nowhere_is_refused() -> None:
    node = {"$dynamicAnchor": "node", "properties": {"next": {"$dynamicRef": "#node"}}}
    check_references(node, "schema")
    check_references({"$dynamicRef": "#"}, "schema")
    lost = {"properties": {"next": {"$dynamicRef": "#lost"}}}
    check_references({**lost, "allOf": [{"$anchor": "lost"}]}, "schema")
    for schema in (lost, {**lost, "examples": [{"$anchor": "lost"}]}):
        with pytest.raises(InvalidField, match="'#lost' leads nowhere"):
            check_references(schema, "schema")
