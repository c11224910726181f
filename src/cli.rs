//! The command line as clap sees it: options, their texts, and what a value may look like. No
//! I/O, no work, and no decision about what a combination means; that is `settings.rs`.

#![expect(clippy::doc_markdown, reason = "the help shows these texts as they are")]

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Arg, Args, Command, CommandFactory, Parser, Subcommand, ValueHint};
use rustix::process::Signal;

use crate::backends::Name;
use crate::serve::log::{Event, Format};
use crate::supervise::deadline::SHORTEST_TTL;
use crate::supervise::policy::{OnLost, Orphans};
use crate::supervise::signals;

/// The whole command line, for help, completions and man pages.
#[derive(Debug, Parser)]
#[command(
    name = "semrun",
    version,
    about = "Run a command while holding a permit of a named counting semaphore",
    override_usage = "semrun [OPTIONS] --name NAME [--] COMMAND [ARG]...\n       semrun status [NAME]...\n       semrun serve --api-key-file FILE",
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
Every option has a variable, named in its brackets; a flag counts more. Booleans are 1 0 true false.

Exit codes: the command's own, or 128+N if signal N ended it; 75 (or -E) no permit was free in
time; 76 (or --lost-exit-code) the permit was lost; 69 the backend cannot be reached or refused us;
64 usage; 78 bad configuration or not supported by this backend; 125 semrun itself failed; 126 the
command is not executable; 127 not found; 128+N semrun got signal N while it waited.";

/// `semrun [OPTIONS] --name NAME [--] COMMAND [ARG]...`
#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) options: Options,

    /// Run STR with $SHELL -c, or /bin/sh -c
    #[arg(short, long = "command", value_name = "STR", conflicts_with = "operands")]
    pub(crate) command: Option<OsString>,

    /// The command and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, value_hint = ValueHint::CommandWithArguments)]
    pub(crate) operands: Vec<OsString>,
}

/// What may also come from a variable: everything but the command itself.
#[derive(Debug, Default, Clone, PartialEq, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(crate) struct Options {
    /// The semaphore: 1 to 200 bytes of UTF-8 without control characters
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<Name>,

    #[command(flatten)]
    pub(crate) backend: BackendOptions,

    /// Permits in all, 1 to 10,000 [default: 1]. The limit of a semaphore that is in use stands
    #[arg(short, long, visible_short_alias = 'j', value_name = "N", value_parser = limit)]
    pub(crate) limit: Option<u32>,

    /// Another limit or TTL that is in force is an error
    #[arg(long)]
    pub(crate) strict_limit: bool,

    /// The lease of a permit where permits can expire, at least 5s; renewed while the command runs
    /// [default: 30s]. The TTL of a semaphore that is in use stands
    #[arg(long, value_name = "D", value_parser = ttl)]
    pub(crate) ttl: Option<Duration>,

    /// Wait at most D; 0 is -n [default: for ever]
    #[arg(short, long, visible_alias = "timeout", value_name = "D", value_parser = duration, conflicts_with = "nonblock")]
    pub(crate) wait: Option<Duration>,

    /// Wait at most N times --retry-interval, in the queue: what PassBuddy calls N attempts
    #[arg(long, value_name = "N", value_parser = attempts, conflicts_with_all = ["wait", "nonblock"])]
    pub(crate) max_attempts: Option<u32>,

    /// See --max-attempts [default: 500ms]
    #[arg(long, value_name = "D", value_parser = duration)]
    pub(crate) retry_interval: Option<Duration>,

    /// Do not wait
    #[arg(short = 'n', long, visible_aliases = ["nb", "no-wait"])]
    pub(crate) nonblock: bool,

    /// The exit code when no permit was acquired, 0 to 255 [default: 75]
    #[arg(short = 'E', long, value_name = "N", value_parser = code)]
    pub(crate) conflict_exit_code: Option<u8>,

    /// The exit code when the permit was lost, 0 to 255 [default: 76]
    #[arg(long, value_name = "N", value_parser = code)]
    pub(crate) lost_exit_code: Option<u8>,

    /// What semrun sends first when it stops a command of its own accord [default: TERM]
    #[arg(short, long, value_name = "SIG", value_parser = signals::parse)]
    pub(crate) signal: Option<Signal>,

    /// How long a command that is stopped has until its whole tree gets SIGKILL; 0: only when its
    /// lease ends [default: 5s, or a quarter of the TTL if that is less]
    #[arg(short, long, value_name = "D", value_parser = duration)]
    pub(crate) kill_after: Option<Duration>,

    /// What becomes of the command when its permit is lost [default: kill]
    #[arg(long, value_name = "WHAT", value_parser = on_lost())]
    pub(crate) on_lost: Option<OnLost>,

    /// What becomes of processes that the command left when it ended by itself [default: leave]
    #[arg(long, value_name = "WHAT", value_parser = orphans())]
    pub(crate) orphans: Option<Orphans>,

    /// Run the command in semrun's own process group
    #[arg(long)]
    pub(crate) foreground: bool,

    /// What `status` shows for this holder [default: the command's file name]
    #[arg(long, value_name = "TEXT", value_parser = label)]
    pub(crate) label: Option<String>,

    /// How long a Redis that remembers nothing has to be up before it grants anything: auto, 0
    /// for one that is thrown away, or a time [default: auto, the larger of 30s and the TTL]
    #[arg(long, value_name = "D", value_parser = quarantine)]
    pub(crate) quarantine: Option<Quarantine>,

    /// Use a Redis that may evict keys under memory pressure, and permits with them
    #[arg(long)]
    pub(crate) allow_eviction: bool,

    #[command(flatten)]
    pub(crate) loudness: LoudnessOptions,
}

