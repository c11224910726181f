//! What goes over the wire between a cloud-semaphore server and its clients. A variable has the
//! same tests ask a double of the original, except where ours must do better.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use super::cloud_server::{CloudServer, KEY, OTHER_KEY, serve, write_keys};
use super::http::{Answer, Attached, Client, Pending, Semaphore, path};
use super::support::{Running, wait_until};

const JSON: (&str, &str) = ("Content-Type", "application/json");
const HTML: Option<&str> = Some("text/html; charset=utf-8");
const UNKNOWN: &str = "33333333-3333-4333-8333-333333333333";
const GONE: &str = "Requesting client closed connection.";
/// Less than what any timeout would take.
const AT_ONCE: Duration = Duration::from_secs(3);

const ROUTES: [(&str, &str); 6] = [
    ("GET", "/semaphore/register?name=x"),
    ("GET", "/semaphore/monitor?name=x"),
    ("GET", "/semaphore/wait?name=x"),
    ("GET", "/semaphore/signal?name=x"),
    ("GET", "/semaphore/observe?name=x"),
    ("PATCH", "/logconfig"),
];

const LOG_CONFIGURATION: &str = r#"{
  "server": {
    "info": true,
    "alert": true,
    "sem_events": false,
    "sem_transition": false,
    "debug": false
  },
  "client": {
    "network_status": false,
    "network_errors": true,
    "usage_errors": false
  },
  "test": {
    "harness_info": false,
    "info": false,
    "flaw": true,
    "results": true,
    "summary": true
  }
}"#;

fn is_double_asked() -> bool {
    std::env::var("SEMRUN_TEST_NODE_LIKE").is_ok_and(|value| value == "1")
}

fn on_a_server(test: impl FnOnce(&CloudServer, &Client)) {
    let server = if is_double_asked() { CloudServer::like_node() } else { CloudServer::ours() };
    test(&server, &Client::new(server.port(), KEY));
}

/// For what the original does otherwise.
fn on_ours(options: &[&str], test: impl FnOnce(&mut CloudServer, &Client)) {
    if !is_double_asked() {
        let mut server = CloudServer::ours_with(options);
        let client = Client::new(server.port(), KEY);
        test(&mut server, &client);
    }
}

/// A client that is in the queue.
fn waiter(client: &Client, name: &str) -> Attached {
    let waiter = client.attach(name);
    wait_until("it is in the queue", || waiting(client, name).contains(&waiter.id));
    waiter
}

