-- What every limiter script starts with: the clock, the names, and one bucket's life in Redis.
-- It decides nothing: reserve.lua grants, settle.lua corrects, seed.lua begins, cool.lua answers a 429.
--
-- KEYS[1] is the hash tag alone, so that a cluster sends all scripts to one node; ARGV[1] is one MessagePack array
-- whose first item is the time in seconds, or false for the server's own clock (only tests pass a time).
--
-- A bucket is one hash. Field `s` packs five doubles:
--   time    the latest booked start (may lie up to the horizon ahead)
--   credit  pacing credit at that time, in units
--   sum     of all slots in the ring
--   oldest  no slot below this one is in the hash any more
--   born    slot in which this hash was made: what was granted before is not in it by its own slot
-- `h` packs the hold: want id, amount, expiry. A field named by a number is that slot's booked amount.
local SLOT = 0.5        -- seconds
local SPAN = 120        -- a 60 s window ending in slot k touches slots k-120 .. k: 121 of them
local KEEP = 3600       -- seconds an untouched bucket is remembered; only its ring's last minute matters
local HOLD = 2          -- seconds a hold stands unless it is renewed
local PREFIX = KEYS[1] .. ':'

local args = cmsgpack.unpack(ARGV[1])
local now = args[1]
if not now then
  local t = redis.call('TIME')
  now = tonumber(t[1]) + tonumber(t[2]) / 1000000
end
local current = math.floor(now / SLOT)

local function bucket_key(id) return PREFIX .. 'b:' .. id end

local function save(key, b)
  redis.call('HSET', key, 's', struct.pack('<ddddd', b.time, b.credit, b.sum, b.oldest, b.born))
  redis.call('EXPIRE', key, KEEP)
end

-- The server's clock went back: everything booked counts as booked now, which can only under-send.
local function rebase(key, b)
  redis.call('DEL', key)
  if b.sum > 0 then redis.call('HSET', key, current, b.sum) end
  b.time, b.credit, b.oldest, b.born = now, math.min(b.credit, 0), current - SPAN, current
  b.hold = nil
  save(key, b)
end

-- Drops the slots that no window ending now or later can touch.
local function expire(key, b)
  local first = current - SPAN
  if b.oldest >= first then return end
  if first - b.oldest > 2 * SPAN then
    redis.call('DEL', key)
    b.sum, b.hold = 0, nil
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

-- The bucket as stored, its ring swept, a hold that has run out left away; nil if Redis has never seen it.
local function load(id)
  local key = bucket_key(id)
  local got = redis.call('HMGET', key, 's', 'h')
  if not got[1] then return nil end
  local b = {}
  b.time, b.credit, b.sum, b.oldest, b.born = struct.unpack('<ddddd', got[1])
  if got[2] then
    local id_, amount, till = cmsgpack.unpack(got[2])
    if till > now and till <= now + HOLD + 1 then b.hold, b.hold_amount = id_, amount end
  end
  if b.oldest - (current - SPAN) > 2 then rebase(key, b) else expire(key, b) end
  return b
end

-- Units of pacing credit an idle bucket may save up: about a second's worth, at least one call.
local function burst_of(limit, rate) return math.max(1, limit - math.floor(60 * rate)) end
