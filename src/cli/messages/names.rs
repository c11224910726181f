//! What is wrong with names: that of a semaphore, which may also mislead, and that of a user whose
//! home is not known.

use std::fmt;

use super::words::SystemErrorText;
use crate::permits::{BadName, Name};
use crate::printable::Pitfall;
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

/// Fits after the name.
impl fmt::Display for Pitfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blank => "begins or ends with a blank",
            Self::Hidden => "has characters that are not seen",
            Self::NotNormal => "is not in the normal form NFC of Unicode",
        })
    }
}

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
