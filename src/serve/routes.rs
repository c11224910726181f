//! One request in, one answer out: the cloud-semaphore protocol, and what our own client needs
//! beside it. Whatever is asked gets an answer.

mod authorization;
mod ours;
pub(crate) mod request;
mod response_body;
mod responses;

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::body::{Body, Bytes};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};
use serde_json::Value;
use uuid::Uuid;

pub(crate) use self::authorization::{Denied, DeniedAction};
use self::authorization::{Ownership, authorize};
use self::ours::event_stream;
use self::request::{LONGEST_NAME, Route, id_in, is_clear, is_json, name_in, read_json};
use self::response_body::{LongAnswers, ResponseBody};
pub(crate) use self::responses::Refusal;
use self::responses::{
    empty, html, not_allowed, of_another_version, plain_json, refusal, refused_for, removed,
    too_many_connections, with_content_type,
};
use super::bearer::Actor;
use super::keys::ApiKeys;
use super::log::{self, LogEvent};
use super::peer_stream::Peer;
use super::rejected_keys::RejectedKeys;
use super::semaphores::{AttachedRequest, RequestEnd, RequestKind, Semaphores};
use crate::backends::cloud::protocol::{KEY_HEADER, ServerInfo, VERSION, VERSION_HEADER};
use crate::permits::json::millis;

/// Answers requests.
pub(crate) struct Routes {
    pub(crate) semaphores: Rc<Semaphores>,
    /// Others may take their place while the server runs.
    pub(crate) keys: RefCell<Rc<ApiKeys>>,
    pub(super) failures: RejectedKeys,
    long_answers: LongAnswers,
}

type Answer = Response<ResponseBody>;

/// A request that is understood, and may be made.
struct RequestedAction {
    route: Route,
    /// Whether one of our own clients asks.
    ours: bool,
    name: Rc<str>,
    id: Option<Uuid>,
    actor: Actor,
    json: Option<Value>,
}

/// The result of a request.
enum RouteResult {
    Answered(Answer),
    /// It stays open until there is something to answer.
    Open(AttachedRequest, RequestKind),
    /// It is answered once it is on record, or that has failed.
    Changed(Answer),
    /// What this client wants is in the body.
    InBody(Actor),
}

impl Routes {
    pub(crate) fn new(semaphores: Rc<Semaphores>, keys: ApiKeys) -> Rc<Self> {
        let (failures, long_answers) = (RejectedKeys::default(), LongAnswers::default());
        let keys = RefCell::new(Rc::new(keys));
        Rc::new(Self { semaphores, keys, failures, long_answers })
    }

