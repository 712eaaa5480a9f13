"""/v2/batches: a dataset of requests answered while the caller looks (`shelf.Course`), into a dataset of answers.

Source: docs/cohere-api.md#batches. The service speaks protobuf's JSON: 64-bit numbers are texts, errors have no id.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.emulator import chat, chat_v1, datasets, embed, stream, stream_v1, validation
from gateway.emulator.catalogue import Model
from gateway.emulator.datasets import Dataset
from gateway.emulator.refusals import Refusal, invalid
from gateway.emulator.repository import Course, moment, page, short_id
from gateway.emulator.request import ORGANIZATION, OWNER, Emulator, Reply, Request, warnings
from gateway.emulator.validation import Check

QUEUED, IN_PROGRESS, COMPLETED, CANCELING, CANCELED = (
    f"BATCH_STATUS_{word}" for word in ("QUEUED", "IN_PROGRESS", "COMPLETED", "CANCELING", "CANCELED")
)
DEFAULT_PAGE, LARGEST_PAGE = 50, 1_000
ORDERS = ("created_at", "updated_at")
FIELDS: dict[str, Check] = {
    "name": validation.string,
    "input_dataset_id": validation.string,
    "model": validation.string,
}
READ_ONLY = (
    "id", "creator_id", "org_id", "status", "created_at", "updated_at", "output_dataset_id", "input_tokens",
    "output_tokens", "num_records", "num_successful_records", "num_failed_records", "status_reason",
)  # fmt: skip
# Batches have model names of their own; the plain names are taken, too.
MODELS = {"batch-embed-v4": "embed-v4.0", "batch-embed-v4-a100": "embed-v4.0", "batch-command": "command-a-03-2025"}
OPENAI_FIELDS = {"max_tokens": "max_tokens", "max_completion_tokens": "max_tokens", "temperature": "temperature",
                 "seed": "seed"}  # fmt: skip
OPENAI_REASONS = {"MAX_TOKENS": "length", "TOOL_CALL": "tool_calls"}

Answered = tuple[dict[str, Any], int, int]  # a body, and the tokens in and out
Answerer = Callable[[dict[str, Any], Model, Emulator], Answered]


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
    course: Course
    tokens_in: int = 0
    tokens_out: int = 0
    succeeded: int = 0
    failed: int = 0

    def described(self) -> dict[str, Any]:
        """The batch as Cohere shows it."""
        return {
            "id": self.id, "name": self.name, "creator_id": OWNER, "org_id": ORGANIZATION,
            "status": self.course.stage, "created_at": moment(self.created), "updated_at": moment(self.updated),
            "input_dataset_id": self.source.id, "output_dataset_id": self.output,
            "input_tokens": str(self.tokens_in), "output_tokens": str(self.tokens_out), "model": self.model_name,
            "num_records": len(self.source.kept), "num_successful_records": self.succeeded,
            "num_failed_records": self.failed,
        }  # fmt: skip


def create(request: Request) -> Reply:
    """POST /v2/batches."""
    body = {name: value for name, value in request.body.items() if name in FIELDS and value is not None}
    validation.fields(body, FIELDS, "batches")
    for field in FIELDS:
        if not body.get(field):
            raise invalid(f"{field} is required.")  # guessed
    source = datasets.usable(body["input_dataset_id"], tuple(ANSWERERS), request.emulator)
    name = body["model"]
    real = MODELS.get(name) or name.removeprefix("batch-")
    model = request.emulator.catalogue.serving(real, ANSWERERS[source.kind][0])
    now = request.emulator.clock()
    batch = Batch(
        id=str(uuid.uuid4()), name=body["name"], model_name=name, model=model, source=source,
        output=short_id(f"{body['name']}-output"), created=now, updated=now,
        course=Course([QUEUED, IN_PROGRESS, COMPLETED]),
    )  # fmt: skip
    request.emulator.shelf(Batch).put(batch.id, batch)
    return Reply(body={"batch": batch.described()}, headers=warnings(request.body, (*FIELDS, *READ_ONLY)))


def listing(request: Request) -> Reply:
    """GET /v2/batches, newest first."""
    order = request.query.get("order_by") or "created_at"
    if order not in ORDERS:
        raise invalid(f"order_by must be one of {', '.join(ORDERS)}.")  # guessed
    batches = list(request.emulator.shelf(Batch).newest())
    for batch in batches:
        _look(batch, request.emulator)
    if order == "updated_at":
        batches.sort(key=lambda batch: -batch.updated)
    shown, following = page(batches, request.query, DEFAULT_PAGE, LARGEST_PAGE)
    told: dict[str, Any] = {"batches": [batch.described() for batch in shown]}
    return Reply(body=told | ({"next_page_token": following} if following else {}))


def get(request: Request) -> Reply:
    """GET /v2/batches/{id}."""
    batch = _named(request)
    _look(batch, request.emulator)
    return Reply(body={"batch": batch.described()})


def cancel(request: Request) -> Reply:
    """POST /v2/batches/{id}:cancel."""
    batch = _named(request)
    if batch.course.stage not in (QUEUED, IN_PROGRESS):
        raise invalid(f"batch {batch.id} cannot be cancelled, it is {batch.course.stage}.")  # guessed
    batch.course = Course([CANCELING, CANCELED])
    batch.updated = request.emulator.clock()
    return Reply(body={})


def _named(request: Request) -> Batch:
    identity = request.path["id"]
    return request.emulator.shelf(Batch).get(identity, f"batch with id {identity} not found")  # guessed


def _look(batch: Batch, emulator: Emulator) -> None:
    """Somebody looks, so the batch goes on; its last step is the whole work."""
    if not batch.course.look():
        return
    batch.updated = emulator.clock()
    if batch.course.stage == COMPLETED:
        _finish(batch, emulator)


def _finish(batch: Batch, emulator: Emulator) -> None:
    answerer = ANSWERERS[batch.source.kind][1]
    made: list[dict[str, Any]] = []
    for row in batch.source.kept:
        try:
            body, tokens_in, tokens_out = answerer(row["body"], batch.model, emulator)
        except Refusal:
            batch.failed += 1
            continue
        batch.succeeded += 1
        batch.tokens_in += tokens_in
        batch.tokens_out += tokens_out
        made.append({"custom_id": row["custom_id"], "body": msgspec.json.encode(body).decode()})
    kind = f"{batch.source.kind.removesuffix('-input')}-output"
    fields = {"custom_id": "string", "body": "string"}
    datasets.made(f"{batch.name}-output", batch.output, kind, fields, made, emulator)


def _chat(body: dict[str, Any], model: Model, emulator: Emulator) -> Answered:
    asked = body | {"model": model.name, "stream": False}
    validation.chat(asked, model)
    answer = chat.answer(asked, model)
    return stream.whole(answer), *_billed(answer)


def _chat_v1(body: dict[str, Any], model: Model, emulator: Emulator) -> Answered:
    turn = chat_v1.answer(body | {"model": model.name, "stream": False}, emulator)
    return stream_v1.whole(turn), *_billed(turn.answer)


def _embed(body: dict[str, Any], model: Model, emulator: Emulator) -> Answered:
    asked = body | {"model": model.name}
    validation.embed(asked, model)
    embedded = embed.answer(asked, model)
    return embedded.body, embedded.counted, 0


def _openai(body: dict[str, Any], model: Model, emulator: Emulator) -> Answered:
    """OpenAI's chat body, as much of it as a turn of words needs."""
    asked: dict[str, Any] = {"model": model.name, "messages": []}
    for turn in body.get("messages") or ():
        if not isinstance(turn, dict):
            raise invalid("messages must be objects.")  # guessed
        role = "system" if turn.get("role") == "developer" else turn.get("role")
        asked["messages"].append({"role": role, "content": turn.get("content")})
    for theirs, ours in OPENAI_FIELDS.items():
        if body.get(theirs) is not None:
            asked[ours] = body[theirs]
    validation.chat(asked, model)
    answer = chat.answer(asked, model)
    tokens_in, tokens_out = _billed(answer)
    choice = {
        "index": 0, "message": {"role": "assistant", "content": answer.text},
        "finish_reason": OPENAI_REASONS.get(answer.finish, "stop"),
    }  # fmt: skip
    usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
    told = {"id": answer.id, "object": "chat.completion", "created": int(emulator.clock()), "model": model.name}
    return told | {"choices": [choice], "usage": usage}, tokens_in, tokens_out


def _billed(answer: chat.Answer) -> tuple[int, int]:
    units = answer.usage["billed_units"]
    return units["input_tokens"], units["output_tokens"]


# type of dataset -> the endpoint that its model must serve, and who answers a row
ANSWERERS: dict[str, tuple[str, Answerer]] = {
    "batch-chat-input": ("chat", _chat_v1),
    "batch-openai-chat-input": ("chat", _openai),
    "batch-embed-v2-input": ("embed", _embed),
    "batch-chat-v2-input": ("chat", _chat),
}
