//! Completion scripts: for bash, zsh and fish written here, as they have to know where semrun's
//! options end and its command begins, and complete names of semaphores.

mod bash;
mod fish;
mod zsh;

use clap::{Arg, Command, ValueHint};
use clap_complete::Shell;
use rustix::process::Signal;

use crate::cli;
use crate::supervise::signals;

/// The options that choose where names are looked up.
const PLACE: [&str; 8] = [
    "--backend",
    "--config",
    "--prefix",
    "--password-file",
    "--api-key-file",
    "--ca-file",
    "--client-cert",
    "--client-key",
];

/// Lists semaphores, and prints nothing else even on errors. Options that choose the place follow
/// `status`.
const LIST_NAMES: &str = "timeout 2 semrun status --json";
/// Finds their names in the document.
const FIND_NAMES: &str = r#"sed -n 's/^      "name": "\([^"\\]*\)",$/\1/p'"#;

/// A script for a shell.
pub(super) fn script(shell: Shell) -> Vec<u8> {
    let mut all = cli::documented();
    let text = match shell {
        Shell::Bash => bash::script(&CommandLine::of(&all)),
        Shell::Zsh => zsh::script(&CommandLine::of(&all)),
        Shell::Fish => fish::script(&CommandLine::of(&all)),
        other => {
            let mut script = Vec::new();
            clap_complete::generate(other, &mut all, "semrun", &mut script);
            return script;
        }
    };
    text.into_bytes()
}

/// All that can be typed.
struct CommandLine {
    run: Vec<CliOption>,
    subcommands: Vec<Subcommand>,
}

struct Subcommand {
    name: String,
    about: String,
    options: Vec<CliOption>,
    operands: Operands,
}

/// An option, under all its names, with their dashes.
struct CliOption {
    names: Vec<String>,
    help: String,
    /// None: it takes no value.
    value: Option<Values>,
}

enum Values {
    OneOf(Vec<String>),
    /// Of semaphores.
    Names,
    Files,
    Directories,
    Other,
}

enum Operands {
    None,
    Names,
    /// One.
    Name,
    /// One, and a number that cannot be guessed.
    NameAndNumber,
    OneOf(Vec<String>),
}

impl CommandLine {
    fn of(all: &Command) -> Self {
        let names: Vec<_> = all.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        let subcommand = |sub: &Command| Subcommand {
            name: sub.get_name().to_owned(),
            about: sub.get_about().map(ToString::to_string).unwrap_or_default(),
            options: options(sub),
            operands: match sub.get_positionals().next() {
                None => Operands::None,
                Some(names) if names.get_id() == "names" => Operands::Names,
                Some(name) if name.get_id() == "semaphore" => {
                    let alone = sub.get_positionals().count() == 1;
                    if alone { Operands::Name } else { Operands::NameAndNumber }
                }
                Some(_) if sub.get_name() == "help" => Operands::OneOf(names.clone()),
                Some(_) if sub.get_name() == "man" => {
                    let page = ["semrun.toml".to_owned()];
                    Operands::OneOf(names.iter().cloned().chain(page).collect())
                }
                Some(word) => Operands::OneOf(possible(word)),
            },
        };
        Self { run: options(all), subcommands: all.get_subcommands().map(subcommand).collect() }
    }

    /// Every option there is, each name once.
    fn all_options(&self) -> impl Iterator<Item = &CliOption> {
        self.run.iter().chain(self.subcommands.iter().flat_map(|sub| &sub.options))
    }

    /// The names of the subcommands.
    fn words(&self, between: &str) -> String {
        let words: Vec<_> = self.subcommands.iter().map(|sub| sub.name.as_str()).collect();
        words.join(between)
    }
}

fn options(command: &Command) -> Vec<CliOption> {
    command.get_arguments().filter(|one| !one.is_positional()).map(option).collect()
}

fn option(argument: &Arg) -> CliOption {
    let shorts = argument.get_short_and_visible_aliases().unwrap_or_default();
    let longs = argument.get_long_and_visible_aliases().unwrap_or_default();
    let shorts = shorts.into_iter().map(|short| format!("-{short}"));
    let names = shorts.chain(longs.into_iter().map(|long| format!("--{long}"))).collect();
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let clause = help.split([';', '[']).next().unwrap_or_default().trim().to_owned();
    let values = possible(argument);
    let value = argument.get_action().takes_values().then(|| {
        match (argument.get_id().as_str(), argument.get_value_hint()) {
            _ if !values.is_empty() => Values::OneOf(values),
            ("name", _) => Values::Names,
            ("signal", _) => {
                let all = (1..=31).filter_map(Signal::from_named_raw);
                let names = all.map(|signal| signals::name(signal).into_owned());
                Values::OneOf(names.filter(|name| name != "?").collect())
            }
            (_, ValueHint::FilePath) => Values::Files,
            (_, ValueHint::DirPath) => Values::Directories,
            _ => Values::Other,
        }
    });
    CliOption { names, help: clause, value }
}

fn possible(argument: &Arg) -> Vec<String> {
    let values = argument.get_possible_values();
    let values = values.iter().map(|value| value.get_name().to_owned());
    if argument.get_action().takes_values() { values.collect() } else { Vec::new() }
}
