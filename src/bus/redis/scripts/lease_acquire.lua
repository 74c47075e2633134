-- Takes a lease under a fresh epoch.
-- KEYS[1] the leases; ARGV: node, instance, least epoch, time to live in milliseconds, '1' to take over from another instance, about,
-- the node and, after a newline, the epoch of the lease that this process held last, or ''.
-- Returns {1, epoch, memory, expires-at}, or {0, epoch} where a living lease belongs to another instance and is not taken over.
-- A lease is 'epoch expires-at instance about', in milliseconds of this server's clock. Beside the leases, under '\n', is the name of
-- this server's memory, which is forgotten with everything else.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch = tonumber(ARGV[3])
local lease = redis.call('HGET', KEYS[1], ARGV[1])
if lease then
  local held, expires, instance = string.match(lease, '^(%d+) (%d+) (%S+)')
  if held then
    if ARGV[5] ~= '1' and instance ~= ARGV[2] and tonumber(expires) > now then
      return {0, tonumber(held)}
    end
    if tonumber(held) >= epoch then
      epoch = tonumber(held) + 1
    end
    -- What was written under the epoch that ends here is still to be cleaned up: it gets a grave.
    redis.call('HSET', KEYS[1], ARGV[1] .. '\n' .. held, held .. ' 0 ' .. string.match(lease, '^%d+ %d+ (.*)$'))
  end
end
-- What this process has written under an epoch that was forgotten, too.
if ARGV[7] ~= '' then
  redis.call('HSETNX', KEYS[1], ARGV[7], string.match(ARGV[7], '%d+$') .. ' 0 ' .. ARGV[2] .. ' ' .. ARGV[6])
end
local text = string.format('%.0f %.0f %s %s', epoch, now + ARGV[4], ARGV[2], ARGV[6])
redis.call('HSET', KEYS[1], ARGV[1], text)
redis.call('HSETNX', KEYS[1], '\n', string.format('%.0f', time[1] * 1000000 + time[2]))
return {1, epoch, tonumber(redis.call('HGET', KEYS[1], '\n')), now + ARGV[4]}
