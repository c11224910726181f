-- What a server says of itself, and what follows from that. Both scripts begin with this.
local call = redis.call

local LAG = 2 -- whole seconds since a replica that is in step was last heard of

local function text(number) return string.format('%.0f', number) end

local time = call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = math.floor(micros / 1000)

-- An ACL may forbid it; the client says so.
local function info(section)
    local said = redis.pcall('INFO', section)
    return type(said) == 'string' and said or ''
end

-- The history of what is replicated has a new name after each restart and each promotion.
local replication = info('replication')
local history = string.match(replication, 'master_replid:(%x+)') or ''
local promoted = history ~= '' and not string.find(replication, 'second_repl_offset:-1', 1, true)

-- One that has gone to another server may be counted too, for a while: the client has the last word, with
-- WAIT.
local function count_in_step()
    local count = 0
    for lag in string.gmatch(replication, 'slave%d+:[^\n]*state=online[^\n]*lag=(%d+)') do
        if tonumber(lag) <= LAG then count = count + 1 end
    end
    return count
end

-- Whether a semaphore was decided on in this history, with so many replicas in step. It remembers
-- HISTORY:REPLICAS for that.
local function is_decided(remembered, replicas)
    local name, with = string.match(remembered or '', '^(%x+):(%d+)$')
    return name == history and tonumber(with) >= replicas
end

-- Since when the server before this one extends nothing any more; for how long this one is up, in ms; and its
-- run_id. By the wall clock: one that went back makes a time negative, and then no one knows. No server says
-- when it was promoted: the first call that finds it so, with so many replicas in step, `notes` down that it
-- was before that.
local function began(key, replicas, notes)
    local said = info('server')
    local run = string.match(said, 'run_id:(%x+)')
    local up = math.max(0, tonumber(string.match(said, 'uptime_in_seconds:(-?%d+)') or 0) * 1000)
    if not promoted then return now - math.max(0, up - 1000), up, run end -- it counts whole seconds
    local since
    -- A shard of a cluster has no key for that.
    if not string.find(said, 'redis_mode:cluster', 1, true) then
        local field = 'with:' .. replicas
        local seen, at = unpack(call('HMGET', key, 'history', field))
        since = seen == history and tonumber(at or nil)
        if not since and notes then
            if seen ~= history then call('DEL', key) end
            call('HSET', key, 'history', history, field, text(now))
        end
    end
    return math.min(now, since or now), up, run
end

-- Until when no permit is granted of a semaphore that was not decided on in this history. `known` is one of
-- which this server remembers anything; `longest` is the longest lease that there may be, in ms.
local function not_before(known, since, up, quarantine, longest)
    local moment = 0
    if not known and up < quarantine then moment = now - up + quarantine end
    -- What the server before this one granted or extended at its end, this one may not know.
    if known or promoted then moment = math.max(moment, since + math.min(quarantine, longest)) end
    return moment
end

