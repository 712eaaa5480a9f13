"""Processes of Python that need not import anything: they are forked from one that has.

To import the gateway and what it stands on takes a second of CPU, more than most tests of processes do with it, and a
server imports it in its worker; the clients' libraries take as long. Here one process imports all that, and forks for
each program; where a supervisor starts a worker, it forks as well where it would start an interpreter. What a new
interpreter guarantees is kept: only the descriptors that are passed on stay open, handlers of signals and what runs at
exit are as at first, and what a module does once in a process is done anew.

`start` is used by `process.py`, `run` by the examples. This file is also the program of the process that forks.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import json
import multiprocessing.util
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
import weakref
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]

AVAILABLE = sys.platform == "linux"

GATEWAY_LIBRARIES = (
    "aiohttp asyncpg click cryptography.hazmat.primitives.ciphers.aead hypercorn.asyncio hypercorn.protocol.h2 "
    "hypercorn.protocol.h11 jsonschema jwt msgspec multiprocessing.popen_spawn_posix python_multipart re2 "
    "redis.asyncio sqlalchemy.dialects.postgresql.asyncpg sqlalchemy.dialects.sqlite sqlalchemy.ext.asyncio sqlite3 "
    "starlette.applications starlette.middleware starlette.responses starlette.routing tomllib wsproto "
    "gateway.server.worker gateway.server.process gateway.cli.serve"
).split()

_ORDERING = threading.Lock()
"""One order and its answer at a time: two threads would read each other's."""

_shared: tuple[Path, int] | None = None
"""Where the processes of several workers are found, and a pipe that closes when the last worker has ended."""

CLIENT_LIBRARIES = ("openai", "openai.resources.chat", "openai.resources.responses", "openai.resources.embeddings")


class PreloadedProcess:
    """A child of the process that forks, with what `subprocess.Popen` has."""

    def __init__(self, pid: int, stdout: int, stderr: int, status: int) -> None:
        self.pid = pid
        self.stdout, self.stderr = os.fdopen(stdout, "rb", 0), os.fdopen(stderr, "rb")
        self._status = status
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status, negative for a signal's. TimeoutExpired when it does not come in time."""
        result = self._look(timeout)
        if result is None:
            raise subprocess.TimeoutExpired("gateway", timeout or 0)
        return result

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = int(os.read(self._status, 16))
            os.close(self._status)
        return self.returncode


def start(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: Path = ROOT,
    libraries: Sequence[str] = GATEWAY_LIBRARIES,
) -> PreloadedProcess:
    """Run `python ARGUMENTS` (-m, -c or a file) in a group of its own, without standard input."""
    order = {"arguments": arguments, "environment": dict(environment), "folder": str(folder)}
    data = json.dumps(order).encode()
    (stdout, theirs), (stderr, their_errors), (status, their_status) = os.pipe(), os.pipe(), os.pipe()
    try:
        with _ORDERING:
            control = _forking_process(tuple(libraries))
            socket.send_fds(control, [len(data).to_bytes(4, "big")], [theirs, their_errors, their_status])
            control.sendall(data)
            pid = int.from_bytes(control.recv(4, socket.MSG_WAITALL), "big")
    finally:
        for descriptor in (theirs, their_errors, their_status):
            os.close(descriptor)
    return PreloadedProcess(pid, stdout, stderr, status)


