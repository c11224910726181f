//! The settings of a run, and of a permit.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use super::error::{Mistake, OptionsApart, SettingsError, settings_error};
use super::files::UnknownWord;
use super::layers::Layers;
use super::location::{Secrets, fits_redis, location, types_a_password};
use super::mistakes::{Slip, nameless};
use super::shell::{self, NoShell, SH};
use super::sources::CommandSources;
use crate::backends::url::Location;
use crate::cli::{self, LONGEST, LoudnessOptions, PermitOptions, SupervisionOptions};
use crate::console::Loudness;
use crate::exit::{LOST, NOT_ACQUIRED};
use crate::permits::Name;
use crate::permits::Terms;
use crate::printable::printable_os;
use crate::supervise::Supervision;
use crate::supervise::lease_deadlines::{default_kill_after, shortest_ttl};
use crate::supervise::policy::{OnLost, Orphans, Rules};

#[derive(Debug)]
pub(crate) struct RunSettings {
    pub(crate) request: PermitRequest,
    pub(crate) lost_exit_code: u8,
    pub(crate) supervision: Supervision,
    pub(crate) program: OsString,
    pub(crate) arguments: Vec<OsString>,
    /// A `$SHELL` that cannot run the line, and why.
    pub(crate) no_shell: Option<NoShell>,
    /// The variables of ours that the command does not get.
    pub(crate) withheld: Vec<&'static str>,
    /// Whether a password was typed, where others see it.
    pub(crate) typed_password: bool,
    /// Variables that do nothing, and are nearly ours.
    pub(crate) misspelt: Vec<UnknownWord>,
}

/// A permit that is wanted.
#[derive(Debug)]
pub(crate) struct PermitRequest {
    pub(crate) name: Name,
    pub(crate) location: Location,
    pub(crate) terms: Terms,
    /// Whether the user named the limit, and the TTL.
    pub(crate) limit_given: bool,
    pub(crate) ttl_given: bool,
    pub(crate) wait: Wait,
    pub(crate) conflict_exit_code: u8,
    /// The longest time to wait, by chance, before asking.
    pub(crate) jitter: Duration,
    pub(crate) label: String,
    pub(crate) loudness: Loudness,
    /// Options with a secret that were typed, and for which the place of the permits has no use.
    pub(crate) unused_secrets: Vec<&'static str>,
}

/// How long to wait for a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    Not,
    AtMost(Duration),
    ForEver,
}

/// The default of `--retry-interval`.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// The default of `--kill-after` where no lease ends: CI runners kill a little later than this.
const KILL_AFTER: Duration = Duration::from_secs(5);

pub(super) fn run(all: &CommandSources<'_>) -> Result<RunSettings, SettingsError> {
    let merged = all.layers.merged::<cli::RunArgs>()?;
    let secrets = Secrets::new(merged.password, merged.api_key);
    let cli::RunArgs { permit_options, supervision, backend, loudness, command, operands } =
        merged.wanted;
    let location = location(&backend, secrets, &all.layers)?;
    let mut no_shell = None;
    if permit_options.name.is_none() && command.is_none() && !operands.is_empty() {
        return Err(settings_error(Slip::Nameless(nameless(&operands))));
    }
    let (program, arguments) = match (command, operands) {
        (Some(text), _) => {
            let shell = all.around.variables.shell().cloned();
            let (shell, other) = shell.map_or((SH.into(), None), shell::or_sh);
            no_shell = other;
            (shell, vec!["-c".into(), text])
        }
        (None, operands) => {
            let mut operands = operands.into_iter();
            let Some(program) = operands.next() else {
                return Err(settings_error(Mistake::NoCommand(permit_options.name)));
            };
            (program, operands.collect())
        }
    };
    let file_name = Path::new(&program).file_name().unwrap_or(&program);
    let label = printable_os(file_name);
    let request = request(permit_options, &loudness, location, label, &all.layers)?;
    let kill_after =
        kill_after(supervision.kill_after, &request.location, request.terms.ttl, &all.layers)?;
    let withheld = if supervision.clean_env { all.around.variables.secrets() } else { Vec::new() };
    Ok(RunSettings {
        withheld,
        typed_password: types_a_password(&all.layers),
        misspelt: Vec::new(),
        lost_exit_code: supervision.lost_exit_code.unwrap_or(LOST),
        supervision: supervised(&supervision, kill_after),
        program,
        arguments,
        no_shell,
        request,
    })
}

