"""The table of the emulator's routes, and the endpoints that are too small for a module of their own.

An endpoint is a function from `Request` to `Response`; a new one is a function and a row in `ROUTES`.
"""

from __future__ import annotations

from typing import Any

from gateway.emulator import (
    batches,
    chat,
    chat_encoding,
    chat_v1,
    chat_v1_encoding,
    classify,
    connectors,
    datasets,
    embed,
    embed_jobs,
    embed_v1,
    finetuning,
    generate,
    http_exchange,
    parse,
    rerank,
    rerank_v1,
    tokens,
    transcription,
    validation,
)
from gateway.emulator.errors import invalid_request
from gateway.emulator.model_catalog import describe
from gateway.emulator.repository import decode_page_token, next_page
from gateway.emulator.request import META_V1, ORGANIZATION_ID, OWNER_ID, Handler, Request, Response

DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 20, 1_000
# As in the specification; no model serves `rate`.
ENDPOINTS = ("chat", "embed", "classify", "summarize", "rerank", "rate", "generate")


def handle_chat(request: Request) -> Response:
    """Handles POST /v2/chat."""
    model = request.emulator.model_catalog.find_for("chat", request.body.get("model"))
    validation.chat(request.body, model)
    response = chat.respond(request.body, model, request.disobedience)
    if request.body.get("stream"):
        return Response(events=tuple(chat_encoding.to_events(response)))
    # Of a stream nothing is counted in the headers (docs/cohere-api.md#requests).
    return Response(body=chat_encoding.to_body(response), headers=_count_headers(response))


def handle_chat_v1(request: Request) -> Response:
    """Handles POST /v1/chat."""
    v1_response = chat_v1.respond(request.body, request.emulator)
    warning = request.unknown_field_warning(chat_v1.FIELDS)
    if request.body.get("stream"):
        as_sse = request.accepts_event_stream()
        events = tuple(chat_v1_encoding.to_events(v1_response, as_sse=as_sse))
        return Response(events=events, stream_format="v1 events" if as_sse else "v1 lines", headers=warning)
    headers = (*_count_headers(v1_response.response), *warning)
    return Response(body=chat_v1_encoding.to_body(v1_response), headers=headers)


def _count_headers(response: chat.ChatResponse) -> tuple[tuple[bytes, bytes], ...]:
    counts = {"num_chars": response.characters, "num_tokens": sum(response.billed_tokens)}
    return tuple(http_exchange.count_headers(counts))


def handle_embed(request: Request) -> Response:
    """Handles POST /v2/embed."""
    model = request.emulator.model_catalog.find_for("embed", request.body.get("model"))
    validation.embed(request.body, model)
    result = embed.embed(request.body, model)
    return Response(body=result.body, headers=result.count_headers())


def handle_rerank(request: Request) -> Response:
    """Handles POST /v2/rerank."""
    model = request.emulator.model_catalog.find_for("rerank", request.body.get("model"))
    validation.rerank(request.body, model)
    return Response(body=rerank.rerank(request.body, model))


def list_models(request: Request) -> Response:
    """Handles GET /v1/models, with its filters and pages."""
    query = request.query
    endpoint = query.get("endpoint")
    default_only = query.get("default_only", "").lower() == "true"
    if endpoint is not None and endpoint not in ENDPOINTS:
        raise invalid_request(f"endpoint must be one of {', '.join(ENDPOINTS)}.")
    if default_only and endpoint is None:
        raise invalid_request("default_only is only valid when endpoint is provided.")
    models = [
        model
        for model in request.emulator.model_catalog.models.values()
        if endpoint is None or endpoint in (model.default_endpoints if default_only else model.endpoints)
    ]
    start = decode_page_token(query.get("page_token", ""))
    page, next_token = next_page(models, start, start + _page_size(query.get("page_size", "")))
    body: dict[str, Any] = {"models": [describe(model) for model in page]}
    return Response(body=body | next_token)


def _page_size(requested: str) -> int:
    """Returns the number of models of a page. Unlike on other lists, a size above the maximum is an error."""
    if not requested:
        return DEFAULT_PAGE_SIZE
    # `int` raises a ValueError for a number of thousands of digits.
    if not requested.isdecimal() or len(requested) > 9 or not 1 <= int(requested) <= MAX_PAGE_SIZE:
        raise invalid_request(f"page_size must be between 1 and {MAX_PAGE_SIZE} inclusive.")
    return int(requested)


def get_model(request: Request) -> Response:
    """Handles GET /v1/models/{model}."""
    return Response(body=describe(request.emulator.model_catalog.find(request.path_params["model"])))


