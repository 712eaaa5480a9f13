"""What becomes of a response that is sent while its storage fails: it waits, within bounds, or is given up with a line.

Through a server it is in test_serve_storage_limits.py; here are the ways to fail, which a database does not take on
request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from gateway.auth.credentials import Credential
from gateway.auth.principal import Principal
from gateway.observability.access_log import Log
from gateway.state import conversation_state
from gateway.state.conversation_state import ConversationState, LoadedState
from gateway.store.errors import ChainBroken, StoreError, StoreUnavailable
from gateway.store.store import Store
from translators.core.contracts import FinishedResponse, StateOptions

DOWN, MISSING = StoreUnavailable("it is down"), ChainBroken("resp_0")
YET, NOT = "is not stored yet", "was not stored"


class Lines:
    """A log that keeps its messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


class FailingStore:
    """A store whose saves fail one after the other, and succeed when no failure is left."""

    def __init__(self, failures: Sequence[StoreError]) -> None:
        self._failures = [*failures]
        self.attempts: list[str] = []
        self.saved: list[str] = []
        self.exhausted = asyncio.Event()

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def save(self, row: Any, items: object) -> None:
        self.attempts.append(row.id)
        if self._failures:
            raise self._failures.pop(0)
        self.saved.append(row.id)
        self.exhausted.set()


async def store_responses(
    failures: Sequence[StoreError], save: bool = True, stop: bool = False, count: int = 1
) -> tuple[FailingStore, list[str]]:
    """Stores so many responses of 14 bytes; returns the store and the log at the end of the process.

    stop: it ends before a second attempt.
    """
    store, lines = FailingStore(failures), Lines()
    state = ConversationState("sqlite:///unused.sqlite3", 0.0, cast(Log, lines))
    state.store = cast(Store, store)
    await state.open()
    caller = Principal("a", "a", False, Credential())
    for number in range(count):
        response = FinishedResponse(f"resp_{number}", "completed", "m", 0, b"[]", ())
        await state.save(LoadedState(response.id, StateOptions(), save=save), caller, response, b"0123456789")
    if save and not stop and failures[-1:] == [DOWN]:
        await store.exhausted.wait()
    await state.stop()
    return store, lines.messages


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_state, "SAVE_RETRY_SECONDS", (0.0,))


@pytest.mark.parametrize(
    ("failures", "save", "attempts", "lines"),
    [
        ([], True, 1, []),
        ([], False, 0, []),
        ([MISSING], True, 1, [NOT]),
        ([DOWN], True, 2, [YET]),
        ([DOWN, DOWN, DOWN], True, 4, [YET]),
        ([DOWN, MISSING], True, 2, [YET, NOT]),
    ],
    ids=["it works", "not to be stored", "refused", "down once", "down for a while", "down, then refused"],
)
@pytest.mark.asyncio
async def test_a_response_waits_for_its_storage(
    failures: list[StoreError], save: bool, attempts: int, lines: list[str]
) -> None:
    store, messages = await store_responses(failures, save)
    assert len(store.attempts) == attempts
    assert [text in message and "resp_0" in message for text, message in zip(lines, messages, strict=True)] == [
        True for _ in lines
    ]
    assert store.saved == (["resp_0"] if save and MISSING not in failures else [])


@pytest.mark.asyncio
async def test_a_process_that_ends_makes_one_last_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_state, "SAVE_RETRY_SECONDS", (60.0,))
    store, messages = await store_responses([DOWN], stop=True)
    assert (store.saved, len(messages)) == (["resp_0"], 1)
    store, messages = await store_responses([DOWN, DOWN], stop=True)
    assert (len(store.attempts), store.saved, len(messages)) == (2, [], 2)
    assert YET in messages[0] and NOT in messages[1] and "it is down" in messages[1]


@pytest.mark.parametrize(("max_bytes", "deferred"), [(28, 2), (27, 1), (13, 0)])
@pytest.mark.asyncio
async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch, max_bytes: int, deferred: int) -> None:
    monkeypatch.setattr(conversation_state, "SAVE_RETRY_SECONDS", (60.0,))
    monkeypatch.setattr(conversation_state, "MAX_DEFERRED_BYTES", max_bytes)
    store, messages = await store_responses([DOWN, DOWN], stop=True, count=2)
    assert [YET in message for message in messages] == [True] * deferred + [False] * (2 - deferred)
    assert len(store.saved) == deferred
