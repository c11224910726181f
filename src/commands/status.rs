//! Who holds and who waits, as a table or as a JSON document (`docs/status.md`).

use std::fmt::Write;
use std::time::SystemTime;

use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use super::{print, runtime};
use crate::account::Account;
use crate::backends::{Backend, Error, Name, Record, Snapshot};
use crate::exit::Exit;
use crate::report::{Span, harmless};
use crate::settings::Status;

pub(super) fn run(settings: &Status) -> anyhow::Result<Exit> {
    let backend = settings.location.connect(&Account::current())?;
    let snapshots = runtime()?.block_on(look(&*backend, &settings.names))?;
    let text = if settings.json {
        let mut text = serde_json::to_string_pretty(&Document::of(&snapshots))?;
        text.push('\n');
        text
    } else {
        table(&snapshots, SystemTime::now())
    };
    print(text.as_bytes())?;
    let taken = snapshots.iter().any(Snapshot::full);
    Ok(if taken { Exit::AllTaken } else { Exit::Success })
}

async fn look(backend: &dyn Backend, names: &[Name]) -> Result<Vec<Snapshot>, Error> {
    let all = if names.is_empty() { backend.list().await? } else { Vec::new() };
    let mut snapshots = Vec::new();
    for name in names.iter().chain(&all) {
        snapshots.push(backend.observe(name).await?);
    }
    Ok(snapshots)
}

/// A heading for each semaphore, and a row for each holder and waiter.
fn table(snapshots: &[Snapshot], now: SystemTime) -> String {
    let mut text = String::new();
    for snapshot in snapshots {
        let name = &snapshot.name;
        let (held, waiting) = (snapshot.holders.len(), snapshot.waiters.len());
        let Some(limit) = snapshot.limit else {
            let _ = writeln!(text, "{name}: free");
            continue;
        };
        let _ = writeln!(text, "{name}: {held} of {limit} held, {waiting} waiting");
        let mut rows = vec![["", "LABEL", "HOST", "PID", "USER", "SINCE"].map(String::from)];
        for holder in &snapshot.holders {
            rows.push(row("holds".into(), holder.record.as_ref(), now));
        }
        for (place, waiter) in snapshot.waiters.iter().enumerate() {
            rows.push(row(format!("waits, {}", place + 1), waiter.record.as_ref(), now));
        }
        write_rows(&mut text, &rows);
    }
    text
}

fn row(state: String, record: Option<&Record>, now: SystemTime) -> [String; 6] {
    let Some(Record { who, since, .. }) = record else {
        return [state, "?".into(), "?".into(), "?".into(), "?".into(), "?".into()];
    };
    let age = Span(now.duration_since(*since).unwrap_or_default());
    let since = format!("{} ({age})", humantime::format_rfc3339_seconds(*since));
    let (label, host, user) = (harmless(&who.label), harmless(&who.host), harmless(&who.user));
    [state, label, host, who.pid.to_string(), user, since]
}

fn write_rows<const N: usize>(text: &mut String, rows: &[[String; N]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].width()).max().unwrap_or(0);
    let widths: Vec<_> = (0..N).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let padding = width - cell.width();
            let _ = write!(line, "  {cell}{:padding$}", "");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

/// The JSON document. Fields are only ever added; a change of meaning is a new version.
#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    semaphores: Vec<Semaphore<'a>>,
}

#[derive(Serialize)]
struct Semaphore<'a> {
    name: &'a str,
    limit: Option<u32>,
    holders: Vec<Holder<'a>>,
    waiters: Vec<Waiter<'a>>,
}

#[derive(Serialize)]
struct Holder<'a> {
    fencing_token: u64,
    #[serde(flatten)]
    record: Option<Person<'a>>,
}

#[derive(Serialize)]
struct Waiter<'a> {
    place: usize,
    #[serde(flatten)]
    record: Option<Person<'a>>,
}

#[derive(Serialize)]
struct Person<'a> {
    permit: String,
    label: &'a str,
    host: &'a str,
    pid: u32,
    user: &'a str,
    since: String,
}

impl<'a> Document<'a> {
    fn of(snapshots: &'a [Snapshot]) -> Self {
        Self { version: 1, semaphores: snapshots.iter().map(Semaphore::of).collect() }
    }
}

impl<'a> Semaphore<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        let name = &snapshot.name;
        let person = |record: &'a Option<Record>| {
            let record = record.as_ref()?;
            let who = &record.who;
            Some(Person {
                permit: format!("{}@{name}", record.permit),
                label: &who.label,
                host: &who.host,
                pid: who.pid,
                user: &who.user,
                since: humantime::format_rfc3339_millis(record.since).to_string(),
            })
        };
        let holders = snapshot
            .holders
            .iter()
            .map(|holder| Holder { fencing_token: holder.token, record: person(&holder.record) });
        let waiters = snapshot
            .waiters
            .iter()
            .enumerate()
            .map(|(index, waiter)| Waiter { place: index + 1, record: person(&waiter.record) });
        Self {
            name: name.as_str(),
            limit: snapshot.limit,
            holders: holders.collect(),
            waiters: waiters.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use uuid::Uuid;

    use super::*;
    use crate::backends::{Holder, Waiter, Who};

    fn snapshot() -> Snapshot {
        let record = |label: &str, pid| {
            let who = Who { label: label.into(), host: "web1".into(), pid, user: "ci".into() };
            Some(Record { permit: Uuid::nil(), who, since: UNIX_EPOCH + Duration::from_mins(1) })
        };
        Snapshot {
            name: "deploy".parse().unwrap(),
            limit: Some(1),
            holders: vec![Holder { token: 7, record: record("migrate.sh", 4242) }],
            waiters: vec![Waiter { record: record("日本", 1) }, Waiter { record: None }],
        }
    }

    #[test]
    fn the_table_is_aligned_and_says_what_it_does_not_know() {
        let idle = Snapshot::unused(&"idle".parse().unwrap());
        let text = table(&[snapshot(), idle], UNIX_EPOCH + Duration::from_secs(125));
        let expected = "\
deploy: 1 of 1 held, 2 waiting
            LABEL       HOST  PID   USER  SINCE
  holds     migrate.sh  web1  4242  ci    1970-01-01T00:01:00Z (1m 5s)
  waits, 1  日本        web1  1     ci    1970-01-01T00:01:00Z (1m 5s)
  waits, 2  ?           ?     ?     ?     ?
idle: free
";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_document_has_the_fields_that_are_promised() {
        let text = serde_json::to_string(&Document::of(&[snapshot()])).unwrap();
        let expected = concat!(
            r#"{"version":1,"semaphores":[{"name":"deploy","limit":1,"holders":[{"fencing_token":7,"#,
            r#""permit":"00000000-0000-0000-0000-000000000000@deploy","label":"migrate.sh","#,
            r#""host":"web1","pid":4242,"user":"ci","since":"1970-01-01T00:01:00.000Z"}],"#,
            r#""waiters":[{"place":1,"permit":"00000000-0000-0000-0000-000000000000@deploy","#,
            r#""label":"日本","host":"web1","pid":1,"user":"ci","since":"1970-01-01T00:01:00.000Z"},"#,
            r#"{"place":2}]}]}"#,
        );
        assert_eq!(text, expected);
    }
}
