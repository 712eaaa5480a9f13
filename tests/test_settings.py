"""Settings: where they come from, which wins, what a wrong one is told, and that none is undocumented."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.endpoints import inspection
from gateway.settings import checks
from gateway.settings.loading import load
from gateway.settings.origins import Origin, chosen_at_start, origins_of, taken_over
from gateway.settings.reference import described, variable
from gateway.settings.schema import RENAMED, RENAMED_VALUES, NamedUpstream, SettingError, Settings
from translators.core.contracts import Policy, UsageBase


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own: nobody's `gateway.toml` is found."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def read(text: str, environment: dict[str, str] | None = None, **command_line: Any) -> Settings:
    Path("gateway.toml").write_text(text, encoding="utf-8")
    return load(environment or {}, None, command_line)


# --- where they come from -----------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = load({})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 8080, 1)
    assert settings.cohere_base_url == "https://api.cohere.com"
    assert settings.cohere_api_key == [] and settings.master_key == "" and not settings.allow_open
    assert settings.cors_origins == [] and settings.master_may_call and settings.models.successors


def test_command_line_beats_environment_beats_file() -> None:
    file = 'host = "file"\nport = 1\nworkers = 2\n'
    settings = read(file, {"GATEWAY_HOST": "environment", "GATEWAY_PORT": "2"}, host="command")
    assert (settings.host, settings.port, settings.workers) == ("command", 2, 2)


def test_each_setting_knows_where_it_comes_from(nowhere: Path) -> None:
    text = 'port = 1\nhost = "localhost"\n[limits]\non_failure = "refuse"\n'
    (nowhere / "gateway.toml").write_text(text + '[upstreams.eu]\nbase_url = "https://eu"\nmodels = ["a"]\n')
    environment = {
        "GATEWAY_PORT": "2",
        "CO_API_KEY": "secret-1",
        "COHERE_API_KEY": "secret-2",
        "GATEWAY_UPSTREAMS_EU_API_KEY": "secret-3",
    }
    file = str(nowhere / "gateway.toml")
    settings = load(environment, None, {"port": 3, "allow_open": True, "workers": None})
    assert settings.origins == {
        "host": Origin("file", file),
        "port": Origin("command_line", "--port", ("GATEWAY_PORT", f"file {file}")),
        "allow_open": Origin("command_line", "--allow-open"),
        "cohere_api_key": Origin("environment", "COHERE_API_KEY", ("CO_API_KEY",)),
        "limits.on_failure": Origin("file", file),
        "upstreams": Origin("file", f"{file}, GATEWAY_UPSTREAMS_EU_API_KEY"),
    }
    assert "secret" not in str(settings.origins)
    del environment["GATEWAY_PORT"]
    assert load(environment, file).origins["port"] == Origin("file", file)
    with pytest.raises(SettingError, match="unknown setting 'origins'"):
        read("origins = {}")


def test_what_was_chosen_at_start_is_no_wish_of_the_file(nowhere: Path) -> None:
    (nowhere / "gateway.toml").write_text("port = 0\nworkers = 2\n")
    settings = chosen_at_start(load({}), "a free port", port=4711)
    origins = origins_of(settings)
    assert (origins["port"], origins["workers"].kind) == (Origin("start", "a free port"), "file")
    assert chosen_at_start(settings, "a free port", port=4711) == settings
    # Read again: the port stays chosen; workers, which need a restart, stay the file's; the rest is as it is now.
    (nowhere / "gateway.toml").write_text("port = 0\n[retries]\ncount = 1\n")
    new = load({"GATEWAY_WORKERS": "3"})
    assert {path: one.kind for path, one in taken_over(settings, new, ["workers"]).items()} == {
        "port": "start",
        "workers": "file",
        "retries.count": "file",
    }
    assert taken_over(settings, new, [])["workers"] == Origin("environment", "GATEWAY_WORKERS")


def test_an_absent_option_of_the_command_line_is_no_wish() -> None:
    assert read("port = 5\n", port=None).port == 5


def test_a_nested_option_of_the_command_line() -> None:
    settings = load({"GATEWAY_TIMEOUTS_CONNECT": "2"}, None, {"timeouts.connect": 3.5})
    assert settings.timeouts.connect == 3.5
    assert settings.timeouts.first_event == Settings().timeouts.first_event


def test_the_file_is_named_by_option_or_variable(nowhere: Path) -> None:
    (nowhere / "a.toml").write_text("port = 1\n")
    (nowhere / "b.toml").write_text("port = 2\n")
    (nowhere / "gateway.toml").write_text("port = 3\n")
    assert load({"GATEWAY_CONFIG": "a.toml"}).port == 1
    assert load({"GATEWAY_CONFIG": "a.toml"}, "b.toml").port == 2
    assert load({}).port == 3


def attributes(path: str) -> list[str]:
    """The attributes that lead to a setting. One table has a name that Python keeps for itself."""
    return ["global_limits" if part == "global" else part for part in path.split(".")]


def words(path: str) -> tuple[Any, ...]:
    """What a setting of a few words may be; empty for the others."""
    kind: Any = msgspec.inspect.type_info(Settings)
    for part in path.split("."):
        kind = next(field.type for field in kind.fields if field.encode_name == part)
        while isinstance(kind, msgspec.inspect.Metadata):
            kind = kind.type
    return kind.values if isinstance(kind, msgspec.inspect.LiteralType) else ()


@pytest.mark.parametrize("line", list(described()), ids=lambda line: line.path)
def test_every_setting_comes_from_its_variables(line: Any) -> None:
    default: Any = Settings()
    for part in attributes(line.path):
        default = getattr(default, part)
    samples = {type(None): "7", bool: "true", int: "7", float: "7.5", list: "x, y", dict: '{"a": "b"}', str: "x"}
    text = samples[type(default)]
    special = {
        "cohere_base_url": "https://x.example",
        "cors_origins": "https://x, https://y",
        "jwt.algorithms": "RS256, EdDSA",
        "trusted_proxies": "10.0.0.0/8, unix",
        "prices": '{"a": {"input": 1}}',
        "ledger.body_key": "0123456789abcdef",
        "upstreams": '{"a": {"base_url": "https://x.example", "api_key": "k", "models": ["*"]}}',
    }
    needed = {"GATEWAY_LEDGER_BODY_KEY": "0123456789abcdef"} if line.path == "ledger.bodies" else {}
    text = special.get(line.path, text)
    text = next((word for word in words(line.path) if word != default), text)
    if default is True:
        text = "false"
    if isinstance(default, float) and default < 1:
        text = "0.75"
    for name in line.environment:
        more = {"COHERE_API_KEY": "k"} if line.path == "upstreams" else {}
        value: Any = load({name: text, **needed, **more})
        for part in attributes(line.path):
            value = getattr(value, part)
        assert value != default, name
    if line.path != "master_key":
        assert load({name: "" for name in line.environment}) == Settings(), "an empty variable is none"


@pytest.mark.parametrize(
    ("first", "second"), [("COHERE_API_KEY", "CO_API_KEY"), ("COHERE_BASE_URL", "CO_API_URL")], ids=["key", "url"]
)
def test_coheres_own_variables_come_second(first: str, second: str) -> None:
    settings = load({first: "https://one", second: "https://two"})
    assert "https://one" in (settings.cohere_api_key, settings.cohere_base_url, *settings.cohere_api_key)
    settings = load({second: "https://two"})
    assert "https://two" in (settings.cohere_base_url, *settings.cohere_api_key)


def test_several_keys_make_a_pool() -> None:
    assert load({"COHERE_API_KEY": " a, b ,,c,"}).cohere_api_key == ["a", "b", "c"]
    assert read('cohere_api_key = "a, b"\n').cohere_api_key == ["a", "b"]
    assert read('cohere_api_key = ["a", "b"]\n').cohere_api_key == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "meant"),
    [("true", True), ("True", True), ("TRUE", True), ("1", True), ("false", False), ("False", False), ("0", False)],
)
def test_truth_in_the_environment(text: str, meant: bool) -> None:
    assert load({"GATEWAY_DEMO": text}).demo is meant


@pytest.mark.parametrize(
    ("model", "other", "named"),
    [
        ("embed-v4.0", "embed-v5.0-pro", "embed-v4.0"),
        ("cohere/embed-5-pro", "embed-5-fast", "cohere/embed-5-pro"),
        ("command-a-03-2025", "embed-v4.0", "embed-v4.0"),
        ("vectors", "rerank-v3.5", "vectors"),
    ],
)
def test_an_embedding_model_has_no_fallback(model: str, other: str, named: str) -> None:
    text = f'[models.aliases]\nvectors = "embed-v4.0"\n[models.fallbacks]\n"{model}" = ["{other}"]\n'
    with pytest.raises(SettingError, match=f"models.fallbacks: '{named}' is an embedding model"):
        read(text)


def test_fallbacks_are_lists_or_a_lone_name() -> None:
    fallbacks = {"a": ["b", "c"], "d": ["e"]}
    assert read('[models.fallbacks]\na = ["b", "c"]\nd = "e"\n').models.fallbacks == fallbacks
    assert load({"GATEWAY_MODELS_FALLBACKS": '{"a": "b, c", "d": ["e"]}'}).models.fallbacks == fallbacks
    with pytest.raises(SettingError, match=r"models\.fallbacks"):
        load({"GATEWAY_MODELS_FALLBACKS": '{"a": 5}'})


def test_aliases_are_a_table_or_json() -> None:
    aliases = {"gpt-4o": "command-a-03-2025"}
    assert read('[models.aliases]\n"gpt-4o" = "command-a-03-2025"\n').models.aliases == aliases
    assert load({"GATEWAY_MODELS_ALIASES": '{"gpt-4o": "command-a-03-2025"}'}).models.aliases == aliases


def test_variables_of_others_are_left_alone() -> None:
    """What Kubernetes puts into the pods beside a service called gateway."""
    load({"GATEWAY_SERVICE_HOST": "10.0.0.1", "GATEWAY_SERVICE_PORT": "80", "GATEWAY_PORT_80_TCP": "tcp://10.0.0.1:80"})


# --- names that have changed ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_is_an_error_that_names_the_new_one(old: str, new: str) -> None:
    with pytest.raises(SettingError, match=f"^{variable(old)} is now called {variable(new)}$"):
        load({variable(old): "5"})
    assert load({variable(old): ""}) == Settings(), "an empty variable is none"
    with pytest.raises(SettingError, match=f"^'{re.escape(old)}' is now called '{re.escape(new)}'$"):
        read(f"{old} = 5\n")
    paths = {line.path for line in described()}
    assert new in paths and old not in paths


@pytest.mark.parametrize("path", RENAMED_VALUES)
def test_an_old_value_is_an_error_that_names_the_new_one(path: str) -> None:
    for old, new in RENAMED_VALUES[path].items():
        sentence = f"^{re.escape(path)}: '{old}' is now called '{new}'$"
        with pytest.raises(SettingError, match=sentence):
            load({variable(path): old})
        load({variable(path): new})
        with pytest.raises(SettingError, match=sentence):
            read(f'{path} = "{old}"\n')


# --- what a wrong one is told -------------------------------------------------------------------------------

UPSTREAM = """cohere_api_key = "k"
[upstreams.{name}]
base_url = "https://eu.example"
api_key = "y"
models = ["a"]
{more}
"""

WRONG: tuple[tuple[str, str, str], ...] = (
    ("a misspelled key", "prot = 5", "unknown setting 'prot', did you mean 'port'?"),
    (
        "a misspelled nested key",
        "[timeouts]\nconect = 5",
        "unknown setting 'timeouts.conect', did you mean 'timeouts.connect'?",
    ),
    ("a misspelled table", "[model]\nsuccessors = true", "unknown setting 'model'"),
    ("a key like nothing", "zzzzqqqq = 5", "unknown setting 'zzzzqqqq'"),
    ("a key of a table at the top", "aliases = {}", "did you mean 'models.aliases'?"),
    ("a wrong type", 'port = "many"', "port: "),
    ("a wrong nested type", '[timeouts]\nconnect = "soon"', "timeouts.connect: expected a number, got a text"),
    ("too few workers", "workers = 0", "workers: expected a whole number >= 1"),
    ("a wrong word", 'usage_base = "bills"', "usage_base: 'bills' is none of billed_units, tokens"),
    ("a table that is none", "timeouts = 5", "timeouts: expected a table, got a whole number"),
    ("a list that is none", "cors_origins = 5", "cors_origins: "),
    ("aliases that are no JSON", '[models]\naliases = "x"', "models.aliases: "),
    ("no TOML", "port = ", "gateway.toml is not TOML"),
    ("an address without a scheme", 'cohere_base_url = "api.cohere.com"', "cohere_base_url: 'api.cohere.com'"),
    ("another scheme", 'cohere_base_url = "ftp://x"', "cohere_base_url: 'ftp://x'"),
    *(
        (f"the address {url}", f"cohere_base_url = '{url}'", sentence)
        for url, sentence in (
            ("https://cohere.example:99999", "has a host or a port that is none"),
            ("https://cohere.example:port", "has a host or a port that is none"),
            ("https://cohere.example:0", "has no host, or a port that is none"),
            ("https://", "has no host"),
            ("https://:8080", "has no host"),
            ("https://[::1", "has a host or a port that is none"),
            ("https://api.cohere.com /v2", "contains white space"),
            (" https://api.cohere.com", "contains white space"),
            ("https://api.cohere.com?region=eu", "without a query or a fragment"),
            ("https://api.cohere.com/v2?", "without a query or a fragment"),
            ("https://api.cohere.com#top", "without a query or a fragment"),
        )
    ),
    ("an empty master key", 'master_key = ""', "master_key: it is set but empty"),
    ("a master key of spaces", 'master_key = "   "', "master_key: it contains white space"),
    ("a master key that ends with a line", 'master_key = "0123456789abcdef\\n"', "master_key: it contains white space"),
    ("a master key beyond ASCII", 'master_key = "schl\u00fcssel-0123456789"', "or characters beyond ASCII"),
    (
        "a master key that is the Cohere key",
        'master_key = "0123456789abcdef"\ncohere_api_key = ["a", "0123456789abcdef"]',
        "master_key: it is also the Cohere key",
    ),
    (
        "a short master key",
        'host = "0.0.0.0"\nmaster_key = "0123456789abcde"',
        "master_key: beyond loopback it needs 16",
    ),
    ("an origin with a slash", 'cors_origins = ["https://a.example/"]', "write 'https://a.example'"),
    ("an origin with a path", 'cors_origins = ["https://a.example:8443/x"]', "write 'https://a.example:8443'"),
    ("an origin without a scheme", 'cors_origins = ["a.example"]', "has no scheme: write 'https://a.example'"),
    ("no origin", 'cors_origins = ["null"]', "has no scheme"),
    ("an origin in capitals", 'cors_origins = ["https://A.example"]', "write 'https://a.example'"),
    ("an origin with a user", 'cors_origins = ["https://a@b.example"]', "is not an origin as browsers send it"),
    ("an origin with a bell", 'cors_origins = ["https://a.example\\u0007"]', "is not an origin as browsers send it"),
    ("bodies without a key", '[ledger]\nbodies = "errors"', "ledger.bodies: 'errors' needs ledger.body_key"),
    *(
        (f"an upstream {name}", UPSTREAM.format(name=name, more=""), f"upstreams.{name}: a name is of small letters")
        for name in ("default", "emulator", "Eu", "9")
    ),
    (
        "a name for a model that is not served there",
        UPSTREAM.format(name="eu", more='names = {"b" = "x"}'),
        "upstreams.eu.names: 'b' is not among its models",
    ),
    (
        "an upstream of a model that requests resolve to another",
        UPSTREAM.format(name="eu", more="").replace('"a"', '"command-r-plus"'),
        "upstreams.eu.models: 'command-r-plus' means 'command-r-plus-08-2024' in requests: write that",
    ),
    (
        "a name for a model that requests resolve to another",
        UPSTREAM.format(name="eu", more='names = {"command-r" = "x"}').replace('"a"', '"command-*"'),
        "upstreams.eu.names: 'command-r' means 'command-r-08-2024' in requests: write that",
    ),
    ("a host with a scheme", 'allowed_hosts = ["http://a.example"]', "allowed_hosts: 'http://a.example' is not a host"),
)


@pytest.mark.parametrize(("text", "expected"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_wrong_setting_is_one_line_that_names_it(text: str, expected: str) -> None:
    with pytest.raises(SettingError) as caught:
        read(text)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"GATEWAY_PORT": "many"}, "port: "),
        ({"GATEWAY_PORT": "80.5"}, "port: "),
        ({"GATEWAY_DEMO": "perhaps"}, "demo: expected true or false"),
        ({"GATEWAY_TIMEOUTS_CONNECT": "soon"}, "timeouts.connect: "),
        ({"GATEWAY_WORKERS": "0"}, "workers: "),
        ({"GATEWAY_LOG": "xml"}, "log: 'xml' is none of console, json, off"),
        ({"GATEWAY_MODELS_ALIASES": "[]"}, "models.aliases: "),
        ({"GATEWAY_CONFIG": "nowhere.toml"}, "cannot read nowhere.toml"),
        ({"GATEWAY_MASTERKEY": "x"}, "unknown setting 'GATEWAY_MASTERKEY', did you mean 'GATEWAY_MASTER_KEY'?"),
        ({"GATEWAY_TIMEOUT_CONNECT": "5"}, "unknown setting 'GATEWAY_TIMEOUT_CONNECT', did you mean"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_variable_is_named(environment: dict[str, str], expected: str) -> None:
    with pytest.raises(SettingError, match="^" + expected.replace(".", r"\.")):
        load(environment)


@pytest.mark.parametrize("variable", ["COHERE_BASE_URL", "CO_API_URL"])
@pytest.mark.parametrize(
    "url", ["https://user:hunter2@cohere.example", "https://hunter2@cohere.example:x", "ftp://a:hunter2@b", "hunter2@"]
)
def test_credentials_in_an_address_are_refused_and_never_visible(variable: str, url: str) -> None:
    with pytest.raises(SettingError, match=r"^cohere_base_url: it must not contain credentials") as caught:
        load({variable: url})
    assert "hunter2" not in str(caught.value)


def test_an_empty_master_key_is_not_ignored() -> None:
    with pytest.raises(SettingError, match="^master_key: it is set but empty"):
        load({"GATEWAY_MASTER_KEY": ""})


def test_a_short_master_key_is_warned_of_on_loopback() -> None:
    assert checks.warnings(load({"GATEWAY_MASTER_KEY": "sk-1234"})) == [
        "master_key: it has fewer than 16 characters and would be refused beyond loopback"
    ]
    assert checks.warnings(load({"GATEWAY_MASTER_KEY": "0123456789abcdef", "GATEWAY_HOST": "0.0.0.0"})) == []
    assert checks.warnings(Settings()) == []


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("COHERE_API_KEY", '"0123456789abcdef"'),
        ("COHERE_API_KEY", "'0123456789abcdef'"),
        ("COHERE_API_KEY", "Bearer 0123456789abcdef"),
        ("COHERE_API_KEY", "0123456789abcdef\u00e9"),
        ("GATEWAY_MASTER_KEY", '"0123456789abcdef"'),
    ],
)
def test_a_key_with_quotation_marks_is_warned_of(name: str, key: str) -> None:
    """Docker passes on what stands in a file of variables, quotation marks too, and then each call is Cohere's 401."""
    (sentence,) = checks.warnings(load({name: key}))
    assert sentence.startswith(f"{name.removeprefix('GATEWAY_').lower()}: ") and "quotation marks" in sentence
    assert "0123456789abcdef" not in sentence
    assert checks.warnings(load({name: "0123456789-._~+/=abcdef"})) == []


