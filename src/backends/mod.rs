//! What a backend owes: it hands out permits of named semaphores. The traits [`Backend`] and
//! [`Lease`] are the contract in words, `contract.rs` is the same as tests. Backends know nothing
//! of processes, exit codes or the words that people read.

pub(crate) mod cloud;
pub(crate) mod connect;
mod leased;
pub(crate) mod ledger;
pub(crate) mod local;
pub(crate) mod redis;
mod renewal;
pub(crate) mod tls;
mod trouble;

// What every other backend is compared with.
#[cfg(test)]
mod contract;
#[cfg(test)]
mod memory;

use std::fmt;
use std::future::Future;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::clock::{self, Moment};

/// A future on semrun's one thread.
pub(crate) type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Hands out permits of named counting semaphores.
pub(crate) trait Backend {
    /// Waits in turn for a permit: first come, first served. Never more than the semaphore's
    /// limit are held at once. Busy (see [`Ask::nonblock`]) and cancelled are values, not errors.
    ///
    /// `cancel` leaves the queue before it returns, within a second. A permit that was granted
    /// is returned or given back if `cancel` came at the same moment. An error leaves nothing
    /// behind that does not go by itself.
    fn acquire<'a>(
        &'a self,
        ask: &'a Ask,
        turn: &'a Turn,
        cancel: Cancel,
    ) -> Pending<'a, Result<Acquired, Error>>;

    /// Who holds and who waits. A name that nobody uses is an empty snapshot, and asking
    /// creates nothing.
    fn observe<'a>(&'a self, name: &'a Name) -> Pending<'a, Result<Snapshot, Error>>;

    /// The semaphores that this backend knows, in the order of their names.
    fn list(&self) -> Pending<'_, Result<Vec<Name>, Error>>;

    /// Gives back whatever somebody has under this identity, a permit or a place in the queue.
    /// For one who has died without that; `patience` bounds how long it is tried.
    fn withdraw<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        patience: Duration,
    ) -> Pending<'a, Result<(), Error>>;

    /// Whether one who waits hears regularly how things stand, so that looking adds nothing.
    fn reports(&self) -> bool;

    /// Where the permits live, as a URL that may be shown: without secrets.
    fn url(&self) -> String;
}

/// A permit that is held. Dropping it without a release is what a crash does.
pub(crate) trait Lease {
    fn permit(&self) -> &Permit;

    /// Until when the permit is certainly ours; moves with each renewal. None: it cannot expire.
    fn tenure(&self) -> Option<watch::Receiver<Tenure>>;

    /// Renews the permit as long as it is polled, and is ready once the permit is known to be
    /// lost. That it cannot be renewed is not known from this but from [`Lease::tenure`].
    /// Cancel-safe.
    fn lost(&mut self) -> Pending<'_, Lost>;

    /// A descriptor that the command's whole tree must inherit: the permit is taken as long as
    /// any process keeps it open.
    fn inherit(&self) -> Option<BorrowedFd<'_>>;

    /// Gives the permit back; the next waiter is told at once. `patience` bounds how long it is
    /// tried.
    fn release(self: Box<Self>, patience: Duration) -> Pending<'static, Result<(), Error>>;
}

/// How long a permit is certainly ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tenure {
    /// Before the last request that renewed it was sent: the server counts from later on.
    pub(crate) since: Moment,
    /// For how long from then.
    pub(crate) ttl: Duration,
    /// Why it has not been renewed since, if that was tried.
    pub(crate) trouble: Option<String>,
}

impl Tenure {
    /// What cannot be done when a permit cannot be given back.
    fn giving_back(&self, permit: &Permit) -> String {
        let left = (self.since + self.ttl).saturating_sub(clock::now()).as_secs();
        let when = if left == 0 { "by now".into() } else { format!("in {left}s") };
        format!("give back {permit}, whose lease ends by itself {when}")
    }
}

/// A permit is not ours any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) why: String,
    /// Whether it went at this moment, and somebody else may begin just now.
    pub(crate) just_now: bool,
}

