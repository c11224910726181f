//! Whether a server finds in its journal what it granted, and grants nothing twice when the file is
//! damaged.

mod damage;

use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::format::{line, read_line};
use super::*;
use crate::permits::HolderState;
use crate::permits::Terms;
use crate::serve::bearer::KeyFingerprint;

fn grant(number: u64) -> RecordedGrant {
    let terms = Terms { limit: 2, ..Terms::default() };
    RecordedGrant::sample(&format!("n{}", number % 3), number, terms)
}

fn found(directory: &TempDir) -> Vec<RecordedGrant> {
    Journal::open_at(directory.path(), "b".into()).unwrap().1.grants
}

#[test]
fn a_grant_comes_back_with_all_its_terms_or_with_none() {
    let (second, hour) = (Duration::from_secs(1), Duration::from_hours(1));
    let all = Terms { limit: 7, ttl: second, min_hold: hour, ..Terms::default() };
    for terms in [None, Some(all), Some(Terms::default())] {
        let grant = RecordedGrant { terms, ..grant(1) };
        let bytes = snapshot("b", None, 0, &BTreeMap::new(), std::slice::from_ref(&grant));
        assert_eq!(replay(&bytes, "b").unwrap().grants, [grant]);
    }
}

#[test]
fn what_was_granted_and_not_ended_is_found_again() {
    let directory = TempDir::new().unwrap();
    let (journal, nothing) = Journal::open_at(directory.path(), "b".into()).unwrap();
    assert_eq!((nothing.grants, nothing.last), (vec![], 0));
    (1..=3).for_each(|number| journal.granted(&grant(number)));
    journal.ended("n2", Uuid::from_u128(2));
    drop(journal);
    let (journal, again) = Journal::open_at(directory.path(), "b".into()).unwrap();
    assert_eq!((again.grants, again.last, again.rebooted), (vec![grant(1), grant(3)], 3, None));
    journal.rewrite(7, &BTreeMap::new(), &[grant(3)]);
    journal.granted(&grant(5));
    drop(journal);
    let (_, again) = Journal::open_at(directory.path(), "other".into()).unwrap();
    let longest = Some(Duration::from_secs(30));
    assert_eq!((again.grants, again.last, again.rebooted), (vec![grant(3), grant(5)], 7, longest));
}

#[test]
fn what_tells_a_key_is_on_record_and_the_key_is_not_and_older_records_have_none() {
    let directory = TempDir::new().unwrap();
    let taken = RecordedGrant { key: Some(KeyFingerprint::of(b"a-key-for-tests")), ..grant(1) };
    let (journal, _) = Journal::open_at(directory.path(), "b".into()).unwrap();
    journal.granted(&taken);
    journal.granted(&grant(2));
    drop(journal);
    let text = fs::read_to_string(directory.path().join("journal")).unwrap();
    assert!(!text.contains("a-key-for-tests"), "{text}");
    assert_eq!(text.matches("\"key\"").count(), 1, "{text}");
    assert_eq!(found(&directory), [taken, grant(2)]);
}

