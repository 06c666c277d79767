-- Takes over the limits that a reply states, where nothing is learned of the model yet. Refusals correct what is wrong about them.
--
-- args: now, pool, model ('' where they are for all models of the pool), requests a minute, tokens a minute (0: not stated)
-- reply: 1 if anything was taken over
local pool, model = args[2], args[3]
local stated = {requests = args[4], tokens = args[5]}
local entries = ceilings_of(redis.call('GET', ceiling_key(pool)))
local e, changed = entries[model] or new_entry(), 0
for _, unit in ipairs(GATES) do
  local g = e[unit]
  if stated[unit] > 0 and (not e.off or e.off <= now) and (not g or g.stated and g.found) then
    if not g or math.abs(g.stated - stated[unit]) > 0.01 * stated[unit] then
      e[unit] = found_gate(stated[unit] / 60, STAY)
      e[unit].stated, e[unit].age, e[unit].mark, changed = stated[unit], RECOVER, e.n, 1
    end
  end
end
if changed == 1 then
  entries[model], e.seen = e, now
  save_ceilings(pool, entries)
end
return changed
