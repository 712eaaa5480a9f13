"""What commands print: tables for people, JSON for programs. rich is imported when the first table is printed."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
import msgspec

from gateway.cli.command import wants_json

PIPE_WIDTH = 240
"""Characters of a line where standard output is no terminal: whoever reads it wants whole values."""

ANY_WIDTH = 1_000_000
"""More characters than a line of a table may need."""


def print_json(value: Any) -> None:
    """Prints a value as JSON, indented."""
    # As bytes: JSON is UTF-8, whatever the locale of the terminal.
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], empty: str) -> None:
    """Prints a row for each mapping. columns: heading by the name of the value. empty: what is said of no rows.

    Where the line is too short for all columns, those without a value are left out; where it still is, each row is a
    table of its own, with a line for each value.
    """
    if not rows:
        print(empty)
        return
    texts = [{name: text_of(row.get(name)) for name in columns} for row in rows]
    filled = {name: heading for name, heading in columns.items() if any(one[name] for one in texts)}
    for visible in (columns, filled):
        table = _table(visible.values())
        for one in texts:
            table.add_row(*[one[name] for name in visible])
        if _fits(table):
            _print(table)
            return
    for number, one in enumerate(texts):
        if number:
            print()
        table = _table(("Field", "Value"))
        for name, heading in filled.items():
            if one[name]:
                table.add_row(heading, one[name])
        _print(table)


def print_fields(fields: Mapping[str, Any]) -> None:
    """Prints a line for each value that is set."""
    table = _table(("Field", "Value"))
    for name, value in fields.items():
        # 0 and False are values.
        if value not in (None, "", [], {}):
            table.add_row(name, text_of(value))
    _print(table)


def print_answer(answer: Any, rows: Any, columns: Mapping[str, str], empty: str) -> None:
    """Prints a list as JSON or as a table of its rows."""
    if wants_json():
        print_json(answer)
    else:
        print_rows(rows, columns, empty)


def print_note(text: str) -> None:
    """Prints a note on standard error."""
    print(f"note: {text}", file=sys.stderr)


def text_of(value: Any) -> str:
    """Returns a value as it is shown in a cell, on one line."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _table(headings: Iterable[str]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in headings:
        # Folded and not cut: an id is of no use without its end.
        table.add_column(heading, overflow="fold")
    return table


def _fits(table: Any) -> bool:
    """Returns whether each value of a table is on one line."""
    console = _console()
    # rich measures within the console's width, so that all would fit.
    options = console.options.update(width=ANY_WIDTH)
    return bool(console.measure(table, options=options).maximum <= console.width)


def _print(table: Any) -> None:
    _console().print(table)


def _console() -> Any:
    from rich.console import Console

    # Values are data: no markup, no emoji, no colours that depend on what they look like.
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(markup=False, emoji=False, highlight=False, width=width)
