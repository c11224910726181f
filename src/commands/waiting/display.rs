//! What a user sees while waiting.

use std::mem;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use tokio::time::{Instant, sleep_until, timeout};

use crate::cli::messages::{Detail, Waited, WaitingText, Warning};
use crate::clock::if_any;
use crate::console::{Console, Loudness};
use crate::permits::{
    AcquireRequest, Backend, BackendError, BoxFuture, Progress, QueueStatus, SemaphoreSnapshot,
    StoreError, Withheld,
};
use crate::settings::PermitRequest;
use crate::supervise::guardian::FrontProcess;
use crate::supervise::process_tree::collect_preexisting;
use crate::supervise::signals::StopTarget;

/// How often to look at the queue for the waiting line on a terminal, and how often to redraw that
/// line: it shows times.
pub(super) const REDRAW: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_secs(1);
/// How often a log hears that we still wait.
const ALIVE: Duration = Duration::from_mins(1);

/// What a waiting user sees.
pub(super) struct WaitingDisplay<'a> {
    backend: &'a dyn Backend,
    request: &'a PermitRequest,
    acquire_request: &'a AcquireRequest,
    front_process: &'a FrontProcess,
    pub(super) console: &'a mut Console,
    /// Our standing, and when we heard it.
    queue_status: Option<(QueueStatus, Instant)>,
    /// Why no permit is granted, and when we heard that.
    withheld: Option<(Withheld, Instant)>,
    /// What keeps the backend from telling us.
    error: Option<StoreError>,
    /// When to report that again.
    next_complaint: Instant,
    /// Whether a log was told that we wait.
    pub(super) announced: bool,
    pub(super) next_look: Option<Instant>,
    /// When the waiting line is to be drawn anew.
    pub(super) next_tick: Option<Instant>,
    /// Since when we wait.
    pub(super) started: Instant,
    looking: Option<BoxFuture<'a, Result<SemaphoreSnapshot, BackendError>>>,
}

impl<'a> WaitingDisplay<'a> {
    pub(super) fn new(
        backend: &'a dyn Backend,
        request: &'a PermitRequest,
        acquire_request: &'a AcquireRequest,
        front_process: &'a FrontProcess,
        console: &'a mut Console,
    ) -> Self {
        Self {
            backend,
            request,
            acquire_request,
            front_process,
            console,
            queue_status: None,
            withheld: None,
            error: None,
            next_complaint: Instant::now(),
            announced: false,
            next_look: None,
            next_tick: None,
            started: Instant::now(),
            looking: None,
        }
    }

    /// The signal, if it ends the waiting.
    pub(super) fn on_signal(&mut self, signal: Signal) -> Option<Signal> {
        match signal {
            Signal::CHILD => {
                collect_preexisting();
                None
            }
            // By default it does nothing.
            Signal::URG => None,
            Signal::WINCH | Signal::CONT => {
                self.draw();
                None
            }
            // Only we stop ourselves, as there is no command yet. The next waiters pass us over.
            Signal::TSTP | Signal::TTIN | Signal::TTOU => {
                self.console.clear();
                self.front_process.stop_and_wait(StopTarget::Semrun);
                self.draw();
                None
            }
            // There is no command to forward it to, and by default each of these ends a process.
            _ => Some(signal),
        }
    }

    pub(super) fn on_notice(&mut self, notice: Progress) {
        let name = &self.acquire_request.name;
        match notice {
            Progress::Queued(queue_status) => {
                let now = Instant::now();
                self.withheld = queue_status.withheld.map(|why| (why, now));
                self.queue_status = Some((queue_status, now));
                self.error = None;
                self.count_down();
            }
            Progress::Withheld(why) => {
                let news = self.withheld.is_none();
                self.withheld = Some((why, Instant::now()));
                self.error = None;
                self.announced &= !news;
                self.count_down();
            }
            // A user who named no limit accepts the pinned one.
            Progress::Limit { pinned: true, .. } if !self.request.limit_given => {}
            Progress::Limit { asked, stands, pinned } => {
                self.warn(&Warning::Limit { name, asked, stands, pinned });
            }
            Progress::Ttl { .. } if !self.request.ttl_given => {}
            Progress::Ttl { asked, stands } => self.warn(&Warning::Ttl { name, asked, stands }),
            Progress::Foreign { ttl } => {
                if !self.request.ttl_given {
                    self.warn(&Warning::Foreign { name, ttl });
                }
            }
            Progress::HeldAround => self.warn(&Warning::Unproven(name)),
            Progress::Blind => self.warn(&Warning::Blind),
            Progress::Deaf { heartbeat } => self.warn(&Warning::Deaf(heartbeat)),
            Progress::Trouble { what, may_last } => {
                let now = Instant::now();
                // Only once, as long as it goes on or recurs within a minute.
                if may_last && mem::replace(&mut self.next_complaint, now + ALIVE) <= now {
                    self.warn(&Warning::Trouble { name, what: &what });
                }
                // An error while leaving is not the reason for the waiting.
                if may_last || self.error.is_none() {
                    self.error = Some(what);
                }
                self.count_down();
            }
        }
    }

