//! Permits in Redis, in the very sorted set that PassBuddy keeps, with a queue, fencing tokens and
//! holder details beside it. Everything is decided by one script on the server's clock;
//! `docs/redis.md` has the keys and the reasons.

mod client;
mod connection;
mod conversation;
mod examine;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod held;
mod listing;
mod looks;
#[cfg(feature = "mutants")]
mod mutants;
pub(crate) mod place;
mod queueing;
mod reading;
mod replication;
mod script;
#[cfg(test)]
#[path = "../../../tests/cli/redis_server.rs"]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod wake;

use std::rc::Rc;
use std::time::Duration;

use uuid::Uuid;

use self::client::Shared;
use self::connection::Connection;
use self::conversation::Dialler;
#[cfg(any(test, fuzzing))]
pub(crate) use self::fuzz::fuzz;
use self::held::Grip;
use self::place::Place;
use self::queueing::{Queueing, describe};
use self::script::{Call, Keys, Operation, Reply, Status};
use super::retry::{CONNECTING, Patience, TRY_ON, patiently, within};
use super::{
    Acquired, Ask, Attempt, Backend, Cancel, Error, Finding, GivenBack, Lease, Name, Pending,
    Permit, Revocation, Snapshot, StoreError, Takeover, Turn,
};

/// How many names are looked at in one round trip. Other clients wait for that, so it has to be
/// done in a few milliseconds.
const TOGETHER: usize = 100;

/// The Redis backend.
pub(crate) struct Redis {
    shared: Rc<Shared>,
}

impl Redis {
    pub(crate) fn new(place: Place) -> Result<Self, Error> {
        let shown = place.url.shown();
        let dialler = Dialler::new(&place);
        let dialler = dialler.map_err(|error| StoreError::Tls(Box::new(error)).of(&shown))?;
        let connection = Connection::new(dialler);
        Ok(Self { shared: Rc::new(Shared { place, shown, connection }) })
    }

    /// Repeats a call for one permit until there is an answer, as long as that makes sense; also
    /// returns the number of attempts.
    async fn repeat(
        &self,
        name: &Name,
        operation: Operation,
        id: Uuid,
    ) -> Result<(Reply, u32), StoreError> {
        let keys = Keys::new(&self.shared.place.prefix, name);
        let call = Call::of(operation, id, &self.shared.place);
        let mut attempts = 0;
        let reply = patiently(TRY_ON, async || {
            attempts += 1;
            self.shared.connection.call(&keys, &call).await
        })
        .await?;
        Ok((reply, attempts))
    }
}

impl Backend for Redis {
    fn begin(&self, ask: &Ask) -> bool {
        let (turn, _notices) = Turn::channel();
        Queueing::new(Rc::clone(&self.shared), ask, &turn).begin();
        self.shared.connection.has_reached()
    }

