//! Keys and certificates that `semrun serve` reads again: what changes for clients, and what goes
//! on.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use semrun_testkit::cloud_server::{CloudServer, KEY, OTHER_KEY};
use tempfile::TempDir;

use super::http::{Client, Pending, path};
use super::support::{Running, SEMRUN, World, content, fails, shows, wait_until};
use super::tls::certificates;

const NEW_KEY: &str = "a-new-key-for-tests";
const AGAIN: &str = "server: SIGHUP: read again: ";
const AS_IT_WAS: &str = "SIGHUP: all stays as it was: ";

/// Has it read its files again, and returns what it says of that.
fn reload(server: &CloudServer) -> String {
    let before = server.log().len();
    let said =
        || server.log()[before..].lines().find(|line| line.contains("SIGHUP")).map(String::from);
    server.signal(Signal::HUP);
    wait_until("it has read its files", || said().is_some());
    said().unwrap()
}

/// The status of a request with this key.
fn status(server: &CloudServer, key: &str) -> u16 {
    Client::new(server.port(), key).get(&path("observe", "x"), &[]).status
}

#[test]
fn a_key_is_replaced_under_a_running_holder() {
    let world = World::in_cloud(CloudServer::ours());
    let server = world.cloud.as_ref().unwrap();
    let holder = world.holder(&["--ttl", "5s"]);
    server.write_keys(&format!("{KEY} first\n{NEW_KEY} new\n"));
    assert!(reload(server).contains(&format!("{AGAIN}--api-key-file")));
    assert_eq!([KEY, NEW_KEY, OTHER_KEY].map(|key| status(server, key)), [200, 200, 401]);
    let left = || world.status()["semaphores"][0]["holders"][0]["lease_left_ms"].as_u64();
    let mut before = left().unwrap();
    wait_until("it is renewed", || {
        let now = left().expect("it has lost its permit");
        std::mem::replace(&mut before, now) < now
    });

    server.write_keys(&format!("{NEW_KEY} new\n"));
    reload(server);
    assert_eq!([KEY, NEW_KEY].map(|key| status(server, key)), [401, 200]);
    fails(&world.run(["-n", "true"]).output().unwrap(), 69, &["refused the API key"]);
    // It cannot renew any more, and its command is dead before its lease ends.
    let ended = holder.finish();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(76) && said.contains("refused the API key"), "{said}");
}

#[test]
fn what_is_open_stays_open_when_its_key_is_removed_and_what_is_next_is_refused() {
    let server = CloudServer::ours();
    let client = Client::new(server.port(), OTHER_KEY);
    let mut holds = client.wait_on_semaphore("x");
    let mut idle = Pending::on(client.connect());
    let mut ask = || {
        idle.send("GET", &path("observe", "x"), &[("x-api-key", OTHER_KEY)], "");
        idle.answer()
    };
    assert_eq!(ask().status, 200);
    server.write_keys(&format!("{KEY} first\n"));
    reload(&server);
    let refused = ask();
    assert_eq!(refused.status, 401);
    // Its connection does not keep the place of one that has a key.
    assert!(refused.headers.iter().any(|(name, value)| name == "connection" && value == "close"));
    assert_eq!(client.signal("x", &holds.id).status, 401);
    let other = Client::new(server.port(), KEY);
    let observed = || other.observe("x")["nodes"].as_object().unwrap().contains_key(&holds.id);
    assert!(observed());
    // A client that has a key gives it back.
    assert_eq!(other.signal("x", &holds.id).status, 200);
    assert_eq!(holds.monitor.answer().status, 200);
}

#[test]
fn of_a_burst_the_last_one_counts() {
    let server = CloudServer::ours();
    for round in 0..100 {
        server.write_keys(&format!("{KEY}-{round} first\n"));
        server.signal(Signal::HUP);
    }
    wait_until("the last key is in force", || status(&server, &format!("{KEY}-99")) == 200);
}

/// A server with certificates in a directory of their own, and a world that knows their authority.
fn encrypted(directory: &Path, more: &[&str]) -> World {
    certificates(directory);
    let file = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let (cert, key) = (file("server.pem"), file("server.key"));
    let options = [&["--tls-cert", &*cert, "--tls-key", &*key], more].concat();
    World::in_cloud(CloudServer::ours_with(&options))
}

