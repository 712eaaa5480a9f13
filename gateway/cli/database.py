"""`cohere-gateway db`."""

import click

from gateway.cli.command import Command, CommandFailed, Group, config_option, read_settings


@click.group(
    "db",
    cls=Group,
    example="cohere-gateway db upgrade",
    help="Maintains the database of responses, conversations and keys.",
)
def database() -> None:
    pass


@database.command(
    "upgrade",
    cls=Command,
    example="GATEWAY_DATABASE_URL=postgresql://gateway@localhost/gateway cohere-gateway db upgrade",
    short_help="Upgrade the database to this version.",
    help="Creates the tables or upgrades them to this version; does nothing if they are up to date. The gateway does "
    "this itself when it starts. Use this command to do it beforehand, for example as a database user who may create "
    "tables.",
)
@config_option("The settings file, for its database_url.")
def upgrade_database(config: str | None) -> None:
    settings = read_settings(config)
    from gateway.store.database import upgrade
    from gateway.store.errors import StoreUnavailable

    try:
        upgrade(settings.database_url)
    except ValueError as error:
        raise CommandFailed(f"database_url: {error}") from error
    except StoreUnavailable as error:
        raise CommandFailed(str(error), 1) from error
    print("the database is up to date")
