"""THE TABLE OF ERRORS at the door: what went wrong -> what the caller is told.

Every failure becomes a `translators.errors.Failure`; nothing else builds an error body.

    TranslationError (translators)   carries its own Failure
    CallerError                      the caller did it: who they are, what they sent, where to
    UpstreamError                    Cohere said no, or nobody said anything
    CallerLeft                       nobody is there to be told
Anything else is our own bug: 500, logged with the request id, and the body says nothing about internals.
"""

from collections.abc import Mapping

from msgspec import Struct

from schemas.cohere.errors import ErrorBody as CohereErrorBody
from schemas.cohere.errors import encode_error as encode_cohere_error
from schemas.openai.errors import Error, ErrorBody, encode_error
from translators.errors import Failure, TranslationError

NATIVE_PREFIX = "/cohere/"
ALIAS_PREFIX = "/litellm/cohere/"
"""Where Cohere's own API is: what is below speaks Cohere's language, in errors, too."""


class GatewayError(Exception):
    """The base of this room's exceptions that a caller is told of."""

    def __init__(self, failure: Failure, retry_after: str | None = None) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.retry_after = retry_after
        self.allow: str | None = None  # the methods that a URL takes
        self.closes = False  # the connection is not to be used again


class CallerError(GatewayError):
    """The request cannot be served, whatever Cohere might say."""


class UpstreamError(GatewayError):
    """Cohere refused, could not be reached, or fell silent.

    cause: what happened to the connection ("unreachable", "silent", "cut"), empty if it was something else.
    """

    def __init__(self, failure: Failure, retry_after: str | None = None, cause: str = "") -> None:
        super().__init__(failure, retry_after)
        self.cause = cause


class AnswerRefused(UpstreamError):
    """An answer that began with 200 and is none, before anything of it was told."""


class CallerLeft(Exception):
    """The caller closed the connection."""


class Meaning(Struct, frozen=True):
    status: int
    type: str
    code: str


ERRORS: Mapping[str, Meaning] = {
    "bad_request": Meaning(400, "invalid_request_error", "bad_request"),
    "two_credentials": Meaning(400, "invalid_request_error", "two_credentials"),
    "unsupported": Meaning(400, "UnsupportedOperationError", "unsupported_operation"),
    "missing_key": Meaning(401, "authentication_error", "missing_api_key"),
    "wrong_key": Meaning(401, "authentication_error", "invalid_api_key"),
    "foreign_origin": Meaning(403, "permission_error", "origin_not_allowed"),
    "not_found": Meaning(404, "invalid_request_error", "unknown_url"),
    "no_previous": Meaning(404, "invalid_request_error", "previous_response_not_found"),
    "no_response": Meaning(404, "invalid_request_error", "response_not_found"),
    "no_conversation": Meaning(404, "invalid_request_error", "conversation_not_found"),
    "no_item": Meaning(404, "invalid_request_error", "item_not_found"),
    "wrong_method": Meaning(405, "invalid_request_error", "method_not_allowed"),
    "slow_body": Meaning(408, "invalid_request_error", "request_timeout"),
    "body_too_large": Meaning(413, "invalid_request_error", "request_too_large"),
    "target_too_long": Meaning(414, "invalid_request_error", "uri_too_long"),
    "wrong_content_type": Meaning(415, "invalid_request_error", "unsupported_media_type"),
    "too_many_lanes": Meaning(400, "invalid_request_error", "websocket_stream_limit_reached"),
    "too_many_waiting": Meaning(400, "invalid_request_error", "websocket_queue_limit_reached"),
    "keys_spent": Meaning(429, "rate_limit_error", "rate_limit_exceeded"),
    "head_too_large": Meaning(431, "invalid_request_error", "headers_too_large"),
    "internal": Meaning(500, "server_error", "internal_error"),
    "unknown_coding": Meaning(501, "invalid_request_error", "unsupported_transfer_coding"),
    "unreachable": Meaning(502, "server_error", "upstream_unreachable"),
    "cut": Meaning(502, "server_error", "upstream_cut"),
    "no_storage": Meaning(503, "server_error", "storage_unavailable"),
    "background_full": Meaning(503, "server_error", "too_many_in_background"),
    "not_ready": Meaning(503, "server_error", "not_ready"),
    "too_many_sockets": Meaning(503, "server_error", "websocket_connection_limit_reached"),
    "busy": Meaning(503, "server_error", "too_many_calls"),
    "circuit_open": Meaning(503, "server_error", "circuit_open"),
    "stopping": Meaning(503, "server_error", "gateway_stopping"),
    "silent": Meaning(504, "server_error", "upstream_timeout"),
    "unknown_version": Meaning(505, "invalid_request_error", "unsupported_http_version"),
}
"""The gateway's own errors. Cohere's refusals have their table in `translators/refusals.py`."""


def failure(name: str, message: str) -> Failure:
    """A row of ERRORS with its sentence."""
    meaning = ERRORS[name]
    return Failure(meaning.status, message, meaning.type, meaning.code)


INTERNAL = failure("internal", "The gateway failed; its log has the details under this request's id")


def failure_of(error: Exception) -> Failure:
    """What the caller is told of this exception."""
    if isinstance(error, TranslationError | GatewayError):
        return error.failure
    if isinstance(error, RecursionError):
        return failure("bad_request", "The request body is nested too deeply")
    return INTERNAL


def body(told: Failure, path: str) -> bytes:
    """The failure in the shape of the API that this path belongs to: Cohere's on native routes, else OpenAI's."""
    if f"{path}/".startswith((NATIVE_PREFIX, ALIAS_PREFIX)):
        return encode_cohere_error(CohereErrorBody(told.message))
    return encode_error(ErrorBody(Error(told.message, told.type, told.param, told.code)))


def headers(told: Failure, retry_after: str | None) -> list[tuple[bytes, bytes]]:
    """Headers that steer the SDKs' own retries."""
    found = [(b"content-type", b"application/json")]
    if told.retry is not None:
        found.append((b"x-should-retry", b"true" if told.retry else b"false"))
    if retry_after:
        found.append((b"retry-after", retry_after.encode("latin-1")))
    return found
