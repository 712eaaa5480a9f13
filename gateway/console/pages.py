"""The console's page and modules as an ASGI application.

Everybody may load them: there is nothing of anybody's in them. The page may run its own scripts and nothing else, asks
no other host for anything, and stands in no frame.
"""

import asyncio

from starlette.types import Receive, Scope, Send

from gateway.console.files import PREFIX, File, load
from gateway.errors import CallerError, failure
from gateway.observability.record import record_of
from gateway.pipeline.services import Services

POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
"""The playground shows pictures that were pasted into it, which have no address of this host: `data:`, `blob:`."""

SECURITY_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)

NOT_FOUND = failure("not_found", "There is nothing at this URL")
OFF = failure("not_found", "The console is switched off: see the setting console.enabled")


class ConsolePages:
    """`/console` and what is below it: modules at their addresses, and the page everywhere else."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record_of(scope).operation = "console"
        if not self._services.settings.console.enabled:
            raise CallerError(OFF)
        # In a thread, since the first one reads and compresses them all.
        files = await asyncio.to_thread(load)
        path: str = scope["path"]
        if not path.startswith(PREFIX):
            await _respond(scope, send, files.page, b"no-cache")
            return
        digest, _, name = path.removeprefix(PREFIX).partition("/")
        file = files.static.get(name)
        # Of another version: an old page's modules are not to be mixed with new ones.
        if file is None or digest != files.digest:
            raise CallerError(NOT_FOUND)
        await _respond(scope, send, file, b"public, max-age=31536000, immutable")


class ConsoleRedirect:
    """`/`, which leads to the console."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record_of(scope).operation = "console"
        if not self._services.settings.console.enabled:
            raise CallerError(NOT_FOUND)
        # A path and no host: nobody is led elsewhere, whatever the headers say.
        headers = [
            (b"location", b"/console"),
            (b"cache-control", b"no-cache"),
            (b"content-type", b"text/html; charset=utf-8"),
            (b"content-length", b"0"),
        ]
        await send({"type": "http.response.start", "status": 307, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


async def _respond(scope: Scope, send: Send, file: File, caching: bytes) -> None:
    headers = dict(scope["headers"])
    common = [
        *SECURITY_HEADERS,
        (b"etag", file.tag),
        (b"cache-control", caching),
        (b"vary", b"accept-encoding"),
    ]
    # Without parsing it: the tag has quotes, so it is found in a list and behind `W/`.
    if file.tag in headers.get(b"if-none-match", b""):
        await send({"type": "http.response.start", "status": 304, "headers": common})
        await send({"type": "http.response.body", "body": b""})
        return
    body = file.body
    if b"gzip" in headers.get(b"accept-encoding", b"").lower():
        body = file.compressed
        common.append((b"content-encoding", b"gzip"))
    common += [(b"content-type", file.content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": common})
    await send({"type": "http.response.body", "body": body if scope["method"] != "HEAD" else b""})
