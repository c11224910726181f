//! Tests: names and paths as the original reads them, and random requests in random order.

use std::collections::HashMap;

use http_body_util::BodyExt;
use hyper::Method;
use hyper::header::HOST;
use proptest::prelude::*;

use super::*;
use crate::backends::cloud::protocol::{
    ABOUT, HOW_HEADER, ID_HEADER, LIMIT, LIMIT_HEADER, RENEW, RETURN, REVOKE,
};
use crate::serve::bearer::Bearer;
use crate::serve::connections::{ConnectionLimits, Connections};

#[test]
fn a_name_is_what_the_original_makes_of_it() {
    for (query, name) in [
        ("name=deploy", "deploy"),
        ("name=a%20b+c", "a b c"),
        ("name=%41&x=1", "A"),
        ("x=1", "undefined"),
        ("", "undefined"),
        ("name=", ""),
        ("name", ""),
        ("name=a&name=b", "a,b"),
        ("n%61me=a", "a"),
        ("name=%E6%97%A5", "日"),
        ("name=%zz%", "%zz%"),
        ("name=a=b", "a=b"),
    ] {
        assert_eq!(name_in(query), name, "{query}");
    }
}

#[test]
fn paths_are_found_in_any_case() {
    let route = |method, path| Route::of(&method, path);
    assert_eq!(route(Method::GET, "/Semaphore/REGISTER/"), Some(Route::Register));
    assert_eq!(route(Method::HEAD, "/semaphore/observe"), Some(Route::Observe));
    assert_eq!(route(Method::PATCH, "/logconfig"), Some(Route::LogConfig));
    assert_eq!(route(Method::POST, "/semrun/REVOKE"), Some(Route::Revoke));
    assert_eq!(route(Method::POST, "/semrun/limit"), Some(Route::Limit));
    assert_eq!(route(Method::DELETE, "/semrun/limit"), Some(Route::Limit));
    for (method, path) in [
        (Method::GET, "/logconfig"),
        (Method::POST, "/semaphore/register"),
        (Method::GET, "/semaphore/register//"),
        (Method::GET, "/"),
        (Method::HEAD, "/logconfig"),
        (Method::GET, RENEW),
        (Method::GET, RETURN),
        (Method::GET, REVOKE),
        (Method::GET, LIMIT),
        (Method::HEAD, LIMIT),
        (Method::DELETE, REVOKE),
    ] {
        assert_eq!(route(method, path), None, "{path}");
    }
}

const KEY: &str = "a-key-for-tests";

fn routes() -> Rc<Routes> {
    let log = log::Log::new(&[], log::Format::Text, log::Sink::TEST);
    let journal = crate::serve::journal::Journal::none();
    let semaphores = Semaphores::new(
        journal,
        crate::serve::journal::RestoredState::default(),
        crate::serve::bounds::Bounds::default(),
        log,
    );
    Routes::new(semaphores, ApiKeys::of_words(KEY).unwrap())
}

/// A key that may do everything.
fn unrestricted() -> Rc<Bearer> {
    Actor::from("").bearer
}

/// The only connection to a server.
fn alone(stream: tokio::net::TcpStream) -> Peer {
    let door = Connections::new(ConnectionLimits::within(1024, None, None));
    let address = stream.peer_addr().unwrap().ip();
    Peer::new(stream, door.enter(address))
}

/// A request of any client, about one of a few semaphores and clients.
#[derive(Debug, Clone)]
struct SentRequest {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// The identity that it carries, of those that were given out.
    client: Option<usize>,
}

#[derive(Debug, Clone)]
enum RouteStep {
    Send(SentRequest),
    /// The connection of one of the requests that are open ends.
    Close(usize),
}

