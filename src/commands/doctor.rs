//! Looking for what is wrong with settings, backend and clocks before a job finds it.

use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use rustix::termios::tcgetwinsize;
use serde::Serialize;

use super::runtime::{block_on, connect, print, write_out};
use crate::backends::url::{Location, Url};
use crate::cli::messages::{Check, ErrorText, Examined, FailedText, Output, Summary};
use crate::console::is_dumb;
use crate::exit::Exit;
use crate::permits::Terms;
use crate::permits::{
    AcquireRequest, Acquisition, Backend, BackendError, CancelToken, ClientInfo, Failover,
    FailureClass, Grade, ProgressSender,
};
use crate::printable::pitfall;
use crate::settings::{DiagnosedBackend, DoctorSettings, GivenOption, GivenValue};
use crate::supervise::{descendants, lease_deadlines};
use crate::user::{self, User};

/// The name and the limit of the trial's semaphore; no user asks for so many permits at once.
const TRIAL: &str = "semrun doctor";
const ENOUGH: u32 = 10_000;

pub(super) fn run(settings: DoctorSettings, user: &User) -> anyhow::Result<Exit> {
    let mut report =
        DoctorJson { version: 1, grade: Grade::Ok, settings: Vec::new(), checks: Vec::new() };
    // `--json` is of this call, not of a run.
    let given = settings.given.iter().filter(|given| given.option != "json");
    report.settings = given.map(SettingJson::of).collect();
    match settings.examined {
        Err(settings_error) => {
            report.checks.push(finding("configuration", Grade::Error, settings_error));
        }
        Ok(examined) => {
            report.settings.extend(defaults(&settings.given, &examined));
            report.checks = block_on(diagnose(&examined, user))?;
        }
    }
    // A misspelt variable does nothing, and no other message says so.
    let unknown = settings.unknown.iter().map(|word| finding("variables", Grade::Warning, word));
    report.checks.splice(report.checks.len().min(1)..report.checks.len().min(1), unknown);
    let grades = report.checks.iter().map(|check| check.grade);
    report.grade = grades.max_by_key(|grade| *grade as u8).unwrap_or(Grade::Ok);
    if settings.json {
        print(&Output::document(&report)?)?;
    } else if colours() {
        write_out(coloured(report.table(columns()).text()).as_bytes())?;
    } else {
        print(&report.table(columns()))?;
    }
    Ok(if report.grade == Grade::Error { Exit::Unwell } else { Exit::Success })
}

async fn diagnose(examined: &DiagnosedBackend, user: &User) -> Vec<Check> {
    let DiagnosedBackend { name, location, terms, kill_after, typed_password, .. } = examined;
    let ttl = &terms.ttl;
    let mut checks = vec![finding("configuration", Grade::Ok, Examined::NoMistakes)];
    if *typed_password {
        checks.push(finding("password", Grade::Warning, Examined::PasswordTyped));
    }
    if let Some(name) = name
        && let Some(why) = pitfall(name.as_str())
    {
        checks.push(finding("name", Grade::Warning, Examined::Pitfall(name, why)));
    }
    if location.expires() {
        let fits = Examined::KillAfter { kill_after: *kill_after, ttl: *ttl };
        checks.push(finding("kill-after", Grade::Ok, fits));
    }
    if location.expires() && !descendants::can_be_found() {
        checks.push(finding("processes", Grade::Error, Examined::ProcessesHidden));
    }
    let backend = match connect(location, user) {
        Ok(backend) => backend,
        Err(problem) => {
            checks.push(finding("backend", Grade::Error, ErrorText(&problem)));
            return checks;
        }
    };
    let found = backend.diagnose().await;
    let (url, is_default) = (&*backend.url(), matches!(location, Location::Default));
    let place = finding("backend", Grade::Ok, Examined::Place { url, is_default });
    match found {
        Err(problem) => checks.push(finding("backend", Grade::Error, ErrorText(&problem))),
        Ok(found) => {
            checks.push(place);
            checks.extend(found.iter().map(Check::of));
            checks.extend(failover_check(backend.failover_time().await, *ttl, *kill_after));
            checks.push(try_out(&*backend, *ttl, user).await);
        }
    }
    checks
}

fn finding(topic: &'static str, grade: Grade, what: impl Display) -> Check {
    Check { topic, grade, text: what.to_string() }
}

/// Whether running jobs survive when another server replaces this one.
fn failover_check(takeover: Failover, ttl: Duration, kill_after: Duration) -> Option<Check> {
    let topic = "failover";
    let room = lease_deadlines::outage(ttl, Some(kill_after));
    // Between two attempts to renew there is a second or less, and finding the other server takes another.
    let with_attempts = |time: Duration| time + Duration::from_secs(2);
    Some(match takeover {
        Failover::Never => return None,
        Failover::Unknown => {
            let room = room.saturating_sub(with_attempts(Duration::ZERO));
            finding(topic, Grade::Ok, Examined::FailoverWithin { room, ttl })
        }
        Failover::After(after) if with_attempts(after) <= room => {
            finding(topic, Grade::Ok, Examined::FailoverInTime { after, ttl })
        }
        Failover::After(after) => {
            let enough = lease_deadlines::ttl_for_outage(with_attempts(after), Some(kill_after));
            finding(topic, Grade::Warning, Examined::FailoverTooLate { after, ttl, enough })
        }
    })
}

