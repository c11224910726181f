# Completion of semrun for bash, printed by `semrun completions bash`.

# Sets `kind` to what follows an option; fails for one that takes no value.
_semrun_value() {
    case $1 in
        --name) kind='names' ;;
        -l|-j|--limit) kind='other' ;;
        --ttl) kind='other' ;;
        -w|--wait|--timeout) kind='other' ;;
        --max-attempts) kind='other' ;;
        --retry-interval) kind='other' ;;
        -E|--conflict-exit-code) kind='other' ;;
        --min-hold) kind='other' ;;
        --jitter) kind='other' ;;
        --label) kind='other' ;;
        --lost-exit-code) kind='other' ;;
        -s|--signal) kind='words HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO SYS' ;;
        -k|--kill-after) kind='other' ;;
        --max-runtime) kind='other' ;;
        --on-lost) kind='words kill continue' ;;
        --orphans) kind='words leave wait kill' ;;
        --backend) kind='other' ;;
        --prefix) kind='other' ;;
        --quarantine) kind='other' ;;
        --replicas) kind='other' ;;
        --password-file) kind='files' ;;
        --api-key-file) kind='files' ;;
        --ca-file) kind='files' ;;
        --client-cert) kind='files' ;;
        --client-key) kind='files' ;;
        --config) kind='files' ;;
        -c|--command) kind='other' ;;
        -l|--limit) kind='other' ;;
        --permit) kind='other' ;;
        --while-pid) kind='other' ;;
        --listen) kind='other' ;;
        --tls-cert) kind='files' ;;
        --tls-key) kind='files' ;;
        --client-ca-file) kind='files' ;;
        --state-dir) kind='directories' ;;
        --max-unauthenticated) kind='other' ;;
        --max-unauthenticated-per-address) kind='other' ;;
        --max-clients) kind='other' ;;
        --max-waiters) kind='other' ;;
        --max-names) kind='other' ;;
        --max-pins) kind='other' ;;
        --log) kind='words info alert sem_events sem_transition debug' ;;
        --log-format) kind='words text json' ;;
        *) kind=; return 1 ;;
    esac
}

# Adds what begins with $2 and is of the kind $1.
_semrun_add() {
    local word
    local -a found=()
    case $1 in
        'words '*) mapfile -t found < <(compgen -W "${1#words }" -- "$2") ;;
        names)
            mapfile -t found < <(timeout 2 semrun status --json "${place[@]}" 2>/dev/null </dev/null | sed -n 's/^      "name": "\([^"\\]*\)",$/\1/p')
            ;;
        files) compopt -o filenames; mapfile -t found < <(compgen -f -- "$2") ;;
        directories) compopt -o filenames; mapfile -t found < <(compgen -d -- "$2") ;;
        commands) mapfile -t found < <(compgen -c -- "$2" | sort -u) ;;
    esac
    for word in "${found[@]}"; do
        [[ $word == "$2"* ]] || continue
        [[ $1 == names ]] && printf -v word %q "$word"
        COMPREPLY+=("$word")
    done
}

