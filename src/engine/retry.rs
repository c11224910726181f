//! Retries and their backoff, for every backend that has a server.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::permits::StoreError;

/// How long a first request is retried while the server cannot be reached.
pub(crate) const RETRY_FOR: Duration = Duration::from_secs(5);

/// How long connecting, or one attempt, may take.
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// One attempt, which is dropped when its time is over.
pub(crate) async fn with_timeout<T>(
    time: Duration,
    attempt: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match timeout(time, attempt).await {
        Ok(done) => done,
        Err(_elapsed) => Err(StoreError::Silent),
    }
}

/// Retries an attempt until it succeeds, fails for good, or its time is over.
pub(crate) async fn with_retries<T, F: Future<Output = Result<T, StoreError>>>(
    patience: Duration,
    mut attempt: impl FnMut() -> F,
) -> Result<T, StoreError> {
    let give_up = Instant::now() + patience;
    let mut backoff = Backoff::new();
    let mut before = PreviousError::default();
    loop {
        let left = give_up.saturating_duration_since(Instant::now());
        let time = ATTEMPT_TIMEOUT.min(left);
        let error = match with_timeout(time, attempt()).await {
            Ok(done) => return Ok(done),
            Err(error) => before.or(error, time),
        };
        if error.is_permanent() || !backoff.sleep_before(give_up).await {
            return Err(error);
        }
    }
}

/// For a client that asks many things one after the other. It bounds the retries of all of them
/// together, so that a server that answers every other time does not keep us for ever.
pub(crate) struct RetryBudget(Duration);

impl RetryBudget {
    pub(crate) fn new() -> Self {
        Self(RETRY_FOR)
    }

    /// As [`with_retries`]; once the patience is used up, with one attempt.
    pub(crate) async fn with<T, F: Future<Output = Result<T, StoreError>>>(
        &mut self,
        attempt: impl FnMut() -> F,
    ) -> Result<T, StoreError> {
        // The time that a first attempt may take for free.
        const FREE: Duration = Duration::from_millis(50);
        let mut attempt = attempt;
        if self.0.is_zero() {
            return with_timeout(ATTEMPT_TIMEOUT, attempt()).await;
        }
        let began = Instant::now();
        let done = with_retries(self.0.max(ATTEMPT_TIMEOUT), attempt).await;
        self.0 = self.0.saturating_sub(began.elapsed().saturating_sub(FREE));
        done
    }
}

/// What was wrong with the attempts before, since the last one that succeeded.
#[derive(Default)]
pub(crate) struct PreviousError(Option<StoreError>);

impl PreviousError {
    /// Whether there were any. A connection that was cut and is back at once is not reported.
    pub(crate) fn any(&self) -> bool {
        self.0.is_some()
    }

    /// What is wrong now; an attempt that had no time to find that out has what was before.
    pub(crate) fn or(&mut self, error: StoreError, time: Duration) -> StoreError {
        if time < ATTEMPT_TIMEOUT
            && error == StoreError::Silent
            && let Some(before) = &self.0
        {
            return before.clone();
        }
        self.0 = Some(error.clone());
        error
    }
}

/// The backoff between two attempts.
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: Duration::from_millis(100) }
    }

    pub(crate) async fn sleep(&mut self) {
        sleep(self.next).await;
        self.next = (self.next * 2).min(Duration::from_millis(800));
    }

    /// The same for a waiter, which retries for ever once it is queued, and until `give_up` before
    /// that.
    pub(crate) async fn sleep_while(&mut self, queued: bool, give_up: Instant) -> bool {
        if queued {
            self.sleep().await;
            return true;
        }
        self.sleep_before(give_up).await
    }

    /// The same where there is an end to it. False: it is not worth another attempt.
    pub(crate) async fn sleep_before(&mut self, give_up: Instant) -> bool {
        const SHORTEST_ATTEMPT: Duration = Duration::from_millis(50);
        let left = give_up.saturating_duration_since(Instant::now());
        if left < SHORTEST_ATTEMPT {
            return false;
        }
        // Half of what is left, so that an attempt is made also near the end.
        self.next = self.next.min(left / 2);
        self.sleep().await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_tried_for_as_long_as_it_was_said() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let started = Instant::now();
            let mut last = Duration::ZERO;
            let failed: Result<(), _> = with_retries(RETRY_FOR, || {
                last = started.elapsed();
                std::future::ready(Err(StoreError::Silent))
            })
            .await;
            assert_eq!(failed, Err(StoreError::Silent));
            assert!(last > RETRY_FOR * 9 / 10 && started.elapsed() <= RETRY_FOR, "{last:?}");
        });
    }
}
