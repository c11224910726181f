//! From what was typed and set to what is wanted: flags over variables over defaults, checked, in
//! plain values. Everything that can be wrong with them is found here, before anything starts.

mod location;
mod server;

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Parser};
use rustix::process::Signal;

use self::location::{fits_redis, location};
pub(crate) use self::server::Serve;
use crate::backends::Name;
use crate::backends::connect::Location;
use crate::cli::{self, BackendOptions, Layer, LoudnessOptions, Options, RunOnly, Sub, SubOnly};
use crate::exit::{Failure, LOST, NOT_ACQUIRED};
use crate::supervise::Supervision;
use crate::supervise::deadline::{default_kill_after, shortest_ttl};
use crate::supervise::policy::{OnLost, Orphans, Rules};
use crate::terminal::Loudness;

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Task {
    Run(Box<Run>),
    Status(Status),
    Serve(Serve),
    Completions(clap_complete::Shell),
    Man(Option<String>),
    /// Help or the version, which clap knows how to print.
    Print(clap::Error),
}

#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) name: Name,
    pub(crate) location: Location,
    pub(crate) limit: u32,
    pub(crate) strict_limit: bool,
    pub(crate) ttl: Duration,
    /// Whether the user named the TTL.
    pub(crate) ttl_given: bool,
    pub(crate) wait: Wait,
    pub(crate) conflict_exit_code: u8,
    pub(crate) lost_exit_code: u8,
    pub(crate) supervision: Supervision,
    pub(crate) label: String,
    pub(crate) program: OsString,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) loudness: Loudness,
}

/// How long to wait for a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    Not,
    AtMost(Duration),
    ForEver,
}

#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) location: Location,
    /// All semaphores where there is none.
    pub(crate) names: Vec<Name>,
    /// What to compare with where no limit is in force.
    pub(crate) limit: u32,
    pub(crate) json: bool,
}

