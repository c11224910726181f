//! Why a command did not start.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::not_executable::{NotExecutable, found};
use super::words::SystemErrorText;
use crate::cli;
use crate::supervise::spawn::LaunchError;

/// A command that did not start.
#[derive(Debug)]
pub(crate) struct CannotRun {
    pub(crate) program: String,
    pub(crate) reason: LaunchError,
    /// The word after two dashes, if those came right after the program.
    pub(crate) after_dashes: Option<String>,
}

impl CannotRun {
    pub(crate) fn new(program: &OsStr, arguments: &[OsString], reason: LaunchError) -> Self {
        let shown = |word: &OsStr| Path::new(word).display().to_string();
        let after_dashes = match arguments {
            [dashes, word, ..] if dashes == "--" => Some(shown(word)),
            _ => None,
        };
        Self { program: shown(program), reason, after_dashes }
    }
}

impl fmt::Display for CannotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, after_dashes, .. } = self;
        let suggestion = Suggestion { program, after_dashes: after_dashes.as_deref() };
        if let (LaunchError::NotFound, Some(variable)) = (&self.reason, assigned(program)) {
            // What a variable is set to may be a secret.
            return write!(
                f,
                "cannot run {variable}=…: no such command in PATH; a variable is set with env: semrun \
                 --name NAME -- env {variable}=… COMMAND"
            );
        }
        match &self.reason {
            LaunchError::NotFound | LaunchError::NotExecutable(_) if program.is_empty() => {
                write!(f, "cannot run '': the name of the command is empty")
            }
            LaunchError::NotFound if !program.contains('/') => {
                write!(f, "cannot run {program}: no such command in PATH{suggestion}")
            }
            LaunchError::NotFound => {
                write!(f, "cannot run {program}: there is no such file{suggestion}")
            }
            LaunchError::NotExecutable(error)
                if error.kind() == io::ErrorKind::PermissionDenied =>
            {
                write!(f, "cannot run {program}: {}", NotExecutable::of(program))
            }
            LaunchError::NotExecutable(error) if error.kind() == io::ErrorKind::NotFound => {
                write!(f, "cannot run {program}: {}", NotFound(program))
            }
            LaunchError::NotExecutable(error) => {
                write!(f, "cannot run {program}: {}", SystemErrorText(error))
            }
            LaunchError::Failed(doing, error) => {
                write!(f, "cannot start {program}: cannot {doing}: {}", SystemErrorText(error))
            }
        }
    }
}

impl std::error::Error for CannotRun {}

/// What shells do themselves, and what is said of it only if there is no such program.
const BUILT_IN: [&str; 20] = [
    ".", ":", "alias", "case", "cd", "eval", "exit", "export", "for", "function", "if", "local",
    "set", "source", "trap", "ulimit", "umask", "unset", "until", "while",
];

/// The variable that a word of a shell sets.
fn assigned(word: &str) -> Option<&str> {
    let (variable, _) = word.split_once('=')?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let starts = variable.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    (starts && variable.bytes().all(fits)).then_some(variable)
}

/// What may have been meant by a command that is not there.
struct Suggestion<'a> {
    program: &'a str,
    after_dashes: Option<&'a str>,
}

impl fmt::Display for Suggestion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, after_dashes } = self;
        if program.contains(char::is_whitespace) {
            // The line may hold a secret, and the message shows it already as it was typed.
            return f
                .write_str("; a line for the shell goes with -c: semrun --name NAME -c 'LINE'");
        }
        if cli::is_subcommand(program.as_ref()) {
            return write!(
                f,
                "; after --name a word is the command, and the subcommand goes first: semrun {program}"
            );
        }
        if program.starts_with('-') {
            return f.write_str("; options go before the '--'");
        }
        if BUILT_IN.contains(program) {
            return f.write_str("; only a shell has it: semrun --name NAME -c 'LINE'");
        }
        if cli::RUNS.contains(program) {
            return f.write_str("; a run needs no subcommand: semrun --name NAME -- COMMAND");
        }
        if !program.contains('/') && Path::new(program).is_file() {
            return write!(f, "; the file here is ./{program}");
        }
        // Before the dashes is where other programs take a name.
        match after_dashes {
            Some(command) => write!(
                f,
                "; if that is the semaphore, the name goes with --name: semrun --name {program} -- \
                 {command}"
            ),
            None => Ok(()),
        }
    }
}

/// The missing interpreter that a program needs.
struct NotFound<'a>(&'a str);

impl fmt::Display for NotFound<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(program) = self;
        match interpreter(program) {
            Some(line) if line.ends_with('\r') => f.write_str(
                "its first line ends with CRLF, and so names an interpreter that is not there; save it \
                 with LF",
            ),
            Some(line) => {
                let file = line.split_whitespace().next().unwrap_or_default();
                write!(f, "its first line asks for the interpreter '{file}', and there is no such file")
            }
            None => f.write_str(
                "the loader that it asks for is missing; it was built for another system",
            ),
        }
    }
}

/// What follows `#!` in the first line of a file.
fn interpreter(program: &str) -> Option<String> {
    const MOST: u64 = 256;
    let mut start = Vec::new();
    File::open(found(program)?).ok()?.take(MOST).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    Some(String::from_utf8_lossy(line).into_owned())
}
