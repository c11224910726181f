//! What `doctor` checks of a Redis that permits live in, and of what endangers them.

mod replication;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::cmd;
use uuid::Uuid;

use super::config::RedisConfig;
use super::script::wake_list;
use super::server_handle::ServerHandle;
use crate::permits::finding::{ClockOffset, FindingKind, Persistence};
use crate::permits::sanitize;
use crate::permits::{Finding, Grade, Name, StoreError};

/// A clock that is off by more is worth a word.
const CLOCKS: Duration = Duration::from_secs(10);

/// For how long a server that remembers nothing grants nothing, at least, by default.
const QUARANTINE: Duration = Duration::from_secs(30);

/// What a server says of itself.
pub(super) struct Info(String);

/// What it is set to do, where it says so.
struct ServerSettings {
    save: Option<String>,
    appendfsync: Option<String>,
    min_replicas: Option<String>,
}

impl Info {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }

    pub(super) fn field(&self, name: &str) -> &str {
        let value = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_default().trim()
    }

    pub(super) fn number(&self, name: &str) -> u64 {
        self.field(name).parse().unwrap_or(0)
    }

    /// The policy by which it throws keys away when memory is short, if it does.
    pub(super) fn evicts(&self) -> Option<&str> {
        let policy = self.field("maxmemory_policy");
        let keeps = self.number("maxmemory") == 0 || policy == "noeviction" || policy.is_empty();
        (!keeps).then_some(policy)
    }
}

impl ServerHandle {
    /// None: the server does not allow it.
    pub(super) async fn info(&self, section: &str) -> Result<Option<Info>, StoreError> {
        let info = self.connection.ask_if_granted(cmd("INFO").arg(section)).await;
        Ok(info?.map(Info))
    }

    pub(super) async fn diagnose(&self) -> Result<Vec<Finding>, StoreError> {
        let before = SystemTime::now();
        let time: (u64, u64) = self.connection.request(&cmd("TIME")).await?;
        let ours = before + before.elapsed().unwrap_or_default() / 2;
        let mut findings = match self.info("default").await? {
            Some(info) => {
                let save = self.setting("save").await?;
                let appendfsync = self.setting("appendfsync").await?;
                let min_replicas = self.setting("min-replicas-to-write").await?;
                found(&info, &ServerSettings { save, appendfsync, min_replicas }, &self.config)
            }
            None => vec![warning("server", FindingKind::NoInfo)],
        };
        findings.extend(self.wakes().await?);
        findings.extend(prefix(&self.config.prefix));
        findings.push(clocks(sanitize::moment(time.0, time.1)?, ours));
        if self.config.url.tells_the_network_its_password() {
            findings.push(warning("encryption", FindingKind::PasswordReadable));
        }
        Ok(findings)
    }

    /// None: it does not say. Servers that are rented out often do not.
    pub(super) async fn setting(&self, name: &str) -> Result<Option<String>, StoreError> {
        let got = self.connection.ask_if_granted(cmd("CONFIG").arg("GET").arg(name)).await;
        Ok(got?.and_then(|pair: Vec<String>| pair.into_iter().nth(1)))
    }

    /// Nothing where a waiter can be woken.
    async fn wakes(&self) -> Result<Option<Finding>, StoreError> {
        let list = wake_list(&self.config.prefix, Uuid::new_v4());
        let question = cmd("BLPOP").arg(list).arg(0.001).clone();
        let granted: Option<Option<(String, String)>> =
            self.connection.ask_if_granted(&question).await?;
        Ok(granted.is_none().then(|| warning("wake-ups", FindingKind::NoWakeups)))
    }
}

