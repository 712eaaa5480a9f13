"""Bodies in the ledger: stored only where policy says so, sealed, shown to admins alone, and gone when they are old."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from gateway.ledger.bodies import body_text
from gateway.ledger.writer import stored_row
from gateway.observability.bodies import MAX_BODY_BYTES, Bodies, BodyMemory
from gateway.settings.schema import LedgerSettings
from gateway.state.encrypted_content import LedgerBodySeal
from gateway.store import ledger
from gateway.store.database import Database
from gateway.store.ledger import StoredBody
from gateway.store.ledger_sums import DAY, SumKey, Sums
from support import databases
from support.app import MASTER_KEY, Gateway, Response, demonstration
from support.ledger import ledger_file, wait_for_rows
from support.waiting import WAIT_SECONDS
from test_ledger_store import NOW, entry

PROMPT = "A prompt that nobody else may read"
CHAT = "/v1/chat/completions"
SECRET = "a-secret-of-sixteen-or-more"


class BodiesHarness:
    """A gateway that stores the bodies of failures, with keys and a team of other policies."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        team = self.manage("/team/new", team_alias="all of it", ledger_bodies="all")["team_id"]
        self.keys = {
            "setting": self.manage("/key/generate")["key"],
            "all": self.manage("/key/generate", ledger_bodies="all")["key"],
            "off": self.manage("/key/generate", ledger_bodies="off", team_id=team)["key"],
            "team": self.manage("/key/generate", team_id=team)["key"],
            "viewer": self.manage("/key/generate", role="viewer", ledger_bodies="all")["key"],
            "admin": self.manage("/key/generate", role="admin", ledger_bodies="all")["key"],
        }

    def manage(self, path: str, **fields: Any) -> dict[str, Any]:
        return dict(self.ask("POST", path, MASTER_KEY, fields).body)

    def ask(self, verb: str, path: str, key: str, body: Any = None, **headers: str) -> Response:
        usual = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        return self.gateway.ask(verb, path, body, {**usual, **{n.replace("_", "-"): v for n, v in headers.items()}})

    def call(
        self, key: str, *, content: str = PROMPT, headers: dict[str, str] | None = None, **fields: Any
    ) -> Response:
        body = {"model": "command-a-03-2025", "messages": [{"role": "user", "content": content}], **fields}
        return self.ask("POST", CHAT, self.keys[key], body, **(headers or {}))

    def row(self, id: str) -> dict[str, Any]:
        """The row of a call by its id, once it is written."""
        return self.row_where(lambda row: row["id"] == id)

    def row_where(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            rows: list[dict[str, Any]] = self.ask("GET", "/audit?kind=call&limit=500", MASTER_KEY).body["data"]
            for row in rows:
                if wanted(row):
                    return row
            assert time.monotonic() < deadline, rows
            time.sleep(0.02)

    def bodies(self, id: str, key: str = MASTER_KEY) -> Response:
        return self.ask("GET", f"/audit/{id}/body", key)

    def stored(self, response: Response) -> bool:
        """Whether the bodies of this call are stored; its row says the same."""
        id = response.headers["x-gateway-log-id"]
        has_body = self.row(id)["has_body"]
        assert self.bodies(id).status == (200 if has_body else 404)
        return bool(has_body)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def harness(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BodiesHarness]:
    with databases.throwaway_url(request.param, tmp_path_factory.mktemp("bodies")) as url:
        settings = LedgerSettings(flush_seconds=0.05, bodies="errors", body_key=SECRET)
        with demonstration(master_key=MASTER_KEY, ledger=settings, database_url=url) as gateway:
            yield BodiesHarness(gateway)


# key, fields, headers -> whether the bodies are stored
CASES: dict[str, tuple[str, dict[str, Any], dict[str, str], bool]] = {
    "errors: a success": ("setting", {}, {}, False),
    "errors: a failure": ("setting", {"model": "no-such-model"}, {}, True),
    "a key that wants all": ("all", {}, {}, True),
    "a team that wants all": ("team", {}, {}, True),
    "a key that wants none, whatever its team wants": ("off", {"model": "no-such-model"}, {}, False),
    "Cloudflare's header": ("all", {}, {"cf_aig_collect_log": "false"}, False),
    "Cloudflare's header for the payload": ("all", {}, {"cf_aig_collect_log_payload": "false"}, False),
    "Cloudflare's header never widens": ("off", {}, {"cf_aig_collect_log": "true"}, False),
    "LiteLLM's header": ("all", {}, {"x_litellm_enable_message_redaction": "true"}, False),
    "LiteLLM's header never widens": ("setting", {}, {"litellm_disable_message_redaction": "true"}, False),
    "LiteLLM's field": ("all", {"no-log": True}, {}, False),
    "LiteLLM's field behind much else": ("all", {"content": "x" * 2 * MAX_BODY_BYTES, "no-log": True}, {}, False),
    "LiteLLM's field that says no": ("all", {"no-log": False}, {}, True),
    "a prompt about the field": ("all", {"content": 'Write "no-log": true, please.'}, {}, True),
}


@pytest.mark.parametrize("name", CASES)
def test_bodies_are_stored_where_policy_says_so_and_callers_only_lessen_it(harness: BodiesHarness, name: str) -> None:
    key, fields, headers, expected = CASES[name]
    response = harness.call(key, headers=headers, **fields)
    assert "no-log" not in response.headers.get("x-gateway-notes", "")
    assert harness.stored(response) is expected


def test_bodies_are_what_was_sent_and_answered(harness: BodiesHarness) -> None:
    response = harness.call("all")
    assert harness.stored(response)
    bodies = harness.bodies(response.headers["x-gateway-log-id"], harness.keys["admin"]).body
    assert json.loads(bodies["request"]["text"])["messages"][0]["content"] == PROMPT
    assert bodies["response"] == {
        "type": "application/json",
        "bytes": len(response.data),
        "truncated": False,
        "text": response.data.decode(),
    }
    streamed = harness.call("all", stream=True)
    assert harness.stored(streamed)
    assert harness.bodies(streamed.headers["x-gateway-log-id"]).body["response"]["text"] == streamed.data.decode()


def test_only_admins_see_bodies_and_they_can_delete_them(harness: BodiesHarness) -> None:
    id = harness.call("all").headers["x-gateway-log-id"]
    harness.row(id)
    for key in ("all", "viewer"):
        assert harness.bodies(id, harness.keys[key]).status == 403
        assert harness.ask("DELETE", f"/audit/{id}/body", harness.keys[key]).status == 403
    assert harness.bodies(id).status == 200
    assert harness.ask("DELETE", f"/audit/{id}/body", harness.keys["admin"]).body == {"id": id, "deleted": True}
    assert harness.bodies(id).error["code"] == "bodies_not_found"
    assert harness.ask("GET", "/audit/no-such-id/body", MASTER_KEY).error["code"] == "bodies_not_found"


def test_a_large_body_is_cut_and_no_text_is_left_out(harness: BodiesHarness) -> None:
    response = harness.call("all", content="long " * MAX_BODY_BYTES)
    assert harness.stored(response)
    request = harness.bodies(response.headers["x-gateway-log-id"]).body["request"]
    assert request["truncated"] and len(request["text"]) == MAX_BODY_BYTES < request["bytes"]
    form = (
        b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\ncohere-transcribe-03-2026\r\n'
        b'--b\r\ncontent-disposition: form-data; name="language"\r\n\r\nen\r\n'
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--b--\r\n'
    )
    upload = harness.gateway.ask(
        "POST",
        "/v1/audio/transcriptions",
        form,
        {"authorization": f"Bearer {harness.keys['all']}", "content-type": "multipart/form-data; boundary=b"},
    )
    assert harness.stored(upload)
    request = harness.bodies(upload.headers["x-gateway-log-id"]).body["request"]
    assert (request["text"], request["bytes"]) == (None, len(form))


def test_bodies_with_credentials_of_others_are_never_stored(harness: BodiesHarness) -> None:
    connector = {"name": "c", "url": "https://c.example", "service_auth": {"type": "bearer", "token": "theirs"}}
    key = harness.manage("/key/generate", ledger_bodies="all", permissions="all")["key"]
    assert not harness.stored(harness.ask("POST", "/cohere/v1/connectors", key, connector))


def test_messages_on_websockets_and_background_responses(harness: BodiesHarness) -> None:
    url = harness.gateway.url.replace("http", "ws", 1) + "/v1/responses"
    with connect(url, additional_headers={"authorization": f"Bearer {harness.keys['all']}"}, proxy=None) as socket:
        socket.send(json.dumps({"type": "response.create", "model": "command-a-03-2025", "input": PROMPT}))
        while (last := json.loads(socket.recv(WAIT_SECONDS)))["type"] != "response.completed":
            pass
    row = harness.row_where(lambda row: row["door"] == "websocket" and row["operation"] != "socket")
    bodies = harness.bodies(row["id"]).body
    assert PROMPT in bodies["request"]["text"]
    assert json.loads(bodies["response"]["text"].splitlines()[-1])["type"] == last["type"] == "response.completed"

    begun = harness.ask(
        "POST",
        "/v1/responses",
        harness.keys["all"],
        {"model": "command-a-03-2025", "input": PROMPT, "background": True},
    )
    row = harness.row(begun.headers["x-gateway-log-id"])
    bodies = harness.bodies(row["id"]).body
    assert PROMPT in bodies["request"]["text"]
    response = json.loads(bodies["response"]["text"])
    assert (response["id"], response["status"]) == (begun.body["id"], "completed")


def test_nothing_of_a_body_is_readable_in_the_database_or_the_log(harness: BodiesHarness) -> None:
    assert harness.stored(harness.call("all"))
    assert PROMPT.encode() not in harness.gateway.log.getvalue()
    if harness.gateway.database_url.startswith("sqlite"):
        file = ledger_file(harness.gateway.database_url)
        content = b"".join(path.read_bytes() for path in file.parent.glob(f"{file.name}*"))
        assert b"ledger_bodies" in content and PROMPT.encode() not in content and SECRET.encode() not in content


def test_bodies_are_lost_while_the_database_is_away_and_rows_are_not(tmp_path: Path) -> None:
    settings = LedgerSettings(flush_seconds=0.05, bodies="all", body_key=SECRET, spool=str(tmp_path / "spool"))
    with demonstration(ledger=settings) as gateway:
        gateway.chat()
        assert wait_for_rows(gateway.database_url, lambda row: True)[0]["has_body"] is True
        file = ledger_file(gateway.database_url)
        elsewhere = file.rename(file.with_suffix(".elsewhere"))
        response = gateway.chat(PROMPT)
        deadline = time.monotonic() + WAIT_SECONDS
        while not (spooled := b"".join(path.read_bytes() for path in (tmp_path / "spool").glob("*.spool"))):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        elsewhere.rename(file)
        assert response.headers["x-gateway-log-id"].encode() in spooled and PROMPT.encode() not in spooled
        (row,) = wait_for_rows(gateway.database_url, lambda row: row["id"] == response.headers["x-gateway-log-id"])
        assert "has_body" not in row  # the default, which is false
        lost = gateway.metrics()
        assert lost['gateway_ledger_bodies_total{result="lost"}'] == 1.0
        assert lost['gateway_ledger_bodies_total{result="stored"}'] == 1.0


# --- the parts ----------------------------------------------------------------------------------------------


def test_a_sealed_body_opens_with_its_key_for_its_row_only() -> None:
    sealed = LedgerBodySeal(["first-key-00000000"]).seal("a" * 24, "text")
    assert LedgerBodySeal(["second-key-0000000", "first-key-00000000"]).open("a" * 24, sealed) == "text"
    assert LedgerBodySeal(["second-key-0000000"]).open("a" * 24, sealed) is None
    assert LedgerBodySeal(["first-key-00000000"]).open("b" * 24, sealed) is None
    assert LedgerBodySeal(["first-key-00000000"]).open("a" * 24, b"\xff" + sealed) is None


def test_bodies_for_which_there_is_no_memory_are_lost_as_a_whole() -> None:
    memory = BodyMemory(100)
    bodies = Bodies("all", memory)
    bodies.add_request(b"x" * 90)
    bodies.add_response(b"y" * 90)
    assert bodies.lost and memory.held == 0
    bodies.discard()
    assert memory.held == 0 and json.loads(body_text(bodies))["request"]["text"] == ""


def test_no_log_is_seen_across_pieces() -> None:
    bodies = Bodies("all", BodyMemory())
    for piece in (b'{"a": 1, "no-', b'log" : ', b"true}"):
        bodies.add_request(piece)
    assert bodies.withdrawn


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_old_bodies_go(kind: str, tmp_path: Path) -> None:
    async with databases.throwaway(kind, tmp_path) as url:
        database = Database(url, 30, 1)
        rows = [stored_row(entry(number, NOW - days * DAY)) for number, days in ((1, 10), (2, 9), (3, 0))]
        bodies = [StoredBody(row.at, row.id, b"sealed") for row in rows]
        await database.write(lambda c: ledger.insert(c, rows, lambda _: {SumKey(0, DAY, 0): Sums()}, bodies=bodies))
        assert (
            await database.write(lambda c: ledger.insert(c, rows, lambda _: {SumKey(0, DAY, 0): Sums()}, True, bodies))
            == 0
        )
        while await database.write(lambda c: ledger.delete_old_bodies(c, NOW - 5 * DAY)):
            pass
        count = "SELECT count(*) FROM ledger_bodies"
        assert await database.read(lambda c: c.exec_driver_sql(count).scalar()) == 1
        assert await database.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM ledger").scalar()) == 3
        await database.close()
