//! Permits in Redis, in the very sorted set that PassBuddy keeps, with a queue, fencing tokens and
//! holder details beside it. Everything is decided by one script on the server's clock;
//! `docs/redis.md` has the keys and the reasons.

mod connection;
mod held;
#[cfg(feature = "mutants")]
mod mutants;
pub(crate) mod place;
mod queueing;
mod script;
#[cfg(test)]
#[path = "../../../tests/cli/redis_server.rs"]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::time::Duration;

use redis::cmd;
use uuid::Uuid;

use self::connection::Connection;
use self::place::Place;
use self::queueing::Queueing;
use self::script::{Call, Keys, Operation};
use super::trouble::{TRY_ON, Trouble, patiently};
use super::{Acquired, Ask, Backend, Cancel, Error, ErrorKind, Name, Pending, Snapshot, Turn};

/// A waiter asks again at least as often, so that others see that it lives.
const HEARTBEAT: Duration = Duration::from_secs(5);

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
        let client = place.client().map_err(|error| Error {
            kind: ErrorKind::Unsupported,
            backend: shown.clone(),
            what: format!("cannot use the certificates: {}", connection::one_line(&error)),
            source: None,
        })?;
        let connection = Connection::new(client);
        Ok(Self { shared: Rc::new(Shared { place, shown, connection }) })
    }
}

impl Shared {
    fn error(&self, doing: &str, trouble: Trouble) -> Error {
        trouble.while_doing(&self.shown, doing)
    }

    /// A server that evicts keys loses permits.
    async fn check_eviction(&self) -> Result<(), Trouble> {
        if self.place.allow_eviction {
            return Ok(());
        }
        let info: String = match self.connection.ask(cmd("INFO").arg("memory")).await {
            Ok(info) => info,
            // An ACL may forbid it; the script finds the same, and the user is told once.
            Err(trouble) if trouble.what.contains("NOPERM") => return Ok(()),
            Err(trouble) => return Err(trouble),
        };
        let field = |name: &str| {
            let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.unwrap_or_default().trim()
        };
        let (most, policy) = (field("maxmemory"), field("maxmemory_policy"));
        if most == "0" || policy == "noeviction" || policy.is_empty() {
            return Ok(());
        }
        Err(Trouble::lasting(format!(
            "the server may evict keys under memory pressure (maxmemory-policy {policy}), and permits with \
             them; set maxmemory-policy to noeviction, or take that risk with --allow-eviction"
        )))
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
            let keys = Keys::new(&self.shared.place.prefix, name);
            let shared = &self.shared;
            let look = async || shared.connection.look(&keys, name, HEARTBEAT).await;
            let looked = patiently(TRY_ON, look).await;
            looked.map_err(|trouble| shared.error(&format!("look at '{name}'"), trouble))
        })
    }

    /// Goes through all keys step by step; no other client has to wait for that.
    fn list(&self) -> Pending<'_, Result<Vec<Name>, Error>> {
        Box::pin(async move {
            let prefix = format!("{}-", self.shared.place.prefix);
            let mut names = Vec::new();
            for (before, after) in [("", ""), ("{", "}:queue")] {
                let pattern = format!("{}{}*{}", before, glob_escaped(&prefix), after);
                let mut cursor = 0_u64;
                loop {
                    let mut scan = cmd("SCAN");
                    scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(1000);
                    let step = async || {
                        let connection = &self.shared.connection;
                        let (next, keys): (u64, Vec<Vec<u8>>) = connection.ask(&scan).await?;
                        let mut found = Vec::new();
                        for key in keys {
                            let kind: String = connection.ask(cmd("TYPE").arg(&key)).await?;
                            if kind == "zset" {
                                found.push(key);
                            }
                        }
                        Ok((next, found))
                    };
                    let listed = patiently(TRY_ON, step).await;
                    let (next, keys) = listed
                        .map_err(|trouble| self.shared.error("list the semaphores", trouble))?;
                    names.extend(keys.into_iter().filter_map(|key| {
                        let key = String::from_utf8(key).ok()?;
                        let name = key.strip_prefix(before)?.strip_suffix(after)?;
                        let name = name.strip_prefix(&prefix)?;
                        if can_name(name) { name.parse().ok() } else { None }
                    }));
                    cursor = next;
                    if cursor == 0 {
                        break;
                    }
                }
            }
            names.sort_unstable();
            names.dedup();
            Ok(names)
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
            let call = Call {
                operation: Operation::Release,
                id,
                limit: 1,
                ttl: HEARTBEAT,
                who: "",
                ticket: 0,
                token: 0,
                quarantine: self.shared.place.quarantine,
                window: HEARTBEAT,
                nonblock: false,
                strict: false,
            };
            let withdrawn = self.shared.withdraw(&keys, &call, patience).await;
            withdrawn.map_err(|trouble| {
                self.shared.error(&format!("give back the permit of '{name}'"), trouble)
            })
        })
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

fn glob_escaped(text: &str) -> String {
    let special = |c: char| "*?[]^\\".contains(c);
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}