fn found(info: &Info, settings: &ServerSettings, config: &RedisConfig) -> Vec<Finding> {
    let mut findings = vec![version(info), eviction(info, config), persistence(info, settings)];
    findings.extend(writing(info));
    if info.field("role") == "slave" {
        findings.push(error("role", FindingKind::ReadOnly));
    }
    let (used, most) = (info.number("used_memory"), info.number("maxmemory"));
    if most > 0 && info.evicts().is_none() && used > most / 10 * 9 {
        let (used, most) = (used >> 20, most >> 20);
        findings.push(warning("memory", FindingKind::MemoryShort { used, most }));
    }
    findings.extend(quarantine(info, config));
    findings.extend(replication::found(info, config.replicas, settings.min_replicas.as_deref()));
    findings
}

/// Keys are `PREFIX-NAME`, as PassBuddy has them, so where a prefix ends does not show in them.
fn prefix(prefix: &Name) -> Option<Finding> {
    let (shorter, rest) = prefix.as_str().split_once('-')?;
    let [prefix, shorter, rest] = [prefix.as_str(), shorter, rest].map(str::to_owned);
    Some(warning("prefix", FindingKind::AmbiguousPrefix { prefix, shorter, rest }))
}

fn version(info: &Info) -> Finding {
    let valkey = info.field("valkey_version");
    let (program, version) = match valkey {
        "" => ("Redis", info.field("redis_version")),
        valkey => ("Valkey", valkey),
    };
    ok("server", FindingKind::Redis { program, version: version.into() })
}

fn eviction(info: &Info, config: &RedisConfig) -> Finding {
    let Some(policy) = info.evicts() else {
        return ok("eviction", FindingKind::KeepsKeys);
    };
    let accepted = config.allow_eviction;
    let what = FindingKind::Evicts { policy: policy.into(), accepted };
    if accepted { warning("eviction", what) } else { error("eviction", what) }
}

fn persistence(info: &Info, settings: &ServerSettings) -> Finding {
    let lazily = settings.appendfsync.as_deref() == Some("no");
    let (grade, what) = match settings.save.as_deref() {
        _ if info.number("aof_enabled") == 1 && lazily => {
            (Grade::Warning, Persistence::AppendLazily)
        }
        _ if info.number("aof_enabled") == 1 => (Grade::Ok, Persistence::AppendOnly),
        Some("") => (Grade::Warning, Persistence::Nothing),
        Some(save) => (Grade::Ok, Persistence::Snapshots(save.into())),
        None => (Grade::Warning, Persistence::Unknown),
    };
    Finding { topic: "persistence", grade, what: FindingKind::Persistence(what) }
}

/// What keeps it from writing to its disk, which makes it refuse what is asked of it.
fn writing(info: &Info) -> Vec<Finding> {
    let fails = |field: &str| !matches!(info.field(field), "" | "ok");
    let mut findings = Vec::new();
    if info.number("aof_enabled") == 1 && fails("aof_last_write_status") {
        findings.push(error("disk", FindingKind::AppendFails));
    }
    if fails("rdb_last_bgsave_status") {
        findings.push(error("disk", FindingKind::SnapshotFails));
    }
    findings
}

fn quarantine(info: &Info, config: &RedisConfig) -> Option<Finding> {
    let quarantine = config.quarantine.unwrap_or(QUARANTINE);
    if quarantine.is_zero() {
        return Some(warning("quarantine", FindingKind::NoQuarantine));
    }
    let up = Duration::from_secs(info.number("uptime_in_seconds"));
    let left = quarantine.checked_sub(up).filter(|left| !left.is_zero())?;
    Some(warning("quarantine", FindingKind::Quarantine { up, left }))
}

fn clocks(theirs: Duration, ours: SystemTime) -> Finding {
    let ours = ours.duration_since(UNIX_EPOCH).unwrap_or_default();
    let offset = ClockOffset::of(theirs, ours);
    let grade = if offset.apart <= CLOCKS { Grade::Ok } else { Grade::Warning };
    Finding { topic: "clock", grade, what: FindingKind::Clock(offset) }
}

pub(super) fn ok(topic: &'static str, what: FindingKind) -> Finding {
    Finding { topic, grade: Grade::Ok, what }
}

