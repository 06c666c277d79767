-- Answers a 429: the key's buckets lose their pacing credit, and the pool cools if it was not a lone one.
--
-- args: now, pool, bucket ids, seconds to cool, whether the provider asked for that many, 429s that cool, their share of
--       the grants, Retry-After that cools at once
-- reply: 1 if the pool cools
local pool, ids, seconds, asked, several, share, long = args[2], args[3], args[4], args[5], args[6], args[7], args[8]
for _, id in ipairs(ids) do
  local b = load(id)
  if b then
    b.credit, b.time = math.min(b.credit, 0), math.max(b.time, now)
    save(bucket_key(id), b)
  end
end
local second = math.floor(now)
local mine = PREFIX .. 'n:' .. pool .. ':' .. second
redis.call('INCR', mine)
redis.call('EXPIRE', mine, 15)
local names = {}
for back = 0, 9 do
  names[back + 1] = PREFIX .. 'n:' .. pool .. ':' .. (second - back)
  names[back + 11] = PREFIX .. 'g:' .. pool .. ':' .. (second - back)
end
local counts = redis.call('MGET', unpack(names))
local refused, grants = 0, 0
for n = 1, 10 do
  refused, grants = refused + tonumber(counts[n] or 0), grants + tonumber(counts[n + 10] or 0)
end
-- One is never several. From three on it takes a third of the share, so that stray ones in a thousand never stop a fast pool.
local cools = (asked and seconds > long)
  or (refused >= several and refused > share * grants * 0.3)
  or (refused >= 2 and refused > share * grants)
if not cools then return 0 end
local key = PREFIX .. 'c:' .. pool
local till = math.max(now + seconds, tonumber(redis.call('GET', key) or 0))
redis.call('SET', key, string.format('%.6f', till), 'PX', math.ceil((till - now) * 1000) + 60000)
return 1
