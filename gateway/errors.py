"""THE TABLE OF ERRORS of the gateway itself: what went wrong -> what the caller is told.

Every failure becomes a `translators.core.errors.Failure`; nothing else builds an error body.

    TranslationError (translators)   carries its own Failure
    CallerError                      the caller did it: who they are, what they sent, where to
    UpstreamError                    Cohere said no, or nobody said anything
    CallerLeft                       nobody is there to be told
Anything else is our own bug: 500, logged with the request id, and the body says nothing about internals.
"""

from collections.abc import Mapping

from msgspec import Struct

from translators.core.errors import Failure, TranslationError
from translators.core.faults import Fault


class GatewayError(Exception):
    """The base of the exceptions that become an error response."""

    def __init__(self, failure: Failure, retry_after: str | None = None) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.retry_after = retry_after
        self.allow: str | None = None  # the methods that a URL takes
        self.closes = False  # the connection is not to be used again


class CallerError(GatewayError):
    """The request cannot be served. Cohere is not called."""


class UpstreamError(GatewayError):
    """Cohere refused, could not be reached, or fell silent.

    cause: what happened to the connection ("unreachable", "silent", "cut"), empty if it was something else.
    """

    def __init__(self, failure: Failure, retry_after: str | None = None, cause: str = "") -> None:
        super().__init__(failure, retry_after)
        self.cause = cause


class AnswerRefused(UpstreamError):
    """A 200 response that turned out to be an error, before anything of it was sent to the caller."""


# No GatewayError, as there is no response to it.
class CallerLeft(Exception):
    """The caller closed the connection."""


class Meaning(Struct, frozen=True):
    """Status, type and code of an error response. when: what has happened, for the documentation."""

    status: int
    type: str
    code: str
    when: str
    fault: Fault


# OpenAI's types of errors.
_INVALID, _SERVER, _LIMIT = "invalid_request_error", "server_error", "rate_limit_error"

