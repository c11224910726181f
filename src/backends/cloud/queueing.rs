//! One who asks a cloud-semaphore server for a permit, whichever kind it turns out to be.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::link::{Answer, Link, unexpected};
use super::node::{self, Observed, Place};
use super::ours::Held;
use super::wire::{ASK_HEADER, Asking, Outcome, Told, ascii_json, millis};
use super::{LEAVING, OBSERVE, Shared};
use crate::backends::trouble::{CONNECTING, Pause, TRY_ON, Trouble, TroubleKind, within};
use crate::backends::{
    Acquired, Ask, Cancel, Error, Lease, Notice, Permit, Standing, Tenure, Turn,
};
use crate::clock::{self, Moment};

const REGISTER: &str = "/semaphore/register";

/// How long we look whether a permit that seemed to be free is ours, when we do not wait.
const AT_ONCE: Duration = Duration::from_secs(1);

/// One who asks, until it has a permit.
pub(super) struct Queueing<'a> {
    shared: Rc<Shared>,
    ask: &'a Ask,
    turn: &'a Turn,
    /// Whether one of our servers may know of us.
    asked: bool,
    /// Whether anything ever came of asking.
    outcome: bool,
    /// Whether we are in a queue, or were.
    queued: bool,
    /// Our place in the queue of one of our servers.
    ticket: u64,
    /// Our place in the queue of the other kind.
    place: Option<Place>,
    /// Whether we are about to take one, which is to be finished.
    taking: Rc<Cell<bool>>,
    told: (u32, Duration),
}

