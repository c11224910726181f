//! Which shell reads the line of `--command`. The user database names no real shell for system
//! accounts; its exit code would look like the command's.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use rustix::fs::{Access, access};

/// The shell that is there everywhere.
pub(super) const SH: &str = "/bin/sh";

/// The names of programs that read a line of commands after `-c`.
const SHELLS: [&str; 32] = [
    "sh", "ash", "bash", "csh", "dash", "elvish", "es", "fish", "hush", "ion", "ksh", "ksh93",
    "ksh93u", "loksh", "lksh", "mksh", "mrsh", "nu", "oksh", "osh", "pdksh", "posh", "pwsh",
    "rbash", "rc", "rksh", "rzsh", "tcsh", "xonsh", "yash", "ysh", "zsh",
];

/// A `$SHELL` that is not used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoShell {
    pub(crate) shell: OsString,
    pub(crate) why: ShellFlaw,
}

/// Why it is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShellFlaw {
    Relative,
    Unknown,
    NotThere,
    NoProgram,
    NotExecutable,
}

/// The user's shell, or `/bin/sh` instead of one that cannot be used.
pub(super) fn or_sh(shell: OsString) -> (OsString, Option<NoShell>) {
    match error(Path::new(&shell)) {
        None => (shell, None),
        Some(why) => (SH.into(), Some(NoShell { shell, why })),
    }
}

fn error(shell: &Path) -> Option<ShellFlaw> {
    if !shell.is_absolute() {
        return Some(ShellFlaw::Relative);
    }
    let name = shell.file_name().and_then(|name| name.to_str());
    if !name.is_some_and(|name| SHELLS.contains(&name)) {
        return Some(ShellFlaw::Unknown);
    }
    match fs::metadata(shell) {
        Err(_) => Some(ShellFlaw::NotThere),
        Ok(about) if !about.is_file() => Some(ShellFlaw::NoProgram),
        Ok(_) if access(shell, Access::EXEC_OK).is_err() => Some(ShellFlaw::NotExecutable),
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn what_is_no_shell_is_not_used() {
        assert_eq!(or_sh("/bin/bash".into()), ("/bin/bash".into(), None));
        let place = TempDir::new().expect("a directory");
        let at = |name: &str| place.path().join(name);
        for name in ["sync", "git-shell"] {
            fs::copy("/bin/true", at(name)).expect("a copy");
        }
        fs::write(at("dash"), "#!/bin/sh\n").expect("a file");
        fs::set_permissions(at("dash"), fs::Permissions::from_mode(0o600)).expect("a mode");
        fs::create_dir(at("zsh")).expect("a directory");
        let made = ["sync", "git-shell", "dash", "zsh", "bash"].map(at);
        let fixed = ["/usr/sbin/nologin", "/bin/false", "/bin/true", "sh", "bin/bash", "/"];
        for shell in made.iter().map(OsString::from).chain(fixed.map(OsString::from)) {
            let (used, no_shell) = or_sh(shell.clone());
            assert_eq!((used, no_shell.map(|one| one.shell)), (SH.into(), Some(shell)));
        }
    }
}
