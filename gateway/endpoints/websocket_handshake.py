"""The guard's part for WebSockets: who may open one, and what is told to whoever may not.

A refusal is an ordinary HTTP answer in place of the upgrade. What happens on an open socket is `websocket.py`.

Pages of other origins: a browser lets any page open a WebSocket anywhere and read what comes; CORS does not apply, but
it says who the page is (`Origin`), which programs need not. A page is let in if its origin is one of the setting
`cors_origins`, as for HTTP. Some programs send the address that they call as their origin, so the gateway's own is let
in, too; but where no key is needed only under a name that nobody can make point here: an IP address or localhost. (A
page that was loaded from `http://evil.example` may have that name point to 127.0.0.1 afterwards.)
"""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.types import Receive, Scope, Send

from gateway.auth.authenticator import Authenticator, Mode, remove_credentials
from gateway.endpoints.websocket import METHOD, RESTARTING, WebSocketEndpoint
from gateway.errors import CallerError, failure
from gateway.http import error_responses, unsupported, validation
from gateway.http.middleware import date, mode_headers, request_id
from gateway.http.path_aliases import PathAliases
from gateway.observability.lifecycle import Lifecycle
from gateway.observability.record import REQUEST, RequestRecord
from gateway.settings.schema import Settings

OPERATION = "socket"
"""What an open socket is called in log and metrics; the requests on it are counted as what they are."""

HTTP_ANSWER = "websocket.http.response"
"""The extension of ASGI by which an upgrade is refused with an answer."""

POLICY, BROKEN = 1008, 1011
"""Close codes (RFC 6455 §7.4.1) for a refusal where a server has no such extension, and for a fault of ours."""

OPENAIS_SOCKETS = ("/v1/realtime", "/v1/realtime/translations")
"""Where OpenAI has WebSockets and Cohere nothing like it."""

KEYLESS = (Mode.OPEN, Mode.DEMO)
"""Modes in which whoever reaches the gateway may call."""

FOREIGN = failure("foreign_origin", "Pages of this origin may not open a WebSocket here: see the setting cors_origins")
NO_SOCKET = failure("not_found", "There is no WebSocket at this URL: /v1/responses has one")
TOO_MANY = failure("too_many_sockets", "Too many WebSockets are open: try again, or use HTTP")


class WebSocketHandshake:
    """Sockets by their path, as an ASGI application."""

    def __init__(
        self,
        endpoints: Mapping[str, WebSocketEndpoint],
        settings: Settings,
        access: Authenticator,
        lifecycle: Lifecycle,
    ) -> None:
        self._endpoints, self._lifecycle = endpoints, lifecycle
        self._base_urls = PathAliases([*endpoints, *OPENAIS_SOCKETS])
        self._open = 0
        self.configure(settings, access)

    def configure(self, settings: Settings, access: Authenticator) -> None:
        """Other settings, for the sockets that follow."""
        self._settings, self._access, self._always = settings, access, mode_headers(access.mode)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        known = self._lifecycle.begin_connection(request_id(headers), METHOD, scope["path"], headers)
        known.operation = OPERATION
        scope[REQUEST] = known
        try:
            endpoint = self._endpoint(scope, headers, known)
            self._open += 1
            try:
                await receive()  # websocket.connect
                known.status, known.response_started = 101, True
                await send({"type": "websocket.accept", "headers": self._headers(known)})
                await endpoint(scope, receive, send)
            finally:
                self._open -= 1
            known.outcome = "ok"
        except Exception as error:
            await self._failed(error, known, scope, send)
        except BaseException as error:
            self._lifecycle.fail(known, error)
            raise
        finally:
            self._lifecycle.finish(known)

    def _endpoint(self, scope: Scope, headers: dict[bytes, bytes], known: RequestRecord) -> WebSocketEndpoint:
        """What serves this socket. Raises CallerError for one that may not be opened."""
        validation.check(scope, headers)
        if not self._welcome(headers):
            raise CallerError(FOREIGN)
        known.principal = self._access.authenticate(scope["headers"])
        remove_credentials(scope["headers"], headers)
        self._base_urls.rewrite(scope, known)
        endpoint = self._endpoints.get(scope["path"])
        if endpoint is None:
            refused = unsupported.refusal("GET", scope["path"]) if scope["path"] in OPENAIS_SOCKETS else None
            raise refused or CallerError(NO_SOCKET)
        if endpoint.stopping.is_set():
            raise CallerError(RESTARTING)
        if self._open >= self._settings.max_websockets:
            raise CallerError(TOO_MANY)
        return endpoint

    def _welcome(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether this is no page, or one that may come in."""
        origin = headers.get(b"origin", b"").decode("latin-1")
        if not origin or origin in self._settings.cors_origins or "*" in self._settings.cors_origins:
            return True
        host = headers.get(b"host", b"").decode("latin-1").lower()
        return _address(origin) == host and (self._access.mode not in KEYLESS or _unforgeable(host))

    def _headers(self, known: RequestRecord) -> list[tuple[bytes, bytes]]:
        return [(b"date", date()), (b"x-request-id", known.request_id.encode()), *self._always]

    async def _failed(self, error: Exception, known: RequestRecord, scope: Scope, send: Send) -> None:
        told = self._lifecycle.fail(known, error)
        if told is None:
            return
        if known.response_started:
            await send({"type": "websocket.close", "code": BROKEN})
            return
        known.status = told.status
        if HTTP_ANSWER not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": POLICY})
            return
        body = error_responses.body(told, known.path)
        headers = [*error_responses.headers(told, None), (b"content-length", b"%d" % len(body)), *self._headers(known)]
        await send({"type": f"{HTTP_ANSWER}.start", "status": told.status, "headers": headers})
        await send({"type": f"{HTTP_ANSWER}.body", "body": body})


def _address(origin: str) -> str:
    """Host and port of an origin, as a Host header has them."""
    return origin.lower().partition("://")[2]


def _unforgeable(host: str) -> bool:
    """Whether no name server can be made to say what this host is."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False
