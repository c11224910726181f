//! Where permits live, from URLs, secrets and files: read and checked before anything starts.

use std::ffi::OsStr;
use std::path::Path;

use rustix::io::Errno;

use super::error::{
    BadSecret, Mistake, OptionsApart, SecretKind, SettingsError, UrlMistake, misconfigured,
};
use super::layers::{GivenValue, Layers, Source};
use super::mistakes;
use crate::backends::cloud;
use crate::backends::redis;
use crate::backends::redis::config::RedisConfig;
use crate::backends::tls::{Secret, Tls};
use crate::backends::url::{BadLocation, Location, Url};
use crate::cli::{BackendOptions, Quarantine};
use crate::exit::Failure;
use crate::files::trusted::{self, UntrustedFile};
use crate::permits::Name;
use crate::sys::keep_from_core_files;

/// Secrets that were given as they are, and not in files.
#[derive(Debug)]
pub(super) struct Secrets {
    password: Option<Secret>,
    api_key: Option<Secret>,
}

impl Secrets {
    pub(super) fn new(password: Option<String>, api_key: Option<String>) -> Self {
        let secret = |text: String| Secret(text.into_bytes());
        Self { password: password.map(secret), api_key: api_key.map(secret) }
    }
}

/// Where permits live.
pub(super) fn location(
    options: &BackendOptions,
    secrets: Secrets,
    layers: &Layers,
) -> Result<Location, SettingsError> {
    let (Some(url), Some(backend)) = (&options.backend, layers.find("backend")) else {
        return Ok(Location::Default);
    };
    // The URL itself is not repeated: it may hold a password.
    let url = Url::parse(url).map_err(|bad| {
        let (failure, what) = match bad {
            BadLocation::Malformed(what) => {
                let meant = mistakes::url(url.trim_end());
                let what = meant.map_or(UrlMistake::Bad(what), UrlMistake::Meant);
                (backend.source.failure(), what)
            }
            BadLocation::Unsupported(scheme) => {
                (Failure::Unsupported, UrlMistake::Unsupported(scheme))
            }
        };
        SettingsError::new(failure, Mistake::Url(backend.source.clone(), what))
    })?;
    let url = match url {
        Url::Directory(path) => return Ok(Location::Directory(path)),
        Url::Cloud(url) => {
            let key = api_key(options, secrets.api_key, layers)?;
            let place = cloud::config::CloudConfig { url, key, tls: tls(options, layers)? };
            return Ok(Location::Cloud(Box::new(place)));
        }
        Url::Redis(url) => *url,
    };
    let prefix = match &options.prefix {
        Some(prefix) => prefix.clone(),
        None => "semrun".parse().expect("a good name"),
    };
    fits_redis("prefix", &prefix, layers)?;
    if url.has_password() {
        keep_from_core_files();
    }
    // A password in the URL counts more than one from a lower layer.
    let in_url = |option| url.has_password() && layers.outranks("backend", option);
    let password = match (secrets.password, &options.password_file) {
        (Some(_), _) if in_url("password") => None,
        (Some(Secret(password)), _) => Some(given(password, SecretKind::Password, layers)?),
        (None, Some(_)) if in_url("password-file") => None,
        (None, Some(file)) => Some(first_line(file, SecretKind::Password)?),
        (None, None) => None,
    };
    let url = match password {
        Some(password) => url.with_password(&password),
        None => url,
    };
    Ok(Location::Redis(Box::new(RedisConfig {
        url,
        tls: tls(options, layers)?,
        prefix,
        quarantine: match options.quarantine {
            Some(Quarantine::For(time)) => Some(time),
            Some(Quarantine::Auto) | None => None,
        },
        replicas: options.replicas.unwrap_or(0),
        allow_eviction: options.allow_eviction,
    })))
}

/// Whether there is a password in a `--backend` on the command line, where others see it.
pub(super) fn types_a_password(layers: &Layers) -> bool {
    layers.find("backend").is_some_and(|given| match (&given.source, &given.value) {
        (Source::Flag, GivenValue::Text(url)) => has_password(url),
        _ => false,
    })
}

