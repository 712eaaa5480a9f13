"""The management API through a real server, on SQLite and on PostgreSQL: who may, what is taken, what is left behind.

What a key may then call is tested where permissions are; how changes reach other processes in test_serve_keys.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from gateway.management import end_users, fields, teams
from gateway.management.field_table import Verdict
from gateway.management.fields import END_USER_NEW, KEY_NEW, TEAM_NEW
from gateway.management.operations import OPERATIONS
from gateway.state import conversation_state
from gateway.store import keys
from gateway.store.database import Database
from gateway.store.store import Store
from gateway.virtual_keys import digest_of
from support.app import A, Gateway, Response, demonstration, emulator, gateway_over
from support.databases import KINDS, throwaway
from support.waiting import WAIT_SECONDS

MASTER = "sk-master-of-the-tests-0001"
NUMBERS = itertools.count()


class Management:
    """A gateway with keys, and its database."""

    def __init__(self, gateway: Gateway, url: str, kind: str) -> None:
        self.gateway, self.url, self.kind = gateway, url, kind

    def ask(self, path: str, body: Any = None, key: str = MASTER, **headers: str) -> Response:
        """POST with a body, else GET."""
        values = {"authorization": f"Bearer {key}", "content-type": "application/json", **headers}
        return self.gateway.ask("GET" if body is None else "POST", path, body, values)

    def done(self, path: str, body: Any = None, key: str = MASTER, **headers: str) -> Any:
        """The answer to a request that succeeds."""
        response = self.ask(path, body, key, **headers)
        assert response.status == 200, response
        return response.body

    def new(self, **fields: Any) -> dict[str, Any]:
        """A key that was just made."""
        result: dict[str, Any] = self.done("/key/generate", fields)
        return result

    def info(self, key: str) -> dict[str, Any]:
        result: dict[str, Any] = self.done(f"/key/info?key={key}")["info"]
        return result

    def run(self, work: Any) -> Any:
        """What a function of one connection returns, in a transaction of its own."""

        async def run() -> Any:
            database = Database(self.url, 30.0, 1)
            try:
                return await database.write(work)
            finally:
                await database.close()

        return asyncio.run(run())

    def changes(self, object_id: str) -> list[keys.Change]:
        """The audit of one object, oldest first."""
        entries = self.run(lambda connection: keys.list_changes(connection, limit=100_000))
        return [change for change in reversed(entries) if change.object_id == object_id]


@contextlib.contextmanager
def management(kind: str, folder: Path, **options: Any) -> Iterator[Management]:
    with asyncio.Runner() as runner:
        created = throwaway(kind, folder)
        url = runner.run(created.__aenter__())
        try:
            with (
                # How fast the storage is, on a machine that does much else, is not what is tested here.
                mock.patch.object(conversation_state, "Store", partial(Store, timeout=WAIT_SECONDS)),
                emulator() as upstream,
                gateway_over(
                    upstream, demo=True, master_key=MASTER, key=MASTER, database_url=url, **options
                ) as gateway,
            ):
                yield Management(gateway, url, kind)
        finally:
            runner.run(created.__aexit__(None, None, None))


@pytest.fixture(scope="module", params=KINDS)
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Management]:
    with management(request.param, tmp_path_factory.mktemp("management")) as running:
        yield running


def unique(name: str = "name") -> str:
    return f"{name}-{next(NUMBERS)}"


# --- shapes of LiteLLM's --------------------------------------------------------------------------------------

GENERATED = frozenset(
    "key key_name key_alias token token_id expires spend user_id team_id organization_id project_id models aliases"
    " max_budget soft_budget budget_duration budget_limits tpm_limit rpm_limit max_parallel_requests"
    " budget_reset_at model_spend"
    " model_max_budget model_rpm_limit model_tpm_limit metadata tags permissions blocked key_type"
    " litellm_budget_table created_by updated_by created_at updated_at".split()
)
INFO = frozenset(
    "key_name key_alias spend total_spend max_budget expires models aliases config user_id team_id agent_id project_id"
    " max_parallel_requests metadata tpm_limit rpm_limit tpd_limit budget_duration budget_reset_at key_type permissions"
    " allowed_cache_controls allowed_routes model_spend model_max_budget budget_fallbacks soft_budget_cooldown blocked"
    " budget_id org_id created_at created_by updated_at updated_by settings_updated_at last_active rotation_count"
    " auto_rotate rotation_interval last_rotation_at key_rotation_at router_settings budget_limits object_permission"
    " status".split()
)
TEAM = frozenset(
    "team_id team_alias organization_id members_with_roles members admins metadata tpm_limit rpm_limit max_budget"
    " soft_budget budget_duration budget_limits budget_reset_at models blocked model_aliases model_max_budget"
    " model_rpm_limit model_tpm_limit model_spend model_id spend max_parallel_requests tags created_at"
    " updated_at".split()
)
END_USER = frozenset("user_id alias blocked spend allowed_model_region default_model litellm_budget_table".split())


def test_an_empty_request_makes_a_key_that_calls(api: Management) -> None:
    new_key = api.done("/key/generate", {})
    assert new_key.keys() >= GENERATED
    assert new_key["key"].startswith("sk-") and len(new_key["key"]) == 3 + 43 and "." not in new_key["key"]
    assert new_key["token"] == new_key["token_id"] == digest_of(new_key["key"])
    assert new_key["key_name"] == f"sk-...{new_key['key'][-4:]}"
    assert (new_key["expires"], new_key["models"], new_key["aliases"], new_key["metadata"]) == (None, [], {}, {})
    models = api.ask("/v1/models", key=new_key["key"])
    assert models.status == 200
    assert api.ask("/key/generate", b"").status == 200, "no body is an empty one"


def test_a_key_is_shown_without_its_secret(api: Management) -> None:
    alias = unique("shown")
    new_key = api.new(key_alias=alias, models=["command-*"], duration="30d", metadata={"team": "x"}, tags=["a"])
    for reference in (new_key["key"], new_key["token"], new_key["key_id"], alias):
        answer = api.done(f"/key/info?key={reference}")
        assert answer["key"] == reference
        assert answer["info"].keys() >= INFO and "token" not in answer["info"]
        assert answer["info"]["status"] == "active" and answer["info"]["expires"] == new_key["expires"]
        assert new_key["key"] not in json.dumps(answer["info"])
    own = api.done("/key/info", key=new_key["key"])
    assert own["info"] == answer["info"] and own["key"] == new_key["token"]
    (plural,) = api.done("/v2/key/info", {"keys": [new_key["key"], "nobody"]})["info"]
    assert plural["token"] == new_key["token"]
    unknown = api.ask("/key/info?key=nobody")
    assert (unknown.status, unknown.error["message"], unknown.error["param"]) == (
        404,
        "Key not found in database",
        "key",
    )


def test_lists_are_pages_and_filters(api: Management) -> None:
    user = unique("user")
    new_keys = [api.new(user_id=user, key_alias=unique(f"listed-{number}")) for number in range(3)]
    api.done("/key/block", {"key": new_keys[0]["key"]})
    page = api.done(f"/key/list?user_id={user}&size=2")
    assert page == {
        "keys": [new_keys[2]["token"], new_keys[1]["token"]],
        "total_count": 3,
        "current_page": 1,
        "total_pages": 2,
    }
    assert api.done(f"/key/list?user_id={user}&size=2&page=2")["keys"] == [new_keys[0]["token"]]
    (blocked,) = api.done(f"/key/list?user_id={user}&status=revoked&return_full_object=true")["keys"]
    assert (blocked["token"], blocked["status"], blocked["blocked"]) == (new_keys[0]["token"], "revoked", True)
    assert api.done(f"/key/list?user_id={user}&status=active&sort_by=key_alias&sort_order=asc")["keys"] == [
        new_keys[1]["token"],
        new_keys[2]["token"],
    ]
    alias = new_keys[1]["key_alias"]
    for query in (
        f"key_alias={alias}",
        f"key_alias={alias[3:]}&substring_matching=true",
        f"search={alias[2:]}",
        f"search={alias[2:].upper()}",
        f"key_alias={alias.upper()}&substring_matching=true",
        f"key_hash={new_keys[1]['token']}",
        f"key_hash={new_keys[1]['key']}",
    ):
        assert api.done(f"/key/list?{query}")["keys"] == [new_keys[1]["token"]], query
    api.done("/key/delete", {"keys": [new_keys[2]["key"]]})
    assert api.done(f"/key/list?user_id={user}")["total_count"] == 2
    # LiteLLM's name for a part of it.
    active = api.done(f"/key/list?user_id={user}&status=active")["keys"]
    assert active and api.done(f"/key/list?user_id={user}&expires=active")["keys"] == active
    assert api.done(f"/key/list?user_id={user}&expires=expired")["keys"] == []
    (deleted,) = api.done(f"/key/list?user_id={user}&status=deleted&return_full_object=true")["keys"]
    assert (deleted["key_id"], deleted["status"]) == (new_keys[2]["key_id"], "deleted")
    assert api.done(f"/key/list?user_id={user}&status=deleted")["keys"] == [new_keys[2]["key_id"]]


@pytest.mark.parametrize(
    ("query", "param", "words"),
    [
        ("tem_id=a", "tem_id", "the nearest name is 'team_id'"),
        ("size=1000", "size", "from 1 to 100"),
        ("page=0", "page", "from 1 to"),
        ("page=-1", "page", "from 1 to"),
        ("sort_by=digest", "sort_by", "one of created_at"),
        ("status=gone", "status", "one of active"),
        ("organization_id=a", "organization_id", "is not kept"),
        ("return_full_object=perhaps", "return_full_object", "true or false"),
        ("page=1&page=2", None, "twice"),
        ("page=%ff", None, "UTF-8"),
        ("&".join(f"a{number}=" for number in range(51)), None, "more than 50 parameters"),
    ],
)
def test_a_list_refuses_what_it_cannot_filter_by(api: Management, query: str, param: str | None, words: str) -> None:
    response = api.ask(f"/key/list?{query}")
    assert (response.status, response.error["param"]) == (400, param)
    assert words in response.error["message"]


def test_rotation_keeps_the_key_and_a_grace_period_the_old_secret(api: Management) -> None:
    new_key = api.new(key_alias=unique("rotated"), metadata={"a": 1})
    second = api.done("/key/regenerate", {"key": new_key["key"], "grace_period": "1h", "rpm_limit": 9})
    assert (second["key_id"], second["rotation_count"], second["rpm_limit"]) == (new_key["key_id"], 1, 9)
    assert second["key_name"] == f"sk-...{second['key'][-4:]}"
    assert second["metadata"] == {"a": 1} and second["token"] == digest_of(second["key"]) != new_key["token"]
    assert [api.ask("/v1/models", key=one["key"]).status for one in (new_key, second)] == [200, 200]
    third = api.done(f"/key/{second['key']}/regenerate", {})
    assert [api.ask("/v1/models", key=one["key"]).status for one in (new_key, second, third)] == [200, 401, 200]
    own = "sk-" + unique("a-secret-of-my-own-0000000")
    assert api.done(f"/key/{third['key_id']}/regenerate", {"new_key": own})["key"] == own
    assert api.ask("/v1/models", key=own).status == 200


def test_blocked_deleted_and_expired_keys_are_refused_at_once(api: Management) -> None:
    new_key = api.new()
    row = api.done("/key/block", {"key": new_key["key"]})
    assert (row["blocked"], row["token"]) == (True, new_key["token"])
    assert api.ask("/v1/models", key=new_key["key"]).status == 403
    assert api.done("/key/unblock", {"key": new_key["token"]})["blocked"] is False
    assert api.ask("/v1/models", key=new_key["key"]).status == 200
    assert api.done("/key/delete", {"keys": [new_key["key"]]}) == {"deleted_keys": [new_key["key"]]}
    assert api.ask("/v1/models", key=new_key["key"]).status == 401
    assert api.ask("/key/block", {"key": new_key["key"]}).status == 404
    alias = unique("again")
    assert api.new(key_alias=alias)["key_alias"] == alias
    assert api.done("/key/delete", {"key_aliases": [alias]}) == {"deleted_keys": [alias]}
    assert api.new(key_alias=alias)["key_alias"] == alias, "a deleted key's alias is free"


def test_teams(api: Management) -> None:
    name = unique("team")
    team = api.done("/team/new", {"team_alias": name, "max_budget": 5, "model_aliases": {"small": "command-r7b"}})
    assert team["team_id"].startswith("team_") and team["aliases"] == team["model_aliases"] == {"small": "command-r7b"}
    new_key = api.new(team_id=team["team_id"])
    info = api.done(f"/team/info?team_id={team['team_id']}")
    assert info["team_id"] == team["team_id"] and info["team_info"] == team and team.keys() >= TEAM
    assert [key["token"] for key in info["keys"]] == [new_key["token"]]
    assert name in [one["team_alias"] for one in api.done("/team/list")]
    changed = api.done("/team/update", {"team_id": team["team_id"], "max_budget": None, "tags": ["a"]})
    assert (changed["data"]["max_budget"], changed["data"]["tags"], changed["data"]["team_alias"]) == (
        None,
        ["a"],
        name,
    )
    assert api.done("/team/block", {"team_id": team["team_id"]})["blocked"] is True
    assert api.ask("/v1/models", key=new_key["key"]).status == 403
    assert api.done("/team/unblock", {"team_id": team["team_id"]})["blocked"] is False
    assert api.ask("/v1/models", key=new_key["key"]).status == 200
    assert api.done("/team/delete", {"team_ids": [team["team_id"]]}) == {"deleted_teams": [team["team_id"]]}
    assert api.ask("/v1/models", key=new_key["key"]).status == 403
    assert api.ask(f"/team/info?team_id={team['team_id']}").status == 404
    own = unique("own")
    assert api.done("/team/new", {"team_id": own})["team_id"] == own
    assert api.ask("/team/new", {"team_id": own}).error["code"] == "already_exists"


@pytest.mark.parametrize("root", ["/customer", "/end_user"])
def test_end_users(api: Management, root: str) -> None:
    user, other = unique("user"), unique("other")
    new_key = api.done(f"{root}/new", {"user_id": user, "alias": "Ada", "rpm_limit": 3})
    assert (new_key["user_id"], new_key["alias"], new_key["rpm_limit"], new_key["blocked"]) == (user, "Ada", 3, False)
    assert api.ask(f"{root}/new", {"user_id": user}).error["code"] == "already_exists"
    assert api.done(f"{root}/info?end_user_id={user}") == new_key and new_key.keys() >= END_USER
    assert new_key["litellm_budget_table"]["rpm_limit"] == 3
    blocked = api.done(f"{root}/block", {"user_ids": [user, other]})["blocked_users"]
    assert [(one["user_id"], one["blocked"]) for one in blocked] == [(user, True), (other, True)]
    assert {user, other} <= {one["user_id"] for one in api.done(f"{root}/list")}
    api.done(f"{root}/unblock", {"user_ids": [other]})
    assert api.done(f"{root}/info?user_id={other}")["blocked"] is False
    changed = api.done(f"{root}/update", {"user_id": user, "rpm_limit": None, "max_budget": 1.5})
    assert (changed["rpm_limit"], changed["max_budget"], changed["alias"], changed["blocked"]) == (
        None,
        1.5,
        "Ada",
        True,
    )
    for action in ("delete", "unblock"):
        for ids in ([user, "nobody"], [user, user, "nobody", "nobody"]):
            param = f"user_ids[{ids.index('nobody')}]"
            assert api.ask(f"{root}/{action}", {"user_ids": ids}).error["param"] == param
    assert api.done(f"{root}/delete", {"user_ids": [user, other]})["deleted_customers"] == 2
    assert api.ask(f"{root}/info?end_user_id={user}").status == 404


# --- who may --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", OPERATIONS, ids=[row.name for row in OPERATIONS])
def test_only_roles_manage(api: Management, row: Any) -> None:
    plain, viewer, admin = (api.new(role=role)["key"] for role in ("", "viewer", "admin"))
    path = row.paths[0]
    body: Any = {} if row.table is not None else None
    for key, allowed in ((plain, ()), (viewer, ("GET",)), (admin, ("GET", "POST")), ("sk-" + "x" * 43, ())):
        response = api.ask(path, body, key)
        reads = row.verb == "GET" or row.name == "keys_info"
        if "x" * 43 in key:
            assert response.status == 401
        elif row.name == "key_info":
            assert response.status == 200, "everybody reads their own key"
        elif ("GET" if reads else "POST") in allowed:
            assert response.status in (200, 400, 404), response
        else:
            assert (response.status, response.error["code"]) == (403, "role_not_allowed"), response


def test_no_key_raises_its_own_rights(api: Management) -> None:
    team = api.done("/team/new", {"max_budget": 1})["team_id"]
    other = api.done("/team/new", {})["team_id"]
    admin, second, plain = (api.new(role=role, team_id=team) for role in ("admin", "admin", ""))
    own, key_id = admin["key"], admin["key_id"]
    for path, body in (
        ("/key/update", {"key": own, "permissions": "all"}),
        ("/key/update", {"key": key_id, "max_budget": None}),
        ("/key/update", {"key": second["key"], "permissions": "all"}),
        ("/key/update", {"key": plain["key"], "role": "admin"}),
        ("/key/regenerate", {"key": own, "permissions": "all"}),
        ("/key/regenerate", {"key": second["token"]}),
        (f"/key/{plain['key_id']}/regenerate", {"role": "viewer"}),
        ("/key/unblock", {"key": own}),
        ("/key/delete", {"keys": [plain["key"], second["key"]]}),
        ("/key/generate", {"role": "admin"}),
        ("/key/generate", {"role": "viewer"}),
        ("/team/update", {"team_id": team, "max_budget": 100}),
        ("/team/delete", {"team_ids": [other, team]}),
        ("/team/unblock", {"team_id": team}),
    ):
        response = api.ask(path, body, own)
        assert (response.status, response.error["code"]) == (403, "role_not_allowed"), (path, body, response)
    assert api.info(plain["key_id"])["role"] == "" and api.info(second["key_id"])["permissions"] is None
    assert api.done(f"/team/info?team_id={other}")["team_info"]["blocked"] is False, "all or nothing"
    assert api.done("/key/update", {"key": plain["key"], "rpm_limit": 5}, own)["rpm_limit"] == 5
    for path, request in (
        ("/key/update", {"key": plain["key"], "permissions": "all"}),
        ("/key/regenerate", {"key": plain["key"]}),
        (f"/key/info?key={own}", None),
        (f"/team/info?team_id={team}", None),
    ):
        response = api.ask(path, request, plain["key"])
        assert (response.status, response.error["code"]) == (403, "role_not_allowed"), (path, response)
    unknown = api.ask("/key/info?key=nobody", key=plain["key"])
    assert unknown.status == 403, "whether there is such a key is not said"


def test_the_master_key_is_nobodys_secret(api: Management) -> None:
    assert api.ask("/key/generate", {"key": MASTER}).error == {
        "message": "'key' is taken: it is a key of the gateway itself",
        "type": "invalid_request_error",
        "param": "key",
        "code": "already_exists",
    }
    assert api.ask("/key/regenerate", {"key": api.new()["key"], "new_key": MASTER}).error["param"] == "new_key"


def test_without_a_master_key_there_is_no_management() -> None:
    with demonstration() as gateway:
        for row in OPERATIONS:
            response = gateway.ask(row.verb, row.paths[0], None if row.table is None else {})
            assert (response.status, response.error["code"]) == (404, "management_not_available")
            assert "GATEWAY_MASTER_KEY" in response.error["message"]


# --- bad input ------------------------------------------------------------------------------------------------

LONG = "x" * 256
# path, body, param, code, words
BAD: tuple[tuple[str, Any, str | None, str, str], ...] = (
    ("/key/generate", b"[]", None, "invalid_type", "must be a JSON object"),
    ("/key/generate", b"{", None, "invalid_json", "not valid JSON"),
    ("/key/generate", b'{"key_alias": "\xff"}', "key_alias", "invalid_json", "not valid JSON"),
    ("/key/generate", {"key_alais": "a"}, "key_alais", "unknown_parameter", "the nearest name is 'key_alias'"),
    ("/key/generate", {"expires": "a"}, "expires", "unknown_parameter", "the nearest name is 'duration'"),
    ("/key/generate", {"zzz": "a"}, "zzz", "unknown_parameter", "there are key, key_alias"),
    ("/key/generate", {"grace_period": "1h"}, "grace_period", "unknown_parameter", "There is no field"),
    ("/key/generate", {"rpm_limit": "three"}, "rpm_limit", "invalid_type", "expected `int`"),
    ("/key/generate", {"rpm_limit": 3.5}, "rpm_limit", "invalid_type", "expected `int`"),
    ("/key/generate", {"rpm_limit": -1}, "rpm_limit", "invalid_value", ">= 0"),
    ("/key/generate", {"tpm_limit": 10**13}, "tpm_limit", "invalid_value", "<="),
    ("/key/generate", {"max_parallel_requests": True}, "max_parallel_requests", "invalid_type", "expected `int`"),
    ("/key/generate", {"max_budget": -0.5}, "max_budget", "invalid_value", ">= 0"),
    ("/key/generate", {"max_budget": ""}, "max_budget", "invalid_type", "expected `float`"),
    ("/key/generate", {"max_budget": "nan"}, "max_budget", "invalid_value", "expected `float`"),
    ("/key/generate", {"max_budget": "-1"}, "max_budget", "invalid_value", ">= 0"),
    ("/key/generate", b'{"max_budget": NaN}', None, "invalid_json", "not valid JSON"),
    ("/key/generate", {"duration": "soon"}, "duration", "invalid_value", "such as 30s"),
    ("/key/generate", {"duration": "0d"}, "duration", "invalid_value", "such as 30s"),
    ("/key/generate", {"duration": "-5d"}, "duration", "invalid_value", "such as 30s"),
    ("/key/generate", {"duration": "99999999w"}, "duration", "invalid_value", "longer than 100 years"),
    ("/key/generate", {"duration": 30}, "duration", "invalid_type", "expected `str`"),
    ("/key/generate", {"budget_duration": "1y"}, "budget_duration", "invalid_value", "such as 30s"),
    ("/key/generate", {"budget_duration": "-1"}, "budget_duration", "invalid_value", "such as 30s"),
    (
        "/key/generate",
        {"budget_limits": [{"budget_duration": "1d", "max_budget": 1}, {"budget_duration": "x", "max_budget": 1}]},
        "budget_limits[1].budget_duration",
        "invalid_value",
        "such as 30s",
    ),
    (
        "/key/generate",
        {"budget_limits": [{"max_budget": 1}]},
        "budget_limits[0].budget_duration",
        "missing_required_parameter",
        "",
    ),
    (
        "/key/generate",
        {"budget_limits": [{"budget_duration": "1d", "max_budgt": 1}]},
        "budget_limits[0]",
        "invalid_value",
        "unknown",
    ),
    (
        "/key/generate",
        {"model_max_budget": {"a": {"budget_limit": 1}}},
        "model_max_budget.a.time_period",
        "missing_required_parameter",
        "",
    ),
    ("/key/generate", {"model_rpm_limit": {"a": -1}}, "model_rpm_limit[]", "invalid_value", ">= 0"),
    ("/key/generate", {"budget_fallbacks": {"a": ["a"]}}, "budget_fallbacks.a", "invalid_value", "its own fallback"),
    (
        "/key/generate",
        {"budget_fallbacks": {"cohere/embed-v4.0": ["embed-multilingual-v3.0"]}},
        "budget_fallbacks.cohere/embed-v4.0",
        "invalid_value",
        "the same vectors",
    ),
    ("/key/generate", {"models": "command-a"}, "models", "invalid_type", "expected `array`"),
    ("/key/generate", {"models": [""]}, "models[0]", "invalid_value", "length"),
    ("/key/generate", {"models": ["a\n"]}, "models", "invalid_value", "cannot be printed"),
    ("/key/generate", {"models": ["no-default-models"]}, "models", "invalid_value", "permissions"),
    ("/key/generate", {"models": ["a"] * 501}, "models", "invalid_value", "length"),
    ("/key/generate", {"permissions": "everything"}, "permissions", "invalid_value", "none, inference, read-only, all"),
    ("/key/generate", {"permissions": {"chatt": "full"}}, "permissions", "invalid_value", "did you mean 'chat'"),
    ("/key/generate", {"permissions": {"chat": "write"}}, "permissions", "invalid_value", "off, read, full"),
    ("/key/generate", {"permissions": {"chat": "read"}}, "permissions", "invalid_value", "full or off"),
    ("/key/generate", {"permissions": {"chat": True}}, "permissions[]", "invalid_type", "expected `str`"),
    ("/key/generate", {"permissions": {"get_spend_routes": "full"}}, "permissions", "invalid_value", "Groups are chat"),
    ("/key/generate", {"safety_mode": "NONE"}, "safety_mode", "invalid_value", ""),
    ("/key/generate", {"allowed_ips": ["10.0.0.0/8", "localhost"]}, "allowed_ips[1]", "invalid_value", "10.0.0.0/8"),
    ("/key/generate", {"role": "root"}, "role", "invalid_value", ""),
    ("/key/generate", {"key_alias": LONG}, "key_alias", "invalid_value", "length"),
    ("/key/generate", {"key_alias": ""}, "key_alias", "invalid_value", "length"),
    ("/key/generate", {"key_alias": "a\r\nx-evil: 1"}, "key_alias", "invalid_value", "cannot be printed"),
    ("/key/generate", {"key_alias": "a\x00"}, "key_alias", "invalid_value", "cannot be printed"),
    ("/key/generate", {"key_alias": "sk-12345678901234567890123"}, "key_alias", "invalid_value", "looks like"),
    ("/key/generate", {"key_alias": "0" * 64}, "key_alias", "invalid_value", "looks like"),
    ("/key/generate", {"key": "sk-short"}, "key", "invalid_value", "24"),
    ("/key/generate", {"key": "no-prefix-at-all-but-long-enough"}, "key", "invalid_value", "begin with 'sk-'"),
    ("/key/generate", {"key": "sk-with.dots.like.a.jwt.000000"}, "key", "invalid_value", "no dots"),
    ("/key/generate", {"key": "sk-with spaces 00000000000000"}, "key", "invalid_value", "visible"),
    ("/key/generate", {"metadata": {"a": "x" * 20_000}}, "metadata", "value_too_large", "16384"),
    ("/key/generate", {"metadata": []}, "metadata", "invalid_type", "expected `object`"),
    ("/key/generate", {"team_id": "nobody"}, "team_id", "team_not_found", ""),
    ("/key/generate", {"allowed_routes": ["/chat"]}, "allowed_routes", "unsupported_value", "permissions"),
    ("/key/generate", {"key_type": "management"}, "key_type", "unsupported_value", "role"),
    ("/key/generate", {"enforced_params": ["user"]}, "enforced_params", "unsupported_value", ""),
    ("/key/generate", {"tpd_limit": 0}, "tpd_limit", "unsupported_value", "budgets"),
    ("/key/generate", {"tag_rpm_limit": {"a": 1}}, "tag_rpm_limit", "unsupported_value", ""),
    ("/key/generate", {"budget_id": "b"}, "budget_id", "unsupported_value", "max_budget"),
    ("/key/generate", {"guardrails": ["pii"]}, "guardrails", "unsupported_value", "safety_mode"),
    ("/key/generate", {"spend": 5}, "spend", "unsupported_value", "ledger"),
    ("/key/update", {"rpm_limit": 3}, "key", "missing_required_parameter", ""),
    ("/key/update", {"key": "nobody", "rpm_limit": 3}, "key", "key_not_found", ""),
    ("/key/update", {"key": 5}, "key", "invalid_type", "expected `str`"),
    ("/key/delete", {}, "keys", "missing_required_parameter", "key_aliases"),
    ("/key/delete", {"keys": []}, "keys", "missing_required_parameter", ""),
    ("/key/delete", {"keys": "a"}, "keys", "invalid_type", "expected `array`"),
    ("/key/regenerate", {}, "key", "missing_required_parameter", ""),
    ("/key/regenerate", {"key": "a", "grace_period": "a"}, "grace_period", "invalid_value", "such as"),
    ("/key/regenerate", {"key": "a", "new_master_key": "a"}, "new_master_key", "unsupported_value", "setting"),
    ("/key/block", {}, "key", "missing_required_parameter", ""),
    ("/key/info", None, "key", "missing_required_parameter", "/key/info?key="),
    ("/team/new", {"team_member_budget": 5}, "team_member_budget", "unsupported_value", ""),
    ("/team/new", {"role": "admin"}, "role", "unknown_parameter", ""),
    ("/team/new", {"aliases": {"a": "b"}, "model_aliases": {"a": "c"}}, "model_aliases", "invalid_value", "one field"),
    ("/team/update", {"team_alias": "a"}, "team_id", "missing_required_parameter", ""),
    ("/team/delete", {"team_ids": ["nobody"]}, "team_ids[0]", "team_not_found", ""),
    ("/customer/new", {}, "user_id", "missing_required_parameter", ""),
    ("/customer/new", {"user_id": "a", "allowed_model_region": "eu"}, "allowed_model_region", "unsupported_value", ""),
    ("/customer/update", {"user_id": "nobody"}, "user_id", "end_user_not_found", ""),
    ("/customer/unblock", {"user_ids": ["nobody"]}, "user_ids[0]", "end_user_not_found", ""),
)


def test_bad_input_is_said_and_changes_nothing(api: Management) -> None:
    before = api.run(keys.current_revision)
    wrong: list[Any] = []
    for path, body, param, code, words in BAD:
        response = api.ask(path, body)
        status = 404 if code.endswith("_not_found") else 400
        if (response.status, response.error["param"], response.error["code"]) != (status, param, code):
            wrong.append((path, body, response.status, response.error))
        elif words not in response.error["message"]:
            wrong.append((path, body, words, response.error))
    assert not wrong, wrong
    assert api.run(keys.current_revision) == before


def test_a_body_has_a_bound_and_a_type(api: Management) -> None:
    assert api.ask("/key/generate", {"metadata": {"a": "x" * 300_000}}).status == 413
    form = {"content-type": "application/x-www-form-urlencoded"}  # what curl says of its `-d`
    assert [api.ask("/key/generate", body, **form).status for body in (b"{}", b"a=1")] == [200, 415]


def test_what_asks_for_nothing_is_taken(api: Management) -> None:
    """LiteLLM's own programs send every field that they have."""
    body = {row.name: None for row in KEY_NEW.rows.values()}
    response = api.ask("/key/generate", body | {"guardrails": [], "spend": 0, "key_type": "default", "blocked": False})
    assert response.status == 200 and "x-gateway-notes" not in response.headers
    response = api.ask("/key/generate", {"organization_id": "o", "auto_rotate": True})
    assert "organization_id ignored" in response.headers["x-gateway-notes"]
    assert "auto_rotate ignored" in response.headers["x-gateway-notes"]
    strict = api.ask("/key/generate", {"organization_id": "o"}, **{"x-gateway-strict": "true"})
    assert (strict.status, strict.error["param"]) == (400, "organization_id")
    for words, expected in ((["all-team-models"], []), (["all-proxy-models"], []), (["command-a"], ["command-a"])):
        assert api.new(models=words)["models"] == expected


