//! Completion for fish.

use std::fmt::Write;

use super::{CliOption, CommandLine, FIND_NAMES, LIST_NAMES, Operands, PLACE, Values};

pub(super) fn script(line: &CommandLine) -> String {
    let mut rules = String::new();
    for option in &line.run {
        rule(&mut rules, "first named", option);
    }
    for sub in &line.subcommands {
        let about = quoted(&sub.about);
        let _ =
            writeln!(rules, "complete -c semrun -n '__semrun_at first' -a {} -d {about}", sub.name);
        for option in &sub.options {
            rule(&mut rules, &sub.name, option);
        }
        let words = match &sub.operands {
            Operands::None => continue,
            Operands::Names | Operands::Name | Operands::NameAndNumber => "(__semrun_names)".into(),
            Operands::OneOf(words) => words.join(" "),
        };
        let _ = writeln!(rules, "complete -c semrun -n '__semrun_at {}' -a '{words}'", sub.name);
    }
    let with_value = line.all_options().filter(|option| option.value.is_some());
    let mut with_value: Vec<_> = with_value.flat_map(|option| option.names.clone()).collect();
    with_value.sort_unstable();
    with_value.dedup();
    SCRIPT
        .replace("@LIST@", LIST_NAMES)
        .replace("@FIND@", FIND_NAMES)
        .replace("@PLACE@", &PLACE.join(" "))
        .replace("@VALUED@", &with_value.join(" "))
        .replace("@SUBCOMMANDS@", &line.words(" "))
        .replace("@RULES@", &rules)
}

fn rule(text: &mut String, place: &str, option: &CliOption) {
    let mut names = String::new();
    for name in &option.names {
        let _ = match name.strip_prefix("--") {
            Some(long) => write!(names, " -l {long}"),
            None => write!(names, " -s {}", name.trim_start_matches('-')),
        };
    }
    let value = match &option.value {
        None => String::new(),
        Some(Values::OneOf(words)) => format!(" -xa '{}'", words.join(" ")),
        Some(Values::Names) => " -xa '(__semrun_names)'".into(),
        Some(Values::Files) => " -rF".into(),
        Some(Values::Directories) => " -xa '(__fish_complete_directories)'".into(),
        Some(Values::Other) => " -x".into(),
    };
    let help = quoted(&option.help);
    let _ = writeln!(text, "complete -c semrun -n '__semrun_at {place}'{names}{value} -d {help}");
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

const SCRIPT: &str = r#"# Completion of semrun for fish, printed by `semrun completions fish`.

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
                contains -- $token @VALUED@; and set skip yes
            case '-?*'
                set -l letters (string split '' -- (string sub -s 2 -- $token))
                for number in (seq (count $letters))
                    if contains -- -$letters[$number] @VALUED@
                        test $number = (count $letters); and set skip yes
                        break
                    end
                end
            case '*'
                test -n "$sub"; and continue
                if test $named = first; and contains -- $token @SUBCOMMANDS@
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
        contains -- $option[1] @PLACE@; or continue
        if set -q option[2]
            set -a place $tokens[$at]
        else
            set -a place $tokens[$at] $tokens[(math $at + 1)]
        end
    end
    @LIST@ $place 2>/dev/null </dev/null | @FIND@
end

complete -c semrun -e
complete -c semrun -f
complete -c semrun -n '__semrun_at command named' -a '(__semrun_command)'
complete -c semrun -n 'set -q SEMRUN_NAME; and __semrun_at first' -a '(__semrun_command)'
@RULES@"#;
