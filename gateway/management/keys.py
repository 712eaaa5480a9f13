"""Changes and lists of keys. Each function checks a request, and returns what is then done in one transaction.

A KEY is named by its secret, its digest, its id or its alias. Whatever is wrong with a request is said before anything
is written, and what fails in a transaction leaves nothing behind.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway import durations
from gateway.management import answers, fields
from gateway.management.authority import (
    require_key_change,
    require_reader,
    require_role_giver,
    require_writer,
)
from gateway.management.paging import Filters, page_of
from gateway.management.request import KEY, TEAM, ManagementRequest, Work, missing, name_taken
from gateway.store import keys
from gateway.store.errors import NameTaken
from gateway.store.key_lists import SORTS, Connection, KeyFilter, key_conditions, ordered
from gateway.virtual_keys import PREFIX, Team, VirtualKey, digest_of, new_key_id, new_secret
from translators.core.errors import InvalidField

# As many as LiteLLM shows: `sk-...abcd`.
LAST = 4
"""Characters of a secret that are kept."""


# --- changes --------------------------------------------------------------------------------------------------


def generate(request: ManagementRequest) -> Work:
    """Serves /key/generate."""
    require_writer(request.actor)
    values = fields.KEY_NEW.read(request.body, request.notes)
    require_role_giver(request.actor, values)
    # Taken out of the values: only its digest and its last characters are stored.
    secret = _free_secret(request, values.pop("secret", None)) or new_secret()
    # Made before the transaction, so that a transaction that is repeated stores the same key, whose secret is already
    # known.
    record = VirtualKey(
        key_id=new_key_id(), digest=digest_of(secret), last_four=secret[-LAST:], **_stored(request, values)
    )

    def work(connection: Connection) -> dict[str, Any]:
        _require_team(connection, record.team_id)
        try:
            (key,) = keys.insert(connection, [record], request.actor.changed_by, request.now)
        except NameTaken as error:
            raise _name_taken(error) from error
        return answers.generated_key(key, secret, request.now)

    return work


def update(request: ManagementRequest) -> Work:
    """Serves /key/update: what is left out stays, null clears."""
    require_writer(request.actor)
    values = fields.KEY_UPDATE.read(request.body, request.notes)
    reference, param = values.pop("key", None), "key"
    if reference is None:
        reference, param = values.pop("key_alias", None), "key_alias"
    if reference is None:
        raise InvalidField("key", "Missing required parameter: 'key'", "missing_required_parameter")
    changes = _stored(request, values)

    def work(connection: Connection) -> dict[str, Any]:
        key = _find(connection, reference, param)
        # Inside of the transaction: the role may have been given a moment ago.
        require_key_change(request.actor, key, changes)
        _require_team(connection, changes.get("team_id"))
        try:
            changed = keys.update(connection, VirtualKey, key.key_id, changes, request.actor.changed_by, request.now)
        except NameTaken as error:
            raise _name_taken(error) from error
        return answers.updated_key(reference, _present(changed, param), changes, request.now)

    return work


def rotate(request: ManagementRequest) -> Work:
    """Serves /key/regenerate, /key/{key}/regenerate: another secret. The old one lasts as long as `grace_period`."""
    require_writer(request.actor)
    values = fields.KEY_ROTATE.read(request.body, request.notes)
    # Taken out in any case, as it is no field of a record.
    in_body = values.pop("key", None)
    reference = request.path.get("key") or in_body
    if reference is None:
        raise InvalidField("key", "Missing required parameter: 'key'", "missing_required_parameter")
    secret = _free_secret(request, values.pop("new_key", None), "new_key") or new_secret()
    grace = values.pop("grace_period", None)
    # Without a grace period the old secret ends with this transaction: the key may have leaked.
    until = durations.after(request.now, grace) if grace else None
    changes = _stored(request, values)

    def work(connection: Connection) -> dict[str, Any]:
        key = _find(connection, reference, "key")
        require_key_change(request.actor, key, changes)
        _require_team(connection, changes.get("team_id"))
        by, now = request.actor.changed_by, request.now
        try:
            changed = keys.rotate(connection, key.key_id, digest_of(secret), secret[-LAST:], by, now, until, changes)
        except NameTaken as error:
            raise _name_taken(error, "new_key") from error
        return answers.generated_key(_present(changed, "key"), secret, now)

    return work


def delete(request: ManagementRequest) -> Work:
    """Serves /key/delete: all that are named, or none."""
    require_writer(request.actor)
    values = fields.KEY_NAMES.read(request.body, request.notes)
    named = [(f"{name}[{number}]", one) for name in values for number, one in enumerate(values[name] or ())]
    if not named:
        raise InvalidField("keys", "Missing required parameter: 'keys', or 'key_aliases'", "missing_required_parameter")

    def work(connection: Connection) -> dict[str, Any]:
        keys_by_id = {}
        for param, reference in named:
            key = _find(connection, reference, param)
            require_key_change(request.actor, key, {})
            keys_by_id[key.key_id] = key
        # Each once, although a request may name it twice; and only after all were found, so that a wrong name deletes
        # nothing.
        for key_id in keys_by_id:
            keys.delete(connection, VirtualKey, key_id, request.actor.changed_by, request.now)
        return {"deleted_keys": [reference for _, reference in named]}

    return work


def block(request: ManagementRequest) -> Work:
    """Serves /key/block."""
    return _set_blocked(request, True)


def unblock(request: ManagementRequest) -> Work:
    """Serves /key/unblock."""
    return _set_blocked(request, False)


def _set_blocked(request: ManagementRequest, blocked: bool) -> Work:
    require_writer(request.actor)
    reference = fields.KEY_NAME.read(request.body, request.notes).get("key")
    if reference is None:
        raise InvalidField("key", "Missing required parameter: 'key'", "missing_required_parameter")

    def work(connection: Connection) -> dict[str, Any]:
        key = _find(connection, reference, "key")
        require_key_change(request.actor, key, {})
        by = request.actor.changed_by
        action = "blocked" if blocked else "unblocked"
        changed = keys.update(connection, VirtualKey, key.key_id, {"blocked": blocked}, by, request.now, action)
        return answers.key_info(_present(changed, "key"), request.now, token=True)

    return work


# --- lists ----------------------------------------------------------------------------------------------------


def info(request: ManagementRequest) -> Work:
    """Serves /key/info: the key of the query, or the caller's own."""
    actor, reference = request.actor, Filters(request, "key").text("key")
    if not reference and not actor.key_id:
        sentence = "Name a key: /key/info?key=...; tokens and the master key have no record of their own"
        raise InvalidField("key", sentence, "missing_required_parameter")

    def work(connection: Connection) -> dict[str, Any]:
        key = find(connection, reference) if reference else keys.get(connection, VirtualKey, actor.key_id)
        if key is None or key.key_id != actor.key_id:
            require_reader(actor)  # before saying whether there is such a key
        key = _present(key, "key")
        team = keys.get(connection, Team, key.team_id) if key.team_id is not None else None
        # Its holder may not list teams, and is shown what theirs is called.
        return {
            "key": reference or key.digest,
            "info": {**answers.key_info(key, request.now), "team_alias": team.team_alias if team is not None else None},
        }

    return work


