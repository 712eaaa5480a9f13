"""The time of day in the two forms that every request needs, each written out once a second."""

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


def _write_out(second: int) -> None:
    from email.utils import formatdate  # the supervisor, which writes sentences alone, need not have it before

    global _second, _http_date, _timestamp
    _http_date = formatdate(second, usegmt=True).encode()
    _timestamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
    _second = second
