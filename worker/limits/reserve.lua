-- Grants wants their start times and keys, or says how long until it makes sense to ask again. See limiter.py.
--
-- args: now, horizon, pace, create, bucket ids, bucket units, bucket limits,
--       key names, key pools, key ranks, buckets of each key, key sets (cheapest first), want ids, want sets, charges (4 a want)
-- reply: {1, indexes of buckets never seen}: nothing was booked; or
--        {0, a, b, c, a, b, c, ...}, three numbers a want:
--          key index, start in seconds from now, slot         granted
--          0 limit | -1 cooling | -2 blocked, seconds, 0 | 1 holds | 2 behind a hold
local horizon, pace, create = args[2], args[3], args[4]
local ids, units, limits = args[5], args[6], args[7]
local names, pools, ranks, members, sets = args[8], args[9], args[10], args[11], args[12]
local want_ids, want_sets, charges = args[13], args[14], args[15]
local latest = now + horizon
local OVERSIZE = 0.25   -- of the burst: smaller ones always find a gap under saturation, bigger ones need a hold to

local stored, unknown = {}, {}
for i = 1, #ids do
  stored[i] = load(ids[i])
  if not stored[i] then unknown[#unknown + 1] = i end
end
if #unknown > 0 then
  if not create then return cmsgpack.pack({1, unknown}) end
  for _, i in ipairs(unknown) do
    local b = {time = now, credit = limits[i], sum = 0, oldest = current - SPAN, born = current}
    save(bucket_key(ids[i]), b)
    stored[i] = b
  end
end

-- Bucket state in parallel arrays, credit brought up to now (or to the latest booked start, if that lies ahead).
local rate, burst, base, credit, sum, hold, hold_amount, touched, booked, older = {}, {}, {}, {}, {}, {}, {}, {}, {}, {}
for i = 1, #ids do
  local b = stored[i]
  local r = pace * limits[i] / 60
  local size = burst_of(limits[i], r)
  local cap, c, t = size, b.credit, b.time
  if b.hold then cap = math.max(cap, b.hold_amount) end
  if t < now then
    c = c + r * (now - t)
    t = now
  end
  rate[i], burst[i], base[i], credit[i], sum[i] = r, size, t, math.min(c, cap), b.sum
  hold[i], hold_amount[i] = b.hold, b.hold_amount
end

local marks = {}
for k = 1, #names do
  marks[3 * k - 2], marks[3 * k - 1], marks[3 * k] = PREFIX .. 'x:' .. names[k], PREFIX .. 'x:' .. pools[k], PREFIX .. 'c:' .. pools[k]
end
if #marks > 0 then marks = redis.call('MGET', unpack(marks)) end
local blocked, open = {}, {}   -- by key: blocked until, or nil; earliest time its pool lets it start
for k = 1, #names do
  local a, b, c = tonumber(marks[3 * k - 2] or 0), tonumber(marks[3 * k - 1] or 0), tonumber(marks[3 * k] or 0)
  local till = math.max(a, b)
  if till > now then blocked[k] = till end
  open[k] = math.max(now, c)
end

-- Earliest time at which enough of the ring has left the window for `amount` to fit. The slots are read once a call.
local function ring_time(i, amount)
  local need = sum[i] + amount - limits[i]
  local first = stored[i].oldest
  local total = older[i]
  if not total then
    local slots = {}
    for slot = first, math.floor(latest / SLOT) + 1 do slots[#slots + 1] = slot end
    total = redis.call('HMGET', bucket_key(ids[i]), unpack(slots))
    local so_far = 0
    for j = 1, #slots do
      so_far = so_far + tonumber(total[j] or 0)
      total[j] = so_far
    end
    older[i] = total
  end
  local low, high = 1, #total
  if total[high] < need then return (math.floor(base[i] / SLOT) + SPAN + 1) * SLOT end
  while low < high do
    local middle = math.floor((low + high) / 2)
    if total[middle] >= need then high = middle else low = middle + 1 end
  end
  return (first + low - 1 + SPAN + 1) * SLOT
end

local function book(k, start, charge)
  local slot = math.floor(start / SLOT)
  for _, i in ipairs(members[k]) do
    local amount = charge[units[i]]
    if amount > 0 then
      local c = math.min(credit[i] + rate[i] * (start - base[i]), math.max(burst[i], amount))
      base[i], credit[i], sum[i] = start, c - amount, sum[i] + amount
      local slots = booked[i]
      if not slots then slots = {}; booked[i] = slots end
      slots[slot] = (slots[slot] or 0) + amount
      touched[i] = true
    end
  end
  return slot
end

local function drop_holds(id, set, except)
  for _, k in ipairs(set) do
    if k ~= except then
      for _, i in ipairs(members[k]) do
        if hold[i] == id then
          local shared = false
          if except then
            for _, j in ipairs(members[except]) do shared = shared or j == i end
          end
          if not shared then
            hold[i], touched[i] = nil, true
            credit[i] = math.min(credit[i], burst[i])
          end
        end
      end
    end
  end
end

-- A want that does not fit keeps what blocks it on one key free of others. Only a key none of whose buckets is held by
-- another takes a new hold, so two holders never wait for each other.
local function place_holds(id, k, denied, charge)
  for _, i in ipairs(members[k]) do
    local amount = charge[units[i]]
    if amount > 0 then
      local start = base[i] + math.max(0, amount - credit[i]) / rate[i]
      local mine = hold[i] == id
      if not mine and not denied then
        mine = start > latest or (sum[i] + amount > limits[i] and ring_time(i, amount) > latest)
      end
      if mine then hold[i], hold_amount[i], touched[i] = id, amount, true end
    end
  end
end

local granted, reply, charge = {}, {0}, {}
for w = 1, #want_ids do
  local id, set = want_ids[w], sets[want_sets[w]]
  local at = 4 * w - 4
  charge[1], charge[2], charge[3], charge[4] = charges[at + 1], charges[at + 2], charges[at + 3], charges[at + 4]
  local key, start, room = nil, nil, nil          -- the best that can go
  local late, late_key, late_big = nil, nil, nil  -- the best that can't yet, of the keys nobody else holds
  local soon, behind, freed, holder, holder_denied = nil, false, nil, nil, false
  for n = 1, #set do
    local k = set[n]
    if key and ranks[k] > ranks[key] then break end
    if blocked[k] then
      if not freed or blocked[k] < freed then freed = blocked[k] end
    else
      local s, space, denied, big, mine = open[k], 1, false, false, false
      local list = members[k]
      for j = 1, #list do
        local i = list[j]
        local amount = charge[units[i]]
        if amount > 0 then
          local held, missing = hold[i], amount - credit[i]
          if held then
            if held == id then
              mine = true
            else
              denied = true
              missing = missing + hold_amount[i]
            end
          end
          local b = base[i]
          if missing > 0 then b = b + missing / rate[i] end
          local after = sum[i] + amount
          if after > limits[i] then
            local r = ring_time(i, amount)
            if r > b then b = r end
          end
          if b > s then s = b end
          if b > latest and units[i] > 1 and amount > OVERSIZE * burst[i] then big = true end
          local left = 1 - after / limits[i]
          if left < space then space = left end
        end
      end
      if mine then holder, holder_denied = k, denied end
      if s <= latest and not denied then
        if not key or s < start - 1e-6 or (s < start + 1e-6 and space > room) then key, start, room = k, s, space end
      else
        if not soon or s < soon then soon, behind = s, denied end
        if not denied and (not late or s < late) then late, late_key, late_big = s, k, big end
      end
    end
  end
  if key then
    local slot = book(key, start, charge)
    if next(hold) then drop_holds(id, set) end
    granted[pools[key]] = (granted[pools[key]] or 0) + 1
    reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = key, start - now, slot
  elseif not soon then
    reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = -2, (freed or now) - now, 0
  else
    local kind, state = 0, 0
    if not holder and late_big then holder = late_key end
    if holder then
      place_holds(id, holder, holder_denied, charge)
      drop_holds(id, set, holder)
      state = 1
    elseif behind then
      state = 2
    end
    if late_key and late == soon and open[late_key] >= late then kind = -1 end
    reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = kind, soon - now, state
  end
end

for i in pairs(touched) do
  local key, b = bucket_key(ids[i]), stored[i]
  b.time, b.credit, b.sum = base[i], credit[i], sum[i]
  save(key, b)
  for slot, amount in pairs(booked[i] or {}) do redis.call('HINCRBY', key, slot, amount) end
  if hold[i] ~= b.hold or hold[i] then
    if hold[i] then
      redis.call('HSET', key, 'h', cmsgpack.pack(hold[i], hold_amount[i], now + HOLD))
    else
      redis.call('HDEL', key, 'h')
    end
  end
end
for pool, count in pairs(granted) do
  local key = PREFIX .. 'g:' .. pool .. ':' .. math.floor(now)
  redis.call('INCRBY', key, count)
  redis.call('EXPIRE', key, 15)
end
return cmsgpack.pack(reply)
