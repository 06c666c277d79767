-- Lifts the holds of one want, so that its buckets need not wait for them to run out.
--
-- args: now, want id, bucket ids
local id = args[2]
for _, name in ipairs(args[3]) do
  local b = load(name)
  if b and b.hold == id then
    release(b)
    save_guard(bucket_key(name), b)
  end
end
return 1
