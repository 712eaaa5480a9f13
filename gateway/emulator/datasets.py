"""/v1/datasets: files that clients upload, and files that jobs produce.

A dataset is validated as clients look at it (`repository.JobProgress`). It can be downloaded as Avro from the address
that it shows, without a key, as at Cohere. Source: docs/cohere-api.md#datasets.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from gateway.emulator import avro, dataset_rows
from gateway.emulator.dataset_rows import REQUIRED_FIELDS, DatasetRows
from gateway.emulator.errors import invalid_request
from gateway.emulator.multipart import Part
from gateway.emulator.repository import JobProgress, format_time, limit_and_offset, short_id
from gateway.emulator.request import EmulatorState, Request, Response

MAX_NAME = 50  # characters, exclusive
MAX_BYTES, MAX_ORGANIZATION_BYTES = 1_500_000_000, 10_000_000_000
DEFAULT_LIMIT = 100
STATUSES = ("unknown", "queued", "processing", "failed", "validated", "skipped")
MAX_LISTED_ERRORS = 10
MAX_STORED_BYTES = 64 * 1024 * 1024  # of all datasets together; the oldest goes first
DOWNLOAD_PATH = "/emulator/datasets/{id}/{part}"
TEXT_COLUMN = ["null", "string"]  # an Avro type


class Dataset(msgspec.Struct, kw_only=True):
    """One dataset. Only its first `dataset_rows.MAX_ROWS` rows are stored."""

    id: str
    name: str
    kind: str
    created: float
    updated: float
    progress: JobProgress
    rows: list[dict[str, Any]]
    count: int
    size: int
    stored_bytes: int
    schema: Any
    filename: str = ""
    error: str = ""
    warnings: list[str] = []
    preserved_fields: list[str] = []
    parse_info: dict[str, str] = {}
    has_original: bool = False

    def to_json(self, base_url: str) -> dict[str, Any]:
        """Returns the dataset in Cohere's format. `base_url` is where its parts can be downloaded."""
        body: dict[str, Any] = {"id": self.id, "name": self.name}
        body |= {"created_at": format_time(self.created), "updated_at": format_time(self.updated)}
        body |= {"dataset_type": self.kind, "validation_status": self.progress.stage}
        if self.progress.finished and self.error:
            body["validation_error"] = self.error
        body["required_fields"] = list(REQUIRED_FIELDS.get(self.kind, ()))
        body["preserve_fields"] = self.preserved_fields
        if self.progress.finished and not self.error:
            body |= {"schema": avro.ENCODER.encode(self.schema).decode(), "dataset_parts": [self._part(base_url)]}
        body["validation_warnings"] = self.warnings
        if self.parse_info:
            body["parse_info"] = self.parse_info
        return body

    def _part(self, base_url: str) -> dict[str, Any]:
        url = base_url + DOWNLOAD_PATH.format(id=self.id, part=0)
        part: dict[str, Any] = {"id": f"{self.id}-0", "name": self.filename or f"{self.name}.avro", "url": url}
        part |= {"index": 0, "size_bytes": self.size, "num_rows": self.count}
        if self.has_original:
            part["original_url"] = url
        return part | {"samples": dataset_rows.samples(self.rows)}

    def to_avro(self) -> bytes:
        """Returns the stored rows as an Avro file."""
        return avro.encode_container(self.schema, [_avro_row(row, self.schema) for row in self.rows])


def create(request: Request) -> Response:
    """Handles POST /v1/datasets."""
    query = request.query
    part = _check_upload(request)
    name, kind = query["name"], query["type"]
    content = dataset_rows.read_rows(part, kind, query.get("text_separator", ""), query.get("csv_delimiter", ""))
    error, warnings = _judge(content, query.get("skip_malformed_input", "").lower() == "true")
    parse_options = (("separator", "text_separator"), ("delimiter", "csv_delimiter"))
    now = request.emulator.clock()
    dataset = Dataset(
        id=short_id(name),
        name=name,
        kind=kind,
        created=now,
        updated=now,
        filename=part.filename or "",
        progress=JobProgress(["queued", "processing", "failed" if error else "validated"]),
        rows=content.rows,
        count=content.count,
        size=part.size,
        stored_bytes=len(part.data),
        schema=_text_schema(content.rows),
        error=error,
        warnings=warnings,
        preserved_fields=[
            *request.query_lists.get("keep_fields", ()), *request.query_lists.get("optional_fields", ())
        ],
        parse_info={key: query[option] for key, option in parse_options if query.get(option)},
        has_original=query.get("keep_original_file", "").lower() == "true",
    )  # fmt: skip
    _store(dataset, request.emulator)
    return Response(body={"id": dataset.id})


def _check_upload(request: Request) -> Part:
    """Returns the uploaded file. Raises a 400 for a bad query, a missing file, or one that is too large."""
    query = request.query
    if not query.get("name"):
        raise invalid_request("name is required.")  # guessed
    if len(query["name"]) >= MAX_NAME:
        raise invalid_request(f"name must be shorter than {MAX_NAME} characters.")  # guessed
    if query.get("type") not in REQUIRED_FIELDS:
        raise invalid_request(f"type must be one of {', '.join(REQUIRED_FIELDS)}.")  # guessed
    if len(query.get("csv_delimiter", "")) > 1:
        raise invalid_request("csv_delimiter must be a single character.")  # guessed
    part = request.form.find("data") if request.form else None
    if part is None:
        raise invalid_request("data is required.")  # guessed
    total = sum(dataset.size for dataset in request.emulator.repository(Dataset).newest_first())
    if part.size > MAX_BYTES or total + part.size > MAX_ORGANIZATION_BYTES:
        raise invalid_request("the dataset exceeds the capacity of your organization.")  # guessed
    return part


