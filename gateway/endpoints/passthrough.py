"""The endpoint of Cohere's native API: bytes through in both directions, nothing held back, counts read on the side.

The caller's method, path, query, body and headers go to Cohere as they came, but for the table of headers below;
Cohere's status, headers and body come back so. Which method of Cohere's it is only names the request in log and
metrics. Two answers are not Cohere's own: what the gateway itself refuses, and what Cohere says of the server's own
key, which is not the caller's affair; both have Cohere's shape.
"""

import time
from collections.abc import Sequence
from functools import partial
from urllib.parse import parse_qsl

from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from gateway import cohere_methods
from gateway.auth.permissions import may_use
from gateway.cohere_methods import Method
from gateway.endpoints.passthrough_headers import (
    content_type_and_encoding,
    has_no_body,
    request_headers,
    response_headers,
)
from gateway.endpoints.passthrough_path import Address, address_of, model_in_path
from gateway.endpoints.passthrough_restrictions import (
    UNCOUNTABLE,
    UNROUTABLE,
    model_in_form,
    needs_form,
    require_model_in_sight,
    restrict,
)
from gateway.endpoints.usage_tail import UsageTail
from gateway.errors import CallerError, UpstreamError, failure
from gateway.http import body
from gateway.http.disconnect import DisconnectWatcher
from gateway.http.multipart import replace_text
from gateway.http.responses import note_headers
from gateway.http.validation import JOINED
from gateway.limits.limiter import BudgetSpent
from gateway.limits.plan import cheaper_model
from gateway.observability.record import RequestRecord, record_of
from gateway.pipeline.admission import Admission
from gateway.pipeline.handler import policy_for
from gateway.pipeline.services import Services
from gateway.store import billed_jobs
from gateway.store.errors import StoreUnavailable
from gateway.upstream.attempts import CallOptions
from gateway.upstream.masked_body import UNPACKED_CODINGS, Chunks, MaskedBody
from gateway.upstream.response import ProxyRequest, UpstreamResponse
from translators.answer.raw_usage import usage_totals
from translators.answer.turn import FAILED_REASONS
from translators.core.contracts import Workload
from translators.core.errors import TranslationError
from translators.core.model_names import SUCCESSORS
from translators.core.notes import Notes
from translators.core.surrogates import may_have_halves, replace_halves
from translators.operations import passthrough
from translators.operations.models import compatible_list, find_model, next_page, only_models, with_further

# The last two are newline-delimited JSON, as `/v1/chat` streams it (docs/cohere-api.md#version-1).
STREAMS = (b"text/event-stream", b"application/stream+json", b"application/x-ndjson")

LIST, COMPATIBLE_LIST, GET = "models.list", "compatibility.models", "models.get"

OWN_KEY_REFUSED = (401, 402, 403)
"""Statuses that are about a key."""