def handle_tokenize(request: Request) -> Response:
    """Handles POST /v1/tokenize."""
    request.emulator.model_catalog.find_required(request.body.get("model"))
    validation.tokenize(request.body)
    pieces = tokens.split(request.body["text"])
    body = {
        "tokens": [tokens.token_id(piece) for piece in pieces],
        "token_strings": list(pieces),
        "meta": META_V1,
    }
    return Response(body=body, headers=request.unknown_field_warning(("text", "model")))


def handle_detokenize(request: Request) -> Response:
    """Handles POST /v1/detokenize."""
    request.emulator.model_catalog.find_required(request.body.get("model"))
    validation.detokenize(request.body)
    text = "".join(tokens.token_text(token) for token in request.body["tokens"])
    warning = request.unknown_field_warning(("tokens", "model"))
    return Response(body={"text": text, "meta": META_V1}, headers=warning)


def check_api_key(request: Request) -> Response:
    """Handles POST /v1/check-api-key. A request that gets this far has a valid key."""
    return Response(body={"valid": True, "organization_id": ORGANIZATION_ID, "owner_id": OWNER_ID})


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/v2/chat", handle_chat),
    ("POST", "/v2/embed", handle_embed),
    ("POST", "/v2/rerank", handle_rerank),
    ("POST", "/v2/parse", parse.handle),
    ("POST", "/v2/audio/transcriptions", transcription.handle),
    # The first path that fits is taken: those with a fixed end stand before the one whose id would fit as well.
    ("POST", "/v2/batches/{id}:cancel", batches.cancel),
    ("GET", "/v2/batches/{id}", batches.get),
    ("GET", "/v2/batches", batches.list_all),
    ("POST", "/v2/batches", batches.create),
    ("POST", "/v1/chat", handle_chat_v1),
    ("POST", "/v1/embed", embed_v1.handle),
    ("POST", "/v1/rerank", rerank_v1.handle),
    ("POST", "/v1/classify", classify.handle),
    ("POST", "/v1/generate", generate.handle_generate),
    ("POST", "/v1/summarize", generate.handle_summarize),
    ("GET", "/v1/models", list_models),
    ("GET", "/v1/models/{model:path}", get_model),
    ("POST", "/v1/tokenize", handle_tokenize),
    ("POST", "/v1/detokenize", handle_detokenize),
    ("POST", "/v1/check-api-key", check_api_key),
    ("GET", "/v1/datasets", datasets.list_all),
    ("POST", "/v1/datasets", datasets.create),
    ("GET", "/v1/datasets/usage", datasets.get_usage),
    ("GET", "/v1/datasets/{id}", datasets.get),
    ("DELETE", "/v1/datasets/{id}", datasets.delete),
    ("GET", "/v1/embed-jobs", embed_jobs.list_all),
    ("POST", "/v1/embed-jobs", embed_jobs.create),
    ("GET", "/v1/embed-jobs/{id}", embed_jobs.get),
    ("POST", "/v1/embed-jobs/{id}/cancel", embed_jobs.cancel),
    ("GET", "/v1/connectors", connectors.list_all),
    ("POST", "/v1/connectors", connectors.create),
    ("GET", "/v1/connectors/{id}", connectors.get),
    ("PATCH", "/v1/connectors/{id}", connectors.update),
    ("DELETE", "/v1/connectors/{id}", connectors.delete),
    ("POST", "/v1/connectors/{id}/oauth/authorize", connectors.authorize),
    ("GET", "/v1/finetuning/finetuned-models", finetuning.list_all),
    ("POST", "/v1/finetuning/finetuned-models", finetuning.create),
    ("GET", "/v1/finetuning/finetuned-models/{id}", finetuning.get),
    ("PATCH", "/v1/finetuning/finetuned-models/{id}", finetuning.update),
    ("DELETE", "/v1/finetuning/finetuned-models/{id}", finetuning.delete),
    ("GET", "/v1/finetuning/finetuned-models/{id}/events", finetuning.list_events),
    ("GET", "/v1/finetuning/finetuned-models/{id}/training-step-metrics", finetuning.list_metrics),
)

# These POST endpoints act on what their path names, so they need no body.
NO_BODY_HANDLERS = (check_api_key, batches.cancel, embed_jobs.cancel, connectors.authorize)
# These read a form. Another body is rejected by the endpoint, for what it lacks.
FORM_HANDLERS = (datasets.create, transcription.handle)
# Services that speak protobuf: their error bodies are `{message}` without an id.
PATHS_WITHOUT_ERROR_ID = ("/v2/batches", "/v1/finetuning/")
