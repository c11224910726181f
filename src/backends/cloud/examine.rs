//! What there is to know of a cloud-semaphore server, and of the way to it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::StatusCode;

use super::link::unexpected;
use super::place::Url;
use super::wire::{ABOUT, About};
use super::{OBSERVE, Shared, understood};
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
        let mut findings = vec![good("server", "it answers, and accepts the API key".into())];
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
        good("state", "permits outlive a restart of the server".into())
    } else {
        let text = "the server forgets all permits when it is restarted, and others may be granted \
                    what running commands hold; start it with --state-dir";
        doubtful("state", text.into())
    };
    [good("kind", kind), state, about_clocks(about, now)]
}

fn about_clocks(about: &About, now: SystemTime) -> Finding {
    let there = Duration::from_millis(about.time_ms);
    let here = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let apart = there.abs_diff(here);
    let which = if there < here { "behind" } else { "ahead of" };
    let text = format!("the server's is {:.1}s {which} ours", apart.as_secs_f64());
    if apart <= FAR {
        return good("clock", text);
    }
    let advice = "nothing is decided by that, but times in `status` mislead; check NTP on both";
    doubtful("clock", format!("{text}; {advice}"))
}

fn about_the_original() -> Finding {
    let text = "the original cloud-semaphore server: one permit a name, no fencing tokens, no \
                --min-hold, acquire, renew or limit, no list of names, and nothing outlives a \
                connection; `semrun serve` does all of it";
    doubtful("kind", text.into())
}

fn about_the_way(url: &Url) -> Finding {
    if url.tls {
        good("network", "the connection is encrypted, and the server has a certificate".into())
    } else if url.is_here() {
        good("network", "the connection does not leave this machine".into())
    } else {
        let text =
            "keys can be read on the network; use https:// (semrun serve --tls-cert, --tls-key)";
        doubtful("network", text.into())
    }
}

fn good(topic: &'static str, text: String) -> Finding {
    Finding { topic, grade: Grade::Good, text }
}

fn doubtful(topic: &'static str, text: String) -> Finding {
    Finding { topic, grade: Grade::Doubtful, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_can_be_read_on_the_network_are_a_doubt() {
        for (url, grade) in [
            ("http://127.0.0.1:3202", Grade::Good),
            ("http://[::1]:3202", Grade::Good),
            ("http://localhost", Grade::Good),
            ("https://example.org", Grade::Good),
            ("http://example.org", Grade::Doubtful),
            ("http://10.0.0.1:3202", Grade::Doubtful),
        ] {
            assert_eq!(about_the_way(&Url::parse(url).unwrap()).grade, grade, "{url}");
        }
    }

    #[test]
    fn a_server_that_forgets_and_clocks_that_differ_are_doubts() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let about = |remembers, time_ms| About { version: "1".into(), remembers, time_ms };
        let grades = |about| about_ours(&about, now).map(|finding| finding.grade);
        let [good, doubtful] = [Grade::Good, Grade::Doubtful];
        assert_eq!(grades(about(true, 1_000_009_000)), [good, good, good]);
        assert_eq!(grades(about(false, 999_991_000)), [good, doubtful, good]);
        assert_eq!(grades(about(true, 1_000_011_000)), [good, good, doubtful]);
        let [.., clocks] = about_ours(&about(true, 987_655_000), now);
        assert!(clocks.text.starts_with("the server's is 12345.0s behind ours;"), "{clocks:?}");
    }
}
