//! Completion for bash 4 and later, with bash-completion or without it.

use std::fmt::Write;

use super::{CliOption, CommandLine, FIND_NAMES, LIST_NAMES, Operands, PLACE, Values};

pub(super) fn script(line: &CommandLine) -> String {
    let mut values = Vec::new();
    for option in line.all_options() {
        let Some(value) = &option.value else { continue };
        let kind = match value {
            Values::OneOf(words) => format!("words {}", words.join(" ")),
            Values::Names => "names".into(),
            Values::Files => "files".into(),
            Values::Directories => "directories".into(),
            Values::Other => "other".into(),
        };
        let row = format!("        {}) kind='{kind}' ;;\n", option.names.join("|"));
        if !values.contains(&row) {
            values.push(row);
        }
    }
    let all_names = |options: &[CliOption]| {
        let names: Vec<_> = options.iter().flat_map(|option| option.names.clone()).collect();
        names.join(" ")
    };
    let mut options = format!("        '') names='{}' ;;\n", all_names(&line.run));
    let mut operands = String::new();
    for sub in &line.subcommands {
        let _ = writeln!(options, "        {}) names='{}' ;;", sub.name, all_names(&sub.options));
        let kind = match &sub.operands {
            Operands::None => continue,
            Operands::Names => "kind=names".into(),
            Operands::Name | Operands::NameAndNumber => "(( operands == 0 )) && kind=names".into(),
            Operands::OneOf(words) => {
                format!("(( operands == 0 )) && kind='words {}'", words.join(" "))
            }
        };
        let _ = writeln!(operands, "        {}) {kind} ;;", sub.name);
    }
    SCRIPT
        .replace("@LIST@", LIST_NAMES)
        .replace("@FIND@", FIND_NAMES)
        .replace("@PLACE@", &PLACE.join("|"))
        .replace("@VALUES@", &values.concat())
        .replace("@OPTIONS@", &options)
        .replace("@OPERANDS@", &operands)
        .replace("@SUBCOMMANDS@", &line.words(" "))
        .replace("@SUBCOMMAND@", &line.words("|"))
}

const SCRIPT: &str = r#"# Completion of semrun for bash, printed by `semrun completions bash`.

# Sets `kind` to what follows an option; fails for one that takes no value.
_semrun_value() {
    case $1 in
@VALUES@        *) kind=; return 1 ;;
    esac
}

# Adds what begins with $2 and is of the kind $1.
_semrun_add() {
    local word
    local -a found=()
    case $1 in
        'words '*) mapfile -t found < <(compgen -W "${1#words }" -- "$2") ;;
        names)
            mapfile -t found < <(@LIST@ "${place[@]}" 2>/dev/null </dev/null | @FIND@)
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
            case $option in @PLACE@) place+=("$option" "$word") ;; esac
            option=
            continue
        fi
        case $word in
            --) [[ -z $sub ]] && at=$(( i + 1 )) && break ;;
            --*=*)
                case ${word%%=*} in @PLACE@) place+=("$word") ;; --name) named=1 ;; esac
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
                    @SUBCOMMAND@) [[ -z $named ]] && sub=$word && continue ;;
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
@OPTIONS@        esac
        _semrun_add "words $names" "$cur"
    elif [[ -n $sub ]]; then
        case $sub in
@OPERANDS@        esac
        _semrun_add "$kind" "$cur"
    elif [[ -n $named ]]; then
        [[ $cur == */* ]] && _semrun_add files "$cur" || _semrun_add commands "$cur"
    else
        _semrun_add 'words @SUBCOMMANDS@' "$cur"
        [[ -n ${SEMRUN_NAME-} ]] && _semrun_add commands "$cur"
    fi
    [[ -n $prefix ]] && COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
    return 0
}

complete -F _semrun semrun
"#;
