"""Three replicas on this machine, over one PostgreSQL and one Redis: what `make cluster` starts.

    python tests/bench/cluster.py [--replicas 3] [--port 8081]

Without a Cohere key each replica answers from an emulator of its own, a stand-in for Cohere. Ctrl-C ends all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg  # type: ignore[import-untyped]
from redis.asyncio import Redis

ROOT = Path(__file__).resolve().parents[2]
DATABASE = "postgresql://postgres@127.0.0.1:5432/cohere_gateway_cluster"
REDIS = "redis://127.0.0.1:6379/0"
MASTER_KEY = "sk-master-key-of-the-cluster"
START_SECONDS = 60.0
MISSING = """{name} does not answer at {url}: {why}
Start one, or say where it is: make cluster with {variable} in the environment.
Debian, Ubuntu: apt install {debian}.  macOS: brew install {brew} && brew services start {brew}"""


class Missing(Exception):
    """A service that is not there; the text says which, and what to do."""


async def prepare_database(url: str) -> None:
    """Creates the database if there is none of its name. Raises Missing."""
    try:
        try:
            connection = await asyncpg.connect(url, timeout=5)
        except asyncpg.InvalidCatalogNameError:
            name = urlsplit(url).path.strip("/")
            server = await asyncpg.connect(urlsplit(url)._replace(path="/postgres").geturl(), timeout=5)
            try:
                await server.execute('CREATE DATABASE "{}"'.format(name.replace('"', '""')))
            finally:
                await server.close()
        else:
            await connection.close()
    except (OSError, TimeoutError, asyncpg.PostgresError, ValueError) as error:
        raise Missing(_missing("PostgreSQL", url, error, "GATEWAY_DATABASE_URL", "postgresql", "postgresql")) from error


async def look_for_redis(url: str) -> None:
    """Raises Missing unless Redis answers."""
    try:
        async with Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5) as redis:
            await redis.get("cohere-gateway:none")
    except Exception as error:  # what answers may be no Redis
        raise Missing(_missing("Redis", url, error, "GATEWAY_REDIS_URL", "redis-server", "redis")) from error


def _missing(name: str, url: str, error: Exception, variable: str, debian: str, brew: str) -> str:
    parts = urlsplit(url)
    public_url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    why = str(error) or type(error).__name__
    return MISSING.format(name=name, url=public_url, why=why, variable=variable, debian=debian, brew=brew)


class Replica:
    """One gateway as a process. Its log goes to standard error."""

    def __init__(self, port: int, environment: dict[str, str], demo: bool) -> None:
        command = [sys.executable, "-m", "gateway", "serve", "--port", str(port), *(("--demo",) if demo else ())]
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        self.url = f"http://127.0.0.1:{port}"

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def await_start(self) -> None:
        """Raises Missing if it does not serve."""
        deadline = time.monotonic() + START_SECONDS
        while self.running and time.monotonic() < deadline:
            try:
                with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                    f"{self.url}/health/ready", timeout=5
                ):
                    return
            except OSError:
                time.sleep(0.1)
        raise Missing(f"The replica at {self.url} did not start; what it says is above.")

    def stop(self) -> None:
        if self.running:
            self._process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        self._process.wait()


def tour(replicas: Sequence[Replica], demo: bool) -> str:
    """Returns what to try."""
    first, last = replicas[0].url, replicas[-1].url
    return f"""
{len(replicas)} replicas: {", ".join(replica.url for replica in replicas)}
{"Answers come from the emulator, a stand-in for Cohere: set COHERE_API_KEY for the real one." if demo else ""}
Make a key on the first, with three requests a minute:

  curl -s {first}/key/generate -H 'authorization: Bearer {os.environ.get("GATEWAY_MASTER_KEY", MASTER_KEY)}' \\
    -H 'content-type: application/json' -d '{{"key": "sk-a-key-for-all-replicas", "rpm_limit": 3}}'

and use it on all of them; the fourth answer is a 429, wherever it is asked for:

  curl -s {last}/v1/chat/completions -H 'authorization: Bearer sk-a-key-for-all-replicas' \\
    -H 'content-type: application/json' \\
    -d '{{"model": "command-a-03-2025", "messages": [{{"role": "user", "content": "Hi"}}]}}'

Ctrl-C ends them.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--port", type=int, default=8081, help="of the first; the others have the next ones")
    options = parser.parse_args()
    values = {
        "GATEWAY_DATABASE_URL": DATABASE,
        "GATEWAY_REDIS_URL": REDIS,
        "GATEWAY_MASTER_KEY": MASTER_KEY,
    }
    environment = {**values, **os.environ}
    demo = not (environment.get("COHERE_API_KEY") or environment.get("CO_API_KEY"))
    replicas: list[Replica] = []
    # As Ctrl-C: the replicas are ended, too.
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    try:
        asyncio.run(prepare_database(environment["GATEWAY_DATABASE_URL"]))
        asyncio.run(look_for_redis(environment["GATEWAY_REDIS_URL"]))
        for number in range(options.replicas):
            replicas.append(Replica(options.port + number, environment, demo))
        for replica in replicas:
            replica.await_start()
        print(tour(replicas, demo), flush=True)
        while all(replica.running for replica in replicas):
            time.sleep(0.5)
        print("a replica has ended; so do the others", file=sys.stderr)
        return 1
    except Missing as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        for replica in replicas:
            replica.stop()
        for replica in replicas:
            replica.wait()


if __name__ == "__main__":
    sys.exit(main())
