//! The clients of ours that listen: each has one open answer, for the events of all its permits. It
//! is the proof that the client lives. What happens while there is none is not kept: the client is
//! told that it has missed something, and asks.

use std::collections::{HashMap, HashSet};
use std::mem::take;
use std::rc::Rc;

use tokio::sync::Notify;
use uuid::Uuid;

use super::Semaphores;
use super::semaphore::ServerClient;
use crate::backends::cloud::protocol::{Event, EventKind, Greeting};
use crate::clock;
use crate::serve::bearer::{Bearer, KeyFingerprint};

/// How many events wait for a client that does not take them, until its answer ends.
const MOST_UNHEARD: usize = 500;

/// How many clients may listen to one permit until those that have no open answer are forgotten.
const FEW: usize = 4;

/// A client, and the API key that it came with: with another key its name is another one's.
pub(super) type ListenerId = (Uuid, Option<KeyFingerprint>);

#[derive(Default)]
pub(super) struct Listeners(HashMap<ListenerId, Listener>);

#[derive(Default)]
struct Listener {
    /// Its permits, and places in queues.
    permits: HashSet<(Uuid, Rc<str>)>,
    /// The number of its open answer, and what wakes that up.
    stream: Option<(u64, Rc<Notify>)>,
    unheard: Vec<Event>,
    /// Whether something has happened while there was no open answer.
    missed: bool,
}

impl Listener {
    fn tell(&mut self, event: Event) {
        match &self.stream {
            Some((_, more)) => {
                if self.unheard.len() < MOST_UNHEARD {
                    self.unheard.push(event);
                }
                more.notify_one();
            }
            None => self.missed = true,
        }
    }

    fn is_heard_by(&self, number: u64) -> bool {
        self.stream.as_ref().is_some_and(|(its, _)| *its == number)
    }
}

impl Listeners {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a client that may be told of this permit is there.
    pub(super) fn are_there(&self, client: &ServerClient) -> bool {
        client.listeners.iter().any(|id| self.is_there(id))
    }

    fn is_there(&self, id: &ListenerId) -> bool {
        self.0.get(id).is_some_and(|listener| listener.stream.is_some())
    }

    fn forget(&mut self, listener: &ListenerId, id: Uuid, name: &Rc<str>) {
        if let Some(known) = self.0.get_mut(listener) {
            known.permits.remove(&(id, Rc::clone(name)));
            if known.permits.is_empty() && known.stream.is_none() {
                self.0.remove(listener);
            }
        }
    }

    /// A client wants to hear of its permit.
    pub(super) fn add(
        &mut self,
        listener: ListenerId,
        client: &mut ServerClient,
        id: Uuid,
        name: &Rc<str>,
    ) {
        if listener.0.is_nil() || client.listeners.contains(&listener) {
            return;
        }
        if client.listeners.len() >= FEW {
            let (there, absent): (Vec<_>, Vec<_>) =
                client.listeners.iter().partition(|one| self.is_there(one));
            client.listeners = there;
            for one in absent {
                self.forget(&one, id, name);
            }
        }
        client.listeners.push(listener);
        self.0.entry(listener).or_default().permits.insert((id, Rc::clone(name)));
    }

    /// A client does not want to hear of its permit any more.
    pub(super) fn remove(
        &mut self,
        listener: ListenerId,
        client: &mut ServerClient,
        id: Uuid,
        name: &Rc<str>,
    ) {
        client.listeners.retain(|one| *one != listener);
        self.forget(&listener, id, name);
    }

    pub(super) fn tell(&mut self, client: &ServerClient, id: Uuid, event: EventKind) {
        for listener in &client.listeners {
            if let Some(listener) = self.0.get_mut(listener) {
                listener.tell(Event { id, event });
            }
        }
    }

    /// A permit, or a place, has gone.
    pub(super) fn forget_all(&mut self, client: &ServerClient, id: Uuid, name: &Rc<str>) {
        for listener in &client.listeners {
            self.forget(listener, id, name);
        }
    }
}

/// The open answer of a client that listens. Dropping it is what its connection's end does.
pub(crate) struct EventStream {
    semaphores: Rc<Semaphores>,
    listener: ListenerId,
    number: u64,
    more: Rc<Notify>,
}

impl EventStream {
    /// The next events; none: this has ended. Cancel-safe.
    pub(crate) async fn next(&self) -> Option<Vec<Event>> {
        let look = |take: &mut dyn FnMut(&mut Vec<Event>)| {
            let mut listeners = self.semaphores.listeners.borrow_mut();
            let listener = listeners.0.get_mut(&self.listener)?;
            // What has come since another answer took its place is for that one.
            if !listener.is_heard_by(self.number) {
                return None;
            }
            let goes_on = listener.unheard.len() < MOST_UNHEARD;
            take(&mut listener.unheard);
            goes_on.then_some(())
        };
        let mut count = 0;
        loop {
            look(&mut |unheard| count = unheard.len())?;
            if count > 0 {
                break;
            }
            self.more.notified().await;
        }
        // Recorded first, so that what was revoked cannot be renewed after a restart either.
        let _ = self.semaphores.journal.written().await;
        let mut events = Vec::new();
        look(&mut |unheard| events.extend(unheard.drain(..count)))?;
        Some(events)
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.semaphores.stops_listening(self.listener, self.number);
    }
}

impl Semaphores {
    /// Opens the answer of a client that listens. An earlier one of the same client ends.
    pub(crate) fn listen(self: &Rc<Self>, id: Uuid, bearer: &Bearer) -> (Greeting, EventStream) {
        let (listener, number) = ((id, bearer.print), self.next_registration());
        let more = Rc::new(Notify::new());
        let mut listeners = self.listeners.borrow_mut();
        let is_new = !listeners.0.contains_key(&listener);
        let known = listeners.0.entry(listener).or_default();
        let before = known.stream.replace((number, Rc::clone(&more)));
        let missed = take(&mut known.missed) || is_new || before.is_some();
        known.unheard.clear();
        if let Some((_, ends)) = before {
            ends.notify_one();
        }
        let greeting = Greeting { server: self.seals.server(), missed };
        (greeting, EventStream { semaphores: Rc::clone(self), listener, number, more })
    }

    /// Its waiters are passed over, and get their places back when they ask again.
    fn stops_listening(&self, listener: ListenerId, number: u64) {
        let mut listeners = self.listeners.borrow_mut();
        let stops = listeners.0.get(&listener).is_some_and(|known| known.is_heard_by(number));
        let gone = if stops { listeners.0.remove(&listener) } else { None };
        drop(listeners);
        let Some(Listener { permits, .. }) = gone.filter(|_| !self.closing.get()) else { return };
        for (id, name) in permits {
            self.change_known(&name, |semaphore| {
                if let Some(client) = semaphore.clients.get_mut(&id) {
                    client.listeners.retain(|one| *one != listener);
                }
                semaphore.ledger.leave(clock::now(), id)
            });
        }
    }
}
