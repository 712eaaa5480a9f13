"""The vendors' documents as oracles: is this object what OpenAI, Open Responses or Cohere says it should be?

The facts are in tests/oracle/*.json, JSON Schemas that `support/oracle_generator.py` makes from the vendors' OpenAPI
documents; how it reads those is said there. They know one keyword beyond JSON Schema, `x-dispatch`: a property and,
for each of its values, the schema that holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped, unused-ignore]
import jsonschema.validators  # type: ignore[import-untyped, unused-ignore]

FOLDER = Path(__file__).resolve().parents[1] / "oracle"
DRAFT = "https://json-schema.org/draft/2020-12/schema"
Schema = Any  # a JSON Schema: a dict of keywords, or True / False


class Oracle:
    """A compiled schema."""

    def __init__(self, name: str, schema: dict[str, Any]) -> None:
        self.name = name
        self._validator = _Validator(schema)

    def check(self, value: Any) -> None:
        """Raise AssertionError, naming the place and the broken rule, unless the schema accepts the value."""
        error = jsonschema.exceptions.best_match(self._validator.iter_errors(value))
        if error is None:
            return
        result = repr(error.instance)
        if len(result) > 300:
            result = result[:300] + "..."
        raise AssertionError(f"{self.name}: at {error.json_path}: {error.message[:500]}\n  found: {result}")

    def accepts(self, value: Any) -> bool:
        """Return whether the schema accepts the value."""
        return bool(self._validator.is_valid(value))


@cache
def facts(vendor: str) -> dict[str, Any]:
    """Return what is known of a vendor, by the four keys that the generator describes."""
    settings = json.loads((FOLDER / f"{vendor}.json").read_bytes())
    assert isinstance(settings, dict)
    return settings


# --- OpenAI and Open Responses ------------------------------------------------------------------------------


@cache
def openai_validator(schema: str) -> Oracle:
    """Return the oracle for a schema of OpenAI's document, by its name there."""
    return _oracle(schema, "openai", _named(schema, "openai"))


@cache
def openai_schema_properties(schema: str) -> frozenset[str]:
    """Return the names of all properties of an OpenAI object, those inherited through allOf included."""
    settings = facts("openai")
    if schema in settings["properties"]:
        return frozenset(settings["properties"][schema])
    return frozenset(_properties(settings["schemas"], _named(schema, "openai")))


@cache
def openai_operations() -> tuple[tuple[str, str], ...]:
    """Return the method and the path of each operation."""
    return _operations("openai")


@cache
def open_responses_validator(schema: str) -> Oracle:
    """Return the oracle for a schema of Open Responses' document, by its name there."""
    return _oracle(f"Open Responses' {schema}", "open_responses", _named(schema, "open_responses"))


@cache
def open_responses_event_validator() -> Oracle:
    """Return the oracle for an event of a streamed response."""
    event = facts("open_responses")["operations"]["POST /responses"]["event"]
    return _oracle("Open Responses' event", "open_responses", event)


# --- Cohere -------------------------------------------------------------------------------------------------


@cache
def cohere_request_validator(path: str) -> Oracle:
    """Return the oracle for the JSON body of `POST path`, closed: it refuses a field that Cohere does not define.

    What stays open is what Cohere leaves open: a document's data, a tool's parameters, a JSON schema.
    """
    request = facts("cohere")["operations"][f"POST {path}"]["request"]
    return _oracle(f"POST {path} request", "cohere", request, closed=True)


@cache
def cohere_request_properties(path: str) -> frozenset[str]:
    """Return the names of the top-level fields that Cohere defines for the body of `POST path`."""
    settings = facts("cohere")
    return frozenset(_properties(settings["schemas"], settings["operations"][f"POST {path}"]["request"]))


@cache
def cohere_response_validator(path: str, method: str = "post") -> Oracle:
    """Return the oracle for the whole (not streamed) 200 answer of a Cohere operation."""
    name = f"{method.upper()} {path}"
    return _oracle(f"{name} response", "cohere", facts("cohere")["operations"][name]["response"])