def infos(request: ManagementRequest) -> Work:
    """Serves /v2/key/info: several keys; those that are not there are left out."""
    require_reader(request.actor)
    values = fields.KEY_NAMES.read(request.body, request.notes)
    references = [*(values.get("keys") or ()), *(values.get("key_aliases") or ())]
    if not references:
        raise InvalidField("keys", "Missing required parameter: 'keys'", "missing_required_parameter")

    def work(connection: Connection) -> dict[str, Any]:
        records = [key for reference in references if (key := find(connection, reference)) is not None]
        return {"key": references, "info": key_infos(records, request.now)}

    return work


_STATUSES = ("active", "expired", "revoked", "deleted")
_UNSUPPORTED = ("organization_id", "project_id")
_WITHOUT_EFFECT = ("expand", "include_team_keys", "include_created_by_keys")

FILTERS = (
    *("page", "size", "sort_by", "sort_order", "status", "expires", "user_id", "team_id", "key_alias", "key_hash"),
    *("search", "substring_matching", "return_full_object", *_UNSUPPORTED, *_WITHOUT_EFFECT),
)
"""The query of a list of keys."""


def list_keys(request: ManagementRequest) -> Work:
    """Serves /key/list: digests (ids of deleted keys), or whole keys with `return_full_object`."""
    require_reader(request.actor)
    filters = Filters(request, *FILTERS)
    for name in _UNSUPPORTED:
        if filters.text(name):
            raise InvalidField(name, f"'{name}' is not kept, so no list can be made by it", "unsupported_value")
    digest = filters.text("key_hash")
    wanted = KeyFilter(
        filters.choice("status", _STATUSES, "") or filters.choice("expires", ("active", "expired"), ""),
        filters.text("user_id"),
        filters.text("team_id"),
        filters.text("key_alias"),
        filters.flag("substring_matching"),
        filters.text("search"),
        digest_of(digest) if digest.startswith(PREFIX) else digest,
    )
    whole, (number, size) = filters.flag("return_full_object"), filters.page()
    sort = filters.choice("sort_by", tuple(SORTS), "created_at")
    descending = filters.choice("sort_order", ("asc", "desc"), "desc") == "desc"

    def work(connection: Connection) -> dict[str, Any]:
        conditions, start = key_conditions(wanted, request.now), (number - 1) * size
        page = keys.list_records(connection, VirtualKey, conditions, start, size, ordered(SORTS[sort], descending))
        # A deleted key has no digest any more. By its id the ledger goes on naming it.
        names = [key.digest or key.key_id for key in page.records]
        rows = key_infos(page.records, request.now) if whole else names
        return {"keys": rows, **page_of(page.total, number, size)}

    return work


