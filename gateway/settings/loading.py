"""How the settings are read from the file and the environment."""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import ValidationError

from gateway.settings import checks
from gateway.settings.origins import LoadedSettings, Origin, loaded
from gateway.settings.reference import described, variable
from gateway.settings.schema import RENAMED, RENAMED_VALUES, NamedUpstream, SettingError, Settings

DEFAULT_FILE = "gateway.toml"

MASTER_KEY = variable("master_key")


def load(
    environment: Mapping[str, str], file: str | None = None, command_line: Mapping[str, Any] | None = None
) -> LoadedSettings:
    """Returns the settings in force, and where they come from.

    Raises SettingError, which names the nearest right key for a wrong one.
    """
    # First: an old name is also a likely misspelling of its new one, and the better sentence is that it was renamed.
    _refuse_renamed_variables(environment)
    _refuse_typos(environment)
    # The file, then the environment, then the command line: each overrides the one before, as
    # docs/reference/settings.md says.
    values = _from_file(file or environment.get("GATEWAY_CONFIG"))
    _refuse_renamed(values)
    origins = _origins(values, environment, file, command_line or {})
    for line in described():
        value = next((environment[name] for name in line.environment if environment.get(name)), None)
        # An empty variable counts as none: Compose passes `VARIABLE=` for what is not set.
        if value is not None:
            _put(values, line.path, _split(value) if line.repeated else value)
    if environment.get(MASTER_KEY) == "" or values.get("master_key") == "":
        # Ignored, it would switch authentication off.
        raise SettingError("master_key: it is set but empty; give it a value, or remove it to run without virtual keys")
    for path, value in (command_line or {}).items():
        if value is not None:
            _put(values, path, value)
    _refuse_renamed_values(values)
    try:
        # Not strict, because all that comes from the environment is a text.
        settings = msgspec.convert(_parse(values), Settings, strict=False)
    except ValidationError as error:
        raise SettingError(_explain(error)) from error
    settings = msgspec.structs.replace(
        settings, cohere_base_url=checks.base_url(settings.cohere_base_url), upstreams=_upstreams(settings, environment)
    )
    # Last, since these checks are about settings that do not go together.
    checks.check(settings)
    return loaded(settings, origins)


def _origins(
    values: Mapping[str, Any], environment: Mapping[str, str], file: str | None, command_line: Mapping[str, Any]
) -> Mapping[str, Origin]:
    """Returns where each setting that is set comes from. values: of the file."""
    path = str(Path(file or environment.get("GATEWAY_CONFIG") or DEFAULT_FILE).absolute())
    origins: dict[str, Origin] = {}
    for line in described():
        sources = [Origin("file", path)] if _get(values, line.path) is not None else []
        variables = [name for name in line.environment if environment.get(name)]
        # The weakest first: of several variables of a setting the first one counts.
        sources += [Origin("environment", name) for name in reversed(variables)]
        if command_line.get(line.path) is not None:
            sources.append(Origin("command_line", f"--{line.path.replace('_', '-')}"))
        if sources:
            strongest = sources.pop()
            origins[line.path] = msgspec.structs.replace(strongest, over=tuple(map(str, reversed(sources))))
    # The keys of all upstreams are one value here: `upstreams` is one line of the reference.
    keys = sorted(name for name in environment if name.startswith(KEYS_OF_UPSTREAMS) and environment[name])
    if keys and "upstreams" in origins:
        origin = origins["upstreams"]
        origins["upstreams"] = msgspec.structs.replace(origin, name=", ".join((origin.name, *keys)))
    return origins


KEYS_OF_UPSTREAMS = "GATEWAY_UPSTREAMS_"


def _upstreams(settings: Settings, environment: Mapping[str, str]) -> dict[str, NamedUpstream]:
    """Returns the named upstreams with their keys from the environment. Raises SettingError."""
    # What is left of these in the end names an upstream that there is not.
    unused = {name for name in environment if name.startswith(KEYS_OF_UPSTREAMS)}
    upstreams = {}
    for name, upstream in settings.upstreams.items():
        variable = checks.upstream_key_variable(name)
        unused.discard(variable)
        upstreams[name] = msgspec.structs.replace(
            upstream,
            base_url=checks.base_url(upstream.base_url, f"upstreams.{name}.base_url", variable),
            api_key=_split(environment.get(variable, "")) or upstream.api_key,
        )
    if unused:
        variables = ", ".join(map(checks.upstream_key_variable, upstreams)) or "none without [upstreams.NAME]"
        raise SettingError(f"unknown setting '{min(unused)}', there are {variables}")
    return upstreams


def variables_of_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that `load` may look at, and no others."""
    names = {name for line in described() for name in line.environment}
    # Unknown names with the prefix as well, in which misspellings are looked for.
    return {name: value for name, value in environment.items() if name in names or name.startswith("GATEWAY_")}


def load_from_environment(file: str | None = None, command_line: Mapping[str, Any] | None = None) -> LoadedSettings:
    """Does what `load` does, in this process's own environment."""
    return load(os.environ, file, command_line)


TYPO_SIMILARITY = 0.87
"""How alike two names are (difflib) of which one is taken for a misspelling of the other."""


