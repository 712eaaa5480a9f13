"""Made-up keys have one share together: of slots, of the queue for large requests, of WebSockets, of memory."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from gateway.auth.credentials import Credential
from gateway.auth.principal import Principal
from gateway.errors import CallerError
from gateway.pipeline import accepted_keys
from gateway.pipeline.accepted_keys import PROOF_PATH, AcceptedKeys, AcceptedOwners
from gateway.pipeline.offload import TURN_SECONDS, Offload, work_of
from gateway.settings.schema import ConcurrencySettings, OffloadSettings
from support.app import CHAT, Gateway, answered, gateway_over
from support.scripted_upstream import Pause, ScriptedUpstream, Signal, json_answer
from support.waiting import WAIT_SECONDS
from translators.request.check_budget import TooExpensive

GOOD = "good-key-0001"


def scripted(release: Signal) -> Callable[[Any], Any]:
    """Cohere, who knows one key. Calls with others are answered once the event is set."""

    def script(request: Any) -> Any:
        key = request.headers["authorization"][0].removeprefix("Bearer ")
        if request.path == PROOF_PATH:
            return (
                json_answer(200, {"models": []}) if key == GOOD else json_answer(401, {"message": "invalid api token"})
            )
        return answered("Hi") if key == GOOD else (Pause(release), *answered("Hi"))

    return script


def opened(gateway: Gateway, key: str) -> Any:
    host, port = gateway.address
    return connect(f"ws://{host}:{port}/v1/responses", additional_headers={"authorization": f"Bearer {key}"})


def test_made_up_keys_share_websockets() -> None:
    with (
        ScriptedUpstream(scripted(Signal())).run_in_thread() as upstream,
        gateway_over(upstream.url, max_websockets=8, max_websockets_per_caller=2) as gateway,
        opened(gateway, "made-up-1"),
        opened(gateway, "made-up-2"),
    ):
        with pytest.raises(InvalidStatus) as caught:
            opened(gateway, "made-up-3")
        assert caught.value.response.status_code == 401, "Cohere was asked"
        with opened(gateway, GOOD), opened(gateway, GOOD):
            with pytest.raises(InvalidStatus) as caught:
                opened(gateway, GOOD)
            assert caught.value.response.status_code == 429
        paths = [request.path for request in upstream.requests]
        assert paths == [PROOF_PATH] * 2, "a key that was accepted is not asked about again"


def test_made_up_keys_share_slots() -> None:
    release = Signal()
    settings = ConcurrencySettings(max_in_flight=4, queue_size=0, caller_share=0.5)
    with (
        ScriptedUpstream(scripted(release)).run_in_thread() as upstream,
        gateway_over(upstream.url, concurrency=settings) as gateway,
    ):
        body = {"model": "command-a-03-2025", "messages": [{"role": "user", "content": "Hi"}]}

        def ask(key: str) -> int:
            headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
            return gateway.ask("POST", CHAT, body, headers).status

        assert ask(GOOD) == 200
        threads = [threading.Thread(target=ask, args=(f"made-up-{number}",)) for number in range(2)]
        try:
            for thread in threads:
                thread.start()
            until = time.monotonic() + WAIT_SECONDS
            while len(upstream.requests) < 3 and time.monotonic() < until:
                time.sleep(0.005)
            assert ask("made-up-2") == 503
            assert ask(GOOD) == 200
        finally:
            release.set()
            for thread in threads:
                thread.join()


def in_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Runs a test in a loop of its own."""

    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


class Proofs(AcceptedKeys):
    """Accepts the keys of one owner."""

    def __init__(self, accepted: str = "") -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self._accepted = accepted

    async def ensure(self, principal: Principal) -> None:
        if principal.owner == self._accepted:
            self.owners.add(principal.owner)


def caller(owner: str, own_key: bool = True) -> Principal:
    return Principal(owner, owner, own_key, Credential())


