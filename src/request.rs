//! One request about one semaphore, and its answer: all that a client and a lease server say to
//! each other about permits. A new thing that can be asked of a semaphore is a field here.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use crate::backends::{ClientInfo, QueueStatus, Record, Revocation, Withheld};
use crate::clock::{self, Moment};

/// A request. Repeating it changes nothing: the permit's id makes it the same one.
#[derive(Debug, Clone)]
pub struct Request {
    /// What is asked for.
    pub operation: Operation,
    /// The identity of the permit; nil where a request is about none.
    pub id: Uuid,
    /// The limit and the TTL that are asked for, or those that the semaphore's users agreed on: a
    /// server that has forgotten them learns them from its holders.
    pub limit: u32,
    /// See the limit.
    pub ttl: Duration,
    /// Fail if other terms are in force.
    pub strict: bool,
    /// Do not join the queue.
    pub nonblock: bool,
    /// For how long a permit stays taken, from its grant, or from now where the grant is forgotten.
    pub min_hold: Duration,
    /// How many replicas must be in step with the server.
    pub replicas: u32,
    /// For how long a server that remembers nothing grants nothing; none: as the store sees fit.
    pub quarantine: Option<Duration>,
    /// For how long the client counts as waiting unless it asks again.
    pub window: Duration,
    /// The place in the queue that it has had, or 0, and the proof of it.
    pub ticket: u64,
    /// Opaque to the client; empty where the store needs none.
    pub seal: String,
    /// The fencing token that it has, or 0.
    pub token: u64,
    /// The client that is told when there is something new about the permit; nil: none is.
    pub listener: Uuid,
    /// What others may see of the client.
    pub client: Option<Arc<ClientInfo>>,
}

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Joins the queue, or confirms a grant.
    Acquire,
    /// Extends a lease by a TTL from now.
    Renew,
    /// Gives a permit back, or leaves the queue.
    Release,
    /// Leaves the queue, or releases a permit that its client has never used.
    Leave,
    /// Renews a detached permit.
    Attach,
    /// Releases a detached permit.
    ReleaseDetached,
    /// Revokes a permit of any client.
    Revoke(Revocation),
    /// Pins the limit of the request.
    Pin,
    /// The limit is that of the users again.
    Unpin,
}

/// The result of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The client holds the permit, for a TTL from now.
    Holding,
    /// It is in the queue.
    Waiting,
    /// No permit was free, and the client does not wait.
    Busy,
    /// Another limit or TTL is in force, and the client is strict.
    Differs,
    /// The permit was revoked gracefully, now or before.
    Revoked,
    /// It was held, and has been released now.
    Released,
    /// The request had been carried out before.
    Done,
    /// This client does not hold it, or not any more.
    Lost,
}

/// The answer to a request.
#[derive(Debug, Clone)]
pub struct Reply {
    /// What became of the request.
    pub outcome: Outcome,
    /// The fencing token of a holder, or 0.
    pub token: u64,
    /// The place of a waiter, or 0, and the proof of it.
    pub ticket: u64,
    /// See the ticket.
    pub seal: String,
    /// How many waiters are before it.
    pub ahead: usize,
    /// How many permits are held.
    pub held: usize,
    /// How many permits clients of another kind hold.
    pub foreign: usize,
    /// When it is worth to ask again, unless a wake-up comes before.
    pub next: Option<Duration>,
    /// The limit in force.
    pub limit: u32,
    /// Whether that is a pinned one.
    pub pinned: bool,
    /// The limit that the semaphore's users have agreed on.
    pub agreed: u32,
    /// The TTL in force.
    pub ttl: Duration,
    /// The rest of the time for which the permit stays taken.
    pub min_hold: Duration,
    /// How many replicas must be in step: the most that one of its users asks for.
    pub replicas: u32,
    /// For how long no permit is granted.
    pub paused: Option<Duration>,
    /// For a waiter: the client that has held a permit for the longest time. For an attached permit:
    /// its own client.
    pub record: Option<Record>,
    /// Of a holder without a record: the label of its API key, where that is known.
    pub key: Option<String>,
    /// Until when that permit stays taken, if it was released.
    pub kept_until: Option<SystemTime>,
    /// Which server answered, where servers tell themselves apart.
    pub server: Option<Uuid>,
    /// Whether the server does not say which one it is.
    pub blind: bool,
    /// A moment before the request was sent.
    pub since: Moment,
}

impl Request {
    /// A request that does not ask for a permit.
    pub(crate) fn of(operation: Operation, id: Uuid) -> Self {
        Self {
            operation,
            id,
            limit: 1,
            ttl: Duration::from_secs(5),
            strict: false,
            nonblock: false,
            min_hold: Duration::ZERO,
            replicas: 0,
            quarantine: None,
            window: Duration::from_secs(5),
            ticket: 0,
            seal: String::new(),
            token: 0,
            listener: Uuid::nil(),
            client: None,
        }
    }
}

impl Reply {
    /// An answer without any details.
    #[must_use]
    pub fn new(outcome: Outcome) -> Self {
        Self::of(outcome, clock::now())
    }

    pub(crate) fn of(outcome: Outcome, since: Moment) -> Self {
        Self {
            outcome,
            token: 0,
            ticket: 0,
            seal: String::new(),
            ahead: 0,
            held: 0,
            foreign: 0,
            next: None,
            limit: 1,
            pinned: false,
            agreed: 1,
            ttl: Duration::ZERO,
            min_hold: Duration::ZERO,
            replicas: 0,
            paused: None,
            record: None,
            key: None,
            kept_until: None,
            server: None,
            blind: false,
            since,
        }
    }

    /// Why a permit that is free is not granted.
    pub(crate) fn withheld(&self) -> Option<Withheld> {
        self.paused.filter(|_| self.held < self.limit as usize).map(Withheld::Quarantine)
    }

    pub(crate) fn queue_status(&self) -> QueueStatus {
        QueueStatus {
            ahead: self.ahead,
            held: self.held,
            holder: self.record.clone(),
            key: self.key.clone(),
            kept_until: self.kept_until,
            withheld: self.withheld(),
        }
    }
}
