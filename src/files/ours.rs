//! Making and opening what we write: with the right mode from the first moment, and never through
//! something that was there before.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fchmod, fstat, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::others::{Doubt, Why, stranger, writers};
use super::walk::{Reached, link_of, walk};

/// Why a directory, or a file in it, is not used.
#[derive(Debug)]
pub(crate) enum Unfit {
    Io(io::Error),
    /// Others could change what we write there, or have made it.
    Unsafe(Flaw),
}

/// By what that is so.
#[derive(Debug)]
pub(crate) enum Flaw {
    /// The directory is a symbolic link.
    Link,
    /// Of the way to the directory.
    Way(Doubt),
    /// Of the directory itself.
    Itself(Why),
    /// A file in it is of another kind.
    Odd { file: String },
    /// A file in it belongs to this user.
    Owner { file: String, uid: u32 },
}

impl From<io::Error> for Unfit {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Errno> for Unfit {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// Opens a directory of our own, which is made if need be, with those above it. In a sticky one others
/// may make files; [`open_private`] takes none of theirs.
pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd, Unfit> {
    // A slash at the end would make the kernel follow a link.
    let path: &Path = &path.components().collect::<PathBuf>();
    let me = geteuid();
    // One of root's for another user is how systemd keeps the directory of a dynamic user.
    if link_of(path).is_some_and(|owner| owner != 0 || me.is_root()) {
        return Err(Unfit::Unsafe(Flaw::Link));
    }
    let reached = reach(path)?;
    if let Some(doubt) = reached.doubts.first() {
        return Err(Unfit::Unsafe(Flaw::Way(doubt.clone())));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(&reached.directory, ".", flags, Mode::empty())?;
    let stat = fstat(&directory)?;
    let sticky = Mode::from_raw_mode(stat.st_mode).contains(Mode::SVTX);
    let why = stranger(&stat).or_else(|| writers(&directory, &stat).filter(|_| !sticky));
    match why {
        None => Ok(directory),
        Some(why) => Err(Unfit::Unsafe(Flaw::Itself(why))),
    }
}

/// By what others could move a directory away, or a part of its path.
pub(crate) fn moved_by(path: &Path) -> io::Result<Option<Doubt>> {
    Ok(walk(path)?.doubts.into_iter().next())
}

/// Walks to a directory, and makes what is missing on the way.
fn reach(path: &Path) -> Result<Reached, Unfit> {
    let reached = match walk(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_directory(path)?;
            walk(path)
        }
        reached => reached,
    }?;
    if reached.file.is_some() { Err(Errno::NOTDIR.into()) } else { Ok(reached) }
}

/// Makes a private directory, and those above it.
fn make_directory(path: &Path) -> Result<(), Unfit> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::NOENT.into());
    };
    let above = reach(parent)?;
    match with_exact_modes(Mode::RWXU, || mkdirat(&above.directory, name, Mode::RWXU)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Makes a file to read and write that was not there before.
pub(crate) fn create(directory: impl AsFd, file: &str, mode: Mode) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    with_exact_modes(mode, || openat(directory, file, flags, mode))
}

/// The same for a private one, in any thread: what a umask takes from its mode is given back.
pub(crate) fn create_private(directory: impl AsFd, file: &str) -> io::Result<File> {
    const MODE: Mode = Mode::RUSR.union(Mode::WUSR);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = openat(directory, file, flags, MODE)?;
    fchmod(&made, MODE)?;
    Ok(made.into())
}

/// A private file with all of this in it, on the disk: it is to take another one's place. What a crash
/// left there is not written to: it goes.
pub(crate) fn write_aside(directory: impl AsFd, file: &str, content: &[u8]) -> io::Result<File> {
    let remove = || unlinkat(&directory, file, AtFlags::empty());
    let write = || {
        let mut made = create_private(&directory, file)?;
        made.write_all(content)?;
        made.sync_all()?;
        Ok(made)
    };
    // What cannot be removed is in the way of a new one, which says so.
    let _ = remove();
    write().inspect_err(|_: &io::Error| {
        // Half of it would only take room.
        let _ = remove();
    })
}

/// Opens what is there, and waits for nobody: not for a FIFO's other end.
pub(crate) fn open(directory: impl AsFd, file: &str, access: OFlags) -> Result<OwnedFd, Errno> {
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat(directory, file, flags, Mode::empty())
}

/// Opens a file that only we or root can have made. None: there is none.
pub(crate) fn open_private(
    directory: impl AsFd,
    file: &str,
    access: OFlags,
) -> Result<Option<File>, Unfit> {
    let odd = || Err(Unfit::Unsafe(Flaw::Odd { file: file.into() }));
    let opened = match open(directory, file, access) {
        Err(Errno::NOENT) => return Ok(None),
        // A symbolic link, a socket, a FIFO that has no reader, a directory.
        Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => return odd(),
        opened => opened?,
    };
    let stat = fstat(&opened)?;
    if !is_regular(&stat) {
        return odd();
    }
    if let Some(Why::Owner(uid)) = stranger(&stat) {
        return Err(Unfit::Unsafe(Flaw::Owner { file: file.into(), uid }));
    }
    Ok(Some(opened.into()))
}

pub(crate) fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// Whether a file where others may make files is one that we may write: not another name of a file
/// that lies elsewhere.
pub(crate) fn is_single(file: &OwnedFd) -> Result<bool, Errno> {
    let stat = fstat(file)?;
    Ok(is_regular(&stat) && stat.st_nlink == 1)
}

/// Makes something with the mode that it shall have, whatever our umask says: at no moment can
/// others not use what is theirs as well. Where the umask would take something from that mode, no other
/// thread of ours makes files meanwhile.
pub(crate) fn with_exact_modes<T>(mode: Mode, make: impl FnOnce() -> T) -> T {
    static ALONE: Mutex<()> = Mutex::new(());
    static UMASK: OnceLock<Mode> = OnceLock::new();
    let umask = rustix::process::umask;
    // There is no other way to ask for it.
    let ours = *UMASK.get_or_init(|| {
        let ours = umask(Mode::empty());
        umask(ours);
        ours
    });
    if !ours.intersects(mode) {
        return make();
    }
    let _alone = ALONE.lock();
    umask(Mode::empty());
    let result = make();
    umask(ours);
    result
}
