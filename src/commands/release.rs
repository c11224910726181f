//! Giving back a permit that was acquired, or taking one from somebody else.

use std::time::SystemTime;

use super::renew::{is_running, why};
use super::{block_on, print};
use crate::account::Account;
use crate::backends::{Backend, Error, ErrorKind, Eviction, GivenBack, Holder};
use crate::exit::Exit;
use crate::report::{Evicting, NotOurs, Page};
use crate::settings::Release;

pub(super) fn run(settings: &Release, account: &Account) -> anyhow::Result<Exit> {
    let backend = settings.location.connect(account)?;
    block_on(release(&*backend, settings))?
}

async fn release(backend: &dyn Backend, settings: &Release) -> anyhow::Result<Exit> {
    let Release { id, name, force, now, .. } = settings;
    let snapshot = backend.observe(name).await?;
    let holder = snapshot.holder(*id);
    match holder {
        Some(holder) if *force => return evict(backend, settings, holder, *now).await,
        Some(Holder::Foreign { .. }) => return Err(not_ours(settings, holder)),
        Some(one) if is_running(one) => return Err(not_ours(settings, holder)),
        _ => {}
    }
    match backend.give_back(name, *id).await? {
        GivenBack::Now | GivenBack::Before => Ok(Exit::Success),
        GivenBack::Unknown => Err(not_ours(settings, holder)),
    }
}

fn not_ours(settings: &Release, holder: Option<&Holder>) -> anyhow::Error {
    let permit = format!("{}@{}", settings.id, settings.name);
    let mut why = why(holder);
    let foreign = |holder: &Holder| matches!(holder, Holder::Foreign { .. });
    if holder.is_some_and(|holder| is_running(holder) || foreign(holder)) {
        why.push_str("; --force takes it away");
    }
    NotOurs { permit, why }.into()
}

async fn evict(
    backend: &dyn Backend,
    settings: &Release,
    holder: &Holder,
    now: bool,
) -> anyhow::Result<Exit> {
    let Release { id, name, .. } = settings;
    if let Holder::Foreign { permit, .. } = holder
        && !now
    {
        let what = format!(
            "cannot ask the holder of {permit}@{name} to stop: it is another program's; with --now its \
             permit passes on at once, and what runs under it may run beside the next"
        );
        let backend = backend.url();
        return Err(Error { kind: ErrorKind::Unsupported, backend, what, source: None }.into());
    }
    let how = if now { Eviction::Now } else { Eviction::Gently };
    // Before it is gone, so that whoever it was is known whatever happens.
    let evicting = Evicting { name, holder, how, time: SystemTime::now() };
    print(&Page::of(evicting))?;
    backend.evict(name, *id, how).await?;
    Ok(Exit::Success)
}
