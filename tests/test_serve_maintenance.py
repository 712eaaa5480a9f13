"""The storage's life: opened at start, kept clean, brought to its version; and what a process leaves when it ends.

Processes are `cohere-gateway serve`, killed without a word or told to stop, with responses in the background under way.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from gateway.pipeline import background
from gateway.settings.schema import Timeouts
from gateway.state import conversation_state, maintenance
from gateway.store.store import Store
from gateway.store.tables import RUNS
from support import preloaded_process
from support.app import A, Gateway, Response, answered, emulator, gateway_over, run_harness
from support.databases import KINDS, throwaway
from support.process import GATEWAY, ROOT, Process, process
from support.scripted_upstream import Script, ScriptedUpstream, Signal
from support.waiting import WAIT_SECONDS
from test_serve_background import (
    PATH,
    STREAMED,
    TEXT,
    awaited,
    begin,
    checked,
    database,
    halting,
    id_of,
    late,
    poll,
    reading,
    resumed,
)
from test_serve_stored import NOWHERE
from test_store_database import OWNER, running, stored
from test_store_responses import live

__all__ = ["database"]

SERVER = {"COHERE_API_KEY": "server-key"}


def gateway_of(server: Process) -> Gateway:
    return Gateway(server.url, "", log=None, key="anything")  # type: ignore[arg-type]


@contextmanager
def waiting_upstream() -> Iterator[tuple[ScriptedUpstream, Signal]]:
    """Every answer begins, where it is a stream, and waits for the signal."""
    go_on = Signal()

    def script(request: Any) -> Script:
        return halting(go_on) if request.json()["stream"] else late(go_on)

    with ScriptedUpstream(script).run_in_thread() as upstream:
        try:
            yield upstream, go_on
        finally:
            go_on.set()


# --- processes that end -------------------------------------------------------------------------------------


def forget_leases(database: str) -> None:
    """As if the time of a lease had passed."""
    with asyncio.Runner() as runner:
        runner.run(_forget_leases(database))


async def _forget_leases(database: str) -> None:
    async with running(database) as store:
        await store._database.write(
            lambda connection: connection.execute(update(RUNS).values(lease_until=1.0)) and None
        )


@pytest.mark.parametrize("restarted", [True, False], ids=["restarted", "another one"])
def test_what_a_killed_process_worked_on_has_failed(
    database: str, restarted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once where it is started again after the lease; and by the others, who look from time to time."""
    with waiting_upstream() as (upstream, _):
        settings = {**SERVER, "COHERE_BASE_URL": upstream.url, "GATEWAY_DATABASE_URL": database}
        with process(**settings) as server:
            gateway = gateway_of(server)
            whole = begin(gateway).body["id"]
            with reading(gateway, "POST", PATH, STREAMED) as one:
                events = one.until(b'"delta":"word3 "')
            poll(gateway, whole, "in_progress")
            server.signal(signal.SIGKILL, group=True)
        forget_leases(database)
        with gateway_over(upstream.url, database_url=database, cohere_api_key=["server-key"]) as other:
            if restarted:
                with process(**settings) as server:
                    ends_as_failed(gateway_of(server), whole, events)
            ends_as_failed(other, whole, events)


def ends_as_failed(gateway: Gateway, whole: str, document: bytes) -> None:
    response = poll(gateway, whole)
    assert response["status"] == "failed" and "stopped before its end" in response["error"]["message"]
    data = resumed(gateway, id_of(document)).data
    assert data.startswith(document[: document.rfind(b"\n\n") + 2]), "what was told before is told again"
    events = checked(data)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"] == poll(gateway, id_of(document))
    after = events[-1]["sequence_number"]
    assert checked(resumed(gateway, id_of(document), after - 1).data, after) == events[-1:]
    assert resumed(gateway, id_of(document), after).data == b"data: [DONE]\n\n"


