"""THE TABLE OF ROUTES of the emulator, and the endpoints that are too small for a file of their own.

An endpoint is a function from `Request` to `Reply`; a new one is a function and a row in `ROUTES`. How requests come
and answers leave is `app.py`.
"""

from __future__ import annotations

from typing import Any

from gateway.emulator import (
    batches,
    classify,
    connectors,
    datasets,
    embed_jobs,
    embed_v1,
    finetuning,
    generate,
    parse,
    rerank_v1,
    stream,
    stream_v1,
    tokens,
    transcription,
    validation,
    wire,
)
from gateway.emulator import chat as chatting
from gateway.emulator import chat_v1 as chatting_v1
from gateway.emulator import embed as embedding
from gateway.emulator import rerank as ranking
from gateway.emulator.catalogue import Model, describe
from gateway.emulator.refusals import bare, invalid
from gateway.emulator.repository import page_start, page_token
from gateway.emulator.request import META_V1, ORGANIZATION, OWNER, Answering, Reply, Request, warnings

DEFAULT_PAGE, LARGEST_PAGE = 20, 1_000
ENDPOINTS = ("chat", "embed", "classify", "summarize", "rerank", "rate", "generate")


def chat(request: Request) -> Reply:
    """POST /v2/chat."""
    model = request.emulator.catalogue.serving(request.body.get("model"), "chat")
    validation.chat(request.body, model)
    answer = chatting.answer(request.body, model)
    if request.body.get("stream"):
        return Reply(events=tuple(stream.events(answer)))
    billed = answer.usage["billed_units"]
    numbers = {"num_chars": answer.characters, "num_tokens": billed["input_tokens"] + billed["output_tokens"]}
    return Reply(body=stream.whole(answer), headers=tuple(wire.number_headers(numbers)))


def chat_v1(request: Request) -> Reply:
    """POST /v1/chat."""
    turn = chatting_v1.answer(request.body, request.emulator)
    warned = warnings(request.body, chatting_v1.CHAT)
    if request.body.get("stream"):
        as_events = request.wants_events()
        told = tuple(stream_v1.events(turn, as_events=as_events))
        return Reply(events=told, dialect="v1 events" if as_events else "lines", headers=warned)
    billed = turn.answer.usage["billed_units"]
    numbers = {"num_chars": turn.answer.characters, "num_tokens": billed["input_tokens"] + billed["output_tokens"]}
    return Reply(body=stream_v1.whole(turn), headers=(*wire.number_headers(numbers), *warned))


def embed(request: Request) -> Reply:
    """POST /v2/embed."""
    model = request.emulator.catalogue.serving(request.body.get("model"), "embed")
    validation.embed(request.body, model)
    embedded = embedding.answer(request.body, model)
    numbers = {"num_chars": embedded.characters, "num_tokens": embedded.counted}
    return Reply(body=embedded.body, headers=tuple(wire.number_headers(numbers)))


def rerank(request: Request) -> Reply:
    """POST /v2/rerank."""
    model = request.emulator.catalogue.serving(request.body.get("model"), "rerank")
    validation.rerank(request.body, model)
    return Reply(body=ranking.answer(request.body, model))


def models(request: Request) -> Reply:
    """GET /v1/models, paged and filtered."""
    query = request.query
    endpoint = query.get("endpoint")
    default_only = query.get("default_only", "").lower() == "true"
    if endpoint is not None and endpoint not in ENDPOINTS:
        raise invalid(f"endpoint must be one of {', '.join(ENDPOINTS)}.")
    if default_only and endpoint is None:
        raise invalid("default_only is only valid when endpoint is provided.")
    found = [
        model
        for model in request.emulator.catalogue.models.values()
        if endpoint is None or endpoint in (model.default_endpoints if default_only else model.endpoints)
    ]
    start = page_start(query.get("page_token", ""))
    end = start + _page_size(query.get("page_size", ""))
    body: dict[str, Any] = {"models": [describe(model) for model in found[start:end]]}
    if end < len(found):
        body["next_page_token"] = page_token(end)
    return Reply(body=body)


def _page_size(said: str) -> int:
    if not said:
        return DEFAULT_PAGE
    if not said.isdecimal() or not 1 <= int(said) <= LARGEST_PAGE:
        raise invalid(f"page_size must be between 1 and {LARGEST_PAGE} inclusive.")
    return int(said)


def model_by_id(request: Request) -> Reply:
    """GET /v1/models/{model}."""
    return Reply(body=describe(request.emulator.catalogue.find(request.path["model"])))


