//! Errors of a backend: which attempt failed, around the reason, which `stores.rs` has the words
//! for, and what to try.

use std::fmt;

use rustix::io::Errno;

use super::directories::DirectoryText;
use super::stores::StoreErrorText;
use crate::permits::error::{Attempt, BackendError, StoreError, SystemError};
use crate::permits::{Name, Withheld};

/// What failed at which backend.
pub(crate) struct ErrorText<'a>(pub(crate) &'a BackendError);

impl fmt::Display for ErrorText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.backend, FailedText(self.0))
    }
}

/// The same where the backend is known.
pub(crate) struct FailedText<'a>(pub(crate) &'a BackendError);

impl fmt::Display for FailedText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BackendError { attempt, cause, .. } = self.0;
        let said = StoreErrorText(cause);
        let attempt = match (cause, attempt) {
            (StoreError::Directory(directory), _) => return DirectoryText(directory).fmt(f),
            (StoreError::Differs(_), _) | (_, None) => return said.fmt(f),
            (_, Some(attempt)) => AttemptText(attempt),
        };
        match cause {
            error if !other_server(&self.0.backend, error).is_empty() => {
                write!(f, "cannot {attempt}: {said}{}", other_server(&self.0.backend, error))
            }
            error if error.is_unreachable() => write!(f, "cannot {attempt}: {said}{RUNNING}"),
            StoreError::Withheld(Withheld::Quarantine(_)) => {
                write!(f, "cannot {attempt}: {said}; wait for it (--wait)")
            }
            error => match in_files(error) {
                Some(hint) => write!(f, "cannot {attempt}{hint} ({said})"),
                None => write!(f, "cannot {attempt}: {said}"),
            },
        }
    }
}

/// What to do about an error of files. None: it is another kind of error.
fn in_files(error: &StoreError) -> Option<&'static str> {
    match error {
        StoreError::System(error) => Some(remedy(error)),
        StoreError::Locked
        | StoreError::Stuck(_)
        | StoreError::Dying(_)
        | StoreError::DeletedAgain
        | StoreError::DeletedNow
        | StoreError::ThreadEnded
        | StoreError::MutexFlickers
        | StoreError::MutexForeign
        | StoreError::DirectoryOf(_)
        | StoreError::BelongsTo { .. } => Some(""),
        _ => None,
    }
}

fn remedy(error: &SystemError) -> &'static str {
    match Errno::from_io_error(error.io()) {
        Some(Errno::NOSPC | Errno::DQUOT) => {
            "; free some space there, or name another directory with --backend file:///PATH"
        }
        Some(Errno::FBIG) => "; raise the limit of a file's size (ulimit -f)",
        Some(Errno::MFILE) => "; raise the limit of open files (ulimit -n)",
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => {
            "; make it writable for you, or name another directory with --backend file:///PATH"
        }
        _ => "",
    }
}

/// Of a server that cannot be reached.
const RUNNING: &str = "; is it running, and can it be reached from here?";

/// What may answer instead of a cloud-semaphore server. A Redis hangs up on HTTP.
fn other_server(backend: &str, error: &StoreError) -> &'static str {
    match error {
        StoreError::Closed if backend.starts_with("http") => {
            "; is it a cloud-semaphore server? (a Redis is redis://HOST)"
        }
        // What does not speak TLS may wait for the end of a line that never comes.
        StoreError::Silent if backend.starts_with("https") => {
            "; is it running, and does it speak TLS? (without it is http://HOST)"
        }
        _ => "",
    }
}

/// Fits after "cannot".
struct AttemptText<'a>(&'a Attempt);

impl fmt::Display for AttemptText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Attempt::Acquire(name) => write!(f, "take a permit of '{name}'"),
            Attempt::Listen => f.write_str("listen for the grant (BLPOP)"),
            Attempt::Wait => f.write_str("wait any longer"),
            Attempt::Look(name) => write!(f, "look at '{name}'"),
            Attempt::LookAtAny => f.write_str("look at any of them"),
            Attempt::List => f.write_str("list the semaphores"),
            Attempt::LookAtLimit(name) => write!(f, "look at the limit of '{name}'"),
            Attempt::SetLimit(name) => write!(f, "set the limit of '{name}'"),
            Attempt::Withdraw(name) => write!(f, "give back the permit of '{name}'"),
            Attempt::Renew(permit) => write!(f, "renew {permit}"),
            Attempt::GiveBack(permit) => write!(f, "give back {permit}"),
            Attempt::Revoke(permit) => write!(f, "revoke {permit}"),
            Attempt::Examine => f.write_str("examine the server"),
            Attempt::Release { permit, left } => {
                write!(f, "give back {permit}, whose lease ends by itself ")?;
                match left.as_secs() {
                    0 => f.write_str("by now"),
                    seconds => write!(f, "in {seconds}s"),
                }
            }
            Attempt::ReleaseConnection(permit) => write!(
                f,
                "give back {permit}; it stays taken if processes of the command are left, or if the \
                 server does not notice that its connection has ended"
            ),
            Attempt::Join(permit) => {
                write!(f, "go under {permit}, which is held around this command")
            }
        }
    }
}

