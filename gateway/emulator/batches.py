"""/v2/batches: the requests of a dataset, run as clients look at the batch, into a dataset of responses.

The service speaks protobuf's JSON: 64-bit numbers are strings, and error bodies have no id.
Source: docs/cohere-api.md#batches.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.emulator import chat, chat_encoding, chat_v1, chat_v1_encoding, datasets, embed, validation
from gateway.emulator.datasets import Dataset
from gateway.emulator.errors import APIError, invalid_request
from gateway.emulator.model_catalog import Model
from gateway.emulator.repository import JobProgress, format_time, paginate, short_id
from gateway.emulator.request import ORGANIZATION_ID, OWNER_ID, EmulatorState, Request, Response
from gateway.emulator.validation import Check

QUEUED, IN_PROGRESS, COMPLETED, CANCELING, CANCELED = (
    f"BATCH_STATUS_{word}" for word in ("QUEUED", "IN_PROGRESS", "COMPLETED", "CANCELING", "CANCELED")
)
DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 50, 1_000
ORDERS = ("created_at", "updated_at")
FIELDS: dict[str, Check] = {
    "name": validation.string,
    "input_dataset_id": validation.string,
    "model": validation.string,
}
READ_ONLY_FIELDS = (
    "id", "creator_id", "org_id", "status", "created_at", "updated_at", "output_dataset_id", "input_tokens",
    "output_tokens", "num_records", "num_successful_records", "num_failed_records", "status_reason",
)  # fmt: skip
# Batches have model names of their own. The plain names are accepted too.
BATCH_MODELS = {
    "batch-embed-v4": "embed-v4.0", "batch-embed-v4-a100": "embed-v4.0", "batch-command": "command-a-03-2025",
}  # fmt: skip
OPENAI_FIELDS = {"max_tokens": "max_tokens", "max_completion_tokens": "max_tokens", "temperature": "temperature",
                 "seed": "seed"}  # fmt: skip
OPENAI_FINISH_REASONS = {"MAX_TOKENS": "length", "TOOL_CALL": "tool_calls"}

RowResult = tuple[dict[str, Any], int, int]  # a response body, its input and output tokens
RowHandler = Callable[[dict[str, Any], Model, EmulatorState], RowResult]


class Batch(msgspec.Struct, kw_only=True):
    """One batch."""

    id: str
    name: str
    model_name: str
    model: Model
    source: Dataset
    output: str
    created: float
    updated: float
    progress: JobProgress
    input_tokens: int = 0
    output_tokens: int = 0
    succeeded: int = 0
    failed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns the batch in Cohere's format."""
        return {
            "id": self.id, "name": self.name, "creator_id": OWNER_ID, "org_id": ORGANIZATION_ID,
            "status": self.progress.stage, "created_at": format_time(self.created),
            "updated_at": format_time(self.updated), "input_dataset_id": self.source.id,
            "output_dataset_id": self.output, "input_tokens": str(self.input_tokens),
            "output_tokens": str(self.output_tokens), "model": self.model_name,
            "num_records": len(self.source.rows), "num_successful_records": self.succeeded,
            "num_failed_records": self.failed,
        }  # fmt: skip


def create(request: Request) -> Response:
    """Handles POST /v2/batches."""
    body = request.select(FIELDS)
    validation.fields(body, FIELDS, "batches")
    for field in FIELDS:
        if not body.get(field):
            raise invalid_request(f"{field} is required.")  # guessed
    source = datasets.find_usable(body["input_dataset_id"], tuple(ROW_HANDLERS), request.emulator)
    name = body["model"]
    model_name = BATCH_MODELS.get(name) or name.removeprefix("batch-")
    model = request.emulator.model_catalog.find_for(ROW_HANDLERS[source.kind][0], model_name)
    now = request.emulator.clock()
    batch = Batch(
        id=str(uuid.uuid4()),
        name=body["name"],
        model_name=name,
        model=model,
        source=source,
        output=short_id(f"{body['name']}-output"),
        created=now,
        updated=now,
        progress=JobProgress([QUEUED, IN_PROGRESS, COMPLETED]),
    )
    request.emulator.repository(Batch).add(batch.id, batch)
    warning = request.unknown_field_warning((*FIELDS, *READ_ONLY_FIELDS))
    return Response(body={"batch": batch.to_json()}, headers=warning)


