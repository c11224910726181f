//! Permits on one machine, without a server: FIFO special files with flock(2). A permit lives as
//! long as any process of the command's tree keeps its descriptor open, so no lease expires and
//! no clock is asked. `docs/backends.md` says why it is built so; `files.rs` knows the files.

mod create;
mod entries;
mod exits;
mod files;
mod locks;
mod names;
pub(crate) mod place;
mod queue;

use std::cell::OnceCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use uuid::Uuid;

use self::entries::Entry;
use self::files::{Locked, Semaphore};
use self::place::{Base, Place};
use super::{
    Acquired, Ask, Backend, Cancel, Error, ErrorKind, Holder, Lease, Lost, Name, Pending, Permit,
    Snapshot, Tenure, Turn, Waiter,
};
use crate::mutants::{self, Guard};

/// The local backend in one directory.
#[derive(Debug)]
pub(crate) struct Local {
    place: Place,
    /// The directory that turned out to be usable.
    found: OnceCell<PathBuf>,
}

impl Local {
    pub(crate) fn new(place: Place) -> Self {
        Self { place, found: OnceCell::new() }
    }

    fn open(&self, create: bool) -> Result<Option<Base>, Error> {
        let base = self.place.open(create)?;
        if let Some(base) = &base {
            let _ = self.found.set(base.path.clone());
        }
        Ok(base)
    }

    /// `doing` fits "cannot …".
    fn error(&self, doing: &str, error: io::Error) -> Error {
        use rustix::io::Errno;
        let hint = match Errno::from_io_error(&error) {
            Some(Errno::NOSPC | Errno::DQUOT) => {
                "; free some space there, or name another directory with --backend file:///PATH"
            }
            Some(Errno::MFILE) => "; raise the limit of open files (ulimit -n)",
            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => {
                "; make it writable for you, or name another directory with --backend file:///PATH"
            }
            _ => "",
        };
        Error {
            kind: ErrorKind::Unavailable,
            backend: self.url(),
            what: format!("cannot {doing}{hint}"),
            source: Some(error),
        }
    }

    async fn take_turn(&self, ask: &Ask, turn: &Turn) -> Result<Acquired, Error> {
        let doing = || format!("take a permit of '{}'", ask.name);
        // Several rounds only if somebody deletes the files under us.
        for _ in 0..100 {
            let base = self.open(true)?.expect("what is missing was made");
            let round = async {
                match Semaphore::open(&base, &ask.name, true)? {
                    Some(semaphore) => queue::take_turn(Rc::new(semaphore), ask, turn).await,
                    None => Ok(None),
                }
            };
            match round.await {
                Ok(Some(Ok(acquired))) => return Ok(acquired),
                Ok(Some(Err(queue::Differs { stands }))) => {
                    return Err(Error {
                        kind: ErrorKind::Differs,
                        backend: self.url(),
                        what: format!(
                            "'{}' is in use with a limit of {stands}, not {}, and --strict-limit \
                             allows no other",
                            ask.name, ask.limit
                        ),
                        source: None,
                    });
                }
                // What is made in a deleted directory is not found either.
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(self.error(&doing(), error)),
            }
        }
        let again_and_again = io::Error::other("its files are deleted again and again");
        Err(self.error(&doing(), again_and_again))
    }

    async fn look(&self, name: &Name) -> Result<Snapshot, Error> {
        let Some(base) = self.open(false)? else {
            return Ok(Snapshot::unused(name));
        };
        let snapshot = async {
            let Some(semaphore) = Semaphore::open(&base, name, false)? else {
                return Ok(Snapshot::unused(name));
            };
            let locked = semaphore.lock(files::ForMutex::Bounded).await?;
            match locked {
                Some(locked) => snapshot(&semaphore, &locked, name),
                None => Ok(Snapshot::unused(name)),
            }
        };
        snapshot.await.map_err(|error| self.error(&format!("look at '{name}'"), error))
    }

