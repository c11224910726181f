//! Keys of `semrun serve` that may do some things: does a client see and do those and no more?

use std::process::Output;

use semrun_testkit::cloud_server::{CloudServer, KEY};
use serde_json::{Value, json};
use uuid::Uuid;

use super::http::{Answer, Client, OURS, about, acquire, path, with};
use super::support::{Running, World, fails, shows, wait_until};

/// Those beside [`KEY`], which may do everything.
const USES: &str = "a-key-that-uses";
const USES_TOO: &str = "another-key-that-uses";
const VIEWS: &str = "a-key-that-views";
const DEPLOYS: &str = "a-key-that-deploys";
const RULES_DEPLOYS: &str = "a-key-that-rules-deploys";

const NIL: &str = "00000000-0000-0000-0000-000000000000";

fn server(options: &[&str]) -> CloudServer {
    let keys = format!(
        "{KEY} boss\n{USES} role=use web1\n{USES_TOO} role=use web2\n{VIEWS} role=view board\n\
         {DEPLOYS} names=deploy-* role=use ci\n{RULES_DEPLOYS} names=deploy-* chief of ci\n"
    );
    CloudServer::ours_with_keys(&keys, options)
}

fn world(options: &[&str]) -> World {
    World::in_cloud(server(options))
}

fn cloud(world: &World) -> &CloudServer {
    world.cloud.as_ref().unwrap()
}

fn client(world: &World, key: &str) -> Client {
    Client::new(cloud(world).port(), key)
}

fn semrun(world: &World, key: &str, arguments: &[&str]) -> Output {
    world.semrun(arguments).env("SEMRUN_API_KEY", key).output().unwrap()
}

/// A run with this key that holds a permit of `x`, and its identity.
fn holder(world: &World, key: &str) -> (Running, String) {
    let mut script = world.script(&["--label", "secret-label"], "exec sleep 1000");
    let holder = Running::start(script.env("SEMRUN_API_KEY", key));
    let boss = client(world, KEY);
    let id = || boss.observe("x")["running"].as_str().map(String::from);
    wait_until("the permit is held", || id().is_some());
    (holder, id().unwrap())
}

fn release(world: &World, key: &str, id: &str, options: &[&str]) -> Output {
    let mut release = world.semrun([&["release"], options].concat());
    let permit = format!("{id}@x");
    release.env("SEMRUN_API_KEY", key).env("SEMRUN_PERMIT", permit).output().unwrap()
}

/// `doctor` looks, and tries to take a permit of a name of its own.
#[track_caller]
fn examines(world: &World, key: &str) {
    let doctor = semrun(world, key, &["doctor"]);
    let said = String::from_utf8_lossy(&doctor.stdout);
    let is_tried =
        said.contains("cannot take a permit of 'semrun doctor': the server does not allow it");
    assert!(said.contains("accepts the API key") && is_tried, "{said}");
}

#[track_caller]
fn is_forbidden(answer: &Answer, words: &str) {
    assert_eq!(answer.status, 403, "{}", answer.body);
    assert!(answer.body.contains(words), "{}", answer.body);
}

/// Asks for a detached permit without waiting.
fn ask(client: &Client, name: &str, id: &str) -> Value {
    let who = json!({ "label": "l", "host": "h", "pid": 1, "user": "u", "detached": true });
    client.ask(name, with(acquire(id), &[("nonblock", true.into()), ("client", who)]))
}

/// A request about a permit that our own client makes.
fn request(client: &Client, operation: impl Into<Value>, name: &str, id: &str) -> Value {
    client.ask(name, with(about(operation, id), &[("limit", 2.into())]))
}

#[track_caller]
fn is_denied(answer: &Value, words: &str) {
    assert!(answer["denied"].as_str().is_some_and(|why| why.contains(words)), "{answer}");
}

#[track_caller]
fn has(outcome: &str, answer: &Value) {
    assert_eq!(answer["reply"]["outcome"], outcome, "{answer}");
}

/// All that changes something of a permit that there is, or of its name.
fn interventions() -> [Value; 8] {
    let words = ["renew", "attach", "release", "leave", "release_detached", "pin", "unpin"];
    let [first @ .., last] = words.map(Value::from);
    let [renew, attach, release, leave, detached, pin] = first;
    [renew, attach, release, leave, detached, pin, last, json!({ "revoke": "now" })]
}

fn logged(world: &World, words: &str) -> bool {
    cloud(world).log().lines().any(|line| line.contains(words))
}

