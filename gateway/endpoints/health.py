"""`/health/live`, `/health/ready` and `/metrics`: for machines that watch the gateway."""

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
from msgspec import Struct
from starlette.types import Receive, Scope, Send

from gateway.auth.authenticator import constant_time_equals
from gateway.auth.credential_headers import credential_in
from gateway.errors import CallerError, failure
from gateway.observability.metrics import Metrics
from gateway.observability.record import record_of
from gateway.settings.schema import Settings

_encode = msgspec.json.Encoder().encode


class Liveness:
    """The process answers. Nothing is asked of anybody else."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record_of(scope).operation = "health"
        await _respond(send, b'{"status":"live"}', b"application/json")


class WorkerCount(Struct):
    """The worker processes that share the port: those that serve now, and those that the settings ask for."""

    live: int = 1
    configured: int = 1


class ReadinessBody(Struct, omit_defaults=True):
    """status: `degraded` where callers are served and something is wrong all the same, for these reasons."""

    status: Literal["ready", "degraded"]
    workers: WorkerCount
    reasons: list[str] = []


class Readiness:
    """The gateway has started and is not draining. Raises CallerError (503) until then, and from then on.

    conditions: each returns what is wrong although callers are served, or an empty text.
    """

    def __init__(
        self, is_serving: Callable[[], bool], workers: WorkerCount, conditions: Sequence[Callable[[], str]] = ()
    ) -> None:
        self._is_serving, self._workers, self._conditions = is_serving, workers, conditions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record_of(scope).operation = "health"
        if not self._is_serving():
            raise CallerError(failure("not_ready", "The gateway is starting or stopping"))
        workers = self._workers
        reasons = [reason for condition in self._conditions if (reason := condition())]
        if workers.live < workers.configured:
            reasons.insert(0, f"{workers.live} of {workers.configured} workers serve")
        body = ReadinessBody("degraded" if reasons else "ready", workers, reasons)
        await _respond(send, _encode(body), b"application/json")


class MetricsPage:
    """Open on loopback and with `metrics.public`; elsewhere it wants its own bearer token, never an API key."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._open = settings.loopback or settings.metrics.public
        self._token, self._metrics = settings.metrics.token, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record_of(scope).operation = "metrics"
        if not self._open and not constant_time_equals(credential_in(scope["headers"]), self._token):
            raise CallerError(failure("wrong_key", "/metrics requires the token in the setting metrics.token"))
        accept = record_of(scope).headers.get(b"accept", b"").decode("latin-1")
        body, kind = self._metrics.exposition(accept)
        await _respond(send, body, kind.encode())


async def _respond(send: Send, body: bytes, kind: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
