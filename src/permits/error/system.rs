//! Errors of the system about the files and directories of permits.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::files::permissions::UnsafePath;
use crate::user::NoAnswer;

/// What is wrong with a directory of permits, and what the system says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Directory {
    /// The user database does not say where the home of this user is, with what is wrong.
    HomeUnknown {
        uid: u32,
        why: NoAnswer,
    },
    /// It does not exist, and this user cannot make it.
    NotFound(SystemError),
    NotWritable(SystemError),
    NotCreated(SystemError),
    /// The same of the file system it is on.
    FileSystemUnreadable(SystemError),
    Unreadable(SystemError),
    NotOpened(SystemError),
    NoPermission(SystemError),
    SymbolicLink(SystemError),
    /// It is another kind of file.
    OtherFile(SystemError),
    /// Its path cannot be followed.
    WayUnknown(SystemError),
    /// Others can move it away, with what that is.
    Movable(UnsafePath),
    /// It is on a file system of this kind, where locks of different hosts do not meet.
    Remote(&'static str),
    /// It belongs to another user than us and root; whether that uid stands for all unmapped users.
    Owner {
        uid: u32,
        unmapped: bool,
    },
    /// All users may write it, and there is no sticky bit.
    Everybodys,
}

impl Directory {
    /// What the system says of it.
    pub(crate) fn system_error(&self) -> Option<&SystemError> {
        match self {
            Self::NotFound(said)
            | Self::NotWritable(said)
            | Self::NotCreated(said)
            | Self::FileSystemUnreadable(said)
            | Self::Unreadable(said)
            | Self::NotOpened(said)
            | Self::NoPermission(said)
            | Self::SymbolicLink(said)
            | Self::OtherFile(said)
            | Self::WayUnknown(said) => Some(said),
            Self::HomeUnknown { .. }
            | Self::Movable(_)
            | Self::Remote(_)
            | Self::Owner { .. }
            | Self::Everybodys => None,
        }
    }
}

/// What the system said.
#[derive(Debug, Clone)]
pub(crate) struct SystemError(Arc<io::Error>);

impl SystemError {
    pub(crate) fn kind(&self) -> io::ErrorKind {
        self.0.kind()
    }

    pub(crate) fn io(&self) -> &io::Error {
        &self.0
    }
}

impl PartialEq for SystemError {
    fn eq(&self, other: &Self) -> bool {
        let same_code = self.0.raw_os_error() == other.0.raw_os_error();
        same_code && self.kind() == other.kind() && self.to_string() == other.to_string()
    }
}

impl Eq for SystemError {}

impl From<io::Error> for SystemError {
    fn from(error: io::Error) -> Self {
        Self(Arc::new(error))
    }
}

impl From<rustix::io::Errno> for SystemError {
    fn from(errno: rustix::io::Errno) -> Self {
        io::Error::from(errno).into()
    }
}

impl fmt::Display for SystemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
