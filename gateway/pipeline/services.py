"""What endpoints share."""

import time
from collections.abc import Mapping

import msgspec
from starlette.types import Scope

from gateway.observability import record
from gateway.observability.metrics import Metrics
from gateway.pipeline.cl100k_base import vocabulary
from gateway.pipeline.response_cache import ResponseCache
from gateway.settings.schema import Settings
from gateway.state.conversation_state import ConversationState, LoadedState
from gateway.state.encrypted_content import SUMMARY, seal_of
from gateway.upstream.client import UpstreamClient
from gateway.upstream.model_catalog import ModelCatalog
from translators.core.contracts import Context, ConversationContext, LearnedCapabilities, Policy, ResponseIdentity


class Services(msgspec.Struct):
    """What endpoints share: made once at start. A reload changes `settings` and `policy` (`reload.py`)."""

    settings: Settings
    policy: Policy
    upstream: UpstreamClient
    catalogue: ModelCatalog
    metrics: Metrics
    memory: ConversationState
    cache: ResponseCache

    def context(
        self, scope: Scope, recalled: LoadedState | None = None, model_overrides: Mapping[str, str] | None = None
    ) -> Context:
        """What the translation of one request may know. model_overrides: see `Policy`."""
        seal, summaries = seal_of(scope["gateway.caller"]), seal_of(scope["gateway.caller"], SUMMARY)
        response_id = recalled.response_id if recalled else ""
        policy = self.policy
        if model_overrides is not None:
            policy = msgspec.structs.replace(policy, model_overrides=model_overrides)
        return Context(
            ResponseIdentity(int(time.time()), record.new_id(), response_id, time.time),
            policy,
            LearnedCapabilities(self.catalogue.features, self.catalogue.lessons),
            ConversationContext(
                recalled.history if recalled else (),
                recalled.items if recalled else {},
                seal.seal,
                seal.open,
                summaries.seal,
                summaries.open,
            ),
            strict=scope["gateway.headers"].get(b"x-gateway-strict", b"").strip().lower() == b"true",
            vocabulary=vocabulary,
        )
