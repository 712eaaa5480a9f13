"""One HTTP session to Cohere for the life of the process. It sends each request once; routes use `client.py`.

Redirects are not followed and cookies are not kept: the only host ever dialled is the configured one. Ordinary calls
are made by `http1_client.py`; through a proxy, with a body that is still arriving, and for HEAD, by aiohttp.
"""

import asyncio
import asyncio.sslproto
import math
import ssl
from collections.abc import Awaitable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from yarl import URL

from gateway import __version__
from gateway.observability.call_controls import Headers
from gateway.settings.schema import SettingError, Timeouts, UpstreamSettings
from gateway.upstream.http1_client import TLS_READ_BYTES, Broken, ConnectTimeout, Exchange, Http1Client, encode_head
from gateway.upstream.response import (
    STREAM_BUFFER,
    WHOLE_BUFFER,
    ProxyRequest,
    UpstreamResponse,
    connection_error,
)

if TYPE_CHECKING:
    from gateway.upstream.aiohttp_session import AiohttpSession

USER_AGENT = f"cohere-gateway/{__version__}"
RESERVED_HEADERS = frozenset(
    "authorization accept accept-encoding connection content-length content-type host transfer-encoding".split()
)
"""Headers that are set for each request, so that a setting cannot."""

MAX_HEADS = 100
"""Kinds of requests whose head's beginning is kept. Paths that name something stored are of unlimited number."""


class UpstreamSession:
    """Cohere, or what stands in its place."""

    def __init__(self, base_url: str, timeouts: Timeouts, settings: UpstreamSettings, table: str = "upstream") -> None:
        """table: of the settings. Raises SettingError where a certificate or a header cannot be used."""
        self._base_url, self._timeouts = base_url, timeouts
        self._encoded_base = str(URL(base_url)).rstrip("/")
        self._headers, self._settings = _extra_headers(settings.headers, table), settings
        self._table = table
        self._client: Http1Client | None = None  # None behind a proxy
        url = URL(self._encoded_base)
        self._base_path = url.raw_path.rstrip("/")
        self._own_headers = {"host": url.host_port_subcomponent or "", **self._headers}
        self._heads: dict[tuple[str, str, bool, bool], bytes] = {}  # what the heads of all such requests begin with
        if settings != UpstreamSettings():
            _ssl_context(settings, table)  # a file that is missing is an error before anything is served

    async def start(self) -> None:
        """Opens the session; needs the running loop."""
        # Of all TLS in this process: callers' connections, ours, and aiohttp's. There is no setting for it.
        asyncio.sslproto.SSLProtocol.max_size = TLS_READ_BYTES
        if _proxy(self._base_url) is None:
            url = URL(self._base_url)
            tls = self._tls() if url.scheme == "https" else None
            self._client = Http1Client(url.raw_host or "", url.port or 0, tls, self._timeouts.connect)

    def _tls(self) -> ssl.SSLContext:
        return _ssl_context(self._settings, self._table)

    @cached_property
    def _other(self) -> "AiohttpSession":
        """The session of aiohttp's. Few gateways need it, and it takes thirteen megabytes."""
        from gateway.upstream.aiohttp_session import AiohttpSession

        proxy = _proxy(self._base_url)
        return AiohttpSession(self._base_url, self._timeouts, self._headers, USER_AGENT, self._tls(), proxy)

    async def stop(self) -> None:
        """Closes the session and its connections."""
        # Looked for in `vars`, since to name it would make it.
        if "_other" in vars(self):
            await self._other.stop()
        if self._client is not None:
            await self._client.close()

    def open(
        self,
        method: str,
        path: str,
        body: bytes | None,
        streamed: bool,
        key: str,
        last_deadline: float = math.inf,
        extra_headers: Headers = (),
        exchange: Exchange | None = None,
    ) -> Awaitable[UpstreamResponse]:
        """Sends a request and waits for the response's head. Raises UpstreamError.

        key: Cohere's; empty for none. last_deadline: the time of the loop's clock at which all of the response must be
        here. exchange: told when all of the request was sent.
        """
        if self._client is not None:
            return self._open(self._client, method, path, body, streamed, key, last_deadline, extra_headers, exchange)
        return self._other.open(method, path, body, streamed, key, last_deadline, extra_headers, exchange)

    async def _open(
        self,
        client: Http1Client,
        method: str,
        path: str,
        body: bytes | None,
        streamed: bool,
        key: str,
        last_deadline: float,
        extra_headers: Headers,
        exchange: Exchange | None,
    ) -> UpstreamResponse:
        """Does what `open` does, without aiohttp."""
        kind = method, path, streamed, body is not None
        lines = list(extra_headers)
        if key:
            lines.append(("authorization", f"Bearer {key}"))
        if body is not None:
            lines.append(("content-length", f"{len(body)}"))
        deadline = min(client.loop.time() + self._timeouts.first_event, last_deadline)
        limit = STREAM_BUFFER if streamed else WHOLE_BUFFER
        try:
            beginning = self._heads.get(kind) or self._beginning(kind)
            head = beginning + encode_head(lines)
            response = await client.request(head, body or b"", deadline, limit, True, streamed, exchange)
        except (OSError, ValueError, Broken, ConnectTimeout) as error:
            raise connection_error(error) from error
        return UpstreamResponse(response, deadline, self._timeouts.between_events, last_deadline)

    def _beginning(self, kind: tuple[str, str, bool, bool]) -> bytes:
        """Returns the line and the headers that all such requests have. kind: method, path, streamed, has a body."""
        method, path, streamed, has_body = kind
        headers = {
            "user-agent": USER_AGENT,
            **self._own_headers,
            "accept": "text/event-stream" if streamed else "application/json",
            "accept-encoding": "identity" if streamed else "gzip",
        }
        if has_body:
            headers["content-type"] = "application/json"
        # Without the empty line at its end: the lines of the single request follow.
        beginning = encode_head(headers.items(), f"{method} {URL(self._base_url + path).raw_path_qs} HTTP/1.1")[:-2]
        if len(self._heads) >= MAX_HEADS:
            self._heads.clear()
        self._heads[kind] = beginning
        return beginning

    async def forward(
        self,
        request: ProxyRequest,
        key: str,
        last_deadline: float = math.inf,
        extra_headers: Headers = (),
        exchange: Exchange | None = None,
    ) -> UpstreamResponse:
        """Sends a caller's request and waits for the response's head. Raises GatewayError.

        The response's body is not decompressed. A body that is still arriving has all the time that its pieces take:
        Cohere must take each in time, and the time for the response begins with the last one.
        """
        if self._client is not None and (request.body is None or isinstance(request.body, bytes)):
            # httptools would wait for the body that the head of the response announces.
            if request.method != "HEAD":
                return await self._forward(
                    self._client, request, request.body, key, last_deadline, extra_headers, exchange
                )
        return await self._other.forward(request, key, last_deadline, extra_headers, exchange)

    async def _forward(
        self,
        client: Http1Client,
        request: ProxyRequest,
        body: bytes | None,
        key: str,
        last_deadline: float,
        extra_headers: Headers,
        exchange: Exchange | None,
    ) -> UpstreamResponse:
        """Does what `forward` does, without aiohttp."""
        ours = self._own_headers
        # Ours first: `host` is Cohere's, and no caller replaces what the operator has set.
        headers = [*ours.items(), *(pair for pair in request.headers if pair[0] not in ours), *extra_headers]
        if not any(name == "user-agent" for name, _ in headers):
            headers.append(("user-agent", USER_AGENT))
        if key:
            headers.append(("authorization", f"Bearer {key}"))
        # A method that expects a body says so even without one, or a server may answer 411 (RFC 9110 §8.6).
        if body is not None or request.method in ("POST", "PUT", "PATCH"):
            headers.append(("content-length", str(len(body or b""))))
        deadline = min(client.loop.time() + self._timeouts.first_event, last_deadline)
        try:
            head = encode_head(headers, f"{request.method} {self._base_path}{request.target} HTTP/1.1")
            response = await client.request(head, body or b"", deadline, STREAM_BUFFER, False, True, exchange)
        except (OSError, ValueError, Broken, ConnectTimeout) as error:
            raise connection_error(error) from error
        return UpstreamResponse(response, deadline, self._timeouts.between_events, last_deadline, request)


