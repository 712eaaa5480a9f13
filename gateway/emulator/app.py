"""The emulator as an ASGI application: API keys, the order of the checks, and how a response is sent.

`routes.py` lists the endpoints; each is implemented in the module that the table names.
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

from gateway.emulator import avro, datasets, fault_injection, faults, go_json, http_exchange, multipart
from gateway.emulator.errors import APIError, require_object
from gateway.emulator.faults import Fault
from gateway.emulator.http_exchange import ClientDisconnect, HttpExchange
from gateway.emulator.model_catalog import Model, ModelCatalog
from gateway.emulator.multipart import Form
from gateway.emulator.request import EmulatorState, Handler, Request, Response
from gateway.emulator.request_log import RequestLog
from gateway.emulator.routes import FORM_HANDLERS, NO_BODY_HANDLERS, PATHS_WITHOUT_ERROR_ID, ROUTES

REJECTED_TOKEN = "invalid"
"""The one API key that the emulator does not accept."""


class Endpoint:
    """One path as an ASGI application: it checks the key, reads the body, applies the fault, and responds."""

    def __init__(self, emulator: EmulatorState, path: str, handlers: Mapping[str, Handler]) -> None:
        self.emulator = emulator
        self.path = path
        self.handlers = handlers  # by method

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = self.emulator.request_log.open(scope["method"], scope["path"])
        exchange = HttpExchange(scope, receive, send, record)
        exchange.omit_error_id = self.path.startswith(PATHS_WITHOUT_ERROR_ID)
        try:
            await self._serve(exchange)
        except APIError as error:
            await exchange.send_error(error)
        except ClientDisconnect:
            record.closed_by_caller = True
        finally:
            await exchange.close()
            self.emulator.request_log.close(record)

    async def _serve(self, exchange: HttpExchange) -> None:
        scope = exchange.scope
        handler = self.handlers.get(scope["method"])
        if handler is None:
            raise APIError(405, "405 method not allowed")
        key = _bearer_token(exchange.headers.get("authorization", ""))
        if self.emulator.trial_limits is not None:
            exchange.extra_headers += self.emulator.trial_limits.count_call(key, self.path)
        body, form, content = await _read_content(exchange, handler)
        # Before the handler, which must find the model without the fault's suffix.
        fault = _requested_fault(exchange, body)
        exchange.record.stream = body.get("stream") is True
        if fault is not None:
            # Not the headers: a client's retry may say in them that it is one, and is the same request all the same.
            target = f"{scope['method']} {scope['path']}?".encode() + scope["query_string"]
            await self._apply_early_fault(exchange, fault, target + b"\0" + content)
        query = parse_qs(scope["query_string"].decode("latin-1"))
        request = Request(
            emulator=self.emulator,
            body=body,
            query={name: values[-1] for name, values in query.items()},
            path_params=scope.get("path_params", {}),
            headers=exchange.headers,
            form=form,
            base_url=f"{scope.get('scheme', 'http')}://{exchange.headers.get('host', '')}",
            query_lists=query,
            disobedience=fault_injection.disobedience(fault, body, self.emulator.disobedience_counts),
        )
        await _send(exchange, handler(request), fault)

    async def _apply_early_fault(self, exchange: HttpExchange, fault: Fault, identity: bytes) -> None:
        """Applies the faults that need no response. `identity` tells one request from another, for `flaky`."""
        exchange.record.fault = fault.name
        error = faults.error_for(fault)
        if error is not None:
            raise error
        if fault.name in ("late", "stall"):
            await exchange.pause(fault.seconds)
        if fault.name == "flaky":
            fingerprint = hashlib.blake2b(identity, digest_size=16).digest()
            failures = self.emulator.flaky_counts.get(fingerprint, 0)
            self.emulator.flaky_counts[fingerprint] = failures + 1
            if failures < float(fault.argument):
                raise APIError(503, faults.STATUS_SENTENCES[503])


async def _read_content(exchange: HttpExchange, handler: Handler) -> tuple[dict[str, Any], Form | None, bytes]:
    """Returns the JSON object or the form of a request, and the bytes that tell it from another request."""
    content_type = exchange.headers.get("content-type", "")
    if content_type.lower().startswith(multipart.MEDIA_TYPE):
        form = await multipart.read_form(exchange.chunks(), content_type)
        model = form.find("model")
        return {"model": model.data.decode("utf-8", "replace")} if model else {}, form, form.fingerprint
    data = await exchange.body()
    has_json = exchange.scope["method"] in ("POST", "PATCH") and (data or handler not in NO_BODY_HANDLERS)
    if not has_json or handler in FORM_HANDLERS:
        return {}, None, data
    return require_object("body", go_json.decode(data)), None, data


def _bearer_token(authorization: str) -> str:
    """Returns the token. Any will do, except an empty one and REJECTED_TOKEN, which raise a 401."""
    scheme, _, token = authorization.strip().partition(" ")
    token = token.strip()
    if not token:
        raise APIError(401, "no api key supplied")
    if scheme.lower() != "bearer" or token == REJECTED_TOKEN:
        raise APIError(401, "invalid api token")
    return token


def _requested_fault(exchange: HttpExchange, body: dict[str, Any]) -> Fault | None:
    """Returns the fault that a request asks for, and takes the suffix off the model."""
    requested = exchange.headers.get(faults.HEADER, "")
    name = body.get("model")
    if isinstance(name, str):
        if "@" in name:
            body["model"], _, suffix = name.partition("@")
            requested = requested or suffix
        exchange.record.model = body["model"]
    requested = requested or faults.in_prompt(body)
    return faults.parse(requested) if requested else None


async def _send(exchange: HttpExchange, response: Response, fault: Fault | None) -> None:
    """Sends a response, with what the fault does to it."""
    if response.events is not None:
        stream_format = fault_injection.STREAM_FORMATS[response.stream_format]
        script = fault_injection.stream_script(response.events, fault, stream_format)
        await exchange.start(200, stream_format.content_type, response.headers)
    elif response.body is None:
        await exchange.send_whole(200, http_exchange.JSON, b"", response.headers)
        return
    else:
        data = go_json.encode(fault_injection.change_body(response.body, fault))
        # `num_tokens` tells the usage as well.
        headers = () if fault is not None and fault.name == "no_usage" else response.headers
        if fault is None:
            await exchange.send_whole(200, http_exchange.JSON, data, headers)
            return
        # Without compression, as the script cuts the body by its bytes.
        script, length = fault_injection.body_script(data, fault)
        await exchange.start(200, http_exchange.JSON, (*headers, (b"content-length", str(length).encode())))
    for step in script.steps:
        if isinstance(step, fault_injection.Wait):
            await exchange.pause(step.seconds)
        else:
            await exchange.write(step)
    if script.complete:
        await exchange.finish()
    # An ASGI server closes the connection when the application returns without a last chunk: the fault `cut`.


class RequestLogEndpoint:
    """GET /emulator/log returns the logged requests, DELETE forgets them. Neither needs a key or is logged."""

    def __init__(self, request_log: RequestLog) -> None:
        self.request_log = request_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "DELETE":
            self.request_log.records.clear()
        data = msgspec.json.encode(list(self.request_log.records))
        headers = [(b"content-type", http_exchange.JSON), (b"content-length", str(len(data)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})


class DatasetDownload:
    """Serves a part of a dataset as a file. Cohere signs its address, so this one needs no key either."""

    def __init__(self, emulator: EmulatorState) -> None:
        self.emulator = emulator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = self.emulator.request_log.open(scope["method"], scope["path"])
        exchange = HttpExchange(scope, receive, send, record)
        try:
            data = datasets.find(scope["path_params"]["id"], self.emulator).to_avro()
            await exchange.send_whole(200, avro.MEDIA_TYPE, data)
        except APIError as error:
            await exchange.send_error(error)
        finally:
            self.emulator.request_log.close(record)


class NotFound:
    """Responds 404 on every other path, with or without a key."""

    def __init__(self, request_log: RequestLog) -> None:
        self.request_log = request_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            # Before the connection is accepted, which makes the server refuse it.
            await send({"type": "websocket.close", "code": 1000})
            return
        record = self.request_log.open(scope["method"], scope["path"])
        await HttpExchange(scope, receive, send, record).send_error(APIError(404, "404 page not found"))
        self.request_log.close(record)


def create_emulator(
    models: Sequence[Model | Mapping[str, Any]] | None = None,
    clock: Callable[[], float] = time.time,
    trial: bool = False,
) -> Starlette:
    """Builds the emulator. `models` replaces the built-in models; with `trial`, every key is a trial key.

    `app.state.log` holds the last thousand `request_log.LoggedRequest`, newest last.
    """
    emulator = EmulatorState(ModelCatalog(models), clock, trial)
    paths: dict[str, dict[str, Handler]] = {}
    # One route for each path, whatever the method: for another one Starlette would answer in words of its own.
    for method, path, handler in ROUTES:
        paths.setdefault(path, {})[method] = handler
    routes = [Route(path, Endpoint(emulator, path, handlers)) for path, handlers in paths.items()]
    routes.append(Route(datasets.DOWNLOAD_PATH, DatasetDownload(emulator)))
    routes.append(Route("/emulator/log", RequestLogEndpoint(emulator.request_log)))
    app = Starlette(routes=routes)
    # In Cohere's format, which Starlette's own 404 has not.
    app.router.default = NotFound(emulator.request_log)
    # Starlette would redirect a path with another slash at its end, where it has to be unknown.
    app.router.redirect_slashes = False
    app.state.log = emulator.request_log.records
    app.state.emulator = emulator
    return app
