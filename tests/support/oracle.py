"""The two vendors' OpenAPI documents as oracles: does this object say what OpenAI, or Cohere, says it should?

The documents lie in `shared/reference` beside the repository and are not committed here; tests that want an
oracle skip when `available()` is false. What this file knows is how to read them: where YAML, OpenAPI and
JSON Schema disagree, and where Cohere's document disagrees with Cohere's traffic (`COHERE_DEVIATIONS`).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import jsonschema  # type: ignore[import-untyped, unused-ignore]
import jsonschema.validators  # type: ignore[import-untyped, unused-ignore]

from support.recordings import SHARED

ABSENT = "shared reference is absent"
SPECS = {
    "openai": SHARED / "reference" / "openai-openapi.yaml",
    "cohere": SHARED / "reference" / "cohere-openapi.yaml",
}
Vendor = Literal["openai", "cohere"]
Schema = Any  # a JSON Schema: a dict of keywords, or True / False

_REFERENCE = "#/components/schemas/"


@dataclass(frozen=True)
class Deviation:
    """A place under components/schemas where Cohere's document is wrong, and what is true instead."""

    place: tuple[str, ...]
    truth: Any
    reason: str


# Where the document disagrees with recorded traffic, or with itself where nothing is recorded. One more case
# is handled by rule, not by row: the stream's `oneOf` omits citation-start and citation-end, which its
# discriminator mapping has; the mapping decides (`_dispatch`).
COHERE_DEVIATIONS = (
    Deviation(
        ("EmbedByTypeResponse", "required"),
        ["id", "embeddings"],
        "`api_version` is required at the top level on paper; the server sends it in `meta` only",
    ),
    Deviation(
        ("LogprobItem", "required"),
        ["token_ids"],
        "`token` and `logprob` are required, but they are called `text` and `logprobs` (none recorded)",
    ),
    Deviation(
        ("ChatToolSource", "properties", "type"),
        {"type": "string", "enum": ["tool"]},
        "the discriminator is not among the properties, so closed it would be refused; traffic has it",
    ),
    Deviation(
        ("ChatDocumentSource", "properties", "type"),
        {"type": "string", "enum": ["document"]},
        "as ChatToolSource",
    ),
    Deviation(
        ("ChatDebugEvent", "allOf"),
        [{"type": "object", "required": ["type"], "properties": {"prompt": {"type": "string"}}}],
        "it is built on the v1 event, whose `event_type` no v2 event has (none recorded)",
    ),
    Deviation(
        ("NonStreamedChatResponse", "properties", "text"),
        {"type": "string"},
        "it must not be empty on paper, and the page says that it is when there is nothing to say but calls",
    ),
    Deviation(
        ("ChatStreamEvent", "properties", "event_type", "enum"),
        [
            *("stream-start", "search-queries-generation", "search-results", "text-generation"),
            *("citation-generation", "tool-calls-generation", "tool-calls-chunk", "stream-end", "debug"),
        ],
        "the discriminator maps two kinds that the enum lacks",
    ),
    Deviation(
        ("ChatToolCallsChunkEvent", "allOf"),
        [
            {"$ref": "#/components/schemas/ChatStreamEvent"},
            {
                "type": "object",
                "properties": {
                    "tool_call_delta": {"$ref": "#/components/schemas/ToolCallDelta"},
                    "text": {"type": "string"},
                },
            },
        ],
        "`tool_call_delta` is required, but a chunk of the plan has only `text`",
    ),
    Deviation(
        ("EmbedFloatsResponse", "required"),
        ["id", "embeddings", "texts"],
        "as EmbedByTypeResponse",
    ),
    Deviation(
        ("SingleGeneration", "properties", "token_likelihoods", "items", "required"),
        ["token", "likelihood"],
        "it requires an `id` that is not among the properties",
    ),
    Deviation(
        ("GenerateStreamEnd", "allOf"),
        [
            {"$ref": "#/components/schemas/GenerateStreamEvent"},
            {
                "type": "object",
                "required": ["is_finished", "response"],
                "properties": {
                    "is_finished": {"type": "boolean"},
                    "finish_reason": {"$ref": "#/components/schemas/FinishReason"},
                    "response": {
                        "type": "object",
                        "required": ["id"],
                        "properties": {
                            "generations": {
                                "type": "array",
                                "items": {"$ref": "#/components/schemas/SingleGenerationInStream"},
                            }
                        },
                    },
                },
            },
        ],
        "it requires a `finish_response` that is not among the properties",
    ),
    Deviation(
        ("DatasetType",),
        {"type": "string"},
        "an enum of the types that can be uploaded; what a batch makes is none of them, in the guides",
    ),
)


