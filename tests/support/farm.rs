//! A primary, its replicas and their sentinels. Clients, replicas and sentinels have users of their
//! own on every server, so that a partition is one user switched off, and needs no privileges.

use std::collections::HashMap;
use std::time::Duration;

use redis::RedisResult;

use super::node::{Kind, Node, Role};
use super::wait_until;

/// USER:PASSWORD@ of a client, which may do everything.
pub(crate) const CLIENT: &str = "cli:cp@";
/// What sentinels call the set.
pub(crate) const SET: &str = "m";

/// How many lines of each log a test shows that fails.
const SHOWN: usize = 40;

/// On every server. No client is let in without a name.
const USERS: [&str; 6] = [
    "user default off",
    "user cli on >cp allkeys allchannels allcommands",
    "user repl on >rp +psync +replconf +ping",
    "user sent on >sp allchannels +multi +exec +slaveof +replicaof +ping +subscribe +publish +info \
     +role +config|rewrite +client|setname +client|kill +script|kill",
    "masteruser repl",
    "masterauth rp",
];

/// What a set consists of.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) replicas: usize,
    pub(crate) sentinels: usize,
    /// How long sentinels wait before they take a primary for lost.
    pub(crate) down_after: Duration,
    /// Further lines of each server's configuration.
    pub(crate) settings: Vec<String>,
}

impl Default for Shape {
    /// Two replicas, three sentinels. They ask once a second: if they wait no longer than that for an
    /// answer, they replace at times a new primary at once.
    fn default() -> Self {
        let down_after = Duration::from_secs(2);
        Self { replicas: 2, sentinels: 3, down_after, settings: Vec::new() }
    }
}

/// The peers that are cut off from a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peers {
    /// Those that copy it.
    Replicas,
    Sentinels,
}

impl Peers {
    fn user(self) -> &'static str {
        match self {
            Self::Replicas => "repl",
            Self::Sentinels => "sent",
        }
    }
}

/// Servers are known by their numbers: 0 is the first primary, whatever it is later.
pub(crate) struct Farm {
    nodes: Vec<Node>,
    sentinels: Vec<Node>,
}

impl Farm {
    /// Returns when the replicas are in step and each sentinel knows them and all other sentinels.
    pub(crate) fn start(shape: &Shape) -> Self {
        let mut settings: Vec<_> = USERS.iter().map(|line| (*line).to_owned()).collect();
        settings.extend(
            ["save \"\"", "repl-diskless-sync yes", "repl-diskless-sync-delay 0"].map(String::from),
        );
        settings.extend_from_slice(&shape.settings);
        let primary = Node::start(Kind::Server, &settings, CLIENT);
        settings.push(format!("replicaof 127.0.0.1 {}", primary.port()));
        let mut nodes = vec![primary];
        nodes.extend((0..shape.replicas).map(|_| Node::start(Kind::Server, &settings, CLIENT)));
        let mut farm = Self { nodes, sentinels: Vec::new() };
        farm.replicas_in_step(0, shape.replicas);
        let settings = sentinel_settings(shape, farm.nodes[0].port());
        let sentinels = (0..shape.sentinels).map(|_| Node::start(Kind::Sentinel, &settings, ""));
        farm.sentinels = sentinels.collect();
        wait_until("the sentinels know all", || {
            farm.sentinels.iter().all(|sentinel| knows_all(sentinel, shape))
        });
        farm
    }

    pub(crate) fn node(&self, number: usize) -> &Node {
        &self.nodes[number]
    }

