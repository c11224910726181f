//! The command line as clap sees it: options, their texts, and the form of values. No I/O and no
//! work; `settings.rs` decides what a combination means.

#![expect(
    clippy::doc_markdown,
    rustdoc::broken_intra_doc_links,
    reason = "the help shows these texts as they are"
)]

pub(crate) mod help_text;
pub(crate) mod messages;
mod subcommands;
mod values;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, Args, CommandFactory, Parser, Subcommand, ValueHint};
use rustix::process::Signal;

pub(crate) use self::help_text::{brief, documented, usage};
pub(crate) use self::subcommands::{
    AcquireArgs, DoctorArgs, LimitArgs, ReleaseArgs, RenewArgs, ServeArgs, StatusArgs,
};
pub(crate) use self::values::LONGEST;
use crate::permits::Name;
use crate::supervise::policy::{OnLost, Orphans};
use crate::supervise::signals;

/// The whole command line, for help, completions and man pages.
#[derive(Debug, Parser)]
#[command(
    name = "semrun",
    version,
    about = "Run a command while holding a permit of a named counting semaphore",
    override_usage = "semrun [OPTIONS] --name NAME [--] COMMAND [ARG]...\n       semrun status [NAME]...\n       semrun acquire --name NAME | renew | release\n       semrun limit NAME [N | --unpin]\n       semrun serve --api-key-file FILE\n       semrun doctor\n       semrun help [SUBCOMMAND]",
    disable_help_subcommand = true,
    args_override_self = true,
    subcommand_negates_reqs = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(subcommand)]
    pub(crate) subcommand: Option<SubcommandArgs>,
}

/// `semrun [OPTIONS] --name NAME [--] COMMAND [ARG]...`
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) permit_options: PermitOptions,

    #[command(flatten)]
    pub(crate) supervision: SupervisionOptions,

    #[command(flatten)]
    pub(crate) backend: BackendOptions,

    #[command(flatten)]
    pub(crate) loudness: LoudnessOptions,

    /// Run STR with $SHELL -c, or /bin/sh -c
    #[arg(short, long = "command", value_name = "STR", conflicts_with = "operands")]
    pub(crate) command: Option<OsString>,

    /// Command to run, and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, value_hint = ValueHint::CommandWithArguments)]
    pub(crate) operands: Vec<OsString>,
}

/// What is wanted of a semaphore.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct PermitOptions {
    /// Name of the semaphore, 1 to 200 bytes of UTF-8; control characters are not allowed
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<Name>,

    /// How many may hold a permit at once [default: 1]; while the semaphore is in use or pinned, its
    /// present limit applies
    #[arg(short, long, visible_short_alias = 'j', value_name = "N", value_parser = values::limit)]
    pub(crate) limit: Option<u32>,

    /// Fail with exit code 78 if the semaphore already has another limit or TTL
    #[arg(long)]
    pub(crate) strict_limit: bool,

    /// How long a permit lasts unless it is renewed, at least 5s [default: 30s]; while the semaphore is
    /// in use, its present TTL applies
    #[arg(long, value_name = "D", value_parser = values::ttl)]
    pub(crate) ttl: Option<Duration>,

    /// Wait at most D [default: for ever]; 0 is the same as -n
    #[arg(short, long, visible_alias = "timeout", value_name = "D", value_parser = values::duration, conflicts_with = "nonblock")]
    pub(crate) wait: Option<Duration>,

    /// Wait at most N times --retry-interval; what PassBuddy calls N attempts, but in the queue
    #[arg(long, value_name = "N", value_parser = values::attempts, conflicts_with_all = ["wait", "nonblock"])]
    pub(crate) max_attempts: Option<u32>,

    /// How long each of --max-attempts waits [default: 500ms]
    #[arg(long, value_name = "D", value_parser = values::duration)]
    pub(crate) retry_interval: Option<Duration>,

    /// Do not wait if no permit is free
    #[arg(short = 'n', long, visible_aliases = ["nb", "no-wait"])]
    pub(crate) nonblock: bool,

    /// Exit code without a permit [default: 75]; 0 to 255
    #[arg(short = 'E', long, value_name = "N", value_parser = values::code)]
    pub(crate) conflict_exit_code: Option<u8>,

    /// Keep the permit taken until D after it was acquired, even if the command or the host ends
    /// sooner; a job of cron then runs once on hosts with different clocks
    #[arg(long, value_name = "D", value_parser = values::duration)]
    pub(crate) min_hold: Option<Duration>,

    /// Wait a random time of up to D before asking for a permit
    #[arg(long, value_name = "D", value_parser = values::duration)]
    pub(crate) jitter: Option<Duration>,

    /// Text that `status` shows for this holder [default: the command's file name, or acquire]
    #[arg(long, value_name = "TEXT", value_parser = values::label)]
    pub(crate) label: Option<String>,
}

