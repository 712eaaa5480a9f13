"""`/health/live`, `/health/ready` and `/metrics`: for machines that watch the gateway."""

from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from gateway.auth.authenticator import constant_time_equals, credential_in
from gateway.errors import CallerError, failure
from gateway.observability.metrics import CONTENT_TYPE, Metrics
from gateway.observability.record import record_of
from gateway.settings.schema import Settings


class Health:
    """Live: the process answers, nothing is asked of anybody else. Ready: it has started and is not draining."""

    def __init__(self, name: str, healthy: Callable[[], bool]) -> None:
        self._name, self._healthy = name, healthy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record_of(scope).operation = "health"
        if self._healthy():
            await _answer(send, b'{"status":"%s"}' % self._name.encode(), b"application/json")
        else:
            raise CallerError(failure("not_ready", "The gateway is starting or stopping"))


class MetricsPage:
    """Open on loopback and with `metrics.public`; elsewhere it wants its own bearer token, never an API key."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._open = settings.loopback or settings.metrics.public
        self._token, self._metrics = settings.metrics.token, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record_of(scope).operation = "metrics"
        if not self._open and not constant_time_equals(credential_in(scope["headers"]), self._token):
            raise CallerError(failure("wrong_key", "/metrics requires the token in the setting metrics.token"))
        await _answer(send, self._metrics.exposition(), CONTENT_TYPE.encode())


async def _answer(send: Send, body: bytes, kind: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
