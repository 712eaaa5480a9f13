"""Counters in Redis or Valkey (`counters.Counters`): one script and one round trip for each admission.

A counter is a hash. What was spent in a second is the field `s` with the second's number, what is reserved until a
second the field `r` with its number; `t` and `l` are their sums, `f`, `n`, `i` and `j` the first and last of these
numbers, `w` is the window of a budget. Time is Redis' own, so that gateways whose clocks differ agree. A key of another
type is not ours and is replaced; keys that are not used for a while go by themselves.

Redis may lose everything at any time. A counter of money that is not there is refused with MISSING until the caller
says what was spent, which the database has. Imported only if the settings ask for it.
"""

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from gateway.store.counters import (
    LEASE,
    WINDOW,
    Counter,
    CounterState,
    CountersUnavailable,
    Decision,
    Reservation,
    Settlement,
)

PREFIX = "cohere-gateway:counter:1:"
"""Of all keys in Redis. The number changes with the format."""

PROCESSES = "cohere-gateway:processes:1"
"""The set of processes that are alive, each with the second until which it is."""

REFUSED, ADMITTED, MISSING = 0, 1, 2
"""How a script's answer begins. After MISSING come the numbers of the budgets of which Redis has nothing."""

MAX_COMPARED = 100_000
"""Windows of budgets that are remembered as compared with the database."""

IDLE_SECONDS = 2 * (WINDOW + LEASE)
"""After so long without use, a counter of the last minute is empty and goes."""

BUDGET_SECONDS = 40 * 86_400
"""After so long without use, the counter of a budget goes; the database has it still."""

_COMMON = """
local function number(value) return tonumber(value or nil) or 0 end
local function write(value) return string.format('%.0f', value) end

local function moment(argument)
  local now = tonumber(argument)
  if now then return now end
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end

-- Takes out the slots before `bound`, and all of them where the clock was set back. Returns the sum and the first slot.
local function advance(key, prefix, total, first, last, bound, latest)
  if last < first then return 0, first, last end
  if first >= bound and last <= latest then return total, first, last end
  local fields = {}
  if last - first > 1000 then redis.call('DEL', key) return 0, 1, 0 end
  for slot = first, last do fields[#fields + 1] = prefix .. slot end
  local values, gone, remaining = redis.call('HMGET', key, unpack(fields)), {}, nil
  total = 0
  for index, value in ipairs(values) do
    local slot = first + index - 1
    if slot < bound or last > latest then
      if value then gone[#gone + 1] = fields[index] end
    elseif value then
      total = total + number(value)
      remaining = remaining or slot
    end
  end
  if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
  if not remaining then return 0, 1, 0 end
  return total, remaining, last
end

local function load(key, slot, window_slots, lease_seconds)
  local values = redis.pcall('HMGET', key, 't', 'f', 'n', 'l', 'i', 'j', 'w')
  if values.err then
    redis.call('DEL', key)
    values = {}
  end
  local state = {key = key, spent = number(values[1]), window = tonumber(values[7] or nil)}
  state.first, state.last = tonumber(values[2] or nil) or 1, number(values[3])
  state.leased_first, state.leased_last = tonumber(values[5] or nil) or 1, number(values[6])
  if state.last > 0 then
    state.spent, state.first, state.last =
      advance(key, 's', state.spent, state.first, state.last, slot - window_slots, slot)
  end
  state.reserved, state.leased_first, state.leased_last =
    advance(key, 'r', number(values[4]), state.leased_first, state.leased_last, slot + 1, slot + lease_seconds)
  return state
end

local function spend(state, slot, amount)
  redis.call('HINCRBY', state.key, 's' .. slot, write(amount))
  if state.last < state.first then state.first = slot end
  state.last = slot
  state.spent = state.spent + amount
end

local function lease(state, slot, amount)
  redis.call('HINCRBY', state.key, 'r' .. slot, write(amount))
  if state.leased_last < state.leased_first then
    state.leased_first, state.leased_last = slot, slot
  end
  state.leased_first = math.min(state.leased_first, slot)
  state.leased_last = math.max(state.leased_last, slot)
  state.reserved = state.reserved + amount
end

local function save(state, ttl)
  local fields = {'t', write(state.spent), 'f', state.first, 'n', state.last,
    'l', write(state.reserved), 'i', state.leased_first, 'j', state.leased_last}
  if state.window then fields[13], fields[14] = 'w', write(state.window) end
  redis.call('HSET', state.key, unpack(fields))
  redis.call('EXPIRE', state.key, ttl)
end
"""