def test_a_key_of_a_named_upstream_is_looked_at_too() -> None:
    upstreams = {"vault": NamedUpstream(base_url="https://vault.example", models=["a"], api_key=['"key"'])}
    (sentence,) = checks.warnings(Settings(upstreams=upstreams))
    assert sentence.startswith("upstreams.vault.api_key: ")


def test_tokens_for_anybody_are_warned_of() -> None:
    accepted = {"GATEWAY_JWT_JWKS": "keys.json"}
    assert [text.partition(":")[0] for text in checks.warnings(load(accepted))] == ["jwt.audience"]
    assert checks.warnings(load({**accepted, "GATEWAY_JWT_AUDIENCE": "gateway"})) == []


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"GATEWAY_JWT_ALGORITHMS": "RS256, HS256"}, "jwt.algorithms: 'HS256' is none of RS256"),
        ({"GATEWAY_JWT_ALGORITHMS": "none"}, "jwt.algorithms: 'none' is none of RS256"),
        ({"GATEWAY_JWT_JWKS": "a", "GATEWAY_JWT_PUBLIC_KEY": "b"}, "jwt: it has both jwks and public_key"),
        ({"GATEWAY_JWT_JWKS": "http://issuer.example/keys"}, "jwt.jwks: over http anybody on the way"),
        ({"GATEWAY_JWT_JWKS": "https://a:hunter2@issuer.example/keys"}, "jwt.jwks: it must not contain credentials"),
        ({"GATEWAY_TRUSTED_PROXIES": "10.0.0.0/8, proxy.example"}, "trusted_proxies: 'proxy.example' is no network"),
    ],
)
def test_who_may_vouch_for_callers(environment: dict[str, str], text: str) -> None:
    with pytest.raises(SettingError) as caught:
        load(environment)
    assert str(caught.value).startswith(text) and "hunter2" not in str(caught.value)


