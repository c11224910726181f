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
    permits: BTreeMap<Uuid, Arc<Inbox<Result<Wakeup, StoreError>>>>,
    /// How many of them listen.
    listening: usize,
    /// Whether the server lets no client listen.
    deaf: bool,
    listener: Option<JoinHandle<()>>,
}

/// The wake-ups of one permit, which come as long as this lives.
pub(super) struct Subscription {
    id: Uuid,
    wakeups: Wakeups,
    heard: Arc<Inbox<Result<Wakeup, StoreError>>>,
    listens: bool,
}

impl Wakeups {
    /// Tells one permit, if anything still waits for that.
    pub fn send(&self, id: Uuid, wakeup: Wakeup) {
        let mut subscriptions = self.lock();
        subscriptions.deaf = false;
        if let Some(permit) = subscriptions.permits.get(&id) {
            permit.put(Ok(wakeup));
        }
    }

    /// Tells all permits of the client.
    pub fn send_to_all(&self, wakeup: Wakeup) {
        let mut subscriptions = self.lock();
        subscriptions.deaf |= wakeup == Wakeup::Deaf;
        for permit in subscriptions.permits.values() {
            permit.put(Ok(wakeup));
        }
    }

    /// Notes that a permit may be told something, which costs nothing yet.
    pub(super) fn subscribe(&self, id: Uuid) -> Subscription {
        let heard = Arc::default();
        self.lock().permits.insert(id, Arc::clone(&heard));
        Subscription { id, wakeups: self.clone(), heard, listens: false }
    }

    fn fail(&self, error: &StoreError) {
        let mut subscriptions = self.lock();
        subscriptions.listener = None;
        for permit in subscriptions.permits.values() {
            permit.put(Err(error.clone()));
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
        handle: &StoreHandle<S>,
    ) -> Result<Wakeup, StoreError> {
        if !self.listens {
            self.listens = true;
            let mut subscriptions = self.wakeups.lock();
            subscriptions.listening += 1;
            if subscriptions.listener.is_none() {
                subscriptions.deaf = false;
                let listening = handle.store.listen(handle.listener, self.wakeups.clone());
                let wakeups = self.wakeups.clone();
                let listener = tokio::spawn(async move { wakeups.fail(&listening.await) });
                subscriptions.listener = Some(listener);
            } else if subscriptions.deaf {
                return Ok(Wakeup::Deaf);
            }
        }
        self.heard.next().await
    }

    pub(super) fn is_listening(&self) -> bool {
        self.listens
    }

    /// Stops to listen until [`Subscription::next`], if no other permit listens.
    pub(super) fn pause(&mut self) {
        if std::mem::take(&mut self.listens) {
            let mut subscriptions = self.wakeups.lock();
            subscriptions.listening -= 1;
            if subscriptions.listening == 0
                && let Some(listener) = subscriptions.listener.take()
            {
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