    pub(crate) fn node_mut(&mut self, number: usize) -> &mut Node {
        &mut self.nodes[number]
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(crate) fn sentinel_mut(&mut self, number: usize) -> &mut Node {
        &mut self.sentinels[number]
    }

    /// Waits until the server says that it is that.
    #[track_caller]
    pub(crate) fn becomes(&self, number: usize, role: Role) {
        let what = format!("server {number} is a {role:?}");
        wait_until(&what, || self.nodes[number].role() == Some(role));
    }

    /// Waits until so many replicas have copied what the primary has now.
    #[track_caller]
    pub(crate) fn replicas_in_step(&self, primary: usize, count: usize) {
        let offset = || self.nodes[primary].count("replication", "master_repl_offset");
        let mut goal = None;
        wait_until(&format!("{count} replicas are in step with server {primary}"), || {
            goal = goal.or_else(offset);
            let online = self.online_replicas(primary);
            online.iter().filter(|(_, has)| goal.is_some_and(|goal| *has >= goal)).count() >= count
        });
    }

    /// The ports of the replicas that are online, as the primary sees them, with how far they are.
    fn online_replicas(&self, primary: usize) -> Vec<(u16, u64)> {
        let text: RedisResult<String> = self.nodes[primary].try_ask(&["INFO", "replication"]);
        let text = text.unwrap_or_default();
        let replica = |line: &str| {
            let (name, fields) = line.split_once(':')?;
            let is_replica = name.strip_prefix("slave")?.parse::<u32>().is_ok();
            let fields: HashMap<_, _> =
                fields.split(',').filter_map(|field| field.split_once('=')).collect();
            let online = is_replica && fields.get("state") == Some(&"online");
            let port = fields.get("port")?.parse().ok()?;
            online.then_some((port, fields.get("offset")?.parse().ok()?))
        };
        text.lines().filter_map(replica).collect()
    }

    /// Makes a server a primary by hand. Those that are replicas, of whichever server, copy it from
    /// now on; an old primary that runs is left as it is. Not with sentinels, which would undo it.
    pub(crate) fn promote(&self, number: usize) {
        self.nodes[number].ask::<()>(&["REPLICAOF", "NO", "ONE"]);
        let others = (0..self.nodes.len()).filter(|other| *other != number);
        for other in others.filter(|other| self.nodes[*other].role() == Some(Role::Replica)) {
            self.follow(other, number);
        }
    }

    /// Makes a server a replica of another one, and returns when it has copied that.
    pub(crate) fn follow(&self, number: usize, primary: usize) {
        let (node, primary) = (&self.nodes[number], self.nodes[primary].port().to_string());
        node.ask::<()>(&["REPLICAOF", "127.0.0.1", &primary]);
        wait_until(&format!("server {number} is linked"), || {
            node.info("replication", "master_port") == Some(primary.clone())
                && node.info("replication", "master_link_status").as_deref() == Some("up")
        });
    }

    /// Lets a replica copy nothing any more and keep what it has. Not with sentinels, which would
    /// undo it.
    pub(crate) fn strand(&self, number: usize) {
        let node = &self.nodes[number];
        let primary = node.count("replication", "master_port");
        let primary = self.nodes.iter().position(|node| Some(u64::from(node.port())) == primary);
        // Nothing listens there.
        node.ask::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
        let Some(primary) = primary else { return };
        wait_until(&format!("server {number} is stranded"), || {
            self.online_replicas(primary).iter().all(|(port, _)| *port != node.port())
        });
    }

    /// Cuts a server from these; it keeps its clients, and the others keep each other.
    pub(crate) fn cut(&self, number: usize, peers: Peers) {
        let node = &self.nodes[number];
        node.ask::<()>(&["ACL", "SETUSER", peers.user(), "off"]);
        // It lets in no new peer, and those that are in have to go.
        wait_until(&format!("server {number} is cut from its {peers:?}"), || {
            let _: RedisResult<u64> = node.try_ask(&["CLIENT", "KILL", "USER", peers.user()]);
            let clients: String = node.ask(&["CLIENT", "LIST"]);
            !clients.contains(&format!(" user={} ", peers.user()))
        });
    }

    pub(crate) fn heal(&self, number: usize, peers: Peers) {
        self.nodes[number].ask::<()>(&["ACL", "SETUSER", peers.user(), "on"]);
    }

    /// A planned failover, by the sentinels. Returns the number of the new primary as soon as they
    /// name it.
    pub(crate) fn fail_over(&self) -> usize {
        let before = self.primary().expect("the sentinels name one");
        wait_until("the sentinels begin", || {
            let begun: RedisResult<()> = self.sentinels[0].try_ask(&["SENTINEL", "FAILOVER", SET]);
            begun.is_ok()
        });
        self.primary_after(before)
    }

    /// Waits until the sentinels name another primary.
    #[track_caller]
    pub(crate) fn primary_after(&self, before: usize) -> usize {
        let mut now = None;
        wait_until(&format!("the sentinels name another one than server {before}"), || {
            now = self.primary().filter(|now| *now != before);
            now.is_some()
        });
        now.unwrap()
    }

    /// Which is the primary, by the first sentinel that answers.
    pub(crate) fn primary(&self) -> Option<usize> {
        let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SET];
        let named = self.sentinels.iter().find_map(|one| one.try_ask(&words).ok());
        let (_, port): (String, String) = named?;
        self.nodes.iter().position(|node| node.port().to_string() == port)
    }
}

/// A test that fails shows what its servers wrote last.
impl Drop for Farm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in self.nodes.iter().chain(&self.sentinels) {
                let log = node.log();
                let from = log.lines().count().saturating_sub(SHOWN);
                let last: Vec<_> = log.lines().skip(from).collect();
                eprintln!("---- the server on port {}\n{}", node.port(), last.join("\n"));
            }
        }
    }
}

fn sentinel_settings(shape: &Shape, primary: u16) -> Vec<String> {
    let majority = shape.sentinels / 2 + 1;
    let down_after = shape.down_after.as_millis();
    [
        format!("sentinel monitor {SET} 127.0.0.1 {primary} {majority}"),
        format!("sentinel auth-user {SET} sent"),
        format!("sentinel auth-pass {SET} sp"),
        format!("sentinel down-after-milliseconds {SET} {down_after}"),
        format!("sentinel failover-timeout {SET} 5000"),
        format!("sentinel parallel-syncs {SET} 1"),
    ]
    .into()
}

/// Whether it could see to a failover.
fn knows_all(sentinel: &Node, shape: &Shape) -> bool {
    type Fields = HashMap<String, String>;
    let set: RedisResult<Fields> = sentinel.try_ask(&["SENTINEL", "MASTER", SET]);
    let replicas: RedisResult<Vec<Fields>> = sentinel.try_ask(&["SENTINEL", "REPLICAS", SET]);
    let (Ok(set), Ok(replicas)) = (set, replicas) else { return false };
    let others = set
        .get("num-other-sentinels")
        .is_some_and(|others| others.parse() == Ok(shape.sentinels - 1));
    let good = |replica: &Fields| {
        replica.get("flags").is_some_and(|flags| flags == "slave")
            && replica.get("master-link-status").is_some_and(|link| link == "ok")
    };
    let good = replicas.iter().filter(|replica| good(replica)).count();
    others && good == shape.replicas && set.get("flags").is_some_and(|flags| flags == "master")
}
