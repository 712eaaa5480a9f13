"""One HTTP session to Cohere for the life of the process. It sends each request once; routes use `client.py`.

Redirects are not followed and cookies are not kept: the only host ever dialled is the configured one. Ordinary calls
are made by `http1_client.py`; through a proxy, with a body that is still arriving, and for HEAD, by aiohttp.
"""

import asyncio
import io
import math
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from gateway import __version__
from gateway.errors import UpstreamError, failure
from gateway.observability.call_controls import Headers
from gateway.settings.schema import SettingError, Timeouts, UpstreamSettings
from gateway.upstream.connector import Connector, limit_reads
from gateway.upstream.http1_client import Broken, ConnectTimeout, Http1Client
from gateway.upstream.response import ProxyRequest, Upload, UpstreamResponse, connection_error

USER_AGENT = f"cohere-gateway/{__version__}"
STREAM_BUFFER = 8 * 1024
"""Reading a stream pauses when more than twice this waits in memory, and begins again when less than this does."""

WHOLE_BUFFER = 256 * 1024
"""The same for whole answers."""

LARGE_BODY = 1024 * 1024
"""Bytes above which a request's body is given to aiohttp as a file, which it writes piece by piece."""

SKIPPED_HEADERS = ("accept", "accept-encoding", "content-type", "user-agent")
"""Headers that aiohttp would add to a request which is forwarded as it came."""

RESERVED_HEADERS = frozenset(
    "authorization accept accept-encoding connection content-length content-type host transfer-encoding".split()
)
"""Headers that are set for each request, so that a setting cannot."""


