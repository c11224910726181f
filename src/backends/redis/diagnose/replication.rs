//! What `doctor` checks of the replicas of a Redis, and of the Sentinels that promote one of them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use redis::{Value, from_redis_value};
use tokio::time::timeout;

use super::{Info, warning};
use crate::backends::redis::connection::sentinel_says;
use crate::backends::redis::server_handle::ServerHandle;
use crate::permits::finding::{FindingKind, ReplicaCheck, ReplicaReport};
use crate::permits::{Failover, Finding, Grade};

/// Where sentinels tell each other of a server, every two seconds.
const HELLO: &str = "__sentinel__:hello";
const HEARD_BY_THEN: Duration = Duration::from_millis(2_500);

/// After the time until a server is taken for dead: for the vote, and until clients can write to
/// the new one.
const VOTE: Duration = Duration::from_millis(1_300);

/// What is wrong with the replicas, for clients that need so many in step.
pub(super) fn found(info: &Info, needed: u32, min_replicas: Option<&str>) -> Vec<Finding> {
    let known = info.number("connected_slaves");
    let in_step = info.in_step();
    let needed = u64::from(needed);
    // Two servers that share the replicas may have as many each.
    let split = 2 * (needed + 1) <= known + 1;
    let verdict = match needed {
        _ if in_step < needed => Some((Grade::Error, ReplicaCheck::TooFew)),
        0 if known > 0 => Some((Grade::Warning, ReplicaCheck::NoneNeeded)),
        0 => None,
        _ if known == needed => Some((Grade::Warning, ReplicaCheck::AllNeeded)),
        _ if split => Some((Grade::Warning, ReplicaCheck::Split)),
        _ => Some((Grade::Ok, ReplicaCheck::Enough)),
    };
    let mut findings = Vec::new();
    findings.extend(verdict.map(|(grade, verdict)| {
        let what = FindingKind::Replicas(ReplicaReport { known, in_step, needed, verdict });
        Finding { topic: "replicas", grade, what }
    }));
    // Valkey reports the version of Redis with which it is compatible.
    let before_7 =
        info.field("redis_version").split('.').next().and_then(|major| major.parse().ok());
    if let Some(min) = min_replicas.filter(|min| *min != "0")
        && before_7.is_some_and(|major: u32| major < 7)
    {
        findings.push(warning("min-replicas", FindingKind::MinReplicasIgnored(min.into())));
    }
    findings
}

impl Info {
    /// How many replicas were heard of within two seconds.
    fn in_step(&self) -> u64 {
        let replicas = (0..self.number("connected_slaves")).map(|number| {
            let field = self.field(&format!("slave{number}"));
            let part = |name: &str| field.split(',').find_map(|part| part.strip_prefix(name));
            let lag = part("lag=").and_then(|lag| lag.parse::<u64>().ok());
            part("state=") == Some("online") && lag.is_some_and(|lag| lag <= 2)
        });
        replicas.map(u64::from).sum()
    }
}

impl ServerHandle {
    /// By the settings of the server, or of the sentinels that watch it.
    pub(in crate::backends::redis) async fn failover_time(&self) -> Failover {
        let Ok(Some(info)) = self.info("default").await else { return Failover::Never };
        if info.number("cluster_enabled") == 1 {
            let setting = self.setting("cluster-node-timeout").await.ok().flatten();
            let time = setting.and_then(|millis| millis.parse().ok()).map(Duration::from_millis);
            return time.map_or(Failover::Unknown, |time| Failover::After(time + VOTE));
        }
        if info.number("connected_slaves") == 0 && self.config.replicas == 0 {
            return Failover::Never;
        }
        let down_after = timeout(2 * HEARD_BY_THEN, self.down_after()).await;
        down_after.ok().flatten().map_or(Failover::Unknown, |time| Failover::After(time + VOTE))
    }

    /// After what time its sentinels take it for dead. None: none tells, or none may be asked.
    async fn down_after(&self) -> Option<Duration> {
        let heard = timeout(HEARD_BY_THEN, self.connection.listen(HELLO)).await.ok()?.ok()?;
        let (_, _, hello): (String, String, String) = from_redis_value(heard).ok()?;
        // Its address and port, its run_id and epoch, the name of the server, and more.
        let words: Vec<&str> = hello.split(',').collect();
        let [host, port, _, _, name, ..] = words[..] else { return None };
        let sentinel = SocketAddr::new(host.parse::<IpAddr>().ok()?, port.parse().ok()?);
        let said: Value = sentinel_says(sentinel, name).await.ok()?;
        let fields: Vec<String> = from_redis_value(said).ok()?;
        let at = fields.iter().position(|field| field == "down-after-milliseconds")?;
        Some(Duration::from_millis(fields.get(at + 1)?.parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_compared_with_what_clients_need() {
        let graded = |known: u64, in_step: u64, needed: u32| {
            let mut info = format!("redis_version:6.2.1\r\nconnected_slaves:{known}\r\n");
            for number in 0..known {
                let lag = if number < in_step { 1 } else { 9 };
                let line = format!("slave{number}:ip=h,port=1,state=online,lag={lag}\r\n");
                info.push_str(&line);
            }
            let findings = found(&Info::new(info), needed, Some("0"));
            findings.first().map(|finding| finding.grade)
        };
        assert_eq!(graded(0, 0, 0), None);
        for (known, needed) in [(1, 0), (2, 0), (1, 1), (2, 2), (3, 1), (5, 2)] {
            assert_eq!(graded(known, known, needed), Some(Grade::Warning), "{needed} of {known}");
        }
        for (known, needed) in [(2, 1), (3, 2), (4, 2), (5, 3)] {
            assert_eq!(graded(known, known, needed), Some(Grade::Ok), "{needed} of {known}");
        }
        for (known, in_step, needed) in [(0, 0, 1), (2, 0, 1), (3, 1, 2)] {
            assert_eq!(graded(known, in_step, needed), Some(Grade::Error), "{needed} of {known}");
        }
    }

    #[test]
    fn a_setting_that_scripts_ignore_is_no_protection() {
        let topics = |version: &str, min| {
            let info = Info::new(format!("redis_version:{version}\r\nconnected_slaves:0\r\n"));
            found(&info, 0, min).iter().map(|finding| finding.topic).collect::<Vec<_>>()
        };
        assert_eq!(topics("6.2.14", Some("1")), ["min-replicas"]);
        assert!(topics("7.0.15", Some("1")).is_empty());
        assert!(topics("6.2.14", Some("0")).is_empty() && topics("6.2.14", None).is_empty());
    }
}
