//! What may have been meant by options and operands that clap refuses.

use std::ffi::OsString;

use clap::builder::PossibleValue;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory};

use super::words::{NEAR, nearest};
use super::{Slip, is_name, switch_with_value};
use crate::cli::Cli;
use crate::printable::printable_os;
use crate::settings::error::Mistake;

/// A command line that clap refuses.
pub(in crate::settings) struct RejectedCommandLine<'a> {
    pub(in crate::settings) error: clap::Error,
    /// What was typed after the name of the program, or of the subcommand.
    pub(in crate::settings) words: &'a [OsString],
    /// The options that there are.
    pub(in crate::settings) command: &'a Command,
    pub(in crate::settings) subcommand: Option<&'a str>,
}

/// What may have been meant by an argument that is not expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hint {
    None,
    /// A word after a subcommand that takes none, or not so many.
    Command,
    NameOfOption(String),
    PermitOfOption(String),
    OperandsOfLimit,
    NoOperandsOfServe,
    NoMoreOperands(String),
    /// `--name` where the name, this one, is an operand, or part of the permit, or has no use.
    NameAsOperand {
        subcommand: String,
        name: String,
    },
    NameInPermit {
        subcommand: String,
        name: String,
    },
    NoNameFor(String),
    Version,
    OtherWord(OtherOption),
    /// The nearest option that there is.
    Long(String),
    Short(char),
    /// It is an option of a run, and not of this subcommand.
    OfARun(String),
    /// It is an option of these, and not of this subcommand, or of a run.
    OfOthers {
        those: Vec<String>,
        not_of: Option<String>,
    },
    /// It is one of the subcommand that comes later.
    GoesAfter(String),
}

/// An option for which other programs have another word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OtherOption {
    /// Its long name here.
    pub(crate) option: &'static str,
    /// Whether the word is for a part of its value.
    pub(crate) part: bool,
}

const fn whole(option: &'static str) -> OtherOption {
    OtherOption { option, part: false }
}

const fn part(option: &'static str) -> OtherOption {
    OtherOption { option, part: true }
}

/// Words that other programs use for an option, and the option here.
const ELSEWHERE: [(&[&str], OtherOption); 17] = [
    (&["lock", "semaphore", "key", "id"], whole("name")),
    (&["permits", "max", "concurrency", "jobs", "count", "capacity"], whole("limit")),
    (&["url", "server", "redis", "host-url"], whole("backend")),
    (&["port", "host", "bind", "address"], part("listen")),
    (&["exec", "run"], whole("command")),
    (&["token", "uuid", "lease"], whole("permit")),
    (&["try", "fail", "no-block"], whole("nonblock")),
    (
        &["host", "hostname", "port", "socket", "user", "username", "db", "database"],
        part("backend"),
    ),
    (&["expire", "expiry", "lease-time", "lifetime"], whole("ttl")),
    (&["grace", "grace-period"], whole("kill-after")),
    (&["splay", "delay", "random-delay"], whole("jitter")),
    (&["retries", "retry", "attempts"], whole("max-attempts")),
    (&["tag", "description", "comment"], whole("label")),
    (&["format", "output"], whole("json")),
    (&["follow", "refresh"], whole("watch")),
    (&["debug", "trace"], whole("verbose")),
    (&["silent"], whole("quiet")),
];

