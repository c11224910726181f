//! What a client learns about its permit, and about the server.

use std::future::Future;

use super::*;
use crate::backends::redis::RedisStore;
use crate::clock;
use crate::engine::LeaseClient;
use crate::permits::finding::FindingKind;
use crate::permits::{
    AcquireRequest, Acquisition, Attempt, Backend, BackendError, CancelToken, Finding, Grade,
    Lease, Loss, LossReason, LossStage, ProgressSender, Revocation, StoreError,
};

const SOON: Duration = Duration::from_secs(5);

impl RedisWorld {
    fn client(&self) -> LeaseClient<RedisStore> {
        LeaseClient::new(RedisStore::new(self.config()).unwrap())
    }

    fn examine(&self, config: RedisConfig) -> Vec<Finding> {
        let client = LeaseClient::new(RedisStore::new(config).unwrap());
        self.runtime.block_on(async { client.diagnose().await.unwrap() })
    }

    /// How many clients wait on a list.
    fn listeners(&self) -> u64 {
        let info: String = self.server.ask(&["INFO", "clients"]);
        let blocked = info.lines().find_map(|line| line.strip_prefix("blocked_clients:"));
        blocked.unwrap().trim().parse().unwrap()
    }

    async fn hears(&self, lease: &mut dyn Lease) {
        let listens = async {
            while self.listeners() == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            lost = lease.lost() => panic!("{lost:?}"),
            () = soon(listens) => {}
        }
    }
}

/// Where a client is told of its permits.
fn list_of(client: &LeaseClient<RedisStore>) -> String {
    format!("{{p-}}:wake:{}", client.listener())
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("soon")
}

fn an_ask() -> AcquireRequest {
    let terms = Terms { ttl: TTL, ..Terms::default() };
    AcquireRequest::of("a".parse().unwrap(), terms, serde_json::from_str(WHO).unwrap())
}

async fn acquired(
    client: &LeaseClient<RedisStore>,
    request: &AcquireRequest,
) -> Result<Acquisition, BackendError> {
    let progress = ProgressSender::unheard();
    let (_canceller, cancel) = CancelToken::pair();
    client.acquire(request, &progress, cancel).await
}

async fn granted(client: &LeaseClient<RedisStore>) -> Box<dyn Lease> {
    granted_as(client, &an_ask()).await
}

async fn granted_as(client: &LeaseClient<RedisStore>, request: &AcquireRequest) -> Box<dyn Lease> {
    match acquired(client, request).await.unwrap() {
        Acquisition::Granted(lease) => lease,
        Acquisition::Busy | Acquisition::Cancelled => panic!("not granted"),
    }
}

#[test]
fn a_holder_hears_at_once_that_it_was_revoked() {
    for (how, expected) in
        [(Revocation::Graceful, LossStage::Revoking), (Revocation::Forced, LossStage::Before)]
    {
        let world = RedisWorld::new();
        let client = world.client();
        world.runtime.block_on(async {
            let mut lease = granted(&client).await;
            world.hears(&mut *lease).await;
            assert!(client.revoke(&world.name, lease.permit().id, how).await.unwrap());
            let Loss { reason: why, stage: gone } = soon(lease.lost()).await;
            assert_eq!(gone, expected);
            assert_eq!(why, LossReason::Revoked { now: how == Revocation::Forced });
        });
    }
}

#[test]
fn who_has_just_been_revoked_at_once_knows_that_it_is_now() {
    let world = RedisWorld::new();
    let client = world.client();
    world.runtime.block_on(async {
        let mut lease = granted(&client).await;
        let listened = tokio::time::timeout(Duration::from_millis(5_500), lease.lost()).await;
        assert!(listened.is_err(), "{listened:?}");
        assert!(client.revoke(&world.name, lease.permit().id, Revocation::Forced).await.unwrap());
        assert_eq!(soon(lease.lost()).await.stage, LossStage::Now);
    });
}

