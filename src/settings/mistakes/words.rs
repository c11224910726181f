//! What may have been meant by a wrong word where a command or a subcommand should be.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{Command, CommandFactory};
use rustix::fs::{Access, access};

use super::{Slip, is_name};
use crate::cli::{Cli, RUNS};
use crate::printable::printable_os;

/// How similar a word has to be to a known one.
pub(super) const NEAR: f64 = 0.8;

/// What another program's word for a subcommand means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OtherCommand {
    Status,
    Watch,
    Revoke,
    Limit,
    Version,
    Release,
    Acquire,
    Doctor,
}

/// What a word in the place of a subcommand may mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NearCommand {
    Other(OtherCommand),
    /// This subcommand, with one slip.
    Near(String),
}

/// A command line without the name of a semaphore. Its words are printable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Nameless {
    /// Nor a command.
    All,
    /// `--name` came after this command.
    NamedLater(String),
    /// There is this command, which may be another program's word for a subcommand.
    Program(String, Option<OtherCommand>),
    /// No program has this word, which stands for a run.
    Run(String),
    /// No program has this word, which may be the name, with the command after it.
    Word { word: String, name: Option<String>, command: Option<String> },
}

/// Words that other programs use for a subcommand.
const OTHER_WORDS: [(&[&str], OtherCommand); 8] = [
    (&["list", "ls", "ps", "show", "info", "stats", "holders"], OtherCommand::Status),
    (&["watch", "top"], OtherCommand::Watch),
    (&["kill", "revoke", "force-release", "steal"], OtherCommand::Revoke),
    (&["pin", "unpin", "resize", "set-limit"], OtherCommand::Limit),
    (&["version"], OtherCommand::Version),
    (&["unlock", "free"], OtherCommand::Release),
    (&["take", "get"], OtherCommand::Acquire),
    (&["check", "test"], OtherCommand::Doctor),
];

/// A word in the place of a command that is nearly a subcommand, and no program.
pub(in crate::settings) fn near_subcommand(word: &OsStr) -> Option<Slip> {
    if is_program(word) {
        return None;
    }
    let meant = match other_word(word) {
        Some(meant) => NearCommand::Other(meant),
        None => NearCommand::Near(nearest_subcommand(word.to_str()?)?),
    };
    Some(Slip::NearSubcommand { word: printable_os(word), meant })
}

/// The subcommand for which other programs have this word.
fn other_word(word: &OsStr) -> Option<OtherCommand> {
    let mut known = OTHER_WORDS.iter();
    known.find(|(words, _)| words.iter().any(|known| word == *known)).map(|(_, meant)| *meant)
}

/// An option that begins with another dash than the hyphen, as editors and web pages make of it.
pub(in crate::settings) fn other_dash(word: &OsStr) -> Option<Slip> {
    let text = word.to_str()?;
    let dash = text
        .chars()
        .next()
        .filter(|c| "\u{2010}\u{2011}\u{2012}\u{2013}\u{2014}\u{2015}\u{2212}".contains(*c))?;
    if is_program(word) {
        return None;
    }
    let option = printable_os(text.trim_start_matches([dash, '-']).as_ref());
    Some(Slip::OtherDash { dash, option })
}

/// There is no such subcommand.
pub(crate) fn no_subcommand(word: &str) -> Slip {
    let all = Cli::command();
    Slip::NoSubcommand {
        word: printable_os(word.as_ref()),
        near: nearest_subcommand(word),
        all: all.get_subcommands().map(|one| one.get_name().to_owned()).collect(),
    }
}

fn nearest_subcommand(word: &str) -> Option<String> {
    let all = Cli::command();
    let names = all.get_subcommands().map(Command::get_name);
    nearest(word, names, NEAR).map(str::to_owned)
}

/// A command, but no name of a semaphore.
pub(in crate::settings) fn nameless(operands: &[OsString]) -> Nameless {
    let Some(first) = operands.first() else { return Nameless::All };
    let shown = printable_os(first);
    let named_later = operands[1..].iter().any(is_name);
    if is_program(first) && named_later {
        return Nameless::NamedLater(shown);
    }
    if is_program(first) {
        return Nameless::Program(shown, other_word(first));
    }
    let runs = RUNS.iter().any(|word| first == word);
    if named_later || runs && operands.len() == 1 {
        return Nameless::Run(shown);
    }
    // The words after two dashes are a command; others may be secrets.
    let (name, command) = match operands.iter().position(|word| word == "--") {
        Some(at @ 1..) => (Some(&operands[at - 1]), operands.get(at + 1)),
        _ => (Some(first).filter(|_| !runs), None),
    };
    let [name, command] = [name, command].map(|word| word.map(|word| printable_os(word)));
    Nameless::Word { word: shown, name, command }
}

/// The word that is most like another, if one is near enough.
pub(in crate::settings) fn nearest<'a>(
    word: &str,
    known: impl Iterator<Item = &'a str>,
    near: f64,
) -> Option<&'a str> {
    // Names of options have a '-' where those of variables have a '_'.
    let dashed = |text: &str| text.replace('_', "-");
    let word = dashed(word);
    let likeness = known.map(|one| (strsim::jaro_winkler(&word, &dashed(one)), one));
    let nearest = likeness.max_by(|one, other| one.0.total_cmp(&other.0));
    nearest.filter(|(likeness, _)| *likeness >= near).map(|(_, one)| one)
}

/// Whether execvp(3) would find it.
pub(super) fn is_program(word: &OsStr) -> bool {
    let executable = |file: &PathBuf| file.is_file() && access(file, Access::EXEC_OK).is_ok();
    if word.as_encoded_bytes().contains(&b'/') {
        return executable(&word.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    std::env::split_paths(&path).map(|directory| directory.join(word)).any(|file| executable(&file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_near_only_if_one_slip_made_it() {
        for (typed, meant) in [
            ("statsu", "status"),
            ("aquire", "acquire"),
            ("relase", "release"),
            ("docter", "doctor"),
        ] {
            assert_eq!(nearest_subcommand(typed).as_deref(), Some(meant));
        }
        for other in ["deploy", "backup.sh", "rsync", "pg_dump", "make"] {
            assert_eq!(nearest_subcommand(other), None);
        }
    }

    #[test]
    fn a_dash_that_an_editor_made_is_told_from_a_hyphen() {
        let meant = |word: &str| other_dash(word.as_ref());
        let dashed = |dash, option: &str| Some(Slip::OtherDash { dash, option: option.into() });
        assert_eq!(meant("\u{2014}name"), dashed('\u{2014}', "name"));
        assert_eq!(meant("\u{2212}n"), dashed('\u{2212}', "n"));
        assert_eq!(meant("\u{2013}-name"), dashed('\u{2013}', "name"));
        assert_eq!(meant("-name"), None);
    }
}
