//! Running a command under a permit: ask, wait in turn, run, stop it if need be, give back.

use std::time::{Duration, SystemTime};

use anyhow::Context;
use rustix::process::{Resource, Rlimit, Signal, getrlimit};
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::runtime;
use crate::account::{self, Account};
use crate::backends::{
    Acquired, Ask, Backend, Cancel, Error, ErrorKind, Lease, Notice, Pending, Snapshot, Standing,
    Turn, Who,
};
use crate::exit::Exit;
use crate::report::{CannotRun, Detail, Waited, Waiting, Warning};
use crate::settings::{Run, Wait};
use crate::supervise::child::{Launch, Tree};
use crate::supervise::signals::{self, Signals, Whom};
use crate::supervise::supervise;
use crate::terminal::{Console, Loudness};

/// How often the waiting line is brought up to date on a terminal, where somebody looks at it.
const REDRAW: Duration = Duration::from_secs(5);
/// How often a log hears that we still wait.
const ALIVE: Duration = Duration::from_mins(1);

pub(super) fn run(settings: &Run) -> anyhow::Result<Exit> {
    let descriptors = getrlimit(Resource::Nofile);
    runtime()?.block_on(story(settings, descriptors))
}

async fn story(settings: &Run, descriptors: Rlimit) -> anyhow::Result<Exit> {
    // First: it may ask a directory service that hangs, and until we listen signals just end us.
    let account = Account::current();
    let mut signals = Signals::install().context("cannot listen to signals")?;
    let mut console = Console::new(settings.loudness);
    let backend = settings.location.connect(&account)?;
    let ask = ask(settings, account);

    let lease = match wait_in_turn(settings, &*backend, &ask, &mut signals, &mut console).await? {
        Turned::Granted(lease) => lease,
        Turned::Away(exit) => return Ok(exit),
    };
    let permit = lease.permit().clone();
    let url = backend.url();
    console.say(Loudness::Verbose, Detail::Backend(&url));
    console.say(Loudness::Verbose, Detail::Holding(&permit));

    let ran = run_command(settings, &*lease, &url, descriptors, &mut signals, &mut console).await;

    if ran.as_ref().is_err_and(|error| !error.is::<CannotRun>()) {
        // The command may live on. It has the permit, and keeps it if semrun only goes.
        return ran;
    }
    match lease.release().await {
        Ok(()) => console.say(Loudness::Verbose, Detail::Released(&permit)),
        Err(error) => console.say(Loudness::Normal, Warning::NotReleased(&error)),
    }
    ran
}

fn ask(settings: &Run, account: Account) -> Ask {
    Ask {
        name: settings.name.clone(),
        id: Uuid::new_v4(),
        limit: settings.limit,
        nonblock: settings.wait == Wait::Not,
        who: Who {
            label: settings.label.clone(),
            host: account::host(),
            pid: std::process::id(),
            user: account.user,
        },
    }
}

async fn run_command(
    settings: &Run,
    lease: &dyn Lease,
    url: &str,
    descriptors: Rlimit,
    signals: &mut Signals,
    console: &mut Console,
) -> anyhow::Result<Exit> {
    let permit = lease.permit();
    let held = permit.with_backend(url);
    let held = match std::env::var("SEMRUN_HELD") {
        Ok(outer) if !outer.is_empty() => format!("{outer} {held}"),
        _ => held,
    };
    let launch = Launch {
        program: &settings.program,
        arguments: &settings.arguments,
        environment: vec![
            ("SEMRUN_PERMIT", permit.to_string()),
            ("SEMRUN_FENCING_TOKEN", permit.token.to_string()),
            ("SEMRUN_HELD", held),
        ],
        foreground: settings.supervision.rules.foreground,
        descriptors,
        inherit: lease.inherit(),
    };
    let launched = Tree::launch(&launch);
    let mut tree = launched.map_err(|reason| CannotRun::new(&settings.program, reason))?;
    let unkillable = |pids: &[_]| console.say(Loudness::Normal, Warning::Unkillable(pids));
    let supervised = supervise(&mut tree, signals, settings.supervision, unkillable).await;
    supervised.context("cannot look after the command")
}

/// How the waiting ended.
enum Turned {
    Granted(Box<dyn Lease>),
    Away(Exit),
}

/// Why we stop waiting of our own accord.
#[derive(Clone, Copy)]
enum Enough {
    WaitedLongEnough,
    Signal(Signal),
}

