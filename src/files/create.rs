//! Making and opening what we write: with the right mode from the first moment, and never through
//! something that was there before.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, chmodat, fchmod, fstat, mkdirat, mkfifoat,
    openat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::path::Arg;
use rustix::process::geteuid;
use uuid::Uuid;

use super::permissions::{UnsafePath, UnsafeReason, stranger, writers};
use super::walk::{ResolvedPath, link_of, walk};

/// Why a directory, or a file in it, is not used. Follows its path in a sentence, except for the
/// system's errors.
#[derive(Debug)]
pub(crate) enum UnsafeDirectory {
    Io(io::Error),
    /// Other users could change what we write there, or have made it.
    Unsafe(Flaw),
}

/// By what that is so.
#[derive(Debug)]
pub(crate) enum Flaw {
    /// The directory is a symbolic link.
    Link,
    /// Of the way to the directory.
    Way(UnsafePath),
    /// Of the directory itself.
    Itself(UnsafeReason),
    /// A file in it is of another kind.
    Odd { file: String },
    /// A file in it belongs to this user.
    Owner { file: String, uid: u32 },
}

impl From<io::Error> for UnsafeDirectory {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Errno> for UnsafeDirectory {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// Opens a directory of our own, which is made if need be, with those above it. In a sticky one
/// other users may make files; [`open_private`] refuses theirs.
pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd, UnsafeDirectory> {
    // A slash at the end would make the kernel follow a link.
    let path: &Path = &path.components().collect::<PathBuf>();
    let me = geteuid();
    // A link of root's for another user is how systemd keeps a dynamic user's directory.
    if link_of(path).is_some_and(|owner| owner != 0 || me.is_root()) {
        return Err(UnsafeDirectory::Unsafe(Flaw::Link));
    }
    let reached = reach(path)?;
    if let Some(doubt) = reached.doubts.first() {
        return Err(UnsafeDirectory::Unsafe(Flaw::Way(doubt.clone())));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(&reached.directory, ".", flags, Mode::empty())?;
    let stat = fstat(&directory)?;
    let sticky = Mode::from_raw_mode(stat.st_mode).contains(Mode::SVTX);
    let why = stranger(&stat).or_else(|| writers(&directory, &stat).filter(|_| !sticky));
    match why {
        None => Ok(directory),
        Some(why) => Err(UnsafeDirectory::Unsafe(Flaw::Itself(why))),
    }
}

/// Where other users could move a directory away, or a part of its path.
pub(crate) fn moved_by(path: &Path) -> io::Result<Option<UnsafePath>> {
    Ok(walk(path)?.doubts.into_iter().next())
}

/// Walks to a directory, and makes what is missing on the way.
fn reach(path: &Path) -> Result<ResolvedPath, UnsafeDirectory> {
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
fn make_directory(path: &Path) -> Result<(), UnsafeDirectory> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::NOENT.into());
    };
    let above = reach(parent)?;
    Ok(create_directory(&above.directory, name)?)
}

/// Makes a private directory, unless there is something of that name, whatever our umask.
pub(crate) fn create_directory(above: impl AsFd, name: impl Arg + Copy) -> Result<(), Errno> {
    match mkdirat(&above, name, Mode::RWXU) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    let made = statat(&above, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if Mode::from_raw_mode(made.st_mode).contains(Mode::RWXU) {
        return Ok(());
    }
    chmodat(&above, name, Mode::RWXU, AtFlags::empty())
}

/// Makes a file to read and write that was not there before.
pub(crate) fn create(directory: impl AsFd, file: &str, mode: Mode) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    with_exact_mode(&directory, file, mode, |name| openat(&directory, name, flags, mode))
}

/// The same for a private file.
pub(crate) fn create_private(directory: impl AsFd, file: &str) -> io::Result<File> {
    Ok(create(directory, file, Mode::RUSR | Mode::WUSR)?.into())
}

/// Makes a FIFO that was not there before, and opens both of its ends.
pub(crate) fn create_fifo(directory: impl AsFd, file: &str, mode: Mode) -> Result<OwnedFd, Errno> {
    with_exact_mode(&directory, file, mode, |name| {
        mkfifoat(&directory, name, mode)?;
        let open = || open(&directory, name, OFlags::RDWR);
        let opened = match open() {
            // The umask takes rights from the owner too.
            Err(Errno::ACCESS) => {
                chmodat(&directory, name, mode, AtFlags::empty()).and_then(|()| open())
            }
            opened => opened,
        };
        opened.inspect_err(|_| remove(&directory, name))
    })
}

fn remove(directory: impl AsFd, file: &str) {
    let _ = unlinkat(directory, file, AtFlags::empty());
}

/// A private file with this content, on the disk, to replace another one. A leftover of a crash is
/// removed, not written to.
pub(crate) fn write_aside(directory: impl AsFd, file: &str, content: &[u8]) -> io::Result<File> {
    let remove = || remove(&directory, file);
    let write = || {
        let mut made = create_private(&directory, file)?;
        made.write_all(content)?;
        made.sync_all()?;
        Ok(made)
    };
    // If it cannot be removed, making the new file fails.
    remove();
    write().inspect_err(|_: &io::Error| {
        // An incomplete file would only take room.
        remove();
    })
}

/// Opens what is there, and never waits: not for a FIFO's other end either.
pub(crate) fn open(directory: impl AsFd, file: &str, access: OFlags) -> Result<OwnedFd, Errno> {
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat(directory, file, flags, Mode::empty())
}

/// Opens a file that only we or root can have made. None: there is none.
pub(crate) fn open_private(
    directory: impl AsFd,
    file: &str,
    access: OFlags,
) -> Result<Option<File>, UnsafeDirectory> {
    let odd = || Err(UnsafeDirectory::Unsafe(Flaw::Odd { file: file.into() }));
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
    if let Some(UnsafeReason::Owner(uid)) = stranger(&stat) {
        return Err(UnsafeDirectory::Unsafe(Flaw::Owner { file: file.into(), uid }));
    }
    Ok(Some(opened.into()))
}

pub(crate) fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// Whether we may write a file in a directory of several users: it must not be a hard link to
/// another file.
pub(crate) fn is_single(file: &OwnedFd) -> Result<bool, Errno> {
    let stat = fstat(file)?;
    Ok(is_regular(&stat) && stat.st_nlink == 1)
}

/// How the names begin that files of several users have while they are made.
pub(crate) const UNFINISHED: &str = "new.";

/// Makes something that was not there before, with this mode whatever our umask.
///
/// What other users share has its mode before it has its name, so that they can use it even if we
/// are killed meanwhile; what is left of it then begins with [`UNFINISHED`]. A private file lacks
/// nothing at first, unless the umask takes rights from the owner.
fn with_exact_mode(
    directory: impl AsFd,
    file: &str,
    mode: Mode,
    make: impl Fn(&str) -> Result<OwnedFd, Errno>,
) -> Result<OwnedFd, Errno> {
    let make_as = |name: &str| {
        let opened = make(name)?;
        fchmod(&opened, mode).inspect_err(|_| remove(&directory, name))?;
        Ok(opened)
    };
    if Mode::RWXU.contains(mode) {
        return make_as(file);
    }
    let unfinished = format!("{UNFINISHED}{}", Uuid::new_v4().simple());
    let opened = make_as(&unfinished)?;
    match rename_new(&directory, &unfinished, file) {
        Ok(()) => return Ok(opened),
        // The file system cannot do that.
        Err(Errno::INVAL) => {}
        Err(errno) => {
            remove(&directory, &unfinished);
            // Only a process that uses the files removes what is unfinished: so they are there.
            return Err(if errno == Errno::NOENT { Errno::EXIST } else { errno });
        }
    }
    remove(&directory, &unfinished);
    make_as(file)
}

/// Gives something another name that nothing has.
pub(crate) fn rename_new(directory: impl AsFd, from: &str, to: &str) -> Result<(), Errno> {
    renameat_with(&directory, from, &directory, to, RenameFlags::NOREPLACE)
}
