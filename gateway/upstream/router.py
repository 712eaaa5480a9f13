"""Several upstreams: which of them serves a model, and which is asked when it fails.

A model is served by the named upstreams that list it, in the order of the settings, and by the default upstream where
none does. Each has its own keys, connections, circuit breakers and limits. Another one is asked only before the first
byte of an answer, and only for failures that are the upstream's: what is wrong with a request is wrong everywhere.

What is stored at an upstream (datasets, jobs, batches, fine-tuned models, connectors) is all at one of them, since an
id does not say where it is from. A caller's own Cohere key goes to the default upstream alone.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from fnmatch import fnmatchcase
from functools import partial
from types import TracebackType
from typing import Protocol, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from gateway.auth.principal import Principal
from gateway.cohere_methods import METHODS
from gateway.errors import UpstreamError, failure
from gateway.observability.call_controls import NO_CONTROLS, CallControls
from gateway.observability.record import Attempt, TimedAttempt
from gateway.settings.schema import DEFAULT_UPSTREAM, NamedUpstream, Settings, UpstreamSettings
from gateway.upstream.attempts import NO_OPTIONS, CallOptions, Resources
from gateway.upstream.client import UpstreamClient
from gateway.upstream.observer import UpstreamObserver
from gateway.upstream.response import ProxyRequest, UpstreamResponse
from gateway.upstream.retry import RetryBudget
from translators.core.errors import TranslationError
from translators.core.model_names import PREFIX
from translators.operations import models
from translators.operations.passthrough import replace_model

STORED_GROUPS = ("datasets", "embed_jobs", "batches", "finetuning", "connectors")
"""Groups of methods that act on what is stored at an upstream."""

STORED_PATHS = frozenset(tuple(method.path.split("/")[1:3]) for method in METHODS if method.group in STORED_GROUPS)
"""The first two segments of their paths."""

ASK_ANOTHER = frozenset((401, 402, 403, 404, 429, 499))
"""Statuses below 500 that are about the key, the model or the limits of this upstream, and not about the request."""

FINAL_CODES = frozenset((failure("stopping", "").code, failure("no_descriptors", "").code))
"""Failures of the gateway itself."""

LIST_SECONDS = 5.0
"""That a named upstream has to list its models."""

MAX_ROUTES = 1_000
"""Models whose route is remembered."""


class RoutingObserver(UpstreamObserver, Protocol):
    """Receives the events of several upstreams."""

    def named(self, upstream: str) -> UpstreamObserver:
        """Returns what receives the events of calls to one of them."""
        ...

    def on_attempt(self, upstream: str, status: int) -> None:
        """Hears that a call was made. status: 0 where no response came."""
        ...

    def on_another_upstream(self, upstream: str) -> None:
        """Hears that a request goes on to another upstream, as this one has failed."""
        ...


class Upstream(Struct, frozen=True):
    """A place that serves models. names: what it calls them, where that is something else."""

    name: str
    client: UpstreamClient
    names: Mapping[str, str] = {}

    def name_of(self, model: str) -> str:
        """Returns what it calls a model."""
        return self.names.get(model, model)


Call: TypeAlias = Callable[[Upstream, CallOptions], AbstractAsyncContextManager[UpstreamResponse]]
"""Makes the attempts at an upstream."""


class UpstreamRouter:
    """The default upstream, and the named ones before it. Implements `UpstreamCalls`."""

    routes_by_model = True

    def __init__(self, settings: Settings, keys: list[str], observer: RoutingObserver) -> None:
        """Raises SettingError."""
        self._observer, self._settings = observer, settings.upstreams
        self._default = Upstream(DEFAULT_UPSTREAM, UpstreamClient(settings, keys, observer.named(DEFAULT_UPSTREAM)))
        self._clients = {
            name: UpstreamClient(settings, named.api_key, observer.named(name), name)
            for name, named in settings.upstreams.items()
        }
        self._set_routes()

    def _set_routes(self) -> None:
        self._named = {
            name: Upstream(name, client, self._settings[name].names) for name, client in self._clients.items()
        }
        holders = (name for name, settings in self._settings.items() if settings.stored_resources)
        self._stored = self._named.get(next(holders, ""), self._default)
        self._routes: dict[str, Sequence[Upstream]] = {}

    @property
    def _all(self) -> Sequence[UpstreamClient]:
        return [self._default.client, *self._clients.values()]

    async def start(self) -> None:
        """Opens all sessions; needs the running loop."""
        for client in self._all:
            await client.start()

    async def stop(self) -> None:
        """Closes all sessions."""
        for client in self._all:
            await client.stop()

    def configure(self, settings: Settings, keys: list[str]) -> None:
        """Takes over other keys, models and limits, for the calls that follow."""
        self._default.client.configure(settings, keys)
        self._settings = settings.upstreams
        for name, client in self._clients.items():
            # There are the same names in both: `accepts` has made sure of it.
            client.configure(settings, settings.upstreams[name].api_key)
        self._set_routes()

    def accepts(self, upstreams: Mapping[str, NamedUpstream]) -> bool:
        """Tells whether these can be taken over without other connections."""
        return {name: _address_of(one) for name, one in upstreams.items()} == {
            name: _address_of(one) for name, one in self._settings.items()
        }

    def condition(self) -> str:
        """Returns why calls fail at present, and to which upstreams; an empty text if nothing is known to be wrong."""
        upstreams = {DEFAULT_UPSTREAM: self._default.client, **self._clients}
        conditions = {name: client.condition() for name, client in upstreams.items()}
        return "; ".join(f"upstream {name}: {condition}" for name, condition in conditions.items() if condition)

    def all_resources(self) -> Mapping[str, Resources]:
        """Returns what the calls to an upstream share, by its name."""
        return {
            DEFAULT_UPSTREAM: self._default.client.resources,
            **{name: client.resources for name, client in self._clients.items()},
        }

    def interrupt(self) -> None:
        """Ends what is under way, everywhere."""
        for client in self._all:
            client.interrupt()

    async def sleep(self, seconds: float) -> None:
        """Sleeps, but not in a gateway that is shutting down. Raises UpstreamError."""
        await self._default.client.sleep(seconds)

    def retry_budget(self) -> RetryBudget:
        """Returns a budget for a 200 response that turned out to be an error."""
        return self._default.client.retry_budget()

    def count_retry(self, reason: str) -> None:
        """Counts a retry that the pipeline makes."""
        self._observer.on_retry(reason)

    # --- routes --------------------------------------------------------------------------------------------

    def route(self, model: str) -> Sequence[Upstream]:
        """Returns the upstreams that serve a model, in the order in which they are asked. model: Cohere's name."""
        chosen = self._routes.get(model)
        if chosen is None:
            # Callers choose the names of models: without a bound they could fill the memory with them.
            if len(self._routes) >= MAX_ROUTES:
                self._routes.clear()
            chosen = self._routes[model] = self._find_route(model)
        return chosen

    def _find_route(self, model: str) -> Sequence[Upstream]:
        names = [name for name, settings in self._settings.items() if model and serves(settings, model)]
        named = [self._named[name] for name in names]
        # A forgotten line should cost availability rather than confidentiality: a model may have to stay in its place.
        if not named or any(self._settings[name].fall_back_to_default for name in names):
            named.append(self._default)
        return named

    def first_upstream(self, model: str, caller: Principal) -> tuple[str, str]:
        """Returns the name of the upstream that is asked first for a model, and its address with its model's name."""
        upstream = self._default if caller.own_key else self.route(model)[0]
        if upstream is self._default:
            # Empty, as where there are no named upstreams: what was cached for those is as good here.
            return DEFAULT_UPSTREAM, ""
        return upstream.name, f"{self._settings[upstream.name].base_url} {upstream.name_of(model)} "

    async def further_models(self, caller: Principal, pages: Sequence[bytes]) -> tuple[list[bytes], str]:
        """Returns pages of models that the named upstreams have beside those of the default one, and a note on those
        that do not say what they have. Models that the settings name are in them all the same.
        """
        names = list(self._settings)
        lists = await asyncio.gather(*[self._list(name, caller) for name in names])
        further: list[bytes] = []
        for name, listed in zip(names, lists, strict=True):
            settings = self._settings[name]
            # A model that several have is listed once: each list leaves out what stands in those before it.
            before = [*pages, *further]
            further.append(models.further_models(before, listed or (), settings.names, partial(serves, settings)))
            # Names and not patterns: nobody knows which models a pattern stands for.
            further.append(models.named_models([*pages, *further], filter(_is_name, settings.models)))
        silent = ", ".join(name for name, listed in zip(names, lists, strict=True) if listed is None)
        return further, f"upstreams without a list of models: {silent}" if silent else ""

    async def _list(self, name: str, caller: Principal) -> list[bytes] | None:
        """Returns an upstream's own list of models; None where it has none."""
        try:
            async with asyncio.timeout(LIST_SECONDS), self._clients[name].get(models.PATH, caller) as response:
                # The key is the operator's, so that nothing of what is wrong with it is for the caller.
                await response.raise_for_status(False)
                page = await response.read_body()
            return [page] if models.has_models(page) else None
        except (UpstreamError, TranslationError, TimeoutError):
            return None

    # --- calls ---------------------------------------------------------------------------------------------

    def post(
        self,
        path: str,
        caller: Principal,
        body: bytes,
        streamed: bool,
        options: CallOptions = NO_OPTIONS,
    ) -> AbstractAsyncContextManager[UpstreamResponse]:
        """Posts a JSON body to the upstreams of its model. The parameters are those of `UpstreamClient.post`."""

        def call(upstream: Upstream, options: CallOptions) -> AbstractAsyncContextManager[UpstreamResponse]:
            name = upstream.name_of(options.model)
            content = body if name == options.model else replace_model(body, name)
            return upstream.client.post(path, caller, content, streamed, options)

        # No other upstream may see a caller's own Cohere key.
        route = [self._default] if caller.own_key else self.route(options.model)
        return RoutedCall(route, call, options, self._observer)

    def get(self, path: str, caller: Principal) -> AbstractAsyncContextManager[UpstreamResponse]:
        """Gets a JSON document of the default upstream."""
        return self._default.client.get(path, caller)

    def forward(
        self,
        request: ProxyRequest,
        caller: Principal,
        path: str,
        repeatable: bool,
        options: CallOptions = NO_OPTIONS,
    ) -> AbstractAsyncContextManager[UpstreamResponse]:
        """Forwards a request to the upstreams of its model, or to the one that has what it is about.

        The parameters are those of `UpstreamClient.forward`.
        """

        def call(upstream: Upstream, options: CallOptions) -> AbstractAsyncContextManager[UpstreamResponse]:
            request_there = renamed(request, options.model, upstream.name_of(options.model))
            return upstream.client.forward(request_there, caller, path, repeatable, options)

        route = self._route_of_request(request, caller, path, options.model)
        # Another upstream could get only the rest of a body that is read while it arrives, and a call that must not be
        # repeated may have had its effect where it failed.
        if not repeatable or not isinstance(request.body, bytes | None):
            route = route[:1]
        return RoutedCall(route, call, options, self._observer)

    def _route_of_request(self, request: ProxyRequest, caller: Principal, path: str, model: str) -> Sequence[Upstream]:
        if caller.own_key:
            return [self._default]
        # An id does not say where it is from, so that all that is stored is at one upstream.
        if tuple(path.split("/")[1:3]) in STORED_PATHS:
            return [self._stored]
        return self.route(model) if request.body is not None else [self._default]


