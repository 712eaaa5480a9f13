"""What is generated in the documents: `make docs` writes it, and `tests/test_docs.py` reports what is stale.

A table stands in a document between `<!-- generated: NAME -->` and `<!-- end -->`, where NAME is a key of
TABLES. Each is made from the table that the program runs on, so that a new row there needs no words here.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

# As a script, this file would not find the folder above it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prometheus_client import Counter

from gateway.auth.permissions import FULL, GROUPS, PRESETS, READ, levels_of
from gateway.cohere_methods import METHODS
from gateway.emulator.faults import FAULTS
from gateway.endpoints.stored import STORED
from gateway.errors import ERRORS
from gateway.http.path_aliases import SPELLINGS
from gateway.http.unsupported import UNSUPPORTED
from gateway.ledger.prices import UNITS, packaged
from gateway.management import field_table
from gateway.management import fields as managed
from gateway.management.operations import OPERATIONS
from gateway.observability.metrics import Metrics
from gateway.pipeline.operations import BATCHES, CALLS, COUNTS, LOOKUPS, SOCKETS, TRANSLATED, UPLOADS
from gateway.settings.reference import described
from support import architecture
from translators.answer.turn import FAILED_REASONS
from translators.core.capabilities import CAPABILITIES, EMBEDDERS, Capabilities, EmbeddingModel
from translators.core.faults import MEANINGS
from translators.core.field_table import Field, Verdict
from translators.core.model_names import SUCCESSORS, SYNONYMS
from translators.core.upstream_errors import MODEL_NOT_FOUND, QUOTA, UPSTREAM_ERRORS, Meaning
from translators.request.reasoning import BUDGETS

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
)
"""All documents but the changelog, in which nothing is generated."""

GENERATED = re.compile(r"(<!-- generated: (?P<name>[a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    """Returns a Markdown table. A bar inside a cell would end the cell."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


def code(text: object) -> str:
    return f"`{text}`" if text not in ("", None) else ""


def codes(texts: Sequence[str]) -> str:
    return ", ".join(code(text) for text in texts)


def yes(flag: bool) -> str:
    return "yes" if flag else "no"


def paths() -> str:
    """What is served of OpenAI's API, from the table of operations."""
    rows = [("POST", row.path, f"translated to Cohere's `{row.upstream}`") for row in CALLS]
    rows += [("POST", row.path, f"translated to Cohere's `{row.upstream}`") for row in BATCHES]
    rows += [("POST", row.path, f"forwarded to Cohere's `{row.upstream}`") for row in UPLOADS]
    rows += [("GET", row.call.path, "the same as messages of a WebSocket") for row in SOCKETS]
    rows += [("POST", row.path, f"translated, and counted by Cohere's `{row.upstream}`") for row in COUNTS]
    rows += [("GET", re.sub(r"\{.*\}", "{id}", row.path), "answered from Cohere's list of models") for row in LOOKUPS]
    rows += [(method, path, "stored by the gateway") for path, actions in STORED.items() for method in actions]
    return table(("Path", "What happens"), ((code(f"{method} {path}"), what) for method, path, what in rows))


def unsupported() -> str:
    """What is refused of OpenAI's API, and what to use instead."""
    rows = (
        (code(f"{' '.join(row.methods)} {path}".strip() + ("{id}" if path.endswith("/") else "")), row.why, row.instead)
        for path, row in UNSUPPORTED.items()
    )
    return table(("Path", "Why not", "Instead"), rows)


def base_urls() -> str:
    return table(("Spelling", "Example"), ((row.label, code(row.example)) for row in SPELLINGS))


def cohere_methods() -> str:
    """Cohere's methods by their group."""
    groups: dict[str, list[str]] = {}
    for row in METHODS:
        path = re.sub(r"\{.*?\}", "{id}", row.path)
        groups.setdefault(row.group, []).append(f"{row.verb} {path}")
    return table(("Group", "Methods"), ((name.replace("_", " "), codes(rows)) for name, rows in groups.items()))


