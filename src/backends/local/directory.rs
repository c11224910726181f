//! Where the local backend keeps its files, and whether that place can be trusted: which
//! directory, who owns it, who shares it, what kind of file system it is on.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Gid, Mode, OFlags, Stat, StatFs};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::files::create::{self, moved_by};
use crate::permits::error::{BackendError, Directory, StoreError, SystemError};
use crate::user::{Home, User, stands_for_unmapped};

/// The directory in which each semaphore has one of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalConfig {
    /// The first one that can be used counts; more than one only where a home may be missing.
    candidates: Vec<DirectoryCandidate>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct DirectoryCandidate {
    path: PathBuf,
    /// Whether the user named it.
    named: bool,
    /// Directories above it that may be made as well.
    parents: usize,
}

/// A base directory that passed all checks.
#[derive(Debug)]
pub(super) struct BaseDirectory {
    pub(super) fd: OwnedFd,
    pub(super) path: PathBuf,
    pub(super) sharing: Sharing,
}

/// Which other users work in a base directory: all that may write it. What is made inside gets its
/// mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sharing {
    /// Permission bits for directories; files get them without the execute bits.
    directory: Mode,
    /// The group that shares it. None: it is private.
    group: Option<Gid>,
}

impl LocalConfig {
    /// A directory that the user named.
    pub(crate) fn named(path: &Path) -> Self {
        // A slash at the end would make the kernel follow a symbolic link.
        let path = path.components().collect();
        Self { candidates: vec![DirectoryCandidate { path, named: true, parents: 0 }] }
    }

    /// The directory for a user who named none: the same for a login shell and for cron.
    pub(crate) fn default_for(user: &User) -> Result<Self, BackendError> {
        if user.uid == 0 {
            let path = "/run/semrun".into();
            return Ok(Self {
                candidates: vec![DirectoryCandidate { path, named: false, parents: 0 }],
            });
        }
        let path = format!("/var/tmp/semrun-{}", user.uid).into();
        let temporary = DirectoryCandidate { path, named: false, parents: 0 };
        let home = match &user.home {
            Home::At(home) => Some(DirectoryCandidate {
                path: home.join(".local/state/semrun"),
                named: false,
                parents: 2,
            }),
            Home::None => None,
            Home::Unknown(error) => {
                let (uid, why) = (user.uid, error.clone());
                return Err(temporary.error(Directory::HomeUnknown { uid, why }));
            }
        };
        Ok(Self { candidates: home.into_iter().chain([temporary]).collect() })
    }

    /// What to call it before it is known which candidate can be used.
    pub(crate) fn path(&self) -> &Path {
        &self.candidates[0].path
    }

    /// Opens the directory, or says why it cannot be used. Makes it first if `create`;
    /// otherwise a missing one is None.
    pub(super) fn open(&self, create: bool) -> Result<Option<BaseDirectory>, BackendError> {
        let (last, others) = self.candidates.split_last().expect("there is always one");
        for candidate in others {
            match candidate.open(create) {
                Err(error) if error.unusable_home() => {}
                // On a file system that is read-only now, or in a home that was taken from us.
                Ok(Some(_)) if !candidate.is_writable() => {}
                // Missing, and not only because it was never needed.
                Ok(None) if !candidate.could_be_made() => {}
                opened => return opened,
            }
        }
        last.open(create)
    }

    pub(super) fn is_named(&self) -> bool {
        self.candidates.iter().all(|candidate| candidate.named)
    }

    /// The directory that a client asking for a permit uses; not open if it has to be made first.
    /// Makes nothing.
    pub(super) fn usable(&self) -> Result<(&Path, Option<BaseDirectory>), BackendError> {
        let (last, others) = self.candidates.split_last().expect("there is always one");
        for candidate in others {
            match candidate.usable() {
                Err(error) if error.unusable_home() => {}
                usable => return usable,
            }
        }
        last.usable()
    }
}

