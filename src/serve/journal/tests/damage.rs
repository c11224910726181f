//! The reader of a damaged journal: it returns each permit that was on record, or refuses the file.
//! What a server does then is tested in `semaphores/tests/journals.rs`.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

/// A journal as a server leaves it, with what is held in the end, and where its lines end.
fn journal() -> (Vec<u8>, Vec<Uuid>, Vec<usize>) {
    let mut bytes = snapshot("b", None, 3, &BTreeMap::new(), &[grant(1), grant(2)]);
    let end = JournalEntry::End { name: "n1".into(), id: Uuid::from_u128(1) };
    let entries = (4..=7).map(|number| JournalEntry::Grant(Cow::Owned(grant(number))));
    for entry in entries.chain([end, JournalEntry::Grant(Cow::Owned(grant(8)))]) {
        bytes.extend(line(&[&serde_json::to_string(&entry).unwrap()]));
    }
    let held = [2, 4, 5, 6, 7, 8].map(Uuid::from_u128).into();
    let ends = (1..=bytes.len()).filter(|end| bytes[end - 1] == b'\n').collect();
    (bytes, held, ends)
}

/// Refused, or with all of these.
fn keeps(bytes: &[u8], held: &[Uuid], what: &str) {
    if let Ok(found) = replay(bytes, "b") {
        let ids: Vec<_> = found.grants.iter().map(|grant| grant.id).collect();
        assert!(held.iter().all(|id| ids.contains(id)), "{what}: {ids:?}");
        assert!(found.last >= 8, "{what}");
    }
}

#[test]
fn no_byte_that_has_changed_costs_a_permit() {
    let (bytes, held, _) = journal();
    for place in 0..bytes.len() {
        for change in [0x01, 0x02, 0x08, 0x11, 0x20, 0x80, bytes[place]] {
            let mut changed = bytes.clone();
            changed[place] ^= change;
            keeps(&changed, &held, &format!("{place} ^ {change:#x}"));
        }
    }
}

#[test]
fn zeros_are_no_torn_end_wherever_they_are() {
    let (bytes, held, ends) = journal();
    for from in 0..=bytes.len() {
        for length in [1, 16, 100, 512, 4096] {
            // In the place of what was there, or after it as well.
            let to = from + length;
            let mut within = bytes.clone();
            within[from..to.min(bytes.len())].fill(0);
            keeps(&within, &held, &format!("zeros {from}..{to}"));
            let beyond = [&bytes[..from], &vec![0; length]].concat();
            let error = replay(&beyond, "b").unwrap_err().to_string();
            assert!(error.contains("is damaged: there are zeros"), "{from}: {error}");
            if from >= ends[1] {
                let good = ends.iter().rfind(|end| **end <= from).unwrap();
                let advice = format!(
                    "(no lease on record is longer than 30s), then move the file away, \
                                      or keep what is before the damage: truncate -s {good}"
                );
                assert!(error.contains(&advice), "{from}: {error}");
            }
        }
    }
}

#[test]
fn nothing_that_follows_a_record_makes_it_one_that_was_never_there() {
    let (bytes, held, _) = journal();
    let half = &bytes[..bytes.len() - 30];
    let garbage: [&[u8]; 7] =
        [b"x", b"\n", b"0", b"00000000 [", b"[[[\n", b"\xff\xfe", &half[half.len() - 90..]];
    for follows in garbage {
        keeps(&[&bytes[..], follows].concat(), &held, &format!("{follows:?}"));
        // Also in the place of the last line end.
        keeps(
            &[&bytes[..bytes.len() - 1], follows].concat(),
            &held,
            &format!("no end, {follows:?}"),
        );
    }
    // All of it was written, but for the end of its line.
    let found = replay(&bytes[..bytes.len() - 1], "b").unwrap();
    assert!(found.grants.iter().any(|grant| grant.token == 8));
}

#[test]
fn a_torn_record_is_not_damage() {
    let (bytes, _, ends) = journal();
    let [.., before, end] = ends[..] else { panic!("several lines") };
    for cut in before..end - 1 {
        let found = replay(&bytes[..cut], "b").unwrap();
        assert_eq!((found.grants.len(), found.last), (5, 7), "{cut}");
    }
    // Letters of two bytes may be torn as well.
    let name = JournalEntry::Grant(Cow::Owned(RecordedGrant { name: "ä".into(), ..grant(9) }));
    let more = line(&[&serde_json::to_string(&name).unwrap()]);
    let letter = more.iter().position(|byte| *byte > 0x7F).unwrap();
    assert_eq!(replay(&[&bytes[..], &more[..=letter]].concat(), "b").unwrap().last, 8);
}

