//! The requests of one client to a server of ours, over one connection: those that come while others
//! are under way go together in the next body.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::backends::cloud::http::unexpected;
use crate::backends::cloud::protocol::{EXECUTE, ExecuteAnswer, MOST_REQUESTS, NamedRequest};
use crate::backends::cloud::{CloudServer, parse_body};
use crate::engine::retry::{ATTEMPT_TIMEOUT, with_timeout};
use crate::permits::{Name, StoreError};
use crate::request::{Operation, Request};

/// How long an answer may take until the next requests go over another connection: this one may have
/// been cut silently.
const HANGS: Duration = Duration::from_millis(400);

/// How much goes into one body, but for its last request, in bytes.
const LARGEST: usize = 64 * 1024;

#[derive(Default)]
pub(in crate::backends::cloud) struct Requests(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    /// The renewals that are not sent yet. They go first, and with nothing else in their body: the
    /// answer to that would wait until a grant is on the server's disk.
    renewals: VecDeque<PendingRequest>,
    /// The other requests that are not sent yet.
    others: VecDeque<PendingRequest>,
    /// How many tasks have been started to send them; the last one does.
    senders: u64,
    /// Since when that one waits for an answer.
    busy: Option<Instant>,
}

struct PendingRequest {
    json: String,
    answer: oneshot::Sender<Result<ExecuteAnswer, StoreError>>,
}

impl Queue {
    /// What this task sends next; none: nothing is pending, or another task sends it.
    fn next_for(&mut self, sender: u64) -> Option<Vec<PendingRequest>> {
        if self.senders != sender {
            return None;
        }
        let batch = self.next();
        self.busy = (!batch.is_empty()).then(Instant::now);
        (!batch.is_empty()).then_some(batch)
    }

    /// What goes into the next body.
    fn next(&mut self) -> Vec<PendingRequest> {
        let (mut batch, mut length) = (Vec::new(), 0);
        self.renewals.retain(|request| !request.answer.is_closed());
        let pending = if self.renewals.is_empty() { &mut self.others } else { &mut self.renewals };
        while batch.len() < MOST_REQUESTS
            && length < LARGEST
            && let Some(request) = pending.pop_front()
        {
            // Its client may have given up.
            if !request.answer.is_closed() {
                length += request.json.len();
                batch.push(request);
            }
        }
        batch
    }
}

impl Requests {
    /// Asks once. A request that was not sent when this is dropped is not sent any more.
    pub(in crate::backends::cloud) async fn ask(
        &self,
        server: &Arc<CloudServer>,
        name: &Name,
        request: &Request,
    ) -> Result<ExecuteAnswer, StoreError> {
        let named = NamedRequest { name: name.to_string(), request: request.clone() };
        let json = serde_json::to_string(&named).expect("plain data");
        let (sender, mut answer) = oneshot::channel();
        let pending = PendingRequest { json, answer: sender };
        match request.operation {
            Operation::Renew => lock(&self.0).renewals.push_back(pending),
            _ => lock(&self.0).others.push_back(pending),
        }
        loop {
            self.send(server);
            if let Ok(answer) = timeout(HANGS, &mut answer).await {
                return answer.unwrap_or(Err(StoreError::Closed));
            }
        }
    }

    /// Sees to it that what is pending is sent, now or after what is under way.
    fn send(&self, server: &Arc<CloudServer>) {
        let mut queue = lock(&self.0);
        let waits = queue.busy.is_some_and(|since| since.elapsed() < HANGS);
        if waits || (queue.renewals.is_empty() && queue.others.is_empty()) {
            return;
        }
        queue.senders += 1;
        queue.busy = Some(Instant::now());
        tokio::spawn(send_all(Arc::clone(server), Arc::clone(&self.0), queue.senders));
    }
}

/// Sends until nothing is pending, or another task does.
async fn send_all(server: Arc<CloudServer>, queue: Arc<Mutex<Queue>>, number: u64) {
    loop {
        let Some(batch) = lock(&queue).next_for(number) else { return };
        let jsons: Vec<_> = batch.iter().map(|request| &*request.json).collect();
        let body = format!("[{}]", jsons.join(","));
        let answered = with_timeout(ATTEMPT_TIMEOUT, exchange(&server, body.into())).await;
        let answered = answered.and_then(|answers| {
            let missing = || StoreError::UnknownAnswer("an answer is missing".into());
            if answers.len() == batch.len() { Ok(answers) } else { Err(missing()) }
        });
        match answered {
            Ok(answers) => {
                for (request, answer) in batch.into_iter().zip(answers) {
                    let _ = request.answer.send(Ok(answer));
                }
            }
            Err(error) => {
                for request in batch {
                    let _ = request.answer.send(Err(error.clone()));
                }
            }
        }
    }
}

async fn exchange(server: &CloudServer, body: Bytes) -> Result<Vec<ExecuteAnswer>, StoreError> {
    let head = server.dialler.request_by(Method::POST, EXECUTE);
    match server.exchange_with(head, body).await? {
        (_, false, _) => Err(StoreError::OtherKind),
        (StatusCode::OK, true, body) => parse_body(&body),
        (status, true, _) => Err(unexpected(status, EXECUTE)),
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_bounded_and_what_its_client_gave_up_does_not_go() {
        let mut queue = Queue { senders: 1, ..Queue::default() };
        let mut answers = Vec::new();
        for number in 0..250 {
            let json = if number < 225 { "{}".into() } else { "x".repeat(LARGEST / 2) };
            let (answer, heard) = oneshot::channel();
            queue.others.push_back(PendingRequest { json, answer });
            answers.push(heard);
        }
        answers.drain(..20);
        let lengths = std::iter::from_fn(|| queue.next_for(1).map(|batch| batch.len()));
        let lengths: Vec<_> = lengths.collect();
        assert_eq!(lengths[..2], [MOST_REQUESTS; 2]);
        assert_eq!(lengths[2], 7, "five short ones and two long ones");
        assert!(lengths[3..].iter().all(|length| *length <= 2), "{lengths:?}");
        assert_eq!(lengths.iter().sum::<usize>(), 230);
        assert!(queue.busy.is_none() && queue.next_for(2).is_none());
    }

    #[test]
    fn renewals_go_first_and_by_themselves() {
        let mut queue = Queue { senders: 1, ..Queue::default() };
        let (answers, _heard): (Vec<_>, Vec<_>) = (0..5).map(|_| oneshot::channel()).unzip();
        for (number, answer) in answers.into_iter().enumerate() {
            let pending = PendingRequest { json: number.to_string(), answer };
            if number < 3 { &mut queue.others } else { &mut queue.renewals }.push_back(pending);
        }
        let bodies = std::iter::from_fn(|| queue.next_for(1));
        let jsons = bodies.map(|batch| batch.into_iter().map(|one| one.json).collect::<String>());
        assert_eq!(jsons.collect::<Vec<_>>(), ["34", "012"]);
    }
}
