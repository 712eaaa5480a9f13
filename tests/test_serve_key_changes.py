"""A key that is made, changed or revoked anywhere: every process obeys, and none of them is restarted.

Real processes in demo mode over one database. The change is written by this process, as the command line does it.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.store import keys
from gateway.store.keys import ChangedBy
from gateway.virtual_keys import VirtualKey, digest_of
from support import redis_server
from support.app import MASTER_KEY
from support.databases import throwaway
from support.process import GATEWAY, Process, awaited, process
from support.waiting import WAIT_SECONDS
from test_store_database import running

BY = ChangedBy("operator")
WITHIN_SECONDS, TRIES = 2.0, 10
"""What is promised of a revocation, everywhere; and how often it is tried on a machine that is busy with others."""

SECRET, NEW_SECRET = "sk-a-key-of-these-tests-0001", "sk-a-key-of-these-tests-0002"


def status(url: str, secret: str) -> int:
    request = urllib.request.Request(f"{url}/v1/models", headers={"authorization": f"Bearer {secret}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=WAIT_SECONDS) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def session_status(url: str, cookie: str) -> int:
    request = urllib.request.Request(f"{url}/key/list", headers={"cookie": cookie, "sec-fetch-site": "same-origin"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=WAIT_SECONDS) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def on_session(url: str, method: str, **headers: str) -> tuple[str, str]:
    """Signs in or out. Returns the cookie and the CSRF token, if there are any."""
    body = json.dumps({"key": MASTER_KEY}).encode() if method == "POST" else None
    all_headers = {"content-type": "application/json", "sec-fetch-site": "same-origin", **headers}
    request = urllib.request.Request(f"{url}/console/session", body, all_headers, method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=WAIT_SECONDS) as response:
        cookie = response.headers["set-cookie"].partition(";")[0]
        return cookie, str(json.loads(response.read())["csrf_token"])


def judge_sessions(servers: list[Process], calls: int) -> None:
    """Signs in at the first server and out at the last: the cookie, which somebody has copied, is worth nothing."""

    def statuses(cookie: str) -> set[int]:
        return {session_status(server.url, cookie) for server in servers for _ in range(calls)}

    for _ in range(TRIES):
        cookie, token = on_session(servers[0].url, "POST")
        other, _ = on_session(servers[0].url, "POST")
        assert statuses(cookie) == {200}
        on_session(servers[-1].url, "DELETE", cookie=cookie, **{"x-gateway-csrf": token})
        written = time.monotonic()
        assert session_status(servers[0].url if len(servers) == 1 else servers[-1].url, other) == 200
        awaited(lambda cookie=cookie: statuses(cookie) == {401})  # type: ignore[misc]
        elapsed = time.monotonic() - written
        assert statuses(other) == {200}, "no other session of the same key"
        if elapsed < WITHIN_SECONDS:
            break
    assert elapsed < WITHIN_SECONDS, "however busy this machine is"


class Database:
    """One database, and what is written to it from outside."""

    def __init__(self, url: str) -> None:
        self.url = url

    def write(self, work: Callable[[Any], object]) -> None:
        async def run() -> None:
            async with running(self.url) as store:
                await store.write(work)

        asyncio.run(run())


@contextmanager
def database(kind: str, folder: Path) -> Iterator[Database]:
    with asyncio.Runner() as runner:
        temporary = throwaway(kind, folder)
        url = runner.run(temporary.__aenter__())
        try:
            yield Database(url)
        finally:
            runner.run(temporary.__aexit__(None, None, None))


def serving(database: Database, *arguments: str, **environment: Any) -> Any:
    named = {"GATEWAY_DATABASE_URL": database.url, "GATEWAY_MASTER_KEY": MASTER_KEY}
    return process("--demo", *arguments, **named, **environment)


def judge(database: Database, servers: list[Process], calls: int) -> None:
    """Makes, blocks, unblocks, rotates and deletes a key; `calls` reach every worker of a server, very likely."""

    def statuses(secret: str) -> set[int]:
        return {status(server.url, secret) for server in servers for _ in range(calls)}

    for server in servers:
        assert status(server.url, MASTER_KEY) == 200
    database.write(lambda c: keys.insert(c, [VirtualKey(key_id="k", digest=digest_of(SECRET))], BY, time.time()))
    assert statuses(SECRET) == {200}, "a new key works at once everywhere"

    def change(**fields: Any) -> None:
        database.write(lambda c: keys.update(c, VirtualKey, "k", fields, BY, time.time()))

    for _ in range(TRIES):
        change(blocked=True)
        written = time.monotonic()
        awaited(lambda: statuses(SECRET) == {403})
        elapsed = time.monotonic() - written
        change(blocked=False)
        awaited(lambda: statuses(SECRET) == {200})
        if elapsed < WITHIN_SECONDS:
            break
    assert elapsed < WITHIN_SECONDS, "however busy this machine is"
    change(expires=1.0)
    awaited(lambda: statuses(SECRET) == {401})
    change(expires=None)
    awaited(lambda: statuses(SECRET) == {200})
    new = digest_of(NEW_SECRET)
    database.write(lambda c: keys.rotate(c, "k", new, "0002", BY, time.time(), time.time() + 3600))
    assert statuses(NEW_SECRET) == {200} and statuses(SECRET) == {200}
    database.write(lambda c: keys.delete(c, VirtualKey, "k", BY, time.time()))
    awaited(lambda: statuses(SECRET) | statuses(NEW_SECRET) == {401})


def test_three_processes_over_postgresql(tmp_path: Path) -> None:
    """The first hears of changes from PostgreSQL, the others from Redis as well."""
    with database("postgresql", tmp_path) as shared, ExitStack() as stack:
        announced = [{}, {"GATEWAY_REDIS_URL": redis_server.URL}, {"GATEWAY_REDIS_URL": redis_server.URL}]
        servers = [stack.enter_context(serving(shared, **environment)) for environment in announced]
        judge(shared, servers, 1)
        judge_sessions(servers, 1)


@pytest.mark.parametrize("workers", ["2"])
def test_two_workers_over_sqlite(tmp_path: Path, workers: str) -> None:
    with database("sqlite", tmp_path) as shared, serving(shared, "--workers", workers) as server:
        judge(shared, [server], 8)
        judge_sessions([server], 8)


def test_the_system_shows_no_secret_of_workers(tmp_path: Path) -> None:
    """Neither their environment nor their arguments; the first process's environment is the operator's."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("this system has no /proc")
    with database("sqlite", tmp_path) as shared, serving(shared, program=GATEWAY) as server:
        assert status(server.url, MASTER_KEY) == 200
        for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split():
            names = ("environ", "cmdline", "comm")
            process_text = b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in names)
            assert b"spawn_main" in process_text
            assert MASTER_KEY.encode() not in process_text and shared.url.encode() not in process_text


def test_keys_that_begin_with_a_reload(tmp_path: Path) -> None:
    """A master key that comes with SIGHUP: from then on keys are wanted, and their changes noticed."""
    settings = tmp_path / "gateway.toml"
    settings.write_text("")
    with database("sqlite", tmp_path) as shared:
        environment = {"GATEWAY_DATABASE_URL": shared.url, "GATEWAY_CONFIG": str(settings)}
        with process("--demo", **environment) as server:
            assert status(server.url, "anything") == 200
            settings.write_text(f'master_key = "{MASTER_KEY}"\n')
            server.signal(signal.SIGHUP)
            awaited(lambda: status(server.url, "anything") == 401)
            judge(shared, [server], 1)
