//! Waiting for a permit of a cloud-semaphore server, whichever kind it turns out to be.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::http::{HttpConnection, HttpResponse, unexpected};
use super::node_lease::{self, NodeRegistration, ServerKind};
use super::original::{beyond_the_original, granted_or_behind, look_if_original};
use super::orphans;
use super::protocol::{
    ASK_HEADER, RegisterOutcome, RegisterReply, RegisterRequest, SILENCE, ascii_json, millis,
};
use super::serve_lease::ServeLease;
use super::{CloudServer, LEAVING, parse_body};
use crate::backends::error::{Attempt, StoreError};
use crate::backends::lease::RenewingLease;
use crate::backends::retry::{ATTEMPT_TIMEOUT, Backoff, PreviousError, RETRY_FOR, with_timeout};
use crate::backends::{
    AcquireRequest, Acquisition, CancelToken, Error, Lease, Permit, Progress, ProgressSender,
    QueueStatus, Validity,
};
use crate::clock::{self, Moment};
use crate::mutants::{self, Guard};

const REGISTER: &str = "/semaphore/register";

/// A shorter wait is not reported.
const QUICK: Duration = Duration::from_millis(100);

/// A client that asks, until it has a permit.
pub(super) struct CloudAcquire<'a> {
    server: Rc<CloudServer>,
    wanted: &'a AcquireRequest,
    progress: &'a ProgressSender,
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
    place: Option<NodeRegistration>,
    /// Whether we are taking one, which must not be interrupted.
    taking: Rc<Cell<bool>>,
    /// Our identities in places of that kind that we lost sight of.
    orphans: Vec<Uuid>,
    told: (u32, Duration),
    /// How long a question may take now.
    time: Duration,
}

/// The result of one attempt.
enum AcquireStep {
    Done(Acquisition),
    /// In the queue of one of our servers, as long as this answer is not at its end.
    Waiting(HttpConnection, HttpResponse),
    /// In the queue of the other kind, as it stood a moment ago.
    Placed(NodeRegistration, QueueStatus),
}

impl<'a> CloudAcquire<'a> {
    pub(super) fn new(
        server: Rc<CloudServer>,
        wanted: &'a AcquireRequest,
        progress: &'a ProgressSender,
    ) -> Self {
        Self {
            server,
            wanted,
            progress,
            asked: false,
            outcome: false,
            queued: false,
            ticket: 0,
            seal: String::new(),
            place: None,
            taking: Rc::default(),
            orphans: Vec::new(),
            told: (wanted.limit, wanted.ttl),
            time: ATTEMPT_TIMEOUT,
        }
    }

