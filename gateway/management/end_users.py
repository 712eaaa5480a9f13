"""Changes and lists of end users: those on whose behalf keys call, named by the id that requests give them."""

from typing import Any

from gateway.management import answers, fields
from gateway.management.authority import require_reader, require_writer
from gateway.management.paging import Filters
from gateway.management.request import END_USER, ManagementRequest, Work, missing, name_taken
from gateway.store import keys
from gateway.store.errors import NameTaken
from gateway.store.key_lists import Connection, end_user_conditions
from gateway.virtual_keys import EndUser
from translators.core.errors import InvalidField

MOST_END_USERS = 10_000
"""End users that a list shows."""


def new(request: ManagementRequest) -> Work:
    """Serves /customer/new."""
    require_writer(request.actor)
    values = fields.END_USER_NEW.read(request.body, request.notes)
    # Unlike a key or a team it has no id of ours: requests name it.
    record = EndUser(**{**values, "user_id": _required(values.get("user_id"), "user_id")})

    def work(connection: Connection) -> dict[str, Any]:
        try:
            (user,) = keys.insert(connection, [record], request.actor.changed_by, request.now)
        except NameTaken as error:
            raise name_taken("user_id", "this end user is there, or was before being deleted") from error
        return answers.end_user_info(user, request.now)

    return work


def update(request: ManagementRequest) -> Work:
    """Serves /customer/update: what is left out stays, null clears."""
    require_writer(request.actor)
    changes = fields.END_USER_UPDATE.read(request.body, request.notes)
    user_id = _required(changes.pop("user_id", None), "user_id")

    def work(connection: Connection) -> dict[str, Any]:
        changed = keys.update(connection, EndUser, user_id, changes, request.actor.changed_by, request.now)
        return answers.end_user_info(_present(changed, "user_id"), request.now)

    return work


def delete(request: ManagementRequest) -> Work:
    """Serves /customer/delete: all that are named, or none."""
    require_writer(request.actor)
    ids = _ids(request)

    def work(connection: Connection) -> dict[str, Any]:
        for user_id in dict.fromkeys(ids):
            by = request.actor.changed_by
            # A wrong id ends the transaction, and so brings back what was deleted before it.
            _present(keys.delete(connection, EndUser, user_id, by, request.now), _param(ids, user_id))
        return {"deleted_customers": len(ids), "message": f"Successfully deleted customers with ids: {', '.join(ids)}"}

    return work


def block(request: ManagementRequest) -> Work:
    """Serves /customer/block. An end user of whom nothing was recorded yet is recorded by it."""
    require_writer(request.actor)
    ids = _ids(request)

    def work(connection: Connection) -> dict[str, Any]:
        blocked = []
        for user_id in dict.fromkeys(ids):
            by, now = request.actor.changed_by, request.now
            user = keys.update(connection, EndUser, user_id, {"blocked": True}, by, now, "blocked")
            # Blocking has to hold for somebody of whom there is no record yet.
            if user is None:
                try:
                    (user,) = keys.insert(connection, [EndUser(user_id=user_id, blocked=True)], by, now)
                except NameTaken as error:
                    raise name_taken("user_ids", "one of them was deleted") from error
            blocked.append(answers.end_user_info(user, request.now))
        return {"blocked_users": blocked}

    return work


def unblock(request: ManagementRequest) -> Work:
    """Serves /customer/unblock."""
    require_writer(request.actor)
    ids = _ids(request)

    def work(connection: Connection) -> dict[str, Any]:
        users = []
        for user_id in dict.fromkeys(ids):
            by = request.actor.changed_by
            changed = keys.update(connection, EndUser, user_id, {"blocked": False}, by, request.now, "unblocked")
            users.append(answers.end_user_info(_present(changed, _param(ids, user_id)), request.now))
        return {"unblocked_users": users, "blocked_users": []}

    return work


def info(request: ManagementRequest) -> Work:
    """Serves /customer/info."""
    require_reader(request.actor)
    filters = Filters(request, "end_user_id", "user_id")
    user_id = _required(filters.text("end_user_id") or filters.text("user_id") or None, "end_user_id")

    def work(connection: Connection) -> dict[str, Any]:
        return answers.end_user_info(_present(keys.get(connection, EndUser, user_id), "end_user_id"), request.now)

    return work


def list_end_users(request: ManagementRequest) -> Work:
    """Serves /customer/list: an array, the newest first."""
    require_reader(request.actor)
    # Only to refuse parameters.
    Filters(request)

    def work(connection: Connection) -> list[Any]:
        page = keys.list_records(connection, EndUser, end_user_conditions(), 0, MOST_END_USERS)
        # An array has no place for a next page, so a note says that there are more.
        if page.total > MOST_END_USERS:
            request.notes.inform("list", f"the newest {MOST_END_USERS} of {page.total} end users")
        return [answers.end_user_info(user, request.now) for user in page.records]

    return work


def _ids(request: ManagementRequest) -> list[str]:
    ids: list[str] = _required(fields.END_USER_NAMES.read(request.body, request.notes).get("user_ids"), "user_ids")
    return ids


def _param(ids: list[str], user_id: str) -> str:
    """Returns the place of an id in the request, which may have named others several times before it."""
    return f"user_ids[{ids.index(user_id)}]"


def _required(value: Any, name: str) -> Any:
    if not value:
        raise InvalidField(name, f"Missing required parameter: '{name}'", "missing_required_parameter")
    return value


def _present(user: EndUser | None, param: str) -> EndUser:
    if user is None:
        raise missing(END_USER, param)
    return user
