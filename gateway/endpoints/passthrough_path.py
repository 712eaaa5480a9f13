"""A native URL: which path of Cohere's it means, and that it can mean no other. Pure.

Decided on the bytes of the request's target (`raw_path`), never on a decoded path, since what goes to Cohere is
these bytes: an encoded slash in an id arrives encoded. What a server further on might read as another path than we
do (dot segments, empty ones, backslashes, control characters) is refused, so that no path leaves the configured
base URL or gets past what is decided by it.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from msgspec import Struct
from starlette.types import Scope

from gateway.errors import CallerError, failure
from gateway.http.error_responses import ALIAS_PREFIX, NATIVE_PREFIX

SPELLINGS: Mapping[str, re.Pattern[str]] = {
    # base URL with a version, where the SDK adds its own
    "": re.compile(r"/v[12](?=/v[12]/)"),
    # base URL without one, for programs whose paths have none
    "/v1": re.compile(r"(?=/(?:chat|embed|rerank)/?\Z)"),
}
"""What replaces the beginning of a path that fits (docs/native-api.md#paths)."""

# Nothing in an ordinary path needs a second look; `/.` begins a dot segment.
_ORDINARY = re.compile(r"(?:/[A-Za-z0-9_~:@!$&'()*+,=-][A-Za-z0-9._~:@!$&'()*+,=-]*)+/?\Z")
_VISIBLE = re.compile(rb"[\x21-\x7e]*\Z")
# Each server on the way may decode a path once. What changes after so many times was written to get past one of them.
_DECODINGS = 3


class Address(Struct, frozen=True):
    """path: of Cohere's, as the caller wrote it; target: with the query string. alias: the more lenient prefix."""

    path: str
    target: str
    alias: bool


def address_of(scope: Scope) -> Address:
    """Returns the address that a request to a native route means. Raises CallerError."""
    raw, query = scope["raw_path"], scope["query_string"]
    return _often(raw, query) if len(raw) + len(query) <= _SHORT else _read(raw, query)


def _read(raw: bytes, query: bytes) -> Address:
    if not _VISIBLE.match(raw) or not _VISIBLE.match(query) or b"#" in raw or b"#" in query:
        raise _refused("characters that no URL has")
    written = raw.decode("ascii")
    alias = written.startswith(ALIAS_PREFIX)
    prefix = ALIAS_PREFIX if alias else NATIVE_PREFIX
    if not written.startswith(prefix):
        # The route was found in the decoded path, so the prefix itself is encoded: nobody writes that.
        raise CallerError(failure("not_found", "There is nothing at this URL"))
    # A base URL that ends in a slash puts two of them here.
    path = "/" + written[len(prefix) :].lstrip("/")
    if not _ORDINARY.match(path):
        _judge(path)
    for better, pattern in SPELLINGS.items():
        path = pattern.sub(better, path, 1) if pattern.match(path) else path
    return Address(path, f"{path}?{query.decode('ascii')}" if query else path, alias)


# Nearly all calls go to a handful of addresses.
# Long ones are not cached: a thousand of 8 KiB would be 8 MB, and few of them come twice.
_often = lru_cache(1024)(_read)
_SHORT = 200


def model_in_path(path: str) -> str:
    """Returns the model that a path of Cohere's ends in, decoded."""
    return unquote_to_bytes(path.rstrip("/").rpartition("/")[2]).decode("utf-8", "replace")


def _judge(path: str) -> None:
    """Raises CallerError for what might be another path to somebody else, decoded as often as one might."""
    decoded = path.encode("ascii")
    for _ in range(_DECODINGS):
        if any(byte < 0x20 or byte == 0x7F for byte in decoded):
            raise _refused("control characters")
        if b"\\" in decoded:
            raise _refused("backslashes")
        # Some servers cut a segment at its semicolon before they look whether it is dots.
        segments = [segment.partition(b";")[0] for segment in decoded.split(b"/")]
        if b"." in segments or b".." in segments:
            raise _refused("dot segments")
        # Not the first, before the leading slash, and not the last: a path may end in a slash.
        if b"" in segments[1:-1]:
            raise _refused("empty segments")
        again = unquote_to_bytes(decoded)
        if again == decoded:
            return
        decoded = again
    raise _refused("characters encoded over and over")


def _refused(what: str) -> CallerError:
    return CallerError(failure("bad_request", f"The URL's path has {what}, which are not passed on"))