fn sensible() -> impl Strategy<Value = SentRequest> {
    let path = prop::sample::select(vec![
        "/semaphore/register",
        "/semaphore/monitor",
        "/semaphore/wait",
        "/semaphore/signal",
        "/semaphore/observe",
        RENEW,
        RETURN,
        REVOKE,
        LIMIT,
    ]);
    let name = prop::sample::select(vec!["?name=a", "?name=b", ""]);
    let ours = prop::option::of((0..4_u8, 0..3_u32, any::<bool>(), 0..9_u64));
    let how = prop::sample::select(vec!["gently", "now", "at once"]);
    let limit = prop::sample::select(vec!["none", "1", "2", "3", "0", "-1"]);
    let beyond = (how, limit, any::<bool>(), prop_oneof![Just(0), Just(60_000)]);
    let client = prop::option::of(0..6_usize);
    (path, name, ours, beyond, client).prop_map(|(path, name, ours, beyond, client)| {
        let (how, pinned, detached, min_hold) = beyond;
        let mut headers = vec![(KEY_HEADER, KEY.to_owned())];
        headers.extend([(HOW_HEADER, how.to_owned()), (LIMIT_HEADER, pinned.to_owned())]);
        if let Some((who, limit, nonblock, ticket)) = ours {
            let id = Uuid::from_u128(who.into());
            let who =
                format!(r#"{{"label":"l","host":"h","pid":1,"user":"u","detached":{detached}}}"#);
            headers.push((VERSION_HEADER, VERSION.to_owned()));
            headers.push((
                ASK_HEADER,
                format!(
                    r#"{{"id":"{id}","limit":{limit},"ttl_ms":60000,"min_hold_ms":{min_hold},"nonblock":{nonblock},"ticket":{ticket},"who":{who}}}"#
                ),
            ));
            if client.is_none() {
                headers.push((ID_HEADER, id.to_string()));
            }
        }
        let method = match path {
            LIMIT if pinned == "none" => "DELETE",
            RENEW | RETURN | REVOKE | LIMIT => "POST",
            _ => "GET",
        };
        SentRequest { method, path: format!("{path}{name}"), headers, body: vec![], client }
    })
}

fn junk() -> impl Strategy<Value = SentRequest> {
    let method = prop::sample::select(vec!["GET", "HEAD", "PATCH", "POST", "DELETE"]);
    let path = prop_oneof![
        Just("/logconfig".to_owned()),
        Just("/semaphore/register".to_owned()),
        "/[a-z/]{0,12}"
    ];
    let query = "[?][ -~&&[^#<>\"`{}| ]]{0,40}|";
    let name = prop::sample::select(vec![KEY_HEADER, ID_HEADER, VERSION_HEADER, ASK_HEADER]);
    let header = (name, "[ -~]{0,40}");
    let body = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        Just(br#"{"server":{"debug":false}}"#.to_vec()),
        Just(br#"{"server":null}"#.to_vec()),
    ];
    (method, path, query, prop::collection::vec(header, 0..4), body, any::<bool>()).prop_map(
        |(method, path, query, mut headers, body, json)| {
            if json {
                headers.push(("content-type", "application/json".into()));
            }
            SentRequest { method, path: format!("{path}{query}"), headers, body, client: None }
        },
    )
}

fn step() -> impl Strategy<Value = RouteStep> {
    prop_oneof![
        6 => sensible().prop_map(RouteStep::Send),
        1 => junk().prop_map(RouteStep::Send),
        2 => (0..20_usize).prop_map(RouteStep::Close),
    ]
}

/// Lets everything happen that can.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

async fn any_history(steps: Vec<RouteStep>) {
    let routes = routes();
    // A client that stays.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connected = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
    let (_stays, peer) = (connected.0.unwrap(), alone(connected.1.unwrap().0));
    let mut open = Vec::new();
    let mut clients: Vec<Uuid> = Vec::new();
    let mut held: HashMap<&str, usize> = HashMap::new();
    for step in steps {
        match step {
            RouteStep::Send(SentRequest { method, path, mut headers, body, client }) => {
                if let Some(id) = client.and_then(|client| clients.get(client)) {
                    headers.push((ID_HEADER, id.to_string()));
                }
                let mut request =
                    Request::builder().method(method).uri(path.as_str()).header(HOST, "x");
                for (name, value) in headers {
                    request = request.header(name, value);
                }
                let Ok(request) = request.body(http_body_util::Full::from(body)) else {
                    continue;
                };
                open.push(tokio::task::spawn_local(
                    Rc::clone(&routes).answer(request, peer.clone()),
                ));
            }
            RouteStep::Close(which) if which < open.len() => open.swap_remove(which).abort(),
            RouteStep::Close(_) => {}
        }
        settle().await;
        let mut waiting = Vec::new();
        for request in open {
            if !request.is_finished() {
                waiting.push(request);
                continue;
            }
            let Ok(Ok(answer)) = request.await else { continue };
            let status = answer.status().as_u16();
            assert!([200, 400, 401, 403, 404, 422, 500, 503].contains(&status), "{status}");
            // What one of ours waits with stays open.
            if answer.body().then.is_some() {
                waiting.push(tokio::task::spawn_local(async move {
                    let _ = answer.into_body().collect().await;
                    Ok(empty(StatusCode::OK))
                }));
                continue;
            }
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            clients.extend(std::str::from_utf8(&body).ok().and_then(|id| Uuid::parse_str(id).ok()));
        }
        open = waiting;
        for name in ["a", "b", "undefined"] {
            let look = routes.semaphores.look(&name.into(), &unrestricted());
            let limit = look.limit.unwrap_or(1) as usize;
            let alone = look.holders.iter().any(|party| party.record.is_none());
            // A limit that was lowered stops no holder.
            let most = if alone { 1 } else { limit.max(held.get(name).copied().unwrap_or(0)) };
            assert!(look.holders.len() <= most, "{look:?}");
            held.insert(name, look.holders.len());
            assert!(
                !look.holders.is_empty() || look.waiters.iter().all(|one| one.record.is_some())
            );
            let observed = routes.semaphores.observe(&name.into(), &unrestricted());
            if let Some(observed) = observed {
                serde_json::from_str::<Value>(&observed).unwrap();
            }
        }
    }
    // Once all connections have ended, and ours have given back what they had, no holder is left.
    open.iter().for_each(tokio::task::JoinHandle::abort);
    settle().await;
    for name in ["a", "b", "undefined"] {
        for who in 0..4_u8 {
            let (name, id) = (name.into(), Uuid::from_u128(who.into()));
            let _ = routes.semaphores.signal(&name, id, "".into());
            // One that is kept is not free before it was revoked.
            routes.semaphores.revoke(&name, id, Revocation::Forced, "".into());
        }
        let look = routes.semaphores.look(&name.into(), &unrestricted());
        assert!(look.holders.is_empty() && look.waiters.is_empty(), "{look:?}");
    }
}

proptest! {
    #[test]
    fn any_requests_in_any_order_are_answered_and_leave_nothing(
        steps in prop::collection::vec(step(), 0..80)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, any_history(steps));
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_hears_now_and_then_that_the_server_is_there() {
    let beats = Some(interval_at(Instant::now() + BEAT, BEAT));
    let then: LocalFuture<'static, RequestEnd> = Box::pin(async {
        tokio::time::sleep(BEAT * 5 / 2).await;
        RequestEnd::Granted
    });
    let mut content =
        ResponseBody { first: Some("told\n".into()), then: Some(then), beats, asking: None };
    let began = Instant::now();
    let mut heard = Vec::new();
    while let Some(frame) = content.frame().await {
        let text = frame.unwrap().into_data().unwrap();
        heard.push((began.elapsed().as_secs(), String::from_utf8(text.into()).unwrap()));
    }
    let line = |at: u64, text: &str| (at, text.to_owned());
    // The last one is the grant.
    assert_eq!(heard, [line(0, "told\n"), line(10, "\n"), line(20, "\n"), line(25, "\n")]);
}

/// What a request of our client's is answered.
async fn answered(
    routes: &Rc<Routes>,
    path: &str,
    id: Option<Uuid>,
    header: (&'static str, &str),
) -> (u16, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connected = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
    let (_stays, peer) = (connected.0.unwrap(), alone(connected.1.unwrap().0));
    let method = match (path, header) {
        (LIMIT, (LIMIT_HEADER, "none")) => Method::DELETE,
        (RENEW | RETURN | REVOKE | LIMIT, _) => Method::POST,
        _ => Method::GET,
    };
    let request = Request::builder()
        .method(method)
        .uri(format!("{path}?name=a"))
        .header(KEY_HEADER, KEY)
        .header(HOST, "x")
        .header(VERSION_HEADER, VERSION)
        .header(header.0, header.1);
    let request = id.into_iter().fold(request, |to, id| to.header(ID_HEADER, id.to_string()));
    let request = request.body(http_body_util::Empty::<Bytes>::new()).unwrap();
    let answer = Rc::clone(routes).answer(request, peer).await.unwrap();
    assert_eq!(answer.headers().get(VERSION_HEADER).unwrap(), VERSION);
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.into()).unwrap())
}