fn waiting(client: &Client, name: &str) -> Vec<String> {
    let document = client.observe(name);
    let ids = document["waiting"].as_array().unwrap();
    ids.iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

/// Whether nothing happens to a request for a while.
fn stays_open(pending: &Pending) -> bool {
    sleep(Duration::from_millis(150));
    pending.is_open()
}

fn parts(answer: &Answer) -> (u16, &str) {
    (answer.status, &answer.body)
}

#[track_caller]
fn succeeds(pending: &mut Pending) {
    assert_eq!(parts(&pending.answer()), (200, ""));
}

/// Its client was removed.
#[track_caller]
fn is_refused(pending: &mut Pending) {
    let answer = pending.answer();
    assert_eq!((answer.status, &*answer.reason), (500, GONE));
}

/// Nobody waits or holds, and one can.
#[track_caller]
fn is_free(client: &Client, name: &str) {
    let free = json!({"nodes": {}, "waiting": [], "running": null, "name": name});
    assert_eq!(client.observe(name), free);
    client.wait_on_semaphore(name).signal();
}

#[test]
fn the_start_line_tells_the_port() {
    on_a_server(|server, _| {
        let line = format!("server: The server is listening on port {}\n", server.port());
        assert_eq!(std::fs::read_to_string(server.path("stdout")).unwrap(), line);
    });
}

#[test]
fn registering_yields_a_fresh_uuid_and_queues_nobody() {
    on_a_server(|_, client| {
        let answer = client.get("/semaphore/register?name=x", &[]);
        assert_eq!((answer.status, &*answer.reason), (200, "OK"));
        assert_eq!(answer.header("Content-Type"), HTML);
        let id = Uuid::parse_str(&answer.body).unwrap();
        assert_eq!((id.get_version_num(), id.to_string()), (4, answer.body));
        let other = client.register("x");
        assert_ne!(id.to_string(), other);
        let document = client.observe("x");
        let nodes = document["nodes"].as_object().unwrap();
        let known = json!({"id": other, "monitor": false, "waiter": false, "error": null,
                           "refCount": 0});
        assert_eq!((nodes.len(), &nodes[&other]), (2, &known));
        assert_eq!((&document["waiting"], &document["running"]), (&json!([]), &Value::Null));
    });
}

#[test]
fn a_permit_is_granted_and_released_without_a_trace() {
    on_a_server(|_, client| {
        let mut holder = client.attach("x");
        succeeds(&mut holder.wait);
        assert_eq!(client.observe("x")["running"], holder.id);
        assert!(stays_open(&holder.monitor));
        assert_eq!(client.signal("x", &holder.id).status, 200);
        let document = client.get(&path("observe", "x"), &[]).body;
        assert!(!document.contains(&holder.id), "{document}");
        assert_eq!(holder.monitor.answer().status, 200);
        is_free(client, "x");
    });
}

#[test]
fn clients_hold_in_the_order_they_came() {
    on_a_server(|_, client| {
        let first = client.wait_on_semaphore("x");
        let mut others: Vec<_> = (0..3).map(|_| waiter(client, "x")).collect();
        let ids: Vec<_> = others.iter().map(|other| other.id.clone()).collect();
        assert_eq!(waiting(client, "x"), ids);
        first.signal();
        for turn in 0..others.len() {
            assert_eq!(client.observe("x")["running"], ids[turn], "granted before the answer");
            succeeds(&mut others[turn].wait);
            assert!(others[turn + 1..].iter().all(|other| other.wait.is_open()));
            assert_eq!(client.signal("x", &ids[turn]).status, 200);
            assert_eq!(others[turn].monitor.answer().status, 200);
        }
        is_free(client, "x");
    });
}

#[test]
fn names_are_semaphores_of_their_own() {
    on_a_server(|_, client| {
        let [x, y] = ["x", "y"].map(|name| client.wait_on_semaphore(name));
        assert_eq!(client.signal("y", &x.id).status, 422);
        x.signal();
        y.signal();
    });
}

#[test]
fn a_client_is_queued_once_both_requests_have_arrived() {
    on_a_server(|_, client| {
        for wait_is_first in [false, true] {
            let late = client.register("x");
            let early = client.register("x");
            let first = if wait_is_first { Client::wait } else { Client::monitor };
            let second = if wait_is_first { Client::monitor } else { Client::wait };
            let mut late_first = first(client, "x", &late);
            assert!(stays_open(&late_first));
            let document = client.observe("x");
            assert_eq!((&document["waiting"], &document["running"]), (&json!([]), &Value::Null));
            assert_eq!(document["nodes"][&late]["refCount"], 1);
            let mut early_requests = (first(client, "x", &early), second(client, "x", &early));
            wait_until("it holds", || client.observe("x")["running"] == early);
            let mut late_second = second(client, "x", &late);
            wait_until("it waits", || waiting(client, "x") == [&*late]);
            for (id, requests) in [
                (early, (&mut early_requests.0, &mut early_requests.1)),
                (late, (&mut late_first, &mut late_second)),
            ] {
                let (monitor, wait) =
                    if wait_is_first { (requests.1, requests.0) } else { requests };
                succeeds(wait);
                assert_eq!(client.signal("x", &id).status, 200);
                assert_eq!(monitor.answer().status, 200);
            }
            is_free(client, "x");
        }
    });
}

#[test]
fn the_permit_of_a_holder_that_dies_passes_on_at_once() {
    on_a_server(|_, client| {
        let mut holder = client.wait_on_semaphore("x").monitor;
        // With and without an end of the other direction.
        for half in [true, false, true] {
            let mut next = waiter(client, "x");
            let died = Instant::now();
            if half {
                holder.close_write();
            } else {
                drop(holder);
            }
            succeeds(&mut next.wait);
            assert!(died.elapsed() < AT_ONCE);
            assert_eq!(client.observe("x")["nodes"].as_object().unwrap().len(), 1);
            holder = next.monitor;
        }
        drop(holder);
        wait_until("it is released", || client.observe("x")["nodes"] == json!({}));
        is_free(client, "x");
    });
}

#[test]
fn a_waiter_that_dies_leaves_the_queue() {
    on_a_server(|_, client| {
        let holder = client.wait_on_semaphore("x");
        for half in [true, false] {
            let Attached { id, monitor, mut wait } = waiter(client, "x");
            if half {
                monitor.close_write();
            } else {
                drop(monitor);
            }
            is_refused(&mut wait);
            let document = client.get(&path("observe", "x"), &[]).body;
            assert!(!document.contains(&id), "{document}");
        }
        holder.signal();
        is_free(client, "x");
    });
}

#[test]
fn a_client_that_dies_before_it_waits_is_gone() {
    on_a_server(|_, client| {
        let id = client.register("x");
        let monitor = client.monitor("x", &id);
        wait_until("it is attached", || client.observe("x")["nodes"][&id]["monitor"] == true);
        drop(monitor);
        wait_until("it is gone", || client.observe("x")["nodes"] == json!({}));
        assert_eq!(client.signal("x", &id).status, 422);
        is_free(client, "x");
    });
}

#[test]
fn closing_the_wait_alone_changes_nothing() {
    on_a_server(|_, client| {
        let holder = client.wait_on_semaphore("x");
        let Attached { id, mut monitor, wait } = waiter(client, "x");
        drop(wait);
        assert!(stays_open(&monitor));
        assert_eq!(waiting(client, "x"), [&*id]);
        let mut last = waiter(client, "x");
        holder.signal();
        assert_eq!(client.observe("x")["running"], id);
        assert!(stays_open(&last.wait));
        assert_eq!(client.signal("x", &id).status, 200);
        assert_eq!(monitor.answer().status, 200);
        succeeds(&mut last.wait);
    });
}

#[test]
fn whoever_has_a_key_may_release_for_another() {
    on_a_server(|server, client| {
        let mut holder = client.wait_on_semaphore("x");
        let other = Client::new(server.port(), OTHER_KEY);
        assert_eq!(other.signal("x", &holder.id).status, 200);
        assert_eq!(holder.monitor.answer().status, 200);
        assert_eq!(client.signal("x", &holder.id).status, 422);
        other.wait_on_semaphore("x").signal();
    });
}

#[test]
fn who_does_not_hold_cannot_signal() {
    on_a_server(|_, client| {
        assert_eq!(client.signal("x", UNKNOWN).status, 404);
        let registered = client.register("x");
        let holder = client.wait_on_semaphore("x");
        for id in [UNKNOWN, "", "no-uuid", &registered] {
            assert_eq!(client.signal("x", id).status, 422, "{id:?}");
        }
        assert_eq!(client.get(&path("signal", "x"), &[]).status, 422);
        assert!(stays_open(&holder.monitor));
        holder.signal();
    });
}

#[test]
fn nobody_attaches_to_a_semaphore_that_is_unknown() {
    on_a_server(|_, client| {
        for action in ["monitor", "wait", "signal"] {
            assert_eq!(client.get(&path(action, "x"), &[]).status, 404);
            let id = ("x-client-uuid", UNKNOWN);
            assert_eq!(client.get(&path(action, "x"), &[id]).status, 404);
        }
        assert_eq!(client.observe("x"), Value::Null);
    });
}

#[test]
fn every_route_wants_a_key() {
    on_a_server(|server, _| {
        for wrong in ["a-key-for-test", "a-key-for-tests-", "A-KEY-FOR-TESTS", "first", ""] {
            let stranger = Client::new(server.port(), wrong);
            for (method, route) in ROUTES {
                let answer = stranger.request(method, route, &[JSON], "");
                assert_eq!(parts(&answer), (401, ""), "{method} {route} with {wrong:?}");
                assert_eq!(answer.reason, "Unauthorized");
            }
        }
        for (method, route) in ROUTES {
            let stranger = Client::new(server.port(), KEY);
            let mut pending = Pending::on(stranger.connect());
            pending.send(method, route, &[], "");
            assert_eq!(parts(&pending.answer()), (401, ""), "{method} {route}");
        }
        let client = Client::new(server.port(), KEY);
        assert_eq!(client.observe("x"), Value::Null, "no stranger has registered");
    });
}

#[test]
fn a_stranger_changes_no_logging() {
    on_a_server(|server, client| {
        let stranger = Client::new(server.port(), "another-key");
        let answer = stranger.patch(r#"{"server":{"info":false}}"#);
        assert_eq!(parts(&answer), (401, ""));
        assert_eq!(client.patch("{}").body, LOG_CONFIGURATION);
    });
}

#[test]
fn malformed_json_is_noticed_before_all_else() {
    on_a_server(|server, client| {
        let stranger = Client::new(server.port(), "another-key");
        for somebody in [client, &stranger] {
            for (method, route) in
                ROUTES.into_iter().chain([("POST", "/nowhere"), ("PUT", "/logconfig")])
            {
                for body in ["{", "{\"server\":", "nonsense", "{'server':{}}"] {
                    let answer = somebody.request(method, route, &[JSON], body);
                    assert_eq!(answer.status, 400, "{method} {route} with {body}");
                }
            }
        }
        assert_eq!(client.observe("x"), Value::Null, "nobody has registered");
    });
}

#[test]
fn what_is_not_there_is_noticed_before_the_key() {
    on_a_server(|server, client| {
        let stranger = Client::new(server.port(), "another-key");
        for (method, route) in [
            ("GET", "/"),
            ("GET", "/semaphore"),
            ("GET", "/semaphore/"),
            ("GET", "/semaphore/nothing?name=x"),
            ("GET", "/semaphore/register/x"),
            ("GET", "/nowhere/semaphore/register?name=x"),
            ("GET", "/logconfig"),
            ("HEAD", "/logconfig"),
            ("POST", "/semaphore/register?name=x"),
            ("PUT", "/logconfig"),
            ("PATCH", "/semaphore/register?name=x"),
            ("DELETE", "/semaphore/signal?name=x"),
        ] {
            for somebody in [client, &stranger] {
                let answer = somebody.request(method, route, &[], "");
                assert_eq!(answer.status, 404, "{method} {route}");
            }
        }
    });
}

#[test]
fn paths_match_in_any_case_and_with_a_trailing_slash() {
    on_a_server(|_, client| {
        for spelling in ["/SEMAPHORE/Register?name=x", "/semaphore/register/?name=x"] {
            assert_eq!(client.get(spelling, &[]).body.len(), 36, "{spelling}");
        }
        let id = client.register("x");
        let headers = [("X-Client-UUID", &*id)];
        let mut monitor = client.open("/Semaphore/MONITOR/?name=x", &headers);
        succeeds(&mut client.open("/semaphore/Wait/?name=x", &headers));
        assert_eq!(client.get("/semaphore/signal/?name=x", &headers).status, 200);
        assert_eq!(monitor.answer().status, 200);
        assert!(client.get("/semaphorE/observe/?name=x", &[]).body.contains("\"running\": null"));
        let answer = client.request("PATCH", "/LogConfig/", &[JSON], "{}");
        assert_eq!(answer.body, LOG_CONFIGURATION);
    });
}

#[test]
fn head_does_what_get_does() {
    on_a_server(|server, client| {
        let answer = client.request("HEAD", "/semaphore/register?name=x", &[], "");
        assert_eq!(parts(&answer), (200, ""));
        assert_eq!(answer.header("Content-Type"), HTML);
        let nodes = client.observe("x")["nodes"].as_object().unwrap().clone();
        assert_eq!(nodes.len(), 1, "it has registered");
        let id = ("x-client-uuid", &**nodes.keys().next().unwrap());
        let mut monitor = client.send("HEAD", "/semaphore/monitor?name=x", &[id], "");
        let mut wait = client.send("HEAD", "/semaphore/wait?name=x", &[id], "");
        assert_eq!(wait.answer().status, 200);
        assert!(stays_open(&monitor));
        assert_eq!(client.request("HEAD", "/semaphore/signal?name=x", &[id], "").status, 200);
        assert_eq!(monitor.answer().status, 200);
        let stranger = Client::new(server.port(), "another-key");
        assert_eq!(stranger.request("HEAD", "/semaphore/register?name=x", &[], "").status, 401);
        // What follows an answer that has no body is the next answer.
        let mut twice = client.send("HEAD", "/semaphore/observe?name=x", &[], "");
        assert_eq!(twice.answer().status, 200);
        twice.send("GET", "/semaphore/observe?name=y", &[("x-api-key", KEY)], "");
        succeeds(&mut twice);
    });
}

#[test]
fn names_are_decoded() {
    on_a_server(|_, client| {
        for (query, name) in [
            ("name=a%41b", "aAb"),
            ("name=a+b", "a b"),
            ("name=c%20d", "c d"),
            ("name=a%2Bb", "a+b"),
            ("name=a%26b%23c%3D%2F%3F%25", "a&b#c=/?%"),
            ("name=%E6%97%A5%E6%9C%AC", "日本"),
            ("name=p&other=q", "p"),
            ("name=q=r", "q=r"),
            ("other=q&name=s", "s"),
            ("n%61me=t", "t"),
            ("name=", ""),
            ("name=a%22%5C", "a\"\\"),
            ("name=.%2F..%2F..%2Fetc", "./../../etc"),
        ] {
            let id = client.get(&format!("/semaphore/register?{query}"), &[]).body;
            let document = client.observe(name);
            assert_eq!(document["name"], name, "{query}");
            let nodes = document["nodes"].as_object().unwrap();
            assert!(nodes.len() == 1 && nodes.contains_key(&id), "{query}: {document}");
        }
    });
}

#[test]
fn a_name_that_is_missing_is_one_and_one_that_is_repeated_is_another() {
    on_a_server(|_, client| {
        let id = client.get("/semaphore/register", &[]).body;
        assert_eq!(client.observe(""), Value::Null);
        let header = ("x-client-uuid", &*id);
        let mut monitor = client.open("/semaphore/monitor?other=x", &[header]);
        succeeds(&mut client.open("/semaphore/wait?", &[header]));
        let document = client.get("/semaphore/observe", &[]).body;
        assert!(document.contains(&format!("\"running\": \"{id}\"")), "{document}");
        assert_eq!(client.get("/semaphore/signal", &[header]).status, 200);
        assert_eq!(monitor.answer().status, 200);
        let id = client.get("/semaphore/register?name=x&name=y", &[]).body;
        assert!(client.observe("x,y")["nodes"].as_object().unwrap().contains_key(&id));
        assert_eq!(client.observe("x"), Value::Null);
        assert_eq!(client.observe("y"), Value::Null);
    });
}

#[test]
fn names_that_mean_something_elsewhere_are_just_names() {
    on_a_server(|_, client| {
        for name in
            ["__proto__", "constructor", "toString", "hasOwnProperty", "null", "0", "..", "/"]
        {
            assert_eq!(client.observe(name), Value::Null, "{name}");
            assert_eq!(client.signal(name, UNKNOWN).status, 404, "{name}");
            let holder = client.wait_on_semaphore(name);
            let mut next = waiter(client, name);
            holder.signal();
            succeeds(&mut next.wait);
            assert_eq!(client.signal(name, "constructor").status, 422, "{name}");
            assert_eq!(client.signal(name, &next.id).status, 200, "{name}");
            is_free(client, name);
        }
    });
}

#[test]
fn one_who_observes_sees_a_document_of_a_certain_form() {
    on_a_server(|_, client| {
        let empty = client.get("/semaphore/observe?name=deploy", &[]);
        assert_eq!(parts(&empty), (200, ""));
        let holder = client.wait_on_semaphore("deploy");
        let waiter = waiter(client, "deploy");
        let attached = |document: &Value| document["nodes"][&holder.id]["refCount"] == 1;
        wait_until("the holder's wait has ended", || attached(&client.observe("deploy")));
        let answer = client.get("/semaphore/observe?name=deploy", &[]);
        assert_eq!(answer.header("Content-Type"), HTML);
        let expected = r#"{
    "nodes": {
        "HOLDER": {
            "id": "HOLDER",
            "monitor": true,
            "waiter": true,
            "error": null,
            "refCount": 1
        },
        "WAITER": {
            "id": "WAITER",
            "monitor": true,
            "waiter": true,
            "error": null,
            "refCount": 2
        }
    },
    "waiting": [
        "WAITER"
    ],
    "running": "HOLDER",
    "name": "deploy"
}"#;
        let expected = expected.replace("HOLDER", &holder.id).replace("WAITER", &waiter.id);
        assert_eq!(answer.body, expected);
        drop(waiter);
        wait_until("the waiter is gone", || waiting(client, "deploy").is_empty());
        holder.signal();
        let expected = r#"{
    "nodes": {},
    "waiting": [],
    "running": null,
    "name": "deploy"
}"#;
        assert_eq!(client.get("/semaphore/observe?name=deploy", &[]).body, expected);
    });
}

