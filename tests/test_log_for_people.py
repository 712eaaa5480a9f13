"""`log = "console"`: one line a request for people, with what happened and nothing that could break the line."""

from __future__ import annotations

import http.client
import json

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
