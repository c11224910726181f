//! The layers that settings come from: flags over variables over files. An option in a layer
//! overrides the same option, and options that conflict with it, in the layers below.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, Command, CommandFactory, FromArgMatches};

use super::Variables;
use super::error::{ConflictingLayer, Mistake, SettingsError, misconfigured, settings_error};
use super::files::{ConfigEntry, ConfigValue};
use crate::cli::{self, Merged};
use crate::exit::Failure;
use crate::printable::printable_os;

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Flag,
    Variable(String),
    File { path: Arc<Path>, line: usize },
}

/// One option, as it was given.
#[derive(Debug, Clone)]
pub(crate) struct GivenOption {
    /// Its long name.
    pub(crate) option: String,
    pub(crate) value: GivenValue,
    pub(crate) source: Source,
    /// The number of its layer; the command line is 0.
    layer: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GivenValue {
    Text(OsString),
    On,
    /// A switch turned off, even if a lower layer has it on.
    Off,
}

/// All that was given and counts, the highest layer first.
#[derive(Debug)]
pub(crate) struct Layers {
    given: Vec<GivenOption>,
    next: usize,
    /// The options that there are, none of them required. Parsing makes it ready for the next time.
    command: RefCell<Command>,
    operands: Vec<OsString>,
    /// The parsed command line, if the highest layer has nothing else.
    typed: RefCell<Option<ArgMatches>>,
}

impl GivenValue {
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Text(text) => printable_os(text),
            Self::On => "true".into(),
            Self::Off => "false".into(),
        }
    }
}

impl Source {
    /// An error in a setting from there.
    fn settings_error(&self, what: impl Into<Mistake>) -> SettingsError {
        SettingsError::new(self.failure(), what).from(self.clone())
    }

    /// The class of an error there.
    pub(super) fn failure(&self) -> Failure {
        match self {
            Self::Flag | Self::Variable(_) => Failure::Usage,
            Self::File { .. } => Failure::Unsupported,
        }
    }
}

impl GivenOption {
    fn word(&self) -> Option<OsString> {
        let mut word = OsString::from(format!("--{}", self.option));
        match &self.value {
            GivenValue::Off => return None,
            GivenValue::On => {}
            GivenValue::Text(text) => {
                word.push("=");
                word.push(text);
            }
        }
        Some(word)
    }
}

/// The options that name a semaphore or permit. Of two, one would be ignored.
const ONCE: [&str; 2] = ["name", "permit"];

/// What an option sets. A secret and the file with it are one setting; of one layer both are taken,
/// and the secret counts.
fn setting(option: &str) -> &str {
    option.strip_suffix("-file").unwrap_or(option)
}

/// The same command, which counts how often those were typed.
pub(super) fn once(command: Command) -> Command {
    command.mut_args(|argument| {
        let counts = argument.get_long().is_some_and(|long| ONCE.contains(&long));
        if counts { argument.action(ArgAction::Append) } else { argument }
    })
}

/// The options that were typed, with the values as they were.
pub(super) fn typed(
    command: &Command,
    matches: &ArgMatches,
) -> Result<Vec<(String, GivenValue)>, SettingsError> {
    let mut options = Vec::new();
    for argument in command.get_arguments() {
        let id = argument.get_id().as_str();
        let from_line = matches.value_source(id) == Some(ValueSource::CommandLine);
        let Some(long) = argument.get_long().filter(|_| from_line) else { continue };
        let value = if matches!(argument.get_action(), ArgAction::SetTrue) {
            GivenValue::On
        } else {
            let values: Vec<_> = matches.get_raw(id).into_iter().flatten().collect();
            if values.len() > 1 && ONCE.contains(&long) {
                return Err(settings_error(Mistake::GivenTwice(long.into())));
            }
            GivenValue::Text(values.join(OsStr::new(",")))
        };
        options.push((long.to_owned(), value));
    }
    Ok(options)
}

/// What was typed after the options.
pub(super) fn operands(command: &Command, matches: &ArgMatches) -> Vec<OsString> {
    let positionals = command.get_positionals().map(|argument| argument.get_id().as_str());
    let values = positionals.filter_map(|id| matches.get_raw(id)).flatten();
    values.map(OsStr::to_os_string).collect()
}

impl Layers {
    /// Begins with what was typed, each option once.
    pub(super) fn new<T: Args>(flags: Vec<(String, GivenValue)>, operands: Vec<OsString>) -> Self {
        let command = Merged::<T>::command().mut_args(|argument| argument.required(false));
        Self::of(command, flags, operands, None)
    }

    /// The same with a command that is built already.
    pub(super) fn of(
        command: Command,
        flags: Vec<(String, GivenValue)>,
        operands: Vec<OsString>,
        typed: Option<ArgMatches>,
    ) -> Self {
        let (command, typed) = (RefCell::new(command), RefCell::new(typed));
        let given = flags.into_iter().map(|(option, value)| GivenOption {
            option,
            value,
            source: Source::Flag,
            layer: 0,
        });
        Self { given: given.collect(), next: 1, command, operands, typed }
    }

