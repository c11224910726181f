//! The connection for the requests of all permits of a client. A request does not wait for the
//! answers to others: it is sent at once, and the answers come in the order of the requests.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{Cmd, ServerError, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::connection::{Connection, ConnectionError, HANDSHAKE, is_refusal, packed};
use crate::clock::{self, Moment};
use crate::permits::StoreError;

/// A connection that has owed an answer for so long gets no more requests: it may have been cut
/// silently. Less than the time after which a renewal is tried again at the shortest TTL.
const OVERDUE: Duration = Duration::from_millis(450);

/// How long a connection takes what is sent, and how long one that gets no more requests waits for
/// answers that no client waits for.
const LINGERS: Duration = Duration::from_secs(10);

type Answers = Result<Vec<Value>, ConnectionError>;

/// A connection that takes requests.
pub(super) struct Pipeline {
    requests: mpsc::UnboundedSender<QueuedRequest>,
    state: Arc<PipelineState>,
}

#[derive(Default)]
struct PipelineState {
    /// It gets no more requests.
    retired: AtomicBool,
    /// Since when it owes an answer.
    owes_since: Mutex<Option<Moment>>,
}

struct QueuedRequest {
    text: Vec<u8>,
    count: usize,
    answers: oneshot::Sender<Answers>,
}

/// What a request still waits for.
struct InFlight {
    since: Moment,
    /// How many answers are missing.
    missing: usize,
    answered: Vec<Value>,
    asker: Asker,
}

/// What is done with answers.
enum Asker {
    Handshake,
    Request(oneshot::Sender<Answers>),
    /// It has been told already.
    Told,
}

impl Pipeline {
    /// Takes over a connection on which nothing was asked.
    pub(super) fn start(connection: Connection) -> Arc<Self> {
        Self::drive(Driver::new(connection))
    }

    /// Takes over a connection on which these many answers come after those to the handshake.
    pub(super) fn proceed(
        connection: Connection,
        since: Moment,
        count: usize,
    ) -> (Arc<Self>, oneshot::Receiver<Answers>) {
        let mut driver = Driver::new(connection);
        driver.shakes_hands();
        let (answers, receiver) = oneshot::channel();
        driver.expects(since, count, Asker::Request(answers));
        (Self::drive(driver), receiver)
    }

    fn drive(mut driver: Driver) -> Arc<Self> {
        let (requests, queued) = mpsc::unbounded_channel();
        let state = Arc::clone(&driver.state);
        state.owes(driver.in_flight.front());
        tokio::spawn(async move {
            let Err(error) = driver.run(queued).await else { return };
            driver.fail(error);
        });
        Arc::new(Self { requests, state })
    }

    /// Asks several things at once. An error among the answers is one of those, and if it is a
    /// [refusal](is_refusal) the last one.
    pub(super) async fn request(&self, questions: &[Cmd]) -> Answers {
        let (answers, receiver) = oneshot::channel();
        let (text, count) = (packed(questions), questions.len());
        let queued = QueuedRequest { text, count, answers };
        self.requests.send(queued).map_err(|_| StoreError::Closed)?;
        answer_of(receiver).await
    }

    /// Whether a request that is made now may hope for an answer.
    pub(super) fn is_usable(&self) -> bool {
        let owes_since = *self.state.owes_since.lock().unwrap_or_else(PoisonError::into_inner);
        !self.state.retired.load(Relaxed)
            && !self.requests.is_closed()
            && owes_since.is_none_or(|since| clock::now().saturating_sub(since) < OVERDUE)
    }

    /// Gives it no more requests; those that were made are answered.
    pub(super) fn retire(&self) {
        self.state.retired.store(true, Relaxed);
    }
}

pub(super) async fn answer_of(receiver: oneshot::Receiver<Answers>) -> Answers {
    receiver.await.unwrap_or_else(|_| Err(StoreError::Closed.into()))
}

impl PipelineState {
    fn owes(&self, oldest: Option<&InFlight>) {
        *self.owes_since.lock().unwrap_or_else(PoisonError::into_inner) =
            oldest.map(|oldest| oldest.since);
    }
}