#[test]
fn the_log_configuration_is_answered_and_changed() {
    on_a_server(|_, client| {
        for body in ["{}", "", r#"{"server":{}}"#, r#"{"server":{"info":true},"test":{}}"#] {
            let answer = client.patch(body);
            assert_eq!(parts(&answer), (200, LOG_CONFIGURATION), "{body}");
            let kind = answer.header("Content-Type");
            assert_eq!(kind, Some("application/json; charset=utf-8"));
        }
        let silent = LOG_CONFIGURATION.replacen("\"info\": true", "\"info\": false", 1);
        let charset = ("Content-Type", "application/json; charset=UTF-8");
        let body = r#"{"server":{"info":false}}"#;
        assert_eq!(client.request("PATCH", "/logconfig", &[charset], body).body, silent);
        assert_eq!(client.patch("{}").body, silent);
        let more = silent
            .replace("\"network_status\": false", "\"network_status\": true")
            .replace("\"flaw\": true", "\"flaw\": false");
        let body = r#"{"client":{"network_status":true},"test":{"flaw":false}}"#;
        assert_eq!(client.patch(body).body, more);
        let body =
            r#"{"client":{"network_status":false},"test":{"flaw":true},"server":{"info":true}}"#;
        assert_eq!(client.patch(body).body, LOG_CONFIGURATION);
    });
}

