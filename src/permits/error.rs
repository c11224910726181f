//! What can go wrong where permits live, as facts. `cli/messages` has the words for them, and
//! advice.

mod system;

use std::fmt;
use std::io;
use std::time::Duration;

pub(crate) use self::system::{Directory, SystemError};
use super::Terms;
use super::tls_error::TlsError;
use super::{AcquireRequest, Name, PermitId, Withheld};
use crate::net::HostNotFound;

/// Why a backend could not do what was asked.
#[derive(Debug)]
pub(crate) struct BackendError {
    /// The URL, without secrets.
    pub(crate) backend: String,
    /// What was tried. None: to use the backend at all, or the cause says it.
    pub(crate) attempt: Option<Box<Attempt>>,
    pub(crate) cause: StoreError,
}

/// The classes of failure, by what the caller can do about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureClass {
    /// It cannot be reached or refused us, now: another attempt may succeed.
    Unavailable,
    /// It cannot do this at all.
    Unsupported,
    /// The limit or TTL in force is not the one asked for, and the client accepts no other.
    Differs,
    /// No waiter is granted a permit yet, although one is free.
    Withheld,
}

/// What a backend was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Attempt {
    Acquire(Name),
    /// To hear when a permit is granted.
    Listen,
    /// To stay in the queue.
    Wait,
    Look(Name),
    /// To look at all semaphores; each of them failed in the same way.
    LookAtAny,
    List,
    LookAtLimit(Name),
    SetLimit(Name),
    /// To give back whatever a dead client has there.
    Withdraw(Name),
    Renew(PermitId),
    /// Of a permit that no process holds.
    GiveBack(PermitId),
    Revoke(PermitId),
    Examine,
    /// Of a permit whose lease ends by itself after that time.
    Release {
        permit: PermitId,
        left: Duration,
    },
    /// Of a permit that lasts as long as its connection.
    ReleaseConnection(PermitId),
    /// To go under a permit that is held around this process.
    Join(PermitId),
}

/// What is wrong with a store of permits, or with the way to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StoreError {
    /// The server does not answer.
    Silent,
    SilentFor(Duration),
    /// With what the system says.
    Unreachable(String),
    HostNotFound {
        host: String,
        why: HostNotFound,
    },
    NoAddress,
    /// The server closed the connection.
    Closed,
    /// The connection broke, with what the system says.
    Broken(String),
    /// Another server answers than before.
    Replaced,
    /// The cloud-semaphore server is of the other kind than the client took it for.
    OtherKind,
    /// Two connections that belong together lead to different servers.
    ServersDiffer,
    /// A gateway says, with this status, that the server does not answer.
    GatewaySilent(u16),
    /// A gateway, or the server, refuses us, with this status.
    GatewayRefuses(String),
    /// A gateway lets no more requests through, with this status.
    GatewayBusy(String),

    /// TLS was wanted of a server that does not speak it.
    NoTls(Protocol),
    /// The server speaks nothing but TLS, and it was not wanted.
    OnlyTls,
    /// The server wants a certificate of its client.
    CertificateWanted,
    /// The server refuses our certificate, with what it says.
    CertificateRefused(String),
    /// The server's certificate is not one that we trust, with what is wrong.
    BadCertificate(String),
    /// Our own certificates or keys cannot be used.
    Tls(Box<TlsError>),

    /// What answers is no Redis; what it speaks instead, where that shows.
    NotRedis(Option<OtherProtocol>),
    /// It answers with more than a semaphore can be.
    TooMuch,
    /// It answers what no script of ours would; whether another program may answer there.
    Senseless {
        foreign: bool,
    },
    /// It answers with an error that is none of those we know.
    Refused(String),
    PasswordWanted,
    CredentialsRefused,
    /// The user may not do what is needed, with what the server says.
    NoPermission(String),
    /// A key of that name holds something else than a semaphore.
    NotASemaphore,
    NoDatabase,
    /// The connection cannot be configured so, with what the library says.
    Configuration(String),
    /// The server may throw keys away when memory is short, by this policy.
    Evicts {
        policy: String,
    },
    /// The server does not say which replicas are in step with it.
    Uncounted,
    /// Listing the keys does not come to an end.
    EndlessKeys,

    NotHttp,
    /// A server of ours speaks this version of our protocol, and we another.
    OtherVersion(String),
    /// The server is a semrun of this version, whose protocol is older than ours.
    OlderServer(String),
    ApiKeyMalformed,
    /// The server wants an API key, and none was given.
    ApiKeyMissing,
    ApiKeyRefused,
    /// A server of ours does not allow it, and says why.
    Forbidden(String),
    /// A server of ours cannot do it now, and says why.
    NotNow(String),
    /// The answer does not come to an end.
    Endless,
    /// To another place, which may be named.
    Redirected(Option<String>),
    /// The server does not know a path that every cloud-semaphore server knows.
    UnknownPath(&'static str),
    /// The server is no cloud-semaphore server, by this status at that path.
    NotACloudSemaphore {
        status: String,
        path: &'static str,
    },
    UnexpectedStatus {
        status: String,
        path: &'static str,
    },
    /// A server of ours answers what we cannot read, with what is wrong.
    UnknownAnswer(String),
    /// What is observed is no JSON, with what is wrong.
    NotJson(String),
    NoIdentities,
    Unsorted,
    /// The server does not know a client that was there a moment ago.
    Forgotten,
    /// The server took the place in the queue back, with this status.
    PlaceTaken(String),
    /// The server took the permit back, with this status.
    PermitTaken(String),
    /// Another client gave the permit back.
    GivenBack,
    /// A server of the original kind cannot do it.
    Original(MissingFeature),

    /// It answers with an impossible value.
    Absurd(ImplausibleValue),
    /// Another limit or TTL is in force than was asked for, and the client accepts no other.
    Differs(Box<TermsMismatch>),
    Withheld(Withheld),
    /// The permit, or the place in the queue, was given back by another client.
    Withdrawn,
    /// It has not said whether a permit is held around this command.
    OuterUnknown,

    /// The system refuses something.
    System(SystemError),
    /// The directory cannot be used.
    Directory(Directory),
    /// Another process keeps the files of a semaphore locked.
    Locked,
    /// The same for longer than any process should; perhaps the process with this pid.
    Stuck(Option<u32>),
    /// A holder was killed and has not ended yet.
    Dying(Option<u32>),
    /// The files of the semaphore are deleted again and again.
    DeletedAgain,
    DeletedNow,
    ThreadEnded,
    /// The file `mutex` comes and goes.
    MutexFlickers,
    /// The file `mutex` is none of ours.
    MutexForeign,
    /// The directory belongs to another semaphore.
    DirectoryOf(String),
    BelongsTo {
        file: String,
        uid: u32,
    },
}

