"""Every setting, documented beside its field, read once at start.

A setting comes from the command line, the environment, or the file `gateway.toml`, in this order; then from
its default. Its environment name is GATEWAY_ and its path in capitals (`[timeouts] connect` is
GATEWAY_TIMEOUTS_CONNECT) unless the field names others. `described()` feeds `serve --help` and the README.
"""

import difflib
import ipaddress
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
    """In seconds."""

    connect: Annotated[float, _about("to reach Cohere"), SECONDS] = 10.0
    first_event: Annotated[float, _about("until Cohere's answer or the first event of its stream"), SECONDS] = 300.0
    between_events: Annotated[float, _about("between two reads of a stream or a body"), SECONDS] = 120.0
    request_body: Annotated[
        float,
        _about("between two pieces of a request's body, and how far all of it may lag behind 500 bytes a second"),
        SECONDS,
    ] = 30.0
    keep_alive: Annotated[
        float, _about("an idle connection of a caller stays open, and a request's head may take"), SECONDS
    ] = 75.0
    shutdown: Annotated[float, _about("what is in flight may take after SIGTERM"), SECONDS] = 30.0


class Models(Struct, frozen=True, forbid_unknown_fields=True):
    aliases: Annotated[dict[str, str], _about('other names of models: `"gpt-4o" = "command-a-03-2025"`')] = {}
    successors: Annotated[bool, _about("serve ids that Cohere removed with the models that took their place")] = True


class MetricsSettings(Struct, frozen=True, forbid_unknown_fields=True):
    public: Annotated[bool, _about("`/metrics` needs no token although the bind is not loopback")] = False
    token: Annotated[str, _about("the bearer token that `/metrics` wants elsewhere")] = ""


class CacheSettings(Struct, frozen=True, forbid_unknown_fields=True):
    store: Annotated[
        Literal["off", "memory", "redis"], _about("where answers are kept for who asks the same again")
    ] = "off"
    seconds: Annotated[float, _about("how long, unless a request says it"), SECONDS] = 3_600.0
    memory_bytes: Annotated[int, _about("bytes of memory for it, in each process"), Meta(ge=0)] = 64 * 1024 * 1024


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    host: Annotated[str, _about("the address to listen on")] = "127.0.0.1"
    port: Annotated[int, _about("the port to listen on; 0 picks a free one"), Meta(ge=0, le=65_535)] = 8080
    workers: Annotated[int, _about("processes that share the port"), Meta(ge=1)] = 1
    demo: Annotated[bool, _about("answer from the embedded emulator, not from Cohere")] = False
    cohere_api_key: Annotated[
        list[str],
        _about(
            "the server's Cohere key; of several, comma separated, the first is used", "COHERE_API_KEY", "CO_API_KEY"
        ),
    ] = []
    cohere_base_url: Annotated[
        str, _about("where Cohere's API is; a trailing /v1 or /v2 is cut", "COHERE_BASE_URL", "CO_API_URL")
    ] = "https://api.cohere.com"
    master_key: Annotated[str, _about("the operator's key: virtual keys are on when it is set")] = ""
    master_may_call: Annotated[bool, _about("the master key may call the API, too")] = True
    allow_open: Annotated[bool, _about("serve anybody who reaches a public address (open mode)")] = False
    cors_origins: Annotated[list[str], _about("origins whose pages may call, comma separated")] = []
    body_limit: Annotated[int, _about("bytes of a request's body"), Meta(ge=1)] = 32 * 1024 * 1024
    usage_base: Annotated[Literal["tokens", "billed_units"], _about("which of Cohere's counts `usage` shows")] = (
        "tokens"
    )
    embed_input_type: Annotated[
        Literal["search_document", "search_query", "classification", "clustering"],
        _about("what texts to embed are for, where a caller says nothing of `input_type`"),
    ] = "search_document"
    extra_upstream_fields: Annotated[
        list[str], _about("fields that are sent to Cohere although the gateway does not know them")
    ] = []
    database_url: Annotated[str, _about("where responses are kept: sqlite:///FILE or postgresql://USER@HOST/NAME")] = (
        "sqlite:///cohere-gateway.sqlite3"
    )
    redis_url: Annotated[str, _about("the Redis that gateways share: redis://HOST:PORT/NUMBER")] = ""
    response_days: Annotated[
        float, _about("days that a stored response is kept; 0 is for ever"), Meta(ge=0, le=36_500)
    ] = 30.0
    strict_failures: Annotated[
        Literal["error", "refusal"], _about("what a caller gets whose `strict` schema the model missed twice")
    ] = "error"
    log: Annotated[Literal["json", "off"], _about("one line a request on standard error")] = "json"
    timeouts: Timeouts = Timeouts()
    models: Models = Models()
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
        )


class Description(Struct, frozen=True):
    """One line of the settings table. `path` is the key in the file, dots between table and key."""

    path: str
    environment: tuple[str, ...]
    default: str
    text: str
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
        values = described_type.values if isinstance(described_type, msgspec.inspect.LiteralType) else ()
        text = next(filter(None, texts), "") + (f": {' or '.join(map(str, values))}" if values else "")
        yield Description(path, tuple(environment), _written(default), text, repeated)


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


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _parsed(values: dict[str, Any]) -> dict[str, Any]:
    """A lone string where a list or a table is meant: `cohere_api_key = "x"`, aliases as JSON in a variable."""
    keys = values.get("cohere_api_key")
    if isinstance(keys, str):
        values["cohere_api_key"] = _listed(keys)
    aliases = values.get("models", {}).get("aliases") if isinstance(values.get("models"), dict) else None
    if isinstance(aliases, str):
        try:
            values["models"]["aliases"] = msgspec.json.decode(aliases, type=dict[str, str])
        except msgspec.DecodeError as error:
            raise SettingError(f"models.aliases: a JSON object is wanted here: {error}") from error
    return values


def _base_url(url: str) -> str:
    """Without trailing slash and version: clients' configurations carry either (product.md, "HTTP")."""
    url = url.rstrip("/")
    for version in ("/v1", "/v2"):
        url = url.removesuffix(version)
    if not url.startswith(("http://", "https://")):
        raise SettingError(f"cohere_base_url: '{url}' is not an http or https address")
    return url


def _explained(error: ValidationError) -> str:
    text, _, place = str(error).partition(" - at ")
    path = place.strip("`").removeprefix("$").lstrip(".")
    unknown = "unknown field `"
    if unknown in text:
        key = text.split(unknown)[1].rstrip("`")
        wrong = f"{path}.{key}" if path else key
        near = difflib.get_close_matches(wrong, [line.path for line in described()], 1, 0.5)
        return f"unknown setting '{wrong}'" + (f", did you mean '{near[0]}'?" if near else "")
    return f"{path or 'settings'}: {text[:1].lower()}{text[1:]}"
