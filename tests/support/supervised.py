"""Processes for the tests of the supervisor. Each is started as a script, and imported again by its workers.

supervised.py serve ARGUMENTS...    the command `serve`, in which GET /health/live never comes to an end
supervised.py unexecutable          a worker whose interpreter is not there
supervised.py deaths                two workers that die as soon as they are ready, under a supervisor without pauses
supervised.py unread                two workers that say how they end, under a supervisor that is stopped when both are
                                    ready and it has heard so of one
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gateway.cli.main import main
from gateway.observability.access_log import Log
from gateway.server import supervisor
from gateway.server.supervisor import Supervisor, WorkerRole, WorkersFailed
from gateway.server.worker_link import WorkerLink


async def spin(*_: object) -> None:
    while True:
        pass


def die(link: WorkerLink) -> NoReturn:
    link.messages.send(("ready",))
    sys.exit(3)


def end_in_good_order(link: WorkerLink) -> None:
    def end(*_: object) -> None:
        print("ended in good order", flush=True)
        sys.exit()

    signal.signal(signal.SIGTERM, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    link.messages.send(("ready",))
    while True:
        signal.pause()


class Short(Supervisor):
    """The third process that it starts is one too many for the system."""

    started = 0

    def _spawn_process(self, worker: Any) -> None:
        self.started += 1
        if self.started == 3:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        super()._spawn_process(worker)


def no_arguments(*_: object) -> tuple[Any, ...]:
    return ()


if __name__ in ("__main__", "__mp_main__") and sys.argv[1:2] == ["serve"]:
    from gateway.endpoints import health

    health.Liveness.__call__ = spin  # type: ignore[method-assign, assignment]

if __name__ == "__main__":
    if sys.argv[1] == "serve":
        sys.exit(main(sys.argv[1:]))
    supervisor.RESTART_DELAYS = (0.0,)
    if sys.argv[1] == "unexecutable":
        multiprocessing.set_executable("/nowhere/python")
    if sys.argv[1] == "unread":

        def stop_when_all_are_ready() -> None:
            assert all(one.ready or (one.messages is not None and one.messages.poll(60)) for one in running._workers)
            os.kill(os.getpid(), signal.SIGTERM)

        roles = [WorkerRole("worker", end_in_good_order, no_arguments)] * 2
        running = Supervisor(roles, Log(requests=False), stop_when_all_are_ready, 60.0, 30.0, [])
        running.run()
        sys.exit()
    roles = [WorkerRole("worker", die, no_arguments)] * 2
    try:
        Short(roles, Log(requests=False), lambda: print("announced", flush=True), 5.0, 1.0, []).run()
    except WorkersFailed as error:
        sys.exit(str(error))
