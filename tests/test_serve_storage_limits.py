"""What a caller may store: keys that Cohere accepts, bytes within the limits, and nothing on a full disk."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.pipeline.accepted_keys import PROOF_PATH
from gateway.state import conversation_state
from gateway.store import database, store
from gateway.store.usage import PROBE_BYTES
from support.app import (
    MASTER_KEY,
    SERVER_KEY,
    A,
    Gateway,
    Harness,
    Response,
    answered,
    demonstration,
    gateway_over,
    run_harness,
)
from support.scripted_upstream import Script, ScriptedUpstream, json_answer
from support.waiting import WAIT_SECONDS

RESPONSES, CONVERSATIONS = "/v1/responses", "/v1/conversations"
COUNT = "SELECT count(*) FROM {}"
TABLES = ("responses", "conversations", "conversation_items", "events")


def rows(file: Path) -> dict[str, int]:
    """How many rows each table has."""
    with closing(sqlite3.connect(file)) as connection:
        return {table: connection.execute(COUNT.format(table)).fetchone()[0] for table in TABLES}


def respond(gateway: Gateway, text: str = "Hello", /, **fields: Any) -> Response:
    return gateway.ask("POST", RESPONSES, {"model": A, "input": text, **fields})


def ended(gateway: Gateway, id: str) -> Any:
    until = time.monotonic() + WAIT_SECONDS
    while (response := gateway.ask("GET", f"{RESPONSES}/{id}").body)["status"] in ("queued", "in_progress"):
        assert time.monotonic() < until
        time.sleep(0.02)
    return response


@pytest.fixture(autouse=True)
def probes_answer_for_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PROBE_INTERVAL", -1.0)


# --- keys that Cohere does not accept -----------------------------------------------------------------------


@pytest.fixture
def refusing(tmp_path: Path) -> Iterator[tuple[Gateway, ScriptedUpstream]]:
    """Cohere refuses every key, and callers bring their own."""

    def script(request: object) -> Script:
        return json_answer(401, {"message": "invalid api token"})

    with (
        ScriptedUpstream(script).run_in_thread() as upstream,
        gateway_over(upstream.url, database_url=f"sqlite:///{tmp_path}/store.db") as gateway,
    ):
        yield gateway, upstream


ITEM = {"role": "user", "content": "x" * 1000}
STORING: dict[str, tuple[str, dict[str, Any]]] = {
    "a conversation": (CONVERSATIONS, {"items": [ITEM]}),
    "metadata": (f"{CONVERSATIONS}/conv_1", {"metadata": {"a": "b"}}),
    "items": (f"{CONVERSATIONS}/conv_1/items", {"items": [ITEM]}),
    "a response": (RESPONSES, {"model": A, "input": "Hello"}),
    "a stream": (RESPONSES, {"model": A, "input": "Hello", "stream": True}),
    "a background response": (RESPONSES, {"model": A, "input": "Hello", "background": True}),
    "a background stream": (RESPONSES, {"model": A, "input": "Hello", "background": True, "stream": True}),
}


@pytest.mark.parametrize("kind", STORING)
def test_nothing_is_stored_for_a_key_that_cohere_refuses(
    refusing: tuple[Gateway, ScriptedUpstream], kind: str, tmp_path: Path
) -> None:
    gateway, _ = refusing
    path, body = STORING[kind]
    response = gateway.ask("POST", path, body)
    assert (response.status, response.error["code"]) == (401, "invalid_api_key")
    assert not any(rows(tmp_path / "store.db").values())


def test_a_key_is_proven_once(tmp_path: Path) -> None:
    with run_harness(database_url=f"sqlite:///{tmp_path}/store.db") as harness:
        harness.respond_with(answered())
        for _ in range(2):
            assert harness.gateway.ask("POST", CONVERSATIONS, {}).status == 200
        assert [request.path for request in harness.upstream.requests] == [PROOF_PATH]


def test_a_call_that_cohere_answered_is_a_proof(tmp_path: Path) -> None:
    with run_harness(database_url=f"sqlite:///{tmp_path}/store.db") as harness:
        assert harness.chat_over(answered()).status == 200
        assert harness.gateway.ask("POST", CONVERSATIONS, {}).status == 200
        assert [request.path for request in harness.upstream.requests] == ["/v2/chat"]


def test_the_servers_own_key_needs_no_proof() -> None:
    with run_harness(key=MASTER_KEY, cohere_api_key=[SERVER_KEY], master_key=MASTER_KEY) as harness:
        harness.respond_with(answered())
        assert harness.gateway.ask("POST", CONVERSATIONS, {}).status == 200
        assert not harness.upstream.requests


# --- background responses that Cohere refuses ---------------------------------------------------------------


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
def test_a_refused_background_response_keeps_nothing_of_its_request(tmp_path: Path, streams: bool) -> None:
    secret = "a long story " * 100
    tool = {"type": "function", "name": "tell", "description": secret, "parameters": {"type": "object"}}
    with run_harness(database_url=f"sqlite:///{tmp_path}/store.db") as harness:
        harness.respond_with(json_answer(422, {"message": "the request is invalid"}))
        fields = {"instructions": secret, "tools": [tool], "metadata": {"topic": "stories"}, "stream": streams}
        response = respond(harness.gateway, secret, background=True, **fields)
        assert response.status == 200
        data = response.data.decode()
        id = data[data.index("resp_") :].partition('"')[0]
        final = ended(harness.gateway, id)
        assert (final["status"], final["instructions"], final["tools"]) == ("failed", None, [])
        assert "invalid" in final["error"]["message"]
        if streams:
            replay = harness.gateway.ask("GET", f"{RESPONSES}/{id}?stream=true").data
            assert replay.count(b"event: ") == 1 and b"response.failed" in replay and b"long story" not in replay
            assert (
                b"long story" in response.data and b"response.failed" in response.data
            )  # the caller of the request saw all
        assert harness.gateway.ask("GET", f"{RESPONSES}/{id}/input_items").body["data"] == []
    with closing(sqlite3.connect(tmp_path / "store.db")) as connection:
        columns = connection.execute("SELECT body, items, output FROM responses").fetchall()
        bodies = connection.execute("SELECT body FROM events").fetchall()
    assert not any(b"long story" in column for row in [*columns, *bodies] for column in row)


# --- bytes --------------------------------------------------------------------------------------------------

BYTES = {"max_stored_bytes_per_caller": "max_stored_bytes_per_caller", "max_stored_bytes": "max_stored_bytes allows"}


@pytest.mark.parametrize("limit", BYTES)
def test_what_is_stored_is_bounded(limit: str) -> None:
    with demonstration(**{limit: 50_000}) as gateway:
        conversation = gateway.ask("POST", CONVERSATIONS, {}).body["id"]
        large = {"role": "user", "content": "x" * 12_000}
        items = f"{CONVERSATIONS}/{conversation}/items"
        for _ in range(3):
            assert gateway.ask("POST", items, {"items": [large]}).status == 200
        stored = respond(gateway)
        assert stored.status == 200
        metrics = gateway.ask("GET", "/metrics").data.decode()
        assert re.search(r"^gateway_stored_bytes [1-9]", metrics, re.MULTILINE)
        requests = [
            (items, {"items": [large, large]}),
            (CONVERSATIONS, {"items": [large, large]}),
            (RESPONSES, {"model": A, "input": [large, large]}),
            (RESPONSES, {"model": A, "input": [large, large], "background": True}),
        ]
        for path, body in requests:
            response = gateway.ask("POST", path, body)
            assert (response.status, response.error["code"]) == (507, "storage_limit_reached"), path
            assert BYTES[limit] in response.error["message"] and "'store': false" in response.error["message"]
            assert response.headers["x-should-retry"] == "false"
        assert respond(gateway, "x" * 24_000, store=False).status == 200
        assert gateway.ask("DELETE", f"{CONVERSATIONS}/{conversation}").status == 200
        assert gateway.ask("GET", f"{RESPONSES}/{stored.body['id']}").status == 200
        assert gateway.ask("POST", CONVERSATIONS, {"items": [large, large]}).status == 200


def test_one_caller_does_not_fill_the_share_of_another() -> None:
    with run_harness(max_stored_bytes_per_caller=20_000) as harness:
        harness.respond_with(answered())
        large = {"items": [{"role": "user", "content": "x" * 15_000}]}
        assert harness.gateway.ask("POST", CONVERSATIONS, large).status == 200
        assert harness.gateway.ask("POST", CONVERSATIONS, large).status == 507
        harness.gateway.key = "another-caller"
        assert harness.gateway.ask("POST", CONVERSATIONS, large).status == 200


# --- a full disk --------------------------------------------------------------------------------------------


class Disk:
    """A database file that may not grow beyond the pages that it has: what SQLite says of a full disk."""

    def __init__(self, harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
        self._harness, self._monkeypatch = harness, monkeypatch
        self._pragmas = database._PRAGMAS

    def fill(self, spare_pages: int = 0) -> None:
        with closing(sqlite3.connect(self._database_file(), isolation_level=None)) as connection:
            connection.execute("VACUUM")  # pages that migrations left free would be room
            pages = connection.execute("PRAGMA page_count").fetchone()[0] + spare_pages
        self._set((*self._pragmas, f"PRAGMA max_page_count={pages}"))

    def free(self) -> None:
        self._set((*self._pragmas, "PRAGMA max_page_count=1073741823"))

    def _set(self, pragmas: tuple[str, ...]) -> None:
        """For new connections; those that are open are closed, as after a failure."""
        self._monkeypatch.setattr(database, "_PRAGMAS", pragmas)
        for executor in self.executors:
            asyncio.run_coroutine_threadsafe(executor.reset(), self._harness.gateway.loops[0]).result(WAIT_SECONDS)

    def _database_file(self) -> Path:
        return self.file

    file: Path
    executors: list[database.SqliteExecutor]


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Harness, Disk]]:
    executors: list[database.SqliteExecutor] = []
    make = database.SqliteExecutor.__init__

    def remember(executor: database.SqliteExecutor, *arguments: Any) -> None:
        make(executor, *arguments)
        executors.append(executor)

    monkeypatch.setattr(database.SqliteExecutor, "__init__", remember)
    monkeypatch.setattr(conversation_state, "SAVE_RETRY_SECONDS", (0.05,))
    with run_harness(database_url=f"sqlite:///{tmp_path}/store.db") as harness:
        full = Disk(harness, monkeypatch)
        full.file, full.executors = tmp_path / "store.db", executors
        yield harness, full


def test_a_full_disk_is_found_before_cohere_is_paid(disk: tuple[Harness, Disk]) -> None:
    harness, full = disk
    harness.respond_with(answered())
    assert respond(harness.gateway).status == 200
    full.fill()
    paid = len(harness.upstream.requests)
    for field in ("store", "background", "stream"):
        response = respond(harness.gateway, **{field: True})
        assert (response.status, response.error["code"]) == (503, "storage_unavailable")
    assert harness.gateway.ask("POST", CONVERSATIONS, {}).status == 503
    assert len(harness.upstream.requests) == paid
    assert respond(harness.gateway, store=False).status == 200
    line = harness.gateway.log.wait(lambda line: "message" in line)
    assert "storage: the database failed" in line["message"] and "full" in line["message"]
    full.free()
    assert respond(harness.gateway).status == 200


def test_what_was_acknowledged_on_a_full_disk_is_stored_before_anything_new(disk: tuple[Harness, Disk]) -> None:
    """The probe fits, the response does not: it is kept in memory, and no other is taken until it is stored."""
    harness, full = disk
    large = "x" * 20 * PROBE_BYTES
    harness.respond_with(answered())
    assert respond(harness.gateway).status == 200
    full.fill(spare_pages=2 * PROBE_BYTES // 4096)
    acknowledged = respond(harness.gateway, large)
    assert acknowledged.status == 200
    harness.gateway.log.wait(lambda line: "is not stored yet" in line.get("message", ""))
    paid = len(harness.upstream.requests)
    response = respond(harness.gateway)
    assert (response.status, response.error["code"]) == (503, "storage_unavailable")
    assert len(harness.upstream.requests) == paid
    full.free()
    until = time.monotonic() + WAIT_SECONDS
    while respond(harness.gateway).status != 200:
        assert time.monotonic() < until
    assert harness.gateway.ask("GET", f"{RESPONSES}/{acknowledged.body['id']}").body == acknowledged.body
