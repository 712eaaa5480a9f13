"""Workers of pytest-xdist that are forked from one process, which has collected the tests.

To import all tests and what they stand on, and to make fifteen thousand items of them, takes seven seconds of CPU: as
much as several hundred tests. Every worker of xdist does it anew. Here one process does it, and forks for each worker,
which goes on where xdist's own program would have collected.

The process that gives out the tests has `Starter` as a plugin. It starts the process that collects (`collect`), and in
the place of each worker a small process (`pass_on`) that gives the worker its standard files and ends when it does.
`Forks` is the plugin of the process that collects: it forks, and runs in the fork what xdist sends, which is this file.

With coverage, where Python is not forked safely, and where paths of sockets would be too long, xdist's own workers are
used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest


MAX_FOLDER = 80
"""Characters of the path of a folder for sockets, whose own paths may have 107."""


class Starter:
    """The plugin of the process that gives out the tests."""

    def __init__(self) -> None:
        self._folder: Any = None
        self._collector: Any = None

    def pytest_xdist_setupnodes(self, config: pytest.Config, specs: Any) -> None:
        """Collect, and let the workers be forked: execnet gets another program in the place of Python."""
        import json
        import shlex
        import subprocess
        import tempfile
        from pathlib import Path

        import pytest
        from xdist.plugin import _sys_path

        self._folder = tempfile.TemporaryDirectory()
        if len(self._folder.name) > MAX_FOLDER:
            self._folder.cleanup()
            return
        address = str(Path(self._folder.name, "workers"))
        program = f"import sys; sys.path[:] = {_sys_path!r}; from support.forked_workers import collect; collect()"
        arguments = [str(argument) for argument in config.invocation_params.args]
        self._collector = subprocess.Popen(
            [sys.executable, "-c", program, address, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=config.invocation_params.dir,
        )
        if not self._collector.stdout.read(1):
            pytest.exit("no tests: what is wrong stands above", self._collector.wait())
        for spec in specs:
            spec.python = shlex.join([sys.executable, "-I", "-S", __file__, address])

    def pytest_xdist_getremotemodule(self) -> Any:
        return sys.modules[__name__] if self._collector is not None else None

    def pytest_unconfigure(self) -> None:
        if self._collector is not None:
            self._collector.stdin.close()
            self._collector.wait()
            self._collector.stdout.close()
            self._folder.cleanup()


def pass_on(address: str) -> None:
    """Be in the place of a worker: give it the standard files, and end when it has ended."""
    import signal
    import socket

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker decides when that ends it
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [b"w"], [0, 1, 2])
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1):  # else the pipes would stay open when the worker has ended
            os.dup2(nowhere, descriptor)
        connection.recv(1)


def collect() -> None:
    """Collect the tests as a worker of xdist would, and fork workers until standard input is closed."""
    import json
    from functools import partial

    import pytest
    from _pytest.config import _prepareconfig

    address, arguments = sys.argv[1], json.loads(sys.argv[2])
    del sys.argv[1:]
    ready = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # what pytest prints here, the process that gives out the tests prints, too
    try:
        config: Any = _prepareconfig(arguments, None)
        from xdist.remote import WorkerInteractor, setup_config  # not before pytest, which would warn of it

        setup_config(config, None)
        config.workerinput = {"workerid": "collector", "testrunuid": ""}
        config.workeroutput = {}
        events = _Events()
        interactor: Any = WorkerInteractor(config, events)
        forks = Forks(config, interactor, events.all, address, partial(os.write, ready, b"."))
        config.pluginmanager.register(forks)
        config.hook.pytest_cmdline_main(config=config)
    except pytest.UsageError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        sys.exit(pytest.ExitCode.USAGE_ERROR)


class _Events:
    """What a worker tells while it collects, for a worker that is forked later. It has what `WorkerInteractor` uses."""

    def __init__(self) -> None:
        from execnet.gateway_base import get_execmodel

        self.gateway = self
        self.execmodel = get_execmodel("main_thread_only")
        self.all: list[Any] = []

    def send(self, event: Any) -> None:
        self.all.append(event)


class Forks:
    """The plugin of the process that collects. It never runs a test: each of its forks is a worker."""

    def __init__(
        self, config: Any, interactor: Any, events: list[Any], address: str, ready: Callable[[], object]
    ) -> None:
        self._config = config
        self._interactor = interactor
        self._events = events
        self._address = address
        self._ready = ready

    def pytest_runtestloop(self) -> bool:
        """Fork until standard input is closed and the last worker has ended."""
        import select
        import signal
        import socket
        from pathlib import Path

        from support import preloaded_process

        preloaded_process.share(Path(self._address).parent)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self._address)
        listener.listen()
        capture = self._config.pluginmanager.getplugin("capturemanager")
        capture.stop_global_capturing()  # the forks would write into one file
        interrupt = signal.signal(signal.SIGINT, lambda *_: None)  # the workers decide when that ends them
        waking, wake = os.pipe()
        os.set_blocking(wake, False)
        ended = signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        children: dict[Any, int] = {}
        sources: list[Any] = [listener, sys.__stdin__, waking]
        self._ready()
        while sys.__stdin__ in sources or children:
            ready, _, _ = select.select([*sources, *children], [], [])
            for source in ready:
                if source is listener:
                    connection, _ = source.accept()
                    _, standard, _, _ = socket.recv_fds(connection, 1, 3)
                    pid = os.fork()
                    if pid == 0:
                        signal.set_wakeup_fd(-1)
                        signal.signal(signal.SIGINT, interrupt)
                        signal.signal(signal.SIGCHLD, ended)
                        connection.close()
                        listener.close()
                        self._run_worker(standard)
                    children[connection] = pid
                    for descriptor in standard:
                        os.close(descriptor)
                elif source is sys.__stdin__:
                    sources.remove(source)
                elif source is waking:
                    os.read(waking, 4096)
                    for connection, pid in [*children.items()]:
                        if os.waitpid(pid, os.WNOHANG)[0]:
                            del children[connection]
                            connection.close()
                elif source in children:  # xdist has given up this worker
                    os.kill(children[source], signal.SIGKILL)
                    os.waitpid(children.pop(source), 0)
                    source.close()
        listener.close()
        return True

    def _run_worker(self, standard: list[int]) -> None:
        """Run what execnet sends over these standard files, and end."""
        import atexit
        import threading
        import weakref

        from execnet.gateway_base import get_execmodel, init_popen_io, serve

        global _fork
        try:
            atexit._clear()
            finalizers: Any = weakref.finalize
            finalizers._registry.clear()
            finalizers._registered_with_atexit = False
            for number, descriptor in enumerate(standard):
                os.dup2(descriptor, number)
                os.close(descriptor)
            while os.read(0, 1) != b"\n":  # execnet's program, which is imported already
                pass
            execmodel = get_execmodel("main_thread_only")
            io: Any = init_popen_io(execmodel)
            io.write(b"1")
            _fork = self
            serve(io, id="forked")
            vars(threading)["_shutdown"]()
            atexit._run_exitfuncs()
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(0)

    def work(self, channel: Any) -> None:
        """Do in a fork what xdist's own program does after it has collected."""
        import pytest
        import xdist.remote
        from _pytest.tmpdir import TempPathFactory

        workerinput, _, options, _ = channel.receive()
        config, interactor, session = self._config, self._interactor, self._interactor.session
        os.environ["PYTEST_XDIST_TESTRUNUID"] = workerinput["testrunuid"]
        os.environ["PYTEST_XDIST_WORKER"] = workerinput["workerid"]
        os.environ["PYTEST_XDIST_WORKER_COUNT"] = str(workerinput["workercount"])
        config.workerinput.update(workerinput)
        config.option.basetemp = options.get("basetemp")
        config._tmp_path_factory = TempPathFactory.from_config(config, _ispytest=True)
        interactor.channel, interactor.workerid, interactor.testrunuid = (
            channel,
            workerinput["workerid"],
            workerinput["testrunuid"],
        )
        vars(xdist.remote)["interactor"] = interactor  # it is a global there
        capture = config.pluginmanager.getplugin("capturemanager")
        capture.start_global_capturing()
        capture.suspend_global_capture()
        for event in self._events:
            channel.send(event)
        try:
            interactor.pytest_runtestloop(session)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED if session.testsfailed else pytest.ExitCode.OK
        except BaseException:
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
            config.notify_exception(pytest.ExceptionInfo.from_current(), config.option)
        config.hook.pytest_sessionfinish(session=session, exitstatus=session.exitstatus)
        config._ensure_unconfigure()


_fork: Forks | None = None
"""What this process goes on with, in a fork."""

if __name__ == "__channelexec__":
    from support import forked_workers

    assert forked_workers._fork is not None
    forked_workers._fork.work(vars()["channel"])
elif __name__ == "__main__":
    pass_on(sys.argv[1])
