"""Every setting, documented beside its field, read once at start.

A setting comes from the command line, the environment, or the file `gateway.toml`, in this order; then from
its default. Its environment name is GATEWAY_ and its path in capitals (`[timeouts] connect` is
GATEWAY_TIMEOUTS_CONNECT) unless the field names others. `described()` feeds `serve --help` and the README.
"""

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, ValidationError

from translators.context import Policy, UsageBase

DEFAULT_FILE = "gateway.toml"


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
    socket: Annotated[float, _about("seconds between two requests on a WebSocket"), SECONDS] = 3600.0
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
    first_pause: Annotated[float, _about("seconds before the second call; twice as many before the third"), SECONDS] = (
        0.5
    )
    longest_pause: Annotated[
        float, _about("seconds between two calls at most, unless Cohere's Retry-After asks for more"), SECONDS
    ] = 8.0
    generation: Annotated[
        bool, _about("make a call once more when the model generated something unusable (Cohere's 422)")
    ] = False


class PoolSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Of the server's Cohere keys."""

    kind: Annotated[
        Literal["learnt", "trial", "production"],
        _about("the rate limits that keys are held to: Cohere's published ones, or those learnt from its answers"),
    ] = "learnt"
    wait: Annotated[float, _about("seconds that a call waits for a key that is below its limit"), Meta(ge=0)] = 10.0


class BreakerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """One breaker for the way to Cohere, one for each model."""

    failures: Annotated[
        int, _about("failures in the window that open the breaker, if they are half of the calls; 0 switches it off")
    ] = 20
    window: Annotated[float, _about("seconds over which failures are counted"), SECONDS] = 10.0
    pause: Annotated[float, _about("seconds that an open breaker refuses calls, before one call may try"), SECONDS] = (
        10.0
    )


class ConcurrencySettings(Struct, frozen=True, forbid_unknown_fields=True):
    calls: Annotated[int, _about("calls to Cohere at once, in each worker"), Meta(ge=1)] = 1_000
    waiting: Annotated[int, _about("calls that wait for their turn; those beyond get a 503"), Meta(ge=0)] = 1_000
    wait: Annotated[float, _about("seconds that a call waits for its turn"), Meta(ge=0)] = 30.0


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
    sockets: Annotated[int, _about("open WebSockets in each worker, at most"), Meta(ge=0)] = 256
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
    background_runs: Annotated[
        int, _about("background responses that a worker works on at once; more are queued"), Meta(ge=1)
    ] = 100
    strict_failures: Annotated[
        Literal["error", "refusal"],
        _about("what the caller of a whole answer gets when the model misses a `strict` schema twice"),
    ] = "error"
    reasoning_events: Annotated[
        Literal["summary", "text"], _about("what Responses tell thinking as where a caller asks for no summary")
    ] = "summary"
    stream_comments: Annotated[
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


class Description(Struct, frozen=True):
    """One line of the settings table.

    path: the key in the file, with dots between table and key. text: what the setting means, its choices included.
    choices: the only values that it may have; empty for any. repeated: it is a list.
    """

    path: str
    environment: tuple[str, ...]
    default: str
    text: str
    choices: tuple[str, ...]
    repeated: bool


def load(
    environment: Mapping[str, str], file: str | None = None, command_line: Mapping[str, Any] | None = None
) -> Settings:
    """The settings in force. Raises SettingError, which names the nearest right key for a wrong one."""
    _refuse_slips(environment)
    values = _from_file(file or environment.get("GATEWAY_CONFIG"))
    for line in described():
        found = next((environment[name] for name in line.environment if environment.get(name)), None)
        if found is not None:
            _put(values, line.path, _listed(found) if line.repeated else found)
    for path, value in (command_line or {}).items():
        if value is not None:
            _put(values, path, value)
    try:
        settings = msgspec.convert(_parsed(values), Settings, strict=False)
    except ValidationError as error:
        raise SettingError(_explained(error)) from error
    return msgspec.structs.replace(settings, cohere_base_url=_base_url(settings.cohere_base_url))


SLIP = 0.87
"""How alike two names are (difflib) of which one is taken for a slip of the other."""


def _refuse_slips(environment: Mapping[str, str]) -> None:
    """A variable that is nearly a setting's name. Others that begin with GATEWAY_ may be somebody else's: Kubernetes
    puts GATEWAY_SERVICE_HOST and the like into every pod beside a service of that name.
    """
    known = {name for line in described() for name in line.environment} | {"GATEWAY_CONFIG"}
    for name in environment:
        if name.startswith("GATEWAY_") and name not in known:
            near = difflib.get_close_matches(name, known, 1, SLIP)
            if near:
                raise SettingError(f"unknown setting '{name}', did you mean '{near[0]}'?")


def described(kind: type[Struct] = Settings, prefix: str = "") -> Iterator[Description]:
    """Every setting in the order of its declaration."""
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    for field in info.fields:
        path = f"{prefix}{field.name}"
        if isinstance(field.type, msgspec.inspect.StructType):
            yield from described(field.type.cls, f"{path}.")
            continue
        described_type, texts, names = field.type, [], ()
        while isinstance(described_type, msgspec.inspect.Metadata):
            texts.append((described_type.extra_json_schema or {}).get("description", ""))
            names = (described_type.extra or {}).get("environment", names)
            described_type = described_type.type
        default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
        repeated = isinstance(described_type, msgspec.inspect.ListType)
        environment = names or ("GATEWAY_" + path.replace(".", "_").upper(),)
        choices: tuple[str, ...] = ()
        if isinstance(described_type, msgspec.inspect.LiteralType):
            choices = tuple(map(str, described_type.values))
        text = next(filter(None, texts), "") + (f" (one of {', '.join(choices)})" if choices else "")
        yield Description(path, tuple(environment), _written(default), text, choices, repeated)


def _written(default: Any) -> str:
    return "" if default in ("", [], {}) else msgspec.json.encode(default).decode().strip('"')


def _from_file(name: str | None) -> dict[str, Any]:
    path = Path(name or DEFAULT_FILE)
    if name is None and not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} is not TOML: {error}") from error


