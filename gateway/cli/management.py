"""What `keys`, `teams` and `end-users` have in common: options made of the tables of fields, and where they are run.

A command runs an operation of `gateway/management/operations.py` on the database of the settings, or with `--url` over
a gateway's API with the master key of the environment. Either way it is the same request and the same answer.
"""

import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import click
import msgspec
from msgspec import inspect

from gateway.cli.command import CommandFailed, Decorated, config_option, json_option, read_settings
from gateway.cli.tables import print_note
from gateway.management.field_table import Field, FieldTable
from gateway.management.fields import options_of

MASTER_KEY = "GATEWAY_MASTER_KEY"
DATABASE_SECONDS, HTTP_SECONDS = 30.0, 30.0
NULL = "null"
"""The text that clears a field."""


# --- options --------------------------------------------------------------------------------------------------


class _Cleared:
    """The value of an option that clears its field; click takes None for an option that was left out."""


CLEARED = _Cleared()


class FieldValue(click.ParamType[Any]):
    """The value of a field as a text: a number, a text, JSON where it has a structure, or `null`."""

    def __init__(self, field: Field) -> None:
        self.kind = _kind_of(field.type)
        self.name = {"list": "a,b", "json": "json", "either": "name|json"}.get(self.kind, self.kind)

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        if value == NULL:
            return CLEARED
        try:
            match self.kind:
                case "integer":
                    return int(value)
                case "number":
                    return _finite(value)
                case "json":
                    return msgspec.json.decode(value)
                # A preset's name is no JSON, and is passed on as a text.
                case "either" if value.startswith("{"):
                    return msgspec.json.decode(value)
                case "yes|no":
                    return click.BOOL.convert(value, param, context)
        except (ValueError, msgspec.DecodeError):
            expected = {"integer": "a whole number", "number": "a number"}.get(self.kind, "JSON")
            self.fail(f"'{value[:60]}' is not {expected}", param)
        return value


def _finite(text: str) -> float:
    """Returns a number. Raises ValueError, also for those that JSON does not have: `nan` would clear the field."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _kind_of(type_of_field: Any) -> str:
    info = inspect.type_info(type_of_field)
    # Bounds of a value, which the operation checks.
    while isinstance(info, inspect.Metadata):
        info = info.type
    match info:
        case inspect.BoolType():
            return "yes|no"
        case inspect.IntType():
            return "integer"
        case inspect.FloatType():
            return "number"
        # Lists of anything but texts are written as JSON.
        case inspect.ListType(item_type=inspect.StrType()):
            return "list"
        # The name of a preset, or a map.
        case inspect.UnionType():
            return "either"
        case inspect.StrType() | inspect.LiteralType():
            return "text"
    return "json"


def field_options(table: FieldTable, *left_out: str) -> Callable[[Decorated], Decorated]:
    """Adds an option for each field that a table honours, with dashes in its name."""

    def add(command: Decorated) -> Decorated:
        # click puts what is added last in front.
        for field in reversed(options_of(table)):
            if field.name not in left_out:
                value = FieldValue(field)
                help_text = field.why.replace("`", "'")
                command = click.option(
                    _option(field.name),
                    field.name,
                    type=value,
                    multiple=value.kind == "list",
                    help=f"{help_text[:1].upper()}{help_text[1:]}.",
                )(command)
        return command

    return add


def query_options(names: Mapping[str, str]) -> Callable[[Decorated], Decorated]:
    """Adds an option for each parameter of a list. names: their help by name."""

    def add(command: Decorated) -> Decorated:
        # For the same reason as in `field_options`.
        for name, text in reversed(list(names.items())):
            command = click.option(_option(name), name, help=text)(command)
        return command

    return add


def where_options(command: Decorated) -> Decorated:
    """Adds `--url`, `--config` and `--json`."""
    url = click.option(
        "--url", metavar="URL", help=f"A gateway's address: use its API and ${MASTER_KEY} instead of the database."
    )
    return url(config_option("The settings file, for its database_url.")(json_option(command)))


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def body_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of the options that were given. A list may be given in several options, and by commas."""
    body: dict[str, Any] = {}
    for name, value in options.items():
        # click gives a tuple for an option that may be repeated, also for one that was left out.
        if isinstance(value, tuple):
            if value:
                texts = [one for one in value if one is not CLEARED]
                # None where nothing but `null` was given.
                body[name] = [part for text in texts for part in text.split(",") if part] if texts else None
        elif value is CLEARED:
            body[name] = None
        elif value is not None:
            body[name] = value
    return body


def secret_of(text: str) -> str:
    """Returns an argument; for `-` the first line of standard input, which no list of processes shows."""
    return sys.stdin.readline().strip() if text == "-" else text


# --- running --------------------------------------------------------------------------------------------------


def run_operation(
    name: str,
    where: Mapping[str, Any],
    body: Mapping[str, Any] | None = None,
    query: Mapping[str, str | None] | None = None,
) -> Any:
    """Runs an operation and returns its answer; notes go to standard error. Raises CommandFailed.

    where: the values of `where_options`.
    """
    values = {name: value for name, value in (query or {}).items() if value is not None}
    document = None if body is None else msgspec.json.encode(body)
    if where.get("url"):
        return _run_remotely(name, str(where["url"]), document, values)
    return _run_here(name, where.get("config"), document, values)


