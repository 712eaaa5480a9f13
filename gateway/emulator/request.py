"""The request and response of an endpoint, and the state that all endpoints of one emulator share.

An endpoint is a function from `Request` to `Response`. How requests arrive and responses leave is `app.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from gateway.emulator.model_catalog import ModelCatalog
from gateway.emulator.multipart import Form
from gateway.emulator.repository import Repository
from gateway.emulator.request_log import RequestLog
from gateway.emulator.trial_limits import TrialLimits

META_V1: dict[str, Any] = {"api_version": {"version": "1"}}
META_V2: dict[str, Any] = {"api_version": {"version": "2"}}
ORGANIZATION_ID = "00000000-0000-4000-8000-000000000001"
OWNER_ID = "00000000-0000-4000-8000-000000000002"

Headers = tuple[tuple[bytes, bytes], ...]
Kind = TypeVar("Kind")


class EmulatorState:
    """What the endpoints share: the models, and whatever clients have created."""

    def __init__(self, model_catalog: ModelCatalog, clock: Callable[[], float], trial: bool) -> None:
        self.model_catalog = model_catalog
        self.clock = clock
        self.trial_limits = TrialLimits(clock) if trial else None
        self.request_log = RequestLog()
        self.flaky_counts: dict[bytes, int] = {}  # how often a request has met the fault `flaky`
        self.disobedience_counts: dict[bytes, int] = {}  # how often a conversation has met a disobedient model
        self._repositories: dict[type, Repository[Any]] = {}

    def repository(self, kind: type[Kind]) -> Repository[Kind]:
        """Returns the repository for items of that class."""
        return self._repositories.setdefault(kind, Repository())


class Request(msgspec.Struct, frozen=True):
    """An authenticated request whose body, if it has one, is a JSON object or a form."""

    emulator: EmulatorState
    body: dict[str, Any]
    query: dict[str, str]
    path_params: dict[str, str]
    headers: Mapping[str, str] = {}
    form: Form | None = None
    base_url: str = ""  # as the client addressed us
    query_lists: Mapping[str, Sequence[str]] = {}  # the query, with every value of a repeated name
    disobedience: str = ""  # one of `faults.DISOBEDIENCE`, if the model is to disobey now

    def accepts_event_stream(self) -> bool:
        """Returns whether v1 streams are sent as events. Cohere's specification misspells the header as `accepts`."""
        return "text/event-stream" in f"{self.headers.get('accept', '')},{self.headers.get('accepts', '')}"

    def select(self, fields: Collection[str]) -> dict[str, Any]:
        """Returns those fields of the body that are not null."""
        return {name: value for name, value in self.body.items() if name in fields and value is not None}

    def unknown_field_warning(self, fields: Collection[str]) -> Headers:
        """Returns the header that warns of the first unknown field; v1 endpoints do not reject it (recorded)."""
        unknown = next((name for name in self.body if name not in fields), None)
        if unknown is None:
            return ()
        sentence = f"unknown field: parameter {unknown} is not a valid field"
        return ((b"x-api-warning", sentence.encode("ascii", "replace")),)


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """A 200 response: one JSON body, or the events of a stream in one of `fault_injection.STREAM_FORMATS`."""

    body: dict[str, Any] | None = {}  # None: an empty body
    events: tuple[bytes, ...] | None = None
    stream_format: str = "v2"
    headers: Headers = ()


Handler = Callable[[Request], Response]