    fn acquire<'a>(
        &'a self,
        ask: &'a Ask,
        turn: &'a Turn,
        mut cancel: Cancel,
    ) -> Pending<'a, Result<Acquired, Error>> {
        Box::pin(async move {
            let mut queueing = Queueing::new(Rc::clone(&self.shared), ask, turn);
            let done = tokio::select! {
                biased;
                done = queueing.advance() => Some(done),
                () = cancel.cancelled() => None,
            };
            match done {
                Some(Ok(acquired)) => Ok(acquired),
                Some(Err(error)) => {
                    let _ = queueing.leave().await;
                    Err(error)
                }
                None => {
                    queueing.call_off().await;
                    Ok(Acquired::Cancelled)
                }
            }
        })
    }

    fn observe<'a>(&'a self, name: &'a Name) -> Pending<'a, Result<Snapshot, Error>> {
        Box::pin(async move {
            let looked = patiently(TRY_ON, async || self.shared.look(name).await).await;
            looked.map_err(|error| self.shared.error(Attempt::Look(name.clone()), error))
        })
    }

    fn observe_all(&self) -> Pending<'_, Result<Vec<Snapshot>, Error>> {
        Box::pin(async move {
            let names = self.shared.names().await?;
            let mut snapshots = Vec::with_capacity(names.len());
            let mut patience = Patience::new();
            for names in names.chunks(TOGETHER) {
                if let Ok(mut looked) = within(CONNECTING, self.shared.look_at_each(names)).await {
                    snapshots.append(&mut looked);
                    continue;
                }
                // One after the other shows which of them fails, and whether that passes.
                for name in names {
                    snapshots.push(self.shared.look_among(name, &mut patience).await?);
                }
            }
            // An error of all of them is one of the server, or of our rights there.
            let of_all = snapshots.iter().all(|one| one.odd.is_some() && one.holders.is_empty());
            match snapshots.first_mut().and_then(|first| first.odd.take_if(|_| of_all)) {
                Some(odd) => Err(self.shared.error(Attempt::LookAtAny, odd)),
                None => Ok(snapshots),
            }
        })
    }

    fn withdraw<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        patience: Duration,
    ) -> Pending<'a, Result<(), Error>> {
        Box::pin(async move {
            let keys = Keys::new(&self.shared.place.prefix, name);
            let call = Call::of(Operation::Release, id, &self.shared.place);
            let withdrawn = self.shared.withdraw(&keys, &call, patience).await;
            withdrawn.map_err(|error| self.shared.error(Attempt::Withdraw(name.clone()), error))
        })
    }

    fn attach<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
    ) -> Pending<'a, Result<Option<Box<dyn Lease>>, Error>> {
        Box::pin(async move {
            let attached = self.repeat(name, Operation::Attach, id).await;
            let (reply, _) = attached
                .map_err(|error| self.shared.error(Attempt::Renew(Permit::of(name, id)), error))?;
            let Some(record) = reply.whose.as_ref().filter(|_| reply.status == Status::Holding)
            else {
                return Ok(None);
            };
            let (shared, who) = (Rc::clone(&self.shared), describe(&record.who));
            let lease = Grip::lease(shared, name, id, who, &reply);
            Ok(Some(Box::new(lease) as Box<dyn Lease>))
        })
    }

    fn give_back<'a>(&'a self, name: &'a Name, id: Uuid) -> Pending<'a, Result<GivenBack, Error>> {
        Box::pin(async move {
            let returned = self.repeat(name, Operation::Return, id).await;
            let (reply, _) = returned.map_err(|error| {
                self.shared.error(Attempt::GiveBack(Permit::of(name, id)), error)
            })?;
            Ok(match reply.status {
                Status::Returned => GivenBack::Now,
                Status::Done => GivenBack::Before,
                _ => GivenBack::Unknown,
            })
        })
    }

    fn revoke<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        how: Revocation,
    ) -> Pending<'a, Result<bool, Error>> {
        Box::pin(async move {
            let operation = match how {
                Revocation::Gently => Operation::Revoke,
                Revocation::Now => Operation::Remove,
            };
            let revoked = self.repeat(name, operation, id).await;
            let (reply, attempts) = revoked
                .map_err(|error| self.shared.error(Attempt::Revoke(Permit::of(name, id)), error))?;
            Ok(match reply.status {
                Status::Revoked => true,
                // By an attempt of ours that lost its answer, or by another client before.
                Status::Done => attempts > 1,
                _ => false,
            })
        })
    }

    fn set_limit<'a>(
        &'a self,
        name: &'a Name,
        limit: Option<u32>,
    ) -> Pending<'a, Result<(), Error>> {
        Box::pin(async move {
            let keys = Keys::new(&self.shared.place.prefix, name);
            let place = &self.shared.place;
            let limit = limit.unwrap_or(0);
            let call = Call { limit, ..Call::of(Operation::Limit, Uuid::nil(), place) };
            let set = patiently(TRY_ON, async || self.shared.connection.call(&keys, &call).await);
            set.await
                .map(drop)
                .map_err(|error| self.shared.error(Attempt::SetLimit(name.clone()), error))
        })
    }

    fn examine(&self) -> Pending<'_, Result<Vec<Finding>, Error>> {
        Box::pin(async move {
            let examined = patiently(TRY_ON, async || self.shared.examine().await).await;
            examined.map_err(|error| self.shared.error(Attempt::Examine, error))
        })
    }

    fn takeover(&self) -> Pending<'_, Takeover> {
        Box::pin(self.shared.takeover())
    }

    fn reports(&self) -> bool {
        true
    }

    fn url(&self) -> String {
        self.shared.shown.clone()
    }
}

/// Whether a name or prefix can be part of a key: braces would move its keys apart in a cluster.
pub(crate) fn can_name(text: &str) -> bool {
    !text.contains(['{', '}'])
}
