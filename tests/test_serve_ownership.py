"""What belongs to whom: stored responses, conversations, sealed thoughts and cached answers, by key and by team.

Ownership follows the key and not its secret, so it survives a rotation, and it never reaches another key.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.settings.schema import CacheSettings
from gateway.store import keys
from gateway.virtual_keys import Team, VirtualKey, digest_of
from support.app import MASTER_KEY, REASONING, A, Harness, Response, answered, whole
from support.process import awaited
from support.scripted_upstream import json_answer
from support.virtual_keys import BY, key_of, run_keyed_harness, secret_of, write

RECORDS = (
    Team(team_id="t"),
    Team(team_id="u"),
    key_of("alone"),
    key_of("other"),
    key_of("member", team_id="t"),
    key_of("first", team_id="t", shared="team"),
    key_of("second", team_id="t", shared="team"),
    key_of("elsewhere", team_id="u", shared="team"),
    key_of("teamless", shared="team"),
    key_of("rotated"),
)
GROUPS = ({"alone"}, {"other"}, {"member"}, {"first", "second"}, {"elsewhere"}, {"teamless"})
"""Those who see the same."""
NAMES = sorted(name for group in GROUPS for name in group)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Harness, str]]:
    with run_keyed_harness(*RECORDS, cache=CacheSettings(store="memory")) as (harness, url):
        yield harness, url


def ask(harness: Harness, secret: str, verb: str, path: str, body: Any = None, **headers: str) -> Response:
    values = {"authorization": f"Bearer {secret}", "content-type": "application/json", **headers}
    return harness.gateway.ask(verb, path, body, values)


def who_sees(harness: Harness, path: str) -> set[str]:
    statuses = {name: ask(harness, secret_of(name), "GET", path).status for name in NAMES}
    assert set(statuses.values()) <= {200, 404}, statuses
    return {name for name, status in statuses.items() if status == 200}


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: "+".join(sorted(group)))
def test_what_is_stored_belongs_to_the_key_or_its_team(served: tuple[Harness, str], group: set[str]) -> None:
    harness, _ = served
    harness.respond_with(answered())
    secret = secret_of(sorted(group)[0])
    response = ask(harness, secret, "POST", "/v1/responses", {"model": A, "input": "Hi"}).body["id"]
    conversation = ask(harness, secret, "POST", "/v1/conversations", {}).body["id"]
    for path in (f"/v1/responses/{response}", f"/v1/conversations/{conversation}"):
        assert who_sees(harness, path) == group
        assert ask(harness, MASTER_KEY, "GET", path).status == 404, "the master key manages, it does not read along"
    follower = {"model": A, "input": "And?", "previous_response_id": response}
    for name in NAMES:
        status = ask(harness, secret_of(name), "POST", "/v1/responses", follower).status
        assert (status == 200) is (name in group), name


def test_thoughts_are_sealed_for_one_owner(served: tuple[Harness, str]) -> None:
    harness, _ = served
    thought = {"type": "thinking", "thinking": "a secret thought"}
    content = [thought, {"type": "text", "text": "Hi"}]
    message = whole() | {"message": {"role": "assistant", "content": content}}
    harness.respond_with(json_answer(200, message))
    body = {"model": REASONING, "input": "Hi", "store": False, "include": ["reasoning.encrypted_content"]}
    output = ask(harness, secret_of("first"), "POST", "/v1/responses", body).body["output"]
    sealed = [item for item in output if item["type"] == "reasoning"]
    assert sealed and sealed[0]["encrypted_content"]
    harness.respond_with(answered())
    for name in NAMES:
        item = {"type": "reasoning", "summary": [], "encrypted_content": sealed[0]["encrypted_content"]}
        follow = {"model": REASONING, "store": False, "input": [item, {"role": "user", "content": "And?"}]}
        assert ask(harness, secret_of(name), "POST", "/v1/responses", follow).status == 200
        upstream_body = harness.upstream.requests[-1].body
        assert (b"a secret thought" in upstream_body) is (name in {"first", "second"}), name


def test_cached_answers_are_not_shared_with_others(served: tuple[Harness, str]) -> None:
    harness, _ = served
    harness.respond_with(answered())
    body = {"model": A, "temperature": 0, "messages": [{"role": "user", "content": "Cache me"}]}
    hits = {}
    for name in ["first", *NAMES]:
        calls = len(harness.upstream.exchanges)
        assert ask(harness, secret_of(name), "POST", "/v1/chat/completions", body).status == 200
        hits[name] = len(harness.upstream.exchanges) == calls
    assert {name for name, hit in hits.items() if hit} == {"first", "second"}


def test_a_rotation_keeps_everything(served: tuple[Harness, str]) -> None:
    harness, url = served
    harness.respond_with(answered())
    response = ask(harness, secret_of("rotated"), "POST", "/v1/responses", {"model": A, "input": "Hi"}).body["id"]
    now, new = time.time(), "sk-a-new-secret-of-the-key-rotated"
    write(url, lambda c: keys.rotate(c, "rotated", digest_of(new), "lone", BY, now, now + 3600))
    for secret in (new, secret_of("rotated")):
        assert ask(harness, secret, "GET", f"/v1/responses/{response}").status == 200
    write(url, lambda c: keys.update(c, VirtualKey, "rotated", {"previous": ()}, BY, now))
    awaited(lambda: ask(harness, secret_of("rotated"), "GET", "/v1/responses/x").status == 401)
    assert ask(harness, new, "GET", f"/v1/responses/{response}").status == 200
