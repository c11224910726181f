//! The options and operands of the subcommands.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use rustix::process::Pid;
use uuid::Uuid;

use super::{
    BackendOptions, ConfigOption, LoudnessOptions, PermitOptions, SupervisionOptions, values,
};
use crate::permits::Name;
use crate::serve::log::{Format, LogEvent};

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) backend: BackendOptions,

    /// Limit to assume if only other programs hold permits [default: 1]
    #[arg(short, long, value_name = "N", value_parser = values::limit)]
    pub(crate) limit: Option<u32>,

    /// Print a JSON document
    #[arg(long)]
    pub(crate) json: bool,

    /// Print it again whenever it changes, until a signal ends it
    #[arg(long)]
    pub(crate) watch: bool,

    /// Show leases, fencing tokens and permits too, in as many columns as that takes
    #[arg(short, long)]
    pub(crate) verbose: bool,

    /// Semaphores to show
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<Name>,
}

#[derive(Debug, Args)]
#[group(skip)]
#[command(override_usage = "semrun acquire [OPTIONS] --name NAME")]
pub(crate) struct AcquireArgs {
    #[command(flatten)]
    pub(crate) permit_options: PermitOptions,

    #[command(flatten)]
    pub(crate) backend: BackendOptions,

    #[command(flatten)]
    pub(crate) loudness: LoudnessOptions,

    /// Print a JSON document
    #[arg(long, conflicts_with = "shell")]
    pub(crate) json: bool,

    /// Print `export` lines for a shell to evaluate
    #[arg(long)]
    pub(crate) shell: bool,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct RenewArgs {
    /// What `semrun acquire` printed
    #[arg(long, value_name = "PERMIT", value_parser = values::permit)]
    pub(crate) permit: Option<(Uuid, Name)>,

    /// Keep renewing it until this process has ended; then end without giving it back
    #[arg(long, value_name = "PID", value_parser = values::pid)]
    pub(crate) while_pid: Option<Pid>,

    #[command(flatten)]
    pub(crate) backend: BackendOptions,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct ReleaseArgs {
    /// What `semrun acquire` printed; with --force any permit that `semrun status --json` shows
    #[arg(long, value_name = "PERMIT", value_parser = values::permit)]
    pub(crate) permit: Option<(Uuid, Name)>,

    /// Revoke the permit of the one holder of NAME, or that of --permit; it passes on when the holder's
    /// command is dead, or when the lease ends
    #[arg(long)]
    pub(crate) force: bool,

    /// With --force: the semaphore whose permit is revoked; if several hold one they are listed
    #[arg(value_name = "NAME")]
    pub(crate) semaphore: Option<Name>,

    /// With --force, let the permit pass on at once; the old command may still run beside the next
    #[arg(long, requires = "force")]
    pub(crate) now: bool,

    #[command(flatten)]
    pub(crate) backend: BackendOptions,
}

#[derive(Debug, Args)]
#[group(skip)]
#[command(override_usage = "semrun limit [OPTIONS] NAME [N | --unpin]")]
pub(crate) struct LimitArgs {
    /// Semaphore to show or change
    #[arg(value_name = "NAME")]
    pub(crate) semaphore: Name,

    /// Pin it to N permits, 1 to 10,000
    #[arg(value_name = "N", value_parser = values::limit, conflicts_with = "unpin")]
    pub(crate) number: Option<u32>,

    /// Remove the pinned limit; what its users ask for with `-l` applies again
    #[arg(long)]
    pub(crate) unpin: bool,

    #[command(flatten)]
    pub(crate) backend: BackendOptions,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) permit_options: PermitOptions,

    #[command(flatten)]
    pub(crate) supervision: SupervisionOptions,

    #[command(flatten)]
    pub(crate) loudness: LoudnessOptions,

    /// Print a JSON document
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) backend: BackendOptions,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct ServeArgs {
    /// Accept the API keys in FILE, one a line; KEY [role=view|use|admin] [names=PATTERN] LABEL, or
    /// several keys in SEMRUN_API_KEY
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) api_key_file: Option<PathBuf>,

    /// Address to listen at [default: 127.0.0.1:3202]; port 0 is any free one
    #[arg(long, value_name = "HOST:PORT", value_parser = values::listen)]
    pub(crate) listen: Option<String>,

    /// Serve HTTPS with the certificate chain in FILE (PEM); needs --tls-key
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) tls_cert: Option<PathBuf>,

    /// Private key (PEM) of --tls-cert
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) tls_key: Option<PathBuf>,

    /// Admit only clients with a certificate that an authority in FILE (PEM) has signed; needs --tls-cert
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) client_ca_file: Option<PathBuf>,

    /// Record permits in DIR, so that they outlive a restart
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) state_dir: Option<PathBuf>,

    /// At most N connections that have not shown a key [default: a quarter of the descriptors, 1024 at
    /// most]; a new one closes the oldest
    #[arg(long, value_name = "N", value_parser = values::most)]
    pub(crate) max_unauthenticated: Option<usize>,

    /// The same for one address, or one IPv6 network of 64 bits [default: a quarter of
    /// --max-unauthenticated]
    #[arg(long, value_name = "N", value_parser = values::most)]
    pub(crate) max_unauthenticated_per_address: Option<usize>,

    /// At most N clients that register, wait or hold, of all semaphores [default: 200000]
    #[arg(long, value_name = "N", value_parser = values::most)]
    pub(crate) max_clients: Option<usize>,

    /// At most N clients that register or wait, of one semaphore [default: 20000]
    #[arg(long, value_name = "N", value_parser = values::most)]
    pub(crate) max_waiters: Option<usize>,

    /// At most N semaphores that are in use or have a pinned limit [default: 20000]
    #[arg(long, value_name = "N", value_parser = values::most)]
    pub(crate) max_names: Option<usize>,

    /// At most N semaphores with a pinned limit [default: 10000]
    #[arg(long, value_name = "N", value_parser = values::most)]
    pub(crate) max_pins: Option<usize>,

    /// Events to log on standard error, beside info and alert
    #[arg(long, value_name = "EVENT,…", value_delimiter = ',', value_parser = values::event())]
    pub(crate) log: Vec<LogEvent>,

    /// Form of the log [default: text]
    #[arg(long, value_name = "FORMAT", value_parser = values::format())]
    pub(crate) log_format: Option<Format>,

    #[command(flatten)]
    pub(crate) config: ConfigOption,
}
