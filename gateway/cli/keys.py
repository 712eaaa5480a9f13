"""`cohere-gateway keys`."""

from collections.abc import Mapping
from typing import Any

import click

from gateway.cli.command import Command, Group, json_option, wants_json
from gateway.cli.management import (
    body_of,
    field_options,
    query_options,
    require_yes,
    run_operation,
    secret_of,
    where_options,
)
from gateway.cli.tables import print_answer, print_fields, print_json
from gateway.management import fields

KEY_HELP = "KEY is a secret, a digest, an id or an alias; - reads it from standard input."
SECRET_NOTICE = "This is the only time that the key is shown."

COLUMNS: Mapping[str, str] = {
    "key_alias": "Alias",
    "key_id": "Id",
    "key_name": "Key",
    "status": "Status",
    "role": "Role",
    "team_id": "Team",
    "user_id": "User",
    "models": "Models",
    "permissions": "Permissions",
    "max_budget": "Budget",
    "rpm_limit": "RPM",
    "tpm_limit": "TPM",
    "expires": "Expires",
}

FILTERS = {
    "team_id": "Keys of this team.",
    "user_id": "Keys with this label.",
    "key_alias": "The key with this alias.",
    "search": "Keys whose alias contains this text.",
    "status": "One of active, expired, revoked, deleted.",
    "sort_by": "One of created_at, key_alias, team_id, user_id, expires.",
    "sort_order": "asc or desc.",
    "page": "The number of the page (default: 1).",
    "size": "Keys on a page (default: 100).",
}


@click.group("keys", cls=Group, example="cohere-gateway keys list --json", help="Makes, shows and changes keys.")
@json_option
def keys() -> None:
    pass


@keys.command(
    "create",
    cls=Command,
    example="cohere-gateway keys create --key-alias search --permissions inference --duration 30d",
    short_help="Make a key; its secret is shown once.",
    help="Makes a key and prints its secret, which is shown this once.",
)
@field_options(fields.KEY_NEW)
@where_options
def create(url: str | None, config: str | None, **options: Any) -> None:
    body = body_of(options)
    # From standard input, too, so that no list of processes and no history of a shell shows it.
    if "key" in body:
        body["key"] = secret_of(body["key"])
    _print_secret(run_operation("key_generate", {"url": url, "config": config}, body))


@keys.command(
    "list",
    cls=Command,
    example="cohere-gateway keys list --team-id search --status active",
    short_help="List keys, the newest first.",
    help="Lists keys, the newest first.",
)
@query_options(FILTERS)
@where_options
def list_keys(url: str | None, config: str | None, **options: str | None) -> None:
    # The most that a page may have. The API's own default is ten.
    query = {"return_full_object": "true", **options, "size": options["size"] or "100"}
    answer = run_operation("key_list", {"url": url, "config": config}, query=query)
    print_answer(answer, answer["keys"], COLUMNS, "there are no such keys")
    # Programs have these numbers in the JSON.
    if not wants_json() and answer["total_pages"] > 1:
        print(f"page {answer['current_page']} of {answer['total_pages']}, {answer['total_count']} keys")


@keys.command(
    "show",
    cls=Command,
    example="cohere-gateway keys show search",
    short_help="Show a key.",
    help=f"Shows a key, without its secret. {KEY_HELP}",
)
@click.argument("key", metavar="KEY")
@where_options
def show(key: str, url: str | None, config: str | None) -> None:
    _print(run_operation("key_info", {"url": url, "config": config}, query={"key": secret_of(key)})["info"])


@keys.command(
    "update",
    cls=Command,
    example="cohere-gateway keys update search --rpm-limit 60 --max-budget null",
    short_help="Change fields of a key.",
    help=f"Changes the fields that are given; null clears one. {KEY_HELP}",
)
@click.argument("key", metavar="KEY")
@field_options(fields.KEY_UPDATE, "key")
@where_options
def update(key: str, url: str | None, config: str | None, **options: Any) -> None:
    body = {"key": secret_of(key), **body_of(options)}
    answer = run_operation("key_update", {"url": url, "config": config}, body)
    # The argument is not printed again: it may be a secret.
    _print({name: value for name, value in answer.items() if name != "key"})