_semrun() {
    local cur prefix kind= names= option= sub= named= word i at= operands=0
    local line=$COMP_LINE
    local -a words=() starts=() place=()
    COMPREPLY=()
    # bash divides words at = and :, too.
    for (( i = 0; i <= COMP_CWORD; i++ )); do
        word=${COMP_WORDS[i]}
        if (( i == 0 )) || [[ $line == [[:blank:]]* ]]; then
            line=${line#"${line%%[![:blank:]]*}"}
            words+=("$word")
            starts+=("$i")
        else
            words[${#words[@]} - 1]+=$word
        fi
        line=${line#"$word"}
    done
    cur=${words[${#words[@]} - 1]}
    unset 'words[${#words[@]} - 1]'
    prefix=${cur%"${COMP_WORDS[COMP_CWORD]}"}
    [[ ${COMP_WORDS[COMP_CWORD]} == [=:] ]] && prefix=$cur
    for (( i = 1; i < ${#words[@]}; i++ )); do
        word=${words[i]}
        if [[ -n $option ]]; then
            case $option in --backend|--config|--prefix|--password-file|--api-key-file|--ca-file|--client-cert|--client-key) place+=("$option" "$word") ;; esac
            option=
            continue
        fi
        case $word in
            --) [[ -z $sub ]] && at=$(( i + 1 )) && break ;;
            --*=*)
                case ${word%%=*} in --backend|--config|--prefix|--password-file|--api-key-file|--ca-file|--client-cert|--client-key) place+=("$word") ;; --name) named=1 ;; esac
                ;;
            --*) [[ $word == --name ]] && named=1; _semrun_value "$word" && option=$word ;;
            -?*)
                while word=${word#?}; [[ -n $word ]]; do
                    if _semrun_value "-${word:0:1}"; then
                        (( ${#word} == 1 )) && option=-$word
                        break
                    fi
                done
                ;;
            *)
                if [[ -n $sub ]]; then
                    (( operands++ ))
                    continue
                fi
                case $word in
                    status|acquire|renew|release|limit|serve|doctor|help|completions|man) [[ -z $named ]] && sub=$word && continue ;;
                esac
                at=$i
                break
                ;;
        esac
    done
    kind=
    if [[ -n $at ]]; then
        if (( at == ${#words[@]} )); then
            [[ $cur == */* ]] && _semrun_add files "$cur" || _semrun_add commands "$cur"
        elif declare -F _comp_command_offset >/dev/null; then
            _comp_command_offset "${starts[at]}"
        elif declare -F _command_offset >/dev/null; then
            _command_offset "${starts[at]}"
        else
            _semrun_add files "$cur"
        fi
    elif [[ -n $option ]]; then
        _semrun_value "$option"
        _semrun_add "$kind" "$cur"
    elif [[ $cur == --*=* ]]; then
        option=${cur%%=*}
        _semrun_value "$option" && _semrun_add "$kind" "${cur#*=}"
        COMPREPLY=("${COMPREPLY[@]/#/$option=}")
    elif [[ $cur == -* ]]; then
        case $sub in
        '') names='--name -l -j --limit --strict-limit --ttl -w --wait --timeout --max-attempts --retry-interval -n --nonblock --nb --no-wait -E --conflict-exit-code --min-hold --jitter --label --lost-exit-code -s --signal -k --kill-after --max-runtime --on-lost --orphans --foreground --clean-env --backend --prefix --quarantine --replicas --allow-eviction --password-file --api-key-file --ca-file --client-cert --client-key --config -v --verbose -q --quiet -c --command -h --help -V --version' ;;
        status) names='--backend --prefix --quarantine --replicas --allow-eviction --password-file --api-key-file --ca-file --client-cert --client-key --config -l --limit --json --watch -v --verbose -h --help' ;;
        acquire) names='--name -l -j --limit --strict-limit --ttl -w --wait --timeout --max-attempts --retry-interval -n --nonblock --nb --no-wait -E --conflict-exit-code --min-hold --jitter --label --backend --prefix --quarantine --replicas --allow-eviction --password-file --api-key-file --ca-file --client-cert --client-key --config -v --verbose -q --quiet --json --shell -h --help' ;;
        renew) names='--permit --while-pid --backend --prefix --quarantine --replicas --allow-eviction --password-file --api-key-file --ca-file --client-cert --client-key --config -h --help' ;;
        release) names='--permit --force --now --backend --prefix --quarantine --replicas --allow-eviction --password-file --api-key-file --ca-file --client-cert --client-key --config -h --help' ;;
        limit) names='--unpin --backend --prefix --quarantine --replicas --allow-eviction --password-file --api-key-file --ca-file --client-cert --client-key --config -h --help' ;;
        serve) names='--api-key-file --listen --tls-cert --tls-key --client-ca-file --state-dir --max-unauthenticated --max-unauthenticated-per-address --max-clients --max-waiters --max-names --max-pins --log --log-format --config -h --help' ;;
        doctor) names='--name -l -j --limit --strict-limit --ttl -w --wait --timeout --max-attempts --retry-interval -n --nonblock --nb --no-wait -E --conflict-exit-code --min-hold --jitter --label --lost-exit-code -s --signal -k --kill-after --max-runtime --on-lost --orphans --foreground --clean-env -v --verbose -q --quiet --json --backend --prefix --quarantine --replicas --allow-eviction --password-file --api-key-file --ca-file --client-cert --client-key --config -h --help' ;;
        help) names='-h --help' ;;
        completions) names='-h --help' ;;
        man) names='-h --help' ;;
        esac
        _semrun_add "words $names" "$cur"
    elif [[ -n $sub ]]; then
        case $sub in
        status) kind=names ;;
        release) (( operands == 0 )) && kind=names ;;
        limit) (( operands == 0 )) && kind=names ;;
        help) (( operands == 0 )) && kind='words status acquire renew release limit serve doctor help completions man' ;;
        completions) (( operands == 0 )) && kind='words bash elvish fish powershell zsh' ;;
        man) (( operands == 0 )) && kind='words status acquire renew release limit serve doctor help completions man semrun.toml' ;;
        esac
        _semrun_add "$kind" "$cur"
    elif [[ -n $named ]]; then
        [[ $cur == */* ]] && _semrun_add files "$cur" || _semrun_add commands "$cur"
    else
        _semrun_add 'words status acquire renew release limit serve doctor help completions man' "$cur"
        [[ -n ${SEMRUN_NAME-} ]] && _semrun_add commands "$cur"
    fi
    [[ -n $prefix ]] && COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
    return 0
}

complete -F _semrun semrun
