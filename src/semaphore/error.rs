//! What a user of the library is told when something fails.

use std::{fmt, io};

use rustix::io::Errno;

use crate::backends;
use crate::backends::url::BadLocation;
use crate::permits::Terms;

/// Why a semaphore could not be used.
#[derive(Debug)]
pub struct Error(pub(super) Cause);

#[derive(Debug)]
pub(super) enum Cause {
    Name,
    Terms(Terms),
    Url(BadLocation),
    Backend(backends::BackendError),
}

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The URL or the name is wrong, or no semaphore can have such terms.
    Invalid,
    /// The store cannot be reached or refused us, now: another attempt may succeed.
    Unavailable,
    /// The store cannot do this at all.
    Unsupported,
    /// The limit or TTL in force is another one, and the semaphore is strict.
    Differs,
    /// The store grants no permit yet, although one is free.
    Withheld,
}

impl Error {
    /// The class of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match &self.0 {
            Cause::Name | Cause::Terms(_) | Cause::Url(_) => ErrorKind::Invalid,
            Cause::Backend(error) => match error.kind() {
                backends::FailureClass::Unavailable => ErrorKind::Unavailable,
                backends::FailureClass::Unsupported => ErrorKind::Unsupported,
                backends::FailureClass::Differs => ErrorKind::Differs,
                backends::FailureClass::Withheld => ErrorKind::Withheld,
            },
        }
    }
}

impl From<backends::BackendError> for Error {
    fn from(error: backends::BackendError) -> Self {
        Self(Cause::Backend(error))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Cause::Name => f.write_str("the name of a semaphore has 1 to 200 bytes of UTF-8"),
            Cause::Terms(terms) => write!(f, "no semaphore can have these terms: {terms:?}"),
            Cause::Url(bad) => write!(f, "not a URL of a store of permits: {bad:?}"),
            Cause::Backend(error) => {
                write!(f, "{}: {:?}", error.backend, error.cause)?;
                let said = std::error::Error::source(&error.cause);
                let said = said.and_then(|said| said.downcast_ref::<io::Error>());
                let needs = match said.and_then(Errno::from_io_error) {
                    Some(Errno::MFILE) => "a waiter has a file open for each permit that is taken",
                    Some(Errno::FBIG) => "a permit in a directory is a file of a few hundred bytes",
                    _ => return Ok(()),
                };
                write!(f, "; {needs}")
            }
        }
    }
}

impl std::error::Error for Error {}