def test_numbers_may_be_texts(api: Management) -> None:
    """As LiteLLM's documentation writes the budget of a model."""
    models = {"command-a": {"budget_limit": "0.0000001", "time_period": "1d"}}
    key = api.new(
        rpm_limit="10", max_budget="2.5", blocked="false", model_rpm_limit={"m": "3"}, model_max_budget=models
    )
    assert (key["rpm_limit"], key["max_budget"], key["model_rpm_limit"]) == (10, 2.5, {"m": 3})
    assert key["model_max_budget"]["command-a"]["budget_limit"] == 1e-7


@pytest.mark.parametrize("path", ["/user/new", "/budget/new", "/project/new", "/key/health", "/team/member_add"])
def test_what_is_not_there_of_litellms_says_what_is(api: Management, path: str) -> None:
    response = api.ask(path, {})
    assert (response.status, response.error["code"]) == (400, "unsupported_operation")
    assert "/key/..., /team/..." in response.error["message"]
    assert api.ask(path, {}, "sk-" + "x" * 43).status == 401
    assert api.ask("/key/generate").status == 405


def test_names_are_taken_once(api: Management) -> None:
    alias = unique("taken")
    new_key = api.new(key_alias=alias)
    for path, body, param in (
        ("/key/generate", {"key_alias": alias}, "key_alias"),
        ("/key/generate", {"key": new_key["key"]}, "key"),
        ("/key/update", {"key": api.new()["key"], "key_alias": alias}, "key_alias"),
        ("/key/regenerate", {"key": api.new()["key"], "new_key": new_key["key"]}, "new_key"),
    ):
        response = api.ask(path, body)
        assert (response.status, response.error["code"], response.error["param"]) == (400, "already_exists", param)


