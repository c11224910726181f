//! Why a server does not start, and what it logs of itself.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::versions::OtherVersion;
use super::words::{Span, SystemErrorText};
use crate::files::create::UnsafeDirectory;
use crate::serve::notices::ServerFact;
use crate::settings::SettingsError;

/// Why a server does not start.
#[derive(Debug)]
pub(crate) enum CannotServe {
    /// The directory for its state cannot be used.
    StateDirectory(PathBuf, UnsafeDirectory),
    /// It cannot listen at this address.
    Address(String, io::Error),
}

impl fmt::Display for CannotServe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StateDirectory(directory, unfit) => write!(
                f,
                "cannot use the state directory {}: {}",
                directory.display(),
                SystemErrorText(unfit)
            ),
            Self::Address(listen, error) => {
                write!(f, "cannot listen at {listen}: {}", SystemErrorText(error))?;
                f.write_str(match error.kind() {
                    io::ErrorKind::AddrInUse => {
                        "; is a server running there already? --listen names another address"
                    }
                    io::ErrorKind::AddrNotAvailable => {
                        "; --listen wants an address of this machine"
                    }
                    io::ErrorKind::PermissionDenied => {
                        "; ports below 1024 are for root, unless it allows others to use them"
                    }
                    _ => "",
                })
            }
        }
    }
}

impl std::error::Error for CannotServe {}

/// What the program logs of its server: its start, its end, and its files.
pub(crate) enum ServerNews<'a> {
    /// Other machines reach it without TLS.
    ClearText,
    /// It keeps no state.
    Forgets,
    Restored(usize),
    /// The machine was started since, and nothing is granted for so long.
    Paused(Duration),
    /// Fewer connections without a key than asked for, for its descriptors are so many.
    FewerStrangers {
        asked: usize,
        descriptors: usize,
        most: usize,
    },
    Ended,
    /// After SIGHUP: the files of these options were read, and whether the keys were in one.
    ReadAgain {
        options: &'a [&'static str],
        keys: bool,
    },
    NotReadYet,
    NotReadAgain(&'a CannotReload),
}

/// Why files are not read again.
#[derive(Debug)]
pub(crate) enum CannotReload {
    Settings(SettingsError),
    /// The reading itself came to no end.
    Task(tokio::task::JoinError),
}

impl fmt::Display for ServerNews<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClearText => f.write_str(
                "without --tls-cert the API keys of clients on other machines can be read on the \
                 network; --tls-cert and --tls-key encrypt it, and --listen 127.0.0.1:PORT keeps it on \
                 this machine",
            ),
            Self::Forgets => f.write_str(
                "without --state-dir a restart forgets all permits: commands that hold one are stopped \
                 when they learn of it, and until then others may run beside them",
            ),
            Self::Restored(permits) => write!(f, "{permits} permits on record are kept"),
            Self::Paused(pause) => write!(
                f,
                "the machine was started since the last permit was recorded; granting nothing for {}, \
                 the longest lease on record",
                Span(*pause)
            ),
            Self::FewerStrangers { asked, descriptors, most } => write!(
                f,
                "--max-unauthenticated {asked} is more than half of the {descriptors} descriptors that \
                 it may have; it is {most} now"
            ),
            Self::Ended => f.write_str("The server has ended"),
            Self::ReadAgain { options, keys } => {
                match options {
                    [] => f.write_str("SIGHUP: there is nothing to read again")?,
                    options => write!(f, "SIGHUP: read again: {}", options.join(", "))?,
                }
                f.write_str(if *keys {
                    ""
                } else {
                    "; the API keys come from a variable, and stay"
                })
            }
            Self::NotReadYet => f.write_str(
                "SIGHUP: the files are not read yet, and all stays as it was until they are",
            ),
            Self::NotReadAgain(why) => write!(f, "SIGHUP: all stays as it was: {why}"),
        }
    }
}

impl fmt::Display for CannotReload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(error) => error.fmt(f),
            Self::Task(error) => error.fmt(f),
        }
    }
}

/// The words for what a server tells.
pub(crate) fn server_fact(fact: &ServerFact<'_>) -> String {
    match fact {
        ServerFact::Crowded => {
            "connections that have shown no key are closed for others that come: \
                                there are more than --max-unauthenticated, or of one address than \
                                --max-unauthenticated-per-address"
                .into()
        }
        ServerFact::NoDescriptors(error) => {
            format!("cannot take more connections for now: {error}")
        }
        ServerFact::DoesNotRecord(why) => {
            format!("cannot write to the state directory, granting nothing: {why}")
        }
        ServerFact::Records => "the state directory can be written again".into(),
        // In a form that fail2ban can read: docs/operations/fail2ban.md has the filter.
        ServerFact::WrongKeys { address, times } => {
            let from = address.map_or_else(|| "further addresses".into(), |from| from.to_string());
            let times_word = if *times == 1 { "time" } else { "times" };
            format!("wrong API key from {from} ({times} {times_word})")
        }
        ServerFact::OtherVersion(theirs) => OtherVersion::Client(theirs).to_string(),
    }
}
