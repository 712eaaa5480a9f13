"""What a refusal teaches about a model: the request is put in another way, once, and so are those that follow."""

import json
import urllib.request
from pathlib import Path

from gateway.app import create_app
from gateway.settings.schema import Settings
from support import databases
from support.asgi_server import serve
from support.scripted_upstream import Request, Script, ScriptedUpstream, json_answer
from support.waiting import WAIT_SECONDS

MODEL = "command-r-plus-08-2024"
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
REFUSED = {"id": "1", "message": "tool_choice is not supported for this model"}
CALLED = {
    "id": "2",
    "message": {"role": "assistant", "tool_calls": [{"id": "look_1", "function": {"name": "look", "arguments": "{}"}}]},
    "finish_reason": "TOOL_CALL",
}


def stubborn(request: Request) -> Script:
    """An upstream whose model takes no tool_choice, whatever the table says."""
    return json_answer(400, REFUSED) if "tool_choice" in request.json() else json_answer(200, CALLED)


def ask(base: str) -> tuple[dict[str, object], str]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "a"}], "tools": [TOOL], "tool_choice": "required"}
    request = urllib.request.Request(
        f"{base}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as answer:
        return json.loads(answer.read()), answer.headers.get("x-gateway-notes", "")


def test_a_refused_tool_choice_is_emulated_and_learned(tmp_path: Path) -> None:
    with ScriptedUpstream(stubborn).run_in_thread() as upstream:
        database = databases.sqlite(tmp_path)
        settings = Settings(cohere_api_key=["key"], cohere_base_url=upstream.url, database_url=database, log="off")
        with serve(lambda: create_app(settings)) as base:
            for _ in range(2):
                answer, notes = ask(base)
                assert answer["choices"][0]["finish_reason"] == "tool_calls"  # type: ignore[index]
                assert "tool_choice emulated (required: an instruction to the model)" in notes
        requests = [request.json() for request in upstream.requests]
    assert ["tool_choice" in body for body in requests] == [True, False, False]
    assert "You must call the tool look now" in requests[1]["messages"][0]["content"]
