//! Running a command under a permit: ask, wait in turn, run, stop it if need be, give back.

use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, Signal, getrlimit};
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::block_on;
use crate::account::{self, Account};
use crate::backends::{
    Acquired, Ask, Backend, Cancel, Error, ErrorKind, Lease, Name, Notice, Pending, Permit,
    Snapshot, Standing, Turn, Who,
};
use crate::exit::{Exit, Failure};
use crate::report::{CannotRun, Detail, Died, Doomed, Losing, Waited, Waiting, Warning};
use crate::settings::{Misuse, Run, Wait};
use crate::supervise::child::{Launch, Tree};
use crate::supervise::descendants;
use crate::supervise::guardian::{self, Guardian, Side, Told, Visible, Watched};
use crate::supervise::hold::{self, Hold};
use crate::supervise::policy::OnLost;
use crate::supervise::signals::{Caught, Signals, Whom};
use crate::supervise::{Ended, Remark, supervise};
use crate::terminal::{Console, Loudness};

/// How often the waiting line is brought up to date on a terminal, where somebody looks at it.
const REDRAW: Duration = Duration::from_secs(5);
/// How often a log hears that we still wait.
const ALIVE: Duration = Duration::from_mins(1);
/// How often one that waits within a command looks whether the permit around it is back.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long giving a permit back is tried.
const GIVING_BACK: Duration = Duration::from_secs(5);
/// The same for one that is lost anyway.
const GIVING_UP: Duration = Duration::from_secs(1);

pub(super) fn run(settings: &Run) -> anyhow::Result<Exit> {
    let descriptors = getrlimit(Resource::Nofile);
    // First: it may ask a directory service that hangs, and until we listen signals just end us.
    let account = Account::current();
    let caught = Caught::install().context("cannot listen to signals")?;
    let ask = ask(settings, &account);
    let mut visible = if settings.location.expires() {
        if !descendants::are_visible() {
            let text = "the processes of a command could not be stopped in time here: /proc is \
                        missing, or that of another pid namespace (unshare --mount-proc mounts \
                        the right one)";
            return Err(Misuse::new(Failure::Unsupported, text).into());
        }
        match guardian::divide().context("cannot start a second process")? {
            Side::Guardian(guardian) => return guard(settings, &account, &ask, guardian),
            Side::Worker(visible) => visible,
        }
    } else {
        Visible::Itself
    };
    let told = block_on(async {
        visible.listen().context("cannot watch the guardian")?;
        let story = Story { settings, ask: &ask, descriptors, visible: &visible };
        story.tell(&account, caught).await
    });
    let ran = told.and_then(|ran| ran);
    // Otherwise something may be left of the command, and the guardian has to see to it.
    if !ran.as_ref().is_err_and(anyhow::Error::is::<Unattended>) {
        visible.done(match ran {
            Ok(Exit::CommandSignalled(signal)) => Some(signal),
            _ => None,
        });
    }
    ran
}

/// The part of the process that everybody sees, where another one does the rest.
fn guard(settings: &Run, account: &Account, ask: &Ask, guardian: Guardian) -> anyhow::Result<Exit> {
    let mut console = Console::new(settings.loudness);
    let name = &ask.name;
    let unkillable = |pids: &[_]| console.say(Loudness::Normal, Warning::Unkillable(pids));
    let watched = guardian.watch(unkillable).context("cannot watch the command")?;
    if let Watched::Done(exit) = watched {
        return Ok(exit);
    }
    // Nothing is left that could run under the permit, or wait for it.
    let backend = settings.location.connect(account)?;
    if let Err(error) = block_on(backend.withdraw(name, ask.id, GIVING_BACK))? {
        console.say(Loudness::Normal, Warning::NotReleased(&error));
    }
    match watched {
        Watched::Done(exit) => Ok(exit),
        Watched::Expired => {
            let why = "semrun was stopped for too long";
            console.say(Loudness::Quiet, Losing { name, why, command: Doomed::Stops });
            Ok(Exit::Lost(settings.lost_exit_code))
        }
        Watched::Died(status) => bail!(Died { name: name.clone(), status }),
    }
}

