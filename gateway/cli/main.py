"""The command line. Imports nothing heavy until a command needs it.

Exit status: 0 done, 1 failed, 2 wrong use; errors are one line on standard error.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from gateway import __version__

OPERATIONS = ("chat", "responses", "compact", "rerank", "embeddings")
"""The operations of `translate`. The table of routes has them, too, but takes longer to import than help to print."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see '{self.prog} --help'\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except _CommandFailed as error:
        print(f"cohere-gateway: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return 0


class _CommandFailed(Exception):
    """A sentence for standard error, and the exit status."""

    def __init__(self, text: str, status: int = 2) -> None:
        super().__init__(text)
        self.status = status


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cohere-gateway",
        description="An OpenAI-compatible gateway in front of Cohere.",
        epilog="example: cohere-gateway serve --demo",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for add in (_add_serve, _add_emulator, _add_translate, _add_database):
        add(commands)
    return parser


Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"


def _add_serve(commands: Commands) -> None:
    serve = commands.add_parser(
        "serve",
        help="serve the gateway",
        description="Serves the gateway until it is stopped.",
        epilog="example: COHERE_API_KEY=... cohere-gateway serve --port 8080\n\n" + _settings_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.add_argument("--config", metavar="FILE", help="the settings file (default: gateway.toml, if it exists)")
    serve.add_argument("--host", help="the address to listen on (default: 127.0.0.1)")
    serve.add_argument("--port", type=int, help="the port to listen on; 0 picks a free one (default: 8080)")
    serve.add_argument("--workers", type=int, help="processes that share the port (default: 1)")
    serve.add_argument(
        "--demo", action="store_true", default=None, help="answer from the embedded emulator instead of Cohere"
    )
    serve.add_argument(
        "--allow-open",
        action="store_true",
        default=None,
        help="allow open mode on non-loopback addresses: whoever reaches them may call",
    )
    serve.set_defaults(run=_serve)


def _add_emulator(commands: Commands) -> None:
    emulator = commands.add_parser(
        "emulator",
        help="serve the Cohere emulator alone",
        description="Serves a rule-based stand-in for Cohere's API, for tests and demonstrations. It is not a model.",
        epilog="example: cohere-gateway emulator --port 8090",
    )
    emulator.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
    emulator.add_argument("--port", type=int, default=8090, help="the port to listen on (default: 8090)")
    emulator.add_argument("--models", metavar="FILE", help="a JSON file of models to offer instead of Cohere's")
    emulator.set_defaults(run=_emulator)


def _add_translate(commands: Commands) -> None:
    translate = commands.add_parser(
        "translate",
        help="show the Cohere request for an OpenAI request",
        description="Prints the Cohere request that the gateway would send, and the notes. Sends nothing.",
        epilog="example: cohere-gateway translate chat request.json",
    )
    translate.add_argument(
        "operation", metavar="OPERATION", help=f"the operation of the request: {', '.join(OPERATIONS)}"
    )
    translate.add_argument(
        "file", nargs="?", default="-", metavar="FILE", help="an OpenAI request (default: -, standard input)"
    )
    translate.add_argument("--config", metavar="FILE", help="the settings file, for aliases")
    translate.add_argument("--strict", action="store_true", help="refuse what would be ignored or adjusted")
    translate.set_defaults(run=_translate)


def _add_database(commands: Commands) -> None:
    database = commands.add_parser(
        "db",
        help="maintain the database",
        description="Maintains the database of responses and conversations.",
        epilog="example: cohere-gateway db upgrade",
    )
    actions = database.add_subparsers(dest="action", metavar="ACTION", parser_class=_Parser, required=True)
    upgrade = actions.add_parser(
        "upgrade",
        help="upgrade the database to this version",
        description="Creates the tables or upgrades them to this version; does nothing if they are up to date. The\n"
        "gateway does this itself when it starts. Use this command to do it beforehand, for example as a\n"
        "database user who may create tables.",
        epilog="example: GATEWAY_DATABASE_URL=postgresql://gateway@localhost/gateway cohere-gateway db upgrade",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    upgrade.add_argument("--config", metavar="FILE", help="the settings file, for its database_url")
    upgrade.set_defaults(run=_upgrade)


def _settings_text() -> str:
    from gateway.settings.reference import described

    lines = ["settings (environment name, key in gateway.toml, default):"]
    for line in described():
        names = ", ".join(line.environment)
        default = f" [{line.default}]" if line.default else ""
        lines.append(f"  {names}  {line.path}{default}\n      {line.text}")
    return "\n".join(lines)


def _read_settings(file: str | None, command_line: dict[str, Any]) -> Any:
    """Reads the settings from the file, the environment and the command line. Raises SettingError."""
    from gateway.settings.loading import load

    return load(os.environ, file, command_line)


def _serve(options: argparse.Namespace) -> int:
    names = ("host", "port", "workers", "demo", "allow_open")
    read_settings = partial(_read_settings, options.config, {name: getattr(options, name) for name in names})
    from gateway.settings.schema import SettingError

    try:
        os.chdir(os.getcwd())  # where the settings file and the database are looked for, by the workers as well
    except OSError as error:
        raise _CommandFailed(f"the working directory cannot be used: {error.strerror}", 1) from error
    try:
        settings = read_settings()
    except SettingError as error:
        raise _CommandFailed(str(error)) from error
    from gateway.server.process import serve
    from gateway.server.sockets import ListenError
    from gateway.server.supervisor import WorkersFailed

    try:
        serve(settings, _announce, read_settings)
    except SettingError as error:
        raise _CommandFailed(str(error)) from error
    except (ListenError, WorkersFailed) as error:
        raise _CommandFailed(str(error), 1) from error
    return 0


def _announce(settings: Any) -> None:
    """Prints what a newcomer needs: the address, the upstream, who may call, a command to try."""
    from gateway.auth.authenticator import Mode, mode_of

    mode = mode_of(settings)
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    base = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}/v1"
    upstream = settings.cohere_base_url
    if mode is Mode.DEMO:
        upstream = "the embedded emulator: rule-based answers, NOT Cohere; set COHERE_API_KEY to talk to Cohere"
    keys = {Mode.OWN_KEY: "$COHERE_API_KEY", Mode.VIRTUAL_KEYS: "$GATEWAY_MASTER_KEY"}
    print(
        f"cohere-gateway {__version__}\n"
        f"  base URL  {base}\n"
        f"  upstream  {upstream}\n"
        f"  callers   {mode.value}\n"
        f"  try       curl {base}/chat/completions -H 'content-type: application/json' "
        f'-H "authorization: Bearer {keys.get(mode, "any")}" '
        """-d '{"model": "cohere/command-r-plus", "messages": [{"role": "user", "content": "Hello"}]}'""",
        flush=True,
    )


def _emulator(options: argparse.Namespace) -> int:
    from gateway.server.process import serve_emulator
    from gateway.server.sockets import ListenError
    from gateway.settings.schema import SettingError

    try:
        serve_emulator(
            options.host,
            options.port,
            options.models,
            lambda url: print(f"Cohere emulator (rule-based, not Cohere) on {url}", flush=True),
        )
    except SettingError as error:
        raise _CommandFailed(str(error)) from error
    except ListenError as error:
        raise _CommandFailed(str(error), 1) from error
    return 0


def _upgrade(options: argparse.Namespace) -> int:
    from gateway.settings.loading import load
    from gateway.settings.schema import SettingError
    from gateway.store.database import upgrade
    from gateway.store.errors import StoreUnavailable

    try:
        upgrade(load(os.environ, options.config).database_url)
    except SettingError as error:
        raise _CommandFailed(str(error)) from error
    except ValueError as error:
        raise _CommandFailed(f"database_url: {error}") from error
    except StoreUnavailable as error:
        raise _CommandFailed(" ".join(str(error).split()), 1) from error
    print("the database is up to date")
    return 0


def _translate(options: argparse.Namespace) -> int:
    from gateway.pipeline.cl100k_base import vocabulary
    from gateway.pipeline.operations import TRANSLATE
    from gateway.settings.loading import load
    from gateway.settings.schema import SettingError
    from translators.core.contracts import Context, ResponseIdentity
    from translators.core.errors import TranslationError

    if options.operation not in TRANSLATE:
        raise _CommandFailed(f"translate: '{options.operation}' is not one of {', '.join(TRANSLATE)}")
    try:
        body = sys.stdin.buffer.read() if options.file == "-" else Path(options.file).read_bytes()
    except OSError as error:
        raise _CommandFailed(f"cannot read {options.file}: {error.strerror}", 1) from error
    try:
        policy = load(os.environ, options.config).policy
        call = TRANSLATE[options.operation](
            body, Context(ResponseIdentity(0, "0"), policy, strict=options.strict, vocabulary=vocabulary)
        )
    except SettingError as error:
        raise _CommandFailed(str(error)) from error
    except RecursionError as error:
        raise _CommandFailed("400: the request is nested too deeply", 1) from error
    except TranslationError as error:
        failure = error.failure
        field = f" at {failure.param}" if failure.param else ""
        raise _CommandFailed(f"{failure.status} {failure.code}{field}: {failure.message}", 1) from error
    for body in dict.fromkeys(call.bodies):
        print(body.decode())
    for note in call.notes:
        print(f"note: {note.text}", file=sys.stderr)
    return 0
