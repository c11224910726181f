//! A store over one plain file with a lock: all of its rules are here, and the library does the rest.
//! It is held against the contract when it runs, and by `cargo test --example file_store`.
//!
//!     cargo run --example file_store --features contract

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use semrun::custom_store::{
    BoxFuture, ClientInfo, CustomStore, HolderStanding, HolderState, Operation, Outcome, Record,
    Reply, Request, Revocation, Standing, Terms, Wakeup, Wakeups,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How long a waiter's permit is kept until it says that it has it, in ms.
const UNCLAIMED: u64 = 5_000;
/// How often a client looks whether it is told anything.
const LOOK: Duration = Duration::from_millis(20);

struct FileStore(PathBuf);

#[derive(Default, Serialize, Deserialize)]
struct Content {
    semaphores: BTreeMap<String, State>,
    told: Told,
}

/// What clients are told: client, permit, and if that was revoked, whether at once.
type Told = Vec<(Uuid, Uuid, Option<bool>)>;

/// Moments are milliseconds since 1970.
#[derive(Default, Serialize, Deserialize)]
struct State {
    limit: u32,
    ttl: u64,
    pinned: Option<u32>,
    token: u64,
    holders: Vec<Held>,
    queue: Vec<Waiting>,
    /// Detached permits that were released.
    released: Vec<Uuid>,
}

#[derive(Serialize, Deserialize)]
struct Waiting {
    record: Record,
    listener: Uuid,
    min_hold: u64,
    /// Until when it counts unless it asks again.
    until: u64,
}

#[derive(Serialize, Deserialize)]
struct Held {
    record: Record,
    listener: Uuid,
    token: u64,
    state: HolderState,
    /// Whether its client knows that it has it.
    claimed: bool,
    lease: u64,
    hold: u64,
}

impl Held {
    fn end(&self) -> u64 {
        match self.state {
            HolderState::Holding => self.lease.max(self.hold),
            HolderState::Revoking => self.lease,
            HolderState::MinHold => self.hold,
        }
    }
}

fn now() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn time(from: u64, to: u64) -> Duration {
    Duration::from_millis(to.saturating_sub(from))
}

impl FileStore {
    /// Does something with the content while no other process does.
    fn with<T>(&self, change: impl FnOnce(&mut Content) -> T) -> io::Result<T> {
        let lock = File::create(self.0.with_extension("lock"))?;
        lock.lock()?;
        let before = fs::read(&self.0).unwrap_or_default();
        let mut content: Content =
            if before.is_empty() { Content::default() } else { serde_json::from_slice(&before)? };
        let result = change(&mut content);
        let after = serde_json::to_vec(&content)?;
        if after != before {
            // A crash leaves the old file or the new one.
            let new = self.0.with_extension("new");
            fs::write(&new, after)?;
            fs::rename(new, &self.0)?;
        }
        Ok(result)
    }
}

impl State {
    fn limit(&self) -> u32 {
        self.pinned.unwrap_or(self.limit)
    }

    /// Drops what has ended, and gives what is free to those in line.
    fn settle(&mut self, told: &mut Told) {
        let now = now();
        self.queue.retain(|waiter| waiter.until > now);
        self.holders.retain(|holder| holder.end() > now);
        while self.holders.len() < self.limit() as usize && !self.queue.is_empty() {
            let Waiting { record, listener, min_hold, .. } = self.queue.remove(0);
            self.token += 1;
            told.push((listener, record.permit, None));
            let (token, state, claimed) = (self.token, HolderState::Holding, false);
            let (lease, hold) = (now + self.ttl.min(UNCLAIMED), now + min_hold);
            self.holders.push(Held { record, listener, token, state, claimed, lease, hold });
        }
    }

    fn held(&mut self, id: Uuid) -> Option<&mut Held> {
        self.holders.iter_mut().find(|holder| holder.record.permit == id)
    }

    fn reply(&self, outcome: Outcome) -> Reply {
        let (limit, ttl) = (self.limit(), Duration::from_millis(self.ttl));
        Reply {
            held: self.holders.len(),
            terms: Terms { limit, ttl, ..Terms::default() },
            pinned: self.pinned.is_some(),
            agreed: self.limit,
            ..Reply::new(outcome)
        }
    }

    fn execute(&mut self, request: &Request, told: &mut Told) -> Reply {
        let id = request.id;
        self.settle(told);
        let outcome = match request.operation {
            Operation::Acquire => return self.acquire(request, told),
            Operation::Renew => return self.extend(request, |_| true),
            Operation::Attach => return self.extend(request, |who| who.detached),
            Operation::Release | Operation::Leave => {
                self.release(id, request.operation == Operation::Leave);
                Outcome::Lost
            }
            Operation::ReleaseDetached => {
                let detached =
                    |one: &mut Held| one.record.who.detached && one.state != HolderState::MinHold;
                if self.held(id).is_some_and(detached) {
                    self.release(id, false);
                    Outcome::Released
                } else if self.released.contains(&id) {
                    Outcome::Done
                } else {
                    Outcome::Lost
                }
            }
            Operation::Revoke(how) => {
                let Some(held) = self.held(id) else { return self.reply(Outcome::Lost) };
                told.push((held.listener, id, Some(how == Revocation::Forced)));
                let keeps = held.state != HolderState::MinHold && held.claimed;
                if how == Revocation::Graceful && keeps {
                    held.state = HolderState::Revoking;
                } else {
                    self.holders.retain(|holder| holder.record.permit != id);
                }
                Outcome::Revoked
            }
            Operation::Pin | Operation::Unpin => {
                self.pinned = (request.operation == Operation::Pin).then_some(request.terms.limit);
                Outcome::Done
            }
        };
        self.settle(told);
        // What the first in line has heard of may end sooner now.
        told.extend(self.queue.first().map(|waiter| (waiter.listener, waiter.record.permit, None)));
        self.reply(outcome)
    }

    fn acquire(&mut self, request: &Request, told: &mut Told) -> Reply {
        let (id, now) = (request.id, now());
        if self.holders.is_empty() && self.queue.is_empty() {
            (self.limit, self.ttl) = (request.terms.limit, millis(request.terms.ttl));
        }
        let other = self.limit() != request.terms.limit || self.ttl != millis(request.terms.ttl);
        let until = now + millis(request.window);
        if self.held(id).is_none() {
            if request.terms.strict && other {
                return self.reply(Outcome::Differs);
            }
            if let Some(waiter) = self.queue.iter_mut().find(|one| one.record.permit == id) {
                waiter.until = until;
            } else {
                let Some(client) = &request.client else { return self.reply(Outcome::Lost) };
                let record = Record::at(id, (**client).clone(), SystemTime::now());
                let (listener, min_hold) = (request.listener, millis(request.terms.min_hold));
                self.queue.push(Waiting { record, listener, min_hold, until });
            }
            self.settle(told);
        }
        if self.held(id).is_some() {
            return self.extend(request, |_| true);
        }
        if request.nonblock {
            self.queue.retain(|waiter| waiter.record.permit != id);
            return self.reply(Outcome::Busy);
        }
        let ahead = self.queue.iter().position(|waiter| waiter.record.permit == id);
        let oldest = self.holders.first();
        Reply {
            ahead: ahead.unwrap_or(0),
            record: oldest.map(|holder| holder.record.clone()),
            next: self.holders.iter().map(|holder| time(now, holder.end())).min(),
            ..self.reply(Outcome::Waiting)
        }
    }

    /// The client is there: it has the permit for one TTL from now.
    fn extend(&mut self, request: &Request, may: impl FnOnce(&ClientInfo) -> bool) -> Reply {
        let lease = now() + self.ttl;
        let outcome = match self.held(request.id) {
            Some(held) if held.state == HolderState::Holding && may(&held.record.who) => {
                (held.claimed, held.lease, held.listener) = (true, lease, request.listener);
                let (token, record) = (held.token, Some(held.record.clone()));
                return Reply { token, record, ..self.reply(Outcome::Holding) };
            }
            Some(held) if held.state == HolderState::Revoking => Outcome::Revoked,
            _ => Outcome::Lost,
        };
        self.reply(outcome)
    }

    /// `unused`: its client has never known of the permit, so that nothing keeps it.
    fn release(&mut self, id: Uuid, unused: bool) {
        self.queue.retain(|waiter| waiter.record.permit != id);
        let Some(held) = self.held(id) else { return };
        let detached = held.record.who.detached;
        if held.state == HolderState::Holding && held.hold > now() && !unused {
            held.state = HolderState::MinHold;
        } else if held.state != HolderState::MinHold {
            self.holders.retain(|holder| holder.record.permit != id);
        }
        self.released.extend(detached.then_some(id));
    }

    fn standing(&self, name: &str) -> Standing {
        let used = !self.holders.is_empty() || !self.queue.is_empty();
        let standing = |holder: &Held| HolderStanding {
            token: holder.token,
            record: holder.record.clone(),
            state: holder.state,
            left: time(now(), holder.end()),
        };
        Standing {
            name: name.into(),
            limit: self.pinned.or(used.then_some(self.limit)),
            pinned: self.pinned.is_some(),
            ttl: used.then_some(Duration::from_millis(self.ttl)),
            holders: self.holders.iter().map(standing).collect(),
            waiters: self.queue.iter().map(|waiter| waiter.record.clone()).collect(),
        }
    }
}

impl CustomStore for FileStore {
    fn execute<'a>(
        &'a self,
        name: &'a str,
        request: &'a Request,
    ) -> BoxFuture<'a, io::Result<Reply>> {
        Box::pin(async move {
            self.with(|Content { semaphores, told }| {
                semaphores.entry(name.into()).or_default().execute(request, told)
            })
        })
    }

    fn listen(&self, listener: Uuid, wakeups: Wakeups) -> BoxFuture<'static, io::Error> {
        let store = Self(self.0.clone());
        Box::pin(async move {
            loop {
                let told = store.with(|Content { told, .. }| {
                    told.extract_if(.., |(whom, ..)| *whom == listener).collect::<Told>()
                });
                let told = match told {
                    Ok(told) => told,
                    Err(error) => return error,
                };
                for (_, id, revoked) in told {
                    let how = |now| if now { Revocation::Forced } else { Revocation::Graceful };
                    let revoked = revoked.map(|now| Wakeup::Revoked { how: how(now), fresh: true });
                    wakeups.send(id, revoked.unwrap_or(Wakeup::Ask));
                }
                tokio::time::sleep(LOOK).await;
            }
        })
    }

    fn standings<'a>(&'a self, name: Option<&'a str>) -> BoxFuture<'a, io::Result<Vec<Standing>>> {
        Box::pin(async move {
            self.with(|Content { semaphores, told }| {
                let known =
                    semaphores.iter_mut().filter(|(one, _)| name.is_none_or(|name| name == *one));
                known
                    .filter_map(|(name, state)| {
                        state.settle(told);
                        let standing = state.standing(name);
                        standing.limit.is_some().then_some(standing)
                    })
                    .collect()
            })
        })
    }

    fn url(&self) -> &'static str {
        "file-store:"
    }
}

/// Holds the store against each behaviour that is owed, all at once. Returns those that fail.
fn failures() -> Vec<&'static str> {
    let checks = semrun::contract::behaviours().iter().map(|behaviour| {
        let check = move || {
            let directory = tempfile::tempdir().expect("a directory");
            let file = directory.path().join("store");
            behaviour.check(move || FileStore(file.clone()));
        };
        (behaviour.name(), std::thread::spawn(check))
    });
    let checks: Vec<_> = checks.collect();
    checks.into_iter().filter_map(|(name, check)| check.join().is_err().then_some(name)).collect()
}

fn main() {
    let failures = failures();
    let all = semrun::contract::behaviours().len();
    println!("{} of {all} behaviours", all - failures.len());
    assert!(failures.is_empty(), "{failures:?}");
}

#[test]
fn it_behaves_as_the_contract_says() {
    assert_eq!(failures(), [""; 0]);
}
