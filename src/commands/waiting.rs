//! Waiting in turn for a permit, and what the user sees meanwhile.

mod display;

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use self::display::WaitingDisplay;
use super::idle_memory::release_memory_during;
use super::nested::{self, OuterPermit, outer_permits};
use crate::cli::messages::{Detail, GaveUpWaiting, Waited, Warning};
use crate::clock::if_any;
use crate::console::{Console, Loudness};
use crate::exit::Exit;
use crate::permits::{
    AcquireRequest, Acquisition, Backend, BackendError, CancelToken, ClientInfo, Lease, Name,
    Progress, ProgressSender, StoreError,
};
use crate::printable::pitfall;
use crate::settings::{PermitRequest, Wait};
use crate::supervise::guardian::{FrontProcess, GuardianEvent};
use crate::supervise::lease_watch;
use crate::supervise::signals::Signals;
use crate::user::{self, User};

/// How often a nested waiter checks whether the outer permit is held again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long to retry giving a permit back.
pub(super) const GIVING_BACK: Duration = Duration::from_secs(5);

/// The request to the backend. A detached permit outlives this process.
pub(super) fn acquire_request(
    request: &PermitRequest,
    user: &User,
    detached: bool,
) -> AcquireRequest {
    let who = ClientInfo {
        label: request.label.clone(),
        host: user::host(),
        pid: std::process::id(),
        user: user.name.clone(),
        detached,
    };
    let nonblock = request.wait == Wait::Not;
    AcquireRequest { nonblock, ..AcquireRequest::of(request.name.clone(), request.terms, who) }
}

/// A random part of `longest`, derived from the permit's random identity.
fn jitter(longest: Duration, id: Uuid) -> Duration {
    let part = u32::from_le_bytes([id.as_bytes()[0], id.as_bytes()[1], id.as_bytes()[2], 0]);
    longest.mul_f64(f64::from(part) / f64::from(1 << 24))
}

/// Whether the first thing to do is to ask for a permit.
pub(super) fn asks_at_once(request: &PermitRequest) -> bool {
    request.jitter.is_zero() && outer_permits(&request.name).is_empty()
}

/// Checks at intervals, until an outer permit is held again and can be joined.
async fn comes_back(backend: &dyn Backend, name: &Name, outer: &[Uuid]) -> Box<dyn Lease> {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        // Ignore errors here; acquiring reports them.
        if let Ok(snapshot) = backend.observe(name).await
            && let Ok(OuterPermit::Lease(lease)) =
                nested::join(backend, name, outer, snapshot).await
        {
            return lease;
        }
    }
}

/// What a client that asks for a permit got.
enum Obtained {
    /// An outer permit, which is enough.
    Outer(Box<dyn Lease>),
    Acquired(Acquisition),
}

/// Gets a permit of our own, unless we are under one already.
async fn get(
    backend: &dyn Backend,
    acquire_request: &AcquireRequest,
    progress: &ProgressSender,
    mut cancel: CancelToken,
) -> Result<Obtained, BackendError> {
    // One that outlives us is never another run's.
    let outer = if acquire_request.who.detached {
        Vec::new()
    } else {
        outer_permits(&acquire_request.name)
    };
    if outer.is_empty() {
        return backend.acquire(acquire_request, progress, cancel).await.map(Obtained::Acquired);
    }
    let Some(snapshot) =
        cancel.clone().unless_cancelled(backend.observe(&acquire_request.name)).await
    else {
        let what = StoreError::OuterUnknown;
        progress.tell(Progress::Trouble { what, may_last: false });
        return Ok(Obtained::Acquired(Acquisition::Cancelled));
    };
    match cancel
        .clone()
        .unless_cancelled(nested::join(backend, &acquire_request.name, &outer, snapshot?))
        .await
    {
        None => return Ok(Obtained::Acquired(Acquisition::Cancelled)),
        Some(Ok(OuterPermit::Lease(lease))) => return Ok(Obtained::Outer(lease)),
        Some(Err(error)) => return Err(error),
        // It may be our own parent's, and then we wait for ever.
        Some(Ok(OuterPermit::Unproven)) if !acquire_request.nonblock => {
            progress.tell(Progress::HeldAround);
        }
        Some(Ok(OuterPermit::Unproven | OuterPermit::None)) => {}
    }
    // A server that forgot the permit around us may learn of it again, and then we must not
    // wait for our own parent.
    let (leave, left) = CancelToken::pair();
    let mut acquiring = backend.acquire(acquire_request, progress, left);
    let around_us = tokio::select! {
        acquired = &mut acquiring => return acquired.map(Obtained::Acquired),
        back = comes_back(backend, &acquire_request.name, &outer) => Some(back),
        () = cancel.cancelled() => None,
    };
    leave.cancel();
    Ok(match (acquiring.await?, around_us) {
        (Acquisition::Cancelled, Some(outer)) => Obtained::Outer(outer),
        (acquired, _) => Obtained::Acquired(acquired),
    })
}

/// How the waiting ended.
pub(super) enum WaitOutcome {
    Granted(Box<dyn Lease>),
    /// An outer permit, which is not ours to give back.
    Outer(Box<dyn Lease>),
    Away(Exit),
}

