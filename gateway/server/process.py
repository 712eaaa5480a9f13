"""Processes and sockets. With `connection.py` the only file that imports Hypercorn, and the only one that starts the
emulator.

Hypercorn's asyncio worker with a long backlog: uvloop brought no gain here and starves newcomers
(docs/decisions.md#hypercorn-with-asyncio-and-a-long-backlog). Sockets are bound first and handed over by number, so
that a port of 0 is known before anything is served, and several workers share one listening socket.
"""

import asyncio
import contextlib
import gc
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import hypercorn.asyncio
import hypercorn.config
import msgspec
from msgspec.structs import replace

from gateway.app import controlled_app, create_app
from gateway.reload import Control
from gateway.server import hypercorn_patches
from gateway.server.connection import WRITE_TIMEOUT
from gateway.settings.schema import SettingError, Settings

BACKLOG = 2048
MOST_REQUESTS_A_CONNECTION = 1_000_000
"""Hypercorn's default of 1,000 closes busy connections behind a load balancer."""

INTERRUPT_GRACE = 0.3
"""Seconds that Ctrl-C leaves to what is in flight; SIGTERM leaves the setting `timeouts.shutdown`."""

TELLING_SECONDS = 0.3
"""For error answers to requests that had no time left, before their connections are cut."""
STORING_SECONDS = 5.0
"""Beyond the grace, for storing what became of responses in the background."""

GC_THRESHOLD = 20_000
"""Allocations between two looks of the garbage collector at the youngest objects (CPython's default: 700)."""

EMULATOR_KEEP_ALIVE = 75.0

MOST_PORT = 65_535

MANY_FILES = 8_192

TCP_KEEP_ALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
"""Two minutes after a caller's machine has gone without a word, the connection is known to be dead."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Origin(msgspec.Struct, frozen=True):
    """The settings as they were read, and the function that reads them again (it raises SettingError)."""

    settings: Settings
    reread: Callable[[], Settings]


MULTIPROCESS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


class CannotListen(Exception):
    """The address is taken, or none of this machine's."""