def test_sigterm_lets_a_response_end(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/gateway.sqlite3"
    with waiting_upstream() as (upstream, go_on):
        settings = {**SERVER, "COHERE_BASE_URL": upstream.url, "GATEWAY_DATABASE_URL": database}
        with process(**settings) as server:
            id = begin(gateway_of(server)).body["id"]
            poll(gateway_of(server), id, "in_progress")
            server.signal(signal.SIGTERM)
            time.sleep(0.3)
            assert server.running
            go_on.set()
            assert server.ends() == 0
            lines = server.errors()
        assert [line["outcome"] for line in lines if line["operation"] == "responses"] == ["ok"]
        with gateway_over(upstream.url, database_url=database, cohere_api_key=["server-key"]) as other:
            assert poll(other, id)["status"] == "completed"


@pytest.mark.parametrize(
    ("number", "seconds"), [(signal.SIGTERM, "1"), (signal.SIGINT, "60")], ids=["SIGTERM", "Ctrl-C"]
)
def test_what_a_shutdown_ends_has_failed(tmp_path: Path, number: int, seconds: str) -> None:
    database = f"sqlite:///{tmp_path}/gateway.sqlite3"
    with waiting_upstream() as (upstream, _):
        settings = {**SERVER, "COHERE_BASE_URL": upstream.url, "GATEWAY_DATABASE_URL": database}
        with process(**settings, GATEWAY_TIMEOUTS_SHUTDOWN=seconds) as server:
            gateway = gateway_of(server)
            whole = begin(gateway).body["id"]
            with reading(gateway, "POST", PATH, STREAMED) as one:
                one.until(b'"delta":"word3 "')
                server.signal(number)
                events = checked(one.rest())
            assert events[-1]["type"] == "response.failed"
            assert server.ends() == 0
            lines = [line for line in server.errors() if line["operation"] == "responses"]
        assert [(line["status"], line["error"]) for line in lines] == [(503, "not_ready")] * 2
        with gateway_over(upstream.url, database_url=database, cohere_api_key=["server-key"]) as other:
            for id, result in ((whole, None), (events[0]["response"]["id"], events[-1]["response"])):
                assert poll(other, id)["status"] == "failed"
                assert result in (None, poll(other, id))


def test_workers_share_what_is_in_the_background(database: str) -> None:
    """Each connection may come to either of two; nobody sees a difference."""
    with waiting_upstream() as (upstream, go_on):
        settings = {**SERVER, "COHERE_BASE_URL": upstream.url, "GATEWAY_DATABASE_URL": database}
        with process("--workers", "2", **settings) as server:
            server.settle(2)
            gateway = gateway_of(server)
            with reading(gateway, "POST", PATH, STREAMED) as one:
                id = id_of(one.until(b'"delta":"word3 "'))
                ids = [begin(gateway).body["id"] for _ in range(6)]
                assert [gateway.ask("POST", f"{PATH}/{one}/cancel").body["status"] for one in ids] == ["cancelled"] * 6
                followers = [resumed_later(gateway, id) for _ in range(4)]
                go_on.set()
                data = one.rest()
            events = checked(data)
            assert events[-1]["response"]["output"][0]["content"][0]["text"] == TEXT
            for thread, result in followers:
                thread.join(WAIT_SECONDS)
                assert [response.data for response in result] == [data]


def resumed_later(gateway: Gateway, id: str) -> tuple[threading.Thread, list[Response]]:
    results: list[Response] = []
    thread = threading.Thread(target=lambda: results.append(resumed(gateway, id)))
    thread.start()
    return thread, results


# --- the lease ----------------------------------------------------------------------------------------------


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_state, "Store", partial(Store, lease=3.0))
    monkeypatch.setattr(background, "CHECK_SECONDS", 0.1)


def test_a_process_at_work_keeps_its_lease(database: str, short_lease: None) -> None:
    go_on = Signal()
    with (
        run_harness(database_url=database, timeouts=Timeouts(shutdown=1)) as harness,
        gateway_over("", database_url=database),
    ):
        harness.respond_with(late(go_on))
        id = begin(harness.gateway).body["id"]
        time.sleep(7.0)  # more than twice its lease, and longer than the other one's look takes to come
        assert poll(harness.gateway, id, "in_progress")["status"] == "in_progress"
        go_on.set()
        assert poll(harness.gateway, id)["status"] == "completed"


def test_who_runs_on_ends_what_others_left(database: str, short_lease: None) -> None:
    """No restart is needed: each process looks at what has no lease any more."""
    with gateway_over("http://127.0.0.1:9", database_url=database, demo=True) as gateway:
        with asyncio.Runner() as runner:
            runner.run(_left_behind(database))
        response = poll(gateway, "resp_left")
        assert response["status"] == "failed"


async def _left_behind(database: str) -> None:
    async with running(database, lease=0.5) as store:
        await store.begin(live("resp_left", owner="demo", body=b'{"id":"resp_left","status":"in_progress"}'))


