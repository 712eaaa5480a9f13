"""The command `cohere-gateway`: the table of its commands, and how a run of one ends."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Mapping, Sequence

import click

from gateway import __version__
from gateway.cli.command import Entry, Group, json_option, sentence_of, status_of

PROGRAM = "cohere-gateway"

OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)
"""Of an OSError that names no file: nobody can take what is written."""

COMMANDS: Mapping[str, Entry] = {
    "serve": Entry("gateway.cli.serve:serve", "Serve the gateway."),
    "emulator": Entry("gateway.cli.emulator:emulator", "Serve the Cohere emulator alone."),
    "translate": Entry("gateway.cli.translate:translate", "Show the Cohere request for an OpenAI request."),
    "keys": Entry("gateway.cli.keys:keys", "Make, show and change keys."),
    "teams": Entry("gateway.cli.teams:teams", "Make, show and change teams."),
    "end-users": Entry("gateway.cli.end_users:end_users", "Limit and block those for whom keys call."),
    "usage": Entry("gateway.cli.reports:usage", "Show what was used and what it cost."),
    "audit": Entry("gateway.cli.reports:audit", "Show calls and changes as sentences."),
    "check": Entry("gateway.cli.check:check", "Find what is wrong with the settings and what the gateway needs."),
    "db": Entry("gateway.cli.database:database", "Maintain the database."),
}


@click.group(
    PROGRAM,
    cls=Group,
    entries=COMMANDS,
    invoke_without_command=True,
    example="cohere-gateway serve --demo",
    help="An OpenAI-compatible gateway in front of Cohere.",
)
@click.version_option(__version__, message="%(version)s", help="Print the version.")
@json_option
@click.pass_context
def root(context: click.Context) -> None:
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status. arguments: the process's own by default."""
    if sys.stdout is None:  # it was closed before the start
        sys.stdout = open(os.devnull, "w")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What the terminal's encoding lacks is shown by its number: an alias is no reason to fail. Python asks for the
        # position in a file, and fails where a pipe has taken the file's place since.
        with contextlib.suppress(OSError):
            sys.stdout.reconfigure(errors="backslashreplace")
    try:
        # Not standalone, or click would print its own form of an error and end the process.
        status = root.main(arguments, PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        print(sentence_of(error), file=sys.stderr)
        return status_of(error)
    except OSError as error:
        if error.filename is not None or error.errno not in OUTPUT_ERRORS:
            raise
        # What is still in the buffer would fail once more at the end of the process, with a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:  # who has left wants no more, as with `head`
            print(f"{PROGRAM}: cannot write to standard output: {error.strerror}", file=sys.stderr)
        return 1
    except click.Abort:  # Ctrl-C is how `serve` is stopped
        return 0
    # Most commands return nothing.
    return status if isinstance(status, int) else 0
