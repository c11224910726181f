//! The user who runs this: name, home and host, from the user database. Never from variables that a
//! login shell sets and cron does not, so that both mean the same user.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use rustix::process::geteuid;

use crate::proc;

/// The effective user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    /// The number as text where the user database does not know it.
    pub(crate) name: String,
    pub(crate) home: Home,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Home {
    At(PathBuf),
    None,
    /// The user database cannot be asked just now, so it is unknown which home other processes use.
    Unknown(NoAnswer),
}

/// Why the user database does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// This program could not be run, with what the system says.
    NotRun(&'static str, String),
    /// It failed, with how it ended.
    Failed(&'static str, ExitStatus),
}

impl User {
    pub(crate) fn current() -> Self {
        let uid = geteuid().as_raw();
        // The file has nearly all users; getent also asks the directory services, which a static
        // build of this program cannot.
        let passwd = fs::read("/etc/passwd").unwrap_or_default();
        if let Some(user) = entry(&String::from_utf8_lossy(&passwd), uid) {
            return user;
        }
        // Root is root everywhere, and no directory service is asked for it.
        if uid == 0 {
            return Self { uid, name: "root".into(), home: Home::None };
        }
        let nameless = |home| Self { uid, name: uid.to_string(), home };
        match getent(uid) {
            Ok(passwd) => entry(&passwd, uid).unwrap_or_else(|| nameless(Home::None)),
            Err(error) => nameless(Home::Unknown(error)),
        }
    }
}

/// The name of this host, as the kernel has it.
pub(crate) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Whether a user's number also stands for all users that our user namespace does not map.
pub(crate) fn stands_for_unmapped(uid: u32) -> bool {
    let unmapped = proc::overflow_uid().unwrap_or(OVERFLOW) == uid;
    unmapped && proc::mapped_users().is_some_and(|mapped| mapped < u64::from(u32::MAX))
}

/// The kernel's default number for those.
const OVERFLOW: u32 = 65534;

/// Where getent(1) may be: not looked up in PATH, which cron and a login shell do not share.
const GETENT: [&str; 3] = ["/usr/bin/getent", "/bin/getent", "/run/current-system/sw/bin/getent"];

/// The user database's line of a user, or nothing.
fn getent(uid: u32) -> Result<String, NoAnswer> {
    const UNKNOWN: i32 = 2;
    let Some(program) = GETENT.into_iter().find(|path| fs::exists(path).unwrap_or(false)) else {
        return Ok(String::new());
    };
    let output = Command::new(program)
        .args(["passwd", &uid.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(|error| NoAnswer::NotRun(program, error.to_string()))?;
    match output.status.code() {
        Some(0 | UNKNOWN) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        _ => Err(NoAnswer::Failed(program, output.status)),
    }
}

/// Finds a user in lines of the form of passwd(5).
fn entry(passwd: &str, uid: u32) -> Option<User> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let number: u32 = fields.nth(1)?.parse().ok()?;
        let home = fields.nth(2)?;
        (number == uid).then(|| User {
            uid,
            name: name.into(),
            home: if home.starts_with('/') { Home::At(home.into()) } else { Home::None },
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        broken line\n\
        deploy:x:1001:1001:Deploys,,,:/home/deploy:/bin/sh\n\
        nohome:x:1002:1002:::/usr/sbin/nologin\n";

    #[test]
    fn a_user_is_found_by_number() {
        let user = entry(PASSWD, 1001).unwrap();
        assert_eq!(user.name, "deploy");
        assert_eq!(user.home, Home::At("/home/deploy".into()));
    }

    #[test]
    fn an_empty_home_is_none_and_a_stranger_is_not_found() {
        assert_eq!(entry(PASSWD, 1002).unwrap().home, Home::None);
        assert_eq!(entry(PASSWD, 4711), None);
    }
}
