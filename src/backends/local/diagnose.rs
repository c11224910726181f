//! What `doctor` checks of the directory in which permits live. Makes nothing.

use std::path::Path;

use rustix::fs::StatFs;

use super::directory::{self, LocalConfig, Sharing};
use crate::permits::error::{BackendError, Directory, StoreError};
use crate::permits::finding::{Finding, FindingKind, Grade, SharedWith};

/// Below this, in bytes, a disk is nearly full however small it is.
const LITTLE: u64 = 1024 * 1024;

/// The same for the number of files: a permit is two, and so is a waiter.
const FEW: u64 = 100;

pub(super) fn diagnose(config: &LocalConfig) -> Result<Vec<Finding>, BackendError> {
    let (path, base) = config.usable()?;
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(path);
    let filesystem = rustix::fs::statfs(there).map_err(|errno| {
        let fault = Directory::FileSystemUnreadable(errno.into());
        StoreError::Directory(fault).of(&directory::url(path))
    })?;
    let mut findings = vec![directory(path, config.is_named(), base.is_some())];
    findings.extend(base.map(|base| sharing(base.sharing)));
    findings
        .push(ok("file system", FindingKind::FileSystem(directory::filesystem_type(&filesystem))));
    findings.extend(free_space(&filesystem));
    Ok(findings)
}

fn directory(path: &Path, named: bool, exists: bool) -> Finding {
    ok("directory", FindingKind::Directory { path: path.into(), named, exists })
}

fn sharing(sharing: Sharing) -> Finding {
    let with = if sharing.is_world_writable() {
        SharedWith::Everybody
    } else if sharing.server() {
        SharedWith::Group
    } else {
        SharedWith::Nobody
    };
    ok("sharing", FindingKind::Sharing(with))
}

fn free_space(filesystem: &StatFs) -> Vec<Finding> {
    let size = u64::try_from(filesystem.f_frsize).unwrap_or(0);
    let [free, all] = [filesystem.f_bavail, filesystem.f_blocks].map(|n| n.saturating_mul(size));
    let (files, all_files) = (filesystem.f_ffree, filesystem.f_files);
    let grade_of_bytes = grade(free, all, LITTLE);
    let bytes = Finding {
        topic: "free space",
        grade: grade_of_bytes,
        what: FindingKind::FreeSpace(free / LITTLE),
    };
    // Some file systems have no fixed number of files, and report none.
    let files = (all_files > 0)
        .then(|| (grade(files, all_files, FEW), FindingKind::FreeFiles(files)))
        .map(|(grade, what)| Finding { topic: "free files", grade, what });
    [bytes].into_iter().chain(files).collect()
}

/// Of what is left.
fn grade(free: u64, all: u64, little: u64) -> Grade {
    match free {
        0 => Grade::Error,
        free if free < little || free < all / 100 => Grade::Warning,
        _ => Grade::Ok,
    }
}

fn ok(topic: &'static str, what: FindingKind) -> Finding {
    Finding { topic, grade: Grade::Ok, what }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn little_room_is_doubtful_and_none_is_bad() {
        let mib = LITTLE;
        assert_eq!(grade(50 * mib, 100 * mib, LITTLE), Grade::Ok);
        assert_eq!(grade(mib - 1, 10 * mib, LITTLE), Grade::Warning);
        assert_eq!(grade(9 * mib, 1000 * mib, LITTLE), Grade::Warning);
        assert_eq!(grade(0, 1000 * mib, LITTLE), Grade::Error);
    }

    #[test]
    fn examining_says_what_the_place_is_and_makes_nothing() {
        let temporary = tempfile::TempDir::new().unwrap();
        let path = temporary.path().join("semrun");
        let facts = || -> Vec<FindingKind> {
            let findings = diagnose(&LocalConfig::named(&path)).unwrap();
            assert!(findings.iter().all(|finding| finding.grade != Grade::Error), "{findings:?}");
            findings.into_iter().map(|finding| finding.what).collect()
        };
        let directory = |exists| FindingKind::Directory { path: path.clone(), named: true, exists };
        assert_eq!(facts()[0], directory(false));
        assert!(!path.exists());
        // Whatever the umask is.
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(facts()[..2], [directory(true), FindingKind::Sharing(SharedWith::Nobody)]);
        let nowhere = LocalConfig::named(&path.join("a/b"));
        let error = diagnose(&nowhere).unwrap_err();
        let missing = matches!(error.cause, StoreError::Directory(Directory::NotFound(_)));
        assert!(missing, "{error}");
    }
}
