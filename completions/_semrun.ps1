
using namespace System.Management.Automation
using namespace System.Management.Automation.Language

Register-ArgumentCompleter -Native -CommandName 'semrun' -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)

    $commandElements = $commandAst.CommandElements
    $command = @(
        'semrun'
        for ($i = 1; $i -lt $commandElements.Count; $i++) {
            $element = $commandElements[$i]
            if ($element -isnot [StringConstantExpressionAst] -or
                $element.StringConstantType -ne [StringConstantType]::BareWord -or
                $element.Value.StartsWith('-') -or
                $element.Value -eq $wordToComplete) {
                break
        }
        $element.Value
    }) -join ';'

    $completions = @(switch ($command) {
        'semrun' {
            [CompletionResult]::new('--name', '--name', [CompletionResultType]::ParameterName, 'The semaphore: 1 to 200 bytes of UTF-8 without control characters [env: SEMRUN_NAME]')
            [CompletionResult]::new('-l', '-l', [CompletionResultType]::ParameterName, 'Permits in all, 1 to 10,000 [default: 1]. The limit of a semaphore that is in use, or pinned, stands [env: SEMRUN_LIMIT]')
            [CompletionResult]::new('-j', '-j', [CompletionResultType]::ParameterName, 'Permits in all, 1 to 10,000 [default: 1]. The limit of a semaphore that is in use, or pinned, stands [env: SEMRUN_LIMIT]')
            [CompletionResult]::new('--limit', '--limit', [CompletionResultType]::ParameterName, 'Permits in all, 1 to 10,000 [default: 1]. The limit of a semaphore that is in use, or pinned, stands [env: SEMRUN_LIMIT]')
            [CompletionResult]::new('--ttl', '--ttl', [CompletionResultType]::ParameterName, 'The lease of a permit where permits can expire, at least 5s; renewed while the command runs [default: 30s]. The TTL of a semaphore that is in use stands [env: SEMRUN_TTL]')
            [CompletionResult]::new('-w', '-w', [CompletionResultType]::ParameterName, 'Wait at most D; 0 is -n [default: for ever] [env: SEMRUN_WAIT]')
            [CompletionResult]::new('--wait', '--wait', [CompletionResultType]::ParameterName, 'Wait at most D; 0 is -n [default: for ever] [env: SEMRUN_WAIT]')
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'Wait at most D; 0 is -n [default: for ever] [env: SEMRUN_WAIT]')
            [CompletionResult]::new('--max-attempts', '--max-attempts', [CompletionResultType]::ParameterName, 'Wait at most N times --retry-interval, in the queue: what PassBuddy calls N attempts [env: SEMRUN_MAX_ATTEMPTS]')
            [CompletionResult]::new('--retry-interval', '--retry-interval', [CompletionResultType]::ParameterName, 'See --max-attempts [default: 500ms] [env: SEMRUN_RETRY_INTERVAL]')
            [CompletionResult]::new('-E', '-E ', [CompletionResultType]::ParameterName, 'The exit code when no permit was acquired, 0 to 255 [default: 75] [env: SEMRUN_CONFLICT_EXIT_CODE]')
            [CompletionResult]::new('--conflict-exit-code', '--conflict-exit-code', [CompletionResultType]::ParameterName, 'The exit code when no permit was acquired, 0 to 255 [default: 75] [env: SEMRUN_CONFLICT_EXIT_CODE]')
            [CompletionResult]::new('--min-hold', '--min-hold', [CompletionResultType]::ParameterName, 'The permit stays taken until D after it was acquired, also if the command ends sooner or this host dies: cron on hosts with skewed clocks runs once [env: SEMRUN_MIN_HOLD]')
            [CompletionResult]::new('--jitter', '--jitter', [CompletionResultType]::ParameterName, 'Wait a random time up to D before asking [env: SEMRUN_JITTER]')
            [CompletionResult]::new('--label', '--label', [CompletionResultType]::ParameterName, 'What `status` shows for this holder [default: the command''s file name, or acquire] [env: SEMRUN_LABEL]')
            [CompletionResult]::new('--lost-exit-code', '--lost-exit-code', [CompletionResultType]::ParameterName, 'The exit code when the permit was lost, 0 to 255 [default: 76] [env: SEMRUN_LOST_EXIT_CODE]')
            [CompletionResult]::new('-s', '-s', [CompletionResultType]::ParameterName, 'What semrun sends first when it stops a command of its own accord [default: TERM] [env: SEMRUN_SIGNAL]')
            [CompletionResult]::new('--signal', '--signal', [CompletionResultType]::ParameterName, 'What semrun sends first when it stops a command of its own accord [default: TERM] [env: SEMRUN_SIGNAL]')
            [CompletionResult]::new('-k', '-k', [CompletionResultType]::ParameterName, 'How long a command that is stopped has until its whole tree gets SIGKILL; 0: only when its lease ends [default: 5s, or a quarter of the TTL if that is less] [env: SEMRUN_KILL_AFTER]')
            [CompletionResult]::new('--kill-after', '--kill-after', [CompletionResultType]::ParameterName, 'How long a command that is stopped has until its whole tree gets SIGKILL; 0: only when its lease ends [default: 5s, or a quarter of the TTL if that is less] [env: SEMRUN_KILL_AFTER]')
            [CompletionResult]::new('--max-runtime', '--max-runtime', [CompletionResultType]::ParameterName, 'Stop the command when it has run for D; the exit code is 124 then [env: SEMRUN_MAX_RUNTIME]')
            [CompletionResult]::new('--on-lost', '--on-lost', [CompletionResultType]::ParameterName, 'What becomes of the command when its permit is lost [default: kill] [env: SEMRUN_ON_LOST]')
            [CompletionResult]::new('--orphans', '--orphans', [CompletionResultType]::ParameterName, 'What becomes of processes that the command left when it exited; one that is stopped leaves none [default: leave] [env: SEMRUN_ORPHANS]')
            [CompletionResult]::new('--backend', '--backend', [CompletionResultType]::ParameterName, 'Where permits live: file:///PATH, redis://HOST or redis://USER:PASSWORD@HOST:PORT/DB, rediss:// with TLS, redis+unix:///PATH, http://HOST:PORT or https:// for a cloud-semaphore server [default: /run/semrun for root, ~/.local/state/semrun for others] [env: SEMRUN_BACKEND]')
            [CompletionResult]::new('--prefix', '--prefix', [CompletionResultType]::ParameterName, 'Namespace of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]')
            [CompletionResult]::new('--quarantine', '--quarantine', [CompletionResultType]::ParameterName, 'How long a Redis that remembers nothing has to be up before it grants anything: auto, 0 for one that is thrown away, or a time [default: auto, the larger of 30s and the TTL] [env: SEMRUN_QUARANTINE]')
            [CompletionResult]::new('--password-file', '--password-file', [CompletionResultType]::ParameterName, 'A file with the password for Redis in its first line; also in the variable SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]')
            [CompletionResult]::new('--api-key-file', '--api-key-file', [CompletionResultType]::ParameterName, 'A file with the API key for a cloud-semaphore server in its first line; also in the variable SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]')
            [CompletionResult]::new('--ca-file', '--ca-file', [CompletionResultType]::ParameterName, 'The authorities to trust for TLS instead of the system''s (PEM) [env: SEMRUN_CA_FILE]')
            [CompletionResult]::new('--client-cert', '--client-cert', [CompletionResultType]::ParameterName, 'Our own certificate for TLS (PEM); with --client-key [env: SEMRUN_CLIENT_CERT]')
            [CompletionResult]::new('--client-key', '--client-key', [CompletionResultType]::ParameterName, 'The key of --client-cert (PEM) [env: SEMRUN_CLIENT_KEY]')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'A configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]')
            [CompletionResult]::new('-c', '-c', [CompletionResultType]::ParameterName, 'Run STR with $SHELL -c, or /bin/sh -c')
            [CompletionResult]::new('--command', '--command', [CompletionResultType]::ParameterName, 'Run STR with $SHELL -c, or /bin/sh -c')
            [CompletionResult]::new('--strict-limit', '--strict-limit', [CompletionResultType]::ParameterName, 'Another limit or TTL that is in force is an error [env: SEMRUN_STRICT_LIMIT]')
            [CompletionResult]::new('-n', '-n', [CompletionResultType]::ParameterName, 'Do not wait [env: SEMRUN_NONBLOCK]')
            [CompletionResult]::new('--nonblock', '--nonblock', [CompletionResultType]::ParameterName, 'Do not wait [env: SEMRUN_NONBLOCK]')
            [CompletionResult]::new('--nb', '--nb', [CompletionResultType]::ParameterName, 'Do not wait [env: SEMRUN_NONBLOCK]')
            [CompletionResult]::new('--no-wait', '--no-wait', [CompletionResultType]::ParameterName, 'Do not wait [env: SEMRUN_NONBLOCK]')
            [CompletionResult]::new('--foreground', '--foreground', [CompletionResultType]::ParameterName, 'Run the command in semrun''s own process group [env: SEMRUN_FOREGROUND]')
            [CompletionResult]::new('--clean-env', '--clean-env', [CompletionResultType]::ParameterName, 'Keep SEMRUN_API_KEY, SEMRUN_PASSWORD, and a SEMRUN_BACKEND with a password in it, from the command [env: SEMRUN_CLEAN_ENV]')
            [CompletionResult]::new('--allow-eviction', '--allow-eviction', [CompletionResultType]::ParameterName, 'Use a Redis that may evict keys under memory pressure, and permits with them [env: SEMRUN_ALLOW_EVICTION]')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say more [env: SEMRUN_VERBOSE]')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say more [env: SEMRUN_VERBOSE]')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing but errors [env: SEMRUN_QUIET]')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing but errors [env: SEMRUN_QUIET]')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('-V', '-V ', [CompletionResultType]::ParameterName, 'Print version')
            [CompletionResult]::new('--version', '--version', [CompletionResultType]::ParameterName, 'Print version')
            [CompletionResult]::new('status', 'status', [CompletionResultType]::ParameterValue, 'Show holders and waiters, of all semaphores without NAME')
            [CompletionResult]::new('acquire', 'acquire', [CompletionResultType]::ParameterValue, 'Take a permit that outlives this process, for a job of several steps')
            [CompletionResult]::new('renew', 'renew', [CompletionResultType]::ParameterValue, 'Extend a permit that was acquired')
            [CompletionResult]::new('release', 'release', [CompletionResultType]::ParameterValue, 'Give back a permit that was acquired, or take one from somebody else')
            [CompletionResult]::new('limit', 'limit', [CompletionResultType]::ParameterValue, 'Show, pin or unpin a semaphore''s limit')
            [CompletionResult]::new('serve', 'serve', [CompletionResultType]::ParameterValue, 'Serve semaphores to cloud-semaphore clients, those for Node and our own')
            [CompletionResult]::new('doctor', 'doctor', [CompletionResultType]::ParameterValue, 'Check configuration, backend, clocks and the time to acquire')
            [CompletionResult]::new('completions', 'completions', [CompletionResultType]::ParameterValue, 'Print a completion script for a shell')
            [CompletionResult]::new('man', 'man', [CompletionResultType]::ParameterValue, 'Print a man page in roff: semrun''s own, or that of a subcommand')
            break
        }
        'semrun;status' {
            [CompletionResult]::new('--backend', '--backend', [CompletionResultType]::ParameterName, 'Where permits live: file:///PATH, redis://HOST or redis://USER:PASSWORD@HOST:PORT/DB, rediss:// with TLS, redis+unix:///PATH, http://HOST:PORT or https:// for a cloud-semaphore server [default: /run/semrun for root, ~/.local/state/semrun for others] [env: SEMRUN_BACKEND]')
            [CompletionResult]::new('--prefix', '--prefix', [CompletionResultType]::ParameterName, 'Namespace of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]')
            [CompletionResult]::new('--quarantine', '--quarantine', [CompletionResultType]::ParameterName, 'How long a Redis that remembers nothing has to be up before it grants anything: auto, 0 for one that is thrown away, or a time [default: auto, the larger of 30s and the TTL] [env: SEMRUN_QUARANTINE]')
            [CompletionResult]::new('--password-file', '--password-file', [CompletionResultType]::ParameterName, 'A file with the password for Redis in its first line; also in the variable SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]')
            [CompletionResult]::new('--api-key-file', '--api-key-file', [CompletionResultType]::ParameterName, 'A file with the API key for a cloud-semaphore server in its first line; also in the variable SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]')
            [CompletionResult]::new('--ca-file', '--ca-file', [CompletionResultType]::ParameterName, 'The authorities to trust for TLS instead of the system''s (PEM) [env: SEMRUN_CA_FILE]')
            [CompletionResult]::new('--client-cert', '--client-cert', [CompletionResultType]::ParameterName, 'Our own certificate for TLS (PEM); with --client-key [env: SEMRUN_CLIENT_CERT]')
            [CompletionResult]::new('--client-key', '--client-key', [CompletionResultType]::ParameterName, 'The key of --client-cert (PEM) [env: SEMRUN_CLIENT_KEY]')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'A configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]')
            [CompletionResult]::new('-l', '-l', [CompletionResultType]::ParameterName, 'The limit to compare with where only foreign clients hold permits [default: 1] [env: SEMRUN_LIMIT]')
            [CompletionResult]::new('--limit', '--limit', [CompletionResultType]::ParameterName, 'The limit to compare with where only foreign clients hold permits [default: 1] [env: SEMRUN_LIMIT]')
            [CompletionResult]::new('--allow-eviction', '--allow-eviction', [CompletionResultType]::ParameterName, 'Use a Redis that may evict keys under memory pressure, and permits with them [env: SEMRUN_ALLOW_EVICTION]')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print a JSON document (docs/status.md has its fields)')
            [CompletionResult]::new('--watch', '--watch', [CompletionResultType]::ParameterName, 'Show it again whenever it changes, until a signal ends it')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'semrun;acquire' {
            [CompletionResult]::new('--name', '--name', [CompletionResultType]::ParameterName, 'The semaphore: 1 to 200 bytes of UTF-8 without control characters [env: SEMRUN_NAME]')
            [CompletionResult]::new('-l', '-l', [CompletionResultType]::ParameterName, 'Permits in all, 1 to 10,000 [default: 1]. The limit of a semaphore that is in use, or pinned, stands [env: SEMRUN_LIMIT]')
            [CompletionResult]::new('-j', '-j', [CompletionResultType]::ParameterName, 'Permits in all, 1 to 10,000 [default: 1]. The limit of a semaphore that is in use, or pinned, stands [env: SEMRUN_LIMIT]')
            [CompletionResult]::new('--limit', '--limit', [CompletionResultType]::ParameterName, 'Permits in all, 1 to 10,000 [default: 1]. The limit of a semaphore that is in use, or pinned, stands [env: SEMRUN_LIMIT]')
            [CompletionResult]::new('--ttl', '--ttl', [CompletionResultType]::ParameterName, 'The lease of a permit where permits can expire, at least 5s; renewed while the command runs [default: 30s]. The TTL of a semaphore that is in use stands [env: SEMRUN_TTL]')
            [CompletionResult]::new('-w', '-w', [CompletionResultType]::ParameterName, 'Wait at most D; 0 is -n [default: for ever] [env: SEMRUN_WAIT]')
            [CompletionResult]::new('--wait', '--wait', [CompletionResultType]::ParameterName, 'Wait at most D; 0 is -n [default: for ever] [env: SEMRUN_WAIT]')
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'Wait at most D; 0 is -n [default: for ever] [env: SEMRUN_WAIT]')
            [CompletionResult]::new('--max-attempts', '--max-attempts', [CompletionResultType]::ParameterName, 'Wait at most N times --retry-interval, in the queue: what PassBuddy calls N attempts [env: SEMRUN_MAX_ATTEMPTS]')
            [CompletionResult]::new('--retry-interval', '--retry-interval', [CompletionResultType]::ParameterName, 'See --max-attempts [default: 500ms] [env: SEMRUN_RETRY_INTERVAL]')
            [CompletionResult]::new('-E', '-E ', [CompletionResultType]::ParameterName, 'The exit code when no permit was acquired, 0 to 255 [default: 75] [env: SEMRUN_CONFLICT_EXIT_CODE]')
            [CompletionResult]::new('--conflict-exit-code', '--conflict-exit-code', [CompletionResultType]::ParameterName, 'The exit code when no permit was acquired, 0 to 255 [default: 75] [env: SEMRUN_CONFLICT_EXIT_CODE]')
            [CompletionResult]::new('--min-hold', '--min-hold', [CompletionResultType]::ParameterName, 'The permit stays taken until D after it was acquired, also if the command ends sooner or this host dies: cron on hosts with skewed clocks runs once [env: SEMRUN_MIN_HOLD]')
            [CompletionResult]::new('--jitter', '--jitter', [CompletionResultType]::ParameterName, 'Wait a random time up to D before asking [env: SEMRUN_JITTER]')
            [CompletionResult]::new('--label', '--label', [CompletionResultType]::ParameterName, 'What `status` shows for this holder [default: the command''s file name, or acquire] [env: SEMRUN_LABEL]')
            [CompletionResult]::new('--backend', '--backend', [CompletionResultType]::ParameterName, 'Where permits live: file:///PATH, redis://HOST or redis://USER:PASSWORD@HOST:PORT/DB, rediss:// with TLS, redis+unix:///PATH, http://HOST:PORT or https:// for a cloud-semaphore server [default: /run/semrun for root, ~/.local/state/semrun for others] [env: SEMRUN_BACKEND]')
            [CompletionResult]::new('--prefix', '--prefix', [CompletionResultType]::ParameterName, 'Namespace of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]')
            [CompletionResult]::new('--quarantine', '--quarantine', [CompletionResultType]::ParameterName, 'How long a Redis that remembers nothing has to be up before it grants anything: auto, 0 for one that is thrown away, or a time [default: auto, the larger of 30s and the TTL] [env: SEMRUN_QUARANTINE]')
            [CompletionResult]::new('--password-file', '--password-file', [CompletionResultType]::ParameterName, 'A file with the password for Redis in its first line; also in the variable SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]')
            [CompletionResult]::new('--api-key-file', '--api-key-file', [CompletionResultType]::ParameterName, 'A file with the API key for a cloud-semaphore server in its first line; also in the variable SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]')
            [CompletionResult]::new('--ca-file', '--ca-file', [CompletionResultType]::ParameterName, 'The authorities to trust for TLS instead of the system''s (PEM) [env: SEMRUN_CA_FILE]')
            [CompletionResult]::new('--client-cert', '--client-cert', [CompletionResultType]::ParameterName, 'Our own certificate for TLS (PEM); with --client-key [env: SEMRUN_CLIENT_CERT]')
            [CompletionResult]::new('--client-key', '--client-key', [CompletionResultType]::ParameterName, 'The key of --client-cert (PEM) [env: SEMRUN_CLIENT_KEY]')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'A configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]')
            [CompletionResult]::new('--strict-limit', '--strict-limit', [CompletionResultType]::ParameterName, 'Another limit or TTL that is in force is an error [env: SEMRUN_STRICT_LIMIT]')
            [CompletionResult]::new('-n', '-n', [CompletionResultType]::ParameterName, 'Do not wait [env: SEMRUN_NONBLOCK]')
            [CompletionResult]::new('--nonblock', '--nonblock', [CompletionResultType]::ParameterName, 'Do not wait [env: SEMRUN_NONBLOCK]')
            [CompletionResult]::new('--nb', '--nb', [CompletionResultType]::ParameterName, 'Do not wait [env: SEMRUN_NONBLOCK]')
            [CompletionResult]::new('--no-wait', '--no-wait', [CompletionResultType]::ParameterName, 'Do not wait [env: SEMRUN_NONBLOCK]')
            [CompletionResult]::new('--allow-eviction', '--allow-eviction', [CompletionResultType]::ParameterName, 'Use a Redis that may evict keys under memory pressure, and permits with them [env: SEMRUN_ALLOW_EVICTION]')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say more [env: SEMRUN_VERBOSE]')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say more [env: SEMRUN_VERBOSE]')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing but errors [env: SEMRUN_QUIET]')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing but errors [env: SEMRUN_QUIET]')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print a JSON document (docs/operations/steps.md has its fields)')
            [CompletionResult]::new('--shell', '--shell', [CompletionResultType]::ParameterName, 'Print `export` lines for a shell to evaluate')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'semrun;renew' {
            [CompletionResult]::new('--permit', '--permit', [CompletionResultType]::ParameterName, 'What `semrun acquire` printed [env: SEMRUN_PERMIT]')
            [CompletionResult]::new('--while-pid', '--while-pid', [CompletionResultType]::ParameterName, 'Go on extending it until this process has ended; does not give it back')
            [CompletionResult]::new('--backend', '--backend', [CompletionResultType]::ParameterName, 'Where permits live: file:///PATH, redis://HOST or redis://USER:PASSWORD@HOST:PORT/DB, rediss:// with TLS, redis+unix:///PATH, http://HOST:PORT or https:// for a cloud-semaphore server [default: /run/semrun for root, ~/.local/state/semrun for others] [env: SEMRUN_BACKEND]')
            [CompletionResult]::new('--prefix', '--prefix', [CompletionResultType]::ParameterName, 'Namespace of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]')
            [CompletionResult]::new('--quarantine', '--quarantine', [CompletionResultType]::ParameterName, 'How long a Redis that remembers nothing has to be up before it grants anything: auto, 0 for one that is thrown away, or a time [default: auto, the larger of 30s and the TTL] [env: SEMRUN_QUARANTINE]')
            [CompletionResult]::new('--password-file', '--password-file', [CompletionResultType]::ParameterName, 'A file with the password for Redis in its first line; also in the variable SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]')
            [CompletionResult]::new('--api-key-file', '--api-key-file', [CompletionResultType]::ParameterName, 'A file with the API key for a cloud-semaphore server in its first line; also in the variable SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]')
            [CompletionResult]::new('--ca-file', '--ca-file', [CompletionResultType]::ParameterName, 'The authorities to trust for TLS instead of the system''s (PEM) [env: SEMRUN_CA_FILE]')
            [CompletionResult]::new('--client-cert', '--client-cert', [CompletionResultType]::ParameterName, 'Our own certificate for TLS (PEM); with --client-key [env: SEMRUN_CLIENT_CERT]')
            [CompletionResult]::new('--client-key', '--client-key', [CompletionResultType]::ParameterName, 'The key of --client-cert (PEM) [env: SEMRUN_CLIENT_KEY]')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'A configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]')
            [CompletionResult]::new('--allow-eviction', '--allow-eviction', [CompletionResultType]::ParameterName, 'Use a Redis that may evict keys under memory pressure, and permits with them [env: SEMRUN_ALLOW_EVICTION]')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'semrun;release' {
            [CompletionResult]::new('--permit', '--permit', [CompletionResultType]::ParameterName, 'What `semrun acquire` printed; with --force that of anybody, as `semrun status --json` shows it [env: SEMRUN_PERMIT]')
            [CompletionResult]::new('--backend', '--backend', [CompletionResultType]::ParameterName, 'Where permits live: file:///PATH, redis://HOST or redis://USER:PASSWORD@HOST:PORT/DB, rediss:// with TLS, redis+unix:///PATH, http://HOST:PORT or https:// for a cloud-semaphore server [default: /run/semrun for root, ~/.local/state/semrun for others] [env: SEMRUN_BACKEND]')
            [CompletionResult]::new('--prefix', '--prefix', [CompletionResultType]::ParameterName, 'Namespace of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]')
            [CompletionResult]::new('--quarantine', '--quarantine', [CompletionResultType]::ParameterName, 'How long a Redis that remembers nothing has to be up before it grants anything: auto, 0 for one that is thrown away, or a time [default: auto, the larger of 30s and the TTL] [env: SEMRUN_QUARANTINE]')
            [CompletionResult]::new('--password-file', '--password-file', [CompletionResultType]::ParameterName, 'A file with the password for Redis in its first line; also in the variable SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]')
            [CompletionResult]::new('--api-key-file', '--api-key-file', [CompletionResultType]::ParameterName, 'A file with the API key for a cloud-semaphore server in its first line; also in the variable SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]')
            [CompletionResult]::new('--ca-file', '--ca-file', [CompletionResultType]::ParameterName, 'The authorities to trust for TLS instead of the system''s (PEM) [env: SEMRUN_CA_FILE]')
            [CompletionResult]::new('--client-cert', '--client-cert', [CompletionResultType]::ParameterName, 'Our own certificate for TLS (PEM); with --client-key [env: SEMRUN_CLIENT_CERT]')
            [CompletionResult]::new('--client-key', '--client-key', [CompletionResultType]::ParameterName, 'The key of --client-cert (PEM) [env: SEMRUN_CLIENT_KEY]')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'A configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]')
            [CompletionResult]::new('--force', '--force', [CompletionResultType]::ParameterName, 'Evict whoever has the permit: it cannot be renewed any more, and passes on when its command is dead, or when its lease ends')
            [CompletionResult]::new('--now', '--now', [CompletionResultType]::ParameterName, 'Let it pass on at once, while what ran under it may still run beside the next')
            [CompletionResult]::new('--allow-eviction', '--allow-eviction', [CompletionResultType]::ParameterName, 'Use a Redis that may evict keys under memory pressure, and permits with them [env: SEMRUN_ALLOW_EVICTION]')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'semrun;limit' {
            [CompletionResult]::new('--backend', '--backend', [CompletionResultType]::ParameterName, 'Where permits live: file:///PATH, redis://HOST or redis://USER:PASSWORD@HOST:PORT/DB, rediss:// with TLS, redis+unix:///PATH, http://HOST:PORT or https:// for a cloud-semaphore server [default: /run/semrun for root, ~/.local/state/semrun for others] [env: SEMRUN_BACKEND]')
            [CompletionResult]::new('--prefix', '--prefix', [CompletionResultType]::ParameterName, 'Namespace of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]')
            [CompletionResult]::new('--quarantine', '--quarantine', [CompletionResultType]::ParameterName, 'How long a Redis that remembers nothing has to be up before it grants anything: auto, 0 for one that is thrown away, or a time [default: auto, the larger of 30s and the TTL] [env: SEMRUN_QUARANTINE]')
            [CompletionResult]::new('--password-file', '--password-file', [CompletionResultType]::ParameterName, 'A file with the password for Redis in its first line; also in the variable SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]')
            [CompletionResult]::new('--api-key-file', '--api-key-file', [CompletionResultType]::ParameterName, 'A file with the API key for a cloud-semaphore server in its first line; also in the variable SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]')
            [CompletionResult]::new('--ca-file', '--ca-file', [CompletionResultType]::ParameterName, 'The authorities to trust for TLS instead of the system''s (PEM) [env: SEMRUN_CA_FILE]')
            [CompletionResult]::new('--client-cert', '--client-cert', [CompletionResultType]::ParameterName, 'Our own certificate for TLS (PEM); with --client-key [env: SEMRUN_CLIENT_CERT]')
            [CompletionResult]::new('--client-key', '--client-key', [CompletionResultType]::ParameterName, 'The key of --client-cert (PEM) [env: SEMRUN_CLIENT_KEY]')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'A configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]')
            [CompletionResult]::new('--unpin', '--unpin', [CompletionResultType]::ParameterName, 'Leave it to its users again')
            [CompletionResult]::new('--allow-eviction', '--allow-eviction', [CompletionResultType]::ParameterName, 'Use a Redis that may evict keys under memory pressure, and permits with them [env: SEMRUN_ALLOW_EVICTION]')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'semrun;serve' {
            [CompletionResult]::new('--api-key-file', '--api-key-file', [CompletionResultType]::ParameterName, 'The API keys that are accepted, one a line, each with a label for the log behind a space; also in the variable SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]')
            [CompletionResult]::new('--listen', '--listen', [CompletionResultType]::ParameterName, 'Where to listen; port 0 is any that is free [default: 127.0.0.1:3202] [env: SEMRUN_LISTEN]')
            [CompletionResult]::new('--tls-cert', '--tls-cert', [CompletionResultType]::ParameterName, 'The certificate to serve HTTPS with, and those that lead to it (PEM); with --tls-key [env: SEMRUN_TLS_CERT]')
            [CompletionResult]::new('--tls-key', '--tls-key', [CompletionResultType]::ParameterName, 'The key of --tls-cert (PEM) [env: SEMRUN_TLS_KEY]')
            [CompletionResult]::new('--state-dir', '--state-dir', [CompletionResultType]::ParameterName, 'Where to record permits, so that they outlive a restart [env: SEMRUN_STATE_DIR]')
            [CompletionResult]::new('--log', '--log', [CompletionResultType]::ParameterName, 'What to log beside info and alert, on standard error [env: SEMRUN_LOG]')
            [CompletionResult]::new('--log-format', '--log-format', [CompletionResultType]::ParameterName, 'How the log looks [default: text] [env: SEMRUN_LOG_FORMAT]')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'A configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'semrun;doctor' {
            [CompletionResult]::new('--name', '--name', [CompletionResultType]::ParameterName, 'The semaphore: 1 to 200 bytes of UTF-8 without control characters [env: SEMRUN_NAME]')
            [CompletionResult]::new('-l', '-l', [CompletionResultType]::ParameterName, 'Permits in all, 1 to 10,000 [default: 1]. The limit of a semaphore that is in use, or pinned, stands [env: SEMRUN_LIMIT]')
            [CompletionResult]::new('-j', '-j', [CompletionResultType]::ParameterName, 'Permits in all, 1 to 10,000 [default: 1]. The limit of a semaphore that is in use, or pinned, stands [env: SEMRUN_LIMIT]')
            [CompletionResult]::new('--limit', '--limit', [CompletionResultType]::ParameterName, 'Permits in all, 1 to 10,000 [default: 1]. The limit of a semaphore that is in use, or pinned, stands [env: SEMRUN_LIMIT]')
            [CompletionResult]::new('--ttl', '--ttl', [CompletionResultType]::ParameterName, 'The lease of a permit where permits can expire, at least 5s; renewed while the command runs [default: 30s]. The TTL of a semaphore that is in use stands [env: SEMRUN_TTL]')
            [CompletionResult]::new('-w', '-w', [CompletionResultType]::ParameterName, 'Wait at most D; 0 is -n [default: for ever] [env: SEMRUN_WAIT]')
            [CompletionResult]::new('--wait', '--wait', [CompletionResultType]::ParameterName, 'Wait at most D; 0 is -n [default: for ever] [env: SEMRUN_WAIT]')
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'Wait at most D; 0 is -n [default: for ever] [env: SEMRUN_WAIT]')
            [CompletionResult]::new('--max-attempts', '--max-attempts', [CompletionResultType]::ParameterName, 'Wait at most N times --retry-interval, in the queue: what PassBuddy calls N attempts [env: SEMRUN_MAX_ATTEMPTS]')
            [CompletionResult]::new('--retry-interval', '--retry-interval', [CompletionResultType]::ParameterName, 'See --max-attempts [default: 500ms] [env: SEMRUN_RETRY_INTERVAL]')
            [CompletionResult]::new('-E', '-E ', [CompletionResultType]::ParameterName, 'The exit code when no permit was acquired, 0 to 255 [default: 75] [env: SEMRUN_CONFLICT_EXIT_CODE]')
            [CompletionResult]::new('--conflict-exit-code', '--conflict-exit-code', [CompletionResultType]::ParameterName, 'The exit code when no permit was acquired, 0 to 255 [default: 75] [env: SEMRUN_CONFLICT_EXIT_CODE]')
            [CompletionResult]::new('--min-hold', '--min-hold', [CompletionResultType]::ParameterName, 'The permit stays taken until D after it was acquired, also if the command ends sooner or this host dies: cron on hosts with skewed clocks runs once [env: SEMRUN_MIN_HOLD]')
            [CompletionResult]::new('--jitter', '--jitter', [CompletionResultType]::ParameterName, 'Wait a random time up to D before asking [env: SEMRUN_JITTER]')
            [CompletionResult]::new('--label', '--label', [CompletionResultType]::ParameterName, 'What `status` shows for this holder [default: the command''s file name, or acquire] [env: SEMRUN_LABEL]')
            [CompletionResult]::new('--lost-exit-code', '--lost-exit-code', [CompletionResultType]::ParameterName, 'The exit code when the permit was lost, 0 to 255 [default: 76] [env: SEMRUN_LOST_EXIT_CODE]')
            [CompletionResult]::new('-s', '-s', [CompletionResultType]::ParameterName, 'What semrun sends first when it stops a command of its own accord [default: TERM] [env: SEMRUN_SIGNAL]')
            [CompletionResult]::new('--signal', '--signal', [CompletionResultType]::ParameterName, 'What semrun sends first when it stops a command of its own accord [default: TERM] [env: SEMRUN_SIGNAL]')
            [CompletionResult]::new('-k', '-k', [CompletionResultType]::ParameterName, 'How long a command that is stopped has until its whole tree gets SIGKILL; 0: only when its lease ends [default: 5s, or a quarter of the TTL if that is less] [env: SEMRUN_KILL_AFTER]')
            [CompletionResult]::new('--kill-after', '--kill-after', [CompletionResultType]::ParameterName, 'How long a command that is stopped has until its whole tree gets SIGKILL; 0: only when its lease ends [default: 5s, or a quarter of the TTL if that is less] [env: SEMRUN_KILL_AFTER]')
            [CompletionResult]::new('--max-runtime', '--max-runtime', [CompletionResultType]::ParameterName, 'Stop the command when it has run for D; the exit code is 124 then [env: SEMRUN_MAX_RUNTIME]')
            [CompletionResult]::new('--on-lost', '--on-lost', [CompletionResultType]::ParameterName, 'What becomes of the command when its permit is lost [default: kill] [env: SEMRUN_ON_LOST]')
            [CompletionResult]::new('--orphans', '--orphans', [CompletionResultType]::ParameterName, 'What becomes of processes that the command left when it exited; one that is stopped leaves none [default: leave] [env: SEMRUN_ORPHANS]')
            [CompletionResult]::new('--backend', '--backend', [CompletionResultType]::ParameterName, 'Where permits live: file:///PATH, redis://HOST or redis://USER:PASSWORD@HOST:PORT/DB, rediss:// with TLS, redis+unix:///PATH, http://HOST:PORT or https:// for a cloud-semaphore server [default: /run/semrun for root, ~/.local/state/semrun for others] [env: SEMRUN_BACKEND]')
            [CompletionResult]::new('--prefix', '--prefix', [CompletionResultType]::ParameterName, 'Namespace of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]')
            [CompletionResult]::new('--quarantine', '--quarantine', [CompletionResultType]::ParameterName, 'How long a Redis that remembers nothing has to be up before it grants anything: auto, 0 for one that is thrown away, or a time [default: auto, the larger of 30s and the TTL] [env: SEMRUN_QUARANTINE]')
            [CompletionResult]::new('--password-file', '--password-file', [CompletionResultType]::ParameterName, 'A file with the password for Redis in its first line; also in the variable SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]')
            [CompletionResult]::new('--api-key-file', '--api-key-file', [CompletionResultType]::ParameterName, 'A file with the API key for a cloud-semaphore server in its first line; also in the variable SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]')
            [CompletionResult]::new('--ca-file', '--ca-file', [CompletionResultType]::ParameterName, 'The authorities to trust for TLS instead of the system''s (PEM) [env: SEMRUN_CA_FILE]')
            [CompletionResult]::new('--client-cert', '--client-cert', [CompletionResultType]::ParameterName, 'Our own certificate for TLS (PEM); with --client-key [env: SEMRUN_CLIENT_CERT]')
            [CompletionResult]::new('--client-key', '--client-key', [CompletionResultType]::ParameterName, 'The key of --client-cert (PEM) [env: SEMRUN_CLIENT_KEY]')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'A configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]')
            [CompletionResult]::new('--strict-limit', '--strict-limit', [CompletionResultType]::ParameterName, 'Another limit or TTL that is in force is an error [env: SEMRUN_STRICT_LIMIT]')
            [CompletionResult]::new('-n', '-n', [CompletionResultType]::ParameterName, 'Do not wait [env: SEMRUN_NONBLOCK]')
            [CompletionResult]::new('--nonblock', '--nonblock', [CompletionResultType]::ParameterName, 'Do not wait [env: SEMRUN_NONBLOCK]')
            [CompletionResult]::new('--nb', '--nb', [CompletionResultType]::ParameterName, 'Do not wait [env: SEMRUN_NONBLOCK]')
            [CompletionResult]::new('--no-wait', '--no-wait', [CompletionResultType]::ParameterName, 'Do not wait [env: SEMRUN_NONBLOCK]')
            [CompletionResult]::new('--foreground', '--foreground', [CompletionResultType]::ParameterName, 'Run the command in semrun''s own process group [env: SEMRUN_FOREGROUND]')
            [CompletionResult]::new('--clean-env', '--clean-env', [CompletionResultType]::ParameterName, 'Keep SEMRUN_API_KEY, SEMRUN_PASSWORD, and a SEMRUN_BACKEND with a password in it, from the command [env: SEMRUN_CLEAN_ENV]')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say more [env: SEMRUN_VERBOSE]')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say more [env: SEMRUN_VERBOSE]')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing but errors [env: SEMRUN_QUIET]')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing but errors [env: SEMRUN_QUIET]')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print a JSON document (docs/operations/doctor.md has its fields)')
            [CompletionResult]::new('--allow-eviction', '--allow-eviction', [CompletionResultType]::ParameterName, 'Use a Redis that may evict keys under memory pressure, and permits with them [env: SEMRUN_ALLOW_EVICTION]')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'semrun;completions' {
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'semrun;man' {
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
    })

    $completions.Where{ $_.CompletionText -like "$wordToComplete*" } |
        Sort-Object -Property ListItemText
}
