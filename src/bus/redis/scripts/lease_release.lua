-- Ends a lease, which leaves a grave until its rows are cleaned up; or removes the grave.
-- KEYS[1] the leases; ARGV: node, epoch, '1' to remove the grave.
-- Returns 1; 0 where there is none; 2 where it is under a newer epoch; 3 where the grave is to be removed and the lease lives.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[3] == '1' and redis.call('HDEL', KEYS[1], ARGV[1] .. '\n' .. ARGV[2]) == 1 then
  return 1
end
local lease = redis.call('HGET', KEYS[1], ARGV[1])
local held, expires, rest = string.match(lease or '', '^(%d+) (%d+) (.*)$')
if not held or tonumber(held) < tonumber(ARGV[2]) then
  return 0
end
if tonumber(held) > tonumber(ARGV[2]) then
  return 2
end
if ARGV[3] ~= '1' then
  redis.call('HSET', KEYS[1], ARGV[1], held .. ' 0 ' .. rest)
  return 1
end
if tonumber(expires) > now then
  return 3
end
redis.call('HDEL', KEYS[1], ARGV[1])
return 1
