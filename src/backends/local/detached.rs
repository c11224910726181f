//! Permits that outlive the process that asked for them: granted, renewed and given back by writing
//! in their record (`kept.rs`).

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::entries::{Entry, Kind, State};
use super::files::Semaphore;
use super::kept::{self, Kept};
use super::mutex::{ForMutex, Locked};
use super::{place, revoke};
use crate::backends::leased::{self, Leased};
use crate::backends::renewal::{self, Renewed};
use crate::backends::{
    Ask, GivenBack, Lease, Lost, Name, Pending, Permit, Phase, Record, StoreError, Tenure,
};
use crate::clock;

/// What is needed to keep such a permit and to let it go.
struct Grip {
    semaphore: Rc<Semaphore>,
    entry: Entry,
    id: Uuid,
    shown: String,
}

/// Grants one, whose lease begins now.
pub(super) fn grant(
    semaphore: &Rc<Semaphore>,
    locked: &Locked<'_>,
    state: &mut State,
    ask: &Ask,
) -> io::Result<Box<dyn Lease>> {
    let since = clock::now();
    let entry = Entry::new(Kind::Kept, state.next());
    locked.set_state(*state)?;
    locked.write_kept(entry, Kept::detached(ask)?, &Record::new(ask))?;
    let tenure = Tenure { since, ttl: ask.ttl, trouble: None };
    Ok(lease(semaphore, entry, &ask.name, ask.id, tenure))
}

/// Attaches to a detached permit. None: it is not held, or not so that it could be renewed.
pub(super) fn attach(
    semaphore: &Rc<Semaphore>,
    locked: &Locked<'_>,
    name: &Name,
    id: Uuid,
) -> io::Result<Option<Box<dyn Lease>>> {
    let Some((entry, kept)) = find(locked, id)? else { return Ok(None) };
    if kept.phase != Phase::Holding {
        return Ok(None);
    }
    let since = clock::now();
    locked.rewrite_kept(entry, kept.renewed())?;
    let tenure = Tenure { since, ttl: kept.ttl, trouble: None };
    Ok(Some(lease(semaphore, entry, name, id, tenure)))
}

fn lease(
    semaphore: &Rc<Semaphore>,
    entry: Entry,
    name: &Name,
    id: Uuid,
    tenure: Tenure,
) -> Box<dyn Lease> {
    let shown = place::url(semaphore.base());
    let grip = Grip { semaphore: Rc::clone(semaphore), entry, id, shown };
    let permit = Permit { id, name: name.clone(), token: Some(entry.number) };
    Box::new(Leased::new(permit, tenure, grip))
}

/// The detached permit of this identity, if it counts. One that is held by processes too is not
/// detached.
fn find(locked: &Locked<'_>, id: Uuid) -> io::Result<Option<(Entry, Kept)>> {
    let found = locked.0.find(locked.0.list()?.kept, |entry| *entry, id)?;
    let Some(entry) = found else { return Ok(None) };
    Ok(locked.kept(entry)?.map(|kept| (entry, kept)))
}

pub(super) fn give_back(locked: &Locked<'_>, id: Uuid) -> io::Result<GivenBack> {
    let Some((entry, kept)) = find(locked, id)? else {
        let before = locked.remembers(id)?;
        return Ok(if before { GivenBack::Before } else { GivenBack::Unknown });
    };
    if !kept.is_detached() {
        return Ok(if revoke::is_held_by_processes(locked, entry)? {
            GivenBack::Unknown
        } else {
            GivenBack::Before
        });
    }
    if kept.phase == Phase::MinHold {
        return Ok(GivenBack::Before);
    }
    // First of all: a client killed after this line can repeat the release. If the permit ended
    // first, a client killed in between would then hear that it is unknown.
    locked.remember(id)?;
    let left = kept.in_phase(Phase::MinHold);
    if kept.phase == Phase::Holding && left.lasts()? {
        revoke::shorten(locked, entry, left)?;
    } else {
        revoke::end(locked, entry)?;
    }
    Ok(GivenBack::Now)
}

impl Grip {
    async fn renew(&self) -> io::Result<Renewed> {
        // The files were deleted, and with them all permits.
        let Some(locked) = self.semaphore.lock(ForMutex::Bounded).await? else {
            return Ok(Renewed::Lost(Lost::some_time_ago()));
        };
        Ok(match locked.kept(self.entry)? {
            Some(kept) if kept.phase == Phase::Holding => {
                locked.rewrite_kept(self.entry, kept.renewed())?;
                Renewed::For(kept.ttl)
            }
            Some(kept) if kept.phase == Phase::Revoking => Renewed::Lost(Lost::revoked()),
            _ => Renewed::Lost(Lost::some_time_ago()),
        })
    }
}

/// Has the permit renewed whenever its file is touched, and never returns. If it cannot be watched,
/// that does no harm: the next renewal finds what has changed.
async fn hasten(hurry: &Notify, told: io::Result<AsyncFd<OwnedFd>>) -> Lost {
    if let Ok(told) = told {
        while let Ok(mut ready) = told.readable().await {
            while rustix::io::read(&told, &mut [0; 512]).is_ok_and(|length| length > 0) {}
            ready.clear_ready();
            hurry.notify_one();
        }
    }
    std::future::pending().await
}

impl leased::Grip for Grip {
    fn keep(self: Rc<Self>, tenure: watch::Sender<Tenure>) -> Pending<'static, Lost> {
        Box::pin(async move {
            let told = kept::watch(&self.semaphore.path_of(self.entry));
            let hurry = Notify::new();
            // It may have been revoked before that.
            hurry.notify_one();
            let attempt = || -> Pending<'_, _> {
                Box::pin(async { self.renew().await.map_err(StoreError::from) })
            };
            tokio::select! {
                lost = renewal::keep(self.id, tenure, &hurry, attempt) => lost,
                lost = hasten(&hurry, told) => lost,
            }
        })
    }

    /// No command runs under it that would have to be stopped.
    fn watch_on(self: Rc<Self>) -> Pending<'static, Lost> {
        Box::pin(std::future::pending())
    }

    fn give_back(self: Rc<Self>, patience: Duration) -> Pending<'static, Result<(), StoreError>> {
        Box::pin(async move {
            let giving_back = async {
                if let Some(locked) = self.semaphore.lock(ForMutex::Bounded).await? {
                    give_back(&locked, self.id)?;
                }
                Ok::<_, io::Error>(())
            };
            match tokio::time::timeout(patience, giving_back).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(error.into()),
                Err(_elapsed) => Err(StoreError::Locked),
            }
        })
    }

    fn shown(&self) -> &str {
        &self.shown
    }
}
