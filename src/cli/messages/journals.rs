//! What is wrong with the journal of a server, and what to do about it. Fits after its path.

use std::fmt;

use crate::serve::journal::{Damage, DamagedLine};

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, at, what, is_last, longest) = match self {
            Self::Format { version, oldest, newest } => {
                return write!(
                    f,
                    "it has format {version}, and this semrun reads {oldest} to {newest}; start the \
                     semrun that wrote it, or remove it once no command runs that relies on it"
                );
            }
            Self::Lost { line, at, what, is_last, longest } => (line, at, what, is_last, longest),
        };
        write!(
            f,
            "line {line} is damaged: {what}, and what is held is not known. Wait until no command \
             runs that relies on it"
        )?;
        if !longest.is_zero() {
            let longest = humantime::format_duration(*longest);
            write!(f, " (no lease on record is longer than {longest})")?;
        }
        f.write_str(", then move the file away")?;
        if *is_last && *line > 1 {
            write!(f, ", or keep what is before the damage: truncate -s {at}")?;
        }
        Ok(())
    }
}

impl fmt::Display for DamagedLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Garbled => "it is not as semrun wrote it",
            Self::Zeros => "there are zeros where a record may have been",
            Self::NoEnd => "its end is missing",
            Self::TokenTwice => "two permits have the same token",
        })
    }
}