def _judge(content: DatasetRows, skip_malformed: bool) -> tuple[str, list[str]]:
    """Returns the error that fails the dataset, or an empty string, and its warnings."""
    errors = content.errors[:MAX_LISTED_ERRORS]
    if errors and not skip_malformed:
        return f"{len(content.errors)} malformed rows: {'; '.join(errors)}", content.warnings
    if not content.rows:
        return "the dataset has no rows", content.warnings
    return "", [*content.warnings, *errors]


def list_all(request: Request) -> Response:
    """Handles GET /v1/datasets, newest first."""
    query = request.query
    kind, status = query.get("datasetType"), query.get("validationStatus")
    if status and status not in STATUSES:
        raise invalid_request(f"validationStatus must be one of {', '.join(STATUSES)}.")  # guessed
    before, after = _date(query.get("before")), _date(query.get("after"))
    matches = []
    for dataset in request.emulator.repository(Dataset).newest_first():
        # Before the filter, so that it sees the status that the list will show.
        advance(dataset, request.emulator)
        if kind and dataset.kind != kind or status and dataset.progress.stage != status:
            continue
        if before is not None and dataset.created >= before or after is not None and dataset.created <= after:
            continue
        matches.append(dataset)
    page = limit_and_offset(matches, query, DEFAULT_LIMIT)
    return Response(body={"datasets": [dataset.to_json(request.base_url) for dataset in page]})


def get_usage(request: Request) -> Response:
    """Handles GET /v1/datasets/usage."""
    total = sum(dataset.size for dataset in request.emulator.repository(Dataset).newest_first())
    return Response(body={"organization_usage": total})


def get(request: Request) -> Response:
    """Handles GET /v1/datasets/{id}."""
    dataset = find(request.path_params["id"], request.emulator)
    advance(dataset, request.emulator)
    return Response(body={"dataset": dataset.to_json(request.base_url)})


def delete(request: Request) -> Response:
    """Handles DELETE /v1/datasets/{id}."""
    identity = request.path_params["id"]
    request.emulator.repository(Dataset).remove(identity, _not_found(identity))
    return Response(body={})


def find(identity: str, emulator: EmulatorState) -> Dataset:
    """Returns the dataset of that id. Raises a 404."""
    return emulator.repository(Dataset).get(identity, _not_found(identity))


def find_usable(identity: Any, kinds: Sequence[str], emulator: EmulatorState) -> Dataset:
    """Returns the dataset that a job is to read. Raises a 400 unless it is validated and of one of these types."""
    if not isinstance(identity, str) or not identity:
        raise invalid_request("dataset id is required.")  # guessed
    dataset = find(identity, emulator)
    if dataset.kind not in kinds:
        allowed = " or ".join(kinds)
        raise invalid_request(
            f"dataset with id {identity} is of type {dataset.kind} but must be of type {allowed}."
        )  # guessed
    if dataset.progress.stage != "validated":
        raise invalid_request(
            f"dataset with id {identity} must be validated but is {dataset.progress.stage}."
        )  # guessed
    return dataset


def save_output(
    name: str, identity: str, kind: str, fields: dict[str, Any], rows: list[dict[str, Any]], emulator: EmulatorState
) -> None:
    """Stores the dataset that a job has produced. `fields` are its Avro types by name."""
    now = emulator.clock()
    dataset = Dataset(
        id=identity, name=name, kind=kind, created=now, updated=now, progress=JobProgress(["validated"]), rows=rows,
        count=len(rows), size=0, stored_bytes=0, schema=avro.record("row", fields),
    )  # fmt: skip
    dataset.size = dataset.stored_bytes = len(dataset.to_avro())
    _store(dataset, emulator)


def _store(dataset: Dataset, emulator: EmulatorState) -> None:
    repository = emulator.repository(Dataset)
    repository.add(dataset.id, dataset)
    total = sum(each.stored_bytes for each in repository.items.values())
    # Never the newest, however large it is: its upload has just succeeded.
    for each in list(repository.items.values())[:-1]:
        if total > MAX_STORED_BYTES:
            total -= repository.remove(each.id, _not_found(each.id)).stored_bytes


def advance(dataset: Dataset, emulator: EmulatorState) -> None:
    """Goes on with the validation."""
    if dataset.progress.advance():
        dataset.updated = emulator.clock()


def _not_found(identity: str) -> str:
    return f"dataset with id {identity} not found"


def _text_schema(rows: Sequence[dict[str, Any]]) -> Any:
    """Returns the Avro schema of uploaded rows: every column is text, because fields may differ in type."""
    names = dict.fromkeys(_avro_name(name) for row in rows for name in row)
    return avro.record("row", dict.fromkeys(names, TEXT_COLUMN))


def _avro_row(row: dict[str, Any], schema: Any) -> dict[str, Any]:
    """Returns a row as its schema demands. The rows that a job has produced are right already."""
    values = {_avro_name(name): value for name, value in row.items()}
    fields = {field["name"]: field["type"] for field in schema["fields"]}
    if any(kind != TEXT_COLUMN for kind in fields.values()):
        return values
    return {name: as_text(values.get(name)) for name in fields}


def as_text(value: Any) -> str | None:
    """Returns a value as text, as JSON unless it is text or null already."""
    return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()


def _avro_name(name: str) -> str:
    """Returns the name with an underscore for every character that Avro does not allow."""
    cleaned = "".join(
        character if character.isascii() and (character.isalnum() or character == "_") else "_" for character in name
    )
    return cleaned if cleaned and not cleaned[0].isdigit() else f"_{cleaned}"


def _date(text: str | None) -> float | None:
    """Returns a date-time of the query as Unix time; one without an offset is in UTC."""
    if not text:
        return None
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise invalid_request(f"'{text}' is not a valid date-time.") from None  # guessed
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
