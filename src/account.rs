//! Who runs this: user, home and host, from the user database. Never from variables that a login
//! shell sets and cron does not, so that both mean the same person.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::process::geteuid;

/// The effective user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    /// The number as text where the user database does not know it.
    pub(crate) user: String,
    pub(crate) home: Option<PathBuf>,
}

impl Account {
    pub(crate) fn current() -> Self {
        let uid = geteuid().as_raw();
        // Root is root everywhere, and needs no home of ours.
        if uid == 0 {
            return Self { uid, user: "root".into(), home: None };
        }
        // The file covers nearly everybody; getent also asks the directory services, which a
        // static build of this program cannot.
        let line = fs::read_to_string("/etc/passwd")
            .ok()
            .and_then(|passwd| entry(&passwd, uid))
            .or_else(|| entry(&getent(uid)?, uid));
        line.unwrap_or_else(|| Self { uid, user: uid.to_string(), home: None })
    }
}

/// The name of this host, as the kernel has it.
pub(crate) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn getent(uid: u32) -> Option<String> {
    let output = Command::new("getent")
        .args(["passwd", &uid.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()
}

/// Finds a user in lines of the form of passwd(5).
fn entry(passwd: &str, uid: u32) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let user = fields.next()?;
        let number: u32 = fields.nth(1)?.parse().ok()?;
        let home = fields.nth(2)?;
        (number == uid).then(|| Account {
            uid,
            user: user.into(),
            home: home.starts_with('/').then(|| home.into()),
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
        let account = entry(PASSWD, 1001).unwrap();
        assert_eq!(account.user, "deploy");
        assert_eq!(account.home, Some("/home/deploy".into()));
    }

    #[test]
    fn an_empty_home_is_none_and_a_stranger_is_not_found() {
        assert_eq!(entry(PASSWD, 1002).unwrap().home, None);
        assert_eq!(entry(PASSWD, 4711), None);
    }
}