class RoutedCall:
    """A call to the first upstream of a route that does not fail."""

    __slots__ = ("_attempt_count", "_call", "_observer", "_opened", "_options", "_recorded", "_route")

    def __init__(self, route: Sequence[Upstream], call: Call, options: CallOptions, observer: RoutingObserver) -> None:
        """options: of the whole call; each of its attempts gets the upstream's name."""
        self._route, self._call, self._options, self._observer = route, call, options, observer
        self._recorded: list[TimedAttempt] = [] if options.attempts is None else options.attempts
        self._attempt_count = 0
        self._opened: AbstractAsyncContextManager[UpstreamResponse] | None = None

    async def __aenter__(self) -> UpstreamResponse:
        """Asks one upstream after the other. Raises UpstreamError, that of the last one."""
        began, left = time.monotonic(), self._options.controls
        # The last one is asked after the loop: whatever it answers is the caller's.
        for upstream in self._route[:-1]:
            failed: UpstreamError | None = None
            opened, response = None, None
            try:
                opened, response = await self._ask(upstream, left, True)
            except UpstreamError as error:
                # This process stops or has no descriptors left, so no upstream could do better.
                if error.failure.code in FINAL_CODES:
                    raise
                failed = error
            remaining = _left(self._options.controls, self._attempt_count, time.monotonic() - began)
            # The attempts and the time that the caller has given are for all upstreams together.
            if failed is not None and remaining is None:
                raise failed
            if opened is not None and response is not None:
                if remaining is None or not is_elsewhere(response.status):
                    self._opened = opened
                    return response
                # Its connection goes back before the next upstream is asked, which may take minutes.
                await opened.__aexit__(None, None, None)
            assert remaining is not None
            left = remaining
            self._observer.on_another_upstream(upstream.name)
        self._opened, response = await self._ask(self._route[-1], left, False)
        return response

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._opened is not None:
            await self._opened.__aexit__(kind, error, trace)

    async def _ask(
        self, upstream: Upstream, left: CallControls, has_alternative: bool
    ) -> tuple[AbstractAsyncContextManager[UpstreamResponse], UpstreamResponse]:
        """Makes the attempts at one upstream, and writes its name into them. Raises UpstreamError."""
        attempts: list[TimedAttempt] = []  # other parts of a split request add to `_recorded` meanwhile
        options = replace(self._options, attempts=attempts, controls=left, has_alternative=has_alternative)
        opened = self._call(upstream, options)
        try:
            response = await opened.__aenter__()
        except UpstreamError:
            self._observe(upstream, attempts)
            raise
        finally:
            # On every way out, since a call that is cancelled has its attempts in the log, too.
            for attempt in attempts:
                attempt.upstream = upstream.name
            self._recorded += attempts
            self._attempt_count += len(attempts)
        self._observe(upstream, attempts)
        return opened, response

    def _observe(self, upstream: Upstream, attempts: Sequence[Attempt]) -> None:
        for attempt in attempts:
            self._observer.on_attempt(upstream.name, attempt.status)


