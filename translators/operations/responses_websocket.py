"""Reads and writes the messages of the Responses WebSocket, which surround requests, events and errors.

`responses.py` translates the request itself. Sources: OpenAI's specification,
`ResponsesClientEventResponseCreate` and `ResponseWsError`; its guide to the WebSocket mode; https://www.openresponses.org.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct

from schemas.openai import responses as openai
from translators.core.errors import Failure, InvalidField
from translators.core.field_table import with_nested

CREATE = "response.create"
_STEER = b'"response.steer"'
_NO_TYPE = Raw(b"null")

_STREAM_ID = re.compile(r"[A-Za-z0-9_.-]{1,256}")
_NULL, _TRUE, _FALSE = b"null", b"true", b"false"

_split = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_string = msgspec.json.Decoder(str).decode
_decode_cache_options = msgspec.json.Decoder(openai.PromptCacheOptions | None).decode
_encode = msgspec.json.Encoder().encode

OTHER_STATUS: Mapping[str, int] = {"previous_response_not_found": 400}
"""Error codes whose status is not HTTP's, according to Open Responses."""


class ClientMessage(Struct, frozen=True):
    """A message of the caller's.

    stream_id: requests with the same one are answered in turn. body: the request as in HTTP, with `stream: true`; empty
    with a failure or a reply. generate: False to prepare a response only. failure: the error in the message. reply: an
    event that answers the message.
    """

    stream_id: str = ""
    body: bytes = b""
    generate: bool = True
    failure: Failure | None = None
    reply: bytes = b""


def parse_message(message: str) -> ClientMessage:
    """Reads a message. An error in it becomes its `failure`, because the connection stays open."""
    stream_id = ""
    try:
        fields = _fields(message)
        stream_id = _stream_id(fields)
        if bytes(fields.get("type", _NO_TYPE)) == _STEER:
            return ClientMessage(stream_id, reply=_steer_failed(fields, stream_id))
        _expect_create(fields)
        if _flag(fields, "background"):
            raise InvalidField("background", "'background' is not supported on a WebSocket", "unsupported_value")
        generate = _flag(fields, "generate") is not False and not _prewarms(fields)
    except InvalidField as error:
        return ClientMessage(stream_id, failure=error.failure)
    # Each event is a message, so what is sent here is always a stream.
    return ClientMessage(stream_id, _encode({**fields, "stream": True}), generate)


def _steer_failed(fields: dict[str, Raw], stream_id: str) -> bytes:
    """Makes the answer to `response.steer`, which would change a response while it is generated."""
    steer = {name: fields[name] for name in ("previous_response_id", "input") if name in fields}
    error = {
        "type": "invalid_request_error",
        "code": "steering_not_supported",
        "message": "Cohere's answers cannot be steered: cancel the response and create another one",
    }
    event: dict[str, Any] = {
        "type": "response.steer.failed",
        "steer": {"id": None, **steer},
        "error": error,
        "sequence_number": 0,
    }
    if stream_id:
        event["stream_id"] = stream_id
    return _encode(event)


def _fields(message: str) -> dict[str, Raw]:
    try:
        return with_nested(_split(message))
    except msgspec.ValidationError as error:
        raise InvalidField(None, "A message must be a JSON object", "invalid_type") from error
    except (msgspec.DecodeError, UnicodeError) as error:
        raise InvalidField(None, f"The message is not valid JSON: {error}", "invalid_json") from error
    except RecursionError as error:
        raise InvalidField(None, "The message is nested too deeply", "invalid_json") from error


def _stream_id(fields: dict[str, Raw]) -> str:
    raw = fields.pop("stream_id", None)
    if raw is None or bytes(raw) == _NULL:
        return ""
    stream_id = _string(raw, "stream_id")
    # It is copied into every event, so its length and characters are limited.
    if not _STREAM_ID.fullmatch(stream_id):
        message = "Invalid 'stream_id': up to 256 letters, digits and any of _ . - are allowed"
        raise InvalidField("stream_id", message)
    return stream_id


def _expect_create(fields: dict[str, Raw]) -> None:
    raw = fields.pop("type", None)
    if raw is None:
        raise InvalidField("type", "Missing required parameter: 'type'", "missing_required_parameter")
    kind = _string(raw, "type")
    if kind != CREATE:
        raise InvalidField("type", f"Invalid 'type': '{kind[:100]}' is not known, '{CREATE}' is")


def _flag(fields: dict[str, Raw], name: str) -> bool | None:
    raw = bytes(fields.pop(name, Raw(_NULL)))
    if raw not in (_NULL, _TRUE, _FALSE):
        raise InvalidField(name, f"Invalid '{name}': expected a boolean", "invalid_type")
    return None if raw == _NULL else raw == _TRUE


def _prewarms(fields: dict[str, Raw]) -> bool:
    """Returns whether the cache alone is to be warmed, which is to prepare a response."""
    try:
        options = _decode_cache_options(fields.get("prompt_cache_options", _NO_TYPE))
    except (msgspec.DecodeError, UnicodeError):
        return False  # the translation will report it
    return options is not None and options.prewarm is True


def _string(raw: Raw, name: str) -> str:
    try:
        return _decode_string(raw)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise InvalidField(name, f"Invalid '{name}': expected a text", "invalid_type") from error


# --- messages to the caller -------------------------------------------------------------------------------------


def event_message(document: bytes, stream_id: str, notes: str = "") -> bytes:
    """Adds to an event what it has here: its `stream_id`, and the notes that HTTP has a header for."""
    extra = {"stream_id": stream_id} if stream_id else {}
    if notes:
        extra["gateway_notes"] = notes
    # Put in front of the bytes: the event need not be parsed for it.
    return _encode(extra)[:-1] + b"," + document[1:] if extra else document


def error_message(failure: Failure, stream_id: str, headers: Mapping[str, str]) -> bytes:
    """Makes a message of a failure. headers: those of HTTP's answer that clients act on."""
    error = openai.SocketFailure(
        failure.type, failure.code, failure.message, failure.param, dict(headers) if headers else UNSET
    )
    status = OTHER_STATUS.get(failure.code or "", failure.status)
    return _encode(openai.SocketError(status, error, stream_id or UNSET))
