"""Keys that LiteLLM issued, taken over by their digests: its table `LiteLLM_VerificationToken` as CSV or JSON lines.

Each row is judged by the table of fields that judges requests. A row whose restrictions would be lost is not imported,
unless that is asked for; one of a team that is not here, never, since a team's limits are not in this table.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Struct

from gateway.management.field_table import FieldTable, Verdict
from gateway.management.fields import KEY_UPDATE
from gateway.management.request import Actor, Work
from gateway.management.values import Texts
from gateway.store import keys
from gateway.store.errors import NameTaken
from gateway.store.key_lists import Connection, present
from gateway.virtual_keys import PREFIX, Team, VirtualKey, digest_of, new_key_id
from translators.core.errors import InvalidField
from translators.core.notes import Notes

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")

BOOKKEEPING = frozenset(
    "token key_name expires spend total_spend model_spend created_at created_by updated_at updated_by last_active"
    " settings_updated_at budget_reset_at soft_budget_cooldown rotation_count last_rotation_at key_rotation_at"
    " budget_limits_usage model_max_budget_usage permissions key_type litellm_budget_table status".split()
)
"""Columns that say nothing of what a key may do, or are read in a way of their own. LiteLLM's permissions are words of
its own interface.
"""

MAX_CELL_CHARACTERS = 16 * 1024 * 1024

IN_METADATA = ("model_rpm_limit", "model_tpm_limit", "tags")
"""Fields that LiteLLM keeps in the metadata of a row."""

ALIASES = {"object_permission_id": "object_permission", "organization": "organization_id", "org_id": "organization_id"}

# Rows have `expires` and no duration, and a role is given by the master key alone.
_TABLE = FieldTable([row for row in KEY_UPDATE.rows.values() if row.name not in ("key", "duration", "role")])
_OPEN = FieldTable([row for row in _TABLE.rows.values() if row.verdict is not Verdict.REFUSED])
_RESTRICTIONS = frozenset(row.name for row in _TABLE.rows.values() if row.verdict is Verdict.REFUSED)
_OBJECTS = frozenset(row.name for row in _TABLE.rows.values()) - {"key_alias", "team_id", "user_id"}
_LISTS = frozenset(row.name for row in _TABLE.rows.values() if row.type == Texts)


class Skipped(Struct, frozen=True):
    """A row that is not imported. name: how it may be recognised; never its secret."""

    row: int
    name: str
    reason: str


class Imported(Struct):
    """What became of the rows. notes: what was left out of keys that are imported, by their names.

    rows: the number of each key's row in the file, from 1.
    """

    keys: list[VirtualKey]
    skipped: list[Skipped]
    notes: list[str]
    rows: list[int]
    present: int = 0


def read_rows(content: bytes) -> Iterator[Mapping[str, Any]]:
    """Yields the rows of a file. Raises ValueError, whose sentence names the line."""
    # Spreadsheets write a byte order mark in front, which would become a part of the first column's name.
    text = content.decode("utf-8-sig")
    if text.lstrip().startswith("{"):
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    yield msgspec.json.decode(line, type=dict[str, Any])
                except msgspec.DecodeError as error:
                    raise ValueError(f"line {number} is not a JSON object: {error}") from error
        return
    # csv refuses cells of more than 128 KiB by itself, and metadata may have more.
    csv.field_size_limit(MAX_CELL_CHARACTERS)
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if "token" not in (reader.fieldnames or ()):
        raise ValueError("it is neither JSON lines nor CSV with a head that has the column 'token'")
    try:
        for row in reader:
            # Of a file that was cut, or a comma without quotes: cells would be lost, or taken for their neighbours, and
            # a key could have fewer limits than it had.
            if None in row or None in row.values():
                raise ValueError(f"line {reader.line_num} has not as many cells as the head")
            yield {name: _csv_value(name, value) for name, value in row.items() if isinstance(name, str)}
    except csv.Error as error:
        # Its own number is that of the last row that could be read.
        raise ValueError(f"line {reader.reader.line_num} is not CSV: {error}") from error


def _csv_value(name: str, text: Any) -> Any:
    """Returns a cell as JSON would have it: PostgreSQL writes `{a,b}` for lists and `t` for true."""
    if not isinstance(text, str) or text in ("", r"\N"):
        return None
    if name == "blocked":
        return text.lower() in ("t", "true", "1")
    if name not in _OBJECTS:
        return text
    if text == "{}" and name in _LISTS:
        return []  # PostgreSQL's empty list, which is JSON for an empty object as well
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        if text.startswith("{") and text.endswith("}"):
            # Elements of PostgreSQL's arrays are quoted as in CSV, but for the backslash.
            return next(csv.reader([text[1:-1]], escapechar="\\"), [])
        return text


def judge(rows: Iterator[Mapping[str, Any]], drop_restrictions: bool = False) -> Imported:
    """Makes keys of the rows. drop_restrictions: imports keys although their restrictions are lost."""
    result = Imported([], [], [], [])
    for number, row in enumerate(rows, 1):
        name = str(row.get("key_alias") or row.get("key_name") or f"row {number}")[:100]
        try:
            result.keys.append(_key(row, name, drop_restrictions, result.notes))
            result.rows.append(number)
        except (InvalidField, ValueError) as error:
            result.skipped.append(Skipped(number, name, str(error)))
    return result


def _key(row: Mapping[str, Any], name: str, drop_restrictions: bool, notes: list[str]) -> VirtualKey:
    # Whichever of the two it is, the digest alone is kept.
    token = row.get("token")
    if not isinstance(token, str) or not token:
        raise ValueError("it has no token")
    digest = digest_of(token) if token.startswith(PREFIX) else token
    if not _DIGEST.match(digest):
        raise ValueError("its token is neither a digest nor a secret")
    fields = {ALIASES.get(name, name): value for name, value in row.items() if name not in BOOKKEEPING}
    metadata = fields.get("metadata")
    if isinstance(metadata, dict):
        # Restrictions, too: overlooked in the metadata, one would be lost without a word.
        for lifted in (*IN_METADATA, *_RESTRICTIONS):
            if lifted in metadata and not fields.get(lifted):
                fields[lifted] = metadata[lifted]
        fields["metadata"] = {key: value for key, value in metadata.items() if key not in IN_METADATA}
    if drop_restrictions:
        lost = sorted(name for name in _RESTRICTIONS & fields.keys() if fields[name])
        if lost:
            notes.append(f"{name}: without {', '.join(lost)}")
    rows = _TABLE.rows
    unknown = sorted(name for name, value in fields.items() if name not in rows and value)
    if unknown:
        notes.append(
            f"{name}: without {', '.join(unknown)}, which LiteLLM's tables had no meaning for when this was made"
        )
    heard = Notes()
    accepted = {name: value for name, value in fields.items() if name in (_OPEN if drop_restrictions else _TABLE).rows}
    values = (_OPEN if drop_restrictions else _TABLE).read(msgspec.json.encode(accepted), heard)
    notes.extend(f"{name}: {note.text}" for note in heard)
    key_name = row.get("key_name")
    # LiteLLM's name of a key ends with the last characters of its secret.
    last_four = key_name[-4:] if isinstance(key_name, str) and len(key_name) > 4 else ""
    return VirtualKey(
        key_id=new_key_id(), digest=digest, last_four=last_four, expires=_seconds(row.get("expires")), **values
    )


def _seconds(value: Any) -> float | None:
    """Returns a date of LiteLLM's as Unix seconds. Raises ValueError: a key that never expires is no way out."""
    if value in (None, ""):
        return None
    if isinstance(value, int | float):
        return float(value)
    # Dates without a zone are UTC in LiteLLM's table.
    moment = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def insert(result: Imported, actor: Actor, now: float, dry_run: bool = False) -> Work:
    """Returns what stores the keys, all that can be: those that are here already are counted and left as they are."""

    def work(connection: Connection) -> Imported:
        teams: dict[str, bool] = {}
        wanted: list[tuple[int, VirtualKey]] = []
        # For all at once, as there may be a hundred thousand.
        digests = present(connection, "digest", [key.digest for key in result.keys])
        aliases = present(connection, "alias", [key.key_alias for key in result.keys if key.key_alias])
        for number, key in zip(result.rows, result.keys, strict=True):
            name = key.key_alias or key.key_name
            # So that an import may be repeated, or goes on where another one ended.
            if key.digest in digests:
                result.present += 1
                continue
            if key.team_id is not None and key.team_id not in teams:
                teams[key.team_id] = keys.get(connection, Team, key.team_id) is not None
            if key.team_id is not None and not teams[key.team_id]:
                reason = f"its team is not here: make it first, with --team-id '{key.team_id}'"
                result.skipped.append(Skipped(number, name, reason))
            elif key.key_alias in aliases:
                result.skipped.append(Skipped(number, name, "another key has its alias"))
            else:
                wanted.append((number, key))
                if key.key_alias is not None:
                    aliases.add(key.key_alias)
        # A dry run reads all that an import reads, so that its result is the same.
        if not dry_run:
            try:
                keys.insert(connection, [key for _, key in wanted], actor.changed_by, now)
            except NameTaken as error:
                raise InvalidField(None, f"two rows have the same {error.field}: nothing was imported") from error
        result.rows, result.keys = [number for number, _ in wanted], [key for _, key in wanted]
        # Those that were left out here, and before, in the order of the file.
        result.skipped.sort(key=attrgetter("row"))
        return result

    return work
