//! What is wrong with settings, as facts without a secret. `cli/messages/settings.rs` has the words.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::files::FileMistake;
use super::layers::Source;
use super::mistakes::{Slip, UrlMeant};
use crate::backends::tls::TlsError;
use crate::backends::url::BadUrl;
use crate::exit::Failure;
use crate::files::trusted::UntrustedFile;
use crate::permits::Name;
use crate::serve::keys::BadKeys;
use crate::user::NoAnswer;

/// Something about the options is wrong.
#[derive(Debug)]
pub(crate) struct SettingsError {
    pub(crate) failure: Failure,
    /// Where the wrong value comes from, if that has to be said.
    pub(crate) origin: Option<Source>,
    pub(crate) what: Box<Mistake>,
    /// Where to read more, if it is the command line that is wrong.
    pub(crate) help: Option<HelpPage>,
}

/// The help of a subcommand, or of semrun itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HelpPage(pub(crate) Option<String>);

/// What is wrong.
#[derive(Debug)]
pub(crate) enum Mistake {
    /// The reader of options refuses it.
    Rejected(clap::Error),
    Slip(Slip),
    /// Options that exclude each other are in one layer.
    Conflict(ConflictingLayer, clap::Error),
    GivenTwice(String),
    /// A variable for a switch has this value.
    NotASwitch(String),
    /// The option would show its secret in the list of processes.
    SecretTyped(String),
    Apart(OptionsApart),
    /// Options do not name these, and nothing else does.
    NoName,
    NoCommand(Option<Name>),
    NoPermit,
    /// The same for `release`, without and with `--force`.
    NothingToRelease,
    NothingToRevoke,
    /// `release` is about a permit and, with `--force`, about the only one of a name.
    PermitAndName(Name),
    NameAlone(Name),
    NoApiKey,
    NoSubcommand,
    NoShell,
    NoHelp,
    /// The smallest TTL that it fits into is the last of them.
    KillAfter {
        kill_after: Duration,
        ttl: Duration,
        shortest: Duration,
    },
    /// A name or prefix that Redis cannot have.
    Braces {
        option: &'static str,
        name: Name,
    },
    /// The URL itself is never here: it may hold a password.
    Url(Source, UrlMistake),
    /// A header cannot carry it.
    UnfitApiKey,
    Secret(SecretKind, BadSecret),
    Keys(BadKeys),
    KeyFile(PathBuf, BadKeys),
    Tls(TlsError),
    Unreadable {
        path: PathBuf,
        why: UntrustedFile,
        /// Whether it is a user's own configuration, which need not be read.
        optional: bool,
    },
    NoConfig(Source, PathBuf),
    NotUtf8(PathBuf),
    InConfig {
        path: Arc<Path>,
        line: usize,
        what: FileMistake,
    },
    /// The configuration of this user, whose home is not known.
    UnknownHome {
        uid: u32,
        why: NoAnswer,
    },
}

/// A layer with options that exclude each other.
#[derive(Debug)]
pub(crate) enum ConflictingLayer {
    Variables,
    File(Arc<Path>),
}

/// Options that have no meaning without each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OptionsApart {
    ClientCertificate,
    ServerCertificate,
    /// The authority for clients, without a certificate of the server.
    ClientAuthority,
    /// An interval between attempts that have no number.
    RetryInterval,
}

#[derive(Debug)]
pub(crate) enum UrlMistake {
    Meant(UrlMeant),
    Bad(BadUrl),
    Unsupported(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SecretKind {
    Password,
    ApiKey,
}

/// Why there is no secret where it should be.
#[derive(Debug)]
pub(crate) enum BadSecret {
    EmptyFile(PathBuf),
    /// The first line is none, of this file or of a value.
    File(PathBuf),
    Value,
}

impl From<clap::Error> for Mistake {
    fn from(error: clap::Error) -> Self {
        Self::Rejected(error)
    }
}

impl From<Slip> for Mistake {
    fn from(slip: Slip) -> Self {
        Self::Slip(slip)
    }
}

impl From<OptionsApart> for Mistake {
    fn from(options: OptionsApart) -> Self {
        Self::Apart(options)
    }
}

impl SettingsError {
    pub(crate) fn new(failure: Failure, what: impl Into<Mistake>) -> Self {
        Self { failure, origin: None, what: Box::new(what.into()), help: None }
    }

    pub(super) fn from(mut self, origin: Source) -> Self {
        self.origin = Some(origin);
        self
    }

    /// The same, and where to read more if it is the command line that is wrong.
    pub(crate) fn see_help_of(mut self, subcommand: Option<&str>) -> Self {
        let told = matches!(&*self.what, Mistake::Slip(slip) if slip.names_help());
        if self.failure == Failure::Usage && !told {
            self.help.get_or_insert_with(|| HelpPage(subcommand.map(str::to_owned)));
        }
        self
    }
}

/// The command line cannot be meant so.
pub(super) fn settings_error(what: impl Into<Mistake>) -> SettingsError {
    SettingsError::new(Failure::Usage, what)
}

/// A file, or a demand on a backend, is wrong.
pub(super) fn misconfigured(what: impl Into<Mistake>) -> SettingsError {
    SettingsError::new(Failure::Unsupported, what)
}