_RESERVE = (
    _COMMON
    + """
local now, lease_seconds, window_slots = moment(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local slot = math.floor(now)
local admitted, states, missing = true, {}, {}
for index, key in ipairs(KEYS) do
  local base = 3 + (index - 1) * 6
  local state = load(key, slot, window_slots, lease_seconds)
  state.unit, state.limit, state.amount = ARGV[base + 1], tonumber(ARGV[base + 2]), tonumber(ARGV[base + 3])
  state.ttl = tonumber(ARGV[base + 6])
  if state.unit == 'money' then
    local window, before = tonumber(ARGV[base + 4]), tonumber(ARGV[base + 5])
    if before and (not state.window or state.window == window) then
      state.spent, state.window = math.max(state.spent, before), window
    elseif state.window and state.window < window then
      state.spent, state.window = before or 0, window
    elseif not state.window then
      missing[#missing + 1] = index
    end
  end
  if not (state.spent + state.reserved + state.amount <= state.limit
      or (state.reserved == 0 and state.spent < state.limit)) then
    admitted = false
  end
  states[index] = state
end
if #missing > 0 then
  for _, state in ipairs(states) do
    if state.unit ~= 'money' or state.window then save(state, state.ttl) end
  end
  return {2, missing}
end
local reply = {admitted and 1 or 0, slot + lease_seconds}
for index, state in ipairs(states) do
  if admitted and state.unit == 'requests' then spend(state, slot, state.amount) end
  if admitted and state.unit ~= 'requests' then lease(state, slot + lease_seconds, state.amount) end
  local wait = 0
  if state.unit ~= 'money' and state.last >= state.first then
    local left = state.spent
    for seen = state.first, state.last do
      left = left - number(redis.call('HGET', state.key, 's' .. seen))
      if left < math.max(state.limit, 1) then
        wait = seen + window_slots + 1 - now
        break
      end
    end
  end
  save(state, state.ttl)
  reply[#reply + 1] = write(state.spent)
  reply[#reply + 1] = write(state.reserved)
  reply[#reply + 1] = string.format('%.3f', wait)
end
return reply
"""
)

_SETTLE = (
    _COMMON
    + """
local now, lease_seconds, window_slots = moment(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local slot = math.floor(now)
for index, key in ipairs(KEYS) do
  local base = 3 + (index - 1) * 7
  local unit, reserved, leased = ARGV[base + 1], tonumber(ARGV[base + 2]), ARGV[base + 3]
  local spent, window, ttl = tonumber(ARGV[base + 4]), tonumber(ARGV[base + 5]), tonumber(ARGV[base + 6])
  local renewed = tonumber(ARGV[base + 7])
  local state = load(key, slot, window_slots, lease_seconds)
  local held = number(redis.call('HGET', key, 'r' .. leased))
  if held > 0 then
    local released = math.min(held, reserved)
    redis.call('HINCRBY', key, 'r' .. leased, write(-released))
    state.reserved = state.reserved - released
  end
  if renewed then lease(state, renewed, reserved) end
  if spent > 0 and unit ~= 'money' then spend(state, slot, spent) end
  if spent > 0 and state.window and state.window <= window then
    if state.window < window then state.spent, state.window = 0, window end
    state.spent = state.spent + spent
  end
  if unit ~= 'money' or state.window then save(state, ttl) end
end
return 1
"""
)

