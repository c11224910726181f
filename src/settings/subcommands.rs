//! What is wanted of the subcommands.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, getppid};
use uuid::Uuid;

use super::layers::GivenValue;
use super::location::{Secrets, fits_redis, location, types_a_password};
use super::misuse::{Misuse, misuse, printable};
use super::runs::{self, Request, kill_after};
use super::sources::{All, Files};
use super::{Given, Surroundings};
use crate::backends::Name;
use crate::backends::connect::Location;
use crate::cli::{self, BackendOptions, Merged};
use crate::supervise::descendants;

/// The options as they were typed.
type Flags = Vec<(String, GivenValue)>;

#[derive(Debug)]
pub(crate) struct Status {
    /// What is to be shown, in this order, and where that is. No names: all that are there.
    pub(crate) places: Vec<(Location, Vec<Name>)>,
    /// What to compare with where no limit is in force.
    pub(crate) limit: u32,
    pub(crate) json: bool,
    pub(crate) watch: bool,
    pub(crate) verbose: bool,
}

#[derive(Debug)]
pub(crate) struct Acquire {
    pub(crate) request: Request,
    pub(crate) printed: Printed,
    /// Whether a password was typed, where others see it.
    pub(crate) typed_password: bool,
}

/// How a permit is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Printed {
    Plain,
    Json,
    Shell,
}

#[derive(Debug)]
pub(crate) struct Renew {
    pub(crate) location: Location,
    pub(crate) id: Uuid,
    pub(crate) name: Name,
    pub(crate) while_pid: Option<Pid>,
    /// Whether a password was typed, where others see it.
    pub(crate) typed_password: bool,
}

#[derive(Debug)]
pub(crate) struct Release {
    pub(crate) location: Location,
    /// None: that of the one holder there is.
    pub(crate) id: Option<Uuid>,
    pub(crate) name: Name,
    pub(crate) force: bool,
    pub(crate) now: bool,
}

#[derive(Debug)]
pub(crate) struct Limit {
    pub(crate) location: Location,
    pub(crate) name: Name,
    pub(crate) change: Option<Change>,
}

/// What becomes of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Pin(u32),
    Unpin,
}

#[derive(Debug)]
pub(crate) struct Doctor {
    pub(crate) json: bool,
    /// Everything that was given and counts, as far as it could be read.
    pub(crate) given: Vec<Given>,
    /// What is wrong with variables that look like ours and are none.
    pub(crate) unknown: Vec<String>,
    /// What there is to look at, or what is wrong with the settings.
    pub(crate) examined: Result<Examined, Misuse>,
}

/// Settings that can be used.
#[derive(Debug)]
pub(crate) struct Examined {
    /// If one was named.
    pub(crate) name: Option<Name>,
    pub(crate) location: Location,
    pub(crate) limit: u32,
    pub(crate) ttl: Duration,
    /// How long a command has that is stopped.
    pub(crate) kill_after: Duration,
    /// Whether a password was typed, where others see it.
    pub(crate) typed_password: bool,
}

pub(super) fn status(
    flags: &Flags,
    operands: &[OsString],
    around: &Surroundings<'_>,
) -> Result<Status, Misuse> {
    let typed =
        || All::of_line_and_variables::<cli::Status>(flags.clone(), operands.into(), around);
    let mut all = typed()?;
    let files = Files::read(&all.layers, around)?;
    all.add_files(&files, None)?;
    let merged = all.layers.merged::<cli::Status>()?;
    let cli::Status { limit, json, watch, verbose, .. } = merged.wanted;
    let limit = limit.unwrap_or(1);
    let names = merged.wanted.names.clone();
    if names.is_empty() {
        let places = vec![(place(&all, merged, None, |status| status.backend)?, names)];
        return Ok(Status { places, limit, json, watch, verbose });
    }
    let mut places: Vec<(Location, Vec<Name>)> = Vec::new();
    let mut last = None;
    for name in &names {
        let mut all = typed()?;
        all.add_files(&files, Some(name))?;
        let source = all.layers.find("backend").map(|given| given.source.clone());
        let same = last.replace(source.clone()) == Some(source);
        let merged = all.layers.merged::<cli::Status>()?;
        let location = place(&all, merged, Some(name), |status| status.backend)?;
        match places.last_mut() {
            Some((_, names)) if same => names.push(name.clone()),
            _ => places.push((location, vec![name.clone()])),
        }
    }
    Ok(Status { places, limit, json, watch, verbose })
}

pub(super) fn acquire(all: &All<'_>) -> Result<Acquire, Misuse> {
    let merged = all.layers.merged::<cli::Acquire>()?;
    let secrets = Secrets::new(merged.password, merged.api_key);
    let cli::Acquire { ask, backend, loudness, json, shell } = merged.wanted;
    let location = location(&backend, secrets, &all.layers)?;
    let request = runs::request(ask, &loudness, location, callers_name(), &all.layers)?;
    let printed = match (json, shell) {
        (true, _) => Printed::Json,
        (_, true) => Printed::Shell,
        _ => Printed::Plain,
    };
    Ok(Acquire { request, printed, typed_password: types_a_password(&all.layers) })
}

/// The name of the program that called us, a script say; never an argument.
fn callers_name() -> String {
    let caller = getppid().map(descendants::name).unwrap_or_default();
    if caller.is_empty() { "acquire".into() } else { printable(OsStr::new(&caller)) }
}

const NO_PERMIT: &str = "no permit named; give --permit UUID@NAME, or SEMRUN_PERMIT";

