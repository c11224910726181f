//! What `doctor` found where permits live, and what to do about what is wrong.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::permits::finding::{
    ClockOffset, Finding, FindingKind, Grade, Persistence, ReplicaCheck, ReplicaReport, SharedWith,
};

/// One thing that was looked at, in words.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Check {
    /// One or two words.
    pub(crate) topic: &'static str,
    pub(crate) grade: Grade,
    pub(crate) text: String,
}

impl Check {
    pub(crate) fn of(finding: &Finding) -> Self {
        let Finding { topic, grade, .. } = *finding;
        Self { topic, grade, text: FindingText(finding).to_string() }
    }
}

struct FindingText<'a>(&'a Finding);

impl fmt::Display for FindingText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.what {
            FindingKind::Directory { .. }
            | FindingKind::Sharing(_)
            | FindingKind::FileSystem(_)
            | FindingKind::FreeSpace(_)
            | FindingKind::FreeFiles(_) => of_a_directory(f, self.0),
            FindingKind::Accepts
            | FindingKind::Serve { .. }
            | FindingKind::Remembers
            | FindingKind::Forgets
            | FindingKind::ServeClock(_)
            | FindingKind::Original
            | FindingKind::Encrypted
            | FindingKind::Here
            | FindingKind::KeyReadable => of_a_server(f, self.0),
            FindingKind::Persistence(persistence) => persisting(f, persistence),
            FindingKind::Replicas(replicas) => replicated(f, *replicas),
            _ => of_a_redis(f, self.0),
        }
    }
}

fn of_a_redis(f: &mut fmt::Formatter<'_>, finding: &Finding) -> fmt::Result {
    match &finding.what {
        FindingKind::Redis { program, version } => write!(f, "{program} {version}"),
        FindingKind::NoInfo => f.write_str(
            "it does not answer INFO (an ACL forbids it, or it was renamed), so a restart that loses \
             permits goes unnoticed, and what else endangers them is not known; allow it with ACL \
             SETUSER … +info",
        ),
        FindingKind::NoWakeups => f.write_str(
            "it does not answer BLPOP (an ACL forbids it, or it was renamed), so a waiter notices a permit that \
             was given back up to 5s later, and a holder its revocation at the next renewal; allow it with ACL SETUSER … +blpop",
        ),
        FindingKind::PasswordReadable => f.write_str(
            "the password and all that follows can be read on the network; use rediss://, or a socket",
        ),
        FindingKind::ReadOnly => {
            f.write_str("it is a replica, which cannot be written to; name its primary")
        }
        FindingKind::MemoryShort { used, most } => write!(
            f,
            "{used} of the {most} MB are used that it may have; permits survive it when it is full, but \
             set maxmemory higher before it is"
        ),
        FindingKind::AmbiguousPrefix { prefix, shorter, rest } => write!(
            f,
            "'{prefix}' has a '-': --prefix '{shorter}' with a name that begins with '{rest}-' is the \
             same semaphore, and who may use that prefix may use this one; choose one without a '-'"
        ),
        FindingKind::KeepsKeys => f.write_str("it throws away no keys when memory is short"),
        FindingKind::Evicts { policy, accepted } => write!(
            f,
            "it may throw keys away when memory is short (maxmemory-policy {policy}), and permits with \
             them; set maxmemory-policy to noeviction{}",
            if *accepted {
                "; --allow-eviction takes that risk"
            } else {
                ", or take that risk with --allow-eviction"
            }
        ),
        FindingKind::AppendFails => f.write_str(
            "it cannot write to its append-only file and refuses all changes; look at its log and for \
             room on its disk",
        ),
        FindingKind::SnapshotFails => f.write_str(
            "its last snapshot failed, for which it may refuse all changes; look at its log and for room \
             on its disk",
        ),
        FindingKind::NoQuarantine => f.write_str(
            "after a restart without its data permits are granted at once, although others may still \
             hold them; leave out --quarantine 0 unless that does not matter",
        ),
        FindingKind::Quarantine { up, left } => write!(
            f,
            "it was started {}s ago, and of a semaphore that it does not remember it grants nothing for \
             another {}s; wait",
            up.as_secs(),
            left.as_secs()
        ),
        FindingKind::Clock(offset) => {
            write!(f, "its clock is {}", Offset(*offset))?;
            match finding.grade {
                Grade::Ok => Ok(()),
                Grade::Warning | Grade::Error => f.write_str(
                    "; semrun decides nothing by that, but PassBuddy's programs and what people read \
                     do: set the clocks by NTP",
                ),
            }
        }
        FindingKind::MinReplicasIgnored(min) => write!(
            f,
            "min-replicas-to-write is {min}, but scripts like ours ignore it before Redis 7; use \
             --replicas, which does not"
        ),
        other => write!(f, "{other:?}"),
    }
}

