//! The names of a semaphore's files, and what is in the state file. No I/O.

use std::time::{SystemTime, UNIX_EPOCH};

/// What the mutex file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StateFile {
    /// The last queue number or fencing token given out; both come from here and only grow.
    pub(super) last: u64,
    /// The limit that its users agreed on, which stands while it is in use; 0: none is set.
    pub(super) limit: u32,
    /// The limit that counts whatever its users ask for; 0: none is pinned.
    pub(super) pinned: u32,
}

/// The kinds of FIFO, and the kind of file that counts without a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    Waiter,
    PassedOver,
    Permit,
    Kept,
}

/// One of them by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileName {
    pub(super) kind: FileKind,
    pub(super) number: u64,
}

/// All of them, each kind in the order of its numbers.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) waiters: Vec<FileName>,
    pub(super) passed_over: Vec<FileName>,
    pub(super) permits: Vec<FileName>,
    pub(super) kept: Vec<FileName>,
}

impl FileName {
    pub(super) fn new(kind: FileKind, number: u64) -> Self {
        Self { kind, number }
    }

    pub(super) fn file(self) -> String {
        let letter = match self.kind {
            FileKind::Waiter => 'q',
            FileKind::PassedOver => 'p',
            FileKind::Permit => 's',
            FileKind::Kept => 'k',
        };
        format!("{letter}.{:020}", self.number)
    }

    /// A waiter that was passed over keeps its record.
    pub(super) fn record_file(self) -> String {
        let kind = if self.kind == FileKind::PassedOver { FileKind::Waiter } else { self.kind };
        format!("{}.json", Self { kind, ..self }.file())
    }

    pub(super) fn parse(file: &[u8]) -> Option<Self> {
        let (letter, number) = std::str::from_utf8(file).ok()?.split_once('.')?;
        let kind = match letter {
            "q" => FileKind::Waiter,
            "p" => FileKind::PassedOver,
            "s" => FileKind::Permit,
            "k" => FileKind::Kept,
            _ => return None,
        };
        // Twenty digits and nothing else: a record's ".json" does not parse.
        (number.len() == 20)
            .then(|| number.parse().ok())
            .flatten()
            .map(|number| Self { kind, number })
    }
}

/// No number that is given out comes near it; after a greater one the numbers could not grow.
const GREATEST: u64 = 1 << 62;

impl StateFile {
    pub(super) fn pinned(self) -> Option<u32> {
        (self.pinned > 0).then_some(self.pinned)
    }

    /// The next number. It grows by one or more, and even if this file is lost, because it follows
    /// the wall clock in microseconds.
    pub(super) fn next(&mut self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_micros()).unwrap_or(0);
        self.last = now.max(self.last.saturating_add(1));
        self.last
    }

    /// Of one width, so that writing it again can neither grow nor tear the file.
    pub(super) fn to_text(self) -> String {
        format!("{:020} {:010} {:010}\n", self.last, self.limit, self.pinned)
    }

    /// A file garbled by a crash of the machine reads as empty: numbers still grow, by the clock.
    pub(super) fn from_text(text: &[u8]) -> Self {
        let fields = || {
            let mut words = std::str::from_utf8(text).ok()?.split_ascii_whitespace();
            let last = words.next()?.parse().ok().filter(|last| *last < GREATEST)?;
            let mut limit = || words.next()?.parse().ok();
            Some(Self { last, limit: limit()?, pinned: limit()? })
        };
        fields().unwrap_or(Self { last: 0, limit: 0, pinned: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_names_are_entries() {
        let waiter = FileName::new(FileKind::Waiter, 42);
        assert_eq!(waiter.file(), "q.00000000000000000042");
        assert_eq!(FileName::parse(waiter.file().as_bytes()), Some(waiter));
        let passed_over = FileName::new(FileKind::PassedOver, 42);
        assert_eq!(passed_over.record_file(), waiter.record_file());
        for other in
            ["mutex", "name", "done", "q.42", "x.00000000000000000042", &waiter.record_file()]
        {
            assert_eq!(FileName::parse(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn numbers_grow_also_when_the_clock_does_not_or_the_file_is_lost() {
        let mut ahead = StateFile { last: u64::MAX - 5, limit: 1, pinned: 0 };
        assert_eq!(ahead.next(), u64::MAX - 4);
        let mut lost = StateFile::from_text(b"");
        let first = lost.next();
        assert!(lost.next() > first && first > 1_700_000_000_000_000);
    }

    #[test]
    fn the_state_comes_back_and_a_garbled_one_is_none() {
        let state = StateFile { last: 1_795_297_540_683_598, limit: 3, pinned: 2 };
        assert_eq!(StateFile::from_text(state.to_text().as_bytes()), state);
        let full = b"18446744073709551615 1 0";
        for garbled in [&b"\0\0\0\0"[..], b"1 1", b"x y z", b"\xff 1 1", b"1 -1 0", full] {
            assert_eq!(StateFile::from_text(garbled), StateFile { last: 0, limit: 0, pinned: 0 });
        }
    }
}