/// Something about the options is wrong; the text says what to change.
#[derive(Debug)]
pub(crate) struct Misuse {
    pub(crate) failure: Failure,
    text: String,
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Misuse {}

impl Misuse {
    pub(crate) fn new(failure: Failure, text: impl Into<String>) -> Self {
        Self { failure, text: text.into() }
    }
}

/// The variables of the environment.
pub(crate) type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Understands a command line, its program's name included.
pub(crate) fn read(line: &[OsString], variables: Variables<'_>) -> Result<Task, Misuse> {
    let typed = match RunOnly::try_parse_from(line) {
        Ok(typed) => typed.run,
        Err(error) => return print_or_misuse(&error, line, &[]),
    };
    // The first operand ends the options; `--` in front of it says that it is the command.
    let first = line.len() - typed.operands.len();
    let plain = first > 0 && line[first - 1] != "--";
    match typed.operands.first() {
        Some(word) if typed.options.name.is_none() && plain && cli::is_subcommand(word) => {
            subcommand(&typed.options, &typed.operands, variables)
        }
        _ => run(typed, variables).map(|run| Task::Run(Box::new(run))),
    }
}

fn subcommand(
    before: &Options,
    words: &[OsString],
    variables: Variables<'_>,
) -> Result<Task, Misuse> {
    let parsed = match SubOnly::try_parse_from(words) {
        Ok(parsed) => parsed.subcommand,
        Err(error) => return print_or_misuse(&error, words, &words[..1]),
    };
    let allowed = Options { backend: before.backend.clone(), ..Options::default() };
    if *before != allowed {
        let sub = words[0].to_string_lossy();
        return Err(misuse(format!(
            "of the options before '{sub}' only those that choose the backend go with it"
        )));
    }
    Ok(match parsed {
        Sub::Status(status) => {
            let flags = Options {
                backend: status.backend.over(before.backend.clone()),
                limit: status.limit,
                ..Options::default()
            };
            let lower: Layer = from_variables(variables, |long| {
                !flags.silence(long) && (long == "limit" || BackendOptions::has(long))
            })?;
            let backend = flags.backend.clone();
            let options = flags.over(lower.options);
            let location = location(&backend, &options, variables)?;
            if matches!(location, Location::Redis(_)) {
                status.names.iter().try_for_each(|name| fits_redis("the name", name))?;
            }
            Task::Status(Status {
                location,
                names: status.names,
                limit: options.limit.unwrap_or(1),
                json: status.json,
            })
        }
        Sub::Serve(typed) => Task::Serve(server::settings(typed, &before.backend, variables)?),
        Sub::Completions { shell } => Task::Completions(shell),
        Sub::Man { subcommand } => Task::Man(subcommand),
    })
}

/// The default of `--ttl`.
const TTL: Duration = Duration::from_secs(30);
/// The default of `--retry-interval`.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// The default of `--kill-after` where no lease ends: runners of CI jobs kill what is left a
/// little later than this.
const KILL_AFTER: Duration = Duration::from_secs(5);

fn run(typed: cli::Run, variables: Variables<'_>) -> Result<Run, Misuse> {
    let flags = typed.options.backend.clone();
    let lower: Layer = from_variables(variables, |long| !typed.options.silence(long))?;
    let options = typed.options.over(lower.options);
    let location = location(&flags, &options, variables)?;
    let (program, arguments) = match (typed.command, typed.operands) {
        (Some(text), _) => {
            let shell = variables("SHELL").filter(|shell| !shell.is_empty());
            (shell.unwrap_or_else(|| "/bin/sh".into()), vec!["-c".into(), text])
        }
        (None, operands) => {
            let mut operands = operands.into_iter();
            let Some(program) = operands.next() else {
                return Err(misuse("no command to run; give it behind the options"));
            };
            (program, operands.collect())
        }
    };
    let Some(name) = options.name.clone() else {
        return Err(misuse("no semaphore named; give --name NAME"));
    };
    if matches!(location, Location::Redis(_)) {
        fits_redis("the name", &name)?;
    }
    let ttl = options.ttl.unwrap_or(TTL);
    let rules = Rules {
        orphans: options.orphans.unwrap_or(Orphans::Leave),
        foreground: options.foreground,
        stop_signal: options.signal.unwrap_or(Signal::TERM),
        on_lost: options.on_lost.unwrap_or(OnLost::Kill),
    };
    let kill_after = kill_after(&options, &location, ttl)?;
    let file_name = Path::new(&program).file_name().unwrap_or(&program);
    let label = options.label.clone().unwrap_or_else(|| printable(file_name));
    Ok(Run {
        location,
        name,
        limit: options.limit.unwrap_or(1),
        strict_limit: options.strict_limit,
        ttl,
        ttl_given: options.ttl.is_some(),
        wait: wait(&options)?,
        conflict_exit_code: options.conflict_exit_code.unwrap_or(NOT_ACQUIRED),
        lost_exit_code: options.lost_exit_code.unwrap_or(LOST),
        supervision: Supervision {
            rules,
            kill_after: (!kill_after.is_zero()).then_some(kill_after),
        },
        label,
        program,
        arguments,
        loudness: match options.loudness {
            LoudnessOptions { verbose: true, .. } => Loudness::Verbose,
            LoudnessOptions { quiet: true, .. } => Loudness::Quiet,
            LoudnessOptions { .. } => Loudness::Normal,
        },
    })
}

fn wait(options: &Options) -> Result<Wait, Misuse> {
    if options.retry_interval.is_some() && options.max_attempts.is_none() {
        return Err(misuse("--retry-interval says nothing without --max-attempts"));
    }
    let retries = options
        .max_attempts
        .map(|attempts| options.retry_interval.unwrap_or(RETRY_INTERVAL).saturating_mul(attempts));
    Ok(match options.wait.or(retries) {
        _ if options.nonblock => Wait::Not,
        Some(Duration::ZERO) => Wait::Not,
        Some(most) => Wait::AtMost(most),
        None => Wait::ForEver,
    })
}

fn kill_after(options: &Options, location: &Location, ttl: Duration) -> Result<Duration, Misuse> {
    if !location.expires() {
        return Ok(options.kill_after.unwrap_or(KILL_AFTER));
    }
    let kill_after = options.kill_after.unwrap_or(default_kill_after(ttl));
    match shortest_ttl(kill_after, ttl) {
        None => Ok(kill_after),
        Some(shortest) => Err(misuse(format!(
            "--kill-after {} does not fit into a TTL of {}; the smallest --ttl that it fits into is \
             {}",
            humantime::format_duration(kill_after),
            humantime::format_duration(ttl),
            humantime::format_duration(shortest)
        ))),
    }
}

impl Options {
    /// Whether this layer decides what an option of a lower one would say: by the same option,
    /// or by one that conflicts with it. The backend is looked up by [`location()`].
    fn silence(&self, long: &str) -> bool {
        match long {
            "name" => self.name.is_some(),
            "backend" => true,
            "prefix" => self.backend.prefix.is_some(),
            "password-file" => self.backend.password_file.is_some(),
            "api-key-file" => self.backend.api_key_file.is_some(),
            "ca-file" => self.backend.ca_file.is_some(),
            "client-cert" => self.backend.client_cert.is_some(),
            "client-key" => self.backend.client_key.is_some(),
            "limit" => self.limit.is_some(),
            "strict-limit" => self.strict_limit,
            "ttl" => self.ttl.is_some(),
            "wait" | "nonblock" | "max-attempts" | "retry-interval" if self.bounds_waiting() => {
                // How far apart the attempts are may come from below.
                long != "retry-interval"
                    || self.max_attempts.is_none()
                    || self.retry_interval.is_some()
            }
            "retry-interval" => self.retry_interval.is_some(),
            "conflict-exit-code" => self.conflict_exit_code.is_some(),
            "lost-exit-code" => self.lost_exit_code.is_some(),
            "signal" => self.signal.is_some(),
            "kill-after" => self.kill_after.is_some(),
            "on-lost" => self.on_lost.is_some(),
            "orphans" => self.orphans.is_some(),
            "foreground" => self.foreground,
            "label" => self.label.is_some(),
            "quarantine" => self.quarantine.is_some(),
            "allow-eviction" => self.allow_eviction,
            "verbose" | "quiet" => self.loudness.verbose || self.loudness.quiet,
            _ => false,
        }
    }

