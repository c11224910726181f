//! What our client and `semrun serve` say to each other beyond the cloud-semaphore protocol. Both
//! ends use these types; `docs/serve.md` describes them. Fields are only ever added.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::backends::sanitize;
use crate::backends::{
    ClientInfo, Holder, HolderState, Name, Record, ReleaseOutcome, Revocation, SemaphoreSnapshot,
    StoreError, Waiter, Withheld,
};
use crate::clock::Moment;
use crate::request::{Outcome, Reply};

/// On every request of our client and every answer that understood it: the version of this.
pub(crate) const VERSION_HEADER: &str = "x-semrun";
pub(crate) const VERSION: &str = "2";

/// Whose API key it is.
pub(crate) const KEY_HEADER: &str = "x-api-key";

/// The client that a request is about.
pub(crate) const ID_HEADER: &str = "x-client-uuid";

/// On `register`: an [`RegisterRequest`] as JSON in ASCII. The answer is a line of JSON, a [`RegisterReply`]; if that
/// says [`RegisterOutcome::Waiting`] the body stays open, and ends when it is worth to ask again. The open
/// request shows that the waiter is there.
pub(crate) const ASK_HEADER: &str = "x-semrun-ask";

/// How often an empty line in an open answer says that the server is there, and that nothing between
/// us has forgotten the connection.
pub(crate) const BEAT: Duration = Duration::from_secs(10);
/// A server that is silent for so long is out of reach: two beats are missing.
pub(crate) const SILENCE: Duration = Duration::from_secs(25);

/// The paths that only `semrun serve` has; what changes something is a POST. A permit is renewed for a
/// [`RegisterReply`].
pub(crate) const RENEW: &str = "/semrun/renew";
/// The semaphores whose names come after the one that is named, or the first of them: a [`SemaphorePage`].
pub(crate) const LIST: &str = "/semrun/semaphores";
/// A detached permit is given back, for a [`ReleaseReply`].
pub(crate) const RETURN: &str = "/semrun/return";
/// Revokes a permit, gently or at once as [`HOW_HEADER`] says. The answer is a [`RevokeReply`].
pub(crate) const REVOKE: &str = "/semrun/revoke";
/// A limit is pinned to what [`LIMIT_HEADER`] says; with DELETE it is not any more.
pub(crate) const LIMIT: &str = "/semrun/limit";
/// What the server is, an [`ServerInfo`].
pub(crate) const ABOUT: &str = "/semrun/about";

/// `gently` or `now`.
pub(crate) const HOW_HEADER: &str = "x-semrun-how";

/// A number: without it nothing is changed.
pub(crate) const LIMIT_HEADER: &str = "x-semrun-limit";

/// What is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RegisterRequest {
    pub(crate) id: Uuid,
    pub(crate) limit: u32,
    pub(crate) ttl_ms: u64,
    /// The place in the queue that we had, or 0.
    #[serde(default)]
    pub(crate) ticket: u64,
    /// What came with it. Without the right one there is no place to come back to.
    #[serde(default)]
    pub(crate) seal: String,
    #[serde(default)]
    pub(crate) nonblock: bool,
    #[serde(default)]
    pub(crate) strict: bool,
    /// For how long from its grant the permit stays taken.
    #[serde(default)]
    pub(crate) min_hold_ms: u64,
    pub(crate) who: ClientInfo,
}

/// How things stand for a client that asked or renewed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RegisterReply {
    pub(crate) outcome: RegisterOutcome,
    /// What is in force.
    pub(crate) limit: u32,
    #[serde(default)]
    pub(crate) pinned: bool,
    pub(crate) ttl_ms: u64,
    /// The fencing token of a holder.
    #[serde(default)]
    pub(crate) token: u64,
    /// The place of a waiter.
    #[serde(default)]
    pub(crate) ticket: u64,
    /// The server's seal on that place, for the client that it was given to; only the server can
    /// make it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) seal: String,
    #[serde(default)]
    pub(crate) ahead: usize,
    #[serde(default)]
    pub(crate) held: usize,
    #[serde(default)]
    pub(crate) holder: Option<Record>,
    /// The label of the API key of a holder without a record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    /// For how long the holder's permit stays taken, if it was given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kept_ms: Option<u64>,
    #[serde(default)]
    pub(crate) paused_ms: Option<u64>,
    /// Which server says so: another one after a restart that forgets all.
    #[serde(default)]
    pub(crate) server: Option<Uuid>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RegisterOutcome {
    /// The permit is ours, for the TTL from the moment of the answer.
    Holding,
    Waiting,
    /// No permit was free, and the client does not wait for one.
    Busy,
    /// The limit or TTL in force is not the one asked for.
    Differs,
    /// The permit that was to be renewed was revoked gently: it is ours until it is given back
    /// or its lease ends.
    Revoking,
    /// The permit that was to be renewed is not ours.
    Lost,
}

