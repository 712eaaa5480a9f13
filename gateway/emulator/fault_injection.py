"""What a fault does to a response: whether the model disobeys, and a script of sends and pauses, made without I/O.

Without a fault the script is a single send. `faults.py` lists the faults; `app.py` runs the script; how a model
disobeys is in `response_text.py` and `tool_selection.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any

import msgspec

from gateway.emulator import chat_v1_encoding, go_json, http_exchange
from gateway.emulator.chat_encoding import message_end, sse_event
from gateway.emulator.faults import DISOBEDIENCE, INVALID_TOOL_GENERATION, Fault


class Wait(msgspec.Struct, frozen=True):
    """A pause; None is for ever."""

    seconds: float | None


class Script(msgspec.Struct, frozen=True):
    """The steps of a body, and whether it ends as HTTP demands."""

    steps: tuple[bytes | Wait, ...]
    complete: bool = True


class StreamFormat(msgspec.Struct, frozen=True, kw_only=True):
    """The format of a stream, with the events that its faults need."""

    content_type: bytes
    unknown_event: bytes
    broken_event: bytes
    tail: int  # how many events end a stream
    error_end: bytes  # the first of the tail when a generation fails
    # Rewrites the first of the tail: (event, fields to set, fields to leave out) -> event
    rewrite_end: Callable[[bytes, dict[str, Any], Collection[str]], bytes]


ERROR_DELTA = {
    "finish_reason": "ERROR", "usage": {}, "error": INVALID_TOOL_GENERATION,
    "error_type": "INVALID_TOOL_GENERATION",
}  # fmt: skip
TELEMETRY: dict[str, Any] = {"detail": {"emulated": True}}


def _rewrite_message_end(event: bytes, changes: dict[str, Any], omit: Collection[str]) -> bytes:
    delta = go_json.decode(event.split(b"\ndata: ", 1)[1])["delta"] | changes
    return message_end({key: value for key, value in delta.items() if key not in omit})


def _rewrite_stream_end(
    write: Callable[..., bytes], event: bytes, changes: dict[str, Any], omit: Collection[str]
) -> bytes:
    # A line of JSON has no such prefix, and stays whole.
    data = go_json.decode(event.split(b"\ndata: ", 1)[-1])
    response = data["response"] | changes
    # Version 1 has the usage in `meta`, beside what is no usage.
    if "usage" in omit and "meta" in response:
        response["meta"] = {"api_version": response["meta"]["api_version"]}
    reason = changes.get("finish_reason", data["finish_reason"])
    return write("stream-end", {"finish_reason": reason, "response": response}, last=True)


def _v1_format(write: Callable[..., bytes], content_type: bytes, broken_event: bytes) -> StreamFormat:
    error = {"finish_reason": "ERROR", "response": {"text": "", "finish_reason": "ERROR"}}
    return StreamFormat(
        content_type=content_type,
        unknown_event=write("telemetry", TELEMETRY),
        broken_event=broken_event,
        tail=1,
        error_end=write("stream-end", error, last=True),
        rewrite_end=partial(_rewrite_stream_end, write),
    )


STREAM_FORMATS: dict[str, StreamFormat] = {
    "v2": StreamFormat(
        content_type=http_exchange.EVENT_STREAM,
        unknown_event=sse_event("telemetry", {"type": "telemetry", **TELEMETRY}),
        broken_event=b'event: content-delta\ndata: {"type":"content-delta","index":0,"delta":{"mess\n\n',
        tail=2,
        error_end=message_end(ERROR_DELTA),
        rewrite_end=_rewrite_message_end,
    ),
    "v1 events": _v1_format(
        chat_v1_encoding.sse_event,
        http_exchange.EVENT_STREAM,
        b'event: text-generation\ndata: {"is_finished":false,"event_ty\n\n',
    ),
    "v1 lines": _v1_format(
        chat_v1_encoding.json_line, http_exchange.JSON_LINES, b'{"is_finished":false,"event_type":"text-gene\n'
    ),
}


MAX_CONVERSATIONS = 1_000  # whose disobedient answers are counted


def disobedience(fault: Fault | None, body: Mapping[str, Any], counts: MutableMapping[bytes, int]) -> str:
    """Returns the name of the fault if the model disobeys this time, or an empty string.

    A model disobeys as often as the fault's argument says, obeys once, and begins again. What counts as the same
    request is what the user and the tools have said: whoever asks again with other words adds them to the system
    prompt, or sends the request without its tools.
    """
    if fault is None or fault.name not in DISOBEDIENCE:
        return ""
    messages = body.get("messages")
    spoken = [
        message
        for message in (messages if isinstance(messages, list) else ())
        if isinstance(message, dict) and message.get("role") != "system"
    ]
    identity = [fault.name, fault.argument, body.get("message"), spoken]
    key = hashlib.blake2b(go_json.encode(identity), digest_size=16).digest()
    # Taken out and put in again, so that the conversation that is forgotten is the one that was met longest ago.
    times = counts.pop(key, 0)
    if times >= int(fault.argument):
        return ""
    if len(counts) >= MAX_CONVERSATIONS:
        counts.pop(next(iter(counts)))
    counts[key] = times + 1
    return fault.name


def stream_script(
    events: Sequence[bytes], fault: Fault | None, stream_format: StreamFormat = STREAM_FORMATS["v2"]
) -> Script:
    """Returns the script of a stream whose events end with the format's tail."""
    if fault is None:
        return Script((b"".join(events),))
    # At least the first event is sent, or the caller could not tell the fault from an answer that never began.
    middle = max(1, len(events) // 2)
    before, after = b"".join(events[:middle]), b"".join(events[middle:])
    match fault.name:
        case "slow":
            return Script(tuple(step for event in events for step in (event, Wait(fault.seconds))))
        case "stall_stream":
            return Script((before, Wait(fault.seconds), after))
        case "cut":
            return Script((before,), complete=False)
        case "eof":
            return Script((before,))
        case "broken_json":
            return Script((before + stream_format.broken_event + after,))
        case "unknown_event":
            return Script((before + stream_format.unknown_event + after,))
        case "finish_error":
            # What follows the end stays, such as `[DONE]` (docs/cohere-api.md#errors-inside-a-stream).
            rest = b"".join(events[len(events) - stream_format.tail + 1 :])
            return Script((before + stream_format.error_end + rest,))
        case "finish_timeout":
            return Script((_with_end(events, stream_format, {"finish_reason": "TIMEOUT"}, ()),))
        case "no_usage":
            return Script((_with_end(events, stream_format, {}, ("usage",)),))
    return Script((b"".join(events),))


def change_body(body: dict[str, Any], fault: Fault | None) -> dict[str, Any]:
    """Returns a whole body with the fields that the fault changes."""
    name = fault.name if fault else ""
    if name in ("finish_error", "finish_timeout") and "finish_reason" in body:
        reason = name.removeprefix("finish_").upper()
        return body | {"finish_reason": reason} | ({"usage": {}} if reason == "ERROR" and "usage" in body else {})
    if name == "unknown_event":
        return body | {"telemetry": {"emulated": True}}
    if name == "no_usage":
        changed = {key: value for key, value in body.items() if key != "usage"}
        if "meta" in changed:
            changed["meta"] = {
                key: value for key, value in changed["meta"].items() if key not in ("billed_units", "tokens")
            }
        return changed
    return body


def body_script(data: bytes, fault: Fault) -> tuple[Script, int]:
    """Returns the script of a whole body, and the content-length that is announced for it."""
    half = len(data) // 2
    match fault.name:
        case "cut":
            return Script((data[:half],), complete=False), len(data)
        case "eof" | "broken_json":
            # The body is half of the answer, but as HTTP it is complete.
            return Script((data[:half],)), half
        case "stall_stream" | "slow":
            return Script((data[:half], Wait(fault.seconds), data[half:])), len(data)
    return Script((data,)), len(data)


def _with_end(
    events: Sequence[bytes], stream_format: StreamFormat, changes: dict[str, Any], omit: Collection[str]
) -> bytes:
    """Returns the stream with another first event of its tail."""
    end = len(events) - stream_format.tail
    return b"".join((*events[:end], stream_format.rewrite_end(events[end], changes, omit), *events[end + 1 :]))
