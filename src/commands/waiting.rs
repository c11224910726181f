//! Waiting in turn for a permit, and what the user sees meanwhile.

mod view;

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use self::view::View;
use super::nested::{self, Outer, outer_permits};
use super::resting::resting;
use crate::account::{self, Account};
use crate::backends::{
    Acquired, Ask, Backend, Cancel, Error, Lease, Name, Notice, StoreError, Turn, Who,
};
use crate::cli::messages::{Detail, GaveUpWaiting, Waited, Warning};
use crate::exit::Exit;
use crate::foreign::pitfall;
use crate::settings::{Request, Wait};
use crate::supervise::guardian::{Told, Visible};
use crate::supervise::hold;
use crate::supervise::signals::Signals;
use crate::terminal::{Console, Loudness};

/// How often a nested waiter checks whether the outer permit is held again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long to retry giving a permit back.
pub(super) const GIVING_BACK: Duration = Duration::from_secs(5);

/// The request to the backend. A detached permit outlives this process.
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

/// A random part of `longest`, derived from the permit's random identity.
fn chance(longest: Duration, id: Uuid) -> Duration {
    let part = u32::from_le_bytes([id.as_bytes()[0], id.as_bytes()[1], id.as_bytes()[2], 0]);
    longest.mul_f64(f64::from(part) / f64::from(1 << 24))
}

/// Whether the first thing to do is to ask for a permit.
pub(super) fn asks_at_once(request: &Request) -> bool {
    request.jitter.is_zero() && outer_permits(&request.name).is_empty()
}

/// Checks at intervals, until an outer permit is held again and can be joined.
async fn comes_back(backend: &dyn Backend, name: &Name, outer: &[Uuid]) -> Box<dyn Lease> {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        // Ignore errors here; acquiring reports them.
        if let Ok(snapshot) = backend.observe(name).await
            && let Ok(Outer::Lease(lease)) = nested::join(backend, name, outer, snapshot).await
        {
            return lease;
        }
    }
}

/// What a client that asks for a permit got.
enum Got {
    /// An outer permit, which is enough.
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
    // One that outlives us is never another run's.
    let outer = if ask.who.detached { Vec::new() } else { outer_permits(&ask.name) };
    if outer.is_empty() {
        return backend.acquire(ask, turn, cancel).await.map(Got::Acquired);
    }
    let Some(snapshot) = cancel.clone().or(backend.observe(&ask.name)).await else {
        let what = StoreError::OuterUnknown;
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
    /// An outer permit, which is not ours to give back.
    Outer(Box<dyn Lease>),
    Away(Exit),
}

/// Why we stop waiting of our own accord.
#[derive(Clone, Copy)]
enum Enough {
    WaitedLongEnough,
    Signal(Signal),
}

/// Waits for a permit, unless one around us is enough. `kill_after` is how long its command has
/// when it is stopped.
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
    view.started = started;
    let mut enough: Option<Enough> = None;
    let mut acquiring = Box::pin(resting(async {
        // Even the shortest sleep takes a millisecond.
        if !jitter.is_zero() && cancel.clone().or(sleep_until(started)).await.is_none() {
            return Ok(Got::Acquired(Acquired::Cancelled));
        }
        get(backend, ask, &turn, cancel).await
    }));
    let got = loop {
        let tick = view.next_tick;
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
            () = until(tick) => { view.draw(); None }
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
            // First of all, so that even if we are held up the guardian acts before the lease ends.
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
    // A signal came together with the permit: then the command need not start.
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
        (Acquired::Busy, _) => {
            view.say_who_holds().await;
            Turned::Away(Exit::NotAcquired(request.conflict_exit_code))
        }
        (Acquired::Cancelled, _) => {
            if let Some(why) = view.hindrance() {
                view.console.clear();
                let (backend, name) = (backend.url(), ask.name.clone());
                return Err(GaveUpWaiting { backend, name, why }.into());
            }
            // The exit code alone would not tell this from an error of the command's.
            view.console.say(Loudness::Normal, Waited::GaveUp(&ask.name, after));
            Turned::Away(Exit::NotAcquired(request.conflict_exit_code))
        }
    })
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
