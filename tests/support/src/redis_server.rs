//! A `redis-server` of one test's own, on a free port, ended with the test.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use redis::{Connection, FromRedisValue};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::mortal;

pub struct RedisServer {
    process: Child,
    directory: TempDir,
    port: u16,
    options: Vec<String>,
    environment: Vec<(&'static str, PathBuf)>,
}

impl RedisServer {
    /// One that has been up for long enough to grant permits with a quarantine of 0.
    pub fn start() -> Self {
        Self::with(&[])
    }

    pub fn with(options: &[&str]) -> Self {
        Self::with_environment(options, &[])
    }

    pub fn with_environment(options: &[&str], environment: &[(&'static str, PathBuf)]) -> Self {
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

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again after a kill, at the same place.
    pub fn start_again(&mut self) {
        let (options, environment) = (&self.options, &self.environment);
        let process = launch(&self.directory, self.port, options, environment);
        self.process = process.expect("its port is free");
    }

    pub fn connection(&self) -> Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    /// Asks it something, in words.
    pub fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
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
    let mut process = mortal("redis-server")
        .args(["--bind", "127.0.0.1", "--save", ""])
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
