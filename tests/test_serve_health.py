"""Health checks, and draining: what a load balancer and Kubernetes ask for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.endpoints.health import LIVE_PATHS, READY_PATHS
from gateway.endpoints.health_checks import Cached
from gateway.settings.schema import BreakerSettings, LedgerSettings
from support.app import SERVER_KEY, Gateway, Response, demonstration, run_harness
from support.process import awaited, process
from support.scripted_upstream import json_answer
from support.waiting import WAIT_SECONDS

MASTER = "a-master-key-of-this-test"


def ready(gateway: Gateway) -> Response:
    return gateway.ask("GET", "/health/ready", headers={})


def with_key(gateway: Gateway, method: str, key: str = MASTER) -> Response:
    return gateway.ask(method, "/health/drain", b"", {"authorization": f"Bearer {key}"})


def test_every_path_of_a_health_check() -> None:
    with demonstration() as gateway:
        for path in LIVE_PATHS:
            assert gateway.ask("GET", path, headers={}).body == {"status": "live"}
        for path in READY_PATHS:
            body = gateway.ask("GET", path, headers={}).body
            assert body["status"] == "ready"
            assert body["checks"] == dict.fromkeys(("database", "upstream", "ledger", "limits"), "ok")
            assert body["workers"] == {"live": 1, "configured": 1}
        assert {"/healthz", "/readyz", "/health/liveliness", "/health/readiness"} <= {*LIVE_PATHS, *READY_PATHS}


def test_a_database_that_is_away_is_a_reason(tmp_path: Path) -> None:
    away = tmp_path / "missing"
    away.write_text("a file where a folder should be")
    ledger = LedgerSettings(spool=str(tmp_path / "spool"))
    with demonstration(database_url=f"sqlite:///{away}/x.sqlite3", ledger=ledger) as gateway:
        response = ready(gateway)
        assert response.status == 200
        assert response.body["status"] == "degraded"
        assert "database" in response.body["checks"]["database"]
        assert response.body["checks"]["database"] in response.body["reasons"]


def test_redis_that_is_away_is_a_reason() -> None:
    with demonstration(redis_url="redis://127.0.0.1:9/0") as gateway:
        body = ready(gateway).body
        assert body["status"] == "degraded"
        assert body["checks"]["redis"].startswith("Redis does not answer")


def test_cohere_that_cannot_be_reached_is_a_reason() -> None:
    with run_harness(cohere_api_key=[SERVER_KEY]) as harness:
        assert ready(harness.gateway).body["checks"]["upstream"] == "ok"
        harness.chat_over(json_answer(401, {"message": "invalid api token"}))
        body = ready(harness.gateway).body
        assert body["checks"]["upstream"] == "Cohere refuses every key of the server's"
        assert body["status"] == "degraded"


def test_an_open_breaker_is_a_reason(tmp_path: Path) -> None:
    from support.app import gateway_over

    with gateway_over("http://127.0.0.1:9", breaker=BreakerSettings(failures=1)) as gateway:
        assert gateway.chat().status == 502
        assert "circuit breaker" in ready(gateway).body["checks"]["upstream"]


def test_a_gateway_that_refuses_calls_is_not_ready(tmp_path: Path) -> None:
    away = tmp_path / "missing"
    away.write_text("")
    ledger = LedgerSettings(spool=str(tmp_path / "spool"), on_failure="refuse", flush_seconds=0.01)
    with demonstration(database_url=f"sqlite:///{away}/x.sqlite3", ledger=ledger) as gateway:
        gateway.chat()
        awaited(lambda: ready(gateway).status == 503)
        assert "ledger" in ready(gateway).body["error"]["message"]


# --- draining -------------------------------------------------------------------------------------------------


def test_a_drained_gateway_serves_and_is_not_ready() -> None:
    with demonstration(master_key=MASTER) as gateway:
        assert with_key(gateway, "POST").body == {"status": "draining"}
        response = ready(gateway)
        assert (response.status, response.body["error"]["code"]) == (503, "not_ready")
        assert "drained" in response.body["error"]["message"]
        assert gateway.chat(headers={"authorization": f"Bearer {MASTER}"}).status == 200
        assert gateway.ask("GET", "/healthz", headers={}).status == 200
        assert with_key(gateway, "DELETE").body == {"status": "ready"}
        assert ready(gateway).status == 200


@pytest.mark.parametrize("key", ["", "sk-somebody-else-000000000000"])
def test_only_the_master_key_drains(key: str) -> None:
    with demonstration(master_key=MASTER) as gateway:
        assert with_key(gateway, "POST", key).status == 401
        assert ready(gateway).status == 200


def test_without_a_master_key_nobody_drains() -> None:
    with demonstration() as gateway:
        response = with_key(gateway, "POST", "any")
        assert (response.status, response.body["error"]["code"]) == (403, "role_not_allowed")


def test_all_workers_are_drained_and_those_that_replace_them() -> None:
    with process("--demo", "--workers", "2", GATEWAY_MASTER_KEY=MASTER) as server:
        import os
        import signal
        import urllib.error
        import urllib.request

        def status() -> int:
            try:
                with urllib.request.urlopen(f"{server.url}/readyz", timeout=WAIT_SECONDS) as response:
                    return int(response.status)
            except urllib.error.HTTPError as error:
                return error.code

        awaited(lambda: json.loads(server.get("/health/ready"))["workers"]["live"] == 2)
        headers = {"authorization": f"Bearer {MASTER}"}
        request = urllib.request.Request(f"{server.url}/health/drain", b"", headers, method="POST")
        urllib.request.urlopen(request, timeout=WAIT_SECONDS).close()
        awaited(lambda: [status() for _ in range(12)] == [503] * 12)
        before = server.workers
        os.kill(before[0], signal.SIGKILL)
        awaited(lambda: len(server.workers) == 2 and before[0] not in server.workers)
        awaited(lambda: [status() for _ in range(12)] == [503] * 12)


# --- looks are shared -----------------------------------------------------------------------------------------


async def counted(results: list[str]) -> tuple[list[str], int]:
    import asyncio

    calls = 0

    async def look() -> str:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        return results[0]

    check = Cached(look)
    return list(await asyncio.gather(*(check() for _ in range(20)))), calls


@pytest.mark.asyncio
async def test_many_who_ask_are_one_look() -> None:
    assert await counted(["away"]) == (["away"] * 20, 1)
