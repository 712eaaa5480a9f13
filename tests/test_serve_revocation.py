"""A key that is revoked while it is in use: what runs may end, what follows is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.store import keys
from gateway.virtual_keys import Team, VirtualKey
from support.app import streamed
from support.virtual_keys import BY, key_of, keyed_stage, secret_of, write
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
    with keyed_stage(Team(team_id="t"), key_of("k", team_id="t")) as (staged, url):
        staged.plays(streamed())
        headers = {"authorization": f"Bearer {secret_of('k')}"}
        with opened(staged.gateway, headers) as caller:
            assert caller.ask()[-1]["type"] == "response.completed"
            write(url, work)
            for _ in range(2000):
                last = caller.ask()[-1]
                if last["type"] == "error":
                    break
            assert last["error"]["code"] == code, last