    /// Whether it says for how long to wait, in any way.
    fn bounds_waiting(&self) -> bool {
        self.wait.is_some() || self.nonblock || self.max_attempts.is_some()
    }

    /// This layer on top of a lower one, in which nothing is left that it silences.
    fn over(self, lower: Self) -> Self {
        Self {
            name: self.name.or(lower.name),
            backend: self.backend.over(lower.backend),
            limit: self.limit.or(lower.limit),
            strict_limit: self.strict_limit || lower.strict_limit,
            ttl: self.ttl.or(lower.ttl),
            wait: self.wait.or(lower.wait),
            nonblock: self.nonblock || lower.nonblock,
            max_attempts: self.max_attempts.or(lower.max_attempts),
            retry_interval: self.retry_interval.or(lower.retry_interval),
            conflict_exit_code: self.conflict_exit_code.or(lower.conflict_exit_code),
            lost_exit_code: self.lost_exit_code.or(lower.lost_exit_code),
            signal: self.signal.or(lower.signal),
            kill_after: self.kill_after.or(lower.kill_after),
            on_lost: self.on_lost.or(lower.on_lost),
            orphans: self.orphans.or(lower.orphans),
            foreground: self.foreground || lower.foreground,
            label: self.label.or(lower.label),
            quarantine: self.quarantine.or(lower.quarantine),
            allow_eviction: self.allow_eviction || lower.allow_eviction,
            loudness: LoudnessOptions {
                verbose: self.loudness.verbose || lower.loudness.verbose,
                quiet: self.loudness.quiet || lower.loudness.quiet,
            },
        }
    }
}

impl BackendOptions {
    /// Whether an option is one of these. The URL is looked up by [`location()`].
    fn has(long: &str) -> bool {
        ["prefix", "password-file", "api-key-file", "ca-file", "client-cert", "client-key"]
            .contains(&long)
    }