#[test]
fn what_the_log_configuration_does_not_have_is_answered_with_nothing() {
    on_a_server(|_, client| {
        for body in [r#"{"nothing":{"info":false}}"#, r#"{"server":{"nothing":false}}"#] {
            assert_eq!(parts(&client.patch(body)), (200, ""), "{body}");
        }
        let body = r#"{"server":{"info":false}}"#;
        for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"] {
            for body in [body, "{"] {
                let kind = [("Content-Type", kind)];
                let answer = client.request("PATCH", "/logconfig", &kind, body);
                assert_eq!(parts(&answer), (200, LOG_CONFIGURATION), "{kind:?} {body}");
            }
        }
    });
}

#[test]
fn the_log_configuration_changes_as_a_whole_and_to_booleans_only() {
    on_ours(&[], |_, client| {
        for body in [
            r#"{"server":{"info":false,"nothing":true}}"#,
            r#"{"server":{"info":false},"nothing":{"info":true}}"#,
            r#"{"server":{"info":false},"client":{"info":true}}"#,
            r#"{"server":{"info":false},"__proto__":{"info":true}}"#,
            r#"{"server":{"info":false},"constructor":{}}"#,
            r#"{"server":{"info":false,"alert":"no"}}"#,
            r#"{"server":{"info":false,"alert":0}}"#,
            r#"{"server":{"info":false,"alert":null}}"#,
            r#"{"server":{"info":false,"alert":{}}}"#,
            r#"{"server":{"info":[false]}}"#,
        ] {
            assert_eq!(parts(&client.patch(body)), (200, ""), "{body}");
            assert_eq!(client.patch("{}").body, LOG_CONFIGURATION, "{body}");
        }
    });
}

