"""The fault matrix of `test_faults.py` on what is passed through, where the rule is another one: the caller sees what
Cohere did, whole or visibly broken, and where that is nothing at all, an error in Cohere's own shape.

So nothing is expected by hand: each fault is met twice, by a plain client that asks the upstream itself and by the same
client through the gateway, and what the one saw says what the other must see (EXPECTED).
"""

from __future__ import annotations

import http.client
import json
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.settings.schema import Timeouts
from support.app import CALLER_KEY, USAGE, A, Harness, gateway_over
from support.row_law import Calls, harness_with_ledger
from support.scripted_upstream import json_answer
from support.waiting import WAIT_SECONDS
from test_faults import (
    ADDRESSES,
    BODY,
    FAULTS,
    LONG,
    MESSAGES,
    SETTINGS,
    SHORT,
    SILENCES,
    Held,
    document,
    open_files,
    over,
)

PATH = "/v2/chat"
NAMES = [row[0] for row in ADDRESSES]
SURFACES = {"native": False, "native stream": True}


@dataclass(frozen=True)
class Saw:
    """nothing: no answer at all. silent: it did not go on. broken: it ended too early. whole: a proper end."""

    end: str
    status: int = 0
    body: bytes = b""
    request_id: str = field(default="", compare=False)


def ask(address: tuple[str, int], path: str, streamed: bool, timeout: float) -> Saw:
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    headers = {"authorization": f"Bearer {CALLER_KEY}", "content-type": "application/json"}
    body = json.dumps({"model": A, "messages": MESSAGES, "stream": streamed})
    result, status, request_id = b"", 0, ""
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        status, request_id = answer.status, answer.getheader("x-request-id", "")
        while some := answer.read1(65_536):
            result += some
        # What was announced and did not come: `read1` does not complain.
        return Saw("broken" if answer.length else "whole", status, result, request_id)
    except TimeoutError:
        return Saw("silent", status, result, request_id)
    except (http.client.HTTPException, ConnectionError, ValueError):
        return Saw("broken" if status else "nothing", status, result, request_id)
    finally:
        connection.close()


STRICTER = frozenset(
    {
        *("a header with NUL", "two lengths", "a length and chunks", "headers without end", "a head without end"),
        *("a status that is none", "an informational answer only", "closed inside the head"),
        # More than was announced: whether that is noticed before the answer has gone is a matter of moments.
        *("a length that is too short", "a second answer behind the first"),
    }
)
"""Answers that a lax client takes and the gateway does not: an error is right, whatever that client saw."""


def expected(direct: Saw) -> tuple[str, set[int], bytes]:
    """EXPECTED: how the gateway's answer must end, with which status, and what its body begins with."""
    match direct:
        case Saw("whole", status, body):
            return "whole", {status}, body
        case Saw("nothing") | Saw("broken", _, b""):
            return "whole", {502}, b'{"message":'
        case Saw("silent", _, b""):
            return "whole", {504}, b'{"message":'
        case Saw(_, status, body):
            return "broken", {status}, body
    raise AssertionError(direct)


BILLED: dict[str, Any] = USAGE["billed_units"]  # type: ignore[assignment]


NOT_PLAIN = ("gzip that is none", "a coding that nobody asked for")
"""Answers that say that they are compressed."""


def billed_in(data: bytes, compressed: bool) -> list[dict[str, Any]]:
    """What a row may have of an answer: the last of its counts, or nothing where it cannot be read."""
    if compressed or data.startswith(b"\x1f\x8b"):
        try:
            data = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(data)
        except zlib.error:
            return [{}]
    lines = [line.removeprefix(b"data:") for line in data.split(b"\n") if b'"billed_units"' in line]
    if not lines:
        return [{}]
    try:
        document = json.loads(lines[-1])
    except ValueError:
        return [{}, BILLED]
    return [(document.get("usage") or document["delta"]["usage"])["billed_units"]]


CALLS = Calls(lambda row: [BILLED, {}])


def good_answer(harness: Harness) -> None:
    harness.respond_with(document(BODY))
    assert ask(harness.gateway.address, f"/cohere{PATH}", False, WAIT_SECONDS).status == 200


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    with harness_with_ledger(CALLS, good_answer, timeouts=LONG, **SETTINGS) as harness:
        assert ask(harness.gateway.address, "/v1/responses/none", False, WAIT_SECONDS).status  # the storage is open now
        yield harness


