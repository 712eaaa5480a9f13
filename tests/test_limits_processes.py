"""Limits and budgets over three real gateways: what one admits, the others know of.

Over Redis, over PostgreSQL alone, and over SQLite with three workers. Clients call as fast as they can; what counts is
how many calls came through, and at what rate the machine made them is printed, not judged.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gateway.virtual_keys import VirtualKey
from support.app import CHAT, MASTER_KEY, A, answered
from support.keys import add, key_of, secret_of
from support.process import Process, process
from support.redis_server import redis_process
from support.scripted_upstream import ScriptedUpstream
from support.transcripts import LONG
from support.waiting import WAIT_SECONDS
from test_serve_key_changes import database

CLIENTS = 200
PRICE = '{"command-a-03-2025": {"input": 5000, "output": 5000}}'
"""Half a cent for a token. An answer bills 6, and a request is expected to take as many."""

ANSWER_COSTS = 0.03

ANSWER_TOKENS = 73
"""Of which Cohere bills 6."""

ROTATION_CLIENTS = 4

KINDS = ("redis", "postgresql", "sqlite") if LONG else ("redis",)
"""Nine processes cost as many seconds of a processor: all three kinds are for `make test-long`."""


@contextmanager
def three(kind: str, folder: Path, keys: Sequence[VirtualKey], upstream: str) -> Iterator[list[int]]:
    """The ports of three processes, or of one with three workers, that share what they count."""
    with ExitStack() as stack:
        shared = stack.enter_context(database("sqlite" if kind == "sqlite" else "postgresql", folder))
        add(shared.url, *keys)
        environment = {
            "GATEWAY_DATABASE_URL": shared.url,
            "GATEWAY_MASTER_KEY": MASTER_KEY,
            "COHERE_API_KEY": "server-key",
            "COHERE_BASE_URL": upstream,
            "GATEWAY_PRICES": PRICE,
            # The machine that runs the tests may be busier than one that serves.
            "GATEWAY_LIMITS_TIMEOUT": "30",
            "GATEWAY_LOG": "off",
        }
        if kind == "redis":
            environment["GATEWAY_REDIS_URL"] = stack.enter_context(redis_process()).url
        arguments = ("--workers", "3") if kind == "sqlite" else ()
        count = 1 if kind == "sqlite" else 3
        servers: list[Process] = [stack.enter_context(process(*arguments, **environment)) for _ in range(count)]
        if kind == "sqlite":
            servers[0].settle(3)
        yield [server.port for server in servers]


def hammer(ports: Sequence[int], id: str, calls: int, clients: int, secret: str = "") -> tuple[Counter[int], float]:
    """Returns how often each status was seen, and the seconds that it took. Each client has its own connection."""
    body = json.dumps({"model": A, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5})
    headers = {"authorization": f"Bearer {secret or secret_of(id)}", "content-type": "application/json"}
    statuses: list[int] = []
    left = iter(range(calls))
    lock = threading.Lock()

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", ports[number % len(ports)], timeout=120)
        try:
            while True:
                with lock:
                    if next(left, None) is None:
                        return
                connection.request("POST", CHAT, body, headers)
                response = connection.getresponse()
                response.read()
                statuses.append(response.status)
        finally:
            connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
    return Counter(statuses), time.monotonic() - began


def rotate(port: int, id: str) -> str:
    """Gives a key another secret, beside which the old one lasts. Returns it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    headers = {"authorization": f"Bearer {MASTER_KEY}", "content-type": "application/json"}
    body = json.dumps({"key": id, "grace_period": "1h"})
    connection.request("POST", "/key/regenerate", body, headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    assert response.status == 200, answer
    return str(answer["key"])


def rotated_under_load(ports: Sequence[int], id: str, calls: int) -> tuple[Counter[int], Counter[int], float]:
    """Returns the statuses of calls with the old secret of a key and with the new one, and the seconds that they took.

    The secret is another one while the first of them are under way; after that so many are made with each, and more.
    """
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(hammer, ports, id, calls // 3, ROTATION_CLIENTS)
        secret = rotate(ports[0], id)
        second = pool.submit(hammer, ports, id, calls, ROTATION_CLIENTS, secret)
        old, new = first.result()[0], second.result()[0]
        old += hammer(ports, id, calls, ROTATION_CLIENTS)[0]
        new += hammer(ports, id, calls, ROTATION_CLIENTS, secret)[0]
    return old, new, time.monotonic() - began


@pytest.mark.parametrize("kind", KINDS)
def test_two_hundred_clients_on_a_budget_of_one_dollar(kind: str, tmp_path: Path) -> None:
    """Spent is at most one request's estimate more than the dollar, and not less by more than one answer."""
    keys = [
        key_of("dollar", max_budget=1.0),
        key_of("rate", rpm_limit=100),
        key_of("few", max_parallel_requests=4),
        key_of("requests", rpm_limit=40),
        key_of("tokens", tpm_limit=20 * ANSWER_TOKENS),
    ]
    with (
        ScriptedUpstream(lambda request: answered()).run_in_thread() as upstream,
        three(kind, tmp_path, keys, upstream.url) as ports,
    ):
        first, _ = hammer(ports, "dollar", 2 * CLIENTS, CLIENTS)
        # Where the last of it is reserved, some are told to come again: they do, until nothing is left.
        second: Counter[int] = Counter()
        deadline = time.monotonic() + WAIT_SECONDS
        while (first[200] + second[200]) * ANSWER_COSTS < 1.0 and time.monotonic() < deadline:
            second += hammer(ports, "dollar", 20, 1)[0]
        second += hammer(ports, "dollar", 20, 1)[0]
        paid = len(upstream.requests)
        assert set(first) <= {200, 429} and first[200] + second[200] == paid
        assert 1.0 <= paid * ANSWER_COSTS <= 1.0 + 2 * ANSWER_COSTS, (first, second)
        assert second[429] >= 20, "nothing is left"
        calls = int(os.environ.get("LIMIT_CALLS", "300"))
        counts, seconds = hammer(ports, "rate", calls, 30)
        print(f"{kind}: {calls / seconds:.0f} calls a second, {counts[200]} of 100 admitted in {seconds:.1f} s")
        if seconds < 55:
            assert 98 <= counts[200] <= 100, counts
        assert hammer(ports, "few", 40, 1)[0][200] == 40, "one after the other, whoever serves them"
        # An answer has more tokens than are expected, so those under way are admitted beside the limit of tokens.
        for id, most in (("requests", (39, 40)), ("tokens", (20, 20 + 2 * ROTATION_CLIENTS))):
            old, new, seconds = rotated_under_load(ports, id, 30)
            assert set(old) | set(new) <= {200, 429} and old[200] and new[200], (id, old, new)
            if seconds < 55:
                assert most[0] <= old[200] + new[200] <= most[1], (id, old, new)