fn persisting(f: &mut fmt::Formatter<'_>, persistence: &Persistence) -> fmt::Result {
    const FORGETS: &str = "semruns that run wait for each other after that (--quarantine), PassBuddy's \
                           programs do not, and pinned limits, kept permits and those of semrun acquire \
                           are lost; set appendonly yes with appendfsync everysec or always";
    match persistence {
        Persistence::AppendOnly => f.write_str("it writes to an append-only file"),
        Persistence::AppendLazily => f.write_str(
            "it writes to its append-only file only when the system likes to; set appendfsync to \
             everysec or always",
        ),
        Persistence::Snapshots(save) => write!(
            f,
            "it makes snapshots (save {save}), and after a crash remembers the last one; appendonly yes \
             would keep more"
        ),
        Persistence::Nothing => {
            write!(f, "it keeps nothing on a disk and forgets all permits when it ends; {FORGETS}")
        }
        Persistence::Unknown => write!(
            f,
            "it has no append-only file, and this user may not see whether it makes snapshots (CONFIG \
             GET); one that makes none forgets all permits when it ends: {FORGETS}"
        ),
    }
}

fn replicated(f: &mut fmt::Formatter<'_>, replicas: ReplicaReport) -> fmt::Result {
    const TWO: &str = "takes the place of this server although that still works (a planned failover, a \
                       freeze, a cut network), two commands may run";
    let ReplicaReport { known, in_step, needed, verdict } = replicas;
    write!(f, "{known} known, {in_step} in step")?;
    match verdict {
        ReplicaCheck::Enough => write!(f, ", of which --replicas wants {needed}"),
        ReplicaCheck::TooFew => write!(
            f,
            ", and --replicas {needed} wants more: nothing is granted or renewed; bring them back, or \
             ask for fewer"
        ),
        ReplicaCheck::NoneNeeded if known == 1 => write!(
            f,
            ", and --replicas is 0: when it {TWO}; a second replica, and --replicas 1, prevent that"
        ),
        ReplicaCheck::NoneNeeded => write!(
            f,
            ", and --replicas is 0: when one {TWO}; use --replicas {}, in all clients",
            known - 1
        ),
        ReplicaCheck::AllNeeded => write!(
            f,
            ", and --replicas {needed} wants all: the loss of one stops every job; have one more, or ask \
             for one less"
        ),
        ReplicaCheck::Split => write!(
            f,
            ", and --replicas {needed} is less than half of them: two servers that both believe to be \
             the primary may have as many each; use --replicas {}",
            known - 1
        ),
    }
}

fn of_a_server(f: &mut fmt::Formatter<'_>, finding: &Finding) -> fmt::Result {
    match &finding.what {
        FindingKind::Accepts => f.write_str("it answers, and accepts the API key"),
        FindingKind::Serve { version } => write!(f, "semrun serve, version {version}"),
        FindingKind::Remembers => f.write_str("permits outlive a restart of the server"),
        FindingKind::Forgets => f.write_str(
            "the server forgets all permits when it is restarted, and others may be granted what running \
             commands hold; start it with --state-dir",
        ),
        FindingKind::ServeClock(offset) => {
            write!(f, "the server's is {}", Offset(*offset))?;
            match finding.grade {
                Grade::Ok => Ok(()),
                Grade::Warning | Grade::Error => f.write_str(
                    "; nothing is decided by that, but times in `status` mislead; check NTP on both",
                ),
            }
        }
        FindingKind::Original => f.write_str(
            "the original cloud-semaphore server: one permit a name, no fencing tokens, no --min-hold, \
             acquire, renew or limit, no list of names, and nothing outlives a connection; `semrun serve` \
             does all of it",
        ),
        FindingKind::Encrypted => {
            f.write_str("the connection is encrypted, and the server has a certificate")
        }
        FindingKind::Here => f.write_str("the connection does not leave this machine"),
        FindingKind::KeyReadable => f.write_str(
            "keys can be read on the network; use https:// (semrun serve --tls-cert, --tls-key)",
        ),
        other => write!(f, "{other:?}"),
    }
}

