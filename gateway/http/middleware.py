"""The one outer layer around every route, 404s included. Pure ASGI.

In this order: a request id and the clock; the request's form; cross-origin preflights; the path that is meant; who is
calling; then the routes; then, for whatever came of it, the error body, the headers every answer carries, the metrics
and one log line.
"""

import asyncio
import re
import time
from email.utils import formatdate

from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import errors
from gateway.auth.authenticator import Authenticator, Mode, remove_credentials
from gateway.errors import CallerLeft, GatewayError, failure
from gateway.http import error_responses, unsupported, validation
from gateway.http.drain import Unread
from gateway.http.path_aliases import PathAliases
from gateway.observability.access_log import Log
from gateway.observability.metrics import Metrics
from gateway.observability.record import RequestRecord, new_id
from gateway.settings.schema import Settings

OPEN_PREFIXES = ("/health/", "/metrics", "/openapi.json")
"""Paths that decide by themselves who may read them (product.md, "Who may call" and "HTTP")."""

OUR_HEADERS = (
    b"x-request-id, x-gateway-notes, x-cohere-trace-id, x-gateway-upstream, x-gateway-cache, x-gateway-cost-usd, "
    b"x-gateway-key, retry-after, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
    b"x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}\Z")
_PREFLIGHT_SECONDS = b"600"
LONGEST_PATH_LOGGED = 200


