//! The settings of the subcommands.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, getppid};
use uuid::Uuid;

use super::error::{Mistake, SettingsError, settings_error};
use super::files::UnknownWord;
use super::layers::GivenValue;
use super::location::{Secrets, fits_redis, location, types_a_password};
use super::run::{self, PermitRequest, kill_after};
use super::sources::{CommandSources, ConfigFiles};
use super::{Environment, GivenOption};
use crate::backends::url::Location;
use crate::cli::{self, BackendOptions, Merged};
use crate::permits::Name;
use crate::permits::Terms;
use crate::printable::printable_os;
use crate::supervise::descendants;

/// The options as they were typed.
type Flags = Vec<(String, GivenValue)>;

#[derive(Debug)]
pub(crate) struct StatusSettings {
    /// The names to show, in this order, by place. No names: all that are there.
    pub(crate) places: Vec<(Location, Vec<Name>)>,
    /// The limit to assume where none is in force.
    pub(crate) limit: u32,
    pub(crate) json: bool,
    pub(crate) watch: bool,
    pub(crate) verbose: bool,
}

#[derive(Debug)]
pub(crate) struct AcquireSettings {
    pub(crate) request: PermitRequest,
    pub(crate) printed: AcquireOutput,
    /// Whether a password was typed, where others see it.
    pub(crate) typed_password: bool,
}

/// How a permit is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AcquireOutput {
    Plain,
    Json,
    Shell,
}

#[derive(Debug)]
pub(crate) struct RenewSettings {
    pub(crate) location: Location,
    pub(crate) id: Uuid,
    pub(crate) name: Name,
    pub(crate) while_pid: Option<Pid>,
    /// Whether a password was typed, where others see it.
    pub(crate) typed_password: bool,
}

#[derive(Debug)]
pub(crate) struct ReleaseSettings {
    pub(crate) location: Location,
    /// None: the permit of the only holder.
    pub(crate) id: Option<Uuid>,
    pub(crate) name: Name,
    pub(crate) force: bool,
    pub(crate) now: bool,
}

#[derive(Debug)]
pub(crate) struct LimitSettings {
    pub(crate) location: Location,
    pub(crate) name: Name,
    pub(crate) change: Option<LimitChange>,
}

/// How to change a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitChange {
    Pin(u32),
    Unpin,
}

#[derive(Debug)]
pub(crate) struct DoctorSettings {
    pub(crate) json: bool,
    /// Everything that was given and counts, as far as it could be read.
    pub(crate) given: Vec<GivenOption>,
    /// Variables that look like ours and are not.
    pub(crate) unknown: Vec<UnknownWord>,
    /// What to examine, or what is wrong with the settings.
    pub(crate) examined: Result<DiagnosedBackend, SettingsError>,
}

/// Settings that can be used.
#[derive(Debug)]
pub(crate) struct DiagnosedBackend {
    /// If one was named.
    pub(crate) name: Option<Name>,
    pub(crate) location: Location,
    pub(crate) terms: Terms,
    /// How long a command has that is stopped.
    pub(crate) kill_after: Duration,
    /// Whether a password was typed, where others see it.
    pub(crate) typed_password: bool,
}

pub(super) fn status(
    flags: &Flags,
    operands: &[OsString],
    around: &Environment<'_>,
) -> Result<StatusSettings, SettingsError> {
    let typed = || {
        CommandSources::of_line_and_variables::<cli::StatusArgs>(
            flags.clone(),
            operands.into(),
            around,
        )
    };
    let mut all = typed()?;
    let files = ConfigFiles::read(&all.layers, around)?;
    all.add_files(&files, None)?;
    let merged = all.layers.merged::<cli::StatusArgs>()?;
    let cli::StatusArgs { limit, json, watch, verbose, .. } = merged.wanted;
    let limit = limit.unwrap_or(1);
    let names = merged.wanted.names.clone();
    if names.is_empty() {
        let places = vec![(place(&all, merged, None, |status| status.backend)?, names)];
        return Ok(StatusSettings { places, limit, json, watch, verbose });
    }
    let mut places: Vec<(Location, Vec<Name>)> = Vec::new();
    let mut last = None;
    for name in &names {
        let mut all = typed()?;
        all.add_files(&files, Some(name))?;
        let source = all.layers.find("backend").map(|given| given.source.clone());
        let same = last.replace(source.clone()) == Some(source);
        let merged = all.layers.merged::<cli::StatusArgs>()?;
        let location = place(&all, merged, Some(name), |status| status.backend)?;
        match places.last_mut() {
            Some((_, names)) if same => names.push(name.clone()),
            _ => places.push((location, vec![name.clone()])),
        }
    }
    Ok(StatusSettings { places, limit, json, watch, verbose })
}

pub(super) fn acquire(all: &CommandSources<'_>) -> Result<AcquireSettings, SettingsError> {
    let merged = all.layers.merged::<cli::AcquireArgs>()?;
    let secrets = Secrets::new(merged.password, merged.api_key);
    let cli::AcquireArgs { permit_options, backend, loudness, json, shell } = merged.wanted;
    let location = location(&backend, secrets, &all.layers)?;
    let request = run::request(permit_options, &loudness, location, callers_name(), &all.layers)?;
    let printed = match (json, shell) {
        (true, _) => AcquireOutput::Json,
        (_, true) => AcquireOutput::Shell,
        _ => AcquireOutput::Plain,
    };
    Ok(AcquireSettings { request, printed, typed_password: types_a_password(&all.layers) })
}

/// The name of the program that called us, a script say; never an argument.
fn callers_name() -> String {
    let caller = getppid().map(descendants::name).unwrap_or_default();
    if caller.is_empty() { "acquire".into() } else { printable_os(OsStr::new(&caller)) }
}

