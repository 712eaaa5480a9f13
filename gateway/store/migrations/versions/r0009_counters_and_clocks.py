"""PostgreSQL's counters when its clock is set back: slots up to a minute in the future count as well.

Otherwise setting the clock back by ten seconds would forget what was counted in the last ten. On SQLite the slots come
from a clock that nobody sets.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_RESERVE = """
CREATE OR REPLACE FUNCTION
  reserve_counters(items jsonb, clock double precision, lease_seconds bigint, window_slots bigint)
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
      WHERE counter = item->>'id' AND kind = 0 AND slot BETWEEN this_slot - window_slots AND this_slot + window_slots;
    ELSE
      SELECT coalesce(sum(amount), 0) INTO total FROM counter_slots
      WHERE counter = item->>'id' AND kind = 2 AND slot >= (item->>'window')::bigint;
    END IF;
    SELECT coalesce(sum(amount), 0) INTO held FROM counter_slots
    WHERE counter = item->>'id' AND kind = 1
      AND slot BETWEEN this_slot + 1 AND this_slot + lease_seconds + window_slots;
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
        WHERE counter = item->>'id' AND kind = 0 AND slot BETWEEN this_slot - window_slots AND this_slot + window_slots
      ) AS slots WHERE total - freed < greatest((item->>'limit')::bigint, 1);
    END IF;
    states := jsonb_set(states, ARRAY[i::text], jsonb_build_array(total, held, coalesce(pause, 0)));
  END LOOP;
  RETURN jsonb_build_object('admitted', admitted, 'states', states, 'lease', this_slot + lease_seconds);
END
$$
"""


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_RESERVE)
