//! From what was typed, set and written to what is wanted: flags over variables over files over
//! defaults, checked, in plain values. Everything that can be wrong with them is found here, before
//! anything starts.

mod credentials;
mod files;
mod layers;
mod location;
mod mistakes;
mod misuse;
mod runs;
mod server;
mod shell;
mod sources;
mod subcommands;

use std::ffi::{CStr, OsStr, OsString};
use std::mem::ManuallyDrop;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args, Command, CommandFactory};

pub(crate) use self::credentials::CredentialFiles;
#[cfg(any(test, fuzzing))]
use self::files::Config;
pub(crate) use self::layers::{Given, GivenValue};
use self::layers::{Layers, once, operands, typed};
use self::location::has_password;
pub(crate) use self::mistakes::no_subcommand;
use self::mistakes::{
    Refused, before_a_subcommand, near_subcommand, number_after_a_switch, other_dash,
};
pub(crate) use self::misuse::Misuse;
use self::misuse::misuse;
pub(crate) use self::runs::{Request, Run, Wait};
pub(crate) use self::server::Serve;
pub(crate) use self::shell::NoShell;
use self::sources::All;
pub(crate) use self::subcommands::{
    Acquire, Change, Doctor, Examined, Limit, Printed, Release, Renew, Status,
};
use crate::account::{Account, Home};
use crate::cli::{self, BackendOptions, Merged, SubOnly};
use crate::exit::Failure;
use crate::kernel::{environment, keep_from_core_files};

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Task {
    Run(Box<Run>),
    Status(Status),
    Acquire(Box<Acquire>),
    Renew(Renew),
    Release(Release),
    Limit(Limit),
    Doctor(Box<Doctor>),
    Serve(Box<Serve>),
    Completions(clap_complete::Shell),
    Man(Option<String>),
    /// Help or the version, which clap knows how to print.
    Print(clap::Error),
    /// Nothing was typed: how to type something.
    Usage(String),
}

/// What settings come from beside the command line.
pub(crate) struct Surroundings<'a> {
    pub(crate) variables: &'a Variables,
    /// The configuration of whoever runs this, if there can be one.
    pub(crate) user_file: &'a dyn Fn() -> Result<Option<PathBuf>, Misuse>,
    pub(crate) system_file: &'a Path,
}

/// The file of an account. One whose home is unknown may have one that matters.
pub(crate) fn user_file(account: &Account) -> Result<Option<PathBuf>, Misuse> {
    match &account.home {
        Home::At(home) => Ok(Some(files::of_user(home))),
        Home::None => Ok(None),
        // It may have one that names another backend, where the others meet.
        Home::Unknown(trouble) => {
            let what = format!(
                "the home directory of uid {} is unknown, and with it whether there is a \
                 configuration: {trouble}; try again, or give --config FILE (/dev/null for none)",
                account.uid
            );
            Err(Misuse::new(Failure::Unavailable, what))
        }
    }
}

/// The variables that concern us, each by the long name of its option. Of several with one name the
/// first counts, as it does for getenv(3). An empty one is the usual way to unset it for a single call.
#[derive(Debug, Default)]
pub(crate) struct Variables {
    options: Vec<(String, OsString)>,
    shell: Option<OsString>,
}

impl Variables {
    /// Those that this process was started with.
    pub(crate) fn own() -> Self {
        let own: Self = environment().filter_map(variable).collect();
        if !own.secrets().is_empty() {
            keep_from_core_files();
        }
        own
    }

    /// The variables that hold a secret.
    fn secrets(&self) -> Vec<&'static str> {
        let holds = |option: &str, value: &OsString| {
            is_secret(option) || option == "backend" && has_password(value)
        };
        let all = [("api-key", "SEMRUN_API_KEY"), ("password", "SEMRUN_PASSWORD")];
        let all = all.into_iter().chain([("backend", "SEMRUN_BACKEND")]);
        let is_one = |(option, _): &(&str, _)| {
            self.options.iter().any(|(one, value)| one == option && holds(one, value))
        };
        all.filter(is_one).map(|(_, variable)| variable).collect()
    }

    /// What to say of those that nothing knows.
    fn unknown(&self) -> Vec<String> {
        // What a run tells its command, and what tests of the mutants set.
        const OTHERS: [&str; 3] = ["SEMRUN_FENCING_TOKEN", "SEMRUN_HELD", "SEMRUN_MUTANT"];
        let known = cli::variables();
        let known: Vec<_> = known.into_iter().chain(OTHERS.map(String::from)).collect();
        let named = self.options.iter().map(|(option, _)| cli::variable_of(option));
        let unknown = named.filter(|name| !known.contains(name));
        unknown.map(|name| files::unknown("variable", &name, "", known.iter())).collect()
    }

    fn shell(&self) -> Option<&OsString> {
        self.shell.as_ref().filter(|shell| !shell.is_empty())
    }

    fn of_option(&self, long: &str) -> Option<&OsString> {
        let first = self.options.iter().find(|(option, _)| option == long);
        first.map(|(_, value)| value).filter(|value| !value.is_empty())
    }
}

