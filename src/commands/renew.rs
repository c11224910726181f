//! Extending a permit that was acquired, once or as long as a process lives.

use std::io;

use anyhow::Context;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::sync::watch;

use super::nested::outer_permits;
use super::runtime::{block_on, connect};
use crate::cli::messages::{PermitRefused, WhyNotOurs};
use crate::clock::{self, Alarm};
use crate::exit::Exit;
use crate::permits::{Backend, Holder, HolderState, Lease, Loss, LossReason, Validity};
use crate::settings::RenewSettings;
use crate::sys::watch;
use crate::user::User;

pub(super) fn run(settings: &RenewSettings, user: &User) -> anyhow::Result<Exit> {
    let backend = connect(&settings.location, user)?;
    block_on(renew(&*backend, settings))?
}

async fn renew(backend: &dyn Backend, settings: &RenewSettings) -> anyhow::Result<Exit> {
    let RenewSettings { id, name, while_pid, .. } = settings;
    let lease = backend.attach(name, *id).await?;
    if lease.is_none() {
        let snapshot = backend.observe(name).await?;
        let around_us = outer_permits(name).contains(id);
        match snapshot.holder(*id) {
            // Its semrun renews it.
            Some(holder) if around_us && is_running(holder) => {}
            holder => {
                let holder = holder.cloned().map(Box::new);
                let why = WhyNotOurs::Held { holder, force_helps: false };
                return Err(not_ours(settings, why).into());
            }
        }
    }
    let Some(pid) = while_pid else { return Ok(Exit::Success) };
    tokio::select! {
        ended = ended(*pid) => {
            ended.context("cannot watch the process")?;
            Ok(Exit::Success)
        }
        why = lost(lease) => {
            Err(not_ours(settings, WhyNotOurs::Lost(why?)).into())
        }
    }
}

fn not_ours(settings: &RenewSettings, why: WhyNotOurs) -> PermitRefused {
    PermitRefused { permit: format!("{}@{}", settings.id, settings.name), why }
}

/// Whether a running command has it.
pub(super) fn is_running(holder: &Holder) -> bool {
    let detached = holder.record().is_some_and(|record| record.who.detached);
    matches!(holder, Holder::Known { phase: HolderState::Holding, .. }) && !detached
}

/// Returns once a process has ended.
async fn ended(pid: Pid) -> io::Result<()> {
    match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => Ok(()),
        process => watch(process?, Interest::READABLE)?.readable().await.map(drop),
    }
}

/// Renews, and returns with the reason once the permit is lost.
async fn lost(lease: Option<Box<dyn Lease>>) -> anyhow::Result<LossReason> {
    let Some(mut lease) = lease else { return std::future::pending().await };
    let validity = lease.validity();
    tokio::select! {
        Loss { reason, .. } = lease.lost() => Ok(reason),
        over = over(validity) => over.context("cannot watch the lease"),
    }
}

/// Returns once a lease is over without having been renewed.
async fn over(validity: Option<watch::Receiver<Validity>>) -> io::Result<LossReason> {
    let Some(mut validity) = validity else { return std::future::pending().await };
    let alarm = Alarm::new()?;
    loop {
        let (end, error) = {
            let validity = validity.borrow_and_update();
            (validity.since + validity.ttl, validity.error.clone())
        };
        if clock::now() >= end {
            return Ok(error.map_or(LossReason::NotRenewed, LossReason::Store));
        }
        alarm.set(Some(end))?;
        tokio::select! {
            rung = alarm.wait() => rung?,
            Ok(()) = validity.changed() => {}
        }
    }
}