#[test]
fn a_number_that_leaves_no_room_for_another_is_none() {
    for last in [1 << 62, u64::MAX] {
        let bytes = snapshot("b", None, last, &BTreeMap::new(), &[]);
        assert!(replay(&bytes, "b").is_err(), "{last}");
    }
    let same = [grant(4), RecordedGrant { name: "n0".into(), ..grant(4) }, grant(4)];
    let twice = [&same[0], &same[1], &RecordedGrant { id: Uuid::from_u128(9), ..grant(4) }]
        .map(Clone::clone);
    let bytes = snapshot("b", None, 9, &BTreeMap::new(), &twice);
    assert!(replay(&bytes, "b").is_err_and(|error| error.to_string().contains("same token")));
}

/// Where a file should be.
type Puts = fn(&Path);

#[test]
fn what_is_not_a_file_of_ours_is_neither_waited_for_nor_followed() {
    let odd: [(&str, Puts); 4] = [
        ("a FIFO", |path| {
            rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).unwrap();
        }),
        ("a link", |path| symlink("victim", path).unwrap()),
        ("a directory", |path| fs::create_dir(path).unwrap()),
        ("a link to nothing", |path| symlink("nothing", path).unwrap()),
    ];
    for (what, put) in odd {
        for file in ["journal", "lock", "seal-key"] {
            let directory = TempDir::new().unwrap();
            fs::write(directory.path().join("victim"), "precious").unwrap();
            put(&directory.path().join(file));
            let opened = Journal::open_at(directory.path(), "b".into());
            let Err(UnsafeDirectory::Unsafe(error)) = opened else { panic!("{file} is {what}") };
            let error = error.to_string();
            assert!(error.starts_with(file) && error.contains("not a regular file"), "{error}");
            assert_eq!(fs::read(directory.path().join("victim")).unwrap(), b"precious");
            assert!(!directory.path().join("nothing").exists());
        }
        // What stands beside the journal is replaced.
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("victim"), "precious").unwrap();
        put(&directory.path().join("journal.new"));
        let opened = Journal::open_at(directory.path(), "b".into());
        assert_eq!(opened.is_ok(), what != "a directory", "{what}");
        assert_eq!(fs::read(directory.path().join("victim")).unwrap(), b"precious");
        drop(opened);
    }
}

#[test]
fn a_state_directory_is_one_that_only_we_and_root_may_change() {
    let place = TempDir::new().unwrap();
    let at = |name: &str| place.path().join(name);
    let refusal = |path: &Path| match Journal::open_at(path, "b".into()) {
        Err(UnsafeDirectory::Unsafe(what)) => what.to_string(),
        Err(UnsafeDirectory::Io(error)) => panic!("{error}"),
        Ok(_) => String::new(),
    };
    let mode = |name: &str, mode| {
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    assert_eq!(refusal(&at("a/b/c")), "");
    let modes = ["a", "a/b", "a/b/c", "a/b/c/journal", "a/b/c/lock"]
        .map(|name| fs::metadata(at(name)).unwrap().permissions().mode() & 0o7777);
    assert_eq!(modes, [0o700, 0o700, 0o700, 0o600, 0o600]);
    mode("a/b/c", 0o777);
    assert!(refusal(&at("a/b/c")).contains("can be written by others"));
    mode("a/b/c", 0o700);
    mode("a", 0o777);
    let what = refusal(&at("a/b/c"));
    let named = format!("lies in {}, which can be written by others", at("a").display());
    assert!(what.starts_with(&named), "{what}");
    // There each may change only their own.
    mode("a", 0o1777);
    assert_eq!(refusal(&at("a/b/c")), "");
    symlink("a/b/c", at("link")).unwrap();
    assert!(refusal(&at("link/")).contains("symbolic link"));
    symlink("a/b", at("above")).unwrap();
    assert_eq!(refusal(&at("above/c")), "", "where no other user could have put it");
}
