"""What `cohere-gateway keys import` does."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from gateway.cli.command import CommandFailed, read_settings, wants_json
from gateway.cli.management import operator, run_transaction
from gateway.cli.tables import print_json, print_note, print_rows
from gateway.management import litellm_import

IMPORT_SECONDS = 900.0
"""That one transaction may take: a hundred thousand keys take about a minute on a busy machine."""

COLUMNS = {"row": "Row", "name": "Key", "reason": "Not imported, because"}


def import_file(file: str, drop_restrictions: bool, dry_run: bool, where: Mapping[str, Any]) -> None:
    """Imports the keys of a file and prints what became of them. Raises CommandFailed, also for rows that were left."""
    if where["url"]:
        raise CommandFailed("--url: digests are imported into the database itself; run this where its settings are")
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise CommandFailed(f"cannot read {file}: {error.strerror}", 1) from error
    settings = read_settings(where["config"])
    try:
        result = litellm_import.judge(litellm_import.read_rows(content), drop_restrictions)
    except (ValueError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{file}: {error}", 1) from error
    plan = litellm_import.insert(result, operator(), time.time(), dry_run)
    result = run_transaction(settings.database_url, lambda: plan, seconds=IMPORT_SECONDS)
    _print(result, dry_run)
    # A failure, so that a script does not go on as if all keys were here.
    if result.skipped:
        raise CommandFailed(f"{len(result.skipped)} of the keys {'would be' if dry_run else 'were'} left out", 1)


def _print(result: litellm_import.Imported, dry_run: bool) -> None:
    skipped = msgspec.to_builtins(result.skipped)
    if wants_json():
        counts = {"imported": len(result.keys), "present": result.present, "dry_run": dry_run}
        print_json({**counts, "skipped": skipped, "notes": result.notes})
        return
    for note in result.notes:
        print_note(note)
    if skipped:
        print_rows(skipped, COLUMNS, "")
    print(f"{'would be imported' if dry_run else 'imported'}: {len(result.keys)}, here already: {result.present}")
