//! Suggestions for a wrong command line, by the kind of the mistake, in words of this program. No
//! argument of a command is repeated, for it may be a secret.

mod urls;
mod words;

use std::ffi::{OsStr, OsString};

use clap::builder::PossibleValue;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command, CommandFactory};

pub(super) use self::urls::url;
pub(crate) use self::words::no_subcommand;
use self::words::{NEAR, is_program};
pub(super) use self::words::{nameless, near_subcommand, nearest, other_dash};
use super::error::{one_line, printable};
use crate::cli::Cli;

/// A command line that clap refuses.
pub(super) struct RejectedCommandLine<'a> {
    pub(super) error: &'a clap::Error,
    /// What was typed after the name of the program, or of the subcommand.
    pub(super) words: &'a [OsString],
    /// The options that there are.
    pub(super) command: &'a Command,
    pub(super) subcommand: Option<&'a str>,
}

/// Words that other programs use for an option, and how that is written here.
const ELSEWHERE: [(&[&str], &str); 17] = [
    (&["lock", "semaphore", "key", "id"], "--name NAME"),
    (&["permits", "max", "concurrency", "jobs", "count", "capacity"], "--limit N"),
    (&["url", "server", "redis", "host-url"], "--backend URL"),
    (&["port", "host", "bind", "address"], "--listen HOST:PORT, such as 127.0.0.1:3202"),
    (&["exec", "run"], "--command STR, or the command after the options"),
    (&["token", "uuid", "lease"], "--permit PERMIT"),
    (&["try", "fail", "no-block"], "--nonblock"),
    (
        &["host", "hostname", "port", "socket", "user", "username", "db", "database"],
        "--backend URL, such as redis://USER@HOST:PORT/DB",
    ),
    (&["expire", "expiry", "lease-time", "lifetime"], "--ttl D"),
    (&["grace", "grace-period"], "--kill-after D"),
    (&["splay", "delay", "random-delay"], "--jitter D"),
    (&["retries", "retry", "attempts"], "--max-attempts N"),
    (&["tag", "description", "comment"], "--label TEXT"),
    (&["format", "output"], "--json"),
    (&["follow", "refresh"], "--watch"),
    (&["debug", "trace"], "--verbose"),
    (&["silent"], "--quiet"),
];

