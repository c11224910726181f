//! The start, the end and the log of a server.

use super::super::http::{about, acquire, with};
use super::*;

#[test]
fn the_start_line_tells_the_port() {
    on_a_server(|server, _| {
        let line = format!("server: The server is listening on port {}\n", server.port());
        assert_eq!(std::fs::read_to_string(server.path("stdout")).unwrap(), line);
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
        let line = |action| format!("server: [x:{id}:second] {action} from 127.0.0.1");
        let expected = ["waiting", "holding", "releasing"].map(line);
        wait_until("all is logged", || logged(server, &id).len() >= 3);
        assert_eq!(logged(server, &id), expected);
        for action in ["holding", "releasing"] {
            let line = format!("server: [x:{first}:first] {action} from 127.0.0.1");
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
        let line = format!("server: [x:{}:first] holding from 127.0.0.1", loud.id);
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
            assert_eq!(event["from"], "127.0.0.1");
        }
        let log = server.log();
        assert!(log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{log}");
        assert!(!log.contains(KEY), "{log}");
    });
}

#[test]
fn a_reader_of_neither_its_start_line_nor_its_log_holds_no_client_up() {
    let directory = TempDir::new().unwrap();
    write_keys(&directory, KEY);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let full = || {
        let (reader, writer) = std::io::pipe().unwrap();
        rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
        while (&writer).write(&[0; 4096]).is_ok() {}
        rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::empty()).unwrap();
        (reader, writer)
    };
    let (stdout, stderr) = (full(), std::io::pipe().unwrap());
    let mut server = serve(&directory, port);
    let server = server.args(["--log", "debug"]).stdout(stdout.1).stderr(stderr.1);
    let mut server = Running::start(server);
    wait_until("it listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let client = Client::new(port, KEY);
    // More than a pipe holds, in lines as long as they get.
    for _ in 0..200 {
        let path = format!("/{}?name=x", "a".repeat(20_000));
        assert_eq!(client.get(&path, &[]).status, 404);
    }
    server.signal(Signal::TERM);
    assert_eq!(server.wait().unwrap().code(), Some(0));
    drop((stdout.0, stderr.0));
}

#[test]
fn without_descriptors_new_clients_wait_and_the_server_does_not_spin() {
    on_ours(&[], |server, client| {
        let mut kept = client.open(&path("observe", "x"), &[]);
        assert_eq!(kept.answer().status, 200);
        let pid = server.pid().as_raw_nonzero().to_string();
        let mut limit = std::process::Command::new("prlimit");
        assert!(limit.args(["--pid", &pid, "--nofile=32:32"]).status().unwrap().success());
        let idle: Vec<_> = (0..60).map(|_| client.connect()).collect();
        wait_until("it says so", || server.log().contains("cannot take more connections"));
        let used = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        };
        let before = used();
        sleep(Duration::from_secs(1));
        assert!(used() - before < 20, "hundredths of a second, in one second");
        // One that is here goes on, and there is room again when the others have gone.
        kept.send("GET", &path("observe", "x"), &[("x-api-key", KEY)], "");
        assert_eq!(kept.answer().status, 200);
        drop(idle);
        assert_eq!(client.get(&path("observe", "x"), &[]).status, 200);
        assert_eq!(server.log().matches("cannot take more connections").count(), 1);
    });
}

#[test]
fn the_log_says_who_gave_back_what_another_held() {
    on_ours(&["--log", "sem_transition"], |server, client| {
        let holder = client.wait_on_semaphore("x");
        let other = Client::new(server.port(), OTHER_KEY);
        assert_eq!(other.signal("x", &holder.id).status, 200);
        let lines = logged(server, &holder.id);
        assert!(
            lines.iter().any(|line| line.ends_with(":first] holding from 127.0.0.1")),
            "{lines:?}"
        );
        let released = |line: &String| line.ends_with(":second] releasing from 127.0.0.1");
        assert!(lines.iter().any(released), "{lines:?}");
    });
}

#[test]
fn the_log_says_who_revokes_permits_and_who_pins_limits() {
    on_ours(&["--log", "sem_transition"], |server, client| {
        let other = Client::new(server.port(), OTHER_KEY);
        let outcome =
            |client: &Client, request| client.ask("x", request)["reply"]["outcome"].take();
        let [revoked, kept] = [(), ()].map(|()| Uuid::new_v4().to_string());
        let hold = |id: &str| with(acquire(id), &[("min_hold_ms", 60_000.into())]);
        assert_eq!(outcome(client, hold(&revoked)), "holding");
        for how in ["gently", "now"] {
            assert_eq!(outcome(&other, about(json!({ "revoke": how }), &revoked)), "revoked");
        }
        assert_eq!(outcome(client, hold(&kept)), "holding");
        assert_eq!(client.signal("x", &kept).status, 200);
        let nil = Uuid::nil().to_string();
        for _ in 0..2 {
            assert_eq!(outcome(&other, with(about("pin", &nil), &[("limit", 3.into())])), "done");
        }
        assert_eq!(outcome(&other, about("unpin", &nil)), "done");
        wait_until("all is logged", || server.log().contains("unpinned"));
        let actions = |id: &str| {
            let lines = logged(server, id);
            let action = |line: &String| {
                let (_, what) = line.strip_suffix(" from 127.0.0.1")?.split_once("] ")?;
                Some(what.to_owned())
            };
            lines.iter().filter_map(action).collect::<Vec<_>>()
        };
        let took = |how| format!("revoked {how} what was taken with first");
        let expected = ["holding", &took("gently"), "revoking", &took("at once"), "releasing"];
        assert_eq!(actions(&revoked), expected);
        assert_eq!(actions(&kept), ["holding", "min_hold"]);
        assert!(logged(server, &revoked)[1].contains(":second] "), "{}", server.log());
        let pinned = logged(server, "[x:-:second]");
        let expected = ["limit 3", "limit unpinned"]
            .map(|what| format!("server: [x:-:second] {what} from 127.0.0.1"));
        assert_eq!(pinned, expected);
    });
}
