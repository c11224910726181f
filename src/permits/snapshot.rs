//! A semaphore as others may see it: holders and waiters, and since when. Nothing is decided by it.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{AcquireRequest, Name, PermitId, StoreError, sanitize};

/// A holder or waiter, as others may see it. Never an argument of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientInfo {
    #[serde(deserialize_with = "sanitize::text")]
    /// What the client calls itself: the name of its command, say.
    pub label: String,
    #[serde(deserialize_with = "sanitize::text")]
    /// The name of its host.
    pub host: String,
    /// Its process, there.
    pub pid: u32,
    #[serde(deserialize_with = "sanitize::text")]
    /// The user whose process it is.
    pub user: String,
    /// Whether the permit is to outlive the process that asks for it, as long as its lease is renewed
    /// (`semrun renew`): on every backend it has one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detached: bool,
}

/// A semaphore at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SemaphoreSnapshot {
    pub(crate) name: Name,
    /// Whether this name was ever used, as far as the backend remembers.
    pub(crate) known: bool,
    /// The limit in force; none while the semaphore is idle, or only foreign clients use it.
    pub(crate) limit: Option<u32>,
    /// Whether that limit is pinned; then it is there also while the semaphore is idle.
    pub(crate) pinned: bool,
    /// The lease in force, where permits can expire.
    pub(crate) ttl: Option<Duration>,
    /// Why no permit is granted now, whatever is free.
    pub(crate) withheld: Option<Withheld>,
    /// In the order of their grants.
    pub(crate) holders: Vec<Holder>,
    /// In the order of the queue.
    pub(crate) waiters: Vec<Waiter>,
    /// Which of its values is impossible, or why it could not be looked at.
    pub(crate) odd: Option<StoreError>,
}

impl SemaphoreSnapshot {
    pub(crate) fn unused(name: &Name) -> Self {
        Self {
            name: name.clone(),
            known: false,
            limit: None,
            pinned: false,
            ttl: None,
            withheld: None,
            holders: Vec::new(),
            waiters: Vec::new(),
            odd: None,
        }
    }

    /// One among many that could not be looked at, which must not hide the others.
    pub(crate) fn odd(name: &Name, why: StoreError) -> Self {
        Self { known: true, odd: Some(why), ..Self::unused(name) }
    }

    /// Whether all permits are taken, or none is granted yet, or that is not known; `asked` is the limit
    /// where none is in force.
    pub(crate) fn full(&self, asked: u32) -> bool {
        self.odd.is_some()
            || self.withheld.is_some()
            || self.holders.len() >= self.limit.unwrap_or(asked) as usize
    }

    /// The holder of the permit with this identity.
    pub(crate) fn holder(&self, id: Uuid) -> Option<&Holder> {
        self.holders.iter().find(|holder| holder.id() == Some(id))
    }

    /// The permit with this identity, if it is held and is to stay so.
    pub(crate) fn held(&self, id: Uuid) -> Option<PermitId> {
        let holder = self.holder(id).filter(|holder| holder.state() == HolderState::Holding)?;
        Some(PermitId { id, name: self.name.clone(), token: holder.token() })
    }
}

/// The holder of a permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    Known {
        token: Option<u64>,
        /// None when the record cannot be read; the permit is taken all the same.
        record: Option<Record>,
        phase: HolderState,
        /// What is left of its lease, or of the time for which it is kept, where there is one.
        left: Option<Duration>,
    },
    /// A client of another kind, which leaves only its permit's identity; a server of ours knows
    /// the label of its API key.
    Foreign { permit: String, left: Option<Duration>, key: Option<String> },
}

/// How a permit is held. The other words are those of older journals.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HolderState {
    #[default]
    #[serde(alias = "held")]
    /// It is renewed.
    Holding,
    /// It was revoked gently, and its holder has not gone yet.
    #[serde(alias = "evicted")]
    Revoking,
    /// It was given back, or its holder died, and it stays taken for a while ([`Terms::min_hold`](crate::custom_store::Terms::min_hold)).
    #[serde(alias = "kept")]
    MinHold,
}

impl Holder {
    /// A holder, but who it is, and for how long, cannot be read.
    pub(crate) fn unknown() -> Self {
        Self::Known { token: None, record: None, phase: HolderState::Holding, left: None }
    }

    pub(crate) fn state(&self) -> HolderState {
        match self {
            Self::Known { phase, .. } => *phase,
            Self::Foreign { .. } => HolderState::Holding,
        }
    }

    pub(crate) fn token(&self) -> Option<u64> {
        match self {
            Self::Known { token, .. } => *token,
            Self::Foreign { .. } => None,
        }
    }

    pub(crate) fn record(&self) -> Option<&Record> {
        match self {
            Self::Known { record, .. } => record.as_ref(),
            Self::Foreign { .. } => None,
        }
    }

    pub(crate) fn left(&self) -> Option<Duration> {
        match self {
            Self::Known { left, .. } | Self::Foreign { left, .. } => *left,
        }
    }

