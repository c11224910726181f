//! A real haproxy that finds the primary as its users' do: it asks every server for its role, and
//! ends the sessions of one that is down.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::node::Node;
use super::{PATIENCE, mortal, ports, wait_until};

pub struct Haproxy {
    process: Child,
    directory: TempDir,
    port: u16,
}

impl Haproxy {
    /// Returns when it has asked every server, and found one primary.
    pub fn before(nodes: &[Node]) -> Self {
        let directory = TempDir::new().unwrap();
        let started = (0..20).find_map(|_| {
            let port = ports::free();
            launch(&directory, port, nodes).map(|process| (process, port))
        });
        let (process, port) = started.expect("a free port for haproxy");
        let haproxy = Self { process, directory, port };
        wait_until("haproxy has found the primary", || haproxy.primaries().len() == 1);
        haproxy
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The numbers of the servers that clients are let to; none before each has been asked.
    pub fn primaries(&self) -> Vec<usize> {
        let Some(servers) = statistics(&self.directory.path().join("control")) else {
            return Vec::new();
        };
        // It takes all for good before it has asked them.
        if servers.iter().any(|server| matches!(server["check_status"].as_str(), "" | "INI")) {
            return Vec::new();
        }
        let up = servers.iter().filter(|server| server["status"].starts_with("UP"));
        up.map(|server| server["svname"][1..].parse().unwrap()).collect()
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// None: it ended, because its port is taken.
fn launch(directory: &TempDir, port: u16, nodes: &[Node]) -> Option<Child> {
    let here = directory.path();
    let control = here.join("control");
    let file = here.join("haproxy.cfg");
    fs::write(&file, configuration(&control, port, nodes)).unwrap();
    // Where Debian has it, and not every user looks.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    let mut process = mortal("haproxy")
        .env("PATH", path)
        .args(["-q", "-db", "-f"])
        .arg(file)
        .current_dir(here)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(here.join("log")).unwrap())
        .spawn()
        .expect("these tests need haproxy and setpriv; scripts/test installs them");
    let deadline = Instant::now() + PATIENCE;
    while process.try_wait().unwrap().is_none() {
        if statistics(&control).is_some() {
            return Some(process);
        }
        assert!(Instant::now() < deadline, "haproxy runs and does not answer");
        sleep(Duration::from_millis(10));
    }
    None
}

fn configuration(control: &Path, port: u16, nodes: &[Node]) -> String {
    let mut text = format!(
        r"global
    stats socket {control} mode 600

defaults
    mode tcp
    timeout connect 1s
    timeout check 1s
    timeout client 1h
    timeout server 1h

listen redis
    bind 127.0.0.1:{port}
    option tcp-check
    tcp-check connect
    tcp-check send AUTH\ cli\ cp\r\n
    tcp-check expect string +OK
    tcp-check send info\ replication\r\n
    tcp-check expect string role:master
    tcp-check send QUIT\r\n
    tcp-check expect string +OK
    default-server check inter 200ms fall 2 rise 1 on-marked-down shutdown-sessions
",
        control = control.display()
    );
    for (number, node) in nodes.iter().enumerate() {
        writeln!(text, "    server n{number} 127.0.0.1:{}", node.port()).unwrap();
    }
    text
}

/// What it knows of each server; none if it does not answer.
fn statistics(control: &Path) -> Option<Vec<HashMap<String, String>>> {
    let mut stream = UnixStream::connect(control).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    stream.write_all(b"show stat\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let mut lines = text.trim_start_matches("# ").lines().map(|line| line.split(','));
    let names: Vec<_> = lines.next()?.collect();
    let row = |values: std::str::Split<'_, char>| -> HashMap<String, String> {
        names.iter().map(ToString::to_string).zip(values.map(String::from)).collect()
    };
    let rows = lines.map(row);
    Some(rows.filter(|row| row.get("svname").is_some_and(|name| name.starts_with('n'))).collect())
}
