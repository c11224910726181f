//! Why a program may not be executed, as far as its file shows that.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, StatVfsMountFlags, access, statvfs};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotExecutable {
    Directory,
    /// A pipe, a device, a socket.
    NoFile,
    NoexecMount,
    NoXBit,
    /// A directory above it, its interpreter, or another guard of the system.
    Elsewhere,
}

impl NotExecutable {
    pub(super) fn of(program: &str) -> Self {
        let Some(file) = found(program) else { return Self::Elsewhere };
        let noexec = |file: &Path| {
            statvfs(file).is_ok_and(|place| place.f_flag.contains(StatVfsMountFlags::NOEXEC))
        };
        match fs::metadata(&file) {
            Ok(about) if about.is_dir() => Self::Directory,
            Ok(about) if !about.is_file() => Self::NoFile,
            Ok(_) if noexec(&file) => Self::NoexecMount,
            Ok(_) if access(&file, Access::EXEC_OK).is_err() => Self::NoXBit,
            _ => Self::Elsewhere,
        }
    }
}

/// The file that a name stands for, as execvp(3) looks for it.
pub(super) fn found(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(program.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.exists())
}

impl fmt::Display for NotExecutable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "it is a directory",
            Self::NoFile => "it is a pipe, a socket or a device, not a file",
            Self::NoexecMount => {
                "its file system is mounted noexec; start a script by its interpreter (sh FILE), a \
                 program from another place"
            }
            Self::NoXBit => "not executable (chmod +x makes it so)",
            Self::Elsewhere => {
                "not permitted; look at the directories above it, at the interpreter in its first \
                 line, and at what else guards the system (SELinux, AppArmor)"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn the_hint_is_one_that_helps() {
        let place = TempDir::new().expect("a directory");
        let file = place.path().join("script");
        fs::write(&file, "#!/bin/sh\n").expect("a file");
        let of = |path: &Path| NotExecutable::of(path.to_str().expect("plain text"));
        assert_eq!(
            (of(place.path()), of(&file)),
            (NotExecutable::Directory, NotExecutable::NoXBit)
        );
        assert_eq!(of(Path::new("/dev/null")), NotExecutable::NoFile);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("a mode");
        assert_eq!(of(&file), NotExecutable::Elsewhere);
    }
}
