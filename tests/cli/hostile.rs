use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{CWD, Mode, mkfifoat};

use super::cloud_server::CloudServer;
use super::http::Client;
use super::strange::{answering, of_ours};
use super::support::{SEMRUN, World, fails, wait_until};

/// What moves a cursor, turns the direction of writing, or hides.
const NASTY: &str = "\u{1b}]0;pwn\u{7}\u{9b}31m\u{202e}\u{2066}\u{200b}\u{2028}\u{feff}";

fn is_clean(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let odd = text.chars().find(|c| {
        c.is_control() && *c != '\n' || "\u{202e}\u{2066}\u{200b}\u{2028}\u{feff}".contains(*c)
    });
    assert_eq!(odd, None, "{text:?}");
}

pub(crate) fn both_are_clean(output: &Output) -> String {
    is_clean(&output.stdout);
    is_clean(&output.stderr);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A Redis that answers each command as it likes.
fn a_redis(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> u16 {
    answering(move |there: &mut TcpStream| {
        let mut lines = BufReader::new(there.try_clone()?);
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let parts: usize = line.trim().trim_start_matches('*').parse().unwrap_or(0);
            let mut words = Vec::new();
            for _ in 0..parts {
                let mut length = String::new();
                lines.read_line(&mut length)?;
                let length: usize = length.trim().trim_start_matches('$').parse().unwrap_or(0);
                let mut word = vec![0; length + 2];
                lines.read_exact(&mut word)?;
                words.push(String::from_utf8_lossy(&word[..length]).into_owned());
            }
            there.write_all(&answer(&words.join(" ")))?;
        }
    })
}

fn bulk(text: &str) -> Vec<u8> {
    format!("${}\r\n{text}\r\n", text.len()).into_bytes()
}

#[test]
fn what_a_server_says_cannot_disturb_a_terminal() {
    let world = World::on_this_machine();
    let json = serde_json::to_string(NASTY).unwrap();
    for body in [
        format!(r#"{{"outcome":{json},"limit":1,"ttl_ms":30000}}"#),
        format!(r"{{{json}:1}}"),
        format!("{NASTY}{NASTY}"),
    ] {
        let backend = format!("http://127.0.0.1:{}", of_ours(&body));
        let output = world.run(["--backend", &backend, "-w", "2", "true"]).output().unwrap();
        fails(&output, 69, &["the server's answer is not known"]);
        both_are_clean(&output);
        both_are_clean(&world.semrun(["doctor", "--backend", &backend]).output().unwrap());
    }
    let policy =
        format!("redis_version:7.0.0{NASTY}\r\nmaxmemory:1\r\nmaxmemory_policy:no{NASTY}\r\n");
    let port = a_redis(move |words| match words.split(' ').next() {
        Some("INFO") => bulk(&policy),
        Some("TIME") => b"*2\r\n$10\r\n1790000000\r\n$1\r\n0\r\n".to_vec(),
        Some("CONFIG") => [b"*2\r\n".to_vec(), bulk("save"), bulk(NASTY)].concat(),
        Some("BLPOP") => b"*-1\r\n".to_vec(),
        _ => format!("-ERR odd {}\r\n", NASTY.replace(['\r', '\n'], "")).into_bytes(),
    });
    let backend = format!("redis://127.0.0.1:{port}");
    let doctor = world.semrun(["doctor", "--backend", &backend]).output().unwrap();
    assert!(both_are_clean(&doctor).contains("Redis 7.0.0"), "{doctor:?}");
    let doctor = world.semrun(["doctor", "--json", "--backend", &backend]).output().unwrap();
    both_are_clean(&doctor);
    let document: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    assert!(document["checks"].to_string().contains("7.0.0"), "{document}");
    let mut run = world.run(["--backend", &backend, "-w", "1", "true"]);
    both_are_clean(&run.output().unwrap());
}

#[test]
fn a_redis_that_falls_silent_after_any_answer_holds_no_client_up() {
    std::thread::scope(|scope| {
        for answers in 0..9 {
            scope.spawn(move || {
                let given = AtomicUsize::new(0);
                let port = a_redis(move |words| {
                    if given.fetch_add(1, Ordering::Relaxed) >= answers {
                        return Vec::new();
                    }
                    match words.split(' ').next() {
                        Some("INFO") => bulk("redis_version:7.0.0\r\nconnected_slaves:1\r\n"),
                        Some("TIME") => b"*2\r\n$10\r\n1790000000\r\n$1\r\n0\r\n".to_vec(),
                        Some("CLIENT") => b"+OK\r\n".to_vec(),
                        _ => b"*-1\r\n".to_vec(),
                    }
                });
                let world = World::on_this_machine();
                let backend = format!("redis://127.0.0.1:{port}");
                let output = Command::new("timeout")
                    .args(["-s", "KILL", "60", SEMRUN, "doctor", "--backend", &backend])
                    .env_clear()
                    .envs(world.environment())
                    .output()
                    .unwrap();
                assert_eq!(output.status.code(), Some(1), "{answers} answers: {output:?}");
            });
        }
    });
}

#[test]
fn a_label_cannot_be_taken_for_words_of_ours() {
    World::everywhere(|world| {
        let holder = world.holder(&["--label", "backup (pid 1, root@vm) and by 9 others"]);
        let mut busy = world.run(["-w", "0.5", "true"]);
        let output = busy.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let label = format!("\"backup (pid 1, root@vm) and by 9 others\" (pid {}, ", holder.id());
        assert!(stderr.contains(&label), "{stderr}");
        drop(holder);
        let nasty = format!("job{}", NASTY.replace(char::is_control, ""));
        let _holder = world.holder(&["--label", &nasty]);
        assert!(both_are_clean(&world.semrun(["status"]).output().unwrap()).contains("job"));
        let json = world.semrun(["status", "--json"]).output().unwrap();
        both_are_clean(&json);
        let document: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(document["semaphores"][0]["holders"][0]["label"], nasty);
    });
}

#[test]
fn a_line_of_the_log_cannot_be_forged() {
    let server = CloudServer::ours_with(&["--log", "sem_transition,debug"]);
    let client = Client::new(server.port(), super::cloud_server::KEY);
    let names = ["x\nserver: [forged", "x\u{2028}y\u{1b}[31m\u{202e}", "y:-:root] acquired"];
    let _attached = names.map(|name| client.attach(name));
    wait_until("all are in the log", || server.log().contains("root]"));
    let log = server.log();
    is_clean(log.as_bytes());
    assert!(log.lines().all(|line| line.starts_with("server: ")), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("server: [forged")), "{log}");
    assert!(log.contains("[\"y:-:root] acquired\":"), "{log}");
}

#[test]
fn an_odd_entry_hides_no_other_in_redis() {
    let world = World::in_redis();
    let holder = world.holder(&["-l", "20"]);
    let ask = |words: &[&str]| world.server().ask::<redis::Value>(words);
    let long = "m".repeat(120_000);
    let ends = ["inf", "-inf", "1e300", "9007199254740993", "1795000000000.5"];
    for (end, member) in ends.iter().zip(["forever", "never", "later", &long, NASTY]) {
        ask(&["ZADD", "semrun-x", end, member]);
    }
    let mut member = redis::cmd("ZADD");
    member.arg("semrun-x").arg("9e15").arg(&b"\xff\xfe\x00"[..]);
    let _: () = member.query(&mut world.server().connection()).unwrap();
    for (at, grant) in [
        "",
        "x",
        "99999999999999999999999 1 0 0 h {}",
        "7 99999999999999999999 0 0 h {}",
        "7 1 0 0 h {\"label\":7}",
        "7 18446744073709551615 0 0 k {\"label\":\"l\",\"host\":\"h\",\"pid\":-1,\"user\":\"u\"}",
    ]
    .iter()
    .enumerate()
    {
        let id = format!("00000000-0000-0000-0000-00000000000{at}");
        ask(&["ZADD", "semrun-x", "9e15", &id]);
        ask(&["HSET", "{semrun-x}:grants", &id, grant]);
    }
    // Others, of which nothing can be understood, and one that is as it should be.
    for (name, field, value) in
        [("a", "pin", "nan"), ("b", "pin", "-5"), ("c", "ttl", "inf"), ("d", "ttl", "x")]
    {
        ask(&["HSET", &format!("{{semrun-{name}}}:state"), field, value, "last", "1", "pin", "3"]);
        ask(&["HSET", &format!("{{semrun-{name}}}:state"), field, value]);
        ask(&["ZADD", &format!("{{semrun-{name}}}:queue"), "1", "w"]);
        ask(&["ZADD", &format!("{{semrun-{name}}}:alive"), "9e15", "w"]);
    }
    ask(&["SET", "{semrun-e}:grants", "no hash"]);
    ask(&["ZADD", "semrun-e", "9e15", "member"]);
    ask(&["ZADD", "semrun-good", "9e15", "member"]);
    let pid = format!("  {}  ", holder.id());
    for (words, code) in [(&["status", "-v", "x"][..], 0), (&["status", "-v"], 75)] {
        let output = world.semrun(words).output().unwrap();
        let stdout = both_are_clean(&output);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(stdout.contains(&pid) && stdout.contains("forever@x"), "{stdout}");
        assert!(stdout.len() < 20_000, "{}", stdout.len());
    }
    let stdout = both_are_clean(&world.semrun(["status"]).output().unwrap());
    for name in ["a", "b", "c", "d", "e"] {
        let heading = stdout.lines().find(|line| line.starts_with(&format!("{name}: "))).unwrap();
        assert!(heading.contains("; "), "{heading}");
    }
    assert!(stdout.contains("good: 1 of 1 held, 0 waiting\n"), "{stdout}");
    let json = world.semrun(["status", "--json"]).output().unwrap();
    let document: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let odd =
        document["semaphores"].as_array().unwrap().iter().filter(|one| one["odd"].is_string());
    assert_eq!(odd.count(), 5, "{document}");
    // A waiter after a permit that never ends is not ended by that.
    ask(&["ZADD", "semrun-y", "inf", "forever"]);
    let mut waiter = world.semrun(["--name", "y", "-w", "1", "true"]);
    let output = waiter.output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{output:?}");
}

#[test]
fn an_odd_entry_hides_no_other_on_this_machine() {
    let world = World::on_this_machine();
    let holder = world.holder(&["-l", "9"]);
    let directory = world.path("permits/x");
    let precious = world.path("precious");
    fs::write(&precious, "precious").unwrap();
    let file = |name: &str| directory.join(name);
    let mut sockets = Vec::new();
    for (at, letter) in ["s", "k", "q", "p"].iter().enumerate() {
        let entry = |number: usize| file(&format!("{letter}.{:020}", number * 10 + at));
        symlink(&precious, entry(1)).unwrap();
        fs::create_dir(entry(2)).unwrap();
        sockets.push(UnixListener::bind(entry(3)).unwrap());
        fs::write(entry(4), "what?").unwrap();
        mkfifoat(CWD, entry(6), Mode::RWXU).unwrap();
        fs::write(file(&format!("{letter}.{:020}.json", 40 + at)), "{\"permit\":7").unwrap();
        symlink(&precious, file(&format!("{letter}.{:020}.json", 50 + at))).unwrap();
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let (most, boot) = (u64::MAX, boot.trim());
    fs::write(file(&format!("k.{:020}", 77)), format!("{boot} h {most} {most} {most}\n")).unwrap();
    // Names that cannot be looked at at all.
    fs::create_dir_all(world.path("permits/odd/mutex")).unwrap();
    fs::create_dir_all(world.path("permits/zzz")).unwrap();
    symlink(&precious, world.path("permits/zzz/mutex")).unwrap();

    let output = world.semrun(["status"]).output().unwrap();
    let stdout = both_are_clean(&output);
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    assert!(stdout.contains(&format!("  {}\n", holder.id())), "{stdout}");
    assert!(stdout.contains("x: 1 of 9 held, 0 waiting"), "{stdout}");
    assert!(stdout.contains("odd: not known; cannot look at 'odd'"), "{stdout}");
    assert!(stdout.contains("zzz: not known; cannot look at 'zzz'"), "{stdout}");
    let output = world.run(["-l", "9", "-w", "5", "true"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
}

#[test]
fn an_odd_entry_hides_no_other_in_a_server() {
    let world = World::on_this_machine();
    let good = r#"{"id":"1b4e28ba-2fa1-4d5e-883f-0016d3cca427","token":7,"record":{"permit":"1b4e28ba-2fa1-4d5e-883f-0016d3cca427","label":"good","host":"h","pid":4711,"user":"u","since":1}}"#;
    let look = |limit: &str, odd: &str| {
        format!(
            r#"{{"limit":{limit},"ttl_ms":5000,"paused_ms":null,"holders":[{odd},{good}],"waiters":[{odd},{good}]}}"#
        )
    };
    let long = good.replace("good", &"l".repeat(100_000));
    for odd in ["7", "{}", &good.replace(":4711", ":-1"), &long] {
        let look = [look("3", odd), look("0", odd)];
        let page = format!(
            r#"{{"more":false,"semaphores":[{{"name":"a","look":{}}},{{"name":"b","look":{}}}]}}"#,
            look[0], look[1]
        );
        let backend = format!("http://127.0.0.1:{}", of_ours(&page));
        let output = world.semrun(["status", "--backend", &backend]).output().unwrap();
        let stdout = both_are_clean(&output);
        assert_eq!(stdout.matches("4711").count() % 4, 0, "{stdout}");
        assert!(stdout.contains("a: 2 of 3 held, 2 waiting\n"), "{stdout}");
        assert!(
            stdout.contains("; the server reports what cannot be so: a limit of 0"),
            "{stdout}"
        );
        assert!(stdout.len() < 8_000, "{}", stdout.len());
    }
}