impl RejectedCommandLine<'_> {
    /// What was typed, and what may have been meant.
    pub(in crate::settings) fn explained(self) -> Mistake {
        let context = |kind| match self.error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.as_str()),
            _ => None,
        };
        let argument = context(ContextKind::InvalidArg);
        let value = context(ContextKind::InvalidValue);
        if let Some(slip) = self.one_dash(argument, value) {
            return slip.into();
        }
        let slip = match (self.error.kind(), argument) {
            (ErrorKind::MissingRequiredArgument, _) => self.missing(),
            (ErrorKind::UnknownArgument, Some(word)) => return self.unknown(word),
            (ErrorKind::TooManyValues, Some(option)) => {
                Some(switch_with_value(option.split(' ').next(), value.unwrap_or_default()))
            }
            (ErrorKind::ArgumentConflict, Some(option)) if option.starts_with("--command") => {
                Some(Slip::LineInWords)
            }
            _ => None,
        };
        slip.map_or_else(|| self.error.into(), Mistake::from)
    }

    /// A long option after one dash, which was read as short ones: `-name x`, `-limit 3`.
    fn one_dash(&self, argument: Option<&str>, value: Option<&str>) -> Option<Slip> {
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
        Some(Slip::OneDash(meant.into()))
    }

    /// Something that cannot be left out.
    fn missing(&self) -> Option<Slip> {
        match self.subcommand {
            Some("limit") => Some(Slip::NoNameForLimit),
            Some("completions") => {
                let argument = self.command.get_positionals().next();
                let shells = argument.map(Arg::get_possible_values).unwrap_or_default();
                let shells = shells.iter().map(PossibleValue::get_name).map(str::to_owned);
                Some(Slip::NoShellNamed { shells: shells.collect() })
            }
            Some("release") => Some(Slip::NowWithoutForce),
            _ => None,
        }
    }

    fn unknown(&self, word: &str) -> Mistake {
        if word == "-=" {
            let typed = self.words.iter().filter_map(|word| word.to_str());
            let given = typed
                .filter(|typed| typed.starts_with('-') && !typed.starts_with("--"))
                .find_map(|typed| typed.split_once('='));
            let value = given.map_or("", |(_, value)| value);
            return switch_with_value(given.map(|(switch, _)| switch), value).into();
        }
        if let Some(mistake) = self.value_with_a_dash(word) {
            return mistake;
        }
        let hint = match (word.strip_prefix("--"), self.subcommand) {
            (None, Some(subcommand)) if !word.starts_with('-') => self.operand(subcommand),
            (Some("name"), Some(subcommand)) => self.name(subcommand),
            (Some(long), _) => self.option(long),
            (None, _) => {
                let shorts = self.command.get_arguments().filter_map(Arg::get_short);
                let letter = word.chars().nth(1).unwrap_or_default();
                let mut other = shorts.filter(|one| one.eq_ignore_ascii_case(&letter));
                let has = |argument: &Arg| argument.get_short() == Some(letter);
                let hint = other.next().map(Hint::Short);
                hint.or_else(|| self.of_another(has)).unwrap_or(Hint::None)
            }
        };
        Slip::Unexpected { argument: printable_os(word.as_ref()), hint }.into()
    }

    /// A value that looks like an option: `-w -5`.
    fn value_with_a_dash(&self, word: &str) -> Option<Mistake> {
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
            Some(reason) => Some(reason.into()),
            None if word.starts_with("--") => None,
            None => {
                let value = printable_os(word.as_ref());
                Some(Slip::ValueLikeOption { option: long.into(), value }.into())
            }
        }
    }

    /// A word where a subcommand takes none.
    fn operand(&self, subcommand: &str) -> Hint {
        match subcommand {
            "acquire" if self.words.iter().any(is_name) => Hint::Command,
            "acquire" | "doctor" => Hint::NameOfOption(subcommand.into()),
            "renew" | "release" => Hint::PermitOfOption(subcommand.into()),
            "limit" => Hint::OperandsOfLimit,
            "serve" => Hint::NoOperandsOfServe,
            _ => Hint::NoMoreOperands(subcommand.into()),
        }
    }

    /// `--name` where there is no such option.
    fn name(&self, subcommand: &str) -> Hint {
        let mut words = self.words.iter().filter_map(|word| word.to_str());
        let value = words.find_map(|word| match word.strip_prefix("--name") {
            Some("") => Some(None),
            Some(value) => value.strip_prefix('=').map(Some),
            None => None,
        });
        let value = value.flatten().or_else(|| words.next()).unwrap_or("NAME");
        let (subcommand, name) = (subcommand.to_owned(), printable_os(value.as_ref()));
        match &*subcommand {
            "status" | "limit" => Hint::NameAsOperand { subcommand, name },
            "renew" | "release" => Hint::NameInPermit { subcommand, name },
            _ => Hint::NoNameFor(subcommand),
        }
    }

    /// A long option that this command lacks.
    fn option(&self, long: &str) -> Hint {
        let has = |argument: &Arg| {
            argument.get_long_and_visible_aliases().is_some_and(|names| names.contains(&long))
        };
        if let Some(hint) = self.of_another(has) {
            return hint;
        }
        if long == "version" {
            return Hint::Version;
        }
        let there = |option: &str| {
            self.command.get_arguments().any(|argument| argument.get_long() == Some(option))
        };
        let mut elsewhere = ELSEWHERE.iter().filter(|(words, _)| words.contains(&long));
        if let Some((_, meant)) = elsewhere.find(|(_, meant)| there(meant.option)) {
            return Hint::OtherWord(*meant);
        }
        let names = self.command.get_arguments().filter_map(Arg::get_long_and_visible_aliases);
        let nearest = nearest(long, names.flatten(), NEAR);
        nearest.map_or(Hint::None, |one| Hint::Long(one.into()))
    }

    /// An option that only other commands have.
    fn of_another(&self, has: impl Fn(&Arg) -> bool) -> Option<Hint> {
        let all = Cli::command();
        let in_run = all.get_arguments().any(&has);
        let subcommands = all.get_subcommands().filter(|sub| sub.get_arguments().any(&has));
        let names: Vec<_> = subcommands.map(Command::get_name).collect();
        if in_run && let Some(subcommand) = self.subcommand {
            return Some(Hint::OfARun(subcommand.into()));
        }
        if names.is_empty() {
            return None;
        }
        if self.subcommand.is_none()
            && let Some(typed) =
                self.words.iter().find(|word| names.iter().any(|name| *word == name))
        {
            return Some(Hint::GoesAfter(printable_os(typed)));
        }
        let those = names.iter().copied().map(str::to_owned).collect();
        Some(Hint::OfOthers { those, not_of: self.subcommand.map(str::to_owned) })
    }
}