pub(super) fn renew(
    flags: Flags,
    operands: Vec<OsString>,
    around: &Surroundings<'_>,
) -> Result<Renew, Misuse> {
    let permit = |renew: &cli::Renew| renew.permit.as_ref().map(|(_, name)| name.clone());
    let (all, merged) = about::<cli::Renew>(flags, operands, around, permit)?;
    let (id, name) = merged.wanted.permit.clone().ok_or_else(|| misuse(NO_PERMIT))?;
    let while_pid = merged.wanted.while_pid;
    let location = place(&all, merged, Some(&name), |renew| renew.backend)?;
    let typed_password = types_a_password(&all.layers);
    Ok(Renew { location, id, name, while_pid, typed_password })
}

pub(super) fn release(
    flags: Flags,
    operands: Vec<OsString>,
    around: &Surroundings<'_>,
) -> Result<Release, Misuse> {
    let named = |release: &cli::Release| {
        let of_permit = || release.permit.as_ref().map(|(_, name)| name.clone());
        release.semaphore.clone().or_else(of_permit)
    };
    let (all, merged) = about::<cli::Release>(flags, operands, around, named)?;
    let cli::Release { ref permit, ref semaphore, force, now, .. } = merged.wanted;
    let (id, name) = match (semaphore, permit) {
        (Some(name), _) if all.layers.types("permit") => {
            let what =
                "--permit names one permit, and NAME the one that there is; give one of them";
            return Err(misuse(format!("{what}, not '{name}' beside it")));
        }
        (Some(name), _) if !force => {
            return Err(misuse(format!(
                "'{name}' names a semaphore, and not a permit; --permit UUID@{name} gives back one that was \
                 acquired, and --force {name} revokes that of its holder"
            )));
        }
        // What was typed counts more than a permit in the environment.
        (Some(name), _) => (None, name.clone()),
        (None, Some((id, name))) => (Some(*id), name.clone()),
        (None, None) if force => {
            return Err(misuse(
                "no permit named; semrun release --force NAME revokes that of the holder of NAME, and \
                 --force --permit UUID@NAME one of several",
            ));
        }
        (None, None) => {
            return Err(misuse(format!("{NO_PERMIT}; --force NAME revokes that of a holder")));
        }
    };
    let location = place(&all, merged, Some(&name), |release| release.backend)?;
    Ok(Release { location, id, name, force, now })
}

pub(super) fn limit(
    flags: Flags,
    operands: Vec<OsString>,
    around: &Surroundings<'_>,
) -> Result<Limit, Misuse> {
    let named = |limit: &cli::Limit| Some(limit.semaphore.clone());
    let (all, merged) = about::<cli::Limit>(flags, operands, around, named)?;
    let cli::Limit { semaphore: name, number, unpin, .. } = &merged.wanted;
    let name = name.clone();
    let change = number.map(Change::Pin).or(unpin.then_some(Change::Unpin));
    let location = place(&all, merged, Some(&name), |limit| limit.backend)?;
    Ok(Limit { location, name, change })
}

pub(super) fn doctor(flags: Flags, operands: Vec<OsString>, around: &Surroundings<'_>) -> Doctor {
    let json = flags.iter().any(|(option, _)| option == "json");
    let unknown = around.variables.unknown();
    match All::new::<cli::Doctor>(flags, operands, around) {
        Err(misuse) => Doctor { json, given: Vec::new(), unknown, examined: Err(misuse) },
        Ok(all) => {
            Doctor { json, given: all.layers.given().to_vec(), unknown, examined: examined(&all) }
        }
    }
}

fn examined(all: &All<'_>) -> Result<Examined, Misuse> {
    let merged = all.layers.merged::<cli::Doctor>()?;
    let secrets = Secrets::new(merged.password, merged.api_key);
    let cli::Doctor { mut ask, supervision, loudness, backend, .. } = merged.wanted;
    let location = location(&backend, secrets, &all.layers)?;
    let name = ask.name.clone();
    // Which one is meant need not be said.
    ask.name.get_or_insert_with(|| "any".parse().expect("a good name"));
    let request = runs::request(ask, &loudness, location, "doctor".into(), &all.layers)?;
    let Request { location, limit, ttl, .. } = request;
    Ok(Examined {
        name,
        kill_after: kill_after(supervision.kill_after, &location, ttl, &all.layers)?,
        location,
        limit,
        ttl,
        typed_password: types_a_password(&all.layers),
    })
}

/// All that was given for a command which names its semaphore in another way than `--name`.
fn about<'a, T: Args>(
    flags: Flags,
    operands: Vec<OsString>,
    around: &'a Surroundings<'a>,
    name: impl Fn(&T) -> Option<Name>,
) -> Result<(All<'a>, Merged<T>), Misuse> {
    let mut all = All::of_line_and_variables::<T>(flags, operands, around)?;
    let name = name(&all.layers.merged::<T>()?.wanted);
    let files = Files::read(&all.layers, around)?;
    all.add_files(&files, name.as_ref())?;
    let merged = all.layers.merged()?;
    Ok((all, merged))
}

/// Where the permits live that a subcommand is about, which has to be a place for that name.
fn place<T: Args>(
    all: &All<'_>,
    merged: Merged<T>,
    name: Option<&Name>,
    backend: impl Fn(T) -> BackendOptions,
) -> Result<Location, Misuse> {
    let secrets = Secrets::new(merged.password, merged.api_key);
    let location = location(&backend(merged.wanted), secrets, &all.layers)?;
    if let (Location::Redis(_), Some(name)) = (&location, name) {
        fits_redis("name", name, &all.layers)?;
    }
    Ok(location)
}
