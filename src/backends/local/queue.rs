//! Waiting in turn for a permit of one local semaphore. Everything is decided under the mutex by
//! the process that it concerns, after a fresh look; what wakes a waiter is only a hint.
//!
//! A waiter watches those before it, and the first few watch the permits: a FIFO becomes readable
//! when its owner writes and hangs up when the last process that has it open is gone, after the
//! kernel has given up its lock. So an idle waiter sleeps without a timer, and a death is as
//! quick as a release.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep, sleep_until};

use super::Held;
use super::files::{self, Entry, Kind, Listing, Locked, Semaphore, State};
use crate::backends::{Acquired, Ask, Notice, Permit, Record, Standing, Turn};
use crate::kernel::watch;

/// How many of those before it a waiter watches. One with fewer before it watches the permits
/// too: so many waiters learn of a free permit, and all but one of them may be stopped.
const WATCHED: usize = 3;

/// How long each of those before us may have a free permit to itself before we look whether it
/// is stopped. Long against a hand-over, so that the next in line meets no crowd at the mutex.
const COURTESY: Duration = Duration::from_millis(50);

/// How long a free permit is left to each of those before us that does not look stopped and
/// still does not take it: frozen with its container, perhaps. Long against a busy machine.
const PATIENCE: Duration = Duration::from_secs(1);

/// Waits until a permit is ours. None: somebody deleted the files; start again with new ones.
pub(super) async fn take_turn(
    semaphore: Rc<Semaphore>,
    ask: &Ask,
    turn: &Turn,
) -> io::Result<Option<Acquired>> {
    let mut place: Option<Queued> = None;
    let mut patience: Option<Patience> = None;
    let mut warned = false;
    let for_mutex =
        if ask.nonblock { files::ForMutex::Bounded } else { files::ForMutex::Endless(turn) };
    loop {
        let Some(locked) = semaphore.lock(for_mutex).await? else {
            return Ok(None);
        };
        let state = locked.state()?;
        let Some(mut survey) = Survey::take(&locked, place.as_ref(), state, ask)? else {
            return Ok(None);
        };
        if survey.limit != ask.limit && !warned {
            warned = true;
            turn.tell(Notice::Limit { asked: ask.limit, stands: survey.limit });
        }
        patience = Patience::of(&survey, patience);
        if let Some(patience) = patience {
            survey.pass_over_unresponsive(&locked, patience)?;
        }
        let mut state = State { limit: survey.limit, ..state };
        if survey.free() && survey.before.is_empty() {
            let held = grant(&semaphore, &locked, &mut state, ask)?;
            return Ok(Some(Acquired::Granted(Box::new(held))));
        }
        if ask.nonblock {
            return Ok(Some(Acquired::Busy));
        }
        let place = match &mut place {
            Some(place) => place,
            none => none.insert(Queued::enter(&semaphore, &locked, &mut state, ask)?),
        };
        drop(locked);
        turn.tell(Notice::Queued(survey.standing(&semaphore)));
        place.wait(survey, patience).await?;
    }
}

fn grant(
    semaphore: &Rc<Semaphore>,
    locked: &Locked<'_>,
    state: &mut State,
    ask: &Ask,
) -> io::Result<Held> {
    let token = state.next();
    locked.set_state(*state)?;
    let entry = Entry::new(Kind::Permit, token);
    let fifo = locked.create(entry, &Record::new(ask))?;
    let permit = Permit { id: ask.id, name: ask.name.clone(), token };
    Ok(Held { permit, semaphore: Rc::clone(semaphore), entry, fifo })
}

/// Our place in the queue. Dropping it leaves the queue, and needs no mutex for that.
struct Queued {
    semaphore: Rc<Semaphore>,
    number: u64,
    fifo: AsyncFd<OwnedFd>,
}

impl Queued {
    fn enter(
        semaphore: &Rc<Semaphore>,
        locked: &Locked<'_>,
        state: &mut State,
        ask: &Ask,
    ) -> io::Result<Self> {
        let number = state.next();
        locked.set_state(*state)?;
        let entry = Entry::new(Kind::Waiter, number);
        let fifo = locked.create(entry, &Record::new(ask))?;
        let fifo = watch(fifo, Interest::READABLE).inspect_err(|_| semaphore.remove(entry))?;
        Ok(Self { semaphore: Rc::clone(semaphore), number, fifo })
    }