class GatewayMiddleware:
    """The ASGI application: the routes, and what goes for all of them."""

    def __init__(
        self, router: Router, settings: Settings, access: Authenticator, metrics: Metrics, log: Log, upgrades: ASGIApp
    ) -> None:
        self._router, self._metrics, self._log, self._upgrades = router, metrics, log, upgrades
        self.routes = router.routes
        served = [route.path for route in router.routes if isinstance(route, Route)]
        self._base_urls = PathAliases([*served, *unsupported.UNSUPPORTED])
        self.configure(settings, access)

    def configure(self, settings: Settings, access: Authenticator) -> None:
        """Other settings, for the requests that follow."""
        self._access, self.body_limit = access, settings.body_limit
        self._origins = frozenset(origin.encode() for origin in settings.cors_origins)
        self._always = always(access.mode)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            other = self._upgrades if scope["type"] == "websocket" else self._router
            await other(scope, receive, send)
            return
        headers = dict(scope["headers"])
        known = RequestRecord(
            request_id(headers), scope["method"], scope["path"][:LONGEST_PATH_LOGGED], time.monotonic()
        )
        scope["gateway.exchange"], scope["gateway.headers"] = known, headers
        # With an application in the scope the router raises its 404 and 405 instead of writing plain text.
        scope["app"] = self
        added = [*self._always, *self._cross_origin(headers)]
        unread: Unread | None = None
        if validation.has_body(scope):
            receive = unread = Unread(receive)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                known.status, known.response_started = message["status"], True
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"date", date()),
                    (b"x-request-id", known.request_id.encode()),
                    *([(b"x-cohere-trace-id", known.trace_id.encode("latin-1"))] if known.trace_id else ()),
                    *([(b"x-gateway-cache", known.cache.encode())] if known.cache else ()),
                    *added,
                ]
            elif unread is not None and not unread.over and not message.get("more_body"):
                # The answer is complete but for its end, which would close the connection on whoever still sends.
                await send({**message, "more_body": True})
                await unread.linger()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        self._metrics.in_flight.inc()
        try:
            validation.check(scope)
            if known.method == "OPTIONS" and b"access-control-request-method" in headers:
                await self._preflight(headers, answer)
            else:
                # First of all, so that whatever decides by the path decides by the one that is served.
                self._base_urls.mend(scope)
                if not known.path.startswith(OPEN_PREFIXES):
                    scope["gateway.caller"] = caller = self._access.authenticate(scope["headers"])
                    remove_credentials(scope["headers"], headers)
                    known.caller = caller.name
                await self._router(scope, receive, answer)
            known.outcome = known.outcome or ("error" if known.error or known.status >= 400 else "ok")
        except asyncio.CancelledError:
            # The server is stopping and this request had no time left.
            known.outcome, known.error = "error", "shutdown"
            known.status = known.status or 503
            raise
        except CallerLeft:
            # 499 is nobody's to read: nginx's word for it, in the log alone.
            known.status, known.outcome = 499, "client_closed"
        except Exception as error:
            await self._failed(_known(error, scope), known, answer)
        finally:
            self._metrics.in_flight.dec()
            if unread is not None:
                unread.throw_away()
            now = time.monotonic()
            self._metrics.served(known, now)
            self._log.request(known, now)

    async def _failed(self, error: Exception, known: RequestRecord, answer: Send) -> None:
        """Renders any failure; one that no table knows is a bug of ours, logged without the caller's words."""
        told = errors.failure_of(error)
        known.outcome, known.error = "error", told.code or told.type
        self._log.failure(known.request_id, error, told)
        if known.response_started:
            # Only a torn connection still tells the caller that what came is not whole.
            raise RuntimeError("the answer broke off") from None
        body = error_responses.body(told, known.path)
        retry_after = error.retry_after if isinstance(error, GatewayError) else None
        headers = [*error_responses.headers(told, retry_after), (b"content-length", b"%d" % len(body))]
        if isinstance(error, GatewayError) and error.allow:
            headers.append((b"allow", error.allow.encode("latin-1")))
        if isinstance(error, GatewayError) and error.closes:
            headers.append((b"connection", b"close"))
        await answer({"type": "http.response.start", "status": told.status, "headers": headers})
        await answer({"type": "http.response.body", "body": body})

    # --- pages of other origins ----------------------------------------------------------------------------

    def _cross_origin(self, headers: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        origin = headers.get(b"origin")
        if origin is None or not self._origins:
            return []
        if origin not in self._origins and b"*" not in self._origins:
            return [(b"vary", b"Origin")]
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", OUR_HEADERS),
            (b"vary", b"Origin"),
        ]

    async def _preflight(self, headers: dict[bytes, bytes], answer: Send) -> None:
        """A preflight carries no key; what it may ask for is what any caller may try."""
        allowed: list[tuple[bytes, bytes]] = []
        origin = headers.get(b"origin")
        if origin is not None and (origin in self._origins or b"*" in self._origins):
            wanted = headers.get(b"access-control-request-headers", b"authorization, content-type")
            allowed = [
                (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE, OPTIONS"),
                (b"access-control-allow-headers", wanted),
                (b"access-control-max-age", _PREFLIGHT_SECONDS),
            ]
        await answer({"type": "http.response.start", "status": 204, "headers": allowed})
        await answer({"type": "http.response.body", "body": b""})


def always(mode: Mode) -> list[tuple[bytes, bytes]]:
    """The headers of every answer."""
    return [(b"x-gateway-upstream", b"emulator")] if mode is Mode.DEMO else []


_second: tuple[int, bytes] = (0, b"")


def date() -> bytes:
    """The `date` header (RFC 9110 §6.6.1), written out once a second."""
    global _second
    now = int(time.time())
    if _second[0] != now:
        _second = now, formatdate(now, usegmt=True).encode()
    return _second[1]


def request_id(headers: dict[bytes, bytes]) -> str:
    """The caller's own, if it is harmless; the SDKs show it beside their errors."""
    given = headers.get(b"x-request-id", b"")
    return given.decode() if _REQUEST_ID.match(given) else f"req_{new_id()}"


def _known(error: Exception, scope: Scope) -> Exception:
    """The router's own exceptions as ours; all others as they are."""
    if not isinstance(error, HTTPException):
        return error
    if error.status_code in (404, 405):
        refused = unsupported.refusal(scope["method"], scope["path"])
        if refused is not None:
            return refused
    if error.status_code == 405:
        told = errors.CallerError(failure("wrong_method", "This URL does not take this method"))
        told.allow = (error.headers or {}).get("Allow")
        return told
    if error.status_code == 404:
        return errors.CallerError(failure("not_found", "There is nothing at this URL"))
    return errors.CallerError(failure("bad_request", "The request cannot be served"))
