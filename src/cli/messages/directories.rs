//! What is wrong with a directory of permits. Fits after its URL.

use std::fmt;

use rustix::process::geteuid;

use super::words::SystemErrorText;
use crate::permits::error::Directory;

pub(super) struct DirectoryText<'a>(pub(super) &'a Directory);

impl fmt::Display for DirectoryText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Directory::HomeUnknown { uid, why } => write!(
                f,
                "the home directory of uid {uid} is unknown: {why}; try again, or name a directory \
                 with --backend file:///PATH"
            ),
            Directory::NotFound(_) => f.write_str(
                "does not exist, and cannot be made by you; make it, or name another with --backend \
                 file:///PATH",
            ),
            Directory::NotWritable(_) => f.write_str(
                "cannot be written; make it writable for you, or name another with --backend \
                 file:///PATH",
            ),
            Directory::NotCreated(_) => f.write_str(
                "cannot create it; make it, or name another with --backend file:///PATH",
            ),
            Directory::FileSystemUnreadable(_) => f.write_str("cannot examine the file system"),
            Directory::Unreadable(_) => f.write_str("cannot examine the directory"),
            Directory::NotOpened(_) => f.write_str("cannot be opened"),
            Directory::NoPermission(_) => f.write_str(
                "cannot be opened; ask its owner to share it, or name another with --backend \
                 file:///PATH",
            ),
            Directory::SymbolicLink(_) => {
                f.write_str("is a symbolic link; name the directory it points to")
            }
            Directory::OtherFile(_) => f.write_str("is not a directory; name one"),
            Directory::WayUnknown(_) => f.write_str("cannot be reached by its path"),
            Directory::Movable(doubt) => write!(f, "{doubt}"),
            Directory::Remote(kind) => write!(
                f,
                "is on a network or user-space file system ({kind}), where locks of different hosts do \
                 not meet; name a directory on a local disk with --backend file:///PATH"
            ),
            Directory::Owner { uid, unmapped: true } => write!(
                f,
                "belongs to uid {uid}, which stands for all users whom this user namespace does not map, \
                 and only you (uid {}) or root may own it; name a directory of a user whom it maps with \
                 --backend file:///PATH",
                geteuid().as_raw()
            ),
            Directory::Owner { uid, unmapped: false } => write!(
                f,
                "belongs to uid {uid}, and only you (uid {}) or root may own it; have root own a shared \
                 one, or name another with --backend file:///PATH",
                geteuid().as_raw()
            ),
            Directory::Everybodys => f.write_str(
                "can be written by every user; take that away (chmod o-w) or set the sticky bit (chmod \
                 +t)",
            ),
        }?;
        match self.0.system_error() {
            Some(said) => write!(f, " ({})", SystemErrorText(said)),
            None => Ok(()),
        }
    }
}