@keys.command(
    "rotate",
    cls=Command,
    example="cohere-gateway keys rotate search --grace-period 24h",
    short_help="Give a key another secret.",
    help=f"Gives a key another secret, and prints it this once. {KEY_HELP}",
)
@click.argument("key", metavar="KEY")
@field_options(fields.KEY_ROTATE, "key")
@where_options
def rotate(key: str, url: str | None, config: str | None, **options: Any) -> None:
    body = {"key": secret_of(key), **body_of(options)}
    if "new_key" in body:
        body["new_key"] = secret_of(body["new_key"])
    _print_secret(run_operation("key_regenerate", {"url": url, "config": config}, body))


@keys.command(
    "block",
    cls=Command,
    example="cohere-gateway keys block search",
    short_help="Refuse a key's requests.",
    help=f"Refuses a key's requests until it is unblocked. {KEY_HELP}",
)
@click.argument("key", metavar="KEY")
@where_options
def block(key: str, url: str | None, config: str | None) -> None:
    _print(run_operation("key_block", {"url": url, "config": config}, {"key": secret_of(key)}))


@keys.command(
    "unblock",
    cls=Command,
    example="cohere-gateway keys unblock search",
    short_help="Serve a blocked key again.",
    help=f"Serves a blocked key again. {KEY_HELP}",
)
@click.argument("key", metavar="KEY")
@where_options
def unblock(key: str, url: str | None, config: str | None) -> None:
    _print(run_operation("key_unblock", {"url": url, "config": config}, {"key": secret_of(key)}))


@keys.command(
    "delete",
    cls=Command,
    example="cohere-gateway keys delete search --yes",
    short_help="Delete keys for good.",
    help=f"Deletes keys for good: all that are named, or none. {KEY_HELP}",
)
@click.argument("key", metavar="KEY...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Delete without asking back.")
@where_options
def delete(key: tuple[str, ...], yes: bool, url: str | None, config: str | None) -> None:
    # Counted and not named: a name may be a secret.
    require_yes(yes, [f"{len(key)} key{'s' if len(key) > 1 else ''}"])
    # Each `-` reads another line.
    names = [secret_of(one) for one in key]
    answer = run_operation("key_delete", {"url": url, "config": config}, {"keys": names})
    if wants_json():
        print_json(answer)
    else:
        print(f"deleted: {len(answer['deleted_keys'])}")


@keys.command(
    "import",
    cls=Command,
    example="cohere-gateway keys import --litellm tokens.csv",
    short_help="Take over the keys of a LiteLLM database.",
    help="Takes over keys that LiteLLM issued, by their digests: they go on working unchanged. FILE is its table "
    "LiteLLM_VerificationToken, as CSV with a head or as a JSON object on each line. Keys with restrictions that are "
    "not enforced here are listed and left out, and so are keys of teams that are not here yet.",
)
@click.option("--litellm", "file", metavar="FILE", required=True, help="The exported table.")
@click.option("--drop-restrictions", is_flag=True, help="Import those keys as well, without these restrictions.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@where_options
def import_keys(file: str, drop_restrictions: bool, dry_run: bool, url: str | None, config: str | None) -> None:
    from gateway.cli.key_import import import_file

    import_file(file, drop_restrictions, dry_run, {"url": url, "config": config})


def _print(row: Mapping[str, Any]) -> None:
    if wants_json():
        print_json(row)
    else:
        print_fields(row)


def _print_secret(answer: Mapping[str, Any]) -> None:
    if wants_json():
        print_json(answer)
        return
    # Digests are for programs, which have them with `--json`.
    print_fields({name: value for name, value in answer.items() if name not in ("token", "token_id")})
    print(SECRET_NOTICE)