impl<'a> FromIterator<(&'a OsStr, &'a OsStr)> for Variables {
    fn from_iter<T: IntoIterator<Item = (&'a OsStr, &'a OsStr)>>(all: T) -> Self {
        let mut these = Self::default();
        for (name, value) in all {
            if let Some(option) = cli::option_of(name) {
                these.options.push((option, value.into()));
            } else if name == "SHELL" {
                these.shell.get_or_insert_with(|| value.into());
            }
        }
        these
    }
}

/// Name and value of a variable.
fn variable(text: &CStr) -> Option<(&OsStr, &OsStr)> {
    let text = text.to_bytes();
    let (name, value) = text.split_at(text.iter().position(|byte| *byte == b'=')?);
    Some((OsStr::from_bytes(name), OsStr::from_bytes(&value[1..])))
}

/// The place of the configuration of the whole machine.
pub(crate) fn system_file() -> &'static Path {
    Path::new(files::SYSTEM)
}

/// Understands a command line, its program's name included.
pub(crate) fn read(line: &[OsString], around: &Surroundings<'_>) -> Result<Task, Misuse> {
    if line.len() <= 1 {
        return Ok(Task::Usage(cli::usage()));
    }
    let mut command = once(Merged::<cli::Run>::command());
    let matches = match command.try_get_matches_from_mut(line) {
        Ok(matches) => matches,
        Err(error) => {
            let words = &line[1..];
            let refused = Refused { error: &error, words, command: &command, subcommand: None };
            return print_or_misuse(&refused);
        }
    };
    let flags = typed(&command, &matches)?;
    let operands = operands(&command, &matches);
    if let Some((secret, _)) = flags.iter().find(|(option, _)| is_secret(option)) {
        let what = format!(
            "--{secret} would show it to every user of this machine, in the list of processes; \
             --{secret}-file, its variable and the configuration keep it to you"
        );
        return Err(misuse(what));
    }
    let named = flags.iter().any(|(option, _)| option == "name");
    // The first operand ends the options; `--` in front of it says that it is the command.
    let first = line.len() - operands.len();
    let plain = first > 0 && line[first - 1] != "--";
    match operands.first() {
        Some(word) if !named && plain && cli::is_subcommand(word) => {
            let name = word.to_string_lossy().into_owned();
            let read = subcommand(flags, &operands, around);
            read.map_err(|misuse| misuse.see_help_of(Some(&name)))
        }
        word => {
            if let Some(word) = word.filter(|_| plain) {
                let mistake = number_after_a_switch(&command, &line[first - 1], word);
                // Only where no name is typed may it be a subcommand.
                let near = || if named { None } else { near_subcommand(word) };
                let dash = || other_dash(word);
                if let Some(mistake) = mistake.or_else(dash).or_else(near) {
                    return Err(misuse(mistake).see_help_of(None));
                }
            }
            let layers = Layers::of(command, flags, operands, Some(matches));
            let all = All::of(layers, around).map_err(|misuse| misuse.see_help_of(None))?;
            // Taking them apart would cost a run as much as putting them together.
            let all = ManuallyDrop::new(all);
            let run = runs::run(&all).map_err(|misuse| misuse.see_help_of(None))?;
            Ok(Task::Run(Box::new(run)))
        }
    }
}

