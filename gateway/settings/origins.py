"""Where each setting comes from: a file, a variable, an option of the command line, or its default.

Origins travel beside the values, from the supervisor to its workers too. They hold names, never values.
"""

from collections.abc import Collection, Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from gateway.settings.schema import Settings


class Origin(Struct, frozen=True):
    """Where a value comes from.

    name: the file's path, the variable, or the option; for `start`, who chose the value when the gateway started.
    over: the origins that this one beats, the strongest first, each as a text.
    """

    kind: Literal["default", "file", "environment", "command_line", "start"]
    name: str = ""
    over: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"file {self.name}" if self.kind == "file" else self.name or self.kind


DEFAULT = Origin("default")


class LoadedSettings(Settings, frozen=True):
    """Settings that were read. origins: by path; a path that is not in it has its default.

    Two are equal when their values are.
    """

    origins: Mapping[str, Origin] = {}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Settings):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in Settings.__struct_fields__)

    __hash__ = None  # type: ignore[assignment]  # as of every struct that holds lists


def origins_of(settings: Settings) -> Mapping[str, Origin]:
    """Returns the origins by path; none of settings that were not read."""
    return settings.origins if isinstance(settings, LoadedSettings) else {}


def loaded(settings: Settings, origins: Mapping[str, Origin]) -> LoadedSettings:
    """Returns settings with the origins of their values."""
    values = {name: getattr(settings, name) for name in Settings.__struct_fields__}
    return LoadedSettings(**values, origins=origins)


def chosen_at_start(settings: Settings, chooser: str, **values: Any) -> Settings:
    """Returns settings with values that were chosen when the gateway started. chooser: by whom, in words."""
    # A value that was chosen and is that of the file anyway keeps its origin.
    changed = {name: value for name, value in values.items() if getattr(settings, name) != value}
    settings = msgspec.structs.replace(settings, **changed)
    if not changed or not isinstance(settings, LoadedSettings):
        return settings
    return msgspec.structs.replace(settings, origins={**settings.origins, **dict.fromkeys(changed, _start(chooser))})


def _start(chooser: str) -> Origin:
    return Origin("start", chooser)


def taken_over(running: Settings, new: Settings, restart_only: Collection[str]) -> Mapping[str, Origin]:
    """Returns the origins after settings were read again.

    running: those in force before. restart_only: names of fields that stay as they were until a restart.
    """
    fields = {field.encode_name: field.name for field in msgspec.structs.fields(Settings)}

    def stays(path: str, origin: Origin | None) -> bool:
        # What was chosen at the start stays so, whatever the file says by now.
        return fields[path.partition(".")[0]] in restart_only or (origin is not None and origin.kind == "start")

    old = origins_of(running)
    origins = {path: origin for path, origin in old.items() if stays(path, origin)}
    for path, origin in origins_of(new).items():
        if not stays(path, old.get(path)):
            origins[path] = origin
    return origins
