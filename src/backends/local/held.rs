//! A permit that processes hold by having its FIFO open, which the command's tree inherits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::sleep;

use super::entries::{Entry, Kind, State};
use super::files::{Said, Semaphore};
use super::kept::Kept;
use super::mutex::Locked;
use super::revoke;
use super::taken::kept_entry;
use crate::backends::{Ask, Error, Lease, Lost, Pending, Permit, Record, Tenure};
use crate::clock::{self, Moment};
use crate::kernel;
use crate::mutants::{self, Guard};

/// How often a holder that nothing can wake looks whether its permit was revoked.
const LOOK: Duration = Duration::from_secs(1);

/// Uses no runtime before [`Lease::lost`] is called: it may be granted in another one.
pub(super) struct Held {
    permit: Permit,
    semaphore: Rc<Semaphore>,
    entry: Entry,
    /// Others write there too, to revoke the permit.
    fifo: OwnedFd,
    /// The same, once the holder listens for that.
    watched: Option<AsyncFd<OwnedFd>>,
    /// What was read there.
    heard: Said,
    /// Until when the permit stays taken after its release.
    hold_end: Option<Moment>,
}

impl Held {
    pub(super) fn grant(
        semaphore: &Rc<Semaphore>,
        locked: &Locked<'_>,
        state: &mut State,
        ask: &Ask,
    ) -> io::Result<Self> {
        let token = state.next();
        locked.set_state(*state)?;
        let entry = Entry::new(Kind::Permit, token);
        let record = Record::new(ask);
        let fifo = locked.create(entry, &record)?;
        let keep = || -> io::Result<Moment> {
            // Last, so that a grant that fails leaves none of these.
            let kept = Kept::of_run(ask)?;
            locked.write_kept(kept_entry(entry), kept, &record)?;
            Ok(kept.hold_end)
        };
        let hold_end = (!ask.min_hold.is_zero()).then(keep).transpose();
        let hold_end = hold_end.inspect_err(|_| semaphore.remove(entry))?;
        let permit = Permit { id: ask.id, name: ask.name.clone(), token: Some(token) };
        let semaphore = Rc::clone(semaphore);
        Ok(Self { permit, semaphore, entry, fifo, watched: None, heard: Said::Nothing, hold_end })
    }

    /// Waits until it is revoked; after it was revoked gently, until that is done at once.
    async fn taken_away(&mut self) -> Lost {
        loop {
            if let Ok(said) = Said::to(&self.fifo)
                && said != self.heard
                && let Some(lost) = revoke::heard(said)
            {
                self.heard = said;
                return lost;
            }
            self.something_said().await;
        }
    }

    /// Returns when something may have been written to the FIFO.
    async fn something_said(&mut self) {
        if self.watched.is_none() {
            let fifo = self.fifo.try_clone();
            self.watched = fifo.and_then(|fifo| kernel::watch(fifo, Interest::READABLE)).ok();
        }
        match &self.watched {
            Some(fifo) => match fifo.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                // The runtime is going down, and with it the holder.
                Err(_) => std::future::pending().await,
            },
            None => sleep(LOOK).await,
        }
    }
}

impl Lease for Held {
    fn permit(&self) -> &Permit {
        &self.permit
    }

    fn tenure(&self) -> Option<watch::Receiver<Tenure>> {
        None
    }

    fn lost(&mut self) -> Pending<'_, Lost> {
        Box::pin(self.taken_away())
    }

    fn inherit(&self) -> Option<BorrowedFd<'_>> {
        (!mutants::is_off(Guard::InheritedLock)).then(|| self.fifo.as_fd())
    }

    /// Needs no mutex and writes nothing to the disk, so neither a stopped process nor a full
    /// disk can keep a permit from passing on.
    fn release(self: Box<Self>, _: Duration) -> Pending<'static, Result<(), Error>> {
        Box::pin(async move {
            self.semaphore.hand_over(self.entry, &self.fifo);
            let off = mutants::is_off(Guard::Hold);
            if self.hold_end.is_some_and(|end| end <= clock::now() || off) {
                self.semaphore.remove(kept_entry(self.entry));
            }
            // The permit is free already; a failure here makes no waiter wait longer.
            let _ = self.semaphore.tidy().await;
            Ok(())
        })
    }
}
