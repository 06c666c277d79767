-- Answers a 429: the key's buckets lose their pacing credit, and the model cools down on the pool if it was not a lone one. The whole
-- pool does if the provider named it, or if a second model is refused while the first one rests and no other is answered.
--
-- args: now, pool, model, bucket ids, seconds to cool, whether the provider asked for that many, 429s that cool, their share of
--       the grants, Retry-After that cools at once, seconds from which on a trial comes first, what the provider named ('' nothing,
--       'model', 'pool'), whether other models of the pool are answered just now
-- reply: seconds that the model cools, seconds that the pool cools; 0: it does not
local pool, model, ids, seconds, asked = args[2], args[3], args[4], args[5], args[6]
local several, share, long, try_from, named, answered = args[7], args[8], args[9], args[10], args[11], args[12]
for _, id in ipairs(ids) do
  local b = load(id)
  if b then
    b.credit, b.time = math.min(b.credit, 0), math.max(b.time, now)
    save(bucket_key(id), b)
  end
end
local second = math.floor(now)
local mine = PREFIX .. 'nm:' .. pool .. ':' .. second
redis.call('HINCRBY', mine, model, 1)
redis.call('EXPIRE', mine, 15)
local whole = named == 'pool' or model == ''
local function counted(kind)
  local sum = 0
  for back = 0, 9 do
    local key = PREFIX .. kind .. pool .. ':' .. (second - back)
    for _, n in ipairs(whole and redis.call('HVALS', key) or redis.call('HMGET', key, model)) do
      sum = sum + tonumber(n or 0)
    end
  end
  return sum
end
local refused, grants = counted('nm:'), counted('gm:')
-- One is never several. From three on it takes a third of the share, so that stray ones in a thousand never stop a fast pool.
local cools = (asked and seconds > long)
  or (refused >= several and refused > share * grants * 0.3)
  or (refused >= 2 and refused > share * grants)
if not cools then return cmsgpack.pack({0, 0}) end
if seconds > BELIEVED then seconds = LONGEST end
local till, trial = now + seconds, seconds > try_from and 1 or 0
local entries = cooldowns(pool) or {}
if whole then
  cool_down(entries, '', till, 0, trial)
else
  cool_down(entries, model, till, named == 'model' and 1 or 0, trial)
  if named == '' and not answered then
    local second_till = 0
    for other, entry in pairs(entries) do
      if other ~= '' and other ~= model and entry[2] == 0 then second_till = math.max(second_till, entry[1]) end
    end
    if second_till > now then
      local both = math.min(till, second_till)
      cool_down(entries, '', both, 0, both - now > try_from and 1 or 0)
    end
  end
end
save_cooldowns(pool, entries)
local function left(name) return entries[name] and math.max(0, entries[name][1] - now) or 0 end
return cmsgpack.pack({whole and 0 or left(model), left('')})
