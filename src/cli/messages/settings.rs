//! What is wrong with settings, in one line that says what to change, without a secret.

use std::fmt;

use super::certificates::TlsErrorText;
use super::urls::{BadUrlText, UnsupportedText};
use super::usage_errors::RejectedText;
use super::words::SystemErrorText;
use crate::files::trusted::UntrustedFile;
use crate::permits::Name;
use crate::settings::{
    BadSecret, ConflictingLayer, HelpPage, Mistake, OptionsApart, SecretKind, SettingsError,
    Source, UrlMistake,
};

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, what, help, .. } = self;
        let text = match origin {
            Some(origin) => format!("{origin}: {what}"),
            None => what.to_string(),
        };
        f.write_str(&text)?;
        let Some(HelpPage(subcommand)) = help else { return Ok(()) };
        let page = subcommand.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        // A question ends the sentence.
        if text.ends_with('?') {
            return write!(f, " (or try 'semrun{page} --help')");
        }
        write!(f, "; try 'semrun{page} --help'")
    }
}

impl std::error::Error for SettingsError {}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("the command line"),
            Self::Variable(name) => f.write_str(name),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(error) => RejectedText(error).fmt(f),
            Self::Slip(slip) => slip.fmt(f),
            Self::Conflict(ConflictingLayer::Variables, error) => {
                write!(f, "the variables SEMRUN_… conflict: {}", RejectedText(error))
            }
            Self::Conflict(ConflictingLayer::File(path), error) => {
                write!(f, "the keys in {} conflict: {}", path.display(), RejectedText(error))
            }
            Self::GivenTwice(option) => {
                write!(f, "--{option} is given twice; one call is about one")
            }
            Self::NotASwitch(value) => write!(f, "'{value}' is not one of 1, 0, true, false"),
            Self::SecretTyped(option) => write!(
                f,
                "--{option} would show it to every user of this machine, in the list of processes; \
                 --{option}-file, its variable and the configuration keep it to you"
            ),
            Self::Apart(options) => options.fmt(f),
            Self::NoName
            | Self::NoCommand(_)
            | Self::NoPermit
            | Self::NothingToRelease
            | Self::NothingToRevoke
            | Self::NoApiKey
            | Self::NoSubcommand
            | Self::NoShell
            | Self::NoHelp => missing(f, self),
            Self::PermitAndName(name) => write!(
                f,
                "--permit names one permit, and NAME the one that there is; give one of them, not \
                 '{name}' beside it"
            ),
            Self::NameAlone(name) => write!(
                f,
                "'{name}' names a semaphore, and not a permit; --permit UUID@{name} gives back one that was \
                 acquired, and --force {name} revokes that of its holder"
            ),
            Self::KillAfter { kill_after, ttl, shortest } => {
                let [kill_after, ttl, shortest] =
                    [kill_after, ttl, shortest].map(|time| humantime::format_duration(*time));
                write!(
                    f,
                    "--kill-after {kill_after} does not fit into a TTL of {ttl}; the smallest --ttl that \
                     it fits into is {shortest}"
                )
            }
            Self::Braces { option, name } => {
                write!(f, "the {option} '{name}' has braces, which cannot be used in Redis")
            }
            Self::Url(source, what) => write!(f, "{}{what}", UrlOrigin(source)),
            Self::UnfitApiKey => f.write_str("the API key has characters that no header can carry"),
            Self::Secret(kind, bad) => secret(f, *kind, bad),
            Self::Keys(bad) => bad.fmt(f),
            Self::KeyFile(path, bad) => write!(f, "{}: {bad}", path.display()),
            Self::Tls(error) => TlsErrorText(error).fmt(f),
            Self::Unreadable { path, why: UntrustedFile::Io(error), optional } => {
                write!(f, "cannot read {}: {}", path.display(), SystemErrorText(error))?;
                f.write_str(if *optional {
                    "; --config FILE names another one, /dev/null none"
                } else {
                    ""
                })
            }
            Self::Unreadable { path, why, .. } => write!(f, "{} {why}", path.display()),
            Self::NoConfig(Source::Flag, path) => {
                write!(f, "--config: there is no file {}", path.display())
            }
            Self::NoConfig(source, path) => {
                write!(f, "{source}: there is no file {}", path.display())
            }
            Self::NotUtf8(path) => write!(f, "{} is not UTF-8", path.display()),
            Self::InConfig { path, line, what } => write!(f, "{}:{line}: {what}", path.display()),
            Self::UnknownHome { uid, why } => write!(
                f,
                "the home directory of uid {uid} is unknown, and with it whether there is a \
                 configuration: {why}; try again, or give --config FILE (/dev/null for none)"
            ),
        }
    }
}

/// What is not there, and how to give it.
fn missing(f: &mut fmt::Formatter<'_>, what: &Mistake) -> fmt::Result {
    const NO_PERMIT: &str = "no permit named; give --permit UUID@NAME, or SEMRUN_PERMIT";
    match what {
        Mistake::NoName => f.write_str("no semaphore named; give --name NAME"),
        Mistake::NoCommand(name) => write!(
            f,
            "no command to run; give it after the options: semrun --name {} -- COMMAND",
            name.as_ref().map_or("NAME", Name::as_str)
        ),
        Mistake::NoPermit => f.write_str(NO_PERMIT),
        Mistake::NothingToRelease => {
            write!(f, "{NO_PERMIT}; --force NAME revokes that of a holder")
        }
        Mistake::NothingToRevoke => f.write_str(
            "no permit named; semrun release --force NAME revokes that of the holder of NAME, and \
             --force --permit UUID@NAME one of several",
        ),
        Mistake::NoApiKey => f.write_str("no API key; give --api-key-file or SEMRUN_API_KEY"),
        Mistake::NoSubcommand => f.write_str("no subcommand"),
        Mistake::NoShell => f.write_str("no shell"),
        _ => f.write_str("no help for that"),
    }
}

impl fmt::Display for OptionsApart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClientCertificate => "--client-cert and --client-key go together",
            Self::ServerCertificate => "--tls-cert and --tls-key go together",
            Self::ClientAuthority => "--client-ca-file needs --tls-cert and --tls-key",
            Self::RetryInterval => "--retry-interval does nothing without --max-attempts",
        })
    }
}

fn secret(f: &mut fmt::Formatter<'_>, kind: SecretKind, bad: &BadSecret) -> fmt::Result {
    let kind = match kind {
        SecretKind::Password => "password",
        SecretKind::ApiKey => "API key",
    };
    match bad {
        BadSecret::EmptyFile(path) => {
            write!(f, "{} is empty; write the {kind} into its first line", path.display())
        }
        BadSecret::File(path) => write!(
            f,
            "the first line of {} is no {kind}; write it there, as one line of text",
            path.display()
        ),
        BadSecret::Value => write!(f, "its first line is no {kind}"),
    }
}

/// Where a URL was given.
struct UrlOrigin<'a>(&'a Source);

impl fmt::Display for UrlOrigin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Source::Flag => f.write_str("the URL in --backend"),
            Source::Variable(name) => write!(f, "the URL in {name}"),
            source @ Source::File { .. } => write!(f, "{source}: the URL"),
        }
    }
}

/// Fits after "the URL".
impl fmt::Display for UrlMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meant(meant) => meant.fmt(f),
            Self::Bad(bad) => write!(f, " {}", BadUrlText(bad)),
            Self::Unsupported(scheme) => write!(f, ": {}", UnsupportedText(scheme)),
        }
    }
}