def serves(settings: NamedUpstream, model: str) -> bool:
    """Tells whether an upstream serves a model."""
    return any(fnmatchcase(model, pattern.removeprefix(PREFIX)) for pattern in settings.models)


def _is_name(pattern: str) -> bool:
    return not {*"*?["} & {*pattern}


def is_elsewhere(status: int) -> bool:
    """Tells whether another upstream may answer what this one has answered with a status."""
    # Redirects are not followed, so that one is no answer.
    return status in ASK_ANOTHER or status >= 500 or 300 <= status < 400


def renamed(request: ProxyRequest, model: str, name: str) -> ProxyRequest:
    """Returns a request with another name of its model; one that has none as it is."""
    if name == model:
        return request
    if request.rename is not None:
        return replace(request, body=request.rename(name))
    if not isinstance(request.body, bytes) or not request.body.lstrip().startswith(b"{"):
        return request
    return replace(request, body=replace_model(request.body, name))


def _left(controls: CallControls, attempts: int, elapsed: float) -> CallControls | None:
    """Returns what is left of what a caller has asked for; None for nothing."""
    if controls is NO_CONTROLS:
        return controls
    total = None if controls.total is None else controls.total - elapsed
    most = None if controls.attempts is None else controls.attempts - attempts
    if (total is not None and total <= 0) or (most is not None and most <= 0):
        return None
    return replace(controls, total=total, attempts=most)


def _address_of(upstream: NamedUpstream) -> tuple[str, UpstreamSettings]:
    """Returns what a connection depends on."""
    options = UpstreamSettings(upstream.headers, upstream.ca_file, upstream.client_certificate, upstream.client_key)
    return upstream.base_url, options
