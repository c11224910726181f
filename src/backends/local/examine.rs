//! What there is to know of the directory in which permits live, for `semrun doctor`. Makes nothing.

use std::path::Path;

use rustix::fs::StatFs;

use super::place::{self, Place, Sharing};
use crate::backends::{Error, ErrorKind, Finding, Grade};

/// Below this, in bytes, a disk is nearly full however small it is.
const LITTLE: u64 = 1024 * 1024;

/// The same for the number of files: a permit is two, and so is a waiter.
const FEW: u64 = 100;

pub(super) fn examine(place: &Place) -> Result<Vec<Finding>, Error> {
    let (path, base) = place.usable()?;
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(path);
    let filesystem = rustix::fs::statfs(there).map_err(|errno| Error {
        kind: ErrorKind::Unavailable,
        backend: place::url(path),
        what: "cannot examine the file system".into(),
        source: Some(errno.into()),
    })?;
    let mut findings = vec![directory(path, place.is_named(), base.is_some())];
    findings.extend(base.map(|base| sharing(base.sharing)));
    findings.push(ok("file system", kind(place::magic(&filesystem))));
    findings.extend(room(&filesystem));
    Ok(findings)
}

fn directory(path: &Path, named: bool, there: bool) -> Finding {
    let why = if named { "the one that was named" } else { "the default of this user" };
    let later = if there { "" } else { "; it is made when it is needed" };
    ok("directory", format!("{}, {why}{later}", path.display()))
}

fn sharing(sharing: Sharing) -> Finding {
    let who = if sharing.everybody() {
        "everybody may use it, and all of them have to trust each other"
    } else if sharing.shared() {
        "its group may use it, and all of them have to trust each other"
    } else {
        "private: only its owner and root may use it"
    };
    ok("sharing", who.into())
}

/// By the magic numbers of statfs(2).
fn kind(magic: u32) -> String {
    match magic {
        0xEF53 => "ext2, ext3 or ext4".into(),
        0x5846_5342 => "XFS".into(),
        0x9123_683E => "Btrfs".into(),
        0x2FC1_2FC1 => "ZFS".into(),
        0xF2F5_2010 => "F2FS".into(),
        0xCA45_1A4E => "bcachefs".into(),
        0x794C_7630 => "overlayfs".into(),
        0x0102_1994 => "tmpfs: what is in it ends with the boot, as permits do".into(),
        0x8584_58F6 => "ramfs: what is in it ends with the boot, as permits do".into(),
        _ => format!("of type {magic:#x}"),
    }
}

fn room(filesystem: &StatFs) -> Vec<Finding> {
    let size = u64::try_from(filesystem.f_frsize).unwrap_or(0);
    let [free, all] = [filesystem.f_bavail, filesystem.f_blocks].map(|n| n.saturating_mul(size));
    let (files, all_files) = (filesystem.f_ffree, filesystem.f_files);
    let bytes = left("free space", format!("{} MiB", free / LITTLE), grade(free, all, LITTLE));
    // Some file systems have as many as fit, and say nothing.
    let files = (all_files > 0)
        .then(|| left("free files", format!("{files}"), grade(files, all_files, FEW)));
    [bytes].into_iter().chain(files).collect()
}

fn left(topic: &'static str, amount: String, grade: Grade) -> Finding {
    const MEND: &str = "free some, or name another directory with --backend file:///PATH";
    let text = match grade {
        Grade::Ok => amount,
        Grade::Warning => format!("{amount}, which is little; {MEND}"),
        Grade::Error => format!("none, and nobody can wait or get a permit; {MEND}"),
    };
    Finding { topic, grade, text }
}

/// Of what is left.
fn grade(free: u64, all: u64, little: u64) -> Grade {
    match free {
        0 => Grade::Error,
        free if free < little || free < all / 100 => Grade::Warning,
        _ => Grade::Ok,
    }
}

fn ok(topic: &'static str, text: String) -> Finding {
    Finding { topic, grade: Grade::Ok, text }
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
        assert!(left("free space", "0 MiB".into(), Grade::Error).text.contains("--backend"));
    }

    #[test]
    fn examining_says_what_the_place_is_and_makes_nothing() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("semrun");
        let texts = || -> Vec<String> {
            let findings = examine(&Place::named(&path)).unwrap();
            assert!(findings.iter().all(|finding| finding.grade != Grade::Error), "{findings:?}");
            findings.into_iter().map(|finding| finding.text).collect()
        };
        let missing = texts();
        assert!(missing[0].contains("named") && missing[0].contains("made when"), "{missing:?}");
        assert!(!path.exists());
        // Whatever the umask is, which other tests change.
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        let there = texts();
        assert!(!there[0].contains("made when") && there[1].starts_with("private"), "{there:?}");
        let nowhere = Place::named(&path.join("a/b"));
        let error = examine(&nowhere).unwrap_err().to_string();
        assert!(error.contains("does not exist") && error.contains("--backend"), "{error}");
    }

    #[test]
    fn file_systems_have_names() {
        assert!(kind(0xEF53).contains("ext4") && kind(0x0102_1994).contains("tmpfs"));
        assert_eq!(kind(0xABCD), "of type 0xabcd");
    }
}
