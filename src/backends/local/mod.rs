//! Permits on one machine, without a server: FIFO special files with flock(2). A permit lives as
//! long as any process of the command's tree keeps its descriptor open, so no lease expires and
//! no clock is asked, but for those that outlive their process. `docs/backends.md` says why it is
//! built so; `files.rs` knows the files.

mod detached;
mod entries;
mod evict;
mod examine;
mod exits;
mod files;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod held;
mod kept;
mod locks;
mod many;
mod mutex;
mod names;
pub(crate) mod place;
mod queue;
mod taken;
mod waking;

#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use self::entries::State;
use self::files::Semaphore;
#[cfg(any(test, fuzzing))]
pub(crate) use self::fuzz::{fuzz, fuzz_name};
use self::mutex::{ForMutex, GIVE_UP, Locked};
use self::place::{Base, Place};
use super::{
    Acquired, Ask, Backend, Cancel, Error, ErrorKind, Eviction, Finding, GivenBack, Lease, Name,
    Pending, Snapshot, Turn,
};
use crate::kernel::raise_file_size_limit;

/// How long one of many may take whose files are locked.
const BRIEFLY: Duration = Duration::from_millis(100);

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
        raise_file_size_limit();
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
            Some(Errno::FBIG) => "; raise the limit of a file's size (ulimit -f)",
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
                Ok(Some(Err(differs))) => return Err(self.differs(ask, &differs)),
                // What is made in a deleted directory is not found either.
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(self.error(&doing(), error)),
            }
        }
        let again_and_again = io::Error::other("its files are deleted again and again");
        Err(self.error(&doing(), again_and_again))
    }

    fn differs(&self, ask: &Ask, differs: &queue::Differs) -> Error {
        let queue::Differs { stands, pinned } = differs;
        let how = if *pinned { "is pinned to" } else { "is in use with" };
        let what = format!(
            "'{}' {how} a limit of {stands}, not {}, and --strict-limit allows no other",
            ask.name, ask.limit
        );
        Error { kind: ErrorKind::Differs, backend: self.url(), what, source: None }
    }

    /// Does something under the mutex of a semaphore. None: nobody has used it, or its files are
    /// being deleted.
    async fn under_mutex<T>(
        &self,
        name: &Name,
        create: bool,
        doing: &str,
        act: impl FnOnce(&Rc<Semaphore>, &Locked<'_>) -> io::Result<T>,
    ) -> Result<Option<T>, Error> {
        let Some(base) = self.open(create)? else { return Ok(None) };
        self.under_mutex_in(&base, name, create, doing, act).await
    }

    async fn under_mutex_in<T>(
        &self,
        base: &Base,
        name: &Name,
        create: bool,
        doing: &str,
        act: impl FnOnce(&Rc<Semaphore>, &Locked<'_>) -> io::Result<T>,
    ) -> Result<Option<T>, Error> {
        let done = async {
            let Some(semaphore) = Semaphore::open(base, name, create)? else { return Ok(None) };
            let semaphore = Rc::new(semaphore);
            match semaphore.lock(ForMutex::Bounded).await? {
                Some(locked) => act(&semaphore, &locked).map(Some),
                None => Ok(None),
            }
        };
        done.await.map_err(|error| self.error(&format!("{doing} '{name}'"), error))
    }

    async fn look(&self, name: &Name) -> Result<Snapshot, Error> {
        match self.open(false)? {
            Some(base) => self.look_in(&base, name).await,
            None => Ok(Snapshot::unused(name)),
        }
    }

    async fn look_in(&self, base: &Base, name: &Name) -> Result<Snapshot, Error> {
        let look = |_: &_, locked: &Locked<'_>| taken::snapshot(locked, name);
        let snapshot = self.under_mutex_in(base, name, false, "look at", look).await?;
        Ok(snapshot.unwrap_or_else(|| Snapshot::unused(name)))
    }

    async fn look_at_all(&self) -> Result<Vec<Snapshot>, Error> {
        let Some(base) = self.open(false)? else { return Ok(Vec::new()) };
        let names = names_in(&base).map_err(|error| self.error("list the semaphores", error))?;
        let mut snapshots = Vec::with_capacity(names.len());
        // For all together: others may keep any number of them locked.
        let end = Instant::now() + GIVE_UP + BRIEFLY;
        for (name, looked) in names.iter().zip(many::look(&base, &names)) {
            if let Some(snapshot) = looked {
                snapshots.push(snapshot);
                continue;
            }
            // What is in the way is waited for here, or told, and hides no other.
            let end = end.max(Instant::now() + BRIEFLY);
            snapshots.push(match timeout_at(end, self.look_in(&base, name)).await {
                Ok(Ok(snapshot)) => snapshot,
                Ok(Err(Error { what, source, .. })) => {
                    let source = source.map(|source| format!(" ({source})")).unwrap_or_default();
                    Snapshot::odd(name, format!("{what}{source}"))
                }
                Err(_elapsed) => {
                    Snapshot::odd(name, "another process keeps its files locked".into())
                }
            });
        }
        Ok(snapshots)
    }

    async fn pin(&self, name: &Name, limit: Option<u32>) -> Result<(), Error> {
        const DOING: &str = "set the limit of";
        let is_there = async || {
            let there = self.under_mutex(name, false, DOING, |_, _| Ok(())).await?;
            Ok::<_, Error>(there.is_some())
        };
        if limit.is_none() && !is_there().await? {
            return Ok(());
        }
        let pin = |semaphore: &Rc<Semaphore>, locked: &Locked<'_>| {
            // Before the new limit is there, as for everything that wakes.
            locked.wake(semaphore.list()?.waiters)?;
            locked.set_state(State { pinned: limit.unwrap_or(0), ..locked.state()? })
        };
        if self.under_mutex(name, true, DOING, pin).await?.is_none() {
            let deleted = io::Error::other("its files were deleted just now; try again");
            return Err(self.error(&format!("{DOING} '{name}'"), deleted));
        }
        Ok(())
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

    fn observe_all(&self) -> Pending<'_, Result<Vec<Snapshot>, Error>> {
        Box::pin(self.look_at_all())
    }

    /// Nothing to do: what the dead had is free.
    fn withdraw<'a>(&'a self, _: &'a Name, _: Uuid, _: Duration) -> Pending<'a, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    fn attach<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
    ) -> Pending<'a, Result<Option<Box<dyn Lease>>, Error>> {
        Box::pin(async move {
            let attach =
                |semaphore: &_, locked: &Locked<'_>| detached::attach(semaphore, locked, name, id);
            let lease = self.under_mutex(name, false, "renew a permit of", attach).await?;
            Ok(lease.flatten())
        })
    }

    fn give_back<'a>(&'a self, name: &'a Name, id: Uuid) -> Pending<'a, Result<GivenBack, Error>> {
        Box::pin(async move {
            let give_back = |_: &_, locked: &Locked<'_>| detached::give_back(locked, id);
            let given = self.under_mutex(name, false, "give back a permit of", give_back).await?;
            Ok(given.unwrap_or(GivenBack::Unknown))
        })
    }

    fn evict<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        how: Eviction,
    ) -> Pending<'a, Result<bool, Error>> {
        Box::pin(async move {
            let evict = |_: &_, locked: &Locked<'_>| evict::evict(locked, id, how);
            let evicted = self.under_mutex(name, false, "take away a permit of", evict).await?;
            Ok(evicted.unwrap_or(false))
        })
    }

    fn set_limit<'a>(
        &'a self,
        name: &'a Name,
        limit: Option<u32>,
    ) -> Pending<'a, Result<(), Error>> {
        Box::pin(self.pin(name, limit))
    }

    fn examine(&self) -> Pending<'_, Result<Vec<Finding>, Error>> {
        Box::pin(async { examine::examine(&self.place) })
    }

    fn reports(&self) -> bool {
        false
    }

    fn url(&self) -> String {
        place::url(self.found.get().map_or(self.place.path(), PathBuf::as_path))
    }
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
