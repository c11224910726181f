//! A permit while its command runs: whether it is still ours, and by when the command has to be
//! gone if it cannot be kept. `deadline.rs` has the arithmetic.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use tokio::sync::watch;

use super::deadline::{self, Deadline};
use crate::backends::{Gone, Lease, Loss, Lost, Tenure};
use crate::clock::{self, Alarm, Moment};

/// How long a command has to end when another client may have its permit already.
const AT_ONCE: Duration = Duration::from_secs(2);

pub(crate) struct Hold<'a> {
    lease: &'a mut dyn Lease,
    expiring: Option<Expiring>,
    /// What the backend said of a permit that is lost, or soon will be.
    gone: Option<Gone>,
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
    /// How long it takes to kill the command's tree, beyond what every lease has room for.
    killing: Duration,
}

/// By when a process that holds nothing but this permit has to be gone. None: never.
pub(crate) fn last(lease: &dyn Lease, kill_after: Option<Duration>) -> Option<Moment> {
    let Tenure { since, ttl, .. } = *lease.tenure()?.borrow();
    Some(Deadline::of(since, ttl, kill_after).last)
}

/// Whether the lease was over before it could be renewed. A worker that was stopped for so long may
/// hear of its command's end first.
pub(crate) fn is_over(lease: &dyn Lease) -> bool {
    lease.tenure().is_some_and(|tenure| {
        let Tenure { since, ttl, .. } = *tenure.borrow();
        clock::now() >= since + ttl
    })
}

/// What happened to the permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// It was renewed.
    Renewed,
    /// It is lost, or has to count as lost, because of this. At most that much time is left.
    Lost { why: Loss, left: Option<Duration> },
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
                killing: Duration::ZERO,
            }),
        };
        let hold = Self { lease, expiring, gone: None };
        if let Some(expiring) = &hold.expiring {
            expiring.arm()?;
        }
        Ok(hold)
    }

    pub(crate) fn inherit(&self) -> Option<BorrowedFd<'_>> {
        self.lease.inherit()
    }

    /// By when the whole tree has to be dead, whichever process kills it. None: never.
    pub(crate) fn last(&self) -> Option<Moment> {
        let expiring = self.expiring.as_ref().filter(|expiring| !expiring.continues)?;
        Some(expiring.deadline().last)
    }

    /// Until when the permit is certainly ours: for so long from that moment. None: it cannot expire.
    pub(crate) fn tenure(&self) -> Option<(Moment, Duration)> {
        let Tenure { since, ttl, .. } = *self.expiring.as_ref()?.tenure.borrow();
        Some((since, ttl))
    }

    /// Brings the deadlines forward for a tree that has so many processes.
    pub(crate) fn make_room(&mut self, processes: usize) -> io::Result<()> {
        if let Some(expiring) = &mut self.expiring {
            let killing = deadline::killing(processes);
            if killing != std::mem::replace(&mut expiring.killing, killing) {
                expiring.arm()?;
            }
        }
        Ok(())
    }

    /// Why it is too late to start anything under the permit, if it is: another client may hold it.
    pub(crate) async fn is_too_late(&mut self) -> Option<Loss> {
        if self.expiring.as_ref().is_some_and(|expiring| clock::now() >= expiring.deadline().soft) {
            return Some(Loss::HeldUp);
        }
        tokio::select! {
            biased;
            lost = self.lease.lost() => Some(lost.why),
            () = std::future::ready(()) => None,
        }
    }

    /// Renews the permit until something happens to it. Cancel-safe.
    pub(crate) async fn next(&mut self) -> io::Result<Change> {
        tokio::select! {
            biased;
            Lost { why, gone } = self.lease.lost(), if matches!(self.gone, None | Some(Gone::NotYet)) => {
                self.gone = Some(gone);
                if let Some(expiring) = &mut self.expiring {
                    expiring.told = true;
                }
                let left = match gone {
                    Gone::Now => Some(Duration::ZERO),
                    Gone::Before => Some(AT_ONCE),
                    Gone::NotYet => None,
                };
                Ok(Change::Lost { why, left })
            }
            change = next(self.expiring.as_mut(), self.gone.is_some()) => change,
        }
    }
}

async fn next(expiring: Option<&mut Expiring>, lost: bool) -> io::Result<Change> {
    match expiring {
        Some(expiring) => expiring.next(lost).await,
        None => std::future::pending().await,
    }
}

impl Expiring {
    async fn next(&mut self, lost: bool) -> io::Result<Change> {
        loop {
            tokio::select! {
                biased;
                rung = self.alarm.ring() => {
                    rung?;
                    if let Some(change) = self.rung()? {
                        return Ok(change);
                    }
                }
                Ok(()) = self.tenure.changed(), if !lost => {
                    self.arm()?;
                    if self.tenure.borrow().trouble.is_none() {
                        return Ok(Change::Renewed);
                    }
                }
            }
        }
    }

    fn deadline(&self) -> Deadline {
        let Tenure { since, ttl, .. } = *self.tenure.borrow();
        Deadline::of(since, ttl, self.kill_after).earlier(self.killing)
    }

