//! The command line as clap sees it: options, their texts, and what a value may look like. No
//! I/O, no work, and no decision about what a combination means; that is `settings.rs`.

#![expect(clippy::doc_markdown, reason = "the help shows these texts as they are")]

mod subcommands;
mod values;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, Args, Command, CommandFactory, Parser, Subcommand, ValueHint};
use rustix::process::Signal;

pub(crate) use self::subcommands::{Acquire, Doctor, Limit, Release, Renew, Serve, Status};
pub(crate) use self::values::LONGEST;
use crate::backends::Name;
use crate::supervise::policy::{OnLost, Orphans};
use crate::supervise::signals;

/// The whole command line, for help, completions and man pages.
#[derive(Debug, Parser)]
#[command(
    name = "semrun",
    version,
    about = "Run a command while holding a permit of a named counting semaphore",
    override_usage = "semrun [OPTIONS] --name NAME [--] COMMAND [ARG]...\n       semrun status [NAME]...\n       semrun acquire --name NAME | renew | release\n       semrun limit NAME [N | --unpin]\n       semrun serve --api-key-file FILE\n       semrun doctor",
    disable_help_subcommand = true,
    args_override_self = true,
    subcommand_negates_reqs = true,
    after_help = AFTER_HELP,
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) run: Run,
    #[command(subcommand)]
    pub(crate) subcommand: Option<Sub>,
}

const AFTER_HELP: &str = "\
Options end at the first operand: everything behind COMMAND is the command's.
Durations are 500ms, 30s, 1h 30m, or a plain number of seconds with or without a fraction.
Every option has a variable, named in its brackets, and a key of the same name in the configuration \
files: that of --config or else ~/.config/semrun/config.toml, and below it /etc/semrun/config.toml.
A flag counts more than a variable, and that more than a file. Booleans are 1 0 true false.

Exit codes: the command's own, or 128+N if signal N ended it; 75 (or -E) no permit was free in \
time; 76 (or --lost-exit-code) the permit was lost; 69 the backend cannot be reached or refused us; \
64 usage; 78 bad configuration or not supported by this backend; 124 --max-runtime; 125 semrun \
itself failed; 126 the command is not executable; 127 not found; 128+N semrun got signal N while \
it waited.";

/// `semrun [OPTIONS] --name NAME [--] COMMAND [ARG]...`
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) ask: AskOptions,

    #[command(flatten)]
    pub(crate) supervision: SupervisionOptions,

    #[command(flatten)]
    pub(crate) backend: BackendOptions,

    #[command(flatten)]
    pub(crate) loudness: LoudnessOptions,

    /// Run STR with $SHELL -c, or /bin/sh -c
    #[arg(short, long = "command", value_name = "STR", conflicts_with = "operands")]
    pub(crate) command: Option<OsString>,

    /// The command and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, value_hint = ValueHint::CommandWithArguments)]
    pub(crate) operands: Vec<OsString>,
}

/// What is wanted of a semaphore.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct AskOptions {
    /// The semaphore: 1 to 200 bytes of UTF-8 without control characters
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<Name>,

    /// Permits in all, 1 to 10,000 [default: 1]. The limit of a semaphore that is in use, or pinned,
    /// stands
    #[arg(short, long, visible_short_alias = 'j', value_name = "N", value_parser = values::limit)]
    pub(crate) limit: Option<u32>,

    /// Another limit or TTL that is in force is an error
    #[arg(long)]
    pub(crate) strict_limit: bool,

    /// The lease of a permit where permits can expire, at least 5s; renewed while the command runs
    /// [default: 30s]. The TTL of a semaphore that is in use stands
    #[arg(long, value_name = "D", value_parser = values::ttl)]
    pub(crate) ttl: Option<Duration>,

    /// Wait at most D; 0 is -n [default: for ever]
    #[arg(short, long, visible_alias = "timeout", value_name = "D", value_parser = values::duration, conflicts_with = "nonblock")]
    pub(crate) wait: Option<Duration>,

    /// Wait at most N times --retry-interval, in the queue: what PassBuddy calls N attempts
    #[arg(long, value_name = "N", value_parser = values::attempts, conflicts_with_all = ["wait", "nonblock"])]
    pub(crate) max_attempts: Option<u32>,

    /// See --max-attempts [default: 500ms]
    #[arg(long, value_name = "D", value_parser = values::duration)]
    pub(crate) retry_interval: Option<Duration>,

    /// Do not wait
    #[arg(short = 'n', long, visible_aliases = ["nb", "no-wait"])]
    pub(crate) nonblock: bool,

    /// The exit code when no permit was acquired, 0 to 255 [default: 75]
    #[arg(short = 'E', long, value_name = "N", value_parser = values::code)]
    pub(crate) conflict_exit_code: Option<u8>,

    /// The permit stays taken until D after it was acquired, also if the command ends sooner or this
    /// host dies: cron on hosts with skewed clocks runs once
    #[arg(long, value_name = "D", value_parser = values::duration)]
    pub(crate) min_hold: Option<Duration>,

    /// Wait a random time up to D before asking
    #[arg(long, value_name = "D", value_parser = values::duration)]
    pub(crate) jitter: Option<Duration>,

    /// What `status` shows for this holder [default: the command's file name, or acquire]
    #[arg(long, value_name = "TEXT", value_parser = values::label)]
    pub(crate) label: Option<String>,
}