def list_all(request: Request) -> Response:
    """Handles GET /v2/batches, newest first."""
    order = request.query.get("order_by") or "created_at"
    if order not in ORDERS:
        raise invalid_request(f"order_by must be one of {', '.join(ORDERS)}.")  # guessed
    batches = list(request.emulator.repository(Batch).newest_first())
    for batch in batches:
        _advance(batch, request.emulator)
    if order == "updated_at":
        batches.sort(key=lambda batch: -batch.updated)
    page, next_token = paginate(batches, request.query, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    return Response(body={"batches": [batch.to_json() for batch in page]} | next_token)


def get(request: Request) -> Response:
    """Handles GET /v2/batches/{id}."""
    batch = _find(request)
    _advance(batch, request.emulator)
    return Response(body={"batch": batch.to_json()})


def cancel(request: Request) -> Response:
    """Handles POST /v2/batches/{id}:cancel."""
    batch = _find(request)
    if batch.progress.stage not in (QUEUED, IN_PROGRESS):
        raise invalid_request(f"batch {batch.id} cannot be cancelled, it is {batch.progress.stage}.")  # guessed
    # Nothing has run yet: all of the work is done when a batch completes.
    batch.progress = JobProgress([CANCELING, CANCELED])
    batch.updated = request.emulator.clock()
    return Response(body={})


def _find(request: Request) -> Batch:
    identity = request.path_params["id"]
    return request.emulator.repository(Batch).get(identity, f"batch with id {identity} not found")  # guessed


def _advance(batch: Batch, emulator: EmulatorState) -> None:
    """Goes on to the next stage. All work is done in the last one."""
    if not batch.progress.advance():
        return
    batch.updated = emulator.clock()
    if batch.progress.stage == COMPLETED:
        _finish(batch, emulator)


def _finish(batch: Batch, emulator: EmulatorState) -> None:
    handle_row = ROW_HANDLERS[batch.source.kind][1]
    rows: list[dict[str, Any]] = []
    for row in batch.source.rows:
        try:
            body, input_tokens, output_tokens = handle_row(row["body"], batch.model, emulator)
        except APIError:
            batch.failed += 1
            continue
        batch.succeeded += 1
        batch.input_tokens += input_tokens
        batch.output_tokens += output_tokens
        rows.append({"custom_id": row["custom_id"], "body": msgspec.json.encode(body).decode()})
    kind = f"{batch.source.kind.removesuffix('-input')}-output"
    fields = {"custom_id": "string", "body": "string"}
    datasets.save_output(f"{batch.name}-output", batch.output, kind, fields, rows, emulator)


def _run_chat(body: dict[str, Any], model: Model, emulator: EmulatorState) -> RowResult:
    chat_body = body | {"model": model.name, "stream": False}
    validation.chat(chat_body, model)
    response = chat.respond(chat_body, model)
    return chat_encoding.to_body(response), *response.billed_tokens


def _run_chat_v1(body: dict[str, Any], model: Model, emulator: EmulatorState) -> RowResult:
    v1_response = chat_v1.respond(body | {"model": model.name, "stream": False}, emulator)
    return chat_v1_encoding.to_body(v1_response), *v1_response.response.billed_tokens


def _run_embed(body: dict[str, Any], model: Model, emulator: EmulatorState) -> RowResult:
    embed_body = body | {"model": model.name}
    validation.embed(embed_body, model)
    result = embed.embed(embed_body, model)
    return result.body, result.tokens, 0


def _run_openai_chat(body: dict[str, Any], model: Model, emulator: EmulatorState) -> RowResult:
    """Runs a body of OpenAI's chat completions. Only what a turn of text needs is translated."""
    chat_body: dict[str, Any] = {"model": model.name, "messages": []}
    for message in body.get("messages") or ():
        if not isinstance(message, dict):
            raise invalid_request("messages must be objects.")  # guessed
        role = "system" if message.get("role") == "developer" else message.get("role")
        chat_body["messages"].append({"role": role, "content": message.get("content")})
    for openai_name, cohere_name in OPENAI_FIELDS.items():
        if body.get(openai_name) is not None:
            chat_body[cohere_name] = body[openai_name]
    validation.chat(chat_body, model)
    response = chat.respond(chat_body, model)
    input_tokens, output_tokens = response.billed_tokens
    completion = {
        "id": response.id, "object": "chat.completion", "created": int(emulator.clock()), "model": model.name,
        "choices": [{
            "index": 0, "message": {"role": "assistant", "content": response.text},
            "finish_reason": OPENAI_FINISH_REASONS.get(response.finish_reason, "stop"),
        }],
        "usage": {
            "prompt_tokens": input_tokens, "completion_tokens": output_tokens,
            "total_tokens": input_tokens + output_tokens,
        },
    }  # fmt: skip
    return completion, input_tokens, output_tokens


# type of dataset -> the endpoint that its model must serve, and the handler of its rows
ROW_HANDLERS: dict[str, tuple[str, RowHandler]] = {
    "batch-chat-input": ("chat", _run_chat_v1),
    "batch-openai-chat-input": ("chat", _run_openai_chat),
    "batch-embed-v2-input": ("embed", _run_embed),
    "batch-chat-v2-input": ("chat", _run_chat),
}
