-- Ends a lease, or removes what is left of one that has run out.
-- KEYS[1] the leases; ARGV: node, epoch, '1' where only a lease that has run out is to be removed.
-- Returns 1; 0 where there is none; 2 where it is under a newer epoch; 3 where it lives and was to be left alone.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = redis.call('HGET', KEYS[1], ARGV[1])
if not lease then
  return 0
end
local held, expires = string.match(lease, '^(%d+) (%d+)')
if held and tonumber(held) > tonumber(ARGV[2]) then
  return 2
end
if held and ARGV[3] == '1' and tonumber(expires) > now then
  return 3
end
redis.call('HDEL', KEYS[1], ARGV[1])
return 1