/// The task that has the connection.
struct Driver {
    connection: Connection,
    state: Arc<PipelineState>,
    in_flight: VecDeque<InFlight>,
    /// Whether it was said who we are.
    introduced: bool,
    /// What the server had against the handshake: if it closes the connection after that, its reason.
    objection: Option<ServerError>,
}

impl Driver {
    fn new(connection: Connection) -> Self {
        let (state, in_flight) = (Arc::default(), VecDeque::new());
        Self { connection, state, in_flight, introduced: false, objection: None }
    }

    fn shakes_hands(&mut self) {
        self.introduced = true;
        self.expects(clock::now(), HANDSHAKE, Asker::Handshake);
    }

    fn expects(&mut self, since: Moment, missing: usize, asker: Asker) {
        self.in_flight.push_back(InFlight { since, missing, answered: Vec::new(), asker });
    }

    /// Returns when no more requests can come, and all that came were answered or given up.
    async fn run(
        &mut self,
        mut queued: mpsc::UnboundedReceiver<QueuedRequest>,
    ) -> Result<(), ConnectionError> {
        let mut more = true;
        while more || !self.in_flight.is_empty() {
            tokio::select! {
                biased;
                request = queued.recv(), if more => match request {
                    Some(request) => self.send(request, &mut queued).await?,
                    None => more = false,
                },
                answer = self.connection.read_reply() => self.note(answer?)?,
                // A server that is frozen must not keep one connection after the other open.
                () = sleep(LINGERS), if !more => if !self.is_waited_for() { return Ok(()) },
            }
        }
        Ok(())
    }

    fn is_waited_for(&self) -> bool {
        let waits = |one: &InFlight| match &one.asker {
            Asker::Request(answers) => !answers.is_closed(),
            Asker::Handshake | Asker::Told => false,
        };
        self.in_flight.iter().any(waits)
    }

    /// Sends a request, and all that have come meanwhile, in one piece.
    async fn send(
        &mut self,
        first: QueuedRequest,
        queued: &mut mpsc::UnboundedReceiver<QueuedRequest>,
    ) -> Result<(), ConnectionError> {
        let mut text = Vec::new();
        if !self.introduced {
            text = super::connection::handshake();
            self.shakes_hands();
        }
        let mut next = Some(first);
        while let Some(request) = next {
            text.extend(request.text);
            self.expects(clock::now(), request.count, Asker::Request(request.answers));
            next = queued.try_recv().ok();
        }
        self.state.owes(self.in_flight.front());
        let said = timeout(LINGERS, self.connection.say(&text)).await;
        said.unwrap_or_else(|_elapsed| Err(StoreError::Silent.into()))
    }

    fn note(&mut self, answer: Value) -> Result<(), ConnectionError> {
        let Some(oldest) = self.in_flight.front_mut() else {
            // It was not asked for: a reason to close the connection.
            answer.extract_error()?;
            return Err(StoreError::Closed.into());
        };
        oldest.missing -= 1;
        let refused = is_refusal(&answer);
        match (&oldest.asker, answer) {
            (Asker::Request(_), answer) => oldest.answered.push(answer),
            // Servers before 7.2 do not know it, which does not matter.
            (Asker::Handshake, Value::ServerError(error)) => self.objection = Some(error),
            (Asker::Handshake | Asker::Told, _) => {}
        }
        // What was asked after a refusal is answered only after a while.
        if (oldest.missing == 0 || (refused && !oldest.answered.is_empty()))
            && let Asker::Request(answers) = std::mem::replace(&mut oldest.asker, Asker::Told)
        {
            let _ = answers.send(Ok(std::mem::take(&mut oldest.answered)));
        }
        if oldest.missing == 0 {
            self.in_flight.pop_front();
            self.state.owes(self.in_flight.front());
        }
        Ok(())
    }

    fn fail(&mut self, error: ConnectionError) {
        let shakes_hands =
            self.in_flight.front().is_some_and(|oldest| matches!(oldest.asker, Asker::Handshake));
        let error = match self.objection.take() {
            Some(objection) if shakes_hands => objection.into(),
            _ => error,
        };
        self.state.retired.store(true, Relaxed);
        for request in self.in_flight.drain(..) {
            if let Asker::Request(answers) = request.asker {
                let _ = answers.send(Err(error.clone()));
            }
        }
    }
}
