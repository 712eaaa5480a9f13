"""Images in URLs: which are accepted, and what their first bytes say about them.

Nothing is fetched: of a remote image only the address is read.
"""

from __future__ import annotations

import base64
import binascii
import re
from functools import lru_cache

import msgspec

from gateway.emulator.errors import invalid_request

DATA_URL = re.compile(r"data:image/(png|jpeg|jpg|webp|gif);base64,", re.IGNORECASE)
TOKENS = 259  # recorded: 256 of a tile and three delimiters


class Image(msgspec.Struct, frozen=True):
    """An image, with zeros where its bytes do not tell. Of a remote one, `data` is the address."""

    format: str
    width: int
    height: int
    size: int
    data: bytes


def check_url(url: object, *, remote: bool = True) -> None:
    """Raises a 400 for a URL that Cohere would not read."""
    if not isinstance(url, str) or not url:
        raise invalid_request("image url must not be empty.")  # guessed
    if remote and url.startswith(("http://", "https://")):
        return
    if DATA_URL.match(url) is None:
        raise invalid_request("image must be a valid data uri of type png, jpeg, webp or gif.")  # guessed
    if not read_image(url).data:
        raise invalid_request("image must be valid base64.")  # guessed


@lru_cache(maxsize=128)
def read_image(url: str) -> Image:
    """Returns the image of a data URL; its data is empty if it is no base64."""
    match = DATA_URL.match(url)
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
    """Returns width and height in pixels, or zeros."""
    if kind == "png" and data[:4] == b"\x89PNG" and len(data) >= 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if kind == "gif" and data[:3] == b"GIF" and len(data) >= 10:
        return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    # Only the extended format has the size of its canvas at a fixed place, each side less one.
    if kind == "webp" and data[:4] == b"RIFF" and data[12:16] == b"VP8X" and len(data) >= 30:
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    return _jpeg_size(data) if kind == "jpeg" else (0, 0)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Walks the JPEG segments to the first start-of-frame, which has the size."""
    offset = 2
    while offset + 9 < len(data) and data[offset] == 0xFF:
        marker = data[offset + 1]
        # C4 and CC are tables, C8 is reserved: none of them has a size.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = data[offset + 5 : offset + 7], data[offset + 7 : offset + 9]
            return int.from_bytes(width, "big"), int.from_bytes(height, "big")
        offset += 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")
    return 0, 0
