//! The waiting line: how long, in which place, and why.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::stores::{StoreErrorText, WithheldText};
use super::words::{Holder, Ordinal, Span};
use crate::backends::{self, Name, Phase, Record, Snapshot, Standing, StoreError, Withheld};
use crate::foreign::{Among, quoted};

/// Why a client waits, and for whom.
pub(crate) struct Waiting<'a> {
    pub(crate) name: &'a Name,
    /// For how long it has waited.
    pub(crate) waited: Duration,
    /// None before there is a place in the queue.
    pub(crate) standing: Option<&'a Standing>,
    /// Why no permit is granted, whatever is free.
    pub(crate) withheld: Option<Withheld>,
    /// Why nothing is known any more.
    pub(crate) trouble: Option<&'a StoreError>,
    pub(crate) now: SystemTime,
}

/// How much is said of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Length {
    Full,
    /// The label of the holder alone.
    Brief,
    /// Neither the name that the user has typed, nor ours.
    Short,
}

impl Waiting<'_> {
    /// The same in less and less columns.
    pub(crate) fn lines(&self) -> [String; 3] {
        [Length::Full, Length::Brief, Length::Short].map(|length| {
            let line = Line { waiting: self, length };
            if length == Length::Short { line.to_string() } else { format!("semrun: {line}") }
        })
    }
}

impl fmt::Display for Waiting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Line { waiting: self, length: Length::Full }.fmt(f)
    }
}

struct Line<'a> {
    waiting: &'a Waiting<'a>,
    length: Length,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Waiting { name, waited, standing, withheld, trouble, now } = *self.waiting;
        let waited = humantime::format_duration(Duration::from_secs(waited.as_secs()));
        match self.length {
            Length::Short => write!(f, "{waited}")?,
            _ => write!(f, "waiting {waited} for '{name}'")?,
        }
        if let Some(Standing { ahead, .. }) = standing {
            write!(f, ", {} in line", Ordinal(ahead + 1))?;
        }
        if let Some(trouble) = trouble {
            return write!(f, "; {}", StoreErrorText(trouble));
        }
        if let Some(withheld) = withheld {
            return write!(f, "; {}", WithheldText(withheld));
        }
        let Some(Standing { held, holder, key, kept_until, .. }) = standing else { return Ok(()) };
        let left = kept_until.map(|until| until.duration_since(now).unwrap_or_default());
        let (holder, key) = (holder.as_ref(), key.as_deref());
        Taken { held: *held, holder, key, left, now, length: self.length }.fmt(f)
    }
}

/// Who has the permits.
pub(super) struct Taken<'a> {
    held: usize,
    holder: Option<&'a Record>,
    key: Option<&'a str>,
    /// For how long the permit of the holder is kept, which has given it back.
    left: Option<Duration>,
    now: SystemTime,
    length: Length,
}

impl<'a> Taken<'a> {
    pub(super) fn of(snapshot: &'a Snapshot, now: SystemTime) -> Self {
        let oldest = snapshot.holders.first();
        let kept = oldest.filter(|holder| holder.phase() == Phase::MinHold);
        let key = match oldest {
            Some(backends::Holder::Foreign { key, .. }) => key.as_deref(),
            _ => None,
        };
        Self {
            held: snapshot.holders.len(),
            holder: oldest.and_then(backends::Holder::record),
            key,
            left: kept.and_then(backends::Holder::left),
            now,
            length: Length::Full,
        }
    }
}