def test_a_key_is_changed_by_its_alias(api: Management) -> None:
    alias = unique("by-alias")
    new_key = api.new(key_alias=alias, rpm_limit=3, duration="1h")
    changed = api.done("/key/update", {"key_alias": alias, "rpm_limit": 7})
    assert (changed["key"], changed["rpm_limit"]) == (alias, 7)
    renamed = unique("by-alias")
    api.done("/key/update", {"key": new_key["key"], "key_alias": renamed, "duration": "-1"})
    info = api.info(renamed)
    assert (info["rpm_limit"], info["key_alias"], info["expires"]) == (7, renamed, None)
    response = api.ask("/key/update", {"key_alias": alias, "rpm_limit": 9})
    assert (response.status, response.error["param"]) == (404, "key_alias")


@pytest.mark.parametrize("team", ["nobody", "deleted"])
def test_no_key_gets_a_team_that_is_not_there(api: Management, team: str) -> None:
    """Its calls would all be refused: the team bounds them."""
    if team == "deleted":
        team = api.done("/team/new", {})["team_id"]
        api.done("/team/delete", {"team_ids": [team]})
    new_key = api.new()
    for path, body in (
        ("/key/generate", {}),
        ("/key/update", {"key": new_key["key"]}),
        ("/key/regenerate", {"key": new_key["key"]}),
        (f"/key/{new_key['key_id']}/regenerate", {}),
    ):
        response = api.ask(path, {**body, "team_id": team})
        assert (response.status, response.error["code"]) == (404, "team_not_found"), path
        assert response.error["param"] == "team_id"
    info = api.info(new_key["key_id"])
    assert (info["team_id"], info["rotation_count"]) == (None, 0)
    assert api.ask("/v1/models", key=new_key["key"]).status == 200


