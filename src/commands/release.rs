//! Giving back a permit that was acquired, or revoking another holder's.

use std::time::SystemTime;

use uuid::Uuid;

use super::renew::is_running;
use super::runtime::{block_on, connect, print};
use crate::cli::messages::{
    ChooseHolder, HolderUnreachable, Output, PermitRefused, Revoking, WhyNotOurs,
};
use crate::exit::Exit;
use crate::permits::{Backend, Holder, Name, ReleaseOutcome, Revocation, SemaphoreSnapshot};
use crate::settings::ReleaseSettings;
use crate::user::User;

pub(super) fn run(settings: &ReleaseSettings, user: &User) -> anyhow::Result<Exit> {
    let backend = connect(&settings.location, user)?;
    block_on(release(&*backend, settings))?
}

async fn release(backend: &dyn Backend, settings: &ReleaseSettings) -> anyhow::Result<Exit> {
    let ReleaseSettings { id, name, force, .. } = settings;
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
    match backend.release_detached(name, id).await? {
        ReleaseOutcome::Now | ReleaseOutcome::Before => Ok(Exit::Success),
        ReleaseOutcome::Unknown => Err(not_ours(id, name, holder)),
    }
}

/// The holder, if there is exactly one.
fn the_one_of(snapshot: &SemaphoreSnapshot) -> anyhow::Result<(Uuid, &Holder)> {
    let name = &snapshot.name;
    match &*snapshot.holders {
        [] => Err(PermitRefused::of(name, WhyNotOurs::NoHolder).into()),
        [holder] => {
            if let Some(id) = holder.id() {
                return Ok((id, holder));
            }
            Err(PermitRefused::of(name, WhyNotOurs::Unreadable).into())
        }
        _ => {
            // Each with the command that revokes it, ready to be copied.
            Err(ChooseHolder { snapshot: snapshot.clone(), now: SystemTime::now() }.into())
        }
    }
}

fn not_ours(id: Uuid, name: &Name, holder: Option<&Holder>) -> anyhow::Error {
    let permit = format!("{id}@{name}");
    let foreign = |holder: &Holder| matches!(holder, Holder::Foreign { .. });
    let force_helps = holder.is_some_and(|holder| is_running(holder) || foreign(holder));
    let holder = holder.cloned().map(Box::new);
    PermitRefused { permit, why: WhyNotOurs::Held { holder, force_helps } }.into()
}

async fn revoke(
    backend: &dyn Backend,
    settings: &ReleaseSettings,
    id: Uuid,
    holder: &Holder,
) -> anyhow::Result<Exit> {
    let ReleaseSettings { name, now, .. } = settings;
    let now = *now;
    if let Holder::Foreign { permit, .. } = holder
        && !now
    {
        let (backend, permit, name) = (backend.url(), permit.clone(), name.clone());
        return Err(HolderUnreachable { backend, permit, name }.into());
    }
    let how = if now { Revocation::Forced } else { Revocation::Graceful };
    // Before it is gone, so that the output names the holder whatever happens.
    let revoking = Revoking { name, holder, how, time: SystemTime::now() };
    print(&Output::of(revoking))?;
    backend.revoke(name, id, how).await?;
    Ok(Exit::Success)
}
