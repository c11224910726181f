//! A permit that processes hold: whoever has its FIFO open, which the command's tree inherits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::entries::{Entry, Kind, State};
use super::evict;
use super::files::{Locked, Said, Semaphore};
use super::kept::Kept;
use super::taken::kept_entry;
use crate::backends::{Ask, Error, Lease, Lost, Pending, Permit, Record, Tenure};
use crate::clock::{self, Moment};
use crate::mutants::{self, Guard};

pub(super) struct Held {
    permit: Permit,
    semaphore: Rc<Semaphore>,
    entry: Entry,
    /// Others write there too, to take the permit away.
    fifo: AsyncFd<OwnedFd>,
    /// What was heard of that.
    heard: Said,
    /// Until when the permit stays taken after its release.
    hold_end: Option<Moment>,
}

/// A permit on its way to whoever asked. Dropping it, because that was called off, gives it back.
pub(super) struct Unclaimed(Option<Held>);

impl Unclaimed {
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
        let finish = || -> io::Result<Held> {
            let fifo = crate::kernel::watch(fifo, Interest::READABLE)?;
            let mut hold_end = None;
            if !ask.min_hold.is_zero() {
                // Last, so that one that nobody has does not last.
                let kept = Kept::of_run(ask)?;
                locked.write_kept(kept_entry(entry), kept, &record)?;
                hold_end = Some(kept.hold_end);
            }
            let permit = Permit { id: ask.id, name: ask.name.clone(), token: Some(token) };
            let (semaphore, heard) = (Rc::clone(semaphore), Said::Nothing);
            Ok(Held { permit, semaphore, entry, fifo, heard, hold_end })
        };
        let held = finish().inspect_err(|_| semaphore.remove(entry))?;
        Ok(Self(Some(held)))
    }

    pub(super) fn claim(mut self) -> Held {
        self.0.take().expect("claimed once")
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(held) = self.0.take() {
            held.forget();
            held.semaphore.hand_over(held.entry, held.fifo.get_ref());
        }
    }
}

impl Held {
    /// Removes what would make it last.
    fn forget(&self) {
        if self.hold_end.is_some() {
            self.semaphore.remove(kept_entry(self.entry));
        }
    }

    /// Waits until somebody takes it away; after it was evicted, until that is done at once.
    async fn taken_away(&mut self) -> Lost {
        while let Ok(mut ready) = self.fifo.readable().await {
            if let Ok(said) = Said::to(self.fifo.get_ref())
                && said != self.heard
                && let Some(lost) = evict::heard(said)
            {
                self.heard = said;
                return lost;
            }
            ready.clear_ready();
        }
        // The runtime is going down, and with it whoever asks.
        std::future::pending().await
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
        (!mutants::is_off(Guard::InheritedLock)).then(|| self.fifo.get_ref().as_fd())
    }

    /// Needs no mutex and writes nothing to the disk, so neither a stopped process nor a full
    /// disk can keep a permit from passing on.
    fn release(self: Box<Self>, _: Duration) -> Pending<'static, Result<(), Error>> {
        Box::pin(async move {
            self.semaphore.hand_over(self.entry, self.fifo.get_ref());
            let off = mutants::is_off(Guard::Hold);
            if self.hold_end.is_some_and(|end| end <= clock::now() || off) {
                self.forget();
            }
            // The permit is free already; what fails here makes nobody wait who would not.
            let _ = self.semaphore.tidy().await;
            Ok(())
        })
    }
}
