//! What may have been meant by a wrong command line, by the kind of the mistake. No argument of a
//! command is repeated, for it may be a secret. `cli/messages/slips.rs` has the words.

mod options;
mod urls;
mod words;

use std::ffi::{OsStr, OsString};

use clap::{Arg, ArgAction, Command, CommandFactory};

pub(super) use self::options::RejectedCommandLine;
pub(crate) use self::options::{Hint, OtherOption};
pub(crate) use self::urls::UrlMeant;
pub(super) use self::urls::url;
use self::words::is_program;
pub(crate) use self::words::{Nameless, NearCommand, OtherCommand, no_subcommand};
pub(super) use self::words::{nameless, near_subcommand, nearest, other_dash};
use crate::cli::Cli;
use crate::printable::printable_os;

/// A command line that looks like one that would be right. All that is repeated of it is printable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Slip {
    /// This long option came after one dash.
    OneDash(String),
    /// The first character of an option is a dash, but no hyphen.
    OtherDash {
        dash: char,
        option: String,
    },
    /// Something that cannot be left out is not there.
    NoNameForLimit,
    NoShellNamed {
        shells: Vec<String>,
    },
    NowWithoutForce,
    /// A switch was given a value. None: it is not known which switch.
    SwitchWithValue {
        switch: Option<String>,
        value: String,
        /// Whether a limit may have been meant.
        limit: bool,
    },
    /// A value that begins with a dash, after an option that takes one.
    ValueLikeOption {
        option: String,
        value: String,
    },
    /// `-c` with a line of several words.
    LineInWords,
    Unexpected {
        argument: String,
        hint: Hint,
    },
    /// An option before a subcommand that does not take it, or not there.
    BeforeServe,
    BeforeSubcommand {
        subcommand: String,
        option: String,
        short: Option<char>,
        takes_it_after: bool,
    },
    /// Neither a subcommand nor a program.
    NearSubcommand {
        word: String,
        meant: NearCommand,
    },
    NoSubcommand {
        word: String,
        near: Option<String>,
        all: Vec<String>,
    },
    Nameless(Nameless),
}

impl Slip {
    /// Whether its words lead to a page of help.
    pub(super) fn names_help(&self) -> bool {
        matches!(self, Self::Unexpected { hint: Hint::GoesAfter(_), .. })
    }
}

/// A switch that was given a value.
fn switch_with_value(switch: Option<&str>, value: &str) -> Slip {
    let waits = ["-n", "--nonblock", "--nb", "--no-wait"];
    Slip::SwitchWithValue {
        limit: switch.is_some_and(|switch| waits.contains(&switch)) && value.parse::<u32>().is_ok(),
        switch: switch.map(|switch| printable_os(switch.as_ref())),
        value: printable_os(value.as_ref()),
    }
}

/// A number in the place of the command, right after a switch: `-n 3`.
pub(super) fn number_after_a_switch(
    command: &Command,
    before: &OsStr,
    operand: &OsStr,
) -> Option<Slip> {
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
    Some(switch_with_value(Some(&short_or_long(switch)), value))
}

/// How messages name an option.
fn short_or_long(argument: &Arg) -> String {
    match (argument.get_short(), argument.get_long()) {
        (Some(short), _) => format!("-{short}"),
        (None, long) => format!("--{}", long.unwrap_or_default()),
    }
}

/// An option before a subcommand that does not take it, or only after its name.
pub(super) fn before_a_subcommand(name: &str, option: &str, takes_it_after: bool) -> Slip {
    if name == "serve" {
        return Slip::BeforeServe;
    }
    let all = Cli::command();
    let argument = all.get_arguments().find(|argument| argument.get_long() == Some(option));
    Slip::BeforeSubcommand {
        subcommand: name.into(),
        option: option.into(),
        short: argument.and_then(Arg::get_short),
        takes_it_after,
    }
}

/// Whether a semaphore is named in these words.
fn is_name(word: &OsString) -> bool {
    word.to_str().is_some_and(|word| word == "--name" || word.starts_with("--name="))
}