/// Where one attempt has led.
enum Step {
    Done(Acquired),
    /// In the queue of one of our servers, as long as this answer is not at its end.
    Waiting(Link, Answer),
    /// In the queue of the other kind.
    Placed(Place),
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
            place: None,
            taking: Rc::default(),
            told: (ask.limit, ask.ttl),
        }
    }

    /// Waits in turn, unless it is called off.
    pub(super) async fn run(mut self, mut cancel: Cancel) -> Result<Acquired, Error> {
        let taking = Rc::clone(&self.taking);
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
                    timeout(LEAVING, async {
                        tokio::select! {
                            biased;
                            done = &mut advancing => Some(done),
                            () = taken => None,
                        }
                    }).await.unwrap_or(None)
                }
            }
        };
        match done {
            Some(Ok(acquired)) => Ok(acquired),
            Some(Err(error)) => {
                let _ = self.leave().await;
                Err(error)
            }
            None => {
                let left = self.leave().await;
                let trouble = left.err().or((!self.outcome).then(Trouble::silence));
                if let Some(trouble) = trouble {
                    self.turn.tell(Notice::Trouble { what: trouble.what, may_last: false });
                }
                Ok(Acquired::Cancelled)
            }
        }
    }

    async fn advance(&mut self) -> Result<Acquired, Error> {
        let mut pause = Pause::new();
        let give_up = Instant::now() + TRY_ON;
        let mut link = None;
        loop {
            let left = give_up.saturating_duration_since(Instant::now());
            let time = if self.queued { CONNECTING } else { CONNECTING.min(left) };
            let since = clock::now();
            let step = within(time, self.step(since, link.take())).await;
            self.outcome = true;
            let waited = match step {
                Ok(Step::Done(acquired)) => return Ok(acquired),
                Ok(Step::Waiting(link, answer)) => {
                    pause = Pause::new();
                    wait(link, answer).await.map(Some)
                }
                Ok(Step::Placed(place)) => {
                    pause = Pause::new();
                    match self.place.insert(place).granted().await {
                        Ok(link) => {
                            self.shared.idle.replace(Some(link));
                            return Ok(Acquired::Granted(self.lease()));
                        }
                        Err(trouble) => {
                            self.place = None;
                            Err(trouble)
                        }
                    }
                }
                Err(trouble) => Err(trouble),
            };
            match waited {
                Ok(again) => link = again,
                Err(trouble) => {
                    let enough = !self.queued && Instant::now() + pause.next >= give_up;
                    if trouble.lasts() || self.ask.nonblock || enough {
                        return Err(self.error(trouble));
                    }
                    let may_last = self.queued;
                    self.turn.tell(Notice::Trouble { what: trouble.what, may_last });
                    pause.sleep().await;
                }
            }
        }
    }

    /// Asks once. Over a connection that is there already the server is one of ours.
    async fn step(&mut self, since: Moment, link: Option<Link>) -> Result<Step, Trouble> {
        let shared = Rc::clone(&self.shared);
        if let Some(link) = link
            && let Some(mut link) = link.if_idle().await
        {
            let answer = self.register(&mut link).await?;
            return self.understand(since, link, None, answer).await;
        }
        let mut first = shared.dialler.dial().await?;
        // Before the server gives us an identity: see `node.rs`.
        let second = shared.dialler.dial_beside(&first).await?;
        if self.ask.limit > 1 || self.ask.nonblock {
            // One of the other kind remembers everybody who registers, so that is looked at first.
            let answer = first.ask(shared.dialler.request(OBSERVE, self.ask.name.as_str())).await?;
            if answer.status != StatusCode::OK {
                return Err(unexpected(answer.status, OBSERVE));
            }
            let ours = answer.ours;
            let body = first.read(answer).await?;
            if !ours && self.ask.limit > 1 {
                let what = format!(
                    "a cloud-semaphore server of the original kind has one permit a name, and {} \
                     were asked for",
                    self.ask.limit
                );
                return Err(Trouble { what, kind: TroubleKind::Unsupported });
            }
            if !ours && !Observed::parse(&body)?.is_free() {
                return Ok(Step::Done(Acquired::Busy));
            }
        }
        let answer = self.register(&mut first).await?;
        self.understand(since, first, Some(second), answer).await
    }

    async fn register(&mut self, link: &mut Link) -> Result<Answer, Trouble> {
        let asking = Asking {
            id: self.ask.id,
            limit: self.ask.limit,
            ttl_ms: millis(self.ask.ttl),
            ticket: self.ticket,
            nonblock: self.ask.nonblock,
            strict: self.ask.strict,
            who: self.ask.who.clone(),
        };
        let request = self.shared.dialler.request(REGISTER, self.ask.name.as_str());
        self.asked = true;
        let answer = link.ask(request.header(ASK_HEADER, ascii_json(&asking))).await?;
        if answer.status != StatusCode::OK {
            return Err(unexpected(answer.status, REGISTER));
        }
        Ok(answer)
    }

    async fn understand(
        &mut self,
        since: Moment,
        mut link: Link,
        second: Option<Link>,
        mut answer: Answer,
    ) -> Result<Step, Trouble> {
        if !answer.ours {
            self.asked = false;
            let id = link.read(answer).await?;
            let id = std::str::from_utf8(&id).ok().and_then(|id| Uuid::parse_str(id).ok());
            let id = id.ok_or_else(|| Trouble::lasting("the server gives no identities"))?;
            // A server of the other kind has taken the place of one of ours.
            let second = second.ok_or_else(|| Trouble::away("the server has changed"))?;
            return self.take_place(id, link, second).await;
        }
        let text = link.line(&mut answer).await?;
        let told: Told = serde_json::from_slice(&text).map_err(|error| {
            Trouble::lasting(format!("the server's answer is not known: {error}"))
        })?;
        self.tell(&told);
        Ok(match told.outcome {
            Outcome::Held => {
                let tenure = Tenure { since, ttl: self.told.1, trouble: None };
                let (id, name) = (self.ask.id, self.ask.name.clone());
                let permit = Permit { id, name, token: Some(told.token) };
                let _ = link.read(answer).await?;
                self.shared.idle.replace(Some(link));
                let held = Held::new(permit, tenure, Rc::clone(&self.shared), second);
                Step::Done(Acquired::Granted(Box::new(held)))
            }
            Outcome::Busy => Step::Done(Acquired::Busy),
            Outcome::Differs | Outcome::Lost => {
                return Err(Trouble::differs(self.ask, told.limit, self.told.1));
            }
            Outcome::Queued => {
                self.queued = true;
                self.ticket = told.ticket;
                self.turn.tell(Notice::Queued(told.standing()));
                Step::Waiting(link, answer)
            }
        })
    }

    /// Takes a place in the queue of a server of the other kind.
    async fn take_place(&mut self, id: Uuid, first: Link, second: Link) -> Result<Step, Trouble> {
        struct Finished(Rc<Cell<bool>>);
        impl Drop for Finished {
            fn drop(&mut self) {
                self.0.set(false);
            }
        }
        self.taking.set(true);
        let finished = Finished(Rc::clone(&self.taking));
        let taken = Place::take(&self.shared, &self.ask.name, id, first, second).await;
        let (mut place, standing) = taken?;
        if self.ask.nonblock {
            // Somebody may have been faster, and then we leave again.
            let granted = timeout(AT_ONCE, self.granted_or_behind(&mut place)).await;
            drop(finished);
            let granted = granted.unwrap_or(Ok(None))?;
            if granted.is_none() {
                place.leave(LEAVING).await;
                return Ok(Step::Done(Acquired::Busy));
            }
            self.place = Some(place);
            return Ok(Step::Done(Acquired::Granted(self.lease())));
        }
        drop(finished);
        self.queued = true;
        if standing != Standing::default() {
            self.turn.tell(Notice::Queued(standing));
        }
        Ok(Step::Placed(place))
    }

    /// None: somebody else has the permit.
    async fn granted_or_behind(&self, place: &mut Place) -> Result<Option<Link>, Trouble> {
        let id = place.id.to_string();
        let behind = async {
            loop {
                let snapshot = self.shared.look(&self.ask.name).await?;
                let waits = |permit: &Option<String>| permit.as_ref() == Some(&id);
                if snapshot.waiters.iter().any(|waiter| waits(&waiter.foreign)) {
                    return Ok::<_, Trouble>(());
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

    /// Says what the user did not ask for, each thing once.
    fn tell(&mut self, told: &Told) {
        let stands = (told.limit, Duration::from_millis(told.ttl_ms));
        let before = std::mem::replace(&mut self.told, stands);
        if self.ask.strict || matches!(told.outcome, Outcome::Differs | Outcome::Lost) {
            return;
        }
        if stands.0 != before.0 && stands.0 != self.ask.limit {
            self.turn.tell(Notice::Limit { asked: self.ask.limit, stands: stands.0 });
        }
        if stands.1 != before.1 && stands.1 != self.ask.ttl {
            self.turn.tell(Notice::Ttl { asked: self.ask.ttl, stands: stands.1 });
        }
    }

    /// Leaves the queue, or gives back a permit that we were given at the same moment.
    async fn leave(&mut self) -> Result<(), Trouble> {
        if let Some(place) = self.place.take() {
            place.leave(LEAVING).await;
        }
        if !self.asked {
            return Ok(());
        }
        node::signal(&self.shared, &self.ask.name, self.ask.id, LEAVING).await
    }

    fn error(&self, trouble: Trouble) -> Error {
        trouble.while_doing(&self.shared.shown, &format!("take a permit of '{}'", self.ask.name))
    }
}

/// Waits until it is worth to ask again, over the same connection if it is still there.
async fn wait(mut link: Link, mut answer: Answer) -> Result<Link, Trouble> {
    while !link.line(&mut answer).await?.is_empty() {}
    Ok(link)
}
