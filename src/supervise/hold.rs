//! A permit while its command runs: whether it is still ours, and by when the command has to be
//! gone if it cannot be kept. `deadline.rs` has the arithmetic.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use tokio::sync::watch;

use super::deadline::Deadline;
use crate::backends::{Lease, Lost, Tenure};
use crate::clock::{self, Alarm};

/// How long a command has to end whose permit somebody else may have already.
const AT_ONCE: Duration = Duration::from_secs(2);

pub(crate) struct Hold<'a> {
    lease: &'a mut dyn Lease,
    expiring: Option<Expiring>,
}

/// A lease that ends unless it is renewed.
struct Expiring {
    tenure: watch::Receiver<Tenure>,
    alarm: Alarm,
    kill_after: Option<Duration>,
    /// Whether the command goes on without its permit.
    continues: bool,
    /// Whether the command was told to end.
    told: bool,
    /// Whether the backend has said that the permit is not ours any more.
    lost: bool,
}

/// What happened to the permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// It was renewed.
    Renewed,
    /// It is lost, or has to be taken for lost, because of this. At most that much time is left.
    Lost { why: String, left: Option<Duration> },
    /// The whole tree has to be dead.
    Over,
}

impl<'a> Hold<'a> {
    pub(crate) fn new(
        lease: &'a mut dyn Lease,
        kill_after: Option<Duration>,
        continues: bool,
    ) -> io::Result<Self> {
        let expiring = match lease.tenure() {
            None => None,
            Some(tenure) => Some(Expiring {
                tenure,
                alarm: Alarm::new()?,
                kill_after,
                continues,
                told: false,
                lost: false,
            }),
        };
        let hold = Self { lease, expiring };
        if let Some(expiring) = &hold.expiring {
            expiring.arm()?;
        }
        Ok(hold)
    }

    pub(crate) fn inherit(&self) -> Option<BorrowedFd<'_>> {
        self.lease.inherit()
    }

    /// By when the whole tree has to be dead, whoever kills it. None: never.
    pub(crate) fn last(&self) -> Option<clock::Moment> {
        let expiring = self.expiring.as_ref().filter(|expiring| !expiring.continues)?;
        Some(expiring.deadline().last)
    }

    /// Renews the permit until something happens to it. Cancel-safe.
    pub(crate) async fn next(&mut self) -> io::Result<Change> {
        let Some(expiring) = &mut self.expiring else {
            return std::future::pending().await;
        };
        loop {
            tokio::select! {
                biased;
                Lost(why) = self.lease.lost(), if !expiring.lost => {
                    expiring.lost = true;
                    expiring.told = true;
                    return Ok(Change::Lost { why, left: Some(AT_ONCE) });
                }
                rung = expiring.alarm.ring() => {
                    rung?;
                    if let Some(change) = expiring.rung()? {
                        return Ok(change);
                    }
                }
                Ok(()) = expiring.tenure.changed(), if !expiring.lost => {
                    expiring.arm()?;
                    if expiring.tenure.borrow().trouble.is_none() {
                        return Ok(Change::Renewed);
                    }
                }
            }
        }
    }
}

impl Expiring {
    fn deadline(&self) -> Deadline {
        let Tenure { since, ttl, .. } = *self.tenure.borrow();
        Deadline::of(since, ttl, self.kill_after)
    }

    fn arm(&self) -> io::Result<()> {
        let Deadline { soft, hard, .. } = self.deadline();
        let next = if self.told || self.continues { hard } else { soft };
        self.alarm.set(Some(next))
    }

    fn rung(&mut self) -> io::Result<Option<Change>> {
        let Deadline { soft, hard, .. } = self.deadline();
        let now = clock::now();
        if now >= hard && !self.continues {
            return Ok(Some(Change::Over));
        }
        if self.told && self.continues {
            return Ok(None);
        }
        let due = if self.continues { hard } else { soft };
        if self.told || now < due {
            self.arm()?;
            return Ok(None);
        }
        self.told = true;
        self.arm()?;
        let trouble = self.tenure.borrow().trouble.clone();
        let why = trouble.unwrap_or_else(|| "it was not renewed in time".into());
        Ok(Some(Change::Lost { why, left: None }))
    }
}