def bound(host: str, port: int) -> socket.socket:
    """A listening socket. Raises CannotListen."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit this from the socket that accepts them.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in TCP_KEEP_ALIVE:
        if option := getattr(socket, name, None):  # not every system has each of them
            listening.setsockopt(socket.IPPROTO_TCP, option, value)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise CannotListen(f"cannot listen on {host}:{port}: {error.strerror}") from error
    listening.listen(BACKLOG)
    listening.setblocking(False)
    listening.set_inheritable(True)
    return listening


def serve(settings: Settings, announce: Callable[[Settings], None], reread: Callable[[], Settings]) -> None:
    """Serves until SIGTERM or Ctrl-C. In demo mode the emulator runs beside, on a port of its own.

    announce: is told the settings with the real port, when it is bound. reread: reads the settings again, on SIGHUP; it
    must be possible to pickle it, for the workers. Raises SettingError, CannotListen.
    """
    _allow_many_files()
    # Until there is a handler, SIGHUP would be the end.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    with contextlib.ExitStack() as stack:
        origin = Origin(settings, reread)
        listening = stack.enter_context(bound(settings.host, settings.port))
        settings = replace(settings, port=listening.getsockname()[1])
        emulator: socket.socket | None = None
        if settings.demo:
            emulator = stack.enter_context(bound("127.0.0.1", 0))
            settings = replace(settings, cohere_base_url=f"http://127.0.0.1:{emulator.getsockname()[1]}")
        create_app(settings)  # contradictory settings are told before anything is announced
        announce(settings)
        if settings.workers == 1:
            asyncio.run(_serve_here(settings, listening, emulator, origin))
        else:
            stack.enter_context(_shared_metrics())
            _serve_in_workers(settings, listening, emulator, origin)


def serve_emulator(host: str, port: int, models: str | None, announce: Callable[[str], None]) -> None:
    """Serves the emulator alone. models: a file to replace its list of models. Raises SettingError, CannotListen."""
    if not 0 <= port <= MOST_PORT:
        raise SettingError(f"--port: {port} is not a port")
    app = _emulator(models)
    with bound(host, port) as listening:
        announce(f"http://{host}:{listening.getsockname()[1]}")
        asyncio.run(_run([(app, listening, None)], 0.0))


def _allow_many_files() -> None:
    """As many connections as the system lets this user have: the usual soft limit is 1,024, and each is a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS says "unlimited" and does not mean it.
    wanted = max(soft, MANY_FILES) if hard == resource.RLIM_INFINITY else hard
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _serve_here(
    settings: Settings,
    listening: socket.socket,
    emulator: socket.socket | None,
    origin: Origin,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serves in this process: the gateway and, if its socket is given, the emulator. ready: see `_run`."""
    loaded = origin.settings
    guard, control = controlled_app(settings)
    apps: list[tuple[Any, socket.socket, Settings | None]] = [(guard, listening, settings)]
    if emulator is not None:
        apps.append((_emulator(None), emulator, None))
    # What is loaded now stays for ever: the collector need not walk it again and again. And a request makes
    # more objects than the default threshold, nearly all of which die by reference count.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)

    def reload() -> None:
        nonlocal loaded
        try:
            new = origin.reread()
        except SettingError as error:
            control.refused(error)
            return
        if control.reload(loaded, new):
            loaded = new

    await _run(apps, settings.timeouts.shutdown, control, reload, ready)


async def _run(
    apps: list[tuple[Any, socket.socket, Settings | None]],
    grace: float,
    control: Control | None = None,
    reload: Callable[[], None] = lambda: None,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serves each application on its socket until a signal comes; the first one stops first, then the others.

    apps: applications, their sockets, and the gateway's settings (None for the emulator). grace: seconds that requests
    in flight have after SIGTERM.
    control: of the first application, if it is the gateway. reload: what SIGHUP does. ready: called when signals are
    handled.
    """
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_quietly)
    stop = asyncio.Event()
    configs = [_config(listening, grace, settings) for _, listening, settings in apps]
    attached = _has_terminal()

    def ends(grace: float) -> None:
        for config in configs:
            config.graceful_timeout = grace + TELLING_SECONDS
        if control is not None:
            control.drain(grace)
        stop.set()

    def hung_up() -> None:
        if attached and not _has_terminal():
            ends(INTERRUPT_GRACE)  # the window was closed: nobody wants other settings
        else:
            reload()

    handlers = {
        signal.SIGINT: lambda: ends(INTERRUPT_GRACE),
        signal.SIGTERM: lambda: ends(grace),
        signal.SIGHUP: hung_up,
    }
    for number, handler in handlers.items():
        # What is ignored from the start is meant to be: by nohup, by a shell for what it runs in the background.
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, handler)
    ready()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    triggers: list[Callable[[], Awaitable[None]]] = [stop.wait]  # type: ignore[list-item]
    front_is_down = asyncio.Event()
    triggers += [front_is_down.wait] * (len(apps) - 1)  # type: ignore[list-item]
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=trigger, mode="asgi"))
            for (app, *_), config, trigger in zip(apps, configs, triggers, strict=True)
        ]
        tasks[0].add_done_callback(lambda _: front_is_down.set())


def _has_terminal() -> bool:
    """Whether there is a terminal that this process belongs to."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _quietly(loop: asyncio.AbstractEventLoop, trouble: dict[str, Any]) -> None:
    """Connections that a shutdown cuts are no news; asyncio of 3.11 writes a traceback for each of them."""
    if not isinstance(trouble.get("exception"), asyncio.CancelledError):
        loop.default_exception_handler(trouble)


def _config(listening: socket.socket, grace: float, settings: Settings | None) -> hypercorn.config.Config:
    """Hypercorn's settings for one application; takes the socket over."""
    config = hypercorn.config.Config()
    # Hypercorn closes the descriptors it is given: from here on this one is its own.
    config.bind = [f"fd://{listening.detach()}"]
    config.worker_class = "asyncio"
    config.graceful_timeout = grace + TELLING_SECONDS
    config.shutdown_timeout = grace + STORING_SECONDS
    config.accesslog = None
    config.errorlog = None
    configure(config, settings)
    return config


