-- One semaphore in Redis. Every operation is this script: it runs alone, on the server's clock, and
-- may be repeated at will. docs/redis.md has the keys and the reasons.
--
-- KEYS  1 permits (PassBuddy's sorted set: UUID -> expiry in ms)   2 queue (UUID -> ticket)
--       3 alive (UUID -> until when a waiter counts, ms)           4 asks (UUID -> what a waiter wants)
--       5 grants (UUID -> what a holder got; a member without one is foreign)
--       6 state                                                    7 done (UUID -> until when, ms)
-- ARGV  1 operation   2 UUID   3 limit   4 TTL, ms   5 who, JSON
--       6 ticket that a waiter has, or 0   7 token that a holder has, or 0
--       8 quarantine, ms, or -1: the larger of 30 s and the TTL
--       9 for how long a waiter counts, ms   10 nonblock, or empty   11 strict, or empty
--       12 hold: for how long from its grant a permit stays taken, ms
--       13 how many replicas must be in step   14 key of what the server remembers of itself
--       15 the client that is told of this permit, by the name of its list
--
-- Waiters and holders call ask, renew and release; and leave, the release of a client that has not
-- used what it may have got. Any client calls attach (a renewal) and return (a release) for a
-- permit that outlives its process, revoke (gently) and remove (at once) for any, and limit (pins;
-- 0 unpins). snapshot.lua looks. Before this comes server.lua.
local permits, queue, alive, asks, grants, state, done = unpack(KEYS)
local operation, id, who = ARGV[1], ARGV[2], ARGV[5]
local asked_limit, asked_ttl = tonumber(ARGV[3]), tonumber(ARGV[4])
local has_ticket, has_token = tonumber(ARGV[6]), tonumber(ARGV[7])
local asked_hold = tonumber(ARGV[12])
local asked_replicas, server, listener = tonumber(ARGV[13]), ARGV[14], ARGV[15]

local UNCLAIMED = 5000 -- ms for which a waiter's permit is kept until it says that it has it
local WAKE = 30000 -- ms for which a wake-up is kept
local HOUR, DAY, YEAR = 3600000, 86400000, 31536000000
local NEAR = 4 -- how many of those in line have a timer for what ends next

local names = {
    'run', 'history', 'replicas', 'last', 'pause', 'token', 'ticket', 'limit', 'ttl', 'shared', 'soonest', 'pin',
}
local kept = {}
for at, value in ipairs(call('HMGET', state, unpack(names))) do kept[names[at]] = value end
local known = kept.last and true or false
local last, pause = tonumber(kept.last or 0), tonumber(kept.pause or 0)
local token, ticket = tonumber(kept.token or 0), tonumber(kept.ticket or 0)
-- What the users have agreed upon, and the pinned limit, which overrides theirs.
local limit, ttl = tonumber(kept.limit or asked_limit), tonumber(kept.ttl or asked_ttl)
local pin = tonumber(kept.pin or nil)
local shared = kept.shared == '1'
local soonest = tonumber(kept.soonest or 0) -- when the first member ends, as of the last call

-- Another server may have taken this one's place, and its replicas with that. So nothing is granted or renewed
-- while fewer are in step than any client asks for that uses the semaphore.
local kept_replicas = tonumber(kept.replicas or 0)
local replicas = math.max(asked_replicas, kept_replicas)
if operation == 'ask' and replicas > asked_replicas and call('HLEN', grants) == 0
    and not call('ZRANGEBYSCORE', alive, '(' .. text(now), '+inf', 'LIMIT', 0, 1)[1] then
    replicas = asked_replicas -- it is idle
end
local in_step = replicas > 0 and count_in_step() or 0
local alone = in_step < replicas
local wants = operation == 'ask' or operation == 'renew'
if alone and (wants or operation == 'attach' or operation == 'limit') then
    if replication == '' then return redis.error_reply('UNCOUNTED replicas') end
    return redis.error_reply('ALONE ' .. in_step .. ' ' .. replicas)
end

-- The first write of a script may not ask for memory; then the rest may, even when it is full.
call('ZREMRANGEBYSCORE', done, '-inf', text(now))

local function members(from, to) return call('ZRANGEBYSCORE', permits, from, to, 'WITHSCORES') end
local function ours(member) return call('HEXISTS', grants, member) == 1 end
local function leave_queue(waiter)
    call('ZREM', queue, waiter)
    call('ZREM', alive, waiter)
    call('HDEL', asks, waiter)
end

-- A client has one list for all that it holds or waits for. A word there reads ID WORD. Older clients
-- have none, and find out when they ask again.
local function tell(client, one, word)
    if not client or client == '' then return end
    local list = string.gsub(server, 'server$', 'wake:') .. client
    call('RPUSH', list, one .. ' ' .. word)
    call('PEXPIRE', list, WAKE)
end

-- A grant reads TOKEN SINCE HOLD LEASE PHASE LISTENER WHO. LEASE is when its lease ends, where a hold
-- makes it stay for longer. LISTENER is the client that is told of it. What a waiter asks for reads
-- SINCE HOLD 0 - LISTENER WHO. The phases: '-' its waiter has not said that it has it, 'h' held, 'r' being revoked,
-- 'm' given back and kept for what is left of its hold.
local function read(member)
    local grant = call('HGET', grants, member)
    if not grant then return nil end
    local number, since, hold, lease, phase, told, whose =
        string.match(grant, '^(%d+) (%d+) (%d+) (%d+) ([-hrm]) ([%x-]*) ?(.*)$')
    if not number then
        return { token = '0', since = now, hold = 0, lease = 0, phase = 'h', listener = listener, who = grant }
    end
    since, hold, lease = tonumber(since), tonumber(hold), tonumber(lease)
    return { token = number, since = since, hold = hold, lease = lease, phase = phase, listener = told, who = whose }
end
local function write(member, grant)
    local since, hold, lease = text(grant.since), text(grant.hold), text(grant.lease)
    local words = { grant.token, since, hold, lease, grant.phase, grant.listener, grant.who }
    call('HSET', grants, member, table.concat(words, ' '))
end
local function drop(member)
    call('ZREM', permits, member)
    call('HDEL', grants, member)
end

-- A server that was restarted, or one that took another's place, may have forgotten the last
-- grants: until their holders have spoken, no waiter is granted one.
local blind = history == '' and 1 or 0
local longest = math.max(ttl, asked_ttl)
local quarantine = tonumber(ARGV[8])
local auto = quarantine < 0
if auto then quarantine = math.max(30000, longest) end
local run, decided = kept.run or '', kept.history or ''
if blind == 0 and not alone and not is_decided(decided, replicas) then
    local since, up, its_run = began(server, replicas, true)
    pause = math.max(pause, not_before(known, since, up, quarantine, longest))
    -- Older clients judge by the run_id alone.
    run, decided = its_run or run, history .. ':' .. replicas
end
if not known and (has_ticket > 0 or has_token > 0) then
    -- A client has been here before: the keys were deleted while in use.
    pause = math.max(pause, now + math.min(quarantine, longest))
end

-- The clock went back: no lease is longer than a TTL, and of a hold there is as much left as at the
-- last call.
if last > 0 and now < last - 1000 then
    local latest = now + longest
    for _, member in ipairs(call('HKEYS', grants)) do
        local grant, ends = read(member), tonumber(call('ZSCORE', permits, member) or nil)
        if grant.hold > 0 then
            grant.since = math.min(now, grant.since - (last - now))
            grant.lease = math.min(grant.lease, latest)
            write(member, grant)
        end
        if ends then
            ends = math.min(ends, latest)
            if grant.phase == 'm' then ends = 0 end
            if grant.phase == 'm' or grant.phase == 'h' then
                ends = math.max(ends, grant.since + grant.hold)
            end
            call('ZADD', permits, text(ends), member)
        end
    end
    for _, waiter in ipairs(call('ZRANGEBYSCORE', alive, '(' .. text(latest), '+inf')) do
        call('ZADD', alive, text(latest), waiter)
    end
    pause = math.min(pause, now + math.max(quarantine, longest))
end

-- A pause is a time to wait, not a moment: it does not end because the clock leapt.
local paused = tonumber(kept.pause or 0) - last
if last > 0 and paused > 0 and now - last > 10000 then pause = math.max(pause, now + paused) end

-- The clock leapt forward, or no client has called for long: holders that were still valid at the
-- last call get the time of a renewal before they are given up. A revoked one gets what may be left
-- of its lease, because it cannot renew. A kept permit gets no time: it has no holder. A leap to
-- just before the end of a lease leaves its holder as little time, so the lease ends later.
if last > 0 and now - last > 0.6 * ttl then
    local touched = members('(' .. text(last), text(now + ttl))
    local graces = { ['-'] = ttl / 2, h = ttl / 2, r = ttl }
    for at = 1, #touched, 2 do
        local member, ends = touched[at], tonumber(touched[at + 1])
        local grant = read(member)
        local grace = grant and graces[grant.phase]
        local enough = grace and now + math.floor(grace)
        if grace and ends <= now then
            pause = math.max(pause, enough)
        elseif grace and ends < enough then
            call('ZADD', permits, text(enough), member)
        end
    end
end

-- What has ended. While replicas are missing it may have been extended where they are.
for _, waiter in ipairs(call('ZRANGEBYSCORE', alive, '-inf', text(now))) do leave_queue(waiter) end
local over_by_now = call('ZRANGEBYSCORE', permits, '-inf', text(now))
if now >= pause and not alone then
    for _, member in ipairs(over_by_now) do
        if ours(member) then drop(member) end
    end
end

local mine = read(id)
if mine and not call('ZSCORE', permits, id) then
    call('HDEL', grants, id) -- the permit was revoked
    mine = nil
end
if operation == 'ask' and mine and now < pause and (mine.phase == '-' or mine.phase == 'h') then
    -- It does not know of its permit, so nothing runs under it. And in what this server has forgotten it may have
    -- been granted to another one, because it was not claimed in time.
    drop(id)
    mine = nil
end
local held = mine and (mine.phase == '-' or mine.phase == 'h')
local waits = call('ZSCORE', queue, id)
if operation == 'ask' and not mine and not waits then
    -- Another program may have removed members of ours. There is no need to look at each of them
    -- while there are as many members as grants and no foreign one was ever seen: PassBuddy, which
    -- may have come just now, removes only what has ended, and nothing has since the last call.
    local same = call('ZCARD', permits) == call('HLEN', grants)
    if not same or shared or now >= soonest then
        for _, member in ipairs(call('HKEYS', grants)) do
            if not call('ZSCORE', permits, member) then call('HDEL', grants, member) end
        end
    end
    if call('HLEN', grants) == 0 and call('ZCARD', queue) == 0 then
        limit, ttl, replicas = asked_limit, asked_ttl, asked_replicas -- it was idle
    end
end

-- Members without a grant here follow the rule of their writers: they count for one TTL beyond
-- their expiry.
if #over_by_now > 0 then
    for _, member in ipairs(call('ZRANGEBYSCORE', permits, '-inf', text(now - ttl))) do
        if not ours(member) then call('ZREM', permits, member) end
    end
end

-- A client that has ended stays known for a while, so that what arrives late revives nothing. A
-- revoked one is kept under another name, because it has not given anything back.
local function revoked(one) return 'revoked:' .. one end
local function over(one) return call('ZSCORE', done, one) or call('ZSCORE', done, revoked(one)) end
local function remember(ended) call('ZADD', done, text(now + math.min(4 * ttl, HOUR)), ended) end

-- The holder is there: it has the permit for one TTL from now.
local function extend()
    if mine.phase == '-' or mine.hold > 0 or mine.listener ~= listener then
        mine.phase, mine.lease, mine.listener = 'h', now + ttl, listener
        write(id, mine)
    end
    call('ZADD', permits, text(math.max(now + ttl, mine.since + mine.hold)), id)
end

-- What those in line have heard of may end sooner.
local function tell_of_the_end()
    for _, waiter in ipairs(call('ZRANGE', queue, 0, NEAR - 1)) do
        tell(string.match(call('HGET', asks, waiter) or '', '^%d+ %d+ 0 %- ([%x-]*)'), waiter, 'again')
    end
end

local function give_back()
    local kept_until = mine and mine.since + mine.hold or 0
    if mine and mine.phase == 'h' and operation ~= 'leave' and kept_until > now then
        mine.phase = 'm'
        write(id, mine)
        call('ZADD', permits, text(kept_until), id)
        tell_of_the_end()
    elseif mine and mine.phase ~= 'm' then
        drop(id)
    end
    if waits then leave_queue(id) end
    remember(id)
    if mine and operation == 'return' then tell(mine.listener, id, 'again') end -- a process may be renewing it
end

local function next_token()
    token = math.max(token + 1, micros)
    return text(token)
end

local status = 'gone'
if operation == 'ask' then
    if held then
        -- Asked again: the answer was lost, or a waiter says that it has what it was given.
        extend()
        status = 'holding'
    elseif mine or over(id) then
        status = 'gone' -- a late duplicate of one that has ended
    elseif ARGV[11] == 'strict' and ((pin or limit) ~= asked_limit or ttl ~= asked_ttl) then
        status = 'differs'
        leave_queue(id)
    elseif now >= pause and call('ZCARD', queue) == 0 and call('ZCARD', permits) < (pin or limit) then
        -- The queue is empty and a permit is free: nothing has to be kept of the asking.
        mine = { token = next_token(), since = now, hold = asked_hold, lease = 0, phase = '-' }
        mine.listener, mine.who = listener, who
        extend()
        status = 'holding'
    else
        if not waits then
            -- Tickets are moments, so that they grow even when the last one is forgotten; and a
            -- waiter that has one already keeps its place.
            local place = has_ticket
            if place == 0 then
                ticket = math.max(ticket + 1, micros)
                place = ticket
            end
            call('ZADD', queue, text(place), id)
            call('HSET', asks, id, text(now) .. ' ' .. text(asked_hold) .. ' 0 - ' .. listener .. ' ' .. who)
        end
        call('ZADD', alive, text(now + tonumber(ARGV[9])), id)
        status = 'waiting'
    end
elseif operation == 'renew' then
    if held then
        extend()
        status = 'holding'
    elseif mine and mine.phase == 'r' then
        status = 'revoked'
    elseif (not known or now < pause) and not over(id) and not call('ZSCORE', permits, id) then
        -- A holder that this server does not remember: it has the permit, even if that makes one
        -- too many, and brings back what was in force.
        limit, ttl = asked_limit, asked_ttl
        if auto then pause = math.max(pause, began(server, replicas, true) + ttl) end
        token = math.max(token, has_token)
        mine = { token = text(has_token), since = now, hold = asked_hold, lease = 0, phase = '-' }
        mine.listener, mine.who = listener, who
        -- A late repetition of its first request may stand in the queue.
        leave_queue(id)
        extend()
        status = 'holding'
    end
elseif operation == 'release' or operation == 'leave' then
    give_back()
elseif operation == 'attach' or operation == 'return' then
    -- A quotation mark within a label has a backslash before it. One whose time is over is as good as
    -- gone, even where others are given the time to renew.
    local detached = mine and string.find(mine.who, ',"detached":true', 1, true)
        and tonumber(call('ZSCORE', permits, id)) > now
    if operation == 'attach' then
        if detached and mine.phase == 'h' then
            extend()
            status = 'holding'
        end
    elseif detached and mine.phase ~= 'm' then
        give_back()
        status = 'returned'
    elseif mine and mine.phase == 'm' or call('ZSCORE', done, id) then
        status = 'done'
    end
elseif operation == 'revoke' or operation == 'remove' then
    local ends = tonumber(call('ZSCORE', permits, id) or nil)
    if ends then
        status = 'revoked'
    elseif call('ZSCORE', done, revoked(id)) then
        status = 'done'
    end
    if mine and mine.phase == 'm' then
        drop(id)
    elseif ends and operation == 'remove' then
        drop(id)
        remember(revoked(id))
        if mine then tell(mine.listener, id, 'now') end
    elseif held then
        -- What is left of a hold does not count any more, and a holder that has not confirmed has
        -- not begun.
        if mine.hold > 0 then ends = mine.lease end
        if mine.phase == '-' or (ends <= now and now >= pause) then
            drop(id)
        else
            mine.phase = 'r'
            write(id, mine)
            call('ZADD', permits, text(ends), id)
            if mine.hold > 0 then tell_of_the_end() end
        end
        remember(revoked(id))
        tell(mine.listener, id, 'gently')
    end
elseif operation == 'limit' then
    pin = asked_limit > 0 and asked_limit or nil
    if pin then call('HSET', state, 'pin', text(pin)) else call('HDEL', state, 'pin') end
end

-- The first in line gets what is free.
local count = call('ZCARD', permits)
while not alone and now >= pause and count < (pin or limit) do
    local head = call('ZRANGE', queue, 0, 0)[1]
    if not head then break end
    local ask = call('HGET', asks, head)
    leave_queue(head)
    if ask then
        count = count + 1
        local grant = next_token() .. ' ' .. text(now) .. (string.match(ask, '^%d+( .*)$') or '')
        call('HSET', grants, head, grant)
        if head == id and operation == 'ask' then
            mine = read(id)
            extend()
            status = 'holding'
        else
            call('ZADD', permits, text(now + math.min(ttl, UNCLAIMED)), head)
            tell(string.match(grant, '^%d+ %d+ %d+ 0 %- ([%x-]*)'), head, text(token))
        end
    end
end
if status == 'waiting' and ARGV[10] == 'nonblock' then
    leave_queue(id)
    status = 'busy'
end

-- What a waiter wants to know: who has held for the longest time (of the first few, in a crowd),
-- and when something ends that makes another look worthwhile. A client that attaches has to learn
-- what it has.
local foreign = math.max(0, call('ZCARD', permits) - call('HLEN', grants))
if foreign > 0 then shared = true end
local whose, next_end = '', -1
if operation == 'attach' and status == 'holding' then whose = id .. ' ' .. call('HGET', grants, id) end
local place, ahead = 0, 0
if status == 'waiting' then
    place, ahead = tonumber(call('ZSCORE', queue, id)), call('ZRANK', queue, id)
    local soonest = call('ZRANGE', permits, 0, 63, 'WITHSCORES')
    local since = math.huge
    for at = 1, #soonest, 2 do
        local grant, ending = call('HGET', grants, soonest[at]), tonumber(soonest[at + 1])
        if not grant then
            ending = ending + ttl
        elseif tonumber(string.match(grant, '^%d+')) < since then
            since = tonumber(string.match(grant, '^%d+'))
            whose = soonest[at] .. ' ' .. grant
        end
        if next_end < 0 or ending - now < next_end then next_end = math.max(0, ending - now) end
    end
    if now < pause then next_end = pause - now end
end

-- To withdraw something from a server that remembers nothing, or to pin a limit there, must not look
-- as if it did.
local uses = wants or has_token > 0 or has_ticket > 0
if known or uses then
    local first = call('ZRANGE', permits, 0, 0, 'WITHSCORES')[2] or '0'
    call('HSET', state, 'run', run, 'history', decided, 'replicas', wants and replicas or kept_replicas,
        'last', text(now), 'pause', text(pause), 'token', text(token), 'ticket', text(ticket), 'limit', text(limit),
        'ttl', text(ttl), 'shared', shared and '1' or '0', 'soonest', first)
end
-- Until the last hold is over, if that is later; others may have written any number there.
local latest = tonumber(call('ZRANGE', permits, -1, -1, 'WITHSCORES')[2] or 0)
local keep = text(math.max(DAY, 4 * ttl, math.min(latest - now + ttl, YEAR)))
for _, key in ipairs({ grants, state, done }) do call('PEXPIRE', key, keep) end
if call('ZCARD', queue) > 0 then
    for _, key in ipairs({ queue, alive, asks }) do call('PEXPIRE', key, keep) end
end
if pin then call('PERSIST', state) end
-- The set itself may only expire where no foreign client writes to it, as that would not expect it.
if shared then call('PERSIST', permits) else call('PEXPIRE', permits, keep) end

if status ~= 'holding' then mine = read(id) end
local hold_left = mine and math.max(0, mine.since + mine.hold - now) or 0
return {
    status, mine and mine.token or '0', text(place), ahead, count, foreign, text(next_end),
    { text(pin or limit), pin and 1 or 0, text(limit), text(ttl), text(hold_left), replicas },
    text(math.max(0, pause - now)), whose, blind,
}
