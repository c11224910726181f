//! The wake-ups of one client: one listener at the store for all its permits. Each permit's part of
//! the engine subscribes here, and hears what is addressed to that permit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinHandle;
use uuid::Uuid;

use super::inbox::Inbox;
use super::{Store, StoreHandle};
use crate::permits::{Revocation, StoreError};

/// What a server tells a client of its own accord.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wakeup {
    /// There is a reason to ask.
    Ask,
    /// The permit was revoked; `fresh`: a moment ago.
    Revoked {
        /// How.
        how: Revocation,
        /// See above.
        fresh: bool,
    },
    /// Another client released the permit.
    Released,
    /// Wake-ups may have been missed.
    Missed,
    /// The server lets no client listen; waiters ask at each heartbeat.
    Deaf,
}

/// Where a store puts the wake-ups of one client.
#[derive(Debug, Clone, Default)]
pub struct Wakeups(Arc<Mutex<Subscriptions>>);

#[derive(Debug, Default)]
struct Subscriptions {
    permits: BTreeMap<Uuid, Arc<Inbox<Message>>>,
    /// How many of them listen.
    listening: usize,
    /// Whether the server lets no client listen.
    deaf: bool,
    /// Which listener there is, and its task, once that has been started.
    listener: Option<(u64, Option<JoinHandle<()>>)>,
    listeners: u64,
}

/// What a permit's part of the engine finds in its inbox.
#[derive(Debug, PartialEq)]
enum Message {
    Wakeup(Wakeup),
    /// No wake-up will come any more.
    Failed(StoreError),
    /// The listener has gone without a word, as the runtime that it ran in has: another one is
    /// needed.
    Gone,
}

/// The wake-ups of one permit, which come as long as this lives.
pub(super) struct Subscription {
    id: Uuid,
    wakeups: Wakeups,
    heard: Arc<Inbox<Message>>,
    listens: bool,
}

/// The end of a listener, whatever it is.
struct ListenerEnd {
    wakeups: Wakeups,
    number: u64,
}

impl ListenerEnd {
    fn tell(&self, message: impl Fn() -> Message) {
        let mut subscriptions = self.wakeups.lock();
        // One that is not needed any more, or was replaced, has nothing to tell.
        if subscriptions.listener.as_ref().is_some_and(|(number, _)| *number == self.number) {
            subscriptions.listener = None;
            for permit in subscriptions.permits.values() {
                permit.put(message());
            }
        }
    }
}

impl Drop for ListenerEnd {
    fn drop(&mut self) {
        self.tell(|| Message::Gone);
    }
}

impl Wakeups {
    /// Tells one permit, if anything still waits for that.
    pub fn send(&self, id: Uuid, wakeup: Wakeup) {
        let mut subscriptions = self.lock();
        subscriptions.deaf = false;
        if let Some(permit) = subscriptions.permits.get(&id) {
            permit.put(Message::Wakeup(wakeup));
        }
    }

    /// Tells all permits of the client.
    pub fn send_to_all(&self, wakeup: Wakeup) {
        let mut subscriptions = self.lock();
        subscriptions.deaf |= wakeup == Wakeup::Deaf;
        for permit in subscriptions.permits.values() {
            permit.put(Message::Wakeup(wakeup));
        }
    }

    /// Notes that a permit may be told something, which costs nothing yet.
    pub(super) fn subscribe(&self, id: Uuid) -> Subscription {
        let heard = Arc::default();
        self.lock().permits.insert(id, Arc::clone(&heard));
        Subscription { id, wakeups: self.clone(), heard, listens: false }
    }

    /// Sees to it that there is a listener. Neither the store, which may have locks of its own, nor
    /// the runtime, which may drop a task at once, is called under the lock.
    fn see_to_a_listener<S: Store>(&self, handle: &Arc<StoreHandle<S>>) {
        let mut subscriptions = self.lock();
        if subscriptions.listener.is_some() {
            return;
        }
        subscriptions.deaf = false;
        subscriptions.listeners += 1;
        let number = subscriptions.listeners;
        subscriptions.listener = Some((number, None));
        drop(subscriptions);
        let end = ListenerEnd { wakeups: self.clone(), number };
        let handle = Arc::clone(handle);
        let task = tokio::spawn(async move {
            let error = handle.store.listen(handle.listener, end.wakeups.clone()).await;
            end.tell(|| Message::Failed(error.clone()));
        });
        let mut subscriptions = self.lock();
        if let Some((its, running)) = &mut subscriptions.listener
            && *its == number
        {
            *running = Some(task);
        } else {
            drop(subscriptions);
            task.abort();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Subscriptions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// The next wake-up. Starts the client's listener, if no other permit has done so. An error: no
    /// more will come. Cancel-safe.
    pub(super) async fn next<S: Store>(
        &mut self,
        handle: &Arc<StoreHandle<S>>,
    ) -> Result<Wakeup, StoreError> {
        if !self.listens {
            self.listens = true;
            self.wakeups.lock().listening += 1;
            self.wakeups.see_to_a_listener(handle);
            if self.wakeups.lock().deaf {
                return Ok(Wakeup::Deaf);
            }
        }
        match self.heard.next().await {
            Message::Wakeup(wakeup) => Ok(wakeup),
            Message::Failed(error) => Err(error),
            Message::Gone => {
                self.wakeups.see_to_a_listener(handle);
                Ok(Wakeup::Missed)
            }
        }
    }

    pub(super) fn is_listening(&self) -> bool {
        self.listens
    }

    /// Stops to listen until [`Subscription::next`], if no other permit listens.
    pub(super) fn pause(&mut self) {
        if std::mem::take(&mut self.listens) {
            let mut subscriptions = self.wakeups.lock();
            subscriptions.listening -= 1;
            let needless =
                if subscriptions.listening == 0 { subscriptions.listener.take() } else { None };
            drop(subscriptions);
            if let Some((_, Some(listener))) = needless {
                listener.abort();
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.pause();
        let mut subscriptions = self.wakeups.lock();
        // Another part of the engine may have subscribed in its place.
        let own = |one: &Arc<_>| Arc::ptr_eq(one, &self.heard);
        if subscriptions.permits.get(&self.id).is_some_and(own) {
            subscriptions.permits.remove(&self.id);
        }
    }
}