impl fmt::Display for Taken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { held, holder, key, left, now, length } = *self;
        match (holder, left) {
            (None, _) if held == 0 => return Ok(()),
            (None, _) => match key {
                Some(key) => write!(
                    f,
                    "; held by another program with the API key {}",
                    quoted(key, Among::Words)
                )?,
                None => f.write_str("; held by a client that left no record")?,
            },
            (Some(record), Some(left)) => {
                let left = Duration::from_secs(left.as_secs());
                write!(f, "; kept for another {}", Span(left))?;
                let who = &record.who;
                let [label, user, host] =
                    [&who.label, &who.user, &who.host].map(|text| quoted(text, Among::Words));
                match length {
                    Length::Full => write!(f, " (--min-hold of {label}, {user}@{host})")?,
                    Length::Brief => f.write_str(" (--min-hold)")?,
                    Length::Short => {}
                }
            }
            (Some(record), None) => {
                let age = now.duration_since(record.since).unwrap_or_default();
                write!(f, "; held for {} by ", Span(age))?;
                match length {
                    Length::Full => Holder(record).fmt(f)?,
                    _ => f.write_str(&quoted(&record.who.label, Among::Words))?,
                }
            }
        }
        match held.saturating_sub(1) {
            0 => Ok(()),
            1 => f.write_str(" and by 1 other"),
            others => write!(f, " and by {others} others"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use uuid::Uuid;

    use super::*;
    use crate::backends::Who;

    fn record() -> Record {
        let who = Who {
            label: "job".into(),
            host: "web1".into(),
            pid: 42,
            user: "ci\x1b".into(),
            detached: false,
        };
        Record { permit: Uuid::nil(), who, since: UNIX_EPOCH }
    }

    fn line(standing: Option<&Standing>, change: impl FnOnce(&mut Waiting<'_>)) -> [String; 3] {
        let name = "deploy".parse().unwrap();
        let mut waiting = Waiting {
            name: &name,
            waited: Duration::from_millis(12_900),
            standing,
            withheld: None,
            trouble: None,
            now: UNIX_EPOCH + Duration::from_secs(192),
        };
        change(&mut waiting);
        waiting.lines()
    }

    fn held(ahead: usize, held: usize, holder: Option<Record>) -> Standing {
        Standing { ahead, held, holder, ..Standing::default() }
    }

    #[test]
    fn the_waiting_line_says_for_how_long_the_place_the_holder_and_its_age() {
        let lines = |standing: Standing| line(Some(&standing), |_| {});
        let who = Who { detached: true, ..record().who };
        assert_eq!(
            lines(held(0, 1, Some(Record { who, ..record() })))[0],
            "semrun: waiting 12s for 'deploy', 1st in line; held for 3m 12s by job (ci\u{FFFD}@web1)"
        );
        assert_eq!(
            lines(held(1, 3, Some(record()))),
            [
                "semrun: waiting 12s for 'deploy', 2nd in line; held for 3m 12s by job (pid 42, \
                 ci\u{FFFD}@web1) and by 2 others",
                "semrun: waiting 12s for 'deploy', 2nd in line; held for 3m 12s by job and by 2 others",
                "12s, 2nd in line; held for 3m 12s by job and by 2 others",
            ]
        );
        assert_eq!(lines(held(0, 0, None))[0], "semrun: waiting 12s for 'deploy', 1st in line");
        assert_eq!(
            lines(held(10, 1, None))[2],
            "12s, 11th in line; held by a client that left no record"
        );
    }

    #[test]
    fn a_permit_that_was_given_back_is_not_said_to_be_held_by_a_process_that_has_ended() {
        let kept = Standing {
            kept_until: Some(UNIX_EPOCH + Duration::from_secs(192 + 598)),
            ..held(0, 1, Some(record()))
        };
        let [full, brief, short] = line(Some(&kept), |_| {});
        let expected = "1st in line; kept for another 9m 58s (--min-hold of job, ci\u{FFFD}@web1)";
        assert!(full.ends_with(expected), "{full}");
        assert_eq!(short, "12s, 1st in line; kept for another 9m 58s");
        assert!(brief.ends_with("; kept for another 9m 58s (--min-hold)"), "{brief}");
    }

    #[test]
    fn a_client_of_another_kind_is_known_by_its_key() {
        let standing = Standing { key: Some("web 1".into()), ..held(0, 1, None) };
        let [full, ..] = line(Some(&standing), |_| {});
        assert!(full.ends_with("; held by another program with the API key \"web 1\""), "{full}");
    }

    #[test]
    fn why_nothing_is_granted_or_known_comes_before_who_holds() {
        let quarantine = Withheld::Quarantine(Duration::from_secs(12));
        let [full, ..] =
            line(Some(&held(0, 0, None)), |waiting| waiting.withheld = Some(quarantine));
        let granted = "1st in line; no permit is granted for 12s yet";
        assert!(full.contains(granted), "{full}");
        let [full, ..] = line(Some(&held(0, 0, None)), |waiting| {
            waiting.withheld = Some(quarantine);
            waiting.trouble = Some(&StoreError::Silent);
        });
        assert!(full.ends_with("1st in line; the server does not answer"), "{full}");
        let [full, ..] = line(None, |waiting| {
            waiting.withheld = Some(Withheld::Replicas { in_step: 0, needed: 1 });
        });
        let few = "semrun: waiting 12s for 'deploy'; too few replicas are in step with the server: 0, and 1 must be";
        assert!(full.starts_with(few), "{full}");
    }
}
