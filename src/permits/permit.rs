//! A permit: its identity, for how long it is certainly ours, and how it can be lost.

use std::fmt;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use uuid::Uuid;

use super::{Attempt, StoreError};
use crate::clock::{self, Moment};

/// How long a permit is certainly ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Validity {
    /// A moment before the last successful renewal was sent: the server counts from a later one.
    pub(crate) since: Moment,
    /// For how long from then.
    pub(crate) ttl: Duration,
    /// Why renewals since then failed, if any did.
    pub(crate) error: Option<StoreError>,
}

impl Validity {
    /// The attempt that fails when the permit cannot be given back.
    pub(crate) fn release_attempt(&self, permit: &PermitId) -> Attempt {
        let left = (self.since + self.ttl).saturating_sub(clock::now());
        Attempt::Release { permit: permit.clone(), left }
    }
}

/// A permit is not ours any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) reason: LossReason,
    pub(crate) stage: LossStage,
}

/// Why a permit is not ours any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LossReason {
    /// Its lease ended, or it was revoked: the backend does not know it any more.
    ExpiredOrRevoked,
    /// The same, unless the server was restarted and does not remember its permits.
    ExpiredOrForgotten,
    /// A user revoked it; whether at once.
    Revoked {
        now: bool,
    },
    /// Another client gave it back.
    GivenBack,
    /// Something is wrong with the server, or with the way to it.
    Store(StoreError),
    NotRenewed,
    /// This process was held up, and there is no time left to start anything under it.
    HeldUp,
    /// The same, by a stop.
    StoppedTooLong,
    /// This process was stopped until the lease was over.
    StoppedUntilOver,
    /// The permit around us is lost.
    OuterLost,
    /// The process that holds the permit around us is gone.
    OuterGone,
}

impl From<StoreError> for LossReason {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::GivenBack => Self::GivenBack,
            error => Self::Store(error),
        }
    }
}

/// When a permit went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LossStage {
    /// At this moment: another holder may begin just now.
    Now,
    /// Some time ago: another client may hold it.
    Before,
    /// Not yet: it was revoked gently, cannot be renewed, and is ours until it is given back or
    /// its lease ends.
    Revoking,
}

impl Loss {
    /// The backend does not know the permit any more.
    pub(crate) fn unknown_to_server() -> Self {
        Self { reason: LossReason::ExpiredOrRevoked, stage: LossStage::Before }
    }

    /// It was revoked gently.
    pub(crate) fn revoked() -> Self {
        Self { reason: LossReason::Revoked { now: false }, stage: LossStage::Revoking }
    }

    /// It was revoked at once.
    pub(crate) fn forcibly_revoked(gone: LossStage) -> Self {
        Self { reason: LossReason::Revoked { now: true }, stage: gone }
    }
}

/// The name of a semaphore: 1 to 200 bytes of UTF-8 without control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name(String);

impl Name {
    /// In bytes, so that no backend has to shorten a name.
    pub(crate) const LONGEST: usize = 200;

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadName {
    Empty,
    /// With as many bytes.
    TooLong(usize),
    ControlCharacter,
}

impl std::str::FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        if text.is_empty() {
            Err(BadName::Empty)
        } else if text.len() > Self::LONGEST {
            Err(BadName::TooLong(text.len()))
        } else if text.chars().any(char::is_control) {
            Err(BadName::ControlCharacter)
        } else {
            Ok(Self(text.into()))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A permit that was granted, written `UUID@NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PermitId {
    pub(crate) id: Uuid,
    pub(crate) name: Name,
    /// Grows with every grant of this semaphore, so that storage can reject an older holder.
    /// None where the backend has no such number.
    pub(crate) token: Option<u64>,
}

impl PermitId {
    /// A permit without a known token.
    pub(crate) fn of(name: &Name, id: Uuid) -> Self {
        Self { id, name: name.clone(), token: None }
    }

    /// The permits in `SEMRUN_HELD`, outermost first; what is no permit is left out.
    pub(crate) fn read_held(text: &str) -> Vec<(Uuid, Name)> {
        let entry = |word: &str| {
            let (_, permit) = word.split_once('#')?;
            let permit = percent_decode_str(permit).decode_utf8().ok()?;
            let (id, name) = permit.split_once('@')?;
            Some((id.parse().ok()?, name.parse().ok()?))
        };
        text.split(' ').filter_map(entry).collect()
    }

    /// The permit with its backend as one word without spaces, for `SEMRUN_HELD`.
    pub(crate) fn with_backend(&self, url: &str) -> String {
        const READABLE: &AsciiSet =
            &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');
        const WORD: &AsciiSet = &READABLE.remove(b'/').remove(b'@');
        let permit = self.to_string();
        format!("{}#{}", utf8_percent_encode(url, WORD), utf8_percent_encode(&permit, WORD))
    }
}

impl fmt::Display for PermitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.name)
    }
}