impl Lost {
    /// The backend does not know the permit any more.
    fn some_time_ago() -> Self {
        let why = "it ran out, or was taken away, and may be somebody else's by now".into();
        Self { why, just_now: false }
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

impl std::str::FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            Err("a name cannot be empty".into())
        } else if text.len() > Self::LONGEST {
            Err(format!("a name has at most {} bytes, this one has {}", Self::LONGEST, text.len()))
        } else if text.chars().any(char::is_control) {
            Err("a name cannot contain control characters".into())
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

/// What is asked of a backend.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) name: Name,
    /// The permit's identity, chosen by the one who asks.
    pub(crate) id: Uuid,
    /// Permits in all. While a semaphore is in use its own limit stands; see [`Notice::Limit`].
    pub(crate) limit: u32,
    /// The lease, where permits can expire. It stands as the limit does; see [`Notice::Ttl`].
    pub(crate) ttl: Duration,
    /// Another limit or lease that stands is an error.
    pub(crate) strict: bool,
    /// Do not wait: if no permit is free at once, return [`Acquired::Busy`] and leave no trace.
    pub(crate) nonblock: bool,
    pub(crate) who: Who,
}

/// The answer to an [`Ask`].
pub(crate) enum Acquired {
    Granted(Box<dyn Lease>),
    Busy,
    Cancelled,
}

/// A permit that was granted, written `UUID@NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Permit {
    pub(crate) id: Uuid,
    pub(crate) name: Name,
    /// Grows with every grant of this semaphore, so that storage can reject an older holder.
    /// None where the backend has no such number.
    pub(crate) token: Option<u64>,
}

impl Permit {
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

impl fmt::Display for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.name)
    }
}

/// Who holds or waits, as others may see it. Never an argument of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Who {
    pub(crate) label: String,
    pub(crate) host: String,
    pub(crate) pid: u32,
    pub(crate) user: String,
}

/// A semaphore at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) name: Name,
    /// The limit in force; none while nobody uses the semaphore, or only foreign clients do.
    pub(crate) limit: Option<u32>,
    /// The lease in force, where permits can expire.
    pub(crate) ttl: Option<Duration>,
    /// For how long from now nobody is granted a permit, whatever is free.
    pub(crate) paused: Option<Duration>,
    /// In the order of their grants.
    pub(crate) holders: Vec<Holder>,
    /// In the order of the queue.
    pub(crate) waiters: Vec<Waiter>,
}

impl Snapshot {
    pub(crate) fn unused(name: &Name) -> Self {
        Self {
            name: name.clone(),
            limit: None,
            ttl: None,
            paused: None,
            holders: Vec::new(),
            waiters: Vec::new(),
        }
    }

    /// Whether all permits are taken; `asked` is the limit where none is in force.
    pub(crate) fn full(&self, asked: u32) -> bool {
        self.holders.len() >= self.limit.unwrap_or(asked) as usize
    }

    /// The permit with this identity, if it is held.
    pub(crate) fn held(&self, id: Uuid) -> Option<Permit> {
        let holder = self.holders.iter().find(|holder| holder.id() == Some(id))?;
        Some(Permit { id, name: self.name.clone(), token: holder.token() })
    }
}

/// Who holds a permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    Known {
        token: Option<u64>,
        /// None when the record cannot be read; the permit is taken all the same.
        record: Option<Record>,
        /// What is left of its lease, where there is one.
        left: Option<Duration>,
    },
    /// A client of another kind, which leaves nothing but its permit's identity.
    Foreign { permit: String, left: Option<Duration> },
}

impl Holder {
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

    fn id(&self) -> Option<Uuid> {
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
    pub(crate) record: Option<Record>,
}

impl Waiter {
    pub(crate) fn known(record: Option<Record>) -> Self {
        Self { foreign: None, record }
    }

    pub(crate) fn foreign(permit: String) -> Self {
        Self { foreign: Some(permit), record: None }
    }
}

/// What a holder or waiter leaves for others to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) permit: Uuid,
    #[serde(flatten)]
    pub(crate) who: Who,
    /// By the wall clock, for people; nothing is decided by it.
    #[serde(with = "millis")]
    pub(crate) since: SystemTime,
}

impl Record {
    pub(crate) fn new(ask: &Ask) -> Self {
        Self::at(ask.id, ask.who.clone(), SystemTime::now())
    }

