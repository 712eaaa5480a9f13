"""The one outer layer around every route, 404s included. Pure ASGI.

In this order: the request's record; the form of the request; cross-origin preflights; web pages; the path that is
meant; who is calling; the routes; then the body of an error, the headers that every response carries, and the end of
the record.
"""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import errors
from gateway.auth.addresses import caller_address
from gateway.auth.authenticator import SECRET_IN_URL, Authenticator
from gateway.auth.credential_headers import remove_credentials
from gateway.errors import CallerError, GatewayError, failure
from gateway.http import error_responses, unsupported, validation
from gateway.http.attribution import attribute_headers
from gateway.http.drain import BodyDrain
from gateway.http.path_aliases import PathAliases
from gateway.http.responses import add_note
from gateway.http.web_pages import WebPagePolicy
from gateway.observability.access_log import LONGEST_NAME
from gateway.observability.call_controls import controls_of
from gateway.observability.clock import http_date
from gateway.observability.lifecycle import Lifecycle, new_row_id
from gateway.observability.record import REQUEST, Door, RequestRecord
from gateway.settings.schema import Settings

OPEN_PREFIXES = ("/health/", "/metrics", "/openapi.json", "/console/")
OPEN_PATHS = ("/", "/console", "/healthz", "/livez", "/readyz")
CLOSED_PATHS = ("/health/drain",)
"""Paths that decide by themselves who may read them, and those below them that need a key as all others do."""

MANAGEMENT_PREFIXES = (
    *("/key/", "/v2/key/", "/team/", "/customer/", "/end_user/"),
    *("/audit", "/usage", "/spend/", "/global/", "/user/", "/gateway/"),
)
"""Where keys, teams and end users are managed."""

