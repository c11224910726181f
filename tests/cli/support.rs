use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::cloud_server::{CloudServer, KEY};
use super::http::Client;
use super::pids::has_below;
pub(crate) use super::pids::{Leftover, children, is_alive, pids_of_children, state, worker_of};
use super::processes::{MARK, Process, marked};
use super::redis_server::RedisServer;
use super::root::as_root;

/// The program under test.
pub(crate) const SEMRUN: &str = env!("CARGO_BIN_EXE_semrun");

/// Longer than anything takes that works, on a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A directory for one test, with the permits in it or in a server of its own.
pub(crate) struct World {
    directory: TempDir,
    pub(crate) redis: Option<RedisServer>,
    pub(crate) cloud: Option<CloudServer>,
    /// Whose permits those are that say nothing but their identity.
    foreign: Mutex<HashMap<String, u32>>,
}

impl World {
    /// On this machine, or in a server if the variable says so, for tests to which it makes no
    /// difference.
    pub(crate) fn new() -> Self {
        match std::env::var("SEMRUN_TEST_BACKEND").as_deref() {
            Ok("redis") => Self::in_redis(),
            Ok("serve") => Self::in_cloud(CloudServer::ours()),
            Ok("node") => Self::in_cloud(CloudServer::like_node()),
            _ => Self::on_this_machine(),
        }
    }

    /// The same, but for the server that tells nothing of its clients, has one permit a name, and
    /// passes over no waiter.
    pub(crate) fn with_details() -> Self {
        let world = Self::new();
        let is_like_node = world.cloud.as_ref().is_some_and(CloudServer::is_like_node);
        if is_like_node { Self::on_this_machine() } else { world }
    }

    pub(crate) fn on_this_machine() -> Self {
        let directory = TempDir::new().unwrap();
        Self { directory, redis: None, cloud: None, foreign: Mutex::default() }
    }

    pub(crate) fn in_cloud(server: CloudServer) -> Self {
        let mut world = Self::on_this_machine();
        world.cloud = Some(server);
        world
    }

    pub(crate) fn in_redis() -> Self {
        Self::in_server(RedisServer::start())
    }

    pub(crate) fn in_server(server: RedisServer) -> Self {
        let mut world = Self::on_this_machine();
        world.redis = Some(server);
        world
    }

    pub(crate) fn permits_expire(&self) -> bool {
        self.redis.is_some() || self.cloud.as_ref().is_some_and(|server| !server.is_like_node())
    }

    pub(crate) fn server(&self) -> &RedisServer {
        self.redis.as_ref().unwrap()
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    pub(crate) fn backend(&self) -> String {
        match (&self.redis, &self.cloud) {
            (Some(server), _) => server.url(),
            (_, Some(server)) => server.url(),
            (None, None) => format!("file://{}", self.path("permits").display()),
        }
    }

    /// What makes semrun work in this world.
    pub(crate) fn environment(&self) -> [(&'static str, String); 5] {
        [
            (MARK, self.mark()),
            // The developer may have some of their own.
            ("SEMRUN_CONFIG", "/dev/null".into()),
            ("SEMRUN_BACKEND", self.backend()),
            ("SEMRUN_API_KEY", KEY.into()),
            // Servers here are fresh, and have forgotten nothing.
            ("SEMRUN_QUARANTINE", "0".into()),
        ]
    }

    /// What the processes of this world carry.
    fn mark(&self) -> String {
        self.directory.path().display().to_string()
    }

    /// The same with each backend that knows leases and names of its own.
    pub(crate) fn everywhere(test: impl Fn(&Self) + Sync) {
        let worlds: [fn() -> Self; 3] =
            [Self::on_this_machine, Self::in_redis, || Self::in_cloud(CloudServer::ours())];
        std::thread::scope(|scope| {
            for world in worlds {
                let test = &test;
                scope.spawn(move || test(&world()));
            }
        });
    }

    /// `semrun` with these arguments and an environment that a test can rely on.
    pub(crate) fn semrun<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new(SEMRUN);
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.directory.path())
            .envs(self.environment())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// `semrun --name x` with these options and a command.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.semrun(["--name", "x"]);
        command.args(arguments);
        command
    }

