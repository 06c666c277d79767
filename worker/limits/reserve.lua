-- Grants wants their start times and keys, or says how long until it makes sense to ask again. See limiter.py.
--
-- args: now, horizon, pace, create, rules (the mark that the limits were made by, or false), worker, bucket ids, bucket units, bucket limits,
--       key names, key pools, key ranks, buckets of each key, key sets (cheapest first), the model of each set, want ids, want
--       sets, charges (4 a want), limits by day or false (see reserve_days.lua),
--       whether each key's limits are learned (0, 1, 2: from a few calls on, since nothing is configured), our share of what is learned, seconds
--       between two steps of growth (false: calls take too long), the caller's calls in flight: pool, model, count, how many are one too many since calls are
--       late then (0: none), ...
-- reply: {1, run, now, indexes of buckets never seen, days never seen}, or {2, run, now} if other rules hold: nothing was booked; or
--        {0, run, now, a, b, c, a, b, c, ...}, three numbers a want:
--          key index, start in seconds from now, slot         granted
--          0 limit | -1 cooling | -2 blocked | -3 its model cools, or has a learned rate | -4 day | -5 calls in flight, seconds,
--          0 | 1 holds | 2 kept out by another
--        behind them how many numbers follow, seven for each grant of which something is learned: the want, and for its model and for
--        all models of the pool (0: nothing is learned there) the call's place in calls and in tokens, and the calls in flight with it; and where a limit by day kept a want waiting, its bucket and seconds in turns
local horizon, pace, create, rules, worker = args[2], args[3], args[4], args[5], args[6]
local ids, units, limits = args[7], args[8], args[9]
local names, pools, ranks, members, sets = args[10], args[11], args[12], args[13], args[14]
local set_models, want_ids, want_sets, charges = args[15], args[16], args[17], args[18]
local learns, uses, pause, reported = args[20], args[21], args[22], args[23]
if rules and redis.call('GET', PREFIX .. 'limits-mark') ~= rules then return cmsgpack.pack({2, run, now}) end
local latest = now + horizon + 1e-6
local NEAR = 0.2        -- seconds that calls are granted ahead while their rate is measured or probed
local OVERSIZE = 0.25   -- of the burst: smaller ones always find a gap under saturation, bigger ones need a hold to