# --- the storage at start, and its cleaning -----------------------------------------------------------------


def test_it_is_opened_at_start(tmp_path: Path) -> None:
    file = tmp_path / "gateway.sqlite3"
    with gateway_over("", demo=True, database_url=f"sqlite:///{file}") as gateway:
        awaited(file.exists)
        assert not [line for line in gateway.log.lines if "message" in line]


def test_one_that_cannot_be_opened_stops_nobody() -> None:
    with emulator() as upstream, gateway_over(upstream, demo=True, database_url=NOWHERE) as gateway:
        line = gateway.log.wait(lambda line: "message" in line)
        assert line["message"].startswith("storage: ")
        assert gateway.ask("GET", "/health/live").status == gateway.ask("GET", "/health/ready").status == 200
        assert gateway.ask("POST", PATH, {"model": A, "input": "Hello", "store": False}).status == 200
        assert gateway.chat().status == 200


def test_one_that_comes_later_is_used(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("not a folder")
    database = f"sqlite:///{tmp_path}/folder/gateway.sqlite3"
    with emulator() as upstream, gateway_over(upstream, demo=True, database_url=database) as gateway:
        assert begin(gateway).status == 503
        (tmp_path / "folder").unlink()
        assert poll(gateway, begin(gateway).body["id"])["status"] == "completed"


def test_what_has_expired_is_deleted(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "PURGE_SECONDS", 0.2)
    with run_harness(database_url=database) as harness:
        harness.respond_with(answered())
        with asyncio.Runner() as runner:
            runner.run(_expired(database))
            awaited(lambda: runner.run(_count(database, "resp_old")) == 0)
            assert runner.run(_count(database, "resp_new")) == 1


async def _expired(database: str) -> None:
    async with running(database) as store:
        await store.save(stored("resp_old", expires_at=1_700_000_001))
        await store.save(stored("resp_new"))


async def _count(database: str, id: str) -> int:
    """Expired rows, too, which the store does not show: a second one of this id is not saved."""
    async with running(database, clock=lambda: 1_700_000_000.0) as store:
        return int(await store.get(OWNER, id) is not None)


# --- cohere-gateway db upgrade ------------------------------------------------------------------------------


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "CO", "PROMETHEUS"))}
    environment = {**clean, **environment}
    if preloaded_process.AVAILABLE:
        libraries = preloaded_process.GATEWAY_LIBRARIES
        return preloaded_process.run([*GATEWAY, *words], environment, ROOT, WAIT_SECONDS, libraries)
    return subprocess.run(
        [sys.executable, *GATEWAY, *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_database_is_brought_to_this_version(kind: str, tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        created = throwaway(kind, tmp_path, empty=True)
        url = runner.run(created.__aenter__())
        try:
            for _ in range(2):
                done = command("db", "upgrade", GATEWAY_DATABASE_URL=url)
                assert (done.returncode, done.stdout, done.stderr) == (0, "the database is up to date\n", "")
            assert runner.run(_count(url, "resp_none")) == 0
        finally:
            runner.run(created.__aexit__(None, None, None))


def test_the_settings_file_says_which(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'database_url = "sqlite:///{tmp_path}/mine.sqlite3"\n')
    assert command("db", "upgrade", "--config", str(file)).returncode == 0
    assert (tmp_path / "mine.sqlite3").exists()


@pytest.mark.parametrize(
    ("words", "url", "status", "expected"),
    [
        (("db", "upgrade"), "postgresql://somebody:secret-word@127.0.0.1:1/nothing", 1, "the database"),
        (("db", "upgrade"), "sqlite:////proc/nothing/gateway.sqlite3", 1, "the database"),
        (("db", "upgrade"), "oracle://host/name", 2, "database_url"),
        (("db",), "", 2, "--help"),
        (("db", "drop"), "", 2, "--help"),
    ],
    ids=["nobody there", "no place", "no such kind", "nothing said", "no such work"],
)
def test_what_cannot_be_done_is_one_line(words: tuple[str, ...], url: str, status: int, expected: str) -> None:
    done = command(*words, GATEWAY_DATABASE_URL=url)
    assert (done.returncode, done.stdout) == (status, "")
    assert len(done.stderr.splitlines()) == 1 and expected in done.stderr and "secret-word" not in done.stderr


def test_the_help_has_an_example() -> None:
    assert "example: GATEWAY_DATABASE_URL=" in command("db", "upgrade", "--help").stdout
