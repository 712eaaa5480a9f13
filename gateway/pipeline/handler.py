"""One translated request from the caller's bytes to the last byte of its response.

`prepare` translates, `respond` calls Cohere. A call that fails before anything of its response was sent may be
replaced; which call replaces it is decided here. How a response is made and sent is `responder.py`.
"""

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from msgspec.structs import replace

from gateway.auth.permissions import may_use
from gateway.auth.principal import Principal
from gateway.cohere_methods import Method
from gateway.errors import AnswerRefused, CallerError, UpstreamError
from gateway.http.body import note_changes
from gateway.limits.limiter import BudgetSpent
from gateway.limits.plan import cheaper_model
from gateway.memory_budget import Gathering
from gateway.observability.lifecycle import new_id
from gateway.observability.record import RequestRecord
from gateway.pipeline import fallbacks
from gateway.pipeline.admission import Admission
from gateway.pipeline.cl100k_base import vocabulary
from gateway.pipeline.offload import TEXT_BYTES, work_of
from gateway.pipeline.operations import CallOperation
from gateway.pipeline.responder import Responder
from gateway.pipeline.response_cache import CACHE_HEADERS
from gateway.pipeline.services import Services
from gateway.pipeline.streaming import ResponseSink
from gateway.state.connection_state import SocketTurn
from gateway.state.conversation_state import ConversationState, LoadedState, new_response_id
from gateway.state.encrypted_content import SUMMARY, TextBudget, seal_of
from gateway.upstream.retry import RESPONSE_RULES, RetryBudget
from translators.core.contracts import (
    Context,
    ConversationContext,
    LearnedCapabilities,
    Policy,
    ResponseIdentity,
    Translation,
)
from translators.core.errors import Failure, TranslationError
from translators.core.upstream_errors import CONTEXT_LENGTH
from translators.operations import passthrough


