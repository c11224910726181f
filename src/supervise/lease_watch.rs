//! A permit while its command runs: whether it is still ours, and by when the command has to be
//! gone if it cannot be kept. `lease_deadlines.rs` has the arithmetic.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use tokio::sync::watch;

use super::lease_deadlines::{self, Deadline};
use crate::clock::{self, Alarm, Moment, if_any};
use crate::permits::{Lease, Loss, LossReason, LossStage, Validity};

/// How long a command has to end when another client may have its permit already.
const AT_ONCE: Duration = Duration::from_secs(2);

pub(crate) struct LeaseWatch<'a> {
    lease: &'a mut dyn Lease,
    expiring: Option<ExpiringLease>,
    /// What the backend said of a permit that is lost, or soon will be.
    lost: Option<LossStage>,
}

/// A lease that ends unless it is renewed.
struct ExpiringLease {
    validity: watch::Receiver<Validity>,
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
    let Validity { since, ttl, .. } = *lease.validity()?.borrow();
    Some(Deadline::of(since, ttl, kill_after).last)
}

/// Whether the lease was over before it could be renewed. A worker that was stopped for so long may
/// hear of its command's end first.
pub(crate) fn is_over(lease: &dyn Lease) -> bool {
    lease.validity().is_some_and(|validity| {
        let Validity { since, ttl, .. } = *validity.borrow();
        clock::now() >= since + ttl
    })
}

/// What happened to the permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LeaseEvent {
    /// It was renewed.
    Renewed,
    /// It is lost, or has to count as lost, because of this. At most that much time is left.
    Lost { why: LossReason, left: Option<Duration> },
    /// The whole tree has to be dead.
    Over,
}

impl<'a> LeaseWatch<'a> {
    pub(crate) fn new(
        lease: &'a mut dyn Lease,
        kill_after: Option<Duration>,
        continues: bool,
    ) -> io::Result<Self> {
        let expiring = match lease.validity() {
            None => None,
            Some(validity) => Some(ExpiringLease {
                validity,
                alarm: Alarm::new()?,
                kill_after,
                continues,
                told: false,
                killing: Duration::ZERO,
            }),
        };
        let lease_watch = Self { lease, expiring, lost: None };
        if let Some(expiring) = &lease_watch.expiring {
            expiring.arm_timer()?;
        }
        Ok(lease_watch)
    }

    pub(crate) fn inherit(&self) -> Option<BorrowedFd<'_>> {
        self.lease.inherited_fd()
    }

    /// By when the whole tree has to be dead, whichever process kills it. None: never.
    pub(crate) fn last(&self) -> Option<Moment> {
        let expiring = self.expiring.as_ref().filter(|expiring| !expiring.continues)?;
        Some(expiring.deadline().last)
    }

    /// Until when the permit is certainly ours: for so long from that moment. None: it cannot expire.
    pub(crate) fn validity(&self) -> Option<(Moment, Duration)> {
        let Validity { since, ttl, .. } = *self.expiring.as_ref()?.validity.borrow();
        Some((since, ttl))
    }

    /// Brings the deadlines forward for a tree that has so many processes.
    pub(crate) fn make_room(&mut self, processes: usize) -> io::Result<()> {
        if let Some(expiring) = &mut self.expiring {
            let killing = lease_deadlines::killing(processes);
            if killing != std::mem::replace(&mut expiring.killing, killing) {
                expiring.arm_timer()?;
            }
        }
        Ok(())
    }

    /// Why it is too late to start anything under the permit, if it is: another client may hold it.
    pub(crate) async fn is_too_late(&mut self) -> Option<LossReason> {
        if self.expiring.as_ref().is_some_and(|expiring| clock::now() >= expiring.deadline().soft) {
            return Some(LossReason::HeldUp);
        }
        tokio::select! {
            biased;
            lost = self.lease.lost() => Some(lost.reason),
            () = std::future::ready(()) => None,
        }
    }

    /// Renews the permit until something happens to it. Cancel-safe.
    pub(crate) async fn next(&mut self) -> io::Result<LeaseEvent> {
        tokio::select! {
            biased;
            Loss { reason, stage } = self.lease.lost(), if matches!(self.lost, None | Some(LossStage::Revoking)) => {
                self.lost = Some(stage);
                if let Some(expiring) = &mut self.expiring {
                    expiring.told = true;
                }
                let left = match stage {
                    LossStage::Now => Some(Duration::ZERO),
                    LossStage::Before => Some(AT_ONCE),
                    LossStage::Revoking => None,
                };
                Ok(LeaseEvent::Lost { why: reason, left })
            }
            change = if_any(self.expiring.as_mut().map(|one| one.next(self.lost.is_some()))) => change,
        }
    }
}

impl ExpiringLease {
    async fn next(&mut self, lost: bool) -> io::Result<LeaseEvent> {
        loop {
            tokio::select! {
                biased;
                rung = self.alarm.wait() => {
                    rung?;
                    if let Some(change) = self.on_timer()? {
                        return Ok(change);
                    }
                }
                Ok(()) = self.validity.changed(), if !lost => {
                    self.arm_timer()?;
                    if self.validity.borrow().error.is_none() {
                        return Ok(LeaseEvent::Renewed);
                    }
                }
            }
        }
    }

    fn deadline(&self) -> Deadline {
        let Validity { since, ttl, .. } = *self.validity.borrow();
        Deadline::of(since, ttl, self.kill_after).earlier(self.killing)
    }

    fn arm_timer(&self) -> io::Result<()> {
        let Deadline { soft, hard, .. } = self.deadline();
        let next = if self.told || self.continues { hard } else { soft };
        self.alarm.set(Some(next))
    }

