"""What commands print: tables for people, JSON for programs. rich is imported when the first table is printed."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from gateway.cli.command import wants_json

PIPE_WIDTH = 240
"""Characters of a line where standard output is no terminal: whoever reads it wants whole values."""


def print_json(value: Any) -> None:
    """Prints a value as JSON, indented."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], empty: str) -> None:
    """Prints a row for each mapping. columns: heading by the name of the value. empty: what is said of no rows."""
    if not rows:
        print(empty)
        return
    table = _table(columns.values())
    for row in rows:
        table.add_row(*[text_of(row.get(name)) for name in columns])
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


def _print(table: Any) -> None:
    from rich.console import Console

    # Values are data: no markup, no emoji, no colours that depend on what they look like.
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    Console(markup=False, emoji=False, highlight=False, width=width).print(table)
