//! The library: a semaphore by its URL and name, and a permit of it.

mod error;
mod place;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use uuid::Uuid;

use self::error::Cause;
pub use self::error::{Error, ErrorKind};
pub use self::place::Place;
use crate::backends::{
    self, AcquireRequest, Acquisition, Backend, CancelToken, ClientInfo, HolderState, Lease,
    LossReason, LossStage, Name, ProgressSender, Validity,
};
use crate::clock;
use crate::custom_store::{AdaptedStore, CustomStore};
use crate::engine::LeaseClient;
use crate::permits::Terms;
use crate::user::{self, User};

/// The namespace of the keys in Redis, as `--prefix` has it.
const PREFIX: &str = "semrun";

/// How long giving a permit back is tried before that is left to the end of its lease.
const RELEASING: Duration = Duration::from_secs(5);

/// How often a holder that waits for the loss of its permit looks at the clock.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A named counting semaphore, in a directory, a Redis or a `semrun serve`.
///
/// It takes no connection and no permit before it is asked for one. Programs that name the same URL
/// and the same name share it, `semrun --name NAME -- COMMAND` too.
///
/// ```
/// # let directory = tempfile::tempdir()?;
/// # let url = format!("file://{}", directory.path().join("permits").display());
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// use std::time::Duration;
///
/// use semrun::Semaphore;
///
/// let semaphore = Semaphore::connect(&url, "deploy")?.limit(2).ttl(Duration::from_secs(30));
/// let mut permit = semaphore.acquire().await?;
/// tokio::select! {
///     () = deploy(permit.fencing_token()) => permit.release().await?,
///     why = permit.lost() => eprintln!("stopped: {why}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # async fn deploy(_: Option<u64>) {}
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Semaphore {
    backend: Arc<dyn Backend>,
    name: Name,
    terms: Terms,
    label: String,
}

impl Semaphore {
    /// A semaphore by the URL of the place where its permits live (`file:///path`, `redis://…`,
    /// `rediss://…`, `redis+unix://…`, `http://…`, `https://…`) and its name: 1 to 200 bytes of
    /// UTF-8 without control characters. Connects to nothing yet.
    ///
    /// Its limit is 1 and its TTL 30 s, as long as nothing else is said or in force.
    ///
    /// # Errors
    ///
    /// If the URL or the name cannot be understood, or names a place that cannot hold permits. A
    /// [`Place`] has what else may be needed to use it, an API key say.
    pub fn connect(url: &str, name: &str) -> Result<Self, Error> {
        Place::new(url).semaphore(name)
    }

    /// A semaphore whose permits live in a store of this program's own.
    ///
    /// # Errors
    ///
    /// If the name cannot be understood.
    pub fn over(store: impl CustomStore, name: &str) -> Result<Self, Error> {
        let name = name.parse().map_err(|_| Error(Cause::Name))?;
        Ok(Self::new(Arc::new(LeaseClient::new(AdaptedStore(store))), name))
    }

    fn new(backend: Arc<dyn Backend>, name: Name) -> Self {
        Self { backend, name, terms: Terms::default(), label: program() }
    }

    /// Another semaphore in the same place, with the same settings. All semaphores that come from one
    /// [`Semaphore::connect`] share its connections, which are two, however many permits are held or
    /// waited for; a directory takes up to four descriptors for each permit.
    ///
    /// # Errors
    ///
    /// If the name cannot be understood.
    pub fn named(&self, name: &str) -> Result<Self, Error> {
        let name = name.parse().map_err(|_| Error(Cause::Name))?;
        Ok(Self { name, ..self.clone() })
    }

    /// How many permits there are in all: 1 to 10,000. While the semaphore is in use its limit
    /// stands, whatever its other users ask for.
    #[must_use]
    pub fn limit(mut self, limit: u32) -> Self {
        self.terms.limit = limit;
        self
    }

