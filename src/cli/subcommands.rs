//! The options and operands of the subcommands.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use rustix::process::Pid;
use uuid::Uuid;

use super::{
    AskOptions, BackendOptions, ConfigOption, LoudnessOptions, SupervisionOptions, values,
};
use crate::backends::Name;
use crate::serve::log::{Event, Format};

#[derive(Debug, Args)]
#[group(skip)]
#[command(after_help = "Exit codes: 0 a permit is free (of every NAME), 75 all are taken, 69 the \
backend cannot be reached or refused us.")]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) backend: BackendOptions,

    /// The limit to compare with where only foreign clients hold permits [default: 1]
    #[arg(short, long, value_name = "N", value_parser = values::limit)]
    pub(crate) limit: Option<u32>,

    /// Print a JSON document (docs/status.md has its fields)
    #[arg(long)]
    pub(crate) json: bool,

    /// Show it again whenever it changes, until a signal ends it
    #[arg(long)]
    pub(crate) watch: bool,

    /// The semaphores to show
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<Name>,
}

#[derive(Debug, Args)]
#[group(skip)]
#[command(
    override_usage = "semrun acquire [OPTIONS] --name NAME",
    after_help = "Prints the permit, UUID@NAME. It lasts for the TTL: extend it with `semrun renew`, give it back with `semrun release`.\n\nIn a shell: eval \"$(semrun acquire --shell --name NAME)\"\n\nExit codes: those of a run."
)]
pub(crate) struct Acquire {
    #[command(flatten)]
    pub(crate) ask: AskOptions,

    #[command(flatten)]
    pub(crate) backend: BackendOptions,

    #[command(flatten)]
    pub(crate) loudness: LoudnessOptions,

    /// Print a JSON document (docs/operations/steps.md has its fields)
    #[arg(long, conflicts_with = "shell")]
    pub(crate) json: bool,

    /// Print `export` lines for a shell to evaluate
    #[arg(long)]
    pub(crate) shell: bool,
}

#[derive(Debug, Args)]
#[group(skip)]
#[command(
    after_help = "Exit codes: 0 the permit is ours for another TTL, 76 it is not any more, 69 the backend cannot be reached or refused us."
)]
pub(crate) struct Renew {
    /// What `semrun acquire` printed
    #[arg(long, value_name = "PERMIT", value_parser = values::permit)]
    pub(crate) permit: Option<(Uuid, Name)>,

    /// Go on extending it until this process has ended; does not give it back
    #[arg(long, value_name = "PID", value_parser = values::pid)]
    pub(crate) while_pid: Option<Pid>,

    #[command(flatten)]
    pub(crate) backend: BackendOptions,
}

#[derive(Debug, Args)]
#[group(skip)]
#[command(
    after_help = "Exit codes: 0 it is given back, now or before, or evicted; 76 it was not ours any more; 69 the backend cannot be reached or refused us."
)]
pub(crate) struct Release {
    /// What `semrun acquire` printed; with --force that of anybody, as `semrun status --json` shows it
    #[arg(long, value_name = "PERMIT", value_parser = values::permit)]
    pub(crate) permit: Option<(Uuid, Name)>,

    /// Evict whoever has the permit: it cannot be renewed any more, and passes on when its command is
    /// dead, or when its lease ends
    #[arg(long)]
    pub(crate) force: bool,

    /// Let it pass on at once, while what ran under it may still run beside the next
    #[arg(long, requires = "force")]
    pub(crate) now: bool,

    #[command(flatten)]
    pub(crate) backend: BackendOptions,
}

#[derive(Debug, Args)]
#[group(skip)]
#[command(
    override_usage = "semrun limit [OPTIONS] NAME [N | --unpin]",
    after_help = "A pinned limit counts whatever its users ask for, until it is unpinned or the backend loses its data. Who waits is told at once when it is raised; nobody is stopped when it is lowered."
)]
pub(crate) struct Limit {
    /// The semaphore
    #[arg(value_name = "NAME")]
    pub(crate) semaphore: Name,

    /// Pin it to N permits, 1 to 10,000
    #[arg(value_name = "N", value_parser = values::limit, conflicts_with = "unpin")]
    pub(crate) number: Option<u32>,

    /// Leave it to its users again
    #[arg(long)]
    pub(crate) unpin: bool,

    #[command(flatten)]
    pub(crate) backend: BackendOptions,
}

#[derive(Debug, Args)]
#[group(skip)]
#[command(
    after_help = "The options are those of a run: it looks at what that run would find.\nExit codes: 0 all is well, 1 something has to be mended."
)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) ask: AskOptions,

    #[command(flatten)]
    pub(crate) supervision: SupervisionOptions,

    #[command(flatten)]
    pub(crate) loudness: LoudnessOptions,

    /// Print a JSON document (docs/operations/doctor.md has its fields)
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) backend: BackendOptions,
}

#[derive(Debug, Args)]
#[group(skip)]
#[command(
    after_help = "Stops in good order on SIGTERM, and reads keys and certificates again on SIGHUP. Without --state-dir a restart forgets all permits; docs/serve.md says what that costs. In the configuration these are keys of the section [serve]."
)]
pub(crate) struct Serve {
    /// The API keys that are accepted, one a line: KEY [role=view|use|admin] [names=PATTERN] LABEL;
    /// also in the variable SEMRUN_API_KEY
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) api_key_file: Option<PathBuf>,

    /// Where to listen; port 0 is any that is free [default: 127.0.0.1:3202]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,

    /// The certificate to serve HTTPS with, and those that lead to it (PEM); with --tls-key
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) tls_cert: Option<PathBuf>,

    /// The key of --tls-cert (PEM)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) tls_key: Option<PathBuf>,

    /// Let in only clients that also show a certificate which an authority in this file has signed
    /// (PEM); with --tls-cert
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) client_ca_file: Option<PathBuf>,

    /// Where to record permits, so that they outlive a restart
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) state_dir: Option<PathBuf>,

    /// Connections that have not shown a key, of all addresses; the oldest is closed when another one
    /// comes [default: a quarter of the descriptors, 1024 at most]
    #[arg(long, value_name = "N", value_parser = values::most)]
    pub(crate) max_unauthenticated: Option<usize>,

    /// The same, of one address, or of one IPv6 network of 64 bits [default: a quarter of
    /// --max-unauthenticated]
    #[arg(long, value_name = "N", value_parser = values::most)]
    pub(crate) max_unauthenticated_per_address: Option<usize>,

    /// Clients that register, wait or hold, of all semaphores [default: 200000]
    #[arg(long, value_name = "N", value_parser = values::most)]
    pub(crate) max_clients: Option<usize>,

    /// Clients that register or wait, of one semaphore [default: 20000]
    #[arg(long, value_name = "N", value_parser = values::most)]
    pub(crate) max_waiters: Option<usize>,

    /// Semaphores that are in use or have a pinned limit [default: 20000]
    #[arg(long, value_name = "N", value_parser = values::most)]
    pub(crate) max_names: Option<usize>,

    /// Semaphores with a pinned limit [default: 10000]
    #[arg(long, value_name = "N", value_parser = values::most)]
    pub(crate) max_pins: Option<usize>,

    /// What to log beside info and alert, on standard error
    #[arg(long, value_name = "EVENT,…", value_delimiter = ',', value_parser = values::event())]
    pub(crate) log: Vec<Event>,

    /// How the log looks [default: text]
    #[arg(long, value_name = "FORMAT", value_parser = values::format())]
    pub(crate) log_format: Option<Format>,

    #[command(flatten)]
    pub(crate) config: ConfigOption,
}