class Oracle:
    """One compiled schema that can be asked about objects."""

    def __init__(self, name: str, schema: dict[str, Any]) -> None:
        self.name = name
        self._validator = _Validator(schema)

    def check(self, value: Any) -> None:
        """Raise AssertionError, naming the place and the broken rule, unless the schema accepts the value."""
        error = jsonschema.exceptions.best_match(self._validator.iter_errors(value))
        if error is None:
            return
        found = repr(error.instance)
        if len(found) > 300:
            found = found[:300] + "..."
        raise AssertionError(f"{self.name}: at {error.json_path}: {error.message[:500]}\n  found: {found}")

    def accepts(self, value: Any) -> bool:
        """Whether the schema accepts the value."""
        return bool(self._validator.is_valid(value))


def available() -> bool:
    """Whether both documents lie beside the repository."""
    return all(path.is_file() for path in SPECS.values())


@cache
def openai_validator(schema: str) -> Oracle:
    """An oracle for a schema of OpenAI's document, by its name there."""
    return Oracle(schema, _closure("openai", {"$ref": _REFERENCE + schema}))


@cache
def openai_schema_properties(schema: str) -> frozenset[str]:
    """The names of all properties of an OpenAI object, those inherited through allOf included."""
    return frozenset(_properties(specification("openai"), {"$ref": _REFERENCE + schema}))


@cache
def cohere_request_validator(path: str) -> Oracle:
    """An oracle for the JSON body of `POST path`, closed: a field that Cohere does not define is refused at
    any depth.

    What stays open is what Cohere leaves open: a document's data, a tool's parameters, a JSON schema.
    """
    return Oracle(f"POST {path} request", _closure("cohere", _request_schema(path), closed=True))


@cache
def cohere_request_properties(path: str) -> frozenset[str]:
    """The names of the top-level fields that Cohere defines for the body of `POST path`."""
    return frozenset(_properties(specification("cohere"), _request_schema(path)))


@cache
def cohere_response_validator(path: str, method: str = "post") -> Oracle:
    """An oracle for the whole (not streamed) 200 answer of a Cohere operation."""
    response = _operation(path, method)["responses"]["200"]["content"]["application/json"]["schema"]
    if "oneOf" in response:
        # Chat: the whole answer beside the union of stream events, and an event is no answer.
        whole = [one for one in response["oneOf"] if not _name(one["$ref"]).startswith("Streamed")]
        response = whole[0] if len(whole) == 1 else response | {"oneOf": whole}
    return Oracle(f"{method.upper()} {path} response", _closure("cohere", response))


@cache
def cohere_event_validator(schema: str = "StreamedChatResponseV2") -> Oracle:
    """An oracle for the JSON of one event of a streamed answer: of /v2/chat, unless another union is named."""
    return Oracle(f"{schema} event", _closure("cohere", {"$ref": _REFERENCE + schema}))


@cache
def cohere_operations() -> frozenset[tuple[str, str]]:
    """All operations of the document: method and path."""
    paths = specification("cohere")["paths"]
    return frozenset((name.upper(), path) for path, item in paths.items() for name in item if name != "parameters")


