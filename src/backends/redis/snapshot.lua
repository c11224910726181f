-- How one semaphore stands, by the server's clock. Changes nothing. `status` calls this for one name after
-- the other, so it is a script of its own, with few calls. semaphore.lua says what is in the keys. Before
-- this comes server.lua.
--
-- KEYS  1 permits   2 queue   3 alive   4 asks   5 grants   6 state
-- ARGV  1 the TTL, ms, that foreign members have where none is in force
--       2 quarantine, ms, or -1: the larger of 30 s and the TTL
--       3 how many replicas must be in step   4 key of what the server remembers of itself
local permits, queue, alive, asks, grants, state = unpack(KEYS)

-- A hash's values for many fields; no call can take all of them at once.
local function values(hash, fields)
    local found = {}
    for from = 1, #fields, 1000 do
        local some = call('HMGET', hash, unpack(fields, from, math.min(from + 999, #fields)))
        for at = 1, #some do found[#found + 1] = some[at] end
    end
    return found
end

local kept = call('HMGET', state, 'limit', 'ttl', 'pause', 'pin', 'history', 'last', 'replicas')
local ttl, pause, pin = tonumber(kept[2] or ARGV[1]), tonumber(kept[3] or 0), kept[4]

local line, present = call('ZRANGE', queue, 0, -1), {}
if #line > 0 then
    local there = {}
    for _, waiter in ipairs(call('ZRANGEBYSCORE', alive, '(' .. text(now), '+inf')) do there[waiter] = true end
    for _, waiter in ipairs(line) do
        if there[waiter] then present[#present + 1] = waiter end
    end
end

-- Whether a client that asks now is granted nothing, and until when.
local replicas = tonumber(ARGV[3])
if #present > 0 or call('HLEN', grants) > 0 then replicas = math.max(replicas, tonumber(kept[7] or 0)) end
local in_step = replicas > 0 and count_in_step() or 0
local alone = in_step < replicas
if history ~= '' and not alone and not is_decided(kept[5], replicas) then
    local since, up = began(ARGV[4], replicas, false)
    local quarantine = tonumber(ARGV[2])
    if quarantine < 0 then quarantine = math.max(30000, ttl) end
    pause = math.max(pause, not_before(kept[6], since, up, quarantine, ttl))
end

local members, ends = {}, call('ZRANGEBYSCORE', permits, '-inf', '+inf', 'WITHSCORES')
for at = 1, #ends, 2 do members[#members + 1] = ends[at] end
local holders = {}
for at, grant in ipairs(values(grants, members)) do
    local left = tonumber(ends[2 * at]) - now
    -- An expired holder still counts while nothing is granted, and a foreign one for a TTL.
    local counts = left > 0 or (grant and (now < pause or alone)) or (not grant and left > -ttl)
    -- Other programs may have written any number there.
    if counts then holders[#holders + 1] = { members[at], math.min(left, 2 ^ 53), grant or '' } end
end

local waiters = {}
for at, ask in ipairs(values(asks, present)) do waiters[at] = { present[at], ask or '' } end

return { pin or kept[1] or 0, pin and 1 or 0, ttl, math.max(0, pause - now), in_step, replicas, holders, waiters,
    (kept[6] or pin or #members > 0) and 1 or 0 }