/// Whether there is a password in a URL of a backend, as far as it can be understood.
pub(super) fn has_password(url: &OsStr) -> bool {
    let url = url.to_string_lossy();
    match Url::parse(&url) {
        Ok(Url::Redis(url)) => url.has_password(),
        Ok(Url::Directory(_) | Url::Cloud(_)) => false,
        Err(_) => url.contains('@') || url.contains("pass="),
    }
}

/// A client's key: the first word of what was given, after which a label may follow.
fn api_key(
    options: &BackendOptions,
    typed: Option<Secret>,
    layers: &Layers,
) -> Result<Option<Secret>, SettingsError> {
    let key = match (typed, &options.api_key_file) {
        (Some(Secret(key)), _) => given(key, SecretKind::ApiKey, layers)?,
        (None, Some(file)) => first_line(file, SecretKind::ApiKey)?,
        (None, None) => return Ok(None),
    };
    let key = key.split_whitespace().next().unwrap_or_default();
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(misconfigured(Mistake::UnfitApiKey));
    }
    Ok(Some(Secret(key.into())))
}

fn tls(options: &BackendOptions, layers: &Layers) -> Result<Tls, SettingsError> {
    let BackendOptions { ca_file, client_cert, client_key, .. } = options;
    let client = match (client_cert, client_key) {
        (Some(cert), Some(key)) => Some((file(cert)?, Secret(secret(key)?))),
        (None, None) => None,
        (one, _) => {
            let given = if one.is_some() { "client-cert" } else { "client-key" };
            return Err(layers.settings_error(given, OptionsApart::ClientCertificate));
        }
    };
    Ok(Tls { authority: ca_file.as_deref().map(file).transpose()?, client })
}

/// The content of a file that decides which servers or clients to trust.
pub(super) fn file(path: &Path) -> Result<Vec<u8>, SettingsError> {
    Ok(trusted::read(path).map_err(|refused| unreadable(path, refused))?.bytes)
}

/// The content of a secret file, which others must not be able to read.
pub(super) fn secret(path: &Path) -> Result<Vec<u8>, SettingsError> {
    keep_from_core_files();
    trusted::read_secret(path).map_err(|refused| unreadable(path, refused))
}

/// Why a file was not read.
pub(super) fn unreadable(path: &Path, why: UntrustedFile) -> SettingsError {
    // Then the file is not the cause.
    let too_many = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    let ours = match &why {
        UntrustedFile::Io(error) => error.raw_os_error().is_some_and(|it| too_many.contains(&it)),
        _ => false,
    };
    let failure = if ours { Failure::Internal } else { Failure::Unsupported };
    SettingsError::new(failure, Mistake::Unreadable { path: path.into(), why, optional: false })
}

fn first_line(path: &Path, kind: SecretKind) -> Result<String, SettingsError> {
    let text = secret(path)?;
    let bad = if text.is_empty() { BadSecret::EmptyFile } else { BadSecret::File };
    one_of(text).ok_or_else(|| misconfigured(Mistake::Secret(kind, bad(path.into()))))
}

/// A secret that was given as it is, and not in a file.
fn given(bytes: Vec<u8>, kind: SecretKind, layers: &Layers) -> Result<String, SettingsError> {
    let option = match kind {
        SecretKind::Password => "password",
        SecretKind::ApiKey => "api-key",
    };
    let bad = || layers.settings_error(option, Mistake::Secret(kind, BadSecret::Value));
    one_of(bytes).ok_or_else(bad)
}

/// The secret in a text, whatever its source: its first line without the line end, and without the
/// byte order mark of some editors. None: there is none.
fn one_of(bytes: Vec<u8>) -> Option<String> {
    let text = String::from_utf8(bytes).ok()?;
    let line = without_mark(&text).lines().next()?;
    (!line.is_empty()).then(|| line.to_owned())
}

/// A text without the byte order mark that it may begin with.
pub(super) fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{FEFF}').unwrap_or(text)
}

/// Braces in a key decide where a cluster keeps it, and a semaphore's keys have to stay together.
pub(super) fn fits_redis(
    option: &'static str,
    name: &Name,
    layers: &Layers,
) -> Result<(), SettingsError> {
    if redis::can_name(name.as_str()) {
        return Ok(());
    }
    Err(layers.settings_error(option, Mistake::Braces { option, name: name.clone() }))
}