#[test]
fn a_journal_of_format_1_is_read_and_one_of_a_later_format_is_refused() {
    let written = |version: u32, held: &str, revoked: &str, kept: &str| {
        let begin =
            format!(r#"{{"begin":{{"version":{version},"boot":"b","last":9,"longest_ms":0}}}}"#);
        let grant = |token: u64, phase: &str| {
            let id = Uuid::from_u128(token.into());
            format!(
                r#"{{"grant":{{"name":"x","id":"{id}","token":{token},"terms":[3,5000],"min_hold_ms":70,"phase":"{phase}","record":null}}}}"#
            )
        };
        let grants = [grant(1, held), grant(2, revoked), grant(3, kept)];
        let grants: Vec<_> = grants.iter().map(String::as_str).collect();
        [line(&[&begin]), line(&grants)].concat()
    };
    let words = [("held", "evicted", "kept"), ("holding", "revoking", "min_hold")];
    for (version, (held, revoked, kept)) in (1..).zip(words) {
        let found = replay(&written(version, held, revoked, kept), "b").unwrap();
        let phases: Vec<_> = found.grants.iter().map(|grant| grant.phase).collect();
        assert_eq!(
            phases,
            [HolderState::Holding, HolderState::Revoking, HolderState::MinHold],
            "{version}"
        );
        let terms = Terms { limit: 3, ttl: Duration::from_secs(5), ..Terms::default() };
        let terms = Terms { min_hold: Duration::from_millis(70), ..terms };
        assert!(found.grants.iter().all(|grant| grant.terms == Some(terms)), "{found:?}");
    }
    let later = replay(&written(4, "holding", "revoking", "min_hold"), "b").unwrap_err();
    let text = "it has format 4, and this semrun reads 1 to 3; start the semrun that wrote it";
    assert!(later.to_string().starts_with(text), "{later}");
}

#[test]
fn a_journal_whose_first_line_is_not_whole_is_not_taken_for_a_new_one() {
    let whole = snapshot("b", None, 0, &BTreeMap::new(), &[]);
    for bytes in [&b""[..], &[0; 4096], b"\n", &whole[..whole.len() - 1], b"00000000 []\n"] {
        assert!(
            replay(bytes, "b").is_err_and(|error| error.to_string().contains("line 1 is damaged"))
        );
    }
    assert!(replay(&whole, "b").is_ok());
}

#[test]
fn the_lease_of_an_earlier_boot_is_remembered_until_it_is_over() {
    let directory = TempDir::new().unwrap();
    let open = || Journal::open_at(directory.path(), "now".into()).unwrap();
    let (journal, _) = Journal::open_at(directory.path(), "before".into()).unwrap();
    journal.granted(&grant(1));
    journal.ended("n1", Uuid::from_u128(1));
    drop(journal);
    let longest = Some(Duration::from_secs(30));
    for _ in 0..2 {
        let (journal, found) = open();
        assert_eq!((found.rebooted, journal.is_of_another_boot()), (longest, true));
    }
    let (journal, _) = open();
    journal.is_of_this_boot();
    journal.rewrite(1, &BTreeMap::new(), &[]);
    drop(journal);
    assert_eq!(open().1.rebooted, None);
}

#[test]
fn a_permit_is_found_as_it_was_last_recorded_and_a_limit_as_it_was_last_pinned() {
    let directory = TempDir::new().unwrap();
    let open = || Journal::open_at(directory.path(), "b".into()).unwrap();
    let terms = Some(Terms { min_hold: Duration::from_mins(1), ..Terms::default() });
    let kept = RecordedGrant { phase: HolderState::MinHold, terms, since_ms: 5, ..grant(1) };
    let pins = |found: &RestoredState| found.pins.clone().into_iter().collect::<Vec<_>>();
    let (journal, _) = open();
    journal.granted(&grant(1));
    journal.pinned("a", Some(3));
    journal.pinned("b", Some(4));
    journal.granted(&kept);
    journal.pinned("a", Some(2));
    journal.pinned("b", None);
    drop(journal);
    for _ in 0..2 {
        let (_, found) = open();
        assert_eq!((pins(&found), &found.grants), (vec![("a".into(), 2)], &vec![kept.clone()]));
    }
    let (journal, found) = open();
    journal.rewrite(9, &found.pins, &[]);
    drop(journal);
    assert_eq!(pins(&open().1), [("a".into(), 2)]);
}

#[test]
fn one_directory_serves_one_server() {
    let directory = TempDir::new().unwrap();
    let first = Journal::open_at(directory.path(), "b".into()).unwrap();
    let error = Journal::open_at(directory.path(), "b".into()).err().unwrap();
    assert!(error.to_string().contains("another server"));
    drop(first);
    found(&directory);
}

#[test]
fn damage_before_the_end_is_not_taken_for_nothing() {
    let mut bytes = snapshot("b", None, 0, &BTreeMap::new(), &[grant(1), grant(2)]);
    let end = JournalEntry::End { name: "n1".into(), id: Uuid::from_u128(1) };
    bytes.extend(line(&[&serde_json::to_string(&end).unwrap()]));
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    assert!(
        replay(&bytes, "b").is_err_and(|error| error.to_string().contains("line 2 is damaged"))
    );
}

proptest! {
    // A machine may stop at any moment: what is found is what was recorded until some entry.
    #[test]
    fn a_torn_end_loses_only_what_no_client_was_told(cut in 0..2000_usize) {
        let mut bytes = snapshot("b", None, 0, &BTreeMap::new(), &[]);
        let begin = bytes.len();
        for number in 1..=9 {
            let entry = JournalEntry::Grant(Cow::Owned(grant(number)));
            bytes.extend(line(&[&serde_json::to_string(&entry).unwrap()]));
        }
        let cut = begin + cut % (bytes.len() - begin + 1);
        // What is whole but for the end of its line counts as well.
        let ends = |end: &usize| bytes.get(*end) == Some(&b'\n');
        let whole = (begin..=cut).filter(ends).count();
        let found = replay(&bytes[..cut], "b").unwrap();
        prop_assert_eq!(found.grants.len(), whole);
    }

    #[test]
    fn no_content_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = replay(&bytes, "b");
        let _ = read_line(&bytes);
    }
}
