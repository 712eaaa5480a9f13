"""A key that is revoked while it is in use: what runs may end, what follows is refused."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gateway.auth import directory
from gateway.store import keys
from gateway.virtual_keys import Team, VirtualKey
from support.app import CHAT, CLOSED, A, end, piece, start, streamed
from support.app import opened as begun
from support.process import awaited
from support.scripted_upstream import Chunk, End, Pause, Script, Signal, transcript
from support.virtual_keys import BY, key_of, run_keyed_harness, secret_of, write
from test_serve_websocket import opened

REVOCATIONS: dict[str, tuple[Callable[[Any], object], str]] = {
    "blocked": (lambda c: keys.update(c, VirtualKey, "k", {"blocked": True}, BY, 2.0), "key_blocked"),
    "deleted": (lambda c: keys.delete(c, VirtualKey, "k", BY, 2.0), "invalid_api_key"),
    "expired": (lambda c: keys.update(c, VirtualKey, "k", {"expires": 2.0}, BY, 2.0), "invalid_api_key"),
    "without permission": (
        lambda c: keys.update(c, VirtualKey, "k", {"permissions": "none"}, BY, 2.0),
        "method_not_permitted",
    ),
    "team blocked": (lambda c: keys.update(c, Team, "t", {"blocked": True}, BY, 2.0), "team_blocked"),
}
"""What is written, and the code of the refusal that follows within seconds."""


@pytest.mark.parametrize("name", REVOCATIONS)
def test_the_next_request_on_an_open_socket_is_refused(name: str) -> None:
    work, code = REVOCATIONS[name]
    with run_keyed_harness(Team(team_id="t"), key_of("k", team_id="t")) as (harness, url):
        harness.respond_with(streamed())
        headers = {"authorization": f"Bearer {secret_of('k')}"}
        with opened(harness.gateway, headers) as caller:
            assert caller.ask()[-1]["type"] == "response.completed"
            write(url, work)
            for _ in range(2000):
                last = caller.ask()[-1]
                if last["type"] == "error":
                    break
            assert last["error"]["code"] == code, last


def interrupted() -> tuple[Script, Signal]:
    """A stream that stands still after its first piece until the signal is given."""
    go_on = Signal()
    first, rest = transcript(start(), begun(), piece("Hi"), done=False), transcript(piece(" there."), CLOSED, end())
    return (streamed()[0], Chunk(first), Pause(go_on), Chunk(rest), End()), go_on


@pytest.mark.parametrize("name", ["blocked", "deleted", "team blocked"])
def test_a_running_stream_ends_well_and_its_successor_is_refused(name: str) -> None:
    """Neither is it cut, nor does it put the old key back when it ends (litellm#25553)."""
    work, code = REVOCATIONS[name]
    headers = {"authorization": f"Bearer {secret_of('k')}", "content-type": "application/json"}
    body = {"model": A, "messages": [{"role": "user", "content": "Hi"}]}
    script, go_on = interrupted()
    with (
        run_keyed_harness(Team(team_id="t"), key_of("k", team_id="t")) as (harness, url),
        ThreadPoolExecutor(1) as callers,
    ):
        harness.respond_with(script, streamed())
        gateway = harness.gateway
        running = callers.submit(gateway.ask, "POST", CHAT, {**body, "stream": True}, headers, 120)
        try:
            awaited(lambda: len(harness.upstream.exchanges) == 1)
            write(url, work)
            awaited(lambda: gateway.ask("GET", "/v1/nothing", None, headers).status in (401, 403))
        finally:
            go_on.set()
        assert running.result().text == "Hi there."
        response = gateway.ask("POST", CHAT, body, headers)
        assert response.error["code"] == code, response
        assert len(harness.upstream.exchanges) == 1


def test_a_running_response_on_a_socket_ends_well() -> None:
    work, code = REVOCATIONS["blocked"]
    script, go_on = interrupted()
    with run_keyed_harness(key_of("k")) as (harness, url):
        harness.respond_with(script, streamed())
        headers = {"authorization": f"Bearer {secret_of('k')}"}
        with opened(harness.gateway, headers) as caller:
            caller.say()
            while caller.hear()["type"] != "response.output_text.delta":
                pass
            write(url, work)
            awaited(lambda: harness.gateway.ask("GET", "/v1/nothing", None, headers).status == 403)
            go_on.set()
            assert caller.answer()[-1]["type"] == "response.completed"
            assert caller.ask()[-1]["error"]["code"] == code


def test_changes_are_looked_for_each_second() -> None:
    """Where nothing announces them. What that makes of two seconds is measured in test_serve_key_changes.py."""
    assert directory.POLL_SECONDS <= 1.0
