//! Settings from flags over variables over files over defaults, checked, in plain values. Every
//! mistake in them is found here, before anything starts.

mod error;
mod files;
mod layers;
mod location;
mod mistakes;
mod run;
mod server;
mod server_credentials;
mod shell;
mod sources;
mod subcommands;

use std::ffi::{CStr, OsStr, OsString};
use std::mem::ManuallyDrop;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args, Command, CommandFactory};

use self::error::settings_error;
pub(crate) use self::error::{
    BadSecret, ConflictingLayer, HelpPage, Mistake, OptionsApart, SecretKind, SettingsError,
    UrlMistake,
};
#[cfg(any(test, fuzzing))]
use self::files::Config;
pub(crate) use self::files::{FileMistake, Section, UnknownWord, Wanted, WordKind};
pub(crate) use self::layers::{GivenOption, GivenValue, Source};
use self::layers::{Layers, once, operands, typed};
use self::location::has_password;
pub(crate) use self::mistakes::{
    Hint, Nameless, NearCommand, OtherCommand, OtherOption, Slip, UrlMeant, no_subcommand,
};
use self::mistakes::{
    RejectedCommandLine, before_a_subcommand, near_subcommand, number_after_a_switch, other_dash,
};
pub(crate) use self::run::{PermitRequest, RunSettings, Wait};
pub(crate) use self::server::ServeSettings;
pub(crate) use self::server_credentials::CredentialFiles;
pub(crate) use self::shell::{NoShell, ShellFlaw};
use self::sources::CommandSources;
pub(crate) use self::subcommands::{
    AcquireOutput, AcquireSettings, DiagnosedBackend, DoctorSettings, LimitChange, LimitSettings,
    ReleaseSettings, RenewSettings, StatusSettings,
};
use crate::cli::{self, BackendOptions, Merged, SubOnly};
use crate::exit::Failure;
use crate::sys::{environment, keep_from_core_files};
use crate::user::{Home, User};

/// What to do.
#[derive(Debug)]
pub(crate) enum RequestedCommand {
    Run(Box<RunSettings>),
    Status(StatusSettings),
    Acquire(Box<AcquireSettings>),
    Renew(RenewSettings),
    Release(ReleaseSettings),
    Limit(LimitSettings),
    Doctor(Box<DoctorSettings>),
    Serve(Box<ServeSettings>),
    Completions(clap_complete::Shell),
    Man(Option<String>),
    /// Help or the version, which clap knows how to print.
    Print(clap::Error),
    /// Nothing was typed: how to type something.
    Usage(String),
}

/// Sources of settings beside the command line.
pub(crate) struct Environment<'a> {
    pub(crate) variables: &'a Variables,
    /// The configuration of the user who runs this, if there can be one.
    pub(crate) user_file: &'a dyn Fn() -> Result<Option<PathBuf>, SettingsError>,
    pub(crate) system_file: &'a Path,
}

/// The configuration file of an account. An error if its home is unknown.
pub(crate) fn user_file(user: &User) -> Result<Option<PathBuf>, SettingsError> {
    match &user.home {
        Home::At(home) => Ok(Some(files::of_user(home))),
        Home::None => Ok(None),
        // Its file may name another backend, which the user's other runs use.
        Home::Unknown(why) => {
            let what = Mistake::UnknownHome { uid: user.uid, why: why.clone() };
            Err(SettingsError::new(Failure::Unavailable, what))
        }
    }
}