    /// Does what a request wants. What can be done at once is done by this call, and not when the
    /// answer is awaited: a connection may end before that.
    pub(crate) fn answer<B>(
        self: Rc<Self>,
        request: Request<B>,
        peer: Peer,
    ) -> impl Future<Output = Result<Answer, Infallible>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let asking = peer.connection().open_request();
        let (head, body) = request.into_parts();
        let version = head.headers.get(VERSION_HEADER).cloned();
        let ours = version.as_ref().is_some_and(|version| version == VERSION);
        let log = &self.semaphores.log;
        log.catch_up();
        let line =
            log.logs(LogEvent::Debug).then(|| format!("{} {}", head.method, head.uri.path()));
        let in_body = Route::of(&head.method, head.uri.path()) == Some(Route::Execute);
        let ready = if is_json(&head.headers) && !in_body {
            Err((head, body))
        } else {
            Ok((self.begin(&head, Ok(None), ours, &peer), in_body.then_some(body)))
        };
        async move {
            // Thousands of requests stay open, so only what is needed of them is kept.
            let (done, body) = match ready {
                Ok(begun) => begun,
                Err((head, body)) => {
                    let json = read_json(body).await;
                    (self.begin(&head, json, ours, &peer), None)
                }
            };
            let mut answer = match done {
                RouteResult::Answered(answer) => answer,
                RouteResult::Open(attached, which) => self.verdict(attached, which, &peer).await,
                RouteResult::Changed(answer) => {
                    // The waiter for this is told first.
                    tokio::task::yield_now().await;
                    // Otherwise a server that ends now takes it for held when it restarts. If it
                    // cannot be written, it is given back all the same.
                    let _ = self.semaphores.journal.written().await;
                    answer
                }
                RouteResult::InBody(actor) => match body {
                    Some(body) => self.execute_all(body, &actor, &peer).await,
                    None => empty(StatusCode::BAD_REQUEST),
                },
            };
            // With the client's version, so that a client of another version takes it for an answer
            // of ours, and shows it.
            if let Some(version) = version {
                answer.headers_mut().insert(VERSION_HEADER, version);
            }
            if let Some(line) = line {
                let status = answer.status().as_u16();
                self.semaphores.log.log_text(LogEvent::Debug, &format!("{line}: {status}"));
            }
            answer.body_mut().asking = Some(asking);
            Ok(answer)
        }
    }

    fn begin(
        &self,
        head: &Parts,
        json: Result<Option<Value>, ()>,
        ours: bool,
        peer: &Peer,
    ) -> RouteResult {
        if let Some(version) = head.headers.get(VERSION_HEADER).filter(|_| !ours && is_clear(head))
        {
            return RouteResult::Answered(of_another_version(version, &self.semaphores.log));
        }
        match self.parse(head, json, ours, peer) {
            Ok(wanted) => self.act(wanted, peer),
            Err(status) => {
                let mut answer = empty(status);
                // Its key is not valid any more, so it leaves the room of known clients.
                if status == StatusCode::UNAUTHORIZED && peer.connection().is_known() {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                RouteResult::Answered(answer)
            }
        }
    }

    fn parse(
        &self,
        head: &Parts,
        json: Result<Option<Value>, ()>,
        ours: bool,
        peer: &Peer,
    ) -> Result<RequestedAction, StatusCode> {
        if !is_clear(head) {
            return Err(StatusCode::BAD_REQUEST);
        }
        // In the order of the original: the body, the path, the key.
        let json = json.map_err(|()| StatusCode::BAD_REQUEST)?;
        let route = Route::of(&head.method, head.uri.path()).ok_or(StatusCode::NOT_FOUND)?;
        let key = head.headers.get(KEY_HEADER).map_or(&b""[..], HeaderValue::as_bytes);
        let address = peer.connection().address();
        let Some(bearer) = self.keys.borrow().bearer(key) else {
            // A client without a key, a load balancer say, does not guess.
            if !key.is_empty() {
                self.failures.add(address, &self.semaphores.log);
            }
            return Err(StatusCode::UNAUTHORIZED);
        };
        let actor = Actor { bearer, from: Some(address) };
        peer.connection().shows_key();
        let name = name_in(head.uri.query().unwrap_or_default());
        if name.len() > LONGEST_NAME {
            return Err(StatusCode::BAD_REQUEST);
        }
        let (name, id) = (self.semaphores.known(name), id_in(&head.headers));
        Ok(RequestedAction { route, ours, name, id, actor, json })
    }

    /// Whose permit, or place in the queue, this is.
    fn whose(&self, name: &str, id: Option<Uuid>, actor: &Actor) -> Ownership {
        match id.and_then(|id| self.semaphores.taker(name, id)) {
            None => Ownership::Nobodys,
            Some(taker) if actor.bearer.owns(&taker) => Ownership::Own,
            Some(_) => Ownership::Anothers,
        }
    }

    /// Does what is wanted, as far as that can be done at once.
    fn act(&self, wanted: RequestedAction, peer: &Peer) -> RouteResult {
        let RequestedAction { route, ours, name, id, actor, json } = wanted;
        let its_name = route.has_name().then_some(&*name);
        let whose = self.whose(&name, id, &actor);
        if let Some(what) = route.action()
            && let Err(denied) = authorize(&actor.bearer, what, its_name, whose)
        {
            return RouteResult::Answered(not_allowed(denied));
        }
        let semaphores = &self.semaphores;
        RouteResult::Answered(match (route, id) {
            (Route::Execute, _) => return RouteResult::InBody(actor),
            (Route::Events, Some(id)) => {
                let (greeting, events) = semaphores.listen(id, &actor.bearer);
                event_stream(&greeting, events, peer)
            }
            (Route::Events, None) => empty(StatusCode::BAD_REQUEST),
            (Route::Register, _) => match semaphores.register(&name, actor) {
                Ok(id) => html(id.to_string()),
                Err(refused) => refused_for(refused),
            },
            // It lives as long as this connection, which does not last.
            (Route::Attach(_), Some(_)) if !peer.connection().is_known() => {
                refusal(&Refusal::Connections)
            }
            (Route::Attach(which), Some(id)) => match semaphores.attach(&name, id, which, &actor) {
                Ok(attached) => return RouteResult::Open(attached, which),
                Err(refused) => refused_for(refused),
            },
            (Route::Attach(_), None) => empty(StatusCode::NOT_FOUND),
            (Route::Signal, id) => {
                let done = semaphores.signal(&name, id.unwrap_or_default(), actor);
                return RouteResult::Changed(
                    done.map_or_else(refused_for, |()| empty(StatusCode::OK)),
                );
            }
            // Not made first and then refused.
            (Route::Observe, _) if !self.long_answers.has_room(semaphores.size(&name)) => {
                too_many_connections()
            }
            (Route::Observe, _) if ours => {
                self.long(plain_json(&semaphores.look(&name, &actor.bearer)))
            }
            (Route::Observe, _) => {
                self.long(html(semaphores.observe(&name, &actor.bearer).unwrap_or_default()))
            }
            (Route::LogConfig, _) => self.configure(json, &actor),
            (Route::About, _) => plain_json(&self.about()),
            (Route::List, _) => self.long(plain_json(&semaphores.page(&name, &actor.bearer))),
        })
    }

    /// Waits until the permit is granted, or the place or permit is lost.
    async fn verdict(&self, attached: AttachedRequest, which: RequestKind, peer: &Peer) -> Answer {
        match (which, ending(attached, peer).await) {
            (RequestKind::Wait, RequestEnd::Granted) => {
                // No client is told of what would be forgotten.
                self.semaphores.journal.certainly_written().await;
                empty(StatusCode::OK)
            }
            (RequestKind::Monitor, RequestEnd::Released) => empty(StatusCode::OK),
            _ => removed(),
        }
    }

    /// An answer that may be long, if it may be on its way beside others.
    fn long(&self, answer: Answer) -> Answer {
        let (head, ResponseBody { first, .. }) = answer.into_parts();
        match self.long_answers.hold(first.unwrap_or_default()) {
            Some(text) => Response::from_parts(head, ResponseBody::text(text)),
            None => too_many_connections(),
        }
    }

    fn about(&self) -> ServerInfo {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let remembers = self.semaphores.journal.remembers();
        ServerInfo { version: env!("CARGO_PKG_VERSION").into(), remembers, time_ms: millis(now) }
    }

    fn configure(&self, json: Option<Value>, actor: &Actor) -> Answer {
        let log = &self.semaphores.log;
        match json.map_or(Ok(()), |json| log.configure_for(actor, &json)) {
            Ok(()) => with_content_type("application/json; charset=utf-8", log.configuration()),
            Err(log::LogConfigError::Unknown) => empty(StatusCode::OK),
            Err(log::LogConfigError::Null) => empty(StatusCode::NOT_FOUND),
        }
    }
}

/// Waits for the end of a request that stays open. The end of its connection counts too: its client
/// has gone, whatever bytes are still unread.
async fn ending(mut attached: AttachedRequest, peer: &Peer) -> RequestEnd {
    tokio::select! {
        biased;
        verdict = attached.verdict() => verdict,
        () = peer.stage() => RequestEnd::Removed,
    }
}

#[cfg(test)]
mod tests;
