//! Waiting in turn for a permit, with what the user gets to see of it meanwhile.

use std::mem;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::nested::{self, Outer, outer_permits};
use super::resting::resting;
use crate::account::{self, Account};
use crate::backends::{
    Acquired, Ask, Backend, Cancel, Error, ErrorKind, Lease, Name, Notice, Pending, Snapshot,
    Standing, Turn, Who, Withheld,
};
use crate::exit::Exit;
use crate::report::{Detail, Waited, Waiting, Warning, pitfall};
use crate::settings::{Request, Wait};
use crate::supervise::guardian::{Told, Visible};
use crate::supervise::hold;
use crate::supervise::signals::{Signals, Whom};
use crate::terminal::{Console, Loudness};

/// How often the waiting line is brought up to date on a terminal, where somebody looks at it.
const REDRAW: Duration = Duration::from_secs(5);
/// How often a log hears that we still wait.
const ALIVE: Duration = Duration::from_mins(1);
/// How often one that waits within a command looks whether the permit around it is back.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long giving a permit back is tried.
pub(super) const GIVING_BACK: Duration = Duration::from_secs(5);

/// What is asked of the backend. A detached permit is to outlive this process.
pub(super) fn ask(request: &Request, account: &Account, detached: bool) -> Ask {
    Ask {
        name: request.name.clone(),
        id: Uuid::new_v4(),
        limit: request.limit,
        ttl: request.ttl,
        strict: request.strict_limit,
        min_hold: request.min_hold,
        nonblock: request.wait == Wait::Not,
        who: Who {
            label: request.label.clone(),
            host: account::host(),
            pid: std::process::id(),
            user: account.user.clone(),
            detached,
        },
    }
}

/// A part of `longest`, by the chance that made the permit's identity.
fn chance(longest: Duration, id: Uuid) -> Duration {
    let part = u32::from_le_bytes([id.as_bytes()[0], id.as_bytes()[1], id.as_bytes()[2], 0]);
    longest.mul_f64(f64::from(part) / f64::from(1 << 24))
}

/// Whether the first thing to do is to ask for a permit.
pub(super) fn asks_at_once(request: &Request) -> bool {
    request.jitter.is_zero() && outer_permits(&request.name).is_empty()
}

/// Looks now and then, until one that is held around us is held again and can be joined.
async fn comes_back(backend: &dyn Backend, name: &Name, outer: &[Uuid]) -> Box<dyn Lease> {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        // What cannot be looked at is said where it matters, by the acquiring.
        if let Ok(snapshot) = backend.observe(name).await
            && let Ok(Outer::Lease(lease)) = nested::join(backend, name, outer, snapshot).await
        {
            return lease;
        }
    }
}

/// What somebody who asks for a permit got.
enum Got {
    /// One that is held around us, and is enough.
    Outer(Box<dyn Lease>),
    Acquired(Acquired),
}

/// Gets a permit of our own, unless we are under one already.
async fn get(
    backend: &dyn Backend,
    ask: &Ask,
    turn: &Turn,
    mut cancel: Cancel,
) -> Result<Got, Error> {
    // One that outlives us is never somebody else's.
    let outer = if ask.who.detached { Vec::new() } else { outer_permits(&ask.name) };
    if outer.is_empty() {
        return backend.acquire(ask, turn, cancel).await.map(Got::Acquired);
    }
    let Some(snapshot) = cancel.clone().or(backend.observe(&ask.name)).await else {
        let what = "it has not said whether a permit is held around this command".into();
        turn.tell(Notice::Trouble { what, may_last: false });
        return Ok(Got::Acquired(Acquired::Cancelled));
    };
    match cancel.clone().or(nested::join(backend, &ask.name, &outer, snapshot?)).await {
        None => return Ok(Got::Acquired(Acquired::Cancelled)),
        Some(Ok(Outer::Lease(lease))) => return Ok(Got::Outer(lease)),
        Some(Err(error)) => return Err(error),
        // It may be our own parent's, and then we wait for ever.
        Some(Ok(Outer::Unproven)) if !ask.nonblock => turn.tell(Notice::HeldAround),
        Some(Ok(Outer::Unproven | Outer::None)) => {}
    }
    // A server that forgot the permit around us may learn of it again, and then we must not
    // wait for our own parent.
    let (leave, left) = Cancel::pair();
    let mut acquiring = backend.acquire(ask, turn, left);
    let around_us = tokio::select! {
        acquired = &mut acquiring => return acquired.map(Got::Acquired),
        back = comes_back(backend, &ask.name, &outer) => Some(back),
        () = cancel.cancelled() => None,
    };
    leave.cancel();
    Ok(match (acquiring.await?, around_us) {
        (Acquired::Cancelled, Some(outer)) => Got::Outer(outer),
        (acquired, _) => Got::Acquired(acquired),
    })
}

