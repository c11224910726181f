//! Servers that are none of ours, or lie: does a client know at once, in little memory?

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use semrun_testkit::cloud_server::{CloudServer, KEY};

use super::support::{SEMRUN, World, fails, shows, wait_until};

const PERMIT: &str = "1b4e28ba-2fa1-4d5e-883f-0016d3cca427@x";

/// Something that answers on a port of its own as long as the test runs.
pub(crate) fn answering(
    answer: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let answer = &answer;
        std::thread::scope(|scope| {
            for connection in listener.incoming() {
                scope.spawn(move || connection.map(|mut there| answer(&mut there)));
            }
        });
    });
    port
}

/// What says a thing to each question and then nothing more.
fn saying(text: impl Into<Vec<u8>>) -> u16 {
    let text = text.into();
    answering(move |there| {
        let mut question = [0; 4096];
        while there.read(&mut question)? > 0 {
            there.write_all(&text)?;
        }
        Ok(())
    })
}

/// What says something first, and then something else for ever.
fn flooding(first: &'static str, then: &str) -> u16 {
    let then = then.repeat((1 << 16) / then.len() + 1);
    answering(move |there| {
        there.write_all(first.as_bytes())?;
        loop {
            there.write_all(then.as_bytes())?;
        }
    })
}

fn http(head: &str, body: &str) -> u16 {
    let length = body.len();
    saying(format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\n\r\n{body}"))
}

/// What takes itself for one of our servers.
pub(crate) fn of_ours(body: &str) -> u16 {
    http("200 OK\r\nx-semrun: 3", body)
}

/// Every command that asks a server, with little memory.
fn all_fail(world: &World, backend: &str, words: &str) {
    let limit = format!("limit x 3 --backend {backend}");
    for line in [
        &format!("--backend {backend} --name x -w 15 -- touch started"),
        &format!("acquire --name x -w 15 --backend {backend}"),
        &format!("status x --backend {backend}"),
        &format!("renew --permit {PERMIT} --backend {backend}"),
        &format!("release --permit {PERMIT} --backend {backend}"),
        &limit,
    ] {
        let before = Instant::now();
        let output = Command::new("sh")
            .args(["-c", &format!("ulimit -v 400000; exec {SEMRUN} {line}")])
            .env_clear()
            .env("SEMRUN_CONFIG", "/dev/null")
            .env("SEMRUN_API_KEY", KEY)
            .current_dir(world.path("."))
            .output()
            .unwrap();
        fails(&output, 69, &[words]);
        assert!(before.elapsed() < Duration::from_secs(10), "{line}: {:?}", before.elapsed());
    }
    assert!(!world.path("started").exists(), "the command started");
}

#[test]
fn what_is_no_redis_is_known_at_once_and_takes_no_memory() {
    let world = World::on_this_machine();
    let too_much = "is this a Redis?";
    let long = format!("$40000\r\n{}\r\n", "A".repeat(40_000));
    for (port, words) in [
        (http("400 Bad Request", ""), "does not speak the Redis protocol; it speaks HTTP"),
        (saying("SSH-2.0-OpenSSH_9\r\n"), "does not speak the Redis protocol; check the URL"),
        (saying([0x15, 0x03, 0x03, 0, 2, 2, 70]), "is it rediss:// ?"),
        (flooding("$1000000000\r\n", "A"), too_much),
        (flooding("$4611686018427387904\r\n", "A"), too_much),
        (flooding("+", "A"), too_much),
        (flooding("*2147483647\r\n", "$-1\r\n"), too_much),
        (flooding("*1000000\r\n", &long), too_much),
        (flooding("", "*1\r\n"), too_much),
    ] {
        all_fail(&world, &format!("redis://127.0.0.1:{port}"), words);
    }
}

#[test]
fn what_is_no_server_of_semaphores_is_known_at_once() {
    let world = World::on_this_machine();
    let page = "<html><body><h1>Sorry</h1></body></html>";
    let moved = "301 Moved Permanently\r\nLocation: https://elsewhere/semaphore";
    for (port, words) in [
        (http(moved, page), "redirects to https://elsewhere/semaphore; name the server itself"),
        (http("307 Temporary Redirect\r\nLocation: /x", page), "redirects to /x"),
        (http("403 Forbidden", page), "refuses this client (403 Forbidden)"),
        (http("503 Service Unavailable", page), "does not answer (503 from a gateway in front"),
        (http("502 Bad Gateway", page), "does not answer (502 from a gateway in front"),
    ] {
        let backend = format!("http://127.0.0.1:{port}");
        // An outage may pass, so it is waited for.
        if words.starts_with("does not answer") {
            let mut run = world.run(["--backend", &backend, "-w", "1", "true"]);
            let output = run.output().unwrap();
            fails(&output, 69, &[words]);
            assert!(!String::from_utf8_lossy(&output.stderr).contains('<'), "{output:?}");
        } else {
            all_fail(&world, &backend, words);
        }
    }
}

#[test]
fn what_cannot_be_so_is_not_believed() {
    let world = World::on_this_machine();
    let told = |limit: &str, ttl: &str, more: &str| {
        format!(
            r#"[{{"reply":{{"outcome":"holding","limit":{limit},"agreed":1,"ttl_ms":{ttl},"token":1{more}}}}}]"#
        )
    };
    let century = "18446744073709551615";
    for body in [
        told("1", century, ""),
        told("1", "1", ""),
        told("0", "30000", ""),
        told("1", "30000", r#","held":18446744073709551615"#),
    ] {
        let backend = format!("http://127.0.0.1:{}", of_ours(&body));
        let mut run = world.run(["--backend", &backend, "-w", "3", "--", "touch", "started"]);
        fails(&run.output().unwrap(), 69, &["reports what cannot be so"]);
    }
    let raw = |terms: &str| {
        format!(
            "+OK\r\n+OK\r\n*0\r\n*11\r\n$7\r\nholding\r\n:1\r\n:0\r\n:0\r\n:0\r\n:0\r\n:-1\r\n*6\r\n{terms}:0\r\n:0\r\n$0\r\n\r\n:0\r\n"
        )
    };
    for terms in [
        ":1\r\n:0\r\n:1\r\n:9223372036854775807\r\n:0\r\n",
        ":0\r\n:0\r\n:1\r\n:30000\r\n:0\r\n",
        ":1\r\n:0\r\n:1\r\n:30000\r\n:9223372036854775807\r\n",
    ] {
        let backend = format!("redis://127.0.0.1:{}", saying(raw(terms)));
        let mut run = world.run(["--backend", &backend, "-w", "3", "--", "touch", "started"]);
        fails(&run.output().unwrap(), 69, &["reports what cannot be so"]);
    }
    assert!(!world.path("started").exists(), "the command started");
    // A list without an end, and a holder since a year that no calendar has.
    let look = format!(
        r#"{{"limit":1,"ttl_ms":null,"paused_ms":null,"waiters":[],"holders":[{{"id":"{}","record":{{"permit":"{}","label":"l","host":"h","pid":1,"user":"u","since":{century}}}}}]}}"#,
        &PERMIT[..36],
        &PERMIT[..36]
    );
    let page = format!(r#"{{"more":true,"semaphores":[{{"name":"a","look":{look}}}]}}"#);
    let status = |body: &str, name: &str| {
        let backend = format!("http://127.0.0.1:{}", of_ours(body));
        let words = ["status", "-v", "--backend", &backend, name];
        let words = words.into_iter().filter(|word| !word.is_empty());
        world.semrun(words).output().unwrap()
    };
    fails(&status(&page, ""), 69, &["in no order"]);
    let output = status(&look, "x");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code() == Some(75) && stdout.contains("1970-01-01"), "{output:?}");
}

#[test]
fn a_server_that_grants_nothing_yet_is_not_busy() {
    let world = World::on_this_machine();
    let told =
        r#"[{"reply":{"outcome":"busy","limit":1,"agreed":1,"ttl_ms":30000,"paused_ms":27000}}]"#;
    let backend = format!("http://127.0.0.1:{}", of_ours(told));
    let mut run = world.run(["--backend", &backend, "-n", "true"]);
    fails(&run.output().unwrap(), 69, &["no permit is granted for 27s yet"]);
    let held = told.replace("\"ttl_ms\"", "\"held\":1,\"ttl_ms\"");
    let backend = format!("http://127.0.0.1:{}", of_ours(&held));
    shows(&world.run(["--backend", &backend, "-n", "true"]).output().unwrap(), 75, "", "");
}

#[test]
fn a_host_that_is_not_there_is_named() {
    let world = World::on_this_machine();
    for scheme in ["redis", "rediss", "http", "https"] {
        let backend = format!("{scheme}://no-such-host.invalid");
        let output = world.run(["--backend", &backend, "-w", "4", "true"]).output().unwrap();
        fails(&output, 69, &["cannot find the host 'no-such-host.invalid'"]);
    }
}

#[test]
fn a_connection_that_is_cut_and_back_at_once_is_no_news() {
    let world = World::in_cloud(CloudServer::ours());
    let server = world.cloud.as_ref().unwrap().port();
    let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    let answers = Arc::new(AtomicUsize::new(0));
    let port = answering({
        let (open, answers) = (Arc::clone(&open), Arc::clone(&answers));
        move |client| {
            let mut there = TcpStream::connect(("127.0.0.1", server))?;
            open.lock().unwrap().push(client.try_clone()?);
            let (mut from, mut to) = (client.try_clone()?, there.try_clone()?);
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                to.shutdown(Shutdown::Both)
            });
            let mut answer = [0; 4096];
            loop {
                let length = there.read(&mut answer)?;
                client.write_all(&answer[..length])?;
                answers.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let holder = world.holder(&[]);
    let waiter = world.waiter(&["--backend", &format!("http://127.0.0.1:{port}")], "echo ran");
    for _ in 0..3 {
        let before = answers.load(Ordering::Relaxed);
        for client in open.lock().unwrap().drain(..) {
            let _ = client.shutdown(Shutdown::Both);
        }
        wait_until("it waits again", || answers.load(Ordering::Relaxed) > before);
    }
    drop(holder);
    let output = waiter.finish();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !stderr.contains("warning"), "{output:?}");
}
