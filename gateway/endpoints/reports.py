"""The endpoints of reports: a row of REPORTS as an ASGI application; files of rows; and the bodies of one call.

The master key and keys with a role see everything; any other key or token sees itself. Who has no key of the gateway's
sees everything where there is but one caller: in demo mode, and in open mode on this machine.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Struct
from starlette.types import Receive, Scope, Send

from gateway.auth.modes import is_for_one_caller
from gateway.auth.principal import Principal
from gateway.errors import CallerError, failure
from gateway.http.disconnect import DisconnectWatcher
from gateway.http.query import read_query
from gateway.http.responses import send_json
from gateway.ledger import exports, reports
from gateway.ledger import litellm_reports as litellm
from gateway.ledger.entry import key_id_of
from gateway.ledger.report_query import AUDIT_PARAMETERS, NEWER_PARAMETERS, USAGE_PARAMETERS, Names
from gateway.ledger.reports import LedgerReader, Report
from gateway.observability.record import record_of
from gateway.pipeline.services import Services
from gateway.settings.schema import Settings
from gateway.store.errors import StoreUnavailable
from gateway.store.keys import Change
from gateway.store.ledger_pages import Filter, Position
from gateway.store.reports import changes
from translators.core.errors import InvalidField
from translators.core.notes import Notes

UNAVAILABLE = failure("no_storage", "The database does not answer")
NOT_REPORTED = failure(
    "role_missing", "Reports need the master key, a key or token with the role 'admin' or 'viewer', or one of your own"
)
ALL_ONLY = failure("role_missing", "This report is about all keys: it needs the master key, or a key with a role")

ADMINS_ONLY = failure("role_missing", "Bodies need the master key, or a key with the role 'admin'")
NO_BODIES = failure(
    "no_bodies", "No bodies of this call are stored: `ledger.bodies` says of which calls they are, and how long"
)

# As `new_row_id` makes them (`gateway/observability/lifecycle.py`).
_ROW_ID = re.compile(r"[0-9a-f]{24}")

CSV_TYPE = (b"content-type", b"text/csv; charset=utf-8")


class ReportOperation(Struct, frozen=True):
    """A row. query: the parameters. about_all: it has nothing for a caller who sees one key alone.

    tabular: its `data` may be had as CSV.
    """

    name: str
    path: str
    respond: Callable[[Report], Awaitable[Any]]
    query: tuple[str, ...]
    about_all: bool = False
    tabular: bool = False


DATES = ("start_date", "end_date")
LOGS = (*DATES, "api_key", "user_id", "team_id", "end_user", "model", "request_id")
PAGES = ("page", "page_size")

REPORTS: tuple[ReportOperation, ...] = (
    ReportOperation("audit", "/audit", reports.audit, AUDIT_PARAMETERS, tabular=True),
    ReportOperation("audit_newer", "/audit/newer", reports.audit_newer, NEWER_PARAMETERS),
    ReportOperation("usage", "/usage", reports.usage, USAGE_PARAMETERS, tabular=True),
    ReportOperation("spend_logs", "/spend/logs", litellm.spend_logs, (*LOGS, "summarize")),
    ReportOperation("spend_logs_page", "/spend/logs/v2", litellm.spend_logs_page, (*LOGS, *PAGES)),
    ReportOperation("spend_logs_ui", "/spend/logs/ui", litellm.spend_logs_page, (*LOGS, *PAGES)),
    ReportOperation("global_spend", "/global/spend", litellm.global_spend, (), True),
    ReportOperation("global_spend_logs", "/global/spend/logs", litellm.global_spend_logs, (*DATES, "api_key"), True),
    ReportOperation("global_spend_keys", "/global/spend/keys", litellm.global_spend_keys, (*DATES, "limit"), True),
    ReportOperation(
        "global_spend_models", "/global/spend/models", litellm.global_spend_models, (*DATES, "limit"), True
    ),
    ReportOperation("global_spend_teams", "/global/spend/teams", litellm.global_spend_teams, DATES, True),
    ReportOperation(
        "global_spend_report",
        "/global/spend/report",
        litellm.global_spend_report,
        (*DATES, "group_by", "api_key"),
        True,
    ),
    ReportOperation("global_activity", "/global/activity", litellm.global_activity, (*DATES, "api_key"), True),
    ReportOperation(
        "global_activity_models", "/global/activity/model", litellm.global_activity_models, (*DATES, "api_key"), True
    ),
    ReportOperation(
        "daily_activity", "/user/daily/activity", litellm.daily_activity, (*DATES, "model", "api_key", *PAGES)
    ),
)


class ReportEndpoint:
    """A row of REPORTS. reader: of the ledger's database."""

    def __init__(self, operation: ReportOperation, services: Services, reader: LedgerReader) -> None:
        self._operation, self._services, self._reader = operation, services, reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, record, operation = self._services, record_of(scope), self._operation
        record.operation, record.door, record.has_row = operation.name, "management", False
        own_key_id = own_key_id_of(record.principal, services.settings)
        if operation.about_all and own_key_id is not None:
            raise CallerError(ALL_ONLY)
        query = _query(scope["query_string"])
        report = _report(services, self._reader, query, own_key_id)
        try:
            answer = await operation.respond(report)
        except StoreUnavailable as error:
            services.state.log_failure(error)
            raise CallerError(UNAVAILABLE) from error
        wanted = query.get("format", "")
        if wanted not in ("", "json", "csv"):
            raise InvalidField("format", "'format' must be 'json' or 'csv'")
        accepts_csv = b"text/csv" in record.headers.get(b"accept", b"")
        if operation.tabular and (wanted == "csv" or (accepts_csv and wanted != "json")):
            # In a thread, since to write hundreds of rows as text would hold up the event loop.
            await _send_csv(send, answer, await asyncio.to_thread(reports.as_csv, answer["data"]))
            return
        async with DisconnectWatcher(receive) as watcher:
            await send_json(send, msgspec.json.encode(answer), Notes(), watcher)