fn over_tls(world: &World, options: &[&str]) -> Output {
    let url = format!("https://localhost:{}", world.cloud.as_ref().unwrap().port());
    let mut run = world.run(["--backend", &url, "-n"]);
    run.args(options).args(["--", "echo", "ran"]).output().unwrap()
}

#[test]
fn a_bad_file_leaves_all_as_it_was() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let world = encrypted(directory, &[]);
    let server = world.cloud.as_ref().unwrap();
    let file = |name: &str| directory.join(name);
    let authority = file("ca.pem").display().to_string();
    let works = || shows(&over_tls(&world, &["--ca-file", &authority]), 0, "ran\n", "");
    let (keys, cert, key) = (server.path("keys"), file("server.pem"), file("server.key"));
    works();
    let bad: [(&Path, &dyn Fn(), &str); 7] = [
        (&keys, &|| server.write_keys("short\n"), "the key in line 1 is shorter"),
        (&keys, &|| fs::remove_file(&keys).unwrap(), "No such file"),
        (&keys, &|| allow(&keys, 0o604), "every user of this machine can read it"),
        (&cert, &|| fs::write(&cert, "junk").unwrap(), "no certificate in --tls-cert"),
        (&cert, &|| drop(fs::copy(file("client.pem"), &cert)), "do not fit"),
        (&cert, &|| allow(&cert, 0o664), "can be written by others"),
        (&key, &|| fs::write(&key, "junk").unwrap(), "no private key in --tls-key"),
    ];
    for (path, spoil, why) in bad {
        let before = (fs::read(path).unwrap(), fs::metadata(path).unwrap().permissions());
        // That one is good does not count.
        let is_keys = path == keys;
        if !is_keys {
            server.write_keys(&format!("{NEW_KEY}\n"));
        }
        spoil();
        let said = reload(server);
        let file = path.file_name().unwrap().to_str().unwrap();
        assert!([AS_IT_WAS, file, why].iter().all(|word| said.contains(word)), "{said}");
        works();
        fs::write(path, before.0).unwrap();
        fs::set_permissions(path, before.1).unwrap();
        if is_keys {
            allow(path, 0o600);
        } else {
            server.write_keys(&format!("{KEY} first\n"));
        }
    }
    let said = reload(server);
    assert!(said.contains(&format!("{AGAIN}--api-key-file, --tls-cert, --tls-key")), "{said}");
    works();
}

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_new_certificate_greets_new_clients_and_holders_keep_their_connections() {
    let (directory, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (directory, other) = (directory.path(), other.path());
    let world = encrypted(directory, &["--log", "debug"]);
    let server = world.cloud.as_ref().unwrap();
    certificates(other);
    let [old, new] = [directory, other].map(|one| one.join("ca.pem").display().to_string());
    let url = format!("https://localhost:{}", server.port());
    // It could not dial again.
    let known = ["--backend", &url, "--ca-file", &old, "--ttl", "6s"];
    let script = "echo > held; until [ -e go ]; do sleep 0.05; done; echo done";
    let holder = Running::start(&mut world.script(&known, script));
    content(&world.path("held"));
    for file in ["server.pem", "server.key"] {
        fs::copy(other.join(file), directory.join(file)).unwrap();
    }
    assert!(reload(server).contains(AGAIN));
    let said = over_tls(&world, &["--ca-file", &old]);
    fails(&said, 69, &["TLS", "--ca-file"]);
    let busy = over_tls(&world, &["--ca-file", &new]);
    assert_eq!(busy.status.code(), Some(75), "{}", String::from_utf8_lossy(&busy.stderr));
    let renewals = || server.log().matches("/semrun/execute: 200").count();
    let before = renewals();
    wait_until("it is renewed twice more", || renewals() >= before + 2);
    fs::write(world.path("go"), "").unwrap();
    let ended = holder.finish();
    assert_eq!((ended.status.code(), &*ended.stdout), (Some(0), &b"done\n"[..]), "{ended:?}");
}

#[test]
fn clients_show_a_certificate_beside_their_key() {
    let (directory, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (directory, other) = (directory.path(), other.path());
    let name = |of: &Path, file: &str| of.join(file).display().to_string();
    let clients = name(directory, "clients.pem");
    certificates(other);
    fs::copy(other.join("ca.pem"), &clients).unwrap();
    let world = encrypted(directory, &["--client-ca-file", &clients]);
    let server = world.cloud.as_ref().unwrap();
    let authority = name(directory, "ca.pem");
    let with = |of: &Path| {
        let (cert, key) = (name(of, "client.pem"), name(of, "client.key"));
        over_tls(&world, &["--ca-file", &authority, "--client-cert", &cert, "--client-key", &key])
    };
    let without = || over_tls(&world, &["--ca-file", &authority]);
    let wanted = ["asks for a client certificate", "--client-cert"];
    let refused = ["refuses the client certificate", "--client-cert"];
    for _ in 0..10 {
        fails(&without(), 69, &wanted);
    }
    fails(&with(directory), 69, &refused);
    shows(&with(other), 0, "ran\n", "");
    // Another authority takes its place, once that file is good.
    fs::write(&clients, "junk").unwrap();
    let said = reload(server);
    assert!(said.contains(AS_IT_WAS) && said.contains("no certificate in --client-ca"), "{said}");
    shows(&with(other), 0, "ran\n", "");
    fs::copy(directory.join("ca.pem"), &clients).unwrap();
    let all = "--api-key-file, --tls-cert, --tls-key, --client-ca-file";
    assert!(reload(server).contains(&format!("{AGAIN}{all}")));
    shows(&with(directory), 0, "ran\n", "");
    fails(&with(other), 69, &refused);
    fails(&without(), 69, &wanted);
    server.write_keys(&format!("{OTHER_KEY}\n"));
    reload(server);
    fails(&with(directory), 69, &["refused the API key"]);
}

#[test]
fn an_authority_of_clients_needs_a_certificate_of_the_server() {
    let world = World::on_this_machine();
    let serve = || {
        let mut serve = world.semrun(["serve"]);
        serve.env_remove("SEMRUN_BACKEND");
        serve
    };
    let words = ["--client-ca-file needs --tls-cert and --tls-key"];
    fails(&serve().args(["--client-ca-file", "/dev/null"]).output().unwrap(), 64, &words);
    fails(&serve().env("SEMRUN_CLIENT_CA_FILE", "/dev/null").output().unwrap(), 64, &words);
    fs::write(world.path("config"), "[serve]\nclient-ca-file = \"/dev/null\"\n").unwrap();
    let config = world.path("config");
    fails(&serve().env("SEMRUN_CONFIG", config).output().unwrap(), 78, &words);
}

/// A server with its key in a variable, and its port.
fn by_variable(program: &[&str]) -> (Running, u16) {
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).args([SEMRUN, "serve", "--listen", "127.0.0.1:0"]);
    command.env("SEMRUN_CONFIG", "/dev/null").env("SEMRUN_API_KEY", KEY);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = Running::start(&mut command);
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port = line.trim().rsplit(' ').next().unwrap().parse().unwrap();
    (server, port)
}

#[test]
fn keys_from_a_variable_cannot_be_read_again_and_that_is_said() {
    let (mut server, port) = by_variable(&["env"]);
    server.signal(Signal::HUP);
    let mut said = BufReader::new(server.stderr.take().unwrap()).lines().map(Result::unwrap);
    let line = said.find(|line| line.contains("SIGHUP")).unwrap();
    assert!(line.contains("the API keys come from a variable, and stay"), "{line}");
    let answer = Client::new(port, KEY).get(&path("observe", "x"), &[]);
    assert_eq!(answer.status, 200);
}

#[test]
fn a_signal_that_is_ignored_stays_ignored() {
    let (server, port) = by_variable(&["nohup"]);
    let signals = fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let ignored = signals.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    assert_eq!(u64::from_str_radix(ignored.trim(), 16).unwrap() & 1, 1);
    server.signal(Signal::HUP);
    assert_eq!(Client::new(port, KEY).get(&path("observe", "x"), &[]).status, 200);
    server.signal(Signal::TERM);
    let ended = server.finish();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && !said.contains("SIGHUP"), "{said}");
}
