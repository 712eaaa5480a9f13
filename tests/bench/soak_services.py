"""What stands around the gateway of `make soak`, and what is done to it: services that go and come back, processes that
die, settings that are read again, keys that change.

PostgreSQL is asked to refuse connections and to cut those that it has: to the gateway that is a restart. Redis is a
process of this program's own, which is killed and started again. Without them there are SQLite and one process's own
counters, and what would be done to them is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import sqlite3
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import make_url

from bench.processes import Server, ServerFailed
from bench.soak_calls import FAULTS, HARMLESS, MODEL
from support.databases import POSTGRESQL
from support.redis_server import RedisProcess

MASTER_KEY = "sk-master-key-of-the-soak"
BUDGET, LIMIT = 0.02, 600
"""Dollars a day of the key on a budget; requests a minute of the limited one."""

PRICES = {f"{MODEL}@{fault}": {"input": 2.5, "output": 10} for fault in (*FAULTS, *HARMLESS, "stall")}
"""Of the emulator's models that misbehave: without a price a budget refuses them."""

WORKER_KILLED, REDIS_AWAY = "worker killed", "Redis away"
EXCUSES = frozenset({WORKER_KILLED, "database away", REDIS_AWAY})
"""What callers may notice of all that is done."""

AWAY_SECONDS = 1.5
"""That a service is away."""

RECOVERY_SECONDS = 5.0
"""After something was done, requests may fail for so long; a connection that is cut says nothing else."""

KEY_GRACE_SECONDS = 5
"""For so long a rotated key is still good."""

MAX_CALL_COST = 0.003
"""Dollars that no call of the key on a budget costs: one in flight may take it over its budget."""


