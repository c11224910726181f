//! Following a path step by step, with each step held open: so what was checked is what is used.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::permissions::{UnsafePath, UnsafeReason, stranger, writers};
use crate::user::stands_for_unmapped;

/// As many links as the kernel follows.
const MOST_LINKS: usize = 40;

/// The file system of /proc, by statfs(2).
const PROC: u64 = 0x9FA0;

/// Where a path leads, as far as directories go.
pub(super) struct ResolvedPath {
    /// The last directory on the way.
    pub(super) directory: OwnedFd,
    /// What it has there. None: that directory is what was asked for.
    pub(super) file: Option<FoundFile>,
    /// Where other users could lead the path elsewhere, in its order. Its target is not checked.
    pub(super) doubts: Vec<UnsafePath>,
}

/// A file that is no directory.
pub(super) struct FoundFile {
    pub(super) name: OsString,
    /// Whether it is an open file of a process, which the user who named it opened.
    pub(super) is_opened: bool,
}

struct PathWalk {
    /// Where we are, and its path without links.
    here: OwnedFd,
    names: PathBuf,
    doubts: Vec<UnsafePath>,
    /// The owner of the root directory, who could change everything anyway.
    root: u32,
}

/// Follows a path.
pub(super) fn walk(path: &Path) -> io::Result<ResolvedPath> {
    let here = if path.is_absolute() { PathBuf::new() } else { std::env::current_dir()? };
    let mut todo: VecDeque<_> = steps(&here).chain(steps(path)).collect();
    let mut walk = PathWalk::begin()?;
    let mut links = 0;
    while let Some(step) = todo.pop_front() {
        if step == ".." {
            walk.up()?;
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Opening it mounts a directory that is mounted on use.
        match openat(&walk.here, &step, flags | OFlags::DIRECTORY, Mode::empty()) {
            Ok(directory) => {
                walk.down(directory, &step)?;
                continue;
            }
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(errno.into()),
        }
        let found = openat(&walk.here, &step, flags, Mode::empty())?;
        let stat = fstat(&found)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return walk.end(step, false, &todo);
        }
        if is_of_proc(&found)? {
            // The link stands for an open file of a process, which need not have a path.
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            match openat(&walk.here, &step, flags | OFlags::DIRECTORY, Mode::empty()) {
                Ok(directory) => walk.down(directory, &step)?,
                Err(Errno::NOTDIR) => return walk.end(step, true, &todo),
                Err(errno) => return Err(errno.into()),
            }
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(Errno::LOOP.into());
        }
        if let Some(why) = walk.stranger(&stat) {
            walk.doubts.push(UnsafePath { what: walk.names.join(&step), is_link: true, why });
        }
        let target = readlinkat(&found, "", Vec::new())?;
        let target = Path::new(OsStr::from_bytes(target.as_bytes()));
        if target.is_absolute() {
            walk.here = root()?;
            walk.names = "/".into();
        }
        for step in steps(target).collect::<Vec<_>>().into_iter().rev() {
            todo.push_front(step);
        }
    }
    walk.forget_last();
    Ok(ResolvedPath { directory: walk.here, file: None, doubts: walk.doubts })
}

/// The steps of a path.
fn steps(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

fn is_of_proc(fd: &OwnedFd) -> io::Result<bool> {
    Ok(u64::try_from(rustix::fs::fstatfs(fd)?.f_type).is_ok_and(|kind| kind == PROC))
}

impl PathWalk {
    fn begin() -> io::Result<Self> {
        let root = root()?;
        let stat = fstat(&root)?;
        let owner = if stands_for_unmapped(stat.st_uid) { stat.st_uid } else { 0 };
        let doubts = Vec::new();
        let mut walk = Self { here: root, names: "/".into(), doubts, root: owner };
        walk.doubt(&stat);
        Ok(walk)
    }

    fn down(&mut self, directory: OwnedFd, name: &OsStr) -> io::Result<()> {
        let stat = fstat(&directory)?;
        self.here = directory;
        self.names.push(name);
        self.doubt(&stat);
        Ok(())
    }

    fn up(&mut self) -> io::Result<()> {
        self.here = openat(&self.here, "..", DIRECTORY, Mode::empty())?;
        self.names.pop();
        Ok(())
    }

    /// A file before the end of the path leads nowhere.
    fn end(
        self,
        name: OsString,
        is_opened: bool,
        todo: &VecDeque<OsString>,
    ) -> io::Result<ResolvedPath> {
        if !todo.is_empty() {
            return Err(Errno::NOTDIR.into());
        }
        Ok(ResolvedPath {
            directory: self.here,
            file: Some(FoundFile { name, is_opened }),
            doubts: self.doubts,
        })
    }

    /// In a sticky directory all users may make files, but change only their own; and the owner of
    /// each step is checked.
    fn doubt(&mut self, stat: &Stat) {
        let sticky = Mode::from_raw_mode(stat.st_mode).contains(Mode::SVTX);
        let why = self.stranger(stat).or_else(|| writers(&self.here, stat).filter(|_| !sticky));
        self.doubts.extend(why.map(|why| UnsafePath {
            what: self.names.clone(),
            is_link: false,
            why,
        }));
    }

    fn stranger(&self, stat: &Stat) -> Option<UnsafeReason> {
        stranger(stat).filter(|_| stat.st_uid != self.root)
    }

    /// The caller checks what it asked for itself.
    fn forget_last(&mut self) {
        let is_last = |doubt: &UnsafePath| !doubt.is_link && doubt.what == self.names;
        if self.doubts.last().is_some_and(is_last) {
            self.doubts.pop();
        }
    }
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn root() -> io::Result<OwnedFd> {
    Ok(openat(CWD, "/", DIRECTORY, Mode::empty())?)
}

/// Whether a path itself is a symbolic link, and whose.
pub(super) fn link_of(path: &Path) -> Option<u32> {
    let stat = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::Symlink).then_some(stat.st_uid)
}
