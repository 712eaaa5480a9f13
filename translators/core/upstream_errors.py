"""THE TABLE of Cohere's error statuses: the error that the caller gets for each.

It depends on whose Cohere key was used. Callers learn what is wrong with their own key; a broken key of the gateway's
is a 502 and an alert for its operator (docs/decisions.md#callers-learn-the-truth-about-their-own-key-only). Sources:
docs/cohere-api.md#errors, docs/reference/errors.md#errors-from-cohere.
"""

import re
from collections.abc import Mapping
from typing import Any

from msgspec import DecodeError, Struct
from msgspec.json import decode as decode_any

from schemas.cohere.errors import ErrorBody, decode_error
from translators.core.errors import Failure
from translators.core.faults import Fault


class Meaning(Struct, frozen=True):
    status: int
    type: str
    code: str
    fault: Fault
    should_retry: bool | None = None
    alert_operator: bool = False


class ErrorMeanings(Struct, frozen=True):
    """The meanings of one status. own: for the caller's own Cohere key. server: for the gateway's."""

    own: Meaning
    server: Meaning


def _same(status: int, type: str, code: str, fault: Fault) -> ErrorMeanings:
    meaning = Meaning(status, type, code, fault)
    return ErrorMeanings(meaning, meaning)


_UPSTREAM_AUTH = Meaning(
    502, "server_error", "upstream_auth", Fault.GATEWAY_CREDENTIALS, should_retry=False, alert_operator=True
)

UPSTREAM_ERRORS: Mapping[int, ErrorMeanings] = {
    400: _same(400, "invalid_request_error", "invalid_value", Fault.CALLER_REQUEST),
    401: ErrorMeanings(
        Meaning(401, "authentication_error", "invalid_api_key", Fault.CALLER_CREDENTIALS), _UPSTREAM_AUTH
    ),
    402: ErrorMeanings(
        Meaning(402, "insufficient_quota", "insufficient_quota", Fault.PROVIDER_QUOTA),
        Meaning(
            429,
            "insufficient_quota",
            "insufficient_quota",
            Fault.PROVIDER_QUOTA,
            should_retry=False,
            alert_operator=True,
        ),
    ),
    403: ErrorMeanings(Meaning(403, "permission_error", "permission_denied", Fault.CALLER_CREDENTIALS), _UPSTREAM_AUTH),
    404: _same(404, "invalid_request_error", "model_not_found", Fault.CALLER_REQUEST),
    # Of a proxy before Cohere, which has waited too long for one of the two.
    408: _same(504, "server_error", "upstream_timeout", Fault.PROVIDER_TIMEOUT),
    422: _same(422, "invalid_request_error", "unprocessable_entity", Fault.CALLER_REQUEST),
    429: _same(429, "rate_limit_error", "rate_limit_exceeded", Fault.PROVIDER_RATE_LIMIT),
    498: _same(400, "invalid_request_error", "content_filter", Fault.PROVIDER_ANSWER),
    499: _same(502, "server_error", "upstream_cancelled", Fault.PROVIDER_UNAVAILABLE),
    500: _same(502, "server_error", "upstream_error", Fault.PROVIDER_UNAVAILABLE),
    501: _same(502, "server_error", "upstream_not_implemented", Fault.PROVIDER_UNAVAILABLE),
    503: _same(503, "server_error", "upstream_unavailable", Fault.PROVIDER_UNAVAILABLE),
    504: _same(504, "server_error", "upstream_timeout", Fault.PROVIDER_TIMEOUT),
}

QUOTA = Meaning(429, "insufficient_quota", "insufficient_quota", Fault.PROVIDER_QUOTA, should_retry=False)
"""A 429 whose message names the month: the trial key's monthly limit, for which no retry helps
(docs/cohere-api.md#retries)."""

MODEL_NOT_FOUND = Meaning(404, "invalid_request_error", "model_not_found", Fault.CALLER_REQUEST)

CONTEXT_LENGTH = "context_length_exceeded"
"""OpenAI's code for a prompt that is too long. Frameworks shorten the history when they see it."""

CAPABILITY_ERRORS: tuple[tuple[str, tuple[str, bool]], ...] = (
    ("tool_choice is not supported for this model", ("tool_choice", False)),
    ("only one of 'presence_penalty' and 'frequency_penalty'", ("one_penalty", True)),
    ("cannot specify both frequency_penalty and presence_penalty", ("one_penalty", True)),
    ("must have a type", ("typed_tools", True)),
)
"""What a 400 reveals about a model: a part of Cohere's message, the capability and its value."""

LONGEST_TEXT = 500
"""Characters that are shown of a body that is not Cohere's JSON."""

LARGEST_FOREIGN_BODY = 64 * 1024
"""Bytes of an error in another shape than Cohere's that is read."""

