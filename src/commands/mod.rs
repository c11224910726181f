//! One file per subcommand, and what several of them share (`idle_memory`, `nested`, `runtime`,
//! `waiting`); here only the dispatch, and the exit code of a failure.

mod acquire;
mod doctor;
mod generate;
mod idle_memory;
mod limit;
mod nested;
mod release;
mod renew;
mod run;
mod runtime;
mod serve;
mod status;
mod waiting;

use std::cell::LazyCell;
use std::ffi::OsString;
use std::io;

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::Errno;

use self::runtime::{cannot_write, write_out};
use crate::backends::url::Location;
use crate::backends::{self, FailureClass};
use crate::cli::messages::{
    CannotRun, CannotServe, ChooseHolder, Detail, ExposedSecret, GaveUpWaiting, HolderUnreachable,
    PermitRefused, ProcessesHidden, UnusedSecret, Warning,
};
use crate::console::{self, Console, Loudness};
use crate::exit::{Exit, Failure};
use crate::files::create::UnsafeDirectory;
use crate::settings::{
    self, AcquireOutput, Environment, PermitRequest, RequestedCommand, SettingsError, Variables,
};
use crate::supervise::signals::Inherited;
use crate::supervise::spawn::LaunchError;
use crate::user::User;

/// Does what the command line asks for.
pub(crate) fn dispatch(line: &[OsString]) -> anyhow::Result<Exit> {
    // Only when needed: it may ask a directory service.
    let user = LazyCell::new(User::current);
    let variables = Variables::own();
    let around = Environment {
        variables: &variables,
        user_file: &|| settings::user_file(&user),
        system_file: settings::system_file(),
    };
    let task = settings::read(line, &around);
    let for_a_shell = match &task {
        Ok(RequestedCommand::Acquire(settings)) => settings.printed == AcquireOutput::Shell,
        Ok(_) => false,
        Err(_) => settings::wants_shell(line),
    };
    if let Ok(task) = &task {
        warn_of_variables(task, &variables);
    }
    let done = task.map_err(anyhow::Error::new).and_then(|task| perform(task, &user));
    if for_a_shell {
        let code = match &done {
            Ok(exit) => exit.code(),
            Err(error) => class(error).code(),
        };
        if code != 0 {
            // `eval "$(…)"` sees only this; without it a script would go on without a permit.
            let _ = write_out(format!("(exit {code})\n").as_bytes());
        }
    }
    done
}

fn perform(task: RequestedCommand, user: &User) -> anyhow::Result<Exit> {
    if prints(&task) && !can_print() {
        return Err(cannot_write(Errno::BADF.into()));
    }
    match task {
        RequestedCommand::Run(settings) => {
            if let Some(no_shell) = &settings.no_shell {
                let mut console = Console::new(settings.request.loudness);
                console.say(Loudness::Verbose, Detail::NoShell(no_shell));
            }
            warn(&settings.request, settings.typed_password);
            run::run(&settings, user)
        }
        RequestedCommand::Status(settings) => status::run(&settings, user),
        RequestedCommand::Acquire(settings) => {
            warn(&settings.request, settings.typed_password);
            acquire::run(&settings, user)
        }
        RequestedCommand::Renew(settings) => {
            if settings.typed_password {
                Console::new(Loudness::Normal).say(Loudness::Normal, ExposedSecret::Typed);
            }
            renew::run(&settings, user)
        }
        RequestedCommand::Release(settings) => release::run(&settings, user),
        RequestedCommand::Limit(settings) => limit::run(&settings, user),
        RequestedCommand::Doctor(settings) => doctor::run(*settings, user),
        RequestedCommand::Serve(settings) => serve::run(*settings),
        RequestedCommand::Completions(shell) => write_out(&generate::completions(shell)),
        RequestedCommand::Man(subcommand) => write_out(&generate::man(subcommand.as_deref())?),
        RequestedCommand::Usage(usage) => {
            console::explain(&usage);
            Ok(Exit::Unclear)
        }
        RequestedCommand::Print(page) => match page.print() {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(cannot_write(error)),
            _ => Ok(Exit::Success),
        },
    }
}

