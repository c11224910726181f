//! One request about one semaphore, and its answer: all that a client and a lease server say to
//! each other about permits. A new thing that can be asked of a semaphore is a field of [`Terms`]. As
//! JSON, times are whole milliseconds, and what is left out is 0, false, empty or null.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::{self, Moment};
use crate::permits::json::{is_default, millis};
use crate::permits::{ClientInfo, QueueStatus, Record, Revocation, Terms, Withheld};

/// A request. Repeating it changes nothing: the permit's id makes it the same one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// What is asked for.
    pub operation: Operation,
    /// The identity of the permit; nil where a request is about none.
    pub id: Uuid,
    /// What is asked for; of a holder what it has, with the limit and the TTL that the semaphore's
    /// users agreed on: a server that has forgotten them learns them from its holders.
    #[serde(flatten)]
    pub terms: Terms,
    /// Do not join the queue.
    #[serde(default, skip_serializing_if = "is_default")]
    pub nonblock: bool,
    /// How many replicas must be in step with the server.
    #[serde(default, skip_serializing_if = "is_default")]
    pub replicas: u32,
    /// For how long a server that remembers nothing grants nothing; none: as the store sees fit.
    #[serde(
        rename = "quarantine_ms",
        with = "millis",
        default,
        skip_serializing_if = "is_default"
    )]
    pub quarantine: Option<Duration>,
    /// For how long the client counts as waiting unless it asks again.
    #[serde(rename = "window_ms", with = "millis", default)]
    pub window: Duration,
    /// The place in the queue that it has had, or 0, and the proof of it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ticket: u64,
    /// See the ticket. Opaque to the client; empty where the store needs none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub seal: String,
    /// The fencing token that it has, or 0.
    #[serde(default, skip_serializing_if = "is_default")]
    pub token: u64,
    /// The client that is told when there is something new about the permit; nil: none is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub listener: Uuid,
    /// What others may see of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Arc<ClientInfo>>,
}

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reply {
    /// What became of the request.
    pub outcome: Outcome,
    /// The fencing token of a holder, or 0.
    #[serde(default, skip_serializing_if = "is_default")]
    pub token: u64,
    /// The place of a waiter, or 0, and the proof of it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ticket: u64,
    /// See the ticket. Opaque to the client; empty where the store needs none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub seal: String,
    /// How many waiters are before it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ahead: usize,
    /// How many permits are held.
    #[serde(default, skip_serializing_if = "is_default")]
    pub held: usize,
    /// How many permits clients of another kind hold.
    #[serde(default, skip_serializing_if = "is_default")]
    pub foreign: usize,
    /// When it is worth to ask again, unless a wake-up comes before.
    #[serde(rename = "next_ms", with = "millis", default, skip_serializing_if = "is_default")]
    pub next: Option<Duration>,
    /// The limit and the TTL in force; for a holder what its permit has besides.
    #[serde(flatten)]
    pub terms: Terms,
    /// Whether the limit is a pinned one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pinned: bool,
    /// The limit that the semaphore's users have agreed on.
    #[serde(default)]
    pub agreed: u32,
    /// How many replicas must be in step: the most that one of its users asks for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub replicas: u32,
    /// For how long no permit is granted.
    #[serde(rename = "paused_ms", with = "millis", default, skip_serializing_if = "is_default")]
    pub paused: Option<Duration>,
    /// For a waiter: the client that has held a permit for the longest time. For an attached permit:
    /// its own client.
    #[serde(default, skip_serializing_if = "is_default")]
    pub record: Option<Record>,
    /// Of a holder without a record: the label of its API key, where that is known.
    #[serde(default, skip_serializing_if = "is_default")]
    pub key: Option<String>,
    /// Until when that permit stays taken, if it was released.
    #[serde(rename = "kept_ms", with = "millis", default, skip_serializing_if = "is_default")]
    pub kept_until: Option<SystemTime>,
    /// Which server answered, where servers tell themselves apart.
    #[serde(default, skip_serializing_if = "is_default")]
    pub server: Option<Uuid>,
    /// Whether the server does not say which one it is.
    #[serde(skip)]
    pub blind: bool,
    /// A moment before the request was sent.
    #[serde(skip)]
    pub since: Moment,
}

impl Request {
    /// A request that does not ask for a permit.
    pub(crate) fn of(operation: Operation, id: Uuid) -> Self {
        Self {
            operation,
            id,
            terms: Terms { ttl: Terms::SHORTEST_TTL, ..Terms::default() },
            nonblock: false,
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

    /// The same with other terms.
    #[cfg(test)]
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Terms)) -> Self {
        change(&mut self.terms);
        self
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
            terms: Terms { ttl: Duration::ZERO, ..Terms::default() },
            pinned: false,
            agreed: 1,
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

    /// What a holder has, for a server that has forgotten it.
    pub(crate) fn granted_terms(&self) -> Terms {
        Terms { limit: self.agreed, ..self.terms }
    }

    /// Why a permit that is free is not granted.
    pub(crate) fn withheld(&self) -> Option<Withheld> {
        self.paused.filter(|_| self.held < self.terms.limit as usize).map(Withheld::Quarantine)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_goes_over_the_wire_is_what_was_said_and_nothing_that_only_one_end_knows() {
        let time = Duration::from_millis;
        let mut request = Request::of(Operation::Revoke(Revocation::Graceful), Uuid::nil());
        (request.terms.min_hold, request.quarantine) = (time(1), Some(Duration::ZERO));
        let written = serde_json::to_value(&request).unwrap();
        let expected = json!({
            "operation": { "revoke": "gently" }, "id": Uuid::nil(), "limit": 1, "ttl_ms": 5_000,
            "min_hold_ms": 1, "quarantine_ms": 0, "window_ms": 5_000,
        });
        assert_eq!(written, expected);
        let read: Request = serde_json::from_value(written).unwrap();
        assert_eq!(read.terms, request.terms);
        assert_eq!((read.quarantine, read.operation), (request.quarantine, request.operation));

        let mut reply = Reply::of(Outcome::Waiting, time(7));
        (reply.blind, reply.next, reply.ticket) = (true, Some(time(20)), 9);
        reply.kept_until = Some(SystemTime::now() + Duration::from_hours(1));
        let mut written = serde_json::to_value(&reply).unwrap();
        let kept = written["kept_ms"].take().as_u64().unwrap();
        assert!((3_500_000..=3_600_000).contains(&kept), "{kept}");
        let expected = json!({
            "outcome": "waiting", "ticket": 9, "next_ms": 20, "limit": 1, "agreed": 1,
            "kept_ms": null,
        });
        assert_eq!(written, expected);
        let read: Reply = serde_json::from_value(written).unwrap();
        assert_eq!((read.outcome, read.next, read.kept_until), (reply.outcome, reply.next, None));
        assert!(!read.blind && read.since.is_zero());
    }
}