impl DirectoryCandidate {
    fn usable(&self) -> Result<(&Path, Option<BaseDirectory>), BackendError> {
        match self.open(false)? {
            None if !self.could_be_made() => Err(self.failed(Directory::NotFound, Errno::NOENT)),
            Some(_) if !self.is_writable() => {
                Err(self.failed(Directory::NotWritable, Errno::ACCESS))
            }
            Some(base) => Ok((&self.path, Some(base))),
            None => {
                let above = self.path.ancestors().find(|path| path.exists());
                let filesystem = rustix::fs::statfs(above.unwrap_or(&self.path))
                    .map_err(|errno| self.failed(Directory::FileSystemUnreadable, errno))?;
                self.refuse_foreign(&filesystem)?;
                Ok((&self.path, None))
            }
        }
    }

    fn open(&self, create: bool) -> Result<Option<BaseDirectory>, BackendError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(CWD, &self.path, flags, Mode::empty()) {
            Err(Errno::NOENT) if !create => return Ok(None),
            Err(Errno::NOENT) => {
                self.make()?;
                rustix::fs::openat(CWD, &self.path, flags, Mode::empty())
            }
            opened => opened,
        };
        let fd = fd.map_err(|errno| self.refuse_open(errno.into()))?;
        let stat =
            rustix::fs::fstat(&fd).map_err(|errno| self.failed(Directory::Unreadable, errno))?;
        let filesystem = rustix::fs::fstatfs(&fd)
            .map_err(|errno| self.failed(Directory::FileSystemUnreadable, errno))?;
        self.refuse_foreign(&filesystem)?;
        self.check_owner(&stat)?;
        if !self.named {
            self.check_way()?;
        }
        Ok(Some(BaseDirectory { fd, path: self.path.clone(), sharing: Sharing::of(&stat) }))
    }

    fn refuse_foreign(&self, filesystem: &StatFs) -> Result<(), BackendError> {
        if let Some(kind) = foreign_filesystem(filesystem_type(filesystem)) {
            return Err(self.error(Directory::Remote(kind)));
        }
        Ok(())
    }

    fn make(&self) -> Result<(), BackendError> {
        let mut missing: Vec<&Path> =
            self.path.ancestors().take(self.parents + 1).filter(|path| !path.exists()).collect();
        while let Some(path) = missing.pop() {
            // Private: a user who wants to share it uses chmod.
            create::create_directory(CWD, path)
                .map_err(|errno| self.failed(Directory::NotCreated, errno))?;
        }
        Ok(())
    }

    fn is_writable(&self) -> bool {
        rustix::fs::accessat(CWD, &self.path, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
    }

    /// Whether a missing directory is missing only because it was never needed.
    fn could_be_made(&self) -> bool {
        let Some(parent) = self.path.ancestors().skip(1).find(|path| path.exists()) else {
            return false;
        };
        let made = self.path.ancestors().skip(1).take(self.parents + 1).any(|path| path == parent);
        made && rustix::fs::accessat(CWD, parent, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
    }

    fn refuse_open(&self, error: io::Error) -> BackendError {
        let link = rustix::fs::statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_symlink());
        let fault = match error.kind() {
            _ if link => Directory::SymbolicLink,
            io::ErrorKind::NotADirectory => Directory::OtherFile,
            io::ErrorKind::PermissionDenied => Directory::NoPermission,
            _ => Directory::NotOpened,
        };
        self.error(fault(error.into()))
    }

    /// A stranger who owns the directory could swap files under our feet, and if all users may
    /// write it without the sticky bit, it belongs to all of them.
    fn check_owner(&self, stat: &Stat) -> Result<(), BackendError> {
        let me = geteuid().as_raw();
        if stat.st_uid != me && stat.st_uid != 0 {
            let (uid, unmapped) = (stat.st_uid, stands_for_unmapped(stat.st_uid));
            return Err(self.error(Directory::Owner { uid, unmapped }));
        }
        let mode = Mode::from_raw_mode(stat.st_mode);
        if mode.contains(Mode::WOTH) && !mode.contains(Mode::SVTX) {
            return Err(self.error(Directory::Everybodys));
        }
        Ok(())
    }

    /// A user who can move the directory away can send the next semrun to another one, where it
    /// meets no holder. A user who named the directory also chose who shares its parents.
    fn check_way(&self) -> Result<(), BackendError> {
        match moved_by(&self.path) {
            Ok(None) => Ok(()),
            Ok(Some(doubt)) => Err(self.error(Directory::Movable(doubt))),
            Err(error) => Err(self.error(Directory::WayUnknown(error.into()))),
        }
    }

    fn failed(&self, fault: fn(SystemError) -> Directory, errno: Errno) -> BackendError {
        self.error(fault(errno.into()))
    }

    fn error(&self, fault: Directory) -> BackendError {
        StoreError::Directory(fault).of(&url(&self.path))
    }
}

