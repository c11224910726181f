//! A place in the queue, and sleeping there until something happens that may make it our turn.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, sleep_until};

use super::{COURTESY, OvertakeTimer, QueueSnapshot, WATCHED};
use crate::backends::local::file_names::{FileKind, FileName, StateFile};
use crate::backends::local::mutex::MutexGuard;
use crate::backends::local::semaphore_files::{FifoMessage, SemaphoreFiles};
use crate::clock::{Alarm, Moment, if_any};
use crate::mutants::{self, Guard};
use crate::permits::{AcquireRequest, Record};
use crate::sys::watch;

/// Our place in the queue. Dropping it leaves the queue, and needs no mutex for that.
pub(super) struct QueuePlace {
    semaphore: Arc<SemaphoreFiles>,
    pub(super) number: u64,
    fifo: AsyncFd<OwnedFd>,
}

impl QueuePlace {
    pub(super) fn enter(
        semaphore: &Arc<SemaphoreFiles>,
        locked: &MutexGuard<'_>,
        state: &mut StateFile,
        request: &AcquireRequest,
    ) -> io::Result<Self> {
        let number = state.next();
        locked.set_state(*state)?;
        let entry = FileName::new(FileKind::Waiter, number);
        let fifo = locked.create(entry, &Record::new(request))?;
        let fifo = watch(fifo, Interest::READABLE).inspect_err(|_| semaphore.remove(entry))?;
        Ok(Self { semaphore: Arc::clone(semaphore), number, fifo })
    }

    /// Does something else, and reads meanwhile what it is told: a waiter that does not is passed
    /// over.
    pub(super) async fn while_answering<T>(&self, doing: impl Future<Output = T>) -> T {
        let hear = std::future::poll_fn(|context| {
            while was_woken(&self.fifo, context) {}
            Poll::Pending
        });
        tokio::select! {
            biased;
            done = doing => done,
            () = hear => unreachable!("never ready"),
        }
    }

    /// Sleeps until something has happened that may make it our turn.
    pub(super) async fn wait(
        &mut self,
        survey: QueueSnapshot,
        patience: Option<OvertakeTimer>,
    ) -> io::Result<()> {
        let ahead = survey.ahead();
        let watches = survey.watches_permits() && !mutants::is_off(Guard::WakeUp);
        // A waiter that watches the permits learns nothing from the waiters after it.
        let behind = survey.behind.into_iter().filter(|_| !watches);
        // Of other waiters only the hang-up counts, which every interest includes: a byte in
        // their FIFO is for them.
        let others = survey.before.into_iter().chain(behind);
        let others = others.map(|fifo| watch(fifo, Interest::PRIORITY));
        let others = others.collect::<io::Result<Vec<_>>>()?;
        let watch_permit = |(fifo, revoked)| Ok((watch(fifo, Interest::READABLE)?, revoked));
        let permits = survey.permits.into_iter().filter(|_| watches).map(watch_permit);
        let permits = permits.collect::<io::Result<Vec<_>>>()?;
        let first_end = survey.first_end.filter(|_| watches);
        let alarm = first_end.map(alarm_at).transpose()?;
        let fifo = &self.fifo;
        let concerns_us = || {
            std::future::poll_fn(|context| {
                let stage = others.iter().any(|fifo| hung_up(fifo, context));
                if stage || was_woken(fifo, context) { Poll::Ready(()) } else { Poll::Pending }
            })
        };
        let given_back = std::future::poll_fn(|context| {
            let free = permits.iter().any(|(fifo, revoked)| is_free(fifo, *revoked, context));
            if free { Poll::Ready(()) } else { Poll::Pending }
        });
        let permit_is_free = async {
            tokio::select! {
                () = given_back => Ok(()),
                rung = if_any(alarm.as_ref().map(Alarm::wait)) => rung,
            }
        };
        let out_of_patience = if_any(patience.map(|patience| sleep_until(patience.end)));
        tokio::select! {
            () = concerns_us() => {}
            () = out_of_patience => {}
            free = permit_is_free => {
                free?;
                if ahead > 0 {
                    let turns = if ahead < WATCHED { ahead } else { WATCHED + 1 };
                    tokio::select! {
                        () = concerns_us() => {}
                        () = sleep(COURTESY * u32::try_from(turns).unwrap_or(u32::MAX)) => {}
                    }
                }
            }
        }
        Ok(())
    }
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        for kind in [FileKind::Waiter, FileKind::PassedOver] {
            self.semaphore.remove(FileName::new(kind, self.number));
        }
    }
}

fn hung_up(fifo: &AsyncFd<OwnedFd>, context: &mut Context<'_>) -> bool {
    // poll_read_ready() asks for READABLE, which a hang-up includes whatever was registered.
    fifo.poll_read_ready(context).is_ready()
}

/// Whether something has happened to a permit. One that was revoked has something in its FIFO
/// already: that is reported once, and then whatever is written later, as the FIFO is watched for
/// changes.
fn is_free(fifo: &AsyncFd<OwnedFd>, revoked: bool, context: &mut Context<'_>) -> bool {
    while let Poll::Ready(ready) = fifo.poll_read_ready(context) {
        let Ok(mut ready) = ready else { return true };
        let waits = revoked
            && !ready.ready().is_read_closed()
            && FifoMessage::to(fifo.get_ref()).is_ok_and(|said| said == FifoMessage::Revoked);
        if !waits {
            return true;
        }
        ready.clear_ready();
    }
    false
}

fn alarm_at(moment: Moment) -> io::Result<Alarm> {
    let alarm = Alarm::new()?;
    alarm.set(Some(moment))?;
    Ok(alarm)
}

/// Whether another process wrote into our own FIFO; empties it.
fn was_woken(fifo: &AsyncFd<OwnedFd>, context: &mut Context<'_>) -> bool {
    let Poll::Ready(Ok(mut ready)) = fifo.poll_read_ready(context) else {
        return false;
    };
    let mut bytes = [0; 64];
    while rustix::io::read(fifo, &mut bytes).is_ok_and(|length| length > 0) {}
    ready.clear_ready();
    true
}
