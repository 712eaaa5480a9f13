"""The gateway as a process of its own, and callers who hold its sockets in their hands.

For what only a process has: signals, an exit status, its memory, its standard error.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import databases, preloaded_process
from support.app import CALLER_KEY, CHAT, SERVER, A
from support.asgi_server import raw_request
from support.preloaded_process import PreloadedProcess
from support.waiting import WAIT_SECONDS

ROOT = Path(__file__).resolve().parents[2]
GATEWAY = ("-m", "gateway")
MEASURED = "COVERAGE_PROCESS_CONFIG" in os.environ
"""Whether coverage counts what runs in processes."""


def request_bytes(identity: str = "leaver", **fields: Any) -> bytes:
    body = json.dumps({"model": A, "messages": [{"role": "user", "content": "Hi"}], **fields}).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {CALLER_KEY}\r\nx-request-id: {identity}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def reads_until(connection: socket.socket, wanted: bytes) -> bytes:
    received = b""
    while wanted not in received:
        some = connection.recv(65536)
        assert some, f"the connection was closed after {received!r}"
        received += some
    return received


class Process:
    """`cohere-gateway serve`: what it printed, where it is, how it ends.

    Its libraries are imported already, which saves most of what a start costs. With a program it is started as any
    other: GATEWAY is the command itself, for tests of what it needs and how long it takes.
    """

    def __init__(
        self,
        *arguments: str,
        program: Sequence[str] | None = None,
        **environment: str,
    ) -> None:
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "CO", "PROMETHEUS"))
        }
        self._storage = tempfile.TemporaryDirectory()
        clean["GATEWAY_SERVER"] = SERVER
        storage = {"GATEWAY_DATABASE_URL": databases.sqlite(self._storage.name)}
        if environment.get("GATEWAY_DATABASE_URL", "").startswith("postgresql"):
            storage["GATEWAY_LEDGER_SPOOL"] = f"{self._storage.name}/spool"
        coverage = {name: value for name, value in os.environ.items() if name.startswith("COV")}
        environment = {**clean, **coverage, **storage, **environment}
        self._process: subprocess.Popen[bytes] | PreloadedProcess
        command = ["serve", "--port", "0", *arguments]
        if program is None and preloaded_process.AVAILABLE:
            self._process = preloaded_process.start([*GATEWAY, *command], environment)
        else:
            self._process = subprocess.Popen(
                [sys.executable, *(program or GATEWAY), *command],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # a group of its own, as in a terminal
            )
        assert self._process.stdout is not None and self._process.stderr is not None
        self._stdout, self._stderr = self._process.stdout, self._process.stderr
        self._errors: list[bytes] = []
        self._reader = threading.Thread(target=lambda: self._errors.extend(self._stderr))
        self._reader.start()
        self.announced = self._announcement()
        match = re.search(r"https?://(?:127\.0\.0\.1:(\d+)|localhost)/v1", self.announced)
        assert match, self.announced
        self.url = match[0].removesuffix("/v1")
        self.port = int(match[1] or 0)  # a unix socket has none

    @property
    def pid(self) -> int:
        """Of the first process."""
        return self._process.pid

    def _announcement(self) -> str:
        text = b""
        while not (b"curl" in text and text.endswith(b"\n")):
            ready, _, _ = select.select([self._stdout], [], [], 2 * WAIT_SECONDS)
            some = os.read(self._stdout.fileno(), 4096) if ready else b""
            if not some:
                self.close()
                raise AssertionError(f"not announced: {text!r} {self._errors}")
            text += some
        return text.decode()

    def await_processes(self, count: int, caught: int) -> None:
        """Until so many processes of this one catch that signal. Linux tells, elsewhere the test is skipped."""

        def catches(child: str) -> bool:
            position = Path("/proc") / child
            if b"resource_tracker" in (position / "cmdline").read_bytes():
                return False  # multiprocessing's own
            mask = re.search(r"SigCgt:\s*([0-9a-f]+)", (position / "status").read_text())
            return mask is not None and bool(int(mask[1], 16) >> (caught - 1) & 1)

        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        if not children.exists():
            pytest.skip("only Linux tells who is ready for which signal")
        awaited(lambda: sum(catches(child) for child in children.read_text().split()) >= count)

    def settle(self, workers: int) -> None:
        """Until the workers, and the emulator beside them, have put up their own handlers."""
        self.await_processes(workers, signal.SIGTERM)

    def signal(self, number: int, *, group: bool = False) -> None:
        if group:
            os.killpg(self._process.pid, number)
        else:
            self._process.send_signal(number)

    def ends(self, within: float = WAIT_SECONDS) -> int:
        """Return the exit status; TimeoutExpired when it does not come within so many seconds."""
        return self._process.wait(within)

    @property
    def id(self) -> int:
        return self._process.pid

    def memory(self) -> int:
        """Return the resident bytes of the process and those below it. Linux tells, elsewhere the test is skipped."""
        if not Path(f"/proc/{self.id}/status").exists():
            pytest.skip("only Linux tells a process's memory so cheaply")
        total, pending = 0, [str(self.id)]
        while pending:
            position = Path("/proc") / pending.pop()
            try:
                pending += (position / "task" / position.name / "children").read_text().split()
                match = re.search(r"VmRSS:\s*(\d+) kB", (position / "status").read_text())
            except FileNotFoundError:
                continue  # it has ended
            total += int(match[1]) * 1024 if match else 0
        return total

    @property
    def workers(self) -> list[int]:
        """The processes that serve callers, the oldest first: those that listen on the port. Linux tells."""
        children = Path(f"/proc/{self.id}/task/{self.id}/children")
        if not children.exists():
            pytest.skip("only Linux tells whose child a process is")
        deadline = time.monotonic() + WAIT_SECONDS
        while True:  # what /proc tells while processes come and go is not always whole
            listening = [child for child in map(int, children.read_text().split()) if _listens(child, self.port)]
            if listening or time.monotonic() > deadline:
                return listening
            time.sleep(0.05)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def written(self) -> list[bytes]:
        """The lines on standard error so far."""
        return list(self._errors)

    def _read_all(self) -> None:
        """Until the last of its processes has closed standard error."""
        self._reader.join(WAIT_SECONDS)
        assert not self._reader.is_alive(), "some process of it still runs"

    def errors(self) -> list[dict[str, Any]]:
        """Standard error after the end. AssertionError unless each line is a JSON object, and no trouble."""
        self._read_all()
        stray = [line.decode() for line in self._errors if not line.startswith(b"{")]
        assert not stray, f"{stray[0]} ... {stray[-1]}"
        lines = [json.loads(line) for line in self._errors]
        assert not [line for line in lines if "message" in line]
        return lines

    def lines(self) -> list[dict[str, Any]]:
        """The lines of requests in it, whatever else is there."""
        self._read_all()
        return [json.loads(line) for line in self._errors if line.startswith(b'{"time"')]

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            if MEASURED:  # a process that is killed tells nothing of what ran in it
                os.killpg(self._process.pid, signal.SIGINT)
                self._process.wait(WAIT_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(WAIT_SECONDS)
        self._reader.join(WAIT_SECONDS)
        self._storage.cleanup()
        with self._stdout, self._stderr:
            rest = self._stdout.read()
        assert not rest, f"more on standard output: {rest!r}"

    def get(self, path: str) -> bytes:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.url + path, timeout=WAIT_SECONDS) as answer:
            return bytes(answer.read())

    def chat(self, **fields: Any) -> bytes:
        """A whole answer over a connection of its own."""
        data = request_bytes(**fields).replace(b"\r\nhost", b"\r\nconnection: close\r\nhost", 1)
        return raw_request("127.0.0.1", self.port, data, timeout=WAIT_SECONDS)


def _listens(pid: int, port: int) -> bool:
    try:
        files = {os.readlink(position) for position in Path(f"/proc/{pid}/fd").iterdir()}
    except OSError:
        return False
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(f"socket:[{row[9]}]" in files for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A")


@contextmanager
def process(
    *arguments: str,
    program: Sequence[str] | None = None,
    **environment: str,
) -> Iterator[Process]:
    server = Process(*arguments, program=program, **environment)
    try:
        yield server
    finally:
        server.close()


def awaited(condition: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    """Until something is true that nobody announces."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)
