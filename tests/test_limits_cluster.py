"""Counters in a real Redis Cluster of three nodes: as exact as in one Redis, over subjects whose keys are apart."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from redis.exceptions import RedisError

from gateway.settings.schema import LimitSettings
from gateway.store.counters import Counter, CountersUnavailable, Past, Reservation, Settlement
from gateway.store.redis_cache import RedisCache
from gateway.store.redis_cluster import RedisCluster
from gateway.store.redis_cluster_counters import RedisClusterCounters
from gateway.store.redis_counters import PROCESSES
from support.keys import key_of
from support.redis_server import RedisProcess, redis_cluster, redis_process
from support.spent_budgets import NothingSpent
from support.waiting import WAIT_SECONDS
from test_limits_counters import Clock, compare_with_redis
from test_limits_shared import Gateway, gateways, until
from test_serve_limits import limited

Nodes = list[RedisProcess]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with redis_cluster() as running:
        yield running


@contextmanager
def loose_cluster() -> Iterator[Nodes]:
    """A cluster whose nodes go on when one of them is away."""
    with redis_cluster() as running:
        for node in running:
            node.command("CONFIG", "SET", "cluster-require-full-coverage", "no")
        yield running


def counters(nodes: Nodes) -> RedisClusterCounters:
    return RedisClusterCounters(nodes[0].url, NothingSpent(), None, 20.0)


def limit(subject: str, count: int, prefix: str) -> Counter:
    return Counter(f"{subject}:{prefix}:requests", "requests", count)


def test_a_cluster_does_what_the_model_does(nodes: Nodes) -> None:
    clock = Clock()
    asyncio.run(compare_with_redis(RedisClusterCounters(nodes[0].url, NothingSpent(), clock, 20.0), clock, 12))


def test_the_keys_of_a_subject_are_in_one_slot_and_subjects_are_spread(nodes: Nodes) -> None:
    async def main() -> None:
        shared = counters(nodes)
        slots = []
        for number in range(30):
            key = [Counter(f"key:k{number}:{unit}", "requests", 9) for unit in ("requests", "model:command-a:requests")]
            assert (await shared.reserve(key, 0, 0)).admitted, "one script, so one slot"
            slots.append(int(nodes[0].command("CLUSTER", "KEYSLOT", shared._key(key[0])).strip(b":\r\n")))
        assert {slot * len(nodes) // 16384 for slot in slots} == {0, 1, 2}, "each node has some of them"
        await shared.stop()

    asyncio.run(main())


async def burst(shared: Sequence[RedisClusterCounters], wanted: Sequence[Counter], count: int) -> int:
    """Returns how many of so many requests at once are admitted, each by the next process."""
    calls = [shared[number % len(shared)].reserve(wanted, 0, 0) for number in range(count)]
    return sum(decision.admitted for decision in await asyncio.gather(*calls))


def test_three_processes_admit_exactly_what_each_limit_allows(nodes: Nodes) -> None:
    """All come at the same moment, so many hold a place for an instant that another subject refuses."""

    async def main() -> None:
        shared = [counters(nodes) for _ in range(3)]
        id = secrets.token_hex(6)
        narrow, wide = limit("key", 5, f"n{id}"), limit("key", 1000, f"w{id}")
        team, gateway = limit("team", 25, id), Counter("gateway:requests", "requests", 10**6)
        first, second = [narrow, team, gateway], [wide, team, gateway]
        narrow_admitted, wide_admitted = await asyncio.gather(burst(shared, first, 36), burst(shared, second, 36))
        assert narrow_admitted <= 5 and narrow_admitted + wide_admitted <= 25, "never more than a limit"
        assert narrow_admitted + wide_admitted >= 15, "and others' refusals keep nobody out for long"
        # Who was refused all the same comes again, until nothing is left.
        for wanted in (first, second):
            wide_admitted += await burst(shared, wanted, 3)
            wide_admitted += sum([await burst(shared, wanted, 1) for _ in range(25)])
        assert narrow_admitted + wide_admitted == 25
        for one in shared:
            await one.stop()

    asyncio.run(main())


def test_a_refusal_leaves_nothing_behind(nodes: Nodes) -> None:
    async def main() -> None:
        shared, id = counters(nodes), secrets.token_hex(6)
        key, team = limit("key", 5, id), limit("team", 1, id)
        money, parallel = Counter(f"key:{id}:budget", "money", 1000), Counter(f"key:{id}:parallel", "parallel", 1)
        first = await shared.reserve([key, money, parallel, team], 0, 10)
        assert first.admitted
        reservation = Reservation([key, money, parallel, team], 0, 10, leases=first.leases)
        await shared.settle([Settlement(reservation, 0, 4)])
        for _ in range(10):
            refused = await shared.reserve([key, money, parallel, team], 0, 10)
            assert not refused.admitted
            assert [(state.spent, state.reserved) for state in refused.states] == [(1, 0), (4, 0), (0, 0), (1, 0)]
        alone = await shared.reserve([key, money, parallel], 0, 10)
        assert [(state.spent, state.reserved) for state in alone.states] == [(2, 0), (4, 10), (0, 1)]
        await shared.stop()

    asyncio.run(main())


def test_an_admission_is_one_script_for_each_subject_and_so_is_a_refusal(nodes: Nodes) -> None:
    async def main() -> None:
        shared, id = counters(nodes), secrets.token_hex(6)
        wanted = [limit("key", 40, id), limit("team", 15, id), limit("end_user", 30, id)]
        await shared.reserve(wanted, 0, 0)
        for expected, requests in ((3, 14), (3, 10)):
            if expected == 3:
                await shared.reserve(wanted, 0, 0)  # the first that is refused has to be taken back
            before = sum(node.scripts() for node in nodes)
            for _ in range(requests - 1):
                await shared.reserve(wanted, 0, 0)
            assert sum(node.scripts() for node in nodes) - before == 3 * (requests - 1)
        await shared.stop()

    asyncio.run(main())


def test_a_node_that_is_gone_is_an_unavailable_cluster(tmp_path: Path) -> None:
    async def main() -> None:
        with redis_cluster() as nodes:
            shared, id = counters(nodes), secrets.token_hex(6)
            wanted = [limit("key", 100, f"{id}{number}") for number in range(8)]
            for one in wanted:
                assert (await shared.reserve([one], 0, 0)).admitted
            nodes[2].kill()

            async def refused() -> bool:
                try:
                    for one in wanted:
                        await asyncio.wait_for(shared.reserve([one], 0, 0), WAIT_SECONDS)
                except (CountersUnavailable, TimeoutError):
                    return True
                return False

            await until(refused)
            await shared.stop()

    asyncio.run(main())


def test_a_node_that_dies_takes_no_budget_with_it(tmp_path: Path) -> None:
    """What it counted is held to the share meanwhile, what has ended holds nothing, and the database has it after."""

    async def main(nodes: Nodes) -> None:
        async with gateways(nodes[0].url, tmp_path, timeout=2.0, kind=RedisClusterCounters) as (gateway,):
            shared: Any = gateway.counters
            cluster = shared._shared._cluster
            budgets = [Counter(f"key:k{number}:budget:total", "money", 1_000) for number in range(30)]

            async def spend(budget: Counter, money: int) -> Reservation | None:
                if (reservation := await gateway.reserve(budget, money=money)) is not None:
                    shared.settle(Settlement(reservation, 0, money))
                    await gateway.settled()
                return reservation

            assert await spend(budgets[0], 600)
            dying = next(node for node in nodes if node.port != cluster.address_of(PROCESSES)[1])
            there = [one for one in budgets if cluster.address_of(shared._shared._key(one))[1] == dying.port]
            lost, elsewhere = there[0], next(one for one in budgets[1:] if one not in there)
            assert await spend(lost, 600) and await spend(elsewhere, 600)
            dying.kill()
            meanwhile = await spend(lost, 300)
            assert meanwhile is not None and meanwhile.local
            assert await spend(lost, 101) is not None, "the call before holds nothing any more"
            assert await spend(lost, 1) is None
            assert await spend(elsewhere, 400) is not None and await spend(elsewhere, 1) is None
            dying.start()

            async def knows() -> bool:
                states = (await shared.reserve((lost,), 0, 1))[1].states
                return bool(not shared._behind and states[0].spent == 1_001)

            await until(knows)
            assert await spend(lost, 1) is None and await spend(elsewhere, 1) is None

    with loose_cluster() as nodes:
        asyncio.run(main(nodes))


class LateNode:
    """A process over a cluster of which one node comes back later than the others.

    key: the counters of a subject on that node. teams: those of one on each of the others. late, others: the nodes.
    """

    def __init__(self, nodes: Nodes, gateway: Gateway) -> None:
        shared: Any = gateway.counters
        self.shared, cluster = shared, shared._shared._cluster
        self.late = next(node for node in nodes if node.port != cluster.address_of(PROCESSES)[1])
        self.nodes, self.others = nodes, [node for node in nodes if node is not self.late]

        def at(kind: str, node: RedisProcess) -> tuple[Counter, ...]:
            subjects = (f"{kind}:{number}" for number in range(1_000))
            subject = next(one for one in subjects if cluster.address_of(f"{{{one}}}")[1] == node.port)
            return (
                Counter(f"{subject}:requests", "requests", 1_000),
                Counter(f"{subject}:tokens", "tokens", 100_000),
                Counter(f"{subject}:parallel", "parallel", 1_000),
                Counter(f"{subject}:budget:total", "money", 1_000_000),
            )

        self.key, self.teams = at("key", self.late), [at("team", node) for node in self.others]

    async def reserve(self, team: Sequence[Counter]) -> Reservation:
        """Admits a request of the key and a team."""
        reservation = (await self.shared.reserve((*self.key, *team), 10, 100))[2]
        assert isinstance(reservation, Reservation)
        return reservation

    async def end(self, *reservations: Reservation) -> None:
        for reservation in reservations:
            self.shared.settle(Settlement(reservation, 7, 70))
        await until(lambda: self.shared._settling is None)

    async def counted(self, wanted: Sequence[Counter]) -> list[tuple[int, int]]:
        """Returns what is spent and reserved of these counters, as a process sees it that has nothing of its own."""
        observer = counters(self.others)
        replies = [await observer._decide([counter], 0, 0, "look") for counter in wanted]
        await observer.stop()
        return [(state.spent, state.reserved) for reply in replies for state in reply.states]

    async def counted_of_teams(self) -> list[tuple[int, int]]:
        first, second = [await self.counted(team) for team in self.teams]
        assert first == second
        return first


def test_nodes_that_answer_are_told_once_what_another_one_is_not(tmp_path: Path) -> None:
    """Whoever tells them again tells them what is left, and that is with the subjects of the node that is away."""

    async def main(nodes: Nodes) -> None:
        async with gateways(nodes[0].url, tmp_path, timeout=20.0, kind=RedisClusterCounters) as (gateway,):
            assert await gateway.reserve(Counter("gateway:requests", "requests", 10**6)) is not None
            one, other = LateNode(nodes, gateway), counters(nodes)
            key, team = one.key, one.teams[0]
            for wanted in (key, team):
                assert (await other.reserve(wanted, 0, 0)).admitted
            shared, local = await one.reserve(team), Reservation((*key, *team), 10, 100, local=True)
            one.late.kill()
            for adopt in range(3):
                with pytest.raises(CountersUnavailable) as raised:
                    await other.adopt([(local, 1)], [Past(key[0], 5, 1)] + [Past(team[0], 5, 1)] * (not adopt))
                assert [raised.value.concerns(counter) for counter in (key[0], team[0])] == [True, False]
                assert local.local and [local.is_shared(counter) for counter in (key[0], team[0])] == [False, True]
            assert await one.counted(team) == [(8, 0), (0, 20), (0, 3), (0, 200)]
            with pytest.raises(CountersUnavailable) as raised:
                await other.settle([Settlement(shared, 7, 70)])
            assert [raised.value.concerns(counter) for counter in (key[0], team[0])] == [True, False]
            await other.settle([Settlement(local.part(team), 7, 70)])
            assert await one.counted(team) == [(8, 0), (14, 0), (0, 1), (140, 0)]
            await other.stop()

    with loose_cluster() as nodes:
        asyncio.run(main(nodes))


@pytest.mark.parametrize("is_killed", [False, True], ids=["frozen", "killed"])
def test_what_was_admitted_without_a_cluster_counts_once_on_each_node_as_it_comes_back(
    is_killed: bool, tmp_path: Path
) -> None:
    """All nodes go, two come back, much later the third. Each request has counters on it and on another one."""

    async def main(nodes: Nodes) -> None:
        async with gateways(nodes[0].url, tmp_path, timeout=0.75, kind=RedisClusterCounters) as (gateway,):
            assert await gateway.reserve(Counter("gateway:requests", "requests", 10**6)) is not None
            one = LateNode(nodes, gateway)
            await one.end(*[await one.reserve(team) for team in one.teams])
            assert await one.counted(one.key) == [(2, 0), (14, 0), (0, 0), (140, 0)]
            for node in nodes:
                node.signal(signal.SIGSTOP)
            await gateway.lose()
            settled, ending, staying = [[await one.reserve(team) for team in one.teams] for _ in range(3)]
            assert all(reservation.local for reservation in (*settled, *ending, *staying))
            await one.end(*settled)
            if is_killed:
                one.late.kill()
            for node in one.others:
                node.signal(signal.SIGCONT)
            await until(lambda: all(reservation.leases for reservation in (*ending, *staying)))
            assert await one.counted_of_teams() == [(4, 0), (14, 20), (0, 2), (140, 200)], "at once"
            await one.end(*ending)
            assert await one.counted_of_teams() == [(4, 0), (21, 10), (0, 1), (210, 100)]
            await until(lambda: [outage.return_at for outage in one.shared._outages.open()] == [None])
            if is_killed:
                one.late.start()
            else:
                one.late.signal(signal.SIGCONT)
            await until(lambda: not one.shared._behind and not one.shared.degraded)
            # What a server counted that was killed is lost, but for budgets: a minute begins anew.
            before = 0 if is_killed else 2
            assert await one.counted(one.key) == [(6 + before, 0), (28 + 7 * before, 20), (0, 2), (420, 200)]
            await one.end(*staying)
            assert await one.counted(one.key) == [(6 + before, 0), (42 + 7 * before, 0), (0, 0), (560, 0)]
            assert await one.counted_of_teams() == [(4, 0), (28, 0), (0, 0), (280, 0)]

    with loose_cluster() as nodes:
        asyncio.run(main(nodes))


def probes(gateway: Gateway) -> list[str]:
    """Takes note from now on of each time that it is looked whether a node answers again."""
    notes: list[str] = []
    shared: Any = gateway.counters._shared
    reconnect = shared.reconnect

    async def noting(subject: str) -> None:
        notes.append(subject)
        await reconnect(subject)

    shared.reconnect = noting
    return notes


@pytest.mark.parametrize("is_killed", [False, True], ids=["frozen", "killed"])
def test_a_node_that_is_away_is_left_alone_and_no_other(is_killed: bool, tmp_path: Path) -> None:
    """Two processes share the other nodes as exactly as before, and hear of the outage once, however long it takes."""

    async def main(nodes: Nodes) -> None:
        async with gateways(nodes[0].url, tmp_path, 2, kind=RedisClusterCounters) as running:
            for gateway in running:
                assert await gateway.reserve(Counter("gateway:requests", "requests", 10**6)) is not None
            await until(lambda: all(gateway.counters.processes == 2 for gateway in running))
            one = LateNode(nodes, running[0])
            key, team = replace(one.key[0], limit=20), replace(one.teams[0][0], limit=6)
            looked_for = [probes(gateway) for gateway in running]
            if is_killed:
                one.late.kill()
            else:
                one.late.signal(signal.SIGSTOP)
            for gateway in running:
                while not gateway.counters.degraded:
                    reservation = await gateway.reserve(key, one.teams[0][1])
                    assert reservation is None or reservation.local
                failing: Any = gateway.counters._outages._failing
                assert {outage.subject for outage in failing.values()} == {key.subject}, "the other one answers"
            total, failures = 0, [outage.failures for outage in one.shared._outages.open()]
            while min(map(len, looked_for)) < 8:
                for gateway in running:
                    alone = await gateway.reserve(*one.teams[0][1:3])
                    assert alone is not None and not alone.local
                    gateway.counters.settle(Settlement(alone, 0, 0))
                # A process' share is the half of it.
                total += await running[0].reserve(key, team) is not None
                await asyncio.sleep(0.1)
            assert total == 6 and await one.counted([team]) == [(6, 0)], "what another node counts is exact"
            assert [len(gateway.reasons) for gateway in running] == [1, 1]
            assert [outage.failures for outage in one.shared._outages.open()] == failures, "nobody asks the node"
            narrow = (replace(one.key[2], limit=2), one.teams[0][0], one.teams[0][2])
            held = await running[0].reserve(*narrow)
            assert held is not None and await running[0].reserve(*narrow) is None, "a share of one"
            assert await one.counted(narrow[1:]) == [(7, 0), (0, 1)], "a refusal takes nothing elsewhere"
            running[0].counters.settle(Settlement(held, 0, 0))
            await running[0].settled()
            assert await one.counted(narrow[1:]) == [(7, 0), (0, 0)]
            if is_killed:
                one.late.start()
            else:
                one.late.signal(signal.SIGCONT)
            await until(lambda: not any(gateway.counters.degraded for gateway in running))
            assert [gateway.reasons[1:] for gateway in running] == [[""], [""]]
            reservation = await running[0].reserve(key)
            assert reservation is not None and not reservation.local

    with loose_cluster() as nodes:
        asyncio.run(main(nodes))


def test_what_a_node_begins_too_late_does_nothing(nodes: Nodes) -> None:
    """Each has a clock of its own, which the first answer has told."""

    async def main() -> None:
        shared, id = counters(nodes), secrets.token_hex(6)
        wanted = [limit("key", 100, id), Counter(f"team:{id}:budget:total", "money", 1_000)]
        reserved = await shared.reserve(wanted, 0, 0, 20.0)
        assert reserved.admitted
        # Its caller has gone a second ago.
        with pytest.raises(CountersUnavailable, match="too late"):
            await shared.reserve(wanted, 0, 100, -1.0)
        states = (await shared.reserve(wanted, 0, 0, 20.0)).states
        assert [(one.spent, one.reserved) for one in states] == [(2, 0), (0, 0)]
        await shared.stop()

    asyncio.run(main())


def slot_of(node: RedisProcess, key: str) -> str:
    return node.command("CLUSTER", "KEYSLOT", key).decode().strip(":\r\n")


def id_of(node: RedisProcess) -> str:
    return node.command("CLUSTER", "MYID").decode().split("\r\n")[1]


def test_a_slot_on_its_way_is_followed_and_then_learned(nodes: Nodes) -> None:
    """While it moves the old node sends to the new one for a single command, and afterwards for all."""

    async def main() -> None:
        cluster, key = RedisCluster(nodes[0].url, 20.0), secrets.token_hex(6)
        with pytest.raises(RedisError, match="no node of the cluster has slot"):
            cluster._address(0)
        assert cluster.address_of(key) is None, "nothing is known yet"
        await cluster.execute(key, "EXISTS", key)
        slot, address = slot_of(nodes[0], key), cluster.address_of(key)
        old = next(node for node in nodes if node.port == address[1])  # type: ignore[index]
        new = next(node for node in nodes if node is not old)
        new.command("CLUSTER", "SETSLOT", slot, "IMPORTING", id_of(old))
        old.command("CLUSTER", "SETSLOT", slot, "MIGRATING", id_of(new))
        try:
            # The old node has no such key, so it is asked for at the new one, where it is then set.
            assert await cluster.execute(key, "SET", key, "there")
            assert await cluster.execute(key, "GET", key) == b"there"
            assert b"MOVED" in new.command("GET", key), "only who asks gets it"
            assert cluster.address_of(key) == address, "the slot has not moved yet"
            for node in (new, old, *nodes):
                node.command("CLUSTER", "SETSLOT", slot, "NODE", id_of(new))
            assert await cluster.execute(key, "GET", key) == b"there"
            assert await cluster.execute(key, "GET", key) == b"there"
            await until(lambda: cluster.address_of(key)[1] == new.port)  # type: ignore[index]
            # Nodes that have not agreed yet send from one to the other.
            await cluster.execute(key, "DEL", key)
            new.command("CLUSTER", "SETSLOT", slot, "NODE", id_of(old))
            with pytest.raises(RedisError, match=f"slot {slot} moves from node to node"):
                await cluster.execute(key, "GET", key)
        finally:
            for node in nodes:
                node.command("CLUSTER", "SETSLOT", slot, "NODE", id_of(old))
            await cluster.stop()

    asyncio.run(main())


def test_all_nodes_are_learned_anew_after_one_has_failed() -> None:
    async def main(nodes: Nodes) -> None:
        cluster = RedisCluster(nodes[0].url, 5.0)
        keys = [b"%d" % number for number in range(30)]
        commands = [("SET", key, key) for key in keys]
        assert await cluster.execute_all(keys, commands) == [True] * 30
        # The one that the URL names is no longer there; the others know of all.
        nodes[0].kill()
        with pytest.raises((RedisError, OSError)):
            await cluster.execute_all(keys, commands)
        there = next(key for key in keys if cluster.address_of(key.decode())[1] != nodes[0].port)  # type: ignore[index]
        assert await cluster.execute(there, "GET", there) == there
        for node in nodes[1:]:
            node.kill()
        await cluster.reconnect(there.decode())
        with pytest.raises((RedisError, OSError)):
            await cluster.execute(there, "GET", there)
        await cluster.stop()

    with redis_cluster() as nodes:
        for node in nodes:
            node.command("CONFIG", "SET", "cluster-require-full-coverage", "no")
        asyncio.run(main(nodes))


def test_a_server_that_is_no_cluster_is_an_error() -> None:
    async def main(url: str) -> None:
        cluster = RedisCluster(url, 5.0)
        with pytest.raises(RedisError, match="cluster support disabled"):
            await cluster.execute("key", "GET", "key")
        await cluster.stop()

    with redis_process() as server:
        asyncio.run(main(server.url))


def test_who_has_what_is_learned_beside_the_commands() -> None:
    """A node that does not say it keeps no command from the others."""

    async def main(nodes: Nodes) -> None:
        cluster = RedisCluster(nodes[0].url, 20.0)
        await cluster.execute("key", "GET", "key")
        first = next(node for node in nodes if node.port == cluster._masters[0][1])
        elsewhere = next(key for key in map(str, range(99)) if cluster.address_of(key) != cluster._masters[0])
        first.signal(signal.SIGSTOP)
        try:
            cluster._stale = True
            await cluster.execute(elsewhere, "GET", elsewhere)
            learning = cluster._learning
            assert learning is not None and not learning.done()
        finally:
            first.signal(signal.SIGCONT)
        await asyncio.wait_for(learning, WAIT_SECONDS)
        assert not cluster._stale
        await cluster.stop()

    with loose_cluster() as nodes:
        asyncio.run(main(nodes))


def test_a_database_number_is_refused() -> None:
    with pytest.raises(ValueError, match="no numbered databases"):
        RedisCluster("redis://127.0.0.1:6379/3", 1.0)


def test_the_cache_in_a_cluster(nodes: Nodes) -> None:
    async def main() -> None:
        troubles: list[Exception] = []
        cache = RedisCache(nodes[1].url, troubles.append, cluster=True)
        entries = [(secrets.token_bytes(16), b"%d" % number) for number in range(50)]
        await cache.put(entries, 60)
        keys = [key for key, _ in entries]
        assert await cache.get([*keys, b"nothing"]) == [*(value for _, value in entries), None] and not troubles
        await cache.stop()

    asyncio.run(main())


def test_a_gateway_over_a_cluster(nodes: Nodes) -> None:
    key = key_of(f"k{secrets.token_hex(4)}", rpm_limit=3, max_budget=1000.0, budget_duration="1d")
    limits = LimitSettings(timeout=20.0)
    with limited(key, redis_url=nodes[0].url, redis_cluster=True, limits=limits) as (scripted, caller):
        assert caller(key.key_id).statuses(4) == [200, 200, 200, 429]
        assert "'ready'" in str(scripted.gateway.ask("GET", "/health/ready", headers={}).body)