SENTENCE_KEYS = ("message", "error", "errors", "detail", "msg", "title")
"""Where other servers put the sentence of an error: OpenAI's and Azure's `error.message`, FastAPI's `detail[].msg`, the
`detail` or `title` of RFC 9457."""

MOST_SENTENCES = 5
"""Of a list of errors that are shown."""

_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]")
"""Characters that no text has: the body is binary, or not UTF-8."""

PARAMETER_PATTERNS = (
    re.compile(r"unknown field: parameter '?([A-Za-z_][\w.\[\]]*)'? is not"),
    re.compile(r"parameter '([A-Za-z_][\w.\[\]]*)'"),
    re.compile(r"'([a-z_]+)' param is missing"),
    re.compile(r"\b(temperature|presence_penalty|frequency_penalty|max tokens|tool_choice|response_format)\b"),
    re.compile(r"\b(tool names|tool use|tools)\b"),
)
"""How Cohere's messages name the field that they refuse, the most exact first."""

FIELD_NAMES: Mapping[str, str] = {
    "max tokens": "max_tokens",
    "tool names": "tools",
    "tool use": "tools",
    "stop_sequences": "stop",
    "p": "top_p",
    "k": "top_k",
}
"""A name in Cohere's messages -> OpenAI's name of the field."""


def upstream_failure(status: int, body: bytes, own_key: bool) -> Failure:
    """Converts an error response of Cohere's into a Failure. own_key: the request had the caller's own Cohere key."""
    error = _read(body)
    message = (
        error.message
        or _foreign_sentence(body)
        or _plain(body)
        or f"Cohere answered with status {status} and no message"
    )
    # A status that is not in the table has the meaning of the general one of its class.
    row = UPSTREAM_ERRORS.get(status) or UPSTREAM_ERRORS[400 if 400 <= status < 500 else 500]
    if error.message is None and _is_page(body):
        # An HTML page comes from a proxy, not from Cohere: it is an outage, whatever its status.
        row = UPSTREAM_ERRORS[status if status in (503, 504) else 500]
    meaning = row.own if own_key else row.server
    text = message.lower()
    if status == 429 and "month" in text:
        meaning = QUOTA
    # The gateway's key has no access to this model. For the caller, that means that there is no such model.
    elif status == 403 and "model" in text and not own_key:
        meaning = MODEL_NOT_FOUND
    code: str = meaning.code
    param = None
    if status in (400, 422):
        code = error.error_type or (CONTEXT_LENGTH if text.startswith("too many tokens") else code)
        # "too many tokens" is about the prompt, unless it names `max tokens`.
        param = "messages" if code == CONTEXT_LENGTH and "max tokens" not in text else _parameter(message)
        # A bound above the model's is no long prompt: frameworks would shorten the history in vain.
        if param == "max_tokens":
            code = "invalid_value"
    if meaning is _UPSTREAM_AUTH:
        message = "The gateway's own Cohere key was refused; its operator has been told"
    learned = next((learned for words, learned in CAPABILITY_ERRORS if status == 400 and words in message), None)
    return Failure(
        meaning.status,
        message,
        meaning.type,
        code,
        param,
        meaning.should_retry,
        meaning.alert_operator,
        learned_capability=learned,
        fault=meaning.fault,
    )


def _read(body: bytes) -> ErrorBody:
    try:
        return decode_error(body)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return ErrorBody()


def _foreign_sentence(body: bytes) -> str:
    """Returns the sentence of an error in the shape of a proxy's or of another API's; empty where there is none."""
    # Such errors are short. Whatever is longer is not looked through for a sentence.
    if not body.lstrip().startswith(b"{") or len(body) > LARGEST_FOREIGN_BODY:
        return ""
    try:
        return _sentence_in(decode_any(body), 4)[:LONGEST_TEXT]
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def _sentence_in(value: Any, depth: int) -> str:
    if isinstance(value, str):
        return "" if _NO_TEXT.search(value) else value.strip()
    if not depth:
        return ""
    if isinstance(value, list):
        return "; ".join(filter(None, (_sentence_in(one, depth - 1) for one in value[:MOST_SENTENCES])))
    if isinstance(value, dict):
        return next(filter(None, (_sentence_in(value.get(key), depth - 1) for key in SENTENCE_KEYS)), "")
    return ""


def _is_page(body: bytes) -> bool:
    return body.lstrip()[:1] == b"<"


def _plain(body: bytes) -> str:
    # No character has more than four bytes.
    text = body[: LONGEST_TEXT * 4].decode("utf-8", "replace").strip()
    if not text or _NO_TEXT.search(text):
        return ""
    if _is_page(body):
        return "Cohere answered with a page that is not JSON"
    return text[:LONGEST_TEXT]


def _parameter(message: str) -> str | None:
    for pattern in PARAMETER_PATTERNS:
        match = pattern.search(message)
        if match:
            return FIELD_NAMES.get(match[1], match[1])
    return None