/// How to look after a command.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct SupervisionOptions {
    /// The exit code when the permit was lost, 0 to 255 [default: 76]
    #[arg(long, value_name = "N", value_parser = values::code)]
    pub(crate) lost_exit_code: Option<u8>,

    /// What semrun sends first when it stops a command of its own accord [default: TERM]
    #[arg(short, long, value_name = "SIG", value_parser = signals::parse)]
    pub(crate) signal: Option<Signal>,

    /// How long a command that is stopped has until its whole tree gets SIGKILL; 0: only when its
    /// lease ends [default: 5s, or a quarter of the TTL if that is less]
    #[arg(short, long, value_name = "D", value_parser = values::duration)]
    pub(crate) kill_after: Option<Duration>,

    /// Stop the command when it has run for D; the exit code is 124 then
    #[arg(long, value_name = "D", value_parser = values::runtime)]
    pub(crate) max_runtime: Option<Duration>,

    /// What becomes of the command when its permit is lost [default: kill]
    #[arg(long, value_name = "WHAT", value_parser = values::on_lost())]
    pub(crate) on_lost: Option<OnLost>,

    /// What becomes of processes that the command left when it exited; one that is stopped leaves
    /// none [default: leave]
    #[arg(long, value_name = "WHAT", value_parser = values::orphans())]
    pub(crate) orphans: Option<Orphans>,

    /// Run the command in semrun's own process group
    #[arg(long)]
    pub(crate) foreground: bool,

    /// Keep SEMRUN_API_KEY, SEMRUN_PASSWORD, and a SEMRUN_BACKEND with a password in it, from the
    /// command
    #[arg(long)]
    pub(crate) clean_env: bool,
}

/// `--quarantine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quarantine {
    Auto,
    For(Duration),
}