class PostgresDatabase:
    """A database of its own on the server of this machine."""

    def __init__(self) -> None:
        self._name = f"gateway_soak_{uuid.uuid4().hex[:12]}"
        self.url = make_url(POSTGRESQL).set(database=self._name).render_as_string(hide_password=False)
        self._execute(f"CREATE DATABASE {self._name}")

    def rows(self) -> list[tuple[str, int | None]]:
        """Returns the request id and the cost, in nano-dollars, of every row of the ledger."""

        async def fetch() -> list[tuple[str, int | None]]:
            connection = await asyncpg.connect(self.url, timeout=10)
            try:
                return [tuple(row) for row in await connection.fetch("SELECT request_id, cost FROM ledger")]
            finally:
                await connection.close()

        return asyncio.run(fetch())

    def leave(self) -> None:
        """Refuses connections, and cuts those that there are."""
        self._execute(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS false", cut=True)

    def come_back(self) -> None:
        """Takes connections again."""
        self._execute(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS true")

    def close(self) -> None:
        """Removes it."""
        self._execute(f"DROP DATABASE IF EXISTS {self._name} WITH (FORCE)")

    def _execute(self, statement: str, cut: bool = False) -> None:
        terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1"

        async def execute() -> None:
            connection = await asyncpg.connect(POSTGRESQL, timeout=10)
            try:
                await connection.execute(statement)
                if cut:
                    await connection.execute(terminate, self._name)
            finally:
                await connection.close()

        asyncio.run(execute())


class SqliteDatabase:
    """Files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder}/soak.sqlite3"
        self._ledger = folder / "soak-ledger.sqlite3"

    def rows(self) -> list[tuple[str, int | None]]:
        """Returns the request id and the cost, in nano-dollars, of every row of the ledger."""
        with contextlib.closing(sqlite3.connect(self._ledger)) as connection:
            return list(connection.execute("SELECT request_id, cost FROM ledger"))

    def close(self) -> None:
        """Does nothing: the folder goes with them."""


@dataclass
class Keys:
    """The secrets that callers use, by what the kinds of `soak_calls.py` call them."""

    secrets: dict[str, str] = field(default_factory=lambda: {"master": MASTER_KEY, "revoked": "sk-" + "r" * 30})


class Installation:
    """A gateway with what it stands on. done: when something was done to it, as times of the monotonic clock."""

    def __init__(
        self, gateway: Server, database: PostgresDatabase | SqliteDatabase, redis: RedisProcess | None
    ) -> None:
        self.gateway, self.database, self.redis = gateway, database, redis
        self.keys = Keys()
        self._rotated, self._rotated_at = self.keys.secrets["revoked"], 0.0
        self.done: list[tuple[str, float, float]] = []
        self._events = itertools.cycle(self.events())

    def manage(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Calls the management API."""
        headers = {"authorization": f"Bearer {MASTER_KEY}", "content-type": "application/json"}
        url = f"http://127.0.0.1:{self.gateway.port}{path}"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def list_keys(self) -> list[dict[str, Any]]:
        """Returns all keys, as the management API shows them."""
        headers = {"authorization": f"Bearer {MASTER_KEY}"}
        url = f"http://127.0.0.1:{self.gateway.port}/key/list?size=100&return_full_object=true"
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
            keys: list[dict[str, Any]] = json.load(response)["keys"]
        return keys

    def make_keys(self) -> None:
        """Makes a key for each of the callers."""
        fields: dict[str, dict[str, Any]] = {
            "ordinary": {"max_budget": 1000.0, "budget_duration": "1d", "rpm_limit": 1_000_000},
            "hostile": {"rpm_limit": 1_000_000},
            "limited": {"rpm_limit": LIMIT},
            "budget": {"max_budget": BUDGET, "budget_duration": "1d"},
        }
        for name, limits in fields.items():
            key = self.manage("/key/generate", {"key_alias": name, **limits})
            self.keys.secrets[name] = key["key"]

    def excuses(self, began: float, ended: float) -> Sequence[str]:
        """Returns what may have failed a request that was under way then: not what nobody should notice."""
        return [
            name
            for name, start, end in self.done
            if name in EXCUSES and start <= ended and began <= end + RECOVERY_SECONDS
        ]

    # --- what is done --------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Has the settings read again."""
        self.gateway.process.send_signal(signal.SIGHUP)

    def kill_worker(self) -> None:
        """Kills the worker with the most memory, and waits for the next one."""
        os.kill(self.gateway.worker(), signal.SIGKILL)
        time.sleep(0.1)
        self.gateway.wait_ready()

    def rotate_key(self) -> None:
        """Gives the ordinary callers a new secret of their key."""
        old = self.keys.secrets["ordinary"]
        new = self.manage(f"/key/{old}/regenerate", {"grace_period": f"{KEY_GRACE_SECONDS}s"})
        self.keys.secrets["ordinary"] = new["key"]
        if self._rotated_at + KEY_GRACE_SECONDS + 3 < time.monotonic():
            self.keys.secrets["revoked"] = self._rotated
        self._rotated, self._rotated_at = old, time.monotonic()

    def lose_database(self) -> None:
        """Takes the database away for a moment."""
        assert isinstance(self.database, PostgresDatabase)
        self.database.leave()
        time.sleep(AWAY_SECONDS)
        self.database.come_back()

    def lose_redis(self) -> None:
        """Kills Redis, and starts it again, empty."""
        assert self.redis is not None
        self.redis.kill()
        time.sleep(AWAY_SECONDS)
        self.redis.start()

    def events(self) -> Sequence[tuple[str, Callable[[], None]]]:
        """Returns what is done to it, by turns."""
        events: list[tuple[str, Callable[[], None]]] = [
            ("settings read again", self.reload),
            ("key rotated", self.rotate_key),
            (WORKER_KILLED, self.kill_worker),
        ]
        if isinstance(self.database, PostgresDatabase):
            events.insert(1, ("database away", self.lose_database))
        if self.redis is not None:
            events.insert(2, (REDIS_AWAY, self.lose_redis))
        return events

    def run_events(self, seconds: float, pause: float, kills: bool, over: threading.Event) -> None:
        """Does one after the other, with a pause of so many seconds before each, until the time is over.

        kills: workers are killed, too.
        """
        until = time.monotonic() + seconds
        while not over.wait(pause) and time.monotonic() + pause < until:
            name, action = next(self._events)
            if name == WORKER_KILLED and not kills:
                continue
            start = time.monotonic()
            self.done.append((name, start, float("inf")))
            action()
            self.done[-1] = (name, start, time.monotonic())


def has_postgresql() -> bool:
    """Tells whether PostgreSQL answers."""

    async def connect() -> None:
        await (await asyncpg.connect(POSTGRESQL, timeout=5)).close()

    try:
        asyncio.run(connect())
    except (OSError, TimeoutError, asyncpg.PostgresError):
        return False
    return True


@contextlib.contextmanager
def installation(
    folder: Path, shared: bool, launch: Callable[[Mapping[str, str]], contextlib.AbstractContextManager[Server]]
) -> Iterator[Installation]:
    """Starts what a gateway stands on, and it. shared: over PostgreSQL and Redis, not over SQLite alone."""
    with contextlib.ExitStack() as stack:
        database: PostgresDatabase | SqliteDatabase = PostgresDatabase() if shared else SqliteDatabase(folder)
        stack.callback(database.close)
        redis = RedisProcess() if shared else None
        if redis is not None:
            stack.callback(redis.close)
        environment = {
            "GATEWAY_DATABASE_URL": database.url,
            "GATEWAY_MASTER_KEY": MASTER_KEY,
            # A worker may be killed: what was answered must have its row all the same.
            "GATEWAY_LEDGER_SYNC": "true",
            "GATEWAY_LEDGER_SPOOL": str(folder / "spool"),
            "GATEWAY_PRICES": json.dumps(PRICES),
            "GATEWAY_CACHE_STORE": "redis" if shared else "memory",
        }
        if redis is not None:
            environment |= {"GATEWAY_REDIS_URL": redis.url, "GATEWAY_WORKERS": "2"}
        result = Installation(stack.enter_context(launch(environment)), database, redis)
        result.make_keys()
        yield result


def is_shared(wanted: bool | None) -> bool:
    """Tells whether to run over PostgreSQL and Redis: as wanted, or where both are there. Raises ServerFailed."""
    there = has_postgresql() and shutil.which("redis-server") is not None
    if wanted and not there:
        raise ServerFailed("PostgreSQL does not answer, or there is no redis-server")
    return there if wanted is None else wanted
