//! A semaphore's limit: shown, pinned, unpinned.

use std::fmt;

use super::runtime::{block_on, connect, print};
use crate::cli::messages::{OddText, Output};
use crate::exit::Exit;
use crate::permits::{Backend, BackendError, SemaphoreSnapshot};
use crate::printable::{Context, quoted};
use crate::settings::{LimitChange, LimitSettings};
use crate::user::User;

pub(super) fn run(settings: &LimitSettings, user: &User) -> anyhow::Result<Exit> {
    let backend = connect(&settings.location, user)?;
    let page = block_on(change(&*backend, settings))??;
    print(&page)
}

/// Makes the change, and returns the message for it.
async fn change(backend: &dyn Backend, settings: &LimitSettings) -> Result<Output, BackendError> {
    let LimitSettings { name, change, .. } = settings;
    let before = backend.limit(name).await?;
    let Some(change) = change else { return Ok(Output::of(LimitText::now(&before))) };
    let limit = match change {
        LimitChange::Pin(limit) => Some(*limit),
        LimitChange::Unpin => None,
    };
    backend.set_limit(name, limit).await?;
    let after = backend.limit(name).await?;
    Ok(Output::of(LimitText { before: before.limit, ..LimitText::now(&after) }))
}

/// Which limit counts, and why.
struct LimitText<'a> {
    snapshot: &'a SemaphoreSnapshot,
    /// The limit that counted before.
    before: Option<u32>,
}

impl<'a> LimitText<'a> {
    fn now(snapshot: &'a SemaphoreSnapshot) -> Self {
        Self { snapshot, before: snapshot.limit }
    }
}

impl fmt::Display for LimitText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SemaphoreSnapshot { name, limit, pinned, holders, odd, .. } = self.snapshot;
        let odd = odd.as_ref().map(|odd| OddText(name, odd));
        let name = quoted(name.as_str(), Context::Front);
        if let Some(odd) = odd {
            return write!(f, "{name}: not known; {odd}");
        }
        match limit {
            None => return write!(f, "{name}: idle; the next run sets the limit"),
            Some(limit) if *pinned => write!(f, "{name}: limit {limit}, pinned")?,
            Some(limit) => write!(f, "{name}: limit {limit}, as long as it is in use")?,
        }
        if let Some(before) = self.before.filter(|before| Some(*before) != *limit) {
            write!(f, " (was {before})")?;
        }
        let held = holders.len();
        if limit.is_some_and(|limit| held > limit as usize) {
            write!(f, "; {held} are held, and none is granted until fewer are")?;
        }
        Ok(())
    }
}
