//! What there is to know of a cloud-semaphore server, and of the way to it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::StatusCode;

use super::link::unexpected;
use super::place::Url;
use super::wire::{ABOUT, About};
use super::{OBSERVE, Shared, understood};
use crate::backends::believed;
use crate::backends::trouble::Trouble;
use crate::backends::{Finding, Grade};

/// A semaphore to look at, which creates none.
const ANY: &str = "semrun";

/// Clocks that differ by more are worth a word.
const FAR: Duration = Duration::from_secs(10);

impl Shared {
    pub(super) async fn examine(&self) -> Result<Vec<Finding>, Trouble> {
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
        let mut findings = vec![ok("server", "it answers, and accepts the API key".into())];
        match about {
            Some(body) => {
                findings.extend(about_ours(&understood::<About>(&body)?, asked + took / 2));
            }
            None => findings.push(about_the_original()),
        }
        findings.push(about_the_way(&self.dialler.place.url));
        Ok(findings)
    }
}

fn about_ours(about: &About, now: SystemTime) -> [Finding; 3] {
    let kind = format!("semrun serve, version {}", about.version);
    let state = if about.remembers {
        ok("state", "permits outlive a restart of the server".into())
    } else {
        let text = "the server forgets all permits when it is restarted, and others may be granted \
                    what running commands hold; start it with --state-dir";
        warning("state", text.into())
    };
    [ok("kind", kind), state, about_clocks(about, now)]
}

fn about_clocks(about: &About, now: SystemTime) -> Finding {
    let there = Duration::from_millis(about.time_ms);
    let here = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let apart = there.abs_diff(here);
    let which = if there < here { "behind" } else { "ahead of" };
    let text = format!("the server's is {} {which} ours", believed::apart(apart));
    if apart <= FAR {
        return ok("clock", text);
    }
    let advice = "nothing is decided by that, but times in `status` mislead; check NTP on both";
    warning("clock", format!("{text}; {advice}"))
}

fn about_the_original() -> Finding {
    let text = "the original cloud-semaphore server: one permit a name, no fencing tokens, no \
                --min-hold, acquire, renew or limit, no list of names, and nothing outlives a \
                connection; `semrun serve` does all of it";
    warning("kind", text.into())
}

fn about_the_way(url: &Url) -> Finding {
    if url.tls {
        ok("network", "the connection is encrypted, and the server has a certificate".into())
    } else if url.is_here() {
        ok("network", "the connection does not leave this machine".into())
    } else {
        let text =
            "keys can be read on the network; use https:// (semrun serve --tls-cert, --tls-key)";
        warning("network", text.into())
    }
}

fn ok(topic: &'static str, text: String) -> Finding {
    Finding { topic, grade: Grade::Ok, text }
}

fn warning(topic: &'static str, text: String) -> Finding {
    Finding { topic, grade: Grade::Warning, text }
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
            assert_eq!(about_the_way(&Url::parse(url).unwrap()).grade, grade, "{url}");
        }
    }

    #[test]
    fn a_server_that_forgets_and_clocks_that_differ_are_doubts() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let about = |remembers, time_ms| About { version: "1".into(), remembers, time_ms };
        let grades = |about| about_ours(&about, now).map(|finding| finding.grade);
        let [ok, warning] = [Grade::Ok, Grade::Warning];
        assert_eq!(grades(about(true, 1_000_009_000)), [ok, ok, ok]);
        assert_eq!(grades(about(false, 999_991_000)), [ok, warning, ok]);
        assert_eq!(grades(about(true, 1_000_011_000)), [ok, ok, warning]);
        let [.., clocks] = about_ours(&about(true, 987_655_000), now);
        assert!(clocks.text.starts_with("the server's is 3h 25m 45s behind ours;"), "{clocks:?}");
    }
}