def _run_here(name: str, config: str | None, document: bytes | None, query: Mapping[str, str]) -> Any:
    import time

    from gateway.management.operations import OPERATIONS
    from gateway.management.request import ManagementRequest
    from translators.core.notes import Notes

    settings = read_settings(config)
    # The change is made all the same: a gateway with other settings may read this database.
    if not settings.master_key:
        print_note(f"keys are asked for where {MASTER_KEY} is set, and here it is not")
    operation = next(row for row in OPERATIONS if row.name == name)
    notes = Notes()
    # The secrets that no key may have: authentication would take one for the gateway's own.
    own = (settings.master_key, *settings.upstream_keys)
    request = ManagementRequest(
        operator(), time.time(), notes, document or b"", query, reserved=lambda secret: secret in own
    )
    answer = run_transaction(settings.database_url, lambda: operation.plan(request))
    _fill_in_spend(answer, settings)
    for note in notes:
        print_note(note.text)
    # As over HTTP, where the answer has been JSON.
    return msgspec.to_builtins(answer)


def _fill_in_spend(answer: Any, settings: Any) -> None:
    """Writes into an answer what the ledger says was spent; nothing is known where it does not answer."""
    import time

    from gateway.ledger.writer import address_of
    from gateway.management import spending
    from gateway.store.database import Address

    now = time.time()
    wanted = spending.spenders(answer, now)
    if not wanted:
        return
    url, _ = address_of(settings.database_url, settings.ledger.spool)
    path = Address.of(url).path
    amounts: spending.Spent | None = {one: {} for one in wanted}
    if path is None or path.exists():  # else nothing was ever called
        try:
            amounts = run_transaction(url, lambda: lambda connection: spending.read(connection, wanted), writes=False)
        except CommandFailed as error:
            print_note(f"what was spent is not known: {error.message}")
            amounts = None
    spending.fill_in(answer, amounts, now)


def operator() -> Any:
    """Returns the operating system's user as an actor who may do everything."""
    import getpass

    from gateway.management.request import Actor

    try:
        user = getpass.getuser()
    # In a container a user may have a number and no name.
    except (KeyError, OSError):
        user = f"user {os.getuid()}"
    # Who can read the settings has the master key, too.
    return Actor(f"{user} (command line)", "master")


def run_transaction(
    database_url: str, plan: Callable[[], Any], writes: bool = True, seconds: float = DATABASE_SECONDS
) -> Any:
    """Runs what a plan returns in one transaction, which may take so many seconds.

    Raises CommandFailed for whatever is wrong.
    """
    import asyncio

    from gateway.errors import GatewayError
    from gateway.store.database import Database
    from gateway.store.errors import StoreUnavailable
    from translators.core.errors import TranslationError

    async def run() -> Any:
        database = Database(database_url, seconds, 1)
        try:
            # The plan is made here, so that what it refuses is reported as the errors of the transaction are.
            return await (database.write(plan()) if writes else database.read(plan()))
        finally:
            await database.close()

    try:
        return asyncio.run(run())
    except ValueError as error:
        raise CommandFailed(f"database_url: {error}") from error
    except StoreUnavailable as error:
        raise CommandFailed(str(error), 1) from error
    except (TranslationError, GatewayError) as error:
        raise _failed(error.failure.status, error.failure.message) from error


def _run_remotely(name: str, url: str, document: bytes | None, query: Mapping[str, str]) -> Any:
    from gateway.management.operations import OPERATIONS

    operation = next(row for row in OPERATIONS if row.name == name)
    return send_request(url, operation.verb, operation.paths[0], document, query)


def send_request(url: str, verb: str, path: str, document: bytes | None, query: Mapping[str, str]) -> Any:
    """Sends a request with the master key and returns the answer. Raises CommandFailed.

    A redirect is not followed: it would carry the master key to wherever it points.
    """
    import http.client

    master_key = os.environ.get(MASTER_KEY, "")
    if not master_key:
        raise CommandFailed(f"--url: the master key is read from the environment, and {MASTER_KEY} is not set")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise CommandFailed(f"--url: '{url}' is not an address such as http://127.0.0.1:8080")
    if parts.scheme == "http" and not _is_this_machine(host):
        print_note(f"the master key travels to {host} unencrypted: anybody on the way can read it; use https")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    # A base URL is often copied with its version.
    target = f"{parts.path.removesuffix('/').removesuffix('/v1')}{path}" + (f"?{urlencode(query)}" if query else "")
    headers = {
        "authorization": f"Bearer {master_key}",
        "content-type": "application/json",
        "accept": "application/json",
    }
    try:
        connection = kind(host, port, timeout=HTTP_SECONDS)
        try:
            connection.request(verb, target, document, headers)
            response = connection.getresponse()
            status, noted, content = response.status, response.getheader("x-gateway-notes"), response.read()
        finally:
            connection.close()
    # ValueError for a port that is none.
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise CommandFailed(f"{url} does not answer: {error}", 1) from error
    if noted:
        print_note(noted)
    try:
        answer = msgspec.json.decode(content)
    except msgspec.DecodeError:
        answer = None
    # Also for a redirect, which is not followed.
    if status != 200 or answer is None:
        refusal = answer.get("error") if isinstance(answer, dict) else None
        message = refusal.get("message") if isinstance(refusal, dict) else f"no gateway's answer, status {status}"
        raise _failed(status, str(message))
    return answer


def _is_this_machine(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _failed(status: int, message: str) -> CommandFailed:
    """Returns the error of a command: wrong use where the fields are wrong, else a failure."""
    return CommandFailed(message, 2 if status == 400 else 1)


def require_yes(yes: bool, what: Iterable[str]) -> None:
    """Raises CommandFailed for a deletion that was not confirmed."""
    if not yes:
        raise CommandFailed(f"nothing was deleted: to delete {', '.join(what)}, add --yes")
