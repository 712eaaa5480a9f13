"""`cohere-gateway end-users`."""

from collections.abc import Mapping
from typing import Any

import click

from gateway.cli.command import Command, Group, json_option, wants_json
from gateway.cli.management import body_of, field_options, require_yes, run_operation, where_options
from gateway.cli.tables import print_answer, print_fields, print_json
from gateway.management import fields

USER_HELP = "USER is the id by which requests name the end user."

COLUMNS: Mapping[str, str] = {
    "user_id": "User",
    "alias": "Alias",
    "blocked": "Blocked",
    "max_budget": "Budget",
    "budget_duration": "Window",
    "rpm_limit": "RPM",
    "tpm_limit": "TPM",
    "created_at": "Created",
}


@click.group(
    "end-users", cls=Group, example="cohere-gateway end-users list", help="Limits and blocks those for whom keys call."
)
@json_option
def end_users() -> None:
    pass


@end_users.command(
    "create",
    cls=Command,
    example="cohere-gateway end-users create --user-id ada --rpm-limit 10",
    short_help="Record an end user with limits.",
    help="Records an end user, so as to set limits. Others need no record.",
)
@field_options(fields.END_USER_NEW)
@where_options
def create(url: str | None, config: str | None, **options: Any) -> None:
    _print(run_operation("end_user_new", {"url": url, "config": config}, body_of(options)))


@end_users.command(
    "list",
    cls=Command,
    example="cohere-gateway end-users list --json",
    short_help="List the end users that are recorded.",
    help="Lists the end users that are recorded, the newest first.",
)
@where_options
def list_end_users(url: str | None, config: str | None) -> None:
    answer = run_operation("end_user_list", {"url": url, "config": config}, query={})
    print_answer(answer, answer, COLUMNS, "there are no such end users")


@end_users.command(
    "show",
    cls=Command,
    example="cohere-gateway end-users show ada",
    short_help="Show an end user.",
    help=f"Shows an end user. {USER_HELP}",
)
@click.argument("user", metavar="USER")
@where_options
def show(user: str, url: str | None, config: str | None) -> None:
    _print(run_operation("end_user_info", {"url": url, "config": config}, query={"end_user_id": user}))


@end_users.command(
    "update",
    cls=Command,
    example="cohere-gateway end-users update ada --max-budget 5 --rpm-limit null",
    short_help="Change fields of an end user.",
    help=f"Changes the fields that are given; null clears one. {USER_HELP}",
)
@click.argument("user", metavar="USER")
@field_options(fields.END_USER_UPDATE, "user_id")
@where_options
def update(user: str, url: str | None, config: str | None, **options: Any) -> None:
    body = {"user_id": user, **body_of(options)}
    _print(run_operation("end_user_update", {"url": url, "config": config}, body))


@end_users.command(
    "block",
    cls=Command,
    example="cohere-gateway end-users block ada",
    short_help="Refuse requests for an end user.",
    help=f"Refuses requests for an end user until it is unblocked. {USER_HELP}",
)
@click.argument("user", metavar="USER")
@where_options
def block(user: str, url: str | None, config: str | None) -> None:
    answer = run_operation("end_user_block", {"url": url, "config": config}, {"user_ids": [user]})
    # One was named, so one comes back.
    _print(answer["blocked_users"][0])


@end_users.command(
    "unblock",
    cls=Command,
    example="cohere-gateway end-users unblock ada",
    short_help="Serve a blocked end user again.",
    help=f"Serves requests for a blocked end user again. {USER_HELP}",
)
@click.argument("user", metavar="USER")
@where_options
def unblock(user: str, url: str | None, config: str | None) -> None:
    answer = run_operation("end_user_unblock", {"url": url, "config": config}, {"user_ids": [user]})
    _print(answer["unblocked_users"][0])


@end_users.command(
    "delete",
    cls=Command,
    example="cohere-gateway end-users delete ada --yes",
    short_help="Forget end users and their limits.",
    help=f"Deletes the records of end users, all that are named or none. {USER_HELP}",
)
@click.argument("user", metavar="USER...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Delete without asking back.")
@where_options
def delete(user: tuple[str, ...], yes: bool, url: str | None, config: str | None) -> None:
    require_yes(yes, user)
    answer = run_operation("end_user_delete", {"url": url, "config": config}, {"user_ids": list(user)})
    if wants_json():
        print_json(answer)
    else:
        print(f"deleted: {answer['deleted_customers']}")


def _print(row: Mapping[str, Any]) -> None:
    if wants_json():
        print_json(row)
    else:
        print_fields(row)
