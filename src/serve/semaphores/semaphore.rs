//! One semaphore of a server, and the clients that it knows.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use uuid::Uuid;

use super::COMING_BACK;
use super::listeners::{ListenerId, Listeners};
use crate::backends::cloud::protocol::{ClientView, EventKind, SemaphoreView};
use crate::backends::ledger::{Claim, Ledger, LedgerEvent, LedgerHolder};
use crate::backends::{self, Record};
use crate::clock::Moment;
use crate::permits::json::millis;
use crate::request::{Outcome, Reply, Request};
use crate::serve::bearer::{Actor, Bearer};

/// How long a client that registers has to attach its requests.
pub(super) const UNATTACHED: Duration = Duration::from_mins(1);

/// How long a waiter of ours counts as there before its client listens.
pub(super) const UNHEARD: Duration = Duration::from_secs(2);

pub(super) struct ServerSemaphore {
    pub(super) ledger: Ledger<Option<Record>>,
    pub(super) clients: HashMap<Uuid, ServerClient>,
    /// When to check whether clients that registered or asked came back, or listen.
    pub(super) unattached: BTreeSet<(Moment, Uuid)>,
    pub(super) due: Option<Moment>,
}

/// One that registered, waits or holds.
pub(super) struct ServerClient {
    pub(super) number: u64,
    /// Its owner, by the API key that it came with.
    pub(super) taker: Rc<Bearer>,
    /// The last client or operator that acted on it.
    pub(super) actor: Actor,
    pub(super) ours: bool,
    pub(super) phase: ClientPhase,
    pub(super) monitor: HeldRequest,
    pub(super) wait: HeldRequest,
    /// The clients of ours to tell what happens: its semrun, and any number that renew a detached
    /// permit.
    pub(super) listeners: Vec<ListenerId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientPhase {
    Registered,
    Waiting,
    Holding,
}

/// A request that stays open.
pub(super) enum HeldRequest {
    /// Not yet.
    Expected,
    /// It is open, with this number; its end is sent there.
    Open(u64, oneshot::Sender<RequestEnd>),
    /// It has ended.
    Over,
}

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestKind {
    Monitor,
    Wait,
}

/// How a request that stays open ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestEnd {
    Granted,
    Released,
    Removed,
    /// The same client has opened another one instead.
    Replaced,
}

impl ServerSemaphore {
    pub(super) fn new(last: u64, not_before: Moment) -> Self {
        Self {
            ledger: Ledger::after(last, not_before),
            clients: HashMap::new(),
            unattached: BTreeSet::new(),
            due: None,
        }
    }

    pub(super) fn what_is_due(
        &mut self,
        now: Moment,
        listeners: &mut Listeners,
    ) -> Vec<LedgerEvent> {
        let mut changes = self.ledger.expire(now);
        while let Some((moment, id)) = self.unattached.first().copied()
            && moment <= now
        {
            self.unattached.pop_first();
            let Some(client) = self.clients.get(&id) else { continue };
            let open = |request: &HeldRequest| matches!(request, HeldRequest::Open(..));
            if client.ours && client.phase == ClientPhase::Waiting && !listeners.are_there(client) {
                changes.extend(self.ledger.leave(now, id));
                // Once it listens it has to ask, to be there again.
                listeners.tell(client, id, EventKind::Ask);
            }
            if client.phase != ClientPhase::Registered {
                continue;
            }
            if open(&client.monitor) || open(&client.wait) {
                self.unattached.insert((now + UNATTACHED, id));
            } else {
                changes.push(LedgerEvent::Gone(id));
            }
        }
        changes
    }

    /// What one of our clients with this key is told.
    pub(super) fn reply(
        &self,
        now: Moment,
        outcome: Outcome,
        request: &Request,
        asks: &Bearer,
    ) -> Reply {
        let oldest =
            self.ledger.holders().next().filter(|holding| self.is_seen(holding.claim.id, asks));
        let kept = oldest.filter(|holding| holding.phase == backends::HolderState::MinHold);
        let kept = kept.and_then(LedgerHolder::expires);
        let key = oldest.filter(|holding| holding.claim.record.is_none());
        Reply {
            record: oldest.and_then(|holding| holding.claim.record.clone()),
            key: key.and_then(|holding| self.key(holding.claim.id)),
            kept_until: kept.map(|end| SystemTime::now() + end.saturating_sub(now)),
            paused: self.paused(now),
            ..self.ledger.reply(now, outcome, request)
        }
    }

    /// Whether this key may see who a client is.
    fn is_seen(&self, id: Uuid, asks: &Bearer) -> bool {
        self.clients.get(&id).is_none_or(|client| asks.sees(&client.taker))
    }

    /// What the log says for the API key of a client.
    fn key(&self, id: Uuid) -> Option<String> {
        let label = &self.clients.get(&id)?.taker.label;
        (!label.is_empty()).then(|| label.to_string())
    }

