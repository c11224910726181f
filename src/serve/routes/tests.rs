//! Tests: names and paths as the original reads them, and random requests in random order.

use std::collections::HashMap;

use http_body_util::BodyExt;
use hyper::Method;
use hyper::header::HOST;
use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::backends::cloud::protocol::{ABOUT, EVENTS, EXECUTE, ID_HEADER};
use crate::permits::Revocation;
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
    assert_eq!(route(Method::POST, "/semrun/EXECUTE"), Some(Route::Execute));
    assert_eq!(route(Method::GET, "/semrun/events/"), Some(Route::Events));
    for (method, path) in [
        (Method::GET, "/logconfig"),
        (Method::POST, "/semaphore/register"),
        (Method::GET, "/semaphore/register//"),
        (Method::GET, "/"),
        (Method::HEAD, "/logconfig"),
        (Method::GET, EXECUTE),
        (Method::HEAD, EXECUTE),
        (Method::POST, EVENTS),
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
    ]);
    let name = prop::sample::select(vec!["?name=a", "?name=b", ""]);
    let client = prop::option::of(0..6_usize);
    (path, name, client).prop_map(|(path, name, client)| {
        let headers = vec![(KEY_HEADER, KEY.to_owned())];
        SentRequest { method: "GET", path: format!("{path}{name}"), headers, body: vec![], client }
    })
}