    fn over(self, lower: Self) -> Self {
        Self {
            backend: self.backend.or(lower.backend),
            prefix: self.prefix.or(lower.prefix),
            password_file: self.password_file.or(lower.password_file),
            api_key_file: self.api_key_file.or(lower.api_key_file),
            ca_file: self.ca_file.or(lower.ca_file),
            client_cert: self.client_cert.or(lower.client_cert),
            client_key: self.client_key.or(lower.client_key),
        }
    }
}

/// The layer of variables: each is parsed as the option whose name it bears. Those that are not
/// wanted, because a flag silences them say, are not even looked at.
fn from_variables<L: Parser>(
    variables: Variables<'_>,
    wanted: impl Fn(&str) -> bool,
) -> Result<L, Misuse> {
    let mut words = Vec::new();
    for argument in L::command().get_arguments() {
        let (Some(long), Some(variable)) = (argument.get_long(), cli::variable(argument)) else {
            continue;
        };
        if !wanted(long) {
            continue;
        }
        // An empty variable is the usual way to unset one for a single call.
        let Some(value) = variables(&variable).filter(|value| !value.is_empty()) else {
            continue;
        };
        let word = if matches!(argument.get_action(), ArgAction::SetTrue) {
            match value.to_str() {
                Some("1" | "true") => OsString::from(format!("--{long}")),
                Some("0" | "false") => continue,
                _ => {
                    return Err(misuse(format!("{variable} is not one of 1, 0, true, false")));
                }
            }
        } else {
            let mut word = OsString::from(format!("--{long}="));
            word.push(value);
            word
        };
        if let Err(error) = L::try_parse_from([&word]) {
            return Err(misuse(format!("{variable}: {}", one_line(&error))));
        }
        words.push(word);
    }
    L::try_parse_from(words)
        .map_err(|error| misuse(format!("the variables SEMRUN_… conflict: {}", one_line(&error))))
}

/// Help and the version are asked for by an "error" of clap's.
fn print_or_misuse(
    error: &clap::Error,
    words: &[OsString],
    subcommand: &[OsString],
) -> Result<Task, Misuse> {
    let flag = match error.kind() {
        ErrorKind::DisplayVersion => "--version",
        ErrorKind::DisplayHelp if words.iter().any(|word| word == "--help") => "--help",
        ErrorKind::DisplayHelp => "-h",
        _ => return Err(misuse(format!("{}; try 'semrun --help'", one_line(error)))),
    };
    let words = [OsStr::new("semrun")].into_iter();
    let words = words.chain(subcommand.iter().map(AsRef::as_ref)).chain([OsStr::new(flag)]);
    match cli::documented().try_get_matches_from(words) {
        Err(page) => Ok(Task::Print(page)),
        Ok(_) => Err(misuse("no help for that")),
    }
}

/// What clap has to say, in one line without control characters.
fn one_line(error: &clap::Error) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    if let (ErrorKind::ValueValidation, Some(value), Some(argument)) =
        (error.kind(), context(ContextKind::InvalidValue), context(ContextKind::InvalidArg))
    {
        let reason = std::error::Error::source(error).map(ToString::to_string);
        let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        return format!("invalid value '{}' for '{argument}'{reason}", shortened(value));
    }
    let text = error.to_string();
    let paragraphs = text.split("\n\n").map(|paragraph| paragraph.replace('\n', " "));
    let told = paragraphs
        .filter(|paragraph| !paragraph.starts_with("Usage:") && !paragraph.starts_with("For more"));
    let text = told.collect::<Vec<_>>().join("; ");
    let text = text.trim().trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>();
    printable(OsStr::new(&text.join(" ")))
}

fn shortened(value: &str) -> String {
    const SHOWN: usize = 60;
    let mut text: String = printable(OsStr::new(value)).chars().take(SHOWN).collect();
    if text.len() < value.len() && text.chars().count() == SHOWN {
        text.push('…');
    }
    text
}

/// Text that cannot disturb a terminal.
fn printable(text: &OsStr) -> String {
    text.to_string_lossy().chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}

fn misuse(text: impl Into<String>) -> Misuse {
    Misuse { failure: Failure::Usage, text: text.into() }
}

