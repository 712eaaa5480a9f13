"""The rows of an uploaded file (JSON lines, CSV or plain text), checked against the type of its dataset.

Only the beginning of a file is stored (`multipart.MAX_PART_BYTES`, `MAX_ROWS`); the rest is counted.
Source: docs/cohere-api.md#datasets.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.emulator.multipart import Part

MAX_ROWS = 100  # that are stored, and so embedded, run, or learned from
SAMPLES = 3
MAX_SAMPLE_CHARACTERS = 200
DECODER = msgspec.json.Decoder()

# type of dataset -> the fields that each row must have
REQUIRED_FIELDS: dict[str, tuple[str, ...]] = {
    "embed-input": ("text",),
    "embed-result": (),
    "cluster-result": (),
    "cluster-outliers": (),
    "reranker-finetune-input": ("query", "relevant_passages"),
    "single-label-classification-finetune-input": ("text", "label"),
    "multi-label-classification-finetune-input": ("text", "label"),
    "chat-finetune-input": ("messages",),
    "batch-chat-input": ("custom_id", "body"),
    "batch-openai-chat-input": ("custom_id", "body"),
    "batch-embed-v2-input": ("custom_id", "body"),
    "batch-chat-v2-input": ("custom_id", "body"),
}


class DatasetRows(msgspec.Struct, kw_only=True):
    """The first valid rows of a file, the number of all its rows, and what is wrong with the others."""

    rows: list[dict[str, Any]]
    count: int
    errors: list[str]
    warnings: list[str]


def read_rows(part: Part, kind: str, separator: str, delimiter: str) -> DatasetRows:
    """Returns the rows of a file. `separator` splits a text file, `delimiter` the columns of a CSV file."""
    # Some programs begin a file with a byte order mark, which is no part of its first column's name.
    text = part.data.decode("utf-8", "replace").removeprefix("\ufeff")
    if not part.complete:
        text = text[: text.rfind("\n") + 1]  # the last row was cut
    suffix = (part.filename or "").rpartition(".")[2].lower()
    if suffix == "csv":
        parsed, errors = _from_csv(text, delimiter)
    elif suffix == "txt":
        lines = text.split(separator or "\n")
        parsed, errors = [{"text": line.strip()} for line in lines if line.strip()], []
    else:
        parsed, errors = _from_json_lines(text)
    problems = [(row, _problem(row, kind)) for row in parsed]
    rows = [row for row, problem in problems if not problem]
    errors += [problem for _, problem in problems if problem]
    if kind.startswith("batch-"):
        rows = _with_unique_ids(rows, errors)
    count = len(parsed) if part.complete else part.lines
    warnings = []
    if count > len(parsed) or len(rows) > MAX_ROWS:
        warnings.append(f"the emulator keeps the first {min(len(rows), MAX_ROWS)} rows only")
    return DatasetRows(rows=rows[:MAX_ROWS], count=count, errors=errors, warnings=warnings)


def samples(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the beginnings of the first rows, as a dataset shows them."""
    return [msgspec.json.encode(row).decode("utf-8", "replace")[:MAX_SAMPLE_CHARACTERS] for row in rows[:SAMPLES]]


def _from_csv(text: str, delimiter: str) -> tuple[list[dict[str, Any]], list[str]]:
    rows: list[dict[str, Any]] = []
    try:
        for row in csv.DictReader(io.StringIO(text), delimiter=delimiter or ","):
            # `DictReader` has None for a name where a row is too long, and for a value where it is too short.
            rows.append({name: value for name, value in row.items() if name is not None and value is not None})
    except csv.Error as error:
        return rows, [f"csv: {error}"]
    return rows, []


def _from_json_lines(text: str) -> tuple[list[dict[str, Any]], list[str]]:
    rows: list[dict[str, Any]] = []
    errors: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = DECODER.decode(line)
        # msgspec gives up on deeply nested JSON with a RecursionError.
        except (msgspec.DecodeError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            errors.append(f"line {number} is not a JSON object")
    return rows, errors


def _problem(row: dict[str, Any], kind: str) -> str:
    """Returns why a dataset of that type cannot contain the row, or an empty string."""
    required = REQUIRED_FIELDS[kind]
    for field in required:
        if row.get(field) in (None, ""):
            return f"field '{field}' is missing"
    if "custom_id" in required:
        if not isinstance(row["custom_id"], str) or not isinstance(row["body"], dict):
            return "custom_id must be a string and body an object"
    elif "text" in required and not isinstance(row["text"], str):
        return "field 'text' must be a string"
    return ""


def _with_unique_ids(rows: list[dict[str, Any]], errors: list[str]) -> list[dict[str, Any]]:
    """Returns the rows, of several with the same custom_id the first; the others become errors."""
    by_id: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["custom_id"] in by_id:
            errors.append(f"custom_id '{row['custom_id']}' occurs twice")
        by_id.setdefault(row["custom_id"], row)
    return list(by_id.values())
