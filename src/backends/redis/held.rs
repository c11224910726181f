//! A permit in Redis while it is ours: renewed, lost or given back.

use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::script::{Call, Keys, Operation, Status};
use super::{HEARTBEAT, Shared};
use crate::backends::renewal::{self, Renewed};
use crate::backends::{Error, Lease, Lost, Pending, Permit, Tenure};

/// What is needed to keep a permit and to let it go.
pub(super) struct Grip {
    pub(super) shared: Rc<Shared>,
    pub(super) keys: Keys,
    pub(super) who: Rc<str>,
    pub(super) id: Uuid,
    pub(super) token: u64,
    /// What stands: a server that has forgotten it learns it from us.
    pub(super) in_force: Cell<(u32, Duration)>,
}

impl Grip {
    fn request(&self, operation: Operation) -> Call<'_> {
        let (limit, ttl) = self.in_force.get();
        Call {
            operation,
            id: self.id,
            limit,
            ttl,
            who: &self.who,
            ticket: 0,
            token: self.token,
            quarantine: self.shared.place.quarantine,
            window: HEARTBEAT,
            nonblock: false,
            strict: false,
        }
    }

    async fn renew(&self) -> Result<Renewed, String> {
        let answer = self.shared.connection.call(&self.keys, &self.request(Operation::Renew)).await;
        let reply = answer.map_err(|trouble| trouble.what)?;
        if reply.status != Status::Held {
            return Ok(Renewed::Lost(Lost::some_time_ago()));
        }
        self.in_force.set((reply.limit, reply.ttl));
        Ok(Renewed::For(reply.ttl))
    }
}

/// A permit of this backend.
pub(super) struct Held {
    permit: Permit,
    tenure: watch::Receiver<Tenure>,
    grip: Rc<Grip>,
    renewing: Pending<'static, Lost>,
}

impl Held {
    pub(super) fn new(permit: Permit, tenure: Tenure, grip: Grip) -> Self {
        let (sender, tenure) = watch::channel(tenure);
        let grip = Rc::new(grip);
        let renewing = {
            let grip = Rc::clone(&grip);
            Box::pin(async move {
                let attempt = || -> Pending<'_, _> { Box::pin(grip.renew()) };
                renewal::keep(grip.id, sender, &Notify::new(), attempt).await
            })
        };
        Self { permit, tenure, grip, renewing }
    }
}

impl Lease for Held {
    fn permit(&self) -> &Permit {
        &self.permit
    }

    fn tenure(&self) -> Option<watch::Receiver<Tenure>> {
        Some(self.tenure.clone())
    }

    fn lost(&mut self) -> Pending<'_, Lost> {
        Box::pin(self.renewing.as_mut())
    }

    fn inherit(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn release(self: Box<Self>, patience: Duration) -> Pending<'static, Result<(), Error>> {
        Box::pin(async move {
            let Self { grip, renewing, tenure, permit } = *self;
            drop(renewing);
            let released =
                grip.shared.withdraw(&grip.keys, &grip.request(Operation::Release), patience).await;
            released.map_err(|trouble| {
                let doing = tenure.borrow().giving_back(&permit);
                grip.shared.error(&doing, trouble)
            })
        })
    }
}
