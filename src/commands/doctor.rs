//! Looking for what is wrong with settings, backend and clocks before a job finds it.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use rustix::termios::tcgetwinsize;
use serde::Serialize;
use uuid::Uuid;

use super::runtime::{block_on, print, write_out};
use crate::backends::connect::{Location, Url};
use crate::backends::{
    AcquireRequest, Acquisition, Backend, CancelToken, ClientInfo, Error, ErrorKind, Failover,
    Grade, ProgressSender,
};
use crate::cli::messages::{Check, ErrorText, FailedText, Milliseconds, Output, Span, TYPED};
use crate::exit::Exit;
use crate::printable::pitfall;
use crate::settings::{DiagnosedBackend, DoctorSettings, GivenOption, GivenValue};
use crate::supervise::{deadline, descendants};
use crate::terminal::is_dumb;
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
            report.checks.push(error("configuration", settings_error.to_string()));
        }
        Ok(examined) => {
            report.settings.extend(defaults(&settings.given, &examined));
            report.checks = block_on(diagnose(&examined, user))?;
        }
    }
    // A misspelt variable does nothing, and no other message says so.
    let unknown =
        settings.unknown.iter().map(|word| finding("variables", Grade::Warning, &word.to_string()));
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
    let DiagnosedBackend { name, location, ttl, kill_after, typed_password, .. } = examined;
    let mut checks = vec![finding("configuration", Grade::Ok, "has no mistakes")];
    if *typed_password {
        checks.push(finding("password", Grade::Warning, TYPED));
    }
    if let Some(name) = name
        && let Some(why) = pitfall(name.as_str())
    {
        let text = format!("'{name}' {why}, and one that looks the same may be another semaphore");
        checks.push(finding("name", Grade::Warning, &text));
    }
    if location.expires() {
        let (time, ttl) =
            (humantime::format_duration(*kill_after), humantime::format_duration(*ttl));
        let text = format!("{time}, which fits into a TTL of {ttl}");
        checks.push(finding("kill-after", Grade::Ok, &text));
    }
    if location.expires() && !descendants::can_be_found() {
        let text = "/proc is missing, hides processes, or is that of another pid namespace, and without \
                    it a command's processes could not be stopped in time (unshare --mount-proc mounts \
                    it)";
        checks.push(finding("processes", Grade::Error, text));
    }
    let backend = match location.connect(user) {
        Ok(backend) => backend,
        Err(problem) => {
            checks.push(error("backend", ErrorText(&problem).to_string()));
            return checks;
        }
    };
    let found = backend.diagnose().await;
    let default = match location {
        Location::Default => " (the default)",
        _ => "",
    };
    let place = finding("backend", Grade::Ok, &format!("{}{default}", backend.url()));
    match found {
        Err(problem) => checks.push(error("backend", ErrorText(&problem).to_string())),
        Ok(found) => {
            checks.push(place);
            checks.extend(found.iter().map(Check::of));
            checks.extend(failover_check(backend.failover_time().await, *ttl, *kill_after));
            checks.push(try_out(&*backend, *ttl, user).await);
        }
    }
    checks
}

fn finding(topic: &'static str, grade: Grade, text: &str) -> Check {
    Check { topic, grade, text: text.into() }
}

fn error(topic: &'static str, text: String) -> Check {
    Check { topic, grade: Grade::Error, text }
}

/// Whether running jobs survive when another server replaces this one.
fn failover_check(takeover: Failover, ttl: Duration, kill_after: Duration) -> Option<Check> {
    let topic = "failover";
    let room = deadline::outage(ttl, Some(kill_after));
    let shown = humantime::format_duration(ttl);
    // Between two attempts to renew there is a second or less, and finding the other server takes another.
    let with_attempts = |time: Duration| time + Duration::from_secs(2);
    Some(match takeover {
        Failover::Never => return None,
        Failover::Unknown => {
            let text = format!(
                "with a TTL of {shown} a running job goes on if another server takes the place of this one \
                 within {}",
                Span(room.saturating_sub(with_attempts(Duration::ZERO)))
            );
            finding(topic, Grade::Ok, &text)
        }
        Failover::After(time) if with_attempts(time) <= room => {
            let text = format!(
                "another server takes the place of this one after {}, and with a TTL of {shown} running \
                 jobs go on",
                Span(time)
            );
            finding(topic, Grade::Ok, &text)
        }
        Failover::After(time) => {
            let enough = deadline::ttl_for_outage(with_attempts(time), Some(kill_after));
            let text = format!(
                "another server takes the place of this one after {}, and with a TTL of {shown} every \
                 running job is stopped by then (76); use --ttl {} or more, or make the failover faster",
                Span(time),
                humantime::format_duration(enough)
            );
            finding(topic, Grade::Warning, &text)
        }
    })
}

/// Takes a permit, and gives it back.
async fn try_out(backend: &dyn Backend, ttl: Duration, user: &User) -> Check {
    let mut request = AcquireRequest {
        name: TRIAL.parse().expect("a good name"),
        id: Uuid::new_v4(),
        limit: ENOUGH,
        ttl,
        strict: false,
        min_hold: Duration::ZERO,
        nonblock: true,
        who: ClientInfo {
            label: "doctor".into(),
            host: user::host(),
            pid: std::process::id(),
            user: user.name.clone(),
            detached: false,
        },
    };
    let mut tried = one_trial(backend, &request).await;
    if tried.as_ref().is_err_and(|error| error.kind() == ErrorKind::Unsupported) {
        // The server has only one permit a name.
        request.limit = 1;
        tried = one_trial(backend, &request).await;
    }
    let topic = "trial";
    match tried {
        Ok(Some((acquired, released))) => {
            let (acquired, released) = (Milliseconds(acquired), Milliseconds(released));
            let text = format!("a permit was acquired in {acquired} and given back in {released}");
            finding(topic, Grade::Ok, &text)
        }
        Ok(None) => {
            let text = "no permit was free just now: another doctor is at work";
            finding(topic, Grade::Warning, text)
        }
        Err(error) if error.kind() == ErrorKind::Withheld => {
            finding(topic, Grade::Warning, &FailedText(&error).to_string())
        }
        Err(problem) => error(topic, ErrorText(&problem).to_string()),
    }
}

/// How long it took. None: no permit was free.
async fn one_trial(
    backend: &dyn Backend,
    request: &AcquireRequest,
) -> Result<Option<(Duration, Duration)>, Error> {
    let (progress, _notices) = ProgressSender::channel();
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
    let DiagnosedBackend { limit, ttl, kill_after, location, .. } = examined;
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

    /// What is to be done about it, in all.
    fn summary(&self) -> String {
        let count = |grade| self.checks.iter().filter(|check| check.grade == grade).count();
        let errors = match count(Grade::Error) {
            0 => "nothing to mend".to_owned(),
            1 => "1 thing to mend".to_owned(),
            many => format!("{many} things to mend"),
        };
        match count(Grade::Warning) {
            0 => errors,
            1 => format!("{errors}, 1 warning"),
            many => format!("{errors}, {many} warnings"),
        }
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
