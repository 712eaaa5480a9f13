"""`translators/request/satisfiability.py`: schemas that no value can satisfy, and those that only look so."""

import time
from typing import Any

import pytest

from translators.request.check_budget import TooExpensive, generous_budget
from translators.request.satisfiability import DEEPEST, contradiction

STRING, INTEGER = {"type": "string"}, {"type": "integer"}


def an_object(properties: dict[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), **more}


def value(schema: Any) -> dict[str, Any]:
    """An object that needs this value."""
    return an_object({"a": schema}, "a")


NODE = an_object({"next": {"$ref": "#/$defs/node"}}, "next")

IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "required names no property": (an_object({"a": STRING}, "a", "zzz", additionalProperties=False), "'required' at #"),
    "and none at all": ({"type": "object", "required": ["a"], "additionalProperties": False}, "'required' at #"),
    "a required property is false": (value(False), "#/properties/a is false"),
    "deep inside": (value(an_object({}, "b", additionalProperties=False)), "'required' at #/properties/a"),
    "an empty enum": (value({"enum": []}), "'enum' at #/properties/a"),
    "an enum of another type": (value({"type": "string", "enum": [1, 2]}), "'enum'"),
    "a constant of another type": (value({"type": "integer", "const": "one"}), "'const'"),
    "a constant that the enum lacks": (value({"enum": ["a"], "const": "b"}), "'const'"),
    "a true that is no 1": (value({"type": "integer", "enum": [True]}), "'enum'"),
    "a constant of null": (value({"type": "string", "const": None}), "'const'"),
    "a fraction that is no integer": (value({"type": "integer", "enum": [1.5]}), "'enum'"),
    "more different items than a constant": (
        value({"type": "array", "minItems": 2, "uniqueItems": True, "items": {"const": 1}}),
        "'uniqueItems'",
    ),
    "true among what must hold": (value({"allOf": [True, STRING, INTEGER]}), "'type'"),
    "an enum out of range": (value({"enum": [1, 2], "minimum": 3}), "'enum'"),
    "an enum too short": (value({"enum": ["a"], "minLength": 2}), "'enum'"),
    "an enum that the pattern excludes": (value({"enum": ["x"], "pattern": "^y$"}), "'enum'"),
    "minimum over maximum": (value({"type": "number", "minimum": 2, "maximum": 1}), "'minimum'"),
    "exclusive and equal": (value({"type": "number", "exclusiveMinimum": 1, "maximum": 1}), "'exclusiveMinimum'"),
    "no whole number between": (value({"type": "integer", "minimum": 1.2, "maximum": 1.8}), "'minimum'"),
    "no multiple between": (value({"type": "integer", "minimum": 11, "maximum": 19, "multipleOf": 10}), "'minimum'"),
    "minLength over maxLength": (value({"type": "string", "minLength": 3, "maxLength": 2}), "'minLength'"),
    "minItems over maxItems": (value({"type": "array", "minItems": 3, "maxItems": 2}), "'minItems'"),
    "items that cannot be": (value({"type": "array", "minItems": 1, "items": {"enum": []}}), "'enum'"),
    "more unique items than values": (
        value({"type": "array", "minItems": 3, "uniqueItems": True, "items": {"enum": [1, 2]}}),
        "'minItems'",
    ),
    "contains what is no item": (value({"type": "array", "items": STRING, "contains": INTEGER}), "'type'"),
    "contains what cannot be": (value({"type": "array", "contains": False}), "contains is false"),
    "minProperties over maxProperties": (value({"type": "object", "minProperties": 2, "maxProperties": 1}), "'minP"),
    "more properties than there are": (an_object({"a": STRING}, minProperties=2, additionalProperties=False), "'minP"),
    "more required than allowed": (an_object({"a": STRING, "b": STRING}, "a", "b", maxProperties=1), "'maxP"),
    "a condition that always holds": (an_object({"a": STRING}, "a", **{"if": True, "then": False}), "#/then is false"),
    "a condition that never holds": (value({"type": "string", "if": False, "else": INTEGER}), "'type'"),
    "a required property that nothing may depend on": (
        an_object({"a": STRING}, "a", dependentSchemas={"a": False}),
        "'dependentSchemas'",
    ),
    "a required property that is not evaluated": (
        an_object({"b": STRING}, "a", unevaluatedProperties=False),
        "'unevaluatedProperties'",
    ),
    "two types at once": (value({"allOf": [STRING, INTEGER]}), "'type'"),
    "a reference beside a type": (
        {**value({"$ref": "#/$defs/s", "type": "integer"}), "$defs": {"s": STRING}},
        "'type'",
    ),
    "closed against a sibling": (
        {
            "allOf": [an_object({"a": STRING}, additionalProperties=False), an_object({"b": STRING}, "b")],
            "type": "object",
        },
        "'required' at #/allOf/1",
    ),
    "no branch": (value({"anyOf": [{"enum": []}, False]}), "'anyOf' at #/properties/a"),
    "every branch twice": (value({"oneOf": [STRING, STRING]}), "'oneOf' at #/properties/a"),
    "required matches no pattern": (
        an_object({}, "y1", additionalProperties=False, patternProperties={"^x": STRING}),
        "'required' at #",
    ),
    "no branch beside its type": (value({"type": "string", "oneOf": [INTEGER, {"type": "null"}]}), "'oneOf'"),
    "nothing but what is excluded": (value({"not": {}}), "'not' at #/properties/a"),
    "an end that never comes": ({**value({"$ref": "#/$defs/node"}), "$defs": {"node": NODE}}, "'$ref'"),
    "dependent on what is forbidden": (
        an_object({"a": STRING}, "a", dependentRequired={"a": ["b"]}, additionalProperties=False),
        "'required' at #",
    ),
    "no type": ({"type": []}, "'type' at #"),
    "a pattern longer than maxLength": (
        value({"type": "string", "pattern": "^[0-9]{4}$", "maxLength": 3}),
        "'pattern' at #/properties/a wants more characters than 'maxLength' at #/properties/a",
    ),
    "a pattern somewhere in it": (value({"type": "string", "pattern": "[0-9]{4}", "maxLength": 3}), "'pattern'"),
    "a pattern shorter than minLength": (
        value({"type": "string", "pattern": "^(yes|no)$", "minLength": 4}),
        "'minLength' at #/properties/a wants more characters than 'pattern'",
    ),
    "two patterns of other lengths": (
        value({"allOf": [{"type": "string", "pattern": "^a{2}$"}, {"pattern": r"^\d{4,}$"}]}),
        "'pattern' at #/properties/a/allOf/1",
    ),
    "a constant that is no multiple": (value({"const": 7, "multipleOf": 2}), "'const'"),
    "an enum beside its exclusion": (value({"enum": ["a", "b"], "not": {"enum": ["a", "b", "c"]}}), "'enum'"),
    "an enum beside other branches": (value({"enum": ["a"], "anyOf": [{"const": "b"}, {"type": "integer"}]}), "'enum'"),
    "a list that the items exclude": (value({"const": ["a"], "items": {"type": "integer"}}), "'const'"),
    "an object that lacks what is required": (value({"enum": [{"a": 1}], "required": ["b"]}), "'enum'"),
    "a constant that a definition excludes": (
        {**value({"const": {"x": "y"}, "properties": {"x": {"$ref": "#/$defs/n"}}}), "$defs": {"n": INTEGER}},
        "'const'",
    ),
    "its own type excluded": (value({"type": "string", "not": {"type": ["string", "null"]}}), "'type'"),
    "no multiple of a fraction": (value({"type": "number", "minimum": 1.1, "maximum": 1.4, "multipleOf": 0.5}), "'min"),
    "more different items than there are": (
        value({"type": "array", "minItems": 4, "uniqueItems": True, "items": {"type": ["boolean", "null"]}}),
        "'uniqueItems'",
    ),
    "more different numbers than there are": (
        value(
            {
                "type": "array",
                "minItems": 4,
                "uniqueItems": True,
                "items": {"type": "integer", "minimum": 1, "maximum": 3},
            }
        ),
        "'uniqueItems'",
    ),
    "contains in a list that is empty": (value({"type": "array", "maxItems": 0, "contains": STRING}), "'maxItems'"),
    "contains more than it may": (
        value({"type": "array", "contains": STRING, "minContains": 3, "maxContains": 2}),
        "'maxContains'",
    ),
    "a required name that is no name": (an_object({}, "b", propertyNames={"enum": ["a"]}), "'propertyNames'"),
    "a required name that does not match": (an_object({}, "b", propertyNames={"pattern": "^a"}), "'propertyNames'"),
    "more properties than names": (an_object({}, minProperties=2, propertyNames={"enum": ["a"]}), "'minProperties'"),
}