impl BackendError {
    /// Whether a home directory that answers so is passed over: missing, read-only, not ours, or
    /// a network file system. A full disk is not among these, nor a directory that looks
    /// tampered with: then semrun must not quietly use another directory, where it meets no holder.
    fn unusable_home(&self) -> bool {
        use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
        let StoreError::Directory(fault) = &self.cause else { return false };
        let unusable = |said: &SystemError| {
            let kind = said.kind();
            matches!(kind, NotFound | NotADirectory | PermissionDenied | ReadOnlyFilesystem)
        };
        matches!(fault, Directory::Remote(_)) || fault.system_error().is_some_and(unusable)
    }
}

impl Sharing {
    fn of(base: &Stat) -> Self {
        let mode = Mode::from_raw_mode(base.st_mode);
        let server = mode.intersects(Mode::WGRP | Mode::WOTH);
        if !server {
            return Self { directory: Mode::RWXU, group: None };
        }
        // The sticky bit stays with the base: inside, every user who may write may clean up. The
        // setgid bit gives what is made inside to the same group.
        let directory = (mode | Mode::RWXU | Mode::SGID) - (Mode::SVTX | Mode::SUID);
        Self { directory, group: Some(Gid::from_raw(base.st_gid)) }
    }

    /// Whether others than the owner may write here.
    pub(super) fn server(self) -> bool {
        self.group.is_some()
    }

    /// Whether all users may.
    pub(super) fn is_world_writable(self) -> bool {
        self.directory.contains(Mode::WOTH)
    }

    pub(super) fn file_mode(self) -> Mode {
        self.directory
            & (Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP | Mode::ROTH | Mode::WOTH)
    }

    /// Makes a directory in the base. One that is shared has its mode and its group before it has
    /// its name, so that other users can use it even if we are killed meanwhile; what is left then
    /// is what the next call begins with.
    pub(super) fn make_directory(self, base: &OwnedFd, file: &str) -> io::Result<()> {
        if !self.server() {
            return Ok(create::create_directory(base, file)?);
        }
        // No name of a semaphore: those begin with no dot.
        let me = geteuid();
        let unfinished = format!(".new.{}", me.as_raw());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Several rounds only if other processes of this user have given it names of theirs.
        for _ in 0..100 {
            create::create_directory(base, &*unfinished)?;
            let directory = match rustix::fs::openat(base, &unfinished, flags, Mode::empty()) {
                Err(Errno::NOENT) => continue,
                // Another user has taken the name, and must not keep us from ours.
                Err(Errno::LOOP | Errno::NOTDIR | Errno::ACCESS) => break,
                opened => opened?,
            };
            let stat = rustix::fs::fstat(&directory)?;
            if stat.st_uid != me.as_raw() {
                break;
            }
            self.apply(&directory, &stat)?;
            match create::rename_new(base, &unfinished, file) {
                Err(Errno::NOENT) => {}
                Err(Errno::EXIST | Errno::INVAL) => {
                    let _ = rustix::fs::unlinkat(base, &unfinished, AtFlags::REMOVEDIR);
                    break;
                }
                renamed => return Ok(renamed?),
            }
        }
        // It is there already, or the file system cannot give it such a name.
        Ok(create::create_directory(base, file)?)
    }

