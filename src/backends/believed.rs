//! What a server may say: numbers that a semaphore can have. Anything may answer at the other end of a
//! URL, and what cannot be so is not acted upon.

use std::time::Duration;

use super::trouble::Trouble;

/// Longer than any option says.
pub(in crate::backends) const LONGEST: Duration = Duration::from_hours(200 * 365 * 24);
/// Shorter than any that can be kept.
const SHORTEST_LEASE: Duration = Duration::from_millis(100);
/// What `--limit` takes.
const LIMITS: std::ops::RangeInclusive<u32> = 1..=10_000;
/// More than anything can wait or hold.
const MOST: usize = 1 << 30;

/// A length of time, from milliseconds.
pub(super) fn time(millis: u64) -> Result<Duration, Trouble> {
    let time = Duration::from_millis(millis);
    if time > LONGEST { Err(absurd(&format!("a time of {millis} ms"))) } else { Ok(time) }
}

/// The lease of a permit that is held, from milliseconds.
pub(super) fn lease(millis: u64) -> Result<Duration, Trouble> {
    if Duration::from_millis(millis) < SHORTEST_LEASE {
        return Err(absurd(&format!("a lease of {millis} ms")));
    }
    time(millis)
}

/// The same of one that there need not be.
pub(super) fn time_if_any(millis: Option<u64>) -> Result<Option<Duration>, Trouble> {
    millis.map(time).transpose()
}

/// A moment since the epoch, from seconds and microseconds.
pub(super) fn moment(seconds: u64, micros: u64) -> Result<Duration, Trouble> {
    let moment = Duration::from_secs(seconds).checked_add(Duration::from_micros(micros));
    moment.filter(|moment| *moment < LONGEST).ok_or_else(|| absurd("its clock"))
}

/// A limit that is in force.
pub(super) fn limit(limit: u32) -> Result<u32, Trouble> {
    if LIMITS.contains(&limit) { Ok(limit) } else { Err(absurd(&format!("a limit of {limit}"))) }
}

/// How many wait or hold.
pub(super) fn count(count: usize) -> Result<usize, Trouble> {
    if count > MOST { Err(absurd(&format!("{count} that wait or hold"))) } else { Ok(count) }
}

fn absurd(what: &str) -> Trouble {
    Trouble::lasting(format!("the server says what cannot be so: {what}; check the URL"))
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
    }
}