    pub(crate) fn id(&self) -> Option<Uuid> {
        match self {
            Self::Known { record, .. } => record.as_ref().map(|record| record.permit),
            Self::Foreign { permit, .. } => permit.parse().ok(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiter {
    /// What a client of another kind leaves: its permit's identity.
    pub(crate) foreign: Option<String>,
    /// The label of its API key, where that is known of such a client.
    pub(crate) key: Option<String>,
    pub(crate) record: Option<Record>,
}

impl Waiter {
    pub(crate) fn known(record: Option<Record>) -> Self {
        Self { foreign: None, key: None, record }
    }

    pub(crate) fn foreign(permit: &str, key: Option<String>) -> Self {
        Self { foreign: Some(sanitize::identity(permit)), key, record: None }
    }
}

/// What a holder or waiter leaves for others to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredRecord")]
pub struct Record {
    /// The identity of its permit.
    pub permit: Uuid,
    #[serde(flatten)]
    /// Who it is.
    pub who: ClientInfo,
    /// By the wall clock, for people; nothing is decided by it.
    #[serde(with = "millis")]
    pub since: SystemTime,
}

impl Record {
    pub(crate) fn new(request: &AcquireRequest) -> Self {
        Self::at(request.id, request.who.clone(), SystemTime::now())
    }

    /// The record of a permit.
    pub fn at(permit: Uuid, who: ClientInfo, since: SystemTime) -> Self {
        // Records are kept in milliseconds, and one that was just made equals itself read back.
        Self { permit, who, since: millis::truncate(since) }
    }
}

/// A record as it is written. It has no flattened field, as these take several times as long to
/// read, and `status` reads thousands.
#[derive(Deserialize)]
struct StoredRecord {
    permit: Uuid,
    #[serde(deserialize_with = "sanitize::text")]
    label: String,
    #[serde(deserialize_with = "sanitize::text")]
    host: String,
    pid: u32,
    #[serde(deserialize_with = "sanitize::text")]
    user: String,
    #[serde(default)]
    detached: bool,
    #[serde(with = "millis")]
    since: SystemTime,
}

impl From<StoredRecord> for Record {
    fn from(written: StoredRecord) -> Self {
        let StoredRecord { permit, label, host, pid, user, detached, since } = written;
        Self { permit, who: ClientInfo { label, host, pid, user, detached }, since }
    }
}

/// Why no permit is granted although one may be free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Withheld {
    /// For so long from now: holders which the server may have forgotten can report meanwhile.
    Quarantine(Duration),
    /// Until more of the server's replicas are in step with it. It may not be the primary any more.
    Replicas { in_step: u32, needed: u32 },
}

impl Withheld {
    /// For how long, where that is known.
    pub(crate) fn left(self) -> Option<Duration> {
        match self {
            Self::Quarantine(left) => Some(left),
            Self::Replicas { .. } => None,
        }
    }
}

/// How things stand for a waiter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct QueueStatus {
    /// How many are served before us.
    pub(crate) ahead: usize,
    /// How many permits are held.
    pub(crate) held: usize,
    /// The one that has held for the longest time.
    pub(crate) holder: Option<Record>,
    /// Of a holder that left no record: the label of its API key, where that is known.
    pub(crate) key: Option<String>,
    /// That holder has given it back, and it stays taken until then, for people.
    pub(crate) kept_until: Option<SystemTime>,
    /// Why none is granted that is free.
    pub(crate) withheld: Option<Withheld>,
}

impl QueueStatus {
    /// None: we are not in its queue any more.
    pub(crate) fn of(snapshot: &SemaphoreSnapshot, id: Uuid) -> Option<Self> {
        let now = SystemTime::now();
        let ours = |waiter: &Waiter| waiter.record.as_ref().is_some_and(|who| who.permit == id);
        let ahead = snapshot.waiters.iter().position(ours)?;
        let oldest = snapshot.holders.first();
        let holder = oldest.and_then(|holder| holder.record().cloned());
        let kept = oldest.filter(|holder| holder.state() == HolderState::MinHold);
        let kept_until = kept.and_then(Holder::left).and_then(|left| now.checked_add(left));
        let key = match oldest {
            Some(Holder::Foreign { key, .. }) => key.clone(),
            _ => None,
        };
        let held = snapshot.holders.len();
        let free = snapshot.limit.is_none_or(|limit| held < limit as usize);
        let withheld = snapshot.withheld.filter(|_| free);
        Some(Self { ahead, held, holder, key, kept_until, withheld })
    }
}

/// Times as milliseconds since the epoch.
pub(crate) mod millis {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn truncate(time: SystemTime) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(since_epoch(time))
    }

    fn since_epoch(time: SystemTime) -> u64 {
        let elapsed = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn serialize<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(since_epoch(*time))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        let millis = u64::deserialize(from)?;
        // A record that others may have written: a time beyond reason must not panic.
        Ok(at(millis))
    }

    pub(crate) fn at(millis: u64) -> SystemTime {
        // The year 9999 is the last one that can be written.
        const LAST: u64 = 253_402_300_799_999;
        UNIX_EPOCH + Duration::from_millis(if millis <= LAST { millis } else { 0 })
    }
}