#[test]
fn a_component_that_is_null_is_refused_and_the_server_lives() {
    on_ours(&[], |_, client| {
        let holder = client.wait_on_semaphore("x");
        for body in [r#"{"server":null}"#, r#"{"client":{"usage_errors":true},"server":null}"#] {
            assert_eq!(client.patch(body).status, 404, "{body}");
            assert_eq!(client.patch("{}").body, LOG_CONFIGURATION, "{body}");
        }
        holder.signal();
    });
}

#[test]
fn an_id_that_is_unknown_is_refused_and_the_server_lives() {
    on_ours(&[], |server, client| {
        let holder = client.wait_on_semaphore("x");
        let gone = client.register("y");
        for action in ["monitor", "wait"] {
            for id in [UNKNOWN, "", "no-uuid", "__proto__", "constructor", &gone] {
                let answer = client.get(&path(action, "x"), &[("x-client-uuid", id)]);
                assert_eq!(answer.status, 404, "{action} of {id:?}");
            }
            assert_eq!(client.get(&path(action, "x"), &[]).status, 404, "{action} of nobody");
        }
        let Semaphore { id, monitor, .. } = client.wait_on_semaphore("y");
        drop(monitor);
        wait_until("it is gone", || client.observe("y")["running"] == Value::Null);
        assert_eq!(client.wait("y", &id).answer().status, 404);
        holder.signal();
        assert!(server.is_running());
    });
}

