"""What the rest of the gateway asks of Cohere: of one upstream (`client.py`), or of several (`router.py`)."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from gateway.auth.principal import Principal
from gateway.settings.schema import NamedUpstream, Settings
from gateway.upstream.attempts import NO_OPTIONS, CallOptions, Resources
from gateway.upstream.response import ProxyRequest, UpstreamResponse
from gateway.upstream.retry import RetryBudget


class UpstreamCalls(Protocol):
    """Calls are contexts: `async with upstream.post(...) as response`. What the parameters mean is in `client.py`.

    routes_by_model: the model of a request decides where it goes, and must be known.
    """

    routes_by_model: bool

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def configure(self, settings: Settings, keys: list[str]) -> None: ...

    def accepts(self, upstreams: Mapping[str, NamedUpstream]) -> bool: ...

    def condition(self) -> str: ...

    def all_resources(self) -> Mapping[str, Resources]: ...

    def interrupt(self) -> None: ...

    def post(
        self,
        path: str,
        caller: Principal,
        body: bytes,
        streamed: bool,
        options: CallOptions = NO_OPTIONS,
    ) -> AbstractAsyncContextManager[UpstreamResponse]: ...

    def get(self, path: str, caller: Principal) -> AbstractAsyncContextManager[UpstreamResponse]: ...

    def forward(
        self,
        request: ProxyRequest,
        caller: Principal,
        path: str,
        repeatable: bool,
        options: CallOptions = NO_OPTIONS,
    ) -> AbstractAsyncContextManager[UpstreamResponse]: ...

    def first_upstream(self, model: str, caller: Principal) -> tuple[str, str]:
        """Returns the name of the upstream that is asked first for a model, and what tells its answers from those of
        others; two empty texts where there is but one upstream.
        """
        ...

    async def further_models(self, caller: Principal, pages: Sequence[bytes]) -> tuple[list[bytes], str]: ...

    async def sleep(self, seconds: float) -> None: ...

    def retry_budget(self) -> RetryBudget: ...

    def count_retry(self, reason: str) -> None: ...
