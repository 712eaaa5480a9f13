"""/v1/datasets: files that callers upload, and files that jobs make of them.

A dataset is checked while callers look (`shelf.Course`), and can be downloaded as Avro from the address that it
shows, as at Cohere without a key. Source: docs/cohere-api.md#datasets; `dataset_rows.py` reads the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from gateway.emulator import avro, dataset_rows
from gateway.emulator.refusals import Refusal, bare, invalid
from gateway.emulator.repository import Course, moment, short_id, window
from gateway.emulator.request import Emulator, Reply, Request

LONGEST_NAME = 50
LARGEST, LARGEST_OF_ALL = 1_500_000_000, 10_000_000_000
DEFAULT_LIMIT = 100
STATUSES = ("unknown", "queued", "processing", "failed", "validated", "skipped")
MOST_PROBLEMS = 10
MOST_BYTES = 64 * 1024 * 1024  # kept of all datasets together; past it the oldest is forgotten
DOWNLOADS = "/emulator/datasets/{id}/{part}"


class Dataset(msgspec.Struct, kw_only=True):
    """One dataset. Of its rows only the first `rows.MOST` are kept."""

    id: str
    name: str
    kind: str
    created: float
    updated: float
    course: Course
    kept: list[dict[str, Any]]
    count: int
    size: int
    weight: int  # the bytes that are kept of it
    schema: Any
    filename: str = ""
    error: str = ""
    warnings: list[str] = []
    preserved: list[str] = []
    parsed: dict[str, str] = {}
    original: bool = False

    def described(self, base: str) -> dict[str, Any]:
        """The dataset as Cohere shows it; `base` is where its parts can be fetched."""
        told: dict[str, Any] = {"id": self.id, "name": self.name}
        told |= {"created_at": moment(self.created), "updated_at": moment(self.updated)}
        told |= {"dataset_type": self.kind, "validation_status": self.course.stage}
        if self.course.over and self.error:
            told["validation_error"] = self.error
        told["required_fields"] = list(dataset_rows.REQUIRED.get(self.kind, ()))
        told["preserve_fields"] = self.preserved
        if self.course.over and not self.error:
            told |= {"schema": avro.ENCODER.encode(self.schema).decode(), "dataset_parts": [self._part(base)]}
        told["validation_warnings"] = self.warnings
        if self.parsed:
            told["parse_info"] = self.parsed
        return told

    def _part(self, base: str) -> dict[str, Any]:
        address = base + DOWNLOADS.format(id=self.id, part=0)
        told: dict[str, Any] = {"id": f"{self.id}-0", "name": self.filename or f"{self.name}.avro", "url": address}
        told |= {"index": 0, "size_bytes": self.size, "num_rows": self.count}
        if self.original:
            told["original_url"] = address
        return told | {"samples": dataset_rows.sample(self.kept)}

    def file(self) -> bytes:
        """The rows that are kept, as the file that is downloaded."""
        return avro.container(self.schema, [_row(row, self.schema) for row in self.kept])


def create(request: Request) -> Reply:
    """POST /v1/datasets."""
    query = request.query
    name, kind = query.get("name", ""), query.get("type", "")
    if not name:
        raise bare("invalid request: name is required.")  # guessed
    if len(name) >= LONGEST_NAME:
        raise invalid(f"name must be shorter than {LONGEST_NAME} characters.")  # guessed
    if kind not in dataset_rows.REQUIRED:
        raise invalid(f"type must be one of {', '.join(dataset_rows.REQUIRED)}.")  # guessed
    delimiter = query.get("csv_delimiter", "")
    if len(delimiter) > 1:
        raise invalid("csv_delimiter must be a single character.")  # guessed
    part = request.form.find("data") if request.form else None
    if part is None:
        raise invalid("data is required.")  # guessed
    sizes = [dataset.size for dataset in request.emulator.shelf(Dataset).newest()]
    if part.size > LARGEST or sum(sizes) + part.size > LARGEST_OF_ALL:
        raise invalid("the dataset exceeds the capacity of your organization.")  # guessed
    read = dataset_rows.read(part, kind, query.get("text_separator", ""), delimiter)
    error, warnings = _judged(read, query.get("skip_malformed_input", "").lower() == "true")
    preserved = [*request.lists.get("keep_fields", ()), *request.lists.get("optional_fields", ())]
    now = request.emulator.clock()
    dataset = Dataset(
        id=short_id(name), name=name, kind=kind, created=now, updated=now, filename=part.filename or "",
        course=Course(["queued", "processing", "failed" if error else "validated"]),
        kept=read.kept, count=read.count, size=part.size, weight=len(part.data), schema=_schema(read.kept), error=error,
        warnings=warnings, preserved=preserved,
        parsed={key: query[said] for key, said in (("separator", "text_separator"), ("delimiter", "csv_delimiter"))
                if query.get(said)},
        original=query.get("keep_original_file", "").lower() == "true",
    )  # fmt: skip
    _keep(dataset, request.emulator)
    return Reply(body={"id": dataset.id})


def _judged(read: dataset_rows.Rows, skip: bool) -> tuple[str, list[str]]:
    """The error that fails the dataset, if any, and its warnings."""
    problems = read.malformed[:MOST_PROBLEMS]
    if problems and not skip:
        return f"{len(read.malformed)} malformed rows: {'; '.join(problems)}", read.warnings
    if not read.kept:
        return "the dataset has no rows", read.warnings
    return "", [*read.warnings, *problems]


def listing(request: Request) -> Reply:
    """GET /v1/datasets, newest first."""
    query = request.query
    kind, status = query.get("datasetType"), query.get("validationStatus")
    if status and status not in STATUSES:
        raise invalid(f"validationStatus must be one of {', '.join(STATUSES)}.")  # guessed
    before, after = _date(query.get("before")), _date(query.get("after"))
    found = []
    for dataset in request.emulator.shelf(Dataset).newest():
        look(dataset, request.emulator)
        if kind and dataset.kind != kind or status and dataset.course.stage != status:
            continue
        if before is not None and dataset.created >= before or after is not None and dataset.created <= after:
            continue
        found.append(dataset)
    shown = [dataset.described(request.base) for dataset in window(found, query, DEFAULT_LIMIT)]
    return Reply(body={"datasets": shown})


def usage(request: Request) -> Reply:
    """GET /v1/datasets/usage."""
    return Reply(body={"organization_usage": sum(each.size for each in request.emulator.shelf(Dataset).newest())})


def get(request: Request) -> Reply:
    """GET /v1/datasets/{id}."""
    dataset = named(request.path["id"], request.emulator)
    look(dataset, request.emulator)
    return Reply(body={"dataset": dataset.described(request.base)})


def delete(request: Request) -> Reply:
    """DELETE /v1/datasets/{id}."""
    identity = request.path["id"]
    request.emulator.shelf(Dataset).take(identity, _absent(identity))
    return Reply(body={})


def named(identity: str, emulator: Emulator) -> Dataset:
    """The dataset of that id, or the 404."""
    return emulator.shelf(Dataset).get(identity, _absent(identity))


def usable(identity: Any, kinds: Sequence[str], emulator: Emulator) -> Dataset:
    """The dataset that a job is to read: of a fitting type, and checked."""
    if not isinstance(identity, str) or not identity:
        raise invalid("dataset id is required.")  # guessed
    dataset = named(identity, emulator)
    if dataset.kind not in kinds:
        wanted = " or ".join(kinds)
        raise invalid(f"dataset with id {identity} is of type {dataset.kind} but must be of type {wanted}.")  # guessed
    if dataset.course.stage != "validated":
        raise invalid(f"dataset with id {identity} must be validated but is {dataset.course.stage}.")  # guessed
    return dataset


def made(
    name: str, identity: str, kind: str, fields: dict[str, Any], kept: list[dict[str, Any]], emulator: Emulator
) -> None:
    """Keep a dataset that a job has made; its fields have Avro types of their own."""
    now = emulator.clock()
    schema = avro.record("row", fields)
    dataset = Dataset(
        id=identity, name=name, kind=kind, created=now, updated=now, course=Course(["validated"]), kept=kept,
        count=len(kept), size=0, weight=0, schema=schema,
    )  # fmt: skip
    dataset.size = dataset.weight = len(dataset.file())
    _keep(dataset, emulator)


def _keep(dataset: Dataset, emulator: Emulator) -> None:
    shelf = emulator.shelf(Dataset)
    shelf.put(dataset.id, dataset)
    weight = sum(each.weight for each in shelf.things.values())
    for each in list(shelf.things.values())[:-1]:
        if weight > MOST_BYTES:
            weight -= shelf.take(each.id, _absent(each.id)).weight


def look(dataset: Dataset, emulator: Emulator) -> None:
    """Somebody looks, so the checking goes on."""
    if dataset.course.look():
        dataset.updated = emulator.clock()


def _absent(identity: str) -> str:
    return f"dataset with id {identity} not found"


def _schema(kept: Sequence[dict[str, Any]]) -> Any:
    """Every field of an uploaded row is a text; what is none is written as JSON."""
    names = dict.fromkeys(_avro_name(name) for row in kept for name in row)
    return avro.record("row", dict.fromkeys(names, ["null", "string"]))


def _row(row: dict[str, Any], schema: Any) -> dict[str, Any]:
    """A row as its schema wants it."""
    told = {_avro_name(name): value for name, value in row.items()}
    fields = {field["name"]: field["type"] for field in schema["fields"]}
    if any(kind != ["null", "string"] for kind in fields.values()):
        return told  # made by a job, and right
    return {name: as_text(told.get(name)) for name in fields}


def as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()


def _avro_name(name: str) -> str:
    kept = "".join(sign if sign.isascii() and (sign.isalnum() or sign == "_") else "_" for sign in name)
    return kept if kept and not kept[0].isdigit() else f"_{kept}"


def _date(said: str | None) -> float | None:
    if not said:
        return None
    try:
        told = datetime.fromisoformat(said)
    except ValueError:
        raise Refusal(400, f"invalid request: '{said}' is not a valid date-time.") from None  # guessed
    return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