async fn wait_in_turn(
    settings: &Run,
    backend: &dyn Backend,
    ask: &Ask,
    signals: &mut Signals,
    console: &mut Console,
) -> anyhow::Result<Turned> {
    let started = Instant::now();
    let (turn, mut notices) = Turn::channel();
    let (canceller, cancel) = Cancel::pair();
    let deadline = match settings.wait {
        Wait::AtMost(most) => Some(started + most),
        Wait::Not | Wait::ForEver => None,
    };
    let mut view = View::new(backend, ask, console);
    let mut enough: Option<Enough> = None;
    let mut acquiring = backend.acquire(ask, &turn, cancel);
    let acquired = loop {
        let stop = tokio::select! {
            biased;
            arrival = signals.next() => view.on_signal(arrival?.signal).map(Enough::Signal),
            acquired = &mut acquiring => break acquired,
            () = until(deadline), if enough.is_none() => Some(Enough::WaitedLongEnough),
            Some(notice) = notices.recv() => { view.on_notice(notice); None }
            snapshot = view.looking() => { view.on_look(snapshot); None }
        };
        if let (None, Some(reason)) = (enough, stop) {
            enough = Some(reason);
            canceller.cancel();
        }
    };
    drop(acquiring);
    while let Ok(notice) = notices.try_recv() {
        view.on_notice(notice);
    }
    let acquired = match acquired {
        Ok(acquired) => acquired,
        Err(error) => {
            view.console.clear();
            return Err(error.into());
        }
    };
    // A signal that came together with the permit: the command has not started, so it need not.
    while let (None | Some(Enough::WaitedLongEnough), Some(arrival)) = (enough, signals.waiting()) {
        enough = view.on_signal(arrival.signal).map(Enough::Signal).or(enough);
    }
    let after = started.elapsed();
    Ok(match (acquired, enough) {
        (acquired, Some(Enough::Signal(signal))) => {
            if let Acquired::Granted(lease) = acquired {
                lease.release().await?;
            }
            view.end(&Waited::Interrupted(&ask.name, after, signal));
            Turned::Away(Exit::Interrupted(signal))
        }
        (Acquired::Granted(lease), _) => {
            view.end(&Waited::Granted(&ask.name, after));
            Turned::Granted(lease)
        }
        (Acquired::Busy, _) => Turned::Away(Exit::NotAcquired(settings.conflict_exit_code)),
        (Acquired::Cancelled, _) if view.trouble.is_some() => {
            view.console.clear();
            let what = view.trouble.take().unwrap_or_default();
            let what = format!("gave up waiting for '{}': {what}", ask.name);
            return Err(Error {
                kind: ErrorKind::Unavailable,
                backend: backend.url(),
                what,
                source: None,
            }
            .into());
        }
        (Acquired::Cancelled, _) => {
            // The exit code alone would not tell this from an error of the command's.
            view.console.say(Loudness::Normal, Waited::GaveUp(&ask.name, after));
            Turned::Away(Exit::NotAcquired(settings.conflict_exit_code))
        }
    })
}

/// What somebody who waits gets to see.
struct View<'a> {
    backend: &'a dyn Backend,
    ask: &'a Ask,
    console: &'a mut Console,
    standing: Option<Standing>,
    /// What keeps the backend from telling us.
    trouble: Option<String>,
    /// Whether a log was told that we wait.
    announced: bool,
    next_look: Option<Instant>,
    looking: Option<Pending<'a, Result<Snapshot, Error>>>,
}

impl<'a> View<'a> {
    fn new(backend: &'a dyn Backend, ask: &'a Ask, console: &'a mut Console) -> Self {
        Self {
            backend,
            ask,
            console,
            standing: None,
            trouble: None,
            announced: false,
            next_look: None,
            looking: None,
        }
    }

    /// The signal, if it ends the waiting.
    fn on_signal(&mut self, signal: Signal) -> Option<Signal> {
        match signal {
            // Children of whoever started us with exec(2).
            Signal::CHILD => None,
            Signal::WINCH | Signal::CONT => {
                self.draw();
                None
            }
            // Nobody else stops us, as there is no command yet. Who is behind us passes us over.
            Signal::TSTP | Signal::TTIN | Signal::TTOU => {
                self.console.clear();
                signals::stop(Whom::Semrun);
                self.draw();
                None
            }
            // There is no command to forward it to, and by default each of these ends a process.
            _ => Some(signal),
        }
    }

    fn on_notice(&mut self, notice: Notice) {
        let name = &self.ask.name;
        match notice {
            Notice::Queued(standing) => {
                self.standing = Some(standing);
                self.trouble = None;
                self.show();
            }
            Notice::Limit { asked, stands } => {
                self.console.say(Loudness::Normal, Warning::Limit { name, asked, stands });
                self.draw();
            }
            Notice::Trouble { what, may_last } => {
                // Once, however often it is tried.
                if may_last && self.trouble.as_deref() != Some(&what) {
                    let warning = Warning::Trouble { name, what: &what };
                    self.console.say(Loudness::Normal, warning);
                }
                self.trouble = Some(what);
                self.draw();
            }
        }
    }

    /// Looks at the queue when it is time to: who is far behind is not told when it moves.
    async fn looking(&mut self) -> Result<Snapshot, Error> {
        if self.looking.is_none() {
            until(self.next_look).await;
            self.looking = Some(self.backend.observe(&self.ask.name));
        }
        match &mut self.looking {
            Some(looking) => looking.await,
            None => std::future::pending().await,
        }
    }

    fn on_look(&mut self, snapshot: Result<Snapshot, Error>) {
        self.looking = None;
        // What cannot be looked at is said where it matters, by the acquiring.
        let standing = snapshot.ok().and_then(|snapshot| Standing::of(&snapshot, self.ask.id));
        self.standing = standing.or(self.standing.take());
        self.announced = false;
        self.show();
    }

    fn show(&mut self) {
        if !self.console.says(Loudness::Normal) {
            return;
        }
        if self.console.redraws() {
            self.draw();
            self.next_look = Some(Instant::now() + REDRAW);
        } else if !self.announced {
            self.announced = true;
            if let Some(waiting) = self.waiting() {
                let line = waiting.to_string();
                self.console.say(Loudness::Normal, line);
            }
            self.next_look = Some(Instant::now() + ALIVE);
        }
    }

    fn draw(&mut self) {
        if let Some(waiting) = self.waiting() {
            let line = waiting.to_string();
            self.console.draw(line);
        }
    }

    fn waiting(&self) -> Option<Waiting<'_>> {
        let standing = self.standing.as_ref()?;
        Some(Waiting { name: &self.ask.name, standing, now: SystemTime::now() })
    }

    /// Takes the waiting line away, or ends what a log was told.
    fn end(&mut self, waited: &Waited<'_>) {
        self.console.clear();
        if self.standing.is_some() && !self.console.redraws() {
            self.console.say(Loudness::Normal, waited);
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