/// How to look after a command.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct SupervisionOptions {
    /// Exit code if the permit was lost [default: 76]; 0 to 255
    #[arg(long, value_name = "N", value_parser = values::code)]
    pub(crate) lost_exit_code: Option<u8>,

    /// Signal that semrun sends first to stop the command [default: TERM]
    #[arg(short, long, value_name = "SIG", value_parser = signals::parse)]
    pub(crate) signal: Option<Signal>,

    /// Send SIGKILL to all processes of the command D after the first signal [default: 5s, or a quarter
    /// of the TTL if that is less]; with 0 only when the lease ends
    #[arg(short, long, value_name = "D", value_parser = values::duration)]
    pub(crate) kill_after: Option<Duration>,

    /// Stop the command after D (exit code 124)
    #[arg(long, value_name = "D", value_parser = values::runtime)]
    pub(crate) max_runtime: Option<Duration>,

    /// What to do with the command when its permit is lost [default: kill]
    #[arg(long, value_name = "WHAT", value_parser = values::on_lost())]
    pub(crate) on_lost: Option<OnLost>,

    /// What to do with processes that still run when the command has ended [default: leave]; a command
    /// that is stopped leaves none
    #[arg(long, value_name = "WHAT", value_parser = values::orphans())]
    pub(crate) orphans: Option<Orphans>,

    /// Run the command in semrun's own process group
    #[arg(long)]
    pub(crate) foreground: bool,

    /// Remove SEMRUN_API_KEY, SEMRUN_PASSWORD and a SEMRUN_BACKEND with a password from the command's
    /// environment
    #[arg(long)]
    pub(crate) clean_env: bool,
}

/// `--quarantine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quarantine {
    Auto,
    For(Duration),
}

