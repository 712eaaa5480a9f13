"""The scripts of `redis_counters.py`, and how Redis gets them.

A counter is a hash. What was spent in a second is the field `s` with the second's number, what is reserved until a
second the field `r` with its number; `t` and `l` are their sums, `f`, `n`, `i` and `j` the first and last of these
numbers, `w` is the window of a budget, and `o` what was spent in windows before it. `g` is the generation of a budget:
a new one begins each time that what was spent of it is read from the database, `b` says how much that was, and `p` with
the number of a process says which one that has joined. `m` is the name of a generation that somebody is about to begin.
After Redis has lost a budget, nothing is decided of it until the second `y`, or until as many processes have joined it
(`q`) as there are (`u`).
Time is Redis' own, so that gateways whose clocks differ agree. A key of another type is not ours and is replaced; keys
that are not used for a while go by themselves.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.exceptions import NoScriptError

# Redis runs a script as a whole, and nothing else meanwhile: what it has read holds until it writes. Only tests give
# the time as an argument. `write` keeps Lua from writing more than fourteen digits as 1e+15. A mark counts for ten
# seconds, which is longer than a look at the database may take (`limits/start.py`).
_FUNCTIONS = """
local function number(value) return tonumber(value or nil) or 0 end
local function write(value) return string.format('%.0f', value) end

local function moment(argument)
  local now = tonumber(argument)
  if now then return now end
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end

-- Takes out the slots before `bound`, and all of them where one is after `latest`: the clock was set back by more than
-- a minute. Returns the sum, the first and the last slot.
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
  local values = redis.pcall('HMGET', key, 't', 'f', 'n', 'l', 'i', 'j', 'w', 'g', 'm', 'y')
  if values.err then
    redis.call('DEL', key)
    values = {}
  end
  local state = {key = key, spent = number(values[1]), window = tonumber(values[7] or nil)}
  state.generation, state.mark, state.incomplete_until = values[8] or nil, values[9] or nil, number(values[10])
  state.first, state.last = tonumber(values[2] or nil) or 1, number(values[3])
  state.leased_first, state.leased_last = tonumber(values[5] or nil) or 1, number(values[6])
  if state.last > 0 then
    state.spent, state.first, state.last =
      advance(key, 's', state.spent, state.first, state.last, slot - window_slots, slot + window_slots)
  end
  state.reserved, state.leased_first, state.leased_last =
    advance(key, 'r', number(values[4]), state.leased_first, state.leased_last, slot + 1,
      slot + lease_seconds + window_slots)
  return state
end

local function spend(state, slot, amount)
  redis.call('HINCRBY', state.key, 's' .. slot, write(amount))
  if state.last < state.first then state.first, state.last = slot, slot end
  state.first = math.min(state.first, slot)
  state.last = math.max(state.last, slot)
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

-- What was spent in windows of a budget before the present one, by their beginnings. They are for gateways whose clocks
-- are late, or were right where the one that began the present window was wrong.
local function earlier(state)
  local windows = {}
  for window, spent in string.gmatch(redis.call('HGET', state.key, 'o') or '', '(%d+)=(%d+)') do
    windows[tonumber(window)] = tonumber(spent)
  end
  return windows
end

