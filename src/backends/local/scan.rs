//! A look at many semaphores, on all processors: nearly all of it is the kernel's work, opening,
//! reading and closing files.

use std::io;
use std::thread;

use super::directory::BaseDirectory;
use super::semaphore_files::SemaphoreFiles;
use super::taken_permits;
use crate::permits::{Name, SemaphoreSnapshot};

/// How many names are worth a thread.
const WORTH_A_THREAD: usize = 200;

/// In the order of the names. None: another process still has the mutex, or something is wrong; a
/// look at that name alone reports what.
pub(super) fn look(base: &BaseDirectory, names: &[Name]) -> Vec<Option<SemaphoreSnapshot>> {
    let threads = match names.len() / WORTH_A_THREAD {
        0 => 1,
        enough => thread::available_parallelism().map_or(1, |all| all.get().min(enough)),
    };
    let look = |names: &[Name]| -> Vec<_> {
        names.iter().map(|name| look_now(base, name).ok().flatten()).collect()
    };
    let mut parts = names.chunks(names.len().div_ceil(threads).max(1));
    let first = parts.next().unwrap_or_default();
    thread::scope(|scope| {
        // This user may have no more threads left.
        let started =
            |part| (part, thread::Builder::new().spawn_scoped(scope, move || look(part)).ok());
        let others: Vec<_> = parts.map(started).collect();
        let mut looked = look(first);
        for (part, other) in others {
            let other = other.map_or_else(|| Ok(look(part)), thread::ScopedJoinHandle::join);
            looked.extend(other.unwrap_or_else(|_| vec![None; part.len()]));
        }
        looked
    })
}

fn look_now(base: &BaseDirectory, name: &Name) -> io::Result<Option<SemaphoreSnapshot>> {
    let Some(semaphore) = SemaphoreFiles::open(base, name, false)? else { return Ok(None) };
    let Some(locked) = semaphore.lock_to_look()? else { return Ok(None) };
    taken_permits::snapshot(&locked, name).map(Some)
}
