"""A worker: the process that serves, by Hypercorn in an asyncio loop, or by uvicorn in one of uvloop's.

uvloop brought Hypercorn no gain, and its own listeners have new connections wait behind busy ones. A worker is started
and watched by `supervisor.py`: it says that it is ready, beats once a second as long as its loop turns, and ends when
the supervisor does.
"""

import asyncio
import contextlib
import faulthandler
import select
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import hypercorn.asyncio
import hypercorn.config
import msgspec

from gateway.app import controlled_app
from gateway.descriptors import HANDSHAKE_SECONDS, AcceptLimit
from gateway.reload import RunningGateway
from gateway.server import free_memory, hypercorn_patches
from gateway.server.accept_turns import AcceptTurns
from gateway.server.connection import WRITE_TIMEOUT
from gateway.server.garbage_collection import GarbageCollection, keep_what_is_loaded
from gateway.server.idle_connections import close_idle
from gateway.server.sockets import BACKLOG
from gateway.server.tls import Tls
from gateway.server.worker_link import SIGNALS, WorkerLink, WorkerStart, has_terminal
from gateway.settings.schema import SettingError, Settings

KEEP_ALIVE_MAX_REQUESTS = 1_000_000
"""Hypercorn's default of 1,000 closes busy connections behind a load balancer."""

INTERRUPT_GRACE = 0.3
"""Seconds that Ctrl-C leaves to what is in flight; SIGTERM leaves the setting `timeouts.shutdown`."""

ERROR_RESPONSE_SECONDS = 0.3
"""For error responses to requests that had no time left, before their connections are cut."""

STORE_SECONDS = 5.0
"""Beyond the grace, for storing what became of responses in the background."""

SWITCH_SECONDS = 0.0001
"""How long a thread may keep the interpreter to itself while the event loop waits for it (CPython's default: 5 ms).

The loop lets go of the interpreter at each call of the system, a few times for each piece of a stream, and waits so
long each time to get it back from a thread that reads a large request.
"""

EMULATOR_KEEP_ALIVE = 75.0

BEAT_SECONDS = 1.0

ORPHAN_SECONDS = 600.0
"""After so long in which the loop has not turned, a worker ends by itself: its supervisor may be gone, too."""

Application: TypeAlias = tuple[Any, socket.socket, Settings | None]
"""An ASGI application, its socket, and the gateway's settings (None for the emulator)."""


def run(link: WorkerLink, start: WorkerStart, listener: socket.socket, emulator: socket.socket | None) -> None:
    """Serves the gateway and, if its socket is given, the emulator until a signal comes. Raises SettingError."""
    with asyncio.Runner(loop_factory=_loop_factory(start.settings)) as runner:
        runner.run(_serve_gateway(link, start, listener, emulator))


def run_emulator(link: WorkerLink, listener: socket.socket) -> None:
    """Serves the emulator until the supervisor has gone."""
    asyncio.run(serve([(create_emulator(None), listener, None)], 0.0, link=link))


async def _serve_gateway(
    link: WorkerLink, start: WorkerStart, listener: socket.socket, emulator: socket.socket | None
) -> None:
    settings = start.settings
    application, gateway = controlled_app(settings)
    applications: list[Application] = [(application, listener, settings)]
    if emulator is not None:
        applications.append((create_emulator(None), emulator, None))
    configure_interpreter()
    tls = Tls(settings.tls) if settings.tls.certificate else None
    reloading = _Reloading(link, start, gateway, tls)
    for reason, count in start.restarts.items():
        gateway.metrics.worker_restarts.labels(reason).inc(count)
    gateway.metrics.workers.set(1)
    reloading.catch_up(start)
    turns = AcceptTurns(start.accepting) if start.accepting is not None else None
    try:
        await serve(applications, settings.timeouts.shutdown, gateway, reloading.read_again, link, tls, turns)
    finally:
        gateway.metrics.sample()  # what the last requests have counted


