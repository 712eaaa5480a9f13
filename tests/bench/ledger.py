"""What the ledger costs: `make bench-ledger`, or with `ARGS="--rows 100000"` a quick one.

1. Recording a call: microseconds of CPU on the request's path, and off it, with the rows as they are written.
2. Rows a second that a process sustains, on SQLite and on PostgreSQL.
3. Five million rows on both: a day is written as the gateway writes, and copied to the 29 days before. Each report and
   page, while 200 calls a second are written: milliseconds, the slowest of several runs. The limit is 300.
4. 1 and 2 once more in that table, with request ids of the gateway's and with random ones of callers'.

`--database URL` takes a database and keeps it: an empty one is filled, a filled one is measured at once, and has the
rows that the measurement wrote afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import random
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
from msgspec.structs import replace
from sqlalchemy import make_url, select

from gateway.auth.credentials import Credential
from gateway.auth.principal import Principal
from gateway.ledger import litellm_reports, report_query, reports
from gateway.ledger.entry import LedgerEntry, Tokens, timestamp
from gateway.ledger.report_query import Names
from gateway.ledger.reports import Report
from gateway.ledger.sentences import sentence
from gateway.ledger.sums import EndUserNames, sums_of
from gateway.ledger.writer import Ledger, address_of, stored_row
from gateway.observability.lifecycle import new_row_id
from gateway.observability.record import Attempt, RequestRecord, TimedAttempt
from gateway.server.worker import configure_interpreter
from gateway.settings.schema import LedgerSettings
from gateway.store import ledger as ledger_store
from gateway.store import ledger_pages
from gateway.store.database import Database
from gateway.store.ledger import MICROSECONDS
from gateway.store.ledger_pages import Position
from gateway.store.ledger_sums import DAY, SUMMED, SumKey
from gateway.store.tables import LATENCY_COLUMNS, LEDGER, LEDGER_SUMS
from gateway.virtual_keys import VirtualKey

POSTGRESQL = "postgresql://postgres@127.0.0.1:5432/postgres"
DAYS, KEYS, TEAMS, END_USERS = 30, 50, 8, 500
MODELS = ("command-a-03-2025", "command-r7b-12-2024", "command-a-reasoning-08-2025")
GROUP = 5000
RUNS, LIVE_ROWS, LIMIT = 5, 200, 300.0


GROUP_OF_CALLS = 500


def load() -> str:
    """Says how busy the machine is: other work on it makes everything here slower."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"


class Quiet:
    """Counts the rows that were written."""

    written = 0

    def on_rows(self, result: str, count: int) -> None:
        self.written += count if result == "written" else 0

    def on_bodies(self, result: str, count: int) -> None:
        pass

    def message(self, text: str) -> None:
        print("  ledger says:", text)


def principal(number: int) -> Principal:
    key = VirtualKey(key_id=f"key_{number:04d}", digest=f"{number:064x}", key_alias=f"key-{number}")
    return Principal(f"key-{number}", f"virtual:{number}", False, Credential(), key)


def record(caller: Principal, now: float) -> RequestRecord:
    return RequestRecord(
        f"req_{uuid.uuid4().hex}",
        "POST",
        "/v1/chat/completions",
        now - 0.8,
        principal=caller,
        operation="chat",
        model=MODELS[0],
        requested_model=MODELS[0],
        cohere_method="v2.chat",
        status=200,
        outcome="ok",
        upstream_began=now - 0.79,
        upstream_ended=now,
        first_byte=now - 0.5,
        prompt_tokens=51,
        completion_tokens=13,
        billed={"input_tokens": 51, "output_tokens": 13},
        cost_nanodollars=257_500,
        price_version="2026-11-01.abcdef",
        attempts=[TimedAttempt(1, 200, "trace", 790.0)],
        end_user="ada",
        address="127.0.0.1",
        id=new_row_id(),
    )