    /// Sleeps until something has happened that may make it our turn.
    async fn wait(&mut self, survey: Survey, patience: Option<Patience>) -> io::Result<()> {
        let ahead = survey.ahead();
        let watches_permits = survey.before.len() < WATCHED;
        // Of those before us only the hang-up counts, which every interest includes: a byte in
        // their FIFO is for them.
        let before = survey.before.into_iter().map(|fifo| watch(fifo, Interest::PRIORITY));
        let before = before.collect::<io::Result<Vec<_>>>()?;
        let permits = survey.permits.into_iter().filter(|_| watches_permits);
        let permits = permits.map(|fifo| watch(fifo, Interest::READABLE));
        let permits = permits.collect::<io::Result<Vec<_>>>()?;
        let fifo = &self.fifo;
        let concerns_us = || {
            std::future::poll_fn(|context| {
                let before = before.iter().any(|fifo| hung_up(fifo, context));
                if before || poked(fifo, context) { Poll::Ready(()) } else { Poll::Pending }
            })
        };
        let permit_is_free = std::future::poll_fn(|context| {
            let free = permits.iter().any(|fifo| fifo.poll_read_ready(context).is_ready());
            if free { Poll::Ready(()) } else { Poll::Pending }
        });
        let out_of_patience = async {
            match patience {
                Some(patience) => sleep_until(patience.next_look()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = concerns_us() => {}
            () = out_of_patience => {}
            () = permit_is_free => {
                if ahead > 0 {
                    let courtesy = COURTESY.saturating_mul(u32::try_from(ahead).unwrap_or(u32::MAX));
                    tokio::select! {
                        () = concerns_us() => {}
                        () = sleep(courtesy) => {}
                    }
                }
            }
        }
        Ok(())
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        for kind in [Kind::Waiter, Kind::PassedOver] {
            self.semaphore.remove(Entry::new(kind, self.number));
        }
    }
}

/// What a look under the mutex found.
struct Survey {
    /// Those before us in the queue, the nearest last. Some of the farther ones may be dead.
    queue: Vec<Entry>,
    /// The FIFOs of those before us who live, the nearest first; not more than we watch.
    before: Vec<OwnedFd>,
    /// The FIFOs of the permits that are held.
    permits: Vec<OwnedFd>,
    oldest_permit: Option<Entry>,
    newest_permit: u64,
    limit: u32,
}

impl Survey {
    /// None: our own files are gone.
    fn take(
        locked: &Locked<'_>,
        place: Option<&Queued>,
        state: State,
        ask: &Ask,
    ) -> io::Result<Option<Self>> {
        let Listing { waiters, passed_over, permits } = locked.list()?;
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
            permits: Vec::new(),
            oldest_permit: None,
            newest_permit: 0,
            limit: 0,
        };
        survey.look_before(locked)?;
        allow_descriptors(permits.len());
        for entry in permits {
            if let Some(fifo) = locked.probe(entry)? {
                survey.permits.push(fifo);
                survey.oldest_permit.get_or_insert(entry);
                survey.newest_permit = entry.number;
            }
        }
        let in_use = place.is_some() || !survey.before.is_empty() || !survey.permits.is_empty();
        survey.limit = if in_use && state.limit > 0 { state.limit } else { ask.limit };
        Ok(Some(survey))
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
        Standing { ahead: self.ahead(), held: self.permits.len(), holder }
    }

    fn free(&self) -> bool {
        self.permits.len() < self.limit as usize
    }

    /// A permit is free and somebody before us does not take it.
    fn pass_over_unresponsive(
        &mut self,
        locked: &Locked<'_>,
        patience: Patience,
    ) -> io::Result<()> {
        let over = if patience.is_over(self.ahead()) {
            self.queue.clone()
        } else {
            locked.stopped(&self.queue)
        };
        for entry in &over {
            locked.rename(*entry, Kind::PassedOver)?;
            // When it runs again it finds this in its FIFO and takes its place back.
            locked.poke(Entry { kind: Kind::PassedOver, ..*entry });
        }
        self.queue.retain(|entry| !over.contains(entry));
        if patience.is_running() {
            for entry in &self.queue {
                locked.poke(*entry);
            }
        }
        self.look_before(locked)
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
    fn of(survey: &Survey, before: Option<Self>) -> Option<Self> {
        let newest_permit = survey.newest_permit;
        let waits = survey.free() && !survey.before.is_empty();
        let same = before.filter(|before| before.newest_permit >= newest_permit);
        waits.then(|| same.unwrap_or(Self { since: Instant::now(), newest_permit }))
    }

    fn next_look(self) -> Instant {
        let rounds = self.since.elapsed().as_secs() / PATIENCE.as_secs() + 1;
        self.since + PATIENCE * u32::try_from(rounds).unwrap_or(u32::MAX)
    }

    fn is_running(self) -> bool {
        self.since.elapsed() >= PATIENCE
    }

    fn is_over(self, ahead: usize) -> bool {
        self.since.elapsed().as_secs() / PATIENCE.as_secs() > ahead as u64
    }
}

fn hung_up(fifo: &AsyncFd<OwnedFd>, context: &mut Context<'_>) -> bool {
    // poll_read_ready() asks for READABLE, which a hang-up includes whatever was registered.
    fifo.poll_read_ready(context).is_ready()
}

/// Whether somebody wrote into our own FIFO; empties it.
fn poked(fifo: &AsyncFd<OwnedFd>, context: &mut Context<'_>) -> bool {
    let Poll::Ready(Ok(mut ready)) = fifo.poll_read_ready(context) else {
        return false;
    };
    let mut bytes = [0; 64];
    while rustix::io::read(fifo, &mut bytes).is_ok_and(|length| length > 0) {}
    ready.clear_ready();
    true
}

/// Makes room for the descriptors of `permits` FIFOs. The command gets the original limit.
fn allow_descriptors(permits: usize) {
    let needed = permits as u64 + 64;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < needed) {
        let raised = maximum.map_or(needed, |maximum| maximum.min(needed));
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum });
    }
}