    /// The same with a script for sh.
    pub(crate) fn script(&self, options: &[&str], script: &str) -> Command {
        let mut command = self.run(options);
        command.args(["--", "sh", "-c", script]);
        command
    }

    /// A run that holds a permit of `x` until it is dropped.
    pub(crate) fn holder(&self, options: &[&str]) -> Running {
        let holder = Running::start(&mut self.script(options, "exec sleep 1000"));
        // The permit is granted before there is a command; a signal in between ends a waiter.
        wait_until("its command runs", || has_below(holder.pid(), "sleep"));
        holder
    }

    /// A run of `echo`, waiting in the queue of `x`.
    pub(crate) fn waiter(&self, options: &[&str], script: &str) -> Running {
        let waiter = Running::start(&mut self.script(options, script));
        self.is_queued(&waiter);
        waiter
    }

    pub(crate) fn is_queued(&self, waiter: &Running) {
        wait_until("it is in the queue", || self.is_among("waiters", waiter));
    }

    fn is_among(&self, which: &str, process: &Running) -> bool {
        // Of the permits that do not say whose they are a new one is the newest process's.
        let news = self.nameless(which);
        self.foreign.lock().unwrap().extend(news.into_iter().map(|permit| (permit, process.id())));
        self.pids(which).contains(&process.id())
    }

    fn nameless(&self, which: &str) -> Vec<String> {
        let status = self.status();
        let all = status["semaphores"][0][which].as_array().unwrap().clone();
        let nameless = all.into_iter().filter(|one| one["foreign"] == true);
        let permits = nameless.map(|one| one["permit"].as_str().unwrap().to_owned());
        permits.filter(|permit| !self.foreign.lock().unwrap().contains_key(permit)).collect()
    }

    pub(crate) fn holders(&self) -> Vec<u32> {
        self.pids("holders")
    }

    /// The pids of the waiters, in order.
    pub(crate) fn waiters(&self) -> Vec<u32> {
        self.pids("waiters")
    }

    fn pids(&self, which: &str) -> Vec<u32> {
        let status = self.status();
        let all = status["semaphores"][0][which].as_array().unwrap();
        let pid = |one: &serde_json::Value| match (one["pid"].as_u64(), one["permit"].as_str()) {
            (Some(pid), _) => Some(u32::try_from(pid).unwrap()),
            (None, Some(permit)) => Some(*self.foreign.lock().unwrap().get(permit).unwrap_or(&0)),
            // Its record could not be read, for a moment.
            (None, None) => None,
        };
        all.iter().filter_map(pid).collect()
    }

    /// The JSON document about `x`.
    pub(crate) fn status(&self) -> serde_json::Value {
        let output = self.semrun(["status", "--json", "x"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs a script as root in a mount namespace of its own, which ends with it.
    pub(crate) fn with_mounts(&self, script: &str) -> Output {
        self.apart("--mount", script)
    }

    /// Runs a script as root in namespaces of its own.
    fn apart(&self, namespaces: &str, script: &str) -> Output {
        // Root does not trust what lies in another user's directory.
        let owner = fs::metadata(self.path(".")).unwrap().uid();
        let give = |to: u32| {
            let mut chown = as_root("chown");
            owner == 0
                || chown
                    .args(["-R", &to.to_string()])
                    .arg(self.path("."))
                    .status()
                    .unwrap()
                    .success()
        };
        assert!(give(0), "this test needs root, or sudo without a password");
        let output = as_root("unshare")
            .args(namespaces.split(' '))
            .args(["env", &format!("semrun={SEMRUN}"), "sh", "-e", "-c", script])
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        give(owner);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("sudo:"), "this test needs root, or sudo without a password");
        output
    }

    /// Runs a script as root on 10.9.8.1, a host of its own, from which `there COMMAND` runs a
    /// command on another one.
    pub(crate) fn with_network(&self, script: &str) -> Output {
        let hosts = r#"
            mount -t tmpfs tmpfs /run
            ip netns add there
            ip link add cable type veth peer name cable netns there
            ip addr add 10.9.8.1/24 dev cable
            ip link set lo up
            ip link set cable up
            ip -n there addr add 10.9.8.2/24 dev cable
            ip -n there link set lo up
            ip -n there link set cable up
            there() { exec nsenter --net=/run/netns/there "$@"; }
            "#;
        self.apart("--mount --net", &format!("{hosts}{script}"))
    }

    /// The lines of a file that commands append to.
    pub(crate) fn lines(&self, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(file)).unwrap_or_default();
        text.lines().map(String::from).collect()
    }

    /// The files or keys of `x` that stand for a client; there must be none once all are gone.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        if let Some(server) = &self.redis {
            let keys: Vec<String> = server.ask(&["KEYS", "*"]);
            let stays = |key: &String| key.ends_with("}:state") || key.ends_with("}:done");
            return keys.into_iter().filter(|key| !stays(key)).collect();
        }
        if let Some(server) = &self.cloud {
            let observed = Client::new(server.port(), KEY).observe("x");
            let nodes = observed["nodes"].as_object().unwrap();
            return nodes.keys().cloned().collect();
        }
        let Ok(files) = fs::read_dir(self.path("permits/x")) else {
            return Vec::new();
        };
        let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        files.filter(|file| file != "mutex" && file != "done").collect()
    }
}

