"""Which headers go to Cohere, and which come back."""

from collections.abc import Iterable, Mapping, Sequence

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
