//! The holders and the waiters, as a table or as a JSON document (`docs/status.md`).

mod json;
mod redraw;
mod stopped;
mod table;

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::time::SystemTime;

use rustix::termios::tcgetwinsize;

use self::json::StatusJson;
use self::redraw::{INTERVAL, RedrawnScreen};
use self::table::Table;
use super::runtime::{block_on, connect, print};
use crate::cli::messages::Output;
use crate::console::{Console, Loudness, ellipsis, usable_columns};
use crate::exit::Exit;
use crate::permits::{Backend, BackendError, Name, SemaphoreSnapshot};
use crate::settings::StatusSettings;
use crate::user::User;

pub(super) fn run(settings: &StatusSettings, user: &User) -> anyhow::Result<Exit> {
    let places = settings.places.iter();
    let places = places.map(|(location, names)| Ok((connect(location, user)?, names.as_slice())));
    let places: Vec<_> = places.collect::<Result<_, BackendError>>()?;
    if settings.watch {
        return block_on(watch(&places, settings))?;
    }
    let snapshots = block_on(look(&places))??;
    let page = if settings.json {
        Output::document(&StatusJson::of(&snapshots))?
    } else {
        page(&places, &snapshots, settings, columns())
    };
    print(&page)?;
    let taken = snapshots.iter().any(|snapshot| snapshot.full(settings.limit));
    Ok(if taken { Exit::AllTaken } else { Exit::Success })
}

type Places<'a> = [(Box<dyn Backend>, &'a [Name])];

async fn look(places: &Places<'_>) -> Result<Vec<SemaphoreSnapshot>, BackendError> {
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

/// How many columns a table has: those of the terminal, and elsewhere the usual ones.
fn columns() -> usize {
    const USUAL: usize = 80;
    let stdout = io::stdout();
    let size = stdout.is_terminal().then(|| tcgetwinsize(&stdout).ok()).flatten();
    size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(USUAL)
}

fn page(
    places: &Places<'_>,
    snapshots: &[SemaphoreSnapshot],
    settings: &StatusSettings,
    columns: usize,
) -> Output {
    let all = places.iter().all(|(_, names)| names.is_empty());
    if let ([(backend, _)], true, true) = (places, all, snapshots.is_empty()) {
        return Output::of(format_args!("no semaphores in {}", backend.url()));
    }
    let table = Table {
        asked: settings.limit,
        now: SystemTime::now(),
        columns: (!settings.verbose).then_some(columns),
        verbose: settings.verbose,
        all,
        mark: ellipsis(),
    };
    table.page(snapshots)
}

/// Shows it until the reader has gone, or a signal ends us. Once a backend has answered, outages
/// are waited out.
async fn watch(places: &Places<'_>, settings: &StatusSettings) -> anyhow::Result<Exit> {
    let mut console = Console::new(Loudness::Normal);
    let mut screen = RedrawnScreen::new();
    let mut snapshots = look(places).await?;
    let mut away = false;
    loop {
        let key = changing(&snapshots);
        let page = if settings.json {
            Output::document_line(&StatusJson::of(&snapshots))?
        } else {
            let mut shown = Output::of(humantime::format_rfc3339_seconds(SystemTime::now()));
            // There the page is cut to its rows.
            let columns = u16::try_from(columns()).map_or(usize::MAX, usable_columns);
            shown.append(&page(places, &snapshots, settings, columns));
            shown
        };
        if !screen.show(&page, key)? {
            return Ok(Exit::Success);
        }
        loop {
            tokio::time::sleep(INTERVAL).await;
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

/// What counts as a change: not the passing of time.
fn changing(snapshots: &[SemaphoreSnapshot]) -> String {
    let mut text = String::new();
    for snapshot in snapshots {
        let SemaphoreSnapshot { name, limit, pinned, holders, waiters, odd, .. } = snapshot;
        let _ = write!(text, "{name:?} {limit:?} {pinned} {}", snapshot.withheld.is_some());
        for holder in holders {
            let _ = write!(text, " {:?} {:?} {:?}", holder.id(), holder.state(), holder.token());
        }
        let _ = write!(text, " {waiters:?} {odd:?}");
    }
    text
}
