//! The waiting line: how long, in which place, and why.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::stores::{StoreErrorText, WithheldText};
use super::words::{HolderText, Ordinal, Span};
use crate::backends::{
    self, HolderState, Name, QueueStatus, Record, SemaphoreSnapshot, StoreError, Withheld,
};
use crate::printable::{Context, quoted};

/// Why a client waits, and for which holders.
pub(crate) struct WaitingText<'a> {
    pub(crate) name: &'a Name,
    /// For how long it has waited.
    pub(crate) waited: Duration,
    /// None before there is a place in the queue.
    pub(crate) queue_status: Option<&'a QueueStatus>,
    /// Why no permit is granted, whatever is free.
    pub(crate) withheld: Option<Withheld>,
    /// Why the queue's state is unknown.
    pub(crate) error: Option<&'a StoreError>,
    pub(crate) now: SystemTime,
}

/// How much of it to show.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Length {
    Full,
    /// The label of the holder alone.
    Brief,
    /// Without the name that the user has typed, and ours.
    Short,
}

impl WaitingText<'_> {
    /// The same in less and less columns.
    pub(crate) fn lines(&self) -> [String; 3] {
        [Length::Full, Length::Brief, Length::Short].map(|length| {
            let line = WaitingLine { waiting: self, length };
            if length == Length::Short { line.to_string() } else { format!("semrun: {line}") }
        })
    }
}

impl fmt::Display for WaitingText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        WaitingLine { waiting: self, length: Length::Full }.fmt(f)
    }
}

struct WaitingLine<'a> {
    waiting: &'a WaitingText<'a>,
    length: Length,
}

impl fmt::Display for WaitingLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WaitingText { name, waited, queue_status, withheld, error, now } = *self.waiting;
        let waited = humantime::format_duration(Duration::from_secs(waited.as_secs()));
        match self.length {
            Length::Short => write!(f, "{waited}")?,
            _ => write!(f, "waiting {waited} for '{name}'")?,
        }
        if let Some(QueueStatus { ahead, .. }) = queue_status {
            write!(f, ", {} in line", Ordinal(ahead + 1))?;
        }
        if let Some(error) = error {
            return write!(f, "; {}", StoreErrorText(error));
        }
        if let Some(withheld) = withheld {
            return write!(f, "; {}", WithheldText(withheld));
        }
        let Some(QueueStatus { held, holder, key, kept_until, .. }) = queue_status else {
            return Ok(());
        };
        let left = kept_until.map(|until| until.duration_since(now).unwrap_or_default());
        let (holder, key) = (holder.as_ref(), key.as_deref());
        HeldBy { held: *held, holder, key, left, now, length: self.length }.fmt(f)
    }
}

/// The holders of the permits.
pub(super) struct HeldBy<'a> {
    held: usize,
    holder: Option<&'a Record>,
    key: Option<&'a str>,
    /// For how long the permit stays kept after its holder gave it back.
    left: Option<Duration>,
    now: SystemTime,
    length: Length,
}

impl<'a> HeldBy<'a> {
    pub(super) fn of(snapshot: &'a SemaphoreSnapshot, now: SystemTime) -> Self {
        let oldest = snapshot.holders.first();
        let kept = oldest.filter(|holder| holder.state() == HolderState::MinHold);
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

impl fmt::Display for HeldBy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { held, holder, key, left, now, length } = *self;
        match (holder, left) {
            (None, _) if held == 0 => return Ok(()),
            (None, _) => match key {
                Some(key) => write!(
                    f,
                    "; held by another program with the API key {}",
                    quoted(key, Context::Words)
                )?,
                None => f.write_str("; held by a client that left no record")?,
            },
            (Some(record), Some(left)) => {
                let left = Duration::from_secs(left.as_secs());
                write!(f, "; kept for another {}", Span(left))?;
                let who = &record.who;
                let [label, user, host] =
                    [&who.label, &who.user, &who.host].map(|text| quoted(text, Context::Words));
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
                    Length::Full => HolderText(record).fmt(f)?,
                    _ => f.write_str(&quoted(&record.who.label, Context::Words))?,
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
    use crate::permits::ClientInfo;

    fn record() -> Record {
        let who = ClientInfo {
            label: "job".into(),
            host: "web1".into(),
            pid: 42,
            user: "ci\x1b".into(),
            detached: false,
        };
        Record { permit: Uuid::nil(), who, since: UNIX_EPOCH }
    }

    fn line(
        queue_status: Option<&QueueStatus>,
        change: impl FnOnce(&mut WaitingText<'_>),
    ) -> [String; 3] {
        let name = "deploy".parse().unwrap();
        let mut waiting = WaitingText {
            name: &name,
            waited: Duration::from_millis(12_900),
            queue_status,
            withheld: None,
            error: None,
            now: UNIX_EPOCH + Duration::from_secs(192),
        };
        change(&mut waiting);
        waiting.lines()
    }

    fn held(ahead: usize, held: usize, holder: Option<Record>) -> QueueStatus {
        QueueStatus { ahead, held, holder, ..QueueStatus::default() }
    }

    #[test]
    fn the_waiting_line_says_for_how_long_the_place_the_holder_and_its_age() {
        let lines = |queue_status: QueueStatus| line(Some(&queue_status), |_| {});
        let who = ClientInfo { detached: true, ..record().who };
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
        let kept = QueueStatus {
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
        let queue_status = QueueStatus { key: Some("web 1".into()), ..held(0, 1, None) };
        let [full, ..] = line(Some(&queue_status), |_| {});
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
            waiting.error = Some(&StoreError::Silent);
        });
        assert!(full.ends_with("1st in line; the server does not answer"), "{full}");
        let [full, ..] = line(None, |waiting| {
            waiting.withheld = Some(Withheld::Replicas { in_step: 0, needed: 1 });
        });
        let few = "semrun: waiting 12s for 'deploy'; too few replicas are in step with the server: 0, and 1 must be";
        assert!(full.starts_with(few), "{full}");
    }
}
