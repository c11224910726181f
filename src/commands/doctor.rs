//! Looking for what is wrong with settings, backend and clocks before a job finds it.

use std::time::{Duration, Instant};

use serde::Serialize;
use uuid::Uuid;

use super::{block_on, print};
use crate::account::{self, Account};
use crate::backends::connect::{Location, Url};
use crate::backends::{
    Acquired, Ask, Backend, Cancel, Error, ErrorKind, Finding, Grade, Takeover, Turn, Who,
};
use crate::exit::Exit;
use crate::report::{Fine, Page, Span, pitfall};
use crate::settings::{Doctor, Examined, Given, GivenValue};
use crate::supervise::{deadline, descendants};

/// What permits are taken of for a trial. More than anybody asks for at once.
const TRIAL: &str = "semrun doctor";
const ENOUGH: u32 = 10_000;

pub(super) fn run(settings: Doctor, account: &Account) -> anyhow::Result<Exit> {
    let mut report =
        Report { version: 1, grade: Grade::Good, settings: Vec::new(), checks: Vec::new() };
    // Not of a run, but of this call.
    let given = settings.given.iter().filter(|given| given.option != "json");
    report.settings = given.map(Setting::of).collect();
    match settings.examined {
        Err(misuse) => report.checks.push(bad("configuration", misuse.to_string())),
        Ok(examined) => {
            report.settings.extend(defaults(&settings.given, &examined));
            report.checks = block_on(examine(&examined, account))?;
        }
    }
    let grades = report.checks.iter().map(|check| check.grade);
    report.grade = grades.max_by_key(|grade| *grade as u8).unwrap_or(Grade::Good);
    let page = if settings.json { Page::document(&report)? } else { report.table() };
    print(&page)?;
    Ok(if report.grade == Grade::Bad { Exit::Unwell } else { Exit::Success })
}

async fn examine(examined: &Examined, account: &Account) -> Vec<Finding> {
    let Examined { name, location, ttl, kill_after, typed_password, .. } = examined;
    let mut checks = vec![finding("configuration", Grade::Good, "has no mistakes")];
    if *typed_password {
        let text = "a password in --backend can be seen by everybody in the list of processes; \
                    --password-file, SEMRUN_PASSWORD and the configuration keep it to you";
        checks.push(finding("password", Grade::Doubtful, text));
    }
    if let Some(name) = name
        && let Some(why) = pitfall(name.as_str())
    {
        let text = format!("'{name}' {why}, and one that looks the same may be another semaphore");
        checks.push(finding("name", Grade::Doubtful, &text));
    }
    if location.expires() {
        let (time, ttl) =
            (humantime::format_duration(*kill_after), humantime::format_duration(*ttl));
        let text = format!("{time}, which fits into a TTL of {ttl}");
        checks.push(finding("kill-after", Grade::Good, &text));
    }
    if location.expires() && !descendants::can_be_found() {
        let text = "/proc is missing, hides processes, or is that of another pid namespace, and without \
                    it a command's processes could not be stopped in time (unshare --mount-proc mounts \
                    it)";
        checks.push(finding("processes", Grade::Bad, text));
    }
    let backend = match location.connect(account) {
        Ok(backend) => backend,
        Err(error) => {
            checks.push(bad("backend", error.to_string()));
            return checks;
        }
    };
    let found = backend.examine().await;
    let default = match location {
        Location::Default => " (the default)",
        _ => "",
    };
    let place = finding("backend", Grade::Good, &format!("{}{default}", backend.url()));
    match found {
        Err(error) => checks.push(bad("backend", error.to_string())),
        Ok(found) => {
            checks.push(place);
            checks.extend(found);
            checks.extend(takeover(backend.takeover().await, *ttl, *kill_after));
            checks.push(try_out(&*backend, *ttl, account).await);
        }
    }
    checks
}

fn finding(topic: &'static str, grade: Grade, text: &str) -> Finding {
    Finding { topic, grade, text: text.into() }
}

fn bad(topic: &'static str, text: String) -> Finding {
    Finding { topic, grade: Grade::Bad, text }
}

/// Whether running jobs survive it when another server takes the place of this one.
fn takeover(takeover: Takeover, ttl: Duration, kill_after: Duration) -> Option<Finding> {
    let topic = "failover";
    let room = deadline::outage(ttl, Some(kill_after));
    let shown = humantime::format_duration(ttl);
    // Between two attempts to renew there is a second or less, and finding the other server takes another.
    let with_attempts = |time: Duration| time + Duration::from_secs(2);
    Some(match takeover {
        Takeover::Never => return None,
        Takeover::Unknown => {
            let text = format!(
                "with a TTL of {shown} a running job goes on if another server takes the place of this one \
                 within {}",
                Span(room.saturating_sub(with_attempts(Duration::ZERO)))
            );
            finding(topic, Grade::Good, &text)
        }
        Takeover::After(time) if with_attempts(time) <= room => {
            let text = format!(
                "another server takes the place of this one after {}, and with a TTL of {shown} running \
                 jobs go on",
                Span(time)
            );
            finding(topic, Grade::Good, &text)
        }
        Takeover::After(time) => {
            let enough = deadline::ttl_for_outage(with_attempts(time), Some(kill_after));
            let text = format!(
                "another server takes the place of this one after {}, and with a TTL of {shown} every \
                 running job is stopped by then (76); use --ttl {} or more, or make the failover faster",
                Span(time),
                humantime::format_duration(enough)
            );
            finding(topic, Grade::Doubtful, &text)
        }
    })
}

