//! Waiting in turn for a permit of one local semaphore. Everything is decided under the mutex by
//! the process that it concerns, after a fresh look; what wakes a waiter is only a hint.
//!
//! A waiter watches those before it, and the first few and the last few watch the permits: a FIFO
//! becomes readable when its owner writes and hangs up when the last process that has it open is
//! gone, after the kernel has given up its lock. So an idle waiter sleeps without a timer, and a
//! death is as quick as a release.

mod wait;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

use self::wait::QueuePlace;
use super::detached;
use super::exiting::ExitingProcesses;
use super::file_names::{FileKind, FileName, Listing, StateFile};
use super::mutex::{MutexGuard, MutexWait};
use super::process_lease::ProcessLease;
use super::semaphore_files::SemaphoreFiles;
use super::taken_permits::{TakenBy, TakenPermits};
use crate::clock::{self, Moment};
use crate::permits::{
    AcquireRequest, Acquisition, HolderState, Lease, Progress, ProgressSender, QueueStatus,
    StoreError,
};

/// How many of the waiters before it a waiter watches. If fewer are before it or after it, it
/// watches the permits too. So the first waiters learn of a free permit; if many in a row are
/// frozen with their container, the last ones do.
pub(super) const WATCHED: usize = 3;

/// How long each of those before us may have a free permit to itself before we look whether it
/// is stopped. Long against a hand-over, so that the next in line meets no crowd at the mutex.
const COURTESY: Duration = Duration::from_millis(50);

/// How long a free permit may stay free before the waiters at the front are told of it, and how
/// long they then have to hear that. Long against the delays of a busy machine.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long to wait for processes that are exiting before saying so, or before giving up if the
/// client does not want to wait.
const DYING: Duration = Duration::from_secs(2);

/// How long a client that is not in the queue yet retries when the disk is full, say.
const TRY_ON: Duration = Duration::from_secs(5);

/// How long between these retries.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// How long a waiter that fails to take its permit, counted from the first failure, keeps its turn.
/// Those after it would mostly fail too; but the cause may be its own, a quota, say.
const KEEPS_ITS_TURN: Duration = Duration::from_secs(15);

/// Another limit is in force, and `--strict-limit` takes no other.
pub(super) struct LimitMismatch {
    pub(super) stands: u32,
    pub(super) pinned: bool,
}

