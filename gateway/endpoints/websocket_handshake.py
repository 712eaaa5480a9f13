"""The opening handshake of WebSockets: who may open one, and the answer to those who may not.

A refusal is an ordinary HTTP response in place of the upgrade. Open sockets are served by `websocket.py`.

Which web pages may open one is decided in `web_pages.py`.
"""

from collections import Counter
from collections.abc import Mapping

from starlette.types import Receive, Scope, Send

from gateway.auth.authenticator import Authenticator
from gateway.auth.credential_headers import remove_credentials
from gateway.endpoints.websocket import METHOD, RESTARTING, WebSocketEndpoint
from gateway.errors import CallerError, failure
from gateway.http import error_responses, unsupported, validation
from gateway.http.attribution import attribute_headers
from gateway.http.middleware import address_of, mode_headers, refuse_secret_in_url, request_id
from gateway.http.path_aliases import PathAliases
from gateway.http.web_pages import WebPagePolicy
from gateway.observability.call_controls import controls_of
from gateway.observability.clock import http_date
from gateway.observability.lifecycle import Lifecycle
from gateway.observability.record import REQUEST, RequestRecord
from gateway.pipeline.accepted_keys import UNPROVEN, AcceptedKeys
from gateway.settings.schema import Settings

OPERATION = "socket"
"""The operation of an open socket in log and metrics; the requests on it have operations of their own."""

HTTP_RESPONSE = "websocket.http.response"
"""The extension of ASGI by which an upgrade is refused with an HTTP response."""

POLICY_VIOLATION, INTERNAL_ERROR = 1008, 1011
"""Close codes (RFC 6455 §7.4.1): of a refusal where the server lacks that extension, and of a bug of ours."""

UNSUPPORTED_PATHS = ("/v1/realtime", "/v1/realtime/translations")
"""Where OpenAI has WebSockets and Cohere has nothing like them."""

NOT_FOUND = failure("not_found", "There is no WebSocket at this URL: /v1/responses has one")
TOO_MANY_OF_CALLER = failure(
    "socket_share", "You have too many WebSockets open: close some of them, or send requests on several streams of one"
)
TOO_MANY_SOCKETS = failure("too_many_sockets", "Too many WebSockets are open: try again, or use HTTP")


class WebSocketHandshake:
    """The endpoints of sockets by their path, as an ASGI application."""

    def __init__(
        self,
        endpoints: Mapping[str, WebSocketEndpoint],
        settings: Settings,
        authenticator: Authenticator,
        lifecycle: Lifecycle,
        accepted_keys: AcceptedKeys,
    ) -> None:
        self._endpoints, self._lifecycle, self._accepted_keys = endpoints, lifecycle, accepted_keys
        self._path_aliases = PathAliases([*endpoints, *UNSUPPORTED_PATHS])
        self._open: Counter[str] = Counter()  # open sockets by the shares that they are in
        self._count = 0  # open sockets
        self.configure(settings, authenticator)

    def configure(self, settings: Settings, authenticator: Authenticator) -> None:
        """Takes other settings, for the sockets that follow."""
        self._settings, self._authenticator = settings, authenticator
        self._mode_headers = mode_headers(authenticator.demo)
        self._web_pages = WebPagePolicy(authenticator.mode, settings)
        self._proxies = tuple(settings.trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        request = self._lifecycle.begin_connection(request_id(headers), METHOD, scope["path"], headers)
        request.operation, request.address = OPERATION, address_of(scope, self._proxies)
        scope[REQUEST] = request
        try:
            endpoint = await self._endpoint(scope, headers, request)
            shares = await self._shares(request)
            # Nothing is awaited since `_shares` looked, so two sockets cannot take the last place.
            self._count += 1
            self._open.update(shares)
            try:
                await receive()  # websocket.connect
                # The socket itself is no call. The requests on it have rows of their own.
                request.status, request.response_started, request.has_row = 101, True, False
                await send({"type": "websocket.accept", "headers": self._headers(request)})
                await endpoint(scope, receive, send)
            finally:
                self._count -= 1
                # In-place subtraction drops what has come to zero, so callers who left are forgotten.
                self._open -= Counter(shares)
            request.outcome = request.outcome or "ok"
        except Exception as error:
            await self._refuse(error, request, scope, send)
        except BaseException as error:
            self._lifecycle.fail(request, error)
            raise
        finally:
            self._lifecycle.finish(request)

    async def _endpoint(self, scope: Scope, headers: dict[bytes, bytes], request: RequestRecord) -> WebSocketEndpoint:
        """Returns the endpoint that serves this socket. Raises CallerError if it may not be opened."""
        # Before everything else, since whatever refuses the socket would log its path.
        refuse_secret_in_url(self._authenticator, scope, request)
        validation.check(scope, headers)
        self._web_pages.check_websocket(headers)
        authentication = await self._authenticator.authenticate(scope["headers"], request.address)
        request.identify(authentication.principal)
        remove_credentials(scope["headers"], headers)
        attribute_headers(request)
        request.controls = controls_of(headers, request.trace_headers)
        self._path_aliases.rewrite(scope, request)
        endpoint = self._endpoints.get(scope["path"])
        if endpoint is None:
            refusal = unsupported.refusal("GET", scope["path"]) if scope["path"] in UNSUPPORTED_PATHS else None
            raise refusal or CallerError(NOT_FOUND)
        endpoint.permit(request)
        if endpoint.stopping.is_set():
            raise CallerError(RESTARTING)
        return endpoint

    async def _shares(self, request: RequestRecord) -> set[str]:
        """Returns the shares in which this socket counts: the caller's, and that of keys which nothing has proven.

        Where the second is full, Cohere is asked about the key. Raises CallerError if there is no room, and
        UpstreamError with Cohere's refusal.
        """
        accepted_keys, bound = self._accepted_keys, self._settings.max_websockets_per_caller
        share = accepted_keys.owners.share_of(request.principal)
        # A key that fills the share by itself is over its own bound: to ask about it would make no room.
        if share == UNPROVEN and self._open[share] >= bound > self._open[request.principal.owner]:
            await accepted_keys.ensure(request.principal)
            share = accepted_keys.owners.share_of(request.principal)
        shares = {request.principal.owner, share}
        if any(self._open[one] >= bound for one in shares):
            raise CallerError(TOO_MANY_OF_CALLER)
        if self._count >= self._settings.max_websockets:
            raise CallerError(TOO_MANY_SOCKETS)
        return shares

    def _headers(self, request: RequestRecord) -> list[tuple[bytes, bytes]]:
        return [(b"date", http_date()), (b"x-request-id", request.request_id.encode()), *self._mode_headers]

    async def _refuse(self, error: Exception, request: RequestRecord, scope: Scope, send: Send) -> None:
        failed = self._lifecycle.fail(request, error)
        if failed is None:
            return
        if request.response_started:
            await send({"type": "websocket.close", "code": INTERNAL_ERROR})
            return
        request.status = failed.status
        if HTTP_RESPONSE not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
            return
        body = error_responses.body(failed, request.path)
        headers = [
            *error_responses.headers(failed, None),
            (b"content-length", b"%d" % len(body)),
            *self._headers(request),
        ]
        await send({"type": f"{HTTP_RESPONSE}.start", "status": failed.status, "headers": headers})
        await send({"type": f"{HTTP_RESPONSE}.body", "body": body})
