"""What signals do beyond stopping: the last words of what had no time left, and settings that are read again."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.reload import RELOADED
from gateway.settings.schema import Settings
from support.app import CLOSED, A, answered, end, opened, piece, start
from support.process import GATEWAY, Process, awaited, process, reads_until, request_bytes
from support.scripted_upstream import (
    Chunk,
    End,
    Head,
    Pause,
    Request,
    Script,
    ScriptedUpstream,
    Signal,
    json_answer,
    transcript,
)
from support.waiting import WAIT_SECONDS

EVENTS = Head(200, (("content-type", "text/event-stream"),))
BEGUN = transcript(start(), opened(), piece("Hi"), done=False)
REST = transcript(piece(" there."), CLOSED, end())
NEVER = Signal()
RESPONSES = "/v1/responses"


@dataclass
class Served:
    """A process over a scripted upstream, and its settings file."""

    server: Process
    upstream: ScriptedUpstream
    file: Path

    def hangs_up(self, text: str) -> dict[str, Any]:
        """Other settings and SIGHUP; the line that tells what came of it."""
        count = len(self.troubles)
        self.file.write_text(text)
        self.server.signal(signal.SIGHUP)
        awaited(lambda: len(self.troubles) > count)
        return self.troubles[-1]

    @property
    def troubles(self) -> list[dict[str, Any]]:
        return [line for line in map(json.loads, list(self.server.written)) if "message" in line]

    @property
    def keys(self) -> list[str]:
        return [str(request.headers.first("authorization"))[7:] for request in self.upstream.requests]


@contextmanager
def served(
    folder: Path, respond: Callable[[Request], Script], text: str = "", *arguments: str, **environment: str
) -> Iterator[Served]:
    file = folder / "gateway.toml"
    file.write_text(text)
    with ScriptedUpstream(respond).run_in_thread() as upstream:
        values = {"COHERE_BASE_URL": upstream.url, "GATEWAY_CONFIG": str(file), **environment}
        if "cohere_api_key" not in text:
            values["COHERE_API_KEY"] = "server-key"
        with process(*arguments, **values) as server:
            yield Served(server, upstream, file)


# --- the end ------------------------------------------------------------------------------------------------


def asking(server: Process, path: str = "", **fields: Any) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), WAIT_SECONDS)
    request = request_bytes(**fields)
    connection.sendall(request.replace(b"/v1/chat/completions", path.encode(), 1) if path else request)
    return connection


def rest(connection: socket.socket) -> bytes:
    received = b""
    while some := connection.recv(65536):
        received += some
    return received


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("path", ["", RESPONSES], ids=["chat", "responses"])
def test_a_stream_that_has_no_time_left_is_an_error(path: str, stop: signal.Signals, tmp_path: Path) -> None:
    shutdown = {"GATEWAY_TIMEOUTS_SHUTDOWN": "0.3", "GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path}/kept"}
    with served(tmp_path, lambda _: (EVENTS, Chunk(BEGUN), Pause(NEVER)), **shutdown) as harness:
        with asking(harness.server, path, stream=True, **({"input": "Hi"} if path else {})) as connection:
            received = reads_until(connection, b"Hi")
            harness.server.signal(stop)
            received += rest(connection)
        assert received.endswith(b"0\r\n\r\n"), "the body was cut"
        assert b"The gateway is stopping" in received
        if path:
            assert b"event: response.failed" in received and b"data: [DONE]" in received
        else:
            assert b'data: {"error":' in received and b"[DONE]" not in received
        assert harness.server.ends() == 0
        (line,) = [line for line in harness.server.errors() if line["operation"] != "health"]
        assert (line["outcome"], line["error"]) == ("error", "gateway_stopping")


@pytest.mark.parametrize("script", [(Pause(NEVER),), (EVENTS, Pause(NEVER))], ids=["no head", "no event"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_who_has_heard_nothing_gets_an_ordinary_error(script: Script, stream: bool, tmp_path: Path) -> None:
    requested = Signal()

    def respond(request: Request) -> Script:
        requested.set()
        return script

    with served(tmp_path, respond, GATEWAY_TIMEOUTS_SHUTDOWN="0.3") as harness:
        with asking(harness.server, stream=stream) as connection:
            requested.wait_in_thread()
            harness.server.signal(signal.SIGTERM)
            received = rest(connection)
        assert received.startswith(b"HTTP/1.1 503") and b"gateway_stopping" in received
        assert harness.server.ends() == 0


def test_who_waits_in_the_queue_gets_one_too(tmp_path: Path) -> None:
    settings = {"GATEWAY_TIMEOUTS_SHUTDOWN": "0.5", "GATEWAY_CONCURRENCY_MAX_IN_FLIGHT": "1"}
    with served(tmp_path, lambda _: (EVENTS, Chunk(BEGUN), Pause(NEVER)), **settings) as harness:
        with asking(harness.server, stream=True) as first, asking(harness.server, stream=True) as second:
            awaited(lambda: b"gateway_requests_in_flight 3.0" in harness.server.get("/metrics"))
            harness.server.signal(signal.SIGTERM)
            answers = sorted((rest(first), rest(second)))
        assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200", b"HTTP/1.1 503"]
        assert all(b"gateway_stopping" in answer for answer in answers)
        assert len(harness.upstream.requests) == 1
        assert harness.server.ends() == 0


def test_while_it_drains_it_is_not_ready(tmp_path: Path) -> None:
    go_on = Signal()
    with served(tmp_path, lambda _: (EVENTS, Chunk(BEGUN), Pause(go_on), Chunk(REST), End())) as harness:
        with (
            asking(harness.server, stream=True) as connection,
            socket.create_connection(("127.0.0.1", harness.server.port), WAIT_SECONDS) as watcher,
        ):
            reads_until(connection, b'"Hi"')
            asks = b"GET /health/ready HTTP/1.1\r\nhost: localhost\r\n\r\n"
            watcher.sendall(asks)
            assert b" 200 " in reads_until(watcher, b"}")
            harness.server.signal(signal.SIGTERM)
            go_on.set()
            assert b"[DONE]" in rest(connection)
        assert harness.server.ends() == 0


def test_what_runs_in_the_background_ends_in_good_order_too() -> None:
    """A shell makes what it starts with `&` ignore Ctrl-C; SIGTERM means what it always means."""
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        running = Process("--demo", program=GATEWAY)
    finally:
        signal.signal(signal.SIGINT, usual)
    try:
        running.signal(signal.SIGINT)
        assert b"HTTP/1.1 200" in running.chat()
        running.signal(signal.SIGTERM)
        assert running.ends() == 0
    finally:
        running.close()


# --- settings that are read again ---------------------------------------------------------------------------

FIRST = 'cohere_api_key = ["first"]\n'
SECOND = 'cohere_api_key = ["second"]\n[models.aliases]\n"gpt-4o" = "command-a-03-2025"\n'


@pytest.mark.parametrize("workers", [1, 2])
def test_settings_are_read_again_and_no_stream_is_dropped(workers: int, tmp_path: Path) -> None:
    go_on = Signal()

    def respond(request: Request) -> Script:
        if request.json().get("stream"):
            return (EVENTS, Chunk(BEGUN), Pause(go_on), Chunk(REST), End())
        return answered()

    with served(tmp_path, respond, FIRST, "--workers", str(workers)) as harness:
        if workers > 1:
            harness.server.settle(workers)
        with asking(harness.server, stream=True) as connection:
            reads_until(connection, b'"Hi"')
            result = harness.hangs_up(SECOND)
            assert result["message"] == "the settings were read again: cohere_api_key, models changed"
            awaited(lambda: len(harness.troubles) == workers)
            assert b"HTTP/1.1 200" in harness.server.chat(model="gpt-4o")
            assert harness.upstream.requests[-1].json()["model"] == A
            assert harness.keys == ["first", "second"]
            go_on.set()
            assert b"there." in reads_until(connection, b"[DONE]")
        harness.server.signal(signal.SIGTERM)
        assert harness.server.ends() == 0


def test_who_waits_for_a_key_is_served_with_a_new_one(tmp_path: Path) -> None:
    limited = json_answer(429, {"message": "Trial key"}, {"retry-after": "40"})
    wait = "[retries]\ncount = 0\n[pool]\nqueue_timeout = 60\n"

    def respond(request: Request) -> Script:
        return limited if request.headers.first("authorization") == "Bearer first" else answered()

    with served(tmp_path, respond, FIRST + wait) as harness:
        assert b"HTTP/1.1 429" in harness.server.chat()
        with asking(harness.server) as connection:
            # It is one of two by then: the other one asks.
            awaited(lambda: b"gateway_requests_in_flight 2.0" in harness.server.get("/metrics"))
            harness.hangs_up('cohere_api_key = ["second"]\n' + wait)
            assert b"HTTP/1.1 200" in reads_until(connection, b"there.")
        assert harness.keys == ["first", "second"]


BAD: tuple[tuple[str, str, str], ...] = (
    ("not TOML", "what?", "is not TOML"),
    ("an unknown key", FIRST + "retrys = 3\n", "unknown setting 'retrys'"),
    ("a wrong value", FIRST + "[retries]\ncount = -1\n", "retries.count"),
    ("a contradiction", FIRST + 'cors_origins = ["*"]\n', "cors_origins"),
)


@pytest.mark.parametrize(("text", "says"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_settings_are_refused_and_the_old_ones_stay(text: str, says: str, tmp_path: Path) -> None:
    with served(tmp_path, lambda _: answered(), FIRST) as harness:
        result = harness.hangs_up(text)["message"]
        assert result.startswith("the new settings cannot be used, the old ones stay: ") and says in result
        assert b"HTTP/1.1 200" in harness.server.chat()
        assert harness.keys == ["first"]
        assert "first" not in result


KEYS = 'master_key = "master-key-0003"\n'


@pytest.mark.parametrize(
    ("text", "mode"), [("", "bring your own key"), ("[models.aliases]\n", "bring your own key"), (FIRST, "open")]
)
def test_keys_are_asked_for_until_the_end(text: str, mode: str, tmp_path: Path) -> None:
    """An editor empties a file before it writes it: then anybody could call, or callers' keys would go to Cohere."""
    with served(tmp_path, lambda _: answered(), FIRST + KEYS) as harness:
        result = harness.hangs_up(text)["message"]
        assert result.startswith("the new settings cannot be used, the old ones stay: master_key: ") and mode in result
        assert b"HTTP/1.1 401" in harness.server.chat()
        assert harness.keys == []
        assert harness.hangs_up(FIRST + KEYS)["message"] == "the settings were read again: nothing changed"


