//! What only our own client asks: many requests in one body, and the events of its permits.

use std::rc::Rc;

use hyper::StatusCode;
use hyper::body::{Body, Bytes};
use hyper::header::HeaderValue;

use super::authorization::authorize;
use super::request::{LARGEST_BATCH, LARGEST_BODY, read_requests, sensible};
use super::response_body::Later;
use super::responses::{empty, plain_json, too_many_connections, with_content_type};
use super::{Answer, Refusal, Routes};
use crate::backends::cloud::protocol::{BEAT, ExecuteAnswer, Greeting, NamedRequest};
use crate::permits::json::millis;
use crate::request::{Operation, Outcome};
use crate::serve::LocalFuture;
use crate::serve::bearer::Actor;
use crate::serve::peer_stream::Peer;
use crate::serve::semaphores::{COMING_BACK, EventStream, SemaphoreError};

/// What has to be on record before a request is answered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnRecord {
    Nothing,
    Grant,
    Limit,
    /// As far as it can be.
    End,
}

impl Routes {
    /// Carries out the requests of one of our clients, and answers when all are on record.
    pub(super) async fn execute_all<B>(&self, body: B, actor: &Actor, peer: &Peer) -> Answer
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let length = body.size_hint().upper().and_then(|length| usize::try_from(length).ok());
        let length = length.unwrap_or(LARGEST_BATCH).min(LARGEST_BATCH);
        let room = if length > LARGEST_BODY { self.long_answers.reserve(length) } else { None };
        if length > LARGEST_BODY && room.is_none() {
            return too_many_connections();
        }
        let Ok(requests) = read_requests(body).await else {
            return empty(StatusCode::BAD_REQUEST);
        };
        drop(room);
        let mut answers: Vec<_> =
            requests.into_iter().map(|named| self.execute_one(named, actor, peer)).collect();
        if answers.iter().any(|(_, record)| *record == OnRecord::End) {
            // The waiters for this are told first.
            tokio::task::yield_now().await;
        }
        if answers.iter().any(|(_, record)| *record != OnRecord::Nothing)
            && let Err(error) = self.semaphores.journal.written().await
        {
            for (answer, record) in &mut answers {
                let why = match record {
                    OnRecord::Nothing | OnRecord::End => continue,
                    OnRecord::Grant => Refusal::GrantNotRecorded(error.clone()),
                    OnRecord::Limit => Refusal::LimitNotRecorded(error.clone()),
                };
                *answer = ExecuteAnswer::Refused(why.to_string());
            }
        }
        plain_json(&answers.into_iter().map(|(answer, _)| answer).collect::<Vec<_>>())
    }

    fn execute_one(
        &self,
        named: NamedRequest,
        actor: &Actor,
        peer: &Peer,
    ) -> (ExecuteAnswer, OnRecord) {
        let not_done = |answer| (answer, OnRecord::Nothing);
        let Some(NamedRequest { name, request }) = sensible(named) else {
            return not_done(ExecuteAnswer::Invalid);
        };
        let (name, operation) = (self.semaphores.known(name), request.operation);
        let whose = self.whose(&name, Some(request.id), actor);
        if let Err(denied) = authorize(&actor.bearer, operation.into(), Some(&name), whose) {
            return not_done(ExecuteAnswer::Denied(denied.to_string()));
        }
        // A client that died while we were held up must not be granted anything.
        if operation == Operation::Acquire && peer.has_gone() {
            return not_done(ExecuteAnswer::Invalid);
        }
        if operation == Operation::Acquire
            && request.nonblock
            && let Some(pause) = self.semaphores.paused().filter(|pause| *pause <= COMING_BACK)
        {
            return not_done(ExecuteAnswer::Later(millis(pause) + 1));
        }
        let reply = match self.semaphores.execute(&name, &request, actor) {
            Ok(reply) => reply,
            Err(SemaphoreError::Full(full)) => {
                return not_done(ExecuteAnswer::Refused(Refusal::Full(full).to_string()));
            }
            Err(SemaphoreError::Unknown | SemaphoreError::NotHolder) => {
                return not_done(ExecuteAnswer::Invalid);
            }
        };
        let holds = reply.outcome == Outcome::Holding;
        if holds {
            peer.connection().renews_within(reply.terms.ttl);
        }
        let record = match operation {
            Operation::Acquire if holds => OnRecord::Grant,
            Operation::Pin | Operation::Unpin => OnRecord::Limit,
            Operation::Acquire | Operation::Renew | Operation::Attach => OnRecord::Nothing,
            Operation::Release
            | Operation::Leave
            | Operation::ReleaseDetached
            | Operation::Revoke(_) => OnRecord::End,
        };
        (ExecuteAnswer::Reply(Box::new(reply)), record)
    }
}

/// The answer to a client that listens: a line for each event, and an empty one now and then.
pub(super) fn event_stream(greeting: &Greeting, events: EventStream, peer: &Peer) -> Answer {
    let mut answer = with_content_type("application/json", line(greeting));
    // A proxy must not keep the first line until there is a second one.
    answer.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    let (events, peer) = (Rc::new(events), peer.clone());
    let next = move || -> LocalFuture<'static, Option<Bytes>> {
        let (events, peer) = (Rc::clone(&events), peer.clone());
        Box::pin(async move {
            tokio::select! {
                biased;
                told = events.next() => told.map(|told| told.iter().map(line).collect::<String>().into()),
                () = peer.stage() => None,
                () = tokio::time::sleep(BEAT) => Some(Bytes::from_static(b"\n")),
            }
        })
    };
    let coming = next();
    answer.body_mut().then = Some(Later { next: Box::new(next), coming });
    answer
}

fn line(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("plain data") + "\n"
}
