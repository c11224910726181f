//! What all requests to one Redis share: where it is, the connection, and how errors name it.

use std::time::Duration;

use redis::{Cmd, Value, cmd};

use super::connection::{Connection, optional};
use super::examine::Info;
use super::place::Place;
use super::script::{Call, Keys};
use crate::backends::retry::{Patience, patiently};
use crate::backends::{Attempt, Error, Name, Snapshot, StoreError};

/// A waiter asks again at least as often, so that others see that it lives.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(5);

/// A Redis as its users here see it.
pub(super) struct Shared {
    pub(super) place: Place,
    pub(super) shown: String,
    pub(super) connection: Connection,
}

impl Shared {
    pub(super) fn error(&self, attempt: Attempt, error: StoreError) -> Error {
        error.while_doing(&self.shown, attempt)
    }

    /// The question to a server before a permit of it is used; none: any answer would do.
    pub(super) fn condition(&self) -> Option<Cmd> {
        let mut question = cmd("INFO");
        question.arg("memory");
        (!self.place.allow_eviction).then_some(question)
    }

    /// A server that evicts keys loses permits.
    pub(super) fn check_eviction(info: Value) -> Result<(), StoreError> {
        // If INFO is refused, the script finds the same, and the user is told once.
        let info = optional(info).map(Info::new);
        let Some(policy) = info.as_ref().and_then(Info::evicts) else { return Ok(()) };
        Err(StoreError::Evicts { policy: policy.into() })
    }

    pub(super) async fn look(&self, name: &Name) -> Result<Snapshot, StoreError> {
        let keys = Keys::new(&self.place.prefix, name);
        self.connection.look(&keys, name, &self.place).await
    }

    /// The same of one among many. The server answers, so an error concerns this one alone, and
    /// must not hide the others.
    pub(super) async fn look_among(
        &self,
        name: &Name,
        patience: &mut Patience,
    ) -> Result<Snapshot, Error> {
        let looked = patience.with(async || match self.look(name).await {
            Err(error) if !error.is_away() => Ok(Snapshot::odd(name, error)),
            looked => looked,
        });
        looked.await.map_err(|error| self.error(Attempt::Look(name.clone()), error))
    }

    /// The same in one round trip.
    pub(super) async fn look_at_each(&self, names: &[Name]) -> Result<Vec<Snapshot>, StoreError> {
        let keys: Vec<_> = names.iter().map(|name| Keys::new(&self.place.prefix, name)).collect();
        self.connection.look_at_each(&keys, names, &self.place).await
    }

    /// Releases until it is known to be done, or `patience` is over.
    pub(super) async fn withdraw(
        &self,
        keys: &Keys,
        call: &Call<'_>,
        patience: Duration,
    ) -> Result<(), StoreError> {
        patiently(patience, async || self.connection.call(keys, call).await).await?;
        Ok(())
    }
}
