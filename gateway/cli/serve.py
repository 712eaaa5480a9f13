"""`cohere-gateway serve`."""

import os
from functools import partial
from typing import Any

import click

from gateway import __version__
from gateway.cli.command import Command, CommandFailed, config_option


@click.command(
    cls=Command,
    example="COHERE_API_KEY=... cohere-gateway serve --port 8080",
    settings=True,
    help="Serves the gateway until it is stopped.",
)
@config_option("The settings file (default: gateway.toml, if it exists).")
@click.option("--host", help="The address to listen on, or unix:PATH (default: 127.0.0.1).")
@click.option("--port", type=int, help="The port to listen on; 0 picks a free one (default: 8080).")
@click.option("--workers", type=int, help="Processes that share the port (default: 1).")
# None when it is left out, and not False: that would win over the settings file.
@click.option("--demo", is_flag=True, default=None, help="Answer from the embedded emulator instead of Cohere.")
@click.option(
    "--allow-open",
    is_flag=True,
    default=None,
    help="Allow open mode on non-loopback addresses: whoever reaches them may call.",
)
def serve(config: str | None, **command_line: Any) -> None:
    from gateway.settings.loading import load, variables_of_settings
    from gateway.settings.schema import SettingError

    # Kept, because a reload reads the settings again after they have gone from the environment.
    variables = variables_of_settings(os.environ)
    # The options are named as the settings are.
    read_settings = partial(load, variables, config, command_line)
    try:
        os.chdir(os.getcwd())  # where the settings file and the database are looked for, by the workers as well
    except OSError as error:
        raise CommandFailed(f"the working directory cannot be used: {error.strerror}", 1) from error
    try:
        settings = read_settings()
    except SettingError as error:
        raise CommandFailed(str(error)) from error
    from gateway.server.process import serve
    from gateway.server.sockets import ListenError
    from gateway.server.supervisor import WorkersFailed

    # Workers get their settings through a pipe: what they need not inherit, no list of processes shows of them.
    for name in variables:
        del os.environ[name]
    try:
        serve(settings, _announce, read_settings)
    except SettingError as error:
        raise CommandFailed(str(error)) from error
    except (ListenError, WorkersFailed) as error:
        raise CommandFailed(str(error), 1) from error
    finally:
        # For whoever runs the command in a process that goes on.
        os.environ.update(variables)


def _announce(settings: Any) -> None:
    """Prints what a newcomer needs: the address, the upstream, who may call, a command to try."""
    from gateway.auth.modes import Mode, mode_of

    mode = mode_of(settings)
    # What stands for all addresses is none that a caller could use.
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    scheme = "https" if settings.tls.certificate else "http"
    base = f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}/v1"
    curl = "curl"
    if settings.unix_socket:
        # curl wants the name of a host all the same.
        base, curl = f"{scheme}://localhost/v1", f"curl --unix-socket {settings.unix_socket}"
    upstream = settings.cohere_base_url
    if settings.demo:
        upstream = "the embedded emulator: rule-based answers, NOT Cohere; set COHERE_API_KEY to talk to Cohere"
    for name, named in settings.upstreams.items():
        upstream += f", {name}: {named.base_url}"
    keys = {Mode.OWN_KEY: "$COHERE_API_KEY", Mode.VIRTUAL_KEYS: "$GATEWAY_MASTER_KEY"}
    print(
        f"cohere-gateway {__version__}\n"
        f"  base URL  {base}{f' over {settings.host}' if settings.unix_socket else ''}\n"
        f"  upstream  {upstream}\n"
        f"  callers   {mode.value}\n"
        f"  try       {curl} {base}/chat/completions -H 'content-type: application/json' "
        f'-H "authorization: Bearer {keys.get(mode, "any")}" '
        """-d '{"model": "cohere/command-r-plus", "messages": [{"role": "user", "content": "Hello"}]}'""",
        flush=True,
    )
