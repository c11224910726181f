//! Why certificates and keys cannot be used, as facts.

use std::path::PathBuf;

/// Why certificates and keys cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TlsError {
    NoCertificate(PemFile),
    NoPrivateKey(PemFile),
    /// One of the certificates is none, with what is wrong.
    BadCertificate(PemFile, String),
    /// Nothing can be checked by these authorities, with what is wrong.
    BadAuthority(PemFile, String),
    /// Certificate and key do not fit, with what is wrong.
    Mismatch {
        cert: PemFile,
        key: PemFile,
        why: String,
    },
    /// The host in the URL is not one that a certificate can name.
    BadHost,
    /// What the library says.
    Config(String),
}

/// A file in PEM: what it is for, and where it is if that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PemFile {
    pub(crate) role: PemRole,
    pub(crate) path: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PemRole {
    /// The authorities that a client trusts.
    Authority,
    ClientCertificate,
    ClientKey,
    ServerCertificate,
    ServerKey,
    /// The authorities that a server trusts.
    ClientAuthority,
}

impl From<PemRole> for PemFile {
    fn from(role: PemRole) -> Self {
        Self { role, path: None }
    }
}
