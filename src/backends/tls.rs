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

/// Why there is no TLS with a server, and what to do. Fits behind a colon.
pub(super) fn refusal(error: &Error) -> String {
    use AlertDescription::{
        AccessDenied, BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked,
        CertificateUnknown, DecryptError, UnknownCA, UnsupportedCertificate,
    };
    const OURS: &str = "name one that it trusts with --client-cert and --client-key";
    match error {
        Error::AlertReceived(CertificateRequired) => {
            format!("the server asks for a certificate of ours; {OURS}")
        }
        Error::AlertReceived(
            AccessDenied
            | BadCertificate
            | CertificateExpired
            | CertificateRevoked
            | CertificateUnknown
            | DecryptError
            | UnknownCA
            | UnsupportedCertificate,
        ) => format!("the server refuses our certificate ({error}); {OURS}"),
        _ => format!(
            "{error}; name the authority that signed its certificate with --ca-file, and the server \
             as its certificate does; --client-cert and --client-key if it asks for ours"
        ),
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

    /// As it was given.
    fn named(&self, option: &str) -> String {
        format!("{option} {}", self.path.display())
    }
}

/// What a server needs.
#[derive(Debug)]
pub(crate) struct ServerFiles {
    /// Its certificate, and those that lead to it.
    pub(crate) cert: Pem,
    pub(crate) key: Pem,
    /// Who signed the certificates that clients have to show, if they have to.
    pub(crate) client_ca: Option<Pem>,
}

/// The error says what is wrong with which file.
pub(crate) fn server(files: &ServerFiles) -> Result<Arc<ServerConfig>, String> {
    let ServerFiles { cert, key, client_ca } = files;
    let chain = cert.certificates();
    let (named, key_named) = (cert.named("--tls-cert"), key.named("--tls-key"));
    if chain.is_empty() {
        return Err(format!("there is no certificate in {named}"));
    }
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let config = match client_ca {
        Some(authority) => config.with_client_cert_verifier(verifier(authority)?),
        None => config.with_no_client_auth(),
    };
    let config = config
        .with_single_cert(chain, private_key(&key.bytes.0, &key_named)?)
        .map_err(|error| format!("{named} and {key_named} do not fit: {error}"))?;
    Ok(Arc::new(config))
}

/// Lets in who shows a certificate that one of these authorities has signed.
fn verifier(authority: &Pem) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let named = authority.named("--client-ca-file");
    let mut trusted = RootCertStore::empty();
    for certificate in authority.certificates() {
        let added = trusted.add(certificate);
        added.map_err(|error| format!("{named} has a certificate that is none: {error}"))?;
    }
    if trusted.is_empty() {
        return Err(format!("there is no certificate in {named}"));
    }
    let provider = Arc::new(ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(trusted), provider)
        .build()
        .map_err(|error| format!("{named} cannot be used: {error}"))
}

fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

fn private_key(pem: &[u8], named: &str) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| format!("there is no private key in {named}"))
}
