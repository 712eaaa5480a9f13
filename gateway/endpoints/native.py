"""The endpoint of Cohere's native API: bytes through in both directions, nothing held back, counts read on the side.

The caller's method, path, query, body and headers go to Cohere as they came, but for the table of headers below;
Cohere's status, headers and body come back so. Which method of Cohere's it is only names the request in log and
metrics. Two answers are not Cohere's own: what the gateway itself refuses, and what Cohere says of the server's own
key, which is not the caller's affair; both have Cohere's shape.
"""

import time
from collections.abc import Iterable, Mapping, Sequence

from starlette.types import Receive, Scope, Send

from gateway import exchange
from gateway.access import methods
from gateway.access.caller import Caller
from gateway.access.methods import Method
from gateway.endpoints.address import Address, address_of
from gateway.endpoints.endpoint import note_headers
from gateway.endpoints.tally import Tally
from gateway.errors import CallerError, UpstreamError, failure
from gateway.exchange import Exchange
from gateway.front import body
from gateway.front.departure import Departure
from gateway.front.edge import JOINED
from gateway.operations import native_asked, native_counted, native_inputs, native_pieces, native_rewritten
from gateway.serving import Services, take_down
from gateway.upstream.reply import Passage, Reply
from translators.notes import Notes
from translators.refusals import refusal
from translators.turn import FAILED_REASONS

HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
"""What concerns one connection only (RFC 9110 §7.6.1), beside whatever `connection` itself names."""

NOT_SENT = HOP_BY_HOP | {
    # the caller's credentials: the key that serves them is added
    *(b"authorization", b"x-api-key", b"api-key", b"proxy-authorization", b"cookie"),
    # said anew for this connection; `expect` was answered by the server
    *(b"host", b"content-length", b"expect", b"accept-encoding"),
    # where callers are, and which pages they look at, is nothing that Cohere is told
    *(b"forwarded", b"via", b"x-real-ip", b"true-client-ip", b"cf-connecting-ip", b"origin", b"referer"),
    # for the gateway itself
    b"x-request-id",
}
NOT_SENT_PREFIXES = (b"x-forwarded-", b"x-gateway-", b"sec-")

NOT_RETURNED = HOP_BY_HOP | {
    b"set-cookie",
    b"proxy-authenticate",
    # what Cohere's servers say of their own address; ours has another
    *(b"alt-svc", b"strict-transport-security"),
    # the guard's, on every answer
    *(b"date", b"x-request-id", b"x-cohere-trace-id"),
}
NOT_RETURNED_PREFIXES = (b"x-gateway-", b"access-control-")
"""Which pages may read an answer is the setting `cors_origins`, whatever Cohere allows."""

STREAMS = (b"text/event-stream", b"application/stream+json", b"application/x-ndjson")

OWN_KEY_REFUSED = (401, 402, 403)
"""Statuses that are about a key."""


