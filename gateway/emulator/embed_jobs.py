"""/v1/embed-jobs: a whole dataset embedded while the caller looks (`shelf.Course`), into a dataset of its own.

Source: docs/cohere-api.md#embed-jobs.
"""

from __future__ import annotations

import uuid
from typing import Any

import msgspec

from gateway.emulator import avro, datasets, embed, validation
from gateway.emulator.catalogue import Model
from gateway.emulator.datasets import Dataset
from gateway.emulator.refusals import Refusal, invalid
from gateway.emulator.repository import Course, moment, short_id
from gateway.emulator.request import META_V1, Emulator, Reply, Request, warnings
from gateway.emulator.validation import Check

RUNNING = ("processing", "processing", "complete")
ABANDONED = ("cancelling", "cancelled")
FIELDS: dict[str, Check] = {
    "model": validation.string,
    "dataset_id": validation.string,
    "input_type": validation.one_of(*validation.INPUT_TYPES),
    "name": validation.string,
    "embedding_types": validation.strings,
    "truncate": validation.one_of("START", "END"),
}
AVRO_TYPES: dict[str, Any] = {
    "float": avro.array("double"), "base64": "string",
    **dict.fromkeys(("int8", "uint8", "binary", "ubinary"), avro.array("long")),
}  # fmt: skip


class EmbedJob(msgspec.Struct, kw_only=True):
    """One job."""

    id: str
    name: str | None
    created: float
    course: Course
    model: Model
    source: Dataset
    asked: dict[str, Any]  # what each text is embedded with
    output: str | None = None
    billed: int = 0

    def described(self) -> dict[str, Any]:
        """The job as Cohere shows it."""
        told: dict[str, Any] = {"job_id": self.id}
        if self.name is not None:
            told["name"] = self.name
        told |= {"status": self.course.stage, "created_at": moment(self.created)}
        told["input_dataset_id"] = self.source.id
        if self.output is not None:
            told["output_dataset_id"] = self.output
        told |= {"model": self.model.name, "truncate": self.asked["truncate"]}
        return told | {"meta": META_V1 | ({"billed_units": {"input_tokens": self.billed}} if self.billed else {})}


def create(request: Request) -> Reply:
    """POST /v1/embed-jobs."""
    body = {name: value for name, value in request.body.items() if name in FIELDS and value is not None}
    model = request.emulator.catalogue.serving(body.get("model"), "embed")
    validation.fields(body, FIELDS, "embed-jobs")
    if not body.get("input_type"):
        raise invalid("valid input_type must be provided with the provided model")
    for kind in body.get("embedding_types") or ():
        if kind not in validation.EMBEDDING_TYPES:
            raise invalid(f"embedding_types must be one of {', '.join(validation.EMBEDDING_TYPES)} - received {kind}")
    source = datasets.usable(body.get("dataset_id"), ("embed-input",), request.emulator)
    job = EmbedJob(
        id=str(uuid.uuid4()), name=body.get("name"), created=request.emulator.clock(), course=Course(RUNNING),
        model=model, source=source,
        asked={
            "input_type": body["input_type"], "truncate": body.get("truncate") or "END",
            "embedding_types": body.get("embedding_types") or ["float"],
        },
    )  # fmt: skip
    request.emulator.shelf(EmbedJob).put(job.id, job)
    return Reply(body={"job_id": job.id, "meta": META_V1}, headers=warnings(request.body, FIELDS))


def listing(request: Request) -> Reply:
    """GET /v1/embed-jobs, newest first."""
    jobs = list(request.emulator.shelf(EmbedJob).newest())
    for job in jobs:
        _look(job, request.emulator)
    return Reply(body={"embed_jobs": [job.described() for job in jobs]})


def get(request: Request) -> Reply:
    """GET /v1/embed-jobs/{id}."""
    job = _named(request)
    _look(job, request.emulator)
    return Reply(body=job.described())


def cancel(request: Request) -> Reply:
    """POST /v1/embed-jobs/{id}/cancel: an empty answer."""
    job = _named(request)
    if job.course.over:
        raise invalid(f"embed job {job.id} cannot be cancelled, it is {job.course.stage}.")  # guessed
    if job.course.stage not in ABANDONED:
        job.course = Course(ABANDONED)
    return Reply(body=None)


def _named(request: Request) -> EmbedJob:
    identity = request.path["id"]
    return request.emulator.shelf(EmbedJob).get(identity, f"embed job with id {identity} not found")  # guessed


def _look(job: EmbedJob, emulator: Emulator) -> None:
    """Somebody looks, so the job goes on; its last step is the whole work."""
    if not job.course.look() or job.course.stage != "complete":
        return
    try:
        _finish(job, emulator)
    except Refusal:
        job.course = Course(["failed"])


def _finish(job: EmbedJob, emulator: Emulator) -> None:
    wanted = job.asked["embedding_types"]
    made: list[dict[str, Any]] = []
    for row in job.source.kept:
        embedded = embed.answer({"texts": [row["text"]], **job.asked}, job.model)
        vectors = {kind: values[0] for kind, values in embedded.body["embeddings"].items()}
        kept = {name: datasets.as_text(row.get(name)) for name in job.source.preserved if name != "text"}
        made.append({"text": row["text"], "embeddings": vectors, **kept})
        job.billed += embedded.counted
    fields: dict[str, Any] = {"text": "string"}
    kinds = {kind: AVRO_TYPES[kind] for kind in embed.FORMATS if kind in wanted}
    fields["embeddings"] = avro.record("embeddings", kinds)
    fields |= {name: ["null", "string"] for name in job.source.preserved if name != "text"}
    name = f"{job.name or 'embed-job'}-output"
    job.output = short_id(name)
    datasets.made(name, job.output, "embed-result", fields, made, emulator)
