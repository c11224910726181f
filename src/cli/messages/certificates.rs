//! What is wrong with certificates and keys, and which option names better ones.

use std::fmt;

use crate::backends::tls::{PemFile, PemRole, TlsError};

/// Advice when a server refuses us.
pub(super) const OURS: &str = "name one that it trusts with --client-cert and --client-key";

/// Advice when we refuse the server.
pub(super) const THEIRS: &str = "name the authority that signed its certificate with --ca-file, and \
                                 the server as its certificate does; --client-cert and --client-key if \
                                 it asks for a client's";

pub(crate) struct TlsErrorText<'a>(pub(crate) &'a TlsError);

impl fmt::Display for TlsErrorText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            TlsError::NoCertificate(file) if file.path.is_none() => {
                write!(f, "there is none in {}", FileText(file))
            }
            TlsError::NoCertificate(file) => {
                write!(f, "there is no certificate in {}", FileText(file))
            }
            TlsError::NoPrivateKey(file) => {
                write!(f, "there is no private key in {}", FileText(file))
            }
            TlsError::BadCertificate(file, why) => {
                write!(f, "{} has a certificate that is none: {why}", FileText(file))
            }
            TlsError::BadAuthority(file, why) => {
                write!(f, "{} cannot be used: {why}", FileText(file))
            }
            TlsError::Mismatch { cert, key, why } => {
                write!(f, "{} and {} do not fit: {why}", FileText(cert), FileText(key))
            }
            TlsError::BadHost => {
                f.write_str("the host in the URL is not one that a certificate can name")
            }
            TlsError::Config(why) => f.write_str(why),
        }
    }
}

/// The option, and the path if it is known.
struct FileText<'a>(&'a PemFile);

impl fmt::Display for FileText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0.role {
            PemRole::Authority => "--ca-file",
            PemRole::ClientCertificate => "--client-cert",
            PemRole::ClientKey => "--client-key",
            PemRole::ServerCertificate => "--tls-cert",
            PemRole::ServerKey => "--tls-key",
            PemRole::ClientAuthority => "--client-ca-file",
        })?;
        match &self.0.path {
            Some(path) => write!(f, " {}", path.display()),
            None => Ok(()),
        }
    }
}
