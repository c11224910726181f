//! Waiting for a permit of a server of the original kind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use hyper::StatusCode;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::capabilities::{beyond_the_original, granted_or_behind, look_if_original};
use super::lease::NodeRegistration;
use super::orphans;
use crate::backends::cloud::http::{HttpConnection, unexpected};
use crate::backends::cloud::{CloudServer, LEAVING};
use crate::engine::retry::{ATTEMPT_TIMEOUT, Backoff, PreviousError, RETRY_FOR, with_timeout};
use crate::permits::error::{Attempt, StoreError};
use crate::permits::{
    AcquireRequest, Acquisition, BackendError, CancelToken, Lease, Progress, ProgressSender,
    QueueStatus,
};

const REGISTER: &str = "/semaphore/register";

/// A shorter wait is not reported.
const QUICK: Duration = Duration::from_millis(100);

/// A client that waits in the queue of such a server, until it has a permit.
pub(in crate::backends::cloud) struct NodeAcquire<'a> {
    server: Arc<CloudServer>,
    wanted: &'a AcquireRequest,
    progress: &'a ProgressSender,
    /// Whether a request was ever answered.
    outcome: bool,
    /// Whether we are in a queue, or were.
    queued: bool,
    /// Our place in the queue.
    place: Option<NodeRegistration>,
    /// Whether we are taking one, which must not be interrupted.
    taking: Arc<AtomicBool>,
    /// Our identities in places that we lost sight of.
    orphans: Vec<Uuid>,
    /// How long a question may take now.
    time: Duration,
}

/// The result of one attempt.
enum AcquireStep {
    Done(Acquisition),
    /// In the queue, as it stood a moment ago.
    Placed(Box<NodeRegistration>, QueueStatus),
}

impl<'a> NodeAcquire<'a> {
    pub(in crate::backends::cloud) fn new(
        server: Arc<CloudServer>,
        wanted: &'a AcquireRequest,
        progress: &'a ProgressSender,
    ) -> Self {
        Self {
            server,
            wanted,
            progress,
            outcome: false,
            queued: false,
            place: None,
            taking: Arc::default(),
            orphans: Vec::new(),
            time: ATTEMPT_TIMEOUT,
        }
    }

    /// Waits in turn, unless it is called off.
    pub(in crate::backends::cloud) async fn run(
        mut self,
        mut cancel: CancelToken,
    ) -> Result<Acquisition, BackendError> {
        let taking = Arc::clone(&self.taking);
        let mut leaving = LEAVING;
        let done = {
            let mut advancing = Box::pin(self.advance());
            tokio::select! {
                biased;
                done = &mut advancing => Some(done),
                () = cancel.cancelled() => {
                    // A place that is taken can be left, one that is half taken cannot.
                    let taken = async {
                        while taking.load(Relaxed) {
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

    async fn advance(&mut self) -> Result<Acquisition, BackendError> {
        let mut backoff = Backoff::new();
        let give_up = Instant::now() + RETRY_FOR;
        let mut before = PreviousError::default();
        loop {
            let left = give_up.saturating_duration_since(Instant::now());
            self.time = if self.queued { ATTEMPT_TIMEOUT } else { ATTEMPT_TIMEOUT.min(left) };
            let step = self.step().await;
            self.taking.store(false, Relaxed);
            self.outcome = true;
            if step.is_ok() {
                before = PreviousError::default();
            }
            let error = match step {
                Ok(AcquireStep::Done(acquired)) => return Ok(acquired),
                Ok(AcquireStep::Placed(place, queue_status)) => {
                    let since = Instant::now();
                    self.place = Some(*place);
                    let granted = Box::pin(self.granted(queue_status)).await;
                    if since.elapsed() > Duration::from_secs(2) {
                        backoff = Backoff::new();
                    }
                    match granted {
                        Ok(link) => {
                            self.server.idle.put(link);
                            return Ok(Acquisition::Granted(self.lease()));
                        }
                        Err(error) => {
                            self.orphans.extend(self.place.take().map(|place| place.id));
                            error
                        }
                    }
                }
                Err(error) => error,
            };
            let again = before.any();
            let error = before.or(error, self.time);
            let queued = self.queued;
            let over =
                error.is_final() || (error.is_permanent() && !queued) || self.wanted.nonblock;
            if !over {
                let what = error.clone();
                self.progress.tell(Progress::Trouble { what, may_last: queued && again });
            }
            if over || !backoff.sleep_while(queued, give_up).await {
                return Err(self.error(error));
            }
        }
    }

    /// Registers once, and takes the place that comes with it.
    async fn step(&mut self) -> Result<AcquireStep, StoreError> {
        match self.register().await? {
            // Boxed: the rest needs much room.
            Some((id, link)) => Box::pin(self.take_place(id, link)).await,
            None => Ok(AcquireStep::Done(Acquisition::Busy)),
        }
    }

    /// None: no permit is free, and the client does not wait for one.
    async fn register(&mut self) -> Result<Option<(Uuid, HttpConnection)>, StoreError> {
        let mut link = with_timeout(self.time, self.server.link()).await?;
        // One of ours may have taken its place, and has no use for an empty request.
        let look = look_if_original(&self.server, &self.wanted.name, &mut link);
        let Some(look) = with_timeout(self.time, look).await? else {
            return Err(StoreError::OtherKind);
        };
        if let Some(lack) = beyond_the_original(self.wanted) {
            return Err(StoreError::Original(lack));
        }
        if self.wanted.nonblock && !look.is_free() {
            return Ok(None);
        }
        // The server remembers every identity that it gave out, until its place has been taken and
        // left.
        self.taking.store(true, Relaxed);
        let request = self.server.dialler.request(REGISTER, self.wanted.name.as_str());
        let answer = with_timeout(self.time, link.send(request)).await?;
        if answer.status != StatusCode::OK {
            return Err(unexpected(answer.status, REGISTER));
        }
        let id = with_timeout(self.time, link.read(answer)).await?;
        let id = std::str::from_utf8(&id).ok().and_then(|id| Uuid::parse_str(id).ok());
        Ok(Some((id.ok_or(StoreError::NoIdentities)?, link)))
    }

    /// Takes a place in the queue.
    async fn take_place(
        &mut self,
        id: Uuid,
        link: HttpConnection,
    ) -> Result<AcquireStep, StoreError> {
        let taken =
            NodeRegistration::take(&self.server, &self.wanted.name, id, link, self.time).await;
        self.taking.store(false, Relaxed);
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
        Ok(AcquireStep::Placed(Box::new(place), queue_status))
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
        Box::new(place.lease(Arc::clone(&self.server), self.wanted.name.clone()))
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
        Ok(())
    }

    fn error(&self, error: StoreError) -> BackendError {
        error.while_doing(&self.server.shown, Attempt::Acquire(self.wanted.name.clone()))
    }
}
