-- Deletes the location row of one user on one node, unless a newer epoch of that node has written it, or a later write of this epoch:
-- what was still under way on a connection that was given up may be carried out after what was sent on the next one. Where it was the last
-- of the user's rows, services are told in the same step.
-- KEYS[1] the user's rows; ARGV: node, epoch, serial of this write or '' for the last, until when on this server's clock the row must be
-- there, unless it was forgotten, or ''; the channel for services, and what to say.
-- Returns 1, whether or not there was a row to delete, or 0 where a newer epoch of that node has written.
local row = redis.call('HGET', KEYS[1], ARGV[1])
local gone = false
if not row and ARGV[4] ~= '' then
  local time = redis.call('TIME')
  gone = time[1] * 1000 + time[2] / 1000 < tonumber(ARGV[4])
elseif row then
  local epoch = string.match(row, '^%d+')
  if epoch and tonumber(epoch) > tonumber(ARGV[2]) then
    return 0
  end
  local serial = string.match(row, '^%d+ %d+ (%d+)$')
  if ARGV[3] == '' or not serial or tonumber(serial) <= tonumber(ARGV[3]) then
    redis.call('HDEL', KEYS[1], ARGV[1])
    gone = true
  end
end
if gone and redis.call('EXISTS', KEYS[1]) == 0 then
  redis.pcall('PUBLISH', ARGV[5], ARGV[6])
end
return 1
