//! Running a command under a permit: ask, wait in turn, run, stop it if need be, give back.

use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getrlimit};

use super::block_on;
use super::waiting::{GIVING_BACK, Turned, ask, asks_at_once, held_around, wait_in_turn};
use crate::account::Account;
use crate::backends::{Ask, Backend, Eviction, Lease, Permit};
use crate::exit::{Exit, Failure};
use crate::report::{CannotRun, Detail, Died, Doomed, Losing, RanTooLong, Warning};
use crate::settings::{Misuse, Run};
use crate::supervise::child::{Launch, Tree};
use crate::supervise::descendants;
use crate::supervise::guardian::{self, Guardian, Side, Visible, Watched};
use crate::supervise::hold::{self, Hold};
use crate::supervise::policy::OnLost;
use crate::supervise::signals::{Caught, Signals};
use crate::supervise::{Ended, Remark, supervise};
use crate::terminal::{Console, Loudness};

/// How long giving back is tried for a permit that is lost anyway.
const GIVING_UP: Duration = Duration::from_secs(1);

pub(super) fn run(settings: &Run, account: &Account) -> anyhow::Result<Exit> {
    let descriptors = getrlimit(Resource::Nofile);
    let caught = Caught::install().context("cannot listen to signals")?;
    let ask = ask(&settings.request, account, false);
    let backend = settings.request.location.connect(account)?;
    let mut visible = if settings.request.location.expires() {
        if !descendants::are_visible() {
            let text = "the processes of a command could not be stopped in time here: /proc is \
                        missing, or that of another pid namespace (unshare --mount-proc mounts \
                        the right one)";
            return Err(Misuse::new(Failure::Unsupported, text).into());
        }
        // The server thinks about it while there come to be two of us.
        let begun = asks_at_once(&settings.request) && backend.begin(&ask);
        match guardian::divide() {
            Ok(Side::Guardian(guardian)) => {
                drop(backend);
                return guard(settings, account, &ask, guardian);
            }
            Ok(Side::Worker(visible)) => visible,
            Err(error) => {
                if begun {
                    // It may have been granted.
                    let _ = block_on(backend.withdraw(&ask.name, ask.id, GIVING_BACK))?;
                }
                return Err(error).context("cannot start a second process");
            }
        }
    } else {
        Visible::Itself
    };
    let told = block_on(async {
        visible.listen().context("cannot watch the guardian")?;
        let story =
            Story { settings, ask: &ask, backend: &*backend, descriptors, visible: &visible };
        let ran = story.tell(caught).await;
        if let Ok(exit) = ran {
            visible.done(exit);
        }
        ran
    });
    let ran = told.and_then(|ran| ran);
    // Otherwise something may be left of the command, and the guardian has to see to it.
    if ran.as_ref().is_err_and(|error| !error.is::<Unattended>()) {
        visible.failed();
    }
    ran
}

/// The part of the process that everybody sees, where another one does the rest.
fn guard(settings: &Run, account: &Account, ask: &Ask, guardian: Guardian) -> anyhow::Result<Exit> {
    let mut console = Console::new(settings.request.loudness);
    let name = &ask.name;
    let unkillable = |pids: &[_]| console.say(Loudness::Normal, Warning::Unkillable(pids));
    let watched = guardian.watch(unkillable).context("cannot watch the command")?;
    if let Watched::Done(exit) = watched {
        return Ok(exit);
    }
    // Nothing is left that could run under the permit, or wait for it.
    let backend = settings.request.location.connect(account)?;
    if let Err(error) = block_on(backend.withdraw(name, ask.id, GIVING_BACK))? {
        console.say(Loudness::Normal, Warning::NotReleased(&error));
    }
    match watched {
        Watched::Done(exit) => Ok(exit),
        Watched::Expired => {
            let why = "semrun was stopped for too long";
            console.say(Loudness::Quiet, Losing { name, why, command: Doomed::Stops });
            Ok(Exit::Lost(settings.lost_exit_code))
        }
        Watched::Died(status) => bail!(Died { name: name.clone(), status }),
    }
}

/// Nobody looks after the command any more.
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
    ask: &'a Ask,
    backend: &'a dyn Backend,
    descriptors: Rlimit,
    visible: &'a Visible,
}

