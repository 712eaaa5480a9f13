"""Changes and lists of teams. A TEAM is named by its id, or by an alias that no other team has."""

from typing import Any

from gateway.management import answers, fields
from gateway.management.authority import require_reader, require_team_change, require_writer
from gateway.management.keys import key_infos
from gateway.management.paging import Filters, page_of
from gateway.management.request import TEAM, ManagementRequest, Work, missing, name_taken
from gateway.store import keys
from gateway.store.errors import NameTaken
from gateway.store.key_lists import TEAM_SORTS, Connection, keys_of_team, ordered, team_conditions
from gateway.virtual_keys import Team, VirtualKey, new_team_id
from translators.core.errors import InvalidField

MOST_TEAMS = 10_000
"""Teams that a list shows."""

MOST_KEYS = 1_000
"""Keys of a team that are shown with it."""


def new(request: ManagementRequest) -> Work:
    """Serves /team/new."""
    require_writer(request.actor)
    values = fields.TEAM_NEW.read(request.body, request.notes)
    record = Team(**{**values, "team_id": values.get("team_id") or new_team_id()})

    def work(connection: Connection) -> dict[str, Any]:
        try:
            (team,) = keys.insert(connection, [record], request.actor.changed_by, request.now)
        except NameTaken as error:
            raise name_taken("team_id", "another team has it, or had it before it was deleted") from error
        return answers.team_info(team, request.now)

    return work


def update(request: ManagementRequest) -> Work:
    """Serves /team/update: what is left out stays, null clears."""
    require_writer(request.actor)
    changes = fields.TEAM_UPDATE.read(request.body, request.notes)
    reference = changes.pop("team_id", None)
    if reference is None:
        raise InvalidField("team_id", "Missing required parameter: 'team_id'", "missing_required_parameter")

    def work(connection: Connection) -> dict[str, Any]:
        team_id = _find(connection, reference, "team_id").team_id
        require_team_change(request.actor, team_id)
        changed = keys.update(connection, Team, team_id, changes, request.actor.changed_by, request.now)
        info = answers.team_info(_present(changed, "team_id"), request.now)
        return {"team_id": team_id, "data": info, **info}

    return work


def delete(request: ManagementRequest) -> Work:
    """Serves /team/delete: all that are named, or none. Their keys are refused from then on."""
    require_writer(request.actor)
    references = fields.TEAM_NAMES.read(request.body, request.notes).get("team_ids")
    if not references:
        raise InvalidField("team_ids", "Missing required parameter: 'team_ids'", "missing_required_parameter")

    def work(connection: Connection) -> dict[str, Any]:
        params = [f"team_ids[{number}]" for number in range(len(references))]
        # Each once, although a request may name it twice; a wrong name ends the transaction, and with it all of them.
        team_ids = {_find(connection, *named).team_id: None for named in zip(references, params, strict=True)}
        for team_id in team_ids:
            require_team_change(request.actor, team_id)
            keys.delete(connection, Team, team_id, request.actor.changed_by, request.now)
        return {"deleted_teams": list(references)}

    return work


def block(request: ManagementRequest) -> Work:
    """Serves /team/block."""
    return _set_blocked(request, True)


def unblock(request: ManagementRequest) -> Work:
    """Serves /team/unblock."""
    return _set_blocked(request, False)


def _set_blocked(request: ManagementRequest, blocked: bool) -> Work:
    require_writer(request.actor)
    reference = fields.TEAM_NAME.read(request.body, request.notes).get("team_id")
    if reference is None:
        raise InvalidField("team_id", "Missing required parameter: 'team_id'", "missing_required_parameter")

    def work(connection: Connection) -> dict[str, Any]:
        team_id = _find(connection, reference, "team_id").team_id
        require_team_change(request.actor, team_id)
        by = request.actor.changed_by
        action = "blocked" if blocked else "unblocked"
        changed = keys.update(connection, Team, team_id, {"blocked": blocked}, by, request.now, action)
        return answers.team_info(_present(changed, "team_id"), request.now)

    return work


def info(request: ManagementRequest) -> Work:
    """Serves /team/info: the team of the query, or the caller's own, with its keys."""
    # Only to refuse other parameters.
    Filters(request, "team_id")
    reference = request.query.get("team_id") or request.actor.team_id
    require_reader(request.actor)
    if not reference:
        raise InvalidField("team_id", "Name a team: /team/info?team_id=...", "missing_required_parameter")

    def work(connection: Connection) -> dict[str, Any]:
        team = _find(connection, reference, "team_id")
        page = keys.list_records(connection, VirtualKey, keys_of_team(team.team_id), 0, MOST_KEYS)
        if page.total > MOST_KEYS:
            request.notes.inform("keys", f"keys: the newest {MOST_KEYS} of {page.total}")
        rows = key_infos(page.records, request.now)
        return {"team_id": team.team_id, "team_info": answers.team_info(team, request.now), "keys": rows}

    return work


def list_teams(request: ManagementRequest) -> Work:
    """Serves /team/list: an array, the newest first."""
    require_reader(request.actor)
    filters = Filters(request, "team_id", "team_alias")
    conditions = team_conditions(filters.text("team_id"), filters.text("team_alias"))

    def work(connection: Connection) -> list[Any]:
        page = keys.list_records(connection, Team, conditions, 0, MOST_TEAMS)
        # An array has no place for a next page, so a note says that there are more.
        if page.total > MOST_TEAMS:
            request.notes.inform("list", f"the newest {MOST_TEAMS} of {page.total} teams")
        return [answers.team_info(team, request.now) for team in page.records]

    return work


PAGE_FILTERS = ("page", "page_size", "team_id", "team_alias", "sort_by", "sort_order")


def list_page(request: ManagementRequest) -> Work:
    """Serves /v2/team/list: a page of teams."""
    require_reader(request.actor)
    filters = Filters(request, *PAGE_FILTERS)
    conditions = team_conditions(filters.text("team_id"), filters.text("team_alias"))
    number, size = filters.page("page_size")
    sort = filters.choice("sort_by", tuple(TEAM_SORTS), "created_at")
    order = ordered(TEAM_SORTS[sort], filters.choice("sort_order", ("asc", "desc"), "desc") == "desc")

    def work(connection: Connection) -> dict[str, Any]:
        page = keys.list_records(connection, Team, conditions, (number - 1) * size, size, order)
        rows = [answers.team_info(team, request.now) for team in page.records]
        pages = page_of(page.total, number, size)["total_pages"]
        return {"teams": rows, "total": page.total, "page": number, "page_size": size, "total_pages": pages}

    return work


def _find(connection: Connection, reference: str, param: str) -> Team:
    return _present(keys.find(connection, Team, reference), param)


def _present(team: Team | None, param: str) -> Team:
    if team is None:
        raise missing(TEAM, param)
    return team
