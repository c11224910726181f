//! What our client and `semrun serve` say to each other beyond the cloud-semaphore protocol. Both
//! ends use these types; `docs/serve.md` describes them. Fields are only ever added.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::permits::json::millis;
use crate::permits::sanitize;
use crate::permits::{
    Holder, HolderState, Name, Record, SemaphoreSnapshot, StoreError, Waiter, Withheld,
};
use crate::request::{Outcome, Reply, Request};

/// On every request of our client and every answer that understood it: the version of this.
pub(crate) const VERSION_HEADER: &str = "x-semrun";
pub(crate) const VERSION: &str = "3";

/// Whose API key it is.
pub(crate) const KEY_HEADER: &str = "x-api-key";

/// The client that a request is about.
pub(crate) const ID_HEADER: &str = "x-client-uuid";

/// How often an empty line in an open answer says that the server is there, and that nothing between
/// us has forgotten the connection.
pub(crate) const BEAT: Duration = Duration::from_secs(10);
/// A server that is silent for so long is out of reach: two beats are missing.
pub(crate) const SILENCE: Duration = Duration::from_secs(25);

/// The paths that only `semrun serve` has. A POST of a list of [`NamedRequest`]s, at most
/// [`MOST_REQUESTS`], is answered by a list of [`ExecuteAnswer`]s in the same order.
pub(crate) const EXECUTE: &str = "/semrun/execute";
pub(crate) const MOST_REQUESTS: usize = 100;
/// What happens to the permits of a client, which [`ID_HEADER`] names: the body stays open, and has
/// a line for each event. The first line is a [`Greeting`], an empty one a [`BEAT`], every other an
/// [`Event`].
pub(crate) const EVENTS: &str = "/semrun/events";
/// The semaphores whose names come after the one that is named, or the first of them: a [`SemaphorePage`].
pub(crate) const LIST: &str = "/semrun/semaphores";
/// What the server is, a [`ServerInfo`].
pub(crate) const ABOUT: &str = "/semrun/about";

/// A request, and the semaphore that it is about.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NamedRequest {
    pub(crate) name: String,
    pub(crate) request: Request,
}

/// What became of a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ExecuteAnswer {
    Reply(Box<Reply>),
    /// To be asked again after so many milliseconds: clients from before a restart come back first.
    Later(u64),
    /// The key may not do it, with the reason.
    Denied(String),
    /// It cannot be done now, with the reason.
    Refused(String),
    /// It asks for what no semaphore has.
    Invalid,
}

/// The beginning of the events.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Greeting {
    pub(crate) server: Uuid,
    /// Whether there may have been events that this client was not told of.
    pub(crate) missed: bool,
}

/// Something has happened to a permit, or to a place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) id: Uuid,
    pub(crate) event: EventKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EventKind {
    /// A waiter was granted its permit, or has lost its place: it is worth to ask.
    Ask,
    /// The permit was revoked gently: it is its holder's until it is released or its lease ends.
    Revoked,
    RevokedNow,
    /// Another client released the permit, or it expired.
    Released,
}

/// An error: no server of ours says that.
pub(super) fn validated(reply: Reply) -> Result<Reply, StoreError> {
    let Reply { outcome, terms, agreed, ahead, held, seal, .. } = &reply;
    if matches!(outcome, Outcome::Holding | Outcome::Waiting | Outcome::Busy | Outcome::Differs) {
        sanitize::limit(terms.limit)?;
        sanitize::limit(*agreed)?;
    }
    let time = if *outcome == Outcome::Holding { sanitize::lease } else { sanitize::time };
    time(millis(terms.ttl))?;
    for other in terms.times().map(Some).into_iter().chain([reply.paused, reply.next]) {
        sanitize::time_if_any(other.map(millis))?;
    }
    sanitize::count(*ahead)?;
    sanitize::count(*held)?;
    sanitize::seal(seal)?;
    let key = reply.key.as_deref().map(sanitize::label);
    Ok(Reply { key, ..reply })
}

/// A semaphore at one moment.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct SemaphoreView {
    /// Whether a client has used the name since the server started.
    #[serde(default)]
    pub(crate) known: bool,
    pub(crate) limit: Option<u32>,
    #[serde(default)]
    pub(crate) pinned: bool,
    pub(crate) ttl_ms: Option<u64>,
    pub(crate) paused_ms: Option<u64>,
    /// In the order of their grants.
    pub(crate) holders: Vec<ClientView>,
    /// In the order of the queue.
    pub(crate) waiters: Vec<ClientView>,
}

/// Semaphores in the order of their names.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct SemaphorePage {
    pub(crate) semaphores: Vec<NamedSemaphore>,
    /// Whether there may be others after the last one.
    pub(crate) more: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NamedSemaphore {
    pub(crate) name: String,
    pub(crate) look: SemaphoreView,
}

/// A holder or a waiter.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ClientView {
    /// Nil where the answer had none (`lenient.rs`), and for a client that the key may not see:
    /// then only the phase and the time left are given.
    pub(crate) id: Uuid,
    /// The fencing token of a holder.
    #[serde(default)]
    pub(crate) token: u64,
    #[serde(default)]
    pub(crate) phase: HolderState,
    #[serde(default)]
    pub(crate) left_ms: Option<u64>,
    /// None for a client of another kind.
    #[serde(default)]
    pub(crate) record: Option<Record>,
    /// For such a client, the label of its API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
}

impl SemaphoreView {
    /// Impossible values are left out; the rest is shown.
    pub(super) fn snapshot(self, name: &Name) -> SemaphoreSnapshot {
        let holder = |party: ClientView| match (party.record, sanitize::time_if_any(party.left_ms))
        {
            (record @ Some(_), Ok(left)) => {
                let (token, phase) = (Some(party.token), party.phase);
                Holder::Known { token, record, phase, left }
            }
            (Some(_), Err(_)) => Holder::unknown(),
            // A client that our key may not see.
            (None, Ok(left)) if party.id.is_nil() => {
                Holder::Known { token: None, record: None, phase: party.phase, left }
            }
            (None, Err(_)) if party.id.is_nil() => Holder::unknown(),
            (None, left) => {
                let key = party.key.as_deref().map(sanitize::label);
                Holder::Foreign { permit: party.id.to_string(), left: left.ok().flatten(), key }
            }
        };
        let waiter = |party: ClientView| match party.record {
            None if !party.id.is_nil() => {
                let key = party.key.as_deref().map(sanitize::label);
                Waiter::foreign(&party.id.to_string(), key)
            }
            record => Waiter::known(record),
        };
        let mut odd = None;
        let limit = self.limit.map(sanitize::limit).transpose();
        let ttl = sanitize::time_if_any(self.ttl_ms);
        let paused = sanitize::time_if_any(self.paused_ms);
        SemaphoreSnapshot {
            name: name.clone(),
            known: self.known,
            limit: sanitize::or_note(limit, &mut odd),
            pinned: self.pinned,
            ttl: sanitize::or_note(ttl, &mut odd),
            withheld: sanitize::or_note(paused, &mut odd).map(Withheld::Quarantine),
            holders: self.holders.into_iter().map(holder).collect(),
            waiters: self.waiters.into_iter().map(waiter).collect(),
            odd,
        }
    }
}

/// What a server says of itself.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ServerInfo {
    /// Of the program.
    pub(crate) version: String,
    /// Whether permits outlive it.
    pub(crate) remembers: bool,
    /// Its time of day, since the epoch.
    pub(crate) time_ms: u64,
}
