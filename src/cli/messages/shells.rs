//! Why `$SHELL` is not used. Fits after the shell and a comma.

use std::fmt;

use crate::settings::ShellFlaw;

impl fmt::Display for ShellFlaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Relative => "not an absolute path",
            Self::Unknown => "not a shell that is known",
            Self::NotThere => "not there",
            Self::NoProgram => "not a program",
            Self::NotExecutable => "not executable",
        })
    }
}