def test_a_key_that_is_named_twice_is_deleted_once(api: Management) -> None:
    alias = unique("twice")
    new_key = api.new(key_alias=alias)
    names = {"keys": [new_key["key"], new_key["key_id"]], "key_aliases": [alias]}
    assert api.ask("/key/delete", {"keys": None, "key_aliases": ["nobody"]}).error["param"] == "key_aliases[0]"
    wrong = api.ask("/key/delete", {**names, "key_aliases": [alias, "nobody"]})
    assert (wrong.status, wrong.error["param"]) == (404, "key_aliases[1]")
    assert api.done("/key/delete", names) == {"deleted_keys": [new_key["key"], new_key["key_id"], alias]}
    assert [change.action for change in api.changes(new_key["key_id"])] == ["created", "deleted"]


def test_a_key_that_is_not_there_is_not_shown(api: Management) -> None:
    team = api.done("/team/new", {"team_alias": unique("shown")})
    new_key = api.new(team_id=team["team_id"], key_alias=unique("shown"))
    assert api.info(new_key["key"])["team_alias"] == team["team_alias"]
    assert api.ask("/key/info?key=nobody").status == 404
    own = api.done("/key/info", key=new_key["key"])
    assert (own["key"], own["info"]["team_alias"]) == (new_key["token"], team["team_alias"])
    assert api.ask("/key/info?key=" + new_key["token"], key=new_key["key"]).status == 200, "their own, by any name"
    assert api.ask("/v2/key/info", {}).error["param"] == "keys"
    several = api.done("/v2/key/info", {"keys": [new_key["token"], "nobody"], "key_aliases": [new_key["key_alias"]]})
    assert [one["key_alias"] for one in several["info"]] == [new_key["key_alias"]] * 2