/// What every subcommand takes too, before or after its name.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct BackendOptions {
    /// Keep permits at URL [default: on this machine]; file:///PATH,
    /// redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// with TLS, redis+unix:///PATH, or
    /// http://HOST:PORT and https:// for a cloud-semaphore server; without one /run/semrun for root,
    /// ~/.local/state/semrun for others
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub(crate) backend: Option<String>,

    /// Prefix of the keys in Redis [default: semrun]
    #[arg(long, value_name = "P")]
    pub(crate) prefix: Option<Name>,

    /// After Redis has lost its data, grant no permit until it has been up for D [default: auto, the
    /// larger of 30s and the TTL]; 0 never waits, for throw-away servers
    #[arg(long, value_name = "D", value_parser = values::quarantine)]
    pub(crate) quarantine: Option<Quarantine>,

    /// Grant and renew only while N replicas of Redis are in step [default: 0]; the highest number of
    /// all users of a semaphore applies
    #[arg(long, value_name = "N")]
    pub(crate) replicas: Option<u32>,

    /// Accept a Redis whose maxmemory-policy may delete permits
    #[arg(long)]
    pub(crate) allow_eviction: bool,

    /// Read the password for Redis from the first line of FILE; or set SEMRUN_PASSWORD
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) password_file: Option<PathBuf>,

    /// Read the API key for a cloud-semaphore server from the first line of FILE; or set SEMRUN_API_KEY
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) api_key_file: Option<PathBuf>,

    /// Trust the authorities in FILE (PEM) for TLS instead of the system's
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) ca_file: Option<PathBuf>,

    /// Present the certificate in FILE (PEM) to the server; needs --client-key
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) client_cert: Option<PathBuf>,

    /// Private key (PEM) of --client-cert
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) client_key: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) config: ConfigOption,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct ConfigOption {
    /// Read this configuration file (TOML) instead of ~/.config/semrun/config.toml
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct LoudnessOptions {
    /// Print what semrun decides
    #[arg(short, long, conflicts_with = "quiet")]
    pub(crate) verbose: bool,

    /// Print only errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SubcommandArgs {
    /// Show who holds and who waits (all semaphores if no NAME is given)
    Status(StatusArgs),
    /// Take a permit that outlives this process, for a job of several steps
    Acquire(AcquireArgs),
    /// Extend a permit that was acquired
    Renew(RenewArgs),
    /// Give back a permit that was acquired, or take one from its holder
    Release(ReleaseArgs),
    /// Show, pin or unpin a semaphore's limit
    Limit(LimitArgs),
    /// Run a cloud-semaphore server, for semrun and for the Node clients
    Serve(ServeArgs),
    /// Check configuration, backend and clocks without running anything
    Doctor(DoctorArgs),
    /// Print the help of semrun, or of a subcommand
    Help {
        /// The subcommand; without it the help of semrun
        #[arg(value_name = "SUBCOMMAND")]
        subcommand: Option<String>,
    },
    /// Print a completion script for a shell
    Completions {
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Print a man page in roff: semrun's own, or that of a subcommand
    Man {
        /// The subcommand, or semrun.toml for the configuration files; without it the page of semrun
        #[arg(value_name = "SUBCOMMAND")]
        subcommand: Option<String>,
    },
}

/// The settings from all sources, with the secrets that no flag may carry.
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
    pub(crate) subcommand: SubcommandArgs,
}

/// Words that other programs have for a run.
pub(crate) const RUNS: [&str; 5] = ["run", "exec", "lock", "with", "do"];

/// The prefix of the options' variables.
const VARIABLES: &str = "SEMRUN_";

/// The variable of an option: `SEMRUN_` and its long name. None for operands, and for options that
/// are meant for one call alone.
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
    Some(variable_of(long))
}

/// The variables of all options, and of the secrets that have none.
pub(crate) fn variables() -> Vec<String> {
    let all = Cli::command();
    let commands = all.get_subcommands().chain([&all]);
    let mut known: Vec<_> =
        commands.flat_map(|command| command.get_arguments().filter_map(variable)).collect();
    known.extend(["password", "api-key"].map(variable_of));
    known
}

/// The name of a variable with the long name of an option in it.
pub(crate) fn variable_of(long: &str) -> String {
    format!("{VARIABLES}{}", long.to_ascii_uppercase().replace('-', "_"))
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
        brief().debug_assert();
        SubOnly::command().debug_assert();
        Merged::<RunArgs>::command().debug_assert();
        Merged::<AcquireArgs>::command().debug_assert();
        Merged::<ServeArgs>::command().debug_assert();
        Merged::<LimitArgs>::command().debug_assert();
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

    #[test]
    fn every_option_has_a_heading_and_a_sentence_and_the_short_help_fits() {
        let all = documented();
        for command in [&all].into_iter().chain(all.get_subcommands()) {
            for argument in command.get_arguments() {
                let what = format!("{} {}", command.get_name(), help_text::option_name(argument));
                let counts = help_text::option_name(argument).starts_with("max-");
                let heading = argument.get_help_heading();
                assert!(argument.is_positional() || counts || heading.is_some(), "{what}");
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(!help.contains("behind") && !help.contains("somebody"), "{what}: {help}");
            }
        }
        let short = brief().term_width(80).render_help().to_string();
        assert!(short.lines().count() <= 24, "{short}");
        for sub in brief().get_subcommands() {
            let short = sub.clone().term_width(80).render_help().to_string();
            assert!(short.lines().count() <= 26 && !short.contains("--client-key"), "{short}");
        }
    }
}
