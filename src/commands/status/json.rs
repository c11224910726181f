//! How semaphores stand, as JSON (`docs/schema/status.json`).

use serde::Serialize;

use super::stopped::is_stopped;
use crate::backends::{self, HolderState, Record, SemaphoreSnapshot, Withheld};
use crate::cli::messages::OddText;

/// The JSON document. Fields are only ever added; a change of meaning is a new version.
#[derive(Serialize)]
pub(super) struct StatusJson<'a> {
    version: u32,
    semaphores: Vec<SemaphoreJson<'a>>,
}

#[derive(Serialize)]
struct SemaphoreJson<'a> {
    name: &'a str,
    limit: Option<u32>,
    pinned: bool,
    /// Whether the name was ever used, as far as the backend remembers.
    known: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_ms: Option<u128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<ReplicasJson>,
    holders: Vec<HolderJson<'a>>,
    waiters: Vec<WaiterJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    odd: Option<String>,
}

/// Too few replicas, so no permit is granted.
#[derive(Serialize)]
struct ReplicasJson {
    in_step: u32,
    needed: u32,
}

#[derive(Serialize)]
struct HolderJson<'a> {
    fencing_token: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_left_ms: Option<u128>,
    state: HolderState,
    foreign: bool,
    #[serde(flatten)]
    record: Option<ClientJson<'a>>,
    /// Of a foreign one, which has only this.
    #[serde(skip_serializing_if = "Option::is_none")]
    permit: Option<String>,
    /// The label of its API key, where that is known of a foreign one.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
}

#[derive(Serialize)]
struct WaiterJson<'a> {
    place: usize,
    state: &'static str,
    foreign: bool,
    #[serde(flatten)]
    record: Option<ClientJson<'a>>,
    /// Of a foreign one, which has only this.
    #[serde(skip_serializing_if = "Option::is_none")]
    permit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
}

#[derive(Serialize)]
struct ClientJson<'a> {
    permit: String,
    label: &'a str,
    host: &'a str,
    pid: u32,
    user: &'a str,
    detached: bool,
    since: String,
    /// Whether its semrun is stopped, where that can be seen from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<bool>,
}

impl<'a> StatusJson<'a> {
    pub(super) fn of(snapshots: &'a [SemaphoreSnapshot]) -> Self {
        Self { version: 1, semaphores: snapshots.iter().map(SemaphoreJson::of).collect() }
    }
}

impl<'a> SemaphoreJson<'a> {
    fn of(snapshot: &'a SemaphoreSnapshot) -> Self {
        let name = &snapshot.name;
        let person = |record: Option<&'a Record>| {
            let record = record?;
            let who = &record.who;
            Some(ClientJson {
                permit: format!("{}@{name}", record.permit),
                label: &who.label,
                host: &who.host,
                pid: who.pid,
                user: &who.user,
                detached: who.detached,
                since: humantime::format_rfc3339_millis(record.since).to_string(),
                stopped: is_stopped(who),
            })
        };
        let holders = snapshot.holders.iter().map(|holder| HolderJson {
            fencing_token: holder.token(),
            lease_left_ms: holder.left().map(|left| left.as_millis()),
            state: holder.state(),
            foreign: matches!(holder, backends::Holder::Foreign { .. }),
            record: person(holder.record()),
            permit: match holder {
                backends::Holder::Foreign { permit, .. } => Some(format!("{permit}@{name}")),
                backends::Holder::Known { .. } => None,
            },
            key: match holder {
                backends::Holder::Foreign { key, .. } => key.as_deref(),
                backends::Holder::Known { .. } => None,
            },
        });
        let waiters = snapshot.waiters.iter().enumerate().map(|(index, waiter)| WaiterJson {
            place: index + 1,
            state: "waiting",
            foreign: waiter.foreign.is_some(),
            record: person(waiter.record.as_ref()),
            permit: waiter.foreign.as_ref().map(|permit| format!("{permit}@{name}")),
            key: waiter.key.as_deref(),
        });
        Self {
            name: name.as_str(),
            limit: snapshot.limit,
            pinned: snapshot.pinned,
            known: snapshot.known,
            ttl_ms: snapshot.ttl.map(|ttl| ttl.as_millis()),
            paused_ms: snapshot.withheld.and_then(Withheld::left).map(|left| left.as_millis()),
            replicas: match snapshot.withheld {
                Some(Withheld::Replicas { in_step, needed }) => {
                    Some(ReplicasJson { in_step, needed })
                }
                _ => None,
            },
            holders: holders.collect(),
            waiters: waiters.collect(),
            odd: snapshot.odd.as_ref().map(|odd| OddText(&snapshot.name, odd).to_string()),
        }
    }
}
