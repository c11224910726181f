//! Reasons why a backend could not do something: what is wrong with the store, or with the way to
//! it, and what to try. Each fits after a colon, where `errors.rs` says which attempt failed.

use std::fmt;
use std::time::Duration;

use super::certificates::{OURS, THEIRS, TlsErrorText};
use super::directories::DirectoryText;
use super::versions::OtherVersion;
use super::words::SystemErrorText;
use crate::net::HostNotFound;
use crate::permits::Withheld;
use crate::permits::error::{
    ImplausibleValue, MissingFeature, OtherProtocol, Protocol, StoreError, TermsMismatch,
};

pub(crate) struct StoreErrorText<'a>(pub(crate) &'a StoreError);

impl fmt::Display for StoreErrorText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            StoreError::Withheld(why) => WithheldText(*why).fmt(f),
            StoreError::Differs(differs) => differing(f, differs),
            StoreError::Absurd(what) => absurd(f, *what),
            StoreError::OtherKind => f.write_str("the server is not what it was before"),
            StoreError::Original(lack) => lacking(f, *lack),
            StoreError::Withdrawn => f.write_str("it was withdrawn from outside"),
            StoreError::OuterUnknown => {
                f.write_str("it has not said whether a permit is held around this command")
            }
            StoreError::NoTls(_)
            | StoreError::OnlyTls
            | StoreError::CertificateWanted
            | StoreError::CertificateRefused(_)
            | StoreError::BadCertificate(_)
            | StoreError::Tls(_) => of_tls(f, self.0),
            StoreError::NotRedis(_)
            | StoreError::TooMuch
            | StoreError::Senseless { .. }
            | StoreError::Refused(_)
            | StoreError::PasswordWanted
            | StoreError::CredentialsRefused
            | StoreError::NoPermission(_)
            | StoreError::NotASemaphore
            | StoreError::NoDatabase
            | StoreError::Configuration(_)
            | StoreError::Evicts { .. }
            | StoreError::Uncounted
            | StoreError::EndlessKeys => of_redis(f, self.0),
            StoreError::NotHttp
            | StoreError::OtherVersion(_)
            | StoreError::OlderServer(_)
            | StoreError::ApiKeyMalformed
            | StoreError::ApiKeyMissing
            | StoreError::ApiKeyRefused
            | StoreError::Forbidden(_)
            | StoreError::NotNow(_)
            | StoreError::Endless
            | StoreError::Redirected(_)
            | StoreError::UnknownPath(_)
            | StoreError::NotACloudSemaphore { .. }
            | StoreError::UnexpectedStatus { .. }
            | StoreError::UnknownAnswer(_)
            | StoreError::NotJson(_)
            | StoreError::NoIdentities
            | StoreError::Unsorted
            | StoreError::Forgotten
            | StoreError::PlaceTaken(_)
            | StoreError::PermitTaken(_)
            | StoreError::GivenBack => of_cloud(f, self.0),
            StoreError::System(_)
            | StoreError::Directory(_)
            | StoreError::Locked
            | StoreError::Stuck(_)
            | StoreError::Dying(_)
            | StoreError::DeletedAgain
            | StoreError::DeletedNow
            | StoreError::ThreadEnded
            | StoreError::MutexFlickers
            | StoreError::MutexForeign
            | StoreError::DirectoryOf(_)
            | StoreError::BelongsTo { .. } => of_files(f, self.0),
            _ => of_the_way(f, self.0),
        }
    }
}

