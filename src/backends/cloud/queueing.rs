//! Waiting for a permit of a cloud-semaphore server, whichever kind it turns out to be.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::ghosts;
use super::link::{Answer, Link, unexpected};
use super::node::{self, Observed, Place, Whose};
use super::ours::Grip;
use super::wire::{ABOUT, ASK_HEADER, Asking, Outcome, SILENCE, Told, ascii_json, millis};
use super::{LEAVING, OBSERVE, Shared, understood};
use crate::backends::error::{Attempt, Lack, StoreError};
use crate::backends::leased::Leased;
use crate::backends::retry::{Before, CONNECTING, Pause, TRY_ON, within};
use crate::backends::{
    Acquired, Ask, Cancel, Error, Lease, Notice, Permit, Standing, Tenure, Turn,
};
use crate::clock::{self, Moment};
use crate::mutants::{self, Guard};

const REGISTER: &str = "/semaphore/register";

/// A shorter wait is not reported.
const QUICK: Duration = Duration::from_millis(100);

/// A client that asks, until it has a permit.
pub(super) struct Queueing<'a> {
    shared: Rc<Shared>,
    ask: &'a Ask,
    turn: &'a Turn,
    /// Whether one of our servers may know of us.
    asked: bool,
    /// Whether a request was ever answered.
    outcome: bool,
    /// Whether we are in a queue, or were.
    queued: bool,
    /// Our place in the queue of one of our servers.
    ticket: u64,
    /// The seal that proves that it is ours.
    seal: String,
    /// Our place in the queue of the other kind.
    place: Option<Place>,
    /// Whether we are taking one, which must not be interrupted.
    taking: Rc<Cell<bool>>,
    /// Our identities in places of that kind that we lost sight of.
    ghosts: Vec<Uuid>,
    told: (u32, Duration),
    /// How long a question may take now.
    time: Duration,
}

/// The result of one attempt.
enum Step {
    Done(Acquired),
    /// In the queue of one of our servers, as long as this answer is not at its end.
    Waiting(Link, Answer),
    /// In the queue of the other kind, as it stood a moment ago.
    Placed(Place, Standing),
}

impl<'a> Queueing<'a> {
    pub(super) fn new(shared: Rc<Shared>, ask: &'a Ask, turn: &'a Turn) -> Self {
        Self {
            shared,
            ask,
            turn,
            asked: false,
            outcome: false,
            queued: false,
            ticket: 0,
            seal: String::new(),
            place: None,
            taking: Rc::default(),
            ghosts: Vec::new(),
            told: (ask.limit, ask.ttl),
            time: CONNECTING,
        }
    }

