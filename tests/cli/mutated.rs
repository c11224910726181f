//! Servers, clients and directories with small random defects. `MUTATED=10000 cargo test --test cli
//! mutated::` runs for longer; CONTRIBUTING.md has the figures that count.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, mkfifoat};
use semrun_testkit::cloud_server::{CloudServer, KEY};
use semrun_testkit::mutate::{Dice, changed};

use super::hostile::both_are_clean;
use super::http::{about, acquire, with};
use super::strange::answering;
use super::support::{SEMRUN, World};

/// How many cases, in a test that is one of many.
fn cases(otherwise: usize) -> usize {
    std::env::var("MUTATED").ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Does something for each number, many at a time: they mostly wait.
fn at_once(many: usize, cases: usize, one: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..many {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= cases {
                        break;
                    }
                    one(number);
                }
            });
        }
    });
}

/// A semrun with 64 MiB for its data, which does not hang and ends with a code that it promises.
fn behaves(world: &World, backend: &str, line: &str) -> i32 {
    let output = Command::new("timeout")
        .args(["-s", "KILL", "60", "sh", "-c"])
        .arg(format!("ulimit -d 65536; exec {SEMRUN} {line}"))
        .envs(world.environment())
        .env("SEMRUN_BACKEND", backend)
        .env("RUST_BACKTRACE", "0")
        .current_dir(world.path("."))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let Output { status, stderr, .. } = &output;
    let stderr = String::from_utf8_lossy(stderr);
    both_are_clean(&output);
    assert!(!stderr.contains("panicked") && !stderr.contains("memory alloc"), "{line}: {stderr}");
    let code = status.code().unwrap_or(-1);
    assert!([0, 1, 64, 69, 75, 76, 78].contains(&code), "{line}: {status:?} {stderr}");
    code
}

/// Between clients and a server, and changes half of what that answers.
fn between(server: u16, seed: u64) -> u16 {
    let connections = AtomicUsize::new(0);
    answering(move |client| {
        let number = connections.fetch_add(1, Ordering::Relaxed);
        let mut dice = Dice::new(seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut there = TcpStream::connect(("127.0.0.1", server))?;
        let (mut from, mut to) = (client.try_clone()?, there.try_clone()?);
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            to.shutdown(Shutdown::Both)
        });
        let mut answer = vec![0; 64 << 10];
        loop {
            let length = there.read(&mut answer)?;
            if length == 0 {
                return client.shutdown(Shutdown::Both);
            }
            let said = [answer[..length].to_vec()];
            let odd = if dice.below(2) == 0 { changed(&said, &mut dice) } else { said[0].clone() };
            client.write_all(&odd)?;
        }
    })
}

const PERMIT: &str = "1b4e28ba-2fa1-4d5e-883f-0016d3cca427";

fn asks_a_server_that_is_nearly_right(world: &World, server: u16, scheme: &str) {
    let _holder = world.holder(&["-l", "3"]);
    let backend = format!("{scheme}://127.0.0.1:{}", between(server, 17));
    let lines = [
        "--name x -l 3 -n --kill-after 1s -- true",
        "--name x$ -l 2 -w 0.5 -- true",
        "status x",
        "status",
        "status --json",
        "acquire --name x$ -w 0.5 --ttl 5s",
        "renew --permit PERMIT@x",
        "release --permit PERMIT@x",
        "limit x",
        "doctor",
    ];
    let codes = Mutex::new(BTreeMap::new());
    at_once(24, cases(60), |number| {
        let line = lines[number % lines.len()].replace('$', &number.to_string());
        let code = behaves(world, &backend, &line.replace("PERMIT", PERMIT));
        *codes.lock().unwrap().entry(code).or_insert(0) += 1;
    });
    let codes = codes.into_inner().unwrap();
    eprintln!("{scheme}: codes {codes:?}");
    assert!(codes.len() > 1, "nothing was changed: {codes:?}");
}

#[test]
fn no_answer_of_a_redis_ends_a_client_otherwise_than_it_promises() {
    let world = World::in_redis();
    asks_a_server_that_is_nearly_right(&world, world.server().port(), "redis");
}

#[test]
fn no_answer_of_a_server_ends_a_client_otherwise_than_it_promises() {
    let world = World::in_cloud(CloudServer::ours());
    let port = world.cloud.as_ref().unwrap().port();
    asks_a_server_that_is_nearly_right(&world, port, "http");
}