/// Errors on the way to a server.
fn of_the_way(f: &mut fmt::Formatter<'_>, error: &StoreError) -> fmt::Result {
    match error {
        StoreError::SilentFor(time) => write!(f, "the server does not answer within {time:?}"),
        StoreError::Unreachable(text) => {
            write!(f, "no connection to the server: {}", SystemErrorText(text))
        }
        StoreError::HostNotFound { host, why } => {
            let why = match why {
                HostNotFound::NameServerSilent => "no name server answers",
                HostNotFound::NoAddress => "it has no address",
                HostNotFound::Said(text) => text,
            };
            write!(f, "cannot find the host '{host}' ({why}); check the URL, and the name server")
        }
        StoreError::NoAddress => f.write_str("its host has no address"),
        StoreError::Closed => f.write_str("the server closed the connection"),
        StoreError::Broken(text) => {
            write!(f, "the connection to the server broke: {}", SystemErrorText(text))
        }
        StoreError::Replaced => f.write_str("another server has taken its place"),
        StoreError::ServersDiffer => f.write_str("our two connections lead to different servers"),
        StoreError::GatewaySilent(status) => {
            write!(f, "the server does not answer ({status} from a gateway in front of it)")
        }
        StoreError::GatewayRefuses(status) => write!(
            f,
            "the server, or a gateway in front of it, refuses this client ({status}); check who may use it from \
             here"
        ),
        StoreError::GatewayBusy(status) => {
            write!(f, "a gateway in front of the server lets no more requests through ({status})")
        }
        _ => f.write_str("the server does not answer"),
    }
}

fn of_tls(f: &mut fmt::Formatter<'_>, error: &StoreError) -> fmt::Result {
    match error {
        StoreError::NoTls(Protocol::Redis) => {
            return f.write_str("what answers there does not speak TLS; is it redis:// ?");
        }
        StoreError::OnlyTls => {
            return f.write_str("what answers there speaks TLS alone; is it rediss:// ?");
        }
        StoreError::Tls(error) => {
            return write!(f, "cannot use the certificates: {}", TlsErrorText(error));
        }
        _ => f.write_str("no TLS connection to the server: ")?,
    }
    match error {
        StoreError::NoTls(_) => {
            f.write_str("what answers there does not speak TLS; is it http:// ?")
        }
        StoreError::CertificateWanted => {
            write!(f, "the server asks for a client certificate; {OURS}")
        }
        StoreError::CertificateRefused(text) => {
            write!(f, "the server refuses the client certificate ({text}); {OURS}")
        }
        // That is what openssl makes unless it is told otherwise.
        StoreError::BadCertificate(text) if text.contains("CaUsedAsEndEntity") => f.write_str(
            "its certificate is that of an authority, which cannot be a server's too; make it one with \
             basicConstraints=CA:FALSE",
        ),
        StoreError::BadCertificate(text) => write!(f, "{text}; {THEIRS}"),
        other => fmt::Debug::fmt(other, f),
    }
}

fn of_redis(f: &mut fmt::Formatter<'_>, error: &StoreError) -> fmt::Result {
    const WHO: &str = "check the user and password in the URL, --password-file and SEMRUN_PASSWORD";
    match error {
        StoreError::NotRedis(spoken) => {
            let hint = match spoken {
                Some(OtherProtocol::Tls) => "it speaks TLS; is it rediss:// ?",
                Some(OtherProtocol::Http) => "it speaks HTTP; check the URL",
                None => "check the URL",
            };
            write!(f, "what answers there does not speak the Redis protocol; {hint}")
        }
        StoreError::TooMuch => f.write_str(
            "the server answers with more than a semaphore can be; is this a Redis?",
        ),
        StoreError::Senseless { foreign } => {
            let hint = if *foreign { "; is this a Redis?" } else { "" };
            write!(f, "the server answers what no script of ours does{hint}")
        }
        StoreError::PasswordWanted => write!(f, "the server wants a password; {WHO}"),
        StoreError::CredentialsRefused => {
            write!(f, "the server refused the user or password; {WHO}")
        }
        StoreError::NoPermission(text) => write!(
            f,
            "this user may not do what is needed ({text}); docs/redis.md has the rules for an ACL"
        ),
        StoreError::NotASemaphore => f.write_str(
            "a key of that name holds something that is not a semaphore; choose another --name or \
             --prefix",
        ),
        StoreError::NoDatabase => {
            f.write_str("the server has no database of that number; check the URL")
        }
        StoreError::Configuration(text) => f.write_str(text),
        StoreError::Evicts { policy } => write!(
            f,
            "the server may evict keys under memory pressure (maxmemory-policy {policy}), and permits \
             with them; set maxmemory-policy to noeviction, or take that risk with --allow-eviction"
        ),
        StoreError::Uncounted => f.write_str(
            "the server does not say which replicas are in step with it (an ACL forbids INFO, or it was \
             renamed), and --replicas needs that; allow it with ACL SETUSER … +info",
        ),
        StoreError::EndlessKeys => f.write_str("the server lists its keys without an end"),
        StoreError::Refused(text) => write!(f, "the server answers with an error: {text}"),
        other => fmt::Debug::fmt(other, f),
    }
}

