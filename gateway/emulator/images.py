"""Pictures that arrive as addresses: which are accepted, and what their first bytes tell.

Nothing is fetched: a remote address is only looked at.
"""

from __future__ import annotations

import base64
import binascii
import re
from functools import lru_cache

import msgspec

from gateway.emulator.refusals import invalid

DATA = re.compile(r"data:image/(png|jpeg|jpg|webp|gif);base64,", re.IGNORECASE)
LARGEST = 20 * 1024 * 1024  # docs/cohere-api.md#messages: 20 images or 20 MB in a request
TOKENS = 259  # recorded: 256 of a tile and three delimiters


class Image(msgspec.Struct, frozen=True):
    """What one address says about its picture. Zeros where the bytes do not tell."""

    format: str
    width: int
    height: int
    size: int
    data: bytes


def check_url(url: object, *, remote: bool = True) -> None:
    """Refuse an address that Cohere would not read."""
    if not isinstance(url, str) or not url:
        raise invalid("image url must not be empty.")  # guessed
    if remote and url.startswith(("http://", "https://")):
        return
    if DATA.match(url) is None:
        raise invalid("image must be a valid data uri of type png, jpeg, webp or gif.")  # guessed
    if not look(url).data:
        raise invalid("image must be valid base64.")  # guessed


@lru_cache(maxsize=128)
def look(url: str) -> Image:
    """The picture behind an address; a remote one stays a name."""
    match = DATA.match(url)
    if match is None:
        return Image("", 0, 0, 0, url.encode())
    kind = match.group(1).lower().replace("jpg", "jpeg")
    try:
        data = base64.b64decode(url[match.end() :], validate=True)
    except (binascii.Error, ValueError):
        data = b""
    width, height = _size(kind, data)
    return Image(f"image/{kind}", width, height, len(data), data)


def _size(kind: str, data: bytes) -> tuple[int, int]:
    if kind == "png" and data[:4] == b"\x89PNG" and len(data) >= 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if kind == "gif" and data[:3] == b"GIF" and len(data) >= 10:
        return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    if kind == "webp" and data[:4] == b"RIFF" and data[12:16] == b"VP8X" and len(data) >= 30:
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    return _jpeg_size(data) if kind == "jpeg" else (0, 0)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Walk the JPEG segments to the first start-of-frame."""
    place = 2
    while place + 9 < len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[place + 7 : place + 9], "big"), int.from_bytes(
                data[place + 5 : place + 7], "big"
            )
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return 0, 0
