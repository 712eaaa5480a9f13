"""The faults that a caller may order.

By header `x-emulator-fault: NAME[=ARG]` or by model suffix `model@NAME[=ARG]`. Here are the table, its
reading, and the faults that are plain error answers. What the others do to an answer on its way out is
`fault_injection.py`.
"""

from __future__ import annotations

import msgspec

from gateway.emulator.refusals import Refusal, invalid
from gateway.emulator.trial_limits import SENTENCE as TRIAL

HEADER = "x-emulator-fault"


class Row(msgspec.Struct, frozen=True):
    """One kind of fault. `default` is the argument when none is given; None means that it takes none."""

    does: str
    default: str | None = None


FAULTS: dict[str, Row] = {
    "status": Row("answers with that HTTP status and a body typical of it; a bare number means the same", "500"),
    "flaky": Row("answers 503 to the first N identical requests, then properly", "1"),
    "rate_trial": Row("429: the per-minute limit of a trial key"),
    "rate_minute": Row("429: past the per-minute limit"),
    "rate_month": Row("429: past the per-month limit"),
    "invalid_tool_generation": Row("422 INVALID_TOOL_GENERATION"),
    "hallucinated_tools": Row("422 HALLUCINATED_ALL_TOOL_CALLS"),
    "no_valid_response": Row("422 NO_VALID_RESPONSE_GENERATED"),
    "html": Row("502 with an HTML page"),
    "empty": Row("500 without a body"),
    "late": Row("waits that many seconds, then answers", "1"),
    "stall": Row("sends nothing for that many seconds, by default for ever", "inf"),
    "stall_stream": Row("stops in the middle of the answer for that many seconds, by default for ever", "inf"),
    "slow": Row("waits that many seconds after each event", "0.05"),
    "cut": Row("closes the connection in the middle of the answer"),
    "eof": Row("ends the answer properly, but in the middle: no message-end"),
    "broken_json": Row("mangles one event, or the whole body"),
    "finish_error": Row("finish_reason ERROR, as when a generation fails midway"),
    "finish_timeout": Row("finish_reason TIMEOUT"),
    "unknown_event": Row("puts an event of an unknown type into the stream"),
    "no_usage": Row("leaves the usage out"),
}

INVALID_TOOL_GENERATION = (
    "your request resulted in an invalid tool generation. Try updating the messages or tool definitions"
)

# Bodies typical of each status. 403, 498, 501, 503 and 504 were never recorded: their sentences are guessed.
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
REFUSALS: dict[str, tuple[int, str, str | None]] = {
    "rate_trial": (429, TRIAL.format(limit=20, span="minute"), None),
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
    """One ordered fault."""

    name: str
    argument: str = ""

    @property
    def seconds(self) -> float | None:
        """The argument as a time; None is for ever."""
        return None if self.argument == "inf" else float(self.argument)


def read(order: str) -> Fault:
    """The fault of `NAME[=ARG]`; an unknown one is refused with the list of those that exist."""
    name, _, argument = order.strip().partition("=")
    if name.isdigit():
        name, argument = "status", name
    row = FAULTS.get(name)
    if row is None:
        raise invalid(f"the emulator knows no fault '{name}', only: {', '.join(FAULTS)}")
    fault = Fault(name, argument or row.default or "")
    try:
        if name == "status" and not 400 <= int(fault.argument) <= 599:
            raise ValueError
        if row.default is not None and float(fault.argument) < 0:
            raise ValueError
    except ValueError:
        raise invalid(f"the emulator cannot do fault '{order}'") from None
    return fault


def refusal(fault: Fault) -> Refusal | None:
    """The error answer of a fault that is one."""
    if fault.name in REFUSALS:
        status, sentence, error_type = REFUSALS[fault.name]
        return Refusal(status, sentence, error_type=error_type)
    if fault.name == "html":
        return Refusal(502, None, raw=HTML_PAGE, content_type="text/html; charset=UTF-8")
    if fault.name == "empty":
        return Refusal(500, None)
    if fault.name == "status":
        status = int(fault.argument)
        return Refusal(status, STATUS_SENTENCES.get(status, f"emulated error {status}"))
    return None
