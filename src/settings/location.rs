//! Where permits live, from URLs, secrets and files: read and checked before anything starts.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Misuse, Variables, misuse};
use crate::backends::Name;
use crate::backends::cloud;
use crate::backends::connect::{BadLocation, Location, Url};
use crate::backends::redis;
use crate::backends::redis::place::Place;
use crate::backends::tls::{Secret, Tls};
use crate::cli::{BackendOptions, Options, Quarantine};
use crate::exit::Failure;

/// Where permits live. `flags` are the options of the command line alone: a password in a URL
/// there counts more than a variable.
pub(super) fn location(
    flags: &BackendOptions,
    options: &Options,
    variables: Variables<'_>,
) -> Result<Location, Misuse> {
    let (source, url) = match &flags.backend {
        Some(url) => ("--backend", url.clone()),
        None => match variables("SEMRUN_BACKEND").filter(|url| !url.is_empty()) {
            Some(url) => {
                let text = url.into_string().map_err(|_| misuse("SEMRUN_BACKEND is not UTF-8"))?;
                ("SEMRUN_BACKEND", text)
            }
            None => return Ok(Location::Default),
        },
    };
    // The URL itself is not repeated: it may hold a password.
    let url = Url::parse(&url).map_err(|bad| match bad {
        BadLocation::Malformed(text) => misuse(format!("the URL in {source} {text}")),
        BadLocation::Unsupported(text) => {
            Misuse { failure: Failure::Unsupported, text: format!("the URL in {source}: {text}") }
        }
    })?;
    let url = match url {
        Url::Directory(path) => return Ok(Location::Directory(path)),
        Url::Cloud(url) => {
            let key = api_key(flags, &options.backend, variables)?;
            let place = cloud::place::Place { url, key, tls: tls(&options.backend)? };
            return Ok(Location::Cloud(Box::new(place)));
        }
        Url::Redis(url) => *url,
    };
    let BackendOptions { prefix, password_file, .. } = &options.backend;
    let prefix = match prefix {
        Some(prefix) => prefix.clone(),
        None => "semrun".parse().expect("a good name"),
    };
    fits_redis("the prefix", &prefix)?;
    let typed_password = flags.backend.is_some() && url.has_password();
    let variable = variables("SEMRUN_PASSWORD").filter(|password| !password.is_empty());
    let password = match (&flags.password_file, variable, password_file) {
        (Some(file), ..) => Some(first_line(file, "password")?),
        _ if typed_password => None,
        (None, Some(password), _) => {
            Some(password.into_string().map_err(|_| misuse("SEMRUN_PASSWORD is not UTF-8"))?)
        }
        (None, None, Some(file)) => Some(first_line(file, "password")?),
        (None, None, None) => None,
    };
    let url = match password {
        Some(password) => url.with_password(&password),
        None => url,
    };
    Ok(Location::Redis(Box::new(Place {
        url,
        tls: tls(&options.backend)?,
        prefix,
        quarantine: match options.quarantine {
            Some(Quarantine::For(time)) => Some(time),
            Some(Quarantine::Auto) | None => None,
        },
        allow_eviction: options.allow_eviction,
    })))
}

fn tls(options: &BackendOptions) -> Result<Tls, Misuse> {
    let BackendOptions { ca_file, client_cert, client_key, .. } = options;
    let client = match (client_cert, client_key) {
        (Some(cert), Some(key)) => Some((file(cert)?, Secret(secret(key)?))),
        (None, None) => None,
        _ => return Err(misuse("--client-cert and --client-key go together")),
    };
    Ok(Tls { authority: ca_file.as_ref().map(file).transpose()?, client })
}

/// A client's key: the first word of a file, in which a label may follow, or of the variable.
fn api_key(
    flags: &BackendOptions,
    options: &BackendOptions,
    variables: Variables<'_>,
) -> Result<Option<Secret>, Misuse> {
    let key = match (&flags.api_key_file, variables(API_KEY).filter(|key| !key.is_empty())) {
        (None, Some(key)) => {
            key.into_string().map_err(|_| misuse("SEMRUN_API_KEY is not UTF-8"))?
        }
        _ => match &options.api_key_file {
            Some(file) => first_line(file, "API key")?,
            None => return Ok(None),
        },
    };
    let key = key.split_whitespace().next().unwrap_or_default();
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        let text = "the API key has characters that no header can carry";
        return Err(Misuse::new(Failure::Unsupported, text));
    }
    Ok(Some(Secret(key.into())))
}

pub(super) const API_KEY: &str = "SEMRUN_API_KEY";

pub(super) fn file(path: &PathBuf) -> Result<Vec<u8>, Misuse> {
    fs::read(path).map_err(|error| unreadable(path, &error))
}

/// A file that only those may read whom its secret concerns.
pub(super) fn secret(path: &Path) -> Result<Vec<u8>, Misuse> {
    const OTHERS: u32 = 0o007;
    let read = || {
        let mut file = File::open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok((file.metadata()?.mode(), bytes))
    };
    let (mode, bytes) = read().map_err(|error| unreadable(path, &error))?;
    if mode & OTHERS != 0 {
        let text = format!(
            "{} holds a secret and can be read by everybody; chmod o= makes it private",
            path.display()
        );
        return Err(Misuse::new(Failure::Unsupported, text));
    }
    Ok(bytes)
}

fn first_line(path: &Path, what: &str) -> Result<String, Misuse> {
    let text = String::from_utf8(secret(path)?).ok();
    let line = text.as_deref().and_then(|text| text.lines().next()).filter(|line| !line.is_empty());
    let bad = || format!("the first line of {} is no {what}", path.display());
    line.map(String::from).ok_or_else(|| Misuse::new(Failure::Unsupported, bad()))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Misuse {
    Misuse::new(Failure::Unsupported, format!("cannot read {}: {error}", path.display()))
}

/// Braces in a key decide where a cluster keeps it, and a semaphore's keys have to stay together.
pub(super) fn fits_redis(what: &str, name: &Name) -> Result<(), Misuse> {
    if redis::can_name(name.as_str()) {
        return Ok(());
    }
    Err(misuse(format!("{what} '{}' has braces, which cannot be used in Redis", name.as_str())))
}