const NOTHING: (&str, &str) = ("x-nothing", "");

#[tokio::test]
async fn what_says_too_little_changes_nothing() {
    let routes = routes();
    let id = Some(Uuid::new_v4());
    for (path, id, header) in [
        (REVOKE, id, NOTHING),
        (REVOKE, id, (HOW_HEADER, "quickly")),
        (REVOKE, None, (HOW_HEADER, "now")),
        (RETURN, None, NOTHING),
        (LIMIT, None, NOTHING),
        (LIMIT, None, (LIMIT_HEADER, "")),
        (LIMIT, None, (LIMIT_HEADER, "0")),
        (LIMIT, None, (LIMIT_HEADER, "10001")),
    ] {
        assert_eq!(answered(&routes, path, id, header).await.0, 400, "{path} {header:?}");
    }
    assert!(routes.semaphores.page("", &unrestricted()).semaphores.is_empty());
}

#[tokio::test]
async fn permits_are_revoked_and_limits_pinned_as_it_is_written() {
    let routes = routes();
    let id = Uuid::new_v4();
    let who = r#"{"label":"l","host":"h","pid":1,"user":"u","detached":true}"#;
    let asking =
        format!(r#"{{"id":"{id}","limit":1,"ttl_ms":60000,"min_hold_ms":60000,"who":{who}}}"#);
    let asked = answered(&routes, "/semaphore/register", None, (ASK_HEADER, &asking)).await;
    assert!(asked.1.contains(r#""outcome":"holding""#), "{asked:?}");
    let limit = answered(&routes, LIMIT, None, (LIMIT_HEADER, "3")).await;
    assert_eq!(limit, (200, String::new()));
    let now = answered(&routes, RETURN, Some(id), NOTHING).await;
    assert_eq!(now, (200, r#"{"outcome":"now"}"#.into()));
    let before = answered(&routes, RETURN, Some(id), NOTHING).await;
    assert_eq!(before.1, r#"{"outcome":"before"}"#);
    let (_, look) = answered(&routes, "/semaphore/observe", None, NOTHING).await;
    assert!(look.contains(r#""limit":3,"pinned":true"#), "{look}");
    assert!(look.contains(r#""phase":"min_hold""#), "{look}");
    for held in [true, false] {
        let revoked = answered(&routes, REVOKE, Some(id), (HOW_HEADER, "gently")).await;
        assert_eq!(revoked.1, format!(r#"{{"held":{held}}}"#));
    }
    answered(&routes, LIMIT, None, (LIMIT_HEADER, "none")).await;
    assert!(routes.semaphores.page("", &unrestricted()).semaphores.is_empty());
    let (_, about) = answered(&routes, ABOUT, None, NOTHING).await;
    assert!(about.contains(r#""remembers":false"#), "{about}");
}
