"""Counters of limits and budgets, and the functions by which PostgreSQL reserves and settles in one statement.

`gateway/store/counters.py` describes the algorithm, `sql_counters.py` has it for SQLite; a test runs both on the same
requests. Whoever reserves holds a lock for each of its counters until the end of the transaction, in the order of the
locks' numbers, so that no two wait for each other.
"""

from alembic import op
from sqlalchemy import BigInteger, Column, PrimaryKeyConstraint, SmallInteger, Text

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# A transaction that only counts does not wait for the disk: after a crash of the server the last moments are missing,
# and nobody else has to wait meanwhile.
_LOCK = """
CREATE FUNCTION lock_counters(items jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  number integer;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  FOR number IN
    SELECT DISTINCT hashtext(item->>'id') AS lock FROM jsonb_array_elements(items) AS item ORDER BY lock
  LOOP
    PERFORM pg_advisory_xact_lock(1668246642, number);
  END LOOP;
END
$$
"""

_ADD = """
CREATE FUNCTION add_to_counter(counter_id text, slot_kind integer, slot_number bigint, difference bigint) RETURNS void
LANGUAGE sql AS $$
  INSERT INTO counter_slots AS old (counter, kind, slot, amount)
  VALUES (counter_id, slot_kind, slot_number, difference)
  ON CONFLICT (counter, kind, slot) DO UPDATE SET amount = greatest(old.amount + excluded.amount, 0)
$$
"""

_RESERVE = """
CREATE FUNCTION reserve_counters(items jsonb, clock double precision, lease_seconds bigint, window_slots bigint)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  item jsonb; moment double precision; this_slot bigint; total bigint; held bigint; most bigint;
  wanted bigint; pause double precision; admitted boolean := true; states jsonb := '[]'; rolling boolean;
BEGIN
  PERFORM lock_counters(items);
  moment := coalesce(clock, extract(epoch FROM clock_timestamp())::double precision);
  this_slot := floor(moment)::bigint;
  FOR item IN SELECT value FROM jsonb_array_elements(items) LOOP
    rolling := item->>'unit' <> 'money';
    most := (item->>'limit')::bigint;
    wanted := (item->>'amount')::bigint;
    IF rolling THEN
      SELECT coalesce(sum(amount), 0) INTO total FROM counter_slots
      WHERE counter = item->>'id' AND kind = 0 AND slot BETWEEN this_slot - window_slots AND this_slot;
    ELSE
      SELECT coalesce(sum(amount), 0) INTO total FROM counter_slots
      WHERE counter = item->>'id' AND kind = 2 AND slot >= (item->>'window')::bigint;
    END IF;
    SELECT coalesce(sum(amount), 0) INTO held FROM counter_slots
    WHERE counter = item->>'id' AND kind = 1 AND slot BETWEEN this_slot + 1 AND this_slot + lease_seconds;
    IF NOT (total + held + wanted <= most OR (held = 0 AND total < most)) THEN
      admitted := false;
    END IF;
    states := states || jsonb_build_array(jsonb_build_array(total, held));
  END LOOP;
  FOR i IN 0 .. jsonb_array_length(items) - 1 LOOP
    item := items->i;
    total := (states->i->>0)::bigint;
    held := (states->i->>1)::bigint;
    wanted := (item->>'amount')::bigint;
    IF admitted AND item->>'unit' = 'requests' THEN
      PERFORM add_to_counter(item->>'id', 0, this_slot, wanted);
      total := total + wanted;
    ELSIF admitted THEN
      PERFORM add_to_counter(item->>'id', 1, this_slot + lease_seconds, wanted);
      held := held + wanted;
    END IF;
    pause := 0;
    IF item->>'unit' <> 'money' THEN
      SELECT min(slot) + window_slots + 1 - moment INTO pause FROM (
        SELECT slot, sum(amount) OVER (ORDER BY slot) AS freed FROM counter_slots
        WHERE counter = item->>'id' AND kind = 0 AND slot BETWEEN this_slot - window_slots AND this_slot
      ) AS slots WHERE total - freed < greatest((item->>'limit')::bigint, 1);
    END IF;
    states := jsonb_set(states, ARRAY[i::text], jsonb_build_array(total, held, coalesce(pause, 0)));
  END LOOP;
  RETURN jsonb_build_object('admitted', admitted, 'states', states, 'lease', this_slot + lease_seconds);
END
$$
"""

_SETTLE = """
CREATE FUNCTION settle_counters(items jsonb, clock double precision) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  item jsonb; this_slot bigint;
BEGIN
  PERFORM lock_counters(items);
  this_slot := floor(coalesce(clock, extract(epoch FROM clock_timestamp())::double precision))::bigint;
  FOR item IN SELECT value FROM jsonb_array_elements(items) LOOP
    UPDATE counter_slots SET amount = greatest(amount - (item->>'reserved')::bigint, 0)
    WHERE counter = item->>'id' AND kind = 1 AND slot = (item->>'lease')::bigint;
    IF item ? 'renewed' THEN
      PERFORM add_to_counter(item->>'id', 1, (item->>'renewed')::bigint, (item->>'reserved')::bigint);
    END IF;
    IF (item->>'spent')::bigint > 0 AND item->>'unit' = 'money' THEN
      PERFORM add_to_counter(item->>'id', 2, (item->>'window')::bigint, (item->>'spent')::bigint);
    ELSIF (item->>'spent')::bigint > 0 THEN
      PERFORM add_to_counter(item->>'id', 0, this_slot, (item->>'spent')::bigint);
    END IF;
  END LOOP;
END
$$
"""


def upgrade() -> None:
    op.create_table(
        "counter_slots",
        Column("counter", Text, nullable=False),
        Column("kind", SmallInteger, nullable=False),
        Column("slot", BigInteger, nullable=False),
        Column("amount", BigInteger, nullable=False),
        PrimaryKeyConstraint("counter", "kind", "slot", name="pk_counter_slots"),
    )
    if op.get_bind().dialect.name == "postgresql":
        for statement in (_LOCK, _ADD, _RESERVE, _SETTLE):
            op.execute(statement)
