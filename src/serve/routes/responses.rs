//! Building answers of every kind.

use hyper::Response;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::ext::ReasonPhrase;
use hyper::header::{CONTENT_TYPE, HeaderValue};

use super::Answer;
use super::authorization::Denied;
use super::response_body::ResponseBody;
use crate::serve::bounds::LimitReached;
use crate::serve::log::Log;
use crate::serve::notices::ServerFact;
use crate::serve::semaphores::SemaphoreError;

/// Why something cannot be done now. `cli/messages/refusals.rs` has the words.
#[derive(Debug)]
pub(crate) enum Refusal {
    Full(LimitReached),
    /// As many long answers as there may be are on their way.
    LongAnswers,
    /// There are as many connections as there may be.
    Connections,
    /// The disk does not take them, with what the system says.
    LimitNotRecorded(String),
    GrantNotRecorded(String),
}

pub(super) fn refused_for(refused: SemaphoreError) -> Answer {
    match refused {
        SemaphoreError::Unknown => empty(StatusCode::NOT_FOUND),
        SemaphoreError::NotHolder => empty(StatusCode::UNPROCESSABLE_ENTITY),
        SemaphoreError::Full(full) => refusal(&Refusal::Full(full)),
    }
}

pub(super) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(ResponseBody::text(Bytes::new()));
    *answer.status_mut() = status;
    // Node's clients close idle connections a little earlier than this, and so never race with us.
    answer.headers_mut().insert("keep-alive", HeaderValue::from_static("timeout=5"));
    answer
}

pub(super) fn not_allowed(forbidden: Denied) -> Answer {
    let mut answer = empty(StatusCode::FORBIDDEN);
    *answer.body_mut() = ResponseBody::text(forbidden.to_string());
    answer
}

/// To a client of ours that speaks another version. It would misread our answer, or take it for one
/// of the original.
pub(super) fn of_another_version(version: &HeaderValue, log: &Log) -> Answer {
    let version = String::from_utf8_lossy(version.as_bytes());
    let mut answer = empty(StatusCode::FORBIDDEN);
    *answer.body_mut() = ResponseBody::text(log.words(&ServerFact::OtherVersion(&version)));
    answer
}

pub(super) fn too_many_connections() -> Answer {
    refusal(&Refusal::LongAnswers)
}

/// It cannot be done now.
pub(super) fn refusal(why: &Refusal) -> Answer {
    let mut answer = empty(StatusCode::SERVICE_UNAVAILABLE);
    *answer.body_mut() = ResponseBody::text(why.to_string());
    answer
}

/// A waiter or holder that is removed for another reason than its release.
pub(super) fn removed() -> Answer {
    let mut answer = empty(StatusCode::INTERNAL_SERVER_ERROR);
    let reason = ReasonPhrase::from_static(b"Requesting client closed connection.");
    answer.extensions_mut().insert(reason);
    answer
}

pub(super) fn with_content_type(kind: &'static str, text: String) -> Answer {
    let mut answer = empty(StatusCode::OK);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    *answer.body_mut() = ResponseBody::text(text);
    answer
}

pub(super) fn html(text: String) -> Answer {
    with_content_type("text/html; charset=utf-8", text)
}

pub(super) fn plain_json(value: &impl serde::Serialize) -> Answer {
    with_content_type("application/json", serde_json::to_string(value).expect("plain data"))
}