@cache
def cohere_error_validator() -> Oracle:
    """An oracle for Cohere's error body, which the document gives the same shape for every status."""
    answer = specification("cohere")["components"]["responses"]["NotFound"]
    schema = answer["content"]["application/json"]["schema"]
    return Oracle("Cohere error", _closure("cohere", schema, closed=True))


@cache
def specification(vendor: Vendor, *, corrected: bool = True) -> dict[str, Any]:
    """The parsed document, with the known deviations put right unless they are asked for as written."""
    if not corrected:
        import yaml  # type: ignore[import-untyped, unused-ignore]  # only here: no reference, no YAML needed

        parsed = yaml.load(SPECS[vendor].read_bytes(), Loader=_yaml_loader(yaml))
        assert isinstance(parsed, dict)
        return parsed
    document = specification(vendor, corrected=False)
    if vendor == "cohere":
        document = copy.deepcopy(document)
        for deviation in COHERE_DEVIATIONS:
            *parents, last = deviation.place
            place = document["components"]["schemas"]
            for key in parents:
                place = place[key]
            place[last] = deviation.truth
    return document


def _yaml_loader(yaml: Any) -> Any:
    # PyYAML reads YAML 1.1, in which an unquoted OFF is a boolean and 2024-01-01 a date. Both documents are
    # written for YAML 1.2, where they are strings ("OFF" is a value of safety_mode). So: the scalars of 1.2
    # and no others. libyaml's loader is more than ten times as fast; the pure one gives the same result.
    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader: Any = type("SpecificationLoader", (base,), {"yaml_implicit_resolvers": {}})
    number = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    for tag, pattern, first in (
        ("null", r"~|null|", ["~", "n", ""]),
        ("bool", r"true|false", ["t", "f"]),
        ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
        ("float", number, list("-+.0123456789")),
        ("merge", r"<<", ["<"]),
    ):
        loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"), first)
    return loader


def _operation(path: str, method: str) -> dict[str, Any]:
    operation = specification("cohere")["paths"][path][method]
    assert isinstance(operation, dict)
    return operation


def _request_schema(path: str) -> Schema:
    return _operation(path, "post")["requestBody"]["content"]["application/json"]["schema"]


def _properties(document: dict[str, Any], schema: Schema) -> Iterator[str]:
    for part in _parts(document, schema):
        yield from part.get("properties", {})


def _parts(document: dict[str, Any], schema: Schema) -> Iterator[Schema]:
    """The schema and all that it takes over through $ref and allOf."""
    if "$ref" in schema:
        yield from _parts(document, _resolve(document, schema["$ref"]))
    yield schema
    for part in schema.get("allOf", []):
        yield from _parts(document, part)


def _resolve(document: dict[str, Any], reference: str) -> Schema:
    schema = document["components"]["schemas"][_name(reference)]
    return _resolve(document, schema["$ref"]) if set(schema) == {"$ref"} else schema


def _name(reference: str) -> str:
    if not reference.startswith(_REFERENCE):
        raise ValueError(f"a reference out of components/schemas: {reference}")
    return reference.removeprefix(_REFERENCE)


def _closure(vendor: Vendor, root: Schema, *, closed: bool = False) -> dict[str, Any]:
    """The JSON Schema of `root` with the schemas it reaches, and no others, under $defs."""
    document = specification(vendor)
    translation = _Translation(document, closed=closed)
    top = translation.schema(root)
    definitions: dict[str, Schema] = {}
    while pending := translation.wanted - definitions.keys():
        for name in pending:
            definitions[name] = translation.schema(document["components"]["schemas"][name])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": definitions, "allOf": [top]}


# Keywords whose meaning is the same in both languages and whose value holds no schema.
_PLAIN = frozenset(
    "type enum const required minimum maximum exclusiveMaximum multipleOf minLength maxLength pattern"
    " minItems maxItems uniqueItems minProperties maxProperties".split()
)
_ONE_SCHEMA = frozenset({"items", "additionalProperties", "not", "propertyNames", "contains"})
# Said for readers and generators, or read elsewhere (`nullable`, `discriminator`). `format` is here because
# neither document uses it as a promise; $recursiveRef, in a filter of file search, comes to mean "anything".
_SILENT = frozenset(
    "description title example examples default deprecated discriminator nullable format readOnly writeOnly"
    " externalDocs xml $recursiveAnchor $recursiveRef optional".split()
)


