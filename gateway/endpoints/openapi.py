"""`/openapi.json`: what is served, described as OpenAPI 3.1 by the tables that serve it. Nothing is written here twice.

A request's schema has a property for each row of its operation's field table, with the row's verdict, and the fields
that must be there; it leaves open what only a rule knows. What else Cohere's native API takes is Cohere's to describe.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from gateway import __version__
from gateway.cohere_methods import METHODS
from gateway.endpoints import translation
from gateway.endpoints.health import DRAIN_PATH
from gateway.endpoints.inspection import INSPECTIONS
from gateway.endpoints.reports import BODIES_PATH, EXPORT_PATH, REPORTS
from gateway.endpoints.stored import STORED
from gateway.http.error_responses import NATIVE_PREFIX
from gateway.http.responses import send_json
from gateway.ledger.exports import CONTENT_TYPES
from gateway.ledger.report_query import EXPORT_PARAMETERS
from gateway.management import field_table
from gateway.management.operations import OPERATIONS, ManagementOperation
from gateway.observability.record import record_of
from gateway.pipeline.operations import COUNTS, LOOKUPS, TRANSLATED, UploadOperation
from schemas.cohere import errors as cohere
from schemas.openai.chat import ChatCompletion, ChatCompletionChunk
from schemas.openai.embeddings import EmbeddingList
from schemas.openai.errors import ErrorBody
from schemas.openai.models import Model, ModelList
from schemas.openai.transcription import Transcription
from translators.core.field_table import SYNONYM_OBJECT, Field, FieldTable, Verdict
from translators.core.notes import Notes

# The second is `PATH` of `gateway/console/sign_in.py` once more: the console is on this layer and not to be imported.
PATH, SESSION = "/openapi.json", "/console/session"

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

REQUIRED: Mapping[str, tuple[str, ...]] = {
    "chat": ("model", "messages"),
    "responses": ("model", "input"),
    "compact": ("model",),
    "rerank": ("model", "query", "documents"),
    "embeddings": ("model",),
    "transcription": ("model", "file"),
    "input_tokens": ("model",),
}
"""By the operation's name: fields without which a request is refused, in the order in which they are missed."""

OPEN: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "/health/live": ("application/json", {"type": "object", "required": ["status"]}),
    "/health/ready": ("application/json", {"type": "object", "required": ["status", "workers"]}),
    "/metrics": ("text/plain", {"type": "string"}),
    PATH: ("application/json", {"type": "object", "required": ["openapi", "info", "paths"]}),
    "/": ("text/html", {"type": "string"}),
    "/console": ("text/html", {"type": "string"}),
    "/console/{path}": ("text/html", {"type": "string"}),
    SESSION: ("application/json", {"type": "object", "required": ["mode", "sign_in", "who"]}),
}
"""Paths that no API key is asked for, with content type and schema of the response."""

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
    """Returns the OpenAPI document as JSON. It is made at the first call."""
    types: list[Any] = [ErrorBody, cohere.ErrorBody]
    types += [answer for answers in ANSWERS.values() for answer in answers]
    types += [row.type for operation in TRANSLATED for row in operation.fields.rows]
    types += [row.type for operation in OPERATIONS if operation.table for row in operation.table.rows.values()]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    schemas_by_type = dict(zip(map(id, types), schemas, strict=True))
    for component in components.values():
        # A key that nobody knows is dropped and noted, not refused (translators/core/field_table.py).
        component.pop("additionalProperties", None)
    paths: dict[str, dict[str, Any]] = {}
    for path, verb, operation in _operations(schemas_by_type):
        # Starlette's `{path:path}` is `{path}` here. OpenAPI has no converters.
        paths.setdefault(_PLACEHOLDER.sub(r"{\1}", path), {})[verb.lower()] = operation
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