/// Takes a permit, and gives it back.
async fn try_out(backend: &dyn Backend, ttl: Duration, account: &Account) -> Finding {
    let mut ask = Ask {
        name: TRIAL.parse().expect("a good name"),
        id: Uuid::new_v4(),
        limit: ENOUGH,
        ttl,
        strict: false,
        min_hold: Duration::ZERO,
        nonblock: true,
        who: Who {
            label: "doctor".into(),
            host: account::host(),
            pid: std::process::id(),
            user: account.user.clone(),
            detached: false,
        },
    };
    let mut tried = one_trial(backend, &ask).await;
    if tried.as_ref().is_err_and(|error| error.kind == ErrorKind::Unsupported) {
        // A server that has one permit a name.
        ask.limit = 1;
        tried = one_trial(backend, &ask).await;
    }
    let topic = "trial";
    match tried {
        Ok(Some((acquired, released))) => {
            let (acquired, released) = (Fine(acquired), Fine(released));
            let text = format!("a permit was acquired in {acquired} and given back in {released}");
            finding(topic, Grade::Good, &text)
        }
        Ok(None) => {
            let text = "no permit was free just now: another doctor is at work";
            finding(topic, Grade::Doubtful, text)
        }
        Err(error) if error.kind == ErrorKind::Withheld => {
            finding(topic, Grade::Doubtful, &error.what)
        }
        Err(error) => bad(topic, error.to_string()),
    }
}

/// How long it took. None: no permit was free.
async fn one_trial(
    backend: &dyn Backend,
    ask: &Ask,
) -> Result<Option<(Duration, Duration)>, Error> {
    let (turn, _notices) = Turn::channel();
    let (_canceller, cancel) = Cancel::pair();
    let begin = Instant::now();
    let Acquired::Granted(lease) = backend.acquire(ask, &turn, cancel).await? else {
        return Ok(None);
    };
    let acquired = begin.elapsed();
    lease.release(super::waiting::GIVING_BACK).await?;
    Ok(Some((acquired, begin.elapsed().saturating_sub(acquired))))
}

/// The JSON document. Fields are only ever added; a change of meaning is a new version.
#[derive(Serialize)]
struct Report {
    version: u32,
    /// The worst of all.
    grade: Grade,
    settings: Vec<Setting>,
    checks: Vec<Finding>,
}

/// One setting that somebody gave.
#[derive(Serialize)]
struct Setting {
    option: String,
    value: String,
    source: String,
}

/// What counts where nothing was given.
fn defaults(given: &[Given], examined: &Examined) -> Vec<Setting> {
    let Examined { limit, ttl, kill_after, location, .. } = examined;
    let duration = |time: Duration| humantime::format_duration(time).to_string();
    let mut defaults = vec![("limit", limit.to_string())];
    if location.expires() {
        defaults.extend([("ttl", duration(*ttl)), ("kill-after", duration(*kill_after))]);
    }
    let is_given = |option: &str| given.iter().any(|given| given.option == option);
    let defaults = defaults.into_iter().filter(|(option, _)| !is_given(option));
    let default = |(option, value): (&str, String)| Setting {
        option: option.into(),
        value,
        source: "default".into(),
    };
    defaults.map(default).collect()
}

impl Setting {
    fn of(given: &Given) -> Self {
        let value = match (given.option.as_str(), &given.value) {
            ("password" | "api-key", _) => "***".into(),
            ("backend", GivenValue::Text(url)) => shown_url(&url.to_string_lossy()),
            (_, value) => value.shown(),
        };
        Self { option: given.option.clone(), value, source: given.source.to_string() }
    }

    fn row(&self) -> Vec<&str> {
        vec!["setting ", &self.option, &self.value, &self.source]
    }
}

/// A URL with its password masked.
fn shown_url(url: &str) -> String {
    match Url::parse(url) {
        Ok(Url::Redis(url)) => url.shown(),
        Ok(_) => url.trim_end().into(),
        Err(_) => "***".into(),
    }
}

impl Report {
    fn table(&self) -> Page {
        let mut page = Page::default();
        page.rows(&self.settings.iter().map(Setting::row).collect::<Vec<_>>());
        page.rows(&self.checks.iter().map(row).collect::<Vec<_>>());
        page
    }
}

fn row(finding: &Finding) -> Vec<&str> {
    let grade = match finding.grade {
        Grade::Good => "good    ",
        Grade::Doubtful => "doubtful",
        Grade::Bad => "BAD     ",
    };
    vec![grade, finding.topic, &finding.text]
}
