-- Writes or renews the location row of one user on one node. Where it is the first of the user's rows, services are told in the same step.
-- KEYS[1] the user's rows; ARGV: node, epoch, shard, serial of this write, time to live in milliseconds, when the node's lease ends on this
-- server's clock, and, unless the user's coming was told before: the channel for it, and what to say.
-- Returns 1, or 0 where a newer epoch of this node has written, or the lease has ended: others may have cleaned up already, and would not
-- come back for a row that was on its way for so long.
local row = redis.call('HGET', KEYS[1], ARGV[1])
if row then
  local epoch = string.match(row, '^%d+')
  if epoch and tonumber(epoch) > tonumber(ARGV[2]) then
    return 0
  end
end
local time = redis.call('TIME')
if time[1] * 1000 + time[2] / 1000 >= tonumber(ARGV[6]) then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
if ARGV[7] and not row and redis.call('HLEN', KEYS[1]) == 1 then
  -- Who may not publish there has its rows all the same.
  redis.pcall('PUBLISH', ARGV[7], ARGV[8])
end
return 1
