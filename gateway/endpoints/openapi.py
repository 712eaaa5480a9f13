"""`/openapi.json`: what is served, described as OpenAPI 3.1 by the tables that serve it. Nothing is written here twice.

A request's schema has a property for each row of its operation's field table, with the row's verdict; it leaves open
what only a rule knows, say which fields must be there. What else Cohere's native API takes is Cohere's to describe.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from gateway import __version__
from gateway.cohere_methods import METHODS
from gateway.endpoints.stored import REMEMBERED
from gateway.http.error_responses import NATIVE_PREFIX
from gateway.http.responses import send_json
from gateway.observability.record import record_of
from gateway.pipeline.operations import CALLS, COUNTS, LOOKUPS, TRANSLATED, UploadOperation
from schemas.cohere import errors as cohere
from schemas.openai.chat import ChatCompletion, ChatCompletionChunk
from schemas.openai.embeddings import EmbeddingList
from schemas.openai.errors import ErrorBody
from schemas.openai.models import Model, ModelList
from schemas.openai.transcription import Transcription
from translators.core.field_table import SYNONYM_OBJECT, Field, FieldTable, Verdict
from translators.core.notes import Notes

PATH = "/openapi.json"

ANSWERS: Mapping[str, tuple[Any, ...]] = {
    "chat": (ChatCompletion, ChatCompletionChunk),
    "responses": (dict[str, Any], dict[str, Any]),
    "compact": (dict[str, Any],),
    "rerank": (dict[str, Any],),
    "embeddings": (EmbeddingList,),
    "transcription": (Transcription,),
    "models": (ModelList,),
    "model": (Model,),
}
"""By the operation's name: a whole answer, and where it may be streamed the data of one event. Any object where the
Structs are for writing only (unions without tags).
"""

OPEN = ("/health/live", "/health/ready", "/metrics", PATH)
"""Paths that no API key is asked for."""

_STREAMABLE = ("application/json", "text/event-stream")
_KINDS = {"json": "application/json", "form": "multipart/form-data"}
_REFERENCE = "#/components/schemas/{name}"
_PLACEHOLDER = re.compile(r"\{(\w+)(?::\w+)?\}")


class Description:
    """The endpoint. It says nothing of the settings or of the callers, so it is for everybody."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record_of(scope).operation = "openapi"
        await send_json(send, document(), Notes())


@cache
def document() -> bytes:
    """The OpenAPI document, as JSON; made when it is first asked for."""
    types: list[Any] = [ErrorBody, cohere.ErrorBody]
    types += [answer for answers in ANSWERS.values() for answer in answers]
    types += [row.type for operation in TRANSLATED for row in operation.fields.rows]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    described = dict(zip(map(id, types), schemas, strict=True))
    for component in components.values():
        # A key that nobody knows is dropped and noted, not refused (translators/core/field_table.py).
        component.pop("additionalProperties", None)
    paths: dict[str, dict[str, Any]] = {}
    for path, verb, told in _operations(described):
        paths.setdefault(_PLACEHOLDER.sub(r"{\1}", path), {})[verb.lower()] = told
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "cohere-gateway",
                "version": __version__,
                "description": "OpenAI's API in front of Cohere's models, and Cohere's native API beside it.",
            },
            "servers": [{"url": "/"}],
            "security": [{"bearer": []}],
            "paths": paths,
            "components": {
                "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
                "schemas": components,
            },
        }
    )


def _operations(described: Mapping[int, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, verb and description of everything that is served."""
    failed, native_failed = described[id(ErrorBody)], described[id(cohere.ErrorBody)]
    for row in TRANSLATED:
        body = _fields(row.fields, described)
        kind = "application/json"
        if isinstance(row, UploadOperation):
            kind = "multipart/form-data"
            body["properties"][row.file] = {"type": "string", "format": "binary"}
        answers = [described[id(answer)] for answer in ANSWERS[row.name]]
        yield row.path, "POST", _operation(row.name, row.path, failed, answers, (kind, body))
    translated = {row.request: row.fields for row in CALLS}
    for count in COUNTS:
        body = _fields(translated[count.request], described)
        yield count.path, "POST", _operation(count.name, count.path, failed, [{}], ("application/json", body))
    for lookup in LOOKUPS:
        answers = [described[id(answer)] for answer in ANSWERS[lookup.name]]
        yield lookup.path, "GET", _operation(lookup.name, lookup.path, failed, answers)
    for path, actions in REMEMBERED.items():
        for verb, action in actions.items():
            needs = action.needs
            taken = None if needs is None else ("application/json", {"type": "object", "required": list(needs)})
            yield path, verb, _operation(action.name, path, failed, [{}], taken)
    for method in METHODS:
        path = NATIVE_PREFIX + method.path.removeprefix("/")
        taken = (_KINDS[method.takes], {"type": "object"}) if method.takes else None
        yield path, method.verb, _operation(method.operation, path, native_failed, [{}], taken)
    for path in OPEN:
        yield path, "GET", {**_operation(path.strip("/").replace("/", "_"), path, failed, [{}]), "security": []}


def _operation(
    name: str,
    path: str,
    failed: Mapping[str, Any],
    answers: Sequence[Mapping[str, Any]],
    asked: tuple[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """answers: whole, and of one event of a stream. asked: the body's type, and its schema."""
    content = {kind: {"schema": schema} for kind, schema in zip(_STREAMABLE, answers, strict=False)}
    told: dict[str, Any] = {
        "operationId": name,
        "responses": {
            "200": {"description": "The answer", "content": content},
            "default": {"description": "An error", "content": {"application/json": {"schema": failed}}},
        },
    }
    if names := _PLACEHOLDER.findall(path):
        told["parameters"] = [
            {"name": one, "in": "path", "required": True, "schema": {"type": "string"}} for one in names
        ]
    if asked is not None:
        told["requestBody"] = {"required": True, "content": {asked[0]: {"schema": asked[1]}}}
    return told


def _fields(table: FieldTable, described: Mapping[int, Any]) -> dict[str, Any]:
    """The schema of a body. null means absent everywhere."""
    properties = {row.name: _field(row, described) for row in table.rows}
    for synonym, name in table.synonyms.items():
        properties[synonym] = {**properties[name], "description": f"Another name of `{name}`"}
    properties[SYNONYM_OBJECT] = {"type": ["object", "null"], "description": "Fields as if they stood beside it"}
    return {"type": "object", "properties": properties}


def _field(row: Field, described: Mapping[int, Any]) -> dict[str, Any]:
    told = ": ".join(part for part in (row.verdict.value.capitalize(), row.why) if part)
    if row.verdict in (Verdict.IGNORE, Verdict.REFUSE):
        return {"description": told}
    return {"anyOf": [described[id(row.type)], {"type": "null"}], "description": told}
