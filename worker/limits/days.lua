-- Counters of limits by day. The caller names each day by its start and states when it ends: the server's clock decides nothing here.
--
-- A bucket of days is one hash with a field a day. It packs three doubles, and behind them the run of the server as in bucket.lua:
--   used    amount booked in that day
--   booked  when something was last booked
--   born    when the counter was made from the ledger
local DAY_KEEP = 3 * 86400  -- seconds an untouched bucket is remembered
local RECOUNT = 10          -- seconds after the last booking from which the ledger is complete, however busy the database is

local function load_day(id, day)
  local got = redis.call('HGET', bucket_key(id), day)
  if not got then return nil end
  local of = string.sub(got, 25)
  if of ~= '' and of ~= run then return nil end
  local used, booked, born = struct.unpack('<ddd', got)
  return {used = used, booked = booked, born = born}
end

local function save_day(id, day, counter)
  redis.call('HSET', bucket_key(id), day, struct.pack('<ddd', counter.used, counter.booked, counter.born) .. run)
  redis.call('EXPIRE', bucket_key(id), DAY_KEEP)
end

local function new_day(id, day, used)
  for _, other in ipairs(redis.call('HKEYS', bucket_key(id))) do
    if tonumber(other) < day - DAY_KEEP then redis.call('HDEL', bucket_key(id), other) end
  end
  local counter = {used = used, booked = 0, born = now}
  save_day(id, day, counter)
  return counter
end
