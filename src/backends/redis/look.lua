-- How one semaphore stands, by the server's clock. Changes nothing. `status` calls this for one name after
-- the other, so it is a script of its own, with few calls. semaphore.lua says what is in the keys.
--
-- KEYS  1 permits   2 queue   3 alive   4 asks   5 grants   6 state
-- ARGV  1 the TTL, ms, that foreign members have where none is in force
--       2 quarantine, ms, or -1: the larger of 30 s and the TTL
local permits, queue, alive, asks, grants, state = unpack(KEYS)
local call = redis.call

-- What a hash has for each of many fields; no call can take all of them at once.
local function values(hash, fields)
    local found = {}
    for from = 1, #fields, 1000 do
        local some = call('HMGET', hash, unpack(fields, from, math.min(from + 999, #fields)))
        for at = 1, #some do found[#found + 1] = some[at] end
    end
    return found
end

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local kept = call('HMGET', state, 'limit', 'ttl', 'pause', 'pin', 'run', 'last')
local ttl, pause, pin = tonumber(kept[2] or ARGV[1]), tonumber(kept[3] or 0), kept[4]

-- Until when nobody would be granted a permit who asked now: semaphore.lua has the reasons.
local info = redis.pcall('INFO', 'server')
if type(info) ~= 'string' then info = '' end
local run = string.match(info, 'run_id:(%x+)') or ''
local up = math.max(0, tonumber(string.match(info, 'uptime_in_seconds:(-?%d+)') or 0) * 1000)
local quarantine, before = tonumber(ARGV[2]), kept[5] or ''
if quarantine < 0 then quarantine = math.max(30000, ttl) end
if run ~= '' and not kept[6] then
    if up < quarantine then pause = now + quarantine - up end
elseif run ~= '' and before ~= '' and before ~= run then
    local replication = redis.pcall('INFO', 'replication')
    local never = type(replication) == 'string' and string.find(replication, 'second_repl_offset:-1', 1, true)
    if up < ttl or not never then pause = math.max(pause, now + math.min(quarantine, ttl)) end
end

local members, ends = {}, call('ZRANGEBYSCORE', permits, '-inf', '+inf', 'WITHSCORES')
for at = 1, #ends, 2 do members[#members + 1] = ends[at] end
local holders = {}
for at, grant in ipairs(values(grants, members)) do
    local left = tonumber(ends[2 * at]) - now
    -- One whose time is over is still one while nobody is granted anything, and a foreign one for a TTL.
    local counts = left > 0 or (grant and now < pause) or (not grant and left > -ttl)
    -- Others may have written any number there.
    if counts then holders[#holders + 1] = { members[at], math.min(left, 2 ^ 53), grant or '' } end
end

local line = call('ZRANGE', queue, 0, -1)
if #line > 0 then
    local since, there, present = string.format('(%.0f', now), {}, {}
    for _, waiter in ipairs(call('ZRANGEBYSCORE', alive, since, '+inf')) do there[waiter] = true end
    for _, waiter in ipairs(line) do
        if there[waiter] then present[#present + 1] = waiter end
    end
    line = present
end
local waiters = {}
for at, ask in ipairs(values(asks, line)) do waiters[at] = { line[at], ask or '' } end

return { pin or kept[1] or 0, pin and 1 or 0, ttl, math.max(0, pause - now), holders, waiters }
