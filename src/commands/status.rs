//! Who holds and who waits, as a table or as a JSON document (`docs/status.md`).

mod document;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::SystemTime;

use self::document::Document;
use super::watch::{self, Screen};
use super::{block_on, print};
use crate::account::Account;
use crate::backends::{self, Backend, Error, Name, Phase, Record, Snapshot, Withheld};
use crate::exit::Exit;
use crate::report::{Among, Page, Span, quoted};
use crate::settings::Status;
use crate::terminal::{Console, Loudness};

pub(super) fn run(settings: &Status, account: &Account) -> anyhow::Result<Exit> {
    let places = settings.places.iter();
    let places = places.map(|(location, names)| Ok((location.connect(account)?, names.as_slice())));
    let places: Vec<_> = places.collect::<Result<_, Error>>()?;
    if settings.watch {
        return block_on(watch(&places, settings))?;
    }
    let snapshots = block_on(look(&places))??;
    let page = if settings.json {
        Page::document(&Document::of(&snapshots))?
    } else {
        table(&snapshots, settings.limit, SystemTime::now())
    };
    print(&page)?;
    let taken = snapshots.iter().any(|snapshot| snapshot.full(settings.limit));
    Ok(if taken { Exit::AllTaken } else { Exit::Success })
}

type Places<'a> = [(Box<dyn Backend>, &'a [Name])];

async fn look(places: &Places<'_>) -> Result<Vec<Snapshot>, Error> {
    let mut snapshots = Vec::new();
    for (backend, names) in places {
        if names.is_empty() {
            snapshots.append(&mut backend.observe_all().await?);
        }
        for name in *names {
            snapshots.push(backend.observe(name).await?);
        }
    }
    Ok(snapshots)
}

/// Shows it until nobody reads any more, or a signal ends us. A backend that is away for a while is
/// waited for, once it has been there.
async fn watch(places: &Places<'_>, settings: &Status) -> anyhow::Result<Exit> {
    let mut console = Console::new(Loudness::Normal);
    let mut screen = Screen::new();
    let mut snapshots = look(places).await?;
    let mut away = false;
    loop {
        let key = changing(&snapshots);
        let page = if settings.json {
            Page::document_line(&Document::of(&snapshots))?
        } else {
            let now = SystemTime::now();
            let mut page = Page::of(humantime::format_rfc3339_seconds(now));
            page.append(&table(&snapshots, settings.limit, now));
            page
        };
        if !screen.show(&page, key)? {
            return Ok(Exit::Success);
        }
        loop {
            tokio::time::sleep(watch::INTERVAL).await;
            match look(places).await {
                Ok(news) => {
                    away = false;
                    snapshots = news;
                    break;
                }
                Err(error) if !std::mem::replace(&mut away, true) => {
                    console.say(Loudness::Quiet, error);
                }
                Err(_) => {}
            }
        }
    }
}

/// What of it is news: not that time goes by.
fn changing(snapshots: &[Snapshot]) -> String {
    let mut text = String::new();
    for snapshot in snapshots {
        let Snapshot { name, limit, pinned, holders, waiters, odd, .. } = snapshot;
        let _ = write!(text, "{name:?} {limit:?} {pinned} {}", snapshot.withheld.is_some());
        for holder in holders {
            let _ = write!(text, " {:?} {:?} {:?}", holder.id(), holder.phase(), holder.token());
        }
        let _ = write!(text, " {waiters:?} {odd:?}");
    }
    text
}

/// A heading for each semaphore, and a row for each holder and waiter. `asked` is the limit where
/// none is in force: foreign clients keep theirs to themselves.
fn table(snapshots: &[Snapshot], asked: u32, now: SystemTime) -> Page {
    let mut page = Page::default();
    for snapshot in snapshots {
        let name = &snapshot.name;
        page.line(heading(snapshot, asked));
        if snapshot.holders.is_empty() && snapshot.waiters.is_empty() {
            continue;
        }
        let leases = snapshot.holders.iter().any(|holder| holder.left().is_some());
        let mut rows = vec![Row::heading()];
        for holder in &snapshot.holders {
            rows.push(match holder {
                backends::Holder::Foreign { permit, .. } => {
                    Row::foreign("  holds".into(), name, permit)
                }
                backends::Holder::Known { record, phase, .. } => {
                    let state = match phase {
                        Phase::Held => "  holds",
                        Phase::Evicted => "  evicted",
                        Phase::Kept => "  kept",
                    };
                    Row::of(state.into(), name, record.as_ref(), now)
                }
            });
            let row = rows.last_mut().expect("just pushed");
            row.token = holder.token().map(|token| token.to_string().into()).unwrap_or_default();
            let left = holder.left().map(|left| Span(left).to_string().into());
            let known = holder.record().is_some();
            row.left = left.unwrap_or_else(|| if known { "".into() } else { "?".into() });
        }
        for (place, waiter) in snapshot.waiters.iter().enumerate() {
            let state = format!("  waits, {}", place + 1).into();
            rows.push(match &waiter.foreign {
                Some(permit) => Row::foreign(state, name, permit),
                None => Row::of(state, name, waiter.record.as_ref(), now),
            });
        }
        let cells: Vec<_> = rows.iter().map(|row| row.cells(leases)).collect();
        page.rows(&cells);
    }
    page
}

