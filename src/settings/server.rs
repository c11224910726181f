//! What is wanted of a server, from flags, variables and files.

use std::path::PathBuf;

use super::layers::{GivenValue, Layers};
use super::location::{file, secret, without_mark};
use super::misuse::{Misuse, misconfigured, misuse};
use super::{Files, Surroundings};
use crate::backends::tls::Secret;
use crate::cli;
use crate::serve::bounds::Bounds;
use crate::serve::keys::Keys;
use crate::serve::log::{Event, Format};

#[derive(Debug)]
pub(crate) struct Serve {
    pub(crate) listen: String,
    pub(crate) keys: Keys,
    /// The certificates and the key.
    pub(crate) tls: Option<(Vec<u8>, Secret)>,
    pub(crate) state_dir: Option<PathBuf>,
    /// How many connections that have not shown a key may be open, in all and from one address, where
    /// that is said.
    pub(crate) strangers: Option<usize>,
    pub(crate) strangers_of_one_address: Option<usize>,
    pub(crate) bounds: Bounds,
    pub(crate) log: Vec<Event>,
    pub(crate) log_format: Format,
}

/// The default of `--listen`: the port of the original's own example.
const LISTEN: &str = "127.0.0.1:3202";

/// What a server is to do.
pub(super) fn settings(
    flags: Vec<(String, GivenValue)>,
    around: &Surroundings<'_>,
) -> Result<Serve, Misuse> {
    let mut layers = Layers::new::<cli::Serve>(flags, Vec::new());
    layers.add_variables(around.variables)?;
    for file in Files::read(&layers, around)?.0 {
        layers.add_entries(&file.path, &file.serve)?;
    }
    let merged = layers.merged::<cli::Serve>()?;
    let options = merged.wanted;
    let keys = match (merged.api_key, &options.api_key_file) {
        (Some(keys), _) => {
            let source = layers.find("api-key").map(|given| given.source.to_string());
            let named = |problem| format!("{}: {problem}", source.unwrap_or_default());
            Keys::of_words(without_mark(&keys)).map_err(|problem| misconfigured(named(problem)))?
        }
        (None, Some(path)) => {
            let bad = |problem: String| misconfigured(format!("{}: {problem}", path.display()));
            let text = String::from_utf8(secret(path)?).map_err(|_| bad("is not UTF-8".into()))?;
            Keys::of_lines(without_mark(&text)).map_err(bad)?
        }
        (None, None) => {
            return Err(misuse("no API key; give --api-key-file or SEMRUN_API_KEY"));
        }
    };
    let tls = match (&options.tls_cert, &options.tls_key) {
        (Some(cert), Some(key)) => Some((file(cert)?, Secret(secret(key)?))),
        (None, None) => None,
        (one, _) => {
            let given = if one.is_some() { "tls-cert" } else { "tls-key" };
            return Err(layers.misuse(given, "--tls-cert and --tls-key go together"));
        }
    };
    let usual = Bounds::default();
    Ok(Serve {
        listen: options.listen.unwrap_or_else(|| LISTEN.into()),
        keys,
        tls,
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
