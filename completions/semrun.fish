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

complete -c semrun -n "__fish_semrun_needs_command" -l name -d 'The semaphore: 1 to 200 bytes of UTF-8 without control characters [env: SEMRUN_NAME]' -r
complete -c semrun -n "__fish_semrun_needs_command" -s l -s j -l limit -d 'Permits in all, 1 to 10,000 [default: 1]. The limit of a semaphore that is in use, or pinned, stands [env: SEMRUN_LIMIT]' -r
complete -c semrun -n "__fish_semrun_needs_command" -l ttl -d 'The lease of a permit where permits can expire, at least 5s; renewed while the command runs [default: 30s]. The TTL of a semaphore that is in use stands [env: SEMRUN_TTL]' -r
complete -c semrun -n "__fish_semrun_needs_command" -s w -l wait -l timeout -d 'Wait at most D; 0 is -n [default: for ever] [env: SEMRUN_WAIT]' -r
complete -c semrun -n "__fish_semrun_needs_command" -l max-attempts -d 'Wait at most N times --retry-interval, in the queue: what PassBuddy calls N attempts [env: SEMRUN_MAX_ATTEMPTS]' -r
complete -c semrun -n "__fish_semrun_needs_command" -l retry-interval -d 'See --max-attempts [default: 500ms] [env: SEMRUN_RETRY_INTERVAL]' -r
complete -c semrun -n "__fish_semrun_needs_command" -s E -l conflict-exit-code -d 'The exit code when no permit was acquired, 0 to 255 [default: 75] [env: SEMRUN_CONFLICT_EXIT_CODE]' -r
complete -c semrun -n "__fish_semrun_needs_command" -l min-hold -d 'The permit stays taken until D after it was acquired, also if the command ends sooner or this host dies: cron on hosts with skewed clocks runs once [env: SEMRUN_MIN_HOLD]' -r
complete -c semrun -n "__fish_semrun_needs_command" -l jitter -d 'Wait a random time up to D before asking [env: SEMRUN_JITTER]' -r
complete -c semrun -n "__fish_semrun_needs_command" -l label -d 'What `status` shows for this holder [default: the command\'s file name, or acquire] [env: SEMRUN_LABEL]' -r
complete -c semrun -n "__fish_semrun_needs_command" -l lost-exit-code -d 'The exit code when the permit was lost, 0 to 255 [default: 76] [env: SEMRUN_LOST_EXIT_CODE]' -r
complete -c semrun -n "__fish_semrun_needs_command" -s s -l signal -d 'What semrun sends first when it stops a command of its own accord [default: TERM] [env: SEMRUN_SIGNAL]' -r
complete -c semrun -n "__fish_semrun_needs_command" -s k -l kill-after -d 'How long a command that is stopped has until its whole tree gets SIGKILL; 0: only when its lease ends [default: 5s, or a quarter of the TTL if that is less] [env: SEMRUN_KILL_AFTER]' -r
complete -c semrun -n "__fish_semrun_needs_command" -l max-runtime -d 'Stop the command when it has run for D; the exit code is 124 then [env: SEMRUN_MAX_RUNTIME]' -r
complete -c semrun -n "__fish_semrun_needs_command" -l on-lost -d 'What becomes of the command when its permit is lost [default: kill] [env: SEMRUN_ON_LOST]' -r -f -a "kill\t''
continue\t''"
complete -c semrun -n "__fish_semrun_needs_command" -l orphans -d 'What becomes of processes that the command left when it exited; one that is stopped leaves none [default: leave] [env: SEMRUN_ORPHANS]' -r -f -a "leave\t''
wait\t''
kill\t''"
complete -c semrun -n "__fish_semrun_needs_command" -l backend -d 'Where permits live: file:///PATH, redis://HOST or redis://USER:PASSWORD@HOST:PORT/DB, rediss:// with TLS, redis+unix:///PATH, http://HOST:PORT or https:// for a cloud-semaphore server [default: /run/semrun for root, ~/.local/state/semrun for others] [env: SEMRUN_BACKEND]' -r -f
complete -c semrun -n "__fish_semrun_needs_command" -l prefix -d 'Namespace of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]' -r
complete -c semrun -n "__fish_semrun_needs_command" -l quarantine -d 'How long a Redis that remembers nothing has to be up before it grants anything: auto, 0 for one that is thrown away, or a time [default: auto, the larger of 30s and the TTL] [env: SEMRUN_QUARANTINE]' -r
complete -c semrun -n "__fish_semrun_needs_command" -l replicas -d 'How many replicas of a Redis must be in step before it grants or renews anything; the most that one user of a semaphore asks for [default: 0] [env: SEMRUN_REPLICAS]' -r
complete -c semrun -n "__fish_semrun_needs_command" -l password-file -d 'A file with the password for Redis in its first line; also in the variable SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]' -r -F
complete -c semrun -n "__fish_semrun_needs_command" -l api-key-file -d 'A file with the API key for a cloud-semaphore server in its first line; also in the variable SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]' -r -F
complete -c semrun -n "__fish_semrun_needs_command" -l ca-file -d 'The authorities to trust for TLS instead of the system\'s (PEM) [env: SEMRUN_CA_FILE]' -r -F
complete -c semrun -n "__fish_semrun_needs_command" -l client-cert -d 'Our own certificate for TLS (PEM); with --client-key [env: SEMRUN_CLIENT_CERT]' -r -F
complete -c semrun -n "__fish_semrun_needs_command" -l client-key -d 'The key of --client-cert (PEM) [env: SEMRUN_CLIENT_KEY]' -r -F
complete -c semrun -n "__fish_semrun_needs_command" -l config -d 'A configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]' -r -F
complete -c semrun -n "__fish_semrun_needs_command" -s c -l command -d 'Run STR with $SHELL -c, or /bin/sh -c' -r
complete -c semrun -n "__fish_semrun_needs_command" -l strict-limit -d 'Another limit or TTL that is in force is an error [env: SEMRUN_STRICT_LIMIT]'
complete -c semrun -n "__fish_semrun_needs_command" -s n -l nonblock -l nb -l no-wait -d 'Do not wait [env: SEMRUN_NONBLOCK]'
complete -c semrun -n "__fish_semrun_needs_command" -l foreground -d 'Run the command in semrun\'s own process group [env: SEMRUN_FOREGROUND]'
complete -c semrun -n "__fish_semrun_needs_command" -l clean-env -d 'Keep SEMRUN_API_KEY, SEMRUN_PASSWORD, and a SEMRUN_BACKEND with a password in it, from the command [env: SEMRUN_CLEAN_ENV]'
complete -c semrun -n "__fish_semrun_needs_command" -l allow-eviction -d 'Use a Redis that may evict keys under memory pressure, and permits with them [env: SEMRUN_ALLOW_EVICTION]'
complete -c semrun -n "__fish_semrun_needs_command" -s v -l verbose -d 'Say more [env: SEMRUN_VERBOSE]'
complete -c semrun -n "__fish_semrun_needs_command" -s q -l quiet -d 'Say nothing but errors [env: SEMRUN_QUIET]'
complete -c semrun -n "__fish_semrun_needs_command" -s h -l help -d 'Print help'
complete -c semrun -n "__fish_semrun_needs_command" -s V -l version -d 'Print version'
complete -c semrun -n "__fish_semrun_needs_command" -a "status" -d 'Show holders and waiters, of all semaphores without NAME'
complete -c semrun -n "__fish_semrun_needs_command" -a "acquire" -d 'Take a permit that outlives this process, for a job of several steps'
complete -c semrun -n "__fish_semrun_needs_command" -a "renew" -d 'Extend a permit that was acquired'
complete -c semrun -n "__fish_semrun_needs_command" -a "release" -d 'Give back a permit that was acquired, or take one from somebody else'
complete -c semrun -n "__fish_semrun_needs_command" -a "limit" -d 'Show, pin or unpin a semaphore\'s limit'
complete -c semrun -n "__fish_semrun_needs_command" -a "serve" -d 'Serve semaphores to cloud-semaphore clients, those for Node and our own'
complete -c semrun -n "__fish_semrun_needs_command" -a "doctor" -d 'Check configuration, backend, clocks and the time to acquire'
complete -c semrun -n "__fish_semrun_needs_command" -a "completions" -d 'Print a completion script for a shell'
complete -c semrun -n "__fish_semrun_needs_command" -a "man" -d 'Print a man page in roff: semrun\'s own, or that of a subcommand'
complete -c semrun -n "__fish_semrun_using_subcommand status" -l backend -d 'Where permits live: file:///PATH, redis://HOST or redis://USER:PASSWORD@HOST:PORT/DB, rediss:// with TLS, redis+unix:///PATH, http://HOST:PORT or https:// for a cloud-semaphore server [default: /run/semrun for root, ~/.local/state/semrun for others] [env: SEMRUN_BACKEND]' -r -f
complete -c semrun -n "__fish_semrun_using_subcommand status" -l prefix -d 'Namespace of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]' -r
complete -c semrun -n "__fish_semrun_using_subcommand status" -l quarantine -d 'How long a Redis that remembers nothing has to be up before it grants anything: auto, 0 for one that is thrown away, or a time [default: auto, the larger of 30s and the TTL] [env: SEMRUN_QUARANTINE]' -r
complete -c semrun -n "__fish_semrun_using_subcommand status" -l replicas -d 'How many replicas of a Redis must be in step before it grants or renews anything; the most that one user of a semaphore asks for [default: 0] [env: SEMRUN_REPLICAS]' -r
complete -c semrun -n "__fish_semrun_using_subcommand status" -l password-file -d 'A file with the password for Redis in its first line; also in the variable SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand status" -l api-key-file -d 'A file with the API key for a cloud-semaphore server in its first line; also in the variable SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand status" -l ca-file -d 'The authorities to trust for TLS instead of the system\'s (PEM) [env: SEMRUN_CA_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand status" -l client-cert -d 'Our own certificate for TLS (PEM); with --client-key [env: SEMRUN_CLIENT_CERT]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand status" -l client-key -d 'The key of --client-cert (PEM) [env: SEMRUN_CLIENT_KEY]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand status" -l config -d 'A configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand status" -s l -l limit -d 'The limit to compare with where only foreign clients hold permits [default: 1] [env: SEMRUN_LIMIT]' -r
complete -c semrun -n "__fish_semrun_using_subcommand status" -l allow-eviction -d 'Use a Redis that may evict keys under memory pressure, and permits with them [env: SEMRUN_ALLOW_EVICTION]'
complete -c semrun -n "__fish_semrun_using_subcommand status" -l json -d 'Print a JSON document (docs/status.md has its fields)'
complete -c semrun -n "__fish_semrun_using_subcommand status" -l watch -d 'Show it again whenever it changes, until a signal ends it'
complete -c semrun -n "__fish_semrun_using_subcommand status" -s h -l help -d 'Print help'
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l name -d 'The semaphore: 1 to 200 bytes of UTF-8 without control characters [env: SEMRUN_NAME]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -s l -s j -l limit -d 'Permits in all, 1 to 10,000 [default: 1]. The limit of a semaphore that is in use, or pinned, stands [env: SEMRUN_LIMIT]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l ttl -d 'The lease of a permit where permits can expire, at least 5s; renewed while the command runs [default: 30s]. The TTL of a semaphore that is in use stands [env: SEMRUN_TTL]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -s w -l wait -l timeout -d 'Wait at most D; 0 is -n [default: for ever] [env: SEMRUN_WAIT]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l max-attempts -d 'Wait at most N times --retry-interval, in the queue: what PassBuddy calls N attempts [env: SEMRUN_MAX_ATTEMPTS]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l retry-interval -d 'See --max-attempts [default: 500ms] [env: SEMRUN_RETRY_INTERVAL]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -s E -l conflict-exit-code -d 'The exit code when no permit was acquired, 0 to 255 [default: 75] [env: SEMRUN_CONFLICT_EXIT_CODE]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l min-hold -d 'The permit stays taken until D after it was acquired, also if the command ends sooner or this host dies: cron on hosts with skewed clocks runs once [env: SEMRUN_MIN_HOLD]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l jitter -d 'Wait a random time up to D before asking [env: SEMRUN_JITTER]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l label -d 'What `status` shows for this holder [default: the command\'s file name, or acquire] [env: SEMRUN_LABEL]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l backend -d 'Where permits live: file:///PATH, redis://HOST or redis://USER:PASSWORD@HOST:PORT/DB, rediss:// with TLS, redis+unix:///PATH, http://HOST:PORT or https:// for a cloud-semaphore server [default: /run/semrun for root, ~/.local/state/semrun for others] [env: SEMRUN_BACKEND]' -r -f
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l prefix -d 'Namespace of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l quarantine -d 'How long a Redis that remembers nothing has to be up before it grants anything: auto, 0 for one that is thrown away, or a time [default: auto, the larger of 30s and the TTL] [env: SEMRUN_QUARANTINE]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l replicas -d 'How many replicas of a Redis must be in step before it grants or renews anything; the most that one user of a semaphore asks for [default: 0] [env: SEMRUN_REPLICAS]' -r
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l password-file -d 'A file with the password for Redis in its first line; also in the variable SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l api-key-file -d 'A file with the API key for a cloud-semaphore server in its first line; also in the variable SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l ca-file -d 'The authorities to trust for TLS instead of the system\'s (PEM) [env: SEMRUN_CA_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l client-cert -d 'Our own certificate for TLS (PEM); with --client-key [env: SEMRUN_CLIENT_CERT]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l client-key -d 'The key of --client-cert (PEM) [env: SEMRUN_CLIENT_KEY]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l config -d 'A configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l strict-limit -d 'Another limit or TTL that is in force is an error [env: SEMRUN_STRICT_LIMIT]'
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -s n -l nonblock -l nb -l no-wait -d 'Do not wait [env: SEMRUN_NONBLOCK]'
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l allow-eviction -d 'Use a Redis that may evict keys under memory pressure, and permits with them [env: SEMRUN_ALLOW_EVICTION]'
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -s v -l verbose -d 'Say more [env: SEMRUN_VERBOSE]'
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -s q -l quiet -d 'Say nothing but errors [env: SEMRUN_QUIET]'
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l json -d 'Print a JSON document (docs/operations/steps.md has its fields)'
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -l shell -d 'Print `export` lines for a shell to evaluate'
complete -c semrun -n "__fish_semrun_using_subcommand acquire" -s h -l help -d 'Print help'
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l permit -d 'What `semrun acquire` printed [env: SEMRUN_PERMIT]' -r
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l while-pid -d 'Go on extending it until this process has ended; does not give it back' -r
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l backend -d 'Where permits live: file:///PATH, redis://HOST or redis://USER:PASSWORD@HOST:PORT/DB, rediss:// with TLS, redis+unix:///PATH, http://HOST:PORT or https:// for a cloud-semaphore server [default: /run/semrun for root, ~/.local/state/semrun for others] [env: SEMRUN_BACKEND]' -r -f
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l prefix -d 'Namespace of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]' -r
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l quarantine -d 'How long a Redis that remembers nothing has to be up before it grants anything: auto, 0 for one that is thrown away, or a time [default: auto, the larger of 30s and the TTL] [env: SEMRUN_QUARANTINE]' -r
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l replicas -d 'How many replicas of a Redis must be in step before it grants or renews anything; the most that one user of a semaphore asks for [default: 0] [env: SEMRUN_REPLICAS]' -r
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l password-file -d 'A file with the password for Redis in its first line; also in the variable SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l api-key-file -d 'A file with the API key for a cloud-semaphore server in its first line; also in the variable SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l ca-file -d 'The authorities to trust for TLS instead of the system\'s (PEM) [env: SEMRUN_CA_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l client-cert -d 'Our own certificate for TLS (PEM); with --client-key [env: SEMRUN_CLIENT_CERT]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l client-key -d 'The key of --client-cert (PEM) [env: SEMRUN_CLIENT_KEY]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l config -d 'A configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand renew" -l allow-eviction -d 'Use a Redis that may evict keys under memory pressure, and permits with them [env: SEMRUN_ALLOW_EVICTION]'
complete -c semrun -n "__fish_semrun_using_subcommand renew" -s h -l help -d 'Print help'
complete -c semrun -n "__fish_semrun_using_subcommand release" -l permit -d 'What `semrun acquire` printed; with --force that of anybody, as `semrun status --json` shows it [env: SEMRUN_PERMIT]' -r
complete -c semrun -n "__fish_semrun_using_subcommand release" -l backend -d 'Where permits live: file:///PATH, redis://HOST or redis://USER:PASSWORD@HOST:PORT/DB, rediss:// with TLS, redis+unix:///PATH, http://HOST:PORT or https:// for a cloud-semaphore server [default: /run/semrun for root, ~/.local/state/semrun for others] [env: SEMRUN_BACKEND]' -r -f
complete -c semrun -n "__fish_semrun_using_subcommand release" -l prefix -d 'Namespace of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]' -r
complete -c semrun -n "__fish_semrun_using_subcommand release" -l quarantine -d 'How long a Redis that remembers nothing has to be up before it grants anything: auto, 0 for one that is thrown away, or a time [default: auto, the larger of 30s and the TTL] [env: SEMRUN_QUARANTINE]' -r
complete -c semrun -n "__fish_semrun_using_subcommand release" -l replicas -d 'How many replicas of a Redis must be in step before it grants or renews anything; the most that one user of a semaphore asks for [default: 0] [env: SEMRUN_REPLICAS]' -r
complete -c semrun -n "__fish_semrun_using_subcommand release" -l password-file -d 'A file with the password for Redis in its first line; also in the variable SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand release" -l api-key-file -d 'A file with the API key for a cloud-semaphore server in its first line; also in the variable SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand release" -l ca-file -d 'The authorities to trust for TLS instead of the system\'s (PEM) [env: SEMRUN_CA_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand release" -l client-cert -d 'Our own certificate for TLS (PEM); with --client-key [env: SEMRUN_CLIENT_CERT]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand release" -l client-key -d 'The key of --client-cert (PEM) [env: SEMRUN_CLIENT_KEY]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand release" -l config -d 'A configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand release" -l force -d 'Evict whoever has the permit: it cannot be renewed any more, and passes on when its command is dead, or when its lease ends'
complete -c semrun -n "__fish_semrun_using_subcommand release" -l now -d 'Let it pass on at once, while what ran under it may still run beside the next'
complete -c semrun -n "__fish_semrun_using_subcommand release" -l allow-eviction -d 'Use a Redis that may evict keys under memory pressure, and permits with them [env: SEMRUN_ALLOW_EVICTION]'
complete -c semrun -n "__fish_semrun_using_subcommand release" -s h -l help -d 'Print help'
complete -c semrun -n "__fish_semrun_using_subcommand limit" -l backend -d 'Where permits live: file:///PATH, redis://HOST or redis://USER:PASSWORD@HOST:PORT/DB, rediss:// with TLS, redis+unix:///PATH, http://HOST:PORT or https:// for a cloud-semaphore server [default: /run/semrun for root, ~/.local/state/semrun for others] [env: SEMRUN_BACKEND]' -r -f
complete -c semrun -n "__fish_semrun_using_subcommand limit" -l prefix -d 'Namespace of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]' -r
complete -c semrun -n "__fish_semrun_using_subcommand limit" -l quarantine -d 'How long a Redis that remembers nothing has to be up before it grants anything: auto, 0 for one that is thrown away, or a time [default: auto, the larger of 30s and the TTL] [env: SEMRUN_QUARANTINE]' -r
complete -c semrun -n "__fish_semrun_using_subcommand limit" -l replicas -d 'How many replicas of a Redis must be in step before it grants or renews anything; the most that one user of a semaphore asks for [default: 0] [env: SEMRUN_REPLICAS]' -r
complete -c semrun -n "__fish_semrun_using_subcommand limit" -l password-file -d 'A file with the password for Redis in its first line; also in the variable SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand limit" -l api-key-file -d 'A file with the API key for a cloud-semaphore server in its first line; also in the variable SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand limit" -l ca-file -d 'The authorities to trust for TLS instead of the system\'s (PEM) [env: SEMRUN_CA_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand limit" -l client-cert -d 'Our own certificate for TLS (PEM); with --client-key [env: SEMRUN_CLIENT_CERT]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand limit" -l client-key -d 'The key of --client-cert (PEM) [env: SEMRUN_CLIENT_KEY]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand limit" -l config -d 'A configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand limit" -l unpin -d 'Leave it to its users again'
complete -c semrun -n "__fish_semrun_using_subcommand limit" -l allow-eviction -d 'Use a Redis that may evict keys under memory pressure, and permits with them [env: SEMRUN_ALLOW_EVICTION]'
complete -c semrun -n "__fish_semrun_using_subcommand limit" -s h -l help -d 'Print help'
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l api-key-file -d 'The API keys that are accepted, one a line: KEY [role=view|use|admin] [names=PATTERN] LABEL; also in the variable SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l listen -d 'Where to listen; port 0 is any that is free [default: 127.0.0.1:3202] [env: SEMRUN_LISTEN]' -r
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l tls-cert -d 'The certificate to serve HTTPS with, and those that lead to it (PEM); with --tls-key [env: SEMRUN_TLS_CERT]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l tls-key -d 'The key of --tls-cert (PEM) [env: SEMRUN_TLS_KEY]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l client-ca-file -d 'Let in only clients that also show a certificate which an authority in this file has signed (PEM); with --tls-cert [env: SEMRUN_CLIENT_CA_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l state-dir -d 'Where to record permits, so that they outlive a restart [env: SEMRUN_STATE_DIR]' -r -f -a "(__fish_complete_directories)"
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l max-unauthenticated -d 'Connections that have not shown a key, of all addresses; the oldest is closed when another one comes [default: a quarter of the descriptors, 1024 at most] [env: SEMRUN_MAX_UNAUTHENTICATED]' -r
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l max-unauthenticated-per-address -d 'The same, of one address, or of one IPv6 network of 64 bits [default: a quarter of --max-unauthenticated] [env: SEMRUN_MAX_UNAUTHENTICATED_PER_ADDRESS]' -r
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l max-clients -d 'Clients that register, wait or hold, of all semaphores [default: 200000] [env: SEMRUN_MAX_CLIENTS]' -r
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l max-waiters -d 'Clients that register or wait, of one semaphore [default: 20000] [env: SEMRUN_MAX_WAITERS]' -r
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l max-names -d 'Semaphores that are in use or have a pinned limit [default: 20000] [env: SEMRUN_MAX_NAMES]' -r
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l max-pins -d 'Semaphores with a pinned limit [default: 10000] [env: SEMRUN_MAX_PINS]' -r
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l log -d 'What to log beside info and alert, on standard error [env: SEMRUN_LOG]' -r -f -a "info\t''
alert\t''
sem_events\t''
sem_transition\t''
debug\t''"
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l log-format -d 'How the log looks [default: text] [env: SEMRUN_LOG_FORMAT]' -r -f -a "text\t''
json\t''"
complete -c semrun -n "__fish_semrun_using_subcommand serve" -l config -d 'A configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand serve" -s h -l help -d 'Print help'
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l name -d 'The semaphore: 1 to 200 bytes of UTF-8 without control characters [env: SEMRUN_NAME]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -s l -s j -l limit -d 'Permits in all, 1 to 10,000 [default: 1]. The limit of a semaphore that is in use, or pinned, stands [env: SEMRUN_LIMIT]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l ttl -d 'The lease of a permit where permits can expire, at least 5s; renewed while the command runs [default: 30s]. The TTL of a semaphore that is in use stands [env: SEMRUN_TTL]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -s w -l wait -l timeout -d 'Wait at most D; 0 is -n [default: for ever] [env: SEMRUN_WAIT]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l max-attempts -d 'Wait at most N times --retry-interval, in the queue: what PassBuddy calls N attempts [env: SEMRUN_MAX_ATTEMPTS]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l retry-interval -d 'See --max-attempts [default: 500ms] [env: SEMRUN_RETRY_INTERVAL]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -s E -l conflict-exit-code -d 'The exit code when no permit was acquired, 0 to 255 [default: 75] [env: SEMRUN_CONFLICT_EXIT_CODE]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l min-hold -d 'The permit stays taken until D after it was acquired, also if the command ends sooner or this host dies: cron on hosts with skewed clocks runs once [env: SEMRUN_MIN_HOLD]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l jitter -d 'Wait a random time up to D before asking [env: SEMRUN_JITTER]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l label -d 'What `status` shows for this holder [default: the command\'s file name, or acquire] [env: SEMRUN_LABEL]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l lost-exit-code -d 'The exit code when the permit was lost, 0 to 255 [default: 76] [env: SEMRUN_LOST_EXIT_CODE]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -s s -l signal -d 'What semrun sends first when it stops a command of its own accord [default: TERM] [env: SEMRUN_SIGNAL]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -s k -l kill-after -d 'How long a command that is stopped has until its whole tree gets SIGKILL; 0: only when its lease ends [default: 5s, or a quarter of the TTL if that is less] [env: SEMRUN_KILL_AFTER]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l max-runtime -d 'Stop the command when it has run for D; the exit code is 124 then [env: SEMRUN_MAX_RUNTIME]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l on-lost -d 'What becomes of the command when its permit is lost [default: kill] [env: SEMRUN_ON_LOST]' -r -f -a "kill\t''
continue\t''"
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l orphans -d 'What becomes of processes that the command left when it exited; one that is stopped leaves none [default: leave] [env: SEMRUN_ORPHANS]' -r -f -a "leave\t''
wait\t''
kill\t''"
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l backend -d 'Where permits live: file:///PATH, redis://HOST or redis://USER:PASSWORD@HOST:PORT/DB, rediss:// with TLS, redis+unix:///PATH, http://HOST:PORT or https:// for a cloud-semaphore server [default: /run/semrun for root, ~/.local/state/semrun for others] [env: SEMRUN_BACKEND]' -r -f
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l prefix -d 'Namespace of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l quarantine -d 'How long a Redis that remembers nothing has to be up before it grants anything: auto, 0 for one that is thrown away, or a time [default: auto, the larger of 30s and the TTL] [env: SEMRUN_QUARANTINE]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l replicas -d 'How many replicas of a Redis must be in step before it grants or renews anything; the most that one user of a semaphore asks for [default: 0] [env: SEMRUN_REPLICAS]' -r
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l password-file -d 'A file with the password for Redis in its first line; also in the variable SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l api-key-file -d 'A file with the API key for a cloud-semaphore server in its first line; also in the variable SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l ca-file -d 'The authorities to trust for TLS instead of the system\'s (PEM) [env: SEMRUN_CA_FILE]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l client-cert -d 'Our own certificate for TLS (PEM); with --client-key [env: SEMRUN_CLIENT_CERT]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l client-key -d 'The key of --client-cert (PEM) [env: SEMRUN_CLIENT_KEY]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l config -d 'A configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]' -r -F
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l strict-limit -d 'Another limit or TTL that is in force is an error [env: SEMRUN_STRICT_LIMIT]'
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -s n -l nonblock -l nb -l no-wait -d 'Do not wait [env: SEMRUN_NONBLOCK]'
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l foreground -d 'Run the command in semrun\'s own process group [env: SEMRUN_FOREGROUND]'
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l clean-env -d 'Keep SEMRUN_API_KEY, SEMRUN_PASSWORD, and a SEMRUN_BACKEND with a password in it, from the command [env: SEMRUN_CLEAN_ENV]'
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -s v -l verbose -d 'Say more [env: SEMRUN_VERBOSE]'
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -s q -l quiet -d 'Say nothing but errors [env: SEMRUN_QUIET]'
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l json -d 'Print a JSON document (docs/operations/doctor.md has its fields)'
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -l allow-eviction -d 'Use a Redis that may evict keys under memory pressure, and permits with them [env: SEMRUN_ALLOW_EVICTION]'
complete -c semrun -n "__fish_semrun_using_subcommand doctor" -s h -l help -d 'Print help'
complete -c semrun -n "__fish_semrun_using_subcommand completions" -s h -l help -d 'Print help'
complete -c semrun -n "__fish_semrun_using_subcommand man" -s h -l help -d 'Print help'
