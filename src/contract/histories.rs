//! Random histories in which a backend is compared with the ledger step by step.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use uuid::Uuid;

use semrun_testkit::redis_server::RedisServer;

use super::backends::{local, memory, redis_at, served};
use super::*;
use crate::backends::ledger::{Claim, Ledger};

#[derive(Debug, Clone)]
enum HistoryStep {
    Ask { who: u128, limit: u32 },
    Release { who: u128 },
    Vanish { who: u128 },
    Leave { who: u128 },
    Revoke { who: u128 },
    Pin(Option<u32>),
}

fn step() -> impl Strategy<Value = HistoryStep> {
    let who = 0..6_u128;
    prop_oneof![
        3 => (who.clone(), 1..4_u32).prop_map(|(who, limit)| HistoryStep::Ask { who, limit }),
        2 => who.clone().prop_map(|who| HistoryStep::Release { who }),
        1 => who.clone().prop_map(|who| HistoryStep::Vanish { who }),
        1 => who.clone().prop_map(|who| HistoryStep::Leave { who }),
        1 => who.prop_map(|who| HistoryStep::Revoke { who }),
        1 => prop::option::of(1..4_u32).prop_map(HistoryStep::Pin),
    ]
}

/// Where one client of a history is.
enum HistoryClient {
    Asking(PendingAcquire),
    Holding(Box<dyn Lease>),
}

/// Drives a backend and the ledger with one history; after each step both must show the same
/// holders, waiters and limit.
async fn same_as_the_ledger(store: TestedBackend, steps: Vec<HistoryStep>) {
    let mut ledger = Ledger::default();
    let mut clients: HashMap<u128, (Uuid, HistoryClient)> = HashMap::new();
    let now = Duration::ZERO;
    for (position, step) in (0_u128..).zip(steps) {
        match step {
            HistoryStep::Ask { who, limit } => {
                if clients.contains_key(&who) {
                    continue;
                }
                // Each asks under an identity that was never used before.
                let id = Uuid::from_u128(position << 8 | who);
                let asked = AcquireRequest { id, ..request("a", limit) };
                ledger.request(now, Claim::new(id, asked.terms, ()), None);
                let asking = store.request(asked);
                clients.insert(who, (id, HistoryClient::Asking(asking)));
            }
            HistoryStep::Release { who }
            | HistoryStep::Vanish { who }
            | HistoryStep::Leave { who } => {
                let holds = matches!(clients.get(&who), Some((_, HistoryClient::Holding(_))));
                if holds == matches!(step, HistoryStep::Leave { .. }) {
                    continue;
                }
                let Some((id, client)) = clients.remove(&who) else { continue };
                match client {
                    HistoryClient::Holding(lease)
                        if matches!(step, HistoryStep::Release { .. }) =>
                    {
                        lease.release(PATIENCE).await.unwrap();
                    }
                    HistoryClient::Holding(lease) => drop(lease),
                    HistoryClient::Asking(asking) => {
                        asking.canceller.cancel();
                        asking.acquiring.await.unwrap().unwrap();
                    }
                }
                ledger.release(now, id);
            }
            HistoryStep::Revoke { who } => {
                let Some((id, client)) = clients.remove(&who) else { continue };
                let held = ledger.holding(id).is_some();
                assert_eq!(store.revoke("a", id, Revocation::Forced).await, held);
                ledger.revoke(now, id, Revocation::Forced);
                if let HistoryClient::Asking(asking) = client {
                    clients.insert(who, (id, HistoryClient::Asking(asking)));
                }
            }
            HistoryStep::Pin(limit) => {
                store.set_limit("a", limit).await;
                ledger.pin(now, limit);
            }
        }
        let held: Vec<_> = ledger.holders().map(|one| one.claim.id).collect();
        let waiting: Vec<_> = ledger.waiters().map(|one| one.id).collect();
        let limit = ledger.limit();
        store.becomes("a", limit, &held, &waiting).await;
        for id in held {
            let who = id.as_u128() & 0xff;
            let holding = match clients.remove(&who).expect("it asked") {
                (_, HistoryClient::Asking(asking)) => asking.granted().await,
                (_, HistoryClient::Holding(lease)) => lease,
            };
            clients.insert(who, (id, HistoryClient::Holding(holding)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn memory_follows_the_ledger(mut steps in prop::collection::vec(step(), 0..40)) {
        // There a vanished client is missed only at the end of a TTL, and histories know no time.
        steps.retain(|step| !matches!(step, HistoryStep::Vanish { .. }));
        settle(same_as_the_ledger(memory(Lifetime::Long), steps));
    }

    #[test]
    fn redis_follows_the_ledger(mut steps in prop::collection::vec(step(), 0..40)) {
        thread_local! {
            static SERVER: Arc<RedisServer> = Arc::new(RedisServer::start());
        }
        steps.retain(|step| !matches!(step, HistoryStep::Vanish { .. }));
        settle(same_as_the_ledger(redis_at(SERVER.with(Arc::clone), Lifetime::Long), steps));
    }

    #[test]
    fn a_server_follows_the_ledger(mut steps in prop::collection::vec(step(), 0..40)) {
        steps.retain(|step| !matches!(step, HistoryStep::Vanish { .. }));
        settle(same_as_the_ledger(served(Lifetime::Long), steps));
    }

    #[test]
    fn local_follows_the_ledger(steps in prop::collection::vec(step(), 0..40)) {
        settle(same_as_the_ledger(local(Lifetime::Long), steps));
    }
}
