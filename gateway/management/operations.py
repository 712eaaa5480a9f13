"""THE TABLE OF MANAGEMENT: paths and verbs of LiteLLM's, and what is done there.

`gateway/endpoints/management.py` serves the rows, and the command line runs them, over HTTP or on the database itself.
"""

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from gateway.management import end_users, fields, keys, teams
from gateway.management.field_table import FieldTable
from gateway.management.request import ManagementRequest, Work


class ManagementOperation(Struct, frozen=True):
    """A row. name: in log and metrics. paths: the first is ours, the others are further names of it.

    does: for the documents. plan: checks a request and returns what is done in a transaction. table: the fields of the
    body; None without one. query: the parameters of the query.
    """

    name: str
    verb: Literal["GET", "POST"]
    paths: tuple[str, ...]
    does: str
    plan: Callable[[ManagementRequest], Work]
    table: FieldTable | None = None
    query: tuple[str, ...] = ()

    @property
    def writes(self) -> bool:
        # LiteLLM reads several keys with a POST, whose body names them.
        return self.verb == "POST" and self.name != "keys_info"


def _end_user(action: str) -> tuple[str, ...]:
    # LiteLLM has both names for them.
    return f"/customer/{action}", f"/end_user/{action}"


OPERATIONS: tuple[ManagementOperation, ...] = (
    ManagementOperation(
        "key_generate", "POST", ("/key/generate",), "makes a key; `{}` is enough", keys.generate, fields.KEY_NEW
    ),
    ManagementOperation(
        "key_update", "POST", ("/key/update",), "changes the fields that are sent", keys.update, fields.KEY_UPDATE
    ),
    ManagementOperation(
        "key_delete",
        "POST",
        ("/key/delete",),
        "deletes `keys` or `key_aliases`, all or none",
        keys.delete,
        fields.KEY_NAMES,
    ),
    ManagementOperation(
        "key_info", "GET", ("/key/info",), "a key, or without a query the caller's own", keys.info, query=("key",)
    ),
    ManagementOperation("keys_info", "POST", ("/v2/key/info",), "several keys", keys.infos, fields.KEY_NAMES),
    ManagementOperation(
        "key_list", "GET", ("/key/list",), "a page of keys: `page`, `size`, filters", keys.list_keys, query=keys.FILTERS
    ),
    ManagementOperation(
        "key_regenerate",
        "POST",
        ("/key/regenerate", "/key/{key}/regenerate"),
        "another secret; `grace_period` for the old one",
        keys.rotate,
        fields.KEY_ROTATE,
    ),
    ManagementOperation(
        "key_block", "POST", ("/key/block",), "refuses the key's requests", keys.block, fields.KEY_NAME
    ),
    ManagementOperation("key_unblock", "POST", ("/key/unblock",), "serves them again", keys.unblock, fields.KEY_NAME),
    ManagementOperation("team_new", "POST", ("/team/new",), "makes a team", teams.new, fields.TEAM_NEW),
    ManagementOperation(
        "team_update", "POST", ("/team/update",), "changes the fields that are sent", teams.update, fields.TEAM_UPDATE
    ),
    ManagementOperation(
        "team_delete",
        "POST",
        ("/team/delete",),
        "deletes `team_ids`, all or none; their keys are refused",
        teams.delete,
        fields.TEAM_NAMES,
    ),
    ManagementOperation("team_info", "GET", ("/team/info",), "a team and its keys", teams.info, query=("team_id",)),
    ManagementOperation(
        "team_list", "GET", ("/team/list",), "all teams", teams.list_teams, query=("team_id", "team_alias")
    ),
    ManagementOperation(
        "team_page",
        "GET",
        ("/v2/team/list",),
        "a page of teams: `page`, `page_size`",
        teams.list_page,
        query=teams.PAGE_FILTERS,
    ),
    ManagementOperation(
        "team_block", "POST", ("/team/block",), "refuses the requests of its keys", teams.block, fields.TEAM_NAME
    ),
    ManagementOperation(
        "team_unblock", "POST", ("/team/unblock",), "serves them again", teams.unblock, fields.TEAM_NAME
    ),
    ManagementOperation(
        "end_user_new", "POST", _end_user("new"), "records an end user, with limits", end_users.new, fields.END_USER_NEW
    ),
    ManagementOperation(
        "end_user_update",
        "POST",
        _end_user("update"),
        "changes the fields that are sent",
        end_users.update,
        fields.END_USER_UPDATE,
    ),
    ManagementOperation(
        "end_user_delete",
        "POST",
        _end_user("delete"),
        "deletes `user_ids`, all or none",
        end_users.delete,
        fields.END_USER_NAMES,
    ),
    ManagementOperation(
        "end_user_info", "GET", _end_user("info"), "an end user", end_users.info, query=("end_user_id", "user_id")
    ),
    ManagementOperation("end_user_list", "GET", _end_user("list"), "all that are recorded", end_users.list_end_users),
    ManagementOperation(
        "end_user_block",
        "POST",
        _end_user("block"),
        "refuses requests for `user_ids`",
        end_users.block,
        fields.END_USER_NAMES,
    ),
    ManagementOperation(
        "end_user_unblock", "POST", _end_user("unblock"), "serves them again", end_users.unblock, fields.END_USER_NAMES
    ),
)