fn of_cloud(f: &mut fmt::Formatter<'_>, error: &StoreError) -> fmt::Result {
    match error {
        StoreError::NotHttp => {
            f.write_str("what answers there does not speak HTTP; is it https:// ? If not, check the URL")
        },
        StoreError::OtherVersion(theirs) => write!(f, "{}", OtherVersion::Server(theirs)),
        StoreError::OlderServer(program) => write!(f, "{}", OtherVersion::OlderServer(program)),
        StoreError::ApiKeyMalformed => f.write_str("the API key cannot be sent"),
        StoreError::ApiKeyMissing => f.write_str(
            "the server wants an API key, and none was given; give --api-key-file or SEMRUN_API_KEY",
        ),
        StoreError::ApiKeyRefused => {
            f.write_str("the server refused the API key; check --api-key-file and SEMRUN_API_KEY")
        }
        StoreError::Forbidden(text) => write!(f, "the server does not allow it: {text}"),
        StoreError::NotNow(text) => write!(f, "the server cannot do it now: {text}"),
        StoreError::Endless => {
            f.write_str("what answers there sends without an end; check the URL")
        }
        StoreError::Redirected(there) => write!(
            f,
            "what answers there redirects to {}; name the server itself in the URL",
            there.as_deref().unwrap_or("another place")
        ),
        StoreError::UnknownPath(path) => write!(
            f,
            "what answers there is no cloud-semaphore server: it does not know {path}; check the URL"
        ),
        StoreError::NotACloudSemaphore { status, path } => write!(
            f,
            "what answers there is no cloud-semaphore server: it answers {status} to {path}; check the \
             URL"
        ),
        StoreError::UnexpectedStatus { status, path } => {
            write!(f, "the server answers {status} to {path}")
        }
        StoreError::UnknownAnswer(text) => {
            write!(f, "the server's answer is not known: {text}")
        }
        StoreError::NotJson(text) => {
            write!(f, "what the server observes is no JSON: {text}")
        }
        StoreError::NoIdentities => f.write_str("the server gives no identities"),
        StoreError::Unsorted => f.write_str("the server lists its names in no order"),
        StoreError::Forgotten => f.write_str("the server has forgotten this client"),
        StoreError::PlaceTaken(status) => {
            write!(f, "the server took our place in the queue back ({status})")
        }
        StoreError::PermitTaken(status) => {
            write!(f, "the server took the permit back ({status})")
        }
        StoreError::GivenBack => f.write_str("another client gave the permit back"),
        other => fmt::Debug::fmt(other, f),
    }
}