/// What one of our clients asks for.
fn of_ours() -> impl Strategy<Value = SentRequest> {
    let operation = prop::sample::select(vec![
        r#""acquire""#,
        r#""acquire""#,
        r#""renew""#,
        r#""release""#,
        r#""leave""#,
        r#""attach""#,
        r#""release_detached""#,
        r#"{"revoke":"gently"}"#,
        r#"{"revoke":"now"}"#,
        r#"{"revoke":"at once"}"#,
        r#""pin""#,
        r#""unpin""#,
    ]);
    let name = prop::sample::select(vec!["a", "b", "undefined"]);
    let terms = (0..4_u32, any::<bool>(), any::<bool>(), prop_oneof![Just(0), Just(60_000)]);
    let one = (operation, name, 0..4_u8, terms, 0..3_u8, 0..9_u64).prop_map(
        |(operation, name, who, (limit, nonblock, detached, min_hold), listener, ticket)| {
            let (id, listener) = (Uuid::from_u128(who.into()), Uuid::from_u128(listener.into()));
            let who =
                format!(r#"{{"label":"l","host":"h","pid":1,"user":"u","detached":{detached}}}"#);
            format!(
                r#"{{"name":"{name}","request":{{"operation":{operation},"id":"{id}","limit":{limit},"ttl_ms":60000,"min_hold_ms":{min_hold},"nonblock":{nonblock},"ticket":{ticket},"listener":"{listener}","client":{who}}}}}"#
            )
        },
    );
    let executes = prop::collection::vec(one, 0..4).prop_map(|requests| SentRequest {
        method: "POST",
        path: EXECUTE.to_owned(),
        headers: ours(),
        body: format!("[{}]", requests.join(",")).into_bytes(),
        client: None,
    });
    let listens = (1..3_u8).prop_map(|listener| {
        let id = Uuid::from_u128(listener.into()).to_string();
        let headers = [ours(), vec![(ID_HEADER, id)]].concat();
        SentRequest { method: "GET", path: EVENTS.to_owned(), headers, body: vec![], client: None }
    });
    prop_oneof![4 => executes, 1 => listens]
}

fn ours() -> Vec<(&'static str, String)> {
    vec![(KEY_HEADER, KEY.to_owned()), (VERSION_HEADER, VERSION.to_owned())]
}

fn junk() -> impl Strategy<Value = SentRequest> {
    let method = prop::sample::select(vec!["GET", "HEAD", "PATCH", "POST", "DELETE"]);
    let path = prop_oneof![
        Just("/logconfig".to_owned()),
        Just("/semaphore/register".to_owned()),
        Just(EXECUTE.to_owned()),
        "/[a-z/]{0,12}"
    ];
    let query = "[?][ -~&&[^#<>\"`{}| ]]{0,40}|";
    let name = prop::sample::select(vec![KEY_HEADER, ID_HEADER, VERSION_HEADER]);
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
        3 => sensible().prop_map(RouteStep::Send),
        3 => of_ours().prop_map(RouteStep::Send),
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
        let mut pins = false;
        match step {
            RouteStep::Send(SentRequest { method, path, mut headers, body, client }) => {
                if let Some(id) = client.and_then(|client| clients.get(client)) {
                    headers.push((ID_HEADER, id.to_string()));
                }
                pins = String::from_utf8_lossy(&body).contains("pin");
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
            // What one of ours listens to stays open.
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
            // A limit that was lowered stops no holder; it may have been raised in the same body.
            let before = if pins { 3 } else { held.get(name).copied().unwrap_or(0) };
            let most = if alone { 1 } else { limit.max(before) };
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

/// What a request of our client's is answered.
async fn answered(routes: &Rc<Routes>, method: Method, path: &str, body: &str) -> (u16, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connected = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
    let (_stays, peer) = (connected.0.unwrap(), alone(connected.1.unwrap().0));
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(KEY_HEADER, KEY)
        .header(HOST, "x")
        .header(VERSION_HEADER, VERSION)
        .body(http_body_util::Full::from(Bytes::copy_from_slice(body.as_bytes())))
        .unwrap();
    let answer = Rc::clone(routes).answer(request, peer).await.unwrap();
    assert_eq!(answer.headers().get(VERSION_HEADER).unwrap(), VERSION);
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.into()).unwrap())
}

/// What requests about a name are answered.
async fn executed(routes: &Rc<Routes>, requests: &[String]) -> Vec<Value> {
    let named: Vec<_> =
        requests.iter().map(|request| format!(r#"{{"name":"a","request":{request}}}"#)).collect();
    let body = format!("[{}]", named.join(","));
    let (status, answers) = answered(routes, Method::POST, EXECUTE, &body).await;
    assert_eq!(status, 200, "{answers}");
    serde_json::from_str(&answers).unwrap()
}

fn asks(operation: &str, id: Uuid) -> String {
    format!(r#"{{"operation":{operation},"id":"{id}"}}"#)
}

fn acquires(id: Uuid, more: &str) -> String {
    let client = r#"{"label":"l","host":"h","pid":1,"user":"u","detached":true}"#;
    format!(
        r#"{{"operation":"acquire","id":"{id}","limit":1,"ttl_ms":60000,"client":{client}{more}}}"#
    )
}

#[tokio::test]
async fn what_says_too_little_changes_nothing() {
    let routes = routes();
    let id = Uuid::new_v4();
    for body in [
        "",
        "{}",
        "[7]",
        &format!(r#"[{{"request":{}}}]"#, asks(r#""pin""#, id)),
        &format!(r#"[{{"name":"a","request":{}}}]"#, asks(r#"{"revoke":"quickly"}"#, id)),
        &format!(r#"[{{"name":"a","request":{}}}]"#, asks(r#""revoke""#, id)),
        r#"[{"name":"a","request":{"operation":"renew"}}]"#,
    ] {
        assert_eq!(answered(&routes, Method::POST, EXECUTE, body).await.0, 400, "{body}");
    }
    assert_eq!(answered(&routes, Method::GET, EVENTS, "").await.0, 400, "it names no client");
    let pin =
        |limit: &str| asks(r#""pin""#, Uuid::nil()).replace('}', &format!(r#","limit":{limit}}}"#));
    let odd = [
        asks(r#""pin""#, id),
        pin("0"),
        pin("10001"),
        acquires(id, "").replace(r#""limit":1"#, r#""limit":0"#),
        acquires(id, "").replace("60000", "0"),
        acquires(id, r#","min_hold_ms":18446744073709551615"#),
        acquires(id, "").replace("client", "other"),
    ];
    assert_eq!(executed(&routes, &odd).await, vec![Value::from("invalid"); odd.len()]);
    let many = vec![asks(r#""renew""#, id); 100];
    assert_eq!(executed(&routes, &many).await.len(), 100);
    let body = serde_json::to_string(&vec![Value::Null; 101]).unwrap();
    assert_eq!(answered(&routes, Method::POST, EXECUTE, &body).await.0, 400);
    assert!(routes.semaphores.page("", &unrestricted()).semaphores.is_empty());
}

#[tokio::test]
async fn permits_are_revoked_and_limits_pinned_as_it_is_written() {
    let routes = routes();
    let id = Uuid::new_v4();
    let pin = asks(r#""pin""#, Uuid::nil()).replace('}', r#","limit":3}"#);
    let release = asks(r#""release_detached""#, id);
    let requests = [acquires(id, r#","min_hold_ms":60000"#), pin, release.clone(), release];
    let outcomes: Vec<_> = executed(&routes, &requests)
        .await
        .into_iter()
        .map(|answer| answer["reply"]["outcome"].clone())
        .collect();
    assert_eq!(outcomes, ["holding", "done", "released", "done"]);
    let look = routes.semaphores.look(&"a".into(), &unrestricted());
    assert_eq!((look.limit, look.pinned), (Some(3), true));
    let revoke = asks(r#"{"revoke":"gently"}"#, id);
    for outcome in ["revoked", "lost"] {
        let answers = executed(&routes, std::slice::from_ref(&revoke)).await;
        assert_eq!(answers[0]["reply"]["outcome"], outcome);
    }
    executed(&routes, &[asks(r#""unpin""#, Uuid::nil())]).await;
    assert!(routes.semaphores.page("", &unrestricted()).semaphores.is_empty());
    let (_, about) = answered(&routes, Method::GET, ABOUT, "").await;
    assert!(about.contains(r#""remembers":false"#), "{about}");
}

#[tokio::test(start_paused = true)]
async fn who_listens_hears_events_and_now_and_then_that_the_server_is_there() {
    let routes = routes();
    let [listener, id] = [(); 2].map(|()| Uuid::new_v4());
    let listener_of = format!(r#","listener":"{listener}""#);
    executed(&routes, &[acquires(Uuid::new_v4(), ""), acquires(id, &listener_of)]).await;
    let bearer = routes.keys.borrow().bearer(KEY.as_bytes()).unwrap();
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let connected = tokio::join!(tokio::net::TcpStream::connect(address), tcp.accept());
    let (stays, peer) = (connected.0.unwrap(), alone(connected.1.unwrap().0));
    let (greeting, events) = routes.semaphores.listen(listener, &bearer);
    assert!(!greeting.missed, "it was there in time");
    let mut body = event_stream(&greeting, events, &peer).into_body();
    let began = Instant::now();
    let heard = async |body: &mut ResponseBody| {
        let text = body.frame().await.unwrap().unwrap().into_data().unwrap();
        (began.elapsed().as_secs(), String::from_utf8(text.into()).unwrap())
    };
    assert_eq!(heard(&mut body).await.0, 0);
    assert_eq!(heard(&mut body).await, (10, "\n".to_owned()));
    executed(&routes, &[asks(r#"{"revoke":"now"}"#, id)]).await;
    let looked = routes.semaphores.look(&"a".into(), &unrestricted());
    let holder = looked.holders[0].id;
    executed(&routes, &[asks(r#"{"revoke":"now"}"#, holder)]).await;
    assert_eq!(heard(&mut body).await, (10, format!("{{\"id\":\"{id}\",\"event\":\"ask\"}}\n")));
    drop(stays);
    assert!(body.frame().await.is_none(), "it has gone");
}