_BEAT = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('EXPIRE', KEYS[1], 3600)
return redis.call('ZCARD', KEYS[1])
"""

Spent = Callable[[Sequence[Counter]], Awaitable[Mapping[tuple[str, int], int]]]
"""Returns what the database has of these budgets, by id and window."""


class _Script:
    """A script, called by its digest; Redis gets its text where it does not have it."""

    def __init__(self, redis: Redis, text: str) -> None:
        self._execute: Callable[..., Awaitable[Any]] = redis.execute_command
        self._text = text
        self._digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, keys: Sequence[str], values: Sequence[Any]) -> Any:
        try:
            return await self._execute("EVALSHA", self._digest, len(keys), *keys, *values)
        except NoScriptError:
            return await self._execute("EVAL", self._text, len(keys), *keys, *values)


class RedisCounters:
    """Counters in one Redis. Its connections have a time limit; a request's is in `gateway/limits/shared_counters.py`.

    spent: what the database has of budgets. clock: Redis' own, but for tests.
    """

    def __init__(self, url: str, spent: Spent, clock: Callable[[], float] | None = None, timeout: float = 1.0) -> None:
        """Connects to nothing yet. timeout: seconds. Raises ValueError for a bad URL."""
        self._redis: Redis = Redis.from_url(
            url, socket_timeout=timeout, socket_connect_timeout=timeout, health_check_interval=0
        )
        self._redis.connection_pool.connection_kwargs["decode_responses"] = False
        self._spent, self._clock = spent, clock
        self._reserve = _Script(self._redis, _RESERVE)
        self._settle = _Script(self._redis, _SETTLE)
        self._beat = _Script(self._redis, _BEAT)
        # What the database has of budgets that are to be compared with it, by id.
        self._before: dict[str, int] = {}
        # The budgets, by id and window, of which Redis has at least what the database has.
        self._compared: set[tuple[str, int]] = set()

    def lacks(self, counters: Sequence[Counter]) -> bool:
        """Tells whether one of these is a budget that has not been compared with the database."""
        return any(
            counter.unit == "money" and (counter.id, counter.window) not in self._compared for counter in counters
        )

    async def prepare(self, counters: Sequence[Counter]) -> None:
        """Reads what the database has of the budgets that have not been compared with it."""
        new = [counter for counter in counters if self.lacks([counter])]
        for id, spent in (await self._spent_before(new)).items():
            self._before[id] = spent

    async def reserve(self, counters: Sequence[Counter], tokens: int, money: int) -> Decision:
        reply = await self._try_to_reserve(counters, tokens, money, self._before)
        if reply[0] == MISSING:
            lost = [counters[index - 1] for index in reply[1]]
            before = await self._spent_before(lost)
            reply = await self._try_to_reserve(counters, tokens, money, before)
        if self._before:
            self._compare(counters)
        states = [
            CounterState(int(reply[at]), int(reply[at + 1]), float(reply[at + 2])) for at in range(2, len(reply), 3)
        ]
        return Decision(reply[0] == 1, states, int(reply[1]))

    async def _try_to_reserve(
        self,
        counters: Sequence[Counter],
        tokens: int,
        money: int,
        before: Mapping[str, int],
    ) -> list[Any]:
        values: list[Any] = [self._now(), LEASE, WINDOW]
        for counter in counters:
            amount, spent = counter.amount(tokens, money), before.get(counter.id, "")
            values += (counter.unit, counter.limit, amount, counter.window, spent, _seconds(counter))
        reply = await self._call(self._reserve, [_key(counter) for counter in counters], values)
        if not isinstance(reply, list) or not reply or reply[0] not in (REFUSED, ADMITTED, MISSING):
            raise CountersUnavailable("Redis did not answer a script as Redis does")
        return reply

    def _compare(self, counters: Sequence[Counter]) -> None:
        """Takes note that Redis has at least what the database has of these."""
        if len(self._compared) > MAX_COMPARED:
            self._compared.clear()
        for counter in counters:
            if self._before.pop(counter.id, None) is not None:
                self._compared.add((counter.id, counter.window))

    async def _spent_before(self, counters: Sequence[Counter]) -> dict[str, int]:
        """Returns what the database has of these budgets in their present windows, 0 where it has nothing."""
        stored = await self._spent(counters)
        return {counter.id: stored.get((counter.id, counter.window), 0) for counter in counters}

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        await self._finish(
            (counter, settlement.reservation, settlement.spent(counter), "")
            for settlement in settlements
            for counter in settlement.reservation.counters
        )

    async def renew(self, reservations: Sequence[Reservation], seconds: int) -> None:
        rows = [
            (counter, reservation, 0, reservation.lease + seconds)
            for reservation in reservations
            for counter in reservation.counters
        ]
        await self._finish(rows)
        for reservation in reservations:
            reservation.lease += seconds

    async def _finish(self, rows: Iterable[tuple[Counter, Reservation, int, int | str]]) -> None:
        keys: list[str] = []
        values: list[Any] = [self._now(), LEASE, WINDOW]
        for counter, reservation, spent, renewed in rows:
            if counter.unit != "requests":
                reserved = counter.amount(reservation.tokens, reservation.money)
                keys.append(_key(counter))
                values += (counter.unit, reserved, reservation.lease, spent, counter.window, _seconds(counter), renewed)
        if keys:
            await self._call(self._settle, keys, values)

    async def beat(self, process: str, seconds: int) -> int:
        """Says that a process is alive for so many seconds. Returns how many are."""
        return int(await self._call(self._beat, [PROCESSES], [process, seconds]))

    async def reconnect(self) -> None:
        """Compares each budget with the database again, over new connections: it may be another server now."""
        self._compared.clear()
        self._before.clear()
        await self._redis.connection_pool.disconnect()

    async def stop(self) -> None:
        await self._redis.aclose()

    async def _call(self, script: _Script, keys: Sequence[str], values: Sequence[Any]) -> Any:
        try:
            return await script(keys, values)
        except Exception as error:  # what answers may be no Redis, and the client trips over it in its own ways
            raise CountersUnavailable(f"Redis failed: {type(error).__name__}: {error}") from error

    def _now(self) -> float | str:
        return self._clock() if self._clock is not None else ""


def _key(counter: Counter) -> str:
    return PREFIX + counter.id


def _seconds(counter: Counter) -> int:
    return BUDGET_SECONDS if counter.unit == "money" else IDLE_SECONDS