local stored, unknown = {}, {}
for i = 1, #ids do
  stored[i] = load(ids[i])
  if not stored[i] then unknown[#unknown + 1] = i end
end
local unknown_days = days and begin_days(create) or {}
if #unknown > 0 or #unknown_days > 0 then
  if not create then return cmsgpack.pack({1, run, now, unknown, unknown_days}) end
  for _, i in ipairs(unknown) do
    local b = {time = now, credit = 1e15, sum = 0, oldest = current - SPAN, born = current}
    save(bucket_key(ids[i]), b)
    stored[i] = b
  end
end

-- Bucket state in parallel arrays: from `base` on, `a` units are there at `zero + a * each`; `left` is free in the ring.
local base, zero, each, left, burst, size = {}, {}, {}, {}, {}, {}
local keeper, saving = {}, {}              -- who keeps others out: a want id, or true for another's turn; what is saved for
local changed, guarded, refused, booked, older = {}, {}, {}, {}, {}
local holders, any_hold = {}, false        -- wants that hold something
local small = {math.huge, math.huge, math.huge, math.huge}  -- by unit, what is oversize on none of the buckets
for i = 1, #ids do
  local b = stored[i]
  local rate = pace * limits[i] / 60
  local most = burst_of(limits[i], rate)
  local cap, credit, at = most, b.credit, b.time
  if b.hold then
    keeper[i], saving[i] = b.hold, b.amount
    holders[b.hold], any_hold = true, true
    cap = math.max(cap, b.amount)
  elseif b.turn == worker then
    b.turn, b.turn_till, guarded[i] = nil, nil, true
  elseif b.turn then
    keeper[i], saving[i] = true, 0
  end
  if at < now then
    credit = credit + rate * (now - at)
    at = now
  end
  base[i], each[i], burst[i], left[i] = at, 1 / rate, most, limits[i] - b.sum
  zero[i] = at - math.min(credit, cap) / rate
  size[i] = units[i] > 1 and OVERSIZE * most or math.huge
  small[units[i]] = math.min(small[units[i]], size[i])
end

local marks = {}
for k = 1, #names do
  local x = PREFIX .. 'x:'
  marks[4 * k - 3], marks[4 * k - 2], marks[4 * k - 1] = x .. names[k], x .. pools[k], cooldown_key(pools[k])
  marks[4 * k] = learns[k] > 0 and ceiling_key(pools[k]) or x
end
marks = read_all(marks)
local blocked, cooling = {}, {}            -- by key: blocked until, or nil; its pool's cooldowns by model, or nil
local by_pool, tried = {}, {}              -- the same by pool; pools with a cooldown that a trial call goes for
local learned, learned_of = {}, {}         -- by key, by pool: its learned ceilings by model, or nil
local low, room, users = {}, {}, {}        -- by key: no start before this, free share of its rings; by bucket: its keys
for i = 1, #ids do users[i] = {} end
for k = 1, #names do
  local till = math.max(tonumber(marks[4 * k - 3] or 0), tonumber(marks[4 * k - 2] or 0))
  if till > now then blocked[k] = till end
  if marks[4 * k - 1] then
    by_pool[pools[k]] = by_pool[pools[k]] or cooldowns_of(pools[k], marks[4 * k - 1])
    cooling[k] = by_pool[pools[k]]
  end
  if learns[k] == 2 or learns[k] == 1 and marks[4 * k] then
    learned_of[pools[k]] = learned_of[pools[k]] or ceilings_of(marks[4 * k])
    learned[k] = learned_of[pools[k]]
  end
  low[k], room[k] = now, 1
  for _, i in ipairs(members[k]) do
    low[k], room[k] = math.max(low[k], base[i]), math.min(room[k], left[i] / limits[i])
    table.insert(users[i], k)
  end
end

-- The earliest start that cooldowns leave a model on key `k`, and whether it is its own that decides.
local function open(k, model)
  local whole, own = cooling[k][''], cooling[k][model]
  local at, of_model = whole and math.max(now, whole[1]) or now, false
  if own and own[1] > at then at, of_model = own[1], true end
  return at, of_model
end

-- A call goes where a cooldown has ended that wants a trial: nobody follows before there is time for its answer. Where several
-- trials neither ended the cooldown nor began another, no worker knows of it any more (one was killed before it stored it): it is over.
local function try(k, model, start)
  for _, name in ipairs(model == '' and {''} or {'', model}) do
    local entry = cooling[k][name]
    if entry and entry[3] > 0 then
      entry[1], entry[3], tried[pools[k]] = start + TRIAL, entry[3] < TRIALS and entry[3] + 1 or 0, true
    end
  end
end

-- What is learned of a model on key `k`, or of all its models, ready for this call; nil where nothing holds.
local function ceiling(k, model)
  local e = learned[k][model]
  if not e then
    if model == '' or learns[k] < 2 then return nil end
    e = new_entry()
    e.cap, e.more, e.cap_mark, e.cap_at, e.gentle = START, 0, 0, now, true
    learned[k][model] = e
  end
  if e.off then
    if e.off > now then return nil end
    e.off = nil
  end
  if not e.used then
    e.used, e.flying[worker] = true, nil
    for n = 1, #reported, 4 do
      if reported[n] == pools[k] and (model == '' or reported[n + 1] == model) then
        local one = e.flying[worker] or {now, 0}
        one[2] = one[2] + reported[n + 2]
        e.flying[worker] = one
        if reported[n + 3] > 0 then lower_cap(e, reported[n + 3] - 1) end
      end
    end
    e.count = in_flight(e)
    for _, unit in ipairs(GATES) do
      local g = e[unit]
      if g then
        if g.last > now + 3600 then g.last = now end  -- the server's clock was set back
        if g.wall and g.age >= OPEN then reopen(g) end
        g.rate = rate_of(g)
      end
    end
  end
  return e
end

-- Whether calls beyond the cap are being tried: where refusals would show that they are too many, as long as none comes.
local function may_try(e, use)
  if use < 1 then return false end
  if not e.step then return false end
  return e.gentle and e.more > 0 or not e.gentle and e.count < e.cap + e.step and now - e.cap_at < PROVEN
end

-- The earliest start that what is learned leaves a call on key `k`, whether calls in flight are what it waits for, and the latest start
-- that is granted now: while a rate is measured or probed, refusals have to change it soon.
local function learned_open(k, model, charge)
  local at, full, till, use = now, false, latest, uses[k]
  for which = 1, 2 do
    local e = ceiling(k, which == 1 and '' or model)
    if e then
      local cap = e.cap and math.max(1, math.floor(e.cap * use))
      if cap and e.count >= cap and not may_try(e, use) and not e.full then
        e.full = true
        -- our share never tries more than that; nothing is known yet while it grows
        if use == 1 or e.gentle then grow_cap(e, pause) end
        cap = math.max(1, math.floor(e.cap * use))
      end
      full = full or cap and e.count >= cap and not may_try(e, use)
      for n = 1, #GATES do
        local g = e[GATES[n]]
        if g and charge[n] > 0 then
          local rate = g.rate
          if use < 1 and g.found then rate = use * math.min(rate, g.top * FOUND) end
          local s = g.last + charge[n] / rate
          if s > now then
            g.bound = true
            if s > at then at = s end
          end
          if g and (not g.found or g.age >= g.stay) then till = now + NEAR end
        end
      end
    end
  end
  if full then at = math.max(at, now + 2 * horizon) end
  return at, full, till
end

local places = {}
local function book_learned(w, k, model, start, charge)
  local at = #places
  for which = 1, 2 do
    local e = ceiling(k, which == 1 and '' or model)
    if e then
      if e.cap and e.count >= e.cap and e.gentle then e.more = e.more - 1 end
      e.n, e.t, e.count = e.n + 1, e.t + charge[2], e.count + 1
      e.flying[worker] = e.flying[worker] or {now, 0}
      e.flying[worker][2] = e.flying[worker][2] + 1
      for n = 1, #GATES do
        local g = e[GATES[n]]
        if g and charge[n] > 0 then g.last = start end
      end
      for n = 1, 7 do places[at + n] = places[at + n] or 0 end
      local first = at + (which == 1 and 4 or 1)
      places[at + 1], places[first + 1], places[first + 2], places[first + 3] = w, e.n, e.t, e.count
    end
  end
end

-- Earliest time at which enough of the ring has left the window for `amount` to fit. The slots are read once a call.
local function ring_time(i, amount)
  local need = amount - left[i]
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

-- Earliest start that both gates of one bucket allow.
local function ready(i, amount)
  local at = math.max(base[i], zero[i] + amount * each[i])
  if amount > left[i] then at = math.max(at, ring_time(i, amount)) end
  return at
end

local function book(k, start, charge)
  if days then book_day(k, charge) end
  local slot = math.floor(start / SLOT)
  local list = members[k]
  for j = 1, #list do
    local i = list[j]
    local amount = charge[units[i]]
    if amount > 0 then
      local most = burst[i]
      if amount > most then most = amount end
      -- what this bucket alone would have allowed: a call that something else delays leaves the time until then to others
      local at = zero[i] + amount * each[i]
      if at < base[i] then at = base[i] end
      if at > start then at = start end
      local z = at - most * each[i]  -- credit is never more than that
      if z < zero[i] then z = zero[i] end
      zero[i], base[i] = z + amount * each[i], at
      local free = left[i] - amount
      left[i], changed[i] = free, true
      local slots = booked[i]
      if not slots then slots = {}; booked[i] = slots end
      slots[slot] = (slots[slot] or 0) + amount
      local share, list_of = free / limits[i], users[i]
      for n = 1, #list_of do
        local other = list_of[n]
        if low[other] < at then low[other] = at end
        if room[other] > share then room[other] = share end
      end
    end
  end
  return slot
end

-- What is known to have failed in this call, by key: a want as small as `small` whose amount in `unit` is no less fails too,
-- since what is booked only makes it later. Forgotten whenever somebody is let in again or kept out.
local late_unit, late_amount, late_start, late_out = {}, {}, {}, {}
local function forget() late_unit, late_amount, late_start, late_out = {}, {}, {}, {} end

local function let_go(id, set, except)
  local kept = {}
  for _, i in ipairs(except and members[except] or {}) do kept[i] = true end
  for _, k in ipairs(set) do
    for _, i in ipairs(members[k]) do
      local b = stored[i]
      if b.hold == id and not kept[i] then
        release(b)
        keeper[i], saving[i] = nil, nil
        if b.turn == worker then
          b.turn, b.turn_till = nil, nil
        elseif b.turn then
          keeper[i], saving[i] = true, 0
        end
        zero[i] = math.max(zero[i], base[i] - burst[i] * each[i])
        changed[i], guarded[i] = true, true
        forget()
      end
    end
  end
end

-- A want that does not fit keeps others out of what delays it on key `k`, whose earliest start is `start`. What is ready
-- long before stays open to others until it becomes the delay itself.
local function place_holds(id, k, start, kept_out, charge)
  for _, i in ipairs(members[k]) do
    local amount = charge[units[i]]
    if amount > 0 then
      local b = stored[i]
      if b.hold ~= id and not kept_out then
        local at = ready(i, amount)
        if at > latest and at >= start - SLOT then
          b.hold, b.owner, b.turn, b.turn_till = id, worker, nil, nil
          keeper[i], any_hold = id, true
          forget()
        end
      end
      if b.hold == id then
        b.amount, b.till = amount, now + HOLD
        saving[i], changed[i], guarded[i] = amount, true, true
      end
    end
  end
end

local granted, reply, charge = {}, {0, run, now}, {}
local function count_grant(w, k, model, start, charge)
  if learned[k] then book_learned(w, k, model, start, charge) end
  local counts = granted[pools[k]]
  if not counts then counts = {}; granted[pools[k]] = counts end
  counts[model] = (counts[model] or 0) + 1
end

-- The earliest start that cooldowns, limits by day and what is learned leave a call on key `k`, the kind of reply that this is the
-- reason for (0: nothing holds it), and the latest start that is granted now.
local function opens_at(k, model, charge)
  local opens, why, till = now, 0, latest
  if cooling[k] then
    local at, own = open(k, model)
    if at > now then opens, why = at, own and -3 or -1 end
  end
  if learned[k] then
    local at, full
    at, full, till = learned_open(k, model, charge)
    if at > opens then opens, why = at, full and -5 or -3 end
  end
  if days then
    local at = now + day_wait(k, charge)
    if at > opens then opens, why = at, -4 end
  end
  return opens, why, till
end

local function decide(w)
  local id, set, model = want_ids[w], sets[want_sets[w]], set_models[want_sets[w]]
  local at = 4 * w - 4
  charge[1], charge[2], charge[3], charge[4] = charges[at + 1], charges[at + 2], charges[at + 3], charges[at + 4]
  local little = not holders[id] and charge[2] <= small[2] and charge[3] <= small[3] and charge[4] <= small[4]
  local key, start                         -- the best that can go
  local late, late_key, late_big           -- the best that can't yet, of the keys it is not kept out of
  local late_why                           -- the kind of reply that this is the reason for
  local soon, behind, freed                -- the earliest hope of all, whether it is kept out there, the first block's end
  local holder, holder_start, holder_out   -- the key it holds something on
  for n = 1, #set do
    local k = set[n]
    if key and ranks[k] > ranks[key] then break end
    if blocked[k] then
      if not freed or blocked[k] < freed then freed = blocked[k] end
    elseif key and low[k] >= start - 1e-6 and (low[k] > start + 1e-6 or room[k] <= room[key]) then
      -- It can be no better than what is found. Where it still could, it is looked at:
    else
      local s, out, big, mine = now, false, false, false
      local opens, why, till = opens_at(k, model, charge)
      s = opens
      local unit = late_unit[k]
      if unit and little and opens <= now and charge[unit] >= late_amount[k] then
        s, out = late_start[k], late_out[k]
      else
        local list = members[k]
        local amount_late
        for j = 1, #list do
          local i = list[j]
          local amount = charge[units[i]]
          if amount > 0 then
            local b, by = zero[i] + amount * each[i], keeper[i]
            if by then
              if by == id then
                mine = true
              else
                out, b = true, b + saving[i] * each[i]
                unit, amount_late = units[i], 1
                refused[i] = refused[i] or by == true or stored[i].owner ~= worker
              end
            end
            if b < base[i] then b = base[i] end
            if amount > left[i] then
              local r = ring_time(i, amount)
              if r > b then b = r end
            end
            if b > s then s = b end
            if b > latest then
              big = big or amount > size[i]
              if not out then unit, amount_late = units[i], amount end
            end
          end
        end
        if amount_late and little and opens <= now then
          late_unit[k], late_amount[k], late_start[k], late_out[k] = unit, amount_late, s, out
        end
        if mine then holder, holder_start, holder_out = k, s, out end
      end
      if s <= till and not out then
        if not key or s < start - 1e-6 or (s < start + 1e-6 and room[k] > room[key]) then key, start = k, s end
      else
        if not soon or s < soon then soon, behind = s, out end
        if not out and (not late or s < late) then
          late, late_key, late_big = s, k, big and why ~= -4
          late_why = opens >= s and why or 0
        end
      end
    end
  end
  at = 3 * w + 1
  if key then
    local slot = book(key, start, charge)
    if any_hold then let_go(id, set) end
    if cooling[key] then try(key, model, start) end
    count_grant(w, key, model, start, charge)
    reply[at], reply[at + 1], reply[at + 2] = key, start - now, slot
  elseif not soon then
    reply[at], reply[at + 1], reply[at + 2] = -2, (freed or now) - now, 0
  else
    local kind, state = 0, 0
    if not holder and late_big then holder, holder_start, holder_out = late_key, late, false end
    if holder then
      place_holds(id, holder, holder_start, holder_out, charge)
      let_go(id, set, holder)
      state = 1
    elseif behind then
      state = 2
    end
    if late_key and late == soon then kind = late_why end
    reply[at], reply[at + 1], reply[at + 2] = kind, soon - now, state
  end
end

-- Those that hold go first: what they keep others out of is theirs, whatever their place among the wants.
for w = 1, #want_ids do
  if holders[want_ids[w]] then decide(w) end
end
for w = 1, #want_ids do
  if not holders[want_ids[w]] then decide(w) end
end

-- A worker that was kept out keeps its place in the line, or takes one; one that was not leaves it.
local function stand_in_line(i)
  local b, place = stored[i], nil
  for n = 1, b.line and #b.line or 0, 2 do
    if b.line[n] == worker then place = n end
  end
  if refused[i] then
    b.line = b.line or {}
    place = place or #b.line + 1
    b.line[place], b.line[place + 1] = worker, now + HOLD
    guarded[i] = true
  elseif place then
    table.remove(b.line, place)
    table.remove(b.line, place)
    if #b.line == 0 then b.line = nil end
    guarded[i] = true
  end
end

for i = 1, #ids do
  if refused[i] or stored[i].line then stand_in_line(i) end
  local key, b = bucket_key(ids[i]), stored[i]
  if changed[i] then
    b.time, b.credit, b.sum = base[i], (base[i] - zero[i]) / each[i], limits[i] - left[i]
    save(key, b)
    if booked[i] then
      for slot, amount in pairs(booked[i]) do redis.call('HINCRBY', key, slot, amount) end
    end
  end
  if guarded[i] then save_guard(key, b) end
end
for pool, counts in pairs(granted) do
  local key = PREFIX .. 'gm:' .. pool .. ':' .. math.floor(now)
  for model, count in pairs(counts) do redis.call('HINCRBY', key, model, count) end
  redis.call('EXPIRE', key, 65)
end
for pool, entries in pairs(learned_of) do
  local used = false
  for _, e in pairs(entries) do
    if e.used then
      used = true
      for n = 1, #GATES do
        local g = e[GATES[n]]
        if g then
          -- what holds calls back is what makes it older: a rate that nobody asked for proves nothing
          if g.bound then g.age = g.age + math.max(0, math.min(1, now - e.seen)) end
          g.rate, g.bound = nil, nil
        end
      end
      e.seen, e.used, e.full, e.count = now, nil, nil, nil
    end
  end
  if used then save_ceilings(pool, entries) end
end
for pool in pairs(tried) do save_cooldowns(pool, by_pool[pool]) end
reply[#reply + 1] = #places
for n = 1, #places do reply[#reply + 1] = places[n] end
if days then end_days(reply, create) end
return cmsgpack.pack(reply)
