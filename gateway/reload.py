"""What a worker does to its running gateway: an orderly end, new settings. Which signal does what is in `worker.py`."""

import asyncio
from collections.abc import Callable

from msgspec.structs import replace

from gateway.auth.authenticator import Authenticator
from gateway.auth.modes import Mode
from gateway.endpoints.health import Availability, WorkerCount
from gateway.endpoints.websocket_handshake import WebSocketHandshake
from gateway.http.middleware import GatewayMiddleware
from gateway.observability.access_log import Log
from gateway.pipeline.services import Services
from gateway.settings.origins import loaded, taken_over
from gateway.settings.schema import SettingError, Settings

RELOADED = frozenset(
    {
        *(
            "cohere_api_key",
            "master_key",
            "master_may_call",
            "deny_by_default",
            "jwt",
            "console",
            "trusted_proxies",
            "allow_open",
            "cors_origins",
            "allowed_hosts",
        ),
        *(
            "body_limit",
            "max_websockets",
            "max_websockets_per_caller",
            "usage_base",
            "extra_upstream_fields",
            "strict_failures",
            "stream_commit_after",
            "stream_keep_alive",
        ),
        "tls",
        *("reasoning_events", "prices", "usage_cost"),
        *("models", "retries", "pool", "breaker", "concurrency", "global_limits", "budgets"),
    }
)
"""Settings, or tables of them, that a running gateway takes over. The others need a restart."""


class RunningGateway:
    """The handles of the gateway in one process.

    started: set when requests are served. workers: of this machine, for readiness. draining: called when the gateway is
    to stop, with the seconds that are left.
    """

    def __init__(
        self,
        middleware: GatewayMiddleware,
        websockets: WebSocketHandshake,
        services: Services,
        log: Log,
        workers: WorkerCount,
        availability: Availability,
        draining: Callable[[float], None],
    ) -> None:
        self.started = asyncio.Event()
        self.metrics, self.workers, self.availability = services.metrics, workers, availability
        self._middleware, self._websockets = middleware, websockets
        self._services, self._log, self._draining = services, log, draining

    def report(self, sentence: str) -> None:
        """Tells the operator something."""
        self._log.message(sentence)

    def drain(self, seconds: float) -> None:
        """Lets what is in flight end by itself for so long; then it is ended, with an error in its own form."""
        self._draining(seconds)
        asyncio.get_running_loop().call_later(seconds, self._services.upstream.interrupt)

    def reload(self, old: Settings, new: Settings) -> bool:
        """Takes over what has changed, for the requests that follow. Returns False if that is impossible."""
        changed = [name for name in Settings.__struct_fields__ if getattr(old, name) != getattr(new, name)]
        services = self._services
        # Named upstreams are taken over where their addresses stay: others need other connections.
        reloaded = RELOADED | {"upstreams"} if services.upstream.accepts(new.upstreams) else RELOADED
        applied = [name for name in changed if name in reloaded]
        not_applied = [name for name in changed if name not in reloaded]
        settings: Settings = loaded(services.settings, taken_over(services.settings, new, not_applied))
        settings = replace(settings, **{name: getattr(new, name) for name in applied})
        # Before anything is taken over, so that settings that cannot be used change nothing.
        try:
            authenticator = Authenticator(settings, services.directory, self._log.message)
            _check_modes(services.authenticator.mode, authenticator.mode)
            services.limiter.configure(settings)
        except SettingError as error:
            self.refuse(error)
            return False
        mode_before = services.authenticator.mode
        if authenticator.mode is Mode.VIRTUAL_KEYS:
            services.directory.watch()  # the settings of before may have had no keys
        services.settings, services.policy, services.authenticator = settings, settings.policy, authenticator
        services.admission.configure(settings)
        services.upstream.configure(settings, authenticator.keys)
        self._middleware.configure(settings, authenticator)
        self._websockets.configure(settings, authenticator)
        message = f"the settings were read again: {', '.join(applied) or 'nothing'} changed"
        if authenticator.mode is not mode_before:
            message += f"; callers: {authenticator.mode.value}"
        self._log.message(
            message + (f"; {', '.join(not_applied)} changed, too, and need a restart" if not_applied else "")
        )
        return True

    def refuse(self, error: SettingError) -> None:
        """Tells the operator that the new settings cannot be used."""
        self._log.message(f"the new settings cannot be used, the old ones stay: {error}")


def _check_modes(before: Mode, after: Mode) -> None:
    """Raises SettingError where keys would not be asked for any more.

    A file is read while an editor or a program writes it, and then it may be empty. That must neither open the gateway
    nor send the keys of its callers to Cohere.
    """
    if before is Mode.VIRTUAL_KEYS and after is not Mode.VIRTUAL_KEYS:
        raise SettingError(f"master_key: without it callers would be '{after.value}', which needs a restart")
