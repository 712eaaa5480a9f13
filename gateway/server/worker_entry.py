"""Where a worker process begins.

The supervisor imports this and not `worker.py`, which brings the whole application.
"""

import contextlib
import faulthandler
import gc
import resource
import signal
import socket
from collections.abc import Iterator

from gateway.server.worker_link import SIGNALS, WorkerLink, WorkerStart
from gateway.settings.schema import SettingError


def run_gateway(link: WorkerLink, start: WorkerStart, listener: socket.socket, emulator: socket.socket | None) -> None:
    """Runs a worker to its end. emulator: the socket of the emulator, where it is served by this worker, too."""
    _prepare(link)
    with _no_collection():
        from gateway.server import worker

    try:
        worker.run(link, start, listener, emulator)
    except SettingError as error:
        link.messages.send(("refused", str(error)))


def run_emulator(link: WorkerLink, listener: socket.socket) -> None:
    """Runs the emulator in a process beside the workers. It outlives them: only the supervisor ends it."""
    _prepare(link)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    with _no_collection():
        from gateway.server import worker

    worker.run_emulator(link, listener)


def _prepare(link: WorkerLink) -> None:
    # The supervisor aborts a worker that hangs, and reads here where that one was.
    faulthandler.enable(link.traceback.fileno())
    # A core of a worker that is aborted would leave callers' words, and keys, on the disk.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keeps the garbage collector from walking what an import makes, nearly all of which stays: a sixth of its time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
