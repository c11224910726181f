//! Running a command under a permit: ask, wait in turn, run, stop it if need be, give back.

use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::Rlimit;

use super::nested::held_around;
use super::runtime::{block_on, connect};
use super::waiting::{GIVING_BACK, WaitOutcome, acquire_request, asks_at_once, wait_in_turn};
use crate::cli::messages::{
    CannotRun, CommandFate, Detail, Died, PermitLost, ProcessesHidden, RanTooLong, StoppedBySignal,
    SupervisionFailed, Warning,
};
use crate::console::{Console, Loudness};
use crate::exit::Exit;
use crate::mutants::{self, Guard};
use crate::permits::{AcquireRequest, Backend, Lease, LossReason};
use crate::settings::RunSettings;
use crate::supervise::descendants;
use crate::supervise::guardian::{self, ForkSide, FrontProcess, Guardian, WorkerEnd};
use crate::supervise::lease_watch::{self, LeaseWatch};
use crate::supervise::nesting_channel::{NestingListener, OuterNews};
use crate::supervise::policy::OnLost;
use crate::supervise::process_tree::{Launch, Tree};
use crate::supervise::signals::{HandlersInstalled, Signals};
use crate::supervise::{Ended, SupervisionError, SupervisionNotice, supervise};
use crate::sys::open_files_limit;
use crate::user::User;

/// How long to retry giving back a permit that is lost anyway.
const GIVING_UP: Duration = Duration::from_secs(1);

/// How many more descriptors a run needs at most, with some to spare.
const DESCRIPTORS: u64 = 24;

pub(super) fn run(settings: &RunSettings, user: &User) -> anyhow::Result<Exit> {
    let descriptors = open_files_limit();
    let caught = HandlersInstalled::install().context("cannot listen to signals")?;
    let acquire_request = acquire_request(&settings.request, user, false);
    let backend = connect(&settings.request.location, user)?;
    let story = RunTask { settings, user, acquire_request: &acquire_request, descriptors, caught };
    if settings.request.location.expires() {
        story.tell_in_two_processes(backend)
    } else {
        story.tell_in_one_and_then_two(backend)
    }
}

/// The guardian's part: the visible process, while the worker does the rest.
fn guard(
    settings: &RunSettings,
    user: &User,
    acquire_request: &AcquireRequest,
    guardian: Guardian,
) -> anyhow::Result<Exit> {
    let mut console = Console::new(settings.request.loudness);
    let name = &acquire_request.name;
    let unkillable = |pids: &[_]| console.say(Loudness::Normal, Warning::Unkillable(pids));
    let watched = guardian.watch(unkillable).context("cannot watch the command")?;
    if let WorkerEnd::Done(end) = watched {
        return Ok(end.into());
    }
    console.take_over();
    // No process is left that could run under the permit, or wait for it.
    let backend = connect(&settings.request.location, user)?;
    if let Err(error) = block_on(backend.cancel(name, acquire_request.id, GIVING_BACK))? {
        console.say(Loudness::Normal, Warning::NotReleased(&error));
    }
    match watched {
        WorkerEnd::Done(end) => Ok(end.into()),
        WorkerEnd::Expired => {
            let why = &LossReason::StoppedTooLong;
            console.say(Loudness::Quiet, PermitLost { name, why, command: CommandFate::Stops });
            Ok(Exit::Lost(settings.lost_exit_code))
        }
        WorkerEnd::Died(status) => bail!(Died { name: name.clone(), status }),
    }
}

/// One run, from asking to giving back.
struct RunTask<'a> {
    settings: &'a RunSettings,
    user: &'a User,
    acquire_request: &'a AcquireRequest,
    /// The limit of open files that semrun was started with.
    descriptors: Option<Rlimit>,
    caught: HandlersInstalled,
}

