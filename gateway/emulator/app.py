"""The emulator as an ASGI application: routes, keys, the order of judging, the way an answer leaves.

What is said is decided elsewhere (`chat.py`, `embed.py`, `transcription.py` ..., and a file for each kind of thing
that callers make: `datasets.py`, `batches.py` ...). An endpoint is a function from `Request` to
`Reply`; a new one is a function and a row in `ROUTES`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

import msgspec
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.emulator import (
    avro,
    batches,
    classify,
    connectors,
    damage,
    datasets,
    embed_jobs,
    embed_v1,
    faults,
    finetuning,
    generate,
    multipart,
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
from gateway.emulator.catalogue import Catalogue, Model, describe
from gateway.emulator.faults import Fault
from gateway.emulator.journal import Journal
from gateway.emulator.multipart import Form
from gateway.emulator.refusals import Refusal, bare, invalid, wrong_type
from gateway.emulator.request import META_V1, ORGANIZATION, OWNER, Answering, Emulator, Reply, Request, warnings
from gateway.emulator.shelf import page_start, page_token
from gateway.emulator.wire import CallerLeft, Exchange

REFUSED_TOKEN = "invalid"
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
# Services that speak protobuf: their errors are `{message}` without an id (Cohere API notes §2.1).
PLAIN_ERRORS = ("/v2/batches", "/v1/finetuning/")


class Endpoint:
    """One path as an ASGI application: key, body, fault, answer, in that order."""

    def __init__(self, emulator: Emulator, path: str, methods: Mapping[str, Answering]) -> None:
        self.emulator = emulator
        self.path = path
        self.methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = self.emulator.journal.open(scope["method"], scope["path"])
        exchange = Exchange(scope, receive, send, record)
        exchange.plain_errors = self.path.startswith(PLAIN_ERRORS)
        try:
            await self._serve(exchange)
        except Refusal as refusal:
            await exchange.refuse(refusal)
        except CallerLeft:
            record.closed_by_caller = True
        finally:
            await exchange.close()
            self.emulator.journal.close(record)

    async def _serve(self, exchange: Exchange) -> None:
        scope = exchange.scope
        answering = self.methods.get(scope["method"])
        if answering is None:
            raise Refusal(405, "405 method not allowed")
        key = _key(exchange.headers.get("authorization", ""))
        if self.emulator.trial is not None:
            exchange.extra += self.emulator.trial.spend(key, self.path)
        body, form, sent = await _content(exchange, answering)
        fault = _fault(exchange, body)
        exchange.record.stream = body.get("stream") is True
        if fault is not None:
            target = f"{scope['method']} {scope['path']}?".encode() + scope["query_string"]
            await self._before(exchange, fault, target + b"\0" + sent)
        lists = parse_qs(scope["query_string"].decode("latin-1"))
        request = Request(
            emulator=self.emulator,
            body=body,
            query={name: values[-1] for name, values in lists.items()},
            path=scope.get("path_params", {}),
            headers=exchange.headers,
            form=form,
            base=f"{scope.get('scheme', 'http')}://{exchange.headers.get('host', '')}",
            lists=lists,
        )
        await _send(exchange, answering(request), fault)

    async def _before(self, exchange: Exchange, fault: Fault, data: bytes) -> None:
        """The faults that strike before there is an answer."""
        exchange.record.fault = fault.name
        refusal = faults.refusal(fault)
        if refusal is not None:
            raise refusal
        if fault.name in ("late", "stall"):
            await exchange.pause(fault.seconds)
        if fault.name == "flaky":
            identity = hashlib.blake2b(data, digest_size=16).digest()
            met = self.emulator.failures.get(identity, 0)
            self.emulator.failures[identity] = met + 1
            if met < float(fault.argument):
                raise Refusal(503, faults.STATUS_SENTENCES[503])


async def _content(exchange: Exchange, answering: Answering) -> tuple[dict[str, Any], Form | None, bytes]:
    """What came with the request: a JSON object, a form or nothing, and what tells it from another request."""
    content_type = exchange.headers.get("content-type", "")
    if content_type.lower().startswith(multipart.MEDIA_TYPE):
        form = await multipart.read(exchange.chunks(), content_type)
        named = form.find("model")
        return {"model": named.data.decode("utf-8", "replace")} if named else {}, form, form.fingerprint
    data = await exchange.body()
    asked = exchange.scope["method"] in ("POST", "PATCH") and (data or answering not in WITHOUT_BODY)
    return _object(data) if asked and answering not in WITH_FORM else {}, None, data


def _key(authorization: str) -> str:
    """The bearer token; any will do, except none and the one that is called invalid."""
    scheme, _, token = authorization.strip().partition(" ")
    token = token.strip()
    if not token:
        raise Refusal(401, "no api key supplied")
    if scheme.lower() != "bearer" or token == REFUSED_TOKEN:
        raise Refusal(401, "invalid api token")
    return token


def _object(data: bytes) -> dict[str, Any]:
    body = wire.decode(data)
    if not isinstance(body, dict):
        raise wrong_type("body", body, "Object", "chat")
    return body


def _fault(exchange: Exchange, body: dict[str, Any]) -> Fault | None:
    """The ordered fault; the model's name is left as if nothing had been ordered."""
    order = exchange.headers.get(faults.HEADER, "")
    name = body.get("model")
    if isinstance(name, str):
        if "@" in name:
            body["model"], _, suffix = name.partition("@")
            order = order or suffix
        exchange.record.model = body["model"]
    return faults.read(order) if order else None