EXPORT_PATH = "/audit/export"

MAX_EXPORTS = 2
"""Files that a worker writes at one time: each reads as fast as it is fetched, beside those who look at reports."""

TOO_MANY_EXPORTS = failure(
    "too_many_exports", f"{MAX_EXPORTS} files of calls are being written already: try again in a moment"
)
RETRY_EXPORT_AFTER = "10"


class ExportEndpoint:
    """Writes a file of all rows that a filter meets (`gateway/ledger/exports.py`), as fast as it is fetched.

    Where the database is lost in the middle the connection is torn: the file must not look whole.
    """

    def __init__(self, services: Services, reader: LedgerReader) -> None:
        self._services, self._reader = services, reader
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)
        record.operation, record.door, record.has_row = "audit_export", "management", False
        own_key_id = own_key_id_of(record.principal, self._services.settings)
        report = _report(self._services, self._reader, _query(scope["query_string"]), own_key_id)
        form = exports.format_of(report.query)
        # Nothing is awaited between this look and the count, so two cannot take the last place.
        if self._running >= MAX_EXPORTS:
            raise CallerError(TOO_MANY_EXPORTS, RETRY_EXPORT_AFTER)
        self._running += 1
        try:
            async with DisconnectWatcher(receive) as watcher:
                await self._send(send, report, form, watcher)
        except StoreUnavailable as error:
            self._services.state.log_failure(error)
            raise CallerError(UNAVAILABLE) from error
        finally:
            self._running -= 1

    async def _send(self, send: Send, report: Report, form: str, watcher: DisconnectWatcher) -> None:
        name = f"calls-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(report.now))}.{form}"
        headers = [
            (b"content-type", exports.CONTENT_TYPES[form]),
            (b"content-disposition", f'attachment; filename="{name}"'.encode()),
            (b"cache-control", b"no-store"),
        ]
        async with contextlib.aclosing(exports.export(report)) as pages:
            first = await anext(pages)  # before the head is sent, so that what is wrong by now has a status
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": first, "more_body": True})
            async for page in pages:
                await send({"type": "http.response.body", "body": page, "more_body": True})
        # Before the empty end: a caller who has all pages has the whole file.
        watcher.over()
        await send({"type": "http.response.body", "body": b""})


