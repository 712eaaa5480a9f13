"""What all commands have in common: an example in the help, errors of one line, `--json` for programs.

A group imports the module of a command when that command is used, so that `serve` pays for nothing else.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeVar

import click
from msgspec import Struct

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

JSON = "gateway.cli.json"
"""The key of the context's `meta` under which `--json` is kept."""


class CommandFailed(click.ClickException):
    """A sentence for standard error, and the exit status."""

    def __init__(self, text: str, status: int = 2) -> None:
        super().__init__(text)
        self.status = status


class Command(click.Command):
    """A command whose help ends with an example of it, a line that can be copied.

    settings: whether the help lists all settings.
    """

    def __init__(self, *arguments: Any, example: str, settings: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.example, self._settings = example, settings

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        _write_example(self.example, formatter)
        if self._settings:
            formatter.write(f"\n{_settings_text()}\n")


class Entry(Struct, frozen=True):
    """A command of a group that is not imported yet. at: module and attribute, with a colon between them."""

    at: str
    help: str


class Group(click.Group):
    """A group of commands, most of which are imported when they are used."""

    def __init__(self, *arguments: Any, example: str, entries: Mapping[str, Entry] = {}, **options: Any) -> None:
        # click would answer a group without a command by its help. `invoke` says what is missing.
        options |= {"subcommand_metavar": "COMMAND ...", "no_args_is_help": False}
        super().__init__(*arguments, **options)
        self.example, self._entries = example, entries

    def list_commands(self, context: click.Context) -> list[str]:
        return [*self._entries, *self.commands]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        entry = self._entries.get(name)
        if entry is None:
            return super().get_command(context, name)
        module, _, attribute = entry.at.partition(":")
        # Only now, so that `serve` loads none of the other commands.
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def invoke(self, context: click.Context) -> Any:
        # click keeps what stands behind a group's own options here; its public name is deprecated.
        if not context._protected_args and not self.invoke_without_command:
            raise click.UsageError(f"COMMAND is missing: one of {', '.join(self.list_commands(context))}", context)
        return super().invoke(context)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        # Entries have a line of help of their own, so that none of the commands is imported for it.
        rows = [(name, entry.help) for name, entry in self._entries.items()]
        rows += [(name, command.get_short_help_str(90)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        _write_example(self.example, formatter)


def json_option(command: Decorated) -> Decorated:
    """Adds `--json` to a command or a group; given at any of them, it holds for the command."""

    def keep(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            # Groups and commands have a context each, and share this mapping.
            context.meta[JSON] = True

    return click.option(
        "--json", is_flag=True, expose_value=False, callback=keep, help="Print JSON, for programs, instead of tables."
    )(command)


def config_option(text: str) -> Callable[[Decorated], Decorated]:
    """Adds `--config FILE`. text: what the command reads the settings for."""
    return click.option("--config", metavar="FILE", help=text)


def wants_json() -> bool:
    """Tells whether the command that runs was given `--json`."""
    return bool(click.get_current_context().meta.get(JSON))


def read_settings(file: str | None, command_line: Mapping[str, Any] | None = None) -> Any:
    """Reads the settings from the file, the environment and the command line. Raises CommandFailed."""
    from gateway.settings.loading import load_from_environment
    from gateway.settings.schema import SettingError

    try:
        return load_from_environment(file, command_line)
    except SettingError as error:
        raise CommandFailed(str(error)) from error


def status_of(error: click.ClickException) -> int:
    """Returns the exit status for an error."""
    return error.status if isinstance(error, CommandFailed) else error.exit_code


def sentence_of(error: click.ClickException) -> str:
    """Returns the one line that standard error shows for an error."""
    # click breaks some of its sentences into lines.
    text = " ".join(error.format_message().split())
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return f"cohere-gateway: {text}"
    return f"{context.command_path}: {text}; see '{context.command_path} --help'"


def _write_example(example: str, formatter: click.HelpFormatter) -> None:
    formatter.write(f"\nexample: {example}\n")


def _settings_text() -> str:
    from gateway.settings.reference import described

    lines = ["settings (environment name, key in gateway.toml, default):"]
    for line in described():
        names = ", ".join(line.environment)
        default = f" [{line.default}]" if line.default else ""
        lines.append(f"  {names}  {line.path}{default}\n      {line.text}")
    return "\n".join(lines)