local function keep(state, windows)
  local newest, parts = {}, {}
  for window in pairs(windows) do newest[#newest + 1] = window end
  table.sort(newest, function(one, other) return one > other end)
  for index = 1, math.min(#newest, 8) do
    parts[index] = write(newest[index]) .. '=' .. write(windows[newest[index]])
  end
  redis.call('HSET', state.key, 'o', table.concat(parts, ','))
end

local function turn(state, window, spent)
  local windows = earlier(state)
  windows[state.window] = state.spent
  keep(state, windows)
  state.spent, state.window = spent, window
  redis.call('HSET', state.key, 'b', write(spent))
end

local function real_time()
  local time = redis.call('TIME')
  return string.format('%d.%06d', time[1], time[2])
end

-- The first generation after Redis had nothing, with which the names of those that follow begin.
local function life(generation)
  return generation and string.match(generation, '^[^-]*')
end

-- Whether somebody has marked the budget and may have read the database before it had what was written last.
local function is_marked(state)
  return state.mark and tonumber(state.mark) > tonumber(real_time()) - 10
end

local function save(state, ttl)
  local fields = {'t', write(state.spent), 'f', state.first, 'n', state.last,
    'l', write(state.reserved), 'i', state.leased_first, 'j', state.leased_last}
  if state.window then fields[13], fields[14] = 'w', write(state.window) end
  redis.call('HSET', state.key, unpack(fields))
  redis.call('EXPIRE', state.key, ttl)
end
"""

# ARGV: the time or nothing, LEASE, WINDOW, the mode, the second after which nobody waits; then for each key its unit,
# limit, amount, window, what the database has of it, the seconds that it lives, and the wanted generation.
RESERVE = (
    _FUNCTIONS
    + """
local now, lease_seconds, window_slots = moment(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local slot, latest = math.floor(now), tonumber(ARGV[5])
-- Nobody waits for this any more: it lay here while Redis was stopped.
if latest and now > latest then return {3, string.format('%.6f', now)} end
local admitted, states, missing, reserves, incomplete = true, {}, {}, ARGV[4] ~= 'look', false
for index, key in ipairs(KEYS) do
  local base = 5 + (index - 1) * 7
  local state = load(key, slot, window_slots, lease_seconds)
  state.unit, state.limit, state.amount = ARGV[base + 1], tonumber(ARGV[base + 2]), tonumber(ARGV[base + 3])
  state.ttl, state.earlier = tonumber(ARGV[base + 6]), 0
  if state.unit == 'money' then
    local window, before = tonumber(ARGV[base + 4]), tonumber(ARGV[base + 5])
    local generation = ARGV[base + 7]
    local awaits = state.incomplete_until > now
    incomplete = incomplete or awaits
    if not state.window or not state.generation
        or (generation ~= state.generation and (generation ~= '' or awaits)) then
      missing[#missing + 1] = index
    elseif before and state.window == window and before > state.spent then
      missing[#missing + 1] = -index
    elseif state.window < window then
      turn(state, window, before or 0)
    elseif state.window > window then
      local windows = earlier(state)
      if before and before > (windows[window] or 0) then
        windows[window] = before
        keep(state, windows)
      end
      for began, spent in pairs(windows) do
        if began >= window then state.earlier = state.earlier + spent end
      end
    end
  end
  if not (state.spent + state.earlier + state.reserved + state.amount <= state.limit
      or (state.reserved == 0 and state.spent + state.earlier < state.limit)) then
    admitted = false
  end
  states[index] = state
end
if #missing > 0 or incomplete then
  for _, state in ipairs(states) do
    if state.unit ~= 'money' or state.window then save(state, state.ttl) end
  end
  if #missing > 0 then return {2, missing} end
  return {4}
end
local reply = {admitted and 1 or 0, slot + lease_seconds, real_time()}
for index, state in ipairs(states) do
  if admitted and reserves then
    if state.unit == 'requests' then spend(state, slot, state.amount)
    else lease(state, slot + lease_seconds, state.amount) end
  end
  local wait = 0
  if state.unit == 'money' then wait = state.generation
  elseif state.last >= state.first then
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
  reply[#reply + 1] = write(state.spent + state.earlier)
  reply[#reply + 1] = write(state.reserved)
  reply[#reply + 1] = state.unit == 'money' and wait or string.format('%.3f', wait)
end
return reply
"""
)

# ARGV: the time or nothing, LEASE, WINDOW, the second after which nobody waits; then for each key its unit, what was
# reserved until which second, what was spent, its window, the seconds that it lives, until when the reservation is
# renewed, the seconds since it was spent, and the generation that this process has joined.
SETTLE = (
    _FUNCTIONS
    + """
local now, lease_seconds, window_slots = moment(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local slot, latest = math.floor(now), tonumber(ARGV[4])
if latest and now > latest then return {0} end
local marked, foreign = 0, {}
for index, key in ipairs(KEYS) do
  local base = 4 + (index - 1) * 9
  local unit, reserved, leased = ARGV[base + 1], tonumber(ARGV[base + 2]), ARGV[base + 3]
  local spent, window, ttl = tonumber(ARGV[base + 4]), tonumber(ARGV[base + 5]), tonumber(ARGV[base + 6])
  local renewed, since = ARGV[base + 7], slot - tonumber(ARGV[base + 8])
  renewed = renewed == 'new' and slot + lease_seconds or tonumber(renewed)
  local state = load(key, slot, window_slots, lease_seconds)
  if unit == 'money' and is_marked(state) then marked = 1 end
  local is_foreign = unit == 'money' and ARGV[base + 9] ~= state.generation
  if is_foreign and spent and spent > 0 then
    foreign[#foreign + 1] = index
  elseif is_foreign and life(state.generation) ~= life(ARGV[base + 9]) then
    -- It was emptied, so nothing of this is reserved here: the process does that when it joins.
  else
  if unit == 'requests' and not spent then
    -- A request that was refused elsewhere: it was counted in the second from which its lease runs.
    local counted = 's' .. (tonumber(leased) - lease_seconds)
    local taken = math.min(number(redis.call('HGET', key, counted)), reserved)
    if taken > 0 then
      redis.call('HINCRBY', key, counted, write(-taken))
      state.spent = state.spent - taken
    end
  end
  spent = spent or 0
  local held = unit ~= 'requests' and number(redis.call('HGET', key, 'r' .. leased)) or 0
  if held > 0 and reserved > 0 then -- minus nothing would be written as "-0", which is no number to Redis
    local released = math.min(held, reserved)
    redis.call('HINCRBY', key, 'r' .. leased, write(-released))
    state.reserved = state.reserved - released
  end
  if renewed then lease(state, renewed, reserved) end
  if spent > 0 and unit ~= 'money' then spend(state, since, spent) end
  if spent > 0 and state.window and state.window <= window then
    if state.window < window then turn(state, window, 0) end
    state.spent = state.spent + spent
  elseif spent > 0 and state.window then
    local windows = earlier(state)
    windows[window] = (windows[window] or 0) + spent
    keep(state, windows)
  end
  save(state, ttl)
  end
end
return {slot + lease_seconds, marked, unpack(foreign)}
"""
)

# ARGV: the time or nothing, LEASE, WINDOW, the process, how many there are, JOINING_SECONDS; then for each key the
# mode, the window, the seconds that it lives, the generation, what the database had, what this process has beside that,
# what it has under way, the generation that it has joined, and the last one that it knew.
JOIN = (
    _FUNCTIONS
    + """
local now, lease_seconds, window_slots, process = moment(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local processes, joining_seconds = tonumber(ARGV[5]), tonumber(ARGV[6])
local slot, replies = math.floor(now), {}

-- Adds what is under way in the process, which an empty Redis does not know.
local function hold(state, leases)
  for held, amount in string.gmatch(leases, '(%d+)=(%d+)') do
    held = tonumber(held)
    if held > slot and held <= slot + lease_seconds + window_slots then lease(state, held, tonumber(amount)) end
  end
end

-- Takes note that the process has joined. Where it knew the budget before Redis lost it, others may have to join it,
-- too; they are waited for once.
local function join(state, window, known)
  local counts = redis.call('HMGET', state.key, 'p' .. process, 'q', 'u')
  local joined, awaited = number(counts[2]), math.max(number(counts[3]), processes)
  if string.match(counts[1] or '', '^[^/]*') ~= state.generation then joined = joined + 1 end
  if state.incomplete_until == 0 and known ~= 'none' and life(known) ~= life(state.generation) then
    state.incomplete_until = now + joining_seconds
  end
  if state.incomplete_until > 0 and joined >= awaited then state.incomplete_until = 1 end
  redis.call('HSET', state.key, 'p' .. process, state.generation .. '/' .. write(window), 'q', joined, 'u', awaited,
    'y', string.format('%.6f', state.incomplete_until))
end

for index, key in ipairs(KEYS) do
  local base = 6 + (index - 1) * 9
  local mode, generation = ARGV[base + 1], ARGV[base + 4]
  local window, ttl = tonumber(ARGV[base + 2]), tonumber(ARGV[base + 3])
  local before, unwritten, leases = ARGV[base + 5], tonumber(ARGV[base + 6]), ARGV[base + 7]
  local lived, known = life(ARGV[base + 8]), ARGV[base + 9]
  local state = load(key, slot, window_slots, lease_seconds)
  local joined = state.window and state.generation == generation and mode == 'look'
  if mode == 'begin' and state.mark == generation and is_marked(state) then
    local name = (life(state.generation) or generation) .. '-' .. generation
    if state.window and state.window > window then
      local windows = earlier(state)
      windows[window] = math.max(windows[window] or 0, tonumber(before) + unwritten)
      keep(state, windows)
      state.generation = state.generation or name
    else
      if state.window and state.window < window then turn(state, window, 0) end
      state.window, state.spent, state.generation = window, tonumber(before) + unwritten, name
      redis.call('HSET', key, 'b', before)
      if lived ~= life(name) then hold(state, leases) end
    end
    redis.call('HDEL', key, 'm', 'q')
    state.mark = nil
    redis.call('HSET', key, 'g', state.generation)
    join(state, window, known)
    save(state, ttl)
    joined = true
  elseif mode == 'join' and state.generation == generation and state.window == window
      and redis.call('HGET', key, 'b') == before then
    local mine = generation .. '/' .. write(window)
    if redis.call('HGET', key, 'p' .. process) ~= mine then
      state.spent = state.spent + unwritten
      if lived ~= life(generation) then hold(state, leases) end
      join(state, window, known)
      save(state, ttl)
    end
    joined = true
  end
  if joined then
    replies[index] = {0, state.generation, is_marked(state) and 1 or 0}
  elseif mode ~= 'mark' and state.generation and state.window == window then
    replies[index] = {1, state.generation, redis.call('HGET', key, 'b') or '0'}
  else
    -- Somebody else's mark serves as well: processes that replaced each other's would never begin.
    if not is_marked(state) then
      state.mark = real_time()
      redis.call('HSET', key, 'm', state.mark)
      redis.call('EXPIRE', key, ttl)
    end
    replies[index] = {2, state.mark, 0}
  end
end
return replies
"""
)

# A set sorted by the second until which a process counts as alive. It is a second of Redis' clock, so gateways whose
# clocks differ agree on the number. The set itself goes an hour after the last sign of life.
BEAT = """
local time = redis.call('TIME')
local now = tonumber(time[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('EXPIRE', KEYS[1], 3600)
return {redis.call('ZCARD', KEYS[1]), time[1], time[2]}
"""

Execute = Callable[..., Awaitable[Any]]
"""Sends a command, its words as arguments."""


class Script:
    """A script, called by its digest; Redis gets its text where it does not have it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, execute: Execute, keys: Sequence[str], values: Sequence[Any]) -> Any:
        try:
            return await execute("EVALSHA", self._digest, len(keys), *keys, *values)
        # A script that Redis does not know has not run, so sending it again counts nothing twice.
        except NoScriptError:
            return await execute("EVAL", self._text, len(keys), *keys, *values)
