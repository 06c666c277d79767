-- Puts cooldowns in place that Redis may have lost, and ends others.
--
-- args: now, list of {pool, model ('' for all), seconds left, kind, trial} to stand if none stands there, list of {pool, model} to end
-- reply: how many of them were there to be ended
local ended = 0
for _, one in ipairs(args[2]) do
  local pool, model, seconds = one[1], one[2], one[3]
  local entries = cooldowns(pool) or {}
  if not entries[model] then
    entries[model] = {now + math.min(seconds, BELIEVED), one[4], one[5]}
    save_cooldowns(pool, entries)
  end
end
for _, one in ipairs(args[3]) do
  local entries = cooldowns(one[1])
  if entries and entries[one[2]] then
    entries[one[2]], ended = nil, ended + 1
    save_cooldowns(one[1], entries)
  end
end
return ended
