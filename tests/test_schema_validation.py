"""Checks of schemas and answers cost a bounded number of steps, whatever a caller or a model wrote."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jsonschema  # type: ignore[import-untyped, unused-ignore]
import msgspec
import pytest

from translators.answer.events import Closed, Delta, Kind, Opened
from translators.answer.transforms import MAX_HELD_BACK, StripCodeFence, UnwrapValue
from translators.request.check_budget import TooExpensive, generous_budget
from translators.request.patterns import unchecked_patterns
from translators.request.schema_validation import (
    MAX_DEPTH,
    MAX_SUBSCHEMAS,
    instance_violation,
    may_be_instance,
    schema_violation,
)

encode = msgspec.json.encode


def doubling(keyword: str, levels: int, last: Any) -> dict[str, Any]:
    """A schema of a few kB whose evaluation doubles with each level."""
    levels_ = {f"a{level}": {keyword: [{"$ref": f"#/$defs/a{level + 1}"}] * 2} for level in range(levels)}
    return {"$ref": "#/$defs/a0", "$defs": {**levels_, f"a{levels}": last}}


unevaluated = {
    "$ref": "#/$defs/a0",
    "$defs": {
        **{
            f"a{level}": {"anyOf": [{"$ref": f"#/$defs/a{level + 1}"}] * 3, "unevaluatedProperties": False}
            for level in range(12)
        },
        "a12": {"properties": {"x": True}},
    },
}

HOSTILE: tuple[tuple[str, Any, Any], ...] = (
    ("allOf doubling", doubling("allOf", 30, {"type": "integer"}), 1),
    ("anyOf doubling", doubling("anyOf", 30, {"type": "string"}), 1),
    ("unevaluated properties", unevaluated, {"x": 1}),
    ("a long enum for a long list", {"items": {"enum": [str(n) for n in range(5_000)]}}, ["x"] * 5_000),
    ("a long required for a long list", {"items": {"required": [str(n) for n in range(5_000)]}}, [{}] * 5_000),
    ("many properties for a long list", {"items": {"properties": {str(n): {} for n in range(5_000)}}}, [{}] * 5_000),
)


@pytest.mark.parametrize(("schema", "instance"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_an_expensive_check_stops_at_its_budget(schema: Any, instance: Any) -> None:
    text = encode(instance).decode()
    with pytest.raises(TooExpensive):
        instance_violation(encode(schema), text)


def test_an_expensive_check_stops_at_the_generous_budget_too() -> None:
    _, schema, instance = HOSTILE[0]
    text = encode(instance).decode()
    with generous_budget():
        assert instance_violation(encode(schema), text) == "checking it takes too long"
    with pytest.raises(TooExpensive):  # the budget of the loop is back
        instance_violation(encode(schema), text)


def test_a_long_answer_is_checked_with_the_generous_budget() -> None:
    schema, good, bad = (
        {"items": {"type": "integer"}},
        encode([1] * 5_000).decode(),
        encode([1] * 5_000 + ["x"]).decode(),
    )
    with pytest.raises(TooExpensive):
        instance_violation(encode(schema), good)
    with generous_budget():
        assert instance_violation(encode(schema), good) == ""
        assert instance_violation(encode(schema), bad) == "type at $[5000]"


@pytest.mark.parametrize(
    "pattern", ["^(a+)+$", "^(a|a)*$", "^(.*a){20}$", "(x+x+)+y", r"^\s*(\s*\w+\s*)*$"], ids=lambda pattern: pattern
)
def test_no_pattern_backtracks(pattern: str) -> None:
    began = time.process_time()
    text = encode("a" * 5_000 + "!").decode()
    assert instance_violation(encode({"type": "string", "pattern": pattern}), text) in ("", "pattern at $")
    assert time.process_time() - began < 1


PATTERNS: tuple[tuple[str, str, bool], ...] = (
    ("^[0-9]{4}$", "2024", True),
    ("^[0-9]{4}$", "20244", False),
    (r"^\d+\/\d+$", "1/2", True),
    (r"^\u00e9+$", "éé", True),
    (r"^\\u00e9$", "\\u00e9", True),
    ("a", "bab", True),
    (r"^\p{L}+$", "Ünder", True),
    ("(?=a)b", "anything: lookaheads are not checked", True),
    ("(", "anything: what is no pattern is not checked", True),
)


@pytest.mark.parametrize(("pattern", "text", "fits"), PATTERNS, ids=[f"{row[0]} {row[1]}" for row in PATTERNS])
def test_patterns_mean_what_they_say(pattern: str, text: str, fits: bool) -> None:
    assert (instance_violation(encode({"pattern": pattern}), encode(text).decode()) == "") is fits
    by_name = {"patternProperties": {pattern: {"type": "integer"}}, "additionalProperties": True}
    if fits and not unchecked_patterns({"pattern": pattern}):
        assert instance_violation(encode(by_name), encode({text: "x"}).decode()) == f"type at $.{text}"


def test_patterns_that_are_not_checked_are_known() -> None:
    schema = {"properties": {"a": {"pattern": "(?!x)"}, "b": {"pattern": "x"}}, "patternProperties": {"(?<=y)": {}}}
    assert sorted(unchecked_patterns(schema)) == ["(?!x)", "(?<=y)"]


UNIQUE: tuple[tuple[Any, bool], ...] = (
    ([1, 2, 3], True),
    ([1, 1.0], False),
    ([1, True], True),
    ([0, False], True),
    ([{"a": 1, "b": 2}, {"b": 2, "a": 1}], False),
    ([[1, 2], [2, 1]], True),
    ([[1], [1]], False),
    (["", None, 0, [], {}], True),
)


@pytest.mark.parametrize(("items", "unique"), UNIQUE, ids=[str(row[0]) for row in UNIQUE])
def test_unique_items(items: Any, unique: bool) -> None:
    assert (instance_violation(encode({"uniqueItems": True}), encode(items).decode()) == "") is unique


MULTIPLES: tuple[tuple[Any, Any, bool], ...] = (
    (0.1, 0.3, True),
    (0.01, 19.99, True),
    (0.1, 0.35, False),
    (0.5, 3, True),
    (3, 9.0, True),
    (3, 10, False),
    (1, 10**30, True),
    (0.1, "text", True),
    (2, True, True),
)


@pytest.mark.parametrize(("divisor", "number", "is_multiple"), MULTIPLES, ids=[f"{n} of {d}" for d, n, _ in MULTIPLES])
def test_multiples(divisor: Any, number: Any, is_multiple: bool) -> None:
    assert (instance_violation(encode({"multipleOf": divisor}), encode(number).decode()) == "") is is_multiple


def test_the_older_name_of_dependencies_is_checked() -> None:
    schema = encode({"dependencies": {"a": ["b"], "c": {"required": ["d"]}}})
    for instance, violation in (
        ({"a": 1, "b": 1}, ""),
        ({"a": 1}, "dependencies at $"),
        ({"c": 1, "d": 1}, ""),
        ({"c": 1}, "required at $"),
        ({}, ""),
    ):
        assert instance_violation(schema, encode(instance).decode()) == violation


ADDITIONAL: tuple[tuple[Any, Any, str], ...] = (
    ({"properties": {"a": {}}, "additionalProperties": False}, {"a": 1}, ""),
    ({"properties": {"a": {}}, "additionalProperties": False}, {"b": 1}, "additionalProperties at $"),
    ({"patternProperties": {"^x": {}}, "additionalProperties": False}, {"x1": 1}, ""),
    ({"patternProperties": {"^x": {}}, "additionalProperties": False}, {"y": 1}, "additionalProperties at $"),
    ({"additionalProperties": {"type": "integer"}}, {"y": "z"}, "type at $.y"),
    ({"properties": {"a": {}}, "unevaluatedProperties": False}, {"b": 1}, "unevaluatedProperties at $"),
    ({"properties": {"a": {}}, "patternProperties": {"^x": {}}, "unevaluatedProperties": False}, {"b": 1}, ""),
    ({"additionalProperties": False}, 5, ""),
    ({"patternProperties": {"^x": {"type": "integer"}}}, "x1", ""),
    ({"dependencies": {"a": ["b"]}}, ["a"], ""),
    ({"multipleOf": 2}, "a", ""),
)


@pytest.mark.parametrize(
    ("schema", "instance", "violation"), ADDITIONAL, ids=[str(row[1]) + row[2] for row in ADDITIONAL]
)
def test_additional_properties(schema: Any, instance: Any, violation: str) -> None:
    assert instance_violation(encode(schema), encode(instance).decode()) == violation


def test_numbers_that_are_too_large_to_be_divided() -> None:
    text = f"1{'0' * 400}"
    assert instance_violation(encode({"multipleOf": 0.5}), text) == "it has a number that is too large to be checked"


@pytest.mark.parametrize(
    "schema",
    [{"$ref": "#/nowhere"}, {"type": "str"}, {"$ref": "https://example.com/a"}],
    ids=str,
)
def test_where_it_cannot_be_decided_a_value_may_be(schema: Any) -> None:
    with generous_budget():
        assert may_be_instance(schema, "x")


# --- schemas ------------------------------------------------------------------------------------------------

SCHEMAS: tuple[Any, ...] = (
    {},
    {"type": ["string", "null"], "minLength": 1, "pattern": "a"},
    {"type": "object", "properties": {"a": True, "b": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"enum": [1]}}},
    {"allOf": [{"not": {"const": None}}], "if": {}, "then": {}, "else": False, "x-anything": 1},
    {"$id": "urn:a", "dependencies": {"a": ["b"]}, "$anchor": "here"},
    {"type": "strng"},
    {"type": []},
    {"type": ["string", "string"]},
    {"required": "a"},
    {"required": ["a", "a"]},
    {"properties": {"a": 1}},
    {"properties": []},
    {"allOf": []},
    {"anyOf": {}},
    {"items": [{}]},
    {"minLength": -1},
    {"minLength": True},
    {"multipleOf": 0},
    {"minimum": "1"},
    {"pattern": 1},
    {"uniqueItems": 1},
    {"enum": {}},
    {"dependentRequired": {"a": "b"}},
    {"$anchor": "1"},
    {"additionalProperties": []},
    {"title": 1},
    {"minLength": -1, "items": {"type": "string"}, "allOf": [{}], "properties": {"a": {}}},
    {"minLength": -1, "items": {"type": "strng"}},
    {"dependencies": {"a": {"type": "strng"}}},
    {"$vocabulary": {"urn:a": 1}},
)


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_a_schema_is_judged_as_the_meta_schema_judges_it(schema: Any) -> None:
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        wellformed = True
    except jsonschema.SchemaError:
        wellformed = False
    assert (schema_violation(encode(schema)) == "") is wellformed


def test_limits_of_schemas() -> None:
    deep: dict[str, Any] = {}
    for _ in range(MAX_DEPTH + 2):
        deep = {"items": deep}
    assert "nested more than" in schema_violation(encode(deep))
    assert "no double can hold" in schema_violation(b'{"multipleOf":' + b"9" * 400 + b"}")
    many = encode({"allOf": [{}] * MAX_SUBSCHEMAS})
    with generous_budget():
        assert schema_violation(many) == f"it has more than {MAX_SUBSCHEMAS} subschemas"
    wide = encode({"properties": {str(n): {"type": "string"} for n in range(5_000)}})
    with pytest.raises(TooExpensive):
        schema_violation(wide)
    with generous_budget():
        assert schema_violation(wide) == ""


# --- models that write runs of white space -------------------------------------------------------------------


@pytest.mark.parametrize("transform", [StripCodeFence, UnwrapValue])
@pytest.mark.parametrize(
    ("opening", "run"),
    [
        ("```json\n{}", " "),
        ('{"value": 1', " "),
        ("", " "),
        ("```", "x"),
        ('{"value":', " "),
        ("```json\n{}", "`"),
        ("```json\n{}", " `"),
        ('{"value": 1', " }"),
    ],
)
def test_a_run_of_anything_costs_the_same_for_each_piece(transform: Callable[[], Any], opening: str, run: str) -> None:
    strip = transform()
    strip(Opened(0, Kind.TEXT))
    began = time.process_time()
    for piece in (opening, *[run] * 20_000):
        strip(Delta(0, Kind.TEXT, piece))
        assert len(strip._pending) <= MAX_HELD_BACK + len(piece)
    strip(Closed(0, Kind.TEXT, opening + run * 20_000))
    assert time.process_time() - began < 5
    whole = transform()
    whole(Opened(0, Kind.TEXT))
    began = time.process_time()
    whole(Delta(0, Kind.TEXT, opening + run * 500_000))
    assert time.process_time() - began < 1


NAMED: tuple[tuple[dict[str, Any], bool], ...] = (
    ({"$id": "https://example.com/a#", "$anchor": "b-1", "$dynamicAnchor": "_c"}, True),
    ({"$id": "#a"}, False),
    ({"$id": 1}, False),
    ({"properties": {"a": {"$anchor": "1a"}}}, False),
    ({"properties": {"a": {"$dynamicAnchor": ""}}}, False),
    ({"dependencies": {"a": ["b"], "c": {"type": "string"}}}, True),
    ({"dependencies": {"a": 1}}, False),
    ({"$vocabulary": {"https://example.com/a": True}}, True),
)


@pytest.mark.parametrize(("schema", "holds"), NAMED, ids=[str(row[0]) for row in NAMED])
def test_names_of_schemas(schema: dict[str, Any], holds: bool) -> None:
    assert (schema_violation(encode(schema)) == "") is holds


def test_the_meta_schema_sees_one_level_only() -> None:
    """It takes a hundred times as long as our own pass: a large schema with one odd place is checked on the loop."""
    large = {"properties": {f"p{number}": {"type": "string"} for number in range(300)}}
    violation = schema_violation(encode({**large, "items": {"properties": {"x": {"type": "strin"}}}}))
    assert "'strin'" in violation and "(at items/properties/x/type)" in violation
