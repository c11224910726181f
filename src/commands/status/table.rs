//! A page of semaphores for people, in the columns that there are.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use unicode_width::UnicodeWidthStr;

use super::stopped;
use crate::cli::messages::{OddText, Output, Span};
use crate::console::cut;
use crate::permits::{Holder, HolderState, Name, Record, SemaphoreSnapshot, Waiter, Withheld};
use crate::printable::{Context, printable, quoted};

/// How semaphores are shown.
pub(super) struct Table<'a> {
    /// The limit where none is in force: foreign clients keep theirs to themselves.
    pub(super) asked: u32,
    pub(super) now: SystemTime,
    /// How many columns there are; none: unlimited.
    pub(super) columns: Option<usize>,
    /// Also lease, token, permit and the time of the grant.
    pub(super) verbose: bool,
    /// Whether all semaphores are shown, not only named ones.
    pub(super) all: bool,
    /// The mark for omitted text.
    pub(super) mark: &'a str,
}

/// The narrowest that a label is cut to, and a user with a host.
const LABEL: usize = 8;
const PERSON: usize = 12;
/// The narrowest label where it is the last cell that has room.
const LITTLE: usize = 4;

impl Table<'_> {
    /// A heading for each semaphore, and a row for each holder and waiter.
    pub(super) fn page(&self, snapshots: &[SemaphoreSnapshot]) -> Output {
        let mut page = Output::default();
        let mut idle = Vec::new();
        for snapshot in snapshots {
            if self.all && is_idle(snapshot) {
                idle.push(quoted(snapshot.name.as_str(), Context::Words));
                continue;
            }
            page.line(self.heading(snapshot));
            if snapshot.holders.is_empty() && snapshot.waiters.is_empty() {
                continue;
            }
            let mut rows = vec![Row::heading()];
            rows.extend(snapshot.holders.iter().map(|holder| self.holder(&snapshot.name, holder)));
            let waiters = snapshot.waiters.iter().enumerate();
            rows.extend(waiters.map(|(at, waiter)| self.waiter(&snapshot.name, at + 1, waiter)));
            let count = self.fit(&mut rows);
            let leases = snapshot.holders.iter().any(|holder| holder.left().is_some());
            let mut cells: Vec<_> =
                rows.iter().map(|row| row.cells(self.verbose, leases)).collect();
            for row in &mut cells {
                row.truncate(count);
            }
            page.rows(&cells);
        }
        if !idle.is_empty() {
            page.line(self.idle(&idle));
        }
        page
    }

    /// The idle ones, in one line.
    fn idle(&self, names: &[Cow<'_, str>]) -> String {
        let mut line = String::from("not in use: ");
        for (at, name) in names.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            let rest = format!(" and {} more", names.len() - at);
            let next = line.width() + comma.len() + printable(name).width();
            let reserve = if at + 1 < names.len() { rest.len() } else { 0 };
            if at > 0 && self.columns.is_some_and(|columns| next + reserve > columns) {
                return line + &rest;
            }
            line.push_str(comma);
            line.push_str(name);
        }
        line
    }

    fn holder<'a>(&self, name: &'a Name, holder: &'a Holder) -> Row<'a> {
        let state = match (holder.state(), holder.left()) {
            (HolderState::Holding, _) => "holding".into(),
            (HolderState::Revoking, _) => "revoking".into(),
            (HolderState::MinHold, None) => "min_hold".into(),
            (HolderState::MinHold, Some(left)) => format!("min_hold, {} left", rounded(left)),
        };
        let mut row = match holder {
            Holder::Foreign { permit, key, .. } => {
                Row::foreign(&state, name, permit, key.as_deref())
            }
            Holder::Known { record, .. } => Row::of(&state, name, record.as_ref(), self.now),
        };
        row.token = holder.token().map(|token| token.to_string().into()).unwrap_or_default();
        let left = holder.left().map(|left| Span(left).to_string().into());
        let known = holder.record().is_some();
        row.left = left.unwrap_or_else(|| if known { "".into() } else { "?".into() });
        row
    }

    fn waiter<'a>(&self, name: &'a Name, place: usize, waiter: &'a Waiter) -> Row<'a> {
        let state = format!("waiting, {place}");
        match &waiter.foreign {
            Some(permit) => Row::foreign(&state, name, permit, waiter.key.as_deref()),
            None => Row::of(&state, name, waiter.record.as_ref(), self.now),
        }
    }

    /// Cuts labels, and if that is not enough users and hosts, to the columns that there are. Returns how
    /// many cells of each row have room then.
    fn fit(&self, rows: &mut [Row<'_>]) -> usize {
        const GAP: usize = 2;
        let Some(columns) = self.columns else { return usize::MAX };
        let state_and_age = widest(rows.iter().map(|row| &row.state))
            + widest(rows.iter().map(|row| &row.age))
            + 2 * GAP;
        let widest_label = widest(rows.iter().map(|row| &row.label));
        let widest_person = widest(rows.iter().map(|row| &row.person));
        let pid = GAP + widest(rows.iter().map(|row| &row.pid));
        let room = columns.saturating_sub(state_and_age);
        let least = widest_label.min(LABEL) + GAP + widest_person.min(PERSON);
        let (count, room) = match room {
            room if room >= least + pid => (5, room - pid),
            room if room >= least => (4, room),
            room => (3, room + GAP),
        };
        let room = room.saturating_sub(GAP);
        let person = if count > 3 { widest_person } else { 0 };
        let label = room.saturating_sub(person).max(if count > 3 { LABEL } else { LITTLE });
        let label = label.min(widest_label);
        let person = room.saturating_sub(label).max(PERSON);
        for row in rows {
            row.label = cut(&printable(&row.label), label, self.mark).into();
            row.person = cut(&printable(&row.person), person, self.mark).into();
        }
        count
    }

    /// How a semaphore stands as a whole.
    fn heading(&self, snapshot: &SemaphoreSnapshot) -> String {
        let name = quoted(snapshot.name.as_str(), Context::Front);
        let odd = snapshot.odd.as_ref().map(|odd| OddText(&snapshot.name, odd));
        let odd = odd.map(|odd| format!("; {odd}")).unwrap_or_default();
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
        if idle && snapshot.odd.is_some() {
            return format!("{name}: not known{odd}");
        }
        let limit = snapshot.limit.or((!idle).then_some(self.asked));
        let Some(limit) = limit else {
            // Perhaps it is misspelt.
            let is_new = !snapshot.known && snapshot.withheld.is_none();
            let unknown = if is_new { "; this name has not been used" } else { "" };
            return format!("{name}: {free}{unknown}");
        };
        if snapshot.pinned && idle {
            return format!("{name}: {free}, limit {limit} pinned");
        }
        let pinned = if snapshot.pinned { ", limit pinned" } else { "" };
        format!("{name}: {held} of {limit} held, {waiting} waiting{pinned}{none}{odd}")
    }
}