    fn arm(&self) -> io::Result<()> {
        let Deadline { soft, hard, .. } = self.deadline();
        let next = if self.told || self.continues { hard } else { soft };
        self.alarm.set(Some(next))
    }

    fn rung(&mut self) -> io::Result<Option<Change>> {
        let Deadline { soft, hard, .. } = self.deadline();
        let now = clock::now();
        if now >= hard && self.told && !self.continues {
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
        let why = trouble.map_or(Loss::NotRenewed, Loss::Store);
        Ok(Some(Change::Lost { why, left: None }))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;

    use tokio::sync::oneshot;

    use super::*;
    use crate::backends::{Error, Pending, Permit, StoreError};

    const TTL: Duration = Duration::from_millis(600);

    /// A lease whose renewals and loss a test decides. With a TTL below half a second of margin
    /// everything is due at once, so moments are moved by moving `since`.
    struct Lent {
        tenure: watch::Receiver<Tenure>,
        lost: oneshot::Receiver<()>,
    }

    impl Lease for Lent {
        fn permit(&self) -> &Permit {
            unreachable!("no test asks for it")
        }

        fn tenure(&self) -> Option<watch::Receiver<Tenure>> {
            Some(self.tenure.clone())
        }

        fn lost(&mut self) -> Pending<'_, Lost> {
            Box::pin(async {
                let _ = (&mut self.lost).await;
                Lost { why: Loss::ExpiredOrRevoked, gone: Gone::Before }
            })
        }

        fn inherit(&self) -> Option<BorrowedFd<'_>> {
            None
        }

        fn release(self: Box<Self>, _: Duration) -> Pending<'static, Result<(), Error>> {
            Box::pin(async { Ok(()) })
        }
    }

    /// Runs a test with a hold whose lease was renewed that long after now.
    fn hold<F: AsyncFnOnce(Hold<'_>, watch::Sender<Tenure>, oneshot::Sender<()>)>(
        ahead: Duration,
        continues: bool,
        test: F,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (sender, tenure) = watch::channel(renewed(ahead));
            let (loses, lost) = oneshot::channel();
            let mut lease = Lent { tenure, lost };
            let hold = Hold::new(&mut lease, None, continues).unwrap();
            test(hold, sender, loses).await;
        });
    }

    fn renewed(ahead: Duration) -> Tenure {
        Tenure { since: clock::now() + ahead, ttl: TTL, trouble: None }
    }

    /// What happens within a moment.
    async fn soon(hold: &mut Hold<'_>) -> Option<Change> {
        let next = tokio::time::timeout(Duration::from_millis(100), hold.next());
        next.await.ok().map(Result::unwrap)
    }

    const LATER: Duration = Duration::from_mins(1);

    #[test]
    fn a_lease_that_is_not_renewed_is_given_up_and_then_the_tree_has_to_be_dead() {
        hold(Duration::ZERO, false, async |mut hold, sender, _loses| {
            sender.send_modify(|tenure| tenure.trouble = Some(StoreError::Silent));
            // Both are due at once, as after the machine was suspended.
            let lost = Change::Lost { why: Loss::Store(StoreError::Silent), left: None };
            assert_eq!(soon(&mut hold).await, Some(lost));
            assert!(hold.is_too_late().await.is_some());
            assert_eq!(soon(&mut hold).await, Some(Change::Over));
            assert!(!is_over(hold.lease));
            tokio::time::sleep(TTL).await;
            assert!(is_over(hold.lease), "another client may have had it");
        });
    }

    #[test]
    fn a_renewal_moves_everything() {
        hold(LATER, false, async |mut hold, sender, _loses| {
            assert_eq!(hold.is_too_late().await, None);
            assert_eq!(soon(&mut hold).await, None);
            let before = hold.last();
            sender.send_replace(renewed(LATER * 2));
            assert_eq!(soon(&mut hold).await, Some(Change::Renewed));
            assert!(hold.last() > before);
            sender.send_modify(|tenure| tenure.trouble = Some(StoreError::Silent));
            assert_eq!(soon(&mut hold).await, None, "an attempt that failed is no renewal");
        });
    }

    #[test]
    fn a_permit_that_is_gone_is_said_once() {
        hold(LATER, false, async |mut hold, _sender, loses| {
            loses.send(()).unwrap();
            let lost = Change::Lost { why: Loss::ExpiredOrRevoked, left: Some(AT_ONCE) };
            assert_eq!(soon(&mut hold).await, Some(lost));
            assert_eq!(soon(&mut hold).await, None);
        });
    }

    #[test]
    fn a_command_that_goes_on_is_told_once_and_no_process_kills_it_or_spins() {
        hold(Duration::ZERO, true, async |mut hold, _sender, _loses| {
            assert_eq!(hold.last(), None);
            let lost = soon(&mut hold).await;
            assert!(matches!(lost, Some(Change::Lost { left: None, .. })), "{lost:?}");
            assert_eq!(soon(&mut hold).await, None);
        });
    }
}