fn ask(settings: &Run, account: &Account) -> Ask {
    Ask {
        name: settings.name.clone(),
        id: Uuid::new_v4(),
        limit: settings.limit,
        ttl: settings.ttl,
        strict: settings.strict_limit,
        nonblock: settings.wait == Wait::Not,
        who: Who {
            label: settings.label.clone(),
            host: account::host(),
            pid: std::process::id(),
            user: account.user.clone(),
        },
    }
}

/// Nobody looks after the command any more.
#[derive(Debug)]
struct Unattended;

impl std::fmt::Display for Unattended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cannot look after the command")
    }
}

/// One run, from asking to giving back.
struct Story<'a> {
    settings: &'a Run,
    ask: &'a Ask,
    descriptors: Rlimit,
    visible: &'a Visible,
}

impl Story<'_> {
    async fn tell(&self, account: &Account, caught: Caught) -> anyhow::Result<Exit> {
        let Self { settings, ask, visible, .. } = self;
        let mut signals = caught.listen().context("cannot listen to signals")?;
        let mut console = Console::new(settings.loudness);
        let backend = settings.location.connect(account)?;

        let turned =
            wait_in_turn(settings, &*backend, ask, visible, &mut signals, &mut console).await?;
        let mut lease = match turned {
            Turned::Granted(lease) => lease,
            Turned::Outer(permit) => {
                console.say(Loudness::Verbose, Detail::Outer(&permit));
                let ran = self.run_command(&permit, None, &*backend, &mut signals, &mut console);
                return Ok(ran.await?.exit);
            }
            Turned::Away(exit) => return Ok(exit),
        };
        let permit = lease.permit().clone();
        let url = backend.url();
        console.say(Loudness::Verbose, Detail::Backend(&url));
        console.say(Loudness::Verbose, Detail::Holding(&permit));

        let lent = Some(&mut *lease);
        let ran = self.run_command(&permit, lent, &*backend, &mut signals, &mut console).await;

        if ran.as_ref().is_err_and(anyhow::Error::is::<Unattended>) {
            // The command may live on. It has the permit, and keeps it if semrun only goes.
            return ran.map(|ran| ran.exit);
        }
        // From here on nobody needs to be killed.
        visible.kills_at(None)?;
        let mut lost = ran.as_ref().is_ok_and(|ran| ran.lost);
        if ran.is_ok() && !lost && hold::is_over(&*lease) {
            let why = "semrun was stopped until its lease was over";
            let (name, command) = (&permit.name, Doomed::HasEnded);
            console.say(Loudness::Quiet, Losing { name, why, command });
            lost = true;
        }
        // One that cannot expire may stay taken for ever if that is not tried.
        let expires = lease.tenure().is_some();
        match lease.release(if lost && expires { GIVING_UP } else { GIVING_BACK }).await {
            Ok(()) => console.say(Loudness::Verbose, Detail::Released(&permit)),
            Err(_) if lost && expires => {}
            Err(error) => console.say(Loudness::Normal, Warning::NotReleased(&error)),
        }
        let ran = ran?;
        let continues = settings.supervision.rules.on_lost == OnLost::Continue;
        Ok(match ran.exit {
            exit if !lost || (continues && exit != Exit::Command(0)) => exit,
            _ => Exit::Lost(settings.lost_exit_code),
        })
    }

    /// Runs the command, under a lease of ours or under a permit that is held around us.
    async fn run_command(
        &self,
        permit: &Permit,
        lease: Option<&mut (dyn Lease + 'static)>,
        backend: &dyn Backend,
        signals: &mut Signals,
        console: &mut Console,
    ) -> anyhow::Result<Ended> {
        let Self { settings, visible, .. } = self;
        let mut environment = vec![
            ("SEMRUN_PERMIT", Some(permit.to_string())),
            // One of a permit around us says nothing about this one.
            ("SEMRUN_FENCING_TOKEN", permit.token.map(|token| token.to_string())),
        ];
        if lease.is_some() {
            let held = permit.with_backend(&backend.url());
            let held = match held_around() {
                Some(outer) => format!("{outer} {held}"),
                None => held,
            };
            environment.push(("SEMRUN_HELD", Some(held)));
        }
        let supervision = settings.supervision;
        let continues = supervision.rules.on_lost == OnLost::Continue;
        let mut hold = match lease {
            Some(lease) => {
                let hold = Hold::new(lease, supervision.kill_after, continues);
                Some(hold.context("cannot watch the lease")?)
            }
            None => None,
        };
        visible.kills_at(hold.as_ref().and_then(Hold::last))?;
        if let Some(hold) = &mut hold
            && let Some(why) = hold.is_too_late().await
        {
            let (name, why) = (&permit.name, why.as_str());
            console.say(Loudness::Quiet, Losing { name, why, command: Doomed::Stops });
            return Ok(Ended { exit: Exit::Lost(settings.lost_exit_code), lost: true });
        }
        let launch = Launch {
            program: &settings.program,
            arguments: &settings.arguments,
            environment,
            foreground: supervision.rules.foreground,
            descriptors: self.descriptors,
            inherit: hold.as_ref().and_then(Hold::inherit),
        };
        let launched = Tree::launch(&launch);
        let mut tree = launched.map_err(|reason| CannotRun::new(&settings.program, reason))?;
        let name = &permit.name;
        let remark = |remark: Remark<'_>| match remark {
            Remark::Lost(why) => {
                let command = if continues { Doomed::GoesOn } else { Doomed::Stops };
                console.say(Loudness::Quiet, Losing { name, why, command });
            }
            Remark::Unkillable(pids) => {
                console.say(Loudness::Normal, Warning::Unkillable(pids));
            }
        };
        let supervised = supervise(&mut tree, signals, visible, hold, supervision, remark).await;
        supervised.context(Unattended)
    }
}

