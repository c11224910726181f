//! Suggestions for a wrong word where a command or a subcommand should be.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{Command, CommandFactory};
use rustix::fs::{Access, access};

use super::listed;
use crate::cli::Cli;
use crate::cli::messages::RUNS;
use crate::settings::error::printable;

/// How similar a word has to be to a known one.
pub(super) const NEAR: f64 = 0.8;

/// Words that other programs use for a subcommand.
const OTHER_WORDS: [(&[&str], &str); 8] = [
    (&["list", "ls", "ps", "show", "info", "stats", "holders"], "semrun status"),
    (&["watch", "top"], "semrun status --watch"),
    (&["kill", "revoke", "force-release", "steal"], "semrun release --force NAME"),
    (&["pin", "unpin", "resize", "set-limit"], "semrun limit NAME"),
    (&["version"], "semrun --version"),
    (&["unlock", "free"], "semrun release"),
    (&["take", "get"], "semrun acquire --name NAME"),
    (&["check", "test"], "semrun doctor"),
];

/// A word in the place of a command that is nearly a subcommand, and no program.
pub(in crate::settings) fn near_subcommand(word: &OsStr) -> Option<String> {
    if is_program(word) {
        return None;
    }
    let near = match other_word(word) {
        Some(meant) => meant.to_owned(),
        None => format!("semrun {}", nearest_subcommand(word.to_str()?)?),
    };
    let word = printable(word);
    Some(format!(
        "no subcommand '{word}', and no such program in PATH; did you mean '{near}'? (a command of that \
         name: semrun --name NAME -- {word})"
    ))
}

/// The subcommand for which other programs have this word.
fn other_word(word: &OsStr) -> Option<&'static str> {
    let mut known = OTHER_WORDS.iter();
    known.find(|(words, _)| words.iter().any(|known| word == *known)).map(|(_, meant)| *meant)
}

/// An option that begins with another dash than the hyphen, as editors and web pages make of it.
pub(in crate::settings) fn other_dash(word: &OsStr) -> Option<String> {
    let text = word.to_str()?;
    let dash = text
        .chars()
        .next()
        .filter(|c| "\u{2010}\u{2011}\u{2012}\u{2013}\u{2014}\u{2015}\u{2212}".contains(*c))?;
    if is_program(word) {
        return None;
    }
    let rest = printable(text.trim_start_matches([dash, '-']).as_ref());
    let meant = if rest.chars().nth(1).is_some() { "--" } else { "-" };
    Some(format!(
        "'{dash}{rest}' begins with a dash that is no hyphen (U+{:04X}); did you mean '{meant}{rest}'?",
        u32::from(dash)
    ))
}

/// There is no such subcommand.
pub(crate) fn no_subcommand(word: &str) -> String {
    let near = nearest_subcommand(word).map(|near| format!("; did you mean '{near}'?"));
    let all = Cli::command();
    let names: Vec<_> = all.get_subcommands().map(Command::get_name).collect();
    let there = || format!("; there are {}", listed(&names).replace(" or ", " and "));
    format!("no subcommand '{}'{}", printable(word.as_ref()), near.unwrap_or_else(there))
}

fn nearest_subcommand(word: &str) -> Option<String> {
    let all = Cli::command();
    let names = all.get_subcommands().map(Command::get_name);
    nearest(word, names, NEAR).map(str::to_owned)
}

/// A command, but no name of a semaphore.
pub(in crate::settings) fn nameless(operands: &[OsString]) -> String {
    const NONE: &str = "no semaphore named";
    let Some(first) = operands.first() else {
        return format!("{NONE}; give --name NAME");
    };
    let shown = printable(first);
    let is_name = |word: &OsString| {
        word.to_str().is_some_and(|word| word == "--name" || word.starts_with("--name="))
    };
    let named_later = operands[1..].iter().any(is_name);
    if is_program(first) && named_later {
        return format!(
            "{NONE}: '--name' came after '{shown}', which is the command, and everything after the \
             command is its own; put --name before it"
        );
    }
    if is_program(first) {
        let other = other_word(first).map(|meant| format!("; did you mean '{meant}'?"));
        let other = other.unwrap_or_default();
        return format!("{NONE}; give --name NAME: semrun --name NAME -- {shown}{other}");
    }
    let none = format!("{NONE}, and no program or subcommand '{shown}'");
    let runs = RUNS.iter().any(|word| first == word);
    if named_later || runs && operands.len() == 1 {
        return format!("{none}; a run is semrun --name NAME -- COMMAND");
    }
    // The words after two dashes are a command; others may be secrets.
    let (name, command) = match operands.iter().position(|word| word == "--") {
        Some(at @ 1..) => (Some(&operands[at - 1]), operands.get(at + 1)),
        _ => (Some(first).filter(|_| !runs), None),
    };
    let name = name.map_or_else(|| "NAME".into(), |name| printable(name));
    let command = command.map_or_else(|| "COMMAND".into(), |command| printable(command));
    format!("{none}; the name goes with --name: semrun --name {name} -- {command}")
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
        let meant = |word: &str| other_dash(word.as_ref()).unwrap_or_default();
        assert!(meant("\u{2014}name").contains("(U+2014); did you mean '--name'?"));
        assert!(meant("\u{2212}n").contains("did you mean '-n'?"));
        assert!(meant("\u{2013}-name").contains("did you mean '--name'?"));
        assert_eq!(meant("-name"), "");
    }
}
