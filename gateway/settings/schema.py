"""Every setting, documented beside its field.

A setting comes from the command line, the environment, or the file `gateway.toml`, in this order; then from its
default. Its environment name is GATEWAY_ and its path in capitals (`[timeouts] connect` is GATEWAY_TIMEOUTS_CONNECT)
unless the field names others. How they are read is in `loading.py`, what documents say of them in `reference.py`.
"""

import ipaddress
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from translators.core.contracts import Policy, UsageBase


class SettingError(Exception):
    """A setting that cannot be used; its text names the setting and is shown as it is."""


def _about(text: str, *environment: str) -> Any:
    return Meta(description=text, extra={"environment": environment} if environment else {})


SECONDS = Meta(gt=0, le=86_400)


class Timeouts(Struct, frozen=True, forbid_unknown_fields=True):
    connect: Annotated[float, _about("seconds to reach Cohere"), SECONDS] = 10.0
    first_event: Annotated[
        float, _about("seconds until Cohere's answer, or the first event of its stream"), SECONDS
    ] = 300.0
    between_events: Annotated[
        float, _about("seconds between two pieces of a stream or a body from Cohere"), SECONDS
    ] = 120.0
    request_body: Annotated[
        float,
        _about("seconds between two pieces of a request's body; the whole may lag this far behind 500 bytes a second"),
        SECONDS,
    ] = 30.0
    total: Annotated[float, _about("seconds from the call to Cohere to the last byte of its answer"), SECONDS] = 3_600.0
    keep_alive: Annotated[
        float, _about("seconds that a caller's idle connection stays open, and that a request's head may take"), SECONDS
    ] = 75.0
    response_write: Annotated[
        float, _about("seconds that a piece of a response may wait for a caller who does not read"), SECONDS
    ] = 60.0
    websocket_idle: Annotated[float, _about("seconds between two requests on a WebSocket"), SECONDS] = 3600.0
    shutdown: Annotated[float, _about("seconds that requests in flight have to finish after SIGTERM"), SECONDS] = 30.0


class Models(Struct, frozen=True, forbid_unknown_fields=True):
    aliases: Annotated[dict[str, str], _about('names of your own for models: `"gpt-4o" = "command-a-03-2025"`')] = {}
    successors: Annotated[bool, _about("serve ids that Cohere removed with the models that took their place")] = True
    fallbacks: Annotated[
        dict[str, list[str]],
        _about('models to ask, in order, when one fails: `"command-a-03-2025" = ["command-r7b-12-2024"]`'),
    ] = {}
    cache_seconds: Annotated[
        float, _about("seconds that Cohere's list of models is kept; 0 asks for it each time"), Meta(ge=0, le=86_400)
    ] = 300.0


class UpstreamSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """For private deployments of Cohere's API; `cohere_base_url` may have a path."""

    headers: Annotated[dict[str, str], _about("headers that are added to every request to Cohere")] = {}
    ca_file: Annotated[str, _about("a PEM file of certificates that are trusted beside the system's")] = ""
    client_certificate: Annotated[
        str, _about("a PEM file with the certificate that the gateway shows to Cohere (mutual TLS)")
    ] = ""
    client_key: Annotated[str, _about("a PEM file with that certificate's key, if it is not in the same file")] = ""


class Retries(Struct, frozen=True, forbid_unknown_fields=True):
    """A call is made again only before the first byte of its answer has left."""

    count: Annotated[
        int, _about("times that a failed call is made again; another key of the pool does not count"), Meta(ge=0)
    ] = 2
    budget: Annotated[float, _about("seconds after the first call in which it may be made again"), Meta(ge=0)] = 30.0
    initial_backoff: Annotated[
        float, _about("seconds between a failed call and the next one; twice as many before the one after"), SECONDS
    ] = 0.5
    max_backoff: Annotated[
        float, _about("seconds between two calls at most, unless Cohere's Retry-After asks for more"), SECONDS
    ] = 8.0
    invalid_generation: Annotated[
        bool, _about("make a call once more when the model generated something unusable (Cohere's 422)")
    ] = False


class PoolSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Of the server's Cohere keys."""

    kind: Annotated[
        Literal["learned", "trial", "production"],
        _about("the rate limits that keys are held to: Cohere's published ones, or those learned from its answers"),
    ] = "learned"
    queue_timeout: Annotated[
        float, _about("seconds that a call waits for a key that is below its limit"), Meta(ge=0)
    ] = 10.0


class BreakerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """One breaker for the connection to Cohere, one for each model."""

    failures: Annotated[
        int, _about("failures in the window that open the breaker, if they are half of the calls; 0 switches it off")
    ] = 20
    window: Annotated[float, _about("seconds over which failures are counted"), SECONDS] = 10.0
    open_seconds: Annotated[
        float, _about("seconds that an open breaker refuses calls, before one call may try"), SECONDS
    ] = 10.0


class ConcurrencySettings(Struct, frozen=True, forbid_unknown_fields=True):
    max_in_flight: Annotated[int, _about("calls to Cohere at once, in each worker"), Meta(ge=1)] = 1_000
    queue_size: Annotated[int, _about("calls that wait for their turn; those beyond get a 503"), Meta(ge=0)] = 1_000
    queue_timeout: Annotated[float, _about("seconds that a call waits for its turn"), Meta(ge=0)] = 30.0


class MetricsSettings(Struct, frozen=True, forbid_unknown_fields=True):
    public: Annotated[bool, _about("serve `/metrics` without a token on addresses beyond loopback, too")] = False
    token: Annotated[str, _about("the bearer token that `/metrics` wants on addresses beyond loopback")] = ""


class CacheSettings(Struct, frozen=True, forbid_unknown_fields=True):
    store: Annotated[
        Literal["off", "memory", "redis"], _about("where answers are kept for callers who ask the same again")
    ] = "off"
    seconds: Annotated[float, _about("seconds that an answer is kept, unless its request names a number"), SECONDS] = (
        3_600.0
    )
    memory_bytes: Annotated[int, _about("bytes of answers kept in memory, in each worker"), Meta(ge=0)] = (
        64 * 1024 * 1024
    )


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    host: Annotated[str, _about("the address to listen on")] = "127.0.0.1"
    port: Annotated[int, _about("the port to listen on; 0 picks a free one"), Meta(ge=0, le=65_535)] = 8080
    workers: Annotated[int, _about("processes that share the port"), Meta(ge=1)] = 1
    demo: Annotated[bool, _about("answer from the embedded emulator, not from Cohere")] = False
    cohere_api_key: Annotated[
        list[str],
        _about("the server's Cohere key; several, separated by commas, form a pool", "COHERE_API_KEY", "CO_API_KEY"),
    ] = []
    cohere_base_url: Annotated[
        str,
        _about("where Cohere's API is; a trailing /v1 or /v2 is cut", "COHERE_BASE_URL", "CO_API_URL"),
    ] = "https://api.cohere.com"
    master_key: Annotated[str, _about("the operator's own key; setting it switches virtual keys on")] = ""
    master_may_call: Annotated[bool, _about("the master key may call the API as well")] = True
    allow_open: Annotated[bool, _about("in open mode, listen on addresses beyond loopback, too")] = False
    cors_origins: Annotated[list[str], _about("origins whose web pages may call, separated by commas")] = []
    body_limit: Annotated[int, _about("bytes of a request's body, at most"), Meta(ge=1)] = 32 * 1024 * 1024
    max_websockets: Annotated[int, _about("open WebSockets in each worker, at most"), Meta(ge=0)] = 256
    audio_limit: Annotated[
        int, _about("bytes of a transcription request, at most (Cohere takes files of 25 MB)"), Meta(ge=1)
    ] = 26 * 1024 * 1024
    transcription_language: Annotated[
        str, _about("the language of recordings whose callers name none, such as `en`; Cohere requires one")
    ] = ""
    upload_limit: Annotated[int, _about("bytes of an upload to Cohere's native API, at most"), Meta(ge=1)] = (
        2 * 1024 * 1024 * 1024
    )
    usage_base: Annotated[Literal["tokens", "billed_units"], _about("which of Cohere's counts `usage` shows")] = (
        "tokens"
    )
    embed_input_type: Annotated[
        Literal["search_document", "search_query", "classification", "clustering"],
        _about("the `input_type` of texts to embed whose callers name none"),
    ] = "search_document"
    extra_upstream_fields: Annotated[
        list[str], _about("fields that are sent to Cohere although the gateway does not know them")
    ] = []
    database_url: Annotated[
        str, _about("where responses are stored: sqlite:///FILE or postgresql://USER@HOST/NAME")
    ] = "sqlite:///cohere-gateway.sqlite3"
    redis_url: Annotated[str, _about("the Redis that several gateways share: redis://HOST:PORT/NUMBER")] = ""
    response_days: Annotated[
        float, _about("days that a stored response is kept; 0 keeps it for ever"), Meta(ge=0, le=36_500)
    ] = 30.0
    max_background_responses: Annotated[
        int, _about("background responses that a worker works on at once; more are queued"), Meta(ge=1)
    ] = 100
    strict_failures: Annotated[
        Literal["error", "refusal"],
        _about("what the caller of a whole answer gets when the model misses a `strict` schema twice"),
    ] = "error"
    reasoning_events: Annotated[
        Literal["summary", "text"], _about("what Responses tell thinking as where a caller asks for no summary")
    ] = "summary"
    stream_keep_alive: Annotated[
        float,
        _about("seconds of silence after which a stream's caller gets a comment, to keep the connection; 0 sends none"),
        Meta(ge=0),
    ] = 15.0
    log: Annotated[Literal["json", "off"], _about("the log on standard error, one line for each request")] = "json"
    timeouts: Timeouts = Timeouts()
    models: Models = Models()
    upstream: UpstreamSettings = UpstreamSettings()
    retries: Retries = Retries()
    pool: PoolSettings = PoolSettings()
    breaker: BreakerSettings = BreakerSettings()
    concurrency: ConcurrencySettings = ConcurrencySettings()
    metrics: MetricsSettings = MetricsSettings()
    cache: CacheSettings = CacheSettings()

    @property
    def loopback(self) -> bool:
        """Only this machine can reach the listening address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def policy(self) -> Policy:
        """The part of the settings that translation obeys."""
        return Policy(
            self.models.aliases,
            self.models.successors,
            UsageBase(self.usage_base),
            frozenset(self.extra_upstream_fields),
            self.strict_failures == "refusal",
            self.embed_input_type,
            transcription_language=self.transcription_language,
            raw_thoughts=self.reasoning_events == "text",
        )


RENAMED: Mapping[str, str] = {
    "sockets": "max_websockets",
    "background_runs": "max_background_responses",
    "stream_comments": "stream_keep_alive",
    "timeouts.socket": "timeouts.websocket_idle",
    "retries.first_pause": "retries.initial_backoff",
    "retries.longest_pause": "retries.max_backoff",
    "retries.generation": "retries.invalid_generation",
    "pool.wait": "pool.queue_timeout",
    "breaker.pause": "breaker.open_seconds",
    "concurrency.calls": "concurrency.max_in_flight",
    "concurrency.waiting": "concurrency.queue_size",
    "concurrency.wait": "concurrency.queue_timeout",
}
"""Old path -> new path. An old name, in the file or the environment, is an error that says the new one."""

RENAMED_VALUES: Mapping[str, Mapping[str, str]] = {"pool.kind": {"learnt": "learned"}}
"""By path: old value -> new value, with the same effect."""