@in_a_loop
async def test_made_up_keys_share_the_queue_for_threads() -> None:
    offload = Offload(OffloadSettings(threads=1, queue_size=8, queue_share=2), Proofs("good"))
    gate = threading.Event()
    waiting = [asyncio.ensure_future(offload.run_in_thread(caller(f"c{n}"), gate.wait, 30)) for n in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(CallerError):
        await offload.run_in_thread(caller("c2"), len, "")
    honest = asyncio.ensure_future(offload.run_in_thread(caller("good"), len, "abc"))
    await asyncio.sleep(0)
    gate.set()
    assert await honest == 3
    await asyncio.gather(*waiting)
    offload.stop()


@in_a_loop
async def test_a_few_made_up_keys_wait_before_cohere_is_asked() -> None:
    """Also where a caller may have many requests waiting."""
    offload = Offload(OffloadSettings(threads=1), Proofs("good"))
    gate = threading.Event()
    waiting = [asyncio.ensure_future(offload.run_in_thread(caller(f"c{n}"), gate.wait, 30)) for n in range(40)]
    await asyncio.sleep(0)
    honest = asyncio.ensure_future(offload.run_in_thread(caller("good"), len, "abc"))
    await asyncio.sleep(0)
    gate.set()
    assert await honest == 3
    assert sum(one.done() for one in waiting) <= 2, "an accepted key waits behind all of them"
    await asyncio.gather(*waiting)
    offload.stop()


@in_a_loop
async def test_many_large_requests_of_one_caller_wait() -> None:
    """A team of agents with long histories is no attack: what they hold is bounded by memory."""
    offload = Offload(OffloadSettings(), Proofs())
    bodies = [f"{number}" * 10 for number in range(200)]
    sizes = [asyncio.ensure_future(offload.run(caller("team", own_key=False), 10**6, len, one)) for one in bodies]
    assert await asyncio.gather(*sizes) == [len(one) for one in bodies]
    offload.stop()


@pytest.mark.parametrize(
    ("size", "values", "in_thread"),
    [
        (128 * 1024, 0, False),
        (129 * 1024, 0, True),
        (1024 * 1024, 8_000, False),
        (1024 * 1024, 8_200, True),
        (1025 * 1024, 8_000, True),
        (200 * 1024, 5_000, False),
    ],
)
def test_text_is_read_on_the_loop_and_many_values_in_a_thread(size: int, values: int, in_thread: bool) -> None:
    async def run() -> threading.Thread:
        offload = Offload(OffloadSettings(), Proofs())
        try:
            return await offload.run(caller("c"), work_of(size, values), threading.current_thread)
        finally:
            offload.stop()

    assert (asyncio.run(run()) is not threading.current_thread()) is in_thread


@in_a_loop
async def test_threads_are_taken_by_turns() -> None:
    """Who has brought much waits behind who has brought little."""
    offload = Offload(OffloadSettings(threads=1, queue_size=8, queue_share=8), Proofs())
    gate, order = threading.Event(), []

    async def work(owner: str, function: Callable[..., Any], *arguments: Any) -> None:
        await offload.run_in_thread(caller(owner, own_key=False), function, *arguments)
        order.append(owner)

    tasks = [asyncio.ensure_future(work("much", gate.wait, 30))]
    await asyncio.sleep(0)
    tasks += [asyncio.ensure_future(work("much", len, "")) for _ in range(3)]
    await asyncio.sleep(0)
    tasks.append(asyncio.ensure_future(work("little", len, "")))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*tasks)
    assert order.index("little") == 2, order
    offload.stop()


@in_a_loop
async def test_large_requests_do_not_wait_behind_checks() -> None:
    offload = Offload(OffloadSettings(threads=1), Proofs())
    gate, tries = threading.Event(), []

    def check() -> None:
        tries.append(threading.current_thread())
        if len(tries) == 1:
            raise TooExpensive
        gate.wait(WAIT_SECONDS)

    checking = asyncio.ensure_future(offload.run(caller("hostile"), 1, check))
    await asyncio.sleep(0)
    assert await asyncio.wait_for(offload.run(caller("honest"), 10**6, len, "abc"), WAIT_SECONDS) == 3
    assert not checking.done()
    gate.set()
    await checking
    assert len({*tries}) == 2
    offload.stop()


@in_a_loop
async def test_the_loop_turns_between_requests() -> None:
    """However many come at once: streams are served between them."""
    offload = Offload(OffloadSettings(), Proofs())
    done = 0

    def work() -> None:
        nonlocal done
        until = time.perf_counter() + TURN_SECONDS / 2
        while time.perf_counter() < until:
            pass
        done += 1

    requests = [asyncio.ensure_future(offload.run(caller("c"), 1, work)) for _ in range(12)]
    most, before = 0, 0
    while done < len(requests):
        await asyncio.sleep(0)
        most, before = max(most, done - before), done
    assert most <= 3, f"{most} in one turn"
    await asyncio.gather(*requests)
    offload.stop()


def test_the_key_that_was_used_least_recently_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepted_keys, "MAX_KEYS", 2)
    owners = AcceptedOwners()
    for owner in ("first", "second", "first", "third"):
        owners.add(owner)
    accepted = {owner for owner in ("first", "second", "third") if owners.accepts(caller(owner))}
    assert accepted == {"first", "third"}


def test_a_proof_holds_for_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    owners, now = AcceptedOwners(), [0.0]
    monkeypatch.setattr("gateway.pipeline.accepted_keys.time.monotonic", lambda: now[0])
    owners.add("someone")
    for seconds, accepted in ((accepted_keys.ACCEPTED_SECONDS - 1, True), (accepted_keys.ACCEPTED_SECONDS, False)):
        now[0] = seconds
        assert owners.accepts(caller("someone")) is accepted
        assert owners.share_of(caller("someone")) == ("someone" if accepted else accepted_keys.UNPROVEN)
