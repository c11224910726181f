//! Bounds for what a server, a record or another program says: numbers that a semaphore can have,
//! and texts that fit into a line. Anything may answer at a URL or write into a shared place;
//! impossible values are not acted upon.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::error::{ImplausibleValue, StoreError};

/// Longer than any option allows.
pub(crate) const LONGEST: Duration = Duration::from_hours(200 * 365 * 24);
/// Shorter than any that can be kept.
const SHORTEST_LEASE: Duration = Duration::from_millis(100);
/// What can be asked for.
const LIMITS: std::ops::RangeInclusive<u32> = 1..=10_000;
/// More than anything can wait or hold.
const MOST: usize = 1 << 30;
/// More semaphores than are in use anywhere, and fewer than what memory has no room for.
const MOST_NAMES: usize = 200_000;

/// More characters than any label, host or user of ours has, and than any identity.
pub(crate) const LONGEST_TEXT: usize = 300;
pub(crate) const LONGEST_IDENTITY: usize = 100;
/// More than any of ours has.
pub(crate) const LONGEST_SEAL: usize = 200;

/// A text for people, cut if it is longer than any of ours.
pub(crate) fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let mut text = String::deserialize(from)?;
    cut(&mut text, LONGEST_TEXT);
    Ok(text)
}

/// The label of an API key, cut to what belongs in a line.
pub(crate) fn label(text: &str) -> String {
    text.chars().take(60).collect()
}

/// The identity of a permit of another program, which may be anything.
pub(crate) fn identity(text: &str) -> String {
    let mut text = text.to_owned();
    cut(&mut text, LONGEST_IDENTITY);
    text
}

fn cut(text: &mut String, most: usize) {
    // Nearly all are known to be short by their bytes.
    if text.len() > most
        && let Some((end, _)) = text.char_indices().nth(most)
    {
        text.truncate(end);
        text.shrink_to_fit();
        text.push('…');
    }
}

/// Whether a length of time is possible.
pub(crate) fn is_time(time: Duration) -> bool {
    time <= LONGEST
}

/// A length of time, from milliseconds.
pub(crate) fn time(millis: u64) -> Result<Duration, StoreError> {
    let time = Duration::from_millis(millis);
    if is_time(time) { Ok(time) } else { Err(ImplausibleValue::Time(millis).into()) }
}

/// The lease of a permit that is held, from milliseconds.
pub(crate) fn lease(millis: u64) -> Result<Duration, StoreError> {
    if Duration::from_millis(millis) < SHORTEST_LEASE {
        return Err(ImplausibleValue::Lease(millis).into());
    }
    time(millis)
}

/// The same for an optional time.
pub(crate) fn time_if_any(millis: Option<u64>) -> Result<Option<Duration>, StoreError> {
    millis.map(time).transpose()
}

/// A moment since the epoch, from seconds and microseconds.
pub(crate) fn moment(seconds: u64, micros: u64) -> Result<Duration, StoreError> {
    let moment = Duration::from_secs(seconds).checked_add(Duration::from_micros(micros));
    moment.filter(|moment| *moment < LONGEST).ok_or(StoreError::Absurd(ImplausibleValue::Clock))
}

/// A limit that is in force.
pub(crate) fn limit(limit: u32) -> Result<u32, StoreError> {
    if LIMITS.contains(&limit) { Ok(limit) } else { Err(ImplausibleValue::Limit(limit).into()) }
}

/// How many wait or hold.
pub(crate) fn count(count: usize) -> Result<usize, StoreError> {
    if count > MOST { Err(ImplausibleValue::Count(count).into()) } else { Ok(count) }
}

/// What seals a place, which goes back in a header.
pub(crate) fn seal(text: &str) -> Result<(), StoreError> {
    let sensible = text.len() <= LONGEST_SEAL && text.bytes().all(|byte| byte.is_ascii_graphic());
    if sensible { Ok(()) } else { Err(ImplausibleValue::Seal.into()) }
}

/// How many semaphores there are.
pub(crate) fn names(count: usize) -> Result<(), StoreError> {
    if count > MOST_NAMES { Err(ImplausibleValue::Names(MOST_NAMES).into()) } else { Ok(()) }
}

/// The value if it is believed; otherwise notes that it is not.
pub(crate) fn or_note<T>(
    said: Result<Option<T>, StoreError>,
    odd: &mut Option<StoreError>,
) -> Option<T> {
    said.unwrap_or_else(|trouble| {
        odd.get_or_insert(trouble);
        None
    })
}

impl From<ImplausibleValue> for StoreError {
    fn from(what: ImplausibleValue) -> Self {
        Self::Absurd(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_so_is_not_believed() {
        let century = 100 * 365 * 24 * 60 * 60 * 1000;
        assert_eq!(time(century).map(|time| time.as_secs()), Ok(century / 1000));
        for millis in [u64::MAX, 1 << 62, century * 3] {
            assert!(time(millis).is_err(), "{millis}");
        }
        assert!(lease(0).is_err() && lease(1).is_err() && lease(5_000).is_ok());
        assert!(limit(0).is_err() && limit(10_001).is_err() && limit(u32::MAX).is_err());
        assert_eq!((limit(1), limit(10_000)), (Ok(1), Ok(10_000)));
        assert!(count(usize::MAX).is_err() && count(0).is_ok());
        assert_eq!(identity("é".repeat(1 << 20).as_str()).chars().count(), LONGEST_IDENTITY + 1);
        assert_eq!(identity("f0"), "f0");
    }
}