def permissions() -> str:
    """What each method needs, and which presets grant it."""
    rows = (
        (
            code(row.group),
            code(row.name),
            code(f"{row.verb} {row.path}"),
            "read" if row.reads else "full",
            codes([name for name in PRESETS if levels_of(name, "none").of(row) >= (READ if row.reads else FULL)]),
        )
        for row in sorted(METHODS, key=lambda row: GROUPS.index(row.group))
    )
    return table(("Group", "Method", "Path", "Needs", "In the presets"), rows)


def settings() -> str:
    rows = (
        (codes(line.environment), code(line.path), code(line.default), f"{line.text[:1].upper()}{line.text[1:]}")
        for line in described()
    )
    return table(("Environment", "Key in `gateway.toml`", "Default", "Meaning"), rows)


BEYOND: Mapping[str, str] = {
    "body_limit": "413 `request_too_large`",
    "audio_limit": "413 `request_too_large`",
    "upload_limit": "413 `request_too_large`",
    "max_websockets": "503 `websocket_connection_limit_reached`",
    "max_websockets_per_caller": "429 `websocket_connection_limit_reached`",
    "max_background_responses_per_caller": "429 `too_many_in_background`",
    "max_background_responses": "the response is `queued`",
    "concurrency.max_in_flight": "the call waits for its turn",
    "concurrency.queue_size": "503 `too_many_calls`",
    "concurrency.queue_timeout": "503 `too_many_calls`",
    "concurrency.caller_share": "the call waits for its turn, or 503 `too_many_calls`",
    "max_json_keys": "400 `bad_request`",
    "max_json_values": "400 `bad_request`",
    "offload.min_bytes": "the request is read in a thread",
    "offload.queue_size": "503 `too_many_calls`",
    "offload.queue_share": "503 `too_many_calls`",
    "memory.max_bytes": "503 `too_many_bytes`",
    "memory.caller_share": "429 `too_many_bytes`; 413 or 502 for one request or answer alone",
    "pool.queue_timeout": "429 `rate_limit_exceeded`",
    "retries.count": "the last failure is passed on",
    "retries.budget": "the last failure is passed on",
    "timeouts.connect": "504 `upstream_timeout`, after the retries",
    "timeouts.first_event": "504 `upstream_timeout`",
    "timeouts.between_events": "504 `upstream_timeout`; in a stream, an error event",
    "timeouts.total": "504 `upstream_timeout`; in a stream, an error event",
    "timeouts.request_body": "408 `request_timeout`",
    "timeouts.request_body_total": "408 `request_timeout`",
    "timeouts.response_write": "the connection is closed",
    "timeouts.hung_worker": "the worker is killed and replaced",
    "timeouts.keep_alive": "the connection is closed",
    "timeouts.websocket_idle": "the WebSocket is closed",
    "timeouts.shutdown": "503 `gateway_stopping`; in a stream, an error event",
    "max_stored_bytes": "507 `storage_limit_reached`",
    "max_stored_bytes_per_caller": "507 `storage_limit_reached`",
    "response_days": "404 `response_not_found`",
    "cache.memory_bytes": "the oldest entries leave",
}
"""What happens beyond the bound that a setting sets."""


def limits() -> str:
    """The bounds that settings set, with their defaults."""
    lines = {line.path: line for line in described()}
    rows = (
        (f"{lines[path].text[:1].upper()}{lines[path].text[1:]}", code(path), code(lines[path].default), beyond)
        for path, beyond in BEYOND.items()
    )
    return table(("Bound", "Setting", "Default", "Beyond it"), rows)


def fields() -> str:
    """The support matrix of every operation that takes a body."""
    parts = []
    for operation in TRANSLATED:
        rows = ((code(row.name), row.verdict.value, _goes_to(row), _remarks(row)) for row in operation.fields.rows)
        part = f"## `{operation.path}`\n\n" + table(("Field", "Verdict", "At Cohere", "Remarks"), rows)
        synonyms = [f"`{name}` is read as `{meant}`" for name, meant in operation.fields.synonyms.items()]
        parts.append(part + (f"\nSynonyms: {', '.join(synonyms)}.\n" if synonyms else ""))
    return "\n".join(parts)


