"""Workers that die, or hang: they are replaced, and nobody is turned away meanwhile. All with real processes."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from gateway.server import process as process_module
from support.app import A
from support.process import GATEWAY, Process, awaited, process, reads_until, request_bytes
from support.waiting import WAIT_SECONDS

SUPERVISED = Path(__file__).parent / "support" / "supervised.py"

pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="only Linux tells whose child a process is")


def troubles(server: Process) -> list[str]:
    return [line["message"] for line in map(json.loads, server.written) if "message" in line]


def ready(server: Process) -> Any:
    """Readiness without its single checks."""
    return {name: value for name, value in json.loads(server.get("/health/ready")).items() if name != "checks"}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_is_replaced(workers: int) -> None:
    with process("--demo", "--workers", str(workers)) as server:
        awaited(lambda: ready(server)["workers"] == {"live": workers, "configured": workers})
        (victim, *_) = server.workers
        os.kill(victim, signal.SIGKILL)
        awaited(lambda: len(troubles(server)) == 1)
        assert re.fullmatch(
            rf"worker \d \(process {victim}\) was killed by SIGKILL; it is replaced at once", troubles(server)[0]
        )
        if workers == 2:
            assert ready(server) == {
                "status": "degraded",
                "workers": {"live": 1, "configured": 2},
                "reasons": ["1 of 2 workers serve"],
            }
        # The listening socket is the supervisor's: who comes now waits, and is served.
        assert b"HTTP/1.1 200" in server.chat()
        awaited(lambda: ready(server) == {"status": "ready", "workers": {"live": workers, "configured": workers}})
        assert victim not in server.workers
        metrics = server.get("/metrics").decode()
        assert 'gateway_worker_restarts_total{reason="died"} 1.0' in metrics
        assert f"gateway_workers {workers}.0" in metrics
        server.signal(signal.SIGTERM)
        assert server.ends() == 0


def test_a_worker_that_does_not_answer_is_replaced() -> None:
    """Stopped, it cannot even say where it is."""
    with process("--demo", GATEWAY_TIMEOUTS_HUNG_WORKER="5") as server:
        (victim,) = server.workers
        os.kill(victim, signal.SIGSTOP)
        assert b"HTTP/1.1 200" in server.chat()
        assert server.workers != [victim]
        assert troubles(server) == [
            f"worker 1 (process {victim}) did not answer for 5 s and was killed; it is replaced at once"
        ]
        assert 'gateway_worker_restarts_total{reason="unresponsive"} 1.0' in server.get("/metrics").decode()


def test_where_a_worker_hangs_is_logged() -> None:
    with process(program=[str(SUPERVISED)], GATEWAY_TIMEOUTS_HUNG_WORKER="5", COHERE_API_KEY="x") as server:
        with socket.create_connection(("127.0.0.1", server.port), WAIT_SECONDS) as connection:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert connection.recv(10) == b"", "its connection ends with the worker"
        awaited(lambda: len(troubles(server)) == 1)
        (line,) = troubles(server)
        assert "did not answer for 5 s and was killed" in line
        assert re.search(r'File ".*supervised\.py", line \d+ in spin', line)
        assert b'"ready"' in server.get("/health/ready")
        server.signal(signal.SIGTERM)
        assert server.ends() == 0


def test_a_worker_that_hangs_does_not_hold_up_the_end() -> None:
    with process("--demo", GATEWAY_TIMEOUTS_HUNG_WORKER="5", GATEWAY_TIMEOUTS_SHUTDOWN="600") as server:
        os.kill(server.workers[0], signal.SIGSTOP)
        server.signal(signal.SIGTERM)
        assert server.ends() == 0


def test_when_every_worker_dies_again_and_again_the_status_is_not_0() -> None:
    ended = subprocess.run(
        [sys.executable, str(SUPERVISED), "deaths"],
        capture_output=True,
        text=True,
        timeout=2 * WAIT_SECONDS,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "announced\n")
    *lines, last = ended.stderr.splitlines()
    assert last == "every worker has died 5 times in a row"
    messages = [json.loads(line)["message"] for line in lines]
    short = [message for message in messages if "cannot be started: Resource temporarily unavailable" in message]
    assert len(short) == 1, "a system that has no process to give is asked again"
    deaths = [message for message in messages if message.endswith("ended with exit status 3; it is replaced at once")]
    assert len(deaths) == len(messages) - 1 and 8 <= len(deaths) <= 16


def test_a_worker_that_is_ready_ends_in_good_order_although_the_supervisor_has_not_read_so() -> None:
    """It may have served callers. Killed, it would lose the lines of their requests."""
    ended = subprocess.run(
        [sys.executable, str(SUPERVISED), "unread"],
        capture_output=True,
        text=True,
        timeout=2 * WAIT_SECONDS,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ended in good order\n" * 2, "")


def test_workers_end_with_their_supervisor() -> None:
    with process("--demo", "--workers", "2") as server:
        awaited(lambda: len(server.workers) == 2)
        children = [int(child) for child in Path(f"/proc/{server.id}/task/{server.id}/children").read_text().split()]
        os.kill(server.id, signal.SIGKILL)
        server.ends()
        awaited(lambda: not [child for child in children if Path(f"/proc/{child}").exists()])


def test_a_stream_is_finished_when_the_supervisor_dies() -> None:
    with (
        process("--demo") as server,
        socket.create_connection(("127.0.0.1", server.port), WAIT_SECONDS) as connection,
    ):
        connection.sendall(request_bytes(model=f"{A}@slow=0.05", stream=True))
        received = reads_until(connection, b"data: ")
        os.kill(server.id, signal.SIGKILL)
        assert b"[DONE]" in received + reads_until(connection, b"[DONE]")


@pytest.mark.parametrize("workers", [1, 2])
def test_who_comes_after_sigterm_is_refused_at_once(workers: int) -> None:
    with process("--demo", "--workers", str(workers), GATEWAY_TIMEOUTS_SHUTDOWN="600") as server:
        awaited(lambda: ready(server)["workers"]["live"] == workers)
        with socket.create_connection(("127.0.0.1", server.port), WAIT_SECONDS) as connection:
            connection.sendall(request_bytes(model=f"{A}@slow=0.2", stream=True))
            reads_until(connection, b"data: ")
            server.signal(signal.SIGTERM)
            awaited(lambda: refuses(server.port))
            assert server.running, "it drains"
            connection.shutdown(socket.SHUT_RDWR)
        assert server.ends() == 0


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), WAIT_SECONDS).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_worker_that_replaces_another_has_the_settings_that_were_read_last(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("")
    with process("--demo", GATEWAY_CONFIG=str(file)) as server:
        file.write_text('[models.aliases]\n"my-model" = "command-a-03-2025"\n')
        server.signal(signal.SIGHUP)
        awaited(lambda: len(troubles(server)) == 1)
        os.kill(server.workers[0], signal.SIGKILL)
        answer = server.chat(model="my-model")
        assert b"HTTP/1.1 200" in answer and b"command-a-03-2025" in answer


@pytest.mark.parametrize("broken", ["[[[", ""], ids=["no TOML", "without the key"])
def test_a_worker_that_replaces_another_keeps_what_was_taken_over(broken: str, tmp_path: Path) -> None:
    """The file can no longer be used: the new worker had the settings of the start, where anybody could call."""
    file = tmp_path / "gateway.toml"
    file.write_text("")
    with process("--demo", GATEWAY_CONFIG=str(file)) as server:
        file.write_text('master_key = "master-key-0003"\n')
        server.signal(signal.SIGHUP)
        awaited(lambda: len(troubles(server)) == 1)
        assert b"HTTP/1.1 401" in server.chat()
        file.write_text(broken)
        os.kill(server.workers[0], signal.SIGKILL)
        assert b"HTTP/1.1 401" in server.chat()


def test_one_worker_costs_little_more_than_itself() -> None:
    """The supervisor brings nothing of the application."""
    with process("--demo", program=GATEWAY) as server:
        resident = re.search(r"VmRSS:\s*(\d+) kB", Path(f"/proc/{server.id}/status").read_text())
        assert resident is not None and int(resident[1]) < 30_000
        server.signal(signal.SIGINT, group=True)
        assert server.ends() == 0


def test_the_supervisor_imports_next_to_nothing() -> None:
    program = (
        "import sys, gateway.server.process, gateway.cli.serve; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    imported = set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.split())
    heavy = {"asyncio", "ssl", "email", "aiohttp", "starlette", "hypercorn", "sqlalchemy", "cryptography", "jsonschema"}
    assert "msgspec" in imported and not imported & (heavy - {"starlette"})


def test_an_interpreter_that_cannot_be_executed_is_a_sentence() -> None:
    result = subprocess.run(
        [sys.executable, str(SUPERVISED), "unexecutable"], capture_output=True, text=True, timeout=2 * WAIT_SECONDS
    )
    assert result.returncode == 1
    assert result.stderr == (
        "worker 1 ended with exit status 255 while it started: /nowhere/python cannot be executed: "
        "No such file or directory\n"
    )


def test_a_supervisor_that_starts_meanwhile_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory whose file was there before its lock was taken for abandoned."""
    lock = fcntl.flock

    def meanwhile(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        process_module._remove_abandoned(str(tmp_path))
        lock(descriptor, operation)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv(process_module.METRICS_DIRECTORY, raising=False)
    monkeypatch.setattr(fcntl, "flock", meanwhile)
    with process_module._shared_metrics():
        assert [file.name for file in tmp_path.glob("*/*")] == [process_module.LOCK_FILE]


def test_what_a_killed_supervisor_leaves_is_removed_at_the_next_start(tmp_path: Path) -> None:
    def directories() -> list[Path]:
        return sorted(tmp_path.glob("cohere-gateway-metrics-*"))

    with process("--demo", "--workers", "2", TMPDIR=str(tmp_path)) as server:
        (abandoned,) = directories()
        server.signal(signal.SIGKILL)
        server.ends()
    with process("--demo", "--workers", "2", TMPDIR=str(tmp_path)) as first:
        (used,) = directories()
        assert used != abandoned
        with process("--demo", "--workers", "2", TMPDIR=str(tmp_path)) as second:
            assert len(directories()) == 2 and used in directories()
            second.signal(signal.SIGTERM)
            assert second.ends() == 0
        first.signal(signal.SIGTERM)
        assert first.ends() == 0
    assert not directories()
