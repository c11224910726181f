//! What is wrong with the name of a semaphore, and why a user's home is not known.

use std::fmt;

use super::words::SystemErrorText;
use crate::backends::{BadName, Name};
use crate::user::NoAnswer;

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a name cannot be empty"),
            Self::TooLong(bytes) => {
                write!(f, "a name has at most {} bytes, this one has {bytes}", Name::LONGEST)
            }
            Self::ControlCharacter => f.write_str("a name cannot contain control characters"),
        }
    }
}

impl std::error::Error for BadName {}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRun(program, why) => {
                write!(f, "cannot run {program}: {}", SystemErrorText(why))
            }
            Self::Failed(program, status) => write!(f, "{program} failed ({status})"),
        }
    }
}
