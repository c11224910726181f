//! What every subcommand needs: a runtime for its task, a connection to the backend, and a standard
//! output to write to.

use std::io::{self, Write};

use anyhow::Context;

use super::idle_memory;
use crate::backends::url::Location;
use crate::cli::messages::Output;
use crate::exit::Exit;
use crate::permits::{Backend, BackendError};
use crate::sys::{raise_file_size_limit, raise_open_files_limit};
use crate::user::User;

/// Runs a task to its end. It does not wait for other threads, which may hang in a name server's
/// lookup.
pub(super) fn block_on<T>(task: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(idle_memory::fall_asleep)
        .build();
    let runtime = runtime.context("cannot set up waiting for events")?;
    let done = runtime.block_on(task);
    runtime.shutdown_background();
    Ok(done)
}

/// Connects to the place of permits. Those in a directory are files: a waiter has one open for each
/// permit it watches, as many as can be, and limits that are meant for the command must not cost us
/// the permit. The command gets the original ones.
pub(super) fn connect(location: &Location, user: &User) -> Result<Box<dyn Backend>, BackendError> {
    if !location.expires() {
        raise_file_size_limit();
        raise_open_files_limit();
    }
    location.connect(user)
}

/// Shows something on standard output.
pub(super) fn print(page: &Output) -> anyhow::Result<Exit> {
    write_out(page.text().as_bytes())
}

/// Writes output for programs to standard output. A reader that has gone is no failure.
pub(super) fn write_out(text: &[u8]) -> anyhow::Result<Exit> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(cannot_write(error)),
        _ => Ok(Exit::Success),
    }
}

pub(super) fn cannot_write(error: io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context("cannot write to standard output")
}
