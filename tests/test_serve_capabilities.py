"""What a refusal teaches about a model, and Cohere's list about one that no table has.

A refused request is put in another way, once, and so are those that follow.
"""

from __future__ import annotations

import contextlib
import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError

import pytest

from gateway.app import create_app
from gateway.settings.schema import Settings
from gateway.upstream import model_catalog
from support import databases
from support.app import ONCE
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


def ask(base: str, model: str = MODEL) -> tuple[dict[str, object], str]:
    body = {"model": model, "messages": [{"role": "user", "content": "a"}], "tools": [TOOL], "tool_choice": "required"}
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


# --- models that no table has -----------------------------------------------------------------------------------


class Cohere:
    """A gateway and its upstream.

    takes_tool_choice: what the model does. listed: the answer to who asks for models. now: the catalogue's time.
    """

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.base, self._upstream = "", upstream
        self.takes_tool_choice: Callable[[Request], bool] = lambda request: False
        self.listed: Script = json_answer(200, {"models": []})
        self.now = 0.0  # as on a machine that has just started

    def script(self, request: Request) -> Script:
        if request.path.startswith("/v1/models"):
            return self.listed
        refused = "tool_choice" in request.json() and not self.takes_tool_choice(request)
        return json_answer(400, REFUSED) if refused else json_answer(200, CALLED)

    def status(self, model: str) -> int:
        """The status of a request for this model that requires a tool call."""
        try:
            ask(self.base, model)
        except HTTPError as error:
            error.close()
            return error.code
        return 200

    @property
    def with_tool_choice(self) -> list[bool]:
        """Of each chat request that Cohere got: whether it says `tool_choice`."""
        return ["tool_choice" in request.json() for request in self._upstream.requests if "chat" in request.path]

    @property
    def readings(self) -> int:
        """How often the list was asked for."""
        lists = [request for request in self._upstream.requests if request.path.startswith("/v1/models")]
        assert {request.headers.first("authorization") for request in lists} <= {"Bearer key"}
        return len(lists)

    def wait_for_readings(self, count: int) -> None:
        """The list is read beside a request, which does not wait for it."""
        deadline = time.monotonic() + WAIT_SECONDS
        while self.readings < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def cohere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cohere]:
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(ScriptedUpstream(lambda request: running.script(request)).run_in_thread())
        running = Cohere(upstream)
        monkeypatch.setattr(model_catalog, "time", SimpleNamespace(monotonic=lambda: running.now))
        database = databases.sqlite(tmp_path)
        options = {"database_url": database, "log": "off", **ONCE}
        settings = Settings(cohere_api_key=["key"], cohere_base_url=upstream.url, **options)
        running.base = stack.enter_context(serve(lambda: create_app(settings)))
        yield running


def test_what_is_refused_in_every_wording_is_reported(cohere: Cohere) -> None:
    refused = json_answer(400, REFUSED)
    cohere.script = lambda request: refused  # type: ignore[method-assign]
    assert (cohere.status(MODEL), cohere.with_tool_choice) == (400, [True, False])
    assert (cohere.status(MODEL), cohere.with_tool_choice) == (400, [True, False, False])
    assert cohere.readings == 0, "the table has the model"


def test_a_model_that_cohere_has_not_teaches_nothing(cohere: Cohere) -> None:
    """Callers could name any number of them, and each would be remembered."""
    assert [cohere.status("nobody-1"), cohere.status("nobody-1")] == [400, 400]
    assert cohere.with_tool_choice == [True, True]


def test_a_model_of_coheres_list_has_the_features_of_the_list_and_learns(cohere: Cohere) -> None:
    cohere.listed = json_answer(
        200,
        {
            "models": [
                {"name": "new-1", "endpoints": ["chat"], "features": ["tools"]},
                {"name": "new-2", "endpoints": ["chat"], "features": ["tools", "tool_choice"]},
            ]
        },
    )
    assert cohere.status("new-1") == 400, "nobody knows it yet"
    cohere.wait_for_readings(1)
    deadline = time.monotonic() + WAIT_SECONDS
    while cohere.status("new-1") != 200:
        assert time.monotonic() < deadline
    before = len(cohere.with_tool_choice)
    assert [cohere.status(model) for model in ("new-1", "new-2", "new-2")] == [200, 200, 200]
    assert cohere.with_tool_choice[before:] == [False, True, False, False]
    cohere.now += model_catalog.LOOK_UP_INTERVAL + 1
    assert [cohere.status(model) for model in ("new-1", "new-2")] == [200, 200]
    assert cohere.readings == 1, "the list has both"


@pytest.mark.parametrize(
    "listed", [json_answer(200, {"models": []}), json_answer(503, {"message": "no"}), json_answer(200, b"[]")]
)
def test_the_list_is_read_for_unknown_models_once_in_a_while(cohere: Cohere, listed: Script) -> None:
    """Whatever comes of it: the requests do not wait for it, and are served without it."""
    cohere.listed = listed
    cohere.takes_tool_choice = lambda request: True
    assert cohere.status(MODEL) == 200
    assert cohere.readings == 0
    assert [cohere.status(f"nobody-{number}") for number in range(3)] == [200, 200, 200]
    cohere.wait_for_readings(1)
    cohere.now += model_catalog.LOOK_UP_INTERVAL - 1
    assert [cohere.status("nobody-1"), cohere.readings] == [200, 1]
    cohere.now += 1
    assert [cohere.status("nobody-1"), cohere.status("nobody-1")] == [200, 200]
    cohere.wait_for_readings(2)
    assert [cohere.status("nobody-2"), cohere.readings] == [200, 2]