impl RunTask<'_> {
    /// Where permits expire there are two processes from the start: if one of them fails after the
    /// grant, the other ends the command in time.
    fn tell_in_two_processes(&self, backend: Box<dyn Backend>) -> anyhow::Result<Exit> {
        let Self { settings, user, acquire_request, .. } = *self;
        if !descendants::can_be_found() {
            return Err(ProcessesHidden.into());
        }
        // The server works on the request while we split in two. So early a request can be
        // withdrawn only with enough free descriptors.
        let begun = asks_at_once(&settings.request)
            && are_free(DESCRIPTORS)
            && backend.prefetch(acquire_request);
        let withdraw = async || {
            if begun {
                // It may have been granted.
                let _ =
                    backend.cancel(&acquire_request.name, acquire_request.id, GIVING_BACK).await;
            }
        };
        let mut front_process = match guardian::fork_guardian(None) {
            Ok(ForkSide::Guardian(guardian)) => {
                drop(backend);
                return guard(settings, user, acquire_request, guardian);
            }
            Ok(ForkSide::Worker(front_process)) => front_process,
            Err(error) => {
                block_on(withdraw())?;
                return Err(error).context("cannot start a second process");
            }
        };
        let ran = block_on(async {
            let mut heard = match self.listen(&mut front_process) {
                Ok(heard) => heard,
                Err(error) => {
                    withdraw().await;
                    return Err(error);
                }
            };
            match self.wait(&*backend, &front_process, &mut heard).await? {
                WaitOutcome::Away(exit) => Ok(exit),
                turned => self.run_under(turned, &*backend, &front_process, &mut heard).await,
            }
        });
        // If we could not wait, the guardian withdraws the request.
        finish(&front_process, ran?)
    }

    /// Where a permit is taken as long as a process has its descriptor, waiting needs one process.
    /// The command's processes may close that descriptor, so from the grant on there are two as
    /// well.
    fn tell_in_one_and_then_two(&self, backend: Box<dyn Backend>) -> anyhow::Result<Exit> {
        let Self { settings, user, acquire_request, .. } = *self;
        let turned = block_on(async {
            let mut front_process = FrontProcess::Itself;
            let mut heard = self.listen(&mut front_process)?;
            self.wait(&*backend, &front_process, &mut heard).await
        })??;
        let lease = match &turned {
            WaitOutcome::Away(exit) => return Ok(*exit),
            WaitOutcome::Granted(lease) | WaitOutcome::Outer(lease) => lease,
        };
        let side = if mutants::is_off(Guard::LocalGuardian) {
            Ok(ForkSide::Worker(FrontProcess::Itself))
        } else {
            guardian::fork_guardian(lease.inherited_fd())
        };
        match side {
            Ok(ForkSide::Guardian(guardian)) => {
                drop((turned, backend));
                guard(settings, user, acquire_request, guardian)
            }
            Ok(ForkSide::Worker(mut front_process)) => {
                let ran = block_on(async {
                    match self.listen(&mut front_process) {
                        Ok(mut heard) => {
                            self.run_under(turned, &*backend, &front_process, &mut heard).await
                        }
                        Err(error) => {
                            give_back(turned).await;
                            Err(error)
                        }
                    }
                });
                finish(&front_process, ran.and_then(|ran| ran))
            }
            Err(error) => {
                block_on(give_back(turned))?;
                Err(error).context("cannot start a second process")
            }
        }
    }

    /// To be called within a runtime.
    fn listen(&self, front_process: &mut FrontProcess) -> anyhow::Result<Inputs> {
        front_process.listen().context("cannot watch the guardian")?;
        let signals = self.caught.listen().context("cannot listen to signals")?;
        Ok(Inputs { signals, console: Console::new(self.settings.request.loudness) })
    }

    async fn wait(
        &self,
        backend: &dyn Backend,
        front_process: &FrontProcess,
        Inputs { signals, console }: &mut Inputs,
    ) -> anyhow::Result<WaitOutcome> {
        let request = &self.settings.request;
        let kill_after = self.settings.supervision.kill_after;
        wait_in_turn(
            request,
            kill_after,
            backend,
            self.acquire_request,
            front_process,
            signals,
            console,
        )
        .await
    }

    /// Runs the command under a permit, and gives the permit back if it is ours.
    async fn run_under(
        &self,
        turned: WaitOutcome,
        backend: &dyn Backend,
        front_process: &FrontProcess,
        heard: &mut Inputs,
    ) -> anyhow::Result<Exit> {
        let settings = self.settings;
        let (mut lease, nested) = match turned {
            WaitOutcome::Granted(lease) => (lease, false),
            WaitOutcome::Outer(lease) => (lease, true),
            WaitOutcome::Away(exit) => return Ok(exit),
        };
        let permit = lease.permit().clone();
        if nested {
            heard.console.say(Loudness::Verbose, Detail::Outer(&permit));
        } else {
            heard.console.say(Loudness::Verbose, Detail::Backend(&backend.url()));
            heard.console.say(Loudness::Verbose, Detail::Holding(&permit));
        }

        let url = (!nested).then(|| backend.url());
        let ran = self.run_command(&mut *lease, url.as_deref(), front_process, heard).await;

        if ran.as_ref().is_err_and(anyhow::Error::is::<SupervisionFailed>) {
            // The command may live on. It keeps the permit if semrun just exits.
            return ran.map(|ran| ran.exit);
        }
        // From here on no process needs to be killed.
        front_process.kills_at(None)?;
        let console = &mut heard.console;
        let mut lost = ran.as_ref().is_ok_and(|ran| ran.lost);
        if ran.is_ok() && !lost && lease_watch::is_over(&*lease) {
            let why = &LossReason::StoppedUntilOver;
            let (name, command) = (&permit.name, CommandFate::HasEnded);
            console.say(Loudness::Quiet, PermitLost { name, why, command });
            lost = true;
        }
        if !nested {
            // A permit that cannot expire may stay taken for ever otherwise.
            let expires = lease.validity().is_some();
            let patience = if lost && expires { GIVING_UP } else { GIVING_BACK };
            let ended = if ran.as_ref().is_err_and(anyhow::Error::is::<CannotRun>) {
                // Nothing ran under it, so it need not be kept: another host may do better.
                lease.discard(patience)
            } else {
                lease.release(patience)
            };
            match ended.await {
                Ok(()) => console.say(Loudness::Verbose, Detail::Released(&permit)),
                Err(_) if lost && expires => {}
                Err(error) => console.say(Loudness::Normal, Warning::NotReleased(&error)),
            }
        }
        let ran = ran?;
        let continues = settings.supervision.rules.on_lost == OnLost::Continue;
        Ok(match ran.exit {
            exit if !lost || (continues && exit != Exit::Command(0)) => exit,
            _ => Exit::Lost(settings.lost_exit_code),
        })
    }

    /// Runs the command under a lease. `url` is where it lives if it is ours, and not one that is held
    /// around us.
    async fn run_command(
        &self,
        lease: &mut dyn Lease,
        url: Option<&str>,
        front_process: &FrontProcess,
        Inputs { signals, console }: &mut Inputs,
    ) -> anyhow::Result<RunOutcome> {
        let settings = self.settings;
        let permit = &lease.permit().clone();
        let mut environment = vec![
            ("SEMRUN_PERMIT", Some(permit.to_string())),
            // The token of a permit around us does not belong to this one.
            ("SEMRUN_FENCING_TOKEN", permit.token.map(|token| token.to_string())),
        ];
        if let Some(url) = url {
            let ours = permit.with_backend(url);
            let all = held_around().map_or(ours.clone(), |outer| format!("{outer} {ours}"));
            environment.push(("SEMRUN_HELD", Some(all)));
        }
        environment.extend(settings.withheld.iter().map(|variable| (*variable, None)));
        let supervision = settings.supervision;
        let continues = supervision.rules.on_lost == OnLost::Continue;
        let mut lease_watch = LeaseWatch::new(lease, supervision.kill_after, continues)
            .context("cannot watch the lease")?;
        front_process.kills_at(lease_watch.last())?;
        if let Some(descriptor) = lease_watch.inherit() {
            front_process.keep_open(descriptor).context("cannot have the permit kept")?;
        }
        if let Some(why) = lease_watch.is_too_late().await {
            let (name, why) = (&permit.name, &why);
            console.say(Loudness::Quiet, PermitLost { name, why, command: CommandFate::Stops });
            return Ok(RunOutcome { exit: Exit::Lost(settings.lost_exit_code), lost: true });
        }
        // It has to listen before the command can look for it.
        let around = if url.is_some() {
            NestingListener::listen(permit.id, OuterNews::Held(lease_watch.validity()))
        } else {
            NestingListener::elsewhere()
        };
        let launch = Launch {
            program: &settings.program,
            arguments: &settings.arguments,
            environment,
            foreground: supervision.rules.foreground,
            descriptors: self.descriptors,
            inherit: lease_watch.inherit(),
        };
        let cannot_run = |reason| CannotRun::new(&settings.program, &settings.arguments, reason);
        let mut tree = Tree::launch(&launch).map_err(cannot_run)?;
        let name = &permit.name;
        let remark = |remark: SupervisionNotice<'_>| match remark {
            SupervisionNotice::Lost(why) => {
                let command = if continues { CommandFate::GoesOn } else { CommandFate::Stops };
                console.say(Loudness::Quiet, PermitLost { name, why, command });
            }
            SupervisionNotice::RanTooLong => {
                let time = supervision.max_runtime.unwrap_or_default();
                console.say(Loudness::Quiet, RanTooLong(time));
            }
            SupervisionNotice::Told(signal) => {
                console.say(Loudness::Normal, StoppedBySignal(signal));
            }
            SupervisionNotice::Unkillable(pids) => {
                console.say(Loudness::Normal, Warning::Unkillable(pids));
            }
            SupervisionNotice::Leaves(tree) => {
                if console.says(Loudness::Verbose) {
                    console.say(Loudness::Verbose, Detail::Leaves(&tree.names()));
                }
            }
        };
        match supervise(
            &mut tree,
            signals,
            front_process,
            (lease_watch, around),
            supervision,
            remark,
        )
        .await
        {
            Ok(ended) => Ok(ended.into()),
            Err(SupervisionError::NotLaunched(reason)) => Err(cannot_run(reason).into()),
            Err(SupervisionError::Unattended(error)) => {
                Err(anyhow::Error::new(error).context(SupervisionFailed))
            }
        }
    }
}

