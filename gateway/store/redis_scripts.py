"""The scripts of `redis_counters.py`, and how Redis gets them.

A counter is a hash. What was spent in a second is the field `s` with the second's number, what is reserved until a
second the field `r` with its number; `t` and `l` are their sums, `f`, `n`, `i` and `j` the first and last of these
numbers, `w` is the window of a budget, and `o` what was spent in windows before it. Time is Redis' own, so that
gateways whose clocks differ agree. A key of another type is not ours and is replaced; keys that are not used for a
while go by themselves.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.exceptions import NoScriptError

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
end

local function save(state, ttl)
  local fields = {'t', write(state.spent), 'f', state.first, 'n', state.last,
    'l', write(state.reserved), 'i', state.leased_first, 'j', state.leased_last}
  if state.window then fields[13], fields[14] = 'w', write(state.window) end
  redis.call('HSET', state.key, unpack(fields))
  redis.call('EXPIRE', state.key, ttl)
end
"""

RESERVE = (
    _FUNCTIONS
    + """
local now, lease_seconds, window_slots = moment(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local slot, latest = math.floor(now), tonumber(ARGV[5])
-- Nobody waits for this any more: it lay here while Redis was stopped.
if latest and now > latest then return {3, string.format('%.6f', now)} end
local admitted, states, missing, reserves = true, {}, {}, ARGV[4] ~= 'look'
for index, key in ipairs(KEYS) do
  local base = 5 + (index - 1) * 6
  local state = load(key, slot, window_slots, lease_seconds)
  state.unit, state.limit, state.amount = ARGV[base + 1], tonumber(ARGV[base + 2]), tonumber(ARGV[base + 3])
  state.ttl, state.earlier = tonumber(ARGV[base + 6]), 0
  if state.unit == 'money' then
    local window, before = tonumber(ARGV[base + 4]), tonumber(ARGV[base + 5])
    if before and (not state.window or state.window == window) then
      state.spent, state.window = math.max(state.spent, before), window
    elseif state.window and state.window < window then
      turn(state, window, before or 0)
    elseif not state.window then
      missing[#missing + 1] = index
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
if #missing > 0 then
  for _, state in ipairs(states) do
    if state.unit ~= 'money' or state.window then save(state, state.ttl) end
  end
  return {2, missing}
end
local reply = {admitted and 1 or 0, slot + lease_seconds}
for index, state in ipairs(states) do
  if admitted and reserves then
    if state.unit == 'requests' then spend(state, slot, state.amount)
    else lease(state, slot + lease_seconds, state.amount) end
  end
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
  reply[#reply + 1] = write(state.spent + state.earlier)
  reply[#reply + 1] = write(state.reserved)
  reply[#reply + 1] = string.format('%.3f', wait)
end
return reply
"""
)

SETTLE = (
    _FUNCTIONS
    + """
local now, lease_seconds, window_slots = moment(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local slot, latest = math.floor(now), tonumber(ARGV[4])
if latest and now > latest then return 0 end
for index, key in ipairs(KEYS) do
  local base = 4 + (index - 1) * 8
  local unit, reserved, leased = ARGV[base + 1], tonumber(ARGV[base + 2]), ARGV[base + 3]
  local spent, window, ttl = tonumber(ARGV[base + 4]), tonumber(ARGV[base + 5]), tonumber(ARGV[base + 6])
  local renewed, since = ARGV[base + 7], slot - tonumber(ARGV[base + 8])
  renewed = renewed == 'new' and slot + lease_seconds or tonumber(renewed)
  local state = load(key, slot, window_slots, lease_seconds)
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
  -- Also of a budget that was lost: what is reserved of it counts once its spent amount is known again.
  if unit ~= 'money' or state.window or renewed then save(state, ttl) end
end
return slot + lease_seconds
"""
)

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
        except NoScriptError:
            return await execute("EVAL", self._text, len(keys), *keys, *values)
