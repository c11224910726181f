//! Secrets that others can read, and what keeps them private.

use std::fmt;

/// A secret that is not only ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exposed {
    /// A password in the arguments.
    Typed,
    /// An API key on its way to another machine.
    Key,
    /// A password on that way.
    Password,
}

/// Of a password in the arguments.
pub(crate) const TYPED: &str = "every user of this machine can see the password in --backend, in the \
                                list of processes; --password-file, SEMRUN_PASSWORD and the \
                                configuration keep it to you";

impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("warning: ")?;
        f.write_str(match self {
            Self::Typed => TYPED,
            Self::Key => "the API key can be read on the network; https:// keeps it private",
            Self::Password => "the password can be read on the network; rediss:// keeps it private",
        })
    }
}