fn of_files(f: &mut fmt::Formatter<'_>, error: &StoreError) -> fmt::Result {
    match error {
        StoreError::System(said) => write!(f, "{}", SystemErrorText(said)),
        StoreError::Directory(directory) => write!(f, "{}", DirectoryText(directory)),
        StoreError::Locked => f.write_str("another process keeps its files locked"),
        StoreError::Stuck(pid) => {
            let what = "keeps the files locked; is it stopped?";
            match pid {
                Some(pid) => write!(f, "process {pid} {what}"),
                None => write!(f, "another process {what}"),
            }
        }
        StoreError::Dying(pid) => {
            let what = "has been killed, had a permit perhaps, and has not ended yet";
            match pid {
                Some(pid) => write!(f, "process {pid} {what}"),
                None => write!(f, "a process {what}"),
            }
        }
        StoreError::DeletedAgain => f.write_str("its files are deleted again and again"),
        StoreError::DeletedNow => f.write_str("its files were deleted just now; try again"),
        StoreError::ThreadEnded => f.write_str("a thread ended"),
        StoreError::MutexFlickers => f.write_str("the file `mutex` comes and goes"),
        StoreError::MutexForeign => {
            f.write_str("the file `mutex` is not what semrun made; remove it")
        }
        StoreError::DirectoryOf(name) => {
            write!(f, "its directory is used by the semaphore '{name}'")
        }
        StoreError::BelongsTo { file, uid } => write!(f, "{file} belongs to uid {uid}"),
        other => fmt::Debug::fmt(other, f),
    }
}

fn differing(f: &mut fmt::Formatter<'_>, differs: &TermsMismatch) -> fmt::Result {
    let TermsMismatch { name, pinned, stands, asked } = differs;
    let how = if *pinned { "is pinned to" } else { "is in use with" };
    match (stands, asked) {
        ((limit, Some(ttl)), (asked, Some(asked_ttl))) => write!(
            f,
            "'{name}' {how} a limit of {limit} and a TTL of {ttl:?}, not {asked} and {asked_ttl:?}, and \
             --strict-limit allows no other"
        ),
        ((limit, _), (asked, _)) => write!(
            f,
            "'{name}' {how} a limit of {limit}, not {asked}, and --strict-limit allows no other"
        ),
    }
}

fn absurd(f: &mut fmt::Formatter<'_>, what: ImplausibleValue) -> fmt::Result {
    f.write_str("the server reports what cannot be so: ")?;
    match what {
        ImplausibleValue::Time(millis) => write!(f, "a time of {millis} ms"),
        ImplausibleValue::Lease(millis) => write!(f, "a lease of {millis} ms"),
        ImplausibleValue::Clock => f.write_str("its clock"),
        ImplausibleValue::Limit(limit) => write!(f, "a limit of {limit}"),
        ImplausibleValue::Count(count) => write!(f, "{count} that wait or hold"),
        ImplausibleValue::Seal => f.write_str("a seal that is none"),
        ImplausibleValue::Names(most) => write!(f, "more than {most} semaphores"),
    }?;
    f.write_str("; check the URL")
}

fn lacking(f: &mut fmt::Formatter<'_>, lack: MissingFeature) -> fmt::Result {
    f.write_str("a cloud-semaphore server of the original kind ")?;
    match lack {
        MissingFeature::Names => f.write_str("does not tell its names; give the NAME"),
        MissingFeature::Lasting => f.write_str("has no permits that outlive a connection"),
        MissingFeature::Limits => f.write_str("has one permit a name, and no other limit"),
        MissingFeature::Permits(asked) => {
            write!(f, "has one permit a name, and {asked} were asked for")
        }
        MissingFeature::Term(field) => write!(f, "knows no --{}", field.replace('_', "-")),
    }
}

/// Why no permit is granted although one may be free.
pub(crate) struct WithheldText(pub(crate) Withheld);

impl fmt::Display for WithheldText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Withheld::Quarantine(left) => {
                let left = Duration::from_secs(left.as_secs() + u64::from(left.subsec_nanos() > 0));
                write!(
                    f,
                    "no permit is granted for {left:?} yet, so that holders which the server may \
                     have forgotten can report (--quarantine)"
                )
            }
            Withheld::Replicas { in_step, needed } => write!(
                f,
                "too few replicas are in step with the server: {in_step}, and {needed} must be \
                 (--replicas)"
            ),
        }
    }
}
