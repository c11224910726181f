//! Parsing a request: its route and parameters, as the original reads them.

use std::ops::RangeInclusive;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Version};
use percent_encoding::percent_decode;
use serde_json::Value;
use uuid::Uuid;

use super::RequestKind;
use crate::backends::Revocation;
use crate::backends::cloud::protocol::{
    ABOUT, ASK_HEADER, HOW, HOW_HEADER, ID_HEADER, KEY_HEADER, LIMIT, LIMIT_HEADER, LIST, RENEW,
    RETURN, REVOKE, RegisterRequest, VERSION_HEADER,
};

/// The largest body that is read, and how long it may take to come.
const LARGEST_BODY: usize = 16 * 1024;
const SLOWEST_BODY: Duration = Duration::from_secs(5);

/// The longest text that is kept of what a client says of itself, in bytes: there are many, and all
/// are listed.
const LONGEST_TEXT: usize = 1024;

/// What is asked for, by path and method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Register,
    Attach(RequestKind),
    Signal,
    Observe,
    LogConfig,
    Renew,
    Return,
    Revoke,
    Limit,
    List,
    About,
}

impl Route {
    pub(super) fn of(method: &Method, path: &str) -> Option<Self> {
        // As Express does: in any case, with or without a slash at the end.
        let path = path.to_ascii_lowercase();
        let path = path.strip_suffix('/').unwrap_or(&path);
        let (method_of_it, route) = match path {
            "/semaphore/register" => (Method::GET, Self::Register),
            "/semaphore/monitor" => (Method::GET, Self::Attach(RequestKind::Monitor)),
            "/semaphore/wait" => (Method::GET, Self::Attach(RequestKind::Wait)),
            "/semaphore/signal" => (Method::GET, Self::Signal),
            "/semaphore/observe" => (Method::GET, Self::Observe),
            "/logconfig" => (Method::PATCH, Self::LogConfig),
            RENEW => (Method::POST, Self::Renew),
            RETURN => (Method::POST, Self::Return),
            REVOKE => (Method::POST, Self::Revoke),
            LIMIT if *method == Method::DELETE => (Method::DELETE, Self::Limit),
            LIMIT => (Method::POST, Self::Limit),
            LIST => (Method::GET, Self::List),
            ABOUT => (Method::GET, Self::About),
            _ => return None,
        };
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        (*method == method_of_it).then_some(route)
    }
}

/// Whether each header that matters is there only once: of two keys a gateway may check one and we
/// the other.
pub(super) fn is_clear(head: &Parts) -> bool {
    const DECIDING: [&str; 8] = [
        "host",
        "content-type",
        KEY_HEADER,
        VERSION_HEADER,
        ID_HEADER,
        ASK_HEADER,
        HOW_HEADER,
        LIMIT_HEADER,
    ];
    let headers = &head.headers;
    let once = |name: &&str| headers.get_all(*name).iter().nth(1).is_none();
    DECIDING.iter().all(once) && (head.version < Version::HTTP_11 || headers.contains_key(HOST))
}

pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    kind.eq_ignore_ascii_case(b"application/json")
}

/// A body that is said to be JSON, if it has anything.
pub(super) async fn read_json<B>(body: B) -> Result<Option<Value>, ()>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let read = tokio::time::timeout(SLOWEST_BODY, Limited::new(body, LARGEST_BODY).collect());
    let bytes = read.await.map_err(drop)?.map_err(drop)?.to_bytes();
    if bytes.is_empty() {
        return Ok(None);
    }
    // As Express does: nothing but objects and arrays.
    let json: Value = serde_json::from_slice(&bytes).map_err(drop)?;
    if json.is_object() || json.is_array() { Ok(Some(json)) } else { Err(()) }
}

