"""Three gateways over one PostgreSQL and one Redis, as one story.

They are called, a budget is spent and a key is revoked; one is killed, another one is replaced while it streams. What
the callers saw is compared with the limits, with the ledger and with the stored responses.
"""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest

from support.app import CHAT, CLOSED, MASTER_KEY, A, answered, end, opened, piece, start
from support.keys import add, key_of, secret_of
from support.ports import free_port
from support.process import ROOT, Process, awaited, process
from support.redis_server import redis_process
from support.scripted_upstream import Chunk, End, Head, Pause, Request, Script, ScriptedUpstream, Signal, transcript
from support.transcripts import LONG
from test_serve_key_changes import Database, database
from test_serve_maintenance import forget_leases

KEYS = (
    key_of("sixty", rpm_limit=60),
    key_of("dollar", max_budget=0.6, budget_duration="1mo"),
    key_of("leaver"),
    key_of("worker"),
)
PRICE = '{"command-a-03-2025": {"input": 5000, "output": 5000}}'
"""Half a cent for a token, three for an answer of 6."""

EVENTS = Head(200, (("content-type", "text/event-stream"),))
BEGUN = transcript(start(), opened(), piece("Hi"), done=False)
REST = transcript(piece(" there."), CLOSED, end())
SHUTDOWN_SECONDS = 3.0


@dataclass
class Answer:
    """What a caller saw. cut: the connection broke in the middle of it."""

    status: int = 0
    body: bytes = b""
    cut: bool = False

    @property
    def complete(self) -> bool:
        return not self.cut and self.body.endswith(b"data: [DONE]\n\n")


