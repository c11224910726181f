//! The lines of a journal, and what they come to. A line is all that was written at once, so that
//! only the last one can be damaged when the machine stops.
//!
//! ```text
//! 5f0c2a11 [{"begin":{"version":1,"boot":"…","last":1790000000000042,"longest_ms":0}}]
//! 9d1e77b0 [{"grant":{"name":"deploy","id":"…","token":…,"terms":[1,30000],"record":{…}}}]
//! 03ab4cde [{"end":{"name":"deploy","id":"…"}},{"grant":{…}}]
//! 41c7b05e [{"pin":{"name":"deploy","limit":3}}]
//! ```

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::backends::cloud::wire::millis;
use crate::backends::{Phase, Record};

/// A permit on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    pub(crate) name: String,
    pub(crate) id: Uuid,
    pub(crate) token: u64,
    /// The terms in force; none for a client that is alone as long as its connection lives.
    pub(crate) terms: Option<(u32, u64)>,
    /// For how long it stays taken, and from when, on the clock of this start of the machine.
    #[serde(default, skip_serializing_if = "is_none")]
    pub(crate) min_hold_ms: u64,
    #[serde(default, skip_serializing_if = "is_none")]
    pub(crate) since_ms: u64,
    #[serde(default, skip_serializing_if = "is_held")]
    pub(crate) phase: Phase,
    pub(crate) record: Option<Record>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_none(time: &u64) -> bool {
    *time == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_held(phase: &Phase) -> bool {
    *phase == Phase::Held
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Entry<'a> {
    Begin {
        version: u32,
        boot: String,
        last: u64,
        /// The longest lease that the machine may have forgotten when it started, as long as that
        /// is waited for.
        longest_ms: u64,
    },
    /// A later one stands for an earlier one with the same identity.
    Grant(Cow<'a, Grant>),
    Pin {
        name: String,
        /// None: not any more.
        limit: Option<u32>,
    },
    End {
        name: String,
        id: Uuid,
    },
}

/// The version of the format. Another one is refused.
const VERSION: u32 = 1;

/// What was on record when the server started.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// In the order of their tokens.
    pub(crate) grants: Vec<Grant>,
    /// The limits that are pinned, by name.
    pub(crate) pins: BTreeMap<String, u32>,
    /// No number that was ever given out is greater.
    pub(crate) last: u64,
    /// Whether there was a server before this one.
    pub(crate) restarted: bool,
    /// The longest lease on record, if the machine has started since.
    pub(crate) rebooted: Option<Duration>,
    /// When it was started, for the record.
    pub(super) boot: String,
}

/// What the journal is when nothing has been appended: a line to begin with, and one with all
/// that is held.
pub(super) fn snapshot(
    boot: &str,
    before: Option<&(String, Duration)>,
    last: u64,
    pins: &BTreeMap<String, u32>,
    grants: &[Grant],
) -> Vec<u8> {
    let json = |entry: &Entry<'_>| serde_json::to_string(entry).expect("plain data");
    let (boot, longest) = match before {
        Some((boot, longest)) => (boot.clone(), *longest),
        None => (boot.into(), Duration::ZERO),
    };
    let begin = Entry::Begin { version: VERSION, boot, last, longest_ms: millis(longest) };
    let mut content = line(&[&json(&begin)]);
    let pin = |(name, limit): (&String, &u32)| {
        json(&Entry::Pin { name: name.clone(), limit: Some(*limit) })
    };
    let grant = |grant| json(&Entry::Grant(Cow::Borrowed(grant)));
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

pub(super) fn read_line(line: &[u8]) -> Option<Vec<Entry<'static>>> {
    let line = std::str::from_utf8(line).ok()?;
    let (sum, json) = line.split_once(' ')?;
    let sum = u32::from_str_radix(sum, 16).ok().filter(|_| sum.len() == 8)?;
    (sum == crc32fast::hash(json.as_bytes())).then_some(())?;
    serde_json::from_str(json).ok()
}

/// What the lines come to. Only the last one may be damaged, unless it is the first: it was being
/// written when the machine stopped, and nobody was told of it.
pub(super) fn replay(bytes: &[u8], boot: &str) -> Result<Found, String> {
    let mut lines: Vec<_> = bytes.split(|byte| *byte == b'\n').collect();
    // Behind the last line end.
    let torn = lines.pop().unwrap_or_default();
    let damaged = |number: usize| {
        format!(
            "line {number} is damaged; what is held is not known. Wait until no command runs that \
             relies on it, then move the file away"
        )
    };
    let mut found = Found { restarted: true, ..Found::default() };
    let mut held: HashMap<(String, Uuid), Grant> = HashMap::new();
    let mut longest = Duration::ZERO;
    let mut begun = false;
    let last = lines.len();
    for (number, text) in (1..).zip(lines) {
        let Some(entries) = read_line(text) else {
            // A disk may bring back the last block as zeroes.
            if number == last && begun && torn.is_empty() {
                break;
            }
            return Err(damaged(number));
        };
        for entry in entries {
            match entry {
                Entry::Begin { version, .. } if version != VERSION => {
                    return Err(format!(
                        "it has format {version}, and this program writes {VERSION}"
                    ));
                }
                Entry::Begin { boot, last, longest_ms, .. } if !begun => {
                    begun = true;
                    found.boot = boot;
                    found.last = last;
                    longest = Duration::from_millis(longest_ms);
                }
                Entry::Grant(grant) if begun && grant.token < GREATEST => {
                    let grant = grant.into_owned();
                    found.last = found.last.max(grant.token);
                    let ttl = grant.terms.map_or(0, |(_, ttl)| ttl);
                    longest = longest.max(Duration::from_millis(ttl));
                    held.insert((grant.name.clone(), grant.id), grant);
                }
                Entry::End { name, id } if begun => drop(held.remove(&(name, id))),
                Entry::Pin { name, limit: Some(limit) } if begun => {
                    found.pins.insert(name, limit);
                }
                Entry::Pin { name, limit: None } if begun => drop(found.pins.remove(&name)),
                _ => return Err(damaged(number)),
            }
        }
    }
    if !begun {
        return Err(damaged(1));
    }
    found.grants = held.into_values().collect();
    found.grants.sort_unstable_by_key(|grant| grant.token);
    if found
        .grants
        .windows(2)
        .any(|pair| pair[0].token == pair[1].token && pair[0].name == pair[1].name)
    {
        return Err("two permits have the same token".into());
    }
    found.rebooted = (found.boot != boot).then_some(longest);
    Ok(found)
}

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
