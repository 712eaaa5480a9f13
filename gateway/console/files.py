"""The files of the console: read, compressed and named by their content once, when somebody first looks.

A module's address has the digest of all files in it, so a browser keeps it for ever, and a new version has new
addresses. Only the page itself is asked for anew each time.
"""

import gzip
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

from msgspec import Struct

# A folder that is not named here is not served.
FOLDERS = ("scripts", "screens", "vendor")
PAGE = "index.html"
PREFIX = "/console/static/"

TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
"""By the end of a file's name: what is served, and as what. Other files beside them are not."""

# What stands in `index.html` for the address of its files.
_PLACEHOLDER = b"{static}"


class File(Struct, frozen=True):
    """A file as it is sent. tag: its ETag, with quotes. compressed: with gzip."""

    content_type: bytes
    tag: bytes
    body: bytes
    compressed: bytes


class Files(Struct, frozen=True):
    """page: what every address of the console shows. static: the rest, by name below `PREFIX` and the digest."""

    page: File
    static: Mapping[str, File]
    digest: str


@cache
def load() -> Files:
    """Returns all files. It takes tens of milliseconds the first time, so it is called in a thread."""
    bodies = dict(_read())
    # With names and separators, so that no two sets of files come to the same bytes.
    digest = hashlib.sha256(b"".join(b"%s\0%s\0" % (name.encode(), bodies[name]) for name in sorted(bodies)))
    address = digest.hexdigest()[:16]
    page = bodies.pop(PAGE).replace(_PLACEHOLDER, (PREFIX + address).encode())
    return Files(_file(PAGE, page), {name: _file(name, body) for name, body in bodies.items()}, address)


def _read() -> Iterator[tuple[str, bytes]]:
    root = resources.files("gateway.console")
    yield from _files_in(root, "")
    for folder in FOLDERS:
        yield from _files_in(root / folder, f"{folder}/")


def _files_in(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for one in folder.iterdir():
        if one.is_file() and _ending(one.name) in TYPES:
            yield prefix + one.name, one.read_bytes()


def _file(name: str, body: bytes) -> File:
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    # `mtime=0`, or each process would have other bytes below the same address.
    return File(TYPES[_ending(name)].encode(), tag.encode(), body, gzip.compress(body, 9, mtime=0))


def _ending(name: str) -> str:
    return "." + name.rpartition(".")[2]
