"""Servers as child processes: starting them, waiting until they answer, and what they cost in CPU and memory.

CPU time is that of the whole process tree, user and system. On Linux the tree comes from /proc and the time
from each process's CPU clock, which counts nanoseconds (/proc/<pid>/stat has the same figure in ticks of 10
ms); elsewhere both come from `ps`.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

LINUX = sys.platform == "linux"
Environment = Mapping[str, str]


class ServerFailed(Exception):
    """A server did not start, or is gone."""


class Server:
    """One server and its children."""

    def __init__(self, name: str, port: int, command: Sequence[str], cwd: Path, env: Environment) -> None:
        self.name = name
        self.port = port
        self.output = tempfile.TemporaryFile()  # not a pipe, which would stop the server when it is full
        try:
            self.process = subprocess.Popen(
                command, cwd=cwd, env=env, stdout=self.output, stderr=self.output, start_new_session=True
            )
        except OSError as error:
            raise ServerFailed(f"{name}: {error}") from error

    def wait_ready(self, seconds: float = 20.0) -> None:
        """Until GET /health/ready says 200, or 404 as a server without health checks does."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                status = self.process.returncode
                raise ServerFailed(f"{self.name} ended with status {status}:\n{self.last_words()}")
            if _status(self.port) in (200, 404):
                return
            time.sleep(0.05)
        raise ServerFailed(f"{self.name} was not ready after {seconds:.0f} s:\n{self.last_words()}")

    def last_words(self) -> str:
        """The end of what it printed."""
        self.output.seek(0)
        lines = self.output.read().decode(errors="replace").rstrip().splitlines()
        return "\n".join("    " + line for line in lines[-8:])

    def cpu(self) -> float:
        """Seconds of CPU used so far by the process and its living descendants."""
        return tree_cpu(self.process.pid)

    def rss(self) -> float:
        """Resident megabytes of the tree; pages shared between processes count in each."""
        return tree_rss(self.process.pid)

    def worker(self) -> int:
        """The process that serves: the child with the most memory."""
        tree = _linux_tree(self.process.pid) if LINUX else [self.process.pid]
        return max(tree, key=_linux_rss) if LINUX else tree[0]

    def stop(self) -> None:
        """Ask, wait, insist."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        with suppress(ProcessLookupError):  # the rule; workers that outlived their parent are in its group
            os.killpg(self.process.pid, signal.SIGKILL)
        self.output.close()


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _status(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


# CPU and memory of a process tree ---------------------------------------------------------------------------
def tree_cpu(root: int) -> float:
    """Seconds of CPU of a process and its living descendants."""
    if LINUX:
        return sum(_linux_cpu(pid) for pid in _linux_tree(root))
    return sum(seconds for seconds, _ in _ps_tree(root))


def cpu_by_process(root: int) -> dict[int, float]:
    """Seconds of CPU of each process of a tree, by its number (Linux)."""
    return {pid: _linux_cpu(pid) for pid in _linux_tree(root)}


def tree_rss(root: int) -> float:
    """Resident megabytes of a process and its living descendants."""
    if LINUX:
        return sum(_linux_rss(pid) for pid in _linux_tree(root))
    return sum(megabytes for _, megabytes in _ps_tree(root))


def _linux_tree(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                status = Path(entry.path, "stat").read_text()
            except OSError:  # gone meanwhile
                continue
            parent = int(status.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    return _descendants(root, children)


def _descendants(root: int, children: dict[int, list[int]]) -> list[int]:
    results = [root]
    for pid in results:
        results += children.get(pid, [])
    return results


def _linux_cpu(pid: int) -> float:
    try:
        # clock_getcpuclockid(3), which Python does not offer: the clock's number is made from the process's.
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def _linux_rss(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _ps_tree(root: int) -> list[tuple[float, float]]:
    """(seconds of CPU, resident MB) of each process; macOS counts CPU in hundredths of a second."""
    command = ["ps", "-A", "-o", "pid=,ppid=,rss=,cputime="]
    try:
        table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise ServerFailed(f"CPU time cannot be read here: no /proc, and ps says {error}") from error
    children: dict[int, list[int]] = {}
    usage: dict[int, tuple[float, float]] = {}
    for pid, parent, kilobytes, used in (line.split(maxsplit=3) for line in table.splitlines()):
        children.setdefault(int(parent), []).append(int(pid))
        usage[int(pid)] = (_clock_seconds(used), int(kilobytes) / 1000)
    return [usage[pid] for pid in _descendants(root, children) if pid in usage]


def _clock_seconds(text: str) -> float:
    """[[days-]hours:]minutes:seconds[.hundredths]"""
    days, _, rest = text.strip().rpartition("-")
    seconds = 0.0
    for part in rest.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds + 86_400 * int(days or 0)