/// `SEMRUN_HELD`: what semruns around this one hold.
fn held_around() -> Option<String> {
    std::env::var("SEMRUN_HELD").ok().filter(|held| !held.is_empty())
}

/// Those of them that are permits of this semaphore.
fn outer_permits(name: &Name) -> Vec<Uuid> {
    let held = Permit::read_held(&held_around().unwrap_or_default());
    held.into_iter().filter(|(_, of)| of == name).map(|(id, _)| id).collect()
}

/// The permit that is held around us, if there is one and it still is.
async fn held_around_us(
    backend: &dyn Backend,
    name: &Name,
    outer: &[Uuid],
) -> Result<Option<Permit>, Error> {
    if outer.is_empty() {
        return Ok(None);
    }
    let snapshot = backend.observe(name).await?;
    Ok(outer.iter().find_map(|id| snapshot.held(*id)))
}

/// Looks for it now and then, until it is held again.
async fn comes_back(backend: &dyn Backend, name: &Name, outer: &[Uuid]) -> Permit {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        // What cannot be looked at is said where it matters, by the acquiring.
        if let Ok(Some(permit)) = held_around_us(backend, name, outer).await {
            return permit;
        }
    }
}

/// What somebody who asks for a permit got.
enum Got {
    /// One that is held around us, and is enough.
    Outer(Permit),
    Acquired(Acquired),
}

/// Gets a permit of our own, unless we are under one already.
async fn get(
    backend: &dyn Backend,
    ask: &Ask,
    turn: &Turn,
    mut cancel: Cancel,
) -> Result<Got, Error> {
    let outer = outer_permits(&ask.name);
    match cancel.clone().or(held_around_us(backend, &ask.name, &outer)).await {
        None => return Ok(Got::Acquired(Acquired::Cancelled)),
        Some(Ok(Some(permit))) => return Ok(Got::Outer(permit)),
        Some(Err(error)) => return Err(error),
        Some(Ok(None)) if outer.is_empty() => {
            return backend.acquire(ask, turn, cancel).await.map(Got::Acquired);
        }
        Some(Ok(None)) => {}
    }
    // A server that forgot the permit around us may learn of it again, and then we must not
    // wait for our own parent.
    let (leave, left) = Cancel::pair();
    let mut acquiring = backend.acquire(ask, turn, left);
    let permit = tokio::select! {
        acquired = &mut acquiring => return acquired.map(Got::Acquired),
        permit = comes_back(backend, &ask.name, &outer) => Some(permit),
        () = cancel.cancelled() => None,
    };
    leave.cancel();
    Ok(match (acquiring.await?, permit) {
        (Acquired::Cancelled, Some(permit)) => Got::Outer(permit),
        (acquired, _) => Got::Acquired(acquired),
    })
}