/// `--quarantine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quarantine {
    Auto,
    For(Duration),
}

/// What every subcommand takes too, before or behind its name.
#[derive(Debug, Default, Clone, PartialEq, Args)]
pub(crate) struct BackendOptions {
    /// Where permits live: file:///PATH, redis://HOST or redis://USER:PASSWORD@HOST:PORT/DB, rediss://
    /// with TLS, redis+unix:///PATH, http://HOST:PORT or https:// for a cloud-semaphore server [default: /run/semrun for root, ~/.local/state/semrun for others]
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub(crate) backend: Option<String>,

    /// Namespace of the keys in Redis [default: semrun]
    #[arg(long, value_name = "P")]
    pub(crate) prefix: Option<Name>,

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
}

#[derive(Debug, Default, Clone, PartialEq, Args)]
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
    /// Serve semaphores to cloud-semaphore clients, those for Node and our own
    Serve(Serve),
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

#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 a permit is free (of every NAME), 75 all are taken, 69 the \
backend cannot be reached or refused us.")]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) backend: BackendOptions,

    /// The limit to compare with where only foreign clients hold permits [default: 1]
    #[arg(short, long, value_name = "N", value_parser = limit)]
    pub(crate) limit: Option<u32>,

    /// Print a JSON document (docs/status.md has its fields)
    #[arg(long)]
    pub(crate) json: bool,

    /// The semaphores to show
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<Name>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Stops in good order on SIGTERM. Without --state-dir a restart forgets all permits; docs/serve.md\nsays what that costs."
)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) options: ServeOptions,
}

/// What may also come from a variable.
#[derive(Debug, Default, Clone, PartialEq, Args)]
pub(crate) struct ServeOptions {
    /// The API keys that are accepted, one a line, each with a label for the log behind a space;
    /// also in the variable SEMRUN_API_KEY
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) api_key_file: Option<PathBuf>,

    /// Where to listen; port 0 is any that is free [default: 127.0.0.1:3202]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,

    /// The certificate to serve HTTPS with, and those that lead to it (PEM); with --tls-key
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) tls_cert: Option<PathBuf>,

    /// The key of --tls-cert (PEM)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) tls_key: Option<PathBuf>,

    /// Where to record permits, so that they outlive a restart
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) state_dir: Option<PathBuf>,

    /// What to log beside info and alert, on standard error
    #[arg(long, value_name = "EVENT,…", value_delimiter = ',', value_parser = event())]
    pub(crate) log: Vec<Event>,

    /// How the log looks [default: text]
    #[arg(long, value_name = "FORMAT", value_parser = format())]
    pub(crate) log_format: Option<Format>,
}

/// The options of `serve` alone, for a layer below the command line.
#[derive(Debug, Parser)]
#[command(
    name = "semrun",
    no_binary_name = true,
    args_override_self = true,
    disable_help_flag = true
)]
pub(crate) struct ServeLayer {
    #[command(flatten)]
    pub(crate) options: ServeOptions,
}

/// The options of a run alone, for a layer below the command line.
#[derive(Debug, Parser)]
#[command(
    name = "semrun",
    no_binary_name = true,
    args_override_self = true,
    disable_help_flag = true
)]
pub(crate) struct Layer {
    #[command(flatten)]
    pub(crate) options: Options,
}

