"""THE TABLES, as SQLAlchemy Core describes them. The files in `migrations/` create them; a test compares the two.

JSON is stored as the bytes in which it came: nothing here reads it, so nothing here can change it.
"""

import hashlib
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    or_,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

MAX_NAME_LENGTH = 255


class Name(TypeDecorator[str]):
    """A text that callers may have chosen, such as an id in a path, in a form that every database can hold.

    PostgreSQL takes neither NUL nor half a surrogate pair, and no long text in an index. Such a name is replaced by
    another one, always the same, so that a lookup finds nothing and does not fail.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        # Nearly every name is such.
        if value is None or (len(value) <= MAX_NAME_LENGTH and value.isascii() and "\0" not in value):
            return value
        encoded = value.replace("\0", "\ufffd").encode("utf-8", "replace")
        return encoded.decode() if len(value) <= MAX_NAME_LENGTH else hashlib.sha256(encoded).hexdigest()


# The names by which migrations refer to constraints and indexes, the same in both databases.
METADATA = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

RESPONSES = Table(
    "responses",
    METADATA,
    Column("id", Name, primary_key=True),
    Column("owner", Name, nullable=False),
    Column("status", Name, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, index=True),
    Column("model", Name, nullable=False),
    # No foreign keys: the response that this one continued, or its conversation, may be deleted before it.
    Column("previous_id", Name),
    Column("conversation_id", Name),
    Column("background", Boolean, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("items", LargeBinary, nullable=False),
    Column("output", LargeBinary, nullable=False),
    # The part that the ids of its output items share: callers refer to an item without naming its response.
    Column("answer_id", Name, index=True),
    # What it counts for its owner, in bytes (`usage.py`); its events are counted when it ends.
    Column("size", BigInteger, nullable=False, server_default="0"),
)

# A row for each response that a process works on. Apart from the responses, because a heartbeat should not touch
# rows of many kilobytes, and interrupted ones are found in a table that is nearly empty.
RUNS = Table(
    "runs",
    METADATA,
    Column("response_id", Name, ForeignKey(RESPONSES.c.id, ondelete="CASCADE"), primary_key=True),
    Column("lease_until", Double, nullable=False),
    Column("cancel", Boolean, nullable=False),
    # The ledger's row of the call, for the case that its process does not live to write it.
    Column("ledger_row", LargeBinary),
)

# The ledger's rows of responses in the background that have ended, until the ledger has them: put here in the
# transaction that ends the response, so that no process can die between the two (`ledger_outbox.py`).
LEDGER_OUTBOX = Table(
    "ledger_outbox",
    METADATA,
    Column("response_id", Name, primary_key=True),
    # When another process takes over from the one that ended the response, by the database's clock.
    Column("due", Double, nullable=False, index=True),
    # Whoever worked on the response may not replace the row any more.
    Column("final", Boolean, nullable=False),
    Column("row", LargeBinary, nullable=False),
)

EVENTS = Table(
    "events",
    METADATA,
    Column("response_id", Name, ForeignKey(RESPONSES.c.id, ondelete="CASCADE"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),
)

CONVERSATIONS = Table(
    "conversations",
    METADATA,
    Column("id", Name, primary_key=True),
    Column("owner", Name, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, index=True),
    Column("metadata", LargeBinary, nullable=False),
    # Of the next item. Positions are not used twice, so that a page goes on where the last one ended.
    Column("next_position", BigInteger, nullable=False),
    # What it counts for its owner, in bytes, its items included.
    Column("size", BigInteger, nullable=False, server_default="0"),
)

CONVERSATION_ITEMS = Table(
    "conversation_items",
    METADATA,
    Column("conversation_id", Name, ForeignKey(CONVERSATIONS.c.id, ondelete="CASCADE"), primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    # Callers refer to an item without naming its conversation.
    Column("id", Name, nullable=False, index=True),
    Column("body", LargeBinary, nullable=False),
    UniqueConstraint("conversation_id", "id"),
)

# The bytes that each owner stores: a sum over all rows would take longer than a request.
STORAGE_USAGE = Table(
    "storage_usage",
    METADATA,
    Column("owner", Name, primary_key=True),
    Column("bytes", BigInteger, nullable=False),
)

# Keys, teams and end users: what queries ask for in columns, all of it in `body` (`gateway/virtual_keys.py`).
# A deleted row stays, without alias and digests, so that others learn of it and reports know its name.
KEYS = Table(
    "virtual_keys",
    METADATA,
    Column("id", Name, primary_key=True),
    Column("alias", Name, unique=True),
    Column("team_id", Name, index=True),
    Column("user_id", Name, index=True),
    Column("blocked", Boolean, nullable=False),
    Column("expires", Double),
    Column("created_at", Double, nullable=False),
    Column("deleted_at", Double),
    Column("revision", BigInteger, nullable=False, index=True),
    Column("body", LargeBinary, nullable=False),
)

# The digests by which a key may be presented: its own, and for a time those before its rotation.
KEY_DIGESTS = Table(
    "key_digests",
    METADATA,
    Column("digest", Name, primary_key=True),
    Column("key_id", Name, ForeignKey(KEYS.c.id, ondelete="CASCADE"), nullable=False, index=True),
)


def _rights_table(name: str) -> Table:
    """Returns a table of records with rights, which are JSON beside what they are looked for by."""
    return Table(
        name,
        METADATA,
        Column("id", Name, primary_key=True),
        # Unlike a key's it is not unique, and names a team or an end user where no other has it.
        Column("alias", Name),
        Column("blocked", Boolean, nullable=False),
        Column("created_at", Double, nullable=False),
        Column("deleted_at", Double),
        Column("revision", BigInteger, nullable=False, index=True),
        Column("body", LargeBinary, nullable=False),
    )


TEAMS = _rights_table("teams")
END_USERS = _rights_table("end_users")

# The revision of the three tables above: a row, which every change of them locks.
KEY_REVISION = Table(
    "key_revision",
    METADATA,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("value", BigInteger, nullable=False),
)

# Sessions of the console that were signed out, until they would have ended by themselves. They have revisions of the
# directory, so that every process hears of them as it hears of keys.
ENDED_SESSIONS = Table(
    "ended_sessions",
    METADATA,
    Column("id", Name, primary_key=True),
    Column("revision", BigInteger, nullable=False, index=True),
    Column("ends_at", Double, nullable=False),
)

# Who changed what, written in the transaction of the change. Bodies are records as JSON, without digests.
KEY_CHANGES = Table(
    "key_changes",
    METADATA,
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("time", Double, nullable=False, index=True),
    Column("author", Name, nullable=False),
    Column("address", Name, nullable=False),
    Column("action", Name, nullable=False),
    Column("kind", Name, nullable=False),
    Column("object_id", Name, nullable=False, index=True),
    Column("before", LargeBinary),
    Column("after", LargeBinary),
)

# The ledger: a row for each call (`ledger.py`). No foreign keys: a row outlives the key that made it. Texts that
# callers chose are plain here, because they are made printable and short before they come here.
LEDGER = Table(
    "ledger",
    METADATA,
    Column("at", BigInteger, primary_key=True, autoincrement=False),
    Column("id", Text, primary_key=True),
    Column("request_id", Text, nullable=False),
    Column("key_id", Text),
    Column("team_id", Text),
    Column("user_id", Text),
    Column("end_user", Text),
    Column("method", Text),
    Column("model", Text),
    Column("status", BigInteger, nullable=False),
    Column("fault", Text),
    Column("cost", BigInteger),
    Column("total_ms", Double, nullable=False),
    Column("sentence", Text, nullable=False),
    Column("entry", LargeBinary, nullable=False),
    Column("labels", Text),
    Column("segment", Integer, nullable=False, server_default="0"),
    postgresql_partition_by="RANGE (at)",
)
# By request id, of all rows: SQLite uses no partial index for a column that is never null. SQLite's is one of segments
# (`ledger.SEGMENT_ROWS`); PostgreSQL, whose partitions are small, leaves the segment 0.
Index("ix_ledger_request_id", LEDGER.c.request_id, LEDGER.c.at).ddl_if(dialect="postgresql")
Index("ix_ledger_segment", LEDGER.c.segment, LEDGER.c.request_id, LEDGER.c.at).ddl_if(dialect="sqlite")
for _name in ("key_id", "team_id", "end_user", "fault"):
    _present = LEDGER.c[_name].is_not(None)
    Index(
        f"ix_ledger_{_name}",
        LEDGER.c[_name],
        LEDGER.c.at,
        sqlite_where=_present,
        postgresql_where=_present,
    )

# The bodies of those calls whose bodies are stored, sealed (`state/encrypted_content.py`).
LEDGER_BODIES = Table(
    "ledger_bodies",
    METADATA,
    Column("at", BigInteger, primary_key=True, autoincrement=False),
    Column("id", Text, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    postgresql_partition_by="RANGE (at)",
)

# Each bucket is a column: other bounds are a migration, and what was counted before stays as it was.
LATENCY_BOUNDS = (20, 50, 100, 200, 350, 600, 1000, 1700, 3000, 5000, 8500, 15_000, 25_000, 40_000, 60_000, 120_000)
"""Milliseconds at which a bucket of latencies ends, the bound included; a last bucket has what took longer."""

LATENCY_COLUMNS = tuple(
    f"{name}_{bucket}" for name in ("total_ms", "ttft_ms") for bucket in range(len(LATENCY_BOUNDS) + 1)
)
"""How many calls took so long as a whole, and to the first token. Not all sums count that (`ledger/sums.py`)."""

# What the reports read: sums of the rows by hour and by day (3600 or 86400 seconds).
LEDGER_SUMS = Table(
    "ledger_sums",
    METADATA,
    Column("scope", BigInteger, primary_key=True, autoincrement=False),
    Column("seconds", BigInteger, primary_key=True, autoincrement=False),
    Column("start", BigInteger, primary_key=True, autoincrement=False),
    *(
        Column(name, Text, primary_key=True)
        for name in ("key_id", "team_id", "user_id", "end_user", "model", "method", "fault")
    ),
    *(Column(name, BigInteger, nullable=False) for name in ("calls", "failures", "unpriced_calls", "cost")),
    Column("total_ms", Double, nullable=False),
    *(
        Column(name, BigInteger, nullable=False)
        for name in ("input", "output", "cached", "thinking", "input_tokens", "output_tokens")
    ),
    *(
        Column(name, Double, nullable=False)
        for name in ("search_units", "images", "image_tokens", "pages", "classifications", "audio_seconds")
    ),
    *(Column(name, Integer, nullable=False, server_default="0") for name in LATENCY_COLUMNS),
    sqlite_with_rowid=False,  # reports read ranges of the key
)

# Rows that prove that the disk takes bytes.
PROBES = Table(
    "storage_probes",
    METADATA,
    Column("id", Name, primary_key=True),
    Column("written_at", Double, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

# Cohere's jobs whose cost has been counted (`billed_jobs.py`).
BILLED_JOBS = Table(
    "billed_jobs",
    METADATA,
    Column("id", Name, primary_key=True),
    Column("billed_at", Double, nullable=False),
)

# What limits and budgets have counted: an amount for each counter, kind and slot of time (`sql_counters.py`).
COUNTER_SLOTS = Table(
    "counter_slots",
    METADATA,
    Column("counter", Name, primary_key=True),
    Column("kind", SmallInteger, primary_key=True, autoincrement=False),
    Column("slot", BigInteger, primary_key=True, autoincrement=False),
    Column("amount", BigInteger, nullable=False),
)

# Written by Alembic. Described here so that the version can be read without importing Alembic, which takes most of
# a second.
VERSION = Table("alembic_version", MetaData(), Column("version_num", Text, primary_key=True))

HEAD = "0016"
"""The version that this code needs: the newest file in `migrations/versions`."""


def not_expired(expires_at: ColumnElement[Any], now: float | BindParameter[Any]) -> ColumnElement[bool]:
    """Returns the condition that a row has not expired. Each query has it, because expired rows are deleted later."""
    # Whole seconds, as they are stored.
    return or_(expires_at.is_(None), expires_at > (int(now) if isinstance(now, float | int) else now))


class database_time(FunctionElement[float]):
    """The database's own clock in Unix seconds, the same for all processes that share the database."""

    type = Double()
    inherit_cache = True


@compiles(database_time, "sqlite")
def _sqlite_time(element: database_time, compiler: Any, **options: Any) -> str:
    # 2440587.5 is the Julian day on which 1970 began.
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_time, "postgresql")
def _postgresql_time(element: database_time, compiler: Any, **options: Any) -> str:
    # Not `now()`, which is the time at which the transaction began.
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


def insert_new(connection: Connection, table: Table) -> Any:
    """Returns an insert that skips rows that are there already. The rows are the parameters of `execute`."""
    return _insert_new(connection.dialect.name, table)


@cache
def _insert_new(dialect: str, table: Table) -> Any:
    """Builds the insert, once: with the values of a row in it, that would take longer than to run it."""
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return insert(table).on_conflict_do_nothing()
