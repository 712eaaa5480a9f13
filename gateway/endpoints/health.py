"""`/health/live`, `/health/ready`, `/health/drain` and `/metrics`: for machines that watch the gateway.

Other gateways' and Kubernetes' paths lead to the first two as well (LIVE_PATHS, READY_PATHS).
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct
from starlette.types import Receive, Scope, Send

from gateway.auth.authenticator import constant_time_equals
from gateway.auth.credential_headers import credential_in
from gateway.errors import CallerError, failure
from gateway.observability.metrics import Metrics
from gateway.observability.record import record_of
from gateway.settings.schema import Settings

# Ours, Kubernetes' own, and LiteLLM's (docs/migrating-from-litellm.md): probes that are configured already find them.
LIVE_PATHS = ("/health/live", "/healthz", "/livez", "/health/liveliness", "/health/liveness")
READY_PATHS = ("/health/ready", "/readyz", "/health/readiness")
DRAIN_PATH = "/health/drain"

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


class Availability(Struct):
    """Whether callers are served. started: and not stopping. drained: an operator has asked for nobody to come any
    more. request_drain: asks all workers of this machine for that, or for the contrary.
    """

    started: bool = False
    drained: bool = False
    request_drain: Callable[[bool], None] | None = None

    def drain(self, drained: bool) -> None:
        """Drains this worker, and all others."""
        self.drained = drained
        if self.request_drain is not None:
            self.request_drain(drained)


Check: TypeAlias = Callable[[], Awaitable[str] | str]
"""Returns what is wrong with one thing that the gateway needs; an empty text if nothing is."""


class ReadinessBody(Struct, omit_defaults=True):
    """status: `degraded` where callers are served and something is wrong all the same, for these reasons.

    checks: what is wrong by the name of the check, `ok` where nothing is.
    """

    status: Literal["ready", "degraded"]
    workers: WorkerCount
    checks: Mapping[str, str] = {}
    reasons: list[str] = []


class Readiness:
    """The gateway has started, is not draining, and does not refuse all calls. Raises CallerError (503) otherwise.

    checks: by name. refusal: returns why all calls are refused, or an empty text.
    """

    def __init__(
        self,
        availability: Availability,
        workers: WorkerCount,
        checks: Mapping[str, Check],
        refusal: Callable[[], str],
    ) -> None:
        self._availability, self._workers, self._checks, self._refusal = availability, workers, checks, refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record_of(scope).operation = "health"
        if not self._availability.started:
            raise CallerError(failure("not_ready", "The gateway is starting or stopping"))
        if self._availability.drained:
            raise CallerError(failure("not_ready", "The gateway is drained: POST /health/drain was called"))
        # One after the other: most are a look into memory, and `Cached` bounds how long the others take.
        results = {name: await _result(check) for name, check in self._checks.items()}
        if reason := self._refusal():
            raise CallerError(failure("not_ready", f"The gateway refuses calls: {reason}"))
        workers, reasons = self._workers, [reason for reason in results.values() if reason]
        if workers.live < workers.configured:
            reasons.insert(0, f"{workers.live} of {workers.configured} workers serve")
        checks = {name: reason or "ok" for name, reason in results.items()}
        body = ReadinessBody("degraded" if reasons else "ready", workers, checks, reasons)
        await _respond(send, _encode(body), b"application/json")


async def _result(check: Check) -> str:
    result = check()
    return result if isinstance(result, str) else await result


class Drain:
    """POST: readiness says 503 from now on, so that load balancers send nobody, and who comes is served. DELETE ends
    that. Only the master key may.
    """

    def __init__(self, availability: Availability, message: Callable[[str], None]) -> None:
        self._availability, self._message = availability, message

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)
        record.operation, record.has_row = "health", False
        # Known here and not at the other paths: this one is in CLOSED_PATHS (`gateway/http/middleware.py`).
        if record.principal.role != "master":
            raise CallerError(failure("role_missing", "Only the master key drains a gateway"))
        drained = scope["method"] == "POST"
        self._availability.drain(drained)
        self._message("drained: /health/ready is 503 from now on" if drained else "no longer drained")
        await _respond(send, b'{"status":"%s"}' % (b"draining" if drained else b"ready"), b"application/json")


class MetricsPage:
    """Open on loopback and with `metrics.public`; elsewhere it wants its own bearer token, never an API key."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._open = settings.loopback or settings.metrics.public
        self._token, self._metrics = settings.metrics.token, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record_of(scope).operation = "metrics"
        # `credential_in` takes the token from any header in which a key may come.
        if not self._open and not constant_time_equals(credential_in(scope["headers"]), self._token):
            raise CallerError(failure("wrong_key", "/metrics requires the token in the setting metrics.token"))
        accept = record_of(scope).headers.get(b"accept", b"").decode("latin-1")
        body, kind = self._metrics.exposition(accept)
        await _respond(send, body, kind.encode())


async def _respond(send: Send, body: bytes, kind: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