def test_every_field_has_one_verdict_and_a_reason() -> None:
    for table in (KEY_NEW, TEAM_NEW, END_USER_NEW):
        for row in table.rows.values():
            assert row.why and (row.verdict is not Verdict.HONOURED) == (row.check is None and row.type is Any)


# The fields of LiteLLM's own types of requests, release 1.110.2.
KEY_FIELDS = (
    "access_group_ids agent_id aliases allowed_cache_controls allowed_passthrough_routes allowed_routes "
    "allowed_vector_store_indexes auto_rotate blocked budget_duration budget_fallbacks budget_id "
    "budget_limits config default_estimated_output_tokens default_estimated_output_tokens_per_model "
    "denied_passthrough_routes disable_global_guardrails duration enable_prompt_caching end_user_budget_id "
    "enforced_params guardrails key key_alias key_type max_budget max_parallel_requests mcp_rpm_limit "
    "metadata model_max_budget model_rpm_limit model_tpm_limit models object_permission organization_id "
    "permissions policies project_id prompts rotation_interval router_settings rpm_limit rpm_limit_type "
    "send_invite_email soft_budget spend tag_rpm_limit tags team_id throttle_on_budget_exceeded tpd_limit "
    "tpm_limit tpm_limit_type user_id "
).split()
UPDATE_FIELDS = "temp_budget_expiry temp_budget_increase".split()
ROTATE_FIELDS = "grace_period new_key new_master_key".split()
TEAM_FIELDS = (
    "access_group_ids admins allowed_passthrough_routes allowed_vector_store_indexes blocked budget_duration "
    "budget_limits default_estimated_output_tokens default_estimated_output_tokens_per_model "
    "default_team_member_models denied_passthrough_routes disable_global_guardrails "
    "enforced_batch_output_expires_after enforced_file_expires_after guardrails max_budget mcp_rpm_limit "
    "members members_with_roles metadata model_aliases model_max_budget model_rpm_limit model_tpm_limit "
    "models object_permission organization_id policies prompts require_trace_id router_settings rpm_limit "
    "rpm_limit_type secret_manager_settings soft_budget tags team_alias team_id team_member_budget "
    "team_member_budget_duration team_member_key_duration team_member_model_max_budget "
    "team_member_permissions team_member_rpm_limit team_member_tpm_limit tpd_limit tpm_limit tpm_limit_type "
).split()
CUSTOMER_FIELDS = (
    "alias allowed_model_region blocked budget_duration budget_id budget_reset_at default_model max_budget "
    "max_parallel_requests model_max_budget models object_permission rpm_limit soft_budget spend tpd_limit "
    "tpm_limit user_id "
).split()


