//! What is wrong with the name of a semaphore.

use std::fmt;

use crate::backends::{BadName, Name};

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
