"""Redis and PostgreSQL frozen under a gateway: they accept connections and answer nothing, which no closed port shows.

How limits hold then is in `test_limits_shared.py`, and what is refused, killed or cut in the tests of each part.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from gateway.settings.schema import CacheSettings, LedgerSettings, LimitSettings
from gateway.store import keys
from gateway.store.keys import ChangedBy
from gateway.virtual_keys import VirtualKey
from support.app import MASTER_KEY, SERVER_KEY, A, Harness, answered, run_harness
from support.keys import add, key_of, secret_of
from support.process import awaited
from support.redis_server import redis_process
from support.relay import Relay, relay
from support.waiting import WAIT_SECONDS
from test_serve_key_changes import Database, database
from test_serve_limits import limited


def test_a_cache_that_freezes_is_a_miss() -> None:
    with redis_process() as redis, run_harness(cache=CacheSettings(store="redis"), redis_url=redis.url) as harness:

        def ask(question: str) -> str:
            response = harness.gateway.chat(question, temperature=0)
            assert (response.status, response.text) == (200, "One.")
            return response.headers["x-gateway-cache"]

        harness.respond_with(answered("One."))
        assert ask("Hi") == "miss"
        awaited(lambda: ask("Hi") == "hit")
        redis.signal(signal.SIGSTOP)
        try:
            calls = len(harness.upstream.requests)
            assert [ask(question) for question in ("Hi", "Hi", "Else")] == ["miss"] * 3
            assert len(harness.upstream.requests) == calls + 3
        finally:
            redis.signal(signal.SIGCONT)
        awaited(lambda: ask("Hi") == "hit")


@pytest.mark.parametrize(("on_failure", "status"), [("local", 200), ("refuse", 503)])
def test_what_a_caller_with_limits_gets_while_redis_is_frozen(on_failure: Any, status: int) -> None:
    limits = LimitSettings(timeout=0.75, on_failure=on_failure)
    with (
        redis_process() as redis,
        limited(key_of("k", rpm_limit=1_000), redis_url=redis.url, limits=limits) as (_, caller),
    ):
        awaited(lambda: caller("k").chat().status == 200)
        redis.signal(signal.SIGSTOP)
        try:
            responses = [caller("k").chat() for _ in range(5)]
        finally:
            redis.signal(signal.SIGCONT)
        assert {response.status for response in responses} == {status}
        assert status == 200 or {response.error["code"] for response in responses} == {"limits_unavailable"}
        awaited(lambda: caller("k").chat().status == 200)


Frozen = tuple[Harness, Database, Relay]


@contextmanager
def over_a_relay(folder: Path, **settings: Any) -> Iterator[Frozen]:
    """A gateway whose PostgreSQL may freeze, with a key `k`, and the same database by another way."""
    with database("postgresql", folder) as direct:
        add(direct.url, key_of("k"))
        url = make_url(direct.url)
        with relay(url.port or 5432) as postgresql:
            through = url.set(host="127.0.0.1", port=postgresql.port).render_as_string(hide_password=False)
            values: dict[str, Any] = {
                "cohere_api_key": [SERVER_KEY],
                "master_key": MASTER_KEY,
                "database_url": through,
                "ledger": LedgerSettings(spool=str(folder / "spool")),
            }
            with run_harness(key=secret_of("k"), **values, **settings) as harness:
                harness.respond_with(answered())
                yield harness, direct, postgresql


def readiness(harness: Harness) -> str:
    return str(harness.gateway.ask("GET", "/health/ready", headers={}).body)


def test_keys_that_were_loaded_serve_while_postgresql_is_frozen(tmp_path: Path) -> None:
    """Changes are not noticed meanwhile, and arrive after that."""
    with over_a_relay(tmp_path) as (harness, direct, postgresql):
        assert harness.gateway.chat().status == 200
        with postgresql.frozen():
            change = {"blocked": True}
            direct.write(lambda c: keys.update(c, VirtualKey, "k", change, ChangedBy("tests"), time.time()))
            awaited(lambda: "changes of keys are not noticed" in readiness(harness), WAIT_SECONDS)
            assert harness.gateway.chat().status == 200
        awaited(lambda: harness.gateway.chat().status == 403, WAIT_SECONDS)
        awaited(lambda: "changes of keys are not noticed" not in readiness(harness), WAIT_SECONDS)


@pytest.mark.parametrize("background", [False, True])
def test_what_has_to_be_stored_is_refused_unpaid_while_postgresql_is_frozen(background: bool, tmp_path: Path) -> None:
    with over_a_relay(tmp_path) as (harness, _, postgresql):

        def ask(**fields: Any) -> int:
            return harness.gateway.ask("POST", "/v1/responses", {"model": A, "input": "Hi", **fields}).status

        assert ask() == 200
        calls = len(harness.upstream.requests)
        with postgresql.frozen():
            assert ask(background=background) == 503
            assert len(harness.upstream.requests) == calls, "Cohere is not paid"
            assert ask(store=False) == 200
        awaited(lambda: ask() == 200, WAIT_SECONDS)