    /// How long a permit is valid from its last renewal: at least 5 s. Stands as the limit does.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.terms.ttl = ttl;
        self
    }

    /// Whether another limit or TTL that is in force is an error.
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Self {
        self.terms.strict = strict;
        self
    }

    /// For how long from its grant a permit stays taken, even if it is released earlier.
    #[must_use]
    pub fn min_hold(mut self, time: Duration) -> Self {
        self.terms.min_hold = time;
        self
    }

    /// What `semrun status` shows for the holder; the name of the program unless it is set.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Waits in line for a permit: first come, first served. Dropping the future leaves the queue: at
    /// once within a tokio runtime, elsewhere when the place there is missed.
    ///
    /// In a directory, permits are small files, and a waiter has one open for each that is taken:
    /// the limits of open files and of a file's size are the program's to raise.
    ///
    /// # Errors
    ///
    /// If the limit is not 1 to 10,000, the TTL is shorter than 5 s, or a time is longer than 100
    /// years, and if the place where permits live cannot be used. While it waits, failures that may
    /// pass are retried.
    pub async fn acquire(&self) -> Result<Permit, Error> {
        let (_canceller, cancel) = CancelToken::pair();
        match self.ask(false, cancel).await? {
            Acquisition::Granted(lease) => Ok(Permit::new(lease)),
            Acquisition::Busy | Acquisition::Cancelled => unreachable!("it waits for ever"),
        }
    }

    /// Takes a permit if one is free and no waiter is before us.
    ///
    /// # Errors
    ///
    /// As [`Semaphore::acquire`], and if the server grants no permit for now.
    pub async fn try_acquire(&self) -> Result<Option<Permit>, Error> {
        let (_canceller, cancel) = CancelToken::pair();
        Ok(match self.ask(true, cancel).await? {
            Acquisition::Granted(lease) => Some(Permit::new(lease)),
            Acquisition::Busy | Acquisition::Cancelled => None,
        })
    }

    /// Waits in line for at most this time.
    ///
    /// # Errors
    ///
    /// As [`Semaphore::acquire`].
    pub async fn acquire_timeout(&self, time: Duration) -> Result<Option<Permit>, Error> {
        let (canceller, cancel) = CancelToken::pair();
        let mut asking = Box::pin(self.ask(false, cancel));
        let acquired = tokio::select! {
            acquired = &mut asking => acquired?,
            () = tokio::time::sleep(time) => {
                canceller.cancel();
                asking.await?
            }
        };
        Ok(match acquired {
            Acquisition::Granted(lease) => Some(Permit::new(lease)),
            Acquisition::Busy | Acquisition::Cancelled => None,
        })
    }

    /// Who holds permits and who waits, at this moment. Takes no permit and creates nothing.
    ///
    /// # Errors
    ///
    /// If the place where permits live cannot be used.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        Ok(Snapshot::of(&self.backend.observe(&self.name).await?))
    }

    async fn ask(&self, nonblock: bool, cancel: CancelToken) -> Result<Acquisition, Error> {
        if !self.terms.are_sane() {
            return Err(Error(Cause::Terms(self.terms)));
        }
        let who = ClientInfo {
            label: self.label.clone(),
            host: user::host(),
            pid: std::process::id(),
            user: User::current().name,
            detached: false,
        };
        let request = AcquireRequest::of(self.name.clone(), self.terms, who);
        let request = AcquireRequest { nonblock, ..request };
        let progress = ProgressSender::unheard();
        Ok(self.backend.acquire(&request, &progress, cancel).await?)
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Semaphore");
        shown.field("url", &self.backend.url()).field("name", &self.name.as_str());
        shown.field("terms", &self.terms).finish_non_exhaustive()
    }
}

fn program() -> String {
    let path = std::env::current_exe().ok();
    let name = path.as_deref().and_then(std::path::Path::file_name);
    name.map_or_else(|| "program".into(), |name| name.to_string_lossy().into_owned())
}

/// A permit that is held. A task renews it as long as this lives.
///
/// Dropping it within a tokio runtime releases it in the background; elsewhere the permit stays
/// taken until its lease ends, where there is one. [`Permit::release`] says whether it worked.
pub struct Permit {
    /// None once it is released.
    lease: Option<Box<dyn Lease>>,
    validity: Option<watch::Receiver<Validity>>,
    id: Uuid,
    token: Option<u64>,
}

impl Permit {
    fn new(lease: Box<dyn Lease>) -> Self {
        let (id, token, validity) = (lease.permit().id, lease.permit().token, lease.validity());
        Self { lease: Some(lease), validity, id, token }
    }

    /// The identity of the permit.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// A number that grows with every grant of the semaphore, by which storage can refuse what an
    /// older holder writes. None in a cloud-semaphore server for Node.
    #[must_use]
    pub fn fencing_token(&self) -> Option<u64> {
        self.token
    }

