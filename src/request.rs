//! One request about one semaphore, and its answer: all that a client and a lease server say to
//! each other about permits. A new thing that can be asked of a semaphore is a field here.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use crate::backends::{ClientInfo, QueueStatus, Record, Revocation, Withheld};
use crate::clock::Moment;

/// A request. Repeating it changes nothing: the permit's id makes it the same one.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) operation: Operation,
    /// The identity of the permit; nil where a request is about none.
    pub(crate) id: Uuid,
    /// The limit and the TTL that are asked for, or those that the semaphore's users agreed on: a
    /// server that has forgotten them learns them from its holders.
    pub(crate) limit: u32,
    pub(crate) ttl: Duration,
    /// Fail if other terms are in force.
    pub(crate) strict: bool,
    /// Do not join the queue.
    pub(crate) nonblock: bool,
    /// For how long a permit stays taken, from its grant, or from now where the grant is forgotten.
    pub(crate) min_hold: Duration,
    /// How many replicas must be in step with the server.
    pub(crate) replicas: u32,
    /// For how long a server that remembers nothing grants nothing; none: as the store sees fit.
    pub(crate) quarantine: Option<Duration>,
    /// For how long the client counts as waiting unless it asks again.
    pub(crate) window: Duration,
    /// The place in the queue that it has had, or 0, and the proof of it.
    pub(crate) ticket: u64,
    pub(crate) seal: String,
    /// The fencing token that it has, or 0.
    pub(crate) token: u64,
    /// The client that is told when there is something new about the permit; nil: none is.
    pub(crate) listener: Uuid,
    /// What others may see of the client.
    pub(crate) client: Option<Arc<ClientInfo>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Joins the queue, or confirms a grant.
    Acquire,
    Renew,
    Release,
    /// Leaves the queue, or releases a permit that its client has never used.
    Leave,
    /// Renews a detached permit.
    Attach,
    /// Releases a detached permit.
    ReleaseDetached,
    Revoke(Revocation),
    /// Pins the limit of the request.
    Pin,
    Unpin,
}

/// The result of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Holding,
    Waiting,
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
pub(crate) struct Reply {
    pub(crate) outcome: Outcome,
    /// The fencing token of a holder, or 0.
    pub(crate) token: u64,
    /// The place of a waiter, or 0, and the proof of it.
    pub(crate) ticket: u64,
    pub(crate) seal: String,
    /// How many waiters are before it.
    pub(crate) ahead: usize,
    pub(crate) held: usize,
    /// How many permits clients of another kind hold.
    pub(crate) foreign: usize,
    /// When it is worth to ask again, unless a wake-up comes before.
    pub(crate) next: Option<Duration>,
    /// The limit in force.
    pub(crate) limit: u32,
    pub(crate) pinned: bool,
    /// The limit that the semaphore's users have agreed on.
    pub(crate) agreed: u32,
    pub(crate) ttl: Duration,
    /// The rest of the time for which the permit stays taken.
    pub(crate) min_hold: Duration,
    /// How many replicas must be in step: the most that one of its users asks for.
    pub(crate) replicas: u32,
    /// For how long no permit is granted.
    pub(crate) paused: Option<Duration>,
    /// For a waiter: the client that has held a permit for the longest time. For an attached permit:
    /// its own client.
    pub(crate) record: Option<Record>,
    /// Of a holder without a record: the label of its API key, where that is known.
    pub(crate) key: Option<String>,
    /// Until when that permit stays taken, if it was released.
    pub(crate) kept_until: Option<SystemTime>,
    /// Which server answered, where servers tell themselves apart.
    pub(crate) server: Option<Uuid>,
    /// Whether the server does not say which one it is.
    pub(crate) blind: bool,
    /// A moment before the request was sent.
    pub(crate) since: Moment,
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