def test_a_file_that_cannot_be_read(nowhere: Path) -> None:
    (nowhere / "folder.toml").mkdir()
    with pytest.raises(SettingError, match="cannot read"):
        load({}, "folder.toml")
    (nowhere / "latin.toml").write_bytes(b'host = "\xe9"\n')
    with pytest.raises(SettingError, match="is not TOML"):
        load({}, "latin.toml")


def test_a_table_that_is_none_beside_a_variable_of_it() -> None:
    with pytest.raises(SettingError):
        read("timeouts = 5\n", {"GATEWAY_TIMEOUTS_CONNECT": "2"})


@pytest.mark.parametrize(
    "environment",
    [
        {"GATEWAY_PORT": "-1"},
        {"GATEWAY_PORT": "70000"},
        {"GATEWAY_TIMEOUTS_CONNECT": "-5"},
        {"GATEWAY_TIMEOUTS_FIRST_EVENT": "nan"},
    ],
    ids=lambda environment: "".join(environment.values()),
)
def test_numbers_that_cannot_be_meant(environment: dict[str, str]) -> None:
    with pytest.raises(SettingError):
        load(environment)


# --- the address of Cohere ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("https://api.cohere.com", "https://api.cohere.com"),
        ("https://api.cohere.com/", "https://api.cohere.com"),
        ("https://api.cohere.com/v1", "https://api.cohere.com"),
        ("https://api.cohere.com/v2", "https://api.cohere.com"),
        ("https://api.cohere.com/v2/", "https://api.cohere.com"),
        ("https://api.cohere.com/v2//", "https://api.cohere.com"),
        ("http://localhost:8090/cohere/v1", "http://localhost:8090/cohere"),
        ("http://localhost:8090/v1x", "http://localhost:8090/v1x"),
    ],
)
def test_the_base_url_is_trimmed(value: str, meant: str) -> None:
    assert load({"CO_API_URL": value}).cohere_base_url == meant