async def recording(url: str, callers_ids: bool = False, groups: int = 40, seconds: float = 6.0) -> dict[str, float]:
    """Returns microseconds of CPU for a row, by where they are spent, and the rows a second that were written.

    callers_ids: request ids are random, as callers choose them; the gateway's own begin with the time.

    `path_us` in the requests' thread, `off_path_us` in the ledger's threads, of the cheapest group and of the usual
    one: other work on a machine makes each instruction dearer. `server_us` in PostgreSQL's process. They are measured
    while groups of rows are written one after the other; the rate, while there are always rows to write.
    """
    observer = Quiet()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(LedgerSettings(spool=folder, flush_seconds=0.01, days=0), url, observer)
        ledger.start()
        row_count = count = 0
        path = 0.0
        templates = [record(principal(number), time.monotonic()) for number in range(KEYS)]

        def some(number: int) -> list[RequestRecord]:
            return [
                replace(
                    templates[one % KEYS],
                    id=new_row_id(),
                    request_id=str(uuid.uuid4()) if callers_ids else f"req_{new_row_id()}",
                )
                for one in range(number)
            ]

        async def write_group(number: int) -> None:
            nonlocal path, count
            records, now = some(number), time.monotonic()
            before = time.thread_time()
            for one in records:
                ledger.record(one, now)
            path += time.thread_time() - before
            count += number
            while observer.written < count:
                await asyncio.sleep(0.002)

        await write_group(GROUP_OF_CALLS)  # opens the database
        path, row_count, server = 0.0, count, await server_cpu(url)
        off_path = []
        for _ in range(groups):
            cpu, own = time.process_time(), time.thread_time()
            await write_group(GROUP_OF_CALLS)
            off_path.append((time.process_time() - cpu) - (time.thread_time() - own))
        row_count, server = count - row_count, await server_cpu(url) - server
        began, before = time.monotonic(), count
        while time.monotonic() - began < seconds:
            now = time.monotonic()
            for one in some(200):
                ledger.record(one, now)
            count += 200
            while count - observer.written > 15_000:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0)
        await ledger.stop()
        wall = time.monotonic() - began
    return {
        "path_us": path / row_count * 1e6,
        "off_path_us": min(off_path) / GROUP_OF_CALLS * 1e6,
        "usual_off_path_us": sorted(off_path)[groups // 2] / GROUP_OF_CALLS * 1e6,
        "server_us": server / row_count * 1e6,
        "rows_per_second": (observer.written - before) / wall,
    }


async def server_cpu(url: str) -> float:
    """Returns the seconds of CPU of PostgreSQL's processes for this database, if they are on this machine."""
    if not url.startswith("postgresql"):
        return 0.0
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await connection.close()
    stats = [Path(f"/proc/{row['pid']}/stat") for row in rows]
    fields = [path.read_text().rpartition(")")[2].split() for path in stats if path.exists()]
    return sum(int(one[11]) + int(one[12]) for one in fields) / os.sysconf("SC_CLK_TCK")


# --- five million rows ----------------------------------------------------------------------------------------


def entries(count: int, end: float) -> Iterator[LedgerEntry]:
    """Rows over the day before `end`, in the order of time."""
    chance = random.Random(1)
    step = DAY / count
    for number in range(count):
        at = int((end - DAY + number * step) * MICROSECONDS)
        key = min(int(chance.expovariate(0.1)), KEYS - 1)
        failed = chance.random() < 0.05
        tokens = Tokens(chance.randrange(4000), chance.randrange(800))
        entry = LedgerEntry(
            id=f"{at // 1000:012x}{chance.getrandbits(48):012x}",
            at=at,
            time=timestamp(at),
            request_id=f"req_{chance.getrandbits(96):024x}",
            key_id=f"key_{key:04d}",
            key_alias=f"key-{key}",
            team_id=f"team_{key % TEAMS}",
            end_user=f"user-{chance.randrange(END_USERS)}" if chance.random() < 0.5 else None,
            address="127.0.0.1",
            operation="chat",
            method="v2.chat",
            model_asked=MODELS[key % 3],
            model=MODELS[key % 3],
            status=429 if failed else 200,
            outcome="error" if failed else "ok",
            fault="provider_rate_limit" if failed else None,
            error="rate_limit_exceeded" if failed else None,
            units={} if failed else {"input_tokens": tokens.input, "output_tokens": tokens.output},
            tokens=Tokens() if failed else tokens,
            cost_nanodollars=0 if failed else tokens.input * 2500 + tokens.output * 10_000,
            price_version="2026-11-01.abcdef",
            attempts=(Attempt(1, 429 if failed else 200, "trace", 700.0),),
            total_ms=chance.expovariate(1 / 800),
            upstream_ms=700.0,
        )
        yield replace(entry, sentence=sentence(entry))


async def write(database: Database, group: list[LedgerEntry], names: EndUserNames) -> None:
    rows = [stored_row(one) for one in group]
    await database.write(lambda connection: ledger_store.insert(connection, rows, lambda _: sums_of(group, names)))


async def fill(database: Database, count: int, end: float) -> float:
    """Writes one day through the store's own insert, and copies it to the days before. Returns its rows a second."""
    names, began = EndUserNames(), time.monotonic()
    group: list[LedgerEntry] = []
    of_a_day = count // DAYS
    for number, entry in enumerate(entries(of_a_day, end), 1):
        group.append(entry)
        if len(group) == GROUP or number == of_a_day:
            await write(database, group, names)
            group = []
    seconds = time.monotonic() - began
    for day in range(1, DAYS):
        await database.write(functools.partial(copy_day, end=int(end), day=day))
    print(f"  {count:,} rows after {time.monotonic() - began:.0f} s", flush=True)
    await database.write(lambda connection: connection.exec_driver_sql("ANALYZE").close())
    return of_a_day / seconds


def copy_day(connection: Any, end: int, day: int) -> None:
    """Copies the rows and sums of the last day to a day before it."""
    first = (end - DAY) * MICROSECONDS
    ledger_store._prepare_days(connection, LEDGER, range(end // DAY - day - 2, end // DAY - day + 1))
    changed = ("at", "id", "request_id", "segment")
    others = ", ".join(column.name for column in LEDGER.columns if column.name not in changed)
    shift, segment = day * DAY * MICROSECONDS, "0"
    if connection.dialect.name == "sqlite":
        rows = ledger_store.SEGMENT_ROWS
        segment = f"{ledger_store._segment(connection)} + row_number() OVER (ORDER BY at) / {rows}"
    connection.exec_driver_sql(
        f"INSERT INTO ledger ({', '.join(changed)}, {others}) "  # noqa: S608
        f"SELECT at - {shift}, id || '{day}', request_id || '.{day}', {segment}, {others} "
        f"FROM ledger WHERE at >= {first}"
    )
    columns = [column.name for column in LEDGER_SUMS.columns if column.name not in ("scope", "seconds", "start")]
    added = ", ".join(f"{name} = ledger_sums.{name} + excluded.{name}" for name in (*SUMMED, *LATENCY_COLUMNS))
    keys = ", ".join(SumKey.__struct_fields__)
    connection.exec_driver_sql(
        f"INSERT INTO ledger_sums (scope, seconds, start, {', '.join(columns)}) "  # noqa: S608
        f"SELECT scope, seconds, start - {day * DAY}, {', '.join(columns)} FROM ledger_sums "
        f"WHERE start >= {(end - DAY) // DAY * DAY} AND start <= {end} ON CONFLICT ({keys}) DO UPDATE SET {added}"
    )


OLDEST, NEWEST = "the id of the oldest request", "the id of the newest request"
"""Stand for ids that the table has."""

AN_HOUR_AGO = Position(int((time.time() - 3600) * MICROSECONDS), "")

QUESTIONS: tuple[tuple[str, Any, Mapping[str, str]], ...] = (
    ("audit, first page", reports.audit, {"kind": "call"}),
    ("audit, a key", reports.audit, {"kind": "call", "key": "key_0003"}),
    ("audit, a rare key", reports.audit, {"kind": "call", "key": "key_0049"}),
    ("audit, a team and a model", reports.audit, {"team": "team_1", "model": MODELS[1]}),
    ("audit, the oldest request", reports.audit, {"request_id": OLDEST}),
    ("audit, the newest request", reports.audit, {"request_id": NEWEST}),
    ("audit, a request that there is not", reports.audit, {"request_id": "req_nowhere"}),
    ("audit, a tag that there is not", reports.audit, {"tag": "nowhere"}),
    ("audit, rows since an hour ago", reports.audit_newer, {"cursor": report_query.cursor_text(AN_HOUR_AGO) or ""}),
    ("audit, an end user", reports.audit, {"end_user": "user-7"}),
    ("audit, a fault", reports.audit, {"fault": "provider_rate_limit"}),
    ("audit, a fault that there is not", reports.audit, {"fault": "gateway_internal"}),
    ("audit, a status", reports.audit, {"status": "429"}),
    ("audit, dear calls", reports.audit, {"min_cost": "1"}),
    ("audit, slow calls", reports.audit, {"slower_than": "9000"}),
    ("audit, a text", reports.audit, {"text": "nowhere to be seen"}),
    ("audit, three weeks ago", reports.audit, {"until": "21d", "limit": "500"}),
    ("usage by key, 30 days", reports.usage, {"by": "key"}),
    ("usage by model, 30 days", reports.usage, {"by": "model"}),
    ("usage by team and day", reports.usage, {"by": "team,day"}),
    ("usage by end user", reports.usage, {"by": "end_user"}),
    ("usage by hour, 30 days", reports.usage, {"by": "hour"}),
    ("usage by key, with latency", reports.usage, {"by": "key", "latency": "true"}),
    ("usage by model, with latency", reports.usage, {"by": "model", "latency": "true"}),
    ("usage by day, with latency", reports.usage, {"by": "day", "latency": "true"}),
    ("usage of a key by day, with latency", reports.usage, {"by": "day", "key": "key_0003", "latency": "true"}),
    ("usage of a key by hour", reports.usage, {"by": "hour", "key": "key_0003"}),
    ("/global/spend", litellm_reports.global_spend, {}),
    ("/global/spend/keys", litellm_reports.global_spend_keys, {}),
    ("/global/spend/teams", litellm_reports.global_spend_teams, {}),
    ("/global/spend/report", litellm_reports.global_spend_report, {}),
    ("/global/activity/model", litellm_reports.global_activity_models, {}),
    ("/user/daily/activity", litellm_reports.daily_activity, {}),
    ("/spend/logs/v2", litellm_reports.spend_logs_page, {"page": "20", "page_size": "50"}),
)


async def no_changes(*_: Any) -> list[Any]:
    return []


async def ask(url: str, live: Database) -> None:
    """Prints the milliseconds of each question, while LIVE_ROWS rows a second are written: fastest, middle, slowest.

    What other work on the machine adds to them is in the slowest, and hardly in the fastest.
    """
    stopping = asyncio.Event()
    reader = Database(url, 60, 2)
    orders = {OLDEST: LEDGER.c.at, NEWEST: LEDGER.c.at.desc()}
    ids = {
        name: await reader.read(lambda c, o=order: c.scalar(select(LEDGER.c.request_id).order_by(o).limit(1)))  # type: ignore[misc]
        for name, order in orders.items()
    }

    async def write_on() -> None:
        names = EndUserNames()
        while not stopping.is_set():
            new = entries(LIVE_ROWS // 2, time.time())
            await write(live, [replace_now(entry, number) for number, entry in enumerate(new)], names)
            await asyncio.sleep(0.5)

    writing = asyncio.create_task(write_on())
    for name, respond, parameters in QUESTIONS:
        times, query = [], {parameter: ids.get(value, value) for parameter, value in parameters.items()}
        for _ in range(RUNS):
            began = time.perf_counter()
            await respond(Report(reader, no_changes, Names(), query, time.time()))
            times.append((time.perf_counter() - began) * 1000)
        times.sort()
        verdict = "" if times[-1] < LIMIT else "  TOO SLOW" if times[0] >= LIMIT else "  (slow once)"
        print(f"  {name:36} {times[0]:7.1f} {times[RUNS // 2]:7.1f} {times[-1]:7.1f} ms{verdict}; {load()}", flush=True)
    stopping.set()
    await writing
    await reader.close()


def replace_now(entry: LedgerEntry, number: int) -> LedgerEntry:
    at = int(time.time() * 1_000_000) + number
    return replace(entry, at=at, id=new_row_id(), time=timestamp(at))


async def print_recording(where: str, url: str, callers_ids: bool = False) -> None:
    cost = await recording(url, callers_ids)
    print(
        f"  {where}: CPU of a row: {cost['path_us']:.1f} us on the path, {cost['off_path_us']:.1f} us "
        f"(usually {cost['usual_off_path_us']:.1f}) off it"
        + (f", {cost['server_us']:.1f} us in PostgreSQL" if cost["server_us"] else "")
        + f"; {cost['rows_per_second']:,.0f} rows/s sustained; {load()}",
        flush=True,
    )


async def measure(kind: str, url: str, empty_url: str, count: int) -> None:
    """empty_url: of another database, for the rows of the first two questions; without it they are left out."""
    print(f"\n{kind}", flush=True)
    ledger_url, _ = address_of(url, "")
    database = Database(ledger_url, 600, 1)
    await database.open()
    if empty_url:
        await print_recording("an empty table", empty_url)
    if await database.read(ledger_pages.oldest) is None:
        print(f"  filled: {await fill(database, count, time.time()):,.0f} rows/s", flush=True)
    await ask(ledger_url, database)
    await database.close()
    await print_recording("the filled table", url)
    await print_recording("the same, with random request ids", url, callers_ids=True)


async def main(arguments: argparse.Namespace) -> None:
    configure_interpreter()  # as a worker is
    if arguments.database:
        await measure(make_url(arguments.database).get_backend_name(), arguments.database, "", arguments.rows)
        return
    if arguments.only in ("", "sqlite"):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            url = f"sqlite:///{folder}/bench.sqlite3"
            await measure("SQLite", url, f"sqlite:///{folder}/recording.sqlite3", arguments.rows)
            size = sum(path.stat().st_size for path in Path(folder).iterdir())
            print(f"  {size / 2**30:.2f} GiB on the disk")
    if arguments.only in ("", "postgresql"):
        names = [f"bench_{uuid.uuid4().hex[:8]}" for _ in range(2)]
        urls = [make_url(POSTGRESQL).set(database=name).render_as_string(hide_password=False) for name in names]
        connection = await asyncpg.connect(POSTGRESQL)
        for name in names:
            await connection.execute(f"CREATE DATABASE {name}")
        try:
            await measure("PostgreSQL", urls[0], urls[1], arguments.rows)
            size = await connection.fetchval("SELECT pg_database_size($1)", names[0])
            print(f"  {size / 2**30:.2f} GiB on the disk")
        finally:
            for name in names:
                await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
            await connection.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--only", choices=["sqlite", "postgresql"], default="")
    parser.add_argument("--database", default="", help="the URL of a database to use, and to keep: filled if empty")
    parser.add_argument("--folder", help="where the SQLite file is made")
    asyncio.run(main(parser.parse_args()))