def _refuse_typos(environment: Mapping[str, str]) -> None:
    """Raises SettingError on a variable that is nearly a setting's name.

    Others that begin with GATEWAY_ may be somebody else's: Kubernetes puts GATEWAY_SERVICE_HOST and the like into every
    pod beside a service of that name.
    """
    names = {name for line in described() for name in line.environment} | {"GATEWAY_CONFIG"}
    renamed = {variable(old) for old in RENAMED}
    for name in environment:
        # The name has a part of the operator's choosing.
        if name.startswith(KEYS_OF_UPSTREAMS):
            continue  # `_upstreams` knows which there are
        if name.startswith("GATEWAY_") and name not in names and name not in renamed:
            near = difflib.get_close_matches(name, names, 1, TYPO_SIMILARITY)
            if near:
                raise SettingError(f"unknown setting '{name}', did you mean '{near[0]}'?")


def _refuse_renamed_variables(environment: Mapping[str, str]) -> None:
    for old, new in RENAMED.items():
        if environment.get(variable(old)):
            raise SettingError(f"{variable(old)} is now called {variable(new)}")


def _refuse_renamed(values: Mapping[str, Any]) -> None:
    for old, new in RENAMED.items():
        if _get(values, old) is not None:
            raise SettingError(f"'{old}' is now called '{new}'")


def _refuse_renamed_values(values: Mapping[str, Any]) -> None:
    for path, renamed in RENAMED_VALUES.items():
        value = _get(values, path)
        if isinstance(value, str) and value in renamed:
            raise SettingError(f"{path}: '{value}' is now called '{renamed[value]}'")


def _from_file(name: str | None) -> dict[str, Any]:
    path = Path(name or DEFAULT_FILE)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        # Only the default file may be missing. One that was named and is not there is a mistake.
        if name is None:
            return {}
        raise SettingError(f"cannot read {path}: {error.strerror}") from error
    except OSError as error:
        raise SettingError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} is not TOML: {error}") from error


def _get(values: Mapping[str, Any], path: str) -> Any:
    """Returns the value at a dotted path, None where there is none."""
    *tables, key = path.split(".")
    for table in tables:
        inner = values.get(table)
        if not isinstance(inner, Mapping):
            return None
        values = inner
    return values.get(key)


def _put(values: dict[str, Any], path: str, value: Any) -> None:
    *tables, key = path.split(".")
    for table in tables:
        # A table that the file lacks is made: a variable can set a single value of it.
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise SettingError(f"{table}: must be a table")
    values[key] = value


# Each is a table whose keys are the operator's, so no variable could be made of its path.
_OBJECTS: tuple[tuple[str, str, Any], ...] = (
    ("", "prices", dict[str, Any]),
    ("models", "aliases", dict[str, str]),
    ("models", "fallbacks", dict[str, list[str] | str]),
    ("upstream", "headers", dict[str, str]),
    ("", "upstreams", dict[str, Any]),
)
"""Settings that are tables in the file and JSON objects in the environment."""


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _parse(values: dict[str, Any]) -> dict[str, Any]:
    """Parses strings where a list or a table is meant: `cohere_api_key = "x"`, aliases as JSON in a variable."""
    for table, key, kind in _OBJECTS:
        within = values.get(table) if table else values
        written = within.get(key) if isinstance(within, dict) else None
        if isinstance(within, dict) and isinstance(written, str):
            try:
                within[key] = msgspec.json.decode(written, type=kind)
            except msgspec.DecodeError as error:
                raise SettingError(f"{table and f'{table}.'}{key}: must be a JSON object: {error}") from error
    upstreams = values.get("upstreams")
    named = upstreams.values() if isinstance(upstreams, dict) else ()
    for table_of_keys, key in ((values, "cohere_api_key"), *((one, "api_key") for one in named)):
        if isinstance(table_of_keys, dict) and isinstance(table_of_keys.get(key), str):
            table_of_keys[key] = _split(table_of_keys[key])
    models = values.get("models")
    fallbacks = models.get("fallbacks") if isinstance(models, dict) else None
    if isinstance(models, dict) and isinstance(fallbacks, dict):
        # A single model may be written as a text.
        models["fallbacks"] = {
            model: _split(others) if isinstance(others, str) else others for model, others in fallbacks.items()
        }
    return values


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "array": "a list",
    "object": "a table",
}
"""msgspec's names of types, in the words of a settings file."""


def _explain(error: ValidationError) -> str:
    """Returns msgspec's sentence in plain words, after the name of the setting that it is about."""
    text, _, location = str(error).partition(" - at ")
    path = location.strip("`").removeprefix("$").lstrip(".")
    unknown = "unknown field `"
    if unknown in text:
        key = text.split(unknown)[1].rstrip("`")
        return _unknown(f"{path}.{key}" if path else key)
    # msgspec's sentence does not say which values there are.
    choices = next((line.choices for line in described() if line.path == path), ())
    if choices and text.startswith("Invalid enum value"):
        return f"{path}: {text.removeprefix('Invalid enum value ')} is none of {', '.join(choices)}"
    text = re.sub(r"`(\w+)`", lambda match: _KINDS.get(match[1], match[0]), text)
    return f"{path or 'settings'}: {text[:1].lower()}{text[1:]}"


def _unknown(name: str) -> str:
    """Returns the sentence on a key that does not exist. The name of a table may be misspelled, too."""
    paths = [line.path for line in described()]
    # The tables as well, or `[limts]` would be compared with `limits.something`, and nothing be near enough.
    names = [*paths, *dict.fromkeys(path.partition(".")[0] for path in paths if "." in path)]
    # Less alike than variables have to be: nothing but a setting can be meant in our own file.
    near = difflib.get_close_matches(name, names, 1, 0.5)
    return f"unknown setting '{name}'" + (f", did you mean '{near[0]}'?" if near else "")