impl RejectedCommandLine<'_> {
    /// One sentence: what was typed, and what may have been meant.
    pub(super) fn explained(&self) -> String {
        let context = |kind| match self.error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.as_str()),
            _ => None,
        };
        let argument = context(ContextKind::InvalidArg);
        if let Some(sentence) = self.one_dash(argument, context(ContextKind::InvalidValue)) {
            return sentence;
        }
        match (self.error.kind(), argument) {
            (ErrorKind::MissingRequiredArgument, _) => self.missing(),
            (ErrorKind::UnknownArgument, Some(word)) => self.unknown(word),
            (ErrorKind::TooManyValues, Some(option)) => {
                let value = context(ContextKind::InvalidValue).unwrap_or_default();
                no_value(option.split(' ').next().unwrap_or_default(), value)
            }
            (ErrorKind::ArgumentConflict, Some(option)) if option.starts_with("--command") => {
                "-c takes the whole line as one word: quote it, as in -c 'echo hi'".into()
            }
            _ => one_line(self.error),
        }
    }

    /// A long option after one dash, which was read as short ones: `-name x`, `-limit 3`.
    fn one_dash(&self, argument: Option<&str>, value: Option<&str>) -> Option<String> {
        let of_error = |word: &str| match self.error.kind() {
            ErrorKind::UnknownArgument => {
                let letter = argument.and_then(|word| word.strip_prefix('-'));
                letter.is_some_and(|letter| word.contains(letter))
            }
            ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
                value.is_some_and(|value| word.get(1..) == Some(value))
            }
            ErrorKind::ArgumentConflict => word.starts_with("command"),
            _ => false,
        };
        let names = self.command.get_arguments().filter_map(Arg::get_long_and_visible_aliases);
        let names: Vec<_> = names.flatten().filter(|name| name.len() > 2).collect();
        // What comes later belongs to the command.
        let mut words = self.words.iter().filter_map(|word| word.to_str()?.strip_prefix('-'));
        let typed = words.find(|word| !word.starts_with('-') && of_error(word))?;
        let typed = typed.split('=').next()?;
        let meant = names.into_iter().find(|name| *name == typed)?;
        Some(format!("unexpected argument '-{meant}'; did you mean '--{meant}'?"))
    }

    /// Something that cannot be left out.
    fn missing(&self) -> String {
        match self.subcommand {
            Some("limit") => "no semaphore named; the name is an operand: semrun limit NAME".into(),
            Some("completions") => {
                let argument = self.command.get_positionals().next();
                let shells = argument.map(Arg::get_possible_values).unwrap_or_default();
                let shells: Vec<_> = shells.iter().map(PossibleValue::get_name).collect();
                format!("no shell named; it is one of {}", shells.join(", "))
            }
            Some("release") => "--now goes with --force: semrun release --force --now NAME".into(),
            _ => one_line(self.error),
        }
    }

    fn unknown(&self, word: &str) -> String {
        let shown = printable(word.as_ref());
        if word == "-=" {
            let typed = self.words.iter().filter_map(|word| word.to_str());
            let (option, value) = typed
                .filter(|typed| typed.starts_with('-') && !typed.starts_with("--"))
                .find_map(|typed| typed.split_once('='))
                .unwrap_or(("that option", ""));
            return no_value(option, value);
        }
        if let Some(sentence) = self.value_with_a_dash(word) {
            return sentence;
        }
        match (word.strip_prefix("--"), self.subcommand) {
            (None, Some(subcommand)) if !word.starts_with('-') => {
                format!("unexpected argument '{shown}'{}", self.operand(subcommand, &shown))
            }
            (Some("name"), Some(subcommand)) => {
                format!("unexpected argument '{shown}'{}", self.name(subcommand))
            }
            (Some(long), _) => format!("unexpected argument '{shown}'{}", self.option(long)),
            (None, _) => {
                let shorts = self.command.get_arguments().filter_map(Arg::get_short);
                let letter = word.chars().nth(1).unwrap_or_default();
                let mut other = shorts.filter(|one| one.eq_ignore_ascii_case(&letter));
                let hint = other.next().map(|one| format!("; did you mean '-{one}'?"));
                let has = |argument: &Arg| argument.get_short() == Some(letter);
                let elsewhere = || self.of_another(&shown, has);
                let hint = hint.or_else(elsewhere).unwrap_or_default();
                format!("unexpected argument '{shown}'{hint}")
            }
        }
    }

    /// A value that looks like an option: `-w -5`.
    fn value_with_a_dash(&self, word: &str) -> Option<String> {
        let at = self.words.iter().position(|one| one == word)?;
        let before = self.words[..at].last()?.to_str()?;
        let option = self.command.get_arguments().find(|argument| {
            let long = before.strip_prefix("--");
            let names = argument.get_long_and_visible_aliases().unwrap_or_default();
            let shorts = argument.get_short_and_visible_aliases().unwrap_or_default();
            let short = before.strip_prefix('-').and_then(|bundle| bundle.chars().last());
            argument.get_action().takes_values()
                && match long {
                    Some(long) => names.contains(&long),
                    None => short.is_some_and(|short| shorts.contains(&short)),
                }
        })?;
        let long = option.get_long()?;
        let joined = format!("--{long}={word}");
        let parsed = self.command.clone().try_get_matches_from(["semrun", joined.as_str()]);
        let reason = parsed.err().filter(|error| {
            matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue)
        });
        // Unknown long options are no values.
        match reason {
            Some(reason) => Some(one_line(&reason)),
            None if word.starts_with("--") => None,
            None => {
                Some(format!("'{word}' looks like an option; as a value it is written {joined}"))
            }
        }
    }

    /// A word where a subcommand takes none.
    fn operand(&self, subcommand: &str, shown: &str) -> String {
        let named = self.words.iter().any(|word| {
            word.to_str().is_some_and(|word| word == "--name" || word.starts_with("--name="))
        });
        match subcommand {
            "acquire" if named => {
                format!(": acquire runs no command; semrun --name NAME -- {shown} does")
            }
            "acquire" | "doctor" => {
                format!("; the semaphore is named with --name: semrun {subcommand} --name {shown}")
            }
            "renew" | "release" => {
                format!("; the permit goes with --permit: semrun {subcommand} --permit UUID@NAME")
            }
            "limit" => ": limit takes a NAME and at most one number".into(),
            "serve" => ": serve takes no operands".into(),
            _ => format!(": {subcommand} takes no more operands"),
        }
    }

    /// `--name` where there is no such option.
    fn name(&self, subcommand: &str) -> String {
        let mut words = self.words.iter().filter_map(|word| word.to_str());
        let value = words.find_map(|word| match word.strip_prefix("--name") {
            Some("") => Some(None),
            Some(value) => value.strip_prefix('=').map(Some),
            None => None,
        });
        let value = value.flatten().or_else(|| words.next()).unwrap_or("NAME");
        let value = printable(value.as_ref());
        match subcommand {
            "status" | "limit" => {
                format!("; the name is an operand: semrun {subcommand} {value}")
            }
            "renew" | "release" => {
                format!(
                    "; the name is part of the permit: semrun {subcommand} --permit UUID@{value}"
                )
            }
            _ => format!(": {subcommand} is not about one semaphore"),
        }
    }

    /// A long option that this command lacks.
    fn option(&self, long: &str) -> String {
        let has = |argument: &Arg| {
            argument.get_long_and_visible_aliases().is_some_and(|names| names.contains(&long))
        };
        if let Some(hint) = self.of_another(&format!("--{long}"), has) {
            return hint;
        }
        if long == "version" {
            return "; that is semrun --version".into();
        }
        let there = |form: &str| {
            let option = form.split([' ', ',']).next().unwrap_or_default();
            let mut arguments = self.command.get_arguments();
            arguments.any(|argument| argument.get_long() == option.strip_prefix("--"))
        };
        let mut elsewhere = ELSEWHERE.iter().filter(|(words, _)| words.contains(&long));
        if let Some((_, form)) = elsewhere.find(|(_, form)| there(form)) {
            return format!("; that is {form}");
        }
        let names = self.command.get_arguments().filter_map(Arg::get_long_and_visible_aliases);
        let nearest = nearest(long, names.flatten(), NEAR);
        nearest.map(|one| format!("; did you mean '--{one}'?")).unwrap_or_default()
    }

    /// An option that only other commands have.
    fn of_another(&self, option: &str, has: impl Fn(&Arg) -> bool) -> Option<String> {
        let all = Cli::command();
        let in_run = all.get_arguments().any(&has);
        let subcommands = all.get_subcommands().filter(|sub| sub.get_arguments().any(&has));
        let names: Vec<_> = subcommands.map(Command::get_name).collect();
        match self.subcommand {
            Some(subcommand) if in_run => Some(format!(
                ": that is an option of a run (semrun --name NAME -- COMMAND), not of {subcommand}"
            )),
            _ if names.is_empty() => None,
            Some(subcommand) => {
                Some(format!(": that is an option of {}, not of {subcommand}", listed(&names)))
            }
            None => {
                let typed = self.words.iter().find(|word| names.iter().any(|name| *word == name));
                Some(match typed {
                    Some(typed) => {
                        let (typed, option) = (printable(typed), printable(option.as_ref()));
                        format!(
                            "; it goes after '{typed}': semrun {typed} {option}; try 'semrun {typed} --help'"
                        )
                    }
                    None => format!(": that is an option of {}, and goes after it", listed(&names)),
                })
            }
        }
    }
}