def _goes_to(row: Field) -> str:
    return code(row.to) if row.verdict is Verdict.SEND else ""


def _remarks(row: Field) -> str:
    neutral = " and ".join(code(text.decode()) for text in row.neutral)
    return "; ".join(filter(None, (row.why, f"no note for {neutral}" if neutral else "")))


def models() -> str:
    head = ("Model", "Longest answer", "Reasoning", "Tools", "`tool_choice`", "Images", "Documents", "JSON Schema")
    return table(head, (_model(name, model) for name, model in CAPABILITIES.items()))


def _model(name: str, model: Capabilities) -> Sequence[str]:
    choice = model.tools and model.tool_choice
    abilities = (model.reasoning, model.tools, choice, model.images, model.documents, model.json_schema)
    return code(name), f"{model.max_output:,}" if model.max_output else "", *map(yes, abilities)


def embedding_models() -> str:
    head = ("Model", "Dimensions", "Texts with images", "Types", "base64")
    return table(head, (_embedder(name, model) for name, model in EMBEDDERS.items()))


def _embedder(name: str, model: EmbeddingModel) -> Sequence[str]:
    own, *others = model.sizes
    sizes = f"{own:,}" + (f", or {', '.join(f'{size:,}' for size in others)}" if others else "")
    types = [name for name in model.types if name != "base64"]
    return (
        code(name),
        sizes,
        yes(model.fused),
        codes(types),
        "of Cohere" if "base64" in model.types else "of the gateway",
    )


def successors() -> str:
    return table(("Asked for", "Served by"), ((code(old), code(new)) for old, new in SUCCESSORS.items()))


def synonyms() -> str:
    return table(("Name", "Cohere's"), ((code(name), code(model)) for name, model in SYNONYMS.items()))


def reasoning_efforts() -> str:
    words = {None: "no limit", 0: "thinking is switched off"}
    rows = ((code(effort), words.get(budget) or f"{budget:,} tokens") for effort, budget in BUDGETS.items())
    return table(("Effort", "Budget of thinking"), rows)


def errors() -> str:
    """The gateway's own errors, by their status."""
    rows = (
        (str(row.status), code(row.type), code(row.code), row.when, code(row.fault.value))
        for row in sorted(ERRORS.values(), key=lambda row: row.status)
    )
    return table(("Status", "`type`", "`code`", "What happened", "Fault"), rows)


def call_faults() -> str:
    """Whose fault a failure is, in log, metrics and ledger."""
    return table(("Fault", "Meaning"), ((code(fault.value), text) for fault, text in MEANINGS.items()))


def prices() -> str:
    """The packaged prices, with where they are from."""
    rows = (
        (
            code(model),
            ", ".join(
                f"{name.replace('_', ' ')} {getattr(row, name):g}" for name in UNITS if getattr(row, name) is not None
            ),
            row.source or "",
            row.date or "",
        )
        for model, row in packaged().items()
    )
    return table(("Model", "US dollars", "Source", "Date"), rows)


def upstream_errors() -> str:
    """Cohere's statuses, the two that need its sentence as well, and the endings that are failures."""
    head = ("Cohere says", "With the caller's own key", "With the server's key")
    lines: list[tuple[str, Meaning, Meaning]] = []
    for status, row in UPSTREAM_ERRORS.items():
        lines.append((str(status), row.own, row.server))
        if status == 403:
            lines.append(("403, the text names a model", row.own, MODEL_NOT_FOUND))
        if status == 429:
            lines.append(("429, the text speaks of a month", QUOTA, QUOTA))
    lines.append(("any other 4xx", UPSTREAM_ERRORS[400].own, UPSTREAM_ERRORS[400].server))
    lines.append(("any other status", UPSTREAM_ERRORS[500].own, UPSTREAM_ERRORS[500].server))
    for reason, failed in FAILED_REASONS.items():
        meaning = Meaning(failed.status, failed.type, failed.code or "", failed.fault, failed.should_retry)
        lines.append((f"finish reason {code(reason)}", meaning, meaning))
    return table(
        head, ((cause, _answer(own), "same" if own == server else _answer(server)) for cause, own, server in lines)
    )


