"""THE VOCABULARY OF FAULTS: whose fault a failure is, in a word that metrics, log and ledger share.

It is closed. The part before the first underscore says who can do something about it: the caller, the operator's
policy, Cohere (`provider`), or the gateway. Each error of the tables in `gateway/errors.py` and `upstream_errors.py`
has one.
"""

from collections.abc import Mapping
from enum import StrEnum


class Fault(StrEnum):
    """Why a request failed."""

    CALLER_REQUEST = "caller_request"
    CALLER_CREDENTIALS = "caller_credentials"
    CALLER_LEFT = "caller_left"
    POLICY_PERMISSION = "policy_permission"
    POLICY_BLOCKED = "policy_blocked"
    POLICY_ORIGIN = "policy_origin"
    POLICY_RATE_LIMIT = "policy_rate_limit"
    POLICY_BUDGET = "policy_budget"
    POLICY_CAPACITY = "policy_capacity"
    PROVIDER_RATE_LIMIT = "provider_rate_limit"
    PROVIDER_QUOTA = "provider_quota"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    PROVIDER_TIMEOUT = "provider_timeout"
    PROVIDER_ANSWER = "provider_answer"
    GATEWAY_CREDENTIALS = "gateway_credentials"
    GATEWAY_OVERLOAD = "gateway_overload"
    GATEWAY_STORAGE = "gateway_storage"
    GATEWAY_SHUTDOWN = "gateway_shutdown"
    GATEWAY_INTERNAL = "gateway_internal"


MEANINGS: Mapping[Fault, str] = {
    Fault.CALLER_REQUEST: "the request cannot be served as it is, or Cohere refused it (400, 404, 422)",
    Fault.CALLER_CREDENTIALS: "no key, an unknown one, or a Cohere key of the caller's own that Cohere refused",
    Fault.CALLER_LEFT: "the caller left, or cancelled the response",
    Fault.POLICY_PERMISSION: "the key may not call this method or this model",
    Fault.POLICY_BLOCKED: "the key, its team or the end user is blocked, expired, or calls from elsewhere",
    Fault.POLICY_ORIGIN: "a web page or a host that the settings do not allow",
    Fault.POLICY_RATE_LIMIT: "a limit of requests, tokens or parallel requests",
    Fault.POLICY_BUDGET: "a budget is spent, or a price is unknown under a budget",
    Fault.POLICY_CAPACITY: "a caller's share of connections, background responses, memory or storage is used up",
    Fault.PROVIDER_RATE_LIMIT: "Cohere's rate limit",
    Fault.PROVIDER_QUOTA: "Cohere's monthly limit, or a Cohere account without credit",
    Fault.PROVIDER_UNAVAILABLE: "Cohere failed, broke off, or could not be reached",
    Fault.PROVIDER_TIMEOUT: "Cohere did not answer in time",
    Fault.PROVIDER_ANSWER: "Cohere answered with something that cannot be passed on as what was asked for",
    Fault.GATEWAY_CREDENTIALS: "Cohere refused the gateway's own key",
    Fault.GATEWAY_OVERLOAD: "too many calls or connections at once",
    Fault.GATEWAY_STORAGE: "the database does not answer",
    Fault.GATEWAY_SHUTDOWN: "the gateway was starting or stopping",
    Fault.GATEWAY_INTERNAL: "a bug of the gateway",
}
"""For the documentation."""
