//! One file per subcommand; here only which is which, and which exit code a failure has.

mod acquire;
mod doctor;
mod generate;
mod limit;
mod nested;
mod release;
mod renew;
mod resting;
mod run;
mod runtime;
mod serve;
mod status;
mod waiting;
mod watch;

use std::cell::LazyCell;
use std::ffi::OsString;
use std::io;

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::Errno;

use self::runtime::{cannot_write, write_out};
use crate::account::Account;
use crate::backends::connect::Location;
use crate::backends::{self, ErrorKind};
use crate::cli::messages::{
    CannotAsk, CannotRun, Detail, Exposed, GaveUpWaiting, NotOurs, UnusedSecret,
};
use crate::exit::{Exit, Failure};
use crate::settings::{self, Misuse, Printed, Request, Surroundings, Task, Variables};
use crate::supervise::signals::Inherited;
use crate::supervise::spawn::LaunchError;
use crate::terminal::{self, Console, Loudness};

/// Does what the command line asks for.
pub(crate) fn dispatch(line: &[OsString]) -> anyhow::Result<Exit> {
    // Not before it is needed: it may ask a directory service.
    let account = LazyCell::new(Account::current);
    let around = Surroundings {
        variables: &Variables::own(),
        user_file: &|| settings::user_file(&account),
        system_file: settings::system_file(),
    };
    let task = settings::read(line, &around);
    let for_a_shell = match &task {
        Ok(Task::Acquire(settings)) => settings.printed == Printed::Shell,
        Ok(_) => false,
        Err(_) => settings::wants_shell(line),
    };
    let done = task.map_err(anyhow::Error::new).and_then(|task| perform(task, &account));
    if for_a_shell {
        let code = match &done {
            Ok(exit) => exit.code(),
            Err(error) => class(error).code(),
        };
        if code != 0 {
            // `eval "$(…)"` sees nothing but this; a script would go on without a permit.
            let _ = write_out(format!("(exit {code})\n").as_bytes());
        }
    }
    done
}

fn perform(task: Task, account: &Account) -> anyhow::Result<Exit> {
    if prints(&task) && !can_print() {
        return Err(cannot_write(Errno::BADF.into()));
    }
    match task {
        Task::Run(settings) => {
            if let Some(no_shell) = &settings.no_shell {
                let mut console = Console::new(settings.request.loudness);
                console.say(Loudness::Verbose, Detail::NoShell(no_shell));
            }
            warn(&settings.request, settings.typed_password);
            run::run(&settings, account)
        }
        Task::Status(settings) => status::run(&settings, account),
        Task::Acquire(settings) => {
            warn(&settings.request, settings.typed_password);
            acquire::run(&settings, account)
        }
        Task::Renew(settings) => {
            if settings.typed_password {
                Console::new(Loudness::Normal).say(Loudness::Normal, Exposed::Typed);
            }
            renew::run(&settings, account)
        }
        Task::Release(settings) => release::run(&settings, account),
        Task::Limit(settings) => limit::run(&settings, account),
        Task::Doctor(settings) => doctor::run(*settings, account),
        Task::Serve(settings) => serve::run(*settings),
        Task::Completions(shell) => write_out(&generate::completions(shell)),
        Task::Man(subcommand) => write_out(&generate::man(subcommand.as_deref())?),
        Task::Usage(usage) => {
            terminal::explain(&usage);
            Ok(Exit::Unclear)
        }
        Task::Print(page) => match page.print() {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(cannot_write(error)),
            _ => Ok(Exit::Success),
        },
    }
}

/// Tells of secrets that others can read, and of those that do nothing.
fn warn(request: &Request, typed_password: bool) {
    let mut console = Console::new(request.loudness);
    if typed_password {
        console.say(Loudness::Normal, Exposed::Typed);
    }
    for option in &request.unused_secrets {
        console.say(Loudness::Normal, UnusedSecret(option));
    }
    let exposed = match &request.location {
        Location::Default | Location::Directory(_) => None,
        Location::Redis(place) => {
            place.url.tells_the_network_its_password().then_some(Exposed::Password)
        }
        Location::Cloud(place) => {
            let told = place.key.is_some() && place.url.tells_the_network_its_key();
            told.then_some(Exposed::Key)
        }
    };
    if let Some(exposed) = exposed {
        console.say(Loudness::Verbose, exposed);
    }
}

/// Whether a task has something to say on standard output, without which nobody has a use for it.
fn prints(task: &Task) -> bool {
    match task {
        Task::Status(_)
        | Task::Acquire(_)
        | Task::Limit(_)
        | Task::Doctor(_)
        | Task::Completions(_)
        | Task::Man(_)
        | Task::Print(_) => true,
        Task::Release(settings) => settings.force,
        Task::Run(_) | Task::Renew(_) | Task::Serve(_) | Task::Usage(_) => false,
    }
}

/// Whether there is a standard output, as semrun was started. The standard library takes what is not
/// there for a place where everything may be written.
fn can_print() -> bool {
    let reads =
        |flags: OFlags| flags & OFlags::RWMODE == OFlags::RDONLY || flags.contains(OFlags::PATH);
    !Inherited::recorded().is_closed(1)
        && fcntl_getfl(io::stdout()).is_ok_and(|flags| !reads(flags))
}

/// The class of a failure, which decides its exit code.
pub(crate) fn class(error: &anyhow::Error) -> Failure {
    if let Some(misuse) = error.downcast_ref::<Misuse>() {
        return misuse.failure;
    }
    if let Some(error) = error.downcast_ref::<backends::Error>() {
        return match error.kind() {
            ErrorKind::Unavailable | ErrorKind::Withheld => Failure::Unavailable,
            ErrorKind::Unsupported | ErrorKind::Differs => Failure::Unsupported,
        };
    }
    if error.is::<GaveUpWaiting>() {
        return Failure::Unavailable;
    }
    if error.is::<CannotAsk>() {
        return Failure::Unsupported;
    }
    if error.is::<NotOurs>() {
        return Failure::NotOurs;
    }
    match error.downcast_ref::<CannotRun>().map(|cannot| &cannot.reason) {
        Some(LaunchError::NotFound) => Failure::NotFound,
        Some(LaunchError::NotExecutable(_)) => Failure::NotExecutable,
        Some(LaunchError::Failed(..)) | None => Failure::Internal,
    }
}