    pub(crate) fn at(permit: Uuid, who: Who, since: SystemTime) -> Self {
        // Records are kept in milliseconds, and one that was just made equals itself read back.
        Self { permit, who, since: millis::truncate(since) }
    }
}

/// What a backend has to say while somebody waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    /// We are in the queue, or our place in it may have changed.
    Queued(Standing),
    /// Another limit stands and counts.
    Limit { asked: u32, stands: u32 },
    /// Another lease stands and counts.
    Ttl { asked: Duration, stands: Duration },
    /// Clients of another kind hold permits of it.
    Foreign { ttl: Duration },
    /// The backend may not tell us whether it was restarted and forgot its permits.
    Blind,
    /// The backend does not answer, or not as it should, and is tried again: `what` fits behind
    /// a colon. It may last if an error does not end it soon.
    Trouble { what: String, may_last: bool },
}

/// How things stand for one who waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// How many are served before us.
    pub(crate) ahead: usize,
    /// How many permits are held.
    pub(crate) held: usize,
    /// Who has held one for the longest time.
    pub(crate) holder: Option<Record>,
    /// For how long nobody is granted one.
    pub(crate) paused: Option<Duration>,
}

impl Standing {
    /// None: we do not wait there any more.
    pub(crate) fn of(snapshot: &Snapshot, id: Uuid) -> Option<Self> {
        let ours = |waiter: &Waiter| waiter.record.as_ref().is_some_and(|who| who.permit == id);
        let ahead = snapshot.waiters.iter().position(ours)?;
        let holder = snapshot.holders.first().and_then(|holder| holder.record().cloned());
        Some(Self { ahead, held: snapshot.holders.len(), holder, paused: snapshot.paused })
    }
}

/// Where notices go.
#[derive(Debug, Clone)]
pub(crate) struct Turn(mpsc::UnboundedSender<Notice>);

impl Turn {
    pub(crate) fn channel() -> (Self, mpsc::UnboundedReceiver<Notice>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Nobody may be listening any more; that is no trouble of the backend.
    pub(crate) fn tell(&self, notice: Notice) {
        let _ = self.0.send(notice);
    }
}

/// The waiting side of a cancellation.
#[derive(Debug, Clone)]
pub(crate) struct Cancel(watch::Receiver<bool>);

/// The end of a cancellation that calls it off. Dropping it cancels nothing.
#[derive(Debug)]
pub(crate) struct Canceller(watch::Sender<bool>);

impl Cancel {
    pub(crate) fn pair() -> (Canceller, Self) {
        let (sender, receiver) = watch::channel(false);
        (Canceller(sender), Self(receiver))
    }

    /// Does something unless it is called off; dropping it has to be enough. A result that came
    /// at the same moment is returned.
    pub(crate) async fn or<T>(mut self, doing: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = doing => Some(done),
            () = self.cancelled() => None,
        }
    }

    /// Ready once it is called off.
    pub(crate) async fn cancelled(&mut self) {
        if self.0.wait_for(|cancelled| *cancelled).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Canceller {
    pub(crate) fn cancel(&self) {
        let _ = self.0.send(true);
    }
}

/// Why a backend could not do what was asked, by what the caller can do about it.
#[derive(Debug)]
pub(crate) struct Error {
    pub(crate) kind: ErrorKind,
    /// The URL, without secrets.
    pub(crate) backend: String,
    /// What failed, and what to try.
    pub(crate) what: String,
    pub(crate) source: Option<std::io::Error>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// It cannot be reached or refused us, now: another attempt may succeed.
    Unavailable,
    /// It cannot do this at all.
    Unsupported,
    /// What stands there is not what was asked for, and nothing else would do.
    Differs,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.backend, self.what)?;
        match &self.source {
            Some(source) => write!(f, " ({source})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// Times as milliseconds since the epoch.
mod millis {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn truncate(time: SystemTime) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(since_epoch(time))
    }

    fn since_epoch(time: SystemTime) -> u64 {
        let elapsed = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(since_epoch(*time))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        let millis = u64::deserialize(from)?;
        // A record that others may have written: a time beyond reason must not panic.
        Ok(at(millis))
    }

    pub(super) fn at(millis: u64) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(UNIX_EPOCH)
    }
}
