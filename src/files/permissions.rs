//! Whether users other than us and root may change a file or a directory.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::Stat;
use rustix::io::Errno;
use rustix::process::geteuid;

/// Why other users can change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnsafeReason {
    /// It belongs to this user.
    Owner(u32),
    /// The members of this group may write it.
    Group(u32),
    /// All users may.
    Everybody,
}

/// A step on the way to a file where other users could replace it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnsafePath {
    pub(crate) what: PathBuf,
    pub(crate) is_link: bool,
    pub(crate) why: UnsafeReason,
}

/// Whether a file, a directory or a link belongs to another user.
pub(super) fn stranger(stat: &Stat) -> Option<UnsafeReason> {
    let uid = stat.st_uid;
    (uid != 0 && uid != geteuid().as_raw()).then_some(UnsafeReason::Owner(uid))
}

/// Whether others may write a file or a directory, which is open as `fd`.
pub(super) fn writers(fd: &OwnedFd, stat: &Stat) -> Option<UnsafeReason> {
    const EVERYBODY: u32 = 0o002;
    const GROUP: u32 = 0o020;
    if stat.st_mode & EVERYBODY != 0 {
        return Some(UnsafeReason::Everybody);
    }
    let group = stat.st_mode & GROUP != 0
        && (has_list(fd) || has_others(stat.st_gid, &[stat.st_uid, geteuid().as_raw(), 0]));
    group.then_some(UnsafeReason::Group(stat.st_gid))
}

/// Owner and writers.
pub(super) fn hands(fd: &OwnedFd, stat: &Stat) -> Option<UnsafeReason> {
    stranger(stat).or_else(|| writers(fd, stat))
}

/// Whether an access control list says more than the mode. The bits of the group are its mask then.
fn has_list(fd: &OwnedFd) -> bool {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let found = rustix::fs::getxattr(path, "system.posix_acl_access", &mut [0_u8; 0]);
    !matches!(found, Err(Errno::NODATA | Errno::OPNOTSUPP))
}

/// Whether a group has other members than these users. Where a umask of 002 is usual, each user has
/// a group of their own, and a few system groups are empty. A group that the files do not list may
/// have any members.
fn has_others(gid: u32, users: &[u32]) -> bool {
    let read = |path| fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned());
    match (read("/etc/passwd"), read("/etc/group")) {
        (Ok(passwd), Ok(group)) => has_others_in(&passwd, &group, gid, users),
        _ => true,
    }
}

fn has_others_in(passwd: &str, group: &str, gid: u32, users: &[u32]) -> bool {
    // Accounts in containers may be in root's group without being listed.
    if gid == 0 {
        return true;
    }
    let accounts = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid: u32 = fields.nth(1)?.parse().ok()?;
        Some((name, uid, fields.next()?.parse::<u32>().ok()?))
    });
    let accounts: Vec<_> = accounts.collect();
    let is_one = |member: &str| {
        let mut accounts = accounts.iter();
        accounts.any(|(name, uid, _)| *name == member && users.contains(uid))
    };
    let members = group.lines().filter_map(|line| {
        let mut fields = line.split(':').skip(2);
        (fields.next()?.parse() == Ok(gid)).then(|| fields.next().unwrap_or_default())
    });
    let members: Vec<_> = members.collect();
    let mut named = members.iter().flat_map(|names| names.split(','));
    members.is_empty()
        || named.any(|name| !name.is_empty() && !is_one(name))
        || accounts.iter().any(|(_, uid, primary)| *primary == gid && !users.contains(uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_of_ones_own_has_no_others() {
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:7:7::/:\nbob:x:8:9::/:\nbroken\n";
        let group =
            "root:x:0:\nann:x:7:\nstaff:x:50:\nteam:x:9:ann\nboth:x:10:ann,root\nodd:x:11:eve\n";
        let others = |gid, uid| has_others_in(passwd, group, gid, &[uid, 0]);
        assert!(!others(7, 7) && !others(50, 0) && !others(10, 7));
        assert!(others(7, 0), "its own user is one");
        assert!(others(9, 7), "it is another's first group");
        assert!(others(11, 7) && others(12, 7), "users that are not known");
        assert!(others(0, 0));
    }
}
