"""The application: the tables' rows as Starlette routes, inside the guard."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from starlette.routing import Route, Router
from starlette.types import ASGIApp

from gateway.auth.authenticator import Authenticator, server_keys
from gateway.auth.directory import KeyDirectory
from gateway.auth.modes import Mode, mode_of
from gateway.console import sign_in
from gateway.console.pages import ConsolePages, ConsoleRedirect
from gateway.console.sign_in import SignIn
from gateway.endpoints import openapi
from gateway.endpoints.completions import CompletionsEndpoint
from gateway.endpoints.health import (
    DRAIN_PATH,
    LIVE_PATHS,
    READY_PATHS,
    Availability,
    Check,
    Drain,
    Liveness,
    MetricsPage,
    Readiness,
    WorkerCount,
)
from gateway.endpoints.health_checks import Cached
from gateway.endpoints.inspection import INSPECTIONS, InspectionEndpoint
from gateway.endpoints.management import ManagementEndpoint
from gateway.endpoints.models import ModelsEndpoint
from gateway.endpoints.openapi import Description
from gateway.endpoints.passthrough import PassthroughEndpoint
from gateway.endpoints.reports import (
    BODIES_PATH,
    EXPORT_PATH,
    REPORTS,
    BodiesEndpoint,
    ExportEndpoint,
    ReportEndpoint,
)
from gateway.endpoints.split import SplitEndpoint
from gateway.endpoints.stored import STORED, StoredEndpoint
from gateway.endpoints.token_count import TokenCountEndpoint
from gateway.endpoints.translation import PATH as TRANSLATION_PATH
from gateway.endpoints.translation import TranslationEndpoint
from gateway.endpoints.uploads import UploadEndpoint
from gateway.endpoints.websocket import WebSocketEndpoint
from gateway.endpoints.websocket_handshake import WebSocketHandshake
from gateway.http.error_responses import ALIAS_PREFIX, NATIVE_PREFIX
from gateway.http.middleware import GatewayMiddleware
from gateway.ledger.writer import Ledger
from gateway.limits.start import create_limiter
from gateway.management.operations import OPERATIONS
from gateway.memory_budget import MemoryBudget
from gateway.observability.access_log import Log
from gateway.observability.alerts import Alerts
from gateway.observability.bodies import BodyCollector
from gateway.observability.conditions import Condition, Conditions
from gateway.observability.ledger_events import LedgerEvents
from gateway.observability.lifecycle import Lifecycle
from gateway.observability.metrics import Metrics
from gateway.observability.telemetry import create as create_telemetry
from gateway.observability.upstream_events import UpstreamEvents
from gateway.pipeline.accepted_keys import AcceptedKeys
from gateway.pipeline.admission import AdmissionController
from gateway.pipeline.background import Background
from gateway.pipeline.deprecated_models import DeprecatedModels
from gateway.pipeline.file_parser import FileParser
from gateway.pipeline.offload import Offload
from gateway.pipeline.operations import BATCHES, CALLS, COUNTS, LOOKUPS, SOCKETS, TRANSLATED, UPLOADS
from gateway.pipeline.response_cache import ResponseCache
from gateway.pipeline.services import Services
from gateway.reload import RunningGateway
from gateway.settings.schema import SettingError, Settings
from gateway.state.conversation_state import ConversationState
from gateway.state.encrypted_content import LedgerBodySeal
from gateway.state.maintenance import Maintenance
from gateway.store.errors import StoreUnavailable
from gateway.store.key_announcements import Announcements, announcements
from gateway.store.reachability import RedisReachability, answer
from gateway.upstream.calls import UpstreamCalls
from gateway.upstream.client import UpstreamClient
from gateway.upstream.model_catalog import ModelCatalog
from gateway.upstream.router import UpstreamRouter
from translators.core.capabilities import CAPABILITIES, EMBEDDERS, RERANKERS, TRANSCRIBERS


def create_app(settings: Settings, log: Log | None = None) -> GatewayMiddleware:
    """Returns the gateway as an ASGI application. Raises SettingError on settings that contradict each other."""
    return controlled_app(settings, log)[0]


def controlled_app(settings: Settings, log: Log | None = None) -> tuple[GatewayMiddleware, RunningGateway]:
    """Returns the application of `create_app`, and the handles by which signals stop it or change its settings."""
    log = log or Log(settings.log != "off", console=settings.log == "console")
    # The names of fields that notes may be counted by: callers invent others, and each would be a series.
    fields = {row.name for operation in TRANSLATED for row in operation.fields.rows}
    # `catalog` is made further down: nobody asks it before the first request.
    metrics = Metrics(lambda model: model in catalog, fields)
    alerts = Alerts(settings.alerts.url, settings.alerts.secret, log.message)
    events = UpstreamEvents(metrics, log, alerts)
    upstream: UpstreamCalls = (UpstreamRouter if settings.upstreams else UpstreamClient)(
        settings, server_keys(settings), events
    )
    # Known without asking Cohere, so that metrics name them from the beginning.
    models = CAPABILITIES.keys() | EMBEDDERS.keys() | RERANKERS | TRANSCRIBERS
    catalog = ModelCatalog(upstream, models, settings.models.cache_seconds)
    try:
        state = ConversationState(
            settings.database_url,
            settings.response_days,
            log,
            settings.max_stored_bytes,
            settings.max_stored_bytes_per_caller,
            metrics.stored_bytes.set,
            # A function, since the ledger is made further down.
            lambda run: ledger.row_of_interrupted(run),
        )
    except ValueError as error:
        raise SettingError(f"database_url: {error}") from error
    directory = KeyDirectory(state.open, log.message, _announcements(settings))
    authenticator = Authenticator(settings, directory, log.message)
    cache = ResponseCache(settings, log)
    accepted_keys = AcceptedKeys(upstream)
    for resources in upstream.all_resources().values():
        # Set afterwards: to say whose share it is, the upstream is asked whether a key is accepted.
        resources.share_of = accepted_keys.owners.share_of
    offload = Offload(settings.offload, accepted_keys)
    memory = MemoryBudget(settings.memory, accepted_keys.owners.share_of, metrics.held_bytes.inc)
    limiter = create_limiter(settings, directory, metrics, log, alerts)
    ledger_events = LedgerEvents(metrics, log, alerts)
    body_keys = settings.ledger.body_keys
    body_seal = LedgerBodySeal(body_keys) if body_keys else None
    ledger = Ledger(settings.ledger, settings.database_url, ledger_events, body_seal=body_seal)
    metrics.add_probe(partial(_sample_ledger, metrics, ledger))
    upstream_name = "emulator" if settings.demo else ""
    telemetry = log.telemetry = create_telemetry(
        os.environ, log.message, metrics=metrics, propagates=settings.tracing.propagate, upstream=upstream_name
    )
    lifecycle = Lifecycle(metrics, log, memory, ledger, telemetry, BodyCollector(settings.ledger))
    deprecated_models = DeprecatedModels(catalog, alerts)
    admission = AdmissionController(metrics, accepted_keys, directory, limiter, ledger, deprecated_models, settings)
    policy = settings.policy
    services = Services(
        settings,
        policy,
        upstream,
        catalog,
        metrics,
        lifecycle,
        admission,
        state,
        cache,
        offload,
        FileParser(upstream),
        accepted_keys,
        directory,
        authenticator,
        limiter,
    )
    background, maintenance = Background(services, log), Maintenance(state, log, ledger.write_rows)
    conditions = Conditions(
        alerts,
        (
            Condition("store_away", "keys", lambda: directory.degraded),
            Condition("store_away", "responses", lambda: state.degraded),
            Condition("ledger_behind", "ledger", ledger.condition),
        ),
    )
    availability, stopping, workers = Availability(), asyncio.Event(), WorkerCount()

    def draining(grace: float) -> None:
        # First, so that load balancers send nothing new while what is in flight ends.
        availability.started = False
        background.close(grace)
        # WebSockets end by it.
        stopping.set()

    @asynccontextmanager
    async def lifespan(app: ASGIApp) -> AsyncIterator[None]:
        ledger_events.start()
        ledger.start()
        await upstream.start()
        maintenance.start()
        conditions.start()
        # Before anything is served: a key would be unknown, and a token have no key to be checked by.
        if authenticator.mode is Mode.VIRTUAL_KEYS:
            await asyncio.gather(directory.start(), authenticator.start())
        availability.started = True
        running.started.set()
        yield
        availability.started = False
        # First what calls and writes, then what it writes to: the ledger ends after all that makes rows.
        await background.stop()
        await maintenance.stop()
        await conditions.stop()
        await directory.stop()
        await limiter.counters.stop()
        await alerts.stop()
        await upstream.stop()
        await ledger.stop()
        # Now that the ledger has them.
        await background.remove_rows()
        await state.stop()
        await cache.stop()
        await redis.stop()
        offload.stop()
        log.flush()
        if telemetry is not None:
            # In a thread, because it waits for the collector.
            await asyncio.to_thread(telemetry.stop)

    redis = RedisReachability(settings.redis_url)
    checks: dict[str, Check] = {
        "database": Cached(partial(_database_condition, state)),
        **({"redis": Cached(redis.condition)} if settings.redis_url else {}),
        "upstream": upstream.condition,
        "ledger": ledger.condition,
        "limits": lambda: limiter.counters.degraded,
        **({"keys": lambda: directory.degraded} if authenticator.mode is Mode.VIRTUAL_KEYS else {}),
    }

    def refusal() -> str:
        if ledger.refusing:
            return ledger.condition()
        return limiter.counters.degraded if settings.limits.on_failure == "refuse" else ""

    def degraded() -> list[str]:
        reasons = (directory.degraded, limiter.counters.degraded, ledger.condition(), upstream.condition())
        return [reason for reason in reasons if reason]

    router = Router(
        routes=[
            *_routes(services, background, ledger),
            Route(TRANSLATION_PATH, TranslationEndpoint(services), methods=["POST"]),
            *(Route(row.path, InspectionEndpoint(row, services, degraded), methods=["GET"]) for row in INSPECTIONS),
            *(Route(path, Liveness(), methods=["GET"]) for path in LIVE_PATHS),
            *(Route(path, Readiness(availability, workers, checks, refusal), methods=["GET"]) for path in READY_PATHS),
            Route(DRAIN_PATH, Drain(availability, log.message), methods=["POST", "DELETE"]),
            Route("/metrics", MetricsPage(settings, metrics), methods=["GET"]),
            Route(openapi.PATH, Description(), methods=["GET"]),
        ],
        redirect_slashes=False,
        lifespan=lifespan,
    )
    sockets = {row.call.path: WebSocketEndpoint(row, services, stopping) for row in SOCKETS}
    websockets = WebSocketHandshake(sockets, settings, authenticator, lifecycle, accepted_keys)
    # Starlette's router inside our own guard: what its application class adds (error pages, exception
    # handlers) is the guard's work here, and each layer would cost every request and every chunk.
    middleware = GatewayMiddleware(router, settings, authenticator, lifecycle, websockets)
    running = RunningGateway(middleware, websockets, services, log, workers, availability, draining)
    return middleware, running


async def _database_condition(state: ConversationState) -> str:
    try:
        await state.store.read(answer)
    except StoreUnavailable as error:
        return str(error)
    return ""


def _sample_ledger(metrics: Metrics, ledger: Ledger) -> None:
    metrics.ledger_queue.set(ledger.waiting_rows())
    metrics.ledger_lag.set(ledger.lag(time.monotonic()))


def _announcements(settings: Settings) -> list[Announcements]:
    """Returns how this process hears of changed keys. Raises SettingError."""
    if mode_of(settings) is not Mode.VIRTUAL_KEYS:
        return []
    try:
        return announcements(settings.database_url, settings.redis_url)
    except ValueError as error:
        raise SettingError(f"redis_url: {error}") from error


def _routes(services: Services, background: Background, ledger: Ledger) -> list[Route]:
    """Returns the rows of all tables, each with the endpoint of its kind."""
    native = PassthroughEndpoint(services)
    return [
        *(Route(row.path, CompletionsEndpoint(row, services, background), methods=["POST"]) for row in CALLS),
        # The router asks one after the other: what is called most comes first.
        *(Route(f"{prefix}{{path:path}}", native, methods=None) for prefix in (NATIVE_PREFIX, ALIAS_PREFIX)),
        *(Route(row.path, UploadEndpoint(row, services), methods=["POST"]) for row in UPLOADS),
        *(Route(row.path, SplitEndpoint(row, services), methods=["POST"]) for row in BATCHES),
        *(Route(row.path, TokenCountEndpoint(row, services), methods=["POST"]) for row in COUNTS),
        *(Route(row.path, ModelsEndpoint(row, services), methods=["GET"]) for row in LOOKUPS),
        *(Route(row.path, ReportEndpoint(row, services, ledger), methods=["GET"]) for row in REPORTS),
        Route(EXPORT_PATH, ExportEndpoint(services, ledger), methods=["GET"]),
        Route(BODIES_PATH, BodiesEndpoint(services, ledger), methods=["GET", "DELETE"]),
        *(
            Route(path, ManagementEndpoint(row, services, ledger), methods=[row.verb])
            for row in OPERATIONS
            for path in row.paths
        ),
        *(Route(path, StoredEndpoint(row, services, background), methods=list(row)) for path, row in STORED.items()),
        # Before the pages, whose pattern has this path, too.
        Route(sign_in.PATH, SignIn(services), methods=["GET", "POST", "PUT", "DELETE"]),
        *(Route(path, ConsolePages(services), methods=["GET"]) for path in ("/console", "/console/{path:path}")),
        Route("/", ConsoleRedirect(services), methods=["GET"]),
    ]
