"""Which headers go to Cohere, and which come back."""

from collections.abc import Iterable, Mapping, Sequence

HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
"""What concerns one connection only (RFC 9110 §7.6.1), beside whatever `connection` itself names."""


NOT_SENT = HOP_BY_HOP | {
    # the caller's credentials: the key that serves them is added
    *(b"authorization", b"x-api-key", b"api-key", b"proxy-authorization", b"cookie"),
    # credentials that other gateways, API managers and clouds take: a client that was moved here may still send them
    *(b"x-goog-api-key", b"apikey", b"x-apikey", b"ocp-apim-subscription-key", b"x-auth-token", b"x-access-token"),
    *(b"x-amz-security-token", b"x-vercel-oidc-token", b"x-goog-iap-jwt-assertion", b"http-referer"),
    # set anew for this connection; `expect` was answered by the server
    *(b"host", b"content-length", b"expect", b"accept-encoding"),
    # where callers are, and which pages they look at, is not passed on to Cohere
    *(b"forwarded", b"via", b"x-real-ip", b"true-client-ip", b"cf-connecting-ip", b"origin", b"referer"),
    # for the gateway itself, and for whatever traces its callers (the setting `tracing.propagate`)
    *(b"x-request-id", b"traceparent", b"tracestate", b"baggage", b"sentry-trace", b"b3", b"uber-trace-id"),
    *(b"x-cloud-trace-context", b"x-amzn-trace-id"),
}


NOT_SENT_PREFIXES = (
    *(b"x-forwarded-", b"x-gateway-", b"sec-", b"x-b3-", b"x-datadog-"),
    # credentials and settings of LiteLLM, Bifrost, Portkey, Cloudflare, Helicone, TrueFoundry and of load balancers
    *(b"x-litellm-", b"x-bf-", b"x-portkey-", b"cf-aig-", b"cf-access-", b"helicone-", b"x-tfy-", b"x-amzn-oidc-"),
)


NOT_RETURNED = HOP_BY_HOP | {
    b"set-cookie",
    b"proxy-authenticate",
    # about the address of Cohere's servers, which is not ours
    *(b"alt-svc", b"strict-transport-security"),
    # set by the middleware on every response
    *(b"date", b"x-request-id", b"x-cohere-trace-id"),
}


NOT_RETURNED_PREFIXES = (b"x-gateway-", b"access-control-")
"""Which pages may read a response is decided by the setting `cors_origins`, whatever Cohere allows."""


def request_headers(
    raw_headers: Sequence[tuple[bytes, bytes]], headers: Mapping[bytes, bytes], streamed: bool, uploading: bool
) -> Iterable[tuple[str, str]]:
    """Yields the caller's headers as Cohere gets them. headers: the same by lower-case name."""
    connection_names: frozenset[bytes] = frozenset()
    if b"connection" in headers:
        connection_names = _connection_names(*(value for name, value in raw_headers if name == b"connection"))
    for name, value in raw_headers:
        if name in NOT_SENT or name in connection_names or name.startswith(NOT_SENT_PREFIXES):
            continue
        yield name.decode("latin-1"), _decoded(value)
    # A body in memory has its length from the client. An upload's is known from nowhere but here.
    if uploading and b"content-length" in headers:
        yield "content-length", headers[b"content-length"].decode("ascii")
    if b"accept-encoding" in headers:
        # Other encodings that callers accept could not be read on the side. Compression would hold a stream back.
        gzip = not streamed and b"gzip" in headers[b"accept-encoding"].lower()
        yield "accept-encoding", "gzip" if gzip else "identity"


def response_headers(raw_headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Returns Cohere's headers as the caller gets them."""
    returned: list[tuple[bytes, bytes]] = []
    connection_names: frozenset[bytes] = frozenset()
    for name, value in raw_headers:
        # In lower case: a server may write its headers in any, and ASGI wants them so.
        name = name.lower()
        if name in NOT_RETURNED:
            if name == b"connection":
                connection_names |= _connection_names(value)
        elif not name.startswith(NOT_RETURNED_PREFIXES):
            returned.append((name, value))
    return [pair for pair in returned if pair[0] not in connection_names] if connection_names else returned


def _connection_names(*connection: bytes) -> frozenset[bytes]:
    """Returns the headers that `connection` headers declare to be for this connection only."""
    return frozenset(name.strip().lower() for value in connection for name in value.split(b","))


def content_type_and_encoding(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """Returns the content type and the content encoding of a response, in lower case, empty where absent."""
    kind = encoding = b""
    for name, value in headers:
        if name == b"content-type":
            kind = value.lower()
        elif name == b"content-encoding":
            encoding = value.strip().lower()
    return kind, encoding


def _decoded(value: bytes) -> str:
    """Decodes a header's value. The client library encodes headers as UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def has_no_body(headers: Mapping[bytes, bytes]) -> bool:
    """Tells whether the request has no body (RFC 9112 §6.3)."""
    return headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers
