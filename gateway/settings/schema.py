"""Every setting, documented beside its field.

A setting comes from the command line, the environment, or the file `gateway.toml`, in this order; then from its
default. Its environment name is GATEWAY_ and its path in capitals (`[timeouts] connect` is GATEWAY_TIMEOUTS_CONNECT)
unless the field names others. How they are read is in `loading.py`, what documents say of them in `reference.py`.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from translators.core.contracts import Policy, UsageBase


class SettingError(Exception):
    """A setting that cannot be used; its text names the setting and is shown as it is."""


def _about(text: str, *environment: str) -> Any:
    return Meta(description=text, extra={"environment": environment} if environment else {})


SECONDS = Meta(gt=0, le=86_400)


class Timeouts(Struct, frozen=True, forbid_unknown_fields=True):
    connect: Annotated[float, _about("seconds to wait for a connection to Cohere"), SECONDS] = 10.0
    first_event: Annotated[
        float, _about("seconds to wait for Cohere's answer or the first event of its stream"), SECONDS
    ] = 300.0
    between_events: Annotated[
        float, _about("longest silence, in seconds, inside a stream or a body from Cohere"), SECONDS
    ] = 120.0
    request_body: Annotated[
        float,
        _about(
            "longest silence, in seconds, inside a request's body; all of it may lag this far behind 500 bytes a second"
        ),
        SECONDS,
    ] = 30.0
    request_body_total: Annotated[
        float,
        _about("seconds that all of a request's body may take, unless it is an upload that is passed on"),
        SECONDS,
    ] = 300.0
    total: Annotated[float, _about("seconds from a call to Cohere to the last byte of its answer"), SECONDS] = 3_600.0
    keep_alive: Annotated[
        float, _about("seconds that an idle connection stays open, and that the head of a request may take"), SECONDS
    ] = 75.0
    response_write: Annotated[
        float, _about("seconds that a piece of a response may wait for a caller who does not read"), SECONDS
    ] = 60.0
    websocket_idle: Annotated[float, _about("seconds that a WebSocket may be idle between two requests"), SECONDS] = (
        3600.0
    )
    hung_worker: Annotated[
        float, _about("seconds after which a worker process that does not answer is killed and replaced"), SECONDS
    ] = 20.0
    shutdown: Annotated[float, _about("seconds that requests in flight have to finish after SIGTERM"), SECONDS] = 30.0


class Models(Struct, frozen=True, forbid_unknown_fields=True):
    aliases: Annotated[dict[str, str], _about('your own names for models: `"gpt-4o" = "command-a-03-2025"`')] = {}
    successors: Annotated[bool, _about("serve models that Cohere removed with their successors")] = True
    fallbacks: Annotated[
        dict[str, list[str]],
        _about('models to try, in order, when one fails: `"command-a-03-2025" = ["command-r7b-12-2024"]`'),
    ] = {}
    cache_seconds: Annotated[
        float, _about("seconds that Cohere's list of models is cached; 0 requests it each time"), Meta(ge=0, le=86_400)
    ] = 300.0


class UpstreamSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """For private deployments of Cohere's API; `cohere_base_url` may have a path."""

    headers: Annotated[dict[str, str], _about("headers to add to every request to Cohere")] = {}
    ca_file: Annotated[str, _about("a PEM file of certificates to trust in addition to the system's")] = ""
    client_certificate: Annotated[str, _about("a PEM file with the client certificate for Cohere (mutual TLS)")] = ""
    client_key: Annotated[str, _about("a PEM file with that certificate's key, if it is a separate file")] = ""


DEFAULT_UPSTREAM = "default"
"""The name of `cohere_base_url` beside those of `[upstreams.NAME]`."""


class NamedUpstream(UpstreamSettings, frozen=True, forbid_unknown_fields=True):
    """A table `[upstreams.NAME]`: another place than `cohere_base_url` that serves some of the models.

    base_url, api_key: as `cohere_base_url` and `cohere_api_key`; the keys may be in GATEWAY_UPSTREAMS_<NAME>_API_KEY.
    models: names and globs of the models that it serves. names: what it calls them, where that is something else.
    fall_back_to_default: the default upstream answers when this one, and all others with the model, have failed.
    stored_resources: datasets, embed jobs, batches, fine-tuned models and connectors are there.
    """

    # Without descriptions: what is below a name of the operator's own is no line of the reference.
    base_url: str = ""
    api_key: list[str] = []
    models: list[str] = []
    names: dict[str, str] = {}
    fall_back_to_default: bool = False
    stored_resources: bool = False


class Retries(Struct, frozen=True, forbid_unknown_fields=True):
    """A call is made again only before the first byte of its answer has left."""

    count: Annotated[
        int,
        _about("how often a failed call is retried; switching to another key of the pool does not count"),
        Meta(ge=0),
    ] = 2
    budget: Annotated[float, _about("seconds after the first call in which a retry may start"), Meta(ge=0)] = 30.0
    initial_backoff: Annotated[
        float, _about("seconds before the first retry; the pause doubles with each further one"), SECONDS
    ] = 0.5
    max_backoff: Annotated[
        float, _about("longest pause between two calls, in seconds, unless Cohere's Retry-After asks for more"), SECONDS
    ] = 8.0
    invalid_generation: Annotated[
        bool, _about("retry once when the model generated something unusable (Cohere's 422)")
    ] = False


class PoolSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Of the server's Cohere keys."""

    kind: Annotated[
        Literal["learned", "trial", "production"],
        _about(
            "the rate limits that keys are held to: learned from Cohere's answers, or published for this kind of key"
        ),
    ] = "learned"
    queue_timeout: Annotated[float, _about("seconds that a call waits for a key below its rate limit"), Meta(ge=0)] = (
        10.0
    )


class BreakerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """One breaker for the connection to Cohere, one for each model."""

    failures: Annotated[
        int, _about("failures in the window that open a breaker, if half of the calls failed; 0 switches breakers off")
    ] = 20
    window: Annotated[float, _about("seconds over which failures are counted"), SECONDS] = 10.0
    open_seconds: Annotated[
        float, _about("seconds that an open breaker refuses calls before one call may try"), SECONDS
    ] = 10.0


class ConcurrencySettings(Struct, frozen=True, forbid_unknown_fields=True):
    max_in_flight: Annotated[int, _about("calls to Cohere at one time, in each worker"), Meta(ge=1)] = 1_000
    queue_size: Annotated[int, _about("calls that may wait for their turn; further ones get a 503"), Meta(ge=0)] = 1_000
    queue_timeout: Annotated[float, _about("seconds that a call may wait for its turn"), Meta(ge=0)] = 30.0
    # Below 1, as turns rotate only among calls that wait: one caller could hold all that are in flight.
    caller_share: Annotated[
        float, _about("the share of these calls and of this queue that one caller may have"), Meta(gt=0, le=1)
    ] = 0.8


class MemorySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """For bodies of requests and Cohere's whole answers (`memory_budget.py`)."""

    max_bytes: Annotated[
        int,
        _about(
            "bytes of request bodies and of Cohere's whole answers that a worker holds at one time; requests fill "
            "three quarters of it at most"
        ),
        Meta(ge=1),
    ] = 512 * 1024 * 1024
    caller_share: Annotated[float, _about("the share of them that one caller may have"), Meta(gt=0, le=1)] = 0.5


class FileSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Files in requests: text is read here, PDF files and images of pages by Cohere."""

    parse_model: Annotated[
        str,
        _about(
            "the model of Cohere's that reads PDF files and images of pages, billed by the page; `off` refuses them"
        ),
    ] = "parse-v5.0"


class OffloadSettings(Struct, frozen=True, forbid_unknown_fields=True):
    # One, because threads of one interpreter take its lock from each other (docs/decisions.md).
    threads: Annotated[
        int, _about("threads for large requests, and as many for long checks, in each worker"), Meta(ge=1)
    ] = 1
    # Not less: what a thread reads costs four times as much as on the event loop (docs/decisions.md).
    min_bytes: Annotated[
        int,
        _about(
            "requests above this size are read in a thread, not on the event loop; of text it may be eight times as "
            "much, where it has at most one value for each 16 of these bytes"
        ),
        Meta(ge=0),
    ] = 128 * 1024
    queue_size: Annotated[
        int,
        _about(
            "large requests and long checks that may be under way, those that wait included; further ones get a 503"
        ),
        Meta(ge=1),
    ] = 1_000
    queue_share: Annotated[int, _about("those that one caller may have under way"), Meta(ge=1)] = 500


class TlsSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """For callers' connections: docs/deployment.md#tls-and-http2."""

    certificate: Annotated[
        str, _about("a PEM file with the server's certificate and its chain: callers are served by https then")
    ] = ""
    key: Annotated[
        str, _about("a PEM file with the certificate's key, without a password; empty: in the same file")
    ] = ""
    http2: Annotated[bool, _about("offer HTTP/2 on these connections")] = True


class MetricsSettings(Struct, frozen=True, forbid_unknown_fields=True):
    public: Annotated[bool, _about("serve `/metrics` without a token on non-loopback addresses")] = False
    token: Annotated[str, _about("the bearer token for `/metrics` on non-loopback addresses")] = ""


class TracingSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """OpenTelemetry, which the environment switches on: docs/observability.md."""

    propagate: Annotated[
        bool, _about("send `traceparent` to Cohere, so that its trace can be found from ours; a caller's is not sent")
    ] = False


class CacheSettings(Struct, frozen=True, forbid_unknown_fields=True):
    store: Annotated[Literal["off", "memory", "redis"], _about("where answers to repeated requests are cached")] = "off"
    seconds: Annotated[
        float, _about("seconds that an answer is cached, unless the request names another number"), SECONDS
    ] = 3_600.0
    memory_bytes: Annotated[int, _about("bytes of cached answers in the memory of each worker"), Meta(ge=0)] = (
        64 * 1024 * 1024
    )


_DOLLARS = Meta(ge=0, le=1_000_000)


# The prices are named as in `ledger/prices.py`, which says what each is for.
class ModelPrice(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """US dollars for a model's units: tokens by the million, everything else each. None: unknown, not free.

    cached: input tokens that Cohere had in its cache; without it they cost what input costs. source, date: where the
    price was read, and when.
    """

    # None and not 0, so that a row of the settings can leave out what the packaged one has.
    input: Annotated[float, _DOLLARS] | None = None
    output: Annotated[float, _DOLLARS] | None = None
    cached: Annotated[float, _DOLLARS] | None = None
    search: Annotated[float, _DOLLARS] | None = None
    image: Annotated[float, _DOLLARS] | None = None
    image_tokens: Annotated[float, _DOLLARS] | None = None
    page: Annotated[float, _DOLLARS] | None = None
    classification: Annotated[float, _DOLLARS] | None = None
    audio_second: Annotated[float, _DOLLARS] | None = None
    source: str | None = None
    date: str | None = None


# Named as in the records of keys and teams, since `limits/plan.py` reads both alike.
class GlobalLimits(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of all requests together, over all gateways that share their counters."""

    rpm_limit: Annotated[Annotated[int, Meta(ge=0)] | None, _about("requests a minute")] = None
    tpm_limit: Annotated[Annotated[int, Meta(ge=0)] | None, _about("tokens a minute, prompts and answers")] = None
    max_parallel_requests: Annotated[Annotated[int, Meta(ge=0)] | None, _about("requests at the same time")] = None
    max_budget: Annotated[
        Annotated[float, Meta(ge=0)] | None, _about("dollars that may be spent in each `budget_duration`")
    ] = None
    budget_duration: Annotated[
        str, _about("when that budget begins anew: `1h`, `1d`, `7d`, `1mo` and the like, in UTC; empty for never")
    ] = ""


class LimitSettings(Struct, frozen=True, forbid_unknown_fields=True):
    on_failure: Annotated[
        Literal["local", "refuse"],
        _about(
            "what happens while Redis or the database that counts is away: each process holds requests to its share of "
            "the limits, or none is let through"
        ),
    ] = "local"
    timeout: Annotated[float, _about("seconds that a request may wait for Redis to count it"), SECONDS] = 0.05


class AlertSettings(Struct, frozen=True, forbid_unknown_fields=True):
    url: Annotated[str, _about("the webhook for alerts: spent budgets, disabled keys, open breakers and the like")] = ""
    secret: Annotated[str, _about("the key of the HMAC-SHA256 signature of each alert")] = ""


class BudgetSettings(Struct, frozen=True, forbid_unknown_fields=True):
    unknown_price: Annotated[
        Literal["refuse", "allow"],
        _about("what becomes of requests under a budget whose price is not known: refused, or counted as free"),
    ] = "refuse"


class LedgerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """A row for each call: docs/ledger.md."""

    flush_seconds: Annotated[
        float, _about("seconds that the row of a call may wait to be written with others"), Meta(gt=0, le=60)
    ] = 0.5
    sync: Annotated[bool, _about("let the last byte of an answer wait until the row of its call is written")] = False
    on_failure: Annotated[
        Literal["continue", "refuse"],
        _about("what becomes of calls while rows cannot be written: served, their rows put aside; or refused (503)"),
    ] = "continue"
    days: Annotated[
        float, _about("days that rows and hourly sums are kept; 0 keeps them forever; daily sums stay"), Meta(ge=0)
    ] = 90.0
    spool: Annotated[
        str, _about("the directory for rows while the database is away; empty: beside the SQLite file, or here")
    ] = ""
    bodies: Annotated[
        Literal["off", "errors", "all"],
        _about(
            "whether the bodies of calls are stored, sealed: of none, of those that fail, of all; a key or a team may "
            "have a `ledger_bodies` of its own"
        ),
    ] = "off"
    body_key: Annotated[
        str,
        _about(
            "the secret that bodies are sealed with, 16 characters or more; of several, separated by commas, the first "
            "seals and each opens"
        ),
    ] = ""
    body_days: Annotated[float, _about("days that bodies are kept; no longer than their rows"), Meta(gt=0)] = 7.0

    @property
    def body_keys(self) -> tuple[str, ...]:
        """The secrets of `body_key`."""
        return tuple(key for one in self.body_key.split(",") if (key := one.strip()))


class ConsoleSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The page for people: docs/console.md."""

    enabled: Annotated[bool, _about("serve the console at `/console`")] = True
    idle_seconds: Annotated[float, _about("seconds after which a session that nobody uses ends"), SECONDS] = 1_800.0


class JwtClaims(Struct, frozen=True, forbid_unknown_fields=True):
    """Paths of claims, with dots between the names of nested ones."""

    team: Annotated[str, _about("the claim with the id of the caller's team, such as `realm.team`")] = "team"
    user: Annotated[str, _about("the claim with the caller's user id")] = "sub"
    role: Annotated[str, _about("the claim with the caller's role: `viewer` or `admin`; any other is none")] = ""
    permissions: Annotated[str, _about("the claim with the caller's `permissions`: a preset or an object")] = ""
    models: Annotated[str, _about("the claim with the models that the caller may use: a list, or a text")] = ""


ASYMMETRIC = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA")
"""Algorithms whose signatures can be checked without being able to make them."""


class JwtSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """JSON Web Tokens of an identity provider, beside virtual keys."""

    jwks: Annotated[str, _about("the provider's signing keys (JWKS): a file or an https address")] = ""
    ca_file: Annotated[
        str, _about("a PEM file of certificates to trust in addition to the system's when the keys are loaded")
    ] = ""
    public_key: Annotated[str, _about("its only signing key instead: PEM, or a file of it")] = ""
    algorithms: Annotated[
        list[str], _about("signature algorithms that are accepted, asymmetric ones only; empty accepts all of these")
    ] = []
    audience: Annotated[str, _about("the `aud` that a token must have; empty accepts tokens for anybody")] = ""
    issuer: Annotated[str, _about("the `iss` that a token must have")] = ""
    leeway: Annotated[float, _about("seconds by which the provider's clock may differ"), Meta(ge=0, le=600)] = 0.0
    claims: JwtClaims = JwtClaims()

    @property
    def accepted_algorithms(self) -> Sequence[str]:
        """Names of algorithms, all of them asymmetric."""
        return self.algorithms or ASYMMETRIC

    @property
    def enabled(self) -> bool:
        """Tokens are accepted."""
        return bool(self.jwks or self.public_key)


# In this order the reference and `serve --help` have them.
class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    host: Annotated[str, _about("the address to listen on, or `unix:` and the path of a unix socket")] = "127.0.0.1"
    port: Annotated[int, _about("the port to listen on; 0 picks a free one"), Meta(ge=0, le=65_535)] = 8080
    workers: Annotated[int, _about("processes that share the port"), Meta(ge=1)] = 1
    # Hypercorn by default, as uvicorn is new here and switched to with one line (docs/decisions.md).
    server: Annotated[
        Literal["hypercorn", "uvicorn"],
        _about("the HTTP server; uvicorn, on uvloop, takes much less CPU for each request"),
    ] = "hypercorn"
    demo: Annotated[bool, _about("answer from the embedded emulator instead of Cohere")] = False
    # The second name is that of Cohere's own SDK, as it is with the base URL.
    cohere_api_key: Annotated[
        list[str],
        _about("the server's Cohere key; several, separated by commas, form a pool", "COHERE_API_KEY", "CO_API_KEY"),
    ] = []
    cohere_base_url: Annotated[
        str,
        _about("the address of Cohere's API; a trailing /v1 or /v2 is removed", "COHERE_BASE_URL", "CO_API_URL"),
    ] = "https://api.cohere.com"
    master_key: Annotated[str, _about("the operator's key; setting it switches to virtual keys")] = ""
    master_may_call: Annotated[bool, _about("let the master key call the API as well")] = True
    deny_by_default: Annotated[
        bool,
        _about("let a key call nothing but what its `permissions` or its team's name; else they add to `inference`"),
    ] = False
    allow_open: Annotated[bool, _about("allow open mode on non-loopback addresses")] = False
    cors_origins: Annotated[list[str], _about("origins of web pages that may call, separated by commas")] = []
    # Against pages whose own host name was made to lead to this machine, which CORS takes for the same origin.
    allowed_hosts: Annotated[
        list[str],
        _about(
            "host names by which a gateway without keys may be called, besides addresses and localhost, separated by "
            "commas; `*` allows all"
        ),
    ] = []
    trusted_proxies: Annotated[
        list[str],
        _about(
            "networks of proxies whose `x-forwarded-for` is believed, separated by commas; `unix` for those on a unix "
            "socket"
        ),
    ] = []
    body_limit: Annotated[int, _about("largest body of a request, in bytes"), Meta(ge=1)] = 32 * 1024 * 1024
    max_json_keys: Annotated[int, _about("most keys in the JSON of a request, counted at all depths"), Meta(ge=1)] = (
        100_000
    )
    # A parser in C lets nothing else run until it has ended, and no model reads more values than these.
    max_json_values: Annotated[
        int,
        _about("most values in the JSON of a request: commas and opening brackets and braces outside strings"),
        Meta(ge=1),
    ] = 300_000
    max_websockets: Annotated[int, _about("most open WebSockets in each worker"), Meta(ge=0)] = 256
    max_websockets_per_caller: Annotated[
        int, _about("most open WebSockets of one caller, in each worker"), Meta(ge=0)
    ] = 64
    # What is beyond 25 MB is for the form around the file.
    audio_limit: Annotated[
        int, _about("largest transcription request, in bytes (Cohere takes files of 25 MB)"), Meta(ge=1)
    ] = 26 * 1024 * 1024
    transcription_language: Annotated[
        str, _about("the language of recordings when the caller names none, such as `en`; Cohere requires one")
    ] = ""
    upload_limit: Annotated[int, _about("largest upload to Cohere's native API, in bytes"), Meta(ge=1)] = (
        2 * 1024 * 1024 * 1024
    )
    usage_base: Annotated[Literal["tokens", "billed_units"], _about("which of Cohere's counts `usage` shows")] = (
        "tokens"
    )
    embed_input_type: Annotated[
        Literal["search_document", "search_query", "classification", "clustering"],
        _about("the `input_type` of texts to embed when the caller names none"),
    ] = "search_document"
    # Nothing else that Cohere does not define is sent (docs/decisions.md).
    extra_upstream_fields: Annotated[
        list[str], _about("fields to send to Cohere although the gateway does not know them")
    ] = []
    database_url: Annotated[
        str, _about("where responses are stored: sqlite:///FILE or postgresql://USER@HOST/NAME")
    ] = "sqlite:///cohere-gateway.sqlite3"
    redis_url: Annotated[str, _about("a Redis that several gateways share: redis://HOST:PORT/NUMBER")] = ""
    redis_cluster: Annotated[
        bool, _about("`redis_url` names one node of a Redis Cluster; the others are learned from it")
    ] = False
    response_days: Annotated[
        float, _about("days that a stored response is kept; 0 keeps it forever"), Meta(ge=0, le=36_500)
    ] = 30.0
    # Callers could fill the disk, and then nobody would be served.
    max_stored_bytes: Annotated[
        int, _about("most bytes of stored responses and conversations; 0 sets no limit"), Meta(ge=0)
    ] = 16 * 1024 * 1024 * 1024
    max_stored_bytes_per_caller: Annotated[
        int,
        _about("most bytes of them for one caller; callers without keys of their own are one; 0 sets no limit"),
        Meta(ge=0),
    ] = 4 * 1024 * 1024 * 1024
    max_background_responses: Annotated[
        int, _about("background responses that a worker generates at one time; further ones are queued"), Meta(ge=1)
    ] = 100
    max_background_responses_per_caller: Annotated[
        int, _about("most background responses of one caller that have not ended, in each worker"), Meta(ge=1)
    ] = 250
    strict_failures: Annotated[
        Literal["error", "refusal"],
        _about("what the caller of a whole answer gets when the model misses a `strict` schema twice"),
    ] = "error"
    reasoning_events: Annotated[
        Literal["summary", "text"], _about("how the Responses API sends reasoning when the caller asks for no summary")
    ] = "summary"
    stream_commit_after: Annotated[
        float,
        _about(
            "seconds after which a stream that is checked before it is shown begins with comments; a later failure is "
            "an error event. 0: never"
        ),
        Meta(ge=0),
    ] = 20.0
    stream_keep_alive: Annotated[
        float,
        _about("seconds of silence after which a stream gets a comment, to keep the connection open; 0 sends none"),
        Meta(ge=0),
    ] = 15.0
    usage_cost: Annotated[bool, _about("show what a request cost as `usage.cost`, in US dollars")] = True
    prices: Annotated[
        dict[str, ModelPrice],
        _about(
            'your prices, by Cohere\'s id of the model, above the packaged ones: `[prices."command-a-03-2025"]` with '
            "`input`, `output` and `cached` in US dollars per million tokens"
        ),
    ] = {}
    log: Annotated[
        Literal["json", "console", "off"],
        _about("the log on standard error, one line for each request: JSON, or words for people"),
    ] = "json"
    timeouts: Timeouts = Timeouts()
    models: Models = Models()
    upstream: UpstreamSettings = UpstreamSettings()
    upstreams: Annotated[
        dict[str, NamedUpstream],
        _about(
            "further places that serve some of the models, each a table such as `[upstreams.eu]` with `base_url`, "
            "`api_key` and `models` (docs/upstreams.md)"
        ),
    ] = {}
    retries: Retries = Retries()
    pool: PoolSettings = PoolSettings()
    breaker: BreakerSettings = BreakerSettings()
    concurrency: ConcurrencySettings = ConcurrencySettings()
    offload: OffloadSettings = OffloadSettings()
    memory: MemorySettings = MemorySettings()
    files: FileSettings = FileSettings()
    tls: TlsSettings = TlsSettings()
    metrics: MetricsSettings = MetricsSettings()
    tracing: TracingSettings = TracingSettings()
    cache: CacheSettings = CacheSettings()
    # `global` in the file: a word that Python keeps for itself.
    global_limits: GlobalLimits = msgspec.field(default=GlobalLimits(), name="global")
    limits: LimitSettings = LimitSettings()
    budgets: BudgetSettings = BudgetSettings()
    alerts: AlertSettings = AlertSettings()
    ledger: LedgerSettings = LedgerSettings()
    jwt: JwtSettings = JwtSettings()
    console: ConsoleSettings = ConsoleSettings()

    @property
    def upstream_keys(self) -> Sequence[str]:
        """The server's keys, for whatever upstream."""
        return [*self.cohere_api_key, *(key for upstream in self.upstreams.values() for key in upstream.api_key)]

    @property
    def unix_socket(self) -> str:
        """The path of the unix socket to listen on; empty for none."""
        return self.host.removeprefix("unix:") if self.host.startswith("unix:") else ""

    @property
    def loopback(self) -> bool:
        """Only this machine can reach the listening address."""
        # Over a unix socket comes only who is at this machine.
        if self.host == "localhost" or self.unix_socket:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        # A host name may lead anywhere.
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
            parse_model=self.files.parse_model,
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
