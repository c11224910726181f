//! What there is to know of a Redis that permits live in, and of what endangers them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::cmd;
use uuid::Uuid;

use super::place::Place;
use super::script::Keys;
use super::{Shared, replication};
use crate::backends::believed;
use crate::backends::trouble::Trouble;
use crate::backends::{Finding, Grade, Name};

/// A clock that is off by more is worth a word.
const CLOCKS: f64 = 10.0;

/// For how long a server that remembers nothing grants nothing, at least, unless somebody says
/// otherwise.
const QUARANTINE: Duration = Duration::from_secs(30);

/// What a server says of itself.
pub(super) struct Info(String);

/// What it is set to do, where it says so.
struct Settings {
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

impl Shared {
    /// None: it is not to be had.
    pub(super) async fn info(&self, section: &str) -> Result<Option<Info>, Trouble> {
        let info = self.connection.ask_if_granted(cmd("INFO").arg(section)).await;
        Ok(info?.map(Info))
    }

    pub(super) async fn examine(&self) -> Result<Vec<Finding>, Trouble> {
        let before = SystemTime::now();
        let time: (u64, u64) = self.connection.ask(&cmd("TIME")).await?;
        let ours = before + before.elapsed().unwrap_or_default() / 2;
        let mut findings = match self.info("default").await? {
            Some(info) => {
                let save = self.setting("save").await?;
                let appendfsync = self.setting("appendfsync").await?;
                let min_replicas = self.setting("min-replicas-to-write").await?;
                found(&info, &Settings { save, appendfsync, min_replicas }, &self.place)
            }
            None => vec![doubtful(
                "server",
                "it does not answer INFO (an ACL forbids it, or it was renamed), so a restart that \
                 loses permits goes unnoticed, and what else endangers them is not known; allow it \
                 with ACL SETUSER … +info",
            )],
        };
        findings.extend(self.wakes().await?);
        findings.extend(prefix(&self.place.prefix));
        findings.push(clocks(believed::moment(time.0, time.1)?, ours));
        if self.place.url.tells_the_network_its_password() {
            findings.push(doubtful(
                "encryption",
                "the password and all that follows can be read on the network; use rediss://, or a \
                 socket",
            ));
        }
        Ok(findings)
    }

    /// None: it does not say. Servers that are rented out often do not.
    pub(super) async fn setting(&self, name: &str) -> Result<Option<String>, Trouble> {
        let got = self.connection.ask_if_granted(cmd("CONFIG").arg("GET").arg(name)).await;
        Ok(got?.and_then(|pair: Vec<String>| pair.into_iter().nth(1)))
    }

