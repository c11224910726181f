//! Reading files that decide what we do, or which servers and clients we trust.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, openat};
use rustix::io::Errno;

use super::create;
use super::permissions::{UnsafePath, UnsafeReason, hands};
use super::walk::{FoundFile, ResolvedPath, walk};

/// Larger than any of them. A larger file is not the intended one.
const LARGEST: u64 = 16 << 20;

/// What is in such a file.
pub(crate) struct TrustedContent {
    pub(crate) bytes: Vec<u8>,
    /// Whether all users of the machine may read it, too.
    pub(crate) everybody_reads: bool,
}

/// Why a file is not read. Follows its path in a sentence.
#[derive(Debug)]
pub(crate) enum UntrustedFile {
    Io(io::Error),
    /// It is a secret that all users of the machine may read, or write.
    Shown,
    /// Other users could have written it.
    Itself(UnsafeReason),
    /// Other users could have put it there.
    Way(UnsafePath),
    /// It is neither a file nor what a process has open.
    NoFile,
    TooLarge,
}

impl From<io::Error> for UntrustedFile {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Errno> for UntrustedFile {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// Reads a file that only we and root can have written, or put in its place.
///
/// A pipe from a shell's `<(…)`, or /dev/null, is trusted as the user named it.
pub(crate) fn read(path: &Path) -> Result<TrustedContent, UntrustedFile> {
    let reached = walk(path)?;
    let Some(found) = &reached.file else { return Err(Errno::ISDIR.into()) };
    let (file, stat) = open(&reached.directory, found)?;
    let regular = create::is_regular(&stat);
    if regular {
        check(&file, &stat, &reached)?;
    }
    let bytes = content(file)?;
    Ok(TrustedContent { bytes, everybody_reads: regular && is_for_everybody(&stat) })
}

/// The same for a secret file, which others must not be able to read.
pub(crate) fn read_secret(path: &Path) -> Result<Vec<u8>, UntrustedFile> {
    let reached = walk(path)?;
    let Some(found) = &reached.file else { return Err(Errno::ISDIR.into()) };
    let (file, stat) = open(&reached.directory, found)?;
    if create::is_regular(&stat) {
        if is_for_everybody(&stat) {
            return Err(UntrustedFile::Shown);
        }
        check(&file, &stat, &reached)?;
    }
    content(file)
}

fn open(directory: &OwnedFd, found: &FoundFile) -> Result<(OwnedFd, Stat), UntrustedFile> {
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
        _ => Err(UntrustedFile::NoFile),
    }
}

/// Checks that other users can change neither a file nor the way to it.
fn check(file: &OwnedFd, stat: &Stat, reached: &ResolvedPath) -> Result<(), UntrustedFile> {
    if let Some(why) = hands(file, stat) {
        return Err(UntrustedFile::Itself(why));
    }
    // What a process has open was found by the process that opened it.
    let is_opened = reached.file.as_ref().is_some_and(|found| found.is_opened);
    match reached.doubts.first() {
        Some(doubt) if !is_opened => Err(UntrustedFile::Way(doubt.clone())),
        _ => Ok(()),
    }
}

fn is_for_everybody(stat: &Stat) -> bool {
    stat.st_mode & 0o007 != 0
}

fn content(file: OwnedFd) -> Result<Vec<u8>, UntrustedFile> {
    let mut bytes = Vec::new();
    File::from(file).take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST { Err(UntrustedFile::TooLarge) } else { Ok(bytes) }
}