#[test]
fn a_holder_that_could_not_hear_that_it_was_revoked_asks_as_soon_as_it_can() {
    for revoked in [false, true] {
        let world = RedisWorld::new();
        let client = world.client();
        world.runtime.block_on(async {
            let mut lease = granted(&client).await;
            let id = lease.permit().id;
            world.hears(&mut *lease).await;
            if revoked {
                assert!(client.revoke(&world.name, id, Revocation::Graceful).await.unwrap());
                assert_eq!(soon(lease.lost()).await.stage, LossStage::Revoking);
                world.hears(&mut *lease).await;
            }
            // What it would be told is not there any more when it is connected again.
            world.write(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
            assert!(client.revoke(&world.name, id, Revocation::Forced).await.unwrap());
            world.write(&["DEL", &list_of(&client)]);
            assert_eq!(soon(lease.lost()).await.stage, LossStage::Before);
        });
    }
}

#[test]
fn a_message_that_is_left_over_from_waiting_does_no_harm() {
    let world = RedisWorld::new();
    let client = world.client();
    world.runtime.block_on(async {
        let mut lease = granted(&client).await;
        let (list, id) = (list_of(&client), lease.permit().id);
        for word in ["1795338000000000", "again"] {
            world.write(&["RPUSH", &list, &format!("{id} {word}")]);
        }
        // And of a permit that has gone, and of no permit at all.
        for word in [&format!("{} now", Uuid::new_v4()), "now", ""] {
            world.write(&["RPUSH", &list, word]);
        }
        world.hears(&mut *lease).await;
        assert!(world.server.ask::<Vec<String>>(&["LRANGE", &list, "0", "-1"]).is_empty());
        assert!(world.look_at().await.held(lease.permit().id).is_some());
        lease.release(SOON).await.unwrap();
    });
}

#[test]
fn a_short_command_has_one_connection() {
    let world = RedisWorld::new();
    let client = world.client();
    let connections =
        || world.server.ask::<String>(&["CLIENT", "LIST"]).lines().count().saturating_sub(1);
    world.runtime.block_on(async {
        let mut lease = granted(&client).await;
        let held = tokio::time::timeout(Duration::from_millis(500), lease.lost()).await;
        assert!(held.is_err(), "{held:?}");
        assert_eq!(connections(), 1);
        lease.release(SOON).await.unwrap();
    });
}

#[test]
fn what_was_begun_is_asked_once_and_counts_from_then() {
    let world = RedisWorld::new();
    // At first the server does not know the script; what is repeated then is no EVALSHA.
    for _ in 0..2 {
        let (client, request) = (world.client(), an_ask());
        world.write(&["CONFIG", "RESETSTAT"]);
        assert!(client.prefetch(&request));
        let begun = clock::now();
        world.runtime.block_on(async {
            let lease = granted_as(&client, &request).await;
            assert!(lease.validity().unwrap().borrow().since <= begun);
            lease.release(SOON).await.unwrap();
        });
        let stats: String = world.server.ask(&["INFO", "commandstats"]);
        assert!(stats.contains("cmdstat_evalsha:calls=2,"), "{stats}");
    }
}

#[test]
fn what_a_server_grants_that_may_forget_it_is_given_back() {
    let world = RedisWorld::new();
    world.write(&["CONFIG", "SET", "maxmemory", "1gb"]);
    world.write(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    for begins in [true, false] {
        let (client, request) = (world.client(), an_ask());
        assert!(!begins || client.prefetch(&request));
        let refused = world.runtime.block_on(acquired(&client, &request));
        let evicts = StoreError::Evicts { policy: "allkeys-lru".into() };
        assert!(refused.is_err_and(|error| error.cause == evicts));
        assert!(world.look().holders.is_empty());
    }
}

#[test]
fn a_server_that_refuses_clients_is_heard_saying_why() {
    let world = RedisWorld::new();
    let mut only = world.server.connection();
    let mut say = |words: &[&str]| redis::cmd(words[0]).arg(&words[1..]).exec(&mut only).unwrap();
    say(&["CONFIG", "SET", "maxclients", "1"]);
    say(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    // It says so and closes the connection before it was asked anything, or a little later.
    for attempt in 0..4 {
        let (client, request) = (world.client(), AcquireRequest { nonblock: true, ..an_ask() });
        if attempt % 2 == 0 {
            client.prefetch(&request);
        }
        let refused = world.runtime.block_on(acquired(&client, &request));
        let cause = refused.err().unwrap().cause;
        let StoreError::Refused(text) = &cause else { panic!("{cause}") };
        assert!(text.contains("max number of clients"), "{text}");
    }
}

#[test]
fn what_was_not_asked_for_is_not_taken_for_the_next_answer() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                while stream.read(&mut [0; 4096]).is_ok_and(|length| length > 0) {
                    stream.write_all(b"+OK\r\n+OK\r\n+ours\r\n+late\r\n").unwrap();
                }
            });
        }
    });
    let world = RedisWorld::new();
    let url = crate::backends::redis::config::RedisUrl::parse(&url).unwrap();
    let store = RedisStore::new(RedisConfig { url, ..world.config() }).unwrap();
    world.runtime.block_on(async {
        for _ in 0..3 {
            let answer: String =
                store.server.connection.request(&redis::cmd("PING")).await.unwrap();
            assert_eq!(answer, "ours");
        }
    });
}

#[test]
fn an_idle_semaphore_is_known_as_long_as_its_limit_is_pinned() {
    let world = RedisWorld::new();
    let client = world.client();
    world.runtime.block_on(async {
        granted(&client).await.release(SOON).await.unwrap();
        assert_eq!(client.observe_all().await.unwrap(), []);
        client.set_limit(&world.name, Some(3)).await.unwrap();
        let [only] = &client.observe_all().await.unwrap()[..] else { panic!("one") };
        assert_eq!((&only.name, only.limit, only.pinned), (&world.name, Some(3), true));
        client.set_limit(&world.name, None).await.unwrap();
        assert_eq!(client.observe_all().await.unwrap(), []);
    });
}

