"""What a fault does to an answer on its way out: a script of sends and pauses, made without any I/O.

Without a fault the script is a single send. Which faults exist is `faults.py`; playing the script is
`app.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from gateway.emulator import stream_v1, wire
from gateway.emulator.faults import INVALID_TOOL_GENERATION, Fault
from gateway.emulator.stream import event, message_end


class Wait(msgspec.Struct, frozen=True):
    """A pause; None is for ever."""

    seconds: float | None


class Script(msgspec.Struct, frozen=True):
    """The body, step by step, and whether it ends as HTTP wants."""

    steps: tuple[bytes | Wait, ...]
    clean: bool = True


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """How a stream is spelt: what travels as what, how it ends, and how it breaks."""

    content_type: bytes
    unknown: bytes  # an event of a type that nobody knows
    broken: bytes
    tail: int  # how many frames the ending has
    failed: bytes  # the ending of a generation that failed
    ending: Callable[[bytes, dict[str, Any], Sequence[str]], bytes]  # the first of the tail, with and without fields


FAILED = {
    "finish_reason": "ERROR", "usage": {}, "error": INVALID_TOOL_GENERATION,
    "error_type": "INVALID_TOOL_GENERATION",
}  # fmt: skip
TELEMETRY: dict[str, Any] = {"detail": {"emulated": True}}


def _v2_ending(frame: bytes, more: dict[str, Any], without: Sequence[str]) -> bytes:
    told = wire.decode(frame.split(b"\ndata: ", 1)[1])
    return message_end({key: value for key, value in (told["delta"] | more).items() if key not in without})


def _v1_ending(write: Callable[..., bytes], frame: bytes, more: dict[str, Any], without: Sequence[str]) -> bytes:
    told = wire.decode(frame.split(b"\ndata: ", 1)[-1])
    response = told["response"] | more
    if "usage" in without and "meta" in response:
        response["meta"] = {"api_version": response["meta"]["api_version"]}
    reason = more.get("finish_reason", told["finish_reason"])
    return write("stream-end", {"finish_reason": reason, "response": response}, last=True)


def _v1(write: Callable[..., bytes], content_type: bytes, broken: bytes) -> Dialect:
    failure = {"finish_reason": "ERROR", "response": {"text": "", "finish_reason": "ERROR"}}
    return Dialect(
        content_type=content_type,
        unknown=write("telemetry", TELEMETRY),
        broken=broken,
        tail=1,
        failed=write("stream-end", failure, last=True),
        ending=partial(_v1_ending, write),
    )


DIALECTS: dict[str, Dialect] = {
    "v2": Dialect(
        content_type=wire.EVENT_STREAM,
        unknown=event("telemetry", {"type": "telemetry", **TELEMETRY}),
        broken=b'event: content-delta\ndata: {"type":"content-delta","index":0,"delta":{"mess\n\n',
        tail=2,
        failed=message_end(FAILED),
        ending=_v2_ending,
    ),
    "v1 events": _v1(
        stream_v1.event, wire.EVENT_STREAM, b'event: text-generation\ndata: {"is_finished":false,"event_ty\n\n'
    ),
    "lines": _v1(stream_v1.line, wire.LINES, b'{"is_finished":false,"event_type":"text-gene\n'),
}


def of_stream(events: Sequence[bytes], fault: Fault | None, dialect: Dialect = DIALECTS["v2"]) -> Script:
    """The script of a stream; `events` end with the dialect's tail."""
    if fault is None:
        return Script((b"".join(events),))
    middle = max(1, len(events) // 2)
    before, after = b"".join(events[:middle]), b"".join(events[middle:])
    match fault.name:
        case "slow":
            return Script(tuple(step for each in events for step in (each, Wait(fault.seconds))))
        case "stall_stream":
            return Script((before, Wait(fault.seconds), after))
        case "cut":
            return Script((before,), clean=False)
        case "eof":
            return Script((before,))
        case "broken_json":
            return Script((before + dialect.broken + after,))
        case "unknown_event":
            return Script((before + dialect.unknown + after,))
        case "finish_error":
            return Script((before + dialect.failed + b"".join(events[len(events) - dialect.tail + 1 :]),))
        case "finish_timeout":
            return Script((_with_end(events, dialect, {"finish_reason": "TIMEOUT"}, ()),))
        case "no_usage":
            return Script((_with_end(events, dialect, {}, ("usage",)),))
    return Script((b"".join(events),))


def of_body(body: dict[str, Any], fault: Fault | None) -> dict[str, Any]:
    """A whole body, its fields damaged."""
    name = fault.name if fault else ""
    if name in ("finish_error", "finish_timeout") and "finish_reason" in body:
        reason = name.removeprefix("finish_").upper()
        return body | {"finish_reason": reason} | ({"usage": {}} if reason == "ERROR" and "usage" in body else {})
    if name == "unknown_event":
        return body | {"telemetry": {"emulated": True}}
    if name == "no_usage":
        kept = {key: value for key, value in body.items() if key != "usage"}
        if "meta" in kept:
            kept["meta"] = {key: value for key, value in kept["meta"].items() if key not in ("billed_units", "tokens")}
        return kept
    return body


def of_bytes(data: bytes, fault: Fault | None) -> tuple[Script, int]:
    """The script of a whole body and the content-length that is announced for it."""
    half = len(data) // 2
    match fault.name if fault else "":
        case "cut":
            return Script((data[:half],), clean=False), len(data)
        case "eof" | "broken_json":
            return Script((data[:half],)), half
        case "stall_stream":
            return Script((data[:half], Wait(fault.seconds if fault else None), data[half:])), len(data)
        case "slow":
            return Script((data[:half], Wait(fault.seconds if fault else None), data[half:])), len(data)
    return Script((data,)), len(data)


def _with_end(events: Sequence[bytes], dialect: Dialect, more: dict[str, Any], without: Sequence[str]) -> bytes:
    """The stream with another ending."""
    *before, end = events[: len(events) - dialect.tail + 1]
    return b"".join((*before, dialect.ending(end, more, without), *events[len(events) - dialect.tail + 1 :]))