def test_every_field_of_litellms_has_a_verdict() -> None:
    for table, names in (
        (fields.KEY_NEW, KEY_FIELDS),
        (fields.KEY_UPDATE, KEY_FIELDS + UPDATE_FIELDS),
        (fields.KEY_ROTATE, KEY_FIELDS + ROTATE_FIELDS),
        (fields.TEAM_NEW, TEAM_FIELDS),
        (fields.END_USER_NEW, CUSTOMER_FIELDS),
    ):
        assert not [name for name in names if name not in table.rows and name not in table.synonyms]


# --- merges ---------------------------------------------------------------------------------------------------

VALUES: dict[str, list[Any]] = {
    "rpm_limit": [0, 7, None],
    "max_budget": [0.5, 20.0, None],
    "budget_duration": ["1d", "1mo", None],
    "models": [["command-*"], [], None],
    "permissions": ["none", {"chat": "full"}, {"embed": "full", "v2.chat": "off"}, {}, None],
    "metadata": [{"a": 1}, {"b": {"c": []}}, {}, None],
    "tags": [["a", "b"], [], None],
    "blocked": [True, False, None],
    "user_id": ["ada", None],
    "safety_mode": ["STRICT", None],
    "model_max_budget": [{"command-a": {"budget_limit": 1.0, "time_period": "1d"}}, None],
}
CLEARED = {"models": [], "metadata": {}, "tags": [], "blocked": False, "model_max_budget": {}}
update_bodies = st.dictionaries(st.sampled_from(sorted(VALUES)), st.integers(0, 4), max_size=6).map(
    lambda picks: {name: VALUES[name][number % len(VALUES[name])] for name, number in picks.items()}
)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(bodies=st.lists(update_bodies, min_size=1, max_size=4))
def test_an_update_keeps_what_it_leaves_out(api: Management, bodies: list[dict[str, Any]]) -> None:
    new_key = api.new()
    expected = api.info(new_key["key_id"])
    for body in bodies:
        answer = api.done("/key/update", {"key": new_key["key_id"], **body})
        changed = {name: CLEARED.get(name) if value is None else value for name, value in body.items()}
        assert {name: answer[name] for name in body} == changed
        expected |= changed
        answer = api.info(new_key["key_id"])
        same = answer.keys() - {"updated_at", "settings_updated_at", "status", "budget_reset_at"}
        assert {name: answer[name] for name in same} == {name: expected[name] for name in same}
    trail = api.changes(new_key["key_id"])
    assert [change.action for change in trail] == ["created", *["updated"] * len(bodies)]
    assert all(later.before == earlier.after for earlier, later in itertools.pairwise(trail))


