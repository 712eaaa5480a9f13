"""Redis for the tests that need a real one: at its standard port, or where GATEWAY_TEST_REDIS says."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

URL = os.environ.get("GATEWAY_TEST_REDIS", "redis://127.0.0.1:6379/0")


def _reachable() -> bool:
    parts = urlsplit(URL)
    try:
        with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), 1):
            return True
    except OSError:
        return False


_REQUIRED = os.environ.get("GATEWAY_TEST_REQUIRE_SERVICES") == "1"

needs_redis = pytest.mark.skipif(not _REQUIRED and not _reachable(), reason=f"no Redis at {URL}")
"""Skips where there is none, but not in CI."""


class RedisProcess:
    """A Redis of the test's own, at a port of its own: it may be frozen, killed, started again. It stores nothing."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = tempfile.TemporaryDirectory()
        self.start()

    def start(self) -> None:
        """Returns when it answers."""
        command = ["redis-server", "--port", str(self.port), "--save", "", "--dir", self._folder.name]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
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
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            parts = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
            connection.sendall(f"*{len(words)}\r\n{parts}".encode())
            return connection.recv(1_000_000)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def close(self) -> None:
        self.kill()
        self._folder.cleanup()


@contextmanager
def redis_process() -> Iterator[RedisProcess]:
    """A Redis of the test's own. Skips without `redis-server`, or fails where services are required."""
    if shutil.which("redis-server") is None:
        if _REQUIRED:
            pytest.fail("redis-server is required here")
        pytest.skip("no redis-server")
    server = RedisProcess()
    try:
        yield server
    finally:
        server.close()
