//! A semaphore's name as the name of a directory, and back.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use percent_encoding::percent_decode_str;
use rustix::fs::{Mode, OFlags};
use uuid::Uuid;

use super::semaphore_files::write_whole;
use crate::files::create;
use crate::permits::{Name, StoreError};

/// Longer ones are shortened: file systems allow 255 bytes, and we add nothing to a name.
const LONGEST: usize = 200;
/// How much of a shortened name stays readable.
const KEPT: usize = 120;
/// Between the readable part and the hash. An escaped name never contains it.
const SHORTENED: &str = "%-";

/// Escapes `/`, `%` and a leading dot; everything else stays readable.
pub(super) fn to_file(name: &Name) -> String {
    let mut file = name.as_str().replace('%', "%25").replace('/', "%2F");
    if file.starts_with('.') {
        file.replace_range(..1, "%2E");
    }
    if file.len() > LONGEST {
        let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_str().as_bytes());
        file.truncate(file.floor_char_boundary(KEPT));
        file = format!("{file}{SHORTENED}{}", hash.simple());
    }
    file
}

pub(super) fn is_shortened(file: &str) -> bool {
    file.contains(SHORTENED)
}

/// The name that a directory stands for; None for one that is not ours.
pub(super) fn from_file(base: impl AsFd, file: &str) -> Option<Name> {
    let text = if is_shortened(file) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(base, file, flags, Mode::empty()).ok()?;
        read_true_name(&directory).ok()??
    } else {
        percent_decode_str(file).decode_utf8().ok()?.into_owned()
    };
    let name: Name = text.parse().ok()?;
    (to_file(&name) == file).then_some(name)
}

/// Makes sure that a shortened directory is this name's, and writes the name if `create` and it is
/// not written yet.
pub(super) fn check_true_name(
    directory: &OwnedFd,
    name: &Name,
    mode: Mode,
    create: bool,
) -> io::Result<()> {
    match read_true_name(directory)? {
        Some(found) if found == name.as_str() => Ok(()),
        Some(found) if !name.as_str().starts_with(&found) => {
            Err(StoreError::DirectoryOf(found).into())
        }
        // Missing, or unfinished because its writer was killed or the disk full.
        _ if !create => Ok(()),
        found => {
            if found.is_some() {
                rustix::fs::unlinkat(directory, "name", rustix::fs::AtFlags::empty())?;
            }
            match create::create(directory, "name", mode) {
                Err(rustix::io::Errno::EXIST) => Ok(()),
                Err(errno) => Err(errno.into()),
                Ok(file) => write_whole(&file, name.as_str().as_bytes()),
            }
        }
    }
}

fn read_true_name(directory: &OwnedFd) -> io::Result<Option<String>> {
    let file = match create::open(directory, "name", OFlags::RDONLY) {
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        opened => opened?,
    };
    let mut text = [0; Name::LONGEST + 1];
    let length = rustix::io::read(&file, &mut text)?;
    Ok(Some(String::from_utf8_lossy(&text[..length]).into_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(name: &str) -> String {
        to_file(&name.parse().unwrap())
    }

    #[test]
    fn plain_names_stay_as_they_are_and_dangerous_ones_are_escaped() {
        assert_eq!(file("deploy"), "deploy");
        assert_eq!(file("bücher v1.2"), "bücher v1.2");
        assert_eq!(file("a/b"), "a%2Fb");
        assert_eq!(file(".."), "%2E.");
        assert_eq!(file("50%"), "50%25");
    }

    #[test]
    fn names_that_escape_to_more_than_a_file_name_holds_are_shortened_and_differ() {
        let (one, two) = (format!("{}a", "/".repeat(199)), format!("{}b", "/".repeat(199)));
        assert!(is_shortened(&file(&one)));
        assert!(file(&one).len() <= LONGEST);
        assert_ne!(file(&one), file(&two));
    }

    proptest! {
        #[test]
        fn every_name_makes_one_safe_file_name_and_comes_back(text in "\\PC{1,66}") {
            prop_assume!(text.len() <= 200);
            let name: Name = match text.parse() { Ok(name) => name, Err(_) => return Ok(()) };
            let file = to_file(&name);
            prop_assert!(file.len() <= 255 && !file.contains('/') && !file.starts_with('.'));
            if !is_shortened(&file) {
                let here = rustix::fs::CWD;
                prop_assert_eq!(from_file(here, &file), Some(name));
            }
        }
    }
}
