//! What TLS needs: certificates and keys as they were read from files, and what rustls makes of
//! them.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Error, RootCertStore, ServerConfig,
};

use super::StoreError;
pub(crate) use super::tls_error::{PemFile, PemRole, TlsError};

/// What a client needs beyond the authorities that the system trusts; all in PEM.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tls {
    /// Trusted instead of the system's.
    pub(crate) authority: Option<Vec<u8>>,
    /// Our own certificate and its key.
    pub(crate) client: Option<(Vec<u8>, Secret)>,
}

/// How we speak to a host, and the name that its certificate has to have.
pub(super) type TlsPeer = (Arc<ClientConfig>, ServerName<'static>);

/// Bytes that are never shown.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl Tls {
    pub(super) fn check(&self) -> Result<(), TlsError> {
        for (pem, role) in [
            (self.authority.as_ref(), PemRole::Authority),
            (self.client.as_ref().map(|(cert, _)| cert), PemRole::ClientCertificate),
        ] {
            if pem.is_some_and(|pem| certificates(pem).is_empty()) {
                return Err(TlsError::NoCertificate(role.into()));
            }
        }
        Ok(())
    }

    /// A client's TLS greeting to a server of that name.
    pub(super) fn greeting(name: ServerName<'static>) -> Option<Vec<u8>> {
        // Any authority will do: the answer is not checked.
        let nobody = Self { authority: Some(Vec::new()), client: None };
        let mut client = ClientConnection::new(nobody.configured().ok()?, name).ok()?;
        let mut greeting = Vec::new();
        client.write_tls(&mut greeting).ok()?;
        Some(greeting)
    }

    /// What a connection to a host begins with.
    pub(super) fn to_host(&self, host: &str) -> Result<TlsPeer, TlsError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::BadHost)?;
        self.check()?;
        Ok((self.configured()?, name))
    }

    fn configured(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let mut trusted = RootCertStore::empty();
        let authorities = match &self.authority {
            Some(pem) => certificates(pem),
            None => rustls_native_certs::load_native_certs().certs,
        };
        trusted.add_parsable_certificates(authorities);
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| unconfigured(&error))?
            .with_root_certificates(trusted);
        let config = match &self.client {
            None => config.with_no_client_auth(),
            Some((cert, Secret(key))) => config
                .with_client_auth_cert(
                    certificates(cert),
                    private_key(key, PemRole::ClientKey.into())?,
                )
                .map_err(|error| unconfigured(&error))?,
        };
        Ok(Arc::new(config))
    }
}

fn unconfigured(error: &Error) -> TlsError {
    TlsError::Config(error.to_string())
}

/// Why there is no TLS with a server.
pub(super) fn refusal(error: &Error) -> StoreError {
    use AlertDescription::{
        AccessDenied, BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked,
        CertificateUnknown, DecryptError, UnknownCA, UnsupportedCertificate,
    };
    match error {
        Error::AlertReceived(CertificateRequired) => StoreError::CertificateWanted,
        Error::AlertReceived(
            AccessDenied
            | BadCertificate
            | CertificateExpired
            | CertificateRevoked
            | CertificateUnknown
            | DecryptError
            | UnknownCA
            | UnsupportedCertificate,
        ) => StoreError::CertificateRefused(error.to_string()),
        _ => StoreError::BadCertificate(error.to_string()),
    }
}

/// A file in PEM, and what is in it.
#[derive(Debug)]
pub(crate) struct Pem {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Secret,
}

impl Pem {
    fn certificates(&self) -> Vec<CertificateDer<'static>> {
        certificates(&self.bytes.0)
    }

    fn file(&self, role: PemRole) -> PemFile {
        PemFile { role, path: Some(self.path.clone()) }
    }
}

/// What a server needs.
#[derive(Debug)]
pub(crate) struct ServerFiles {
    /// Its certificate, and those that lead to it.
    pub(crate) cert: Pem,
    pub(crate) key: Pem,
    /// The authorities for clients' certificates, if clients have to show one.
    pub(crate) client_ca: Option<Pem>,
}

pub(crate) fn server(files: &ServerFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let ServerFiles { cert, key, client_ca } = files;
    let chain = cert.certificates();
    let (cert, key_file) = (cert.file(PemRole::ServerCertificate), key.file(PemRole::ServerKey));
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(cert));
    }
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unconfigured(&error))?;
    let config = match client_ca {
        Some(authority) => config.with_client_cert_verifier(verifier(authority)?),
        None => config.with_no_client_auth(),
    };
    let key = private_key(&key.bytes.0, key_file.clone())?;
    let config = config.with_single_cert(chain, key).map_err(|error| {
        let why = error.to_string();
        TlsError::Mismatch { cert, key: key_file, why }
    })?;
    Ok(Arc::new(config))
}

/// Accepts clients that show a certificate signed by one of these authorities.
fn verifier(authority: &Pem) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let file = authority.file(PemRole::ClientAuthority);
    let mut trusted = RootCertStore::empty();
    for certificate in authority.certificates() {
        let added = trusted.add(certificate);
        added.map_err(|error| TlsError::BadCertificate(file.clone(), error.to_string()))?;
    }
    if trusted.is_empty() {
        return Err(TlsError::NoCertificate(file));
    }
    let provider = Arc::new(ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(trusted), provider)
        .build()
        .map_err(|error| TlsError::BadAuthority(file, error.to_string()))
}

fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

fn private_key(pem: &[u8], file: PemFile) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| TlsError::NoPrivateKey(file))
}
