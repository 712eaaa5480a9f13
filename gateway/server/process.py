"""The command `serve`: sockets, the workers behind them, and the emulator beside them.

With `supervisor.py` it is all that the first process runs; the application is imported by the workers alone.
"""

import contextlib
import fcntl
import glob
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from gateway.auth.modes import mode_of
from gateway.observability.operator_log import OperatorLog
from gateway.server.accept_turns import BYTES, AcceptSlot
from gateway.server.sockets import listen, raise_file_limit, remove_unix_socket
from gateway.server.supervisor import SettingsRefused, Supervisor, WorkerRole
from gateway.server.worker_entry import run_emulator, run_gateway
from gateway.server.worker_link import SettingsSource, WorkerStart
from gateway.settings import checks
from gateway.settings.origins import chosen_at_start
from gateway.settings.schema import SettingError, Settings

MAX_PORT = 65_535

METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
METRICS_PREFIX = "cohere-gateway-metrics-"
LOCK_FILE = "supervisor.lock"
"""In the directory of metrics: locked as long as its supervisor lives, which the system ends whatever kills it."""


def serve(settings: Settings, announce: Callable[[Settings], None], read: Callable[[], Settings]) -> None:
    """Serves until SIGTERM or Ctrl-C. In demo mode the emulator runs as well, on a port of its own.

    announce: called once when callers are served, with the settings and the real port in them. read: reads the settings
    again, on SIGHUP; it is pickled for the workers. Raises SettingError, ListenError, WorkersFailed.
    """
    mode_of(settings)  # contradictions are told before anything is started
    # Made here only to see that it can be. Each worker makes its own.
    if settings.tls.certificate:
        from gateway.server.tls import context_of  # a process without TLS needs no memory for it

        context_of(settings.tls)
    elif settings.tls.key:
        raise SettingError("tls.key: it is of no use without tls.certificate")
    raise_file_limit()
    # Until there is a handler, SIGHUP would be the end.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    source = SettingsSource(settings, read)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen(settings.host, settings.port))
        if settings.unix_socket:
            stack.callback(remove_unix_socket, settings.unix_socket)
        else:
            settings = chosen_at_start(settings, "a free port", port=listener.getsockname()[1])
        sockets, emulator, roles = [listener], None, []
        if settings.demo:
            emulator = stack.enter_context(listen("127.0.0.1", 0))
            address = f"http://127.0.0.1:{emulator.getsockname()[1]}"
            settings = chosen_at_start(settings, "the embedded emulator", cohere_base_url=address)
            sockets.append(emulator)
        counts = ""
        if settings.workers > 1:
            stack.enter_context(_shared_metrics())
            counts = stack.enter_context(_accept_counts(settings.workers))
            if emulator is not None:  # it has state, and so a process of its own
                roles.append(WorkerRole("emulator", run_emulator, partial(_emulator_arguments, emulator), False))
                emulator = None

        def arguments(
            index: int, reloaded: bool, restarts: dict[str, int], reason: str, accepted: Settings | None
        ) -> tuple[Any, ...]:
            accepting = None
            if settings.workers > 1:
                restarts = {reason: 1} if reason else {}  # the counters of workers that died are still counted
                accepting = AcceptSlot(counts, index, settings.workers)
            return WorkerStart(settings, source, reloaded, restarts, accepting, accepted), listener, emulator

        roles += [WorkerRole("worker", run_gateway, partial(arguments, index)) for index in range(settings.workers)]
        timeouts, log = settings.timeouts, OperatorLog(console=settings.log == "console")
        supervisor = Supervisor(
            roles, log, lambda: announce(settings), timeouts.hung_worker, timeouts.shutdown, sockets
        )
        for sentence in checks.warnings(settings):
            log.message(sentence)
        try:
            supervisor.run()
        except SettingsRefused as error:
            raise SettingError(str(error)) from error


def _emulator_arguments(emulator: Any, *_: object) -> tuple[Any, ...]:
    return (emulator,)


def serve_emulator(host: str, port: int, models: str | None, announce: Callable[[str], None]) -> None:
    """Serves the emulator alone. models: a file to replace its list of models. Raises SettingError, ListenError."""
    import asyncio

    from gateway.server import worker

    if not 0 <= port <= MAX_PORT:
        raise SettingError(f"--port: {port} is not a port")
    application = worker.create_emulator(models)
    with listen(host, port) as listener:
        announce(f"http://{host}:{listener.getsockname()[1]}")
        asyncio.run(worker.serve([(application, listener, None)], 0.0))


@contextlib.contextmanager
def _shared_metrics() -> Iterator[None]:
    """Makes a directory in which the workers' metrics add up; prometheus_client reads its name at import."""
    # The operator has a directory for it, whose files stay.
    if os.environ.get(METRICS_DIRECTORY):
        yield
        return
    _remove_abandoned(tempfile.gettempdir())
    directory = tempfile.mkdtemp(prefix=METRICS_PREFIX)
    unlocked = os.path.join(directory, f"{LOCK_FILE}.new")
    lock = os.open(unlocked, os.O_CREAT | os.O_WRONLY, 0o600)
    # Until the directory is gone: another supervisor would take it for abandoned.
    fcntl.flock(lock, fcntl.LOCK_EX)
    # The file has its name only now. Another supervisor that starts in between would find it without a lock.
    os.rename(unlocked, os.path.join(directory, LOCK_FILE))
    os.environ[METRICS_DIRECTORY] = directory
    try:
        yield
    finally:
        del os.environ[METRICS_DIRECTORY]
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


@contextlib.contextmanager
def _accept_counts(workers: int) -> Iterator[str]:
    """Makes the file in which workers count the connections they accept. It goes with the directory of metrics."""
    with tempfile.NamedTemporaryFile(prefix="accept-counts-", dir=os.environ[METRICS_DIRECTORY]) as file:
        # Zeros: nobody has accepted anything yet.
        file.truncate(workers * BYTES)
        yield file.name


def _remove_abandoned(parent: str) -> None:
    """Removes what supervisors left that were killed: nobody holds the lock in their directories any more."""
    for directory in glob.glob(os.path.join(glob.escape(parent), f"{METRICS_PREFIX}*")):
        try:
            lock = os.open(os.path.join(directory, LOCK_FILE), os.O_WRONLY)
        except OSError:  # another user's, or one that is being made
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
        except OSError:
            pass  # it is in use
        finally:
            os.close(lock)
