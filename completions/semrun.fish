# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_semrun_global_optspecs
    string join \n name= l/limit= strict-limit ttl= w/wait= max-attempts= retry-interval= n/nonblock E/conflict-exit-code= min-hold= jitter= label= lost-exit-code= s/signal= k/kill-after= max-runtime= on-lost= orphans= foreground clean-env backend= prefix= quarantine= replicas= allow-eviction password-file= api-key-file= ca-file= client-cert= client-key= config= v/verbose q/quiet c/command= h/help V/version
end

function __fish_semrun_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_semrun_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_semrun_using_subcommand
    set -l cmd (__fish_semrun_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c semrun -n "__fish_semrun_needs_command" -l name -d 'Name of the semaphore, 1 to 200 bytes of UTF-8; control characters are not allowed [env: SEMRUN_NAME]' -r
complete -c semrun -n "__fish_semrun_needs_command" -s l -s j -l limit -d 'How many may hold a permit at once [default: 1]; while the semaphore is in use or pinned, its present limit applies [env: SEMRUN_LIMIT]' -r
complete -c semrun -n "__fish_semrun_needs_command" -l ttl -d 'How long a permit lasts unless it is renewed, at least 5s [default: 30s]; while the semaphore is in use, its present TTL applies [env: SEMRUN_TTL]' -r
complete -c semrun -n "__fish_semrun_needs_command" -s w -l wait -l timeout -d 'Wait at most D [default: for ever]; 0 is the same as -n [env: SEMRUN_WAIT]' -r
complete -c semrun -n "__fish_semrun_needs_command" -l max-attempts -d 'Wait at most N times --retry-interval; what PassBuddy calls N attempts, but in the queue [env: SEMRUN_MAX_ATTEMPTS]' -r
complete -c semrun -n "__fish_semrun_needs_command" -l retry-interval -d 'How long each of --max-attempts waits [default: 500ms] [env: SEMRUN_RETRY_INTERVAL]' -r
complete -c semrun -n "__fish_semrun_needs_command" -s E -l conflict-exit-code -d 'Exit code without a permit [default: 75]; 0 to 255 [env: SEMRUN_CONFLICT_EXIT_CODE]' -r
complete -c semrun -n "__fish_semrun_needs_command" -l min-hold -d 'Keep the permit taken until D after it was acquired, even if the command or the host ends sooner; a job of cron then runs once on hosts with different clocks [env: SEMRUN_MIN_HOLD]' -r
complete -c semrun -n "__fish_semrun_needs_command" -l jitter -d 'Wait a random time of up to D before asking for a permit [env: SEMRUN_JITTER]' -r
complete -c semrun -n "__fish_semrun_needs_command" -l label -d 'Text that `status` shows for this holder [default: the command\'s file name, or acquire] [env: SEMRUN_LABEL]' -r
complete -c semrun -n "__fish_semrun_needs_command" -l lost-exit-code -d 'Exit code if the permit was lost [default: 76]; 0 to 255 [env: SEMRUN_LOST_EXIT_CODE]' -r
complete -c semrun -n "__fish_semrun_needs_command" -s s -l signal -d 'Signal that semrun sends first to stop the command [default: TERM] [env: SEMRUN_SIGNAL]' -r
complete -c semrun -n "__fish_semrun_needs_command" -s k -l kill-after -d 'Send SIGKILL to all processes of the command D after the first signal [default: 5s, or a quarter of the TTL if that is less]; with 0 only when the lease ends [env: SEMRUN_KILL_AFTER]' -r
complete -c semrun -n "__fish_semrun_needs_command" -l max-runtime -d 'Stop the command after D (exit code 124) [env: SEMRUN_MAX_RUNTIME]' -r
complete -c semrun -n "__fish_semrun_needs_command" -l on-lost -d 'What to do with the command when its permit is lost [default: kill] [env: SEMRUN_ON_LOST]' -r -f -a "kill\t''
continue\t''"
complete -c semrun -n "__fish_semrun_needs_command" -l orphans -d 'What to do with processes that still run when the command has ended [default: leave]; a command that is stopped leaves none [env: SEMRUN_ORPHANS]' -r -f -a "leave\t''
wait\t''
kill\t''"
complete -c semrun -n "__fish_semrun_needs_command" -l backend -d 'Keep permits at URL [default: on this machine]; file:///PATH, redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// with TLS, redis+unix:///PATH, or http://HOST:PORT and https:// for a cloud-semaphore server; without one /run/semrun for root, ~/.local/state/semrun for others [env: SEMRUN_BACKEND]' -r -f
complete -c semrun -n "__fish_semrun_needs_command" -l prefix -d 'Prefix of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]' -r
complete -c semrun -n "__fish_semrun_needs_command" -l quarantine -d 'After Redis has lost its data, grant no permit until it has been up for D [default: auto, the larger of 30s and the TTL]; 0 never waits, for throw-away servers [env: SEMRUN_QUARANTINE]' -r
complete -c semrun -n "__fish_semrun_needs_command" -l replicas -d 'Grant and renew only while N replicas of Redis are in step [default: 0]; the highest number of all users of a semaphore applies [env: SEMRUN_REPLICAS]' -r
complete -c semrun -n "__fish_semrun_needs_command" -l password-file -d 'Read the password for Redis from the first line of FILE; or set SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]' -r -F
complete -c semrun -n "__fish_semrun_needs_command" -l api-key-file -d 'Read the API key for a cloud-semaphore server from the first line of FILE; or set SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]' -r -F
complete -c semrun -n "__fish_semrun_needs_command" -l ca-file -d 'Trust the authorities in FILE (PEM) for TLS instead of the system\'s [env: SEMRUN_CA_FILE]' -r -F
complete -c semrun -n "__fish_semrun_needs_command" -l client-cert -d 'Present the certificate in FILE (PEM) to the server; needs --client-key [env: SEMRUN_CLIENT_CERT]' -r -F
complete -c semrun -n "__fish_semrun_needs_command" -l client-key -d 'Private key (PEM) of --client-cert [env: SEMRUN_CLIENT_KEY]' -r -F
complete -c semrun -n "__fish_semrun_needs_command" -l config -d 'Read this configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]' -r -F
complete -c semrun -n "__fish_semrun_needs_command" -s c -l command -d 'Run STR with $SHELL -c, or /bin/sh -c' -r
complete -c semrun -n "__fish_semrun_needs_command" -l strict-limit -d 'Fail with exit code 78 if the semaphore already has another limit or TTL [env: SEMRUN_STRICT_LIMIT]'
complete -c semrun -n "__fish_semrun_needs_command" -s n -l nonblock -l nb -l no-wait -d 'Do not wait if no permit is free [env: SEMRUN_NONBLOCK]'
complete -c semrun -n "__fish_semrun_needs_command" -l foreground -d 'Run the command in semrun\'s own process group [env: SEMRUN_FOREGROUND]'
complete -c semrun -n "__fish_semrun_needs_command" -l clean-env -d 'Remove SEMRUN_API_KEY, SEMRUN_PASSWORD and a SEMRUN_BACKEND with a password from the command\'s environment [env: SEMRUN_CLEAN_ENV]'
complete -c semrun -n "__fish_semrun_needs_command" -l allow-eviction -d 'Accept a Redis whose maxmemory-policy may delete permits [env: SEMRUN_ALLOW_EVICTION]'
complete -c semrun -n "__fish_semrun_needs_command" -s v -l verbose -d 'Print what semrun decides [env: SEMRUN_VERBOSE]'
complete -c semrun -n "__fish_semrun_needs_command" -s q -l quiet -d 'Print only errors [env: SEMRUN_QUIET]'
complete -c semrun -n "__fish_semrun_needs_command" -s h -l help -d 'Print help; -h prints less of it'
complete -c semrun -n "__fish_semrun_needs_command" -s V -l version -d 'Print the version'
complete -c semrun -n "__fish_semrun_needs_command" -a "status" -d 'Show who holds and who waits (all semaphores if no NAME is given)'
complete -c semrun -n "__fish_semrun_needs_command" -a "acquire" -d 'Take a permit that outlives this process, for a job of several steps'
complete -c semrun -n "__fish_semrun_needs_command" -a "renew" -d 'Extend a permit that was acquired'
complete -c semrun -n "__fish_semrun_needs_command" -a "release" -d 'Give back a permit that was acquired, or take one from its holder'
complete -c semrun -n "__fish_semrun_needs_command" -a "limit" -d 'Show, pin or unpin a semaphore\'s limit'
complete -c semrun -n "__fish_semrun_needs_command" -a "serve" -d 'Run a cloud-semaphore server, for semrun and for the Node clients'
complete -c semrun -n "__fish_semrun_needs_command" -a "doctor" -d 'Check configuration, backend and clocks without running anything'
complete -c semrun -n "__fish_semrun_needs_command" -a "help" -d 'Print this, or the help of a subcommand'
complete -c semrun -n "__fish_semrun_needs_command" -a "completions" -d 'Print a completion script for a shell'
complete -c semrun -n "__fish_semrun_needs_command" -a "man" -d 'Print a man page in roff: semrun\'s own, or that of a subcommand'
complete -c semrun -n "__fish_semrun_using_subcommand status" -l backend -d 'Keep permits at URL [default: on this machine]; file:///PATH, redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// with TLS, redis+unix:///PATH, or http://HOST:PORT and https:// for a cloud-semaphore server; without one /run/semrun for root, ~/.local/state/semrun for others [env: SEMRUN_BACKEND]' -r -f
complete -c semrun -n "__fish_semrun_using_subcommand status" -l prefix -d 'Prefix of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]' -r
complete -c semrun -n "__fish_semrun_using_subcommand status" -l quarantine -d 'After Redis has lost its data, grant no permit until it has been up for D [default: auto, the larger of 30s and the TTL]; 0 never waits, for throw-away servers [env: SEMRUN_QUARANTINE]' -r
complete -c semrun -n "__fish_semrun_using_subcommand status" -l replicas -d 'Grant and renew only while N replicas of Redis are in step [default: 0]; the highest number of all users of a semaphore applies [env: SEMRUN_REPLICAS]' -r
complete -c semrun -n "__fish_semrun_using_subcommand status" -l password-file -d 'Read the password for Redis from the first line of FILE; or set SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand status" -l api-key-file -d 'Read the API key for a cloud-semaphore server from the first line of FILE; or set SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand status" -l ca-file -d 'Trust the authorities in FILE (PEM) for TLS instead of the system\'s [env: SEMRUN_CA_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand status" -l client-cert -d 'Present the certificate in FILE (PEM) to the server; needs --client-key [env: SEMRUN_CLIENT_CERT]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand status" -l client-key -d 'Private key (PEM) of --client-cert [env: SEMRUN_CLIENT_KEY]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand status" -l config -d 'Read this configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand status" -s l -l limit -d 'Limit to assume if only other programs hold permits [default: 1] [env: SEMRUN_LIMIT]' -r
complete -c semrun -n "__fish_semrun_using_subcommand status" -l allow-eviction -d 'Accept a Redis whose maxmemory-policy may delete permits [env: SEMRUN_ALLOW_EVICTION]'
complete -c semrun -n "__fish_semrun_using_subcommand status" -l json -d 'Print a JSON document'
complete -c semrun -n "__fish_semrun_using_subcommand status" -l watch -d 'Print it again whenever it changes, until a signal ends it'
complete -c semrun -n "__fish_semrun_using_subcommand status" -s h -l help -d 'Print help; -h prints less of it'
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l name -d 'Name of the semaphore, 1 to 200 bytes of UTF-8; control characters are not allowed [env: SEMRUN_NAME]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -s l -s j -l limit -d 'How many may hold a permit at once [default: 1]; while the semaphore is in use or pinned, its present limit applies [env: SEMRUN_LIMIT]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l ttl -d 'How long a permit lasts unless it is renewed, at least 5s [default: 30s]; while the semaphore is in use, its present TTL applies [env: SEMRUN_TTL]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -s w -l wait -l timeout -d 'Wait at most D [default: for ever]; 0 is the same as -n [env: SEMRUN_WAIT]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l max-attempts -d 'Wait at most N times --retry-interval; what PassBuddy calls N attempts, but in the queue [env: SEMRUN_MAX_ATTEMPTS]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l retry-interval -d 'How long each of --max-attempts waits [default: 500ms] [env: SEMRUN_RETRY_INTERVAL]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -s E -l conflict-exit-code -d 'Exit code without a permit [default: 75]; 0 to 255 [env: SEMRUN_CONFLICT_EXIT_CODE]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l min-hold -d 'Keep the permit taken until D after it was acquired, even if the command or the host ends sooner; a job of cron then runs once on hosts with different clocks [env: SEMRUN_MIN_HOLD]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l jitter -d 'Wait a random time of up to D before asking for a permit [env: SEMRUN_JITTER]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l label -d 'Text that `status` shows for this holder [default: the command\'s file name, or acquire] [env: SEMRUN_LABEL]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l backend -d 'Keep permits at URL [default: on this machine]; file:///PATH, redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// with TLS, redis+unix:///PATH, or http://HOST:PORT and https:// for a cloud-semaphore server; without one /run/semrun for root, ~/.local/state/semrun for others [env: SEMRUN_BACKEND]' -r -f
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l prefix -d 'Prefix of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l quarantine -d 'After Redis has lost its data, grant no permit until it has been up for D [default: auto, the larger of 30s and the TTL]; 0 never waits, for throw-away servers [env: SEMRUN_QUARANTINE]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l replicas -d 'Grant and renew only while N replicas of Redis are in step [default: 0]; the highest number of all users of a semaphore applies [env: SEMRUN_REPLICAS]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l password-file -d 'Read the password for Redis from the first line of FILE; or set SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l api-key-file -d 'Read the API key for a cloud-semaphore server from the first line of FILE; or set SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l ca-file -d 'Trust the authorities in FILE (PEM) for TLS instead of the system\'s [env: SEMRUN_CA_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l client-cert -d 'Present the certificate in FILE (PEM) to the server; needs --client-key [env: SEMRUN_CLIENT_CERT]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l client-key -d 'Private key (PEM) of --client-cert [env: SEMRUN_CLIENT_KEY]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l config -d 'Read this configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l strict-limit -d 'Fail with exit code 78 if the semaphore already has another limit or TTL [env: SEMRUN_STRICT_LIMIT]'
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -s n -l nonblock -l nb -l no-wait -d 'Do not wait if no permit is free [env: SEMRUN_NONBLOCK]'
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l allow-eviction -d 'Accept a Redis whose maxmemory-policy may delete permits [env: SEMRUN_ALLOW_EVICTION]'
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -s v -l verbose -d 'Print what semrun decides [env: SEMRUN_VERBOSE]'
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -s q -l quiet -d 'Print only errors [env: SEMRUN_QUIET]'
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l json -d 'Print a JSON document'
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l shell -d 'Print `export` lines for a shell to evaluate'
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -s h -l help -d 'Print help; -h prints less of it'
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l permit -d 'What `semrun acquire` printed [env: SEMRUN_PERMIT]' -r
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l while-pid -d 'Keep renewing it until this process has ended; then end without giving it back' -r
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l backend -d 'Keep permits at URL [default: on this machine]; file:///PATH, redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// with TLS, redis+unix:///PATH, or http://HOST:PORT and https:// for a cloud-semaphore server; without one /run/semrun for root, ~/.local/state/semrun for others [env: SEMRUN_BACKEND]' -r -f
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l prefix -d 'Prefix of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]' -r
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l quarantine -d 'After Redis has lost its data, grant no permit until it has been up for D [default: auto, the larger of 30s and the TTL]; 0 never waits, for throw-away servers [env: SEMRUN_QUARANTINE]' -r
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l replicas -d 'Grant and renew only while N replicas of Redis are in step [default: 0]; the highest number of all users of a semaphore applies [env: SEMRUN_REPLICAS]' -r
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l password-file -d 'Read the password for Redis from the first line of FILE; or set SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l api-key-file -d 'Read the API key for a cloud-semaphore server from the first line of FILE; or set SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l ca-file -d 'Trust the authorities in FILE (PEM) for TLS instead of the system\'s [env: SEMRUN_CA_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l client-cert -d 'Present the certificate in FILE (PEM) to the server; needs --client-key [env: SEMRUN_CLIENT_CERT]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l client-key -d 'Private key (PEM) of --client-cert [env: SEMRUN_CLIENT_KEY]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l config -d 'Read this configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l allow-eviction -d 'Accept a Redis whose maxmemory-policy may delete permits [env: SEMRUN_ALLOW_EVICTION]'
complete -c semrun -n "__fish_semrun_using_subcommand renew" -s h -l help -d 'Print help; -h prints less of it'
complete -c semrun -n "__fish_semrun_using_subcommand release" -l permit -d 'What `semrun acquire` printed; with --force any permit that `semrun status --json` shows [env: SEMRUN_PERMIT]' -r
complete -c semrun -n "__fish_semrun_using_subcommand release" -l backend -d 'Keep permits at URL [default: on this machine]; file:///PATH, redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// with TLS, redis+unix:///PATH, or http://HOST:PORT and https:// for a cloud-semaphore server; without one /run/semrun for root, ~/.local/state/semrun for others [env: SEMRUN_BACKEND]' -r -f
complete -c semrun -n "__fish_semrun_using_subcommand release" -l prefix -d 'Prefix of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]' -r
complete -c semrun -n "__fish_semrun_using_subcommand release" -l quarantine -d 'After Redis has lost its data, grant no permit until it has been up for D [default: auto, the larger of 30s and the TTL]; 0 never waits, for throw-away servers [env: SEMRUN_QUARANTINE]' -r
complete -c semrun -n "__fish_semrun_using_subcommand release" -l replicas -d 'Grant and renew only while N replicas of Redis are in step [default: 0]; the highest number of all users of a semaphore applies [env: SEMRUN_REPLICAS]' -r
complete -c semrun -n "__fish_semrun_using_subcommand release" -l password-file -d 'Read the password for Redis from the first line of FILE; or set SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand release" -l api-key-file -d 'Read the API key for a cloud-semaphore server from the first line of FILE; or set SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand release" -l ca-file -d 'Trust the authorities in FILE (PEM) for TLS instead of the system\'s [env: SEMRUN_CA_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand release" -l client-cert -d 'Present the certificate in FILE (PEM) to the server; needs --client-key [env: SEMRUN_CLIENT_CERT]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand release" -l client-key -d 'Private key (PEM) of --client-cert [env: SEMRUN_CLIENT_KEY]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand release" -l config -d 'Read this configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand release" -l force -d 'Take the permit from its holder; it passes on when the holder\'s command is dead, or when the lease ends'
complete -c semrun -n "__fish_semrun_using_subcommand release" -l now -d 'With --force, let the permit pass on at once; the old command may still run beside the next'
complete -c semrun -n "__fish_semrun_using_subcommand release" -l allow-eviction -d 'Accept a Redis whose maxmemory-policy may delete permits [env: SEMRUN_ALLOW_EVICTION]'
complete -c semrun -n "__fish_semrun_using_subcommand release" -s h -l help -d 'Print help; -h prints less of it'
complete -c semrun -n "__fish_semrun_using_subcommand limit" -l backend -d 'Keep permits at URL [default: on this machine]; file:///PATH, redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// with TLS, redis+unix:///PATH, or http://HOST:PORT and https:// for a cloud-semaphore server; without one /run/semrun for root, ~/.local/state/semrun for others [env: SEMRUN_BACKEND]' -r -f
complete -c semrun -n "__fish_semrun_using_subcommand limit" -l prefix -d 'Prefix of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]' -r
complete -c semrun -n "__fish_semrun_using_subcommand limit" -l quarantine -d 'After Redis has lost its data, grant no permit until it has been up for D [default: auto, the larger of 30s and the TTL]; 0 never waits, for throw-away servers [env: SEMRUN_QUARANTINE]' -r
complete -c semrun -n "__fish_semrun_using_subcommand limit" -l replicas -d 'Grant and renew only while N replicas of Redis are in step [default: 0]; the highest number of all users of a semaphore applies [env: SEMRUN_REPLICAS]' -r
complete -c semrun -n "__fish_semrun_using_subcommand limit" -l password-file -d 'Read the password for Redis from the first line of FILE; or set SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand limit" -l api-key-file -d 'Read the API key for a cloud-semaphore server from the first line of FILE; or set SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand limit" -l ca-file -d 'Trust the authorities in FILE (PEM) for TLS instead of the system\'s [env: SEMRUN_CA_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand limit" -l client-cert -d 'Present the certificate in FILE (PEM) to the server; needs --client-key [env: SEMRUN_CLIENT_CERT]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand limit" -l client-key -d 'Private key (PEM) of --client-cert [env: SEMRUN_CLIENT_KEY]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand limit" -l config -d 'Read this configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand limit" -l unpin -d 'Remove the pinned limit; what its users ask for with `-l` applies again'
complete -c semrun -n "__fish_semrun_using_subcommand limit" -l allow-eviction -d 'Accept a Redis whose maxmemory-policy may delete permits [env: SEMRUN_ALLOW_EVICTION]'
complete -c semrun -n "__fish_semrun_using_subcommand limit" -s h -l help -d 'Print help; -h prints less of it'
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l api-key-file -d 'Accept the API keys in FILE, one a line; KEY [role=view|use|admin] [names=PATTERN] LABEL, or several keys in SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l listen -d 'Address to listen at [default: 127.0.0.1:3202]; port 0 is any free one [env: SEMRUN_LISTEN]' -r
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l tls-cert -d 'Serve HTTPS with the certificate chain in FILE (PEM); needs --tls-key [env: SEMRUN_TLS_CERT]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l tls-key -d 'Private key (PEM) of --tls-cert [env: SEMRUN_TLS_KEY]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l client-ca-file -d 'Admit only clients with a certificate that an authority in FILE (PEM) has signed; needs --tls-cert [env: SEMRUN_CLIENT_CA_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l state-dir -d 'Record permits in DIR, so that they outlive a restart [env: SEMRUN_STATE_DIR]' -r -f -a "(__fish_complete_directories)"
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l max-unauthenticated -d 'At most N connections that have not shown a key [default: a quarter of the descriptors, 1024 at most]; a new one closes the oldest [env: SEMRUN_MAX_UNAUTHENTICATED]' -r
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l max-unauthenticated-per-address -d 'The same for one address, or one IPv6 network of 64 bits [default: a quarter of --max-unauthenticated] [env: SEMRUN_MAX_UNAUTHENTICATED_PER_ADDRESS]' -r
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l max-clients -d 'At most N clients that register, wait or hold, of all semaphores [default: 200000] [env: SEMRUN_MAX_CLIENTS]' -r
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l max-waiters -d 'At most N clients that register or wait, of one semaphore [default: 20000] [env: SEMRUN_MAX_WAITERS]' -r
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l max-names -d 'At most N semaphores that are in use or have a pinned limit [default: 20000] [env: SEMRUN_MAX_NAMES]' -r
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l max-pins -d 'At most N semaphores with a pinned limit [default: 10000] [env: SEMRUN_MAX_PINS]' -r
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l log -d 'Events to log on standard error, beside info and alert [env: SEMRUN_LOG]' -r -f -a "info\t''
alert\t''
sem_events\t''
sem_transition\t''
debug\t''"
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l log-format -d 'Form of the log [default: text] [env: SEMRUN_LOG_FORMAT]' -r -f -a "text\t''
json\t''"
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l config -d 'Read this configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand serve" -s h -l help -d 'Print help; -h prints less of it'
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l name -d 'Name of the semaphore, 1 to 200 bytes of UTF-8; control characters are not allowed [env: SEMRUN_NAME]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -s l -s j -l limit -d 'How many may hold a permit at once [default: 1]; while the semaphore is in use or pinned, its present limit applies [env: SEMRUN_LIMIT]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l ttl -d 'How long a permit lasts unless it is renewed, at least 5s [default: 30s]; while the semaphore is in use, its present TTL applies [env: SEMRUN_TTL]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -s w -l wait -l timeout -d 'Wait at most D [default: for ever]; 0 is the same as -n [env: SEMRUN_WAIT]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l max-attempts -d 'Wait at most N times --retry-interval; what PassBuddy calls N attempts, but in the queue [env: SEMRUN_MAX_ATTEMPTS]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l retry-interval -d 'How long each of --max-attempts waits [default: 500ms] [env: SEMRUN_RETRY_INTERVAL]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -s E -l conflict-exit-code -d 'Exit code without a permit [default: 75]; 0 to 255 [env: SEMRUN_CONFLICT_EXIT_CODE]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l min-hold -d 'Keep the permit taken until D after it was acquired, even if the command or the host ends sooner; a job of cron then runs once on hosts with different clocks [env: SEMRUN_MIN_HOLD]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l jitter -d 'Wait a random time of up to D before asking for a permit [env: SEMRUN_JITTER]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l label -d 'Text that `status` shows for this holder [default: the command\'s file name, or acquire] [env: SEMRUN_LABEL]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l lost-exit-code -d 'Exit code if the permit was lost [default: 76]; 0 to 255 [env: SEMRUN_LOST_EXIT_CODE]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -s s -l signal -d 'Signal that semrun sends first to stop the command [default: TERM] [env: SEMRUN_SIGNAL]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -s k -l kill-after -d 'Send SIGKILL to all processes of the command D after the first signal [default: 5s, or a quarter of the TTL if that is less]; with 0 only when the lease ends [env: SEMRUN_KILL_AFTER]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l max-runtime -d 'Stop the command after D (exit code 124) [env: SEMRUN_MAX_RUNTIME]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l on-lost -d 'What to do with the command when its permit is lost [default: kill] [env: SEMRUN_ON_LOST]' -r -f -a "kill\t''
continue\t''"
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l orphans -d 'What to do with processes that still run when the command has ended [default: leave]; a command that is stopped leaves none [env: SEMRUN_ORPHANS]' -r -f -a "leave\t''
wait\t''
kill\t''"
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l backend -d 'Keep permits at URL [default: on this machine]; file:///PATH, redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// with TLS, redis+unix:///PATH, or http://HOST:PORT and https:// for a cloud-semaphore server; without one /run/semrun for root, ~/.local/state/semrun for others [env: SEMRUN_BACKEND]' -r -f
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l prefix -d 'Prefix of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l quarantine -d 'After Redis has lost its data, grant no permit until it has been up for D [default: auto, the larger of 30s and the TTL]; 0 never waits, for throw-away servers [env: SEMRUN_QUARANTINE]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l replicas -d 'Grant and renew only while N replicas of Redis are in step [default: 0]; the highest number of all users of a semaphore applies [env: SEMRUN_REPLICAS]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l password-file -d 'Read the password for Redis from the first line of FILE; or set SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l api-key-file -d 'Read the API key for a cloud-semaphore server from the first line of FILE; or set SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l ca-file -d 'Trust the authorities in FILE (PEM) for TLS instead of the system\'s [env: SEMRUN_CA_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l client-cert -d 'Present the certificate in FILE (PEM) to the server; needs --client-key [env: SEMRUN_CLIENT_CERT]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l client-key -d 'Private key (PEM) of --client-cert [env: SEMRUN_CLIENT_KEY]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l config -d 'Read this configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l strict-limit -d 'Fail with exit code 78 if the semaphore already has another limit or TTL [env: SEMRUN_STRICT_LIMIT]'
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -s n -l nonblock -l nb -l no-wait -d 'Do not wait if no permit is free [env: SEMRUN_NONBLOCK]'
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l foreground -d 'Run the command in semrun\'s own process group [env: SEMRUN_FOREGROUND]'
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l clean-env -d 'Remove SEMRUN_API_KEY, SEMRUN_PASSWORD and a SEMRUN_BACKEND with a password from the command\'s environment [env: SEMRUN_CLEAN_ENV]'
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -s v -l verbose -d 'Print what semrun decides [env: SEMRUN_VERBOSE]'
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -s q -l quiet -d 'Print only errors [env: SEMRUN_QUIET]'
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l json -d 'Print a JSON document'
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l allow-eviction -d 'Accept a Redis whose maxmemory-policy may delete permits [env: SEMRUN_ALLOW_EVICTION]'
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -s h -l help -d 'Print help; -h prints less of it'
complete -c semrun -n "__fish_semrun_using_subcommand help" -s h -l help -d 'Print help; -h prints less of it'
complete -c semrun -n "__fish_semrun_using_subcommand completions" -s h -l help -d 'Print help; -h prints less of it'
complete -c semrun -n "__fish_semrun_using_subcommand man" -s h -l help -d 'Print help; -h prints less of it'