@cache
def cohere_event_validator(schema: str = "StreamedChatResponseV2") -> Oracle:
    """Return the oracle for an event of a streamed answer: of /v2/chat, unless another union is named."""
    return _oracle(f"{schema} event", "cohere", _named(schema))


def cohere_event_types(schema: str = "StreamedChatResponseV2") -> frozenset[str]:
    """Return the types that the events of a streamed answer have."""
    return frozenset(facts("cohere")["schemas"][schema]["x-dispatch"]["branches"])


@cache
def cohere_operations() -> tuple[tuple[str, str], ...]:
    """Return the method and the path of each operation."""
    return _operations("cohere")


@cache
def cohere_statuses(path: str) -> frozenset[int]:
    """Return the statuses that `POST path` may have."""
    return frozenset(facts("cohere")["operations"][f"POST {path}"]["statuses"])


@cache
def cohere_error_validator() -> Oracle:
    """Return the oracle for Cohere's error body, which the document gives the same shape for every status."""
    return _oracle("Cohere error", "cohere", _named("Error"), closed=True)


# --- schemas ------------------------------------------------------------------------------------------------


def _named(schema: str, vendor: str = "cohere") -> Schema:
    if schema not in facts(vendor)["schemas"]:
        raise KeyError(f"tests/oracle/{vendor}.json has no {schema}: name it in oracle_generator.py, and make oracle")
    return {"$ref": f"#/$defs/{schema}"}


def _operations(vendor: str) -> tuple[tuple[str, str], ...]:
    rows = (name.partition(" ") for name in facts(vendor)["operations"])
    return tuple((method, path) for method, _, path in rows)


def _oracle(name: str, vendor: str, root: Schema, *, closed: bool = False) -> Oracle:
    definitions = facts(vendor)["schemas"]
    if closed:
        definitions, root = {key: _closed(schema) for key, schema in definitions.items()}, _closed(root)
    return Oracle(name, {"$schema": DRAFT, "$defs": definitions, "allOf": [root]})


def _closed(schema: Schema) -> Schema:
    """Return the schema with every object closed that lists its properties and does not say what else it may have.

    No schema that is closed may use `allOf`: a closed part would refuse the fields of the other parts.
    """
    if isinstance(schema, bool):
        return schema
    result = {word: _closed_keyword(word, value) for word, value in schema.items()}
    if "properties" in schema:
        result.setdefault("additionalProperties", False)
    return result


def _closed_keyword(word: str, value: Any) -> Any:
    match word:
        case "properties" | "branches":
            return {name: _closed(one) for name, one in value.items()}
        case "x-dispatch":
            return {name: _closed_keyword(name, one) for name, one in value.items()}
        case "anyOf" | "allOf":
            return [_closed(one) for one in value]
        case "items" | "additionalProperties" | "not":
            return _closed(value)
    return value


def _properties(schemas: dict[str, Schema], schema: Schema) -> Iterator[str]:
    if "$ref" in schema:
        yield from _properties(schemas, schemas[schema["$ref"].removeprefix("#/$defs/")])
    yield from schema.get("properties", ())
    for part in schema.get("allOf", ()):
        yield from _properties(schemas, part)


def _check_dispatch(
    validator: Any, dispatch: dict[str, Any], value: Any, schema: Schema
) -> Iterator[jsonschema.ValidationError]:
    """The keyword `x-dispatch`: one look at the discriminator instead of a try at each of up to sixty
    branches.

    Besides being quick it makes the message useful: it speaks of the branch that was meant.
    """
    name, branches = dispatch["property"], dispatch["branches"]
    if not isinstance(value, dict):
        yield jsonschema.ValidationError(f"an object with {name!r} is expected")
    elif name not in value:
        yield jsonschema.ValidationError(f"{name!r} is a required property")
    elif not isinstance(value[name], str) or value[name] not in branches:
        yield jsonschema.ValidationError(f"{name!r} is {value[name]!r}, which is none of {sorted(branches)}")
    else:
        yield from validator.descend(value, branches[value[name]], schema_path=value[name])


_Validator: Callable[[dict[str, Any]], Any] = jsonschema.validators.extend(  # type: ignore[no-untyped-call, unused-ignore]
    jsonschema.Draft202012Validator, {"x-dispatch": _check_dispatch}
)
