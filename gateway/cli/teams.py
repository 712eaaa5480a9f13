"""`cohere-gateway teams`."""

from collections.abc import Mapping
from typing import Any

import click

from gateway.cli.command import Command, Group, json_option, wants_json
from gateway.cli.management import body_of, field_options, query_options, require_yes, run_operation, where_options
from gateway.cli.tables import print_answer, print_fields, print_json, print_rows
from gateway.management import fields

TEAM_HELP = "TEAM is an id, or an alias that no other team has."

COLUMNS: Mapping[str, str] = {
    "team_alias": "Alias",
    "team_id": "Id",
    "blocked": "Blocked",
    "models": "Models",
    "permissions": "Permissions",
    "max_budget": "Budget",
    "budget_duration": "Window",
    "rpm_limit": "RPM",
    "tpm_limit": "TPM",
    "created_at": "Created",
}


@click.group("teams", cls=Group, example="cohere-gateway teams list", help="Makes, shows and changes teams.")
@json_option
def teams() -> None:
    pass


@teams.command(
    "create",
    cls=Command,
    example="cohere-gateway teams create --team-alias search --models 'command-*' --max-budget 100",
    short_help="Make a team.",
    help="Makes a team. Its keys may do no more than it may.",
)
@field_options(fields.TEAM_NEW)
@where_options
def create(url: str | None, config: str | None, **options: Any) -> None:
    _print(run_operation("team_new", {"url": url, "config": config}, body_of(options)))


@teams.command(
    "list",
    cls=Command,
    example="cohere-gateway teams list --json",
    short_help="List teams, the newest first.",
    help="Lists teams, the newest first.",
)
@query_options({"team_alias": "Teams with this alias."})
@where_options
def list_teams(url: str | None, config: str | None, **options: str | None) -> None:
    answer = run_operation("team_list", {"url": url, "config": config}, query=options)
    print_answer(answer, answer, COLUMNS, "there are no such teams")


@teams.command(
    "show",
    cls=Command,
    example="cohere-gateway teams show search",
    short_help="Show a team and its keys.",
    help=f"Shows a team and its keys. {TEAM_HELP}",
)
@click.argument("team", metavar="TEAM")
@where_options
def show(team: str, url: str | None, config: str | None) -> None:
    from gateway.cli.keys import COLUMNS as KEY_COLUMNS

    answer = run_operation("team_info", {"url": url, "config": config}, query={"team_id": team})
    if wants_json():
        print_json(answer)
        return
    print_fields(answer["team_info"])
    print()
    print_rows(answer["keys"], KEY_COLUMNS, "the team has no keys")


@teams.command(
    "update",
    cls=Command,
    example="cohere-gateway teams update search --permissions read-only --tags null",
    short_help="Change fields of a team.",
    help=f"Changes the fields that are given; null clears one. {TEAM_HELP}",
)
@click.argument("team", metavar="TEAM")
@field_options(fields.TEAM_UPDATE, "team_id")
@where_options
def update(team: str, url: str | None, config: str | None, **options: Any) -> None:
    body = {"team_id": team, **body_of(options)}
    # The answer has the team twice: as `data`, and in fields of its own.
    _print(run_operation("team_update", {"url": url, "config": config}, body)["data"])


@teams.command(
    "block",
    cls=Command,
    example="cohere-gateway teams block search",
    short_help="Refuse the requests of all keys of a team.",
    help=f"Refuses the requests of all keys of a team until it is unblocked. {TEAM_HELP}",
)
@click.argument("team", metavar="TEAM")
@where_options
def block(team: str, url: str | None, config: str | None) -> None:
    _print(run_operation("team_block", {"url": url, "config": config}, {"team_id": team}))


@teams.command(
    "unblock",
    cls=Command,
    example="cohere-gateway teams unblock search",
    short_help="Serve a blocked team again.",
    help=f"Serves the keys of a blocked team again. {TEAM_HELP}",
)
@click.argument("team", metavar="TEAM")
@where_options
def unblock(team: str, url: str | None, config: str | None) -> None:
    _print(run_operation("team_unblock", {"url": url, "config": config}, {"team_id": team}))


@teams.command(
    "delete",
    cls=Command,
    example="cohere-gateway teams delete search --yes",
    short_help="Delete teams; their keys are refused.",
    help=f"Deletes teams for good, all that are named or none. Their keys are refused from then on. {TEAM_HELP}",
)
@click.argument("team", metavar="TEAM...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Delete without asking back.")
@where_options
def delete(team: tuple[str, ...], yes: bool, url: str | None, config: str | None) -> None:
    require_yes(yes, team)
    answer = run_operation("team_delete", {"url": url, "config": config}, {"team_ids": list(team)})
    if wants_json():
        print_json(answer)
    else:
        print(f"deleted: {', '.join(answer['deleted_teams'])}")


def _print(row: Mapping[str, Any]) -> None:
    if wants_json():
        print_json(row)
    else:
        print_fields(row)