    fn on_timer(&mut self) -> io::Result<Option<LeaseEvent>> {
        let Deadline { soft, hard, .. } = self.deadline();
        let now = clock::now();
        if now >= hard && self.told && !self.continues {
            return Ok(Some(LeaseEvent::Over));
        }
        if self.told && self.continues {
            return Ok(None);
        }
        let due = if self.continues { hard } else { soft };
        if self.told || now < due {
            self.arm_timer()?;
            return Ok(None);
        }
        self.told = true;
        self.arm_timer()?;
        let error = self.validity.borrow().error.clone();
        let why = error.map_or(LossReason::NotRenewed, LossReason::Store);
        Ok(Some(LeaseEvent::Lost { why, left: None }))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;

    use tokio::sync::oneshot;

    use super::*;
    use crate::permits::{BackendError, BoxFuture, PermitId, StoreError};

    const TTL: Duration = Duration::from_millis(600);

    /// A lease whose renewals and loss a test decides. With a TTL below half a second of margin
    /// everything is due at once, so moments are moved by moving `since`.
    struct TestLease {
        validity: watch::Receiver<Validity>,
        lost: oneshot::Receiver<()>,
    }

    impl Lease for TestLease {
        fn permit(&self) -> &PermitId {
            unreachable!("no test asks for it")
        }

        fn validity(&self) -> Option<watch::Receiver<Validity>> {
            Some(self.validity.clone())
        }

        fn lost(&mut self) -> BoxFuture<'_, Loss> {
            Box::pin(async {
                let _ = (&mut self.lost).await;
                Loss { reason: LossReason::ExpiredOrRevoked, stage: LossStage::Before }
            })
        }

        fn inherited_fd(&self) -> Option<BorrowedFd<'_>> {
            None
        }

        fn release(self: Box<Self>, _: Duration) -> BoxFuture<'static, Result<(), BackendError>> {
            Box::pin(async { Ok(()) })
        }
    }

    /// Runs a test with a hold whose lease was renewed that long after now.
    fn lease_watch<F: AsyncFnOnce(LeaseWatch<'_>, watch::Sender<Validity>, oneshot::Sender<()>)>(
        ahead: Duration,
        continues: bool,
        test: F,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (sender, validity) = watch::channel(renewed(ahead));
            let (loses, lost) = oneshot::channel();
            let mut lease = TestLease { validity, lost };
            let lease_watch = LeaseWatch::new(&mut lease, None, continues).unwrap();
            test(lease_watch, sender, loses).await;
        });
    }

    fn renewed(ahead: Duration) -> Validity {
        Validity { since: clock::now() + ahead, ttl: TTL, error: None }
    }

    /// What happens within a moment.
    async fn soon(lease_watch: &mut LeaseWatch<'_>) -> Option<LeaseEvent> {
        let next = tokio::time::timeout(Duration::from_millis(100), lease_watch.next());
        next.await.ok().map(Result::unwrap)
    }

    const LATER: Duration = Duration::from_mins(1);

    #[test]
    fn a_lease_that_is_not_renewed_is_given_up_and_then_the_tree_has_to_be_dead() {
        lease_watch(Duration::ZERO, false, async |mut lease_watch, sender, _loses| {
            sender.send_modify(|validity| validity.error = Some(StoreError::Silent));
            // Both are due at once, as after the machine was suspended.
            let lost = LeaseEvent::Lost { why: LossReason::Store(StoreError::Silent), left: None };
            assert_eq!(soon(&mut lease_watch).await, Some(lost));
            assert!(lease_watch.is_too_late().await.is_some());
            assert_eq!(soon(&mut lease_watch).await, Some(LeaseEvent::Over));
            assert!(!is_over(lease_watch.lease));
            tokio::time::sleep(TTL).await;
            assert!(is_over(lease_watch.lease), "another client may have had it");
        });
    }

    #[test]
    fn a_renewal_moves_everything() {
        lease_watch(LATER, false, async |mut lease_watch, sender, _loses| {
            assert_eq!(lease_watch.is_too_late().await, None);
            assert_eq!(soon(&mut lease_watch).await, None);
            let before = lease_watch.last();
            sender.send_replace(renewed(LATER * 2));
            assert_eq!(soon(&mut lease_watch).await, Some(LeaseEvent::Renewed));
            assert!(lease_watch.last() > before);
            sender.send_modify(|validity| validity.error = Some(StoreError::Silent));
            assert_eq!(soon(&mut lease_watch).await, None, "an attempt that failed is no renewal");
        });
    }

    #[test]
    fn a_permit_that_is_gone_is_said_once() {
        lease_watch(LATER, false, async |mut lease_watch, _sender, loses| {
            loses.send(()).unwrap();
            let lost = LeaseEvent::Lost { why: LossReason::ExpiredOrRevoked, left: Some(AT_ONCE) };
            assert_eq!(soon(&mut lease_watch).await, Some(lost));
            assert_eq!(soon(&mut lease_watch).await, None);
        });
    }

    #[test]
    fn a_command_that_goes_on_is_told_once_and_no_process_kills_it_or_spins() {
        lease_watch(Duration::ZERO, true, async |mut lease_watch, _sender, _loses| {
            assert_eq!(lease_watch.last(), None);
            let lost = soon(&mut lease_watch).await;
            assert!(matches!(lost, Some(LeaseEvent::Lost { left: None, .. })), "{lost:?}");
            assert_eq!(soon(&mut lease_watch).await, None);
        });
    }
}