    fn names(&self) -> Result<Vec<Name>, Error> {
        let Some(base) = self.open(false)? else {
            return Ok(Vec::new());
        };
        names_in(&base).map_err(|error| self.error("list the semaphores", error))
    }
}

impl Backend for Local {
    fn acquire<'a>(
        &'a self,
        ask: &'a Ask,
        turn: &'a Turn,
        cancel: Cancel,
    ) -> Pending<'a, Result<Acquired, Error>> {
        Box::pin(async move {
            let acquiring = cancel.or(self.take_turn(ask, turn));
            acquiring.await.unwrap_or(Ok(Acquired::Cancelled))
        })
    }

    fn observe<'a>(&'a self, name: &'a Name) -> Pending<'a, Result<Snapshot, Error>> {
        Box::pin(self.look(name))
    }

    fn list(&self) -> Pending<'_, Result<Vec<Name>, Error>> {
        Box::pin(async { self.names() })
    }

    /// Nothing to do: what the dead had is free.
    fn withdraw<'a>(&'a self, _: &'a Name, _: Uuid, _: Duration) -> Pending<'a, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    fn reports(&self) -> bool {
        false
    }

    fn url(&self) -> String {
        place::url(self.found.get().map_or(self.place.path(), PathBuf::as_path))
    }
}

/// A permit of this backend.
struct Held {
    permit: Permit,
    semaphore: Rc<Semaphore>,
    entry: Entry,
    fifo: OwnedFd,
}

impl Lease for Held {
    fn permit(&self) -> &Permit {
        &self.permit
    }

    fn tenure(&self) -> Option<watch::Receiver<Tenure>> {
        None
    }

    fn lost(&mut self) -> Pending<'_, Lost> {
        Box::pin(std::future::pending())
    }

    fn inherit(&self) -> Option<BorrowedFd<'_>> {
        (!mutants::is_off(Guard::InheritedLock)).then(|| self.fifo.as_fd())
    }

    /// Needs no mutex and writes nothing to the disk, so neither a stopped process nor a full
    /// disk can keep a permit from passing on.
    fn release(self: Box<Self>, _: Duration) -> Pending<'static, Result<(), Error>> {
        Box::pin(async move {
            self.semaphore.hand_over(self.entry, &self.fifo);
            // The permit is free already; what fails here makes nobody wait who would not.
            let _ = self.semaphore.tidy().await;
            Ok(())
        })
    }
}

fn snapshot(semaphore: &Semaphore, locked: &Locked<'_>, name: &Name) -> io::Result<Snapshot> {
    let listing = semaphore.list()?;
    let mut holders = Vec::new();
    for entry in listing.permits {
        if let files::Permit::Held(_) = locked.probe_permit(entry)? {
            let record = semaphore.record(entry);
            holders.push(Holder::Known { token: Some(entry.number), record, left: None });
        }
    }
    // One who was passed over has kept its number, and its place once it comes back.
    let mut queue: Vec<_> = listing.waiters.into_iter().chain(listing.passed_over).collect();
    queue.sort_unstable_by_key(|entry| entry.number);
    let mut waiters = Vec::new();
    for entry in queue {
        if locked.probe(entry)?.is_some() {
            waiters.push(Waiter::known(semaphore.record(entry)));
        }
    }
    let in_use = !holders.is_empty() || !waiters.is_empty();
    let limit = in_use.then_some(locked.state()?.limit);
    Ok(Snapshot { limit, holders, waiters, ..Snapshot::unused(name) })
}

fn names_in(base: &Base) -> io::Result<Vec<Name>> {
    let mut names = Vec::new();
    let mut directory = rustix::fs::Dir::read_from(&base.fd)?;
    while let Some(entry) = directory.read() {
        let entry = entry?;
        let file = entry.file_name().to_str().ok();
        names.extend(file.and_then(|file| names::from_file(&base.fd, file)));
    }
    names.sort_unstable();
    Ok(names)
}
