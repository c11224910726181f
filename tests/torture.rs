//! Torture: real processes, real servers, faults at random, and judges outside the program. The
//! promises are in `docs/guarantees.md`; `scripts/torture` runs this for any time.
//!
//! `cargo test` runs it for a bounded time. Each place where permits live has an arena: a crowd of
//! semruns, and faults that strike them, their commands, the server and the network between. When
//! it is over the whole history is checked, and what broke is told with everything around it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "the figures of a run are its result")]

mod torture {
    /// A crowd of semruns in one place, and what is done to it.
    pub(crate) mod arena;
    /// The invariants, over a whole history.
    pub(crate) mod check;
    /// A wall clock of a server's own.
    mod clock;
    #[path = "../cli/cloud_server.rs"]
    #[expect(dead_code, reason = "other tests need more of it")]
    mod cloud_server;
    /// What runs under a permit.
    pub(crate) mod command;
    /// How many permits are taken for certain, by what was asked for and by what is pinned.
    pub(crate) mod crowds;
    /// Chance that can be repeated.
    mod dice;
    /// What is counted and timed.
    pub(crate) mod figures;
    /// What happened, and when.
    mod history;
    /// What happened to each run, and what may be why.
    mod lives;
    /// Guards that are switched off must be missed.
    #[cfg(feature = "mutants")]
    pub(crate) mod mutants;
    /// Judges that are shown something wrong must say so.
    pub(crate) mod oracles;
    /// Waiters after those that are stopped.
    pub(crate) mod passed_over;
    /// Where permits live, and what can happen there.
    pub(crate) mod places;
    /// Processes that are found, signalled and waited for.
    mod processes;
    /// A network that misbehaves.
    mod proxy;
    #[path = "../cli/redis_server.rs"]
    mod redis_server;
    /// A breach as a person reads it.
    mod report;
    /// Programs that need root.
    #[path = "../cli/root.rs"]
    pub(crate) mod root;
    #[path = "../support/mod.rs"]
    #[expect(dead_code, reason = "other tests need more of it")]
    mod servers;
    /// A step under a permit that outlives who acquired it.
    mod step;
    /// What the servers of other tests need, too.
    mod support;
}

use std::os::unix::process::CommandExt;
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use torture::{arena, command, figures, oracles, places};

/// Set for the process that has its own mounts.
const APART: &str = "TORTURE_APART";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(command::ROLE) {
        command::play(&arguments.collect::<Vec<_>>());
    }
    let mut arguments = Arguments::from_args();
    // They mostly wait; and what they disturb each other by is one more fault.
    arguments.test_threads = arguments.test_threads.or(Some(20));
    if std::env::var_os(APART).is_none() && !arguments.list {
        in_a_mount_namespace();
    }
    let seed = setting("TORTURE_SEED").unwrap_or_else(seed_of_now);
    let time = setting("TORTURE_SECONDS").map_or(BOUNDED, Duration::from_secs);
    let mut trials = oracles::trials();
    trials.extend(places::all().into_iter().map(|(name, place)| {
        Trial::test(format!("arena::{name}"), move || {
            Ok(figures::tell(arena::run(&arena::Plan::all(name, seed, time, place)), time)?)
        })
    }));
    #[cfg(feature = "mutants")]
    trials.extend(torture::mutants::trials(seed));
    println!("seed {seed}");
    let conclusion = libtest_mimic::run(&arguments, trials);
    figures::tell_all();
    conclusion.exit_code()
}

/// Of one arena, by default; as long again may be needed until all have been served.
const BOUNDED: Duration = Duration::from_mins(1);

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

fn seed_of_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap() % 1_000_000_000
}

/// Begins again with mounts of its own, in which disks can be filled; they go with the last process.
fn in_a_mount_namespace() {
    let mut unshare = torture::root::as_root("unshare");
    unshare.args(["--mount", "--propagation", "private", "env"]);
    let handed = ["PATH", "CARGO_MANIFEST_DIR", "TORTURE_SEED", "TORTURE_SECONDS", "TORTURE_KEEP"];
    unshare.args(
        handed.iter().filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?))),
    );
    unshare
        .arg(format!("{APART}=1"))
        .args(std::env::args_os().take(1).map(|_| std::env::current_exe().unwrap()));
    let error = unshare.args(std::env::args_os().skip(1)).exec();
    panic!("this test needs unshare(1), and root or sudo without a password: {error}");
}
