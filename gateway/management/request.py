"""A request to the management: who asks, for what, and the errors that are its answer."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from msgspec import Struct

from gateway.errors import CallerError, failure
from gateway.store.key_lists import Connection
from gateway.store.keys import ChangedBy
from translators.core.notes import Notes

Work = Callable[[Connection], Any]
"""What is done in one transaction. Returns the answer, as it is encoded."""


class Actor(Struct, frozen=True):
    """Who asks. name: for the audit. address: from where. key_id, team_id: of their own key, if they have one."""

    name: str
    role: Literal["", "viewer", "admin", "master"]
    address: str = ""
    key_id: str = ""
    team_id: str = ""

    @property
    def changed_by(self) -> ChangedBy:
        return ChangedBy(self.name, self.address)


class ManagementRequest(Struct, frozen=True):
    """body: JSON, perhaps empty. query, path: by name, decoded. now: Unix seconds.

    reserved: tells whether a secret is taken by the gateway itself, as the master key is.
    """

    actor: Actor
    now: float
    notes: Notes
    body: bytes = b""
    query: Mapping[str, str] = {}
    path: Mapping[str, str] = {}
    reserved: Callable[[str], bool] = lambda secret: False


KEY, TEAM, END_USER = "key", "team", "end_user"
"""Kinds of records, as errors name them."""

_MISSING = {KEY: "Key not found in database", TEAM: "Team not found in database", END_USER: "End user not found"}


def missing(kind: str, param: str | None = None) -> CallerError:
    """Returns the 404 for a record that is not there, in LiteLLM's words. It repeats nothing: it might be a secret."""
    reported = failure(f"no_{kind}", _MISSING[kind])
    return CallerError(reported.at(param) if param else reported)


def name_taken(param: str, what: str) -> CallerError:
    """Returns the error for a name that another record has."""
    return CallerError(failure("name_taken", f"'{param}' is taken: {what}").at(param))