/// Warns of variables that do nothing, as far as they are nearly ours.
fn warn_of_variables(task: &RequestedCommand, variables: &Variables) {
    let found;
    let (misspelt, loudness) = match task {
        RequestedCommand::Run(settings) => (&settings.misspelt, settings.request.loudness),
        RequestedCommand::Acquire(settings) => {
            found = variables.misspelt();
            (&found, settings.request.loudness)
        }
        RequestedCommand::Status(_)
        | RequestedCommand::Renew(_)
        | RequestedCommand::Release(_)
        | RequestedCommand::Limit(_)
        | RequestedCommand::Serve(_) => {
            found = variables.misspelt();
            (&found, Loudness::Normal)
        }
        // doctor tells of all unknown ones, and the others have no settings.
        RequestedCommand::Doctor(_)
        | RequestedCommand::Completions(_)
        | RequestedCommand::Man(_)
        | RequestedCommand::Print(_)
        | RequestedCommand::Usage(_) => return,
    };
    for word in misspelt {
        Console::new(loudness).say(Loudness::Normal, Warning::Variable(word));
    }
}

/// Warns of secrets that other users can read, and of those that do nothing.
fn warn(request: &PermitRequest, typed_password: bool) {
    let mut console = Console::new(request.loudness);
    if typed_password {
        console.say(Loudness::Normal, ExposedSecret::Typed);
    }
    for option in &request.unused_secrets {
        console.say(Loudness::Normal, UnusedSecret(option));
    }
    let exposed = match &request.location {
        Location::Default | Location::Directory(_) => None,
        Location::Redis(place) => {
            place.url.tells_the_network_its_password().then_some(ExposedSecret::Password)
        }
        Location::Cloud(place) => {
            let told = place.key.is_some() && place.url.tells_the_network_its_key();
            told.then_some(ExposedSecret::Key)
        }
    };
    if let Some(exposed) = exposed {
        console.say(Loudness::Verbose, exposed);
    }
}

/// Whether a task prints on standard output, without which it is of no use.
fn prints(task: &RequestedCommand) -> bool {
    match task {
        RequestedCommand::Status(_)
        | RequestedCommand::Acquire(_)
        | RequestedCommand::Limit(_)
        | RequestedCommand::Doctor(_)
        | RequestedCommand::Completions(_)
        | RequestedCommand::Man(_)
        | RequestedCommand::Print(_) => true,
        RequestedCommand::Release(settings) => settings.force,
        RequestedCommand::Run(_)
        | RequestedCommand::Renew(_)
        | RequestedCommand::Serve(_)
        | RequestedCommand::Usage(_) => false,
    }
}

/// Whether there is a standard output, as semrun was started. The standard library takes a closed
/// stream for one that accepts everything.
fn can_print() -> bool {
    let reads =
        |flags: OFlags| flags & OFlags::RWMODE == OFlags::RDONLY || flags.contains(OFlags::PATH);
    !Inherited::recorded().is_closed(1)
        && fcntl_getfl(io::stdout()).is_ok_and(|flags| !reads(flags))
}

/// The class of a failure, which decides its exit code.
pub(crate) fn class(error: &anyhow::Error) -> Failure {
    if let Some(settings_error) = error.downcast_ref::<SettingsError>() {
        return settings_error.failure;
    }
    if let Some(error) = error.downcast_ref::<backends::BackendError>() {
        return match error.kind() {
            FailureClass::Unavailable | FailureClass::Withheld => Failure::Unavailable,
            FailureClass::Unsupported | FailureClass::Differs => Failure::Unsupported,
        };
    }
    if let Some(cannot) = error.downcast_ref::<CannotServe>() {
        return match cannot {
            CannotServe::StateDirectory(_, UnsafeDirectory::Unsafe(_)) => Failure::Unsupported,
            CannotServe::StateDirectory(_, UnsafeDirectory::Io(_)) | CannotServe::Address(..) => {
                Failure::Unavailable
            }
        };
    }
    if error.is::<ChooseHolder>() {
        return Failure::Usage;
    }
    if error.is::<GaveUpWaiting>() {
        return Failure::Unavailable;
    }
    if error.is::<HolderUnreachable>() || error.is::<ProcessesHidden>() {
        return Failure::Unsupported;
    }
    if error.is::<PermitRefused>() {
        return Failure::NotOurs;
    }
    match error.downcast_ref::<CannotRun>().map(|cannot| &cannot.reason) {
        Some(LaunchError::NotFound) => Failure::NotFound,
        Some(LaunchError::NotExecutable(_)) => Failure::NotExecutable,
        Some(LaunchError::Failed(..)) | None => Failure::Internal,
    }
}