def _operations(schemas_by_type: Mapping[int, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields path, verb and description of everything that is served."""
    failed, native_failed = schemas_by_type[id(ErrorBody)], schemas_by_type[id(cohere.ErrorBody)]
    for row in TRANSLATED:
        body = _fields(row.name, row.fields, schemas_by_type)
        kind = "application/json"
        if isinstance(row, UploadOperation):
            kind = "multipart/form-data"
            body["properties"][row.file] = {"type": "string", "format": "binary"}
        answers = [schemas_by_type[id(answer)] for answer in ANSWERS[row.name]]
        yield row.path, "POST", _operation(row.name, row.path, failed, answers, (kind, body))
    for count in COUNTS:
        body = _fields(count.name, count.fields, schemas_by_type)
        yield count.path, "POST", _operation(count.name, count.path, failed, [{}], ("application/json", body))
    for lookup in LOOKUPS:
        answers = [schemas_by_type[id(answer)] for answer in ANSWERS[lookup.name]]
        yield lookup.path, "GET", _operation(lookup.name, lookup.path, failed, answers)
    for path, actions in STORED.items():
        for verb, action in actions.items():
            needs = action.required
            request_body = None if needs is None else ("application/json", {"type": "object", "required": list(needs)})
            yield path, verb, _operation(action.name, path, failed, [{}], request_body)
    for managed in OPERATIONS:
        for number, path in enumerate(managed.paths):
            operation = _management(managed, path, failed, schemas_by_type)
            # OpenAPI wants an `operationId` once. Further paths of a row get numbers.
            yield path, managed.verb, operation | ({"operationId": f"{managed.name}_{number + 1}"} if number else {})
    yield from _reports(failed)
    yield (
        translation.PATH,
        "POST",
        _operation("gateway_translate", translation.PATH, failed, [{}], ("application/json", {"type": "object"})),
    )
    for inspection in INSPECTIONS:
        yield inspection.path, "GET", _operation(inspection.name, inspection.path, failed, [{}])
    for method in METHODS:
        path = NATIVE_PREFIX + method.path.removeprefix("/")
        request_body = (_KINDS[method.takes], {"type": "object"}) if method.takes else None
        yield path, method.verb, _operation(method.operation, path, native_failed, [{}], request_body)
    yield from _open_operations(failed)


def _open_operations(failed: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields what needs no API key: the table OPEN, and signing in to the console; and draining, which needs one."""
    # Written by hand, since `Drain` is no row of any table.
    for verb, name in (("POST", "drain"), ("DELETE", "end_draining")):
        yield DRAIN_PATH, verb, _operation(name, DRAIN_PATH, failed, [{"type": "object", "required": ["status"]}])
    for path, (content_type, schema) in OPEN.items():
        # They have no names in any table, so one is made of the path.
        operation = _operation(re.sub(r"\W+", "_", path).strip("_") or "root", path, failed, [{}])
        operation["responses"]["200"]["content"] = {content_type: {"schema": schema}}
        yield path, "GET", {**operation, "security": []}
    session = OPEN[SESSION]
    for verb, name in (("POST", "sign_in"), ("PUT", "continue_session"), ("DELETE", "sign_out")):
        request_body = ("application/json", {"type": "object", "required": ["key"]}) if verb == "POST" else None
        operation = _operation(name, SESSION, failed, [{}], request_body)
        operation["responses"]["200"]["content"] = {session[0]: {"schema": session[1]}}
        yield SESSION, verb, {**operation, "security": []}


def _reports(failed: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for report in REPORTS:
        operation = _operation(report.name, report.path, failed, [{}])
        operation["parameters"] = _query_parameters(report.query)
        yield report.path, "GET", operation
    export = _operation("audit_export", EXPORT_PATH, failed, [{}]) | {
        "parameters": _query_parameters(EXPORT_PARAMETERS)
    }
    export["responses"]["200"]["content"] = {
        kind.decode(): {"schema": {"type": "string"}} for kind in CONTENT_TYPES.values()
    }
    yield EXPORT_PATH, "GET", export
    for verb, name in (("GET", "audit_body"), ("DELETE", "audit_body_delete")):
        yield BODIES_PATH, verb, _operation(name, BODIES_PATH, failed, [{}])


def _query_parameters(names: Sequence[str]) -> list[dict[str, Any]]:
    return [{"name": name, "in": "query", "schema": {"type": "string"}} for name in names]


def _operation(
    name: str,
    path: str,
    failed: Mapping[str, Any],
    answers: Sequence[Mapping[str, Any]],
    request_body_schema: tuple[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Describes one operation.

    answers: schemas of the whole response and of one event of a stream. request_body_schema: content type and schema.
    """
    # The second content type stays away where there is one schema: such an operation is not streamed.
    content = {kind: {"schema": schema} for kind, schema in zip(_STREAMABLE, answers, strict=False)}
    operation: dict[str, Any] = {
        "operationId": name,
        "responses": {
            "200": {"description": "The answer", "content": content},
            # One for all other statuses: every error has the same shape.
            "default": {"description": "An error", "content": {"application/json": {"schema": failed}}},
        },
    }
    if names := _PLACEHOLDER.findall(path):
        # OpenAPI demands `required` of every parameter in a path.
        operation["parameters"] = [
            {"name": one, "in": "path", "required": True, "schema": {"type": "string"}} for one in names
        ]
    if request_body_schema is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {request_body_schema[0]: {"schema": request_body_schema[1]}},
        }
    return operation


def _management(
    row: ManagementOperation, path: str, failed: Mapping[str, Any], schemas_by_type: Mapping[int, Any]
) -> dict[str, Any]:
    """Describes an operation of the management API. An empty body is `{}`."""
    body = None
    if row.table is not None:
        fields = {name: _management_field(field, schemas_by_type) for name, field in row.table.rows.items()}
        synonyms = {synonym: fields[name] for synonym, name in row.table.synonyms.items()}
        # Closed, unlike a call's: a name that the management does not know is a 400
        # (`gateway/management/field_table.py`).
        schema = {"type": "object", "properties": fields | synonyms, "additionalProperties": False}
        body = ("application/json", schema)
    operation = _operation(row.name, path, failed, [{}], body)
    if body is not None:
        operation["requestBody"]["required"] = False
    query = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in row.query]
    if query:
        operation["parameters"] = [*operation.get("parameters", ()), *query]
    return operation


def _management_field(row: field_table.Field, schemas_by_type: Mapping[int, Any]) -> dict[str, Any]:
    description = f"{row.verdict.value.capitalize()}: {row.why}"
    # Nothing is decoded of such a field, so any value is taken and no type may be claimed.
    if row.verdict is not field_table.Verdict.HONOURED:
        return {"description": description}
    return {"anyOf": [schemas_by_type[id(row.type)], {"type": "null"}], "description": description}


def _fields(name: str, table: FieldTable, schemas_by_type: Mapping[int, Any]) -> dict[str, Any]:
    """Returns the schema of a request body. null means absent everywhere."""
    properties = {row.name: _field(row, schemas_by_type) for row in table.rows}
    for synonym, field in table.synonyms.items():
        properties[synonym] = {**properties[field], "description": f"Another name of `{field}`"}
    properties[SYNONYM_OBJECT] = {"type": ["object", "null"], "description": "Fields as if they stood beside it"}
    return {"type": "object", "properties": properties, "required": list(REQUIRED[name])}


def _field(row: Field, schemas_by_type: Mapping[int, Any]) -> dict[str, Any]:
    description = ": ".join(part for part in (row.verdict.value.capitalize(), row.why) if part)
    # Here, too, nobody looks at the value.
    if row.verdict in (Verdict.IGNORE, Verdict.REFUSE):
        return {"description": description}
    return {"anyOf": [schemas_by_type[id(row.type)], {"type": "null"}], "description": description}
