"""An uploaded file as rows: JSON lines, CSV or plain text, and whether its type of dataset may have them.

Only the beginning of a file is kept (`multipart.KEPT`, `MOST`); what is not kept is counted. Source:
docs/cohere-api.md#datasets.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.emulator.multipart import Part

MOST = 100  # rows that are kept, and so embedded, answered or learned from
LONGEST_SAMPLE = 200
DECODER = msgspec.json.Decoder()

# type of dataset -> the fields that each row must have
REQUIRED: dict[str, tuple[str, ...]] = {
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


class Rows(msgspec.Struct, kw_only=True):
    """The rows that are kept, how many there were, and what is wrong with some of them."""

    kept: list[dict[str, Any]]
    count: int
    malformed: list[str]
    warnings: list[str]


def read(part: Part, kind: str, separator: str, delimiter: str) -> Rows:
    """The rows of a file."""
    text = part.data.decode("utf-8", "replace").removeprefix("\ufeff")
    if not part.whole:
        text = text[: text.rfind("\n") + 1]  # a row that was cut is none
    suffix = (part.filename or "").rpartition(".")[2].lower()
    if suffix == "csv":
        found, malformed = _from_csv(text, delimiter)
    elif suffix == "txt":
        lines = text.split(separator or "\n")
        found, malformed = [{"text": line.strip()} for line in lines if line.strip()], []
    else:
        found, malformed = _from_json_lines(text)
    problems = [(row, _problem(row, kind)) for row in found]
    good = [row for row, problem in problems if not problem]
    malformed += [problem for _, problem in problems if problem]
    if kind.startswith("batch-"):
        good = _unique(good, malformed)
    count = len(found) if part.whole else part.lines
    warnings = []
    if count > len(found) or len(good) > MOST:
        warnings.append(f"the emulator keeps the first {min(len(good), MOST)} rows only")
    return Rows(kept=good[:MOST], count=count, malformed=malformed, warnings=warnings)


def sample(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What a dataset shows of its rows."""
    return [msgspec.json.encode(row).decode("utf-8", "replace")[:LONGEST_SAMPLE] for row in rows[:3]]


def _from_csv(text: str, delimiter: str) -> tuple[list[dict[str, Any]], list[str]]:
    found: list[dict[str, Any]] = []
    try:
        for row in csv.DictReader(io.StringIO(text), delimiter=delimiter or ","):
            found.append({name: value for name, value in row.items() if name is not None and value is not None})
    except csv.Error as error:
        return found, [f"csv: {error}"]
    return found, []


def _from_json_lines(text: str) -> tuple[list[dict[str, Any]], list[str]]:
    found: list[dict[str, Any]] = []
    malformed: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = DECODER.decode(line)
        except (msgspec.DecodeError, RecursionError):
            row = None
        if isinstance(row, dict):
            found.append(row)
        else:
            malformed.append(f"line {number} is not a JSON object")
    return found, malformed


def _problem(row: dict[str, Any], kind: str) -> str:
    """Why a row cannot be in such a dataset; empty when it can."""
    for field in REQUIRED[kind]:
        if row.get(field) in (None, ""):
            return f"field '{field}' is missing"
    if "custom_id" in REQUIRED[kind]:
        if not isinstance(row["custom_id"], str) or not isinstance(row["body"], dict):
            return "custom_id must be a string and body an object"
    elif "text" in REQUIRED[kind] and not isinstance(row["text"], str):
        return "field 'text' must be a string"
    return ""


def _unique(found: list[dict[str, Any]], malformed: list[str]) -> list[dict[str, Any]]:
    by_id: dict[str, dict[str, Any]] = {}
    for row in found:
        if row["custom_id"] in by_id:
            malformed.append(f"custom_id '{row['custom_id']}' occurs twice")
        by_id.setdefault(row["custom_id"], row)
    return list(by_id.values())
