//! Making files that others may use as well: with the right mode from the first moment, and never
//! through something that was there before.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Makes a file to read and write that was not there before.
pub(super) fn create_file(directory: &OwnedFd, file: &str, mode: Mode) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    with_exact_modes(|| rustix::fs::openat(directory, file, flags, mode))
}

/// Makes something with the mode that it shall have, whatever our umask says: at no moment can
/// others not use what is theirs as well. No other thread of ours makes files.
pub(super) fn with_exact_modes<T>(make: impl FnOnce() -> T) -> T {
    let umask = rustix::process::umask(Mode::empty());
    let result = make();
    rustix::process::umask(umask);
    result
}