class _Reloading:
    """What SIGHUP does in a worker, and what a worker that replaces another has to do again. tls: None without TLS."""

    def __init__(self, link: WorkerLink, start: WorkerStart, gateway: RunningGateway, tls: Tls | None) -> None:
        self._link, self._source, self._gateway, self._tls = link, start.source, gateway, tls
        self._loaded = start.source.settings

    def catch_up(self, start: WorkerStart) -> None:
        """Takes over what the other workers have, and reads the settings again if SIGHUP has come."""
        # Before the file, which may be one by now that nobody can use: then the settings of the other workers stay, and
        # not those of the start, with a master key that was replaced since, or with none.
        if start.accepted is not None:
            self._take_over(start.accepted)
        if start.reloaded:
            self.read_again()

    def read_again(self) -> None:
        """Reads the settings and takes them over. What cannot be used is said in the log, and the old ones stay."""
        try:
            new = self._source.read()
        except SettingError as error:
            self._gateway.refuse(error)
            return
        if self._take_over(new):
            with contextlib.suppress(OSError):  # the supervisor is gone
                self._link.messages.send(("settings", new))

    def _take_over(self, new: Settings) -> bool:
        """Returns whether the settings can be used."""
        if not self._gateway.reload(self._loaded, new):
            return False
        self._loaded = new
        try:
            if self._tls is not None:
                self._tls.reload(new.tls)
            elif new.tls.certificate:
                raise SettingError("tls.certificate: to serve with TLS needs a restart")
        except SettingError as error:
            self._gateway.report(f"the new certificate cannot be used, the old one stays: {error}")
        return True


def configure_interpreter() -> None:
    """Sets what serving needs of the garbage collector and of the switches between threads."""
    keep_what_is_loaded()
    sys.setswitchinterval(SWITCH_SECONDS)


async def serve(
    applications: list[Application],
    grace: float,
    gateway: RunningGateway | None = None,
    reload: Callable[[], None] = lambda: None,
    link: WorkerLink | None = None,
    tls: Tls | None = None,
    turns: AcceptTurns | None = None,
) -> None:
    """Serves each application on its socket until a signal comes; the first one stops first, then the others.

    grace: seconds that requests in flight have after SIGTERM. gateway: the first application's, if it is the gateway.
    reload: what SIGHUP does. tls: of the gateway's callers. turns: of the workers that accept from the same sockets.
    """
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_handle_exception)
    stopping = asyncio.Event()
    report = gateway.report if gateway is not None else lambda _: None
    accept_limit = AcceptLimit(loop, report, close_idle, turns)
    if gateway is not None:
        accept_limit.install()
        GarbageCollection(gateway.metrics.collections.observe).start(loop)
        free_memory.start(loop)
    configs = [_config(grace, settings) for _, _, settings in applications]
    had_terminal = has_terminal()

    def stop(grace: float) -> None:
        if turns is not None:
            turns.leave()
        for config in configs:
            config.graceful_timeout = grace + ERROR_RESPONSE_SECONDS
        if gateway is not None:
            gateway.drain(grace)
        stopping.set()

    def hang_up() -> None:
        if had_terminal and not has_terminal():
            stop(INTERRUPT_GRACE)  # the window was closed: nobody wants other settings
        else:
            reload()

    handlers = {
        signal.SIGINT: lambda: stop(INTERRUPT_GRACE),
        signal.SIGTERM: lambda: stop(grace),
        signal.SIGHUP: hang_up,
    }
    for number, handler in handlers.items():
        # What is ignored from the start is meant to be: by nohup, by a shell for what it runs in the background.
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, handler)
    # Blocked since before the process began (`supervisor.py`). What came meanwhile now finds a handler.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if link is not None:
        _Heartbeat(link, gateway, orphaned=lambda: stop(grace), turns=turns).start()
    triggers: list[Callable[[], Awaitable[None]]] = [stopping.wait]  # type: ignore[list-item]
    # The emulator answers the last requests of the gateway, so it stops after it.
    first_has_stopped = asyncio.Event()
    triggers += [first_has_stopped.wait] * (len(applications) - 1)  # type: ignore[list-item]
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                serve_application(
                    *application, config, trigger, accept_limit, tls if application[2] is not None else None
                )
            )
            for application, config, trigger in zip(applications, configs, triggers, strict=True)
        ]
        tasks[0].add_done_callback(lambda _: first_has_stopped.set())