    /// Nothing where one who waits can be woken.
    async fn wakes(&self) -> Result<Option<Finding>, Trouble> {
        let keys = Keys::new(&self.place.prefix, &"semrun".parse().expect("a good name"));
        let list = keys.wake(Uuid::new_v4());
        let question = cmd("BLPOP").arg(list).arg(0.001).clone();
        let granted: Option<Option<(String, String)>> =
            self.connection.ask_if_granted(&question).await?;
        Ok(granted.is_none().then(|| {
            doubtful(
                "wake-ups",
                "it does not answer BLPOP (an ACL forbids it, or it was renamed), so one who waits \
                 notices a permit that was given back up to 5s later, and one who holds its \
                 eviction at the next renewal; allow it with ACL SETUSER … +blpop",
            )
        }))
    }
}

fn found(info: &Info, settings: &Settings, place: &Place) -> Vec<Finding> {
    let mut findings = vec![version(info), eviction(info, place), persistence(info, settings)];
    findings.extend(writing(info));
    if info.field("role") == "slave" {
        findings.push(bad("role", "it is a replica, which cannot be written to; name its primary"));
    }
    let (used, most) = (info.number("used_memory"), info.number("maxmemory"));
    if most > 0 && info.evicts().is_none() && used > most / 10 * 9 {
        findings.push(doubtful(
            "memory",
            format!(
                "{} of the {} MB are used that it may have; permits survive it when it is full, but \
                 set maxmemory higher before it is",
                used >> 20,
                most >> 20
            ),
        ));
    }
    findings.extend(quarantine(info, place));
    findings.extend(replication::found(info, place.replicas, settings.min_replicas.as_deref()));
    findings
}

/// Keys are `PREFIX-NAME`, as PassBuddy has them, so where a prefix ends does not show in them.
fn prefix(prefix: &Name) -> Option<Finding> {
    let (shorter, rest) = prefix.as_str().split_once('-')?;
    Some(doubtful(
        "prefix",
        format!(
            "'{prefix}' has a '-': --prefix '{shorter}' with a name that begins with '{rest}-' is the \
             same semaphore, and who may use that prefix may use this one; choose one without a '-'"
        ),
    ))
}

fn version(info: &Info) -> Finding {
    let valkey = info.field("valkey_version");
    let (program, version) = match valkey {
        "" => ("Redis", info.field("redis_version")),
        valkey => ("Valkey", valkey),
    };
    good("server", format!("{program} {version}"))
}

fn eviction(info: &Info, place: &Place) -> Finding {
    let Some(policy) = info.evicts() else {
        return good("eviction", "it throws away no keys when memory is short");
    };
    let text = format!(
        "it may throw keys away when memory is short (maxmemory-policy {policy}), and permits with \
         them; set maxmemory-policy to noeviction"
    );
    if place.allow_eviction {
        doubtful("eviction", format!("{text}; --allow-eviction takes that risk"))
    } else {
        bad("eviction", format!("{text}, or take that risk with --allow-eviction"))
    }
}

fn persistence(info: &Info, settings: &Settings) -> Finding {
    const TOPIC: &str = "persistence";
    const FORGETS: &str = "semruns that run wait for each other after that (--quarantine), PassBuddy's \
                           programs do not, and pinned limits, kept permits and those of semrun acquire \
                           are lost; set appendonly yes with appendfsync everysec or always";
    if info.number("aof_enabled") == 1 {
        return match settings.appendfsync.as_deref() {
            Some("no") => doubtful(
                TOPIC,
                "it writes to its append-only file only when the system likes to; set appendfsync to \
                 everysec or always",
            ),
            _ => good(TOPIC, "it writes to an append-only file"),
        };
    }
    match settings.save.as_deref() {
        Some("") => doubtful(
            TOPIC,
            format!("it keeps nothing on a disk and forgets all permits when it ends; {FORGETS}"),
        ),
        Some(save) => good(
            TOPIC,
            format!(
                "it makes snapshots (save {save}), and after a crash remembers the last one; \
                 appendonly yes would keep more"
            ),
        ),
        None => doubtful(
            TOPIC,
            format!(
                "it has no append-only file, and this user may not see whether it makes snapshots \
                 (CONFIG GET); one that makes none forgets all permits when it ends: {FORGETS}"
            ),
        ),
    }
}

/// What keeps it from writing to its disk, which makes it refuse what is asked of it.
fn writing(info: &Info) -> Vec<Finding> {
    let fails = |field: &str| !matches!(info.field(field), "" | "ok");
    let mut findings = Vec::new();
    if info.number("aof_enabled") == 1 && fails("aof_last_write_status") {
        findings.push(bad(
            "disk",
            "it cannot write to its append-only file and refuses all changes; look at its log and for \
             room on its disk",
        ));
    }
    if fails("rdb_last_bgsave_status") {
        findings.push(bad(
            "disk",
            "its last snapshot failed, for which it may refuse all changes; look at its log and for \
             room on its disk",
        ));
    }
    findings
}

fn quarantine(info: &Info, place: &Place) -> Option<Finding> {
    let quarantine = place.quarantine.unwrap_or(QUARANTINE);
    if quarantine.is_zero() {
        return Some(doubtful(
            "quarantine",
            "after a restart without its data permits are granted at once, although others may still \
             hold them; leave out --quarantine 0 unless that does not matter",
        ));
    }
    let up = Duration::from_secs(info.number("uptime_in_seconds"));
    let left = quarantine.checked_sub(up).filter(|left| !left.is_zero())?;
    Some(doubtful(
        "quarantine",
        format!(
            "it was started {}s ago, and of a semaphore that it does not remember it grants nothing \
             for another {}s; wait",
            up.as_secs(),
            left.as_secs()
        ),
    ))
}

fn clocks(theirs: Duration, ours: SystemTime) -> Finding {
    let ours = ours.duration_since(UNIX_EPOCH).unwrap_or_default();
    let ahead = theirs.as_secs_f64() - ours.as_secs_f64();
    let how = if ahead < 0.0 { "behind" } else { "ahead of" };
    let text = format!("its clock is {:.1}s {how} ours", ahead.abs());
    if ahead.abs() <= CLOCKS {
        return good("clock", text);
    }
    doubtful(
        "clock",
        format!(
            "{text}; semrun decides nothing by that, but PassBuddy's programs and what people read \
             do: set the clocks by NTP"
        ),
    )
}

pub(super) fn good(topic: &'static str, text: impl Into<String>) -> Finding {
    Finding { topic, grade: Grade::Good, text: text.into() }
}

pub(super) fn doubtful(topic: &'static str, text: impl Into<String>) -> Finding {
    Finding { topic, grade: Grade::Doubtful, text: text.into() }
}

pub(super) fn bad(topic: &'static str, text: impl Into<String>) -> Finding {
    Finding { topic, grade: Grade::Bad, text: text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::redis::place::Url;
    use crate::backends::tls::Tls;

    fn place(quarantine: Option<Duration>) -> Place {
        Place {
            url: Url::parse("redis://h").unwrap(),
            tls: Tls::default(),
            prefix: "p".parse().unwrap(),
            quarantine,
            replicas: 0,
            allow_eviction: false,
        }
    }

    fn examined(info: &str, save: Option<&str>) -> Vec<(&'static str, Grade)> {
        let save = save.map(str::to_owned);
        let settings = Settings { save, appendfsync: None, min_replicas: None };
        let findings = found(&Info(info.replace(' ', "\r\n")), &settings, &place(None));
        findings.into_iter().map(|finding| (finding.topic, finding.grade)).collect()
    }

    #[test]
    fn what_endangers_permits_is_found() {
        const UP: &str = "uptime_in_seconds:100";
        let has = |info: &str, save, finding| {
            let findings = examined(&format!("{UP} {info}"), save);
            assert!(findings.contains(&finding), "{info}: {findings:?}");
        };
        let (doubtful, bad, good) = (Grade::Doubtful, Grade::Bad, Grade::Good);
        has("aof_enabled:0", Some("3600 1"), ("persistence", good));
        has("aof_enabled:0", Some(""), ("persistence", doubtful));
        has("aof_enabled:0", None, ("persistence", doubtful));
        has("aof_enabled:1 aof_last_write_status:err", Some(""), ("disk", bad));
        has("aof_enabled:0 rdb_last_bgsave_status:err", Some("60 1"), ("disk", bad));
        has("maxmemory:100 maxmemory_policy:noeviction used_memory:95", None, ("memory", doubtful));
        has("maxmemory:100 maxmemory_policy:allkeys-lfu used_memory:95", None, ("eviction", bad));
        has("maxmemory:0 maxmemory_policy:allkeys-lfu", None, ("eviction", good));
        has("role:slave", None, ("role", bad));
        assert_eq!(examined("uptime_in_seconds:100 valkey_version:8", Some("1 1")).len(), 3);
    }

    #[test]
    fn a_server_that_was_just_started_is_waited_for() {
        let left = |up: u64, quarantine| {
            let info = Info(format!("uptime_in_seconds:{up}"));
            super::quarantine(&info, &place(quarantine)).map(|finding| finding.text)
        };
        assert!(left(10, None).is_some_and(|text| text.contains("another 20s")));
        assert_eq!(left(30, None), None);
        assert!(left(30, Some(Duration::from_mins(1))).is_some());
        assert!(left(9_999, Some(Duration::ZERO)).is_some_and(|text| text.contains("at once")));
    }

    #[test]
    fn prefixes_that_run_together_are_a_doubt() {
        let found = |text: &str| prefix(&text.parse().unwrap()).map(|finding| finding.text);
        assert_eq!((found("semrun"), found("team_a")), (None, None));
        assert!(found("a-b-c").is_some_and(|text| text.contains("'a'") && text.contains("'b-c-'")));
    }

    #[test]
    fn clocks_that_differ_are_worth_a_word() {
        let ours = UNIX_EPOCH + Duration::from_secs(1_000);
        let theirs = |seconds| clocks(Duration::from_secs(seconds), ours);
        assert_eq!((theirs(991).grade, theirs(1_011).grade), (Grade::Good, Grade::Doubtful));
        assert!(theirs(900).text.starts_with("its clock is 100.0s behind ours"));
    }
}