/// `label` is what others see if nothing else was said.
pub(super) fn request(
    permit_options: PermitOptions,
    loudness: &LoudnessOptions,
    location: Location,
    label: String,
    layers: &Layers,
) -> Result<PermitRequest, SettingsError> {
    let wait = wait(&permit_options, layers)?;
    let Some(name) = permit_options.name else {
        return Err(settings_error(Mistake::NoName));
    };
    if matches!(location, Location::Redis(_)) {
        fits_redis("name", &name, layers)?;
    }
    let unused_secrets: &[_] = match location {
        Location::Default | Location::Directory(_) => &["password-file", "api-key-file"],
        Location::Redis(_) => &["api-key-file"],
        Location::Cloud(_) => &["password-file"],
    };
    let unused_secrets = unused_secrets.iter().copied().filter(|one| layers.types(one)).collect();
    let usual = Terms::default();
    Ok(PermitRequest {
        name,
        location,
        terms: Terms {
            limit: permit_options.limit.unwrap_or(usual.limit),
            ttl: permit_options.ttl.unwrap_or(usual.ttl),
            strict: permit_options.strict_limit,
            min_hold: permit_options.min_hold.unwrap_or(usual.min_hold),
        },
        limit_given: permit_options.limit.is_some(),
        ttl_given: permit_options.ttl.is_some(),
        wait,
        conflict_exit_code: permit_options.conflict_exit_code.unwrap_or(NOT_ACQUIRED),
        jitter: permit_options.jitter.unwrap_or_default(),
        label: permit_options.label.unwrap_or(label),
        loudness: match loudness {
            LoudnessOptions { verbose: true, .. } => Loudness::Verbose,
            LoudnessOptions { quiet: true, .. } => Loudness::Quiet,
            LoudnessOptions { .. } => Loudness::Normal,
        },
        unused_secrets,
    })
}

fn supervised(options: &SupervisionOptions, kill_after: Duration) -> Supervision {
    Supervision {
        rules: Rules {
            orphans: options.orphans.unwrap_or(Orphans::Leave),
            foreground: options.foreground,
            stop_signal: options.signal.unwrap_or(Signal::TERM),
            on_lost: options.on_lost.unwrap_or(OnLost::Kill),
        },
        kill_after: (!kill_after.is_zero()).then_some(kill_after),
        max_runtime: options.max_runtime,
    }
}

fn wait(permit_options: &PermitOptions, layers: &Layers) -> Result<Wait, SettingsError> {
    // Given elsewhere, it is for runs that have --max-attempts.
    if layers.types("retry-interval") && permit_options.max_attempts.is_none() {
        return Err(settings_error(OptionsApart::RetryInterval));
    }
    let retries = permit_options
        .max_attempts
        .map(|attempts| {
            permit_options.retry_interval.unwrap_or(RETRY_INTERVAL).saturating_mul(attempts)
        })
        .map(|time| time.min(LONGEST));
    Ok(match permit_options.wait.or(retries) {
        _ if permit_options.nonblock => Wait::Not,
        Some(Duration::ZERO) => Wait::Not,
        Some(most) => Wait::AtMost(most),
        None => Wait::ForEver,
    })
}

/// How long a command that is stopped has; zero: until its lease ends.
pub(super) fn kill_after(
    given: Option<Duration>,
    location: &Location,
    ttl: Duration,
    layers: &Layers,
) -> Result<Duration, SettingsError> {
    if !location.expires() {
        return Ok(given.unwrap_or(KILL_AFTER));
    }
    let kill_after = given.unwrap_or(default_kill_after(ttl));
    match shortest_ttl(kill_after, ttl) {
        None => Ok(kill_after),
        Some(shortest) => {
            let what = Mistake::KillAfter { kill_after, ttl, shortest };
            Err(layers.settings_error("kill-after", what))
        }
    }
}