    /// What kept us from a permit that was free, or from knowing of one.
    pub(super) fn obstacle(&mut self) -> Option<StoreError> {
        let withheld = self.withheld().map(StoreError::Withheld);
        self.error.take().or(withheld)
    }

    /// Why no permit is granted, if that is still so.
    fn withheld(&self) -> Option<Withheld> {
        let (why, told) = self.withheld?;
        let Withheld::Quarantine(left) = why else { return Some(why) };
        let left = left.checked_sub(told.elapsed()).filter(|left| !left.is_zero());
        left.map(Withheld::Quarantine)
    }

    /// With `-v`, so that a log names the holders.
    pub(super) async fn say_who_holds(&mut self) {
        /// How long the line may take, as it is not essential.
        const LOOKING: Duration = Duration::from_secs(2);
        if self.console.says(Loudness::Verbose)
            && let Ok(Ok(snapshot)) =
                timeout(LOOKING, self.backend.observe(&self.acquire_request.name)).await
        {
            self.console.say(Loudness::Verbose, Detail::Busy(&snapshot));
        }
    }

    fn warn(&mut self, warning: &Warning<'_>) {
        self.console.say(Loudness::Normal, warning);
        self.draw();
    }

    /// How things stand has just been told.
    fn count_down(&mut self) {
        if self.backend.pushes_queue_status()
            && self.next_look.is_some_and(|next| Instant::now() >= next)
        {
            self.announced = false;
        }
        self.show();
    }

    /// Looks at the queue when it is time to: a waiter far back in it is not told when it moves.
    pub(super) async fn looking(&mut self) -> Result<SemaphoreSnapshot, BackendError> {
        if self.backend.pushes_queue_status() {
            return std::future::pending().await;
        }
        if self.looking.is_none() {
            if_any(self.next_look.map(sleep_until)).await;
            self.looking = Some(self.backend.observe(&self.acquire_request.name));
        }
        if_any(self.looking.as_mut()).await
    }

    pub(super) fn on_look(&mut self, snapshot: Result<SemaphoreSnapshot, BackendError>) {
        self.looking = None;
        // Ignore errors here; acquiring reports them.
        let queue_status =
            snapshot.ok().and_then(|snapshot| QueueStatus::of(&snapshot, self.acquire_request.id));
        let told = queue_status.map(|queue_status| (queue_status, Instant::now()));
        if let Some((queue_status, now)) = &told {
            self.withheld = queue_status.withheld.map(|why| (why, *now));
        }
        self.queue_status = told.or(self.queue_status.take());
        self.announced = false;
        self.show();
    }

    fn show(&mut self) {
        if !self.console.says(Loudness::Normal) {
            return;
        }
        if self.console.redraws() {
            self.draw();
            self.next_look = Some(Instant::now() + REDRAW);
        } else if !self.announced {
            self.announced = true;
            if let Some(waiting) = self.waiting() {
                let line = waiting.to_string();
                self.console.say(Loudness::Normal, line);
            }
            self.next_look = Some(Instant::now() + ALIVE);
        }
    }

    pub(super) fn draw(&mut self) {
        if let Some(waiting) = self.waiting() {
            let lines = waiting.lines();
            self.console.draw(&lines);
            self.next_tick = self.console.redraws().then(|| Instant::now() + TICK);
        }
    }

    fn waiting(&self) -> Option<WaitingText<'_>> {
        let (queue_status, withheld) =
            (self.queue_status.as_ref().map(|(told, _)| told), self.withheld());
        if queue_status.is_none() && withheld.is_none() {
            return None;
        }
        let (error, now) = (self.error.as_ref(), SystemTime::now());
        let waited = self.started.elapsed();
        Some(WaitingText {
            name: &self.acquire_request.name,
            waited,
            queue_status,
            withheld,
            error,
            now,
        })
    }

    /// Clears the waiting line, or reports the end in a log.
    pub(super) fn end(&mut self, waited: &Waited<'_>) {
        self.console.clear();
        let told = self.queue_status.is_some() || self.withheld.is_some();
        if told && !self.console.redraws() {
            self.console.say(Loudness::Normal, waited);
        }
    }
}