    /// Adds the layer of variables: each is the option of the same name.
    pub(super) fn add_variables(&mut self, variables: &Variables) -> Result<(), SettingsError> {
        let mut found = Vec::new();
        for argument in self.command.borrow().get_arguments() {
            let Some(long) = argument.get_long() else { continue };
            let Some(value) = variables.of_option(long) else { continue };
            let Some(variable) = cli::variable(argument) else { continue };
            // A silenced value is not even checked: it may be wrong.
            if self.silences(long) {
                continue;
            }
            let value = match (argument.get_action(), value.to_str()) {
                (ArgAction::SetTrue, Some("1" | "true")) => GivenValue::On,
                (ArgAction::SetTrue, Some("0" | "false")) => GivenValue::Off,
                (ArgAction::SetTrue, _) => {
                    let what = Mistake::NotASwitch(printable_os(value));
                    return Err(Source::Variable(variable).settings_error(what));
                }
                _ => GivenValue::Text(value.clone()),
            };
            found.push((long.to_owned(), value, Source::Variable(variable)));
        }
        self.add(found, ConflictingLayer::Variables)
    }

    /// Adds a layer from a file, of which only those entries are wanted that this command has.
    pub(super) fn add_entries(
        &mut self,
        path: &Arc<Path>,
        entries: &[ConfigEntry],
    ) -> Result<(), SettingsError> {
        let mut found = Vec::new();
        for ConfigEntry { key, value, line } in entries {
            let command = self.command.borrow();
            let mut arguments = command.get_arguments();
            let known = arguments.any(|argument| argument.get_long() == Some(key));
            if !known || self.silences(key) {
                continue;
            }
            let value = match value {
                ConfigValue::Text(text) => GivenValue::Text(text.into()),
                ConfigValue::Switch(true) => GivenValue::On,
                ConfigValue::Switch(false) => GivenValue::Off,
            };
            let source = Source::File { path: Arc::clone(path), line: *line };
            found.push((key.clone(), value, source));
        }
        self.add(found, ConflictingLayer::File(Arc::clone(path)))
    }

    fn add(
        &mut self,
        found: Vec<(String, GivenValue, Source)>,
        which: ConflictingLayer,
    ) -> Result<(), SettingsError> {
        let layer = self.next;
        self.next += 1;
        let mut words = Vec::new();
        for (option, value, source) in found {
            let given = GivenOption { option, value, source, layer };
            if let Some(word) = given.word() {
                self.parse([word.clone()]).map_err(|error| given.source.settings_error(error))?;
                words.push(word);
            }
            self.given.push(given);
        }
        if words.len() < 2 {
            return Ok(());
        }
        self.parse(words).map(drop).map_err(|error| match which {
            ConflictingLayer::File(_) => misconfigured(Mistake::Conflict(which, error)),
            ConflictingLayer::Variables => settings_error(Mistake::Conflict(which, error)),
        })
    }

    /// Whether a present layer overrides an option of a lower one: it has the same setting, or one
    /// that `cli` says conflicts with it.
    fn silences(&self, option: &str) -> bool {
        let command = self.command.borrow();
        let named = |long: &str| command.get_arguments().find(|one| one.get_long() == Some(long));
        let excludes = |one: &str, other: &str| {
            let conflicts = named(one).map(|one| command.get_arg_conflicts_with(one));
            conflicts.is_some_and(|all| all.iter().any(|one| one.get_long() == Some(other)))
        };
        self.given.iter().any(|GivenOption { option: given, value, .. }| {
            let conflicts = || excludes(given, option) || excludes(option, given);
            setting(given) == setting(option) || *value != GivenValue::Off && conflicts()
        })
    }

    /// All of it together.
    pub(super) fn merged<T: Args>(&self) -> Result<Merged<T>, SettingsError> {
        // Parsed once more it would be the same.
        let same = |_: &_| self.given.iter().all(|given| given.source == Source::Flag);
        let parsed = self.typed.take().filter(same).map_or_else(
            || {
                let words = self.given.iter().rev().filter_map(GivenOption::word);
                let operands = std::iter::once("--".into()).chain(self.operands.iter().cloned());
                self.parse(words.chain(operands))
            },
            Ok,
        );
        let merged = parsed.and_then(|mut matches| Merged::from_arg_matches_mut(&mut matches));
        merged.map_err(settings_error)
    }

    fn parse(&self, words: impl IntoIterator<Item = OsString>) -> Result<ArgMatches, clap::Error> {
        let words = std::iter::once("semrun".into()).chain(words);
        self.command.borrow_mut().try_get_matches_from_mut(words)
    }

    /// Everything that was given and counts.
    pub(crate) fn given(&self) -> &[GivenOption] {
        &self.given
    }

    /// Where an option comes from, if it was given.
    pub(super) fn find(&self, option: &str) -> Option<&GivenOption> {
        self.given.iter().find(|given| given.option == option)
    }

    /// An error in an option's value, naming where the value comes from.
    pub(super) fn settings_error(&self, option: &str, what: impl Into<Mistake>) -> SettingsError {
        match self.find(option).map(|given| &given.source) {
            None | Some(Source::Flag) => settings_error(what),
            Some(source) => source.settings_error(what),
        }
    }

    /// Whether an option was typed.
    pub(super) fn types(&self, option: &str) -> bool {
        self.find(option).is_some_and(|given| given.source == Source::Flag)
    }

    /// Whether `one` was given by a higher layer than `other`.
    pub(super) fn outranks(&self, one: &str, other: &str) -> bool {
        let layer = |option| self.find(option).map_or(usize::MAX, |given| given.layer);
        layer(one) < layer(other)
    }
}
