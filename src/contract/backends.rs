//! The backends of ours that are held against the contract, each in a store of its own.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use semrun_testkit::redis_server::RedisServer;
use tempfile::TempDir;
use tokio::task::spawn_local;
use uuid::Uuid;

use super::*;
use crate::backends::cloud::Cloud;
use crate::backends::cloud::config::{CloudConfig, CloudUrl};
use crate::backends::local::Local;
use crate::backends::local::directory::LocalConfig;
use crate::backends::memory::MemoryStore;
use crate::backends::redis::RedisStore;
use crate::backends::redis::config::{RedisConfig, RedisUrl};
use crate::backends::tls::{Secret, Tls};
use crate::serve;
use crate::serve::bounds::Bounds;
use crate::serve::connections::{ConnectionLimits, Connections};
use crate::serve::journal::{Journal, RestoredState};
use crate::serve::keys::ApiKeys;
use crate::serve::log::{Format, Log, Sink};
use crate::serve::routes::Routes;
use crate::serve::semaphores::Semaphores;

pub(super) fn memory(lifetime: Lifetime) -> TestedBackend {
    let memory = MemoryStore::default();
    let client = Box::new(move || Box::new(LeaseClient::new(memory.clone())) as Box<dyn Backend>);
    TestedBackend { client, ttl: lifetime.ttl(), _keep: None }
}

pub(super) fn local(lifetime: Lifetime) -> TestedBackend {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("semrun");
    TestedBackend {
        client: Box::new(move || Box::new(Local::new(LocalConfig::named(&path)))),
        ttl: lifetime.ttl(),
        _keep: Some(Box::new(directory)),
    }
}

pub(super) fn redis(lifetime: Lifetime) -> TestedBackend {
    redis_at(Arc::new(RedisServer::start()), lifetime)
}

/// One more store in the same server.
pub(super) fn redis_at(server: Arc<RedisServer>, lifetime: Lifetime) -> TestedBackend {
    let place = RedisConfig {
        url: RedisUrl::parse(&server.url()).unwrap(),
        tls: Tls::default(),
        prefix: Uuid::new_v4().to_string().parse().unwrap(),
        quarantine: Some(Duration::ZERO),
        replicas: 0,
        allow_eviction: false,
    };
    TestedBackend {
        client: Box::new(move || {
            Box::new(LeaseClient::new(RedisStore::new(place.clone()).unwrap()))
        }),
        ttl: lifetime.ttl(),
        _keep: Some(Box::new(server)),
    }
}

/// In a server of our own, within the test's own process.
pub(super) fn served(lifetime: Lifetime) -> TestedBackend {
    const KEY: &str = "a-key-for-tests";
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let log = Log::new(&[], Format::Text, Sink::TEST);
    let semaphores =
        Semaphores::new(Journal::none(), RestoredState::default(), Bounds::default(), log);
    let routes = Routes::new(semaphores, ApiKeys::of_words(KEY).unwrap());
    // Before the test's runtime runs, no task can be started.
    let start = OnceCell::new();
    let client = Box::new(move || {
        start.get_or_init(|| {
            let listener = listener.try_clone().unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let door = Connections::new(ConnectionLimits::within(1024, None, None));
            let (routes, end) = (Rc::clone(&routes), std::future::pending());
            spawn_local(serve::run(listener, None, routes, door, end))
        });
        let url = CloudUrl::parse(&url).unwrap();
        let key = Some(Secret(KEY.into()));
        let place = CloudConfig { url, key, tls: Tls::default() };
        Box::new(Cloud::new(place).unwrap()) as Box<dyn Backend>
    });
    TestedBackend { client, ttl: lifetime.ttl(), _keep: None }
}

macro_rules! tests {
    ($($backend:ident),*: $behaviours:tt) => {
        $(tests! { @against $backend $behaviours })*
    };
    (@against $backend:ident { $($behaviour:ident($lifetime:ident);)* }) => {
        mod $backend {
            use super::*;
            $(#[test] fn $behaviour() {
                settle(super::$behaviour(super::$backend(Lifetime::$lifetime)));
            })*
        }
    };
}

behaviours!(tests memory, local, redis, served:);
