//! Why a file, or a directory of our own, is not used. Fits after its path.

use std::fmt;

use rustix::process::geteuid;

use super::words::SystemErrorText;
use crate::files::create::{Flaw, UnsafeDirectory};
use crate::files::permissions::{UnsafePath, UnsafeReason};
use crate::files::trusted::UntrustedFile;
use crate::user::stands_for_unmapped;

impl fmt::Display for UnsafePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = self.what.display();
        match (self.is_link, self.why) {
            (true, UnsafeReason::Owner(uid)) => write!(
                f,
                "is reached through the symbolic link {what}, which belongs to {}; name the file \
                 itself",
                Owner(uid)
            ),
            (_, UnsafeReason::Owner(uid)) => write!(
                f,
                "lies in {what}, which belongs to {}; chown {} {what} makes it yours",
                Owner(uid),
                geteuid().as_raw()
            ),
            (_, why) => write!(
                f,
                "lies in {what}, which can be written by {}, who could put something else in its \
                 place; chmod {} {what} prevents it",
                AllowedWriters(why),
                remedy(why)
            ),
        }
    }
}

impl fmt::Display for UntrustedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot be read: {}", SystemErrorText(error)),
            Self::Shown => f.write_str(
                "holds a secret, and every user of this machine can read it; chmod o= makes it private",
            ),
            Self::Itself(UnsafeReason::Owner(uid)) => {
                let me = geteuid().as_raw();
                write!(f, "belongs to {}; chown {me} makes it yours", Owner(*uid))
            }
            Self::Itself(_) => f.write_str(
                "can be written by others, who could have it run their way; chmod go-w prevents it",
            ),
            Self::Way(doubt) => doubt.fmt(f),
            Self::NoFile => f.write_str("is not a regular file; name one"),
            Self::TooLarge => f.write_str("is larger than 16 MiB; name another file"),
        }
    }
}

impl fmt::Display for UnsafeDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{}", SystemErrorText(error)),
            Self::Unsafe(flaw) => write!(f, "{flaw}"),
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let me = geteuid().as_raw();
        match self {
            Self::Link => f.write_str("is a symbolic link; name the directory that it points to"),
            Self::Way(doubt) => write!(f, "{doubt}"),
            Self::Itself(UnsafeReason::Owner(uid)) => {
                write!(f, "belongs to {}; chown -R {me} makes it yours", Owner(*uid))
            }
            Self::Itself(why) => write!(
                f,
                "can be written by others, who could change what is on record; chmod {} prevents it",
                remedy(*why)
            ),
            Self::Odd { file } => {
                write!(f, "{file} is not a regular file, and so not what semrun made; remove it")
            }
            Self::Owner { file, uid } => {
                write!(f, "{file} belongs to {}; chown {me} makes it yours", Owner(*uid))
            }
        }
    }
}

/// What takes the right to write away.
fn remedy(why: UnsafeReason) -> &'static str {
    match why {
        UnsafeReason::Everybody => "go-w",
        UnsafeReason::Owner(_) | UnsafeReason::Group(_) => "g-w",
    }
}

/// An owner who should not be one.
struct Owner(u32);

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let me = geteuid().as_raw();
        write!(f, "uid {}, ", self.0)?;
        if stands_for_unmapped(self.0) {
            f.write_str("which stands for all users whom this user namespace does not map, ")?;
        }
        write!(f, "and only you (uid {me}) or root may own it")
    }
}

struct AllowedWriters(UnsafeReason);

impl fmt::Display for AllowedWriters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            UnsafeReason::Group(gid) => write!(f, "the group {gid}"),
            UnsafeReason::Owner(_) | UnsafeReason::Everybody => f.write_str("others"),
        }
    }
}