/// Whether it is idle and has nothing to report.
fn is_idle(snapshot: &SemaphoreSnapshot) -> bool {
    let SemaphoreSnapshot { holders, waiters, pinned, odd, withheld, .. } = snapshot;
    holders.is_empty() && waiters.is_empty() && !pinned && odd.is_none() && withheld.is_none()
}

/// A length of time in two units at most: there is little room.
fn rounded(time: Duration) -> String {
    let text = Span(time).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

type Cell<'a> = Cow<'a, str>;

fn widest<'r>(cells: impl Iterator<Item = &'r Cell<'r>>) -> usize {
    cells.map(|cell| printable(cell).width()).max().unwrap_or(0)
}

struct Row<'a> {
    state: Cell<'a>,
    age: Cell<'a>,
    left: Cell<'a>,
    label: Cell<'a>,
    person: Cell<'a>,
    pid: Cell<'a>,
    token: Cell<'a>,
    since: Cell<'a>,
    permit: Cell<'a>,
}

impl<'a> Row<'a> {
    fn heading() -> Self {
        Self {
            state: "  STATE".into(),
            age: "AGE".into(),
            left: "LEASE LEFT".into(),
            label: "LABEL".into(),
            person: "USER@HOST".into(),
            pid: "PID".into(),
            token: "TOKEN".into(),
            since: "SINCE".into(),
            permit: "PERMIT".into(),
        }
    }

    fn of(state: &str, name: &Name, record: Option<&'a Record>, now: SystemTime) -> Self {
        let unknown = || Cell::from("?");
        let mut row = Self {
            state: format!("  {state}").into(),
            age: unknown(),
            left: "".into(),
            label: unknown(),
            person: unknown(),
            pid: unknown(),
            token: "".into(),
            since: unknown(),
            permit: "".into(),
        };
        let Some(record) = record else { return row };
        let Record { who, since, permit } = record;
        if stopped::is_stopped(who) == Some(true) {
            row.state.to_mut().push_str(", stopped");
        }
        row.age = rounded(now.duration_since(*since).unwrap_or_default()).into();
        row.since = humantime::format_rfc3339_seconds(*since).to_string().into();
        row.label = quoted(&who.label, Context::Columns);
        let [user, host] = [&who.user, &who.host].map(|text| quoted(text, Context::Columns));
        row.person = format!("{user}@{host}").into();
        // The process that has acquired a permit to outlive itself has gone.
        row.pid = if who.detached { "-".into() } else { who.pid.to_string().into() };
        row.permit = format!("{permit}@{name}").into();
        row
    }

