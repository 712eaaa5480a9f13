"""The application: the tables' rows as Starlette routes, inside the guard."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from gateway.access.caller import Access
from gateway.catalogue import Catalogue
from gateway.endpoint import CallEndpoint, LookupEndpoint, Services
from gateway.guard import Guard
from gateway.log import Log
from gateway.metrics import Metrics
from gateway.operations import CALLS, LOOKUPS
from gateway.probes import Health, MetricsPage
from gateway.settings import Settings
from gateway.upstream.client import Upstream
from translators.capabilities import CAPABILITIES


def create_app(settings: Settings, log: Log | None = None) -> Starlette:
    """The gateway as an ASGI application. Raises SettingError on settings that contradict each other."""
    access = Access(settings)
    log = log or Log(settings.log == "json")
    fields = {row.name for operation in CALLS for row in operation.fields.rows}
    metrics = Metrics(CAPABILITIES, fields)
    upstream = Upstream(settings.cohere_base_url, settings.timeouts)
    services = Services(settings, upstream, Catalogue(upstream), metrics)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await upstream.start()
        app.state.ready = True
        yield
        app.state.ready = False
        await upstream.stop()

    def ready() -> bool:
        return bool(app.state.ready)

    app = Starlette(
        routes=[
            *(Route(row.path, CallEndpoint(row, services), methods=["POST"]) for row in CALLS),
            *(Route(row.path, LookupEndpoint(row, services), methods=["GET"]) for row in LOOKUPS),
            Route("/health/live", Health("live", lambda: True), methods=["GET"]),
            Route("/health/ready", Health("ready", ready), methods=["GET"]),
            Route("/metrics", MetricsPage(settings, metrics), methods=["GET"]),
        ],
        middleware=[Middleware(Guard, settings=settings, access=access, metrics=metrics, log=log)],
        exception_handlers={HTTPException: _to_the_guard},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.ready = False
    return app


async def _to_the_guard(request: object, error: Exception) -> None:
    """Starlette would answer its own errors in plain text: the guard renders all errors alike."""
    raise error
