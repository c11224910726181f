//! The settings of a server, from flags, variables and files.

use std::path::PathBuf;

use super::Environment;
use super::error::{Mistake, OptionsApart, SettingsError, misconfigured, settings_error};
use super::layers::{GivenValue, Layers};
use super::location::without_mark;
use super::server_credentials::{CredentialFiles, Credentials, TlsFiles};
use super::sources::ConfigFiles;
use crate::cli;
use crate::serve::bounds::Bounds;
use crate::serve::keys::ApiKeys;
use crate::serve::log::{Format, LogEvent};

#[derive(Debug)]
pub(crate) struct ServeSettings {
    pub(crate) listen: String,
    pub(crate) keys: ApiKeys,
    /// The files' present content, which can be read again.
    pub(crate) credentials: Credentials,
    pub(crate) credential_files: CredentialFiles,
    pub(crate) state_dir: Option<PathBuf>,
    /// How many connections without a key may be open, in all and from one address, if given.
    pub(crate) strangers: Option<usize>,
    pub(crate) strangers_of_one_address: Option<usize>,
    pub(crate) bounds: Bounds,
    pub(crate) log: Vec<LogEvent>,
    pub(crate) log_format: Format,
}

/// The default of `--listen`: the port of the original's own example.
const LISTEN: &str = "127.0.0.1:3202";

/// The settings of a server.
pub(super) fn settings(
    flags: Vec<(String, GivenValue)>,
    around: &Environment<'_>,
) -> Result<ServeSettings, SettingsError> {
    let mut layers = Layers::new::<cli::ServeArgs>(flags, Vec::new());
    layers.add_variables(around.variables)?;
    for file in ConfigFiles::read(&layers, around)?.0 {
        layers.add_entries(&file.path, &file.serve)?;
    }
    let merged = layers.merged::<cli::ServeArgs>()?;
    let options = merged.wanted;
    // A variable outranks a file below it.
    let credential_files = CredentialFiles {
        keys: options.api_key_file.clone().filter(|_| merged.api_key.is_none()),
        tls: tls_files(&options, &layers)?,
    };
    let credentials = credential_files.read()?;
    let keys = match (merged.api_key, credentials.keys()?) {
        (Some(keys), _) => ApiKeys::of_words(without_mark(&keys)).map_err(|bad| {
            let error = misconfigured(Mistake::Keys(bad));
            match layers.find("api-key") {
                Some(given) => error.from(given.source.clone()),
                None => error,
            }
        })?,
        (None, Some(keys)) => keys,
        (None, None) => {
            return Err(settings_error(Mistake::NoApiKey));
        }
    };
    let usual = Bounds::default();
    Ok(ServeSettings {
        listen: options.listen.unwrap_or_else(|| LISTEN.into()),
        keys,
        credentials,
        credential_files,
        state_dir: options.state_dir,
        strangers: options.max_unauthenticated,
        strangers_of_one_address: options.max_unauthenticated_per_address,
        bounds: Bounds {
            clients: options.max_clients.unwrap_or(usual.clients),
            waiters: options.max_waiters.unwrap_or(usual.waiters),
            names: options.max_names.unwrap_or(usual.names),
            pins: options.max_pins.unwrap_or(usual.pins),
        },
        log: options.log,
        log_format: options.log_format.unwrap_or_default(),
    })
}

fn tls_files(options: &cli::ServeArgs, layers: &Layers) -> Result<Option<TlsFiles>, SettingsError> {
    match (&options.tls_cert, &options.tls_key) {
        (Some(cert), Some(key)) => Ok(Some(TlsFiles {
            cert: cert.clone(),
            key: key.clone(),
            client_ca: options.client_ca_file.clone(),
        })),
        (None, None) if options.client_ca_file.is_some() => {
            Err(layers.settings_error("client-ca-file", OptionsApart::ClientAuthority))
        }
        (None, None) => Ok(None),
        (one, _) => {
            let given = if one.is_some() { "tls-cert" } else { "tls-key" };
            Err(layers.settings_error(given, OptionsApart::ServerCertificate))
        }
    }
}