def run(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    timeout: float,
    libraries: Sequence[str] = CLIENT_LIBRARIES,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end. TimeoutExpired when that does not come in time."""
    process = start(arguments, environment, folder, libraries)
    errors: list[bytes] = []
    reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))
    reader.start()
    watchdog = threading.Timer(timeout, process.send_signal, (signal.SIGKILL,))
    watchdog.start()
    try:
        with process.stdout, process.stderr:
            output = process.stdout.read()
            reader.join()
        code = process.wait(timeout)
    finally:
        watchdog.cancel()
    return subprocess.CompletedProcess(list(arguments), code, output.decode(), b"".join(errors).decode())


def share(folder: Path) -> None:
    """Let this process and those that are forked from it have one process that forks, for each set of libraries.

    folder: an empty one that stays while they run. What it starts ends with the last of them.
    """
    global _shared
    _shared = folder, os.pipe()[0]  # nobody writes into it: its other end stays open in each of them


@cache
def _forking_process(libraries: tuple[str, ...]) -> socket.socket:
    if _shared is not None:
        return _shared_process(libraries, *_shared)
    ours, theirs = socket.socketpair()
    with theirs:
        _start_forking(libraries, theirs)
    return ours


def _shared_process(libraries: tuple[str, ...], folder: Path, ending: int) -> socket.socket:
    address = folder / f"libraries-{zlib.crc32(' '.join(libraries).encode()):08x}"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not address.exists():
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(address))
                listener.listen()
                _start_forking(libraries, listener, ending)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(address))
    return connection


def _start_forking(libraries: Sequence[str], control: socket.socket, ending: int | None = None) -> None:
    descriptors = [control.fileno()] if ending is None else [control.fileno(), ending]
    subprocess.Popen(
        [sys.executable, __file__, ",".join(map(str, descriptors)), *libraries],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=descriptors,
        start_new_session=True,
    ).returncode = 0  # it ends when its socket, or the other end of `ending`, is closed, and nobody waits for it


# --- in the process that forks ------------------------------------------------------------------------------


def import_libraries(libraries: Sequence[str]) -> None:
    gc.disable()
    sys.path.insert(0, str(ROOT))
    for name in libraries:
        import_module(name)
    _save_coverage()  # of the imports; a fork is measured anew
    gc.collect()
    gc.freeze()
    gc.enable()


def serve_workers(listener: socket.socket, ending: int) -> None:
    """Fork for every worker of the tests, which then has the fork as if it had started it, until all have ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    sources: list[Any] = [listener, ending]
    while ending not in (ready := select.select(sources, [], [])[0]):
        if listener in ready:
            control, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                os.close(ending)
                serve_forks(control)
                return
            control.close()


def serve_forks(control: socket.socket) -> None:
    """Start what is ordered, and pass on how it ended, until the test process is gone."""
    waking, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    children: dict[int, int] = {}
    while True:
        sources: list[Any] = [control, waking]
        ready, _, _ = select.select(sources, [], [])
        if waking in ready:
            os.read(waking, 4096)
            for pid in [*children]:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    os.write(children[pid], str(os.waitstatus_to_exitcode(status)).encode())
                    os.close(children.pop(pid))
        if control in ready:
            size, descriptors, _, _ = socket.recv_fds(control, 4, 3)
            if not size:
                return
            order = json.loads(control.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL))
            pid = os.fork()
            if pid == 0:
                _become(partial(_run_python, order), {1: descriptors[0], 2: descriptors[1]}, ())
            children[pid] = descriptors[2]
            for descriptor in descriptors[:2]:
                os.close(descriptor)
            control.sendall(pid.to_bytes(4, "big"))


def _run_python(order: dict[str, Any]) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(order["environment"])
    time.tzset()
    vars(multiprocessing.util)["spawnv_passfds"] = _fork_worker
    _choose_metric_values()
    os.chdir(order["folder"])
    if os.environ.get("PYTHONWARNINGS") == "error":
        warnings.simplefilter("error")
    first, *rest = order["arguments"]
    if first == "-m":
        sys.argv, sys.path[0] = ["-m", *rest[1:]], os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        exec(rest[0], vars(sys.modules["__main__"]))
    else:
        sys.argv, sys.path[0] = [first, *rest], str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")


def _fork_worker(path: str, arguments: Sequence[str], passed: Sequence[int]) -> int:
    """Do what multiprocessing's function does: start `python -c PROGRAM --multiprocessing-fork`."""
    pid = os.fork()
    if pid == 0:
        sys.argv = ["-c", *arguments[-1:]]
        _choose_metric_values()
        _become(partial(exec, arguments[-2], {}), {}, passed)
    return pid


def _choose_metric_values() -> None:
    """Do what prometheus_client does when it is imported: it looks at the environment for where its values are."""
    if "prometheus_client" in sys.modules:
        values = import_module("prometheus_client.values")
        vars(values)["ValueClass"] = values.get_value_class()


def _become(run: Callable[[], object], standard: Mapping[int, int], passed: Sequence[int]) -> NoReturn:
    """Run as a process that has just been started would, and end. standard: which descriptors become 1 and 2."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                with contextlib.suppress(OSError, ValueError):
                    signal.signal(number, signal.SIG_DFL)
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        for target, descriptor in standard.items():
            os.dup2(descriptor, target)
        if standard:
            # Those that are here were made for files in which one can go back, and would do so in a pipe.
            sys.stdout = open(1, "w", closefd=False)
            sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        _close_all_but({0, 1, 2, *passed})
        atexit._clear()
        finalizers: Any = weakref.finalize
        finalizers._registry.clear()
        finalizers._registered_with_atexit = False
        atexit.register(vars(multiprocessing.util)["_exit_function"])
        status = _exit_status(run)
        vars(threading)["_shutdown"]()
        atexit._run_exitfuncs()
        _save_coverage()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _save_coverage() -> None:
    """Save what coverage has counted so far, and end it. At exit it would, if what runs then were not cleared."""
    coverage = sys.modules.get("coverage")
    current = coverage.Coverage.current() if coverage is not None else None
    if current is not None:
        current.stop()
        current.save()


def _exit_status(run: Callable[[], object]) -> int:
    try:
        run()
    except SystemExit as exit:
        if exit.code is None or isinstance(exit.code, int):
            return exit.code or 0
        print(exit.code, file=sys.stderr)
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _close_all_but(descriptors: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in descriptors:
            with contextlib.suppress(OSError):
                os.close(int(name))


if __name__ == "__main__":
    import_libraries(sys.argv[2:])
    descriptor, *ending = map(int, sys.argv[1].split(","))
    if ending:
        serve_workers(socket.socket(fileno=descriptor), ending[0])
    else:
        serve_forks(socket.socket(fileno=descriptor))
    os._exit(0)  # nothing is left to do, and coverage would save once more after its data have been read