@pytest.fixture(scope="module")
def hasty() -> Iterator[Harness]:
    """The same with short time-outs."""
    with harness_with_ledger(CALLS, good_answer, timeouts=SHORT, **SETTINGS) as harness:
        assert ask(harness.gateway.address, "/v1/responses/none", False, WAIT_SECONDS).status
        yield harness


def settled(harness: Harness) -> Held:
    """What is held after a good answer, once it stays as it is."""
    harness.respond_with(document(BODY))
    deadline, last, since = time.monotonic() + WAIT_SECONDS, None, 0.0
    while (result := ask(harness.gateway.address, f"/cohere{PATH}", False, WAIT_SECONDS)) != Saw("whole", 200, BODY):
        # On a busy machine the short time-outs may strike.
        assert result.status == 504 and time.monotonic() < deadline, result
    while True:
        held = Held(harness.gateway.tasks(), open_files(), harness.upstream.open_connections)
        if held != last:
            last, since = held, time.monotonic()
        if time.monotonic() > deadline or (held.upstream == 1 and time.monotonic() - since > 0.05):
            return held
        time.sleep(0.002)


ENDLESS = ("10 MB at once", "an answer without end")
"""Passed on for as long as they come; how long that is, `test_serve_passthrough.py` has."""

CELLS = [
    pytest.param(fault.name, cell[0], streamed, id=f"{fault.name}-{name}")
    for fault in FAULTS
    for name, streamed in SURFACES.items()
    if (cell := fault.stream if streamed else fault.whole) is not None and fault.name not in ENDLESS
]


@pytest.mark.parametrize(("name", "script", "streamed"), CELLS)
def test_a_fault_is_passed_on_or_an_error(
    name: str, script: Any, streamed: bool, harness: Harness, hasty: Harness
) -> None:
    harness = hasty if name in SILENCES else harness
    timeout = SHORT.first_event * 2 if name in SILENCES else WAIT_SECONDS
    script = script(BODY) if callable(script) else script
    before = settled(harness)
    harness.respond_with(script)
    direct = ask((harness.upstream.host, harness.upstream.port), PATH, streamed, timeout)
    harness.respond_with(script)
    result = ask(harness.gateway.address, f"/cohere{PATH}", streamed, WAIT_SECONDS)
    CALLS.statuses[result.request_id] = result.status
    if result.end == "whole":
        CALLS.billed[result.request_id] = billed_in(result.body, compressed=name in NOT_PLAIN)
    if name in STRICTER and result.status in (502, 504):
        assert result.end == "whole" and result.body.startswith(b'{"message":')
    else:
        end, statuses, body = expected(direct)
        assert (result.end, result.status in statuses) == (end, True), (direct, result)
        assert result.body.startswith(body[: len(result.body)] if end == "broken" else body), (direct, result)
        if end == "whole" and direct.end == "whole":
            assert result.body == direct.body
    over(harness.upstream.exchanges[0])
    deadline = time.monotonic() + WAIT_SECONDS
    while not (after := settled(harness)).within(before):
        assert time.monotonic() < deadline, (before, after)


@pytest.mark.parametrize("streamed", SURFACES.values(), ids=SURFACES)
@pytest.mark.parametrize(("address", "status"), [(row[1], row[2].status) for row in ADDRESSES], ids=NAMES)
def test_addresses(address: Any, status: int, streamed: bool) -> None:
    timeout = Timeouts(connect=0.2 if status == 504 else 5, first_event=5)
    with address() as url, gateway_over(url, timeouts=timeout, **SETTINGS) as gateway:
        for _ in range(2):
            result = ask(gateway.address, f"/cohere{PATH}", streamed, WAIT_SECONDS)
            assert (result.end, result.status) == ("whole", status)
            assert "cost_nanodollars" not in gateway.log.line_of(result.request_id), "nothing was sent"
            assert list(json.loads(result.body)) == ["message", "code"], "in Cohere's shape, and no address in it"
            assert "127.0.0.1" not in result.body.decode() and "invalid" not in result.body.decode()


def test_three_refusals_in_a_row_are_three_refusals(harness: Harness) -> None:
    """429 is the caller's to hear, with what Cohere says of when to come back."""
    script = json_answer(429, {"message": "slow down"}, [("retry-after", "7")])
    harness.respond_with(script, script, script)
    for _ in range(3):
        result = ask(harness.gateway.address, f"/cohere{PATH}", False, WAIT_SECONDS)
        assert (result.end, result.status, json.loads(result.body)) == ("whole", 429, {"message": "slow down"})
