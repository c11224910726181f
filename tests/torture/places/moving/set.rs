//! Three servers, of which one is the primary, and three sentinels that know of no set until they are
//! told to see to this one.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, atomic::AtomicBool};
use std::thread::sleep;
use std::time::{Duration, Instant};

use redis::RedisResult;
use semrun_testkit::node::{Kind, Node, Role};
use semrun_testkit::proxy::{Proxy, Weather};

/// Replicas and sentinels have users of their own, so that each can be kept out. Clients need none; nor
/// do sentinels that are not let in, but then a server does not answer what they judge by.
const SETTINGS: [&str; 8] = [
    "user default on nopass allkeys allchannels allcommands -ping",
    "user repl on >rp +psync +replconf +ping",
    "user sent on >sp allchannels +multi +exec +slaveof +replicaof +ping +subscribe +publish +info \
     +role +config|rewrite +client|setname +client|kill +script|kill",
    "masteruser repl",
    "masterauth rp",
    "save \"\"",
    "repl-diskless-sync yes",
    "repl-diskless-sync-delay 0",
];

/// Longer than anything takes that works, on a machine that does much else.
const PATIENCE: Duration = Duration::from_mins(1);
/// The same of sentinels; those that are not asked for two seconds by the kernel do nothing for thirty.
const SENTINELS_PATIENCE: Duration = Duration::from_secs(20);

/// What sentinels call it.
const NAME: &str = "m";
const SENTINELS: usize = 3;

/// The arena ends, and what was to come does not matter any more.
pub(super) struct Over;

/// How its waiting may end sooner.
#[derive(Default)]
pub(super) struct Haste {
    /// Nothing is waited for that only takes time.
    pub(super) hurry: AtomicBool,
    pub(super) over: AtomicBool,
}

impl Haste {
    pub(super) fn pause(&self, time: Duration) -> Result<(), Over> {
        let end = Instant::now() + time;
        while Instant::now() < end && !self.hurry.load(Relaxed) && !self.over.load(Relaxed) {
            sleep(Duration::from_millis(10).min(end.saturating_duration_since(Instant::now())));
        }
        if self.over.load(Relaxed) { Err(Over) } else { Ok(()) }
    }

    pub(super) fn wait_until(
        &self,
        what: &str,
        condition: impl FnMut() -> bool,
    ) -> Result<(), Over> {
        assert!(self.comes_to_be(PATIENCE, condition)?, "not in time: {what}");
        Ok(())
    }

    /// Whether it does, in so much time.
    fn comes_to_be(
        &self,
        time: Duration,
        mut condition: impl FnMut() -> bool,
    ) -> Result<bool, Over> {
        let deadline = Instant::now() + time;
        while !condition() {
            if self.over.load(Relaxed) {
                return Err(Over);
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            sleep(Duration::from_millis(10));
        }
        Ok(true)
    }
}

/// Servers are known by their numbers.
pub(super) struct Set {
    nodes: Vec<Node>,
    sentinels: Vec<Node>,
    /// On the way to each server, for those that copy it.
    links: Vec<Proxy>,
    haste: Arc<Haste>,
}

impl Set {
    /// Three primaries that know nothing of each other yet.
    pub(super) fn start(haste: Arc<Haste>) -> Self {
        let settings = SETTINGS.map(String::from);
        let nodes: Vec<_> = (0..3).map(|_| Node::start(Kind::Server, &settings, "")).collect();
        let sentinels = (0..SENTINELS).map(|_| Node::start(Kind::Sentinel, &[], "")).collect();
        let links = nodes.iter().map(|node| Proxy::to(node.port())).collect();
        Self { nodes, sentinels, links, haste }
    }

    pub(super) fn node(&self, number: usize) -> &Node {
        &self.nodes[number]
    }

    pub(super) fn node_mut(&mut self, number: usize) -> &mut Node {
        &mut self.nodes[number]
    }

    pub(super) fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(Node::port).collect()
    }

    pub(super) fn promote(&self, number: usize) {
        self.nodes[number].ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    }

    /// Makes a server a replica of another one, over a network that can fail, and returns when it has
    /// copied that.
    pub(super) fn follow(&self, number: usize, primary: usize) -> Result<(), Over> {
        self.follow_port(number, self.links[primary].port)
    }

    fn follow_port(&self, number: usize, port: u16) -> Result<(), Over> {
        let (node, port) = (&self.nodes[number], port.to_string());
        node.ask::<()>(&["REPLICAOF", "127.0.0.1", &port]);
        self.haste.wait_until(&format!("server {number} is linked"), || {
            node.info("replication", "master_port").as_ref() == Some(&port)
                && node.info("replication", "master_link_status").as_deref() == Some("up")
        })
    }

    /// Makes it whole: all others copy the primary, and it knows.
    pub(super) fn gather(&self, primary: usize) -> Result<(), Over> {
        let all = || (0..self.nodes.len()).filter(|other| *other != primary);
        for other in all() {
            self.follow(other, primary)?;
        }
        self.haste.wait_until(&format!("the replicas of server {primary} are in step"), || {
            let online = self.online(primary);
            all().all(|other| online.contains(&self.nodes[other].port()))
        })
    }

