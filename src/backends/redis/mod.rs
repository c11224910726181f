//! Permits in Redis, in the very sorted set that PassBuddy keeps, with a queue, fencing tokens and
//! holder details beside it. Everything is decided by one script on the server's clock;
//! `docs/redis.md` has the keys and the reasons.

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

use redis::{Cmd, Value, cmd};
use uuid::Uuid;

use self::connection::{Connection, optional};
use self::conversation::Dialler;
use self::examine::Info;
#[cfg(any(test, fuzzing))]
pub(crate) use self::fuzz::fuzz;
use self::held::Grip;
use self::place::Place;
use self::queueing::{Queueing, describe};
use self::script::{Call, Keys, Operation, Reply, Status};
use super::trouble::{CONNECTING, Patience, TRY_ON, Trouble, TroubleKind, patiently, within};
use super::{
    Acquired, Ask, Backend, Cancel, Error, ErrorKind, Eviction, Finding, GivenBack, Lease, Name,
    Pending, Snapshot, Takeover, Turn,
};

/// A waiter asks again at least as often, so that others see that it lives.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// How many names are looked at in one round trip. What others ask of the server waits for that, so it
/// is to be done in a few milliseconds.
const TOGETHER: usize = 100;

/// The Redis backend.
pub(crate) struct Redis {
    shared: Rc<Shared>,
}

struct Shared {
    place: Place,
    shown: String,
    connection: Connection,
}

impl Redis {
    pub(crate) fn new(place: Place) -> Result<Self, Error> {
        let shown = place.url.shown();
        let dialler = Dialler::new(&place).map_err(|problem| Error {
            kind: ErrorKind::Unsupported,
            backend: shown.clone(),
            what: format!("cannot use the certificates: {problem}"),
            source: None,
        })?;
        let connection = Connection::new(dialler);
        Ok(Self { shared: Rc::new(Shared { place, shown, connection }) })
    }

    /// Calls for one permit until there is an answer, for as long as that makes sense; also how often
    /// that took.
    async fn repeat(
        &self,
        name: &Name,
        operation: Operation,
        id: Uuid,
    ) -> Result<(Reply, u32), Trouble> {
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

impl Shared {
    fn error(&self, doing: &str, trouble: Trouble) -> Error {
        trouble.while_doing(&self.shown, doing)
    }

    /// What has to be known of a server before a permit of it is used; none: whatever it answers.
    fn condition(&self) -> Option<Cmd> {
        let mut question = cmd("INFO");
        question.arg("memory");
        (!self.place.allow_eviction).then_some(question)
    }

    /// A server that evicts keys loses permits.
    fn check_eviction(info: Value) -> Result<(), Trouble> {
        // Where it is not to be had the script finds the same, and the user is told once.
        let info = optional(info).map(Info::new);
        let Some(policy) = info.as_ref().and_then(Info::evicts) else { return Ok(()) };
        Err(Trouble::lasting(format!(
            "the server may evict keys under memory pressure (maxmemory-policy {policy}), and permits with \
             them; set maxmemory-policy to noeviction, or take that risk with --allow-eviction"
        )))
    }

    async fn look(&self, name: &Name) -> Result<Snapshot, Trouble> {
        let keys = Keys::new(&self.place.prefix, name);
        self.connection.look(&keys, name, &self.place).await
    }

    /// The same of one among many. The server answers, so what it says is of this one alone: that must not
    /// hide the others.
    async fn look_among(&self, name: &Name, patience: &mut Patience) -> Result<Snapshot, Error> {
        let looked = patience.with(async || match self.look(name).await {
            Err(trouble) if trouble.kind != TroubleKind::Away => {
                Ok(Snapshot::odd(name, trouble.what))
            }
            looked => looked,
        });
        looked.await.map_err(|trouble| self.error(&format!("look at '{name}'"), trouble))
    }

    /// The same in one round trip.
    async fn look_at_each(&self, names: &[Name]) -> Result<Vec<Snapshot>, Trouble> {
        let keys: Vec<_> = names.iter().map(|name| Keys::new(&self.place.prefix, name)).collect();
        self.connection.look_at_each(&keys, names, &self.place).await
    }

    /// Releases until it is known to be done, or `patience` is over.
    async fn withdraw(
        &self,
        keys: &Keys,
        call: &Call<'_>,
        patience: Duration,
    ) -> Result<(), Trouble> {
        patiently(patience, async || self.connection.call(keys, call).await).await?;
        Ok(())
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
            looked.map_err(|trouble| self.shared.error(&format!("look at '{name}'"), trouble))
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
                // Which of them is in the way, and whether it passes, shows one after the other.
                for name in names {
                    snapshots.push(self.shared.look_among(name, &mut patience).await?);
                }
            }
            // What is wrong with all of them is wrong with the server, or with what we may do there.
            let of_all = snapshots.iter().all(|one| one.odd.is_some() && one.holders.is_empty());
            match snapshots.first_mut().and_then(|first| first.odd.take_if(|_| of_all)) {
                Some(odd) => Err(self.shared.error("look at any of them", Trouble::lasting(odd))),
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
            withdrawn.map_err(|trouble| {
                self.shared.error(&format!("give back the permit of '{name}'"), trouble)
            })
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
                .map_err(|trouble| self.shared.error(&format!("renew {id}@{name}"), trouble))?;
            let Some(record) = reply.whose.as_ref().filter(|_| reply.status == Status::Held) else {
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
            let (reply, _) = returned
                .map_err(|trouble| self.shared.error(&format!("give back {id}@{name}"), trouble))?;
            Ok(match reply.status {
                Status::Returned => GivenBack::Now,
                Status::Done => GivenBack::Before,
                _ => GivenBack::Unknown,
            })
        })
    }

    fn evict<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        how: Eviction,
    ) -> Pending<'a, Result<bool, Error>> {
        Box::pin(async move {
            let operation = match how {
                Eviction::Gently => Operation::Evict,
                Eviction::Now => Operation::Remove,
            };
            let evicted = self.repeat(name, operation, id).await;
            let (reply, attempts) = evicted
                .map_err(|trouble| self.shared.error(&format!("evict {id}@{name}"), trouble))?;
            Ok(match reply.status {
                Status::Evicted => true,
                // By an attempt of ours whose answer was lost, or by somebody before.
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
            set.await.map(drop).map_err(|trouble| {
                self.shared.error(&format!("set the limit of '{name}'"), trouble)
            })
        })
    }

    fn examine(&self) -> Pending<'_, Result<Vec<Finding>, Error>> {
        Box::pin(async move {
            let examined = patiently(TRY_ON, async || self.shared.examine().await).await;
            examined.map_err(|trouble| self.shared.error("examine the server", trouble))
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