    /// Waits in turn, unless it is called off.
    pub(super) async fn run(mut self, mut cancel: Cancel) -> Result<Acquired, Error> {
        let taking = Rc::clone(&self.taking);
        let mut leaving = LEAVING;
        let done = {
            let mut advancing = Box::pin(self.advance());
            tokio::select! {
                biased;
                done = &mut advancing => Some(done),
                () = cancel.cancelled() => {
                    // A place that is taken can be left, one that is half taken cannot.
                    let taken = async {
                        while taking.get() {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                    };
                    let since = Instant::now();
                    let done = timeout(LEAVING, async {
                        tokio::select! {
                            biased;
                            done = &mut advancing => Some(done),
                            () = taken => None,
                        }
                    });
                    let done = done.await.unwrap_or(None);
                    leaving = leaving.saturating_sub(since.elapsed()).max(LEAVING / 8);
                    done
                }
            }
        };
        match done {
            Some(Ok(acquired)) => Ok(acquired),
            Some(Err(error)) => {
                let _ = self.leave(leaving).await;
                Err(error)
            }
            None => {
                let left = self.leave(leaving).await;
                let trouble = left.err().or((!self.outcome).then_some(StoreError::Silent));
                if let Some(trouble) = trouble {
                    self.turn.tell(Notice::Trouble { what: trouble, may_last: false });
                }
                Ok(Acquired::Cancelled)
            }
        }
    }

    async fn advance(&mut self) -> Result<Acquired, Error> {
        let mut pause = Pause::new();
        let give_up = Instant::now() + TRY_ON;
        let mut link = None;
        let mut before = Before::default();
        let mut quick = 0;
        loop {
            let since = clock::now();
            let left = give_up.saturating_duration_since(Instant::now());
            self.time = if self.queued { CONNECTING } else { CONNECTING.min(left) };
            let step = self.step(since, link.take()).await;
            self.taking.set(false);
            self.outcome = true;
            if step.is_ok() {
                before = Before::default();
            }
            let waited = match step {
                Ok(Step::Done(acquired)) => return Ok(acquired),
                Ok(Step::Waiting(link, answer)) => {
                    let since = Instant::now();
                    let waited = wait(link, answer).await;
                    // If a server ends every wait at once, we pause between requests.
                    quick = if since.elapsed() < QUICK { quick + 1 } else { 0 };
                    if quick > 3 {
                        pause.sleep().await;
                    } else {
                        pause = Pause::new();
                    }
                    waited.map(Some)
                }
                Ok(Step::Placed(place, standing)) => {
                    let since = Instant::now();
                    self.place = Some(place);
                    let granted = Box::pin(self.granted(standing)).await;
                    if since.elapsed() > Duration::from_secs(2) {
                        pause = Pause::new();
                    }
                    match granted {
                        Ok(link) => {
                            self.shared.idle.replace(Some(link));
                            return Ok(Acquired::Granted(self.lease()));
                        }
                        Err(trouble) => {
                            self.ghosts.extend(self.place.take().map(|place| place.id));
                            Err(trouble)
                        }
                    }
                }
                Err(trouble) => Err(trouble),
            };
            match waited {
                Ok(again) => link = again,
                Err(trouble) => {
                    let again = before.any();
                    let trouble = before.or(trouble, self.time);
                    let queued = self.queued;
                    let over =
                        trouble.is_final() || (trouble.lasts() && !queued) || self.ask.nonblock;
                    if !over {
                        let what = trouble.clone();
                        self.turn.tell(Notice::Trouble { what, may_last: queued && again });
                    }
                    if over || !pause.sleep_while(queued, give_up).await {
                        return Err(self.error(trouble));
                    }
                }
            }
        }
    }

    /// Asks once; each question has to be answered soon. Over a connection that is there already the
    /// server is one of ours.
    async fn step(&mut self, since: Moment, link: Option<Link>) -> Result<Step, StoreError> {
        let shared = Rc::clone(&self.shared);
        if let Some(link) = link
            && let Some(mut link) = link.if_idle().await
        {
            let answer = self.register(&mut link).await?;
            return self.understand(since, link, answer).await;
        }
        let mut link = within(self.time, shared.dialler.dial()).await?;
        let beyond = beyond_the_original(self.ask);
        if beyond.is_some() || self.ask.nonblock {
            // A server of the other kind remembers every client that registers, so we look first.
            let theirs = within(self.time, self.look_if_original(&mut link)).await?;
            if theirs.is_some()
                && let Some(lack) = beyond
            {
                return Err(StoreError::Original(lack));
            }
            if theirs.is_some_and(|theirs| !theirs.is_free()) {
                return Ok(Step::Done(Acquired::Busy));
            }
        }
        let answer = self.register(&mut link).await?;
        self.understand(since, link, answer).await
    }

    /// How the semaphore stands in a server of the original kind. One of ours is not asked that: it
    /// would list every holder.
    async fn look_if_original(&self, link: &mut Link) -> Result<Option<Observed>, StoreError> {
        let dialler = &self.shared.dialler;
        let answer = link.ask(dialler.request(ABOUT, "")).await?;
        let ours = answer.ours;
        link.read(answer).await?;
        if ours {
            return Ok(None);
        }
        self.shared.tell_apart(link).await?;
        let answer = link.ask(dialler.request(OBSERVE, self.ask.name.as_str())).await?;
        if answer.status != StatusCode::OK {
            return Err(unexpected(answer.status, OBSERVE));
        }
        Observed::parse(&link.read(answer).await?).map(Some)
    }

    async fn register(&mut self, link: &mut Link) -> Result<Answer, StoreError> {
        let asking = Asking {
            id: self.ask.id,
            limit: self.ask.limit,
            ttl_ms: millis(self.ask.ttl),
            ticket: self.ticket,
            seal: self.seal.clone(),
            nonblock: self.ask.nonblock,
            strict: self.ask.strict,
            min_hold_ms: millis(self.ask.min_hold),
            who: self.ask.who.clone(),
        };
        let request = self.shared.dialler.request(REGISTER, self.ask.name.as_str());
        self.asked = true;
        // A server of the other kind remembers every identity that it gave out, until its place has
        // been taken and left.
        self.taking.set(true);
        let request = request.header(ASK_HEADER, ascii_json(&asking));
        let answer = within(self.time, link.ask(request)).await?;
        if answer.status != StatusCode::OK {
            return Err(unexpected(answer.status, REGISTER));
        }
        Ok(answer)
    }

    async fn understand(
        &mut self,
        since: Moment,
        mut link: Link,
        mut answer: Answer,
    ) -> Result<Step, StoreError> {
        if !answer.ours {
            self.asked = false;
            let id = within(self.time, link.read(answer)).await?;
            let id = std::str::from_utf8(&id).ok().and_then(|id| Uuid::parse_str(id).ok());
            let id = id.ok_or(StoreError::NoIdentities)?;
            // Boxed, like what follows: only this case needs the room for it.
            return Box::pin(self.take_place(id, link)).await;
        }
        self.taking.set(false);
        let text = within(self.time, link.line(&mut answer)).await?;
        let told = understood::<Told>(&text)?.believed()?;
        self.tell(&told);
        Ok(match told.outcome {
            Outcome::Holding => {
                let off = mutants::is_off(Guard::DeadlineFromRequest);
                let since = if off { clock::now() } else { since };
                let tenure = Tenure { since, ttl: self.told.1, trouble: None };
                let (id, name) = (self.ask.id, self.ask.name.clone());
                let permit = Permit { id, name, token: Some(told.token) };
                if within(self.time, link.read(answer)).await.is_ok() {
                    self.shared.idle.replace(Some(link));
                }
                let grip = Grip {
                    shared: Rc::clone(&self.shared),
                    name: permit.name.clone(),
                    id: permit.id,
                    server: told.server,
                };
                Step::Done(Acquired::Granted(Box::new(Leased::new(permit, tenure, grip))))
            }
            Outcome::Busy => match told.withheld() {
                Some(why) => return Err(StoreError::Withheld(why)),
                None => Step::Done(Acquired::Busy),
            },
            Outcome::Revoking | Outcome::Lost => return Err(StoreError::Withdrawn),
            Outcome::Differs => {
                return Err(StoreError::differs(self.ask, told.limit, told.pinned, self.told.1));
            }
            Outcome::Waiting => {
                self.queued = true;
                self.turn.tell(Notice::Queued(told.standing()));
                (self.ticket, self.seal) = (told.ticket, told.seal);
                Step::Waiting(link, answer)
            }
        })
    }

    /// Takes a place in the queue of a server of the other kind.
    async fn take_place(&mut self, id: Uuid, link: Link) -> Result<Step, StoreError> {
        let taken = Place::take(&self.shared, &self.ask.name, id, link, self.time).await;
        self.taking.set(false);
        let (mut place, standing) = taken?;
        if self.ask.nonblock {
            // Another client may have been faster, and then we leave again.
            let granted = within(TRY_ON, self.granted_or_behind(&mut place)).await;
            if granted?.is_none() {
                place.leave(LEAVING).await;
                return Ok(Step::Done(Acquired::Busy));
            }
            self.place = Some(place);
            return Ok(Step::Done(Acquired::Granted(self.lease())));
        }
        self.queued = true;
        Ok(Step::Placed(place, standing))
    }

    /// Waits for the permit in the place that we have taken. Says so, unless it is there at once.
    async fn granted(&mut self, standing: Standing) -> Result<Link, StoreError> {
        let place = self.place.as_mut().expect("just taken");
        let mut standing = standing;
        if standing == Standing::default() {
            // It was free; another client may have been faster.
            if let Ok(granted) = timeout(QUICK, place.granted()).await {
                return granted;
            }
            standing.held = 1;
        }
        self.turn.tell(Notice::Queued(standing));
        tokio::select! {
            biased;
            granted = place.granted() => granted,
            never = ghosts::lay(&self.shared, &self.ask.name, &self.ghosts) => match never {},
        }
    }

    /// None: another client has the permit.
    async fn granted_or_behind(&self, place: &mut Place) -> Result<Option<Link>, StoreError> {
        let id = place.id.to_string();
        let behind = async {
            loop {
                let snapshot = self.shared.look(&self.ask.name).await?;
                let waits = |permit: &Option<String>| permit.as_ref() == Some(&id);
                if snapshot.waiters.iter().any(|waiter| waits(&waiter.foreign)) {
                    return Ok::<_, StoreError>(());
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            biased;
            granted = place.granted() => granted.map(Some),
            behind = behind => behind.map(|()| None),
        }
    }

    fn lease(&mut self) -> Box<dyn Lease> {
        let place = self.place.take().expect("we are in line");
        Box::new(place.lease(Rc::clone(&self.shared), self.ask.name.clone()))
    }

    /// Tells the user what differs from the request, each thing once.
    fn tell(&mut self, told: &Told) {
        let stands = (told.limit, Duration::from_millis(told.ttl_ms));
        let before = std::mem::replace(&mut self.told, stands);
        if self.ask.strict
            || matches!(told.outcome, Outcome::Differs | Outcome::Revoking | Outcome::Lost)
        {
            return;
        }
        if stands.0 != before.0 && stands.0 != self.ask.limit {
            self.turn.tell(Notice::Limit {
                asked: self.ask.limit,
                stands: stands.0,
                pinned: told.pinned,
            });
        }
        if stands.1 != before.1 && stands.1 != self.ask.ttl {
            self.turn.tell(Notice::Ttl { asked: self.ask.ttl, stands: stands.1 });
        }
    }

    /// Leaves the queue, or gives back a permit that we were given at the same moment.
    async fn leave(&mut self, patience: Duration) -> Result<(), StoreError> {
        if let Some(place) = self.place.take() {
            place.leave(patience).await;
        }
        if !self.ghosts.is_empty() {
            let _ =
                within(patience, ghosts::lay_one(&self.shared, &self.ask.name, &self.ghosts)).await;
        }
        if !self.asked {
            return Ok(());
        }
        node::signal(&self.shared, &self.ask.name, self.ask.id, patience, Whose::Anybodys).await
    }

    fn error(&self, trouble: StoreError) -> Error {
        trouble.while_doing(&self.shared.shown, Attempt::Acquire(self.ask.name.clone()))
    }
}

/// What the request needs and a server of the original kind lacks.
fn beyond_the_original(ask: &Ask) -> Option<Lack> {
    if ask.limit > 1 {
        return Some(Lack::Permits(ask.limit));
    }
    if ask.who.detached {
        return Some(Lack::Lasting);
    }
    (!ask.min_hold.is_zero()).then_some(Lack::MinHold)
}

/// Waits until it is worth to ask again, over the same connection if it is still there.
async fn wait(mut link: Link, mut answer: Answer) -> Result<Link, StoreError> {
    while !within(SILENCE, link.line(&mut answer)).await?.is_empty() {}
    Ok(link)
}
