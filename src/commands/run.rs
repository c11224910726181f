//! Running a command under a permit: ask, wait in turn, run, stop it if need be, give back.

use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::Rlimit;

use super::nested::held_around;
use super::runtime::block_on;
use super::waiting::{GIVING_BACK, Turned, ask, asks_at_once, wait_in_turn};
use crate::account::Account;
use crate::backends::{Ask, Backend, Lease, Loss, Revocation};
use crate::cli::messages::{CannotRun, Detail, Died, Doomed, Losing, RanTooLong, Told, Warning};
use crate::exit::{Exit, Failure};
use crate::kernel::open_files_limit;
use crate::mutants::{self, Guard};
use crate::settings::{Misuse, Run};
use crate::supervise::child::{Launch, Tree};
use crate::supervise::descendants;
use crate::supervise::guardian::{self, Guardian, Side, Visible, Watched};
use crate::supervise::hold::{self, Hold};
use crate::supervise::nesting::{Around, News};
use crate::supervise::policy::OnLost;
use crate::supervise::signals::{Caught, Signals};
use crate::supervise::{Ended, Remark, Unseen, supervise};
use crate::terminal::{Console, Loudness};

/// How long to retry giving back a permit that is lost anyway.
const GIVING_UP: Duration = Duration::from_secs(1);

/// How many more descriptors a run needs at most, with some to spare.
const DESCRIPTORS: u64 = 24;

pub(super) fn run(settings: &Run, account: &Account) -> anyhow::Result<Exit> {
    let descriptors = open_files_limit();
    let caught = Caught::install().context("cannot listen to signals")?;
    let ask = ask(&settings.request, account, false);
    let backend = settings.request.location.connect(account)?;
    let story = Story { settings, account, ask: &ask, descriptors, caught };
    if settings.request.location.expires() {
        story.tell_in_two_processes(backend)
    } else {
        story.tell_in_one_and_then_two(backend)
    }
}

/// The guardian's part: the visible process, while the worker does the rest.
fn guard(settings: &Run, account: &Account, ask: &Ask, guardian: Guardian) -> anyhow::Result<Exit> {
    let mut console = Console::new(settings.request.loudness);
    let name = &ask.name;
    let unkillable = |pids: &[_]| console.say(Loudness::Normal, Warning::Unkillable(pids));
    let watched = guardian.watch(unkillable).context("cannot watch the command")?;
    if let Watched::Done(end) = watched {
        return Ok(end.into());
    }
    console.take_over();
    // No process is left that could run under the permit, or wait for it.
    let backend = settings.request.location.connect(account)?;
    if let Err(error) = block_on(backend.withdraw(name, ask.id, GIVING_BACK))? {
        console.say(Loudness::Normal, Warning::NotReleased(&error));
    }
    match watched {
        Watched::Done(end) => Ok(end.into()),
        Watched::Expired => {
            let why = &Loss::StoppedTooLong;
            console.say(Loudness::Quiet, Losing { name, why, command: Doomed::Stops });
            Ok(Exit::Lost(settings.lost_exit_code))
        }
        Watched::Died(status) => bail!(Died { name: name.clone(), status }),
    }
}

/// No process looks after the command any more.
#[derive(Debug)]
struct Unattended;

impl std::fmt::Display for Unattended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cannot look after the command")
    }
}

/// One run, from asking to giving back.
struct Story<'a> {
    settings: &'a Run,
    account: &'a Account,
    ask: &'a Ask,
    /// The limit of open files that semrun was started with.
    descriptors: Option<Rlimit>,
    caught: Caught,
}