async def _send(exchange: Exchange, reply: Reply, fault: Fault | None) -> None:
    """Play the script of an answer."""
    if reply.events is not None:
        dialect = damage.DIALECTS[reply.dialect]
        script = damage.of_stream(reply.events, fault, dialect)
        await exchange.start(200, dialect.content_type, reply.headers)
    elif reply.body is None:
        await exchange.reply(200, wire.JSON, b"", reply.headers)
        return
    else:
        data = wire.encode(damage.of_body(reply.body, fault))
        headers = () if fault is not None and fault.name == "no_usage" else reply.headers
        if fault is None:
            await exchange.reply(200, wire.JSON, data, headers)
            return
        script, length = damage.of_bytes(data, fault)
        await exchange.start(200, wire.JSON, (*headers, (b"content-length", str(length).encode())))
    for step in script.steps:
        if isinstance(step, damage.Wait):
            await exchange.pause(step.seconds)
        else:
            await exchange.write(step)
    if script.clean:
        await exchange.finish()
    # Returning without a last chunk is how an ASGI server is made to close the connection under the caller.


class Log:
    """GET /emulator/log: what callers did. DELETE forgets it. Neither needs a key nor is logged."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "DELETE":
            self.journal.records.clear()
        data = msgspec.json.encode(list(self.journal.records))
        headers = [(b"content-type", wire.JSON), (b"content-length", str(len(data)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})


class Download:
    """A part of a dataset as a file. At Cohere its address is signed, so this one needs no key either."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = self.emulator.journal.open(scope["method"], scope["path"])
        exchange = Exchange(scope, receive, send, record)
        try:
            data = datasets.named(scope["path_params"]["id"], self.emulator).file()
            await exchange.reply(200, avro.MEDIA_TYPE, data)
        except Refusal as refusal:
            await exchange.refuse(refusal)
        finally:
            self.emulator.journal.close(record)


class Nowhere:
    """Any other path: 404, whoever asks."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        record = self.journal.open(scope["method"], scope["path"])
        await Exchange(scope, receive, send, record).refuse(Refusal(404, "404 page not found"))
        self.journal.close(record)


def create_emulator(
    models: Sequence[Model | Mapping[str, Any]] | None = None,
    clock: Callable[[], float] = time.time,
    trial: bool = False,
) -> Starlette:
    """A Cohere stand-in. `models` replaces the built-in catalogue; `trial` treats every key as a trial key.

    `app.state.log` holds the last thousand requests (`gateway.emulator.journal.Record`), newest last.
    """
    emulator = Emulator(Catalogue(models), clock, trial)
    paths: dict[str, dict[str, Answering]] = {}
    for method, path, answering in ROUTES:
        paths.setdefault(path, {})[method] = answering
    routes = [Route(path, Endpoint(emulator, path, methods)) for path, methods in paths.items()]
    routes.append(Route(datasets.DOWNLOADS, Download(emulator)))
    routes.append(Route("/emulator/log", Log(emulator.journal)))
    app = Starlette(routes=routes)
    app.router.default = Nowhere(emulator.journal)
    app.router.redirect_slashes = False
    app.state.log = emulator.journal.records
    app.state.emulator = emulator
    return app