# --- one key --------------------------------------------------------------------------------------------------


def find(connection: Connection, reference: str) -> VirtualKey | None:
    """Returns the key that a secret, a digest, an id or an alias means."""
    # A secret is digested before it reaches the database, and so never stands in a statement or its log.
    return keys.find(connection, VirtualKey, digest_of(reference) if reference.startswith(PREFIX) else reference)


def key_infos(records: Sequence[VirtualKey], now: float) -> list[dict[str, Any]]:
    """Returns keys as lists show them."""
    return [answers.key_info(key, now, token=True) for key in records]


def _find(connection: Connection, reference: str, param: str) -> VirtualKey:
    return _present(find(connection, reference), param)


def _present(key: VirtualKey | None, param: str) -> VirtualKey:
    if key is None:
        raise missing(KEY, param)
    return key


def _require_team(connection: Connection, team_id: str | None) -> None:
    """Raises CallerError (404) for a team that there is not: its keys would be refused."""
    if team_id is not None and keys.get(connection, Team, team_id) is None:
        raise missing(TEAM, "team_id")


def _free_secret(request: ManagementRequest, secret: str | None, param: str = "key") -> str | None:
    """Raises CallerError for a secret that is the gateway's own."""
    # Authentication would take it for the master key.
    if secret is not None and request.reserved(secret):
        raise name_taken(param, "it is a key of the gateway itself")
    return secret


def _stored(request: ManagementRequest, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a record: a duration becomes the moment at which the key expires."""
    stored = dict(values)
    if "duration" in stored:
        duration = stored.pop("duration")
        stored["expires"] = durations.after(request.now, duration) if duration else None
    return stored


def _name_taken(error: NameTaken, secret: str = "key") -> Exception:
    param = secret if error.field == "key" else error.field
    return name_taken(param, "another key has it")