/// What a run tells its command, and what tests of the mutants set, in the form of options.
const OTHERS: [&str; 3] = ["fencing-token", "held", "mutant"];

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

    /// The unknown ones.
    fn unknown(&self) -> Vec<UnknownWord> {
        let known = cli::variables();
        let known: Vec<_> = known.into_iter().chain(OTHERS.map(cli::variable_of)).collect();
        let named = self.options.iter().map(|(option, _)| cli::variable_of(option));
        let unknown = named.filter(|name| !known.contains(name));
        unknown.map(|name| UnknownWord::of(WordKind::Variable, &name, known.iter())).collect()
    }

    /// The unknown ones that are nearly known. Others may be meant for a script of the user.
    pub(crate) fn misspelt(&self) -> Vec<UnknownWord> {
        self.unknown().into_iter().filter(UnknownWord::is_slip).collect()
    }

    /// Whether this command has an option for each. Quicker than to look for unknown ones.
    fn all_are_of(&self, command: &Command) -> bool {
        let has = |option: &str| {
            OTHERS.contains(&option)
                || is_secret(option)
                || command.get_arguments().any(|argument| argument.get_long() == Some(option))
        };
        self.options.iter().all(|(option, _)| option == "permit" || has(option))
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
pub(crate) fn read(
    line: &[OsString],
    around: &Environment<'_>,
) -> Result<RequestedCommand, SettingsError> {
    if line.len() <= 1 {
        return Ok(RequestedCommand::Usage(cli::usage()));
    }
    let mut command = once(Merged::<cli::RunArgs>::command());
    let matches = match command.try_get_matches_from_mut(line) {
        Ok(matches) => matches,
        Err(error) => {
            let words = &line[1..];
            let refused = RejectedCommandLine { error, words, command: &command, subcommand: None };
            return print_or_misuse(refused);
        }
    };
    let flags = typed(&command, &matches)?;
    let operands = operands(&command, &matches);
    if let Some((secret, _)) = flags.iter().find(|(option, _)| is_secret(option)) {
        return Err(settings_error(Mistake::SecretTyped(secret.clone())));
    }
    let named = flags.iter().any(|(option, _)| option == "name");
    // The first operand ends the options; `--` in front of it says that it is the command.
    let first = line.len() - operands.len();
    let plain = first > 0 && line[first - 1] != "--";
    match operands.first() {
        Some(word) if !named && plain && cli::is_subcommand(word) => {
            let name = word.to_string_lossy().into_owned();
            let read = subcommand(flags, &operands, around);
            read.map_err(|settings_error| settings_error.see_help_of(Some(&name)))
        }
        word => {
            if let Some(word) = word.filter(|_| plain) {
                let mistake = number_after_a_switch(&command, &line[first - 1], word);
                // Only where no name is typed may it be a subcommand.
                let near = || if named { None } else { near_subcommand(word) };
                let dash = || other_dash(word);
                if let Some(mistake) = mistake.or_else(dash).or_else(near) {
                    return Err(settings_error(mistake).see_help_of(None));
                }
            }
            let variables = around.variables;
            let misspelt =
                if variables.all_are_of(&command) { Vec::new() } else { variables.misspelt() };
            let layers = Layers::of(command, flags, operands, Some(matches));
            let all = CommandSources::of(layers, around)
                .map_err(|settings_error| settings_error.see_help_of(None))?;
            // Dropping them would cost a run as much as building them.
            let all = ManuallyDrop::new(all);
            let run = run::run(&all).map_err(|settings_error| settings_error.see_help_of(None))?;
            Ok(RequestedCommand::Run(Box::new(RunSettings { misspelt, ..run })))
        }
    }
}

fn subcommand(
    before: Vec<(String, GivenValue)>,
    words: &[OsString],
    around: &Environment<'_>,
) -> Result<RequestedCommand, SettingsError> {
    let command = SubOnly::command().mut_subcommands(once);
    let matches = match command.clone().try_get_matches_from(words) {
        Ok(matches) => matches,
        Err(error) => {
            let name = words[0].to_str();
            let mut command = name.and_then(|name| command.find_subcommand(name)).cloned();
            let command = command.get_or_insert_default();
            let words = &words[1..];
            let refused = RejectedCommandLine { error, words, command, subcommand: name };
            return print_or_misuse(refused);
        }
    };
    let Some((name, matches)) = matches.subcommand() else {
        return Err(settings_error(Mistake::NoSubcommand));
    };
    let command = command.find_subcommand(name).cloned().unwrap_or_default();
    check_before(name, &before, &command)?;
    let behind = typed(&command, matches)?;
    let again = |(option, _): &(String, GivenValue)| behind.iter().any(|(one, _)| one == option);
    // Of options given twice the last counts.
    let mut flags: Vec<_> = before.into_iter().filter(|one| !again(one)).collect();
    flags.extend(behind);
    let operands = operands(&command, matches);
    let text = |at: usize| operands.get(at).map(|word| word.to_string_lossy().into_owned());
    Ok(match name {
        "status" => RequestedCommand::Status(subcommands::status(&flags, &operands, around)?),
        "acquire" => {
            let all = CommandSources::new::<cli::AcquireArgs>(flags, operands, around)?;
            RequestedCommand::Acquire(Box::new(subcommands::acquire(&all)?))
        }
        "renew" => RequestedCommand::Renew(subcommands::renew(flags, operands, around)?),
        "release" => RequestedCommand::Release(subcommands::release(flags, operands, around)?),
        "limit" => RequestedCommand::Limit(subcommands::limit(flags, operands, around)?),
        "doctor" => {
            RequestedCommand::Doctor(Box::new(subcommands::doctor(flags, operands, around)))
        }
        "serve" => RequestedCommand::Serve(Box::new(server::settings(flags, around)?)),
        "completions" => {
            let shell = text(0).and_then(|shell| shell.parse().ok());
            RequestedCommand::Completions(shell.ok_or_else(|| settings_error(Mistake::NoShell))?)
        }
        "help" => match text(0) {
            Some(name) if !cli::is_subcommand(name.as_ref()) => {
                return Err(settings_error(no_subcommand(&name)));
            }
            name => page(name.as_deref(), "--help")?,
        },
        _ => RequestedCommand::Man(text(0)),
    })
}

/// Before a subcommand only options that choose its backend are allowed.
fn check_before(
    name: &str,
    before: &[(String, GivenValue)],
    command: &Command,
) -> Result<(), SettingsError> {
    let backend = BackendOptions::augment_args(Command::new(""));
    let takes = |command: &Command, option: &str| {
        command.get_arguments().any(|argument| argument.get_long() == Some(option))
    };
    let wrong =
        |(option, _): &&(String, GivenValue)| !takes(&backend, option) || !takes(command, option);
    match before.iter().find(wrong) {
        Some((option, _)) => {
            Err(settings_error(before_a_subcommand(name, option, takes(command, option))))
        }
        None => Ok(()),
    }
}

/// Whether an option is a secret, which no flag may carry.
fn is_secret(option: &str) -> bool {
    ["password", "api-key"].contains(&option)
}

/// Whether a command line that cannot be understood is one whose output a shell evaluates.
pub(crate) fn wants_shell(line: &[OsString]) -> bool {
    let mut words = line.iter().skip_while(|word| *word != "acquire");
    words.any(|word| word == "--shell")
}

/// Help and the version are asked for by an "error" of clap's.
fn print_or_misuse(refused: RejectedCommandLine<'_>) -> Result<RequestedCommand, SettingsError> {
    let subcommand = refused.subcommand;
    let flag = match refused.error.kind() {
        ErrorKind::DisplayVersion => "--version",
        ErrorKind::DisplayHelp if refused.words.iter().any(|word| word == "--help") => "--help",
        ErrorKind::DisplayHelp => "-h",
        _ => return Err(settings_error(refused.explained()).see_help_of(subcommand)),
    };
    page(subcommand, flag)
}

/// What a flag prints, alone or after a subcommand.
fn page(subcommand: Option<&str>, flag: &str) -> Result<RequestedCommand, SettingsError> {
    let words = ["semrun"].into_iter().chain(subcommand).chain([flag]);
    let command = if flag == "-h" { cli::brief() } else { cli::documented() };
    match command.try_get_matches_from(words) {
        Err(page) => Ok(RequestedCommand::Print(page)),
        Ok(_) => Err(settings_error(Mistake::NoHelp)),
    }
}

/// A configuration file as a function of bytes. No complaint has more than one line.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Err(settings_error) = Config::parse(Path::new("config.toml").into(), &text) {
        let complaint = settings_error.to_string();
        assert!(!complaint.contains('\n') && !complaint.contains("geheim"), "{complaint}");
    }
}

#[cfg(test)]
mod tests;
