//! Waiting in turn for a permit of one local semaphore. Everything is decided under the mutex by
//! the process that it concerns, after a fresh look; what wakes a waiter is only a hint.
//!
//! A waiter watches those before it, and the first few watch the permits: a FIFO becomes readable
//! when its owner writes and hangs up when the last process that has it open is gone, after the
//! kernel has given up its lock. So an idle waiter sleeps without a timer, and a death is as
//! quick as a release.

mod sleeping;

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use self::sleeping::Queued;
use super::entries::{Entry, Kind, Listing, State};
use super::files::{ForMutex, Locked, Semaphore};
use super::held::Unclaimed;
use super::taken::{By, Permits};
use super::{detached, exits};
use crate::backends::{Acquired, Ask, Lease, Notice, Standing, Turn};
use crate::clock::Moment;
use crate::kernel::raise_open_files_limit;
use crate::mutants::{self, Guard};

/// How many of those before it a waiter watches. One with fewer before it watches the permits
/// too: so many waiters learn of a free permit, and all but one of them may be stopped.
pub(super) const WATCHED: usize = 3;

/// How long each of those before us may have a free permit to itself before we look whether it
/// is stopped. Long against a hand-over, so that the next in line meets no crowd at the mutex.
const COURTESY: Duration = Duration::from_millis(50);

/// How long a free permit is left to each of those who are told of it and who are before us,
/// if they do not look stopped and still do not take it: frozen with their container, perhaps.
/// Long against the delays of a busy machine.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long somebody who is not in the queue yet tries on when the disk is full, say.
const TRY_ON: Duration = Duration::from_secs(5);

/// How often that is tried.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// Another limit is in force, and `--strict-limit` takes no other.
pub(super) struct Differs {
    pub(super) stands: u32,
    pub(super) pinned: bool,
}