    /// How long the permit is certainly held, unless it is renewed or revoked. None: it does not
    /// expire.
    #[must_use]
    pub fn valid_for(&self) -> Option<Duration> {
        let validity = self.validity.as_ref()?.borrow();
        Some((validity.since + validity.ttl).saturating_sub(clock::now()))
    }

    /// Waits until the permit is lost, and says why. What it protects has to end at once; after
    /// [`Lost::Revoking`] it may end in an orderly way, as long as [`Permit::valid_for`] says.
    /// Cancel-safe.
    pub async fn lost(&mut self) -> Lost {
        let Some(lease) = &mut self.lease else { return Lost::Expired };
        tokio::select! {
            lost = lease.lost() => match (lost.stage, lost.reason) {
                (LossStage::Revoking, _) => Lost::Revoking,
                (_, LossReason::Revoked { .. } | LossReason::GivenBack) => Lost::Revoked,
                _ => Lost::Expired,
            },
            () = expired(self.validity.clone()) => Lost::Expired,
        }
    }

    /// Gives the permit back; the next waiter is told at once.
    ///
    /// # Errors
    ///
    /// If the server could not be told within 5 s: then its lease ends by itself.
    pub async fn release(mut self) -> Result<(), Error> {
        let Some(lease) = self.lease.take() else { return Ok(()) };
        // A task, so that a caller that does not wait for the end does not keep it from being released.
        match tokio::spawn(lease.release(RELEASING)).await {
            Ok(released) => Ok(released?),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends, and this future with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

/// Ready once a permit was not renewed in time.
async fn expired(validity: Option<watch::Receiver<Validity>>) {
    let Some(mut validity) = validity else { return std::future::pending().await };
    loop {
        let end = {
            let validity = validity.borrow_and_update();
            validity.since + validity.ttl
        };
        let left = end.saturating_sub(clock::now());
        if left.is_zero() {
            return;
        }
        tokio::select! {
            // Timers stand still while the machine is suspended, and leases do not.
            () = tokio::time::sleep(left.min(LOOK_AGAIN)) => {}
            // No more will come once it cannot be renewed any more.
            Ok(()) = validity.changed() => {}
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(lease.release(RELEASING));
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Permit");
        shown.field("id", &self.id).field("fencing_token", &self.token).finish_non_exhaustive()
    }
}

/// Why a permit is not held any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lost {
    /// It was revoked gracefully: it is held until it is released or its lease ends, and cannot be
    /// renewed.
    Revoking,
    /// It was revoked at once, or another process gave it back: another client may hold it.
    Revoked,
    /// Its lease ended, or the server does not know it any more.
    Expired,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Revoking => "the permit is being revoked",
            Self::Revoked => "the permit was revoked",
            Self::Expired => "the permit expired",
        })
    }
}

/// A semaphore at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Snapshot {
    /// The limit in force; none while the semaphore is idle and its limit is not pinned.
    pub limit: Option<u32>,
    /// In the order of their grants.
    pub holders: Vec<Client>,
    /// In the order of the queue.
    pub waiters: Vec<Client>,
}

/// A holder or a waiter, as it describes itself.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Client {
    /// The identity of its permit, where it is known.
    pub id: Option<Uuid>,
    /// Empty for clients that leave no record.
    pub label: String,
    /// The host it runs on.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// The user it runs as.
    pub user: String,
    /// Since when it waits or holds, by its host's clock.
    pub since: Option<SystemTime>,
    /// Whether its permit is being revoked.
    pub revoking: bool,
}

impl Snapshot {
    fn of(snapshot: &backends::SemaphoreSnapshot) -> Self {
        let client = |id, record: Option<&backends::Record>| match record {
            Some(record) => Client {
                id: Some(record.permit),
                label: record.who.label.clone(),
                host: record.who.host.clone(),
                pid: record.who.pid,
                user: record.who.user.clone(),
                since: Some(record.since),
                revoking: false,
            },
            None => Client { id, ..Client::default() },
        };
        let holders = snapshot.holders.iter().map(|holder| Client {
            revoking: holder.state() == HolderState::Revoking,
            ..client(holder.id(), holder.record())
        });
        let waiters = snapshot.waiters.iter().map(|waiter| {
            let id = waiter.foreign.as_ref().and_then(|id| id.parse().ok());
            client(id, waiter.record.as_ref())
        });
        Self { limit: snapshot.limit, holders: holders.collect(), waiters: waiters.collect() }
    }
}
