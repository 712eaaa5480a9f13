"""Messages of the Responses WebSocket: what stands around a request, an event or an error there and nowhere else.

Sources: OpenAI's specification, `ResponsesClientEventResponseCreate` and `ResponseWsError`; its guide to the WebSocket
mode; Open Responses, https://www.openresponses.org. What a request asks is `responses.py`.
"""

import re
from collections.abc import Mapping

import msgspec
from msgspec import UNSET, Raw, Struct

from schemas.openai import responses as openai
from translators.core.errors import Failure, InvalidField

CREATE = "response.create"

_LANE = re.compile(r"[A-Za-z0-9_.-]{1,256}")
_NULL, _TRUE, _FALSE = b"null", b"true", b"false"

_split = msgspec.json.Decoder(dict[str, Raw]).decode
_word = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode

OTHER_STATUS: Mapping[str, int] = {"previous_response_not_found": 400}
"""Statuses that are others here than in HTTP's answers, by code: what Open Responses wants."""


class Envelope(Struct, frozen=True):
    """A message that came. body: the request as HTTP would have it, to be streamed.

    lane: its `stream_id`; requests of one lane are answered in turn. generate: false to prepare only. failure: what is
    wrong with it, then there is no body.
    """

    lane: str = ""
    body: bytes = b""
    generate: bool = True
    failure: Failure | None = None


def opened(message: str) -> Envelope:
    """A message as the request in it."""
    lane = ""
    try:
        fields = _fields(message)
        lane = _lane(fields)
        _expect_create(fields)
        if _flag(fields, "background"):
            raise InvalidField("background", "'background' is not supported on a WebSocket", "unsupported_value")
        generate = _flag(fields, "generate") is not False
    except InvalidField as error:
        return Envelope(lane, failure=error.failure)
    return Envelope(lane, _encode({**fields, "stream": True}), generate)


def _fields(message: str) -> dict[str, Raw]:
    try:
        return _split(message)
    except msgspec.ValidationError as error:
        raise InvalidField(None, "A message must be a JSON object", "invalid_type") from error
    except (msgspec.DecodeError, UnicodeError) as error:
        raise InvalidField(None, f"The message is not valid JSON: {error}", "invalid_json") from error
    except RecursionError as error:
        raise InvalidField(None, "The message is nested too deeply", "invalid_json") from error


def _lane(fields: dict[str, Raw]) -> str:
    raw = fields.pop("stream_id", None)
    if raw is None or bytes(raw) == _NULL:
        return ""
    lane = _text(raw, "stream_id")
    if not _LANE.fullmatch(lane):
        told = "Invalid 'stream_id': up to 256 letters, digits and any of _ . - are allowed"
        raise InvalidField("stream_id", told)
    return lane


def _expect_create(fields: dict[str, Raw]) -> None:
    raw = fields.pop("type", None)
    if raw is None:
        raise InvalidField("type", "Missing required parameter: 'type'", "missing_required_parameter")
    kind = _text(raw, "type")
    if kind != CREATE:
        raise InvalidField("type", f"Invalid 'type': '{kind[:100]}' is not known, '{CREATE}' is")


def _flag(fields: dict[str, Raw], name: str) -> bool | None:
    raw = bytes(fields.pop(name, Raw(_NULL)))
    if raw not in (_NULL, _TRUE, _FALSE):
        raise InvalidField(name, f"Invalid '{name}': expected a boolean", "invalid_type")
    return None if raw == _NULL else raw == _TRUE


def _text(raw: Raw, name: str) -> str:
    try:
        return _word(raw)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise InvalidField(name, f"Invalid '{name}': expected a text", "invalid_type") from error


# --- what goes out ----------------------------------------------------------------------------------------


def addressed(document: bytes, lane: str, notes: str = "") -> bytes:
    """An event with what stands beside it here: its lane, and the notes that HTTP has a header for."""
    beside = {"stream_id": lane} if lane else {}
    if notes:
        beside["gateway_notes"] = notes
    return _encode(beside)[:-1] + b"," + document[1:] if beside else document


def refused(failure: Failure, lane: str, headers: Mapping[str, str]) -> bytes:
    """A failure as a message. headers: those that HTTP's answer would have had for clients to obey."""
    error = openai.SocketFailure(
        failure.type, failure.code, failure.message, failure.param, dict(headers) if headers else UNSET
    )
    status = OTHER_STATUS.get(failure.code or "", failure.status)
    return _encode(openai.SocketError(status, error, lane or UNSET))
