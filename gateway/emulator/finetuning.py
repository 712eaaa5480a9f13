"""/v1/finetuning/finetuned-models: models "trained" on a dataset as clients look at them.

Nothing is learned. A model that is ready is in the catalog as `<id>-ft`: a chat model responds as all others do, a
classifier compares with the rows of its dataset. Deprecated at Cohere, but still in its specification. Error bodies
have no id. Source: docs/cohere-api.md#version-1.
"""

from __future__ import annotations

import uuid
from typing import Any

import msgspec

from gateway.emulator import datasets, validation
from gateway.emulator.errors import invalid_request, require_object
from gateway.emulator.model_catalog import Model
from gateway.emulator.repository import JobProgress, format_time, paginate
from gateway.emulator.request import ORGANIZATION_ID, OWNER_ID, EmulatorState, Request, Response
from gateway.emulator.validation import Check

STATUSES = ("STATUS_QUEUED", "STATUS_FINETUNING", "STATUS_DEPLOYING_API", "STATUS_READY")
DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 50, 1_000
ORDERS = ("created_at", "created_at desc", "updated_at", "updated_at desc")
METRIC_STEPS = (18, 9, 0)  # most recent first
SUFFIX = "-ft"

# base type -> the types of dataset it is trained on, and the endpoint that the model serves
BASE_TYPES: dict[str, tuple[tuple[str, ...], str]] = {
    "BASE_TYPE_CHAT": (("chat-finetune-input",), "chat"),
    "BASE_TYPE_CLASSIFICATION": (
        ("single-label-classification-finetune-input", "multi-label-classification-finetune-input"),
        "classify",
    ),
    "BASE_TYPE_RERANK": (("reranker-finetune-input",), "rerank"),
}
# endpoint -> the model whose capabilities a fine-tuned model has
TEMPLATE_MODELS = {"chat": "command-r-08-2024", "rerank": "rerank-english-v3.0"}
DEFAULT_HYPERPARAMETERS: dict[str, Any] = {
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
    "base_model": validation.nested(BASE_MODEL),
    "dataset_id": validation.string,
    "hyperparameters": validation.nested(HYPERPARAMETERS),
    "multi_label": validation.boolean,
    "wandb": validation.nested(WANDB),
}
FIELDS: dict[str, Check] = {
    "name": validation.string,
    "settings": validation.nested(SETTINGS),
}
READ_ONLY_FIELDS = (
    "id", "creator_id", "organization_id", "status", "created_at", "updated_at", "completed_at", "last_used",
)  # fmt: skip


class FinetunedModel(msgspec.Struct, kw_only=True):
    """One model, from the queue to the catalog."""

    id: str
    name: str
    settings: dict[str, Any]
    endpoint: str
    examples: list[dict[str, Any]]
    created: float
    updated: float
    completed: float | None = None
    progress: JobProgress
    events: list[tuple[str, float]]  # (status, time), oldest first

    def to_json(self) -> dict[str, Any]:
        """Returns the model in Cohere's format. The key for Weights & Biases is not stored, so it is not shown."""
        body: dict[str, Any] = {
            "id": self.id, "name": self.name, "creator_id": OWNER_ID, "organization_id": ORGANIZATION_ID,
            "settings": self.settings, "status": self.progress.stage, "created_at": format_time(self.created),
            "updated_at": format_time(self.updated),
        }  # fmt: skip
        return body | ({"completed_at": format_time(self.completed)} if self.completed is not None else {})


def create(request: Request) -> Response:
    """Handles POST /v1/finetuning/finetuned-models."""
    body = _checked_body(request)
    requested = body["settings"]
    base = requested.get("base_model") or {}
    if base.get("base_type") not in BASE_TYPES:
        raise invalid_request(f"base_type must be one of {', '.join(BASE_TYPES)}.")  # guessed
    kinds, endpoint = BASE_TYPES[base["base_type"]]
    source = datasets.find_usable(requested.get("dataset_id"), kinds, request.emulator)
    settings: dict[str, Any] = {"base_model": base, "dataset_id": source.id}
    settings["hyperparameters"] = DEFAULT_HYPERPARAMETERS | (requested.get("hyperparameters") or {})
    if endpoint == "classify":
        settings["multi_label"] = source.kind.startswith("multi")
    now = request.emulator.clock()
    model = FinetunedModel(
        id=str(uuid.uuid4()),
        name=body["name"],
        settings=settings,
        endpoint=endpoint,
        examples=source.rows,
        created=now,
        updated=now,
        progress=JobProgress(STATUSES),
        events=[(STATUSES[0], now)],
    )
    evicted = request.emulator.repository(FinetunedModel).add(model.id, model)
    if evicted is not None:
        _remove_from_catalog(evicted, request.emulator)
    return _model_response(request, model)


