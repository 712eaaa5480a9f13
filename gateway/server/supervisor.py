"""The supervisor: the first process. It binds the sockets, starts the workers, and replaces those that die.

It imports nothing of the application, so that it starts at once, stays small and has nothing that could fail. One
worker is supervised as several are. Over the pipe of its WorkerLink

    a worker says      ("ready",) once, ("alive",) each second, ("refused", sentence) when settings cannot be used
                       ("drain", drained) when it is asked that no worker be ready any more, or that they be again
                       ("settings", settings) when it has taken over those of SIGHUP, which its successors begin with
    a worker is told   ("workers", live, configured) whenever one comes or goes
                       ("drained", drained) when one of them said `drain`, and when it is ready later than that

and each notices by the pipe's end that the other is gone. A worker whose loop does not turn is aborted: the interpreter
then writes where it was, which the log shows.
"""

import contextlib
import glob
import multiprocessing
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing import resource_tracker, spawn
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from msgspec import Struct

from gateway.observability.operator_log import OperatorLog
from gateway.server.worker_link import SIGNALS, WorkerLink, has_terminal

START_SECONDS = 60.0
"""For a worker to become ready."""

RESTART_DELAYS: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before a worker is replaced: after its first death in a row, the second, and so on."""

STABLE_SECONDS = 60.0
"""A worker that served for so long had nothing to do with the deaths before it."""

MAX_FAILURES = 5
"""Deaths in a row of every worker, with none that serves, after which the supervisor gives up."""

ABORT_SECONDS = 2.0
"""For a worker that does not answer to write where it is, before it is killed."""

EXIT_SECONDS = 10.0
"""Beyond the time that a worker has for stopping."""

SUSPENDED_SECONDS = 5.0
"""When the supervisor itself did not run for so long, say because the machine slept, silence proves nothing."""

EXEC_FAILED = 255
"""The exit status of a process whose program could not be executed."""

DIED, UNRESPONSIVE = "died", "unresponsive"


class SettingsRefused(Exception):
    """A worker could not use the settings. Its text is the sentence."""


class WorkersFailed(Exception):
    """No worker is left, and to start others is hopeless."""


class WorkerRole(Struct, frozen=True):
    """What a worker runs: a function of this signature in a module, by their names.

    arguments: makes what the function is given after its WorkerLink. It is told whether SIGHUP has come, how many
    workers were replaced so far by reason, why the one before in this place was (empty for the first), and the last
    settings that a worker has taken over (None where none has).
    counted: it serves callers, so it counts as a worker in readiness and metrics.
    """

    name: str
    target: Callable[..., None]
    arguments: Callable[[bool, dict[str, int], str, Any], tuple[Any, ...]]
    counted: bool = True


class _Worker:
    """A place for one worker, and the process that has it at the moment."""

    def __init__(self, role: WorkerRole, name: str) -> None:
        self.role, self.name = role, name
        self.process: BaseProcess | None = None
        self.messages: Connection | None = None
        self.traceback: Connection | None = None
        self.ready = False
        self.started = self.heard = 0.0
        self.reloads = 0  # times that SIGHUP had come when it last read the settings
        self.restart_at: float | None = None  # None while it runs
        self.failures = 0  # in a row
        self.reason = ""  # why the process before was replaced
        self.aborted: float | None = None  # when, if it did not answer

    @property
    def pid(self) -> int:
        assert self.process is not None and self.process.pid is not None
        return self.process.pid

    def kill(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


class Supervisor:
    """Runs workers until it is told to stop.

    roles: what they run, one worker each. announce: called once, when the first one is ready. hang_timeout: seconds
    after which a worker that says nothing is replaced. stop_timeout: seconds that workers have after SIGTERM. closing:
    the sockets that are closed when it stops, so that nobody waits for an answer that will not come.
    """

    def __init__(
        self,
        roles: list[WorkerRole],
        log: OperatorLog,
        announce: Callable[[], None],
        hang_timeout: float,
        stop_timeout: float,
        closing: list[socket.socket],
    ) -> None:
        self._log, self._announce, self._closing = log, announce, closing
        self._hang_timeout, self._stop_timeout = hang_timeout, stop_timeout
        self._workers = [_Worker(role, f"{role.name} {number}") for number, role in enumerate(roles, 1)]
        self._spawn = multiprocessing.get_context("spawn")
        self._announced, self._reloads = False, 0
        self._stop_at: float | None = None  # when workers that still run are killed
        self._refused = ""
        self._drained: bool | None = None  # what was asked for last, if anything was
        self._accepted: Any = None  # the last settings that a worker has taken over
        self._signals: list[int] = []  # that have come and wait to be handled
        self._restarts: Counter[str] = Counter()
        self._terminal = has_terminal()

    def run(self) -> None:
        """Returns when all workers have stopped. Raises SettingsRefused, WorkersFailed."""
        _start_without_tracker()
        waking, wake = os.pipe()
        for descriptor in (waking, wake):
            os.set_blocking(descriptor, False)
        # A signal must end the waiting below. Python would go on with it when the handler has returned (PEP 475).
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda number, frame: self._signals.append(number))
        try:
            for worker in self._workers:
                self._start(worker)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            self._watch(waking)
        finally:
            for worker in self._workers:
                if worker.process is not None:
                    worker.kill(signal.SIGKILL)
                    worker.process.join()
            signal.set_wakeup_fd(-1)
            os.close(waking)
            os.close(wake)

    # --- the loop ------------------------------------------------------------------------------------------

    def _watch(self, waking: int) -> None:
        before = time.monotonic()
        while self._running or (self._stop_at is None and any(worker.restart_at for worker in self._workers)):
            sources: list[Any] = [waking]
            for worker in self._workers:
                if worker.process is not None:
                    sources.append(worker.process.sentinel)
                    sources += [worker.messages] if worker.messages is not None else []
            ready = wait(sources, self._next_check())
            with contextlib.suppress(BlockingIOError):
                os.read(waking, 4096)
            now = time.monotonic()
            self._handle_signals()
            if now - before > 1.0 + SUSPENDED_SECONDS:
                for worker in self._workers:
                    worker.heard = now
            before = now
            for worker in self._workers:
                if worker.messages in ready:
                    self._receive(worker, now)
                if worker.process is not None and worker.process.sentinel in ready:
                    self._bury(worker, now)
            self._check(now)

    @property
    def _running(self) -> list[_Worker]:
        """The workers that serve callers, or will."""
        return [worker for worker in self._workers if worker.process is not None and worker.role.counted]

    def _next_check(self) -> float:
        """Returns seconds until something may have to be done without being asked."""
        now = time.monotonic()
        due = [worker.restart_at - now for worker in self._workers if worker.restart_at is not None]
        # Once a second at least, since only the clock shows that a worker says nothing.
        return max(0.0, min([1.0, *due]))

    def _check(self, now: float) -> None:
        """Replaces workers whose time has come, and kills those whose time is over."""
        for worker in self._workers:
            if worker.process is None:
                if worker.restart_at is not None and now >= worker.restart_at and self._stop_at is None:
                    self._start(worker)
            elif worker.aborted is not None:
                if now - worker.aborted > ABORT_SECONDS:
                    worker.kill(signal.SIGKILL)
            elif now - worker.heard > (self._hang_timeout if worker.ready else START_SECONDS):
                worker.aborted = now
                worker.kill(signal.SIGABRT)
            elif self._stop_at is not None and now > self._stop_at:
                self._log.message(f"{worker.name} (process {worker.pid}) did not stop in time and is killed")
                worker.kill(signal.SIGKILL)
                worker.aborted = now

    # --- workers -------------------------------------------------------------------------------------------

    def _start(self, worker: _Worker) -> None:
        """Starts a process, or tries again later where the system has none to give. Raises WorkersFailed at first."""
        try:
            self._spawn_process(worker)
        except OSError as error:
            if not self._announced:
                raise WorkersFailed(f"no worker can be started: {error.strerror}") from error
            self._log.message(f"{worker.name} cannot be started: {error.strerror}; it is tried again")
            worker.restart_at = time.monotonic() + RESTART_DELAYS[-1]

    def _spawn_process(self, worker: _Worker) -> None:
        messages, their_messages = self._spawn.Pipe()
        traceback, their_traceback = self._spawn.Pipe(duplex=False)
        os.set_blocking(traceback.fileno(), False)
        link = WorkerLink(their_messages, their_traceback)
        arguments = worker.role.arguments(self._reloads > 0, dict(self._restarts), worker.reason, self._accepted)
        process = self._spawn.Process(target=worker.role.target, args=(link, *arguments))
        # Signals that come while a worker starts must not kill it with a traceback: it inherits that they are blocked.
        usual = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, usual)
        their_messages.close()
        their_traceback.close()
        worker.process, worker.messages, worker.traceback = process, messages, traceback
        worker.ready, worker.aborted, worker.restart_at = False, None, None
        worker.reloads = self._reloads
        worker.started = worker.heard = time.monotonic()

    def _receive(self, worker: _Worker, now: float) -> None:
        assert worker.messages is not None
        try:
            message = worker.messages.recv()
        except (EOFError, OSError):
            worker.messages.close()
            worker.messages = None
            return
        worker.heard = now
        if message[0] == "refused":
            self._refused = message[1]
        elif message[0] == "settings":
            self._accepted = message[1]
        elif message[0] == "drain":
            self._drained = message[1]
            self._tell_workers()
        elif message[0] == "ready":
            worker.ready, worker.started = True, now
            # SIGHUP came while it was starting, when there was no handler for it.
            if worker.reloads != self._reloads:
                worker.reloads = self._reloads
                worker.kill(signal.SIGHUP)
            self._tell_workers()
            if worker.role.counted and not self._announced:
                self._announced = True
                self._announce()

    def _receive_waiting(self, worker: _Worker, now: float) -> None:
        """Receives all that a worker has said so far."""
        with contextlib.suppress(EOFError, OSError):
            while worker.messages is not None and worker.messages.poll():
                self._receive(worker, now)

    def _bury(self, worker: _Worker, now: float) -> None:
        """Takes note of a death, and of what is to follow."""
        process, was_ready = worker.process, worker.ready
        assert process is not None
        self._receive_waiting(worker, now)
        process.join()
        where = self._read_traceback(worker)
        _forget_gauges(worker.pid)
        pid, exit_code, aborted = worker.pid, process.exitcode or 0, worker.aborted is not None
        process.close()
        for connection in (worker.messages, worker.traceback):
            if connection is not None:
                connection.close()
        worker.process = worker.messages = worker.traceback = None
        worker.ready = False
        if self._stop_at is not None:
            return
        if not self._announced and worker.role.counted:
            # It has never served, and would not the next time.
            if self._refused:
                raise SettingsRefused(self._refused)
            raise WorkersFailed(f"{worker.name} {_cause(exit_code)} while it started{where}{_exec_failure(exit_code)}")
        reason = UNRESPONSIVE if aborted else DIED
        self._restarts[reason] += 1
        worker.reason = reason
        worker.failures = 1 if was_ready and now - worker.started >= STABLE_SECONDS else worker.failures + 1
        delay = RESTART_DELAYS[min(worker.failures, len(RESTART_DELAYS)) - 1]
        worker.restart_at = now + delay
        if self._refused:
            where, self._refused = f": {self._refused}", ""
        what = f"did not answer for {self._hang_timeout:.0f} s and was killed" if aborted else _cause(exit_code)
        when = f"in {delay:g} s" if delay else "at once"
        self._log.message(f"{worker.name} (process {pid}) {what}; it is replaced {when}{where}")
        self._tell_workers()
        counted = [one for one in self._workers if one.role.counted]
        if all(one.failures >= MAX_FAILURES and not one.ready for one in counted):
            raise WorkersFailed(f"every worker has died {MAX_FAILURES} times in a row")

    def _read_traceback(self, worker: _Worker) -> str:
        """Returns what the interpreter wrote when the worker crashed, with a line end in front; else an empty text."""
        assert worker.traceback is not None
        try:
            text = os.read(worker.traceback.fileno(), 64 * 1024).decode(errors="replace").strip()
        except OSError:
            return ""
        return f"\n{text}" if text else ""

    def _tell_workers(self) -> None:
        counted = [worker for worker in self._workers if worker.role.counted]
        message = ("workers", sum(worker.ready for worker in counted), len(counted))
        for worker in counted:
            if worker.ready and worker.messages is not None:
                with contextlib.suppress(OSError):
                    worker.messages.send(message)
                    if self._drained is not None:
                        worker.messages.send(("drained", self._drained))

    # --- signals -------------------------------------------------------------------------------------------

    def _handle_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number != signal.SIGHUP or (self._terminal and not has_terminal()):
                self._stop(number)
                continue
            self._reloads += 1
            for worker in self._running:
                if worker.ready:  # one that starts does so when it is
                    worker.reloads = self._reloads
                    worker.kill(number)

    def _stop(self, number: int) -> None:
        """Passes a signal on to the workers. None of them is replaced any more, and nobody new is waited for."""
        self._stop_at = time.monotonic() + self._stop_timeout + EXIT_SECONDS
        for one in self._closing:
            one.close()
        for worker in self._running:
            # It may serve although nobody has read yet that it is ready.
            self._receive_waiting(worker, time.monotonic())
            # A worker that does not serve yet has nothing to finish.
            worker.kill(number if worker.ready else signal.SIGKILL)


def _exec_failure(exit_code: int) -> str:
    """Returns why the interpreter of a worker could not be executed, as the end of a sentence; else an empty text.

    The process that should become the worker can only say 255.
    """
    if exit_code != EXEC_FAILED:
        return ""
    import subprocess  # not before it is needed: this process stays small

    executable = os.fsdecode(spawn.get_executable())
    try:
        subprocess.run([executable, "-c", ""], stdin=subprocess.DEVNULL, timeout=START_SECONDS, check=False)
    except OSError as error:
        return f": {executable} cannot be executed: {error.strerror}"
    except subprocess.TimeoutExpired:
        pass
    return ""


def _start_without_tracker() -> None:
    """Starts processes without multiprocessing's tracker beside them.

    It is a process of twelve megabytes that cleans up named semaphores and shared memory. Nothing here has any.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    vars(resource_tracker)["getfd"] = lambda: nowhere


def _cause(exit_code: int) -> str:
    """Returns why a process ended, as the predicate of a sentence."""
    if exit_code >= 0:
        return f"ended with exit status {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was killed by signal {-exit_code}"


def _forget_gauges(pid: int) -> None:
    """Removes a dead worker's gauges from the metrics that several workers share. Its counters stay."""
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    for file in glob.glob(f"gauge_live*_{pid}.db", root_dir=directory) if directory else ():
        with contextlib.suppress(OSError):
            os.remove(os.path.join(str(directory), file))
