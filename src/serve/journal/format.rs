//! The lines of a journal, and the state that they describe. A line is all that was written at
//! once, so that only the last one can be unfinished when the machine stops.
//!
//! ```text
//! 5f0c2a11 [{"begin":{"version":3,"boot":"…","last":1790000000000042,"longest_ms":0}}]
//! 9d1e77b0 [{"grant":{"name":"deploy","id":"…","token":…,"terms":{"limit":1,…},"record":{…}}}]
//! 03ab4cde [{"end":{"name":"deploy","id":"…"}},{"grant":{…}}]
//! 41c7b05e [{"pin":{"name":"deploy","limit":3}}]
//! ```

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::permits::Terms;
use crate::permits::json::millis;
use crate::permits::{HolderState, Record};
use crate::serve::bearer::KeyFingerprint;
use crate::serve::seals::Seals;

/// A permit on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedGrant {
    pub(crate) name: String,
    pub(crate) id: Uuid,
    pub(crate) token: u64,
    /// What was granted; none for an exclusive client of the original kind.
    #[serde(flatten, with = "grant_terms")]
    pub(crate) terms: Option<Terms>,
    /// From when on it is held, on the clock of this boot.
    #[serde(default, skip_serializing_if = "is_none")]
    pub(crate) since_ms: u64,
    #[serde(default, skip_serializing_if = "is_held")]
    pub(crate) phase: HolderState,
    /// The print of the API key that it was acquired with; earlier versions did not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<KeyFingerprint>,
    pub(crate) record: Option<Record>,
}

#[cfg(test)]
impl RecordedGrant {
    /// A permit that is held under plain terms.
    pub(crate) fn sample(name: &str, number: u64, terms: Terms) -> Self {
        Self {
            name: name.into(),
            id: Uuid::from_u128(number.into()),
            token: number,
            terms: Some(terms),
            since_ms: 0,
            phase: HolderState::Holding,
            key: None,
            record: None,
        }
    }
}

/// Until version 2 the terms were a pair, which is read in the same way, and the min-hold stood
/// beside them.
mod grant_terms {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::permits::Terms;

    #[derive(Serialize, Deserialize)]
    struct Written {
        terms: Option<Terms>,
        #[serde(default, skip_serializing)]
        min_hold_ms: u64,
    }