class RequestHandler(Responder):
    """Handles one request of a row of CALLS.

    method  Cohere's method that the row calls
    state   what loads and saves conversations; the gateway's own unless a WebSocket has one
    loaded  what the request continues, once it is prepared
    """

    def __init__(
        self,
        operation: CallOperation,
        method: Method,
        services: Services,
        record: RequestRecord,
        state: ConversationState | SocketTurn | None = None,
    ) -> None:
        super().__init__(operation, services)
        self.method, self.record, self.state = method, record, state or services.state
        self.loaded: LoadedState | None = None
        self._request_body = b""
        self._retry_budget: RetryBudget | None = None
        # The first of them is the one that was asked for: each override replaces that one, however many followed it.
        self._failed_models: list[str] = []
        self._file_texts: Mapping[str, str] = {}
        self._admission: Admission | None = None

    @property
    def in_background(self) -> bool:
        """The caller does not wait for the response: it goes to the storage (`background.py`)."""
        return self.loaded is not None and self.loaded.options.background

    async def prepare(self, body: bytes) -> Translation:
        """Returns the translation of a request's body. Raises CallerError, TranslationError."""
        self._request_body = body
        operation, record = self.operation, self.record
        if operation.state_options is not None:
            # Made before anything is loaded: the ids of the request's items contain it, and a conversation is saved
            # under it.
            response_id = new_response_id()
            offload = self.services.offload
            work = work_of(len(body), record.json_values)
            options = await offload.run(record.principal, work, operation.state_options, body, response_id)
            self.loaded = await self.state.load(options, response_id, record.principal)
            # The history counts against the caller's share of memory until the request ends, like the body itself.
            record.memory.reserve(self.loaded.size)
            self.saves = self.loaded.save
        try:
            translation = await self._translate()
        except TranslationError:
            # What cannot be translated says nothing of its model; it is looked for only then.
            record.requested_model, _ = passthrough.requested_model(body)
            raise
        # Already here, and again with the admission: nothing is to be asked or stored about a model that the key may
        # not use.
        self.services.admission.permit_model(record, self.method, translation.model)
        if translation.model not in self.services.catalog.table_models:
            self.services.catalog.look_up(translation.model, record.principal)
        self._look_up_cache(translation)
        return translation

    def _look_up_cache(self, translation: Translation) -> None:
        cache, record = self.services.cache, self.record
        # The headers are checked also where the cache is off: a wrong value is an error either way, and a caller who
        # relies on the cache learns that there is none.
        if self.operation.cached and (cache.store is not None or not CACHE_HEADERS.isdisjoint(record.headers)):
            record.cache, self.lookup = cache.lookup(
                translation.notes, translation.repeatable, record.principal, record.headers
            )

    async def respond(self, translation: Translation, sink: ResponseSink) -> None:
        """Makes the translation's calls and sends the response to the sink.

        A call that fails before anything of its response was sent may be replaced: by another wording, where Cohere's
        refusal says which; by the same call once more; by a call to another model. Raises GatewayError or
        TranslationError when none of these is left.
        """
        commit_after = self.services.settings.stream_commit_after
        # A background response was admitted before it was queued. It must not be charged twice.
        if (admitted := self._admission) is None:
            translation, admitted = await self._admit(translation)
        else:
            self._admission, admitted.record = None, self.record
        with admitted as admission:
            if commit_after and translation.streamed and (translation.buffered or translation.unparsed_files):
                sink.commit_after(commit_after, translation)
            try:
                if translation.unparsed_files:
                    translation = await self._with_files(translation, admission)
                await self._respond(translation, admission, sink)
            except (CallerError, TranslationError, UpstreamError) as error:
                # Nothing has left yet: the middleware makes an ordinary error of it, with a status.
                if not sink.committed:
                    raise
                await self._end_in_band(translation, error.failure, sink)

    async def admit_ahead(self, translation: Translation) -> Translation:
        """Admits a request whose response is made later. Returns the translation that was let in.

        Raises CallerError. What is reserved is held until `respond` has used it, or `give_back` frees it.
        """
        translation, self._admission = await self._admit(translation)
        return translation

    def give_back(self) -> None:
        """Frees what is held for a response that will not be made."""
        if self._admission is not None:
            self._admission.give_back()
            self._admission = None

    async def _respond(self, translation: Translation, admission: Admission, sink: ResponseSink) -> None:
        """Makes a complete translation's calls, and those that replace what failed."""
        record = self.record
        while True:
            record.model, record.streamed = translation.model, translation.streamed
            admission.set_notes(translation.notes)
            try:
                # One admission for both calls: the summary belongs to the request, and is charged with it.
                if translation.preliminary is not None:
                    translation = await self.complete(translation.preliminary, admission)
                    admission.set_notes(translation.notes)
                if not translation.streamed:
                    await self.respond_whole(translation, admission, sink)
                elif translation.buffered:
                    await self.respond_buffered(translation, admission, sink)
                else:
                    await self.respond_streaming(translation, admission, sink)
                return
            except UpstreamError as error:
                # In this order. Another wording answers with the model that was asked for; the same call once more
                # costs a pause; another model is what the caller asked for least.
                replacement = await self._reworded(translation, error.failure)
                replacement = replacement or await self._retried(translation, error, admission)
                replacement = replacement or await self._fallback(translation, error, admission)
                if replacement is None:
                    raise
                translation = replacement

    async def _with_files(self, translation: Translation, admission: Admission) -> Translation:
        """Returns the translation made again with the texts of its files, which Cohere parses first."""
        services = self.services
        self._file_texts = await services.file_parser.parse(
            admission, services.policy.parse_model, translation.unparsed_files
        )
        complete = await self._translate()
        self._look_up_cache(complete)
        return complete

    async def _admit(self, translation: Translation) -> tuple[Translation, Admission]:
        """Returns the admission, and the translation that was let in: of a cheaper model where a budget is spent."""
        controller, record, policy = self.services.admission, self.record, self.services.policy
        replaced = ""
        while True:
            try:
                admission = await controller.admit(record, self.method, translation.workload, translation.notes)
                if replaced:
                    admission.inform("limits", replaced)
                return translation, admission
            except BudgetSpent:
                self._failed_models.append(translation.model)
                model = cheaper_model(record.principal, self._failed_models, policy)
                if model is None:
                    raise
                # The reason was written by the refusal. The request goes on with a cheaper model, so the log must not
                # explain what did not happen.
                record.reason = ""
                translation = await self._translate(self._model_overrides(model))
                self._look_up_cache(translation)
                replaced = f"{model} in place of {self._failed_models[-1]}, whose budget is spent"

    async def _end_in_band(self, translation: Translation, failure: Failure, sink: ResponseSink) -> None:
        """Ends a stream whose head was sent before it failed."""
        stream = translation.stream()
        self.record.fail(failure)
        await sink.begin(translation)
        await sink.end(stream.fail(failure), stream)

    async def _translate(self, model_overrides: Mapping[str, str] | None = None) -> Translation:
        services, body = self.services, self._request_body
        seals = self.operation.state_options is not None
        context = context_of(services, self.record, self.loaded, model_overrides, self._cost, seals)
        if self._file_texts:
            context = with_files(context, self._file_texts)
        translation = await translate(services, self.record, self.operation.translate, body, context)
        if self.record.replaced_halves or self.record.replaced_model:
            note_changes(self.record, translation.notes)
        return translation

    def begun(self) -> None:
        self._request_body = b""  # which only another translation would need, and which may be long

    def _cost(self) -> int | None:
        """Returns what the request has cost so far. A background response gets a record of its own after it was
        translated, so the record is looked up each time.
        """
        return public_cost(self.services, self.record)

    async def save(self, final: bytes) -> None:
        """Stores the whole response, and what it continues."""
        assert self.loaded is not None and self.operation.finished_response is not None, (
            "rows that load state also save it"
        )
        await self.state.save(self.loaded, self.record.principal, self.operation.finished_response(final), final)

    # --- what replaces a call that failed --------------------------------------------------------------------

    async def _reworded(self, translation: Translation, failure: Failure) -> Translation | None:
        """Returns the request in another wording, or None where another one would not help."""
        if self.services.catalog.learn(translation.model, failure.learned_capability):
            # The model cannot do what the capability table says, so the request is put in another way.
            return await self._translate(self._model_overrides(translation.model))
        # Only a history can be made shorter. That is work on a large body, so it is done where large bodies are read.
        if failure.code != CONTEXT_LENGTH:
            return None
        caller, size = self.record.principal, translation.workload.prompt_bytes
        return await self.services.offload.run(caller, size, translation.shortened)

    async def _retried(
        self, translation: Translation, error: UpstreamError, admission: Admission
    ) -> Translation | None:
        """Returns the same translation after a 200 response that turned out to be an error and may be none next time.

        Refusals have been retried by the upstream client itself.
        """
        rule = RESPONSE_RULES.get(error.failure.code) if isinstance(error, AnswerRefused) else None
        controls = self.record.controls
        # A caller who limits attempts means all calls to Cohere, these included.
        if rule is None or len(self.record.attempts) >= (controls.attempts or math.inf):
            return None
        upstream = self.services.upstream
        self._retry_budget = self._retry_budget or upstream.retry_budget()
        pause = self._retry_budget.next_delay(rule)
        # The answer that failed was billed. A second one has to fit into the budget as well.
        if pause is None or not await admission.repeat(translation.workload):
            return None
        await upstream.sleep(pause)
        upstream.count_retry(str(error.failure.code))
        admission.set_notes(translation.notes)
        admission.retried([str(error.failure.code)])
        return translation

    async def _fallback(
        self, translation: Translation, error: UpstreamError, admission: Admission
    ) -> Translation | None:
        """Returns the request for another model, if the settings name one for the model that failed, and the caller's
        limits and budgets have room for it.
        """
        if not fallbacks.may_help(error.failure, self.record.principal.own_key):
            return None
        services = self.services
        # Before the next one is chosen, so that a circle of fallbacks ends.
        self._failed_models.append(translation.model)
        chain, access = services.settings.models.fallbacks, self.record.principal.access
        while (
            model := fallbacks.after(self._failed_models, chain, services.policy, partial(may_use, access))
        ) is not None:
            replacement = await self._translate(self._model_overrides(model))
            if await admission.repeat(replacement.workload):
                services.metrics.fallbacks.labels(services.metrics.known_model(translation.model)).inc()
                admission.inform("upstream", f"fallback from {translation.model} ({error.failure.code})")
                return replacement
            self._failed_models.append(model)
        return None

    def _model_overrides(self, model: str) -> Mapping[str, str] | None:
        """Returns the `model_overrides` that put this model in the place of the requested one, if any has failed."""
        return {self._failed_models[0]: model} if self._failed_models else None


