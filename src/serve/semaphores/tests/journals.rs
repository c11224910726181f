//! A whole server after its journal was changed from outside: it does not start, or all that was
//! held is held. The reader alone is tested in `journal/tests/damage.rs`.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

/// How a journal is changed.
#[derive(Debug, Clone)]
enum JournalDamage {
    Flip {
        at: usize,
        bits: u8,
    },
    Zeros {
        at: usize,
        length: usize,
    },
    Insert {
        at: usize,
        bytes: Vec<u8>,
    },
    Cut {
        at: usize,
    },
    /// A number of a record, with the checksum that belongs to it.
    Number {
        which: usize,
        to: u64,
    },
}

fn change() -> impl Strategy<Value = JournalDamage> {
    let at = 0..10_000_usize;
    let number = prop_oneof![
        Just(0),
        Just(1),
        Just(u64::from(u32::MAX)),
        Just(1 << 62),
        Just(u64::MAX / 1000),
        Just(u64::MAX),
        any::<u64>()
    ];
    prop_oneof![
        (at.clone(), 1..=255_u8).prop_map(|(at, bits)| JournalDamage::Flip { at, bits }),
        (at.clone(), 1..2000_usize).prop_map(|(at, length)| JournalDamage::Zeros { at, length }),
        (at.clone(), prop::collection::vec(any::<u8>(), 1..40))
            .prop_map(|(at, bytes)| JournalDamage::Insert { at, bytes }),
        at.prop_map(|at| JournalDamage::Cut { at }),
        (0..100_usize, number).prop_map(|(which, to)| JournalDamage::Number { which, to }),
    ]
}

impl JournalDamage {
    fn make(&self, journal: &[u8]) -> Vec<u8> {
        let mut changed = journal.to_vec();
        let place = |at: usize| at % journal.len();
        match self {
            Self::Flip { at, bits } => changed[place(*at)] ^= bits,
            Self::Zeros { at, length } => {
                let at = place(*at);
                changed.resize(changed.len().max(at + length), 0);
                changed[at..at + length].fill(0);
            }
            Self::Insert { at, bytes } => {
                let at = place(*at);
                changed.splice(at..at, bytes.iter().copied());
            }
            Self::Cut { at } => changed.truncate(place(*at)),
            Self::Number { which, to } => return with_number(journal, *which, *to),
        }
        changed
    }
}

/// A journal with another number in one of its lines.
fn with_number(journal: &[u8], which: usize, to: u64) -> Vec<u8> {
    let text = std::str::from_utf8(journal).unwrap();
    let lines: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    let place = which % lines.len();
    let lines = lines.iter().enumerate().map(|(number, json)| {
        let json = if number == place { replaced(json, which, to) } else { (*json).into() };
        format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()))
    });
    lines.collect::<String>().into_bytes()
}

/// A JSON text with another number in the place of one of its own.
fn replaced(json: &str, which: usize, to: u64) -> String {
    let starts: Vec<_> = json
        .match_indices([':', ',', '['])
        .map(|(at, _)| at + 1)
        .filter(|at| json[*at..].starts_with(|c: char| c.is_ascii_digit()))
        .collect();
    let Some(at) = starts.get(which / 7 % starts.len().max(1)) else { return json.into() };
    let digits = json[*at..].bytes().take_while(u8::is_ascii_digit).count();
    format!("{}{to}{}", &json[..*at], &json[at + digits..])
}

/// The journal of a server that was killed while clients held.
struct LeftJournal {
    journal: Vec<u8>,
    permits: Vec<(Rc<str>, Uuid)>,
    last: u64,
}

/// One of the semaphores was used before.
fn left(directory: &Path) -> LeftJournal {
    let (journal, found) = Journal::open(directory).unwrap();
    let semaphores = semaphores(journal, found);
    let hold = |name: &str, min_hold| {
        let (name, id): (Rc<str>, _) = (name.into(), Uuid::new_v4());
        let told = semaphores.execute(&name, &hold(id, min_hold), &"".into()).unwrap();
        assert_eq!(told.outcome, Outcome::Holding);
        (name, id)
    };
    let none = Duration::ZERO;
    let (name, id) = hold("again", none);
    semaphores.signal(&name, id, "".into()).unwrap();
    let permits = vec![hold("one", none), hold("again", none), hold("kept", MINUTE)];
    let last = semaphores.last.get();
    drop(semaphores);
    LeftJournal { journal: fs::read(directory.join("journal")).unwrap(), permits, last }
}

#[test]
fn a_changed_journal_costs_no_permit_and_lets_no_number_fall() {
    const CASES: u32 = 600;
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path();
    let LeftJournal { journal, permits, last } = left(path);
    let started = Cell::new(0);
    let test = |change: JournalDamage| {
        let changed = change.make(&journal);
        fs::write(path.join("journal"), &changed).unwrap();
        let Ok((opened, found)) = Journal::open(path) else { return Ok(()) };
        started.set(started.get() + 1);
        let again = semaphores(opened, found);
        // The complete records in the part that was cut off are gone.
        let is_there = |id: &Uuid| {
            let text = String::from_utf8_lossy(&changed);
            text.lines().any(|line| line.contains(&id.to_string()) && line.ends_with("}]"))
        };
        let is_cut = matches!(change, JournalDamage::Cut { .. });
        let is_number = matches!(change, JournalDamage::Number { .. });
        for (name, id) in &permits {
            let look = again.look(name, &unrestricted());
            let holds = look.holders.iter().any(|holder| holder.id == *id);
            // A permit may end at once by a number.
            prop_assert!(holds || is_number || (is_cut && !is_there(id)), "{change:?}: {name}");
            let told = again.execute(name, &asking(Uuid::new_v4(), MINUTE), &"".into()).unwrap();
            prop_assert!(told.outcome != Outcome::Holding, "{change:?}: {name}");
        }
        if !is_cut && !is_number {
            prop_assert!(again.last.get() >= last, "{change:?}");
        }
        let smallest = again.last.get();
        let all = again.all.borrow();
        prop_assert!(all.values().all(|one| one.ledger.last_number() >= smallest), "{change:?}");
        Ok(())
    };
    // What it found before is tried in the other tests of journals.
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(&change(), test).unwrap();
    assert!(started.get() > 20, "{started:?}: some are as good as before");
}