def _report(services: Services, reader: LedgerReader, query: Mapping[str, str], own_key_id: str | None) -> Report:
    """Returns a report of the database as it is now. own_key_id: of who sees nothing else."""

    async def page_of_changes(wanted: Filter, before: Position | None, limit: int) -> Sequence[Change]:
        store = await services.state.open()
        return await store.read(lambda connection: changes(connection, wanted, before, limit))

    directory = services.directory
    names = Names(directory.keys, directory.teams, directory.key_id_of)
    return Report(reader, page_of_changes, names, query, time.time(), own_key_id)


def own_key_id_of(principal: Principal, settings: Settings) -> str | None:
    """Returns the id of the one key that a caller sees; None for who sees everything. Raises CallerError (403)."""
    if principal.role or _is_only_caller(principal, settings):
        return None
    if principal.key is not None or principal.claims is not None:
        return key_id_of(principal)
    raise CallerError(NOT_REPORTED)


def _is_only_caller(principal: Principal, settings: Settings) -> bool:
    """Returns whether there is but one caller, who sees everything."""
    return is_for_one_caller(settings) and principal.key is None and principal.claims is None


BODIES_PATH = "/audit/{id}/body"


class Bodies(Protocol):
    """The bodies of calls that are stored (`gateway/ledger/writer.py`)."""

    async def find_body(self, id: str) -> Mapping[str, Any] | None: ...

    async def delete_body(self, id: str) -> bool: ...


class BodiesEndpoint:
    """Shows, or deletes, the bodies of one call. They are for the master key and for admins, not for viewers."""

    def __init__(self, services: Services, bodies: Bodies) -> None:
        self._services, self._bodies = services, bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record, id = record_of(scope), scope["path_params"]["id"]
        deleting = record.method == "DELETE"
        record.operation = "audit_body_delete" if deleting else "audit_body"
        record.door, record.has_row = "management", False
        principal = record.principal
        if principal.role not in ("admin", "master") and not _is_only_caller(principal, self._services.settings):
            raise CallerError(ADMINS_ONLY)
        # An id of another form is in no database, so none is asked.
        if not _ROW_ID.fullmatch(id):
            raise CallerError(NO_BODIES)
        try:
            if deleting:
                answer: Mapping[str, Any] | None = {"id": id, "deleted": await self._bodies.delete_body(id)}
            else:
                answer = await self._bodies.find_body(id)
        except StoreUnavailable as error:
            self._services.state.log_failure(error)
            raise CallerError(UNAVAILABLE) from error
        if answer is None:
            raise CallerError(NO_BODIES)
        async with DisconnectWatcher(receive) as watcher:
            await send_json(send, msgspec.json.encode({"id": id, **answer}), Notes(), watcher)


async def _send_csv(send: Send, answer: Mapping[str, Any], body: bytes) -> None:
    headers = [CSV_TYPE, (b"content-length", b"%d" % len(body))]
    # A table has no place for it, and without it a program could not ask for the next page.
    if answer.get("next_cursor"):
        headers.append((b"x-next-cursor", answer["next_cursor"].encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _query(query: bytes) -> Mapping[str, str]:
    """Returns the parameters. Raises InvalidField as `read_query`, and for a NUL."""
    parameters = read_query(query)
    for name, value in parameters.items():
        if "\x00" in value:  # PostgreSQL's texts have none
            raise InvalidField(name[:50], "The query of the URL has a NUL, which no row has")
    return parameters