@dataclass
class Replicas:
    """Gateways with their shared stores. acknowledged: ids of the calls that got a whole answer."""

    stack: ExitStack
    environment: dict[str, str]
    store: Database
    running: list[Process] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(32))

    def launch(self, count: int) -> None:
        """Starts so many more, all at the same time."""
        starting = [
            self.threads.submit(lambda: self.stack.enter_context(process(**self.environment))) for _ in range(count)
        ]
        self.running += [one.result(120) for one in starting]

    def ask(self, replica: int, key: str, verb: str, path: str, body: Any = None) -> Answer:
        """One request. Its id is noted once its answer has come whole."""
        id = f"call-{next(self.numbers)}"
        connection = http.client.HTTPConnection("127.0.0.1", self.running[replica].port, timeout=120)
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json", "x-request-id": id}
        answer = Answer()
        try:
            connection.request(verb, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            answer.status = response.status
            while some := response.read1(65536):
                answer.body += some
        except (http.client.HTTPException, OSError):
            answer.cut = True
        finally:
            connection.close()
        if not answer.cut and (path == CHAT or (body or {}).get("background")):
            self.acknowledged.append(id)
        return answer

    def chat(self, replica: int, key: str, content: str = "Hi", **fields: Any) -> Answer:
        body = {"model": A, "messages": [{"role": "user", "content": content}], "max_tokens": 5, **fields}
        return self.ask(replica, secret_of(key), "POST", CHAT, body)

    def stream(self, replica: int, content: str) -> Future[Answer]:
        return self.threads.submit(self.chat, replica, "worker", content, stream=True)

    def respond(self, replica: int, content: str) -> str:
        """Begins a response in the background. Returns its id."""
        body = {"model": A, "input": content, "background": True}
        answer = self.ask(replica, secret_of("worker"), "POST", "/v1/responses", body)
        assert answer.status == 200, answer
        return str(json.loads(answer.body)["id"])

    def status_of(self, replica: int, response: str) -> str:
        """The status of a response in the background; empty where this replica did not answer in time."""
        answer = self.ask(replica, secret_of("worker"), "GET", f"/v1/responses/{response}")
        return "" if answer.cut else str(json.loads(answer.body)["status"])

    def rows(self) -> Counter[str]:
        """How many rows the ledger has for each request id."""

        async def read() -> list[Any]:
            connection = await asyncpg.connect(self.store.url)
            try:
                return list(await connection.fetch("SELECT request_id FROM ledger"))
            finally:
                await connection.close()

        return Counter(str(row[0]) for row in asyncio.run(read()))


class Cohere:
    """Answers at once, but for streams and answers that wait for their word."""

    def __init__(self) -> None:
        self.words = {"short": Signal(), "never": Signal()}

    def respond(self, request: Request) -> Script:
        body = request.json()
        word = self.words.get(str(body["messages"][-1]["content"]))
        if not body.get("stream"):
            return answered() if word is None else (Pause(word), *answered())
        return (EVENTS, Chunk(BEGUN), *((Pause(word),) if word is not None else ()), Chunk(REST), End())


@contextmanager
def replicas(folder: Path, upstream: str) -> Iterator[Replicas]:
    with ExitStack() as stack:
        store = stack.enter_context(database("postgresql", folder))
        add(store.url, *KEYS)
        environment = {
            "GATEWAY_DATABASE_URL": store.url,
            "GATEWAY_REDIS_URL": stack.enter_context(redis_process()).url,
            "GATEWAY_MASTER_KEY": MASTER_KEY,
            "COHERE_API_KEY": "server-key",
            "COHERE_BASE_URL": upstream,
            "GATEWAY_PRICES": PRICE,
            "GATEWAY_LEDGER_SYNC": "true",
            "GATEWAY_TIMEOUTS_SHUTDOWN": str(SHUTDOWN_SECONDS),
            # The machine that runs the tests may be busier than one that serves.
            "GATEWAY_LIMITS_TIMEOUT": "30",
        }
        shared = Replicas(stack, environment, store)
        stack.callback(shared.threads.shutdown, wait=False)
        yield shared


def test_three_replicas(tmp_path: Path) -> None:
    cohere = Cohere()
    with ScriptedUpstream(cohere.respond).run_in_thread() as upstream, replicas(tmp_path, upstream.url) as shared:
        shared.launch(3)
        try:
            began = limits_hold(shared)
            a_revoked_key_is_refused_everywhere(shared)
            upstream.exchanges.clear()
            one_is_killed(shared, upstream)
            one_is_replaced(shared, upstream, cohere)
            status = shared.chat(3, "sixty").status
            # On a machine that is slower than a minute, nothing of this minute is left to be seen.
            assert status == 429 or time.monotonic() - began > 50, "what the dead have counted is not forgotten"
        finally:
            for word in cohere.words.values():
                word.set()
        awaited(lambda: not set(shared.acknowledged) - shared.rows().keys(), 60)
        rows = shared.rows()
        assert not [id for id in shared.acknowledged if rows[id] != 1], "a row for each call, and not two"
        assert max(rows.values()) == 1


def limits_hold(shared: Replicas) -> float:
    """Sixty requests a minute and sixty cents, called from all sides at the same time. Returns when that began."""
    began = time.monotonic()
    calls = [(number % 3, "sixty") for number in range(75)] + [(number % 3, "dollar") for number in range(36)]
    answers = list(shared.threads.map(lambda call: (call[1], shared.chat(*call).status), calls))
    statuses = Counter(answers)
    print(f"{len(calls) / (time.monotonic() - began):.0f} calls a second: {statuses}")
    assert sum(statuses.values()) == len(calls)
    assert 59 <= statuses["sixty", 200] <= 61 or time.monotonic() - began > 50
    # Those who were told to come again, because the rest was reserved, do.
    paid = statuses["dollar", 200]
    while (last := shared.chat(paid % 3, "dollar")).status == 200:
        paid += 1
    assert 20 <= paid <= 21 and b"insufficient_quota" in last.body, "an answer more than the budget at most"
    assert {shared.chat(replica, "dollar").status for replica in range(3)} == {429}
    return began


def a_revoked_key_is_refused_everywhere(shared: Replicas) -> None:
    assert {shared.chat(replica, "leaver").status for replica in range(3)} == {200}
    answer = shared.ask(0, MASTER_KEY, "POST", "/key/block", {"key": secret_of("leaver")})
    assert answer.status == 200, answer
    began = time.monotonic()
    for replica in range(3):
        awaited(lambda replica=replica: shared.chat(replica, "leaver").status == 403)  # type: ignore[misc]
    seconds = time.monotonic() - began
    print(f"revoked on all replicas after {seconds:.2f} s")


def one_is_killed(shared: Replicas, upstream: ScriptedUpstream) -> None:
    """Its streams break off, and never look complete; its response in the background is ended by the next replica."""
    streams = [shared.stream(0, "never") for _ in range(2)]
    response = shared.respond(0, "never")
    awaited(lambda: len(upstream.requests) == 3 and shared.status_of(1, response) == "in_progress", 60)
    shared.running[0].signal(signal.SIGKILL, group=True)
    answers = [stream.result(120) for stream in streams]
    assert all(answer.status == 200 and not answer.complete and b"[DONE]" not in answer.body for answer in answers)
    forget_leases(shared.store.url)
    shared.launch(1)
    awaited(lambda: shared.status_of(2, response) == "failed", 60)


def one_is_replaced(shared: Replicas, upstream: ScriptedUpstream, cohere: Cohere) -> None:
    """What ends in time ends well, the rest with an error; the others serve meanwhile."""
    upstream.exchanges.clear()
    short = [shared.stream(1, "short") for _ in range(2)]
    endless, elsewhere = shared.stream(1, "never"), shared.stream(2, "short")
    finishing, failing = shared.respond(1, "short"), shared.respond(1, "never")
    awaited(lambda: len(upstream.requests) == 6, 60)
    shared.running[1].signal(signal.SIGTERM)
    served = [shared.chat(2 + number % 2, "worker") for number in range(4)]
    cohere.words["short"].set()
    assert [answer.status for answer in served] == [200] * 4, served
    answers = [stream.result(120) for stream in (*short, elsewhere)]
    assert all(answer.complete and b" there." in answer.body for answer in answers), answers
    last = endless.result(120)
    assert not last.cut and b'"error"' in last.body and b"[DONE]" not in last.body, "it says that it did not end"
    assert shared.running[1].ends(120) == 0
    for id, status in ((finishing, "completed"), (failing, "failed")):
        awaited(lambda id=id, status=status: shared.status_of(3, id) == status, 60)  # type: ignore[misc]


# --- make cluster -------------------------------------------------------------------------------------------

CLUSTER = ROOT / "tests" / "bench" / "cluster.py"


@pytest.mark.parametrize(
    ("variable", "url", "sentence"),
    [
        ("GATEWAY_DATABASE_URL", "postgresql://postgres@127.0.0.1:{port}/x", "PostgreSQL does not answer at "),
        ("GATEWAY_REDIS_URL", "redis://127.0.0.1:{port}/0", "Redis does not answer at redis://127.0.0.1:"),
    ],
)
def test_make_cluster_says_what_is_missing(variable: str, url: str, sentence: str, tmp_path: Path) -> None:
    with database("postgresql", tmp_path) as store:
        values = {"GATEWAY_DATABASE_URL": store.url, variable: url.format(port=free_port())}
        result = subprocess.run(
            [sys.executable, str(CLUSTER)], env={**os.environ, **values}, capture_output=True, text=True, check=False
        )
    assert result.returncode == 1 and sentence in result.stderr and f"with {variable} in" in result.stderr
    assert "apt install" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.skipif(not LONG, reason="six processes: for make test-long")
def test_make_cluster_serves(tmp_path: Path) -> None:
    with database("postgresql", tmp_path) as store, redis_process() as redis:
        port = free_port()
        values = {"GATEWAY_DATABASE_URL": store.url, "GATEWAY_REDIS_URL": redis.url, "GATEWAY_LOG": "off"}
        program = subprocess.Popen(
            [sys.executable, str(CLUSTER), "--port", str(port)], env={**os.environ, **values}, stdout=subprocess.PIPE
        )
        try:
            assert program.stdout is not None
            printed = b""
            while b"Ctrl-C" not in printed:
                printed += program.stdout.readline()
            commands = re.findall(r"  (curl (?:.*\\\n)*.*)", printed.decode())
            assert "a stand-in for Cohere" in printed.decode() and len(commands) == 2
            make, call = commands
            answers = [subprocess.run(make, shell=True, capture_output=True, check=True).stdout]
            for replica in (2, 1, 0, 2):
                again = call.replace(f":{port + 2}/", f":{port + replica}/")
                answers.append(subprocess.run(again, shell=True, capture_output=True, check=True).stdout)
            assert b"sk-a-key-for-all-replicas" in answers[0]
            assert all(b'"choices"' in answer for answer in answers[1:4]) and b"rate_limit_exceeded" in answers[4]
        finally:
            program.send_signal(signal.SIGTERM)
            program.communicate(timeout=60)
        assert program.returncode == 0