/// The signals that a run hears, and its console.
struct Inputs {
    signals: Signals,
    console: Console,
}

/// Gives back a permit of ours under which no command has run.
async fn give_back(turned: WaitOutcome) {
    if let WaitOutcome::Granted(lease) = turned {
        let _ = lease.release(GIVING_BACK).await;
    }
}

/// The result of running the command.
struct RunOutcome {
    exit: Exit,
    /// Whether its permit was lost before that.
    lost: bool,
}

impl From<Ended> for RunOutcome {
    fn from(Ended { how, lost }: Ended) -> Self {
        Self { exit: how.into(), lost }
    }
}

/// Tells the visible process how the run ended.
fn finish(front_process: &FrontProcess, ran: anyhow::Result<Exit>) -> anyhow::Result<Exit> {
    match &ran {
        Ok(exit) => front_process.done((*exit).into()),
        // Processes of the command may be left, which the guardian has to end.
        Err(error) if error.is::<SupervisionFailed>() => {}
        Err(_) => front_process.failed(),
    }
    ran
}

/// Whether so many descriptors are free.
fn are_free(count: u64) -> bool {
    let Ok(lowest) = fcntl_dupfd_cloexec(std::io::stderr(), 0) else { return false };
    let lowest = u64::try_from(lowest.as_raw_fd()).unwrap_or(u64::MAX);
    open_files_limit()
        .is_none_or(|limit| limit.current.is_none_or(|limit| lowest.saturating_add(count) < limit))
}
