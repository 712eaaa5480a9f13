"""`cohere-gateway emulator`."""

import click

from gateway.cli.command import Command, CommandFailed


@click.command(
    cls=Command,
    example="cohere-gateway emulator --port 8090",
    help="Serves a rule-based stand-in for Cohere's API, for tests and demonstrations. It is not a model.",
)
@click.option("--host", default="127.0.0.1", help="The address to listen on (default: 127.0.0.1).")
@click.option("--port", type=int, default=8090, help="The port to listen on (default: 8090).")
@click.option("--models", metavar="FILE", help="A JSON file of models to offer instead of Cohere's.")
def emulator(host: str, port: int, models: str | None) -> None:
    from gateway.server.process import serve_emulator
    from gateway.server.sockets import ListenError
    from gateway.settings.schema import SettingError

    try:
        serve_emulator(
            host, port, models, lambda url: print(f"Cohere emulator (rule-based, not Cohere) on {url}", flush=True)
        )
    except SettingError as error:
        raise CommandFailed(str(error)) from error
    except ListenError as error:
        raise CommandFailed(str(error), 1) from error
