# Completion of semrun for fish, printed by `semrun completions fish`.

# Where the cursor is: first (options, no --name yet), named (options after --name), the name of a
# subcommand, or command and the number of the word that it begins with.
function __semrun_where
    set -l tokens (commandline -opc)
    set -l named first
    set -l sub
    set -l skip
    for at in (seq 2 (count $tokens))
        set -l token $tokens[$at]
        if test -n "$skip"
            set skip
            continue
        end
        switch $token
            case --
                if test -z "$sub"
                    echo command
                    math $at + 1
                    return
                end
            case '--name=*'
                set named named
            case '--*=*'
            case '--*'
                test $token = --name; and set named named
                contains -- $token --api-key-file --backend --ca-file --client-ca-file --client-cert --client-key --command --config --conflict-exit-code --jitter --kill-after --label --limit --listen --log --log-format --lost-exit-code --max-attempts --max-clients --max-names --max-pins --max-runtime --max-unauthenticated --max-unauthenticated-per-address --max-waiters --min-hold --name --on-lost --orphans --password-file --permit --prefix --quarantine --replicas --retry-interval --signal --state-dir --timeout --tls-cert --tls-key --ttl --wait --while-pid -E -c -j -k -l -s -w; and set skip yes
            case '-?*'
                set -l letters (string split '' -- (string sub -s 2 -- $token))
                for number in (seq (count $letters))
                    if contains -- -$letters[$number] --api-key-file --backend --ca-file --client-ca-file --client-cert --client-key --command --config --conflict-exit-code --jitter --kill-after --label --limit --listen --log --log-format --lost-exit-code --max-attempts --max-clients --max-names --max-pins --max-runtime --max-unauthenticated --max-unauthenticated-per-address --max-waiters --min-hold --name --on-lost --orphans --password-file --permit --prefix --quarantine --replicas --retry-interval --signal --state-dir --timeout --tls-cert --tls-key --ttl --wait --while-pid -E -c -j -k -l -s -w
                        test $number = (count $letters); and set skip yes
                        break
                    end
                end
            case '*'
                test -n "$sub"; and continue
                if test $named = first; and contains -- $token status acquire renew release limit serve doctor help completions man
                    set sub $token
                else
                    echo command
                    echo $at
                    return
                end
        end
    end
    test -n "$sub"; and echo $sub; or echo $named
end

function __semrun_at
    set -l found (__semrun_where)
    contains -- $found[1] $argv
end

function __semrun_command
    set -l found (__semrun_where)
    set -l words
    if set -q found[2]
        set -l all (commandline -opc)
        test $found[2] -le (count $all); and set words $all[$found[2]..-1]
    end
    set -l line (string join ' ' -- (string escape -- $words) (commandline -ct))
    string match -q -- '-*' $line; or complete -C "$line"
end

function __semrun_names
    set -l place
    set -l tokens (commandline -opc)
    for at in (seq 2 (count $tokens))
        set -l option (string split -m 1 = -- $tokens[$at])
        contains -- $option[1] --backend --config --prefix --password-file --api-key-file --ca-file --client-cert --client-key; or continue
        if set -q option[2]
            set -a place $tokens[$at]
        else
            set -a place $tokens[$at] $tokens[(math $at + 1)]
        end
    end
    timeout 2 semrun status --json $place 2>/dev/null </dev/null | sed -n 's/^      "name": "\([^"\\]*\)",$/\1/p'
end

