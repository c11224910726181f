//! A permit in Redis while it is ours: renewed, lost or given back.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::script::{Call, Keys, Operation, Status};
use super::{HEARTBEAT, Shared};
use crate::backends::renewal::{self, Renewed};
use crate::backends::trouble::Trouble;
use crate::backends::{Lost, Pending, Tenure, leased};

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

impl leased::Grip for Grip {
    fn keep(self: Rc<Self>, tenure: watch::Sender<Tenure>) -> Pending<'static, Lost> {
        Box::pin(async move {
            let attempt = || -> Pending<'_, _> { Box::pin(self.renew()) };
            renewal::keep(self.id, tenure, &Notify::new(), attempt).await
        })
    }

    fn give_back(self: Rc<Self>, patience: Duration) -> Pending<'static, Result<(), Trouble>> {
        Box::pin(async move {
            self.shared.withdraw(&self.keys, &self.request(Operation::Release), patience).await
        })
    }

    fn shown(&self) -> &str {
        &self.shared.shown
    }
}