/// What every subcommand takes too, before or behind its name.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct BackendOptions {
    /// Where permits live: file:///PATH, redis://HOST or redis://USER:PASSWORD@HOST:PORT/DB, rediss://
    /// with TLS, redis+unix:///PATH, http://HOST:PORT or https:// for a cloud-semaphore server [default: /run/semrun for root, ~/.local/state/semrun for others]
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub(crate) backend: Option<String>,

    /// Namespace of the keys in Redis [default: semrun]
    #[arg(long, value_name = "P")]
    pub(crate) prefix: Option<Name>,

    /// How long a Redis that remembers nothing has to be up before it grants anything: auto, 0
    /// for one that is thrown away, or a time [default: auto, the larger of 30s and the TTL]
    #[arg(long, value_name = "D", value_parser = values::quarantine)]
    pub(crate) quarantine: Option<Quarantine>,

    /// How many replicas of a Redis must be in step before it grants or renews anything; the most that
    /// one user of a semaphore asks for [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) replicas: Option<u32>,

    /// Use a Redis that may evict keys under memory pressure, and permits with them
    #[arg(long)]
    pub(crate) allow_eviction: bool,

    /// A file with the password for Redis in its first line; also in the variable SEMRUN_PASSWORD
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) password_file: Option<PathBuf>,

    /// A file with the API key for a cloud-semaphore server in its first line; also in the variable
    /// SEMRUN_API_KEY
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) api_key_file: Option<PathBuf>,

    /// The authorities to trust for TLS instead of the system's (PEM)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) ca_file: Option<PathBuf>,

    /// Our own certificate for TLS (PEM); with --client-key
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) client_cert: Option<PathBuf>,

    /// The key of --client-cert (PEM)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) client_key: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) config: ConfigOption,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct ConfigOption {
    /// A configuration file (TOML) instead of ~/.config/semrun/config.toml
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct LoudnessOptions {
    /// Say more
    #[arg(short, long, conflicts_with = "quiet")]
    pub(crate) verbose: bool,

    /// Say nothing but errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Sub {
    /// Show holders and waiters, of all semaphores without NAME
    Status(Status),
    /// Take a permit that outlives this process, for a job of several steps
    Acquire(Acquire),
    /// Extend a permit that was acquired
    Renew(Renew),
    /// Give back a permit that was acquired, or take one from somebody else
    Release(Release),
    /// Show, pin or unpin a semaphore's limit
    Limit(Limit),
    /// Serve semaphores to cloud-semaphore clients, those for Node and our own
    Serve(Serve),
    /// Check configuration, backend, clocks and the time to acquire
    Doctor(Doctor),
    /// Print a completion script for a shell
    Completions {
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Print a man page in roff: semrun's own, or that of a subcommand
    Man {
        #[arg(value_name = "SUBCOMMAND")]
        subcommand: Option<String>,
    },
}

/// What is wanted, from all places together, with the secrets that no flag may carry.
#[derive(Debug, Parser)]
#[command(name = "semrun", version, args_override_self = true)]
#[group(skip)]
pub(crate) struct Merged<T: Args> {
    #[command(flatten)]
    pub(crate) wanted: T,

    #[arg(long, hide = true, value_name = "TEXT")]
    pub(crate) password: Option<String>,

    #[arg(long, hide = true, value_name = "TEXT")]
    pub(crate) api_key: Option<String>,
}

/// A subcommand alone.
#[derive(Debug, Parser)]
#[command(
    name = "semrun",
    no_binary_name = true,
    args_override_self = true,
    disable_help_subcommand = true
)]
pub(crate) struct SubOnly {
    #[command(subcommand)]
    pub(crate) subcommand: Sub,
}

/// The documented command line: every option with its variable.
pub(crate) fn documented() -> Command {
    let mention = |argument: Arg| match variable(&argument) {
        Some(variable) => {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            argument.help(format!("{help} [env: {variable}]"))
        }
        None => argument,
    };
    Cli::command().mut_args(mention).mut_subcommands(|sub| sub.mut_args(mention))
}

/// What the variables of options begin with.
const VARIABLES: &str = "SEMRUN_";

/// The variable of an option: `SEMRUN_` and its long name. None for what has none: operands, and
/// what is meant for one call alone.
pub(crate) fn variable(argument: &Arg) -> Option<String> {
    const ONE_CALL: [&str; 10] = [
        "command",
        "force",
        "help",
        "json",
        "now",
        "shell",
        "unpin",
        "version",
        "watch",
        "while-pid",
    ];
    let long = argument.get_long().filter(|long| !ONE_CALL.contains(long))?;
    Some(format!("{VARIABLES}{}", long.to_ascii_uppercase().replace('-', "_")))
}

/// The long name of the option that has a variable of this name, if there is one.
pub(crate) fn option_of(variable: &OsStr) -> Option<String> {
    let name = variable.as_bytes().strip_prefix(VARIABLES.as_bytes())?;
    let name = str::from_utf8(name).ok()?;
    let plain = name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    plain.then(|| name.to_ascii_lowercase().replace('_', "-"))
}

/// Whether a word is a subcommand.
pub(crate) fn is_subcommand(word: &OsStr) -> bool {
    Cli::command().get_subcommands().any(|sub| sub.get_name() == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_are_sound() {
        documented().debug_assert();
        SubOnly::command().debug_assert();
        Merged::<Run>::command().debug_assert();
        Merged::<Acquire>::command().debug_assert();
        Merged::<Serve>::command().debug_assert();
        Merged::<Limit>::command().debug_assert();
    }

    #[test]
    fn every_option_has_a_variable_and_its_help_says_so() {
        let mut pages = vec![(Cli::command(), documented())];
        for sub in Cli::command().get_subcommands() {
            let documented = documented();
            let page = documented.find_subcommand(sub.get_name()).unwrap().clone();
            pages.push((sub.clone(), page));
        }
        for (command, mut page) in pages {
            let help = page.render_long_help().to_string();
            let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
            for argument in command.get_arguments() {
                let Some(variable) = variable(argument) else { continue };
                assert!(help.contains(&format!("[env: {variable}]")), "{variable}");
                assert_eq!(option_of(variable.as_ref()).as_deref(), argument.get_long());
            }
        }
    }
}