def _answer(meaning: Meaning) -> str:
    retry = {None: "", True: ", `x-should-retry: true`", False: ", `x-should-retry: false`"}[meaning.should_retry]
    return f"{meaning.status} {code(meaning.code)}{retry}; {code(meaning.fault.value)}"


def metrics() -> str:
    rows = []
    for collector in Metrics(lambda model: False, ()).collectors:
        (described_metric,) = collector.describe()
        suffix = "_total" if isinstance(collector, Counter) else ""
        # The library has no public way to ask a collector without samples for its labels.
        labels = collector._labelnames
        name = code(described_metric.name + suffix)
        rows.append((name, described_metric.type, codes(labels), described_metric.documentation))
    return table(("Metric", "Type", "Labels", "What it counts"), iter(rows))


def management() -> str:
    """The paths of the management API."""
    rows = ((", ".join(code(f"{row.verb} {path}") for path in row.paths), row.does) for row in OPERATIONS)
    return table(("Path", "Does"), rows)


def managed_fields(fields: field_table.FieldTable) -> str:
    """The fields of a kind of record, what is honoured first."""
    verdicts = list(field_table.Verdict)
    rows = sorted(fields.rows.values(), key=lambda row: verdicts.index(row.verdict))
    synonyms = {name: f"; also `{synonym}`" for synonym, name in fields.synonyms.items()}
    return table(
        ("Field", "Verdict", "Remarks"),
        ((code(row.name), row.verdict.value, row.why + synonyms.get(row.name, "")) for row in rows),
    )


def faults() -> str:
    rows = ((code(name), code(row.default), row.description) for name, row in FAULTS.items())
    return table(("Fault", "Argument, if none is given", "What the emulator does"), rows)


def targets() -> str:
    """The make targets with the `##` text that `make` prints."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lines = re.findall(r"^([a-z-]+):.*?## (.*)$", makefile, re.MULTILINE)
    return table(("Target", "Does"), ((code(f"make {name}"), does) for name, does in lines))


TABLES: Mapping[str, Callable[[], str]] = {
    "paths": paths,
    "unsupported": unsupported,
    "base urls": base_urls,
    "cohere methods": cohere_methods,
    "permissions": permissions,
    "settings": settings,
    "limits": limits,
    "fields": fields,
    "models": models,
    "embedding models": embedding_models,
    "successors": successors,
    "synonyms": synonyms,
    "reasoning efforts": reasoning_efforts,
    "errors": errors,
    "prices": prices,
    "call faults": call_faults,
    "upstream errors": upstream_errors,
    "metrics": metrics,
    "faults": faults,
    "management": management,
    "key fields": lambda: managed_fields(managed.KEY_NEW),
    "team fields": lambda: managed_fields(managed.TEAM_NEW),
    "end user fields": lambda: managed_fields(managed.END_USER_NEW),
    "targets": targets,
}


FILES: Mapping[str, Callable[[], str]] = {"docs/architecture.svg": architecture.svg}
"""Files that are generated as a whole."""


def regenerated(text: str) -> str:
    """Returns the document with every generated part made anew. Raises KeyError for a table that does not exist."""
    return GENERATED.sub(lambda match: f"{match[1]}\n{TABLES[match['name']]()}\n{match[3]}", text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Writes the generated tables into the documents.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 when a table is stale")
    check = parser.parse_args(arguments).check
    stale = False
    for name in (*DOCUMENTS, *FILES):
        path = ROOT / name
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        new = FILES[name]() if name in FILES else regenerated(old)
        if new != old:
            stale = True
            print(f"{name} {'is stale: run make docs' if check else 'is written'}")
            if not check:
                path.write_text(new, encoding="utf-8")
    return int(check and stale)


if __name__ == "__main__":
    sys.exit(main())