class NativeEndpoint:
    """Everything below `/cohere/` and `/litellm/cohere/`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, known, verb = self._services, exchange.of(scope), scope["method"]
        known.operation = methods.OTHER.operation
        address = address_of(scope)
        if verb not in methods.VERBS:
            raise _wrong_method()
        method = methods.find(verb, address.path)
        if not methods.agrees(verb, address.path, method):
            raise CallerError(failure("bad_request", "The URL's path might be read as another one"))
        known.operation = method.operation
        headers: Mapping[bytes, bytes] = scope["gateway.headers"]
        settings = services.settings
        limit, patience = settings.upload_limit, settings.timeouts.request_body
        held: bytes | None = None
        uploading = not _empty(headers) and method.takes != "json"
        notes = Notes()
        if uploading:
            body.refuse_declared(scope, limit)
        elif method.takes == "json":
            held = await body.read(scope, receive, settings.body_limit, patience) or None
            held, notes = self._looked_into(held, method, address, headers, known)
        async with Departure(receive, listening=not uploading) as departure:
            upload = body.Pieces(receive, limit, patience, departure) if uploading else None
            sent = list(_sent(scope["headers"], headers, known.streamed, upload is not None))
            passage = Passage(verb, address.target, sent, held if upload is None else upload)
            caller: Caller = scope["gateway.caller"]
            known.upstream_began = time.monotonic()
            try:
                weight = native_inputs(held) if held is not None and method.rate.counts == "inputs" else 1
                carrying = services.upstream.carry(
                    passage, caller, address.path, known.model, method.repeatable, weight
                )
                async with carrying as reply:
                    take_down(reply, known, notes)
                    if reply.status in OWN_KEY_REFUSED and not caller.own_key:
                        raise UpstreamError(refusal(reply.status, await reply.said(), own_key=False))
                    await self._relay(reply, known, send, departure, notes)
            finally:
                known.upstream_ended = time.monotonic()

    def _looked_into(
        self, held: bytes | None, method: Method, address: Address, headers: Mapping[bytes, bytes], known: Exchange
    ) -> tuple[bytes | None, Notes]:
        """The body to send, and what the caller is to be told of it."""
        notes = Notes()
        if held is None or b"content-encoding" in headers:
            return held, notes
        if address.alias and method.name == "v2.chat":
            held, notes = native_rewritten(held, self._services.policy)
            known.notes = len(notes)
            if known.notes:
                self._services.metrics.note(method.operation, notes)
        known.model, known.streamed = native_asked(held)
        return held, notes

    async def _relay(self, reply: Reply, known: Exchange, send: Send, departure: Departure, notes: Notes) -> None:
        """The answer as it comes, one send for each network read. Its head waits for the first of them."""
        headers = [*_returned(reply.headers), *note_headers(notes)]
        kind, encoding = _kind(headers)
        known.streamed = kind.startswith(STREAMS)
        counted = kind.startswith((b"application/json", *STREAMS)) and encoding in (b"", b"gzip")
        tally = Tally(encoding == b"gzip") if counted else None
        try:
            block = await reply.read()
            known.first_byte = time.monotonic()
            await send({"type": "http.response.start", "status": reply.status, "headers": headers, JOINED: True})
            while block and not reply.over:
                await send({"type": "http.response.body", "body": block, "more_body": True})
                if tally is not None:
                    tally.take(block)
                block = await reply.read()
            departure.over()
            await send({"type": "http.response.body", "body": block, "more_body": False})
            if tally is not None:
                tally.take(block)
        finally:
            if tally is not None:
                kept = tally.kept()
                outcome = native_counted(kept, known.streamed, self._services.policy.usage_base)
                broken = known.streamed and not departure.is_over
                exchange.used(known, outcome, round(native_pieces(kept) / tally.share) if broken else 0)
                if (failed := FAILED_REASONS.get(outcome.finish)) is not None:
                    known.error = failed.code or failed.type


def _sent(
    given: Sequence[tuple[bytes, bytes]], headers: Mapping[bytes, bytes], streamed: bool, uploading: bool
) -> Iterable[tuple[str, str]]:
    """The caller's headers as Cohere gets them."""
    named = _named(*(value for name, value in given if name == b"connection")) if b"connection" in headers else ()
    for name, value in given:
        if name in NOT_SENT or name in named or name.startswith(NOT_SENT_PREFIXES):
            continue
        yield name.decode("latin-1"), _text(value)
    if uploading and b"content-length" in headers:
        yield "content-length", headers[b"content-length"].decode("ascii")
    if b"accept-encoding" in headers:
        # What else callers accept could not be read on the side; a stream would be held back by its compression.
        packed = not streamed and b"gzip" in headers[b"accept-encoding"].lower()
        yield "accept-encoding", "gzip" if packed else "identity"


def _returned(given: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Cohere's headers as the caller gets them."""
    returned: list[tuple[bytes, bytes]] = []
    named: frozenset[bytes] = frozenset()
    for name, value in given:
        name = name.lower()
        if name in NOT_RETURNED:
            if name == b"connection":
                named |= _named(value)
        elif not name.startswith(NOT_RETURNED_PREFIXES):
            returned.append((name, value))
    return [pair for pair in returned if pair[0] not in named] if named else returned


def _named(*connection: bytes) -> frozenset[bytes]:
    """The headers that `connection` headers declare to be for this connection only."""
    return frozenset(name.strip().lower() for value in connection for name in value.split(b","))


def _kind(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """What an answer says it is, and how it is compressed."""
    kind = encoding = b""
    for name, value in headers:
        if name == b"content-type":
            kind = value.lower()
        elif name == b"content-encoding":
            encoding = value.strip().lower()
    return kind, encoding


def _text(value: bytes) -> str:
    """The client library writes headers as UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _empty(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the request has no body (RFC 9112 §6.3)."""
    return headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers


def _wrong_method() -> CallerError:
    told = CallerError(failure("wrong_method", "This method is not passed on"))
    told.allow = ", ".join(methods.VERBS)
    return told