    #[expect(clippy::ref_option, reason = "serde wants it so")]
    pub(super) fn serialize<S: Serializer>(
        terms: &Option<Terms>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        Written { terms: *terms, min_hold_ms: 0 }.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Terms>, D::Error> {
        let Written { terms, min_hold_ms } = Written::deserialize(from)?;
        let before = Duration::from_millis(min_hold_ms);
        Ok(terms.map(|terms| Terms { min_hold: terms.min_hold.max(before), ..terms }))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_none(time: &u64) -> bool {
    *time == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_held(phase: &HolderState) -> bool {
    *phase == HolderState::Holding
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum JournalEntry<'a> {
    Begin {
        version: u32,
        boot: String,
        last: u64,
        /// The longest lease that the reboot may have lost, while we still wait for its end.
        longest_ms: u64,
    },
    /// A later one replaces an earlier one with the same identity.
    Grant(Cow<'a, RecordedGrant>),
    Pin {
        name: String,
        /// None: unpinned.
        limit: Option<u32>,
    },
    End {
        name: String,
        id: Uuid,
    },
}

/// The version of the format, and the oldest that is read. Another one is refused.
const VERSION: u32 = 3;
const OLDEST: u32 = 1;

/// What was on record when the server started.
#[derive(Debug, Default)]
pub(crate) struct RestoredState {
    /// In the order of their tokens.
    pub(crate) grants: Vec<RecordedGrant>,
    /// The limits that are pinned, by name.
    pub(crate) pins: BTreeMap<String, u32>,
    /// No number that was ever given out is greater.
    pub(crate) last: u64,
    /// Whether there was a server before this one.
    pub(crate) restarted: bool,
    /// The longest lease on record, if the machine has started since.
    pub(crate) rebooted: Option<Duration>,
    /// The identity of the boot, for the record.
    pub(super) boot: String,
    /// The key of seals, kept beside the journal.
    pub(crate) seals: Option<Seals>,
}

/// The journal before anything is appended: a first line, and one with all held permits.
pub(super) fn snapshot(
    boot: &str,
    before: Option<&(String, Duration)>,
    last: u64,
    pins: &BTreeMap<String, u32>,
    grants: &[RecordedGrant],
) -> Vec<u8> {
    let json = |entry: &JournalEntry<'_>| serde_json::to_string(entry).expect("plain data");
    let (boot, longest) = match before {
        Some((boot, longest)) => (boot.clone(), *longest),
        None => (boot.into(), Duration::ZERO),
    };
    let begin = JournalEntry::Begin { version: VERSION, boot, last, longest_ms: millis(longest) };
    let mut content = line(&[&json(&begin)]);
    let pin = |(name, limit): (&String, &u32)| {
        json(&JournalEntry::Pin { name: name.clone(), limit: Some(*limit) })
    };
    let grant = |grant| json(&JournalEntry::Grant(Cow::Borrowed(grant)));
    let entries: Vec<_> = pins.iter().map(pin).chain(grants.iter().map(grant)).collect();
    if !entries.is_empty() {
        content.extend(line(&entries.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    content
}

pub(super) fn line(entries: &[&str]) -> Vec<u8> {
    let json = format!("[{}]", entries.join(","));
    format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())).into_bytes()
}

pub(super) fn read_line(line: &[u8]) -> Option<Vec<JournalEntry<'static>>> {
    let line = std::str::from_utf8(line).ok()?;
    let (sum, json) = line.split_once(' ')?;
    let sum = u32::from_str_radix(sum, 16).ok().filter(|_| sum.len() == 8)?;
    (sum == crc32fast::hash(json.as_bytes())).then_some(())?;
    serde_json::from_str(json).ok()
}

/// What is wrong with a journal. `cli/messages/journals.rs` has the words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// It is of another version of semrun, which this one does not read.
    Format { version: u32, oldest: u32, newest: u32 },
    /// Something may have been on record that is missing.
    Lost {
        line: usize,
        /// Where the line begins, in bytes.
        at: usize,
        what: DamagedLine,
        /// Whether nothing comes after it.
        is_last: bool,
        /// The longest lease before it.
        longest: Duration,
    },
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DamagedLine {
    Garbled,
    /// Where a record may have been.
    Zeros,
    NoEnd,
    /// A permit before its end has the token of another one.
    TokenTwice,
}

/// What a journal has after its last line end.
enum JournalTail {
    /// A complete record without its line end.
    Whole(Vec<JournalEntry<'static>>),
    /// The beginning of a record, cut when the machine stopped: no client was told.
    Torn,
    /// Something that no interrupted write leaves: a record may have been there.
    Damaged(DamagedLine),
}

impl JournalTail {
    fn of(tail: &[u8]) -> Self {
        if tail.contains(&0) {
            return Self::Damaged(DamagedLine::Zeros);
        }
        if let Some(entries) = read_line(tail) {
            return Self::Whole(entries);
        }
        let (sum, json) = tail.split_at(tail.len().min(SUM));
        let begins = sum.iter().enumerate().all(|(place, byte)| match place {
            0..8 => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            _ => *byte == b' ',
        });
        let json = match std::str::from_utf8(json) {
            Ok(json) => json,
            // It ends within a character.
            Err(error) if error.error_len().is_none() => {
                std::str::from_utf8(&json[..error.valid_up_to()]).unwrap_or_default()
            }
            Err(_) => return Self::Damaged(DamagedLine::Garbled),
        };
        match serde_json::from_str::<IgnoredAny>(json) {
            Err(error)
                if begins && error.is_eof() && (json.is_empty() || json.starts_with('[')) =>
            {
                Self::Torn
            }
            _ => Self::Damaged(DamagedLine::Garbled),
        }
    }
}

/// The state that the lines describe. Only the last line may be unfinished, unless it is the first:
/// the machine stopped while it was written, and no client was told of it. If more is missing, a
/// held permit could be granted again.
pub(super) fn replay(bytes: &[u8], boot: &str) -> Result<RestoredState, Damage> {
    let mut found = RestoredState { restarted: true, ..RestoredState::default() };
    let mut held: HashMap<(String, Uuid), RecordedGrant> = HashMap::new();
    let mut longest = Duration::ZERO;
    let mut begun = false;
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() || !begun {
        let rest = &bytes[at..];
        let end = rest.iter().position(|byte| *byte == b'\n');
        let lost = |what| {
            let is_last = end.is_none_or(|end| at + end + 1 == bytes.len());
            Damage::Lost { line, at, what, is_last, longest }
        };
        let entries = match end {
            Some(end) => read_line(&rest[..end]).ok_or_else(|| {
                lost(if rest[..end].contains(&0) {
                    DamagedLine::Zeros
                } else {
                    DamagedLine::Garbled
                })
            })?,
            // The first line was on the disk before it got this name.
            None if !begun => {
                let zeros = rest.contains(&0);
                return Err(lost(if zeros { DamagedLine::Zeros } else { DamagedLine::NoEnd }));
            }
            None => match JournalTail::of(rest) {
                JournalTail::Whole(entries) => entries,
                JournalTail::Torn => break,
                JournalTail::Damaged(what) => return Err(lost(what)),
            },
        };
        for entry in entries {
            match entry {
                JournalEntry::Begin { version, .. } if !(OLDEST..=VERSION).contains(&version) => {
                    return Err(Damage::Format { version, oldest: OLDEST, newest: VERSION });
                }
                JournalEntry::Begin { boot, last, longest_ms, .. } if !begun && last < GREATEST => {
                    begun = true;
                    found.boot = boot;
                    found.last = last;
                    longest = Duration::from_millis(longest_ms);
                }
                JournalEntry::Grant(grant) if begun && grant.token < GREATEST => {
                    let grant = grant.into_owned();
                    found.last = found.last.max(grant.token);
                    longest = longest.max(grant.terms.map_or(Duration::ZERO, |terms| terms.ttl));
                    held.insert((grant.name.clone(), grant.id), grant);
                }
                JournalEntry::End { name, id } if begun => drop(held.remove(&(name, id))),
                JournalEntry::Pin { name, limit: Some(limit) } if begun => {
                    found.pins.insert(name, limit);
                }
                JournalEntry::Pin { name, limit: None } if begun => drop(found.pins.remove(&name)),
                _ => {
                    let is_last = end.is_none_or(|end| at + end + 1 == bytes.len());
                    return Err(Damage::Lost {
                        line,
                        at,
                        what: DamagedLine::Garbled,
                        is_last,
                        longest,
                    });
                }
            }
        }
        at += end.map_or(rest.len(), |end| end + 1);
        line += 1;
    }
    found.grants = held.into_values().collect();
    found
        .grants
        .sort_unstable_by(|one, other| (one.token, &one.name).cmp(&(other.token, &other.name)));
    let twice =
        |pair: &[RecordedGrant]| (pair[0].token, &pair[0].name) == (pair[1].token, &pair[1].name);
    if found.grants.windows(2).any(twice) {
        let what = DamagedLine::TokenTwice;
        return Err(Damage::Lost { line: line - 1, at, what, is_last: false, longest });
    }
    found.rebooted = (found.boot != boot).then_some(longest);
    Ok(found)
}

/// What comes before the JSON of a line: a checksum of eight digits and a space.
const SUM: usize = 9;

/// No number that is given out comes near it.
const GREATEST: u64 = 1 << 62;

/// A journal as a function of bytes. The sums are made right, without which few would be read.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = replay(bytes, "boot");
    let mut summed = Vec::new();
    for text in bytes.split(|byte| *byte == b'\n') {
        let json = String::from_utf8_lossy(text.get(9..).unwrap_or_default());
        summed.extend(format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())).into_bytes());
    }
    if let Ok(found) = replay(&summed, "boot") {
        let content = snapshot("boot", None, found.last, &found.pins, &found.grants);
        let again = replay(&content, "boot").expect("what was written");
        assert_eq!((again.grants.len(), again.last), (found.grants.len(), found.last));
        assert_eq!(again.pins, found.pins);
    }
}