/// A switch that was given a value.
fn no_value(option: &str, value: &str) -> String {
    let (option, value) = (printable(option.as_ref()), printable(value.as_ref()));
    let waits = ["-n", "--nonblock", "--nb", "--no-wait"].contains(&option.as_str());
    let number = value.parse::<u32>().is_ok();
    match (waits, number) {
        (true, true) => format!(
            "{option} takes no value, and '{value}' came with it; {option} is \"do not wait\", and a limit \
             of {value} permits is -l {value}"
        ),
        _ => format!("{option} takes no value, and '{value}' came with it"),
    }
}

/// A number in the place of the command, right after a switch: `-n 3`.
pub(super) fn number_after_a_switch(
    command: &Command,
    before: &OsStr,
    operand: &OsStr,
) -> Option<String> {
    let value = operand.to_str().filter(|text| text.parse::<u32>().is_ok())?;
    let before = before.to_str()?.strip_prefix('-')?;
    let switch = command.get_arguments().find(|argument| {
        let longs = argument.get_long_and_visible_aliases().unwrap_or_default();
        let shorts = argument.get_short_and_visible_aliases().unwrap_or_default();
        matches!(argument.get_action(), ArgAction::SetTrue)
            && match before.strip_prefix('-') {
                Some(long) => longs.contains(&long),
                None => before.chars().last().is_some_and(|short| shorts.contains(&short)),
            }
    })?;
    if is_program(operand) {
        return None;
    }
    Some(no_value(&short_or_long(switch), value))
}

/// How messages name an option.
fn short_or_long(argument: &Arg) -> String {
    match (argument.get_short(), argument.get_long()) {
        (Some(short), _) => format!("-{short}"),
        (None, long) => format!("--{}", long.unwrap_or_default()),
    }
}

/// An option before a subcommand that does not take it.
pub(super) fn before_a_subcommand(name: &str, option: &str, has: bool) -> String {
    if name == "serve" {
        return "a server has no backend; of those options it takes --api-key-file and --config"
            .into();
    }
    let all = Cli::command();
    let argument = all.get_arguments().find(|argument| argument.get_long() == Some(option));
    let short = argument.and_then(Arg::get_short).map(|short| format!("-{short}, "));
    let shown = format!("'{}--{option}'", short.unwrap_or_default());
    if has {
        return format!(
            "{shown} goes after '{name}': semrun {name} --{option} …; before '{name}' it has no effect"
        );
    }
    format!(
        "{shown} does nothing for '{name}'; before '{name}' only options that choose the backend \
         count, such as --backend"
    )
}

/// `a, b or c`
fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).into(),
        [all @ .., last] => format!("{} or {last}", all.join(", ")),
    }
}