def test_a_change_of_who_may_call_is_in_the_log(tmp_path: Path) -> None:
    with served(tmp_path, lambda _: answered(), FIRST) as harness:
        message = harness.hangs_up(FIRST + KEYS)["message"]
        assert message == "the settings were read again: master_key changed; callers: virtual keys"
        assert b"HTTP/1.1 401" in harness.server.chat()


NOWHERE = ("default", "")


def test_what_needs_a_restart_is_named(tmp_path: Path) -> None:
    with served(tmp_path, lambda _: answered(), FIRST) as harness:
        result = harness.hangs_up('cohere_api_key = ["third"]\nworkers = 7\n[timeouts]\nconnect = 3\n')
        assert result["message"] == (
            "the settings were read again: cohere_api_key changed; workers, timeouts changed, too, and need a restart"
        )
        document = json.loads(harness.server.get("/gateway/settings"))
        rows = {row["name"]: row for row in document["data"]}
        origins = {name: (row["origin"]["kind"], row["origin"]["name"]) for name, row in rows.items()}
        assert origins["cohere_api_key"] == ("file", str(harness.file))
        assert origins["port"] == ("start", "a free port")
        assert (rows["workers"]["value"], origins["workers"], origins["timeouts.connect"]) == (1, NOWHERE, NOWHERE)


def test_the_file_is_read_again_only_after_sighup(tmp_path: Path) -> None:
    with served(tmp_path, lambda _: answered(), FIRST) as harness:
        harness.file.write_text(SECOND)
        assert b"HTTP/1.1 200" in harness.server.chat()
        assert harness.keys == ["first"]


def test_the_emulator_stays_where_it_is() -> None:
    with process("--demo") as server:
        server.signal(signal.SIGHUP)
        awaited(lambda: any(b"read again: nothing changed" in line for line in server.written))
        assert b"HTTP/1.1 200" in server.chat()


def test_the_table_names_settings() -> None:
    assert set(Settings.__struct_fields__) >= RELOADED
