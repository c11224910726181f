//! Why a command did not start.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::Path;

use super::forbidden::Forbidden;
use crate::kernel::spawn::LaunchError;

/// A command that did not start.
#[derive(Debug)]
pub(crate) struct CannotRun {
    pub(crate) program: String,
    pub(crate) reason: LaunchError,
}

impl CannotRun {
    pub(crate) fn new(program: &OsStr, reason: LaunchError) -> Self {
        Self { program: Path::new(program).display().to_string(), reason }
    }
}

impl fmt::Display for CannotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = &self.program;
        match &self.reason {
            LaunchError::NotFound | LaunchError::NotExecutable(_) if program.is_empty() => {
                write!(f, "cannot run '': the name of the command is empty")
            }
            LaunchError::NotFound if !program.contains('/') => {
                write!(f, "cannot run {program}: no such command in PATH")
            }
            LaunchError::NotFound => write!(f, "cannot run {program}: there is no such file"),
            LaunchError::NotExecutable(error)
                if error.kind() == io::ErrorKind::PermissionDenied =>
            {
                write!(f, "cannot run {program}: {}", Forbidden::of(program))
            }
            LaunchError::NotExecutable(error) if error.kind() == io::ErrorKind::NotFound => {
                let what = "the interpreter in its first line, or its loader, is missing";
                write!(f, "cannot run {program}: {what} (a line that ends with CRLF names another)")
            }
            LaunchError::NotExecutable(error) => write!(f, "cannot run {program}: {error}"),
            LaunchError::Failed(doing, error) => {
                write!(f, "cannot start {program}: cannot {doing}: {error}")
            }
        }
    }
}

impl std::error::Error for CannotRun {}
