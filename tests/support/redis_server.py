"""Redis for the tests that need a real one: at its standard port, or where GATEWAY_TEST_REDIS says."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import pytest

from support.ports import free_port
from support.waiting import WAIT_SECONDS

URL = os.environ.get("GATEWAY_TEST_REDIS", "redis://127.0.0.1:6379/0")


def _reachable() -> bool:
    parts = urlsplit(URL)
    try:
        with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), WAIT_SECONDS):
            return True
    except OSError:
        return False


_REQUIRED = os.environ.get("GATEWAY_TEST_REQUIRE_SERVICES") == "1"

needs_redis = pytest.mark.skipif(not _REQUIRED and not _reachable(), reason=f"no Redis at {URL}")
"""Skips where there is none, but not in CI."""


class RedisProcess:
    """A Redis of the test's own, at a port of its own: it may be frozen, killed, started again. It stores nothing.

    options: further ones of its command line. program: `redis-server` or `valkey-server`.
    """

    def __init__(self, *options: str, program: str = "redis-server") -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = tempfile.TemporaryDirectory()
        self._command = [program, "--port", str(self.port), "--save", "", "--dir", self._folder.name, *options]
        self.start()

    def start(self) -> None:
        """Returns when it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                self.command("PING")
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def command(self, *words: str) -> bytes:
        """The answer to a command, as it comes over the wire."""
        with socket.create_connection(("127.0.0.1", self.port), WAIT_SECONDS) as connection:
            parts = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
            connection.sendall(f"*{len(words)}\r\n{parts}".encode())
            return connection.recv(1_000_000)

    def scripts(self) -> int:
        """How many scripts it has run so far."""
        rows = self.command("INFO", "commandstats").decode().splitlines()
        return sum(int(row.split("calls=")[1].split(",")[0]) for row in rows if row.startswith("cmdstat_evalsha:"))

    def move_to(self, port: int) -> None:
        """Listens at another port from now on, as one that takes over an address."""
        self.command("CONFIG", "SET", "port", str(port))
        self.port, self.url = port, f"redis://127.0.0.1:{port}/0"

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(WAIT_SECONDS)

    def close(self) -> None:
        self.kill()
        self._folder.cleanup()


def needs_program(program: str, required: bool = _REQUIRED) -> None:
    """Skips without this program, or fails where services are required."""
    if shutil.which(program) is None:
        if required:
            pytest.fail(f"{program} is required here")
        pytest.skip(f"no {program} on PATH")


@contextmanager
def redis_process(*options: str, program: str = "redis-server") -> Iterator[RedisProcess]:
    """A Redis of the test's own. Skips without it, or fails where services are required."""
    needs_program(program)
    server = RedisProcess(*options, program=program)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def redis_cluster(nodes: int = 3) -> Iterator[list[RedisProcess]]:
    """A Redis Cluster of the test's own: masters without replicas. Each has its share of the slots."""
    needs_program("redis-cli")
    with ExitStack() as stack:
        servers, addresses = [], []
        for _ in range(nodes):
            # The usual port of a node's bus is 10,000 above its own, which may be none.
            bus = free_port()
            options = ("--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-node-timeout", "2000")
            servers.append(stack.enter_context(redis_process(*options)))
            addresses.append(f"127.0.0.1:{servers[-1].port}@{bus}")
        create = ["redis-cli", "--cluster", "create", *addresses, "--cluster-yes"]
        result = subprocess.run(create, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        deadline = time.monotonic() + WAIT_SECONDS
        while not all(b"cluster_state:ok" in server.command("CLUSTER", "INFO") for server in servers):
            assert time.monotonic() < deadline, "the nodes did not become a cluster"
            time.sleep(0.05)
        yield servers