/// The variables that this process was started with.
pub(crate) fn environment(name: &str) -> Option<OsString> {
    env::var_os(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_with(line: &str, set: &[(&str, &str)]) -> Result<Task, Misuse> {
        let line: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let find =
            |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        read(&line, &find)
    }

    fn run_with(line: &str, set: &[(&str, &str)]) -> Run {
        match read_with(line, set) {
            Ok(Task::Run(run)) => *run,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn command(run: &Run) -> String {
        let words = [&run.program].into_iter().chain(&run.arguments);
        words.map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn options_end_at_the_first_operand() {
        let run = run_with("semrun --name x sh -c exit -n --name y", &[]);
        assert_eq!(command(&run), "sh -c exit -n --name y");
        assert_eq!((run.name.as_str(), run.wait), ("x", Wait::ForEver));
        assert_eq!(command(&run_with("semrun --name x -- -n", &[])), "-n");
    }

    #[test]
    fn a_flag_counts_more_than_a_variable_and_silences_what_conflicts_with_it() {
        let set = [("SEMRUN_LIMIT", "3"), ("SEMRUN_NONBLOCK", "1"), ("SEMRUN_QUIET", "true")];
        let run = run_with("semrun --name x true", &set);
        assert_eq!((run.limit, run.wait, run.loudness), (3, Wait::Not, Loudness::Quiet));
        let run = run_with("semrun --name x -l 5 -w 2 -v true", &set);
        let wait = Wait::AtMost(Duration::from_secs(2));
        assert_eq!((run.limit, run.wait, run.loudness), (5, wait, Loudness::Verbose));
        let run = run_with("semrun --name x -n true", &[("SEMRUN_WAIT", "5s")]);
        assert_eq!(run.wait, Wait::Not);
        // Also what would be wrong with them.
        let set = [("SEMRUN_LIMIT", "many"), ("SEMRUN_NONBLOCK", "1"), ("SEMRUN_WAIT", "5")];
        assert_eq!(run_with("semrun --name x -l 5 -w 2 true", &set).wait, wait);
    }

    #[test]
    fn attempts_bound_the_waiting_and_conflict_with_other_bounds() {
        let wait = |line: &str, set| run_with(line, set).wait;
        let at_most = |millis| Wait::AtMost(Duration::from_millis(millis));
        assert_eq!(wait("semrun --name x --max-attempts 5 true", &[]), at_most(2_500));
        let set = [("SEMRUN_MAX_ATTEMPTS", "5"), ("SEMRUN_RETRY_INTERVAL", "100ms")];
        assert_eq!(wait("semrun --name x true", &set), at_most(500));
        assert_eq!(wait("semrun --name x --max-attempts 3 true", &set), at_most(300));
        assert_eq!(wait("semrun --name x --retry-interval 1 true", &set), at_most(5_000));
        assert_eq!(wait("semrun --name x -w 7 true", &set), at_most(7_000));
        assert_eq!(wait("semrun --name x -n true", &set), Wait::Not);
        assert_eq!(wait("semrun --name x --max-attempts 0 true", &[]), Wait::Not);
    }

    #[test]
    fn a_short_lease_shortens_the_time_between_signal_and_kill() {
        let after = |line: &str| run_with(line, &[]).supervision.kill_after;
        let redis = "semrun --name x --backend redis://h";
        assert_eq!(after("semrun --name x true"), Some(Duration::from_secs(5)));
        assert_eq!(after(&format!("{redis} true")), Some(Duration::from_secs(5)));
        assert_eq!(after(&format!("{redis} --ttl 6s true")), Some(Duration::from_millis(1_500)));
        assert_eq!(after(&format!("{redis} -k 0 true")), None);
        // Where permits do not expire nothing has to fit.
        assert_eq!(after("semrun --name x -k 1h true"), Some(Duration::from_hours(1)));
    }

    #[test]
    fn a_variable_can_be_false_or_empty() {
        let set = [("SEMRUN_NONBLOCK", "0"), ("SEMRUN_LIMIT", ""), ("SEMRUN_FOREGROUND", "false")];
        let run = run_with("semrun --name x true", &set);
        assert_eq!(
            (run.wait, run.limit, run.supervision.rules.foreground),
            (Wait::ForEver, 1, false)
        );
    }

    #[test]
    fn subcommand_names_are_commands_behind_a_name_on_the_command_line() {
        assert!(matches!(read_with("semrun status x", &[]), Ok(Task::Status(_))));
        assert_eq!(command(&run_with("semrun --name x status x", &[])), "status x");
        let set = [("SEMRUN_NAME", "x")];
        assert!(matches!(read_with("semrun status", &set), Ok(Task::Status(_))));
        assert_eq!(command(&run_with("semrun -- status", &set)), "status");
        assert_eq!(command(&run_with("semrun ls", &set)), "ls");
    }

    #[test]
    fn the_backend_may_be_chosen_before_or_behind_a_subcommand() {
        for line in ["semrun --backend file:///a status", "semrun status --backend file:///a"] {
            let Ok(Task::Status(status)) = read_with(line, &[]) else { panic!("{line}") };
            let Location::Directory(path) = status.location else { panic!("{line}") };
            assert_eq!(path, Path::new("/a"));
        }
        assert!(read_with("semrun -n status", &[]).is_err(), "an option that would be ignored");
    }

    #[test]
    fn the_label_never_shows_an_argument() {
        assert_eq!(run_with("semrun --name x /opt/bin/job --token secret", &[]).label, "job");
        let run = run_with("semrun --name x -c secret", &[("SHELL", "/bin/zsh")]);
        assert_eq!((run.label.as_str(), command(&run).as_str()), ("zsh", "/bin/zsh -c secret"));
    }

    #[test]
    fn a_mistake_is_one_line_with_the_right_code_and_no_secret() {
        type Mistake =
            (&'static str, &'static [(&'static str, &'static str)], Failure, &'static str);
        let mistakes: [Mistake; 22] = [
            ("semrun true", &[], Failure::Usage, "--name"),
            ("semrun --name x", &[], Failure::Usage, "no command"),
            ("semrun --name  true", &[], Failure::Usage, "cannot be empty"),
            ("semrun --name a\nb true", &[], Failure::Usage, "control characters"),
            ("semrun --name x -l 0 true", &[], Failure::Usage, "1 to 10,000"),
            ("semrun --name x -w soon true", &[], Failure::Usage, "duration"),
            ("semrun --name x -n -w 5 true", &[], Failure::Usage, "cannot be used with"),
            ("semrun --name x --limt 5 true", &[], Failure::Usage, "--limit"),
            ("semrun --name x true", &[("SEMRUN_LIMIT", "many")], Failure::Usage, "SEMRUN_LIMIT"),
            ("semrun --name x true", &[("SEMRUN_QUIET", "yes")], Failure::Usage, "SEMRUN_QUIET"),
            (
                "semrun --name x --backend ftp://u:geheim@h true",
                &[],
                Failure::Usage,
                "unknown scheme",
            ),
            (
                "semrun --name x --backend redis+cluster://u:geheim@h true",
                &[],
                Failure::Unsupported,
                "redis+cluster",
            ),
            ("semrun --name x --backend redis://u:geheim@ true", &[], Failure::Usage, "redis://["),
            ("semrun --name x{ --backend redis://h true", &[], Failure::Usage, "braces"),
            (
                "semrun --name x --backend redis://h --prefix {a} true",
                &[],
                Failure::Usage,
                "braces",
            ),
            (
                "semrun --name x --backend redis://h -k 20 true",
                &[],
                Failure::Usage,
                "smallest --ttl that it fits into is 52s",
            ),
            ("semrun --name x --ttl 4s true", &[], Failure::Usage, "shorter than 5s"),
            ("semrun --name x --retry-interval 1 true", &[], Failure::Usage, "--max-attempts"),
            ("semrun --name x --max-attempts 1 -n true", &[], Failure::Usage, "cannot be used"),
            (
                "semrun --name x --backend redis://h --client-cert /c true",
                &[],
                Failure::Usage,
                "--client-key",
            ),
            (
                "semrun --name x --backend redis://h --password-file /nonexistent true",
                &[],
                Failure::Unsupported,
                "/nonexistent",
            ),
            (
                "semrun --name x true",
                &[("SEMRUN_BACKEND", "ftp://u:geheim@h")],
                Failure::Usage,
                "SEMRUN_BACKEND",
            ),
        ];
        for (line, set, failure, text) in mistakes {
            let misuse = read_with(line, set).expect_err(line);
            assert_eq!(misuse.failure, failure, "{line}");
            let message = misuse.to_string();
            assert!(message.contains(text), "{line}: {message}");
            assert!(!message.contains('\n') && !message.contains("geheim"), "{line}: {message}");
        }
    }
}
