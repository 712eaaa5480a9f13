"""The emulator as an ASGI application: routes, keys, the order of judging, the way an answer leaves.

What is said is decided elsewhere (`chat.py`, `embed.py`, `rerank.py`, `transcription.py`, `catalogue.py`,
`tokens.py`). An endpoint is a function from `Request` to `Reply`; a new one is a function and a row in `ROUTES`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

import msgspec
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.emulator import chat as chatting
from gateway.emulator import damage, faults, stream, tokens, transcription, validation, wire
from gateway.emulator import embed as embedding
from gateway.emulator import rerank as ranking
from gateway.emulator.catalogue import Catalogue, Model, describe
from gateway.emulator.faults import Fault
from gateway.emulator.journal import Journal
from gateway.emulator.refusals import Refusal, bare, invalid, wrong_type
from gateway.emulator.trial import Trial
from gateway.emulator.wire import CallerLeft, Exchange

REFUSED_TOKEN = "invalid"
DEFAULT_PAGE, LARGEST_PAGE = 20, 1_000
ENDPOINTS = ("chat", "embed", "classify", "summarize", "rerank", "rate", "generate")
META_V1 = {"api_version": {"version": "1"}}
ORGANIZATION = "00000000-0000-4000-8000-000000000001"
OWNER = "00000000-0000-4000-8000-000000000002"


class Emulator:
    """What the endpoints share: the models, and whatever has state."""

    def __init__(self, catalogue: Catalogue, clock: Callable[[], float], trial: bool) -> None:
        self.catalogue = catalogue
        self.clock = clock
        self.trial = Trial(clock) if trial else None
        self.journal = Journal()
        self.failures: dict[bytes, int] = {}  # how often a request has met the fault "flaky"


class Request(msgspec.Struct, frozen=True):
    """A request that has a key and, if it has a body, readable JSON in it."""

    emulator: Emulator
    body: dict[str, Any]
    query: dict[str, str]
    path: dict[str, str]


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """An answer: one body or the events of a stream."""

    body: dict[str, Any] = {}
    events: tuple[bytes, ...] | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()


Answering = Callable[[Request], Reply]


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


def transcribe(request: Request) -> Reply:
    """POST /v2/audio/transcriptions."""
    request.emulator.catalogue.serving(request.body.get("model"), "transcribe")
    transcription.check(request.body)
    return Reply(body=transcription.answer(request.body))


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
    start = _page_start(query.get("page_token", ""))
    end = start + _page_size(query.get("page_size", ""))
    body: dict[str, Any] = {"models": [describe(model) for model in found[start:end]]}
    if end < len(found):
        body["next_page_token"] = base64.urlsafe_b64encode(str(end).encode()).decode()
    return Reply(body=body)


def _page_size(said: str) -> int:
    if not said:
        return DEFAULT_PAGE
    if not said.isdecimal() or not 1 <= int(said) <= LARGEST_PAGE:
        raise invalid(f"page_size must be between 1 and {LARGEST_PAGE} inclusive.")
    return int(said)


def _page_start(token: str) -> int:
    try:
        return int(base64.urlsafe_b64decode(token)) if token else 0
    except (ValueError, binascii.Error):
        raise invalid("page_token is invalid.") from None


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
    return Reply(body=body, headers=_warnings(request.body, ("text", "model")))


def detokenize(request: Request) -> Reply:
    """POST /v1/detokenize."""
    _named_model(request)
    validation.detokenize(request.body)
    text = "".join(tokens.piece(token) for token in request.body["tokens"])
    return Reply(body={"text": text, "meta": META_V1}, headers=_warnings(request.body, ("tokens", "model")))


def check_api_key(request: Request) -> Reply:
    """POST /v1/check-api-key: whoever comes this far has a good one."""
    return Reply(body={"valid": True, "organization_id": ORGANIZATION, "owner_id": OWNER})


def _named_model(request: Request) -> Model:
    name = request.body.get("model")
    if not isinstance(name, str) or not name:
        raise bare("a model parameter is required for this endpoint.")
    return request.emulator.catalogue.find(name)


def _warnings(body: Mapping[str, Any], known: Sequence[str]) -> tuple[tuple[bytes, bytes], ...]:
    unknown = [name for name in body if name not in known]
    if not unknown:
        return ()
    sentence = f"unknown field: parameter {unknown[0]} is not a valid field"
    return ((b"x-api-warning", sentence.encode("ascii", "replace")),)


ROUTES: tuple[tuple[str, str, Answering], ...] = (
    ("POST", "/v2/chat", chat),
    ("POST", "/v2/embed", embed),
    ("POST", "/v2/rerank", rerank),
    ("POST", "/v2/audio/transcriptions", transcribe),
    ("GET", "/v1/models", models),
    ("GET", "/v1/models/{model:path}", model_by_id),
    ("POST", "/v1/tokenize", tokenize),
    ("POST", "/v1/detokenize", detokenize),
    ("POST", "/v1/check-api-key", check_api_key),
)


class Endpoint:
    """One route as an ASGI application: key, body, fault, answer, in that order."""

    def __init__(self, emulator: Emulator, method: str, answering: Answering) -> None:
        self.emulator = emulator
        self.method = method
        self.answering = answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = self.emulator.journal.open(scope["method"], scope["path"])
        exchange = Exchange(scope, receive, send, record)
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
        if exchange.scope["method"] != self.method:
            raise Refusal(405, "405 method not allowed")
        key = _key(exchange.headers.get("authorization", ""))
        data = await exchange.body()
        if self.emulator.trial is not None:
            exchange.extra += self.emulator.trial.spend(key, exchange.scope["path"])
        body = await self._body(exchange, data)
        fault = _fault(exchange, body)
        exchange.record.stream = body.get("stream") is True
        if fault is not None:
            await self._before(exchange, fault, data)
        query = {name: values[-1] for name, values in parse_qs(exchange.scope["query_string"].decode()).items()}
        reply = self.answering(Request(self.emulator, body, query, exchange.scope.get("path_params", {})))
        await _send(exchange, reply, fault)

    async def _body(self, exchange: Exchange, data: bytes) -> dict[str, Any]:
        if self.answering is transcribe:
            return await transcription.form(exchange.headers, data)
        return _object(data) if self.method == "POST" and (data or self.answering is not check_api_key) else {}

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
        script = damage.of_stream(reply.events, fault)
        await exchange.start(200, wire.EVENT_STREAM, reply.headers)
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
    routes = [Route(path, Endpoint(emulator, method, answering)) for method, path, answering in ROUTES]
    routes.append(Route("/emulator/log", Log(emulator.journal)))
    app = Starlette(routes=routes)
    app.router.default = Nowhere(emulator.journal)
    app.router.redirect_slashes = False
    app.state.log = emulator.journal.records
    app.state.emulator = emulator
    return app
