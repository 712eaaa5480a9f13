"""The management API over HTTP: a row of `gateway/management/operations.py` as an ASGI application.

Who may do what is decided there. A change is in force in this process when it is answered, elsewhere a moment later.
"""

import hmac
import time
from typing import Any

from starlette.types import Receive, Scope, Send

from gateway.auth.modes import Mode, mode_of
from gateway.errors import CallerError, failure
from gateway.http import body
from gateway.http.query import read_query
from gateway.http.responses import send_json
from gateway.ledger.reports import LedgerReader
from gateway.management import answers, spending
from gateway.management.operations import ManagementOperation
from gateway.management.request import Actor, ManagementRequest
from gateway.observability.record import RequestRecord, record_of
from gateway.pipeline.services import Services
from gateway.store.errors import StoreUnavailable
from translators.core.notes import Notes

LARGEST_BODY = 256 * 1024
"""Bytes of a request: no record has so many."""

CHANGED_BY, LONGEST_CHANGED_BY = b"litellm-changed-by", 100
"""A name that LiteLLM's programs add for the audit, and its characters that are kept."""

UNAVAILABLE = failure("no_storage", "The database does not answer; nothing was changed")
ELSEWHERE = failure(
    "no_management", "Keys, teams and end users are managed on a gateway with a master key: set GATEWAY_MASTER_KEY"
)


class ManagementEndpoint:
    """A row of OPERATIONS. reader: of the ledger's database."""

    def __init__(self, operation: ManagementOperation, services: Services, reader: LedgerReader) -> None:
        self._operation, self._services, self._reader = operation, services, reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, record, operation = self._services, record_of(scope), self._operation
        record.operation, record.door, record.has_row = operation.name, "management", False  # a change has its own row
        if mode_of(services.settings) is not Mode.VIRTUAL_KEYS:
            raise CallerError(ELSEWHERE)
        notes = Notes(record.strict)
        request = ManagementRequest(
            _actor(record, record.address),
            time.time(),
            notes,
            await self._body(record, receive),
            read_query(scope["query_string"]),
            scope["path_params"],
            self._is_reserved,
        )
        # Checked before the database is opened: what is refused for its form or its sender costs no transaction.
        work = operation.plan(request)
        store = await services.state.open()
        try:
            answer = await (store.write(work) if operation.writes else store.read(work))
        except StoreUnavailable as error:
            services.state.log_failure(error)
            raise CallerError(UNAVAILABLE) from error
        if operation.writes:
            await self._refresh()
        # Not in the transaction above, since the ledger may have a database of its own.
        await self._fill_in_spend(answer)
        record.set_notes(notes)
        await send_json(send, answers.encode(answer), notes)

    async def _body(self, record: RequestRecord, receive: Receive) -> bytes:
        if self._operation.table is None:
            return b""
        settings = self._services.settings
        content = await body.read(record, receive, min(LARGEST_BODY, settings.body_limit), settings.timeouts)
        # curl calls JSON a form unless told otherwise. No page can forge such a request: the key is in a header.
        if content and not (_is_form(record) and content.lstrip().startswith(b"{")):
            body.require_json(record.headers)
        return content

    async def _refresh(self) -> None:
        """Puts the change into force in this process. Where that fails, the next poll does it."""
        try:
            await self._services.directory.refresh()
        except StoreUnavailable as error:
            self._services.state.log_failure(error)

    async def _fill_in_spend(self, answer: Any) -> None:
        now = time.time()
        if wanted := spending.spenders(answer, now):
            try:
                amounts = await self._reader.read(lambda connection: spending.read(connection, wanted))
            except StoreUnavailable as error:
                self._services.state.log_failure(error)
                # The change has been made. An amount that is unknown is no reason to say that it was not.
                amounts = None
            spending.fill_in(answer, amounts, now)

    def _is_reserved(self, secret: str) -> bool:
        settings = self._services.settings
        own = (settings.master_key, *settings.upstream_keys)
        # A list and not a generator. To stop at the first that is equal would show by the time which one it was.
        return any([hmac.compare_digest(secret.encode(), one.encode()) for one in own])


def _actor(record: RequestRecord, address: str) -> Actor:
    principal = record.principal
    key_id = principal.key.key_id if principal.key is not None else ""
    team_id = principal.team.team_id if principal.team is not None else ""
    name, added = principal.name, record.headers.get(CHANGED_BY, b"").decode("utf-8", "replace")[:LONGEST_CHANGED_BY]
    # Line ends and the like would break up the audit where it is shown line by line.
    if added and added.isprintable():
        name = f"{name} for {added}"
    return Actor(name, principal.role, address, key_id, team_id)


def _is_form(record: RequestRecord) -> bool:
    kind = record.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    return kind == b"application/x-www-form-urlencoded"