    /// Waits in turn, unless it is called off.
    pub(super) async fn run(mut self, mut cancel: CancelToken) -> Result<Acquisition, Error> {
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
                let error = left.err().or((!self.outcome).then_some(StoreError::Silent));
                if let Some(error) = error {
                    self.progress.tell(Progress::Trouble { what: error, may_last: false });
                }
                Ok(Acquisition::Cancelled)
            }
        }
    }

    async fn advance(&mut self) -> Result<Acquisition, Error> {
        let mut backoff = Backoff::new();
        let give_up = Instant::now() + RETRY_FOR;
        let mut link = None;
        let mut before = PreviousError::default();
        let mut quick = 0;
        loop {
            let since = clock::now();
            let left = give_up.saturating_duration_since(Instant::now());
            self.time = if self.queued { ATTEMPT_TIMEOUT } else { ATTEMPT_TIMEOUT.min(left) };
            let step = self.step(since, link.take()).await;
            self.taking.set(false);
            self.outcome = true;
            if step.is_ok() {
                before = PreviousError::default();
            }
            let waited = match step {
                Ok(AcquireStep::Done(acquired)) => return Ok(acquired),
                Ok(AcquireStep::Waiting(link, answer)) => {
                    let since = Instant::now();
                    let waited = wait(link, answer).await;
                    // If a server ends every wait at once, we pause between requests.
                    quick = if since.elapsed() < QUICK { quick + 1 } else { 0 };
                    if quick > 3 {
                        backoff.sleep().await;
                    } else {
                        backoff = Backoff::new();
                    }
                    waited.map(Some)
                }
                Ok(AcquireStep::Placed(place, queue_status)) => {
                    let since = Instant::now();
                    self.place = Some(place);
                    let granted = Box::pin(self.granted(queue_status)).await;
                    if since.elapsed() > Duration::from_secs(2) {
                        backoff = Backoff::new();
                    }
                    match granted {
                        Ok(link) => {
                            self.server.idle.replace(Some(link));
                            return Ok(Acquisition::Granted(self.lease()));
                        }
                        Err(error) => {
                            self.orphans.extend(self.place.take().map(|place| place.id));
                            Err(error)
                        }
                    }
                }
                Err(error) => Err(error),
            };
            match waited {
                Ok(again) => link = again,
                Err(error) => {
                    let again = before.any();
                    let error = before.or(error, self.time);
                    let queued = self.queued;
                    let over = error.is_final()
                        || (error.is_permanent() && !queued)
                        || self.wanted.nonblock;
                    if !over {
                        let what = error.clone();
                        self.progress.tell(Progress::Trouble { what, may_last: queued && again });
                    }
                    if over || !backoff.sleep_while(queued, give_up).await {
                        return Err(self.error(error));
                    }
                }
            }
        }
    }

    /// Asks once; each question has to be answered soon. Over a connection that is there already the
    /// server is one of ours.
    async fn step(
        &mut self,
        since: Moment,
        link: Option<HttpConnection>,
    ) -> Result<AcquireStep, StoreError> {
        let server = Rc::clone(&self.server);
        if let Some(link) = link
            && let Some(mut link) = link.if_idle().await
        {
            let answer = self.register(&mut link).await?;
            return self.parse_reply(since, link, answer).await;
        }
        let mut link = with_timeout(self.time, server.dialler.dial()).await?;
        let beyond = beyond_the_original(self.wanted);
        if beyond.is_some() || self.wanted.nonblock {
            // A server of the other kind remembers every client that registers, so we look first.
            let theirs =
                with_timeout(self.time, look_if_original(&server, &self.wanted.name, &mut link))
                    .await?;
            if theirs.is_some()
                && let Some(lack) = beyond
            {
                return Err(StoreError::Original(lack));
            }
            if theirs.is_some_and(|theirs| !theirs.is_free()) {
                return Ok(AcquireStep::Done(Acquisition::Busy));
            }
        }
        let answer = self.register(&mut link).await?;
        self.parse_reply(since, link, answer).await
    }

    async fn register(&mut self, link: &mut HttpConnection) -> Result<HttpResponse, StoreError> {
        let asking = RegisterRequest {
            id: self.wanted.id,
            limit: self.wanted.limit,
            ttl_ms: millis(self.wanted.ttl),
            ticket: self.ticket,
            seal: self.seal.clone(),
            nonblock: self.wanted.nonblock,
            strict: self.wanted.strict,
            min_hold_ms: millis(self.wanted.min_hold),
            who: self.wanted.who.clone(),
        };
        let request = self.server.dialler.request(REGISTER, self.wanted.name.as_str());
        self.asked = true;
        // A server of the other kind remembers every identity that it gave out, until its place has
        // been taken and left.
        self.taking.set(true);
        let request = request.header(ASK_HEADER, ascii_json(&asking));
        let answer = with_timeout(self.time, link.send(request)).await?;
        if answer.status != StatusCode::OK {
            return Err(unexpected(answer.status, REGISTER));
        }
        Ok(answer)
    }

    async fn parse_reply(
        &mut self,
        since: Moment,
        mut link: HttpConnection,
        mut answer: HttpResponse,
    ) -> Result<AcquireStep, StoreError> {
        if !answer.ours {
            self.asked = false;
            let id = with_timeout(self.time, link.read(answer)).await?;
            let id = std::str::from_utf8(&id).ok().and_then(|id| Uuid::parse_str(id).ok());
            let id = id.ok_or(StoreError::NoIdentities)?;
            // Boxed, like what follows: only this case needs the room for it.
            return Box::pin(self.take_place(id, link)).await;
        }
        self.taking.set(false);
        let text = with_timeout(self.time, link.line(&mut answer)).await?;
        let told = parse_body::<RegisterReply>(&text)?.validated()?;
        self.tell(&told);
        Ok(match told.outcome {
            RegisterOutcome::Holding => {
                let off = mutants::is_off(Guard::DeadlineFromRequest);
                let since = if off { clock::now() } else { since };
                let validity = Validity { since, ttl: self.told.1, error: None };
                let (id, name) = (self.wanted.id, self.wanted.name.clone());
                let permit = Permit { id, name, token: Some(told.token) };
                if with_timeout(self.time, link.read(answer)).await.is_ok() {
                    self.server.idle.replace(Some(link));
                }
                let lease = ServeLease {
                    server: Rc::clone(&self.server),
                    name: permit.name.clone(),
                    id: permit.id,
                    granted_by: told.server,
                };
                AcquireStep::Done(Acquisition::Granted(Box::new(RenewingLease::new(
                    permit, validity, lease,
                ))))
            }
            RegisterOutcome::Busy => match told.withheld() {
                Some(why) => return Err(StoreError::Withheld(why)),
                None => AcquireStep::Done(Acquisition::Busy),
            },
            RegisterOutcome::Revoking | RegisterOutcome::Lost => return Err(StoreError::Withdrawn),
            RegisterOutcome::Differs => {
                return Err(StoreError::differs(self.wanted, told.limit, told.pinned, self.told.1));
            }
            RegisterOutcome::Waiting => {
                self.queued = true;
                self.progress.tell(Progress::Queued(told.queue_status()));
                (self.ticket, self.seal) = (told.ticket, told.seal);
                AcquireStep::Waiting(link, answer)
            }
        })
    }

    /// Takes a place in the queue of a server of the other kind.
    async fn take_place(
        &mut self,
        id: Uuid,
        link: HttpConnection,
    ) -> Result<AcquireStep, StoreError> {
        let taken =
            NodeRegistration::take(&self.server, &self.wanted.name, id, link, self.time).await;
        self.taking.set(false);
        let (mut place, queue_status) = taken?;
        if self.wanted.nonblock {
            // Another client may have been faster, and then we leave again.
            let granted = with_timeout(
                RETRY_FOR,
                granted_or_behind(&self.server, &self.wanted.name, &mut place),
            )
            .await;
            if granted?.is_none() {
                place.leave(LEAVING).await;
                return Ok(AcquireStep::Done(Acquisition::Busy));
            }
            self.place = Some(place);
            return Ok(AcquireStep::Done(Acquisition::Granted(self.lease())));
        }
        self.queued = true;
        Ok(AcquireStep::Placed(place, queue_status))
    }

    /// Waits for the permit in the place that we have taken. Says so, unless it is there at once.
    async fn granted(&mut self, queue_status: QueueStatus) -> Result<HttpConnection, StoreError> {
        let place = self.place.as_mut().expect("just taken");
        let mut queue_status = queue_status;
        if queue_status == QueueStatus::default() {
            // It was free; another client may have been faster.
            if let Ok(granted) = timeout(QUICK, place.granted()).await {
                return granted;
            }
            queue_status.held = 1;
        }
        self.progress.tell(Progress::Queued(queue_status));
        tokio::select! {
            biased;
            granted = place.granted() => granted,
            never = orphans::unregister(&self.server, &self.wanted.name, &self.orphans) => match never {},
        }
    }

    fn lease(&mut self) -> Box<dyn Lease> {
        let place = self.place.take().expect("we are in line");
        Box::new(place.lease(Rc::clone(&self.server), self.wanted.name.clone()))
    }

    /// Tells the user what differs from the request, each thing once.
    fn tell(&mut self, told: &RegisterReply) {
        let stands = (told.limit, Duration::from_millis(told.ttl_ms));
        let before = std::mem::replace(&mut self.told, stands);
        if self.wanted.strict
            || matches!(
                told.outcome,
                RegisterOutcome::Differs | RegisterOutcome::Revoking | RegisterOutcome::Lost
            )
        {
            return;
        }
        if stands.0 != before.0 && stands.0 != self.wanted.limit {
            self.progress.tell(Progress::Limit {
                asked: self.wanted.limit,
                stands: stands.0,
                pinned: told.pinned,
            });
        }
        if stands.1 != before.1 && stands.1 != self.wanted.ttl {
            self.progress.tell(Progress::Ttl { asked: self.wanted.ttl, stands: stands.1 });
        }
    }

    /// Leaves the queue, or gives back a permit that we were given at the same moment.
    async fn leave(&mut self, patience: Duration) -> Result<(), StoreError> {
        if let Some(place) = self.place.take() {
            place.leave(patience).await;
        }
        if !self.orphans.is_empty() {
            let _ = with_timeout(
                patience,
                orphans::unregister_one(&self.server, &self.wanted.name, &self.orphans),
            )
            .await;
        }
        if !self.asked {
            return Ok(());
        }
        node_lease::signal(
            &self.server,
            &self.wanted.name,
            self.wanted.id,
            patience,
            ServerKind::Anybodys,
        )
        .await
    }

    fn error(&self, error: StoreError) -> Error {
        error.while_doing(&self.server.shown, Attempt::Acquire(self.wanted.name.clone()))
    }
}

/// Waits until it is worth to ask again, over the same connection if it is still there.
async fn wait(
    mut link: HttpConnection,
    mut answer: HttpResponse,
) -> Result<HttpConnection, StoreError> {
    while !with_timeout(SILENCE, link.line(&mut answer)).await?.is_empty() {}
    Ok(link)
}
