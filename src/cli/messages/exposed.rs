//! Secrets that others can read, and what keeps them private; and those that do nothing.

use std::fmt;

/// A secret that is not only ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExposedSecret {
    /// A password in the arguments.
    Typed,
    /// An API key on its way to another machine.
    Key,
    /// A password on that way.
    Password,
}

/// Of a password in the arguments.
pub(super) const TYPED: &str = "every user of this machine can see the password in --backend, in the \
                                list of processes; --password-file, SEMRUN_PASSWORD and the \
                                configuration keep it to you";

impl fmt::Display for ExposedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("warning: ")?;
        f.write_str(match self {
            Self::Typed => TYPED,
            Self::Key => "the API key can be read on the network; https:// keeps it private",
            Self::Password => "the password can be read on the network; rediss:// keeps it private",
        })
    }
}

/// An option with a secret that the place of the permits does not ask for.
pub(crate) struct UnusedSecret<'a>(pub(crate) &'a str);

impl fmt::Display for UnusedSecret<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(option) = self;
        let wants = match *option {
            "api-key-file" => "a cloud-semaphore server (--backend http://HOST)",
            _ => "a Redis (--backend redis://HOST)",
        };
        write!(f, "warning: --{option} does nothing here, and is not read; it is for {wants}")
    }
}