pub(super) fn warning(topic: &'static str, what: FindingKind) -> Finding {
    Finding { topic, grade: Grade::Warning, what }
}

pub(super) fn error(topic: &'static str, what: FindingKind) -> Finding {
    Finding { topic, grade: Grade::Error, what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::redis::config::RedisUrl;
    use crate::backends::tls::Tls;

    fn config(quarantine: Option<Duration>) -> RedisConfig {
        RedisConfig {
            url: RedisUrl::parse("redis://h").unwrap(),
            tls: Tls::default(),
            prefix: "p".parse().unwrap(),
            quarantine,
            replicas: 0,
            allow_eviction: false,
        }
    }

    fn examined(info: &str, save: Option<&str>) -> Vec<(&'static str, Grade)> {
        let save = save.map(str::to_owned);
        let settings = ServerSettings { save, appendfsync: None, min_replicas: None };
        let findings = found(&Info(info.replace(' ', "\r\n")), &settings, &config(None));
        findings.into_iter().map(|finding| (finding.topic, finding.grade)).collect()
    }

    #[test]
    fn what_endangers_permits_is_found() {
        const UP: &str = "uptime_in_seconds:100";
        let has = |info: &str, save, finding| {
            let findings = examined(&format!("{UP} {info}"), save);
            assert!(findings.contains(&finding), "{info}: {findings:?}");
        };
        let (warning, error, ok) = (Grade::Warning, Grade::Error, Grade::Ok);
        has("aof_enabled:0", Some("3600 1"), ("persistence", ok));
        has("aof_enabled:0", Some(""), ("persistence", warning));
        has("aof_enabled:0", None, ("persistence", warning));
        has("aof_enabled:1 aof_last_write_status:err", Some(""), ("disk", error));
        has("aof_enabled:0 rdb_last_bgsave_status:err", Some("60 1"), ("disk", error));
        has("maxmemory:100 maxmemory_policy:noeviction used_memory:95", None, ("memory", warning));
        has("maxmemory:100 maxmemory_policy:allkeys-lfu used_memory:95", None, ("eviction", error));
        has("maxmemory:0 maxmemory_policy:allkeys-lfu", None, ("eviction", ok));
        has("role:slave", None, ("role", error));
        assert_eq!(examined("uptime_in_seconds:100 valkey_version:8", Some("1 1")).len(), 3);
    }

    #[test]
    fn a_server_that_was_just_started_is_waited_for() {
        let left = |up: u64, quarantine| {
            let info = Info(format!("uptime_in_seconds:{up}"));
            super::quarantine(&info, &config(quarantine)).map(|finding| finding.what)
        };
        let [up, left_over] = [10, 20].map(Duration::from_secs);
        assert_eq!(left(10, None), Some(FindingKind::Quarantine { up, left: left_over }));
        assert_eq!(left(30, None), None);
        assert!(left(30, Some(Duration::from_mins(1))).is_some());
        assert_eq!(left(9_999, Some(Duration::ZERO)), Some(FindingKind::NoQuarantine));
    }

    #[test]
    fn prefixes_that_run_together_are_a_doubt() {
        let found = |text: &str| prefix(&text.parse().unwrap()).map(|finding| finding.what);
        assert_eq!((found("semrun"), found("team_a")), (None, None));
        let [prefix, shorter, rest] = ["a-b-c", "a", "b-c"].map(str::to_owned);
        assert_eq!(found("a-b-c"), Some(FindingKind::AmbiguousPrefix { prefix, shorter, rest }));
    }

    #[test]
    fn clocks_that_differ_are_worth_a_word() {
        let ours = UNIX_EPOCH + Duration::from_secs(1_000);
        let theirs = |seconds| clocks(Duration::from_secs(seconds), ours);
        assert_eq!((theirs(991).grade, theirs(1_011).grade), (Grade::Ok, Grade::Warning));
        let offset = ClockOffset { apart: Duration::from_secs(100), behind: true };
        assert_eq!(theirs(900).what, FindingKind::Clock(offset));
    }
}
