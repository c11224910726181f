//! A permit of the local directory that outlives its process, and expires unless it is renewed.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::backends::{
    BackendError, BoxFuture, Lease, Loss, LossStage, PermitId, StoreError, Validity,
};

/// What a server's client does to keep such a permit, and to let it go.
pub(super) trait LeaseOps: Send + Sync {
    /// Renews it, for ever. Returns once it is known to be lost.
    fn renew_until_lost(
        self: Arc<Self>,
        tenure: watch::Sender<Validity>,
    ) -> BoxFuture<'static, Loss>;

    /// Returns once a permit that was revoked gently is revoked at once.
    fn until_forcibly_revoked(self: Arc<Self>) -> BoxFuture<'static, Loss>;

    /// Gives it back; `patience` bounds how long that is tried. `unused`: nothing keeps it then.
    fn release(
        self: Arc<Self>,
        unused: bool,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), StoreError>>;

    /// The server's URL, without secrets.
    fn shown(&self) -> &str;
}

pub(super) struct RenewingLease<G> {
    permit: PermitId,
    tenure: watch::Receiver<Validity>,
    keeping: BoxFuture<'static, Loss>,
    lease: Arc<G>,
}

impl<G: LeaseOps + 'static> RenewingLease<G> {
    pub(super) fn new(permit: PermitId, tenure: Validity, lease: G) -> Self {
        let (sender, tenure) = watch::channel(tenure);
        let lease = Arc::new(lease);
        Self { permit, tenure, keeping: Arc::clone(&lease).renew_until_lost(sender), lease }
    }

    async fn end(self: Box<Self>, unused: bool, patience: Duration) -> Result<(), BackendError> {
        let Self { permit, tenure, keeping, lease } = *self;
        drop(keeping);
        let released = Arc::clone(&lease).release(unused, patience).await;
        released.map_err(|error| {
            error.while_doing(lease.shown(), tenure.borrow().release_attempt(&permit))
        })
    }
}

impl<G: LeaseOps + 'static> Lease for RenewingLease<G> {
    fn permit(&self) -> &PermitId {
        &self.permit
    }

    fn validity(&self) -> Option<watch::Receiver<Validity>> {
        Some(self.tenure.clone())
    }

    fn lost(&mut self) -> BoxFuture<'_, Loss> {
        Box::pin(async {
            let lost = self.keeping.as_mut().await;
            self.keeping = match lost.stage {
                LossStage::Revoking => Arc::clone(&self.lease).until_forcibly_revoked(),
                LossStage::Now | LossStage::Before => Box::pin(std::future::pending()),
            };
            lost
        })
    }

    fn inherited_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn release(
        self: Box<Self>,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), BackendError>> {
        Box::pin(self.end(false, patience))
    }

    fn discard(
        self: Box<Self>,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), BackendError>> {
        Box::pin(self.end(true, patience))
    }
}
