//! A permit that expires unless it is renewed, whichever server it is from.

use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;

use super::{Error, Gone, Lease, Lost, Pending, Permit, StoreError, Tenure};

/// What a server's client does to keep such a permit, and to let it go.
pub(super) trait Grip {
    /// Renews it, for ever. Returns once it is known to be lost.
    fn keep(self: Rc<Self>, tenure: watch::Sender<Tenure>) -> Pending<'static, Lost>;

    /// Returns once a permit that was revoked gently is revoked at once.
    fn watch_on(self: Rc<Self>) -> Pending<'static, Lost>;

    /// Gives it back; `patience` bounds how long that is tried.
    fn give_back(self: Rc<Self>, patience: Duration) -> Pending<'static, Result<(), StoreError>>;

    /// The server's URL, without secrets.
    fn shown(&self) -> &str;
}

pub(super) struct Leased<G> {
    permit: Permit,
    tenure: watch::Receiver<Tenure>,
    keeping: Pending<'static, Lost>,
    grip: Rc<G>,
}

impl<G: Grip> Leased<G> {
    pub(super) fn new(permit: Permit, tenure: Tenure, grip: G) -> Self {
        let (sender, tenure) = watch::channel(tenure);
        let grip = Rc::new(grip);
        Self { permit, tenure, keeping: Rc::clone(&grip).keep(sender), grip }
    }
}

impl<G: Grip + 'static> Lease for Leased<G> {
    fn permit(&self) -> &Permit {
        &self.permit
    }

    fn tenure(&self) -> Option<watch::Receiver<Tenure>> {
        Some(self.tenure.clone())
    }

    fn lost(&mut self) -> Pending<'_, Lost> {
        Box::pin(async {
            let lost = self.keeping.as_mut().await;
            self.keeping = match lost.gone {
                Gone::NotYet => Rc::clone(&self.grip).watch_on(),
                Gone::Now | Gone::Before => Box::pin(std::future::pending()),
            };
            lost
        })
    }

    fn inherit(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn release(self: Box<Self>, patience: Duration) -> Pending<'static, Result<(), Error>> {
        Box::pin(async move {
            let Self { permit, tenure, keeping, grip } = *self;
            drop(keeping);
            let released = Rc::clone(&grip).give_back(patience).await;
            released.map_err(|trouble| {
                trouble.while_doing(grip.shown(), tenure.borrow().giving_back(&permit))
            })
        })
    }
}