#[test]
fn a_waiter_that_attaches_once_more_is_removed() {
    on_ours(&[], |_, client| {
        let holder = client.wait_on_semaphore("x");
        let mut twice = waiter(client, "x");
        let mut last = waiter(client, "x");
        assert_eq!(client.monitor("x", &twice.id).answer().status, 404);
        is_refused(&mut twice.wait);
        is_refused(&mut twice.monitor);
        assert_eq!(waiting(client, "x"), [&*last.id]);
        holder.signal();
        succeeds(&mut last.wait);
        drop(last);
        wait_until("it is released", || client.observe("x")["nodes"] == json!({}));
        is_free(client, "x");
    });
}

#[test]
fn a_waiter_that_signals_is_removed() {
    on_ours(&[], |_, client| {
        let holder = client.wait_on_semaphore("x");
        let mut hasty = waiter(client, "x");
        let mut last = waiter(client, "x");
        assert_eq!(client.signal("x", &hasty.id).status, 422);
        is_refused(&mut hasty.wait);
        is_refused(&mut hasty.monitor);
        assert_eq!(waiting(client, "x"), [&*last.id]);
        holder.signal();
        succeeds(&mut last.wait);
        assert_eq!(client.signal("x", &last.id).status, 200);
        is_free(client, "x");
    });
}

#[test]
fn a_holder_that_attaches_once_more_keeps_its_permit() {
    on_a_server(|_, client| {
        let holder = client.wait_on_semaphore("x");
        let mut next = waiter(client, "x");
        assert_eq!(client.monitor("x", &holder.id).answer().status, 404);
        assert!(stays_open(&holder.monitor) && next.wait.is_open());
        assert_eq!(client.observe("x")["running"], holder.id);
        holder.signal();
        succeeds(&mut next.wait);
    });
}

#[test]
fn five_hundred_clients_hold_one_by_one_in_order() {
    const CLIENTS: usize = 500;
    let limit = getrlimit(Resource::Nofile);
    let enough = limit.maximum.map_or(4096, |maximum| maximum.min(4096));
    let current = Some(limit.current.map_or(enough, |current| current.max(enough)));
    setrlimit(Resource::Nofile, Rlimit { current, ..limit }).unwrap();
    on_a_server(|_, client| {
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| client.attach("x")).collect();
        wait_until("all are queued", || waiting(client, "x").len() == CLIENTS - 1);
        let running = client.observe("x")["running"].as_str().unwrap().to_owned();
        for id in [vec![running], waiting(client, "x")].concat() {
            let at = clients.iter().position(|one| one.id == id).unwrap();
            let mut one = clients.swap_remove(at);
            succeeds(&mut one.wait);
            assert!(clients.iter().all(|other| other.wait.is_open()), "nobody else holds");
            assert_eq!(client.signal("x", &id).status, 200);
            assert_eq!(one.monitor.answer().status, 200);
        }
        is_free(client, "x");
    });
}

#[test]
fn requests_that_wait_outlive_the_keep_alive_and_idle_connections_do_not() {
    on_a_server(|_, client| {
        let holder = client.wait_on_semaphore("x");
        let mut next = waiter(client, "x");
        let lone = client.register("x");
        let lone = client.monitor("x", &lone);
        let mut idle = client.open("/semaphore/observe?name=y", &[]);
        succeeds(&mut idle);
        sleep(Duration::from_millis(500));
        // In use again within that time.
        idle.send("GET", "/semaphore/observe?name=y", &[("x-api-key", KEY)], "");
        succeeds(&mut idle);
        let answered = Instant::now();
        wait_until("the server closes it", || !idle.is_open());
        assert!(idle.try_answer().is_err());
        let lasted = answered.elapsed().as_secs_f32();
        assert!((4.8..=12.0).contains(&lasted), "{lasted}");
        sleep(Duration::from_millis(6500).saturating_sub(answered.elapsed()));
        assert!(holder.monitor.is_open() && next.monitor.is_open() && next.wait.is_open());
        assert!(lone.is_open());
        holder.signal();
        succeeds(&mut next.wait);
    });
}

#[test]
fn odd_names_are_answered() {
    on_a_server(|_, client| {
        let long = ["x".repeat(10_000), "日".repeat(1_100), "/".repeat(3_000)];
        let control = ["\0", "a\r\nb", "\u{1b}[2J", "\u{7f}", "\u{202e}"].map(String::from);
        for name in long.iter().chain(&control) {
            for action in ["register", "observe", "signal"] {
                let status = client.get(&path(action, name), &[]).status;
                assert!((200..500).contains(&status), "{action} of {name:?}: {status}");
            }
        }
        for query in
            ["name=%", "name=%zz", "name=%ff%fe", "name=%C3", "name[]=x", "name[x]=y", "&&=&"]
        {
            let status = client.get(&format!("/semaphore/register?{query}"), &[]).status;
            assert!((200..500).contains(&status), "{query}: {status}");
        }
        client.wait_on_semaphore("x").signal();
    });
}

/// Whether something that a server need not understand ends in an answer of this kind, or in
/// none.
#[track_caller]
fn is_turned_away(client: &Client, bytes: &[u8], statuses: std::ops::Range<u16>) {
    let mut stream = client.connect();
    // It may close before it has read all.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    if let Ok(answer) = Pending::on(stream).try_answer() {
        assert!(statuses.contains(&answer.status), "{}", answer.status);
    }
    client.wait_on_semaphore("x").signal();
}

