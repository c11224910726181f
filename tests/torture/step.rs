//! A step under a permit that outlives the process that acquired it, as in a CI job: it calls
//! semrun to get the permit, to keep it, and to give it back.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::getpid;

use super::arena::TTL;
use super::command::{Notes, alive_file, judge, open_for_the_family, semaphore_directory};
use super::history::{Moment, Run};

/// What it is told.
pub(super) struct Step<'a> {
    pub(super) here: &'a Path,
    pub(super) run: &'a str,
    pub(super) semaphore: &'a str,
    pub(super) limit: &'a str,
    pub(super) early: bool,
    pub(super) work: Duration,
    pub(super) hold: &'a str,
}

/// How often it renews, and for how long it works on after the last renewal that succeeded. No
/// process stops it when the permit is lost: what is left of the lease is the time for a machine
/// that does much else, and for a Redis whose clock leaps, which gives half a TTL to renew.
const EACH: Duration = Duration::from_secs(1);
const CERTAIN: Duration = Duration::from_secs(2);

/// A program has failed with this code, and has said why.
struct Failed(i32);

impl Step<'_> {
    /// Returns what it ends with.
    pub(super) fn play(&self) -> i32 {
        match self.work() {
            Ok(()) => 0,
            Err(Failed(code)) => code,
        }
    }

    fn work(&self) -> Result<(), Failed> {
        let (permit, token) = self.acquire()?;
        let mut work = self.work;
        // Half of the long ones leave it to a process of its own to keep the permit, and work then.
        if work > TTL && work.as_millis().is_multiple_of(2) {
            work = work.saturating_sub(TTL);
            let pid = getpid().as_raw_nonzero().to_string();
            let renewing =
                self.semrun(&["renew", "--permit", &permit, "--while-pid", &pid]).spawn();
            let mut renewing = renewing.unwrap();
            sleep(TTL.mul_f64(1.2));
            if let Some(status) = renewing.try_wait().unwrap() {
                return Err(Failed(status.code().unwrap_or(1)));
            }
        }
        let mut certain = Certain::begin(self, &permit);
        while !certain.is_now() {
            certain.go_on()?;
        }
        self.work_with(&permit, &token, work, certain)?;
        let mut release = self.semrun(&["release", "--permit", &permit]);
        succeeded(release.status().unwrap().code())
    }

    fn work_with(
        &self,
        permit: &str,
        token: &str,
        work: Duration,
        mut certain: Certain,
    ) -> Result<(), Failed> {
        let notes = Notes::new(self.here, self.run);
        let run = Run(self.run.parse().unwrap());
        let alive = open_for_the_family(&alive_file(self.here, run), rustix::fs::OFlags::WRONLY);
        notes.write(&format!("entered {} {token} {permit}", getpid()));
        let files = semaphore_directory(self.here, self.semaphore);
        let lock = judge(&files, self.limit.parse().unwrap(), self.early);
        // The programs that it calls must not have them.
        for file in lock.iter().chain([&alive]) {
            fcntl_setfd(file, FdFlags::CLOEXEC).unwrap();
        }
        if lock.is_none() {
            notes.write("crowded");
        }
        let end = Moment::now().plus(work);
        while Moment::now() < end {
            certain.go_on()?;
        }
        notes.write("left 0");
        drop((lock, alive));
        Ok(())
    }

    /// The permit and its token.
    fn acquire(&self) -> Result<(String, String), Failed> {
        let Self { run, semaphore, limit, hold, .. } = self;
        let mut acquire = self.semrun(&["acquire", "-q", "--json", "--name", semaphore]);
        acquire.args(["-l", limit, "--label", run, "--min-hold", hold]);
        let output = acquire.stdout(Stdio::piped()).output().unwrap();
        succeeded(output.status.code())?;
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        Ok((said["permit"].as_str().unwrap().into(), said["fencing_token"].to_string()))
    }

    /// What it has to say it says where we would.
    fn semrun(&self, arguments: &[&str]) -> Command {
        let mut semrun = Command::new(self.here.join("semrun"));
        semrun.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        semrun
    }
}

fn succeeded(code: Option<i32>) -> Result<(), Failed> {
    match code {
        Some(0) => Ok(()),
        code => Err(Failed(code.unwrap_or(1))),
    }
}

/// Until when the permit is held for certain.
struct Certain<'a> {
    step: &'a Step<'a>,
    permit: &'a str,
    until: Option<Moment>,
    /// Since when a process renews.
    renewing: Option<(Moment, Child)>,
    next: Moment,
}

impl<'a> Certain<'a> {
    fn begin(step: &'a Step<'a>, permit: &'a str) -> Self {
        Self { step, permit, until: None, renewing: None, next: Moment::now() }
    }

    fn is_now(&self) -> bool {
        self.until.is_some_and(|until| Moment::now() < until)
    }

    /// Renews when it is time for that, and waits for a hundredth of a second.
    fn go_on(&mut self) -> Result<(), Failed> {
        let now = Moment::now();
        if self.renewing.is_none() && now >= self.next {
            let renew = self.step.semrun(&["renew", "--permit", self.permit]).spawn();
            self.renewing = Some((now, renew.unwrap()));
            self.next = now.plus(EACH);
        }
        sleep(Duration::from_millis(10));
        if let Some((began, renew)) = &mut self.renewing
            && let Some(status) = renew.try_wait().unwrap()
        {
            // It was extended later than that, if at all.
            let until = began.plus(CERTAIN);
            self.renewing = None;
            succeeded(status.code())?;
            self.until = Some(until);
        }
        if self.until.is_some_and(|until| Moment::now() >= until) {
            eprintln!("semrun: (the step) it was not renewed in time");
            return Err(Failed(76));
        }
        Ok(())
    }
}