/// The semaphore that a query names. One without a name is `undefined`, as in the original.
pub(super) fn name_in(query: &str) -> String {
    let decoded = |text: &str| {
        let spaced = text.replace('+', " ");
        percent_decode(spaced.as_bytes()).decode_utf8_lossy().into_owned()
    };
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let names = pairs.filter(|(key, _)| decoded(key) == "name").map(|(_, value)| decoded(value));
    let names: Vec<_> = names.collect();
    if names.is_empty() { "undefined".into() } else { names.join(",") }
}

/// The client that a request is about. None for what is no identity of ours.
pub(super) fn id_in(headers: &HeaderMap) -> Option<Uuid> {
    let text = headers.get(ID_HEADER)?.to_str().ok()?;
    let id = Uuid::parse_str(text).ok()?;
    (id.to_string() == text).then_some(id)
}

/// What one of our clients asks for, if it is valid.
pub(super) fn asking_in(text: &[u8]) -> Option<RegisterRequest> {
    const LONGEST: u64 = 1000 * 60 * 60 * 24 * 366 * 100;
    let mut asking: RegisterRequest = serde_json::from_slice(text).ok()?;
    for text in [&mut asking.who.label, &mut asking.who.host, &mut asking.who.user] {
        text.truncate(text.floor_char_boundary(LONGEST_TEXT));
    }
    let sensible = LIMITS.contains(&asking.limit)
        && (1..=LONGEST).contains(&asking.ttl_ms)
        && asking.min_hold_ms <= LONGEST;
    sensible.then_some(asking)
}

/// How a permit is to be revoked.
pub(super) fn how_in(headers: &HeaderMap) -> Option<Revocation> {
    let text = headers.get(HOW_HEADER)?;
    HOW.iter().find(|(word, _)| text == word).map(|(_, how)| *how)
}

/// How to change a limit.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pinning {
    To(u32),
    Off,
}

impl Pinning {
    pub(super) fn limit(self) -> Option<u32> {
        match self {
            Self::To(limit) => Some(limit),
            Self::Off => None,
        }
    }
}

pub(super) fn pinning_in(method: &Method, headers: &HeaderMap) -> Option<Pinning> {
    if *method == Method::DELETE {
        return Some(Pinning::Off);
    }
    let text = headers.get(LIMIT_HEADER)?.to_str().ok()?;
    text.parse().ok().filter(|limit| LIMITS.contains(limit)).map(Pinning::To)
}

const LIMITS: RangeInclusive<u32> = 1..=10_000;

/// A request as a function of bytes: a line with its path and query, one for each header, and its body.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let mut lines = bytes.splitn(8, |byte| *byte == b'\n');
    let target = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    for method in [Method::GET, Method::HEAD, Method::PATCH, Method::POST, Method::DELETE] {
        let _ = Route::of(&method, path);
    }
    let name = name_in(query);
    assert!(name.len() <= 3 * query.len() + 9, "{name:?}");
    for line in lines {
        if let Some(asking) = asking_in(line) {
            assert!(LIMITS.contains(&asking.limit) && asking.who.label.len() < 2_000);
        }
        let Ok(value) = HeaderValue::from_bytes(line) else { continue };
        let mut headers = HeaderMap::new();
        for header in [ID_HEADER, HOW_HEADER, LIMIT_HEADER] {
            headers.insert(header, value.clone());
        }
        headers.insert(CONTENT_TYPE, value);
        let _ = (id_in(&headers), how_in(&headers), is_json(&headers));
        if let Some(limit) = pinning_in(&Method::POST, &headers).and_then(Pinning::limit) {
            assert!(LIMITS.contains(&limit));
        }
    }
    let body = http_body_util::Full::new(Bytes::copy_from_slice(bytes));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let read = runtime.expect("a runtime").block_on(read_json(body));
    if let Ok(Some(change)) = read {
        let log = crate::serve::log::Log::new(
            &[],
            crate::serve::log::Format::Json,
            crate::serve::log::Sink::TEST,
        );
        let _ = log.configure(&change);
        let again: Value = serde_json::from_str(&log.configuration()).expect("JSON");
        assert_eq!(log.configure(&again), Ok(()));
    }
}