def tokenize(request: Request) -> Reply:
    """POST /v1/tokenize; an unknown field is only warned about (recorded)."""
    _named_model(request)
    validation.tokenize(request.body)
    pieces = tokens.pieces(request.body["text"])
    body = {
        "tokens": [tokens.number(piece) for piece in pieces],
        "token_strings": list(pieces),
        "meta": META_V1,
    }
    return Reply(body=body, headers=warnings(request.body, ("text", "model")))


def detokenize(request: Request) -> Reply:
    """POST /v1/detokenize."""
    _named_model(request)
    validation.detokenize(request.body)
    text = "".join(tokens.piece(token) for token in request.body["tokens"])
    return Reply(body={"text": text, "meta": META_V1}, headers=warnings(request.body, ("tokens", "model")))


def check_api_key(request: Request) -> Reply:
    """POST /v1/check-api-key: whoever comes this far has a good one."""
    return Reply(body={"valid": True, "organization_id": ORGANIZATION, "owner_id": OWNER})


def _named_model(request: Request) -> Model:
    name = request.body.get("model")
    if not isinstance(name, str) or not name:
        raise bare("a model parameter is required for this endpoint.")
    return request.emulator.catalogue.find(name)


ROUTES: tuple[tuple[str, str, Answering], ...] = (
    ("POST", "/v2/chat", chat),
    ("POST", "/v2/embed", embed),
    ("POST", "/v2/rerank", rerank),
    ("POST", "/v2/parse", parse.answer),
    ("POST", "/v2/audio/transcriptions", transcription.answer),
    ("POST", "/v2/batches/{id}:cancel", batches.cancel),
    ("GET", "/v2/batches/{id}", batches.get),
    ("GET", "/v2/batches", batches.listing),
    ("POST", "/v2/batches", batches.create),
    ("POST", "/v1/chat", chat_v1),
    ("POST", "/v1/embed", embed_v1.answer),
    ("POST", "/v1/rerank", rerank_v1.answer),
    ("POST", "/v1/classify", classify.answer),
    ("POST", "/v1/generate", generate.generate),
    ("POST", "/v1/summarize", generate.summarize),
    ("GET", "/v1/models", models),
    ("GET", "/v1/models/{model:path}", model_by_id),
    ("POST", "/v1/tokenize", tokenize),
    ("POST", "/v1/detokenize", detokenize),
    ("POST", "/v1/check-api-key", check_api_key),
    ("GET", "/v1/datasets", datasets.listing),
    ("POST", "/v1/datasets", datasets.create),
    ("GET", "/v1/datasets/usage", datasets.usage),
    ("GET", "/v1/datasets/{id}", datasets.get),
    ("DELETE", "/v1/datasets/{id}", datasets.delete),
    ("GET", "/v1/embed-jobs", embed_jobs.listing),
    ("POST", "/v1/embed-jobs", embed_jobs.create),
    ("GET", "/v1/embed-jobs/{id}", embed_jobs.get),
    ("POST", "/v1/embed-jobs/{id}/cancel", embed_jobs.cancel),
    ("GET", "/v1/connectors", connectors.listing),
    ("POST", "/v1/connectors", connectors.create),
    ("GET", "/v1/connectors/{id}", connectors.get),
    ("PATCH", "/v1/connectors/{id}", connectors.update),
    ("DELETE", "/v1/connectors/{id}", connectors.delete),
    ("POST", "/v1/connectors/{id}/oauth/authorize", connectors.authorize),
    ("GET", "/v1/finetuning/finetuned-models", finetuning.listing),
    ("POST", "/v1/finetuning/finetuned-models", finetuning.create),
    ("GET", "/v1/finetuning/finetuned-models/{id}", finetuning.get),
    ("PATCH", "/v1/finetuning/finetuned-models/{id}", finetuning.update),
    ("DELETE", "/v1/finetuning/finetuned-models/{id}", finetuning.delete),
    ("GET", "/v1/finetuning/finetuned-models/{id}/events", finetuning.events),
    ("GET", "/v1/finetuning/finetuned-models/{id}/training-step-metrics", finetuning.metrics),
)

# They act on what their path names, so a body is not asked for.
WITHOUT_BODY = (check_api_key, batches.cancel, embed_jobs.cancel, connectors.authorize)
# They take a form. A body that is none is refused in the words of the endpoint, for what it lacks.
WITH_FORM = (datasets.create, transcription.answer)
# Services that speak protobuf: their errors are `{message}` without an id (docs/cohere-api.md#errors).
PLAIN_ERRORS = ("/v2/batches", "/v1/finetuning/")
