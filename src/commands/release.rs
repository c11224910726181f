//! Giving back a permit that was acquired, or taking one from somebody else.

use std::time::SystemTime;

use uuid::Uuid;

use super::renew::is_running;
use super::runtime::{block_on, print};
use crate::account::Account;
use crate::backends::{Backend, GivenBack, Holder, Name, Revocation, Snapshot};
use crate::cli::messages::{CannotAsk, NotOurs, Page, Revoking, Several, WhyNotOurs};
use crate::exit::{Exit, Failure};
use crate::settings::{Misuse, Release};

pub(super) fn run(settings: &Release, account: &Account) -> anyhow::Result<Exit> {
    let backend = settings.location.connect(account)?;
    block_on(release(&*backend, settings))?
}

async fn release(backend: &dyn Backend, settings: &Release) -> anyhow::Result<Exit> {
    let Release { id, name, force, .. } = settings;
    let snapshot = backend.observe(name).await?;
    let Some(id) = *id else {
        let (id, holder) = the_one_of(&snapshot)?;
        return revoke(backend, settings, id, holder).await;
    };
    let holder = snapshot.holder(id);
    match holder {
        Some(holder) if *force => return revoke(backend, settings, id, holder).await,
        Some(Holder::Foreign { .. }) => return Err(not_ours(id, name, holder)),
        Some(one) if is_running(one) => return Err(not_ours(id, name, holder)),
        _ => {}
    }
    match backend.give_back(name, id).await? {
        GivenBack::Now | GivenBack::Before => Ok(Exit::Success),
        GivenBack::Unknown => Err(not_ours(id, name, holder)),
    }
}

/// The holder, if there is one and no other.
fn the_one_of(snapshot: &Snapshot) -> anyhow::Result<(Uuid, &Holder)> {
    let name = &snapshot.name;
    match &*snapshot.holders {
        [] => Err(NotOurs::of(name, WhyNotOurs::NoHolder).into()),
        [holder] => {
            if let Some(id) = holder.id() {
                return Ok((id, holder));
            }
            Err(NotOurs::of(name, WhyNotOurs::Unreadable).into())
        }
        _ => {
            // Each with what revokes it, ready to be copied.
            let list = Several { snapshot, now: SystemTime::now() };
            Err(Misuse::new(Failure::Usage, list.to_string()).into())
        }
    }
}

fn not_ours(id: Uuid, name: &Name, holder: Option<&Holder>) -> anyhow::Error {
    let permit = format!("{id}@{name}");
    let foreign = |holder: &Holder| matches!(holder, Holder::Foreign { .. });
    let force_helps = holder.is_some_and(|holder| is_running(holder) || foreign(holder));
    let holder = holder.cloned().map(Box::new);
    NotOurs { permit, why: WhyNotOurs::Held { holder, force_helps } }.into()
}

async fn revoke(
    backend: &dyn Backend,
    settings: &Release,
    id: Uuid,
    holder: &Holder,
) -> anyhow::Result<Exit> {
    let Release { name, now, .. } = settings;
    let now = *now;
    if let Holder::Foreign { permit, .. } = holder
        && !now
    {
        let (backend, permit, name) = (backend.url(), permit.clone(), name.clone());
        return Err(CannotAsk { backend, permit, name }.into());
    }
    let how = if now { Revocation::Now } else { Revocation::Gently };
    // Before it is gone, so that whoever it was is known whatever happens.
    let revoking = Revoking { name, holder, how, time: SystemTime::now() };
    print(&Page::of(revoking))?;
    backend.revoke(name, id, how).await?;
    Ok(Exit::Success)
}
