//! One process of Redis: a server, or a sentinel. Its directory and its port stay its own through
//! kills and restarts.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use redis::{Connection, FromRedisValue, RedisResult};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{PATIENCE, mortal, ports};

/// Names the `redis-server` to test with, instead of the one in PATH.
const PROGRAM: &str = "SEMRUN_TEST_REDIS";

/// How long a server may take over an answer before it counts as away.
const ANSWER: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Server,
    Sentinel,
}

/// As servers say it of themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Primary,
    Replica,
}

pub struct Node {
    process: Option<Child>,
    directory: TempDir,
    port: u16,
    kind: Kind,
    /// The lines of its configuration, but for the port and the directory. Each start has them anew:
    /// sentinels have them rewritten.
    settings: Vec<String>,
    /// USER:PASSWORD@ of a client, or nothing.
    credentials: &'static str,
}

impl Node {
    /// Starts one on a free port, and returns when it answers.
    pub fn start(kind: Kind, settings: &[String], credentials: &'static str) -> Self {
        let (process, settings) = (None, settings.to_vec());
        let directory = TempDir::new().unwrap();
        let mut node = Self { process, directory, port: 0, kind, settings, credentials };
        for _ in 0..20 {
            node.port = ports::free();
            if node.launch() {
                return node;
            }
        }
        panic!("it does not start on any port: {}", node.log());
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where clients find it, with user and password.
    pub fn url(&self) -> String {
        format!("redis://{}127.0.0.1:{}", self.credentials, self.port)
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// What it has written in all its lives.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Kills it, frozen or not.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts it again after a kill, on its port, as it was first configured, with what is on its disk.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "it still runs");
        let deadline = Instant::now() + PATIENCE;
        while !self.launch() {
            assert!(Instant::now() < deadline, "it does not start again: {}", self.log());
            sleep(Duration::from_millis(50));
        }
    }

    /// The same without anything on its disk: also a replica has a file there, of what it copied.
    pub fn restart_empty(&mut self) {
        for entry in fs::read_dir(self.directory.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                fs::remove_dir_all(path).unwrap();
            } else if path.file_name().is_some_and(|name| name != "log") {
                fs::remove_file(path).unwrap();
            }
        }
        self.restart();
    }

    /// Stops its process. Connections to it stay open, and new ones are accepted by the kernel.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it runs");
        kill_process(Pid::from_child(process), signal).unwrap();
    }

    pub fn connection(&self) -> RedisResult<Connection> {
        let connection = redis::Client::open(self.url())?.get_connection_with_timeout(ANSWER)?;
        connection.set_read_timeout(Some(ANSWER))?;
        connection.set_write_timeout(Some(ANSWER))?;
        Ok(connection)
    }

    /// Asks it something, in words. An error: it is away, or refuses.
    pub fn try_ask<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        redis::cmd(words[0]).arg(&words[1..]).query(&mut self.connection()?)
    }

    #[track_caller]
    pub fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_ask(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// A field of a section of `INFO`; none also if it is away.
    pub fn info(&self, section: &str, field: &str) -> Option<String> {
        let text: String = self.try_ask(&["INFO", section]).ok()?;
        let value = |line: &str| line.strip_prefix(field)?.strip_prefix(':').map(str::to_owned);
        text.lines().find_map(value)
    }

    /// The same, as a number.
    pub fn count(&self, section: &str, field: &str) -> Option<u64> {
        self.info(section, field)?.parse().ok()
    }

    /// None if it is away.
    pub fn role(&self) -> Option<Role> {
        match self.info("replication", "role")?.as_str() {
            "master" => Some(Role::Primary),
            _ => Some(Role::Replica),
        }
    }

    /// Whether it came up: that it did not is due to the port, most of the time.
    fn launch(&mut self) -> bool {
        let file = self.path("redis.conf");
        let here = self.directory.path().display();
        let own = format!(
            "bind 127.0.0.1\nport {}\ndir {here}\nlogfile {here}/log\ndaemonize no\n",
            self.port
        );
        fs::write(&file, own + &self.settings.join("\n") + "\n").unwrap();
        let program = std::env::var_os(PROGRAM).unwrap_or_else(|| OsString::from("redis-server"));
        let mut command = mortal(&program);
        command.arg(file);
        if self.kind == Kind::Sentinel {
            command.arg("--sentinel");
        }
        command.current_dir(self.directory.path()).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().expect("these tests need setpriv; scripts/test installs it");
        let id = u64::from(process.id());
        let process = self.process.insert(process);
        let deadline = Instant::now() + PATIENCE;
        while process.try_wait().unwrap().is_none() {
            let url = format!("redis://{}127.0.0.1:{}", self.credentials, self.port);
            // Another program may listen there.
            if process_behind(&url) == Some(id) {
                return true;
            }
            assert!(Instant::now() < deadline, "it runs and does not answer");
            sleep(Duration::from_millis(5));
        }
        self.process = None;
        false
    }
}

/// The number of the process that answers.
fn process_behind(url: &str) -> Option<u64> {
    let mut connection = redis::Client::open(url).ok()?.get_connection_with_timeout(ANSWER).ok()?;
    connection.set_read_timeout(Some(ANSWER)).ok()?;
    let text: String = redis::cmd("INFO").arg("server").query(&mut connection).ok()?;
    text.lines().find_map(|line| line.strip_prefix("process_id:"))?.parse().ok()
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