#[test]
fn what_is_not_http_is_turned_away() {
    on_a_server(|_, client| {
        for bytes in [
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..],
            b"nonsense\r\n\r\n",
            b"\r\n\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET /semaphore/observe?name=x\r\n\r\n",
            b"GET /semaphore/observe?name=\x00\x01 HTTP/1.1\r\n\r\n",
            b"GET /semaphore/observe HTTP/1.1\r\nno colon\r\n\r\n",
            b"PATCH /logconfig HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            b"PATCH /logconfig HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
            b"PATCH /logconfig HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
            &[0xff; 3000],
        ] {
            is_turned_away(client, bytes, 400..402);
        }
    });
}

#[test]
fn what_is_too_large_keeps_nobody_from_being_served() {
    on_a_server(|_, client| {
        let line = format!("x-padding: {}\r\n", "x".repeat(1000));
        let head = format!(
            "GET /semaphore/observe?name=x HTTP/1.1\r\nHost: x\r\nx-api-key: {KEY}\r\n{}\r\n",
            line.repeat(100)
        );
        is_turned_away(client, head.as_bytes(), 200..500);
        let head = format!("GET / HTTP/1.1\r\nHost: x\r\nx-padding: {}", "x".repeat(100_000));
        is_turned_away(client, head.as_bytes(), 200..500);
        let body = format!(r#"{{"server":"{}"}}"#, "x".repeat(10_000_000));
        let head = format!(
            "PATCH /logconfig HTTP/1.1\r\nHost: x\r\nx-api-key: {KEY}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        is_turned_away(client, head.as_bytes(), 200..500);
        assert_eq!(client.patch("{}").body, LOG_CONFIGURATION);
    });
}

#[test]
fn who_says_nothing_or_little_keeps_nobody_from_being_served() {
    on_a_server(|_, client| {
        let silent: Vec<TcpStream> = (0..200).map(|_| client.connect()).collect();
        let slow = ["G", "GET /semaphore/observe?name=x HTTP/1.1\r\nHost"].map(|start| {
            let mut stream = client.connect();
            stream.write_all(start.as_bytes()).unwrap();
            stream
        });
        let headers = [JSON, ("Content-Length", "100")];
        let unfinished = client.send("PATCH", "/logconfig", &headers, "");
        let begun = Instant::now();
        client.wait_on_semaphore("x").signal();
        assert!(begun.elapsed() < AT_ONCE);
        assert!(unfinished.is_open());
        drop((silent, slow));
        client.wait_on_semaphore("x").signal();
    });
}

#[test]
fn requests_may_come_in_pieces_and_bodies_in_chunks() {
    on_a_server(|_, client| {
        let mut stream = client.connect();
        let request = format!(
            "PATCH /logconfig HTTP/1.1\r\nHost: x\r\nX-API-KEY: {KEY}\r\n\
             content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n\
             3\r\n{{\"s\r\n16\r\nerver\":{{\"info\":false}}}}\r\n0\r\n\r\n"
        );
        for piece in request.as_bytes().chunks(40) {
            stream.write_all(piece).unwrap();
            sleep(Duration::from_millis(5));
        }
        let answer = Pending::on(stream).answer();
        let silent = LOG_CONFIGURATION.replacen("\"info\": true", "\"info\": false", 1);
        assert_eq!(parts(&answer), (200, &*silent));
    });
}

#[test]
fn a_connection_that_says_close_is_closed_after_the_answer() {
    on_a_server(|_, client| {
        let close = [("Connection", "close")];
        let mut pending = client.open("/semaphore/observe?name=x", &close);
        let begun = Instant::now();
        succeeds(&mut pending);
        wait_until("it is closed", || !pending.is_open());
        assert!(begun.elapsed() < AT_ONCE);
    });
}

#[test]
fn it_ends_on_sigterm_while_requests_are_open() {
    on_ours(&[], |server, client| {
        let mut holder = client.wait_on_semaphore("x");
        let mut next = waiter(client, "x");
        let _idle = client.connect();
        let output = server.stop();
        assert_eq!(output.status.code(), Some(0), "{}", server.log());
        for pending in [&mut holder.monitor, &mut next.monitor, &mut next.wait] {
            let granted = pending.try_answer().is_ok_and(|answer| answer.status == 200);
            assert!(!granted, "nothing is granted or released by an end");
        }
        assert!(TcpStream::connect(("127.0.0.1", client.port)).is_err());
    });
}

#[test]
fn a_key_that_is_too_short_is_refused() {
    if is_double_asked() {
        return;
    }
    for keys in ["123456789\n", "123456789 with a label\n", "a-key-for-tests\n123456789 second\n"] {
        let directory = TempDir::new().unwrap();
        write_keys(&directory, keys);
        let mut command = serve(&directory, 0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = Running::start(&mut command).finish();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(matches!(output.status.code(), Some(64 | 78)), "{}: {stderr}", output.status);
        assert!(stderr.starts_with("semrun: ") && stderr.lines().count() == 1, "{stderr}");
        assert!(stderr.contains("key"), "{stderr}");
        assert!(!stderr.contains("123456789") && output.stdout.is_empty(), "{stderr}");
    }
}

/// What the server has logged of a client, from its name on.
fn logged(server: &CloudServer, id: &str) -> Vec<String> {
    let log = server.log();
    log.lines().filter(|line| line.contains(id)).map(String::from).collect()
}

#[test]
fn events_are_logged_with_the_label_of_the_key_and_never_with_the_key() {
    on_ours(&["--log", "sem_transition"], |server, client| {
        let other = Client::new(server.port(), OTHER_KEY);
        let holder = client.wait_on_semaphore("x");
        let Attached { id, mut monitor, mut wait } = waiter(&other, "x");
        let first = holder.id.clone();
        holder.signal();
        succeeds(&mut wait);
        assert_eq!(other.signal("x", &id).status, 200);
        assert_eq!(monitor.answer().status, 200);
        let stranger = Client::new(server.port(), "a-key-of-a-stranger");
        assert_eq!(stranger.get(&path("observe", "x"), &[]).status, 401);
        let line = |action| format!("server: [x:{id}:second] {action}");
        let expected = ["waiting", "holding", "releasing"].map(line);
        wait_until("all is logged", || logged(server, &id).len() >= 3);
        assert_eq!(logged(server, &id), expected);
        for action in ["holding", "releasing"] {
            let line = format!("server: [x:{first}:first] {action}");
            assert!(logged(server, &first).contains(&line), "no {line:?} in {}", server.log());
        }
        let said = server.log() + &std::fs::read_to_string(server.path("stdout")).unwrap();
        for key in [KEY, OTHER_KEY, "a-key-of-a-stranger"] {
            assert!(!said.contains(key), "{said}");
        }
        assert_eq!(said.matches("listening").count(), 1, "{said}");
    });
}

#[test]
fn nothing_is_logged_of_a_permit_unless_asked_for() {
    on_ours(&[], |server, client| {
        let quiet = client.wait_on_semaphore("x");
        let quiet_id = quiet.id.clone();
        quiet.signal();
        assert_eq!(client.patch(r#"{"server":{"sem_transition":true}}"#).status, 200);
        let loud = client.wait_on_semaphore("x");
        let line = format!("server: [x:{}:first] holding", loud.id);
        wait_until("it is logged", || logged(server, &loud.id).contains(&line));
        assert_eq!(logged(server, &quiet_id), [""; 0]);
        loud.signal();
    });
}

#[test]
fn a_name_does_not_forge_lines_of_the_log() {
    on_ours(&["--log", "sem_transition"], |server, client| {
        let holder = client.wait_on_semaphore("x\nserver: [forged\r\u{1b}[2J");
        let id = holder.id.clone();
        wait_until("it is logged", || !logged(server, &id).is_empty());
        holder.signal();
        let log = server.log();
        assert!(!log.contains("\nserver: [forged") && !log.contains(['\r', '\u{1b}']), "{log:?}");
    });
}

#[test]
fn events_are_logged_as_json_if_asked_for() {
    on_ours(&["--log", "sem_transition", "--log-format", "json"], |server, client| {
        let name = "x \"y\"";
        let holder = client.wait_on_semaphore(name);
        let mut next = waiter(client, name);
        holder.signal();
        succeeds(&mut next.wait);
        assert_eq!(client.signal(name, &next.id).status, 200);
        wait_until("all is logged", || logged(server, &next.id).len() >= 3);
        let lines = logged(server, &next.id);
        for (line, action) in lines.iter().zip(["waiting", "holding", "releasing"]) {
            let event: Value = serde_json::from_str(line).unwrap();
            assert!(event.is_object() && line.contains(action), "{line}");
        }
        let log = server.log();
        assert!(log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{log}");
        assert!(!log.contains(KEY), "{log}");
    });
}

#[test]
fn a_double_of_the_original_has_its_weak_points() {
    let mut server = CloudServer::like_node();
    let client = Client::new(server.port(), KEY);
    assert_eq!(server.url(), format!("http://127.0.0.1:{}", client.port));
    let null = r#"{"server":null}"#;
    let blows: [&dyn Fn() -> Pending; 3] =
        [&|| client.monitor("x", UNKNOWN), &|| client.open(&path("wait", "x"), &[]), &|| {
            client.send("PATCH", "/logconfig", &[JSON], null)
        }];
    for (blow, crashes) in blows.into_iter().zip(1..) {
        let mut holder = client.wait_on_semaphore("x");
        assert!(blow().try_answer().is_err() && holder.monitor.try_answer().is_err());
        wait_until("it has ended", || !server.is_running());
        assert_eq!(server.log().matches("crashed: ").count(), crashes);
        server.start_again();
        assert_eq!(client.observe("x"), Value::Null, "all is forgotten");
    }
    let mut holder = client.wait_on_semaphore("x");
    server.kill();
    assert!(holder.monitor.try_answer().is_err());
    server.start_again();
    // A waiter that signals is granted nonetheless, and nobody knows.
    let holder = client.wait_on_semaphore("x");
    let mut hasty = waiter(&client, "x");
    assert_eq!(client.signal("x", &hasty.id).status, 422);
    is_refused(&mut hasty.wait);
    holder.signal();
    assert_eq!(client.observe("x")["running"], hasty.id);
    server.signal(Signal::TERM);
    wait_until("it has ended", || !server.is_running());
}

#[test]
fn an_end_without_a_request_is_just_an_end() {
    on_a_server(|_, client| {
        let stream = client.connect();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        (&stream).read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"");
        client.wait_on_semaphore("x").signal();
    });
}