/// A run without subcommands: its first operand ends the options, whatever it is.
#[derive(Debug, Parser)]
#[command(name = "semrun", version, args_override_self = true)]
pub(crate) struct RunOnly {
    #[command(flatten)]
    pub(crate) run: Run,
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

/// The variable of an option: `SEMRUN_` and its long name. None for what has none: operands, and
/// what is meant for one call alone.
pub(crate) fn variable(argument: &Arg) -> Option<String> {
    const ONE_CALL: [&str; 4] = ["command", "json", "help", "version"];
    let long = argument.get_long().filter(|long| !ONE_CALL.contains(long))?;
    Some(format!("SEMRUN_{}", long.to_ascii_uppercase().replace('-', "_")))
}

/// Whether a word is a subcommand.
pub(crate) fn is_subcommand(word: &std::ffi::OsStr) -> bool {
    Cli::command().get_subcommands().any(|sub| sub.get_name() == word)
}

fn limit(text: &str) -> Result<u32, String> {
    let limit = text.parse().ok().filter(|limit| (1..=10_000).contains(limit));
    limit.ok_or_else(|| "not a whole number from 1 to 10,000".into())
}

fn ttl(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        ttl if ttl < SHORTEST_TTL => Err(format!("shorter than {SHORTEST_TTL:?}")),
        ttl => Ok(ttl),
    }
}

fn attempts(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "not a whole number".into())
}

fn quarantine(text: &str) -> Result<Quarantine, String> {
    if text == "auto" { Ok(Quarantine::Auto) } else { duration(text).map(Quarantine::For) }
}

fn on_lost() -> impl TypedValueParser<Value = OnLost> {
    PossibleValuesParser::new(["kill", "continue"]).map(|text| match text.as_str() {
        "continue" => OnLost::Continue,
        _ => OnLost::Kill,
    })
}

fn event() -> impl TypedValueParser<Value = Event> {
    let named = |text: String| Event::ALL.into_iter().find(|(name, _)| *name == text);
    PossibleValuesParser::new(Event::ALL.map(|(name, _)| name))
        .map(move |text| named(text).map_or(Event::Info, |(_, event)| event))
}

fn format() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(["text", "json"]).map(|text| match text.as_str() {
        "json" => Format::Json,
        _ => Format::Text,
    })
}

fn code(text: &str) -> Result<u8, String> {
    text.parse().map_err(|_| "not a whole number from 0 to 255".into())
}

fn label(text: &str) -> Result<String, String> {
    // Long enough for the address of a CI job, and others have to read it in a table.
    const MOST: usize = 200;
    if text.is_empty() || text.len() > MOST || text.chars().any(char::is_control) {
        return Err(format!("not 1 to {MOST} bytes without control characters"));
    }
    Ok(text.into())
}

fn orphans() -> impl TypedValueParser<Value = Orphans> {
    PossibleValuesParser::new(["leave", "wait", "kill"]).map(|text| match text.as_str() {
        "wait" => Orphans::Wait,
        "kill" => Orphans::Kill,
        _ => Orphans::Leave,
    })
}

/// Timers end somewhere beyond this, and nobody waits as long.
const LONGEST: Duration = Duration::from_hours(100 * 366 * 24);

/// `500ms`, `30s`, `1h 30m`, or a number of seconds with or without a fraction.
fn duration(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('.').unwrap_or(text);
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let duration = if is_number && !number.is_empty() {
        number.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    } else {
        humantime::parse_duration(text).ok()
    };
    let duration = duration.map(|duration| duration.min(LONGEST));
    duration.ok_or_else(|| "not a duration such as 500ms, 30s, 1h 30m or 2.5 (seconds)".into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_definitions_are_sound() {
        documented().debug_assert();
        RunOnly::command().debug_assert();
        SubOnly::command().debug_assert();
        Layer::command().debug_assert();
        ServeLayer::command().debug_assert();
    }

    #[test]
    fn durations_are_readable_words_or_plain_seconds() {
        let millis = |text| duration(text).map(|duration| duration.as_millis());
        assert_eq!(millis("500ms"), Ok(500));
        assert_eq!(millis("30s"), Ok(30_000));
        assert_eq!(millis("1h 30m"), Ok(5_400_000));
        assert_eq!(millis("0.2"), Ok(200));
        assert_eq!(millis(".5"), Ok(500));
        assert_eq!(millis("0"), Ok(0));
        for bad in ["", ".", "-1", "1e3", "inf", "nan", "five", "1..2", "1x", " "] {
            assert!(millis(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_option_of_a_run_has_a_variable_and_its_help_says_so() {
        let help = documented().render_long_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for argument in Layer::command().get_arguments() {
            let variable = variable(argument).unwrap_or_default();
            assert!(help.contains(&format!("[env: {variable}]")), "{variable}");
        }
    }

    proptest! {
        #[test]
        fn no_duration_text_panics(text in "\\PC{0,12}|[0-9.]{0,40}") {
            let _ = duration(&text);
        }
    }
}
