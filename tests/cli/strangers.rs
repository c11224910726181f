//! Clients that use up a server's connections, memory and names: do holders go on renewing, and do
//! newcomers get in?

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};
use semrun_testkit::cloud_server::{CloudServer, KEY};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use uuid::Uuid;

use super::http::{Answer, Client, OURS, Pending, about, acquire, path, with};
use super::support::{Running, World, children, fails, shows, wait_until};

/// The identity of no permit.
const NIL: &str = "00000000-0000-0000-0000-000000000000";

/// Connections that say so much and no more. Those that the server closes are opened again, until the
/// crowd is dropped.
struct Crowd {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    fn at(port: u16, many: usize, each_says: Vec<u8>) -> Self {
        more_descriptors();
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let mut all: Vec<_> = (0..many).map(|_| None).collect();
            while !ends.load(Ordering::Relaxed) {
                for connection in &mut all {
                    if connection.as_mut().is_none_or(has_ended) {
                        *connection = open(port, &each_says);
                    }
                    if ends.load(Ordering::Relaxed) {
                        return;
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

fn open(port: u16, says: &[u8]) -> Option<TcpStream> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok()?;
    stream.set_write_timeout(Some(Duration::from_secs(1))).ok()?;
    stream.write_all(says).ok()?;
    stream.set_nonblocking(true).ok()?;
    Some(stream)
}

fn has_ended(stream: &mut TcpStream) -> bool {
    !matches!(stream.read(&mut [0; 64]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

fn more_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// What a process has in memory, in MiB.
fn memory(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// A permit of that name, and the connection over which it was granted.
fn holding(client: &Client, name: &str) -> (Pending, String) {
    let id = Uuid::new_v4().to_string();
    let mut connection = Pending::on(client.connect());
    let answer = asked_over(client, &mut connection, name, &acquire(&id));
    assert!(answer.body.contains(r#""outcome":"holding""#), "{} {}", answer.status, answer.body);
    (connection, id)
}

fn renew(client: &Client, connection: &mut Pending, name: &str, id: &str) -> Answer {
    asked_over(client, connection, name, &about("renew", id))
}

fn asked_over(client: &Client, connection: &mut Pending, name: &str, request: &Value) -> Answer {
    let body = json!([{ "name": name, "request": request }]).to_string();
    let headers = [OURS, ("x-api-key", &*client.key)];
    connection.send("POST", "/semrun/execute", &headers, &body);
    connection.answer()
}

#[test]
fn connections_without_a_key_keep_no_holder_from_renewing_and_no_newcomer_from_coming() {
    let world = World::in_cloud(CloudServer::ours_with_descriptors(120, &[]));
    let server = world.cloud.as_ref().unwrap();
    let left = || world.status()["semaphores"][0]["holders"][0]["lease_left_ms"].as_u64();
    let holder = world.holder(&["--ttl", "20s"]);
    let idle = Crowd::at(server.port(), 300, Vec::new());
    let half =
        Crowd::at(server.port(), 100, b"GET /semaphore/observe HTTP/1.1\r\nx-padding: ".into());
    // Each look is a newcomer's.
    let mut before = left().unwrap();
    for _ in 0..2 {
        wait_until("it is renewed", || {
            let now = left().expect("it has lost its permit");
            std::mem::replace(&mut before, now) < now
        });
        shows(
            &world.semrun(["--name", "y", "-n", "echo", "ran"]).output().unwrap(),
            0,
            "ran\n",
            "",
        );
    }
    drop((idle, half));
    assert!(left().is_some(), "it has lost its permit");
    drop(holder);
}

/// The ports from which a run is connected to this one.
fn connections(run: &Running, port: u16) -> BTreeSet<u16> {
    let mut sockets = BTreeSet::new();
    let processes =
        [run.pid()].into_iter().chain(children(run.pid()).into_iter().map(|(pid, _)| pid));
    for pid in processes {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()));
        let all = descriptors.into_iter().flatten().flatten();
        sockets.extend(all.filter_map(|one| {
            let target = fs::read_link(one.path()).ok()?.into_os_string().into_string().ok()?;
            Some(target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        }));
    }
    let port_in = |word: &str| u16::from_str_radix(word.rsplit_once(':')?.1, 16).ok();
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| port_in(row[2]) == Some(port) && sockets.contains(row[9]))
        .filter_map(|row| port_in(row[1]))
        .collect()
}

#[test]
fn no_renewal_has_to_dial() {
    let world = World::in_cloud(CloudServer::ours_with(&["--log", "debug"]));
    let server = world.cloud.as_ref().unwrap();
    let holder = world.holder(&["--ttl", "21s"]);
    wait_until("it watches over its permit", || connections(&holder, server.port()).len() == 2);
    let before = connections(&holder, server.port());
    // The permit was asked for before that.
    let requests = || server.log().matches("/semrun/execute: 200").count();
    wait_until("it is renewed", || requests() >= 3);
    assert_eq!(connections(&holder, server.port()), before);
}

#[test]
fn half_heads_take_little_memory_and_those_of_one_address_have_little_room() {
    let server = CloudServer::ours_with_descriptors(4096, &[]);
    let client = Client::new(server.port(), KEY);
    let (mut renews, id) = holding(&client, "x");
    more_descriptors();
    let head = format!("GET / HTTP/1.1\r\nx-padding: {}", "x".repeat(30_000));
    let mut halves: Vec<_> =
        (0..1000).filter_map(|_| open(server.port(), head.as_bytes())).collect();
    wait_until("few of them are left", || {
        halves.retain_mut(|stream| !has_ended(stream));
        halves.len() <= 254
    });
    // 1000 of them would be 40 MiB.
    assert!(memory(server.pid()) < 30, "{} MiB", memory(server.pid()));
    assert_eq!(renew(&client, &mut renews, "x", &id).status, 200);
    client.wait_on_semaphore("y").signal();
}

#[test]
fn wrong_keys_are_in_the_log_with_their_address_and_can_be_read_there() {
    let server = CloudServer::ours();
    let stranger = Client::new(server.port(), "a-key-of-a-stranger");
    for _ in 0..3 {
        assert_eq!(stranger.get(&path("observe", "x"), &[]).status, 401);
    }
    assert_eq!(Client::new(server.port(), "").get(&path("observe", "x"), &[]).status, 401);
    let line = "server: wrong API key from 127.0.0.1 (1 time)\n";
    wait_until("it is logged", || server.log().contains(line));
    assert_eq!(server.log().matches("wrong API key").count(), 1, "one line a minute and address");
    assert!(!server.log().contains("a-key-of-a-stranger"));
    // As fail2ban does it.
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations/fail2ban.md");
    let page = fs::read_to_string(page).unwrap();
    let filter = page.lines().find_map(|line| line.strip_prefix("failregex = ")).unwrap();
    let script =
        "import re,sys; print(re.search(sys.argv[1].replace('<HOST>', r'(\\S+)'), sys.argv[2])[1])";
    for line in [line, "server: wrong API key from 2001:db8::1 (12 times)"] {
        let found =
            Command::new("python3").args(["-c", script, filter, line.trim()]).output().unwrap();
        let address = line.split(' ').nth(5).unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout).trim(), address, "{found:?}");
    }
}

/// A connection of a client that takes very little at once.
fn taking_little(port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).unwrap();
    socket.into()
}

#[test]
fn answers_that_are_not_taken_have_room_in_all_and_a_renewal_needs_none_of_it() {
    let server = CloudServer::ours();
    let client = Client::new(server.port(), KEY);
    let (mut renews, id) = holding(&client, "x");
    more_descriptors();
    let mut registers = Pending::on(client.connect());
    let key = [("x-api-key", KEY)];
    for _ in 0..3_000 {
        registers.send("GET", &path("register", "many"), &key, "");
        assert_eq!(registers.answer().status, 200);
    }
    let length = client.get(&path("observe", "many"), &[]).body.len();
    assert!(length > 450_000, "{length}");
    let readers: Vec<_> = (0..300)
        .map(|_| {
            let mut reader = Pending::on(taking_little(server.port()));
            reader.send("GET", &path("observe", "many"), &key, "");
            reader
        })
        .collect();
    // Room comes and goes until the kernel has taken what it takes of each answer.
    let mut refused = String::new();
    wait_until("there is no room for more", || {
        let answer = client.get(&path("observe", "many"), &[]);
        let full = answer.status == 503;
        refused = answer.body;
        full
    });
    assert!(refused.contains("too many long answers"), "{refused}");
    // Without a bound they would be 150.
    assert!(memory(server.pid()) < 110, "{} MiB", memory(server.pid()));
    assert_eq!(renew(&client, &mut renews, "x", &id).status, 200);
    client.wait_on_semaphore("y").signal();
    drop(readers);
    wait_until("there is room again", || client.get(&path("observe", "many"), &[]).status == 200);
}

#[test]
#[ignore = "takes as long as an answer may: scripts/test-all runs it"]
fn an_answer_that_is_not_taken_in_time_ends_its_connection() {
    let server = CloudServer::ours();
    let client = Client::new(server.port(), KEY);
    for _ in 0..6_000 {
        client.register("many");
    }
    let mut reader = Pending::on(taking_little(server.port()));
    reader.send("GET", &path("observe", "many"), &[("x-api-key", KEY)], "");
    let began = Instant::now();
    let descriptors =
        || fs::read_dir(format!("/proc/{}/fd", server.pid().as_raw_nonzero())).unwrap().count();
    std::thread::sleep(Duration::from_secs(10));
    let before = descriptors();
    std::thread::sleep(Duration::from_secs(10));
    wait_until("it is closed", || descriptors() < before);
    assert!(began.elapsed() > Duration::from_secs(25), "{:?}", began.elapsed());
    assert!(reader.try_answer().is_err());
}

#[test]
fn what_a_client_with_a_key_may_use_up_is_bounded_and_the_refusal_says_by_what() {
    let options = ["--max-clients=5", "--max-waiters=2", "--max-names=4", "--max-pins=2"];
    let server = CloudServer::ours_with(&options);
    let client = Client::new(server.port(), KEY);
    let refused = |answer: &Answer, words: &str| {
        assert_eq!(answer.status, 503);
        assert!(answer.body.contains(words), "{}", answer.body);
    };
    let register = |name: &str| client.get(&path("register", name), &[]);
    let pin = |name: &str, limit: u32| {
        client.ask(name, with(about("pin", NIL), &[("limit", limit.into())]))
    };
    for answer in [pin("a", 2), pin("b", 2), pin("a", 3)] {
        assert_eq!(answer["reply"]["outcome"], "done", "{answer}");
    }
    assert_eq!(pin("c", 2)["refused"], "2 limits are pinned already (--max-pins)");
    assert_eq!([register("c"), register("c")].map(|answer| answer.status), [200; 2]);
    refused(&register("c"), "2 wait there already (--max-waiters)");
    assert_eq!(register("d").status, 200);
    refused(&register("e"), "4 semaphores are in use already (--max-names)");
    assert_eq!([register("a"), register("b")].map(|answer| answer.status), [200; 2]);
    refused(&register("a"), "it has 5 clients already (--max-clients)");
    assert_eq!(client.ask("b", about("unpin", NIL))["reply"]["outcome"], "done");
    let world = World::in_cloud(server);
    fails(
        &world.semrun(["--name", "a", "-w", "0.1s", "true"]).output().unwrap(),
        69,
        &["5 clients already", "--max-clients"],
    );
}

#[test]
fn a_head_that_says_two_things_or_not_to_whom_is_refused() {
    let server = CloudServer::ours();
    let client = Client::new(server.port(), KEY);
    let asked = |version: &str, headers: &str| {
        let mut stream = client.connect();
        let head = format!("GET /semaphore/observe?name=x HTTP/{version}\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        Pending::on(stream).answer().status
    };
    let (host, key) = ("Host: x\r\n", format!("x-api-key: {KEY}\r\n"));
    assert_eq!(asked("1.1", &format!("{host}{key}")), 200);
    assert_eq!(asked("1.1", &key), 400);
    for twice in [
        "x-api-key: another-key\r\n",
        "Host: y\r\n",
        "x-semrun: 1\r\nx-semrun: 3\r\n",
        "x-client-uuid: a\r\nx-client-uuid: b\r\n",
        "content-type: text/plain\r\ncontent-type: application/json\r\n",
    ] {
        for headers in [format!("{host}{key}{twice}"), format!("{twice}{host}{key}")] {
            assert_eq!(asked("1.1", &headers), 400, "{twice}");
        }
    }
}
