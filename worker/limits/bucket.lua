-- What every limiter script starts with: the clock, the names, and one bucket's life in Redis.
-- It decides nothing: reserve.lua grants, settle.lua corrects, seed.lua begins, cool.lua answers a 429.
--
-- KEYS[1] is the hash tag alone, so that a cluster sends all scripts to one node; ARGV[1] is one MessagePack array
-- whose first item is a pair: the time in seconds, or false for the server's own clock (only tests pass a time); and the
-- time that it should be at the latest by the caller's own steady clock, or false if the caller can't tell.
--
-- A bucket is one hash. Field `s` packs five doubles, and behind them the run of the server that it was written in: what
-- was read back from a file after a restart may lack the last calls, so it is no better than not known.
--   time    the latest booked start (may lie up to the horizon ahead)
--   credit  pacing credit at that time, in units
--   sum     of all slots in the ring
--   oldest  no slot below this one is in the hash any more
--   born    slot in which this hash was made, or an earlier one: what was granted before is not in it by its own slot
-- `h` packs who may keep others out, see `guard` below. A field named by a number is that slot's booked amount.
local SLOT = 0.5        -- seconds
local SPAN = 120        -- a 60 s window ending in slot k touches slots k-120 .. k: 121 of them
local KEEP = 86400      -- seconds an untouched bucket is remembered: more than most wrong clocks are set by
local STEP = 5          -- seconds by which the server may be ahead of what is expected: as long as a command may take
local HOLD = 2          -- seconds a hold, a turn or a place in the line stands unless it is renewed
local PREFIX = KEYS[1] .. ':'

local args = cmsgpack.unpack(ARGV[1])
local now, expected = args[1][1], args[1][2]
if not now then
  local t = redis.call('TIME')
  now = tonumber(t[1]) + tonumber(t[2]) / 1000000
end
local current = math.floor(now / SLOT)
local stepped = expected and now > expected + STEP
local run = redis.call('GET', PREFIX .. 'run') or ''

