"""/v1/embed-jobs: a dataset of texts, embedded as clients look at the job, into a dataset of vectors.

Source: docs/cohere-api.md#embed-jobs.
"""

from __future__ import annotations

import uuid
from typing import Any

import msgspec

from gateway.emulator import avro, datasets, embed, validation
from gateway.emulator.datasets import Dataset
from gateway.emulator.errors import APIError, invalid_request
from gateway.emulator.model_catalog import Model
from gateway.emulator.repository import JobProgress, format_time, short_id
from gateway.emulator.request import META_V1, EmulatorState, Request, Response
from gateway.emulator.validation import Check

# Twice, since the first look at a job moves it on already: whoever polls sees it unfinished once.
STAGES = ("processing", "processing", "complete")
CANCELLED_STAGES = ("cancelling", "cancelled")
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
    progress: JobProgress
    model: Model
    source: Dataset
    options: dict[str, Any]  # fields of the embed request of each text
    output: str | None = None
    billed_tokens: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns the job in Cohere's format."""
        body: dict[str, Any] = {"job_id": self.id}
        if self.name is not None:
            body["name"] = self.name
        body |= {"status": self.progress.stage, "created_at": format_time(self.created)}
        body["input_dataset_id"] = self.source.id
        if self.output is not None:
            body["output_dataset_id"] = self.output
        body |= {"model": self.model.name, "truncate": self.options["truncate"]}
        billed = {"billed_units": {"input_tokens": self.billed_tokens}} if self.billed_tokens else {}
        return body | {"meta": META_V1 | billed}


def create(request: Request) -> Response:
    """Handles POST /v1/embed-jobs."""
    body = request.select(FIELDS)
    model = request.emulator.model_catalog.find_for("embed", body.get("model"))
    validation.fields(body, FIELDS, "embed-jobs")
    if not body.get("input_type"):
        raise invalid_request("valid input_type must be provided with the provided model")
    validation.check_embedding_types(body.get("embedding_types") or (), model)
    source = datasets.find_usable(body.get("dataset_id"), ("embed-input",), request.emulator)
    job = EmbedJob(
        id=str(uuid.uuid4()),
        name=body.get("name"),
        created=request.emulator.clock(),
        progress=JobProgress(STAGES),
        model=model,
        source=source,
        options={
            "input_type": body["input_type"],
            "truncate": body.get("truncate") or "END",
            "embedding_types": body.get("embedding_types") or ["float"],
        },
    )
    request.emulator.repository(EmbedJob).add(job.id, job)
    return Response(body={"job_id": job.id, "meta": META_V1}, headers=request.unknown_field_warning(FIELDS))


def list_all(request: Request) -> Response:
    """Handles GET /v1/embed-jobs, newest first."""
    jobs = list(request.emulator.repository(EmbedJob).newest_first())
    for job in jobs:
        _advance(job, request.emulator)
    return Response(body={"embed_jobs": [job.to_json() for job in jobs]})


def get(request: Request) -> Response:
    """Handles GET /v1/embed-jobs/{id}."""
    job = _find(request)
    _advance(job, request.emulator)
    return Response(body=job.to_json())


def cancel(request: Request) -> Response:
    """Handles POST /v1/embed-jobs/{id}/cancel. The response has an empty body."""
    job = _find(request)
    if job.progress.finished:
        raise invalid_request(f"embed job {job.id} cannot be cancelled, it is {job.progress.stage}.")  # guessed
    if job.progress.stage not in CANCELLED_STAGES:
        job.progress = JobProgress(CANCELLED_STAGES)
    return Response(body=None)


def _find(request: Request) -> EmbedJob:
    identity = request.path_params["id"]
    return request.emulator.repository(EmbedJob).get(identity, f"embed job with id {identity} not found")  # guessed


def _advance(job: EmbedJob, emulator: EmulatorState) -> None:
    """Goes on to the next stage. All work is done in the last one."""
    if not job.progress.advance() or job.progress.stage != "complete":
        return
    try:
        _finish(job, emulator)
    except APIError:
        job.progress = JobProgress(["failed"])


def _finish(job: EmbedJob, emulator: EmulatorState) -> None:
    rows: list[dict[str, Any]] = []
    # The text is in each row of the output anyway.
    preserved = [name for name in job.source.preserved_fields if name != "text"]
    for row in job.source.rows:
        result = embed.embed({"texts": [row["text"]], **job.options}, job.model)
        embeddings = {kind: values[0] for kind, values in result.body["embeddings"].items()}
        extra = {name: datasets.as_text(row.get(name)) for name in preserved}
        rows.append({"text": row["text"], "embeddings": embeddings, **extra})
        job.billed_tokens += result.tokens
    types = {kind: AVRO_TYPES[kind] for kind in validation.EMBEDDING_TYPES if kind in job.options["embedding_types"]}
    fields: dict[str, Any] = {"text": "string", "embeddings": avro.record("embeddings", types)}
    fields |= dict.fromkeys(preserved, datasets.TEXT_COLUMN)
    name = f"{job.name or 'embed-job'}-output"
    job.output = short_id(name)
    datasets.save_output(name, job.output, "embed-result", fields, rows, emulator)