/// How the waiting ended.
enum Turned {
    Granted(Box<dyn Lease>),
    /// Somebody around us holds a permit of it.
    Outer(Permit),
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
    visible: &Visible,
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
    let mut view = View::new(backend, ask, visible, console);
    view.knows_ttl = settings.ttl_given;
    let mut enough: Option<Enough> = None;
    let mut acquiring = Box::pin(get(backend, ask, &turn, cancel));
    let got = loop {
        let stop = tokio::select! {
            biased;
            arrival = signals.next() => view.on_signal(arrival?.signal).map(Enough::Signal),
            told = visible.told(), if enough.is_none() => match told {
                Told::Vanished => Some(Enough::Signal(Signal::KILL)),
                Told::NotStopped => None,
            },
            got = &mut acquiring => break got,
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
    let acquired = match got {
        Ok(Got::Acquired(acquired)) => {
            // Before anything else: whatever holds us up from now on, it ends before the lease.
            if let Acquired::Granted(lease) = &acquired {
                visible.kills_at(hold::last(&**lease, settings.supervision.kill_after))?;
            }
            acquired
        }
        Ok(Got::Outer(permit)) => return Ok(Turned::Outer(permit)),
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
            // Nothing runs under it.
            visible.kills_at(None)?;
            if let Acquired::Granted(lease) = acquired
                && let Err(error) = lease.release(GIVING_BACK).await
            {
                view.console.say(Loudness::Normal, Warning::NotReleased(&error));
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
    visible: &'a Visible,
    console: &'a mut Console,
    /// Whether the user said what TTL all are to use.
    knows_ttl: bool,
    standing: Option<Standing>,
    /// What keeps the backend from telling us.
    trouble: Option<String>,
    /// Whether a log was told that we wait.
    announced: bool,
    next_look: Option<Instant>,
    looking: Option<Pending<'a, Result<Snapshot, Error>>>,
}

impl<'a> View<'a> {
    fn new(
        backend: &'a dyn Backend,
        ask: &'a Ask,
        visible: &'a Visible,
        console: &'a mut Console,
    ) -> Self {
        Self {
            backend,
            ask,
            visible,
            console,
            knows_ttl: false,
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
                self.visible.stop_and_wait(Whom::Semrun);
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
                self.heard();
            }
            Notice::Limit { asked, stands } => {
                self.warn(&Warning::Limit { name, asked, stands });
            }
            Notice::Ttl { asked, stands } => self.warn(&Warning::Ttl { name, asked, stands }),
            Notice::Foreign { ttl } => {
                if !self.knows_ttl {
                    self.warn(&Warning::Foreign { name, ttl });
                }
            }
            Notice::Blind => self.warn(&Warning::Blind),
            Notice::Trouble { what, may_last } => {
                // Once, however often it is tried and whatever comes of that.
                if may_last && self.trouble.is_none() {
                    self.warn(&Warning::Trouble { name, what: &what });
                }
                self.trouble = Some(what);
                self.heard();
            }
        }
    }

    fn warn(&mut self, warning: &Warning<'_>) {
        self.console.say(Loudness::Normal, warning);
        self.draw();
    }

    /// How things stand has just been told.
    fn heard(&mut self) {
        if self.backend.reports() && self.next_look.is_some_and(|next| Instant::now() >= next) {
            self.announced = false;
        }
        self.show();
    }

    /// Looks at the queue when it is time to: who is far behind is not told when it moves.
    async fn looking(&mut self) -> Result<Snapshot, Error> {
        if self.backend.reports() {
            return std::future::pending().await;
        }
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
        let trouble = self.trouble.as_deref();
        Some(Waiting { name: &self.ask.name, standing, trouble, now: SystemTime::now() })
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
