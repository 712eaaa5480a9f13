"""What this process uses of the machine: CPU, memory, file descriptors."""

import os
import resource
import sys

from msgspec import Struct

_PAGE = os.sysconf("SC_PAGE_SIZE")
_STATM, _DESCRIPTORS = "/proc/self/statm", "/proc/self/fd"


class ProcessUsage(Struct, frozen=True):
    """cpu_seconds: of user and system since the process began. max_files: descriptors that it may open."""

    cpu_seconds: float
    resident_bytes: int
    open_files: int
    max_files: int


def read() -> ProcessUsage:
    """Returns what is used now. Without /proc, on macOS, memory is the most that it has ever been."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return ProcessUsage(
        usage.ru_utime + usage.ru_stime,
        _resident_bytes(usage.ru_maxrss),
        _open_files(),
        resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    )


def _resident_bytes(most: int) -> int:
    """Returns the resident bytes. most: the kernel's own figure, in kilobytes on Linux and in bytes on macOS."""
    try:
        with open(_STATM, "rb") as file:
            # The second number is the resident pages (proc(5)).
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        return most if sys.platform == "darwin" else most * 1024


def _open_files() -> int:
    """Counts the open files. Linux 6.2 says it without listing them, which takes milliseconds for thousands."""
    try:
        # Before Linux 6.2 the size of the directory is 0.
        return os.stat(_DESCRIPTORS).st_size or len(os.listdir(_DESCRIPTORS))
    except OSError:
        # macOS has this one.
        return len(os.listdir("/dev/fd"))