#[test]
fn a_key_that_views_sees_that_permits_are_taken_and_does_nothing() {
    let world = world(&["--state-dir", "state"]);
    let (_holder, id) = holder(&world, USES);
    let views = client(&world, VIEWS);
    for (arguments, words) in [
        (&["--name", "y", "-n", "true"][..], "this key may not take a permit: its role is view"),
        (&["acquire", "--name", "y", "-n"], "this key may not take a permit"),
        (&["limit", "y", "3"], "this key may not pin a limit: its role is view"),
    ] {
        fails(&semrun(&world, VIEWS, arguments), 69, &["the server does not allow it:", words]);
    }
    let no = "this key may not give back a permit";
    fails(&release(&world, VIEWS, &id, &[]), 69, &["the server does not allow it:", no]);
    examines(&world, VIEWS);
    for action in ["register", "monitor", "wait", "signal"] {
        is_forbidden(&views.get(&path(action, "x"), &[("x-client-uuid", &id)]), "its role is view");
    }
    for operation in interventions() {
        is_denied(&request(&views, operation, "x", &id), "its role is view");
    }
    is_denied(&ask(&views, "x", &id), "its role is view");
    is_forbidden(&views.get("/semrun/events", &[OURS, ("x-client-uuid", &id)]), "its role is view");
    is_forbidden(&views.patch(r#"{"server":{"info":false}}"#), "may not change what is logged");
    is_forbidden(&views.request("HEAD", &path("register", "x"), &[], ""), "");
    let one = semrun(&world, VIEWS, &["status", "x", "--json"]);
    let all = semrun(&world, VIEWS, &["status", "--json"]);
    for shown in [&one, &all] {
        let status: Value = serde_json::from_slice(&shown.stdout).unwrap();
        assert_eq!(status["semaphores"][0]["holders"].as_array().unwrap().len(), 1, "{status}");
        let text = status.to_string();
        assert!(!text.contains(&id) && !text.contains("secret-label"), "{text}");
    }
    assert_eq!(client(&world, KEY).observe("x")["running"], *id, "it goes on");
}

#[test]
fn a_key_that_uses_keeps_and_gives_back_what_is_its_own_and_nothing_else() {
    let world = world(&[]);
    let (mine, other) = (client(&world, USES), client(&world, USES_TOO));
    let id = Uuid::new_v4().to_string();
    has("holding", &ask(&mine, "x", &id));
    let no = "to what another key has taken";
    is_denied(&ask(&other, "x", &id), no);
    for action in ["monitor", "wait", "signal"] {
        let headers = [OURS, ("x-client-uuid", &*id)];
        is_forbidden(&other.get(&path(action, "x"), &headers), no);
        is_forbidden(&other.get(&path(action, "x"), &headers[1..]), no);
    }
    for operation in ["renew", "attach", "release", "leave", "release_detached"] {
        is_denied(&request(&other, operation, "x", &id), no);
    }
    for operation in ["pin".into(), "unpin".into(), json!({ "revoke": "now" })] {
        is_denied(&request(&mine, operation, "x", &id), "its role is use");
    }
    is_forbidden(&mine.patch("{}"), "its role is use");
    fails(&release(&world, USES_TOO, &id, &[]), 69, &[no]);
    let revoked = release(&world, USES, &id, &["--force", "--now"]);
    let said = String::from_utf8_lossy(&revoked.stderr);
    assert!(revoked.status.code() == Some(69) && said.contains("its role is use"), "{said}");
    // Under another name it is unknown, and cannot be ended from there.
    let headers = [OURS, ("x-client-uuid", &*id)];
    assert_eq!(other.get(&path("signal", "y"), &headers).status, 404);
    has("lost", &request(&other, "release", "y", &id));
    has("holding", &ask(&mine, "x", &id));
    has("holding", &request(&mine, "renew", "x", &id));
    // What is denied keeps nothing else of the same request from being done.
    let both = other.execute(&[("x", about("renew", &id)), ("y", acquire(NIL))]);
    let both: Value = serde_json::from_str(&both.body).unwrap();
    is_denied(&both[0], no);
    has("holding", &both[1]);
    // What waits is told that there is a holder, and no more.
    let busy = ask(&other, "x", &Uuid::new_v4().to_string());
    assert_eq!((&busy["reply"]["held"], busy["reply"].get("record")), (&json!(1), None));
    assert_eq!(ask(&mine, "x", NIL)["reply"]["record"]["label"], "l");
    shows(&release(&world, USES, &id, &[]), 0, "", "");
    shows(&semrun(&world, USES, &["--name", "x", "-n", "echo", "ran"]), 0, "ran\n", "");
}

#[test]
fn others_are_seen_as_taken_and_waiting_by_both_kinds_of_clients() {
    let world = world(&[]);
    let (mine, other) = (client(&world, USES), client(&world, USES_TOO));
    let held = mine.wait_on_semaphore("x");
    let waits = other.attach("x");
    wait_until("it waits", || other.observe("x")["waiting"] == json!([waits.id]));
    for (client, running, waiting) in
        [(&mine, &*held.id, NIL), (&other, NIL, &waits.id), (&client(&world, VIEWS), NIL, NIL)]
    {
        let observed = client.observe("x");
        assert_eq!(
            (&observed["running"], &observed["waiting"][0]),
            (&json!(running), &json!(waiting))
        );
        let nodes: Vec<_> = observed["nodes"].as_object().unwrap().keys().collect();
        let known: Vec<_> = [running, waiting].into_iter().filter(|id| *id != NIL).collect();
        assert_eq!(nodes, known);
        let look = client.get(&path("observe", "x"), &[OURS]).body;
        let look: Value = serde_json::from_str(&look).unwrap();
        assert_eq!(
            (&look["holders"][0]["id"], &look["waiters"][0]["id"]),
            (&json!(running), &json!(waiting))
        );
    }
    assert_eq!(client(&world, KEY).observe("x")["nodes"].as_object().unwrap().len(), 2);
    is_forbidden(&other.signal("x", &held.id), "to what another key has taken");
    held.signal();
}

#[test]
fn a_key_for_some_names_knows_no_other() {
    let world = world(&[]);
    let no = "this key is not for that name";
    let (_holder, id) = holder(&world, USES);
    let deploys = client(&world, RULES_DEPLOYS);
    for action in ["register", "monitor", "wait", "signal", "observe"] {
        is_forbidden(&deploys.get(&path(action, "x"), &[("x-client-uuid", &id)]), no);
        is_forbidden(&deploys.get(&path(action, "x"), &[OURS, ("x-client-uuid", &id)]), no);
    }
    for operation in interventions() {
        is_denied(&request(&deploys, operation.clone(), "x", &id), no);
        is_denied(&request(&deploys, operation, "deploy", &id), no);
    }
    is_forbidden(&deploys.patch(r#"{"server":{"info":false}}"#), "it is for some names only");
    for arguments in [
        &["--name", "x", "-n", "true"][..],
        &["status", "x"],
        &["limit", "x"],
        &["limit", "x", "2"],
        &["release", "--force", "--now", "--permit", &format!("{id}@x")],
    ] {
        fails(&semrun(&world, RULES_DEPLOYS, arguments), 69, &["does not allow it", no]);
    }
    shows(&semrun(&world, DEPLOYS, &["--name", "deploy-a", "-n", "echo", "ran"]), 0, "ran\n", "");
    assert_eq!(semrun(&world, RULES_DEPLOYS, &["limit", "deploy-a", "2"]).status.code(), Some(0));
    examines(&world, DEPLOYS);
    let names = |key| {
        let status = semrun(&world, key, &["status", "--json"]);
        let status: Value = serde_json::from_slice(&status.stdout).unwrap();
        let all = status["semaphores"].as_array().unwrap().clone();
        all.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        (names(DEPLOYS), names(KEY)),
        (vec!["deploy-a".into()], vec!["deploy-a".into(), "x".into()])
    );
}

#[test]
fn what_was_taken_with_a_key_is_its_own_after_a_restart() {
    let mut world = world(&["--state-dir", "state"]);
    let id = Uuid::new_v4().to_string();
    has("holding", &ask(&client(&world, USES), "x", &id));
    let node = client(&world, USES).wait_on_semaphore("y");
    let server = world.cloud.as_mut().unwrap();
    server.kill();
    let journal = std::fs::read_to_string(server.path("state/journal")).unwrap();
    assert!(!journal.contains(USES) && journal.contains(&id), "{journal}");
    server.start_again();
    let no = "to what another key has taken";
    is_denied(&request(&client(&world, USES_TOO), "renew", "x", &id), no);
    is_forbidden(&client(&world, USES_TOO).signal("y", &node.id), no);
    fails(&release(&world, USES_TOO, &id, &[]), 69, &[no]);
    has("holding", &request(&client(&world, USES), "renew", "x", &id));
    assert_eq!(client(&world, USES).signal("y", &node.id).status, 200);
    shows(&release(&world, USES, &id, &[]), 0, "", "");
}

#[test]
fn no_client_switches_off_the_record_of_what_it_does_to_others() {
    let world = world(&[]);
    let boss = client(&world, KEY);
    let all_off = r#"{"server":{"info":false,"alert":false,"sem_events":false,"sem_transition":false,"debug":false}}"#;
    let answer = boss.patch(all_off);
    assert!(answer.body.contains(r#""alert": true"#), "{}", answer.body);
    for body in [
        r#"{"server":{"intervention":false}}"#,
        r#"{"intervention":false}"#,
        r#"{"server":{"alert":null}}"#,
        r#"{"server":false}"#,
        r#"{"server":null}"#,
        "[]",
    ] {
        boss.patch(body);
    }
    let id = Uuid::new_v4().to_string();
    ask(&client(&world, USES), "x", &id);
    has("revoked", &request(&boss, json!({ "revoke": "now" }), "x", &id));
    let node = client(&world, USES_TOO).wait_on_semaphore("x");
    assert_eq!(boss.signal("x", &node.id).status, 200);
    let registered = client(&world, USES).register("x");
    let attached = boss.monitor("x", &registered);
    assert_eq!(semrun(&world, KEY, &["limit", "x", "3"]).status.code(), Some(0));
    boss.patch(r#"{"server":{"sem_transition":true}}"#);
    assert_eq!(client(&world, "a-key-of-a-stranger").get("/semrun/about", &[]).status, 401);
    for line in [
        "server: the log is changed by boss from 127.0.0.1: server.info off, server.alert stays on"
            .into(),
        format!("server: [x:{id}:boss] revoked at once what was taken with web1 from 127.0.0.1"),
        format!("server: [x:{}:boss] gave back what was taken with web2 from 127.0.0.1", node.id),
        format!(
            "server: [x:{registered}:boss] attached to what was taken with web1 from 127.0.0.1"
        ),
        "server: [x:-:boss] limit 3 from 127.0.0.1".into(),
        "server: the log is changed by boss from 127.0.0.1: server.sem_transition on".into(),
        "server: wrong API key from 127.0.0.1 (1 time)".into(),
    ] {
        wait_until(&line, || cloud(&world).log().lines().any(|one| one == line));
    }
    assert!(
        !logged(&world, "has ended") && !logged(&world, "releasing"),
        "{}",
        cloud(&world).log()
    );
    drop(attached);
}

#[test]
fn who_fills_the_pipe_of_the_log_hides_nothing_that_it_does_to_others() {
    use std::io::Read;
    use std::process::{Command, Stdio};

    let directory = tempfile::TempDir::new().unwrap();
    semrun_testkit::cloud_server::write_keys(
        &directory,
        &format!("{KEY} boss\n{USES} role=use web1\n"),
    );
    let mut command: Command = semrun_testkit::cloud_server::serve(&directory, 0);
    command.args(["--log", "sem_transition"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = Running::start(&mut command);
    let mut line = Vec::new();
    let mut stdout = server.stdout.take().unwrap();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        stdout.read_exact(&mut byte).unwrap();
        line.extend(byte);
    }
    let line = String::from_utf8(line).unwrap();
    let port = line.trim().rsplit_once(' ').unwrap().1.parse().unwrap();
    let (boss, web) = (Client::new(port, KEY), Client::new(port, USES));
    // More than a pipe takes.
    let long = "n".repeat(230);
    for _ in 0..250 {
        let id = Uuid::new_v4().to_string();
        ask(&web, &long, &id);
        assert_eq!(web.signal(&long, &id).status, 200);
    }
    let id = Uuid::new_v4().to_string();
    ask(&web, "x", &id);
    has("revoked", &request(&boss, json!({ "revoke": "now" }), "x", &id));
    let line = format!("server: [x:{id}:boss] revoked at once what was taken with web1");
    let mut said = vec![0; 1 << 20];
    let filled = server.stderr.as_mut().unwrap().read(&mut said).unwrap();
    assert!(filled > 50_000 && !String::from_utf8_lossy(&said[..filled]).contains(&line));
    assert_eq!(web.get("/semrun/about", &[]).status, 200);
    let then = server.stderr.as_mut().unwrap().read(&mut said).unwrap();
    assert!(String::from_utf8_lossy(&said[..then]).contains(&line), "{filled} {then}");
}