/// Requests as they should be.
fn requests() -> Vec<Vec<u8>> {
    let named = |request: &serde_json::Value| format!(r#"{{"name":"x","request":{request}}}"#);
    let asked = [
        with(acquire(PERMIT), &[("listener", PERMIT.into()), ("limit", 3.into())]),
        about("renew", PERMIT),
        about(serde_json::json!({ "revoke": "now" }), PERMIT),
        with(about("pin", PERMIT), &[("limit", 3.into())]),
        about("release_detached", PERMIT),
    ];
    let asks = |method: &str, path: &str, header: &str| {
        format!("{method} {path} HTTP/1.1\r\nHost: h\r\nx-api-key: {KEY}\r\n{header}\r\n")
            .into_bytes()
    };
    let get = |path: &str, header: &str| asks("GET", path, header);
    let post = |requests: &[serde_json::Value]| {
        let body = format!("[{}]", requests.iter().map(named).collect::<Vec<_>>().join(","));
        let header = format!("x-semrun: 3\r\ncontent-length: {}\r\n", body.len());
        [asks("POST", "/semrun/execute", &header), body.into_bytes()].concat()
    };
    let id = format!("x-client-uuid: {PERMIT}\r\n");
    let change = r#"{"server":{"debug":true}}"#;
    let patch = format!(
        "PATCH /logconfig HTTP/1.1\r\nHost: h\r\nx-api-key: {KEY}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{change}",
        change.len()
    );
    vec![
        get("/semaphore/register?name=x", ""),
        post(&asked),
        post(&asked[..1]),
        get("/semrun/events", &format!("x-semrun: 3\r\n{id}")),
        get("/semaphore/monitor?name=x", &id),
        get("/semaphore/wait?name=x", &id),
        get("/semaphore/signal?name=x", &id),
        get("/semaphore/observe?name=x", "x-semrun: 3\r\n"),
        get("/semrun/semaphores?name=", "x-semrun: 3\r\n"),
        get("/semrun/about?name=", "x-semrun: 3\r\n"),
        patch.into_bytes(),
    ]
}

#[test]
fn no_request_ends_a_server_or_takes_its_memory() {
    let mut server = CloudServer::ours();
    let (port, corpus) = (server.port(), requests());
    at_once(32, cases(2_000), |number| {
        let mut dice = Dice::new(number as u64 ^ 0x1700);
        let request = changed(&corpus, &mut dice);
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        // It may have seen enough before the end.
        let _ = stream.write_all(&request);
        if dice.below(2) == 0 {
            let _ = stream.shutdown(Shutdown::Write);
        }
        let _ = stream.read(&mut [0; 4096]);
    });
    assert!(server.is_running(), "{}", server.log());
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim();
    let peak: u64 = peak.strip_suffix(" kB").unwrap().trim().parse().unwrap();
    eprintln!("peak of the server: {peak} kB");
    assert!(peak < 256 << 10, "{peak} kB");
    let client = super::http::Client::new(port, KEY);
    assert_eq!(client.get("/semrun/about", &[]).status, 200);
    let log = server.log();
    assert!(!log.contains("panicked") && !log.contains('\u{1b}'), "{log}");
    assert!(log.lines().all(|line| line.starts_with("server: ")), "{log}");
}

/// Makes one of the files of a semaphore another one.
fn spoil(directory: &Path, precious: &Path, dice: &mut Dice) {
    let files: Vec<_> = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()).collect();
    let letters = ["q", "p", "s", "k"];
    let numbers = [0, 1, u64::MAX, u64::MAX - 1, 1_795_000_000_000_000];
    let entry = format!("{}.{:020}", letters[dice.below(4)], numbers[dice.below(5)]);
    let mut path = directory.join(entry);
    if dice.below(2) == 0 && !files.is_empty() {
        path.clone_from(&files[dice.below(files.len())]);
    } else if dice.below(3) == 0 {
        path.as_mut_os_string().push(".json");
    }
    let corpus: Vec<_> = [
        "fuzz/corpus/records/kept",
        "fuzz/corpus/records/granted",
        "fuzz/corpus/records/done",
        "fuzz/corpus/records/state",
    ]
    .iter()
    .map(|file| fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap())
    .collect();
    let kind = dice.below(7);
    // A file that is open elsewhere is another thing than a new one. Nothing is written through a link,
    // and none leads out of the test's own directory.
    let is_file = fs::symlink_metadata(&path).is_ok_and(|about| about.is_file());
    if kind > 1 || !is_file {
        let _ = fs::remove_file(&path);
    }
    let _ = match kind {
        0..4 => write_no_link(&path, &changed(&corpus, dice)),
        4 => symlink(precious, &path),
        5 => fs::create_dir(&path),
        _ => mkfifoat(CWD, &path, Mode::RWXU).map_err(Into::into),
    };
}

fn write_no_link(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap();
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).custom_flags(flags);
    options.open(path)?.write_all(bytes)
}

#[test]
fn no_directory_ends_a_client_otherwise_than_it_promises() {
    let codes = Mutex::new(BTreeMap::new());
    at_once(8, cases(60), |number| {
        let world = World::on_this_machine();
        let mut dice = Dice::new(number as u64 ^ 0x2900);
        let precious = world.path("precious");
        fs::write(&precious, "precious").unwrap();
        assert_eq!(behaves(&world, &world.backend(), "--name x -- true"), 0);
        let detached = "acquire --name x -l 3 --ttl 10m";
        assert_eq!(behaves(&world, &world.backend(), detached), 0);
        for _ in 0..=dice.below(3) {
            spoil(&world.path("permits/x"), &precious, &mut dice);
        }
        for line in
            ["--name x -l 3 -w 0.2 -- true", "status", "status x", "--name x -n -l 3 -- true"]
        {
            let code = behaves(&world, &world.backend(), line);
            *codes.lock().unwrap().entry(code).or_insert(0) += 1;
        }
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    });
    eprintln!("directories: codes {:?}", codes.into_inner().unwrap());
}
