"""`cohere-gateway translate`."""

import sys
from pathlib import Path

import click

from gateway.cli.command import Command, CommandFailed, config_option, read_settings

OPERATIONS = ("chat", "responses", "compact", "rerank", "embeddings")
"""The operations of `translate`. The table of routes has them, too, but takes longer to import than help to print."""


@click.command(
    cls=Command,
    example="cohere-gateway translate chat request.json",
    help="Prints the Cohere request that the gateway would send, and the notes. Sends nothing.\n\n"
    f"OPERATION is the operation of the request: {', '.join(OPERATIONS)}. FILE has an OpenAI request (default: -, "
    "standard input).",
)
@click.argument("operation", metavar="OPERATION")
@click.argument("file", metavar="[FILE]", default="-")
@config_option("The settings file, for aliases.")
@click.option("--strict", is_flag=True, help="Refuse what would be ignored or adjusted.")
def translate(operation: str, file: str, config: str | None, strict: bool) -> None:
    from gateway.pipeline.cl100k_base import vocabulary
    from gateway.pipeline.operations import TRANSLATE
    from translators.core.contracts import Context, ResponseIdentity
    from translators.core.errors import TranslationError
    from translators.core.surrogates import replace_halves

    if operation not in TRANSLATE:
        raise CommandFailed(f"translate: '{operation}' is not one of {', '.join(TRANSLATE)}")
    try:
        body = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise CommandFailed(f"cannot read {file}: {error.strerror}", 1) from error
    # As the gateway does with each body before it is translated.
    body = replace_halves(body)
    policy = read_settings(config).policy
    try:
        call = TRANSLATE[operation](
            body, Context(ResponseIdentity(0, "0"), policy, strict=strict, vocabulary=vocabulary)
        )
    except RecursionError as error:
        raise CommandFailed("400: the request is nested too deeply", 1) from error
    except TranslationError as error:
        failure = error.failure
        field = f" at {failure.param}" if failure.param else ""
        raise CommandFailed(f"{failure.status} {failure.code}{field}: {failure.message}", 1) from error
    # Requests that are split into parts have no files.
    if getattr(call, "unparsed_files", ()):
        raise CommandFailed("PDF files and images of pages are read by Cohere, which is not asked here", 1)
    # Each once: `n` asks Cohere for the same several times.
    for body in dict.fromkeys(call.bodies):
        click.echo(body)
    for note in call.notes:
        print(f"note: {note.text}", file=sys.stderr)
