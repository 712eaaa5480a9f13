"""`log = "console"`: one line a request for people, with what happened and nothing that could break the line."""

from __future__ import annotations

import http.client
import io
import json

import pytest

from gateway.observability.access_log import Line, console_line
from gateway.observability.operator_log import OperatorLog
from support.app import A
from support.process import awaited, process
from support.waiting import WAIT_SECONDS


def test_a_request_is_one_line() -> None:
    body = json.dumps({"model": A, "messages": [{"role": "user", "content": "an unusual prompt"}]})
    with process("--demo", GATEWAY_LOG="console") as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_SECONDS)
        for path, content in (("/v1/chat/completions", body), ("/v1/nowhere", "{}")):
            headers = {"content-type": "application/json", "x-request-id": f"mine-{path[-4:]}"}
            connection.request("POST", path, content, headers)
            connection.getresponse().read()
        connection.close()

        def lines() -> list[str]:
            return [line.decode() for line in server.written if b"mine-" in line]

        awaited(lambda: len(lines()) == 2)
        answer, refusal = lines()
    assert "  200  POST /v1/chat/completions  " in answer and f"  {A}  " in answer and " in, " in answer
    assert answer.endswith("  mine-ions\n") and "unusual" not in answer and "\x1b" not in answer
    assert "  404  POST /v1/nowhere  " in refusal and "caller_" in refusal and refusal.endswith("  mine-here\n")


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_colors_unless_it_wants_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    OperatorLog(terminal, console=True).message("the ledger is behind")
    assert terminal.getvalue().endswith(b"  \x1b[33mthe ledger is behind\x1b[0m\n")
    monkeypatch.setenv("NO_COLOR", "1")
    OperatorLog(terminal, console=True).message("again")
    assert terminal.getvalue().endswith(b"  again\n")


def test_a_log_that_nobody_reads_any_more_fails_nothing() -> None:
    closed = io.BytesIO()
    closed.close()
    OperatorLog(closed).message("to nobody")


def test_what_a_line_says_where_there_is_more_to_say() -> None:
    usual = ("2026-11-30T12:00:00.125Z", "mine", "POST", "/v1/chat/completions", "chat", 200, "ok", 12.4)
    assert console_line(Line(*usual), colors=False).decode().split("  ") == [
        *("12:00:00.125", "200", "POST /v1/chat/completions", "12 ms", "mine"),
    ]
    line = Line(*usual, model="m", caller="key k", cache="hit", retries=2, notes=3, cost_nanodollars=1_500)
    assert console_line(line, colors=True).decode().split("  ") == [
        *("12:00:00.125", "\x1b[32m200\x1b[0m", "POST /v1/chat/completions", "12 ms", "m", "$0.000002", "key k"),
        *("cache hit", "2 retries", "3 notes", "mine"),
    ]
