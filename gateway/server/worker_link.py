"""What passes between the supervisor and its workers."""

import os
import signal
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection

from msgspec import Struct

from gateway.server.accept_turns import AcceptSlot
from gateway.settings.schema import Settings

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class SettingsSource(Struct, frozen=True):
    """The settings as they were read at start, and the function that reads them again (it raises SettingError).

    It is sent to workers, so the function must be one that can be pickled.
    """

    settings: Settings
    read: Callable[[], Settings]


class WorkerLink(Struct, frozen=True):
    """A worker's connections to the supervisor.

    messages: both ways, see `supervisor.py`. traceback: where the interpreter writes where it was when it crashed.
    """

    messages: Connection
    traceback: Connection


class WorkerStart(Struct, frozen=True):
    """What a new worker is told.

    settings: with the real port and, in demo mode, the emulator's address. reloaded: SIGHUP has come before, so the
    settings that can be reloaded are read again. restarts: workers that were replaced, by reason, which are to be
    counted in this process. accepting: where there are several workers. accepted: the last settings that a worker has
    taken over, if any has.
    """

    settings: Settings
    source: SettingsSource
    reloaded: bool = False
    restarts: Mapping[str, int] = {}
    accepting: AcceptSlot | None = None
    accepted: Settings | None = None


def has_terminal() -> bool:
    """Tells whether this process belongs to a terminal."""
    try:
        # It cannot be opened where there is no terminal, nor when the window has been closed.
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
