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
use crate::cli::messages::{CannotListen, Span, SystemErrorText};
use crate::exit::{Exit, Failure};
use crate::files::create::UnsafeDirectory;
use crate::serve::connections::{ConnectionLimits, Connections};
use crate::serve::journal::{Journal, RestoredState};
use crate::serve::log::{Log, LogEvent, Sink};
use crate::serve::routes::Routes;
use crate::serve::semaphores::Semaphores;
use crate::settings::{ServeSettings, SettingsError};
use crate::supervise::signals::{HandlersInstalled, Signals, hold_back};
use crate::sys::{open_files_limit, raise_open_files_limit};
use crate::terminal;

const CLEAR_TEXT: &str = "without --tls-cert the API keys of clients on other machines can be read \
                          on the network; --tls-cert and --tls-key encrypt it, and --listen \
                          127.0.0.1:PORT keeps it on this machine";

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
        Some(directory) => Journal::open(directory).map_err(|unfit| {
            let failure = match unfit {
                UnsafeDirectory::Io(_) => Failure::Unavailable,
                UnsafeDirectory::Unsafe(_) => Failure::Unsupported,
            };
            let shown = directory.display();
            SettingsError::new(
                failure,
                format!("cannot use the state directory {shown}: {}", SystemErrorText(unfit)),
            )
        })?,
        None => (Journal::none(), RestoredState::default()),
    };
    // Only now: until here a signal ends the program, whatever it waits for.
    let caught = HandlersInstalled::install().context("cannot listen to signals")?;
    let log = Log::new(&log, log_format, Sink { line: terminal::log, last: terminal::last_log });
    let restored = found.grants.len();
    let semaphores = Semaphores::new(journal, found, bounds, log);
    block_on(LocalSet::new().run_until(async {
        let signals = caught.listen().context("cannot listen to signals")?;
        let listener = TcpListener::bind(&listen).await.map_err(|error| {
            let text = CannotListen { listen: &listen, error: &error }.to_string();
            SettingsError::new(Failure::Unavailable, text)
        })?;
        let address = listener.local_addr().context("cannot listen")?;
        if tls.is_none() && !address.ip().is_loopback() {
            semaphores.log.log_text(LogEvent::Alert, CLEAR_TEXT);
        }
        log_start(&semaphores, address.port(), restored);
        if let Some(asked) = strangers.filter(|asked| *asked > room.strangers) {
            let text = format!(
                "--max-unauthenticated {asked} is more than half of the {descriptors} descriptors that \
                 it may have; it is {} now",
                room.strangers
            );
            semaphores.log.log_text(LogEvent::Alert, &text);
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
    semaphores.log.log_text(LogEvent::Info, "The server has ended");
    Ok(Exit::Success)
}

/// The start line of the protocol on standard output, and the log lines about a restart.
fn log_start(semaphores: &Semaphores, port: u16, restored: usize) {
    let log = &semaphores.log;
    if !semaphores.journal.remembers() {
        log.log_text(
            LogEvent::Alert,
            "without --state-dir a restart forgets all permits: commands that hold one are stopped \
             when they learn of it, and until then others may run beside them",
        );
    } else if restored > 0 {
        log.log_text(LogEvent::Info, &format!("{restored} permits on record are kept"));
    }
    if semaphores.journal.is_of_another_boot()
        && let Some(pause) = semaphores.paused()
    {
        let text = format!(
            "the machine was started since the last permit was recorded; granting nothing for {}, \
             the longest lease on record",
            Span(pause)
        );
        log.log_text(LogEvent::Alert, &text);
    }
    terminal::announce(&format!("server: The server is listening on port {port}"));
}

/// Every signal that ends a program ends this one in good order, except for the one that makes it
/// read files again.
async fn told_to_end(mut signals: Signals, again: &Notify) {
    while let Ok(arrival) = signals.next().await {
        match arrival.signal {
            Signal::TERM | Signal::INT | Signal::QUIT => return,
            Signal::HUP => again.notify_one(),
            _ => {}
        }
    }
}