#[test]
fn keys_of_other_programs_are_no_semaphores_and_what_is_broken_hides_nothing() {
    let world = RedisWorld::new();
    let client = world.client();
    world.write(&["SET", "p-other", "text"]);
    world.write(&["HSET", "{p-other}:queue", "pin", "1"]);
    world.write(&["RPUSH", "{p-other}:state", "pin"]);
    world.runtime.block_on(async {
        let _lease = granted(&client).await;
        let alone = client.observe(&world.name).await.unwrap();
        let [only] = &client.observe_all().await.unwrap()[..] else { panic!("one") };
        assert_eq!((&only.name, only.limit), (&world.name, alone.limit));
        assert!(only.holders[0].id() == alone.holders[0].id() && alone.holders[0].id().is_some());
        world.write(&["ZADD", "p-broken", "1", "x"]);
        world.write(&["SET", "{p-broken}:grants", "text"]);
        let [whole, broken] = &client.observe_all().await.unwrap()[..] else { panic!("two") };
        assert_eq!((broken.name.as_str(), &whole.name, &whole.odd), ("broken", &world.name, &None));
        assert_eq!(broken.odd, Some(StoreError::NotASemaphore));
        let error = client.observe(&broken.name).await.unwrap_err();
        assert_eq!(error.attempt.as_deref(), Some(&Attempt::Look(broken.name.clone())));
        assert_eq!(error.cause, StoreError::NotASemaphore);
    });
}

fn grade(findings: &[Finding], topic: &str) -> Option<Grade> {
    findings.iter().find(|finding| finding.topic == topic).map(|finding| finding.grade)
}

#[test]
fn a_server_is_examined() {
    let world = RedisWorld::new();
    let findings = world.examine(world.config());
    assert!(matches!(findings[0].what, FindingKind::Redis { .. }), "{findings:#?}");
    for (topic, expected) in [
        ("server", Some(Grade::Ok)),
        ("eviction", Some(Grade::Ok)),
        ("clock", Some(Grade::Ok)),
        ("persistence", Some(Grade::Warning)),
        ("quarantine", Some(Grade::Warning)),
        ("role", None),
        ("memory", None),
        ("disk", None),
        ("encryption", None),
    ] {
        assert_eq!(grade(&findings, topic), expected, "{topic}: {findings:#?}");
    }
    world.write(&["CONFIG", "SET", "appendonly", "yes"]);
    assert_eq!(grade(&world.examine(world.config()), "persistence"), Some(Grade::Ok));
    world.write(&["CONFIG", "SET", "maxmemory", "1gb"]);
    world.write(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    assert_eq!(grade(&world.examine(world.config()), "eviction"), Some(Grade::Error));
    let config = RedisConfig { allow_eviction: true, ..world.config() };
    assert_eq!(grade(&world.examine(config), "eviction"), Some(Grade::Warning));
    world.write(&["REPLICAOF", "127.0.0.1", "1"]);
    assert_eq!(grade(&world.examine(world.config()), "role"), Some(Grade::Error));
}

#[test]
fn a_server_that_does_not_tell_all_is_examined_as_far_as_it_goes() {
    let world = RedisWorld::new();
    world.write(&["ACL", "SETUSER", "default", "-config"]);
    let findings = world.examine(world.config());
    assert_eq!(grade(&findings, "persistence"), Some(Grade::Warning));
    world.write(&["ACL", "SETUSER", "default", "-info"]);
    let findings = world.examine(world.config());
    let [server, clock] = &findings[..] else { panic!("{findings:#?}") };
    assert_eq!((server.grade, clock.grade), (Grade::Warning, Grade::Ok));
    assert_eq!(server.what, FindingKind::NoInfo);
}

#[test]
fn the_documented_rules_for_an_acl_allow_all_that_is_needed() {
    let page = include_str!("../../../../docs/redis.md");
    let rules = page.split_once("An ACL needs").unwrap().1.split_once('.').unwrap().0;
    let allowed = rules.split(['`', ' ', '\n', ',']).filter(|word| word.starts_with('+'));
    let world = RedisWorld::new();
    let client = world.client();
    let mut user = vec!["ACL", "SETUSER", "default", "resetkeys", "~p-*", "~{p-*}*", "-@all"];
    user.extend(allowed);
    world.write(&user);
    world.runtime.block_on(async {
        client.set_limit(&world.name, Some(1)).await.unwrap();
        let mut lease = granted(&client).await;
        let held = tokio::time::timeout(Duration::from_millis(1_500), lease.lost()).await;
        assert!(held.is_err(), "{held:?}");
        assert_eq!(client.observe_all().await.unwrap().len(), 1);
        assert!(client.revoke(&world.name, lease.permit().id, Revocation::Graceful).await.unwrap());
        assert_eq!(soon(lease.lost()).await.stage, LossStage::Revoking, "it may listen");
        lease.release(SOON).await.unwrap();
        client.set_limit(&world.name, None).await.unwrap();
        client.diagnose().await.unwrap();
    });
}