    /// Whether it is in use, or pinned.
    pub(super) fn is_in_use(&self) -> bool {
        self.ledger.in_use() || self.ledger.pinned().is_some()
    }

    /// How a client holds a permit, and whether the permit outlives the process that asked for it.
    pub(super) fn held(&self, id: Uuid) -> Option<(backends::HolderState, bool)> {
        let holding = self.ledger.holding(id)?;
        let detached = |record: &Record| record.who.detached;
        Some((holding.phase, holding.claim.record.as_ref().is_some_and(detached)))
    }

    /// The short pause after a restart, in which others come back, is not reported.
    fn paused(&self, now: Moment) -> Option<Duration> {
        self.ledger.paused(now).filter(|left| *left > COMING_BACK)
    }

    /// As this key may see it: of other keys' clients only that they hold or wait.
    pub(super) fn look(&self, now: Moment, asks: &Bearer) -> SemaphoreView {
        let holder = |holding: &LedgerHolder<Option<Record>>| ClientView {
            id: holding.claim.id,
            token: holding.token,
            phase: holding.phase,
            left_ms: holding.expires().map(|moment| millis(moment.saturating_sub(now))),
            record: holding.claim.record.clone(),
            key: None,
        };
        let waiter = |claim: &Claim<Option<Record>>| ClientView {
            id: claim.id,
            token: 0,
            phase: backends::HolderState::Holding,
            left_ms: None,
            record: claim.record.clone(),
            key: None,
        };
        let seen = |party: ClientView| {
            if self.is_seen(party.id, asks) {
                let key = if party.record.is_none() { self.key(party.id) } else { None };
                return ClientView { key, ..party };
            }
            ClientView { id: Uuid::nil(), token: 0, record: None, ..party }
        };
        SemaphoreView {
            known: true,
            limit: self.ledger.limit(),
            pinned: self.ledger.pinned().is_some(),
            ttl_ms: self.ledger.terms().map(|terms| millis(terms.ttl)),
            paused_ms: self.paused(now).map(millis),
            holders: self.ledger.holders().map(holder).map(seen).collect(),
            waiters: self.ledger.waiters().map(waiter).map(seen).collect(),
        }
    }

    /// The same for clients of the original, which know each other by their identities: those that
    /// the key may not see are nil.
    pub(super) fn observed(&self, name: &str, asks: &Bearer) -> String {
        use serde::Serialize;

        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct NodeView {
            id: Uuid,
            monitor: bool,
            waiter: bool,
            error: Option<String>,
            ref_count: usize,
        }
        #[derive(Serialize)]
        struct ObservedView<'a> {
            #[serde(serialize_with = "in_order")]
            nodes: Vec<NodeView>,
            waiting: Vec<Uuid>,
            running: Option<Uuid>,
            name: &'a str,
        }
        fn in_order<S: serde::Serializer>(nodes: &[NodeView], to: S) -> Result<S::Ok, S::Error> {
            to.collect_map(nodes.iter().map(|node| (node.id, node)))
        }

        let seen = |id: Uuid| if self.is_seen(id, asks) { id } else { Uuid::nil() };
        let mut clients: Vec<_> =
            self.clients.iter().filter(|(_, client)| asks.sees(&client.taker)).collect();
        clients.sort_unstable_by_key(|(_, client)| client.number);
        let node = |(id, client): (&Uuid, &ServerClient)| {
            let arrived = |request: &HeldRequest| !matches!(request, HeldRequest::Expected);
            let open = |request: &&&HeldRequest| matches!(request, HeldRequest::Open(..));
            NodeView {
                id: *id,
                monitor: client.ours || arrived(&client.monitor),
                waiter: client.ours || arrived(&client.wait),
                error: None,
                ref_count: [&client.monitor, &client.wait].iter().filter(open).count()
                    + client.listeners.len(),
            }
        };
        let observed = ObservedView {
            nodes: clients.into_iter().map(node).collect(),
            waiting: self.ledger.waiters().map(|claim| seen(claim.id)).collect(),
            running: self.ledger.holders().next().map(|holding| seen(holding.claim.id)),
            name,
        };
        let mut text = Vec::new();
        let indented = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut to = serde_json::Serializer::with_formatter(&mut text, indented);
        observed.serialize(&mut to).expect("plain data");
        String::from_utf8(text).expect("JSON is UTF-8")
    }
}

impl ServerClient {
    pub(super) fn request(&mut self, which: RequestKind) -> &mut HeldRequest {
        match which {
            RequestKind::Monitor => &mut self.monitor,
            RequestKind::Wait => &mut self.wait,
        }
    }

    /// Whether both of its requests have come, and it is still there.
    pub(super) fn is_attached(&self) -> bool {
        matches!(self.monitor, HeldRequest::Open(..)) && !matches!(self.wait, HeldRequest::Expected)
    }
}
