
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
            [CompletionResult]::new('--name', '--name', [CompletionResultType]::ParameterName, 'Name of the semaphore, 1 to 200 bytes of UTF-8; control characters are not allowed [env: SEMRUN_NAME]')
            [CompletionResult]::new('-l', '-l', [CompletionResultType]::ParameterName, 'How many may hold a permit at once [default: 1]; while the semaphore is in use or pinned, its present limit applies [env: SEMRUN_LIMIT]')
            [CompletionResult]::new('-j', '-j', [CompletionResultType]::ParameterName, 'How many may hold a permit at once [default: 1]; while the semaphore is in use or pinned, its present limit applies [env: SEMRUN_LIMIT]')
            [CompletionResult]::new('--limit', '--limit', [CompletionResultType]::ParameterName, 'How many may hold a permit at once [default: 1]; while the semaphore is in use or pinned, its present limit applies [env: SEMRUN_LIMIT]')
            [CompletionResult]::new('--ttl', '--ttl', [CompletionResultType]::ParameterName, 'How long a permit lasts unless it is renewed, at least 5s [default: 30s]; while the semaphore is in use, its present TTL applies [env: SEMRUN_TTL]')
            [CompletionResult]::new('-w', '-w', [CompletionResultType]::ParameterName, 'Wait at most D [default: for ever]; 0 is the same as -n [env: SEMRUN_WAIT]')
            [CompletionResult]::new('--wait', '--wait', [CompletionResultType]::ParameterName, 'Wait at most D [default: for ever]; 0 is the same as -n [env: SEMRUN_WAIT]')
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'Wait at most D [default: for ever]; 0 is the same as -n [env: SEMRUN_WAIT]')
            [CompletionResult]::new('--max-attempts', '--max-attempts', [CompletionResultType]::ParameterName, 'Wait at most N times --retry-interval; what PassBuddy calls N attempts, but in the queue [env: SEMRUN_MAX_ATTEMPTS]')
            [CompletionResult]::new('--retry-interval', '--retry-interval', [CompletionResultType]::ParameterName, 'How long each of --max-attempts waits [default: 500ms] [env: SEMRUN_RETRY_INTERVAL]')
            [CompletionResult]::new('-E', '-E ', [CompletionResultType]::ParameterName, 'Exit code without a permit [default: 75]; 0 to 255 [env: SEMRUN_CONFLICT_EXIT_CODE]')
            [CompletionResult]::new('--conflict-exit-code', '--conflict-exit-code', [CompletionResultType]::ParameterName, 'Exit code without a permit [default: 75]; 0 to 255 [env: SEMRUN_CONFLICT_EXIT_CODE]')
            [CompletionResult]::new('--min-hold', '--min-hold', [CompletionResultType]::ParameterName, 'Keep the permit taken until D after it was acquired, even if the command or the host ends sooner; a job of cron then runs once on hosts with different clocks [env: SEMRUN_MIN_HOLD]')
            [CompletionResult]::new('--jitter', '--jitter', [CompletionResultType]::ParameterName, 'Wait a random time of up to D before asking for a permit [env: SEMRUN_JITTER]')
            [CompletionResult]::new('--label', '--label', [CompletionResultType]::ParameterName, 'Text that `status` shows for this holder [default: the command''s file name, or acquire] [env: SEMRUN_LABEL]')
            [CompletionResult]::new('--lost-exit-code', '--lost-exit-code', [CompletionResultType]::ParameterName, 'Exit code if the permit was lost [default: 76]; 0 to 255 [env: SEMRUN_LOST_EXIT_CODE]')
            [CompletionResult]::new('-s', '-s', [CompletionResultType]::ParameterName, 'Signal that semrun sends first to stop the command [default: TERM] [env: SEMRUN_SIGNAL]')
            [CompletionResult]::new('--signal', '--signal', [CompletionResultType]::ParameterName, 'Signal that semrun sends first to stop the command [default: TERM] [env: SEMRUN_SIGNAL]')
            [CompletionResult]::new('-k', '-k', [CompletionResultType]::ParameterName, 'Send SIGKILL to all processes of the command D after the first signal [default: 5s, or a quarter of the TTL if that is less]; with 0 only when the lease ends [env: SEMRUN_KILL_AFTER]')
            [CompletionResult]::new('--kill-after', '--kill-after', [CompletionResultType]::ParameterName, 'Send SIGKILL to all processes of the command D after the first signal [default: 5s, or a quarter of the TTL if that is less]; with 0 only when the lease ends [env: SEMRUN_KILL_AFTER]')
            [CompletionResult]::new('--max-runtime', '--max-runtime', [CompletionResultType]::ParameterName, 'Stop the command after D (exit code 124) [env: SEMRUN_MAX_RUNTIME]')
            [CompletionResult]::new('--on-lost', '--on-lost', [CompletionResultType]::ParameterName, 'What to do with the command when its permit is lost [default: kill] [env: SEMRUN_ON_LOST]')
            [CompletionResult]::new('--orphans', '--orphans', [CompletionResultType]::ParameterName, 'What to do with processes that still run when the command has ended [default: leave]; a command that is stopped leaves none [env: SEMRUN_ORPHANS]')
            [CompletionResult]::new('--backend', '--backend', [CompletionResultType]::ParameterName, 'Keep permits at URL [default: on this machine]; file:///PATH, redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// with TLS, redis+unix:///PATH, or http://HOST:PORT and https:// for a cloud-semaphore server; without one /run/semrun for root, ~/.local/state/semrun for others [env: SEMRUN_BACKEND]')
            [CompletionResult]::new('--prefix', '--prefix', [CompletionResultType]::ParameterName, 'Prefix of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]')
            [CompletionResult]::new('--quarantine', '--quarantine', [CompletionResultType]::ParameterName, 'After Redis has lost its data, grant no permit until it has been up for D [default: auto, the larger of 30s and the TTL]; 0 never waits, for throw-away servers [env: SEMRUN_QUARANTINE]')
            [CompletionResult]::new('--replicas', '--replicas', [CompletionResultType]::ParameterName, 'Grant and renew only while N replicas of Redis are in step [default: 0]; the highest number of all users of a semaphore applies [env: SEMRUN_REPLICAS]')
            [CompletionResult]::new('--password-file', '--password-file', [CompletionResultType]::ParameterName, 'Read the password for Redis from the first line of FILE; or set SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]')
            [CompletionResult]::new('--api-key-file', '--api-key-file', [CompletionResultType]::ParameterName, 'Read the API key for a cloud-semaphore server from the first line of FILE; or set SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]')
            [CompletionResult]::new('--ca-file', '--ca-file', [CompletionResultType]::ParameterName, 'Trust the authorities in FILE (PEM) for TLS instead of the system''s [env: SEMRUN_CA_FILE]')
            [CompletionResult]::new('--client-cert', '--client-cert', [CompletionResultType]::ParameterName, 'Present the certificate in FILE (PEM) to the server; needs --client-key [env: SEMRUN_CLIENT_CERT]')
            [CompletionResult]::new('--client-key', '--client-key', [CompletionResultType]::ParameterName, 'Private key (PEM) of --client-cert [env: SEMRUN_CLIENT_KEY]')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Read this configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]')
            [CompletionResult]::new('-c', '-c', [CompletionResultType]::ParameterName, 'Run STR with $SHELL -c, or /bin/sh -c')
            [CompletionResult]::new('--command', '--command', [CompletionResultType]::ParameterName, 'Run STR with $SHELL -c, or /bin/sh -c')
            [CompletionResult]::new('--strict-limit', '--strict-limit', [CompletionResultType]::ParameterName, 'Fail with exit code 78 if the semaphore already has another limit or TTL [env: SEMRUN_STRICT_LIMIT]')
            [CompletionResult]::new('-n', '-n', [CompletionResultType]::ParameterName, 'Do not wait if no permit is free [env: SEMRUN_NONBLOCK]')
            [CompletionResult]::new('--nonblock', '--nonblock', [CompletionResultType]::ParameterName, 'Do not wait if no permit is free [env: SEMRUN_NONBLOCK]')
            [CompletionResult]::new('--nb', '--nb', [CompletionResultType]::ParameterName, 'Do not wait if no permit is free [env: SEMRUN_NONBLOCK]')
            [CompletionResult]::new('--no-wait', '--no-wait', [CompletionResultType]::ParameterName, 'Do not wait if no permit is free [env: SEMRUN_NONBLOCK]')
            [CompletionResult]::new('--foreground', '--foreground', [CompletionResultType]::ParameterName, 'Run the command in semrun''s own process group [env: SEMRUN_FOREGROUND]')
            [CompletionResult]::new('--clean-env', '--clean-env', [CompletionResultType]::ParameterName, 'Remove SEMRUN_API_KEY, SEMRUN_PASSWORD and a SEMRUN_BACKEND with a password from the command''s environment [env: SEMRUN_CLEAN_ENV]')
            [CompletionResult]::new('--allow-eviction', '--allow-eviction', [CompletionResultType]::ParameterName, 'Accept a Redis whose maxmemory-policy may delete permits [env: SEMRUN_ALLOW_EVICTION]')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Print what semrun decides [env: SEMRUN_VERBOSE]')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Print what semrun decides [env: SEMRUN_VERBOSE]')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Print only errors [env: SEMRUN_QUIET]')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Print only errors [env: SEMRUN_QUIET]')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help; -h prints less of it')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help; -h prints less of it')
            [CompletionResult]::new('-V', '-V ', [CompletionResultType]::ParameterName, 'Print the version')
            [CompletionResult]::new('--version', '--version', [CompletionResultType]::ParameterName, 'Print the version')
            [CompletionResult]::new('status', 'status', [CompletionResultType]::ParameterValue, 'Show who holds and who waits (all semaphores if no NAME is given)')
            [CompletionResult]::new('acquire', 'acquire', [CompletionResultType]::ParameterValue, 'Take a permit that outlives this process, for a job of several steps')
            [CompletionResult]::new('renew', 'renew', [CompletionResultType]::ParameterValue, 'Extend a permit that was acquired')
            [CompletionResult]::new('release', 'release', [CompletionResultType]::ParameterValue, 'Give back a permit that was acquired, or take one from its holder')
            [CompletionResult]::new('limit', 'limit', [CompletionResultType]::ParameterValue, 'Show, pin or unpin a semaphore''s limit')
            [CompletionResult]::new('serve', 'serve', [CompletionResultType]::ParameterValue, 'Run a cloud-semaphore server, for semrun and for the Node clients')
            [CompletionResult]::new('doctor', 'doctor', [CompletionResultType]::ParameterValue, 'Check configuration, backend and clocks without running anything')
            [CompletionResult]::new('help', 'help', [CompletionResultType]::ParameterValue, 'Print this, or the help of a subcommand')
            [CompletionResult]::new('completions', 'completions', [CompletionResultType]::ParameterValue, 'Print a completion script for a shell')
            [CompletionResult]::new('man', 'man', [CompletionResultType]::ParameterValue, 'Print a man page in roff: semrun''s own, or that of a subcommand')
            break
        }
        'semrun;status' {
            [CompletionResult]::new('--backend', '--backend', [CompletionResultType]::ParameterName, 'Keep permits at URL [default: on this machine]; file:///PATH, redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// with TLS, redis+unix:///PATH, or http://HOST:PORT and https:// for a cloud-semaphore server; without one /run/semrun for root, ~/.local/state/semrun for others [env: SEMRUN_BACKEND]')
            [CompletionResult]::new('--prefix', '--prefix', [CompletionResultType]::ParameterName, 'Prefix of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]')
            [CompletionResult]::new('--quarantine', '--quarantine', [CompletionResultType]::ParameterName, 'After Redis has lost its data, grant no permit until it has been up for D [default: auto, the larger of 30s and the TTL]; 0 never waits, for throw-away servers [env: SEMRUN_QUARANTINE]')
            [CompletionResult]::new('--replicas', '--replicas', [CompletionResultType]::ParameterName, 'Grant and renew only while N replicas of Redis are in step [default: 0]; the highest number of all users of a semaphore applies [env: SEMRUN_REPLICAS]')
            [CompletionResult]::new('--password-file', '--password-file', [CompletionResultType]::ParameterName, 'Read the password for Redis from the first line of FILE; or set SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]')
            [CompletionResult]::new('--api-key-file', '--api-key-file', [CompletionResultType]::ParameterName, 'Read the API key for a cloud-semaphore server from the first line of FILE; or set SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]')
            [CompletionResult]::new('--ca-file', '--ca-file', [CompletionResultType]::ParameterName, 'Trust the authorities in FILE (PEM) for TLS instead of the system''s [env: SEMRUN_CA_FILE]')
            [CompletionResult]::new('--client-cert', '--client-cert', [CompletionResultType]::ParameterName, 'Present the certificate in FILE (PEM) to the server; needs --client-key [env: SEMRUN_CLIENT_CERT]')
            [CompletionResult]::new('--client-key', '--client-key', [CompletionResultType]::ParameterName, 'Private key (PEM) of --client-cert [env: SEMRUN_CLIENT_KEY]')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Read this configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]')
            [CompletionResult]::new('-l', '-l', [CompletionResultType]::ParameterName, 'Limit to assume if only other programs hold permits [default: 1] [env: SEMRUN_LIMIT]')
            [CompletionResult]::new('--limit', '--limit', [CompletionResultType]::ParameterName, 'Limit to assume if only other programs hold permits [default: 1] [env: SEMRUN_LIMIT]')
            [CompletionResult]::new('--allow-eviction', '--allow-eviction', [CompletionResultType]::ParameterName, 'Accept a Redis whose maxmemory-policy may delete permits [env: SEMRUN_ALLOW_EVICTION]')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print a JSON document')
            [CompletionResult]::new('--watch', '--watch', [CompletionResultType]::ParameterName, 'Print it again whenever it changes, until a signal ends it')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help; -h prints less of it')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help; -h prints less of it')
            break
        }
        'semrun;acquire' {
            [CompletionResult]::new('--name', '--name', [CompletionResultType]::ParameterName, 'Name of the semaphore, 1 to 200 bytes of UTF-8; control characters are not allowed [env: SEMRUN_NAME]')
            [CompletionResult]::new('-l', '-l', [CompletionResultType]::ParameterName, 'How many may hold a permit at once [default: 1]; while the semaphore is in use or pinned, its present limit applies [env: SEMRUN_LIMIT]')
            [CompletionResult]::new('-j', '-j', [CompletionResultType]::ParameterName, 'How many may hold a permit at once [default: 1]; while the semaphore is in use or pinned, its present limit applies [env: SEMRUN_LIMIT]')
            [CompletionResult]::new('--limit', '--limit', [CompletionResultType]::ParameterName, 'How many may hold a permit at once [default: 1]; while the semaphore is in use or pinned, its present limit applies [env: SEMRUN_LIMIT]')
            [CompletionResult]::new('--ttl', '--ttl', [CompletionResultType]::ParameterName, 'How long a permit lasts unless it is renewed, at least 5s [default: 30s]; while the semaphore is in use, its present TTL applies [env: SEMRUN_TTL]')
            [CompletionResult]::new('-w', '-w', [CompletionResultType]::ParameterName, 'Wait at most D [default: for ever]; 0 is the same as -n [env: SEMRUN_WAIT]')
            [CompletionResult]::new('--wait', '--wait', [CompletionResultType]::ParameterName, 'Wait at most D [default: for ever]; 0 is the same as -n [env: SEMRUN_WAIT]')
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'Wait at most D [default: for ever]; 0 is the same as -n [env: SEMRUN_WAIT]')
            [CompletionResult]::new('--max-attempts', '--max-attempts', [CompletionResultType]::ParameterName, 'Wait at most N times --retry-interval; what PassBuddy calls N attempts, but in the queue [env: SEMRUN_MAX_ATTEMPTS]')
            [CompletionResult]::new('--retry-interval', '--retry-interval', [CompletionResultType]::ParameterName, 'How long each of --max-attempts waits [default: 500ms] [env: SEMRUN_RETRY_INTERVAL]')
            [CompletionResult]::new('-E', '-E ', [CompletionResultType]::ParameterName, 'Exit code without a permit [default: 75]; 0 to 255 [env: SEMRUN_CONFLICT_EXIT_CODE]')
            [CompletionResult]::new('--conflict-exit-code', '--conflict-exit-code', [CompletionResultType]::ParameterName, 'Exit code without a permit [default: 75]; 0 to 255 [env: SEMRUN_CONFLICT_EXIT_CODE]')
            [CompletionResult]::new('--min-hold', '--min-hold', [CompletionResultType]::ParameterName, 'Keep the permit taken until D after it was acquired, even if the command or the host ends sooner; a job of cron then runs once on hosts with different clocks [env: SEMRUN_MIN_HOLD]')
            [CompletionResult]::new('--jitter', '--jitter', [CompletionResultType]::ParameterName, 'Wait a random time of up to D before asking for a permit [env: SEMRUN_JITTER]')
            [CompletionResult]::new('--label', '--label', [CompletionResultType]::ParameterName, 'Text that `status` shows for this holder [default: the command''s file name, or acquire] [env: SEMRUN_LABEL]')
            [CompletionResult]::new('--backend', '--backend', [CompletionResultType]::ParameterName, 'Keep permits at URL [default: on this machine]; file:///PATH, redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// with TLS, redis+unix:///PATH, or http://HOST:PORT and https:// for a cloud-semaphore server; without one /run/semrun for root, ~/.local/state/semrun for others [env: SEMRUN_BACKEND]')
            [CompletionResult]::new('--prefix', '--prefix', [CompletionResultType]::ParameterName, 'Prefix of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]')
            [CompletionResult]::new('--quarantine', '--quarantine', [CompletionResultType]::ParameterName, 'After Redis has lost its data, grant no permit until it has been up for D [default: auto, the larger of 30s and the TTL]; 0 never waits, for throw-away servers [env: SEMRUN_QUARANTINE]')
            [CompletionResult]::new('--replicas', '--replicas', [CompletionResultType]::ParameterName, 'Grant and renew only while N replicas of Redis are in step [default: 0]; the highest number of all users of a semaphore applies [env: SEMRUN_REPLICAS]')
            [CompletionResult]::new('--password-file', '--password-file', [CompletionResultType]::ParameterName, 'Read the password for Redis from the first line of FILE; or set SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]')
            [CompletionResult]::new('--api-key-file', '--api-key-file', [CompletionResultType]::ParameterName, 'Read the API key for a cloud-semaphore server from the first line of FILE; or set SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]')
            [CompletionResult]::new('--ca-file', '--ca-file', [CompletionResultType]::ParameterName, 'Trust the authorities in FILE (PEM) for TLS instead of the system''s [env: SEMRUN_CA_FILE]')
            [CompletionResult]::new('--client-cert', '--client-cert', [CompletionResultType]::ParameterName, 'Present the certificate in FILE (PEM) to the server; needs --client-key [env: SEMRUN_CLIENT_CERT]')
            [CompletionResult]::new('--client-key', '--client-key', [CompletionResultType]::ParameterName, 'Private key (PEM) of --client-cert [env: SEMRUN_CLIENT_KEY]')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Read this configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]')
            [CompletionResult]::new('--strict-limit', '--strict-limit', [CompletionResultType]::ParameterName, 'Fail with exit code 78 if the semaphore already has another limit or TTL [env: SEMRUN_STRICT_LIMIT]')
            [CompletionResult]::new('-n', '-n', [CompletionResultType]::ParameterName, 'Do not wait if no permit is free [env: SEMRUN_NONBLOCK]')
            [CompletionResult]::new('--nonblock', '--nonblock', [CompletionResultType]::ParameterName, 'Do not wait if no permit is free [env: SEMRUN_NONBLOCK]')
            [CompletionResult]::new('--nb', '--nb', [CompletionResultType]::ParameterName, 'Do not wait if no permit is free [env: SEMRUN_NONBLOCK]')
            [CompletionResult]::new('--no-wait', '--no-wait', [CompletionResultType]::ParameterName, 'Do not wait if no permit is free [env: SEMRUN_NONBLOCK]')
            [CompletionResult]::new('--allow-eviction', '--allow-eviction', [CompletionResultType]::ParameterName, 'Accept a Redis whose maxmemory-policy may delete permits [env: SEMRUN_ALLOW_EVICTION]')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Print what semrun decides [env: SEMRUN_VERBOSE]')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Print what semrun decides [env: SEMRUN_VERBOSE]')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Print only errors [env: SEMRUN_QUIET]')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Print only errors [env: SEMRUN_QUIET]')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print a JSON document')
            [CompletionResult]::new('--shell', '--shell', [CompletionResultType]::ParameterName, 'Print `export` lines for a shell to evaluate')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help; -h prints less of it')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help; -h prints less of it')
            break
        }
        'semrun;renew' {
            [CompletionResult]::new('--permit', '--permit', [CompletionResultType]::ParameterName, 'What `semrun acquire` printed [env: SEMRUN_PERMIT]')
            [CompletionResult]::new('--while-pid', '--while-pid', [CompletionResultType]::ParameterName, 'Keep renewing it until this process has ended; then end without giving it back')
            [CompletionResult]::new('--backend', '--backend', [CompletionResultType]::ParameterName, 'Keep permits at URL [default: on this machine]; file:///PATH, redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// with TLS, redis+unix:///PATH, or http://HOST:PORT and https:// for a cloud-semaphore server; without one /run/semrun for root, ~/.local/state/semrun for others [env: SEMRUN_BACKEND]')
            [CompletionResult]::new('--prefix', '--prefix', [CompletionResultType]::ParameterName, 'Prefix of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]')
            [CompletionResult]::new('--quarantine', '--quarantine', [CompletionResultType]::ParameterName, 'After Redis has lost its data, grant no permit until it has been up for D [default: auto, the larger of 30s and the TTL]; 0 never waits, for throw-away servers [env: SEMRUN_QUARANTINE]')
            [CompletionResult]::new('--replicas', '--replicas', [CompletionResultType]::ParameterName, 'Grant and renew only while N replicas of Redis are in step [default: 0]; the highest number of all users of a semaphore applies [env: SEMRUN_REPLICAS]')
            [CompletionResult]::new('--password-file', '--password-file', [CompletionResultType]::ParameterName, 'Read the password for Redis from the first line of FILE; or set SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]')
            [CompletionResult]::new('--api-key-file', '--api-key-file', [CompletionResultType]::ParameterName, 'Read the API key for a cloud-semaphore server from the first line of FILE; or set SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]')
            [CompletionResult]::new('--ca-file', '--ca-file', [CompletionResultType]::ParameterName, 'Trust the authorities in FILE (PEM) for TLS instead of the system''s [env: SEMRUN_CA_FILE]')
            [CompletionResult]::new('--client-cert', '--client-cert', [CompletionResultType]::ParameterName, 'Present the certificate in FILE (PEM) to the server; needs --client-key [env: SEMRUN_CLIENT_CERT]')
            [CompletionResult]::new('--client-key', '--client-key', [CompletionResultType]::ParameterName, 'Private key (PEM) of --client-cert [env: SEMRUN_CLIENT_KEY]')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Read this configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]')
            [CompletionResult]::new('--allow-eviction', '--allow-eviction', [CompletionResultType]::ParameterName, 'Accept a Redis whose maxmemory-policy may delete permits [env: SEMRUN_ALLOW_EVICTION]')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help; -h prints less of it')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help; -h prints less of it')
            break
        }
        'semrun;release' {
            [CompletionResult]::new('--permit', '--permit', [CompletionResultType]::ParameterName, 'What `semrun acquire` printed; with --force any permit that `semrun status --json` shows [env: SEMRUN_PERMIT]')
            [CompletionResult]::new('--backend', '--backend', [CompletionResultType]::ParameterName, 'Keep permits at URL [default: on this machine]; file:///PATH, redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// with TLS, redis+unix:///PATH, or http://HOST:PORT and https:// for a cloud-semaphore server; without one /run/semrun for root, ~/.local/state/semrun for others [env: SEMRUN_BACKEND]')
            [CompletionResult]::new('--prefix', '--prefix', [CompletionResultType]::ParameterName, 'Prefix of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]')
            [CompletionResult]::new('--quarantine', '--quarantine', [CompletionResultType]::ParameterName, 'After Redis has lost its data, grant no permit until it has been up for D [default: auto, the larger of 30s and the TTL]; 0 never waits, for throw-away servers [env: SEMRUN_QUARANTINE]')
            [CompletionResult]::new('--replicas', '--replicas', [CompletionResultType]::ParameterName, 'Grant and renew only while N replicas of Redis are in step [default: 0]; the highest number of all users of a semaphore applies [env: SEMRUN_REPLICAS]')
            [CompletionResult]::new('--password-file', '--password-file', [CompletionResultType]::ParameterName, 'Read the password for Redis from the first line of FILE; or set SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]')
            [CompletionResult]::new('--api-key-file', '--api-key-file', [CompletionResultType]::ParameterName, 'Read the API key for a cloud-semaphore server from the first line of FILE; or set SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]')
            [CompletionResult]::new('--ca-file', '--ca-file', [CompletionResultType]::ParameterName, 'Trust the authorities in FILE (PEM) for TLS instead of the system''s [env: SEMRUN_CA_FILE]')
            [CompletionResult]::new('--client-cert', '--client-cert', [CompletionResultType]::ParameterName, 'Present the certificate in FILE (PEM) to the server; needs --client-key [env: SEMRUN_CLIENT_CERT]')
            [CompletionResult]::new('--client-key', '--client-key', [CompletionResultType]::ParameterName, 'Private key (PEM) of --client-cert [env: SEMRUN_CLIENT_KEY]')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Read this configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]')
            [CompletionResult]::new('--force', '--force', [CompletionResultType]::ParameterName, 'Take the permit from its holder; it passes on when the holder''s command is dead, or when the lease ends')
            [CompletionResult]::new('--now', '--now', [CompletionResultType]::ParameterName, 'With --force, let the permit pass on at once; the old command may still run beside the next')
            [CompletionResult]::new('--allow-eviction', '--allow-eviction', [CompletionResultType]::ParameterName, 'Accept a Redis whose maxmemory-policy may delete permits [env: SEMRUN_ALLOW_EVICTION]')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help; -h prints less of it')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help; -h prints less of it')
            break
        }
        'semrun;limit' {
            [CompletionResult]::new('--backend', '--backend', [CompletionResultType]::ParameterName, 'Keep permits at URL [default: on this machine]; file:///PATH, redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// with TLS, redis+unix:///PATH, or http://HOST:PORT and https:// for a cloud-semaphore server; without one /run/semrun for root, ~/.local/state/semrun for others [env: SEMRUN_BACKEND]')
            [CompletionResult]::new('--prefix', '--prefix', [CompletionResultType]::ParameterName, 'Prefix of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]')
            [CompletionResult]::new('--quarantine', '--quarantine', [CompletionResultType]::ParameterName, 'After Redis has lost its data, grant no permit until it has been up for D [default: auto, the larger of 30s and the TTL]; 0 never waits, for throw-away servers [env: SEMRUN_QUARANTINE]')
            [CompletionResult]::new('--replicas', '--replicas', [CompletionResultType]::ParameterName, 'Grant and renew only while N replicas of Redis are in step [default: 0]; the highest number of all users of a semaphore applies [env: SEMRUN_REPLICAS]')
            [CompletionResult]::new('--password-file', '--password-file', [CompletionResultType]::ParameterName, 'Read the password for Redis from the first line of FILE; or set SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]')
            [CompletionResult]::new('--api-key-file', '--api-key-file', [CompletionResultType]::ParameterName, 'Read the API key for a cloud-semaphore server from the first line of FILE; or set SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]')
            [CompletionResult]::new('--ca-file', '--ca-file', [CompletionResultType]::ParameterName, 'Trust the authorities in FILE (PEM) for TLS instead of the system''s [env: SEMRUN_CA_FILE]')
            [CompletionResult]::new('--client-cert', '--client-cert', [CompletionResultType]::ParameterName, 'Present the certificate in FILE (PEM) to the server; needs --client-key [env: SEMRUN_CLIENT_CERT]')
            [CompletionResult]::new('--client-key', '--client-key', [CompletionResultType]::ParameterName, 'Private key (PEM) of --client-cert [env: SEMRUN_CLIENT_KEY]')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Read this configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]')
            [CompletionResult]::new('--unpin', '--unpin', [CompletionResultType]::ParameterName, 'Remove the pinned limit; what its users ask for with `-l` applies again')
            [CompletionResult]::new('--allow-eviction', '--allow-eviction', [CompletionResultType]::ParameterName, 'Accept a Redis whose maxmemory-policy may delete permits [env: SEMRUN_ALLOW_EVICTION]')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help; -h prints less of it')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help; -h prints less of it')
            break
        }
        'semrun;serve' {
            [CompletionResult]::new('--api-key-file', '--api-key-file', [CompletionResultType]::ParameterName, 'Accept the API keys in FILE, one a line; KEY [role=view|use|admin] [names=PATTERN] LABEL, or several keys in SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]')
            [CompletionResult]::new('--listen', '--listen', [CompletionResultType]::ParameterName, 'Address to listen at [default: 127.0.0.1:3202]; port 0 is any free one [env: SEMRUN_LISTEN]')
            [CompletionResult]::new('--tls-cert', '--tls-cert', [CompletionResultType]::ParameterName, 'Serve HTTPS with the certificate chain in FILE (PEM); needs --tls-key [env: SEMRUN_TLS_CERT]')
            [CompletionResult]::new('--tls-key', '--tls-key', [CompletionResultType]::ParameterName, 'Private key (PEM) of --tls-cert [env: SEMRUN_TLS_KEY]')
            [CompletionResult]::new('--client-ca-file', '--client-ca-file', [CompletionResultType]::ParameterName, 'Admit only clients with a certificate that an authority in FILE (PEM) has signed; needs --tls-cert [env: SEMRUN_CLIENT_CA_FILE]')
            [CompletionResult]::new('--state-dir', '--state-dir', [CompletionResultType]::ParameterName, 'Record permits in DIR, so that they outlive a restart [env: SEMRUN_STATE_DIR]')
            [CompletionResult]::new('--max-unauthenticated', '--max-unauthenticated', [CompletionResultType]::ParameterName, 'At most N connections that have not shown a key [default: a quarter of the descriptors, 1024 at most]; a new one closes the oldest [env: SEMRUN_MAX_UNAUTHENTICATED]')
            [CompletionResult]::new('--max-unauthenticated-per-address', '--max-unauthenticated-per-address', [CompletionResultType]::ParameterName, 'The same for one address, or one IPv6 network of 64 bits [default: a quarter of --max-unauthenticated] [env: SEMRUN_MAX_UNAUTHENTICATED_PER_ADDRESS]')
            [CompletionResult]::new('--max-clients', '--max-clients', [CompletionResultType]::ParameterName, 'At most N clients that register, wait or hold, of all semaphores [default: 200000] [env: SEMRUN_MAX_CLIENTS]')
            [CompletionResult]::new('--max-waiters', '--max-waiters', [CompletionResultType]::ParameterName, 'At most N clients that register or wait, of one semaphore [default: 20000] [env: SEMRUN_MAX_WAITERS]')
            [CompletionResult]::new('--max-names', '--max-names', [CompletionResultType]::ParameterName, 'At most N semaphores that are in use or have a pinned limit [default: 20000] [env: SEMRUN_MAX_NAMES]')
            [CompletionResult]::new('--max-pins', '--max-pins', [CompletionResultType]::ParameterName, 'At most N semaphores with a pinned limit [default: 10000] [env: SEMRUN_MAX_PINS]')
            [CompletionResult]::new('--log', '--log', [CompletionResultType]::ParameterName, 'Events to log on standard error, beside info and alert [env: SEMRUN_LOG]')
            [CompletionResult]::new('--log-format', '--log-format', [CompletionResultType]::ParameterName, 'Form of the log [default: text] [env: SEMRUN_LOG_FORMAT]')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Read this configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help; -h prints less of it')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help; -h prints less of it')
            break
        }
        'semrun;doctor' {
            [CompletionResult]::new('--name', '--name', [CompletionResultType]::ParameterName, 'Name of the semaphore, 1 to 200 bytes of UTF-8; control characters are not allowed [env: SEMRUN_NAME]')
            [CompletionResult]::new('-l', '-l', [CompletionResultType]::ParameterName, 'How many may hold a permit at once [default: 1]; while the semaphore is in use or pinned, its present limit applies [env: SEMRUN_LIMIT]')
            [CompletionResult]::new('-j', '-j', [CompletionResultType]::ParameterName, 'How many may hold a permit at once [default: 1]; while the semaphore is in use or pinned, its present limit applies [env: SEMRUN_LIMIT]')
            [CompletionResult]::new('--limit', '--limit', [CompletionResultType]::ParameterName, 'How many may hold a permit at once [default: 1]; while the semaphore is in use or pinned, its present limit applies [env: SEMRUN_LIMIT]')
            [CompletionResult]::new('--ttl', '--ttl', [CompletionResultType]::ParameterName, 'How long a permit lasts unless it is renewed, at least 5s [default: 30s]; while the semaphore is in use, its present TTL applies [env: SEMRUN_TTL]')
            [CompletionResult]::new('-w', '-w', [CompletionResultType]::ParameterName, 'Wait at most D [default: for ever]; 0 is the same as -n [env: SEMRUN_WAIT]')
            [CompletionResult]::new('--wait', '--wait', [CompletionResultType]::ParameterName, 'Wait at most D [default: for ever]; 0 is the same as -n [env: SEMRUN_WAIT]')
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'Wait at most D [default: for ever]; 0 is the same as -n [env: SEMRUN_WAIT]')
            [CompletionResult]::new('--max-attempts', '--max-attempts', [CompletionResultType]::ParameterName, 'Wait at most N times --retry-interval; what PassBuddy calls N attempts, but in the queue [env: SEMRUN_MAX_ATTEMPTS]')
            [CompletionResult]::new('--retry-interval', '--retry-interval', [CompletionResultType]::ParameterName, 'How long each of --max-attempts waits [default: 500ms] [env: SEMRUN_RETRY_INTERVAL]')
            [CompletionResult]::new('-E', '-E ', [CompletionResultType]::ParameterName, 'Exit code without a permit [default: 75]; 0 to 255 [env: SEMRUN_CONFLICT_EXIT_CODE]')
            [CompletionResult]::new('--conflict-exit-code', '--conflict-exit-code', [CompletionResultType]::ParameterName, 'Exit code without a permit [default: 75]; 0 to 255 [env: SEMRUN_CONFLICT_EXIT_CODE]')
            [CompletionResult]::new('--min-hold', '--min-hold', [CompletionResultType]::ParameterName, 'Keep the permit taken until D after it was acquired, even if the command or the host ends sooner; a job of cron then runs once on hosts with different clocks [env: SEMRUN_MIN_HOLD]')
            [CompletionResult]::new('--jitter', '--jitter', [CompletionResultType]::ParameterName, 'Wait a random time of up to D before asking for a permit [env: SEMRUN_JITTER]')
            [CompletionResult]::new('--label', '--label', [CompletionResultType]::ParameterName, 'Text that `status` shows for this holder [default: the command''s file name, or acquire] [env: SEMRUN_LABEL]')
            [CompletionResult]::new('--lost-exit-code', '--lost-exit-code', [CompletionResultType]::ParameterName, 'Exit code if the permit was lost [default: 76]; 0 to 255 [env: SEMRUN_LOST_EXIT_CODE]')
            [CompletionResult]::new('-s', '-s', [CompletionResultType]::ParameterName, 'Signal that semrun sends first to stop the command [default: TERM] [env: SEMRUN_SIGNAL]')
            [CompletionResult]::new('--signal', '--signal', [CompletionResultType]::ParameterName, 'Signal that semrun sends first to stop the command [default: TERM] [env: SEMRUN_SIGNAL]')
            [CompletionResult]::new('-k', '-k', [CompletionResultType]::ParameterName, 'Send SIGKILL to all processes of the command D after the first signal [default: 5s, or a quarter of the TTL if that is less]; with 0 only when the lease ends [env: SEMRUN_KILL_AFTER]')
            [CompletionResult]::new('--kill-after', '--kill-after', [CompletionResultType]::ParameterName, 'Send SIGKILL to all processes of the command D after the first signal [default: 5s, or a quarter of the TTL if that is less]; with 0 only when the lease ends [env: SEMRUN_KILL_AFTER]')
            [CompletionResult]::new('--max-runtime', '--max-runtime', [CompletionResultType]::ParameterName, 'Stop the command after D (exit code 124) [env: SEMRUN_MAX_RUNTIME]')
            [CompletionResult]::new('--on-lost', '--on-lost', [CompletionResultType]::ParameterName, 'What to do with the command when its permit is lost [default: kill] [env: SEMRUN_ON_LOST]')
            [CompletionResult]::new('--orphans', '--orphans', [CompletionResultType]::ParameterName, 'What to do with processes that still run when the command has ended [default: leave]; a command that is stopped leaves none [env: SEMRUN_ORPHANS]')
            [CompletionResult]::new('--backend', '--backend', [CompletionResultType]::ParameterName, 'Keep permits at URL [default: on this machine]; file:///PATH, redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// with TLS, redis+unix:///PATH, or http://HOST:PORT and https:// for a cloud-semaphore server; without one /run/semrun for root, ~/.local/state/semrun for others [env: SEMRUN_BACKEND]')
            [CompletionResult]::new('--prefix', '--prefix', [CompletionResultType]::ParameterName, 'Prefix of the keys in Redis [default: semrun] [env: SEMRUN_PREFIX]')
            [CompletionResult]::new('--quarantine', '--quarantine', [CompletionResultType]::ParameterName, 'After Redis has lost its data, grant no permit until it has been up for D [default: auto, the larger of 30s and the TTL]; 0 never waits, for throw-away servers [env: SEMRUN_QUARANTINE]')
            [CompletionResult]::new('--replicas', '--replicas', [CompletionResultType]::ParameterName, 'Grant and renew only while N replicas of Redis are in step [default: 0]; the highest number of all users of a semaphore applies [env: SEMRUN_REPLICAS]')
            [CompletionResult]::new('--password-file', '--password-file', [CompletionResultType]::ParameterName, 'Read the password for Redis from the first line of FILE; or set SEMRUN_PASSWORD [env: SEMRUN_PASSWORD_FILE]')
            [CompletionResult]::new('--api-key-file', '--api-key-file', [CompletionResultType]::ParameterName, 'Read the API key for a cloud-semaphore server from the first line of FILE; or set SEMRUN_API_KEY [env: SEMRUN_API_KEY_FILE]')
            [CompletionResult]::new('--ca-file', '--ca-file', [CompletionResultType]::ParameterName, 'Trust the authorities in FILE (PEM) for TLS instead of the system''s [env: SEMRUN_CA_FILE]')
            [CompletionResult]::new('--client-cert', '--client-cert', [CompletionResultType]::ParameterName, 'Present the certificate in FILE (PEM) to the server; needs --client-key [env: SEMRUN_CLIENT_CERT]')
            [CompletionResult]::new('--client-key', '--client-key', [CompletionResultType]::ParameterName, 'Private key (PEM) of --client-cert [env: SEMRUN_CLIENT_KEY]')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'Read this configuration file (TOML) instead of ~/.config/semrun/config.toml [env: SEMRUN_CONFIG]')
            [CompletionResult]::new('--strict-limit', '--strict-limit', [CompletionResultType]::ParameterName, 'Fail with exit code 78 if the semaphore already has another limit or TTL [env: SEMRUN_STRICT_LIMIT]')
            [CompletionResult]::new('-n', '-n', [CompletionResultType]::ParameterName, 'Do not wait if no permit is free [env: SEMRUN_NONBLOCK]')
            [CompletionResult]::new('--nonblock', '--nonblock', [CompletionResultType]::ParameterName, 'Do not wait if no permit is free [env: SEMRUN_NONBLOCK]')
            [CompletionResult]::new('--nb', '--nb', [CompletionResultType]::ParameterName, 'Do not wait if no permit is free [env: SEMRUN_NONBLOCK]')
            [CompletionResult]::new('--no-wait', '--no-wait', [CompletionResultType]::ParameterName, 'Do not wait if no permit is free [env: SEMRUN_NONBLOCK]')
            [CompletionResult]::new('--foreground', '--foreground', [CompletionResultType]::ParameterName, 'Run the command in semrun''s own process group [env: SEMRUN_FOREGROUND]')
            [CompletionResult]::new('--clean-env', '--clean-env', [CompletionResultType]::ParameterName, 'Remove SEMRUN_API_KEY, SEMRUN_PASSWORD and a SEMRUN_BACKEND with a password from the command''s environment [env: SEMRUN_CLEAN_ENV]')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Print what semrun decides [env: SEMRUN_VERBOSE]')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Print what semrun decides [env: SEMRUN_VERBOSE]')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Print only errors [env: SEMRUN_QUIET]')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Print only errors [env: SEMRUN_QUIET]')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print a JSON document')
            [CompletionResult]::new('--allow-eviction', '--allow-eviction', [CompletionResultType]::ParameterName, 'Accept a Redis whose maxmemory-policy may delete permits [env: SEMRUN_ALLOW_EVICTION]')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help; -h prints less of it')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help; -h prints less of it')
            break
        }
        'semrun;help' {
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help; -h prints less of it')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help; -h prints less of it')
            break
        }
        'semrun;completions' {
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help; -h prints less of it')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help; -h prints less of it')
            break
        }
        'semrun;man' {
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help; -h prints less of it')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help; -h prints less of it')
            break
        }
    })

    $completions.Where{ $_.CompletionText -like "$wordToComplete*" } |
        Sort-Object -Property ListItemText
}
