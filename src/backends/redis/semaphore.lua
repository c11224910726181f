-- One semaphore in Redis. Every operation is this script: it runs alone, on the server's clock, and
-- may be repeated as often as one likes. docs/redis.md has the keys and the reasons.
--
-- KEYS  1 permits (PassBuddy's sorted set: UUID -> expiry in ms)   2 queue (UUID -> ticket)
--       3 alive (UUID -> until when a waiter counts, ms)           4 asks (UUID -> what a waiter wants)
--       5 grants (UUID -> what a holder got; who has none here is foreign)
--       6 state                                                    7 done (UUID -> until when, ms)
-- ARGV  1 operation: ask, renew, release, look   2 UUID   3 limit   4 TTL, ms   5 who, JSON
--       6 ticket that a waiter has, or 0   7 token that a holder has, or 0
--       8 quarantine, ms, or -1: the larger of 30 s and the TTL
--       9 for how long a waiter counts, ms   10 nonblock, or empty   11 strict, or empty
local permits, queue, alive, asks, grants, state, done = unpack(KEYS)
local operation, id, who = ARGV[1], ARGV[2], ARGV[5]
local asked_limit, asked_ttl = tonumber(ARGV[3]), tonumber(ARGV[4])
local has_ticket, has_token = tonumber(ARGV[6]), tonumber(ARGV[7])
local call = redis.call

local UNCLAIMED = 5000 -- ms for which a waiter's permit is kept until it says that it has it
local WAKE = 30000 -- ms for which a wake-up is kept
local HOUR, DAY = 3600000, 86400000

local function text(number) return string.format('%.0f', number) end
local function wake_list(waiter) return '{' .. permits .. '}:wake:' .. waiter end

-- The first write of a script may not ask for memory; then the rest may, even when it is full.
if operation ~= 'look' then call('ZREMRANGEBYSCORE', done, '-inf', 0) end

local time = call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = math.floor(micros / 1000)

local names = { 'run', 'last', 'pause', 'token', 'ticket', 'limit', 'ttl', 'shared' }
local kept = {}
for at, value in ipairs(call('HMGET', state, unpack(names))) do kept[names[at]] = value end
local known = kept.last and true or false
local last, pause = tonumber(kept.last or 0), tonumber(kept.pause or 0)
local token, ticket = tonumber(kept.token or 0), tonumber(kept.ticket or 0)
local limit, ttl = tonumber(kept.limit or asked_limit), tonumber(kept.ttl or asked_ttl)
local shared = kept.shared == '1'

local function members(from, to) return call('ZRANGEBYSCORE', permits, from, to, 'WITHSCORES') end
local function ours(member) return call('HEXISTS', grants, member) == 1 end
local function leave_queue(waiter)
    call('ZREM', queue, waiter)
    call('ZREM', alive, waiter)
    call('HDEL', asks, waiter)
end

if operation == 'look' then
    local holders, waiters = {}, {}
    local all = members('-inf', '+inf')
    for at = 1, #all, 2 do
        local grant, left = call('HGET', grants, all[at]), tonumber(all[at + 1]) - now
        local counts = left > 0 or (grant and now < pause) or (not grant and left > -ttl)
        if counts then holders[#holders + 1] = { all[at], text(left), grant or '' } end
    end
    for _, waiter in ipairs(call('ZRANGE', queue, 0, -1)) do
        local until_then = tonumber(call('ZSCORE', alive, waiter) or 0)
        if until_then > now then
            waiters[#waiters + 1] = { waiter, call('HGET', asks, waiter) or '' }
        end
    end
    return { text(limit), text(ttl), text(math.max(0, pause - now)), holders, waiters }
end

-- Who is answering? A server that was restarted, or one that took another's place, may have
-- forgotten the last grants: until those who hold them have spoken, nobody gets one.
local info = redis.pcall('INFO', 'server')
if type(info) ~= 'string' then info = '' end -- an ACL may forbid it; the client says so
local run = string.match(info, 'run_id:(%x+)') or ''
local blind = run == '' and 1 or 0
-- By the wall clock: one that went back makes it negative, and then nobody knows.
local up = math.max(0, tonumber(string.match(info, 'uptime_in_seconds:(-?%d+)') or 0) * 1000)
local longest = math.max(ttl, asked_ttl)
local quarantine = tonumber(ARGV[8])
local auto = quarantine < 0
if auto then quarantine = math.max(30000, longest) end
local before = kept.run or ''
if run == '' then
    run = before
elseif not known then
    -- Nothing is remembered: of a new name, or any more.
    if up < quarantine then pause = now + quarantine - up end
elseif before ~= '' and before ~= run then
    -- After a restart long ago all holders have spoken or are dead. A replica that was promoted has
    -- been up for as long as it likes.
    local replication = redis.pcall('INFO', 'replication')
    local never = type(replication) == 'string' and string.find(replication, 'second_repl_offset:-1', 1, true)
    if up < longest or not never then
        pause = math.max(pause, now + math.min(quarantine, longest))
    end
end
if not known and (has_ticket > 0 or has_token > 0) then
    -- Somebody is known to have been here: the keys were deleted while in use.
    pause = math.max(pause, now + math.min(quarantine, longest))
end

-- The clock went back: no lease is longer than a TTL.
if last > 0 and now < last - 1000 then
    local latest = text(now + longest)
    for _, member in ipairs(call('ZRANGEBYSCORE', permits, '(' .. latest, '+inf')) do
        if ours(member) then call('ZADD', permits, latest, member) end
    end
    for _, waiter in ipairs(call('ZRANGEBYSCORE', alive, '(' .. latest, '+inf')) do
        call('ZADD', alive, latest, waiter)
    end
    pause = math.min(pause, now + math.max(quarantine, longest))
end

-- A pause is a time to wait, not a moment: it does not end because the clock leapt.
local paused = tonumber(kept.pause or 0) - last
if last > 0 and paused > 0 and now - last > 10000 then pause = math.max(pause, now + paused) end

-- The clock leapt forward, or nobody has called for long: holders that were still valid when
-- somebody last looked get the time of a renewal before they are given up.
if last > 0 and now - last > 0.6 * ttl then
    local ended = members('(' .. text(last), text(now))
    for at = 1, #ended, 2 do
        if ours(ended[at]) then pause = math.max(pause, now + math.floor(ttl / 2)) end
    end
end

-- What has ended.
for _, waiter in ipairs(call('ZRANGEBYSCORE', alive, '-inf', text(now))) do leave_queue(waiter) end
call('ZREMRANGEBYSCORE', done, '-inf', text(now))
if now >= pause then
    for _, member in ipairs(call('ZRANGEBYSCORE', permits, '-inf', text(now))) do
        if ours(member) then
            call('ZREM', permits, member)
            call('HDEL', grants, member)
        end
    end
end

local held = ours(id)
if held and not call('ZSCORE', permits, id) then
    call('HDEL', grants, id) -- somebody took the permit away
    held = false
end
local waits = call('ZSCORE', queue, id)
if operation == 'ask' and not held and not waits then
    for _, member in ipairs(call('HKEYS', grants)) do
        if not call('ZSCORE', permits, member) then call('HDEL', grants, member) end
    end
    if call('HLEN', grants) == 0 and call('ZCARD', queue) == 0 then
        limit, ttl = asked_limit, asked_ttl -- it was idle
    end
end

-- Members without a grant here follow the rule of those who wrote them: they count for one TTL
-- beyond their expiry.
for _, member in ipairs(call('ZRANGEBYSCORE', permits, '-inf', text(now - ttl))) do
    if not ours(member) then call('ZREM', permits, member) end
end

local status = 'gone'
if operation == 'ask' then
    if held then
        -- Asked again: the answer was lost, or a waiter says that it has what it was given.
        call('ZADD', permits, text(now + ttl), id)
    elseif call('ZSCORE', done, id) then
        status = 'done' -- a late duplicate of one that has ended
    elseif ARGV[11] == 'strict' and (limit ~= asked_limit or ttl ~= asked_ttl) then
        status = 'differs'
        leave_queue(id)
    else
        if not waits then
            -- Tickets are moments, so that they grow even when the last one is forgotten; and who
            -- has one already keeps the place that goes with it.
            local place = has_ticket
            if place == 0 then
                ticket = math.max(ticket + 1, micros)
                place = ticket
            end
            call('ZADD', queue, text(place), id)
            call('HSET', asks, id, text(now) .. ' ' .. who)
        end
        call('ZADD', alive, text(now + tonumber(ARGV[9])), id)
        status = 'queued'
    end
elseif operation == 'renew' then
    local removed = call('ZSCORE', done, id)
    if held then
        call('ZADD', permits, text(now + ttl), id)
    elseif (not known or now < pause) and not removed and not call('ZSCORE', permits, id) then
        -- A holder that this server does not remember: it has the permit, even if that makes one
        -- too many, and brings back what was in force.
        limit, ttl = asked_limit, asked_ttl
        if auto then pause = math.max(pause, now + ttl - up) end
        token = math.max(token, has_token)
        call('ZADD', permits, text(now + ttl), id)
        call('HSET', grants, id, text(has_token) .. ' ' .. text(now) .. ' ' .. who)
        held = true
    end
elseif operation == 'release' then
    if held then call('ZREM', permits, id) end
    call('HDEL', grants, id)
    leave_queue(id)
    call('ZADD', done, text(now + math.min(4 * ttl, HOUR)), id)
    call('DEL', wake_list(id))
    held = false
end

-- Whoever is first in line gets what is free.
local count = call('ZCARD', permits)
while now >= pause and count < limit do
    local head = call('ZRANGE', queue, 0, 0)[1]
    if not head then break end
    local ask = call('HGET', asks, head)
    leave_queue(head)
    if ask then
        token = math.max(token + 1, micros)
        count = count + 1
        local grant = text(token) .. ' ' .. text(now) .. (string.match(ask, '^%d+( .*)$') or '')
        call('HSET', grants, head, grant)
        if head == id then
            held = true
            call('ZADD', permits, text(now + ttl), head)
        else
            call('ZADD', permits, text(now + math.min(ttl, UNCLAIMED)), head)
            call('RPUSH', wake_list(head), text(token))
            call('PEXPIRE', wake_list(head), WAKE)
        end
    end
end
if held then
    status = 'held'
elseif status == 'queued' and ARGV[10] == 'nonblock' then
    leave_queue(id)
    status = 'busy'
end

-- What somebody who waits wants to know: who has held for the longest time (of the first few, in a
-- crowd), and when something ends that makes another look worthwhile.
local foreign = math.max(0, call('ZCARD', permits) - call('HLEN', grants))
if foreign > 0 then shared = true end
local oldest, next_end = '', -1
if status == 'queued' then
    local soonest = call('ZRANGE', permits, 0, 63, 'WITHSCORES')
    local since = math.huge
    for at = 1, #soonest, 2 do
        local grant, ending = call('HGET', grants, soonest[at]), tonumber(soonest[at + 1])
        if not grant then
            ending = ending + ttl
        elseif tonumber(string.match(grant, '^%d+')) < since then
            since = tonumber(string.match(grant, '^%d+'))
            oldest = soonest[at] .. ' ' .. grant
        end
        if next_end < 0 or ending - now < next_end then next_end = math.max(0, ending - now) end
    end
    if now < pause then next_end = pause - now end
end

-- To withdraw something from a server that remembers nothing must not look as if it did.
if known or operation ~= 'release' or has_token > 0 or has_ticket > 0 then
    call('HSET', state, 'run', run, 'last', text(now), 'pause', text(pause), 'token', text(token), 'ticket',
        text(ticket), 'limit', text(limit), 'ttl', text(ttl), 'shared', shared and '1' or '0')
end
local keep = math.max(DAY, 4 * ttl)
for _, key in ipairs({ queue, alive, asks, grants, state, done }) do call('PEXPIRE', key, keep) end
-- The set itself may only go by itself where nobody else writes to it, who would not know.
if shared then call('PERSIST', permits) else call('PEXPIRE', permits, keep) end

local mine = call('HGET', grants, id)
return {
    status, mine and string.match(mine, '^%d+') or '0', text(tonumber(call('ZSCORE', queue, id) or 0)),
    call('ZRANK', queue, id) or 0, count, foreign, text(next_end),
    text(limit), text(ttl), text(math.max(0, pause - now)), oldest, blind,
}