def translate(
    services: Services,
    record: RequestRecord,
    function: Callable[[bytes, Context], Translation],
    body: bytes,
    context: Context,
) -> Awaitable[Translation]:
    """Returns a request's translation: made on the event loop if that takes a moment, else in a thread.

    Raises TranslationError, and CallerError where too many of the caller's requests are being translated.
    """
    before = context.conversation
    work = work_of(len(body), record.json_values)
    if before.history or before.items or before.file_texts:
        work += sum(map(len, (*before.history, *before.items.values())))
        work += sum(map(len, before.file_texts.values())) // TEXT_BYTES
    return services.offload.run(record.principal, work, function, body, context)


def with_files(context: Context, texts: Mapping[str, str]) -> Context:
    """Returns the context of a translation that is made again with the texts of its files, by their URIs."""
    return replace(context, conversation=replace(context.conversation, file_texts=texts)) if texts else context


def policy_for(policy: Policy, principal: Principal) -> Policy:
    """Returns the operator's choices with those for one caller: other names of models, the weakest safety mode."""
    access = principal.access
    if not access.aliases and not access.safety_mode:
        return policy
    return replace(policy, aliases={**policy.aliases, **access.aliases}, minimum_safety_mode=access.safety_mode)


def context_of(
    services: Services,
    record: RequestRecord,
    loaded: LoadedState | None = None,
    model_overrides: Mapping[str, str] | None = None,
    cost: Callable[[], int | None] | None = None,
    seals: bool = True,
) -> Context:
    """Returns what the translation of one request may know. model_overrides: see `Policy`. cost: see `Context`; by
    default what the record says. seals: the operation carries sealed texts, or continues a conversation.
    """
    policy, catalog = policy_for(services.policy, record.principal), services.catalog
    if model_overrides is not None:
        policy = replace(policy, model_overrides=model_overrides)
    return Context(
        ResponseIdentity(int(time.time()), new_id(), loaded.response_id if loaded else "", time.time),
        policy,
        LearnedCapabilities(catalog.features, catalog.corrections),
        _conversation(services, record, loaded) if seals else _NO_CONVERSATION,
        strict=b"x-gateway-strict" in record.headers and record.strict,
        vocabulary=vocabulary,
        cost=cost or partial(public_cost, services, record),
    )


_NO_CONVERSATION = ConversationContext()


def _conversation(services: Services, record: RequestRecord, loaded: LoadedState | None) -> ConversationContext:
    thoughts, summaries = seal_of(record.principal), seal_of(record.principal, SUMMARY)
    budget = TextBudget(services.settings.body_limit, Gathering(record.memory))
    return ConversationContext(
        loaded.history if loaded else (),
        loaded.items if loaded else {},
        thoughts.seal,
        partial(thoughts.open, budget=budget),
        summaries.seal,
        partial(summaries.open, budget=budget),
    )


def public_cost(services: Services, record: RequestRecord) -> int | None:
    """Returns the nano-dollars that a request has cost so far; None where that is unknown, or not to be shown."""
    return record.cost_nanodollars if services.settings.usage_cost else None
