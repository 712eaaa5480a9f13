"""/v1/finetuning/finetuned-models: models "trained" on a dataset while the caller looks (`shelf.Course`).

Nothing is learned. A model that is ready is in the catalogue as `<id>-ft`: a chat model answers as all others
do, a classifier compares with the rows of its dataset. Deprecated at Cohere, still in its specification.
Source: docs/cohere-api.md#version-1; errors have no id.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.emulator import datasets, validation
from gateway.emulator.catalogue import Model
from gateway.emulator.refusals import invalid, wrong_type
from gateway.emulator.repository import Course, moment, page
from gateway.emulator.request import ORGANIZATION, OWNER, Emulator, Reply, Request, warnings
from gateway.emulator.validation import Check

STATUSES = ("STATUS_QUEUED", "STATUS_FINETUNING", "STATUS_DEPLOYING_API", "STATUS_READY")
DEFAULT_PAGE, LARGEST_PAGE = 50, 1_000
ORDERS = ("created_at", "created_at desc", "updated_at", "updated_at desc")
STEPS = (18, 9, 0)  # most recent first
SUFFIX = "-ft"

# base type -> the dataset types it learns from, and the endpoint it then serves
BASES: dict[str, tuple[tuple[str, ...], str]] = {
    "BASE_TYPE_CHAT": (("chat-finetune-input",), "chat"),
    "BASE_TYPE_CLASSIFICATION": (
        ("single-label-classification-finetune-input", "multi-label-classification-finetune-input"),
        "classify",
    ),
    "BASE_TYPE_RERANK": (("reranker-finetune-input",), "rerank"),
}
# The model whose capabilities a fine-tuned chat model has, and that of a reranker.
LIKE = {"chat": "command-r-08-2024", "rerank": "rerank-english-v3.0"}
DEFAULTS: dict[str, Any] = {
    "early_stopping_patience": 6, "early_stopping_threshold": 0.01, "train_batch_size": 16, "train_epochs": 1,
    "learning_rate": 0.01,
}  # fmt: skip

POSITIVE = validation.integer(1, None, "hyperparameters must be positive.")  # guessed
HYPERPARAMETERS: dict[str, Check] = {
    "early_stopping_patience": POSITIVE,
    "early_stopping_threshold": validation.number(0, 1, "early_stopping_threshold must be between 0 and 1."),
    "train_batch_size": POSITIVE,
    "train_epochs": POSITIVE,
    "learning_rate": validation.number(0, 1, "learning_rate must be between 0 and 1."),
    "lora_alpha": POSITIVE,
    "lora_rank": POSITIVE,
    "lora_target_modules": validation.string,
}
BASE_MODEL: dict[str, Check] = dict.fromkeys(("name", "version", "base_type", "strategy"), validation.string)
WANDB: dict[str, Check] = dict.fromkeys(("project", "api_key", "entity"), validation.string)
SETTINGS: dict[str, Check] = {
    "base_model": lambda name, value, where: validation.fields(value, BASE_MODEL, where, name),
    "dataset_id": validation.string,
    "hyperparameters": lambda name, value, where: validation.fields(value, HYPERPARAMETERS, where, name),
    "multi_label": validation.boolean,
    "wandb": lambda name, value, where: validation.fields(value, WANDB, where, name),
}
FIELDS: dict[str, Check] = {
    "name": validation.string,
    "settings": lambda name, value, where: validation.fields(value, SETTINGS, where, name),
}
READ_ONLY = (
    "id", "creator_id", "organization_id", "status", "created_at", "updated_at", "completed_at", "last_used",
)  # fmt: skip


class FinetunedModel(msgspec.Struct, kw_only=True):
    """One model, from the queue to the catalogue."""

    id: str
    name: str
    settings: dict[str, Any]
    endpoint: str
    examples: list[dict[str, Any]]
    created: float
    updated: float
    completed: float | None = None
    course: Course
    events: list[tuple[str, float]]  # oldest first

    def described(self) -> dict[str, Any]:
        """The model as Cohere shows it. The key for Weights & Biases is not kept, so it is not shown."""
        told: dict[str, Any] = {
            "id": self.id, "name": self.name, "creator_id": OWNER, "organization_id": ORGANIZATION,
            "settings": self.settings, "status": self.course.stage, "created_at": moment(self.created),
            "updated_at": moment(self.updated),
        }  # fmt: skip
        return told | ({"completed_at": moment(self.completed)} if self.completed is not None else {})


def create(request: Request) -> Reply:
    """POST /v1/finetuning/finetuned-models."""
    body = _checked(request)
    settings = body["settings"]
    base = settings.get("base_model") or {}
    if base.get("base_type") not in BASES:
        raise invalid(f"base_type must be one of {', '.join(BASES)}.")  # guessed
    kinds, endpoint = BASES[base["base_type"]]
    source = datasets.usable(settings.get("dataset_id"), kinds, request.emulator)
    told: dict[str, Any] = {"base_model": base, "dataset_id": source.id}
    told["hyperparameters"] = DEFAULTS | (settings.get("hyperparameters") or {})
    if endpoint == "classify":
        told["multi_label"] = source.kind.startswith("multi")
    now = request.emulator.clock()
    model = FinetunedModel(
        id=str(uuid.uuid4()), name=body["name"], settings=told, endpoint=endpoint, examples=source.kept,
        created=now, updated=now, course=Course(STATUSES), events=[(STATUSES[0], now)],
    )  # fmt: skip
    gone = request.emulator.shelf(FinetunedModel).put(model.id, model)
    if gone is not None:
        _withdraw(gone, request.emulator)
    return Reply(body={"finetuned_model": model.described()}, headers=warnings(request.body, (*FIELDS, *READ_ONLY)))


def listing(request: Request) -> Reply:
    """GET /v1/finetuning/finetuned-models, newest first unless it is asked for otherwise."""
    order = request.query.get("order_by") or "created_at desc"
    if order not in ORDERS:
        raise invalid("order_by must be created_at or updated_at.")  # guessed
    models = list(request.emulator.shelf(FinetunedModel).newest())
    for model in models:
        _look(model, request.emulator)
    field = order.split("_")[0]
    models.sort(key=lambda model: model.created if field == "created" else model.updated, reverse="desc" in order)
    shown, following = page(models, request.query, DEFAULT_PAGE, LARGEST_PAGE)
    told: dict[str, Any] = {"finetuned_models": [model.described() for model in shown]}
    return Reply(body=told | _rest(following) | {"total_size": len(models)})


def get(request: Request) -> Reply:
    """GET /v1/finetuning/finetuned-models/{id}."""
    model = _named(request)
    _look(model, request.emulator)
    return Reply(body={"finetuned_model": model.described()})


def update(request: Request) -> Reply:
    """PATCH /v1/finetuning/finetuned-models/{id}: of a trained model only the name can change."""
    model = _named(request)
    model.name = _checked(request)["name"]
    model.updated = request.emulator.clock()
    return Reply(body={"finetuned_model": model.described()}, headers=warnings(request.body, (*FIELDS, *READ_ONLY)))


def delete(request: Request) -> Reply:
    """DELETE /v1/finetuning/finetuned-models/{id}."""
    identity = request.path["id"]
    _withdraw(request.emulator.shelf(FinetunedModel).take(identity, _absent(identity)), request.emulator)
    return Reply(body={})


def events(request: Request) -> Reply:
    """GET .../{id}/events, most recent first. What the caller began has the caller's id."""
    model = _named(request)
    told = [
        ({"user_id": OWNER} if status == STATUSES[0] else {}) | {"status": status, "created_at": moment(at)}
        for status, at in reversed(model.events)
    ]
    shown, following = page(told, request.query, DEFAULT_PAGE, LARGEST_PAGE)
    return Reply(body={"events": shown} | _rest(following) | {"total_size": len(told)})


