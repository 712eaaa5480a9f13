"""The lines of a response's headers."""

import pytest

from gateway.server.response_head import header_lines


def test_each_header_is_a_line() -> None:
    assert header_lines([(b"a", b"1"), (b"b", b"caf\xe9\t2")]) == b"a: 1\r\nb: caf\xe9\t2\r\n"
    assert header_lines([]) == b""


@pytest.mark.parametrize("text", [b"1\r\nset-cookie: x", b"1\n", b"\r1", b"\x00", b"1\x7f"])
def test_a_control_character_makes_no_further_header(text: bytes) -> None:
    for header in ((b"name", text), (text, b"value")):
        with pytest.raises(RuntimeError):
            header_lines([(b"first", b"1"), header])
