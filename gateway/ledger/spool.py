"""Rows on the disk while the database is away: a file for each process, taken up by whoever comes next.

A file is locked by the process that writes it. One that nobody locks belongs to a process that is gone; its rows are
written to the database by the first that finds it. A row that is there already is skipped then, so that it does not
matter how far the other one came.
"""

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

MAX_BYTES = 256 * 1024 * 1024
"""Of the file of one process."""

SUFFIX = ".spool"


class SpoolFull(Exception):
    """The file has as many bytes as it may have."""


class Spool:
    """The files in one directory, and the one of this process."""

    def __init__(self, directory: Path, max_bytes: int = MAX_BYTES) -> None:
        self._directory, self._max_bytes = directory, max_bytes
        self._file: BinaryIO | None = None
        self._path: Path | None = None

    @property
    def empty(self) -> bool:
        """This process has nothing in its file."""
        return self._file is None

    def append(self, rows: Sequence[bytes]) -> None:
        """Adds rows, each one line, and returns when they are on the disk. Raises OSError, SpoolFull."""
        data = b"".join(row + b"\n" for row in rows)
        file = self._file or self._create()
        # From the end: `batches` may have moved the position.
        size = file.seek(0, os.SEEK_END)
        if size + len(data) > self._max_bytes:
            raise SpoolFull
        try:
            if file.write(data) != len(data):  # a disk that is nearly full takes a part
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            # Without it the rows are in the system's memory, and a crash of the machine would take them.
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(size)  # half a row would spoil the next one
            raise

    def batches(self, size: int) -> Iterator[list[bytes]]:
        """Reads the rows of this process's file, `size` at a time. A line that was cut is left out."""
        if self._file is not None:
            yield from _batches(self._file, size)

    def clear(self) -> None:
        """Removes the file of this process: all of it is in the database."""
        if self._file is not None and self._path is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = self._path = None

    def close(self) -> None:
        """Leaves the file to the next process."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def adopt(self) -> bool:
        """Takes the file of a process that is gone in the place of its own, if it has none. Returns whether it did."""
        if self._file is not None or not self._directory.is_dir():
            return False
        for path in sorted(self._directory.glob(f"*{SUFFIX}")):
            try:
                file = path.open("r+b", buffering=0)
            except OSError:
                continue
            # Both: another process may have written its rows and removed it between the two calls.
            if _lock(file) and path.exists():
                self._file, self._path = file, path
                return True
            file.close()
        return False

    def _create(self) -> BinaryIO:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory / f"{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
        # For the owner alone: rows name callers and what they spent.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        file = open(descriptor, "r+b", buffering=0)
        _lock(file)
        self._file, self._path = file, path
        return file


def _lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _batches(file: BinaryIO, size: int) -> Iterator[list[bytes]]:
    file.seek(0)
    batch: list[bytes] = []
    # A reader of its own: the file is written without a buffer.
    with open(os.dup(file.fileno()), "rb") as lines:
        for line in lines:
            # The last line of a process that was killed while it wrote. Its row was never confirmed to anybody.
            if not line.endswith(b"\n"):
                break
            batch.append(line[:-1])
            if len(batch) == size:
                yield batch
                batch = []
    if batch:
        yield batch