/// Waits until a permit is ours. None: the files were deleted; start again with new ones.
pub(super) async fn take_turn(
    semaphore: Arc<SemaphoreFiles>,
    request: &AcquireRequest,
    progress: &ProgressSender,
) -> io::Result<Option<Result<Acquisition, LimitMismatch>>> {
    let give_up = Instant::now() + TRY_ON;
    let mut turn_ends = None;
    let mut pass =
        QueuePass { semaphore, request, progress, place: None, patience: None, told: None };
    loop {
        match pass.run().await {
            Ok(QueueStep::Acquired(acquired)) => return Ok(Some(Ok(acquired))),
            Ok(QueueStep::Differs(differs)) => return Ok(Some(Err(differs))),
            Ok(QueueStep::Deleted) => return Ok(None),
            Ok(QueueStep::LookAgain) => {}
            Err(error) if is_transient(&error) && pass.tries_on(give_up) => {
                let may_last = pass.place.is_some();
                pass.progress.tell(Progress::Trouble { what: error.into(), may_last });
                let now = Instant::now();
                let end = *turn_ends.get_or_insert(now + KEEPS_ITS_TURN);
                while_answering(pass.place.as_ref().filter(|_| now < end), sleep(TRY_AGAIN)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// One run through the queue.
struct QueuePass<'a> {
    semaphore: Arc<SemaphoreFiles>,
    request: &'a AcquireRequest,
    progress: &'a ProgressSender,
    place: Option<QueuePlace>,
    patience: Option<OvertakeTimer>,
    /// The limit that was told last.
    told: Option<u32>,
}

enum QueueStep {
    Acquired(Acquisition),
    Deleted,
    /// Another limit is in force, and the client accepts only its own.
    Differs(LimitMismatch),
    /// Something has happened that may make it our turn.
    LookAgain,
}

impl QueuePass<'_> {
    /// Looks, takes a permit if it is our turn, and otherwise waits for something to happen.
    async fn run(&mut self) -> io::Result<QueueStep> {
        let Self { semaphore, request, progress, .. } = self;
        let for_mutex =
            if request.nonblock { MutexWait::Bounded } else { MutexWait::Endless(progress) };
        let locking = while_answering(self.place.as_ref(), semaphore.lock(for_mutex));
        let Some(locked) = locking.await? else { return Ok(QueueStep::Deleted) };
        let state = locked.state()?;
        let survey = QueueSnapshot::take(&locked, self.place.as_ref(), state, request)?;
        let Some(mut survey) = survey else { return Ok(QueueStep::Deleted) };
        let QueueSnapshot { limit: stands, agreed, .. } = survey;
        let pinned = state.pinned().is_some();
        if stands != request.terms.limit && request.terms.strict && self.place.is_none() {
            return Ok(QueueStep::Differs(LimitMismatch { stands, pinned }));
        }
        if stands != request.terms.limit && self.told != Some(stands) {
            self.told = Some(stands);
            progress.tell(Progress::Limit { asked: request.terms.limit, stands, pinned });
        }
        self.patience = OvertakeTimer::of(&survey, self.patience);
        if let Some(patience) = self.patience {
            self.patience = Some(survey.see_to_the_first(&locked, patience)?);
        }
        let mut state = StateFile { limit: agreed, ..state };
        let ours = survey.free() && survey.before.is_empty();
        if ours && !survey.is_of_the_dead() {
            let lease = grant(semaphore, &locked, &mut state, request)?;
            return Ok(QueueStep::Acquired(Acquisition::Granted(lease)));
        }
        if request.nonblock && !ours {
            return Ok(QueueStep::Acquired(Acquisition::Busy));
        }
        if self.place.is_none() && !request.nonblock {
            self.place = Some(QueuePlace::enter(semaphore, &locked, &mut state, request)?);
            survey.release_dead(&locked);
        }
        if ours {
            let dying = ExitingProcesses::with(semaphore, &survey.dead)?;
            drop(locked);
            return self.wait_for_exit_of(&dying, &survey.dead).await;
        }
        survey.look_behind(&locked)?;
        drop(locked);
        progress.tell(Progress::Queued(survey.queue_status(semaphore)));
        let place = self.place.as_mut().expect("entered");
        place.wait(survey, self.patience).await?;
        Ok(QueueStep::LookAgain)
    }

    /// Waits until the former holders of these permits have ended. Only then are the permits
    /// removed, so that other waiters do the same if we are called off.
    async fn wait_for_exit_of(
        &self,
        dying: &ExitingProcesses,
        dead: &[FileName],
    ) -> io::Result<QueueStep> {
        let stage = async {
            if tokio::time::timeout(DYING, dying.complete()).await.is_ok() {
                return true;
            }
            if self.request.nonblock {
                return false;
            }
            let what = StoreError::Dying(dying.first());
            self.progress.tell(Progress::Trouble { what, may_last: true });
            dying.complete().await;
            true
        };
        if !while_answering(self.place.as_ref(), stage).await {
            return Ok(QueueStep::Acquired(Acquisition::Busy));
        }
        for permit in dead {
            self.semaphore.remove(*permit);
        }
        Ok(QueueStep::LookAgain)
    }

    /// Whether to retry after an error that may pass: in the queue as long as we may wait, before
    /// it for a while.
    fn tries_on(&self, give_up: Instant) -> bool {
        self.place.is_some() || (!self.request.nonblock && Instant::now() < give_up)
    }
}

/// Does something else than wait in the queue. A waiter with a place in it keeps reading what it is
/// told, so it is not passed over.
async fn while_answering<T>(place: Option<&QueuePlace>, doing: impl Future<Output = T>) -> T {
    match place {
        Some(place) => place.while_answering(doing).await,
        None => doing.await,
    }
}

/// Temporary errors: other processes may free what is missing.
fn is_transient(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let storage = error.kind() == io::ErrorKind::StorageFull;
    storage
        || matches!(
            Errno::from_io_error(error),
            Some(Errno::DQUOT | Errno::NFILE | Errno::NOMEM | Errno::AGAIN)
        )
}

/// What a look under the mutex found.
struct QueueSnapshot {
    /// The waiters before us, the nearest last. Some of the farther ones may be dead.
    queue: Vec<FileName>,
    /// The FIFOs of living waiters before us, the nearest first; not more than we watch.
    before: Vec<OwnedFd>,
    /// The waiters after us.
    after: Vec<FileName>,
    /// The FIFOs of living waiters after us, the nearest first; not more than we watch.
    behind: Vec<OwnedFd>,
    /// How many permits are held.
    held: usize,
    /// Those of processes: their FIFOs, and whether they were revoked.
    permits: Vec<(OwnedFd, bool)>,
    /// When the first of the others ends.
    first_end: Option<Moment>,
    /// Permits whose holders died, and have not been replaced yet.
    dead: Vec<FileName>,
    oldest_permit: Option<FileName>,
    /// When that ends, if it was given back and stays taken.
    oldest_kept: Option<Moment>,
    newest_permit: u64,
    /// The limit that counts.
    limit: u32,
    /// The limit that counts when none is pinned.
    agreed: u32,
}

impl QueueSnapshot {
    /// None: our own files are gone.
    fn take(
        locked: &MutexGuard<'_>,
        place: Option<&QueuePlace>,
        state: StateFile,
        request: &AcquireRequest,
    ) -> io::Result<Option<Self>> {
        let Listing { waiters, passed_over, permits, kept } = locked.list()?;
        if let Some(place) = place {
            let ours = |entry: &&FileName| entry.number == place.number;
            if let Some(entry) = passed_over.iter().find(ours) {
                // We are back from having been stopped, in our old place.
                locked.rename(*entry, FileKind::Waiter)?;
            } else if !waiters.iter().any(|entry| ours(&entry)) {
                return Ok(None);
            }
        }
        let number = place.map_or(u64::MAX, |place| place.number);
        let (queue, others): (Vec<_>, Vec<_>) =
            waiters.into_iter().partition(|entry| entry.number < number);
        let mut survey = Self {
            queue,
            before: Vec::new(),
            after: others.into_iter().filter(|entry| entry.number > number).collect(),
            behind: Vec::new(),
            held: 0,
            permits: Vec::new(),
            first_end: None,
            dead: Vec::new(),
            oldest_permit: None,
            oldest_kept: None,
            newest_permit: 0,
            limit: 0,
            agreed: 0,
        };
        survey.look_before(locked)?;
        survey.look_at(TakenPermits::look(locked, permits, kept)?);
        let mut in_use = place.is_some() || !survey.before.is_empty() || survey.held > 0;
        for entry in passed_over {
            in_use = in_use || locked.probe(entry)?.is_some();
        }
        survey.agreed = if in_use && state.limit > 0 { state.limit } else { request.terms.limit };
        survey.limit = state.pinned().unwrap_or(survey.agreed);
        Ok(Some(survey))
    }

    fn look_at(&mut self, TakenPermits { taken, dead }: TakenPermits) {
        self.held = taken.len();
        self.dead = dead;
        self.oldest_permit = taken.first().map(|taken| taken.entry);
        self.oldest_kept = taken.first().and_then(|taken| match &taken.by {
            TakenBy::Record(kept) if kept.phase == HolderState::MinHold => Some(kept.end()),
            _ => None,
        });
        self.newest_permit = taken.last().map_or(0, |taken| taken.entry.number);
        for taken in taken {
            match taken.by {
                TakenBy::Processes { fifo, revoked } => self.permits.push((fifo, revoked)),
                TakenBy::Record(kept) => {
                    let end = kept.end();
                    self.first_end = Some(self.first_end.map_or(end, |first| first.min(end)));
                }
            }
        }
    }

    /// Finds the nearest living waiters before us, and forgets the dead ones.
    fn look_before(&mut self, locked: &MutexGuard<'_>) -> io::Result<()> {
        let mut alive = Vec::new();
        self.before.clear();
        while self.before.len() < WATCHED {
            let Some(entry) = self.queue.pop() else { break };
            if let Some(fifo) = locked.probe(entry)? {
                self.before.push(fifo);
                alive.push(entry);
            }
        }
        self.queue.extend(alive.into_iter().rev());
        Ok(())
    }

    /// The same with the waiters after us, unless we watch the permits anyway.
    fn look_behind(&mut self, locked: &MutexGuard<'_>) -> io::Result<()> {
        for entry in &self.after {
            if self.before.len() < WATCHED || self.behind.len() == WATCHED {
                break;
            }
            self.behind.extend(locked.probe(*entry)?);
        }
        Ok(())
    }

    /// We are new in the queue: one before us is not among the last any more, and need not watch the
    /// permits, unless it is among the first.
    fn release_dead(&self, locked: &MutexGuard<'_>) {
        let relieved = self.queue.len().checked_sub(WATCHED).filter(|at| *at >= WATCHED);
        if let Some(at) = relieved {
            locked.wake_one(self.queue[at]);
        }
    }

    fn watches_permits(&self) -> bool {
        self.before.len() < WATCHED || self.behind.len() < WATCHED
    }

    fn ahead(&self) -> usize {
        self.queue.len()
    }

    fn queue_status(&self, semaphore: &SemaphoreFiles) -> QueueStatus {
        let holder = self.oldest_permit.and_then(|permit| semaphore.owner(permit));
        let left = self.oldest_kept.map(|end| end.saturating_sub(clock::now()));
        let kept_until = left.and_then(|left| SystemTime::now().checked_add(left));
        QueueStatus {
            ahead: self.ahead(),
            held: self.held,
            holder,
            kept_until,
            ..QueueStatus::default()
        }
    }

    fn free(&self) -> bool {
        self.held < self.limit as usize
    }

    /// Whether what is free was left by dead processes, which may not have ended completely.
    fn is_of_the_dead(&self) -> bool {
        !self.dead.is_empty() && self.held + self.dead.len() >= self.limit as usize
    }

    /// A permit is free, and it is not our turn to take it: makes sure that the waiters whose turn
    /// it is are able to.
    fn see_to_the_first(
        &mut self,
        locked: &MutexGuard<'_>,
        mut patience: OvertakeTimer,
    ) -> io::Result<OvertakeTimer> {
        if locked.pass_over_stopped(&mut self.queue)? {
            patience = OvertakeTimer::begin(self);
        } else if patience.end <= Instant::now() {
            let moved = locked.pass_over_deaf(&mut self.queue, patience.told)?;
            patience = patience.go_on(self, moved);
            self.queue.iter().take(patience.told).for_each(|waiter| locked.wake_one(*waiter));
        }
        self.look_before(locked)?;
        Ok(patience)
    }
}

/// A permit is free, and it is our turn.
fn grant(
    semaphore: &Arc<SemaphoreFiles>,
    locked: &MutexGuard<'_>,
    state: &mut StateFile,
    request: &AcquireRequest,
) -> io::Result<Box<dyn Lease>> {
    if request.who.detached {
        return detached::grant(semaphore, locked, state, request);
    }
    Ok(Box::new(ProcessLease::grant(semaphore, locked, state, request)?))
}

/// A permit is free, it is another waiter's turn to take it, and it stays free. Until `end` nothing
/// is done about that.
#[derive(Clone, Copy)]
struct OvertakeTimer {
    end: Instant,
    /// How many at the front of the queue have been told.
    told: usize,
    /// The newest permit and the first waiter at that time. Others mean that the queue moves after
    /// all.
    newest_permit: u64,
    first: Option<FileName>,
}

impl OvertakeTimer {
    /// Some if a permit is free and other waiters are before us.
    fn of(survey: &QueueSnapshot, before: Option<Self>) -> Option<Self> {
        let waits = survey.free() && !survey.before.is_empty();
        let begin = Self::begin(survey);
        let stands = |before: &Self| {
            (before.newest_permit, before.first) == (begin.newest_permit, begin.first)
        };
        waits.then(|| before.filter(stands).unwrap_or(begin))
    }

    fn begin(survey: &QueueSnapshot) -> Self {
        let (end, first) = (Instant::now() + PATIENCE, survey.queue.first().copied());
        Self { end, told: 0, newest_permit: survey.newest_permit, first }
    }

    /// Each time that some were passed over, twice as many are told at once: so the rounds grow
    /// with the logarithm of the number of waiters that do not hear.
    fn go_on(self, survey: &QueueSnapshot, moved: bool) -> Self {
        let told = if moved { self.told * 2 } else { self.told.max(WATCHED + 1) };
        Self { told, ..Self::begin(survey) }
    }
}
