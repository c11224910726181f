//! Completion for zsh.

use std::fmt::Write;

use super::{CliOption, CommandLine, FIND_NAMES, LIST_NAMES, Operands, PLACE, Values};

pub(super) fn script(line: &CommandLine) -> String {
    let mut subcommands = String::new();
    let mut cases = String::new();
    for sub in &line.subcommands {
        let described = format!("{}:{}", sub.name, sub.about);
        let _ = writeln!(subcommands, "        {}", quoted(&described));
        let operands = match &sub.operands {
            Operands::None => String::new(),
            Operands::Names => "                '*:NAME:_semrun_names' \\\n".into(),
            Operands::Name => "                '1:NAME:_semrun_names' \\\n".into(),
            Operands::NameAndNumber => {
                "                '1:NAME:_semrun_names' '2:N:{:}' \\\n".to_owned()
            }
            Operands::OneOf(words) => format!("                '1:: :({})' \\\n", words.join(" ")),
        };
        let _ = writeln!(
            cases,
            "            {})\n                _arguments -s -S \\\n{operands}{}                && ret=0\n                ;;",
            sub.name,
            specs(&sub.options, "                ")
        );
    }
    SCRIPT
        .replace("@LIST@", LIST_NAMES)
        .replace("@FIND@", FIND_NAMES)
        .replace("@PLACE@", &PLACE.join(" "))
        .replace("@SUBCOMMANDS@", &subcommands)
        .replace("@WORDS@", &line.words("|"))
        .replace("@RUN@", &specs(&line.run, "        "))
        .replace("@CASES@", &cases)
}

fn specs(options: &[CliOption], indent: &str) -> String {
    let mut text = String::new();
    for option in options {
        let others = option.names.join(" ");
        let action = match &option.value {
            None => None,
            Some(Values::OneOf(words)) => Some(format!("({})", words.join(" "))),
            Some(Values::Names) => Some("_semrun_names".into()),
            Some(Values::Files) => Some("_files".into()),
            Some(Values::Directories) => Some("_files -/".into()),
            Some(Values::Other) => Some(" ".into()),
        };
        let help = option.help.replace('[', "\\[").replace(']', "\\]").replace(':', "\\:");
        for name in &option.names {
            let joined = if name.starts_with("--") { "=" } else { "+" };
            let spec = match &action {
                None => format!("({others}){name}[{help}]"),
                Some(action) => format!("({others}){name}{joined}[{help}]: :{action}"),
            };
            let _ = writeln!(text, "{indent}{} \\", quoted(&spec));
        }
    }
    text
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

const SCRIPT: &str = r#"#compdef semrun
# Completion of semrun for zsh, printed by `semrun completions zsh`.

_semrun_names() {
    local option
    local -a names place
    place=($semrun_place)
    for option in @PLACE@; do
        (( ${+opt_args[$option]} )) && place+=($option "${(Q)opt_args[$option]//\\:/:}")
    done
    names=(${(f)"$(@LIST@ $place 2>/dev/null </dev/null | @FIND@)"})
    compadd -a names
}

_semrun_subcommands() {
    local -a subcommands
    subcommands=(
@SUBCOMMANDS@    )
    _describe -t commands subcommand subcommands
}

# What ends the options: a subcommand, or the command.
_semrun_first() {
    if (( ${+opt_args[--name]} || semrun_dashes )); then
        _command_names -e
    else
        _semrun_subcommands
        [[ -z $SEMRUN_NAME ]] || _command_names -e
    fi
}

_semrun() {
    local curcontext=$curcontext state state_descr line option ret=1
    local -a semrun_place
    local -i semrun_dashes=0
    typeset -A opt_args
    (( ${words[(i)--]} < CURRENT )) && semrun_dashes=1

    _arguments -s -S -C \
@RUN@        '(-)1: :_semrun_first' \
        '*:: :->rest' \
        && ret=0
    [[ $state == rest ]] || return ret

    # Two dashes may be the command's own.
    if (( ${+opt_args[--name]} )) || [[ $words[1] != (@WORDS@) ]]; then
        _normal && ret=0
        return ret
    fi
    for option in @PLACE@; do
        (( ${+opt_args[$option]} )) && semrun_place+=($option "${(Q)opt_args[$option]//\\:/:}")
    done
    curcontext="${curcontext%:*:*}:semrun-$words[1]:"
    case $words[1] in
@CASES@    esac
    return ret
}

if [[ $funcstack[1] == _semrun ]]; then
    _semrun "$@"
else
    compdef _semrun semrun
fi
"#;