# --- documentation and what is made of them -----------------------------------------------------------------


def test_every_setting_is_documented_once() -> None:
    lines = list(described())
    assert all(line.text and line.text[0].islower() or line.text.startswith("`") for line in lines)
    names = [name for line in lines for name in line.environment]
    assert len(names) == len(set(names)) and len({line.path for line in lines}) == len(lines)
    paths = {line.path for line in lines}

    def leaves(value: msgspec.Struct, prefix: str = "") -> Iterator[str]:
        for attribute, name in zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True):
            inner = getattr(value, attribute)
            yield from leaves(inner, f"{prefix}{name}.") if isinstance(inner, msgspec.Struct) else [prefix + name]

    assert paths == set(leaves(Settings()))


def test_a_setting_is_described_with_its_default() -> None:
    by_path = {line.path: line for line in described()}
    assert by_path["port"].default == "8080" and by_path["port"].environment == ("GATEWAY_PORT",)
    assert by_path["host"].default == "127.0.0.1"
    assert by_path["cohere_api_key"].environment == ("COHERE_API_KEY", "CO_API_KEY")
    assert by_path["cohere_api_key"].repeated and not by_path["host"].repeated
    assert by_path["timeouts.connect"].environment == ("GATEWAY_TIMEOUTS_CONNECT",)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        load({}).port = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.com", False),
        ("", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert Settings(host=host).loopback is loopback


def test_the_policy_of_translation() -> None:
    assert Settings().policy == Policy()
    policy = load(
        {
            "GATEWAY_USAGE_BASE": "billed_units",
            "GATEWAY_EXTRA_UPSTREAM_FIELDS": "a, b",
            "GATEWAY_MODELS_SUCCESSORS": "false",
            "GATEWAY_MODELS_ALIASES": '{"x": "y"}',
        }
    ).policy
    assert (policy.usage_base, policy.extra_upstream_fields) == (UsageBase.BILLED, frozenset({"a", "b"}))
    assert (policy.successors, policy.aliases) == (False, {"x": "y"})


def test_what_may_be_secret_is_not_shown() -> None:
    """`/gateway/settings` shows the settings in force: a new one that holds a secret must be hidden there."""
    files_and_numbers = {"max_json_keys", "upstream.client_key"}
    suspects = {line.path for line in described() if re.search("key|secret|token|password|headers", line.path)}
    assert {path.rpartition(".")[2] for path in suspects - files_and_numbers} <= inspection.SECRET_FIELDS
    upstream = NamedUpstream(base_url="https://x.example", api_key=["secret-1"], headers={"a": "secret-2"})
    text = repr(inspection._redact("upstreams", msgspec.to_builtins({"a": upstream})))
    assert "x.example" in text and "secret-" not in text
