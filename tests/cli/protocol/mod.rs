//! What goes over the wire between a cloud-semaphore server and its clients. A variable makes the
//! same tests use a double of the original, except where ours must do better.

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

mod odd;
mod order;
mod requests;
mod server;

fn is_double_asked() -> bool {
    std::env::var("SEMRUN_TEST_BACKEND").is_ok_and(|value| value == "node")
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

/// No client waits or holds, and one can.
#[track_caller]
fn is_free(client: &Client, name: &str) {
    let free = json!({"nodes": {}, "waiting": [], "running": null, "name": name});
    assert_eq!(client.observe(name), free);
    client.wait_on_semaphore(name).signal();
}