pub(super) fn renew(
    flags: Flags,
    operands: Vec<OsString>,
    around: &Environment<'_>,
) -> Result<RenewSettings, SettingsError> {
    let permit = |renew: &cli::RenewArgs| renew.permit.as_ref().map(|(_, name)| name.clone());
    let (all, merged) = about::<cli::RenewArgs>(flags, operands, around, permit)?;
    let (id, name) =
        merged.wanted.permit.clone().ok_or_else(|| settings_error(Mistake::NoPermit))?;
    let while_pid = merged.wanted.while_pid;
    let location = place(&all, merged, Some(&name), |renew| renew.backend)?;
    let typed_password = types_a_password(&all.layers);
    Ok(RenewSettings { location, id, name, while_pid, typed_password })
}

pub(super) fn release(
    flags: Flags,
    operands: Vec<OsString>,
    around: &Environment<'_>,
) -> Result<ReleaseSettings, SettingsError> {
    let named = |release: &cli::ReleaseArgs| {
        let of_permit = || release.permit.as_ref().map(|(_, name)| name.clone());
        release.semaphore.clone().or_else(of_permit)
    };
    let (all, merged) = about::<cli::ReleaseArgs>(flags, operands, around, named)?;
    let cli::ReleaseArgs { ref permit, ref semaphore, force, now, .. } = merged.wanted;
    let (id, name) = match (semaphore, permit) {
        (Some(name), _) if all.layers.types("permit") => {
            return Err(settings_error(Mistake::PermitAndName(name.clone())));
        }
        (Some(name), _) if !force => {
            return Err(settings_error(Mistake::NameAlone(name.clone())));
        }
        // A typed name counts more than a permit in the environment.
        (Some(name), _) => (None, name.clone()),
        (None, Some((id, name))) => (Some(*id), name.clone()),
        (None, None) if force => return Err(settings_error(Mistake::NothingToRevoke)),
        (None, None) => return Err(settings_error(Mistake::NothingToRelease)),
    };
    let location = place(&all, merged, Some(&name), |release| release.backend)?;
    Ok(ReleaseSettings { location, id, name, force, now })
}

pub(super) fn limit(
    flags: Flags,
    operands: Vec<OsString>,
    around: &Environment<'_>,
) -> Result<LimitSettings, SettingsError> {
    let named = |limit: &cli::LimitArgs| Some(limit.semaphore.clone());
    let (all, merged) = about::<cli::LimitArgs>(flags, operands, around, named)?;
    let cli::LimitArgs { semaphore: name, number, unpin, .. } = &merged.wanted;
    let name = name.clone();
    let change = number.map(LimitChange::Pin).or(unpin.then_some(LimitChange::Unpin));
    let location = place(&all, merged, Some(&name), |limit| limit.backend)?;
    Ok(LimitSettings { location, name, change })
}

pub(super) fn doctor(
    flags: Flags,
    operands: Vec<OsString>,
    around: &Environment<'_>,
) -> DoctorSettings {
    let json = flags.iter().any(|(option, _)| option == "json");
    let unknown = around.variables.unknown();
    match CommandSources::new::<cli::DoctorArgs>(flags, operands, around) {
        Err(settings_error) => {
            DoctorSettings { json, given: Vec::new(), unknown, examined: Err(settings_error) }
        }
        Ok(all) => DoctorSettings {
            json,
            given: all.layers.given().to_vec(),
            unknown,
            examined: examined(&all),
        },
    }
}

fn examined(all: &CommandSources<'_>) -> Result<DiagnosedBackend, SettingsError> {
    let merged = all.layers.merged::<cli::DoctorArgs>()?;
    let secrets = Secrets::new(merged.password, merged.api_key);
    let cli::DoctorArgs { mut permit_options, supervision, loudness, backend, .. } = merged.wanted;
    let location = location(&backend, secrets, &all.layers)?;
    let name = permit_options.name.clone();
    // The name is optional here.
    permit_options.name.get_or_insert_with(|| "any".parse().expect("a good name"));
    let request = run::request(permit_options, &loudness, location, "doctor".into(), &all.layers)?;
    let PermitRequest { location, terms, .. } = request;
    Ok(DiagnosedBackend {
        name,
        kill_after: kill_after(supervision.kill_after, &location, terms.ttl, &all.layers)?,
        location,
        terms,
        typed_password: types_a_password(&all.layers),
    })
}

/// All that was given for a command which names its semaphore in another way than `--name`.
fn about<'a, T: Args>(
    flags: Flags,
    operands: Vec<OsString>,
    around: &'a Environment<'a>,
    name: impl Fn(&T) -> Option<Name>,
) -> Result<(CommandSources<'a>, Merged<T>), SettingsError> {
    let mut all = CommandSources::of_line_and_variables::<T>(flags, operands, around)?;
    let name = name(&all.layers.merged::<T>()?.wanted);
    let files = ConfigFiles::read(&all.layers, around)?;
    all.add_files(&files, name.as_ref())?;
    let merged = all.layers.merged()?;
    Ok((all, merged))
}

/// The place of a subcommand's permits, which has to accept that name.
fn place<T: Args>(
    all: &CommandSources<'_>,
    merged: Merged<T>,
    name: Option<&Name>,
    backend: impl Fn(T) -> BackendOptions,
) -> Result<Location, SettingsError> {
    let secrets = Secrets::new(merged.password, merged.api_key);
    let location = location(&backend(merged.wanted), secrets, &all.layers)?;
    if let (Location::Redis(_), Some(name)) = (&location, name) {
        fits_redis("name", name, &all.layers)?;
    }
    Ok(location)
}