def _put(values: dict[str, Any], path: str, value: Any) -> None:
    *tables, key = path.split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise SettingError(f"{table}: a table is wanted here")
    values[key] = value


_OBJECTS: tuple[tuple[str, str, Any], ...] = (
    ("models", "aliases", dict[str, str]),
    ("models", "fallbacks", dict[str, list[str] | str]),
    ("upstream", "headers", dict[str, str]),
)
"""Settings that are tables in the file and JSON objects in the environment."""


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _parsed(values: dict[str, Any]) -> dict[str, Any]:
    """A lone string where a list or a table is meant: `cohere_api_key = "x"`, aliases as JSON in a variable."""
    keys = values.get("cohere_api_key")
    if isinstance(keys, str):
        values["cohere_api_key"] = _listed(keys)
    for table, key, kind in _OBJECTS:
        within = values.get(table)
        written = within.get(key) if isinstance(within, dict) else None
        if isinstance(within, dict) and isinstance(written, str):
            try:
                within[key] = msgspec.json.decode(written, type=kind)
            except msgspec.DecodeError as error:
                raise SettingError(f"{table}.{key}: a JSON object is wanted here: {error}") from error
    models = values.get("models")
    fallbacks = models.get("fallbacks") if isinstance(models, dict) else None
    if isinstance(models, dict) and isinstance(fallbacks, dict):
        models["fallbacks"] = {
            model: _listed(others) if isinstance(others, str) else others for model, others in fallbacks.items()
        }
    return values


def _base_url(url: str) -> str:
    """Without trailing slash and version: clients' configurations carry either (product.md, "HTTP")."""
    url = url.rstrip("/")
    for version in ("/v1", "/v2"):
        url = url.removesuffix(version)
    if not url.startswith(("http://", "https://")):
        raise SettingError(f"cohere_base_url: '{url}' is not an http or https address")
    return url


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "array": "a list",
    "object": "a table",
}
"""msgspec's names of types, in the words of a settings file."""


def _explained(error: ValidationError) -> str:
    """msgspec's sentence in plain words, after the name of the setting that it is about."""
    text, _, place = str(error).partition(" - at ")
    path = place.strip("`").removeprefix("$").lstrip(".")
    unknown = "unknown field `"
    if unknown in text:
        key = text.split(unknown)[1].rstrip("`")
        return _unknown(f"{path}.{key}" if path else key)
    choices = next((line.choices for line in described() if line.path == path), ())
    if choices and text.startswith("Invalid enum value"):
        return f"{path}: {text.removeprefix('Invalid enum value ')} is none of {', '.join(choices)}"
    text = re.sub(r"`(\w+)`", lambda found: _KINDS.get(found[1], found[0]), text)
    return f"{path or 'settings'}: {text[:1].lower()}{text[1:]}"


def _unknown(name: str) -> str:
    """What is said of a key that does not exist. The name of a table may be the slip, too."""
    paths = [line.path for line in described()]
    names = [*paths, *dict.fromkeys(path.partition(".")[0] for path in paths if "." in path)]
    near = difflib.get_close_matches(name, names, 1, 0.5)
    return f"unknown setting '{name}'" + (f", did you mean '{near[0]}'?" if near else "")