impl Story<'_> {
    /// Where permits expire there are two processes from the start: if one of them fails after the
    /// grant, the other ends the command in time.
    fn tell_in_two_processes(&self, backend: Box<dyn Backend>) -> anyhow::Result<Exit> {
        let Self { settings, account, ask, .. } = *self;
        if !descendants::can_be_found() {
            let text = "the processes of a command could not be stopped in time here: /proc is \
                        missing, hides them, or is that of another pid namespace (unshare \
                        --mount-proc mounts the right one)";
            return Err(Misuse::new(Failure::Unsupported, text).into());
        }
        // The server works on the request while we split in two. So early a request can be
        // withdrawn only with enough free descriptors.
        let begun = asks_at_once(&settings.request) && are_free(DESCRIPTORS) && backend.begin(ask);
        let withdraw = async || {
            if begun {
                // It may have been granted.
                let _ = backend.withdraw(&ask.name, ask.id, GIVING_BACK).await;
            }
        };
        let mut visible = match guardian::divide(None) {
            Ok(Side::Guardian(guardian)) => {
                drop(backend);
                return guard(settings, account, ask, guardian);
            }
            Ok(Side::Worker(visible)) => visible,
            Err(error) => {
                block_on(withdraw())?;
                return Err(error).context("cannot start a second process");
            }
        };
        let ran = block_on(async {
            let mut heard = match self.listen(&mut visible) {
                Ok(heard) => heard,
                Err(error) => {
                    withdraw().await;
                    return Err(error);
                }
            };
            match self.wait(&*backend, &visible, &mut heard).await? {
                Turned::Away(exit) => Ok(exit),
                turned => self.run_under(turned, &*backend, &visible, &mut heard).await,
            }
        });
        // If we could not wait, the guardian withdraws the request.
        conclude(&visible, ran?)
    }

    /// Where a permit is taken as long as a process has its descriptor, waiting needs one process.
    /// The command's processes may close that descriptor, so from the grant on there are two as
    /// well.
    fn tell_in_one_and_then_two(&self, backend: Box<dyn Backend>) -> anyhow::Result<Exit> {
        let Self { settings, account, ask, .. } = *self;
        let turned = block_on(async {
            let mut visible = Visible::Itself;
            let mut heard = self.listen(&mut visible)?;
            self.wait(&*backend, &visible, &mut heard).await
        })??;
        let lease = match &turned {
            Turned::Away(exit) => return Ok(*exit),
            Turned::Granted(lease) | Turned::Outer(lease) => lease,
        };
        let side = if mutants::is_off(Guard::LocalGuardian) {
            Ok(Side::Worker(Visible::Itself))
        } else {
            guardian::divide(lease.inherit())
        };
        match side {
            Ok(Side::Guardian(guardian)) => {
                drop((turned, backend));
                guard(settings, account, ask, guardian)
            }
            Ok(Side::Worker(mut visible)) => {
                let ran = block_on(async {
                    match self.listen(&mut visible) {
                        Ok(mut heard) => {
                            self.run_under(turned, &*backend, &visible, &mut heard).await
                        }
                        Err(error) => {
                            give_back(turned).await;
                            Err(error)
                        }
                    }
                });
                conclude(&visible, ran.and_then(|ran| ran))
            }
            Err(error) => {
                block_on(give_back(turned))?;
                Err(error).context("cannot start a second process")
            }
        }
    }

    /// To be called within a runtime.
    fn listen(&self, visible: &mut Visible) -> anyhow::Result<Heard> {
        visible.listen().context("cannot watch the guardian")?;
        let signals = self.caught.listen().context("cannot listen to signals")?;
        Ok(Heard { signals, console: Console::new(self.settings.request.loudness) })
    }

    async fn wait(
        &self,
        backend: &dyn Backend,
        visible: &Visible,
        Heard { signals, console }: &mut Heard,
    ) -> anyhow::Result<Turned> {
        let request = &self.settings.request;
        let kill_after = self.settings.supervision.kill_after;
        wait_in_turn(request, kill_after, backend, self.ask, visible, signals, console).await
    }

    /// Runs the command under a permit, and gives the permit back if it is ours.
    async fn run_under(
        &self,
        turned: Turned,
        backend: &dyn Backend,
        visible: &Visible,
        heard: &mut Heard,
    ) -> anyhow::Result<Exit> {
        let settings = self.settings;
        let (mut lease, nested) = match turned {
            Turned::Granted(lease) => (lease, false),
            Turned::Outer(lease) => (lease, true),
            Turned::Away(exit) => return Ok(exit),
        };
        let permit = lease.permit().clone();
        if nested {
            heard.console.say(Loudness::Verbose, Detail::Outer(&permit));
        } else {
            heard.console.say(Loudness::Verbose, Detail::Backend(&backend.url()));
            heard.console.say(Loudness::Verbose, Detail::Holding(&permit));
        }

        let url = (!nested).then(|| backend.url());
        let ran = self.run_command(&mut *lease, url.as_deref(), visible, heard).await;

        if ran.as_ref().is_err_and(anyhow::Error::is::<Unattended>) {
            // The command may live on. It keeps the permit if semrun just exits.
            return ran.map(|ran| ran.exit);
        }
        // From here on no process needs to be killed.
        visible.kills_at(None)?;
        let console = &mut heard.console;
        let mut lost = ran.as_ref().is_ok_and(|ran| ran.lost);
        if ran.is_ok() && !lost && hold::is_over(&*lease) {
            let why = &Loss::StoppedUntilOver;
            let (name, command) = (&permit.name, Doomed::HasEnded);
            console.say(Loudness::Quiet, Losing { name, why, command });
            lost = true;
        }
        if !nested {
            let cannot_run = ran.as_ref().is_err_and(anyhow::Error::is::<CannotRun>);
            if cannot_run
                && !settings.request.min_hold.is_zero()
                && backend.revoke(&permit.name, permit.id, Revocation::Now).await.is_ok()
            {
                // Nothing ran under it, so it need not be kept: another host may do better.
                return Ok(ran?.exit);
            }
            // A permit that cannot expire may stay taken for ever otherwise.
            let expires = lease.tenure().is_some();
            match lease.release(if lost && expires { GIVING_UP } else { GIVING_BACK }).await {
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
        visible: &Visible,
        Heard { signals, console }: &mut Heard,
    ) -> anyhow::Result<Ran> {
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
        let mut hold = Hold::new(lease, supervision.kill_after, continues)
            .context("cannot watch the lease")?;
        visible.kills_at(hold.last())?;
        if let Some(descriptor) = hold.inherit() {
            visible.keep(descriptor).context("cannot have the permit kept")?;
        }
        if let Some(why) = hold.is_too_late().await {
            let (name, why) = (&permit.name, &why);
            console.say(Loudness::Quiet, Losing { name, why, command: Doomed::Stops });
            return Ok(Ran { exit: Exit::Lost(settings.lost_exit_code), lost: true });
        }
        // It has to listen before the command can look for it.
        let around = if url.is_some() {
            Around::listen(permit.id, News::Held(hold.tenure()))
        } else {
            Around::elsewhere()
        };
        let launch = Launch {
            program: &settings.program,
            arguments: &settings.arguments,
            environment,
            foreground: supervision.rules.foreground,
            descriptors: self.descriptors,
            inherit: hold.inherit(),
        };
        let cannot_run = |reason| CannotRun::new(&settings.program, reason);
        let mut tree = Tree::launch(&launch).map_err(cannot_run)?;
        let name = &permit.name;
        let remark = |remark: Remark<'_>| match remark {
            Remark::Lost(why) => {
                let command = if continues { Doomed::GoesOn } else { Doomed::Stops };
                console.say(Loudness::Quiet, Losing { name, why, command });
            }
            Remark::RanTooLong => {
                let time = supervision.max_runtime.unwrap_or_default();
                console.say(Loudness::Quiet, RanTooLong(time));
            }
            Remark::Told(signal) => console.say(Loudness::Normal, Told(signal)),
            Remark::Unkillable(pids) => {
                console.say(Loudness::Normal, Warning::Unkillable(pids));
            }
            Remark::Leaves(tree) => {
                if console.says(Loudness::Verbose) {
                    console.say(Loudness::Verbose, Detail::Leaves(&tree.names()));
                }
            }
        };
        match supervise(&mut tree, signals, visible, (hold, around), supervision, remark).await {
            Ok(ended) => Ok(ended.into()),
            Err(Unseen::NotLaunched(reason)) => Err(cannot_run(reason).into()),
            Err(Unseen::Unattended(error)) => Err(anyhow::Error::new(error).context(Unattended)),
        }
    }
}

/// The signals that a run hears, and its console.
struct Heard {
    signals: Signals,
    console: Console,
}

/// Gives back a permit of ours under which no command has run.
async fn give_back(turned: Turned) {
    if let Turned::Granted(lease) = turned {
        let _ = lease.release(GIVING_BACK).await;
    }
}

/// The result of running the command.
struct Ran {
    exit: Exit,
    /// Whether its permit was lost before that.
    lost: bool,
}

impl From<Ended> for Ran {
    fn from(Ended { how, lost }: Ended) -> Self {
        Self { exit: how.into(), lost }
    }
}

/// Tells the visible process how the run ended.
fn conclude(visible: &Visible, ran: anyhow::Result<Exit>) -> anyhow::Result<Exit> {
    match &ran {
        Ok(exit) => visible.done((*exit).into()),
        // Processes of the command may be left, which the guardian has to end.
        Err(error) if error.is::<Unattended>() => {}
        Err(_) => visible.failed(),
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
