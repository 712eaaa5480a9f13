"""Errors as bodies and headers of HTTP answers."""

from schemas.cohere.errors import AliasErrorBody
from schemas.cohere.errors import encode_error as encode_cohere_error
from schemas.openai.errors import Error, ErrorBody, encode_error
from translators.core.errors import Failure

NATIVE_PREFIX = "/cohere/"


ALIAS_PREFIX = "/litellm/cohere/"
"""Where Cohere's own API is: what is below speaks Cohere's language, in errors, too."""


def body(failure: Failure, path: str) -> bytes:
    """Returns the failure in the shape of the API that this path belongs to.

    On native routes that is Cohere's, with our code beside it; elsewhere it is OpenAI's.
    """
    # With a slash, so that `/litellm/cohere` itself counts.
    if f"{path}/".startswith(ALIAS_PREFIX):
        return encode_cohere_error(AliasErrorBody(failure.message, failure.type, failure.code))
    if f"{path}/".startswith(NATIVE_PREFIX):
        return encode_cohere_error(AliasErrorBody(failure.message, code=failure.code))
    return encode_error(ErrorBody(Error(failure.message, failure.type, failure.param, failure.code)))


def headers(failure: Failure, retry_after: str | None) -> list[tuple[bytes, bytes]]:
    """Headers that steer the SDKs' own retries."""
    error_headers = [(b"content-type", b"application/json")]
    if failure.should_retry is not None:
        error_headers.append((b"x-should-retry", b"true" if failure.should_retry else b"false"))
    if retry_after:
        error_headers.append((b"retry-after", retry_after.encode("latin-1")))
    return error_headers