/// How a semaphore stands as a whole.
fn heading(snapshot: &Snapshot, asked: u32) -> String {
    let name = quoted(snapshot.name.as_str(), Among::Front);
    let odd = snapshot.odd.as_ref().map(|what| format!("; {what}")).unwrap_or_default();
    let (held, waiting) = (snapshot.holders.len(), snapshot.waiters.len());
    let idle = held == 0 && waiting == 0;
    let (free, none) = match snapshot.withheld {
        None => ("free".into(), String::new()),
        Some(Withheld::Quarantine(left)) => {
            let left = Span(left);
            (format!("free in {left} (quarantine)"), format!(", none granted for {left}"))
        }
        Some(Withheld::Replicas { in_step, needed }) => {
            let none = format!("none granted, {in_step} of {needed} replicas in step");
            (none.clone(), format!(", {none}"))
        }
    };
    if idle && let Some(what) = &snapshot.odd {
        return format!("{name}: not known; {what}");
    }
    let limit = snapshot.limit.or((!idle).then_some(asked));
    let Some(limit) = limit else { return format!("{name}: {free}") };
    if snapshot.pinned && idle {
        return format!("{name}: {free}, limit {limit} pinned");
    }
    let pinned = if snapshot.pinned { ", limit pinned" } else { "" };
    format!("{name}: {held} of {limit} held, {waiting} waiting{pinned}{none}{odd}")
}

type Cell<'a> = Cow<'a, str>;

struct Row<'a> {
    state: Cell<'a>,
    token: Cell<'a>,
    left: Cell<'a>,
    who: [Cell<'a>; 4],
    since: Cell<'a>,
    permit: Cell<'a>,
}

impl<'a> Row<'a> {
    fn heading() -> Self {
        Self {
            state: "  ".into(),
            token: "TOKEN".into(),
            left: "LEASE LEFT".into(),
            who: ["LABEL", "HOST", "PID", "USER"].map(Cell::from),
            since: "SINCE".into(),
            permit: "PERMIT".into(),
        }
    }

    fn of(state: Cell<'a>, name: &Name, record: Option<&'a Record>, now: SystemTime) -> Self {
        let (token, left) = (Cell::default(), Cell::default());
        let Some(Record { who, since, permit }) = record else {
            let who = ["?", "?", "?", "?"].map(Cell::from);
            let (since, permit) = ("?".into(), Cell::default());
            return Self { state, token, left, who, since, permit };
        };
        let age = Span(now.duration_since(*since).unwrap_or_default());
        let since = format!("{} ({age})", humantime::format_rfc3339_seconds(*since)).into();
        let [label, host, user] =
            [&who.label, &who.host, &who.user].map(|text| quoted(text, Among::Columns));
        // Who has acquired a permit to outlive itself has gone.
        let pid = if who.detached { "-".into() } else { who.pid.to_string().into() };
        let permit = format!("{permit}@{name}").into();
        Self { state, token, left, who: [label, host, pid, user], since, permit }
    }

    /// One whose only trace is its permit.
    fn foreign(state: Cell<'a>, name: &Name, permit: &str) -> Self {
        let mut row = Self::of(state, name, None, SystemTime::UNIX_EPOCH);
        row.who[0] = "foreign".into();
        row.permit = format!("{}@{name}", quoted(permit, Among::Columns)).into();
        row
    }