def configure(config: hypercorn.config.Config, settings: Settings | None) -> None:
    """Sets what callers notice of Hypercorn's settings; the tests' server has the same.

    settings: the gateway's; None for the emulator.
    """
    hypercorn_patches.install(config)
    config.backlog = BACKLOG
    config.keep_alive_max_requests = MOST_REQUESTS_A_CONNECTION
    config.include_server_header = False
    # No WebSocket pings: Hypercorn's sleep between two of them outlives the connection, and would hold up the end.
    if settings is None:
        config.keep_alive_timeout = EMULATOR_KEEP_ALIVE
        return
    # How long a connection may take for its next request's head, from its beginning or its last response.
    config.keep_alive_timeout = settings.timeouts.keep_alive
    setattr(config, WRITE_TIMEOUT, settings.timeouts.response_write)
    # The gateway writes the `date` header itself, once a second; Hypercorn would for each response.
    config.include_date_header = False
    config.websocket_max_message_size = settings.body_limit


def _emulator(models: str | None) -> Any:
    from gateway.emulator.app import create_emulator

    if models is None:
        return create_emulator()
    try:
        return create_emulator(msgspec.json.decode(Path(models).read_bytes(), type=list[dict[str, Any]]))
    except OSError as error:
        raise SettingError(f"--models: cannot read {models}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise SettingError(f"--models: {models} is not a JSON list of models: {error}") from error


# --- several workers --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _shared_metrics() -> Iterator[None]:
    """A directory in which the workers' metrics add up; prometheus_client reads its name at import."""
    if os.environ.get(MULTIPROCESS_DIRECTORY):
        yield
        return
    directory = tempfile.mkdtemp(prefix="cohere-gateway-metrics-")
    os.environ[MULTIPROCESS_DIRECTORY] = directory
    try:
        yield
    finally:
        del os.environ[MULTIPROCESS_DIRECTORY]
        shutil.rmtree(directory, ignore_errors=True)


def _serve_in_workers(
    settings: Settings, listening: socket.socket, emulator: socket.socket | None, origin: Origin
) -> None:
    """One process a worker, all accepting from the one socket; the emulator, which has state, in one more.

    Signals that come while the workers start must not be lost, nor kill them with a traceback: they are blocked,
    which the workers inherit, until each process has its handlers.
    """
    spawn = multiprocessing.get_context("spawn")
    resource_tracker.ensure_running()  # it would unblock them, were it started later
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    ready = [spawn.Event() for _ in range(settings.workers)]
    workers = [spawn.Process(target=_worker, args=(settings, listening, origin, one)) for one in ready]
    beside = [spawn.Process(target=_emulator_worker, args=(emulator,))] if emulator is not None else []
    for process in [*beside, *workers]:
        process.start()

    def pass_on(number: int, frame: object) -> None:
        for process, one in zip(workers, ready, strict=True):
            if process.pid is not None and (one.is_set() or number != signal.SIGHUP):
                with contextlib.suppress(ProcessLookupError):
                    # A worker that has not served yet has nothing to finish, and has just read the settings.
                    os.kill(process.pid, number if one.is_set() else signal.SIGKILL)

    for number in SIGNALS:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    for process in workers:
        process.join()
    for process in beside:
        process.kill()
        process.join()


def _worker(settings: Settings, listening: socket.socket, origin: Origin, ready: Any) -> None:
    asyncio.run(_serve_here(settings, listening, None, origin, ready.set))


def _emulator_worker(listening: socket.socket) -> None:
    """Outlives the workers: the parent ends it, no signal of the terminal's does."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    asyncio.run(_run([(_emulator(None), listening, None)], 0.0))