class _Translation:
    """OpenAPI schemas to JSON Schema, keeping a list of the named schemas that were referred to."""

    def __init__(self, document: dict[str, Any], *, closed: bool) -> None:
        self.wanted: set[str] = set()
        self._document = document
        self._closed = closed

    def schema(self, source: Schema) -> Schema:
        if isinstance(source, bool):
            return source
        result: dict[str, Any] = {}
        for keyword, value in source.items():
            self._keyword(keyword, value, source, result)
        if self._closed and "properties" in result:
            result.setdefault("additionalProperties", False)
        if source.get("nullable"):  # OpenAPI 3.0's word, which JSON Schema does not know and so would ignore
            return {"anyOf": [result, {"type": "null"}]}
        return result

    def _keyword(self, keyword: str, value: Any, source: Schema, result: dict[str, Any]) -> None:
        if keyword == "$ref":
            name = _name(value)
            self.wanted.add(name)
            result["$ref"] = f"#/$defs/{name}"
        elif keyword == "properties":
            result["properties"] = {name: self.schema(one) for name, one in value.items()}
        elif keyword in ("oneOf", "anyOf"):
            # oneOf branches overlap all over both documents (a string beside an enum of strings), so "exactly
            # one" would refuse good objects. Where a property tells the branches apart, it decides.
            dispatch = self._dispatch(source, value)
            result |= {"x-dispatch": dispatch} if dispatch else {"anyOf": [self.schema(one) for one in value]}
        elif keyword == "allOf":
            if self._closed:
                # A closed part would refuse the other parts' fields. No request of Cohere's uses allOf today.
                raise NotImplementedError("allOf in a closed schema")
            result["allOf"] = [self.schema(one) for one in value]
        elif keyword in _ONE_SCHEMA:
            result[keyword] = self.schema(value)
        elif keyword == "exclusiveMinimum":
            # A bare `true` is OpenAPI 3.0's spelling; the `minimum` beside it is close enough.
            if value is not True:
                result[keyword] = value
        elif keyword in _PLAIN:
            result[keyword] = value
        elif keyword not in _SILENT and not keyword.startswith("x-"):
            raise ValueError(f"a keyword that this translation does not know: {keyword}")

    def _dispatch(self, source: Schema, union: list[Schema]) -> dict[str, Any] | None:
        """The branch of each value of the discriminator; None when the value does not settle it."""
        if "discriminator" not in source:
            return None
        discriminator = source["discriminator"]
        name = discriminator["propertyName"]
        mapping: Mapping[str, str] = discriminator.get("mapping", {})
        if mapping:
            # The mapping is the whole truth: Cohere's stream union lists fewer branches than it maps.
            mapped = {value: self.schema({"$ref": reference}) for value, reference in mapping.items()}
            return {"property": name, "branches": mapped}
        branches: dict[str, list[Schema]] = {}
        for branch in union:
            values = self._required_values(branch, name)
            if not values:
                return None
            for value in values:
                branches.setdefault(value, []).append(self.schema(branch))
        joined = {value: some[0] if len(some) == 1 else {"anyOf": some} for value, some in branches.items()}
        return {"property": name, "branches": joined}

    def _required_values(self, branch: Schema, name: str) -> list[str]:
        """The values that the branch allows its required property; none when it may be absent or anything."""
        parts = list(_parts(self._document, branch))
        if not any(name in part.get("required", ()) for part in parts):
            return []
        for declared in (part["properties"][name] for part in parts if name in part.get("properties", {})):
            if "$ref" in declared:
                declared = _resolve(self._document, declared["$ref"])
            values = [declared["const"]] if "const" in declared else declared.get("enum", [])
            if values:
                return list(values)
        return []


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