/// How the waiting ended.
pub(super) enum Turned {
    Granted(Box<dyn Lease>),
    /// This one is held around us, and is not ours to give back.
    Outer(Box<dyn Lease>),
    Away(Exit),
}

/// Why we stop waiting of our own accord.
#[derive(Clone, Copy)]
enum Enough {
    WaitedLongEnough,
    Signal(Signal),
}

/// Waits for a permit, unless one around us is enough. A command that is to run under it has
/// `kill_after` when it is stopped.
pub(super) async fn wait_in_turn(
    request: &Request,
    kill_after: Option<Duration>,
    backend: &dyn Backend,
    ask: &Ask,
    visible: &Visible,
    signals: &mut Signals,
    console: &mut Console,
) -> anyhow::Result<Turned> {
    if let Some(why) = pitfall(ask.name.as_str()) {
        console.say(Loudness::Verbose, Detail::Pitfall(&ask.name, why));
    }
    let jitter = chance(request.jitter, ask.id);
    if !jitter.is_zero() {
        console.say(Loudness::Verbose, Detail::Jitter(jitter));
    }
    let started = Instant::now() + jitter;
    let (turn, mut notices) = Turn::channel();
    let (canceller, cancel) = Cancel::pair();
    let deadline = match request.wait {
        Wait::AtMost(most) => Some(started + most),
        Wait::Not | Wait::ForEver => None,
    };
    let mut view = View::new(backend, request, ask, visible, console);
    let mut enough: Option<Enough> = None;
    let mut acquiring = Box::pin(resting(async {
        // A sleep takes a millisecond, however short it is.
        if !jitter.is_zero() && cancel.clone().or(sleep_until(started)).await.is_none() {
            return Ok(Got::Acquired(Acquired::Cancelled));
        }
        get(backend, ask, &turn, cancel).await
    }));
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
                visible.kills_at(hold::last(&**lease, kill_after))?;
            }
            acquired
        }
        Ok(Got::Outer(lease)) => {
            visible.kills_at(hold::last(&*lease, kill_after))?;
            return Ok(Turned::Outer(lease));
        }
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
        (Acquired::Busy, _) => Turned::Away(Exit::NotAcquired(request.conflict_exit_code)),
        (Acquired::Cancelled, _) => {
            if let Some(what) = view.hindrance() {
                view.console.clear();
                let what = format!("gave up waiting for '{}': {what}", ask.name);
                let (kind, backend) = (ErrorKind::Unavailable, backend.url());
                return Err(Error { kind, backend, what, source: None }.into());
            }
            // The exit code alone would not tell this from an error of the command's.
            view.console.say(Loudness::Normal, Waited::GaveUp(&ask.name, after));
            Turned::Away(Exit::NotAcquired(request.conflict_exit_code))
        }
    })
}

/// What somebody who waits gets to see.
struct View<'a> {
    backend: &'a dyn Backend,
    request: &'a Request,
    ask: &'a Ask,
    visible: &'a Visible,
    console: &'a mut Console,
    /// How we stand, and when that was told.
    standing: Option<(Standing, Instant)>,
    /// Why no permit is granted, and when that was told.
    withheld: Option<(Withheld, Instant)>,
    /// What keeps the backend from telling us.
    trouble: Option<String>,
    /// When that is worth a line again.
    next_complaint: Instant,
    /// Whether a log was told that we wait.
    announced: bool,
    next_look: Option<Instant>,
    looking: Option<Pending<'a, Result<Snapshot, Error>>>,
}