    /// Gives a directory that we made, or meant to before we were killed, to the group that shares
    /// the base; where the base has the setgid bit, the kernel has done so.
    pub(super) fn apply(self, directory: &OwnedFd, stat: &Stat) -> io::Result<()> {
        let wanted = (self.directory, self.group);
        let found = (Mode::from_raw_mode(stat.st_mode), Some(Gid::from_raw(stat.st_gid)));
        if self.server() && stat.st_uid == geteuid().as_raw() && found != wanted {
            // Fails for a group that we are not in, and then the modes for all have to do.
            let _ = rustix::fs::fchown(directory, None, self.group);
            rustix::fs::fchmod(directory, self.directory)?;
        }
        Ok(())
    }
}

/// The URL of a directory.
pub(crate) fn url(path: &Path) -> String {
    format!("file://{}", AsRef::<OsStr>::as_ref(path).to_string_lossy())
}

/// What kind of file system it is.
#[expect(
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    reason = "a bit pattern of 32 bits"
)]
pub(super) fn filesystem_type(filesystem: &StatFs) -> u32 {
    filesystem.f_type as u32
}

/// The file systems on which flock(2) and FIFOs do not reach every process that sees the files,
/// by the magic numbers of statfs(2).
fn foreign_filesystem(magic: u32) -> Option<&'static str> {
    match magic {
        0x6969 => Some("NFS"),
        0xFF53_4D42 | 0xFE53_4D42 | 0x517B => Some("SMB"),
        0x6573_5546 => Some("FUSE"),
        0x0102_1997 => Some("9p"),
        0x00C3_6400 => Some("Ceph"),
        0x5346_414F | 0x6B41_4653 => Some("AFS"),
        0x7375_7245 => Some("Coda"),
        0x0116_1970 => Some("GFS2"),
        0x7461_636F => Some("OCFS2"),
        0x0BD0_0BD0 => Some("Lustre"),
        0x564C => Some("NCP"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::NoAnswer;

    #[test]
    fn root_uses_run_and_others_their_home_with_a_way_out() {
        let paths = |uid, home| -> Result<Vec<PathBuf>, StoreError> {
            let user = User { uid, name: "u".into(), home };
            let config = LocalConfig::default_for(&user).map_err(|error| error.cause)?;
            Ok(config.candidates.into_iter().map(|candidate| candidate.path).collect())
        };
        assert_eq!(paths(0, Home::None), Ok(vec!["/run/semrun".into()]));
        let home = Home::At("/home/u".into());
        let both = vec!["/home/u/.local/state/semrun".into(), "/var/tmp/semrun-7".into()];
        assert_eq!(paths(7, home), Ok(both));
        assert_eq!(paths(7, Home::None), Ok(vec!["/var/tmp/semrun-7".into()]));
        // To guess would let two jobs run, one in each place.
        let why = NoAnswer::NotRun("getent", "no memory".into());
        let unknown = paths(7, Home::Unknown(why.clone())).unwrap_err();
        assert_eq!(unknown, StoreError::Directory(Directory::HomeUnknown { uid: 7, why }));
    }

    #[test]
    fn network_file_systems_are_told_by_their_numbers() {
        assert_eq!(foreign_filesystem(0x6969), Some("NFS"));
        assert_eq!(foreign_filesystem(0xEF53), None, "ext4");
        assert_eq!(foreign_filesystem(0x0102_1994), None, "tmpfs");
        assert_eq!(foreign_filesystem(0x794C_7630), None, "overlayfs, as in containers");
    }

    #[test]
    fn a_private_directory_makes_private_files_and_a_shared_one_shared_files() {
        let mut stat = rustix::fs::stat("/").unwrap();
        let mut modes = |mode| {
            stat.st_mode = mode;
            let sharing = Sharing::of(&stat);
            (sharing.directory.as_raw_mode(), sharing.file_mode().as_raw_mode())
        };
        assert_eq!(modes(0o40700), (0o700, 0o600));
        assert_eq!(modes(0o40755), (0o700, 0o600));
        assert_eq!(modes(0o42770), (0o2770, 0o660));
        assert_eq!(modes(0o40770), (0o2770, 0o660));
        assert_eq!(modes(0o41777), (0o2777, 0o666));
    }
}