ERRORS: Mapping[str, Meaning] = {
    "bad_request": Meaning(
        400, _INVALID, "bad_request", "the request cannot be processed; the message says why", Fault.CALLER_REQUEST
    ),
    # A record that was deleted stays for reports, and so does its id.
    "name_taken": Meaning(
        400,
        _INVALID,
        "already_exists",
        "another key, team or end user has this name, or had it",
        Fault.CALLER_REQUEST,
    ),
    "two_credentials": Meaning(
        400, _INVALID, "two_credentials", "the request has two different API keys", Fault.CALLER_CREDENTIALS
    ),
    "secret_in_url": Meaning(
        400, _INVALID, "secret_in_url", "the master key is in the URL, which others log", Fault.CALLER_CREDENTIALS
    ),
    "unsupported": Meaning(
        400,
        "UnsupportedOperationError",
        "unsupported_operation",
        "Cohere has nothing like this operation",
        Fault.CALLER_REQUEST,
    ),
    "too_many_lanes": Meaning(
        400,
        _INVALID,
        "websocket_stream_limit_reached",
        "too many values of `stream_id` on a WebSocket",
        Fault.CALLER_REQUEST,
    ),
    "too_many_waiting": Meaning(
        400,
        _INVALID,
        "websocket_queue_limit_reached",
        "too many requests are queued on a WebSocket",
        Fault.CALLER_REQUEST,
    ),
    "missing_key": Meaning(
        401,
        "authentication_error",
        "missing_api_key",
        "no API key was sent, and one is required",
        Fault.CALLER_CREDENTIALS,
    ),
    "wrong_key": Meaning(
        401,
        "authentication_error",
        "invalid_api_key",
        "the API key is not valid for this gateway",
        Fault.CALLER_CREDENTIALS,
    ),
    "session_over": Meaning(
        401,
        "authentication_error",
        "session_over",
        "the console's session is over: signed out, idle for too long, or its key is not valid any more",
        Fault.CALLER_CREDENTIALS,
    ),
    "csrf": Meaning(
        403,
        "permission_error",
        "csrf_token_missing",
        "a request of the console's session lacks its CSRF token",
        Fault.CALLER_CREDENTIALS,
    ),
    "key_blocked": Meaning(403, "permission_error", "key_blocked", "the API key is blocked", Fault.POLICY_BLOCKED),
    "team_blocked": Meaning(
        403, "permission_error", "team_blocked", "the key's team is blocked, or was deleted", Fault.POLICY_BLOCKED
    ),
    "method_not_permitted": Meaning(
        403,
        "permission_error",
        "method_not_permitted",
        "the key's `permissions` do not allow this method of Cohere's",
        Fault.POLICY_PERMISSION,
    ),
    "model_not_permitted": Meaning(
        403,
        "permission_error",
        "model_not_permitted",
        "the key's `models` do not allow this model",
        Fault.POLICY_PERMISSION,
    ),
    "end_user_blocked": Meaning(
        403,
        "permission_error",
        "end_user_blocked",
        "the end user whom the request names is blocked",
        Fault.POLICY_BLOCKED,
    ),
    "foreign_address": Meaning(
        403,
        "permission_error",
        "address_not_allowed",
        "the caller's address is not in the key's `allowed_ips`",
        Fault.POLICY_BLOCKED,
    ),
    "role_missing": Meaning(
        403, "permission_error", "role_not_allowed", "the caller may not manage this", Fault.POLICY_PERMISSION
    ),
    "price_unknown": Meaning(
        403,
        "permission_error",
        "price_unknown",
        "a budget applies, and the price of the model is not known",
        Fault.POLICY_BUDGET,
    ),
    "foreign_origin": Meaning(
        403, "permission_error", "origin_not_allowed", "the origin is not in `cors_origins`", Fault.POLICY_ORIGIN
    ),
    "foreign_host": Meaning(
        403, "permission_error", "host_not_allowed", "the host is not in `allowed_hosts`", Fault.POLICY_ORIGIN
    ),
    "not_found": Meaning(404, _INVALID, "unknown_url", "there is nothing at this URL", Fault.CALLER_REQUEST),
    "no_bodies": Meaning(
        404, _INVALID, "bodies_not_found", "the ledger has no bodies of this call", Fault.CALLER_REQUEST
    ),
    "no_previous": Meaning(
        404,
        _INVALID,
        "previous_response_not_found",
        "the caller has no stored response with this id",
        Fault.CALLER_REQUEST,
    ),
    "no_response": Meaning(
        404, _INVALID, "response_not_found", "the caller has no stored response with this id", Fault.CALLER_REQUEST
    ),
    "no_conversation": Meaning(
        404, _INVALID, "conversation_not_found", "the caller has no conversation with this id", Fault.CALLER_REQUEST
    ),
    "no_item": Meaning(
        404, _INVALID, "item_not_found", "the caller has no stored item with this id", Fault.CALLER_REQUEST
    ),
    "no_management": Meaning(
        404,
        _INVALID,
        "management_not_available",
        "keys are managed where the setting `master_key` is set",
        Fault.CALLER_REQUEST,
    ),
    "no_key": Meaning(404, _INVALID, "key_not_found", "there is no such key", Fault.CALLER_REQUEST),
    "no_team": Meaning(404, _INVALID, "team_not_found", "there is no such team", Fault.CALLER_REQUEST),
    "no_end_user": Meaning(
        404, _INVALID, "end_user_not_found", "nothing was recorded of this end user", Fault.CALLER_REQUEST
    ),
    "wrong_method": Meaning(
        405,
        _INVALID,
        "method_not_allowed",
        "the URL does not accept this method; `allow` lists those that it does",
        Fault.CALLER_REQUEST,
    ),
    "slow_body": Meaning(
        408, _INVALID, "request_timeout", "the body arrived too slowly (`timeouts.request_body`)", Fault.CALLER_REQUEST
    ),
    "body_too_large": Meaning(
        413,
        _INVALID,
        "request_too_large",
        "the body is larger than `body_limit`, or than the limit for its kind",
        Fault.CALLER_REQUEST,
    ),
    "target_too_long": Meaning(414, _INVALID, "uri_too_long", "the URL is longer than 8 KiB", Fault.CALLER_REQUEST),
    "wrong_content_type": Meaning(
        415,
        _INVALID,
        "unsupported_media_type",
        "the content type is not supported, or the body is compressed",
        Fault.CALLER_REQUEST,
    ),
    "socket_share": Meaning(
        429,
        _LIMIT,
        "websocket_connection_limit_reached",
        "the caller has `max_websockets_per_caller` of them open",
        Fault.POLICY_CAPACITY,
    ),
    "background_share": Meaning(
        429,
        _LIMIT,
        "too_many_in_background",
        "the caller has `max_background_responses_per_caller` under way",
        Fault.POLICY_CAPACITY,
    ),
    "memory_share": Meaning(
        429,
        _LIMIT,
        "too_many_bytes",
        "the caller's requests hold their share of the memory (`memory.caller_share`)",
        Fault.POLICY_CAPACITY,
    ),
    # A fault of the provider's: it is Cohere that grants no more.
    "keys_spent": Meaning(
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
        "every Cohere key is at its rate limit",
        Fault.PROVIDER_RATE_LIMIT,
    ),
    "limit_reached": Meaning(
        429,
        _LIMIT,
        "rate_limit_exceeded",
        "a limit of the key, its team, the end user or the gateway is reached",
        Fault.POLICY_RATE_LIMIT,
    ),
    "too_many_exports": Meaning(
        429,
        _LIMIT,
        "too_many_exports",
        "as many files of calls as one worker writes at a time are being written",
        Fault.POLICY_CAPACITY,
    ),
    "too_many_sign_ins": Meaning(
        429,
        _LIMIT,
        "rate_limit_exceeded",
        "too many attempts to sign in to the console",
        Fault.CALLER_CREDENTIALS,
    ),
    # OpenAI's own type and code for credit that is spent.
    "budget_spent": Meaning(
        429,
        "insufficient_quota",
        "insufficient_quota",
        "a budget of one of them is spent; the message says until when",
        Fault.POLICY_BUDGET,
    ),
    "head_too_large": Meaning(
        431, _INVALID, "headers_too_large", "more than 32 KiB of headers, or more than 100", Fault.CALLER_REQUEST
    ),
    "internal": Meaning(
        500, _SERVER, "internal_error", "a bug in the gateway; its log has the details", Fault.GATEWAY_INTERNAL
    ),
    # The status that RFC 9112 §6.1 asks for.
    "unknown_coding": Meaning(
        501, _INVALID, "unsupported_transfer_coding", "the transfer coding is not `chunked`", Fault.CALLER_REQUEST
    ),
    "unreachable": Meaning(
        502, _SERVER, "upstream_unreachable", "the gateway could not connect to Cohere", Fault.PROVIDER_UNAVAILABLE
    ),
    "cut": Meaning(502, _SERVER, "upstream_cut", "Cohere's answer broke off", Fault.PROVIDER_UNAVAILABLE),
    "no_storage": Meaning(503, _SERVER, "storage_unavailable", "the database does not answer", Fault.GATEWAY_STORAGE),
    "limits_unavailable": Meaning(
        503,
        _SERVER,
        "limits_unavailable",
        "limits cannot be checked, and `limits.on_failure` is `refuse`",
        Fault.GATEWAY_STORAGE,
    ),
    "no_ledger": Meaning(
        503,
        _SERVER,
        "ledger_unavailable",
        "the ledger cannot be written, and calls are refused then (`ledger.on_failure`)",
        Fault.GATEWAY_STORAGE,
    ),
    "background_full": Meaning(
        503, _SERVER, "too_many_in_background", "too many background responses are queued", Fault.GATEWAY_OVERLOAD
    ),
    "not_ready": Meaning(503, _SERVER, "not_ready", "the gateway is starting or stopping", Fault.GATEWAY_SHUTDOWN),
    "too_many_sockets": Meaning(
        503,
        _SERVER,
        "websocket_connection_limit_reached",
        "`max_websockets` connections are open",
        Fault.GATEWAY_OVERLOAD,
    ),
    "busy": Meaning(
        503,
        _SERVER,
        "too_many_calls",
        "too many calls to Cohere are in flight (`concurrency`), or too many large requests are being read (`offload`)",
        Fault.GATEWAY_OVERLOAD,
    ),
    "no_descriptors": Meaning(
        503, _SERVER, "out_of_descriptors", "too many files and connections are open (`ulimit`)", Fault.GATEWAY_OVERLOAD
    ),
    "memory_full": Meaning(
        503,
        _SERVER,
        "too_many_bytes",
        "all requests together hold too much (`memory.max_bytes`)",
        Fault.GATEWAY_OVERLOAD,
    ),
    # The provider's fault, too, though it was not asked: its failures have opened the breaker.
    "circuit_open": Meaning(
        503,
        _SERVER,
        "circuit_open",
        "Cohere fails too often and is left alone for a while (`breaker`)",
        Fault.PROVIDER_UNAVAILABLE,
    ),
    "stopping": Meaning(
        503, _SERVER, "gateway_stopping", "the gateway stopped before the answer was complete", Fault.GATEWAY_SHUTDOWN
    ),
    "silent": Meaning(
        504, _SERVER, "upstream_timeout", "Cohere did not answer in time (`timeouts`)", Fault.PROVIDER_TIMEOUT
    ),
    "storage_full": Meaning(
        507,
        _SERVER,
        "storage_limit_reached",
        "`max_stored_bytes`, or a caller's share, is stored",
        Fault.POLICY_CAPACITY,
    ),
    "unknown_version": Meaning(
        505, _INVALID, "unsupported_http_version", "the request is not HTTP/1.0 or HTTP/1.1", Fault.CALLER_REQUEST
    ),
}
"""The gateway's own errors. Cohere's refusals have their table in `translators/core/upstream_errors.py`."""


def failure(name: str, message: str) -> Failure:
    """Returns a row of ERRORS with its sentence."""
    meaning = ERRORS[name]
    return Failure(meaning.status, message, meaning.type, meaning.code, fault=meaning.fault)


# One object, by which the log knows a bug of ours (`access_log.py`).
INTERNAL = failure("internal", "The gateway failed; its log has the details under this request's id")


def failure_of(error: Exception) -> Failure:
    """Returns what the caller is told of an exception; INTERNAL for one that is a bug of ours."""
    if isinstance(error, TranslationError | GatewayError):
        return error.failure
    # The parser of JSON raises it for a body that is nested deeper than its stack is.
    if isinstance(error, RecursionError):
        return failure("bad_request", "The request body is nested too deeply")
    return INTERNAL
