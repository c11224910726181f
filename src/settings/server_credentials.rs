//! The files of a server's keys and certificates. It reads them at its start, and again when it is
//! told to.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;

use super::error::{Mistake, SettingsError, misconfigured};
use super::location::{file, secret, without_mark};
use crate::backends::tls::{self, Pem, Secret, ServerFiles};
use crate::serve::keys::{ApiKeys, BadKeys};

#[derive(Debug, Clone)]
pub(crate) struct CredentialFiles {
    /// None: the keys come from a variable.
    pub(super) keys: Option<PathBuf>,
    pub(super) tls: Option<TlsFiles>,
}

#[derive(Debug, Clone)]
pub(super) struct TlsFiles {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    pub(super) client_ca: Option<PathBuf>,
}

/// What is in them, as bytes.
#[derive(Debug)]
pub(crate) struct Credentials {
    keys: Option<(PathBuf, Secret)>,
    tls: Option<ServerFiles>,
}

impl CredentialFiles {
    /// Takes as long as the disk does. The error says which file is not to be read, and why.
    pub(crate) fn read(&self) -> Result<Credentials, SettingsError> {
        let hidden = |path: &Path| Ok(Pem { path: path.into(), bytes: Secret(secret(path)?) });
        let open = |path: &Path| Ok(Pem { path: path.into(), bytes: Secret(file(path)?) });
        let keys = match &self.keys {
            Some(path) => Some((path.clone(), Secret(secret(path)?))),
            None => None,
        };
        let tls = match &self.tls {
            Some(TlsFiles { cert, key, client_ca }) => Some(ServerFiles {
                cert: open(cert)?,
                key: hidden(key)?,
                client_ca: client_ca.as_deref().map(open).transpose()?,
            }),
            None => None,
        };
        Ok(Credentials { keys, tls })
    }

    /// The options that name them.
    pub(crate) fn options(&self) -> Vec<&'static str> {
        let client_ca = self.tls.as_ref().and_then(|tls| tls.client_ca.as_ref());
        let all = [
            ("--api-key-file", self.keys.is_some()),
            ("--tls-cert", self.tls.is_some()),
            ("--tls-key", self.tls.is_some()),
            ("--client-ca-file", client_ca.is_some()),
        ];
        all.into_iter().filter(|(_, given)| *given).map(|(option, _)| option).collect()
    }

    pub(crate) fn has_keys(&self) -> bool {
        self.keys.is_some()
    }
}

impl Credentials {
    /// None: they are not in a file. The error says what is wrong with the file.
    pub(crate) fn keys(&self) -> Result<Option<ApiKeys>, SettingsError> {
        let Some((path, Secret(bytes))) = &self.keys else { return Ok(None) };
        let bad = |what| misconfigured(Mistake::KeyFile(path.clone(), what));
        let text = str::from_utf8(bytes).map_err(|_| bad(BadKeys::NotUtf8))?;
        ApiKeys::of_lines(without_mark(text)).map(Some).map_err(bad)
    }

    /// None: the server speaks no TLS. The error says what is wrong with which file.
    pub(crate) fn tls(&self) -> Result<Option<Arc<ServerConfig>>, SettingsError> {
        let Some(files) = &self.tls else { return Ok(None) };
        tls::server(files).map(Some).map_err(|error| misconfigured(Mistake::Tls(error)))
    }
}