def _extra_headers(headers: Mapping[str, str], table: str) -> Mapping[str, str]:
    """Returns the operator's headers, their names in lower case. Raises SettingError on one that cannot be sent."""
    for name, value in headers.items():
        if not name or not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
            raise SettingError(f"{table}.headers: {name!r} is not the name of a header")
        if name.lower() in RESERVED_HEADERS:
            raise SettingError(f"{table}.headers: '{name}' is set by the gateway itself")
        if not value.isascii() or not value.isprintable():
            raise SettingError(f"{table}.headers: the value of '{name}' cannot be sent")
    return {name.lower(): value for name, value in headers.items()}


def _ssl_context(settings: UpstreamSettings, table: str) -> ssl.SSLContext:
    """Returns the certificates that we trust and the one that we show. Raises SettingError."""
    context = ssl.create_default_context()
    try:
        setting = "ca_file"
        if settings.ca_file:
            context.load_verify_locations(settings.ca_file)
        if settings.client_key:
            if not settings.client_certificate:
                raise SettingError(f"{table}.client_key: {table}.client_certificate is missing")
            setting = "client_key"
            open(settings.client_key, "rb").close()  # `load_cert_chain` does not say which of two files is missing
        setting = "client_certificate"
        if settings.client_certificate:
            context.load_cert_chain(settings.client_certificate, settings.client_key or None)
    except OSError as error:
        why = error.strerror
        if isinstance(error, ssl.SSLError):  # its text is OpenSSL's, with a line of its source
            why = f"it cannot be used ({str(error.reason).replace('_', ' ').lower()})"
        raise SettingError(f"{table}.{setting}: {getattr(settings, setting)}: {why}") from error
    return context


def _proxy(base_url: str) -> str | None:
    """Returns the environment's proxy for this address. aiohttp's own `trust_env` would look it up for each call."""
    parts = urlsplit(base_url)
    if proxy_bypass(parts.hostname or ""):
        return None
    return getproxies().get(parts.scheme)
