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
from translators.core.contracts import Context, Policy


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
        self, scope: Scope, recalled: LoadedState | None = None, instead: Mapping[str, str] | None = None
    ) -> Context:
        """What the translation of one request may know. instead: see `Policy.instead`."""
        seal, summaries = seal_of(scope["gateway.caller"]), seal_of(scope["gateway.caller"], SUMMARY)
        return Context(
            created=int(time.time()),
            unique=record.new_id(),
            strict=scope["gateway.headers"].get(b"x-gateway-strict", b"").strip().lower() == b"true",
            policy=self.policy if instead is None else msgspec.structs.replace(self.policy, instead=instead),
            features=self.catalogue.features,
            lessons=self.catalogue.lessons,
            history=recalled.history if recalled else (),
            items=recalled.items if recalled else {},
            response_id=recalled.response_id if recalled else "",
            seal=seal.seal,
            opened=seal.open,
            seal_summary=summaries.seal,
            opened_summary=summaries.open,
            vocabulary=vocabulary,
            now=time.time,
        )
