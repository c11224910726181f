//! Running a cloud-semaphore server until a signal comes.

mod reload;

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::Context;
use rustix::process::Signal;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::LocalSet;

use self::reload::Reload;
use super::runtime::block_on;
use crate::cli::messages::{CannotServe, ServerNews, server_fact};
use crate::console;
use crate::exit::Exit;
use crate::serve::connections::{ConnectionLimits, Connections};
use crate::serve::journal::{Journal, RestoredState};
use crate::serve::log::{Log, LogEvent, Sink};
use crate::serve::routes::Routes;
use crate::serve::semaphores::Semaphores;
use crate::settings::ServeSettings;
use crate::supervise::process_tree::collect_preexisting;
use crate::supervise::signals::{HandlersInstalled, Signals, hold_back};
use crate::sys::{open_files_limit, raise_open_files_limit};

pub(super) fn run(settings: ServeSettings) -> anyhow::Result<Exit> {
    // HUP never ends the server, however early it comes.
    hold_back(Signal::HUP);
    // Each client needs two.
    raise_open_files_limit();
    let ServeSettings {
        listen,
        keys,
        credentials,
        credential_files,
        state_dir,
        strangers,
        strangers_of_one_address,
        bounds,
        log,
        log_format,
    } = settings;
    let descriptors = open_files_limit().and_then(|limit| limit.current);
    let descriptors =
        descriptors.map_or(usize::MAX, |limit| limit.try_into().unwrap_or(usize::MAX));
    let room = ConnectionLimits::within(descriptors, strangers, strangers_of_one_address);
    let tls = credentials.tls()?.map(|tls| Rc::new(RefCell::new(tls)));
    drop(credentials);
    let (journal, found) = match &state_dir {
        Some(directory) => Journal::open(directory)
            .map_err(|unfit| CannotServe::StateDirectory(directory.clone(), unfit))?,
        None => (Journal::none(), RestoredState::default()),
    };
    // Only now: until here a signal ends the program, whatever it waits for.
    let caught = HandlersInstalled::install().context("cannot listen to signals")?;
    let sink = Sink { line: console::log, last: console::last_log, words: server_fact };
    let log = Log::new(&log, log_format, sink);
    let restored = found.grants.len();
    let semaphores = Semaphores::new(journal, found, bounds, log);
    block_on(LocalSet::new().run_until(async {
        let signals = caught.listen().context("cannot listen to signals")?;
        let bound = TcpListener::bind(&listen).await;
        let listener = bound.map_err(|error| CannotServe::Address(listen, error))?;
        let address = listener.local_addr().context("cannot listen")?;
        if tls.is_none() && !address.ip().is_loopback() {
            tell(&semaphores, LogEvent::Alert, &ServerNews::ClearText);
        }
        log_start(&semaphores, address.port(), restored);
        if let Some(asked) = strangers.filter(|asked| *asked > room.strangers) {
            let news = ServerNews::FewerStrangers { asked, descriptors, most: room.strangers };
            tell(&semaphores, LogEvent::Alert, &news);
        }
        let routes = Routes::new(Rc::clone(&semaphores), keys);
        let reload = Reload::new(credential_files, Rc::clone(&routes), tls.clone());
        let (door, again) = (Connections::new(room), Notify::new());
        let end = async {
            tokio::select! {
                () = told_to_end(signals, &again) => {}
                () = reload.reload_on(&again) => {}
            }
        };
        crate::serve::run(listener, tls, routes, door, end).await.context("cannot serve")
    }))??;
    semaphores.log.finish();
    tell(&semaphores, LogEvent::Info, &ServerNews::Ended);
    Ok(Exit::Success)
}

/// The start line of the protocol on standard output, and the log lines about a restart.
fn log_start(semaphores: &Semaphores, port: u16, restored: usize) {
    if !semaphores.journal.remembers() {
        tell(semaphores, LogEvent::Alert, &ServerNews::Forgets);
    } else if restored > 0 {
        tell(semaphores, LogEvent::Info, &ServerNews::Restored(restored));
    }
    if semaphores.journal.is_of_another_boot()
        && let Some(pause) = semaphores.paused()
    {
        tell(semaphores, LogEvent::Alert, &ServerNews::Paused(pause));
    }
    console::announce(&format!("server: The server is listening on port {port}"));
}

fn tell(semaphores: &Semaphores, event: LogEvent, news: &ServerNews<'_>) {
    semaphores.log.log_text(event, &news.to_string());
}

/// Every signal that ends a program ends this one in good order, except for the one that makes it
/// read files again.
async fn told_to_end(mut signals: Signals, again: &Notify) {
    while let Ok(arrival) = signals.next().await {
        match arrival.signal {
            Signal::TERM | Signal::INT | Signal::QUIT => return,
            Signal::HUP => again.notify_one(),
            Signal::CHILD => {
                collect_preexisting();
            }
            _ => {}
        }
    }
}