/// What of one semaphore could not be read, or is impossible.
pub(crate) struct OddText<'a>(pub(crate) &'a Name, pub(crate) &'a StoreError);

impl fmt::Display for OddText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(name, error) = self;
        let said = StoreErrorText(error);
        match (error, in_files(error)) {
            (StoreError::Locked, _) | (_, None) => said.fmt(f),
            (_, Some(hint)) => write!(f, "cannot look at '{name}'{hint} ({said})"),
        }
    }
}

/// Waiting that ended without a permit because something was wrong.
#[derive(Debug)]
pub(crate) struct GaveUpWaiting {
    /// The URL, without secrets.
    pub(crate) backend: String,
    pub(crate) name: Name,
    pub(crate) why: StoreError,
}

impl fmt::Display for GaveUpWaiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, name, why } = self;
        write!(f, "{backend}: gave up waiting for '{name}': {}", StoreErrorText(why))?;
        f.write_str(match other_server(backend, why) {
            "" if why.is_unreachable() => RUNNING,
            hint => hint,
        })
    }
}

impl std::error::Error for GaveUpWaiting {}

/// A holder that cannot be asked to stop, because another program's client holds the permit.
#[derive(Debug)]
pub(crate) struct HolderUnreachable {
    /// The URL, without secrets.
    pub(crate) backend: String,
    /// As that program writes it.
    pub(crate) permit: String,
    pub(crate) name: Name,
}

impl fmt::Display for HolderUnreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, permit, name } = self;
        write!(
            f,
            "{backend}: cannot ask the holder of {permit}@{name} to stop: it is another program's; with \
             --now its permit passes on at once, and what runs under it may run beside the next"
        )
    }
}

impl std::error::Error for HolderUnreachable {}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use super::*;
    use crate::permits::PermitId;
    use crate::permits::error::{Directory, MissingFeature};

    fn text(attempt: Option<Attempt>, cause: StoreError) -> String {
        let attempt = attempt.map(Box::new);
        ErrorText(&BackendError { backend: "x://h".into(), attempt, cause }).to_string()
    }

    #[test]
    fn what_failed_is_said_with_what_to_try() {
        let name: Name = "a".parse().unwrap();
        let look = || Some(Attempt::Look(name.clone()));
        assert_eq!(
            text(look(), StoreError::Silent),
            "x://h: cannot look at 'a': the server does not answer; is it running, and can it be reached \
             from here?"
        );
        assert_eq!(
            text(look(), io::Error::from(Errno::MFILE).into()),
            "x://h: cannot look at 'a'; raise the limit of open files (ulimit -n) (Too many open files)"
        );
        assert_eq!(
            text(look(), StoreError::Stuck(Some(7))),
            "x://h: cannot look at 'a' (process 7 keeps the files locked; is it stopped?)"
        );
        assert_eq!(
            text(Some(Attempt::List), StoreError::Original(MissingFeature::Names)),
            "x://h: cannot list the semaphores: a cloud-semaphore server of the original kind does not \
             tell its names; give the NAME"
        );
        let permit = PermitId::of(&name, uuid::Uuid::nil());
        let release = Attempt::Release { permit, left: Duration::from_millis(900) };
        assert_eq!(
            text(Some(release), StoreError::Replaced),
            "x://h: cannot give back 00000000-0000-0000-0000-000000000000@a, whose lease ends by itself \
             by now: another server has taken its place; is it running, and can it be reached from here?"
        );
        let missing = Directory::NotFound(Errno::NOENT.into());
        assert_eq!(
            text(None, StoreError::Directory(missing)),
            "x://h: does not exist, and cannot be made by you; make it, or name another with --backend \
             file:///PATH (No such file or directory)"
        );
    }

    #[test]
    fn what_is_perhaps_no_server_of_permits_is_said() {
        let gave_up = |backend: &str, why| {
            let (backend, name) = (backend.into(), "a".parse().unwrap());
            GaveUpWaiting { backend, name, why }.to_string()
        };
        let hint = |backend, why| gave_up(backend, why).rsplit_once("; ").unwrap().1.to_owned();
        assert!(
            hint("http://h", StoreError::Closed).starts_with("is it a cloud-semaphore server?")
        );
        assert!(hint("https://h", StoreError::Silent).contains("does it speak TLS?"));
        let usual = "is it running, and can it be reached from here?";
        assert_eq!(hint("redis://h", StoreError::Closed), usual);
        assert_eq!(hint("http://h", StoreError::Silent), usual);
    }

    #[test]
    fn a_fact_that_the_system_hands_on_is_the_fact() {
        let through = StoreError::from(io::Error::from(StoreError::MutexForeign));
        assert_eq!(through, StoreError::MutexForeign);
    }
}
