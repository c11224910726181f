//! Parsing a request: its route and parameters, as the original reads them.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Version};
use percent_encoding::percent_decode;
use serde_json::Value;
use uuid::Uuid;

use super::{DeniedAction, RequestKind};
use crate::backends::cloud::protocol::{
    ABOUT, EVENTS, EXECUTE, ID_HEADER, KEY_HEADER, LIST, MOST_REQUESTS, NamedRequest,
    VERSION_HEADER,
};
use crate::permits::Terms;
use crate::request::Operation;

/// The largest body that is read, the largest one with requests of ours, and how long it may take to
/// come.
pub(super) const LARGEST_BODY: usize = 16 * 1024;
pub(super) const LARGEST_BATCH: usize = 256 * 1024;
const SLOWEST_BODY: Duration = Duration::from_secs(5);

/// The longest name, in bytes. The protocol knows no bound, and our own client has 200.
pub(super) const LONGEST_NAME: usize = 4096;

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
    Execute,
    Events,
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
            EXECUTE => (Method::POST, Self::Execute),
            EVENTS => (Method::GET, Self::Events),
            LIST => (Method::GET, Self::List),
            ABOUT => (Method::GET, Self::About),
            _ => return None,
        };
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        (*method == method_of_it).then_some(route)
    }

    /// What the key has to allow, unless each of the requests or names within is asked about.
    pub(super) fn action(self) -> Option<DeniedAction> {
        match self {
            Self::About | Self::List | Self::Execute => None,
            Self::Observe => Some(DeniedAction::Look),
            Self::Register => Some(DeniedAction::Take),
            Self::Attach(_) | Self::Events => Some(DeniedAction::Wait),
            Self::Signal => Some(DeniedAction::GiveBack),
            Self::LogConfig => Some(DeniedAction::ChangeLog),
        }
    }

    /// Whether it is about one name.
    pub(super) fn has_name(self) -> bool {
        !matches!(self, Self::LogConfig | Self::Events)
    }
}

/// Whether each header that matters is there only once: of two keys a gateway may check one and we
/// the other.
pub(super) fn is_clear(head: &Parts) -> bool {
    const DECIDING: [&str; 5] = ["host", "content-type", KEY_HEADER, VERSION_HEADER, ID_HEADER];
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
    let bytes = read(body, LARGEST_BODY).await?;
    if bytes.is_empty() {
        return Ok(None);
    }
    // As Express does: nothing but objects and arrays.
    let json: Value = serde_json::from_slice(&bytes).map_err(drop)?;
    if json.is_object() || json.is_array() { Ok(Some(json)) } else { Err(()) }
}

/// The requests of one of our clients.
pub(super) async fn read_requests<B>(body: B) -> Result<Vec<NamedRequest>, ()>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    requests_in(&read(body, LARGEST_BATCH).await?)
}

fn requests_in(bytes: &[u8]) -> Result<Vec<NamedRequest>, ()> {
    let requests: Vec<NamedRequest> = serde_json::from_slice(bytes).map_err(drop)?;
    if requests.len() > MOST_REQUESTS { Err(()) } else { Ok(requests) }
}

async fn read<B>(body: B, most: usize) -> Result<Bytes, ()>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let read = tokio::time::timeout(SLOWEST_BODY, Limited::new(body, most).collect());
    Ok(read.await.map_err(drop)?.map_err(drop)?.to_bytes())
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

/// What one of our clients asks for, if a semaphore can have it.
pub(super) fn sensible(named: NamedRequest) -> Option<NamedRequest> {
    let NamedRequest { name, mut request } = named;
    let terms = request.terms;
    let is_sensible = name.len() <= LONGEST_NAME
        && match request.operation {
            Operation::Acquire => terms.are_possible() && request.client.is_some(),
            Operation::Pin => Terms::LIMITS.contains(&terms.limit),
            _ => true,
        };
    if let Some(client) = &mut request.client {
        let client = Arc::make_mut(client);
        for text in [&mut client.label, &mut client.host, &mut client.user] {
            text.truncate(text.floor_char_boundary(LONGEST_TEXT));
        }
    }
    is_sensible.then_some(NamedRequest { name, request })
}

/// A request as a function of bytes: a line with its path and query, one for each header, and its body.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let mut lines = bytes.splitn(8, |byte| *byte == b'\n');
    let target = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    for method in [Method::GET, Method::HEAD, Method::PATCH, Method::POST] {
        let _ = Route::of(&method, path);
    }
    let name = name_in(query);
    assert!(name.len() <= 3 * query.len() + 9, "{name:?}");
    for line in lines {
        for named in requests_in(line).into_iter().flatten().filter_map(sensible) {
            let label = named.request.client.as_ref().map_or("", |client| &client.label);
            assert!(label.len() < 2_000 && named.name.len() <= LONGEST_NAME);
        }
        let Ok(value) = HeaderValue::from_bytes(line) else { continue };
        let mut headers = HeaderMap::new();
        headers.insert(ID_HEADER, value.clone());
        headers.insert(CONTENT_TYPE, value);
        let _ = (id_in(&headers), is_json(&headers));
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
