//! The program as its users meet it: real processes, real files, real terminals. Every test has
//! its own directory, waits for what it needs instead of sleeping, and ends what it started.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cli {
    /// Usage errors and places that cannot be used.
    mod bad_input;
    /// Bytes that are nearly right.
    #[path = "../../src/fuzz/mutate.rs"]
    mod changes;
    /// A cloud-semaphore server of one's own, ours or like the original.
    mod cloud_server;
    /// Completions, by the keys that are pressed.
    mod completions;
    /// Configuration files.
    mod config;
    /// Jobs that run at set times on several hosts.
    mod cron;
    /// What `doctor` finds.
    mod doctor;
    /// Each signal, in each phase, and signals in great number.
    mod every_signal;
    /// What goes wrong, and commands that make it hard.
    mod faults;
    /// The examples of a store that refuses older tokens.
    mod fencing;
    /// A limit on the size of files.
    mod file_size;
    /// Completions and man pages.
    mod generated;
    /// The guides for everyday use, run as they stand.
    mod guides;
    /// The README's table of habits, row by row.
    mod habits;
    /// What comes from elsewhere and means ill.
    mod hostile;
    /// A client of HTTP that knows nothing of ours.
    mod http;
    /// Permits in `semrun serve`: leases that survive connections and restarts.
    mod leases;
    /// Limits that are pinned.
    mod limits;
    /// What a run that waits has in memory.
    mod memory;
    /// What people mistype.
    mod mistakes;
    /// What is nearly right, in great number.
    mod mutated;
    /// Runs within a run.
    mod nested;
    /// Permits in a server like the original, which live as long as a connection.
    mod original;
    /// Deaths and outages: a command is dead before its permit passes on.
    mod outages;
    /// Outcomes that could be taken for others.
    mod outcomes;
    /// Processes by their numbers.
    mod pids;
    /// Places in the queue of `semrun serve`, and clients that lie about theirs.
    mod places;
    /// Processes that are found by what they carry.
    #[path = "../torture/processes.rs"]
    #[expect(dead_code, reason = "the torture needs more of it")]
    mod processes;
    /// `semrun serve` as a client of the original sees it.
    mod protocol;
    /// A network that misbehaves.
    #[path = "../torture/proxy.rs"]
    #[expect(dead_code, reason = "the torture needs more of it")]
    mod proxy;
    /// Order, limits and hand-over between many runs.
    mod queue;
    /// Permits in Redis.
    mod redis;
    /// A server of one's own.
    mod redis_server;
    /// Keys and certificates that `semrun serve` reads again.
    mod reload;
    /// Restarts of `semrun serve`, and what it keeps on the disk.
    mod restarts;
    /// Keys of `semrun serve` that may do some things.
    mod roles;
    /// Programs that need root.
    mod root;
    /// A command's surroundings and exit codes.
    mod run;
    /// The JSON documents against their schemas.
    mod schema;
    /// Secrets that others could read.
    mod secrets;
    /// Directories that several users share.
    mod shared;
    /// One semaphore with PassBuddy's programs.
    mod sharing;
    /// Signals in every phase, and whole trees.
    mod signals;
    /// Holders and waiters as others see them.
    mod status;
    /// Permits that outlive the process that acquired them, and permits that are revoked.
    mod steps;
    /// What answers and is no server, or a strange one.
    mod strange;
    /// Peers that mean harm to `semrun serve`, without a key and with one.
    mod strangers;
    /// What the tests are made of.
    mod support;
    /// Job control and the waiting line, on a pseudo-terminal.
    mod terminal;
    /// A Redis that encrypts.
    mod tls;
    /// Whole trees: what stops them, and what stops with them.
    mod trees;
    /// What a user who may write a shared directory can do to the others there.
    mod trespass;
    /// Files that decide what is done, or whom to trust.
    mod trust;
    /// Redis servers that do not grant everything, or nothing yet.
    mod unwilling;
    /// A client and a server of different versions.
    mod versions;
}
