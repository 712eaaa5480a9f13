"""What endpoints share."""

from msgspec import Struct

from gateway.auth.authenticator import Authenticator
from gateway.auth.directory import KeyDirectory
from gateway.limits.limiter import Limiter
from gateway.observability.lifecycle import Lifecycle
from gateway.observability.metrics import Metrics
from gateway.pipeline.accepted_keys import AcceptedKeys
from gateway.pipeline.admission import AdmissionController
from gateway.pipeline.file_parser import FileParser
from gateway.pipeline.offload import Offload
from gateway.pipeline.response_cache import ResponseCache
from gateway.settings.schema import Settings
from gateway.state.conversation_state import ConversationState
from gateway.upstream.calls import UpstreamCalls
from gateway.upstream.model_catalog import ModelCatalog
from translators.core.contracts import Policy


class Services(Struct):
    """The objects that live as long as the process.

    A reload changes `settings`, `policy` and `authenticator` (`reload.py`).
    """

    settings: Settings
    policy: Policy
    upstream: UpstreamCalls
    catalog: ModelCatalog
    metrics: Metrics
    lifecycle: Lifecycle
    admission: AdmissionController
    state: ConversationState
    cache: ResponseCache
    offload: Offload
    file_parser: FileParser
    accepted_keys: AcceptedKeys
    directory: KeyDirectory
    authenticator: Authenticator
    limiter: Limiter