class _Heartbeat:
    """Tells the supervisor that the loop turns, measures how late it does, and hears what the supervisor says."""

    def __init__(
        self,
        link: WorkerLink,
        gateway: RunningGateway | None,
        orphaned: Callable[[], None],
        turns: AcceptTurns | None = None,
    ) -> None:
        self._turns = turns
        self._messages, self._traceback = link.messages, link.traceback
        self._gateway, self._orphaned = gateway, orphaned
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()
        self._watched_since = -ORPHAN_SECONDS
        self._starting: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._loop.add_reader(self._messages.fileno(), self._receive)
        self._beat()
        if self._gateway is None:
            self._send(("ready",))
        else:
            self._gateway.availability.request_drain = lambda drained: self._send(("drain", drained))
            self._starting = self._loop.create_task(self._tell_ready(self._gateway))

    async def _tell_ready(self, gateway: RunningGateway) -> None:
        await gateway.started.wait()
        self._send(("ready",))

    def _beat(self) -> None:
        now = self._loop.time()
        if self._gateway is not None:
            self._gateway.metrics.loop_delay.observe(max(now - self._due, 0.0))
            self._gateway.metrics.sample()
        # Not with each beat: each time `faulthandler` starts another thread to watch.
        if now - self._watched_since >= ORPHAN_SECONDS / 10:
            self._watched_since = now
            faulthandler.dump_traceback_later(ORPHAN_SECONDS, exit=True, file=self._traceback.fileno())
        if self._turns is not None:
            self._turns.beat()
        self._send(("alive",))
        self._due = now + BEAT_SECONDS
        self._loop.call_at(self._due, self._beat)

    def _send(self, message: tuple[str, ...] | tuple[str, bool]) -> None:
        """Sends unless the supervisor reads nothing, say because it is suspended."""
        with contextlib.suppress(OSError):
            if select.select([], [self._messages.fileno()], [], 0)[1]:
                self._messages.send(message)

    def _receive(self) -> None:
        try:
            message = self._messages.recv()
        except (EOFError, OSError):
            self._loop.remove_reader(self._messages.fileno())
            self._orphaned()
            return
        if self._gateway is None:
            return
        if message[0] == "drained":
            self._gateway.availability.drained = message[1]
        else:
            _, self._gateway.workers.live, self._gateway.workers.configured = message


def _handle_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Drops news of connections that a shutdown cuts; asyncio of 3.11 writes a traceback for each of them."""
    if not isinstance(context.get("exception"), asyncio.CancelledError):
        loop.default_exception_handler(context)


def _loop_factory(settings: Settings) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Returns how to make the event loop for the server that is set; None for asyncio's own."""
    if settings.server != "uvicorn":
        return None
    from gateway.server import uvicorn_server

    return uvicorn_server.loop_factory()


async def serve_application(
    application: Any,
    listener: socket.socket,
    settings: Settings | None,
    config: hypercorn.config.Config,
    stop: Callable[[], Awaitable[object]],
    accept_limit: AcceptLimit,
    tls: Tls | None = None,
) -> None:
    """Serves one application on its socket, by the server that is set, until `stop` returns; it closes the socket.

    settings: the gateway's; None for the emulator. config: what holds for connections, whichever server has them. tls:
    None for plain HTTP.
    """
    context = tls.context if tls is not None else None
    if settings is not None and settings.server == "uvicorn":
        from gateway.server import uvicorn_server  # whoever does not use it does not load it

        await uvicorn_server.serve(uvicorn_server.Server(application, listener, config, stop, accept_limit, context))
        return
    # Hypercorn closes the descriptors it is given: from here on this one is its own.
    config.bind = [f"fd://{listener.detach()}"]
    if context is not None:
        # Hypercorn would make a context of its own, whose certificate nobody could replace.
        config.certfile = config.keyfile = ""
        config.ssl_handshake_timeout = HANDSHAKE_SECONDS
        vars(config)["create_ssl_context"] = lambda: context
    await hypercorn.asyncio.serve(application, config, shutdown_trigger=stop, mode="asgi")


def _config(grace: float, settings: Settings | None) -> hypercorn.config.Config:
    """Returns Hypercorn's configuration for one application."""
    config = hypercorn.config.Config()
    config.worker_class = "asyncio"
    config.graceful_timeout = grace + ERROR_RESPONSE_SECONDS
    config.shutdown_timeout = grace + STORE_SECONDS
    config.accesslog = None
    config.errorlog = None
    configure(config, settings)
    return config


def configure(config: hypercorn.config.Config, settings: Settings | None) -> None:
    """Sets what callers notice of Hypercorn's configuration; the tests' server has the same.

    settings: the gateway's; None for the emulator.
    """
    hypercorn_patches.install(config)
    config.backlog = BACKLOG
    config.keep_alive_max_requests = KEEP_ALIVE_MAX_REQUESTS
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


def create_emulator(models: str | None) -> Any:
    """Returns the emulator as an ASGI application. models: a file to replace its models. Raises SettingError."""
    from gateway.emulator.app import create_emulator as create

    if models is None:
        return create()
    try:
        return create(msgspec.json.decode(Path(models).read_bytes(), type=list[dict[str, Any]]))
    except OSError as error:
        raise SettingError(f"--models: cannot read {models}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise SettingError(f"--models: {models} is not a JSON list of models: {error}") from error
