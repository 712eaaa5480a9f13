"""What a caller asks of one request's calls to Cohere, in either rival's headers: less time, fewer attempts.

    cf-aig-request-timeout   milliseconds until the first byte of an answer
    x-litellm-timeout        seconds until a call is complete
    cf-aig-max-attempts      attempts of a call, the first one included
    x-litellm-num-retries    retries of a call: attempts after the first one

They only ever lessen what the settings allow. A value that cannot be used is a 400.
"""

import re
from collections.abc import Mapping
from typing import TypeAlias

from msgspec import Struct

from gateway.errors import CallerError, failure

FIRST_BYTE_HEADER, TOTAL_HEADER = b"cf-aig-request-timeout", b"x-litellm-timeout"
ATTEMPTS_HEADER, RETRIES_HEADER = b"cf-aig-max-attempts", b"x-litellm-num-retries"
CONTROL_HEADERS = frozenset((FIRST_BYTE_HEADER, TOTAL_HEADER, ATTEMPTS_HEADER, RETRIES_HEADER))

_WHOLE, _NUMBER = re.compile(rb"[0-9]{1,9}"), re.compile(rb"[0-9]{1,9}(\.[0-9]{1,9})?")


Headers: TypeAlias = tuple[tuple[str, str], ...]


class CallControls(Struct, frozen=True):
    """first_byte, total: seconds. attempts: of a call, 1 or more. None: as the settings say.

    headers: that the calls have beside their own, such as `traceparent`.
    """

    first_byte: float | None = None
    total: float | None = None
    attempts: int | None = None
    headers: Headers = ()


NO_CONTROLS = CallControls()


def controls_of(headers: Mapping[bytes, bytes], extra: Headers = ()) -> CallControls:
    """Returns what a request's headers ask for. Raises CallerError for a value that cannot be used.

    extra: headers for its calls to Cohere.
    """
    if CONTROL_HEADERS.isdisjoint(headers):
        return CallControls(headers=extra) if extra else NO_CONTROLS
    first_byte = _read(headers, FIRST_BYTE_HEADER, _WHOLE, "a whole number of milliseconds, 1 or more")
    total = _read(headers, TOTAL_HEADER, _NUMBER, "a number of seconds above 0")
    attempts = _read(headers, ATTEMPTS_HEADER, _WHOLE, "a whole number, 1 or more")
    retries = _read(headers, RETRIES_HEADER, _WHOLE, "a whole number", least=0.0)
    # Where both headers are sent, the smaller number holds.
    most = [int(one) for one in (attempts, None if retries is None else retries + 1) if one is not None]
    return CallControls(None if first_byte is None else first_byte / 1000, total, min(most, default=None), extra)


def _read(
    headers: Mapping[bytes, bytes], name: bytes, pattern: re.Pattern[bytes], wanted: str, least: float = 1e-9
) -> float | None:
    value = headers.get(name, b"").strip()
    if not value:
        return None
    # `least` is next to 0 where a 0 would leave nothing to ask for.
    if not pattern.fullmatch(value) or float(value) < least:
        raise CallerError(failure("bad_request", f"The header {name.decode()} must be {wanted}"))
    return float(value)
