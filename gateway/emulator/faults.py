"""The faults that a client may ask for, and the error responses among them.

A fault is named in the header `x-emulator-fault: NAME[=ARGUMENT]`, in a suffix of the model, `model@NAME[=ARGUMENT]`,
or in the last message of a user, `[x-emulator-fault: NAME[=ARGUMENT]]`. What the other faults do to a response is
`fault_injection.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.emulator.errors import APIError, invalid_request
from gateway.emulator.trial_limits import SENTENCE as TRIAL_SENTENCE

HEADER = "x-emulator-fault"
IN_PROMPT = re.compile(r"\[x-emulator-fault: ([\w=.]{1,40})\]")


class FaultKind(msgspec.Struct, frozen=True):
    """One kind of fault. `default` is the argument if none is given; None means that it takes none."""

    description: str
    default: str | None = None


FAULTS: dict[str, FaultKind] = {
    "status": FaultKind("answers with that HTTP status and a body typical of it; a bare number means the same", "500"),
    "flaky": FaultKind("answers 503 to the first N identical requests, then properly", "1"),
    "rate_trial": FaultKind("429: the per-minute limit of a trial key"),
    "rate_minute": FaultKind("429: past the per-minute limit"),
    "rate_month": FaultKind("429: past the per-month limit"),
    "invalid_tool_generation": FaultKind("422 INVALID_TOOL_GENERATION"),
    "hallucinated_tools": FaultKind("422 HALLUCINATED_ALL_TOOL_CALLS"),
    "no_valid_response": FaultKind("422 NO_VALID_RESPONSE_GENERATED"),
    "html": FaultKind("502 with an HTML page"),
    "empty": FaultKind("500 without a body"),
    "late": FaultKind("waits that many seconds, then answers", "1"),
    "stall": FaultKind("sends nothing for that many seconds, by default for ever", "inf"),
    "stall_stream": FaultKind("stops in the middle of the answer for that many seconds, by default for ever", "inf"),
    "slow": FaultKind("waits that many seconds after each event", "0.05"),
    "cut": FaultKind("closes the connection in the middle of the answer"),
    "eof": FaultKind("ends the answer properly, but in the middle: no message-end"),
    "broken_json": FaultKind("mangles one event, or the whole body"),
    "finish_error": FaultKind("finish_reason ERROR, as when a generation fails midway"),
    "finish_timeout": FaultKind("finish_reason TIMEOUT"),
    "unknown_event": FaultKind("puts an event of an unknown type into the stream"),
    "no_usage": FaultKind("leaves the usage out"),
    "broken_schema": FaultKind("chat: answers with JSON that misses the schema, N times in N + 1", "1"),
    "prose_for_json": FaultKind("chat: answers with prose where JSON was demanded, N times in N + 1", "1"),
    "wrong_tool": FaultKind("chat: calls another tool than the one that fits, N times in N + 1", "1"),
    "no_tool_call": FaultKind("chat: answers with text instead of a tool call, N times in N + 1", "1"),
}
# The faults of a model that does not do what it was told, as often as their argument says.
DISOBEDIENCE = ("broken_schema", "prose_for_json", "wrong_tool", "no_tool_call")

INVALID_TOOL_GENERATION = (
    "your request resulted in an invalid tool generation. Try updating the messages or tool definitions"
)

# status -> a sentence typical of it. Those of 403, 498, 501, 503 and 504 were never recorded and are guessed.
STATUS_SENTENCES: dict[int, str] = {
    400: "invalid request: message must be at least 1 token long or tool results must be specified.",
    401: "invalid api token",
    402: "Please add or update your payment method at https://dashboard.cohere.com/billing?tab=payment to continue",
    403: "your api key does not have permission to perform this operation",
    404: "model 'xyz' not found, make sure the correct model ID was used and that you have access to the model.",
    422: "No valid response generated. Try updating messages",
    429: "Please wait and try again later",
    498: "blocked input: please adjust your prompt and try again",
    499: "request cancelled",
    500: "internal server error",
    501: "not implemented",
    503: "service unavailable, please try again later",
    504: "request timed out",
}

# fault -> (status, sentence, error type)
ERROR_FAULTS: dict[str, tuple[int, str, str | None]] = {
    "rate_trial": (429, TRIAL_SENTENCE.format(limit=20, span="minute"), None),
    "rate_minute": (429, "You are past the per minute request limit, please wait and try again later.", None),
    "rate_month": (
        429,
        "You are past the per-month request limit for this model, please wait and try again later.",
        None,
    ),
    "invalid_tool_generation": (422, INVALID_TOOL_GENERATION, "INVALID_TOOL_GENERATION"),
    "hallucinated_tools": (
        422,
        "all generated tool calls were hallucinated. Try updating the messages or tool definitions",
        "HALLUCINATED_ALL_TOOL_CALLS",
    ),
    "no_valid_response": (422, STATUS_SENTENCES[422], "NO_VALID_RESPONSE_GENERATED"),
}

HTML_PAGE = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
    b"<center><h1>502 Bad Gateway</h1></center>\r\n</body>\r\n</html>\r\n"
)


class Fault(msgspec.Struct, frozen=True):
    """One fault that a client has asked for."""

    name: str
    argument: str = ""

    @property
    def seconds(self) -> float | None:
        """The argument as a time; None is for ever."""
        return None if self.argument == "inf" else float(self.argument)


def in_prompt(body: Mapping[str, Any]) -> str:
    """Returns the fault that the last message of a user asks for, or an empty string. The body is not validated yet."""
    messages = body.get("messages")
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            parts = content if isinstance(content, list) else [{"text": content}]
            texts = [str(part.get("text")) for part in parts if isinstance(part, dict)]
            matches = IN_PROMPT.findall("\n".join(texts))
            return matches[-1] if matches else ""
    return ""


def parse(text: str) -> Fault:
    """Returns the fault of `NAME[=ARGUMENT]`. Raises a 400 that lists the faults if there is no such one."""
    name, _, argument = text.strip().partition("=")
    if name.isdigit():
        name, argument = "status", name
    kind = FAULTS.get(name)
    if kind is None:
        raise invalid_request(f"the emulator has no fault '{name}', only: {', '.join(FAULTS)}")
    fault = Fault(name, argument or kind.default or "")
    try:
        # Only statuses of errors, since the body is one.
        if name == "status" and not 400 <= int(fault.argument) <= 599:
            raise ValueError
        if kind.default is not None and float(fault.argument) < 0:
            raise ValueError
        # `inf` is no whole number, and the model would never obey again.
        if name in DISOBEDIENCE:
            int(fault.argument)
    except ValueError:
        raise invalid_request(f"the emulator cannot do fault '{text}'") from None
    return fault


def error_for(fault: Fault) -> APIError | None:
    """Returns the error response of a fault, or None for a fault that is none."""
    if fault.name in ERROR_FAULTS:
        status, sentence, error_type = ERROR_FAULTS[fault.name]
        return APIError(status, sentence, error_type=error_type)
    if fault.name == "html":
        return APIError(502, None, raw=HTML_PAGE, content_type="text/html; charset=UTF-8")
    if fault.name == "empty":
        return APIError(500, None)
    if fault.name == "status":
        status = int(fault.argument)
        return APIError(status, STATUS_SENTENCES.get(status, f"emulated error {status}"))
    return None
