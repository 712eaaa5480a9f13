"""PostgreSQL reserves for many requests in one statement, and looks less often at the slots of the last minute.

A process sends what waits in it together: a round trip and a transaction for all of them. The locks of all are taken
first, in the order of their numbers, so that two groups never wait for each other.
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_RESERVE_LOCKED = """
CREATE FUNCTION
  reserve_locked_counters(items jsonb, clock double precision, lease_seconds bigint, window_slots bigint)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  item jsonb; unit text; moment double precision; this_slot bigint; total bigint; held bigint; most bigint;
  wanted bigint; oldest bigint; pause double precision; admitted boolean := true; states jsonb := '[]';
BEGIN
  moment := coalesce(clock, extract(epoch FROM clock_timestamp())::double precision);
  this_slot := floor(moment)::bigint;
  FOR item IN SELECT value FROM jsonb_array_elements(items) LOOP
    unit := item->>'unit';
    most := (item->>'limit')::bigint;
    wanted := (item->>'amount')::bigint;
    total := 0; held := 0; oldest := NULL;
    IF unit = 'money' THEN
      SELECT coalesce(sum(amount), 0) INTO total FROM counter_slots
      WHERE counter = item->>'id' AND kind = 2 AND slot >= (item->>'window')::bigint;
    ELSIF unit <> 'parallel' THEN
      SELECT coalesce(sum(amount), 0), min(slot) INTO total, oldest FROM counter_slots
      WHERE counter = item->>'id' AND kind = 0 AND slot BETWEEN this_slot - window_slots AND this_slot + window_slots;
    END IF;
    IF unit <> 'requests' THEN
      SELECT coalesce(sum(amount), 0) INTO held FROM counter_slots
      WHERE counter = item->>'id' AND kind = 1
        AND slot BETWEEN this_slot + 1 AND this_slot + lease_seconds + window_slots;
    END IF;
    IF NOT (total + held + wanted <= most OR (held = 0 AND total < most)) THEN
      admitted := false;
    END IF;
    states := states || jsonb_build_array(jsonb_build_array(total, held, oldest));
  END LOOP;
  FOR i IN 0 .. jsonb_array_length(items) - 1 LOOP
    item := items->i;
    unit := item->>'unit';
    total := (states->i->>0)::bigint;
    held := (states->i->>1)::bigint;
    oldest := (states->i->>2)::bigint;
    most := greatest((item->>'limit')::bigint, 1);
    wanted := (item->>'amount')::bigint;
    IF admitted AND unit = 'requests' THEN
      PERFORM add_to_counter(item->>'id', 0, this_slot, wanted);
      total := total + wanted;
      oldest := coalesce(oldest, this_slot);
    ELSIF admitted THEN
      PERFORM add_to_counter(item->>'id', 1, this_slot + lease_seconds, wanted);
      held := held + wanted;
    END IF;
    pause := 0;
    IF total < most THEN
      pause := oldest + window_slots + 1 - moment;
    ELSIF unit <> 'money' THEN
      SELECT min(slot) + window_slots + 1 - moment INTO pause FROM (
        SELECT slot, sum(amount) OVER (ORDER BY slot) AS freed FROM counter_slots
        WHERE counter = item->>'id' AND kind = 0 AND slot BETWEEN this_slot - window_slots AND this_slot + window_slots
      ) AS slots WHERE total - freed < most;
    END IF;
    states := jsonb_set(states, ARRAY[i::text], jsonb_build_array(total, held, coalesce(pause, 0)));
  END LOOP;
  RETURN jsonb_build_object('admitted', admitted, 'states', states, 'lease', this_slot + lease_seconds);
END
$$
"""

# For a gateway of the version before, which may still be running beside one of this version.
_RESERVE = """
CREATE OR REPLACE FUNCTION
  reserve_counters(items jsonb, clock double precision, lease_seconds bigint, window_slots bigint)
RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
  PERFORM lock_counters(items);
  RETURN reserve_locked_counters(items, clock, lease_seconds, window_slots);
END
$$
"""

_RESERVE_EACH = """
CREATE FUNCTION
  reserve_each_request(requests jsonb, clock double precision, lease_seconds bigint, window_slots bigint)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  request jsonb; replies jsonb := '[]';
BEGIN
  PERFORM lock_counters((
    SELECT jsonb_agg(item.value)
    FROM jsonb_array_elements(requests) AS one, jsonb_array_elements(one.value) AS item
  ));
  FOR request IN SELECT value FROM jsonb_array_elements(requests) LOOP
    replies := replies || jsonb_build_array(reserve_locked_counters(request, clock, lease_seconds, window_slots));
  END LOOP;
  RETURN replies;
END
$$
"""


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for statement in (_RESERVE_LOCKED, _RESERVE, _RESERVE_EACH):
            op.execute(statement)