def test_two_updates_at_once_are_one_after_the_other(api: Management) -> None:
    """Fields that both name are one's and whole; fields that only one names are kept from it."""
    new_key = api.new()
    common = [
        {"metadata": {"writer": writer}, "tags": [writer], "max_budget": 1.0 + number}
        for number, writer in enumerate("ab")
    ]
    bodies = [common[0] | {"rpm_limit": 1}, common[1] | {"tpm_limit": 2}]
    for _ in range(5):
        barrier = threading.Barrier(2)

        def update(body: dict[str, Any], together: threading.Barrier = barrier) -> None:
            together.wait(WAIT_SECONDS)
            api.done("/key/update", {"key": new_key["key_id"], **body})

        threads = [threading.Thread(target=update, args=(body,)) for body in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        answer = api.info(new_key["key_id"])
        assert {name: answer[name] for name in common[0]} in common
        assert (answer["rpm_limit"], answer["tpm_limit"]) == (1, 2)
    trail = api.changes(new_key["key_id"])
    assert len(trail) == 11 and all(later.before == earlier.after for earlier, later in itertools.pairwise(trail))


# --- the audit, and what fails ----------------------------------------------------------------------------------


def test_every_change_leaves_a_row_without_secrets(api: Management) -> None:
    own_secret = "sk-" + unique("a-canary-in-the-audit-0000")
    new_key = api.new(key=own_secret, key_alias=unique("audited"))
    api.done(
        "/key/update",
        {"key": own_secret, "rpm_limit": 5},
        **{"litellm-changed-by": "Adélaïde".encode().decode("latin-1")},
    )
    second = api.done("/key/regenerate", {"key": own_secret})
    api.done("/key/delete", {"keys": [new_key["key_id"]]})
    trail = api.changes(new_key["key_id"])
    assert [change.action for change in trail] == ["created", "updated", "rotated", "deleted"]
    assert [change.author for change in trail] == ["master", "master for Adélaïde", "master", "master"]
    assert {(change.kind, change.address) for change in trail} == {("key", "127.0.0.1")}
    assert trail[0].before is None and json.loads(trail[1].after or b"")["rpm_limit"] == 5
    written = b"".join(part for change in trail for part in (change.before, change.after) if part)
    for secret in (own_secret, second["key"], new_key["token"], second["token"]):
        assert secret.encode() not in written


def test_no_secret_is_logged_or_stored(api: Management) -> None:
    first_secret, own_secret = ("sk-" + unique("a-canary-in-many-places-0") for _ in range(2))
    api.done("/key/generate", {"key": first_secret})
    api.done("/key/regenerate", {"key": first_secret, "new_key": own_secret})
    api.done(f"/key/info?key={own_secret}")
    answered = [
        api.ask(f"/key/{own_secret}/regenerate", {"rpm_limit": -1}),
        api.ask(f"/key/{own_secret}/nothing", {}),
        api.ask("/key/generate", {own_secret: 1, "key": own_secret}),
        api.ask("/key/block", {"key": own_secret + "-not-there"}),
        api.ask("/key/update", {"key": own_secret, "key_alias": own_secret}),
    ]
    assert [response.status for response in answered] == [400, 400, 400, 404, 400]
    for response in answered:
        api.gateway.log.line_of(response.headers["x-request-id"])
    for secret in (first_secret, own_secret):
        most = secret[4:-4].encode()  # the last characters are kept, to tell keys apart
        assert most not in api.gateway.log.getvalue()
        if api.kind == "sqlite":
            files = Path(api.url.removeprefix("sqlite:///")).parent.glob("*")
            assert not any(most in file.read_bytes() for file in files)


def test_nothing_is_half_written_when_the_database_fails(api: Management) -> None:
    """The audit's row is the last thing that a change writes: here it cannot be."""
    new_key, user = api.new(), unique("user")
    team = api.done("/team/new", {})["team_id"]
    before = api.info(new_key["key_id"])

    def rename(old: str, new: str) -> None:
        api.run(lambda connection: connection.execute(text(f"ALTER TABLE {old} RENAME TO {new}")))

    rename("key_changes", "key_changes_away")
    try:
        for path, body in (
            ("/key/generate", {"user_id": user}),
            ("/key/update", {"key": new_key["key"], "rpm_limit": 1}),
            ("/key/regenerate", {"key": new_key["key"]}),
            ("/key/delete", {"keys": [new_key["key"]]}),
            ("/key/block", {"key": new_key["key"]}),
            ("/team/update", {"team_id": team, "max_budget": 1}),
            ("/customer/block", {"user_ids": [user]}),
        ):
            response = api.ask(path, body)
            assert (response.status, response.error["code"]) == (503, "storage_unavailable"), (path, response)
            assert "nothing was changed" in response.error["message"] and b"sk-" not in response.data
    finally:
        rename("key_changes_away", "key_changes")
    assert api.info(new_key["key_id"]) == before
    assert api.ask("/v1/models", key=new_key["key"]).status == 200
    assert api.done(f"/key/list?user_id={user}")["total_count"] == 0
    assert api.ask(f"/customer/info?end_user_id={user}").status == 404
    assert api.done(f"/team/info?team_id={team}")["team_info"]["max_budget"] is None
    assert [change.action for change in api.changes(new_key["key_id"])] == ["created"]


def test_a_block_is_called_so_in_the_audit(api: Management) -> None:
    new_key, team, user = api.new(), api.done("/team/new", {})["team_id"], unique("user")
    for action in ("block", "unblock"):
        api.done(f"/key/{action}", {"key": new_key["key"]})
        api.done(f"/team/{action}", {"team_id": team})
        api.done(f"/customer/{action}", {"user_ids": [user, user]})
    for id, first in ((new_key["key_id"], ["created", "blocked"]), (team, ["created", "blocked"]), (user, ["created"])):
        assert [change.action for change in api.changes(id)] == [*first, "unblocked"]


def test_what_was_spent_is_shown(api: Management) -> None:
    team, user = api.done("/team/new", {})["team_id"], unique("user")
    new_key = api.new(team_id=team)
    api.done("/customer/new", {"user_id": user})
    assert new_key["spend"] == 0.0
    messages = [{"role": "user", "content": "Hello"}]
    api.done("/v1/chat/completions", {"model": A, "messages": messages, "user": user}, new_key["key"])
    deadline = time.monotonic() + WAIT_SECONDS
    while not api.info(new_key["key_id"])["spend"] and time.monotonic() < deadline:
        time.sleep(0.05)
    spend = api.info(new_key["key_id"])["spend"]
    assert 0 < spend < 0.1, api.gateway.log.lines[-30:]
    assert api.info(new_key["key_id"])["model_spend"] == {A: spend}
    assert api.done(f"/team/info?team_id={team}")["team_info"]["model_spend"] == {A: spend}
    assert api.done(f"/team/info?team_id={team}")["team_info"]["spend"] == spend
    assert [key["spend"] for key in api.done(f"/team/info?team_id={team}")["keys"]] == [spend]
    assert {one["team_id"]: one["spend"] for one in api.done("/team/list")}[team] == spend
    assert api.done(f"/customer/info?end_user_id={user}")["spend"] == spend
    assert api.done("/key/regenerate", {"key": new_key["key_id"]})["spend"] == spend


def test_a_page_of_teams(api: Management) -> None:
    alias = unique("paged")
    ids = [api.done("/team/new", {"team_alias": alias})["team_id"] for _ in range(3)]
    page = api.done(f"/v2/team/list?team_alias={alias}&page=2&page_size=2&sort_by=team_id&sort_order=asc")
    assert {name: page[name] for name in ("total", "page", "page_size", "total_pages")} == {
        "total": 3,
        "page": 2,
        "page_size": 2,
        "total_pages": 2,
    }
    assert [team["team_id"] for team in page["teams"]] == sorted(ids)[2:]
    assert api.done(f"/v2/team/list?team_id={ids[0]}")["teams"] == [
        api.done(f"/team/info?team_id={ids[0]}")["team_info"]
    ]
    for query, param in (("page_size=0", "page_size"), ("sort_by=spend", "sort_by"), ("user_id=x", "user_id")):
        assert api.ask(f"/v2/team/list?{query}").error["param"] == param


def test_a_list_that_is_cut_says_so(api: Management, monkeypatch: pytest.MonkeyPatch) -> None:
    team = api.done("/team/new", {"team_id": unique("large")})["team_id"]
    for _ in range(2):
        api.new(team_id=team)
        api.done("/team/new", {})
        api.done("/customer/new", {"user_id": unique("user")})
    lists = (
        (teams, "MOST_KEYS", f"/team/info?team_id={team}", "keys: the newest 1 of 2"),
        (teams, "MOST_TEAMS", "/team/list", "the newest 1 of "),
        (end_users, "MOST_END_USERS", "/customer/list", "the newest 1 of "),
    )
    for module, name, path, words in lists:
        assert "x-gateway-notes" not in api.ask(path).headers
        monkeypatch.setattr(module, name, 1)
        answer = api.ask(path)
        assert words in answer.headers["x-gateway-notes"]
        assert len(answer.body["keys"] if isinstance(answer.body, dict) else answer.body) == 1


def test_when_a_budget_begins_anew(api: Management) -> None:
    """`budget_reset_at` is the end of the window that the budget is counted in."""
    limits = {"budget_duration": "1d", "max_budget": 1, "budget_limits": [{"budget_duration": "1mo", "max_budget": 9}]}
    team, user = api.done("/team/new", limits)["team_id"], unique("user")
    new_key = api.new(**limits)
    api.done("/customer/new", {"user_id": user, "max_budget": 1, "budget_duration": "1d"})
    now = datetime.now(UTC)
    tomorrow = (now + timedelta(days=1)).strftime("%Y-%m-%dT00:00:00.000Z")
    month = (now.replace(day=1) + timedelta(days=32)).strftime("%Y-%m-01T00:00:00.000Z")
    for answer in (
        new_key,
        api.info(new_key["key_id"]),
        api.done(f"/team/info?team_id={team}")["team_info"],
        api.done(f"/customer/info?end_user_id={user}"),
    ):
        if datetime.now(UTC).date() == now.date():  # else midnight passed in between
            assert answer["budget_reset_at"] == tomorrow
            if "key_id" in answer:
                assert [(one["budget_duration"], one["reset_at"]) for one in answer["budget_limits"]] == [
                    ("1mo", month)
                ]
    assert api.new()["budget_reset_at"] is None


def test_of_several_all_are_deleted_or_none(api: Management) -> None:
    first, second = api.new(), api.new()
    response = api.ask("/key/delete", {"keys": [first["key"], "sk-" + "0" * 43, second["key"]]})
    assert (response.status, response.error["param"]) == (404, "keys[1]")
    assert [api.ask("/v1/models", key=one["key"]).status for one in (first, second)] == [200, 200]
    api.done("/key/delete", {"keys": [first["key"], first["token"], second["key"]]})
    assert [api.ask("/v1/models", key=one["key"]).status for one in (first, second)] == [401, 401]