POSSIBLE: dict[str, dict[str, Any]] = {
    "a condition that may hold": an_object({"a": STRING}, "a", **{"if": {"required": ["b"]}, "then": False}),
    "a branch without a condition": an_object({"a": STRING}, "a", then=False),
    "a dependency of what may be missing": an_object({"a": STRING}, dependentSchemas={"a": False}),
    "evaluated by a sibling": an_object({}, "a", allOf=[{"properties": {"a": STRING}}], unevaluatedProperties=False),
    "evaluated as an additional one": an_object({}, "a", additionalProperties=STRING, unevaluatedProperties=False),
    "required beyond the properties, others allowed": an_object({"a": STRING}, "zzz"),
    "a pattern may allow it": an_object({}, "x1", additionalProperties=False, patternProperties={"^x": STRING}),
    "a pattern that is not checked may allow it": an_object(
        {}, "y1", additionalProperties=False, patternProperties={"^(?=y)": STRING}
    ),
    "an enum that the pattern thins out": value({"enum": ["x", "y"], "pattern": "^y$"}),
    "an item that is contained": value({"type": "array", "items": STRING, "contains": {"const": "x"}}),
    "a branch that is there once": value({"oneOf": [INTEGER, STRING, INTEGER]}),
    "an impossible property that is not required": an_object({"a": False, "b": {"enum": []}}),
    "one type of two": value({"type": ["string", "integer"], "minLength": 3, "maxLength": 2}),
    "one branch of two": value({"anyOf": [False, STRING]}),
    "equal bounds": value({"type": "integer", "minimum": 1, "maximum": 1}),
    "1.0 is an integer": value({"type": "integer", "enum": [1.0]}),
    "number and integer": value({"allOf": [{"type": "number"}, INTEGER]}),
    "one reference twice": {**value({"allOf": [{"$ref": "#/$defs/a"}] * 2}), "$defs": {"a": STRING}},
    "a list that may be empty": value({"type": "array", "items": False}),
    "a list of nodes that may end": {
        **value({"$ref": "#/$defs/node"}),
        "$defs": {"node": an_object({"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "next")},
    },
    "an optional node": {"$ref": "#/$defs/node", "$defs": {"node": an_object({"next": {"$ref": "#/$defs/node"}})}},
    "a reference twice": {
        **an_object({"a": {"$ref": "#/$defs/s"}, "b": {"$ref": "#/$defs/s"}}, "a", "b"),
        "$defs": {"s": STRING},
    },
    "a foreign reference": value({"$ref": "https://example.com/schema"}),
    "no types": value({"minLength": 3, "maxLength": 2}),
    "a type of nobody's": value({"type": "str", "enum": [1]}),
    "anything": {},
    "a pattern that just fits": value({"type": "string", "pattern": "^[0-9]{3}$", "minLength": 3, "maxLength": 3}),
    "a pattern in a longer text": value({"type": "string", "pattern": "yes", "minLength": 9}),
    "a pattern open at its end": value({"type": "string", "pattern": "^yes", "minLength": 9}),
    "one end each": value({"type": "string", "pattern": "^a|b$", "minLength": 9}),
    "a pattern without end": value({"type": "string", "pattern": "^(ab)*c+$", "minLength": 500}),
    "a pattern that Python does not read": value({"type": "string", "pattern": r"^\p{L}{2}$", "minLength": 9}),
    "a pattern that is none": value({"type": "string", "pattern": "(", "minLength": 9}),
    "a lookahead": value({"type": "string", "pattern": "^(?=.{8})[a-z]+$", "minLength": 9}),
    "any type with a long pattern": value({"pattern": "^[0-9]{4}$", "maxLength": 3}),
    "one type of two with a long pattern": value({"type": ["string", "null"], "pattern": "^[0-9]{4}$", "maxLength": 3}),
    "an enum of which one is left": value({"enum": ["a", "b"], "not": {"const": "a"}}),
    "an enum beside a reference that is not followed": value({"enum": ["a"], "anyOf": [{"$ref": "#/properties/a"}]}),
    "an enum beside what its parts evaluate": value(
        {"enum": [{"x": 1}], "allOf": [{"properties": {"x": {}}}], "unevaluatedProperties": False}
    ),
    "a multiple at the end": value({"type": "number", "minimum": 0.1, "maximum": 0.3, "multipleOf": 0.1}),
    "an open end between multiples": value(
        {"type": "number", "exclusiveMinimum": 1, "maximum": 1.5, "multipleOf": 0.5}
    ),
    "as many different items as there are": value(
        {"type": "array", "minItems": 3, "uniqueItems": True, "items": {"type": ["boolean", "null"]}}
    ),
    "a constant of null": value({"type": "null", "const": None}),
    "a fraction": value({"type": "number", "enum": [1.5]}),
    "any different items": value({"type": "array", "minItems": 9, "uniqueItems": True, "items": True}),
    "branches that are not compared": value({"oneOf": [{"enum": [1]}, {"enum": [1]}, True]}),
    "an enum beside a schema with an id": value({"enum": ["a"], "anyOf": [{"$id": "urn:x", "const": "b"}]}),
    "an enum beside a dynamic reference": value({"enum": ["a"], "anyOf": [{"$dynamicRef": "#x"}]}),
    "a pattern that Python reads differently": value({"type": "string", "pattern": "^(?P<a>x)$", "minLength": 9}),
    "a pattern too long to be measured": value({"type": "string", "pattern": f"^{'x' * 1_001}$", "maxLength": 9}),
    "any number of different items": value(
        {"type": "array", "minItems": 9, "uniqueItems": True, "items": {"type": "integer", "minimum": 1}}
    ),
    "contains that is not needed": value({"type": "array", "maxItems": 0, "contains": STRING, "minContains": 0}),
    "a required name among the names": an_object({}, "a", propertyNames={"enum": ["a"]}),
    "another type excluded": value({"type": "string", "not": {"type": "integer"}}),
    "a part of a type excluded": value({"type": "string", "not": {"type": "string", "minLength": 3}}),
}


@pytest.mark.parametrize(("schema", "reason"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_cannot_be_is_named(schema: dict[str, Any], reason: str) -> None:
    assert reason in contradiction(schema)


@pytest.mark.parametrize("schema", POSSIBLE.values(), ids=POSSIBLE)
def test_what_may_be_is_let_through(schema: dict[str, Any]) -> None:
    assert contradiction(schema) == ""


def test_what_lies_too_deep_is_not_looked_at() -> None:
    def nested(depth: int) -> dict[str, Any]:
        schema: Any = {"enum": []}
        for _ in range(depth):
            schema = value(schema)
        return value(schema)

    with generous_budget():
        assert "'enum'" in contradiction(nested(DEEPEST - 1))
        assert contradiction(nested(DEEPEST)) == ""


def test_the_work_is_bounded() -> None:
    """References that double at each level would be followed two to the fortieth times."""
    definitions = {
        f"n{level}": an_object(
            {"a": {"$ref": f"#/$defs/n{level + 1}"}, "b": {"$ref": f"#/$defs/n{level + 1}"}}, "a", "b"
        )
        for level in range(40)
    }
    definitions["n40"] = STRING
    doubling = {"$ref": "#/$defs/n0", "$defs": definitions}
    wide = {"allOf": [an_object({f"p{number}": STRING}, *(f"p{name}" for name in range(300))) for number in range(300)]}
    for schema in (doubling, wide):
        began = time.thread_time()
        with pytest.raises(TooExpensive):
            contradiction(schema)
        with generous_budget():
            assert contradiction(schema) == ""
        assert time.thread_time() - began < 0.5
