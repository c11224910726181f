//! Reading files that decide what we do, or whom we trust.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, openat};
use rustix::io::Errno;

use super::others::{Doubt, Why, hands};
use super::ours;
use super::walk::{Found, Reached, walk};

/// More than any of them has. What is larger is another file than was meant.
const LARGEST: u64 = 16 << 20;

/// What is in such a file.
pub(crate) struct Content {
    pub(crate) bytes: Vec<u8>,
    /// Whether all users of the machine may read it, too.
    pub(crate) everybody_reads: bool,
}

/// Why a file is not read. Fits behind its path.
#[derive(Debug)]
pub(crate) enum Refused {
    Io(io::Error),
    /// It is a secret that all users of the machine may read, or write.
    Shown,
    /// Others could have written it.
    Itself(Why),
    /// Others could have put it there.
    Way(Doubt),
    /// It is neither a file nor what a process has open.
    NoFile,
    TooLarge,
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// Reads a file that nobody but us and root can have written, nor put in its place.
///
/// A pipe from a shell's `<(…)`, or /dev/null, is what the user who named it made of it.
pub(crate) fn read(path: &Path) -> Result<Content, Refused> {
    let reached = walk(path)?;
    let Some(found) = &reached.file else { return Err(Errno::ISDIR.into()) };
    let (file, stat) = open(&reached.directory, found)?;
    let regular = ours::is_regular(&stat);
    if regular {
        check(&file, &stat, &reached)?;
    }
    let bytes = content(file)?;
    Ok(Content { bytes, everybody_reads: regular && is_for_everybody(&stat) })
}

/// The same for one that only those may read whom its secret concerns.
pub(crate) fn read_secret(path: &Path) -> Result<Vec<u8>, Refused> {
    let reached = walk(path)?;
    let Some(found) = &reached.file else { return Err(Errno::ISDIR.into()) };
    let (file, stat) = open(&reached.directory, found)?;
    if ours::is_regular(&stat) {
        if is_for_everybody(&stat) {
            return Err(Refused::Shown);
        }
        check(&file, &stat, &reached)?;
    }
    content(file)
}

fn open(directory: &OwnedFd, found: &Found) -> Result<(OwnedFd, Stat), Refused> {
    let mut flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
    if !found.is_opened {
        // A FIFO without a writer is not waited for.
        flags |= OFlags::NOFOLLOW | OFlags::NONBLOCK;
    }
    let file = openat(directory, &found.name, flags, Mode::empty())?;
    let stat = fstat(&file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile | FileType::CharacterDevice => Ok((file, stat)),
        _ if found.is_opened => Ok((file, stat)),
        _ => Err(Refused::NoFile),
    }
}

/// Whether others have a hand in a file, or in the way to it.
fn check(file: &OwnedFd, stat: &Stat, reached: &Reached) -> Result<(), Refused> {
    if let Some(why) = hands(file, stat) {
        return Err(Refused::Itself(why));
    }
    // What a process has open was found by the one who opened it.
    let is_opened = reached.file.as_ref().is_some_and(|found| found.is_opened);
    match reached.doubts.first() {
        Some(doubt) if !is_opened => Err(Refused::Way(doubt.clone())),
        _ => Ok(()),
    }
}

fn is_for_everybody(stat: &Stat) -> bool {
    stat.st_mode & 0o007 != 0
}

fn content(file: OwnedFd) -> Result<Vec<u8>, Refused> {
    let mut bytes = Vec::new();
    File::from(file).take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST { Err(Refused::TooLarge) } else { Ok(bytes) }
}