class UpstreamSession:
    """Cohere, or what stands in its place."""

    def __init__(
        self, base_url: str, timeouts: Timeouts, settings: UpstreamSettings | None = None, table: str = "upstream"
    ) -> None:
        """table: of the settings. Raises SettingError where a certificate or a header cannot be used."""
        settings = settings or UpstreamSettings()
        self._base_url, self._timeouts = base_url, timeouts
        self._encoded_base = str(URL(base_url)).rstrip("/")
        self._headers, self._settings = _extra_headers(settings.headers, table), settings
        self._table = table
        self._session: aiohttp.ClientSession | None = None
        self._client: Http1Client | None = None  # None behind a proxy
        self._heads: dict[tuple[str, str, bool, bool], bytes] = {}  # what the heads of all such requests begin with
        if settings != UpstreamSettings():
            _ssl_context(settings, table)  # a file that is missing is an error before anything is served

    async def start(self) -> None:
        """Opens the session; needs the running loop."""
        proxy = _proxy(self._base_url)
        self._session = aiohttp.ClientSession(
            connector=Connector(limit=0, ssl=_ssl_context(self._settings, self._table)),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.connect),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"user-agent": USER_AGENT, **self._headers},
            proxy=proxy,
        )
        if proxy is None:
            url = URL(self._base_url)
            tls = _ssl_context(self._settings, self._table) if url.scheme == "https" else None
            self._client = Http1Client(url.raw_host or "", url.port or 0, tls, self._timeouts.connect)

    async def stop(self) -> None:
        """Closes the session and its connections."""
        if self._session is not None:
            await self._session.close()
        if self._client is not None:
            await self._client.close()

    async def open(
        self,
        method: str,
        path: str,
        body: bytes | None,
        streamed: bool,
        key: str,
        last_deadline: float = math.inf,
        extra_headers: Headers = (),
    ) -> UpstreamResponse:
        """Sends a request and waits for the response's head. Raises UpstreamError.

        key: Cohere's; empty for none. last_deadline: the time of the loop's clock at which all of the response must be
        here.
        """
        if self._client is not None:
            return await self._open(self._client, method, path, body, streamed, key, last_deadline, extra_headers)
        assert self._session is not None, "start() comes first"
        headers = {"authorization": f"Bearer {key}"} if key else {}
        if body is not None:
            headers["content-type"] = "application/json"
        # A compressed stream would be held back by whoever compresses it; a whole response is cheaper so.
        headers["accept"] = "text/event-stream" if streamed else "application/json"
        headers["accept-encoding"] = "identity" if streamed else "gzip"
        if extra_headers:
            headers.update(extra_headers)
        deadline = min(asyncio.get_running_loop().time() + self._timeouts.first_event, last_deadline)
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._session.request(
                    method,
                    self._base_url + path,
                    data=_payload(body),
                    headers=headers,
                    allow_redirects=False,
                    read_bufsize=STREAM_BUFFER if streamed else WHOLE_BUFFER,
                )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise connection_error(error) from error
        limit_reads(response, streamed)
        return UpstreamResponse(response, deadline, self._timeouts.between_events, last_deadline)

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
    ) -> UpstreamResponse:
        """Does what `open` does, without aiohttp."""
        kind = method, path, streamed, body is not None
        head = self._heads.get(kind)
        if head is None:
            head = self._heads[kind] = self._head(*kind)
        lines = [head]
        if key:
            lines.append(b"authorization: Bearer %b\r\n" % key.encode())
        if body is not None:
            lines.append(b"content-length: %d\r\n" % len(body))
        for name, value in extra_headers:
            lines.append(f"{name}: {value}\r\n".encode())
        lines.append(b"\r\n")
        deadline = min(client.loop.time() + self._timeouts.first_event, last_deadline)
        limit = STREAM_BUFFER if streamed else WHOLE_BUFFER
        try:
            response = await client.request(b"".join(lines), body or b"", deadline, limit, True, streamed)
        except (OSError, ValueError, Broken, ConnectTimeout) as error:
            raise connection_error(error) from error
        return UpstreamResponse(response, deadline, self._timeouts.between_events, last_deadline)

    def _head(self, method: str, path: str, streamed: bool, has_body: bool) -> bytes:
        """Returns the line and the headers that all such requests have."""
        url = URL(self._base_url + path)
        headers = {
            "host": url.host_port_subcomponent or "",
            "user-agent": USER_AGENT,
            **self._headers,
            "accept": "text/event-stream" if streamed else "application/json",
            "accept-encoding": "identity" if streamed else "gzip",
        }
        if has_body:
            headers["content-type"] = "application/json"
        lines = [f"{method} {url.raw_path_qs} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), ""]
        return "\r\n".join(lines).encode()

    async def forward(
        self, request: ProxyRequest, key: str, last_deadline: float = math.inf, extra_headers: Headers = ()
    ) -> UpstreamResponse:
        """Sends a caller's request and waits for the response's head. Raises GatewayError.

        The response's body is not decompressed. A body that is still arriving has all the time that its pieces take:
        Cohere must take each in time, and the time for the response begins with the last one.
        """
        assert self._session is not None, "start() comes first"
        loop = asyncio.get_running_loop()
        # The operator's headers belong to every request: no caller puts others in their place.
        if self._client is not None and (request.body is None or isinstance(request.body, bytes)):
            if request.method != "HEAD":
                return await self._forward(self._client, request, request.body, key, last_deadline, extra_headers)
        headers = [pair for pair in request.headers if pair[0] not in self._headers]
        headers += extra_headers
        if key:
            headers.append(("authorization", f"Bearer {key}"))
        body, sending = request.body, None
        upload = None
        if not (body is None or isinstance(body, bytes)):
            upload, last_deadline = body, math.inf
        try:
            first = min(loop.time() + self._timeouts.first_event, last_deadline)
            async with asyncio.timeout_at(first) as clock:
                data: _TimedUpload | bytes | io.BytesIO | None
                if body is None or isinstance(body, bytes):
                    data = _payload(body)
                else:
                    data = sending = _TimedUpload(body, clock, self._timeouts)
                response = await self._session.request(
                    request.method,
                    # Encoded already: what is escaped stays so, and nothing in it can be another host.
                    URL(self._encoded_base + request.target, encoded=True),
                    data=data,
                    headers=headers,
                    skip_auto_headers=SKIPPED_HEADERS,
                    allow_redirects=False,
                    auto_decompress=False,
                    read_bufsize=STREAM_BUFFER,
                )
                if sending is not None:
                    sending.has_response = True
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if upload is not None and upload.failure is not None:
                raise upload.failure from error
            raise connection_error(error) from error
        if response.status < 200:
            # An upgrade that nobody has asked for: what follows it is not HTTP.
            response.close()
            raise UpstreamError(failure("cut", "Cohere switched protocols without a request to do so"))
        limit_reads(response, streamed=True)
        deadline = clock.when() or loop.time() + self._timeouts.first_event
        return UpstreamResponse(response, deadline, self._timeouts.between_events, last_deadline, request)

    async def _forward(
        self,
        client: Http1Client,
        request: ProxyRequest,
        body: bytes | None,
        key: str,
        last_deadline: float,
        extra_headers: Headers,
    ) -> UpstreamResponse:
        """Does what `forward` does, without aiohttp."""
        url = URL(self._encoded_base)
        target = url.raw_path.rstrip("/") + request.target
        ours = {"host": url.host_port_subcomponent or "", **self._headers}
        headers = [*ours.items(), *(pair for pair in request.headers if pair[0] not in ours), *extra_headers]
        if not any(name == "user-agent" for name, _ in headers):
            headers.append(("user-agent", USER_AGENT))
        if key:
            headers.append(("authorization", f"Bearer {key}"))
        if body is not None or request.method in ("POST", "PUT", "PATCH"):
            headers.append(("content-length", str(len(body or b""))))
        lines = [f"{request.method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "", ""]
        deadline = min(client.loop.time() + self._timeouts.first_event, last_deadline)
        try:
            head = "\r\n".join(lines).encode()
            if head.count(b"\n") != len(lines) - 1:
                raise ValueError("a line end in a header")
            response = await client.request(head, body or b"", deadline, STREAM_BUFFER, False, True)
        except (OSError, ValueError, Broken, ConnectTimeout) as error:
            raise connection_error(error) from error
        return UpstreamResponse(response, deadline, self._timeouts.between_events, last_deadline, request)


class _TimedUpload:
    """An upload as aiohttp sends it. It moves the deadline of the call: the caller's slowness is timed where its pieces
    come from, Cohere's here.
    """

    def __init__(self, upload: Upload, clock: asyncio.Timeout, timeouts: Timeouts) -> None:
        self._pieces, self._clock, self._timeouts = aiter(upload), clock, timeouts
        self.has_response = False

    def __aiter__(self) -> "_TimedUpload":
        return self

    async def __anext__(self) -> bytes:
        """Returns the next piece. To ask for it is to have taken the one before."""
        self._reschedule(None)
        try:
            piece = await anext(self._pieces)
        except StopAsyncIteration:
            self._reschedule(self._timeouts.first_event)
            raise
        self._reschedule(self._timeouts.between_events)
        return piece

    def _reschedule(self, seconds: float | None) -> None:
        if not self.has_response:
            self._clock.reschedule(None if seconds is None else asyncio.get_running_loop().time() + seconds)


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
        setting = "client_certificate"
        if settings.client_certificate:
            context.load_cert_chain(settings.client_certificate, settings.client_key or None)
        elif settings.client_key:
            raise SettingError(f"{table}.client_key: {table}.client_certificate is missing")
    except OSError as error:  # ssl.SSLError is one
        why = error.strerror or "it cannot be read"
        raise SettingError(f"{table}.{setting}: {getattr(settings, setting)}: {why}") from error
    return context


def _payload(body: bytes | None) -> bytes | io.BytesIO | None:
    """Returns a body as aiohttp takes it without a warning."""
    return body if body is None or len(body) <= LARGE_BODY else io.BytesIO(body)


def _proxy(base_url: str) -> str | None:
    """Returns the environment's proxy for this address. aiohttp's own `trust_env` would look it up for each call."""
    parts = urlsplit(base_url)
    if proxy_bypass(parts.hostname or ""):
        return None
    return getproxies().get(parts.scheme)
