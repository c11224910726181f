//! What `doctor` checks of a cloud-semaphore server, and of the way to it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::StatusCode;

use super::config::CloudUrl;
use super::http::unexpected;
use super::protocol::{ABOUT, ServerInfo};
use super::{CloudServer, OBSERVE, parse_body};
use crate::permits::finding::{ClockOffset, FindingKind};
use crate::permits::{Finding, Grade, StoreError};

/// A semaphore to look at, which creates none.
const ANY: &str = "semrun";

/// Clocks that differ by more are worth a word.
const FAR: Duration = Duration::from_secs(10);

impl CloudServer {
    pub(super) async fn diagnose(&self) -> Result<Vec<Finding>, StoreError> {
        let asked = SystemTime::now();
        let about = self.ask_ours(self.dialler.request(ABOUT, ""), ABOUT).await?;
        let took = asked.elapsed().unwrap_or_default();
        if about.is_none() {
            // The original looks at the key only where it knows the path.
            let (status, _) = self.exchange(self.dialler.request(OBSERVE, ANY)).await?;
            if status != StatusCode::OK {
                return Err(unexpected(status, OBSERVE));
            }
        }
        let mut findings = vec![ok("server", FindingKind::Accepts)];
        match about {
            Some(body) => {
                findings.extend(about_ours(&parse_body::<ServerInfo>(&body)?, asked + took / 2));
            }
            None => findings.push(about_the_original()),
        }
        findings.push(about_the_way(&self.dialler.config.url));
        Ok(findings)
    }
}

fn about_ours(about: &ServerInfo, now: SystemTime) -> [Finding; 3] {
    let kind = ok("kind", FindingKind::Serve { version: about.version.clone() });
    let state = if about.remembers {
        ok("state", FindingKind::Remembers)
    } else {
        warning("state", FindingKind::Forgets)
    };
    [kind, state, about_clocks(about, now)]
}

fn about_clocks(about: &ServerInfo, now: SystemTime) -> Finding {
    let there = Duration::from_millis(about.time_ms);
    let offset = ClockOffset::of(there, now.duration_since(UNIX_EPOCH).unwrap_or_default());
    let what = FindingKind::ServeClock(offset);
    if offset.apart <= FAR { ok("clock", what) } else { warning("clock", what) }
}

fn about_the_original() -> Finding {
    warning("kind", FindingKind::Original)
}

fn about_the_way(url: &CloudUrl) -> Finding {
    if url.tls {
        ok("network", FindingKind::Encrypted)
    } else if url.is_here() {
        ok("network", FindingKind::Here)
    } else {
        warning("network", FindingKind::KeyReadable)
    }
}

fn ok(topic: &'static str, what: FindingKind) -> Finding {
    Finding { topic, grade: Grade::Ok, what }
}

fn warning(topic: &'static str, what: FindingKind) -> Finding {
    Finding { topic, grade: Grade::Warning, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_can_be_read_on_the_network_are_a_doubt() {
        for (url, grade) in [
            ("http://127.0.0.1:3202", Grade::Ok),
            ("http://[::1]:3202", Grade::Ok),
            ("http://localhost", Grade::Ok),
            ("https://example.org", Grade::Ok),
            ("http://example.org", Grade::Warning),
            ("http://10.0.0.1:3202", Grade::Warning),
        ] {
            assert_eq!(about_the_way(&CloudUrl::parse(url).unwrap()).grade, grade, "{url}");
        }
    }

    #[test]
    fn a_server_that_forgets_and_clocks_that_differ_are_doubts() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let about = |remembers, time_ms| ServerInfo { version: "1".into(), remembers, time_ms };
        let grades = |about| about_ours(&about, now).map(|finding| finding.grade);
        let [ok, warning] = [Grade::Ok, Grade::Warning];
        assert_eq!(grades(about(true, 1_000_009_000)), [ok, ok, ok]);
        assert_eq!(grades(about(false, 999_991_000)), [ok, warning, ok]);
        assert_eq!(grades(about(true, 1_000_011_000)), [ok, ok, warning]);
        let [.., clocks] = about_ours(&about(true, 987_655_000), now);
        let offset = ClockOffset { apart: Duration::from_secs(12_345), behind: true };
        assert_eq!(clocks.what, FindingKind::ServeClock(offset));
    }
}
