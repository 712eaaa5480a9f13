"""What a fault does to an answer on its way out: a script of sends and pauses, made without any I/O.

Without a fault the script is a single send. Which faults exist is `faults.py`; playing the script is
`app.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.emulator import wire
from gateway.emulator.faults import INVALID_TOOL_GENERATION, Fault
from gateway.emulator.stream import event, message_end


class Wait(msgspec.Struct, frozen=True):
    """A pause; None is for ever."""

    seconds: float | None


class Script(msgspec.Struct, frozen=True):
    """The body, step by step, and whether it ends as HTTP wants."""

    steps: tuple[bytes | Wait, ...]
    clean: bool = True


UNKNOWN_EVENT = event("telemetry", {"type": "telemetry", "detail": {"emulated": True}})
BROKEN_EVENT = b'event: content-delta\ndata: {"type":"content-delta","index":0,"delta":{"mess\n\n'
FAILED = {
    "finish_reason": "ERROR", "usage": {}, "error": INVALID_TOOL_GENERATION,
    "error_type": "INVALID_TOOL_GENERATION",
}  # fmt: skip


def of_stream(events: Sequence[bytes], fault: Fault | None) -> Script:
    """The script of a stream; `events` end with message-end and [DONE]."""
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
            return Script((before + BROKEN_EVENT + after,))
        case "unknown_event":
            return Script((before + UNKNOWN_EVENT + after,))
        case "finish_error":
            return Script((before + message_end(FAILED) + events[-1],))
        case "finish_timeout":
            return Script((_with_end(events, {"finish_reason": "TIMEOUT"}, ()),))
        case "no_usage":
            return Script((_with_end(events, {}, ("usage",)),))
    return Script((b"".join(events),))


def of_body(body: dict[str, Any], fault: Fault | None) -> dict[str, Any]:
    """A whole body, its fields damaged."""
    name = fault.name if fault else ""
    if name in ("finish_error", "finish_timeout") and "finish_reason" in body:
        reason = name.removeprefix("finish_").upper()
        return body | {"finish_reason": reason} | ({"usage": {}} if reason == "ERROR" else {})
    if name == "unknown_event":
        return body | {"telemetry": {"emulated": True}}
    if name == "no_usage":
        kept = {key: value for key, value in body.items() if key != "usage"}
        if "meta" in kept:
            kept["meta"] = {key: value for key, value in kept["meta"].items() if key != "billed_units"}
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


def _with_end(events: Sequence[bytes], more: dict[str, Any], without: Sequence[str]) -> bytes:
    """The stream with another message-end."""
    told = wire.decode(events[-2].split(b"\ndata: ", 1)[1])
    delta = {key: value for key, value in (told["delta"] | more).items() if key not in without}
    return b"".join((*events[:-2], message_end(delta), events[-1]))
