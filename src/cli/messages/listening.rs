//! Why a server does not listen.

use std::fmt;
use std::io;

use super::words::SystemErrorText;

pub(crate) struct CannotListen<'a> {
    pub(crate) listen: &'a str,
    pub(crate) error: &'a io::Error,
}

impl fmt::Display for CannotListen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listen, error } = self;
        write!(f, "cannot listen at {listen}: {}", SystemErrorText(error))?;
        f.write_str(match error.kind() {
            io::ErrorKind::AddrInUse => {
                "; is a server running there already? --listen names another address"
            }
            io::ErrorKind::AddrNotAvailable => "; --listen wants an address of this machine",
            io::ErrorKind::PermissionDenied => {
                "; ports below 1024 are for root, unless it allows others to use them"
            }
            _ => "",
        })
    }
}