/// Takes a permit, and gives it back.
async fn try_out(backend: &dyn Backend, ttl: Duration, user: &User) -> Check {
    let name = TRIAL.parse().expect("a good name");
    let terms = Terms { limit: ENOUGH, ttl, ..Terms::default() };
    let who = ClientInfo {
        label: "doctor".into(),
        host: user::host(),
        pid: std::process::id(),
        user: user.name.clone(),
        detached: false,
    };
    let mut request = AcquireRequest { nonblock: true, ..AcquireRequest::of(name, terms, who) };
    let mut tried = one_trial(backend, &request).await;
    if tried.as_ref().is_err_and(|error| error.kind() == FailureClass::Unsupported) {
        // The server has only one permit a name.
        request.terms.limit = 1;
        tried = one_trial(backend, &request).await;
    }
    let topic = "trial";
    match tried {
        Ok(Some((acquired, released))) => {
            finding(topic, Grade::Ok, Examined::Trial { acquired, released })
        }
        Ok(None) => finding(topic, Grade::Warning, Examined::TrialBusy),
        Err(error) if error.kind() == FailureClass::Withheld => {
            finding(topic, Grade::Warning, FailedText(&error))
        }
        Err(problem) => finding(topic, Grade::Error, ErrorText(&problem)),
    }
}

/// How long it took. None: no permit was free.
async fn one_trial(
    backend: &dyn Backend,
    request: &AcquireRequest,
) -> Result<Option<(Duration, Duration)>, BackendError> {
    let progress = ProgressSender::unheard();
    let (_canceller, cancel) = CancelToken::pair();
    let begin = Instant::now();
    let Acquisition::Granted(lease) = backend.acquire(request, &progress, cancel).await? else {
        return Ok(None);
    };
    let acquired = begin.elapsed();
    lease.release(super::waiting::GIVING_BACK).await?;
    Ok(Some((acquired, begin.elapsed().saturating_sub(acquired))))
}

/// The JSON document. Fields are only ever added; a change of meaning is a new version.
#[derive(Serialize)]
struct DoctorJson {
    version: u32,
    /// The worst of all.
    grade: Grade,
    settings: Vec<SettingJson>,
    checks: Vec<Check>,
}

/// One setting that the user gave.
#[derive(Serialize)]
struct SettingJson {
    option: String,
    value: String,
    source: String,
}

/// The defaults that apply.
fn defaults(given: &[GivenOption], examined: &DiagnosedBackend) -> Vec<SettingJson> {
    let DiagnosedBackend { terms: Terms { limit, ttl, .. }, kill_after, location, .. } = examined;
    let duration = |time: Duration| humantime::format_duration(time).to_string();
    let mut defaults = vec![("limit", limit.to_string())];
    if location.expires() {
        defaults.extend([("ttl", duration(*ttl)), ("kill-after", duration(*kill_after))]);
    }
    let is_given = |option: &str| given.iter().any(|given| given.option == option);
    let defaults = defaults.into_iter().filter(|(option, _)| !is_given(option));
    let default = |(option, value): (&str, String)| SettingJson {
        option: option.into(),
        value,
        source: "default".into(),
    };
    defaults.map(default).collect()
}

impl SettingJson {
    fn of(given: &GivenOption) -> Self {
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

impl DoctorJson {
    /// In so many columns, if anything limits them.
    fn table(&self, columns: Option<usize>) -> Output {
        let mut page = Output::default();
        if !self.settings.is_empty() {
            page.rows(&self.settings.iter().map(SettingJson::row).collect::<Vec<_>>());
            page.line("");
        }
        let checks: Vec<_> = self.checks.iter().map(row).collect();
        match columns {
            Some(columns) => page.rows_within(&checks, columns),
            None => page.rows(&checks),
        }
        page.line("");
        page.line(self.summary());
        page
    }

    fn summary(&self) -> Summary {
        let count = |grade| self.checks.iter().filter(|check| check.grade == grade).count();
        Summary { errors: count(Grade::Error), warnings: count(Grade::Warning) }
    }
}

/// The columns of a terminal. A file keeps each check in one line, for programs that look for words.
fn columns() -> Option<usize> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Whether standard output is a terminal, and its user accepts colours.
fn colours() -> bool {
    let none = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !none && !is_dumb()
}

/// The same with the grades in green, yellow and red.
fn coloured(text: &str) -> String {
    const COLOURS: [(&str, u8); 3] = [("ok ", 32), ("warning ", 33), ("error ", 31)];
    let line = |line: &str| match COLOURS.into_iter().find(|(word, _)| line.starts_with(word)) {
        Some((word, colour)) => {
            let word = word.trim_end();
            format!("\x1b[{colour}m{word}\x1b[0m{}\n", &line[word.len()..])
        }
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

fn row(finding: &Check) -> Vec<&str> {
    let grade = match finding.grade {
        Grade::Ok => "ok     ",
        Grade::Warning => "warning",
        Grade::Error => "error  ",
    };
    vec![grade, finding.topic, &finding.text]
}
