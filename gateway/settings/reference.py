"""The reference of the settings, made from their schema."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
from msgspec import Struct

from gateway.settings.schema import Settings


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


@cache
def described() -> tuple[Description, ...]:
    """Returns every setting in the order of its declaration."""
    # Kept, since to read the types takes as long as a server's start does otherwise, and each start asks four times.
    return tuple(_described(Settings, ""))


def _described(kind: type[Struct], prefix: str) -> Iterator[Description]:
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    for field in info.fields:
        path = f"{prefix}{field.encode_name}"
        if isinstance(field.type, msgspec.inspect.StructType):
            yield from _described(field.type.cls, f"{path}.")
            continue
        described_type, texts, names = field.type, [], ()
        # Annotations may lie within each other: the outer one describes, the inner one bounds.
        while isinstance(described_type, msgspec.inspect.Metadata):
            texts.append((described_type.extra_json_schema or {}).get("description", ""))
            names = (described_type.extra or {}).get("environment", names)
            described_type = described_type.type
        default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
        repeated = isinstance(described_type, msgspec.inspect.ListType)
        environment = names or (variable(path),)
        choices: tuple[str, ...] = ()
        if isinstance(described_type, msgspec.inspect.LiteralType):
            choices = tuple(map(str, described_type.values))
        text = next(filter(None, texts), "") + (f" (one of {', '.join(choices)})" if choices else "")
        yield Description(path, tuple(environment), _written(default), text, choices, repeated)


def variable(path: str) -> str:
    """Returns the environment name of a setting that has no other: GATEWAY_TIMEOUTS_CONNECT for `timeouts.connect`."""
    return "GATEWAY_" + path.replace(".", "_").upper()


def _written(default: Any) -> str:
    return "" if default in ("", [], {}, None) else msgspec.json.encode(default).decode().strip('"')
