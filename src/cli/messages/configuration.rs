//! What is wrong in a line of a configuration file, and words that are not known there or among the
//! variables.

use std::fmt;

use crate::settings::{FileMistake, Section, UnknownWord, Wanted, WordKind};

/// Fits after the file and the line.
impl fmt::Display for FileMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(what) => f.write_str(what),
            Self::Unknown(word) => word.fmt(f),
            Self::IsASection(name) => write!(f, "'{name}' is a section: [{name}…]"),
            Self::SemaphoreIsASection(name) => {
                write!(f, "each semaphore has a section of its own, [semaphores.{name}]")
            }
            Self::OfAServer(key) => write!(
                f,
                "'{key}' is an option of the server; move it into the section [serve]"
            ),
            Self::BadName(bad) => bad.fmt(f),
            Self::WrongValue { key, wanted } => write!(f, "'{key}' wants {wanted}"),
            Self::SecretShown => f.write_str(
                "holds a secret, and every user of this machine can read it; chmod o= makes it private",
            ),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Switch => "true or false",
            Self::Words => "words",
            Self::TextOrNumber => "a text or a number",
        })
    }
}

impl fmt::Display for UnknownWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, word, nearest } = self;
        match kind {
            WordKind::Key(Section::Top) => write!(f, "unknown key '{word}'")?,
            WordKind::Key(Section::Serve) => write!(f, "unknown key '{word}' in [serve]")?,
            WordKind::Key(Section::Semaphore(name)) => {
                write!(f, "unknown key '{word}' in [semaphores.{name}]")?;
            }
            WordKind::Section => write!(f, "unknown section '{word}'")?,
            WordKind::Variable => write!(f, "unknown variable '{word}'")?,
        }
        match nearest {
            Some(nearest) => write!(f, "; did you mean '{nearest}'?"),
            None => Ok(()),
        }
    }
}
