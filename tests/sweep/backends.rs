//! Where permits live: one server of each kind for all points, each of which has a name of its own.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::cloud_server::{CloudServer, KEY};
use super::redis_server::RedisServer;

/// The shortest lease.
pub(crate) const TTL: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Local,
    Redis,
    Serve,
    /// A server like the original.
    Node,
}

pub(crate) struct Backends {
    redis: RedisServer,
    serve: CloudServer,
    node: CloudServer,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Redis => "redis",
            Self::Serve => "serve",
            Self::Node => "node",
        }
    }

    /// Whether a permit ends with its lease and not with its holder.
    pub(crate) fn leases(self) -> bool {
        matches!(self, Self::Redis | Self::Serve)
    }
}

impl Backends {
    pub(crate) fn start() -> Self {
        let (serve, node) = (CloudServer::ours(), CloudServer::like_node());
        Self { redis: RedisServer::start(), serve, node }
    }

    /// What makes semrun work there, in names that begin with this.
    pub(crate) fn dress(&self, kind: Kind, here: &Path, name: &str, command: &mut Command) {
        let url = match kind {
            Kind::Local => format!("file://{}", here.join("permits").display()),
            Kind::Redis => self.redis.url(),
            Kind::Serve => self.serve.url(),
            Kind::Node => self.node.url(),
        };
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", here)
            .env("SEMRUN_CONFIG", "/dev/null")
            .env("SEMRUN_BACKEND", url)
            .env("SEMRUN_API_KEY", KEY)
            .env("SEMRUN_QUARANTINE", "0")
            .env("SEMRUN_PREFIX", name);
    }

    /// What stands for a client although all are gone.
    pub(crate) fn leftovers(&self, kind: Kind, here: &Path, name: &str) -> Vec<String> {
        match kind {
            Kind::Local => {
                let files = fs::read_dir(here.join("permits").join(name)).into_iter().flatten();
                let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
                names.filter(|name| !["mutex", "done", "name"].contains(&name.as_str())).collect()
            }
            Kind::Redis => {
                let keys: Vec<String> = self.redis.ask(&["KEYS", &format!("*{name}-{name}*")]);
                // A message that has not been read goes by itself.
                let goes = |key: &str| self.redis.ask::<i64>(&["PTTL", key]) != -1;
                let stays = |key: &String| key.ends_with("}:state") || key.ends_with("}:done");
                let message = |key: &String| key.contains("}:wake:") && goes(key);
                keys.into_iter().filter(|key| !stays(key) && !message(key)).collect()
            }
            // `status` has told.
            Kind::Serve | Kind::Node => Vec::new(),
        }
    }
}