    fn cells(&self, leases: bool) -> Vec<&str> {
        let left = leases.then_some(&self.left);
        let head = [&self.state, &self.token].into_iter().chain(left);
        head.chain(&self.who).chain([&self.since, &self.permit]).map(AsRef::as_ref).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use uuid::Uuid;

    use super::*;
    use crate::backends::{Holder, Phase, Waiter, Who};

    fn record(label: &str, pid: u32) -> Record {
        let who = Who {
            label: label.into(),
            host: "web1".into(),
            pid,
            user: "ci".into(),
            detached: false,
        };
        Record { permit: Uuid::nil(), who, since: UNIX_EPOCH + Duration::from_mins(1) }
    }

    fn local() -> Snapshot {
        Snapshot {
            limit: Some(1),
            holders: vec![Holder::Known {
                token: Some(7),
                record: Some(record("migrate.sh", 4242)),
                phase: Phase::Held,
                left: None,
            }],
            waiters: vec![Waiter::known(Some(record("日本", 1))), Waiter::known(None)],
            ..Snapshot::unused(&"deploy".parse().unwrap())
        }
    }

    fn shared() -> Snapshot {
        let left = Duration::from_millis(4_200);
        Snapshot {
            limit: Some(2),
            ttl: Some(Duration::from_secs(5)),
            withheld: Some(Withheld::Quarantine(Duration::from_millis(1_500))),
            holders: vec![
                Holder::Known {
                    token: Some(8),
                    record: Some(record("job", 1)),
                    phase: Phase::Held,
                    left: Some(left),
                },
                Holder::Foreign { permit: "f0".into(), left: Some(Duration::ZERO) },
            ],
            ..Snapshot::unused(&"shared".parse().unwrap())
        }
    }

    #[test]
    fn the_table_is_aligned_and_says_what_it_does_not_know() {
        let idle = Snapshot::unused(&"idle".parse().unwrap());
        let foreign = Snapshot {
            holders: vec![Holder::Foreign { permit: "f0".into(), left: Some(Duration::ZERO) }],
            ..Snapshot::unused(&"theirs".parse().unwrap())
        };
        let now = UNIX_EPOCH + Duration::from_secs(125);
        let text = table(&[local(), idle, shared(), foreign], 10, now);
        let expected = "\
deploy: 1 of 1 held, 2 waiting
            TOKEN  LABEL       HOST  PID   USER  SINCE                         PERMIT
  holds     7      migrate.sh  web1  4242  ci    1970-01-01T00:01:00Z (1m 5s)  00000000-0000-0000-0000-000000000000@deploy
  waits, 1         日本        web1  1     ci    1970-01-01T00:01:00Z (1m 5s)  00000000-0000-0000-0000-000000000000@deploy
  waits, 2         ?           ?     ?     ?     ?
idle: free
shared: 2 of 2 held, 0 waiting, none granted for 1.5s
         TOKEN  LEASE LEFT  LABEL    HOST  PID  USER  SINCE                         PERMIT
  holds  8      4.2s        job      web1  1    ci    1970-01-01T00:01:00Z (1m 5s)  00000000-0000-0000-0000-000000000000@shared
  holds         0.0s        foreign  ?     ?    ?     ?                             f0@shared
theirs: 1 of 10 held, 0 waiting
         TOKEN  LEASE LEFT  LABEL    HOST  PID  USER  SINCE  PERMIT
  holds         0.0s        foreign  ?     ?    ?     ?      f0@theirs
";
        assert_eq!(text.text(), expected);
    }

    #[test]
    fn the_document_has_the_fields_that_are_promised() {
        let text = serde_json::to_string(&Document::of(&[local(), shared()])).unwrap();
        let expected = concat!(
            r#"{"version":1,"semaphores":[{"name":"deploy","limit":1,"pinned":false,"holders":[{"fencing_token":7,"state":"held","#,
            r#""foreign":false,"permit":"00000000-0000-0000-0000-000000000000@deploy","#,
            r#""label":"migrate.sh","host":"web1","pid":4242,"user":"ci","detached":false,"#,
            r#""since":"1970-01-01T00:01:00.000Z"}],"#,
            r#""waiters":[{"place":1,"foreign":false,"permit":"00000000-0000-0000-0000-000000000000@deploy","#,
            r#""label":"日本","host":"web1","pid":1,"user":"ci","detached":false,"since":"1970-01-01T00:01:00.000Z"},"#,
            r#"{"place":2,"foreign":false}]},{"name":"shared","limit":2,"pinned":false,"ttl_ms":5000,"paused_ms":1500,"holders":["#,
            r#"{"fencing_token":8,"lease_left_ms":4200,"state":"held","foreign":false,"#,
            r#""permit":"00000000-0000-0000-0000-000000000000@shared","label":"job","host":"web1","#,
            r#""pid":1,"user":"ci","detached":false,"since":"1970-01-01T00:01:00.000Z"},"#,
            r#"{"fencing_token":null,"lease_left_ms":0,"state":"held","foreign":true,"permit":"f0@shared"}],"#,
            r#""waiters":[]}]}"#,
        );
        assert_eq!(text, expected);
    }
}