fn of_a_directory(f: &mut fmt::Formatter<'_>, finding: &Finding) -> fmt::Result {
    let amount = |f: &mut fmt::Formatter<'_>, amount: &dyn fmt::Display| {
        const MEND: &str = "free some, or name another directory with --backend file:///PATH";
        match finding.grade {
            Grade::Ok => write!(f, "{amount}"),
            Grade::Warning => write!(f, "{amount}, which is little; {MEND}"),
            Grade::Error => write!(f, "none, and no client can wait or get a permit; {MEND}"),
        }
    };
    match &finding.what {
        FindingKind::Directory { path, named, exists } => {
            let why = if *named { "the one that was named" } else { "the default of this user" };
            let later = if *exists { "" } else { "; it is made when it is needed" };
            write!(f, "{}, {why}{later}", path.display())
        }
        FindingKind::Sharing(SharedWith::Everybody) => f.write_str(
            "every user of this machine may use it, and all of them have to trust each other",
        ),
        FindingKind::Sharing(SharedWith::Group) => {
            f.write_str("its group may use it, and all of them have to trust each other")
        }
        FindingKind::Sharing(SharedWith::Nobody) => {
            f.write_str("private: only its owner and root may use it")
        }
        FindingKind::FileSystem(magic) => f.write_str(match magic {
            0xEF53 => "ext2, ext3 or ext4",
            0x5846_5342 => "XFS",
            0x9123_683E => "Btrfs",
            0x2FC1_2FC1 => "ZFS",
            0xF2F5_2010 => "F2FS",
            0xCA45_1A4E => "bcachefs",
            0x794C_7630 => "overlayfs",
            0x0102_1994 => "tmpfs: what is in it ends with the boot, as permits do",
            0x8584_58F6 => "ramfs: what is in it ends with the boot, as permits do",
            _ => return write!(f, "of type {magic:#x}"),
        }),
        FindingKind::FreeSpace(mib) => amount(f, &format_args!("{mib} MiB")),
        FindingKind::FreeFiles(files) => amount(f, files),
        other => write!(f, "{other:?}"),
    }
}

/// How far a clock is from ours. Fits after "is".
struct Offset(ClockOffset);

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ClockOffset { apart, behind } = self.0;
        let which = if behind { "behind" } else { "ahead of" };
        if apart < Duration::from_mins(1) {
            return write!(f, "{:.1}s {which} ours", apart.as_secs_f64());
        }
        let apart = humantime::format_duration(Duration::from_secs(apart.as_secs()));
        write!(f, "{apart} {which} ours")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(grade: Grade, what: FindingKind) -> String {
        Check::of(&Finding { topic: "topic", grade, what }).text
    }

    #[test]
    fn what_is_not_good_says_what_to_do() {
        let few = text(Grade::Error, FindingKind::FreeSpace(0));
        assert!(few.starts_with("none, and no client") && few.contains("--backend"), "{few}");
        assert_eq!(text(Grade::Ok, FindingKind::FreeSpace(7)), "7 MiB");
        let offset = ClockOffset { apart: Duration::from_secs(12_345), behind: true };
        let far = text(Grade::Warning, FindingKind::ServeClock(offset));
        assert!(far.starts_with("the server's is 3h 25m 45s behind ours;"), "{far}");
        assert_eq!(
            text(Grade::Ok, FindingKind::Clock(offset)),
            "its clock is 3h 25m 45s behind ours"
        );
    }

    #[test]
    fn file_systems_have_names() {
        let kind = |magic| text(Grade::Ok, FindingKind::FileSystem(magic));
        assert!(kind(0xEF53).contains("ext4") && kind(0x0102_1994).contains("tmpfs"));
        assert_eq!(kind(0xABCD), "of type 0xabcd");
    }
}