-- The values of any number of names: Lua passes no more than some 8,000 arguments at once.
local function read_all(names)
  local found = {}
  for first = 1, #names, 4000 do
    local some = redis.call('MGET', unpack(names, first, math.min(first + 3999, #names)))
    for n = 1, #some do found[first + n - 1] = some[n] end
  end
  return found
end

local function bucket_key(id) return PREFIX .. 'b:' .. id end

local function save(key, b)
  redis.call('HSET', key, 's', struct.pack('<ddddd', b.time, b.credit, b.sum, b.oldest, b.born) .. run)
  redis.call('EXPIRE', key, KEEP)
end

-- The server's clock was set: everything booked counts as booked now, which can only under-send.
local function rebase(key, b)
  redis.call('DEL', key)
  if b.sum > 0 then redis.call('HSET', key, current, b.sum) end
  b.time, b.credit, b.oldest, b.born = now, math.min(b.credit, 0), current - SPAN, math.min(b.born, current)
  b.hold, b.turn, b.line = nil, nil, nil
  save(key, b)
end

-- Drops the slots that no window ending now or later can touch.
local function expire(key, b)
  local first = current - SPAN
  if b.oldest >= first then return end
  if first - b.oldest > 2 * SPAN then
    redis.call('DEL', key)
    b.sum, b.hold, b.turn, b.line = 0, nil, nil, nil
  elseif b.sum ~= 0 then
    local names, gone = {}, {}
    for slot = b.oldest, first - 1 do names[#names + 1] = slot end
    local amounts = redis.call('HMGET', key, unpack(names))
    for i = 1, #names do
      if amounts[i] then
        b.sum = b.sum - tonumber(amounts[i])
        gone[#gone + 1] = names[i]
      end
    end
    if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
  end
  b.oldest = first
  save(key, b)
end

-- Who keeps others out of a bucket: a want that holds it until it fits, or a worker whose turn it is after a hold; and the
-- line of workers that were kept out, for the next turn. What has run out is left away. A turn is never renewed, and a hold
-- is placed only where nobody else keeps the want out of any of its buckets: so no two ever wait for each other.
local function guard(b, packed)
  local g = cmsgpack.unpack(packed)
  if g.hold and g.till > now then b.hold, b.amount, b.till, b.owner = g.hold, g.amount, g.till, g.owner end
  if g.turn and g.turn_till > now then b.turn, b.turn_till = g.turn, g.turn_till end
  if g.line then
    for n = 1, #g.line, 2 do
      if g.line[n + 1] > now then
        b.line = b.line or {}
        table.insert(b.line, g.line[n])
        table.insert(b.line, g.line[n + 1])
      end
    end
  end
end

local function save_guard(key, b)
  if b.hold or b.turn or b.line then
    local g = {hold = b.hold, amount = b.amount, till = b.till, owner = b.owner, turn = b.turn, turn_till = b.turn_till, line = b.line}
    redis.call('HSET', key, 'h', cmsgpack.pack(g))
  else
    redis.call('HDEL', key, 'h')
  end
end

-- The hold is over: the turn goes to the worker that was kept out longest, if there is one.
local function release(b)
  b.hold, b.amount, b.till, b.owner = nil, nil, nil, nil
  if b.line then
    b.turn, b.turn_till = table.remove(b.line, 1), now + HOLD
    table.remove(b.line, 1)
    if #b.line == 0 then b.line = nil end
  end
end

-- The bucket as stored, its ring swept; nil if this run of the server has never seen it.
local function load(id)
  local key = bucket_key(id)
  local got = redis.call('HMGET', key, 's', 'h')
  if not got[1] then return nil end
  local of = string.sub(got[1], 41)
  if of ~= '' and of ~= run then
    redis.call('DEL', key)
    return nil
  end
  local b = {}
  b.time, b.credit, b.sum, b.oldest, b.born = struct.unpack('<ddddd', got[1])
  if got[2] then guard(b, got[2]) end
  if stepped or b.oldest - (current - SPAN) > 2 then rebase(key, b) else expire(key, b) end
  return b
end

-- Units of pacing credit an idle bucket may save up: about half a second's worth, at least one call. A provider that slices its minutes
-- by the second then still takes a start whose first calls bunch up behind connections being made.
local function burst_of(limit, rate) return math.max(1, math.floor((limit - math.floor(60 * rate)) / 2)) end

-- The cooldowns of a pool: by model, '' for all of them, until when nothing of it starts. They are packed into one value, so that
-- a call of reserve.lua pays for them only where there are any. An entry is {end, kind, trial}: `kind` 1 where the provider named
-- the model itself; `trial` above 0 where one call is to find out first whether it is over, instead of all that wait: 1, and one more
-- for each such call.
local BELIEVED = 25 * 3600  -- seconds: whoever names a later end is asked again after `LONGEST`
local LONGEST = 24 * 3600
local TRIAL = 10            -- seconds a trial call has until the next one goes
local TRIALS = 6            -- so many go one after the other
local AFTER = 3600          -- seconds an entry outlives its end, for its trial
local MOST_COOLING = 1000   -- models of one pool: who submits lines may name any

local function cooldown_key(pool) return PREFIX .. 'r:' .. pool end

local function save_cooldowns(pool, entries)
  local latest, names = 0, {}
  for model, entry in pairs(entries) do
    if entry[1] + (entry[3] > 0 and AFTER or 0) <= now then
      entries[model] = nil
    else
      latest = math.max(latest, entry[1])
      names[#names + 1] = model
    end
  end
  if #names > MOST_COOLING then
    table.sort(names, function(a, b) return entries[a][1] > entries[b][1] end)
    for n = MOST_COOLING + 1, #names do entries[names[n]] = nil end
  end
  if #names == 0 then
    redis.call('DEL', cooldown_key(pool))
  else
    redis.call('SET', cooldown_key(pool), cmsgpack.pack(entries), 'EX', math.ceil(math.max(0, latest - now)) + AFTER)
  end
end

-- From what is stored, or nil. An end that lies too far ahead is brought near, also where it was written before a clock was set.
local function cooldowns_of(pool, packed)
  if not packed then return nil end
  local entries, far = cmsgpack.unpack(packed), false
  for _, entry in pairs(entries) do
    if entry[1] > now + BELIEVED then
      entry[1], far = now + LONGEST, true
    end
  end
  if far then save_cooldowns(pool, entries) end
  return entries
end

local function cooldowns(pool) return cooldowns_of(pool, redis.call('GET', cooldown_key(pool))) end

-- Lets nothing of a model start before `till`, if it doesn't rest for longer already.
local function cool_down(entries, model, till, kind, trial)
  local entry = entries[model]
  if entry and entry[1] >= till then
    entry[2] = math.min(entry[2], kind)
  else
    entries[model] = {till, kind, trial}
  end
end
