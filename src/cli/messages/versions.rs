//! Two ends of a connection that speak different versions of the protocol between them.

use std::fmt;

use crate::backends::cloud::protocol::VERSION;

/// Of whom that is said, and which version it speaks.
pub(crate) enum OtherVersion<'a> {
    Server(&'a str),
    /// With the version of the program, as it was before the protocol had one.
    OlderServer(&'a str),
    Client(&'a str),
}

impl fmt::Display for OtherVersion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const PROTOCOL: &str = "the protocol between semrun and semrun serve";
        match self {
            Self::Server(theirs) => write!(
                f,
                "the server speaks version {theirs} of {PROTOCOL}, and this semrun version {VERSION}"
            ),
            Self::OlderServer(program) => write!(
                f,
                "the server, semrun {program}, speaks an older version of {PROTOCOL}, and this one version \
                 {VERSION}"
            ),
            Self::Client(theirs) => write!(
                f,
                "the client speaks version {theirs} of {PROTOCOL}, and this server version {VERSION}"
            ),
        }?;
        f.write_str("; install the same semrun on both sides")
    }
}
