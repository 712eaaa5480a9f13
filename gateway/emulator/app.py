"""The emulator as an ASGI application: keys, the order of judging, the way an answer leaves.

What is served is the table in `routes.py`; what is said is decided in the files that it names (`chat.py`, `embed.py`,
`datasets.py` ...).
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

from gateway.emulator import avro, datasets, fault_injection, faults, multipart, wire
from gateway.emulator.catalogue import Catalogue, Model
from gateway.emulator.faults import Fault
from gateway.emulator.multipart import Form
from gateway.emulator.refusals import Refusal, wrong_type
from gateway.emulator.request import Answering, Emulator, Reply, Request
from gateway.emulator.request_log import Journal
from gateway.emulator.routes import PLAIN_ERRORS, ROUTES, WITH_FORM, WITHOUT_BODY
from gateway.emulator.wire import CallerLeft, Exchange

REFUSED_TOKEN = "invalid"
"""The one API key that the emulator does not take."""


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
        dialect = fault_injection.DIALECTS[reply.dialect]
        script = fault_injection.of_stream(reply.events, fault, dialect)
        await exchange.start(200, dialect.content_type, reply.headers)
    elif reply.body is None:
        await exchange.reply(200, wire.JSON, b"", reply.headers)
        return
    else:
        data = wire.encode(fault_injection.of_body(reply.body, fault))
        headers = () if fault is not None and fault.name == "no_usage" else reply.headers
        if fault is None:
            await exchange.reply(200, wire.JSON, data, headers)
            return
        script, length = fault_injection.of_bytes(data, fault)
        await exchange.start(200, wire.JSON, (*headers, (b"content-length", str(length).encode())))
    for step in script.steps:
        if isinstance(step, fault_injection.Wait):
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

    `app.state.log` holds the last thousand requests (`gateway.emulator.request_log.Record`), newest last.
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
