"""Times as every request needs them: the time of day in two forms, each written out once a second, and durations."""

import time

_second = 0
_http_date = b""
_timestamp = ""


def http_date() -> bytes:
    """Returns the value of the `date` header (RFC 9110 §6.6.1)."""
    second = int(time.time())
    if second != _second:
        _write_out(second)
    return _http_date


def timestamp() -> str:
    """Returns the time as ISO 8601 in UTC, with milliseconds."""
    now = time.time()
    second = int(now)
    if second != _second:
        _write_out(second)
    return f"{_timestamp}.{int((now - second) * 1000):03d}Z"


def milliseconds(seconds: float) -> float:
    """Returns a duration in milliseconds with two decimals. seconds: not negative.

    `round` would make the digits of the number and read them again, ten times the work.
    """
    return int(seconds * 100_000 + 0.5) / 100


def _write_out(second: int) -> None:
    from email.utils import formatdate  # the supervisor, which writes sentences alone, need not have it before

    global _second, _http_date, _timestamp
    _http_date = formatdate(second, usegmt=True).encode()
    _timestamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
    # Last, so that whoever sees this second in another thread finds its texts.
    _second = second
