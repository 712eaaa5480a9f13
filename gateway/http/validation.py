"""What every request must look like before anything is decided about it: the guard asks this first.

h11 has read the request by then, and has refused most of what is no HTTP (`connection.py` has that told here). This
table is what h11 lets through and a gateway must not, because somebody in front of us may have read it differently
(RFC 9112 §11.2, request smuggling), or because it would be unbounded. Nothing is ever decided on a URL made of the
Host header: routes look at `scope["path"]`.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain

from starlette.types import Scope

from gateway.errors import CallerError, failure
from translators.core.errors import Failure

LARGEST_HEAD = 32 * 1024
"""Bytes of a request's line and headers. h11 keeps to it, too, where they come in pieces."""

# RFC 9112 §3 recommends 8,000 bytes for a request's line at least.
LONGEST_TARGET = 8 * 1024
MOST_HEADERS = 100

BROKEN = "gateway.broken"
"""The key under which the server tells what was wrong with bytes that are no request (a row of BROKE)."""

JOINED = "gateway.joined"
"""In the message with an answer's head: its body follows at once, so the two can leave together. Where the head has a
length this goes without saying.
"""

BOUNDED = "gateway.bounded"
"""In the scope of a request: its server has read a head of LARGEST_HEAD bytes at most, which need not be added up."""

BROKE: Mapping[str, Failure] = {
    "syntax": failure("bad_request", "The request is not HTTP/1.1"),
    "method": failure("bad_request", "The request's method is not in capitals: methods are case-sensitive"),
    "authority": failure("bad_request", "The request names no host, or two different ones"),
    "version": failure("unknown_version", "This server speaks HTTP/1.1"),
    "coding": failure("unknown_coding", "The only supported transfer coding is 'chunked', applied once"),
    "target": failure("target_too_long", f"The URL is longer than {LONGEST_TARGET} bytes"),
    "head": failure("head_too_large", f"The request's headers have more than {LARGEST_HEAD} bytes"),
    "body": failure("bad_request", "The request's body is not properly framed"),
    "pieces": failure("bad_request", "The request's body comes in thousands of pieces of a few bytes"),
}

_SINGLE = (b"host", b"content-length", b"transfer-encoding", b"content-type")
"""Headers that may come once: two readers would not agree on which one counts."""

# RFC 3986 §3.2.2 and §3.2.3: a name, an IPv4 address or an IPv6 address in brackets, and perhaps a port.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~%!$&'()*+,;=-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{0,5}))?\Z")
_CONTROL = re.compile("[\x00-\x1f\x7f]")

MOST_PORT = 65_535


class Malformed(CallerError):
    """A request that is refused for its form. Its connection is not used again: who knows what comes next on it."""

    def __init__(self, reported: Failure) -> None:
        super().__init__(reported)
        self.closes = True


def check(scope: Scope, headers: Mapping[bytes, bytes]) -> None:
    """Raises Malformed. headers: all of the request's, by lower-case name."""
    broken = scope.get("state", {}).get(BROKEN)
    if broken is not None:
        raise Malformed(BROKE[broken])
    _check_target(scope)
    _check_sizes(scope["headers"], headers, BOUNDED in scope)
    # HTTP/2 counts as modern: it has an authority, which the server hands over as `host`.
    modern = scope["http_version"] != "1.0"
    if b"transfer-encoding" in headers:
        # RFC 9112 §6.1: a request that has both ought to be handled as an error; and HTTP/1.0 knows no coding.
        if b"content-length" in headers:
            raise _malformed("The request has both a 'content-length' and a 'transfer-encoding' header")
        if not modern:
            raise _malformed("HTTP/1.0 has no transfer codings")
    host = headers.get(b"host")
    if host is not None:
        if not _is_host(host):
            raise _malformed("The 'host' header is neither a name nor an address")
    elif modern:
        raise _malformed("The request has no 'host' header")


def _check_target(scope: Scope) -> None:
    target: bytes = scope["raw_path"]
    # Absolute targets, `*` and those of CONNECT (RFC 9112 §3.2) would be decided on by another text than a path.
    if not target.startswith(b"/") or scope.get("method") == "CONNECT":
        raise _malformed("The request's target must be a path: this is not a proxy")
    if len(target) + len(scope["query_string"]) >= LONGEST_TARGET:
        raise Malformed(BROKE["target"])
    # Decoded, since `%0A` is a line end to whoever logs or routes by the path.
    # What is printable has none, and is told in half the time.
    path: str = scope["path"]
    if not path.isprintable() and _CONTROL.search(path):
        raise _malformed("The URL has control characters in its path")


@lru_cache(maxsize=64)
def _is_host(host: bytes) -> bool:
    """Tells whether a `host` header has the form of one; kept, since callers use few names for a gateway."""
    named = _HOST.match(host)
    return named is not None and int(named[1] or 0) <= MOST_PORT


def _check_sizes(headers_as_sent: Sequence[tuple[bytes, bytes]], headers: Mapping[bytes, bytes], bounded: bool) -> None:
    if len(headers_as_sent) > MOST_HEADERS:
        raise Malformed(failure("head_too_large", f"The request has more than {MOST_HEADERS} headers"))
    # Four more for each: a colon, a space, and the line's end.
    if not bounded and sum(map(len, chain.from_iterable(headers_as_sent))) + 4 * len(headers_as_sent) > LARGEST_HEAD:
        raise Malformed(BROKE["head"])
    # A mapping has each name once. Where it is as long as the list, none was repeated.
    if len(headers) != len(headers_as_sent):
        names = [name for name, _ in headers_as_sent]
        for single in _SINGLE:
            if names.count(single) > 1:
                raise _malformed(f"The request has more than one '{single.decode()}' header")


def has_body(headers: Mapping[bytes, bytes]) -> bool:
    """Tells whether a body was announced."""
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


def _malformed(message: str) -> Malformed:
    return Malformed(failure("bad_request", message))
