"""The headers of a response as they are written, for both servers."""

from collections.abc import Iterable

# Not the tab, which may stand in a value (RFC 9110 §5.5).
_NOT_IN_A_HEAD = bytes({*range(32), 127} - {9})
"""What no name and no value of a header may have in it."""


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Returns headers as lines, each with its end. Raises RuntimeError on a control character in one of them.

    A line end that is not ours would make headers of somebody's bytes.
    """
    lines = [*map(b": ".join, headers), b""]
    text = b"\r\n".join(lines)
    # The line ends that are ours take two bytes for each header. If more is missing, somebody else's was among them.
    if len(text.translate(None, _NOT_IN_A_HEAD)) != len(text) - 2 * (len(lines) - 1):
        raise RuntimeError("a header has a control character")
    return text