/// How soon a failure may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recoverability {
    /// The backend does not answer now.
    Away,
    /// It answers with an error that may pass.
    Refusing,
    /// It will not pass by itself.
    Lasting,
    /// A retry makes no sense.
    Final,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Redis,
    Http,
}

/// What a server that is no Redis speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OtherProtocol {
    Tls,
    Http,
}

/// What a cloud-semaphore server of the original kind does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MissingFeature {
    /// A list of its names.
    Names,
    /// Permits that outlive a connection.
    Lasting,
    /// Limits.
    Limits,
    /// So many permits of one name.
    Permits(u32),
    /// What a field of [`Terms`] of this name asks for.
    Term(&'static str),
}

/// Impossible values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImplausibleValue {
    /// In milliseconds.
    Time(u64),
    /// In milliseconds.
    Lease(u64),
    Clock,
    Limit(u32),
    /// So many that wait or hold.
    Count(usize),
    Seal,
    /// More semaphores than that.
    Names(usize),
}

/// What is in force, beside what was asked for. TTLs only where permits can expire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TermsMismatch {
    pub(crate) name: Name,
    pub(crate) pinned: bool,
    pub(crate) stands: (u32, Option<Duration>),
    pub(crate) asked: (u32, Option<Duration>),
}

impl From<io::Error> for StoreError {
    /// Unwraps a fact that was passed through an `io::Error`.
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Self>()) {
            Some(fact) => fact.clone(),
            None => Self::System(error.into()),
        }
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        Self::other(error)
    }
}

impl StoreError {
    pub(crate) fn differs(request: &AcquireRequest, stands: Terms, pinned: bool) -> Self {
        let [stands, asked] = [stands, request.terms].map(|terms| (terms.limit, Some(terms.ttl)));
        let name = request.name.clone();
        Self::Differs(Box::new(TermsMismatch { name, pinned, stands, asked }))
    }

    /// Whether no server answers, now.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.recoverability() == Recoverability::Away
    }

    /// Whether it will not pass by itself.
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(self.recoverability(), Recoverability::Lasting | Recoverability::Final)
    }

    /// Whether it also ends the wait of a client that is in the queue.
    pub(crate) fn is_final(&self) -> bool {
        self.recoverability() == Recoverability::Final
    }

    pub(crate) fn kind(&self) -> FailureClass {
        match self {
            Self::Original(_) | Self::Tls(_) | Self::Directory(Directory::Remote(_)) => {
                FailureClass::Unsupported
            }
            Self::Differs(_) => FailureClass::Differs,
            Self::Withheld(_) => FailureClass::Withheld,
            _ => FailureClass::Unavailable,
        }
    }

    fn recoverability(&self) -> Recoverability {
        match self {
            Self::Silent
            | Self::SilentFor(_)
            | Self::Unreachable(_)
            | Self::NoAddress
            | Self::Closed
            | Self::Broken(_)
            | Self::Replaced
            | Self::ServersDiffer
            | Self::GatewaySilent(_)
            | Self::PermitTaken(_)
            | Self::GivenBack
            | Self::OuterUnknown => Recoverability::Away,
            Self::HostNotFound { .. }
            | Self::GatewayBusy(_)
            | Self::Senseless { .. }
            | Self::Refused(_)
            | Self::NotNow(_)
            | Self::UnexpectedStatus { .. }
            | Self::Forgotten
            | Self::PlaceTaken(_)
            | Self::Withheld(Withheld::Replicas { .. }) => Recoverability::Refusing,
            Self::Original(_)
            | Self::OtherKind
            | Self::Differs(_)
            | Self::Withdrawn
            | Self::Withheld(Withheld::Quarantine(_)) => Recoverability::Final,
            _ => Recoverability::Lasting,
        }
    }

    /// The error of an attempt that it made fail.
    pub(crate) fn while_doing(self, backend: &str, attempt: Attempt) -> BackendError {
        BackendError { backend: backend.into(), attempt: Some(Box::new(attempt)), cause: self }
    }

    /// The same where the backend cannot be used at all.
    pub(crate) fn of(self, backend: &str) -> BackendError {
        BackendError { backend: backend.into(), attempt: None, cause: self }
    }
}

impl BackendError {
    pub(crate) fn kind(&self) -> FailureClass {
        self.cause.kind()
    }
}

// For logs and tests, not for people.
impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System(error) => Some(error.io()),
            _ => None,
        }
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, attempt, cause } = self;
        match attempt {
            Some(attempt) => write!(f, "{backend}: {attempt:?}: {cause}"),
            None => write!(f, "{backend}: {cause}"),
        }
    }
}

impl std::error::Error for BackendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}
