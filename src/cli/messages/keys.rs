//! What is wrong with the API keys of a server. Fits after where they are.

use std::fmt;

use crate::serve::keys::{BadKey, BadKeys, BadRights, KeyPosition};

impl fmt::Display for BadKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8 => f.write_str("is not UTF-8"),
            Self::None => f.write_str("there is no API key; write one a line"),
            Self::RightBeforeKey(line) => {
                write!(f, "line {line} begins with a right and not with a key")
            }
            Self::Rights(line, bad) => write!(f, "line {line}: {bad}"),
            Self::Key(which, BadKey::Short(shortest)) => {
                write!(f, "{which} is shorter than {shortest} characters; make it longer")
            }
            Self::Key(which, BadKey::Unfit) => {
                write!(f, "{which} has characters that no header can carry")
            }
            Self::Key(which, BadKey::Twice) => write!(f, "{which} is there twice"),
        }
    }
}

impl std::error::Error for BadKeys {}

impl fmt::Display for KeyPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(number) => write!(f, "the key in line {number}"),
            Self::Word(number) => write!(f, "key {number}"),
        }
    }
}

impl fmt::Display for BadRights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownRole => "the role is none of view, use and admin",
            Self::TwoRoles => "it has two roles",
            Self::NoPattern => "names= has no pattern",
            Self::TwoPatterns => "it has two patterns of names",
            Self::Misplaced => "write role= and names= so, and before the label",
        })
    }
}