impl From<RegisterOutcome> for Outcome {
    fn from(outcome: RegisterOutcome) -> Self {
        match outcome {
            RegisterOutcome::Holding => Self::Holding,
            RegisterOutcome::Waiting => Self::Waiting,
            RegisterOutcome::Busy => Self::Busy,
            RegisterOutcome::Differs => Self::Differs,
            RegisterOutcome::Revoking => Self::Revoked,
            RegisterOutcome::Lost => Self::Lost,
        }
    }
}

impl RegisterReply {
    /// The permit is not known.
    pub(crate) fn lost() -> Self {
        Self {
            outcome: RegisterOutcome::Lost,
            limit: 0,
            pinned: false,
            ttl_ms: 0,
            token: 0,
            ticket: 0,
            seal: String::new(),
            ahead: 0,
            held: 0,
            holder: None,
            key: None,
            kept_ms: None,
            paused_ms: None,
            server: None,
        }
    }

    /// The permit is its holder's until that gives it back or its lease ends.
    pub(crate) fn revoked() -> Self {
        Self { outcome: RegisterOutcome::Revoking, ..Self::lost() }
    }

    /// An error: no server of ours says that.
    pub(super) fn validated(self) -> Result<Self, StoreError> {
        if !matches!(self.outcome, RegisterOutcome::Lost | RegisterOutcome::Revoking) {
            sanitize::limit(self.limit)?;
        }
        let time =
            if self.outcome == RegisterOutcome::Holding { sanitize::lease } else { sanitize::time };
        time(self.ttl_ms)?;
        sanitize::time_if_any(self.paused_ms)?;
        sanitize::time_if_any(self.kept_ms)?;
        sanitize::count(self.ahead)?;
        sanitize::count(self.held)?;
        sanitize::seal(&self.seal)?;
        Ok(self)
    }

    /// As the engine has it.
    pub(super) fn reply(self, since: Moment) -> Reply {
        let kept_until = self
            .kept_ms
            .and_then(|left| SystemTime::now().checked_add(Duration::from_millis(left)));
        Reply {
            token: self.token,
            ticket: self.ticket,
            seal: self.seal,
            ahead: self.ahead,
            held: self.held,
            limit: self.limit,
            pinned: self.pinned,
            agreed: self.limit,
            ttl: Duration::from_millis(self.ttl_ms),
            paused: self.paused_ms.map(Duration::from_millis),
            record: self.holder,
            key: self.key.as_deref().map(sanitize::label),
            kept_until,
            server: self.server,
            ..Reply::of(self.outcome.into(), since)
        }
    }
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

/// The result of giving back a detached permit.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ReleaseReply {
    pub(crate) outcome: ReleaseOutcome,
}

/// The result of revoking a permit.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RevokeReply {
    /// Whether a client held it.
    pub(crate) held: bool,
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

/// How a revocation is written.
pub(crate) const HOW: [(&str, Revocation); 2] =
    [("gently", Revocation::Graceful), ("now", Revocation::Forced)];

/// A time as it is told.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// JSON for a header: in ASCII, whatever is in it.
pub(crate) fn ascii_json<T: Serialize>(value: &T) -> String {
    let json = serde_json::to_string(value).expect("plain data");
    let mut text = String::with_capacity(json.len());
    for unit in json.chars() {
        if unit.is_ascii() {
            text.push(unit);
        } else {
            for half in unit.encode_utf16(&mut [0; 2]) {
                let _ = write!(text, "\\u{half:04x}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_survives_a_header_whatever_is_in_it() {
        let who = ClientInfo {
            label: "日本 \"x\" 🚀\\".into(),
            host: "ü".into(),
            pid: 7,
            user: String::new(),
            detached: false,
        };
        let asking = RegisterRequest {
            id: Uuid::nil(),
            limit: 3,
            ttl_ms: 1,
            ticket: 9,
            seal: "5ea1".into(),
            nonblock: true,
            strict: false,
            min_hold_ms: 0,
            who,
        };
        let text = ascii_json(&asking);
        assert!(text.is_ascii() && !text.contains(char::is_control), "{text}");
        let read: RegisterRequest = serde_json::from_str(&text).unwrap();
        assert_eq!((read.who, read.ticket, read.seal), (asking.who, 9, asking.seal));
    }
}
