//! A `redis-server` of one test's own, on a free port, ended with the test. Also compiled into the
//! unit tests, which need less of it.
#![cfg_attr(test, allow(dead_code, clippy::allow_attributes, reason = "each side uses a part"))]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use redis::{Connection, FromRedisValue};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub(crate) struct RedisServer {
    process: Child,
    directory: TempDir,
    port: u16,
    options: Vec<String>,
    environment: Vec<(&'static str, PathBuf)>,
}

impl RedisServer {
    /// One that has been up for long enough to grant permits with a quarantine of 0.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(options: &[&str]) -> Self {
        Self::with_environment(options, &[])
    }

    pub(crate) fn with_environment(
        options: &[&str],
        environment: &[(&'static str, PathBuf)],
    ) -> Self {
        let directory = TempDir::new().unwrap();
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        let environment = environment.to_vec();
        for _ in 0..20 {
            // Free now; if another process takes it meanwhile, another port will do.
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if let Some(process) = launch(&directory, port, &options, &environment) {
                return Self { process, directory, port, options, environment };
            }
        }
        panic!("no free port for redis-server");
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again after a kill, at the same place.
    pub(crate) fn start_again(&mut self) {
        let (options, environment) = (&self.options, &self.environment);
        let process = launch(&self.directory, self.port, options, environment);
        self.process = process.expect("its port is free");
    }

    pub(crate) fn connection(&self) -> Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    /// Asks it something, in words.
    pub(crate) fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut self.connection()).unwrap()
    }
}

/// None: it did not start.
fn launch(
    directory: &TempDir,
    port: u16,
    options: &[String],
    environment: &[(&'static str, PathBuf)],
) -> Option<Child> {
    // It dies with the thread that started it, whatever becomes of that.
    let mut process = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "redis-server", "--bind", "127.0.0.1", "--save", ""])
        .args(["--port", &port.to_string()])
        .arg("--dir")
        .arg(directory.path())
        .args(options)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("these tests need redis-server and setpriv; scripts/test installs them");
    let stdout = BufReader::new(process.stdout.take().unwrap());
    for line in stdout.lines() {
        let line = line.unwrap();
        if line.contains("Ready to accept connections") || line.contains("Loading RDB produced by")
        {
            return Some(process);
        }
    }
    process.wait().unwrap();
    None
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
