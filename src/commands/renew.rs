//! Extending a permit that was acquired, once or as long as a process lives.

use std::io;

use anyhow::Context;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::sync::watch;

use super::nested::outer_permits;
use super::runtime::block_on;
use crate::account::Account;
use crate::backends::{Backend, Holder, Lease, Loss, Lost, Phase, Tenure};
use crate::cli::messages::{NotOurs, WhyNotOurs};
use crate::clock::{self, Alarm};
use crate::exit::Exit;
use crate::kernel::watch;
use crate::settings::Renew;

pub(super) fn run(settings: &Renew, account: &Account) -> anyhow::Result<Exit> {
    let backend = settings.location.connect(account)?;
    block_on(renew(&*backend, settings))?
}

async fn renew(backend: &dyn Backend, settings: &Renew) -> anyhow::Result<Exit> {
    let Renew { id, name, while_pid, .. } = settings;
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

fn not_ours(settings: &Renew, why: WhyNotOurs) -> NotOurs {
    NotOurs { permit: format!("{}@{}", settings.id, settings.name), why }
}

/// Whether a running command has it.
pub(super) fn is_running(holder: &Holder) -> bool {
    let detached = holder.record().is_some_and(|record| record.who.detached);
    matches!(holder, Holder::Known { phase: Phase::Holding, .. }) && !detached
}

/// Returns once a process has ended.
async fn ended(pid: Pid) -> io::Result<()> {
    match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => Ok(()),
        process => watch(process?, Interest::READABLE)?.readable().await.map(drop),
    }
}

/// Renews, and returns with the reason once the permit is lost.
async fn lost(lease: Option<Box<dyn Lease>>) -> anyhow::Result<Loss> {
    let Some(mut lease) = lease else { return std::future::pending().await };
    let tenure = lease.tenure();
    tokio::select! {
        Lost { why, .. } = lease.lost() => Ok(why),
        over = over(tenure) => over.context("cannot watch the lease"),
    }
}

/// Returns once a lease is over without having been renewed.
async fn over(tenure: Option<watch::Receiver<Tenure>>) -> io::Result<Loss> {
    let Some(mut tenure) = tenure else { return std::future::pending().await };
    let alarm = Alarm::new()?;
    loop {
        let (end, trouble) = {
            let tenure = tenure.borrow_and_update();
            (tenure.since + tenure.ttl, tenure.trouble.clone())
        };
        if clock::now() >= end {
            return Ok(trouble.map_or(Loss::NotRenewed, Loss::Store));
        }
        alarm.set(Some(end))?;
        tokio::select! {
            rung = alarm.ring() => rung?,
            Ok(()) = tenure.changed() => {}
        }
    }
}
