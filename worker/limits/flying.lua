-- Counts a worker's calls in flight where something is learned of their model.
--
-- args: now, the worker, list of {pool, model, calls in flight}
local worker, counts = args[2], args[3]
local by_pool = {}
for _, one in ipairs(counts) do
  local pool = one[1]
  by_pool[pool] = by_pool[pool] or ceilings_of(redis.call('GET', ceiling_key(pool)))
  for name, e in pairs(by_pool[pool]) do
    if name == one[2] then e.flying[worker] = {now, one[3]} end
    if name == '' then
      local before = e.flying[worker]
      e.flying[worker] = {now, one[3] + (before and before[1] == now and before[2] or 0)}
    end
  end
end
for pool, entries in pairs(by_pool) do
  if next(entries) ~= nil then save_ceilings(pool, entries) end
end
return 1
