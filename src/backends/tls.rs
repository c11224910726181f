//! What TLS needs: certificates and keys as they were read from files, and what rustls makes of
//! them.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};

/// What a client needs beyond the authorities that the system trusts; all in PEM.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tls {
    /// Trusted instead of the system's.
    pub(crate) authority: Option<Vec<u8>>,
    /// Our own certificate and its key.
    pub(crate) client: Option<(Vec<u8>, Secret)>,
}

/// Bytes that are never shown.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl Tls {
    /// The error says which of the files has no certificate in it.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        for (pem, problem) in [
            (self.authority.as_ref(), "there is none in --ca-file"),
            (self.client.as_ref().map(|(cert, _)| cert), "there is none in --client-cert"),
        ] {
            if pem.is_some_and(|pem| certificates(pem).is_empty()) {
                return Err(problem);
            }
        }
        Ok(())
    }

    /// How a client greets a server of that name.
    pub(super) fn greeting(name: ServerName<'static>) -> Option<Vec<u8>> {
        // Any authority will do: the answer is not looked at.
        let nobody = Self { authority: Some(Vec::new()), client: None };
        let mut client = ClientConnection::new(nobody.configured().ok()?, name).ok()?;
        let mut greeting = Vec::new();
        client.write_tls(&mut greeting).ok()?;
        Some(greeting)
    }

    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, String> {
        self.check()?;
        self.configured()
    }

    fn configured(&self) -> Result<Arc<ClientConfig>, String> {
        let mut trusted = RootCertStore::empty();
        let authorities = match &self.authority {
            Some(pem) => certificates(pem),
            None => rustls_native_certs::load_native_certs().certs,
        };
        trusted.add_parsable_certificates(authorities);
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(trusted);
        let config = match &self.client {
            None => config.with_no_client_auth(),
            Some((cert, Secret(key))) => config
                .with_client_auth_cert(certificates(cert), private_key(key, "--client-key")?)
                .map_err(|error| error.to_string())?,
        };
        Ok(Arc::new(config))
    }
}

/// For a server with this certificate, and those that lead to it, and its key. The error says
/// what is wrong with them.
pub(crate) fn server(cert: &[u8], key: &[u8]) -> Result<Arc<ServerConfig>, String> {
    let chain = certificates(cert);
    if chain.is_empty() {
        return Err("there is no certificate in --tls-cert".into());
    }
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, private_key(key, "--tls-key")?)
        .map_err(|error| format!("--tls-cert and --tls-key do not fit: {error}"))?;
    Ok(Arc::new(config))
}

fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

fn private_key(pem: &[u8], option: &str) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| format!("there is no private key in {option}"))
}