complete -c semrun -e
complete -c semrun -f
complete -c semrun -n '__semrun_at command named' -a '(__semrun_command)'
complete -c semrun -n 'set -q SEMRUN_NAME; and __semrun_at first' -a '(__semrun_command)'
complete -c semrun -n '__semrun_at first named' -l name -xa '(__semrun_names)' -d 'Name of the semaphore, 1 to 200 bytes of UTF-8'
complete -c semrun -n '__semrun_at first named' -s l -s j -l limit -x -d 'How many may hold a permit at once'
complete -c semrun -n '__semrun_at first named' -l strict-limit -d 'Fail with exit code 78 if the semaphore already has another limit or TTL'
complete -c semrun -n '__semrun_at first named' -l ttl -x -d 'How long a permit lasts unless it is renewed, at least 5s'
complete -c semrun -n '__semrun_at first named' -s w -l wait -l timeout -x -d 'Wait at most D'
complete -c semrun -n '__semrun_at first named' -l max-attempts -x -d 'Wait at most N times --retry-interval'
complete -c semrun -n '__semrun_at first named' -l retry-interval -x -d 'How long each of --max-attempts waits'
complete -c semrun -n '__semrun_at first named' -s n -l nonblock -l nb -l no-wait -d 'Do not wait if no permit is free'
complete -c semrun -n '__semrun_at first named' -s E -l conflict-exit-code -x -d 'Exit code without a permit'
complete -c semrun -n '__semrun_at first named' -l min-hold -x -d 'Keep the permit taken until D after it was acquired, even if the command or the host ends sooner'
complete -c semrun -n '__semrun_at first named' -l jitter -x -d 'Wait a random time of up to D before asking for a permit'
complete -c semrun -n '__semrun_at first named' -l label -x -d 'Text that `status` shows for this holder'
complete -c semrun -n '__semrun_at first named' -l lost-exit-code -x -d 'Exit code if the permit was lost'
complete -c semrun -n '__semrun_at first named' -s s -l signal -xa 'HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO SYS' -d 'Signal that semrun sends first to stop the command'
complete -c semrun -n '__semrun_at first named' -s k -l kill-after -x -d 'Send SIGKILL to all processes of the command D after the first signal'
complete -c semrun -n '__semrun_at first named' -l max-runtime -x -d 'Stop the command after D (exit code 124)'
complete -c semrun -n '__semrun_at first named' -l on-lost -xa 'kill continue' -d 'What to do with the command when its permit is lost'
complete -c semrun -n '__semrun_at first named' -l orphans -xa 'leave wait kill' -d 'What to do with processes that still run when the command has ended'
complete -c semrun -n '__semrun_at first named' -l foreground -d 'Run the command in semrun\'s own process group'
complete -c semrun -n '__semrun_at first named' -l clean-env -d 'Remove SEMRUN_API_KEY, SEMRUN_PASSWORD and a SEMRUN_BACKEND with a password from the command\'s environment'
complete -c semrun -n '__semrun_at first named' -l backend -x -d 'Keep permits at URL'
complete -c semrun -n '__semrun_at first named' -l prefix -x -d 'Prefix of the keys in Redis'
complete -c semrun -n '__semrun_at first named' -l quarantine -x -d 'After Redis has lost its data, grant no permit until it has been up for D'
complete -c semrun -n '__semrun_at first named' -l replicas -x -d 'Grant and renew only while N replicas of Redis are in step'
complete -c semrun -n '__semrun_at first named' -l allow-eviction -d 'Accept a Redis whose maxmemory-policy may delete permits'
complete -c semrun -n '__semrun_at first named' -l password-file -rF -d 'Read the password for Redis from the first line of FILE'
complete -c semrun -n '__semrun_at first named' -l api-key-file -rF -d 'Read the API key for a cloud-semaphore server from the first line of FILE'
complete -c semrun -n '__semrun_at first named' -l ca-file -rF -d 'Trust the authorities in FILE (PEM) for TLS instead of the system\'s'
complete -c semrun -n '__semrun_at first named' -l client-cert -rF -d 'Present the certificate in FILE (PEM) to the server'
complete -c semrun -n '__semrun_at first named' -l client-key -rF -d 'Private key (PEM) of --client-cert'
complete -c semrun -n '__semrun_at first named' -l config -rF -d 'Read this configuration file (TOML) instead of ~/.config/semrun/config.toml'
complete -c semrun -n '__semrun_at first named' -s v -l verbose -d 'Print what semrun decides'
complete -c semrun -n '__semrun_at first named' -s q -l quiet -d 'Print only errors'
complete -c semrun -n '__semrun_at first named' -s c -l command -x -d 'Run STR with $SHELL -c, or /bin/sh -c'
complete -c semrun -n '__semrun_at first named' -s h -l help -d 'Print help'
complete -c semrun -n '__semrun_at first named' -s V -l version -d 'Print the version'
complete -c semrun -n '__semrun_at first' -a status -d 'Show who holds and who waits (all semaphores if no NAME is given)'
complete -c semrun -n '__semrun_at status' -l backend -x -d 'Keep permits at URL'
complete -c semrun -n '__semrun_at status' -l prefix -x -d 'Prefix of the keys in Redis'
complete -c semrun -n '__semrun_at status' -l quarantine -x -d 'After Redis has lost its data, grant no permit until it has been up for D'
complete -c semrun -n '__semrun_at status' -l replicas -x -d 'Grant and renew only while N replicas of Redis are in step'
complete -c semrun -n '__semrun_at status' -l allow-eviction -d 'Accept a Redis whose maxmemory-policy may delete permits'
complete -c semrun -n '__semrun_at status' -l password-file -rF -d 'Read the password for Redis from the first line of FILE'
complete -c semrun -n '__semrun_at status' -l api-key-file -rF -d 'Read the API key for a cloud-semaphore server from the first line of FILE'
complete -c semrun -n '__semrun_at status' -l ca-file -rF -d 'Trust the authorities in FILE (PEM) for TLS instead of the system\'s'
complete -c semrun -n '__semrun_at status' -l client-cert -rF -d 'Present the certificate in FILE (PEM) to the server'
complete -c semrun -n '__semrun_at status' -l client-key -rF -d 'Private key (PEM) of --client-cert'
complete -c semrun -n '__semrun_at status' -l config -rF -d 'Read this configuration file (TOML) instead of ~/.config/semrun/config.toml'
complete -c semrun -n '__semrun_at status' -s l -l limit -x -d 'Limit to assume if only other programs hold permits'
complete -c semrun -n '__semrun_at status' -l json -d 'Print a JSON document'
complete -c semrun -n '__semrun_at status' -l watch -d 'Print it again whenever it changes, until a signal ends it'
complete -c semrun -n '__semrun_at status' -s v -l verbose -d 'Show leases, fencing tokens and permits too, in as many columns as that takes'
complete -c semrun -n '__semrun_at status' -s h -l help -d 'Print help'
complete -c semrun -n '__semrun_at status' -a '(__semrun_names)'
complete -c semrun -n '__semrun_at first' -a acquire -d 'Take a permit that outlives this process, for a job of several steps'
complete -c semrun -n '__semrun_at acquire' -l name -xa '(__semrun_names)' -d 'Name of the semaphore, 1 to 200 bytes of UTF-8'
complete -c semrun -n '__semrun_at acquire' -s l -s j -l limit -x -d 'How many may hold a permit at once'
complete -c semrun -n '__semrun_at acquire' -l strict-limit -d 'Fail with exit code 78 if the semaphore already has another limit or TTL'
complete -c semrun -n '__semrun_at acquire' -l ttl -x -d 'How long a permit lasts unless it is renewed, at least 5s'
complete -c semrun -n '__semrun_at acquire' -s w -l wait -l timeout -x -d 'Wait at most D'
complete -c semrun -n '__semrun_at acquire' -l max-attempts -x -d 'Wait at most N times --retry-interval'
complete -c semrun -n '__semrun_at acquire' -l retry-interval -x -d 'How long each of --max-attempts waits'
complete -c semrun -n '__semrun_at acquire' -s n -l nonblock -l nb -l no-wait -d 'Do not wait if no permit is free'
complete -c semrun -n '__semrun_at acquire' -s E -l conflict-exit-code -x -d 'Exit code without a permit'
complete -c semrun -n '__semrun_at acquire' -l min-hold -x -d 'Keep the permit taken until D after it was acquired, even if the command or the host ends sooner'
complete -c semrun -n '__semrun_at acquire' -l jitter -x -d 'Wait a random time of up to D before asking for a permit'
complete -c semrun -n '__semrun_at acquire' -l label -x -d 'Text that `status` shows for this holder'
complete -c semrun -n '__semrun_at acquire' -l backend -x -d 'Keep permits at URL'
complete -c semrun -n '__semrun_at acquire' -l prefix -x -d 'Prefix of the keys in Redis'
complete -c semrun -n '__semrun_at acquire' -l quarantine -x -d 'After Redis has lost its data, grant no permit until it has been up for D'
complete -c semrun -n '__semrun_at acquire' -l replicas -x -d 'Grant and renew only while N replicas of Redis are in step'
complete -c semrun -n '__semrun_at acquire' -l allow-eviction -d 'Accept a Redis whose maxmemory-policy may delete permits'
complete -c semrun -n '__semrun_at acquire' -l password-file -rF -d 'Read the password for Redis from the first line of FILE'
complete -c semrun -n '__semrun_at acquire' -l api-key-file -rF -d 'Read the API key for a cloud-semaphore server from the first line of FILE'
complete -c semrun -n '__semrun_at acquire' -l ca-file -rF -d 'Trust the authorities in FILE (PEM) for TLS instead of the system\'s'
complete -c semrun -n '__semrun_at acquire' -l client-cert -rF -d 'Present the certificate in FILE (PEM) to the server'
complete -c semrun -n '__semrun_at acquire' -l client-key -rF -d 'Private key (PEM) of --client-cert'
complete -c semrun -n '__semrun_at acquire' -l config -rF -d 'Read this configuration file (TOML) instead of ~/.config/semrun/config.toml'
complete -c semrun -n '__semrun_at acquire' -s v -l verbose -d 'Print what semrun decides'
complete -c semrun -n '__semrun_at acquire' -s q -l quiet -d 'Print only errors'
complete -c semrun -n '__semrun_at acquire' -l json -d 'Print a JSON document'
complete -c semrun -n '__semrun_at acquire' -l shell -d 'Print `export` lines for a shell to evaluate'
complete -c semrun -n '__semrun_at acquire' -s h -l help -d 'Print help'
complete -c semrun -n '__semrun_at first' -a renew -d 'Extend a permit that was acquired'
complete -c semrun -n '__semrun_at renew' -l permit -x -d 'What `semrun acquire` printed'
complete -c semrun -n '__semrun_at renew' -l while-pid -x -d 'Keep renewing it until this process has ended'
complete -c semrun -n '__semrun_at renew' -l backend -x -d 'Keep permits at URL'
complete -c semrun -n '__semrun_at renew' -l prefix -x -d 'Prefix of the keys in Redis'
complete -c semrun -n '__semrun_at renew' -l quarantine -x -d 'After Redis has lost its data, grant no permit until it has been up for D'
complete -c semrun -n '__semrun_at renew' -l replicas -x -d 'Grant and renew only while N replicas of Redis are in step'
complete -c semrun -n '__semrun_at renew' -l allow-eviction -d 'Accept a Redis whose maxmemory-policy may delete permits'
complete -c semrun -n '__semrun_at renew' -l password-file -rF -d 'Read the password for Redis from the first line of FILE'
complete -c semrun -n '__semrun_at renew' -l api-key-file -rF -d 'Read the API key for a cloud-semaphore server from the first line of FILE'
complete -c semrun -n '__semrun_at renew' -l ca-file -rF -d 'Trust the authorities in FILE (PEM) for TLS instead of the system\'s'
complete -c semrun -n '__semrun_at renew' -l client-cert -rF -d 'Present the certificate in FILE (PEM) to the server'
complete -c semrun -n '__semrun_at renew' -l client-key -rF -d 'Private key (PEM) of --client-cert'
complete -c semrun -n '__semrun_at renew' -l config -rF -d 'Read this configuration file (TOML) instead of ~/.config/semrun/config.toml'
complete -c semrun -n '__semrun_at renew' -s h -l help -d 'Print help'
complete -c semrun -n '__semrun_at first' -a release -d 'Give back a permit that was acquired, or take one from its holder'
complete -c semrun -n '__semrun_at release' -l permit -x -d 'What `semrun acquire` printed'
complete -c semrun -n '__semrun_at release' -l force -d 'Revoke the permit of the one holder of NAME, or that of --permit'
complete -c semrun -n '__semrun_at release' -l now -d 'With --force, let the permit pass on at once'
complete -c semrun -n '__semrun_at release' -l backend -x -d 'Keep permits at URL'
complete -c semrun -n '__semrun_at release' -l prefix -x -d 'Prefix of the keys in Redis'
complete -c semrun -n '__semrun_at release' -l quarantine -x -d 'After Redis has lost its data, grant no permit until it has been up for D'
complete -c semrun -n '__semrun_at release' -l replicas -x -d 'Grant and renew only while N replicas of Redis are in step'
complete -c semrun -n '__semrun_at release' -l allow-eviction -d 'Accept a Redis whose maxmemory-policy may delete permits'
complete -c semrun -n '__semrun_at release' -l password-file -rF -d 'Read the password for Redis from the first line of FILE'
complete -c semrun -n '__semrun_at release' -l api-key-file -rF -d 'Read the API key for a cloud-semaphore server from the first line of FILE'
complete -c semrun -n '__semrun_at release' -l ca-file -rF -d 'Trust the authorities in FILE (PEM) for TLS instead of the system\'s'
complete -c semrun -n '__semrun_at release' -l client-cert -rF -d 'Present the certificate in FILE (PEM) to the server'
complete -c semrun -n '__semrun_at release' -l client-key -rF -d 'Private key (PEM) of --client-cert'
complete -c semrun -n '__semrun_at release' -l config -rF -d 'Read this configuration file (TOML) instead of ~/.config/semrun/config.toml'
complete -c semrun -n '__semrun_at release' -s h -l help -d 'Print help'
complete -c semrun -n '__semrun_at release' -a '(__semrun_names)'
complete -c semrun -n '__semrun_at first' -a limit -d 'Show, pin or unpin a semaphore\'s limit'
complete -c semrun -n '__semrun_at limit' -l unpin -d 'Remove the pinned limit'
complete -c semrun -n '__semrun_at limit' -l backend -x -d 'Keep permits at URL'
complete -c semrun -n '__semrun_at limit' -l prefix -x -d 'Prefix of the keys in Redis'
complete -c semrun -n '__semrun_at limit' -l quarantine -x -d 'After Redis has lost its data, grant no permit until it has been up for D'
complete -c semrun -n '__semrun_at limit' -l replicas -x -d 'Grant and renew only while N replicas of Redis are in step'
complete -c semrun -n '__semrun_at limit' -l allow-eviction -d 'Accept a Redis whose maxmemory-policy may delete permits'
complete -c semrun -n '__semrun_at limit' -l password-file -rF -d 'Read the password for Redis from the first line of FILE'
complete -c semrun -n '__semrun_at limit' -l api-key-file -rF -d 'Read the API key for a cloud-semaphore server from the first line of FILE'
complete -c semrun -n '__semrun_at limit' -l ca-file -rF -d 'Trust the authorities in FILE (PEM) for TLS instead of the system\'s'
complete -c semrun -n '__semrun_at limit' -l client-cert -rF -d 'Present the certificate in FILE (PEM) to the server'
complete -c semrun -n '__semrun_at limit' -l client-key -rF -d 'Private key (PEM) of --client-cert'
complete -c semrun -n '__semrun_at limit' -l config -rF -d 'Read this configuration file (TOML) instead of ~/.config/semrun/config.toml'
complete -c semrun -n '__semrun_at limit' -s h -l help -d 'Print help'
complete -c semrun -n '__semrun_at limit' -a '(__semrun_names)'
complete -c semrun -n '__semrun_at first' -a serve -d 'Run a cloud-semaphore server, for semrun and for the Node clients'
complete -c semrun -n '__semrun_at serve' -l api-key-file -rF -d 'Accept the API keys in FILE, one a line'
complete -c semrun -n '__semrun_at serve' -l listen -x -d 'Address to listen at'
complete -c semrun -n '__semrun_at serve' -l tls-cert -rF -d 'Serve HTTPS with the certificate chain in FILE (PEM)'
complete -c semrun -n '__semrun_at serve' -l tls-key -rF -d 'Private key (PEM) of --tls-cert'
complete -c semrun -n '__semrun_at serve' -l client-ca-file -rF -d 'Admit only clients with a certificate that an authority in FILE (PEM) has signed'
complete -c semrun -n '__semrun_at serve' -l state-dir -xa '(__fish_complete_directories)' -d 'Record permits in DIR, so that they outlive a restart'
complete -c semrun -n '__semrun_at serve' -l max-unauthenticated -x -d 'At most N connections that have not shown a key'
complete -c semrun -n '__semrun_at serve' -l max-unauthenticated-per-address -x -d 'The same for one address, or one IPv6 network of 64 bits'
complete -c semrun -n '__semrun_at serve' -l max-clients -x -d 'At most N clients that register, wait or hold, of all semaphores'
complete -c semrun -n '__semrun_at serve' -l max-waiters -x -d 'At most N clients that register or wait, of one semaphore'
complete -c semrun -n '__semrun_at serve' -l max-names -x -d 'At most N semaphores that are in use or have a pinned limit'
complete -c semrun -n '__semrun_at serve' -l max-pins -x -d 'At most N semaphores with a pinned limit'
complete -c semrun -n '__semrun_at serve' -l log -xa 'info alert sem_events sem_transition debug' -d 'Events to log on standard error, beside info and alert'
complete -c semrun -n '__semrun_at serve' -l log-format -xa 'text json' -d 'Form of the log'
complete -c semrun -n '__semrun_at serve' -l config -rF -d 'Read this configuration file (TOML) instead of ~/.config/semrun/config.toml'
complete -c semrun -n '__semrun_at serve' -s h -l help -d 'Print help'
complete -c semrun -n '__semrun_at first' -a doctor -d 'Check configuration, backend and clocks without running anything'
complete -c semrun -n '__semrun_at doctor' -l name -xa '(__semrun_names)' -d 'Name of the semaphore, 1 to 200 bytes of UTF-8'
complete -c semrun -n '__semrun_at doctor' -s l -s j -l limit -x -d 'How many may hold a permit at once'
complete -c semrun -n '__semrun_at doctor' -l strict-limit -d 'Fail with exit code 78 if the semaphore already has another limit or TTL'
complete -c semrun -n '__semrun_at doctor' -l ttl -x -d 'How long a permit lasts unless it is renewed, at least 5s'
complete -c semrun -n '__semrun_at doctor' -s w -l wait -l timeout -x -d 'Wait at most D'
complete -c semrun -n '__semrun_at doctor' -l max-attempts -x -d 'Wait at most N times --retry-interval'
complete -c semrun -n '__semrun_at doctor' -l retry-interval -x -d 'How long each of --max-attempts waits'
complete -c semrun -n '__semrun_at doctor' -s n -l nonblock -l nb -l no-wait -d 'Do not wait if no permit is free'
complete -c semrun -n '__semrun_at doctor' -s E -l conflict-exit-code -x -d 'Exit code without a permit'
complete -c semrun -n '__semrun_at doctor' -l min-hold -x -d 'Keep the permit taken until D after it was acquired, even if the command or the host ends sooner'
complete -c semrun -n '__semrun_at doctor' -l jitter -x -d 'Wait a random time of up to D before asking for a permit'
complete -c semrun -n '__semrun_at doctor' -l label -x -d 'Text that `status` shows for this holder'
complete -c semrun -n '__semrun_at doctor' -l lost-exit-code -x -d 'Exit code if the permit was lost'
complete -c semrun -n '__semrun_at doctor' -s s -l signal -xa 'HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO SYS' -d 'Signal that semrun sends first to stop the command'
complete -c semrun -n '__semrun_at doctor' -s k -l kill-after -x -d 'Send SIGKILL to all processes of the command D after the first signal'
complete -c semrun -n '__semrun_at doctor' -l max-runtime -x -d 'Stop the command after D (exit code 124)'
complete -c semrun -n '__semrun_at doctor' -l on-lost -xa 'kill continue' -d 'What to do with the command when its permit is lost'
complete -c semrun -n '__semrun_at doctor' -l orphans -xa 'leave wait kill' -d 'What to do with processes that still run when the command has ended'
complete -c semrun -n '__semrun_at doctor' -l foreground -d 'Run the command in semrun\'s own process group'
complete -c semrun -n '__semrun_at doctor' -l clean-env -d 'Remove SEMRUN_API_KEY, SEMRUN_PASSWORD and a SEMRUN_BACKEND with a password from the command\'s environment'
complete -c semrun -n '__semrun_at doctor' -s v -l verbose -d 'Print what semrun decides'
complete -c semrun -n '__semrun_at doctor' -s q -l quiet -d 'Print only errors'
complete -c semrun -n '__semrun_at doctor' -l json -d 'Print a JSON document'
complete -c semrun -n '__semrun_at doctor' -l backend -x -d 'Keep permits at URL'
complete -c semrun -n '__semrun_at doctor' -l prefix -x -d 'Prefix of the keys in Redis'
complete -c semrun -n '__semrun_at doctor' -l quarantine -x -d 'After Redis has lost its data, grant no permit until it has been up for D'
complete -c semrun -n '__semrun_at doctor' -l replicas -x -d 'Grant and renew only while N replicas of Redis are in step'
complete -c semrun -n '__semrun_at doctor' -l allow-eviction -d 'Accept a Redis whose maxmemory-policy may delete permits'
complete -c semrun -n '__semrun_at doctor' -l password-file -rF -d 'Read the password for Redis from the first line of FILE'
complete -c semrun -n '__semrun_at doctor' -l api-key-file -rF -d 'Read the API key for a cloud-semaphore server from the first line of FILE'
complete -c semrun -n '__semrun_at doctor' -l ca-file -rF -d 'Trust the authorities in FILE (PEM) for TLS instead of the system\'s'
complete -c semrun -n '__semrun_at doctor' -l client-cert -rF -d 'Present the certificate in FILE (PEM) to the server'
complete -c semrun -n '__semrun_at doctor' -l client-key -rF -d 'Private key (PEM) of --client-cert'
complete -c semrun -n '__semrun_at doctor' -l config -rF -d 'Read this configuration file (TOML) instead of ~/.config/semrun/config.toml'
complete -c semrun -n '__semrun_at doctor' -s h -l help -d 'Print help'
complete -c semrun -n '__semrun_at first' -a help -d 'Print the help of semrun, or of a subcommand'
complete -c semrun -n '__semrun_at help' -s h -l help -d 'Print help'
complete -c semrun -n '__semrun_at help' -a 'status acquire renew release limit serve doctor help completions man'
complete -c semrun -n '__semrun_at first' -a completions -d 'Print a completion script for a shell'
complete -c semrun -n '__semrun_at completions' -s h -l help -d 'Print help'
complete -c semrun -n '__semrun_at completions' -a 'bash elvish fish powershell zsh'
complete -c semrun -n '__semrun_at first' -a man -d 'Print a man page in roff: semrun\'s own, or that of a subcommand'
complete -c semrun -n '__semrun_at man' -s h -l help -d 'Print help'
complete -c semrun -n '__semrun_at man' -a 'status acquire renew release limit serve doctor help completions man semrun.toml'