impl<'a> View<'a> {
    fn new(
        backend: &'a dyn Backend,
        request: &'a Request,
        ask: &'a Ask,
        visible: &'a Visible,
        console: &'a mut Console,
    ) -> Self {
        Self {
            backend,
            request,
            ask,
            visible,
            console,
            standing: None,
            withheld: None,
            trouble: None,
            next_complaint: Instant::now(),
            announced: false,
            next_look: None,
            looking: None,
        }
    }

    /// The signal, if it ends the waiting.
    fn on_signal(&mut self, signal: Signal) -> Option<Signal> {
        match signal {
            // Children of whoever started us with exec(2); and by default nothing comes of the other.
            Signal::CHILD | Signal::URG => None,
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
                let now = Instant::now();
                self.withheld = standing.withheld.map(|why| (why, now));
                self.standing = Some((standing, now));
                self.trouble = None;
                self.heard();
            }
            Notice::Withheld(why) => {
                let news = self.withheld.is_none();
                self.withheld = Some((why, Instant::now()));
                self.trouble = None;
                self.announced &= !news;
                self.heard();
            }
            // Who asked for nothing takes what is pinned for all.
            Notice::Limit { pinned: true, .. } if !self.request.limit_given => {}
            Notice::Limit { asked, stands, pinned } => {
                self.warn(&Warning::Limit { name, asked, stands, pinned });
            }
            Notice::Ttl { .. } if !self.request.ttl_given => {}
            Notice::Ttl { asked, stands } => self.warn(&Warning::Ttl { name, asked, stands }),
            Notice::Foreign { ttl } => {
                if !self.request.ttl_given {
                    self.warn(&Warning::Foreign { name, ttl });
                }
            }
            Notice::HeldAround => self.warn(&Warning::Unproven(name)),
            Notice::Blind => self.warn(&Warning::Blind),
            Notice::Deaf { heartbeat } => self.warn(&Warning::Deaf(heartbeat)),
            Notice::Trouble { what, may_last } => {
                let now = Instant::now();
                // Once, as long as it goes on or comes again within a minute.
                if may_last && mem::replace(&mut self.next_complaint, now + ALIVE) <= now {
                    self.warn(&Warning::Trouble { name, what: &what });
                }
                // What keeps us from leaving is not what kept us waiting.
                if may_last || self.trouble.is_none() {
                    self.trouble = Some(what);
                }
                self.heard();
            }
        }
    }

    /// What kept us from a permit that was free, or from knowing of one.
    fn hindrance(&mut self) -> Option<String> {
        let withheld = self.withheld().map(|why| why.to_string());
        self.trouble.take().or(withheld)
    }

    /// Why no permit is granted, if that is still so.
    fn withheld(&self) -> Option<Withheld> {
        let (why, told) = self.withheld?;
        let Withheld::Quarantine(left) = why else { return Some(why) };
        let left = left.checked_sub(told.elapsed()).filter(|left| !left.is_zero());
        left.map(Withheld::Quarantine)
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
        let told = standing.map(|standing| (standing, Instant::now()));
        if let Some((standing, now)) = &told {
            self.withheld = standing.withheld.map(|why| (why, *now));
        }
        self.standing = told.or(self.standing.take());
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
        let (standing, withheld) = (self.standing.as_ref().map(|(told, _)| told), self.withheld());
        if standing.is_none() && withheld.is_none() {
            return None;
        }
        let (trouble, now) = (self.trouble.as_deref(), SystemTime::now());
        Some(Waiting { name: &self.ask.name, standing, withheld, trouble, now })
    }

    /// Takes the waiting line away, or ends what a log was told.
    fn end(&mut self, waited: &Waited<'_>) {
        self.console.clear();
        let told = self.standing.is_some() || self.withheld.is_some();
        if told && !self.console.redraws() {
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

#[cfg(test)]
mod tests;