/// Why we stop waiting of our own accord.
#[derive(Clone, Copy)]
enum StopReason {
    WaitedLongEnough,
    Signal(Signal),
}

/// What `-v` shows before the wait begins.
fn tell_details(console: &mut Console, name: &Name, jitter: Duration) {
    if let Some(why) = pitfall(name.as_str()) {
        console.say(Loudness::Verbose, Detail::Pitfall(name, why));
    }
    if !jitter.is_zero() {
        console.say(Loudness::Verbose, Detail::Jitter(jitter));
    }
}

/// Waits for a permit, unless one around us is enough. `kill_after` is how long its command has
/// when it is stopped.
pub(super) async fn wait_in_turn(
    request: &PermitRequest,
    kill_after: Option<Duration>,
    backend: &dyn Backend,
    acquire_request: &AcquireRequest,
    front_process: &FrontProcess,
    signals: &mut Signals,
    console: &mut Console,
) -> anyhow::Result<WaitOutcome> {
    let jitter = jitter(request.jitter, acquire_request.id);
    tell_details(console, &acquire_request.name, jitter);
    let started = Instant::now() + jitter;
    let (progress, mut notices) = ProgressSender::channel();
    let (canceller, cancel) = CancelToken::pair();
    let deadline = match request.wait {
        Wait::AtMost(most) => Some(started + most),
        Wait::Not | Wait::ForEver => None,
    };
    let mut display =
        WaitingDisplay::new(backend, request, acquire_request, front_process, console);
    display.started = started;
    let mut stop_reason: Option<StopReason> = None;
    let mut acquiring = Box::pin(release_memory_during(async {
        // Even the shortest sleep takes a millisecond.
        if !jitter.is_zero()
            && cancel.clone().unless_cancelled(sleep_until(started)).await.is_none()
        {
            return Ok(Obtained::Acquired(Acquisition::Cancelled));
        }
        get(backend, acquire_request, &progress, cancel).await
    }));
    let got = loop {
        let tick = display.next_tick;
        let stop = tokio::select! {
            biased;
            arrival = signals.next() => display.on_signal(arrival?.signal).map(StopReason::Signal),
            told = front_process.next_event(), if stop_reason.is_none() => match told {
                GuardianEvent::Vanished => Some(StopReason::Signal(Signal::KILL)),
                GuardianEvent::NotStopped => None,
            },
            got = &mut acquiring => break got,
            () = if_any(deadline.map(sleep_until)), if stop_reason.is_none() => Some(StopReason::WaitedLongEnough),
            Some(notice) = notices.recv() => { display.on_notice(notice); None }
            snapshot = display.looking() => { display.on_look(snapshot); None }
            () = if_any(tick.map(sleep_until)) => { display.draw(); None }
        };
        if let (None, Some(reason)) = (stop_reason, stop) {
            stop_reason = Some(reason);
            canceller.cancel();
        }
    };
    drop(acquiring);
    while let Ok(notice) = notices.try_recv() {
        display.on_notice(notice);
    }
    let acquired = match got {
        Ok(Obtained::Acquired(acquired)) => {
            // First of all, so that even if we are held up the guardian acts before the lease ends.
            if let Acquisition::Granted(lease) = &acquired {
                front_process.kills_at(lease_watch::last(&**lease, kill_after))?;
            }
            acquired
        }
        Ok(Obtained::Outer(lease)) => {
            front_process.kills_at(lease_watch::last(&*lease, kill_after))?;
            return Ok(WaitOutcome::Outer(lease));
        }
        Err(error) => {
            display.console.clear();
            return Err(error.into());
        }
    };
    // A signal came together with the permit: then the command need not start.
    while let (None | Some(StopReason::WaitedLongEnough), Some(arrival)) =
        (stop_reason, signals.waiting())
    {
        stop_reason = display.on_signal(arrival.signal).map(StopReason::Signal).or(stop_reason);
    }
    let after = started.elapsed();
    Ok(match (acquired, stop_reason) {
        (acquired, Some(StopReason::Signal(signal))) => {
            // Nothing runs under it.
            front_process.kills_at(None)?;
            if let Acquisition::Granted(lease) = acquired
                && let Err(error) = lease.release(GIVING_BACK).await
            {
                display.console.say(Loudness::Normal, Warning::NotReleased(&error));
            }
            display.end(&Waited::Interrupted(&acquire_request.name, after, signal));
            WaitOutcome::Away(Exit::Interrupted(signal))
        }
        (Acquisition::Granted(lease), _) => {
            display.end(&Waited::Granted(&acquire_request.name, after));
            WaitOutcome::Granted(lease)
        }
        (Acquisition::Busy, _) => {
            display.say_who_holds().await;
            WaitOutcome::Away(Exit::NotAcquired(request.conflict_exit_code))
        }
        (Acquisition::Cancelled, _) => {
            if let Some(why) = display.obstacle() {
                display.console.clear();
                let (backend, name) = (backend.url(), acquire_request.name.clone());
                return Err(GaveUpWaiting { backend, name, why }.into());
            }
            // The exit code alone would not tell this from an error of the command's.
            display.console.say(Loudness::Normal, Waited::GaveUp(&acquire_request.name, after));
            WaitOutcome::Away(Exit::NotAcquired(request.conflict_exit_code))
        }
    })
}

#[cfg(test)]
mod tests;
