"""Makes tests/oracle/*.json: the facts in the vendors' OpenAPI documents, as JSON Schema, without their sentences.

    make oracle

The documents lie in `shared/reference` beside the repository and are not committed here; whoever has them can make
the files anew, and `tests/test_oracle.py` says when they are stale. A file has four keys:

    version      the document's own
    operations   "METHOD /path" -> its `statuses` and the schemas of its `request`, `response` and `event`,
                 each only where a test asks for it
    properties   name of a schema -> the names of its properties, where a test asks for no more than these
    schemas      name of a schema -> its JSON Schema (2020-12); all that the above refer to

What this module knows is how to read the documents: where YAML, OpenAPI and JSON Schema disagree, where a document
disagrees with recorded traffic or with itself (DEVIATIONS), and what OpenAI's SDK has that its document lacks (the
overlay). The files speak plain JSON Schema but for one keyword, `x-dispatch` (`support/oracle.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from support.recordings import SHARED

REFERENCE = SHARED / "reference"
FOLDER = Path(__file__).resolve().parents[1] / "oracle"
OVERLAY = "openai-drift-3.57.0.yaml"
Schema = Any  # a JSON Schema: a dict of keywords, or True / False

_REFERENCE = "#/components/schemas/"


@dataclass(frozen=True)
class Document:
    """An OpenAPI document, and what of it the tests ask about."""

    file: str
    schemas: tuple[str, ...] = ()
    """Schemas by name; those that they refer to come with them."""
    properties: tuple[str, ...] = ()
    """Schemas of which the names of the properties are enough."""
    requests: tuple[str, ...] = ()
    """Operations whose JSON body is asked about."""
    responses: bool = False
    """Whether the JSON of every operation's 200 is asked about."""


DOCUMENTS = {
    "openai": Document(
        "openai-openapi.yaml",
        schemas=(
            *("CreateChatCompletionResponse", "CreateChatCompletionStreamResponse", "CreateEmbeddingResponse"),
            *("Response", "ResponseStreamEvent", "ResponseItemList", "CompactResource", "ResponseWsError"),
            *("ConversationItemList", "ConversationResource", "Model", "ListModelsResponse", "ErrorResponse"),
        ),
        properties=(
            *("CreateChatCompletionRequest", "CreateResponse", "CompactResponseMethodPublicBody"),
            "CreateEmbeddingRequest",
        ),
    ),
    "open_responses": Document(
        "open-responses-2026-04-24.yaml", schemas=("CompactResource", "WebSocketErrorEvent"), responses=True
    ),
    "cohere": Document(
        "cohere-openapi.yaml",
        schemas=("StreamedChatResponseV2", "StreamedChatResponse", "GenerateStreamedResponse", "CitationOptions"),
        requests=("POST /v2/chat", "POST /v2/embed", "POST /v2/rerank"),
        responses=True,
    ),
}
Vendor = str  # a key of DOCUMENTS


@dataclass(frozen=True)
class Deviation:
    """A place under components/schemas where a document is wrong, and what is true instead."""

    path: tuple[str, ...]
    truth: Any
    reason: str


# Where the document disagrees with recorded traffic, or with itself where nothing is recorded. One more case
# is handled by rule, not by row: the stream's `oneOf` omits citation-start and citation-end, which its
# discriminator mapping has; the mapping decides (`_dispatch`).
DEVIATIONS: dict[str, tuple[Deviation, ...]] = {
    "open_responses": (
        Deviation(
            ("JsonSchemaResponseFormat", "properties", "schema"),
            {"type": ["object", "null"]},
            "it may only be null on paper; the parameter that it echoes is an object",
        ),
        Deviation(
            ("Annotation",),
            {
                "anyOf": [
                    {"$ref": "#/components/schemas/UrlCitationBody"},
                    {"type": "object", "required": ["type"], "properties": {"type": {"enum": ["file_citation"]}}},
                ]
            },
            "it has one of OpenAI's annotations; the others are its providers' own",
        ),
    ),
    "cohere": (
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
    ),
}


def available() -> bool:
    """Return whether the documents lie beside the repository."""
    return all((REFERENCE / file).is_file() for file in (*(one.file for one in DOCUMENTS.values()), OVERLAY))