fn subcommand(
    before: Vec<(String, GivenValue)>,
    words: &[OsString],
    around: &Surroundings<'_>,
) -> Result<Task, Misuse> {
    let command = SubOnly::command().mut_subcommands(once);
    let matches = match command.clone().try_get_matches_from(words) {
        Ok(matches) => matches,
        Err(error) => {
            let name = words[0].to_str();
            let mut command = name.and_then(|name| command.find_subcommand(name)).cloned();
            let command = command.get_or_insert_default();
            let words = &words[1..];
            let refused = Refused { error: &error, words, command, subcommand: name };
            return print_or_misuse(&refused);
        }
    };
    let Some((name, matches)) = matches.subcommand() else {
        return Err(misuse("no subcommand"));
    };
    let command = command.find_subcommand(name).cloned().unwrap_or_default();
    check_before(name, &before, &command)?;
    let behind = typed(&command, matches)?;
    let again = |(option, _): &(String, GivenValue)| behind.iter().any(|(one, _)| one == option);
    // Of what was said twice the last counts.
    let mut flags: Vec<_> = before.into_iter().filter(|one| !again(one)).collect();
    flags.extend(behind);
    let operands = operands(&command, matches);
    let text = |at: usize| operands.get(at).map(|word| word.to_string_lossy().into_owned());
    Ok(match name {
        "status" => Task::Status(subcommands::status(&flags, &operands, around)?),
        "acquire" => {
            let all = All::new::<cli::Acquire>(flags, operands, around)?;
            Task::Acquire(Box::new(subcommands::acquire(&all)?))
        }
        "renew" => Task::Renew(subcommands::renew(flags, operands, around)?),
        "release" => Task::Release(subcommands::release(flags, operands, around)?),
        "limit" => Task::Limit(subcommands::limit(flags, operands, around)?),
        "doctor" => Task::Doctor(Box::new(subcommands::doctor(flags, operands, around))),
        "serve" => Task::Serve(Box::new(server::settings(flags, around)?)),
        "completions" => {
            let shell = text(0).and_then(|shell| shell.parse().ok());
            Task::Completions(shell.ok_or_else(|| misuse("no shell"))?)
        }
        "help" => match text(0) {
            Some(name) if !cli::is_subcommand(name.as_ref()) => {
                return Err(misuse(no_subcommand(&name)));
            }
            name => page(name.as_deref(), "--help")?,
        },
        _ => Task::Man(text(0)),
    })
}

/// In front of a subcommand there may be what chooses the backend, as far as it has one.
fn check_before(
    name: &str,
    before: &[(String, GivenValue)],
    command: &Command,
) -> Result<(), Misuse> {
    let backend = BackendOptions::augment_args(Command::new(""));
    let takes = |command: &Command, option: &str| {
        command.get_arguments().any(|argument| argument.get_long() == Some(option))
    };
    let wrong =
        |(option, _): &&(String, GivenValue)| !takes(&backend, option) || !takes(command, option);
    match before.iter().find(wrong) {
        Some((option, _)) => Err(misuse(before_a_subcommand(name, option, takes(command, option)))),
        None => Ok(()),
    }
}

/// What no flag may carry.
fn is_secret(option: &str) -> bool {
    ["password", "api-key"].contains(&option)
}

/// Whether a command line that cannot be understood is one whose output a shell evaluates.
pub(crate) fn wants_shell(line: &[OsString]) -> bool {
    let mut words = line.iter().skip_while(|word| *word != "acquire");
    words.any(|word| word == "--shell")
}

/// Help and the version are asked for by an "error" of clap's.
fn print_or_misuse(refused: &Refused<'_>) -> Result<Task, Misuse> {
    let flag = match refused.error.kind() {
        ErrorKind::DisplayVersion => "--version",
        ErrorKind::DisplayHelp if refused.words.iter().any(|word| word == "--help") => "--help",
        ErrorKind::DisplayHelp => "-h",
        _ => return Err(misuse(refused.explained()).see_help_of(refused.subcommand)),
    };
    page(refused.subcommand, flag)
}

/// What a flag prints, alone or after a subcommand.
fn page(subcommand: Option<&str>, flag: &str) -> Result<Task, Misuse> {
    let words = ["semrun"].into_iter().chain(subcommand).chain([flag]);
    let command = if flag == "-h" { cli::brief() } else { cli::documented() };
    match command.try_get_matches_from(words) {
        Err(page) => Ok(Task::Print(page)),
        Ok(_) => Err(misuse("no help for that")),
    }
}

/// A configuration file as a function of bytes. No complaint has more than one line.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Err(misuse) = Config::parse(Path::new("config.toml").into(), &text) {
        let complaint = misuse.to_string();
        assert!(!complaint.contains('\n') && !complaint.contains("geheim"), "{complaint}");
    }
}

#[cfg(test)]
mod tests;