/// A test that failed may have left some of what it started.
impl Drop for World {
    fn drop(&mut self) {
        let mark = self.mark();
        for process in marked(&mark).into_iter().filter_map(|pid| Process::find(pid, &mark)) {
            process.signal(Signal::KILL);
        }
    }
}

/// A process that is killed when the test is over.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Kills both of its processes before either can see the other one's end.
    pub(crate) fn kill_both(&self) {
        let worker = worker_of(self.pid());
        self.freeze();
        kill_process(worker, Signal::KILL).unwrap();
        wait_until("the worker is dead", || matches!(state(worker), Some('Z') | None));
        self.signal(Signal::KILL);
    }

    /// Stops it, and returns when it is.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
        wait_until("it is stopped", || state(self.pid()) == Some('T'));
    }

    /// How it ended, and what it wrote.
    pub(crate) fn finish(mut self) -> Output {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it did not end");
            sleep(Duration::from_millis(5));
        };
        // Read after its end: no process here writes more than a pipe holds.
        let mut output = Output { status, stdout: Vec::new(), stderr: Vec::new() };
        read_available(self.0.stdout.take(), &mut output.stdout);
        read_available(self.0.stderr.take(), &mut output.stderr);
        output
    }
}

/// What is in a pipe, without waiting for orphans that keep it open.
fn read_available(pipe: Option<impl Read + std::os::fd::AsFd>, text: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    rustix::fs::fcntl_setfl(&pipe, rustix::fs::OFlags::NONBLOCK).unwrap();
    let _ = pipe.read_to_end(text);
}

impl Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // A stopped one continues to die; its command goes with it.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Compares all that a finished program shows; every part is empty or 0 unless expected.
#[track_caller]
pub(crate) fn shows(output: &Output, code: i32, stdout: &str, stderr: &str) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let found = (output.status.code(), text(&output.stdout), text(&output.stderr));
    assert_eq!(found, (Some(code), stdout.into(), stderr.into()));
}

/// An error: nothing on standard output and one line with these words on standard error.
#[track_caller]
pub(crate) fn fails(output: &Output, code: i32, words: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(output.stdout, b"", "{stderr}");
    assert!(stderr.starts_with("semrun: ") && stderr.trim_end().lines().count() == 1, "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "no {word:?} in {stderr:?}");
    }
}

#[track_caller]
pub(crate) fn died_of(output: &Output, signal: Signal) {
    assert_eq!(output.status.signal(), Some(signal.as_raw()), "{output:?}");
}

#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(2));
    }
}

/// Waits until a file has something in it, and returns that.
#[track_caller]
pub(crate) fn content(path: &Path) -> String {
    wait_until(&format!("{} is written", path.display()), || {
        fs::read_to_string(path).is_ok_and(|text| text.ends_with('\n'))
    });
    fs::read_to_string(path).unwrap().trim_end().into()
}

/// Reads a pid that a command wrote.
#[track_caller]
pub(crate) fn pid_in(path: &Path) -> Pid {
    Pid::from_raw(content(path).parse().unwrap()).unwrap()
}
