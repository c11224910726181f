
use builtin;
use str;

set edit:completion:arg-completer[semrun] = {|@words|
    fn spaces {|n|
        builtin:repeat $n ' ' | str:join ''
    }
    fn cand {|text desc|
        edit:complex-candidate $text &display=$text' '(spaces (- 14 (wcswidth $text)))$desc
    }
    var command = 'semrun'
    for word $words[1..-1] {
        if (str:has-prefix $word '-') {
            break
        }
        set command = $command';'$word
    }
    var completions = [
        &'semrun'= {
            cand --name 'The semaphore: 1 to 200 bytes of UTF-8 without control characters [env: SEMRUN_NAME]'
            cand --backend 'Where permits live: file:///PATH, redis://HOST or redis://USER:PASSWORD@HOST:PORT/DB, rediss:// with TLS, redis+unix:///PATH, http://HOST:PORT or https:// for a cloud-semaphore server [default: /run/semrun for root, ~/.local/state/semrun for others] [env: SEMRUN_BACKEND]'
            cand --prefix 'Namespace of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]'
            cand --password-file 'A file with the password for Redis in its first line; also in the variable SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]'
            cand --api-key-file 'A file with the API key for a cloud-semaphore server in its first line; also in the variable SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]'
            cand --ca-file 'The authorities to trust for TLS instead of the system''s (PEM) [env: SEMRUN_CA_FILE]'
            cand --client-cert 'Our own certificate for TLS (PEM); with --client-key [env: SEMRUN_CLIENT_CERT]'
            cand --client-key 'The key of --client-cert (PEM) [env: SEMRUN_CLIENT_KEY]'
            cand -l 'Permits in all, 1 to 10,000 [default: 1]. The limit of a semaphore that is in use stands [env: SEMRUN_LIMIT]'
            cand -j 'Permits in all, 1 to 10,000 [default: 1]. The limit of a semaphore that is in use stands [env: SEMRUN_LIMIT]'
            cand --limit 'Permits in all, 1 to 10,000 [default: 1]. The limit of a semaphore that is in use stands [env: SEMRUN_LIMIT]'
            cand --ttl 'The lease of a permit where permits can expire, at least 5s; renewed while the command runs [default: 30s]. The TTL of a semaphore that is in use stands [env: SEMRUN_TTL]'
            cand -w 'Wait at most D; 0 is -n [default: for ever] [env: SEMRUN_WAIT]'
            cand --wait 'Wait at most D; 0 is -n [default: for ever] [env: SEMRUN_WAIT]'
            cand --timeout 'Wait at most D; 0 is -n [default: for ever] [env: SEMRUN_WAIT]'
            cand --max-attempts 'Wait at most N times --retry-interval, in the queue: what PassBuddy calls N attempts [env: SEMRUN_MAX_ATTEMPTS]'
            cand --retry-interval 'See --max-attempts [default: 500ms] [env: SEMRUN_RETRY_INTERVAL]'
            cand -E 'The exit code when no permit was acquired, 0 to 255 [default: 75] [env: SEMRUN_CONFLICT_EXIT_CODE]'
            cand --conflict-exit-code 'The exit code when no permit was acquired, 0 to 255 [default: 75] [env: SEMRUN_CONFLICT_EXIT_CODE]'
            cand --lost-exit-code 'The exit code when the permit was lost, 0 to 255 [default: 76] [env: SEMRUN_LOST_EXIT_CODE]'
            cand -s 'What semrun sends first when it stops a command of its own accord [default: TERM] [env: SEMRUN_SIGNAL]'
            cand --signal 'What semrun sends first when it stops a command of its own accord [default: TERM] [env: SEMRUN_SIGNAL]'
            cand -k 'How long a command that is stopped has until its whole tree gets SIGKILL; 0: only when its lease ends [default: 5s, or a quarter of the TTL if that is less] [env: SEMRUN_KILL_AFTER]'
            cand --kill-after 'How long a command that is stopped has until its whole tree gets SIGKILL; 0: only when its lease ends [default: 5s, or a quarter of the TTL if that is less] [env: SEMRUN_KILL_AFTER]'
            cand --on-lost 'What becomes of the command when its permit is lost [default: kill] [env: SEMRUN_ON_LOST]'
            cand --orphans 'What becomes of processes that the command left when it ended by itself [default: leave] [env: SEMRUN_ORPHANS]'
            cand --label 'What `status` shows for this holder [default: the command''s file name] [env: SEMRUN_LABEL]'
            cand --quarantine 'How long a Redis that remembers nothing has to be up before it grants anything: auto, 0 for one that is thrown away, or a time [default: auto, the larger of 30s and the TTL] [env: SEMRUN_QUARANTINE]'
            cand -c 'Run STR with $SHELL -c, or /bin/sh -c'
            cand --command 'Run STR with $SHELL -c, or /bin/sh -c'
            cand --strict-limit 'Another limit or TTL that is in force is an error [env: SEMRUN_STRICT_LIMIT]'
            cand -n 'Do not wait [env: SEMRUN_NONBLOCK]'
            cand --nonblock 'Do not wait [env: SEMRUN_NONBLOCK]'
            cand --nb 'Do not wait [env: SEMRUN_NONBLOCK]'
            cand --no-wait 'Do not wait [env: SEMRUN_NONBLOCK]'
            cand --foreground 'Run the command in semrun''s own process group [env: SEMRUN_FOREGROUND]'
            cand --allow-eviction 'Use a Redis that may evict keys under memory pressure, and permits with them [env: SEMRUN_ALLOW_EVICTION]'
            cand -v 'Say more [env: SEMRUN_VERBOSE]'
            cand --verbose 'Say more [env: SEMRUN_VERBOSE]'
            cand -q 'Say nothing but errors [env: SEMRUN_QUIET]'
            cand --quiet 'Say nothing but errors [env: SEMRUN_QUIET]'
            cand -h 'Print help'
            cand --help 'Print help'
            cand -V 'Print version'
            cand --version 'Print version'
            cand status 'Show holders and waiters, of all semaphores without NAME'
            cand serve 'Serve semaphores to cloud-semaphore clients, those for Node and our own'
            cand completions 'Print a completion script for a shell'
            cand man 'Print a man page in roff: semrun''s own, or that of a subcommand'
        }
        &'semrun;status'= {
            cand --backend 'Where permits live: file:///PATH, redis://HOST or redis://USER:PASSWORD@HOST:PORT/DB, rediss:// with TLS, redis+unix:///PATH, http://HOST:PORT or https:// for a cloud-semaphore server [default: /run/semrun for root, ~/.local/state/semrun for others] [env: SEMRUN_BACKEND]'
            cand --prefix 'Namespace of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]'
            cand --password-file 'A file with the password for Redis in its first line; also in the variable SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]'
            cand --api-key-file 'A file with the API key for a cloud-semaphore server in its first line; also in the variable SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]'
            cand --ca-file 'The authorities to trust for TLS instead of the system''s (PEM) [env: SEMRUN_CA_FILE]'
            cand --client-cert 'Our own certificate for TLS (PEM); with --client-key [env: SEMRUN_CLIENT_CERT]'
            cand --client-key 'The key of --client-cert (PEM) [env: SEMRUN_CLIENT_KEY]'
            cand -l 'The limit to compare with where only foreign clients hold permits [default: 1] [env: SEMRUN_LIMIT]'
            cand --limit 'The limit to compare with where only foreign clients hold permits [default: 1] [env: SEMRUN_LIMIT]'
            cand --json 'Print a JSON document (docs/status.md has its fields)'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'semrun;serve'= {
            cand --api-key-file 'The API keys that are accepted, one a line, each with a label for the log behind a space; also in the variable SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]'
            cand --listen 'Where to listen; port 0 is any that is free [default: 127.0.0.1:3202] [env: SEMRUN_LISTEN]'
            cand --tls-cert 'The certificate to serve HTTPS with, and those that lead to it (PEM); with --tls-key [env: SEMRUN_TLS_CERT]'
            cand --tls-key 'The key of --tls-cert (PEM) [env: SEMRUN_TLS_KEY]'
            cand --state-dir 'Where to record permits, so that they outlive a restart [env: SEMRUN_STATE_DIR]'
            cand --log 'What to log beside info and alert, on standard error [env: SEMRUN_LOG]'
            cand --log-format 'How the log looks [default: text] [env: SEMRUN_LOG_FORMAT]'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'semrun;completions'= {
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'semrun;man'= {
            cand -h 'Print help'
            cand --help 'Print help'
        }
    ]
    $completions[$command]
}
