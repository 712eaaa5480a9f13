"""What an endpoint is given and what it gives back, and the state that all endpoints of one emulator share.

An endpoint is a function from `Request` to `Reply`. How the request came and how the answer leaves is `app.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from gateway.emulator.catalogue import Catalogue
from gateway.emulator.multipart import Form
from gateway.emulator.repository import Shelf
from gateway.emulator.request_log import Journal
from gateway.emulator.trial_limits import Trial

META_V1: dict[str, Any] = {"api_version": {"version": "1"}}
ORGANIZATION = "00000000-0000-4000-8000-000000000001"
OWNER = "00000000-0000-4000-8000-000000000002"

Kind = TypeVar("Kind")


class Emulator:
    """What the endpoints share: the models, and whatever has state."""

    def __init__(self, catalogue: Catalogue, clock: Callable[[], float], trial: bool) -> None:
        self.catalogue = catalogue
        self.clock = clock
        self.trial = Trial(clock) if trial else None
        self.journal = Journal()
        self.failures: dict[bytes, int] = {}  # how often a request has met the fault "flaky"
        self._shelves: dict[type, Shelf[Any]] = {}

    def shelf(self, kind: type[Kind]) -> Shelf[Kind]:
        """All things of one kind that callers have made."""
        return self._shelves.setdefault(kind, Shelf())


class Request(msgspec.Struct, frozen=True):
    """A request that has a key and, if it has a body, readable JSON or a readable form in it."""

    emulator: Emulator
    body: dict[str, Any]
    query: dict[str, str]
    path: dict[str, str]
    headers: Mapping[str, str] = {}
    form: Form | None = None
    base: str = ""  # the address under which the caller reached us
    lists: Mapping[str, Sequence[str]] = {}  # the query with every value of a repeated name

    def wants_events(self) -> bool:
        """Whether the older streams are to come as events; the header's name is misspelt in the specification."""
        return "text/event-stream" in f"{self.headers.get('accept', '')},{self.headers.get('accepts', '')}"


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """An answer: one body, or the events of a stream in one of its spellings (`damage.DIALECTS`)."""

    body: dict[str, Any] | None = {}  # None: nothing at all
    events: tuple[bytes, ...] | None = None
    dialect: str = "v2"
    headers: tuple[tuple[bytes, bytes], ...] = ()


Answering = Callable[[Request], Reply]


def warnings(body: Mapping[str, Any], known: Sequence[str] | Mapping[str, Any]) -> tuple[tuple[bytes, bytes], ...]:
    """The header that warns of a field which the endpoint does not know; v1 endpoints do not refuse it (recorded)."""
    unknown = [name for name in body if name not in known]
    if not unknown:
        return ()
    sentence = f"unknown field: parameter {unknown[0]} is not a valid field"
    return ((b"x-api-warning", sentence.encode("ascii", "replace")),)
