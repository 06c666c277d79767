-- Reads the learned ceilings of pools, after dropping those of a changed configuration, those that people reset and those that nobody has
-- used for a week, and after putting stored ones in place that Redis has lost.
--
-- args: now, pools, their configurations' fingerprints (a worker that starts) or an empty list, list of {pool, model ('' for all)} to
--       forget, list of {pool, model, requests a minute, tokens a minute, calls in flight} to stand where the model has none
-- reply: pool, model, requests a minute, tokens a minute, calls in flight (0: not learned), 1 if the search is over, else 0, seconds
--        since it was last used; for each entry that is left, one after the other
local pools, marks, forget, seeds = args[2], args[3], args[4], args[5]
local MARKS = PREFIX .. 'am'
for n, mark in ipairs(marks) do
  local before = redis.call('HGET', MARKS, pools[n])
  if before ~= mark then
    if before then redis.call('DEL', ceiling_key(pools[n])) end
    redis.call('HSET', MARKS, pools[n], mark)
  end
end

local known, changed = {}, {}
local function read(pool)
  if not known[pool] then
    local packed = redis.call('GET', ceiling_key(pool))
    known[pool] = packed and cmsgpack.unpack(packed) or {}
  end
  return known[pool]
end
for _, one in ipairs(forget) do
  local pool, model = one[1], one[2]
  if model == '' then
    if next(read(pool)) ~= nil then known[pool], changed[pool] = {}, true end
  elseif read(pool)[model] then
    known[pool][model], changed[pool] = nil, true
  end
end
for _, one in ipairs(seeds) do
  local pool, model = one[1], one[2]
  local entries, count = read(pool), 0
  for _ in pairs(entries) do count = count + 1 end
  if not entries[model] and count < MOST_LEARNED then
    entries[model], changed[pool] = seeded(one[3], one[4], one[5]), true
  end
end

local names, reply = {}, {}
for n, pool in ipairs(pools) do names[n] = ceiling_key(pool) end
names = #names > 0 and read_all(names) or names
for n, pool in ipairs(pools) do
  if known[pool] or names[n] then
    local entries = known[pool] or cmsgpack.unpack(names[n])
    for model, e in pairs(entries) do
      local requests, tokens, in_flight, found, seen = shown(e)
      if now - seen > CEILING_KEEP then
        entries[model], known[pool], changed[pool] = nil, entries, true
      else
        for _, value in ipairs({pool, model, requests, tokens, in_flight, found and 1 or 0, math.max(0, now - seen)}) do
          reply[#reply + 1] = value
        end
      end
    end
  end
end
for pool in pairs(changed) do save_ceilings(pool, known[pool]) end
return cmsgpack.pack(reply)