impl Story<'_> {
    async fn tell(&self, caught: Caught) -> anyhow::Result<Exit> {
        let Self { settings, ask, backend, visible, .. } = *self;
        let mut signals = caught.listen().context("cannot listen to signals")?;
        let mut console = Console::new(settings.request.loudness);

        let (request, kill_after) = (&settings.request, settings.supervision.kill_after);
        let (signals, console) = (&mut signals, &mut console);
        let turned =
            wait_in_turn(request, kill_after, backend, ask, visible, signals, console).await?;
        let mut lease = match turned {
            Turned::Granted(lease) => lease,
            Turned::Outer(permit) => {
                console.say(Loudness::Verbose, Detail::Outer(&permit));
                let ran = self.run_command(&permit, None, signals, console);
                return Ok(ran.await?.exit);
            }
            Turned::Away(exit) => return Ok(exit),
        };
        let permit = lease.permit().clone();
        let url = backend.url();
        console.say(Loudness::Verbose, Detail::Backend(&url));
        console.say(Loudness::Verbose, Detail::Holding(&permit));

        let lent = Some(&mut *lease);
        let ran = self.run_command(&permit, lent, signals, console).await;

        if ran.as_ref().is_err_and(anyhow::Error::is::<Unattended>) {
            // The command may live on. It has the permit, and keeps it if semrun only goes.
            return ran.map(|ran| ran.exit);
        }
        // From here on nobody needs to be killed.
        visible.kills_at(None)?;
        let mut lost = ran.as_ref().is_ok_and(|ran| ran.lost);
        if ran.is_ok() && !lost && hold::is_over(&*lease) {
            let why = "semrun was stopped until its lease was over";
            let (name, command) = (&permit.name, Doomed::HasEnded);
            console.say(Loudness::Quiet, Losing { name, why, command });
            lost = true;
        }
        if ran.as_ref().is_err_and(anyhow::Error::is::<CannotRun>)
            && !request.min_hold.is_zero()
            && backend.evict(&permit.name, permit.id, Eviction::Now).await.is_ok()
        {
            // Nothing ran under it, so it need not be kept: another host may do better.
            return Ok(ran?.exit);
        }
        // One that cannot expire may stay taken for ever if that is not tried.
        let expires = lease.tenure().is_some();
        match lease.release(if lost && expires { GIVING_UP } else { GIVING_BACK }).await {
            Ok(()) => console.say(Loudness::Verbose, Detail::Released(&permit)),
            Err(_) if lost && expires => {}
            Err(error) => console.say(Loudness::Normal, Warning::NotReleased(&error)),
        }
        let ran = ran?;
        let continues = settings.supervision.rules.on_lost == OnLost::Continue;
        Ok(match ran.exit {
            exit if !lost || (continues && exit != Exit::Command(0)) => exit,
            _ => Exit::Lost(settings.lost_exit_code),
        })
    }

    /// Runs the command, under a lease of ours or under a permit that is held around us.
    async fn run_command(
        &self,
        permit: &Permit,
        lease: Option<&mut (dyn Lease + 'static)>,
        signals: &mut Signals,
        console: &mut Console,
    ) -> anyhow::Result<Ended> {
        let Self { settings, backend, visible, .. } = *self;
        let mut environment = vec![
            ("SEMRUN_PERMIT", Some(permit.to_string())),
            // One of a permit around us says nothing about this one.
            ("SEMRUN_FENCING_TOKEN", permit.token.map(|token| token.to_string())),
        ];
        if lease.is_some() {
            let held = permit.with_backend(&backend.url());
            let held = match held_around() {
                Some(outer) => format!("{outer} {held}"),
                None => held,
            };
            environment.push(("SEMRUN_HELD", Some(held)));
        }
        let supervision = settings.supervision;
        let continues = supervision.rules.on_lost == OnLost::Continue;
        let mut hold = match lease {
            Some(lease) => {
                let hold = Hold::new(lease, supervision.kill_after, continues);
                Some(hold.context("cannot watch the lease")?)
            }
            None => None,
        };
        visible.kills_at(hold.as_ref().and_then(Hold::last))?;
        if let Some(hold) = &mut hold
            && let Some(why) = hold.is_too_late().await
        {
            let (name, why) = (&permit.name, why.as_str());
            console.say(Loudness::Quiet, Losing { name, why, command: Doomed::Stops });
            return Ok(Ended { exit: Exit::Lost(settings.lost_exit_code), lost: true });
        }
        let launch = Launch {
            program: &settings.program,
            arguments: &settings.arguments,
            environment,
            foreground: supervision.rules.foreground,
            descriptors: self.descriptors,
            inherit: hold.as_ref().and_then(Hold::inherit),
        };
        let launched = Tree::launch(&launch);
        let mut tree = launched.map_err(|reason| CannotRun::new(&settings.program, reason))?;
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
            Remark::Unkillable(pids) => {
                console.say(Loudness::Normal, Warning::Unkillable(pids));
            }
        };
        let supervised = supervise(&mut tree, signals, visible, hold, supervision, remark).await;
        supervised.context(Unattended)
    }
}