def metrics(request: Request) -> Reply:
    """GET .../{id}/training-step-metrics, most recent first; the numbers are made up and say so by being round."""
    model = _named(request)
    at = next((moment(when) for status, when in model.events if status == STATUSES[1]), None)
    told = []
    for step in STEPS if at else ():
        measured = {"accuracy": 0.5 + step / 50, "cross_entropy": 2 - step / 10}
        told.append({"created_at": at, "step_number": step, "metrics": measured})
    shown, following = page(told, request.query, DEFAULT_PAGE, LARGEST_PAGE)
    return Reply(body={"step_metrics": shown} | _rest(following))


def examples_of(name: str, emulator: Emulator) -> tuple[list[tuple[str, str]], bool]:
    """The (text, label) pairs that a classifier of the catalogue was trained on, and whether labels may be many."""
    model = emulator.shelf(FinetunedModel).things[name.removesuffix(SUFFIX)]
    pairs: list[tuple[str, str]] = []
    for row in model.examples:
        labels = row["label"] if isinstance(row["label"], list) else [row["label"]]
        pairs += [(row["text"], str(label)) for label in labels]
    return pairs, bool(model.settings.get("multi_label"))


def _checked(request: Request) -> dict[str, Any]:
    body = {name: value for name, value in request.body.items() if name in FIELDS and value is not None}
    validation.fields(body, FIELDS, "finetuning")
    if not body.get("name"):
        raise invalid("name is required.")  # guessed
    if not isinstance(body.get("settings"), Mapping):
        raise wrong_type("settings", body.get("settings"), "Object", "finetuning")
    return body


def _named(request: Request) -> FinetunedModel:
    identity = request.path["id"]
    return request.emulator.shelf(FinetunedModel).get(identity, _absent(identity))


def _absent(identity: str) -> str:
    return f"finetuned model {identity} not found"


def _look(model: FinetunedModel, emulator: Emulator) -> None:
    """Somebody looks, so the training goes on."""
    if not model.course.look():
        return
    model.updated = emulator.clock()
    model.events.append((model.course.stage, model.updated))
    if model.course.over:
        model.completed = model.updated
        known = emulator.catalogue.models
        like = known.get(LIKE.get(model.endpoint, "")) or Model(name="")
        name = model.id + SUFFIX
        known[name] = msgspec.structs.replace(
            like, name=name, endpoints=(model.endpoint,), default_endpoints=(), finetuned=True
        )


def _withdraw(model: FinetunedModel, emulator: Emulator) -> None:
    emulator.catalogue.models.pop(model.id + SUFFIX, None)


def _rest(following: str | None) -> dict[str, Any]:
    return {"next_page_token": following} if following else {}