OUR_HEADERS = (
    b"x-request-id, x-gateway-notes, x-cohere-trace-id, x-gateway-upstream, x-gateway-cache, x-gateway-cost-usd, "
    b"x-gateway-key, x-gateway-attempts, x-gateway-model, x-gateway-overhead-ms, x-gateway-log-id, "
    b"retry-after, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
    b"x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)

PATH_WITH_SECRET = "/..."
"""What is logged of a path that has the master key in it."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}\Z")
_PREFLIGHT_SECONDS = b"600"


class GatewayMiddleware:
    """The ASGI application: the routes, and what holds for all of them."""

    def __init__(
        self,
        router: Router,
        settings: Settings,
        authenticator: Authenticator,
        lifecycle: Lifecycle,
        websockets: ASGIApp,
    ) -> None:
        self._router, self._lifecycle, self._websockets = router, lifecycle, websockets
        # Tests read it, to look at every route that is served.
        self.routes = router.routes
        self._endpoints = fixed_endpoints(router)
        served = [route.path for route in router.routes if isinstance(route, Route)]
        self._path_aliases = PathAliases([*served, *unsupported.UNSUPPORTED])
        self.configure(settings, authenticator)

    def configure(self, settings: Settings, authenticator: Authenticator) -> None:
        """Takes other settings, for the requests that follow."""
        self._authenticator, self.body_limit = authenticator, settings.body_limit
        self._origins = frozenset(origin.encode() for origin in settings.cors_origins)
        self._mode_headers = mode_headers(authenticator.demo)
        self._web_pages = WebPagePolicy(authenticator.mode, settings)
        self._proxies = tuple(settings.trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            application = self._websockets if scope["type"] == "websocket" else self._router
            await application(scope, receive, send)
            return
        # Of a repeated header the last value; `validation.py` refuses those that must not be repeated.
        headers = dict(scope["headers"])
        record = self._lifecycle.begin(request_id(headers), scope["method"], scope["path"], headers)
        record.address, record.door = address_of(scope, self._proxies), door_of(scope["path"])
        scope[REQUEST] = record
        # With an application in the scope the router raises its 404 and 405 instead of writing plain text.
        scope["app"] = self
        # Without allowed origins no response depends on `Origin`, and needs no `Vary`.
        extra_headers = self._extra_headers(headers) if self._origins else self._mode_headers
        drain: BodyDrain | None = None
        last: Message | None = None  # held back until the request is recorded
        hold = self._lifecycle.holds_last_byte
        if validation.has_body(headers):
            receive = drain = BodyDrain(receive, record)

        async def respond(message: Message) -> None:
            nonlocal last
            record.see_response(message)
            if message["type"] == "http.response.start":
                message["headers"] = response_headers(message.get("headers", ()), record, extra_headers)
                await send(message)
                return
            if drain is not None and not drain.over and not message.get("more_body"):
                # The response is complete but for its end, which would close the connection on whoever still sends.
                await send({**message, "more_body": True})
                await drain.linger()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            if hold and not message.get("more_body"):
                last = message
                return
            await send(message)

        try:
            # Before everything else, since whatever refuses the request would log its path.
            refuse_secret_in_url(self._authenticator, scope, record)
            validation.check(scope, headers)
            if record.method == "OPTIONS" and b"access-control-request-method" in headers:
                # No call was made: a preflight asks what may be asked.
                record.has_row = False
                await self._preflight(headers, respond)
            else:
                await self._identify(scope, headers, record, drain is not None)
                # Only once the caller is known: the key says whether bodies may be stored.
                self._lifecycle.take_bodies(record)
                endpoint = self._endpoints.get((record.method, scope["path"]), self._router)
                scope["path_params"] = {}  # the router puts others in their place
                await endpoint(scope, receive, respond)
        except Exception as error:
            await self._fail(_gateway_error(error, scope), record, respond, scope["path"])
        # A task that is cancelled. It is recorded and goes on: to swallow it would keep a server that stops waiting.
        except BaseException as error:
            self._lifecycle.fail(record, error)
            raise
        finally:
            if drain is not None:
                drain.discard()
            await self._finish(record, last, send)

    async def _finish(self, record: RequestRecord, last: Message | None, send: Send) -> None:
        """Closes the record, and sends the message that was held back for it."""
        # The last byte waits for the row where the operator wants it so (`ledger.sync`): who has an answer finds its
        # row.
        recorded = self._lifecycle.finish(record)
        if recorded is not None:
            await recorded
        if last is not None:
            await send(last)

    async def _identify(self, scope: Scope, headers: dict[bytes, bytes], record: RequestRecord, has_body: bool) -> None:
        """Finds out which path is meant and who is calling. Raises CallerError for who may not call."""
        if self._web_pages.keyless and not _is_visit(scope, headers):
            self._web_pages.check(headers, has_body)
        # First of all, so that whatever decides by the path decides by the one that is served.
        if scope["path"] not in self._path_aliases.exact:
            self._path_aliases.rewrite(scope, record)
            record.door = door_of(scope["path"])
        if is_open(record.path):
            record.has_row = False
        else:
            authentication = await self._authenticator.authenticate(scope["headers"], record.address, scope["method"])
            record.identify(authentication.principal)
            record.authentication_note = authentication.note
            # From here on no handler, log line or error can show a key, because none has it
            # (docs/decisions.md#no-secret-can-be-reached-from-a-request).
            remove_credentials(scope["headers"], headers)
            attribute_headers(record)
            record.controls = controls_of(headers, record.trace_headers)

    async def _fail(self, error: Exception, record: RequestRecord, respond: Send, path: str) -> None:
        """Renders any failure in the shape of the API that is served at this path.

        A failure that no table knows is a bug of ours, logged without the caller's words.
        """
        failure = self._lifecycle.fail(record, error)
        if failure is None:
            return
        if record.response_started:
            # Only a torn connection still shows the caller that the response is incomplete.
            raise RuntimeError("the response broke off") from None
        body = error_responses.body(failure, path)
        retry_after = error.retry_after if isinstance(error, GatewayError) else None
        headers = [*error_responses.headers(failure, retry_after), (b"content-length", b"%d" % len(body))]
        if isinstance(error, GatewayError) and error.allow:
            # RFC 9110 §15.5.6 requires it of a 405.
            headers.append((b"allow", error.allow.encode("latin-1")))
        if isinstance(error, GatewayError) and error.closes:
            headers.append((b"connection", b"close"))
        await respond({"type": "http.response.start", "status": failure.status, "headers": headers})
        await respond({"type": "http.response.body", "body": body})

    # --- pages of other origins ----------------------------------------------------------------------------

    def _extra_headers(self, headers: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        """Returns the headers of the mode, and those that let the page of an allowed origin read the response."""
        origin = headers.get(b"origin")
        return [*self._mode_headers, *(self._cross_origin(origin) if origin is not None else ())]

    def _cross_origin(self, origin: bytes) -> list[tuple[bytes, bytes]]:
        if origin not in self._origins and b"*" not in self._origins:
            # Also for a foreign page: a cache must not give it a response that was made for an allowed one.
            return [(b"vary", b"Origin")]
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", OUR_HEADERS),
            (b"vary", b"Origin"),
        ]

    async def _preflight(self, headers: Mapping[bytes, bytes], respond: Send) -> None:
        """Responds to a preflight. It carries no key, and what it may ask for is what any caller may try."""
        allowed: list[tuple[bytes, bytes]] = []
        origin = headers.get(b"origin")
        if origin is not None and (origin in self._origins or b"*" in self._origins):
            # What the browser asks for is allowed as it is: SDKs add headers of their own with every version.
            wanted = headers.get(b"access-control-request-headers", b"authorization, content-type")
            allowed = [
                (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE, OPTIONS"),
                (b"access-control-allow-headers", wanted),
                (b"access-control-max-age", _PREFLIGHT_SECONDS),
            ]
        await respond({"type": "http.response.start", "status": 204, "headers": allowed})
        await respond({"type": "http.response.body", "body": b""})


def fixed_endpoints(router: Router) -> dict[tuple[str, str], ASGIApp]:
    """Returns the endpoints of paths without parameters by method and path, as the router would find them.

    It would ask its routes one after the other, each with a regular expression.
    """
    endpoints: dict[tuple[str, str], ASGIApp] = {}
    # An earlier route with a parameter may match the same path, and the router would take that one.
    earlier: list[BaseRoute] = []
    near: dict[str, list[BaseRoute]] = {}  # those of `earlier` that match a path, whatever the method
    for route in router.routes:
        if not isinstance(route, Route) or route.param_convertors:
            earlier.append(route)
            near.clear()
            continue
        for method in route.methods or ():
            scope = {"type": "http", "method": method, "path": route.path}
            if route.path not in near:
                near[route.path] = [one for one in earlier if one.matches(scope)[0] is not Match.NONE]
            if not any(one.matches(scope)[0] is Match.FULL for one in near[route.path]):
                endpoints.setdefault((method, route.path), route.app)
    return endpoints


def refuse_secret_in_url(authenticator: Authenticator, scope: Scope, record: RequestRecord) -> None:
    """Raises CallerError (400) for a URL with the master key in it, which is not logged here."""
    if authenticator.is_secret_in_url(scope["path"], scope["query_string"]):
        record.path = PATH_WITH_SECRET
        raise CallerError(SECRET_IN_URL)


def address_of(scope: Scope, proxies: tuple[str, ...]) -> str:
    """Returns the caller's address; empty over a socket that has none. proxies: networks, whose word is believed."""
    client = scope.get("client")
    peer = str(client[0]) if client else ""
    # Without proxies that are trusted, `x-forwarded-for` is what any caller likes to write.
    if not proxies:
        return peer
    return caller_address(peer, [value for name, value in scope["headers"] if name == b"x-forwarded-for"], proxies)


@lru_cache(maxsize=128)
def is_open(path: str) -> bool:
    """Tells whether a path decides by itself who may read it."""
    return (path.startswith(OPEN_PREFIXES) and path not in CLOSED_PATHS) or path in OPEN_PATHS


def _is_visit(scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
    """Tells whether a browser opens a page of the console, perhaps by a link: there is nothing of anybody's in it."""
    return (
        scope["method"] == "GET"
        and headers.get(b"sec-fetch-mode") == b"navigate"
        and (scope["path"] in OPEN_PATHS or scope["path"].startswith("/console/"))
    )


def door_of(path: str) -> Door:
    """Returns the API that a path belongs to."""
    if path.startswith((error_responses.NATIVE_PREFIX, error_responses.ALIAS_PREFIX)):
        return "native"
    return "management" if path.startswith(MANAGEMENT_PREFIXES) else "openai"


def response_headers(
    headers: Iterable[tuple[bytes, bytes]], record: RequestRecord, extra_headers: Sequence[tuple[bytes, bytes]]
) -> list[tuple[bytes, bytes]]:
    """Returns an endpoint's headers with those that every response has."""
    result = [*headers, (b"date", http_date()), (b"x-request-id", record.request_id.encode())]
    if record.trace_id:
        result.append((b"x-cohere-trace-id", record.trace_id.encode("latin-1")))
    if record.cache:
        result.append((b"x-gateway-cache", record.cache.encode()))
    result += record.rate_limit_headers
    if not is_open(record.path):
        result += record_headers(record)
    result += extra_headers
    return add_note(result, record.authentication_note) if record.authentication_note else result


def record_headers(record: RequestRecord) -> list[tuple[bytes, bytes]]:
    """Returns what is known of a request when its response begins. A stream's cost is not known then."""
    headers = [(b"x-gateway-log-id", record.id.encode())]
    if record.attempts:
        upstream = record.upstream_ended - record.upstream_began if record.upstream_ended else 0.0
        overhead = (time.monotonic() - record.started - upstream) * 1000
        headers += [
            (b"x-gateway-attempts", b"%d" % len(record.attempts)),
            (b"x-gateway-overhead-ms", b"%.1f" % max(overhead, 0.0)),
        ]
        if upstream_name := record.attempts[-1].upstream:
            headers.append((b"x-gateway-upstream", upstream_name.encode()))
    # A caller may write any name. One that a header cannot carry is left out.
    if record.model and record.model.isascii() and record.model.isprintable():
        headers.append((b"x-gateway-model", record.model.encode()[:LONGEST_NAME]))
    if record.principal.key is not None:
        headers.append(
            # An alias may have any characters. Those that a header cannot carry are percent-encoded.
            (b"x-gateway-key", quote(record.principal.name[:LONGEST_NAME], safe=" !#$&'()*+,/:;=?@[]").encode())
        )
    if not record.streamed and (cost := record.cost_text):
        headers.append((b"x-gateway-cost-usd", cost.encode()))
    return headers


def mode_headers(demo: bool) -> list[tuple[bytes, bytes]]:
    """Returns the headers that every response has. demo: the embedded emulator answers."""
    return [(b"x-gateway-upstream", b"emulator")] if demo else []


def request_id(headers: Mapping[bytes, bytes]) -> str:
    """Returns the caller's own id if it is harmless, else a new one. The SDKs show it beside their errors."""
    requested = headers.get(b"x-request-id")
    # An id that sorts by time, because the ledger has an index of them: there it is put at the end.
    return requested.decode() if requested is not None and _REQUEST_ID.match(requested) else f"req_{new_row_id()}"


def _gateway_error(error: Exception, scope: Scope) -> Exception:
    """Returns the router's own exceptions as ours, and all others as they are."""
    if not isinstance(error, HTTPException):
        return error
    if error.status_code in (404, 405):
        refused = unsupported.refusal(scope["method"], scope["path"])
        if refused is not None:
            return refused
    if error.status_code == 405:
        wrong_method = errors.CallerError(failure("wrong_method", "This URL does not accept this method"))
        wrong_method.allow = (error.headers or {}).get("Allow")
        return wrong_method
    if error.status_code == 404:
        refused = unsupported.management_refusal(scope["path"])
        return refused or errors.CallerError(failure("not_found", "There is nothing at this URL"))
    return errors.CallerError(failure("bad_request", "The request cannot be served"))