    /// The ports of the replicas that are online, as the primary sees them; none if it does not say.
    fn online(&self, primary: usize) -> Vec<u16> {
        let text: RedisResult<String> = self.nodes[primary].try_ask(&["INFO", "replication"]);
        let text = text.unwrap_or_default();
        let online = text.lines().filter(|line| line.contains(",state=online,"));
        let port = |line: &str| {
            line.split(',').find_map(|field| field.strip_prefix("port="))?.parse().ok()
        };
        online.filter_map(port).collect()
    }

    /// Lets a replica copy nothing any more and keep what it has.
    pub(super) fn strand(&self, number: usize, primary: usize) -> Result<(), Over> {
        // Nothing listens there.
        self.nodes[number].ask::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
        let port = self.nodes[number].port();
        let what = format!("server {number} is stranded");
        self.haste.wait_until(&what, || !self.online(primary).contains(&port))
    }

    /// Whether those that copy a server reach it; neither side is told that they do not.
    pub(super) fn connect(&self, number: usize, connected: bool) {
        self.links[number].weather(if connected { Weather::Fair } else { Weather::Lost });
    }

    /// Lets a user in no more, and throws out who is there.
    pub(super) fn keep_out(&self, number: usize, user: &str) -> Result<(), Over> {
        let node = &self.nodes[number];
        node.ask::<()>(&["ACL", "SETUSER", user, "off"]);
        self.haste.wait_until(&format!("{user} is kept out of server {number}"), || {
            let _: RedisResult<u64> = node.try_ask(&["CLIENT", "KILL", "USER", user]);
            let clients: RedisResult<String> = node.try_ask(&["CLIENT", "LIST"]);
            clients.is_ok_and(|clients| !clients.contains(&format!(" user={user} ")))
        })
    }

    pub(super) fn let_in(&self, number: usize) {
        for user in ["repl", "sent"] {
            self.nodes[number].ask::<()>(&["ACL", "SETUSER", user, "on"]);
        }
    }

    /// Sentinels see to it from now on. Returns whether they are ready.
    pub(super) fn guard(&self, primary: usize) -> Result<bool, Over> {
        let port = self.nodes[primary].port();
        // They would not have it that replicas copy anything else than the server itself.
        for other in (0..self.nodes.len()).filter(|other| *other != primary) {
            self.follow_port(other, port)?;
        }
        let (port, majority) = (port.to_string(), (SENTINELS / 2 + 1).to_string());
        for sentinel in &self.sentinels {
            sentinel.ask::<()>(&["SENTINEL", "MONITOR", NAME, "127.0.0.1", &port, &majority]);
            let settings = [
                ["auth-user", "sent"],
                ["auth-pass", "sp"],
                ["down-after-milliseconds", "1000"],
                ["failover-timeout", "5000"],
                ["parallel-syncs", "1"],
            ];
            for [name, value] in settings {
                sentinel.ask::<()>(&["SENTINEL", "SET", NAME, name, value]);
            }
        }
        let all_know = || self.sentinels.iter().all(knows_all);
        self.haste.comes_to_be(SENTINELS_PATIENCE, all_know)
    }

    /// They leave it alone from now on.
    pub(super) fn leave(&self) {
        for sentinel in &self.sentinels {
            let _: RedisResult<()> = sentinel.try_ask(&["SENTINEL", "REMOVE", NAME]);
        }
    }

    /// Which server the sentinels name in place of this one, if they come to it; when they are told to, if
    /// it is a planned failover.
    pub(super) fn primary_after(
        &self,
        before: usize,
        planned: bool,
    ) -> Result<Option<usize>, Over> {
        let mut now = None;
        self.haste.comes_to_be(SENTINELS_PATIENCE, || {
            now = self.named().filter(|now| *now != before);
            if planned && now.is_none() {
                // They refuse while they are at it.
                let _: RedisResult<()> = self.sentinels[0].try_ask(&["SENTINEL", "FAILOVER", NAME]);
            }
            now.is_some()
        })?;
        Ok(now)
    }

    fn named(&self) -> Option<usize> {
        let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME];
        let (_, port): (String, String) = self.sentinels[0].try_ask(&words).ok()?;
        self.nodes.iter().position(|node| node.port().to_string() == port)
    }

    pub(super) fn is_primary(&self, number: usize) -> bool {
        self.nodes[number].role() == Some(Role::Primary)
    }
}

/// Whether a sentinel could see to a failover.
fn knows_all(sentinel: &Node) -> bool {
    type Fields = HashMap<String, String>;
    let set: RedisResult<Fields> = sentinel.try_ask(&["SENTINEL", "MASTER", NAME]);
    let replicas: RedisResult<Vec<Fields>> = sentinel.try_ask(&["SENTINEL", "REPLICAS", NAME]);
    let (Ok(set), Ok(replicas)) = (set, replicas) else { return false };
    let has =
        |fields: &Fields, name: &str, value: &str| fields.get(name).is_some_and(|is| is == value);
    let good = |one: &&Fields| has(one, "flags", "slave") && has(one, "master-link-status", "ok");
    has(&set, "num-other-sentinels", &(SENTINELS - 1).to_string())
        && has(&set, "flags", "master")
        && replicas.iter().filter(good).count() == 2
}