class PassthroughEndpoint:
    """Everything below `/cohere/` and `/litellm/cohere/`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, record, verb = self._services, record_of(scope), scope["method"]
        # For what is refused before its method is known: it has a name in log and metrics all the same.
        record.operation = cohere_methods.OTHER.operation
        address = address_of(scope)
        if verb not in cohere_methods.VERBS:
            raise _wrong_method()
        method = cohere_methods.find(verb, address.path)
        # See docs/decisions.md#a-path-that-two-readers-could-read-differently-is-refused.
        if not cohere_methods.agrees(verb, address.path, method):
            raise CallerError(failure("bad_request", "The URL's path might be read as another one"))
        record.operation, record.cohere_method = method.operation, method.name
        services.admission.permit(record, method)
        settings = services.settings
        limit, timeouts = settings.upload_limit, settings.timeouts
        json_body: bytes | None = None
        access = record.principal.access
        counted = services.admission.depends_on_body(record)
        # A named upstream is found by the model, so the body is read for it although no limit depends on it.
        model_decides = counted or services.upstream.routes_by_model
        with_form = needs_form(access, method, model_decides) and not has_no_body(record.headers)
        uploading = not has_no_body(record.headers) and method.takes != "json" and not with_form
        notes, workload = Notes(), None
        if uploading:
            # An upload is never held here. Its declared length is all that can be judged before it is sent on.
            body.refuse_declared(record.headers, limit)
        elif method.takes == "json":
            json_body = await body.read_native_json(record, receive, settings) or None
            size = len(json_body or b"")
            json_body, notes, workload = await services.offload.run(
                record.principal, size, self._inspect, json_body, method, address, record, counted
            )
        elif with_form:
            json_body = await body.read(record, receive, settings.audio_limit, timeouts)
            record.model = record.requested_model = await model_in_form(record.headers, json_body)
        elif method.acts_on == "model":
            record.model = model_in_path(address.path)
        # An upload's reader takes the messages itself, and tells the watcher when the caller has gone.
        async with DisconnectWatcher(receive, listening=not uploading) as watcher:
            upload = body.Pieces(receive, limit, timeouts, watcher) if uploading else None
            headers = list(request_headers(scope["headers"], record.headers, record.streamed, uploading))
            if edits := verb == "GET" and self._edits(method, record):
                # What is edited has to come uncompressed.
                headers = [header for header in headers if header[0] != "accept-encoding"]
            workload = workload or passthrough.workload(record.model, b"")
            json_body, admitted = await self._admit(record, method, workload, json_body, notes)
            rename = partial(replace_text, record.headers, json_body or b"", "model") if with_form else None
            request = ProxyRequest(verb, address.target, headers, json_body if upload is None else upload, rename)
            with admitted as admission:
                if verb == "GET" and await self._send_model(method, admission, send, watcher):
                    return
                weight = workload.inputs if method.rate.counts == "inputs" else 1
                options = CallOptions.of(record, record.model, weight)
                async with services.upstream.forward(
                    request, record.principal, address.path, method.repeatable, options
                ) as response:
                    await self._respond(response, admission, address, edits, send, watcher, notes)

    async def _respond(
        self,
        response: UpstreamResponse,
        admission: Admission,
        address: Address,
        edits: bool,
        send: Send,
        watcher: DisconnectWatcher,
        notes: Notes,
    ) -> None:
        """Sends Cohere's response, or raises UpstreamError. edits: it is a list of models of which others are sent."""
        record = admission.record
        # Also of a refusal: every answer of Cohere's has an id (docs/cohere-api.md#requests), which the caller gets.
        admission.see(response)
        # See docs/decisions.md#callers-learn-the-truth-about-their-own-key-only.
        about_key = response.status in OWN_KEY_REFUSED and not record.principal.own_key
        if about_key or response.repeats_key:
            raise UpstreamError(await response.failure(own_key=False))
        if response.status >= 400:
            record.fail(await response.failure(record.principal.own_key))
        if address.alias and response.status >= 400:
            await self._send_alias_error(response, admission, send, watcher, notes)
        elif edits and response.status == 200:
            await self._send_models(response, admission, address.target, send, watcher)
        else:
            await self._relay(response, admission, send, watcher, notes)

    async def _admit(
        self, record: RequestRecord, method: Method, workload: Workload, json_body: bytes | None, notes: Notes
    ) -> tuple[bytes | None, Admission]:
        """Returns the admission, and the body to send: with a cheaper model in it where a budget is spent.

        So what would be a refusal of ours is an answer; nothing else of a native request is changed for it.
        """
        controller, policy, spent = self._services.admission, self._services.policy, [workload.model]
        while True:
            try:
                return json_body, await controller.admit(record, method, workload, notes)
            except BudgetSpent:
                readable = method.takes == "json" and json_body and b"content-encoding" not in record.headers
                model = cheaper_model(record.principal, spent, policy) if readable and workload.model else None
                if model is None:
                    raise
                # The refusal wrote it, and the request goes on.
                record.reason = ""
                json_body, workload = passthrough.replace_model(json_body or b"", model), replace(workload, model=model)
                notes.inform("limits", f"{model} in place of {spent[-1]}, whose budget is spent")
                spent.append(model)

    def _inspect(
        self, json_body: bytes | None, method: Method, address: Address, record: RequestRecord, counted: bool
    ) -> tuple[bytes | None, Notes, Workload]:
        """Returns the body to send, notes on what was changed in it, and how much work it is for Cohere.

        counted: limits depend on what is in it.
        """
        # Cohere's parser replaces halves of surrogate pairs, ours refuses them: it reads what Cohere's does.
        readable = json_body
        if json_body is not None and may_have_halves(json_body):
            readable = replace_halves(json_body)
        if method.names_model and (counted or self._services.upstream.routes_by_model):
            require_model_in_sight(readable, record, UNCOUNTABLE if counted else UNROUTABLE)
        rewritten, notes = self._rewrite(readable, method, address, record)
        rewritten = restrict(record.principal.access, method, rewritten, record, notes)
        workload = passthrough.workload(record.model, rewritten or b"")
        # Where nothing was changed the caller's own bytes are sent, halves of surrogate pairs included.
        return json_body if rewritten is readable else rewritten, notes, workload

    def _rewrite(
        self, json_body: bytes | None, method: Method, address: Address, record: RequestRecord
    ) -> tuple[bytes | None, Notes]:
        """Returns the body with the models and spellings of Cohere's, and notes on what was changed in it."""
        notes = Notes()
        # Compressed, so nothing in it can be read. Whoever may not send such a body is refused by `restrict`.
        if json_body is None or b"content-encoding" in record.headers:
            return json_body, notes
        policy = policy_for(self._services.policy, record.principal)
        if address.alias:
            record.requested_model, _ = passthrough.requested_model(json_body)
            rewrite = passthrough.rewrite_chat if method.name == "v2.chat" else passthrough.rewrite_model
            json_body, notes = rewrite(json_body, policy)
        record.model, record.streamed = passthrough.requested_model(json_body)
        record.requested_model = record.requested_model or record.model
        # Below the alias the model was resolved above. Elsewhere this is the one change that is made for everybody.
        if record.model in SUCCESSORS and not address.alias:
            json_body, notes = passthrough.replace_removed_model(json_body, record.model, policy)
            record.model, _ = passthrough.requested_model(json_body)
        return json_body, notes

    async def _relay(
        self, response: UpstreamResponse, admission: Admission, send: Send, watcher: DisconnectWatcher, notes: Notes
    ) -> None:
        """Sends Cohere's response as it comes, one send for each network read. Its head waits for the first of them.

        An answer that has come whole by then is billed before its head is sent, which so can say what it cost.
        """
        record = admission.record
        headers = [*response_headers(response.headers), *note_headers(notes)]
        kind, encoding = content_type_and_encoding(headers)
        chunks: Chunks = response
        if response.key_mask is not None:
            chunks = MaskedBody(response, response.key_mask, encoding)
            if encoding in UNPACKED_CODINGS:
                headers = [pair for pair in headers if pair[0] not in (b"content-length", b"content-encoding")]
                encoding = b""
        record.streamed = kind.startswith(STREAMS)
        # Other codings are not asked for (`request_headers`), and could not be read.
        counted = kind.startswith((b"application/json", *STREAMS)) and encoding in (b"", b"gzip")
        usage_tail = UsageTail(encoding == b"gzip") if counted else None
        billed, block = False, b""
        try:
            block = await chunks.read_chunk()
            record.first_byte = time.monotonic()
            # Only then is the cost known before the head leaves, where the caller's header can say it.
            if not record.streamed and chunks.at_eof:
                billed = self._bill(admission, response.status, usage_tail, block, broken=False)
            await send({"type": "http.response.start", "status": response.status, "headers": headers, JOINED: True})
            while block and not chunks.at_eof:
                await send({"type": "http.response.body", "body": block, "more_body": True})
                if usage_tail is not None:
                    usage_tail.feed(block)
                block = await chunks.read_chunk()
            # The last block is on its way: whoever leaves now has all of it.
            watcher.over()
            await send({"type": "http.response.body", "body": block, "more_body": False})
        finally:
            # Also where the caller has left or the answer broke off: Cohere has worked, and charges for it.
            if not billed:
                broken = record.streamed and not watcher.is_over
                self._bill(admission, response.status, usage_tail, b"" if broken else block, broken)
        # Only of a whole answer: the end of a long list is no JSON. Whoever asks for the job itself sees its units.
        if admission.sees_jobs and response.status == 200 and usage_tail is not None and usage_tail.share == 1.0:
            await self._bill_jobs(admission, usage_tail.tail())

    async def _bill_jobs(self, admission: Admission, answer: bytes) -> None:
        """Adds what jobs have cost that have ended: to the request that sees it first, on whatever replica.

        Without the storage nobody is billed yet; whoever looks next is.
        """
        seen = {job.id: job for job in admission.ended_jobs(answer)}
        if not seen:
            return
        state = self._services.state
        try:
            store = await state.open()
            # One transaction over all replicas: two that look at the same job at the same time must not both charge it.
            first = await store.write(lambda connection: billed_jobs.claim(connection, seen.keys(), time.time()))
        except StoreUnavailable as error:
            state.log_failure(error)
            return
        for id in first:
            admission.record.model = admission.record.model or seen[id].model
            admission.bill_usage(seen[id].model, seen[id].usage)

    def _edits(self, method: Method, record: RequestRecord) -> bool:
        """Tells whether the answer is Cohere's list of models, and the caller gets another one."""
        return method.name in (LIST, COMPATIBLE_LIST) and (
            bool(record.principal.access.models) or self._services.upstream.routes_by_model
        )

    async def _send_model(self, method: Method, admission: Admission, send: Send, watcher: DisconnectWatcher) -> bool:
        """Sends what is known of the model that a path names, if it is a named upstream alone that has it.

        Returns whether that is so.
        """
        if method.name != GET or not self._services.upstream.routes_by_model:
            return False
        notes, record = Notes(), admission.record
        model = find_model(await self._further_models(record, notes), record.model)
        if model is None:
            return False
        kind = (b"content-type", b"application/json")
        await self._send_document(record, model, [kind, *note_headers(notes)], send, watcher)
        return True

    async def _send_models(
        self, response: UpstreamResponse, admission: Admission, target: str, send: Send, watcher: DisconnectWatcher
    ) -> None:
        """Sends the models of Cohere's list that the caller may use; after the last, those of the named upstreams."""
        notes, page, permitted = Notes(), await response.read_body(), partial(may_use, admission.principal.access)
        if admission.record.cohere_method == COMPATIBLE_LIST:
            page = compatible_list(page, await self._further_models(admission.record, notes), permitted)
        else:
            # The last page alone, so that no model is listed twice.
            if self._services.upstream.routes_by_model and not next_page(page):
                criteria = dict(parse_qsl(target.partition("?")[2]))
                page = with_further(page, await self._further_models(admission.record, notes), criteria)
            (page,) = only_models([page], permitted)
        headers = [pair for pair in response_headers(response.headers) if pair[0] != b"content-length"]
        await self._send_document(admission.record, page, [*headers, *note_headers(notes)], send, watcher)

    async def _send_document(
        self,
        record: RequestRecord,
        document: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        send: Send,
        watcher: DisconnectWatcher,
    ) -> None:
        record.first_byte = time.monotonic()
        # Before the head: what is left to do needs no Cohere, and a caller who leaves now has been served.
        watcher.over()
        length = (b"content-length", b"%d" % len(document))
        await send({"type": "http.response.start", "status": 200, "headers": [*headers, length]})
        await send({"type": "http.response.body", "body": document})

    async def _further_models(self, record: RequestRecord, notes: Notes) -> Sequence[bytes]:
        """Returns pages of models that the named upstreams serve, if there are any."""
        if not self._services.upstream.routes_by_model:
            return []
        try:
            listed = await self._services.catalog.list_models(record.principal)
        # Cohere's own list, which has come, is sent all the same.
        except (UpstreamError, TranslationError):
            return []
        if listed.stale_note:
            notes.inform("upstream", listed.stale_note)
        return listed.further

    async def _send_alias_error(
        self, response: UpstreamResponse, admission: Admission, send: Send, watcher: DisconnectWatcher, notes: Notes
    ) -> None:
        """Sends Cohere's error with OpenAI's `type` and `code` beside it; what cannot have them goes as it came."""
        record = admission.record
        failure = await response.failure(record.principal.own_key)
        error_body = passthrough.alias_error(await response.error_body(), failure)
        if error_body is None:
            await self._relay(response, admission, send, watcher, notes)
            return
        # The body is a new one, and is not compressed any more.
        headers = [
            pair
            for pair in response_headers(response.headers)
            if pair[0] not in (b"content-length", b"content-encoding")
        ]
        headers += [(b"content-length", b"%d" % len(error_body)), *note_headers(notes)]
        record.first_byte = time.monotonic()
        watcher.over()
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": error_body})

    def _bill(
        self, admission: Admission, status: int, usage_tail: UsageTail | None, block: bytes, broken: bool
    ) -> bool:
        """Records what a response cost, from its end. block: its last one. Of a stream that broke off before Cohere had
        counted, the pieces are. Returns True.
        """
        record = admission.record
        if usage_tail is not None:
            usage_tail.feed(block)
        # Only a success is charged for.
        if not (admission.billed and 200 <= status < 300):
            return True
        tail = usage_tail.tail() if usage_tail is not None else b""
        usage = usage_totals(tail, record.streamed, self._services.policy.usage_base)
        # A stream may also end in good order and too early: without the event that ends an answer, and its reason.
        broken = broken or (record.streamed and not usage.finish_reason)
        if broken and usage_tail is not None and not usage.billed:
            # As many pieces as the whole stream would have at the density of its end, which is all that is kept.
            pieces = round(passthrough.count_pieces(tail) / usage_tail.share)
            # Without a single piece nothing is estimated. `Admission` sees by the attempts that the cost is unknown.
            if pieces:
                admission.bill_estimate(record.model, pieces)
        else:
            admission.bill_usage(record.model, usage)
        if (failed := FAILED_REASONS.get(usage.finish_reason)) is not None:
            record.fail(failed)
        return True


def _wrong_method() -> CallerError:
    error = CallerError(failure("wrong_method", "This method is not passed on"))
    error.allow = ", ".join(cohere_methods.VERBS)
    return error