def list_all(request: Request) -> Response:
    """Handles GET /v1/finetuning/finetuned-models, newest first by default."""
    order = request.query.get("order_by") or "created_at desc"
    if order not in ORDERS:
        raise invalid_request("order_by must be created_at or updated_at.")  # guessed
    models = list(request.emulator.repository(FinetunedModel).newest_first())
    for model in models:
        _advance(model, request.emulator)
    field = order.split("_")[0]
    models.sort(key=lambda model: model.created if field == "created" else model.updated, reverse="desc" in order)
    page, next_token = paginate(models, request.query, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    body = {"finetuned_models": [model.to_json() for model in page]}
    return Response(body=body | next_token | {"total_size": len(models)})


def get(request: Request) -> Response:
    """Handles GET /v1/finetuning/finetuned-models/{id}."""
    model = _find(request)
    _advance(model, request.emulator)
    return Response(body={"finetuned_model": model.to_json()})


def update(request: Request) -> Response:
    """Handles PATCH /v1/finetuning/finetuned-models/{id}. Only the name of a model can change."""
    model = _find(request)
    model.name = _checked_body(request)["name"]
    model.updated = request.emulator.clock()
    return _model_response(request, model)


def _model_response(request: Request, model: FinetunedModel) -> Response:
    warning = request.unknown_field_warning((*FIELDS, *READ_ONLY_FIELDS))
    return Response(body={"finetuned_model": model.to_json()}, headers=warning)


def delete(request: Request) -> Response:
    """Handles DELETE /v1/finetuning/finetuned-models/{id}."""
    identity = request.path_params["id"]
    model = request.emulator.repository(FinetunedModel).remove(identity, _not_found(identity))
    _remove_from_catalog(model, request.emulator)
    return Response(body={})


def list_events(request: Request) -> Response:
    """Handles GET .../{id}/events, most recent first. The event that the client caused has the client's id."""
    model = _find(request)
    events = [
        ({"user_id": OWNER_ID} if status == STATUSES[0] else {}) | {"status": status, "created_at": format_time(at)}
        for status, at in reversed(model.events)
    ]
    page, next_token = paginate(events, request.query, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    return Response(body={"events": page} | next_token | {"total_size": len(events)})


def list_metrics(request: Request) -> Response:
    """Handles GET .../{id}/training-step-metrics, most recent first. The round numbers are made up."""
    model = _find(request)
    trained_at = next((format_time(at) for status, at in model.events if status == STATUSES[1]), None)
    metrics = []
    for step in METRIC_STEPS if trained_at else ():
        values = {"accuracy": 0.5 + step / 50, "cross_entropy": 2 - step / 10}
        metrics.append({"created_at": trained_at, "step_number": step, "metrics": values})
    page, next_token = paginate(metrics, request.query, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    return Response(body={"step_metrics": page} | next_token)


def examples_of(name: str, emulator: EmulatorState) -> tuple[list[tuple[str, str]], bool]:
    """Returns the (text, label) pairs of a classifier in the catalog, and whether a text may have several labels."""
    model = emulator.repository(FinetunedModel).items[name.removesuffix(SUFFIX)]
    pairs: list[tuple[str, str]] = []
    for row in model.examples:
        labels = row["label"] if isinstance(row["label"], list) else [row["label"]]
        pairs += [(row["text"], str(label)) for label in labels]
    return pairs, bool(model.settings.get("multi_label"))


def _checked_body(request: Request) -> dict[str, Any]:
    body = request.select(FIELDS)
    validation.fields(body, FIELDS, "finetuning")
    if not body.get("name"):
        raise invalid_request("name is required.")  # guessed
    require_object("settings", body.get("settings"), "finetuning")
    return body


def _find(request: Request) -> FinetunedModel:
    identity = request.path_params["id"]
    return request.emulator.repository(FinetunedModel).get(identity, _not_found(identity))


def _not_found(identity: str) -> str:
    return f"finetuned model {identity} not found"


def _advance(model: FinetunedModel, emulator: EmulatorState) -> None:
    """Goes on to the next stage. In the last one the model enters the catalog."""
    if not model.progress.advance():
        return
    model.updated = emulator.clock()
    model.events.append((model.progress.stage, model.updated))
    if model.progress.finished:
        model.completed = model.updated
        models = emulator.model_catalog.models
        # A classifier has no template, and needs none of its capabilities.
        template = models.get(TEMPLATE_MODELS.get(model.endpoint, "")) or Model(name="")
        name = model.id + SUFFIX
        models[name] = msgspec.structs.replace(
            template, name=name, endpoints=(model.endpoint,), default_endpoints=(), finetuned=True
        )


def _remove_from_catalog(model: FinetunedModel, emulator: EmulatorState) -> None:
    emulator.model_catalog.models.pop(model.id + SUFFIX, None)