def generated(vendor: Vendor) -> str:
    """Return the text of a file: JSON, one operation or schema a line, sorted."""
    facts = _facts(vendor)
    lines = [f'"version": {json.dumps(facts["version"])}']
    for part in ("operations", "properties", "schemas"):
        rows = [f"{json.dumps(name)}: {_compact(value)}" for name, value in sorted(facts[part].items())]
        lines.append(f'"{part}": {{\n' + ",\n".join(rows) + "\n}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _facts(vendor: Vendor) -> dict[str, Any]:
    request = DOCUMENTS[vendor]
    document = specification(vendor)
    translation = _Translation(document)
    operations: dict[str, Any] = {}
    for path, item in document["paths"].items():
        for method in item.keys() & {"get", "post", "put", "patch", "delete"}:
            name = f"{method.upper()} {path}"
            operations[name] = _operation(item[method], translation, name in request.requests, request.responses)
    if vendor == "cohere":
        # The document gives the same shape for every status.
        error = document["components"]["responses"]["NotFound"]["content"]["application/json"]["schema"]
        translation.schemas["Error"] = translation.schema(error)
    for schema in request.schemas:
        translation.schema({"$ref": _REFERENCE + schema})
    return {
        "version": document["info"]["version"],
        "operations": operations,
        "properties": {
            name: sorted(set(_properties(document, {"$ref": _REFERENCE + name}))) for name in request.properties
        },
        "schemas": translation.schemas,
    }


def _operation(operation: dict[str, Any], translation: _Translation, request: bool, response: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if response:
        facts["statuses"] = sorted(int(status) for status in operation["responses"] if status.isdigit())
    if request:
        facts["request"] = translation.schema(operation["requestBody"]["content"]["application/json"]["schema"])
    content = operation["responses"].get("200", {}).get("content", {})
    if response and "application/json" in content:
        schema = content["application/json"]["schema"]
        if "oneOf" in schema:
            # Chat: the whole answer beside the union of stream events, and an event is no answer.
            whole = [one for one in schema["oneOf"] if not _name(one["$ref"]).startswith("Streamed")]
            schema = whole[0] if len(whole) == 1 else schema | {"oneOf": whole}
        facts["response"] = translation.schema(schema)
    if response and "text/event-stream" in content:
        facts["event"] = translation.schema(content["text/event-stream"]["schema"])
    return facts


@cache
def specification(vendor: Vendor, *, corrected: bool = True) -> dict[str, Any]:
    """Return the parsed document, corrected by the known deviations and the overlay unless it is wanted as written."""
    document = _parsed(DOCUMENTS[vendor].file)
    schemas = document["components"]["schemas"]
    if corrected:
        for deviation in DEVIATIONS.get(vendor, ()):
            *parents, last = deviation.path
            position = schemas
            for key in parents:
                position = position[key]
            position[last] = deviation.truth
    if corrected and vendor == "openai":
        for name, changes in _parsed(OVERLAY)["components"]["schemas"].items():
            _overlay(schemas, name, changes)
    return document


def _overlay(schemas: dict[str, Any], name: str, changes: dict[str, Any]) -> None:
    """Apply what the overlay says of one schema, where the document has such a schema.

    New properties are taken as names of any value: the overlay is a sketch of them. A changed property may have the
    values that the document says, and those that the overlay says. New members join the union, by their `type`.
    """
    schema = schemas.get(name)
    if schema is None:
        return
    for member, body in changes.get("add_members", {}).items():
        schemas[member] = {"type": "object", **body}
        union = next(schema[word] for word in ("anyOf", "oneOf") if word in schema)
        union.append({"$ref": _REFERENCE + member})
    position = next((part for part in _own_parts(schema) if "properties" in part), schema).setdefault("properties", {})
    for field in changes.get("add_properties", {}):
        position.setdefault(field, {})
    for field, body in {**changes.get("change_properties", {}), **changes.get("properties", {})}.items():
        position[field] = _either(position[field], body) if field in position else body


def _either(old: Schema, new: Schema) -> Schema:
    if "properties" in old and "properties" in new:
        fields = old["properties"]
        more = {
            name: _either(fields[name], body) if name in fields else body for name, body in new["properties"].items()
        }
        return {**old, "properties": {**fields, **more}}
    return {"anyOf": [old, new]}


def _own_parts(schema: Schema) -> list[Schema]:
    """Return the schema and the parts of its allOf that are written out there, the last one first."""
    return [schema, *reversed([part for part in schema.get("allOf", ()) if "$ref" not in part])]


def _parsed(file: str) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped, unused-ignore]  # only here: no reference, no YAML needed

    parsed = yaml.load((REFERENCE / file).read_bytes(), Loader=_yaml_loader(yaml))
    assert isinstance(parsed, dict)
    return parsed


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


def _properties(document: dict[str, Any], schema: Schema) -> Iterator[str]:
    for part in _parts(document, schema):
        yield from part.get("properties", {})


def _parts(document: dict[str, Any], schema: Schema) -> Iterator[Schema]:
    """Yield the schema and all that it takes over through $ref and allOf."""
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
    """OpenAPI schemas to JSON Schema; gathers the named schemas that are referred to."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.schemas: dict[str, Schema] = {}
        self._document = document

    def schema(self, source: Schema) -> Schema:
        """Return the JSON Schema."""
        if isinstance(source, bool):
            return source
        result: dict[str, Any] = {}
        for keyword, value in source.items():
            self._keyword(keyword, value, source, result)
        if source.get("nullable"):  # OpenAPI 3.0's word, which JSON Schema does not know and so would ignore
            return {"anyOf": [result, {"type": "null"}]}
        return result

    def _keyword(self, keyword: str, value: Any, source: Schema, result: dict[str, Any]) -> None:
        if keyword == "$ref":
            name = _name(value)
            if name not in self.schemas:
                self.schemas[name] = None  # it may refer to itself
                self.schemas[name] = self.schema(self._document["components"]["schemas"][name])
            result["$ref"] = f"#/$defs/{name}"
        elif keyword == "properties":
            result["properties"] = {name: self.schema(one) for name, one in value.items()}
        elif keyword in ("oneOf", "anyOf"):
            # oneOf branches overlap all over both documents (a string beside an enum of strings), so "exactly
            # one" would refuse good objects. Where a property tells the branches apart, it decides.
            dispatch = self._dispatch(source, value)
            result |= {"x-dispatch": dispatch} if dispatch else {"anyOf": [self.schema(one) for one in value]}
        elif keyword == "allOf":
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
        """Return the branch of each value of the discriminator; None when the value does not settle it."""
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
        """Return the values that the branch allows its required property; none when it may be absent or anything."""
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


def main() -> None:
    """Write the files."""
    for vendor in DOCUMENTS:
        (FOLDER / f"{vendor}.json").write_text(generated(vendor), encoding="utf-8")


if __name__ == "__main__":
    main()