/// Waits until a permit is ours. None: somebody deleted the files; start again with new ones.
pub(super) async fn take_turn(
    semaphore: Rc<Semaphore>,
    ask: &Ask,
    turn: &Turn,
) -> io::Result<Option<Result<Acquired, Differs>>> {
    // To watch as many permits as can be; the command gets the original limit.
    raise_open_files_limit();
    let give_up = Instant::now() + TRY_ON;
    let mut turn = Queueing { semaphore, ask, turn, place: None, patience: None, told: None };
    loop {
        match turn.advance().await {
            Ok(Step::Acquired(acquired)) => return Ok(Some(Ok(acquired))),
            Ok(Step::Differs(differs)) => return Ok(Some(Err(differs))),
            Ok(Step::Deleted) => return Ok(None),
            Ok(Step::LookAgain) => {}
            Err(error) if passes(&error) && turn.tries_on(give_up) => {
                let may_last = turn.place.is_some();
                turn.turn.tell(Notice::Trouble { what: error.to_string(), may_last });
                sleep(TRY_AGAIN).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// One run through the queue.
struct Queueing<'a> {
    semaphore: Rc<Semaphore>,
    ask: &'a Ask,
    turn: &'a Turn,
    place: Option<Queued>,
    patience: Option<Patience>,
    /// The limit that was told last.
    told: Option<u32>,
}

enum Step {
    Acquired(Acquired),
    Deleted,
    /// Another limit stands, and the one who asks wants no other.
    Differs(Differs),
    /// Something has happened that may make it our turn.
    LookAgain,
}

impl Queueing<'_> {
    /// Looks, takes what is ours, and otherwise waits for something to happen.
    async fn advance(&mut self) -> io::Result<Step> {
        let Self { semaphore, ask, turn, .. } = self;
        let for_mutex = if ask.nonblock { ForMutex::Bounded } else { ForMutex::Endless(turn) };
        let Some(locked) = semaphore.lock(for_mutex).await? else { return Ok(Step::Deleted) };
        let state = locked.state()?;
        let survey = Survey::take(semaphore, &locked, self.place.as_ref(), state, ask)?;
        let Some(mut survey) = survey else { return Ok(Step::Deleted) };
        let Survey { limit: stands, agreed, .. } = survey;
        let pinned = state.pinned().is_some();
        if stands != ask.limit && ask.strict && self.place.is_none() {
            return Ok(Step::Differs(Differs { stands, pinned }));
        }
        if stands != ask.limit && self.told != Some(stands) {
            self.told = Some(stands);
            turn.tell(Notice::Limit { asked: ask.limit, stands, pinned });
        }
        self.patience = Patience::of(&survey, self.patience, self.place.is_none());
        if survey.free() && !survey.before.is_empty() {
            let moved = survey.pass_over_unresponsive(&locked, self.patience)?;
            if moved {
                // Whoever is first now has just been told.
                self.patience = Patience::of(&survey, None, self.place.is_none());
            }
        }
        let mut state = State { limit: agreed, ..state };
        if survey.free() && survey.before.is_empty() {
            let lease = survey.grant(semaphore, locked, &mut state, ask).await?;
            return Ok(Step::Acquired(Acquired::Granted(lease)));
        }
        if ask.nonblock {
            return Ok(Step::Acquired(Acquired::Busy));
        }
        let place = match &mut self.place {
            Some(place) => place,
            none => none.insert(Queued::enter(semaphore, &locked, &mut state, ask)?),
        };
        drop(locked);
        turn.tell(Notice::Queued(survey.standing(semaphore)));
        place.wait(survey, self.patience).await?;
        Ok(Step::LookAgain)
    }

    /// Whether to bear with an error that may pass: in the queue as long as we may wait, before
    /// it for a while.
    fn tries_on(&self, give_up: Instant) -> bool {
        self.place.is_some() || (!self.ask.nonblock && Instant::now() < give_up)
    }
}

/// Errors of the moment: others may free what is missing.
fn passes(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let storage = error.kind() == io::ErrorKind::StorageFull;
    storage
        || matches!(
            Errno::from_io_error(error),
            Some(Errno::DQUOT | Errno::NFILE | Errno::NOMEM | Errno::AGAIN)
        )
}

/// What a look under the mutex found.
struct Survey {
    /// Those before us in the queue, the nearest last. Some of the farther ones may be dead.
    queue: Vec<Entry>,
    /// The FIFOs of those before us who live, the nearest first; not more than we watch.
    before: Vec<OwnedFd>,
    /// How many permits are held.
    held: usize,
    /// Those to watch of them, if we are to: their FIFOs, and whether they were evicted.
    permits: Vec<(OwnedFd, bool)>,
    /// When the first of the others ends that we are to watch.
    first_end: Option<Moment>,
    /// Permits whose holders died, and have not been replaced yet.
    dead: Vec<Entry>,
    oldest_permit: Option<Entry>,
    newest_permit: u64,
    /// The limit that counts.
    limit: u32,
    /// The limit that counts when none is pinned.
    agreed: u32,
}

impl Survey {
    /// None: our own files are gone.
    fn take(
        semaphore: &Semaphore,
        locked: &Locked<'_>,
        place: Option<&Queued>,
        state: State,
        ask: &Ask,
    ) -> io::Result<Option<Self>> {
        let Listing { waiters, passed_over, permits, kept } = semaphore.list()?;
        if let Some(place) = place {
            let ours = |entry: &&Entry| entry.number == place.number;
            if let Some(entry) = passed_over.iter().find(ours) {
                // We are back from having been stopped, in our old place.
                locked.rename(*entry, Kind::Waiter)?;
            } else if !waiters.iter().any(|entry| ours(&entry)) {
                return Ok(None);
            }
        }
        let number = place.map_or(u64::MAX, |place| place.number);
        let queue = waiters.into_iter().filter(|entry| entry.number < number).collect();
        let mut survey = Self {
            queue,
            before: Vec::new(),
            held: 0,
            permits: Vec::new(),
            first_end: None,
            dead: Vec::new(),
            oldest_permit: None,
            newest_permit: 0,
            limit: 0,
            agreed: 0,
        };
        survey.look_before(locked)?;
        let watches = !ask.nonblock && !mutants::is_off(Guard::WakeUp);
        survey.look_at(Permits::look(locked, permits, kept)?, watches);
        let mut in_use = place.is_some() || !survey.before.is_empty() || survey.held > 0;
        for entry in passed_over {
            in_use = in_use || locked.probe(entry)?.is_some();
        }
        survey.agreed = if in_use && state.limit > 0 { state.limit } else { ask.limit };
        survey.limit = state.pinned().unwrap_or(survey.agreed);
        Ok(Some(survey))
    }

    fn look_at(&mut self, Permits { taken, dead }: Permits, watches: bool) {
        let watches = watches && self.before.len() < WATCHED;
        self.held = taken.len();
        self.dead = dead;
        self.oldest_permit = taken.first().map(|taken| taken.entry);
        self.newest_permit = taken.last().map_or(0, |taken| taken.entry.number);
        for taken in taken.into_iter().filter(|_| watches) {
            match taken.by {
                By::Processes { fifo, evicted } => self.permits.push((fifo, evicted)),
                By::Record(kept) => {
                    let end = kept.end();
                    self.first_end = Some(self.first_end.map_or(end, |first| first.min(end)));
                }
            }
        }
    }

    /// Finds the nearest of those before us who live, and forgets the dead it meets.
    fn look_before(&mut self, locked: &Locked<'_>) -> io::Result<()> {
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

    fn ahead(&self) -> usize {
        self.queue.len()
    }

    fn standing(&self, semaphore: &Semaphore) -> Standing {
        let holder = self.oldest_permit.and_then(|permit| semaphore.record(permit));
        Standing { ahead: self.ahead(), held: self.held, holder, paused: None }
    }

    fn free(&self) -> bool {
        self.held < self.limit as usize
    }

    /// A permit is free, and it is our turn.
    async fn grant(
        &self,
        semaphore: &Rc<Semaphore>,
        locked: Locked<'_>,
        state: &mut State,
        ask: &Ask,
    ) -> io::Result<Box<dyn Lease>> {
        let remove_dead = || self.dead.iter().for_each(|entry| semaphore.remove(*entry));
        if ask.who.detached {
            // Under the mutex, which takes a moment longer for others then: from the grant on nothing
            // may call it off, because nothing but somebody's will ends it.
            if !self.dead.is_empty() {
                exits::complete().await;
            }
            let lease = detached::grant(semaphore, &locked, state, ask)?;
            remove_dead();
            return Ok(lease);
        }
        let held = Unclaimed::grant(semaphore, &locked, state, ask)?;
        remove_dead();
        drop(locked);
        if !self.dead.is_empty() {
            exits::complete().await;
        }
        Ok(Box::new(held.claim()))
    }

    /// A permit is free, and it is not our turn to take it: makes sure that those whose turn it
    /// is are able to. False: there was nothing to do about them.
    fn pass_over_unresponsive(
        &mut self,
        locked: &Locked<'_>,
        patience: Option<Patience>,
    ) -> io::Result<bool> {
        let mut moved = locked.pass_over_stopped(&mut self.queue)?;
        let ahead = self.ahead();
        if !moved && patience.is_some_and(|patience| patience.end(ahead) <= Instant::now()) {
            // These were told, and those behind them can have their chance.
            moved |= locked.pass_over(&mut self.queue, ahead.min(WATCHED))?;
        }
        self.look_before(locked)?;
        Ok(moved)
    }
}

/// A permit is free, it is somebody else's turn to take it, and it stays free.
#[derive(Clone, Copy)]
struct Patience {
    since: Instant,
    /// The newest permit then. A newer one means that the queue moves after all.
    newest_permit: u64,
}

impl Patience {
    /// Those have it who learn of a free permit: the first few, and whoever just came.
    fn of(survey: &Survey, before: Option<Self>, just_came: bool) -> Option<Self> {
        let newest_permit = survey.newest_permit;
        let learns = before.is_some() || just_came || survey.before.len() < WATCHED;
        let waits = survey.free() && !survey.before.is_empty();
        let same = before.filter(|before| before.newest_permit >= newest_permit);
        (learns && waits).then(|| same.unwrap_or(Self { since: Instant::now(), newest_permit }))
    }

    fn end(self, ahead: usize) -> Instant {
        let turns = u32::try_from(ahead.min(WATCHED) + 1).unwrap_or(u32::MAX);
        self.since + PATIENCE * turns
    }
}