    /// A client of which only the permit is known, and perhaps its API key's label.
    fn foreign(state: &str, name: &Name, permit: &str, key: Option<&str>) -> Self {
        let mut row = Self::of(state, name, None, SystemTime::UNIX_EPOCH);
        row.label = match key {
            Some(key) => format!("foreign (key {})", quoted(key, Context::Words)).into(),
            None => "foreign".into(),
        };
        row.permit = format!("{}@{name}", quoted(permit, Context::Columns)).into();
        row
    }

    fn cells(&self, verbose: bool, leases: bool) -> Vec<&str> {
        let Self { state, age, left, label, person, pid, token, since, permit } = self;
        let left = (verbose && leases).then_some(left);
        let more = [token, since, permit].into_iter().filter(|_| verbose);
        let first = [state, age].into_iter().chain(left);
        first.chain([label, person, pid]).chain(more).map(AsRef::as_ref).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use uuid::Uuid;

    use super::super::json::StatusJson;
    use super::*;
    use crate::permits::ClientInfo;

    fn record(label: &str, pid: u32) -> Record {
        let who = ClientInfo {
            label: label.into(),
            host: "web1".into(),
            pid,
            user: "ci".into(),
            detached: false,
        };
        Record { permit: Uuid::nil(), who, since: UNIX_EPOCH + Duration::from_mins(1) }
    }

    fn local() -> SemaphoreSnapshot {
        SemaphoreSnapshot {
            known: true,
            limit: Some(1),
            holders: vec![Holder::Known {
                token: Some(7),
                record: Some(record("migrate.sh", 4242)),
                phase: HolderState::Holding,
                left: None,
            }],
            waiters: vec![Waiter::known(Some(record("日本", 1))), Waiter::known(None)],
            ..SemaphoreSnapshot::unused(&"deploy".parse().unwrap())
        }
    }

    fn server() -> SemaphoreSnapshot {
        let left = Duration::from_millis(4_200);
        SemaphoreSnapshot {
            known: true,
            limit: Some(2),
            ttl: Some(Duration::from_secs(5)),
            withheld: Some(Withheld::Quarantine(Duration::from_millis(1_500))),
            holders: vec![
                Holder::Known {
                    token: Some(8),
                    record: Some(record("job", 1)),
                    phase: HolderState::Holding,
                    left: Some(left),
                },
                Holder::Foreign { permit: "f0".into(), left: Some(Duration::ZERO), key: None },
            ],
            ..SemaphoreSnapshot::unused(&"shared".parse().unwrap())
        }
    }

    fn shown(
        snapshots: &[SemaphoreSnapshot],
        columns: Option<usize>,
        verbose: bool,
        all: bool,
    ) -> String {
        let now = UNIX_EPOCH + Duration::from_secs(125);
        let table = Table { asked: 10, now, columns, verbose, all, mark: "…" };
        table.page(snapshots).text().into()
    }

    fn theirs() -> SemaphoreSnapshot {
        let key = Some("web 1".into());
        let (permit, left) = ("f0".into(), Some(Duration::ZERO));
        SemaphoreSnapshot {
            holders: vec![Holder::Foreign { permit, left, key }],
            ..SemaphoreSnapshot::unused(&"theirs".parse().unwrap())
        }
    }

    #[test]
    fn the_table_is_aligned_and_says_what_it_does_not_know() {
        let unused = SemaphoreSnapshot::unused(&"unused".parse().unwrap());
        let idle = SemaphoreSnapshot {
            known: true,
            ..SemaphoreSnapshot::unused(&"idle".parse().unwrap())
        };
        let text = shown(&[local(), unused, idle, server(), theirs()], Some(80), false, false);
        let expected = "\
deploy: 1 of 1 held, 2 waiting
  STATE       AGE    LABEL       USER@HOST  PID
  holding     1m 5s  migrate.sh  ci@web1    4242
  waiting, 1  1m 5s  日本        ci@web1    1
  waiting, 2  ?      ?           ?          ?
unused: free; this name has not been used
idle: free
shared: 2 of 2 held, 0 waiting, none granted for 1.5s
  STATE    AGE    LABEL    USER@HOST  PID
  holding  1m 5s  job      ci@web1    1
  holding  ?      foreign  ?          ?
theirs: 1 of 10 held, 0 waiting
  STATE    AGE  LABEL                  USER@HOST  PID
  holding  ?    foreign (key \"web 1\")  ?          ?
";
        assert_eq!(text, expected);
    }

    #[test]
    fn tokens_permits_and_leases_are_for_who_asks_for_more() {
        let expected = "\
shared: 2 of 2 held, 0 waiting, none granted for 1.5s
  STATE    AGE    LEASE LEFT  LABEL    USER@HOST  PID  TOKEN  SINCE                 PERMIT
  holding  1m 5s  4.2s        job      ci@web1    1    8      1970-01-01T00:01:00Z  00000000-0000-0000-0000-000000000000@shared
  holding  ?      0.0s        foreign  ?          ?           ?                     f0@shared
";
        assert_eq!(shown(&[server()], None, true, false), expected);
    }

    #[test]
    fn labels_are_cut_to_the_columns_that_are_left() {
        let long = "https://ci.example.org/jobs/4711/pipelines/deploy-to-production/runs/1";
        let kept = Holder::Known {
            token: Some(7),
            record: Some(record(long, 4242)),
            phase: HolderState::MinHold,
            left: Some(Duration::from_secs(598)),
        };
        let snapshot = SemaphoreSnapshot { holders: vec![kept], ..local() };
        let text = shown(std::slice::from_ref(&snapshot), Some(80), false, false);
        assert!(text.lines().all(|line| line.width() <= 80), "{text}");
        let expected =
            "  min_hold, 9m 58s left  1m 5s  https://ci.example.org/jobs/47…  ci@web1    4242\n";
        assert!(text.contains(expected), "{text}");
        let text = shown(&[snapshot], Some(40), false, false);
        assert!(text.contains("min_hold, 9m 58s left  1m 5s  https:/…\n"), "{text}");
        assert!(text.lines().all(|line| line.width() <= 40), "{text}");
        let text = shown(&[local()], Some(40), false, false);
        assert!(text.contains("  ci@web1\n") && !text.contains("PID"), "{text}");
    }

    #[test]
    fn of_all_semaphores_the_idle_ones_are_in_one_line() {
        let idle = |name: &str| SemaphoreSnapshot {
            known: true,
            ..SemaphoreSnapshot::unused(&name.parse().unwrap())
        };
        let pinned = SemaphoreSnapshot { limit: Some(3), pinned: true, ..idle("pinned") };
        let text = shown(&[idle("a"), pinned.clone(), idle("b c")], Some(80), false, true);
        assert_eq!(text, "pinned: free, limit 3 pinned\nnot in use: a, \"b c\"\n");
        let many: Vec<_> = (0..30).map(|at| idle(&format!("name-{at}"))).collect();
        let text = shown(&many, Some(80), false, true);
        assert!(text.width() <= 80 && text.ends_with(" more\n"), "{text}");
        assert_eq!(shown(&[idle("a")], Some(80), false, false), "a: free\n");
    }

    #[test]
    fn the_document_has_the_fields_that_are_promised() {
        let text = serde_json::to_string(&StatusJson::of(&[local(), server()])).unwrap();
        let expected = concat!(
            r#"{"version":1,"semaphores":[{"name":"deploy","limit":1,"pinned":false,"known":true,"holders":[{"fencing_token":7,"state":"holding","#,
            r#""foreign":false,"permit":"00000000-0000-0000-0000-000000000000@deploy","#,
            r#""label":"migrate.sh","host":"web1","pid":4242,"user":"ci","detached":false,"#,
            r#""since":"1970-01-01T00:01:00.000Z"}],"#,
            r#""waiters":[{"place":1,"state":"waiting","foreign":false,"permit":"00000000-0000-0000-0000-000000000000@deploy","#,
            r#""label":"日本","host":"web1","pid":1,"user":"ci","detached":false,"since":"1970-01-01T00:01:00.000Z"},"#,
            r#"{"place":2,"state":"waiting","foreign":false}]},{"name":"shared","limit":2,"pinned":false,"known":true,"ttl_ms":5000,"paused_ms":1500,"holders":["#,
            r#"{"fencing_token":8,"lease_left_ms":4200,"state":"holding","foreign":false,"#,
            r#""permit":"00000000-0000-0000-0000-000000000000@shared","label":"job","host":"web1","#,
            r#""pid":1,"user":"ci","detached":false,"since":"1970-01-01T00:01:00.000Z"},"#,
            r#"{"fencing_token":null,"lease_left_ms":0,"state":"holding","foreign":true,"permit":"f0@shared"}],"#,
            r#""waiters":[]}]}"#,
        );
        assert_eq!(text, expected);
    }
}
