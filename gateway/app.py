"""The application: the tables' rows as Starlette routes, inside the guard."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.routing import Route, Router
from starlette.types import ASGIApp

from gateway.access.caller import Access
from gateway.batch import BatchEndpoint
from gateway.cache import AnswerCache
from gateway.catalogue import Catalogue
from gateway.control import Control
from gateway.endpoint import CallEndpoint, LookupEndpoint
from gateway.errors import ALIAS_PREFIX, NATIVE_PREFIX
from gateway.guard import Guard
from gateway.log import Log
from gateway.memory import Memory
from gateway.metrics import Metrics
from gateway.native import NativeEndpoint
from gateway.operations import BATCHES, CALLS, COUNTS, LOOKUPS, TRANSLATED, UPLOADS
from gateway.probes import Health, MetricsPage
from gateway.remembered import REMEMBERED, RememberedEndpoint
from gateway.serving import Services
from gateway.settings import SettingError, Settings
from gateway.tokens import CountEndpoint
from gateway.upload import UploadEndpoint
from gateway.upstream.resilient import ResilientUpstream
from translators.capabilities import CAPABILITIES, EMBEDDERS, RERANKERS, TRANSCRIBERS


def create_app(settings: Settings, log: Log | None = None) -> Guard:
    """The gateway as an ASGI application. Raises SettingError on settings that contradict each other."""
    return controlled_app(settings, log)[0]


def controlled_app(settings: Settings, log: Log | None = None) -> tuple[Guard, Control]:
    """The same, and the handles to stop it or to change its settings."""
    access = Access(settings)
    log = log or Log(settings.log == "json")
    fields = {row.name for operation in TRANSLATED for row in operation.fields.rows}
    metrics = Metrics(lambda model: model in catalogue, fields)
    upstream = ResilientUpstream(settings, access.keys, metrics, log)
    known = CAPABILITIES.keys() | EMBEDDERS.keys() | RERANKERS | TRANSCRIBERS
    catalogue = Catalogue(upstream, known, settings.models.cache_seconds)
    try:
        memory = Memory(settings.database_url, settings.response_days, log)
    except ValueError as error:
        raise SettingError(f"database_url: {error}") from error
    cache = AnswerCache(settings, log)
    services = Services(settings, settings.policy, upstream, catalogue, metrics, memory, cache)
    serving = False

    def draining() -> None:
        nonlocal serving
        serving = False

    @asynccontextmanager
    async def lifespan(app: ASGIApp) -> AsyncIterator[None]:
        nonlocal serving
        await upstream.start()
        serving = True
        yield
        serving = False
        await upstream.stop()
        await memory.stop()
        await cache.stop()
        log.flush()

    native = NativeEndpoint(services)
    router = Router(
        routes=[
            *(Route(row.path, CallEndpoint(row, services), methods=["POST"]) for row in CALLS),
            *(Route(row.path, UploadEndpoint(row, services), methods=["POST"]) for row in UPLOADS),
            *(Route(row.path, BatchEndpoint(row, services), methods=["POST"]) for row in BATCHES),
            *(Route(row.path, CountEndpoint(row, services), methods=["POST"]) for row in COUNTS),
            *(Route(row.path, LookupEndpoint(row, services), methods=["GET"]) for row in LOOKUPS),
            *(Route(path, RememberedEndpoint(row, services), methods=list(row)) for path, row in REMEMBERED.items()),
            *(Route(f"{prefix}{{path:path}}", native, methods=None) for prefix in (NATIVE_PREFIX, ALIAS_PREFIX)),
            Route("/health/live", Health("live", lambda: True), methods=["GET"]),
            Route("/health/ready", Health("ready", lambda: serving), methods=["GET"]),
            Route("/metrics", MetricsPage(settings, metrics), methods=["GET"]),
        ],
        redirect_slashes=False,
        lifespan=lifespan,
    )
    # Starlette's router inside our own guard: what its application class adds (error pages, exception
    # handlers) is the guard's work here, and each layer would cost every request and every chunk.
    guard = Guard(router, settings, access, metrics, log)
    return guard, Control(guard, services, log, draining)
