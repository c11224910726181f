//! Answers in all their kinds.

use hyper::Response;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::ext::ReasonPhrase;
use hyper::header::{CONTENT_TYPE, HeaderValue};

use super::Answer;
use super::content::Content;
use super::rights::Forbidden;
use crate::cli::messages::OtherVersion;
use crate::serve::semaphores::Refused;

pub(super) fn refused_for(refused: Refused) -> Answer {
    match refused {
        Refused::Unknown => empty(StatusCode::NOT_FOUND),
        Refused::NotHolder => empty(StatusCode::UNPROCESSABLE_ENTITY),
        Refused::Full(full) => refusal(full.to_string()),
    }
}

pub(super) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Content::text(Bytes::new()));
    *answer.status_mut() = status;
    // Node's clients close what they do not use a little earlier, and so never race with us.
    answer.headers_mut().insert("keep-alive", HeaderValue::from_static("timeout=5"));
    answer
}

pub(super) fn not_allowed(forbidden: Forbidden) -> Answer {
    let mut answer = empty(StatusCode::FORBIDDEN);
    *answer.body_mut() = Content::text(forbidden.to_string());
    answer
}

/// To a client of ours that speaks another version. It would take what it was answered for something
/// else, or for an answer of the original.
pub(super) fn of_another_version(version: &HeaderValue) -> Answer {
    let version = String::from_utf8_lossy(version.as_bytes());
    let mut answer = empty(StatusCode::FORBIDDEN);
    *answer.body_mut() = Content::text(OtherVersion::Client(&version).to_string());
    answer
}

pub(super) fn crowded() -> Answer {
    refusal("too many long answers are on their way; ask again".into())
}

/// It cannot be done now.
pub(super) fn refusal(why: String) -> Answer {
    let mut answer = empty(StatusCode::SERVICE_UNAVAILABLE);
    *answer.body_mut() = Content::text(why);
    answer
}

/// One that waited, or held, and does not any more, for another reason than its release.
pub(super) fn removed() -> Answer {
    let mut answer = empty(StatusCode::INTERNAL_SERVER_ERROR);
    let reason = ReasonPhrase::from_static(b"Requesting client closed connection.");
    answer.extensions_mut().insert(reason);
    answer
}

pub(super) fn typed(kind: &'static str, text: String) -> Answer {
    let mut answer = empty(StatusCode::OK);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    *answer.body_mut() = Content::text(text);
    answer
}

pub(super) fn html(text: String) -> Answer {
    typed("text/html; charset=utf-8", text)
}

pub(super) fn plain_json(value: &impl serde::Serialize) -> Answer {
    typed("application/json", serde_json::to_string(value).expect("plain data"))
}
